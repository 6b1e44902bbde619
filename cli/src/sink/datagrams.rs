//! UDP: a line or an IPFIX message a datagram. Nobody says what arrived.

use std::io;
use std::time::Duration;

use gnomon_export::{Encoder, Units};
use gnomon_flow::StoredFlow;
use tokio::net::{UdpSocket, lookup_host};
use tokio::time::{sleep, timeout};

use super::announce::Socket;
use super::{CONNECT_TIMEOUT, Failure};

/// Of a datagram over IPv4.
const BYTES_MAX: usize = 65_507;
/// At most this many at once, then a pause: a receiver's buffer holds a few hundred.
const BURST: u32 = 32;
const BURST_PAUSE: Duration = Duration::from_millis(2);

#[derive(Debug)]
pub(super) struct Datagrams {
    address: String,
    socket: Option<UdpSocket>,
    pub(super) encoder: Encoder,
    burst: u32,
    /// Datagrams that could not be sent, and the last reason.
    failed: u64,
    reason: String,
    too_long: u64,
}

impl Datagrams {
    pub(super) fn new(address: &str, encoder: Encoder) -> Datagrams {
        Datagrams {
            address: address.to_owned(),
            socket: None,
            encoder,
            burst: 0,
            failed: 0,
            reason: String::new(),
            too_long: 0,
        }
    }

    pub(super) async fn send(&mut self, flows: &[StoredFlow]) -> Result<(), Failure> {
        let mut units = Units::default();
        if self.socket.is_none() {
            self.socket = Some(self.connect().await.map_err(|error| Failure::passing(0, &error))?);
            self.encoder.begin(&mut units);
        }
        let Some(socket) = &self.socket else { return Ok(()) };
        for flow in flows {
            // What is left out is counted.
            self.encoder.record(flow, &mut units).unwrap_or_default();
        }
        self.encoder.flush(&mut units);
        for datagram in units.iter() {
            if datagram.len() > BYTES_MAX {
                self.too_long += 1;
                continue;
            }
            // A refusal is about an earlier one: nobody listens there. The network may be back for the next.
            if let Err(error) = socket.send(datagram).await {
                self.failed += 1;
                self.reason = error.to_string();
            }
            self.burst += 1;
            if self.burst == BURST {
                self.burst = 0;
                sleep(BURST_PAUSE).await;
            }
        }
        Ok(())
    }

    async fn connect(&self) -> io::Result<UdpSocket> {
        let resolved = timeout(CONNECT_TIMEOUT, lookup_host(&self.address)).await??.next();
        let to = resolved.ok_or_else(|| io::Error::other("the name has no address"))?;
        let any: &str = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = UdpSocket::bind(any).await?;
        socket.connect(to).await?;
        Ok(socket)
    }

    pub(super) fn socket(&self) -> Option<Socket> {
        let socket = self.socket.as_ref()?;
        Some(Socket { transport: "udp", local: socket.local_addr().ok()?, remote: socket.peer_addr().ok()? })
    }

    pub(super) fn losses(&self) -> Option<String> {
        let mut parts = Vec::new();
        if self.failed > 0 {
            parts.push(format!("{} datagrams or more did not arrive: {}", self.failed, self.reason));
        }
        if self.too_long > 0 {
            parts.push(format!("{} records are longer than a datagram", self.too_long));
        }
        (!parts.is_empty()).then(|| parts.join("; "))
    }
}
