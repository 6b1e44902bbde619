//! From an agent's stream to the store: a session an agent, one committer for all.
//!
//! ```text
//! stream → session (reads, answers exchanges) → checker (entry → change) → committer (groups, one thread) → store
//!                                                  acknowledgements ←──────────────┘
//! ```
//! Memory is bounded by bytes: an entry takes its size out of its session's window, and what it says to decompress to out of
//! the collector's budget, before it is read on; and what its records take once they are read out of another (`reading.rs`).
//! All of it is given back when it is durable. A full budget is not read past, which is the backpressure. What a message may
//! hold at all is said in `gnomon_proto::limits`.

mod acks;
mod checker;
mod committer;
mod entry;
mod lanes;
mod ledger;
mod reading;
mod refusal;
mod service;
mod session;
#[cfg(test)]
mod tests;

pub use crate::store::Quarantine;
pub use committer::{CommitCounters, Committer, CommitterHandle};
pub use entry::{BadEntry, Checked};
pub use refusal::{Refusal, Refusals};
pub use service::{IngestService, Settings};
