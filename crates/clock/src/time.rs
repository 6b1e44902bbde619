//! The types of time: what is measured, what is derived, and what ties them together.

use std::fmt;

/// A reading of CLOCK_MONOTONIC_RAW in nanoseconds: the only clock capture times are kept in, because neither steps
/// nor slews move it. Comparable only inside one [`EpochId`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RawNs(pub u64);

impl RawNs {
    /// Nanoseconds from `earlier` to `self`; 0 when `earlier` is later.
    pub fn since(self, earlier: RawNs) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    pub fn saturating_add(self, ns: u64) -> RawNs {
        RawNs(self.0.saturating_add(ns))
    }

    pub fn saturating_sub(self, ns: u64) -> RawNs {
        RawNs(self.0.saturating_sub(ns))
    }
}

/// A reading of CLOCK_MONOTONIC in nanoseconds: for timeouts and durations, never for stamps (NTP slews it).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MonoNs(pub u64);

impl MonoNs {
    pub fn since(self, earlier: MonoNs) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// A point of civil time. Held as TAI nanoseconds since 1970-01-01T00:00:00 TAI, so that differences are true
/// durations and a leap second is no break; converted to POSIX time (UTC with the leap second repeated) only where
/// people or files need it. A `UtcNs` that came from a clock stands beside its error: see [`Estimate`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UtcNs(i64);

impl UtcNs {
    pub const MIN: UtcNs = UtcNs(i64::MIN);
    pub const MAX: UtcNs = UtcNs(i64::MAX);

    /// From TAI nanoseconds since 1970-01-01T00:00:00 TAI (the form of index keys and of the wire).
    pub const fn from_tai_ns(tai_ns: i64) -> UtcNs {
        UtcNs(tai_ns)
    }

    pub const fn tai_ns(self) -> i64 {
        self.0
    }

    /// From POSIX nanoseconds, as `clock_gettime(CLOCK_REALTIME)` and pcap files have them.
    pub fn from_unix_ns(unix_ns: i64) -> UtcNs {
        let offset_s = i64::from(tai_minus_utc_at_unix(unix_ns.div_euclid(NS_PER_S)));
        UtcNs(unix_ns.saturating_add(offset_s * NS_PER_S))
    }

    /// To POSIX nanoseconds. Inside a leap second the last second of the day is repeated.
    pub fn unix_ns(self) -> i64 {
        let tai_s = self.0.div_euclid(NS_PER_S);
        let offset_s = LEAP_SECONDS
            .iter()
            .rev()
            .find(|(unix_s, offset)| tai_s >= unix_s + i64::from(*offset) - 1)
            .map_or(TAI_MINUS_UTC_FIRST, |(_, offset)| *offset);
        self.0.saturating_sub(i64::from(offset_s) * NS_PER_S)
    }

    pub fn saturating_add_ns(self, ns: i64) -> UtcNs {
        UtcNs(self.0.saturating_add(ns))
    }

    /// Can a running gnomon live at this time? Clocks that were never set say 1970 or 2000; gnomon is younger than
    /// 2025. (Capture files may be older: their stamps are not asked.)
    pub const fn is_plausible(self) -> bool {
        self.0 >= PLAUSIBLE_NS_MIN
    }

    /// Nanoseconds from `other` to `self`, saturating.
    pub fn minus(self, other: UtcNs) -> i64 {
        self.0.saturating_sub(other.0)
    }
}

const NS_PER_S: i64 = 1_000_000_000;

/// 2025-01-01T00:00:00 UTC, TAI nanoseconds.
const PLAUSIBLE_NS_MIN: i64 = (1_735_689_600 + 37) * NS_PER_S;

/// TAI − UTC before the first entry below (the value of 1972-01-01; earlier rubber seconds are not modelled).
const TAI_MINUS_UTC_FIRST: i32 = 10;

/// POSIX second from which TAI − UTC has the value beside it (IERS Bulletin C).
const LEAP_SECONDS: [(i64, i32); 27] = [
    (78_796_800, 11),
    (94_694_400, 12),
    (126_230_400, 13),
    (157_766_400, 14),
    (189_302_400, 15),
    (220_924_800, 16),
    (252_460_800, 17),
    (283_996_800, 18),
    (315_532_800, 19),
    (362_793_600, 20),
    (394_329_600, 21),
    (425_865_600, 22),
    (489_024_000, 23),
    (567_993_600, 24),
    (631_152_000, 25),
    (662_688_000, 26),
    (709_948_800, 27),
    (741_484_800, 28),
    (773_020_800, 29),
    (820_454_400, 30),
    (867_715_200, 31),
    (915_148_800, 32),
    (1_136_073_600, 33),
    (1_230_768_000, 34),
    (1_341_100_800, 35),
    (1_435_708_800, 36),
    (1_483_228_800, 37),
];

fn tai_minus_utc_at_unix(unix_s: i64) -> i32 {
    LEAP_SECONDS
        .iter()
        .rev()
        .find(|(from, _)| unix_s >= *from)
        .map_or(TAI_MINUS_UTC_FIRST, |(_, offset)| *offset)
}

/// A stretch of one agent's CLOCK_MONOTONIC_RAW inside which readings are comparable. A new one is opened at start,
/// on suspend, when RAW goes back, and on a VM disruption.
///
/// `opened` makes it unique without any state kept across restarts: RAW grows within a boot, and `boot_id` differs
/// between boots.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EpochId {
    /// The agent's own identity (random, kept in its state directory).
    pub agent: [u8; 16],
    /// /proc/sys/kernel/random/boot_id, or the digest of the file for imported captures.
    pub boot_id: [u8; 16],
    /// The RAW reading at which the epoch was opened.
    pub opened: RawNs,
}

impl fmt::Display for EpochId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for byte in &self.agent[..4] {
            write!(f, "{byte:02x}")?;
        }
        f.write_str("-")?;
        for byte in &self.boot_id[..4] {
            write!(f, "{byte:02x}")?;
        }
        write!(f, "-{}", self.opened.0)
    }
}

/// What a [`Fix`] was learnt from, in rising order of directness.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FixSource {
    /// `adjtimex`: the kernel's own estimate of its error.
    Kernel,
    /// chronyd's tracking reply.
    Chrony,
    /// The four-timestamp exchange with the collector.
    Collector,
    /// A PTP hardware clock.
    Ptp,
    /// The stamps of a capture file, taken as they are.
    File,
}

impl FixSource {
    /// Speaks of the machine's clock, which anybody with the right can set.
    pub fn is_settable(self) -> bool {
        matches!(self, FixSource::Kernel | FixSource::Chrony)
    }
}

/// Evidence: at `raw`, UTC was within `utc ± err_ns`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fix {
    pub raw: RawNs,
    pub utc: UtcNs,
    pub err_ns: u64,
    pub source: FixSource,
}

/// A derived time and how wrong it may be. `conflict` says that the evidence was disjoint and `err_ns` spans its hull.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Estimate {
    pub utc: UtcNs,
    pub err_ns: u64,
    pub conflict: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unix_and_tai_convert_both_ways() {
        for unix_s in [0, 78_796_799, 78_796_800, 1_483_228_799, 1_483_228_800, 1_800_000_000] {
            let unix_ns = unix_s * NS_PER_S + 5;
            assert_eq!(UtcNs::from_unix_ns(unix_ns).unix_ns(), unix_ns, "at {unix_s}");
        }
    }

    #[test]
    fn i11_a_leap_second_is_continuous_in_tai_and_repeats_the_last_posix_second() {
        let last = UtcNs::from_unix_ns(1_483_228_799 * NS_PER_S);
        let next_day = UtcNs::from_unix_ns(1_483_228_800 * NS_PER_S);
        assert_eq!(next_day.minus(last), 2 * NS_PER_S);
        let inside = last.saturating_add_ns(NS_PER_S + 7);
        assert_eq!(inside.unix_ns(), 1_483_228_799 * NS_PER_S + 7);
    }
}
