//! The agent's clock: what it knows, in which state that puts it, and when to look again.

use crate::time::{Estimate, Fix, FixSource, RawNs};

/// How much an agent's time is worth. Capture runs in every one of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ClockState {
    /// No evidence yet: records are kept in RAW only.
    #[default]
    Cold,
    /// First evidence, not yet enough for [`ClockState::Synced`].
    Acquiring,
    /// Error at most 50 ms, by at least three fixes.
    Synced,
    /// No fix of late: the error grows with the uncertainty of the rate.
    Holdover,
    /// Error above 1 s.
    Unbounded,
    /// Sources contradict each other.
    Conflict,
}

/// Most that [`ClockState::Synced`] may be wrong.
pub const SYNCED_ERR_NS_MAX: u64 = 50_000_000;
/// More than this is [`ClockState::Unbounded`].
pub const BOUNDED_ERR_NS_MAX: u64 = 1_000_000_000;
/// Fixes that make [`ClockState::Synced`].
pub const SYNCED_FIXES_MIN: usize = 3;
/// Silence of a local source (sampled each second) that makes [`ClockState::Holdover`].
pub const HOLDOVER_AFTER_NS: u64 = 10_000_000_000;
/// The same for the exchange, of which there is one in about 16 s.
pub const HOLDOVER_AFTER_EXCHANGE_NS: u64 = 40_000_000_000;

impl ClockState {
    pub(crate) fn of(estimate: &Estimate, fixes: usize, newest: &Fix, raw: RawNs) -> ClockState {
        let silence_ns_max = match newest.source {
            FixSource::Collector => HOLDOVER_AFTER_EXCHANGE_NS,
            _ => HOLDOVER_AFTER_NS,
        };
        if estimate.conflict {
            ClockState::Conflict
        } else if estimate.err_ns > BOUNDED_ERR_NS_MAX {
            ClockState::Unbounded
        } else if raw.since(newest.raw) > silence_ns_max {
            ClockState::Holdover
        } else if estimate.err_ns <= SYNCED_ERR_NS_MAX && fixes >= SYNCED_FIXES_MIN {
            ClockState::Synced
        } else {
            ClockState::Acquiring
        }
    }

    /// One word for people.
    pub fn name(self) -> &'static str {
        match self {
            ClockState::Cold => "cold",
            ClockState::Acquiring => "acquiring",
            ClockState::Synced => "synced",
            ClockState::Holdover => "holdover",
            ClockState::Unbounded => "unbounded",
            ClockState::Conflict => "conflict",
        }
    }
}
