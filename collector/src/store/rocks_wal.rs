//! RocksDB's write-ahead log, read without RocksDB: which batches are there, and how many writes are missing.
//!
//! Every batch says its first sequence number and how many writes it has, and all writes of a database are numbered without
//! gaps, so that damage is counted exactly. RocksDB replays a log up to its first bad record; gnomon reads on.

use std::io;
use std::path::{Path, PathBuf};

use super::StoreError;
use super::rocks_log::{self, Piece};
use super::rocks_manifest::{Fields, file_number};

/// A file of the log is at most about as large as the log may be and a batch; one beyond this is not read.
const LOG_BYTES_MAX: u64 = 2 << 30;
const HEADER_BYTES: usize = 12;

/// A write of a batch in the log.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Logged<'a> {
    pub(super) family: u64,
    pub(super) key: &'a [u8],
    /// `None`: the key is deleted.
    pub(super) value: Option<&'a [u8]>,
}

/// A batch in the log.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct LoggedBatch<'a> {
    pub(super) sequence: u64,
    pub(super) count: u64,
    pub(super) writes: Vec<Logged<'a>>,
}

/// The sequence number of a batch, and how many writes it has.
fn numbers(record: &[u8]) -> Option<(u64, u64)> {
    let (header, _) = record.split_first_chunk::<HEADER_BYTES>()?;
    let sequence = u64::from_le_bytes(std::array::from_fn(|i| header[i]));
    let count = u32::from_le_bytes(std::array::from_fn(|i| header[8 + i]));
    Some((sequence, u64::from(count)))
}

/// The format is that of RocksDB's `db/write_batch.cc`. `None` for kinds of writes that gnomon makes none of.
pub(super) fn batch(record: &[u8]) -> Option<LoggedBatch<'_>> {
    let (sequence, count) = numbers(record)?;
    let mut fields = Fields(&record[HEADER_BYTES..]);
    let mut writes = Vec::new();
    while let Some((kind, rest)) = fields.0.split_first() {
        fields.0 = rest;
        let (with_family, has_value) = match kind {
            0 => (false, false),
            1 => (false, true),
            4 => (true, false),
            5 => (true, true),
            _ => return None,
        };
        let family = if with_family { fields.number()? } else { 0 };
        let key = fields.bytes()?;
        let value = if has_value { Some(fields.bytes()?) } else { None };
        writes.push(Logged { family, key, value });
    }
    Some(LoggedBatch { sequence, count, writes })
}

/// Writes that are missing: `from` is the first, and good ones follow from `to` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Gap {
    pub(super) from: u64,
    pub(super) to: u64,
}

/// What the files of a log hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct LogState {
    /// The files, in their order.
    pub(super) files: Vec<PathBuf>,
    pub(super) gaps: Vec<Gap>,
    /// Stretches that cannot be read, by file and offset: those with good records behind them, and the last if there are none.
    pub(super) bad: Vec<(PathBuf, u64)>,
    /// The last stretch, which a write that was cut short leaves too.
    pub(super) tail: Option<(PathBuf, u64)>,
    /// The sequence number behind the last good write; 0 when there is none.
    pub(super) next: u64,
}

/// The files of the log in `dir`, in their order.
pub(super) fn files_of(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for file in std::fs::read_dir(dir)? {
        let path = file?.path();
        files.extend(file_number(&path, "log").map(|number| (number, path)));
    }
    files.sort_unstable();
    Ok(files.into_iter().map(|(_, path)| path).collect())
}

fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    let bytes = path.metadata()?.len();
    if bytes > LOG_BYTES_MAX {
        return Err(io::Error::other(format!("it has {bytes} bytes, the limit is {LOG_BYTES_MAX}")));
    }
    std::fs::read(path)
}

/// Reads a log whole. Table files have everything up to the sequence number `flushed`.
///
/// # Errors
/// What the disk said.
pub(super) fn state_of(dir: &Path, flushed: u64) -> io::Result<LogState> {
    let mut state = LogState { files: files_of(dir)?, ..LogState::default() };
    let mut next: Option<u64> = None;
    let mut pending: Option<(PathBuf, u64)> = None;
    for path in state.files.clone() {
        let bytes = read_file(&path)?;
        for piece in rocks_log::read(&bytes) {
            let (sequence, count) = match piece {
                Piece::Bad(range) => {
                    state.bad.extend(pending.replace((path.clone(), range.start as u64)));
                    continue;
                }
                Piece::Record { bytes, .. } => match numbers(&bytes) {
                    Some((_, 0)) => continue,
                    Some(numbers) => numbers,
                    None => continue,
                },
            };
            let expected = next.unwrap_or_else(|| sequence.min(flushed.saturating_add(1)));
            if sequence > expected {
                state.gaps.push(Gap { from: expected, to: sequence });
                state.bad.extend(pending.take());
            }
            // Of nothing that is missing: a write that was cut short before the log went on in another file.
            pending = None;
            next = Some(sequence.saturating_add(count));
        }
    }
    state.tail = pending;
    state.next = next.unwrap_or(0);
    Ok(state)
}

/// What a replay is told of: the number of the log's file, whether writes before the batch are missing, the batch.
pub(super) type Tell<'t> = &'t mut dyn FnMut(u64, bool, &LoggedBatch<'_>) -> Result<(), StoreError>;

/// Tells every batch of the log in `dir`, in order.
///
/// # Errors
/// What the disk or `tell` said.
pub(super) fn replay(dir: &Path, flushed: u64, tell: Tell<'_>) -> Result<(), StoreError> {
    let at = |path: &Path| {
        let path = path.to_owned();
        move |source| StoreError::Directory { path, source }
    };
    let mut next: Option<u64> = None;
    for path in files_of(dir).map_err(at(dir))? {
        let number = file_number(&path, "log").unwrap_or(0);
        let bytes = read_file(&path).map_err(at(&path))?;
        for piece in rocks_log::read(&bytes) {
            let Piece::Record { bytes, .. } = piece else { continue };
            let Some(batch) = batch(&bytes).filter(|batch| batch.count > 0) else { continue };
            let expected = next.unwrap_or_else(|| batch.sequence.min(flushed.saturating_add(1)));
            tell(number, batch.sequence > expected, &batch)?;
            next = Some(batch.sequence.saturating_add(batch.count));
        }
    }
    Ok(())
}
