//! What a long connection says is in the record of the time in which it was said, once; limits that are hit are marked.

use gnomon_flow::AttributeValue;

use super::*;

fn texts(record: &FlowRecord, id: gnomon_flow::FieldId) -> Vec<String> {
    let of = record.attributes.of(id);
    of.map(|value| match value {
        AttributeValue::Text(text) => text.to_string(),
        other => format!("{other:?}"),
    })
    .collect()
}

/// Requests, `gap` apart, each with its answer. Gives the records.
fn requests(bench: &mut Bench, count: u32, gap: u64, path_bytes: usize) -> Vec<FlowRecord> {
    bench.tcp(0, false, 99, 0, SYN, b"");
    bench.tcp(0, true, 499, 100, SYN | ACK, b"");
    let (mut seq, mut ack) = (100, 500);
    for n in 0..count {
        let at = u64::from(n) * gap;
        let path = "p".repeat(path_bytes);
        let request = format!("GET /{n}/{path} HTTP/1.1\r\nHost: a.example\r\n\r\n");
        bench.tcp(at, false, seq, ack, ACK, request.as_bytes());
        seq = seq.wrapping_add(request.len() as u32);
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
        bench.tcp(at + MS, true, ack, seq, ACK, answer);
        ack = ack.wrapping_add(answer.len() as u32);
    }
    bench.ends()
}

fn number(uri: &str) -> u64 {
    uri.split('/').nth(1).and_then(|n| n.parse().ok()).unwrap()
}

#[test]
fn every_request_is_in_the_record_of_its_time_once() {
    let mut bench = Bench::finals();
    let records = requests(&mut bench, 200, 36 * S, 200);
    let mut found = Vec::new();
    for record in &records {
        for uri in texts(record, field::HTTP_URI) {
            let said_at = START + number(&uri) * 36 * S;
            assert!((record.first.0..=record.last.0).contains(&said_at), "{uri}");
            found.push(number(&uri));
        }
        assert_eq!(texts(record, field::PROTOCOLS), ["http"]);
        assert!(texts(record, field::INSPECT_ENDED).is_empty());
    }
    assert!(records.len() > 10);
    assert_eq!(found, (0..200).collect::<Vec<_>>());
    // What the flow began with is told in its first record.
    let first: Vec<bool> = records.iter().map(|r| !texts(r, field::PAYLOAD8_SRC).is_empty()).collect();
    assert_eq!(first.iter().filter(|has| **has).count(), 1);
    assert!(first[0]);
    assert_eq!(bench.table.budget.inspect.left(), bench.table.config.inspect_bytes_max);
}

#[test]
fn a_limit_is_marked_in_its_record_and_the_next_one_is_read_again() {
    // 20 KiB a segment, where 16 KiB are read.
    let mut bench = Bench::finals();
    let records = requests(&mut bench, 60, 24 * S, 1000);
    assert!(records.len() >= 3);
    for (n, record) in records.iter().enumerate() {
        let (said, ended) = (texts(record, field::HTTP_URI).len(), texts(record, field::INSPECT_ENDED));
        let all = record.orig.packets as usize - usize::from(n == 0);
        assert!(said >= 15.min(all), "{said} of {all}");
        assert_eq!(ended == ["bytes"], said < all, "{said} of {all}: {ended:?}");
    }
    // More values than a record has room for.
    let mut bench = Bench::finals();
    let records = requests(&mut bench, 400, MS, 1);
    assert_eq!(records.len(), 1);
    assert!(texts(&records[0], field::INSPECT_ENDED).contains(&"values".to_owned()));
    assert!(records[0].attributes.dropped() > 0);
}

#[test]
fn datagrams_of_an_hour_are_each_in_their_own_record() {
    let mut bench = Bench::finals();
    let (orig, resp) = (example::ORIG_V4, example::RESP_V4);
    let count = 120u64;
    for n in 0..count {
        let name = format!("n{n:04}");
        let query =
            [&[0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 5][..], name.as_bytes(), &[0, 0, 1, 0, 1]].concat();
        bench.feed(n * 30 * S, &example::ipv4(17, orig, resp, &example::udp((5000, 53), &query)));
    }
    let records = bench.ends();
    assert!(records.len() > 5);
    let mut all = Vec::new();
    for record in &records {
        let names = texts(record, field::DNS_HOST);
        assert_eq!(names.len() as u64, record.orig.packets);
        all.extend(names);
    }
    assert_eq!(all.len() as u64, count);
    all.dedup();
    assert_eq!(all.len() as u64, count);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// The values in records are those that were said, each in the record of its time, unless the record says otherwise.
    #[test]
    fn long_connections_lose_and_repeat_nothing_without_a_mark(
        gaps in prop::collection::vec(1u64..200, 1..150),
        path_bytes in 0usize..700,
    ) {
        let mut bench = Bench::finals();
        bench.tcp(0, false, 99, 0, SYN, b"");
        bench.tcp(0, true, 499, 100, SYN | ACK, b"");
        let (mut seq, mut at, mut said) = (100u32, 0, Vec::new());
        for (n, gap) in gaps.iter().enumerate() {
            at += gap * S;
            let request = format!("GET /{n}/{} HTTP/1.1\r\n\r\n", "p".repeat(path_bytes));
            bench.tcp(at, false, seq, 500, ACK, request.as_bytes());
            seq = seq.wrapping_add(request.len() as u32);
            said.push(START + at);
        }
        let records = bench.ends();
        let mut found = vec![0; said.len()];
        for record in &records {
            let mut here = 0;
            for uri in texts(record, field::HTTP_URI) {
                let n = number(&uri) as usize;
                prop_assert!((record.first.0..=record.last.0).contains(&said[n]));
                found[n] += 1;
                here += 1;
            }
            let asked = said.iter().filter(|at| (record.first.0..=record.last.0).contains(at)).count();
            prop_assert_eq!(here == asked, texts(record, field::INSPECT_ENDED).is_empty());
        }
        prop_assert!(found.iter().all(|times| *times <= 1));
    }
}
