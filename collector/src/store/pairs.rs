//! Records by who spoke with whom: which of those in no block an alert may be about, without a look at each.

use std::collections::HashMap;
use std::hash::BuildHasher;

use gnomon_flow::{FlowRef, Pair, StoredFlow};

use super::block::bloom::Mixing;

/// By a hash of the pair, so that what is found has to be compared. Most pairs have one record, which takes no list.
#[derive(Debug, Default)]
pub(super) struct PairIndex {
    ids: HashMap<u64, (FlowRef, Vec<FlowRef>), Mixing>,
}

impl PairIndex {
    fn hash(&self, pair: &Pair) -> u64 {
        self.ids.hasher().hash_one(pair)
    }

    pub(super) fn insert(&mut self, id: FlowRef, flow: &StoredFlow) {
        let Some(pair) = Pair::of(&flow.record.key) else { return };
        let hash = self.hash(&pair);
        let mut new = false;
        let (_, more) = self.ids.entry(hash).or_insert_with(|| {
            new = true;
            (id, Vec::new())
        });
        if !new {
            more.push(id);
        }
    }

    pub(super) fn remove(&mut self, id: FlowRef, flow: &StoredFlow) {
        let Some(pair) = Pair::of(&flow.record.key) else { return };
        let hash = self.hash(&pair);
        let Some((one, more)) = self.ids.get_mut(&hash) else { return };
        if *one != id {
            more.retain(|other| *other != id);
        } else if let Some(last) = more.pop() {
            *one = last;
        } else {
            self.ids.remove(&hash);
        }
    }

    /// Those that may be of `pair`.
    pub(super) fn of(&self, pair: &Pair) -> impl Iterator<Item = FlowRef> {
        let found = self.ids.get(&self.hash(pair));
        found.into_iter().flat_map(|(one, more)| std::iter::once(*one).chain(more.iter().copied()))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::store::testing::record;
    use gnomon_clock::sim::SimRandom;

    #[test]
    fn it_knows_what_was_put_and_forgets_what_was_taken() {
        let mut random = SimRandom::new(1);
        let mut pick = |to: i64| u64::try_from(random.range(0, to - 1)).unwrap_or(0);
        let flow = |id: u64| {
            let mut record = record(id, 0, 0, 0);
            record.key.orig_port = (id % 5) as u16;
            StoredFlow { record, ..StoredFlow::default() }
        };
        let (mut index, mut there) = (PairIndex::default(), BTreeSet::new());
        for _ in 0..2000 {
            let flow = flow(pick(40));
            let id = flow.id();
            if there.remove(&id) {
                index.remove(id, &flow);
            } else {
                there.insert(id);
                index.insert(id, &flow);
            }
            for other in 0..5 {
                let pair = Pair::of(&record(other, 0, 0, 0).key).unwrap();
                let pair = Pair {
                    ends: pair.ends.map(|(ip, port)| (ip, if port > 1000 { other as u16 } else { port })),
                    ..pair
                };
                let found: BTreeSet<_> = index.of(&pair).collect();
                let expected = there.iter().copied().filter(|id| id.flow.0 % 5 == other).collect();
                assert_eq!(found, expected);
            }
        }
        for id in there {
            index.remove(id, &flow(id.flow.0));
        }
        assert!(index.ids.is_empty());
    }
}
