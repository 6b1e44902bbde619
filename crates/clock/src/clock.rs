//! The one door to the machine's clocks. No other crate reads a clock.

use std::io;

use crate::time::{MonoNs, RawNs, UtcNs};

/// A civil-time reading taken between two RAW readings, so that the two belong together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bracket {
    /// The middle of the two RAW readings.
    pub raw: RawNs,
    /// Half the distance between them: adds to the error of whatever was read inside.
    pub half_width_ns: u64,
    /// What the machine believes the time to be. Evidence of nothing by itself.
    pub realtime: UtcNs,
}

/// What `adjtimex(modes = 0)` says of the kernel's clock (needs no privilege).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KernelStatus {
    /// The kernel's `maxerror`: 16 s before the first synchronisation.
    pub max_error_ns: u64,
    /// ρ, the rate the kernel applies now, in parts per billion: freq + (tick − 10000) · 100 ppm.
    pub rho_ppb: i64,
    /// STA_UNSYNC. Not proof of anything: see TIME in ARCHITECTURE.md.
    pub unsync: bool,
    /// TAI − UTC as the kernel was told, or 0 when nobody told it.
    pub tai_offset_s: i32,
}

/// Everything gnomon asks of a clock. The kernel's clocks implement it, and so does the simulated kernel.
pub trait Clock: Send + Sync {
    fn raw(&self) -> RawNs;
    fn monotonic(&self) -> MonoNs;
    /// CLOCK_BOOTTIME: grows over CLOCK_MONOTONIC by the time spent suspended.
    fn boottime(&self) -> MonoNs;
    /// CLOCK_REALTIME between two RAW readings.
    fn bracket(&self) -> Bracket;
    /// # Errors
    /// EPERM where a sandbox forbids `adjtimex`.
    fn kernel_status(&self) -> io::Result<KernelStatus>;
}
