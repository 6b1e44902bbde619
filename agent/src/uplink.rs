//! The one connection out: a stream to the collector that carries the spool, heartbeats and the clock exchange.
//!
//! Session after session, for ever: connect, say Hello, learn what is durable, send from there on, forget what is
//! acknowledged. Whatever goes wrong ends the session and never the agent; the spool waits.

mod ack;
mod backoff;
mod endpoint;
mod exchange;
mod local_socket;
mod session;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use gnomon_clock::{Clock, EpochId, Fix, MonoNs};
use gnomon_daemon::certificate::Expiry;
use gnomon_daemon::certificate_time::{AskTime, CertificateTime};
use gnomon_daemon::config::ConfigError;
use gnomon_proto::v1;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub use endpoint::{EndpointError, Tls, check};

use crate::heartbeat::Heart;
use crate::identity::CurrentEpoch;
use crate::own_streams::CurrentOwnStreams;
use crate::spool::{Reader, Spool};
use crate::timekeeper::Timekeeper;
use backoff::Backoff;
use endpoint::Endpoints;
use exchange::Exchanges;

/// A session that lasted this long, or in which anything was acknowledged, was a good one.
const GOOD_SESSION: Duration = Duration::from_secs(10);
/// Between two looks at when the agent's certificate ends.
const LOOK_AT_CERTIFICATE_NS: u64 = 600_000_000_000;

/// Where evidence for the time of entries comes from.
#[derive(Clone, Debug)]
pub enum TimeSource {
    /// This machine's clocks and the exchange with the collector: for a live capture.
    Live(Timekeeper),
    /// The stamps of capture files: said once a session, an epoch each.
    Files(Vec<(EpochId, Fix)>),
}

impl TimeSource {
    fn keeper(&self) -> Option<&Timekeeper> {
        match self {
            TimeSource::Live(keeper) => Some(keeper),
            TimeSource::Files(_) => None,
        }
    }

    /// What is known of the time when the collector shows its certificate.
    fn certificate_time(&self, clock: &Arc<dyn Clock>) -> AskTime {
        let clock = Arc::clone(clock);
        match self {
            TimeSource::Live(keeper) => {
                let keeper = keeper.clone();
                Arc::new(move || keeper.certificate_time(clock.as_ref()))
            }
            // Nobody watches the clock of a machine that only imports.
            TimeSource::Files(_) => Arc::new(|| CertificateTime::at_least(0)),
        }
    }
}

/// What an uplink needs to know.
pub struct Settings {
    /// In the order in which they are tried.
    pub urls: Vec<String>,
    pub tls: Tls,
    /// Send in plain text.
    pub insecure: bool,
    /// Without `epoch`, which is the current one at each connection.
    pub hello: v1::Hello,
    pub time: TimeSource,
    /// Told of the uplink's sockets, and of what the collector says.
    pub own_streams: CurrentOwnStreams,
}

/// What others may know of the uplink.
#[derive(Debug, Default)]
pub struct LinkState {
    pub connected: AtomicBool,
    pub sessions: AtomicU64,
    pub failures: AtomicU64,
    pub entries_sent: AtomicU64,
    pub bytes_sent: AtomicU64,
    pub entries_acked: AtomicU64,
    pub unacked_bytes: AtomicU64,
    pub exchanges_rejected: AtomicU64,
    /// When the agent's own certificate ends, in seconds since 1970; 0 without one.
    pub certificate_end_unix_s: AtomicU64,
    error: Mutex<Option<String>>,
}

impl LinkState {
    /// Why there is no session, if there is none.
    pub fn error(&self) -> Option<String> {
        self.error.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_error(&self, error: Option<String>) {
        *self.error.lock().unwrap_or_else(PoisonError::into_inner) = error;
    }
}

/// Sends the spool to the collector until it is told to stop.
pub struct Uplink {
    endpoints: Endpoints,
    hello: v1::Hello,
    time: TimeSource,
    own_streams: CurrentOwnStreams,
    epoch: CurrentEpoch,
    clock: Arc<dyn Clock>,
    spool: Spool,
    reader: Reader,
    heart: Option<Heart>,
    exchanges: Exchanges,
    expiry: Expiry,
    /// Of this process, in CLOCK_MONOTONIC.
    looked_at_certificate: Option<MonoNs>,
    state: Arc<LinkState>,
}

impl Uplink {
    /// # Errors
    /// When a URL, a certificate or a key is no good, or plain text would leave the machine.
    pub fn new(
        settings: Settings,
        epoch: CurrentEpoch,
        clock: Arc<dyn Clock>,
        spool: Spool,
        reader: Reader,
        heart: Option<Heart>,
    ) -> Result<Uplink, ConfigError> {
        Ok(Uplink {
            endpoints: Endpoints::new(
                &settings.urls,
                &settings.tls,
                settings.insecure,
                &settings.time.certificate_time(&clock),
            )?,
            hello: settings.hello,
            time: settings.time,
            own_streams: settings.own_streams,
            exchanges: Exchanges::default(),
            expiry: Expiry::default(),
            looked_at_certificate: None,
            epoch,
            clock,
            spool,
            reader,
            heart,
            state: Arc::new(LinkState::default()),
        })
    }

    /// Says that the agent's own certificate will end, or has: at each session, and now and then.
    fn look_at_certificate(&mut self) {
        let now = self.clock.monotonic();
        if self.looked_at_certificate.is_some_and(|at| now.since(at) < LOOK_AT_CERTIFICATE_NS) {
            return;
        }
        self.looked_at_certificate = Some(now);
        let Some(certificate) = self.endpoints.own_certificate() else { return };
        let end = u64::try_from(certificate.not_after_unix_s).unwrap_or(0);
        self.state.certificate_end_unix_s.store(end, Ordering::Relaxed);
        let known = (self.time.certificate_time(&self.clock))();
        let now = match known {
            CertificateTime::Known(now) => i64::try_from(now).unwrap_or(i64::MAX),
            // Better a warning by a clock that is wrong than none.
            CertificateTime::AtLeast(_) => self.clock.bracket().realtime.unix_ns() / 1_000_000_000,
        };
        if let Some(text) = self.expiry.look(&certificate, now) {
            tracing::warn!("tls.certificate: {text}");
        }
    }

    pub fn state(&self) -> Arc<LinkState> {
        Arc::clone(&self.state)
    }

    /// [`Uplink::run`] on a thread of its own, with `runtime` for its timers and sockets: what it reads from the spool
    /// blocks, and nothing else waits for it.
    pub fn spawn(self, runtime: &Handle, stop: CancellationToken, drain: Duration) -> JoinHandle<()> {
        self.spawn_until(runtime, stop, drain, CancellationToken::new())
    }

    /// As [`Uplink::spawn`], until `gives_up`: then it ends wherever it is.
    pub fn spawn_until(
        self,
        runtime: &Handle,
        stop: CancellationToken,
        drain: Duration,
        gives_up: CancellationToken,
    ) -> JoinHandle<()> {
        let handle = runtime.clone();
        // Made on its thread: what it holds between two steps need not pass to another.
        runtime.spawn_blocking(move || {
            handle.block_on(async {
                tokio::select! {
                    () = self.run(stop, drain) => {}
                    () = gives_up.cancelled_owned() => {}
                }
            });
        })
    }

    /// Runs until `stop`, then goes on for at most `drain` while the spool holds anything. Needs a runtime with more
    /// than one thread: reading the spool blocks.
    pub async fn run(mut self, stop: CancellationToken, drain: Duration) {
        let mut backoff = Backoff::new(self.clock.raw().0 ^ (u64::from(std::process::id()) << 32));
        // After `stop` there is one deadline for everything.
        let deadline = CancellationToken::new();
        let timer = tokio::spawn({
            let (stop, deadline) = (stop.clone(), deadline.clone());
            async move {
                stop.cancelled_owned().await;
                tokio::time::sleep(drain).await;
                deadline.cancel();
            }
        });
        while !(deadline.is_cancelled() || stop.is_cancelled() && self.spool.is_drained()) {
            let began = self.clock.monotonic();
            let acked_before = self.state.entries_acked.load(Ordering::Relaxed);
            let url = self.endpoints.url().to_owned();
            let ended = tokio::select! {
                ended = self.session(stop.clone()) => ended,
                () = deadline.clone().cancelled_owned() => break,
            };
            self.state.connected.store(false, Ordering::Relaxed);
            let lasted = Duration::from_nanos(self.clock.monotonic().since(began));
            let acked = self.state.entries_acked.load(Ordering::Relaxed) > acked_before;
            match ended {
                Ok(()) => break,
                Err(error) => {
                    self.state.failures.fetch_add(1, Ordering::Relaxed);
                    let text = format!("{url}: {error}");
                    // Said once, not with every try.
                    if self.state.error().as_ref() != Some(&text) {
                        tracing::warn!(%url, %error, "no session with the collector; the spool keeps everything");
                    }
                    self.state.set_error(Some(text));
                }
            }
            if lasted >= GOOD_SESSION || acked {
                backoff.reset();
            } else {
                self.endpoints.rotate();
            }
            let wait = backoff.wait();
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = deadline.clone().cancelled_owned() => break,
            }
        }
        timer.abort();
    }
}

#[cfg(test)]
mod tests;
