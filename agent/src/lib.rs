//! The gnomon agent: captures, builds flow records, keeps slices, streams both to the collector.
//!
//! The modules stand in the order of the data path.

pub mod decode;
pub mod engine;
pub mod export;
pub mod heartbeat;
pub mod identity;
pub mod offline;
pub mod rules;
pub mod slicer;
pub mod spool;
pub mod table;
pub mod uplink;
pub mod worker;
