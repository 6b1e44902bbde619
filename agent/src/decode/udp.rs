//! UDP (RFC 768).

use gnomon_flow::DecodeProblem;

use super::rest::{Rest, u16_at};
use super::{Decoding, Fragment, ports, udp_tunnel};

const HEADER_BYTES: u32 = 8;

#[inline]
pub(super) fn decode<'a>(packet: &mut Decoding<'a>, rest: Rest<'a>) {
    if !ports::read(packet, rest) {
        return;
    }
    let Some(header) = rest.peek::<{ HEADER_BYTES as usize }>() else {
        packet.note(DecodeProblem::TruncatedTransport);
        return packet.end(rest.skip(HEADER_BYTES));
    };
    let length = match u32::from(u16_at(header, 4)) {
        // A jumbogram (RFC 2675 section 4).
        0 => rest.wire(),
        length => length,
    };
    // The first fragment announces the length of the whole datagram.
    if length < HEADER_BYTES || (length > rest.wire() && packet.fragment == Fragment::Whole) {
        packet.note(DecodeProblem::Malformed);
    }
    let payload = rest.limit(length.max(HEADER_BYTES)).skip(HEADER_BYTES);
    if udp_tunnel::may_be(packet.key.orig_port, packet.key.resp_port) {
        return udp_tunnel::decode(packet, payload);
    }
    packet.end(payload);
}

#[cfg(test)]
mod tests {
    use super::super::{decode, example};
    use super::*;

    #[test]
    fn the_length_field_bounds_the_payload() {
        let data = example::udp_v4(b"abcdef");
        for (length, problem, payload) in [
            (14u16, None, &b"abcdef"[..]),
            (11, None, b"abc"),
            (8, None, b""),
            (0, None, b"abcdef"),
            (7, Some(DecodeProblem::Malformed), b""),
            (500, Some(DecodeProblem::Malformed), b"abcdef"),
        ] {
            let mut data = data.clone();
            data[38..40].copy_from_slice(&length.to_be_bytes());
            let packet = decode(&example::frame(&data));
            assert_eq!((packet.problem, packet.payload), (problem, payload), "length {length}");
            assert!(packet.key_complete);
        }
    }
}
