//! Times as people type them.

use gnomon_clock::UtcNs;
use gnomon_flow::timestamp::parse_rfc3339;

use crate::exit::Usage;

const NS_PER_S: i64 = 1_000_000_000;

/// `-15m`, `-2h30m`, `now`, RFC 3339, or seconds since 1970. Relative times count from `now`, the collector's clock.
pub(crate) fn parse(text: &str, now: UtcNs) -> Result<UtcNs, Usage> {
    let text = text.trim();
    if text == "now" {
        return Ok(now);
    }
    if let Some(back) = text.strip_prefix('-') {
        return Ok(now.saturating_add_ns(-duration_ns(back)?));
    }
    if let Ok(seconds) = text.parse::<i64>() {
        return Ok(UtcNs::from_unix_ns(seconds.saturating_mul(NS_PER_S)));
    }
    parse_rfc3339(text).ok_or_else(|| {
        Usage(format!("{text:?} is no time: try -15m, -2h, -5d, 2026-11-21T21:30:00Z or seconds since 1970"))
    })
}

/// Whether [`parse`] needs to know the time now.
pub(crate) fn is_relative(text: &str) -> bool {
    let text = text.trim();
    text == "now" || text.starts_with('-')
}

/// `90s`, `15m`, `2h30m`, `5d`, `1w`, `250ms`: nanoseconds.
pub(crate) fn duration_ns(text: &str) -> Result<i64, Usage> {
    let bad = || Usage(format!("{text:?} is no duration: try 30s, 15m, 2h, 5d or 1w"));
    let mut total = 0i64;
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(bad());
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(bad)?;
        let count: i64 = rest[..digits].parse().map_err(|_| bad())?;
        let unit_end = rest[digits..].find(|c: char| c.is_ascii_digit()).map_or(rest.len(), |at| digits + at);
        let unit_ns = match &rest[digits..unit_end] {
            "ms" => 1_000_000,
            "s" => NS_PER_S,
            "m" | "min" => 60 * NS_PER_S,
            "h" => 3_600 * NS_PER_S,
            "d" => 86_400 * NS_PER_S,
            "w" => 7 * 86_400 * NS_PER_S,
            _ => return Err(bad()),
        };
        total = count.checked_mul(unit_ns).and_then(|ns| total.checked_add(ns)).ok_or_else(bad)?;
        rest = &rest[unit_end..];
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_people_type_them() {
        let now = UtcNs::from_unix_ns(1_700_000_000 * NS_PER_S);
        let seconds = |text: &str| parse(text, now).map(|t| t.unix_ns() / NS_PER_S).ok();
        assert_eq!(seconds("now"), Some(1_700_000_000));
        assert_eq!(seconds("-1h30m"), Some(1_700_000_000 - 5_400));
        assert_eq!(seconds("1600000000"), Some(1_600_000_000));
        assert_eq!(seconds("2023-11-14T22:13:20Z"), Some(1_700_000_000));
        for bad in ["", "-", "-1", "-1y", "yesterday", "-99999999999999999999w"] {
            assert_eq!(seconds(bad), None, "{bad:?}");
        }
    }
}
