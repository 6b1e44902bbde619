//! What is looked for in the indexes.

use gnomon_clock::RawNs;
use gnomon_flow::{EpochHash, FlowId};

use super::memory_index::FrameRow;

/// A flow, and when its packets that are wanted were.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FlowSpan {
    pub epoch: EpochHash,
    pub flow: FlowId,
    /// Both included.
    pub first: RawNs,
    pub last: RawNs,
}

impl FlowSpan {
    /// All packets of a flow.
    pub fn all(epoch: EpochHash, flow: FlowId) -> FlowSpan {
        FlowSpan { epoch, flow, first: RawNs(0), last: RawNs(u64::MAX) }
    }
}

/// What is found in one file.
#[derive(Debug)]
pub(super) struct Hits {
    /// Each with the place of its span in what was looked for.
    pub(super) rows: Vec<(usize, FrameRow)>,
    /// A bit for each frame that was found, where each is wanted once and not once a flow.
    seen: Option<Vec<u64>>,
}

impl Hits {
    pub(super) fn new(once: bool) -> Hits {
        Hits { rows: Vec::new(), seen: once.then(Vec::new) }
    }

    /// Forget all, for the next file.
    pub(super) fn clear(&mut self) {
        self.rows.clear();
        self.seen.iter_mut().for_each(Vec::clear);
    }

    /// Whether the frame of this number need not be looked at.
    pub(super) fn has(&self, frame: u32) -> bool {
        let word =
            |seen: &Vec<u64>| seen.get(frame as usize / 64).is_some_and(|word| word >> (frame % 64) & 1 == 1);
        self.seen.as_ref().is_some_and(word)
    }

    /// Keeps the frame if its packets are of the span's time.
    pub(super) fn add(&mut self, at: usize, span: &FlowSpan, frame: u32, row: FrameRow) {
        if row.first > span.last || row.last < span.first {
            return;
        }
        if let Some(seen) = &mut self.seen {
            let word = frame as usize / 64;
            if seen.len() <= word {
                seen.resize(word + 1, 0);
            }
            seen[word] |= 1 << (frame % 64);
        }
        self.rows.push((at, row));
    }
}
