//! Protocols of which only the name is told, each by bytes that are hardly anything else's.

use gnomon_flow::Attributes;

use super::http;
use super::protocol::Protocol;
use super::reader::Reader;
use super::stream::Begins;

/// BitTorrent's handshake (BEP 3).
pub(super) fn bittorrent(bytes: &[u8]) -> Begins {
    Begins::with(bytes, b"\x13BitTorrent protocol")
}

/// BGP: the marker, a length, a type (RFC 4271 §4.1).
pub(super) fn bgp(bytes: &[u8]) -> Begins {
    match Begins::with(bytes, &[0xff; 16]) {
        Begins::Yes => {
            Begins::by_rules(&bytes[16..], &[|high| high <= 0x10, |_| true, |kind| (1..=5).contains(&kind)])
        }
        other => other,
    }
}

/// DCE/RPC over TCP: version 5.0, a bind or its answer, both fragments in one (C706 §12.6.3).
pub(super) fn dcerpc(bytes: &[u8]) -> Begins {
    Begins::by_rules(
        bytes,
        &[
            |major| major == 5,
            |minor| minor <= 1,
            |kind| matches!(kind, 0 | 2 | 11..=15),
            |flags| flags & 3 != 0 && flags & 0x08 == 0,
            |order| matches!(order, 0 | 0x10),
            |float| float <= 3,
            |reserved| reserved == 0,
            |reserved| reserved == 0,
        ],
    )
}

/// XMPP's stream, which may begin with an XML declaration (RFC 6120 §4.2).
pub(super) fn jabber(bytes: &[u8]) -> Begins {
    const LOOKED_AT: usize = 256;
    let head = &bytes[..bytes.len().min(LOOKED_AT)];
    let has = |text: &[u8]| head.windows(text.len()).any(|window| window == text);
    match Begins::with_any(bytes, &[b"<?xml ", b"<stream:stream "]) {
        Begins::Yes if has(b"<stream:stream ") => Begins::Yes,
        Begins::Yes if bytes.len() < LOOKED_AT => Begins::Perhaps,
        Begins::Yes => Begins::No,
        other => other,
    }
}

/// Memcached: commands of its text form with their arguments, or its binary header.
pub(super) fn memcached(bytes: &[u8]) -> Begins {
    if bytes.first().is_some_and(|byte| *byte >= 0x80) {
        // Magic, opcode, key length, extras length, data type, status (memcached's protocol_binary.txt).
        return Begins::by_rules(
            bytes,
            &[
                |magic| matches!(magic, 0x80 | 0x81),
                |opcode| opcode <= 0x22,
                |high| high == 0,
                |key| key <= 250,
                |extras| extras <= 20,
                |kind| kind == 0,
            ],
        );
    }
    Begins::with_any(
        bytes,
        &[
            b"stats\r\n",
            b"stats items\r\n",
            b"stats slabs\r\n",
            b"flush_all\r\n",
            b"version\r\n",
            b"verbosity ",
        ],
    )
}

/// MongoDB: a message's length, ids, and an operation that there is (OP_QUERY, OP_MSG, OP_REPLY, OP_COMPRESSED).
pub(super) fn mongodb(bytes: &[u8]) -> Begins {
    const HEADER_BYTES: usize = 16;
    const MESSAGE_BYTES_MAX: u32 = 48_000_000;
    if bytes.len() < HEADER_BYTES {
        let fits = match bytes.first_chunk::<4>() {
            Some(length) => (HEADER_BYTES as u32..MESSAGE_BYTES_MAX).contains(&u32::from_le_bytes(*length)),
            None => true,
        };
        return if fits { Begins::Perhaps } else { Begins::No };
    }
    let mut reader = Reader::new(bytes);
    let parts = (reader.u32_le(), reader.u32_le(), reader.u32_le(), reader.u32_le());
    let (Some(length), Some(_id), Some(_to), Some(operation)) = parts else {
        return Begins::No;
    };
    let fits = matches!(operation, 1 | 2004 | 2012 | 2013)
        && (16..MESSAGE_BYTES_MAX).contains(&length)
        && operation != 1
        || operation == 1 && length as usize == bytes.len() && length >= 36;
    if fits { Begins::Yes } else { Begins::No }
}

/// Thrift's strict binary protocol, framed or not: version 1 and the kind of a message (thrift-binary-protocol.md).
pub(super) fn thrift(bytes: &[u8]) -> Begins {
    Begins::by_rules(
        bytes,
        &[
            |high| high == 0x80,
            |version| version == 1,
            |unused| unused == 0,
            |kind| (1..=4).contains(&kind),
            // The name's length.
            |high| high == 0,
            |high| high == 0,
        ],
    )
}

/// The same behind the length of its frame.
pub(super) fn thrift_framed(bytes: &[u8]) -> Begins {
    match bytes.split_at_checked(4) {
        Some((length, message)) if length[0] == 0 && message.is_empty() => Begins::Perhaps,
        Some((length, message)) if length[0] == 0 => thrift(message),
        Some(_) => Begins::No,
        None if bytes.first().is_none_or(|high| *high == 0) => Begins::Perhaps,
        None => Begins::No,
    }
}

/// Redis' serialisation: an array of strings, as every client sends it.
pub(super) fn redis(bytes: &[u8]) -> Begins {
    let mut at = 1;
    while bytes.get(at).is_some_and(u8::is_ascii_digit) && at < 6 {
        at += 1;
    }
    if bytes.first() != Some(&b'*') || (at == 1 && bytes.len() > 1) {
        return Begins::No;
    }
    match bytes.get(at..) {
        None | Some([]) => Begins::Perhaps,
        Some(rest) => match Begins::with(rest, b"\r\n$") {
            Begins::Yes => Begins::by_rules(&rest[3..], &[|digit| digit.is_ascii_digit()]),
            other => other,
        },
    }
}

/// rsync's daemon and its client.
pub(super) fn rsync(bytes: &[u8]) -> Begins {
    Begins::with(bytes, b"@RSYNCD: ")
}

/// RTSP's methods with its address (RFC 7826 §13), or its response.
pub(super) fn rtsp(bytes: &[u8]) -> Begins {
    const METHODS: [&[u8]; 7] =
        [b"OPTIONS ", b"DESCRIBE ", b"SETUP ", b"PLAY ", b"ANNOUNCE ", b"TEARDOWN ", b"GET_PARAMETER "];
    let mut begins = Begins::with(bytes, b"RTSP/1.0 ");
    for method in METHODS {
        match Begins::with(bytes, method) {
            Begins::Yes => return Begins::with_any(&bytes[method.len()..], &[b"rtsp://", b"rtsps://"]),
            Begins::Perhaps => begins = Begins::Perhaps,
            Begins::No => {}
        }
    }
    begins
}

/// SQL Server: a pre-login packet alone, its first option token 0 ([MS-TDS] §2.2.3.1 and §2.2.6.5); or a login packet.
pub(super) fn tds(bytes: &[u8]) -> Begins {
    if bytes.first() == Some(&0x10) {
        // LOGIN7: its length, then version 7.x.
        return Begins::by_rules(
            bytes,
            &[
                |kind| kind == 0x10,
                |status| status <= 1,
                |_| true,
                |_| true,
                |_| true,
                |_| true,
                |id| id <= 1,
                |window| window == 0,
                |_| true,
                |_| true,
                |high| high == 0,
                |high| high == 0,
                |_| true,
                |_| true,
                |_| true,
                |version| (0x70..=0x75).contains(&version),
            ],
        );
    }
    Begins::by_rules(
        bytes,
        &[
            |kind| kind == 0x12,
            |status| status <= 1,
            |_| true,
            |_| true,
            |_| true,
            |_| true,
            |id| id <= 1,
            |window| window == 0,
            |token| token == 0,
            |high| high == 0,
        ],
    )
}

/// Telnet's negotiation: WILL, WONT, DO or DONT and an option, twice, or once alone (RFC 854, RFC 855).
pub(super) fn telnet(bytes: &[u8]) -> Begins {
    const RULES: [fn(u8) -> bool; 3] =
        [|iac| iac == 0xff, |verb| (0xfb..=0xfe).contains(&verb), |option| option <= 49];
    match Begins::by_rules(bytes, &RULES) {
        Begins::Yes if bytes.len() == RULES.len() => Begins::Yes,
        Begins::Yes => match bytes[RULES.len()..] {
            [0xff, 0xfa..=0xfe, ..] => Begins::Yes,
            [0xff] => Begins::Perhaps,
            _ => Begins::No,
        },
        other => other,
    }
}

/// RFB (RFC 6143 §7.1.1): `RFB 003.008` and a line end.
pub(super) fn vnc(bytes: &[u8]) -> Begins {
    match Begins::with(bytes, b"RFB 00") {
        Begins::Yes => {
            Begins::by_rules(&bytes[6..], &[|digit| (b'3'..=b'5').contains(&digit), |dot| dot == b'.'])
        }
        other => other,
    }
}

/// X11's connection setup: byte order, version 11.0, and the name of an authorization, or none.
pub(super) fn x11(bytes: &[u8]) -> Begins {
    match bytes.first() {
        Some(b'l') => Begins::with(bytes, b"l\0\x0b\0\0\0"),
        Some(b'B') => Begins::with(bytes, b"B\0\0\x0b\0\0"),
        _ => Begins::No,
    }
}

/// Of datagrams.
pub(super) fn datagram(bytes: &[u8], ports: [u16; 2], out: &mut Attributes) -> Option<Protocol> {
    Some(match bytes {
        // Handshake or alert in epoch 0, and a length that fits (RFC 6347 §4.1).
        [20..=23, 0xfe, 0xfd | 0xff, 0, 0, _, _, _, _, _, _, high, low, rest @ ..]
            if usize::from(u16::from_be_bytes([*high, *low])) <= rest.len() =>
        {
            Protocol::Dtls
        }
        // The four messages of WireGuard, whose lengths are fixed, but for the last one's.
        [1, 0, 0, 0, ..] if bytes.len() == 148 => Protocol::Wireguard,
        [2, 0, 0, 0, ..] if bytes.len() == 92 => Protocol::Wireguard,
        [3, 0, 0, 0, ..] if bytes.len() == 64 && ports.contains(&51_820) => Protocol::Wireguard,
        [4, 0, 0, 0, ..] if bytes.len().is_multiple_of(16) && ports.contains(&51_820) => Protocol::Wireguard,
        // BitTorrent's distributed hash table (BEP 5): a bencoded query, response or error.
        _ if [&b"d1:ad2:id20:"[..], b"d1:rd2:id20:", b"d1:eli", b"d2:ip6:"]
            .iter()
            .any(|begin| bytes.starts_with(begin)) =>
        {
            Protocol::BitTorrent
        }
        [b'M' | b'N' | b'H', ..] if is_ssdp(bytes) => {
            http::datagram(bytes, out);
            Protocol::Ssdp
        }
        _ if is_isakmp(bytes) => Protocol::Isakmp,
        // Request id, number, count, and a reserved word, then memcached's text.
        [_, _, 0, _, 0, _, 0, 0, text @ ..]
            if ports.contains(&11_211)
                && [&b"stats"[..], b"get ", b"gets ", b"set ", b"VALUE ", b"STAT ", b"END\r\n"]
                    .iter()
                    .any(|begin| text.starts_with(begin)) =>
        {
            Protocol::Memcached
        }
        _ => return None,
    })
}

/// UPnP's discovery: HTTP heads in datagrams, with headers that only it has.
fn is_ssdp(bytes: &[u8]) -> bool {
    let head = &bytes[..bytes.len().min(512)];
    let has = |text: &[u8]| head.windows(text.len()).any(|window| window.eq_ignore_ascii_case(text));
    [&b"M-SEARCH * HTTP/1.1\r\n"[..], b"NOTIFY * HTTP/1.1\r\n", b"HTTP/1.1 200 OK\r\n"]
        .iter()
        .any(|begin| bytes.starts_with(begin))
        && (has(b"\r\nST:") || has(b"\r\nNT:") || has(b"\r\nUSN:"))
}

/// IKE (RFC 7296 §3.1, RFC 2408 §3.1): an initiator's SPI, a version, an exchange, and the datagram's length; behind NAT
/// four zero bytes come first.
fn is_isakmp(bytes: &[u8]) -> bool {
    let message = bytes.strip_prefix(&[0, 0, 0, 0]).unwrap_or(bytes);
    let mut reader = Reader::new(message);
    let read = || -> Option<bool> {
        let initiator = reader.take(8)?;
        let _responder = reader.take(8)?;
        let _payload = reader.u8()?;
        let (version, exchange, flags) = (reader.u8()?, reader.u8()?, reader.u8()?);
        let (_id, length) = (reader.u32()?, reader.u32()?);
        let fits = match version {
            0x10 => matches!(exchange, 1..=6 | 32..=33) && flags & 0xf8 == 0,
            0x20 => matches!(exchange, 34..=44) && flags & 0xc7 == 0,
            _ => false,
        };
        Some(fits && initiator != [0; 8] && length as usize == message.len())
    };
    let mut read = read;
    read().unwrap_or(false)
}
