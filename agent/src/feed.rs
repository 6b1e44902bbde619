//! One worker's frames: a source that is opened again when its interface went away, and its counters on the board.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use gnomon_capture::{CaptureError, DropReason, Options, Source, SourceStats};
use gnomon_clock::{Clock, MonoNs};
use gnomon_flow::DecodeProblem;

use crate::engine::Engine;
use crate::fragments::FragmentStats;
use crate::heartbeat::{Board, WorkerCounts};
use crate::worker::{BATCH_FRAMES_MAX, IDLE_WAIT, WorkerCounters};

const PUBLISH_NS: u64 = 500_000_000;
const REOPEN_NS_MIN: u64 = 250_000_000;
const REOPEN_NS_MAX: u64 = 10_000_000_000;

/// What a feed captures and where it reports.
pub struct Place {
    pub interface: Arc<str>,
    pub worker: u8,
    pub options: Options,
    pub board: Board,
    pub counters: Arc<WorkerCounters>,
    /// Hand-overs of this worker that were written.
    pub written: Arc<AtomicU64>,
    /// Monotonic time of the last batch: the watchdog looks at it.
    pub alive_ns: Arc<AtomicU64>,
}

/// A source that never ends: an interface that is gone or down is waited for.
pub struct Feed {
    place: Place,
    clock: Arc<dyn Clock>,
    source: Option<Source>,
    /// How it captures, as the board says it.
    mode: String,
    /// Of sources that were closed.
    past_drops: [u64; DropReason::COUNT],
    last: SourceStats,
    publish_due: MonoNs,
    reopen_due: MonoNs,
    reopen_wait_ns: u64,
}

impl Feed {
    /// `opened`: what opening it for the first time gave.
    pub fn new(place: Place, clock: Arc<dyn Clock>, opened: Result<Source, CaptureError>) -> Feed {
        let mut feed = Feed {
            place,
            clock,
            source: None,
            mode: String::new(),
            past_drops: [0; DropReason::COUNT],
            last: SourceStats::default(),
            publish_due: MonoNs(0),
            reopen_due: MonoNs(0),
            reopen_wait_ns: REOPEN_NS_MIN,
        };
        feed.take(opened);
        feed
    }

    /// Feeds the engine one batch; with nothing to feed it sleeps a little first.
    pub fn drain(&mut self, engine: &mut Engine) -> Result<usize, Infallible> {
        let now = self.clock.monotonic();
        self.place.alive_ns.store(now.0, Ordering::Relaxed);
        if now >= self.publish_due {
            self.publish(now);
        }
        let Some(source) = &mut self.source else {
            std::thread::sleep(IDLE_WAIT);
            if now >= self.reopen_due {
                let opened =
                    gnomon_capture::open(&self.place.interface, &self.place.options, self.clock.clone());
                self.take(opened);
            }
            return Ok(0);
        };
        let drained = source.drain(BATCH_FRAMES_MAX, |frames| engine.on_frames(frames)).and_then(|frames| {
            if frames == 0 {
                source.wait(IDLE_WAIT)?;
            }
            Ok(frames)
        });
        match drained {
            Ok(frames) => Ok(frames),
            Err(error) => {
                self.close();
                self.take(Err(error));
                Ok(0)
            }
        }
    }

    fn take(&mut self, opened: Result<Source, CaptureError>) {
        let Place { interface, worker, board, .. } = &self.place;
        match opened {
            Ok(source) => {
                self.mode = mode_of(&source, interface);
                tracing::info!(%interface, worker, mode = self.mode, "capturing");
                board.running(interface, self.mode.clone());
                self.source = Some(source);
                self.reopen_wait_ns = REOPEN_NS_MIN;
            }
            Err(error) => {
                // Said once, then it stands in the heartbeat.
                if board.failed(interface, Some(error.to_string())) {
                    tracing::warn!(%interface, worker, %error, "not capturing; trying again until it works");
                }
                self.reopen_due = MonoNs(self.clock.monotonic().0.saturating_add(self.reopen_wait_ns));
                self.reopen_wait_ns = (self.reopen_wait_ns * 2).min(REOPEN_NS_MAX);
            }
        }
    }

    /// Closes the source and keeps what it counted.
    fn close(&mut self) {
        if let Some(mut source) = self.source.take() {
            let stats = source.stats();
            for (past, drops) in self.past_drops.iter_mut().zip(stats.drops) {
                *past += drops;
            }
        }
        self.last = SourceStats::default();
    }

    fn publish(&mut self, now: MonoNs) {
        self.publish_due = MonoNs(now.0.saturating_add(PUBLISH_NS));
        if let Some(source) = &mut self.source {
            self.last = source.stats();
            // Queues may have been added, or the NIC's stamps have failed to come.
            let Place { interface, worker, board, .. } = &self.place;
            let mode = mode_of(source, interface);
            if mode != self.mode {
                tracing::info!(%interface, worker, %mode, "capturing otherwise than before");
                board.running(interface, mode.clone());
                self.mode = mode;
            }
        }
        self.place.board.publish(&self.place.interface, self.place.worker, self.counts());
    }

    fn counts(&self) -> WorkerCounts {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counters = &self.place.counters;
        let mut drops: BTreeMap<&'static str, u64> = BTreeMap::new();
        for reason in DropReason::ALL {
            let count = self.past_drops[reason as usize] + self.last.dropped(reason);
            if count > 0 {
                drops.insert(reason.name(), count);
            }
        }
        for (reason, counter) in [
            (IGNORED, &counters.packets_ignored),
            (SLICE_QUEUE_FULL, &counters.packets_queue_full),
            (LOST_AT_STOP, &counters.records_lost),
        ] {
            if of(counter) > 0 {
                drops.insert(reason, of(counter));
            }
        }
        let waiting: u64 = self.last.queues.iter().map(|queue| u64::from(queue.waiting)).sum();
        let exports = of(&counters.exports).saturating_sub(of(&self.place.written));
        WorkerCounts {
            packets: of(&counters.packets),
            bytes: of(&counters.bytes),
            drops,
            flows_active: of(&counters.flows_active),
            flows_made: of(&counters.flows_made),
            flows_evicted: of(&counters.flows_evicted),
            undecodable: DecodeProblem::ALL
                .iter()
                .zip(&counters.problems)
                .map(|(problem, counter)| (problem.name(), of(counter)))
                .collect(),
            fragments: FragmentStats::default()
                .named()
                .iter()
                .zip(&counters.fragments)
                .map(|((name, _), counter)| (*name, of(counter)))
                .collect(),
            inspections_denied: of(&counters.inspections_denied),
            interims_delayed: of(&counters.interims_delayed),
            queues: BTreeMap::from([("exports".to_owned(), exports), ("ring".to_owned(), waiting)]),
        }
    }
}

/// Packets of flows that a rule ignores: in no record.
pub const IGNORED: &str = "ignored_by_rule";
/// Packets that are in their records but not in slices: the spool was behind.
pub const SLICE_QUEUE_FULL: &str = "slice_queue_full";
/// Flow records given up when the agent stopped and the spool did not move.
pub const LOST_AT_STOP: &str = "records_lost_at_stop";

impl Drop for Feed {
    /// The last numbers stand on the board.
    fn drop(&mut self) {
        let now = self.clock.monotonic();
        self.publish(now);
        self.close();
    }
}

/// How long a feed may be silent before the watchdog calls it stuck.
pub const STUCK: Duration = Duration::from_secs(30);

/// Without the interface's name, beside which it stands already.
fn mode_of(source: &Source, interface: &str) -> String {
    let mode = source.mode().to_string();
    match mode.strip_prefix(interface).and_then(|rest| rest.strip_prefix(": ")) {
        Some(rest) => rest.to_owned(),
        None => mode,
    }
}
