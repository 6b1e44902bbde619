//! The one door to the machine's clocks. No other crate reads a clock.

use std::io;
use std::os::fd::BorrowedFd;

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
    /// TIME_OOP: the clock repeats 23:59:59, so its readings are ambiguous by a second.
    pub in_leap_second: bool,
}

impl Bracket {
    /// The reading as a point of time, with the leap seconds that the kernel has seen and our table has not.
    ///
    /// A kernel that was told TAI − UTC (chronyd with `leapsectz`) knows it in full; one that was not counts the leap
    /// seconds since boot from 0.
    pub fn civil(&self, status: &KernelStatus) -> UtcNs {
        let table_s = (self.realtime.tai_ns() - self.realtime.unix_ns()) / 1_000_000_000;
        let kernel_s = i64::from(status.tai_offset_s);
        let unknown_s = if kernel_s < 10 { kernel_s } else { kernel_s - table_s };
        self.realtime.saturating_add_ns(unknown_s.clamp(0, 2) * 1_000_000_000)
    }
}

/// Everything gnomon asks of a clock. The kernel's clocks implement it, and so does the simulated kernel.
pub trait Clock: Send + Sync {
    fn raw(&self) -> RawNs;
    fn monotonic(&self) -> MonoNs;
    /// CLOCK_BOOTTIME: grows over CLOCK_MONOTONIC by the time spent suspended.
    fn boottime(&self) -> MonoNs;
    /// How long the machine was suspended since it was booted. The two clocks are read one after the other.
    fn suspended_ns(&self) -> u64 {
        let monotonic = self.monotonic();
        self.boottime().since(monotonic)
    }
    /// CLOCK_REALTIME between two RAW readings.
    fn bracket(&self) -> Bracket;
    /// # Errors
    /// EPERM where a sandbox forbids `adjtimex`.
    fn kernel_status(&self) -> io::Result<KernelStatus>;
    /// The clock of a NIC (an open `/dev/ptpN`) in nanoseconds of its own: of UTC or TAI it knows what it was told.
    ///
    /// # Errors
    /// What the driver says; Unsupported by clocks that are simulated.
    fn nic_ns(&self, _device: BorrowedFd<'_>) -> io::Result<i64> {
        Err(io::ErrorKind::Unsupported.into())
    }
}
