//! Points of time as people write them.

use gnomon_clock::UtcNs;
use gnomon_flow::timestamp::parse_rfc3339;

use super::ast::{Precision, TimeTerm};

/// Units of relative times in nanoseconds, largest first.
pub(super) const UNITS: [(u64, &str); 8] = [
    (604_800_000_000_000, "w"),
    (86_400_000_000_000, "d"),
    (3_600_000_000_000, "h"),
    (60_000_000_000, "m"),
    (1_000_000_000, "s"),
    (1_000_000, "ms"),
    (1_000, "us"),
    (1, "ns"),
];

/// `now`, `now-5m`, `-1h30m`, RFC 3339 (a blank or `T` between, `/` or `-` inside the date, UTC when no zone is given),
/// a date alone, or unix time: seconds, or by the number of digits milli-, micro- or nanoseconds.
pub(super) fn parse(text: &str) -> Option<TimeTerm> {
    let text = text.trim();
    let relative = text.strip_prefix("now").unwrap_or(text);
    if relative.is_empty() && !text.is_empty() {
        return Some(TimeTerm::Now(0));
    }
    if let Some(rest) = relative.strip_prefix('-') {
        return Some(TimeTerm::Now(relative_ns(rest)?.checked_neg()?));
    }
    if let Some(rest) = relative.strip_prefix('+') {
        return Some(TimeTerm::Now(relative_ns(rest)?));
    }
    unix(text).or_else(|| civil(text))
}

/// The point of time that `text` means when it is `now`: what expressions take, and `15m` for fifteen minutes ago.
pub fn moment(text: &str, now: UtcNs) -> Option<UtcNs> {
    if let Some(ago_ns) = relative_ns(text.trim()) {
        return Some(now.saturating_add_ns(-ago_ns));
    }
    Some(parse(text)?.interval(now).0)
}

/// `1h`, `1h30m`, `500ms`: nanoseconds.
pub fn relative_ns(text: &str) -> Option<i64> {
    let mut rest = text;
    let mut total: i64 = 0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let (number, after) = rest.split_at(digits);
        let unit_len = after.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_len);
        let (unit_ns, _) = UNITS.iter().find(|(_, name)| *name == unit)?;
        let ns = number.parse::<i64>().ok()?.checked_mul(i64::try_from(*unit_ns).ok()?)?;
        total = total.checked_add(ns)?;
        rest = after;
    }
    (!text.is_empty()).then_some(total)
}

fn unix(text: &str) -> Option<TimeTerm> {
    let (whole, fraction) = text.split_once('.').map_or((text, None), |(w, f)| (w, Some(f)));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if !digits(whole) || !fraction.is_none_or(digits) {
        return None;
    }
    let number: i64 = whole.parse().ok()?;
    // Eleven digits of seconds reach the year 5138, beyond what 64 bits of nanoseconds hold.
    let (unit_ns, precision) = match (whole.len(), fraction) {
        (0..=11, Some(_)) => (1_000_000_000, Precision::Nanosecond),
        (_, Some(_)) => return None,
        (0..=11, None) => (1_000_000_000, Precision::Second),
        (12..=14, None) => (1_000_000, Precision::Nanosecond),
        (15..=17, None) => (1_000, Precision::Nanosecond),
        (_, None) => (1, Precision::Nanosecond),
    };
    let fraction_ns = fraction.map_or(Some(0), |f| format!("{f:0<9}").get(..9)?.parse::<i64>().ok())?;
    let unix_ns = number.checked_mul(unit_ns)?.checked_add(fraction_ns)?;
    Some(TimeTerm::At(UtcNs::from_unix_ns(unix_ns), precision))
}

fn civil(text: &str) -> Option<TimeTerm> {
    // Longer than any time; the rest is copied.
    if text.len() > 64 || !text.is_ascii() {
        return None;
    }
    let (date, time) = text.split_at_checked(10)?;
    let date = date.replace('/', "-");
    if time.is_empty() {
        let utc = parse_rfc3339(&format!("{date}T00:00:00Z"))?;
        return Some(TimeTerm::At(utc, Precision::Day));
    }
    let time = time.strip_prefix(['T', 't', ' '])?.trim_start();
    let zone_at = time.find(['Z', 'z', '+', '-']).unwrap_or(time.len());
    let (clock, zone) = (time[..zone_at].trim_end(), &time[zone_at..]);
    let clock = if clock.len() == 5 { format!("{clock}:00") } else { clock.to_owned() };
    let utc = parse_rfc3339(&format!("{date}T{clock}{}", if zone.is_empty() { "Z" } else { zone }))?;
    let precision = if clock.contains('.') { Precision::Nanosecond } else { Precision::Second };
    Some(TimeTerm::At(utc, precision))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ns(text: &str) -> Option<(i64, i64)> {
        let (from, to) = parse(text)?.interval(UtcNs::from_unix_ns(1_000_000_000_000));
        Some((from.unix_ns(), to.unix_ns() + 1))
    }

    #[test]
    fn times_are_understood_with_their_precision() {
        const S: i64 = 1_000_000_000;
        for (text, from, width) in [
            ("2023-11-14T22:13:20Z", 1_700_000_000 * S, S),
            ("2023-11-14 22:13:20", 1_700_000_000 * S, S),
            ("2023/11/14 22:13:20", 1_700_000_000 * S, S),
            ("2023-11-15T07:13:20+09:00", 1_700_000_000 * S, S),
            ("2023-11-14T22:13:20.5Z", 1_700_000_000 * S + S / 2, 1),
            ("2023-11-14T22:13Z", 1_700_000_000 * S - 20 * S, S),
            ("2023-11-14", 1_700_000_000 * S - 80_000 * S, 86_400 * S),
            ("1700000000", 1_700_000_000 * S, S),
            ("1700000000.25", 1_700_000_000 * S + S / 4, 1),
            ("1700000000000", 1_700_000_000 * S, 1),
            ("1700000000000000", 1_700_000_000 * S, 1),
            ("1700000000000000001", 1_700_000_000 * S + 1, 1),
            ("now", 1000 * S, 1),
            ("now-5m", 700 * S, 1),
            ("-1m30s", 910 * S, 1),
            ("+1h", 4600 * S, 1),
            ("-1500ms", 998_500_000_000, 1),
        ] {
            assert_eq!(ns(text), Some((from, from + width)), "{text}");
        }
        for bad in [
            "",
            "-",
            "now5m",
            "-5",
            "-5x",
            "yesterday",
            "2023-13-14",
            "2023-11-14T",
            "99999999999999999999",
            "1.",
            "é2023-11-1",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_moment_may_be_an_age() {
        let now = UtcNs::from_unix_ns(1_700_000_000_000_000_000);
        assert_eq!(moment("15m", now), Some(now.saturating_add_ns(-900_000_000_000)));
        assert_eq!(moment("-1h", now), Some(now.saturating_add_ns(-3_600_000_000_000)));
        assert_eq!(moment("1700000000", now), Some(now));
        assert_eq!(moment("soon", now), None);
    }
}
