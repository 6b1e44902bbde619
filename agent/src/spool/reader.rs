//! Entries in order, from the last acknowledgement on: epoch after epoch, by number within each.

use std::fs::File;
use std::io;
use std::sync::Arc;

use gnomon_clock::EpochId;

use super::Shared;
use super::epoch::Epoch;
use super::index::Candidate;
use super::memory::Key;
use super::segment::{EntryHeader, Lane, SegmentFile, Step};

/// An entry as it is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpoolEntry {
    /// As they are on the wire.
    pub epoch: EpochId,
    pub seq: u64,
    pub lane: Lane,
    /// Records or packets.
    pub items: u32,
    /// CRC-32C of the payload.
    pub crc: u32,
    pub payload: Vec<u8>,
}

/// Reads the spool. There is one, owned by the uplink.
pub struct Reader {
    shared: Arc<Shared>,
    /// The files the last entries came from, one a lane.
    open: [Option<(u64, SegmentFile)>; 2],
}

impl Reader {
    pub(super) fn new(shared: Arc<Shared>) -> Reader {
        Reader { shared, open: [None, None] }
    }

    /// The next entry, or `None` when all were handed out, or the next one is on its way to the disk. Damaged entries are
    /// passed, counted and logged. Reads from the disk; what a failing or stalling disk has not taken, from memory.
    pub fn next_entry(&mut self) -> Option<SpoolEntry> {
        loop {
            let candidates = self.shared.index().candidates();
            // A file may be damaged, gone or finished where it stands: then look again.
            let mut heads: Vec<(Candidate, EntryHeader)> = Vec::with_capacity(2);
            let mut moved = false;
            for at in candidates.on_disk.iter().flatten() {
                match self.head(at) {
                    Some(header) => heads.push((*at, header)),
                    None => moved = true,
                }
            }
            if moved {
                continue;
            }
            let first = heads.into_iter().min_by_key(|(_, header)| header.seq);
            let before = |(_, (_, seq)): &(Lane, Key)| first.is_none_or(|(_, header)| *seq < header.seq);
            if let Some((lane, key)) = candidates.in_memory.filter(before) {
                let now = self.shared.clock.monotonic();
                let mut index = self.shared.index();
                if index.memory.contains(lane, key) {
                    if !index.reads_memory(now) {
                        return None;
                    }
                    let epoch = index.epochs[key.0];
                    let (header, payload) = index.hand_out_of_memory(lane, key)?;
                    return Some(entry(&epoch, &header, payload.to_vec()));
                }
                // Meanwhile it was written, or given up.
                continue;
            }
            let (at, header) = first?;
            if let Some(entry) = self.take(&at, &header) {
                return Some(entry);
            }
        }
    }

    /// Starts over from the last acknowledgement: for a new session.
    pub fn rewind(&mut self) {
        self.shared.index().rewind();
        self.reopen();
    }

    /// Opens its files anew: they may be others.
    pub(crate) fn reopen(&mut self) {
        self.open = [None, None];
    }

    fn file(&mut self, at: &Candidate) -> io::Result<&SegmentFile> {
        let slot = &mut self.open[usize::from(at.lane == Lane::Slices)];
        if slot.as_ref().is_none_or(|(number, _)| *number != at.number) {
            let file = File::open(self.shared.path(at.lane, at.number))?;
            *slot = Some((at.number, SegmentFile { file, format: at.format }));
        }
        let (_, file) = slot.as_ref().ok_or(io::ErrorKind::NotFound)?;
        Ok(file)
    }

    /// The header of the entry at `at`, or `None` after the index was brought up to date.
    fn head(&mut self, at: &Candidate) -> Option<EntryHeader> {
        match self.file(at).and_then(|file| file.step(at.at, at.end)) {
            Ok(Step::Entry(header)) => Some(header),
            Ok(Step::Damaged { resume }) => {
                self.pass(at, resume, 0, "a damaged entry header");
                None
            }
            Ok(Step::End) => {
                self.pass(at, at.end, 0, "an end before the end");
                None
            }
            Err(error) => {
                self.pass(at, at.end, 0, &error.to_string());
                None
            }
        }
    }

    fn take(&mut self, at: &Candidate, header: &EntryHeader) -> Option<SpoolEntry> {
        let epoch = self.shared.index().epochs[at.epoch];
        if header.seq <= epoch.acked {
            self.shared.index().pass_acked(at, header);
            return None;
        }
        match self.file(at).and_then(|file| file.payload(at.at, header)) {
            Ok(Some(payload)) => {
                let handed = self.shared.index().hand_out(at, header);
                handed.then(|| entry(&epoch, header, payload))
            }
            Ok(None) => {
                self.pass(at, at.at + header.entry_bytes(), header.items, "a damaged payload");
                None
            }
            Err(error) => {
                self.pass(at, at.at + header.entry_bytes(), header.items, &error.to_string());
                None
            }
        }
    }

    /// Passes what cannot be read. What was sacrificed meanwhile is neither damage nor news.
    fn pass(&mut self, at: &Candidate, to: u64, items: u32, problem: &str) {
        let mut index = self.shared.index();
        if !index.segments.contains_key(&at.number) {
            return;
        }
        index.pass_damage(at, to, items);
        drop(index);
        let path = self.shared.path(at.lane, at.number);
        tracing::error!(path = %path.display(), from = at.at, to, "skipping part of the spool: {problem}");
        self.shared.dispose();
    }
}

fn entry(epoch: &Epoch, header: &EntryHeader, payload: Vec<u8>) -> SpoolEntry {
    SpoolEntry {
        epoch: epoch.wire_id,
        seq: epoch.wire_seq(header.seq),
        lane: header.lane,
        items: header.items,
        crc: header.payload_crc,
        payload,
    }
}
