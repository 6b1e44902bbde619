//! From single records to blocks. A checkpoint is one batch: the new blocks go in, the batches they came in go out, and
//! what is not in a block yet and would be lost with those is written down by itself. It never waits for anything: ingest
//! goes on right after.

use std::sync::{Arc, PoisonError};

use gnomon_clock::UtcNs;
use gnomon_flow::{FlowRef, StoredFlow, TimeState};

use super::block::bloom::Mixing;
use super::block::{self, ROWS};
use super::envelope::{Envelope, numbers};
use super::keys::{self, Family};
use super::live::{RowSet, Sealed, Times};
use super::rocks::Batch;
use super::rollup_group::delete_groups;
use super::writer::Writer;
use super::{Shared, StoreError};

/// Records in no block. Beyond them, those that may still change are put into blocks too.
pub(super) const HOT_ROWS_MAX: usize = 16 * ROWS;
/// Batches whose records are in no block: what an open has to read again.
const RECENT_MAX: u64 = 65_536;
/// Text of records in no block; beyond it blocks are made of fewer records.
const HOT_TEXT_BYTES_MAX: usize = 128 << 20;

/// A block of final records has at least so many.
const FINALS_MIN: usize = 256;
/// Text that a block has about, at most: a question reads whole columns into memory.
const BLOCK_TEXT_BYTES: usize = 64 << 20;

/// A record to be put into a block, by its id.
type Hot = (FlowRef, Arc<StoredFlow>);

impl Writer {
    /// Puts records into blocks when there are enough of them. Whether something was done.
    pub(super) fn seal(&mut self) -> Result<bool, StoreError> {
        let enough = {
            let live = self.shared.live();
            let recent = self.recent.1 - self.recent.0;
            let (text, majority) = (live.text_bytes(), live.counts.indexed >= live.counts.held());
            // Many batches of few records, or records of much text: what is final goes, in a small block if need be.
            let little = recent > RECENT_MAX || text > HOT_TEXT_BYTES_MAX;
            let final_class = |least: usize| [true, false].into_iter().find(|is| live.finals(*is) >= least);
            let too_many =
                live.hot_len() > HOT_ROWS_MAX || recent > 2 * RECENT_MAX || text > 2 * HOT_TEXT_BYTES_MAX;
            match final_class(if little { FINALS_MIN } else { ROWS }) {
                Some(indexed) => Some((true, indexed)),
                None if too_many => Some((false, majority)),
                None => None,
            }
        };
        let Some((finals, indexed)) = enough else { return Ok(false) };
        let rows = self.select(|flow| {
            (flow.record.end.is_some() || !finals) && (flow.time_state == TimeState::Indexed) == indexed
        });
        self.checkpoint(rows, &[])?;
        Ok(true)
    }

    /// Hot records for which `wanted` holds.
    pub(super) fn select(&self, wanted: impl Fn(&StoredFlow) -> bool) -> Vec<Hot> {
        let live = self.shared.live();
        live.hot().filter(|(_, flow)| wanted(flow)).map(|(id, flow)| (id, Arc::clone(flow))).collect()
    }

    /// Puts `rows`, which are all indexed or all held, into blocks, and forgets `dropped`.
    pub(super) fn checkpoint(&mut self, mut rows: Vec<Hot>, dropped: &[FlowRef]) -> Result<(), StoreError> {
        let mut batch = Batch::default();
        let mut sealed = Vec::new();
        // Near in time, near in place: that is what lets a search pass blocks by.
        rows.sort_by_cached_key(|(id, flow)| (flow.first.map(|first| first.utc), flow.record.first, *id));
        let text_bytes: usize = rows.iter().map(|(_, flow)| flow.record.attributes.text_bytes()).sum();
        // The batch that filled a block goes over its edge: that makes no two of them.
        let blocks = ((rows.len() + ROWS / 2) / ROWS).max(text_bytes / BLOCK_TEXT_BYTES).max(1);
        let each = rows.len().div_ceil(blocks).max(1);
        for rows in rows.chunks(each) {
            let id = self.next_block + sealed.len() as u64;
            sealed.push(Arc::new(self.put_block(id, rows, &mut batch)?));
        }
        let leaving: std::collections::HashSet<FlowRef, Mixing> =
            rows.iter().map(|(id, _)| *id).chain(dropped.iter().copied()).collect();
        let mut waiting = Vec::new();
        {
            let live = self.shared.live();
            for (id, flow) in live.hot() {
                if leaving.contains(&id) {
                    if self.waiting.contains_key(&id) {
                        batch.delete(Family::Waiting, keys::reference(id));
                    }
                } else if self.waiting.get(&id).is_none_or(|revision| *revision < flow.record.revision) {
                    batch.put(Family::Waiting, keys::reference(id), Envelope::of(flow).encode());
                    waiting.push((id, flow.record.revision));
                }
            }
        }
        for seq in self.recent.0..self.recent.1 {
            batch.delete(Family::Recent, keys::recent(seq));
        }
        batch.put(Family::Meta, keys::META_NEXT_BLOCK, numbers([self.next_block + sealed.len() as u64]));
        batch.put(Family::Meta, keys::META_NEXT_RECENT, numbers([self.recent.1]));
        self.write(&batch, true)?;
        self.recent.0 = self.recent.1;
        self.next_block += sealed.len() as u64;
        for id in &leaving {
            self.waiting.remove(id);
        }
        self.waiting.extend(waiting);
        let mut live = self.shared.live.write().unwrap_or_else(PoisonError::into_inner);
        leaving.iter().for_each(|id| live.remove(*id));
        live.change_blocks(sealed, &[]);
        Ok(())
    }

    fn put_block(&self, id: u64, rows: &[Hot], batch: &mut Batch) -> Result<Sealed, StoreError> {
        let flows: Vec<Arc<StoredFlow>> = rows.iter().map(|(_, flow)| Arc::clone(flow)).collect();
        let (built, order) = block::build(&flows);
        for (column, bytes) in built.columns {
            batch.put(Family::Columns, keys::column(id, column.0), bytes);
        }
        batch.put(Family::Blocks, keys::block(id), built.summary.encode());
        for (row, at) in order.iter().enumerate() {
            let (id_of_row, flow) = &rows[*at as usize];
            if flow.record.end.is_none() {
                let ingested = flow.ingested.unwrap_or(UtcNs::MIN).tai_ns().cast_unsigned();
                let value = numbers([id, row as u64, u64::from(flow.record.revision), ingested]);
                batch.put(Family::Loose, keys::reference(*id_of_row), value);
            }
        }
        let mut sealed = Sealed {
            id,
            dead: Arc::new(RowSet::none(built.summary.rows)),
            summary: Arc::new(built.summary),
            times: None,
        };
        sealed.times = self.shared.times(&sealed)?;
        Ok(sealed)
    }

    /// Takes blocks out for good.
    pub(crate) fn drop_blocks(&mut self, ids: &[u64]) -> Result<(), StoreError> {
        if ids.is_empty() {
            return Ok(());
        }
        let mut batch = Batch::default();
        {
            let live = self.shared.live();
            for block in ids.iter().filter_map(|id| live.block(*id)) {
                for column in &block.summary.columns {
                    batch.delete(Family::Columns, keys::column(block.id, column.0));
                }
                batch.delete(Family::Blocks, keys::block(block.id));
                batch.delete(Family::Dead, keys::block(block.id));
            }
        }
        self.write(&batch, false)?;
        let mut live = self.shared.live.write().unwrap_or_else(PoisonError::into_inner);
        live.change_blocks(Vec::new(), ids);
        let oldest = live.blocks().first().map_or(self.next_block, |block| block.id);
        drop(live);
        // Now that nobody can see the blocks, nobody makes a rollup of one any more.
        let mut rollups = Batch::default();
        ids.iter().for_each(|id| rollups.delete(Family::Rollups, keys::block(*id)));
        delete_groups(ids, &mut rollups);
        self.write(&rollups, false)?;
        self.shared.rocks.drop_files_below(Family::Rollups, &keys::block(oldest));
        // Whole files of what was before the oldest block go at once; the rest as compactions come by.
        self.shared.rocks.drop_files_below(Family::Columns, &keys::block(oldest));
        Ok(())
    }

    /// The records of a block whose rows pass, each with its row.
    pub(super) fn rows_of(
        &self,
        block: &Arc<Sealed>,
        wanted: impl Fn(usize) -> bool,
    ) -> Result<Vec<(usize, StoredFlow)>, StoreError> {
        let reader = self.store().read(block);
        let rows = reader.alive();
        rows.iter().filter(|row| wanted(*row)).map(|row| Ok((row, reader.flow(row)?))).collect()
    }
}

impl Shared {
    /// What the times of an indexed block lie between, by the evidence of now.
    pub(super) fn times(&self, block: &Sealed) -> Result<Option<Times>, StoreError> {
        let mut times: Option<Times> = None;
        for source in &block.summary.sources {
            let Some(epoch) = self.epochs.get(&self.rocks, source.epoch)? else { continue };
            for worker in &source.workers {
                let (from, to) = worker.first;
                let (Some(first_min), Some(first_max)) =
                    (self.estimate(&epoch, from)?, self.estimate(&epoch, to)?)
                else {
                    // Searched whenever it may concern, until it is clear where its records belong.
                    return Ok(Some(Times {
                        first_min: UtcNs::MIN,
                        first_max: UtcNs::MAX,
                        last_max: UtcNs::MAX,
                    }));
                };
                let last_max = self.estimate(&epoch, worker.last_max)?.unwrap_or(first_max);
                let of = Times {
                    first_min: first_min.utc,
                    first_max: first_max.utc,
                    last_max: last_max.utc.max(first_max.utc),
                };
                times = Some(match times {
                    None => of,
                    Some(all) => Times {
                        first_min: all.first_min.min(of.first_min),
                        first_max: all.first_max.max(of.first_max),
                        last_max: all.last_max.max(of.last_max),
                    },
                });
            }
        }
        Ok(times)
    }
}
