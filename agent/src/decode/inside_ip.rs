//! Packets directly inside IP: IP (RFC 2003, RFC 4213), Ethernet (RFC 3378), MPLS (RFC 4023), and what is behind an
//! authentication header (RFC 4302).

use gnomon_flow::DecodeProblem;

use super::layers::LayerKind;
use super::rest::Rest;
use super::transport::{AH, ETHER_IP, IPV4, MPLS};
use super::{Decoding, ethernet, ipv4, ipv6, mpls, transport};

#[cold]
#[inline(never)]
pub(super) fn decode<'a>(packet: &mut Decoding<'a>, rest: Rest<'a>) {
    if packet.key.protocol == AH {
        return authenticated(packet, rest);
    }
    packet.try_inside(rest, |packet| {
        if !packet.wrap_ip() {
            return packet.stop(rest, DecodeProblem::TooDeep);
        }
        match packet.key.protocol {
            IPV4 => ipv4::decode(packet, rest),
            MPLS => mpls::decode(packet, rest),
            ETHER_IP => match rest.peek::<2>() {
                Some([0x30, 0]) if packet.wrap(LayerKind::EtherIp, rest.at()) => {
                    ethernet::decode_inner(packet, rest.skip(2));
                }
                _ => packet.stop(rest, DecodeProblem::Malformed),
            },
            _ => ipv6::decode(packet, rest),
        }
    });
}

/// The header says how long it is, and what it authenticates is in the clear.
fn authenticated<'a>(packet: &mut Decoding<'a>, rest: Rest<'a>) {
    let Some(&[next, words, ..]) = rest.peek::<12>() else {
        packet.note(DecodeProblem::TruncatedTransport);
        return packet.end(rest);
    };
    let before = *packet;
    if packet.wrap(LayerKind::Ah, rest.at()) {
        packet.key.protocol = next;
        transport::decode(packet, rest.skip((u32::from(words) + 2) * 4));
        if packet.key_complete {
            return;
        }
        *packet = before;
    } else {
        packet.note(DecodeProblem::TooDeep);
    }
    packet.end(rest);
}

#[cfg(test)]
mod tests {
    use super::super::{Outer, decode, example};
    use super::*;

    const A: [u8; 4] = [172, 16, 0, 1];
    const B: [u8; 4] = [172, 16, 0, 2];

    #[test]
    fn ip_in_ip_and_its_kin_give_the_inner_flow_and_the_outer_addresses() {
        for plain in [example::tcp_v4(), example::udp_v6()] {
            let expected = decode(&example::frame(&plain));
            let protocol = if plain[12] == 8 { 4 } else { 41 };
            for (protocol, body) in [
                (protocol, plain[14..].to_vec()),
                (97, [&[0x30, 0], &plain[..]].concat()),
                (137, [&[0, 1, 1, 64], &plain[14..]].concat()),
                (
                    51,
                    [
                        &[protocol, 4, 0, 0, 0, 0, 0, 7, 0, 0, 0, 1, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12],
                        &plain[14..],
                    ]
                    .concat(),
                ),
            ] {
                for data in [example::ipv4(protocol, A, B, &body), example::ipv6(protocol, &body)] {
                    let packet = decode(&example::frame(&data));
                    assert_eq!((packet.problem, packet.key), (None, expected.key), "protocol {protocol}");
                    assert_eq!(
                        (packet.payload, packet.payload_len),
                        (expected.payload, 6.min(expected.payload_len))
                    );
                    let mut outer = 0;
                    super::super::each_outer(&example::frame(&data), |fact| {
                        outer += u32::from(matches!(fact, Outer::Ip { .. }))
                    });
                    assert_eq!(outer, 1);
                }
            }
        }
    }

    #[test]
    fn transport_behind_an_authentication_header_keeps_the_ports() {
        let plain = example::udp_v4(b"abc");
        let header = [17, 4, 0, 0, 0, 0, 0, 7, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let data = example::ipv4(51, example::ORIG_V4, example::RESP_V4, &[&header, &plain[34..]].concat());
        let packet = decode(&example::frame(&data));
        assert_eq!(packet.key, decode(&example::frame(&plain)).key);
        let mut outer = Vec::new();
        super::super::each_outer(&example::frame(&data), |fact| outer.push(fact));
        assert_eq!(outer, [Outer::Header(LayerKind::Ah, Some(7))]);
    }

    #[test]
    fn packets_in_packets_without_end_are_too_deep_and_belong_to_the_last_that_was_understood() {
        let mut body = example::tcp_v4()[14..].to_vec();
        for _ in 0..20 {
            body = example::ipv4(4, A, B, &body)[14..].to_vec();
        }
        let data = example::ethernet(0x0800, &body);
        let packet = decode(&example::frame(&data));
        assert_eq!(packet.problem, Some(DecodeProblem::TooDeep));
        assert_eq!((packet.key.protocol, packet.key_complete), (4, true));
    }
}
