//! Real handshakes and messages, split in every way; then bytes that nobody sane would send.

use gnomon_flow::{AttributeValue, FieldId};
use proptest::prelude::*;

use super::*;

mod cut;
mod names;
mod protocols;

const TRAFFIC: &str = include_str!("tests/traffic.txt");

/// What tshark 4.0 says of the handshakes (ja3, ja3s), and JA4 computed apart, from tshark's lists.
const FINGERPRINTS: [(&str, &str, &str, &str); 4] = [
    (
        "tls13_alpn",
        "304734bb1c086c3453b387400cf83f11",
        "15af977ce25de452b96affa2addb1036",
        "t13d1812h2_85036bcba153_d41ae481755e",
    ),
    (
        "tls12_alpn",
        "104774240db569f8f87b1a28206b25e5",
        "895252f3ce80cebf7a8837be83ec8e16",
        "t12d1508h1_d68b136fe8d9_e7e480e5a997",
    ),
    (
        "no_sni",
        "8a9d5d0f12f7d43ee3af1c51d2998d99",
        "15af977ce25de452b96affa2addb1036",
        "t13i181000_85036bcba153_d41ae481755e",
    ),
    (
        "few",
        "314e5394c117781d8f69106680be6eb9",
        "1af33e1657631357c73119488045302c",
        "t12d030700_52129f0a8c5e_e7e480e5a997",
    ),
];

fn traffic(name: &str, side: &str) -> Vec<Vec<u8>> {
    TRAFFIC
        .lines()
        .filter_map(|line| line.strip_prefix(name)?.trim_start().strip_prefix(side))
        .map(|hex| {
            let digits: Vec<u8> =
                hex.trim().bytes().map(|d| char::from(d).to_digit(16).unwrap() as u8).collect();
            digits.as_chunks::<2>().0.iter().map(|[high, low]| high << 4 | low).collect()
        })
        .collect()
}

/// A flow under inspection.
struct Flow {
    inspection: Inspection,
    out: Attributes,
    budget: BufferBudget,
}

const BUDGET: usize = 1 << 20;

impl Flow {
    fn new() -> Flow {
        Flow {
            inspection: Inspection::default(),
            out: Attributes::default(),
            budget: BufferBudget::new(BUDGET),
        }
    }

    fn client(&mut self, bytes: &[u8]) -> &mut Flow {
        self.inspection.tcp_payload(true, bytes, &mut self.out, &mut self.budget);
        self
    }

    fn server(&mut self, bytes: &[u8]) -> &mut Flow {
        self.inspection.tcp_payload(false, bytes, &mut self.out, &mut self.budget);
        self
    }

    fn udp(&mut self, from_originator: bool, ports: [u16; 2], bytes: &[u8]) -> &mut Flow {
        self.inspection.udp_payload(from_originator, ports, bytes, false, &mut self.out, &mut self.budget);
        self
    }

    fn texts(&self, field: FieldId) -> Vec<String> {
        self.out
            .of(field)
            .map(|value| match value {
                AttributeValue::Text(text) => text.to_string(),
                AttributeValue::Ip(ip) => ip.to_string(),
                AttributeValue::Integer(n) => n.to_string(),
            })
            .collect()
    }

    fn holds_nothing(&self) -> bool {
        self.budget.left() == BUDGET
    }
}

#[test]
fn tls_hellos_have_the_fingerprints_others_compute() {
    for (name, ja3, ja3s, ja4) in FINGERPRINTS {
        let (client, server) = (&traffic(name, "client")[0], &traffic(name, "server")[0]);
        let mut flow = Flow::new();
        flow.client(client).server(server);
        assert_eq!(flow.texts(field::TLS_JA3), [ja3], "{name}");
        assert_eq!(flow.texts(field::TLS_JA3S), [ja3s], "{name}");
        assert_eq!(flow.texts(field::TLS_JA4), [ja4], "{name}");
        assert_eq!(flow.texts(field::PROTOCOLS), ["tls"]);
        // Up to version 1.2 the certificates are yet to come.
        let is_over = flow.texts(field::TLS_VERSION) == ["TLSv1.3"];
        assert_eq!(flow.inspection.is_done() && flow.holds_nothing(), is_over, "{name}");
        assert_eq!(flow.inspection.protocol(), Some("tls"));
        // The same in pieces of any size, and spread over records of any size.
        for piece in [1, 7, 100, 500] {
            let mut pieces = Flow::new();
            for bytes in client.chunks(piece) {
                pieces.client(bytes);
            }
            for bytes in server.chunks(piece) {
                pieces.server(bytes);
            }
            assert_eq!(pieces.out, flow.out, "{name} in pieces of {piece}");
            assert_eq!(pieces.inspection.is_done() && pieces.holds_nothing(), is_over);
            let mut records = Vec::new();
            for part in client[5..].chunks(piece) {
                records.extend([22, 3, 1, (part.len() >> 8) as u8, part.len() as u8]);
                records.extend(part);
            }
            let mut fragmented = Flow::new();
            fragmented.client(&records);
            assert_eq!(fragmented.texts(field::TLS_JA4), [ja4], "{name} in records of {piece}");
        }
    }
    let mut flow = Flow::new();
    flow.client(&traffic("tls12_alpn", "client")[0]).server(&traffic("tls12_alpn", "server")[0]);
    assert_eq!(flow.texts(field::TLS_HOST), ["old.example.net"]);
    assert_eq!(flow.texts(field::TLS_ALPN), ["http/1.1", "spdy/3"]);
    assert_eq!(flow.texts(field::TLS_VERSION), ["TLSv1.2"]);
    assert_eq!(flow.texts(field::TLS_CIPHER), ["TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384"]);
    let mut flow = Flow::new();
    flow.client(&traffic("tls13_alpn", "client")[0]).server(&traffic("tls13_alpn", "server")[0]);
    assert_eq!(flow.texts(field::TLS_HOST), ["www.example.org"]);
    assert_eq!(flow.texts(field::TLS_VERSION), ["TLSv1.3"]);
}

#[test]
fn quic_initials_are_opened_also_when_the_hello_is_in_pieces_and_out_of_order() {
    for name in ["quic_one", "quic_two", "quic_v2"] {
        let mut flow = Flow::new();
        let packets = traffic(name, "client");
        for (nth, packet) in packets.iter().enumerate() {
            assert!(!flow.inspection.is_done(), "{name} before packet {nth}");
            flow.udp(true, [40000, 443], packet);
        }
        assert_eq!(flow.texts(field::TLS_HOST), ["www.example.org"], "{name}");
        assert_eq!(flow.texts(field::TLS_JA4), ["q13d1812h2_85036bcba153_d41ae481755e"], "{name}");
        assert_eq!(flow.texts(field::PROTOCOLS), ["quic"]);
        assert!(flow.inspection.is_done_with_datagrams(true) && !flow.inspection.is_done());
        assert!(flow.holds_nothing());
    }
    // Not authentic: a version number alone is QUIC, and tells nothing.
    let mut packet = traffic("quic_one", "client").remove(0);
    *packet.last_mut().unwrap() ^= 1;
    let mut flow = Flow::new();
    flow.udp(true, [40000, 443], &packet);
    assert_eq!(flow.texts(field::PROTOCOLS), ["quic"]);
    assert_eq!(flow.texts(field::QUIC_VERSION), ["1"]);
    assert_eq!(flow.out.len(), 2);
    assert!(!flow.inspection.is_done());
}

#[test]
fn the_servers_quic_hello_is_opened_with_the_clients_connection_id() {
    for (name, server) in [("quic_one", "rfc9001"), ("quic_v2", "rfc9369")] {
        let (client, answer) = (traffic(name, "client"), traffic(server, "server").remove(0));
        for client_is_originator in [true, false] {
            let mut flow = Flow::new();
            for packet in &client {
                flow.udp(client_is_originator, [40000, 443], packet);
            }
            flow.udp(!client_is_originator, [443, 40000], &answer);
            assert_eq!(flow.texts(field::TLS_VERSION), ["TLSv1.3"], "{name}");
            assert_eq!(flow.texts(field::TLS_CIPHER), ["TLS_AES_128_GCM_SHA256"]);
            assert_eq!(flow.texts(field::TLS_JA3S), ["eb1d94daa7e0344597e756a1fb6e7054"]);
            assert!(flow.inspection.is_done() && flow.holds_nothing());
        }
        // Before the client's nobody knows its key.
        let mut flow = Flow::new();
        flow.udp(false, [443, 40000], &answer).udp(true, [40000, 443], &client[0]);
        assert_eq!(flow.texts(field::PROTOCOLS), ["quic"]);
        assert!(flow.texts(field::TLS_VERSION).is_empty());
    }
}

#[test]
fn a_quic_server_that_never_says_hello_is_left_alone() {
    let mut flow = Flow::new();
    flow.udp(true, [40000, 443], &traffic("quic_one", "client")[0]);
    for nth in 0..TRIES_MAX {
        assert!(!flow.inspection.is_done(), "before datagram {nth}");
        // What looks like DNS is none here.
        flow.udp(false, [443, 40000], &dns_pair().1);
    }
    assert!(flow.inspection.is_done() && flow.holds_nothing());
    assert_eq!(flow.texts(field::PROTOCOLS), ["quic"]);
}

#[test]
fn http_on_a_kept_alive_connection() {
    let mut flow = Flow::new();
    flow.client(
        b"GET /a?b=c HTTP/1.1\r\nHost: example.org\r\nUser-Agent: curl/8\r\nReferer: http://r/\r\n\r\n",
    );
    flow.server(b"HTTP/1.1 200 OK\r\nServer: nginx\r\nContent-Type: text/html\r\nContent-Length: 10\r\n\r\n0123456789");
    flow.client(b"HEAD /h HTTP/1.1\r\nhost: example.org\r\n\r\n");
    flow.server(b"HTTP/1.1 404 Not Found\r\nContent-Length: 5000\r\n\r\n");
    flow.client(b"POST /p HTTP/1.1\r\nHost:two\r\nTransfer-Encoding: chunked\r\n\r\n5;x=y\r\nabcde\r\n");
    flow.client(
        b"1F\r\nGET /not HTTP/1.1\r\nHost: no\r\n\r\n\r\n0\r\nTrailer: x\r\n\r\nPUT /q HTTP/1.1\r\n\r\n",
    );
    flow.server(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\nHTTP/1.0 503 Busy\r\n\r\nHTTP/1.1 999 no");
    assert_eq!(flow.texts(field::HTTP_METHOD), ["GET", "HEAD", "POST", "PUT"]);
    assert_eq!(flow.texts(field::HTTP_URI), ["/a?b=c", "/h", "/p", "/q"]);
    assert_eq!(flow.texts(field::HTTP_HOST), ["example.org", "two"]);
    assert_eq!(flow.texts(field::HTTP_STATUS), ["200", "404", "100", "204", "503"]);
    assert_eq!(flow.texts(field::HTTP_USER_AGENT), ["curl/8"]);
    assert_eq!(flow.texts(field::HTTP_REFERER), ["http://r/"]);
    assert_eq!(flow.texts(field::HTTP_SERVER), ["nginx"]);
    assert_eq!(flow.texts(field::HTTP_CONTENT_TYPE), ["text/html"]);
    assert_eq!(flow.texts(field::PROTOCOLS), ["http"]);
    assert!(flow.holds_nothing());
}

#[test]
fn http_heads_split_anywhere_read_the_same() {
    let stream = b"POST /p HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabcGET /q HTTP/1.1\r\nHost: i\r\nUser-Agent: u\r\n\r\n";
    let mut whole = Flow::new();
    whole.client(stream);
    assert_eq!(whole.texts(field::HTTP_URI), ["/p", "/q"]);
    for at in 1..stream.len() {
        let mut flow = Flow::new();
        flow.client(&stream[..at]).client(&stream[at..]);
        assert_eq!(flow.out, whole.out, "split at {at}");
        assert!(flow.holds_nothing());
    }
}

#[test]
fn http_tunnels_and_upgrades_begin_anew() {
    let mut flow = Flow::new();
    flow.client(b"CONNECT secret.example:443 HTTP/1.1\r\nHost: secret.example\r\n\r\n");
    flow.server(b"HTTP/1.1 200 Connection established\r\n\r\n");
    flow.client(&traffic("few", "client")[0]).server(&traffic("few", "server")[0]);
    assert_eq!(flow.texts(field::PROTOCOLS), ["http", "tls"]);
    assert_eq!(flow.texts(field::TLS_HOST), ["few.test"]);
    let mut flow = Flow::new();
    flow.client(b"GET /chat HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n");
    flow.server(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n\x81\x05hello");
    assert_eq!(flow.texts(field::PROTOCOLS), ["http", "websocket"]);
    assert!(flow.inspection.is_done());
    let mut flow = Flow::new();
    flow.client(b"PRI * HTTP/2.0\r\n\r\n").client(b"SM\r\n\r\n\0\0\0\x04\0\0\0\0\0");
    assert_eq!(flow.texts(field::PROTOCOLS), ["http2"]);
    assert!(flow.holds_nothing());
}

#[test]
fn starttls_is_seen_behind_a_conversation_in_the_clear() {
    let mut flow = Flow::new();
    flow.server(b"220 mx ESMTP\r\n")
        .client(b"EHLO me\r\n")
        .server(b"250 STARTTLS\r\n")
        .client(b"STARTTLS\r\n");
    flow.server(b"220 go\r\n").client(&traffic("few", "client")[0]).server(&traffic("few", "server")[0]);
    assert_eq!(flow.texts(field::TLS_HOST), ["few.test"]);
    assert_eq!(flow.texts(field::PROTOCOLS), ["smtp", "tls"]);
}

#[test]
fn ssh_banners_of_both_sides() {
    let mut flow = Flow::new();
    flow.server(b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n\0\0\x04").client(b"SSH-2.0-libssh").client(b"_0.10\n");
    assert_eq!(flow.texts(field::SSH_VERSION), ["SSH-2.0-OpenSSH_9.2p1 Debian-2", "SSH-2.0-libssh_0.10"]);
    assert_eq!(flow.texts(field::PROTOCOLS), ["ssh"]);
    let mut flow = Flow::new();
    flow.client(&[b"SSH-".as_slice(), &[b'x'; 600]].concat());
    assert_eq!(flow.texts(field::SSH_VERSION)[0].len(), 255);
}

/// A message with one question for `name` (labels), and answers whose owner is a pointer to it.
fn dns(id: u16, flags: u16, name: &[u8], kind: u16, answers: &[(u16, &[u8])]) -> Vec<u8> {
    let mut message = Vec::new();
    for word in [id, flags, 1, answers.len() as u16, 0, 0] {
        message.extend(word.to_be_bytes());
    }
    message.extend(name);
    for word in [kind, 1] {
        message.extend(word.to_be_bytes());
    }
    for (kind, data) in answers {
        message.extend([0xc0, 12]);
        for word in [*kind, 1, 0, 300, data.len() as u16] {
            message.extend(word.to_be_bytes());
        }
        message.extend(*data);
    }
    message
}

const WWW: &[u8] = b"\x03wWw\x07example\x03com\0";

fn dns_pair() -> (Vec<u8>, Vec<u8>) {
    let answers: [(u16, &[u8]); 4] = [
        (5, b"\x03web\xc0\x10"),
        (1, &[192, 0, 2, 7]),
        (28, &[0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]),
        (15, b"\0\x0a\x04mail\xc0\x10"),
    ];
    (dns(7, 0x0100, WWW, 1, &[]), dns(7, 0x8180, WWW, 1, &answers))
}

#[test]
fn dns_by_content_on_any_port_over_udp_and_tcp() {
    let (query, response) = dns_pair();
    let check = |flow: &Flow| {
        assert_eq!(flow.texts(field::DNS_HOST), ["www.example.com", "web.example.com", "mail.example.com"]);
        assert_eq!(flow.texts(field::DNS_QUERY_TYPE), ["A"]);
        assert_eq!(flow.texts(field::DNS_STATUS), ["NOERROR"]);
        assert_eq!(flow.texts(field::DNS_CNAME), ["web.example.com"]);
        assert_eq!(flow.texts(field::DNS_IP), ["192.0.2.7", "2001:db8::1"]);
        assert_eq!(flow.texts(field::PROTOCOLS), ["dns"]);
        assert!(flow.holds_nothing());
    };
    let mut flow = Flow::new();
    flow.udp(true, [4000, 5300], &query).udp(false, [5300, 4000], &response);
    check(&flow);
    let prefixed = |message: &[u8]| [&(message.len() as u16).to_be_bytes()[..], message].concat();
    let (query, response) = (prefixed(&query), prefixed(&response));
    for at in 1..response.len() {
        let mut flow = Flow::new();
        let (head, tail) = query.split_at(at.min(query.len()));
        flow.client(head).client(tail);
        flow.server(&response[..at]).server(&response[at..]);
        check(&flow);
    }
    // Two in one segment, and a failure.
    let mut flow = Flow::new();
    flow.client(&[query, prefixed(&dns(8, 0, b"\x01x\0", 65, &[]))].concat());
    flow.server(&prefixed(&dns(8, 0x8183, b"\x01x\0", 65, &[])));
    assert_eq!(flow.texts(field::DNS_QUERY_TYPE), ["A", "HTTPS"]);
    assert_eq!(flow.texts(field::DNS_STATUS), ["NXDOMAIN"]);
}

#[test]
fn dns_of_other_ports_must_be_sound_to_the_last_byte() {
    let (query, mut response) = dns_pair();
    response.push(0);
    let mut flow = Flow::new();
    flow.udp(false, [5300, 4000], &response).udp(true, [4000, 137], &query);
    assert!(flow.out.is_empty());
    flow.udp(false, [53, 4000], &response);
    assert_eq!(flow.texts(field::PROTOCOLS), ["dns"]);
    let mut flow = Flow::new();
    flow.udp(true, [5353, 5353], &query).udp(true, [4000, 5355], &query);
    assert_eq!(flow.texts(field::PROTOCOLS), ["mdns", "llmnr"]);
}

#[test]
fn dns_extended_response_codes_and_unknown_numbers() {
    let mut message = dns(1, 0x8180, b"\0", 65280, &[]);
    message[11] = 1;
    // OPT with extended code 1: 16 is BADVERS.
    message.extend([0, 0, 41, 4, 0, 1, 0, 0, 0, 0, 0]);
    let mut flow = Flow::new();
    flow.udp(false, [53, 4000], &message);
    assert_eq!(flow.texts(field::DNS_STATUS), ["BADVERS"]);
    assert_eq!(flow.texts(field::DNS_HOST), ["."]);
    assert_eq!(flow.texts(field::DNS_QUERY_TYPE), ["TYPE65280"]);
}

#[test]
fn dns_that_has_more_than_fits_is_counted_not_read() {
    let mut flow = Flow::new();
    for n in 0..400 {
        let name = [b"\x04".as_slice(), format!("h{n:03}").as_bytes(), b"\0"].concat();
        flow.udp(true, [4000, 53], &dns(n, 0, &name, 1, &[]));
    }
    assert_eq!(flow.out.len(), Attributes::COUNT_MAX);
    assert!(flow.out.dropped() >= 130);
    assert!(!flow.inspection.is_done());
}

#[test]
fn ntp_modes_and_monlist() {
    let mut flow = Flow::new();
    let mut time = [0u8; 48];
    time[0] = 0x23;
    flow.udp(true, [123, 123], &time);
    time[0] = 0x24;
    flow.udp(false, [123, 123], &time);
    assert_eq!(flow.texts(field::NTP_MODE), ["client", "server"]);
    assert!(flow.texts(field::NTP_MONLIST).is_empty());
    flow.udp(true, [4000, 123], &[0x17, 0, 3, 42, 0, 0, 0, 0]);
    assert_eq!(flow.texts(field::NTP_MODE), ["client", "server", "private"]);
    assert_eq!(flow.texts(field::NTP_MONLIST), ["1"]);
    assert_eq!(flow.texts(field::PROTOCOLS), ["ntp"]);
    let mut other = Flow::new();
    other.udp(true, [4000, 4001], &time).udp(true, [4000, 123], &time[..40]);
    assert!(other.out.is_empty());
}

#[test]
fn what_is_not_known_is_soon_done_and_holds_nothing() {
    let mut flow = Flow::new();
    for _ in 0..TRIES_MAX {
        assert!(!flow.inspection.is_done());
        flow.client(b"\xff\xfb\x01 something").server(b"\xff\xfd\x01 else");
        flow.udp(true, [1, 2], b"zzz");
    }
    assert!(flow.inspection.is_done() && flow.out.is_empty() && flow.holds_nothing());
    assert_eq!(flow.inspection.protocol(), None);
}

#[test]
fn a_gap_ends_what_is_half_read_and_the_next_message_is_found() {
    let mut flow = Flow::new();
    flow.client(b"GET /lost HTTP/1.1\r\nHost: a\r\n");
    assert!(!flow.holds_nothing());
    flow.inspection.tcp_gap(true, 10, &mut flow.out, &mut flow.budget);
    assert!(flow.holds_nothing());
    flow.client(b"GET /found HTTP/1.1\r\nContent-Length: 100\r\n\r\n0123456789");
    // Inside a body a gap is only bytes that pass.
    flow.inspection.tcp_gap(true, 80, &mut flow.out, &mut flow.budget);
    flow.client(b"0123456789GET /next HTTP/1.1\r\n\r\n");
    assert_eq!(flow.texts(field::HTTP_URI), ["/lost", "/found", "/next"]);
    assert_eq!(flow.texts(field::INSPECT_CUT), ["http"]);
}

#[test]
fn endless_heads_and_an_empty_budget_are_bounded() {
    // A head that never ends: its first fields are read when no more is held.
    let mut flow = Flow::new();
    flow.client(b"GET /endless HTTP/1.1\r\nHost: h\r\n");
    for _ in 0..40 {
        flow.client(&[b"X: ".as_slice(), &[b'y'; 1000], b"\r\n"].concat());
        assert!(BUDGET - flow.budget.left() <= HELD_BYTES_MAX);
    }
    assert_eq!(flow.texts(field::HTTP_HOST), ["h"]);
    assert!(flow.holds_nothing());
    // The same in one piece, larger than what is held.
    let mut flow = Flow::new();
    flow.client(&[b"GET /endless HTTP/1.1\r\nHost: h\r\nX: ".as_slice(), &[b'y'; 60_000]].concat());
    assert_eq!(flow.texts(field::HTTP_HOST), ["h"]);
    assert!(flow.holds_nothing());
    // A hello that claims more than is held.
    let mut flow = Flow::new();
    for _ in 0..TRIES_MAX {
        flow.client(&[b"\x16\x03\x01\x40\0\x01\0\x3f\xff".as_slice(), &[3; 20_000]].concat());
        assert!(BUDGET - flow.budget.left() <= HELD_BYTES_MAX);
    }
    assert!(flow.holds_nothing() && flow.out.is_empty());

    let mut flow = Flow { budget: BufferBudget::new(100), ..Flow::new() };
    flow.client(b"GET /a HTTP/1.1\r\nHost: ").server(&traffic("few", "server")[0]);
    assert_eq!((flow.budget.denied(), flow.budget.left()), (2, 100));
    assert_eq!(flow.texts(field::PROTOCOLS), ["tls"], "the other side is read");
    assert!(flow.inspection.is_done());
    // Ended in the middle: everything comes back.
    let mut flow = Flow::new();
    flow.client(b"GET /a HTTP/1.1\r\nHost: ").udp(true, [1, 443], &traffic("quic_two", "client")[0]);
    assert!(!flow.holds_nothing());
    flow.inspection.release(&mut flow.budget);
    assert!(flow.holds_nothing() && flow.inspection.is_done());
}

/// Something sound, to be spoiled: from the originator or not, over TCP or UDP.
fn any_message() -> impl Strategy<Value = Vec<u8>> {
    let (query, response) = dns_pair();
    let prefixed = |message: &[u8]| [&(message.len() as u16).to_be_bytes()[..], message].concat();
    let mut messages = vec![
        prefixed(&query),
        prefixed(&response),
        query,
        response,
        b"POST /p HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n0\r\n\r\nGET / HTTP/1.1\r\n\r\n".to_vec(),
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nServer: s\r\n\r\nabcHTTP/1.1 101 x\r\nUpgrade: websocket\r\n\r\n".to_vec(),
        b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n".to_vec(),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        [0x17, 0, 3, 42, 0, 0, 0, 0].repeat(6),
    ];
    for name in ["tls13_alpn", "tls12_alpn"] {
        messages.extend(traffic(name, "client"));
        messages.extend(traffic(name, "server"));
    }
    messages.extend(traffic("quic_two", "client"));
    prop::sample::select(messages)
}

fn any_payload() -> impl Strategy<Value = Vec<u8>> {
    let spoiled =
        (any_message(), prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4), 0..3u8)
            .prop_map(|(mut message, changes, how)| {
                for (at, byte) in changes {
                    let at = at.index(message.len());
                    match how {
                        0 => message[at] = byte,
                        1 => message.insert(at, byte),
                        _ => message.truncate(at.max(1)),
                    }
                }
                message
            });
    prop_oneof![4 => spoiled, 1 => prop::collection::vec(any::<u8>(), 1..300)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn nothing_that_is_sent_breaks_a_bound(
        payloads in prop::collection::vec((any_payload(), any::<bool>(), 0..12usize), 1..12),
        ports in prop::sample::select(vec![[4000, 53], [4000, 443], [123, 123], [5353, 5353], [1, 2]]),
        piece in 1..2000usize,
        small in any::<bool>(),
    ) {
        let budget = if small { 4096 } else { BUDGET };
        let mut tcp = Flow { budget: BufferBudget::new(budget), ..Flow::new() };
        let mut udp = Flow { budget: BufferBudget::new(budget), ..Flow::new() };
        for (payload, from_originator, gap) in payloads {
            for bytes in payload.chunks(piece) {
                tcp.inspection.tcp_payload(from_originator, bytes, &mut tcp.out, &mut tcp.budget);
            }
            if gap == 0 {
                tcp.inspection.tcp_gap(from_originator, 9, &mut tcp.out, &mut tcp.budget);
            }
            udp.udp(from_originator, ports, &payload);
            for flow in [&tcp, &udp] {
                prop_assert!(budget - flow.budget.left() <= 2 * HELD_BYTES_MAX);
                prop_assert!(flow.out.len() <= Attributes::COUNT_MAX);
            }
        }
        for mut flow in [tcp, udp] {
            flow.inspection.release(&mut flow.budget);
            prop_assert_eq!(flow.budget.left(), budget);
            prop_assert!(flow.inspection.is_done());
        }
    }

    #[test]
    fn a_stream_reads_the_same_in_any_pieces(message in any_message(), at in any::<prop::sample::Index>()) {
        let mut whole = Flow::new();
        whole.client(&message);
        let mut pieces = Flow::new();
        let (head, tail) = message.split_at(at.index(message.len()));
        pieces.client(head).client(tail);
        // What is recognised in one piece is recognised in two. (Bytes that are nothing may look like something when
        // they are cut.)
        if !whole.out.is_empty() {
            prop_assert_eq!(pieces.out, whole.out);
        }
    }
}
