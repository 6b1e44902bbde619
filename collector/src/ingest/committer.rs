//! The one thread that writes: what is queued up while one group is being synced is the next group.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use gnomon_clock::{Clock, EpochId};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_util::sync::CancellationToken;

use crate::store::{Body, Change, Committed, StoreError, Writer};

/// A group is at most this many changes…
const GROUP_CHANGES_MAX: usize = 1024;
/// …and about this many bytes as they came.
const GROUP_BYTES_MAX: usize = 16 << 20;
/// How long an idle committer sleeps before it looks at what time alone has settled.
const IDLE: Duration = Duration::from_millis(250);
/// Between tries of a group that could not be written.
const RETRY: Duration = Duration::from_millis(250);

/// A change on its way.
pub(super) struct Submission {
    pub(super) change: Change,
    pub(super) bytes: usize,
    pub(super) answer: mpsc::UnboundedSender<Answer>,
    pub(super) window: OwnedSemaphorePermit,
    /// Goes back when the change is durable.
    pub(super) budget: OwnedSemaphorePermit,
}

/// What became of a change.
pub(super) struct Answer {
    pub(super) epoch: EpochId,
    /// Only entries are acknowledged.
    pub(super) entry: bool,
    pub(super) committed: Committed,
    /// Goes back when the answer was passed on: who does not read acknowledgements is not read from.
    pub(super) window: OwnedSemaphorePermit,
}

/// What the committer has done, for metrics.
#[derive(Debug, Default)]
pub struct CommitCounters {
    pub groups: AtomicU64,
    pub changes: AtomicU64,
    pub failures: AtomicU64,
    /// Of the last group, from the first look to durable.
    pub last_ns: AtomicU64,
}

/// Where sessions hand changes over. Clones feed the same committer, which ends when the last is dropped.
#[derive(Clone)]
pub struct Committer {
    sender: Sender<Submission>,
}

/// The running thread.
#[derive(Debug)]
pub struct CommitterHandle {
    thread: JoinHandle<()>,
    stop: Arc<AtomicBool>,
    /// Cancelled when the thread has ended, for whatever reason.
    pub ended: CancellationToken,
    pub counters: Arc<CommitCounters>,
}

impl Committer {
    /// # Errors
    /// When the thread cannot be started.
    pub fn start(writer: Writer, clock: Arc<dyn Clock>) -> std::io::Result<(Committer, CommitterHandle)> {
        // Unbounded in number, bounded in bytes by the permits that each submission holds.
        let (sender, receiver) = channel();
        let stop = writer.closing();
        let counters = Arc::new(CommitCounters::default());
        let ended = CancellationToken::new();
        let guard = ended.clone().drop_guard();
        let work = Work {
            writer,
            clock,
            receiver,
            stop: Arc::clone(&stop),
            counters: Arc::clone(&counters),
            stopped: false,
        };
        let thread = std::thread::Builder::new().name("committer".to_owned()).spawn(move || {
            let _ended = guard;
            work.run();
        })?;
        Ok((Committer { sender }, CommitterHandle { thread, stop, ended, counters }))
    }

    /// False when the committer has ended.
    pub(super) fn submit(&self, submission: Submission) -> bool {
        self.sender.send(submission).is_ok()
    }
}

impl CommitterHandle {
    /// Ends the thread once what was handed over is durable; what cannot be written is left to the agents. Blocking.
    pub fn stop(self) {
        self.stop.store(true, Ordering::Release);
        if self.thread.join().is_err() {
            tracing::error!("the committer panicked: what was not acknowledged is sent again by the agents");
        }
    }
}

struct Work {
    writer: Writer,
    clock: Arc<dyn Clock>,
    receiver: Receiver<Submission>,
    stop: Arc<AtomicBool>,
    counters: Arc<CommitCounters>,
    stopped: bool,
}

impl Work {
    fn run(mut self) {
        let mut more = true;
        loop {
            let first = if more {
                match self.receiver.try_recv() {
                    Ok(first) => Some(first),
                    Err(TryRecvError::Empty) => None,
                    Err(TryRecvError::Disconnected) => break,
                }
            } else {
                match self.receiver.recv_timeout(IDLE) {
                    Ok(first) => Some(first),
                    Err(RecvTimeoutError::Timeout) => None,
                    Err(RecvTimeoutError::Disconnected) => break,
                }
            };
            let go_on = match first {
                Some(first) => self.commit(first),
                // Somebody may still hold a sender, but has had time enough.
                None => !self.stop.load(Ordering::Acquire),
            };
            if !go_on {
                break;
            }
            self.writer.tick();
            self.writer.answer_snapshot();
            if let Err(error) = self.writer.keep_time().and_then(|()| self.writer.expire()) {
                self.say(&error);
            }
            more = match self.writer.settle() {
                Ok(more) => more,
                Err(error) => {
                    self.say(&error);
                    false
                }
            };
        }
        if let Err(error) = self.writer.close() {
            tracing::warn!(%error, "cannot flush the database; the next start replays its log");
        }
    }

    /// False when it had to give up because of a stop.
    fn commit(&mut self, first: Submission) -> bool {
        let mut bytes = first.bytes;
        let mut group = vec![first];
        while group.len() < GROUP_CHANGES_MAX && bytes < GROUP_BYTES_MAX {
            let Ok(next) = self.receiver.try_recv() else { break };
            bytes += next.bytes;
            group.push(next);
        }
        let mut changes = Vec::with_capacity(group.len());
        let mut waiting = Vec::with_capacity(group.len());
        for Submission { change, answer, window, budget, .. } in group {
            changes.push(change);
            waiting.push((answer, window, budget));
        }
        let begun = self.clock.monotonic();
        let committed = loop {
            match self.writer.commit(&changes) {
                Ok(committed) => break committed,
                Err(error) => self.say(&error),
            }
            // The same group again: nothing behind it may overtake it, and nothing of it was changed.
            self.counters.failures.fetch_add(1, Ordering::Relaxed);
            if self.stop.load(Ordering::Acquire) {
                tracing::warn!(changes = changes.len(), "stopping with changes that could not be written");
                return false;
            }
            std::thread::sleep(RETRY);
        };
        if self.stopped {
            self.stopped = false;
            self.writer.set_stopped(None);
            tracing::info!("the store takes in again");
        }
        self.counters.groups.fetch_add(1, Ordering::Relaxed);
        self.counters.changes.fetch_add(changes.len() as u64, Ordering::Relaxed);
        self.counters.last_ns.store(self.clock.monotonic().since(begun), Ordering::Relaxed);
        for ((change, committed), (answer, window, budget)) in changes.into_iter().zip(committed).zip(waiting)
        {
            // A session that is gone asks again when it comes back.
            let entry = matches!(change.body, Body::Entry { .. });
            let _ = answer.send(Answer { epoch: change.epoch, entry, committed, window });
            drop(budget);
        }
        true
    }

    /// Say once that writing does not work; health shows it for as long as it lasts.
    fn say(&mut self, error: &StoreError) {
        if !self.stopped {
            tracing::error!(%error, "nothing can be stored: agents keep their data until this is mended");
        }
        self.stopped = true;
        self.writer.set_stopped(Some(error.to_string()));
    }
}
