//! A simulated machine, its clocks, its NTP daemon and its path to the collector, and the truth that none of them knows.
//! For tests anywhere: cheap, deterministic, and it implements [`Clock`].

use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::chrony::{ChronyError, NtpDaemon, Tracking};
use crate::clock::{Bracket, Clock, KernelStatus};
use crate::exchange::ExchangeSample;
use crate::time::{MonoNs, RawNs, UtcNs};

const NS_PER_S: i64 = 1_000_000_000;

/// The truth starts here: 2026-06-01T00:00:00 UTC, POSIX nanoseconds.
pub const SIM_START_UNIX_NS: i64 = 1_780_272_000 * NS_PER_S;

/// Longest stride in which rates are taken as constant.
const STRIDE_NS: i64 = 20 * NS_PER_S;

/// A small deterministic source of chance (SplitMix64), so that a failing seed can be run again.
#[derive(Clone, Debug)]
pub struct SimRandom(u64);

impl SimRandom {
    pub fn new(seed: u64) -> SimRandom {
        SimRandom(seed)
    }

    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Evenly in `from..=to`.
    pub fn range(&mut self, from: i64, to: i64) -> i64 {
        let width = (i128::from(to) - i128::from(from) + 1).max(1);
        (i128::from(from) + i128::from(self.next_u64()) % width) as i64
    }

    pub fn one_in(&mut self, n: i64) -> bool {
        self.range(1, n) == 1
    }

    /// Short most of the time, long now and then: a path's delay between `min_ns` and `max_ns`.
    pub fn delay(&mut self, min_ns: i64, max_ns: i64) -> i64 {
        let draw = |r: &mut SimRandom| r.range(0, (max_ns - min_ns).max(0));
        min_ns + draw(self).min(draw(self)).min(draw(self))
    }
}

#[derive(Debug)]
struct State {
    /// TAI nanoseconds.
    truth: i64,
    raw: i64,
    mono: i64,
    asleep: i64,
    /// CLOCK_REALTIME as POSIX nanoseconds.
    real: i64,
    /// What integer division left over, in 10⁻⁹ ns, so that rates are exact over any stride.
    raw_rest: i64,
    mono_rest: i64,
    rate_ppb: i64,
    wander_ppb: i64,
    wander_period_s: i64,
    slew_ppm: i64,
    slew_left: i64,
    status: KernelStatus,
    tracking: Option<Tracking>,
    /// A leap second is inserted after the second that ends here (truth, TAI).
    leap_at: Option<i64>,
    bracket_ns: i64,
}

/// The clocks of one simulated machine. Time stands still until [`SimClock::advance`].
#[derive(Debug)]
pub struct SimClock(Mutex<State>);

impl SimClock {
    /// A machine just booted: RAW at 5 s, wrong in rate by `rate_ppb`, REALTIME right but with nothing to prove it
    /// (maxerror 16 s, STA_UNSYNC).
    pub fn new(rate_ppb: i64) -> SimClock {
        let status = KernelStatus { max_error_ns: 16_000_000_000, unsync: true, ..KernelStatus::default() };
        SimClock(Mutex::new(State {
            truth: UtcNs::from_unix_ns(SIM_START_UNIX_NS).tai_ns(),
            raw: 5 * NS_PER_S,
            mono: 4 * NS_PER_S,
            asleep: 0,
            real: SIM_START_UNIX_NS,
            raw_rest: 0,
            mono_rest: 0,
            rate_ppb,
            wander_ppb: 0,
            wander_period_s: 3_600,
            slew_ppm: 0,
            slew_left: 0,
            status,
            tracking: None,
            leap_at: None,
            bracket_ns: 0,
        }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What no clock knows.
    pub fn truth(&self) -> UtcNs {
        UtcNs::from_tai_ns(self.state().truth)
    }

    /// REALTIME − truth.
    pub fn offset_ns(&self) -> i64 {
        let s = self.state();
        UtcNs::from_unix_ns(s.real).tai_ns() - s.truth
    }

    /// The rate of RAW swings by this much around its mean (temperature), as a triangle of this period.
    pub fn set_wander(&self, ppb: i64, period_s: i64) {
        let mut s = self.state();
        (s.wander_ppb, s.wander_period_s) = (ppb, period_s.max(2));
    }

    /// How far apart the readings of a bracket are.
    pub fn set_bracket_width(&self, ns: u64) {
        self.state().bracket_ns = ns as i64;
    }

    /// Lets true time pass.
    pub fn advance(&self, ns: u64) {
        let mut s = self.state();
        let mut left = ns as i64;
        while left > 0 {
            let mut stride = left.min(STRIDE_NS);
            // A stride ends where the slew does, so that the slew is exact.
            if s.slew_left > 0 {
                stride = stride.min(s.slew_left);
            }
            s.pass(stride);
            left -= stride;
        }
    }

    /// Somebody sets the clock. The kernel forgets its synchronisation, as it does (timekeeping, `ntp_clear`).
    pub fn step(&self, by_ns: i64) {
        let mut s = self.state();
        s.real += by_ns;
        s.status.max_error_ns = 16_000_000_000;
        s.status.unsync = true;
        s.slew_left = 0;
        s.status.rho_ppb = 0;
    }

    /// REALTIME and MONOTONIC run fast by `ppm` (up to ±83,333) for the next `for_ns`.
    pub fn slew(&self, ppm: i64, for_ns: u64) {
        let mut s = self.state();
        (s.slew_ppm, s.slew_left) = (ppm, for_ns as i64);
        s.status.rho_ppb = if for_ns > 0 { ppm * 1_000 } else { 0 };
    }

    /// The machine stands still and does not know: all its clocks stop while the world goes on.
    pub fn pause(&self, ns: u64) {
        self.state().truth += ns as i64;
    }

    /// The machine sleeps: RAW and MONOTONIC stop, BOOTTIME and (by the RTC) REALTIME do not.
    pub fn suspend(&self, ns: u64) {
        let mut s = self.state();
        s.truth += ns as i64;
        s.asleep += ns as i64;
        s.real += ns as i64;
    }

    /// A leap second is inserted when truth has advanced by `after_ns`: REALTIME repeats a second.
    pub fn schedule_leap_second(&self, after_ns: u64) {
        let mut s = self.state();
        s.leap_at = Some(s.truth + after_ns as i64);
    }

    /// What the kernel says of itself; `max_error_ns` grows by 500 µs a second from here on.
    pub fn set_status(&self, max_error_ns: u64, unsync: bool) {
        let mut s = self.state();
        (s.status.max_error_ns, s.status.unsync) = (max_error_ns, unsync);
    }

    /// A truthful NTP daemon looks at its sources: the clock is set to the truth but for `residual_ns`, and the kernel
    /// is told an error that includes it and `margin_ns`.
    pub fn discipline(&self, residual_ns: i64, margin_ns: u64, unsync: bool) {
        let offset = self.offset_ns();
        let mut s = self.state();
        s.real += residual_ns - offset;
        s.status.max_error_ns = residual_ns.unsigned_abs() + margin_ns;
        s.status.unsync = unsync;
    }

    /// A lying NTP daemon: the clock is set wrong by `lie_ns`, and the kernel is told it is good to `margin_ns`.
    pub fn deceive(&self, lie_ns: i64, margin_ns: u64) {
        self.discipline(lie_ns, margin_ns, false);
        self.state().status.max_error_ns = margin_ns;
    }

    /// What chronyd on this machine would answer; `None` and it is not there.
    pub fn set_tracking(&self, tracking: Option<Tracking>) {
        self.state().tracking = tracking;
    }

    /// One exchange with a collector over a path that takes `out_ns` there, `held_ns` in the collector and `back_ns`
    /// here. The collector's clock is wrong by `collector_off_ns`, and it says by at most `collector_err_ns`.
    pub fn exchange(
        &self,
        out_ns: u64,
        held_ns: u64,
        back_ns: u64,
        collector_off_ns: i64,
        collector_err_ns: u64,
    ) -> ExchangeSample {
        let collector = || self.truth().saturating_add_ns(collector_off_ns);
        let t1 = self.raw();
        self.advance(out_ns);
        let t2 = collector();
        self.advance(held_ns);
        let t3 = collector();
        self.advance(back_ns);
        ExchangeSample { t1, t2, t3, t4: self.raw(), collector_err_ns }
    }
}

impl State {
    fn pass(&mut self, ns: i64) {
        let period = self.wander_period_s * NS_PER_S;
        let phase = (self.truth % period) * 4 / self.wander_period_s;
        // A triangle from −1 over +1 back to −1, in 10⁻⁹.
        let triangle = if phase < 2 * NS_PER_S { phase - NS_PER_S } else { 3 * NS_PER_S - phase };
        let wander = (i128::from(self.wander_ppb) * i128::from(triangle) / i128::from(NS_PER_S)) as i64;
        let scaled =
            i128::from(ns) * i128::from(NS_PER_S + self.rate_ppb + wander) + i128::from(self.raw_rest);
        let d_raw = (scaled / i128::from(NS_PER_S)) as i64;
        self.raw_rest = (scaled % i128::from(NS_PER_S)) as i64;
        let slew_ppm = if self.slew_left > 0 { self.slew_ppm } else { 0 };
        let slewed = i128::from(d_raw) * i128::from(1_000_000 + slew_ppm) + i128::from(self.mono_rest);
        let d_mono = (slewed / 1_000_000) as i64;
        self.mono_rest = (slewed % 1_000_000) as i64;
        if self.slew_left > 0 {
            self.slew_left -= ns;
            if self.slew_left <= 0 {
                self.status.rho_ppb = 0;
            }
        }
        self.raw += d_raw;
        self.mono += d_mono;
        self.real += d_mono;
        self.status.max_error_ns =
            self.status.max_error_ns.saturating_add((ns / 2_000) as u64).min(16_000_000_000);
        let before = self.truth;
        self.truth += ns;
        if let Some(at) = self.leap_at {
            if before < at && self.truth >= at {
                self.real -= NS_PER_S;
                self.status.tai_offset_s += 1;
            }
            self.status.in_leap_second = self.truth >= at && self.truth < at + NS_PER_S;
        }
    }
}

impl Clock for SimClock {
    fn raw(&self) -> RawNs {
        RawNs(self.state().raw as u64)
    }

    fn monotonic(&self) -> MonoNs {
        MonoNs(self.state().mono as u64)
    }

    fn boottime(&self) -> MonoNs {
        let s = self.state();
        MonoNs((s.mono + s.asleep) as u64)
    }

    fn bracket(&self) -> Bracket {
        let s = self.state();
        let half = s.bracket_ns / 2;
        Bracket {
            raw: RawNs((s.raw + half) as u64),
            half_width_ns: half as u64,
            realtime: UtcNs::from_unix_ns(s.real),
        }
    }

    fn kernel_status(&self) -> io::Result<KernelStatus> {
        Ok(self.state().status)
    }
}

impl NtpDaemon for &SimClock {
    fn tracking(&mut self) -> Result<Tracking, ChronyError> {
        let absent = || io::Error::new(io::ErrorKind::ConnectionRefused, "no daemon in this simulation");
        self.state().tracking.ok_or_else(|| absent().into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_steps_slews_and_pauses_do_what_they_say() {
        let sim = SimClock::new(100_000);
        let (raw, truth) = (sim.raw(), sim.truth());
        sim.advance(1_000_000_000_000);
        assert_eq!(sim.truth().minus(truth), 1_000_000_000_000);
        assert_eq!(sim.raw().since(raw), 1_000_100_000_000);
        let sim = SimClock::new(0);
        sim.slew(83_333, 12_000_000_000);
        sim.advance(100_000_000_000);
        assert_eq!(sim.offset_ns(), 999_996_000);
        sim.step(-5);
        assert_eq!(sim.offset_ns(), 999_995_995);
        sim.pause(10);
        assert_eq!(sim.offset_ns(), 999_995_985);
        sim.discipline(-7, 100, true);
        assert_eq!((sim.offset_ns(), sim.kernel_status().unwrap().max_error_ns), (-7, 107));
    }

    #[test]
    fn i11_the_simulated_leap_second_repeats_a_second_and_truth_does_not() {
        let sim = SimClock::new(0);
        sim.schedule_leap_second(10_000_000_000);
        let before = sim.bracket();
        sim.advance(20_000_000_000);
        assert_eq!(sim.bracket().realtime.minus(before.realtime), 19_000_000_000);
        let status = sim.kernel_status().unwrap();
        assert_eq!(sim.bracket().civil(&status), sim.truth());
    }
}
