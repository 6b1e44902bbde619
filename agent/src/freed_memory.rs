//! What a flood left in the allocator goes back to the kernel once it is over.
//!
//! Records, messages and segments are many small allocations, made on one thread and often freed on another; the allocator keeps
//! what is freed. It is asked to give that back when the flows have become few, not while they are many.

use gnomon_capture::memory;
use gnomon_clock::MonoNs;

use crate::heartbeat::{Board, resident_bytes};

/// Between two looks.
const LOOK_NS: u64 = 5_000_000_000;
/// Growth that is worth it.
const GROWN_BYTES_MIN: u64 = 16 << 20;
/// The flows are few when there were this many times as many.
const FEWER: u64 = 4;

#[derive(Debug, Default)]
pub(crate) struct Memory {
    looked_at: MonoNs,
    /// The most flows seen since memory was given back.
    flows_most: u64,
    /// Resident memory after the last time.
    least_bytes: u64,
    /// Tables shrink in steps after the flows have ended: looked at until nothing more is won.
    is_over: bool,
}

impl Memory {
    pub(crate) fn look(&mut self, now: MonoNs, board: &Board) {
        if now.since(self.looked_at) < LOOK_NS {
            return;
        }
        self.looked_at = now;
        let flows = board.report().iter().map(|report| report.counts.flows_active).sum::<u64>();
        self.flows_most = self.flows_most.max(flows);
        if flows > self.flows_most / FEWER {
            self.is_over = false;
            return;
        }
        let resident = resident_bytes();
        if self.is_over && resident < self.least_bytes.saturating_add(GROWN_BYTES_MIN) {
            return;
        }
        memory::trim_heap();
        let left = resident_bytes();
        tracing::debug!(before = resident, after = left, "free memory given back");
        self.is_over = true;
        self.flows_most = flows;
        self.least_bytes = left;
    }
}
