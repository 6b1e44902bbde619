//! What the spool holds, in memory: every segment, how far each was read and acknowledged, and what is under way.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use gnomon_clock::{EpochId, RawNs};

use super::segment::{EntryHeader, FILE_HEADER_BYTES, Lane, Totals};

/// What was given up, by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sacrificed {
    pub entries: u64,
    /// Flow records or packets.
    pub items: u64,
}

impl Sacrificed {
    fn add(&mut self, entries: u64, items: u64) {
        self.entries += entries;
        self.items += items;
    }
}

#[derive(Clone, Debug)]
pub(super) struct Segment {
    pub(super) lane: Lane,
    pub(super) epoch: usize,
    pub(super) salt: u32,
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
}

impl Segment {
    pub(super) fn new(lane: Lane, epoch: usize, salt: u32, totals: Totals, end: u64) -> Segment {
        Segment {
            lane,
            epoch,
            salt,
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
        }
    }

    /// Entries and items neither acknowledged nor lost.
    fn pending(&self) -> Sacrificed {
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
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Epoch {
    pub(super) id: EpochId,
    pub(super) suspended_ns: u64,
    /// The highest sequence number given out.
    pub(super) last_seq: u64,
    pub(super) acked: u64,
}

/// An entry the reader handed out and nobody acknowledged yet.
#[derive(Clone, Copy, Debug)]
struct InFlight {
    epoch: usize,
    seq: u64,
    segment: u64,
    lane: Lane,
    end: u64,
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
    pub(super) salt: u32,
    pub(super) at: u64,
    pub(super) end: u64,
}

#[derive(Debug, Default)]
pub(super) struct Index {
    pub(super) segments: BTreeMap<u64, Segment>,
    /// In the order in which they were opened; never shrinks.
    pub(super) epochs: Vec<Epoch>,
    /// Segments with something to read, in the order to read them.
    unread: BTreeSet<(usize, Lane, u64)>,
    in_flight: VecDeque<InFlight>,
    pub(super) next_number: u64,
    /// Bytes of all files.
    pub(super) bytes: u64,
    /// Rises when the reader has to start over.
    pub(super) generation: u64,
    pub(super) sacrificed: [Sacrificed; 2],
    pub(super) damaged: Sacrificed,
    pub(super) torn_bytes: u64,
    pub(super) error: Option<String>,
}

fn lane_index(lane: Lane) -> usize {
    match lane {
        Lane::Flows => 0,
        Lane::Slices => 1,
    }
}

impl Index {
    pub(super) fn new() -> Index {
        Index { next_number: 1, ..Index::default() }
    }

    pub(super) fn epoch_index(&self, id: &EpochId) -> Option<usize> {
        // The one in use is the last one nearly always.
        self.epochs.iter().rposition(|epoch| epoch.id == *id)
    }

    pub(super) fn add_epoch(&mut self, id: EpochId, suspended_ns: u64, acked: u64) -> usize {
        self.epochs.push(Epoch { id, suspended_ns, last_seq: 0, acked });
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
        let key = (segment.epoch, segment.lane, number);
        if segment.read_offset < segment.end {
            self.unread.insert(key);
        } else {
            self.unread.remove(&key);
        }
    }

    /// An entry was written to the end of a segment.
    pub(super) fn appended(&mut self, number: u64, header: &EntryHeader) {
        let Some(segment) = self.segments.get_mut(&number) else { return };
        segment.totals.add(header);
        segment.end += header.entry_bytes();
        self.bytes += segment.end.saturating_sub(segment.file_bytes);
        segment.file_bytes = segment.file_bytes.max(segment.end);
        self.mark(number);
    }

    /// Nothing more will be written to a segment, whose file has `file_bytes` now.
    pub(super) fn sealed(&mut self, number: u64, file_bytes: u64) {
        if let Some(segment) = self.segments.get_mut(&number) {
            segment.sealed = true;
            self.bytes = self.bytes - segment.file_bytes + file_bytes;
            segment.file_bytes = file_bytes;
        }
    }

    /// Where the next entry of the oldest epoch that has any may be: at most one place a lane.
    pub(super) fn candidates(&self) -> [Option<Candidate>; 2] {
        let Some((epoch, _, _)) = self.unread.first() else { return [None; 2] };
        Lane::ALL.map(|lane| {
            let (_, _, number) = self.unread.range((*epoch, lane, 0)..=(*epoch, lane, u64::MAX)).next()?;
            let segment = self.segments.get(number)?;
            Some(Candidate {
                number: *number,
                lane,
                epoch: *epoch,
                salt: segment.salt,
                at: segment.read_offset,
                end: segment.end,
            })
        })
    }

    /// Moves the reader of a segment on. False when it is not where the caller believed (started over, sacrificed).
    fn advance(&mut self, at: &Candidate, to: u64) -> bool {
        let there = match self.segments.get_mut(&at.number) {
            Some(segment) if segment.read_offset == at.at => {
                segment.read_offset = to;
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
        let there = self.advance(at, end);
        if there {
            self.in_flight.push_back(InFlight {
                epoch: at.epoch,
                seq: header.seq,
                segment: at.number,
                lane: at.lane,
                end,
                items: header.items,
                written: header.written,
            });
        }
        there
    }

    /// The reader passes an entry that was acknowledged already.
    pub(super) fn pass_acked(&mut self, at: &Candidate, header: &EntryHeader) {
        let end = at.at + header.entry_bytes();
        if self.advance(at, end)
            && let Some(segment) = self.segments.get_mut(&at.number)
        {
            segment.acknowledge(end, header.items, header.written);
        }
    }

    /// The reader passes damage: at least one entry, of `items` when its header still tells.
    pub(super) fn pass_damage(&mut self, at: &Candidate, to: u64, items: u32) {
        if self.advance(at, to)
            && let Some(segment) = self.segments.get_mut(&at.number)
            && segment.lost_offset <= at.at
        {
            segment.lost_offset = to;
            segment.lost.add(1, u64::from(items));
            self.damaged.add(1, u64::from(items));
        }
    }

    /// Everything of the epoch up to `seq` is durable elsewhere.
    pub(super) fn ack(&mut self, epoch: usize, seq: u64) -> Acked {
        let state = &mut self.epochs[epoch];
        let seq = seq.min(state.last_seq);
        if seq <= state.acked {
            return Acked::Known;
        }
        state.acked = seq;
        let segments = &mut self.segments;
        let mut result = Acked::BeyondReader;
        // In order within an epoch, but epochs may interleave.
        self.in_flight.retain(|entry| {
            let acked = entry.epoch == epoch && entry.seq <= seq;
            if acked && let Some(segment) = segments.get_mut(&entry.segment) {
                segment.acknowledge(entry.end, entry.items, entry.written);
            }
            if entry.epoch == epoch && entry.seq >= seq {
                result = Acked::InFlight;
            }
            !acked
        });
        result
    }

    /// Segments that an acknowledgement covers in part beyond what the reader handed out: their headers have to be read
    /// to know what is left in them.
    pub(super) fn half_acked(&self) -> Vec<Candidate> {
        let half = self.segments.iter().filter(|(_, segment)| {
            let acked = self.epochs[segment.epoch].acked;
            segment.totals.entries > 0
                && segment.totals.first_seq <= acked
                && acked < segment.totals.last_seq
                && segment.read_offset == segment.acked_offset
        });
        half.map(|(number, segment)| Candidate {
            number: *number,
            lane: segment.lane,
            epoch: segment.epoch,
            salt: segment.salt,
            at: segment.read_offset,
            end: segment.end,
        })
        .collect()
    }

    /// Removes what nobody needs any more; the caller deletes the files.
    pub(super) fn take_finished(&mut self) -> Vec<(Lane, u64)> {
        let is_finished = |segment: &Segment, number: u64| {
            segment.sealed
                && (segment.totals.entries == 0
                    || segment.totals.last_seq <= self.epochs[segment.epoch].acked
                    || (segment.read_offset >= segment.end
                        && !self.in_flight.iter().any(|entry| entry.segment == number)))
        };
        let finished: Vec<u64> =
            self.segments.iter().filter(|(number, s)| is_finished(s, **number)).map(|(n, _)| *n).collect();
        let remove = |number: u64| {
            let segment = self.remove(number)?;
            if segment.read_offset >= segment.end {
                // What a damaged stretch held beyond the one entry it was counted as.
                let pending = segment.pending();
                self.damaged.add(pending.entries, pending.items);
            }
            Some((segment.lane, number))
        };
        finished.into_iter().filter_map(remove).collect()
    }

    fn remove(&mut self, number: u64) -> Option<Segment> {
        let segment = self.segments.remove(&number)?;
        self.bytes -= segment.file_bytes;
        self.unread.remove(&(segment.epoch, segment.lane, number));
        Some(segment)
    }

    /// Gives a segment up and counts what it held. What is under way may still arrive: it counts as given up only when
    /// the reader starts over without its acknowledgement.
    pub(super) fn sacrifice(&mut self, number: u64) -> Option<Segment> {
        let segment = self.remove(number)?;
        let flying = self.in_flight.iter().filter(|entry| entry.segment == number);
        let (entries, items) = flying.fold((0, 0), |(n, items), e| (n + 1, items + u64::from(e.items)));
        let pending = segment.pending();
        self.sacrificed[lane_index(segment.lane)]
            .add(pending.entries.saturating_sub(entries), pending.items.saturating_sub(items));
        Some(segment)
    }

    /// An entry found no room at all.
    pub(super) fn sacrifice_entry(&mut self, lane: Lane, items: u32) {
        self.sacrificed[lane_index(lane)].add(1, u64::from(items));
    }

    /// The reader starts over from the last acknowledgement.
    pub(super) fn rewind(&mut self) {
        self.generation += 1;
        for entry in std::mem::take(&mut self.in_flight) {
            if !self.segments.contains_key(&entry.segment) {
                self.sacrificed[lane_index(entry.lane)].add(1, u64::from(entry.items));
            }
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
        self.segments.values().fold(Sacrificed::default(), |mut sum, segment| {
            let pending = segment.pending();
            sum.add(pending.entries, pending.items);
            sum
        })
    }

    /// When the oldest entry not acknowledged was written, or a little earlier.
    pub(super) fn oldest_written(&self) -> Option<RawNs> {
        let oldest = self.segments.values().filter(|s| s.pending().entries > 0);
        oldest.min_by_key(|s| (s.epoch, s.acked_written)).map(|s| s.acked_written)
    }

    /// The oldest segment with anything in it, of one lane.
    pub(super) fn oldest(&self, lane: Lane) -> Option<u64> {
        let mut of_lane = self.segments.iter().filter(|(_, s)| s.lane == lane && s.totals.entries > 0);
        of_lane.next().map(|(number, _)| *number)
    }
}
