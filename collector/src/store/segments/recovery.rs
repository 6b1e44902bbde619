//! What a start finds on disk: the files with their indexes, and what a crash left in the newest.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, RwLock};

use super::chain::Chain;
use super::files::{Index, Segments};
use super::footer::{Footer, Sealing};
use super::header::{HEADER_BYTES, Header};
use super::pages::Unreadable;
use super::rescan::{Hole, rescan, walk};
use super::writer::SegmentWriter;
use super::{Position, SegmentError, index_path_of, numbers_in, path_of};
use crate::store::directory;

/// What was found at the end of the newest file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::store) struct Recovered {
    /// Bytes that were written but never acknowledged, and are gone now.
    pub(in crate::store) cut_bytes: u64,
    /// Bytes that were acknowledged and are missing.
    pub(in crate::store) lost_bytes: u64,
}

/// What may be done to the files at a start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) enum Opening {
    /// What was never acknowledged is cut off.
    Normal,
    /// All that is there is kept and served, acknowledged or not: the database may have forgotten packets.
    KeepAll,
    /// Nothing is changed, and nothing can be written.
    ReadOnly,
}

impl Segments {
    /// Opens the files under `dir`. `durable` is what the database says of the newest (`None` for a new store), `known`
    /// the bytes of the frames of each file by the same.
    pub(in crate::store) fn open(
        dir: &Path,
        durable: Option<Position>,
        opening: Opening,
        known: &BTreeMap<u32, u64>,
        bytes_max: u64,
    ) -> Result<(Arc<Segments>, SegmentWriter, Recovered), SegmentError> {
        let io = |doing| move |source| SegmentError::Io { path: dir.to_owned(), doing, source };
        std::fs::create_dir_all(dir).map_err(io("create the directory"))?;
        let segments = Arc::new(Segments::new(dir));
        let mut recovered = Recovered::default();
        let numbers = numbers_in(dir).map_err(io("list the directory"))?;
        let known_newest = known.keys().next_back().copied().unwrap_or(0);
        let newest = match durable {
            Some(position) => position.number,
            None if opening == Opening::KeepAll => numbers.last().copied().unwrap_or(0).max(known_newest),
            None => 0,
        };
        // They are given up from the oldest on: one behind another was lost. Of the newest, `durable` tells.
        let oldest = numbers.first().copied().unwrap_or(u32::MAX);
        let newest_known = durable.map_or(u32::MAX, |position| position.number);
        for (number, bytes) in known.range(oldest..newest_known.max(oldest)) {
            if numbers.binary_search(number).is_err() {
                tracing::error!(segment = number, bytes, "a segment file is missing: its packets are lost");
                recovered.lost_bytes += bytes;
            }
        }
        for number in numbers {
            if number > newest && opening == Opening::ReadOnly {
                continue;
            }
            if number > newest {
                // Begun, but nothing in it was ever acknowledged.
                let bytes = path_of(dir, number).metadata().map_or(0, |m| m.len());
                recovered.cut_bytes += bytes.saturating_sub(HEADER_BYTES as u64);
                segments.remove(number)?;
            } else if number < newest || durable.is_none() {
                // With everything kept there may be more than the database knows of.
                let bytes = known.get(&number).copied().filter(|_| opening != Opening::KeepAll);
                recovered.lost_bytes += load(&segments, number, bytes);
            }
        }
        let mut before = if opening == Opening::KeepAll { chain_end(dir, newest) } else { Chain::default() };
        if let Some(position) = durable {
            before = position.chain;
            if let Some(file) = take_up(&segments, position, opening, &mut recovered)? {
                let writer = SegmentWriter::new(&segments, file, position, bytes_max);
                return Ok((segments, writer, recovered));
            }
        }
        if opening == Opening::ReadOnly {
            let nowhere = File::open("/dev/null").map_err(io("open /dev/null for"))?;
            let position =
                Position { number: newest.saturating_add(1), len: HEADER_BYTES as u64, chain: before };
            return Ok((
                Arc::clone(&segments),
                SegmentWriter::new(&segments, nowhere, position, bytes_max),
                recovered,
            ));
        }
        let (file, position) = create(dir, newest.saturating_add(1), before)?;
        let writer = SegmentWriter::new(&segments, file, position, bytes_max);
        Ok((segments, writer, recovered))
    }
}

/// A new file with its header, whose name survives a crash too.
pub(super) fn create(dir: &Path, number: u32, before: Chain) -> Result<(File, Position), SegmentError> {
    let path = path_of(dir, number);
    let header = Header::encode(number, before);
    let build = || {
        let file = OpenOptions::new().write(true).create(true).truncate(true).open(&path)?;
        file.write_all_at(&header, 0)?;
        file.sync_all()?;
        directory::sync(dir)?;
        Ok(file)
    };
    let file =
        build().map_err(|source| SegmentError::Io { path: path.clone(), doing: "create it", source })?;
    Ok((file, Position { number, len: header.len() as u64, chain: Chain::begin(&header) }))
}

/// The newest file, cut to what was acknowledged and its index rebuilt; `None` when a new one has to be begun.
fn take_up(
    segments: &Segments,
    position: Position,
    opening: Opening,
    recovered: &mut Recovered,
) -> Result<Option<File>, SegmentError> {
    let number = position.number;
    let path = &path_of(segments.dir(), number);
    let io = |doing| move |source| SegmentError::Io { path: path.clone(), doing, source };
    let file = match OpenOptions::new().read(true).write(true).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            recovered.lost_bytes += position.len.saturating_sub(HEADER_BYTES as u64);
            return Ok(None);
        }
        Err(error) => return Err(io("open it")(error)),
    };
    let len = file.metadata().map_err(io("read the length"))?.len();
    let header = header_of(&file);
    let version_1 = matches!(header, Ok(Header { before: None, .. }));
    if len < position.len {
        recovered.lost_bytes += position.len - len;
        let _ = load(segments, number, None);
        return Ok(None);
    }
    if let Ok(Some(footer)) = Footer::load(&file, number)
        && footer.frames_end == position.len
    {
        segments.put(number, Index::Disk { footer, beside: false });
        return Ok(None);
    }
    if len > position.len && opening != Opening::ReadOnly {
        file.set_len(position.len).map_err(io("cut the torn tail"))?;
        recovered.cut_bytes += len - position.len;
    }
    if version_1 || header.is_err() {
        let _ = load(segments, number, None);
        return Ok(None);
    }
    let (index, holes) = rescan(&file, HEADER_BYTES as u64, position.len).map_err(io("read it"))?;
    say_holes(segments, path, &holes);
    segments.put(number, Index::Memory(RwLock::new(index)));
    Ok(Some(file).filter(|_| opening != Opening::ReadOnly))
}

pub(super) fn header_of(file: &File) -> Result<Header, String> {
    let mut bytes = [0; HEADER_BYTES];
    let mut filled = 0;
    while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, filled as u64) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.to_string()),
        }
    }
    Header::decode(&bytes[..filled])
}

/// Knows a file that is not written any more. One that cannot be read is said and left out: the others are served. How many
/// of the `frames_bytes` that it had are cut off.
fn load(segments: &Segments, number: u32, frames_bytes: Option<u64>) -> u64 {
    let dir = segments.dir();
    let path = path_of(dir, number);
    let footer = File::open(&path).map_err(Unreadable::Io).and_then(|file| Footer::load(&file, number));
    match footer {
        Ok(Some(footer)) => {
            segments.put(number, Index::Disk { footer, beside: false });
            return 0;
        }
        Ok(None) => {}
        Err(Unreadable::Damaged(problem)) => {
            tracing::warn!(file = %path.display(), problem, "an index is damaged");
            segments.count_damage(0, 1);
        }
        Err(Unreadable::Io(error)) => {
            tracing::error!(file = %path.display(), %error, "a segment file cannot be read: its packets are missing");
            return frames_bytes.unwrap_or(0);
        }
    }
    let len = path.metadata().map_or(0, |file| file.len());
    let header = File::open(&path).ok().and_then(|file| header_of(&file).ok());
    let cut_off =
        frames_bytes.zip(header).map_or(0, |(bytes, header)| (bytes + header.len()).saturating_sub(len));
    if cut_off > 0 {
        tracing::error!(file = %path.display(), bytes = cut_off, "a segment file is shorter than it was: the disk lost packets");
    }
    let beside = File::open(index_path_of(dir, number)).map_err(Unreadable::Io);
    if let Ok(Some(footer)) = beside.and_then(|file| Footer::load(&file, number)) {
        segments.put(number, Index::Disk { footer, beside: true });
        return cut_off;
    }
    match index_anew(segments, number, frames_bytes) {
        Ok(index) => segments.put(number, index),
        Err(error) => tracing::error!(%error, "a segment file cannot be indexed: its packets are missing"),
    }
    cut_off
}

/// The end of the chain of a file that was not finished, as far as its frames can be read.
fn chain_end(dir: &Path, number: u32) -> Chain {
    let end = || -> Option<Chain> {
        let file = File::open(path_of(dir, number)).ok()?;
        if let Ok(Some(footer)) = Footer::load(&file, number) {
            return Some(footer.chain);
        }
        let mut header = [0; HEADER_BYTES];
        file.read_exact_at(&mut header, 0).ok()?;
        let mut chain = Chain::begin(&header);
        let len = file.metadata().ok()?.len();
        walk(&file, HEADER_BYTES as u64, len, |_, bytes, _| chain = chain.then(bytes)).ok()?;
        Some(chain)
    };
    end().unwrap_or_default()
}

/// Index a file by its frames, of which it has `frames_bytes` where that is known, and put the index beside it.
pub(super) fn index_anew(
    segments: &Segments,
    number: u32,
    frames_bytes: Option<u64>,
) -> Result<Index, SegmentError> {
    let dir = segments.dir();
    let path = path_of(dir, number);
    let io = |doing| {
        let path = path.clone();
        move |source| SegmentError::Io { path, doing, source }
    };
    let file = File::open(&path).map_err(io("open it"))?;
    let len = file.metadata().map_err(io("read the length"))?.len();
    let from = match header_of(&file) {
        Ok(header) => header.len(),
        Err(problem) => {
            tracing::warn!(file = %path.display(), problem, "a segment file's header is damaged");
            // All that could be a frame; what is not is counted below.
            0
        }
    };
    let known_end = match Footer::load(&file, number) {
        Ok(Some(footer)) => Some(footer.frames_end),
        _ => frames_bytes.filter(|_| from > 0).map(|bytes| from.saturating_add(bytes)),
    };
    let to = known_end.map_or(len, |end| end.min(len));
    let (index, mut holes) = rescan(&file, from, to).map_err(io("read it"))?;
    if known_end.is_none() {
        // A footer that cannot be told from frames.
        holes.pop_if(|hole| hole.offset + hole.bytes == len);
    }
    say_holes(segments, &path, &holes);
    tracing::info!(file = %path.display(), frames = index.frames().len(), "indexed a segment file by its frames");
    let sealing =
        Sealing { number, before: Chain::default(), chain: Chain::default(), frames_end: to, index: &index };
    let written = write_beside(dir, number, &sealing.encode(0));
    segments.reopen_index(number);
    match written {
        Ok(Some(footer)) => return Ok(Index::Disk { footer, beside: true }),
        Ok(None) => {}
        Err(error) => {
            tracing::warn!(file = %path.display(), %error, "cannot write an index beside it; it stays in memory");
        }
    }
    Ok(Index::Memory(RwLock::new(index)))
}

fn write_beside(dir: &Path, number: u32, bytes: &[u8]) -> io::Result<Option<Footer>> {
    let path: PathBuf = index_path_of(dir, number);
    let new = path.with_extension("idx.new");
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&new)?;
    file.write_all_at(bytes, 0)?;
    file.sync_all()?;
    // Not synced: an index that is lost is made again.
    std::fs::rename(&new, &path)?;
    match Footer::load(&file, number) {
        Ok(footer) => Ok(footer),
        Err(Unreadable::Io(error)) => Err(error),
        Err(Unreadable::Damaged(problem)) => Err(io::Error::other(problem)),
    }
}

fn say_holes(segments: &Segments, path: &Path, holes: &[Hole]) {
    for Hole { offset, bytes } in holes {
        tracing::warn!(file = %path.display(), offset, bytes, "a stretch of a segment file is damaged: its packets are lost");
    }
    segments.count_damage(holes.len() as u64, 0);
}
