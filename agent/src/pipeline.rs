//! Wires the stages: source → worker → exports → spool → uplink. Every queue's capacity stands here.
//!
//! ```text
//! EVE files ──alerts──╮
//! capture threads (`capture_set.rs`) ─exports─▶ writer thread ──▶ spool ──▶ uplink (two threads) ──▶ collector
//!        ▲                                        │
//!        └──────────── buffers of blocks ◀────────┘
//! ```

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::JoinHandle;

use anyhow::Context;
use gnomon_capture::{CaptureError, FilterError};
use gnomon_clock::{Clock, EpochId};
use gnomon_daemon::exit::WithHint;
use gnomon_daemon::notify;
use gnomon_daemon::reload::Reload;
use gnomon_daemon::shutdown::{CancellationToken, Shutdown};
use gnomon_daemon::telemetry::Telemetry;
use gnomon_flow::{AgentId, Origin};
use gnomon_proto::v1;

use crate::alerts::{self, AlertCounters, Follow};
use crate::capture_set::{CaptureSet, Start};
use crate::config::{Config, OwnUplinkConfig, WORKERS_MAX};
use crate::engine::EngineConfig;
use crate::export::{Export, Exported};
use crate::feed::STUCK;
use crate::heartbeat::{Board, Heart};
use crate::identity::{CurrentEpoch, Identity};
use crate::metrics;
use crate::own_streams::CurrentOwnStreams;
use crate::reload::{Load, Reloader, StatusLine};
use crate::roster::Roster;
use crate::rules::current::CurrentRules;
use crate::spool::{self, Writer};
use crate::timekeeper::{self, ClockView, Duties, Evidence, Timekeeper};
use crate::uplink::{LinkState, Settings, TimeSource, Uplink};

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

    let own_streams =
        CurrentOwnStreams::new(&config.collector.urls, config.capture.own_uplink == OwnUplinkConfig::Keep);
    telemetry.watch_sockets(Arc::new(own_streams.clone()));

    let mut uplink = None;
    if !config.collector.urls.is_empty() {
        let settings = Settings {
            urls: config.collector.urls.clone(),
            tls: config.tls(),
            insecure: config.tls.insecure,
            hello: hello(config, identity.agent.0.to_vec()),
            time: TimeSource::Live(keeper.clone()),
            own_streams: own_streams.clone(),
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

    let mut capture = Capture::start(
        config,
        clock,
        (&board, &own_streams),
        (&epoch, identity.agent),
        (&rules, alerts),
        writer,
    )?;
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
    let status = capture.status.clone();
    tracing::info!(agent = %identity.agent, epoch = %epoch.get(), "{status}");
    notify::ready(&status);
    let line = StatusLine::new(status);
    capture.keep(line.clone())?;
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
    let in_memory = spool.entries_in_memory();
    if in_memory > 0 {
        tracing::error!(
            entries = in_memory,
            "the disk took nothing to the end, and no collector: what was in memory is lost"
        );
    }
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
        acked: Vec::new(),
        acked_by: 0,
    }
}

/// The capture threads and the writer behind them.
struct Capture {
    status: String,
    roster: Roster,
    stop: Arc<AtomicBool>,
    /// Keeps the capture threads, and ends after them.
    set: Option<CaptureSet>,
    threads: Vec<JoinHandle<()>>,
    writer: JoinHandle<()>,
}

impl Capture {
    fn start(
        config: &Config,
        clock: &Arc<dyn Clock>,
        (board, own_streams): (&Board, &CurrentOwnStreams),
        (epoch, agent): (&CurrentEpoch, AgentId),
        (rules, alerts): (&CurrentRules, Arc<AlertCounters>),
        writer: Writer,
    ) -> anyhow::Result<Capture> {
        let engine = EngineConfig {
            table: config.table(),
            slicer: config.slicer(),
            rules: rules.get(),
            origin: Origin { agent, agent_name: config.name().into(), ..Origin::default() },
            ..EngineConfig::default()
        };
        let per_worker = engine.slicer.blocks_max + FLOW_EXPORTS_PER_WORKER;
        // Room for each worker's share, whose bound each worker keeps: workers come and go.
        let (exports, queue) = sync_channel(per_worker * WORKERS_MAX);
        let (stop, roster) = (Arc::<AtomicBool>::default(), Roster::default());
        let set = CaptureSet::new(Start {
            config: config.clone(),
            clock: clock.clone(),
            board: board.clone(),
            own_streams: own_streams.clone(),
            epoch: epoch.clone(),
            engine,
            rules: rules.clone(),
            exports: exports.clone(),
            exports_per_worker: per_worker as u64,
            roster: roster.clone(),
            stop: stop.clone(),
        })?;
        let mut threads = Vec::new();
        if !config.alerts.eve.is_empty() {
            let follow = Follow {
                files: config.alerts.eve.clone(),
                places: config.state_dir.join("alerts"),
                epoch: epoch.clone(),
                clock: clock.clone(),
                exports,
                counters: alerts,
            };
            let thread = alerts::start(follow, stop.clone());
            threads.push(thread.context("cannot start the thread of alerts")?);
        }
        // The threads and the set hold the only senders now: the writer ends with the last of them.
        let written = roster.clone();
        let writer = std::thread::Builder::new()
            .name("spool-writer".into())
            .spawn(move || write(writer, &queue, &written))
            .context("cannot start the writer thread")?;
        let status = set.status().to_owned();
        Ok(Capture { status, roster, stop, set: Some(set), threads, writer })
    }

    /// Follows the interfaces from now on.
    fn keep(&mut self, status: StatusLine) -> anyhow::Result<()> {
        let Some(set) = self.set.take() else { return Ok(()) };
        let thread = std::thread::Builder::new().name("capture-set".into()).spawn(move || set.run(&status));
        self.threads.push(thread.context("cannot start the thread that follows the interfaces")?);
        Ok(())
    }

    /// Whether every worker still goes round: for the watchdog.
    fn watch(&self, clock: Arc<dyn Clock>) -> impl FnMut() -> bool + use<> {
        let (roster, stop) = (self.roster.clone(), self.stop.clone());
        move || stop.load(Ordering::Relaxed) || roster.all_alive(clock.monotonic(), STUCK)
    }

    /// What opens an epoch: the workers end their flows, and what follows belongs to the new one.
    fn epoch_opener(
        &self,
        identity: Arc<Identity>,
        current: CurrentEpoch,
        clock: Arc<dyn Clock>,
    ) -> Box<dyn Fn() -> EpochId + Send> {
        let roster = self.roster.clone();
        Box::new(move || {
            let opened = identity.open_epoch(clock.as_ref()).unwrap_or_else(|error| {
                tracing::error!(%error, "the boot id cannot be read again: it is taken to be the same");
                EpochId { opened: clock.raw(), ..current.get() }
            });
            roster.open_epoch(opened, &current);
            opened
        })
    }

    /// Ends the flows, hands over what is left and closes the spool.
    fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            let _ = thread.join();
        }
        let _ = self.writer.join();
    }
}

/// How far the writer stands back behind the workers (nice(2)) where they share a core: a worker that does not run loses
/// frames, a writer that does not run only kept bytes.
const WRITER_NICE: i32 = 10;

fn write(writer: Writer, queue: &Receiver<Export>, roster: &Roster) {
    // Of this thread alone, as Linux has it. To be nicer is never refused.
    let _ = rustix::process::setpriority_process(Some(rustix::thread::gettid()), WRITER_NICE);
    writer.run(queue, |export| {
        // Alerts say themselves when they are stored, and no capture thread waits for them.
        if !matches!(export.body, Exported::Alerts(_)) {
            roster.written(export);
        }
    });
}

/// Some failures pass by themselves (the interface comes later); others need a person.
///
/// # Errors
/// The first of those that need a person.
pub(crate) fn refuse_hopeless<'a>(
    mut failures: impl Iterator<Item = &'a CaptureError> + Clone,
) -> anyhow::Result<()> {
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
