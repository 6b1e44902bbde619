//! The one listener: accept → limits → TLS → who is it → serve. Every door leads to the same service.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;

use axum::Router;
use gnomon_clock::Clock;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::access::Access;
use super::activity::Activity;
use super::host::Door;
use super::identity::{Connection, Identity, Peer};
use super::limits::{
    ACCEPT_PAUSE, GRACE, HANDSHAKE, HEAD_BYTES_MAX, HTTP1_BUFFER_BYTES, IDLE_TICKS, KEEP_ALIVE, Limits,
    SEND_BUFFER_BYTES, STREAMS_MAX, TICK, WRITE_STALL,
};
use super::places::{Party, Place, Places};
use super::refusal::{Reason, Refusals};
use super::service::{Desk, Rules};
use super::socket::Bound;
use super::stall::Stalling;
use super::unfinished::Unfinished;
use super::users::Users;
use crate::config::{TlsConfig, WithoutRole};
use crate::own_streams::StreamRegistry;
use crate::tls::Tls;

/// Where connections come in.
#[derive(Debug)]
pub enum Entrance {
    Tcp { listener: TcpListener, tls: Option<Tls> },
    Unix { socket: Bound, users: Users },
}

/// What all doors go by.
#[derive(Clone, Debug)]
pub struct Settings {
    pub limits: Limits,
    /// Names of this collector besides those of loopback: lower case.
    pub names: Vec<String>,
    pub people_need_certificate: bool,
    pub without_role: WithoutRole,
}

impl Settings {
    #[must_use]
    pub fn new(limits: Limits, names: Vec<String>, tls: &TlsConfig) -> Settings {
        Settings {
            limits,
            names,
            people_need_certificate: tls.people_need_certificate,
            without_role: tls.without_role,
        }
    }
}

/// The listener; clones share places, memory and counts.
#[derive(Clone)]
pub struct Listener {
    places: Places,
    unfinished: Unfinished,
    refusals: Refusals,
    /// Told at which addresses connections come.
    own_streams: StreamRegistry,
    settings: Arc<Settings>,
    clock: Arc<dyn Clock>,
    router: Router,
    shutdown: CancellationToken,
}

impl std::fmt::Debug for Listener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Listener").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// A connection that was accepted and has a place.
struct Accepted {
    peer: Peer,
    same_host: bool,
    door: Door,
    place: Place,
}

impl Listener {
    #[must_use]
    pub fn new(
        settings: Settings,
        refusals: Refusals,
        own_streams: StreamRegistry,
        clock: Arc<dyn Clock>,
        router: Router,
        shutdown: CancellationToken,
    ) -> Listener {
        let places = Places::new(settings.limits);
        let settings = Arc::new(settings);
        let unfinished = Unfinished::default();
        Listener { places, unfinished, refusals, own_streams, settings, clock, router, shutdown }
    }

    /// Serve everybody who comes through `entrance` until the shutdown, and then what is under way.
    pub async fn serve(self, entrance: Entrance) {
        let mut connections = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                accepted = self.accept(&entrance) => accepted,
                Some(_) = connections.join_next() => continue,
                () = self.shutdown.cancelled() => break,
            };
            match accepted {
                Ok(Some(connection)) => {
                    connections.spawn(connection);
                }
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted; too many open files?");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        if let Entrance::Unix { socket, .. } = &entrance {
            let _ = std::fs::remove_file(&socket.path);
        }
        drop(entrance);
        let all = async { while connections.join_next().await.is_some() {} };
        if tokio::time::timeout(GRACE, all).await.is_err() {
            tracing::warn!(left = connections.len(), "answers under way were cut off");
        }
    }

    /// The next connection, to be run.
    async fn accept(
        &self,
        entrance: &Entrance,
    ) -> io::Result<Option<std::pin::Pin<Box<dyn Future<Output = ()> + Send>>>> {
        match entrance {
            Entrance::Tcp { listener, tls } => {
                let (stream, from) = listener.accept().await?;
                let peer = Peer::Tcp(from);
                let Some(place) = self.place(peer) else { return Ok(None) };
                // Answers and acknowledgements are small; waiting to fill a segment only delays them.
                let _ = stream.set_nodelay(true);
                let at = stream.local_addr().ok();
                if let Some(at) = at {
                    self.own_streams.accepted(at);
                }
                let is_loopback = |end: SocketAddr| end.ip().to_canonical().is_loopback();
                let loopback = at.is_some_and(is_loopback) || is_loopback(from);
                // As far as addresses tell: through a proxy here it may not be.
                let same_host = loopback || at.is_some_and(|at| at.ip() == from.ip());
                let door = Door::Tcp { tls: tls.is_some(), loopback };
                let accepted = Accepted { peer, same_host, door, place };
                let stream = Stalling::new(stream, WRITE_STALL);
                let listener = self.clone();
                Ok(Some(match tls.clone() {
                    None => Box::pin(listener.plain(stream, accepted, Identity::Anonymous)),
                    Some(tls) => Box::pin(listener.secured(stream, accepted, tls)),
                }))
            }
            Entrance::Unix { socket, users } => {
                let (stream, _) = socket.listener.accept().await?;
                let who = stream.peer_cred()?;
                let peer = Peer::Unix { uid: who.uid() };
                if !users.may(who.uid(), who.gid()) {
                    let text = format!("user {} may not call here: see listen.unix_users", who.uid());
                    self.refusals.refused(Reason::User, peer, &text);
                    return Ok(None);
                }
                let Some(place) = self.place(peer) else { return Ok(None) };
                let accepted = Accepted { peer, same_host: true, door: Door::Unix, place };
                let identity = Identity::Local { uid: who.uid() };
                Ok(Some(Box::pin(self.clone().plain(Stalling::new(stream, WRITE_STALL), accepted, identity))))
            }
        }
    }

    fn place(&self, peer: Peer) -> Option<Place> {
        let refused = match self.places.admit(Party::of(peer)) {
            Ok(place) => return Some(place),
            Err(refused) => refused,
        };
        let text = match refused {
            Reason::PeerFull => "it has all the connections that one peer may have",
            _ => "all places for connections are taken",
        };
        self.refusals.refused(refused, peer, text);
        None
    }

    async fn plain<S>(self, stream: Stalling<S>, accepted: Accepted, identity: Identity)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        self.converse(stream, accepted, Ok(identity)).await;
    }

    async fn secured<S>(self, stream: Stalling<S>, accepted: Accepted, tls: Tls)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let loaded = tls.current();
        let peer = accepted.peer;
        let mut handshake = TlsAcceptor::from(Arc::clone(&loaded.server)).accept(stream).into_fallible();
        let shaken = tokio::select! {
            shaken = tokio::time::timeout(HANDSHAKE, &mut handshake) => shaken,
            () = accepted.place.evicted().cancelled() => {
                let text = "its TLS handshake did not end, and it made room for a newer connection";
                return self.refusals.refused(Reason::Crowded, peer, text);
            }
            () = self.shutdown.cancelled() => return,
        };
        let stream = match shaken {
            Ok(Ok(stream)) => stream,
            Ok(Err((error, stream))) => {
                // Who says nothing only looks whether the port is open.
                if stream.heard() {
                    self.refusals.refused(Reason::Handshake, peer, &handshake_failed(&error));
                }
                return;
            }
            Err(_) => {
                return self.refusals.refused(Reason::Handshake, peer, "the TLS handshake took too long");
            }
        };
        let shown = stream.get_ref().1.peer_certificates();
        let identity = match shown {
            None => Ok(Identity::Anonymous),
            Some(chain) => loaded.clients.judge(chain).map(|certificate| {
                let now = self.clock.bracket().realtime.unix_ns() / 1_000_000_000;
                if loaded.clients.time_is_unproven() && now > certificate.not_after_unix_s {
                    self.refusals.expired_but_passed(peer, &certificate);
                }
                Identity::Certificate(Arc::new(certificate))
            }),
        };
        if let Err(refused) = &identity {
            self.refusals.refused(Reason::Certificate, peer, refused);
        }
        self.converse(stream, accepted, identity).await;
    }

    /// Requests and answers, until one side has had enough. `identity`: or why the certificate is not taken.
    async fn converse<S>(self, stream: S, accepted: Accepted, identity: Result<Identity, String>)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let Accepted { peer, same_host, door, place } = accepted;
        let settings = &self.settings;
        let access = Access {
            tls: matches!(door, Door::Tcp { tls: true, .. }),
            people_need_certificate: settings.people_need_certificate,
            without_role: settings.without_role,
            own_uid: rustix::process::geteuid().as_raw(),
        };
        let window = place.window();
        let activity = Activity::new(place);
        let desk = Desk {
            router: self.router,
            identity: identity.clone(),
            connection: Connection { peer, same_host, identity: identity.unwrap_or_default() },
            rules: Arc::new(Rules { door, access, settings: Arc::clone(settings) }),
            activity: Arc::clone(&activity),
            refusals: self.refusals.clone(),
            unfinished: self.unfinished,
        };
        let mut builder = Builder::new(TokioExecutor::new());
        builder
            .http1()
            .timer(TokioTimer::new())
            .max_buf_size(HTTP1_BUFFER_BYTES)
            .header_read_timeout(TICK * IDLE_TICKS);
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(STREAMS_MAX)
            .max_header_list_size(HEAD_BYTES_MAX)
            .max_send_buf_size(SEND_BUFFER_BYTES)
            .initial_stream_window_size(window)
            .initial_connection_window_size(window)
            .keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE);
        let service = TowerToHyperService::new(desk);
        let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut closing = false;
        loop {
            tokio::select! {
                ended = connection.as_mut() => {
                    if let Err(error) = ended {
                        tracing::debug!(%peer, error, "a connection ended badly");
                    }
                    return;
                }
                () = self.shutdown.cancelled(), if !closing => {
                    connection.as_mut().graceful_shutdown();
                    closing = true;
                }
                () = activity.place().evicted().cancelled() => {
                    let text = "it asked nothing, and made room for a newer connection";
                    return self.refusals.refused(Reason::Crowded, peer, text);
                }
                _ = ticks.tick() => match activity.tick() {
                    None => {}
                    // Told, so that no request is lost on the way.
                    Some(Reason::Idle) if !closing => {
                        connection.as_mut().graceful_shutdown();
                        closing = true;
                    }
                    Some(Reason::Idle) => return,
                    Some(reason) => {
                        let text = match reason {
                            Reason::NotReading => "it does not read what it asked for",
                            _ => "no request came in time",
                        };
                        return self.refusals.refused(reason, peer, text);
                    }
                },
            }
        }
    }
}

/// An alert of the other side says that it refuses this collector's certificate.
fn handshake_failed(error: &io::Error) -> String {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match inner {
        Some(rustls::Error::AlertReceived(alert)) => {
            format!("the caller refused this collector's certificate (tls.certificate): {alert:?}")
        }
        _ => format!("the TLS handshake failed: {error}"),
    }
}
