//! Which transport an IP protocol number leads to.

use super::rest::Rest;
use super::{Fragment, Packet, icmp, ports, tcp, udp};

pub(crate) const ICMP: u8 = 1;
pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
const DCCP: u8 = 33;
pub(crate) const ESP: u8 = 50;
pub(crate) const ICMPV6: u8 = 58;
pub(crate) const SCTP: u8 = 132;
const UDP_LITE: u8 = 136;

/// `rest` is the payload of the IP packet, without padding.
#[inline]
pub(super) fn decode<'a>(packet: &mut Packet<'a>, rest: Rest<'a>) {
    if packet.fragment == Fragment::Later {
        return packet.end(rest);
    }
    match packet.key.protocol {
        TCP => tcp::decode(packet, rest),
        UDP => udp::decode(packet, rest),
        ICMP | ICMPV6 => icmp::decode(packet, rest),
        // Common headers of RFC 9260 section 3.1, RFC 4340 section 5.1 (the short form), RFC 3828 section 3.1.
        SCTP => ports::decode(packet, rest, 12),
        DCCP => ports::decode(packet, rest, 12),
        UDP_LITE => ports::decode(packet, rest, 8),
        _ => packet.end(rest),
    }
}
