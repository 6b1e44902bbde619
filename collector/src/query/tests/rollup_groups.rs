//! Facets from the rollups of many blocks, over a real store.

use gnomon_flow::{Addresses, FlowRecord};

use crate::query::testing::{Fixture, fixture, utc};
use crate::query::*;
use crate::store::rollup_group::{GroupId, RollupGroup};
use crate::store::testing::{S, epoch, record, seal};

const FIELDS: [&str; 7] = ["ip.src", "ip.dst", "port.dst", "node", "interface", "ip.protocol", "tls.host"];
/// Records of a block.
const ROWS: u64 = 400;

/// One in two from 10.0.0.0, others from some that come again in each block, others from ever others.
fn of_block(block: u64, n: u64, step: u64) -> FlowRecord {
    let at = S + block * step;
    let mut flow = record(block * ROWS + n, 0, at, at);
    let source = match n % 4 {
        0 | 2 => 0,
        1 => 1 + n,
        _ => 100_000 + block * ROWS + n,
    };
    flow.key.addresses = Addresses::V4 {
        orig: [10, (source >> 16) as u8, (source >> 8) as u8, source as u8],
        resp: [10, 9, (block % 7) as u8, (n % 3) as u8],
    };
    flow.key.resp_port = [53, 443, 22][(n % 3) as usize];
    // One is still open.
    flow.end = flow.end.filter(|_| (block, n) != (20, 0));
    flow
}

/// A store of `blocks` blocks, `step` ns from each to the next, of two agents. Numbers of blocks begin at 1.
fn blocks(blocks: u64, rows: u64, step: u64) -> (Fixture, Roller) {
    let mut fixture = fixture(QueryLimits::default());
    for block in 0..blocks {
        let records: Vec<FlowRecord> = (0..rows).map(|n| of_block(block, n, step)).collect();
        let (some, others) = records.split_at(records.len() / 4);
        fixture.add(epoch(1), 1 + block, some.to_vec());
        fixture.add(epoch(2), 1 + block, others.to_vec());
        seal(&mut fixture.writer);
    }
    let roller = Roller::new(fixture.store.clone());
    (fixture, roller)
}

fn roll(roller: &mut Roller) -> usize {
    std::iter::repeat_with(|| roller.round().expect("round")).take_while(|made| *made > 0).sum()
}

async fn ask(fixture: &Fixture, facets: Facets) -> FacetsAnswer {
    let fields = FIELDS.iter().map(|name| (*name).to_owned()).collect();
    let facets = Facets { fields, limit: 1000, ..facets };
    let mut answers = fixture.queries.facets(facets).await.expect("facets");
    answers.recv().await.expect("an answer").expect("facets")
}

async fn exactly(fixture: &Fixture, range: TimeRange) -> FacetsAnswer {
    ask(fixture, Facets { exact: true, range, ..Facets::default() }).await
}

/// No count is too high, none too low by more than is said, and no value that is not there had more.
fn within_the_bound(found: &FacetsAnswer, exact: &FacetsAnswer) {
    assert_eq!((found.flows, &found.partial), (exact.flows, &None));
    for (found, exact) in found.fields.iter().zip(&exact.fields) {
        assert_eq!((found.name, found.flows), (exact.name, exact.flows));
        for value in &exact.values {
            let flows = found.values.iter().find(|of| of.value == value.value).map_or(0, |of| of.flows);
            let least = value.flows.saturating_sub(found.missed_max);
            assert!((least..=value.flows).contains(&flows), "{}: {flows} of {value:?}", found.name);
        }
        for value in &found.values {
            assert!(exact.values.iter().any(|of| of.value == value.value) || exact.values.len() == 1000);
        }
        if exact.different < 100 {
            assert_eq!(found, exact, "few values are all kept");
        }
    }
}

const FIRST: GroupId = GroupId { level: 1, first: 0 };
const SECOND: GroupId = GroupId { level: 1, first: 16 };

fn group(fixture: &Fixture, id: GroupId) -> Option<RollupGroup> {
    fixture.store.group(id, None).expect("group")
}

/// Ten times as many flows to port 53 as there are: whoever uses it is found out.
fn mark(fixture: &Fixture, id: GroupId) -> u64 {
    let mut group = group(fixture, id).expect("a group");
    let ports = group.rollup.fields.iter_mut().find(|rolled| rolled.field.0 == 25).expect("port.dst");
    let flows = ports.values[0].1;
    ports.values[0].1 = 10 * flows;
    fixture.store.put_group(id, &group).expect("put");
    9 * flows
}

/// How many flows to port 53 an answer has too many.
async fn marked(fixture: &Fixture, range: TimeRange) -> u64 {
    let of =
        |answer: &FacetsAnswer| answer.fields[2].values.iter().find(|of| of.value == "53").map(|of| of.flows);
    let found = ask(fixture, Facets { range, ..Facets::default() }).await;
    let exact = exactly(fixture, range).await;
    assert_eq!(found.flows, exact.flows);
    of(&found).unwrap_or(0) - of(&exact).unwrap_or(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn rollups_of_many_blocks_never_miss_more_than_they_say() {
    let (fixture, mut roller) = blocks(40, ROWS, 2 * S);
    let exact = exactly(&fixture, TimeRange::default()).await;
    // 40 blocks, numbers 1 to 15 and 16 to 31; others may still come to the rest.
    assert_eq!(roll(&mut roller), 42);
    assert_eq!(group(&fixture, FIRST).map(|group| group.blocks), Some((1..=15).collect()));
    assert_eq!(group(&fixture, SECOND).map(|group| group.rollup.rows), Some(16 * ROWS));
    assert_eq!(group(&fixture, GroupId { level: 1, first: 32 }), None);
    let found = ask(&fixture, Facets::default()).await;
    within_the_bound(&found, &exact);
    let sources = &found.fields[0];
    assert!(sources.missed_max > 0 && sources.missed_max <= 2 * 40, "{}", sources.missed_max);
    assert!(sources.different < exact.fields[0].different);
    // A field that no rollup has makes it read block by block.
    let fields = vec!["ip".to_owned(), "port.dst".to_owned()];
    let mut answers = fixture.queries.facets(Facets { fields, ..Facets::default() }).await.expect("facets");
    let answer = answers.recv().await.expect("an answer").expect("facets");
    assert_eq!((answer.flows, answer.fields[0].missed_max), (40 * ROWS, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_is_used_where_it_lies_whole_in_the_range_and_finer_rollups_at_its_edges() {
    let (fixture, mut roller) = blocks(40, ROWS, 2 * S);
    roll(&mut roller);
    let all = TimeRange::default();
    let (first, second) = (mark(&fixture, FIRST), mark(&fixture, SECOND));
    assert_eq!(marked(&fixture, all).await, first + second);
    // Numbers begin at 1: block 16 is the sixteenth.
    let since = |block: u64| TimeRange { since: Some(utc(block * 2 * S)), ..all };
    for (range, expected) in [
        (since(1), second),
        (since(15), second),
        (since(16), 0),
        (TimeRange { until: Some(utc(70 * S)), ..all }, first + second),
        (TimeRange { until: Some(utc(60 * S)), ..all }, first),
        (TimeRange { until: Some(utc(6 * S)), ..since(1) }, 0),
    ] {
        assert_eq!(marked(&fixture, range).await, expected, "{range:?}");
    }
    let filtered = Facets { expression: "port.dst == 53".to_owned(), ..Facets::default() };
    let answer = ask(&fixture, filtered).await;
    assert_eq!(answer.fields[2].values[0].flows, answer.flows, "what is filtered is read");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_a_record_has_left_is_not_used_until_it_is_made_anew() {
    let (mut fixture, mut roller) = blocks(40, ROWS, 2 * S);
    let all = TimeRange::default();
    roll(&mut roller);
    let (first, second) = (mark(&fixture, FIRST), mark(&fixture, SECOND));
    let mut again = of_block(20, 0, 2 * S);
    (again.revision, again.end) = (1, Some(gnomon_flow::FlowEndReason::Idle));
    fixture.add(epoch(1), 99, vec![again]);
    assert_eq!(marked(&fixture, all).await, first, "{second} of the second group are gone");
    let exact = exactly(&fixture, all).await;
    assert_eq!(exact.flows, 40 * ROWS);
    assert_eq!(roll(&mut roller), 1);
    let anew = group(&fixture, SECOND).expect("a group");
    assert_eq!((anew.blocks.len(), anew.blocks.contains(&21)), (15, false));
    mark(&fixture, FIRST);
    let second = mark(&fixture, SECOND);
    assert!(marked(&fixture, all).await > second);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_goes_with_its_blocks_and_is_made_of_those_that_stay() {
    let (mut fixture, mut roller) = blocks(40, ROWS, 2 * S);
    roll(&mut roller);
    fixture.writer.drop_blocks(&[1, 2, 3]).expect("drop");
    assert_eq!(group(&fixture, FIRST), None);
    assert!(group(&fixture, SECOND).is_some());
    let exact = exactly(&fixture, TimeRange::default()).await;
    within_the_bound(&ask(&fixture, Facets::default()).await, &exact);
    assert_eq!(roll(&mut roller), 1);
    let anew = group(&fixture, FIRST).expect("a group");
    assert_eq!(anew.blocks, (4..=15).collect::<Vec<_>>());
    within_the_bound(&ask(&fixture, Facets::default()).await, &exact);
    // One that was being made when a block went is not kept.
    fixture.writer.drop_blocks(&[4]).expect("drop");
    fixture.store.put_group(FIRST, &anew).expect("put");
    assert_eq!(group(&fixture, FIRST), None);
    // After a start what is there is not made again.
    roll(&mut roller);
    assert_eq!(roll(&mut Roller::new(fixture.store.clone())), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_group_is_passed_by_and_made_anew() {
    let (fixture, mut roller) = blocks(40, ROWS, 2 * S);
    roll(&mut roller);
    let exact = exactly(&fixture, TimeRange::default()).await;
    fixture.store.rot_group(SECOND);
    assert_eq!(group(&fixture, SECOND), None);
    within_the_bound(&ask(&fixture, Facets::default()).await, &exact);
    assert_eq!(roll(&mut Roller::new(fixture.store.clone())), 1);
    assert!(group(&fixture, SECOND).is_some());
    within_the_bound(&ask(&fixture, Facets::default()).await, &exact);
}

#[tokio::test(flavor = "multi_thread")]
async fn hundreds_of_blocks_are_one_rollup() {
    let (fixture, mut roller) = blocks(300, 20, S / 4);
    // 15 whole groups of sixteen in the first of the second level, two beside it.
    assert_eq!(roll(&mut roller), 300 + 18 + 1);
    let top = GroupId { level: 2, first: 0 };
    assert_eq!(group(&fixture, top).map(|group| group.blocks), Some((1..=255).collect()));
    let exact = exactly(&fixture, TimeRange::default()).await;
    within_the_bound(&ask(&fixture, Facets::default()).await, &exact);
    let of_top = mark(&fixture, top);
    mark(&fixture, SECOND);
    assert_eq!(marked(&fixture, TimeRange::default()).await, of_top, "the largest is used");
    let later = TimeRange { since: Some(utc(3 * S)), ..TimeRange::default() };
    assert_eq!(
        marked(&fixture, later).await,
        mark(&fixture, SECOND) / 10,
        "where it does not fit, the next one"
    );
}
