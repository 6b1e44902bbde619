//! Who began a flow, told by its first packet: is that a question or an answer?
//!
//! Constraints: pure, no allocation; asked once a flow. A payload has to look like its protocol before its direction bit
//! is believed, since a port alone proves nothing.

use gnomon_flow::Addresses;

use crate::decode::{ArpOperation, Fragment, ICMP, ICMPV6, Packet, SCTP, TCP, UDP};

/// What a flow's first packet says of who asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// Its sender began the flow.
    Question,
    /// Its receiver did.
    Answer,
    /// Nothing tells: the sender is taken for the originator, and the record says that this is a guess.
    Unknown,
}

impl Role {
    fn of(is_answer: bool) -> Role {
        if is_answer { Role::Answer } else { Role::Question }
    }
}

pub(super) fn role(packet: &Packet<'_>) -> Role {
    let told = match packet.key.protocol {
        TCP => tcp(packet),
        UDP if packet.fragment != Fragment::Later => {
            datagram(packet.key.orig_port, packet.key.resp_port, packet.payload)
        }
        ICMP | ICMPV6 => packet.icmp.map_or(Role::Unknown, |(kind, _)| icmp(packet, kind)),
        // RFC 9260 section 3.2: INIT and INIT ACK.
        SCTP => match packet.payload.first() {
            Some(1) => Role::Question,
            Some(2) => Role::Answer,
            _ => Role::Unknown,
        },
        _ => arp(packet),
    };
    match told {
        // Nobody sends from a group's address, so what goes to one was begun by its sender.
        Role::Unknown if goes_to_many(&packet.key.addresses) => Role::Question,
        told => told,
    }
}

fn tcp(packet: &Packet<'_>) -> Role {
    match packet.tcp {
        Some(header) if header.is_syn() => Role::Question,
        Some(header) if header.is_syn_ack() => Role::Answer,
        Some(_) => stream(packet.payload),
        None => Role::Unknown,
    }
}

/// The beginning of a TCP segment in the middle of a connection.
fn stream(payload: &[u8]) -> Role {
    const REQUESTS: [&[u8]; 9] = [
        b"GET ",
        b"POST ",
        b"PUT ",
        b"HEAD ",
        b"DELETE ",
        b"OPTIONS ",
        b"CONNECT ",
        b"PATCH ",
        b"PRI * HTTP/2.0",
    ];
    match payload {
        // Only servers send a ServerHello, only clients a ClientHello (RFC 8446 section 4).
        [22, 3, 0..=4, _, _, kind @ (1 | 2), ..] => Role::of(*kind == 2),
        _ if payload.starts_with(b"HTTP/1.") || payload.starts_with(b"RTSP/1.0 ") => Role::Answer,
        _ if REQUESTS.iter().any(|method| payload.starts_with(method)) => Role::Question,
        _ => Role::Unknown,
    }
}

fn icmp(packet: &Packet<'_>, kind: u8) -> Role {
    match (packet.key.protocol, kind) {
        // Echo, time stamp, information and address mask replies (RFC 792, RFC 950).
        (ICMP, 0 | 14 | 16 | 18) => Role::Answer,
        (ICMP, _) => Role::Question,
        // Echo reply; node information reply (RFC 4620).
        (_, 129 | 140) => Role::Answer,
        // An advertisement that was asked for goes to the host that asked (RFC 4861 section 7.2.4).
        (_, 136) => Role::of(!goes_to_many(&packet.key.addresses)),
        _ => Role::Question,
    }
}

fn arp(packet: &Packet<'_>) -> Role {
    match packet.arp {
        Some(ArpOperation::Request | ArpOperation::ReverseRequest) => Role::Question,
        Some(ArpOperation::Reply | ArpOperation::ReverseReply) => Role::Answer,
        Some(ArpOperation::Other(_)) | None => Role::Unknown,
    }
}

fn goes_to_many(addresses: &Addresses) -> bool {
    match addresses {
        Addresses::V4 { resp, .. } => resp[0] >> 4 == 0xe || *resp == [255; 4],
        Addresses::V6 { resp, .. } => resp[0] == 0xff,
        Addresses::Mac { resp, .. } => resp[0] & 1 == 1,
        Addresses::None => false,
    }
}

/// A datagram between two ports.
fn datagram(from: u16, to: u16, payload: &[u8]) -> Role {
    let between = |ports: &[u16]| ports.contains(&from) || ports.contains(&to);
    if between(&[53, 5353, 5355, 137]) {
        return dns(payload);
    }
    if between(&[123]) {
        return ntp(payload);
    }
    // BOOTP's operation (RFC 2131 section 2) with its magic cookie.
    if between(&[67, 68, 4011]) && payload.get(236..240).is_some_and(|cookie| cookie == [99, 130, 83, 99]) {
        return Role::of(payload[0] == 2);
    }
    if between(&[546, 547]) {
        // Advertise, reply, reconfigure, relay-reply (RFC 8415 section 7.3).
        return match payload.first() {
            Some(2 | 7 | 10 | 13) => Role::Answer,
            Some(1..=12) => Role::Question,
            _ => Role::Unknown,
        };
    }
    if between(&[1812, 1813, 1645, 1646, 3799]) && payload.len() >= 20 {
        return radius(payload);
    }
    if between(&[161, 162]) {
        return snmp(payload);
    }
    if between(&[88, 464]) {
        // Application tags (RFC 4120 section 5.10): the odd ones above 10 and KRB-ERROR answer.
        return match payload.first() {
            Some(0x6a | 0x6c | 0x6e) => Role::Question,
            Some(0x6b | 0x6d | 0x6f | 0x7e) => Role::Answer,
            _ => Role::Unknown,
        };
    }
    if between(&[389]) {
        return cldap(payload);
    }
    if between(&[69]) {
        return Role::of(from == 69 && to != 69);
    }
    if between(&[500, 4500]) {
        return ike(payload);
    }
    if between(&[111, 2049]) {
        // RFC 5531 section 9: call 0, reply 1.
        return match payload.get(4..8) {
            Some([0, 0, 0, kind @ (0 | 1)]) => Role::of(*kind == 1),
            _ => Role::Unknown,
        };
    }
    if between(&[5683]) {
        // CoAP (RFC 7252 section 3): version 1, requests are codes of class 0.
        return match payload {
            [first, code, _, _, ..] if first >> 6 == 1 && *code != 0 => Role::of(code >> 5 != 0),
            _ => Role::Unknown,
        };
    }
    if to == 514 && payload.first() == Some(&b'<') {
        return Role::Question;
    }
    if let Some(role) = stun(payload) {
        return role;
    }
    text(payload)
}

/// DNS, mDNS, LLMNR and NetBIOS names: the QR bit (RFC 1035 section 4.1.1), in a header whose operation is defined and whose
/// counts a datagram can hold.
fn dns(payload: &[u8]) -> Role {
    const RECORDS_MAX: u16 = 4096;
    let Some(&[_, _, flags, code, ref counts @ ..]) = payload.first_chunk::<12>() else {
        return Role::Unknown;
    };
    let is_possible = counts.as_chunks::<2>().0.iter().all(|count| u16::from_be_bytes(*count) <= RECORDS_MAX);
    if flags >> 3 & 15 <= 6 && code & 0x0f <= 10 && is_possible && counts.iter().any(|byte| *byte != 0) {
        Role::of(flags & 0x80 != 0)
    } else {
        Role::Unknown
    }
}

/// RFC 5905 section 7.3; RFC 9327 section 2 for mode 6; mode 7 is ntpd's own.
fn ntp(payload: &[u8]) -> Role {
    match payload {
        [first, second, ..] if (1..=4).contains(&(first >> 3 & 7)) => match first & 7 {
            // Client, and broadcast, which nobody asked for.
            3 | 5 => Role::Question,
            4 => Role::Answer,
            6 => Role::of(second & 0x80 != 0),
            7 => Role::of(first & 0x80 != 0),
            // Symmetric peers are equals.
            _ => Role::Unknown,
        },
        _ => Role::Unknown,
    }
}

/// RFC 2865 section 3, RFC 5176 section 2.3.
fn radius(payload: &[u8]) -> Role {
    match payload[0] {
        1 | 4 | 12 | 40 | 43 => Role::Question,
        2 | 3 | 5 | 11 | 13 | 41 | 42 | 44 | 45 => Role::Answer,
        _ => Role::Unknown,
    }
}

/// The tag of the PDU (RFC 3416 section 3), behind version and community.
fn snmp(payload: &[u8]) -> Role {
    let mut rest = match payload {
        [0x30, 0..=0x7f, rest @ ..] => rest,
        [0x30, 0x81, _, rest @ ..] => rest,
        [0x30, 0x82, _, _, rest @ ..] => rest,
        _ => return Role::Unknown,
    };
    for _ in 0..2 {
        match rest {
            [0x02 | 0x04, length @ 0..=0x7f, more @ ..] if more.len() >= usize::from(*length) => {
                rest = &more[usize::from(*length)..];
            }
            _ => return Role::Unknown,
        }
    }
    match rest.first() {
        Some(0xa2 | 0xa8) => Role::Answer,
        Some(0xa0 | 0xa1 | 0xa3..=0xa7) => Role::Question,
        _ => Role::Unknown,
    }
}

/// The operation of an LDAP message (RFC 4511 section 4.2), behind its number: searches ask, entries and results answer.
fn cldap(payload: &[u8]) -> Role {
    let rest = match payload {
        [0x30, 0..=0x7f, rest @ ..] => rest,
        [0x30, 0x84, _, _, _, _, rest @ ..] => rest,
        [0x30, 0x81, _, rest @ ..] => rest,
        [0x30, 0x82, _, _, rest @ ..] => rest,
        _ => return Role::Unknown,
    };
    match rest {
        [0x02, length @ 1..=4, rest @ ..] => match rest.get(usize::from(*length)) {
            Some(0x63) => Role::Question,
            Some(0x64 | 0x65) => Role::Answer,
            _ => Role::Unknown,
        },
        _ => Role::Unknown,
    }
}

/// IKE (RFC 7296 section 3.1): the R flag of version 2; in version 1 the first message has no responder's cookie.
fn ike(payload: &[u8]) -> Role {
    // Behind the non-ESP marker of port 4500 (RFC 3948 section 2.2).
    let header = payload.strip_prefix(&[0; 4]).unwrap_or(payload);
    match header.first_chunk::<28>() {
        Some(header) if header[17] == 0x20 => Role::of(header[19] & 0x20 != 0),
        Some(header) if header[17] == 0x10 && header[8..16] == [0; 8] => Role::Question,
        _ => Role::Unknown,
    }
}

/// The class in the type of a STUN message (RFC 8489 section 5), known by its magic cookie.
fn stun(payload: &[u8]) -> Option<Role> {
    let header = payload.first_chunk::<20>()?;
    if header[0] & 0xc0 != 0 || header[4..8] != [0x21, 0x12, 0xa4, 0x42] {
        return None;
    }
    Some(match (header[0] & 1, header[1] & 0x10) {
        (0, 0) => Role::Question,
        (1, _) => Role::Answer,
        // Indications are neither.
        _ => Role::Unknown,
    })
}

/// SIP and SSDP: a status line answers (RFC 3261 section 7.2).
fn text(payload: &[u8]) -> Role {
    const REQUESTS: [&[u8]; 11] = [
        b"INVITE ",
        b"REGISTER ",
        b"OPTIONS ",
        b"SUBSCRIBE ",
        b"NOTIFY ",
        b"MESSAGE ",
        b"PUBLISH ",
        b"BYE ",
        b"CANCEL ",
        b"ACK ",
        b"M-SEARCH ",
    ];
    if payload.starts_with(b"SIP/2.0 ") || payload.starts_with(b"HTTP/1.1 ") {
        Role::Answer
    } else if REQUESTS.iter().any(|method| payload.starts_with(method)) {
        Role::Question
    } else {
        Role::Unknown
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn hex(text: &str) -> Vec<u8> {
        let digits: Vec<u8> = text.bytes().filter(|b| !b.is_ascii_whitespace()).collect();
        digits
            .chunks(2)
            .map(|two| u8::from_str_radix(std::str::from_utf8(two).unwrap(), 16).unwrap())
            .collect()
    }

    #[test]
    fn datagrams_of_both_directions_are_told_apart() {
        let dhcp = |operation: u8| {
            let mut message = vec![0; 240];
            message[0] = operation;
            message[236..].copy_from_slice(&[99, 130, 83, 99]);
            message
        };
        let ike = |flags: u8| {
            let mut message = vec![7; 28];
            (message[17], message[19]) = (0x20, flags);
            message
        };
        for (ports, payload, role) in [
            ((40_000, 53), hex("0001 0100 0001 0000 0000 0000"), Role::Question),
            ((53, 40_000), hex("0001 8180 0001 0001 0000 0000"), Role::Answer),
            ((5353, 53), hex("0001 0100 0001 0000 0000 0000"), Role::Question),
            ((53, 40_000), hex("00"), Role::Unknown),
            // What only has the port.
            ((40_000, 5353), vec![0xa5; 60], Role::Unknown),
            ((40_000, 53), vec![0; 60], Role::Unknown),
            ((40_000, 123), [&[0x23][..], &[0; 47]].concat(), Role::Question),
            ((123, 123), [&[0x24][..], &[0; 47]].concat(), Role::Answer),
            ((123, 123), [&[0x21][..], &[0; 47]].concat(), Role::Unknown),
            ((40_000, 123), hex("17000003 2a000000"), Role::Question),
            ((123, 40_000), hex("97000003 2a000000"), Role::Answer),
            ((68, 67), dhcp(1), Role::Question),
            ((67, 68), dhcp(2), Role::Answer),
            ((546, 547), hex("01000001"), Role::Question),
            ((547, 546), hex("07000001"), Role::Answer),
            ((40_000, 161), hex("3029 020101 04 06 7075626c6963 a01c"), Role::Question),
            ((161, 40_000), hex("3029 020101 04 06 7075626c6963 a21c"), Role::Answer),
            ((1812, 40_000), [&[2][..], &[0; 19]].concat(), Role::Answer),
            ((88, 40_000), hex("6b82"), Role::Answer),
            ((389, 40_000), hex("3084 00000010 020101 64"), Role::Answer),
            ((40_000, 389), hex("3010 020101 63"), Role::Question),
            ((500, 500), ike(0x08), Role::Question),
            ((500, 500), ike(0x20), Role::Answer),
            ((2049, 700), hex("00000001 00000001 00000000"), Role::Answer),
            ((9, 10), hex("0001 0000 2112a442 000000000000000000000000"), Role::Question),
            ((10, 9), hex("0101 0000 2112a442 000000000000000000000000"), Role::Answer),
            ((5060, 5060), b"SIP/2.0 200 OK\r\n".to_vec(), Role::Answer),
            ((5060, 5060), b"INVITE sip:a@b SIP/2.0\r\n".to_vec(), Role::Question),
            ((1900, 50_000), b"HTTP/1.1 200 OK\r\n".to_vec(), Role::Answer),
            ((4000, 5000), b"anything".to_vec(), Role::Unknown),
        ] {
            assert_eq!(datagram(ports.0, ports.1, &payload), role, "{ports:?} {payload:x?}");
        }
    }

    #[test]
    fn segments_in_the_middle_of_a_connection_are_told_by_what_only_one_side_sends() {
        for (payload, role) in [
            (&b"HTTP/1.1 200 OK\r\n"[..], Role::Answer),
            (b"GET / HTTP/1.1\r\n", Role::Question),
            (&[22, 3, 1, 0, 80, 1, 0, 0], Role::Question),
            (&[22, 3, 3, 0, 80, 2, 0, 0], Role::Answer),
            (&[23, 3, 3, 0, 80, 2, 0, 0], Role::Unknown),
            (b"", Role::Unknown),
        ] {
            assert_eq!(stream(payload), role, "{payload:x?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_have_a_role(
            from in prop::sample::select(&[0u16, 53, 67, 69, 88, 123, 161, 389, 500, 546, 1812, 2049, 5683][..]),
            to in any::<u16>(),
            payload in prop::collection::vec(any::<u8>(), 0..300),
        ) {
            datagram(from, to, &payload);
            stream(&payload);
        }
    }
}
