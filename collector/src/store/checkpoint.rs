//! From single records to blocks. A checkpoint is one batch: the new blocks go in, the batches they came in go out, and
//! what is not in a block yet and would be lost with those is written down by itself. The blocks are made beside the
//! writer (`block_maker.rs`), which goes on with what comes in meanwhile.

use std::collections::HashSet;
use std::sync::{Arc, PoisonError};

use gnomon_clock::UtcNs;
use gnomon_flow::{FlowRef, StoredFlow, TimeState};

use super::StoreError;
use super::batch::RecordBatch;
use super::block::ROWS;
use super::block::bloom::Mixing;
use super::block_maker::{Hot, Made, MadeBlock, Plan};
use super::envelope::{DamagedValue, Envelope, numbers};
use super::keys::{self, Family};
use super::live::{RowSet, Sealed};
use super::quarantine::Quarantine;
use super::rocks::Batch;
use super::rollup_group::delete_groups;
use super::writer::Writer;

/// Records in no block. Beyond them, those that may still change are put into blocks too.
pub(super) const HOT_ROWS_MAX: usize = 16 * ROWS;
/// Final records in no block for which nobody has to wait: beyond them the writer waits for the blocks that are being made,
/// as searches look at each of them, and they take memory.
const FINALS_MAX: usize = 4 * ROWS;
/// Batches whose records are in no block: what an open has to read again.
const RECENT_MAX: u64 = 65_536;
/// Memory that the metadata of records in no block takes; beyond it blocks are made of fewer records.
const HOT_METADATA_BYTES_MAX: usize = 128 << 20;

/// A block of final records has at least so many.
const FINALS_MIN: usize = 256;
impl Writer {
    /// Has records put into blocks when there are enough of them. Whether something was done.
    pub(super) fn seal(&mut self) -> Result<bool, StoreError> {
        let (class, behind) = {
            let live = self.shared.live();
            let recent = self.recent.1 - self.recent.0;
            let (metadata, majority) = (live.metadata_bytes(), live.counts.indexed >= live.counts.held());
            // Many batches of few records, or records of much metadata: what is final goes, in a small block if need be.
            let little = recent > RECENT_MAX || metadata > HOT_METADATA_BYTES_MAX;
            let final_class = |least: usize| [true, false].into_iter().find(|is| live.finals(*is) >= least);
            let too_many = live.hot_len() > HOT_ROWS_MAX
                || recent > 2 * RECENT_MAX
                || metadata > 2 * HOT_METADATA_BYTES_MAX;
            let class = match final_class(if little { FINALS_MIN } else { ROWS }) {
                Some(indexed) => Some((true, indexed)),
                None if too_many => Some((false, majority)),
                None => None,
            };
            let finals = live.finals(true).max(live.finals(false));
            (class, too_many || finals > FINALS_MAX)
        };
        if self.maker.is_busy() {
            return self.put_made(behind);
        }
        let Some((finals, indexed)) = class else { return Ok(false) };
        let rows = self.select(|flow| {
            (flow.record.end.is_some() || !finals) && (flow.time_state == TimeState::Indexed) == indexed
        });
        let plan = self.plan(rows);
        self.maker.make(plan);
        Ok(true)
    }

    /// Waits until no block is being made any more; whether one was.
    ///
    /// # Errors
    /// What the disk said: the records stay in no block.
    pub fn finish_blocks(&mut self) -> Result<bool, StoreError> {
        self.put_made(true)
    }

    fn put_made(&mut self, wait: bool) -> Result<bool, StoreError> {
        let Some(mut made) = self.maker.take(wait) else { return Ok(false) };
        self.install(&mut made, &[])?;
        self.maker.forget(made);
        Ok(true)
    }

    /// Hot records for which `wanted` holds.
    pub(super) fn select(&self, wanted: impl Fn(&StoredFlow) -> bool) -> Vec<Hot> {
        let live = self.shared.live();
        live.hot().filter(|(_, flow)| wanted(flow)).map(|(id, flow)| (id, Arc::clone(flow))).collect()
    }

    /// Puts `rows`, which are all indexed or all held, into blocks, and forgets `dropped`. Now, by this thread.
    pub(super) fn checkpoint(&mut self, rows: Vec<Hot>, dropped: &[FlowRef]) -> Result<(), StoreError> {
        let mut made = self.plan(rows).make();
        self.install(&mut made, dropped)
    }

    pub(super) fn plan(&self, rows: Vec<Hot>) -> Plan {
        let leaving: HashSet<FlowRef, Mixing> = rows.iter().map(|(id, _)| *id).collect();
        let live = self.shared.live();
        let staying = live.hot().filter(|(id, flow)| !leaving.contains(id) && self.is_unwritten(*id, flow));
        Plan { staying: staying.map(|(id, _)| id).collect(), rows, recent: self.recent.1 }
    }

    /// Nothing but the batch that it came in has the record as it is.
    fn is_unwritten(&self, id: FlowRef, flow: &StoredFlow) -> bool {
        self.waiting.get(&id).is_none_or(|revision| *revision < flow.record.revision)
    }

    /// The batch that puts made blocks in, in the place of the records that they were made of. Those that have become
    /// others meanwhile stay as they are, and their rows are dead.
    pub(super) fn install(&mut self, made: &mut Made, dropped: &[FlowRef]) -> Result<(), StoreError> {
        let Made { plan, blocks, unfit } = made;
        self.set_aside(plan, unfit)?;
        let mut batch = Batch::default();
        let mut sealed = Vec::with_capacity(blocks.len());
        let mut leaving: Vec<FlowRef> = Vec::with_capacity(plan.rows.len() + dropped.len());
        let mut waiting = Vec::new();
        {
            let live = self.shared.live();
            let is_same = |(id, flow): &Hot| live.get(*id).is_some_and(|now| Arc::ptr_eq(now, flow));
            for block in blocks.iter_mut() {
                let id = self.next_block + sealed.len() as u64;
                let rows = &plan.rows[block.rows.clone()];
                let dead = RowSet::of(rows.len(), |row| !is_same(&rows[block.order[row] as usize]));
                sealed.push(Arc::new(self.put_block(id, block, rows, dead, &mut batch)?));
            }
            let (same, changed): (Vec<_>, Vec<_>) = plan.rows.iter().partition(|row| is_same(row));
            leaving.extend(same.into_iter().map(|(id, _)| *id).chain(dropped.iter().copied()));
            let gone: HashSet<FlowRef, Mixing> = dropped.iter().copied().collect();
            for id in changed.into_iter().map(|(id, _)| *id).chain(plan.staying.iter().copied()) {
                let Some(flow) = live.get(id).filter(|_| !gone.contains(&id)) else { continue };
                if self.is_unwritten(id, flow) {
                    batch.put(Family::Waiting, keys::reference(id), Envelope::of(flow).encode());
                    waiting.push((id, flow.record.revision));
                }
            }
        }
        for id in leaving.iter().filter(|id| self.waiting.contains_key(id)) {
            batch.delete(Family::Waiting, keys::reference(*id));
        }
        for seq in self.recent.0..plan.recent {
            batch.delete(Family::Recent, keys::recent(seq));
        }
        batch.put(Family::Meta, keys::META_NEXT_BLOCK, numbers([self.next_block + sealed.len() as u64]));
        batch.put(Family::Meta, keys::META_NEXT_RECENT, numbers([self.recent.1]));
        batch.put(Family::Meta, keys::META_FIRST_RECENT, numbers([plan.recent.max(self.recent.0)]));
        self.write(&batch, true)?;
        let set_aside = unfit.len() as u64;
        self.shared.records_set_aside.fetch_add(set_aside, std::sync::atomic::Ordering::Relaxed);
        self.recent.0 = self.recent.0.max(plan.recent);
        self.next_block += sealed.len() as u64;
        for id in &leaving {
            self.waiting.remove(id);
        }
        self.waiting.extend(waiting);
        self.judge_too(&sealed);
        self.join_too(plan, blocks, &sealed);
        let mut live = self.shared.live.write().unwrap_or_else(PoisonError::into_inner);
        leaving.iter().for_each(|id| live.remove(*id));
        live.change_blocks(sealed, &[]);
        Ok(())
    }

    /// Records that no block can hold leave the store for the quarantine: they would keep all others from their block.
    fn set_aside(&self, plan: &Plan, unfit: &[(usize, DamagedValue)]) -> Result<(), StoreError> {
        if unfit.is_empty() {
            return Ok(());
        }
        let dir = self.shared.dir.join("quarantine");
        let of_disk = |source| StoreError::Directory { path: dir.clone(), source };
        // Counted from what is there: sessions put entries there too, each by its own count.
        let quarantine = Quarantine::open(&dir).map_err(of_disk)?;
        for (at, error) in unfit {
            let (id, flow) = &plan.rows[*at];
            let batch = RecordBatch::payload(&flow.origin.interface, std::slice::from_ref(&flow.record));
            let kept = quarantine.keep_record(*id, &batch).map_err(of_disk)?;
            let kept =
                kept.map_or("nowhere: the quarantine is full".to_owned(), |path| path.display().to_string());
            tracing::error!(%id, %error, kept, "a record cannot be stored in a block: it is kept aside");
        }
        Ok(())
    }

    fn put_block(
        &self,
        id: u64,
        block: &mut MadeBlock,
        rows: &[Hot],
        dead: RowSet,
        batch: &mut Batch,
    ) -> Result<Sealed, StoreError> {
        let MadeBlock { built, order, .. } = block;
        for (column, bytes) in std::mem::take(&mut built.columns) {
            batch.put(Family::Columns, keys::column(id, column.0), bytes);
        }
        batch.put(Family::Blocks, keys::block(id), built.summary.encode());
        if !dead.is_empty() {
            batch.put(Family::Dead, keys::block(id), dead.to_bytes());
        }
        for (row, at) in order.iter().enumerate() {
            let (id_of_row, flow) = &rows[*at as usize];
            if flow.record.end.is_none() && !dead.has(row) {
                let ingested = flow.ingested.unwrap_or(UtcNs::MIN).tai_ns().cast_unsigned();
                let value = numbers([id, row as u64, u64::from(flow.record.revision), ingested]);
                batch.put(Family::Loose, keys::reference(*id_of_row), value);
            }
        }
        let summary = Arc::clone(&built.summary);
        let mut sealed = Sealed { id, dead: Arc::new(dead), summary, times: None };
        sealed.times = self.store().times(&sealed)?;
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
