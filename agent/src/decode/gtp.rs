//! GTP-U version 1 (3GPP TS 29.281 section 5): the user's packets between base station and gateway.

use gnomon_flow::DecodeProblem;

use super::layers::LayerKind;
use super::rest::{Rest, u16_at};
use super::{Decoding, network};

const HEADER_BYTES: u32 = 8;
const USER_PACKET: u8 = 255;
const EXTENSION_HEADERS_MAX: usize = 8;

/// In [`Decoding::try_inside`]: whatever is no user's packet stops.
pub(super) fn decode<'a>(packet: &mut Decoding<'a>, rest: Rest<'a>) {
    let Some(header) = rest.peek::<{ HEADER_BYTES as usize }>() else {
        return packet.stop(rest, DecodeProblem::Malformed);
    };
    let length = u32::from(u16_at(header, 2));
    // Version 1, protocol type GTP.
    if header[0] & 0xf0 != 0x30 || header[1] != USER_PACKET || length + HEADER_BYTES > rest.wire() {
        return packet.stop(rest, DecodeProblem::Malformed);
    }
    if !packet.wrap(LayerKind::GtpU, rest.at()) {
        return packet.stop(rest, DecodeProblem::TooDeep);
    }
    let mut inner = rest.limit(length + HEADER_BYTES).skip(HEADER_BYTES);
    // Sequence number, N-PDU number and next extension are there together or not at all.
    if header[0] & 0x07 != 0 {
        let Some(&[.., first]) = inner.peek::<4>() else {
            return packet.stop(rest, DecodeProblem::Malformed);
        };
        inner = inner.skip(4);
        let mut next = if header[0] & 0x04 != 0 { first } else { 0 };
        for _ in 0..EXTENSION_HEADERS_MAX {
            if next == 0 {
                break;
            }
            let bytes = inner.captured().first().map_or(0, |words| u32::from(*words) * 4);
            let Some(following) = inner.captured().get((bytes as usize).wrapping_sub(1)) else {
                return packet.stop(rest, DecodeProblem::Malformed);
            };
            next = *following;
            inner = inner.skip(bytes);
        }
        if next != 0 {
            return packet.stop(rest, DecodeProblem::TooDeep);
        }
    }
    network::decode_ip(packet, inner);
}

#[cfg(test)]
mod tests {
    use super::super::{decode, example};

    #[test]
    fn signalling_and_endless_extensions_are_plain_udp() {
        let ip = &example::tcp_v4()[14..];
        let endless =
            [&[0x34, 255, 0, 44, 0, 0, 0, 9, 0, 0, 0, 0x85][..], &[1, 0, 0, 0x85].repeat(10)].concat();
        let echo = [&[0x32, 1, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0], ip].concat();
        let other_version = [&[0x48, 255, 0, ip.len() as u8, 0, 0, 0, 9], ip].concat();
        let stuck = [&[0x34, 255, 0, 8, 0, 0, 0, 9, 0, 0, 0, 0x85, 0, 0, 0, 0x85], ip].concat();
        for body in [endless, echo, other_version, stuck] {
            let data = example::ipv4(17, [1; 4], [2; 4], &example::udp((2152, 2152), &body));
            let packet = decode(&example::frame(&data));
            assert!(packet.key_complete && !packet.is_wrapped);
            assert_eq!((packet.key.resp_port, packet.payload), (2152, &body[..]));
        }
    }
}
