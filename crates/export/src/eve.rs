//! Suricata's EVE events of type `flow` (its user guide, "EVE JSON format", and etc/schema.json, whose names are all
//! that is used: its objects take no others).

use std::net::IpAddr;

use gnomon_flow::community::community_id;
use gnomon_flow::field::{self, mac_text};
use gnomon_flow::id::fnv1a;
use gnomon_flow::{AttributeValue, FlowEndReason, FlowRecord, StoredFlow, TcpState};
use serde_json::{Value, json};

use crate::object::{Object, put};
use crate::time::eve as time;

/// What a JavaScript number holds exactly, as Suricata keeps to.
const FLOW_ID_BITS: u32 = 51;

pub(crate) fn object(flow: &StoredFlow) -> Object {
    let record = &flow.record;
    let key = &record.key;
    let mut event = Object::new();
    let mut set = |name: &str, value: Value| put(&mut event, name, value);
    set("event_type", "flow".into());
    set("host", flow.origin.agent_name.as_ref().into());
    set("in_iface", flow.origin.interface.as_ref().into());
    set("flow_id", flow_id(flow).into());
    if let (Some(first), Some(last)) = (flow.first, flow.last) {
        // An event is written when its flow ends.
        set("timestamp", time(last.utc).into());
        set("flow.start", time(first.utc).into());
        set("flow.end", time(last.utc).into());
    }
    set("flow.age", (record.last.since(record.first) / 1_000_000_000).into());
    for (side, counters) in [("toserver", &record.orig), ("toclient", &record.resp)] {
        set(&format!("flow.pkts_{side}"), counters.packets.into());
        set(&format!("flow.bytes_{side}"), counters.bytes.into());
    }
    set("flow.state", state(record).into());
    if let Some(end) = record.end {
        set("flow.reason", reason(end).into());
    }
    for (name, ip) in [("src_ip", key.orig_ip()), ("dest_ip", key.resp_ip())] {
        if let Some(ip) = ip {
            set(name, address(ip).into());
            set("ip_v", if ip.is_ipv4() { 4 } else { 6 }.into());
        }
    }
    if key.has_ports() {
        set("src_port", key.orig_port.into());
        set("dest_port", key.resp_port.into());
    }
    set("proto", protocol(key.protocol).into());
    if let Some((kind, code)) = record.icmp {
        set("icmp_type", kind.into());
        set("icmp_code", code.into());
    }
    let vlans: Vec<u16> = key.vlan.into_iter().filter(|vlan| *vlan != 0).collect();
    if !vlans.is_empty() {
        set("vlan", vlans.into());
    }
    for (name, mac) in [("ether.src_macs", record.orig.mac), ("ether.dest_macs", record.resp.mac)] {
        if let Some(mac) = mac {
            set(name, json!([mac_text(mac)]));
        }
    }
    if let Some(id) = community_id(key, record.icmp) {
        set("community_id", id.into());
    }
    if let Some(name) = app_proto(record) {
        set("app_proto", name.into());
    }
    tcp(record, &mut set);
    // The one place where names of ours may stand.
    let mut variables = vec![json!({"key": "gnomon_id", "value": flow.id().to_string()})];
    if let Some(err_ns) = flow.time_err_ns() {
        variables.push(json!({"key": "gnomon_time_error_ns", "value": err_ns.to_string()}));
    }
    set("metadata.flowvars", variables.into());
    event
}

/// As Suricata writes it: all eight groups of IPv6, so that its events and these can be joined by the text.
fn address(ip: IpAddr) -> String {
    match ip {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => ip.segments().map(|group| format!("{group:04x}")).join(":"),
    }
}

/// The same for all segments of a flow, as Suricata's is for all events of one.
fn flow_id(flow: &StoredFlow) -> u64 {
    let id = flow.id();
    let bytes = id.epoch.0.to_be_bytes().into_iter().chain(id.flow.0.to_be_bytes());
    fnv1a(bytes) & ((1 << FLOW_ID_BITS) - 1)
}

fn state(record: &FlowRecord) -> &'static str {
    let answered = record.orig.packets > 0 && record.resp.packets > 0;
    match record.tcp.map(|tcp| tcp.state) {
        Some(TcpState::SynSent | TcpState::SynReceived) => "new",
        Some(TcpState::Closed | TcpState::Reset) => "closed",
        Some(TcpState::Established | TcpState::Closing) => "established",
        Some(TcpState::Midstream) | None => {
            if answered {
                "established"
            } else {
                "new"
            }
        }
    }
}

/// Suricata's flows end by a timeout, closed ones too; by force where room is needed; by shutdown.
fn reason(end: FlowEndReason) -> &'static str {
    match end {
        FlowEndReason::Idle | FlowEndReason::Active | FlowEndReason::EndOfFlow => "timeout",
        FlowEndReason::LackOfResources => "forced",
        FlowEndReason::Forced => "shutdown",
    }
}

fn protocol(number: u8) -> String {
    match number {
        58 => "IPv6-ICMP".to_owned(),
        number => field::PROTOCOL_NAMES
            .iter()
            .find(|(known, _)| *known == number)
            .map_or_else(|| format!("{number:03}"), |(_, name)| name.to_uppercase()),
    }
}

/// Protocols by Suricata's names, where they differ from ours.
const APP_PROTOS: [(&str, &str); 4] =
    [("postgresql", "pgsql"), ("vnc", "rfb"), ("isakmp", "ike"), ("bittorrent", "bittorrent-dht")];

fn app_proto(record: &FlowRecord) -> Option<&str> {
    let ours = record.attributes.of(field::PROTOCOLS).find_map(|value| match value {
        AttributeValue::Text(name) if !crate::ecs::is_tunnel(name) => Some(name.as_str()),
        _ => None,
    })?;
    Some(APP_PROTOS.iter().find(|(known, _)| *known == ours).map_or(ours, |(_, suricata)| suricata))
}

/// Flags of both sides together, and of each where the agent said whose they were.
fn tcp(record: &FlowRecord, set: &mut impl FnMut(&str, Value)) {
    const NAMES: [&str; 8] = ["fin", "syn", "rst", "psh", "ack", "urg", "ecn", "cwr"];
    let Some(tcp) = &record.tcp else { return };
    set("tcp.tcp_flags", format!("{:02x}", tcp_flags(record)).into());
    if tcp.of_side != [0; 2] {
        set("tcp.tcp_flags_ts", format!("{:02x}", tcp.of_side[0]).into());
        set("tcp.tcp_flags_tc", format!("{:02x}", tcp.of_side[1]).into());
    }
    for (bit, name) in NAMES.iter().enumerate() {
        if tcp_flags(record) >> bit & 1 == 1 {
            set(&format!("tcp.{name}"), true.into());
        }
    }
    let state = match tcp.state {
        TcpState::SynSent => Some("syn_sent"),
        TcpState::SynReceived => Some("syn_recv"),
        TcpState::Established => Some("established"),
        TcpState::Closed | TcpState::Reset => Some("closed"),
        // Whether what one side sent was acknowledged, and so which of Suricata's four it is, is not in the record.
        TcpState::Midstream | TcpState::Closing => None,
    };
    if let Some(state) = state {
        set("tcp.state", state.into());
    }
}

/// The flags that any packet had.
pub(crate) fn tcp_flags(record: &FlowRecord) -> u8 {
    let Some(tcp) = &record.tcp else { return 0 };
    let seen = (0..8).filter(|bit| tcp.flags[*bit] > 0).fold(0, |flags, bit| flags | 1 << bit);
    if tcp.syn_ack > 0 { seen | 0b1_0010 } else { seen }
}
