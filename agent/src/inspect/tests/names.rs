//! Protocols that were taken for others, and what was lost of their first words.

use super::*;

#[test]
fn neighbours_are_told_apart() {
    // Thrift, strict binary, framed and not; MongoDB's isMaster of 58 bytes, whose first byte begins IRC's lines.
    let call = b"\x80\x01\0\x01\0\0\0\x04ping\0\0\0\0\0";
    let framed = [&[0, 0, 0, call.len() as u8][..], call].concat();
    let mut is_master = vec![58, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0xd4, 7, 0, 0, 0, 0, 0, 0];
    is_master.extend(b"admin.$cmd\0\0\0\0\0\x01\0\0\0\x13\0\0\0\x10isMaster\0\x01\0\0\0\0");
    is_master.resize(58, 0);
    for (bytes, name) in [(&call[..], "thrift"), (&framed, "thrift"), (&is_master, "mongodb")] {
        let mut flow = Flow::new();
        flow.client(bytes);
        assert_eq!(flow.texts(field::PROTOCOLS), [name]);
    }
    // A capture that begins with Redis' answer.
    let mut flow = Flow::new();
    flow.server(b"+OK\r\n").client(b"*1\r\n$4\r\nPING\r\n");
    assert_eq!(flow.texts(field::PROTOCOLS), ["redis"]);
    let mut flow = Flow::new();
    flow.server(b"+OK POP3 ready\r\n");
    assert_eq!(flow.texts(field::PROTOCOLS), ["pop3"]);
    // A resolver's question from mDNS's port.
    let query = b"\0\x01\x01\0\0\x01\0\0\0\0\0\0\x01a\0\0\x01\0\x01";
    for (ports, name) in [([5353, 53], "dns"), ([5353, 5353], "mdns")] {
        let mut flow = Flow::new();
        flow.udp(true, ports, query);
        assert_eq!(flow.texts(field::PROTOCOLS), [name]);
    }
}

#[test]
fn an_ftp_greeting_without_the_word_keeps_its_banner() {
    let mut flow = Flow::new();
    flow.server(b"220 Welcome to files.example\r\n").client(b"USER anonymous\r\n").server(b"331 Who?\r\n");
    assert_eq!(flow.texts(field::PROTOCOLS), ["ftp"]);
    assert_eq!(flow.texts(field::FTP_BANNER), ["Welcome to files.example"]);
    let mut flow = Flow::new();
    flow.server(b"220 Welcome\r\n").client(b"EHLO me\r\n");
    assert_eq!(
        (flow.texts(field::PROTOCOLS), flow.texts(field::FTP_BANNER)),
        (vec!["smtp".to_owned()], vec![])
    );
}

#[test]
fn hosts_have_no_port_and_announcements_have_names() {
    let mut flow = Flow::new();
    for host in ["a.example:8080", "[2001:db8::1]:81", "2001:db8::2", "b.example:", "c.example"] {
        flow.client(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes());
    }
    assert_eq!(
        flow.texts(field::HTTP_HOST),
        ["a.example", "[2001:db8::1]", "2001:db8::2", "b.example:", "c.example"]
    );
    assert_eq!(flow.texts(field::HTTP_HOST_PORT), ["8080", "81"]);
    // An answer without a question, as mDNS announces itself, and names in the other sections.
    let mut flow = Flow::new();
    let mut message = b"\0\0\x84\0\0\0\0\x01\0\x01\0\x01".to_vec();
    for name in [b"\x07printer\x05local\0", b"\x07zone_of\x05local\0", b"\x07another\x05local\0"] {
        message.extend(name);
        message.extend(b"\0\x01\x80\x01\0\0\0\x78\0\x04\x0a\0\0\x07");
    }
    flow.udp(true, [5353, 5353], &message);
    assert_eq!(flow.texts(field::DNS_HOST), ["printer.local", "zone_of.local", "another.local"]);
    assert_eq!(flow.texts(field::DNS_IP), ["10.0.0.7"]);
}
