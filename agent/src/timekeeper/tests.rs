//! Evidence in, reports out, and what is known of the time when nothing proves it.

use gnomon_clock::DisruptionKind;
use gnomon_clock::sim::SimClock;

use super::*;

const S: u64 = 1_000_000_000;

fn keeper() -> Timekeeper {
    Timekeeper::new(EpochId::default(), Evidence::default())
}

fn fix(raw: u64, source: FixSource, err_ns: u64) -> Fix {
    let utc = UtcNs::from_tai_ns(1_800_000_000_000_000_000 + raw as i64);
    Fix { raw: RawNs(raw), utc, err_ns, source }
}

fn told(keeper: &Timekeeper) -> usize {
    keeper.untold().iter().map(|report| report.fixes.len()).sum()
}

#[test]
fn a_second_is_sampled_and_every_sixteenth_is_told_once_synchronised() {
    let keeper = keeper();
    for second in 1..=3 {
        keeper.sampled(fix(second * S, FixSource::Kernel, 2_000_000));
    }
    assert_eq!(told(&keeper), 3, "each second until it is synchronised");
    for second in 4..=99 {
        keeper.sampled(fix(second * S, FixSource::Kernel, 2_000_000));
    }
    assert_eq!(told(&keeper), 6);
    keeper.sampled(fix(100 * S, FixSource::Kernel, 20_000));
    assert_eq!(told(&keeper), 1, "a better word at once");
    assert!(keeper.all()[0].fixes.len() > 90, "a session begins with everything");
    keeper.sampled(fix(101 * S, FixSource::Chrony, 20_000));
    let other = UtcNs::from_tai_ns(1_800_003_600_000_000_000);
    keeper.sampled(Fix { utc: other, ..fix(102 * S, FixSource::Kernel, 20_000) });
    assert_eq!(told(&keeper), 2, "what contradicts at once");
}

#[test]
fn a_step_noticed_twice_is_one_and_gets_its_size() {
    let keeper = keeper();
    assert!(keeper.stepped(RawNs(S), None));
    assert!(!keeper.stepped(RawNs(S + 1_000_000), Some(-32_400)));
    let view = keeper.view(RawNs(2 * S));
    assert_eq!((view.steps, view.last_step), (1, Some((RawNs(S), Some(-32_400)))));
    assert!(keeper.stepped(RawNs(S + 2_000_000), Some(5)), "two that were measured are two");
    assert!(!keeper.stepped(RawNs(S + 3_000_000), None));
    assert_eq!(keeper.view(RawNs(2 * S)).steps, 2);
}

#[test]
fn a_break_ends_the_epoch_at_the_last_good_reading_and_nothing_is_compared_across_it() {
    let keeper = keeper();
    keeper.sampled(fix(S, FixSource::Kernel, 2_000_000));
    keeper.untold();
    let new = EpochId { opened: RawNs(5 * S), ..EpochId::default() };
    let kind = DisruptionKind::Suspended { ns: 7 };
    keeper.disrupted(&Disruption { kind, last_good: RawNs(4 * S) }, new);
    let told = keeper.untold();
    let ended = told[0].ended.as_ref().unwrap();
    assert_eq!((ended.last_good, ended.successor), (Some(RawNs(4 * S)), Some(new)));
    assert_eq!((told[0].epoch, told[0].fixes.len()), (EpochId::default(), 1));
    assert_eq!((keeper.epoch(), keeper.view(RawNs(6 * S)).state), (new, ClockState::Cold));
    assert!(!keeper.is_comparable(&EpochId::default()) && keeper.is_comparable(&new));
    let stranger = EpochId { opened: RawNs(1), ..EpochId::default() };
    assert!(!keeper.is_comparable(&stranger), "before everything that is known");
    assert_eq!(keeper.all().len(), 2, "said again with each session");
    // The next process of the same boot: its readings go on from the last epoch, not from that before the break.
    let third = EpochId { opened: RawNs(9 * S), ..EpochId::default() };
    let next = Timekeeper::new(third, keeper.evidence(&SimClock::new(0)));
    assert!(next.is_comparable(&new) && !next.is_comparable(&EpochId::default()));
    assert_eq!(next.all()[1].ended.as_ref().and_then(|ended| ended.successor), Some(third));
}

#[test]
fn what_another_timeline_of_the_collector_said_is_void() {
    let sim = SimClock::new(0);
    let keeper = keeper();
    let exchange = |off_ns: i64, timeline: u64| {
        sim.advance(S);
        let t1 = sim.raw();
        sim.advance(200_000);
        let at = sim.truth().saturating_add_ns(off_ns);
        let sample = ExchangeSample { t1, t2: at, t3: at, t4: sim.raw(), collector_err_ns: 1_000 };
        keeper.exchanged(&sample, timeline, true).unwrap();
        keeper.view(sim.raw())
    };
    for _ in 0..4 {
        exchange(32_400_000_000_000, 1);
    }
    assert_eq!(exchange(32_400_000_000_000, 1).state, ClockState::Synced);
    let view = exchange(0, 2);
    assert!(!view.estimate.unwrap().conflict && view.state == ClockState::Acquiring, "{view:?}");
    let off = view.estimate.unwrap().utc.minus(sim.truth());
    assert!(off.unsigned_abs() <= view.estimate.unwrap().err_ns);
    assert!(keeper.all()[0].fixes.iter().all(|fix| fix.utc < sim.truth().saturating_add_ns(S as i64)));
    assert_eq!(keeper.all()[0].collector_timeline, 2);
}

#[test]
fn certificates_are_judged_by_what_was_known_last_until_the_time_is_known() {
    let sim = SimClock::new(0);
    sim.advance(S);
    let first = Timekeeper::new(EpochId { boot_id: [2; 16], ..EpochId::default() }, Evidence::default());
    let seconds = |utc: UtcNs| (utc.unix_ns() / 1_000_000_000) as u64;
    let built = CertificateTime::at_least(0);
    for step in [32_400_000_000_000, -315_360_000_000_000_000, -1_700_000_000_000_000_000] {
        sim.step(step);
        assert_eq!(first.certificate_time(&sim), built, "the machine's own clock has no say");
    }
    for _ in 0..3 {
        sim.advance(S);
        first.sampled(Fix { raw: sim.raw(), utc: sim.truth(), err_ns: 1_000, source: FixSource::Chrony });
    }
    assert_eq!(first.certificate_time(&sim), built, "NTP is anybody's word");
    let t1 = sim.raw();
    sim.advance(200_000);
    let at = sim.truth();
    let sample = ExchangeSample { t1, t2: at, t3: at, t4: sim.raw(), collector_err_ns: 1_000 };
    first.exchanged(&sample, 1, true).unwrap();
    assert_eq!(first.certificate_time(&sim), CertificateTime::Known(seconds(sim.truth())));
    let kept = first.evidence(&sim);
    let passed = sim.truth();
    // The next process of this boot goes on from there; after a new start of the machine it is at least as late.
    sim.advance(100 * S);
    let second =
        Timekeeper::new(EpochId { boot_id: [2; 16], opened: sim.raw(), ..EpochId::default() }, kept.clone());
    let CertificateTime::AtLeast(at) = second.certificate_time(&sim) else { panic!() };
    assert!(at.abs_diff(seconds(sim.truth())) <= 1);
    let rebooted = Timekeeper::new(EpochId { boot_id: [3; 16], ..EpochId::default() }, kept);
    let CertificateTime::AtLeast(at) = rebooted.certificate_time(&sim) else { panic!() };
    assert!(at.abs_diff(seconds(passed)) <= 1);
}

#[test]
fn a_process_in_another_time_namespace_knows_that_raw_is_another() {
    let before = keeper();
    before.sampled(fix(S, FixSource::Kernel, 2_000_000));
    let mut kept = before.evidence(&SimClock::new(0));
    let new = EpochId { opened: RawNs(5 * S), ..EpochId::default() };
    assert!(Timekeeper::new(new, kept.clone()).is_comparable(&EpochId::default()));
    kept.machine.push('1');
    assert!(!Timekeeper::new(new, kept).is_comparable(&EpochId::default()));
}

#[test]
fn i11_what_the_clock_shows_is_no_second_off_after_a_leap_second() {
    let sim = SimClock::new(0);
    let keeper = keeper();
    sim.schedule_leap_second(10_000_000_000);
    let before = keeper.status(&sim).realtime_tai_ns;
    sim.advance(20_000_000_000);
    assert_eq!(keeper.status(&sim).realtime_tai_ns - before, 20_000_000_000);
}
