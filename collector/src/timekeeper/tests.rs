//! A collector's time on a machine whose truth is known.

use gnomon_clock::UnprovenReason;
use gnomon_clock::sim::SimClock;

use super::*;

const S: u64 = 1_000_000_000;
const NINE_HOURS: i64 = 32_400_000_000_000;

fn nine_hours_ahead() -> (Arc<SimClock>, Timekeeper) {
    let sim = Arc::new(SimClock::new(0));
    sim.step(NINE_HOURS);
    let keeper = Timekeeper::new(Arc::clone(&sim) as Arc<dyn Clock>);
    keeper.refresh(None, false);
    (sim, keeper)
}

fn hear(keeper: &Timekeeper, word: FleetWord) {
    let raw = keeper.clock().raw();
    let mut state = keeper.state();
    keeper.heard(&mut state, raw, &word);
}

fn kinds(keeper: &Timekeeper) -> Vec<EventKind> {
    keeper.events().list().iter().map(|event| event.kind).collect()
}

#[test]
fn proof_renames_the_timeline_and_says_by_how_much_it_was_wrong() {
    let (sim, keeper) = nine_hours_ahead();
    let before = keeper.moment();
    assert!(!before.now.proven && before.authority == Authority::Nobody);
    assert_eq!(before.now.utc.minus(sim.truth()), NINE_HOURS);
    sim.advance(2 * S);
    sim.discipline(0, 1_400_000, true);
    keeper.refresh(None, false);
    let after = keeper.moment();
    assert!(after.now.proven && after.authority == Authority::Collector);
    assert_ne!(after.timeline, before.timeline);
    let rebase = keeper.take_rebases()[0];
    assert_eq!((rebase.from, rebase.to, rebase.settled), (before.timeline, after.timeline, true));
    assert!((rebase.by_ns + NINE_HOURS).unsigned_abs() < 1_000_000 && rebase.err_ns >= 1_400_000);
    let (by_ns, _) = keeper.since_timeline(before.timeline).unwrap();
    assert_eq!(by_ns, rebase.by_ns);
    assert_eq!(keeper.since_timeline(after.timeline), Some((0, 0)));
    assert_eq!(keeper.since_timeline(77), None, "another collector's");
    // Once each: unproven, corrected, proven.
    for _ in 0..5 {
        sim.advance(S);
        keeper.refresh(None, false);
    }
    use EventKind::*;
    assert_eq!(kinds(&keeper), [State, Step, Correction, State]);
    assert_eq!(keeper.take_rebases(), []);
    assert_eq!(keeper.view().corrections, 1);
}

#[test]
fn a_step_of_a_proven_collectors_clock_moves_nothing() {
    let sim = Arc::new(SimClock::new(0));
    sim.discipline(0, 1_400_000, false);
    let keeper = Timekeeper::new(Arc::clone(&sim) as Arc<dyn Clock>);
    keeper.refresh(None, false);
    keeper.take_rebases();
    let timeline = keeper.moment().timeline;
    sim.advance(S);
    sim.step(NINE_HOURS);
    keeper.refresh(None, true);
    let moment = keeper.moment();
    assert!(moment.now.utc.minus(sim.truth()).unsigned_abs() <= moment.now.err_ns);
    assert_eq!((moment.timeline, keeper.take_rebases()), (timeline, vec![]));
    assert_eq!(kinds(&keeper).last(), Some(&EventKind::Step));
}

#[test]
fn the_fleet_proves_a_collector_without_sources_and_outvotes_one_whose_sources_quarrel() {
    let (sim, keeper) = nine_hours_ahead();
    let before = keeper.moment().timeline;
    assert!(!keeper.moment().settled);
    hear(&keeper, FleetWord::Agreed { offset_ns: -NINE_HOURS, err_ns: 3_000_000 });
    let moment = keeper.moment();
    assert!(moment.now.proven && moment.timeline != before && !keeper.moment().settled);
    assert!(moment.now.utc.minus(sim.truth()).unsigned_abs() <= moment.now.err_ns);
    assert_eq!(keeper.take_rebases().len(), 1);

    let (sim, keeper) = nine_hours_ahead();
    // Its kernel is vouched for, and then for something else.
    sim.deceive(NINE_HOURS, 1_400_000);
    keeper.refresh(None, false);
    sim.advance(S);
    sim.deceive(0, 1_400_000);
    keeper.refresh(None, false);
    assert_eq!(keeper.view().state, CollectorState::Unproven(UnprovenReason::Conflict));
    hear(&keeper, FleetWord::Agreed { offset_ns: -NINE_HOURS, err_ns: 3_000_000 });
    assert_eq!(keeper.moment().authority, Authority::Agent);
    assert_eq!(keeper.view().state, CollectorState::Unproven(UnprovenReason::Outvoted));
    hear(&keeper, FleetWord::Silent);
    assert_eq!(keeper.moment().authority, Authority::Nobody);
}

#[test]
fn a_restart_goes_on_with_the_timeline_and_notices_what_was_set_meanwhile() {
    let (sim, keeper) = nine_hours_ahead();
    sim.advance(10 * S);
    let saved = keeper.saved();
    assert_eq!(saved.basis, Basis::Machine);
    sim.advance(5 * S);
    sim.step(-NINE_HOURS);
    let next = Timekeeper::new(Arc::clone(&sim) as Arc<dyn Clock>);
    // Where /proc has no boot id nothing can be gone on with.
    assert!(next.resume(&saved));
    next.refresh(None, false);
    let rebase = next.take_rebases()[0];
    assert_eq!((rebase.from, rebase.by_ns, rebase.settled), (saved.timeline, -NINE_HOURS, false));
    let other_boot = Saved { boot_id: [9; 16], ..saved };
    let third = Timekeeper::new(Arc::clone(&sim) as Arc<dyn Clock>);
    assert!(!third.resume(&other_boot));
    assert_ne!(third.moment().timeline, saved.timeline);
    assert!(
        !third.resume(&Saved { asleep_ns: saved.asleep_ns + S, ..saved }),
        "RAW stood still in a suspend"
    );
}

#[test]
fn what_was_proven_once_is_not_forgotten_by_a_restart_or_a_new_start_of_the_machine() {
    let sim = Arc::new(SimClock::new(0));
    sim.discipline(0, 1_400_000, false);
    let keeper = Timekeeper::new(Arc::clone(&sim) as Arc<dyn Clock>);
    keeper.refresh(None, false);
    let saved = keeper.saved();
    assert_eq!(saved.basis, Basis::Own);
    // NTP is gone, and the clock is set back: RAW ran on, so nothing is lost but certainty.
    sim.set_status(16_000_000_000, true);
    sim.step(-NINE_HOURS);
    sim.advance(100 * S);
    let next = Timekeeper::new(Arc::clone(&sim) as Arc<dyn Clock>);
    assert!(next.resume(&saved));
    next.refresh(None, false);
    let now = next.now();
    assert!(now.proven && now.utc.minus(sim.truth()).unsigned_abs() <= now.err_ns, "{now:?}");
    // A new start: nobody knows how long it took, but time did not go back, whatever the RTC says.
    let rebooted = Timekeeper::new(Arc::clone(&sim) as Arc<dyn Clock>);
    assert!(!rebooted.resume(&Saved { boot_id: [9; 16], ..saved }));
    rebooted.refresh(None, false);
    let now = rebooted.now();
    assert!(!now.proven && now.utc >= saved.utc.saturating_add_ns(-2_000_000), "{now:?}");
    // Somebody sets it on purpose.
    sim.advance(S);
    sim.step(-NINE_HOURS);
    rebooted.refresh(None, true);
    assert!(rebooted.now().utc < saved.utc);
}

#[test]
fn what_the_fleet_proved_ends_with_it_and_is_undone_by_command() {
    let (sim, keeper) = nine_hours_ahead();
    let (before, line) = (keeper.moment(), keeper.now().utc.minus(sim.truth()));
    let ten_years = 315_360_000 * S as i64;
    hear(&keeper, FleetWord::Agreed { offset_ns: ten_years, err_ns: 3_000_000 });
    let proven = keeper.moment();
    assert!(
        proven.now.proven && !proven.settled && keeper.certificate_time() != CertificateTime::at_least(0)
    );
    let moved = keeper.take_rebases();
    assert!(moved.iter().all(|rebase| !rebase.settled), "what rests on it stays movable: {moved:?}");
    // The votes of now rest on exchanges that were not moved yet.
    let said = |voter: &str| {
        let vote = gnomon_clock::AgentVote { synced: true, offset_ns: ten_years, err_ns: 1 };
        Said { voter: Some(voter.to_owned()), vote: Some(vote) }
    };
    keeper.set_vote_after(0);
    keeper.hear_fleet(vec![said("a"), said("b")]);
    assert_eq!(keeper.now().utc, proven.now.utc, "counted twice");
    keeper.rebased();
    for _ in 0..70 {
        sim.advance(S);
        keeper.refresh(None, false);
        hear(&keeper, FleetWord::Silent);
    }
    let gone = keeper.moment();
    assert!(!gone.now.proven && keeper.age_usable().is_err());
    assert_eq!(keeper.certificate_time(), CertificateTime::at_least(0));
    assert_eq!(keeper.saved().basis, Basis::Fleet);
    let next = Timekeeper::new(Arc::clone(&sim) as Arc<dyn Clock>);
    assert!(next.resume(&keeper.saved()));
    next.refresh(None, false);
    assert_eq!(next.now().utc, gone.now.utc, "one line, until it is moved in one piece");
    for keeper in [next, keeper] {
        keeper.take_rebases();
        keeper.start_over();
        let now = keeper.moment();
        assert!(!now.now.proven && now.timeline != gone.timeline && now.timeline != before.timeline);
        assert!((now.now.utc.minus(sim.truth()) - line).unsigned_abs() < S, "{now:?}");
        let [undone] = keeper.take_rebases()[..] else { panic!("one move") };
        assert!((undone.by_ns + ten_years).unsigned_abs() < S && undone.undone.is_some());
        assert!(keeper.events().list().iter().any(|e| e.text.starts_with("by command")), "on record");
        keeper.rebased();
        // Who had a say is new again.
        keeper.set_vote_after(S);
        keeper.hear_fleet(vec![said("a"), said("b")]);
        assert_eq!(keeper.now().utc, now.now.utc);
        assert_eq!(keeper.view().state, CollectorState::Unproven(UnprovenReason::Disputed));
    }
}
