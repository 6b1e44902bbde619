//! Blocks are made while records come, change and go.

use std::collections::BTreeMap;

use gnomon_clock::sim::SimRandom;
use gnomon_flow::{EpochHash, FlowId, FlowRecord, FlowRef, TimeState};

use super::keys::{self, Family};
use super::testing::{FakeClock, S, begin_blocks, epoch, fix, fixes, flows, open, record, settle};
use super::{Span, Store};

const BY_INGEST: Span = Span { by_ingest: true, ..Span::ALL };

fn id(n: u64) -> FlowRef {
    FlowRef { epoch: EpochHash::of(&epoch(1)), flow: FlowId(n), segment: 0 }
}

/// Flow `n`, which ends when it is final.
fn of(n: u64, revision: u32, is_final: bool) -> FlowRecord {
    let record = record(n, revision, (10 + n % 50) * S, (10 + n % 50) * S + u64::from(revision));
    FlowRecord { end: record.end.filter(|_| is_final), ..record }
}

/// Every record by its id, with its revision; none is there twice.
fn revisions(store: &Store, span: Span) -> BTreeMap<u64, u32> {
    let mut found = BTreeMap::new();
    for flow in store.scan(span, true, None).map(|found| found.unwrap().1) {
        let before = found.insert(flow.record.id.0, flow.record.revision);
        assert_eq!(before, None, "{:?} is there twice", flow.record.id);
        if flow.record.id.0 % 16 == 0 {
            let got = store.get(flow.id()).unwrap();
            assert_eq!(got.map(|got| got.record), Some(flow.record));
        }
    }
    found
}

#[test]
fn a_record_that_changes_while_its_block_is_made_is_there_once_as_it_is_now() {
    for crash in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let clock = FakeClock::new();
        let (mut store, mut writer) = open(dir.path(), &clock);
        writer.commit(&[fixes(epoch(1), vec![fix(100, 200)])]).unwrap();
        writer.commit(&[flows(epoch(1), 1, (0..5).map(|n| of(n, 0, n == 4)).collect())]).unwrap();
        begin_blocks(&mut writer, |_| true);
        // One goes on, one ends, one goes for its age, and one comes that was not there.
        let later = vec![of(0, 1, false), of(1, 1, true), of(9, 0, true)];
        writer.commit(&[flows(epoch(1), 2, later)]).unwrap();
        writer.checkpoint(Vec::new(), &[id(2)]).unwrap();
        let expected = BTreeMap::from([(0, 1), (1, 1), (3, 0), (4, 0), (9, 0)]);
        assert_eq!(revisions(&store, Span::ALL), expected);
        if !crash {
            assert!(writer.finish_blocks().unwrap());
            let view = store.view();
            assert_eq!(view.blocks.iter().map(|block| block.records()).collect::<Vec<_>>(), [2]);
            assert_eq!(view.hot().count(), 3);
            let mut loose = Vec::new();
            let kept = store.shared.rocks.walk(Family::Loose, &[], |key, _| {
                loose.extend(keys::reference_of(key));
                Ok(())
            });
            kept.unwrap();
            assert_eq!(loose, [id(3)], "open records of blocks");
        }
        assert_eq!(revisions(&store, Span::ALL), expected);
        for _ in 0..2 {
            drop((store, writer));
            (store, writer) = open(dir.path(), &clock);
            assert_eq!(revisions(&store, Span::ALL), expected);
        }
        // An open record of the block gives way to its next revision, as ever.
        writer.commit(&[flows(epoch(1), 3, vec![of(3, 1, true), of(0, 2, true)])]).unwrap();
        settle(&mut writer);
        assert_eq!(revisions(&store, Span::ALL), BTreeMap::from([(0, 2), (1, 1), (3, 1), (4, 0), (9, 0)]));
    }
}

/// What is to be judged again goes into a block before it was, or after.
#[test]
fn evidence_that_comes_while_a_block_is_made_holds_for_its_records() {
    for judged_before in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let clock = FakeClock::new();
        let (mut store, mut writer) = open(dir.path(), &clock);
        writer.commit(&[flows(epoch(1), 1, (0..5).map(|n| of(n, 0, true)).collect())]).unwrap();
        let mut made = writer.plan(writer.select(|_| true)).make();
        writer.commit(&[fixes(epoch(1), vec![fix(100, 200)])]).unwrap();
        if judged_before {
            settle(&mut writer);
            assert_eq!(revisions(&store, Span::ALL).len(), 5);
        }
        writer.install(&mut made, &[]).unwrap();
        if judged_before {
            // The block has what they were; they are no more in any batch, either.
            assert_eq!(store.view().hot().count(), 5);
            drop((store, writer));
            (store, writer) = open(dir.path(), &clock);
        } else {
            assert_eq!(revisions(&store, Span::ALL).len(), 0, "nothing was judged yet");
            assert_eq!(store.view().hot().count(), 0);
        }
        settle(&mut writer);
        assert_eq!(revisions(&store, Span::ALL).len(), 5);
    }
}

#[test]
fn whatever_happens_while_blocks_are_made_every_record_is_there_once() {
    let runs: u64 = std::env::var("GNOMON_SIM_RUNS").ok().and_then(|runs| runs.parse().ok()).unwrap_or(8);
    for seed in 0..runs {
        let mut random = SimRandom::new(seed);
        let mut pick = |to: i64| u64::try_from(random.range(0, to - 1)).unwrap_or(0);
        let dir = tempfile::tempdir().unwrap();
        let clock = FakeClock::new();
        let (mut store, mut writer) = open(dir.path(), &clock);
        // By id: the revision, and whether it was the last.
        let mut model = BTreeMap::<u64, (u32, bool)>::new();
        let (mut seq, mut next) = (0, 0);
        let mut made = None;
        for step in 0..100 {
            match pick(12) {
                0..5 => {
                    let mut records = Vec::new();
                    for _ in 0..=pick(6) {
                        let open: Vec<u64> =
                            model.iter().filter(|(_, (_, last))| !last).map(|(id, _)| *id).collect();
                        let n = match open.len() {
                            0 => u64::MAX,
                            len => open.get(pick(2 * len as i64) as usize).copied().unwrap_or(u64::MAX),
                        };
                        let n = if n == u64::MAX { next } else { n };
                        next += u64::from(n == next);
                        let revision = model.get(&n).map_or(0, |(revision, _)| revision + 1);
                        let is_final = pick(3) == 0;
                        model.insert(n, (revision, is_final));
                        records.push(of(n, revision, is_final));
                    }
                    seq += 1;
                    writer.commit(&[flows(epoch(1), seq, records)]).unwrap();
                }
                5 | 6 => {
                    let (finals, indexed) = (pick(2) == 0, pick(3) > 0);
                    let rows = writer.select(|flow| {
                        (flow.record.end.is_some() || !finals)
                            && (flow.time_state == TimeState::Indexed) == indexed
                    });
                    made.get_or_insert_with(|| writer.plan(rows).make());
                }
                7 => {
                    if let Some(mut made) = made.take() {
                        writer.install(&mut made, &[]).unwrap();
                    }
                }
                8 => {
                    let view = store.view();
                    let hot: Vec<FlowRef> =
                        view.hot().map(|flow| flow.id()).filter(|_| pick(8) == 0).collect();
                    // Only what will not come again.
                    let gone: Vec<FlowRef> = hot.into_iter().filter(|id| model[&id.flow.0].1).collect();
                    model.retain(|id, _| !gone.iter().any(|gone| gone.flow.0 == *id));
                    writer.checkpoint(Vec::new(), &gone).unwrap();
                }
                9 => {
                    // Nothing is known of the time at first, then something, then perhaps something that contradicts it.
                    let behind_s = 200 + if seed % 2 == 1 { 5 * pick(4) } else { 0 };
                    writer.commit(&[fixes(epoch(1), vec![fix(100, behind_s)])]).unwrap();
                }
                10 => {
                    made = None;
                    drop((store, writer));
                    (store, writer) = open(dir.path(), &clock);
                }
                _ => {
                    writer.settle().unwrap();
                }
            }
            let expected: BTreeMap<u64, u32> =
                model.iter().map(|(id, (revision, _))| (*id, *revision)).collect();
            assert_eq!(revisions(&store, BY_INGEST), expected, "seed {seed}, step {step}");
        }
        settle(&mut writer);
        let indexed = revisions(&store, Span::ALL);
        let status = store.status().unwrap();
        assert_eq!(status.flows as usize, indexed.len(), "seed {seed}");
        assert_eq!(status.flows + status.flows_pending, model.len() as u64, "seed {seed}");
        let held = store.held(1000).unwrap();
        assert!(held.counts.keys().all(|(_, reason)| *reason != "on-its-way"), "seed {seed}: {held:?}");
        assert!(seed % 2 == 1 || status.flows == 0 || status.flows_pending == 0, "seed {seed}");
    }
}
