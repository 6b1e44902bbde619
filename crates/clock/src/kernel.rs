//! The kernel's clocks: `clock_gettime` and `adjtimex`.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::BorrowedFd;

use rustix::time::{ClockId, DynamicClockId, Timespec, clock_gettime, clock_gettime_dynamic};

use crate::clock::{Bracket, Clock, KernelStatus};
use crate::time::{Fix, FixSource, MonoNs, RawNs, UtcNs};

/// The kernel's word counts up to this error (it says 16 s before the first synchronisation).
const MAX_ERROR_NS_MAX: u64 = 1_000_000_000;

/// More than this is a slew or a broken clock.
const RHO_PPB_MAX: u64 = 500_000;

/// systemd-timesyncd writes maxerror 0 at each poll, whatever the path to its server: what its word is worth.
const TIMESYNCD_ERR_NS: u64 = 100_000_000;

/// Why the kernel's clock is no evidence now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KernelFixRejected {
    #[error(
        "the kernel's maximum error is {max_error_ns} ns, the limit is {MAX_ERROR_NS_MAX} ns: not synchronised"
    )]
    NotSynchronised { max_error_ns: u64 },
    #[error("the kernel's clock is being slewed at {rho_ppb} ppb, the limit is {RHO_PPB_MAX} ppb")]
    Slewing { rho_ppb: i64 },
    #[error("a leap second is being inserted")]
    LeapSecond,
    #[error("the clock was set while it was read")]
    ClockChanged,
    #[error("the clock stands before 2025: it was never set")]
    Implausible,
    #[error("adjtimex is forbidden here: allow the system calls adjtimex and clock_adjtime")]
    Forbidden,
}

/// The evidence in a reading of the kernel's clock. STA_UNSYNC has no say: chronyd without `rtcsync` leaves it set for
/// ever, timesyncd sets it when the RTC is in local time.
///
/// `vague`: whoever disciplines this clock understates its error (systemd-timesyncd).
///
/// # Errors
/// When the kernel itself does not claim to be within 1 s, or cannot be read without doubt.
pub fn kernel_fix(bracket: &Bracket, status: &KernelStatus, vague: bool) -> Result<Fix, KernelFixRejected> {
    if status.max_error_ns >= MAX_ERROR_NS_MAX {
        return Err(KernelFixRejected::NotSynchronised { max_error_ns: status.max_error_ns });
    }
    if status.rho_ppb.unsigned_abs() > RHO_PPB_MAX {
        return Err(KernelFixRejected::Slewing { rho_ppb: status.rho_ppb });
    }
    if status.in_leap_second {
        return Err(KernelFixRejected::LeapSecond);
    }
    let utc = bracket.civil(status);
    if !utc.is_plausible() {
        return Err(KernelFixRejected::Implausible);
    }
    let vague_ns = if vague || status.max_error_ns == 0 { TIMESYNCD_ERR_NS } else { 0 };
    let err_ns = status.max_error_ns + bracket.half_width_ns + vague_ns + 1;
    Ok(Fix { raw: bracket.raw, utc, err_ns, source: FixSource::Kernel })
}

/// The machine's own clocks.
#[derive(Clone, Copy, Debug, Default)]
pub struct KernelClock;

/// Brackets wider than this are read again: something ran between the readings.
const BRACKET_NS_GOOD: u64 = 5_000;
const BRACKET_TRIES: usize = 5;

fn nanos(ts: Timespec) -> i64 {
    ts.tv_sec.saturating_mul(1_000_000_000).saturating_add(ts.tv_nsec)
}

fn nanos_unsigned(id: ClockId) -> u64 {
    u64::try_from(nanos(clock_gettime(id))).unwrap_or(0)
}

impl Clock for KernelClock {
    fn raw(&self) -> RawNs {
        RawNs(nanos_unsigned(ClockId::MonotonicRaw))
    }

    fn monotonic(&self) -> MonoNs {
        MonoNs(nanos_unsigned(ClockId::Monotonic))
    }

    fn boottime(&self) -> MonoNs {
        MonoNs(nanos_unsigned(ClockId::Boottime))
    }

    fn bracket(&self) -> Bracket {
        let mut best: Option<Bracket> = None;
        for _ in 0..BRACKET_TRIES {
            let before = self.raw();
            let realtime = nanos(clock_gettime(ClockId::Realtime));
            let half_width_ns = self.raw().since(before) / 2;
            let this = Bracket {
                raw: before.saturating_add(half_width_ns),
                half_width_ns,
                realtime: UtcNs::from_unix_ns(realtime),
            };
            if best.is_none_or(|b| half_width_ns < b.half_width_ns) {
                best = Some(this);
            }
            if half_width_ns * 2 <= BRACKET_NS_GOOD {
                break;
            }
        }
        best.expect("BRACKET_TRIES is not zero")
    }

    fn kernel_status(&self) -> io::Result<KernelStatus> {
        // SAFETY: `timex` is a C struct of integers, for which all zeroes is a valid value; modes = 0 only reads.
        let mut timex: libc::timex = unsafe { std::mem::zeroed() };
        // SAFETY: `timex` is a live, exclusively borrowed struct of the type the call expects.
        let state = unsafe { libc::adjtimex(&raw mut timex) };
        if state < 0 {
            return Err(io::Error::last_os_error());
        }
        // `freq` is in 2⁻¹⁶ ppm (adjtimex(2)); `tick` in µs a 10 ms tick, so one is 100 ppm.
        let freq_ppb = timex.freq.saturating_mul(1_000) / 65_536;
        Ok(KernelStatus {
            max_error_ns: u64::try_from(timex.maxerror).unwrap_or(u64::MAX).saturating_mul(1_000),
            rho_ppb: freq_ppb.saturating_add((timex.tick - 10_000).saturating_mul(100_000)),
            unsync: timex.status & libc::STA_UNSYNC != 0,
            tai_offset_s: timex.tai,
            in_leap_second: state == libc::TIME_OOP,
        })
    }

    fn nic_ns(&self, device: BorrowedFd<'_>) -> io::Result<i64> {
        Ok(nanos(clock_gettime_dynamic(DynamicClockId::Dynamic(device))?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bracket(unix_s: i64) -> Bracket {
        Bracket { raw: RawNs(77), half_width_ns: 300, realtime: UtcNs::from_unix_ns(unix_s * 1_000_000_000) }
    }

    #[test]
    fn i10_the_flag_decides_nothing_and_maxerror_everything() {
        let b = bracket(1_800_000_000);
        for unsync in [false, true] {
            let good = KernelStatus { max_error_ns: 2_000_000, unsync, ..KernelStatus::default() };
            let fix = kernel_fix(&b, &good, false).unwrap();
            assert_eq!((fix.utc, fix.err_ns), (b.realtime, 2_000_301));
            let bad = KernelStatus { max_error_ns: 16_000_000_000, ..good };
            assert!(matches!(kernel_fix(&b, &bad, false), Err(KernelFixRejected::NotSynchronised { .. })));
        }
    }

    #[test]
    fn doubtful_readings_are_refused_or_widened() {
        let b = bracket(1_800_000_000);
        let good = KernelStatus { max_error_ns: 2_000_000, ..KernelStatus::default() };
        let slew = KernelStatus { rho_ppb: -83_333_000, ..good };
        assert_eq!(kernel_fix(&b, &slew, false), Err(KernelFixRejected::Slewing { rho_ppb: -83_333_000 }));
        let leap = KernelStatus { in_leap_second: true, ..good };
        assert_eq!(kernel_fix(&b, &leap, false), Err(KernelFixRejected::LeapSecond));
        assert_eq!(kernel_fix(&bracket(3), &good, false), Err(KernelFixRejected::Implausible));
        let zero = KernelStatus { max_error_ns: 0, ..good };
        assert!(kernel_fix(&b, &zero, false).unwrap().err_ns > 100_000_000);
        assert!(kernel_fix(&b, &good, true).unwrap().err_ns > 102_000_000);
    }

    #[test]
    fn i11_a_leap_second_our_table_does_not_know_is_taken_from_the_kernel() {
        let b = bracket(1_800_000_000);
        let civil = |tai_offset_s| b.civil(&KernelStatus { tai_offset_s, ..KernelStatus::default() });
        assert_eq!(civil(0), b.realtime);
        assert_eq!(civil(37), b.realtime);
        assert_eq!(civil(38).minus(b.realtime), 1_000_000_000);
        assert_eq!(civil(1).minus(b.realtime), 1_000_000_000);
        assert_eq!(civil(36), b.realtime);
    }

    #[test]
    fn raw_never_goes_back_and_brackets_are_narrow() {
        let clock = KernelClock;
        let first = clock.raw();
        let bracket = clock.bracket();
        assert!(bracket.raw >= first && clock.raw() >= bracket.raw);
        assert!(bracket.half_width_ns < 1_000_000_000);
        assert!(clock.kernel_status().is_ok());
    }
}
