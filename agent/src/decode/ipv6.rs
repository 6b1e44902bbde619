//! IPv6 (RFC 8200) and its extension headers.

use gnomon_flow::{Addresses, DecodeProblem};

use super::layers::LayerKind;
use super::network::ETHERTYPE_IPV6;
use super::rest::{Rest, u16_at, u32_at};
use super::{Decoding, Fragment, Piece, transport};

const HEADER_BYTES: u32 = 40;
/// RFC 8200 section 4.1 names seven in order; more is an attack or a test.
const EXTENSION_HEADERS_MAX: usize = 8;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
pub(super) const NO_NEXT_HEADER: u8 = 59;
const DESTINATION_OPTIONS: u8 = 60;

#[inline]
pub(super) fn decode<'a>(packet: &mut Decoding<'a>, rest: Rest<'a>) {
    packet.key.ethertype = ETHERTYPE_IPV6;
    packet.ip_at = rest.at();
    let Some(header) = rest.peek::<{ HEADER_BYTES as usize }>() else {
        return packet.stop(rest, DecodeProblem::TruncatedNetwork);
    };
    if header[0] >> 4 != 6 {
        return packet.stop(rest, DecodeProblem::Malformed);
    }
    packet.key.addresses = Addresses::V6 {
        orig: std::array::from_fn(|i| header[8 + i]),
        resp: std::array::from_fn(|i| header[24 + i]),
    };
    packet.key.protocol = header[6];
    packet.ttl = Some(header[7]);
    // 0 in a jumbogram (RFC 2675) and in "BIG TCP" frames: then only the frame knows.
    let total = match u32::from(u16_at(header, 4)) {
        0 if header[6] != NO_NEXT_HEADER => rest.wire(),
        payload => HEADER_BYTES + payload,
    };
    packet.ip_len = total.min(rest.wire());
    if total > rest.wire() && packet.fragment == Fragment::Whole {
        packet.note(DecodeProblem::Malformed);
    }
    extension_headers(packet, rest.limit(packet.ip_len).skip(HEADER_BYTES));
}

#[inline]
fn extension_headers<'a>(packet: &mut Decoding<'a>, mut rest: Rest<'a>) {
    for _ in 0..=EXTENSION_HEADERS_MAX {
        let kind = packet.key.protocol;
        if !matches!(kind, HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION_OPTIONS) {
            return transport::decode(packet, rest);
        }
        let Some(start) = rest.peek::<4>() else {
            return packet.stop(rest, DecodeProblem::TruncatedNetwork);
        };
        let before = rest;
        let bytes = match kind {
            FRAGMENT => 8,
            AUTHENTICATION => (u32::from(start[1]) + 2) * 4,
            _ => (u32::from(start[1]) + 1) * 8,
        };
        if bytes > rest.wire() {
            return packet.stop(rest, DecodeProblem::Malformed);
        }
        packet.key.protocol = start[0];
        rest = rest.skip(bytes);
        match kind {
            FRAGMENT => {
                let offset_and_more = u16_at(start, 2);
                if offset_and_more & 0xfff9 == 0 {
                    continue;
                }
                let Some(header) = before.peek::<8>() else {
                    return packet.stop(before, DecodeProblem::TruncatedNetwork);
                };
                let piece = Piece {
                    id: u32_at(header, 4),
                    offset: offset_and_more & 0xfff8,
                    more: offset_and_more & 1 != 0,
                    ..Piece::default()
                };
                if packet.is_later_fragment(piece, &rest) {
                    return packet.end(rest);
                }
            }
            AUTHENTICATION if !packet.wrap(LayerKind::Ah, before.at()) => {
                return packet.stop(before, DecodeProblem::TooDeep);
            }
            _ => {}
        }
    }
    packet.stop(rest, DecodeProblem::TooDeep);
}

#[cfg(test)]
mod tests {
    use gnomon_capture::Frame;

    use super::super::{decode, example};
    use super::*;

    fn with_extensions(chain: &[(u8, &[u8])]) -> Vec<u8> {
        example::extended_v6(&example::udp_v6(), chain)
    }

    #[test]
    fn extension_headers_are_walked() {
        let plain = decode_key(&example::udp_v6());
        let options: &[u8] = &[0, 0, 1, 4, 0, 0, 0, 0];
        let authentication: &[u8] = &[0, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 2];
        let data = with_extensions(&[
            (HOP_BY_HOP, options),
            (ROUTING, options),
            (AUTHENTICATION, authentication),
            (DESTINATION_OPTIONS, options),
        ]);
        let packet = decode(&example::frame(&data));
        assert_eq!((packet.problem, packet.key), (None, plain));
        assert_eq!(packet.payload, b"abc");
    }

    fn decode_key(data: &[u8]) -> gnomon_flow::FlowKey {
        decode(&example::frame(data)).key
    }

    #[test]
    fn an_endless_chain_is_too_deep_and_a_long_one_malformed() {
        let options: &[u8] = &[0, 0, 1, 4, 0, 0, 0, 0];
        let allowed = with_extensions(&[(DESTINATION_OPTIONS, options); EXTENSION_HEADERS_MAX]);
        assert_eq!(decode(&example::frame(&allowed)).problem, None);
        let deep = with_extensions(&[(DESTINATION_OPTIONS, options); EXTENSION_HEADERS_MAX + 1]);
        assert_eq!(decode(&example::frame(&deep)).problem, Some(DecodeProblem::TooDeep));
        let long = with_extensions(&[(DESTINATION_OPTIONS, &[0, 255, 1, 4, 0, 0, 0, 0])]);
        assert_eq!(decode(&example::frame(&long)).problem, Some(DecodeProblem::Malformed));
    }

    #[test]
    fn fragments_are_seen_and_an_atomic_one_is_none() {
        for (offset_and_more, fragment, port) in [
            ([0, 0], Fragment::Whole, 5353),
            ([0, 1], Fragment::First, 5353),
            ([0, 9], Fragment::Later, 0),
            ([5, 0], Fragment::Later, 0),
        ] {
            let data =
                with_extensions(&[(FRAGMENT, &[0, 0, offset_and_more[0], offset_and_more[1], 0, 0, 0, 7])]);
            let packet = decode(&example::frame(&data));
            assert_eq!((packet.problem, packet.fragment), (None, fragment));
            assert_eq!((packet.key.protocol, packet.key.orig_port), (17, port));
        }
    }

    #[test]
    fn a_jumbogram_is_as_long_as_its_frame() {
        let mut data =
            example::extended_v6(&example::tcp_v6(), &[(HOP_BY_HOP, &[0, 0, 0xc2, 4, 0, 2, 0, 0])]);
        data[18..20].copy_from_slice(&[0, 0]);
        let packet = decode(&Frame { original_len: 150_000, ..example::frame(&data) });
        assert_eq!((packet.problem, packet.ip_len), (None, 150_000 - 14));
        assert_eq!(packet.payload_len, 150_000 - 14 - 40 - 8 - 20);
    }

    #[test]
    fn no_next_header_with_padding_has_no_payload() {
        let mut data = example::udp_v6();
        data[20] = NO_NEXT_HEADER;
        data[18..20].copy_from_slice(&[0, 0]);
        let packet = decode(&example::frame(&data));
        assert_eq!((packet.problem, packet.ip_len, packet.payload_len), (None, 40, 0));
    }
}
