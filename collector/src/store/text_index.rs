//! Which blocks may have some text in a column, as far as questions have read them: blocks that lie beside each other mostly
//! have the same few thousand names, so that the names of 256 blocks are looked through once instead of those of each.
//!
//! It is in memory only, and says nothing of blocks that no question of this kind has read yet. A block never changes and
//! its number is never another's, so that nothing here is ever wrong.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::sync::{Arc, Mutex};

use hashbrown::HashTable;

use super::block::Column;
use super::block::bloom::Mixing;
use super::block::entries::Entries;
use super::scan::lock;

/// Blocks of a group: 2 to the power of this.
const GROUP_BITS: u32 = 8;
const WORDS: usize = (1 << GROUP_BITS) / 64;
/// Different texts of a group, and what they may take together: columns of texts that never come again are not worth it.
const TEXTS_MAX: usize = 65_536;
const TEXT_BYTES_MAX: usize = 4 << 20;
/// What all groups may take. Beyond it those that were asked the longest ago go.
const BYTES_MAX: usize = 96 << 20;
/// Answers that a group remembers.
const ASKED_MAX: usize = 8;

/// A set of a group's blocks.
type Blocks = [u64; WORDS];

fn put(blocks: &mut Blocks, block: u64) {
    let place = block as usize % (1 << GROUP_BITS);
    blocks[place / 64] |= 1 << (place % 64);
}

fn has(blocks: &Blocks, block: u64) -> bool {
    let place = block as usize % (1 << GROUP_BITS);
    blocks[place / 64] & (1 << (place % 64)) != 0
}

/// The texts of one column in the blocks of one group.
#[derive(Debug, Default)]
struct Group {
    texts: Entries,
    /// Where each is.
    blocks: Vec<Blocks>,
    places: HashTable<u32>,
    /// Blocks whose texts are all here.
    covered: Blocks,
    /// Blocks that have other texts than ASCII: what is in these has to be asked of them.
    others: Blocks,
    /// What was asked last: blocks that may have it.
    asked: Vec<(Box<str>, Blocks)>,
}

impl Group {
    fn bytes(&self) -> usize {
        size_of::<Group>() + self.texts.memory() + self.blocks.len() * (size_of::<Blocks>() + 8)
    }

    fn may_have(&mut self, needle: &str) -> Option<Blocks> {
        if let Some((_, blocks)) = self.asked.iter().find(|(asked, _)| **asked == *needle) {
            return Some(*blocks);
        }
        let mut blocks = self.others;
        for code in self.texts.with_text(needle)? {
            blocks.iter_mut().zip(self.blocks[code]).for_each(|(all, of_text)| *all |= of_text);
        }
        if self.asked.len() >= ASKED_MAX {
            self.asked.remove(0);
        }
        self.asked.push((needle.into(), blocks));
        Some(blocks)
    }

    fn learn(&mut self, block: u64, entries: &Entries) {
        let room = self.texts.len() + entries.len() <= TEXTS_MAX
            && self.texts.memory() + entries.memory() <= TEXT_BYTES_MAX;
        if has(&self.covered, block) || !room {
            return;
        }
        let hash = |text: &[u8]| Mixing::default().hash_one(text);
        for text in entries.iter() {
            if !text.is_ascii() {
                put(&mut self.others, block);
                continue;
            }
            let known = self.places.find(hash(text), |at| self.texts.get(*at as usize) == text).copied();
            let at = known.unwrap_or_else(|| {
                let at = self.texts.len() as u32;
                self.texts.push(text);
                self.blocks.push(Blocks::default());
                self.places.insert_unique(hash(text), at, |at| hash(self.texts.get(*at as usize)));
                at
            });
            put(&mut self.blocks[at as usize], block);
        }
        put(&mut self.covered, block);
        self.asked.clear();
    }
}

/// A group, and when it was asked last.
type Asked = (u64, Arc<Mutex<Group>>);

#[derive(Debug, Default)]
struct Groups {
    known: HashMap<(u64, Column), Asked, Mixing>,
    asks: u64,
    bytes: usize,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct TextIndex(Mutex<Groups>);

impl TextIndex {
    /// Whether an entry of the block's column may have `needle`, which is in lower case, in it; letter case is ignored. `None`:
    /// its entries have to be asked.
    pub(super) fn may_have(&self, block: u64, column: Column, needle: &str) -> Option<bool> {
        let group = {
            let mut groups = lock(&self.0);
            groups.asks += 1;
            let now = groups.asks;
            let (asked, group) = groups.known.get_mut(&(block >> GROUP_BITS, column))?;
            *asked = now;
            Arc::clone(group)
        };
        let mut group = lock(&group);
        if !has(&group.covered, block) {
            return None;
        }
        group.may_have(needle).map(|blocks| has(&blocks, block))
    }

    /// What the block's column has.
    pub(super) fn learn(&self, block: u64, column: Column, entries: &Entries) {
        let key = (block >> GROUP_BITS, column);
        let group = {
            let mut groups = lock(&self.0);
            let asks = groups.asks;
            Arc::clone(&groups.known.entry(key).or_insert_with(|| (asks, Arc::default())).1)
        };
        let grown = {
            let mut group = lock(&group);
            let before = group.bytes();
            group.learn(block, entries);
            group.bytes() - before
        };
        let mut groups = lock(&self.0);
        groups.bytes += grown;
        while groups.bytes > BYTES_MAX {
            let oldest = groups.known.iter().min_by_key(|(_, (asked, _))| *asked).map(|(key, _)| *key);
            let Some((_, gone)) = oldest.and_then(|key| groups.known.remove(&key)) else { return };
            // What somebody adds to it right now is not counted any more, and gone with it.
            groups.bytes = groups.bytes.saturating_sub(lock(&gone).bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entries(texts: &[String]) -> Entries {
        let mut entries = Entries::default();
        // Each begins with its kind, as in a block.
        texts.iter().for_each(|text| entries.push(format!("\x01{text}").as_bytes()));
        entries
    }

    proptest! {
        #[test]
        fn no_block_with_the_text_is_ruled_out(
            blocks in prop::collection::vec(prop::collection::vec("[abAB]{0,4}|[aé]{0,2}", 0..6), 1..12),
            needles in prop::collection::vec("[ab]{1,3}", 1..12),
        ) {
            let index = TextIndex::default();
            // Not beside each other, and in several groups.
            let number = |at: usize| at as u64 * 75;
            let column = Column(1000);
            for (at, texts) in blocks.iter().enumerate() {
                prop_assert_eq!(index.may_have(number(at), column, "a"), None);
                index.learn(number(at), column, &entries(texts));
                for needle in &needles {
                    for (at, texts) in blocks.iter().enumerate().take(at + 1) {
                        let has = texts.iter().any(|text| text.to_lowercase().contains(needle));
                        let others = texts.iter().any(|text| !text.is_ascii());
                        prop_assert_eq!(index.may_have(number(at), column, needle), Some(has || others));
                    }
                }
            }
            prop_assert_eq!(index.may_have(0, Column(1001), "a"), None);
        }
    }

    #[test]
    fn it_keeps_to_its_room_and_forgets_who_was_asked_the_longest_ago() {
        let index = TextIndex::default();
        let texts: Vec<String> = (0..60_000).map(|n| format!("{n:x}.example")).collect();
        let entries = entries(&texts);
        for group in 0..60u64 {
            index.learn(group << GROUP_BITS, Column(1000), &entries);
            assert!(lock(&index.0).bytes <= BYTES_MAX);
            assert_eq!(index.may_have(0, Column(1000), "fff.example"), Some(true), "asked all the time");
            // As many texts again have no room: nothing is known of that block.
            index.learn((group << GROUP_BITS) + 1, Column(1000), &entries);
            assert_eq!(index.may_have((group << GROUP_BITS) + 1, Column(1000), "fff"), None);
        }
        assert_eq!(index.may_have(1 << GROUP_BITS, Column(1000), "fff"), None);
        assert_eq!(index.may_have(59 << GROUP_BITS, Column(1000), "fff"), Some(true));
    }
}
