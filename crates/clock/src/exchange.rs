//! The four-timestamp exchange with the collector, over the ingest stream: the arithmetic, nothing else.
//!
//! ```text
//! agent RAW      t1 ───────────────────────── t4
//! collector UTC        t2 ───────── t3
//! ```
//! UTC was at most t2 at t1 and at least t3 at t4, however asymmetric the path (the argument of NTP, RFC 5905 §8, with
//! the agent's side in RAW, so that no slew of the agent's clock can enter).

use std::collections::VecDeque;

use crate::map::RATE_ERR_MAX_PPM;
use crate::time::{Fix, FixSource, RawNs, UtcNs};

/// A round trip longer than this says too little to be kept.
pub const RTT_NS_MAX: u64 = 2_000_000_000;

/// An exchange that took longer than this in all (round trip and the collector's own time) is refused: the rate of
/// RAW would enter the bound more than the path does.
pub const EXCHANGE_NS_MAX: u64 = 10_000_000_000;

/// One finished exchange. `t1`, `t4`: agent RAW, request sent and reply received. `t2`, `t3`: collector time, request
/// received and reply sent, wrong by at most `collector_err_ns`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExchangeSample {
    pub t1: RawNs,
    pub t2: UtcNs,
    pub t3: UtcNs,
    pub t4: RawNs,
    pub collector_err_ns: u64,
}

/// Why an exchange is no evidence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExchangeRejected {
    #[error("the agent's clock ran backwards during the exchange (t4 < t1)")]
    AgentBackwards,
    #[error("the collector's clock ran backwards during the exchange (t3 < t2)")]
    CollectorBackwards,
    #[error("the collector claims to have held the request longer than the whole exchange took")]
    HeldTooLong,
    #[error("the round trip took {rtt_ns} ns, the limit is {RTT_NS_MAX} ns")]
    SlowPath { rtt_ns: u64 },
    #[error("the exchange took {took_ns} ns, the limit is {EXCHANGE_NS_MAX} ns")]
    TookTooLong { took_ns: u64 },
    #[error("the collector's time is before 2025: its clock was never set")]
    Implausible,
}

impl ExchangeSample {
    /// Time on the path both ways: (t4 − t1) − (t3 − t2), never below 0.
    pub fn rtt_ns(&self) -> u64 {
        let held = u64::try_from(self.t3.minus(self.t2)).unwrap_or(0);
        self.t4.since(self.t1).saturating_sub(held)
    }

    /// What the exchange proves.
    ///
    /// The error is half the round trip, plus what the rate of RAW (wrong by at most 500 ppm) can add over the whole
    /// exchange, plus the collector's own error.
    ///
    /// # Errors
    /// When the stamps contradict themselves or took too long: see [`ExchangeRejected`].
    pub fn fix(&self) -> Result<Fix, ExchangeRejected> {
        if self.t4 < self.t1 {
            return Err(ExchangeRejected::AgentBackwards);
        }
        if self.t3 < self.t2 {
            return Err(ExchangeRejected::CollectorBackwards);
        }
        if !self.t2.is_plausible() {
            return Err(ExchangeRejected::Implausible);
        }
        let took_ns = self.t4.since(self.t1);
        if took_ns > EXCHANGE_NS_MAX {
            return Err(ExchangeRejected::TookTooLong { took_ns });
        }
        let held_ns = self.t3.minus(self.t2).unsigned_abs();
        let rate_ns = took_ns * RATE_ERR_MAX_PPM / 1_000_000 + 1;
        if held_ns > took_ns + rate_ns {
            return Err(ExchangeRejected::HeldTooLong);
        }
        let rtt_ns = self.rtt_ns();
        if rtt_ns > RTT_NS_MAX {
            return Err(ExchangeRejected::SlowPath { rtt_ns });
        }
        Ok(Fix {
            raw: self.t1.saturating_add(took_ns / 2),
            utc: self.t2.saturating_add_ns((held_ns / 2).cast_signed()),
            err_ns: (rtt_ns.div_ceil(2) + rate_ns + 1).saturating_add(self.collector_err_ns),
            source: FixSource::Collector,
        })
    }
}

/// Samples compared with each other.
const WINDOW: usize = 8;
/// A path that got slower for good is believed after this long without a kept sample.
const SILENCE_NS_MAX: u64 = 48_000_000_000;

/// Keeps the samples of low round trip: the others are true as well, only wider, and would crowd a [`Timeline`] out.
///
/// [`Timeline`]: crate::Timeline
#[derive(Debug, Default)]
pub struct ExchangeFilter {
    rtts_ns: VecDeque<u64>,
    kept_at: Option<RawNs>,
}

impl ExchangeFilter {
    pub fn new() -> ExchangeFilter {
        ExchangeFilter::default()
    }

    /// The fix of `sample`, or `None` when better ones were seen in the last eight.
    ///
    /// # Errors
    /// As [`ExchangeSample::fix`].
    pub fn add(&mut self, sample: &ExchangeSample) -> Result<Option<Fix>, ExchangeRejected> {
        let fix = sample.fix()?;
        let rtt_ns = sample.rtt_ns();
        if self.rtts_ns.len() == WINDOW {
            self.rtts_ns.pop_front();
        }
        self.rtts_ns.push_back(rtt_ns);
        let best_ns = self.rtts_ns.iter().copied().min().unwrap_or(rtt_ns);
        let silent = self.kept_at.is_none_or(|at| fix.raw.since(at) > SILENCE_NS_MAX || fix.raw < at);
        if silent || rtt_ns <= best_ns + (best_ns / 2).max(100_000) {
            self.kept_at = Some(fix.raw);
            return Ok(Some(fix));
        }
        Ok(None)
    }

    /// Forgets the window: after a clock step or in a new epoch every sample counts.
    pub fn reset(&mut self) {
        *self = ExchangeFilter::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_UNIX_NS: i64 = 1_800_000_000_000_000_000;

    fn sample(t1: u64, t2: i64, t3: i64, t4: u64) -> ExchangeSample {
        let utc = |ns| UtcNs::from_unix_ns(NOW_UNIX_NS + ns);
        ExchangeSample { t1: RawNs(t1), t2: utc(t2), t3: utc(t3), t4: RawNs(t4), collector_err_ns: 500 }
    }

    #[test]
    fn the_bound_is_half_the_round_trip_plus_the_collectors_error() {
        let fix = sample(1_000, 0, 10_000, 31_000).fix().unwrap();
        assert_eq!(fix.raw, RawNs(16_000));
        assert_eq!(fix.utc, UtcNs::from_unix_ns(NOW_UNIX_NS + 5_000));
        // 20 µs of path: 10 µs, and 500 ppm of 30 µs, and 500 ns of the collector.
        assert!((10_500..10_530).contains(&fix.err_ns), "{}", fix.err_ns);
    }

    #[test]
    fn contradictory_or_slow_samples_are_refused() {
        use ExchangeRejected::*;
        assert_eq!(sample(10, 0, 0, 5).fix(), Err(AgentBackwards));
        assert_eq!(sample(10, 5, 0, 20).fix(), Err(CollectorBackwards));
        assert_eq!(sample(0, 0, 2_000, 1_000).fix(), Err(HeldTooLong));
        assert!(matches!(sample(0, 0, 0, 2_000_000_001).fix(), Err(SlowPath { .. })));
        assert!(matches!(sample(0, 0, 0, u64::MAX).fix(), Err(TookTooLong { .. })));
        let epoch = UtcNs::from_unix_ns(5);
        let s = ExchangeSample { t2: epoch, t3: epoch, ..sample(0, 0, 0, 10) };
        assert_eq!(s.fix(), Err(Implausible));
        let s = ExchangeSample {
            t2: UtcNs::MAX,
            t3: UtcNs::MAX,
            collector_err_ns: u64::MAX,
            ..sample(0, 0, 0, 10)
        };
        assert_eq!(s.fix().unwrap().err_ns, u64::MAX);
    }

    #[test]
    fn the_filter_keeps_the_fast_and_believes_a_slower_path_in_the_end() {
        let mut filter = ExchangeFilter::new();
        let at = |s: u64, rtt: u64| sample(s * 1_000_000_000, 0, 0, s * 1_000_000_000 + rtt);
        assert!(filter.add(&at(1, 200_000)).unwrap().is_some());
        assert!(filter.add(&at(2, 5_000_000)).unwrap().is_none());
        assert!(filter.add(&at(3, 250_000)).unwrap().is_some());
        let kept = (4..20).filter(|s| filter.add(&at(*s, 5_000_000)).unwrap().is_some()).count();
        assert!(kept >= 8, "the window forgot the fast path after eight: {kept}");
    }
}
