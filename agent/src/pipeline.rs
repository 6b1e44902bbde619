//! Wires the stages: source → worker → exports → spool → uplink. Every queue's capacity stands here.
//!
//! ```text
//! EVE files ──alerts──╮
//! capture threads (one a worker) ──exports──▶ writer thread ──▶ spool ──▶ uplink (two threads) ──▶ collector
//!        ▲                                        │
//!        └──────────── buffers of blocks ◀────────┘
//! ```

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, Sender, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context;
use gnomon_capture::{CaptureError, Fanout, FilterError, Options, Source, interface};
use gnomon_clock::{Clock, EpochId};
use gnomon_daemon::exit::WithHint;
use gnomon_daemon::notify;
use gnomon_daemon::reload::Reload;
use gnomon_daemon::shutdown::{CancellationToken, Shutdown};
use gnomon_daemon::telemetry::Telemetry;
use gnomon_flow::{AgentId, Origin};
use gnomon_proto::v1;

use crate::alerts::{self, AlertCounters, Follow};
use crate::config::{Config, InterfaceConfig, WORKERS_MAX};
use crate::engine::{Engine, EngineConfig};
use crate::export::{Export, Exported, PacketBlock};
use crate::feed::{Feed, Place, STUCK};
use crate::heartbeat::{Board, Heart};
use crate::identity::{CurrentEpoch, Identity};
use crate::metrics;
use crate::reload::{Load, Reloader, StatusLine};
use crate::rules::current::CurrentRules;
use crate::spool::{self, Writer};
use crate::timekeeper::{self, ClockView, Duties, Evidence, Timekeeper};
use crate::uplink::{LinkState, Settings, TimeSource, Uplink};
use crate::worker::{self, Channels, Worker, WorkerCounters};

/// Places in the queue of exports for each worker beyond its blocks: for batches of flow records.
const FLOW_EXPORTS_PER_WORKER: usize = 16;
/// Threads of the uplink: one may be reading the spool while the other serves the connection.
const UPLINK_THREADS: usize = 2;

/// Runs the agent until it is told to stop. `load` loads the configuration again.
///
/// # Errors
/// Only at the start: state directory, spool, configuration, or missing permission to capture.
pub fn run(
    config: &Config,
    clock: &Arc<dyn Clock>,
    shutdown: &Shutdown,
    telemetry: &Telemetry,
    load: Load,
) -> anyhow::Result<()> {
    let identity = Arc::new(Identity::open(&config.state_dir)?);
    let epoch = CurrentEpoch::new(identity.open_epoch(clock.as_ref())?);
    let (spool, appender, reader) = spool::open(config.spool_limits(), clock.clone())?;
    let writer = Writer::new(appender, config.spool.zstd_level).context("cannot set up compression")?;
    let board = Board::default();
    let evidence_path = config.state_dir.join("clock");
    let keeper = Timekeeper::new(epoch.get(), Evidence::load(&evidence_path));

    let mut uplink = None;
    if !config.collector.urls.is_empty() {
        let settings = Settings {
            urls: config.collector.urls.clone(),
            tls: config.tls(),
            insecure: config.tls.insecure,
            hello: hello(config, identity.agent.0.to_vec()),
            time: TimeSource::Live(keeper.clone()),
        };
        let heart = Heart::new(board.clone(), spool.clone(), clock.clone());
        uplink =
            Some(Uplink::new(settings, epoch.clone(), clock.clone(), spool.clone(), reader, Some(heart))?);
    }
    let link = uplink.as_ref().map_or_else(|| Arc::new(LinkState::default()), Uplink::state);
    let rules = CurrentRules::new(config.rules()?);
    let alerts = Arc::new(AlertCounters::default());
    let meter = telemetry.meter("gnomon-agent");
    metrics::register(&meter, &board, &spool, &link, (&keeper, clock), &rules, &alerts);

    let capture = Capture::start(config, clock, &board, (&epoch, identity.agent), (&rules, alerts), writer)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(UPLINK_THREADS)
        .thread_name("uplink")
        .enable_all()
        .build()
        .context("cannot start the uplink's threads")?;
    let signal = {
        let _entered = runtime.enter();
        Reload::install().context("cannot take SIGHUP")?
    };
    let stop_uplink = CancellationToken::new();
    let drain = config.collector.drain.get();
    let uplink = uplink.map(|uplink| uplink.spawn(runtime.handle(), stop_uplink.clone(), drain));
    let status = format!("capturing {}", capture.names.join(", "));
    tracing::info!(agent = %identity.agent, epoch = %epoch.get(), "{status}");
    notify::ready(&status);
    let line = StatusLine::new(status);
    runtime.spawn(Reloader::new(load, config.clone(), rules).run(signal, line.clone()));
    let duties = Duties {
        open_epoch: capture.epoch_opener(Arc::clone(&identity), epoch, Arc::clone(clock)),
        changed: Box::new(move |view| line.clock(clock_words(view))),
        path: evidence_path,
    };
    let clock_thread =
        timekeeper::start(keeper, Arc::clone(clock), duties).context("cannot watch this machine's clock")?;

    runtime.block_on(async {
        let alive = capture.watch(clock.clone());
        let watchdog = tokio::spawn(notify::watchdog(alive, stop_uplink.clone()));
        shutdown.begun().await;
        notify::stopping("handing over what is left");
        // Blocking, but nothing else is left to do on this thread; the uplink has its own.
        tokio::task::block_in_place(|| capture.stop());
        stop_uplink.cancel();
        if let Some(uplink) = uplink {
            let _ = uplink.await;
        }
        let _ = watchdog.await;
    });
    clock_thread.stop();
    let left = spool.status();
    tracing::info!(
        entries_left = left.entries,
        bytes_left = left.bytes,
        "stopped; what is left is sent next time"
    );
    Ok(())
}

/// For the service manager.
fn clock_words(view: &ClockView) -> String {
    match view.estimate {
        Some(estimate) => {
            format!("clock {} within {:.3} ms", view.state.name(), estimate.err_ns as f64 / 1e6)
        }
        None => format!("clock {}", view.state.name()),
    }
}

/// What the agent says of itself first.
pub(crate) fn hello(config: &Config, agent_id: Vec<u8>) -> v1::Hello {
    v1::Hello {
        protocol_version: gnomon_proto::PROTOCOL_VERSION,
        agent_id,
        name: config.name(),
        version: gnomon_daemon::build_info::VERSION.to_owned(),
        epoch: None,
        labels: config.labels.clone().into_iter().collect(),
    }
}

/// The interfaces to capture: those configured, or those picked. Says which and why.
///
/// # Errors
/// When there is none.
fn interfaces(config: &Config) -> anyhow::Result<Vec<InterfaceConfig>> {
    if !config.interfaces.is_empty() {
        return Ok(config.interfaces.clone());
    }
    let plans = interface::pick().context("cannot list the interfaces")?;
    let mut taken = Vec::new();
    for plan in &plans {
        tracing::info!(interface = %plan.interface.name, "{}", plan.reason);
        if plan.taken {
            taken.push(InterfaceConfig::named(&plan.interface.name));
        }
    }
    if taken.is_empty() {
        let known: Vec<&str> = plans.iter().map(|plan| plan.interface.name.as_str()).collect();
        return Err(anyhow::anyhow!("no interface here is one to pick (there are: {})", known.join(", ")))
            .hint("name one with --interface NAME; `gnomon-agent interfaces` says why each was left out");
    }
    taken.truncate(WORKERS_MAX);
    Ok(taken)
}

/// The capture threads and the writer behind them.
struct Capture {
    names: Vec<String>,
    stop: Arc<AtomicBool>,
    epochs: Vec<Sender<EpochId>>,
    alive: Vec<Arc<AtomicU64>>,
    workers: Vec<JoinHandle<()>>,
    writer: JoinHandle<()>,
}

impl Capture {
    fn start(
        config: &Config,
        clock: &Arc<dyn Clock>,
        board: &Board,
        (epoch, agent): (&CurrentEpoch, AgentId),
        (rules, alerts): (&CurrentRules, Arc<AlertCounters>),
        writer: Writer,
    ) -> anyhow::Result<Capture> {
        let interfaces = interfaces(config)?;
        let engine = EngineConfig {
            table: config.table(),
            slicer: config.slicer(),
            rules: rules.get(),
            origin: Origin { agent, agent_name: config.name().into(), ..Origin::default() },
        };
        // All sources are opened before any is read: a fanout group shares frames only once it is complete.
        let mut opened = Vec::new();
        for (number, interface) in interfaces.iter().enumerate() {
            for _ in 0..interface.workers {
                let options = worker_options(config, interface, number);
                let source = gnomon_capture::open(&interface.name, &options, clock.clone());
                opened.push((Arc::<str>::from(interface.name.as_str()), options, source));
            }
        }
        refuse_hopeless(&opened)?;
        let per_worker = engine.slicer.blocks_max + FLOW_EXPORTS_PER_WORKER;
        let (exports, queue) = sync_channel(per_worker * opened.len());
        let rules = rules.clone();
        let mut capture = Starting { engine, rules, exports, stop: Arc::default(), returns: HashMap::new() };
        let (mut epochs, mut alive, mut workers) = (Vec::new(), Vec::new(), Vec::new());
        for (number, (interface, options, source)) in opened.into_iter().enumerate() {
            let worker = u8::try_from(number).context("more than 256 workers")?;
            let place = Place {
                interface,
                worker,
                options,
                board: board.clone(),
                counters: Arc::default(),
                written: Arc::default(),
                alive_ns: Arc::new(AtomicU64::new(clock.monotonic().0)),
            };
            alive.push(place.alive_ns.clone());
            let (thread, new_epoch) = capture.worker(place, clock, epoch.get(), source)?;
            epochs.push(new_epoch);
            workers.push(thread);
        }
        if !config.alerts.eve.is_empty() {
            let follow = Follow {
                files: config.alerts.eve.clone(),
                places: config.state_dir.join("alerts"),
                epoch: epoch.clone(),
                clock: clock.clone(),
                exports: capture.exports.clone(),
                counters: alerts,
            };
            let thread = alerts::start(follow, capture.stop.clone());
            workers.push(thread.context("cannot start the thread of alerts")?);
        }
        // The threads hold the only senders now: the writer ends with the last of them.
        let Starting { stop, returns, .. } = capture;
        let writer = std::thread::Builder::new()
            .name("spool-writer".into())
            .spawn(move || write(writer, &queue, &returns))
            .context("cannot start the writer thread")?;
        let names = interfaces.iter().map(|interface| interface.name.clone()).collect();
        Ok(Capture { names, stop, epochs, alive, workers, writer })
    }

    /// Whether every worker still goes round: for the watchdog.
    fn watch(&self, clock: Arc<dyn Clock>) -> impl FnMut() -> bool + use<> {
        let alive = self.alive.clone();
        let stop = self.stop.clone();
        move || {
            let now = clock.monotonic();
            let fresh = |beat: &Arc<AtomicU64>| {
                let last = gnomon_clock::MonoNs(beat.load(Ordering::Relaxed));
                Duration::from_nanos(now.since(last)) < STUCK
            };
            stop.load(Ordering::Relaxed) || alive.iter().all(fresh)
        }
    }

    /// What opens an epoch: the workers end their flows, and what follows belongs to the new one.
    fn epoch_opener(
        &self,
        identity: Arc<Identity>,
        current: CurrentEpoch,
        clock: Arc<dyn Clock>,
    ) -> Box<dyn Fn() -> EpochId + Send> {
        let workers = self.epochs.clone();
        Box::new(move || {
            let opened = identity.open_epoch(clock.as_ref()).unwrap_or_else(|error| {
                tracing::error!(%error, "the boot id cannot be read again: it is taken to be the same");
                EpochId { opened: clock.raw(), ..current.get() }
            });
            for worker in &workers {
                // One that has ended has no flows.
                let _ = worker.send(opened);
            }
            current.set(opened);
            opened
        })
    }

    /// Ends the flows, hands over what is left and closes the spool.
    fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.workers {
            let _ = thread.join();
        }
        let _ = self.writer.join();
    }
}

/// What workers are started with.
struct Starting {
    engine: EngineConfig,
    rules: CurrentRules,
    exports: SyncSender<Export>,
    stop: Arc<AtomicBool>,
    returns: HashMap<u8, Return>,
}

/// Where a worker's written hand-overs are counted and its buffers go back.
struct Return {
    blocks: Sender<PacketBlock>,
    written: Arc<AtomicU64>,
}

impl Starting {
    fn worker(
        &mut self,
        place: Place,
        clock: &Arc<dyn Clock>,
        epoch: EpochId,
        source: Result<Source, CaptureError>,
    ) -> anyhow::Result<(JoinHandle<()>, Sender<EpochId>)> {
        // Neither grows: there are as many blocks as a worker has buffers, and an epoch a second at most.
        let (blocks, returned) = mpsc::channel();
        let (new_epoch, epochs) = mpsc::channel();
        self.returns.insert(place.worker, Return { blocks, written: place.written.clone() });
        let identity = worker::Identity { worker: place.worker, interface: place.interface.clone(), epoch };
        let channels =
            Channels { exports: self.exports.clone(), returned, epochs, rules: self.rules.follow() };
        let mut engine = self.engine.clone();
        engine.origin.interface = place.interface.clone();
        let (stop, clock) = (self.stop.clone(), clock.clone());
        let name = format!("cap-{}-{}", place.interface, place.worker);
        let thread = std::thread::Builder::new().name(name).spawn(move || {
            let counters: Arc<WorkerCounters> = place.counters.clone();
            // Made here, so that its memory is of this thread's node.
            let engine = Engine::new(place.worker, engine);
            let interface = place.interface.clone();
            let mut feed = Feed::new(place, clock.clone(), source);
            let ended =
                Worker::new(engine, identity, channels, counters)
                    .run(clock.as_ref(), &stop, |engine| feed.drain(engine));
            if let Err(error) = ended {
                tracing::error!(%interface, %error, "a capture thread ended");
            }
        });
        Ok((thread.context("cannot start a capture thread")?, new_epoch))
    }
}

/// How far the writer stands back behind the workers (nice(2)) where they share a core: a worker that does not run loses
/// frames, a writer that does not run only kept bytes.
const WRITER_NICE: i32 = 10;

fn write(writer: Writer, queue: &Receiver<Export>, returns: &HashMap<u8, Return>) {
    // Of this thread alone, as Linux has it. To be nicer is never refused.
    let _ = rustix::process::setpriority_process(Some(rustix::thread::gettid()), WRITER_NICE);
    writer.run(queue, |export| {
        if let Exported::Alerts(batch) = export.body {
            let _ = batch.stored.send(());
            return;
        }
        let Some(back) = returns.get(&export.worker) else { return };
        back.written.fetch_add(1, Ordering::Relaxed);
        if let Exported::Packets(block) = export.body {
            let _ = back.blocks.send(block);
        }
    });
}

/// `number`: the interface's, in the order of the configuration.
fn worker_options(config: &Config, interface: &InterfaceConfig, number: usize) -> Options {
    let fanout = (interface.workers > 1).then(|| Fanout {
        // Another agent in this network namespace has another process id, most likely in its low byte too.
        group: u16::from_be_bytes([std::process::id().to_le_bytes()[0], number.to_le_bytes()[0]]),
        workers: u16::from(interface.workers),
    });
    Options { fanout, ..config.options(interface) }
}

/// Some failures pass by themselves (the interface comes later); others need a person.
fn refuse_hopeless(opened: &[(Arc<str>, Options, Result<Source, CaptureError>)]) -> anyhow::Result<()> {
    let mut failures = opened.iter().filter_map(|(_, _, source)| source.as_ref().err());
    let hopeless = |error: &&CaptureError| match error {
        CaptureError::InvalidOption { .. } | CaptureError::Addressed { .. } => true,
        CaptureError::Filter(error) => !matches!(error, FilterError::NotNow { .. }),
        _ => false,
    };
    if let Some(error) = failures.clone().find(hopeless) {
        return Err(anyhow::anyhow!("{error}"));
    }
    let denied = |error: &CaptureError| matches!(error, CaptureError::System { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied);
    if let Some(error) = failures.find(|error| denied(error)) {
        let program = std::env::current_exe().unwrap_or_else(|_| "gnomon-agent".into());
        return Err(anyhow::anyhow!("{error}")).hint(format!(
            "run it as root, or give the program the capabilities: sudo setcap \
             cap_net_raw,cap_net_admin,cap_bpf,cap_ipc_lock+ep {}",
            program.display()
        ));
    }
    Ok(())
}
