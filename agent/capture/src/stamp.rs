//! From the stamps of another clock, the kernel's CLOCK_REALTIME or the NIC's own, to CLOCK_MONOTONIC_RAW.

use gnomon_clock::{Bracket, RawNs};

use crate::frame::Stamp;

use crate::nic::{RHO_MAX, Steady};

/// The rate of the clock is not exactly the one the kernel applies: how far off it may be.
const RATE_ERROR_PPB: u64 = 500_000;
/// A stamp older than this says more about a clock step than about the frame.
const LATENCY_NS_MAX: i64 = 1_000_000_000;
/// How much the rate of a NIC's clock may change and both rates be believed.
const CHANGE_MAX: f64 = 2.0 * RHO_MAX;

/// Maps the stamps of one batch by one bracket.
#[derive(Clone, Copy, Debug)]
pub(super) struct StampMap {
    read_raw: RawNs,
    /// What the other clock showed at `read_raw`.
    read_ns: i64,
    half_width_ns: u64,
    latency_ns_max: i64,
    /// How long after the reading a stamp may be, and the RAW time that no frame of this batch came after.
    ahead_ns_max: i64,
    until: RawNs,
    /// 1 / (1 + ρ): RAW nanoseconds in a nanosecond of the other clock.
    raw_per_other: f64,
    rate_error: f64,
    /// For frames whose stamp says nothing.
    unstamped: Stamp,
}

impl StampMap {
    /// `unseen_ns`: how long before the bracket a frame of this batch may have arrived at the most.
    pub(super) fn of_kernel(bracket: &Bracket, rho_ppb: i64, unseen_ns: u64) -> StampMap {
        StampMap {
            read_raw: bracket.raw,
            read_ns: bracket.realtime.unix_ns(),
            half_width_ns: bracket.half_width_ns,
            latency_ns_max: LATENCY_NS_MAX,
            ahead_ns_max: 0,
            until: bracket.raw,
            raw_per_other: 1.0 / (1.0 + rho_ppb as f64 * 1e-9),
            rate_error: (rho_ppb.unsigned_abs() + RATE_ERROR_PPB) as f64 * 1e-9,
            unstamped: unstamped(bracket.raw, unseen_ns),
        }
    }

    pub(super) fn of_nic(nic: &Steady, unseen_ns: u64) -> StampMap {
        StampMap {
            read_raw: nic.now.raw,
            read_ns: nic.now.nic_ns,
            half_width_ns: nic.err_ns,
            latency_ns_max: nic.span_ns,
            ahead_ns_max: 0,
            until: nic.now.raw,
            raw_per_other: 1.0 / (1.0 + nic.rho),
            rate_error: nic.rho_err,
            unstamped: unstamped(nic.now.raw, unseen_ns),
        }
    }

    /// No stamp of this clock says anything.
    pub(super) fn of_nothing(raw: RawNs, unseen_ns: u64) -> StampMap {
        StampMap {
            read_raw: raw,
            read_ns: 0,
            half_width_ns: 0,
            latency_ns_max: -1,
            ahead_ns_max: -1,
            until: raw,
            raw_per_other: 1.0,
            rate_error: 0.0,
            unstamped: unstamped(raw, unseen_ns),
        }
    }

    /// The same for frames that came after the reading, up to `until`: the clock may since go as differently as it could
    /// without being noticed.
    pub(super) fn until(&self, until: RawNs) -> StampMap {
        let ahead_ns = until.since(self.read_raw);
        if ahead_ns == 0 || self.latency_ns_max < 0 {
            return *self;
        }
        let fastest = 1.0 / self.raw_per_other + CHANGE_MAX;
        let ahead_ns_max = ((ahead_ns + self.half_width_ns) as f64 * fastest) as i64 + 1;
        StampMap { until, ahead_ns_max, ..*self }
    }

    /// Stamp 0, one in the future or one that is too old is no evidence: the frame then arrived between the last time
    /// the ring was empty and now.
    #[inline]
    pub(super) fn stamp(&self, ns: i64) -> Stamp {
        self.known(ns).unwrap_or(self.unstamped)
    }

    /// None for a stamp that is no evidence.
    #[inline]
    pub(super) fn known(&self, ns: i64) -> Option<Stamp> {
        let latency = self.read_ns.saturating_sub(ns);
        if ns == 0 || !(-self.ahead_ns_max..=self.latency_ns_max).contains(&latency) {
            return None;
        }
        let away = latency.unsigned_abs() as f64;
        let away_raw = (away * self.raw_per_other) as u64;
        let (raw, rate_error) = if latency >= 0 {
            (self.read_raw.saturating_sub(away_raw), self.rate_error)
        } else {
            (self.read_raw.saturating_add(away_raw).min(self.until), self.rate_error + CHANGE_MAX)
        };
        // One more nanosecond for the rounding above.
        Some(Stamp { raw, err_ns: saturate(self.half_width_ns + (away * rate_error) as u64 + 1) })
    }
}

fn unstamped(raw: RawNs, unseen_ns: u64) -> Stamp {
    Stamp { raw, err_ns: saturate(unseen_ns) }
}

/// `u32::MAX` (4.29 s) means "that or more".
fn saturate(ns: u64) -> u32 {
    u32::try_from(ns).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use gnomon_clock::UtcNs;

    const NOW_UNIX: i64 = 1_800_000_000_000_000_000;

    fn map(rho_ppb: i64) -> StampMap {
        let bracket = Bracket {
            raw: RawNs(50_000_000_000),
            half_width_ns: 40,
            realtime: UtcNs::from_unix_ns(NOW_UNIX),
        };
        StampMap::of_kernel(&bracket, rho_ppb, 25_000_000)
    }

    #[test]
    fn latency_is_taken_back_at_the_clocks_rate() {
        let stamp = map(0).stamp(NOW_UNIX - 1_000_000);
        assert_eq!(stamp.raw, RawNs(50_000_000_000 - 1_000_000));
        assert_eq!(stamp.err_ns, 40 + 500 + 1);
        // chrony slews by 83,333 ppm: 1 ms of REALTIME is 0.923 ms of RAW.
        let stamp = map(83_333_000).stamp(NOW_UNIX - 1_000_000);
        let truth = 50_000_000_000_f64 - 1_000_000.0 / 1.083_333;
        assert!((stamp.raw.0 as f64 - truth).abs() <= f64::from(stamp.err_ns));
        assert!((stamp.raw.0 as f64 - truth).abs() <= 2.0);
    }

    #[test]
    fn i12_stamps_that_say_nothing_become_the_reading_with_its_true_error() {
        for unix_ns in [0, NOW_UNIX + 1, NOW_UNIX - 1_000_000_001, i64::MIN] {
            let stamp = map(0).stamp(unix_ns);
            assert_eq!((stamp.raw, stamp.err_ns), (RawNs(50_000_000_000), 25_000_000), "stamp {unix_ns}");
        }
    }
    #[test]
    fn stamps_after_the_reading_are_taken_up_to_the_look_that_found_their_frames() {
        let reading = map(0);
        assert_eq!(reading.known(NOW_UNIX + 1), None);
        let map = reading.until(RawNs(50_001_000_000));
        let truth = 50_000_500_000;
        let stamp = map.known(NOW_UNIX + 500_000).unwrap();
        // It may have gone 2000 ppm faster or slower than before.
        assert_eq!((stamp.raw, stamp.err_ns), (RawNs(truth), 40 + 250 + 1_000 + 1));
        for ppm in [-2_000, 0, 2_000] {
            let stamp = map.known(NOW_UNIX + 1_000_000 + ppm).unwrap();
            assert!(50_001_000_000 - stamp.raw.0 <= u64::from(stamp.err_ns), "{stamp:?}");
            assert!(stamp.raw.0 <= 50_001_000_000, "not after the look: {stamp:?}");
        }
        assert_eq!(map.known(NOW_UNIX + 1_010_000), None, "from the future of the look");
        assert_eq!(map.known(NOW_UNIX - 1_000_000), reading.known(NOW_UNIX - 1_000_000));
        assert_eq!(StampMap::of_nothing(RawNs(5), 1).until(RawNs(50)).known(-3), None);
    }
}
