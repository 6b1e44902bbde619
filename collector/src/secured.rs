//! TLS for the gRPC port: handshakes beside each other, bounded in number and time. (tonic's own acceptor asks the
//! machine's clock whether a certificate is valid; see `gnomon_daemon::certificate_time`.)

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

/// Handshakes under way; more wait in the kernel's queue.
const HANDSHAKES_MAX: usize = 256;
const HANDSHAKE: Duration = Duration::from_secs(10);
/// After an error of `accept` (too many open files) nothing is accepted for so long.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Secured connections that the server has not taken yet.
const READY_MAX: usize = 16;

/// The connections of `listener` that came through their handshake, until `stop`.
pub fn incoming(
    listener: TcpListener,
    tls: Arc<rustls::ServerConfig>,
    stop: CancellationToken,
) -> ReceiverStream<io::Result<TlsStream<TcpStream>>> {
    let (ready, taken) = mpsc::channel(READY_MAX);
    tokio::spawn(accept(listener, TlsAcceptor::from(tls), ready, stop));
    ReceiverStream::new(taken)
}

async fn accept(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    ready: mpsc::Sender<io::Result<TlsStream<TcpStream>>>,
    stop: CancellationToken,
) {
    let places = Arc::new(Semaphore::new(HANDSHAKES_MAX));
    loop {
        let next = async {
            let place = Arc::clone(&places).acquire_owned().await;
            (place, listener.accept().await)
        };
        let accepted = tokio::select! {
            accepted = next => accepted,
            () = stop.cancelled() => return,
        };
        let (Ok(place), Ok((stream, peer))) = accepted else {
            tracing::warn!("a connection could not be accepted; too many open files?");
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        // Acknowledgements are small; waiting to fill a segment only delays them.
        let _ = stream.set_nodelay(true);
        let (acceptor, ready) = (acceptor.clone(), ready.clone());
        tokio::spawn(async move {
            match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
                Ok(Ok(stream)) => {
                    drop(place);
                    // Nobody takes it: the server is stopping.
                    let _ = ready.send(Ok(stream)).await;
                }
                Ok(Err(error)) => tracing::info!(%peer, %error, "TLS handshake failed"),
                Err(_) => tracing::debug!(%peer, "TLS handshake took too long"),
            }
        });
    }
}
