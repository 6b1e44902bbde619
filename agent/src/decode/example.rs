//! Packets made by hand for tests.

use gnomon_capture::{Frame, LinkType, Stamp};

pub(crate) const ORIG_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
pub(crate) const RESP_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
pub(crate) const ORIG_V4: [u8; 4] = [10, 0, 0, 1];
pub(crate) const RESP_V4: [u8; 4] = [192, 0, 2, 7];

pub(crate) const ALL: [fn() -> Vec<u8>; 8] = [
    tcp_v4,
    tcp_v6,
    || udp_v4(b"abc"),
    udp_v6,
    icmp_v4,
    arp,
    || tagged(&[(0x88a8, 5), (0x8100, 7)], &tcp_v4()),
    || extended_v6(&udp_v6(), &[(0, &[0, 0, 1, 4, 0, 0, 0, 0]), (60, &[0, 0, 1, 4, 0, 0, 0, 0])]),
];

/// Packets in packets.
pub(crate) const WRAPPED: [fn() -> Vec<u8>; 10] = [
    || over_udp(4789, &[8, 0, 0, 0, 0, 0, 9, 0], &tcp_v4()),
    || over_udp(4790, &[0x0c, 0, 0, 3, 0, 0, 9, 0], &tcp_v4()),
    || over_udp(6081, &[1, 0, 0x65, 0x58, 0, 0, 9, 0, 1, 2, 3, 4], &tcp_v4()),
    || over_udp(2152, &[0x34, 255, 0, 54, 0, 0, 0, 9, 0, 0, 0, 0x85, 1, 0x10, 0, 0], &tcp_v4()[14..]),
    || over_udp(1701, &[0, 2, 0, 5, 0, 6, 0xff, 3, 0, 0x21], &tcp_v4()[14..]),
    || over_udp(3544, &[0, 0, 1, 2, 3, 4, 5, 6], &udp_v6()[14..]),
    || ipv4(47, [9; 4], [8; 4], &[&[0x30, 0, 0x65, 0x58, 0, 0, 0, 7, 0, 0, 0, 1][..], &tcp_v4()].concat()),
    || ipv4(41, [9; 4], [8; 4], &udp_v6()[14..]),
    || ethernet(0x8847, &[&[0, 1, 0, 64, 0, 2, 1, 64, 0, 0, 0, 0][..], &tcp_v4()].concat()),
    || ethernet(0x8864, &[&[0x11, 0, 0, 7, 0, 48, 0, 0x21][..], &tcp_v4()[14..]].concat()),
];

fn over_udp(port: u16, header: &[u8], inner: &[u8]) -> Vec<u8> {
    ipv4(17, [9; 4], [8; 4], &udp((50_000, port), &[header, inner].concat()))
}

pub(crate) fn frame(data: &[u8]) -> Frame<'_> {
    Frame {
        stamp: Stamp::default(),
        link: LinkType::Ethernet,
        original_len: data.len() as u32,
        data,
        vlan: None,
        outgoing: false,
    }
}

pub(crate) fn ethernet(ethertype: u16, body: &[u8]) -> Vec<u8> {
    [&RESP_MAC[..], &ORIG_MAC, &ethertype.to_be_bytes(), body].concat()
}

pub(crate) fn tagged(tags: &[(u16, u16)], untagged: &[u8]) -> Vec<u8> {
    let mut data = untagged[..12].to_vec();
    for (tpid, tci) in tags {
        data.extend_from_slice(&tpid.to_be_bytes());
        data.extend_from_slice(&tci.to_be_bytes());
    }
    data.extend_from_slice(&untagged[12..]);
    data
}

pub(crate) fn ipv4(protocol: u8, orig: [u8; 4], resp: [u8; 4], body: &[u8]) -> Vec<u8> {
    let total = (20 + body.len()) as u16;
    let mut header = [0x45, 0, 0, 0, 0, 0, 0, 0, 64, protocol, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    header[2..4].copy_from_slice(&total.to_be_bytes());
    header[12..16].copy_from_slice(&orig);
    header[16..20].copy_from_slice(&resp);
    ethernet(0x0800, &[&header[..], body].concat())
}

pub(crate) fn ipv6(protocol: u8, body: &[u8]) -> Vec<u8> {
    let mut header = [0; 40];
    header[0] = 0x60;
    header[4..6].copy_from_slice(&(body.len() as u16).to_be_bytes());
    header[6] = protocol;
    header[7] = 64;
    header[8..10].copy_from_slice(&[0x20, 0x01]);
    header[23] = 1;
    header[24..26].copy_from_slice(&[0x20, 0x01]);
    header[39] = 2;
    ethernet(0x86dd, &[&header[..], body].concat())
}

/// `packet` with a chain of extension headers put in; their next-header fields are filled.
pub(crate) fn extended_v6(packet: &[u8], chain: &[(u8, &[u8])]) -> Vec<u8> {
    let mut data = packet[..54].to_vec();
    let mut next_at = 20;
    let upper = data[next_at];
    for (kind, header) in chain {
        data[next_at] = *kind;
        next_at = data.len();
        data.extend_from_slice(header);
    }
    data[next_at] = upper;
    data.extend_from_slice(&packet[54..]);
    let payload = (data.len() - 54) as u16;
    data[18..20].copy_from_slice(&payload.to_be_bytes());
    data
}

pub(crate) fn tcp(ports: (u16, u16), seq: u32, ack: u32, flags: u8, payload: &[u8]) -> Vec<u8> {
    let mut segment = Vec::new();
    segment.extend_from_slice(&ports.0.to_be_bytes());
    segment.extend_from_slice(&ports.1.to_be_bytes());
    segment.extend_from_slice(&seq.to_be_bytes());
    segment.extend_from_slice(&ack.to_be_bytes());
    segment.extend_from_slice(&[0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    segment.extend_from_slice(payload);
    segment
}

pub(crate) fn udp(ports: (u16, u16), payload: &[u8]) -> Vec<u8> {
    let mut datagram = Vec::new();
    datagram.extend_from_slice(&ports.0.to_be_bytes());
    datagram.extend_from_slice(&ports.1.to_be_bytes());
    datagram.extend_from_slice(&(8 + payload.len() as u16).to_be_bytes());
    datagram.extend_from_slice(&[0, 0]);
    datagram.extend_from_slice(payload);
    datagram
}

pub(crate) fn tcp_v4() -> Vec<u8> {
    ipv4(6, ORIG_V4, RESP_V4, &tcp((40_000, 80), 1000, 2000, 0x18, b"GET / "))
}

pub(crate) fn tcp_v6() -> Vec<u8> {
    ipv6(6, &tcp((40_000, 80), 1000, 2000, 0x18, b"GET / "))
}

pub(crate) fn udp_v4(payload: &[u8]) -> Vec<u8> {
    ipv4(17, ORIG_V4, RESP_V4, &udp((5353, 53), payload))
}

pub(crate) fn udp_v6() -> Vec<u8> {
    ipv6(17, &udp((5353, 53), b"abc"))
}

pub(crate) fn icmp_v4() -> Vec<u8> {
    ipv4(1, ORIG_V4, RESP_V4, &[&[8, 0, 0, 0, 0, 1, 0, 1][..], b"ping"].concat())
}

pub(crate) fn arp() -> Vec<u8> {
    let mut body = vec![0, 1, 8, 0, 6, 4, 0, 1];
    body.extend_from_slice(&ORIG_MAC);
    body.extend_from_slice(&ORIG_V4);
    body.extend_from_slice(&[0; 6]);
    body.extend_from_slice(&RESP_V4);
    let mut data = ethernet(0x0806, &body);
    data.resize(60, 0);
    data
}
