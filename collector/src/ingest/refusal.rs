//! What was not taken from agents, by reason.

use std::sync::atomic::{AtomicU64, Ordering};

/// Why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// A message over a bound or out of its place: the session ended.
    Message,
    /// An entry whose number is too far ahead of what is durable.
    LedgerJump,
    /// A heartbeat that there is no room to remember.
    Heartbeat,
    /// An agent more than are known at once, all of them connected.
    Agent,
}

impl Refusal {
    const ALL: [(Refusal, &'static str); 4] = [
        (Refusal::Message, "message"),
        (Refusal::LedgerJump, "ledger_jump"),
        (Refusal::Heartbeat, "heartbeat"),
        (Refusal::Agent, "agent"),
    ];
}

/// How often, since the start.
#[derive(Debug, Default)]
pub struct Refusals([AtomicU64; Refusal::ALL.len()]);

impl Refusals {
    pub fn count(&self, refusal: Refusal) {
        if let Some(at) = Refusal::ALL.iter().position(|(known, _)| *known == refusal) {
            self.0[at].fetch_add(1, Ordering::Relaxed);
        }
    }

    /// By name, for metrics.
    pub fn named(&self) -> Vec<(&'static str, u64)> {
        let counts = self.0.iter().map(|count| count.load(Ordering::Relaxed));
        Refusal::ALL.iter().map(|(_, name)| *name).zip(counts).collect()
    }
}
