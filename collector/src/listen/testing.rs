//! A listener on loopback, for tests of what is behind it.

use std::sync::Arc;

use axum::Router;
use gnomon_clock::KernelClock;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::{Entrance, Limits, Listener, Refusals, Settings};
use crate::config::TlsConfig;
use crate::own_streams::StreamRegistry;
use crate::tls::Tls;

pub(crate) fn settings() -> Settings {
    Settings::new(Limits::of_open_files(4_096), Vec::new(), &TlsConfig::default())
}

/// Its port, and what it refuses.
pub(crate) async fn serve(
    router: Router,
    tls: Option<Tls>,
    settings: Settings,
    stop: CancellationToken,
) -> (u16, Refusals) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let clock = Arc::new(KernelClock);
    let refusals = Refusals::new(clock.clone());
    let own_streams = StreamRegistry::new([], clock.clone());
    let served = Listener::new(settings, refusals.clone(), own_streams, clock, router, stop);
    tokio::spawn(served.serve(Entrance::Tcp { listener, tls }));
    (port, refusals)
}
