//! What the spool holds: every segment, how far each was read and acknowledged, what is under way, what is in memory.

mod acks;
mod sacrifice;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use gnomon_clock::{EpochId, MonoNs, RawNs};

use super::epoch::Epoch;
use super::memory::{Key, Memory};
use super::segment::{EntryHeader, FILE_HEADER_BYTES, Format, Lane, Totals};

/// A write that takes longer is a disk that stalls: what waits for it is sent from memory.
const STALL_NS: u64 = 250_000_000;

/// What was given up, by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sacrificed {
    pub entries: u64,
    /// Flow records or packets.
    pub items: u64,
}

impl Sacrificed {
    pub(super) fn add(&mut self, entries: u64, items: u64) {
        self.entries += entries;
        self.items += items;
    }
}

#[derive(Clone, Debug)]
pub(super) struct Segment {
    pub(super) lane: Lane,
    pub(super) epoch: usize,
    pub(super) format: Format,
    /// Size of the file.
    pub(super) file_bytes: u64,
    /// Where its entries end.
    pub(super) end: u64,
    pub(super) totals: Totals,
    pub(super) sealed: bool,
    pub(super) read_offset: u64,
    /// Everything before it is acknowledged or lost.
    pub(super) acked_offset: u64,
    acked: Sacrificed,
    lost: Sacrificed,
    /// Damage before it is in `lost` already.
    lost_offset: u64,
    /// When the newest acknowledged entry was written.
    acked_written: RawNs,
    /// The highest number that the reader took out or passed.
    last_read: u64,
}

impl Segment {
    pub(super) fn new(lane: Lane, epoch: usize, format: Format, totals: Totals, end: u64) -> Segment {
        Segment {
            lane,
            epoch,
            format,
            file_bytes: end,
            end,
            totals,
            sealed: false,
            read_offset: FILE_HEADER_BYTES,
            acked_offset: FILE_HEADER_BYTES,
            acked: Sacrificed::default(),
            lost: Sacrificed::default(),
            lost_offset: 0,
            acked_written: totals.first_written,
            last_read: 0,
        }
    }

    /// Entries and items neither acknowledged nor lost.
    pub(super) fn pending(&self) -> Sacrificed {
        let left = |all: u64, acked: u64, lost: u64| all.saturating_sub(acked).saturating_sub(lost);
        Sacrificed {
            entries: left(self.totals.entries, self.acked.entries, self.lost.entries),
            items: left(self.totals.items, self.acked.items, self.lost.items),
        }
    }

    fn acknowledge(&mut self, end: u64, items: u32, written: RawNs) {
        // A rewound reader may meet what was acknowledged already.
        if end > self.acked_offset {
            self.acked.add(1, u64::from(items));
            self.acked_offset = end;
            self.acked_written = written;
        }
    }

    /// Nothing in it is acknowledged any more.
    fn forget_acks(&mut self) {
        self.acked = Sacrificed::default();
        self.acked_written = self.totals.first_written;
        (self.read_offset, self.acked_offset) = (FILE_HEADER_BYTES, FILE_HEADER_BYTES);
        self.last_read = 0;
    }
}

/// An entry the reader handed out and nobody acknowledged yet.
#[derive(Clone, Copy, Debug)]
struct InFlight {
    /// Where it is on the disk, if it is: the segment and the entry's end.
    on_disk: Option<(u64, u64)>,
    lane: Lane,
    items: u32,
    written: RawNs,
}

/// What an acknowledgement was about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Acked {
    /// Nothing new.
    Known,
    InFlight,
    /// Entries that the reader never handed out, or not since it started over.
    BeyondReader,
}

/// Where the next entry of a lane is to be found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Candidate {
    pub(super) number: u64,
    pub(super) lane: Lane,
    pub(super) epoch: usize,
    pub(super) format: Format,
    pub(super) at: u64,
    pub(super) end: u64,
}

/// Where the next entry may be: at most one place a lane on the disk, and one in memory, all of one epoch.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Candidates {
    pub(super) on_disk: [Option<Candidate>; 2],
    pub(super) in_memory: Option<(Lane, Key)>,
}

/// A file that nobody needs any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Finished {
    pub(super) lane: Lane,
    pub(super) number: u64,
    pub(super) file_bytes: u64,
    /// Something in it could not be read: it is set aside, not deleted.
    pub(super) damaged: bool,
}

/// A file that cannot be read, kept until its room is needed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SetAside {
    pub(super) name: String,
    pub(super) bytes: u64,
}

#[derive(Debug, Default)]
pub(super) struct Index {
    pub(super) segments: BTreeMap<u64, Segment>,
    /// In the order in which they were opened; never shrinks.
    pub(super) epochs: Vec<Epoch>,
    pub(super) memory: Memory,
    /// Segments with something to read, in the order to read them: by epoch, lane, first sequence number.
    unread: BTreeSet<(usize, Lane, u64, u64)>,
    in_flight: BTreeMap<Key, InFlight>,
    pub(super) next_number: u64,
    /// Bytes of all files.
    pub(super) bytes: u64,
    pub(super) set_aside: VecDeque<SetAside>,
    /// Files in the directory that are none of the spool's.
    pub(super) strangers: u64,
    pub(super) sacrificed: [Sacrificed; 2],
    pub(super) damaged: Sacrificed,
    /// Numbers given out by earlier processes that are in no file.
    pub(super) missing: u64,
    pub(super) torn_bytes: u64,
    /// Times a collector had more of an epoch than it was sent.
    pub(super) ledger_conflicts: u64,
    /// Entries acknowledged once that a collector asked for again.
    pub(super) asked_again: u64,
    /// Why nothing can be written, while that is so.
    pub(super) write_error: Option<String>,
    /// Why nothing can be synced, while that is so.
    pub(super) sync_error: Option<String>,
    /// Since when the disk thread is in a call that writes.
    pub(super) writing_since: Option<MonoNs>,
    /// The disk thread writes what it finds in memory.
    pub(super) in_round: bool,
    /// Rounds of writing in which the disk said no.
    pub(super) refusals: u64,
    /// The last entry that was given up because there was no room for it.
    pub(super) last_refused: Option<Key>,
    /// Somebody waits for an entry: the disk is tried at once.
    pub(super) hurry: bool,
    /// Nothing more is appended.
    pub(super) closed: bool,
    /// Nobody needs what is in it any more.
    pub(super) abandoned: bool,
}

impl Index {
    pub(super) fn epoch_index(&self, id: &EpochId) -> Option<usize> {
        // The newest is asked for most.
        self.epochs.iter().rposition(|epoch| epoch.id == *id)
    }

    pub(super) fn add_epoch(&mut self, epoch: Epoch) -> usize {
        self.epochs.push(epoch);
        self.epochs.len() - 1
    }

    pub(super) fn insert(&mut self, number: u64, segment: Segment) {
        self.bytes += segment.file_bytes;
        let epoch = &mut self.epochs[segment.epoch];
        epoch.last_seq = epoch.last_seq.max(segment.totals.last_seq);
        self.next_number = self.next_number.max(number + 1);
        self.segments.insert(number, segment);
        self.mark(number);
    }

    /// Brings `unread` in line with a segment's offsets.
    fn mark(&mut self, number: u64) {
        let Some(segment) = self.segments.get(&number) else { return };
        let key = (segment.epoch, segment.lane, segment.totals.first_seq, number);
        if segment.read_offset < segment.end {
            self.unread.insert(key);
        } else {
            self.unread.remove(&key);
        }
    }

    /// An entry of the memory was written to the end of a segment.
    pub(super) fn stored(&mut self, number: u64, key: Key, header: &EntryHeader) {
        let Some(segment) = self.segments.get_mut(&number) else { return };
        let begin = segment.end;
        segment.totals.add(header);
        segment.end += header.entry_bytes();
        let end = segment.end;
        self.bytes += segment.end.saturating_sub(segment.file_bytes);
        segment.file_bytes = segment.file_bytes.max(segment.end);
        let epoch = &self.epochs[key.0];
        // What was read from memory, the reader does not look for on the disk.
        if segment.read_offset == begin && header.seq <= epoch.cursor.max(epoch.acked) {
            segment.read_offset = end;
            segment.last_read = segment.last_read.max(header.seq);
            if header.seq <= epoch.acked {
                segment.acknowledge(end, header.items, header.written);
            } else if let Some(flying) = self.in_flight.get_mut(&key) {
                flying.on_disk = Some((number, end));
            }
        }
        self.mark(number);
        self.memory.remove(header.lane, key);
    }

    /// Nothing more will be written to a segment, whose file has `file_bytes` now.
    pub(super) fn sealed(&mut self, number: u64, file_bytes: u64) {
        if let Some(segment) = self.segments.get_mut(&number) {
            segment.sealed = true;
            self.bytes = self.bytes - segment.file_bytes + file_bytes;
            segment.file_bytes = file_bytes;
        }
    }

    /// Where the next entry of the oldest epoch that has any may be.
    pub(super) fn candidates(&self) -> Candidates {
        let on_disk = self.unread.first().map(|(epoch, ..)| *epoch);
        let in_memory = self.memory.first_unread_epoch(|epoch| self.read_upto(epoch));
        let Some(epoch) = on_disk.into_iter().chain(in_memory).min() else { return Candidates::default() };
        let of_lane = |lane| {
            let all = (epoch, lane, 0, 0)..=(epoch, lane, u64::MAX, u64::MAX);
            let (.., number) = self.unread.range(all).next()?;
            let segment = self.segments.get(number)?;
            Some(Candidate {
                number: *number,
                lane,
                epoch,
                format: segment.format,
                at: segment.read_offset,
                end: segment.end,
            })
        };
        let next = self.memory.next_in(epoch, self.read_upto(epoch));
        Candidates {
            on_disk: Lane::ALL.map(of_lane),
            in_memory: next.map(|(lane, seq)| (lane, (epoch, seq))),
        }
    }

    fn read_upto(&self, epoch: usize) -> u64 {
        let epoch = &self.epochs[epoch];
        epoch.cursor.max(epoch.acked)
    }

    /// Whether what is only in memory is to be sent from there: the disk fails or stalls. Else the disk gets it first, so
    /// that a process that is killed never sent what its successor does not know of.
    pub(super) fn reads_memory(&self, now: MonoNs) -> bool {
        self.write_error.is_some() || self.is_stalled(now)
    }

    pub(super) fn is_stalled(&self, now: MonoNs) -> bool {
        self.writing_since.is_some_and(|since| now.since(since) >= STALL_NS)
    }

    /// Moves the reader of a segment on. False when it is not where the caller believed (started over, sacrificed).
    fn advance(&mut self, at: &Candidate, to: u64, seq: u64) -> bool {
        let there = match self.segments.get_mut(&at.number) {
            Some(segment) if segment.read_offset == at.at => {
                segment.read_offset = to;
                segment.last_read = segment.last_read.max(seq);
                true
            }
            _ => false,
        };
        self.mark(at.number);
        there
    }

    /// The reader takes the entry at `at` out.
    pub(super) fn hand_out(&mut self, at: &Candidate, header: &EntryHeader) -> bool {
        let end = at.at + header.entry_bytes();
        let there = self.advance(at, end, header.seq);
        if there {
            self.flies((at.epoch, header.seq), header, Some((at.number, end)));
        }
        there
    }

    /// The reader takes an entry out of the memory.
    pub(super) fn hand_out_of_memory(
        &mut self,
        lane: Lane,
        key: Key,
    ) -> Option<(EntryHeader, std::sync::Arc<[u8]>)> {
        let held = self.memory.get(lane, key)?;
        let (header, payload) = (held.header, std::sync::Arc::clone(&held.payload));
        self.flies(key, &header, None);
        Some((header, payload))
    }

    fn flies(&mut self, key: Key, header: &EntryHeader, on_disk: Option<(u64, u64)>) {
        let EntryHeader { lane, items, written, .. } = *header;
        self.in_flight.insert(key, InFlight { on_disk, lane, items, written });
        self.epochs[key.0].handed_out(key.1);
    }

    /// The reader passes an entry that was acknowledged already.
    pub(super) fn pass_acked(&mut self, at: &Candidate, header: &EntryHeader) {
        let end = at.at + header.entry_bytes();
        if self.advance(at, end, header.seq)
            && let Some(segment) = self.segments.get_mut(&at.number)
        {
            segment.acknowledge(end, header.items, header.written);
        }
    }

    /// The reader passes damage: at least one entry, of `items` when its header still tells.
    pub(super) fn pass_damage(&mut self, at: &Candidate, to: u64, items: u32) {
        if self.advance(at, to, 0)
            && let Some(segment) = self.segments.get_mut(&at.number)
            && segment.lost_offset <= at.at
        {
            segment.lost_offset = to;
            segment.lost.add(1, u64::from(items));
            self.damaged.add(1, u64::from(items));
        }
    }

    /// Removes what nobody needs any more; the caller deletes the files.
    pub(super) fn take_finished(&mut self) -> Vec<Finished> {
        let is_finished = |segment: &Segment| {
            let settled = self.epochs[segment.epoch].settled;
            segment.sealed
                && (segment.totals.entries == 0
                    || segment.totals.last_seq <= settled
                    // Its last entries are damaged: nobody will ever acknowledge them.
                    || (segment.read_offset >= segment.end && segment.last_read <= settled))
        };
        let finished: Vec<u64> =
            self.segments.iter().filter(|(_, segment)| is_finished(segment)).map(|(n, _)| *n).collect();
        let remove = |number: u64| {
            let segment = self.remove(number)?;
            if segment.read_offset >= segment.end {
                let pending = segment.pending();
                self.damaged.add(pending.entries, pending.items);
            }
            let Segment { lane, file_bytes, .. } = segment;
            Some(Finished { lane, number, file_bytes, damaged: segment.lost.entries > 0 })
        };
        finished.into_iter().filter_map(remove).collect()
    }

    fn remove(&mut self, number: u64) -> Option<Segment> {
        let segment = self.segments.remove(&number)?;
        self.bytes -= segment.file_bytes;
        self.unread.remove(&(segment.epoch, segment.lane, segment.totals.first_seq, number));
        Some(segment)
    }

    /// A file is kept that cannot be read, or not any more.
    pub(super) fn set_aside(&mut self, name: String, bytes: u64) {
        self.bytes += bytes;
        self.set_aside.push_back(SetAside { name, bytes });
    }

    /// Takes the oldest of them out; the caller deletes it.
    pub(super) fn take_set_aside(&mut self) -> Option<SetAside> {
        let oldest = self.set_aside.pop_front()?;
        self.bytes -= oldest.bytes;
        Some(oldest)
    }

    /// The reader starts over from the last acknowledgement.
    pub(super) fn rewind(&mut self) {
        for (key, entry) in std::mem::take(&mut self.in_flight) {
            let is_here = match entry.on_disk {
                Some((number, _)) => self.segments.contains_key(&number),
                None => self.memory.contains(entry.lane, key),
            };
            if !is_here {
                self.sacrifice_entry(entry.lane, key, entry.items);
            }
        }
        for epoch in &mut self.epochs {
            epoch.cursor = epoch.acked;
        }
        let numbers: Vec<u64> = self.segments.keys().copied().collect();
        for number in numbers {
            if let Some(segment) = self.segments.get_mut(&number) {
                segment.read_offset = segment.acked_offset;
            }
            self.mark(number);
        }
    }

    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Entries and items not acknowledged.
    pub(super) fn pending(&self) -> Sacrificed {
        let mut sum = Sacrificed::default();
        for segment in self.segments.values() {
            let pending = segment.pending();
            sum.add(pending.entries, pending.items);
        }
        for ((epoch, seq), header) in self.memory.headers() {
            if seq > self.epochs[epoch].acked {
                sum.add(1, u64::from(header.items));
            }
        }
        sum
    }

    /// Bytes of a lane's files in which anything is not acknowledged.
    pub(super) fn pending_bytes(&self, lane: Lane) -> u64 {
        let of_lane = self.segments.values().filter(|s| s.lane == lane && s.pending().entries > 0);
        of_lane.map(|segment| segment.file_bytes).sum()
    }

    /// Entries of an epoch not acknowledged, on the disk.
    pub(super) fn pending_of(&self, epoch: usize) -> u64 {
        let of_epoch = self.segments.values().filter(|segment| segment.epoch == epoch);
        of_epoch.map(|segment| segment.pending().entries).sum()
    }

    /// When the oldest entry not acknowledged was written, or a little earlier.
    pub(super) fn oldest_written(&self) -> Option<RawNs> {
        let on_disk = self.segments.values().filter(|s| s.pending().entries > 0);
        let on_disk = on_disk.map(|s| (s.epoch, s.acked_written));
        let in_memory = self.memory.headers().filter(|((epoch, seq), _)| *seq > self.epochs[*epoch].acked);
        let in_memory = in_memory.map(|((epoch, _), header)| (epoch, header.written));
        on_disk.chain(in_memory).min().map(|(_, written)| written)
    }

    /// Bytes of the files that are kept though everything in them was acknowledged.
    pub(super) fn unsettled_bytes(&self) -> u64 {
        let acked = self.segments.values().filter(|s| s.sealed && s.pending().entries == 0);
        acked.map(|s| s.file_bytes).sum()
    }

    /// The oldest segment that is kept only until the collector has it safe.
    pub(super) fn oldest_acked(&self) -> Option<u64> {
        let mut acked = self.segments.iter().filter(|(_, segment)| {
            let last_seq = segment.totals.last_seq;
            segment.sealed && segment.totals.entries > 0 && last_seq <= self.epochs[segment.epoch].acked
        });
        acked.next().map(|(number, _)| *number)
    }

    /// The oldest segment with anything in it, of one lane.
    pub(super) fn oldest(&self, lane: Lane) -> Option<u64> {
        let mut of_lane = self.segments.iter().filter(|(_, s)| s.lane == lane && s.totals.entries > 0);
        of_lane.next().map(|(number, _)| *number)
    }
}
