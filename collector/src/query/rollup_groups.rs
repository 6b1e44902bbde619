//! Makes the rollups of groups of blocks, from those of the blocks: see `store/rollup_group.rs`.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use super::facet_counts::Counts;
use super::rollup::{Room, rolled_up};
use crate::store::block::bloom::Mixing;
use crate::store::live::Sealed;
use crate::store::rollup::{Rolled, Rollup, SourceRows};
use crate::store::rollup_group::{GroupId, LEVELS, RollupGroup};
use crate::store::{Store, StoreError};

/// What a group's rollup keeps of a field, by level. More than a block's, so that what is missed is mostly what the blocks'
/// missed.
const OF_LEVEL: [Room; LEVELS as usize] =
    [Room { values: 512, bytes: 32 << 10 }, Room { values: 1024, bytes: 64 << 10 }];
/// Groups made in one round, so that catching up leaves room for others.
const GROUPS_A_ROUND: usize = 4;

struct Known {
    blocks: Arc<[u64]>,
    /// Blocks of the group, in its rollup or not, when that was found out.
    there: usize,
}

pub(super) struct GroupRoller {
    store: Store,
    /// What the rollups of groups have, as far as that was looked up or made here.
    known: HashMap<GroupId, Known, Mixing>,
    /// Blocks whose rollup cannot be read: no group has them.
    unreadable: HashSet<u64, Mixing>,
    looked: bool,
    /// Blocks that a group's rollup has.
    grouped: HashSet<u64, Mixing>,
}

impl GroupRoller {
    pub(super) fn new(store: Store) -> GroupRoller {
        GroupRoller {
            store,
            known: HashMap::default(),
            unreadable: HashSet::default(),
            looked: false,
            grouped: HashSet::default(),
        }
    }

    /// Whether a group's rollup has the block.
    pub(super) fn has(&self, block: u64) -> bool {
        self.grouped.contains(&block)
    }

    /// Reads what there is of the largest groups, once.
    pub(super) fn look(&mut self, blocks: &[Arc<Sealed>]) -> Result<(), StoreError> {
        if !self.looked {
            for group in blocks.chunk_by(|a, b| GroupId::of(LEVELS, a.id) == GroupId::of(LEVELS, b.id)) {
                self.known(GroupId::of(LEVELS, group[0].id), group.len())?;
            }
            self.looked = true;
        }
        Ok(())
    }

    /// The blocks that a group's rollup has, of `there` that could: none where there is none.
    fn known(&mut self, id: GroupId, there: usize) -> Result<Arc<[u64]>, StoreError> {
        // Where a block went, the rollup went, too.
        if let Some(known) = self.known.get(&id).filter(|known| known.there <= there) {
            return Ok(Arc::clone(&known.blocks));
        }
        // The fields are not decoded.
        let blocks = self.store.group(id, Some(&[]))?.map(|group| group.blocks).unwrap_or_default();
        self.grouped.extend(&blocks);
        let blocks: Arc<[u64]> = blocks.into();
        self.known.insert(id, Known { blocks: Arc::clone(&blocks), there });
        Ok(blocks)
    }

    /// Makes the next few groups whose blocks all have rollups: how many, and their bytes.
    pub(super) fn round(&mut self, blocks: &[Arc<Sealed>]) -> Result<(usize, u64), StoreError> {
        let (Some(oldest), Some(newest)) = (blocks.first(), blocks.last()) else {
            self.known.clear();
            return Ok((0, 0));
        };
        let (oldest, newest) = (oldest.id, newest.id);
        self.known.retain(|id, _| id.last() >= oldest);
        self.grouped.retain(|block| *block >= oldest);
        self.unreadable.retain(|block| *block >= oldest);
        let mut work = Made::default();
        for top in blocks.chunk_by(|a, b| GroupId::of(LEVELS, a.id) == GroupId::of(LEVELS, b.id)) {
            self.settle(LEVELS, top, newest, &mut work)?;
            if work.groups >= GROUPS_A_ROUND {
                break;
            }
        }
        Ok((work.groups, work.bytes))
    }

    /// Makes what is missing of the group that `blocks` are of, from below. Whether all is there now.
    fn settle(
        &mut self,
        level: u8,
        blocks: &[Arc<Sealed>],
        newest: u64,
        work: &mut Made,
    ) -> Result<bool, StoreError> {
        let id = GroupId::of(level, blocks[0].id);
        let wanted: Vec<u64> = blocks.iter().filter(|block| self.fits(block)).map(|block| block.id).collect();
        // Blocks may still come into it.
        let complete = id.last() <= newest;
        if complete && (wanted.is_empty() || *self.known(id, blocks.len())? == *wanted) {
            return Ok(true);
        }
        if level > 1 {
            let mut whole = true;
            for part in blocks.chunk_by(|a, b| GroupId::of(level - 1, a.id) == GroupId::of(level - 1, b.id)) {
                whole &= self.settle(level - 1, part, newest, work)?;
            }
            if !whole {
                return Ok(false);
            }
        }
        if !complete || work.groups >= GROUPS_A_ROUND {
            return Ok(false);
        }
        let made = self.make(id, blocks, &wanted)?;
        work.groups += 1;
        let Some(group) = made else { return Ok(false) };
        work.bytes += self.store.put_group(id, &group)?;
        self.known.insert(id, Known { blocks: group.blocks.into(), there: blocks.len() });
        Ok(true)
    }

    /// Whether the block can be a part of a group: its rollup is right for all that is there.
    fn fits(&self, block: &Sealed) -> bool {
        !block.held() && block.dead.is_empty() && !self.unreadable.contains(&block.id)
    }

    /// `None` where a part cannot be read: then it is made without that the next time.
    fn make(
        &mut self,
        id: GroupId,
        blocks: &[Arc<Sealed>],
        wanted: &[u64],
    ) -> Result<Option<RollupGroup>, StoreError> {
        let mut sum = Sum::new();
        if id.level == 1 {
            for block in blocks.iter().filter(|block| wanted.binary_search(&block.id).is_ok()) {
                let rollup = self.store.rollup(block.id, block.summary.rows, None)?;
                let rollup = match rollup {
                    // One of before there were sources in it.
                    Some(rollup) if rollup.sources.is_empty() => match self.store.read(block).sources() {
                        Ok(sources) => Some(Rollup { sources, ..rollup }),
                        Err(error) if error.is_damage() => None,
                        Err(StoreError::BlockGone { .. }) => return Ok(None),
                        Err(error) => return Err(error),
                    },
                    rollup => rollup,
                };
                let Some(rollup) = rollup else {
                    self.unreadable.insert(block.id);
                    return Ok(None);
                };
                sum.add(&self.store, &rollup)?;
            }
        } else {
            for part in
                blocks.chunk_by(|a, b| GroupId::of(id.level - 1, a.id) == GroupId::of(id.level - 1, b.id))
            {
                let part_id = GroupId::of(id.level - 1, part[0].id);
                if !part.iter().any(|block| wanted.binary_search(&block.id).is_ok()) {
                    continue;
                }
                let Some(group) = self.store.group(part_id, None)? else {
                    // It rotted: it is made anew.
                    self.known.remove(&part_id);
                    return Ok(None);
                };
                sum.add(&self.store, &group.rollup)?;
            }
        }
        let rollup = sum.kept(OF_LEVEL[usize::from(id.level) - 1]);
        Ok(Some(RollupGroup { blocks: wanted.to_vec(), rollup }))
    }
}

/// What a round made.
#[derive(Default)]
struct Made {
    groups: usize,
    bytes: u64,
}

/// Rollups added up.
struct Sum {
    counts: Counts,
    fields: Vec<&'static gnomon_flow::Field>,
    /// Fields that all of them have.
    all_have: Vec<bool>,
    sources: BTreeMap<SourceRows, u64>,
}

impl Sum {
    fn new() -> Sum {
        let fields: Vec<_> = rolled_up().collect();
        let all_have = vec![true; fields.len()];
        Sum { counts: Counts::of(fields.len()), fields, all_have, sources: BTreeMap::new() }
    }

    fn add(&mut self, store: &Store, rollup: &Rollup) -> Result<(), StoreError> {
        for (field, all) in self.fields.iter().zip(&mut self.all_have) {
            *all &= rollup.of(field.id).is_some();
        }
        for source in &rollup.sources {
            let key = SourceRows { rows: 0, ..source.clone() };
            *self.sources.entry(key).or_default() += source.rows;
        }
        self.counts.add_rollup(&self.fields, store, rollup)
    }

    fn kept(self, room: Room) -> Rollup {
        let sources = self.sources.into_iter().map(|(source, rows)| SourceRows { rows, ..source }).collect();
        let mut fields = Vec::new();
        for ((field, of_field), _) in
            self.fields.iter().zip(&self.counts.fields).zip(self.all_have).filter(|(_, all)| *all)
        {
            let (values, left_out) = room.keep(of_field.values.all());
            let missed = of_field.missed + left_out;
            fields.push(Rolled { field: field.id, flows: of_field.flows, missed, values });
        }
        fields.sort_by_key(|rolled| rolled.field);
        Rollup { rows: self.counts.flows, sources, fields }
    }
}
