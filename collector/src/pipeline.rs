//! Wires every stage, and states what each may hold.
//!
//! | between | what | limit |
//! |---|---|---|
//! | agent → session | bytes an agent may have under way | `ingest.window`, twice for the session's own patience |
//! | all sessions → committer | bytes not stored yet | `ingest.memory_max` |
//! | session → checker | entries read but not looked at | 64 |
//! | committer | changes, bytes in one group | 1024, 16 MiB |
//! | session → agent | messages not read yet | 256 |
//! | store → tails | records a slow one lags behind | 4096 |
//! | store | bytes kept, bytes left free | `retention.*` |
//! | fleet | agents known | 10,000 |

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use gnomon_clock::Clock;
use gnomon_daemon::exit::WithHint;
use gnomon_daemon::reload::Reload;
use gnomon_daemon::telemetry::Telemetry;
use gnomon_daemon::{build_info, notify};
use gnomon_proto::{CONNECTION_WINDOW_BYTES, STREAM_WINDOW_BYTES};
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;

use crate::api::{self, Api, Listen};
use crate::clock_gate::ClockGate;
use crate::config::Config;
use crate::enrich::{CurrentEnrichment, Enrichment};
use crate::fleet::Fleet;
use crate::ingest::{Committer, IngestService, Quarantine, Settings};
use crate::metrics;
use crate::query::{Queries, Roller};
use crate::secured;
use crate::store::{self, Store};
use crate::timekeeper::{self, AskFleet, Timekeeper};
use crate::tls::Tls;

/// How long a stop waits for what is under way.
pub const STOP_MAX: Duration = Duration::from_secs(10);
/// A peer that does not answer a ping for this long is gone.
const KEEPALIVE: Duration = Duration::from_secs(10);
/// Between two looks for blocks without a rollup.
const ROLL_UP_EVERY: Duration = Duration::from_secs(1);

/// Run until `stop`.
///
/// # Errors
/// When something cannot be opened or bound; once it runs, when a server or the committer ends by itself.
pub async fn run(
    config: &Config,
    clock: Arc<dyn Clock>,
    telemetry: &Telemetry,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let keeper = Timekeeper::new(Arc::clone(&clock));
    let certificate_time = {
        let keeper = keeper.clone();
        Arc::new(move || keeper.certificate_time())
    };
    let tls = Tls::load(&config.tls, certificate_time)?;
    let enrich = config.enrich.clone();
    let enrichment = tokio::task::spawn_blocking(move || Enrichment::load(&enrich))
        .await
        .context("reading the databases of addresses panicked")??;
    let enrichment = CurrentEnrichment::from(enrichment);
    let reload = Reload::install().context("cannot take SIGHUP")?;
    let known = enrichment.clone();
    // Bound first: a second collector on this machine learns of the port before it learns of the directory.
    let grpc = bind("listen.grpc", config.listen.grpc).await?;
    let http = bind("listen.http", config.listen.http).await?;

    let gate = ClockGate::new(keeper.clone(), config.policy());
    let (dir, limits) = (config.data_dir.clone(), config.limits());
    let opened = tokio::task::spawn_blocking(move || {
        let (store, writer) = store::open_enriched(&dir, gate, limits, known)?;
        let quarantine = Quarantine::open(&dir.join("quarantine"))
            .map_err(|source| store::StoreError::Directory { path: dir.join("quarantine"), source })?;
        let agents = store.agents()?;
        Ok::<_, store::StoreError>((store, writer, quarantine, agents))
    });
    let opened = opened.await.context("opening the store panicked")?;
    let advice = match &opened {
        Err(error) if error.is_damage() => store::ADVICE,
        _ => "choose another place with --data-dir, or see who owns that directory",
    };
    let (store, writer, quarantine, agents) = opened
        .with_context(|| format!("cannot open the store in {}", config.data_dir.display()))
        .hint(advice)?;
    let fleet = Fleet::default();
    fleet.remember(agents);
    let clock_watch =
        timekeeper::start(keeper, ask_fleet(&store, &fleet)).context("cannot watch this machine's clock")?;
    let (committer, committing) =
        Committer::start(writer, Arc::clone(&clock)).context("cannot start the committer's thread")?;
    metrics::register(&telemetry.meter("gnomon.collector"), &store, &fleet, &committing.counters);

    let settings = Settings {
        window_bytes: config.ingest.window.as_usize(),
        memory_bytes: config.ingest.memory_max.as_usize(),
        certificate_required: tls.is_some(),
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
        ending.clone(),
    );
    let api = Api {
        queries: Queries::new(store.clone(), clock, config.query_limits(), ending.clone()),
        store: store.clone(),
        fleet,
        metrics: metrics::prometheus_text(telemetry.prometheus_registry()),
        not_ready: not_ready(store.clone()),
        version: build_info::VERSION.to_owned(),
    };
    let routes = api::add_services(Routes::new(ingest.into_server()), &api);

    let (grpc_at, http_at) = (grpc.local_addr()?, http.local_addr()?);
    let mut server = Server::builder()
        .tcp_nodelay(true)
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE))
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES);
    let router = server.add_routes(routes);
    let stopping = ending.clone().cancelled_owned();
    let grpc: Pin<Box<dyn Future<Output = _> + Send>> = match &tls {
        Some(tls) => {
            let incoming = secured::incoming(grpc, tls.grpc(), ending.clone());
            Box::pin(router.serve_with_incoming_shutdown(incoming, stopping))
        }
        None => {
            let incoming = TcpIncoming::from(grpc).with_nodelay(Some(true));
            Box::pin(router.serve_with_incoming_shutdown(incoming, stopping))
        }
    };
    let listen = Listen { listener: http, tls: tls.as_ref().map(Tls::http) };
    let http = api::serve(listen, api::router(&api), ending.clone());
    tracing::info!(grpc = %grpc_at, http = %http_at, data_dir = %config.data_dir.display(), tls = tls.is_some(), "ready");
    notify::ready(&format!("gRPC {grpc_at}, HTTP {http_at}"));
    let watched = ending.clone();
    let committer_ended = committing.ended.clone();
    let watchdog = tokio::spawn(notify::watchdog(move || !committer_ended.is_cancelled(), watched));

    let reloading = tokio::spawn(enrichment.follow(reload, config.enrich.clone()));
    let (to_roll, until, runtime) = (store.clone(), ending.clone(), Handle::current());
    let rolling = std::thread::Builder::new()
        .name("roller".to_owned())
        .spawn(move || roll_up(to_roll, &until, &runtime))
        .context("cannot start the thread that makes rollups")?;

    let mut servers = JoinSet::new();
    servers.spawn(async move { grpc.await.context("the gRPC server ended") });
    servers.spawn(async move { http.await.context("the HTTP server ended") });
    let ended = tokio::select! {
        biased;
        () = stop.cancelled() => Ok(()),
        () = committing.ended.cancelled() => Err(anyhow::anyhow!("the committer ended: nothing can be stored")),
        Some(ended) = servers.join_next() => {
            ended.context("a server panicked").flatten().and(Err(anyhow::anyhow!("a server ended by itself")))
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

/// How far the making of rollups stands back behind ingest and questions (nice(2)).
const ROLL_UP_NICE: i32 = 10;

/// Makes rollups of new blocks, behind everything else: a question that comes before reads the block itself.
fn roll_up(store: Store, ending: &CancellationToken, runtime: &Handle) {
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
        let votes = fleet.readings().into_iter().map(|(epoch, raw)| store.vote(&epoch, raw));
        // An epoch that cannot be read has no say.
        votes.filter_map(|vote| vote.ok().flatten()).collect()
    })
}

/// Why no entries are taken in, for `/readyz`.
fn not_ready(store: Store) -> Arc<dyn Fn() -> Option<String> + Send + Sync> {
    Arc::new(move || match store.status() {
        Ok(status) => status.stopped,
        Err(error) => Some(error.to_string()),
    })
}

async fn bind(key: &'static str, address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("{key}: cannot listen on {address}")).hint(
        format!(
            "see who has it with `ss -ltnp 'sport = :{}'`, or set another with --set {key}=ADDRESS:PORT",
            address.port()
        ),
    )
}
