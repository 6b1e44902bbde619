//! The gnomon agent: captures, builds flow records, keeps slices, streams both to the collector.

pub mod export;
pub mod heartbeat;
pub mod identity;
pub mod spool;
pub mod uplink;
