//! The collector's own clock: its time, what that is worth, and whether time may be used to delete.
//!
//! The collector maps its own RAW to UTC as an agent does, so that a slew or a step of its clock moves nothing. A
//! collector without any NTP still has *a* time: its CLOCK_REALTIME at start, carried on by RAW. All agents are mapped to
//! that timeline by the exchange, so that a laboratory without NTP is consistent in itself; every error is then
//! relative to the collector, and [`CollectorState::Unproven`] says so.

use std::fmt;

use crate::chrony::NtpDaemon;
use crate::clock::Clock;
use crate::gate::CollectorNow;
use crate::map::Authority;
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
    /// Most synchronised agents agree against it.
    Outvoted,
}

impl fmt::Display for UnprovenReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            UnprovenReason::NoSource => {
                "no source of time on the collector: times are relative to its clock; run chrony or set the clock"
            }
            UnprovenReason::Stale => "the collector's source of time fell silent and its error grew beyond 1 s",
            UnprovenReason::Conflict => "the collector's sources of time contradict each other",
            UnprovenReason::Outvoted => "most synchronised agents agree against the collector's clock",
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
    timeline: Timeline,
    sampler: Sampler,
    /// The best guess while nothing is proven: REALTIME once read, carried on by RAW.
    guess: (RawNs, UtcNs),
    /// What the last look said of now, to see a jump.
    last: (RawNs, UtcNs),
    jumped: Option<(RawNs, i64)>,
    /// A time that was passed for certain: a clock that nobody vouches for is not believed when it says an earlier one.
    floor: Option<(RawNs, UtcNs)>,
    outvoted: bool,
}

impl CollectorClock {
    /// `epoch`: this collector's own ([`open_epoch`](crate::open_epoch)). Takes no sample yet: call
    /// [`refresh`](Self::refresh) at once and then each second.
    pub fn new(epoch: EpochId, clock: &dyn Clock, timesyncd: bool) -> CollectorClock {
        let bracket = clock.bracket();
        let guess = (bracket.raw, bracket.realtime);
        CollectorClock {
            timeline: Timeline::new(epoch),
            sampler: Sampler::new(timesyncd),
            guess,
            last: guess,
            jumped: None,
            floor: None,
            outvoted: false,
        }
    }

    /// RAW is not comparable any more (suspend, restore): starts over, keeping nothing but the rest after a jump.
    pub fn open_epoch(&mut self, epoch: EpochId, clock: &dyn Clock, timesyncd: bool) {
        let jumped = self.jumped;
        let floor = self.floor.map(|floor| carried(floor, self.last.0));
        *self = CollectorClock::new(epoch, clock, timesyncd);
        // The rest begins anew: how long it has lasted cannot be told.
        self.jumped = jumped.map(|(_, by_ns)| (self.guess.0, by_ns));
        if let Some(floor) = floor {
            self.set_floor(self.guess.0, floor);
        }
    }

    /// It was at least `utc` at `raw`, as was once proven.
    pub fn set_floor(&mut self, raw: RawNs, utc: UtcNs) {
        self.floor = Some((raw, utc));
        if carried(self.guess, raw) < utc {
            self.guess = (raw, utc);
            self.last = self.guess;
        }
    }

    /// The timeline of an earlier process goes on: at `raw` it said `utc`. Only where RAW ran through, and before the
    /// first [`refresh`](Self::refresh), which reports how far the clock was set meanwhile.
    pub fn resume(&mut self, raw: RawNs, utc: UtcNs) {
        self.guess = (raw, utc);
        self.last = self.guess;
    }

    /// The collector's time is UTC of `clock`'s RAW, and what that is worth.
    pub fn now(&self, clock: &dyn Clock) -> CollectorNow {
        self.at(clock.raw())
    }

    /// As [`now`](Self::now), at a RAW reading already made (t2 and t3 of an exchange).
    pub fn at(&self, raw: RawNs) -> CollectorNow {
        match (self.state(raw), self.timeline.estimate(raw)) {
            (CollectorState::Proven(_), Some(e)) => {
                CollectorNow { utc: e.utc, err_ns: e.err_ns, proven: true }
            }
            // Still the better guess, if there is one: the map carries on where the proof ended.
            (_, Some(e)) => CollectorNow { utc: e.utc, err_ns: 0, proven: false },
            (_, None) => CollectorNow { utc: carried(self.guess, raw), err_ns: 0, proven: false },
        }
    }

    pub fn state(&self, raw: RawNs) -> CollectorState {
        if self.outvoted {
            return CollectorState::Unproven(UnprovenReason::Outvoted);
        }
        match self.timeline.estimate(raw) {
            None => CollectorState::Unproven(UnprovenReason::NoSource),
            Some(e) if e.conflict => CollectorState::Unproven(UnprovenReason::Conflict),
            Some(e) if e.err_ns > BOUNDED_ERR_NS_MAX => CollectorState::Unproven(UnprovenReason::Stale),
            Some(_) => CollectorState::Proven(self.timeline.state(raw)),
        }
    }

    /// Looks at the machine's clock and its NTP daemon.
    pub fn refresh(&mut self, clock: &dyn Clock, daemon: Option<&mut dyn NtpDaemon>) -> Refreshed {
        let sampled = self.sampler.sample(clock, daemon);
        for fix in sampled.fixes() {
            self.timeline.add(fix);
        }
        let (raw, realtime) = (sampled.bracket.raw, sampled.bracket.realtime);
        if sampled.stepped_by_ns.is_some() {
            // Somebody set it on purpose.
            self.floor = None;
        }
        let realtime = self.floor.map_or(realtime, |floor| carried(floor, raw).max(realtime));
        if self.timeline.is_empty() && realtime.minus(carried(self.guess, raw)).unsigned_abs() > SET_NS_MIN {
            self.guess = (raw, realtime);
        }
        Refreshed { rebased_by_ns: self.settle(raw), sampled }
    }

    /// Do this machine's own sources stand for its time, without what the fleet says?
    pub fn is_proven_by_itself(&self, raw: RawNs) -> bool {
        let own = self.timeline.estimate_by(Authority::Agent, raw);
        !self.outvoted && own.is_some_and(|e| !e.conflict && e.err_ns <= BOUNDED_ERR_NS_MAX)
    }

    /// What the newest evidence came from.
    pub fn source(&self) -> Option<FixSource> {
        self.timeline.fixes().last().map(|fix| fix.source)
    }

    /// The clock was set (ECANCELED): look at once, and mistrust chronyd until it looked as well.
    pub fn stepped(&mut self) {
        self.sampler.stepped();
    }

    /// Evidence about this collector's RAW from the fleet: what the agents' majority says the time is.
    pub fn adopt(&mut self, fix: Fix) -> Option<i64> {
        self.timeline.add(fix);
        self.settle(fix.raw)
    }

    /// Most synchronised agents agree against this clock, or not any more: see [`arbitrate`].
    pub fn set_outvoted(&mut self, outvoted: bool) {
        self.outvoted = outvoted;
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
        if is.proven {
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

fn carried((raw, utc): (RawNs, UtcNs), to: RawNs) -> UtcNs {
    if to >= raw {
        utc.saturating_add_ns(i64::try_from(to.since(raw)).unwrap_or(i64::MAX))
    } else {
        utc.saturating_add_ns(-i64::try_from(raw.since(to)).unwrap_or(i64::MAX))
    }
}

/// One agent's word in a disagreement: how its own sources see the collector's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AgentVote {
    /// Is the agent SYNCED by its own sources (kernel, chronyd, PTP)?
    pub synced: bool,
    /// Its own sources' time minus the collector's, and how wrong that may be.
    pub offset_ns: i64,
    pub err_ns: u64,
}

/// How a disagreement between the collector and its agents is settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settlement {
    /// Set this authority in every timeline. With [`Authority::Agent`] the collector is outvoted and
    /// `collector_off_ns` (to be added to its time, within `err_ns`) is what the majority says.
    By { authority: Authority, collector_off_ns: i64, err_ns: u64 },
    /// Nobody has the proof: conflict, with the hull as the bound.
    Open,
}

/// A proven collector wins; else more than half of the synchronised agents, if at least two agree among themselves.
pub fn arbitrate(collector_proven: bool, votes: &[AgentVote]) -> Settlement {
    if collector_proven {
        return Settlement::By { authority: Authority::Collector, collector_off_ns: 0, err_ns: 0 };
    }
    let voters: Vec<(i128, i128)> = votes
        .iter()
        .filter(|v| v.synced)
        .map(|v| {
            let (off, err) = (i128::from(v.offset_ns), i128::from(v.err_ns));
            (off - err, off + err)
        })
        .collect();
    // The point that most intervals hold (Marzullo): the best one starts where some interval starts.
    let best = voters
        .iter()
        .map(|(lo, _)| {
            let held: Vec<&(i128, i128)> = voters.iter().filter(|(l, h)| l <= lo && lo <= h).collect();
            let hi = held.iter().map(|(_, h)| *h).min().unwrap_or(*lo);
            (held.len(), *lo, hi)
        })
        .max_by_key(|(count, lo, hi)| (*count, lo - hi));
    match best {
        Some((count, lo, hi)) if count >= 2 && 2 * count > voters.len() => {
            let middle = (lo + hi).div_euclid(2);
            Settlement::By {
                authority: Authority::Agent,
                collector_off_ns: i64::try_from(middle).unwrap_or(0),
                err_ns: u64::try_from(hi - middle).unwrap_or(u64::MAX),
            }
        }
        _ => Settlement::Open,
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
        clock.set_outvoted(true);
        assert_eq!(clock.state(sim.raw()), CollectorState::Unproven(UnprovenReason::Outvoted));
    }

    #[test]
    fn a_proven_collector_wins_else_the_majority_of_synchronised_agents() {
        let vote = |offset_ns| AgentVote { synced: true, offset_ns, err_ns: 10 };
        let by_collector = Settlement::By { authority: Authority::Collector, collector_off_ns: 0, err_ns: 0 };
        assert_eq!(arbitrate(true, &[vote(1_000), vote(1_000)]), by_collector);
        assert_eq!(
            arbitrate(false, &[vote(1_000), vote(1_004), vote(-5_000)]),
            Settlement::By { authority: Authority::Agent, collector_off_ns: 1_002, err_ns: 8 }
        );
        assert_eq!(arbitrate(false, &[vote(1_000), vote(-5_000)]), Settlement::Open);
        assert_eq!(arbitrate(false, &[vote(1_000)]), Settlement::Open);
        let cold = AgentVote { synced: false, ..vote(1_000) };
        assert_eq!(arbitrate(false, &[vote(1_000), cold, cold]), Settlement::Open);
        assert_eq!(arbitrate(false, &[]), Settlement::Open);
    }

    #[test]
    fn an_epoch_without_fixes_lies_between_its_neighbours() {
        let e = |ns, err_ns| Estimate { utc: UtcNs::from_tai_ns(ns), err_ns, conflict: false };
        let b = between_epochs(&e(1_000, 10), &e(2_000, 20)).unwrap();
        assert_eq!((b.utc.tai_ns(), b.err_ns), (1_505, 515));
        assert_eq!(between_epochs(&e(2_000, 0), &e(1_000, 0)), None);
    }
}
