//! How far a walk has come, for who waits for its end.

use std::sync::atomic::{AtomicU64, Ordering};

/// Records that were looked at, of those that have to be: what blocks' summaries rule out is in neither number.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    read: AtomicU64,
    of: AtomicU64,
}

impl Progress {
    pub(super) fn begin(&self, of: u64) {
        self.of.store(of, Ordering::Relaxed);
    }

    pub(super) fn add(&self, read: u64) {
        self.read.fetch_add(read, Ordering::Relaxed);
    }

    /// Read, and to be read altogether.
    pub(crate) fn now(&self) -> (u64, u64) {
        let read = self.read.load(Ordering::Relaxed);
        (read, self.of.load(Ordering::Relaxed).max(read))
    }
}
