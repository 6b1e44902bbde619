//! Alerts meet records whatever comes first, wherever the record is, and whatever happens in between.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use gnomon_clock::sim::SimRandom;
use gnomon_flow::{AttributeValue, FlowEndReason, FlowRecord, StoredFlow, TimeState, field};

use super::alerts::{ALERTS_MAX, REMEMBER_NS};
use super::testing::{
    FakeClock, S, alert, alerts, begin_blocks, epoch, fix, fixes, flows, open, record, seal, settle,
};
use super::{Span, Store, Writer};

/// The numbers of alerts that each record has, by flow and segment.
fn joined(store: &Store) -> BTreeMap<(u64, u32), Vec<u64>> {
    let records: Vec<StoredFlow> = store.scan(Span::ALL, false, None).map(|item| item.unwrap().1).collect();
    let of = |flow: &StoredFlow| {
        let ids = flow.record.attributes.of(field::ALERT_SIGNATURE_ID);
        let mut ids: Vec<u64> = ids
            .map(|value| match value {
                AttributeValue::Integer(id) => id - 9_000_000,
                other => panic!("{other:?}"),
            })
            .collect();
        ids.sort_unstable();
        ids
    };
    records.iter().map(|flow| ((flow.record.id.0, flow.record.segment), of(flow))).collect()
}

fn counted(store: &Store, what: &str) -> u64 {
    store.alert_counts().named().into_iter().find(|(name, _)| *name == what).unwrap().1
}

fn opened(dir: &Path) -> (Arc<FakeClock>, Store, Writer) {
    let clock = FakeClock::new();
    let (store, mut writer) = open(dir, &clock);
    writer.commit(&[fixes(epoch(1), vec![fix(0, 2000), fix(1500, 2000)])]).unwrap();
    (clock, store, writer)
}

fn open_record(id: u64, revision: u32, from_s: u64, to_s: u64) -> FlowRecord {
    FlowRecord { end: None, ..record(id, revision, from_s * S, to_s * S) }
}

#[test]
fn an_alert_meets_its_record_before_it_after_it_and_in_a_block() {
    for order in ["alert first", "record first", "in a block", "one group"] {
        let dir = tempfile::tempdir().unwrap();
        let (clock, store, mut writer) = opened(dir.path());
        let (flow, said) = (|seq| flows(epoch(1), seq, vec![record(5, 0, 100 * S, 110 * S)]), alert(1, 105));
        match order {
            "alert first" => {
                writer.commit(&[alerts(epoch(1), 1, vec![said.clone()])]).unwrap();
                settle(&mut writer);
                assert_eq!((store.alert_counts().waiting(), counted(&store, "joined")), (1, 0));
                writer.commit(&[flow(2)]).unwrap();
            }
            "one group" => {
                writer.commit(&[flow(1), alerts(epoch(1), 2, vec![said.clone()])]).unwrap();
            }
            _ => {
                writer.commit(&[flow(1)]).unwrap();
                if order == "in a block" {
                    seal(&mut writer);
                    assert_eq!(store.view().blocks.len(), 1);
                }
                writer.commit(&[alerts(epoch(1), 2, vec![said.clone()])]).unwrap();
            }
        }
        settle(&mut writer);
        assert_eq!(joined(&store), [((5, 0), vec![1])].into(), "{order}");
        let status = store.status().unwrap();
        assert_eq!((status.flows, store.alert_counts().waiting()), (1, 0), "{order}: it is there once");
        let flow = store.scan(Span::ALL, false, None).next().unwrap().unwrap().1;
        let tags: Vec<_> = flow.record.attributes.of(field::TAGS).collect();
        assert_eq!(tags, [&AttributeValue::Text("suricata:9000001".into())]);
        // Sent again, and again after a crash: nothing is doubled, nothing is lost.
        writer.commit(&[alerts(epoch(1), 3, vec![said.clone()])]).unwrap();
        settle(&mut writer);
        assert_eq!((counted(&store, "taken"), counted(&store, "repeated")), (1, 1));
        drop((store, writer));
        let (store, mut writer) = open(dir.path(), &clock);
        assert_eq!(joined(&store), [((5, 0), vec![1])].into(), "{order}");
        settle(&mut writer);
        seal(&mut writer);
        assert_eq!(joined(&store), [((5, 0), vec![1])].into(), "{order}");
        assert_eq!(store.status().unwrap().flows, 1);
    }
}

#[test]
fn what_was_joined_outlives_the_alert_and_every_revision() {
    let dir = tempfile::tempdir().unwrap();
    let (clock, store, mut writer) = opened(dir.path());
    let e = epoch(1);
    writer.commit(&[flows(e, 1, vec![open_record(5, 1, 100, 110), open_record(6, 1, 300, 310)])]).unwrap();
    writer.commit(&[alerts(e, 2, vec![alert(1, 105)])]).unwrap();
    settle(&mut writer);
    // Forgotten; the record is in memory, then in a block, and still open.
    clock.advance(REMEMBER_NS);
    settle(&mut writer);
    assert_eq!((counted(&store, "joined"), counted(&store, "given_up")), (1, 0));
    assert!(writer.alerts.is_empty());
    writer.commit(&[flows(e, 3, vec![open_record(5, 2, 100, 120)])]).unwrap();
    assert_eq!(joined(&store), [((5, 0), vec![1]), ((6, 0), vec![])].into());
    seal(&mut writer);
    drop((store, writer));
    let (store, mut writer) = open(dir.path(), &clock);
    assert_eq!(store.view().hot().count(), 0);
    writer.commit(&[flows(e, 4, vec![record(5, 3, 100 * S, 500 * S)])]).unwrap();
    assert_eq!(joined(&store), [((5, 0), vec![1]), ((6, 0), vec![])].into());
    // The batch that it came in knows nothing of alerts.
    drop((store, writer));
    let (store, _writer) = open(dir.path(), &clock);
    assert_eq!(joined(&store), [((5, 0), vec![1]), ((6, 0), vec![])].into());
}

#[test]
fn an_alert_is_for_records_of_its_community_id_that_are_near_in_time() {
    let dir = tempfile::tempdir().unwrap();
    let (_clock, store, mut writer) = opened(dir.path());
    let e = epoch(1);
    let mut other = record(9, 0, 100 * S, 110 * S);
    other.key.orig_port += 1;
    let early = record(6, 0, 10 * S, 20 * S);
    let late = record(7, 0, 200 * S, 210 * S);
    let mut first = record(8, 0, 90 * S, 100 * S);
    first.end = Some(FlowEndReason::Active);
    let mut second = record(8, 0, 101 * S, 110 * S);
    second.segment = 1;
    writer.commit(&[flows(e, 1, vec![other, early, late, first, second])]).unwrap();
    writer.commit(&[alerts(e, 2, vec![alert(1, 105)])]).unwrap();
    settle(&mut writer);
    let expected =
        [((6, 0), vec![]), ((7, 0), vec![]), ((8, 0), vec![]), ((8, 1), vec![1]), ((9, 0), vec![])];
    assert_eq!(joined(&store), expected.into());
    // Of another seed, or of nobody: the pair alone does not do.
    let mut stranger = alert(2, 105);
    stranger.community_id = "1:x".to_owned();
    writer.commit(&[alerts(e, 3, vec![stranger])]).unwrap();
    settle(&mut writer);
    assert_eq!(joined(&store)[&(8, 1)], [1]);
    assert_eq!(store.alert_counts().waiting(), 1);
}

#[test]
fn records_of_other_agents_are_met_by_their_times_as_soon_as_these_are_known() {
    let dir = tempfile::tempdir().unwrap();
    let (_clock, store, mut writer) = opened(dir.path());
    // The other agent's clock runs 1000 s behind: its RAW 1100 s is the first one's 100 s.
    let (e, other) = (epoch(1), epoch(2));
    writer.commit(&[fixes(other, vec![fix(0, 3000), fix(1500, 3000)])]).unwrap();
    writer.commit(&[flows(other, 1, vec![record(5, 0, 1100 * S, 1110 * S)])]).unwrap();
    writer.commit(&[flows(other, 2, vec![record(6, 0, 100 * S, 110 * S)])]).unwrap();
    writer.commit(&[alerts(e, 1, vec![alert(1, 105)])]).unwrap();
    settle(&mut writer);
    assert_eq!(joined(&store), [((5, 0), vec![1]), ((6, 0), vec![])].into());
    // An alert of an agent whose time nobody knows yet.
    let third = epoch(3);
    writer.commit(&[alerts(third, 1, vec![alert(2, 105)])]).unwrap();
    settle(&mut writer);
    seal(&mut writer);
    assert_eq!(joined(&store)[&(6, 0)], [0u64; 0]);
    writer.commit(&[fixes(third, vec![fix(0, 3000), fix(1500, 3000)])]).unwrap();
    settle(&mut writer);
    assert_eq!(joined(&store)[&(6, 0)], [2]);
}

#[test]
fn what_meets_nobody_is_given_up_and_counted() {
    let dir = tempfile::tempdir().unwrap();
    let (clock, store, mut writer) = opened(dir.path());
    writer.commit(&[alerts(epoch(1), 1, vec![alert(1, 105), alert(2, 105)])]).unwrap();
    settle(&mut writer);
    clock.advance(REMEMBER_NS - 1);
    settle(&mut writer);
    assert_eq!((store.alert_counts().waiting(), counted(&store, "given_up")), (2, 0));
    clock.advance(1);
    settle(&mut writer);
    assert_eq!((store.alert_counts().waiting(), counted(&store, "given_up")), (0, 2));
    drop((store, writer));
    let (store, mut writer) = open(dir.path(), &clock);
    assert_eq!(store.alert_counts().waiting(), 0);
    // One more than there is room for, besides one that has a record.
    writer.commit(&[flows(epoch(1), 2, vec![record(5, 0, 100 * S, 110 * S)])]).unwrap();
    let many = (0..ALERTS_MAX as u64 + 1).map(|n| alert(n, if n == 0 { 105 } else { 900 })).collect();
    writer.commit(&[alerts(epoch(1), 3, many)]).unwrap();
    settle(&mut writer);
    assert_eq!((counted(&store, "joined"), counted(&store, "crowded_out")), (1, 0));
    writer.commit(&[alerts(epoch(1), 4, vec![alert(ALERTS_MAX as u64 + 1, 900)])]).unwrap();
    settle(&mut writer);
    assert_eq!(counted(&store, "crowded_out"), 1);
    assert_eq!(store.alert_counts().waiting(), ALERTS_MAX as u64);
}

/// Records and alerts in any order, with blocks made and crashes in between.
#[test]
fn whatever_happens_every_record_has_its_alerts_once() {
    for seed in 0..12 {
        let mut random = SimRandom::new(seed);
        let mut pick = |to: i64| u64::try_from(random.range(0, to - 1)).unwrap_or(0);
        let dir = tempfile::tempdir().unwrap();
        let (clock, mut store, mut writer) = opened(dir.path());
        let (mut seq, mut revisions) = (0, BTreeMap::<u64, u32>::new());
        let mut said: Vec<(u64, u64)> = Vec::new();
        for _ in 0..60 {
            seq += 1;
            match pick(10) {
                0..4 => {
                    let id = pick(6);
                    let revision = revisions.entry(id).or_default();
                    *revision += 1;
                    // Flow `id` begins at second 200 × id and grows.
                    let (from, to) = (200 * id, 200 * id + u64::from(*revision));
                    writer
                        .commit(&[flows(epoch(1), seq, vec![open_record(id, *revision, from, to)])])
                        .unwrap();
                }
                4..7 => {
                    let (n, at) = (pick(12), 200 * pick(6) + pick(150));
                    said.push((n + 12 * at, at));
                    let copies = vec![alert(n + 12 * at, at); 1 + pick(2) as usize];
                    writer.commit(&[alerts(epoch(1), seq, copies)]).unwrap();
                }
                7 => match pick(3) {
                    0 => seal(&mut writer),
                    1 => begin_blocks(&mut writer, |flow| flow.time_state == TimeState::Indexed),
                    _ => drop(writer.finish_blocks().unwrap()),
                },
                8 => {
                    drop((store, writer));
                    (store, writer) = open(dir.path(), &clock);
                }
                _ => settle(&mut writer),
            }
        }
        settle(&mut writer);
        let found = joined(&store);
        assert_eq!(found.len(), revisions.len(), "seed {seed}");
        for ((id, _), alerts) in found {
            let (from, to) = (200 * id, 200 * id + u64::from(revisions[&id]));
            let near = |at: u64| at + 1 >= from && at <= to + 60;
            let mut expected: Vec<u64> = said.iter().filter(|(_, at)| near(*at)).map(|(n, _)| *n).collect();
            expected.sort_unstable();
            expected.dedup();
            assert_eq!(alerts, expected, "seed {seed}, flow {id}");
        }
    }
}

/// Many alerts on one pair, and many records of it: they are brought together in short runs, and what others commit meanwhile
/// waits for one of those at most.
#[test]
fn a_flood_of_alerts_on_one_pair_is_joined_in_short_runs() {
    const RECORDS: u64 = 5_000;
    let dir = tempfile::tempdir().unwrap();
    let (clock, store, mut writer) = opened(dir.path());
    let near = (0..3_000).map(|n| alert(n, 105)).collect();
    writer.commit(&[alerts(epoch(1), 1, near)]).unwrap();
    settle(&mut writer);
    let records = (0..RECORDS).map(|id| record(id, 0, 100 * S, 110 * S)).collect();
    writer.commit(&[flows(epoch(1), 2, records)]).unwrap();
    let with_alerts = |store: &Store| joined(store).values().filter(|of| !of.is_empty()).count() as u64;
    assert_eq!(with_alerts(&store), 0, "nothing of it is done while a group is committed");
    let mut runs = 0;
    let mut before = 0;
    while writer.settle().unwrap() {
        runs += 1;
        if runs % 2 == 0 {
            let now = with_alerts(&store);
            assert!(now - before <= 2_048, "{now} after {before}");
            before = now;
        }
        if runs == 3 {
            // Somebody else, and a block in between.
            writer.commit(&[flows(epoch(2), 1, vec![record(1, 0, 100 * S, 110 * S)])]).unwrap();
            seal(&mut writer);
        }
    }
    settle(&mut writer);
    assert!(runs >= 5, "{runs}");
    let all = joined(&store);
    assert_eq!(all.len() as u64, RECORDS);
    assert!(all.iter().all(|(_, of)| of.len() == 32), "each tells of as many as fit");
    drop((store, writer));
    let (store, mut writer) = open(dir.path(), &clock);
    settle(&mut writer);
    assert_eq!(with_alerts(&store), RECORDS);
}

/// What alerts cost ingest: run with `--release -- --ignored --nocapture alerts_cost`.
#[test]
#[ignore = "a measurement"]
fn alerts_cost() {
    const ROWS: u64 = 200_000;
    let clock = gnomon_clock::KernelClock;
    let timed = |what: &str, work: &mut dyn FnMut()| {
        let begun = gnomon_clock::Clock::raw(&clock);
        work();
        let took = gnomon_clock::Clock::raw(&clock).since(begun);
        println!("{what}: {:.3} ms", took as f64 / 1e6);
    };
    let of = |id: u64| {
        let mut of = open_record(id, 1, 100, 110);
        of.key.orig_port = id as u16;
        of.key.resp_port = (id >> 16) as u16;
        of
    };
    let of_flow = |n: u64| {
        let key = of(n).key;
        gnomon_flow::Alert {
            pair: gnomon_flow::Pair::of(&key).unwrap(),
            community_id: gnomon_flow::community::community_id(&key, None).unwrap(),
            ..alert(n, 105)
        }
    };
    let place = |writer: &mut Writer, seq: u64, from: u64| {
        let batches = (0..20)
            .map(|n| flows(epoch(1), seq + n, (from + n * 1000..from + (n + 1) * 1000).map(of).collect()));
        let batches: Vec<_> = batches.collect();
        timed("20,000 records placed", &mut || assert_eq!(writer.commit(&batches).unwrap().len(), 20));
    };
    let dir = tempfile::tempdir().unwrap();
    let (_clock, store, mut writer) = opened(dir.path());
    for n in 0..ROWS / 20_000 {
        place(&mut writer, n * 20 + 1, n * 20_000);
    }
    println!("{} records in no block", store.view().hot().count());
    let first = [alerts(epoch(1), 999, vec![of_flow(76)])];
    timed("the first alert taken", &mut || assert_eq!(writer.commit(&first).unwrap().len(), 1));
    timed("the first alert joined", &mut || assert!(writer.join_arrived().unwrap()));
    writer.commit(&[alerts(epoch(1), 1000, vec![of_flow(77)])]).unwrap();
    timed("one alert joined", &mut || assert!(writer.join_arrived().unwrap()));
    let many = (1000..11_000).map(of_flow).collect();
    writer.commit(&[alerts(epoch(1), 1001, many)]).unwrap();
    timed("10,000 alerts joined with as many records", &mut || assert!(writer.join_arrived().unwrap()));
    println!("with 10,001 alerts remembered:");
    place(&mut writer, 1002, 300_000);
    seal(&mut writer);
    writer.commit(&[alerts(epoch(1), 1100, vec![of_flow(150_000)])]).unwrap();
    timed("one alert, no record outside of blocks", &mut || assert!(writer.join_arrived().unwrap()));
    println!("{} of {} blocks to look through", writer.searches.len(), store.view().blocks.len());
    timed("one block looked through", &mut || assert!(writer.search_block().unwrap()));
}
