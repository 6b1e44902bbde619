//! MPLS label stacks (RFC 3032) and what lies under them: IP, or an Ethernet pseudowire (RFC 4385, RFC 4448).

use gnomon_flow::DecodeProblem;

use super::layers::{LAYERS_MAX, LayerKind};
use super::rest::{Rest, u32_at};
use super::{Decoding, ethernet, network};

const LABEL_BYTES: u32 = 4;
const BOTTOM_OF_STACK: u32 = 0x100;

#[cold]
#[inline(never)]
pub(super) fn decode<'a>(packet: &mut Decoding<'a>, rest: Rest<'a>) {
    if !packet.wrap(LayerKind::Mpls, rest.at()) {
        return packet.stop(rest, DecodeProblem::TooDeep);
    }
    let mut under = rest;
    for _ in 0..LAYERS_MAX {
        let Some(label) = under.peek::<{ LABEL_BYTES as usize }>() else {
            return packet.stop(under, DecodeProblem::TruncatedLink);
        };
        under = under.skip(LABEL_BYTES);
        if u32_at(label, 0) & BOTTOM_OF_STACK != 0 {
            return payload(packet, under);
        }
    }
    packet.stop(under, DecodeProblem::TooDeep);
}

/// Nothing in the label says what follows. The first four bits do for IP (RFC 4928); a pseudowire has four zero bits and a
/// control word, or begins at once with an address, which may look like either.
fn payload<'a>(packet: &mut Decoding<'a>, rest: Rest<'a>) {
    let first = rest.captured().first().map(|byte| byte >> 4);
    let before = *packet;
    if matches!(first, Some(4 | 6)) {
        network::decode_ip(packet, rest);
        if packet.key_complete {
            return;
        }
        *packet = before;
    }
    let places = if first == Some(0) { [Some(4), Some(0)] } else { [Some(0), None] };
    for skipped in places.into_iter().flatten() {
        let inner = rest.skip(skipped);
        if ethernet::is_likely(&inner) {
            ethernet::decode_inner(packet, inner);
            if packet.key_complete {
                return;
            }
            *packet = before;
        }
    }
    // A flow of its talkers: a pseudowire of another kind, or a channel beside one (RFC 5586).
    packet.header_len = rest.at();
}

#[cfg(test)]
mod tests {
    use super::super::{decode, example};
    use super::*;

    #[test]
    fn ip_and_pseudowires_with_and_without_a_control_word_are_seen_through() {
        let plain = example::tcp_v4();
        let expected = decode(&example::frame(&plain));
        for body in [&plain[14..], &plain[..], &[&[0; 4], &plain[..]].concat()] {
            let stack = [&[0, 1, 0, 64, 0, 2, 1, 64], body].concat();
            let data = example::ethernet(0x8847, &stack);
            let packet = decode(&example::frame(&data));
            assert_eq!((packet.problem, packet.key, packet.payload), (None, expected.key, expected.payload));
            let mut outer = Vec::new();
            super::super::each_outer(&example::frame(&data), |fact| outer.push(fact));
            assert!(outer.contains(&super::super::Outer::Header(LayerKind::Mpls, Some(32))), "{outer:?}");
        }
    }

    #[test]
    fn a_stack_without_bottom_is_too_deep_and_an_unknown_payload_a_flow_of_its_talkers() {
        let data = example::ethernet(0x8847, &[0; 64]);
        assert_eq!(decode(&example::frame(&data)).problem, Some(DecodeProblem::TooDeep));
        let data = example::ethernet(0x8847, &[0, 1, 1, 64, 0x10, 0, 0, 0x21, 1, 2, 3]);
        let packet = decode(&example::frame(&data));
        assert_eq!((packet.problem, packet.key.ethertype), (None, 0x8847));
    }
}
