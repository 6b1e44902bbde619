//! When RAW readings stop being comparable with earlier ones, and a new epoch must be opened.

use std::io;

use crate::clock::Clock;
use crate::time::{EpochId, RawNs};

/// What broke the epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DisruptionKind {
    /// The machine slept: CLOCK_BOOTTIME grew over CLOCK_MONOTONIC.
    Suspended { ns: u64 },
    /// RAW went back: the process was restored on another machine or in another time namespace.
    RawWentBack { ns: u64 },
    /// /proc/self/timens_offsets changed.
    TimeNamespace,
    /// The hypervisor says that this machine was restored, cloned or migrated.
    VmGeneration,
}

impl DisruptionKind {
    /// One word for metrics and events.
    pub fn name(self) -> &'static str {
        match self {
            DisruptionKind::Suspended { .. } => "suspended",
            DisruptionKind::RawWentBack { .. } => "raw-went-back",
            DisruptionKind::TimeNamespace => "time-namespace",
            DisruptionKind::VmGeneration => "vm-generation",
        }
    }
}

/// A break between two epochs. What was stamped after `last_good` belongs to neither for certain: cut there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Disruption {
    pub kind: DisruptionKind,
    /// The last RAW reading known to be of the old epoch.
    pub last_good: RawNs,
}

/// What the surroundings say of the clocks; `None` where the machine has no such thing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Markers {
    /// /proc/self/timens_offsets as it is (time_namespaces(7)).
    pub time_namespace: Option<Vec<u8>>,
    /// The disruption marker of the VMClock device.
    pub vm_generation: Option<u64>,
}

impl Markers {
    /// Reads this machine's. A marker that cannot be read is absent.
    pub fn read() -> Markers {
        Markers {
            time_namespace: read_start("/proc/self/timens_offsets", 256),
            vm_generation: read_start("/dev/vmclock0", 24).and_then(|page| vmclock_marker(&page)),
        }
    }
}

fn read_start(path: &str, len_max: u64) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).ok()?;
    io::Read::read_to_end(&mut io::Read::take(file, len_max), &mut bytes).ok()?;
    Some(bytes)
}

/// The start of the VMClock page (Linux include/uapi/linux/vmclock-abi.h): u32 magic "VCLK", u32 size, u16 version,
/// u8 counter, u8 time type, u32 sequence count, u64 disruption marker; little-endian.
fn vmclock_marker(page: &[u8]) -> Option<u64> {
    const MAGIC: u32 = 0x4B4C_4356;
    let magic = u32::from_le_bytes(page.get(..4)?.try_into().ok()?);
    let marker = u64::from_le_bytes(page.get(16..24)?.try_into().ok()?);
    (magic == MAGIC).then_some(marker)
}

/// Suspends shorter than this do not exist; readings of the two clocks scatter by less.
const SUSPEND_NS_MIN: u64 = 1_000_000;

/// Compares the clocks with what they were at the last check.
#[derive(Debug)]
pub struct DisruptionWatch {
    asleep_ns: u64,
    raw: RawNs,
    markers: Markers,
}

impl DisruptionWatch {
    pub fn new(clock: &dyn Clock, markers: Markers) -> DisruptionWatch {
        DisruptionWatch { asleep_ns: asleep_ns(clock).0, raw: clock.raw(), markers }
    }

    /// What happened since the last check, if the epoch ended. Check with each sample.
    pub fn check(&mut self, clock: &dyn Clock, markers: &Markers) -> Option<Disruption> {
        let raw = clock.raw();
        let (asleep_ns, doubt_ns) = asleep_ns(clock);
        let last_good = self.raw;
        let slept_ns = asleep_ns.saturating_sub(self.asleep_ns);
        let kind = if raw < self.raw {
            Some(DisruptionKind::RawWentBack { ns: self.raw.since(raw) })
        } else if changed(&self.markers.vm_generation, &markers.vm_generation) {
            Some(DisruptionKind::VmGeneration)
        } else if changed(&self.markers.time_namespace, &markers.time_namespace) {
            Some(DisruptionKind::TimeNamespace)
        } else if slept_ns > SUSPEND_NS_MIN + doubt_ns {
            Some(DisruptionKind::Suspended { ns: slept_ns })
        } else {
            None
        };
        self.raw = raw;
        self.markers = markers.clone();
        // Kept from the narrowest reading, so that scatter does not add up over checks.
        if kind.is_some() {
            self.asleep_ns = asleep_ns;
        }
        kind.map(|kind| Disruption { kind, last_good })
    }
}

/// A marker that only vanished (a file that cannot be read for a moment) says nothing.
fn changed<T: PartialEq>(before: &Option<T>, after: &Option<T>) -> bool {
    matches!((before, after), (Some(a), Some(b)) if a != b)
}

/// BOOTTIME − MONOTONIC, and how far apart the readings were.
fn asleep_ns(clock: &dyn Clock) -> (u64, u64) {
    let mut best: Option<(u64, u64)> = None;
    for _ in 0..3 {
        let before = clock.monotonic();
        let boot = clock.boottime();
        let width_ns = clock.monotonic().since(before);
        let this = (boot.0.saturating_sub(before.0), width_ns);
        if best.is_none_or(|(_, w)| width_ns < w) {
            best = Some(this);
        }
    }
    best.unwrap_or_default()
}

/// Opens an epoch of `agent` now.
///
/// # Errors
/// When /proc/sys/kernel/random/boot_id cannot be read as an identifier.
pub fn open_epoch(agent: [u8; 16], clock: &dyn Clock) -> io::Result<EpochId> {
    const PATH: &str = "/proc/sys/kernel/random/boot_id";
    let text = std::fs::read_to_string(PATH)
        .map_err(|e| io::Error::new(e.kind(), format!("cannot read the boot id from {PATH}: {e}")))?;
    let boot_id = parse_uuid(text.trim()).ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidData, format!("{PATH} holds no identifier: {text:?}"))
    })?;
    Ok(EpochId { agent, boot_id, opened: clock.raw() })
}

fn parse_uuid(text: &str) -> Option<[u8; 16]> {
    let digits: Vec<u8> = text.bytes().filter(|b| *b != b'-').collect();
    if digits.len() != 32 {
        return None;
    }
    let mut id = [0; 16];
    for (byte, pair) in id.iter_mut().zip(digits.chunks_exact(2)) {
        let digit = |c: u8| char::from(c).to_digit(16).and_then(|d| u8::try_from(d).ok());
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::KernelClock;
    use crate::sim::SimClock;

    #[test]
    fn a_quiet_machine_has_no_disruption() {
        let clock = KernelClock;
        let mut watch = DisruptionWatch::new(&clock, Markers::read());
        for _ in 0..100 {
            assert_eq!(watch.check(&clock, &Markers::read()), None);
        }
    }

    #[test]
    fn suspend_slew_restore_and_markers_are_told_apart() {
        let sim = SimClock::new(0);
        let mut watch = DisruptionWatch::new(&sim, Markers::default());
        sim.advance(1_000_000_000);
        let good = sim.raw();
        assert_eq!(watch.check(&sim, &Markers::default()), None);
        sim.slew(83_333, 10_000_000_000);
        sim.advance(5_000_000_000);
        assert_eq!(watch.check(&sim, &Markers::default()), None, "a slew moves both clocks");
        let before_sleep = sim.raw();
        assert!(before_sleep > good);
        sim.suspend(7_000_000_000);
        let d = watch.check(&sim, &Markers::default()).unwrap();
        assert_eq!(d.last_good, before_sleep);
        assert!(matches!(d.kind, DisruptionKind::Suspended { ns } if ns.abs_diff(7_000_000_000) < 1_000_000));
        assert_eq!(watch.check(&sim, &Markers::default()), None, "once");
        let vm = |g| Markers { vm_generation: Some(g), time_namespace: None };
        assert_eq!(watch.check(&sim, &vm(1)), None, "a marker that appears is no change");
        assert_eq!(watch.check(&sim, &vm(2)).unwrap().kind, DisruptionKind::VmGeneration);
        let other = SimClock::new(0);
        assert!(matches!(watch.check(&other, &vm(2)).unwrap().kind, DisruptionKind::RawWentBack { .. }));
        let ns = |b: &[u8]| Markers { vm_generation: None, time_namespace: Some(b.to_vec()) };
        assert_eq!(watch.check(&other, &ns(b"a")), None);
        assert_eq!(watch.check(&other, &ns(b"b")).unwrap().kind, DisruptionKind::TimeNamespace);
    }

    #[test]
    fn formats_are_read_strictly() {
        let mut page = vec![0_u8; 24];
        page[..4].copy_from_slice(b"VCLK");
        page[16] = 5;
        assert_eq!(vmclock_marker(&page), Some(5));
        assert_eq!(vmclock_marker(&page[..23]), None);
        page[0] = 0;
        assert_eq!(vmclock_marker(&page), None);
        assert_eq!(parse_uuid("00112233-4455-6677-8899-aabbccddeeff").unwrap()[15], 0xFF);
        assert_eq!(parse_uuid("0011"), None);
        assert_eq!(parse_uuid("zz112233-4455-6677-8899-aabbccddeeff"), None);
        assert!(open_epoch([1; 16], &KernelClock).is_ok());
    }
}
