//! Time that says how wrong it may be.
//!
//! Captured packets are stamped in [`RawNs`] (CLOCK_MONOTONIC_RAW) inside an [`EpochId`]; UTC is derived from them
//! by evidence ([`Fix`]) and never stands without its error ([`Estimate`]).

mod clock;
mod exchange;
mod gate;
mod kernel;
mod map;
mod state;
mod time;
mod timeline;

pub use clock::{Bracket, Clock, KernelStatus};
pub use exchange::{EXCHANGE_NS_MAX, ExchangeFilter, ExchangeRejected, ExchangeSample, RTT_NS_MAX};
pub use gate::{
    CollectorNow, PendingReason, Policy, PolicyMode, QuarantineReason, Verdict, decide, must_rekey,
    provable_disagreement_ns,
};
pub use kernel::KernelClock;
pub use map::{Authority, RATE_ERR_MAX_PPM, WANDER_PPM};
pub use state::{
    BOUNDED_ERR_NS_MAX, ClockState, HOLDOVER_AFTER_EXCHANGE_NS, HOLDOVER_AFTER_NS, SYNCED_ERR_NS_MAX,
    SYNCED_FIXES_MIN,
};
pub use time::{EpochId, Estimate, Fix, FixSource, MonoNs, RawNs, UtcNs};
pub use timeline::{Added, FIXES_MAX, Timeline};
