//! What is known of a block without reading it. All summaries are in memory: about a byte a record.

use gnomon_clock::{RawNs, UtcNs};
use gnomon_flow::{EpochHash, FlowRef};
use gnomon_proto::limits::INTERFACE_BYTES_MAX;
use gnomon_proto::{Message, v1};

use super::bloom::{Bloom, Token};
use super::columns::Column;
use crate::store::envelope::{DamagedValue, damaged};

/// See `StoredBlock` in the protocol for the fields' meaning.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Summary {
    pub(crate) rows: usize,
    pub(crate) held: bool,
    pub(crate) ingested: (UtcNs, UtcNs),
    pub(crate) sources: Vec<Source>,
    /// By column.
    pub(crate) ranges: Vec<(Column, u64, u64)>,
    /// Rising.
    pub(crate) columns: Vec<Column>,
    pub(crate) bloom: Bloom,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Source {
    pub(crate) epoch: EpochHash,
    pub(crate) interface: std::sync::Arc<str>,
    pub(crate) workers: Vec<Worker>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Worker {
    pub(crate) worker: u8,
    pub(crate) flows: (u64, u64),
    pub(crate) first: (RawNs, RawNs),
    pub(crate) last_max: RawNs,
}

impl Worker {
    pub(super) fn take_in(&mut self, flow: u64, first: RawNs, last: RawNs) {
        self.flows = (self.flows.0.min(flow), self.flows.1.max(flow));
        self.first = (self.first.0.min(first), self.first.1.max(first));
        self.last_max = self.last_max.max(last);
    }
}

impl Summary {
    pub(crate) fn has(&self, column: Column) -> bool {
        self.columns.binary_search(&column).is_ok()
    }

    /// The smallest and largest value of a column of integers.
    pub(crate) fn range(&self, column: Column) -> (u64, u64) {
        match self.ranges.binary_search_by_key(&column, |(of, ..)| *of) {
            Ok(at) => (self.ranges[at].1, self.ranges[at].2),
            Err(_) => (0, 0),
        }
    }

    /// Whether the record may be in the block.
    pub(crate) fn may_have(&self, id: FlowRef) -> bool {
        self.sources.iter().filter(|source| source.epoch == id.epoch).any(|source| {
            source
                .workers
                .iter()
                .any(|w| w.worker == id.flow.worker() && (w.flows.0..=w.flows.1).contains(&id.flow.0))
        })
    }

    pub(crate) fn may_have_token(&self, token: Token) -> bool {
        self.bloom.may_have(token)
    }

    pub(crate) fn has_epoch(&self, epoch: EpochHash) -> bool {
        self.sources.iter().any(|source| source.epoch == epoch)
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let worker = |w: &Worker| v1::StoredWorker {
            worker: u32::from(w.worker),
            flow_min: w.flows.0,
            flow_max: w.flows.1,
            first_raw_min_ns: w.first.0.0,
            first_raw_max_ns: w.first.1.0,
            last_raw_max_ns: w.last_max.0,
        };
        let source = |source: &Source| v1::StoredSource {
            epoch: source.epoch.0,
            interface: source.interface.to_string(),
            workers: source.workers.iter().map(worker).collect(),
        };
        let range = |(column, min, max): &(Column, u64, u64)| v1::StoredRange {
            column: u32::from(column.0),
            min: *min,
            max: *max,
        };
        let stored = v1::StoredBlock {
            rows: self.rows as u32,
            held: self.held,
            ingested_min_tai_ns: self.ingested.0.tai_ns(),
            ingested_max_tai_ns: self.ingested.1.tai_ns(),
            sources: self.sources.iter().map(source).collect(),
            ranges: self.ranges.iter().map(range).collect(),
            columns: self.columns.iter().map(|column| u32::from(column.0)).collect(),
            bloom: self.bloom.as_bytes().to_vec(),
        };
        stored.encode_to_vec()
    }

    pub(crate) fn decode(value: &[u8]) -> Result<Summary, DamagedValue> {
        const WHAT: &str = "a block's summary";
        let stored = v1::StoredBlock::decode(value).map_err(|e| damaged(WHAT, e.to_string()))?;
        let column = |n: u32| u16::try_from(n).map(Column).map_err(|_| damaged(WHAT, format!("column {n}")));
        if stored.rows as usize > super::ROWS_MAX {
            return Err(damaged(WHAT, format!("claims {} rows", stored.rows)));
        }
        let worker = |w: &v1::StoredWorker| Worker {
            worker: w.worker as u8,
            flows: (w.flow_min, w.flow_max),
            first: (RawNs(w.first_raw_min_ns), RawNs(w.first_raw_max_ns)),
            last_max: RawNs(w.last_raw_max_ns),
        };
        // Versions before took in names of any length, and summaries stay in memory.
        let cut = |name: &str| std::sync::Arc::from(&name[..name.floor_char_boundary(INTERFACE_BYTES_MAX)]);
        let source = |source: v1::StoredSource| Source {
            epoch: EpochHash(source.epoch),
            workers: source.workers.iter().map(worker).collect(),
            interface: cut(&source.interface),
        };
        let mut ranges = Vec::with_capacity(stored.ranges.len());
        for range in &stored.ranges {
            ranges.push((column(range.column)?, range.min, range.max));
        }
        ranges.sort_unstable();
        let mut columns = stored.columns.into_iter().map(column).collect::<Result<Vec<_>, _>>()?;
        columns.sort_unstable();
        Ok(Summary {
            rows: stored.rows as usize,
            held: stored.held,
            ingested: (
                UtcNs::from_tai_ns(stored.ingested_min_tai_ns),
                UtcNs::from_tai_ns(stored.ingested_max_tai_ns),
            ),
            sources: stored.sources.into_iter().map(source).collect(),
            ranges,
            columns,
            bloom: Bloom::from_bytes(stored.bloom),
        })
    }
}
