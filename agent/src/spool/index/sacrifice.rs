//! What is given up for want of room, and how it is counted.

use super::super::memory::Key;
use super::super::segment::Lane;
use super::{Index, Segment};

impl Index {
    /// Gives a segment up and counts what it held. What is under way may still arrive: it counts as given up only when
    /// the reader starts over without its acknowledgement.
    pub(in super::super) fn sacrifice(&mut self, number: u64) -> Option<Segment> {
        let segment = self.remove(number)?;
        let flying =
            self.in_flight.values().filter(|entry| entry.on_disk.is_some_and(|(at, _)| at == number));
        let (entries, items) = flying.fold((0, 0), |(n, items), e| (n + 1, items + u64::from(e.items)));
        let pending = segment.pending();
        let (entries, items) = (pending.entries.saturating_sub(entries), pending.items.saturating_sub(items));
        self.sacrificed[segment.lane.index()].add(entries, items);
        self.epochs[segment.epoch].gave_up(entries, segment.totals.last_seq);
        Some(segment)
    }

    /// Gives an entry of the memory up.
    pub(in super::super) fn sacrifice_held(&mut self, lane: Lane, key: Key) {
        let Some(held) = self.memory.remove(lane, key) else { return };
        let (epoch, seq) = key;
        if seq > self.epochs[epoch].acked && !self.in_flight.contains_key(&key) {
            self.sacrifice_entry(lane, key, held.header.items);
        }
    }

    /// An entry found no room at all.
    pub(in super::super) fn sacrifice_entry(&mut self, lane: Lane, (epoch, seq): Key, items: u32) {
        self.sacrificed[lane.index()].add(1, u64::from(items));
        self.epochs[epoch].gave_up(1, seq);
    }
}
