//! The index of a segment file in memory: while the file is being written, and until it has a footer.

use std::collections::HashMap;

use gnomon_clock::RawNs;
use gnomon_flow::{EpochHash, FlowId};

use super::find::{FlowSpan, Hits};

/// Marks the first entry of a flow.
const NONE: u32 = u32::MAX;

/// Where a frame lies, and when its packets were.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FrameRow {
    pub(super) offset: u64,
    pub(super) len: u32,
    /// Position of its epoch in [`MemoryIndex::epochs`], or in a footer's list.
    pub(super) epoch: u32,
    pub(super) first: RawNs,
    pub(super) last: RawNs,
}

/// That a frame has packets of a flow.
#[derive(Clone, Copy, Debug)]
struct Entry {
    flow: FlowId,
    frame: u32,
    /// The flow's entry before this one, or [`NONE`].
    before: u32,
}

/// Grows by a frame at a time; a flow costs no allocation of its own.
#[derive(Debug, Default)]
pub(super) struct MemoryIndex {
    epochs: Vec<EpochHash>,
    epoch_number: HashMap<EpochHash, u32>,
    frames: Vec<FrameRow>,
    entries: Vec<Entry>,
    newest: HashMap<(u32, FlowId), u32>,
}

impl MemoryIndex {
    /// A frame that lies behind all others.
    pub(super) fn add(
        &mut self,
        epoch: EpochHash,
        (offset, len): (u64, u32),
        (first, last): (RawNs, RawNs),
        flows: impl Iterator<Item = FlowId>,
    ) {
        let next = self.epochs.len() as u32;
        let number = *self.epoch_number.entry(epoch).or_insert(next);
        if number == next {
            self.epochs.push(epoch);
        }
        let frame = self.frames.len() as u32;
        self.frames.push(FrameRow { offset, len, epoch: number, first, last });
        for flow in flows {
            let entry = self.entries.len() as u32;
            let before = self.newest.insert((number, flow), entry).unwrap_or(NONE);
            // A list with a flow twice in it would make its frame be found twice.
            if self.entries.get(before as usize).is_some_and(|before| before.frame == frame) {
                self.newest.insert((number, flow), before);
                continue;
            }
            self.entries.push(Entry { flow, frame, before });
        }
    }

    /// Adds the frames with packets of `span`, in the order they lie in the file.
    pub(super) fn find(&self, at: usize, span: &FlowSpan, hits: &mut Hits) {
        let from = hits.rows.len();
        let newest =
            self.epoch_number.get(&span.epoch).and_then(|epoch| self.newest.get(&(*epoch, span.flow)));
        let mut next = newest.copied().unwrap_or(NONE);
        while let Some(entry) = self.entries.get(next as usize) {
            if let Some(row) = self.frames.get(entry.frame as usize).filter(|_| !hits.has(entry.frame)) {
                hits.add(at, span, entry.frame, *row);
            }
            next = entry.before;
        }
        if let Some(added) = hits.rows.get_mut(from..) {
            added.reverse();
        }
    }

    pub(super) fn frames(&self) -> &[FrameRow] {
        &self.frames
    }

    pub(super) fn epochs(&self) -> &[EpochHash] {
        &self.epochs
    }

    pub(super) fn entries_len(&self) -> usize {
        self.entries.len()
    }

    /// Epoch (its position in [`MemoryIndex::epochs`]), flow and frame of every entry, in the order they came.
    pub(super) fn entries(&self) -> impl Iterator<Item = (u32, FlowId, u32)> {
        self.entries
            .iter()
            .filter_map(|entry| Some((self.frames.get(entry.frame as usize)?.epoch, entry.flow, entry.frame)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_of_a_flow_come_in_their_order_and_each_once() {
        let mut index = MemoryIndex::default();
        for n in 0..4u64 {
            let epoch = EpochHash(n % 2);
            let flows = [7, 8 + n, 7].map(FlowId);
            index.add(epoch, (n * 100, 100), (RawNs(n), RawNs(n + 1)), flows.into_iter());
        }
        let offsets = |epoch, flow| -> Vec<u64> {
            let mut hits = Hits::new(false);
            index.find(0, &FlowSpan::all(EpochHash(epoch), FlowId(flow)), &mut hits);
            hits.rows.iter().map(|(_, row)| row.offset).collect()
        };
        assert_eq!(offsets(0, 7), [0, 200]);
        assert_eq!(offsets(1, 7), [100, 300]);
        assert_eq!(offsets(1, 9), [100]);
        assert_eq!(offsets(0, 9), [0u64; 0]);
        assert_eq!(offsets(2, 7), [0u64; 0]);
        assert_eq!(index.entries_len(), 8);
    }
}
