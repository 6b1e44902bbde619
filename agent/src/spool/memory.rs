//! Entries that are not on the disk yet: what carries the spool over a disk that stalls or says no.
//!
//! Every entry begins here. The disk thread writes those of a lane in the order of their numbers, so that of each epoch and
//! lane the disk has the beginning and the memory the rest.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::Sender;

use super::segment::{EntryHeader, Lane};

/// An epoch's place in the index, and a sequence number.
pub(super) type Key = (usize, u64);

/// What an entry takes besides its payload.
const ENTRY_OVERHEAD: u64 = 256;

#[derive(Debug)]
pub(super) struct Held {
    pub(super) header: EntryHeader,
    pub(super) payload: Arc<[u8]>,
    /// Told once the entry is on the disk, or the disk refused it, or it is gone from here.
    pub(super) done: Option<Sender<()>>,
}

impl Held {
    fn bytes(&self) -> u64 {
        self.payload.len() as u64 + ENTRY_OVERHEAD
    }

    pub(super) fn tell(&mut self) {
        if let Some(done) = self.done.take() {
            // Nobody may be waiting any more.
            let _ = done.send(());
        }
    }
}

/// What `payload_bytes` take of the budget.
pub(super) fn entry_bytes(payload_bytes: usize) -> u64 {
    payload_bytes as u64 + ENTRY_OVERHEAD
}

/// An entry that is to be written now.
#[derive(Clone, Debug)]
pub(super) struct ToWrite {
    pub(super) key: Key,
    pub(super) header: EntryHeader,
    pub(super) payload: Arc<[u8]>,
}

#[derive(Debug, Default)]
pub(super) struct Memory {
    lanes: [BTreeMap<Key, Held>; 2],
    bytes: u64,
    /// The last one of each lane that is being written now: neither it nor those before it can be given up.
    writing: [Option<Key>; 2],
}

impl Memory {
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lanes.iter().all(BTreeMap::is_empty)
    }

    pub(super) fn len(&self) -> usize {
        self.lanes.iter().map(BTreeMap::len).sum()
    }

    pub(super) fn insert(&mut self, key: Key, held: Held) {
        self.bytes += held.bytes();
        self.lanes[held.header.lane.index()].insert(key, held);
    }

    pub(super) fn get(&self, lane: Lane, key: Key) -> Option<&Held> {
        self.lanes[lane.index()].get(&key)
    }

    pub(super) fn contains(&self, lane: Lane, key: Key) -> bool {
        self.lanes[lane.index()].contains_key(&key)
    }

    pub(super) fn remove(&mut self, lane: Lane, key: Key) -> Option<Held> {
        let mut held = self.lanes[lane.index()].remove(&key)?;
        self.bytes -= held.bytes();
        held.tell();
        Some(held)
    }

    /// The first of both lanes in `epoch` after `seq`.
    pub(super) fn next_in(&self, epoch: usize, seq: u64) -> Option<(Lane, u64)> {
        let from = (epoch, seq.saturating_add(1));
        let next = Lane::ALL.map(|lane| {
            let ((_, seq), _) = self.lanes[lane.index()].range(from..=(epoch, u64::MAX)).next()?;
            Some((lane, *seq))
        });
        next.into_iter().flatten().min_by_key(|(_, seq)| *seq)
    }

    /// The oldest epoch with anything after what `cursor` says was read of it.
    pub(super) fn first_unread_epoch(&self, cursor: impl Fn(usize) -> u64) -> Option<usize> {
        let mut from = 0;
        loop {
            let first =
                |lane: &BTreeMap<Key, Held>| lane.range((from, 0)..).next().map(|((epoch, _), _)| *epoch);
            let epoch = self.lanes.iter().filter_map(first).min()?;
            if self.next_in(epoch, cursor(epoch)).is_some() {
                return Some(epoch);
            }
            from = epoch + 1;
        }
    }

    /// The oldest entry of a lane that is not being written.
    pub(super) fn oldest_idle(&self, lane: Lane) -> Option<Key> {
        let entries = &self.lanes[lane.index()];
        let oldest = match self.writing[lane.index()] {
            Some(last) => entries.range((std::ops::Bound::Excluded(last), std::ops::Bound::Unbounded)).next(),
            None => entries.iter().next(),
        };
        oldest.map(|(key, _)| *key)
    }

    /// All of `epoch` up to `seq` that is not being written.
    pub(super) fn idle_upto(&self, epoch: usize, seq: u64) -> Vec<(Lane, Key)> {
        let of_lane = |lane: Lane| {
            let writing = self.writing[lane.index()];
            let entries = self.lanes[lane.index()].range((epoch, 0)..=(epoch, seq));
            let idle = entries.map(|(key, _)| *key).filter(move |key| writing.is_none_or(|last| *key > last));
            idle.map(move |key| (lane, key)).collect::<Vec<_>>()
        };
        Lane::ALL.into_iter().flat_map(of_lane).collect()
    }

    pub(super) fn first(&self, lane: Lane) -> Option<(Key, &EntryHeader)> {
        self.lanes[lane.index()].iter().next().map(|(key, held)| (*key, &held.header))
    }

    /// The first entries of a lane, all of one epoch, of at most `bytes_max` but for the first. They are being written
    /// until [`Memory::written`].
    pub(super) fn begin_write(&mut self, lane: Lane, bytes_max: u64) -> Vec<ToWrite> {
        let (mut batch, mut bytes) = (Vec::<ToWrite>::new(), 0);
        for (key, held) in &self.lanes[lane.index()] {
            bytes += held.header.entry_bytes();
            if batch.first().is_some_and(|first| first.key.0 != key.0 || bytes > bytes_max) {
                break;
            }
            batch.push(ToWrite { key: *key, header: held.header, payload: Arc::clone(&held.payload) });
        }
        self.writing[lane.index()] = batch.last().map(|last| last.key);
        batch
    }

    pub(super) fn written(&mut self, lane: Lane) {
        self.writing[lane.index()] = None;
    }

    pub(super) fn tell_all(&mut self) {
        self.lanes.iter_mut().flat_map(BTreeMap::values_mut).for_each(Held::tell);
    }

    pub(super) fn headers(&self) -> impl Iterator<Item = (Key, &EntryHeader)> {
        self.lanes.iter().flatten().map(|(key, held)| (*key, &held.header))
    }
}
