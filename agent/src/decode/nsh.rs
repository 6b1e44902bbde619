//! Network service header (RFC 8300): a service path, and the packet that goes along it.

use gnomon_flow::DecodeProblem;

use super::layers::LayerKind;
use super::rest::Rest;
use super::{Decoding, ethernet, mpls, network};

#[cold]
#[inline(never)]
pub(super) fn decode<'a>(packet: &mut Decoding<'a>, rest: Rest<'a>) {
    let Some(header) = rest.peek::<8>() else {
        return packet.stop(rest, DecodeProblem::TruncatedLink);
    };
    let bytes = u32::from(header[1] & 0x3f) * 4;
    if header[0] >> 6 != 0 || bytes < 8 || bytes > rest.wire() {
        return packet.stop(rest, DecodeProblem::Malformed);
    }
    if !packet.wrap(LayerKind::Nsh, rest.at()) {
        return packet.stop(rest, DecodeProblem::TooDeep);
    }
    let inner = rest.skip(bytes);
    match header[3] {
        1 => network::decode(packet, inner, network::ETHERTYPE_IPV4),
        2 => network::decode(packet, inner, network::ETHERTYPE_IPV6),
        3 => ethernet::decode_inner(packet, inner),
        4 => decode(packet, inner),
        5 => mpls::decode(packet, inner),
        // A flow of its talkers.
        _ => packet.header_len = inner.at(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Outer, decode, example};
    use super::*;

    #[test]
    fn the_packet_on_the_path_is_the_flow() {
        let plain = example::tcp_v4();
        let expected = decode(&example::frame(&plain)).key;
        for (next, body) in [(1, &plain[14..]), (3, &plain[..])] {
            let header = [0x0f, 0xc6, 1, next, 0, 0, 42, 255, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
            let data = example::ethernet(0x894f, &[&header, body].concat());
            let packet = decode(&example::frame(&data));
            assert_eq!((packet.problem, packet.key), (None, expected));
            let mut outer = Vec::new();
            super::super::each_outer(&example::frame(&data), |fact| outer.push(fact));
            assert!(outer.contains(&Outer::Header(LayerKind::Nsh, Some(42))));
        }
    }
}
