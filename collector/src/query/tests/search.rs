//! What searches and tails find, in which order, and which questions are refused.

use std::collections::HashMap;
use std::time::Duration;

use gnomon_clock::{Fix, FixSource, RawNs};
use gnomon_flow::FlowRecord;

use crate::query::testing::{fixture, ids, numbered, search, utc};
use crate::query::*;
use crate::store::testing::{S, epoch, fix, fixes, record, seal, settle};

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

/// Evidence comes between two pages and moves all records past where the first ended, one way or the other: by less than
/// anybody is told of, by seconds, and by so much that blocks lie elsewhere. Each record is on one page.
#[tokio::test]
async fn each_record_is_on_one_page_however_evidence_moves_it_between_pages() {
    const MS: i64 = 1_000_000;
    // By how much the agent's clock was wrong before, where the collector finds it.
    for by_ns in [3 * MS, -3 * MS, 400 * MS, -400 * MS, 3_000 * MS, -3_000 * MS, 50_000 * MS] {
        for (sealed, oldest_first) in [(false, false), (false, true), (true, false), (true, true)] {
            let mut fixture = fixture(QueryLimits::default());
            let doubtful = |ns: i64| {
                let utc = utc(S + S / 2).saturating_add_ns(ns);
                Fix { raw: RawNs(S + S / 2), utc, err_ns: 900_000_000, source: FixSource::Kernel }
            };
            // Of agent 3 less is known than of the others.
            fixture.writer.commit(&[fixes(epoch(3), vec![doubtful(0)])]).expect("fixes");
            for n in 0..250u64 {
                let of = if n % 2 == 0 { epoch(3) } else { epoch(1) };
                fixture.add(of, n / 2 + 1, vec![numbered(n, S + n * 4_000_000)]);
            }
            if sealed {
                seal(&mut fixture.writer);
            }
            settle(&mut fixture.writer);
            let (mut seen, mut cursor, mut pages) = (Vec::new(), String::new(), 0);
            loop {
                let page = Search { limit: 30, cursor, oldest_first, ..search("port.dst == [0,1,2]") };
                let page = fixture.queries.search(page).await.expect("page");
                assert!(page.flows.iter().all(|flow| flow.first.is_some()));
                seen.extend(ids(&page.flows));
                cursor = page.next_cursor;
                if cursor.is_empty() {
                    break;
                }
                pages += 1;
                if pages == 3 {
                    let better = Fix { err_ns: 1_000, source: FixSource::Collector, ..doubtful(by_ns) };
                    fixture.writer.commit(&[fixes(epoch(3), vec![better])]).expect("fixes");
                }
                if pages == 5 {
                    settle(&mut fixture.writer);
                }
            }
            assert!(if oldest_first { seen.is_sorted() } else { seen.iter().rev().is_sorted() }, "{by_ns}");
            seen.sort_unstable();
            assert_eq!(seen, (0..250).collect::<Vec<_>>(), "{by_ns} ns, sealed {sealed}, {oldest_first}");
        }
    }
}

#[tokio::test]
async fn a_record_is_found_where_it_is_before_its_block_was_judged_again() {
    for sealed in [false, true] {
        let mut fixture = fixture(QueryLimits::default());
        let fix_at = |ns: i64, err_ns, source| {
            let utc = utc(2 * S).saturating_add_ns(ns);
            Fix { raw: RawNs(2 * S), utc, err_ns, source }
        };
        let vague = fix_at(0, 900_000_000, FixSource::Kernel);
        fixture.writer.commit(&[fixes(epoch(3), vec![vague])]).expect("fixes");
        fixture.add(epoch(3), 1, vec![numbered(7, 2 * S)]);
        if sealed {
            seal(&mut fixture.writer);
        }
        settle(&mut fixture.writer);
        // Proven to be 20 s earlier; nothing was settled since.
        let proven = fix_at(-20 * S.cast_signed(), 1_000, FixSource::Collector);
        fixture.writer.commit(&[fixes(epoch(3), vec![proven])]).expect("fixes");
        let flow = fixture.queries.search(search("")).await.expect("search").flows.remove(0);
        let at = flow.first.expect("a time").utc;
        let around = |s: i64| Some(at.saturating_add_ns(s * S.cast_signed() / 10));
        let range = TimeRange { since: around(-5), until: around(5), by_ingest: false };
        let found = fixture.queries.search(Search { range, ..search("") }).await.expect("search");
        assert_eq!(ids(&found.flows), [7], "sealed {sealed}, at {at:?}");
        let counted = fixture.queries.count("", range, &[]).await.expect("count");
        assert_eq!(counted.sums.flows, 1, "sealed {sealed}");
    }
}

#[tokio::test]
async fn pages_say_when_records_were_moved_between_them() {
    let mut fixture = fixture(QueryLimits::default());
    fixture.many(250);
    let page = |cursor: &str, by_ingest| Search {
        limit: 100,
        cursor: cursor.to_owned(),
        range: TimeRange { by_ingest, ..TimeRange::default() },
        ..search("packets >= 0")
    };
    let first = fixture.queries.search(page("", false)).await.expect("page");
    let by_ingest = fixture.queries.search(page("", true)).await.expect("page");
    let second = fixture.queries.search(page(&first.next_cursor, false)).await.expect("page");
    assert_eq!((first.partial, second.partial), (None, None));
    // Evidence that contradicts what there was by 50 s.
    fixture.writer.commit(&[fixes(epoch(1), vec![fix(99, 50)])]).expect("fixes");
    let second = fixture.queries.search(page(&first.next_cursor, false)).await.expect("page");
    assert!(second.partial.is_some_and(|reason| reason.contains("were corrected")));
    let forged = format!("2n{:016x}{}", 12345, &first.next_cursor[18..]);
    let forgotten = fixture.queries.search(page(&forged, false)).await.expect("page");
    assert!(forgotten.partial.is_some_and(|reason| reason.contains("forgotten")));
    let next = fixture.queries.search(page(&forgotten.next_cursor, false)).await.expect("page");
    assert!(
        next.partial.is_some_and(|reason| reason.contains("forgotten")),
        "and so does each page behind it"
    );
    // Times of ingest move nowhere.
    let by_ingest = fixture.queries.search(page(&by_ingest.next_cursor, true)).await.expect("page");
    assert_eq!((by_ingest.partial, by_ingest.flows.len()), (None, 100));
    assert_eq!(fixture.queries.search(page("", false)).await.expect("page").partial, None);
}

#[tokio::test]
async fn what_cannot_be_asked_is_refused_with_the_reason() {
    let fixture = fixture(QueryLimits::default());
    let queries = &fixture.queries;
    for (search, part) in [
        (Search { limit: 10_001, ..Search::default() }, "limit: 10001 is more than 10000"),
        (Search { cursor: "x".into(), ..Search::default() }, "cursor: is no cursor"),
        (Search { cursor: "2n00".into(), ..Search::default() }, "cursor: is no cursor"),
        (Search { cursor: format!("2o{}", "00".repeat(36)), ..Search::default() }, "another order"),
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
async fn a_tail_shows_new_flows_that_match() {
    let mut fixture = fixture(QueryLimits::default());
    fixture.many(10);
    let mut tail = fixture.queries.tail("port.dst == 1", Following::default()).await.expect("tail");
    fixture.add(epoch(1), 50, vec![numbered(1000, 50 * S), numbered(1001, 50 * S), numbered(1003, 50 * S)]);
    let first = tail.recv().await.expect("first");
    let second = tail.recv().await.expect("second");
    assert_eq!((first.flow.record.id.0, second.flow.record.id.0, second.missed), (1000, 1003, 0));
    // More than its queues hold: some are missed, and it says so.
    for seq in 60..70 {
        let from = seq * 1_000_000;
        fixture.add(epoch(1), seq, (0..1000).map(|n| numbered(from + 1 + 3 * n, 50 * S)).collect());
    }
    let mut missed = 0;
    while let Ok(Some(item)) = tokio::time::timeout(Duration::from_millis(500), tail.recv()).await {
        missed = item.missed;
    }
    assert!(missed > 5000, "{missed}");
    // A stop ends it.
    fixture.shutdown.cancel();
    assert!(tail.recv().await.is_none());
}

/// Much more comes in than any queue holds, faster than it is read, and some of it is in blocks before it is read.
#[tokio::test]
async fn who_follows_for_all_of_it_misses_nothing_however_slow() {
    let mut fixture = fixture(QueryLimits::default());
    fixture.many(10);
    let whole = Following { whole: true, behind: None };
    let mut tail = fixture.queries.tail("port.dst == 1", whole).await.expect("tail");
    let mut told: HashMap<u64, u32> = HashMap::new();
    let (mut added, mut behind) = (0u64, 0);
    let drain = async |tail: &mut tokio::sync::mpsc::Receiver<TailItem>,
                       most: usize,
                       told: &mut HashMap<u64, u32>| {
        let mut behind = 0;
        for _ in 0..most {
            let next = tokio::time::timeout(Duration::from_millis(1500), tail.recv()).await;
            let Ok(Some(item)) = next else { break };
            assert_eq!(item.missed, 0);
            assert!(item.behind >= behind, "it never goes back");
            behind = item.behind;
            *told.entry(item.flow.record.id.0).or_default() += 1;
        }
        behind
    };
    for round in 0..8u64 {
        for batch in 0..3 {
            let records = (0..1000).map(|n| numbered(1_000_000 + 3 * (added + n), 50 * S)).collect();
            fixture.add(epoch(1), 100 + round * 3 + batch, records);
            added += 1000;
        }
        if round % 2 == 1 {
            seal(&mut fixture.writer);
        }
        // A few are read meanwhile.
        behind = drain(&mut tail, 700, &mut told).await;
    }
    behind = drain(&mut tail, usize::MAX, &mut told).await.max(behind);
    // Some of before may come along.
    told.retain(|id, _| *id >= 1_000_000);
    assert_eq!(told.len() as u64, added, "every record was told of");
    let twice = told.values().filter(|times| **times > 1).count();
    assert!(twice < added as usize / 2, "{twice} twice");
    assert!(behind > 0);

    // The caller goes away; what comes until he is back is told then.
    drop(tail);
    fixture.add(epoch(1), 200, (0..1000).map(|n| numbered(9_000_001 + 3 * n, 50 * S)).collect());
    seal(&mut fixture.writer);
    fixture.add(epoch(1), 201, vec![numbered(10_000_000, 50 * S), numbered(10_000_002, 50 * S)]);
    let again = Following { whole: true, behind: Some(behind) };
    let mut tail = fixture.queries.tail("port.dst == 1", again).await.expect("tail");
    told.clear();
    drain(&mut tail, usize::MAX, &mut told).await;
    assert!((0..1000).all(|n| told.contains_key(&(9_000_001 + 3 * n))), "{}", told.len());
    assert!(told.contains_key(&10_000_000) && !told.contains_key(&10_000_002));
    // Of another store: it goes on from now.
    let other = Following { whole: true, behind: Some(u64::MAX) };
    assert!(fixture.queries.tail("", other).await.is_ok());
}
