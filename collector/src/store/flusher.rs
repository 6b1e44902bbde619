//! What is *settled*: in table files of the database, and so beyond what damage of its log can take. Agents keep
//! acknowledged entries until they are settled, and send them again when the store turns out to lack them.
//!
//! The writer says what it made durable; a thread of its own writes everything from memory to files every so often.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use gnomon_clock::MonoNs;
use gnomon_flow::EpochHash;
use tokio::sync::watch;

use super::Shared;

/// What was acknowledged is settled after so long at most, with the time that writing takes.
const UNSETTLED_NS_MAX: u64 = 20_000_000_000;
/// Bytes that are not settled, about; agents keep as much on their disks.
const UNSETTLED_BYTES_MAX: u64 = 64 << 20;
/// Between two writings, however much comes in: each makes files.
const BETWEEN_NS: u64 = 5_000_000_000;
/// Between looks at the database's list of files, which merges change too.
const LOOK: Duration = Duration::from_secs(1);

/// Entries of an epoch that are durable and not settled.
#[derive(Clone, Copy, Debug)]
struct Behind {
    settled: u64,
    durable: u64,
}

#[derive(Debug, Default)]
struct State {
    /// Epochs that are not here are settled.
    epochs: HashMap<EpochHash, Behind>,
    bytes: u64,
    since: Option<MonoNs>,
    begun: Option<MonoNs>,
}

/// How far each epoch is settled.
#[derive(Debug)]
pub(super) struct Settled {
    state: Mutex<State>,
    bytes_max: u64,
    /// Changes when epochs are settled further.
    changed: watch::Sender<u64>,
}

/// Epochs, and the last entry of each.
type Job = Vec<(EpochHash, u64)>;

impl Settled {
    /// For a log of `log_bytes`, which is not to be full before.
    pub(super) fn new(log_bytes: u64) -> Settled {
        let bytes_max = UNSETTLED_BYTES_MAX.min(log_bytes / 2);
        Settled { state: Mutex::default(), bytes_max, changed: watch::Sender::new(0) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Entries up to `durable` are durable now, which were up to `before`.
    pub(super) fn wrote(
        &self,
        now: MonoNs,
        bytes: u64,
        entries: impl Iterator<Item = (EpochHash, u64, u64)>,
    ) {
        let mut state = self.state();
        for (epoch, before, durable) in entries {
            let behind = state.epochs.entry(epoch).or_insert(Behind { settled: before, durable });
            behind.durable = durable;
        }
        if !state.epochs.is_empty() {
            state.since.get_or_insert(now);
        }
        state.bytes += bytes;
    }

    /// The last settled entry of an epoch of which those up to `durable` are durable.
    pub(super) fn of(&self, epoch: EpochHash, durable: u64) -> u64 {
        self.state().epochs.get(&epoch).map_or(durable, |behind| behind.settled.min(durable))
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    fn is_due(&self, now: MonoNs) -> bool {
        let state = self.state();
        let long = state.since.is_some_and(|since| now.since(since) >= UNSETTLED_NS_MAX);
        let much = state.since.is_some() && state.bytes >= self.bytes_max;
        let again = state.begun.is_none_or(|begun| now.since(begun) >= BETWEEN_NS);
        (long || much) && again
    }

    /// What is settled once everything that is in memory now is in files.
    fn begin(&self, now: MonoNs) -> Job {
        let mut state = self.state();
        (state.bytes, state.since, state.begun) = (0, None, Some(now));
        state.epochs.iter().map(|(epoch, behind)| (*epoch, behind.durable)).collect()
    }

    fn done(&self, job: Job, now: MonoNs) {
        let mut state = self.state();
        for (epoch, seq) in job {
            if let Some(behind) = state.epochs.get_mut(&epoch) {
                behind.settled = seq;
                if behind.durable == seq {
                    state.epochs.remove(&epoch);
                }
            }
        }
        if !state.epochs.is_empty() {
            state.since.get_or_insert(now);
        }
        drop(state);
        self.changed.send_modify(|changes| *changes += 1);
    }

    /// It could not be written: it is due again later.
    fn failed(&self, now: MonoNs) {
        self.state().since.get_or_insert(now);
    }
}

/// The thread.
#[derive(Debug)]
pub(super) struct Flusher {
    jobs: Option<Sender<Job>>,
    busy: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Flusher {
    pub(super) fn start(shared: &Arc<Shared>) -> std::io::Result<Flusher> {
        let (jobs, to_do) = channel::<Job>();
        let busy = Arc::new(AtomicBool::new(false));
        let (shared, working) = (Arc::clone(shared), Arc::clone(&busy));
        let work = move || loop {
            match to_do.recv_timeout(LOOK) {
                Ok(job) => {
                    let flushed = shared.rocks.flush();
                    let now = shared.gate.monotonic();
                    match flushed {
                        Ok(()) => shared.settled.done(job, now),
                        Err(error) => {
                            tracing::warn!(%error, "cannot write the database's memory to files: agents keep more");
                            shared.settled.failed(now);
                        }
                    }
                    shared.rocks.note_files();
                    working.store(false, Ordering::Release);
                }
                Err(RecvTimeoutError::Timeout) => shared.rocks.note_files(),
                Err(RecvTimeoutError::Disconnected) => return,
            }
        };
        let thread = std::thread::Builder::new().name("flusher".to_owned()).spawn(work)?;
        Ok(Flusher { jobs: Some(jobs), busy, thread: Some(thread) })
    }

    /// Whether it is time to write everything to files.
    pub(super) fn is_due(&self, shared: &Shared) -> bool {
        // Where files are not merged, each writing would leave more of them for good.
        !self.busy.load(Ordering::Acquire)
            && !shared.rocks.is_unmerged()
            && shared.settled.is_due(shared.gate.monotonic())
    }

    /// Has everything written to files.
    pub(super) fn begin(&self, shared: &Shared) {
        let job = shared.settled.begin(shared.gate.monotonic());
        if let Some(jobs) = &self.jobs {
            self.busy.store(true, Ordering::Release);
            // It ends only when this is dropped.
            let _ = jobs.send(job);
        }
    }
}

impl Drop for Flusher {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that writes the database's memory to files panicked");
        }
    }
}
