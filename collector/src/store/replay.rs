//! What an open reads: every block's summary, and the records that are in no block yet.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use gnomon_flow::{FlowRef, TimeState};

use super::StoreError;
use super::batch::{RecordBatch, decode_recent};
use super::block::Summary;
use super::envelope::Envelope;
use super::keys::{self, Family};
use super::ledger::Ledger;
use super::live::{RowSet, Sealed};
use super::stage::Stage;
use super::writer::Writer;

/// Records placed in one go.
const RUN: usize = 16_384;

impl Writer {
    /// Counts what is missing of entries that were acknowledged.
    pub(super) fn load_ledgers(&mut self) -> Result<(), StoreError> {
        let rocks = &self.shared.rocks;
        let mut missing = 0u64;
        rocks.walk(Family::Ledger, &[], |_, value| {
            missing = missing.saturating_add(Ledger::decode(value)?.missing());
            Ok(())
        })?;
        self.shared.entries_missing.store(missing, Ordering::Relaxed);
        let lost = rocks.get(Family::Meta, keys::META_LOST)?;
        let lost = lost.map(|value| super::envelope::numbers_of("lost entries", &value)).transpose()?;
        self.shared.entries_lost.store(lost.map_or(0, |[lost]| lost), Ordering::Relaxed);
        Ok(())
    }

    pub(super) fn load_records(&mut self) -> Result<(), StoreError> {
        self.load_blocks()?;
        self.load_waiting()?;
        self.load_recent()
    }

    fn load_blocks(&mut self) -> Result<(), StoreError> {
        let mut sealed = Vec::new();
        self.shared.rocks.walk(Family::Blocks, &[], |key, value| {
            let Some(id) = keys::block_of(key) else { return Err(StoreError::Key { bytes: key.to_vec() }) };
            match Summary::decode(value) {
                Ok(summary) => sealed.push(Sealed {
                    id,
                    dead: Arc::new(RowSet::none(summary.rows)),
                    summary: Arc::new(summary),
                    times: None,
                }),
                Err(error) => {
                    tracing::error!(block = id, %error, "a block of records is damaged: the others are served");
                    self.shared.damaged_blocks.fetch_add(1, Ordering::Relaxed);
                }
            }
            Ok(())
        })?;
        self.shared.rocks.walk(Family::Dead, &[], |key, value| {
            let id = keys::block_of(key).unwrap_or(u64::MAX);
            if let Ok(at) = sealed.binary_search_by_key(&id, |block| block.id) {
                sealed[at].dead = Arc::new(RowSet::from_bytes(value));
            }
            Ok(())
        })?;
        for block in &mut sealed {
            block.times = self.store().times(block)?;
        }
        // Numbers are never used again, not even those of blocks that were given up.
        let kept = self.shared.rocks.get(Family::Meta, keys::META_NEXT_BLOCK)?;
        let kept = kept.map(|v| super::envelope::numbers_of("the next block", &v)).transpose()?;
        let next = kept.map_or(1, |[next]| next);
        self.next_block = sealed.last().map_or(1, |block| block.id + 1).max(next);
        let sealed = sealed.into_iter().map(Arc::new).collect();
        self.shared.live.write().unwrap_or_else(PoisonError::into_inner).change_blocks(sealed, &[]);
        Ok(())
    }

    fn load_waiting(&mut self) -> Result<(), StoreError> {
        let mut read = Vec::new();
        let shared = Arc::clone(&self.shared);
        shared.rocks.walk(Family::Waiting, &[], |key, value| {
            let Some(id) = keys::reference_of(key) else {
                return Err(StoreError::Key { bytes: key.to_vec() });
            };
            match Envelope::decode(value) {
                Ok(envelope) => read.push((id, envelope)),
                Err(error) => tracing::error!(%id, %error, "a record is damaged: the others are served"),
            }
            if read.len() >= RUN { self.place_waiting(std::mem::take(&mut read)) } else { Ok(()) }
        })?;
        self.place_waiting(read)
    }

    fn place_waiting(&mut self, read: Vec<(FlowRef, Envelope)>) -> Result<(), StoreError> {
        let mut stage = Stage::new(&self.shared);
        let damaged = self.shared.opened.is_damaged();
        for (id, envelope) in read {
            // Damage may have taken what says that it went into a block.
            if damaged && self.is_known(id, envelope.record.revision)? {
                continue;
            }
            let Some(epoch) = self.shared.epochs.get(&self.shared.rocks, id.epoch)? else { continue };
            self.waiting.insert(id, envelope.record.revision);
            let interface = envelope.interface.into();
            self.place(id, &epoch, &interface, &envelope.record, envelope.ingested, &mut stage)?;
        }
        self.publish(stage, false)
    }

    fn load_recent(&mut self) -> Result<(), StoreError> {
        let shared = Arc::clone(&self.shared);
        let mut first = None;
        let mut next = 0;
        let mut stage = Stage::new(&shared);
        let damaged = shared.opened.is_damaged();
        let in_blocks = shared.rocks.get(Family::Meta, keys::META_FIRST_RECENT)?;
        let in_blocks = in_blocks.map(|v| super::envelope::numbers_of("the first batch", &v)).transpose()?;
        let in_blocks = in_blocks.map_or(0, |[first]| first);
        shared.rocks.walk(Family::Recent, &[], |key, value| {
            let Some(number) = keys::recent_of(key) else {
                return Err(StoreError::Key { bytes: key.to_vec() });
            };
            first.get_or_insert(number);
            next = number + 1;
            // Damage took what deleted it; the next blocks delete it again.
            if number < in_blocks {
                return Ok(());
            }
            let (hash, ingested, payload) = decode_recent(value)?;
            let batch = match RecordBatch::read_stored(payload, &shared.enrichment.get()) {
                Ok(batch) => batch,
                Err(error) => {
                    tracing::error!(number, %error, "a batch of records is damaged: the others are served");
                    return Ok(());
                }
            };
            if batch.records_bad > 0 {
                tracing::warn!(
                    number,
                    records = batch.records_bad,
                    "records of a batch say the impossible: the others are served"
                );
            }
            let Some(epoch) = shared.epochs.get(&shared.rocks, hash)? else {
                tracing::error!(
                    number,
                    records = batch.records.len(),
                    "a batch of records is of an epoch that the database lost: the others are served"
                );
                self.shared.damaged_blocks.fetch_add(1, Ordering::Relaxed);
                return Ok(());
            };
            let interface = batch.interface.into();
            for record in &batch.records {
                let id = FlowRef { epoch: hash, flow: record.id, segment: record.segment };
                if damaged && self.is_known(id, record.revision)? {
                    continue;
                }
                self.place(id, &epoch, &interface, record, ingested, &mut stage)?;
            }
            if stage.rows.len() >= RUN {
                self.publish(std::mem::replace(&mut stage, Stage::new(&shared)), false)?;
            }
            Ok(())
        })?;
        self.publish(stage, false)?;
        let kept = shared.rocks.get(Family::Meta, keys::META_NEXT_RECENT)?;
        let kept = kept.map(|v| super::envelope::numbers_of("the next batch", &v)).transpose()?;
        next = next.max(kept.map_or(0, |[next]| next));
        self.recent = (first.unwrap_or(next), next);
        let live = shared.live();
        let held = live.hot().filter(|(_, flow)| flow.time_state != TimeState::Indexed).count();
        tracing::debug!(records = live.hot_len(), held, blocks = live.blocks().len(), "the store is open");
        Ok(())
    }
}
