//! Flow records to and from the wire.

use std::net::IpAddr;

use gnomon_clock::{EpochId, RawNs};
use gnomon_flow::{
    Addresses, AttributeValue, Attributes, DecodeProblem, DirectionCounters, FieldId, FlowEndReason, FlowId,
    FlowKey, FlowRecord, TcpState, TcpSummary,
};

use crate::limits::is_attribute_id;
use crate::v1;
use crate::wire::{WireError, array, narrow};

impl From<&EpochId> for v1::Epoch {
    fn from(epoch: &EpochId) -> v1::Epoch {
        v1::Epoch {
            agent: epoch.agent.to_vec(),
            boot_id: epoch.boot_id.to_vec(),
            opened_raw_ns: epoch.opened.0,
        }
    }
}

impl TryFrom<&v1::Epoch> for EpochId {
    type Error = WireError;

    fn try_from(wire: &v1::Epoch) -> Result<EpochId, WireError> {
        Ok(EpochId {
            agent: array("epoch.agent", &wire.agent)?,
            boot_id: array("epoch.boot_id", &wire.boot_id)?,
            opened: RawNs(wire.opened_raw_ns),
        })
    }
}

impl From<&FlowKey> for v1::FlowKey {
    fn from(key: &FlowKey) -> v1::FlowKey {
        let (orig_address, resp_address) = match key.addresses {
            Addresses::V4 { orig, resp } => (orig.to_vec(), resp.to_vec()),
            Addresses::V6 { orig, resp } => (orig.to_vec(), resp.to_vec()),
            Addresses::Mac { orig, resp } => (orig.to_vec(), resp.to_vec()),
            Addresses::None => (Vec::new(), Vec::new()),
        };
        v1::FlowKey {
            vlan: key.vlan.iter().filter(|v| **v != 0).map(|v| u32::from(*v)).collect(),
            ethertype: u32::from(key.ethertype),
            protocol: u32::from(key.protocol),
            orig_address,
            resp_address,
            orig_port: u32::from(key.orig_port),
            resp_port: u32::from(key.resp_port),
        }
    }
}

impl TryFrom<&v1::FlowKey> for FlowKey {
    type Error = WireError;

    fn try_from(wire: &v1::FlowKey) -> Result<FlowKey, WireError> {
        let (orig, resp) = (&wire.orig_address, &wire.resp_address);
        let addresses = match (orig.len(), resp.len()) {
            (4, 4) => Addresses::V4 {
                orig: array("key.orig_address", orig)?,
                resp: array("key.resp_address", resp)?,
            },
            (16, 16) => Addresses::V6 {
                orig: array("key.orig_address", orig)?,
                resp: array("key.resp_address", resp)?,
            },
            (6, 6) => Addresses::Mac {
                orig: array("key.orig_address", orig)?,
                resp: array("key.resp_address", resp)?,
            },
            (0, 0) => Addresses::None,
            (a, b) => {
                return Err(WireError::new(
                    "key.orig_address",
                    format!("lengths {a} and {b} are no address pair"),
                ));
            }
        };
        if wire.vlan.len() > 2 {
            return Err(WireError::new("key.vlan", format!("{} tags, at most 2", wire.vlan.len())));
        }
        let mut vlan = [0u16; 2];
        // 0 is no VLAN, as in the tags themselves.
        for (slot, value) in vlan.iter_mut().zip(wire.vlan.iter().filter(|id| **id != 0)) {
            *slot = narrow("key.vlan", *value)?;
        }
        Ok(FlowKey {
            vlan,
            ethertype: narrow("key.ethertype", wire.ethertype)?,
            protocol: narrow("key.protocol", wire.protocol)?,
            addresses,
            orig_port: narrow("key.orig_port", wire.orig_port)?,
            resp_port: narrow("key.resp_port", wire.resp_port)?,
        })
    }
}

impl From<&DirectionCounters> for v1::Direction {
    fn from(way: &DirectionCounters) -> v1::Direction {
        v1::Direction {
            packets: way.packets,
            bytes: way.bytes,
            ip_bytes: way.ip_bytes,
            data_bytes: way.data_bytes,
            fragments: way.fragments,
            ttl_min: way.ttl.map(|(min, _)| u32::from(min)),
            ttl_max: way.ttl.map(|(_, max)| u32::from(max)),
            mac: way.mac.map(|mac| mac.to_vec()).unwrap_or_default(),
        }
    }
}

impl TryFrom<&v1::Direction> for DirectionCounters {
    type Error = WireError;

    fn try_from(wire: &v1::Direction) -> Result<DirectionCounters, WireError> {
        Ok(DirectionCounters {
            packets: wire.packets,
            bytes: wire.bytes,
            ip_bytes: wire.ip_bytes,
            data_bytes: wire.data_bytes,
            fragments: wire.fragments,
            ttl: match (wire.ttl_min, wire.ttl_max) {
                (Some(min), Some(max)) => Some((narrow("ttl_min", min)?, narrow("ttl_max", max)?)),
                _ => None,
            },
            mac: if wire.mac.is_empty() { None } else { Some(array("mac", &wire.mac)?) },
        })
    }
}

pub(crate) fn tcp_state_to_wire(state: TcpState) -> v1::TcpState {
    match state {
        TcpState::Midstream => v1::TcpState::Midstream,
        TcpState::SynSent => v1::TcpState::SynSent,
        TcpState::SynReceived => v1::TcpState::SynReceived,
        TcpState::Established => v1::TcpState::Established,
        TcpState::Closing => v1::TcpState::Closing,
        TcpState::Closed => v1::TcpState::Closed,
        TcpState::Reset => v1::TcpState::Reset,
    }
}

pub(crate) fn end_to_wire(end: FlowEndReason) -> v1::EndReason {
    match end {
        FlowEndReason::Idle => v1::EndReason::Idle,
        FlowEndReason::Active => v1::EndReason::Active,
        FlowEndReason::EndOfFlow => v1::EndReason::EndOfFlow,
        FlowEndReason::Forced => v1::EndReason::Forced,
        FlowEndReason::LackOfResources => v1::EndReason::LackOfResources,
    }
}

pub(crate) fn problem_to_wire(problem: DecodeProblem) -> v1::Problem {
    match problem {
        DecodeProblem::TruncatedLink => v1::Problem::TruncatedLink,
        DecodeProblem::TruncatedNetwork => v1::Problem::TruncatedNetwork,
        DecodeProblem::TruncatedTransport => v1::Problem::TruncatedTransport,
        DecodeProblem::Malformed => v1::Problem::Malformed,
        DecodeProblem::TooDeep => v1::Problem::TooDeep,
        DecodeProblem::UnknownLink => v1::Problem::UnknownLink,
        DecodeProblem::Undecoded => v1::Problem::Undecoded,
    }
}

/// The domain value whose wire form `wire` is: `to_wire` stays the only table. 0 is "none".
pub(crate) fn from_wire<D: Copy, W: Into<i32>>(
    field: &'static str,
    wire: i32,
    all: &[D],
    to_wire: impl Fn(D) -> W,
) -> Result<Option<D>, WireError> {
    if wire == 0 {
        return Ok(None);
    }
    let found = all.iter().copied().find(|d| to_wire(*d).into() == wire);
    found.map(Some).ok_or_else(|| WireError::new(field, format!("{wire} is unknown")))
}

impl From<&TcpSummary> for v1::Tcp {
    fn from(tcp: &TcpSummary) -> v1::Tcp {
        v1::Tcp {
            state: tcp_state_to_wire(tcp.state).into(),
            flags: tcp.flags.to_vec(),
            syn_ack: tcp.syn_ack,
            rtt_ns: tcp.rtt_ns,
            retransmissions: tcp.retransmissions,
            originator_flags: tcp.of_side[0].into(),
            responder_flags: tcp.of_side[1].into(),
        }
    }
}

impl TryFrom<&v1::Tcp> for TcpSummary {
    type Error = WireError;

    fn try_from(wire: &v1::Tcp) -> Result<TcpSummary, WireError> {
        let flags = <[u32; 8]>::try_from(wire.flags.as_slice())
            .map_err(|_| WireError::new("tcp.flags", format!("{} counts, not 8", wire.flags.len())))?;
        let of_side = [
            narrow("tcp.originator_flags", wire.originator_flags)?,
            narrow("tcp.responder_flags", wire.responder_flags)?,
        ];
        let state = from_wire("tcp.state", wire.state, &TcpState::ALL, tcp_state_to_wire)?;
        Ok(TcpSummary {
            state: state.unwrap_or_default(),
            flags,
            syn_ack: wire.syn_ack,
            of_side,
            rtt_ns: wire.rtt_ns,
            retransmissions: wire.retransmissions,
        })
    }
}

fn ip_bytes(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

fn attributes_to_wire(attributes: &Attributes) -> Vec<v1::Attribute> {
    let value = |value: &AttributeValue| match value {
        AttributeValue::Integer(n) => v1::attribute::Value::Integer(*n),
        AttributeValue::Text(text) => v1::attribute::Value::Text(text.to_string()),
        AttributeValue::Ip(ip) => v1::attribute::Value::Ip(ip_bytes(*ip)),
    };
    attributes
        .iter()
        .map(|a| v1::Attribute { field: u32::from(a.field.0), value: Some(value(&a.value)) })
        .collect()
}

fn attributes_from_wire(wire: Vec<v1::Attribute>, dropped: u32) -> Result<Attributes, WireError> {
    let mut attributes = Attributes::default();
    for attribute in wire {
        // What is stored already may have one that means a column of its own: an agent's is refused before this.
        if !is_attribute_id(attribute.field) {
            attributes.add_dropped(1);
            continue;
        }
        let field = FieldId(narrow("attribute.field", attribute.field)?);
        let value = match attribute.value {
            Some(v1::attribute::Value::Integer(n)) => AttributeValue::Integer(n),
            Some(v1::attribute::Value::Text(text)) => AttributeValue::Text(text.into()),
            Some(v1::attribute::Value::Ip(ip)) if ip.len() == 4 => {
                AttributeValue::Ip(IpAddr::from(array::<4>("attribute.ip", &ip)?))
            }
            Some(v1::attribute::Value::Ip(ip)) => {
                AttributeValue::Ip(IpAddr::from(array::<16>("attribute.ip", &ip)?))
            }
            None => return Err(WireError::missing("attribute.value")),
        };
        attributes.push(field, value);
    }
    attributes.add_dropped(dropped);
    Ok(attributes)
}

impl From<&FlowRecord> for v1::FlowRecord {
    fn from(record: &FlowRecord) -> v1::FlowRecord {
        v1::FlowRecord {
            id: record.id.0,
            segment: record.segment,
            revision: record.revision,
            key: Some((&record.key).into()),
            first_raw_ns: record.first.0,
            last_raw_ns: record.last.0,
            stamp_err_ns: record.stamp_err_ns,
            orig: Some((&record.orig).into()),
            resp: Some((&record.resp).into()),
            tcp: record.tcp.as_ref().map(Into::into),
            icmp: record.icmp.map(|(kind, code)| v1::Icmp { r#type: u32::from(kind), code: u32::from(code) }),
            direction_guessed: record.direction_guessed,
            problem: record.problem.map_or(0, |problem| problem_to_wire(problem).into()),
            sliced_packets: record.sliced_packets,
            sliced_bytes: record.sliced_bytes,
            end: record.end.map_or(0, |end| end_to_wire(end).into()),
            attributes: attributes_to_wire(&record.attributes),
            attributes_dropped: record.attributes.dropped(),
            own_uplink: record.own_uplink,
        }
    }
}

impl TryFrom<&v1::FlowRecord> for FlowRecord {
    type Error = WireError;

    fn try_from(wire: &v1::FlowRecord) -> Result<FlowRecord, WireError> {
        FlowRecord::try_from(wire.clone())
    }
}

impl TryFrom<v1::FlowRecord> for FlowRecord {
    type Error = WireError;

    /// Texts are moved, not copied.
    fn try_from(wire: v1::FlowRecord) -> Result<FlowRecord, WireError> {
        let direction = |field, way: &Option<v1::Direction>| match way {
            Some(way) => DirectionCounters::try_from(way),
            None => Err(WireError::missing(field)),
        };
        let icmp = match &wire.icmp {
            Some(icmp) => Some((narrow("icmp.type", icmp.r#type)?, narrow("icmp.code", icmp.code)?)),
            None => None,
        };
        Ok(FlowRecord {
            id: FlowId(wire.id),
            segment: wire.segment,
            revision: wire.revision,
            key: wire.key.as_ref().ok_or(WireError::missing("record.key"))?.try_into()?,
            first: RawNs(wire.first_raw_ns),
            last: RawNs(wire.last_raw_ns),
            stamp_err_ns: wire.stamp_err_ns,
            orig: direction("record.orig", &wire.orig)?,
            resp: direction("record.resp", &wire.resp)?,
            tcp: wire.tcp.as_ref().map(TcpSummary::try_from).transpose()?,
            icmp,
            direction_guessed: wire.direction_guessed,
            own_uplink: wire.own_uplink,
            problem: from_wire("record.problem", wire.problem, &DecodeProblem::ALL, problem_to_wire)?,
            sliced_packets: wire.sliced_packets,
            sliced_bytes: wire.sliced_bytes,
            end: from_wire("record.end", wire.end, &FlowEndReason::ALL, end_to_wire)?,
            attributes: attributes_from_wire(wire.attributes, wire.attributes_dropped)?,
        })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::limits::{ATTRIBUTE_IDS, COUNTER_MAX};
    use proptest::prelude::*;

    prop_compose! {
        fn direction()(packets: u64, bytes: u64, data_bytes: u64, fragments: u64, ttl: Option<(u8, u8)>, mac: Option<[u8; 6]>)
            -> DirectionCounters {
            let [packets, bytes, data_bytes, fragments] = [packets, bytes, data_bytes, fragments].map(|n| n >> 8);
            DirectionCounters { packets, bytes, ip_bytes: bytes / 2, data_bytes, fragments, ttl, mac }
        }
    }

    fn addresses() -> impl Strategy<Value = Addresses> {
        prop_oneof![
            any::<([u8; 4], [u8; 4])>().prop_map(|(orig, resp)| Addresses::V4 { orig, resp }),
            any::<([u8; 16], [u8; 16])>().prop_map(|(orig, resp)| Addresses::V6 { orig, resp }),
            any::<([u8; 6], [u8; 6])>().prop_map(|(orig, resp)| Addresses::Mac { orig, resp }),
            Just(Addresses::None),
        ]
    }

    prop_compose! {
        fn key()(outer in 1u16..4095, ethertype: u16, protocol: u8, addresses in addresses(), orig_port: u16, resp_port: u16)
            -> FlowKey {
            FlowKey { vlan: [outer, 0], ethertype, protocol, addresses, orig_port, resp_port }
        }
    }

    fn tcp() -> impl Strategy<Value = Option<TcpSummary>> {
        let some = (
            0usize..TcpState::ALL.len(),
            any::<[u32; 8]>(),
            any::<[u8; 2]>(),
            prop::option::of(0..=COUNTER_MAX),
        )
            .prop_map(|(s, flags, of_side, rtt_ns)| TcpSummary {
                state: TcpState::ALL[s],
                flags,
                syn_ack: flags[0],
                of_side,
                rtt_ns,
                retransmissions: flags[1],
            });
        prop::option::of(some)
    }

    fn attributes() -> impl Strategy<Value = Attributes> {
        let value = prop_oneof![
            any::<u64>().prop_map(AttributeValue::Integer),
            any::<String>().prop_map(|text| AttributeValue::Text(text.into())),
            any::<IpAddr>().prop_map(AttributeValue::Ip),
        ];
        prop::collection::vec((ATTRIBUTE_IDS, value), 0..70).prop_map(|list| {
            let mut attributes = Attributes::default();
            for (field, value) in list {
                attributes.push(FieldId(field), value);
            }
            attributes
        })
    }

    prop_compose! {
        pub(crate) fn record()(
            numbers: (u64, u32, u32, u64, u64, u32), key in key(), orig in direction(), resp in direction(), tcp in tcp(),
            icmp: Option<(u8, u8)>, direction_guessed: bool, own_uplink: bool, problem in 0usize..7, end in 0usize..6, attributes in attributes(),
        ) -> FlowRecord {
            FlowRecord {
                id: FlowId(numbers.0), segment: numbers.1, revision: numbers.2, key,
                first: RawNs(numbers.3), last: RawNs(numbers.4), stamp_err_ns: numbers.5, orig, resp, tcp, icmp,
                direction_guessed, own_uplink, problem: DecodeProblem::ALL.get(problem).copied(), sliced_packets: numbers.0 >> 8,
                sliced_bytes: numbers.3 >> 8, end: FlowEndReason::ALL.get(end).copied(), attributes,
            }
        }
    }

    proptest! {
        #[test]
        fn a_record_survives_the_wire(record in record()) {
            prop_assert_eq!(FlowRecord::try_from(&v1::FlowRecord::from(&record)), Ok(record));
        }

        #[test]
        fn records_are_written_as_the_messages_are(records in proptest::collection::vec(record(), 0..3), name in "[a-z]{0,200}") {
            use prost::Message;
            let mut batch = Vec::new();
            crate::encode::append_interface(&mut batch, &name);
            records.iter().for_each(|record| crate::encode::append_record(&mut batch, record));
            let records = records.iter().map(v1::FlowRecord::from).collect();
            let message = v1::FlowBatch { interface: name, records, alerts: Vec::new() };
            prop_assert_eq!(batch, message.encode_to_vec());
        }
    }

    #[test]
    fn a_record_that_means_nothing_is_refused_with_the_field() {
        let wire = v1::FlowRecord {
            key: Some(v1::FlowKey { orig_address: vec![1; 5], ..Default::default() }),
            ..Default::default()
        };
        assert_eq!(FlowRecord::try_from(&wire).map_err(|e| e.field), Err("key.orig_address"));
        assert_eq!(FlowRecord::try_from(&v1::FlowRecord::default()).map_err(|e| e.field), Err("record.key"));
    }
}
