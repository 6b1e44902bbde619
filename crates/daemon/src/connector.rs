//! Connections out, with their sockets made known: what a daemon sends must not be taken for traffic of the network it watches.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::dns::Name;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpStream, lookup_host};
use tower::{BoxError, Service, service_fn};

/// Who is told of sockets. Called by the task that connects: it must not block.
pub trait SocketEvents: Send + Sync {
    /// `address` will be dialled next, maybe.
    fn resolved(&self, address: SocketAddr);
    /// A connection is open: its ends, as they are on this host. Nothing was sent over it yet.
    fn opened(&self, local: SocketAddr, remote: SocketAddr);
}

/// Connects by TCP to the host and port of a URI, whatever its scheme.
pub fn connector(
    connect_timeout: Option<Duration>,
    events: Arc<dyn SocketEvents>,
) -> impl Service<
    Uri,
    Response = TokioIo<TcpStream>,
    Error = BoxError,
    Future = impl Future<Output = Result<TokioIo<TcpStream>, BoxError>> + Send + use<>,
> + Clone
+ Send
+ use<> {
    service_fn(move |uri: Uri| {
        let events = Arc::clone(&events);
        async move {
            let port = uri.port_u16().unwrap_or(if uri.scheme_str() == Some("http") { 80 } else { 443 });
            let told = Arc::clone(&events);
            let resolver = service_fn(move |name: Name| {
                let events = Arc::clone(&told);
                async move {
                    let addresses: Vec<SocketAddr> = lookup_host((name.as_str(), port)).await?.collect();
                    addresses.iter().for_each(|address| events.resolved(*address));
                    Ok::<_, std::io::Error>(addresses.into_iter())
                }
            });
            let mut http = HttpConnector::new_with_resolver(resolver);
            http.enforce_http(false);
            http.set_nodelay(true);
            http.set_connect_timeout(connect_timeout);
            let stream = http.call(uri).await?;
            let socket = stream.inner();
            if let (Ok(local), Ok(remote)) = (socket.local_addr(), socket.peer_addr()) {
                events.opened(local, remote);
            }
            Ok(stream)
        }
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use tokio::net::TcpListener;

    use super::*;

    #[derive(Default)]
    struct Told(Mutex<Vec<(Option<SocketAddr>, SocketAddr)>>);

    impl SocketEvents for Told {
        fn resolved(&self, address: SocketAddr) {
            self.0.lock().unwrap().push((None, address));
        }
        fn opened(&self, local: SocketAddr, remote: SocketAddr) {
            self.0.lock().unwrap().push((Some(local), remote));
        }
    }

    #[tokio::test]
    async fn a_socket_is_told_with_the_ends_it_has() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let told = Arc::new(Told::default());
        let mut connector = connector(None, Arc::clone(&told) as Arc<dyn SocketEvents>);
        for host in ["127.0.0.1", "localhost"] {
            let uri = format!("https://{host}:{}", address.port()).parse().unwrap();
            let stream = connector.call(uri).await.unwrap();
            let (_, peer) = listener.accept().await.unwrap();
            let seen = std::mem::take(&mut *told.0.lock().unwrap());
            assert_eq!(seen.last(), Some(&(Some(peer), address)));
            let resolved = seen.contains(&(None, address));
            assert_eq!(resolved, host == "localhost", "{seen:?}");
            drop(stream);
        }
    }
}
