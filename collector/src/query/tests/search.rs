//! What searches and tails find, in which order, and which questions are refused.

use gnomon_flow::FlowRecord;

use crate::query::testing::{fixture, ids, numbered, search, utc};
use crate::query::*;
use crate::store::testing::{S, epoch, fix, fixes, record};

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
    let mut tail = fixture.queries.tail("port.dst == 1").await.expect("tail");
    fixture.add(epoch(1), 50, vec![numbered(1000, 50 * S), numbered(1001, 50 * S), numbered(1003, 50 * S)]);
    let first = tail.recv().await.expect("first");
    let second = tail.recv().await.expect("second");
    assert_eq!((first.flow.record.id.0, second.flow.record.id.0, second.missed), (1000, 1003, 0));
    // A stop ends it.
    fixture.shutdown.cancel();
    assert!(tail.recv().await.is_none());
}
