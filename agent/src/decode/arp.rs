//! ARP (RFC 826), also as RARP (RFC 903): for IPv4 on Ethernet a flow of the asking and the asked IP address, so that each
//! address asked for is a record of its own; anything else is a flow of its talkers.

use std::borrow::Cow;

use gnomon_capture::Frame;
use gnomon_flow::{Addresses, DecodeProblem};

use super::Decoding;
use super::ethernet::mac_at;
use super::rest::{Rest, u16_at};

/// Fixed fields, then twice a hardware and a protocol address.
const FIXED_BYTES: u32 = 8;
/// The whole of it for IPv4 on Ethernet.
const IPV4_BYTES: usize = 28;
/// Hardware type 1 (Ethernet), protocol type 0x0800 (IPv4), 6 and 4 bytes of address.
const ETHERNET_IPV4: [u8; 6] = [0, 1, 8, 0, 6, 4];

/// What an ARP packet does (RFC 826; RFC 903 for the reverse).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ArpOperation {
    Request,
    Reply,
    ReverseRequest,
    ReverseReply,
    Other(u16),
}

impl ArpOperation {
    fn of(number: u16) -> ArpOperation {
        match number {
            1 => ArpOperation::Request,
            2 => ArpOperation::Reply,
            3 => ArpOperation::ReverseRequest,
            4 => ArpOperation::ReverseReply,
            other => ArpOperation::Other(other),
        }
    }

    /// As the field `arp.operation` has it.
    pub(crate) fn name(self) -> Cow<'static, str> {
        match self {
            ArpOperation::Request => "request".into(),
            ArpOperation::Reply => "reply".into(),
            ArpOperation::ReverseRequest => "reverse-request".into(),
            ArpOperation::ReverseReply => "reverse-reply".into(),
            ArpOperation::Other(number) => number.to_string().into(),
        }
    }
}

/// What a packet claims.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ArpClaim {
    pub(crate) operation: ArpOperation,
    pub(crate) sender_mac: [u8; 6],
    pub(crate) target_mac: [u8; 6],
}

pub(super) fn decode<'a>(packet: &mut Decoding<'a>, rest: Rest<'a>) {
    let Some(fixed) = rest.peek::<{ FIXED_BYTES as usize }>() else {
        return packet.stop(rest, DecodeProblem::TruncatedNetwork);
    };
    let length = FIXED_BYTES + 2 * (u32::from(fixed[4]) + u32::from(fixed[5]));
    if length > rest.wire() {
        packet.note(DecodeProblem::Malformed);
    } else if length as usize > rest.captured().len() {
        return packet.stop(rest, DecodeProblem::TruncatedNetwork);
    } else if fixed.starts_with(&ETHERNET_IPV4)
        && let Some(header) = rest.peek::<IPV4_BYTES>()
    {
        packet.arp = Some(ArpOperation::of(u16_at(fixed, 6)));
        packet.arp_at = rest.at();
        let ip = |at: usize| std::array::from_fn(|i| header[at + i]);
        packet.key.addresses = Addresses::V4 { orig: ip(14), resp: ip(24) };
    }
    packet.header_len = rest.skip(length).at();
}

/// What the ARP packet in a frame claims beside its IP addresses.
pub(crate) fn arp_claim(frame: &Frame<'_>) -> Option<ArpClaim> {
    let decoding = super::walk(frame);
    let header = frame.data.get(decoding.arp_at as usize..)?.first_chunk::<IPV4_BYTES>()?;
    Some(ArpClaim {
        operation: decoding.packet.arp?,
        sender_mac: mac_at(header, 8),
        target_mac: mac_at(header, 18),
    })
}

#[cfg(test)]
mod tests {
    use super::super::{decode, example};
    use super::*;

    #[test]
    fn a_request_is_a_flow_of_the_asking_and_the_asked_address() {
        let data = example::arp();
        let packet = decode(&example::frame(&data));
        assert_eq!(packet.key.ethertype, 0x0806);
        assert_eq!(packet.key.addresses, Addresses::V4 { orig: example::ORIG_V4, resp: example::RESP_V4 });
        assert_eq!((packet.problem, packet.header_len, packet.ip_len), (None, 42, 0));
        assert_eq!((packet.arp, packet.payload_len), (Some(ArpOperation::Request), 0));
        assert_eq!(
            arp_claim(&example::frame(&data)),
            Some(ArpClaim {
                operation: ArpOperation::Request,
                sender_mac: example::ORIG_MAC,
                target_mac: [0; 6]
            })
        );
    }

    #[test]
    fn what_is_cut_or_of_other_networks_is_a_flow_of_its_talkers() {
        let data = example::arp();
        let talkers = Addresses::Mac { orig: example::ORIG_MAC, resp: example::RESP_MAC };
        let cut = decode(&Frame { original_len: 60, ..example::frame(&data[..30]) });
        assert_eq!((cut.key.addresses, cut.problem), (talkers, Some(DecodeProblem::TruncatedNetwork)));
        let mut long = data.clone();
        long[18] = 255;
        assert_eq!(decode(&example::frame(&long)).problem, Some(DecodeProblem::Malformed));
        let mut other = data.clone();
        // Protocol type IPX.
        (other[16], other[17]) = (0x81, 0x37);
        let other = decode(&example::frame(&other));
        assert_eq!((other.key.addresses, other.problem, other.arp), (talkers, None, None));
    }
}
