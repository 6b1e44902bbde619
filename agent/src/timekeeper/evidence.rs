//! What outlives the process: the evidence of the epochs that the spool may still hold records of, and the last time that
//! was known. The file `clock` of the state directory.
//!
//! ```text
//! gnomon-clock 1
//! machine <marker>                     what RAW stands on; another one, and RAW means something else
//! time <boot id> <raw> <tai ns>        the clock was at least here
//! timeline 9f31…                       the collector's timeline that its fixes in what follows stand on
//! epoch <agent> <boot id> <opened raw>
//! fix <raw> <tai ns> <err ns> <source>
//! disowned <raw>                       what the kernel and chronyd said before it is void
//! end <last good raw or -> <by or ->
//! ```
//! Epochs in the order in which they were opened. Replaced whole by a rename; one that cannot be read is none: what is
//! lost is a better bound for records that were captured without any collector and before the process ended.

use std::fmt::Write as _;
use std::fs;
use std::io::{self, Write as _};
use std::path::Path;

use gnomon_clock::{EpochId, Fix, FixSource, Markers, RawNs, UtcNs};

use super::{ENDED_MAX, Report};
use crate::private;

const HEAD: &str = "gnomon-clock 1";
/// Longer is not ours.
const BYTES_MAX: u64 = 1 << 20;
/// Fixes kept of an epoch that is over: spread over its length.
const FIXES_MAX: usize = 64;

/// How an epoch ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ended {
    /// Readings after this one may be of another stretch. `None`: the process ended, the clock did not break.
    pub last_good: Option<RawNs>,
    pub successor: Option<EpochId>,
    /// What broke it, in a word.
    pub by: String,
}

/// A time that was passed for certain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KnownTime {
    pub boot_id: [u8; 16],
    pub raw: RawNs,
    /// UTC was at least this.
    pub utc: UtcNs,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Evidence {
    pub collector_timeline: u64,
    /// What RAW stands on besides the boot: the time namespace and the hypervisor's word.
    pub machine: String,
    /// The oldest first.
    pub ended: Vec<(Report, Ended)>,
    pub time: Option<KnownTime>,
}

const SOURCES: [(FixSource, &str); 4] = [
    (FixSource::Kernel, "kernel"),
    (FixSource::Chrony, "chrony"),
    (FixSource::Collector, "collector"),
    (FixSource::Ptp, "ptp"),
];

impl Evidence {
    /// What an earlier process left; nothing when there is none or it means nothing.
    pub fn load(path: &Path) -> Evidence {
        let text = match fs::metadata(path).map(|file| file.len()) {
            Ok(len) if len <= BYTES_MAX => fs::read_to_string(path),
            Ok(len) => Err(io::Error::other(format!("has {len} bytes"))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Evidence::default(),
            Err(error) => Err(error),
        };
        let read = text
            .map_err(|error| error.to_string())
            .and_then(|text| Evidence::parse(&text).ok_or_else(|| "is not what an agent writes".to_owned()));
        read.unwrap_or_else(|problem| {
            tracing::warn!(path = %path.display(), problem, "the evidence of earlier times cannot be read: it is left out");
            Evidence::default()
        })
    }

    /// # Errors
    /// When the disk says no; the file of before stays.
    pub fn save(&self, path: &Path) -> io::Result<()> {
        let beside = path.with_extension("new");
        private::create(&beside)?.write_all(self.to_text().as_bytes())?;
        fs::rename(&beside, path)
    }

    fn to_text(&self) -> String {
        let mut text = format!("{HEAD}\n");
        // Writing to a String cannot fail.
        let _ = writeln!(text, "machine {}", self.machine);
        if let Some(time) = &self.time {
            let _ = writeln!(text, "time {} {} {}", hex(&time.boot_id), time.raw.0, time.utc.tai_ns());
        }
        let kept = self.ended.len().saturating_sub(ENDED_MAX);
        for (report, ended) in &self.ended[kept..] {
            let EpochId { agent, boot_id, opened } = &report.epoch;
            let _ = writeln!(text, "timeline {:016x}", report.collector_timeline);
            let _ = writeln!(text, "epoch {} {} {}", hex(agent), hex(boot_id), opened.0);
            let thinned = report.fixes.len().div_ceil(FIXES_MAX).max(1);
            let last = report.fixes.len().saturating_sub(1);
            for (at, fix) in report.fixes.iter().enumerate() {
                let source = SOURCES.iter().find(|(source, _)| *source == fix.source);
                if let Some((_, name)) = source.filter(|_| at % thinned == 0 || at == last) {
                    let _ = writeln!(text, "fix {} {} {} {name}", fix.raw.0, fix.utc.tai_ns(), fix.err_ns);
                }
            }
            if let Some(before) = report.disowned {
                let _ = writeln!(text, "disowned {}", before.0);
            }
            let good = ended.last_good.map_or("-".to_owned(), |raw| raw.0.to_string());
            let by = if ended.by.is_empty() { "-" } else { &ended.by };
            let _ = writeln!(text, "end {good} {by}");
        }
        text
    }

    fn parse(text: &str) -> Option<Evidence> {
        let mut lines = text.lines();
        if lines.next()? != HEAD {
            return None;
        }
        let mut evidence = Evidence::default();
        for line in lines {
            let words: Vec<&str> = line.split(' ').collect();
            match words[..] {
                ["timeline", id] => evidence.collector_timeline = u64::from_str_radix(id, 16).ok()?,
                ["machine", marker] => evidence.machine = marker.to_owned(),
                ["time", boot, raw, tai] => {
                    let (raw, utc) = (RawNs(raw.parse().ok()?), UtcNs::from_tai_ns(tai.parse().ok()?));
                    evidence.time = Some(KnownTime { boot_id: unhex(boot)?, raw, utc });
                }
                ["epoch", agent, boot, opened] => {
                    let opened = RawNs(opened.parse().ok()?);
                    let epoch = EpochId { agent: unhex(agent)?, boot_id: unhex(boot)?, opened };
                    if let Some((_, before)) = evidence.ended.last_mut() {
                        before.successor = Some(epoch);
                    }
                    let collector_timeline = evidence.collector_timeline;
                    let (fixes, disowned) = (Vec::new(), None);
                    let report = Report { epoch, fixes, collector_timeline, disowned, ended: None };
                    evidence.ended.push((report, Ended::default()));
                }
                ["fix", raw, tai, err, name] => {
                    let (source, _) = SOURCES.into_iter().find(|(_, known)| *known == name)?;
                    let fix = Fix {
                        raw: RawNs(raw.parse().ok()?),
                        utc: UtcNs::from_tai_ns(tai.parse().ok()?),
                        err_ns: err.parse().ok()?,
                        source,
                    };
                    evidence.ended.last_mut()?.0.fixes.push(fix);
                }
                ["disowned", raw] => {
                    evidence.ended.last_mut()?.0.disowned = Some(RawNs(raw.parse().ok()?));
                }
                ["end", good, by] => {
                    let (_, ended) = evidence.ended.last_mut()?;
                    ended.last_good = if good == "-" { None } else { Some(RawNs(good.parse().ok()?)) };
                    ended.by = if by == "-" { String::new() } else { by.to_owned() };
                }
                _ => return None,
            }
        }
        Some(evidence)
    }
}

/// The markers in a word.
pub(super) fn machine(markers: &Markers) -> String {
    let namespace = markers.time_namespace.as_deref().unwrap_or_default();
    let digits: String =
        namespace.iter().filter(|byte| !byte.is_ascii_whitespace()).map(|b| *b as char).collect();
    let generation = markers.vm_generation.map_or("-".to_owned(), |generation| generation.to_string());
    format!("{digits}/{generation}")
}

fn hex(bytes: &[u8; 16]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<[u8; 16]> {
    let number = u128::from_str_radix(text, 16).ok()?;
    (text.len() == 32).then_some(number.to_be_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn evidence() -> Evidence {
        let epoch = |opened| EpochId { agent: [0xA1; 16], boot_id: [2; 16], opened: RawNs(opened) };
        let fix = |raw, source| Fix {
            raw: RawNs(raw),
            utc: UtcNs::from_tai_ns(1_800_000_000_000_000_000 + raw as i64),
            err_ns: 1_000,
            source,
        };
        let report = |opened, fixes| Report {
            epoch: epoch(opened),
            fixes,
            collector_timeline: 0x9F,
            disowned: Some(RawNs(7)),
            ended: None,
        };
        let cut =
            Ended { last_good: Some(RawNs(50)), successor: Some(epoch(60)), by: "suspended".to_owned() };
        Evidence {
            collector_timeline: 0x9F,
            machine: machine(&Markers::default()),
            ended: vec![
                (report(10, vec![fix(11, FixSource::Kernel), fix(12, FixSource::Collector)]), cut),
                (report(60, vec![]), Ended::default()),
            ],
            time: Some(KnownTime {
                boot_id: [2; 16],
                raw: RawNs(70),
                utc: UtcNs::from_tai_ns(1_800_000_000_000_000_000),
            }),
        }
    }

    #[test]
    fn what_is_saved_is_loaded() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("clock");
        assert_eq!(Evidence::load(&path), Evidence::default());
        evidence().save(&path).unwrap();
        assert_eq!(Evidence::load(&path), evidence());
        let many: Vec<Fix> =
            (0..1000).map(|n| Fix { raw: RawNs(n), ..evidence().ended[0].0.fixes[0] }).collect();
        let mut long = evidence();
        long.ended[1].0.fixes = many;
        long.save(&path).unwrap();
        let loaded = Evidence::load(&path).ended.remove(1).0.fixes;
        assert!((32..=65).contains(&loaded.len()), "{}", loaded.len());
        assert_eq!(loaded.last().map(|fix| fix.raw), Some(RawNs(999)), "the newest is the best anchor");
    }

    #[test]
    fn a_damaged_file_is_none_and_no_panic() {
        let text = evidence().to_text();
        for at in 0..text.len() {
            let _ = Evidence::parse(&text[..at]);
            let mut bytes = text.clone().into_bytes();
            bytes[at] = b'~';
            let _ = Evidence::parse(&String::from_utf8(bytes).unwrap());
        }
        assert_eq!(Evidence::parse("something else"), None);
    }
}
