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
use super::rescan::{Hole, rescan};
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

impl Segments {
    /// Opens the files under `dir`. `durable` is what the database says of the newest (`None` for a new store), `known`
    /// the bytes of the frames of each file by the same.
    pub(in crate::store) fn open(
        dir: &Path,
        durable: Option<Position>,
        known: &BTreeMap<u32, u64>,
        bytes_max: u64,
    ) -> Result<(Arc<Segments>, SegmentWriter, Recovered), SegmentError> {
        let io = |doing| move |source| SegmentError::Io { path: dir.to_owned(), doing, source };
        std::fs::create_dir_all(dir).map_err(io("create the directory"))?;
        let segments = Arc::new(Segments::new(dir));
        let mut recovered = Recovered::default();
        let newest = durable.map_or(0, |p| p.number);
        for number in numbers_in(dir).map_err(io("list the directory"))? {
            if number > newest {
                // Begun, but nothing in it was ever acknowledged.
                let bytes = path_of(dir, number).metadata().map_or(0, |m| m.len());
                recovered.cut_bytes += bytes.saturating_sub(HEADER_BYTES as u64);
                segments.remove(number)?;
            } else if number < newest {
                load(&segments, number, known.get(&number).copied());
            }
        }
        let mut before = Chain::default();
        if let Some(position) = durable {
            before = position.chain;
            if let Some(file) = take_up(&segments, position, &mut recovered)? {
                let writer = SegmentWriter::new(&segments, file, position, bytes_max);
                return Ok((segments, writer, recovered));
            }
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
    recovered: &mut Recovered,
) -> Result<Option<File>, SegmentError> {
    let number = position.number;
    let path = &path_of(segments.dir(), number);
    let io = |doing| move |source| SegmentError::Io { path: path.clone(), doing, source };
    let file = match OpenOptions::new().read(true).write(true).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            recovered.lost_bytes = position.len.saturating_sub(HEADER_BYTES as u64);
            return Ok(None);
        }
        Err(error) => return Err(io("open it")(error)),
    };
    let len = file.metadata().map_err(io("read the length"))?.len();
    let header = header_of(&file);
    let version_1 = matches!(header, Ok(Header { before: None, .. }));
    if len < position.len {
        recovered.lost_bytes = position.len - len;
        load(segments, number, None);
        return Ok(None);
    }
    if let Ok(Some(footer)) = Footer::load(&file, number)
        && footer.frames_end == position.len
    {
        segments.put(number, Index::Disk { footer, beside: false });
        return Ok(None);
    }
    if len > position.len {
        file.set_len(position.len).map_err(io("cut the torn tail"))?;
        recovered.cut_bytes += len - position.len;
    }
    if version_1 || header.is_err() {
        load(segments, number, None);
        return Ok(None);
    }
    let (index, holes) = rescan(&file, HEADER_BYTES as u64, position.len).map_err(io("read it"))?;
    say_holes(segments, path, &holes);
    segments.put(number, Index::Memory(RwLock::new(index)));
    Ok(Some(file))
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

/// Knows a file that is not written any more. One that cannot be read is said and left out: the others are served.
fn load(segments: &Segments, number: u32, frames_bytes: Option<u64>) {
    let dir = segments.dir();
    let path = path_of(dir, number);
    let footer = File::open(&path).map_err(Unreadable::Io).and_then(|file| Footer::load(&file, number));
    match footer {
        Ok(Some(footer)) => return segments.put(number, Index::Disk { footer, beside: false }),
        Ok(None) => {}
        Err(Unreadable::Damaged(problem)) => {
            tracing::warn!(file = %path.display(), problem, "an index is damaged");
            segments.count_damage(0, 1);
        }
        Err(Unreadable::Io(error)) => {
            tracing::error!(file = %path.display(), %error, "a segment file cannot be read: its packets are missing");
            return;
        }
    }
    let beside = File::open(index_path_of(dir, number)).map_err(Unreadable::Io);
    if let Ok(Some(footer)) = beside.and_then(|file| Footer::load(&file, number)) {
        return segments.put(number, Index::Disk { footer, beside: true });
    }
    match index_anew(segments, number, frames_bytes) {
        Ok(index) => segments.put(number, index),
        Err(error) => tracing::error!(%error, "a segment file cannot be indexed: its packets are missing"),
    }
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
