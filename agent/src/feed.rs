//! One worker's frames: a source that is opened again after a failure that passes, and its counters on the board.
//!
//! A feed goes by its interface's index. When that interface is gone the feed ends; whatever comes in its place has a feed of its
//! own (`capture_set.rs`).

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use gnomon_capture::{CaptureError, DropReason, Options, Shortened, Source, SourceStats};
use gnomon_clock::{Clock, MonoNs, RawNs};
use gnomon_flow::{DecodeProblem, OwnStreams, StreamEnd};

use crate::engine::Engine;
use crate::fragments::FragmentStats;
use crate::heartbeat::{Board, WorkerCounts};
use crate::own_streams::Follower;
use crate::worker::{BATCH_FRAMES_MAX, IDLE_WAIT, WorkerCounters};

const PUBLISH_NS: u64 = 500_000_000;
const REOPEN_NS_MIN: u64 = 250_000_000;
const REOPEN_NS_MAX: u64 = 10_000_000_000;

/// What a feed captures and where it reports.
pub struct Place {
    pub interface: Arc<str>,
    pub index: u32,
    pub worker: u8,
    pub options: Options,
    pub board: Board,
    pub counters: Arc<WorkerCounters>,
    /// Hand-overs of this worker that were written.
    pub written: Arc<AtomicU64>,
    /// gnomon's own streams, when they change.
    pub own_streams: Follower,
    /// Monotonic time of the last batch: the watchdog looks at it.
    pub alive_ns: Arc<AtomicU64>,
    /// The agent stops.
    pub stop: Arc<AtomicBool>,
    /// What only this feed is to do.
    pub orders: Arc<Orders>,
}

/// How a feed is told to end while the agent goes on.
#[derive(Debug, Default)]
pub struct Orders(AtomicU8);

const LEAVE: u8 = 1;
const HAND_OVER: u8 = 2;

impl Orders {
    /// Take what has come, then end.
    pub fn leave(&self) {
        self.0.store(LEAVE, Ordering::Relaxed);
    }

    /// End at once; what is in the source's ring is for the next feed.
    pub fn hand_over(&self) {
        self.0.store(HAND_OVER, Ordering::Relaxed);
    }
}

/// Why there are no more frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoMore {
    #[error("the interface is gone")]
    Gone,
    #[error("it is no longer captured")]
    Left,
    #[error("it was handed over")]
    HandedOver,
}

/// What a feed leaves behind.
#[derive(Default)]
pub struct Ended {
    /// Of a feed that was to hand over.
    pub source: Option<Source>,
}

/// How long what has come is taken after the order to end: under a flood there is no end to it.
const TAKEN_AT_END_NS: u64 = 300_000_000;

/// A worker's frames.
pub struct Feed {
    place: Place,
    clock: Arc<dyn Clock>,
    source: Option<Source>,
    /// How it captures, as the board says it.
    mode: String,
    own_streams: Arc<OwnStreams>,
    /// Of sources that were closed.
    past_drops: [u64; DropReason::COUNT],
    /// Of the source before it was handed over to this feed.
    foreign_drops: [u64; DropReason::COUNT],
    /// Since when it is to end.
    ending_since: Option<RawNs>,
    is_gone: bool,
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
            own_streams: Arc::default(),
            past_drops: [0; DropReason::COUNT],
            foreign_drops: [0; DropReason::COUNT],
            ending_since: None,
            is_gone: false,
            last: SourceStats::default(),
            publish_due: MonoNs(0),
            reopen_due: MonoNs(0),
            reopen_wait_ns: REOPEN_NS_MIN,
        };
        feed.take(opened);
        if let Some(source) = &mut feed.source {
            feed.foreign_drops = source.stats().drops;
        }
        feed
    }

    /// Feeds the engine one batch; with nothing to feed it sleeps a little first.
    ///
    /// # Errors
    /// When there will be no more.
    pub fn drain(&mut self, engine: &mut Engine) -> Result<usize, NoMore> {
        let now = self.clock.monotonic();
        self.place.alive_ns.store(now.0, Ordering::Relaxed);
        if now >= self.publish_due {
            self.publish(now);
        }
        if let Some(own_streams) = self.place.own_streams.news() {
            engine.replace_own_streams(Arc::clone(&own_streams));
            self.own_streams = own_streams;
            self.shorten_own();
        }
        let order = self.place.orders.0.load(Ordering::Relaxed);
        if order == HAND_OVER {
            return Err(NoMore::HandedOver);
        }
        let Some(source) = &mut self.source else {
            if self.is_gone {
                return Err(NoMore::Gone);
            }
            if order == LEAVE {
                return Err(NoMore::Left);
            }
            std::thread::sleep(IDLE_WAIT);
            if now >= self.reopen_due {
                let Place { index, interface, options, .. } = &self.place;
                self.take(gnomon_capture::open_index(*index, interface, options, self.clock.clone()));
            }
            return Ok(0);
        };
        if self.ending_since.is_none() && (order == LEAVE || self.place.stop.load(Ordering::Relaxed)) {
            self.ending_since = Some(self.clock.raw());
        }
        let mut drained = source.drain(BATCH_FRAMES_MAX, |frames| engine.on_frames(frames));
        if let Some(since) = self.ending_since {
            // What has come is taken, also what is still in the kernel's hands.
            let is_late = || self.clock.raw().since(since) >= TAKEN_AT_END_NS;
            while matches!(drained, Ok(0)) && !source.has_taken_all_before(since) && !is_late() {
                drained = source
                    .wait(IDLE_WAIT)
                    .and_then(|()| source.drain(BATCH_FRAMES_MAX, |frames| engine.on_frames(frames)));
            }
            if order == LEAVE && (matches!(drained, Ok(0)) || is_late()) {
                return Err(NoMore::Left);
            }
        }
        let drained = drained.and_then(|frames| {
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
                self.shorten_own();
            }
            Err(error @ CaptureError::InterfaceGone { .. }) => {
                board.failed(interface, Some(error.to_string()));
                self.is_gone = true;
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

    /// Of gnomon's own streams the kernel need copy no more than headers.
    fn shorten_own(&mut self) {
        let Some(source) = &mut self.source else { return };
        let endpoints = self.own_streams.endpoints().map(|end| SocketAddr::new(end.address, end.port));
        let streams = self.own_streams.streams().filter(|stream| !self.own_streams.is_to_endpoint(stream));
        let socket = |end: StreamEnd| SocketAddr::new(end.address, end.port);
        let streams = streams.map(|stream| {
            let [one, other] = stream.ends();
            (stream.transport().number(), socket(one), socket(other))
        });
        let shortened = Shortened { endpoints: endpoints.collect(), streams: streams.collect() };
        if let Err(error) = source.shorten(&shortened) {
            let Place { interface, worker, .. } = &self.place;
            tracing::warn!(%interface, worker, %error, "own streams are copied whole from the kernel");
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
                tracing::info!(%interface, worker, before = self.mode, %mode, "capture mode changed");
                board.running(interface, mode.clone());
                self.mode = mode;
            }
        }
        self.place.board.publish(&self.place.interface, self.place.worker, self.counts());
    }

    /// The last numbers stand on the board.
    pub fn end(mut self) -> Ended {
        let now = self.clock.monotonic();
        self.publish(now);
        let is_handed_over = self.place.orders.0.load(Ordering::Relaxed) == HAND_OVER;
        Ended { source: if is_handed_over { self.source.take() } else { None } }
    }

    fn counts(&self) -> WorkerCounts {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counters = &self.place.counters;
        let mut drops: BTreeMap<&'static str, u64> = BTreeMap::new();
        for reason in DropReason::ALL {
            let seen = self.past_drops[reason as usize] + self.last.dropped(reason);
            let count = seen.saturating_sub(self.foreign_drops[reason as usize]);
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
