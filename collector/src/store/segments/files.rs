//! All segment files as readers see them: which there are, the index of each, and their bytes.

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use gnomon_clock::RawNs;
use gnomon_flow::EpochHash;

use super::find::{FlowSpan, Hits};
use super::footer::Footer;
use super::frame::{CheckedFrame, FRAME_BYTES_MAX};
use super::memory_index::{FrameRow, MemoryIndex};
use super::pages::Unreadable;
use super::{SegmentError, SliceLocation, index_path_of, numbers_in, path_of, recovery};

/// Files kept open for reading.
const OPEN_FILES_MAX: usize = 128;

/// How the packets of flows in one file are found.
#[derive(Debug)]
pub(super) enum Index {
    Memory(RwLock<MemoryIndex>),
    /// In the file itself or (`beside`) in one beside it.
    Disk {
        footer: Footer,
        beside: bool,
    },
}

#[derive(Debug)]
struct Segment {
    index: RwLock<Arc<Index>>,
}

impl Segment {
    fn index(&self) -> Arc<Index> {
        Arc::clone(&self.index.read().unwrap_or_else(PoisonError::into_inner))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Frames,
    IndexBeside,
}

/// Shared by all queries and the writer.
#[derive(Debug)]
pub(in crate::store) struct Segments {
    dir: PathBuf,
    files: RwLock<BTreeMap<u32, Arc<Segment>>>,
    handles: Mutex<VecDeque<(u32, Part, Arc<File>)>>,
    /// Held while an index is made anew.
    mending: Mutex<()>,
    damaged_blocks: AtomicU64,
    damaged_indexes: AtomicU64,
}

impl Segments {
    pub(super) fn new(dir: &Path) -> Segments {
        Segments {
            dir: dir.to_owned(),
            files: RwLock::default(),
            handles: Mutex::default(),
            mending: Mutex::default(),
            damaged_blocks: AtomicU64::new(0),
            damaged_indexes: AtomicU64::new(0),
        }
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Blocks that were found damaged when they were read.
    pub(in crate::store) fn damaged_blocks(&self) -> u64 {
        self.damaged_blocks.load(Ordering::Relaxed)
    }

    /// Indexes that were found damaged and made anew.
    pub(in crate::store) fn damaged_indexes(&self) -> u64 {
        self.damaged_indexes.load(Ordering::Relaxed)
    }

    pub(super) fn count_damage(&self, blocks: u64, indexes: u64) {
        self.damaged_blocks.fetch_add(blocks, Ordering::Relaxed);
        self.damaged_indexes.fetch_add(indexes, Ordering::Relaxed);
    }

    /// Bytes of all indexes on disk.
    pub(in crate::store) fn index_bytes(&self) -> u64 {
        let files = self.files.read().unwrap_or_else(PoisonError::into_inner);
        let bytes = files.values().map(|segment| match &*segment.index() {
            Index::Memory(_) => 0,
            Index::Disk { footer, .. } => footer.len,
        });
        bytes.sum()
    }

    /// A file is there from now on.
    pub(super) fn put(&self, number: u32, index: Index) {
        let segment = Arc::new(Segment { index: RwLock::new(Arc::new(index)) });
        self.files.write().unwrap_or_else(PoisonError::into_inner).insert(number, segment);
    }

    /// A file has another index, unless it was taken away meanwhile.
    pub(super) fn replace(&self, number: u32, index: Index) {
        let files = self.files.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(segment) = files.get(&number) {
            *segment.index.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(index);
        }
    }

    pub(super) fn index(&self, number: u32) -> Option<Arc<Index>> {
        let files = self.files.read().unwrap_or_else(PoisonError::into_inner);
        files.get(&number).map(|segment| segment.index())
    }

    /// The files there are, rising.
    pub(in crate::store) fn numbers(&self) -> Vec<u32> {
        self.files.read().unwrap_or_else(PoisonError::into_inner).keys().copied().collect()
    }

    /// Takes a file away, with its index.
    pub(in crate::store) fn remove(&self, number: u32) -> Result<(), SegmentError> {
        self.files.write().unwrap_or_else(PoisonError::into_inner).remove(&number);
        self.handles.lock().unwrap_or_else(PoisonError::into_inner).retain(|(n, ..)| *n != number);
        for path in [path_of(&self.dir, number), index_path_of(&self.dir, number)] {
            match std::fs::remove_file(&path) {
                Err(source) if source.kind() != io::ErrorKind::NotFound => {
                    return Err(SegmentError::Io { path, doing: "remove it", source });
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Links the files before `number`, with the indexes beside them, into `to`, which is on the same file system.
    pub(in crate::store) fn link(&self, number: u32, to: &Path) -> Result<(), SegmentError> {
        let io = |path: &Path, doing, source| SegmentError::Io { path: path.to_owned(), doing, source };
        let numbers = numbers_in(&self.dir).map_err(|error| io(&self.dir, "list the directory", error))?;
        for number in numbers.into_iter().filter(|n| *n < number) {
            let path = path_of(&self.dir, number);
            std::fs::hard_link(&path, path_of(to, number)).map_err(|error| io(&path, "link it", error))?;
            let beside = index_path_of(&self.dir, number);
            match std::fs::hard_link(&beside, index_path_of(to, number)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(io(&beside, "link it", error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Tells the blocks with packets of each of `wanted`, which rise by epoch and flow, each named by its place in
    /// `wanted`. Blocks of a flow come in the order they were written in; with `once` a block comes for one of its flows.
    pub(in crate::store) fn find(
        &self,
        wanted: &[FlowSpan],
        once: bool,
        mut found: impl FnMut(usize, SliceLocation),
    ) -> Result<(), SegmentError> {
        let files: Vec<(u32, Arc<Segment>)> = {
            let files = self.files.read().unwrap_or_else(PoisonError::into_inner);
            files.iter().map(|(number, segment)| (*number, Arc::clone(segment))).collect()
        };
        let mut hits = Hits::new(once);
        for (number, segment) in files {
            hits.clear();
            let index = segment.index();
            match self.find_in(number, &index, wanted, &mut hits) {
                Ok(()) => {}
                Err(SegmentError::Gone { .. }) => continue,
                Err(SegmentError::DamagedIndex { path, problem }) => {
                    hits.clear();
                    let mending = self.mending.lock().unwrap_or_else(PoisonError::into_inner);
                    // Another search may have been here first.
                    if Arc::ptr_eq(&segment.index(), &index) {
                        tracing::warn!(file = %path.display(), problem, "an index is damaged and made anew from the frames");
                        self.count_damage(0, 1);
                        let anew = recovery::index_anew(self, number, None)?;
                        self.replace(number, anew);
                    }
                    drop(mending);
                    self.find_in(number, &segment.index(), wanted, &mut hits)?;
                }
                Err(error) => return Err(error),
            }
            for (at, row) in &hits.rows {
                let FrameRow { offset, len, first, last, .. } = *row;
                found(*at, SliceLocation { segment: number, offset, len, first, last });
            }
        }
        Ok(())
    }

    fn find_in(
        &self,
        number: u32,
        index: &Index,
        wanted: &[FlowSpan],
        hits: &mut Hits,
    ) -> Result<(), SegmentError> {
        match index {
            Index::Memory(index) => {
                for (at, span) in wanted.iter().enumerate() {
                    // Each by itself: the writer must not wait for a search.
                    index.read().unwrap_or_else(PoisonError::into_inner).find(at, span, hits);
                }
                Ok(())
            }
            Index::Disk { footer, beside } => {
                if !footer.may_have(wanted) {
                    return Ok(());
                }
                let part = if *beside { Part::IndexBeside } else { Part::Frames };
                let file = self.handle(number, part)?;
                let path = || match part {
                    Part::Frames => path_of(&self.dir, number),
                    Part::IndexBeside => index_path_of(&self.dir, number),
                };
                footer.find(&file, wanted, hits).map_err(|error| match error {
                    Unreadable::Io(source) => {
                        SegmentError::Io { path: path(), doing: "read its index", source }
                    }
                    Unreadable::Damaged(problem) => SegmentError::DamagedIndex { path: path(), problem },
                })
            }
        }
    }

    /// The first RAW time of each epoch of the oldest file that has any packets.
    /// Whether files were deleted, for room or age.
    pub(in crate::store) fn has_deleted(&self) -> bool {
        let files = self.files.read().unwrap_or_else(PoisonError::into_inner);
        files.keys().next().is_none_or(|first| *first > 1)
    }

    pub(in crate::store) fn oldest(&self) -> Vec<(EpochHash, RawNs)> {
        let files = self.files.read().unwrap_or_else(PoisonError::into_inner);
        let of = |segment: &Arc<Segment>| match &*segment.index() {
            Index::Memory(index) => {
                let index = index.read().unwrap_or_else(PoisonError::into_inner);
                let mut firsts: BTreeMap<u32, RawNs> = BTreeMap::new();
                for frame in index.frames() {
                    let first = firsts.entry(frame.epoch).or_insert(frame.first);
                    *first = frame.first.min(*first);
                }
                let epochs = index.epochs();
                firsts.iter().filter_map(|(n, first)| Some((*epochs.get(*n as usize)?, *first))).collect()
            }
            Index::Disk { footer, .. } => footer.epochs().collect(),
        };
        files.values().map(of).find(|epochs: &Vec<_>| !epochs.is_empty()).unwrap_or_default()
    }

    fn handle(&self, number: u32, part: Part) -> Result<Arc<File>, SegmentError> {
        let mut handles = self.handles.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((.., file)) = handles.iter().find(|(n, p, _)| *n == number && *p == part) {
            return Ok(Arc::clone(file));
        }
        let path = match part {
            Part::Frames => path_of(&self.dir, number),
            Part::IndexBeside => index_path_of(&self.dir, number),
        };
        let file = match File::open(&path) {
            Ok(file) => Arc::new(file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(SegmentError::Gone { path }),
            Err(source) => return Err(SegmentError::Io { path, doing: "open it", source }),
        };
        handles.push_back((number, part, Arc::clone(&file)));
        if handles.len() > OPEN_FILES_MAX {
            handles.pop_front();
        }
        Ok(file)
    }

    /// Forget that the index beside `number` is open: it was made anew.
    pub(super) fn reopen_index(&self, number: u32) {
        let mut handles = self.handles.lock().unwrap_or_else(PoisonError::into_inner);
        handles.retain(|(n, part, _)| (*n, *part) != (number, Part::IndexBeside));
    }

    pub(in crate::store) fn block_reader(&self) -> Result<BlockReader<'_>, SegmentError> {
        let decompressor = zstd::bulk::Decompressor::new().map_err(|source| SegmentError::Io {
            path: self.dir.clone(),
            doing: "prepare to decompress",
            source,
        })?;
        Ok(BlockReader { segments: self, frame: Vec::new(), decompressor })
    }

    /// The bytes of the frame at `at` in `buffer`, checked.
    fn frame<'b>(
        &self,
        at: &SliceLocation,
        buffer: &'b mut Vec<u8>,
    ) -> Result<CheckedFrame<'b>, SegmentError> {
        let file = self.handle(at.segment, Part::Frames)?;
        let path = || path_of(&self.dir, at.segment);
        let damaged = |problem: String| SegmentError::Damaged { path: path(), offset: at.offset, problem };
        if at.len as usize > FRAME_BYTES_MAX {
            return Err(damaged(format!("it claims {} bytes, the limit is {FRAME_BYTES_MAX}", at.len)));
        }
        buffer.resize(at.len as usize, 0);
        match file.read_exact_at(buffer, at.offset) {
            Ok(()) => CheckedFrame::check(buffer).map_err(damaged),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                Err(damaged("the file ends inside it".to_owned()))
            }
            Err(source) => Err(SegmentError::Io { path: path(), doing: "read", source }),
        }
    }

    /// The block at `at` as it was sent, checked and not decompressed.
    pub(in crate::store) fn compressed_block<'b>(
        &self,
        at: &SliceLocation,
        buffer: &'b mut Vec<u8>,
    ) -> Result<&'b [u8], SegmentError> {
        Ok(self.frame(at, buffer)?.block)
    }

    /// The name of the interface that the block at `at` was captured on.
    pub(in crate::store) fn interface(&self, at: &SliceLocation) -> Result<String, SegmentError> {
        let mut buffer = Vec::new();
        let frame = self.counted(self.frame(at, &mut buffer))?;
        Ok(String::from_utf8_lossy(frame.interface).into_owned())
    }

    fn counted<T>(&self, read: Result<T, SegmentError>) -> Result<T, SegmentError> {
        if matches!(read, Err(SegmentError::Damaged { .. })) {
            self.count_damage(1, 0);
        }
        read
    }
}

/// Reads blocks one after another without making buffers anew.
pub struct BlockReader<'a> {
    segments: &'a Segments,
    frame: Vec<u8>,
    decompressor: zstd::bulk::Decompressor<'static>,
}

impl BlockReader<'_> {
    /// The block at `at`, checked and decompressed into `block`: the layout of `gnomon_flow::slice`.
    ///
    /// # Errors
    /// [`SegmentError::Gone`] when it was given up for space meanwhile, [`SegmentError::Damaged`] when its bytes rotted.
    pub fn read(&mut self, at: &SliceLocation, block: &mut Vec<u8>) -> Result<(), SegmentError> {
        let read = self.segments.frame(at, &mut self.frame).and_then(|frame| {
            frame.decompress(&mut self.decompressor, block).map_err(|problem| SegmentError::Damaged {
                path: path_of(&self.segments.dir, at.segment),
                offset: at.offset,
                problem,
            })
        });
        self.segments.counted(read)
    }
}
