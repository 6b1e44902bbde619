//! Which transport an IP protocol number leads to.

use super::rest::Rest;
use super::{Decoding, gre, icmp, inside_ip, ports, tcp, udp};

pub(crate) const ICMP: u8 = 1;
pub(crate) const IPV4: u8 = 4;
pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const DCCP: u8 = 33;
pub(crate) const IPV6: u8 = 41;
pub(crate) const GRE: u8 = 47;
pub(crate) const ESP: u8 = 50;
pub(crate) const AH: u8 = 51;
pub(crate) const ICMPV6: u8 = 58;
pub(crate) const ETHER_IP: u8 = 97;
pub(crate) const SCTP: u8 = 132;
pub(crate) const UDP_LITE: u8 = 136;
pub(crate) const MPLS: u8 = 137;

/// Whether packets of an IP protocol have ports, or other packets, behind their first bytes.
pub(crate) fn may_hide_its_flow(protocol: u8) -> bool {
    matches!(protocol, TCP | UDP | SCTP | DCCP | UDP_LITE | GRE | IPV4 | IPV6 | MPLS | ETHER_IP | AH)
}

/// `rest` is the payload of the IP packet, without padding.
#[inline]
pub(super) fn decode<'a>(packet: &mut Decoding<'a>, rest: Rest<'a>) {
    match packet.key.protocol {
        TCP => tcp::decode(packet, rest),
        UDP => udp::decode(packet, rest),
        ICMP | ICMPV6 => icmp::decode(packet, rest),
        // Common headers of RFC 9260 section 3.1, RFC 4340 section 5.1 (the short form), RFC 3828 section 3.1.
        SCTP => ports::decode(packet, rest, 12),
        DCCP => ports::decode(packet, rest, 12),
        UDP_LITE => ports::decode(packet, rest, 8),
        GRE => gre::decode(packet, rest),
        IPV4 | IPV6 | MPLS | ETHER_IP | AH => inside_ip::decode(packet, rest),
        _ => packet.end(rest),
    }
}
