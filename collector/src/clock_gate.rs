//! What the collector makes of a record's time: a thin user of `gnomon_clock::decide`.
//!
//! Pure but for the one clock it is given: it holds no records and writes nothing. Nothing reaches the time index that
//! [`ClockGate::judge`] did not call indexed.

use std::sync::Arc;

use gnomon_clock::{
    Authority, Clock, CollectorNow, Estimate, MonoNs, Policy, Timeline, UtcNs, Verdict, decide,
};
use gnomon_flow::{FlowRecord, TimeState};

/// The kernel's `maxerror` below which the collector takes its own clock for proven.
const PROVEN_ERR_NS_MAX: u64 = 1_000_000_000;
/// A rate correction beyond this is no clock's that can be right: the kernel is being slewed hard.
const PROVEN_RATE_PPB_MAX: u64 = 500_000;
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
    clock: Arc<dyn Clock>,
    policy: Policy,
}

impl ClockGate {
    pub fn new(clock: Arc<dyn Clock>, policy: Policy) -> ClockGate {
        ClockGate { clock, policy }
    }

    /// The collector's own time and what it is worth. Proven: the kernel's own bound on its error is below 1 s.
    pub fn now(&self) -> CollectorNow {
        let bracket = self.clock.bracket();
        let bound = self.clock.kernel_status().ok().and_then(|status| {
            // A clock that nobody disciplines says 16 s; one that claims no error at all claims nothing.
            let sane = status.max_error_ns > 0
                && status.max_error_ns < PROVEN_ERR_NS_MAX
                && status.rho_ppb.unsigned_abs() <= PROVEN_RATE_PPB_MAX
                && bracket.realtime.is_plausible();
            sane.then_some(status.max_error_ns)
        });
        CollectorNow {
            utc: bracket.realtime,
            err_ns: bound.unwrap_or(0).saturating_add(bracket.half_width_ns),
            proven: bound.is_some(),
        }
    }

    pub fn monotonic(&self) -> MonoNs {
        self.clock.monotonic()
    }

    /// Whose word stands where an agent's own sources and the exchange with this collector disagree.
    pub fn authority(now: &CollectorNow) -> Authority {
        if now.proven { Authority::Collector } else { Authority::Nobody }
    }

    /// Both ends of the record have to pass: the first is what it is found by, the last must not lie in the future.
    pub fn judge(&self, timeline: &Timeline, record: &FlowRecord, now: &CollectorNow) -> Judgement {
        let first = timeline.estimate(record.first);
        let last = timeline.estimate(record.last);
        let verdicts = [first, last].map(|estimate| decide(estimate.as_ref(), now, &self.policy));
        let state = if verdicts.iter().any(|v| matches!(v, Verdict::Quarantine(_))) {
            TimeState::Quarantined
        } else if verdicts.iter().all(|v| *v == Verdict::Index) {
            TimeState::Indexed
        } else {
            TimeState::Pending
        };
        Judgement { state, first, last }
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
