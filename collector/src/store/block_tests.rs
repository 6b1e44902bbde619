//! Records in blocks: replaced, corrected, held, damaged, given up.

use std::sync::Arc;

use gnomon_clock::UtcNs;
use gnomon_flow::{EpochHash, FlowId, FlowRef, StoredFlow, TimeState};

use super::keys::{self, Family};
use super::live::{Sealed, Times};
use super::rocks::Batch;
use super::testing::{FakeClock, NOW, S, epoch, fix, fixes, flows, open, record, settle};
use super::{Span, Store, StoreError, Writer};

const BY_INGEST: Span = Span { by_ingest: true, ..Span::ALL };

fn all(store: &Store, span: Span) -> Vec<StoredFlow> {
    store.scan(span, true, None).map(|found| found.unwrap().1).collect()
}

fn seal(writer: &mut Writer, wanted: fn(&StoredFlow) -> bool) {
    let rows = writer.select(wanted);
    assert!(!rows.is_empty());
    writer.checkpoint(rows, &[]).unwrap();
}

fn open_record(id: u64, revision: u32, last: u64) -> gnomon_flow::FlowRecord {
    gnomon_flow::FlowRecord { end: None, ..record(id, revision, 10 * S, last) }
}

#[test]
fn an_open_record_in_a_block_gives_way_to_its_later_revision() {
    let dir = tempfile::tempdir().unwrap();
    let clock = FakeClock::new();
    let (store, mut writer) = open(dir.path(), &clock);
    let e = epoch(1);
    let records = vec![open_record(1, 0, 11 * S), open_record(2, 0, 11 * S), record(3, 0, 10 * S, 11 * S)];
    writer.commit(&[fixes(e, vec![fix(100, 200)]), flows(e, 1, records)]).unwrap();
    seal(&mut writer, |_| true);
    let came = all(&store, Span::ALL)[0].ingested;
    clock.advance(3 * S);
    // Of 1 the next, of 2 the same again.
    writer.commit(&[flows(e, 2, vec![record(1, 1, 10 * S, 20 * S), open_record(2, 0, 11 * S)])]).unwrap();
    let check = |store: &Store, ingested: bool| {
        let mut found = all(store, Span::ALL);
        found.sort_by_key(|flow| flow.record.id);
        let seen: Vec<_> = found.iter().map(|flow| (flow.record.id.0, flow.record.revision)).collect();
        assert_eq!(seen, [(1, 1), (2, 0), (3, 0)]);
        if ingested {
            assert_eq!(found[0].ingested, came, "it came in when its first revision did");
        }
        assert_eq!(store.status().unwrap().flows, 3);
        let id = FlowRef { epoch: EpochHash::of(&e), flow: FlowId(1), segment: 0 };
        assert_eq!(store.get(id).unwrap().map(|flow| flow.record.revision), Some(1));
    };
    check(&store, true);
    drop((store, writer));
    let (store, mut writer) = open(dir.path(), &clock);
    check(&store, false);
    // And into a block again, twice.
    seal(&mut writer, |_| true);
    writer.commit(&[flows(e, 3, vec![record(2, 1, 10 * S, 30 * S)])]).unwrap();
    drop((store, writer));
    let (store, _writer) = open(dir.path(), &clock);
    let revisions: u32 = all(&store, Span::ALL).iter().map(|flow| flow.record.revision).sum();
    assert_eq!((revisions, store.status().unwrap().flows), (2, 3));
}

#[test]
fn records_that_wait_in_blocks_are_let_in_whole_or_one_by_one() {
    for ahead in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let clock = FakeClock::new();
        let (store, mut writer) = open(dir.path(), &clock);
        let e = epoch(1);
        let mut records: Vec<_> = (0..50).map(|n| record(n, 0, (n + 1) * S, (n + 2) * S)).collect();
        if ahead {
            records.push(record(99, 0, 500 * S, 501 * S));
        }
        let count = records.len();
        writer.commit(&[flows(e, 1, records)]).unwrap();
        seal(&mut writer, |_| true);
        assert_eq!((all(&store, Span::ALL).len(), all(&store, BY_INGEST).len()), (0, count));
        assert_eq!(store.status().unwrap().flows_pending as usize, count);
        assert_eq!(store.held(1000).unwrap().counts.values().sum::<u64>() as usize, count);
        writer.commit(&[fixes(e, vec![fix(100, 200)])]).unwrap();
        settle(&mut writer);
        let check = |store: &Store| {
            assert_eq!(all(store, Span::ALL).len(), 50);
            let found = all(store, BY_INGEST);
            assert_eq!(found.len(), count);
            let waiting: Vec<_> = found.iter().filter(|f| f.time_state != TimeState::Indexed).collect();
            assert_eq!(waiting.len(), usize::from(ahead));
            let status = store.status().unwrap();
            assert_eq!(
                (status.flows, status.flows_pending + status.flows_quarantined),
                (50, u64::from(ahead))
            );
        };
        check(&store);
        drop((store, writer));
        let (store, mut writer) = open(dir.path(), &clock);
        settle(&mut writer);
        check(&store);
    }
}

#[test]
fn a_damaged_block_is_named_counted_and_the_others_are_served() {
    let dir = tempfile::tempdir().unwrap();
    let clock = FakeClock::new();
    let (store, mut writer) = open(dir.path(), &clock);
    let e = epoch(1);
    writer.commit(&[fixes(e, vec![fix(100, 200)])]).unwrap();
    for n in 0..3 {
        let records = (0..10).map(|id| record(n * 10 + id, 0, (10 + n) * S, (11 + n) * S)).collect();
        writer.commit(&[flows(e, n + 1, records)]).unwrap();
        seal(&mut writer, |_| true);
    }
    let ids: Vec<u64> = store.view().blocks.iter().map(|block| block.id).collect();
    let mut batch = Batch::default();
    let column = super::block::columns::FIRST.0;
    batch.put(Family::Columns, keys::column(ids[1], column), b"rot".to_vec());
    store.shared.rocks.write(&batch, true).unwrap();
    let mut found = all(&store, Span::ALL);
    assert_eq!(found.len(), 20);
    assert!(store.status().unwrap().damaged_blocks > 0);
    let id = FlowRef { epoch: EpochHash::of(&e), flow: FlowId(15), segment: 0 };
    assert!(matches!(store.get(id), Err(StoreError::Block { id, .. }) if id == ids[1]));

    // A summary that cannot be read hides its block only.
    let mut batch = Batch::default();
    batch.put(Family::Blocks, keys::block(ids[0]), b"\xff\xff\xff".to_vec());
    store.shared.rocks.write(&batch, true).unwrap();
    drop((store, writer));
    let (store, mut writer) = open(dir.path(), &clock);
    found.retain(|flow| flow.record.id.0 >= 20);
    let mut left = all(&store, Span::ALL);
    left.sort_by_key(|flow| flow.record.id);
    found.sort_by_key(|flow| flow.record.id);
    assert_eq!(left, found);
    // Numbers go on behind those of the damaged ones.
    writer.commit(&[flows(e, 9, vec![record(77, 0, 10 * S, 11 * S)])]).unwrap();
    seal(&mut writer, |_| true);
    assert!(store.view().blocks.last().unwrap().id > ids[2]);
}

#[test]
fn a_block_whose_time_turns_out_to_be_in_the_future_leaves_the_index() {
    let dir = tempfile::tempdir().unwrap();
    let clock = FakeClock::new();
    let (store, mut writer) = open(dir.path(), &clock);
    let e = epoch(1);
    let wrong = gnomon_clock::Fix { source: gnomon_clock::FixSource::Kernel, ..fix(100, 4000) };
    let records = (0..40).map(|n| record(n, 0, (100 + 100 * n) * S, (101 + 100 * n) * S)).collect();
    writer.commit(&[fixes(e, vec![wrong]), flows(e, 1, records)]).unwrap();
    seal(&mut writer, |flow| flow.time_state == TimeState::Indexed);
    let before = all(&store, Span::ALL).len();
    assert!(before > 10, "{before}");
    // RAW 100 s was 100 s ago, not 3900: all but the first lie ahead.
    writer.commit(&[fixes(e, vec![fix(101, 200)])]).unwrap();
    settle(&mut writer);
    let check = |store: &Store| {
        let now = UtcNs::from_tai_ns(NOW + S.cast_signed());
        let found = all(store, Span::ALL);
        assert!(found.iter().all(|flow| flow.last.unwrap().utc <= now), "{found:?}");
        assert_eq!((found.len(), all(store, BY_INGEST).len()), (1, 40));
        let status = store.status().unwrap();
        assert_eq!(status.flows + status.flows_pending + status.flows_quarantined, 40);
    };
    check(&store);
    drop((store, writer));
    let (store, mut writer) = open(dir.path(), &clock);
    settle(&mut writer);
    check(&store);
}

#[test]
fn a_block_that_drifted_a_little_is_still_found_where_its_records_are() {
    let dir = tempfile::tempdir().unwrap();
    let (store, mut writer) = open(dir.path(), &FakeClock::new());
    let e = epoch(1);
    writer.commit(&[fixes(e, vec![fix(100, 200)]), flows(e, 1, vec![record(1, 0, 10 * S, 11 * S)])]).unwrap();
    seal(&mut writer, |_| true);
    let first = all(&store, Span::ALL)[0].first.unwrap().utc;
    for by_ms in [-400, 400] {
        let block = Sealed::clone(&store.view().blocks[0]);
        let true_times = block.times.unwrap();
        let shift = |at: UtcNs| at.saturating_add_ns(by_ms * 1_000_000);
        let stale = Times {
            first_min: shift(true_times.first_min),
            first_max: shift(true_times.first_max),
            last_max: shift(true_times.last_max),
        };
        let put = |times| {
            let mut live = store.shared.live.write().unwrap();
            live.change_blocks(vec![Arc::new(Sealed { times: Some(times), ..block.clone() })], &[]);
        };
        put(stale);
        let around = |from_ms: i64, to_ms: i64| Span {
            since: first.saturating_add_ns(from_ms * 1_000_000),
            until: first.saturating_add_ns(to_ms * 1_000_000),
            by_ingest: false,
        };
        assert_eq!(all(&store, around(-1, 1)).len(), 1, "{by_ms}");
        assert_eq!(all(&store, around(999, 2000)).len(), 1, "its last packet, {by_ms}");
        assert_eq!(all(&store, around(1001, 2000)).len() + all(&store, around(-2000, 0)).len(), 0, "{by_ms}");
        put(true_times);
    }
}

#[test]
fn a_damaged_block_holds_up_no_other_when_evidence_comes() {
    let dir = tempfile::tempdir().unwrap();
    let (store, mut writer) = open(dir.path(), &FakeClock::new());
    let e = epoch(1);
    for n in 0..2 {
        let records = (0..10).map(|id| record(n * 10 + id, 0, (10 + n) * S, (11 + n) * S)).collect();
        writer.commit(&[flows(e, n + 1, records)]).unwrap();
        seal(&mut writer, |_| true);
    }
    let first = store.view().blocks[0].id;
    let mut batch = Batch::default();
    batch.put(Family::Columns, keys::column(first, super::block::columns::FIRST.0), b"rot".to_vec());
    store.shared.rocks.write(&batch, true).unwrap();
    writer.commit(&[fixes(e, vec![fix(100, 200)])]).unwrap();
    settle(&mut writer);
    assert_eq!(all(&store, Span::ALL).len(), 10);
    let status = store.status().unwrap();
    assert_eq!((status.flows, status.flows_pending), (10, 10));
    assert!(status.damaged_blocks > 0);
}

#[test]
fn a_record_that_no_block_can_hold_is_set_aside_and_all_others_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let clock = FakeClock::new();
    let (store, mut writer) = open(dir.path(), &clock);
    // A metadata value with the number of a column that every record has: a version before took it in.
    let impossible = |id: u64| {
        let mut record = record(id, 0, 10 * S, 11 * S);
        record.attributes.integer(gnomon_flow::FieldId(20), 7u64);
        record
    };
    let good = |id: u64| record(id, 0, 10 * S, 11 * S);
    let records: Vec<_> = (0..500).map(|id| if id % 100 == 7 { impossible(id) } else { good(id) }).collect();
    writer.commit(&[fixes(epoch(1), vec![fix(100, 200)]), flows(epoch(1), 1, records)]).unwrap();
    writer.commit(&[fixes(epoch(2), vec![fix(100, 200)]), flows(epoch(2), 1, vec![good(1)])]).unwrap();
    seal(&mut writer, |_| true);
    let check = |store: &Store| {
        let found: Vec<u64> = all(store, Span::ALL).iter().map(|flow| flow.record.id.0).collect();
        assert_eq!(found.len(), 496);
        assert!(found.iter().all(|id| id % 100 != 7));
    };
    check(&store);
    assert_eq!(store.status().unwrap().records_set_aside, 5);
    let kept = std::fs::read_dir(dir.path().join("quarantine")).unwrap();
    assert_eq!(kept.filter(|file| file.as_ref().unwrap().path().extension().unwrap() == "record").count(), 5);
    drop((store, writer));
    let (store, writer) = open(dir.path(), &clock);
    check(&store);
    drop((store, writer));
    assert_eq!(super::verify(dir.path(), &mut |_| {}).unwrap().damaged, 0);
}

#[test]
fn a_store_that_took_the_impossible_in_opens_and_serves_the_rest() {
    let dir = tempfile::tempdir().unwrap();
    let clock = FakeClock::new();
    let (store, mut writer) = open(dir.path(), &clock);
    let mut impossible = record(2, 0, 10 * S, 11 * S);
    impossible.attributes.integer(gnomon_flow::FieldId(20), 7u64);
    let mut huge = record(3, 0, 10 * S, 11 * S);
    huge.orig.bytes = u64::MAX;
    let mut batches = vec![fixes(epoch(1), vec![fix(100, 200)])];
    batches.push(flows(epoch(1), 1, vec![record(1, 0, 10 * S, 11 * S), impossible, huge]));
    // A name of any length.
    let records = vec![record(4, 0, 10 * S, 11 * S)];
    let name = "x".repeat(20 << 20);
    let payload = super::RecordBatch::payload(&name, &records);
    let content = super::Content::Flows { interface: name.into(), records, alerts: Vec::new(), payload };
    batches.push(super::testing::change(epoch(1), super::Body::Entry { seq: 2, content }));
    writer.commit(&batches).unwrap();
    drop((store, writer));
    let (store, mut writer) = open(dir.path(), &clock);
    let found = all(&store, Span::ALL);
    let ids: std::collections::BTreeSet<u64> = found.iter().map(|flow| flow.record.id.0).collect();
    assert_eq!(ids, [1, 4].into());
    assert!(found.iter().all(|flow| flow.origin.interface.len() <= 255));
    seal(&mut writer, |_| true);
    assert_eq!(all(&store, Span::ALL).len(), 2);
}
