//! What tests of questions are made with: a record with something in every kind of field, and a store of them.

use std::net::{IpAddr, Ipv4Addr};

use gnomon_clock::{Estimate, RawNs, UtcNs};
use gnomon_flow::{
    Addresses, AgentId, AttributeValue, Attributes, DirectionCounters, FlowEndReason, FlowId, FlowKey,
    FlowRecord, Origin, StoredFlow, TcpState, TcpSummary, TimeState, field,
};

use crate::store::testing::{S, epoch};

/// 2023-11-14T22:13:20Z.
pub(crate) const T0: i64 = 1_700_000_000_000_000_000;

/// A TLS connection 10.0.0.1:40000 → 192.168.7.9:443 with attributes, of a second from [`T0`].
pub(crate) fn tls_flow() -> StoredFlow {
    let mut attributes = Attributes::default();
    for protocol in ["tcp", "tls"] {
        attributes.text(field::PROTOCOLS, protocol);
    }
    attributes.text(field::TLS_HOST, "www.Example.org");
    attributes.text(field::HTTP_URI, "/a b/c*d");
    for ip in ["93.184.216.34", "2001:db8::34"] {
        attributes.push(field::DNS_IP, AttributeValue::Ip(ip.parse().expect(ip)));
    }
    for status in [200, 404] {
        attributes.push(field::HTTP_STATUS, AttributeValue::Integer(status));
    }
    let way = |packets, bytes, mac: u8| DirectionCounters {
        packets,
        bytes,
        ip_bytes: bytes - 14 * packets,
        data_bytes: bytes / 2,
        fragments: 0,
        ttl: Some((64, 64)),
        mac: Some([2, 0, 0, 0, 0, mac]),
    };
    let at = |ns| Some(Estimate { utc: UtcNs::from_unix_ns(T0 + ns), err_ns: 500, conflict: false });
    StoredFlow {
        record: FlowRecord {
            id: FlowId::new(1, 77),
            segment: 0,
            revision: 0,
            key: FlowKey {
                vlan: [12, 100],
                ethertype: 0x0800,
                protocol: 6,
                addresses: Addresses::V4 { orig: [10, 0, 0, 1], resp: [192, 168, 7, 9] },
                orig_port: 40_000,
                resp_port: 443,
            },
            first: RawNs(5 * S),
            last: RawNs(6 * S),
            stamp_err_ns: 50,
            orig: way(10, 1000, 1),
            resp: way(12, 8000, 2),
            tcp: Some(TcpSummary {
                state: TcpState::Established,
                flags: [0, 1, 0, 4, 19, 0, 0, 0],
                syn_ack: 1,
                rtt_ns: Some(1_500_000),
                retransmissions: 0,
            }),
            icmp: None,
            direction_guessed: false,
            problem: None,
            sliced_packets: 22,
            sliced_bytes: 2200,
            end: Some(FlowEndReason::Idle),
            attributes,
        },
        origin: Origin {
            agent: AgentId([3; 16]),
            agent_name: "sensor-a".to_owned(),
            interface: "eth0".to_owned(),
            epoch: epoch(3),
        },
        first: at(0),
        last: at(1_000_000_000),
        ingested: Some(UtcNs::from_unix_ns(T0 + 2_000_000_000)),
        time_state: TimeState::Indexed,
    }
}

/// An ARP exchange: no address, no port, no attribute.
pub(crate) fn arp_flow() -> StoredFlow {
    let mut flow = tls_flow();
    flow.record.key = FlowKey {
        vlan: [0; 2],
        ethertype: 0x0806,
        protocol: 0,
        addresses: Addresses::Mac { orig: [2, 0, 0, 0, 0, 1], resp: [255; 6] },
        orig_port: 0,
        resp_port: 0,
    };
    flow.record.tcp = None;
    flow.record.attributes = Attributes::default();
    flow
}

/// A DNS question from 2001:db8::1 to 2001:db8::53.
pub(crate) fn v6_flow() -> StoredFlow {
    let mut flow = tls_flow();
    let address = |last: u16| std::net::Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last).octets();
    flow.record.key = FlowKey {
        vlan: [0; 2],
        ethertype: 0x86DD,
        protocol: 17,
        addresses: Addresses::V6 { orig: address(1), resp: address(0x53) },
        orig_port: 53_000,
        resp_port: 53,
    };
    flow.record.tcp = None;
    flow.record.attributes = Attributes::default();
    flow
}

/// `n` as an address in 10.0.0.0/8.
pub(crate) fn ten(n: u32) -> IpAddr {
    IpAddr::V4(Ipv4Addr::from_bits(0x0A00_0000 | (n & 0x00FF_FFFF)))
}
