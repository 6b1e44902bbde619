//! GRE (RFC 2784, RFC 2890), PPTP's variant of it (RFC 2637), and ERSPAN inside it (draft-foschiano-erspan-03).

use gnomon_flow::DecodeProblem;

use super::layers::LayerKind;
use super::rest::{Rest, u16_at};
use super::{Decoding, ethernet, mpls, network, ppp};

const CHECKSUM: u16 = 0x8000;
const ROUTING: u16 = 0x4000;
const KEY: u16 = 0x2000;
const SEQUENCE: u16 = 0x1000;
/// Version 1 only.
const ACKNOWLEDGEMENT: u16 = 0x0080;
const VERSION: u16 = 0x0007;

/// Transparent Ethernet bridging.
const ETHERNET: u16 = 0x6558;
const ERSPAN: u16 = 0x88be;
const ERSPAN_III: u16 = 0x22eb;
/// Cisco's cache redirection.
const WCCP: u16 = 0x883e;

/// `packet` ends here with the key of the GRE packet where what is inside is not known.
#[cold]
#[inline(never)]
pub(super) fn decode<'a>(packet: &mut Decoding<'a>, rest: Rest<'a>) {
    let Some(header) = rest.peek::<4>() else {
        packet.note(DecodeProblem::TruncatedTransport);
        return packet.end(rest);
    };
    let (flags, protocol) = (u16_at(header, 0), u16_at(header, 2));
    let field = |flag: u16| if flags & flag != 0 { 4 } else { 0 };
    let bytes = match flags & VERSION {
        // Source routes (RFC 1701) were given up in 2000; their length is not in the header.
        0 if flags & ROUTING == 0 => 4 + field(CHECKSUM) + field(KEY) + field(SEQUENCE),
        1 if flags & KEY != 0 => 8 + field(SEQUENCE) + field(ACKNOWLEDGEMENT),
        _ => return packet.end(rest),
    };
    if bytes as usize > rest.captured().len() {
        return packet.end(rest.skip(bytes));
    }
    let inner = rest.skip(bytes);
    packet.try_inside(inner, |packet| {
        if !packet.wrap_ip() || !packet.wrap(LayerKind::Gre, rest.at()) {
            return packet.stop(inner, DecodeProblem::TooDeep);
        }
        match protocol {
            network::ETHERTYPE_IPV4 | network::ETHERTYPE_IPV6 | network::ETHERTYPE_NSH => {
                network::decode(packet, inner, protocol);
            }
            network::ETHERTYPE_MPLS | network::ETHERTYPE_MPLS_UPSTREAM => mpls::decode(packet, inner),
            ETHERNET => ethernet::decode_inner(packet, inner),
            ppp::PPP_ETHERTYPE => ppp::decode(packet, inner),
            ERSPAN if flags & SEQUENCE == 0 => ethernet::decode_inner(packet, inner),
            ERSPAN => erspan(packet, inner, 8),
            // A word for the platform follows where the last bit says so.
            ERSPAN_III => {
                let has_more = inner.captured().get(11).is_some_and(|flags| flags & 1 != 0);
                erspan(packet, inner, if has_more { 20 } else { 12 });
            }
            // The second version has four bytes before the packet.
            WCCP => match inner.captured().first().map(|byte| byte >> 4) {
                Some(4) => network::decode_ip(packet, inner),
                _ => network::decode_ip(packet, inner.skip(4)),
            },
            _ => packet.stop(inner, DecodeProblem::UnknownLink),
        }
    });
}

fn erspan<'a>(packet: &mut Decoding<'a>, rest: Rest<'a>, bytes: u32) {
    if !packet.wrap(LayerKind::Erspan, rest.at()) {
        return packet.stop(rest, DecodeProblem::TooDeep);
    }
    ethernet::decode_inner(packet, rest.skip(bytes));
}

#[cfg(test)]
mod tests {
    use super::super::{Outer, decode, example};
    use super::*;

    const A: [u8; 4] = [172, 16, 0, 1];
    const B: [u8; 4] = [172, 16, 0, 2];

    #[test]
    fn each_header_leads_to_the_packet_inside() {
        let plain = example::tcp_v4();
        let expected = decode(&example::frame(&plain));
        let key: &[u8] = &[0x20, 0, 8, 0, 0, 0, 0, 9];
        for (header, inner, id) in [
            (&[0, 0, 8, 0][..], &plain[14..], None),
            (key, &plain[14..], Some(9)),
            (&[0xb0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 1], &plain[14..], Some(5)),
            (&[0, 0, 0x65, 0x58], &plain, None),
            (&[0, 0, 0x88, 0x47, 0, 1, 1, 64], &plain[14..], None),
            (&[0, 0, 0x88, 0xbe], &plain, None),
            (&[0x10, 0, 0x88, 0xbe, 0, 0, 0, 1, 0x10, 0, 0, 77, 0, 0, 0, 0], &plain, None),
            (&[0x10, 0, 0x22, 0xeb, 0, 0, 0, 1, 0x20, 0, 0, 77, 0, 0, 0, 0, 0, 0, 0, 0], &plain, None),
            (&[0, 0, 0x88, 0x3e, 0, 0, 0, 0], &plain[14..], None),
            (
                &[0x30, 0x01, 0x88, 0x0b, 0, 60, 0, 7, 0, 0, 0, 1, 0xff, 3, 0, 0x21],
                &plain[14..],
                Some(60 << 16 | 7),
            ),
        ] {
            let data = example::ipv4(47, A, B, &[header, inner].concat());
            let packet = decode(&example::frame(&data));
            assert_eq!((packet.problem, packet.key), (None, expected.key), "{header:x?}");
            assert_eq!((packet.payload, packet.tcp), (expected.payload, expected.tcp));
            let mut outer = Vec::new();
            super::super::each_outer(&example::frame(&data), |fact| outer.push(fact));
            assert!(outer.contains(&Outer::Ip { source: A.into(), destination: B.into() }));
            assert!(outer.contains(&Outer::Header(LayerKind::Gre, id)), "{outer:?}");
        }
    }

    #[test]
    fn what_is_not_understood_inside_is_a_flow_of_the_outer_addresses() {
        for body in [
            &[0, 0, 0x12, 0x34, 1, 2, 3][..],
            &[0x40, 0, 8, 0, 1],
            &[0, 0, 8, 0, 0x99],
            &[0, 0],
            &[0, 7, 8, 0],
        ] {
            let data = example::ipv4(47, A, B, body);
            let packet = decode(&example::frame(&data));
            assert!(packet.key_complete && !packet.is_wrapped);
            assert_eq!((packet.key.protocol, packet.key.orig_ip()), (47, Some(A.into())));
        }
    }
}
