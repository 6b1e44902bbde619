//! Which packets are one connection, and who began it.

use super::*;

/// A connection that is open: two packets each way, numbers 1000 and 5000.
fn open(bench: &mut Bench) {
    bench.tcp(0, false, 1000, 0, SYN, b"");
    bench.tcp(10 * MS, true, 5000, 1001, SYN | ACK, b"");
    bench.tcp(20 * MS, false, 1001, 5001, ACK, b"");
    bench.tcp(30 * MS, false, 1001, 5001, ACK, b"GET /a HTTP/1.1\r\n\r\n");
}

fn packets(records: &[FlowRecord]) -> Vec<(u64, u64)> {
    records.iter().map(|record| (record.orig.packets, record.resp.packets)).collect()
}

#[test]
fn a_whole_handshake_with_new_numbers_is_a_new_flow_though_the_old_one_was_never_closed() {
    let mut bench = Bench::finals();
    open(&mut bench);
    bench.tcp(20 * S, false, 90_000, 0, SYN, b"");
    assert!(bench.tcp(20 * S + 10 * MS, true, 7000, 90_001, SYN | ACK, b"").is_new);
    bench.tcp(20 * S + 20 * MS, false, 90_001, 7001, ACK, b"GET /b HTTP/1.1\r\n\r\n");
    let records = bench.ends();
    // The SYN moved to the connection it began.
    assert_eq!(packets(&records), [(3, 1), (2, 1)]);
    assert_eq!(records.iter().map(|record| record.tcp.unwrap().flags[1]).collect::<Vec<_>>(), [1, 1]);
    assert_eq!(records[0].last, RawNs(START + 30 * MS));
    assert_eq!(records[1].first, RawNs(START + 20 * S));
    assert_eq!(records[1].tcp.unwrap().state, TcpState::Established);
    assert_eq!(records[1].tcp.unwrap().rtt_ns, Some(20 * MS));
    assert_eq!(records[0].bytes() + records[1].bytes(), 54 * 5 + 2 * (54 + 19));
    assert_eq!((records[0].orig.data_bytes, records[1].orig.data_bytes), (19, 19));
}

#[test]
fn a_handshake_of_which_one_side_is_seen_is_told_by_what_follows() {
    // The client alone: its SYN, then its data with the SYN's numbers.
    let mut bench = Bench::finals();
    open(&mut bench);
    bench.tcp(20 * S, false, 90_000, 0, SYN, b"");
    assert!(bench.tcp(20 * S + 20 * MS, false, 90_001, 7001, ACK, b"").is_new);
    assert_eq!(packets(&bench.ends()), [(3, 1), (2, 0)]);
    // The server alone.
    let mut bench = Bench::finals();
    bench.tcp(0, true, 5000, 1001, SYN | ACK, b"");
    bench.tcp(MS, true, 5001, 1020, ACK, b"answer");
    assert!(bench.tcp(20 * S, true, 7000, 90_001, SYN | ACK, b"").is_new);
    assert_eq!(packets(&bench.ends()), [(0, 2), (0, 1)]);
}

#[test]
fn a_forged_or_refused_syn_splits_nothing_and_moves_no_number() {
    let mut bench = Bench::finals();
    open(&mut bench);
    bench.tcp(40 * MS, false, 90_000, 0, SYN, b"");
    // The challenge acknowledgement (RFC 5961 section 4), and the connection goes on.
    bench.tcp(41 * MS, true, 5001, 1020, ACK, b"");
    bench.tcp(50 * MS, true, 5001, 1020, ACK, b"answer");
    bench.tcp(60 * MS, false, 1020, 5007, ACK, b"more");
    let records = bench.ends();
    assert_eq!(packets(&records), [(5, 3)]);
    assert_eq!((records[0].orig.data_bytes, records[0].resp.data_bytes), (23, 6));
    assert_eq!(records[0].tcp.unwrap().retransmissions, 0);
}

#[test]
fn a_flood_of_syns_on_open_connections_is_counted_where_it_came_and_bounded() {
    let mut bench = Bench::finals();
    open(&mut bench);
    for n in 0..10_000u32 {
        bench.tcp(40 * MS, false, 90_000 + 7 * n, 0, SYN, b"");
    }
    let records = bench.ends();
    assert_eq!(records.iter().map(FlowRecord::packets).sum::<u64>(), 10_004);
    assert!(records.iter().all(|record| record.id == records[0].id));
}

#[test]
fn the_connections_own_syn_may_come_late() {
    for from_the_first_byte in [true, false] {
        let mut bench = Bench::finals();
        if from_the_first_byte {
            bench.tcp(0, true, 5000, 1001, SYN | ACK, b"");
        }
        bench.tcp(10 * MS, false, 1001, 5001, ACK, b"");
        bench.tcp(20 * MS, false, 1001, 5001, ACK, b"question");
        bench.tcp(30 * MS, true, 5001, 1009, FIN | ACK, b"answer");
        bench.tcp(40 * MS, false, 1009, 5008, FIN | ACK, b"");
        bench.tcp(50 * MS, true, 5008, 1010, ACK, b"");
        bench.tcp(51 * MS, false, 1000, 0, SYN, b"");
        let records = bench.ends();
        assert_eq!(records.len(), 1, "{records:?}");
        let tcp = records[0].tcp.unwrap();
        assert_eq!((tcp.state, tcp.flags[1], tcp.retransmissions), (TcpState::Closed, 1, 0));
        // Said twice it is a retransmission.
        let mut bench = Bench::finals();
        open(&mut bench);
        bench.tcp(40 * MS, false, 1000, 0, SYN, b"");
        assert_eq!(bench.ends()[0].tcp.unwrap().retransmissions, 1);
    }
}

#[test]
fn an_answer_alone_is_the_asking_sides_flow() {
    let (orig, resp) = (example::ORIG_V4, example::RESP_V4);
    let dns = [0, 1, 0x81, 0x80, 0, 1, 0, 0, 0, 0, 0, 0];
    let pong = [0, 0, 0, 0, 0, 5, 0, 1];
    for (data, ports) in [
        (example::ipv4(17, resp, orig, &example::udp((53, 5555), &dns)), (5555, 53)),
        (example::ipv4(1, resp, orig, &pong), (0, 0)),
    ] {
        let mut bench = Bench::finals();
        assert!(bench.feed(0, &data).from_responder);
        let record = &bench.ends()[0];
        assert_eq!(record.key.addresses, Addresses::V4 { orig, resp });
        assert_eq!((record.key.orig_port, record.key.resp_port), ports);
        assert_eq!((record.resp.packets, record.direction_guessed), (1, false));
    }
    // What nothing tells is a guess, TCP or not; what goes to a group is none.
    for (protocol, to, guessed) in [(17, resp, true), (47, resp, true), (17, [224, 0, 0, 9], false)] {
        let mut bench = Bench::finals();
        bench.feed(0, &example::ipv4(protocol, orig, to, &example::udp((4000, 5000), b"what?")));
        assert_eq!(bench.ends()[0].direction_guessed, guessed, "{protocol} to {to:?}");
    }
}

#[test]
fn each_address_that_arp_asks_for_is_a_record_with_what_was_claimed() {
    let mut bench = Bench::finals();
    let arp = |operation: u8, sender: (u8, u8), target: u8| {
        let body = [
            &[0, 1, 8, 0, 6, 4, 0, operation, 2, 0, 0, 0, 0, sender.0, 10, 0, 0, sender.1][..],
            &[0, 0, 0, 0, 0, 0, 10, 0, 0, target],
        ];
        example::ethernet(0x0806, &body.concat())
    };
    for target in 2..=5 {
        bench.feed(u64::from(target), &arp(1, (1, 1), target));
    }
    assert!(bench.feed(10, &arp(2, (2, 2), 1)).from_responder);
    // Another host claims the address, too.
    bench.feed(11, &arp(2, (9, 2), 1));
    let records = bench.ends();
    assert_eq!(records.len(), 4);
    let answered = records.iter().find(|record| record.resp.packets > 0).unwrap();
    let ip = |last| [10, 0, 0, last];
    assert_eq!(answered.key.addresses, Addresses::V4 { orig: ip(1), resp: ip(2) });
    assert_eq!((answered.orig.packets, answered.resp.packets, answered.orig.ip_bytes), (1, 2, 0));
    let said = |id| -> Vec<String> {
        let of_field = answered.attributes.iter().filter(|attribute| attribute.field == id);
        of_field.map(|attribute| format!("{:?}", attribute.value)).collect()
    };
    let has = |id, text: &str| said(id).iter().any(|value| value.contains(text));
    assert!(has(field::ARP_OPERATION, "request") && has(field::ARP_OPERATION, "reply"));
    for mac in ["02:00:00:00:00:01", "02:00:00:00:00:02", "02:00:00:00:00:09"] {
        assert!(has(field::ARP_SENDER_MAC, mac), "{:?}", said(field::ARP_SENDER_MAC));
    }
    // No ID that joins it with flows of IP.
    assert_eq!(gnomon_flow::community::community_id(&answered.key, None), None);
}
