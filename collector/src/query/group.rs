//! Sums by combinations of values: counted on the codes of a block's dictionaries, put together by value afterwards.

use std::collections::HashMap;
use std::rc::Rc;

use gnomon_flow::{Field, StoredFlow, Value, field};

use super::aggregate::Sums;
use super::values::{Codes, Values, values};
use crate::store::block::bloom::Mixing;
use crate::store::live::RowSet;
use crate::store::{Reader, StoreError};

/// Combinations of values that one record counts for.
pub(super) const COMBINATIONS_MAX: usize = 256;
/// Fields whose codes fit one key.
const CODED_FIELDS_MAX: usize = 4;

/// The rows of a group-by so far.
#[derive(Debug, Default)]
pub(super) struct Groups {
    pub(super) rows: HashMap<Box<[Value<'static>]>, Sums, Mixing>,
    key_bytes: usize,
    /// Records in rows that were not begun because there were too many.
    pub(super) uncounted: u64,
    /// Records that had more combinations than are counted.
    pub(super) cut: u64,
}

/// Different rows that are counted at once; beyond them new ones are not begun.
pub(super) const KEYS_MAX: usize = 200_000;
/// Bytes of text that the keys may hold together.
const KEY_BYTES_MAX: usize = 64 << 20;

/// The values of one field in a block by small numbers.
struct Coded {
    values: Vec<Value<'static>>,
    lists: Vec<List>,
}

enum List {
    /// From the codes of a column to the numbers here; `u32::MAX` for what is no value.
    Codes { codes: Codes, numbers: Vec<u32> },
    /// A number here for each row; `u32::MAX` where it has none.
    Rows(Vec<u32>),
}

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

impl Coded {
    fn of(field: &'static Field, block: &Reader, rows: &RowSet) -> Result<Option<Coded>, StoreError> {
        let Some(lists) = values(field, block)? else { return Ok(None) };
        let mut known: HashMap<Value<'static>, u32, Mixing> = HashMap::default();
        let mut integers: HashMap<u64, u32, Mixing> = HashMap::default();
        let mut coded = Coded { values: Vec::new(), lists: Vec::with_capacity(lists.len()) };
        for list in lists {
            coded.lists.push(match list {
                Values::Integers { values: of_rows, present } => {
                    let mut numbers = vec![u32::MAX; of_rows.len()];
                    for row in rows.iter().filter(|row| present.as_ref().is_none_or(|set| set.has(*row))) {
                        let value = of_rows[row];
                        numbers[row] = *integers.entry(value).or_insert_with(|| {
                            coded.values.push(Value::Integer(value));
                            coded.values.len() as u32 - 1
                        });
                    }
                    List::Rows(numbers)
                }
                Values::Coded { entries, codes } => {
                    let number = |entry: Option<Value<'static>>| {
                        let Some(value) = entry else { return u32::MAX };
                        *known.entry(value).or_insert_with_key(|value| {
                            coded.values.push(value.clone());
                            coded.values.len() as u32 - 1
                        })
                    };
                    List::Codes { codes, numbers: entries.into_iter().map(number).collect() }
                }
            });
        }
        Ok(Some(coded))
    }

    /// The different values of a row.
    fn each(&self, row: usize, found: &mut Vec<u32>) {
        found.clear();
        let mut push = |number: u32| {
            if number != u32::MAX && !found.contains(&number) {
                found.push(number);
            }
        };
        for list in &self.lists {
            match list {
                List::Codes { codes, numbers } => {
                    codes.each(row, |code| push(numbers.get(code).copied().unwrap_or(u32::MAX)));
                }
                List::Rows(numbers) => push(numbers[row]),
            }
        }
    }
}

/// Sums by the values of one field; `None` in a key where there is none.
pub(super) type ByCode<K> = HashMap<(K, u32), Sums, Mixing>;

/// Calls `each` with every row and the number of each of its values in `field`; gives the values by number. `None` when
/// columns do not tell.
pub(super) fn each_value(
    field: &'static Field,
    block: &Reader,
    rows: &RowSet,
    mut each: impl FnMut(usize, u32),
) -> Result<Option<Vec<Value<'static>>>, StoreError> {
    let Some(coded) = Coded::of(field, block, rows)? else { return Ok(None) };
    let mut found = Vec::new();
    for row in rows.iter() {
        coded.each(row, &mut found);
        found.iter().take(COMBINATIONS_MAX).for_each(|number| each(row, *number));
    }
    Ok(Some(coded.values))
}

impl Groups {
    /// Counts rows of a block.
    pub(super) fn add_rows(
        &mut self,
        fields: &[&'static Field],
        block: &Reader,
        rows: &RowSet,
    ) -> Result<(), StoreError> {
        let mut coded = Vec::with_capacity(fields.len());
        if fields.len() <= CODED_FIELDS_MAX {
            for field in fields {
                match Coded::of(field, block, rows)? {
                    Some(of_field) => coded.push(of_field),
                    None => break,
                }
            }
        }
        if coded.len() < fields.len() {
            for row in rows.iter() {
                self.add(fields, &block.flow(row)?);
            }
            return Ok(());
        }
        let measures = Measures::of(block)?;
        let mut local: HashMap<u128, Sums, Mixing> = HashMap::default();
        let mut numbers = vec![Vec::new(); fields.len()];
        for row in rows.iter() {
            for (of_field, found) in coded.iter().zip(&mut numbers) {
                of_field.each(row, found);
            }
            if numbers.iter().any(Vec::is_empty) {
                continue;
            }
            let whole = combinations(&numbers, |at| {
                let key = at
                    .iter()
                    .zip(&numbers)
                    .fold(0, |key, (i, of_field)| key << 32 | u128::from(of_field[*i]));
                measures.add(row, local.entry(key).or_default());
            });
            self.cut += u64::from(!whole);
        }
        for (mut key, sums) in local {
            let mut values = vec![Value::Bool(false); fields.len()];
            for (value, of_field) in values.iter_mut().zip(&coded).rev() {
                *value = of_field.values[key as u32 as usize].clone();
                key >>= 32;
            }
            self.add_sums(values, &sums);
        }
        Ok(())
    }

    /// Counts one record.
    pub(super) fn add(&mut self, fields: &[&'static Field], flow: &StoredFlow) {
        let mut values: Vec<Vec<Value<'static>>> = Vec::with_capacity(fields.len());
        for field in fields {
            let mut of_field = Vec::new();
            distinct(field, flow, &mut of_field);
            if of_field.is_empty() {
                return;
            }
            values.push(of_field);
        }
        let sums = Sums::of(flow);
        let mut keys = Vec::new();
        let whole = combinations(&values, |at| {
            keys.push(at.iter().zip(&values).map(|(i, of_field)| of_field[*i].clone()).collect());
        });
        keys.into_iter().for_each(|key| self.add_sums(key, &sums));
        self.cut += u64::from(!whole);
    }

    fn add_sums(&mut self, key: Vec<Value<'static>>, sums: &Sums) {
        if let Some(known) = self.rows.get_mut(key.as_slice()) {
            return known.merge(sums);
        }
        let text = |value: &Value<'_>| if let Value::Text(text) = value { text.len() } else { 0 };
        let bytes: usize = key.iter().map(text).sum();
        if self.rows.len() >= KEYS_MAX || self.key_bytes + bytes > KEY_BYTES_MAX {
            self.uncounted += sums.flows;
            return;
        }
        self.key_bytes += bytes;
        self.rows.insert(key.into_boxed_slice(), *sums);
    }

    /// Takes in what another thread counted.
    pub(super) fn merge(&mut self, other: Groups) {
        self.uncounted += other.uncounted;
        self.cut += other.cut;
        for (key, sums) in other.rows {
            self.add_sums(key.into_vec(), &sums);
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
