//! Time that says how wrong it may be.
//!
//! Captured packets are stamped in [`RawNs`] (CLOCK_MONOTONIC_RAW) inside an [`EpochId`]; UTC is derived from them
//! by evidence ([`Fix`]) and never stands without its error ([`Estimate`]).

mod clock;
mod kernel;
mod time;

pub use clock::{Bracket, Clock, KernelStatus};
pub use kernel::KernelClock;
pub use time::{EpochId, Estimate, Fix, FixSource, MonoNs, RawNs, UtcNs};
