//! What a fleet may do to a collector's clock, by property tests over simulated machines whose truth is known: liars below
//! a majority of the long-known, and any number of newcomers, never move it, and the honest majority proves it.

use gnomon_clock::sim::{SimClock, SimRandom};
use gnomon_clock::{
    AgentVote, Clock, CollectorClock, CollectorState, EpochId, FLEET_SILENCE_NS_MAX, FleetWord, Standing,
    UnprovenReason, Voter,
};

const MS: i64 = 1_000_000;
const S: i64 = 1_000_000_000;
const TEN_YEARS: i64 = 315_360_000 * S;
/// Between two looks at the fleet.
const ASK: u64 = 5 * S as u64;

fn runs(default: u64) -> u64 {
    std::env::var("GNOMON_SIM_RUNS").ok().and_then(|r| r.parse().ok()).unwrap_or(default)
}

/// A fleet whose composition does not change; who is present does.
struct Fleet {
    long_known: usize,
    liars: usize,
    newcomers: usize,
    lie: i64,
}

impl Fleet {
    fn of(r: &mut SimRandom) -> Fleet {
        let long_known = r.range(0, 12) as usize;
        // At most half of the long-known.
        let liars = r.range(0, long_known as i64 / 2) as usize;
        let lie = r.range(2 * S, TEN_YEARS) * if r.one_in(2) { 1 } else { -1 };
        Fleet { long_known, liars, newcomers: r.range(0, 40) as usize, lie }
    }

    /// What they say of a collector that is off the truth by `off`.
    fn say(&self, r: &mut SimRandom, off: i64, honest: bool, liars: bool) -> Vec<Voter> {
        let ids = |r: &mut SimRandom, vote: AgentVote| vec![vote; r.range(1, 4) as usize];
        let truthful = |r: &mut SimRandom| {
            let err = r.range(100_000, 40 * MS);
            let offset_ns = -off + r.range(-err, err);
            // It is heard when it is that old.
            AgentVote { synced: true, offset_ns, err_ns: err.cast_unsigned() + ASK / 2_000 }
        };
        let lying = |r: &mut SimRandom| {
            // Far away, or just beyond what honest errors allow.
            let by = if r.one_in(3) { r.range(-60 * MS, 60 * MS) } else { self.lie };
            AgentVote { synced: true, offset_ns: -off + by, err_ns: r.range(0, 20 * MS).cast_unsigned() }
        };
        let mut voters = Vec::new();
        for n in 0..self.long_known {
            let words = match n < self.liars {
                true if liars => {
                    let vote = lying(r);
                    ids(r, vote)
                }
                false if honest => {
                    let vote = truthful(r);
                    ids(r, vote)
                }
                _ => Vec::new(),
            };
            voters.push(Voter { long_known: true, words });
        }
        for _ in 0..self.newcomers {
            let vote = AgentVote { offset_ns: -off + self.lie, err_ns: MS.cast_unsigned(), synced: true };
            voters.push(Voter { long_known: false, words: ids(r, vote) });
        }
        voters
    }

    fn can_prove(&self) -> bool {
        let honest = self.long_known - self.liars;
        honest >= 2 && honest > self.long_known / 2
    }
}

fn off(clock: &CollectorClock, sim: &SimClock) -> i64 {
    clock.now(sim).utc.minus(sim.truth())
}

fn ask(clock: &mut CollectorClock, sim: &SimClock, voters: &[Voter]) {
    sim.advance(ASK);
    clock.refresh(sim, None);
    clock.hear_fleet(sim.raw(), &FleetWord::of(voters));
}

/// A collector without NTP whose clock is wrong by up to a day, or hardly.
fn unproven(r: &mut SimRandom) -> (SimClock, CollectorClock) {
    let sim = SimClock::new(r.range(-100_000, 100_000));
    let wrong = if r.one_in(2) { r.range(-86_400 * S, 86_400 * S) } else { r.range(-20 * MS, 20 * MS) };
    sim.step(wrong);
    let mut clock = CollectorClock::new(EpochId::default(), &sim, false);
    clock.refresh(&sim, None);
    (sim, clock)
}

#[test]
fn liars_and_newcomers_alone_never_move_a_clock_nor_prove_it() {
    let mut disputed = 0;
    for seed in 0..runs(1_200) {
        let mut r = SimRandom::new(seed);
        let fleet = Fleet::of(&mut r);
        let (sim, mut clock) = unproven(&mut r);
        let before = (sim.raw(), clock.now(&sim).utc);
        for _ in 0..20 {
            let off = off(&clock, &sim);
            ask(&mut clock, &sim, &fleet.say(&mut r, off, false, true));
            let now = clock.now(&sim);
            assert!(!now.proven, "seed {seed}");
            let passed = sim.raw().since(before.0).cast_signed();
            assert_eq!(now.utc.minus(before.1), passed, "seed {seed}: it was moved");
            assert!(clock.age_usable(sim.raw()).is_err(), "seed {seed}");
            disputed +=
                u32::from(clock.state(sim.raw()) == CollectorState::Unproven(UnprovenReason::Disputed));
        }
    }
    assert!(disputed > 1_000, "a contradiction is said: {disputed}");
}

#[test]
fn the_honest_majority_of_the_long_known_proves_a_clock_and_liars_do_not_disturb_it() {
    let (mut proven, mut bound) = (0, 0);
    for seed in 0..runs(1_200) {
        let mut r = SimRandom::new(seed);
        let fleet = Fleet::of(&mut r);
        let (sim, mut clock) = unproven(&mut r);
        for _ in 0..40 {
            let off_before = off(&clock, &sim);
            ask(&mut clock, &sim, &fleet.say(&mut r, off_before, true, true));
            let now = clock.now(&sim);
            assert!(now.proven || !fleet.can_prove(), "seed {seed}");
            if now.proven {
                let off = off(&clock, &sim).unsigned_abs();
                // Half of them may agree with one honest voter, no further away than that one may be wrong.
                let more = if fleet.can_prove() { 0 } else { 100 * MS as u64 };
                assert!(off <= now.err_ns + more, "seed {seed}: off by {off}, {now:?}");
                (proven, bound) = (proven + 1, bound + now.err_ns / MS as u64);
            }
        }
        if !fleet.can_prove() {
            continue;
        }
        // The honest go: liars and newcomers cannot keep the proof up, nor move the time.
        let line = (sim.raw(), clock.now(&sim).utc);
        for n in 0.. {
            let off = off(&clock, &sim);
            ask(&mut clock, &sim, &fleet.say(&mut r, off, false, true));
            let passed = sim.raw().since(line.0).cast_signed();
            assert_eq!(clock.now(&sim).utc.minus(line.1), passed, "seed {seed}: it was moved");
            if !clock.now(&sim).proven {
                break;
            }
            assert!(n * ASK <= FLEET_SILENCE_NS_MAX, "seed {seed}: the proof outlives who gave it");
        }
        assert!(clock.age_usable(sim.raw()).is_err(), "seed {seed}");
        let off = off(&clock, &sim);
        ask(&mut clock, &sim, &fleet.say(&mut r, off, true, true));
        assert!(clock.now(&sim).proven, "seed {seed}: they are back");
    }
    assert!(proven > 10_000, "{proven}");
    assert!(bound / proven < 100, "a bound of use: {} ms", bound / proven);
}

/// Any majority, even one that lies: what this machine's own sources said is not outvoted.
#[test]
fn no_vote_moves_a_clock_that_its_own_sources_proved() {
    for seed in 0..runs(500) {
        let mut r = SimRandom::new(seed);
        let sim = SimClock::new(r.range(-20_000, 20_000));
        sim.discipline(0, 1_400_000, r.one_in(2));
        let mut clock = CollectorClock::new(EpochId::default(), &sim, false);
        for _ in 0..5 {
            sim.advance(S as u64);
            sim.discipline(0, 1_400_000, false);
            clock.refresh(&sim, None);
        }
        let lie = r.range(3 * S, TEN_YEARS) * if r.one_in(2) { 1 } else { -1 };
        let vote = AgentVote { synced: true, offset_ns: lie, err_ns: 1_000 };
        let all = vec![Voter { long_known: true, words: vec![vote] }; r.range(2, 9) as usize];
        ask(&mut clock, &sim, &all);
        assert_eq!(clock.standing(sim.raw()), Standing::Unproven, "seed {seed}: outvoted, and it says so");
        assert!(off(&clock, &sim).abs() < 100 * MS, "seed {seed}");
        clock.hear_fleet(sim.raw(), &FleetWord::Silent);
        assert_eq!(clock.standing(sim.raw()), Standing::Own, "seed {seed}");
        // Its NTP is gone, and its error grows beyond a second.
        sim.set_status(16_000_000_000, true);
        sim.advance(r.range(60_000, 100_000) as u64 * S as u64);
        clock.refresh(&sim, None);
        assert_eq!(
            clock.state(sim.raw()),
            CollectorState::Unproven(UnprovenReason::Stale),
            "seed {seed}: {:?}",
            clock.now(&sim)
        );
        let far = lie.signum() * 3_600 * S + lie;
        let vote = AgentVote { offset_ns: far, ..vote };
        for _ in 0..20 {
            ask(&mut clock, &sim, &vec![Voter { long_known: true, words: vec![vote] }; 5]);
            assert_eq!(clock.standing(sim.raw()), Standing::Unproven, "seed {seed}");
            assert!(clock.agents_rule() && off(&clock, &sim).abs() < 10 * S, "seed {seed}");
        }
        // A majority that agrees with what it knew narrows it again.
        let off_now = off(&clock, &sim);
        let vote = AgentVote { offset_ns: -off_now, err_ns: MS as u64, ..vote };
        ask(&mut clock, &sim, &vec![Voter { long_known: true, words: vec![vote] }; 3]);
        assert_eq!(
            clock.standing(sim.raw()),
            Standing::Fleet,
            "seed {seed}: {:?}, off {off_now}, {:?}",
            clock.state(sim.raw()),
            FleetWord::of(&vec![Voter { long_known: true, words: vec![vote] }; 3])
        );
        assert!(off(&clock, &sim).abs() <= clock.now(&sim).err_ns as i64, "seed {seed}");
    }
}

#[test]
fn starting_over_undoes_whatever_was_told() {
    for seed in 0..runs(300) {
        let mut r = SimRandom::new(seed);
        let (sim, mut clock) = unproven(&mut r);
        let wrong = off(&clock, &sim);
        let lie = AgentVote { synced: true, offset_ns: TEN_YEARS, err_ns: 1_000 };
        // Everybody lies.
        ask(&mut clock, &sim, &vec![Voter { long_known: true, words: vec![lie] }; 3]);
        assert!(clock.now(&sim).proven && off(&clock, &sim) > TEN_YEARS / 2, "seed {seed}");
        let (raw, utc) = (sim.raw(), clock.now(&sim).utc);
        if r.one_in(2) {
            // Another process, told by the one before.
            clock = CollectorClock::new(EpochId::default(), &sim, false);
            clock.resume(raw, utc, true);
            clock.refresh(&sim, None);
            assert!(off(&clock, &sim) > TEN_YEARS / 2, "seed {seed}: kept, to be movable in one piece");
            assert_eq!(clock.state(raw), CollectorState::Unproven(UnprovenReason::VotersGone));
        }
        clock.start_over(&sim, false);
        let by_ns = clock.refresh(&sim, None).rebased_by_ns.unwrap();
        assert!((by_ns + TEN_YEARS).abs() < S, "seed {seed}: {by_ns}");
        assert!((off(&clock, &sim) - wrong).abs() < S && !clock.now(&sim).proven, "seed {seed}");
        assert_eq!(clock.state(sim.raw()), CollectorState::Unproven(UnprovenReason::NoSource));
    }
}
