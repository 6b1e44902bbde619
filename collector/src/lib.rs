//! The gnomon collector: stores, indexes, answers, and keeps time honest.

// For the largest `json!` of the API's description.
#![recursion_limit = "256"]

pub mod api;
pub mod backup;
pub mod certificates;
pub mod certs;
pub mod cli;
pub mod clock_gate;
pub mod config;
pub mod enrich;
pub mod fleet;
pub mod ingest;
pub mod listen;
pub mod metrics;
pub mod output;
pub mod own_streams;
pub mod owners;
pub mod pipeline;
pub mod query;
pub mod store;
pub mod timekeeper;
pub mod tls;
pub mod verify;
