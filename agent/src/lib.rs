//! The gnomon agent: captures, builds flow records, keeps slices, streams both to the collector.
//!
//! In the order below: what wires it, from frame to export, the way out, and what it says of itself.

pub mod cli;
pub mod config;
pub mod pipeline;

pub mod alerts;
pub mod capture_set;
pub mod decode;
pub mod engine;
pub mod export;
pub mod feed;
pub mod fragments;
mod freed_memory;
pub mod inspect;
pub mod offline;
mod output;
pub mod own_streams;
pub mod reload;
pub mod roster;
pub mod rules;
pub mod selection;
pub mod slicer;
pub mod table;
pub mod worker;

pub mod spool;
pub mod timekeeper;
pub mod uplink;

pub mod heartbeat;
pub mod identity;
pub mod metrics;
mod private;
