//! IPv4 (RFC 791).

use gnomon_flow::{Addresses, DecodeProblem};

use super::network::ETHERTYPE_IPV4;
use super::rest::{Rest, u16_at};
use super::{Decoding, Fragment, Piece, transport};

const HEADER_BYTES_MIN: u32 = 20;
const MORE_FRAGMENTS: u16 = 0x2000;
const FRAGMENT_OFFSET: u16 = 0x1fff;

#[inline]
pub(super) fn decode<'a>(packet: &mut Decoding<'a>, rest: Rest<'a>) {
    packet.key.ethertype = ETHERTYPE_IPV4;
    packet.ip_at = rest.at();
    let Some(header) = rest.peek::<{ HEADER_BYTES_MIN as usize }>() else {
        return packet.stop(rest, DecodeProblem::TruncatedNetwork);
    };
    if header[0] >> 4 != 4 {
        return packet.stop(rest, DecodeProblem::Malformed);
    }
    packet.key.addresses = Addresses::V4 {
        orig: std::array::from_fn(|i| header[12 + i]),
        resp: std::array::from_fn(|i| header[16 + i]),
    };
    packet.key.protocol = header[9];
    packet.ttl = Some(header[8]);

    let header_bytes = u32::from(header[0] & 0x0f) * 4;
    // Linux hands over frames larger than 64 KiB ("BIG TCP") and frames before segmentation with total length 0:
    // then only the frame knows.
    let total = match u32::from(u16_at(header, 2)) {
        0 => rest.wire(),
        total => total,
    };
    packet.ip_len = total.min(rest.wire());
    if header_bytes < HEADER_BYTES_MIN || header_bytes > packet.ip_len {
        return packet.stop(rest, DecodeProblem::Malformed);
    }
    // A tunnelled packet goes on in the other fragments of the one around it.
    if total > rest.wire() && packet.fragment == Fragment::Whole {
        packet.note(DecodeProblem::Malformed);
    }
    if header_bytes as usize > rest.captured().len() {
        return packet.stop(rest, DecodeProblem::TruncatedNetwork);
    }
    let inner = rest.limit(packet.ip_len).skip(header_bytes);
    let fragment = u16_at(header, 6);
    if fragment & (FRAGMENT_OFFSET | MORE_FRAGMENTS) != 0 {
        let piece = Piece {
            id: u32::from(u16_at(header, 4)),
            offset: (fragment & FRAGMENT_OFFSET) * 8,
            more: fragment & MORE_FRAGMENTS != 0,
            ..Piece::default()
        };
        if packet.is_later_fragment(piece, &inner) {
            return packet.end(inner);
        }
    }
    transport::decode(packet, inner);
}

#[cfg(test)]
mod tests {
    use gnomon_capture::Frame;

    use super::super::{decode, example};
    use super::*;

    #[test]
    fn ethernet_padding_is_no_payload() {
        let mut data = example::udp_v4(b"abc");
        let len = data.len();
        data.resize(60, 0xff);
        let packet = decode(&example::frame(&data));
        assert_eq!((packet.payload, packet.payload_len), (&b"abc"[..], 3));
        assert_eq!((packet.wire_len, packet.ip_len as usize), (60, len - 14));
    }

    #[test]
    fn big_tcp_with_total_length_0_is_as_long_as_its_frame() {
        let mut data = example::tcp_v4();
        data[16..18].copy_from_slice(&[0, 0]);
        let packet = decode(&Frame { original_len: 195_546, ..example::frame(&data) });
        assert_eq!((packet.problem, packet.ip_len), (None, 195_546 - 14));
        assert_eq!(packet.payload_len, 195_546 - 14 - 20 - 20);
    }

    #[test]
    fn options_are_skipped() {
        let plain = example::tcp_v4();
        let mut data = plain.clone();
        data.splice(34..34, [1u8; 8]);
        data[14] = 0x47;
        let total = (data.len() - 14) as u16;
        data[16..18].copy_from_slice(&total.to_be_bytes());
        let (packet, expected) = (decode(&example::frame(&data)), decode(&example::frame(&plain)));
        assert_eq!((packet.key, packet.tcp), (expected.key, expected.tcp));
        assert_eq!(packet.payload, expected.payload);
        // The options were not captured: the ports cannot be known.
        let cut = decode(&Frame { original_len: data.len() as u32, ..example::frame(&data[..36]) });
        assert_eq!((cut.problem, cut.key_complete), (Some(DecodeProblem::TruncatedNetwork), false));
        assert_eq!(cut.key.addresses, expected.key.addresses);
    }

    #[test]
    fn fragments_have_a_key_each_way() {
        let mut first = example::udp_v4(&[7; 64]);
        first[20..22].copy_from_slice(&MORE_FRAGMENTS.to_be_bytes());
        let packet = decode(&example::frame(&first));
        assert_eq!((packet.fragment, packet.key.orig_port), (Fragment::First, 5353));
        let mut later = first.clone();
        later[20..22].copy_from_slice(&[0, 9]);
        let packet = decode(&example::frame(&later));
        assert_eq!((packet.fragment, packet.key.orig_port, packet.key.resp_port), (Fragment::Later, 0, 0));
        assert_eq!((packet.key.protocol, packet.problem, packet.payload_len), (17, None, 72));
    }

    #[test]
    fn contradictions_are_malformed_and_keep_what_key_there_is() {
        let good = example::tcp_v4();
        let pair = decode(&example::frame(&good)).key.addresses;
        for (at, value, addresses, complete) in [
            (14, 0x65, Addresses::Mac { orig: example::ORIG_MAC, resp: example::RESP_MAC }, false),
            (14, 0x44, pair, false),
            // A header longer than the packet.
            (17, 19, pair, false),
            // A packet longer than the frame.
            (16, 0x7f, pair, true),
        ] {
            let mut data = good.clone();
            data[at] = value;
            let packet = decode(&example::frame(&data));
            assert_eq!(packet.problem, Some(DecodeProblem::Malformed), "byte {at}");
            assert_eq!((packet.key.addresses, packet.key_complete), (addresses, complete), "byte {at}");
        }
    }
}
