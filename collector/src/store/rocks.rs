//! The one door to RocksDB: families, batches, point reads and bounded runs of keys.
//!
//! A [`Batch`] is kept as plain operations, so that a write that failed for want of space can be tried again. Iteration
//! is by runs of a limited length that each open and close a cursor: nothing outlives a call, and no reader pins the
//! database's memory.

use std::fs::File;
use std::io::{self, Write};
use std::ops::{Bound, Deref};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError, RwLock, RwLockReadGuard};

use rocksdb::checkpoint::Checkpoint;
use rocksdb::{DB, IteratorMode, Options, ReadOptions, WriteBatch, WriteOptions};

use super::StoreError;
use super::directory;
use super::high_water::HighWater;
use super::keys::{self, Family, prefix_end, run_len, successor};
use super::retention::LOG_BYTES_MAX;
pub(super) use super::rocks_batch::Batch;
use super::rocks_manifest::table_name;
use super::rocks_open::{CURRENT, has_data, open_for_reading, open_for_writing};

/// How long a write waits while flushes and compactions catch up, before it is given up to be tried again later.
const STALL_WAIT: std::time::Duration = std::time::Duration::from_millis(5);
const STALL_TRIES: u32 = 100;

/// Written and synced to see whether the disk takes anything.
const TRIAL: &str = "trial";
const TRIAL_BYTES: [u8; 4096] = [0x55; 4096];

/// What RocksDB said, and where its files are.
#[derive(Clone, Debug, thiserror::Error)]
#[error("database {}: {message}", path.display())]
pub struct RocksError {
    pub path: PathBuf,
    pub message: String,
    pub failure: RocksFailure,
}

impl RocksError {
    pub(super) fn of(path: &Path, error: &rocksdb::Error) -> RocksError {
        RocksError { path: path.to_owned(), message: error.to_string(), failure: RocksFailure::of(error) }
    }
}

/// What a failure leaves behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RocksFailure {
    /// It was not begun: flushes and compactions do not keep up.
    Stalled,
    /// The disk is full. The database goes on by itself when there is room; what was being written is there or not.
    NoSpace,
    /// What is stored is not what was written. Opening the database again changes nothing about that.
    Corrupt,
    /// Files could not be read or written. The database takes nothing more until it is opened again; what was being written is
    /// there or not.
    Files,
    /// Anything else; likewise.
    Other,
}

impl RocksFailure {
    fn of(error: &rocksdb::Error) -> RocksFailure {
        match error.kind() {
            rocksdb::ErrorKind::Incomplete => RocksFailure::Stalled,
            // The binding tells no subcodes.
            _ if AsRef::<str>::as_ref(error).contains("No space left") => RocksFailure::NoSpace,
            rocksdb::ErrorKind::Corruption => RocksFailure::Corrupt,
            rocksdb::ErrorKind::IOError => RocksFailure::Files,
            _ => RocksFailure::Other,
        }
    }
}

impl RocksFailure {
    /// Whether a read that failed so says something of what was read and nothing of the rest.
    pub fn is_damage(self) -> bool {
        matches!(self, RocksFailure::Corrupt | RocksFailure::Files)
    }
}

pub(super) struct Rocks {
    /// `None` while it is opened again, and when even reading it failed then. Held for short calls, never two at once
    /// by one thread.
    db: RwLock<Option<DB>>,
    path: PathBuf,
    log_bytes: u64,
    /// Files are not merged any more, as one of them is damaged.
    unmerged: AtomicBool,
    /// The last write failed: whatever touches the log next can fail an assertion of RocksDB.
    failing: AtomicBool,
    /// What it holds at least, where that is kept.
    high_water: Mutex<Option<HighWater>>,
}

/// The database for one call.
pub(super) struct Opened<'a>(RwLockReadGuard<'a, Option<DB>>);

impl Deref for Opened<'_> {
    type Target = DB;

    fn deref(&self) -> &DB {
        self.0.as_ref().expect("looked at when it was made")
    }
}

/// A key and its value.
pub(super) type Pair = (Box<[u8]>, Box<[u8]>);

impl Rocks {
    /// # Errors
    /// When another process has it open, or it cannot be created or read.
    pub(super) fn open(path: &Path) -> Result<Rocks, RocksError> {
        Rocks::open_with_log(path, LOG_BYTES_MAX)
    }

    /// As [`Rocks::open`], with a log of about so many bytes at most.
    pub(super) fn open_with_log(path: &Path, log_bytes: u64) -> Result<Rocks, RocksError> {
        let there = has_data(path).map_err(|error| RocksError {
            path: path.to_owned(),
            message: format!("cannot be listed: {error}"),
            failure: RocksFailure::Files,
        })?;
        if there && !path.join(CURRENT).exists() {
            // It would be taken for empty, and what is there for rubbish.
            let message = format!("Corruption: there are data and no file {CURRENT}");
            return Err(RocksError { path: path.to_owned(), message, failure: RocksFailure::Corrupt });
        }
        Ok(Rocks { log_bytes, ..Rocks::of(path, open_for_writing(path, !there, true, log_bytes)?) })
    }

    fn of(path: &Path, db: DB) -> Rocks {
        Rocks {
            db: RwLock::new(Some(db)),
            path: path.to_owned(),
            log_bytes: LOG_BYTES_MAX,
            unmerged: AtomicBool::new(false),
            failing: AtomicBool::new(false),
            high_water: Mutex::new(None),
        }
    }

    /// For reading only: nothing is changed, and whether somebody else has it open is not asked.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(super) fn open_read_only(path: &Path) -> Result<Rocks, RocksError> {
        Ok(Rocks::of(path, open_for_reading(path)?))
    }

    /// Opens it anew after a failure, once the disk takes and keeps what is written. What was synced is there then, and
    /// durable by a sync of now: the log is read and what is in it put into files. Readers wait meanwhile; where it cannot
    /// be opened for writing, they go on with what can be read. Where it cannot be opened at all, for what it holds, the one that
    /// is open stays: it still reads. Without `merge` files are left as they are from now on.
    ///
    /// # Errors
    /// What the disk said: call it again.
    pub(super) fn reopen(&self, merge: bool) -> Result<(), RocksError> {
        self.try_disk().map_err(|error| RocksError {
            path: self.path.clone(),
            message: format!("the disk does not keep what is written: {error}"),
            failure: RocksFailure::Other,
        })?;
        let readable = open_for_reading(&self.path);
        if let Err(error) = readable.as_ref().map(drop)
            && error.failure == RocksFailure::Corrupt
        {
            return Err(error.clone());
        }
        drop(readable);
        let mut db = self.db.write().unwrap_or_else(PoisonError::into_inner);
        // Closed first: it is locked against a second opening.
        *db = None;
        match open_for_writing(&self.path, false, merge, self.log_bytes) {
            Ok(opened) => {
                self.unmerged.store(!merge, Ordering::Relaxed);
                *db = Some(opened);
                Ok(())
            }
            Err(error) => {
                *db = open_for_reading(&self.path).ok();
                Err(error)
            }
        }
    }

    /// From now on what is acknowledged is noted in `data_dir`; everything that is there is durable.
    pub(super) fn keep_high_water(&self, data_dir: &Path) -> Result<(), StoreError> {
        let sequence = self.db()?.latest_sequence_number();
        let water = HighWater::open(data_dir, sequence)
            .map_err(|source| StoreError::Directory { path: data_dir.to_owned(), source })?;
        *self.high_water.lock().unwrap_or_else(PoisonError::into_inner) = Some(water);
        Ok(())
    }

    /// Notes something where that is kept. Where it cannot be, an open knows less.
    fn note(&self, note: impl FnOnce(&mut HighWater) -> io::Result<()>) {
        let mut water = self.high_water.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(Err(error)) = water.as_mut().map(note) {
            tracing::debug!(%error, "cannot note what the database holds");
        }
    }

    /// Notes which files the database has.
    pub(super) fn note_files(&self) {
        self.note(HighWater::keep_manifest);
    }

    /// Whether files are not merged any more.
    pub(super) fn is_unmerged(&self) -> bool {
        self.unmerged.load(Ordering::Relaxed)
    }

    fn try_disk(&self) -> io::Result<()> {
        let path = self.path.join(TRIAL);
        let mut file = File::create(&path)?;
        file.write_all(&TRIAL_BYTES)?;
        file.sync_all()?;
        std::fs::remove_file(&path)?;
        directory::sync(&self.path)
    }

    pub(super) fn db(&self) -> Result<Opened<'_>, RocksError> {
        let db = self.db.read().unwrap_or_else(PoisonError::into_inner);
        if db.is_none() {
            let message = "it cannot be opened just now".to_owned();
            return Err(RocksError { path: self.path.clone(), message, failure: RocksFailure::Other });
        }
        Ok(Opened(db))
    }

    /// The families of the database at `path`, by name; none when there is no database. Nothing is changed.
    pub(super) fn families_of(path: &Path) -> Vec<String> {
        DB::list_cf(&Options::default(), path).unwrap_or_default()
    }

    /// Drop what the database has of families that are no more.
    pub(super) fn drop_retired(&mut self) -> Result<(), RocksError> {
        let Some(db) = self.db.get_mut().unwrap_or_else(PoisonError::into_inner) else { return Ok(()) };
        for name in keys::RETIRED {
            if db.cf_handle(name).is_some() {
                db.drop_cf(name).map_err(|error| RocksError::of(&self.path, &error))?;
            }
        }
        Ok(())
    }

    /// Whether the database has a family: it lacks those of a newer collector until one opens it for writing.
    pub(super) fn has(&self, family: Family) -> bool {
        self.db().is_ok_and(|db| db.cf_handle(family.name()).is_some())
    }

    // By value for `map_err`.
    #[allow(clippy::needless_pass_by_value)]
    pub(super) fn error(&self, error: rocksdb::Error) -> RocksError {
        RocksError::of(&self.path, &error)
    }

    pub(super) fn get(&self, family: Family, key: &[u8]) -> Result<Option<Vec<u8>>, RocksError> {
        let db = self.db()?;
        db.get_cf(self.handle(&db, family)?, key).map_err(|e| self.error(e))
    }

    /// The same for what can be done without: what cannot be read is named in the log and taken for not there.
    pub(super) fn get_spare(&self, family: Family, key: &[u8]) -> Result<Option<Vec<u8>>, RocksError> {
        match self.get(family, key) {
            Err(error) if error.failure.is_damage() => {
                tracing::error!(family = family.name(), %error, "a part of the database is damaged: it is done without");
                Ok(None)
            }
            read => read,
        }
    }

    /// Whether there is such a key; its value is not copied.
    pub(super) fn has_key(&self, family: Family, key: &[u8]) -> Result<bool, RocksError> {
        let db = self.db()?;
        let found = db.get_pinned_cf(self.handle(&db, family)?, key).map_err(|e| self.error(e))?;
        Ok(found.is_some())
    }

    /// Apply `batch` whole or not at all. With `durable` it is on disk when this returns; without, it is on disk
    /// before any later batch is.
    pub(super) fn write(&self, batch: &Batch, durable: bool) -> Result<(), RocksError> {
        let mut options = WriteOptions::default();
        options.set_sync(durable);
        // A write that waits for a flush which waits for room would wait for ever, and nobody could make room.
        options.set_no_slowdown(true);
        for _ in 0..STALL_TRIES {
            let mut write = WriteBatch::default();
            let db = self.db()?;
            for (family, key, value) in &batch.operations {
                match value {
                    Some(value) => write.put_cf(self.handle(&db, *family)?, key, value),
                    None => write.delete_cf(self.handle(&db, *family)?, key),
                }
            }
            // Others may write in between: the batch ends there or later.
            let last = db.latest_sequence_number() + batch.operations.len() as u64;
            match db.write_opt(write, &options) {
                Err(error) if RocksFailure::of(&error) == RocksFailure::Stalled => {
                    drop(db);
                    std::thread::sleep(STALL_WAIT)
                }
                written => {
                    self.failing.store(written.is_err(), Ordering::Release);
                    written.map_err(|e| self.error(e))?;
                    if durable {
                        self.note(|water| water.note(last));
                    }
                    return Ok(());
                }
            }
        }
        let message = "flushes and compactions do not keep up: the disk is slow or full".to_owned();
        Err(RocksError { path: self.path.clone(), message, failure: RocksFailure::Stalled })
    }

    /// At most `limit` pairs with `from ≤ key < to`, from the lowest up or (`reverse`) from the highest down. `after`
    /// is a key of an earlier run: go on behind it.
    pub(super) fn run(
        &self,
        family: Family,
        from: &[u8],
        to: Bound<&[u8]>,
        after: Option<&[u8]>,
        reverse: bool,
        limit: usize,
    ) -> Result<Vec<Pair>, RocksError> {
        let mut options = ReadOptions::default();
        let mut lower = from.to_vec();
        let mut upper = match to {
            Bound::Excluded(to) => Some(to.to_vec()),
            Bound::Included(to) => Some(successor(to)),
            Bound::Unbounded => None,
        };
        match after {
            Some(after) if reverse && upper.as_deref().is_none_or(|upper| after < upper) => {
                upper = Some(after.to_vec());
            }
            Some(after) if !reverse && successor(after) > lower => lower = successor(after),
            _ => {}
        }
        if upper.as_ref().is_some_and(|upper| *upper <= lower) {
            return Ok(Vec::new());
        }
        options.set_iterate_lower_bound(lower);
        if let Some(upper) = upper {
            options.set_iterate_upper_bound(upper);
        }
        let mode = if reverse { IteratorMode::End } else { IteratorMode::Start };
        let db = self.db()?;
        let pairs = db.iterator_cf_opt(self.handle(&db, family)?, options, mode).take(limit);
        pairs.map(|pair| pair.map_err(|e| self.error(e))).collect()
    }

    /// At most `limit` pairs whose key begins with `prefix`, in rising order behind `after`.
    pub(super) fn prefix(
        &self,
        family: Family,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<Pair>, RocksError> {
        let end = prefix_end(prefix);
        let to = end.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        self.run(family, prefix, to, after, false, limit)
    }

    /// Visits every pair whose key begins with `prefix`, in rising order. Read in runs: nothing is held for long.
    pub(super) fn walk(
        &self,
        family: Family,
        prefix: &[u8],
        mut visit: impl FnMut(&[u8], &[u8]) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let mut after: Option<Box<[u8]>> = None;
        loop {
            let run = self.prefix(family, prefix, after.as_deref(), run_len(family))?;
            for (key, value) in &run {
                visit(key, value)?;
            }
            match run.into_iter().last() {
                Some((key, _)) => after = Some(key),
                None => return Ok(()),
            }
        }
    }

    /// Give back at once the space of files that hold only keys below `end`. What is in them must be deleted already.
    pub(super) fn drop_files_below(&self, family: Family, end: &[u8]) {
        let Ok(db) = self.db() else { return };
        if let Err(error) = self
            .handle(&db, family)
            .and_then(|family| db.delete_file_in_range_cf(family, &[][..], end).map_err(|e| self.error(e)))
        {
            tracing::debug!(%error, "space comes back by compactions instead");
        }
    }

    /// Bytes of all families on disk and in memory.
    pub(super) fn bytes(&self) -> u64 {
        self.file_bytes() + self.property("rocksdb.cur-size-all-mem-tables")
    }

    /// Bytes of the files of all families.
    pub(super) fn file_bytes(&self) -> u64 {
        self.property("rocksdb.total-sst-files-size")
    }

    /// A number that RocksDB knows of each family, summed up.
    fn property(&self, name: &str) -> u64 {
        let Ok(db) = self.db() else { return 0 };
        let of = |family| db.property_int_value_cf(self.handle(&db, family).ok()?, name).ok().flatten();
        Family::ALL.into_iter().filter_map(of).sum()
    }

    /// A copy of all that was written, made of links where `to` is on the same file system. `to` must not be there.
    pub(super) fn checkpoint(&self, to: &Path) -> Result<(), RocksError> {
        let db = self.db()?;
        let checkpoint = Checkpoint::new(&db).map_err(|e| self.error(e))?;
        checkpoint.create_checkpoint(to).map_err(|e| self.error(e))
    }

    /// The family that a table file belongs to.
    pub(super) fn family_of_table(&self, number: u64) -> Option<Family> {
        let files = self.db().ok()?.live_files().ok()?;
        let name = table_name(number);
        let file = files.into_iter().find(|file| file.name.trim_start_matches('/') == name)?;
        Family::ALL.into_iter().find(|family| family.name() == file.column_family_name)
    }

    /// Write everything from memory to its files.
    pub(super) fn flush(&self) -> Result<(), RocksError> {
        // The ledger last: it never says more than the others have.
        let others = Family::ALL.into_iter().filter(|family| *family != Family::Ledger);
        for family in others.chain([Family::Ledger]) {
            let db = self.db()?;
            if self.failing.load(Ordering::Acquire) {
                let message = "the last write failed".to_owned();
                return Err(RocksError { path: self.path.clone(), message, failure: RocksFailure::Stalled });
            }
            db.flush_cf(self.handle(&db, family)?).map_err(|e| self.error(e))?;
        }
        Ok(())
    }

    /// A database that was opened for writing has all of them; one that is only read, those it was made with.
    fn handle<'d>(&self, db: &'d DB, family: Family) -> Result<&'d rocksdb::ColumnFamily, RocksError> {
        db.cf_handle(family.name()).ok_or_else(|| RocksError {
            path: self.path.clone(),
            message: format!("it has no {}", family.name()),
            failure: RocksFailure::Corrupt,
        })
    }
}

#[cfg(test)]
impl Rocks {
    /// The files of a family.
    pub(super) fn files_of(&self, family: Family) -> Vec<PathBuf> {
        let files = self.db().unwrap().live_files().unwrap().into_iter();
        let of_family = files.filter(|file| file.column_family_name == family.name());
        of_family.map(|file| self.path.join(file.name.trim_start_matches('/'))).collect()
    }

    /// Merges all files of a family.
    pub(super) fn merge(&self, family: Family) {
        let db = self.db().unwrap();
        let mut options = rocksdb::CompactOptions::default();
        options.set_bottommost_level_compaction(rocksdb::BottommostLevelCompaction::Force);
        db.compact_range_cf_opt(self.handle(&db, family).unwrap(), None::<&[u8]>, None::<&[u8]>, &options);
    }
}

/// A database with just these families, and one value in `meta`.
#[cfg(test)]
pub(super) fn make_with(path: &Path, families: &[&str], key: &[u8], value: &[u8]) {
    std::fs::create_dir_all(path).unwrap();
    let mut options = Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    let db = DB::open_cf(&options, path, families).unwrap();
    db.put_cf(db.cf_handle(Family::Meta.name()).unwrap(), key, value).unwrap();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_bounded_and_go_on_both_ways() {
        let dir = tempfile::tempdir().unwrap();
        let rocks = Rocks::open(dir.path()).unwrap();
        let mut batch = Batch::default();
        for n in 0u8..10 {
            batch.put(Family::Meta, [n], [n]);
        }
        rocks.write(&batch, true).unwrap();
        let run = |after: Option<u8>, reverse| -> Vec<u8> {
            let after = after.map(|n| [n]);
            let after = after.as_ref().map(|n| &n[..]);
            let pairs = rocks.run(Family::Meta, &[2], Bound::Excluded(&[8]), after, reverse, 3).unwrap();
            pairs.iter().map(|(key, _)| key[0]).collect()
        };
        assert_eq!(run(None, false), [2, 3, 4]);
        assert_eq!(run(Some(4), false), [5, 6, 7]);
        assert_eq!(run(Some(7), false), [0u8; 0]);
        assert_eq!(run(Some(0), false), [2, 3, 4]);
        assert_eq!(run(None, true), [7, 6, 5]);
        assert_eq!(run(Some(5), true), [4, 3, 2]);
        assert_eq!(run(Some(2), true), [0u8; 0]);
        assert_eq!(run(Some(9), true), [7, 6, 5]);
        assert_eq!(rocks.prefix(Family::Meta, &[3], None, 9).unwrap().len(), 1);
    }

    #[test]
    fn a_database_without_the_newest_family_is_read_and_gets_it() {
        let dir = tempfile::tempdir().unwrap();
        let mut older = Rocks::open(dir.path()).unwrap();
        let db = older.db.get_mut().unwrap().as_mut().unwrap();
        db.drop_cf(Family::Rollups.name()).unwrap();
        db.drop_cf(Family::Groups.name()).unwrap();
        drop(older);
        let only_read = Rocks::open_read_only(dir.path()).unwrap();
        assert!(!only_read.has(Family::Rollups) && only_read.has(Family::Blocks));
        drop(only_read);
        assert!(Rocks::open(dir.path()).unwrap().has(Family::Rollups));
    }

    #[test]
    fn a_second_opener_is_told_why_not() {
        let dir = tempfile::tempdir().unwrap();
        let _first = Rocks::open(dir.path()).unwrap();
        let error = Rocks::open(dir.path()).err().map(|e| e.to_string()).unwrap_or_default();
        assert!(error.contains("another gnomon-collector"), "{error}");
    }

    #[test]
    fn families_of_old_that_are_retired_are_dropped_and_the_rest_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        drop(Rocks::open(dir.path()).unwrap());
        let names = DB::list_cf(&Options::default(), dir.path()).unwrap();
        let mut old = DB::open_cf(&Options::default(), dir.path(), &names).unwrap();
        for name in keys::RETIRED {
            old.create_cf(name, &Options::default()).unwrap();
            old.put_cf(old.cf_handle(name).unwrap(), b"key", b"value").unwrap();
        }
        old.put_cf(old.cf_handle(Family::Meta.name()).unwrap(), b"kept", b"1").unwrap();
        drop(old);
        for _ in 0..2 {
            let mut rocks = Rocks::open(dir.path()).unwrap();
            rocks.drop_retired().unwrap();
            assert_eq!(rocks.get(Family::Meta, b"kept").unwrap().as_deref(), Some(&b"1"[..]));
            drop(rocks);
            let mut left = DB::list_cf(&Options::default(), dir.path()).unwrap();
            left.sort_unstable();
            let mut expected = names.clone();
            expected.sort_unstable();
            assert_eq!(left, expected);
        }
    }

    #[test]
    fn the_end_of_a_prefix() {
        assert_eq!(prefix_end(&[1, 2]), Some(vec![1, 3]));
        assert_eq!(prefix_end(&[1, 0xff]), Some(vec![2]));
        assert_eq!(prefix_end(&[0xff]), None);
    }
}
