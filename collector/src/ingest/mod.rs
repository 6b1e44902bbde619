//! From an agent's stream to the store: a session an agent, one committer for all.
//!
//! ```text
//! stream → session (reads, answers exchanges) → checker (entry → change) → committer (groups, one thread) → store
//!                                                  acknowledgements ←──────────────┘
//! ```
//! Memory is bounded by bytes: an entry takes its size out of its session's window and out of the collector's budget
//! before it is read on, and gives it back when it is durable. A full budget is not read past, which is the backpressure.

mod committer;
mod entry;
mod quarantine;
mod service;
mod session;
#[cfg(test)]
mod tests;

pub use committer::{CommitCounters, Committer, CommitterHandle};
pub use entry::{BadEntry, Checked};
pub use quarantine::Quarantine;
pub use service::{IngestService, Settings};
