//! A duration as people write it: `200ms`, `5s`, `8m`, `1h30m`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Nanoseconds in each unit, greatest first: the order of the canonical text.
const UNITS: [(&str, u64); 7] = [
    ("d", 86_400_000_000_000),
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("ns", 1),
];

/// A duration of at most `u64::MAX` ns (584 years), kept to the nanosecond. Text and value round-trip.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HumanDuration(Duration);

impl HumanDuration {
    #[must_use]
    pub const fn from_millis(ms: u64) -> Self {
        Self(Duration::from_millis(ms))
    }

    #[must_use]
    pub const fn from_secs(s: u64) -> Self {
        Self(Duration::from_secs(s))
    }

    #[must_use]
    pub const fn get(self) -> Duration {
        self.0
    }
}

impl From<HumanDuration> for Duration {
    fn from(human: HumanDuration) -> Self {
        human.0
    }
}

impl From<Duration> for HumanDuration {
    /// Saturates at `u64::MAX` ns.
    fn from(duration: Duration) -> Self {
        Self(duration.min(Duration::from_nanos(u64::MAX)))
    }
}

impl fmt::Display for HumanDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = u64::try_from(self.0.as_nanos()).unwrap_or(u64::MAX);
        if rest == 0 {
            return f.write_str("0s");
        }
        for (unit, ns) in UNITS {
            if rest >= ns {
                write!(f, "{}{unit}", rest / ns)?;
                rest %= ns;
            }
        }
        Ok(())
    }
}

impl FromStr for HumanDuration {
    type Err = ParseDurationError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let fail = || ParseDurationError { text: text.to_owned() };
        let mut rest = text.trim();
        let mut total_ns: u64 = 0;
        // Units must fall, so that `5m5m` or `1s1h` is caught as the typing error it is.
        let mut smallest_ns = u64::MAX;
        if rest.is_empty() {
            return Err(fail());
        }
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(fail)?;
            let count: u64 = rest[..digits].parse().map_err(|_| fail())?;
            let tail = &rest[digits..];
            let end = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
            let name = match &tail[..end] {
                "µs" | "μs" => "us",
                name => name,
            };
            let (_, ns) = UNITS.iter().find(|(unit, _)| *unit == name).ok_or_else(fail)?;
            if *ns >= smallest_ns {
                return Err(fail());
            }
            smallest_ns = *ns;
            total_ns = count.checked_mul(*ns).and_then(|ns| total_ns.checked_add(ns)).ok_or_else(fail)?;
            rest = &tail[end..];
        }
        Ok(Self(Duration::from_nanos(total_ns)))
    }
}

/// A text that is no duration.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected {}, found {text:?}", HumanDuration::EXPECTED)]
pub struct ParseDurationError {
    text: String,
}

impl HumanDuration {
    pub(super) const EXPECTED: &'static str =
        r#"a duration like "200ms", "5s" or "1h30m" (units d h m s ms us ns, at most 584 years)"#;
}

impl Serialize for HumanDuration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for HumanDuration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for HumanDuration {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Duration".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "format": super::schema::FORMAT_DURATION })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> Option<u64> {
        let parsed: Result<HumanDuration, _> = text.parse();
        parsed.ok().map(|d| u64::try_from(d.get().as_nanos()).unwrap())
    }

    #[test]
    fn reads_what_people_write() {
        assert_eq!(parse("200ms"), Some(200_000_000));
        assert_eq!(parse("5s"), Some(5_000_000_000));
        assert_eq!(parse("8m"), Some(480_000_000_000));
        assert_eq!(parse("1h30m"), Some(5_400_000_000_000));
        assert_eq!(parse("7µs"), Some(7_000));
        assert_eq!(parse("0s"), Some(0));
        assert_eq!(parse("18446744073709551615ns"), Some(u64::MAX));
    }

    #[test]
    fn refuses_what_is_unclear() {
        for text in [
            "",
            "5",
            "ms",
            "5 s",
            "-5s",
            "1.5s",
            "5m5m",
            "1s1h",
            "5S",
            "5sec",
            "18446744073709551616ns",
            "9999999d",
        ] {
            assert_eq!(parse(text), None, "{text:?}");
        }
        let message = "5".parse::<HumanDuration>().unwrap_err().to_string();
        assert!(message.contains("200ms") && message.contains("\"5\""), "{message}");
    }

    proptest! {
        #[test]
        fn text_and_value_round_trip(ns: u64) {
            let human = HumanDuration::from(Duration::from_nanos(ns));
            prop_assert_eq!(human.to_string().parse::<HumanDuration>().unwrap(), human);
        }

        #[test]
        fn no_text_panics(text in ".*") {
            let _ = text.parse::<HumanDuration>();
        }
    }
}
