//! The gnomon agent: captures, builds flow records, keeps slices, streams both to the collector.

pub mod export;
pub mod spool;
