//! Sums by combinations of values: counted on the codes of a block's dictionaries, put together by value afterwards.

use std::collections::HashMap;
use std::rc::Rc;

use gnomon_flow::{Field, StoredFlow, Value, field};

use super::aggregate::Sums;
use super::coded::Coded;
use super::distinct::{Distinct, OF_ROW, hash_of};
use super::values::{Values, values};
use crate::store::block::bloom::Mixing;
use crate::store::live::RowSet;
use crate::store::{Reader, StoreError};

/// Combinations of values that one record counts for.
pub(super) const COMBINATIONS_MAX: usize = 256;
/// Fields whose codes fit one key.
const CODED_FIELDS_MAX: usize = 4;

/// Different values of one record, times the rows it counts for, that are counted.
const PAIRS_MAX: usize = 4096;
/// What the different values of all rows may take; beyond it new ones are not counted.
const DISTINCT_BYTES_MAX: usize = 64 << 20;

/// What is grouped by, and whose different values are counted in each row.
pub(super) struct GroupBy {
    pub(super) fields: Vec<&'static Field>,
    pub(super) distinct: Vec<&'static Field>,
}

/// A row of a group-by.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) sums: Sums,
    /// One a field of [`GroupBy::distinct`].
    pub(super) distinct: Vec<Distinct>,
}

/// The rows of a group-by so far.
#[derive(Debug, Default)]
pub(super) struct Groups {
    pub(super) rows: HashMap<Box<[Value<'static>]>, Tally, Mixing>,
    key_bytes: usize,
    distinct_bytes: usize,
    /// Values that were not counted because the different ones took too much.
    unseen: u64,
    /// Records in rows that were not begun because there were too many.
    pub(super) uncounted: u64,
    /// Records that had more combinations than are counted.
    pub(super) cut: u64,
}

/// Different rows that are counted at once; beyond them new ones are not begun.
pub(super) const KEYS_MAX: usize = 200_000;
/// Bytes of text that the keys may hold together.
const KEY_BYTES_MAX: usize = 64 << 20;

/// The packets and bytes of each row.
pub(super) struct Measures {
    packets: Rc<Vec<u64>>,
    bytes: Rc<Vec<u64>>,
}

impl Measures {
    pub(super) fn of(block: &Reader) -> Result<Measures, StoreError> {
        let column = |name: &'static str| -> Result<Rc<Vec<u64>>, StoreError> {
            let of_field = field::by_name(name).map(|field| values(field, block)).transpose()?.flatten();
            Ok(match of_field.and_then(|mut lists| lists.pop()) {
                Some(Values::Integers { values, .. }) => values,
                _ => Rc::new(vec![0; block.rows()]),
            })
        };
        Ok(Measures { packets: column("packets")?, bytes: column("bytes")? })
    }

    pub(super) fn add(&self, row: usize, sums: &mut Sums) {
        sums.flows += 1;
        sums.packets = sums.packets.saturating_add(self.packets.get(row).copied().unwrap_or(0));
        sums.bytes = sums.bytes.saturating_add(self.bytes.get(row).copied().unwrap_or(0));
    }
}

/// Sums by the values of one field; `None` in a key where there is none.
pub(super) type ByCode<K> = HashMap<(K, u32), Sums, Mixing>;

impl Groups {
    /// Counts rows of a block.
    pub(super) fn add_rows(&mut self, by: &GroupBy, block: &Reader, rows: &RowSet) -> Result<(), StoreError> {
        let coded = |fields: &[&'static Field]| -> Result<Option<Vec<Coded>>, StoreError> {
            fields.iter().map(|field| Coded::of(field, block, rows)).collect()
        };
        let keys = if by.fields.len() <= CODED_FIELDS_MAX { coded(&by.fields)? } else { None };
        let (Some(keys), Some(distinct)) = (keys, coded(&by.distinct)?) else {
            for row in rows.iter() {
                self.add(by, &block.flow(row)?);
            }
            return Ok(());
        };
        let measures = Measures::of(block)?;
        let mut places: HashMap<u128, u32, Mixing> = HashMap::default();
        let mut sums: Vec<Sums> = Vec::new();
        // Of each field: the place of a row of the answer, then the number of a value in it.
        let mut pairs: Vec<Vec<u64>> = vec![Vec::new(); distinct.len()];
        let (mut numbers, mut found, mut hit) = (vec![Vec::new(); by.fields.len()], Vec::new(), Vec::new());
        for row in rows.iter() {
            for (of_field, found) in keys.iter().zip(&mut numbers) {
                of_field.each(row, found);
            }
            if numbers.iter().any(Vec::is_empty) {
                continue;
            }
            hit.clear();
            let mut whole = combinations(&numbers, |at| {
                let key = at
                    .iter()
                    .zip(&numbers)
                    .fold(0, |key, (i, of_field)| key << 32 | u128::from(of_field[*i]));
                let place = *places.entry(key).or_insert_with(|| {
                    sums.push(Sums::default());
                    sums.len() as u32 - 1
                });
                measures.add(row, &mut sums[place as usize]);
                hit.push(place);
            });
            for (of_field, pairs) in distinct.iter().zip(&mut pairs) {
                of_field.each(row, &mut found);
                whole &= hit.len() * found.len() <= PAIRS_MAX;
                let all = hit.iter().flat_map(|place| {
                    found.iter().map(|number| u64::from(*place) << 32 | u64::from(*number))
                });
                pairs.extend(all.take(PAIRS_MAX));
            }
            self.cut += u64::from(!whole);
        }
        let mut tallies: Vec<Tally> =
            sums.into_iter().map(|sums| Tally { sums, distinct: Vec::new() }).collect();
        for (at, (of_field, mut pairs)) in distinct.iter().zip(pairs).enumerate() {
            tallies.iter_mut().for_each(|tally| tally.distinct.push(Distinct::default()));
            let hashes: Vec<u64> = of_field.values.iter().map(hash_of).collect();
            pairs.sort_unstable();
            pairs.dedup();
            for pair in pairs {
                tallies[(pair >> 32) as usize].distinct[at].add(OF_ROW, hashes[pair as u32 as usize]);
            }
        }
        for (mut key, place) in places {
            let mut values = vec![Value::Bool(false); by.fields.len()];
            for (value, of_field) in values.iter_mut().zip(&keys).rev() {
                *value = of_field.values[key as u32 as usize].clone();
                key >>= 32;
            }
            self.add_tally(values, std::mem::take(&mut tallies[place as usize]));
        }
        Ok(())
    }

    /// Counts one record.
    pub(super) fn add(&mut self, by: &GroupBy, flow: &StoredFlow) {
        let mut values: Vec<Vec<Value<'static>>> = Vec::with_capacity(by.fields.len());
        for field in &by.fields {
            let mut of_field = Vec::new();
            distinct(field, flow, &mut of_field);
            if of_field.is_empty() {
                return;
            }
            values.push(of_field);
        }
        let sums = Sums::of(flow);
        let mut keys = Vec::new();
        let mut whole = combinations(&values, |at| {
            keys.push(at.iter().zip(&values).map(|(i, of_field)| of_field[*i].clone()).collect());
        });
        let mut hashes = Vec::with_capacity(by.distinct.len());
        for field in &by.distinct {
            let mut of_field = Vec::new();
            distinct(field, flow, &mut of_field);
            whole &= keys.len() * of_field.len() <= PAIRS_MAX;
            hashes.push(of_field.iter().map(hash_of).collect::<Vec<_>>());
        }
        for (at, key) in keys.into_iter().enumerate() {
            let of_field = |hashes: &Vec<u64>| {
                let left = PAIRS_MAX.saturating_sub(at * hashes.len());
                let mut of_field = Distinct::default();
                hashes.iter().take(left).for_each(|hash| {
                    of_field.add(OF_ROW, *hash);
                });
                of_field
            };
            self.add_tally(key, Tally { sums, distinct: hashes.iter().map(of_field).collect() });
        }
        self.cut += u64::from(!whole);
    }

    fn add_tally(&mut self, key: Vec<Value<'static>>, mut tally: Tally) {
        if let Some(known) = self.rows.get_mut(key.as_slice()) {
            known.sums.merge(&tally.sums);
            for (known, more) in known.distinct.iter_mut().zip(&tally.distinct) {
                if known.grows() && self.distinct_bytes > DISTINCT_BYTES_MAX {
                    self.unseen += 1;
                } else {
                    self.distinct_bytes += known.merge(OF_ROW, more);
                }
            }
            return;
        }
        let text = |value: &Value<'_>| if let Value::Text(text) = value { text.len() } else { 0 };
        let bytes: usize = key.iter().map(text).sum();
        if self.rows.len() >= KEYS_MAX || self.key_bytes + bytes > KEY_BYTES_MAX {
            self.uncounted += tally.sums.flows;
            return;
        }
        self.key_bytes += bytes;
        if self.distinct_bytes > DISTINCT_BYTES_MAX {
            self.unseen += tally.distinct.len() as u64;
            tally.distinct.fill_with(Distinct::default);
        }
        self.distinct_bytes += tally.distinct.iter().map(Distinct::bytes).sum::<usize>();
        self.rows.insert(key.into_boxed_slice(), tally);
    }

    /// Takes in what another thread counted.
    pub(super) fn merge(&mut self, other: Groups) {
        self.uncounted += other.uncounted;
        self.cut += other.cut;
        self.unseen += other.unseen;
        for (key, tally) in other.rows {
            self.add_tally(key.into_vec(), tally);
        }
    }

    pub(super) fn partial(&self) -> Vec<String> {
        let mut reasons = Vec::new();
        if self.uncounted > 0 {
            reasons.push(format!(
                "more than {} different rows: those first seen beyond are left out, so that sums may be too low",
                self.rows.len()
            ));
        }
        if self.unseen > 0 {
            reasons.push(format!(
                "different values took more than {} MiB: distinct counts may be too low; group by fewer values, or narrow the question",
                DISTINCT_BYTES_MAX >> 20
            ));
        }
        if self.cut > 0 {
            reasons
                .push(format!("{} flows have more than {COMBINATIONS_MAX} combinations of values", self.cut));
        }
        reasons
    }
}

/// Calls `each` with the places of every combination, in the order of an odometer; false when there were more than are
/// counted.
fn combinations<T>(lists: &[Vec<T>], mut each: impl FnMut(&[usize])) -> bool {
    let mut at = vec![0usize; lists.len()];
    for _ in 0..COMBINATIONS_MAX {
        each(&at);
        let Some(turn) = (0..at.len()).rev().find(|i| at[*i] + 1 < lists[*i].len()) else { return true };
        at[turn] += 1;
        at[turn + 1..].fill(0);
    }
    false
}

/// The different values that `flow` has in `field`: both ends of a flow may have one address.
pub(super) fn distinct(field: &Field, flow: &StoredFlow, values: &mut Vec<Value<'static>>) {
    field.each(flow, &mut |value| values.push(value.into_owned()));
    if values.len() > 1 {
        values.sort_unstable();
        values.dedup();
    }
}
