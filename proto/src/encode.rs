//! Records as the bytes of a [`crate::v1::FlowBatch`], and packets as those of a [`crate::v1::SliceBlock`], written from what
//! an agent has: the same bytes that the generated messages give, without making those first.

use std::net::IpAddr;

use gnomon_clock::RawNs;
use gnomon_flow::{
    Addresses, AttributeValue, DirectionCounters, FlowEndReason, FlowId, FlowKey, FlowRecord, TcpSummary,
};
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint};

use crate::flow::{end_to_wire, problem_to_wire, tcp_state_to_wire};

/// The field `interface` of a batch, which comes before its records.
pub fn append_interface(batch: &mut Vec<u8>, interface: &str) {
    if !interface.is_empty() {
        bytes(batch, 1, interface.as_bytes());
    }
}

/// One more of the field `records`.
pub fn append_record(batch: &mut Vec<u8>, record: &FlowRecord) {
    message(batch, 2, |out| put_record(out, record));
}

/// What a [`crate::v1::SliceBlock`] is made of.
#[derive(Clone, Copy, Debug)]
pub struct SliceBlockParts<'a> {
    pub interface: &'a str,
    pub packets: u32,
    pub first: RawNs,
    pub last: RawNs,
    /// Of `block` after decompression.
    pub block_bytes: u32,
    /// Rising, each once.
    pub flows: &'a [FlowId],
    /// One zstd frame.
    pub block: &'a [u8],
}

/// A whole message of packets.
pub fn append_slice_block(out: &mut Vec<u8>, parts: &SliceBlockParts<'_>) {
    let SliceBlockParts { interface, packets, first, last, block_bytes, flows, block } = *parts;
    append_interface(out, interface);
    number(out, 2, packets);
    fixed64(out, 3, first.0);
    fixed64(out, 4, last.0);
    number(out, 5, block_bytes);
    if !flows.is_empty() {
        encode_key(6, WireType::LengthDelimited, out);
        encode_varint(size_of_val(flows) as u64, out);
        flows.iter().for_each(|flow| out.extend(flow.0.to_le_bytes()));
    }
    if !block.is_empty() {
        bytes(out, 7, block);
    }
}

fn put_record(out: &mut Vec<u8>, record: &FlowRecord) {
    // Named one by one, so that a field that is not written does not compile.
    let FlowRecord {
        id,
        segment,
        revision,
        key,
        first,
        last,
        stamp_err_ns,
        orig,
        resp,
        tcp,
        icmp,
        direction_guessed,
        own_uplink,
        problem,
        sliced_packets,
        sliced_bytes,
        end,
        attributes,
    } = record;
    fixed64(out, 1, id.0);
    number(out, 2, *segment);
    number(out, 3, *revision);
    message(out, 4, |out| put_key(out, key));
    fixed64(out, 5, first.0);
    fixed64(out, 6, last.0);
    number(out, 7, *stamp_err_ns);
    message(out, 8, |out| put_direction(out, orig));
    message(out, 9, |out| put_direction(out, resp));
    if let Some(tcp) = tcp {
        message(out, 10, |out| put_tcp(out, tcp));
    }
    if let Some((kind, code)) = icmp {
        message(out, 11, |out| {
            number(out, 1, *kind);
            number(out, 2, *code);
        });
    }
    number(out, 12, *direction_guessed);
    number(out, 13, problem.map_or(0, |problem| enumerated(problem_to_wire(problem).into())));
    number(out, 14, *sliced_packets);
    number(out, 15, *sliced_bytes);
    number(out, 16, end.map_or(0, |end: FlowEndReason| enumerated(end_to_wire(end).into())));
    for attribute in attributes.iter() {
        message(out, 17, |out| {
            number(out, 1, attribute.field.0);
            match &attribute.value {
                AttributeValue::Integer(n) => always(out, 2, *n),
                AttributeValue::Text(text) => bytes(out, 3, text.as_bytes()),
                AttributeValue::Ip(IpAddr::V4(ip)) => bytes(out, 4, &ip.octets()),
                AttributeValue::Ip(IpAddr::V6(ip)) => bytes(out, 4, &ip.octets()),
            }
        });
    }
    number(out, 18, attributes.dropped());
    number(out, 19, *own_uplink);
}

fn put_key(out: &mut Vec<u8>, key: &FlowKey) {
    let FlowKey { vlan, ethertype, protocol, addresses, orig_port, resp_port } = key;
    packed(out, 1, vlan.iter().filter(|id| **id != 0).map(|id| u64::from(*id)));
    number(out, 2, *ethertype);
    number(out, 3, *protocol);
    match addresses {
        Addresses::V4 { orig, resp } => both(out, orig, resp),
        Addresses::V6 { orig, resp } => both(out, orig, resp),
        Addresses::Mac { orig, resp } => both(out, orig, resp),
        Addresses::None => {}
    }
    number(out, 6, *orig_port);
    number(out, 7, *resp_port);
}

fn both(out: &mut Vec<u8>, orig: &[u8], resp: &[u8]) {
    bytes(out, 4, orig);
    bytes(out, 5, resp);
}

fn put_direction(out: &mut Vec<u8>, way: &DirectionCounters) {
    let DirectionCounters { packets, bytes: all, ip_bytes, data_bytes, fragments, ttl, mac } = way;
    number(out, 1, *packets);
    number(out, 2, *all);
    number(out, 3, *ip_bytes);
    number(out, 4, *data_bytes);
    number(out, 5, *fragments);
    if let Some((min, max)) = ttl {
        always(out, 6, u64::from(*min));
        always(out, 7, u64::from(*max));
    }
    if let Some(mac) = mac {
        bytes(out, 8, mac);
    }
}

fn put_tcp(out: &mut Vec<u8>, tcp: &TcpSummary) {
    let TcpSummary { state, flags, syn_ack, of_side, rtt_ns, retransmissions } = tcp;
    number(out, 1, enumerated(tcp_state_to_wire(*state).into()));
    packed(out, 2, flags.iter().map(|count| u64::from(*count)));
    number(out, 3, *syn_ack);
    if let Some(rtt_ns) = rtt_ns {
        always(out, 4, *rtt_ns);
    }
    number(out, 5, *retransmissions);
    number(out, 6, of_side[0]);
    number(out, 7, of_side[1]);
}

/// As on the wire: none of ours is negative.
fn enumerated(value: i32) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

/// A field of a number, left out where it is 0.
fn number(out: &mut Vec<u8>, field: u32, n: impl Into<u64>) {
    let n = n.into();
    if n != 0 {
        always(out, field, n);
    }
}

/// A field of a number that says something by being there.
fn always(out: &mut Vec<u8>, field: u32, n: u64) {
    encode_key(field, WireType::Varint, out);
    encode_varint(n, out);
}

fn fixed64(out: &mut Vec<u8>, field: u32, n: u64) {
    if n != 0 {
        encode_key(field, WireType::SixtyFourBit, out);
        out.extend(n.to_le_bytes());
    }
}

fn bytes(out: &mut Vec<u8>, field: u32, bytes: &[u8]) {
    encode_key(field, WireType::LengthDelimited, out);
    encode_varint(bytes.len() as u64, out);
    out.extend(bytes);
}

fn packed(out: &mut Vec<u8>, field: u32, numbers: impl Iterator<Item = u64>) {
    let mut numbers = numbers.peekable();
    if numbers.peek().is_some() {
        message(out, field, |out| numbers.for_each(|n| encode_varint(n, out)));
    }
}

/// What `body` appends, behind its length. Most lengths take the one byte that is kept for them; for others what was
/// written moves on.
fn message(out: &mut Vec<u8>, field: u32, body: impl FnOnce(&mut Vec<u8>)) {
    encode_key(field, WireType::LengthDelimited, out);
    let at = out.len();
    out.push(0);
    body(out);
    let length = out.len() - at - 1;
    let more = encoded_len_varint(length as u64) - 1;
    if more > 0 {
        out.resize(out.len() + more, 0);
        out.copy_within(at + 1..at + 1 + length, at + 1 + more);
    }
    encode_varint(length as u64, &mut &mut out[at..=at + more]);
}
