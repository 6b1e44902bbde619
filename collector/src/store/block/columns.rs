//! Which columns a block has, and what of a record is in which. **Frozen**: a number never changes its meaning, and one
//! that is retired stays reserved. Numbers from 1000 on are those of the field table: a list of metadata values each.

use std::net::IpAddr;

use gnomon_clock::RawNs;
use gnomon_flow::{
    Addresses, AttributeValue, Attributes, DecodeProblem, DirectionCounters, FieldId, FlowEndReason, FlowId,
    FlowKey, FlowRecord, StoredFlow, TcpState, TcpSummary, TimeState, Value,
};

use crate::store::envelope;

/// The number of a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Column(pub(crate) u16);

pub(crate) const FLOW: Column = Column(1);
pub(crate) const SEGMENT: Column = Column(2);
pub(crate) const REVISION: Column = Column(3);
/// Place in the block's list of sources.
pub(crate) const SOURCE: Column = Column(4);
/// TAI nanoseconds.
pub(crate) const INGESTED: Column = Column(5);
/// 0 indexed, 1 pending, 2 quarantined.
pub(crate) const STATE: Column = Column(6);
pub(crate) const GUESSED: Column = Column(7);
/// 0: the record is open; else 1 + the place in [`FlowEndReason::ALL`].
pub(crate) const END: Column = Column(8);
pub(crate) const PROBLEM: Column = Column(9);
pub(crate) const FIRST: Column = Column(10);
/// `last − first`.
pub(crate) const LENGTH: Column = Column(11);
pub(crate) const STAMP_ERR: Column = Column(12);
/// 4, 16 or (MAC) 6 bytes; nothing where no address could be read.
pub(crate) const ORIG: Column = Column(14);
pub(crate) const RESP: Column = Column(15);
pub(crate) const VLAN_OUTER: Column = Column(16);
pub(crate) const VLAN_INNER: Column = Column(17);
pub(crate) const ETHERTYPE: Column = Column(18);
pub(crate) const PROTOCOL: Column = Column(19);
pub(crate) const ORIG_PORT: Column = Column(20);
pub(crate) const RESP_PORT: Column = Column(21);
/// The columns of one direction, from these numbers on in this order: packets, bytes, `bytes − ip_bytes`,
/// `ip_bytes − data_bytes`, fragments, 1 + smallest TTL (0: none), largest − smallest TTL, MAC.
pub(crate) const ORIG_WAY: u16 = 30;
pub(crate) const RESP_WAY: u16 = 40;
/// 0: no TCP; else 1 + the place in [`TcpState::ALL`].
pub(crate) const TCP_STATE: Column = Column(50);
/// Eight columns, one a flag.
pub(crate) const TCP_FLAGS: u16 = 51;
pub(crate) const SYN_ACK: Column = Column(59);
/// 1 + the round trip; 0: not known.
pub(crate) const RTT: Column = Column(60);
pub(crate) const RETRANSMISSIONS: Column = Column(61);
/// 1 + type × 256 + code; 0: no ICMP.
pub(crate) const ICMP: Column = Column(62);
pub(crate) const SLICED_PACKETS: Column = Column(63);
pub(crate) const SLICED_BYTES: Column = Column(64);
pub(crate) const ATTRIBUTES_DROPPED: Column = Column(65);
/// The originator's flags + 256 × the responder's. Blocks of before it have none of it.
pub(crate) const SIDE_FLAGS: Column = Column(66);
/// 1: gnomon's own traffic. Blocks of before it have none of it.
pub(crate) const OWN_UPLINK: Column = Column(67);

/// Where a way's counters are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Way(pub(crate) u16);

impl Way {
    pub(crate) fn packets(self) -> Column {
        Column(self.0)
    }
    pub(crate) fn bytes(self) -> Column {
        Column(self.0 + 1)
    }
    pub(crate) fn link_bytes(self) -> Column {
        Column(self.0 + 2)
    }
    pub(crate) fn header_bytes(self) -> Column {
        Column(self.0 + 3)
    }
    pub(crate) fn fragments(self) -> Column {
        Column(self.0 + 4)
    }
    pub(crate) fn ttl_min(self) -> Column {
        Column(self.0 + 5)
    }
    pub(crate) fn ttl_range(self) -> Column {
        Column(self.0 + 6)
    }
    pub(crate) fn mac(self) -> Column {
        Column(self.0 + 7)
    }
}

/// The integers of a record but its source, by column.
pub(super) fn integers_of(flow: &StoredFlow, mut put: impl FnMut(Column, u64)) {
    // Named one by one, so that a field without a column does not compile.
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
    } = &flow.record;
    put(FLOW, id.0);
    put(SEGMENT, u64::from(*segment));
    put(REVISION, u64::from(*revision));
    put(INGESTED, flow.ingested.map_or(0, |at| at.tai_ns().cast_unsigned()));
    put(STATE, u64::from(envelope::state_byte(flow.time_state)));
    put(GUESSED, u64::from(*direction_guessed));
    put(OWN_UPLINK, u64::from(*own_uplink));
    put(END, end.map_or(0, |end| 1 + place(&FlowEndReason::ALL, &end)));
    put(PROBLEM, problem.map_or(0, |problem| 1 + place(&DecodeProblem::ALL, &problem)));
    put(FIRST, first.0);
    put(LENGTH, last.since(*first));
    put(STAMP_ERR, u64::from(*stamp_err_ns));
    let FlowKey { vlan, ethertype, protocol, addresses: _, orig_port, resp_port } = key;
    put(VLAN_OUTER, u64::from(vlan[0]));
    put(VLAN_INNER, u64::from(vlan[1]));
    put(ETHERTYPE, u64::from(*ethertype));
    put(PROTOCOL, u64::from(*protocol));
    put(ORIG_PORT, u64::from(*orig_port));
    put(RESP_PORT, u64::from(*resp_port));
    for (way, counters) in [(Way(ORIG_WAY), orig), (Way(RESP_WAY), resp)] {
        let DirectionCounters { packets, bytes, ip_bytes, data_bytes, fragments, ttl, mac: _ } = counters;
        put(way.packets(), *packets);
        put(way.bytes(), *bytes);
        put(way.link_bytes(), bytes.wrapping_sub(*ip_bytes));
        put(way.header_bytes(), ip_bytes.wrapping_sub(*data_bytes));
        put(way.fragments(), *fragments);
        put(way.ttl_min(), ttl.map_or(0, |(min, _)| 1 + u64::from(min)));
        put(way.ttl_range(), ttl.map_or(0, |(min, max)| u64::from(max.saturating_sub(min))));
    }
    put(TCP_STATE, tcp.map_or(0, |tcp| 1 + place(&TcpState::ALL, &tcp.state)));
    let TcpSummary { state: _, flags, syn_ack, of_side, rtt_ns, retransmissions } = tcp.unwrap_or_default();
    put(SIDE_FLAGS, u64::from(u16::from_le_bytes(of_side)));
    for (column, flag) in (TCP_FLAGS..).zip(flags) {
        put(Column(column), u64::from(flag));
    }
    put(SYN_ACK, u64::from(syn_ack));
    put(RTT, rtt_ns.map_or(0, |rtt| rtt.saturating_add(1)));
    put(RETRANSMISSIONS, u64::from(retransmissions));
    put(ICMP, icmp.map_or(0, |(kind, code)| 1 + (u64::from(kind) << 8 | u64::from(code))));
    put(SLICED_PACKETS, *sliced_packets);
    put(SLICED_BYTES, *sliced_bytes);
    put(ATTRIBUTES_DROPPED, u64::from(attributes.dropped()));
}

/// The columns of single texts or addresses.
pub(crate) const BYTES: [Column; 4] = [ORIG, RESP, Column(ORIG_WAY + 7), Column(RESP_WAY + 7)];

/// The values of [`BYTES`].
pub(super) fn bytes_of(flow: &StoredFlow) -> [&[u8]; 4] {
    let record = &flow.record;
    let (orig, resp): (&[u8], &[u8]) = match &record.key.addresses {
        Addresses::V4 { orig, resp } => (orig, resp),
        Addresses::V6 { orig, resp } => (orig, resp),
        Addresses::Mac { orig, resp } => (orig, resp),
        Addresses::None => (&[], &[]),
    };
    fn mac(counters: &DirectionCounters) -> &[u8] {
        counters.mac.as_ref().map_or(&[], |mac| &mac[..])
    }
    [orig, resp, mac(&record.orig), mac(&record.resp)]
}

pub(crate) const VALUE_INTEGER: u8 = 0;
pub(crate) const VALUE_TEXT: u8 = 1;
pub(crate) const VALUE_IP: u8 = 2;

/// A metadata value as an entry of a dictionary: a byte for its kind, then it.
pub(crate) fn value_bytes(value: &AttributeValue, out: &mut Vec<u8>) {
    match value {
        // Big endian, so that the entries' order is the numbers'.
        AttributeValue::Integer(n) => {
            out.push(VALUE_INTEGER);
            out.extend(n.to_be_bytes());
        }
        AttributeValue::Text(text) => {
            out.push(VALUE_TEXT);
            out.extend_from_slice(text.as_bytes());
        }
        AttributeValue::Ip(ip) => {
            out.push(VALUE_IP);
            match ip {
                IpAddr::V4(v4) => out.extend(v4.octets()),
                IpAddr::V6(v6) => out.extend(v6.octets()),
            }
        }
    }
}

fn attribute_of(value: Value<'_>) -> Option<AttributeValue> {
    Some(match value {
        Value::Integer(n) => AttributeValue::Integer(n),
        Value::Text(text) => AttributeValue::Text(text.into()),
        Value::Ip(ip) => AttributeValue::Ip(ip),
        Value::Time(_) | Value::Bool(_) => return None,
    })
}

/// An entry as a value of the field table; `None`: no value of this version.
pub(crate) fn value_of(entry: &[u8]) -> Option<Value<'_>> {
    let (kind, bytes) = entry.split_first()?;
    Some(match *kind {
        VALUE_INTEGER => Value::Integer(u64::from_be_bytes(bytes.try_into().ok()?)),
        VALUE_TEXT => Value::Text(std::str::from_utf8(bytes).ok()?.into()),
        VALUE_IP => Value::Ip(ip_of(bytes)?),
        _ => return None,
    })
}

/// An address of 4 or 16 bytes.
pub(crate) fn ip_of(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Some(IpAddr::from(v4));
    }
    <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from)
}

/// A row, as it is read back from columns.
pub(crate) trait Row {
    fn integer(&self, column: Column) -> u64;
    fn bytes(&self, column: Column) -> &[u8];
    fn lists(&self, each: &mut dyn FnMut(FieldId, &[u8]));
}

/// The record of a row. Values that cannot be are cut to what can: columns are checked by their checksums, not here.
pub(crate) fn record_of(row: &impl Row) -> FlowRecord {
    let int = |column| row.integer(column);
    let byte = |n: u64| n as u8;
    let (orig, resp) = (row.bytes(ORIG), row.bytes(RESP));
    let addresses = match (orig.len(), resp.len()) {
        (4, 4) => Addresses::V4 { orig: array(orig), resp: array(resp) },
        (16, 16) => Addresses::V6 { orig: array(orig), resp: array(resp) },
        (6, 6) => Addresses::Mac { orig: array(orig), resp: array(resp) },
        _ => Addresses::None,
    };
    let way = |way: Way| {
        let bytes = int(way.bytes());
        let ip_bytes = bytes.wrapping_sub(int(way.link_bytes()));
        let mac = row.bytes(way.mac());
        DirectionCounters {
            packets: int(way.packets()),
            bytes,
            ip_bytes,
            data_bytes: ip_bytes.wrapping_sub(int(way.header_bytes())),
            fragments: int(way.fragments()),
            ttl: int(way.ttl_min())
                .checked_sub(1)
                .map(|min| (byte(min), byte(min).saturating_add(byte(int(way.ttl_range()))))),
            mac: (mac.len() == 6).then(|| array(mac)),
        }
    };
    let tcp = int(TCP_STATE).checked_sub(1).map(|state| TcpSummary {
        state: TcpState::ALL.get(state as usize).copied().unwrap_or_default(),
        flags: std::array::from_fn(|flag| int(Column(TCP_FLAGS + flag as u16)) as u32),
        syn_ack: int(SYN_ACK) as u32,
        of_side: [byte(int(SIDE_FLAGS)), byte(int(SIDE_FLAGS) >> 8)],
        rtt_ns: int(RTT).checked_sub(1),
        retransmissions: int(RETRANSMISSIONS) as u32,
    });
    let mut attributes = Attributes::default();
    row.lists(&mut |field, entry| {
        if let Some(value) = value_of(entry).and_then(attribute_of) {
            attributes.push(field, value);
        }
    });
    attributes.add_dropped(int(ATTRIBUTES_DROPPED) as u32);
    FlowRecord {
        id: FlowId(int(FLOW)),
        segment: int(SEGMENT) as u32,
        revision: int(REVISION) as u32,
        key: FlowKey {
            vlan: [int(VLAN_OUTER) as u16, int(VLAN_INNER) as u16],
            ethertype: int(ETHERTYPE) as u16,
            protocol: byte(int(PROTOCOL)),
            addresses,
            orig_port: int(ORIG_PORT) as u16,
            resp_port: int(RESP_PORT) as u16,
        },
        first: RawNs(int(FIRST)),
        last: RawNs(int(FIRST).saturating_add(int(LENGTH))),
        stamp_err_ns: int(STAMP_ERR) as u32,
        orig: way(Way(ORIG_WAY)),
        resp: way(Way(RESP_WAY)),
        tcp,
        icmp: int(ICMP).checked_sub(1).map(|icmp| (byte(icmp >> 8), byte(icmp))),
        direction_guessed: int(GUESSED) != 0,
        own_uplink: int(OWN_UPLINK) != 0,
        problem: at(&DecodeProblem::ALL, int(PROBLEM)),
        sliced_packets: int(SLICED_PACKETS),
        sliced_bytes: int(SLICED_BYTES),
        end: at(&FlowEndReason::ALL, int(END)),
        attributes,
    }
}

pub(crate) fn state_of(code: u64) -> TimeState {
    u8::try_from(code).ok().and_then(envelope::state_of).unwrap_or(TimeState::Quarantined)
}

fn place<T: PartialEq>(all: &[T], one: &T) -> u64 {
    all.iter().position(|other| other == one).unwrap_or(0) as u64
}

fn at<T: Copy>(all: &[T], code: u64) -> Option<T> {
    all.get(code.checked_sub(1)? as usize).copied()
}

/// Of a length that was looked at.
fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    std::array::from_fn(|i| bytes.get(i).copied().unwrap_or(0))
}
