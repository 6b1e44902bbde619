//! The one thread that writes: what is queued up while one group is being synced is the next group. Each session has a queue
//! of its own, and a group takes from all of them in turn (`lanes.rs`): who sends much waits for himself.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use gnomon_clock::{Clock, EpochId};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_util::sync::CancellationToken;
use tracing::Span;

use super::lanes::Lanes;
use crate::store::{Body, Change, Committed, StoreError, Writer};

/// How long a stop waits for what was handed over: of a backlog the rest is left to the agents, which have it.
const STOP_NS_MAX: u64 = 3_000_000_000;
/// How long an idle committer sleeps before it looks at what time alone has settled.
const IDLE: Duration = Duration::from_millis(250);
/// Between tries of a group that could not be written.
const RETRY: Duration = Duration::from_millis(250);

/// A change on its way.
pub(super) struct Submission {
    /// The session it comes from.
    pub(super) session: u64,
    pub(super) change: Change,
    /// As they came.
    pub(super) bytes: usize,
    /// Of the memory that what was read of it takes; goes back when the change is durable.
    pub(super) decoded: Option<OwnedSemaphorePermit>,
    pub(super) answer: mpsc::UnboundedSender<Answer>,
    pub(super) window: OwnedSemaphorePermit,
    /// Goes back when the change is durable.
    pub(super) budget: OwnedSemaphorePermit,
    /// Of its entry, if that is one of those that are traced; it ends when the change is durable.
    pub(super) span: Span,
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
            lanes: Lanes::default(),
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
    /// Ends the thread once what was handed over is durable, for a few seconds at most; what is not is left to the agents.
    /// Blocking.
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
    lanes: Lanes,
}

impl Work {
    fn run(mut self) {
        let mut more = true;
        let mut open = true;
        let mut stopping_since = None;
        loop {
            if self.stop.load(Ordering::Acquire) {
                let now = self.clock.monotonic();
                if now.since(*stopping_since.get_or_insert(now)) > STOP_NS_MAX {
                    tracing::warn!(
                        "stopping with entries that were not acknowledged: the agents send them again"
                    );
                    break;
                }
            }
            if self.lanes.is_empty() && !more {
                match self.receiver.recv_timeout(IDLE) {
                    Ok(first) => self.lanes.push(first),
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => open = false,
                }
            }
            loop {
                match self.receiver.try_recv() {
                    Ok(next) => self.lanes.push(next),
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) => {
                        open = false;
                        break;
                    }
                }
            }
            let group = self.lanes.group();
            let go_on = if group.is_empty() {
                // Somebody may still hold a sender, but has had time enough.
                open && !self.stop.load(Ordering::Acquire)
            } else {
                self.commit(group)
            };
            if !go_on {
                break;
            }
            self.writer.tick();
            self.writer.answer_snapshot();
            let timed = self.writer.answer_clock_reset().and_then(|()| self.writer.keep_time());
            if let Err(error) = timed.and_then(|()| self.writer.expire()) {
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
    fn commit(&mut self, group: Vec<Submission>) -> bool {
        let mut changes = Vec::with_capacity(group.len());
        let mut waiting = Vec::with_capacity(group.len());
        let mut spans = Vec::new();
        for Submission { change, answer, window, budget, decoded, span, bytes, .. } in group {
            changes.push(change);
            if !span.is_disabled() {
                // The way to the committer is behind it; what is left is the group's.
                spans.push((
                    tracing::info_span!(parent: &span, "commit", bytes, changes = waiting.len()),
                    span,
                ));
            }
            waiting.push((answer, window, (budget, decoded)));
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
        drop(spans);
        self.counters.groups.fetch_add(1, Ordering::Relaxed);
        self.counters.changes.fetch_add(changes.len() as u64, Ordering::Relaxed);
        let took_ns = self.clock.monotonic().since(begun);
        self.counters.last_ns.store(took_ns, Ordering::Relaxed);
        self.lanes.took(took_ns / 1_000);
        for ((change, committed), (answer, window, memory)) in changes.into_iter().zip(committed).zip(waiting)
        {
            // A session that is gone asks again when it comes back.
            let entry = matches!(change.body, Body::Entry { .. });
            let _ = answer.send(Answer { epoch: change.epoch, entry, committed, window });
            drop(memory);
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
