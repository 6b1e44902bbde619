//! Wires every stage, and states what each may hold.
//!
//! | between | what | limit |
//! |---|---|---|
//! | agent → session | bytes an agent may have under way | `ingest.window`, twice for the session's own patience |
//! | all sessions → committer | memory of what is not stored yet | `ingest.memory_max` |
//! | one message | all it may hold | `gnomon_proto::limits` |
//! | session → checker | entries read but not looked at | 64 |
//! | committer | changes, bytes, work in one group, shared by the sessions | 1024, 16 MiB, 150 ms |
//! | session → agent | messages not read yet | 256 |
//! | store → tails | records a slow one lags behind | 4096 |
//! | callers → questions | questions at once, half of them of one caller; their memory | 8; `query.memory_max` |
//! | store | bytes kept, bytes left free | `retention.*` |
//! | fleet | agents known, bytes of what they said, days one is remembered | 10,000, 64 MiB, 7 |
//! | ledger | epochs of an agent | 1,024 |
//! | quarantine | bytes of disk, files | 64 MiB, 8,192 |

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use gnomon_clock::Clock;
use gnomon_daemon::config::ConfigError;
use gnomon_daemon::exit::WithHint;
use gnomon_daemon::reload::Reload;
use gnomon_daemon::telemetry::Telemetry;
use gnomon_daemon::{build_info, notify, process};
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

use crate::api::{self, Api};
use crate::certificates;
use crate::clock_gate::ClockGate;
use crate::config::Config;
use crate::enrich::{CurrentEnrichment, Enrichment};
use crate::fleet::Fleet;
use crate::ingest::{Committer, IngestService, Quarantine, Settings};
use crate::listen::{self, Entrance, Identity, Limits, Listener, Refusals, Users};
use crate::metrics;
use crate::own_streams::StreamRegistry;
use crate::query::{Queries, Roller};
use crate::store::{self, Store};
use crate::timekeeper::{self, AskFleet, Said, Timekeeper};
use crate::tls::Tls;

/// How long a stop waits for what is under way.
pub const STOP_MAX: Duration = Duration::from_secs(6);
/// Between two looks for blocks without a rollup.
const ROLL_UP_EVERY: Duration = Duration::from_secs(1);

/// Why a run ended without an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It was asked to.
    Stopped,
    /// The store was opened for reading only and has room now: it is to be started again.
    HasRoom,
}

/// Between looks for room.
const ROOM_LOOK: Duration = Duration::from_secs(1);

/// Run until `stop`.
///
/// # Errors
/// When something cannot be opened or bound; once it runs, when a server or the committer ends by itself.
pub async fn run(
    config: &Config,
    clock: Arc<dyn Clock>,
    telemetry: &Telemetry,
    stop: &CancellationToken,
) -> anyhow::Result<Ended> {
    let keeper = Timekeeper::new(Arc::clone(&clock));
    keeper.set_vote_after(config.vote_after_ns());
    let certificate_time = {
        let keeper = keeper.clone();
        Arc::new(move || keeper.certificate_time())
    };
    let tls = Tls::load(&config.tls, certificate_time).map_err(ConfigError::from)?;
    let enrich = config.enrich.clone();
    let enrichment = tokio::task::spawn_blocking(move || Enrichment::load(&enrich))
        .await
        .context("reading the databases of addresses panicked")??;
    let enrichment = CurrentEnrichment::from(enrichment);
    let reload = Reload::install().context("cannot take SIGHUP")?;
    let reload_certificates = Reload::install().context("cannot take SIGHUP")?;
    let known = enrichment.clone();
    // Bound first: a second collector on this machine learns of the port before it learns of the directory.
    let grpc = bind("listen.grpc", config.listen.grpc).await?;
    let http = bind("listen.http", config.listen.http).await?;
    let users = Users::of(&config.listen)?;
    let connections = Limits::of_open_files(process::raise_open_files());

    let gate = ClockGate::new(keeper.clone(), config.policy());
    let (dir, limits) = (config.data_dir.clone(), config.limits());
    let opened = tokio::task::spawn_blocking(move || {
        let limits = limits.limits(&dir)?;
        let (store, writer) = store::open_enriched(&dir, &gate, limits, known)?;
        let quarantine = Quarantine::open(&dir.join("quarantine"))
            .map_err(|source| store::StoreError::Directory { path: dir.join("quarantine"), source })?;
        let agents = store.agents()?;
        Ok::<_, store::StoreError>((store, writer, quarantine, agents))
    });
    let opened = opened.await.context("opening the store panicked")?;
    let advice = opened.as_ref().err().map(|error| error.advice().to_owned()).unwrap_or_default();
    let (store, writer, quarantine, agents) = opened
        .with_context(|| format!("cannot open the store in {}", config.data_dir.display()))
        .hint(advice)?;
    let fleet = Fleet::default();
    fleet.remember(agents);
    let clock_watch =
        timekeeper::start(keeper, ask_fleet(&store, &fleet)).context("cannot watch this machine's clock")?;
    let (committer, committing) =
        Committer::start(writer, Arc::clone(&clock)).context("cannot start the committer's thread")?;
    // After the store: it makes the data directory, and knows that nobody else has it.
    let socket = listen::bind(&config.listen, users.gid, &config.data_dir)?;
    let refusals = Refusals::new(Arc::clone(&clock));
    let own_streams = StreamRegistry::new([grpc.local_addr()?, http.local_addr()?], Arc::clone(&clock));
    telemetry.watch_sockets(Arc::new(own_streams.clone()));
    let settings = Settings {
        window_bytes: config.ingest.window.as_usize(),
        memory_bytes: config.ingest.memory_max.as_usize(),
    };
    // Ends the servers when any part ends, and when it was asked to.
    let ending = stop.child_token();
    let ingest = IngestService::new(
        store.clone(),
        fleet.clone(),
        committer,
        quarantine,
        Arc::clone(&clock),
        settings,
        refusals.clone(),
        ending.clone(),
    )
    .announcing(own_streams.clone());
    let queries = Queries::new(store.clone(), Arc::clone(&clock), config.query_limits(), ending.clone());
    let meter = telemetry.meter("gnomon.collector");
    metrics::register(
        &meter,
        &store,
        &fleet,
        &committing.counters,
        &refusals,
        tls.as_ref(),
        &queries,
        &own_streams,
    );
    let api = Api {
        queries,
        store: store.clone(),
        fleet,
        metrics: metrics::prometheus_text(telemetry.prometheus_registry()),
        not_ready: not_ready(store.clone()),
        version: build_info::VERSION.to_owned(),
        own_streams: own_streams.clone(),
    };
    let router = Routes::from(api::router(&api)).add_service(ingest.into_server()).into_axum_router();
    let (grpc_at, http_at) = (grpc.local_addr()?, http.local_addr()?);
    let settings = listen::Settings::new(connections, names(&config.listen.names), &config.tls);
    let listener = Listener::new(settings, refusals, own_streams, Arc::clone(&clock), router, ending.clone());
    let unix_at = socket.as_ref().map(|socket| socket.path.display().to_string()).unwrap_or_default();
    let mut entrances = vec![
        Entrance::Tcp { listener: grpc, tls: tls.clone() },
        Entrance::Tcp { listener: http, tls: tls.clone() },
    ];
    entrances.extend(socket.map(|socket| Entrance::Unix { socket, users }));
    tracing::info!(grpc = %grpc_at, http = %http_at, unix = %unix_at, connections = connections.connections, data_dir = %config.data_dir.display(), tls = tls.is_some(), "ready");
    notify::ready(&format!("gRPC {grpc_at}, HTTP {http_at}"));
    let watched = ending.clone();
    let committer_ended = committing.ended.clone();
    let watchdog = tokio::spawn(notify::watchdog(move || !committer_ended.is_cancelled(), watched));

    let certificates =
        tls.map(|tls| tokio::spawn(certificates::follow(tls, reload_certificates, Arc::clone(&clock))));
    let reloading = tokio::spawn(enrichment.follow(reload, config.enrich.clone()));
    let (to_roll, until, runtime) = (store.clone(), ending.clone(), Handle::current());
    let rolling = std::thread::Builder::new()
        .name("roller".to_owned())
        .spawn(move || roll_up(to_roll, &until, &runtime))
        .context("cannot start the thread that makes rollups")?;

    let mut servers = JoinSet::new();
    for entrance in entrances {
        servers.spawn(listener.clone().serve(entrance));
    }
    let ended = tokio::select! {
        biased;
        () = stop.cancelled() => Ok(Ended::Stopped),
        () = room(&store), if store.is_read_only() => Ok(Ended::HasRoom),
        () = committing.ended.cancelled() => Err(anyhow::anyhow!("the committer ended: nothing can be stored")),
        Some(ended) = servers.join_next() => {
            ended.context("a server panicked").and(Err(anyhow::anyhow!("a server ended by itself")))
        }
    };
    notify::stopping("writing what is under way");
    ending.cancel();
    // Sessions end, which drops the last committers.
    let all = async { while servers.join_next().await.is_some() {} };
    if tokio::time::timeout(STOP_MAX, all).await.is_err() {
        tracing::warn!("connections that did not end in time were cut");
        servers.abort_all();
    }
    watchdog.abort();
    reloading.abort();
    certificates.inspect(JoinHandle::abort);
    let stopping = move || {
        let rolled = rolling.join();
        committing.stop();
        clock_watch.stop();
        rolled.is_ok()
    };
    let rolled = tokio::task::spawn_blocking(stopping).await.context("stopping the committer panicked")?;
    anyhow::ensure!(rolled, "making rollups panicked");
    ended
}

/// Waits until there is room to open the store for writing.
async fn room(store: &Store) {
    while !store.has_room().unwrap_or(false) {
        tokio::time::sleep(ROOM_LOOK).await;
    }
}

/// How far the making of rollups stands back behind ingest and questions (nice(2)).
const ROLL_UP_NICE: i32 = 10;

/// Makes rollups of new blocks, behind everything else: a question that comes before reads the block itself.
fn roll_up(store: Store, ending: &CancellationToken, runtime: &Handle) {
    if store.is_read_only() {
        return;
    }
    // Of this thread alone, as Linux has it. To be nicer is never refused.
    let _ = rustix::process::setpriority_process(Some(rustix::thread::gettid()), ROLL_UP_NICE);
    let mut roller = Roller::new(store);
    // Made inside the runtime: a timer outside one panics.
    let pause = || async { ending.run_until_cancelled(tokio::time::sleep(ROLL_UP_EVERY)).await };
    while runtime.block_on(pause()).is_some() {
        if let Err(error) = roller.round() {
            tracing::warn!(%error, "rollups are not made for now: facets of everything read every block");
        }
    }
}

/// What the agents' own sources say of the collector's clock.
fn ask_fleet(store: &Store, fleet: &Fleet) -> AskFleet {
    let (store, fleet) = (store.clone(), fleet.clone());
    Box::new(move || {
        let said = fleet.readings().into_iter().map(|(identity, reading)| Said {
            voter: match &identity {
                Identity::Certificate(_) => Some(identity.principal()),
                // Nobody proves who they are; a process on this host knows no more of the time than this one.
                Identity::Anonymous | Identity::Local { .. } => None,
            },
            // An epoch that cannot be read has no say.
            vote: reading.and_then(|(epoch, raw)| store.vote(&epoch, raw).ok().flatten()),
        });
        said.collect()
    })
}

/// Why no entries are taken in, for `/readyz`.
fn not_ready(store: Store) -> Arc<dyn Fn() -> Option<String> + Send + Sync> {
    Arc::new(move || match store.status() {
        Ok(status) => status.stopped,
        Err(error) => Some(error.to_string()),
    })
}

/// By which people may call this collector: those that are configured, and this host's own.
fn names(configured: &[String]) -> Vec<String> {
    let own = rustix::system::uname().nodename().to_string_lossy().into_owned();
    configured.iter().chain([&own]).map(|name| name.trim_end_matches('.').to_ascii_lowercase()).collect()
}

async fn bind(key: &'static str, address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("{key}: cannot listen on {address}")).hint(
        format!(
            "see who has it with `ss -ltnp 'sport = :{}'`, or set another with --set {key}=ADDRESS:PORT",
            address.port()
        ),
    )
}
