//! Facets over a real store.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use gnomon_flow::FieldKind;

use crate::query::testing::fixture;
use crate::query::*;
use crate::store::testing::{S, epoch, record, seal};

fn asked(fields: &[&str], expression: &str) -> Facets {
    Facets {
        expression: expression.to_owned(),
        fields: fields.iter().map(|name| (*name).to_owned()).collect(),
        ..Facets::default()
    }
}

async fn last(queries: &Queries, facets: Facets) -> FacetsAnswer {
    let mut answers = queries.facets(facets).await.expect("facets");
    let mut last = None;
    while let Some(answer) = answers.recv().await {
        assert!(last.is_none_or(|before: FacetsAnswer| !before.last), "none behind the last");
        last = Some(answer.expect("answer"));
    }
    last.filter(|answer| answer.last).expect("a last answer")
}

#[tokio::test(flavor = "multi_thread")]
async fn facets_are_tops_of_one_field_each() {
    let mut fixture = fixture(QueryLimits::default());
    let all: Vec<&str> = faceted().map(|field| field.name).collect();
    let mut random = gnomon_clock::sim::SimRandom::new(3);
    for seq in 1..=3 {
        let records = super::blocks::records(&mut random, seq * 1000..seq * 1000 + 150);
        fixture.add(epoch(1), seq, records);
        // Some in blocks, some not.
        if seq < 3 {
            seal(&mut fixture.writer);
        }
    }
    for question in ["", "port.dst == 443", "ip.protocol != tcp && packets > 5", "tls.host == nowhere"] {
        let queries = &fixture.queries;
        let answer = last(queries, Facets { limit: 1000, ..asked(&all, question) }).await;
        // Blocks that cannot have a match are not read.
        let records = if question.starts_with("tls") { 150 } else { 450 };
        assert_eq!((answer.records_read, answer.records, answer.partial), (records, records, None));
        let count = queries.count(question, TimeRange::default(), &[]).await.expect("count");
        assert_eq!(answer.flows, count.sums.flows);
        assert_eq!(answer.fields.len(), all.len());
        for field in &answer.fields {
            let top = Top {
                expression: question.to_owned(),
                fields: vec![field.name.to_owned()],
                limit: 1000,
                ..Top::default()
            };
            let top = queries.top(top).await.expect("top");
            let of_top: Vec<_> =
                top.rows.iter().map(|row| (row.values[0].as_str(), row.sums.flows)).collect();
            let of_facet: Vec<_> =
                field.values.iter().map(|value| (value.value.as_str(), value.flows)).collect();
            assert_eq!(of_facet, of_top, "{} {question}", field.name);
            assert_eq!((field.different, field.missed_max), (of_top.len() as u64, 0));
        }
        // Those without a value are left out, unless they were asked for.
        let few = last(queries, Facets { limit: 2, ..asked(&[], question) }).await;
        let having = answer.fields.iter().filter(|field| field.flows > 0);
        let whole: BTreeMap<_, _> = having.map(|field| (field.name, field)).collect();
        assert_eq!(few.fields.len(), whole.len());
        for field in few.fields {
            let whole = whole[field.name];
            assert_eq!((field.flows, field.different), (whole.flows, whole.different));
            assert_eq!(field.values, whole.values[..whole.values.len().min(2)]);
        }
    }
}

#[test]
fn times_ids_and_counters_have_no_facet_of_their_own() {
    let names: Vec<&str> = faceted().map(|field| field.name).collect();
    for with in
        ["ip.src", "port.dst", "vlan", "mac.src", "tcp.state", "dns.host", "http.uri", "ttl.src", "tags"]
    {
        assert!(names.contains(&with), "{with}");
    }
    assert!(faceted().all(|field| field.kind != FieldKind::Time));
    for without in facets::NOT_FACETED {
        assert!(gnomon_flow::field::by_name(without).is_some(), "{without} is no field any more");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_answer_comes_at_once_and_the_last_is_exact() {
    let mut fixture = fixture(QueryLimits::default());
    for seq in 0..20 {
        fixture.add(epoch(1), seq + 1, (0..50).map(|n| record(seq * 50 + n, 0, S, S)).collect());
        seal(&mut fixture.writer);
    }
    let facets = Facets { refine: true, ..asked(&["port.dst"], "port.dst == 53") };
    let mut answers = fixture.queries.facets(facets).await.expect("facets");
    let first = answers.recv().await.expect("an answer").expect("first");
    // Where this thread had to wait, the others may have read everything meanwhile.
    assert!(!first.last && first.records == 1000 && (50..=1000).contains(&first.flows), "{first:?}");
    let mut answer = first.clone();
    while let Some(next) = answers.recv().await {
        answer = next.expect("answer");
    }
    assert!(answer.last && answer.records_read == 1000 && answer.flows == 1000);
    assert_eq!(answer.fields[0].values, [FacetValue { value: "53".into(), flows: 1000 }]);

    for (wrong, problem) in [
        (asked(&["nonsense"], ""), "fields: unknown field `nonsense`"),
        (Facets { limit: 1001, ..asked(&[], "") }, "limit: 1001 is more than 1000"),
        (asked(&[], "port =="), "column"),
    ] {
        let error = fixture.queries.facets(wrong).await.expect_err("refused").to_string();
        assert!(error.starts_with(problem), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_would_be_too_large_is_cut_and_says_so() {
    let mut fixture = fixture(QueryLimits::default());
    let long = |id: u64| {
        let mut record = record(id, 0, S, S);
        for of in 0..20 {
            record.attributes.text(gnomon_flow::field::HTTP_URI, &format!("{id}-{of}-{}", "x".repeat(900)));
        }
        record
    };
    for seq in 1..=10 {
        fixture.add(epoch(1), seq, (seq * 30..seq * 30 + 30).map(long).collect());
    }
    let fields = asked(&["http.uri", "http.uri", "http.uri", "http.uri", "port.dst"], "");
    let answer = last(&fixture.queries, Facets { limit: 1000, ..fields }).await;
    assert!(answer.partial.as_deref().is_some_and(|reason| reason.contains("3 MiB")), "{:?}", answer.partial);
    assert_eq!((answer.fields[0].values.len(), answer.fields[4].values.len()), (1000, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn work_ends_when_nobody_waits_for_it() {
    let fixture = fixture(QueryLimits { queries_max: 1, queue_ms: 10_000, ..QueryLimits::default() });
    let ended = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&ended);
    let answers = fixture.queries.stream(Operation::Facets, move |control, _| {
        while control.check().is_ok() {
            std::thread::yield_now();
        }
        told.store(true, Ordering::SeqCst);
        Err::<(), _>(QueryError::Cancelled)
    });
    drop(answers.await.expect("a stream"));
    // There is one place: it is free again when the work has ended.
    assert!(fixture.queries.count("", TimeRange::default(), &[]).await.is_ok());
    assert!(ended.load(Ordering::SeqCst));
}

/// A store of blocks with few different ports and many different sources.
async fn rolled() -> (testing::Fixture, Roller) {
    let mut fixture = fixture(QueryLimits::default());
    for block in 0..4u64 {
        for chunk in 0..3 {
            let of = |n: u64| {
                let mut flow = record(block * 10_000 + chunk * 1000 + n, 0, (1 + block) * S, (1 + block) * S);
                // One in two from 10.0.0.0, the others from ever others.
                let source = if n.is_multiple_of(2) { 0 } else { block * 3000 + chunk * 1000 + n };
                flow.key.addresses = gnomon_flow::Addresses::V4 {
                    orig: [10, (source >> 16) as u8, (source >> 8) as u8, source as u8],
                    resp: [10, 9, 9, (n % 3) as u8],
                };
                flow.key.resp_port = [53, 443, 22][(n % 3) as usize];
                // The very first is still open.
                flow.end = flow.end.filter(|_| flow.id.0 > 0);
                flow
            };
            fixture.add(epoch(1), 1 + block * 3 + chunk, (0..1000).map(of).collect());
        }
        seal(&mut fixture.writer);
    }
    let roller = Roller::new(fixture.store.clone());
    (fixture, roller)
}

const ROLLED: [&str; 6] = ["ip.src", "ip.dst", "port.dst", "node", "direction.guessed", "tls.host"];

#[tokio::test(flavor = "multi_thread")]
async fn rollups_say_how_much_they_miss_and_never_miss_more() {
    let (mut fixture, mut roller) = rolled().await;
    let ask = |exact| Facets { exact, limit: 5, ..asked(&ROLLED, "") };
    // Older stores have none: then it is exact.
    let exact = last(&fixture.queries, ask(false)).await;
    assert!(exact.fields.iter().all(|field| field.missed_max == 0));
    assert_eq!(roller.round().expect("round"), 4);
    assert_eq!(roller.round().expect("round"), 0, "once each");
    assert_eq!(last(&fixture.queries, ask(true)).await, exact);
    let from_rollups = last(&fixture.queries, ask(false)).await;
    assert_eq!(from_rollups.flows, 12_000);
    for (found, exact) in from_rollups.fields.iter().zip(&exact.fields) {
        assert_eq!((found.name, found.flows), (exact.name, exact.flows));
        if exact.different < 100 {
            assert_eq!(found, exact, "few values are all kept");
        }
    }
    let sources = &from_rollups.fields[0];
    assert_eq!(sources.missed_max, 4, "one in each block was the most that was left out");
    assert_eq!(sources.values[0], exact.fields[0].values[0]);
    assert!(sources.different < exact.fields[0].different);
    // What is filtered is read.
    let filtered = last(&fixture.queries, Facets { limit: 5, ..asked(&["ip.src"], "packets > 0") }).await;
    assert_eq!(filtered.fields[0], exact.fields[0]);

    // A range has the rollups of the blocks in it.
    let oldest = fixture.store.status().expect("status").oldest_flow.expect("flows");
    let range = TimeRange { until: Some(oldest.saturating_add_ns(500_000_000)), ..TimeRange::default() };
    let first = last(&fixture.queries, Facets { range, ..ask(false) }).await;
    assert_eq!((first.flows, first.fields[0].missed_max), (3000, 1));
    // A block that a record has left is read.
    let mut again = record(0, 1, S, S);
    again.key.resp_port = 9;
    fixture.add(epoch(1), 99, vec![again]);
    let changed = last(&fixture.queries, ask(false)).await;
    assert_eq!((changed.flows, changed.fields[0].missed_max), (12_000, 3));
    let ports = &changed.fields[2].values;
    assert_eq!(ports[0], FacetValue { value: "53".into(), flows: 4007 });
    assert_eq!(ports.last(), Some(&FacetValue { value: "9".into(), flows: 1 }));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollup_goes_with_its_block() {
    let (mut fixture, mut roller) = rolled().await;
    roller.round().expect("round");
    let store = fixture.store.clone();
    let ids: Vec<u64> = store.blocks().iter().map(|block| block.id).collect();
    let has = |id: &u64| store.has_rollup(*id).expect("get");
    assert!(ids.len() == 4 && ids.iter().all(has));
    let mut anew = Roller::new(store.clone());
    assert_eq!(anew.round().expect("round"), 0, "what is there is not made again");
    fixture.writer.drop_blocks(&ids[..2]).expect("drop");
    assert_eq!(ids.iter().map(has).collect::<Vec<_>>(), [false, false, true, true]);
    // One that was being made when its block went is not kept.
    let nothing = crate::store::rollup::Rollup::default();
    store.put_rollup(ids[0], &nothing).expect("put");
    assert!(!has(&ids[0]));
    // One that is of no use is passed by.
    store.put_rollup(ids[2], &nothing).expect("put");
    let answer = last(&fixture.queries, asked(&ROLLED, "")).await;
    assert_eq!((answer.flows, answer.fields[0].missed_max, answer.partial), (6000, 1, None));
}
