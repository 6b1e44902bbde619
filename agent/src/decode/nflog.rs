//! Linux's NFLOG (tcpdump's LINKTYPE_NFLOG): a packet among attributes, in the byte order of the machine that captured.

use gnomon_flow::DecodeProblem;

use super::rest::Rest;
use super::{Decoding, network};

const HEADER_BYTES: u32 = 4;
const ATTRIBUTES_MAX: usize = 64;
const PAYLOAD: u16 = 9;

pub(super) fn decode<'a>(packet: &mut Decoding<'a>, rest: Rest<'a>) {
    let Some(&[_, version, _, _]) = rest.peek::<{ HEADER_BYTES as usize }>() else {
        return packet.stop(rest, DecodeProblem::TruncatedLink);
    };
    if version != 0 {
        return packet.stop(rest, DecodeProblem::UnknownLink);
    }
    let mut rest = rest.skip(HEADER_BYTES);
    for _ in 0..ATTRIBUTES_MAX {
        let Some(&[a, b, c, d]) = rest.peek::<4>() else {
            return packet.stop(rest, DecodeProblem::TruncatedLink);
        };
        // Kinds and flags are far below 256 but for two high bits: whichever order makes the kind small is the machine's.
        let little = u16::from_le_bytes([c, d]) & 0x3fff < 256;
        let u16_of = if little { u16::from_le_bytes } else { u16::from_be_bytes };
        let (length, kind) = (u32::from(u16_of([a, b])), u16_of([c, d]) & 0x3fff);
        if length < 4 || length > rest.wire() {
            return packet.stop(rest, DecodeProblem::Malformed);
        }
        if kind == PAYLOAD {
            return network::decode_ip(packet, rest.limit(length).skip(4));
        }
        rest = rest.skip(length.next_multiple_of(4));
    }
    packet.stop(rest, DecodeProblem::TooDeep);
}

#[cfg(test)]
mod tests {
    use gnomon_capture::{Frame, LinkType};

    use super::super::{decode, example};

    #[test]
    fn the_packet_among_the_attributes_is_found_in_either_byte_order() {
        let plain = example::tcp_v4();
        let ip = &plain[14..];
        let expected = decode(&Frame { link: LinkType::RawIp, ..example::frame(ip) }).key;
        let length = ip.len() as u16 + 4;
        for (order, prefix) in [
            (u16::to_le_bytes as fn(u16) -> [u8; 2], [7, 0, 10, 0, b'a', b'b', 0, 0]),
            (u16::to_be_bytes, [0, 7, 0, 10, b'a', b'b', 0, 0]),
        ] {
            let data = [&[2, 0, 0, 1][..], &prefix, &order(length), &order(9), ip].concat();
            let packet = decode(&Frame { link: LinkType::Nflog, ..example::frame(&data) });
            assert_eq!((packet.problem, packet.key), (None, expected));
        }
    }
}
