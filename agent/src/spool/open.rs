//! Opening the spool: what earlier processes left is taken in entry by entry, whatever happened to it.
//!
//! A file is what its content says, not its name: one that was renamed is read, one that is a copy of another is not. A
//! header that is damaged is restored by what the entries repeat. What cannot be read is set aside (`….damaged`) and kept
//! until its room is needed; what is in no file any more is counted by its number.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex};

use gnomon_clock::Clock;

use super::epoch::Epoch;
use super::index::{Index, Segment};
use super::ledger::{Ledger, Noted};
use super::segment::{self, FileHeader, Lane, SEAL_BYTES, SegmentFile, Totals};
use super::store_id::StoreId;
use super::{
    Appender, Limits, Reader, Shared, Spool, SpoolError, disk, kept, set_aside, sync, sync_directory,
};
use crate::private;

/// Opens or makes the spool in `limits.dir`, which nobody else may use.
///
/// # Errors
/// When the directory cannot be made or read. Damaged files are put aside and counted, not an error.
pub fn open(limits: Limits, clock: Arc<dyn Clock>) -> Result<(Spool, Appender, Reader), SpoolError> {
    let dir = limits.dir.clone();
    let error = |what| {
        let path = dir.clone();
        move |source| SpoolError { path, what, source }
    };
    private::directory(&dir).map_err(error("cannot make the directory"))?;
    private::tighten_files(&dir);
    // Its own name has to outlive a power cut before anything in it can.
    if let Some(above) = dir.parent().filter(|above| !above.as_os_str().is_empty()) {
        sync_directory(above).map_err(error("cannot sync the directory above"))?;
    }
    let mut ledger = Ledger::new(&dir);
    let noted = ledger.read().map_err(error("cannot read the ledger"))?;
    let names = names(&dir).map_err(error("cannot read the directory"))?;
    let mut opening = Opening { dir: &dir, noted: &noted, index: Index::default(), damaged_stretches: 0 };
    opening.index.next_number = 1;
    opening.take_all(&names);
    opening.count_gone();
    let Opening { index, damaged_stretches, .. } = opening;
    if let Err(problem) = ledger.rewrite(&kept(&index)) {
        tracing::warn!(error = %problem, "cannot write the spool's ledger: entries may be sent again");
    }
    let shared = Arc::new(Shared {
        limits,
        clock,
        index: Mutex::new(index),
        ledger: Mutex::new(ledger),
        store_id: StoreId::read(&dir),
        readable: tokio::sync::Notify::new(),
        room: Condvar::new(),
        work: Condvar::new(),
        progress: Condvar::new(),
        sync: sync::SyncQueue::default(),
    });
    shared.skim();
    count_missing(&mut shared.index(), damaged_stretches);
    shared.dispose();
    say(&shared.index());
    let threads = disk::Threads::start(&shared);
    Ok((
        Spool { shared: Arc::clone(&shared) },
        Appender::new(Arc::clone(&shared), threads),
        Reader::new(shared),
    ))
}

/// Names of the plain files in the spool's directory.
fn names(dir: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            names.extend(entry.file_name().into_string().ok());
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// A file of the spool, and what is known of it before its entries are looked at.
struct Found {
    path: PathBuf,
    file: File,
    header: FileHeader,
    /// The header on the disk is damaged.
    restored: bool,
    /// It can be written to.
    writable: bool,
}

struct Opening<'a> {
    dir: &'a Path,
    noted: &'a [Noted],
    index: Index,
    damaged_stretches: u64,
}

impl Opening<'_> {
    fn take_all(&mut self, names: &[String]) {
        let (mut in_place, mut misnamed, mut unknown) = (Vec::new(), Vec::new(), Vec::new());
        for name in names {
            if matches!(name.as_str(), "ledger" | "ledger.new" | "store" | "store.new") {
                continue;
            }
            let path = self.dir.join(name);
            if name.ends_with(".damaged") {
                let bytes = fs::metadata(&path).map_or(0, |metadata| metadata.len());
                self.index.set_aside(name.clone(), bytes);
                continue;
            }
            let named = segment::parse_file_name(name);
            if let Some((_, number)) = named {
                self.index.next_number = self.index.next_number.max(number + 1);
            }
            match self.look(&path, named.is_some()) {
                Ok(None) => {}
                Ok(Some(Ok(found))) if named == Some((found.header.lane, found.header.number)) => {
                    in_place.push(found);
                }
                Ok(Some(Ok(found))) => misnamed.push(found),
                Ok(Some(Err(file))) => unknown.push((path, file, named)),
                Err(error) => {
                    tracing::error!(path = %path.display(), %error, "cannot read a file of the spool, leaving it");
                    self.index.damaged.add(1, 0);
                }
            }
        }
        in_place.sort_unstable_by_key(|found| found.header.number);
        in_place.into_iter().for_each(|found| self.take(found));
        for (path, file, named) in unknown {
            match self.guess(&path, file, named) {
                Some(found) => self.take(found),
                None => self.give_up(&path, named.is_some()),
            }
        }
        for found in misnamed {
            match self.rename(found) {
                Ok(found) => self.take(found),
                Err((path, error)) => {
                    tracing::error!(path = %path.display(), %error, "cannot rename a misnamed file of the spool, leaving it");
                    self.index.damaged.add(1, 0);
                }
            }
        }
    }

    /// Opens a file and finds its header; the file alone where neither that nor an entry is whole. Nothing where it is
    /// empty: the process died while it made it.
    fn look(&mut self, path: &Path, is_named: bool) -> io::Result<Option<Result<Found, File>>> {
        let (file, writable) = match File::options().read(true).write(true).open(path) {
            Ok(file) => (file, true),
            // A disk that turned read-only can still be read.
            Err(_) => (File::open(path)?, false),
        };
        let file_bytes = file.metadata()?.len();
        if file_bytes < segment::FILE_HEADER_BYTES && is_named {
            self.index.torn_bytes += file_bytes;
            if writable {
                fs::remove_file(path)?;
            }
            return Ok(None);
        }
        let header = FileHeader::read(&file)?;
        let restored = header.is_none();
        let header = match header {
            Some(header) => Some(header),
            None => FileHeader::salvage(&file, file_bytes)?,
        };
        Ok(Some(match header {
            Some(header) => Ok(Found { path: path.to_owned(), file, header, restored, writable }),
            None => Err(file),
        }))
    }

    /// A file of version 1 does not say in its entries what its header did. Another file of its epoch may.
    fn guess(&self, path: &Path, file: File, named: Option<(Lane, u64)>) -> Option<Found> {
        let (lane, number) = named?;
        let file_bytes = file.metadata().ok()?.len();
        let mut file = Some(file);
        let mut tried = HashSet::new();
        for epoch in self.index.epochs.iter().filter(|epoch| tried.insert((epoch.id, epoch.suspended_ns))) {
            let header = FileHeader::old(lane, number, epoch.id, epoch.suspended_ns);
            let segment = SegmentFile { file: file.take()?, format: header.format() };
            if segment.scan(file_bytes).is_ok_and(|scan| scan.totals.entries > 0) {
                return Some(Found {
                    path: path.to_owned(),
                    file: segment.file,
                    header,
                    restored: true,
                    writable: true,
                });
            }
            file = Some(segment.file);
        }
        None
    }

    /// Nothing in it can be read.
    fn give_up(&mut self, path: &Path, is_named: bool) {
        let is_ours = is_named || path.extension().is_some_and(|extension| extension == "spool");
        if !is_ours {
            tracing::warn!(path = %path.display(), "not a file of the spool, leaving it");
            self.index.strangers += 1;
            return;
        }
        self.index.damaged.add(1, 0);
        self.keep_aside(path, "no entry of a spool file is whole in it");
    }

    fn keep_aside(&mut self, path: &Path, why: &str) {
        let bytes = fs::metadata(path).map_or(0, |metadata| metadata.len());
        match set_aside(path) {
            Ok(name) => {
                tracing::error!(path = %path.display(), to = name, "setting a file of the spool aside: {why}");
                self.index.set_aside(name, bytes);
            }
            Err(error) => {
                tracing::error!(path = %path.display(), %error, "leaving a file of the spool: {why}")
            }
        }
    }

    /// Gives a file the name that its content says, or the next one that is free.
    fn rename(&mut self, mut found: Found) -> Result<Found, (PathBuf, io::Error)> {
        let FileHeader { lane, number, .. } = found.header;
        let free = |number: u64| {
            !self.index.segments.contains_key(&number)
                && Lane::ALL.iter().all(|lane| {
                    fs::symlink_metadata(self.dir.join(segment::file_name(*lane, number))).is_err()
                })
        };
        let number = if number > 0 && free(number) { number } else { self.index.next_number };
        let path = self.dir.join(segment::file_name(lane, number));
        if let Err(error) = fs::rename(&found.path, &path) {
            return Err((found.path, error));
        }
        tracing::warn!(from = %found.path.display(), to = %path.display(), "a file of the spool had another name");
        self.index.next_number = self.index.next_number.max(number.saturating_add(1));
        found.path = path;
        Ok(found)
    }

    /// Takes a file into the index.
    fn take(&mut self, found: Found) {
        let path = found.path.clone();
        if let Err(error) = self.insert(found) {
            tracing::error!(path = %path.display(), %error, "cannot read a file of the spool, leaving it");
            self.index.damaged.add(1, 0);
        }
    }

    fn insert(&mut self, found: Found) -> io::Result<()> {
        let Found { path, file, header, restored, writable } = found;
        let file = SegmentFile { file, format: header.format() };
        let file_bytes = file.file.metadata()?.len();
        let seal = Totals::read_seal(&file.file, file_bytes)?;
        let (totals, end, torn_bytes, stretches) = match seal {
            Some(totals) => (totals, file_bytes - SEAL_BYTES, 0, 0),
            None => {
                let scan = file.scan(file_bytes)?;
                (scan.totals, scan.end, scan.torn_bytes, scan.damaged_stretches)
            }
        };
        let known = self.index.epoch_index(&header.epoch);
        if known.is_some_and(|epoch| self.is_copy(epoch, header.lane, &totals)) {
            self.keep_aside(&path, "its entries are in other files already");
            return Ok(());
        }
        if torn_bytes > 0 {
            tracing::warn!(path = %path.display(), bytes = torn_bytes, "cut a half-written tail off a spool segment");
            self.index.torn_bytes += torn_bytes;
        }
        if writable && seal.is_none() {
            // Gives room back that was set aside for more entries, too.
            file.file.set_len(end)?;
        }
        if restored {
            tracing::error!(path = %path.display(), "the header of a spool segment is damaged: restored by its entries");
            if writable {
                file.file.write_all_at(&header.encode(), 0)?;
            }
        }
        let epoch = known.unwrap_or_else(|| self.add_epoch(&header));
        // By its name: the number in a file that was renamed may be another.
        let number = path.file_name().and_then(|name| segment::parse_file_name(name.to_str()?));
        let number = number.map_or(header.number, |(_, number)| number);
        self.index.insert(number, Segment::new(header.lane, epoch, file.format, totals, end));
        self.damaged_stretches += stretches;
        let sealed = match seal {
            Some(_) => true,
            None => writable && disk::write_seal(&file.file, &totals, end).is_ok(),
        };
        self.index.sealed(number, if sealed { end + SEAL_BYTES } else { end });
        self.index.opened(epoch);
        Ok(())
    }

    /// Whether the numbers of a file are those of another.
    fn is_copy(&self, epoch: usize, lane: Lane, totals: &Totals) -> bool {
        let mut others = self.index.segments.values().filter(|s| s.epoch == epoch && s.lane == lane);
        totals.entries > 0
            && others.any(|other| {
                other.totals.entries > 0
                    && other.totals.first_seq <= totals.last_seq
                    && totals.first_seq <= other.totals.last_seq
            })
    }

    /// Of epochs that have no file any more, all that was not acknowledged is missing.
    fn count_gone(&mut self) {
        let gone = self.noted.iter().filter(|noted| self.index.epoch_index(&noted.epoch).is_none());
        let missing = gone.map(|n| n.given_out.saturating_sub(n.acked).saturating_sub(n.given_up));
        self.index.missing = missing.fold(0, u64::saturating_add);
    }

    fn add_epoch(&mut self, header: &FileHeader) -> usize {
        let mut epoch = Epoch::known(header.epoch, header.suspended_ns);
        if let Some(noted) = self.noted.iter().find(|noted| noted.epoch == header.epoch) {
            epoch.acked = noted.acked;
            epoch.settled = noted.settled.unwrap_or(noted.acked).min(noted.acked);
            epoch.cursor = noted.acked;
            epoch.last_seq = noted.given_out;
            epoch.given_up = noted.given_up;
            epoch.shift = noted.shift;
            epoch.wire_id.opened = noted.wire_opened.unwrap_or(epoch.id.opened);
        }
        self.index.add_epoch(epoch)
    }
}

/// Numbers after the last acknowledgement that are in no file, were not given up, and are not passed as damage later.
fn count_missing(index: &mut Index, damaged_stretches: u64) {
    let missing: u64 = (0..index.epochs.len())
        .map(|number| {
            let epoch = index.epochs[number];
            let expected = epoch.last_seq.saturating_sub(epoch.acked);
            expected.saturating_sub(index.pending_of(number)).saturating_sub(epoch.given_up)
        })
        .sum();
    index.missing += missing.saturating_sub(damaged_stretches);
}

/// Damage is said once, in one line.
fn say(index: &Index) {
    if index.missing > 0 || index.damaged.entries > 0 || index.strangers > 0 {
        tracing::error!(
            missing_entries = index.missing,
            damaged = index.damaged.entries,
            set_aside_files = index.set_aside.len(),
            strange_files = index.strangers,
            "the spool is not as it was left; what can be read is sent"
        );
    }
}
