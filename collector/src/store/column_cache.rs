//! Columns that were read lately, without their compression: most questions come in rows about the same things.
//!
//! A block never changes and its number is never another's, so that nothing here is ever wrong. When the room is used up,
//! a column that nobody asked for since the last look at it makes place, and only for every fourth that comes: a question
//! that goes over more than there is room for then finds a part of it the next time, instead of chasing its own tail.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::block::Column;
use super::block::bloom::Mixing;
use super::block::plain::Plain;

/// What all columns together may take.
const BYTES_MAX: usize = 256 << 20;
/// Each has its own lock.
const SHARDS: usize = 16;
/// Of those that come when there is no room, one in so many is taken.
const TAKEN: u32 = 4;

/// Block, column, and whether it is the entries alone.
type Key = (u64, Column, bool);

#[derive(Debug)]
struct Held {
    plain: Arc<Plain>,
    asked: bool,
}

#[derive(Debug, Default)]
struct Shard {
    held: HashMap<Key, Held, Mixing>,
    /// In the order in which they make place.
    order: VecDeque<Key>,
    bytes: usize,
}

#[derive(Debug)]
pub(super) struct ColumnCache {
    shards: [Mutex<Shard>; SHARDS],
    shard_bytes_max: usize,
    refused: AtomicU32,
}

impl Default for ColumnCache {
    fn default() -> ColumnCache {
        ColumnCache::new(BYTES_MAX)
    }
}

impl ColumnCache {
    fn new(bytes_max: usize) -> ColumnCache {
        ColumnCache {
            shards: std::array::from_fn(|_| Mutex::default()),
            shard_bytes_max: bytes_max / SHARDS,
            refused: AtomicU32::new(0),
        }
    }

    fn shard(&self, (block, column, _): Key) -> &Mutex<Shard> {
        &self.shards[(block as usize).wrapping_add(usize::from(column.0).wrapping_mul(7)) % SHARDS]
    }

    /// What was put here; all of a column does for its entries.
    pub(super) fn get(&self, block: u64, column: Column, only_entries: bool) -> Option<Arc<Plain>> {
        let mut shard = self.shard((block, column, false)).lock().unwrap_or_else(PoisonError::into_inner);
        let whole = shard.held.get_mut(&(block, column, false));
        let held = match whole {
            Some(held) => held,
            None if only_entries => shard.held.get_mut(&(block, column, true))?,
            None => return None,
        };
        held.asked = true;
        Some(Arc::clone(&held.plain))
    }

    pub(super) fn put(&self, block: u64, column: Column, only_entries: bool, plain: &Arc<Plain>) {
        let (key, bytes) = ((block, column, only_entries), plain.bytes());
        let mut shard = self.shard(key).lock().unwrap_or_else(PoisonError::into_inner);
        let full = shard.bytes + bytes > self.shard_bytes_max;
        if bytes > self.shard_bytes_max
            || full && !self.refused.fetch_add(1, Ordering::Relaxed).is_multiple_of(TAKEN)
            || shard.held.contains_key(&key)
        {
            return;
        }
        while shard.bytes + bytes > self.shard_bytes_max {
            let Some(oldest) = shard.order.pop_front() else { break };
            match shard.held.get_mut(&oldest) {
                Some(held) if held.asked => {
                    held.asked = false;
                    shard.order.push_back(oldest);
                }
                Some(_) => {
                    let gone = shard.held.remove(&oldest).map_or(0, |held| held.plain.bytes());
                    shard.bytes = shard.bytes.saturating_sub(gone);
                }
                None => {}
            }
        }
        shard.bytes += bytes;
        shard.order.push_back(key);
        shard.held.insert(key, Held { plain: Arc::clone(plain), asked: false });
    }

    /// Of all that is held.
    #[cfg(test)]
    fn bytes(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().unwrap_or_else(PoisonError::into_inner).bytes).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::super::block::encoding::{integers, read_integers};
    use super::*;

    fn column(rows: usize) -> Arc<Plain> {
        let values: Vec<u64> = (0..rows as u64).map(|n| n % 251).collect();
        let (bytes, ..) = integers(&values).unwrap();
        Arc::new(Plain::Integers(read_integers(&bytes, rows).unwrap()))
    }

    #[test]
    fn it_keeps_to_its_room_and_a_long_walk_finds_a_part_of_it_again() {
        let cache = ColumnCache::new(SHARDS * 10_000);
        let plain = column(900);
        let mut found = 0;
        for _ in 0..3 {
            for block in 0..1000 {
                match cache.get(block, Column(1), false) {
                    Some(_) => found += 1,
                    None => cache.put(block, Column(1), false, &plain),
                }
                assert!(cache.bytes() <= SHARDS * 10_000);
            }
        }
        assert!(found > 100, "{found}");
    }

    #[test]
    fn the_entries_are_found_in_the_whole_column_and_not_the_other_way() {
        let cache = ColumnCache::new(1 << 20);
        cache.put(1, Column(1), true, &column(9));
        assert!(cache.get(1, Column(1), true).is_some() && cache.get(1, Column(1), false).is_none());
        cache.put(2, Column(1), false, &column(9));
        assert!(cache.get(2, Column(1), true).is_some());
        assert!(cache.get(3, Column(1), true).is_none());
    }
}
