//! Which inspector a datagram goes to: by its first byte and what must follow there, by a port only where a message
//! has too little of its own to be known by.

use gnomon_flow::Attributes;

use super::held::Held;
use super::protocol::Protocol;
use super::stream::Memory;
use super::{
    BufferBudget, dhcp, dhcpv6, dns, krb5, ldap, nbns, ntp, quic, radius, signature, sip, snmp, stun, syslog,
    tftp,
};

pub(super) struct Outcome {
    pub(super) protocol: Option<Protocol>,
    pub(super) next: Next,
}

pub(super) enum Next {
    /// The next datagram may tell more.
    More,
    /// It may, a few times.
    Try,
    /// Nothing more is told in this direction.
    OverHere,
    /// Nothing more is told, in both directions.
    Over,
}

impl Outcome {
    fn of(protocol: Protocol, next: Next) -> Outcome {
        Outcome { protocol: Some(protocol), next }
    }
}

/// An inspector of whole datagrams; false when it is not its protocol.
type Reads = fn(&[u8], &mut Attributes) -> bool;

/// Protocols whose messages are known by their content on any port, by the first byte.
fn candidates(first: u8) -> &'static [(Protocol, Reads)] {
    const RADIUS: (Protocol, Reads) = (Protocol::Radius, radius::datagram);
    const STUN: (Protocol, Reads) = (Protocol::Stun, stun::datagram);
    const DHCP: (Protocol, Reads) = (Protocol::Dhcp, dhcp::datagram);
    match first {
        0 => &[(Protocol::Tftp, tftp::datagram), STUN],
        1 => &[DHCP, STUN, RADIUS],
        2 => &[DHCP, RADIUS],
        3..=5 | 11..=13 | 40..=45 => &[RADIUS],
        b'0' => &[(Protocol::Snmp, snmp::datagram), (Protocol::Ldap, ldap::datagram)],
        b'<' => &[(Protocol::Syslog, syslog::datagram)],
        b'A'..=b'Z' => &[(Protocol::Sip, sip::datagram)],
        0x6a..=0x6f | 0x7e => &[(Protocol::Krb5, krb5::datagram)],
        _ => &[],
    }
}

/// Reads a datagram.
pub(super) fn read(
    bytes: &[u8],
    from_originator: bool,
    ports: [u16; 2],
    held: &mut Option<Box<Held>>,
    memory: &mut Memory,
    out: &mut Attributes,
    budget: &mut BufferBudget,
) -> Outcome {
    if let Memory::Quic(_) = memory {
        // Its keys were found: nothing else it may look like is meant.
        return match quic::datagram(bytes, from_originator, held, memory, out, budget) {
            quic::Outcome::Finished => Outcome::of(Protocol::Quic, Next::OverHere),
            quic::Outcome::Partial | quic::Outcome::NotQuic => Outcome::of(Protocol::Quic, Next::Try),
        };
    }
    for (protocol, reads) in bytes.first().map_or(&[][..], |first| candidates(*first)) {
        if reads(bytes, out) {
            return Outcome::of(*protocol, Next::More);
        }
    }
    if let Some(protocol) = dns::datagram(bytes, ports, out) {
        return Outcome::of(protocol, Next::More);
    }
    if ntp::datagram(bytes, ports, memory, out) {
        return Outcome::of(Protocol::Ntp, Next::More);
    }
    if nbns::datagram(bytes, ports, out) {
        return Outcome::of(Protocol::Nbns, Next::More);
    }
    if dhcpv6::datagram(bytes, ports, out) {
        return Outcome::of(Protocol::Dhcpv6, Next::More);
    }
    match quic::datagram(bytes, from_originator, held, memory, out, budget) {
        quic::Outcome::NotQuic => {}
        quic::Outcome::Partial => return Outcome::of(Protocol::Quic, Next::Try),
        quic::Outcome::Finished => return Outcome::of(Protocol::Quic, Next::OverHere),
    }
    match signature::datagram(bytes, ports, out) {
        Some(protocol) => Outcome::of(protocol, Next::Over),
        None => Outcome { protocol: None, next: Next::Try },
    }
}
