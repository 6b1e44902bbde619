//! The gnomon agent: captures, builds flow records, keeps slices, streams both to the collector.

pub mod decode;
pub mod engine;
pub mod export;
pub mod inspect;
pub mod offline;
pub mod rules;
pub mod slicer;
pub mod table;
pub mod worker;
