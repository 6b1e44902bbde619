//! How many records of a block have each value of a field, where each column stands for one field: counted by codes, without
//! giving numbers to rows.

use gnomon_flow::field::ATTRIBUTE_ID_FIRST;
use gnomon_flow::{Field, Value};

use super::values::{Codes, Values, attribute_value, values};
use crate::store::block::{Column, columns};
use crate::store::live::RowSet;
use crate::store::{Reader, StoreError};

/// Integers of so small a range are counted in a table.
const RANGE_MAX: u64 = 1 << 17;

/// Calls `each` with values and the number of `rows` that have them (a value may come more than once), and gives the number
/// of rows that have any. `None`, and nothing was told, when the field has to be counted row by row.
pub(super) fn totals(
    field: &'static Field,
    block: &Reader,
    rows: &RowSet,
    each: &mut dyn FnMut(&Value<'_>, u64),
) -> Result<Option<u64>, StoreError> {
    let column = match field.id.0 {
        21 => columns::ORIG,
        22 => columns::RESP,
        id if id >= ATTRIBUTE_ID_FIRST => Column(id),
        _ => return of_numbers(field, block, rows, each),
    };
    let Some(histogram) = block.histogram(column, rows)? else { return Ok(Some(0)) };
    let value = |code: usize| -> Option<Value<'_>> {
        let entry = histogram.entries.get(code);
        if field.id.0 < ATTRIBUTE_ID_FIRST {
            columns::ip_of(entry).map(Value::Ip)
        } else {
            attribute_value(field, entry)
        }
    };
    let counted = || histogram.counts.iter().enumerate().filter(|(_, count)| **count > 0);
    // Which rows have a value at all is only known by their codes where every code is one.
    if histogram.lists && counted().any(|(code, _)| value(code).is_none()) {
        return Ok(None);
    }
    let mut having = 0;
    for (code, count) in counted() {
        if let Some(value) = value(code) {
            each(&value, u64::from(*count));
            having += u64::from(*count);
        }
    }
    Ok(Some(if histogram.lists { histogram.having } else { having }))
}

fn of_numbers(
    field: &'static Field,
    block: &Reader,
    rows: &RowSet,
    each: &mut dyn FnMut(&Value<'_>, u64),
) -> Result<Option<u64>, StoreError> {
    let Some(lists) = values(field, block)? else { return Ok(None) };
    let mut having = 0;
    match &lists[..] {
        [Values::Integers { values, present }] => {
            let (min, max) = values.iter().fold((u64::MAX, 0), |(min, max), n| (min.min(*n), max.max(*n)));
            if values.is_empty() || max - min >= RANGE_MAX {
                return Ok(None);
            }
            let mut counts = vec![0u32; (max - min) as usize + 1];
            let mut among = rows.clone();
            if let Some(present) = present {
                among.intersect(present);
            }
            among.each(|row| counts[(values[row] - min) as usize] += 1);
            for (n, count) in (min..).zip(counts).filter(|(_, count)| *count > 0) {
                each(&Value::Integer(n), u64::from(count));
                having += u64::from(count);
            }
        }
        [Values::Coded { codes: Codes::None, .. }] => {}
        [Values::Coded { entries, codes }] => {
            let mut counts = vec![0u32; entries.len()];
            let mut count = |code: usize| {
                if let Some(count) = counts.get_mut(code) {
                    *count += 1;
                }
            };
            match codes {
                Codes::Plain(codes) => rows.each(|row| count(codes[row] as usize)),
                Codes::Dictionary(one) if one.starts.is_none() => {
                    rows.each(|row| count(one.codes[row] as usize))
                }
                _ => return Ok(None),
            }
            for (value, count) in entries.iter().zip(counts).filter(|(_, count)| *count > 0) {
                if let Some(value) = value {
                    each(value, u64::from(count));
                    having += u64::from(count);
                }
            }
        }
        _ => return Ok(None),
    }
    Ok(Some(having))
}
