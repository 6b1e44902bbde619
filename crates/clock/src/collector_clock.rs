//! The collector's own clock: its time, what that is worth, and whether time may be used to delete.
//!
//! The collector maps its own RAW to UTC as an agent does, so that a slew or a step of its clock moves nothing. A
//! collector without any NTP still has *a* time: its CLOCK_REALTIME at start, carried on by RAW. All agents are mapped to
//! that timeline by the exchange, so that a laboratory without NTP is consistent in itself; every error is then
//! relative to the collector, and [`CollectorState::Unproven`] says so.

use std::fmt;

use crate::chrony::NtpDaemon;
use crate::clock::Clock;
use crate::fleet_vote::FleetWord;
use crate::gate::CollectorNow;
use crate::sampler::{Sampled, Sampler};
use crate::state::{BOUNDED_ERR_NS_MAX, ClockState};
use crate::time::{EpochId, Estimate, Fix, FixSource, RawNs, UtcNs};
use crate::timeline::Timeline;

/// What the collector's time is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CollectorState {
    /// Kernel, chronyd or the fleet stand for it.
    Proven(ClockState),
    /// A best guess: errors are relative to this collector.
    Unproven(UnprovenReason),
}

/// Why nothing stands for the collector's time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum UnprovenReason {
    NoSource,
    /// Evidence ran out: the error grew beyond 1 s.
    Stale,
    /// Its sources contradict each other.
    Conflict,
    /// Most long-known agents agree against it.
    Outvoted,
    /// The agents that proved it are gone.
    VotersGone,
    /// Agents that have no say, because they are not known for long or have no certificate, contradict it.
    Disputed,
}

impl fmt::Display for UnprovenReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            UnprovenReason::NoSource => {
                "no source of time on the collector: times are relative to its clock; run chrony or set the clock"
            }
            UnprovenReason::Stale => "the collector's source of time fell silent and its error grew beyond 1 s",
            UnprovenReason::Conflict => "the collector's sources of time contradict each other",
            UnprovenReason::Outvoted => "most long-known agents agree against the collector's clock",
            UnprovenReason::VotersGone => "the agents that proved the collector's time are gone",
            UnprovenReason::Disputed => {
                "agents that have no say in the collector's time, being new or without a certificate, contradict it: \
                 run chrony on the collector, or set its clock"
            }
        })
    }
}

/// What a look at the clock changed.
#[derive(Debug)]
pub struct Refreshed {
    pub sampled: Sampled,
    /// The collector's timeline moved by this much: move the exchange fixes made on the old one with
    /// [`Timeline::rebase`], and report it.
    pub rebased_by_ns: Option<i64>,
}

/// A correction below this is the ordinary course of things and inside the errors of the fixes made before.
const REBASE_NS_MIN: u64 = 1_000_000;
/// An unproven clock is believed anew when somebody sets it by more than this.
const SET_NS_MIN: u64 = 500_000_000;
/// A jump beyond this stops age deletion ...
const JUMP_NS_MAX: u64 = 3_600_000_000_000;
/// ... for this long, so that a person can look.
const JUMP_REST_NS: u64 = 3_600_000_000_000;
/// What the fleet proved is proven for so long after it was said last.
pub const FLEET_SILENCE_NS_MAX: u64 = 60_000_000_000;
/// Moves of a proven time below this are the ordinary course of things: evidence that rests on it stays where it is.
pub const NOTABLE_NS: u64 = 50_000_000;
/// After this long an agent's evidence reflects a move: it exchanges every 16 s, and reports what that gave.
const REFLECTED_NS: u64 = 120_000_000_000;

/// What the collector's time rests on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Nothing proves it.
    Unproven,
    /// The fleet proves it: evidence that is relative to it stays movable.
    Fleet,
    /// This machine's own sources prove it.
    Own,
}

/// Why nothing may be deleted for its age now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AgeUnusable {
    #[error("no deletion by age: {0}")]
    Unproven(UnprovenReason),
    #[error("no deletion by age for another {} s: the collector's clock jumped by {by_s} s", left_ns / 1_000_000_000)]
    Jumped { by_s: i64, left_ns: u64 },
}

/// The collector's clock.
#[derive(Debug)]
pub struct CollectorClock {
    /// The evidence of this machine's own sources.
    own: Timeline,
    sampler: Sampler,
    /// The time where this machine's own sources give none.
    guess: Guess,
    /// What the last look said of now, to see a jump.
    last: (RawNs, UtcNs),
    jumped: Option<(RawNs, i64)>,
    /// A time that was passed for certain: a clock that nobody vouches for is not believed when it says an earlier one.
    floor: Option<(RawNs, UtcNs)>,
    /// The last word of the fleet contradicts what this machine's own sources said.
    agents_rule: bool,
    outvoted: bool,
    disputed: bool,
}

/// A time carried on by RAW: REALTIME once read, or what the fleet told.
#[derive(Clone, Copy, Debug)]
struct Guess {
    at: (RawNs, UtcNs),
    told: Option<Told>,
}

/// The fleet told it.
#[derive(Clone, Copy, Debug)]
struct Told {
    /// When it was confirmed last, and the error then. `None`: by an earlier process.
    vouched: Option<(RawNs, u64)>,
    /// What REALTIME said last: it is something else, and counts again once somebody sets it.
    realtime: Option<(RawNs, UtcNs)>,
    /// Small moves of late that the agents' words may not reflect yet: when, and how far together.
    moved: (RawNs, u64),
}

impl Told {
    /// The error at `raw`, while it is proven.
    fn err_ns(&self, raw: RawNs) -> Option<u64> {
        let (at, err_ns) = self.vouched?;
        let since = raw.since(at);
        (since <= FLEET_SILENCE_NS_MAX).then(|| err_ns.saturating_add(since / 2_000))
    }
}

impl CollectorClock {
    /// `epoch`: this collector's own ([`open_epoch`](crate::open_epoch)). Takes no sample yet: call
    /// [`refresh`](Self::refresh) at once and then each second.
    pub fn new(epoch: EpochId, clock: &dyn Clock, timesyncd: bool) -> CollectorClock {
        let bracket = clock.bracket();
        let read = (bracket.raw, bracket.realtime);
        CollectorClock {
            own: Timeline::new(epoch),
            sampler: Sampler::new(timesyncd),
            guess: Guess { at: read, told: None },
            last: read,
            jumped: None,
            floor: None,
            agents_rule: false,
            outvoted: false,
            disputed: false,
        }
    }

    /// RAW is not comparable any more (suspend, restore): starts over, keeping nothing but the rest after a jump.
    pub fn open_epoch(&mut self, epoch: EpochId, clock: &dyn Clock, timesyncd: bool) {
        let jumped = self.jumped;
        let floor = self.floor.map(|floor| carried(floor, self.last.0));
        *self = CollectorClock::new(epoch, clock, timesyncd);
        // The rest begins anew: how long it has lasted cannot be told.
        self.jumped = jumped.map(|(_, by_ns)| (self.guess.at.0, by_ns));
        if let Some(floor) = floor {
            self.set_floor(self.guess.at.0, floor);
        }
    }

    /// Forgets all evidence, what the fleet said and what an earlier process left, and goes by this machine's clock. Call
    /// [`refresh`](Self::refresh) at once: it reports by how much that moved the time.
    pub fn start_over(&mut self, clock: &dyn Clock, timesyncd: bool) {
        let last = self.last;
        *self = CollectorClock { last, ..CollectorClock::new(self.own.epoch(), clock, timesyncd) };
    }

    /// It was at least `utc` at `raw`, as was once proven.
    pub fn set_floor(&mut self, raw: RawNs, utc: UtcNs) {
        self.floor = Some((raw, utc));
        if carried(self.guess.at, raw) < utc {
            self.guess.at = (raw, utc);
            self.last = self.guess.at;
        }
    }

    /// The timeline of an earlier process goes on: at `raw` it said `utc`, by this machine's clock or as the fleet told
    /// it. Only where RAW ran through, and before the first [`refresh`](Self::refresh), which reports how far the clock
    /// was set meanwhile.
    pub fn resume(&mut self, raw: RawNs, utc: UtcNs, by_fleet: bool) {
        let told = Told { vouched: None, realtime: None, moved: (raw, 0) };
        self.guess = Guess { at: (raw, utc), told: by_fleet.then_some(told) };
        self.last = self.guess.at;
    }

    /// What this machine's own sources told an earlier process. Only where RAW ran through.
    pub fn recall(&mut self, fix: Fix) {
        self.own.add(fix);
        self.settle(fix.raw);
    }

    /// The collector's time is UTC of `clock`'s RAW, and what that is worth.
    pub fn now(&self, clock: &dyn Clock) -> CollectorNow {
        self.at(clock.raw())
    }

    /// As [`now`](Self::now), at a RAW reading already made (t2 and t3 of an exchange).
    pub fn at(&self, raw: RawNs) -> CollectorNow {
        let judged = self.judge(raw);
        CollectorNow { utc: judged.utc, err_ns: judged.err_ns, proven: judged.standing != Standing::Unproven }
    }

    pub fn state(&self, raw: RawNs) -> CollectorState {
        self.judge(raw).state
    }

    /// What the time rests on.
    pub fn standing(&self, raw: RawNs) -> Standing {
        self.judge(raw).standing
    }

    fn judge(&self, raw: RawNs) -> Judged {
        let own = self.own.estimate(raw);
        let told = self.guess.told;
        let utc = match own {
            Some(e) if told.is_none() || e.conflict || is_bounded(&e) => e.utc,
            // Still a good guess: the map carries on where the proof ended.
            Some(_) | None => carried(self.guess.at, raw),
        };
        let proven =
            |standing, state, err_ns| Judged { utc, err_ns, standing, state: CollectorState::Proven(state) };
        let reason = match own {
            _ if self.outvoted => UnprovenReason::Outvoted,
            Some(e) if e.conflict => UnprovenReason::Conflict,
            Some(e) if is_bounded(&e) => return proven(Standing::Own, self.own.state(raw), e.err_ns),
            _ => match told.and_then(|told| told.err_ns(raw)) {
                Some(err_ns) if err_ns <= BOUNDED_ERR_NS_MAX => {
                    return proven(Standing::Fleet, ClockState::Synced, err_ns);
                }
                _ if self.disputed => UnprovenReason::Disputed,
                _ if told.is_some() => UnprovenReason::VotersGone,
                _ if own.is_some() => UnprovenReason::Stale,
                _ => UnprovenReason::NoSource,
            },
        };
        Judged { utc, err_ns: 0, standing: Standing::Unproven, state: CollectorState::Unproven(reason) }
    }

    /// Looks at the machine's clock and its NTP daemon.
    pub fn refresh(&mut self, clock: &dyn Clock, daemon: Option<&mut dyn NtpDaemon>) -> Refreshed {
        let sampled = self.sampler.sample(clock, daemon);
        for fix in sampled.fixes() {
            self.own.add(fix);
        }
        let (raw, realtime) = (sampled.bracket.raw, sampled.bracket.realtime);
        if sampled.stepped_by_ns.is_some() {
            // Somebody set it on purpose.
            self.floor = None;
        }
        let read = (raw, self.floor.map_or(realtime, |floor| carried(floor, raw).max(realtime)));
        let was_set = |before: (RawNs, UtcNs)| read.1.minus(carried(before, raw)).unsigned_abs() > SET_NS_MIN;
        match &mut self.guess.told {
            Some(told) if told.err_ns(raw).is_some() || !told.realtime.is_some_and(was_set) => {
                told.realtime = Some(read);
            }
            None if !self.own.is_empty() || !was_set(self.guess.at) => {}
            _ => self.guess = Guess { at: read, told: None },
        }
        Refreshed { rebased_by_ns: self.settle(raw), sampled }
    }

    /// Do this machine's own sources stand for its time, without what the fleet says?
    pub fn is_proven_by_itself(&self, raw: RawNs) -> bool {
        self.own.estimate(raw).is_some_and(|e| !e.conflict && is_bounded(&e))
    }

    /// What the newest evidence came from; what the fleet said came from exchanges.
    pub fn source(&self, raw: RawNs) -> Option<FixSource> {
        let own = self.own.fixes().last().map(|fix| fix.source);
        match self.standing(raw) {
            Standing::Fleet => Some(FixSource::Collector),
            _ => own.or(self.guess.told.map(|_| FixSource::Collector)),
        }
    }

    /// The time is what the fleet tells, or once told.
    pub fn is_told_by_fleet(&self, raw: RawNs) -> bool {
        self.guess.told.is_some() && !self.is_proven_by_itself(raw)
    }

    /// The clock was set (ECANCELED): look at once, and mistrust chronyd until it looked as well.
    pub fn stepped(&mut self) {
        self.sampler.stepped();
    }

    /// What the fleet says of this clock while its own sources prove nothing ([`FleetWord::Silent`] while they do). Gives
    /// by how much the time moved.
    pub fn hear_fleet(&mut self, raw: RawNs, word: &FleetWord) -> Option<i64> {
        self.disputed = matches!(word, FleetWord::Disputed { .. });
        let FleetWord::Agreed { offset_ns, err_ns } = *word else {
            (self.agents_rule, self.outvoted) = (false, false);
            return None;
        };
        let now = self.at(raw).utc;
        let said = now.saturating_add_ns(offset_ns);
        let contradicts = |other: UtcNs, other_err_ns: u64| {
            said.minus(other).unsigned_abs() > err_ns.saturating_add(other_err_ns)
        };
        let own = self.own.estimate(raw);
        let against_own = own.is_some_and(|e| e.conflict || contradicts(e.utc, e.err_ns));
        let too_early = self.floor.is_some_and(|floor| {
            let passed = carried(floor, raw);
            said < passed && contradicts(passed, raw.since(floor.0) / 2_000)
        });
        // Where the machine's own evidence is another, more voices do not make them right: agents go by their own.
        self.agents_rule = against_own || too_early;
        self.outvoted = self.agents_rule && offset_ns.unsigned_abs() > err_ns;
        if self.agents_rule {
            return None;
        }
        let before = self.guess.told.filter(|told| told.err_ns(raw).is_some());
        let moved =
            before.map_or(0, |told| if raw.since(told.moved.0) > REFLECTED_NS { 0 } else { told.moved.1 });
        let off_ns = offset_ns.unsigned_abs();
        let err_ns = err_ns.saturating_add(moved);
        let realtime = self.guess.told.and_then(|told| told.realtime);
        let told = |err_ns, moved| Some(Told { vouched: Some((raw, err_ns)), realtime, moved });
        self.guess = if off_ns <= err_ns {
            // It may be right as it is. Not to move keeps what agents were told in the meantime one line.
            let moved = before.map_or((raw, 0), |told| (told.moved.0, moved));
            Guess { at: (raw, now), told: told(err_ns.saturating_add(off_ns), moved) }
        } else {
            let small = if before.is_some() && off_ns <= NOTABLE_NS { off_ns } else { 0 };
            Guess { at: (raw, said), told: told(err_ns, (raw, moved.saturating_add(small))) }
        };
        self.settle(raw)
    }

    /// Most long-known agents contradict this machine's own evidence: in a disagreement their own sources' word stands.
    pub fn agents_rule(&self) -> bool {
        self.agents_rule
    }

    /// May records be deleted for their age? Deletion by bytes and free space needs no time.
    ///
    /// # Errors
    /// When the clock is unproven, or jumped by more than an hour within the last hour (invariant I9).
    pub fn age_usable(&self, raw: RawNs) -> Result<(), AgeUnusable> {
        if let CollectorState::Unproven(reason) = self.state(raw) {
            return Err(AgeUnusable::Unproven(reason));
        }
        if let Some((at, by_ns)) = self.jumped {
            let since = raw.since(at);
            if since < JUMP_REST_NS {
                return Err(AgeUnusable::Jumped {
                    by_s: by_ns / 1_000_000_000,
                    left_ns: JUMP_REST_NS - since,
                });
            }
        }
        Ok(())
    }

    /// Compares now with what the last look let expect.
    fn settle(&mut self, raw: RawNs) -> Option<i64> {
        let is = self.at(raw);
        let now = is.utc;
        if self.standing(raw) == Standing::Own {
            self.floor = Some((raw, now.saturating_add_ns(-i64::try_from(is.err_ns).unwrap_or(i64::MAX))));
        }
        let by_ns = now.minus(carried(self.last, raw));
        let drift_ns = raw.since(self.last.0) / 2_000;
        self.last = (raw, now);
        if by_ns.unsigned_abs() > JUMP_NS_MAX {
            self.jumped = Some((raw, by_ns));
        }
        (by_ns.unsigned_abs() > REBASE_NS_MIN + drift_ns).then_some(by_ns)
    }
}

/// How the time stands at a reading.
struct Judged {
    utc: UtcNs,
    /// 0 while unproven.
    err_ns: u64,
    standing: Standing,
    state: CollectorState,
}

fn is_bounded(estimate: &Estimate) -> bool {
    estimate.err_ns <= BOUNDED_ERR_NS_MAX
}

fn carried((raw, utc): (RawNs, UtcNs), to: RawNs) -> UtcNs {
    if to >= raw {
        utc.saturating_add_ns(i64::try_from(to.since(raw)).unwrap_or(i64::MAX))
    } else {
        utc.saturating_add_ns(-i64::try_from(raw.since(to)).unwrap_or(i64::MAX))
    }
}

/// The bound of a record whose epoch never got a fix: after the last fix of the epoch before, and before the first fix
/// of the epoch after. `None` when the neighbours do not enclose anything.
pub fn between_epochs(last_before: &Estimate, first_after: &Estimate) -> Option<Estimate> {
    let lo = i128::from(last_before.utc.tai_ns()) - i128::from(last_before.err_ns);
    let hi = i128::from(first_after.utc.tai_ns()) + i128::from(first_after.err_ns);
    if lo > hi {
        return None;
    }
    let middle = (lo + hi).div_euclid(2);
    Some(Estimate {
        utc: UtcNs::from_tai_ns(i64::try_from(middle).ok()?),
        err_ns: u64::try_from(hi - middle).unwrap_or(u64::MAX),
        conflict: last_before.conflict || first_after.conflict,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::SimClock;

    const S: u64 = 1_000_000_000;

    fn clock_of(sim: &SimClock) -> CollectorClock {
        CollectorClock::new(EpochId::default(), sim, false)
    }

    #[test]
    fn without_ntp_it_has_a_time_and_says_that_it_is_relative() {
        let sim = SimClock::new(0);
        sim.step(32_400_000_000_000);
        let mut clock = clock_of(&sim);
        sim.advance(10 * S);
        assert_eq!(clock.refresh(&sim, None).rebased_by_ns, None);
        let now = clock.now(&sim);
        assert_eq!((now.utc.minus(sim.truth()), now.proven), (32_400_000_000_000, false));
        assert_eq!(clock.state(sim.raw()), CollectorState::Unproven(UnprovenReason::NoSource));
        assert!(clock.age_usable(sim.raw()).unwrap_err().to_string().contains("relative to its clock"));
        // The operator sets it: believed, and reported.
        sim.step(-32_400_000_000_000);
        assert_eq!(clock.refresh(&sim, None).rebased_by_ns, Some(-32_400_000_000_000));
        assert_eq!(clock.now(&sim).utc, sim.truth());
    }

    #[test]
    fn proof_rebases_once_and_a_slew_or_step_of_realtime_moves_nothing() {
        let sim = SimClock::new(0);
        sim.step(32_400_000_000_000);
        let mut clock = clock_of(&sim);
        clock.refresh(&sim, None);
        sim.advance(2 * S);
        sim.discipline(1_000, 1_400_000, true);
        assert_eq!(clock.refresh(&sim, None).rebased_by_ns, Some(-32_399_999_999_000));
        let now = clock.now(&sim);
        assert!(now.proven && now.err_ns < 2_000_000);
        assert!(matches!(clock.age_usable(sim.raw()), Err(AgeUnusable::Jumped { by_s: -32_399, .. })));
        sim.advance(S);
        sim.step(3_600_000_000_000);
        assert_eq!(clock.refresh(&sim, None).rebased_by_ns, None);
        assert!(clock.now(&sim).utc.minus(sim.truth()).unsigned_abs() <= clock.now(&sim).err_ns);
        sim.discipline(0, 1_400_000, true);
        for _ in 0..3_700 {
            sim.advance(S);
            sim.discipline(0, 1_400_000, true);
            clock.refresh(&sim, None);
        }
        assert_eq!(clock.age_usable(sim.raw()), Ok(()));
        sim.step(1);
        sim.advance(200_000 * S);
        clock.refresh(&sim, None);
        assert_eq!(clock.state(sim.raw()), CollectorState::Unproven(UnprovenReason::Stale));
        let word = FleetWord::Agreed { offset_ns: 3_600_000_000_000, err_ns: 1_000 };
        assert_eq!(clock.hear_fleet(sim.raw(), &word), None);
        assert_eq!(clock.state(sim.raw()), CollectorState::Unproven(UnprovenReason::Outvoted));
        assert!(clock.agents_rule());
    }

    #[test]
    fn an_epoch_without_fixes_lies_between_its_neighbours() {
        let e = |ns, err_ns| Estimate { utc: UtcNs::from_tai_ns(ns), err_ns, conflict: false };
        let b = between_epochs(&e(1_000, 10), &e(2_000, 20)).unwrap();
        assert_eq!((b.utc.tai_ns(), b.err_ns), (1_505, 515));
        assert_eq!(between_epochs(&e(2_000, 0), &e(1_000, 0)), None);
    }
}
