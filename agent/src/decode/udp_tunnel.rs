//! Tunnels in UDP: found by port, believed by content. Where the inside makes no sense the datagram is plain UDP.

use gnomon_flow::DecodeProblem;

use super::layers::LayerKind;
use super::rest::{Rest, u16_at, u32_at};
use super::{Decoding, ethernet, gtp, l2tp, mpls, network, nsh};

const L2TP: u16 = 1701;
const GTP_U: u16 = 2152;
const TEREDO: u16 = 3544;
const VXLAN: u16 = 4789;
const VXLAN_GPE: u16 = 4790;
const GENEVE: u16 = 6081;
const MPLS: u16 = 6635;
const TZSP: u16 = 37008;
/// What Linux took for VXLAN before there was a number.
const VXLAN_LINUX: u16 = 8472;

const HEADER_BYTES: u32 = 8;

#[inline]
pub(super) fn may_be(source: u16, destination: u16) -> bool {
    matches!(destination, L2TP | GTP_U | TEREDO | VXLAN | VXLAN_GPE | GENEVE | MPLS | VXLAN_LINUX | TZSP)
        || matches!(source, L2TP | TEREDO)
}

#[cold]
#[inline(never)]
pub(super) fn decode<'a>(packet: &mut Decoding<'a>, rest: Rest<'a>) {
    let ports = (packet.key.orig_port, packet.key.resp_port);
    packet.try_inside(rest, |packet| {
        if !packet.wrap_ip() {
            return packet.stop(rest, DecodeProblem::TooDeep);
        }
        match ports {
            (_, VXLAN | VXLAN_LINUX) => vxlan(packet, rest),
            (_, VXLAN_GPE) => vxlan_gpe(packet, rest),
            (_, GENEVE) => geneve(packet, rest),
            (_, GTP_U) => gtp::decode(packet, rest),
            (_, TZSP) => tzsp(packet, rest),
            (_, MPLS) => surely(packet, rest, mpls::decode),
            (L2TP, _) | (_, L2TP) => surely(packet, rest, l2tp::decode),
            _ => surely(packet, rest, teredo),
        }
    });
}

/// With little to tell the tunnel from other datagrams, its packet must be sound.
fn surely<'a>(packet: &mut Decoding<'a>, rest: Rest<'a>, decode: fn(&mut Decoding<'a>, Rest<'a>)) {
    decode(packet, rest);
    if packet.problem == Some(DecodeProblem::Malformed) {
        packet.stop(rest, DecodeProblem::Malformed);
    }
}

/// Whether the header's fixed bits are right, and the network it names. Reserved bits are ignored on receipt (RFC 7348
/// section 5, RFC 8926 section 3.4); the caller looks closer at what follows where they are not zero.
fn begin<'a>(packet: &mut Decoding<'a>, kind: LayerKind, rest: Rest<'a>, fixed: u32, mask: u32) -> bool {
    match rest.peek::<{ HEADER_BYTES as usize }>() {
        Some(header) if u32_at(header, 0) & mask == fixed => {
            packet.network_id = u32_at(header, 4) >> 8;
            packet.wrap(kind, rest.at()) || {
                packet.stop(rest, DecodeProblem::TooDeep);
                false
            }
        }
        _ => {
            packet.stop(rest, DecodeProblem::Malformed);
            false
        }
    }
}

/// RFC 7348 section 5, with the group policy of draft-smith-vxlan-group-policy.
fn vxlan<'a>(packet: &mut Decoding<'a>, rest: Rest<'a>) {
    const RESERVED: u32 = 0x77b7_0000;
    if !begin(packet, LayerKind::Vxlan, rest, 0x0800_0000, 0x0800_0000) {
        return;
    }
    let inner = rest.skip(HEADER_BYTES);
    let is_plain = rest.peek::<8>().is_some_and(|header| u32_at(header, 0) & RESERVED == 0 && header[7] == 0);
    if is_plain || ethernet::is_likely(&inner) {
        ethernet::decode_inner(packet, inner);
    } else {
        packet.stop(rest, DecodeProblem::Malformed);
    }
}

/// draft-ietf-nvo3-vxlan-gpe: version 0.
fn vxlan_gpe<'a>(packet: &mut Decoding<'a>, rest: Rest<'a>) {
    if !begin(packet, LayerKind::VxlanGpe, rest, 0x0800_0000, 0x3800_0000) {
        return;
    }
    let inner = rest.skip(HEADER_BYTES);
    let has_next = rest.captured().first().is_some_and(|flags| flags & 0x04 != 0);
    match rest.captured().get(3) {
        Some(1) if has_next => network::decode(packet, inner, network::ETHERTYPE_IPV4),
        Some(2) if has_next => network::decode(packet, inner, network::ETHERTYPE_IPV6),
        Some(3) if has_next => ethernet::decode_inner(packet, inner),
        Some(4) if has_next => nsh::decode(packet, inner),
        Some(5) if has_next => mpls::decode(packet, inner),
        // Without a next protocol it is plain VXLAN.
        _ if !has_next && ethernet::is_likely(&inner) => ethernet::decode_inner(packet, inner),
        _ => packet.stop(rest, DecodeProblem::UnknownLink),
    }
}

/// TaZmen Sniffer Protocol, version 1: tagged fields up to the end tag, then the frame.
fn tzsp<'a>(packet: &mut Decoding<'a>, rest: Rest<'a>) {
    const FIELDS_MAX: usize = 64;
    const ETHERNET: u16 = 1;
    let Some(header) = rest.peek::<4>() else { return packet.stop(rest, DecodeProblem::Malformed) };
    // Received packets, and packets for transmission.
    if header[0] != 1 || header[1] > 1 || u16_at(header, 2) != ETHERNET {
        return packet.stop(rest, DecodeProblem::UnknownLink);
    }
    let mut inner = rest.skip(4);
    for _ in 0..FIELDS_MAX {
        match inner.captured() {
            [0, ..] => inner = inner.skip(1),
            [1, ..] => {
                if !packet.wrap(LayerKind::Tzsp, rest.at()) {
                    return packet.stop(rest, DecodeProblem::TooDeep);
                }
                return ethernet::decode_inner(packet, inner.skip(1));
            }
            [_, bytes, ..] => inner = inner.skip(2 + u32::from(*bytes)),
            _ => break,
        }
    }
    packet.stop(rest, DecodeProblem::Malformed);
}

/// RFC 8926 section 3.4: version 0, options of so many words.
fn geneve<'a>(packet: &mut Decoding<'a>, rest: Rest<'a>) {
    if !begin(packet, LayerKind::Geneve, rest, 0, 0xc000_0000) {
        return;
    }
    let Some(header) = rest.peek::<4>() else { return packet.stop(rest, DecodeProblem::Malformed) };
    let options = u32::from(header[0] & 0x3f) * 4;
    if HEADER_BYTES + options > rest.wire() {
        return packet.stop(rest, DecodeProblem::Malformed);
    }
    let inner = rest.skip(HEADER_BYTES + options);
    match u16_at(header, 2) {
        0x6558 => ethernet::decode_inner(packet, inner),
        protocol @ (network::ETHERTYPE_IPV4 | network::ETHERTYPE_IPV6 | network::ETHERTYPE_MPLS) => {
            network::decode(packet, inner, protocol);
        }
        _ => packet.stop(rest, DecodeProblem::UnknownLink),
    }
}

/// RFC 4380 section 5.1.1: an IPv6 packet, after authentication and origin where they are.
fn teredo<'a>(packet: &mut Decoding<'a>, mut rest: Rest<'a>) {
    if !packet.wrap(LayerKind::Teredo, rest.at()) {
        return packet.stop(rest, DecodeProblem::TooDeep);
    }
    if let Some(&[0, 1, id_bytes, authentication_bytes]) = rest.peek::<4>() {
        rest = rest.skip(4 + u32::from(id_bytes) + u32::from(authentication_bytes) + 9);
    }
    if rest.captured().starts_with(&[0, 0]) {
        rest = rest.skip(8);
    }
    match rest.captured().first() {
        Some(first) if first >> 4 == 6 => network::decode(packet, rest, network::ETHERTYPE_IPV6),
        _ => packet.stop(rest, DecodeProblem::Malformed),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Outer, decode, example};
    use super::*;

    const A: [u8; 4] = [172, 16, 0, 1];
    const B: [u8; 4] = [172, 16, 0, 2];

    fn tunnel(ports: (u16, u16), header: &[u8], inner: &[u8]) -> Vec<u8> {
        example::ipv4(17, A, B, &example::udp(ports, &[header, inner].concat()))
    }

    #[test]
    fn each_tunnel_gives_the_inner_flow_and_what_it_is_wrapped_in() {
        let (plain, v6) = (example::tcp_v4(), example::udp_v6());
        let (frame, ip) = (&plain[..], &plain[14..]);
        let long =
            [&[0x34, 255, 0, (ip.len() + 8) as u8, 0, 0, 0, 9, 0, 0, 0, 0x85], &[1, 0x10, 0, 0][..]].concat();
        let l2tp = &[0, 2, 0, 5, 0, 6, 0xff, 3, 0, 0x21];
        for (port, header, inner, fact) in [
            (VXLAN, &[8, 0, 0, 0, 0, 0, 9, 0][..], frame, Outer::Header(LayerKind::Vxlan, Some(9))),
            (VXLAN_LINUX, &[0x88, 0, 1, 2, 0, 0, 9, 0], frame, Outer::Header(LayerKind::Vxlan, Some(9))),
            // Reserved bits are ignored.
            (VXLAN, &[0xff, 0xff, 0, 0, 0, 0, 9, 7], frame, Outer::Header(LayerKind::Vxlan, Some(9))),
            (GENEVE, &[0, 0x3f, 0x65, 0x58, 0, 0, 9, 7], frame, Outer::Header(LayerKind::Geneve, Some(9))),
            (TZSP, &[1, 0, 0, 1, 0, 10, 2, 3, 4, 1], frame, Outer::Header(LayerKind::Tzsp, None)),
            (VXLAN_GPE, &[0x0c, 0, 0, 3, 0, 0, 9, 0], frame, Outer::Header(LayerKind::VxlanGpe, Some(9))),
            (VXLAN_GPE, &[0x0c, 0, 0, 1, 0, 0, 9, 0], ip, Outer::Header(LayerKind::VxlanGpe, Some(9))),
            (GENEVE, &[0, 0, 0x65, 0x58, 0, 0, 9, 0], frame, Outer::Header(LayerKind::Geneve, Some(9))),
            (GENEVE, &[1, 0, 8, 0, 0, 0, 9, 0, 1, 2, 3, 4], ip, Outer::Header(LayerKind::Geneve, Some(9))),
            (GTP_U, &[0x30, 255, 0, ip.len() as u8, 0, 0, 0, 9], ip, Outer::Header(LayerKind::GtpU, Some(9))),
            (GTP_U, &long, ip, Outer::Header(LayerKind::GtpU, Some(9))),
            (MPLS, &[0, 0, 0x91, 64], ip, Outer::Header(LayerKind::Mpls, Some(9))),
            (L2TP, l2tp, ip, Outer::Header(LayerKind::L2tp, Some(5 << 16 | 6))),
            (TEREDO, &[], &v6[14..], Outer::Header(LayerKind::Teredo, None)),
            (
                TEREDO,
                &[0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
                &v6[14..],
                Outer::Header(LayerKind::Teredo, None),
            ),
        ] {
            let data = tunnel((50_000, port), header, inner);
            let packet = decode(&example::frame(&data));
            let expected = decode(&example::frame(if port == TEREDO { &v6 } else { &plain }));
            assert_eq!((packet.problem, packet.key), (None, expected.key), "port {port} {header:x?}");
            assert_eq!((packet.payload, packet.tcp), (expected.payload, expected.tcp));
            let mut outer = Vec::new();
            super::super::each_outer(&example::frame(&data), |fact| outer.push(fact));
            assert!(outer.contains(&Outer::Ip { source: A.into(), destination: B.into() }), "{outer:?}");
            assert!(outer.contains(&fact), "{outer:?}");
            assert_eq!(
                outer.contains(&Outer::Mac { source: example::ORIG_MAC, destination: example::RESP_MAC }),
                inner.len() == frame.len() && port != TEREDO
            );
        }
    }

    #[test]
    fn what_only_has_the_port_is_plain_udp() {
        for port in [L2TP, GTP_U, TEREDO, VXLAN, VXLAN_GPE, GENEVE, MPLS, VXLAN_LINUX, TZSP] {
            for body in [&b""[..], b"abc", &[0xff; 60], b"GET / HTTP/1.1\r\nHost: not.a.tunnel\r\n\r\n"] {
                let data = tunnel((50_000, port), body, b"");
                let packet = decode(&example::frame(&data));
                assert_eq!((packet.key.resp_port, packet.problem), (port, None), "{body:x?}");
                assert_eq!((packet.payload, packet.key.vlan), (body, [0; 2]));
                assert!(!packet.is_wrapped && packet.network_id == 0);
            }
        }
    }

    #[test]
    fn the_inner_frame_has_its_own_tags() {
        let inner = example::tagged(&[(0x8100, 30)], &example::tcp_v4());
        let data = example::tagged(&[(0x8100, 5)], &tunnel((1, VXLAN), &[8, 0, 0, 0, 0, 0, 9, 0], &inner));
        let packet = decode(&example::frame(&data));
        assert_eq!((packet.key.vlan, packet.network_id), ([30, 0], 9));
        let mut outer = Vec::new();
        super::super::each_outer(&example::frame(&data), |fact| outer.push(fact));
        assert!(outer.contains(&Outer::Vlan(5)));
    }
}
