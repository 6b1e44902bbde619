//! One look at this machine's own evidence: the kernel's clock and chronyd's word, and whether the clock was set since
//! the last look.

use crate::chrony::{ChronyError, ChronyFixRejected, NtpDaemon, UpdateGuard, ask};
use crate::clock::{Bracket, Clock};
use crate::kernel::{KernelFixRejected, kernel_fix};
use crate::time::Fix;

/// REALTIME may leave RAW by this much of the time between two looks (chronyd slews at 83,333 ppm) ...
const SLEW_PPM_MAX: u64 = 100_000;
/// ... and by this much besides; beyond it the clock was set.
const STEP_NS_MIN: u64 = 5_000_000;

/// chronyd's part of a sample.
#[derive(Debug)]
pub enum ChronyWord {
    /// Nobody was asked.
    Absent,
    Fix(Fix),
    Rejected(ChronyFixRejected),
    /// It does not answer: make a new client.
    Failed(ChronyError),
}

/// What one look found.
#[derive(Debug)]
pub struct Sampled {
    pub bracket: Bracket,
    pub kernel: Result<Fix, KernelFixRejected>,
    pub chrony: ChronyWord,
    /// The clock was set by this much since the last look.
    pub stepped_by_ns: Option<i64>,
}

impl Sampled {
    /// The evidence, least direct first.
    pub fn fixes(&self) -> impl Iterator<Item = Fix> {
        let chrony = match self.chrony {
            ChronyWord::Fix(fix) => Some(fix),
            _ => None,
        };
        self.kernel.ok().into_iter().chain(chrony)
    }
}

/// Looks, and remembers what is needed to judge the next look. Used by the agent and by the collector.
#[derive(Debug, Default)]
pub struct Sampler {
    last: Option<Bracket>,
    /// Sticky: a clock that was ever seen with a maximum error of 0 has a daemon that understates it.
    vague: bool,
    guard: UpdateGuard,
}

impl Sampler {
    /// `timesyncd`: systemd-timesyncd disciplines this clock (see [`timesyncd_runs`]), which understates its error.
    pub fn new(timesyncd: bool) -> Sampler {
        Sampler { last: None, vague: timesyncd, guard: UpdateGuard::default() }
    }

    /// The clock was set (ECANCELED): chronyd's word waits for its next update.
    pub fn stepped(&mut self) {
        self.guard.stepped();
    }

    /// Reads the clock and asks the daemon. Blocks no longer than the daemon's timeout.
    pub fn sample(&mut self, clock: &dyn Clock, daemon: Option<&mut dyn NtpDaemon>) -> Sampled {
        let before = clock.kernel_status();
        let bracket = clock.bracket();
        let after = clock.kernel_status();
        let stepped_by_ns = self.last.and_then(|last| step_between(&last, &bracket));
        self.last = Some(bracket);
        if stepped_by_ns.is_some() {
            self.guard.stepped();
        }
        let kernel = match (&before, &after) {
            (Ok(before), Ok(after)) => {
                self.vague |= after.max_error_ns == 0;
                // The bracket belongs to the status only when nothing happened in between.
                let calm = after.max_error_ns.abs_diff(before.max_error_ns) <= 10_000_000
                    && after.tai_offset_s == before.tai_offset_s
                    && after.in_leap_second == before.in_leap_second;
                if calm {
                    let wider = if after.max_error_ns > before.max_error_ns { after } else { before };
                    kernel_fix(&bracket, wider, self.vague)
                } else {
                    Err(KernelFixRejected::ClockChanged)
                }
            }
            _ => Err(KernelFixRejected::Forbidden),
        };
        let chrony = match daemon {
            None => ChronyWord::Absent,
            Some(daemon) => match ask(clock, after.as_ref().ok(), daemon, &mut self.guard) {
                Ok(Ok(fix)) => ChronyWord::Fix(fix),
                Ok(Err(rejected)) => ChronyWord::Rejected(rejected),
                Err(error) => ChronyWord::Failed(error),
            },
        };
        Sampled { bracket, kernel, chrony, stepped_by_ns }
    }
}

/// How far REALTIME moved against RAW between two readings, if further than any slew.
fn step_between(last: &Bracket, now: &Bracket) -> Option<i64> {
    let d_raw = now.raw.since(last.raw);
    let by_ns = now.realtime.minus(last.realtime).saturating_sub_unsigned(d_raw);
    let slewable = d_raw / 1_000_000 * SLEW_PPM_MAX + STEP_NS_MIN + last.half_width_ns + now.half_width_ns;
    (now.raw >= last.raw && by_ns.unsigned_abs() > slewable).then_some(by_ns)
}

/// Does systemd-timesyncd keep this machine's clock? (Its state directory exists only while it runs.)
pub fn timesyncd_runs() -> bool {
    std::path::Path::new("/run/systemd/timesync").exists()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chrony::Tracking;
    use crate::sim::SimClock;

    fn tracking(updated_s: u64) -> Tracking {
        Tracking {
            reference_id: 1,
            stratum: 2,
            leap_status: 0,
            updated: (updated_s, 0),
            correction_s: 0.0,
            root_delay_s: 0.001,
            root_dispersion_s: 0.000_5,
        }
    }

    #[test]
    fn an_operators_step_silences_kernel_and_chrony_until_they_looked_again() {
        let sim = SimClock::new(0);
        sim.discipline(0, 1_000_000, false);
        sim.set_tracking(Some(tracking(1)));
        let mut sampler = Sampler::new(false);
        let mut look = |sim: &SimClock| {
            sim.advance(1_000_000_000);
            sampler.sample(sim, Some(&mut &*sim))
        };
        assert_eq!(look(&sim).fixes().count(), 2);
        sim.step(3_600_000_000_000);
        let s = look(&sim);
        assert_eq!(s.fixes().count(), 0, "chronyd still believes its old correction: {s:?}");
        assert_eq!(s.stepped_by_ns, Some(3_600_000_000_000));
        let s = look(&sim);
        assert!(matches!(s.chrony, ChronyWord::Rejected(ChronyFixRejected::NotSinceStep)));
        assert_eq!(s.stepped_by_ns, None);
        sim.discipline(0, 1_000_000, false);
        sim.set_tracking(Some(tracking(2)));
        assert_eq!(look(&sim).fixes().count(), 2);
    }

    #[test]
    fn a_slew_is_no_step_and_a_zero_error_is_remembered() {
        let sim = SimClock::new(0);
        sim.discipline(0, 0, true);
        let mut sampler = Sampler::new(false);
        assert!(sampler.sample(&sim, None).kernel.unwrap().err_ns > 100_000_000);
        sim.slew(83_333, 3_000_000_000);
        sim.advance(2_000_000_000);
        let s = sampler.sample(&sim, None);
        assert_eq!(s.stepped_by_ns, None);
        assert!(matches!(s.kernel, Err(KernelFixRejected::Slewing { .. })));
        sim.advance(2_000_000_000);
        sim.discipline(0, 300_000, true);
        assert!(sampler.sample(&sim, None).kernel.unwrap().err_ns > 100_000_000, "sticky");
    }

    #[test]
    fn the_real_machine_is_looked_at() {
        let sampled = Sampler::new(timesyncd_runs()).sample(&crate::KernelClock, None);
        assert_eq!(sampled.stepped_by_ns, None);
        assert!(matches!(sampled.chrony, ChronyWord::Absent));
    }
}
