//! A batch of records as it came, and as it waits in the database until its records are in a block.

use std::cell::RefCell;
use std::io::Read;

use bytes::Bytes;
use gnomon_clock::UtcNs;
use gnomon_flow::escape::name_of;
use gnomon_flow::{Alert, EpochHash, FlowRecord};
use gnomon_proto::limits::{BATCH_BYTES_MAX, INTERFACE_BYTES_MAX};
use gnomon_proto::{FlowBatch, FlowBatchError, WireError, append_interface, append_record};

use super::RECORD_NS_MAX;
use super::envelope::{DamagedValue, damaged};
use crate::enrich::Enrichment;

/// A batch that is stored decompresses to at most this: versions before took in larger ones than agents write.
const STORED_BATCH_BYTES_MAX: usize = 32 << 20;
/// The window that decompression may ask memory for, as a power of two: that of a whole batch.
const WINDOW_LOG_MAX: u32 = 23;
const _: () = assert!(1 << WINDOW_LOG_MAX >= BATCH_BYTES_MAX);

/// What is wrong with a batch as a whole.
#[derive(Debug, thiserror::Error)]
pub enum BatchError {
    #[error("its batch does not decompress within {BATCH_BYTES_MAX} bytes: {0}")]
    Decompress(std::io::Error),
    #[error("it is no protobuf: {0}")]
    Protobuf(String),
    #[error("it holds too much: {0}")]
    TooMuch(WireError),
}

impl From<FlowBatchError> for BatchError {
    fn from(error: FlowBatchError) -> BatchError {
        match error {
            FlowBatchError::Malformed(what) => BatchError::Protobuf(what),
            FlowBatchError::TooMuch(what) => BatchError::TooMuch(what),
        }
    }
}

/// What is wrong with one record of it.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    #[error("record {index}: {error}")]
    Wire { index: usize, error: WireError },
    #[error("alert {index}: {error}")]
    Alert { index: usize, error: WireError },
    #[error("record {index} ends before it begins or spans more than a day")]
    Time { index: usize },
}

/// The records of a batch that mean something, and what was wrong with the first of the others.
#[derive(Debug, Default)]
pub struct RecordBatch {
    pub interface: String,
    pub records: Vec<FlowRecord>,
    pub alerts: Vec<Alert>,
    pub bad: Option<RecordError>,
    pub records_bad: u64,
}

/// What the frame of a payload says it decompresses to, as far as a batch may; all a batch may have where it says nothing.
/// Asked before anything is decompressed.
pub fn declared_bytes(payload: &[u8]) -> usize {
    let said = zstd::zstd_safe::get_frame_content_size(payload).ok().flatten();
    said.and_then(|bytes| usize::try_from(bytes).ok()).unwrap_or(usize::MAX).min(BATCH_BYTES_MAX)
}

/// A batch that was decompressed, and nothing of it read.
#[derive(Debug)]
pub struct PlainBatch(Vec<u8>);

impl PlainBatch {
    /// # Errors
    /// When the payload does not decompress to what a batch may have.
    pub fn of(payload: &[u8]) -> Result<PlainBatch, BatchError> {
        let declared = zstd::zstd_safe::get_frame_content_size(payload).ok().flatten();
        if declared.is_some_and(|bytes| bytes > BATCH_BYTES_MAX as u64) {
            return Err(BatchError::Decompress(std::io::Error::other("it says so itself")));
        }
        decompress(payload, BATCH_BYTES_MAX).map(PlainBatch).map_err(BatchError::Decompress)
    }

    pub fn bytes(&self) -> usize {
        self.0.len()
    }

    /// What reading it takes of memory, at most.
    ///
    /// # Errors
    /// When it holds more than a batch may.
    pub fn memory_bytes(&self) -> Result<usize, BatchError> {
        Ok(FlowBatch::memory_bytes(&self.0)?)
    }

    /// # Errors
    /// [`BatchError`] when nothing of it can be read.
    pub fn read(&self, enrichment: &Enrichment) -> Result<RecordBatch, BatchError> {
        Ok(RecordBatch::of(FlowBatch::read(&self.0)?, enrichment))
    }
}

impl RecordBatch {
    /// From the payload of an entry: a zstd frame of a `FlowBatch`.
    ///
    /// # Errors
    /// [`BatchError`] when nothing of it can be read.
    pub fn read(payload: &[u8], enrichment: &Enrichment) -> Result<RecordBatch, BatchError> {
        PlainBatch::of(payload)?.read(enrichment)
    }

    /// From a payload that was taken in once. What is over the bounds of now is left out: an older version may have taken
    /// it in, and all else goes on being served.
    ///
    /// # Errors
    /// [`BatchError`] when nothing of it can be read.
    pub fn read_stored(payload: &[u8], enrichment: &Enrichment) -> Result<RecordBatch, BatchError> {
        let batch = decompress(payload, STORED_BATCH_BYTES_MAX).map_err(BatchError::Decompress)?;
        Ok(RecordBatch::of(FlowBatch::read_stored(&batch)?, enrichment))
    }

    /// All that the store ever holds comes through here, on its way in or when an open reads it again: so this is where
    /// records get what `enrichment` knows.
    fn of(wire: FlowBatch, enrichment: &Enrichment) -> RecordBatch {
        let mut batch = RecordBatch {
            interface: name_of(&wire.interface, INTERFACE_BYTES_MAX).into_owned(),
            records_bad: wire.bad.len() as u64 + wire.left_out,
            records: wire.records,
            ..RecordBatch::default()
        };
        let possible = |record: &FlowRecord| {
            record.last >= record.first && record.last.since(record.first) <= RECORD_NS_MAX
        };
        let impossible = batch.records.iter().position(|record| !possible(record));
        if impossible.is_some() {
            let all = batch.records.len();
            batch.records.retain(possible);
            batch.records_bad += (all - batch.records.len()) as u64;
        }
        // Its place in the batch: those that mean nothing are not among the others.
        let impossible = impossible
            .map(|at| wire.bad.iter().fold(at, |place, (bad, _)| place + usize::from(*bad <= place)));
        batch.bad = match (impossible, wire.bad.into_iter().next()) {
            (Some(index), Some((before, error))) if before < index => {
                Some(RecordError::Wire { index: before, error })
            }
            (Some(index), _) => Some(RecordError::Time { index }),
            (None, bad) => bad.map(|(index, error)| RecordError::Wire { index, error }),
        };
        batch.alerts = wire.alerts;
        for (index, error) in wire.bad_alerts {
            batch.records_bad += 1;
            batch.bad = batch.bad.or(Some(RecordError::Alert { index, error }));
        }
        enrichment.add_to(&mut batch.records);
        batch
    }

    /// What it takes of memory, about.
    pub fn memory_bytes(&self) -> usize {
        let values: usize = self.records.iter().map(|record| record.attributes.bytes()).sum();
        let alerts: usize = self.alerts.iter().map(Alert::bytes).sum();
        self.records.len() * size_of::<FlowRecord>() + values + alerts
    }

    /// The payload that [`RecordBatch::read`] reads.
    pub fn payload(interface: &str, records: &[FlowRecord]) -> Bytes {
        let mut batch = Vec::new();
        append_interface(&mut batch, interface);
        records.iter().for_each(|record| append_record(&mut batch, record));
        zstd::bulk::compress(&batch, 1).unwrap_or_default().into()
    }
}

thread_local! {
    /// Making one anew for each batch takes as long as reading a dozen records.
    static DECOMPRESSOR: RefCell<Option<zstd::bulk::Decompressor<'static>>> = const { RefCell::new(None) };
}

fn decompress(payload: &[u8], bytes_max: usize) -> std::io::Result<Vec<u8>> {
    // Agents write one frame that says how long it is.
    if let Ok(Some(bytes)) = zstd::zstd_safe::get_frame_content_size(payload)
        && bytes <= bytes_max as u64
    {
        let batch = DECOMPRESSOR.with_borrow_mut(|decompressor| {
            if decompressor.is_none() {
                *decompressor = zstd::bulk::Decompressor::new().ok();
            }
            decompressor.as_mut().and_then(|reader| reader.decompress(payload, bytes as usize).ok())
        });
        if let Some(batch) = batch {
            return Ok(batch);
        }
    }
    let mut batch = Vec::new();
    let mut decoder = zstd::stream::read::Decoder::with_buffer(payload)?;
    decoder.window_log_max(WINDOW_LOG_MAX)?;
    decoder.take(bytes_max as u64 + 1).read_to_end(&mut batch)?;
    if batch.len() > bytes_max {
        return Err(std::io::Error::other("it is larger"));
    }
    Ok(batch)
}

/// A value of `recent`: `[version 1][epoch 8][ingest time 8]` and the payload.
pub(super) fn encode_recent(epoch: EpochHash, ingested: UtcNs, payload: &[u8]) -> Vec<u8> {
    let mut value = Vec::with_capacity(17 + payload.len());
    value.push(1);
    value.extend(epoch.0.to_le_bytes());
    value.extend(ingested.tai_ns().to_le_bytes());
    value.extend_from_slice(payload);
    value
}

pub(super) fn decode_recent(value: &[u8]) -> Result<(EpochHash, UtcNs, &[u8]), DamagedValue> {
    const WHAT: &str = "a recent batch";
    let Some((header, payload)) = value.split_first_chunk::<17>() else {
        return Err(damaged(WHAT, "is cut"));
    };
    if header[0] != 1 {
        return Err(damaged(WHAT, format!("has the unknown layout {}", header[0])));
    }
    let u64_at = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| header[at + i]));
    Ok((EpochHash(u64_at(1)), UtcNs::from_tai_ns(u64_at(9).cast_signed()), payload))
}
