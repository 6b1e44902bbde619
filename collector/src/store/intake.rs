//! How fast the store fills: what came in during the last hour, or since the start.

use gnomon_clock::MonoNs;

const MINUTE_NS: u64 = 60_000_000_000;
const MINUTES: u64 = 60;
const DAY_S: u64 = 86_400;
/// Before this nothing is said: a rate of the first seconds means nothing.
const MEASURED_NS_MIN: u64 = MINUTE_NS;

/// What came in, minute by minute.
#[derive(Clone, Debug)]
pub(super) struct Intake {
    since: MonoNs,
    /// The minute, bytes of packets, and records: a ring of an hour.
    minutes: [(u64, u64, u64); MINUTES as usize],
}

/// What comes in on average.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// The stretch it was measured over.
    pub over_s: u64,
    pub packet_bytes_a_day: u64,
    pub records_a_day: u64,
}

impl Intake {
    pub(super) fn new(now: MonoNs) -> Intake {
        Intake { since: now, minutes: [(0, 0, 0); MINUTES as usize] }
    }

    pub(super) fn add(&mut self, now: MonoNs, packet_bytes: u64, records: u64) {
        let minute = now.0 / MINUTE_NS;
        let slot = &mut self.minutes[(minute % MINUTES) as usize];
        if slot.0 != minute {
            *slot = (minute, 0, 0);
        }
        slot.1 = slot.1.saturating_add(packet_bytes);
        slot.2 = slot.2.saturating_add(records);
    }

    /// `None` until it can be told.
    pub(super) fn rate(&self, now: MonoNs) -> Option<Rate> {
        let minute = now.0 / MINUTE_NS;
        let oldest = minute.saturating_sub(MINUTES - 1);
        let measured = now.since(self.since).min(now.0.saturating_sub(oldest * MINUTE_NS));
        if measured < MEASURED_NS_MIN {
            return None;
        }
        let inside = self.minutes.iter().filter(|(at, ..)| (oldest..=minute).contains(at));
        let (bytes, records) = inside.fold((0u64, 0u64), |(bytes, records), (_, b, r)| {
            (bytes.saturating_add(*b), records.saturating_add(*r))
        });
        let a_day = |amount: u64| {
            let amount = u128::from(amount) * u128::from(DAY_S) * 1_000_000_000 / u128::from(measured);
            u64::try_from(amount).unwrap_or(u64::MAX)
        };
        Some(Rate {
            over_s: measured / 1_000_000_000,
            packet_bytes_a_day: a_day(bytes),
            records_a_day: a_day(records),
        })
    }
}

/// Seconds until `left` bytes are filled; `None` when nothing comes in.
pub(super) fn full_in_s(left: u64, bytes_a_day: u64) -> Option<u64> {
    let seconds = (u128::from(left) * u128::from(DAY_S)).checked_div(u128::from(bytes_a_day))?;
    Some(u64::try_from(seconds).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_that_of_the_last_hour_or_since_the_start() {
        let at = |minutes: u64| MonoNs(1_000 * MINUTE_NS + minutes * MINUTE_NS);
        let mut intake = Intake::new(at(0));
        assert_eq!(intake.rate(at(0)), None);
        for minute in 0..10 {
            intake.add(at(minute), 100, 2);
        }
        let day = |per_minute: u64| per_minute * 1_440;
        let rate = |over_s, bytes, records| {
            Some(Rate { over_s, packet_bytes_a_day: day(bytes), records_a_day: day(records) })
        };
        assert_eq!(intake.rate(at(10)), rate(600, 100, 2));
        for minute in 10..200 {
            intake.add(at(minute), 7, 0);
        }
        let hour = intake.rate(at(200)).unwrap();
        assert_eq!((hour.over_s, hour.packet_bytes_a_day, hour.records_a_day), (59 * 60, day(7), 0));
        assert_eq!(intake.rate(at(1_000)).unwrap().packet_bytes_a_day, 0, "nothing came for hours");
    }

    #[test]
    fn a_full_store_is_full_now_and_an_idle_one_never() {
        assert_eq!(full_in_s(0, 1), Some(0));
        assert_eq!(full_in_s(100, 50), Some(2 * DAY_S));
        assert_eq!(full_in_s(u64::MAX, 1), Some(u64::MAX));
        assert_eq!(full_in_s(100, 0), None);
    }
}
