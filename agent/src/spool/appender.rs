//! The one that numbers entries and puts them into memory, from where the disk thread takes them: never waits for the disk,
//! unless the spool waits rather than gives anything up.

use std::sync::Arc;
use std::sync::mpsc::Sender;

use gnomon_clock::EpochId;

use super::disk::Threads;
use super::epoch::Epoch;
use super::memory::{self, Held, Key};
use super::retention::{self, WhenFull};
use super::segment::{EntryHeader, Lane, PAYLOAD_BYTES_MAX};
use super::{ROOM_WAIT, Shared};

/// What became of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Appended {
    /// It is on the disk, or in memory while the disk takes nothing.
    Stored(u64),
    /// It found no room, and was counted.
    Sacrificed(u64),
}

/// Appends entries. There is one, owned by the writer thread.
pub struct Appender {
    shared: Arc<Shared>,
    threads: Threads,
}

impl Appender {
    pub(super) fn new(shared: Arc<Shared>, threads: Threads) -> Appender {
        Appender { shared, threads }
    }

    /// Appends one entry of `items` records or packets and waits until the disk took or refused it. Never fails: what finds
    /// no room is counted and reported.
    pub fn append(&mut self, lane: Lane, epoch: &EpochId, items: u32, payload: &[u8]) -> Appended {
        let Some(key) = self.put(lane, epoch, items, payload, None) else {
            return Appended::Sacrificed(self.last_seq(epoch));
        };
        let mut index = self.shared.index();
        let refusals = index.refusals;
        index.hurry = true;
        self.shared.work.notify_all();
        while (index.memory.contains(lane, key) && index.refusals == refusals) || index.in_round {
            let waited = self.shared.progress.wait_timeout(index, ROOM_WAIT);
            index = waited.unwrap_or_else(std::sync::PoisonError::into_inner).0;
        }
        if index.last_refused == Some(key) { Appended::Sacrificed(key.1) } else { Appended::Stored(key.1) }
    }

    /// Puts one entry into memory, where the disk thread finds it; `done` is told once it is on the disk, or the disk takes
    /// nothing, or the entry was given up.
    pub(super) fn put(
        &mut self,
        lane: Lane,
        epoch: &EpochId,
        items: u32,
        payload: &[u8],
        done: Option<Sender<()>>,
    ) -> Option<Key> {
        let key = self.number(epoch);
        let mut held = Held {
            header: EntryHeader::new(lane, key.1, self.shared.clock.raw(), items, payload),
            payload: payload.into(),
            done,
        };
        if payload.len() > PAYLOAD_BYTES_MAX || !self.make_room(lane, memory::entry_bytes(payload.len())) {
            self.shared.index().sacrifice_entry(lane, key, items);
            held.tell();
            return None;
        }
        let mut index = self.shared.index();
        index.memory.insert(key, held);
        let reads_memory = index.reads_memory(self.shared.clock.monotonic());
        drop(index);
        self.shared.work.notify_all();
        if reads_memory {
            self.shared.readable.notify_one();
        }
        Some(key)
    }

    /// What could not even be encoded still has a number: the collector sees the gap.
    pub(super) fn refuse(&mut self, lane: Lane, epoch: &EpochId, items: u32) {
        let key = self.number(epoch);
        self.shared.index().sacrifice_entry(lane, key, items);
    }

    fn number(&mut self, id: &EpochId) -> Key {
        let suspended_ns = || self.shared.clock.suspended_ns();
        let mut index = self.shared.index();
        let epoch = index.epoch_index(id).unwrap_or_else(|| index.add_epoch(Epoch::new(*id, suspended_ns())));
        index.epochs[epoch].last_seq += 1;
        (epoch, index.epochs[epoch].last_seq)
    }

    fn last_seq(&self, id: &EpochId) -> u64 {
        let index = self.shared.index();
        index.epoch_index(id).map_or(0, |epoch| index.epochs[epoch].last_seq)
    }

    /// Makes `need` bytes fit in memory; one entry always does. False when nothing may go for this lane.
    fn make_room(&mut self, lane: Lane, need: u64) -> bool {
        let limits = &self.shared.limits;
        let mut index = self.shared.index();
        while !index.memory.is_empty() && index.memory.bytes() + need > limits.memory_bytes_max {
            match limits.when_full {
                WhenFull::Sacrifice => {
                    let Some((lane, key)) = retention::victim_in_memory(&index, lane) else { return false };
                    index.sacrifice_held(lane, key);
                }
                WhenFull::Wait if index.abandoned => return false,
                WhenFull::Wait => {
                    let waited = self.shared.room.wait_timeout(index, ROOM_WAIT);
                    index = waited.unwrap_or_else(std::sync::PoisonError::into_inner).0;
                }
            }
        }
        true
    }
}

impl Drop for Appender {
    /// Writes what is in memory, closes the files and waits until they are on the disk, if the disk moves.
    fn drop(&mut self) {
        self.shared.index().closed = true;
        self.shared.work.notify_all();
        self.threads.finish(&self.shared);
    }
}
