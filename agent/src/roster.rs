//! The capture threads that run now, for the threads that have to reach them: the writer, the watchdog, and what opens epochs.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use gnomon_clock::{EpochId, MonoNs};

use crate::export::{Export, Exported, PacketBlock};
use crate::identity::CurrentEpoch;

/// How one capture thread is reached. Neither queue grows: there are as many blocks as a worker has buffers, and an epoch a
/// second at most.
#[derive(Debug)]
pub struct Running {
    pub epochs: Sender<EpochId>,
    /// Where its written blocks go back to.
    pub blocks: Sender<PacketBlock>,
    /// Its hand-overs that were written.
    pub written: Arc<AtomicU64>,
    /// Monotonic time of its last batch.
    pub alive_ns: Arc<AtomicU64>,
}

/// Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Roster(Arc<Mutex<BTreeMap<u8, Running>>>);

impl Roster {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<u8, Running>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A thread begins. The epoch that it begins with: of a later one it is told.
    pub fn add(&self, worker: u8, running: Running, current: &CurrentEpoch) -> EpochId {
        let mut running_now = self.lock();
        running_now.insert(worker, running);
        current.get()
    }

    pub fn remove(&self, worker: u8) {
        self.lock().remove(&worker);
    }

    /// All threads end their flows, and what follows belongs to `epoch`.
    pub fn open_epoch(&self, epoch: EpochId, current: &CurrentEpoch) {
        let running = self.lock();
        for one in running.values() {
            // One that has ended has no flows.
            let _ = one.epochs.send(epoch);
        }
        current.set(epoch);
    }

    /// A hand-over was written.
    pub fn written(&self, export: Export) {
        let running = self.lock();
        let Some(one) = running.get(&export.worker) else { return };
        one.written.fetch_add(1, Ordering::Relaxed);
        if let Exported::Packets(block) = export.body {
            let _ = one.blocks.send(block);
        }
    }

    /// Whether each thread has gone round less than `stuck` before `now`.
    pub fn all_alive(&self, now: MonoNs, stuck: Duration) -> bool {
        let fresh = |one: &Running| {
            Duration::from_nanos(now.since(MonoNs(one.alive_ns.load(Ordering::Relaxed)))) < stuck
        };
        self.lock().values().all(fresh)
    }
}
