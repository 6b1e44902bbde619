//! The interfaces that are captured, kept as `selection.rs` decides: capture threads are started and ended while the agent runs.
//!
//! ```text
//! rtnetlink ──changed──▶ decide ──▶ start, end, hand over ──▶ capture threads ──ended──▶ decide again
//! ```
//!
//! Capture goes by an interface's index. A renamed interface keeps its socket, whose ring holds what comes while the next thread
//! begins under the new name. A deleted one ends by itself, with all that came. Worker numbers are used again, and flows go on
//! being numbered where the last one of that number stopped: an id names one flow of an epoch.

mod numbers;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, SyncSender};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context;
use gnomon_capture::interface::{self, Interface, Monitor};
use gnomon_capture::{CaptureError, Fanout, Options, Source};
use gnomon_clock::{Clock, MonoNs};

use crate::config::{Config, InterfaceConfig};
use crate::engine::{Engine, EngineConfig};
use crate::export::Export;
use crate::feed::{Ended, Feed, Orders, Place};
use crate::freed_memory::Memory;
use crate::heartbeat::Board;
use crate::identity::CurrentEpoch;
use crate::own_streams::CurrentOwnStreams;
use crate::reload::StatusLine;
use crate::roster::{Roster, Running};
use crate::rules::current::CurrentRules;
use crate::selection::{Chosen, Decision, LeftOut, Selection};
use crate::worker::{self, Channels, Worker, WorkerCounters};
use numbers::Numbers;

/// How long the set sleeps at the most: ended threads, `stop` and the status are looked at as often.
const TICK: Duration = Duration::from_millis(100);
/// Interfaces are made in several steps: what is decided once they are over needs no second thought.
const SETTLE: Duration = Duration::from_millis(20);
/// Between two decisions, however often something changes.
const DECIDE_NS_MIN: u64 = 200_000_000;
/// Without a subscription, and should a change ever be missed.
const DECIDE_NS_MAX_UNTOLD: u64 = 1_000_000_000;
const DECIDE_NS_MAX: u64 = 10_000_000_000;
/// Interfaces that are gone stand on the board for so long, and no more than so many of them.
const GONE_KEPT_NS: u64 = 60_000_000_000;
const GONE_KEPT_MAX: usize = 32;
/// Names in the status and reasons in the log and the heartbeat; of the others their number is said.
const NAMES_SHOWN_MAX: usize = 8;
pub const LEFT_OUT_SHOWN_MAX: usize = 64;

/// What capture threads are started with.
pub struct Start {
    pub config: Config,
    pub clock: Arc<dyn Clock>,
    pub board: Board,
    /// gnomon's own streams, of which no packets are kept.
    pub own_streams: CurrentOwnStreams,
    pub epoch: CurrentEpoch,
    pub engine: EngineConfig,
    pub rules: CurrentRules,
    pub exports: SyncSender<Export>,
    /// Hand-overs of one worker that may wait to be written.
    pub exports_per_worker: u64,
    pub roster: Roster,
    /// Ends all threads.
    pub stop: Arc<AtomicBool>,
}

pub struct CaptureSet {
    start: Start,
    selection: Selection,
    monitor: Option<Monitor>,
    members: BTreeMap<u32, Member>,
    numbers: Numbers,
    decision: Decision,
    /// What was logged of each name.
    said: HashMap<String, String>,
    /// Interfaces that are gone, since when.
    gone: Vec<(String, MonoNs)>,
    decided_at: MonoNs,
    status: String,
    memory: Memory,
}

/// One captured interface.
struct Member {
    chosen: Chosen,
    threads: Vec<Thread>,
    /// It ends; its threads may go on for a while.
    is_leaving: bool,
}

struct Thread {
    worker: u8,
    orders: Arc<Orders>,
    counters: Arc<WorkerCounters>,
    written: Arc<AtomicU64>,
    handle: JoinHandle<Ended>,
}

/// Sources that were opened for the workers of an interface.
type Opened = Vec<(Options, Result<Source, CaptureError>)>;

impl CaptureSet {
    /// Starts what is to be captured now.
    ///
    /// # Errors
    /// What needs a person: permissions, contradicting options.
    pub fn new(start: Start) -> anyhow::Result<CaptureSet> {
        let selection = start.config.selection()?;
        let monitor = Monitor::open().inspect_err(
            |error| tracing::warn!(%error, "no word from rtnetlink: interfaces are listed once a second"),
        );
        let mut set = CaptureSet {
            selection,
            monitor: monitor.ok(),
            members: BTreeMap::new(),
            numbers: Numbers::default(),
            decision: Decision::default(),
            said: HashMap::new(),
            gone: Vec::new(),
            decided_at: MonoNs(0),
            status: String::new(),
            memory: Memory::default(),
            start,
        };
        let listed = interface::list().context("cannot list the interfaces")?;
        set.decide(listed, true)?;
        set.status = set.status_words();
        Ok(set)
    }

    /// What is captured, in words.
    pub fn status(&self) -> &str {
        &self.status
    }

    /// Keeps the set until `stop`, then ends all of it.
    pub fn run(mut self, status: &StatusLine) {
        while !self.start.stop.load(Ordering::Relaxed) {
            let changed = self.wait();
            let ended = self.reap();
            let now = self.start.clock.monotonic();
            let since = now.since(self.decided_at);
            let untold = if self.monitor.is_some() { DECIDE_NS_MAX } else { DECIDE_NS_MAX_UNTOLD };
            if changed || ended || since >= untold {
                if since < DECIDE_NS_MIN {
                    std::thread::sleep(Duration::from_nanos(DECIDE_NS_MIN - since));
                }
                match interface::list() {
                    Ok(listed) => {
                        if let Err(error) = self.decide(listed, false) {
                            tracing::error!(%error, "cannot start a capture thread");
                        }
                    }
                    Err(error) => tracing::warn!(%error, "cannot list the interfaces"),
                }
            }
            self.forget_gone();
            self.memory.look(self.start.clock.monotonic(), &self.start.board);
            let words = self.status_words();
            if words != self.status {
                tracing::info!("{words}");
                status.capture(words.clone());
                self.status = words;
            }
        }
        for member in std::mem::take(&mut self.members).into_values() {
            for thread in member.threads {
                let _ = thread.handle.join();
            }
        }
    }

    fn wait(&mut self) -> bool {
        let Some(monitor) = &self.monitor else {
            std::thread::sleep(TICK);
            return false;
        };
        match monitor.changed(TICK) {
            Ok(false) => false,
            Ok(true) => {
                std::thread::sleep(SETTLE);
                let _ = monitor.changed(Duration::ZERO);
                true
            }
            Err(error) => {
                tracing::warn!(%error, "no more word from rtnetlink: interfaces are listed once a second");
                self.monitor = None;
                true
            }
        }
    }

    /// Takes note of threads that ended; whether some did. A renamed interface goes on under its new name.
    fn reap(&mut self) -> bool {
        let is_over = |member: &Member| member.threads.iter().all(|thread| thread.handle.is_finished());
        let over: Vec<u32> =
            self.members.iter().filter(|(_, member)| is_over(member)).map(|(index, _)| *index).collect();
        for index in &over {
            let Some(member) = self.members.remove(index) else { continue };
            let name = member.chosen.interface.name.clone();
            let mut handed = Vec::new();
            for thread in member.threads {
                match thread.handle.join() {
                    Ok(ended) => handed.extend(ended.source),
                    // What it had in its table is lost, and its numbers may be in use up to any.
                    Err(_) => {
                        tracing::error!(
                            interface = name,
                            worker = thread.worker,
                            "a capture thread panicked"
                        );
                        self.numbers.retire(thread.worker);
                    }
                }
                self.start.board.left(&name, thread.worker);
                self.numbers.rest(thread.worker, &thread.counters, &thread.written);
            }
            self.gone.push((name.clone(), self.start.clock.monotonic()));
            if handed.is_empty() {
                tracing::info!(interface = name, "no longer captured");
                self.start.board.failed(&name, Some("no longer captured".into()));
            } else {
                self.start.board.failed(&name, Some("renamed".into()));
                self.adopt(*index, member.chosen, handed);
            }
        }
        self.numbers.free_rested(&self.start.roster);
        !over.is_empty()
    }

    /// Sources of an interface that was renamed: what is in their rings is taken in any case.
    fn adopt(&mut self, index: u32, before: Chosen, sources: Vec<Source>) {
        let mut chosen = before;
        if let Ok(now) = interface::describe_index(index, &chosen.interface.name) {
            chosen.interface = now;
        }
        let name = chosen.interface.name.clone();
        let options = self.options(&chosen);
        let opened = sources.into_iter().map(|mut source| {
            source.rename(&name);
            (options.clone(), Ok(source))
        });
        let opened = opened.collect();
        // The decision that follows ends it when it is no longer chosen.
        if let Err(error) = self.begin(chosen, opened) {
            tracing::error!(interface = name, %error, "a renamed interface cannot go on");
        }
    }

    /// Starts and ends what differs from what should be.
    fn decide(&mut self, listed: Vec<Interface>, is_start: bool) -> anyhow::Result<()> {
        self.decided_at = self.start.clock.monotonic();
        let captured = self.members.keys().copied().collect();
        let decision = self.selection.decide(listed, &captured);
        let chosen: BTreeMap<u32, &Chosen> =
            decision.chosen.iter().map(|chosen| (chosen.interface.index, chosen)).collect();
        for (index, member) in &mut self.members {
            let name = &member.chosen.interface.name;
            match chosen.get(index) {
                _ if member.is_leaving => {}
                None => member.end(Orders::leave),
                Some(chosen) if chosen.interface.name == *name => {}
                Some(chosen) if chosen.settings.is_captured_like(&member.chosen.settings) => {
                    tracing::info!(from = name, to = chosen.interface.name, "renamed");
                    member.end(Orders::hand_over);
                }
                Some(_) => member.end(Orders::leave),
            }
        }
        // All sources are opened before any is read: the first start says what needs a person, and a fanout group shares frames
        // only once it is complete.
        let mut starting = Vec::new();
        for chosen in decision.chosen.iter().filter(|chosen| !captured.contains(&chosen.interface.index)) {
            starting.push((chosen.clone(), self.open(chosen)));
        }
        if is_start {
            let failures = starting.iter().flat_map(|(_, opened)| opened);
            crate::pipeline::refuse_hopeless(failures.filter_map(|(_, source)| source.as_ref().err()))?;
        }
        let started = starting.into_iter().try_for_each(|(chosen, opened)| self.begin(chosen, opened));
        self.show(decision);
        started
    }

    fn options(&self, chosen: &Chosen) -> Options {
        let options = self.start.config.options(&chosen.settings);
        let workers = chosen.settings.workers;
        let fanout = (workers > 1).then(|| Fanout {
            // Another agent in this network namespace has another process id, most likely in its low byte too.
            group: u16::from_be_bytes([
                std::process::id().to_le_bytes()[0],
                chosen.interface.index.to_le_bytes()[0],
            ]),
            workers: u16::from(workers),
        });
        Options { fanout, umem_bytes: chosen.ring_bytes, ..options }
    }

    fn open(&self, chosen: &Chosen) -> Opened {
        let Interface { index, name, .. } = &chosen.interface;
        let options = self.options(chosen);
        let open = |_| {
            let source = gnomon_capture::open_index(*index, name, &options, self.start.clock.clone());
            (options.clone(), source)
        };
        (0..chosen.settings.workers).map(open).collect()
    }

    fn begin(&mut self, chosen: Chosen, opened: Opened) -> anyhow::Result<()> {
        let index = chosen.interface.index;
        self.gone.retain(|(name, _)| *name != chosen.interface.name);
        let mut member = Member { chosen, threads: Vec::new(), is_leaving: false };
        let mut failed = Ok(());
        for (options, source) in opened {
            match self.thread(&member.chosen, options, source) {
                Ok(thread) => member.threads.push(thread),
                Err(error) => failed = Err(error),
            }
        }
        if failed.is_err() {
            member.end(Orders::leave);
        }
        if !member.threads.is_empty() {
            self.members.insert(index, member);
        }
        failed
    }

    fn thread(
        &mut self,
        chosen: &Chosen,
        options: Options,
        source: Result<Source, CaptureError>,
    ) -> anyhow::Result<Thread> {
        let start = &self.start;
        let (worker, flows_before) = self.numbers.take().context("every number of workers is in use")?;
        let interface = Arc::<str>::from(chosen.interface.name.as_str());
        let (counters, written) = (Arc::<WorkerCounters>::default(), Arc::<AtomicU64>::default());
        let orders = Arc::<Orders>::default();
        let place = Place {
            interface: interface.clone(),
            index: chosen.interface.index,
            worker,
            options,
            board: start.board.clone(),
            counters: counters.clone(),
            written: written.clone(),
            own_streams: start.own_streams.follow(),
            alive_ns: Arc::new(AtomicU64::new(start.clock.monotonic().0)),
            stop: start.stop.clone(),
            orders: orders.clone(),
        };
        let (blocks, returned) = mpsc::channel();
        let (new_epoch, epochs) = mpsc::channel();
        let running =
            Running { epochs: new_epoch, blocks, written: written.clone(), alive_ns: place.alive_ns.clone() };
        let epoch = start.roster.add(worker, running, &start.epoch);
        let identity = worker::Identity { worker, interface: interface.clone(), epoch };
        let channels = Channels {
            exports: start.exports.clone(),
            unwritten_max: start.exports_per_worker,
            written: written.clone(),
            returned,
            epochs,
            rules: start.rules.follow(),
        };
        let mut engine = EngineConfig { rules: start.rules.get(), flows_before, ..start.engine.clone() };
        engine.origin.interface = interface.clone();
        engine.table.flows_max = chosen.flows_max;
        let (stop, clock, counted) = (start.stop.clone(), start.clock.clone(), counters.clone());
        let name = format!("cap-{interface}-{worker}");
        let handle = std::thread::Builder::new().name(name).spawn(move || {
            // Made here, so that its memory is of this thread's node.
            let engine = Engine::new(worker, engine);
            let mut feed = Feed::new(place, clock.clone(), source);
            let ended =
                Worker::new(engine, identity, channels, counted)
                    .run(clock.as_ref(), &stop, |engine| feed.drain(engine));
            if let Err(worker::WorkerError::SpoolGone) = ended {
                tracing::error!(%interface, "a capture thread ended: the spool is gone");
            }
            feed.end()
        });
        match handle.context("cannot start a capture thread") {
            Ok(handle) => Ok(Thread { worker, orders, counters, written, handle }),
            Err(error) => {
                start.roster.remove(worker);
                self.numbers.give_back(worker);
                Err(error)
            }
        }
    }

    /// Says what changed, once.
    fn show(&mut self, decision: Decision) {
        let mut said = HashMap::new();
        let mut lines = 0;
        for chosen in &decision.chosen {
            let name = &chosen.interface.name;
            let words = match &chosen.seen_twice {
                Some(twice) => format!("{}; {twice}", chosen.reason),
                None => chosen.reason.clone(),
            };
            if self.said.get(name) != Some(&words) {
                lines += 1;
                match &chosen.seen_twice {
                    _ if lines > LEFT_OUT_SHOWN_MAX => {}
                    Some(_) => tracing::warn!(interface = name, "{words}"),
                    None => tracing::info!(interface = name, "{words}"),
                }
            }
            self.start.board.seen_twice(name, chosen.seen_twice.clone());
            said.insert(name.clone(), words);
        }
        for LeftOut { name, reason, is_named } in &decision.left_out {
            if self.said.get(name) != Some(reason) {
                lines += 1;
                match is_named {
                    _ if lines > LEFT_OUT_SHOWN_MAX => {}
                    true => tracing::warn!(interface = name, "{reason}"),
                    false => tracing::info!(interface = name, "{reason}"),
                }
            }
            if *is_named {
                self.start.board.failed(name, Some(reason.clone()));
            }
            said.insert(name.clone(), reason.clone());
        }
        if lines > LEFT_OUT_SHOWN_MAX {
            tracing::info!("{} more interfaces were taken or left out", lines - LEFT_OUT_SHOWN_MAX);
        }
        // Names that are waited for stand among the interfaces.
        let others = decision.left_out.iter().filter(|left| !left.is_named);
        self.start.board.left_out(others.map(|left| (left.name.clone(), left.reason.clone())).collect());
        self.said = said;
        self.decision = decision;
    }

    /// Counts of interfaces that are gone go where they stay.
    fn forget_gone(&mut self) {
        let now = self.start.clock.monotonic();
        let is_named =
            |name: &str| self.decision.left_out.iter().any(|left| left.is_named && left.name == name);
        self.gone.retain(|(name, _)| !is_named(name));
        let beyond = self.gone.len().saturating_sub(GONE_KEPT_MAX);
        let old = self.gone.iter().take_while(|(_, since)| now.since(*since) >= GONE_KEPT_NS).count();
        for (name, _) in self.gone.drain(..old.max(beyond)) {
            self.start.board.forget(&name);
        }
    }

    fn status_words(&self) -> String {
        let captured = self.start.board.captured();
        if captured.is_empty() {
            let waited = self.decision.left_out.iter().filter(|left| left.reason.starts_with("waited"));
            let waited: Vec<&str> = waited.map(|left| left.name.as_str()).collect();
            return match waited[..] {
                [] => "capturing nothing: no interface here is one to take".into(),
                _ => format!("capturing nothing yet: waiting for {}", listed(&waited)),
            };
        }
        let names: Vec<&str> = captured.iter().map(String::as_str).collect();
        format!("capturing {}", listed(&names))
    }
}

impl Member {
    fn end(&mut self, how: impl Fn(&Orders)) {
        self.is_leaving = true;
        self.threads.iter().for_each(|thread| how(&thread.orders));
    }
}

impl InterfaceConfig {
    /// Whether a source opened for the other serves this one.
    fn is_captured_like(&self, other: &InterfaceConfig) -> bool {
        InterfaceConfig { name: String::new(), ..self.clone() }
            == InterfaceConfig { name: String::new(), ..other.clone() }
    }
}

fn listed(names: &[&str]) -> String {
    let shown = names[..names.len().min(NAMES_SHOWN_MAX)].join(", ");
    match names.len().saturating_sub(NAMES_SHOWN_MAX) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}
