//! What the collector does with a record, given when it was seen and what the collector's own clock is worth. Pure.

use std::fmt;

use crate::time::{Estimate, UtcNs};

/// The collector's own time: UTC is within `utc ± err_ns`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CollectorNow {
    pub utc: UtcNs,
    pub err_ns: u64,
    /// False: `utc` is a best guess, and `err_ns` speaks only of differences to it, not of the world's UTC.
    pub proven: bool,
}

/// What to do where an agent's time and the collector's disagree provably.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum PolicyMode {
    /// Quarantine such records.
    Refuse,
    /// Keep them as pending, and everything else too while the collector's own time is unproven.
    Hold,
    /// Index them at the time the map gives, which is on the collector's timeline. A laboratory without any NTP works
    /// in this mode: all agents agree with the collector, whatever the world thinks.
    #[default]
    Correct,
}

impl PolicyMode {
    pub fn name(self) -> &'static str {
        match self {
            PolicyMode::Refuse => "refuse",
            PolicyMode::Hold => "hold",
            PolicyMode::Correct => "correct",
        }
    }
}

impl std::str::FromStr for PolicyMode {
    type Err = String;

    fn from_str(s: &str) -> Result<PolicyMode, String> {
        [PolicyMode::Refuse, PolicyMode::Hold, PolicyMode::Correct]
            .into_iter()
            .find(|m| m.name() == s)
            .ok_or_else(|| format!("unknown time policy {s:?}: use refuse, hold or correct"))
    }
}

/// The gate's settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    pub mode: PolicyMode,
    /// A record provably ahead of the collector by up to this waits; beyond it the record is a case for `mode`.
    pub tolerance_ns: u64,
    /// Records whose time is known worse than this are not indexed: a search could not find them where they are.
    pub index_err_max_ns: u64,
}

impl Default for Policy {
    fn default() -> Policy {
        Policy { mode: PolicyMode::Correct, tolerance_ns: 1_000_000_000, index_err_max_ns: 1_000_000_000 }
    }
}

/// Stored, counted, listed, searchable by ingest time; decided again when evidence comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PendingReason {
    /// The epoch has no fix yet.
    NoFix,
    /// The bound is wider than the index takes.
    ErrorTooLarge { err_ns: u64 },
    /// The sources of time contradict each other.
    Conflict { err_ns: u64 },
    /// The earliest possible time is still ahead of the collector's latest possible now.
    AheadOfCollector { by_ns: u64 },
    /// Policy `hold` or `refuse`, and nothing proves the collector's own time.
    CollectorUnproven,
}

/// Kept, and shown on request, but never indexed by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum QuarantineReason {
    /// Proven to lie in the future, beyond the tolerance.
    InFuture { by_ns: u64 },
    /// Policy `refuse`: the sources of time contradict each other.
    Conflict { err_ns: u64 },
}

/// The gate's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    Index,
    Pending(PendingReason),
    Quarantine(QuarantineReason),
}

fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

impl PendingReason {
    /// One word for metrics and searches.
    pub fn name(self) -> &'static str {
        match self {
            PendingReason::NoFix => "no-fix",
            PendingReason::ErrorTooLarge { .. } => "error-too-large",
            PendingReason::Conflict { .. } => "conflict",
            PendingReason::AheadOfCollector { .. } => "ahead-of-collector",
            PendingReason::CollectorUnproven => "collector-unproven",
        }
    }
}

impl fmt::Display for PendingReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            PendingReason::NoFix => f.write_str("nothing ties the agent's clock to utc yet"),
            PendingReason::ErrorTooLarge { err_ns } => {
                write!(f, "the time is known only to ±{:.3} s", seconds(err_ns))
            }
            PendingReason::Conflict { err_ns } => {
                write!(f, "the sources of time contradict each other by up to {:.3} s", 2.0 * seconds(err_ns))
            }
            PendingReason::AheadOfCollector { by_ns } => {
                write!(f, "at least {:.3} s ahead of the collector's clock", seconds(by_ns))
            }
            PendingReason::CollectorUnproven => f.write_str("the collector's own clock is unproven"),
        }
    }
}

impl QuarantineReason {
    /// One word for metrics and searches.
    pub fn name(self) -> &'static str {
        match self {
            QuarantineReason::InFuture { .. } => "in-future",
            QuarantineReason::Conflict { .. } => "conflict",
        }
    }
}

impl fmt::Display for QuarantineReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            QuarantineReason::InFuture { by_ns } => {
                write!(f, "proven to lie at least {:.3} s in the future", seconds(by_ns))
            }
            QuarantineReason::Conflict { err_ns } => write!(
                f,
                "the sources of time contradict each other by up to {:.3} s (policy refuse)",
                2.0 * seconds(err_ns)
            ),
        }
    }
}

/// Decides on one record.
///
/// Whatever the policy, `Index` implies that the record has an estimate with `err_ns ≤ index_err_max_ns` and that
/// `utc − err ≤ now + E` (invariant I1).
pub fn decide(estimate: Option<&Estimate>, now: &CollectorNow, policy: &Policy) -> Verdict {
    let Some(estimate) = estimate else { return Verdict::Pending(PendingReason::NoFix) };
    let err_ns = estimate.err_ns;
    if estimate.conflict && policy.mode == PolicyMode::Refuse {
        return Verdict::Quarantine(QuarantineReason::Conflict { err_ns });
    }
    if estimate.conflict && (policy.mode == PolicyMode::Hold || err_ns > policy.index_err_max_ns) {
        return Verdict::Pending(PendingReason::Conflict { err_ns });
    }
    let earliest = i128::from(estimate.utc.tai_ns()) - i128::from(err_ns);
    let latest_now = i128::from(now.utc.tai_ns()) + i128::from(now.err_ns);
    if earliest > latest_now {
        let by_ns = u64::try_from(earliest - latest_now).unwrap_or(u64::MAX);
        // An unproven collector proves nothing: it may itself be the one that is behind.
        let provable = now.proven && by_ns > policy.tolerance_ns && !estimate.conflict;
        return if provable && policy.mode != PolicyMode::Hold {
            Verdict::Quarantine(QuarantineReason::InFuture { by_ns })
        } else {
            Verdict::Pending(PendingReason::AheadOfCollector { by_ns })
        };
    }
    if err_ns > policy.index_err_max_ns {
        return Verdict::Pending(PendingReason::ErrorTooLarge { err_ns });
    }
    if !now.proven && policy.mode != PolicyMode::Correct {
        return Verdict::Pending(PendingReason::CollectorUnproven);
    }
    Verdict::Index
}

/// What remains of a disagreement of two estimates when all uncertainty is granted, 0 when they can both be true: act
/// only when this exceeds the tolerance.
pub fn provable_disagreement_ns(a: &Estimate, b: &Estimate) -> u64 {
    let apart = (i128::from(a.utc.tai_ns()) - i128::from(b.utc.tai_ns())).abs();
    u64::try_from((apart - i128::from(a.err_ns) - i128::from(b.err_ns)).max(0)).unwrap_or(u64::MAX)
}

/// Must an indexed record be moved to another key? Only when its time moved by more than max(old error, 1 s).
pub fn must_rekey(old: &Estimate, new: &Estimate) -> bool {
    let moved = (i128::from(new.utc.tai_ns()) - i128::from(old.utc.tai_ns())).unsigned_abs();
    moved > u128::from(old.err_ns.max(1_000_000_000))
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: i64 = 1_000_000_000;
    const NOW: i64 = 1_800_000_000 * S;

    fn estimate(off_ns: i64, err_ns: u64, conflict: bool) -> Estimate {
        Estimate { utc: UtcNs::from_tai_ns(NOW + off_ns), err_ns, conflict }
    }

    fn now(proven: bool) -> CollectorNow {
        CollectorNow { utc: UtcNs::from_tai_ns(NOW), err_ns: 1_000_000, proven }
    }

    fn policy(mode: PolicyMode) -> Policy {
        Policy { mode, ..Policy::default() }
    }

    #[test]
    fn what_is_known_and_past_is_indexed() {
        let e = estimate(-S, 1_000, false);
        for mode in [PolicyMode::Refuse, PolicyMode::Hold, PolicyMode::Correct] {
            assert_eq!(decide(Some(&e), &now(true), &policy(mode)), Verdict::Index);
        }
        assert_eq!(decide(None, &now(true), &Policy::default()), Verdict::Pending(PendingReason::NoFix));
    }

    #[test]
    fn nine_hours_ahead_is_never_indexed() {
        let e = estimate(32_400 * S, 1_000_000, false);
        let by_ns = 32_400_000_000_000 - 2_000_000;
        let quarantined = Verdict::Quarantine(QuarantineReason::InFuture { by_ns });
        let held = Verdict::Pending(PendingReason::AheadOfCollector { by_ns });
        assert_eq!(decide(Some(&e), &now(true), &policy(PolicyMode::Correct)), quarantined);
        assert_eq!(decide(Some(&e), &now(true), &policy(PolicyMode::Refuse)), quarantined);
        assert_eq!(decide(Some(&e), &now(true), &policy(PolicyMode::Hold)), held);
        assert_eq!(decide(Some(&e), &now(false), &policy(PolicyMode::Correct)), held);
        let soon = estimate(S / 2, 1_000, false);
        assert!(matches!(decide(Some(&soon), &now(true), &Policy::default()), Verdict::Pending(_)));
    }

    #[test]
    fn conflict_and_an_unproven_collector_follow_the_policy() {
        let e = estimate(-S, 1_000_000, true);
        assert_eq!(decide(Some(&e), &now(true), &policy(PolicyMode::Correct)), Verdict::Index);
        assert!(matches!(decide(Some(&e), &now(true), &policy(PolicyMode::Hold)), Verdict::Pending(_)));
        assert!(matches!(decide(Some(&e), &now(true), &policy(PolicyMode::Refuse)), Verdict::Quarantine(_)));
        let e = estimate(-S, 1_000_000, false);
        assert_eq!(decide(Some(&e), &now(false), &policy(PolicyMode::Correct)), Verdict::Index);
        let unproven = Verdict::Pending(PendingReason::CollectorUnproven);
        assert_eq!(decide(Some(&e), &now(false), &policy(PolicyMode::Hold)), unproven);
        let wide = estimate(-S, 2_000_000_000, false);
        assert!(matches!(
            decide(Some(&wide), &now(true), &Policy::default()),
            Verdict::Pending(PendingReason::ErrorTooLarge { err_ns: 2_000_000_000 })
        ));
    }

    #[test]
    fn only_provable_disagreement_and_real_moves_count() {
        assert_eq!(provable_disagreement_ns(&estimate(0, 10, false), &estimate(15, 5, false)), 0);
        assert_eq!(provable_disagreement_ns(&estimate(0, 10, false), &estimate(16, 5, false)), 1);
        assert!(!must_rekey(&estimate(0, 10, false), &estimate(S, 5, false)));
        assert!(must_rekey(&estimate(0, 10, false), &estimate(S + 1, 5, false)));
        assert!(!must_rekey(&estimate(0, 3_000_000_000, false), &estimate(3 * S, 5, false)));
    }

    #[test]
    fn reasons_have_human_words_and_the_mode_parses() {
        let reason = PendingReason::AheadOfCollector { by_ns: 1_500_000_000 };
        assert_eq!(reason.to_string(), "at least 1.500 s ahead of the collector's clock");
        assert_eq!("hold".parse(), Ok(PolicyMode::Hold));
        assert!("Hold".parse::<PolicyMode>().unwrap_err().contains("correct"));
    }
}
