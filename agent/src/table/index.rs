//! From a hash to an entry: open addressing with linear probing, never more than half full.
//!
//! It is as large as it will ever be from the start, and removal moves later slots back instead of leaving tombstones:
//! no packet ever pays for a rehash.

use gnomon_capture::memory;

/// A slot is 0 when free, else the hash's upper half above the entry's number plus 1.
#[derive(Debug)]
pub(super) struct Index {
    slots: Vec<u64>,
    mask: usize,
}

impl Index {
    /// `entries_max` is at most 2³⁰.
    pub(super) fn new(entries_max: u32) -> Index {
        let slots = (entries_max.max(1) as usize * 2).next_power_of_two();
        // Zeroed by the kernel: pages are taken only when they are used.
        let mut slots = vec![0; slots];
        memory::use_huge_pages(&mut slots);
        Index { mask: slots.len() - 1, slots }
    }

    /// The entry under `hash` that `is` the one asked for.
    #[inline]
    pub(super) fn find(&self, hash: u64, mut is: impl FnMut(u32) -> bool) -> Option<u32> {
        let tag = hash >> 32;
        let mut at = self.home(tag);
        loop {
            let slot = self.slots[at];
            if slot == 0 {
                return None;
            }
            let entry = (slot as u32).wrapping_sub(1);
            if slot >> 32 == tag && is(entry) {
                return Some(entry);
            }
            at = (at + 1) & self.mask;
        }
    }

    /// Asks for the slot that [`Index::find`] begins with.
    #[inline]
    pub(super) fn prefetch(&self, hash: u64) {
        memory::prefetch(&self.slots[self.home(hash >> 32)]);
    }

    /// `entry` must not be there yet, and there must be fewer than `entries_max`.
    #[inline]
    pub(super) fn insert(&mut self, hash: u64, entry: u32) {
        let tag = hash >> 32;
        let mut at = self.home(tag);
        while self.slots[at] != 0 {
            at = (at + 1) & self.mask;
        }
        self.slots[at] = tag << 32 | (u64::from(entry) + 1);
    }

    /// Does nothing when `entry` is not there.
    pub(super) fn remove(&mut self, hash: u64, entry: u32) {
        let tag = hash >> 32;
        let wanted = tag << 32 | (u64::from(entry) + 1);
        let mut hole = self.home(tag);
        while self.slots[hole] != wanted {
            if self.slots[hole] == 0 {
                return;
            }
            hole = (hole + 1) & self.mask;
        }
        let mut at = hole;
        loop {
            at = (at + 1) & self.mask;
            let slot = self.slots[at];
            if slot == 0 {
                break;
            }
            // It may move to the hole if that is not before its home.
            let from_home = at.wrapping_sub(self.home(slot >> 32)) & self.mask;
            let from_hole = at.wrapping_sub(hole) & self.mask;
            if from_home >= from_hole {
                self.slots[hole] = slot;
                hole = at;
            }
        }
        self.slots[hole] = 0;
    }

    #[inline]
    fn home(&self, tag: u64) -> usize {
        tag as usize & self.mask
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_finds_what_a_map_finds(steps in prop::collection::vec((any::<bool>(), 0u32..24, 0u64..6), 0..400)) {
            let mut index = Index::new(24);
            let mut model: HashMap<u32, u64> = HashMap::new();
            for (add, entry, home) in steps {
                // Few homes, at the end of the slots too, so that runs are long and wrap around.
                let hash = (home * 13 + 60) << 32 | 0xabc;
                match (add, model.get(&entry).copied()) {
                    (true, None) => {
                        index.insert(hash, entry);
                        model.insert(entry, hash);
                    }
                    (false, Some(hash)) => {
                        index.remove(hash, entry);
                        model.remove(&entry);
                    }
                    _ => {}
                }
                for entry in 0..24 {
                    let found = model.get(&entry).and_then(|hash| index.find(*hash, |e| e == entry));
                    prop_assert_eq!(found, model.contains_key(&entry).then_some(entry));
                }
                prop_assert_eq!(index.slots.iter().filter(|slot| **slot != 0).count(), model.len());
            }
        }
    }
}
