//! Waits until the kernel has finished what it was doing when somebody asked: an RCU grace period, by membarrier(2).
//!
//! A frame is written into an AF_PACKET ring inside an RCU read-side section. Once a grace period has passed, every frame
//! whose place was reserved before it is complete, with all stores visible here. One thread of the process waits for grace
//! periods (about 10 to 30 ms each), so that no capture thread does.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::Thread;
use std::time::Duration;

use rustix::thread::{MembarrierCommand, MembarrierQuery, membarrier, membarrier_query};

/// After a failure that should not be: not at once again.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_millis(10);

/// A moment that somebody asked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Asked(u64);

/// The process's grace periods.
#[derive(Debug)]
pub(crate) struct GracePeriods {
    asked: AtomicU64,
    /// What was asked up to here is over.
    over: AtomicU64,
    thread: OnceLock<Thread>,
}

static SHARED: GracePeriods =
    GracePeriods { asked: AtomicU64::new(0), over: AtomicU64::new(0), thread: OnceLock::new() };
static WORKS: OnceLock<bool> = OnceLock::new();

impl GracePeriods {
    /// None where the kernel does not offer them (nohz_full, a sandbox).
    pub(crate) fn shared() -> Option<&'static GracePeriods> {
        WORKS.get_or_init(|| SHARED.start()).then_some(&SHARED)
    }

    fn start(&'static self) -> bool {
        // Asked for once: with nohz_full the kernel lists the command and refuses it.
        if !membarrier_query().contains(MembarrierQuery::GLOBAL)
            || membarrier(MembarrierCommand::Global).is_err()
        {
            return false;
        }
        let thread = std::thread::Builder::new().name("grace-periods".into()).spawn(|| self.run());
        thread.is_ok_and(|thread| self.thread.set(thread.thread().clone()).is_ok())
    }

    fn run(&self) {
        loop {
            let asked = self.asked.load(Ordering::Acquire);
            if self.over.load(Ordering::Relaxed) == asked {
                // Whoever asks in between has left a token: this returns at once then.
                std::thread::park();
            } else if membarrier(MembarrierCommand::Global).is_ok() {
                self.over.store(asked, Ordering::Release);
            } else {
                std::thread::sleep(PAUSE_AFTER_FAILURE);
            }
        }
    }

    /// Begins to wait for what the kernel is doing now.
    pub(crate) fn ask(&self) -> Asked {
        let asked = Asked(self.asked.fetch_add(1, Ordering::AcqRel) + 1);
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
        asked
    }

    /// Whether it has finished that.
    pub(crate) fn are_over(&self, asked: Asked) -> bool {
        self.over.load(Ordering::Acquire) >= asked.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_asked_is_over_soon_and_not_before() {
        let Some(periods) = GracePeriods::shared() else {
            println!("SKIPPED: this kernel offers no grace periods");
            return;
        };
        for _ in 0..3 {
            let first = periods.ask();
            let second = periods.ask();
            let mut waited = 0;
            while !periods.are_over(second) {
                std::thread::sleep(Duration::from_millis(1));
                waited += 1;
                assert!(waited < 10_000, "no grace period within 10 s");
            }
            assert!(periods.are_over(first));
        }
    }
}
