//! Which streams on the wire are gnomon's own. Agents count them like any other and keep none of their packets: what is kept
//! of an uplink is sent over the uplink, is captured again, and so on with a gain of more than one.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};

use crate::key::FlowKey;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Transport {
    Tcp,
    Udp,
}

impl Transport {
    pub const ALL: [Transport; 2] = [Transport::Tcp, Transport::Udp];

    /// The IP protocol number.
    pub fn number(self) -> u8 {
        match self {
            Transport::Tcp => 6,
            Transport::Udp => 17,
        }
    }

    pub fn of_number(number: u8) -> Option<Transport> {
        Transport::ALL.into_iter().find(|transport| transport.number() == number)
    }
}

/// An address as it stands in packets: one that maps IPv4 into IPv6 is the IPv4 address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamEnd {
    pub address: IpAddr,
    pub port: u16,
}

impl StreamEnd {
    pub fn new(address: IpAddr, port: u16) -> StreamEnd {
        StreamEnd { address: address.to_canonical(), port }
    }
}

impl From<SocketAddr> for StreamEnd {
    fn from(address: SocketAddr) -> StreamEnd {
        StreamEnd::new(address.ip(), address.port())
    }
}

/// A connection, or a pair of UDP sockets. Of the same two ends, whichever is named first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TransportStream {
    transport: Transport,
    ends: [StreamEnd; 2],
}

impl TransportStream {
    pub fn new(transport: Transport, one: StreamEnd, other: StreamEnd) -> TransportStream {
        TransportStream { transport, ends: if one <= other { [one, other] } else { [other, one] } }
    }

    pub fn transport(&self) -> Transport {
        self.transport
    }

    /// In their order.
    pub fn ends(&self) -> [StreamEnd; 2] {
        self.ends
    }

    /// The stream that a flow's packets belong to, if it is one.
    pub fn of(key: &FlowKey) -> Option<TransportStream> {
        let transport = Transport::of_number(key.protocol)?;
        let orig = StreamEnd::new(key.orig_ip()?, key.orig_port);
        let resp = StreamEnd::new(key.resp_ip()?, key.resp_port);
        Some(TransportStream::new(transport, orig, resp))
    }
}

/// A set of them: single streams, and endpoints to which every TCP stream is gnomon's own. Bounded: what does not fit is
/// refused.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OwnStreams {
    streams: HashSet<TransportStream>,
    endpoints: HashSet<StreamEnd>,
}

impl OwnStreams {
    pub const STREAMS_MAX: usize = 1024;
    pub const ENDPOINTS_MAX: usize = 256;

    /// Whether it is in the set now.
    pub fn add_stream(&mut self, stream: TransportStream) -> bool {
        self.streams.contains(&stream)
            || self.streams.len() < Self::STREAMS_MAX && self.streams.insert(stream)
    }

    /// Whether it is in the set now. An address that stands for all addresses, and port 0, are no endpoints.
    pub fn add_endpoint(&mut self, endpoint: StreamEnd) -> bool {
        if endpoint.address.is_unspecified() || endpoint.address.is_multicast() || endpoint.port == 0 {
            return false;
        }
        self.endpoints.contains(&endpoint)
            || self.endpoints.len() < Self::ENDPOINTS_MAX && self.endpoints.insert(endpoint)
    }

    /// Adds all of `other` that fits.
    pub fn add_all(&mut self, other: &OwnStreams) {
        other.endpoints.iter().for_each(|endpoint| {
            self.add_endpoint(*endpoint);
        });
        other.streams.iter().for_each(|stream| {
            self.add_stream(*stream);
        });
    }

    pub fn is_empty(&self) -> bool {
        self.streams.is_empty() && self.endpoints.is_empty()
    }

    /// In no order.
    pub fn streams(&self) -> impl Iterator<Item = TransportStream> + '_ {
        self.streams.iter().copied()
    }

    /// In no order.
    pub fn endpoints(&self) -> impl Iterator<Item = StreamEnd> + '_ {
        self.endpoints.iter().copied()
    }

    /// Whether the stream leads to one of the endpoints.
    pub fn is_to_endpoint(&self, stream: &TransportStream) -> bool {
        stream.transport == Transport::Tcp && stream.ends.iter().any(|end| self.endpoints.contains(end))
    }

    /// Whether a flow is gnomon's own. Whatever carries it (VLANs, tunnels that are seen through) does not matter.
    pub fn has(&self, key: &FlowKey) -> bool {
        if self.is_empty() {
            return false;
        }
        TransportStream::of(key)
            .is_some_and(|stream| self.is_to_endpoint(&stream) || self.streams.contains(&stream))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::Addresses;

    fn key(protocol: u8, orig: ([u8; 4], u16), resp: ([u8; 4], u16)) -> FlowKey {
        FlowKey {
            ethertype: 0x0800,
            protocol,
            addresses: Addresses::V4 { orig: orig.0, resp: resp.0 },
            orig_port: orig.1,
            resp_port: resp.1,
            vlan: [7, 0],
        }
    }

    fn end(text: &str) -> StreamEnd {
        text.parse::<SocketAddr>().unwrap().into()
    }

    #[test]
    fn a_stream_is_found_whoever_began_it_and_nothing_beside_it() {
        let mut own = OwnStreams::default();
        // As a socket of both families says it.
        own.add_stream(TransportStream::new(
            Transport::Tcp,
            end("[::ffff:10.0.0.1]:40000"),
            end("10.0.0.2:3128"),
        ));
        let (agent, proxy) = (([10, 0, 0, 1], 40000), ([10, 0, 0, 2], 3128));
        assert!(own.has(&key(6, agent, proxy)) && own.has(&key(6, proxy, agent)));
        assert!(!own.has(&key(17, agent, proxy)));
        assert!(!own.has(&key(6, ([10, 0, 0, 1], 40001), proxy)));
        assert!(!own.has(&FlowKey::default()));
    }

    #[test]
    fn whoever_speaks_to_an_endpoint_is_ours_by_tcp() {
        let mut own = OwnStreams::default();
        assert!(own.add_endpoint(end("10.0.0.2:7440")));
        let collector = ([10, 0, 0, 2], 7440);
        assert!(own.has(&key(6, ([10, 9, 9, 9], 1), collector)));
        assert!(own.has(&key(6, collector, ([10, 9, 9, 9], 1))));
        assert!(!own.has(&key(17, ([10, 9, 9, 9], 1), collector)));
        assert!(!own.has(&key(6, ([10, 9, 9, 9], 1), ([10, 0, 0, 2], 7442))));
    }

    #[test]
    fn the_set_is_bounded_and_takes_no_wildcards() {
        let mut own = OwnStreams::default();
        for wild in ["0.0.0.0:7440", "[::]:7440", "224.0.0.1:7440", "10.0.0.1:0"] {
            assert!(!own.add_endpoint(end(wild)), "{wild}");
        }
        let many = |n: usize| StreamEnd::new(IpAddr::from([10, 0, (n >> 8) as u8, n as u8]), 9);
        for n in 0..2 * OwnStreams::STREAMS_MAX {
            let stream = TransportStream::new(Transport::Udp, many(n), end("10.9.9.9:9"));
            assert_eq!(own.add_stream(stream), n < OwnStreams::STREAMS_MAX);
            assert_eq!(own.add_endpoint(many(n)), n < OwnStreams::ENDPOINTS_MAX);
        }
        assert!(own.add_endpoint(many(0)));
    }
}
