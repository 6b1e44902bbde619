//! How the times of a file whose clock was wrong are put right.

use std::path::Path;
use std::str::FromStr;

use anyhow::Context;
use gnomon_capture::PcapFile;
use gnomon_daemon::exit::WithHint;

use crate::worker::BATCH_FRAMES_MAX;

const UNITS: [(&str, i64); 7] = [
    ("ns", 1),
    ("us", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
    ("d", 86_400_000_000_000),
];

/// A signed duration: what is added to every time of a file, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ClockOffset(pub(super) i64);

impl FromStr for ClockOffset {
    type Err = String;

    fn from_str(text: &str) -> Result<ClockOffset, String> {
        let wrong =
            || format!("{text:?} is no offset: write a sign, numbers and units, as in -9h, +1d12h or -250ms");
        let (sign, mut rest) = match text.strip_prefix('-') {
            Some(rest) => (-1, rest),
            None => (1, text.strip_prefix('+').unwrap_or(text)),
        };
        if rest.is_empty() {
            return Err(wrong());
        }
        let mut sum = 0i64;
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
            let (number, behind) = rest.split_at(digits);
            let letters = behind.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(behind.len());
            let (unit, behind) = behind.split_at(letters);
            let number: i64 = number.parse().map_err(|_| wrong())?;
            let (_, ns) = UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(wrong)?;
            let part = number.checked_mul(*ns).and_then(|part| part.checked_mul(sign));
            sum = part
                .and_then(|part| sum.checked_add(part))
                .ok_or_else(|| format!("{text:?} is more than 292 years"))?;
            rest = behind;
        }
        Ok(ClockOffset(sum))
    }
}

/// In the largest units: `-9h`, `+1d12h`.
pub(super) fn format_offset(offset_ns: i64) -> String {
    let mut text = if offset_ns < 0 { "-".to_owned() } else { "+".to_owned() };
    let mut left = offset_ns.unsigned_abs();
    for (name, ns) in UNITS.iter().rev() {
        let count = left / ns.unsigned_abs();
        if count > 0 {
            text.push_str(&format!("{count}{name}"));
            left %= ns.unsigned_abs();
        }
    }
    text
}

/// What has to be added so that the latest packet of a file was captured when the file was last written.
pub(super) fn offset_from_mtime(path: &Path) -> anyhow::Result<i64> {
    let what = || format!("cannot read {}", path.display());
    let written = std::fs::metadata(path).and_then(|metadata| metadata.modified()).with_context(what)?;
    let written = written.duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_nanos());
    let mut file = PcapFile::open(path)?;
    let mut latest = None;
    while file.drain(BATCH_FRAMES_MAX, |frames| {
        latest = frames.iter().map(|frame| frame.stamp.raw.0).max().max(latest);
    })? > 0
    {}
    let latest = latest
        .with_context(|| format!("{} has no packets", path.display()))
        .hint("without a packet there is no clock to put right: leave --clock-from-mtime out")?;
    let written = i64::try_from(written).unwrap_or(i64::MAX);
    Ok(written.saturating_sub(i64::try_from(latest).unwrap_or(i64::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_are_read_and_written() {
        for (text, ns) in [
            ("-9h", -32_400_000_000_000),
            ("+1d12h", 129_600_000_000_000),
            ("90s", 90_000_000_000),
            ("-250ms", -250_000_000),
            ("+1h1m1s1ms1us1ns", 3_661_001_001_001),
            ("0s", 0),
        ] {
            assert_eq!(text.parse(), Ok(ClockOffset(ns)), "{text}");
            assert_eq!(format_offset(ns).parse::<ClockOffset>().map(|o| o.0).unwrap_or(0), ns, "{text}");
        }
        for text in ["", "-", "9", "h", "9x", "-9h-", "1.5h", "99999999999999d", "--9h"] {
            assert!(text.parse::<ClockOffset>().is_err(), "{text}");
        }
    }
}
