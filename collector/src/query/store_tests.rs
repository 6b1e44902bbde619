//! Questions to a real store in a temporary directory.

use std::sync::Arc;

use gnomon_clock::{Clock, EpochId, RawNs, UtcNs};
use gnomon_flow::slice::SlicedPacket;
use gnomon_flow::{FlowId, FlowRecord, StoredFlow};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use super::testing::ten;
use super::*;
use crate::store::testing::{FakeClock, NOW, S, change, epoch, fix, fixes, flows, open, record};
use crate::store::{Body, Content, Slices, Store, Writer};

/// A store whose epochs' RAW 0 was 100 s before [`NOW`].
pub(crate) struct Fixture {
    _dir: TempDir,
    pub(crate) clock: Arc<FakeClock>,
    pub(crate) store: Store,
    pub(crate) writer: Writer,
    pub(crate) queries: Queries,
    pub(crate) shutdown: CancellationToken,
}

pub(crate) fn fixture(limits: QueryLimits) -> Fixture {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let clock = FakeClock::new();
    let (store, mut writer) = open(dir.path(), &clock);
    for agent in [1, 2] {
        writer.commit(&[fixes(epoch(agent), vec![fix(1, 100), fix(99, 100)])]).expect("fixes");
    }
    let shutdown = CancellationToken::new();
    let queries = Queries::new(store.clone(), Arc::clone(&clock) as Arc<dyn Clock>, limits, shutdown.clone());
    Fixture { _dir: dir, clock, store, writer, queries, shutdown }
}

impl Fixture {
    pub(crate) fn add(&mut self, epoch: EpochId, seq: u64, records: Vec<FlowRecord>) {
        self.writer.commit(&[flows(epoch, seq, records)]).expect("flows");
    }

    /// `count` flows of agent 1, one each 10 ms from RAW 1 s on: flow `n` comes from 10.0.0.`n % 7`, port `n % 3`.
    fn many(&mut self, count: u64) {
        for chunk in 0..count.div_ceil(100) {
            let ids = chunk * 100 + 1..=(chunk * 100 + 100).min(count);
            let records = ids.map(|id| numbered(id, S + id * 10_000_000)).collect();
            self.add(epoch(1), chunk + 1, records);
        }
    }
}

fn numbered(id: u64, first: u64) -> FlowRecord {
    let mut record = record(id, 0, first, first + 5_000_000);
    if let (std::net::IpAddr::V4(src), gnomon_flow::Addresses::V4 { orig, .. }) =
        (ten((id % 7) as u32), &mut record.key.addresses)
    {
        *orig = src.octets();
    }
    record.key.resp_port = (id % 3) as u16;
    record
}

fn utc(raw: u64) -> UtcNs {
    UtcNs::from_tai_ns(NOW - (100 * S).cast_signed() + raw.cast_signed())
}

fn ids(flows: &[StoredFlow]) -> Vec<u64> {
    flows.iter().map(|flow| flow.record.id.0).collect()
}

fn search(expression: &str) -> Search {
    Search { expression: expression.to_owned(), ..Search::default() }
}

#[tokio::test]
async fn searches_find_in_order_and_in_range() {
    let mut fixture = fixture(QueryLimits::default());
    fixture.many(300);
    let queries = &fixture.queries;
    let page = queries.search(search("")).await.expect("all");
    assert_eq!(ids(&page.flows), (201..=300).rev().collect::<Vec<u64>>());
    assert!(!page.next_cursor.is_empty() && page.partial.is_none());
    let oldest = Search { oldest_first: true, limit: 3, ..search("port.dst == 0 && ip.src == 10.0.0.1") };
    assert_eq!(ids(&queries.search(oldest).await.expect("oldest").flows), [15, 36, 57]);

    // A range takes what any part of lies in it: 5 ms long each, one every 10 ms.
    let range =
        TimeRange { since: Some(utc(S + 104_000_000)), until: Some(utc(S + 120_000_000)), by_ingest: false };
    let page = queries.search(Search { range, ..search("") }).await.expect("range");
    assert_eq!(ids(&page.flows), [11, 10]);
    // The expression can say the same.
    let text = format!(
        "stoptime >= {} && starttime < {}",
        utc(S + 104_000_000).unix_ns(),
        utc(S + 120_000_000).unix_ns()
    );
    assert_eq!(queries.search(search(&text)).await.expect("times").flows, page.flows);

    let one = &page.flows[0];
    assert_eq!(queries.get(one.id()).await.expect("get").id(), one.id());
    let by_id = queries.search(search(&format!("id == {} && ip == ipv4", one.id()))).await.expect("by id");
    assert_eq!((by_id.flows.len(), by_id.next_cursor.as_str()), (1, ""));
    let other = queries.search(search(&format!("id == {} && ip == ipv6", one.id()))).await.expect("by id");
    assert!(other.flows.is_empty());
    let none = gnomon_flow::FlowRef::default();
    assert!(matches!(queries.get(none).await, Err(QueryError::NotFound(id)) if id == none));
}

#[tokio::test]
async fn pages_stand_still_while_flows_arrive() {
    for oldest_first in [false, true] {
        let mut fixture = fixture(QueryLimits::default());
        fixture.many(250);
        let mut seen = Vec::new();
        let mut cursor = String::new();
        let mut seq = 100;
        loop {
            let page = Search { limit: 30, cursor, oldest_first, ..search("port.dst == [0,1]") };
            let page = fixture.queries.search(page).await.expect("page");
            seen.extend(ids(&page.flows));
            cursor = page.next_cursor;
            if cursor.is_empty() {
                break;
            }
            // Newer ones, and revisions of old ones.
            seq += 2;
            fixture.add(epoch(1), seq, vec![numbered(seq * 1000, S + seq * 100_000_000)]);
            let again = FlowRecord { revision: 1, ..numbered(3, S + 30_000_000) };
            fixture.add(epoch(1), seq + 1, vec![again]);
        }
        let expected = (1..=250u64).filter(|id| id % 3 != 2).collect::<Vec<_>>();
        let mut old: Vec<u64> = seen.iter().copied().filter(|id| *id <= 250).collect();
        let sorted = if oldest_first { old.is_sorted() } else { old.iter().rev().is_sorted() };
        assert!(sorted, "{old:?}");
        old.sort_unstable();
        assert_eq!(old, expected);
    }
}

#[tokio::test]
async fn what_cannot_be_asked_is_refused_with_the_reason() {
    let fixture = fixture(QueryLimits::default());
    let queries = &fixture.queries;
    for (search, part) in [
        (Search { limit: 10_001, ..Search::default() }, "limit: 10001 is more than 10000"),
        (Search { cursor: "x".into(), ..Search::default() }, "cursor: is no cursor"),
        (Search { cursor: "1n00".into(), ..Search::default() }, "cursor: is no cursor"),
        (Search { cursor: format!("1o{}", "00".repeat(28)), ..Search::default() }, "another order"),
        (search("port = 1"), "column 6"),
        (
            Search {
                range: TimeRange { since: Some(utc(1)), until: Some(utc(1)), by_ingest: false },
                ..Search::default()
            },
            "until: is not after since",
        ),
    ] {
        let error = queries.search(search).await.expect_err(part).to_string();
        assert!(error.contains(part), "{error}");
    }
    let top =
        |fields: &[&str]| Top { fields: fields.iter().map(|f| (*f).to_owned()).collect(), ..Top::default() };
    assert!(queries.top(top(&[])).await.is_err() && queries.top(top(&["ip"; 9])).await.is_err());
    let error = queries.top(top(&["prot"])).await.expect_err("prot").to_string();
    assert!(error.contains("did you mean port"), "{error}");
}

#[tokio::test]
async fn sums_are_exact() {
    let mut fixture = fixture(QueryLimits::default());
    fixture.many(210);
    let queries = &fixture.queries;
    let count = queries.count("ip.src == 10.0.0.3", TimeRange::default()).await.expect("count");
    assert_eq!(count.sums, Sums { flows: 30, packets: 30, bytes: 2400 });

    let top = Top { fields: vec!["ip.src".into(), "port.dst".into()], limit: 4, ..Top::default() };
    let answer = queries.top(top).await.expect("top");
    assert_eq!(answer.rows.iter().map(|row| row.sums.flows).collect::<Vec<_>>(), [10; 4]);
    assert_eq!(answer.rows[0].values, ["10.0.0.0", "0"], "equal sums go by value");
    assert_eq!((answer.others_flows, answer.partial), (170, None));

    // Either side counts, and a flow between one address counts once.
    let answer = queries.top(Top { fields: vec!["ip".into()], ..Top::default() }).await.expect("top");
    assert_eq!((answer.rows[0].values[0].as_str(), answer.rows[0].sums.flows), ("10.0.0.2", 210));
    // A field that no flow has gives no row.
    let answer = queries.top(Top { fields: vec!["dns.host".into()], ..Top::default() }).await.expect("top");
    assert!(answer.rows.is_empty() && answer.others_flows == 0);

    let histogram = Histogram { interval_ns: S, ..Histogram::default() };
    let answer = queries.histogram(histogram.clone()).await.expect("histogram");
    assert_eq!(answer.buckets.iter().map(|b| b.sums.flows).sum::<u64>(), 210);
    assert!(answer.buckets.iter().all(|b| b.start.unix_ns() % S.cast_signed() == 0));
    assert_eq!(answer.buckets[0].sums.flows, 99, "10 ms apart from 1.01 s on");
    let split = Histogram { group: "port.dst".into(), ..histogram };
    let answer = queries.histogram(split).await.expect("histogram");
    assert_eq!(answer.buckets.iter().filter(|b| b.group == "1").map(|b| b.sums.flows).sum::<u64>(), 70);
    let chosen = queries.histogram(Histogram::default()).await.expect("histogram");
    assert_eq!(chosen.interval_ns, 2 * S, "100 s to now in about 60");
    let fine = queries.histogram(Histogram { interval_ns: 1000, ..Histogram::default() }).await;
    assert!(fine.expect_err("too fine").to_string().contains("more than 10000 buckets"));
}

#[tokio::test]
async fn records_without_proven_time_are_found_by_ingest_and_by_id() {
    let mut fixture = fixture(QueryLimits::default());
    // Epoch 9 has no fix at all.
    fixture.add(epoch(9), 1, vec![record(5, 0, S, 2 * S)]);
    let queries = &fixture.queries;
    assert!(queries.search(search("")).await.expect("by time").flows.is_empty());
    for text in ["time.state == pending", "time.state == [pending,quarantined] && port == 53"] {
        let page = queries.search(search(text)).await.expect("held");
        assert_eq!(ids(&page.flows), [5], "{text}");
        assert!(page.flows[0].first.is_none());
    }
    let range = TimeRange { by_ingest: true, ..TimeRange::default() };
    let page = queries.search(Search { range, ..search("") }).await.expect("by ingest");
    assert_eq!(ids(&page.flows), [5]);
    let by_id = queries.search(search(&format!("id == {}", page.flows[0].id()))).await.expect("by id");
    assert_eq!(ids(&by_id.flows), [5]);
}

#[tokio::test]
async fn a_deadline_gives_what_was_found_and_a_cursor_to_go_on() {
    let mut fixture = fixture(QueryLimits { deadline_ms: 0, ..QueryLimits::default() });
    fixture.many(300);
    let page = fixture.queries.search(search("")).await.expect("partial");
    assert!(page.flows.is_empty() && page.partial.expect("partial").contains("stopped after 0 s"));
    let count = fixture.queries.count("", TimeRange::default()).await.expect("partial");
    assert!(count.partial.is_some() && count.sums.flows < 300);
}

#[tokio::test]
async fn no_more_run_at_once_than_may() {
    let limits = QueryLimits { queries_max: 1, queue_ms: 50, tails_max: 1, ..QueryLimits::default() };
    let fixture = fixture(limits);
    let (hold, held) = std::sync::mpsc::channel::<()>();
    let queries = fixture.queries.clone();
    let blocked = tokio::spawn(async move { queries.blocking(move || Ok(held.recv())).await });
    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    let error = fixture.queries.count("", TimeRange::default()).await.expect_err("busy");
    assert!(matches!(error, QueryError::Busy { limit: 1, .. }), "{error}");
    drop(hold);
    assert!(blocked.await.is_ok());
    assert!(fixture.queries.count("", TimeRange::default()).await.is_ok());

    let tail = fixture.queries.tail("").await.expect("tail");
    assert!(matches!(fixture.queries.tail("").await, Err(QueryError::Busy { .. })));
    drop(tail);
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    assert!(fixture.queries.tail("").await.is_ok());
}

#[tokio::test]
async fn a_question_nobody_waits_for_is_given_up() {
    let mut fixture = fixture(QueryLimits::default());
    fixture.many(200);
    let (tell, told) = std::sync::mpsc::channel();
    let selection = fixture.queries.selection("", TimeRange::default()).expect("selection");
    let queries = fixture.queries.clone();
    let asked = tokio::spawn(async move {
        queries
            .run(move |control| {
                let mut matches = selection.matches(true, None, control);
                let ended = loop {
                    match matches.next() {
                        Ok(Some(_)) => std::thread::sleep(std::time::Duration::from_millis(20)),
                        Ok(None) => break false,
                        Err(error) => break matches!(error, QueryError::Cancelled),
                    }
                };
                let _ = tell.send(ended);
                Ok(())
            })
            .await
    });
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    asked.abort();
    let ended =
        tokio::task::spawn_blocking(move || told.recv_timeout(std::time::Duration::from_secs(2))).await;
    assert!(ended.expect("join").expect("it ends long before the 4 s it would take"));
}

#[tokio::test]
async fn a_tail_shows_new_flows_that_match() {
    let mut fixture = fixture(QueryLimits::default());
    fixture.many(10);
    let mut tail = fixture.queries.tail("port.dst == 1").await.expect("tail");
    fixture.add(epoch(1), 50, vec![numbered(1000, 50 * S), numbered(1001, 50 * S), numbered(1003, 50 * S)]);
    let first = tail.recv().await.expect("first");
    let second = tail.recv().await.expect("second");
    assert_eq!((first.flow.record.id.0, second.flow.record.id.0, second.missed), (1000, 1003, 0));
    // A stop ends it.
    fixture.shutdown.cancel();
    assert!(tail.recv().await.is_none());
}

/// An Ethernet frame of UDP from `port` with `payload`.
pub(crate) fn udp_frame(port: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0];
    let (ip_len, udp_len) = (28 + payload.len() as u16, 8 + payload.len() as u16);
    let mut ip = vec![0x45, 0, 0, 0, 0, 1, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
    ip[2..4].copy_from_slice(&ip_len.to_be_bytes());
    let sum: u32 = ip.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    ip[10..12].copy_from_slice(&(!(folded as u16)).to_be_bytes());
    frame.extend(ip);
    for field in [port, 9999, udp_len, 0] {
        frame.extend(field.to_be_bytes());
    }
    frame.extend_from_slice(payload);
    frame
}

/// A block of packets `(flow, raw, linktype)`, each a UDP frame from port `10,000 + flow`.
pub(crate) fn block(seq: u64, of: EpochId, packets: &[(u64, u64, u16)]) -> crate::store::Change {
    let mut bytes = Vec::new();
    for (flow, raw, linktype) in packets {
        let packet = SlicedPacket {
            raw: RawNs(*raw),
            err_ns: 40,
            flow: FlowId(*flow),
            original_len: 200,
            linktype: *linktype,
            from_responder: false,
            outgoing: flow % 2 == 0,
            data: &udp_frame(10_000 + *flow as u16, &raw.to_be_bytes()),
        };
        packet.append_to(&mut bytes);
    }
    let mut flows: Vec<FlowId> = packets.iter().map(|(flow, ..)| FlowId(*flow)).collect();
    flows.sort_unstable();
    flows.dedup();
    let content = Content::Slices(Slices {
        interface: "eth0".to_owned(),
        packets: packets.len() as u32,
        first: RawNs(packets.iter().map(|(_, raw, _)| *raw).min().unwrap_or(0)),
        last: RawNs(packets.iter().map(|(_, raw, _)| *raw).max().unwrap_or(0)),
        block_bytes: bytes.len() as u32,
        flows,
        block: zstd::bulk::compress(&bytes, 1).expect("zstd").into(),
    });
    change(of, Body::Entry { seq, content })
}

/// The file, or the error that broke it off; and the summary.
async fn file(mut download: PcapDownload) -> (Vec<u8>, Option<PcapSummary>) {
    let (mut bytes, mut end) = (Vec::new(), None);
    while let Some(piece) = download.pieces.recv().await {
        match piece.expect("piece") {
            PcapPiece::Data(data) => bytes.extend_from_slice(&data),
            PcapPiece::End(summary) => end = Some(summary),
        }
    }
    (bytes, end)
}

/// Packets of two agents, interleaved in time; flow 1 has two records with a gap between them.
fn with_packets() -> Fixture {
    let mut fixture = fixture(QueryLimits::default());
    for agent in [1, 2] {
        let of = epoch(agent);
        let shift = u64::from(agent) * 1_000_000;
        let segment = |id, segment, first: u64, last: u64| FlowRecord {
            segment,
            ..record(id, 0, first + shift, last + shift)
        };
        let records =
            vec![segment(1, 0, 10 * S, 12 * S), segment(1, 1, 20 * S, 21 * S), segment(2, 0, 10 * S, 30 * S)];
        fixture.add(of, 1, records);
        for second in 0..4u64 {
            let packets: Vec<_> =
                (0..100u64).map(|n| (1 + n % 2, (10 + second * 5) * S + shift + n * 7_000_000, 1)).collect();
            fixture.writer.commit(&[block(2 + second, of, &packets)]).expect("block");
        }
    }
    fixture
}

#[tokio::test]
async fn a_capture_file_has_just_the_packets_of_its_flows_in_order_of_time() {
    let fixture = with_packets();
    let all = fixture.queries.pcap(PcapRequest::default()).await.expect("pcap");
    assert_eq!(all.found.flows, 6);
    let (_, end) = file(all).await;
    // Of flow 1 the bursts at 10 and 20 s, of flow 2 those at 10, 15, 20 and 25 s; 50 packets each, two agents.
    assert_eq!(end.expect("end").packets, 2 * (2 + 4) * 50);

    let expression = format!("segment == 1 && node == sensor && starttime < {}", utc(21 * S).unix_ns());
    let request = PcapRequest { expression, ..PcapRequest::default() };
    let (bytes, end) = file(fixture.queries.pcap(request).await.expect("pcap")).await;
    let end = end.expect("end");
    assert_eq!((end.packets, end.flows, end.partial), (100, 2, None));
    assert!(end.time_err_ns_max >= 1_000_000, "the evidence was within 1 ms");

    let Some(lines) =
        tshark(&bytes, &["frame.time_epoch", "udp.srcport", "frame.len", "frame.cap_len", "udp.payload"])
    else {
        return;
    };
    assert_eq!(lines.len(), 100);
    let mut last = 0i128;
    for line in &lines {
        let [time, port, len, captured, payload] = line.split('\t').collect::<Vec<_>>()[..] else {
            panic!("{line}")
        };
        assert_eq!((port, len, captured), ("10001", "200", "50"));
        let raw = u64::from_str_radix(&payload.replace(':', ""), 16).expect("the payload is the RAW time");
        assert!((20 * S..=21 * S + 2_000_000).contains(&raw), "only the segment's own packets");
        let (seconds, nanoseconds) = time.split_once('.').expect("a fraction");
        let at = seconds.parse::<i128>().expect("seconds") * 1_000_000_000
            + nanoseconds.parse::<i128>().expect("ns");
        assert_eq!(at, i128::from(utc(raw).unix_ns()), "to the nanosecond");
        assert!(at >= last, "in order");
        last = at;
    }
}

#[tokio::test]
async fn both_formats_are_read_by_the_tools_people_have() {
    let fixture = with_packets();
    for format in [PcapFormat::Pcapng, PcapFormat::Pcap] {
        let request = PcapRequest { expression: "segment == 0".into(), format, ..PcapRequest::default() };
        let (bytes, end) = file(fixture.queries.pcap(request).await.expect("pcap")).await;
        let packets = end.expect("end").packets;
        assert_eq!(packets, 500);
        let Some(lines) =
            tshark(&bytes, &["frame.interface_name", "frame.packet_flags_direction", "_ws.malformed"])
        else {
            return;
        };
        assert_eq!(lines.len() as u64, packets);
        if format == PcapFormat::Pcapng {
            let outbound = |line: &&String| {
                let direction = line.split('\t').nth(1).unwrap_or_default();
                line.starts_with("sensor:eth0\t")
                    && direction.trim_start_matches("0x").trim_start_matches('0') == "2"
            };
            assert_eq!(lines.iter().filter(outbound).count(), 400, "{:?}", lines.first());
        }
        let Some(out) = tool("tcpdump", &["-nn", "-r"], &bytes) else { return };
        assert_eq!(out.lines().count() as u64, packets, "tcpdump");
        let Some(out) = tool("capinfos", &["-M"], &bytes) else { return };
        assert!(out.contains("nanoseconds (9)"), "{out}");
        assert!(out.contains(&format!("Number of packets:   {packets}")), "{out}");
        if format == PcapFormat::Pcapng {
            assert!(out.contains("times within ±1") && out.contains("gnomon-collector"), "{out}");
        }
    }
    // Nothing found is still a file.
    let request = PcapRequest { expression: "port == 1".into(), ..PcapRequest::default() };
    let (bytes, end) = file(fixture.queries.pcap(request).await.expect("pcap")).await;
    assert_eq!(end.map(|end| end.packets), Some(0));
    let Some(lines) = tshark(&bytes, &["frame.number"]) else { return };
    assert!(lines.is_empty());
}

#[tokio::test]
async fn a_download_says_what_is_missing() {
    let mut fixture = with_packets();
    // Another link type, and packets of an epoch without evidence.
    fixture.writer.commit(&[block(50, epoch(1), &[(2, 25 * S, 101)])]).expect("block");
    fixture.add(epoch(9), 1, vec![record(2, 0, S, 2 * S)]);
    fixture.writer.commit(&[block(2, epoch(9), &[(2, S + 5, 1)])]).expect("block");
    let reason = |request: PcapRequest| {
        let queries = fixture.queries.clone();
        async move { file(queries.pcap(request).await.expect("pcap")).await.1.and_then(|end| end.partial) }
    };
    let pcap = PcapRequest { format: PcapFormat::Pcap, ..PcapRequest::default() };
    assert!(reason(pcap).await.expect("partial").contains("1 packets have another link type"));
    assert_eq!(reason(PcapRequest::default()).await, None, "pcapng holds both");
    let some = PcapRequest { packets_max: 10, ..PcapRequest::default() };
    assert!(reason(some).await.expect("partial").contains("more than the 10 packets"));
    let unproven = PcapRequest { expression: "time.state == pending".into(), ..PcapRequest::default() };
    assert!(reason(unproven).await.expect("partial").contains("1 packets have no proven time"));

    let flows = fixture.queries.search(search("segment == 1")).await.expect("search").flows;
    let missing = gnomon_flow::FlowRef::default();
    let ids = PcapRequest { ids: vec![flows[0].id(), missing], ..PcapRequest::default() };
    assert!(reason(ids).await.expect("partial").contains("1 of 2 records are not there"));
    let none = PcapRequest { ids: vec![missing], ..PcapRequest::default() };
    assert!(matches!(fixture.queries.pcap(none).await, Err(QueryError::NotFound(_))));
}

#[tokio::test]
async fn a_download_nobody_reads_gives_its_place_free() {
    let limits = QueryLimits { downloads_max: 1, queue_ms: 2000, ..QueryLimits::default() };
    let mut fixture = fixture(limits);
    fixture.add(epoch(1), 1, vec![record(1, 0, S, 90 * S)]);
    for n in 0..60u64 {
        let packets: Vec<_> = (0..1000u64).map(|p| (1, (2 + n) * S + p * 1000, 1)).collect();
        fixture.writer.commit(&[block(2 + n, epoch(1), &packets)]).expect("block");
    }
    let mut first = fixture.queries.pcap(PcapRequest::default()).await.expect("pcap");
    assert!(first.pieces.recv().await.is_some());
    drop(first);
    let second = fixture.queries.pcap(PcapRequest::default()).await.expect("the place is free again");
    assert_eq!(file(second).await.1.map(|end| end.packets), Some(60_000));
}

fn tool(name: &str, arguments: &[&str], file: &[u8]) -> Option<String> {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("file.pcap");
    std::fs::write(&path, file).expect("write");
    let output = match std::process::Command::new(name).args(arguments).arg(&path).output() {
        Ok(output) => output,
        Err(error) => {
            eprintln!("SKIPPED: reading the file back with {name}: {error}");
            return None;
        }
    };
    assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn tshark(file: &[u8], fields: &[&str]) -> Option<Vec<String>> {
    let mut arguments = vec!["-T", "fields"];
    for field in fields {
        arguments.extend(["-e", field]);
    }
    arguments.push("-r");
    let output = tool("tshark", &arguments, file)?;
    Some(output.lines().map(str::to_owned).collect())
}
