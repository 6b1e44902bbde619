//! Checking everything a store has, while no collector runs on it: each segment file, and each value of the database.
//! Nothing is changed and nothing mended; what is damaged is named.

use std::collections::{BTreeMap, HashSet};
use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use gnomon_clock::MonoNs;
use gnomon_flow::EpochHash;
use gnomon_flow::field::ATTRIBUTE_ID_FIRST;
use rustix::fs::FlockOperation;
use serde::Serialize;

use super::StoreError;
use super::alerts::Remembered;
use super::batch::{RecordBatch, decode_recent};
use super::block::{Column, Summary, columns, encoding};
use super::envelope::{Envelope, Totals, damaged, decode_epoch, numbers_of};
use super::keys::{self, Family};
use super::ledger::Ledger;
use super::live::RowSet;
use super::open::judge_format;
use super::owners;
use super::quarantine;
use super::retention::segment_table;
use super::rocks::Rocks;
use super::rocks_survey::{Problem, survey};
use super::rollup::Rollup;
use super::rollup_group::RollupGroup;
use super::segments::{self, Position};
use crate::enrich::Enrichment;

/// Damage that is named one by one; all of it is counted.
const NAMED_MAX: usize = 10_000;

/// Something that is not as it was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Damage {
    pub file: PathBuf,
    /// Of the first byte concerned, where that can be said.
    pub offset: Option<u64>,
    pub problem: String,
}

/// What was looked at, and what is wrong with it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    pub files: u64,
    pub frames: u64,
    pub packets: u64,
    pub frame_bytes: u64,
    pub blocks: u64,
    pub columns: u64,
    /// In blocks, dead ones too.
    pub records: u64,
    /// Batches and records that are in no block yet.
    pub recent: u64,
    pub damaged: u64,
    /// The first 10,000.
    pub damage: Vec<Damage>,
}

/// The report in the making.
pub(super) struct Findings<'a> {
    pub(super) report: Report,
    /// Told the bytes that were looked at since the last time.
    pub(super) told: &'a mut dyn FnMut(u64),
}

impl Findings<'_> {
    pub(super) fn damage(&mut self, file: &Path, offset: Option<u64>, problem: String) {
        self.report.damaged += 1;
        if self.report.damage.len() < NAMED_MAX {
            self.report.damage.push(Damage { file: file.to_owned(), offset, problem });
        }
    }

    pub(super) fn told(&mut self, bytes: u64) {
        (self.told)(bytes);
    }
}

/// Bytes of the files under `dir`: what a [`verify`] has to read, nearly.
pub fn size_of(dir: &Path) -> u64 {
    ["db", "segments"].iter().map(|part| files_bytes(&dir.join(part))).sum()
}

pub(super) fn files_bytes(dir: &Path) -> u64 {
    let Ok(files) = std::fs::read_dir(dir) else { return 0 };
    files.filter_map(|file| file.ok()?.metadata().ok()).map(|file| file.len()).sum()
}

/// Keeps collectors from opening a store, as each keeps others.
#[derive(Debug)]
pub(crate) struct Hold {
    /// The lock ends with it. A copy of a store has no such file before it is opened first.
    _file: Option<File>,
}

impl Hold {
    pub(crate) fn take(dir: &Path) -> Result<Hold, StoreError> {
        let db = dir.join("db");
        if !db.join("CURRENT").is_file() {
            return Err(StoreError::NoStore { path: dir.to_owned() });
        }
        let path = db.join("LOCK");
        let file = match OpenOptions::new().read(true).write(true).open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Hold { _file: None }),
            Err(source) => return Err(StoreError::Directory { path, source }),
        };
        // The same kind of lock that RocksDB takes.
        match rustix::fs::fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Hold { _file: Some(file) }),
            Err(rustix::io::Errno::ACCESS | rustix::io::Errno::AGAIN) => {
                Err(StoreError::InUse { path: dir.to_owned() })
            }
            Err(error) => Err(StoreError::Directory { path, source: error.into() }),
        }
    }
}

/// Checks the store under `dir` and tells the bytes it has looked at as it goes. Blocking.
///
/// # Errors
/// When it cannot be looked at at all: there is none, a collector has it, or its database does not open.
pub fn verify(dir: &Path, told: &mut dyn FnMut(u64)) -> Result<Report, StoreError> {
    let _hold = Hold::take(dir)?;
    let mut findings = Findings { report: Report::default(), told };
    survey_files(dir, &mut findings);
    let path = dir.join("db");
    // Packets can be checked where the database cannot be opened, but not against what it knows of them.
    let rocks = match Rocks::open_read_only(&path) {
        Ok(rocks) => rocks,
        Err(error) if error.failure.is_damage() => {
            findings.damage(&path, None, error.message);
            segments::verify(&dir.join("segments"), None, &BTreeMap::new(), &mut findings);
            return Ok(findings.report);
        }
        Err(error) => return Err(error.into()),
    };
    match rocks.get(Family::Meta, keys::META_FORMAT) {
        Ok(Some(format)) => judge_format(dir, &format)?,
        // Something is missing, or all of it.
        Ok(None) if findings.report.damaged > 0 => {}
        Ok(None) => return Err(StoreError::NoStore { path: dir.to_owned() }),
        Err(error) => findings.damage(&path, None, error.message),
    }
    let mut records = Records { rocks: &rocks, path, epochs: HashSet::new(), findings };
    let durable = records.check_meta();
    records.check_epochs();
    records.check_blocks();
    records.check_recent();
    records.check_others();
    let Records { mut findings, path, .. } = records;
    let known = match segment_table(&rocks) {
        Ok(table) => table.into_iter().map(|(number, [_, bytes, _])| (number, bytes)).collect(),
        Err(error) => {
            findings.damage(&path, None, error.to_string());
            Default::default()
        }
    };
    segments::verify(&dir.join("segments"), durable, &known, &mut findings);
    Ok(findings.report)
}

/// The files of the database, as a start looks at them, and others of ours.
fn survey_files(dir: &Path, findings: &mut Findings<'_>) {
    match survey(dir) {
        Ok(found) => {
            for Problem { file, offset, problem } in found.problems {
                findings.damage(&file, offset, problem);
            }
        }
        Err(StoreError::NotWhole { path, problem, .. }) => findings.damage(&path, None, problem),
        Err(error) => findings.damage(dir, None, error.to_string()),
    }
    let Ok(entries) = std::fs::read_dir(dir.join("quarantine")) else { return };
    for file in entries.filter_map(|file| file.ok()).map(|file| file.path()) {
        let checked = std::fs::read(&file).map_err(|error| error.to_string()).and_then(|bytes| {
            findings.told(bytes.len() as u64);
            quarantine::problem_of(&file, &bytes).map_or(Ok(()), Err)
        });
        if let Err(problem) = checked {
            findings.damage(&file, None, problem);
        }
    }
}

/// The database.
struct Records<'a> {
    rocks: &'a Rocks,
    path: PathBuf,
    epochs: HashSet<EpochHash>,
    findings: Findings<'a>,
}

impl Records<'_> {
    fn damage(&mut self, problem: String) {
        self.findings.damage(&self.path, None, problem);
    }

    /// Every pair of a family; `check` says what is wrong with one.
    fn each(
        &mut self,
        family: Family,
        mut check: impl FnMut(&mut Self, &[u8], &[u8]) -> Result<(), StoreError>,
    ) {
        let rocks = self.rocks;
        let walked = rocks.walk(family, &[], |key, value| {
            self.findings.told((key.len() + value.len()) as u64);
            if let Err(error) = check(self, key, value) {
                self.damage(format!("{}: {error}", family.name()));
            }
            Ok(())
        });
        if let Err(error) = walked {
            self.damage(format!("{}: {error}", family.name()));
        }
    }

    fn meta(&mut self, key: &[u8]) -> Option<Vec<u8>> {
        self.rocks.get(Family::Meta, key).unwrap_or_else(|error| {
            self.damage(error.to_string());
            None
        })
    }

    fn check_meta(&mut self) -> Option<Position> {
        if let Some(Err(error)) = self.meta(keys::META_TOTALS).map(|value| Totals::decode(&value)) {
            self.damage(error.to_string());
        }
        match self.meta(keys::META_SEGMENT).map(|value| Position::decode(&value))? {
            Ok(position) => Some(position),
            Err(error) => {
                self.damage(error.to_string());
                None
            }
        }
    }

    fn check_epochs(&mut self) {
        self.each(Family::Epochs, |this, key, value| {
            let epoch = decode_epoch(value)?;
            let hash = EpochHash::of(&epoch.id);
            if keys::epoch(hash) != key {
                return Err(StoreError::Key { bytes: key.to_vec() });
            }
            this.epochs.insert(hash);
            Ok(())
        });
    }

    fn check_blocks(&mut self) {
        let mut blocks = Vec::new();
        self.each(Family::Blocks, |_, key, value| {
            let id = keys::block_of(key).ok_or_else(|| StoreError::Key { bytes: key.to_vec() })?;
            blocks.push((id, Summary::decode(value)?));
            Ok(())
        });
        for (id, summary) in &blocks {
            self.findings.report.blocks += 1;
            self.findings.report.records += summary.rows as u64;
            for source in &summary.sources {
                if !self.epochs.contains(&source.epoch) {
                    self.damage(format!("block {id}: nothing is known of an epoch of its records"));
                }
            }
            for column in &summary.columns {
                self.findings.report.columns += 1;
                if let Err(error) = self.check_column(*id, summary, *column) {
                    self.damage(error.to_string());
                }
            }
        }
        self.each(Family::Dead, |_, key, value| {
            let id = keys::block_of(key).ok_or_else(|| StoreError::Key { bytes: key.to_vec() })?;
            let dead = RowSet::from_bytes(value);
            let Ok(at) = blocks.binary_search_by_key(&id, |(id, _)| *id) else { return Ok(()) };
            let rows = blocks[at].1.rows;
            if value.len() % 8 != 0 || dead.iter().any(|row| row >= rows) {
                return Err(damaged("the dead rows of a block", format!("block {id} has {rows} rows")).into());
            }
            Ok(())
        });
    }

    fn check_column(&mut self, id: u64, summary: &Summary, column: Column) -> Result<(), StoreError> {
        let broken = |error| StoreError::Block { id, column: column.0, error };
        let value = self.rocks.get(Family::Columns, &keys::column(id, column.0))?;
        let value = value.ok_or_else(|| broken(damaged("a column", "is missing")))?;
        self.findings.told(value.len() as u64);
        if column.0 >= ATTRIBUTE_ID_FIRST || columns::BYTES.contains(&column) {
            encoding::read_dictionary(&value, summary.rows, true).map_err(broken)?;
            return Ok(());
        }
        let values = encoding::read_integers(&value, summary.rows).map_err(broken)?.values();
        let (min, max) = summary.range(column);
        if values.iter().any(|value| !(min..=max).contains(value)) {
            return Err(broken(damaged("a column", "has values that its block's summary does not know of")));
        }
        if column == columns::SOURCE && values.iter().any(|source| *source >= summary.sources.len() as u64) {
            return Err(broken(damaged("a column", "names a source that is not there")));
        }
        Ok(())
    }

    fn check_recent(&mut self) {
        self.each(Family::Recent, |this, key, value| {
            keys::recent_of(key).ok_or_else(|| StoreError::Key { bytes: key.to_vec() })?;
            let (hash, _, payload) = decode_recent(value)?;
            // Records that are refused were refused when they came, and are here as they came.
            RecordBatch::read_stored(payload, &Enrichment::default())
                .map_err(|error| damaged("a recent batch", error.to_string()))?;
            if !this.epochs.contains(&hash) {
                return Err(damaged("a recent batch", "is of an epoch that is not known").into());
            }
            this.findings.report.recent += 1;
            Ok(())
        });
        self.each(Family::Waiting, |this, key, value| {
            keys::reference_of(key).ok_or_else(|| StoreError::Key { bytes: key.to_vec() })?;
            Envelope::decode(value)?;
            this.findings.report.recent += 1;
            Ok(())
        });
    }

    fn check_others(&mut self) {
        self.each(Family::Loose, |_, key, value| {
            keys::reference_of(key).ok_or_else(|| StoreError::Key { bytes: key.to_vec() })?;
            let [_block, _row, _revision, _ingested] = numbers_of("a loose record", value)?;
            Ok(())
        });
        if self.rocks.has(Family::Rollups) {
            self.each(Family::Rollups, |_, key, value| {
                keys::block_of(key).ok_or_else(|| StoreError::Key { bytes: key.to_vec() })?;
                Rollup::decode(value, None)?;
                Ok(())
            });
        }
        if self.rocks.has(Family::Groups) {
            self.each(Family::Groups, |_, key, value| {
                keys::group_of(key).ok_or_else(|| StoreError::Key { bytes: key.to_vec() })?;
                RollupGroup::decode(value, None)?;
                Ok(())
            });
        }
        if self.rocks.has(Family::Alerts) {
            self.each(Family::Alerts, |_, key, value| {
                keys::alert_of(key).ok_or_else(|| StoreError::Key { bytes: key.to_vec() })?;
                Remembered::decode(value, MonoNs(0))?;
                Ok(())
            });
        }
        if self.rocks.has(Family::Owners) {
            self.each(Family::Owners, |_, key, value| owners::check(key, value));
        }
        self.each(Family::Ledger, |_, key, value| {
            keys::ledger_of(key).ok_or_else(|| StoreError::Key { bytes: key.to_vec() })?;
            Ledger::decode(value)?;
            Ok(())
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::testing::{
        self, FakeClock, S, change, epoch, fix, fixes, flows, record, seal, settle, slices,
    };
    use crate::store::{Body, Store, Writer};
    use std::os::unix::fs::FileExt;

    fn filled(dir: &Path) -> (Store, Writer) {
        let clock = FakeClock::new();
        let (store, mut writer) = testing::open(dir, &clock);
        let e = epoch(1);
        writer.commit(&[change(e, Body::Hello), fixes(e, vec![fix(0, 100), fix(50, 100)])]).unwrap();
        for n in 0..6u64 {
            let records = (0..4).map(|id| record(n * 4 + id, 0, (n + 1) * S, (n + 2) * S)).collect();
            writer.commit(&[flows(e, n * 2 + 1, records)]).unwrap();
            writer.commit(&[slices(e, n * 2 + 2, &[n * 4, n * 4 + 1], (n + 1) * S, "packet")]).unwrap();
            if n == 3 {
                settle(&mut writer);
                seal(&mut writer);
            }
        }
        (store, writer)
    }

    fn found(dir: &Path) -> Report {
        verify(dir, &mut |_| {}).unwrap()
    }

    #[test]
    fn a_good_store_is_good_and_is_left_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let (_, writer) = filled(dir.path());
        writer.close().unwrap();
        let mut bytes = 0;
        let report = verify(dir.path(), &mut |more| bytes += more).unwrap();
        assert_eq!(report.damage, []);
        assert_eq!((report.files, report.frames, report.packets), (1, 6, 12));
        assert_eq!((report.blocks, report.records, report.recent), (1, 16, 2));
        assert!(report.columns > 10 && bytes > 0);
        let (store, _writer) = testing::open(dir.path(), &FakeClock::new());
        assert_eq!(store.status().unwrap().slice_packets, 12);
    }

    #[test]
    fn where_there_is_no_store_is_said() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(verify(dir.path(), &mut |_| {}), Err(StoreError::NoStore { .. })));
    }

    #[test]
    fn every_byte_of_the_packets_counts() {
        let dir = tempfile::tempdir().unwrap();
        let (_, writer) = filled(dir.path());
        writer.close().unwrap();
        let path = dir.path().join("segments/0000000001.seg");
        let whole = std::fs::read(&path).unwrap();
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        for at in (0..whole.len()).step_by(7) {
            file.write_all_at(&[whole[at] ^ 0x10], at as u64).unwrap();
            let report = found(dir.path());
            assert!(report.damaged > 0, "byte {at}");
            assert!(report.damage.iter().all(|damage| damage.file == path), "{:?}", report.damage);
            assert!(report.frames >= 5, "the others are read");
            file.write_all_at(&whole[at..=at], at as u64).unwrap();
        }
        file.set_len(whole.len() as u64 - 1).unwrap();
        assert!(found(dir.path()).damaged > 0);
        std::fs::remove_file(&path).unwrap();
        assert_eq!(found(dir.path()).damage[0].problem, "it is missing");
    }

    #[test]
    fn values_of_the_database_are_told_by_what_they_are() {
        let dir = tempfile::tempdir().unwrap();
        let (store, writer) = filled(dir.path());
        let id = store.view().blocks[0].id;
        let mut batch = crate::store::rocks::Batch::default();
        batch.put(Family::Columns, keys::column(id, columns::FIRST.0), *b"nonsense");
        batch.delete(Family::Columns, keys::column(id, columns::FLOW.0));
        batch.put(Family::Dead, keys::block(id), [0xff; 64]);
        batch.put(Family::Rollups, keys::block(id), *b"?");
        batch.put(Family::Recent, keys::recent(u64::MAX), *b"?");
        batch.put(Family::Waiting, *b"short", *b"?");
        batch.put(Family::Ledger, *b"short", *b"?");
        batch.put(Family::Alerts, keys::alert(1), *b"?");
        batch.put(Family::Owners, *b"short", *b"?");
        store.shared.rocks.write(&batch, true).unwrap();
        writer.close().unwrap();
        drop(store);
        let report = found(dir.path());
        assert_eq!(report.damaged, 9, "{:?}", report.damage);
        assert!(report.damage.iter().any(|damage| damage.problem.contains("is missing")));
        assert_eq!(report.frames, 6);
    }
}
