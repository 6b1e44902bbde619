//! The 4-byte address family before an IP header (tcpdump's LINKTYPE_NULL and LINKTYPE_LOOP).

use gnomon_capture::LinkType;
use gnomon_flow::DecodeProblem;

use super::rest::{Rest, u32_at};
use super::{Decoding, ipv4, ipv6};

const HEADER_BYTES: u32 = 4;

pub(super) fn decode<'a>(packet: &mut Decoding<'a>, rest: Rest<'a>, link: LinkType) {
    let Some(header) = rest.peek::<{ HEADER_BYTES as usize }>() else {
        return packet.stop(rest, DecodeProblem::TruncatedLink);
    };
    let network_order = u32_at(header, 0);
    // LINKTYPE_NULL is in the order of the machine that captured; families are small numbers.
    let family =
        if link == LinkType::Null { network_order.min(network_order.swap_bytes()) } else { network_order };
    let rest = rest.skip(HEADER_BYTES);
    match family {
        2 => ipv4::decode(packet, rest),
        // AF_INET6 of Linux, NetBSD/OpenBSD, FreeBSD, macOS.
        10 | 24 | 28 | 30 => ipv6::decode(packet, rest),
        _ => packet.stop(rest, DecodeProblem::UnknownLink),
    }
}

#[cfg(test)]
mod tests {
    use gnomon_capture::Frame;

    use super::super::{decode, example};
    use super::*;

    #[test]
    fn the_family_is_read_in_either_order() {
        let ethernet = example::tcp_v4();
        let inner = &ethernet[14..];
        let expected = decode(&Frame { link: LinkType::RawIp, ..example::frame(inner) });
        assert_eq!(expected.problem, None);
        for (link, header) in
            [(LinkType::Null, [2, 0, 0, 0]), (LinkType::Null, [0, 0, 0, 2]), (LinkType::Loop, [0, 0, 0, 2])]
        {
            let data = [&header[..], inner].concat();
            let packet = decode(&Frame { link, ..example::frame(&data) });
            assert_eq!((packet.key, packet.tcp, packet.problem), (expected.key, expected.tcp, None));
        }
        let data = [&[2, 0, 0, 0], inner].concat();
        let packet = decode(&Frame { link: LinkType::Loop, ..example::frame(&data) });
        assert_eq!(packet.problem, Some(DecodeProblem::UnknownLink));
    }
}
