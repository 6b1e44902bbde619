//! What is in a record, for IPv4, IPv6 and everything else (by MAC addresses). A pure table: the elements' numbers,
//! lengths and meanings are IANA's (IPFIX Information Elements); reverse ones have RFC 5103's enterprise number.

use gnomon_flow::{Addresses, AttributeValue, DirectionCounters, FlowEndReason, FlowKey, StoredFlow, field};

use crate::eve::tcp_flags;
use crate::time::{epoch_millis, ntp};

/// RFC 5103 section 6.1.
const REVERSE_PEN: u32 = 29_305;
const ENTERPRISE_BIT: u16 = 0x8000;
const VARIABLE: u16 = 65_535;
/// Of one text, so that every record fits a datagram.
const TEXT_BYTES_MAX: usize = 128;

type Put = fn(&StoredFlow, &mut Vec<u8>);

struct Element {
    id: u16,
    bytes: u16,
    reverse: bool,
    put: Put,
}

const fn element(id: u16, bytes: u16, put: Put) -> Element {
    Element { id, bytes, reverse: false, put }
}

const fn reverse(id: u16, bytes: u16, put: Put) -> Element {
    Element { id, bytes, reverse: true, put }
}

pub(super) struct Template {
    pub(super) id: u16,
    parts: [&'static [Element]; 2],
}

const IPV4: Template = Template { id: 256, parts: [ADDRESSES_V4, COMMON] };
const IPV6: Template = Template { id: 257, parts: [ADDRESSES_V6, COMMON] };
const LAYER2: Template = Template { id: 258, parts: [&[], COMMON] };

impl Template {
    pub(super) const ALL: [&'static Template; 3] = [&IPV4, &IPV6, &LAYER2];

    pub(super) fn of(key: &FlowKey) -> &'static Template {
        // ARP's addresses are none that an IP header had.
        match key.addresses {
            _ if !key.is_ip() => &LAYER2,
            Addresses::V4 { .. } => &IPV4,
            Addresses::V6 { .. } => &IPV6,
            Addresses::Mac { .. } | Addresses::None => &LAYER2,
        }
    }

    fn elements(&self) -> impl Iterator<Item = &'static Element> {
        self.parts.into_iter().flatten()
    }

    /// The template record (RFC 7011 section 3.4.1).
    pub(super) fn describe(&self, out: &mut Vec<u8>) {
        out.extend(self.id.to_be_bytes());
        out.extend((self.elements().count() as u16).to_be_bytes());
        for element in self.elements() {
            let bit = if element.reverse { ENTERPRISE_BIT } else { 0 };
            out.extend((element.id | bit).to_be_bytes());
            out.extend(element.bytes.to_be_bytes());
            if element.reverse {
                out.extend(REVERSE_PEN.to_be_bytes());
            }
        }
    }

    /// A data record.
    pub(super) fn write(&self, flow: &StoredFlow, out: &mut Vec<u8>) {
        for element in self.elements() {
            let start = out.len();
            (element.put)(flow, out);
            debug_assert!(element.bytes == VARIABLE || out.len() - start == usize::from(element.bytes));
        }
    }
}

const ADDRESSES_V4: &[Element] = &[
    // sourceIPv4Address, destinationIPv4Address
    element(8, 4, |f, out| ipv4(f, true, out)),
    element(12, 4, |f, out| ipv4(f, false, out)),
    // icmpTypeCodeIPv4
    element(32, 2, icmp),
];

const ADDRESSES_V6: &[Element] = &[
    // sourceIPv6Address, destinationIPv6Address
    element(27, 16, |f, out| ipv6(f, true, out)),
    element(28, 16, |f, out| ipv6(f, false, out)),
    // icmpTypeCodeIPv6
    element(139, 2, icmp),
];

const COMMON: &[Element] = &[
    // flowStartMilliseconds and flowEndMilliseconds, for the many readers that know no other; the same in nanoseconds.
    element(152, 8, |f, out| out.extend(f.first.map_or(0, |e| epoch_millis(e.utc)).to_be_bytes())),
    element(153, 8, |f, out| out.extend(f.last.map_or(0, |e| epoch_millis(e.utc)).to_be_bytes())),
    element(156, 8, |f, out| out.extend(f.first.map_or(0, |e| ntp(e.utc)).to_be_bytes())),
    element(157, 8, |f, out| out.extend(f.last.map_or(0, |e| ntp(e.utc)).to_be_bytes())),
    // sourceTransportPort, destinationTransportPort, protocolIdentifier
    element(7, 2, |f, out| out.extend(f.record.key.orig_port.to_be_bytes())),
    element(11, 2, |f, out| out.extend(f.record.key.resp_port.to_be_bytes())),
    element(4, 1, |f, out| out.push(f.record.key.protocol)),
    // octetDeltaCount: by the IP headers; packetDeltaCount; layer2OctetDeltaCount: on the wire
    element(1, 8, |f, out| out.extend(f.record.orig.ip_bytes.to_be_bytes())),
    reverse(1, 8, |f, out| out.extend(f.record.resp.ip_bytes.to_be_bytes())),
    element(2, 8, |f, out| out.extend(f.record.orig.packets.to_be_bytes())),
    reverse(2, 8, |f, out| out.extend(f.record.resp.packets.to_be_bytes())),
    element(352, 8, |f, out| out.extend(f.record.orig.bytes.to_be_bytes())),
    reverse(352, 8, |f, out| out.extend(f.record.resp.bytes.to_be_bytes())),
    // tcpControlBits
    element(6, 2, |f, out| out.extend(u16::from(control_bits(f, 0)).to_be_bytes())),
    reverse(6, 2, |f, out| out.extend(u16::from(control_bits(f, 1)).to_be_bytes())),
    // flowEndReason
    element(136, 1, |f, out| out.push(f.record.end.map_or(2, end_reason))),
    // biflowDirection: the source is the initiator, or nobody knows
    element(239, 1, |f, out| out.push(u8::from(!f.record.direction_guessed))),
    // vlanId, dot1qCustomerVlanId: the tags from the outside in
    element(58, 2, |f, out| out.extend(f.record.key.vlan[0].to_be_bytes())),
    element(245, 2, |f, out| out.extend(f.record.key.vlan[1].to_be_bytes())),
    // ethernetType, sourceMacAddress, destinationMacAddress
    element(256, 2, |f, out| out.extend(f.record.key.ethertype.to_be_bytes())),
    element(56, 6, |f, out| out.extend(macs(f).0)),
    element(80, 6, |f, out| out.extend(macs(f).1)),
    // minimumTTL, maximumTTL
    element(52, 1, |f, out| out.push(ttl(&f.record.orig).0)),
    reverse(52, 1, |f, out| out.push(ttl(&f.record.resp).0)),
    element(53, 1, |f, out| out.push(ttl(&f.record.orig).1)),
    reverse(53, 1, |f, out| out.push(ttl(&f.record.resp).1)),
    // flowId
    element(148, 8, |f, out| out.extend(f.record.id.0.to_be_bytes())),
    // observationDomainName: the agent; interfaceName; applicationName: the protocols recognised
    element(300, VARIABLE, |f, out| text(&f.origin.agent_name, out)),
    element(82, VARIABLE, |f, out| text(&f.origin.interface, out)),
    element(96, VARIABLE, |f, out| text(&protocols(f), out)),
];

/// Of an agent that did not say which side had a flag, those of both sides are the originator's.
fn control_bits(flow: &StoredFlow, side: usize) -> u8 {
    match flow.record.tcp.as_ref().map(|tcp| tcp.of_side) {
        Some([0, 0]) if side == 0 => tcp_flags(&flow.record),
        Some(of_side) => of_side[side],
        None => 0,
    }
}

fn ipv4(flow: &StoredFlow, is_source: bool, out: &mut Vec<u8>) {
    if let Addresses::V4 { orig, resp } = flow.record.key.addresses {
        out.extend(if is_source { orig } else { resp });
    }
}

fn ipv6(flow: &StoredFlow, is_source: bool, out: &mut Vec<u8>) {
    if let Addresses::V6 { orig, resp } = flow.record.key.addresses {
        out.extend(if is_source { orig } else { resp });
    }
}

fn icmp(flow: &StoredFlow, out: &mut Vec<u8>) {
    let (kind, code) = flow.record.icmp.unwrap_or_default();
    out.extend([kind, code]);
}

fn macs(flow: &StoredFlow) -> ([u8; 6], [u8; 6]) {
    match flow.record.key.addresses {
        Addresses::Mac { orig, resp } => (orig, resp),
        _ => (flow.record.orig.mac.unwrap_or_default(), flow.record.resp.mac.unwrap_or_default()),
    }
}

fn ttl(counters: &DirectionCounters) -> (u8, u8) {
    counters.ttl.unwrap_or_default()
}

fn end_reason(end: FlowEndReason) -> u8 {
    match end {
        FlowEndReason::Idle => 1,
        FlowEndReason::Active => 2,
        FlowEndReason::EndOfFlow => 3,
        FlowEndReason::Forced => 4,
        FlowEndReason::LackOfResources => 5,
    }
}

fn protocols(flow: &StoredFlow) -> String {
    let names = flow.record.attributes.of(field::PROTOCOLS).filter_map(|value| match value {
        AttributeValue::Text(name) => Some(name.as_str()),
        _ => None,
    });
    names.collect::<Vec<_>>().join(",")
}

/// A length of one byte, then the text (RFC 7011 section 7).
fn text(text: &str, out: &mut Vec<u8>) {
    let cut = &text[..text.floor_char_boundary(TEXT_BYTES_MAX)];
    out.push(cut.len() as u8);
    out.extend_from_slice(cut.as_bytes());
}
