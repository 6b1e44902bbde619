//! Times as people read them: RFC 3339 in UTC with nanoseconds.

use gnomon_clock::UtcNs;
use jiff::Timestamp;

/// `2026-11-21T21:37:23.123456789Z`. What lies outside the years that RFC 3339 can write is clamped to them.
pub fn rfc3339(utc: UtcNs) -> String {
    let timestamp = Timestamp::from_nanosecond(i128::from(utc.unix_ns())).unwrap_or(Timestamp::MAX);
    format!("{timestamp:.9}")
}

/// The inverse, for any offset: `2026-11-21T21:37:23+09:00` too.
pub fn parse_rfc3339(text: &str) -> Option<UtcNs> {
    let timestamp: Timestamp = text.parse().ok()?;
    Some(UtcNs::from_unix_ns(i64::try_from(timestamp.as_nanosecond()).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_survives_its_text_form() {
        let utc = UtcNs::from_unix_ns(1_700_000_000_123_456_789);
        assert_eq!(rfc3339(utc), "2023-11-14T22:13:20.123456789Z");
        assert_eq!(parse_rfc3339(&rfc3339(utc)), Some(utc));
        assert_eq!(parse_rfc3339("2023-11-15T07:13:20.123456789+09:00"), Some(utc));
        assert_eq!(parse_rfc3339("yesterday"), None);
    }
}
