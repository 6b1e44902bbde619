//! How many records of a block have each value of a field, counted by codes and bytes, without giving numbers to rows.

use gnomon_flow::field::ATTRIBUTE_ID_FIRST;
use gnomon_flow::{Field, FieldKind};

use super::one_column::one_column;
use super::value_counts::{Key, ValueCounts};
use super::values::{Codes, Values, attribute_value, names, values};
use crate::store::block::{Column, columns};
use crate::store::live::RowSet;
use crate::store::{Reader, StoreError};

/// Integers of so small a range are counted in a table.
const RANGE_MAX: u64 = 1 << 17;

/// Adds the values of `rows` to `counts`, and gives the number of rows that have any. `None`, and nothing was added, when
/// the field has to be counted row by row.
pub(super) fn totals(
    field: &'static Field,
    block: &Reader,
    rows: &RowSet,
    counts: &mut ValueCounts,
) -> Result<Option<u64>, StoreError> {
    let column = match field.id.0 {
        21 => columns::ORIG,
        22 => columns::RESP,
        id if id >= ATTRIBUTE_ID_FIRST => Column(id),
        _ => return of_numbers(field, block, rows, counts),
    };
    let Some(histogram) = block.histogram(column, rows)? else { return Ok(Some(0)) };
    let counted = || histogram.counts.iter().enumerate().filter(|(_, count)| **count > 0);
    let ascii = histogram.entries.is_ascii();
    let key = |code: usize| {
        let entry = histogram.entries.get(code);
        match field.id.0 < ATTRIBUTE_ID_FIRST {
            true => Key::of_address(entry),
            false => Key::of_entry(entry, ascii),
        }
    };
    let missing =
        counted().filter(|(code, _)| key(*code).is_none()).map(|(_, count)| u64::from(*count)).sum();
    // Which rows have a value at all is only known by their codes where every code is one.
    if histogram.lists && missing > 0 {
        return Ok(None);
    }
    if field.kind == FieldKind::Time {
        for (code, count) in counted() {
            if let Some(value) = attribute_value(field, histogram.entries.get(code)) {
                counts.add(&value, u64::from(*count));
            }
        }
    } else {
        counts.add_keys(counted().filter_map(|(code, count)| Some((key(code)?, u64::from(*count)))));
    }
    Ok(Some(histogram.having.saturating_sub(missing)))
}

fn of_numbers(
    field: &'static Field,
    block: &Reader,
    rows: &RowSet,
    counts: &mut ValueCounts,
) -> Result<Option<u64>, StoreError> {
    if let Some(column) = one_column(field.id)
        && let Some(having) = column.totals(block, rows, |n, count| counts.add_integer(n, count))?
    {
        return Ok(Some(having));
    }
    if let Some((column, names)) = names(field.id)
        && let Some((min, of_codes)) = block.integer_counts(column, rows)?
    {
        let mut having = 0;
        for (code, count) in (min..).zip(of_codes).filter(|(_, count)| *count > 0) {
            if let Some(Some(name)) = names.get(code as usize) {
                counts.add(name, u64::from(count));
                having += u64::from(count);
            }
        }
        return Ok(Some(having));
    }
    let Some(lists) = values(field, block)? else { return Ok(None) };
    let mut having = 0;
    match &lists[..] {
        [Values::Coded { codes: Codes::None, .. }] => {}
        [Values::Coded { entries, codes }] => {
            let mut of_codes = vec![0u32; entries.len()];
            let mut count = |code: usize| {
                if let Some(count) = of_codes.get_mut(code) {
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
            for (value, count) in entries.iter().zip(of_codes).filter(|(_, count)| *count > 0) {
                if let Some(value) = value {
                    counts.add(value, u64::from(count));
                    having += u64::from(count);
                }
            }
        }
        // A row counts once for a value that it has in several of them.
        lists if lists.iter().all(|list| matches!(list, Values::Integers { .. })) => {
            let lists: Vec<(&[u64], Option<&RowSet>)> = lists
                .iter()
                .filter_map(|list| match list {
                    Values::Integers { values, present } => Some((values.as_slice(), present.as_ref())),
                    Values::Coded { .. } => None,
                })
                .collect();
            let all = lists.iter().flat_map(|(values, _)| values.iter());
            let (min, max) = all.fold((u64::MAX, 0), |(min, max), n| (min.min(*n), max.max(*n)));
            if min > max || max - min >= RANGE_MAX {
                return Ok(None);
            }
            let mut of_values = vec![0u32; (max - min) as usize + 1];
            rows.each(|row| {
                let has = |(_, present): &(&[u64], Option<&RowSet>)| present.is_none_or(|set| set.has(row));
                let mut has_any = false;
                for (at, list) in lists.iter().enumerate().filter(|(_, list)| has(list)) {
                    let value = list.0[row];
                    if !lists[..at].iter().any(|before| has(before) && before.0[row] == value) {
                        of_values[(value - min) as usize] += 1;
                    }
                    has_any = true;
                }
                having += u64::from(has_any);
            });
            for (n, count) in (min..).zip(of_values).filter(|(_, count)| *count > 0) {
                counts.add_integer(n, u64::from(count));
            }
        }
        _ => return Ok(None),
    }
    Ok(Some(having))
}
