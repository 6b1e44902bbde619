//! PPP (RFC 1661), its session over Ethernet (RFC 2516), and the link headers like it: Cisco's HDLC and frame relay
//! (RFC 2427).

use gnomon_flow::DecodeProblem;

use super::layers::LayerKind;
use super::rest::{Rest, u16_at};
use super::{Decoding, llc, mpls, network};

/// What the key has in the place of an EtherType for PPP's own protocols (IANA's number for PPP).
pub(super) const PPP_ETHERTYPE: u16 = 0x880b;

const PPPOE_BYTES: u32 = 6;
/// RFC 1662 section 3.1: all stations, unnumbered information.
const ADDRESS_AND_CONTROL: [u8; 2] = [0xff, 0x03];

/// A session header, and PPP without framing.
#[cold]
#[inline(never)]
pub(super) fn decode_pppoe<'a>(packet: &mut Decoding<'a>, rest: Rest<'a>) {
    let Some(header) = rest.peek::<{ PPPOE_BYTES as usize }>() else {
        return packet.stop(rest, DecodeProblem::TruncatedLink);
    };
    if header[0] != 0x11 || header[1] != 0 {
        return packet.stop(rest, DecodeProblem::Malformed);
    }
    if !packet.wrap(LayerKind::Pppoe, rest.at()) {
        return packet.stop(rest, DecodeProblem::TooDeep);
    }
    let length = u32::from(u16_at(header, 4));
    protocol(packet, rest.skip(PPPOE_BYTES).limit(length));
}

/// With or without HDLC-like framing, as a link or in a tunnel.
#[cold]
#[inline(never)]
pub(super) fn decode<'a>(packet: &mut Decoding<'a>, rest: Rest<'a>) {
    if !packet.wrap(LayerKind::Ppp, rest.at()) {
        return packet.stop(rest, DecodeProblem::TooDeep);
    }
    let framed = rest.captured().starts_with(&ADDRESS_AND_CONTROL);
    protocol(packet, if framed { rest.skip(2) } else { rest });
}

/// LINKTYPE_PPP_HDLC: the first byte tells PPP from Cisco's HDLC (RFC 1547 section 4.3.1).
pub(super) fn decode_hdlc<'a>(packet: &mut Decoding<'a>, rest: Rest<'a>) {
    match rest.captured().first() {
        Some(0x0f | 0x8f) => decode_cisco(packet, rest),
        _ => decode(packet, rest),
    }
}

/// Address, control, EtherType.
pub(super) fn decode_cisco<'a>(packet: &mut Decoding<'a>, rest: Rest<'a>) {
    match rest.peek::<4>() {
        Some(header) => network::decode(packet, rest.skip(4), u16_at(header, 2)),
        None => packet.stop(rest, DecodeProblem::TruncatedLink),
    }
}

/// Q.922 address of two bytes, control, padding, and a network layer id.
pub(super) fn decode_frame_relay<'a>(packet: &mut Decoding<'a>, rest: Rest<'a>) {
    let Some(&[_, address, control, nlpid]) = rest.peek::<4>() else {
        return packet.stop(rest, DecodeProblem::TruncatedLink);
    };
    if address & 1 == 0 {
        return packet.stop(rest, DecodeProblem::UnknownLink);
    }
    match (control, nlpid) {
        (3, 0xcc | 0x8e) => network::decode_ip(packet, rest.skip(4)),
        // Padding, then SNAP with its organisation code.
        (3, 0) => match rest.skip(4).peek::<6>() {
            Some(&[0x80, 0, 0, 0, high, low]) => {
                network::decode(packet, rest.skip(10), u16::from_be_bytes([high, low]));
            }
            _ => packet.key.ethertype = llc::LLC_ETHERTYPE,
        },
        // Cisco's encapsulation has an EtherType here.
        (8.., _) => network::decode(packet, rest.skip(4), u16::from_be_bytes([control, nlpid])),
        _ => packet.key.ethertype = llc::LLC_ETHERTYPE,
    }
}

/// The protocol field: two bytes, or one odd one where the peers agreed to compress it (RFC 1661 section 6.5).
fn protocol<'a>(packet: &mut Decoding<'a>, rest: Rest<'a>) {
    let (protocol, bytes) = match rest.captured() {
        [short, ..] if short & 1 == 1 => (u16::from(*short), 1),
        [high, low, ..] => (u16::from_be_bytes([*high, *low]), 2),
        _ => return packet.stop(rest, DecodeProblem::TruncatedLink),
    };
    let inner = rest.skip(bytes);
    match protocol {
        0x0021 => network::decode(packet, inner, network::ETHERTYPE_IPV4),
        0x0057 => network::decode(packet, inner, network::ETHERTYPE_IPV6),
        0x0281 | 0x0283 => mpls::decode(packet, inner),
        // Link control and the like, or what is compressed or encrypted: a flow of its talkers.
        _ => {
            if packet.key.ethertype == 0 {
                packet.key.ethertype = PPP_ETHERTYPE;
            }
            packet.header_len = inner.at();
        }
    }
}

#[cfg(test)]
mod tests {
    use gnomon_capture::{Frame, LinkType};

    use super::super::{Outer, decode, example};
    use super::*;

    #[test]
    fn a_pppoe_session_is_seen_through_and_its_padding_is_not() {
        let plain = example::udp_v4(b"abc");
        let expected = decode(&example::frame(&plain));
        let inner = &plain[14..];
        let length = (inner.len() + 2) as u16;
        let header = [&[0x11, 0, 0, 7][..], &length.to_be_bytes(), &[0, 0x21]].concat();
        let mut data = example::ethernet(0x8864, &[&header, inner].concat());
        data.resize(data.len() + 9, 0xaa);
        let packet = decode(&example::frame(&data));
        assert_eq!((packet.problem, packet.key, packet.payload), (None, expected.key, expected.payload));
        let mut outer = Vec::new();
        super::super::each_outer(&example::frame(&data), |fact| outer.push(fact));
        assert_eq!(outer, [Outer::Header(LayerKind::Pppoe, Some(7))]);
        // Link control stays with its talkers.
        data[20..22].copy_from_slice(&[0xc0, 0x21]);
        let packet = decode(&example::frame(&data));
        assert_eq!((packet.problem, packet.key.ethertype), (None, 0x8864));
    }

    #[test]
    fn links_like_ppp_lead_to_ip() {
        let plain = example::tcp_v4();
        let expected = decode(&Frame { link: LinkType::RawIp, ..example::frame(&plain[14..]) }).key;
        for (link, header) in [
            (LinkType::Ppp, &[0xff, 0x03, 0, 0x21][..]),
            (LinkType::Ppp, &[0, 0x21]),
            (LinkType::Ppp, &[0x21]),
            (LinkType::PppHdlc, &[0xff, 0x03, 0x21]),
            (LinkType::PppHdlc, &[0x0f, 0, 8, 0]),
            (LinkType::PppEther, &[0x11, 0, 0, 1, 0, 48, 0, 0x21]),
            (LinkType::CiscoHdlc, &[0x8f, 0, 8, 0]),
            (LinkType::FrameRelay, &[0x18, 0x41, 3, 0xcc]),
            (LinkType::FrameRelay, &[0x18, 0x41, 3, 0, 0x80, 0, 0, 0, 8, 0]),
            (LinkType::FrameRelay, &[0x18, 0x41, 8, 0]),
        ] {
            let data = [header, &plain[14..]].concat();
            let packet = decode(&Frame { link, ..example::frame(&data) });
            assert_eq!((packet.problem, packet.key), (None, expected), "{link:?} {header:x?}");
        }
    }
}
