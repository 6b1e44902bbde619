//! A clock beside which the clock of a NIC is played: for tests, which have no NIC that stamps.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicI64, Ordering};

use gnomon_clock::{Bracket, Clock, KernelClock, KernelStatus, MonoNs, RawNs};

/// The kernel's clocks, and a NIC that counts what `counts` says and can be set.
pub(crate) struct PlayedNic {
    pub(crate) counts: fn() -> i64,
    /// By how much it was set.
    pub(crate) set_ns: AtomicI64,
}

impl Clock for PlayedNic {
    fn raw(&self) -> RawNs {
        KernelClock.raw()
    }
    fn monotonic(&self) -> MonoNs {
        KernelClock.monotonic()
    }
    fn boottime(&self) -> MonoNs {
        KernelClock.boottime()
    }
    fn bracket(&self) -> Bracket {
        KernelClock.bracket()
    }
    fn kernel_status(&self) -> io::Result<KernelStatus> {
        KernelClock.kernel_status()
    }
    fn nic_ns(&self, _device: BorrowedFd<'_>) -> io::Result<i64> {
        Ok((self.counts)() + self.set_ns.load(Ordering::Relaxed))
    }
}
