//! The index of a file from its frames alone.
//!
//! Every frame is checked. Behind one that is damaged the next is looked for byte by byte: a place counts as a frame if its
//! fields can be true and its checksum is right.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::frame::{CheckedFrame, FRAME_BYTES_MAX, FRAME_HEADER_BYTES, Head};
use super::memory_index::MemoryIndex;

/// Bytes read at once.
const WINDOW_BYTES: usize = 4 << 20;

/// Bytes that are no frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) struct Hole {
    pub(in crate::store) offset: u64,
    pub(in crate::store) bytes: u64,
}

/// Visits every good frame of `from..to` in order, and returns what lies between them.
pub(super) fn walk(
    file: &File,
    from: u64,
    to: u64,
    mut visit: impl FnMut(u64, &[u8], &CheckedFrame<'_>),
) -> io::Result<Vec<Hole>> {
    let mut window = Window { file, start: from, bytes: Vec::new(), end: to };
    let mut holes: Vec<Hole> = Vec::new();
    let mut at = from;
    while at < to {
        let head =
            window.get(at, FRAME_HEADER_BYTES)?.and_then(|bytes| bytes.first_chunk()).map(Head::decode);
        let mut step = 1;
        if let Some(head) = head.filter(Head::is_plausible)
            && let Some(bytes) = window.get(at, head.len)?
            && let Ok(frame) = CheckedFrame::check(bytes)
        {
            visit(at, bytes, &frame);
            step = head.len as u64;
        } else {
            match holes.last_mut() {
                Some(hole) if hole.offset + hole.bytes == at => hole.bytes += 1,
                _ => holes.push(Hole { offset: at, bytes: 1 }),
            }
        }
        at += step;
    }
    Ok(holes)
}

/// The index of the frames in `from..to`, and what is damaged among them.
pub(super) fn rescan(file: &File, from: u64, to: u64) -> io::Result<(MemoryIndex, Vec<Hole>)> {
    let mut index = MemoryIndex::default();
    let holes = walk(file, from, to, |offset, bytes, frame| {
        let head = frame.head;
        index.add(head.epoch, (offset, bytes.len() as u32), (head.first, head.last), frame.flows());
    })?;
    Ok((index, holes))
}

/// A stretch of the file in memory.
struct Window<'a> {
    file: &'a File,
    start: u64,
    bytes: Vec<u8>,
    end: u64,
}

impl Window<'_> {
    /// `len` bytes at `offset`; `None` when they reach beyond the end.
    fn get(&mut self, offset: u64, len: usize) -> io::Result<Option<&[u8]>> {
        debug_assert!(len <= FRAME_BYTES_MAX);
        let left = self.end.saturating_sub(offset);
        if len as u64 > left {
            return Ok(None);
        }
        let inside = offset.checked_sub(self.start).and_then(|at| usize::try_from(at).ok());
        let inside = inside.filter(|at| at.saturating_add(len) <= self.bytes.len());
        let at = match inside {
            Some(at) => at,
            None => {
                let want = len.max(WINDOW_BYTES).min(usize::try_from(left).unwrap_or(usize::MAX));
                self.bytes.resize(want, 0);
                self.start = offset;
                if let Err(error) = self.file.read_exact_at(&mut self.bytes, offset) {
                    self.bytes.clear();
                    return Err(error);
                }
                0
            }
        };
        Ok(self.bytes.get(at..at + len))
    }
}
