//! Says to the collector what an export is sent over, so that no agent on the way keeps the export's packets.

use std::net::SocketAddr;
use std::time::Duration;

use gnomon_clock::{Clock, KernelClock, MonoNs};
use gnomon_proto::{OWN_STREAM_METADATA, v1};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tonic::Request;

use super::Sink;
use crate::client::Client;

/// An export does not wait longer for that.
const ANNOUNCE_TIMEOUT: Duration = Duration::from_secs(2);
/// The collector forgets an announcement after ten minutes.
const REPEAT_NS: u64 = 240_000_000_000;
/// A receiver that closes the connection after each request is not followed more closely.
const PAUSE_NS: u64 = 1_000_000_000;

/// The ends of a connection as they are on this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Socket {
    pub(super) transport: &'static str,
    pub(super) local: SocketAddr,
    pub(super) remote: SocketAddr,
}

impl Socket {
    pub(super) fn of_tcp(stream: &TcpStream) -> Option<Socket> {
        Some(Socket { transport: "tcp", local: stream.local_addr().ok()?, remote: stream.peer_addr().ok()? })
    }
}

pub(crate) struct Announcer {
    client: Client,
    last: Option<(Socket, MonoNs)>,
}

impl Announcer {
    pub(crate) fn new(client: Client) -> Announcer {
        Announcer { client, last: None }
    }

    /// Says it when the sink has another connection than before, and now and then. A failure is no reason to stop: the export's
    /// packets are then kept like any other.
    pub(crate) async fn announce(&mut self, sink: &Sink) {
        let Some(socket) = sink.socket() else { return };
        let now = KernelClock.monotonic();
        let wait_ns = |last: &Socket| if *last == socket { REPEAT_NS } else { PAUSE_NS };
        if self.last.as_ref().is_some_and(|(last, at)| now.since(*at) < wait_ns(last)) {
            return;
        }
        self.last = Some((socket, now));
        let Socket { transport, local, remote } = socket;
        let mut request = Request::new(v1::StatusRequest {});
        if let Ok(value) = format!("{transport} {local} {remote}").parse() {
            request.metadata_mut().insert(OWN_STREAM_METADATA, value);
        }
        // What Status answers is of no interest.
        let _ = timeout(ANNOUNCE_TIMEOUT, self.client.status(request)).await;
    }
}
