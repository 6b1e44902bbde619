//! A size in bytes as people write it: `64KiB`, `2GiB`, `1500B`.

use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Bytes in each unit, in the order in which the canonical text is sought: the greatest unit that divides the size,
/// powers of 1024 before powers of 1000.
const UNITS: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
    ("B", 1),
];

/// A number of bytes. Text and value round-trip.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(u64);

impl ByteSize {
    pub(super) const EXPECTED: &'static str =
        r#"a size like "1500B", "64KiB" or "2GiB" (units B KiB MiB GiB TiB, kB MB GB TB)"#;

    #[must_use]
    pub const fn from_bytes(bytes: u64) -> Self {
        Self(bytes)
    }

    /// # Panics
    /// If the size does not fit u64: for constants.
    #[must_use]
    pub const fn from_kib(kib: u64) -> Self {
        Self(kib.checked_mul(1 << 10).expect("size fits u64"))
    }

    /// # Panics
    /// If the size does not fit u64: for constants.
    #[must_use]
    pub const fn from_mib(mib: u64) -> Self {
        Self(mib.checked_mul(1 << 20).expect("size fits u64"))
    }

    /// # Panics
    /// If the size does not fit u64: for constants.
    #[must_use]
    pub const fn from_gib(gib: u64) -> Self {
        Self(gib.checked_mul(1 << 30).expect("size fits u64"))
    }

    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.0
    }

    /// As a count for memory; saturates where `usize` is 32 bits.
    #[must_use]
    pub fn as_usize(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let exact = |(_, bytes): &&(&str, u64)| self.0 >= *bytes && self.0.is_multiple_of(*bytes);
        match UNITS.iter().find(exact) {
            Some((unit, bytes)) => write!(f, "{}{unit}", self.0 / bytes),
            None => write!(f, "{}B", self.0),
        }
    }
}

impl FromStr for ByteSize {
    type Err = ParseSizeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let fail = || ParseSizeError { text: text.to_owned() };
        let trimmed = text.trim();
        let digits = trimmed.find(|c: char| !c.is_ascii_digit()).ok_or_else(fail)?;
        let count: u64 = trimmed[..digits].parse().map_err(|_| fail())?;
        let (_, bytes) = UNITS.iter().find(|(unit, _)| *unit == &trimmed[digits..]).ok_or_else(fail)?;
        count.checked_mul(*bytes).map(Self).ok_or_else(fail)
    }
}

/// A text that is no size.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected {}, found {text:?}", ByteSize::EXPECTED)]
pub struct ParseSizeError {
    text: String,
}

impl Serialize for ByteSize {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for ByteSize {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Size".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "format": super::schema::FORMAT_SIZE })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> Option<u64> {
        text.parse().ok().map(ByteSize::bytes)
    }

    #[test]
    fn reads_what_people_write() {
        assert_eq!(parse("64KiB"), Some(65_536));
        assert_eq!(parse("2GiB"), Some(2_147_483_648));
        assert_eq!(parse("1500B"), Some(1500));
        assert_eq!(parse("1MB"), Some(1_000_000));
        assert_eq!(parse("0B"), Some(0));
    }

    #[test]
    fn refuses_what_is_unclear() {
        // KB: 1000 or 1024? Nobody agrees, so it is not guessed.
        for text in ["", "5", "5KB", "5k", "5K", "1.5GiB", "-1B", "5 KiB", "KiB", "16777216TiB"] {
            assert_eq!(parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn shows_the_greatest_exact_unit() {
        assert_eq!(ByteSize::from_kib(64).to_string(), "64KiB");
        assert_eq!(ByteSize::from_gib(2).to_string(), "2GiB");
        assert_eq!(ByteSize::from_bytes(1_000_000).to_string(), "1MB");
        assert_eq!(ByteSize::from_bytes(1501).to_string(), "1501B");
        assert_eq!(ByteSize::from_bytes(0).to_string(), "0B");
    }

    proptest! {
        #[test]
        fn text_and_value_round_trip(count: u64, shift in 0_u32..50) {
            let size = ByteSize::from_bytes((count >> shift) << (shift / 2));
            prop_assert_eq!(size.to_string().parse::<ByteSize>().unwrap(), size);
        }

        #[test]
        fn no_text_panics(text in ".*") {
            let _ = text.parse::<ByteSize>();
        }
    }
}
