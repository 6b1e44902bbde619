//! Makes the rollups of blocks: the most frequent values of each field, so that facets of everything need not read
//! everything.

use std::cmp::Reverse;
use std::collections::HashSet;

use gnomon_flow::{Field, Value};

use super::coded::Coded;
use super::facets::faceted;
use crate::store::block::bloom::Mixing;
use crate::store::rollup::{Rolled, Rollup};
use crate::store::{Reader, Store, StoreError};

/// Values of a field that a rollup keeps: the rarer ones are what an answer misses.
const VALUES_KEPT: usize = 256;
/// Text of a field that a rollup keeps.
const FIELD_BYTES_MAX: usize = 16 << 10;
/// Blocks of one round, so that catching up after an upgrade leaves room for others.
const BLOCKS_A_ROUND: usize = 16;

/// The fields that are rolled up. What all records of a source share is read from the source: an agent's name may change.
fn rolled_up() -> impl Iterator<Item = &'static Field> {
    faceted().filter(|field| !(2..=5).contains(&field.id.0))
}

/// Makes rollups of blocks that have none.
pub struct Roller {
    store: Store,
    /// Blocks that have one.
    done: HashSet<u64, Mixing>,
    bytes: u64,
}

impl Roller {
    pub fn new(store: Store) -> Roller {
        Roller { store, done: HashSet::default(), bytes: 0 }
    }

    /// Of all it made, before the database compresses them.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Makes the next few. Blocking.
    ///
    /// # Errors
    /// When the database cannot be read or written. A damaged block is passed.
    pub fn round(&mut self) -> Result<usize, StoreError> {
        let blocks = self.store.blocks();
        let mut made = 0;
        for block in blocks.iter().rev() {
            if made >= BLOCKS_A_ROUND {
                return Ok(made);
            }
            if self.done.contains(&block.id) {
                continue;
            }
            if !self.store.has_rollup(block.id)? {
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
        Ok(made)
    }
}

fn of(block: &Reader) -> Result<Rollup, StoreError> {
    // All rows: which of them have gone may change, and then the rollup is not asked.
    let rows = crate::store::live::RowSet::all(block.rows());
    let mut fields = Vec::new();
    for field in rolled_up() {
        let Some(coded) = Coded::of(field, block, &rows)? else { continue };
        let (counts, flows) = coded.counts(&rows);
        let mut values: Vec<(&Value<'static>, u64)> =
            coded.values.iter().zip(counts).filter(|(_, count)| *count > 0).collect();
        values.sort_unstable_by_key(|(value, count)| (Reverse(*count), *value));
        let mut room = FIELD_BYTES_MAX;
        let kept = values.iter().take(VALUES_KEPT).take_while(|(value, _)| {
            let bytes = if let Value::Text(text) = value { text.len() } else { 0 };
            let fits = bytes < room;
            room = room.saturating_sub(bytes);
            fits
        });
        let missed = values.get(kept.count()).map_or(0, |(_, count)| *count);
        // Of those that are as frequent as one left out some would be kept by chance, and say nothing.
        let kept = values.into_iter().take_while(|(_, count)| *count > missed);
        let values = kept.map(|(value, count)| (value.clone(), count)).collect();
        fields.push(Rolled { field: field.id, flows, missed, values });
    }
    fields.sort_by_key(|rolled| rolled.field);
    Ok(Rollup { rows: block.rows(), fields })
}
