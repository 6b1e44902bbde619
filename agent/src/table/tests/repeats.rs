//! Frames that come twice are counted as what they are.

use super::*;

/// With an identification, as hosts give.
fn numbered(mut frame: Vec<u8>, id: u16) -> Vec<u8> {
    frame[18..20].copy_from_slice(&id.to_be_bytes());
    frame
}

fn segment(back: bool, seq: u32, ack: u32, flags: u8, payload: &[u8]) -> Vec<u8> {
    let (orig, resp) = (example::ORIG_V4, example::RESP_V4);
    if back {
        example::ipv4(6, resp, orig, &example::tcp((80, 40_000), seq, ack, flags, payload))
    } else {
        example::ipv4(6, orig, resp, &example::tcp((40_000, 80), seq, ack, flags, payload))
    }
}

fn duplicates(record: &FlowRecord) -> Option<u64> {
    record.attributes.of(field::DUPLICATES).next().map(|value| match value {
        gnomon_flow::AttributeValue::Integer(count) => *count,
        other => panic!("{other:?}"),
    })
}

/// Every frame 5 µs later once more, as a mirror port that copies both directions gives them.
#[test]
fn copies_of_a_mirror_port_are_no_retransmissions() {
    let connection = [
        (0, segment(false, 1000, 0, SYN, b"")),
        (20 * MS, segment(true, 5000, 1001, SYN | ACK, b"")),
        (40 * MS, segment(false, 1001, 5001, ACK, b"GET / HTTP/1.1\r\n\r\n")),
        (41 * MS, segment(true, 5001, 1019, ACK, b"HTTP/1.1 200 OK\r\n\r\n")),
        // Sent again after 300 ms: that is one.
        (341 * MS, segment(true, 5001, 1019, ACK, b"HTTP/1.1 200 OK\r\n\r\n")),
    ];
    let run = |copies: u64| {
        let mut bench = Bench::finals();
        for (id, (at, frame)) in connection.iter().enumerate() {
            for copy in 0..=copies {
                bench.feed(at + copy * 5_000, &numbered(frame.clone(), id as u16));
            }
        }
        let records = bench.ends();
        assert_eq!(records.len(), 1);
        records[0].clone()
    };
    let (once, thrice) = (run(0), run(2));
    assert_eq!((duplicates(&once), duplicates(&thrice)), (None, Some(10)));
    assert_eq!((once.packets(), thrice.packets()), (5, 15), "counters are those of the wire");
    assert_eq!((thrice.orig.bytes, thrice.tcp.unwrap().flags[1]), (3 * once.orig.bytes, 3));
    assert_eq!(thrice.orig.data_bytes, once.orig.data_bytes);
    for record in [&once, &thrice] {
        let tcp = record.tcp.unwrap();
        assert_eq!((tcp.retransmissions, tcp.rtt_ns), (1, Some(40 * MS)));
    }
}

#[test]
fn a_routed_copy_is_one_and_what_differs_in_anything_else_is_none() {
    let datagram =
        example::ipv4(17, [1; 4], [2; 4], &example::udp((7, 9), b"0123456789abcdef0123456789abcdef"));
    let with = |at: usize, byte: u8| {
        let mut frame = datagram.clone();
        frame[at] = byte;
        frame
    };
    // MAC address; TTL with IP's checksum: a router's copy.
    let routed = {
        let mut frame = with(22, 63);
        (frame[24], frame[5]) = (frame[24].wrapping_add(1), 0x99);
        frame
    };
    for (what, other, count) in [
        ("the same", datagram.clone(), Some(1)),
        ("routed", routed, Some(1)),
        ("another identification", with(19, 1), None),
        ("another checksum", with(14 + 20 + 7, 0xee), None),
        ("another payload", with(14 + 28 + 20, b'x'), None),
    ] {
        let mut bench = Bench::finals();
        bench.feed(0, &datagram);
        bench.feed(100_000, &other);
        assert_eq!(duplicates(&bench.ends()[0]), count, "{what}");
    }
    let mut bench = Bench::finals();
    bench.feed(0, &datagram);
    bench.feed(3 * MS, &datagram);
    assert_eq!(duplicates(&bench.ends()[0]), None, "too late to be a copy");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever is said, and whichever frames come twice: the record is that of the frames without copies, but for what is
    /// counted on the wire.
    #[test]
    fn copies_change_counters_of_the_wire_and_nothing_else(
        frames in prop::collection::vec((0..5u8, any::<bool>(), 0..3u32, 0..60usize, any::<bool>()), 1..60)
    ) {
        let mut with = Bench::finals();
        let mut without = Bench::finals();
        let mut copies = 0;
        for (n, (kind, back, seq, len, again)) in frames.iter().enumerate() {
            let payload = vec![kind + 65; *len];
            let flags = [SYN, ACK, ACK, FIN | ACK, ACK][usize::from(*kind)];
            let frame = match kind {
                4 => example::ipv4(17, [1; 4], [2; 4], &example::udp((7, 9), &payload)),
                _ => segment(*back, 1000 * seq, 5000, flags, &payload),
            };
            let (at, frame) = (n as u64 * 5 * MS, numbered(frame, n as u16));
            without.feed(at, &frame);
            with.feed(at, &frame);
            if *again {
                with.feed(at + 20_000, &frame);
                copies += 1;
            }
        }
        let (with, without) = (with.ends(), without.ends());
        prop_assert_eq!(with.iter().filter_map(duplicates).sum::<u64>(), copies);
        prop_assert_eq!(with.len(), without.len());
        let told = |record: &FlowRecord| {
            let tcp = record.tcp.map(|tcp| (tcp.state, tcp.rtt_ns, tcp.retransmissions));
            let tcp_bytes = record.tcp.map(|_| (record.orig.data_bytes, record.resp.data_bytes));
            (record.key, record.end, tcp, tcp_bytes, record.packets() - duplicates(record).unwrap_or(0))
        };
        let sorted = |records: &[FlowRecord]| {
            let mut told: Vec<String> = records.iter().map(|record| format!("{:?}", told(record))).collect();
            told.sort();
            told
        };
        prop_assert_eq!(sorted(&with), sorted(&without));
    }
}
