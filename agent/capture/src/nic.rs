//! The clock of a NIC that stamps frames as they come off the wire (hardware stamps).
//!
//! Its time is its own: whatever disciplines it (ptp4l) may slew or set it at any moment. So no stamp is taken at its
//! word: the clock is read again and again against CLOCK_MONOTONIC_RAW, and believed as far as it went evenly.

use std::fs::File;
use std::os::fd::AsFd;
use std::{fmt, io};

use arrayvec::ArrayVec;
use gnomon_clock::{Clock, RawNs};

use crate::interface::{self, Stamping};

/// Readings are kept this far apart …
const APART_NS: u64 = 100_000_000;
/// … and so many of them: 1.5 s, more than a frame waits in the ring.
const KEPT: usize = 16;
/// Two quartzes differ by less; more is a clock that was set or is being slewed.
pub(super) const RHO_MAX: f64 = 1e-3;
/// How far off a straight line the readings may be.
const RESIDUAL_NS_MAX: f64 = 1e6;
/// A reading takes a few microseconds of the bus. A wider one is made again.
const WIDTH_NS_GOOD: u64 = 5_000;
const TRIES: usize = 3;

/// The NIC's clock beside ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reading {
    pub(super) raw: RawNs,
    pub(super) half_width_ns: u64,
    pub(super) nic_ns: i64,
}

/// How the NIC's clock went of late: evenly.
#[derive(Clone, Copy, Debug)]
pub(super) struct Steady {
    pub(super) now: Reading,
    /// How far back from `now` that is known, in nanoseconds of the NIC, as stamps are.
    pub(super) span_ns: i64,
    /// NIC nanoseconds in a nanosecond of RAW, less 1; and how wrong that may be.
    pub(super) rho: f64,
    pub(super) rho_err: f64,
    pub(super) err_ns: u64,
}

/// Why frames of this interface get no stamps from the NIC.
#[derive(Debug)]
pub(super) enum NoStamps {
    NotOffered,
    NotAll,
    SwitchingOn(io::Error),
    Opening(String, io::Error),
    Asking(io::Error),
    Reading(io::Error),
    /// AF_XDP: the driver stamps frames and does not tell XDP programs.
    NotToPrograms,
    NoFunction(String),
    Program(String),
    GenericHook,
}

impl fmt::Display for NoStamps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NoStamps::NotOffered => f.write_str("the driver offers none"),
            NoStamps::NotAll => f.write_str("the NIC can stamp some frames only, not all"),
            NoStamps::SwitchingOn(error) => write!(f, "switching them on: {error}"),
            NoStamps::Opening(path, error) => write!(f, "opening {path}: {error}"),
            NoStamps::Asking(error) => write!(f, "asking the kernel for them: {error}"),
            NoStamps::Reading(error) => write!(f, "reading the NIC's clock: {error}"),
            NoStamps::NotToPrograms => f.write_str("the driver hands none to XDP programs"),
            NoStamps::NoFunction(error) => {
                write!(
                    f,
                    "the kernel has no function that hands them to XDP programs (6.3 and newer have): {error}"
                )
            }
            NoStamps::Program(error) => write!(f, "the XDP program that asks for them: {error}"),
            NoStamps::GenericHook => f.write_str("the generic hook of XDP has none"),
        }
    }
}

/// A NIC's clock and how it went.
#[derive(Debug)]
pub(super) struct NicClock {
    device: File,
    /// Oldest first, [`APART_NS`] from one to the next at least.
    readings: ArrayVec<Reading, KEPT>,
}

impl NicClock {
    /// Has the NIC stamp every frame, and reads its clock; with the clock's device. The NIC goes on stamping when the
    /// capture ends: others may have come to rely on it.
    pub(super) fn open(name: &str, clock: &dyn Clock) -> Result<(NicClock, String), NoStamps> {
        let index = match interface::stamping(name) {
            Stamping { clock: Some(index), all: true } => index,
            Stamping { clock: Some(_), all: false } => return Err(NoStamps::NotAll),
            Stamping { clock: None, .. } => return Err(NoStamps::NotOffered),
        };
        interface::stamp_all(name).map_err(NoStamps::SwitchingOn)?;
        let path = format!("/dev/ptp{index}");
        let device = match File::open(&path) {
            Ok(device) => device,
            Err(error) => return Err(NoStamps::Opening(path, error)),
        };
        let nic = NicClock::begin(device, clock).map_err(NoStamps::Reading)?;
        Ok((nic, path))
    }

    /// The first reading of a clock.
    pub(super) fn begin(device: File, clock: &dyn Clock) -> io::Result<NicClock> {
        let mut nic = NicClock { device, readings: ArrayVec::new() };
        let first = nic.read(clock)?;
        nic.readings.push(first);
        Ok(nic)
    }

    fn read(&self, clock: &dyn Clock) -> io::Result<Reading> {
        let mut best: Option<Reading> = None;
        for _ in 0..TRIES {
            let before = clock.raw();
            let nic_ns = clock.nic_ns(self.device.as_fd())?;
            let half_width_ns = clock.raw().since(before) / 2;
            if best.is_none_or(|best| half_width_ns < best.half_width_ns) {
                best = Some(Reading { raw: before.saturating_add(half_width_ns), half_width_ns, nic_ns });
            }
            if half_width_ns * 2 <= WIDTH_NS_GOOD {
                break;
            }
        }
        best.ok_or_else(|| io::ErrorKind::Unsupported.into())
    }

    /// To be called while nothing arrives too: how a clock went between two readings is known only if they are near.
    pub(super) fn watch(&mut self, clock: &dyn Clock, now: RawNs) {
        if self.readings.last().is_none_or(|last| now.since(last.raw) >= APART_NS)
            && let Ok(reading) = self.read(clock)
        {
            self.keep(reading);
        }
    }

    fn keep(&mut self, reading: Reading) {
        if self.readings.is_full() {
            self.readings.remove(0);
        }
        self.readings.push(reading);
    }

    /// How the clock went up to now; None where it cannot be believed.
    pub(super) fn steady(&mut self, clock: &dyn Clock) -> Option<Steady> {
        let now = self.read(clock).ok()?;
        let steady = steady(&self.readings, now);
        if self.readings.last().is_none_or(|last| now.raw.since(last.raw) >= APART_NS) {
            self.keep(now);
        }
        steady
    }
}

/// The straight line through the oldest reading and `now`, if the others are near it.
fn steady(readings: &[Reading], now: Reading) -> Option<Steady> {
    let oldest = readings.first()?;
    let span = now.raw.since(oldest.raw);
    if span < APART_NS {
        return None;
    }
    let rho = ((now.nic_ns - oldest.nic_ns) as f64 - span as f64) / span as f64;
    let mut residual = 0.0_f64;
    let mut half_width_ns = now.half_width_ns;
    let mut at = oldest.raw;
    for reading in readings.iter().chain([&now]) {
        // Between readings that are far from each other the clock may have gone anywhere and come back.
        if reading.raw.since(at) > 10 * APART_NS {
            return None;
        }
        at = reading.raw;
        let expected = now.raw.since(reading.raw) as f64 * (1.0 + rho);
        residual = residual.max(((now.nic_ns - reading.nic_ns) as f64 - expected).abs());
        half_width_ns = half_width_ns.max(reading.half_width_ns);
    }
    if rho.abs() > RHO_MAX || residual > RESIDUAL_NS_MAX {
        return None;
    }
    Some(Steady {
        now,
        span_ns: now.nic_ns - oldest.nic_ns,
        rho,
        rho_err: 2.0 * half_width_ns as f64 / span as f64,
        // Twice: between two readings it may have gone as far again as it was seen to.
        err_ns: 2 * half_width_ns + 2 * residual as u64,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stamp::StampMap;
    use proptest::prelude::*;

    const BEGUN: u64 = 5_000_000_000;
    const NIC_BEGUN: i64 = 1_700_000_000_000_000_000;

    /// A reading each 100 ms of a clock that goes by `nic`, which gets nanoseconds since the first.
    fn readings(count: u64, nic: impl Fn(u64) -> i64) -> Vec<Reading> {
        let at = |n: u64| Reading {
            raw: RawNs(BEGUN + n * APART_NS),
            half_width_ns: 2_000,
            nic_ns: NIC_BEGUN + nic(n * APART_NS),
        };
        (0..count).map(at).collect()
    }

    fn after(readings: &[Reading]) -> Option<Steady> {
        let (now, before) = readings.split_last().unwrap();
        steady(before, *now)
    }

    proptest! {
        #[test]
        fn i2_a_frame_came_within_what_its_stamp_claims(
            ppm in -400_i64..400, wander_ns in 0_i64..20_000, count in 3_u64..16, back_ns in 0_u64..1_400_000_000,
        ) {
            let nic = |ns: u64| {
                let ns = ns as i64;
                ns + ns * ppm / 1_000_000 + ((ns as f64 / 4e8).sin() * wander_ns as f64) as i64
            };
            let readings = readings(count, nic);
            let steady = after(&readings).unwrap();
            let span = (count - 1) * APART_NS;
            prop_assume!(back_ns <= span);
            let stamp = StampMap::of_nic(&steady, 9).stamp(NIC_BEGUN + nic(span - back_ns));
            let truth = BEGUN + span - back_ns;
            prop_assert!(stamp.err_ns < 200_000, "{stamp:?}");
            let off = stamp.raw.0.abs_diff(truth);
            prop_assert!(off <= u64::from(stamp.err_ns), "{stamp:?} is {off} ns off");
        }
    }

    #[test]
    fn a_clock_that_was_set_or_is_far_too_fast_is_not_believed() {
        let even = readings(12, |ns| ns as i64);
        assert!(after(&even).is_some());
        let set = readings(12, |ns| ns as i64 + if ns >= 8 * APART_NS { 30_000_000 } else { 0 });
        assert!(after(&set).is_none(), "set by 30 ms");
        // Some emulated NICs count two and a half nanoseconds in one.
        let fast = readings(12, |ns| (ns * 5 / 2) as i64);
        assert!(after(&fast).is_none(), "too fast");
        assert!(
            after(&even[..1]).is_none() && after(&even[..2]).is_some(),
            "one reading says nothing of a rate"
        );
        let mut gap = readings(4, |ns| ns as i64);
        gap[3].raw = RawNs(gap[3].raw.0 + 20 * APART_NS);
        gap[3].nic_ns += 20 * APART_NS as i64;
        assert!(after(&gap).is_none(), "nobody looked for two seconds");
    }

    #[test]
    fn frames_older_than_what_is_known_get_no_stamp() {
        let steady = after(&readings(4, |ns| ns as i64)).unwrap();
        let map = StampMap::of_nic(&steady, 77);
        assert!(map.stamp(NIC_BEGUN + 1).err_ns > 77);
        for ns in [NIC_BEGUN - 1, NIC_BEGUN + 301_000_000, 0] {
            assert_eq!(map.stamp(ns).err_ns, 77, "{ns}");
        }
        for ppm in [-400, 400] {
            let steady = after(&readings(4, |ns| ns as i64 + ns as i64 / 1_000_000 * ppm)).unwrap();
            let map = StampMap::of_nic(&steady, 77);
            assert!(map.known(NIC_BEGUN).is_some(), "as old as the oldest reading, of a clock {ppm} ppm off");
        }
    }
}
