//! Memory that a flood took is given back: when few flows are left for a while, those at the end of the table move to free places
//! near its beginning, and the pages behind them go back to the kernel.
//!
//! In steps, each between two batches and of at most [`STEP_ENTRIES`] entries: about a millisecond.

use gnomon_capture::memory;
use gnomon_clock::RawNs;

use super::Table;

/// A table this small is left as it is: about 7 MB.
pub(super) const KEPT_ENTRIES: usize = 1 << 14;
/// Entries given back in one step.
pub(super) const STEP_ENTRIES: usize = 1 << 13;
/// For how long there must have been few flows: a flood that pauses would only be slower.
pub(super) const QUIET_NS: u64 = 5_000_000_000;
/// Few: one in so many entries.
const FEW: usize = 4;

impl Table {
    /// A batch is over and it is `now`. Does nothing, or one step; whether it did.
    pub(super) fn shrink_some(&mut self, now: RawNs) -> bool {
        let len = self.entries.len();
        if len <= KEPT_ENTRIES || self.stats.flows_active as usize * FEW > len {
            self.quiet_since = None;
            return false;
        }
        let since = *self.quiet_since.get_or_insert(now);
        if now.since(since) < QUIET_NS {
            return false;
        }
        let kept = len.saturating_sub(STEP_ENTRIES).max(KEPT_ENTRIES);
        self.free.retain(|at| (*at as usize) < kept);
        for at in kept..len {
            if self.entries[at].live {
                // Of the entries that stay three in four are free.
                let Some(to) = self.free.pop() else { return false };
                self.relocate(at as u32, to);
            }
        }
        self.entries.truncate(kept);
        memory::give_back(&mut self.entries.spare_capacity_mut()[..len - kept]);
        self.wheel.truncate(kept);
        true
    }

    /// A flow moves to the place of an entry that is free.
    fn relocate(&mut self, from: u32, to: u32) {
        let hash = self.hasher.hash(&self.entries[from as usize].key);
        self.index.remove(hash, from);
        self.wheel.cancel(from);
        self.entries.swap(from as usize, to as usize);
        self.index.insert(hash, to);
        self.wheel.schedule(to, self.entries[to as usize].timer);
    }
}
