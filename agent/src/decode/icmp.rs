//! ICMP (RFC 792) and ICMPv6 (RFC 4443): a flow of the address pair; type and code are kept beside the key. Errors quote
//! the packet that they are about.

use gnomon_capture::{Frame, LinkType, Stamp};
use gnomon_flow::{DecodeProblem, FlowKey};

use super::rest::Rest;
use super::transport::{ICMP, ICMPV6};
use super::{Decoding, Fragment, Packet};

const HEADER_BYTES: u32 = 8;

#[inline]
pub(super) fn decode<'a>(packet: &mut Decoding<'a>, rest: Rest<'a>) {
    match rest.peek::<2>() {
        Some(&[kind, code]) => packet.icmp = Some((kind, code)),
        None => packet.note(DecodeProblem::TruncatedTransport),
    }
    packet.end(rest.skip(HEADER_BYTES));
}

/// The packet an ICMP error is about, seen from its sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Quoted {
    pub(crate) key: FlowKey,
    pub(crate) icmp: Option<(u8, u8)>,
}

/// What an error quotes, where the ports are in it.
pub(crate) fn quoted(packet: &Packet<'_>) -> Option<Quoted> {
    let is_error = match (packet.key.protocol, packet.icmp?.0) {
        // Unreachable, source quench, redirect, time exceeded, parameter problem.
        (ICMP, kind) => matches!(kind, 3 | 4 | 5 | 11 | 12),
        (ICMPV6, kind) => matches!(kind, 1..=4),
        _ => false,
    };
    if !is_error || packet.fragment == Fragment::Later {
        return None;
    }
    // Errors quote the first bytes only: how long the packet was is in its own header.
    let inner = super::decode(&Frame {
        stamp: Stamp::default(),
        link: LinkType::RawIp,
        original_len: u32::from(u16::MAX),
        data: packet.payload,
        vlan: None,
        outgoing: false,
    });
    let has_ports = !inner.key.has_ports() || inner.fragment != Fragment::Later;
    (inner.key_complete && inner.key.orig_ip().is_some() && has_ports)
        .then_some(Quoted { key: inner.key, icmp: inner.icmp })
}

#[cfg(test)]
mod tests {
    use super::super::{decode, example};
    use super::*;

    #[test]
    fn the_key_has_no_ports_and_type_and_code_are_read() {
        let data = example::icmp_v4();
        let packet = decode(&example::frame(&data));
        assert_eq!(packet.icmp, Some((8, 0)));
        assert_eq!((packet.key.protocol, packet.key.orig_port, packet.key.resp_port), (1, 0, 0));
        assert_eq!(packet.payload, b"ping");
        assert_eq!(quoted(&packet), None);
        let cut = decode(&Frame { original_len: data.len() as u32, ..example::frame(&data[..34]) });
        assert_eq!((cut.key, cut.problem), (packet.key, Some(DecodeProblem::TruncatedTransport)));
        assert!(cut.key_complete);
    }

    #[test]
    fn errors_quote_the_flow_they_are_about() {
        for (plain, protocol, kind) in [(example::udp_v4(b"x"), 1, 3), (example::tcp_v4(), 1, 11)] {
            // The IP header and eight bytes.
            let quote = &plain[14..14 + 20 + 8];
            let body = [&[kind, 1, 0, 0, 0, 0, 0, 0], quote].concat();
            let data = example::ipv4(protocol, [9; 4], example::ORIG_V4, &body);
            let packet = decode(&example::frame(&data));
            let expected = decode(&example::frame(&plain)).key;
            assert_eq!(quoted(&packet).map(|quoted| quoted.key), Some(expected));
            for cut in 0..body.len() - 4 {
                let data = example::ipv4(protocol, [9; 4], example::ORIG_V4, &body[..cut]);
                assert_eq!(quoted(&decode(&example::frame(&data))).map(|quoted| quoted.key), None, "{cut}");
            }
        }
        let plain = example::udp_v6();
        let data = example::ipv6(58, &[&[1, 4, 0, 0, 0, 0, 0, 0], &plain[14..]].concat());
        let expected = decode(&example::frame(&plain)).key;
        assert_eq!(quoted(&decode(&example::frame(&data))).map(|quoted| quoted.key), Some(expected));
    }
}
