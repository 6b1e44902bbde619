//! The agent's clock: what it knows, in which state that puts it, and when to look again.

use crate::map::agree;
use crate::time::{EpochId, Estimate, Fix, FixSource, MonoNs, RawNs};
use crate::timeline::{Added, Timeline};

/// How much an agent's time is worth. Capture runs in every one of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ClockState {
    /// No evidence yet: records are kept in RAW only.
    #[default]
    Cold,
    /// First evidence, not yet enough for [`ClockState::Synced`].
    Acquiring,
    /// Error at most 50 ms, by at least three fixes.
    Synced,
    /// No fix of late: the error grows with the uncertainty of the rate.
    Holdover,
    /// Error above 1 s.
    Unbounded,
    /// Sources contradict each other.
    Conflict,
}

/// Most that [`ClockState::Synced`] may be wrong.
pub const SYNCED_ERR_NS_MAX: u64 = 50_000_000;
/// More than this is [`ClockState::Unbounded`].
pub const BOUNDED_ERR_NS_MAX: u64 = 1_000_000_000;
/// Fixes that make [`ClockState::Synced`].
pub const SYNCED_FIXES_MIN: usize = 3;
/// Silence of a local source (sampled each second) that makes [`ClockState::Holdover`].
pub const HOLDOVER_AFTER_NS: u64 = 10_000_000_000;
/// The same for the exchange, of which there is one in about 16 s.
pub const HOLDOVER_AFTER_EXCHANGE_NS: u64 = 40_000_000_000;

impl ClockState {
    pub(crate) fn of(estimate: &Estimate, fixes: usize, newest: &Fix, raw: RawNs) -> ClockState {
        let silence_ns_max = match newest.source {
            FixSource::Collector => HOLDOVER_AFTER_EXCHANGE_NS,
            _ => HOLDOVER_AFTER_NS,
        };
        if estimate.conflict {
            ClockState::Conflict
        } else if estimate.err_ns > BOUNDED_ERR_NS_MAX {
            ClockState::Unbounded
        } else if raw.since(newest.raw) > silence_ns_max {
            ClockState::Holdover
        } else if estimate.err_ns <= SYNCED_ERR_NS_MAX && fixes >= SYNCED_FIXES_MIN {
            ClockState::Synced
        } else {
            ClockState::Acquiring
        }
    }

    /// One word for people.
    pub fn name(self) -> &'static str {
        match self {
            ClockState::Cold => "cold",
            ClockState::Acquiring => "acquiring",
            ClockState::Synced => "synced",
            ClockState::Holdover => "holdover",
            ClockState::Unbounded => "unbounded",
            ClockState::Conflict => "conflict",
        }
    }
}

const SAMPLE_EVERY_NS: u64 = 1_000_000_000;
const SAMPLE_EVERY_NS_UNSYNCED: u64 = 100_000_000;
const EXCHANGE_EVERY_NS: u64 = 16_000_000_000;
const EXCHANGE_EVERY_NS_UNSYNCED: u64 = 1_000_000_000;

/// When to do what next, by the monotonic clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Due {
    pub sample_at: MonoNs,
    pub exchange_at: MonoNs,
}

/// The agent's knowledge of its own clock in the running epoch. Pure: told of fixes and steps, it says the state and
/// when to look again.
#[derive(Clone, Debug)]
pub struct AgentClock {
    timeline: Timeline,
    sampled_at: Option<MonoNs>,
    exchanged_at: Option<MonoNs>,
    /// Disjoint evidence was seen; how many fixes agreed with each other since.
    disputed: Option<usize>,
    last_step: Option<(RawNs, Option<i64>)>,
    steps: u64,
    /// What the machine's own clock said before this is void.
    disowned: Option<RawNs>,
}

impl AgentClock {
    pub fn new(epoch: EpochId) -> AgentClock {
        AgentClock {
            timeline: Timeline::new(epoch),
            sampled_at: None,
            exchanged_at: None,
            disputed: None,
            last_step: None,
            steps: 0,
            disowned: None,
        }
    }

    /// Forgets the evidence: RAW is not comparable any more. Both sample and exchange are due at once.
    pub fn open_epoch(&mut self, epoch: EpochId) {
        let (last_step, steps) = (self.last_step, self.steps);
        *self = AgentClock { last_step, steps, ..AgentClock::new(epoch) };
    }

    pub fn timeline(&self) -> &Timeline {
        &self.timeline
    }

    pub fn epoch(&self) -> EpochId {
        self.timeline.epoch()
    }

    /// Takes a fix in, whichever its source.
    pub fn add(&mut self, fix: Fix) -> Added {
        let fresh: Vec<Fix> = self.fresh(fix.raw);
        let added = self.timeline.add(fix);
        if !added.changed {
            return added;
        }
        if fresh.iter().any(|other| !agree(other, &fix)) {
            self.disputed = Some(0);
        } else if let Some(agreed) = self.disputed {
            // Three that agree with all that is fresh end the dispute.
            self.disputed = (agreed + 1 < SYNCED_FIXES_MIN).then_some(agreed + 1);
        }
        if self.disputed.is_none() && fix.source.is_settable() {
            self.disown_before_the_step(&fix);
        }
        added
    }

    /// A clock that was set and says otherwise since, three times and with nobody against it, has taken back what it said
    /// before. Without this a kernel that vouched for a wrong time until NTP's step would contradict the truth for ever.
    fn disown_before_the_step(&mut self, fix: &Fix) {
        let Some((step, _)) = self.last_step else { return };
        let own = || self.timeline.fixes().filter(|own| own.source.is_settable());
        let since = own().filter(|own| own.raw >= step).count();
        if since >= SYNCED_FIXES_MIN && own().any(|before| before.raw < step && !agree(before, fix)) {
            self.timeline.disown(step);
            self.disowned = Some(step);
        }
    }

    /// What the machine's own clock and chronyd said before this reading is void: they took it back.
    pub fn disowned(&self) -> Option<RawNs> {
        self.disowned
    }

    /// The newest fix of each source that still speaks.
    fn fresh(&self, raw: RawNs) -> Vec<Fix> {
        let mut fresh: Vec<Fix> = Vec::new();
        let newest_first: Vec<&Fix> = self.timeline.fixes().collect();
        for fix in newest_first.into_iter().rev() {
            let near = raw.0.abs_diff(fix.raw.0) <= HOLDOVER_AFTER_EXCHANGE_NS;
            if near && !fresh.iter().any(|f| f.source == fix.source) {
                fresh.push(*fix);
            }
        }
        fresh
    }

    /// The clock was set, by this much if that is known. Everything is due at once.
    pub fn stepped(&mut self, raw: RawNs, by_ns: Option<i64>) {
        self.steps += 1;
        self.last_step = Some((raw, by_ns));
        self.sampled_at = None;
        self.exchanged_at = None;
    }

    /// How far the last step went, learnt after it was noticed.
    pub fn measured_step(&mut self, by_ns: Option<i64>) {
        if let Some((_, by)) = &mut self.last_step {
            *by = by_ns;
        }
    }

    /// Forgets what a source said, as it turned out to be void. Returns how many fixes that were.
    pub fn retract(&mut self, source: FixSource) -> usize {
        self.timeline.retract(source, RawNs(0))
    }

    /// When the clock was last set, and by how much if known.
    pub fn last_step(&self) -> Option<(RawNs, Option<i64>)> {
        self.last_step
    }

    pub fn steps(&self) -> u64 {
        self.steps
    }

    pub fn sampled(&mut self, now: MonoNs) {
        self.sampled_at = Some(now);
    }

    /// An exchange was begun (not: answered).
    pub fn exchanged(&mut self, now: MonoNs) {
        self.exchanged_at = Some(now);
    }

    /// The state at `raw`. A dispute ends when three fixes agree with each other and with every source that still
    /// speaks, though the map may go on flagging the time around it.
    pub fn state(&self, raw: RawNs) -> ClockState {
        if self.disputed.is_some() {
            return ClockState::Conflict;
        }
        match self.timeline.state(raw) {
            ClockState::Conflict => self.recent_state(raw),
            state => state,
        }
    }

    /// The state by the newest fixes alone, when the dispute is over but the history is not settled.
    fn recent_state(&self, raw: RawNs) -> ClockState {
        let fixes: Vec<Fix> = self.timeline.fixes().copied().collect();
        let recent = &fixes[fixes.len().saturating_sub(SYNCED_FIXES_MIN)..];
        Timeline::from_fixes(self.epoch(), recent.iter().copied()).state(raw)
    }

    /// Samples: 1 Hz, 10 Hz while not synchronised. Exchanges: each second until synchronised, then each 16 s, spread
    /// over a fleet by the agent's identity. At once after a step.
    pub fn due(&self, raw: RawNs) -> Due {
        let synced = self.state(raw) == ClockState::Synced;
        let sample_every = if synced { SAMPLE_EVERY_NS } else { SAMPLE_EVERY_NS_UNSYNCED };
        let spread_ns = u64::from(self.epoch().agent[0]) * 4_000_000;
        let exchange_every = if synced { EXCHANGE_EVERY_NS + spread_ns } else { EXCHANGE_EVERY_NS_UNSYNCED };
        let after =
            |at: Option<MonoNs>, every: u64| at.map_or(MonoNs(0), |at| MonoNs(at.0.saturating_add(every)));
        Due {
            sample_at: after(self.sampled_at, sample_every),
            exchange_at: after(self.exchanged_at, exchange_every),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::UtcNs;

    const S: u64 = 1_000_000_000;

    fn fix(source: FixSource, raw_s: u64, off_ns: i64, err_ns: u64) -> Fix {
        let utc = UtcNs::from_tai_ns(1_800_000_000_000_000_000 + (raw_s * S) as i64 + off_ns);
        Fix { raw: RawNs(raw_s * S), utc, err_ns, source }
    }

    #[test]
    fn the_states_follow_each_other() {
        use ClockState::*;
        let mut clock = AgentClock::new(EpochId::default());
        assert_eq!(clock.state(RawNs(0)), Cold);
        clock.add(fix(FixSource::Kernel, 1, 0, 2_000_000));
        assert_eq!(clock.state(RawNs(S)), Acquiring);
        clock.add(fix(FixSource::Kernel, 2, 0, 2_000_000));
        clock.add(fix(FixSource::Kernel, 3, 0, 2_000_000));
        assert_eq!(clock.state(RawNs(3 * S)), Synced);
        assert_eq!(clock.state(RawNs(13 * S)), Synced);
        assert_eq!(clock.state(RawNs(14 * S)), Holdover);
        assert_eq!(clock.state(RawNs(2_500 * S)), Unbounded);
        clock.add(fix(FixSource::Collector, 14, 0, 500_000));
        assert_eq!(clock.state(RawNs(50 * S)), Synced, "the exchange speaks each 16 s");
        assert_eq!(clock.state(RawNs(55 * S)), Holdover);
        clock.open_epoch(EpochId::default());
        assert_eq!(clock.state(RawNs(60 * S)), Cold);
    }

    #[test]
    fn a_conflict_ends_when_three_agree_and_nobody_contradicts() {
        let mut clock = AgentClock::new(EpochId::default());
        for s in 1..20 {
            clock.add(fix(FixSource::Kernel, s, 0, 2_000_000));
        }
        clock.add(fix(FixSource::Collector, 20, -9_000_000_000, 500_000));
        assert_eq!(clock.state(RawNs(20 * S)), ClockState::Conflict);
        for s in 21..30 {
            clock.add(fix(FixSource::Kernel, s, 0, 2_000_000));
            assert_eq!(
                clock.state(RawNs(s * S)),
                ClockState::Conflict,
                "the exchange still speaks against it"
            );
        }
        // chronyd is told better and sets the clock.
        clock.stepped(RawNs(30 * S), Some(-9_000_000_000));
        for s in 31..34 {
            assert_eq!(clock.state(RawNs(s * S)), ClockState::Conflict);
            clock.add(fix(FixSource::Kernel, s, -9_000_000_000, 2_000_000));
        }
        assert_eq!(
            clock.state(RawNs(33 * S)),
            ClockState::Conflict,
            "the first of them broke with the kernel's past"
        );
        clock.add(fix(FixSource::Kernel, 34, -9_000_000_000, 2_000_000));
        assert_eq!(clock.state(RawNs(34 * S)), ClockState::Synced);
        assert_eq!((clock.steps(), clock.last_step().unwrap().1), (1, Some(-9_000_000_000)));
        assert_eq!(clock.disowned(), Some(RawNs(30 * S)), "what the kernel said before the step is void");
        let before = clock.timeline().estimate(RawNs(10 * S)).unwrap();
        assert!(!before.conflict && before.err_ns < 10_000_000, "{before:?}");
    }

    #[test]
    fn a_step_back_to_what_was_said_before_takes_nothing_back() {
        let mut clock = AgentClock::new(EpochId::default());
        for s in 1..20 {
            clock.add(fix(FixSource::Kernel, s, 0, 2_000_000));
        }
        // An operator sets the clock an hour ahead, chronyd sets it right again.
        clock.stepped(RawNs(20 * S), Some(3_600_000_000_000));
        clock.stepped(RawNs(25 * S), Some(-3_600_000_000_000));
        for s in 26..40 {
            clock.add(fix(FixSource::Kernel, s, 0, 2_000_000));
        }
        assert_eq!((clock.disowned(), clock.timeline().fixes().count()), (None, 33));
    }

    #[test]
    fn a_liar_that_steps_the_clock_takes_nothing_back_while_anybody_contradicts() {
        let mut clock = AgentClock::new(EpochId::default());
        for s in 1..20 {
            clock.add(fix(FixSource::Kernel, s, 0, 2_000_000));
            clock.add(fix(FixSource::Collector, s, 0, 500_000));
        }
        clock.stepped(RawNs(20 * S), Some(300_000_000_000));
        for s in 21..60 {
            clock.add(fix(FixSource::Kernel, s, 300_000_000_000, 2_000_000));
            clock.add(fix(FixSource::Collector, s, 0, 500_000));
        }
        assert_eq!((clock.disowned(), clock.state(RawNs(60 * S))), (None, ClockState::Conflict));
        assert!(clock.timeline().estimate(RawNs(10 * S)).is_some_and(|e| !e.conflict));
    }

    #[test]
    fn cadence_is_fast_until_synchronised_and_immediate_after_a_step() {
        let mut clock = AgentClock::new(EpochId::default());
        let at = |clock: &AgentClock, raw_s| {
            let due = clock.due(RawNs(raw_s * S));
            (due.sample_at.0, due.exchange_at.0)
        };
        assert_eq!(at(&clock, 0), (0, 0));
        clock.sampled(MonoNs(5 * S));
        clock.exchanged(MonoNs(5 * S));
        assert_eq!(at(&clock, 1), (5 * S + S / 10, 6 * S));
        for s in 1..4 {
            clock.add(fix(FixSource::Collector, s, 0, 500_000));
        }
        assert_eq!(at(&clock, 4), (6 * S, 21 * S));
        clock.stepped(RawNs(4 * S), None);
        assert_eq!(at(&clock, 4), (0, 0));
    }
}
