//! The values of a field in a block by small numbers: what is counted row by row is numbers, and values once a block.

use std::collections::HashMap;
use std::rc::Rc;

use gnomon_flow::field::ATTRIBUTE_ID_FIRST;
use gnomon_flow::{Field, Value};

use super::group::COMBINATIONS_MAX;
use super::values::{Codes, Values, values};
use crate::store::block::Dictionary;
use crate::store::block::bloom::Mixing;
use crate::store::live::RowSet;
use crate::store::{Reader, StoreError};

/// The number of a row without a value.
pub(super) const NONE: u32 = u32::MAX;

/// The values of one field in a block by small numbers.
pub(super) struct Coded {
    pub(super) values: Vec<Value<'static>>,
    lists: Vec<List>,
    rows: usize,
}

enum List {
    /// A number here for each row, or [`NONE`].
    Rows(Vec<u32>),
    /// Codes of a column, several a row, and what their numbers here are (`None`: the same).
    Many { dictionary: Rc<Dictionary>, numbers: Option<Vec<u32>> },
}

/// From integers to numbers here.
enum Integers {
    /// From the smallest on.
    Direct(u64, Vec<u32>),
    Hashed(HashMap<u64, u32, Mixing>),
}

/// So many different integers get a table of their own.
const DIRECT_MAX: u64 = 1 << 17;

impl Integers {
    fn of(lists: &[Values]) -> Integers {
        let lists = lists.iter().filter_map(|list| match list {
            Values::Integers { values, .. } => Some(values),
            Values::Coded { .. } => None,
        });
        let (min, max) = lists
            .flat_map(|values| values.iter())
            .fold((u64::MAX, 0), |(min, max), value| (min.min(*value), max.max(*value)));
        match max.saturating_sub(min) {
            range if range < DIRECT_MAX => Integers::Direct(min, vec![NONE; range as usize + 1]),
            _ => Integers::Hashed(HashMap::default()),
        }
    }

    #[inline]
    fn number(&mut self, value: u64, values: &mut Vec<Value<'static>>) -> u32 {
        let mut new = || {
            values.push(Value::Integer(value));
            values.len() as u32 - 1
        };
        match self {
            Integers::Direct(min, numbers) => {
                let Some(number) = numbers.get_mut(value.wrapping_sub(*min) as usize) else { return NONE };
                if *number == NONE {
                    *number = new();
                }
                *number
            }
            Integers::Hashed(known) => *known.entry(value).or_insert_with(new),
        }
    }
}

impl Coded {
    pub(super) fn of(
        field: &'static Field,
        block: &Reader,
        rows: &RowSet,
    ) -> Result<Option<Coded>, StoreError> {
        let Some(lists) = values(field, block)? else { return Ok(None) };
        // The entries of one dictionary are different; those of others may stand for one value.
        let different =
            lists.len() == 1 && (field.id.0 >= ATTRIBUTE_ID_FIRST || matches!(field.id.0, 21 | 22));
        let mut known: HashMap<Value<'static>, u32, Mixing> = HashMap::default();
        let mut integers = Integers::of(&lists);
        let mut coded =
            Coded { values: Vec::new(), lists: Vec::with_capacity(lists.len()), rows: block.rows() };
        for list in lists {
            coded.lists.push(match list {
                Values::Integers { values: of_rows, present } => {
                    let mut numbers = vec![NONE; of_rows.len()];
                    let has = |row: &usize| present.as_ref().is_none_or(|set| set.has(*row));
                    for row in rows.iter().filter(has) {
                        numbers[row] = integers.number(of_rows[row], &mut coded.values);
                    }
                    List::Rows(numbers)
                }
                Values::Coded { entries, codes } => {
                    let mut same = true;
                    let number = |(code, entry): (usize, Option<Value<'static>>)| {
                        let number = match entry {
                            None => NONE,
                            Some(value) if different => {
                                coded.values.push(value);
                                coded.values.len() as u32 - 1
                            }
                            Some(value) => *known.entry(value).or_insert_with_key(|value| {
                                coded.values.push(value.clone());
                                coded.values.len() as u32 - 1
                            }),
                        };
                        same &= number as usize == code;
                        number
                    };
                    let numbers: Vec<u32> = entries.into_iter().enumerate().map(number).collect();
                    let numbered = |code: usize| numbers.get(code).copied().unwrap_or(NONE);
                    match codes {
                        Codes::None => continue,
                        Codes::Plain(codes) => {
                            List::Rows(codes.iter().map(|code| numbered(*code as usize)).collect())
                        }
                        Codes::Dictionary(dictionary) => match &dictionary.starts {
                            None if same => List::Rows(dictionary.codes.clone()),
                            None => {
                                let codes = dictionary.codes.iter();
                                List::Rows(codes.map(|code| numbered(*code as usize)).collect())
                            }
                            Some(starts) if starts.windows(2).all(|at| at[1] - at[0] <= 1) => {
                                let codes = dictionary.codes.as_slice();
                                let of_row = |at: &[u32]| match at[1] - at[0] {
                                    0 => NONE,
                                    _ => codes
                                        .get(at[0] as usize)
                                        .map_or(NONE, |code| numbered(*code as usize)),
                                };
                                List::Rows(starts.windows(2).map(of_row).collect())
                            }
                            Some(_) => List::Many { dictionary, numbers: (!same).then_some(numbers) },
                        },
                    }
                }
            });
        }
        Ok(Some(coded))
    }

    /// The number of each row, where no row has more than one value.
    pub(super) fn single(&self) -> Option<&[u32]> {
        match &self.lists[..] {
            [List::Rows(numbers)] => Some(numbers),
            _ => None,
        }
    }

    /// The different values of a row.
    pub(super) fn each(&self, row: usize, found: &mut Vec<u32>) {
        found.clear();
        let mut push = |number: u32| {
            if number != NONE && !found.contains(&number) {
                found.push(number);
            }
        };
        for list in &self.lists {
            match list {
                List::Rows(numbers) => push(numbers[row]),
                List::Many { dictionary, numbers } => {
                    dictionary.of_row(row).iter().for_each(|code| match numbers {
                        None => push(*code),
                        Some(numbers) => push(numbers.get(*code as usize).copied().unwrap_or(NONE)),
                    });
                }
            }
        }
    }

    /// How many of `rows` have each value, by its number; and how many have any.
    pub(super) fn counts(&self, rows: &RowSet) -> (Vec<u64>, u64) {
        let mut counts = vec![0u64; self.values.len()];
        let mut having = 0;
        if self.values.is_empty() {
            return (counts, having);
        }
        let whole = rows.len() == self.rows;
        let mut count = |number: u32| match counts.get_mut(number as usize) {
            Some(count) => {
                *count += 1;
                1
            }
            None => 0,
        };
        match &self.lists[..] {
            [List::Rows(numbers)] if whole => {
                having = numbers.iter().map(|number| count(*number)).sum();
            }
            [List::Rows(numbers)] => having = rows.iter().map(|row| count(numbers[row])).sum(),
            // The values of one column in one row are different.
            [List::Many { dictionary, numbers: None }] => {
                for row in rows.iter() {
                    let of_row = dictionary.of_row(row);
                    having += u64::from(!of_row.is_empty());
                    of_row.iter().for_each(|code| _ = count(*code));
                }
            }
            _ => {
                let mut found = Vec::new();
                for row in rows.iter() {
                    self.each(row, &mut found);
                    having += u64::from(!found.is_empty());
                    found.iter().for_each(|number| _ = count(*number));
                }
            }
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
    if let Some(numbers) = coded.single() {
        rows.iter().filter(|row| numbers[*row] != NONE).for_each(|row| each(row, numbers[row]));
        return Ok(Some(coded.values));
    }
    let mut found = Vec::new();
    for row in rows.iter() {
        coded.each(row, &mut found);
        found.iter().take(COMBINATIONS_MAX).for_each(|number| each(row, *number));
    }
    Ok(Some(coded.values))
}
