//! Time that says how wrong it may be.
//!
//! Captured packets are stamped in [`RawNs`] (CLOCK_MONOTONIC_RAW) inside an [`EpochId`]; UTC is derived from them
//! by evidence ([`Fix`]) and never stands without its error ([`Estimate`]).
//!
//! ```text
//! Clock ─┐
//! chronyd ┼─> Sampler ─┐
//! exchange ────────────┴─ Fix ─> Timeline (per epoch) ─ Estimate ─> decide (the gate)
//! ```
//! The agent's side is [`AgentClock`], [`StepWatch`] and [`DisruptionWatch`]; the collector's own clock is
//! [`CollectorClock`]. [`sim`] is a machine whose truth is known.

mod chrony;
mod chronyd;
mod clock;
mod collector_clock;
mod disruption;
mod exchange;
mod fleet_vote;
mod gate;
mod kernel;
mod map;
mod sampler;
pub mod sim;
mod state;
mod step;
mod time;
mod timeline;

pub use chrony::{
    ChronyAddress, ChronyClient, ChronyError, ChronyFixRejected, NtpDaemon, Tracking, chrony_fix,
};
pub use chronyd::Chronyd;
pub use clock::{Bracket, Clock, KernelStatus};
pub use collector_clock::{
    AgeUnusable, CollectorClock, CollectorState, FLEET_SILENCE_NS_MAX, NOTABLE_NS, Refreshed, Standing,
    UnprovenReason, between_epochs,
};
pub use disruption::{Disruption, DisruptionKind, DisruptionWatch, Markers, open_epoch};
pub use exchange::{EXCHANGE_NS_MAX, ExchangeFilter, ExchangeRejected, ExchangeSample, RTT_NS_MAX};
pub use fleet_vote::{AgentVote, FleetWord, Voter};
pub use gate::{
    CollectorNow, PendingReason, Policy, PolicyMode, QuarantineReason, Verdict, decide, must_rekey,
    provable_disagreement_ns,
};
pub use kernel::{KernelClock, KernelFixRejected, kernel_fix};
pub use map::{Authority, RATE_ERR_MAX_PPM, WANDER_PPM};
pub use sampler::{ChronyWord, Sampled, Sampler, timesyncd_runs};
pub use state::{
    AgentClock, BOUNDED_ERR_NS_MAX, ClockState, Due, HOLDOVER_AFTER_EXCHANGE_NS, HOLDOVER_AFTER_NS,
    SYNCED_ERR_NS_MAX, SYNCED_FIXES_MIN,
};
pub use step::{StepEvent, StepStop, StepWatch};
pub use time::{EpochId, Estimate, Fix, FixSource, MonoNs, RawNs, UtcNs};
pub use timeline::{Added, FIXES_MAX, Timeline};
