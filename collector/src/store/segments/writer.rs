//! The one writer of segment files.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, PoisonError, RwLock};

use gnomon_clock::RawNs;
use gnomon_flow::{EpochHash, FlowId};

use super::chain::Chain;
use super::files::{Index, Segments};
use super::frame::Frame;
use super::header::HEADER_BYTES;
use super::memory_index::MemoryIndex;
use super::recovery::create;
use super::sealer::Sealer;
use super::{Position, SegmentError, SliceLocation, path_of};

/// A file is full with so many frames or entries of its index too, which are in memory until then: at most about 64 bytes
/// an entry, 40 a frame.
const FRAMES_MAX: usize = 1 << 20;
const ENTRIES_MAX: usize = 2 << 20;
/// A file shorter than this is taken up again at the next start instead of being sealed at a stop.
const SEALED_AT_STOP_BYTES_MIN: u64 = 16 << 20;

/// A frame that was appended but not committed.
#[derive(Debug)]
struct PendingFrame {
    epoch: EpochHash,
    place: (u64, u32),
    times: (RawNs, RawNs),
    /// How many of [`Pending::flows`] are its.
    flows: usize,
}

/// What was appended since the last commit.
#[derive(Debug)]
struct Pending {
    len: u64,
    chain: Chain,
    frames: Vec<PendingFrame>,
    flows: Vec<FlowId>,
}

impl Pending {
    fn none(at: Position) -> Pending {
        Pending { len: 0, chain: at.chain, frames: Vec::new(), flows: Vec::new() }
    }
}

#[derive(Debug)]
pub(in crate::store) struct SegmentWriter {
    segments: Arc<Segments>,
    index: Arc<Index>,
    file: File,
    position: Position,
    pending: Pending,
    bytes_max: u64,
    buffer: Vec<u8>,
    sealer: Sealer,
    /// A sync failed: what is on the disk behind the position is not known, and the kernel may hold it to be written.
    suspect: bool,
}

impl SegmentWriter {
    /// Goes on in `file` at `position`.
    pub(super) fn new(
        segments: &Arc<Segments>,
        file: File,
        position: Position,
        bytes_max: u64,
    ) -> SegmentWriter {
        SegmentWriter {
            segments: Arc::clone(segments),
            index: growing(segments, position.number),
            file,
            position,
            pending: Pending::none(position),
            bytes_max,
            buffer: Vec::new(),
            sealer: Sealer::new(segments),
            suspect: false,
        }
    }

    /// Begin the next file if this one is full. Only between groups: the position is durable.
    pub(in crate::store) fn rotate_if_full(&mut self) -> Result<bool, SegmentError> {
        let (frames, entries) = self.with_index(|index| (index.frames().len(), index.entries_len()));
        // Where a sync failed, another place on the disk may do better.
        let full = self.position.len >= self.bytes_max
            || frames >= FRAMES_MAX
            || entries >= ENTRIES_MAX
            || self.suspect;
        if !full || self.position.len <= HEADER_BYTES as u64 {
            return Ok(false);
        }
        self.rotate()?;
        Ok(true)
    }

    /// So that little has to be copied of the file being written: begin the next one if it is large, and wait until all
    /// before it are sealed. Only between groups. How far the file being written goes.
    pub(in crate::store) fn finish_large(&mut self) -> Result<Position, SegmentError> {
        if self.position.len >= SEALED_AT_STOP_BYTES_MIN {
            self.rotate()?;
        }
        self.sealer.join();
        Ok(self.position)
    }

    fn rotate(&mut self) -> Result<(), SegmentError> {
        let number = self.position.number.saturating_add(1);
        let (file, position) = create(self.segments.dir(), number, self.position.chain)?;
        self.sealer.seal(self.position);
        self.file = file;
        self.position = position;
        self.suspect = false;
        self.pending = Pending::none(position);
        self.index = growing(&self.segments, number);
        Ok(())
    }

    /// Append a frame. It is not durable before [`SegmentWriter::sync`], and is undone by
    /// [`SegmentWriter::roll_back`].
    pub(in crate::store) fn append(&mut self, frame: &Frame<'_>) -> Result<SliceLocation, SegmentError> {
        frame.encode(&mut self.buffer);
        let offset = self.position.len + self.pending.len;
        self.file.write_all_at(&self.buffer, offset).map_err(|source| self.io("write", source))?;
        let len = self.buffer.len() as u32;
        self.pending.len += u64::from(len);
        self.pending.chain = self.pending.chain.then(&self.buffer);
        self.pending.flows.extend_from_slice(frame.flows);
        self.pending.frames.push(PendingFrame {
            epoch: frame.epoch,
            place: (offset, len),
            times: (frame.first, frame.last),
            flows: frame.flows.len(),
        });
        let Frame { first, last, .. } = *frame;
        Ok(SliceLocation { segment: self.position.number, offset, len, first, last })
    }

    /// Make what was appended durable, and say how far the file goes then. [`SegmentWriter::commit`] takes it for
    /// granted; until then it can be rolled back.
    ///
    /// # Errors
    /// What the disk said. No later sync of this file says anything of what was appended: it has to be appended again,
    /// which the next [`SegmentWriter::rotate_if_full`] makes happen in another file.
    pub(in crate::store) fn sync(&mut self) -> Result<Position, SegmentError> {
        if self.pending.len > 0
            && let Err(source) = self.file.sync_data()
        {
            self.suspect = true;
            return Err(self.io("sync", source));
        }
        Ok(Position { len: self.position.len + self.pending.len, chain: self.pending.chain, ..self.position })
    }

    /// What was appended is acknowledged from now on, and can be found.
    pub(in crate::store) fn commit(&mut self) {
        self.position.len += self.pending.len;
        self.position.chain = self.pending.chain;
        let pending = std::mem::replace(&mut self.pending, Pending::none(self.position));
        if let Index::Memory(index) = &*self.index
            && !pending.frames.is_empty()
        {
            let mut index = index.write().unwrap_or_else(PoisonError::into_inner);
            let mut flows = pending.flows.into_iter();
            for frame in pending.frames {
                index.add(frame.epoch, frame.place, frame.times, flows.by_ref().take(frame.flows));
            }
        }
    }

    /// Forget what was appended since the last commit.
    pub(in crate::store) fn roll_back(&mut self) {
        let pending = std::mem::replace(&mut self.pending, Pending::none(self.position));
        if pending.len > 0
            && let Err(error) = self.file.set_len(self.position.len)
        {
            // The next append overwrites it, and opening cuts it.
            tracing::warn!(segment = self.position.number, %error, "cannot cut an unfinished write");
        }
    }

    pub(in crate::store) fn position(&self) -> Position {
        self.position
    }

    /// Whether there is anything to sync.
    pub(in crate::store) fn is_dirty(&self) -> bool {
        self.pending.len > 0
    }

    /// Leave nothing to be done at the next start.
    pub(in crate::store) fn close(mut self) {
        if self.position.len >= SEALED_AT_STOP_BYTES_MIN {
            self.sealer.seal(self.position);
        }
        self.sealer.join();
    }

    fn with_index<T: Default>(&self, ask: impl FnOnce(&MemoryIndex) -> T) -> T {
        match &*self.index {
            Index::Memory(index) => ask(&index.read().unwrap_or_else(PoisonError::into_inner)),
            Index::Disk { .. } => T::default(),
        }
    }

    fn io(&self, doing: &'static str, source: io::Error) -> SegmentError {
        SegmentError::Io { path: path_of(self.segments.dir(), self.position.number), doing, source }
    }
}

/// The index of the file being written, made if there is none yet.
fn growing(segments: &Segments, number: u32) -> Arc<Index> {
    if segments.index(number).is_none() {
        segments.put(number, Index::Memory(RwLock::default()));
    }
    segments.index(number).unwrap_or_else(|| Arc::new(Index::Memory(RwLock::default())))
}
