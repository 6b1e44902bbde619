//! The values of a field in a block by small numbers: what is counted row by row is numbers, and values once a block.

use std::collections::HashMap;

use gnomon_flow::{Field, Value};

use super::group::COMBINATIONS_MAX;
use super::values::{Codes, Values, values};
use crate::store::block::bloom::Mixing;
use crate::store::live::RowSet;
use crate::store::{Reader, StoreError};

/// The values of one field in a block by small numbers.
pub(super) struct Coded {
    pub(super) values: Vec<Value<'static>>,
    lists: Vec<List>,
}

enum List {
    /// From the codes of a column to the numbers here; `u32::MAX` for what is no value.
    Codes { codes: Codes, numbers: Vec<u32> },
    /// A number here for each row; `u32::MAX` where it has none.
    Rows(Vec<u32>),
}

impl Coded {
    pub(super) fn of(
        field: &'static Field,
        block: &Reader,
        rows: &RowSet,
    ) -> Result<Option<Coded>, StoreError> {
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
    pub(super) fn each(&self, row: usize, found: &mut Vec<u32>) {
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

    /// The number of every different value in each row; nothing when a row has none, or when several lists or values in
    /// one row would have to be told apart.
    fn single(&self) -> Option<impl Fn(usize) -> u32> {
        let [list] = &self.lists[..] else { return None };
        if let List::Codes { codes: Codes::Dictionary(dictionary), .. } = list
            && dictionary.starts.is_some()
        {
            return None;
        }
        Some(move |row: usize| match list {
            List::Rows(numbers) => numbers[row],
            List::Codes { codes: Codes::Dictionary(dictionary), numbers } => {
                numbers.get(dictionary.codes[row] as usize).copied().unwrap_or(u32::MAX)
            }
            List::Codes { codes: Codes::Plain(codes), numbers } => {
                numbers.get(codes[row] as usize).copied().unwrap_or(u32::MAX)
            }
            List::Codes { codes: Codes::None, .. } => u32::MAX,
        })
    }

    /// How many of `rows` have each value, by its number; and how many have any.
    pub(super) fn counts(&self, rows: &RowSet) -> (Vec<u64>, u64) {
        let mut counts = vec![0u64; self.values.len()];
        let mut having = 0;
        if self.values.is_empty() {
            return (counts, having);
        }
        if let Some(number) = self.single() {
            for row in rows.iter() {
                if let Some(count) = counts.get_mut(number(row) as usize) {
                    *count += 1;
                    having += 1;
                }
            }
            return (counts, having);
        }
        let mut found = Vec::new();
        for row in rows.iter() {
            self.each(row, &mut found);
            having += u64::from(!found.is_empty());
            found.iter().for_each(|number| counts[*number as usize] += 1);
        }
        (counts, having)
    }
}

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
