//! The kernel's clocks: `clock_gettime` and `adjtimex`.
#![allow(unsafe_code)]

use std::io;

use rustix::time::{ClockId, Timespec, clock_gettime};

use crate::clock::{Bracket, Clock, KernelStatus};
use crate::time::{MonoNs, RawNs, UtcNs};

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
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
