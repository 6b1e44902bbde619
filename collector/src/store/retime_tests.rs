//! Evidence that comes late, moves, or ends: what becomes of the records.

use std::sync::Arc;

use gnomon_clock::sim::{SimClock, SimRandom};
use gnomon_clock::{Clock, EpochId, Fix, Policy, RawNs, UtcNs};
use gnomon_flow::{EpochHash, StoredFlow, TimeState};

use super::testing::{LIMITS, S, change, epoch, flows, record, settle};
use super::{Body, Change, Evidence, Span, Store, Writer};
use crate::clock_gate::ClockGate;
use crate::timekeeper::{Said, Timekeeper};

const BY_INGEST: Span = Span { by_ingest: true, ..Span::ALL };
const NINE_HOURS: i64 = 32_400_000_000_000;

struct Rig {
    dir: tempfile::TempDir,
    sim: Arc<SimClock>,
    keeper: Timekeeper,
    store: Store,
    writer: Writer,
}

fn open(dir: &std::path::Path, sim: &Arc<SimClock>) -> (Timekeeper, Store, Writer) {
    let keeper = Timekeeper::new(Arc::clone(sim) as Arc<dyn Clock>);
    let (store, writer) =
        super::open(dir, &ClockGate::new(keeper.clone(), Policy::default()), LIMITS).unwrap();
    (keeper, store, writer)
}

impl Rig {
    /// A collector that has run for 1000 s; agents' RAW is its own.
    fn new(set: impl FnOnce(&SimClock)) -> Rig {
        let sim = Arc::new(SimClock::new(0));
        sim.advance(1000 * S);
        set(&sim);
        let dir = tempfile::tempdir().unwrap();
        let (keeper, store, writer) = open(dir.path(), &sim);
        Rig { dir, sim, keeper, store, writer }
    }

    fn restart(self) -> Rig {
        let Rig { dir, sim, keeper, store, writer } = self;
        drop((keeper, store, writer));
        let (keeper, store, writer) = open(dir.path(), &sim);
        Rig { dir, sim, keeper, store, writer }
    }

    /// An exchange now, told by an agent in `epoch`.
    fn exchange(&mut self, epoch: EpochId) {
        let moment = self.keeper.moment();
        let fix = Fix {
            raw: self.sim.raw(),
            utc: moment.now.utc,
            err_ns: moment.now.err_ns + 200_000,
            source: gnomon_clock::FixSource::Collector,
        };
        self.tell(
            epoch,
            Evidence { fixes: vec![fix], collector_timeline: moment.timeline, ..Evidence::default() },
        );
    }

    fn tell(&mut self, epoch: EpochId, evidence: Evidence) {
        self.writer.commit(&[change(epoch, Body::Evidence(evidence))]).unwrap();
    }

    fn pass(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.sim.advance(S);
            self.keeper.refresh(None, false);
        }
        self.writer.tick();
        self.writer.keep_time().unwrap();
        settle(&mut self.writer);
    }

    fn add(&mut self, changes: &[Change]) {
        self.writer.commit(changes).unwrap();
    }

    fn one(&self, span: Span) -> Option<StoredFlow> {
        let mut found = self.store.scan(span, true, None).map(|found| found.unwrap().1);
        let first = found.next();
        assert!(found.next().is_none());
        first
    }

    /// The one record lies where it was captured, within its error.
    fn is_true_at(&self, raw: u64) {
        let flow = self.one(Span::ALL).expect("indexed");
        let first = flow.first.unwrap();
        let truth = self.truth_at(raw);
        assert!(first.utc.minus(truth).unsigned_abs() <= first.err_ns, "{first:?}, truth {truth:?}");
        // And it is found there, not only shown there.
        let around = |by: i64| truth.saturating_add_ns(by * 2 * S as i64);
        let span = Span { since: around(-1), until: around(1), by_ingest: false };
        assert!(self.one(span).is_some(), "found where it is");
    }

    fn truth_at(&self, raw: u64) -> UtcNs {
        let ago = i64::try_from(self.sim.raw().0 - raw).unwrap();
        self.sim.truth().saturating_add_ns(-ago)
    }
}

#[test]
fn what_was_relative_to_a_collector_nine_hours_ahead_moves_when_its_time_is_proven() {
    for restart in [false, true] {
        let mut rig = Rig::new(|sim| sim.step(NINE_HOURS));
        let at = rig.sim.raw().0;
        rig.exchange(epoch(1));
        rig.add(&[flows(epoch(1), 1, vec![record(5, 1, at, at + S)])]);
        rig.pass(20);
        let before = rig.one(Span::ALL).expect("a laboratory without NTP works").first.unwrap();
        assert!(before.utc.minus(rig.truth_at(at)) >= NINE_HOURS - 1_000_000_000);
        if restart {
            rig = rig.restart();
        }
        let old = rig.keeper.moment().timeline;
        rig.sim.discipline(0, 1_400_000, true);
        rig.pass(3);
        rig.is_true_at(at);
        assert_ne!(rig.keeper.moment().timeline, old);
        // What was under way comes late and is moved too; what stands on another collector's timeline is nothing here.
        let stale = Fix {
            raw: RawNs(at + S),
            utc: rig.truth_at(at + S).saturating_add_ns(NINE_HOURS),
            err_ns: 1_000_000,
            source: gnomon_clock::FixSource::Collector,
        };
        for timeline in [old, 77] {
            let evidence =
                Evidence { fixes: vec![stale], collector_timeline: timeline, ..Evidence::default() };
            rig.tell(epoch(1), evidence);
            rig.pass(1);
            rig.is_true_at(at);
            assert!(!rig.one(Span::ALL).unwrap().first.unwrap().conflict);
        }
        rig.writer.keep_time().unwrap();
        rig = rig.restart();
        rig.is_true_at(at);
    }
}

#[test]
fn evidence_of_before_the_machine_was_started_anew_is_not_moved_by_a_later_proof() {
    let mut rig = Rig::new(|sim| sim.step(NINE_HOURS));
    let at = rig.sim.raw().0;
    rig.exchange(epoch(1));
    rig.add(&[flows(epoch(1), 1, vec![record(5, 1, at, at + S)])]);
    rig.pass(20);
    // As if the machine had slept: nothing ties RAW to that of before.
    rig.sim.suspend(60 * S);
    rig = rig.restart();
    rig.sim.discipline(0, 1_400_000, true);
    rig.pass(3);
    assert!(rig.one(Span::ALL).is_none(), "nine hours in the future is no place");
    let flow = rig.one(BY_INGEST).unwrap();
    assert_eq!(flow.time_state, TimeState::Quarantined);
}

#[test]
fn an_epoch_is_cut_at_the_last_good_reading_and_what_lies_behind_is_bounded_by_the_next() {
    let mut rig = Rig::new(|sim| sim.discipline(0, 100_000, true));
    rig.pass(1);
    let at = rig.sim.raw().0;
    rig.exchange(epoch(1));
    let before = record(5, 1, at, at + S);
    let across = record(6, 1, at + S, at + 30 * S);
    let behind = record(7, 1, at + 30 * S, at + 30 * S);
    rig.add(&[flows(epoch(1), 1, vec![before, across, behind])]);
    rig.pass(40);
    assert_eq!(rig.store.status().unwrap().flows, 3);
    // RAW broke at 20 s; the next epoch's evidence says that it opened two hours later.
    let next = EpochId { opened: RawNs(at + 40 * S), ..epoch(1) };
    rig.tell(
        epoch(1),
        Evidence { ended: Some(RawNs(at + 20 * S)), successor: Some(next), ..Evidence::default() },
    );
    rig.pass(1);
    let state = |rig: &Rig, id: u64| {
        let flow = gnomon_flow::FlowRef {
            epoch: EpochHash::of(&epoch(1)),
            flow: gnomon_flow::FlowId(id),
            segment: 0,
        };
        let flow = rig.store.get(flow).unwrap().unwrap();
        (flow.time_state, flow.last)
    };
    assert_eq!(state(&rig, 5).0, TimeState::Indexed);
    assert_eq!(state(&rig, 6), (TimeState::Indexed, None), "found by its first packet");
    assert_eq!(state(&rig, 7), (TimeState::Pending, None));
    rig.sim.advance(7_200 * S);
    let late = Fix {
        raw: RawNs(at + 41 * S),
        utc: rig.sim.truth().saturating_add_ns(-3_600_000_000_000),
        err_ns: 1_000_000,
        source: gnomon_clock::FixSource::Kernel,
    };
    rig.tell(next, Evidence { fixes: vec![late], ..Evidence::default() });
    rig.sim.discipline(0, 100_000, true);
    rig.pass(1);
    let (_, last) = state(&rig, 6);
    assert!(last.is_some(), "between the two");
    // It is all there after a restart.
    rig = rig.restart();
    assert_eq!(state(&rig, 6).1, last);
    let held = rig.store.held(100).unwrap();
    assert_eq!(held.counts.values().sum::<u64>(), 1, "{held:?}");
}

#[test]
fn an_epoch_that_never_got_evidence_lies_between_its_neighbours() {
    let mut rig = Rig::new(|sim| sim.discipline(0, 100_000, true));
    rig.pass(1);
    let at = rig.sim.raw().0;
    let [a, b, c] =
        [0, 10, 20].map(|s| EpochId { opened: RawNs(at + s * S), boot_id: [s as u8; 16], ..epoch(1) });
    rig.exchange(a);
    // The agent was without any time and without a collector; its readings mean nothing elsewhere.
    rig.add(&[flows(b, 1, vec![record(5, 1, 3 * S, 4 * S)])]);
    rig.tell(a, Evidence { successor: Some(b), ..Evidence::default() });
    rig.tell(b, Evidence { successor: Some(c), ..Evidence::default() });
    rig.pass(20);
    assert_eq!(rig.one(BY_INGEST).unwrap().first, None);
    rig.exchange(c);
    rig.pass(1);
    let flow = rig.one(BY_INGEST).unwrap();
    let (first, half) = (flow.first.unwrap(), 10 * S);
    assert!((half..half + S).contains(&first.err_ns), "{first:?}");
    assert!(first.utc.minus(rig.truth_at(at + half)).unsigned_abs() < S);
    assert_eq!(flow.time_state, TimeState::Pending);
    let held = rig.store.held(100).unwrap();
    assert_eq!(held.counts.get(&("pending", "error-too-large")), Some(&1));
}

#[test]
fn a_proven_collectors_exchange_overrules_an_agent_that_is_lied_to() {
    let mut rig = Rig::new(|sim| sim.discipline(0, 1_400_000, true));
    rig.pass(1);
    let at = rig.sim.raw().0;
    for _ in 0..5 {
        rig.exchange(epoch(1));
        let lie = Fix {
            raw: RawNs(rig.sim.raw().0 + 1),
            utc: rig.sim.truth().saturating_add_ns(NINE_HOURS),
            err_ns: 1_000_000,
            source: gnomon_clock::FixSource::Chrony,
        };
        rig.tell(epoch(1), Evidence { fixes: vec![lie], ..Evidence::default() });
        rig.pass(1);
    }
    rig.add(&[flows(epoch(1), 1, vec![record(5, 1, at, at + S)])]);
    rig.is_true_at(at);
    assert!(!rig.one(Span::ALL).unwrap().first.unwrap().conflict);
    assert_eq!(rig.store.overruled(&epoch(1)).unwrap(), 5, "the agent is the one to look at");
    rig = rig.restart();
    rig.is_true_at(at);
    let vote = rig.store.vote(&epoch(1), RawNs(at + 4 * S)).unwrap().unwrap();
    assert!(vote.synced && (vote.offset_ns - NINE_HOURS).unsigned_abs() <= vote.err_ns);
}

#[test]
fn what_a_kernel_said_before_its_clock_was_set_right_holds_no_record_back() {
    // Nobody proves this collector's time, and no other agent is there: a contradiction is settled by nobody.
    let mut rig = Rig::new(|_| ());
    let at = rig.sim.raw().0;
    let kernel = |rig: &Rig, ahead_ns: i64| Fix {
        raw: rig.sim.raw(),
        utc: rig.sim.truth().saturating_add_ns(ahead_ns),
        err_ns: 400_000_000,
        source: gnomon_clock::FixSource::Kernel,
    };
    let lie = kernel(&rig, NINE_HOURS);
    rig.tell(epoch(1), Evidence { fixes: vec![lie], ..Evidence::default() });
    rig.exchange(epoch(1));
    rig.add(&[flows(epoch(1), 1, vec![record(5, 1, at, at + S)])]);
    rig.pass(2);
    assert!(rig.one(Span::ALL).is_none());
    let pending = rig.one(BY_INGEST).unwrap();
    assert_eq!((pending.time_state, &*pending.time_reason), (TimeState::Pending, "conflict"));
    // NTP's step.
    rig.pass(1);
    let right = kernel(&rig, 0);
    let disowned = Some(rig.sim.raw());
    rig.tell(epoch(1), Evidence { fixes: vec![right], ..Evidence::default() });
    rig.pass(2);
    assert!(rig.one(Span::ALL).is_none(), "the old word stands until it is taken back");
    rig.tell(epoch(1), Evidence { disowned, ..Evidence::default() });
    rig.pass(2);
    rig.is_true_at(at);
    rig = rig.restart();
    rig.is_true_at(at);
}

#[test]
fn i9_nothing_is_deleted_for_its_age_while_the_time_is_unproven_or_jumped_of_late() {
    let mut rig = Rig::new(|sim| sim.step(-NINE_HOURS));
    rig.writer.limits.flows_age_ns_max = Some(60 * S);
    let at = rig.sim.raw().0;
    rig.exchange(epoch(1));
    rig.add(&[flows(epoch(1), 1, vec![record(5, 1, at, at + S)])]);
    let left = |rig: &mut Rig, seconds: u64| {
        for _ in 0..seconds / 10 {
            rig.sim.advance(10 * S);
            rig.sim.discipline(0, 1_400_000, true);
            rig.keeper.refresh(None, false);
            rig.writer.keep_time().unwrap();
            rig.writer.expire().unwrap();
            rig.writer.tick();
            settle(&mut rig.writer);
        }
        rig.store.status().unwrap().flows
    };
    for _ in 0..12 {
        rig.pass(10);
        rig.writer.expire().unwrap();
    }
    assert_eq!(rig.store.status().unwrap().flows, 1, "unproven: two minutes old, one allowed");
    assert_eq!(left(&mut rig, 3_590), 1, "it jumped by nine hours within the hour");
    assert_eq!(left(&mut rig, 60), 0);
    // What comes in from now on lives its minute, and no longer.
    let at = rig.sim.raw().0;
    rig.exchange(epoch(1));
    rig.add(&[flows(epoch(1), 2, vec![record(6, 1, at, at + S)])]);
    assert_eq!(left(&mut rig, 50), 1);
    assert_eq!(left(&mut rig, 30), 0);
    assert!(rig.one(BY_INGEST).is_none());
}

/// A collector whose clock is set, vouched for and forgotten, restarted and put to sleep, and agents that exchange, are
/// lied to, break and come late: nothing that is visible lies in the future (I1), and nothing is lost (I4, I5).
#[test]
fn i1_i4_i5_whatever_happens_to_clocks_nothing_is_visible_in_the_future_and_nothing_is_lost() {
    let runs: u64 = std::env::var("GNOMON_SIM_RUNS").ok().and_then(|runs| runs.parse().ok()).unwrap_or(12);
    for seed in 0..runs {
        let mut random = SimRandom::new(seed);
        let mut rig = Rig::new(|_| {});
        let mut epochs = [epoch(1), epoch(2)];
        let mut seqs = [0u64; 2];
        let mut added = 0;
        for _ in 0..60 {
            let which = usize::from(random.one_in(2));
            let of = epochs[which];
            match random.range(0, 12) {
                0 => rig.sim.step(random.range(-NINE_HOURS, NINE_HOURS)),
                1 => rig.sim.discipline(random.range(-500_000, 500_000), 1_400_000, random.one_in(2)),
                2 => rig.sim.set_status(16_000_000_000, true),
                3 => {
                    let source = gnomon_clock::FixSource::Kernel;
                    let utc = rig.sim.truth().saturating_add_ns(random.range(-NINE_HOURS, NINE_HOURS));
                    let lie = Fix { raw: rig.sim.raw(), utc, err_ns: 1_000_000, source };
                    rig.tell(of, Evidence { fixes: vec![lie], ..Evidence::default() });
                }
                4 => {
                    let next = EpochId { opened: rig.sim.raw(), ..of };
                    let ended = Some(rig.sim.raw().saturating_sub(S));
                    rig.tell(of, Evidence { ended, successor: Some(next), ..Evidence::default() });
                    epochs[which] = next;
                    seqs[which] = 0;
                }
                5 => rig = rig.restart(),
                6..8 => rig.exchange(of),
                _ => {
                    let last = rig.sim.raw().0;
                    let first = last - u64::try_from(random.range(0, 20 * S as i64)).unwrap();
                    seqs[which] += 1;
                    added += 1;
                    rig.add(&[flows(of, seqs[which], vec![record(added, 1, first, last)])]);
                }
            }
            rig.pass(u64::try_from(random.range(1, 20)).unwrap());
            let now = rig.keeper.now();
            let status = rig.store.status().unwrap();
            assert_eq!(status.flows + status.flows_pending + status.flows_quarantined, added, "seed {seed}");
            assert_eq!(rig.store.scan(BY_INGEST, true, None).count() as u64, added, "seed {seed}");
            for found in rig.store.scan(Span::ALL, true, None) {
                let flow = found.unwrap().1;
                for at in [flow.first, flow.last].into_iter().flatten() {
                    // What was proven before stays, though a clock that nobody vouches for be set back.
                    let latest = now.utc.saturating_add_ns(now.err_ns as i64);
                    let ahead = at.utc.minus(latest.max(rig.sim.truth())).saturating_sub_unsigned(at.err_ns);
                    assert!(ahead <= 0, "seed {seed}: {ahead} ns ahead: {flow:?}, now {now:?}");
                }
            }
        }
    }
}

#[test]
fn what_happened_to_clocks_is_known_after_a_restart() {
    let mut rig = Rig::new(|_| ());
    rig.pass(1);
    rig.keeper.note(crate::timekeeper::EventKind::Conflict, "two sources".to_owned(), Some(-5));
    rig.pass(1);
    let before = rig.keeper.events().list();
    let rig = rig.restart();
    let after = rig.keeper.events().list();
    assert_eq!(after[..before.len()], before[..]);
    assert_eq!(after[before.len() - 1].by_ns, Some(-5));
}

/// Every certificate lies, so that the fleet moves the time by ten years, in a store of this version and of one that took
/// a fleet's word for proof for ever. The command moves everything back, once, even if the process dies over it.
#[test]
fn a_store_that_liars_moved_is_moved_back_by_command() {
    const TEN_YEARS: i64 = 315_360_000_000_000_000;
    for (settled_before, dies) in [(false, false), (false, true), (true, false), (true, true)] {
        let mut rig = Rig::new(|_| ());
        let early = rig.sim.raw().0;
        rig.exchange(epoch(1));
        rig.add(&[flows(epoch(1), 1, vec![record(5, 1, early, early + S)])]);
        rig.pass(20);
        let vote = gnomon_clock::AgentVote { synced: true, offset_ns: TEN_YEARS, err_ns: 1_000_000 };
        let said = ["a", "b"].map(|name| Said { voter: Some(name.to_owned()), vote: Some(vote) });
        rig.keeper.set_vote_after(0);
        rig.keeper.hear_fleet(said.to_vec());
        rig.pass(1);
        rig.exchange(epoch(2));
        let late = rig.sim.raw().0;
        rig.add(&[flows(epoch(2), 1, vec![record(6, 1, late, late + S)])]);
        rig.pass(20);
        let shown = |rig: &Rig| -> Vec<i64> {
            let mut found: Vec<StoredFlow> =
                rig.store.scan(BY_INGEST, true, None).map(|found| found.unwrap().1).collect();
            found.sort_by_key(|flow| flow.record.id.0);
            let first = |flow: &StoredFlow| flow.first.map_or(0, |first| first.utc.minus(rig.sim.truth()));
            found.iter().map(first).collect()
        };
        assert!(shown(&rig).iter().all(|off| *off > TEN_YEARS / 2), "moved: {:?}", shown(&rig));
        if settled_before {
            // As if nothing could move any more.
            rig.writer.forget_what_is_relative();
        }
        let request = rig.dir.path().join("clock-reset.request");
        std::fs::write(&request, []).unwrap();
        if dies {
            // Before the file could be taken away.
            rig.writer.answer_clock_reset().unwrap();
            std::fs::write(&request, []).unwrap();
            rig = rig.restart();
        }
        rig.writer.answer_clock_reset().unwrap();
        assert!(!request.exists());
        rig.pass(20);
        let now = rig.keeper.moment().now;
        assert!(!now.proven && now.utc.minus(rig.sim.truth()).unsigned_abs() < S, "{now:?}");
        let since = |raw: u64| -i64::try_from(rig.sim.raw().0 - raw).unwrap();
        for (off, truth) in shown(&rig).into_iter().zip([since(early), since(late)]) {
            assert!((off - truth).unsigned_abs() < S, "{settled_before} {dies}: {off}, truth {truth}");
        }
        // They are found there, and stay.
        let around = |raw: u64| {
            let by = |by: i64| rig.truth_at(raw).saturating_add_ns(by * 2 * S as i64);
            Span { since: by(-1), until: by(1), by_ingest: false }
        };
        assert!(rig.one(around(early)).is_some() && rig.one(around(late)).is_some());
        let before = shown(&rig);
        rig = rig.restart();
        rig.pass(20);
        let after = shown(&rig);
        assert!(before.iter().zip(&after).all(|(a, b)| a.abs_diff(*b) < 60 * S), "{before:?} {after:?}");
        assert!(rig.keeper.events().list().iter().any(|event| event.text.starts_with("by command")));
    }
}
