//! How many records have each value of many fields, in bounded memory: where there are too many different values, the
//! rarest are let go, and how much that can make a count too low is known.

use std::sync::Arc;

use gnomon_flow::{Field, StoredFlow};

use super::coded::Coded;
use super::group::distinct;
use super::memory::{Charge, Question};
use super::totals::totals;
use super::value_counts::ValueCounts;
use super::values::of_source;
use crate::store::live::RowSet;
use crate::store::rollup::Rollup;
use crate::store::{Reader, Store, StoreError};

/// What the values of all fields may take. Beyond it the field that takes most lets its rarest values go.
const BYTES_MAX: usize = 64 << 20;

/// Counts of records by their values.
#[derive(Debug, Default)]
pub(super) struct Counts {
    /// Records that were counted.
    pub(super) flows: u64,
    /// In the order of the fields that are asked for.
    pub(super) fields: Vec<OfField>,
    charge: Charge,
}

/// The values of one field.
#[derive(Debug, Default)]
pub(super) struct OfField {
    /// Records that have any.
    pub(super) flows: u64,
    pub(super) values: ValueCounts,
    /// A count is too low by this at most; a value that is not there had at most this.
    pub(super) missed: u64,
}

impl OfField {
    /// Counts rows of a block; false when columns do not tell.
    pub(super) fn add_rows(
        &mut self,
        field: &'static Field,
        block: &Reader,
        rows: &RowSet,
    ) -> Result<bool, StoreError> {
        if let Some(having) = totals(field, block, rows, &mut self.values)? {
            self.flows += having;
            return Ok(true);
        }
        let Some(coded) = Coded::of(field, block, rows)? else { return Ok(false) };
        let (counts, having) = coded.counts(rows);
        self.flows += having;
        for (value, count) in coded.values.iter().zip(counts).filter(|(_, count)| *count > 0) {
            self.values.add(value, count);
        }
        Ok(true)
    }

    /// Counts all records of a rollup; false when it says nothing of the field, or (`exact`) not of all its values.
    fn add_rolled(
        &mut self,
        field: &Field,
        rollup: &Rollup,
        origins: Option<&[(StoredFlow, u64)]>,
        exact: bool,
    ) -> bool {
        if of_source(field) {
            let Some(origins) = origins.filter(|origins| !origins.is_empty()) else { return false };
            for (flow, rows) in origins {
                if let Some(value) = field.first(flow) {
                    self.flows += rows;
                    self.values.add(&value, *rows);
                }
            }
            return true;
        }
        let Some(rolled) = rollup.of(field.id).filter(|rolled| !exact || rolled.missed == 0) else {
            return false;
        };
        self.flows += rolled.flows;
        self.missed += rolled.missed;
        for (value, count) in &rolled.values {
            self.values.add(value, *count);
        }
        true
    }
}

impl Counts {
    pub(super) fn of(fields: usize) -> Counts {
        Counts {
            fields: std::iter::repeat_with(OfField::default).take(fields).collect(),
            ..Counts::default()
        }
    }

    /// Counts rows of a block: by its rollup the fields that have one there, with `exact` those that it has all values of.
    pub(super) fn add_rows(
        &mut self,
        fields: &[&'static Field],
        block: &Reader,
        rows: &RowSet,
        rollup: Option<&Rollup>,
        exact: bool,
    ) -> Result<(), StoreError> {
        self.flows += rows.len() as u64;
        let mut by_record = Vec::new();
        let origins = rollup.map(|rollup| origins(fields, block.store(), rollup)).transpose()?;
        for (field, to) in fields.iter().zip(&mut self.fields) {
            if rollup.is_some_and(|rollup| to.add_rolled(field, rollup, origins.as_deref(), exact)) {
                continue;
            }
            if !to.add_rows(field, block, rows)? {
                by_record.push((*field, to));
            }
        }
        if !by_record.is_empty() {
            for row in rows.iter() {
                let flow = block.flow(row)?;
                for (field, to) in &mut by_record {
                    add_flow(to, field, &flow);
                }
            }
        }
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
            to.add_rolled(field, rollup, Some(&origins), false);
        }
        Ok(())
    }

    /// Counts one record.
    pub(super) fn add(&mut self, fields: &[&'static Field], flow: &StoredFlow) {
        self.flows += 1;
        for (field, to) in fields.iter().zip(&mut self.fields) {
            add_flow(to, field, flow);
        }
    }

    /// Takes in what another has counted.
    pub(super) fn merge(&mut self, other: &Counts) {
        self.flows += other.flows;
        for (to, from) in self.fields.iter_mut().zip(&other.fields) {
            to.flows += from.flows;
            to.missed += from.missed;
            to.values.merge(&from.values);
        }
    }

    fn bytes(&self) -> usize {
        self.fields.iter().map(|field| field.values.bytes()).sum()
    }

    /// Asks for the memory that it takes. As long as that is too much, the field that takes most lets its rarest values go;
    /// where that does not help, the question is refused.
    pub(super) fn bound(&mut self, memory: &Arc<Question>) {
        loop {
            let held = self.fields.iter().map(|field| field.values.held_bytes()).sum();
            if self.bytes() <= BYTES_MAX && self.charge.resize(memory, held) {
                return;
            }
            let most = self.fields.iter_mut().max_by_key(|field| field.values.bytes());
            match most.filter(|field| field.values.bytes() > 0) {
                Some(most) => most.missed += most.values.shrink(),
                None => return memory.refuse(),
            }
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

fn add_flow(to: &mut OfField, field: &Field, flow: &StoredFlow) {
    let mut values = Vec::new();
    distinct(field, flow, &mut values);
    to.flows += u64::from(!values.is_empty());
    values.iter().for_each(|value| to.values.add(value, 1));
}

#[cfg(test)]
mod tests {
    use gnomon_flow::Value;

    use super::super::value_counts::{SMALL_MAX, VALUE_BYTES};
    use super::*;

    #[test]
    fn the_rarest_are_let_go_and_what_is_missed_is_known() {
        const FIRST: u64 = SMALL_MAX;
        const EACH: usize = VALUE_BYTES + 9;
        let mut counts = Counts::of(1);
        let memory = Question::unbounded();
        let real = |n: u64| if n.is_multiple_of(1000) { 700 } else { 1 + n % 3 };
        // About three times as many different values as fit, over and over.
        for round in 0..2 {
            for n in 0..3 * (BYTES_MAX / EACH) as u64 {
                let count = real(n) / 2 + (real(n) % 2) * round;
                counts.fields[0].values.add_integer(FIRST + n, count);
                if n.is_multiple_of(1024) {
                    counts.bound(&memory);
                }
            }
        }
        counts.bound(&memory);
        assert!(counts.bytes() <= BYTES_MAX);
        let field = &counts.fields[0];
        assert!(field.missed > 0 && field.missed < 100, "{}", field.missed);
        let all: std::collections::HashMap<_, _> = field.values.all().into_iter().collect();
        for n in (0..2_000_000).step_by(1000) {
            let found = all.get(&Value::Integer(FIRST + n)).copied().unwrap_or(0);
            assert!(found <= real(n) && found + field.missed >= real(n), "{n}: {found} of {}", real(n));
        }
    }
}
