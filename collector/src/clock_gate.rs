//! What the collector makes of a record's time: a thin user of `gnomon_clock::decide`.
//!
//! Pure but for the one clock it is given: it holds no records and writes nothing. Nothing reaches the time index that
//! [`ClockGate::judge`] did not call indexed.

use gnomon_clock::{
    CollectorNow, Estimate, MonoNs, PendingReason, Policy, QuarantineReason, Timeline, UtcNs, Verdict, decide,
};
use gnomon_flow::TimeState;

use crate::timekeeper::Timekeeper;

/// Estimates of indexed records may move by this without a new key; a search looks as much further both ways.
const REKEY_NS_MIN: u64 = 1_000_000_000;

/// A record's time as the evidence of now shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judgement {
    pub state: TimeState,
    pub first: Option<Estimate>,
    pub last: Option<Estimate>,
}

/// The collector's clock and its policy.
#[derive(Clone)]
pub struct ClockGate {
    keeper: Timekeeper,
    policy: Policy,
}

impl ClockGate {
    pub fn new(keeper: Timekeeper, policy: Policy) -> ClockGate {
        ClockGate { keeper, policy }
    }

    /// The collector's own time and what it is worth.
    pub fn now(&self) -> CollectorNow {
        self.keeper.now()
    }

    pub fn monotonic(&self) -> MonoNs {
        self.keeper.monotonic()
    }

    pub fn keeper(&self) -> &Timekeeper {
        &self.keeper
    }

    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Both ends of the record have to pass: the first is what it is found by, the last must not lie in the future. A
    /// last packet whose time is only vaguely known (the clock broke behind it) does not hide the record.
    pub fn judge(&self, first: Option<Estimate>, last: Option<Estimate>, now: &CollectorNow) -> Judgement {
        let state = match self.verdict(first, last, now) {
            Verdict::Index => TimeState::Indexed,
            Verdict::Pending(_) => TimeState::Pending,
            Verdict::Quarantine(_) => TimeState::Quarantined,
        };
        Judgement { state, first, last }
    }

    /// As [`ClockGate::judge`], with the reason.
    pub fn verdict(&self, first: Option<Estimate>, last: Option<Estimate>, now: &CollectorNow) -> Verdict {
        let of_first = decide(first.as_ref(), now, &self.policy);
        let of_last = decide(last.as_ref(), now, &self.policy);
        match (of_first, of_last) {
            (Verdict::Quarantine(_), _) => of_first,
            (_, Verdict::Quarantine(_)) => of_last,
            (
                Verdict::Index,
                Verdict::Pending(PendingReason::NoFix | PendingReason::ErrorTooLarge { .. }),
            ) => Verdict::Index,
            (Verdict::Index, _) => of_last,
            _ => of_first,
        }
    }

    /// Why a record waits or is set aside, in one word; `None` when it is or may be indexed.
    pub fn reason(
        &self,
        first: Option<Estimate>,
        last: Option<Estimate>,
        now: &CollectorNow,
    ) -> Option<&'static str> {
        match self.verdict(first, last, now) {
            Verdict::Index => None,
            Verdict::Pending(reason) => Some(PendingReason::name(reason)),
            Verdict::Quarantine(reason) => Some(QuarantineReason::name(reason)),
        }
    }

    /// How far an indexed record's estimate may be from the time it is indexed by.
    pub fn rekey_ns(&self) -> u64 {
        REKEY_NS_MIN.max(self.policy.index_err_max_ns)
    }

    /// Whether records indexed by `old` may have moved too far under `new`. Half the allowance, because those indexed
    /// since `old` was taken may themselves be off by the other half.
    pub fn moved(&self, old: &Timeline, new: &Timeline) -> bool {
        if old.is_empty() {
            return false;
        }
        let allowed = self.rekey_ns() / 2;
        let points = old.fixes().chain(new.fixes()).map(|fix| fix.raw).chain([old.epoch().opened]);
        points.into_iter().any(|raw| match (old.estimate(raw), new.estimate(raw)) {
            (Some(old), Some(new)) => distance(old.utc, new.utc) > allowed || old.conflict != new.conflict,
            (was, is) => was.is_some() != is.is_some(),
        })
    }

    /// Whether a record indexed at `key` must get another key, its first time now being `first`.
    pub fn must_rekey(&self, key: UtcNs, first: Option<&Estimate>) -> bool {
        first.is_none_or(|first| first.conflict || distance(key, first.utc) > self.rekey_ns())
    }
}

fn distance(a: UtcNs, b: UtcNs) -> u64 {
    a.minus(b).unsigned_abs()
}
