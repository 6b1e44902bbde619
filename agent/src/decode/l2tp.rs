//! L2TP version 2 (RFC 2661 section 3.1): PPP in data messages.

use gnomon_flow::DecodeProblem;

use super::layers::LayerKind;
use super::rest::{Rest, u16_at};
use super::{Decoding, ppp};

const CONTROL: u16 = 0x8000;
const LENGTH: u16 = 0x4000;
const SEQUENCE: u16 = 0x0800;
const OFFSET: u16 = 0x0200;
/// The kind and the version, which must be 2. Reserved bits are ignored by receivers.
const FIXED: u16 = CONTROL | 0x000f;

/// In [`Decoding::try_inside`]: whatever is no data message stops.
pub(super) fn decode<'a>(packet: &mut Decoding<'a>, rest: Rest<'a>) {
    let flags = rest.peek::<2>().map_or(0, |flags| u16_at(flags, 0));
    if flags & FIXED != 2 {
        return packet.stop(rest, DecodeProblem::Malformed);
    }
    if !packet.wrap(LayerKind::L2tp, rest.at()) {
        return packet.stop(rest, DecodeProblem::TooDeep);
    }
    let field = |flag: u16, bytes: u32| if flags & flag != 0 { bytes } else { 0 };
    let mut bytes = 6 + field(LENGTH, 2) + field(SEQUENCE, 4);
    if flags & OFFSET != 0 {
        let Some(padding) = rest.skip(bytes).peek::<2>() else {
            return packet.stop(rest, DecodeProblem::Malformed);
        };
        bytes += 2 + u32::from(u16_at(padding, 0));
    }
    let wire = match rest.peek::<4>() {
        Some(header) if flags & LENGTH != 0 => u32::from(u16_at(header, 2)),
        _ => rest.wire(),
    };
    if bytes > wire || wire > rest.wire() {
        return packet.stop(rest, DecodeProblem::Malformed);
    }
    ppp::decode(packet, rest.limit(wire).skip(bytes));
}

#[cfg(test)]
mod tests {
    use super::super::{decode, example};

    #[test]
    fn optional_fields_are_skipped_and_link_control_stays_with_the_tunnel() {
        let plain = example::tcp_v4();
        let ip = &plain[14..];
        let expected = decode(&example::frame(&plain)).key;
        let ports = (1701, 1701);
        let length = (ip.len() + 18) as u16;
        let [high, low] = length.to_be_bytes();
        let header = [0x4a, 2, high, low, 0, 5, 0, 6, 0, 0, 0, 1, 0, 2, 0xee, 0xee, 0, 0x21];
        let data = example::ipv4(17, [1; 4], [2; 4], &example::udp(ports, &[&header, ip].concat()));
        let packet = decode(&example::frame(&data));
        assert_eq!((packet.problem, packet.key), (None, expected));
        let echo = [0, 2, 0, 5, 0, 6, 0xff, 3, 0xc0, 0x21, 9, 1, 0, 4];
        let data = example::ipv4(17, [1; 4], [2; 4], &example::udp(ports, &echo));
        let packet = decode(&example::frame(&data));
        assert_eq!((packet.key.resp_port, packet.payload, packet.problem), (1701, &echo[..], None));
    }
}
