//! Capture files as the tools people have read them, and what is said of packets that are not in them.

use std::sync::Arc;

use gnomon_clock::{Bracket, Clock, KernelStatus, MonoNs, RawNs, WANDER_PPM};
use gnomon_flow::FlowRecord;

use crate::query::testing::{Fixture, block, fixture, search, utc};
use crate::query::*;
use crate::store::testing::{S, epoch, record, seal};

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
        let packets = end.as_ref().expect("end").packets;
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
            // The fixes of the fixture are ± 1 ms at 1 and 99 s, so the rate between them is known to 2 ms in 98 s and
            // the 20 ppm that it may wander; the latest packet is 29.002 s from the nearest fix; stamps are ± 50 ns.
            let rate_ppm = 2e-3 / 98.0 * 1e6 + WANDER_PPM as f64;
            let expected_ns = 1e6 + 29.002 * rate_ppm * 1e3 + 50.0;
            let told_ns = end.as_ref().map_or(0, |end| end.time_err_ns_max);
            assert!((told_ns as f64 - expected_ns).abs() < 20.0, "{told_ns}, {expected_ns}");
            assert!(out.contains(&format!("times within ±{told_ns} ns of UTC")), "{out}");
            assert!(out.contains("gnomon-collector"), "{out}");
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
    let fixture = with_much(limits);
    let mut first = fixture.queries.pcap(PcapRequest::default()).await.expect("pcap");
    assert!(first.pieces.recv().await.is_some());
    drop(first);
    let second = fixture.queries.pcap(PcapRequest::default()).await.expect("the place is free again");
    assert_eq!(file(second).await.1.map(|end| end.packets), Some(60_000));
}

/// 60 blocks, each of 1,000 packets of one flow, a second apart.
fn with_much(limits: QueryLimits) -> Fixture {
    let mut fixture = fixture(limits);
    fixture.add(epoch(1), 1, vec![record(1, 0, S, 90 * S)]);
    for n in 0..60u64 {
        let packets: Vec<_> = (0..1000u64).map(|p| (1, (2 + n) * S + p * 1000, 1)).collect();
        fixture.writer.commit(&[block(2 + n, epoch(1), &packets)]).expect("block");
    }
    fixture
}

#[tokio::test]
async fn a_download_that_is_cut_short_does_not_end_as_if_it_were_whole() {
    let limits =
        QueryLimits { stalled_ms: 100, downloads_max: 1, queue_ms: 30_000, ..QueryLimits::default() };
    let fixture = with_much(limits);
    for stopped in [false, true] {
        let mut download = fixture.queries.pcap(PcapRequest::default()).await.expect("pcap");
        if stopped {
            fixture.shutdown.cancel();
        } else {
            // Its place is free once it was given up.
            let one = PcapRequest { packets_max: 1, ..PcapRequest::default() };
            file(fixture.queries.pcap(one).await.expect("pcap")).await;
        }
        let mut last = None;
        while let Some(piece) = download.pieces.recv().await {
            last = Some(piece);
        }
        let Some(Err(QueryError::Cut(why))) = last else { panic!("{last:?}") };
        assert!(why.contains(if stopped { "being stopped" } else { "took nothing" }), "{why}");
        assert!(download.pieces.recv().await.is_none(), "and nothing behind it");
    }
}

/// Each look at it takes a second.
#[derive(Debug, Default)]
struct Hasty(std::sync::atomic::AtomicU64);

impl Clock for Hasty {
    fn raw(&self) -> RawNs {
        RawNs(self.monotonic().0)
    }

    fn monotonic(&self) -> MonoNs {
        MonoNs(self.0.fetch_add(S, std::sync::atomic::Ordering::Relaxed))
    }

    fn boottime(&self) -> MonoNs {
        self.monotonic()
    }

    fn bracket(&self) -> Bracket {
        Bracket { raw: self.raw(), half_width_ns: 100, realtime: utc(S) }
    }

    fn kernel_status(&self) -> std::io::Result<KernelStatus> {
        Ok(KernelStatus::default())
    }
}

#[tokio::test]
async fn flows_of_a_download_are_looked_for_as_long_as_it_goes_on() {
    let mut fixture = fixture(QueryLimits::default());
    let of_block = |n: u64| (0..20).map(|id| record(n * 20 + id, 0, (1 + n) * S, (2 + n) * S)).collect();
    for n in 0..80 {
        fixture.add(epoch(1), 2 * n + 1, of_block(n));
        fixture.writer.commit(&[block(2 * n + 2, epoch(1), &[(n * 20, (1 + n) * S, 1)])]).expect("block");
        seal(&mut fixture.writer);
    }
    // 80 blocks of records and 30 s for a question.
    let queries = Queries::new(
        fixture.store.clone(),
        Arc::new(Hasty::default()),
        QueryLimits::default(),
        fixture.shutdown.clone(),
    );
    let counted = queries.count("packets >= 1", TimeRange::default(), &[]).await.expect("count");
    assert!(counted.partial.is_some_and(|why| why.contains("limit of a query")), "a question has its limit");
    let (_, end) = file(queries.pcap(PcapRequest::default()).await.expect("pcap")).await;
    let end = end.expect("end");
    assert_eq!((end.partial, end.flows, end.packets), (None, 1600, 80));
}

#[tokio::test]
async fn what_overlaps_in_time_takes_bounded_memory_and_nothing_is_left_out() {
    let mut fixture = fixture(QueryLimits::default());
    fixture.add(epoch(1), 1, vec![record(1, 0, S, 90 * S)]);
    // As of many agents: all blocks lie in the same minute. Their bytes alone would fit; what is kept of each packet does not.
    for n in 0..44u64 {
        let packets: Vec<_> = (0..1000u64).map(|p| (1, 2 * S + p * 60_000_000 + n, 1)).collect();
        fixture.writer.commit(&[block(2 + n, epoch(1), &packets)]).expect("block");
    }
    let (bytes, end) = file(fixture.queries.pcap(PcapRequest::default()).await.expect("pcap")).await;
    let end = end.expect("end");
    assert!(bytes.len() > 44_000 * 50);
    assert_eq!(end.packets, 44_000);
    assert!(end.partial.is_some_and(|why| why.contains("overlap in time")), "tests have room for 4 MiB");
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

/// Records say that more was kept than there is: how much is missing, and why.
#[tokio::test]
async fn a_file_that_lacks_packets_says_how_many_and_why() {
    let with_kept =
        |id, first: u64, kept| FlowRecord { sliced_packets: kept, ..record(id, 0, first, first + S) };
    let mut fixture = fixture(QueryLimits::default());
    // Of flow 1 its agent kept 10 and 4 came; of flow 2 all 3; flow 3 is new.
    fixture.add(
        epoch(1),
        1,
        vec![with_kept(1, 10 * S, 10), with_kept(2, 10 * S, 3), with_kept(3, 95 * S, 5)],
    );
    let packets: Vec<(u64, u64, u16)> = (0..7).map(|n| (1 + n / 4, 10 * S + n, 1)).collect();
    fixture.writer.commit(&[block(2, epoch(1), &packets)]).unwrap();
    let ask = async |request: PcapRequest| {
        let (bytes, end) = file(fixture.queries.pcap(request).await.unwrap()).await;
        (String::from_utf8_lossy(&bytes).into_owned(), end.unwrap())
    };
    let (bytes, end) = ask(PcapRequest::default()).await;
    assert_eq!((end.packets, end.packets_kept), (7, 18));
    assert_eq!(end.missing, PacketsMissing { never_came: 6, not_yet: 5, ..PacketsMissing::default() });
    assert_eq!(end.packets + end.missing.all(), end.packets_kept, "every packet is accounted for");
    let said = "6 of 18 packets that were kept are missing: 6 never came from their agent";
    assert_eq!(end.partial.as_deref(), Some(said));
    assert!(
        bytes.contains(said) && bytes.contains("5 packets may be on their way"),
        "the file says so itself"
    );
    // A whole one says nothing, and one that was cut where it was asked to be does not guess.
    let (_, end) = ask(PcapRequest { expression: "port.src == 2".into(), ..PcapRequest::default() }).await;
    assert_eq!((end.missing, end.packets), (PacketsMissing::default(), 0));
    let (_, end) = ask(PcapRequest { packets_max: 2, ..PcapRequest::default() }).await;
    assert_eq!(end.missing, PacketsMissing::default());
}

/// After retention a download has what is left, or nothing, and says that the rest was deleted.
#[tokio::test]
async fn what_retention_deleted_is_told() {
    use crate::store::testing::{FakeClock, LIMITS, change, fix, fixes, flows, gate, slices};
    use crate::store::{Body, Limits};
    let dir = tempfile::tempdir().unwrap();
    let clock = FakeClock::new();
    let limits = Limits { packets_bytes_max: 3 << 20, ..LIMITS };
    let (store, mut writer) = crate::store::open(dir.path(), &gate(&clock), limits).unwrap();
    writer
        .commit(&[fixes(epoch(1), vec![fix(1, 100), fix(99, 100)]), change(epoch(1), Body::Hello)])
        .unwrap();
    // Text that does not compress.
    let mut state = 1u64;
    let mut noise = || -> String {
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            char::from(33 + (state >> 58) as u8)
        };
        (0..200_000).map(|_| next()).collect()
    };
    for n in 1..=40u64 {
        let record = FlowRecord { sliced_packets: 1, ..record(n, 0, 10 * S, 11 * S) };
        writer.commit(&[flows(epoch(1), 2 * n - 1, vec![record])]).unwrap();
        writer.commit(&[slices(epoch(1), 2 * n, &[n], 10 * S, &noise())]).unwrap();
    }
    let shutdown = tokio_util::sync::CancellationToken::new();
    let queries = Queries::new(store.clone(), clock, QueryLimits::default(), shutdown);
    assert!(store.has_deleted_packets(), "{:?}", store.status().unwrap());
    let (_, end) = file(queries.pcap(PcapRequest::default()).await.unwrap()).await;
    let end = end.unwrap();
    assert_eq!(end.packets_kept, 40);
    assert_eq!(end.missing, PacketsMissing { expired: 40 - end.packets, ..PacketsMissing::default() });
    assert!(end.missing.expired > 0 && end.packets > 0, "{end:?}");
    // The first is gone altogether.
    let found = queries.search(search("")).await.unwrap().flows;
    let ids = found.iter().map(|flow| flow.id()).min().into_iter().collect();
    let first = PcapRequest { ids, ..PcapRequest::default() };
    let (_, end) = file(queries.pcap(first).await.unwrap()).await;
    let end = end.unwrap();
    assert_eq!(end.packets, 0);
    assert!(
        end.partial.is_some_and(|partial| partial.contains("were deleted since, for room or age")),
        "{:?}",
        end.missing
    );
}
