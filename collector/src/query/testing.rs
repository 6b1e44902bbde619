//! What tests of questions are made with: a record with something in every kind of field, and a store of them.

use std::net::{IpAddr, Ipv4Addr};

use gnomon_clock::{EpochId, Estimate, RawNs, UtcNs};
use gnomon_flow::slice::SlicedPacket;
use gnomon_flow::{
    Addresses, AgentId, AttributeValue, Attributes, DirectionCounters, FlowEndReason, FlowId, FlowKey,
    FlowRecord, Origin, StoredFlow, TcpState, TcpSummary, TimeState, field,
};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use super::{Queries, QueryLimits, Search};
use crate::store::testing::{FakeClock, NOW, S, change, epoch, fix, fixes, flows, open, record};
use crate::store::{Body, Change, Content, Slices, Store, Writer};

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
                of_side: [0x1a, 0x1a],
                rtt_ns: Some(1_500_000),
                retransmissions: 0,
            }),
            icmp: None,
            direction_guessed: false,
            own_uplink: false,
            problem: None,
            sliced_packets: 22,
            sliced_bytes: 2200,
            end: Some(FlowEndReason::Idle),
            attributes,
        },
        origin: Origin {
            agent: AgentId([3; 16]),
            agent_name: "sensor-a".into(),
            interface: "eth0".into(),
            epoch: epoch(3),
        },
        first: at(0),
        last: at(1_000_000_000),
        ingested: Some(UtcNs::from_unix_ns(T0 + 2_000_000_000)),
        time_state: TimeState::Indexed,
        time_reason: Default::default(),
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

/// A store whose epochs' RAW 0 was 100 s before [`NOW`].
pub(crate) struct Fixture {
    _dir: TempDir,
    pub(crate) store: Store,
    pub(crate) writer: Writer,
    pub(crate) queries: Queries,
    pub(crate) shutdown: CancellationToken,
}

pub(crate) fn fixture(limits: QueryLimits) -> Fixture {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let clock = FakeClock::new();
    let (store, mut writer) = open(dir.path(), &clock);
    for agent in [1, 2] {
        writer.commit(&[fixes(epoch(agent), vec![fix(1, 100), fix(99, 100)])]).expect("fixes");
    }
    let shutdown = CancellationToken::new();
    let queries = Queries::new(store.clone(), clock, limits, shutdown.clone());
    Fixture { _dir: dir, store, writer, queries, shutdown }
}

impl Fixture {
    pub(crate) fn add(&mut self, epoch: EpochId, seq: u64, records: Vec<FlowRecord>) {
        self.writer.commit(&[flows(epoch, seq, records)]).expect("flows");
    }

    /// `count` flows of agent 1, one each 10 ms from RAW 1 s on: flow `n` comes from 10.0.0.`n % 7`, port `n % 3`.
    pub(super) fn many(&mut self, count: u64) {
        for chunk in 0..count.div_ceil(100) {
            let ids = chunk * 100 + 1..=(chunk * 100 + 100).min(count);
            let records = ids.map(|id| numbered(id, S + id * 10_000_000)).collect();
            self.add(epoch(1), chunk + 1, records);
        }
    }
}

pub(super) fn numbered(id: u64, first: u64) -> FlowRecord {
    let mut record = record(id, 0, first, first + 5_000_000);
    if let (IpAddr::V4(src), Addresses::V4 { orig, .. }) = (ten((id % 7) as u32), &mut record.key.addresses) {
        *orig = src.octets();
    }
    record.key.resp_port = (id % 3) as u16;
    record
}

pub(super) fn utc(raw: u64) -> UtcNs {
    UtcNs::from_tai_ns(NOW - (100 * S).cast_signed() + raw.cast_signed())
}

pub(super) fn ids(flows: &[StoredFlow]) -> Vec<u64> {
    flows.iter().map(|flow| flow.record.id.0).collect()
}

pub(super) fn search(expression: &str) -> Search {
    Search { expression: expression.to_owned(), ..Search::default() }
}

/// An Ethernet frame of UDP from `port` with `payload`.
fn udp_frame(port: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0];
    let (ip_len, udp_len) = (28 + payload.len() as u16, 8 + payload.len() as u16);
    let mut ip = vec![0x45, 0, 0, 0, 0, 1, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
    ip[2..4].copy_from_slice(&ip_len.to_be_bytes());
    let sum: u32 = ip.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    ip[10..12].copy_from_slice(&(!(folded as u16)).to_be_bytes());
    frame.extend(ip);
    for field in [port, 9999, udp_len, 0] {
        frame.extend(field.to_be_bytes());
    }
    frame.extend_from_slice(payload);
    frame
}

/// A block of packets `(flow, raw, linktype)`, each a UDP frame from port `10,000 + flow`.
pub(crate) fn block(seq: u64, of: EpochId, packets: &[(u64, u64, u16)]) -> Change {
    let mut bytes = Vec::new();
    for (flow, raw, linktype) in packets {
        let packet = SlicedPacket {
            raw: RawNs(*raw),
            err_ns: 40,
            flow: FlowId(*flow),
            original_len: 200,
            linktype: *linktype,
            from_responder: false,
            outgoing: flow % 2 == 0,
            data: &udp_frame(10_000 + *flow as u16, &raw.to_be_bytes()),
        };
        packet.append_to(&mut bytes);
    }
    let mut flows: Vec<FlowId> = packets.iter().map(|(flow, ..)| FlowId(*flow)).collect();
    flows.sort_unstable();
    flows.dedup();
    let content = Content::Slices(Slices {
        interface: "eth0".to_owned(),
        packets: packets.len() as u32,
        first: RawNs(packets.iter().map(|(_, raw, _)| *raw).min().unwrap_or(0)),
        last: RawNs(packets.iter().map(|(_, raw, _)| *raw).max().unwrap_or(0)),
        block_bytes: bytes.len() as u32,
        flows,
        block: zstd::bulk::compress(&bytes, 1).expect("zstd").into(),
    });
    change(of, Body::Entry { seq, content })
}
