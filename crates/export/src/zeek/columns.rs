//! The columns of conn.log, in order. A pure table with what fills it.

use std::borrow::Cow;
use std::net::IpAddr;

use gnomon_clock::UtcNs;
use gnomon_flow::community::community_id;
use gnomon_flow::field::{self, mac_text};
use gnomon_flow::{AttributeValue, StoredFlow};

use super::state::{conn_state, history};

pub(super) enum Cell<'a> {
    Time(UtcNs),
    Interval(u64),
    /// How wrong a time may be: to the nanosecond.
    Error(u64),
    Count(u64),
    Addr(IpAddr),
    Text(Cow<'a, str>),
}

pub(super) struct Column {
    pub(super) name: &'static str,
    /// Zeek's type.
    pub(super) kind: &'static str,
    pub(super) get: for<'a> fn(&'a StoredFlow) -> Option<Cell<'a>>,
}

const fn column(
    name: &'static str,
    kind: &'static str,
    get: for<'a> fn(&'a StoredFlow) -> Option<Cell<'a>>,
) -> Column {
    Column { name, kind, get }
}

pub(super) const COLUMNS: [Column; 31] = [
    column("ts", "time", |f| Some(Cell::Time(f.first?.utc))),
    column("uid", "string", |f| Some(Cell::Text(f.id().to_string().into()))),
    column("id.orig_h", "addr", |f| f.record.key.orig_ip().map(Cell::Addr)),
    column("id.orig_p", "port", |f| Some(Cell::Count(ports(f).0.into()))),
    column("id.resp_h", "addr", |f| f.record.key.resp_ip().map(Cell::Addr)),
    column("id.resp_p", "port", |f| Some(Cell::Count(ports(f).1.into()))),
    column("proto", "enum", |f| Some(Cell::Text(transport(f.record.key.protocol).into()))),
    column("service", "string", service),
    column("duration", "interval", |f| Some(Cell::Interval(f.record.last.since(f.record.first)))),
    column("orig_bytes", "count", |f| Some(Cell::Count(f.record.orig.data_bytes))),
    column("resp_bytes", "count", |f| Some(Cell::Count(f.record.resp.data_bytes))),
    column("conn_state", "string", |f| conn_state(&f.record).map(|state| Cell::Text(state.into()))),
    // Which networks are local is not known here.
    column("local_orig", "bool", |_| None),
    column("local_resp", "bool", |_| None),
    // Nor are gaps counted.
    column("missed_bytes", "count", |_| None),
    column("history", "string", |f| history(&f.record).map(|history| Cell::Text(history.into()))),
    column("orig_pkts", "count", |f| Some(Cell::Count(f.record.orig.packets))),
    column("orig_ip_bytes", "count", |f| Some(Cell::Count(f.record.orig.ip_bytes))),
    column("resp_pkts", "count", |f| Some(Cell::Count(f.record.resp.packets))),
    column("resp_ip_bytes", "count", |f| Some(Cell::Count(f.record.resp.ip_bytes))),
    // A tunnel's own packets make no flow here: there is no parent to name.
    column("tunnel_parents", "set[string]", |_| None),
    column("ip_proto", "count", |f| Some(Cell::Count(f.record.key.protocol.into()))),
    column("vlan", "int", |f| vlan(f, 0)),
    column("inner_vlan", "int", |f| vlan(f, 1)),
    column("orig_l2_addr", "string", |f| mac(f.record.orig.mac)),
    column("resp_l2_addr", "string", |f| mac(f.record.resp.mac)),
    column("community_id", "string", |f| {
        community_id(&f.record.key, f.record.icmp).map(|id| Cell::Text(id.into()))
    }),
    column("gnomon_node", "string", |f| Some(Cell::Text(f.origin.agent_name.as_ref().into()))),
    column("gnomon_interface", "string", |f| Some(Cell::Text(f.origin.interface.as_ref().into()))),
    column("gnomon_time_error", "interval", |f| f.time_err_ns().map(Cell::Error)),
    column("gnomon_end_reason", "string", |f| {
        Some(Cell::Text(f.record.end.map_or("open", |end| end.name()).into()))
    }),
];

fn vlan(flow: &StoredFlow, depth: usize) -> Option<Cell<'static>> {
    let tags = flow.record.key.vlan;
    (tags[depth] != 0).then(|| Cell::Count(tags[depth].into()))
}

fn mac(mac: Option<[u8; 6]>) -> Option<Cell<'static>> {
    mac.map(|mac| Cell::Text(mac_text(mac).into()))
}

/// Zeek's transport_proto knows three.
fn transport(protocol: u8) -> &'static str {
    match protocol {
        1 | 58 => "icmp",
        6 => "tcp",
        17 => "udp",
        _ => "unknown_transport",
    }
}

/// For ICMP the type, and the type that answers it or else the code, as Zeek has it.
fn ports(flow: &StoredFlow) -> (u16, u16) {
    let key = &flow.record.key;
    match (key.protocol, flow.record.icmp) {
        (1 | 58, Some((kind, code))) => {
            let other = answer(key.protocol, kind).unwrap_or(code);
            (kind.into(), other.into())
        }
        (6 | 17, _) => (key.orig_port, key.resp_port),
        _ => (0, 0),
    }
}

/// The ICMP type that belongs to a type (IANA's lists: echo, timestamp, information, mask, router discovery; for IPv6
/// echo, multicast listeners, router and neighbour discovery, node information, home agents).
fn answer(protocol: u8, kind: u8) -> Option<u8> {
    const ICMP: [(u8, u8); 5] = [(8, 0), (13, 14), (15, 16), (17, 18), (10, 9)];
    const ICMPV6: [(u8, u8); 6] = [(128, 129), (130, 131), (133, 134), (135, 136), (139, 140), (144, 145)];
    let pairs: &[(u8, u8)] = if protocol == 1 { &ICMP } else { &ICMPV6 };
    pairs.iter().find_map(|(ask, tell)| match kind {
        kind if kind == *ask => Some(*tell),
        kind if kind == *tell => Some(*ask),
        _ => None,
    })
}

/// Protocols by Zeek's names of its analyzers, where they differ from ours.
const SERVICES: [(&str, &str); 4] = [("tls", "ssl"), ("dtls", "ssl"), ("krb5", "krb"), ("dcerpc", "dce_rpc")];

fn service(flow: &StoredFlow) -> Option<Cell<'_>> {
    let mut names: Vec<&str> = Vec::new();
    for value in flow.record.attributes.of(field::PROTOCOLS) {
        if let AttributeValue::Text(name) = value {
            let name = SERVICES.iter().find(|(ours, _)| ours == name).map_or(name.as_str(), |(_, zeek)| zeek);
            if !names.contains(&name) {
                names.push(name);
            }
        }
    }
    (!names.is_empty()).then(|| Cell::Text(names.join(",").into()))
}

#[cfg(test)]
mod tests {
    use super::answer;

    #[test]
    fn icmp_types_that_belong_together_find_each_other() {
        assert_eq!((answer(1, 8), answer(1, 0), answer(58, 136)), (Some(0), Some(8), Some(135)));
        assert_eq!((answer(1, 3), answer(58, 8)), (None, None));
    }
}
