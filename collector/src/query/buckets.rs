//! The buckets of a histogram, in bounded memory.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use gnomon_clock::UtcNs;
use gnomon_flow::{Field, StoredFlow, Value};

use super::aggregate::{Bucket, Sums};
use super::coded::each_value;
use super::group::{ByCode, COMBINATIONS_MAX, distinct};
use super::measures::Measures;
use super::memory::{Charge, Question};
use crate::store::live::RowSet;
use crate::store::{Reader, StoreError};

/// Buckets of a histogram over all groups.
const BUCKETS_MAX: usize = 100_000;
/// Text of the values that buckets are split by.
const TEXT_BYTES_MAX: usize = 16 << 20;

/// Where a bucket begins (POSIX nanoseconds), and the value it is split by.
pub(super) type BucketKey = (i64, Option<Value<'static>>);

/// The buckets of a histogram so far.
#[derive(Debug, Default)]
pub(super) struct Buckets {
    pub(super) sums: BTreeMap<BucketKey, Sums>,
    text_bytes: usize,
    pub(super) left_out: u64,
    pub(super) charge: Charge,
    /// There is no memory for more.
    full: bool,
}

/// What a bucket takes in the map, whose nodes are about two thirds full, and in the answer.
const BUCKET_BYTES: usize = 2 * (size_of::<BucketKey>() + size_of::<Sums>()) + size_of::<Bucket>();

impl Buckets {
    pub(super) fn charge(&mut self, memory: &Arc<Question>) {
        let bytes = self.sums.len() * BUCKET_BYTES + 2 * self.text_bytes;
        self.full = !self.charge.resize(memory, bytes);
    }

    pub(super) fn add_rows(
        &mut self,
        group: Option<&'static Field>,
        block: &Reader,
        rows: &RowSet,
        by_ingest: bool,
        start_of: &dyn Fn(UtcNs) -> i64,
    ) -> Result<(), StoreError> {
        let times = if by_ingest { block.all_ingested()? } else { block.firsts()? };
        let measures = Measures::of(block)?;
        let mut local: ByCode<i64> = HashMap::default();
        let mut add = |row: usize, number: u32| {
            measures.add(row, local.entry((start_of(times[row]), number)).or_default());
        };
        let values = match group {
            None => {
                rows.iter().for_each(|row| add(row, u32::MAX));
                Vec::new()
            }
            Some(field) => match each_value(field, block, rows, &mut add)? {
                Some(values) => values,
                None => {
                    for row in rows.iter() {
                        self.add(group, &block.flow(row)?, by_ingest, start_of);
                    }
                    return Ok(());
                }
            },
        };
        for ((start, number), sums) in local {
            self.add_sums((start, values.get(number as usize).cloned()), &sums);
        }
        Ok(())
    }

    pub(super) fn add(
        &mut self,
        group: Option<&'static Field>,
        flow: &StoredFlow,
        by_ingest: bool,
        start_of: &dyn Fn(UtcNs) -> i64,
    ) {
        let at = if by_ingest { flow.ingested } else { flow.first.map(|first| first.utc) };
        let Some(start) = at.map(start_of) else { return };
        let sums = Sums::of(flow);
        let Some(field) = group else { return self.add_sums((start, None), &sums) };
        let mut values = Vec::new();
        distinct(field, flow, &mut values);
        values
            .into_iter()
            .take(COMBINATIONS_MAX)
            .for_each(|value| self.add_sums((start, Some(value)), &sums));
    }

    pub(super) fn add_sums(&mut self, key: BucketKey, sums: &Sums) {
        if let Some(known) = self.sums.get_mut(&key) {
            known.merge(sums);
        } else if self.full || self.sums.len() >= BUCKETS_MAX || self.text_bytes >= TEXT_BYTES_MAX {
            self.left_out += sums.flows;
        } else {
            self.text_bytes += match &key.1 {
                Some(Value::Text(text)) => text.len(),
                _ => 0,
            };
            self.sums.insert(key, *sums);
        }
    }
}
