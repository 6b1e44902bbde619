//! Good input of every kind, made here byte by byte.

use gnomon_agent::offline::engine_config;
use gnomon_agent::table::TableConfig;
use gnomon_capture::{Frame, LinkType, Stamp};
use gnomon_clock::RawNs;
use gnomon_proto::Message;

const A: [u8; 4] = [10, 0, 0, 1];
const B: [u8; 4] = [192, 0, 2, 7];
const MACS: [u8; 12] = [2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1];

const REQUEST: &[u8] =
    b"GET /a?b HTTP/1.1\r\nHost: www.example\r\nUser-Agent: x/1\r\nContent-Length: 3\r\n\r\nabc";
const ANSWER: &[u8] =
    b"HTTP/1.1 200 OK\r\nServer: y\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nWiki\r\n0\r\n\r\n";
const BANNER: &[u8] = b"SSH-2.0-OpenSSH_9.6\r\n";
const CHAT: &[u8] = b"220 mail.example ESMTP\r\n250-STARTTLS\r\n250 OK\r\n";
const DNS: &[u8] =
    b"\0\x07\x81\x80\0\x01\0\x01\0\0\0\0\x03www\x07example\0\0\x01\0\x01\xc0\x0c\0\x01\0\x01\0\0\0\x3c\0\x04\x5d\xb8\xd8\x22";

pub(crate) fn ethernet(ethertype: u16, body: &[u8]) -> Vec<u8> {
    [&MACS[..], &ethertype.to_be_bytes(), body].concat()
}

pub(crate) fn ipv4_piece(
    protocol: u8,
    ends: ([u8; 4], [u8; 4]),
    id: u16,
    fragment: u16,
    body: &[u8],
) -> Vec<u8> {
    let total = (20 + body.len()) as u16;
    let mut packet = vec![0x45, 0];
    packet.extend(total.to_be_bytes());
    packet.extend(id.to_be_bytes());
    packet.extend(fragment.to_be_bytes());
    packet.extend([64, protocol, 0, 0]);
    packet.extend(ends.0);
    packet.extend(ends.1);
    packet.extend(body);
    packet
}

fn ipv4(protocol: u8, body: &[u8]) -> Vec<u8> {
    ipv4_piece(protocol, (A, B), 7, 0, body)
}

fn ipv6(next: u8, body: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend((body.len() as u16).to_be_bytes());
    packet.extend([next, 64]);
    packet.extend([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    packet.extend([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
    packet.extend(body);
    packet
}

pub(crate) fn tcp(ports: (u16, u16), seq: u32, ack: u32, flags: u8, payload: &[u8]) -> Vec<u8> {
    let mut segment = Vec::new();
    segment.extend(ports.0.to_be_bytes());
    segment.extend(ports.1.to_be_bytes());
    segment.extend(seq.to_be_bytes());
    segment.extend(ack.to_be_bytes());
    segment.extend([0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    segment.extend(payload);
    segment
}

pub(crate) fn udp(ports: (u16, u16), payload: &[u8]) -> Vec<u8> {
    let mut datagram = Vec::new();
    datagram.extend(ports.0.to_be_bytes());
    datagram.extend(ports.1.to_be_bytes());
    datagram.extend((8 + payload.len() as u16).to_be_bytes());
    datagram.extend([0, 0]);
    datagram.extend(payload);
    datagram
}

/// Ethernet frames, one of each kind.
fn on_ethernet() -> Vec<Vec<u8>> {
    let plain = ipv4(6, &tcp((40_000, 80), 100, 200, 0x18, REQUEST));
    let dns = ipv4(17, &udp((5353, 53), DNS));
    let v6 = ipv6(17, &udp((5353, 53), DNS));
    let frame = ethernet(0x0800, &plain);
    let over_udp = |port: u16, header: &[u8], inner: &[u8]| {
        ethernet(0x0800, &ipv4(17, &udp((50_000, port), &[header, inner].concat())))
    };
    let gre = |header: &[u8], inner: &[u8]| ethernet(0x0800, &ipv4(47, &[header, inner].concat()));
    let length = plain.len() as u8;
    vec![
        frame.clone(),
        ethernet(0x0800, &dns),
        ethernet(0x86dd, &v6),
        ethernet(
            0x86dd,
            &ipv6(
                0,
                &[
                    &[60, 0, 1, 4, 0, 0, 0, 0, 44, 0, 1, 4, 0, 0, 0, 0, 17, 0, 0, 1, 0, 0, 0, 9][..],
                    &udp((1, 2), DNS),
                ]
                .concat(),
            ),
        ),
        ethernet(
            0x86dd,
            &ipv6(
                51,
                &[
                    &[6, 4, 0, 0, 0, 0, 0, 9, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0][..],
                    &tcp((1, 2), 3, 4, 2, b""),
                ]
                .concat(),
            ),
        ),
        ethernet(0x0800, &ipv4(1, &[&[3, 3, 0, 0, 0, 0, 0, 0], &dns[..28]].concat())),
        ethernet(0x86dd, &ipv6(58, &[&[1, 4, 0, 0, 0, 0, 0, 0], &v6[..]].concat())),
        ethernet(0x0800, &ipv4(132, &[0, 9, 0, 10, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 20])),
        ethernet(0x0800, &ipv4(50, &[0, 0, 0, 1, 0, 0, 0, 2, 1, 2, 3, 4])),
        ethernet(
            0x0806,
            &[0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 1, 10, 0, 0, 1, 0, 0, 0, 0, 0, 0, 10, 0, 0, 2],
        ),
        ethernet(0x88a8, &[&[0, 5, 0x81, 0, 0, 7, 8, 0], &plain[..]].concat()),
        ethernet(0x8847, &[&[0, 1, 0, 64, 0, 2, 1, 64], &plain[..]].concat()),
        ethernet(0x8847, &[&[0, 2, 1, 64, 0, 0, 0, 0], &frame[..]].concat()),
        ethernet(0x8864, &[&[0x11, 0, 0, 7, 0, length + 2, 0, 0x21], &plain[..]].concat()),
        ethernet(
            0x894f,
            &[&[0x0f, 0xc6, 1, 1, 0, 0, 42, 255, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], &plain[..]]
                .concat(),
        ),
        ethernet(40, &[0xaa, 0xaa, 3, 0, 0, 0, 8, 0, 0x45]),
        gre(&[0xb0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 1], &plain),
        gre(&[0, 0, 0x65, 0x58], &frame),
        gre(&[0x10, 0, 0x88, 0xbe, 0, 0, 0, 1, 0x10, 0, 0, 77, 0, 0, 0, 0], &frame),
        gre(&[0x10, 0, 0x22, 0xeb, 0, 0, 0, 1, 0x20, 0, 0, 77, 0, 0, 0, 0, 0, 0, 0, 0], &frame),
        gre(&[0x30, 1, 0x88, 0x0b, 0, 60, 0, 7, 0, 0, 0, 1, 0xff, 3, 0, 0x21], &plain),
        ethernet(0x0800, &ipv4(4, &plain)),
        ethernet(0x0800, &ipv4(41, &v6)),
        ethernet(0x0800, &ipv4(97, &[&[0x30, 0], &frame[..]].concat())),
        ethernet(0x0800, &(0..6).fold(plain.clone(), |inner, _| ipv4(4, &inner))),
        over_udp(4789, &[8, 0, 0, 0, 0, 0, 9, 0], &frame),
        over_udp(4790, &[0x0c, 0, 0, 3, 0, 0, 9, 0], &frame),
        over_udp(6081, &[1, 0, 0x65, 0x58, 0, 0, 9, 0, 1, 2, 3, 4], &frame),
        over_udp(2152, &[0x34, 255, 0, length + 8, 0, 0, 0, 9, 0, 0, 0, 0x85, 1, 0x10, 0, 0], &plain),
        over_udp(1701, &[0x4a, 2, 0, length + 18, 0, 5, 0, 6, 0, 0, 0, 1, 0, 2, 0xee, 0xee, 0, 0x21], &plain),
        over_udp(3544, &[0, 0, 1, 2, 3, 4, 5, 6], &v6),
        over_udp(6635, &[0, 0, 0x91, 64], &plain),
    ]
}

/// As [`super::targets::decode`] takes them.
pub(crate) fn frames() -> Vec<Vec<u8>> {
    let plain = ipv4(6, &tcp((40_000, 80), 100, 200, 0x18, REQUEST));
    let mut frames: Vec<Vec<u8>> =
        on_ethernet().iter().map(|frame| [&[0, 0, 0], &frame[..]].concat()).collect();
    frames.push([&[0, 1, 20], &ethernet(0x0800, &plain)[..]].concat());
    let wifi =
        [&[0x88, 2, 0, 0][..], &MACS, &MACS[..6], &[0, 0, 0, 0, 0xaa, 0xaa, 3, 0, 0, 0, 8, 0]].concat();
    for (link, header) in [
        (1, &[2, 0, 0, 0][..]),
        (2, &[0, 0, 0, 2]),
        (3, &[]),
        (4, &[0, 0, 0, 1, 0, 6, 2, 0, 0, 0, 0, 1, 0, 0, 8, 0]),
        (5, &[8, 0, 0, 0, 0, 0, 0, 2, 0, 1, 0, 6, 2, 0, 0, 0, 0, 1, 0, 0]),
        (6, &[0xff, 3, 0, 0x21]),
        (7, &[0x0f, 0, 8, 0]),
        (8, &[0x11, 0, 0, 7, 0, 200, 0, 0x21]),
        (9, &[0x8f, 0, 8, 0]),
        (10, &wifi),
        (11, &[0x18, 0x41, 3, 0, 0x80, 0, 0, 0, 8, 0]),
        (12, &[&[0, 0, 17, 0, 3, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 0x20], &wifi[..]].concat()),
        (13, &[2, 0, 0, 1, 7, 0, 10, 0, b'a', b'b', 0, 0, 140, 0, 9, 0]),
    ] {
        frames.push([&[link, 0, 0], header, &plain].concat());
    }
    frames
}

/// A connection, a datagram in fragments both ways round, and one of each frame.
fn conversation() -> Vec<Vec<u8>> {
    let ends = (A, B);
    let back = (B, A);
    let segment = |ends, ports, seq, ack, flags, payload: &[u8]| {
        ethernet(0x0800, &ipv4_piece(6, ends, 1, 0, &tcp(ports, seq, ack, flags, payload)))
    };
    let (to, from) = ((40_000, 80), (80, 40_000));
    let datagram = udp((5353, 53), DNS);
    let piece = |id, at: usize, end: usize| {
        let more = if end < datagram.len() { 0x2000 } else { 0 };
        ethernet(0x0800, &ipv4_piece(17, ends, id, more | (at / 8) as u16, &datagram[at..end]))
    };
    let mut frames = vec![
        segment(ends, to, 99, 0, 2, b""),
        segment(back, from, 499, 100, 0x12, b""),
        segment(ends, to, 120, 500, 0x18, &REQUEST[20..]),
        segment(ends, to, 100, 500, 0x18, &REQUEST[..20]),
        segment(ends, to, 110, 500, 0x18, &REQUEST[10..40]),
        segment(back, from, 500, 100 + REQUEST.len() as u32, 0x18, ANSWER),
        piece(1, 0, 16),
        piece(1, 16, 32),
        piece(1, 32, datagram.len()),
        piece(2, 32, datagram.len()),
        piece(2, 16, 32),
        piece(2, 0, 16),
        piece(3, 16, 32),
        segment(ends, to, 100 + REQUEST.len() as u32, 500 + ANSWER.len() as u32, 0x11, b""),
        segment(back, from, 500 + ANSWER.len() as u32, 101 + REQUEST.len() as u32, 0x11, b""),
        segment(ends, to, 101 + REQUEST.len() as u32, 501 + ANSWER.len() as u32, 0x10, b""),
        segment(ends, to, 9999, 0, 2, b""),
        segment(back, from, 0, 10_000, 0x14, b""),
    ];
    frames.extend(on_ethernet());
    frames
}

/// As [`super::targets::sequence`] takes them.
pub(crate) fn sequences() -> Vec<Vec<u8>> {
    let written = |frames: &[Vec<u8>]| -> Vec<u8> {
        frames
            .iter()
            .enumerate()
            .flat_map(|(n, frame)| {
                let [high, low] = (frame.len() as u16).to_be_bytes();
                [&[0, (n * 7 % 220) as u8, high, low], &frame[..]].concat()
            })
            .collect()
    };
    let frames = conversation();
    let mut turned = frames.clone();
    turned.reverse();
    let mut all = vec![
        written(&frames),
        written(&turned),
        written(&frames[..18]),
        written(&[&frames[6..13]; 5].concat()),
    ];
    // The same under rules that change: bit 1 of the first byte, whose link type is the same.
    for mut sequence in all.clone() {
        sequence[0] = super::targets::LINKS.len() as u8;
        all.push(sequence);
    }
    all
}

/// pcap in both byte orders and resolutions, pcapng with two interfaces.
pub(crate) fn capture_files() -> Vec<Vec<u8>> {
    let frames = conversation();
    let mut files = Vec::new();
    for (magic, big) in [(0xa1b2_c3d4_u32, false), (0xa1b2_3c4d, false), (0xa1b2_c3d4, true)] {
        let word = |value: u32| if big { value.to_be_bytes() } else { value.to_le_bytes() };
        let half = |value: u16| if big { value.to_be_bytes() } else { value.to_le_bytes() };
        let mut file = [&word(magic)[..], &half(2), &half(4), &[0; 8], &word(65_535), &word(1)].concat();
        for (n, frame) in frames.iter().enumerate() {
            let length = word(frame.len() as u32);
            file.extend([word(1_700_000_000 + n as u32), word(n as u32), length, length].concat());
            file.extend(frame);
        }
        files.push(file);
    }
    let block = |kind: u32, body: &[u8]| -> Vec<u8> {
        let padded = body.len().next_multiple_of(4);
        let length = (12 + padded as u32).to_le_bytes();
        let mut block = [&kind.to_le_bytes()[..], &length, body].concat();
        block.resize(8 + padded, 0);
        block.extend(length);
        block
    };
    let mut file =
        block(0x0a0d_0d0a, &[0x4d, 0x3c, 0x2b, 0x1a, 1, 0, 0, 0, 255, 255, 255, 255, 255, 255, 255, 255]);
    file.extend(block(1, &[1, 0, 0, 0, 0, 0, 4, 0]));
    file.extend(block(1, &[101, 0, 0, 0, 0, 0, 0, 0, 9, 0, 1, 0, 9, 0, 0, 0, 0, 0, 0, 0]));
    for (n, frame) in frames.iter().enumerate() {
        let length = (frame.len() as u32).to_le_bytes();
        let head = [&[0; 4][..], &[0x6b, 0x0c, 6, 0], &(n as u32).to_le_bytes(), &length, &length].concat();
        file.extend(block(6, &[&head, &frame[..]].concat()));
        if n % 5 == 0 {
            file.extend(block(3, &[&length[..], frame].concat()));
        }
    }
    files.push(file);
    files
}

fn pieces(pieces: &[(u8, &[u8])]) -> Vec<u8> {
    pieces
        .iter()
        .flat_map(|(kind, bytes)| [&[*kind], &(bytes.len() as u16).to_be_bytes()[..], bytes].concat())
        .collect()
}

fn client_hello() -> Vec<u8> {
    let name = b"www.example";
    let server_name = [&[0, 0, 0, 16, 0, 14, 0, 0, 11][..], name].concat();
    let extensions =
        [&server_name[..], &[0, 16, 0, 5, 0, 3, 2, b'h', b'2'], &[0, 43, 0, 3, 2, 3, 4]].concat();
    let body = [
        &[3, 3][..],
        &[7; 32],
        &[0, 0, 4, 0x13, 1, 0xc0, 0x2f, 1, 0],
        &(extensions.len() as u16).to_be_bytes(),
        &extensions,
    ]
    .concat();
    let message = [&[1, 0][..], &(body.len() as u16).to_be_bytes(), &body].concat();
    [&[22, 3, 1][..], &(message.len() as u16).to_be_bytes(), &message].concat()
}

/// As [`super::targets::stream`] takes them.
pub(crate) fn streams() -> Vec<Vec<u8>> {
    let hello = client_hello();
    let over_tcp = [&(DNS.len() as u16).to_be_bytes()[..], DNS].concat();
    vec![
        pieces(&[(0, REQUEST), (1, ANSWER), (0, REQUEST)]),
        pieces(&[(0xe0, REQUEST), (0xe1, ANSWER)]),
        pieces(&[(0, &REQUEST[..20]), (0xf0, &[0; 9]), (0, REQUEST)]),
        pieces(&[(0, &hello[..30]), (0, &hello[30..])]),
        pieces(&[(0, &hello)]),
        pieces(&[(0, BANNER), (1, BANNER)]),
        pieces(&[(1, CHAT), (0, b"EHLO x\r\nMAIL FROM:<a@b>\r\n"), (0, &hello)]),
        pieces(&[(0, &over_tcp), (1, &over_tcp)]),
        pieces(&[(0, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")]),
        pieces(&[
            (0, b"\0\0\0\x2f\xfeSMB@\0\0\0"),
            (0, b"\x03\0\0\x13\x0e\xe0\0\0\0\0\0"),
            (0, b"\x05\x01\0"),
        ]),
    ]
}

/// As [`super::targets::datagram`] takes them.
pub(crate) fn datagrams() -> Vec<Vec<u8>> {
    let mut ntp = vec![0x23, 0, 6, 0xec];
    ntp.resize(48, 1);
    let mut quic = vec![0xc3, 0, 0, 0, 1, 8, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0x44, 0xd0];
    quic.resize(1200, 0x55);
    let mut dhcp = vec![1, 1, 6, 0];
    dhcp.resize(236, 0);
    dhcp.extend(b"\x63\x82\x53\x63\x35\x01\x01\x0c\x04host\xff");
    let with = |ports: (u16, u16), bytes: &[u8]| {
        [&ports.0.to_be_bytes()[..], &ports.1.to_be_bytes(), &pieces(&[(0, bytes), (1, bytes)])].concat()
    };
    vec![
        with((5000, 53), DNS),
        with((5353, 5353), DNS),
        with((123, 123), &ntp),
        with((5000, 123), &[0x17, 0, 3, 0x2a, 0, 0, 0, 0]),
        with((5000, 443), &quic),
        with((68, 67), &dhcp),
        with(
            (5000, 161),
            b"\x30\x26\x02\x01\x01\x04\x06public\xa0\x19\x02\x01\0\x02\x01\0\x02\x01\0\x30\x0e",
        ),
        with((5060, 5060), b"OPTIONS sip:a@b SIP/2.0\r\nCall-ID: 1\r\n\r\n"),
        with((5000, 69), b"\0\x01file\0octet\0"),
        with((5000, 514), b"<34>Oct 11 22:14:15 host su: x"),
    ]
}

/// EVE files, as [`super::targets::eve`] takes them.
pub(crate) fn eve_files() -> Vec<Vec<u8>> {
    let alert = r#"{"timestamp":"2023-11-14T22:13:20.123456+0000","flow_id":1913,"in_iface":"s0","event_type":"alert","src_ip":"10.0.0.1","src_port":40000,"dest_ip":"192.0.2.7","dest_port":80,"proto":"TCP","community_id":"1:x","tx_id":0,"alert":{"action":"allowed","gid":1,"signature_id":2100498,"rev":7,"signature":"a "quoted" é one","category":"","severity":2},"app_proto":"http"}"#;
    let ping = r#"{"timestamp":"2023-11-14T22:13:20Z","event_type":"alert","src_ip":"fe80::1","dest_ip":"fe80::2","proto":"IPv6-ICMP","icmp_type":128,"icmp_code":0,"alert":{"signature_id":1}}"#;
    let flow = r#"{"timestamp":"2023-11-14T22:13:20.000000+0000","event_type":"flow","src_ip":"10.0.0.1","proto":"UDP","flow":{"pkts_toserver":1}}"#;
    let file = |pieces: u8, lines: &[&str]| [&[pieces], lines.join("\n").as_bytes(), b"\n"].concat();
    vec![
        file(255, &[alert, flow, ping]),
        file(6, &[alert]),
        file(40, &[flow, "", "\r", "{", ping, alert]),
        file(0, &[ping]),
    ]
}

/// Records of the conversation, as they are sent.
pub(crate) fn entries() -> Vec<Vec<u8>> {
    let table = TableConfig { flows_max: 64, ..TableConfig::default() };
    let mut engine = gnomon_agent::engine::Engine::new(0, engine_config(table));
    for (n, data) in conversation().iter().enumerate() {
        engine.on_frame(&Frame {
            stamp: Stamp { raw: RawNs(1_000_000_000 + n as u64), err_ns: 0 },
            link: LinkType::Ethernet,
            original_len: data.len() as u32,
            data,
            vlan: None,
            outgoing: false,
        });
    }
    while engine.finish_some(RawNs(2_000_000_000)) {}
    let records = engine.take_records().unwrap_or_default();
    records.iter().map(|record| gnomon_proto::v1::FlowRecord::from(record).encode_to_vec()).collect()
}
