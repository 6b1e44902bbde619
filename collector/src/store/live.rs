//! What searches see: the records that are in no block yet, and the blocks. One writer changes it, any number of readers
//! take a [`View`].

use std::collections::HashSet;
use std::sync::Arc;

use gnomon_clock::UtcNs;
use gnomon_flow::{EpochHash, FlowRef, Pair, StoredFlow, TimeState};

use super::block::Summary;
use super::block::bloom::Mixing;
use super::epochs::Testimony;
use super::hot::{Hot, Run};
use super::pairs::PairIndex;

/// A block in the database. Replaced when something beside its columns changes.
#[derive(Clone, Debug)]
pub(crate) struct Sealed {
    pub(crate) id: u64,
    pub(crate) summary: Arc<Summary>,
    pub(crate) dead: Arc<RowSet>,
    /// By the evidence of now; `None` when that says nothing, as for held records.
    pub(crate) times: Option<Times>,
}

/// What the times of a block's records lie between.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Times {
    pub(crate) first_min: UtcNs,
    pub(crate) first_max: UtcNs,
    pub(crate) last_max: UtcNs,
}

impl Sealed {
    /// Its records wait outside the time index.
    pub(crate) fn held(&self) -> bool {
        self.summary.held
    }

    /// Records in it that are alive.
    pub(crate) fn records(&self) -> u64 {
        self.summary.rows.saturating_sub(self.dead.len()) as u64
    }
}

/// Rows of a block.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RowSet {
    words: Vec<u64>,
    len: usize,
}

impl RowSet {
    pub(crate) fn none(rows: usize) -> RowSet {
        RowSet { words: vec![0; rows.div_ceil(64)], len: 0 }
    }

    pub(crate) fn all(rows: usize) -> RowSet {
        let mut set = RowSet { words: vec![u64::MAX; rows.div_ceil(64)], len: rows };
        if let Some(last) = set.words.last_mut().filter(|_| !rows.is_multiple_of(64)) {
            *last = (1 << (rows % 64)) - 1;
        }
        set
    }

    /// The rows for which `wanted` holds.
    pub(crate) fn of(rows: usize, mut wanted: impl FnMut(usize) -> bool) -> RowSet {
        let mut set = RowSet::none(rows);
        for (at, word) in set.words.iter_mut().enumerate() {
            let from = at * 64;
            let mut bits = 0u64;
            for bit in 0..(rows - from).min(64) {
                bits |= u64::from(wanted(from + bit)) << bit;
            }
            *word = bits;
        }
        set.count();
        set
    }

    fn count(&mut self) {
        self.len = self.words.iter().map(|word| word.count_ones() as usize).sum();
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(crate) fn has(&self, row: usize) -> bool {
        self.words.get(row / 64).is_some_and(|word| word & (1 << (row % 64)) != 0)
    }

    pub(crate) fn insert(&mut self, row: usize) {
        if self.words.len() <= row / 64 {
            self.words.resize(row / 64 + 1, 0);
        }
        let word = &mut self.words[row / 64];
        self.len += usize::from(*word & (1 << (row % 64)) == 0);
        *word |= 1 << (row % 64);
    }

    pub(crate) fn intersect(&mut self, other: &RowSet) {
        for (at, word) in self.words.iter_mut().enumerate() {
            *word &= other.words.get(at).copied().unwrap_or(0);
        }
        self.count();
    }

    pub(crate) fn unite(&mut self, other: &RowSet) {
        if self.words.len() < other.words.len() {
            self.words.resize(other.words.len(), 0);
        }
        for (word, more) in self.words.iter_mut().zip(&other.words) {
            *word |= more;
        }
        self.count();
    }

    pub(crate) fn remove(&mut self, other: &RowSet) {
        for (word, less) in self.words.iter_mut().zip(&other.words) {
            *word &= !less;
        }
        self.count();
    }

    /// Rising.
    pub(crate) fn iter(&self) -> impl Iterator<Item = usize> {
        self.words.iter().enumerate().flat_map(|(at, word)| {
            let mut word = *word;
            std::iter::from_fn(move || {
                if word == 0 {
                    return None;
                }
                let bit = word.trailing_zeros() as usize;
                word &= word - 1;
                Some(at * 64 + bit)
            })
        })
    }

    /// As [`RowSet::iter`], for loops that do little with each.
    pub(crate) fn each(&self, mut each: impl FnMut(usize)) {
        for (at, word) in self.words.iter().enumerate() {
            if *word == u64::MAX {
                (at * 64..at * 64 + 64).for_each(&mut each);
                continue;
            }
            let mut word = *word;
            while word != 0 {
                each(at * 64 + word.trailing_zeros() as usize);
                word &= word - 1;
            }
        }
    }

    /// As [`RowSet::each`], of those below `end`: where a table has no more.
    pub(crate) fn each_below(&self, end: usize, mut each: impl FnMut(usize)) {
        if end >= self.words.len() * 64 {
            return self.each(each);
        }
        for (at, word) in self.words.iter().enumerate().take(end.div_ceil(64)) {
            let mut word = *word;
            while word != 0 {
                let row = at * 64 + word.trailing_zeros() as usize;
                if row < end {
                    each(row);
                }
                word &= word - 1;
            }
        }
    }

    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        self.words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> RowSet {
        let words = bytes.chunks_exact(8).map(|b| u64::from_le_bytes(std::array::from_fn(|i| b[i])));
        let mut set = RowSet { words: words.collect(), len: 0 };
        set.count();
        set
    }
}

/// How many records there are of each kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) indexed: u64,
    pub(super) pending: u64,
    pub(super) quarantined: u64,
}

impl Counts {
    fn of(&mut self, state: TimeState) -> &mut u64 {
        match state {
            TimeState::Indexed => &mut self.indexed,
            TimeState::Pending => &mut self.pending,
            TimeState::Quarantined => &mut self.quarantined,
        }
    }

    pub(super) fn held(&self) -> u64 {
        self.pending + self.quarantined
    }
}

/// Everything there is. See the module.
#[derive(Debug, Default)]
pub(super) struct Live {
    hot: Hot,
    /// By id. Shared with readers, copied when it changes.
    blocks: Arc<Vec<Arc<Sealed>>>,
    /// Of the hot records.
    pub(super) counts: Counts,
    /// Hot records that nothing will change any more, by whether they are indexed.
    finals: [usize; 2],
    /// What all hot records' metadata takes of memory: lists of values too, not their text alone.
    metadata_bytes: usize,
    /// Evidence moved records, and not all that was kept of their times follows it yet.
    pub(super) unsettled: bool,
    /// The hot records' pairs, while somebody asks for them.
    pairs: Option<PairIndex>,
}

/// What a reader sees: it does not change.
#[derive(Clone, Debug)]
pub(crate) struct View {
    pub(crate) hot: Vec<Arc<Run>>,
    pub(crate) blocks: Arc<Vec<Arc<Sealed>>>,
    /// The evidence of then.
    pub(super) testimony: Arc<Testimony>,
    /// The times that records and blocks were put away with are near those by `testimony`.
    pub(super) settled: bool,
}

impl View {
    /// The records that are in no block.
    pub(crate) fn hot(&self) -> impl Iterator<Item = &Arc<StoredFlow>> {
        self.hot.iter().flat_map(|run| run.flows())
    }
}

impl Live {
    /// `testimony` is of this moment: who changes it does so while he changes this.
    pub(super) fn view(&self, testimony: Arc<Testimony>) -> View {
        View {
            hot: self.hot.runs().to_vec(),
            blocks: Arc::clone(&self.blocks),
            testimony,
            settled: !self.unsettled,
        }
    }

    pub(super) fn get(&self, id: FlowRef) -> Option<&Arc<StoredFlow>> {
        self.hot.get(id)
    }

    pub(super) fn hot(&self) -> impl Iterator<Item = (FlowRef, &Arc<StoredFlow>)> {
        self.hot.iter()
    }

    pub(super) fn hot_len(&self) -> usize {
        self.hot.len()
    }

    pub(super) fn metadata_bytes(&self) -> usize {
        self.metadata_bytes
    }

    /// Final records, indexed or (`false`) held.
    pub(super) fn finals(&self, indexed: bool) -> usize {
        self.finals[usize::from(indexed)]
    }

    pub(super) fn insert(&mut self, id: FlowRef, flow: Arc<StoredFlow>) {
        self.remove(id);
        *self.counts.of(flow.time_state) += 1;
        self.metadata_bytes += flow.record.attributes.bytes();
        if flow.record.end.is_some() {
            self.finals[usize::from(flow.time_state == TimeState::Indexed)] += 1;
        }
        if let Some(pairs) = &mut self.pairs {
            pairs.insert(id, &flow);
        }
        self.hot.insert(id, flow);
    }

    pub(super) fn remove(&mut self, id: FlowRef) {
        let Some(flow) = self.hot.remove(id) else { return };
        if let Some(pairs) = &mut self.pairs {
            pairs.remove(id, &flow);
        }
        let count = self.counts.of(flow.time_state);
        *count = count.saturating_sub(1);
        self.metadata_bytes = self.metadata_bytes.saturating_sub(flow.record.attributes.bytes());
        if flow.record.end.is_some() {
            let finals = &mut self.finals[usize::from(flow.time_state == TimeState::Indexed)];
            *finals = finals.saturating_sub(1);
        }
    }

    /// From now on, or no longer, hot records are found by their pairs.
    pub(super) fn index_pairs(&mut self, wanted: bool) {
        if wanted == self.pairs.is_some() {
            return;
        }
        self.pairs = wanted.then(|| {
            let mut pairs = PairIndex::default();
            self.hot.iter().for_each(|(id, flow)| pairs.insert(id, flow));
            pairs
        });
    }

    /// Hot records of a pair, while they are found by it.
    pub(super) fn of_pair(&self, pair: &Pair) -> impl Iterator<Item = (FlowRef, &Arc<StoredFlow>)> {
        let ids = self.pairs.iter().flat_map(|pairs| pairs.of(pair));
        let found = ids.filter_map(|id| Some((id, self.hot.get(id)?)));
        found.filter(|(_, flow)| Pair::of(&flow.record.key).as_ref() == Some(pair))
    }

    pub(super) fn blocks(&self) -> &Arc<Vec<Arc<Sealed>>> {
        &self.blocks
    }

    pub(super) fn block(&self, id: u64) -> Option<&Arc<Sealed>> {
        let at = self.blocks.binary_search_by_key(&id, |block| block.id).ok()?;
        self.blocks.get(at)
    }

    /// Puts blocks in their places, over those of the same id, and takes those in `gone` out.
    pub(super) fn change_blocks(&mut self, changed: Vec<Arc<Sealed>>, gone: &[u64]) {
        if changed.is_empty() && gone.is_empty() {
            return;
        }
        let blocks = Arc::make_mut(&mut self.blocks);
        if !gone.is_empty() {
            let gone: HashSet<u64, Mixing> = gone.iter().copied().collect();
            blocks.retain(|block| !gone.contains(&block.id));
        }
        for block in changed {
            match blocks.binary_search_by_key(&block.id, |known| known.id) {
                Ok(at) => blocks[at] = block,
                Err(at) => blocks.insert(at, block),
            }
        }
    }

    /// Ids of hot records for which `wanted` holds.
    pub(super) fn select(&self, mut wanted: impl FnMut(&FlowRef, &StoredFlow) -> bool) -> Vec<FlowRef> {
        self.hot.iter().filter(|(id, flow)| wanted(id, flow)).map(|(id, _)| id).collect()
    }

    /// Held records of each epoch.
    pub(super) fn has_held(&self, epoch: EpochHash) -> bool {
        self.hot.iter().any(|(id, flow)| id.epoch == epoch && flow.time_state != TimeState::Indexed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_row_set_is_a_set(rows in 1usize..300, a: Vec<prop::sample::Index>, b: Vec<prop::sample::Index>) {
            use std::collections::BTreeSet;
            let set = |list: &[prop::sample::Index]| -> BTreeSet<usize> { list.iter().map(|i| i.index(rows)).collect() };
            let (a, b) = (set(&a), set(&b));
            let of = |s: &BTreeSet<usize>| RowSet::of(rows, |row| s.contains(&row));
            let same = |s: &RowSet, m: BTreeSet<usize>| s.len() == m.len() && s.iter().eq(m.iter().copied()) && m.iter().all(|row| s.has(*row)) && {
                let mut rows = Vec::new();
                s.each(|row| rows.push(row));
                rows.iter().eq(m.iter())
            };
            prop_assert!(same(&of(&a), a.clone()));
            let mut c = of(&a);
            c.intersect(&of(&b));
            prop_assert!(same(&c, &a & &b));
            let mut c = of(&a);
            c.unite(&of(&b));
            prop_assert!(same(&c, &a | &b));
            let mut c = of(&a);
            c.remove(&of(&b));
            prop_assert!(same(&c, &a - &b));
            let mut c = RowSet::all(rows);
            c.remove(&of(&b));
            prop_assert_eq!(c.len(), rows - b.len());
            let mut c = RowSet::default();
            a.iter().for_each(|row| c.insert(*row));
            prop_assert!(same(&RowSet::from_bytes(&c.to_bytes()), a));
        }
    }
}
