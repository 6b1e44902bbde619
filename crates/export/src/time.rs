//! Times and durations as each form writes them.

use gnomon_clock::UtcNs;
use gnomon_flow::timestamp::rfc3339;

const NS_PER_S: u64 = 1_000_000_000;
/// Seconds from 1900, where NTP's first era begins, to 1970.
const NTP_UNIX_S: i64 = 2_208_988_800;

/// Seconds since 1970 with six decimals, as Zeek writes times. Cut, not rounded: a time never moves into the future.
pub(crate) fn epoch_micros(utc: UtcNs) -> String {
    let micros = utc.unix_ns().div_euclid(1_000);
    let (sign, micros) = if micros < 0 { ("-", micros.unsigned_abs()) } else { ("", micros.unsigned_abs()) };
    format!("{sign}{}.{:06}", micros / 1_000_000, micros % 1_000_000)
}

/// Seconds with six decimals.
pub(crate) fn interval_micros(ns: u64) -> String {
    format!("{}.{:06}", ns / NS_PER_S, ns % NS_PER_S / 1_000)
}

/// Seconds with nine decimals, for errors: half a microsecond must not be none.
pub(crate) fn interval_nanos(ns: u64) -> String {
    format!("{}.{:09}", ns / NS_PER_S, ns % NS_PER_S)
}

/// `2026-11-21T21:37:23.123456+0000`, as Suricata writes times.
pub(crate) fn eve(utc: UtcNs) -> String {
    let text = rfc3339(utc);
    format!("{}+0000", &text[..text.len().saturating_sub("789Z".len())])
}

/// Seconds since 1970 for a message's header; what it cannot say is its nearest end.
pub(crate) fn epoch_s(utc: UtcNs) -> u32 {
    let seconds = utc.unix_ns().div_euclid(NS_PER_S as i64);
    u32::try_from(seconds.max(0)).unwrap_or(u32::MAX)
}

/// dateTimeMilliseconds (RFC 7011 section 6.1.8).
pub(crate) fn epoch_millis(utc: UtcNs) -> u64 {
    u64::try_from(utc.unix_ns().div_euclid(1_000_000)).unwrap_or(0)
}

/// dateTimeNanoseconds (RFC 7011 section 6.1.10): NTP's 64 bits, seconds since 1900 of the era and a binary fraction.
pub(crate) fn ntp(utc: UtcNs) -> u64 {
    let unix_ns = utc.unix_ns();
    let seconds = unix_ns.div_euclid(NS_PER_S as i64) + NTP_UNIX_S;
    let nanos = unix_ns.rem_euclid(NS_PER_S as i64) as u64;
    // Rounded up, so that a reader who cuts gets the same nanosecond back.
    let fraction = (nanos << 32).div_ceil(NS_PER_S);
    ((seconds as u64) << 32).wrapping_add(fraction)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_cut_to_what_a_form_can_say() {
        let utc = UtcNs::from_unix_ns(1_700_000_000_123_456_789);
        assert_eq!(epoch_micros(utc), "1700000000.123456");
        assert_eq!(epoch_micros(UtcNs::from_unix_ns(-1)), "-0.000001");
        assert_eq!(eve(utc), "2023-11-14T22:13:20.123456+0000");
        assert_eq!((epoch_s(utc), epoch_millis(utc)), (1_700_000_000, 1_700_000_000_123));
        assert_eq!(
            (interval_micros(1_500_000_999).as_str(), interval_nanos(7).as_str()),
            ("1.500000", "0.000000007")
        );
    }

    #[test]
    fn a_reader_of_ntp_times_gets_the_nanosecond_back() {
        for nanos in [0, 1, 2, 499_999_999, 500_000_000, 999_999_998, 999_999_999] {
            let ntp = ntp(UtcNs::from_unix_ns(1_700_000_000_000_000_000 + nanos));
            assert_eq!(ntp >> 32, 1_700_000_000 + 2_208_988_800);
            assert_eq!((((ntp & 0xffff_ffff) * NS_PER_S) >> 32) as i64, nanos);
        }
    }
}
