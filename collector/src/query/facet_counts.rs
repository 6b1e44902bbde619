//! How many records have each value of many fields, in bounded memory: where there are too many different values, the
//! rarest are let go, and how much that can make a count too low is known.

use std::hash::BuildHasher;

use gnomon_flow::{Field, StoredFlow, Value};
use hashbrown::HashTable;

use super::coded::Coded;
use super::group::distinct;
use super::totals::totals;
use super::values::of_source;
use crate::store::block::bloom::Mixing;
use crate::store::live::RowSet;
use crate::store::rollup::Rollup;
use crate::store::{Reader, Store, StoreError};

/// What the values of all fields may take. Beyond it the field that takes most lets its rarest values go.
const BYTES_MAX: usize = 64 << 20;
/// Half a megabyte a field at most, which [`BYTES_MAX`] does not count.
const SMALL_MAX: u64 = 65_536;
/// About what a value takes beside its text.
const VALUE_BYTES: usize = 80;

/// Counts of records by their values.
#[derive(Debug, Default)]
pub(super) struct Counts {
    /// Records that were counted.
    pub(super) flows: u64,
    /// In the order of the fields that are asked for.
    pub(super) fields: Vec<OfField>,
    bytes: usize,
}

/// The values of one field.
#[derive(Debug, Default)]
pub(super) struct OfField {
    /// Records that have any.
    pub(super) flows: u64,
    counts: HashTable<(Value<'static>, u64)>,
    /// Counts of integers below [`SMALL_MAX`], by themselves: ports are most of what is counted.
    small: Vec<u64>,
    /// A count is too low by this at most; a value that is not there had at most this.
    pub(super) missed: u64,
    bytes: usize,
}

fn hash_of(value: &Value<'_>) -> u64 {
    Mixing::default().hash_one(value)
}

fn bytes_of(value: &Value<'_>) -> usize {
    VALUE_BYTES + if let Value::Text(text) = value { text.len() } else { 0 }
}

impl OfField {
    pub(super) fn add(&mut self, value: &Value<'_>, count: u64) -> usize {
        if let Value::Integer(n @ 0..SMALL_MAX) = value {
            let place = *n as usize;
            if self.small.len() <= place {
                self.small.resize((place + 1).next_power_of_two(), 0);
            }
            self.small[place] += count;
            return 0;
        }
        let hash = hash_of(value);
        if let Some((_, known)) = self.counts.find_mut(hash, |(known, _)| known == value) {
            *known += count;
            return 0;
        }
        self.counts.insert_unique(hash, (value.clone().into_owned(), count), |(value, _)| hash_of(value));
        let bytes = bytes_of(value);
        self.bytes += bytes;
        bytes
    }

    /// Counts rows of a block; false when columns do not tell.
    pub(super) fn add_rows(
        &mut self,
        field: &'static Field,
        block: &Reader,
        rows: &RowSet,
    ) -> Result<bool, StoreError> {
        let having = totals(field, block, rows, &mut |value, count| _ = self.add(value, count))?;
        if let Some(having) = having {
            self.flows += having;
            return Ok(true);
        }
        let Some(coded) = Coded::of(field, block, rows)? else { return Ok(false) };
        let (counts, having) = coded.counts(rows);
        self.flows += having;
        for (value, count) in coded.values.iter().zip(counts).filter(|(_, count)| *count > 0) {
            self.add(value, count);
        }
        Ok(true)
    }

    /// Counts all records of a rollup; false when it says nothing of the field.
    fn add_rolled(
        &mut self,
        field: &Field,
        rollup: &Rollup,
        origins: Option<&[(StoredFlow, u64)]>,
        bytes: &mut usize,
    ) -> bool {
        if of_source(field) {
            let Some(origins) = origins.filter(|origins| !origins.is_empty()) else { return false };
            for (flow, rows) in origins {
                if let Some(value) = field.first(flow) {
                    self.flows += rows;
                    *bytes += self.add(&value, *rows);
                }
            }
            return true;
        }
        let Some(rolled) = rollup.of(field.id) else { return false };
        self.flows += rolled.flows;
        self.missed += rolled.missed;
        for (value, count) in &rolled.values {
            *bytes += self.add(value, *count);
        }
        true
    }

    /// All that are counted.
    pub(super) fn each(&self, mut each: impl FnMut(&Value<'static>, u64)) {
        self.counts.iter().for_each(|(value, count)| each(value, *count));
        for (n, count) in (0..).zip(&self.small).filter(|(_, count)| **count > 0) {
            each(&Value::Integer(n), *count);
        }
    }

    /// All of them, with their counts.
    pub(super) fn all(&self) -> Vec<(Value<'static>, u64)> {
        let mut all = Vec::new();
        self.each(|value, count| all.push((value.clone(), count)));
        all
    }

    /// The most frequent of them, by `limit`, and how many there are.
    pub(super) fn most(&self, limit: usize) -> (Vec<(Value<'static>, u64)>, u64) {
        let small = (0..).zip(&self.small).filter(|(_, count)| **count > 0);
        let small: Vec<(Value<'static>, u64)> = small.map(|(n, count)| (Value::Integer(n), *count)).collect();
        let mut ranked: Vec<(&Value<'static>, u64)> =
            self.counts.iter().map(|(value, count)| (value, *count)).collect();
        ranked.extend(small.iter().map(|(value, count)| (value, *count)));
        let different = ranked.len() as u64;
        let order = |a: &(&Value<'static>, u64), b: &(&Value<'static>, u64)| b.1.cmp(&a.1).then(a.0.cmp(b.0));
        if ranked.len() > limit {
            ranked.select_nth_unstable_by(limit, order);
            ranked.truncate(limit);
        }
        ranked.sort_unstable_by(order);
        (ranked.into_iter().map(|(value, count)| (value.clone(), count)).collect(), different)
    }

    /// Lets at least half of the values go, the rarest.
    fn shrink(&mut self) {
        let mut all: Vec<u64> = self.counts.iter().map(|(_, count)| *count).collect();
        let middle = all.len() / 2;
        let Some((_, median, _)) = (!all.is_empty()).then(|| all.select_nth_unstable(middle)) else { return };
        let median = *median;
        self.counts.retain(|(_, count)| *count > median);
        self.counts.shrink_to_fit(|(value, _)| hash_of(value));
        self.missed += median;
        self.bytes = self.counts.iter().map(|(value, _)| bytes_of(value)).sum();
    }
}

impl Counts {
    pub(super) fn of(fields: usize) -> Counts {
        Counts {
            fields: std::iter::repeat_with(OfField::default).take(fields).collect(),
            ..Counts::default()
        }
    }

    /// Counts rows of a block: by its rollup the fields that have one there.
    pub(super) fn add_rows(
        &mut self,
        fields: &[&'static Field],
        block: &Reader,
        rows: &RowSet,
        rollup: Option<&Rollup>,
    ) -> Result<(), StoreError> {
        self.flows += rows.len() as u64;
        let mut by_record = Vec::new();
        let origins = rollup.map(|rollup| origins(fields, block.store(), rollup)).transpose()?;
        for (field, to) in fields.iter().zip(&mut self.fields) {
            if rollup.is_some_and(|rollup| to.add_rolled(field, rollup, origins.as_deref(), &mut self.bytes))
            {
                continue;
            }
            let before = to.bytes;
            if to.add_rows(field, block, rows)? {
                self.bytes += to.bytes - before;
            } else {
                by_record.push((*field, to));
            }
        }
        if !by_record.is_empty() {
            for row in rows.iter() {
                let flow = block.flow(row)?;
                for (field, to) in &mut by_record {
                    self.bytes += add_flow(to, field, &flow);
                }
            }
        }
        self.bound();
        Ok(())
    }

    /// Counts all records of a rollup, which has all of the fields.
    pub(super) fn add_rollup(
        &mut self,
        fields: &[&'static Field],
        store: &Store,
        rollup: &Rollup,
    ) -> Result<(), StoreError> {
        self.flows += rollup.rows;
        let origins = origins(fields, store, rollup)?;
        for (field, to) in fields.iter().zip(&mut self.fields) {
            to.add_rolled(field, rollup, Some(&origins), &mut self.bytes);
        }
        self.bound();
        Ok(())
    }

    /// Counts one record.
    pub(super) fn add(&mut self, fields: &[&'static Field], flow: &StoredFlow) {
        self.flows += 1;
        for (field, to) in fields.iter().zip(&mut self.fields) {
            self.bytes += add_flow(to, field, flow);
        }
        self.bound();
    }

    /// Takes in what another has counted.
    pub(super) fn merge(&mut self, other: &Counts) {
        self.flows += other.flows;
        for (to, from) in self.fields.iter_mut().zip(&other.fields) {
            to.flows += from.flows;
            to.missed += from.missed;
            from.each(|value, count| self.bytes += to.add(value, count));
        }
        self.bound();
    }

    fn bound(&mut self) {
        while self.bytes > BYTES_MAX {
            let Some(most) = self.fields.iter_mut().max_by_key(|field| field.bytes) else { return };
            most.shrink();
            self.bytes = self.fields.iter().map(|field| field.bytes).sum();
        }
    }
}

/// A record of each of a rollup's sources, and how many there are; none where no field asks for them.
fn origins(
    fields: &[&'static Field],
    store: &Store,
    rollup: &Rollup,
) -> Result<Vec<(StoredFlow, u64)>, StoreError> {
    if !fields.iter().any(|field| of_source(field)) {
        return Ok(Vec::new());
    }
    rollup.sources.iter().map(|source| Ok((store.flow_from(source)?, source.rows))).collect()
}

fn add_flow(to: &mut OfField, field: &Field, flow: &StoredFlow) -> usize {
    let mut values = Vec::new();
    distinct(field, flow, &mut values);
    to.flows += u64::from(!values.is_empty());
    values.iter().map(|value| to.add(value, 1)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rarest_are_let_go_and_what_is_missed_is_known() {
        const FIRST: u64 = SMALL_MAX;
        let mut counts = Counts::of(1);
        let real = |n: u64| if n.is_multiple_of(1000) { 700 } else { 1 + n % 3 };
        // About three times as many different values as fit, over and over.
        for round in 0..2 {
            for n in 0..3 * (BYTES_MAX / VALUE_BYTES) as u64 {
                let count = real(n) / 2 + (real(n) % 2) * round;
                counts.bytes += counts.fields[0].add(&Value::Integer(FIRST + n), count);
                if n.is_multiple_of(1024) {
                    counts.bound();
                }
            }
        }
        counts.bound();
        assert!(counts.bytes <= BYTES_MAX);
        let field = &counts.fields[0];
        assert!(field.missed > 0 && field.missed < 100, "{}", field.missed);
        for n in (0..2_000_000).step_by(1000) {
            let value = Value::Integer(FIRST + n);
            let found = field.counts.find(hash_of(&value), |(known, _)| *known == value);
            let found = found.map_or(0, |(_, count)| *count);
            assert!(found <= real(n) && found + field.missed >= real(n), "{n}: {found} of {}", real(n));
        }
    }
}
