//! Makes the rollups of blocks: the most frequent values of each field, so that facets of everything need not read
//! everything.

use std::cmp::Reverse;
use std::collections::HashSet;

use gnomon_flow::{Field, Value};

use super::facet_counts::OfField;
use super::facets::faceted;
use super::rollup_groups::GroupRoller;
use super::values::of_source;
use crate::store::block::bloom::Mixing;
use crate::store::rollup::{Rolled, Rollup};
use crate::store::{Reader, Store, StoreError};

/// What a block's rollup keeps of a field: the rarer values are what an answer misses.
const OF_BLOCK: Room = Room { values: 256, bytes: 16 << 10 };
/// Blocks of one round, so that catching up after an upgrade leaves room for others.
const BLOCKS_A_ROUND: usize = 16;

/// The fields that are rolled up. What all records of a source share is read from the source: an agent's name may change.
pub(super) fn rolled_up() -> impl Iterator<Item = &'static Field> {
    faceted().filter(|field| !of_source(field))
}

pub(super) fn is_rolled_up(field: &Field) -> bool {
    rolled_up().any(|rolled| rolled.id == field.id)
}

/// How much of a field is kept.
#[derive(Clone, Copy)]
pub(super) struct Room {
    pub(super) values: usize,
    /// Of text.
    pub(super) bytes: usize,
}

impl Room {
    /// The most frequent values that there is room for, and the largest count that is left out.
    pub(super) fn keep(self, mut values: Vec<(Value<'static>, u64)>) -> (Vec<(Value<'static>, u64)>, u64) {
        values.sort_unstable_by(|(a, of_a), (b, of_b)| (Reverse(of_a), a).cmp(&(Reverse(of_b), b)));
        let mut room = self.bytes;
        let fits = values.iter().take(self.values).take_while(|(value, _)| {
            let bytes = if let Value::Text(text) = value { text.len() } else { 0 };
            let fits = bytes < room;
            room = room.saturating_sub(bytes);
            fits
        });
        let fits = fits.count();
        let missed = values.get(fits).map_or(0, |(_, count)| *count);
        // Of those that are as frequent as one left out some would be kept by chance, and say nothing.
        let kept = values.iter().take_while(|(_, count)| *count > missed).count();
        values.truncate(kept);
        (values, missed)
    }
}

/// Makes rollups of blocks that have none, and of groups of blocks.
pub struct Roller {
    store: Store,
    /// Blocks that have one, or of which none can be made.
    done: HashSet<u64, Mixing>,
    groups: GroupRoller,
    bytes: u64,
}

impl Roller {
    pub fn new(store: Store) -> Roller {
        let groups = GroupRoller::new(store.clone());
        Roller { store, done: HashSet::default(), groups, bytes: 0 }
    }

    /// Of all it made, before the database compresses them.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Makes the next few, and says how many. Blocking.
    ///
    /// # Errors
    /// When the database cannot be read or written. A damaged block is passed.
    pub fn round(&mut self) -> Result<usize, StoreError> {
        let blocks = self.store.blocks();
        self.groups.look(&blocks)?;
        let mut made = 0;
        for block in blocks.iter().rev() {
            if made >= BLOCKS_A_ROUND {
                return Ok(made);
            }
            if self.done.contains(&block.id) {
                continue;
            }
            // What a group's rollup was made of is there: at a start that saves reading thousands of them.
            if !self.groups.has(block.id) && !self.store.has_rollup(block.id)? {
                match of(&self.store.read(block)) {
                    Ok(rollup) => self.bytes += self.store.put_rollup(block.id, &rollup)?,
                    // A question that reads the block says so.
                    Err(error) if error.is_damage() => {}
                    Err(StoreError::BlockGone { .. }) => {}
                    Err(error) => return Err(error),
                }
                made += 1;
            }
            self.done.insert(block.id);
        }
        let there: HashSet<u64, Mixing> = blocks.iter().map(|block| block.id).collect();
        self.done.retain(|id| there.contains(id));
        let (groups, bytes) = self.groups.round(&blocks)?;
        self.bytes += bytes;
        Ok(made + groups)
    }
}

fn of(block: &Reader) -> Result<Rollup, StoreError> {
    // All rows: which of them have gone may change, and then the rollup is not asked.
    let rows = crate::store::live::RowSet::all(block.rows());
    let mut fields = Vec::new();
    for field in rolled_up() {
        let mut counts = OfField::default();
        if !counts.add_rows(field, block, &rows)? {
            continue;
        }
        let (values, missed) = OF_BLOCK.keep(counts.values.all());
        let flows = counts.flows;
        fields.push(Rolled { field: field.id, flows, missed, values });
    }
    fields.sort_by_key(|rolled| rolled.field);
    Ok(Rollup { rows: block.rows() as u64, sources: block.sources()?, fields })
}
