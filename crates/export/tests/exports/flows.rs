//! Records to export: of each kind a form has to say something about.

use std::net::IpAddr;

use gnomon_clock::{EpochId, Estimate, RawNs, UtcNs};
use gnomon_export::{Accept, Carrier, Encoder, Format, Units};
use gnomon_flow::field;
use gnomon_flow::{
    Addresses, AgentId, DirectionCounters, FlowEndReason, FlowId, FlowKey, FlowRecord, Origin, StoredFlow,
    TcpState, TcpSummary, TimeState,
};

pub(crate) const START_NS: i64 = 1_700_000_000_123_456_789;

fn counters(packets: u64, bytes: u64) -> DirectionCounters {
    DirectionCounters {
        packets,
        bytes,
        ip_bytes: bytes.saturating_sub(14 * packets),
        data_bytes: bytes.saturating_sub(54 * packets),
        ttl: (packets > 0).then_some((62, 64)),
        mac: (packets > 0).then_some([2, 0, 0x5e, 0, 0x53, packets as u8]),
        ..DirectionCounters::default()
    }
}

fn flow(id: u64, key: FlowKey, packets: (u64, u64)) -> StoredFlow {
    let at =
        |ns: i64| Some(Estimate { utc: UtcNs::from_unix_ns(START_NS + ns), err_ns: 1_500, conflict: false });
    let start = id as i64 * 1_000_000_000;
    StoredFlow {
        record: FlowRecord {
            id: FlowId(id),
            revision: 1,
            key,
            first: RawNs(start as u64),
            last: RawNs(start as u64 + 2_500_000_000),
            stamp_err_ns: 500,
            orig: counters(packets.0, packets.0 * 100),
            resp: counters(packets.1, packets.1 * 1_000),
            end: Some(FlowEndReason::EndOfFlow),
            ..FlowRecord::default()
        },
        origin: Origin {
            agent: AgentId([7; 16]),
            agent_name: "sensor\t1".into(),
            interface: "eth0".into(),
            epoch: EpochId { agent: [7; 16], boot_id: [8; 16], opened: RawNs(9) },
        },
        first: at(start),
        last: at(start + 2_500_000_000),
        ingested: Some(UtcNs::from_unix_ns(START_NS + start + 3_000_000_000)),
        ..StoredFlow::default()
    }
}

pub(crate) fn v4(protocol: u8, ports: (u16, u16)) -> FlowKey {
    FlowKey {
        vlan: [0; 2],
        ethertype: 0x0800,
        protocol,
        addresses: Addresses::V4 { orig: [192, 0, 2, 1], resp: [198, 51, 100, 7] },
        orig_port: ports.0,
        resp_port: ports.1,
    }
}

/// A whole connection with metadata that tries to break out of every form.
pub(crate) fn https() -> StoredFlow {
    let mut tls = tcp(1, TcpState::Closed, [2, 1, 0, 4, 9, 0, 0, 0], 1, (6, 5));
    tls.record.key.vlan = [100, 7];
    let attributes = &mut tls.record.attributes;
    attributes.text(field::PROTOCOLS, "tls");
    attributes.text(field::PROTOCOLS, "http");
    attributes.text(field::TLS_HOST, "www.example.com");
    attributes.text(field::TLS_VERSION, "TLSv1.3");
    attributes.text(field::HTTP_HOST, "www.example.com:8443");
    attributes.text(field::HTTP_METHOD, "GET");
    attributes.text(field::HTTP_METHOD, "POST");
    attributes.text(field::HTTP_URI, "=cmd|' /C calc'!A0");
    attributes.text(field::HTTP_USER_AGENT, "a\"b,c\td\ne\u{1b}[2J");
    attributes.integer(field::HTTP_STATUS, 200u32);
    attributes.text(field::TAGS, "@SUM(1)");
    tls
}

pub(crate) fn tcp(
    id: u64,
    state: TcpState,
    flags: [u32; 8],
    syn_ack: u32,
    packets: (u64, u64),
) -> StoredFlow {
    let mut tcp = flow(id, v4(6, (40_000, 443)), packets);
    tcp.record.tcp =
        Some(TcpSummary { state, flags, syn_ack, rtt_ns: Some(20_000), ..TcpSummary::default() });
    tcp
}

pub(crate) fn dns6() -> StoredFlow {
    let ip = |last: u16| match format!("2001:db8::{last:x}").parse::<IpAddr>() {
        Ok(IpAddr::V6(ip)) => ip.octets(),
        _ => [0; 16],
    };
    let key = FlowKey {
        ethertype: 0x86DD,
        addresses: Addresses::V6 { orig: ip(1), resp: ip(0x53) },
        ..v4(17, (5_353, 53))
    };
    let mut dns = flow(2, key, (1, 1));
    dns.record.end = Some(FlowEndReason::Idle);
    let attributes = &mut dns.record.attributes;
    attributes.text(field::PROTOCOLS, "dns");
    attributes.text(field::DNS_HOST, "example.com");
    attributes.text(field::DNS_QUERY_TYPE, "AAAA");
    attributes.text(field::DNS_STATUS, "NOERROR");
    attributes.ip(field::DNS_IP, [0x2001, 0xdb8, 0, 0, 0, 0, 0, 1u16]);
    dns
}

pub(crate) fn ping() -> StoredFlow {
    let mut ping = flow(3, v4(1, (0, 0)), (3, 3));
    ping.record.icmp = Some((8, 0));
    ping
}

pub(crate) fn arp() -> StoredFlow {
    let mut arp = flow(4, FlowKey { ethertype: 0x0806, ..v4(0, (0, 0)) }, (1, 1));
    (arp.record.orig.ip_bytes, arp.record.resp.ip_bytes) = (0, 0);
    arp
}

pub(crate) fn pending() -> StoredFlow {
    let mut pending = flow(5, v4(17, (1, 2)), (1, 0));
    (pending.first, pending.last, pending.time_state) = (None, None, TimeState::Pending);
    pending
}

pub(crate) fn interim() -> StoredFlow {
    let mut interim = flow(6, v4(17, (1, 2)), (1, 0));
    interim.record.end = None;
    interim
}

/// One of each kind.
pub(crate) fn all() -> Vec<StoredFlow> {
    vec![https(), dns6(), ping(), arp(), pending(), interim()]
}

pub(crate) fn encode(
    format: Format,
    carrier: Carrier,
    accept: Accept,
    flows: &[StoredFlow],
) -> (Units, Encoder) {
    let (mut units, mut encoder) = (Units::default(), Encoder::new(format, carrier, accept));
    encoder.begin(&mut units);
    for flow in flows {
        encoder.record(flow, &mut units).unwrap_or_default();
    }
    encoder.flush(&mut units);
    (units, encoder)
}

/// As a file has it.
pub(crate) fn text(format: Format, flows: &[StoredFlow]) -> String {
    let (units, _) = encode(format, Carrier::Stream, Accept::default(), flows);
    String::from_utf8(units.bytes().to_vec()).expect("text")
}
