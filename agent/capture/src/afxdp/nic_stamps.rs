//! The NIC's stamps of frames that come through AF_XDP: when its clock is read, and what is believed of it.

use gnomon_clock::{Clock, RawNs};

use super::arrival::Look;
use super::bound::Asked;
use crate::interface::{self, Interface};
use crate::nic::{NicClock, NoStamps};
use crate::stamp::StampMap;

/// The NIC's clock is read at most this often however often frames are found …
const AGAIN_NS_MIN: u64 = 1_000_000;
/// … and less often where reading it is slow, so that it takes 3 % of the time at most (three readings of twice the half
/// width) …
const AGAIN_HALF_WIDTHS: u64 = 200;
/// … but this often.
const AGAIN_NS_MAX: u64 = 20_000_000;

/// What stamps by the NIC need besides the program.
pub(super) struct Wanted {
    pub(super) asked: Asked,
    pub(super) clock: NicClock,
    /// The path of its clock, for people.
    pub(super) device: String,
}

impl Wanted {
    /// What can be refused without touching the NIC is, before it is switched to stamping.
    pub(super) fn of(interface: &Interface, clock: &dyn Clock) -> Result<Wanted, NoStamps> {
        if interface::stamps_for_programs(interface.index) == Some(false) {
            return Err(NoStamps::NotToPrograms);
        }
        let asked = Asked::driver()?;
        let (clock, device) = NicClock::open(&interface.name, clock)?;
        Ok(Wanted { asked, clock, device })
    }
}

/// A NIC's clock, and how its stamps map to RAW now.
pub(super) struct NicStamps {
    clock: NicClock,
    device: String,
    map: StampMap,
    /// When the map is made anew.
    again_at: RawNs,
}

impl NicStamps {
    pub(super) fn new(clock: NicClock, device: String, now: RawNs) -> NicStamps {
        NicStamps { clock, device, map: StampMap::of_nothing(now, 0), again_at: now }
    }

    /// The map for the frames that `look` found, None when it found none.
    pub(super) fn at(&mut self, clock: &dyn Clock, look: Look, found: bool) -> Option<StampMap> {
        if !found {
            self.clock.watch(clock, look.after);
            return None;
        }
        if look.after >= self.again_at {
            let mut again_ns = AGAIN_NS_MIN;
            self.map = match self.clock.steady(clock) {
                Some(nic) => {
                    again_ns = (nic.now.half_width_ns * AGAIN_HALF_WIDTHS).clamp(AGAIN_NS_MIN, AGAIN_NS_MAX);
                    StampMap::of_nic(&nic, 0)
                }
                None => StampMap::of_nothing(look.after, 0),
            };
            self.again_at = look.after.saturating_add(again_ns);
        }
        Some(self.map.until(look.after))
    }

    /// `stamped` and `bare`: frames that came with a stamp and without.
    pub(super) fn note(&self, stamped: u64, bare: u64) -> String {
        let but = match (stamped, bare) {
            (_, 0) => "",
            (0, _) => ", but the driver has handed over none with its frames",
            _ => ", but not of all frames",
        };
        format!("{BEGINS} ({}){but}", self.device)
    }
}

/// How the note begins.
pub(super) const BEGINS: &str = "stamps by the NIC";

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::sync::atomic::AtomicI64;

    use gnomon_clock::KernelClock;

    use super::*;
    use crate::played_nic::PlayedNic;

    fn look() -> Look {
        let now = KernelClock.raw();
        Look { before: now, after: now }
    }

    #[test]
    fn between_two_readings_stamps_are_mapped_by_the_first() {
        let clock =
            PlayedNic { counts: || KernelClock.raw().0.cast_signed() + 77, set_ns: AtomicI64::new(0) };
        let nic = NicClock::begin(File::open("/dev/null").unwrap(), &clock).unwrap();
        let mut stamps = NicStamps::new(nic, "/dev/ptp7".into(), KernelClock.raw());
        let begun = KernelClock.raw();
        assert!(stamps.at(&clock, look(), true).unwrap().known(begun.0.cast_signed() + 77).is_none());
        while KernelClock.raw().since(begun) < 300_000_000 {
            assert!(stamps.at(&clock, look(), false).is_none());
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        let mut last = (RawNs(0), 0);
        for _ in 0..1_000 {
            let came = KernelClock.raw();
            let found = look();
            let map = stamps.at(&clock, found, true).unwrap();
            let stamp = map.known(came.0.cast_signed() + 77).expect("it came before the look");
            let off = stamp.raw.0.abs_diff(came.0);
            assert!(off <= u64::from(stamp.err_ns) && stamp.err_ns < 10_000_000, "{stamp:?} is {off} ns off");
            last = if last.0 == stamps.again_at { (last.0, last.1 + 1) } else { (stamps.again_at, 0) };
        }
        assert!(last.1 > 0, "one reading served several looks");
    }
}
