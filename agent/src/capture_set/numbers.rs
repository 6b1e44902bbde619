//! The numbers of workers: each is in use once at a time, and goes on numbering flows where it stopped.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::config::WORKERS_MAX;
use crate::roster::Roster;
use crate::worker::WorkerCounters;

/// Which numbers workers have.
pub(super) struct Numbers {
    /// Flows that each number has named so far; `None` for one whose thread did not end as it should.
    flows: Vec<Option<u64>>,
    used: BTreeSet<u8>,
    /// Numbers of threads that ended, until all they handed over is written.
    resting: Vec<(u8, Arc<WorkerCounters>, Arc<AtomicU64>)>,
}

impl Default for Numbers {
    fn default() -> Numbers {
        Numbers { flows: vec![Some(0); WORKERS_MAX], used: BTreeSet::new(), resting: Vec::new() }
    }
}

impl Numbers {
    /// A free number, and how many flows it has named.
    pub(super) fn take(&mut self) -> Option<(u8, u64)> {
        let free = |number: &u8| !self.used.contains(number) && self.flows[usize::from(*number)].is_some();
        let number = (0..=u8::MAX).find(free)?;
        self.used.insert(number);
        Some((number, self.flows[usize::from(number)].unwrap_or(0)))
    }

    /// A thread ended.
    pub(super) fn rest(&mut self, number: u8, counters: &Arc<WorkerCounters>, written: &Arc<AtomicU64>) {
        if let Some(flows) = &mut self.flows[usize::from(number)] {
            *flows += counters.flows_made.load(Ordering::Relaxed);
        }
        self.resting.push((number, counters.clone(), written.clone()));
    }

    /// A number that no thread got after all.
    pub(super) fn give_back(&mut self, number: u8) {
        self.used.remove(&number);
    }

    /// Nobody knows how many flows it has named.
    pub(super) fn retire(&mut self, number: u8) {
        self.flows[usize::from(number)] = None;
    }

    /// Those whose hand-overs are all written are free again.
    pub(super) fn free_rested(&mut self, roster: &Roster) {
        self.resting.retain(|(number, counters, written)| {
            let waits = written.load(Ordering::Relaxed) < counters.exports.load(Ordering::Relaxed);
            if !waits {
                roster.remove(*number);
                self.used.remove(number);
            }
            waits
        });
    }
}
