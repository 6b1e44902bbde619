//! Second thoughts about time: when the evidence of an epoch changes, the records that wait are judged again, and indexed
//! ones that turn out to lie in the future leave the index. Done in short runs between commits, so that ingest never
//! waits long.
//!
//! Nothing in the database is keyed by time, so nothing has to be moved when a time is corrected: where a block's records
//! lie is worked out anew from their RAW readings. All of it follows from the evidence, so a crash in the middle costs
//! nothing: the next open judges everything that waits.

use std::collections::VecDeque;
use std::sync::{Arc, PoisonError};

use gnomon_flow::{EpochHash, FlowRef, StoredFlow, TimeState};

use super::StoreError;
use super::block::Summary;
use super::epochs::Epoch;
use super::keys::{self, Family};
use super::live::Sealed;
use super::stage::Stage;
use super::writer::Writer;

/// Records looked at in one run.
const RUN: usize = 512;
/// Held records are judged again this often by time alone (one may have been ahead of the collector's clock)…
const REGATE_NS: u64 = 1_000_000_000;
/// …or this often, when there are more than [`HELD_FEW`] of them, or some are in blocks.
const REGATE_MANY_NS: u64 = 30_000_000_000;
const HELD_FEW: u64 = 4096;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    /// The evidence of this epoch changed.
    Evidence(EpochHash),
    /// Time went by.
    Waiting,
    /// The collector's time went back, or is proven now: what lies ahead of it has to leave the index.
    Future,
}

impl Cause {
    fn concerns(self, block: &Sealed) -> bool {
        match self {
            Cause::Evidence(epoch) => block.summary.has_epoch(epoch),
            Cause::Waiting => block.held(),
            Cause::Future => !block.held(),
        }
    }
}

/// Records and blocks to be judged again.
#[derive(Clone, Debug)]
pub(super) struct Job {
    cause: Cause,
    /// Records have other times than they were put away with, until this is done.
    moved: bool,
    rows: VecDeque<FlowRef>,
    blocks: VecDeque<u64>,
}

impl Writer {
    /// After an open: whatever waits is judged again.
    pub(super) fn load_jobs(&mut self) {
        self.queue(Cause::Waiting, false);
    }

    fn queue(&mut self, cause: Cause, moved: bool) {
        // One under way has to begin again: it used the evidence of before.
        let moved = moved || self.jobs.iter().any(|job| job.cause == cause && job.moved);
        self.jobs.retain(|job| job.cause != cause);
        let live = self.shared.live();
        let held = |flow: &StoredFlow| flow.time_state != TimeState::Indexed;
        let rows = live.select(|id, flow| match cause {
            Cause::Evidence(epoch) => id.epoch == epoch,
            Cause::Waiting => held(flow),
            Cause::Future => !held(flow),
        });
        let blocks = live.blocks().iter().filter(|block| cause.concerns(block));
        let blocks: VecDeque<u64> = blocks.map(|block| block.id).collect();
        drop(live);
        if !rows.is_empty() || !blocks.is_empty() {
            self.jobs.push_back(Job { cause, moved, rows: rows.into(), blocks });
        }
    }

    /// Records that were to be judged again are in these blocks now.
    pub(super) fn judge_too(&mut self, made: &[Arc<Sealed>]) {
        for job in &mut self.jobs {
            job.blocks.extend(made.iter().filter(|block| job.cause.concerns(block)).map(|block| block.id));
        }
    }

    /// The evidence of `epoch` changed and is durable. `moved`: by so much that records may have to go elsewhere.
    pub(super) fn retimed(&mut self, epoch: EpochHash, moved: bool) {
        let live = self.shared.live();
        let concerns = moved
            || live.has_held(epoch)
            || live.blocks().iter().any(|block| block.held() && block.summary.has_epoch(epoch));
        drop(live);
        if concerns {
            self.queue(Cause::Evidence(epoch), moved);
        }
        self.rejoin_waiting(epoch, concerns);
    }

    /// At once from the next run on, and again after a crash, since every start is followed by a proof.
    pub(super) fn recall_future(&mut self) {
        self.queue(Cause::Future, false);
    }

    /// Epochs were cut off: what lies behind the cut is looked at again.
    pub(super) fn recut(&mut self, epochs: &[EpochHash]) {
        epochs.iter().for_each(|epoch| self.queue(Cause::Evidence(*epoch), true));
    }

    /// Call about once a second: judges held records again where time alone may have settled them.
    pub fn tick(&mut self) {
        if self.shared.read_only.is_some() {
            // Why not is said already.
            let _ = self.check_writable();
            return;
        }
        // What cannot be written is said by the next group.
        let _ = self.settle_if_due();
        let now = self.shared.gate.monotonic();
        if now.since(self.regated_at.0) < REGATE_NS {
            return;
        }
        self.regated_at.0 = now;
        let many_due = now.since(self.regated_at.1) >= REGATE_MANY_NS;
        let live = self.shared.live();
        let held = live.counts.held();
        let many = held > HELD_FEW || live.blocks().iter().any(|block| block.held());
        drop(live);
        if many_due {
            self.regated_at.1 = now;
        }
        if (held > 0 && !many || many && many_due) && !self.jobs.iter().any(|job| job.cause == Cause::Waiting)
        {
            self.queue(Cause::Waiting, false);
        }
    }

    /// Lets searches go by the times that records were put away with, once these are those of now.
    pub(super) fn look_whether_settled(&self) {
        let unsettled = self.jobs.iter().any(|job| job.moved);
        if self.shared.live().unsettled != unsettled {
            self.shared.live.write().unwrap_or_else(PoisonError::into_inner).unsettled = unsettled;
        }
    }

    /// Do one short run of what is left to do; false when there is nothing.
    ///
    /// # Errors
    /// What the disk said; the run is tried again by the next call.
    pub fn settle(&mut self) -> Result<bool, StoreError> {
        if self.shared.read_only.is_some() {
            return Ok(false);
        }
        self.forget_alerts()?;
        if self.seal()? {
            return Ok(true);
        }
        self.joins_turn = !self.joins_turn;
        if (self.joins_turn || self.jobs.is_empty()) && self.join_some()? {
            return Ok(true);
        }
        let Some(job) = self.jobs.front() else { return Ok(false) };
        let (cause, block) = (job.cause, job.blocks.front().copied());
        let run: Vec<FlowRef> = job.rows.iter().take(RUN).copied().collect();
        if !run.is_empty() {
            self.judge_rows(cause, &run)?;
        } else if let Some(id) = block {
            // A damaged block stays as it is, and holds up no other.
            let judged = self.judge_block(cause, id);
            self.store().served(judged)?;
        }
        // Neither has queued anything before this one.
        if let Some(job) = self.jobs.front_mut() {
            if run.is_empty() {
                job.blocks.pop_front();
            } else {
                job.rows.drain(..run.len());
            }
            if job.rows.is_empty() && job.blocks.is_empty() {
                self.jobs.pop_front();
                self.look_whether_settled();
            }
        }
        Ok(!self.jobs.is_empty() || self.has_joins())
    }

    fn judge_rows(&mut self, cause: Cause, run: &[FlowRef]) -> Result<(), StoreError> {
        let mut stage = Stage::new(&self.shared);
        for id in run {
            let Some(flow) = self.shared.live().get(*id).cloned() else { continue };
            let Some(epoch) = self.shared.epochs.get(&self.shared.rocks, id.epoch)? else { continue };
            if let Some(new) = self.judged(cause, &epoch, &flow, &stage)? {
                stage.put(*id, new);
            }
        }
        // Nothing to write: the records are durable as they came, and what they are judged by is too.
        self.publish(stage, false)
    }

    /// The record as it has to be now; `None` when it may stay as it is.
    fn judged(
        &self,
        cause: Cause,
        epoch: &Epoch,
        flow: &StoredFlow,
        stage: &Stage,
    ) -> Result<Option<StoredFlow>, StoreError> {
        let judged = self.shared.judge(epoch, &flow.record, &stage.now)?;
        let indexed = flow.time_state == TimeState::Indexed;
        if indexed {
            let moved =
                flow.first.is_none_or(|first| self.shared.gate.must_rekey(first.utc, judged.first.as_ref()));
            if !(cause == Cause::Future && judged.state != TimeState::Indexed || moved) {
                return Ok(None);
            }
        } else if judged.state == flow.time_state {
            return Ok(None);
        }
        Ok(Some(StoredFlow {
            time_state: judged.state,
            first: judged.first,
            last: judged.last,
            ..flow.clone()
        }))
    }

    fn judge_block(&mut self, cause: Cause, id: u64) -> Result<(), StoreError> {
        let Some(block) = self.shared.live().block(id).cloned() else { return Ok(()) };
        if block.held() { self.judge_held_block(&block) } else { self.judge_indexed_block(cause, &block) }
    }

    /// A block of records that wait. All are let in at once where all can be; else those that can go on by themselves.
    fn judge_held_block(&mut self, block: &Arc<Sealed>) -> Result<(), StoreError> {
        let verdicts = self.verdicts(block)?;
        let alive = |row: &usize| !block.dead.has(*row);
        let indexed = |row: &usize| verdicts[*row] == TimeState::Indexed;
        let rows = || (0..verdicts.len()).filter(alive);
        if !rows().any(|row| indexed(&row)) {
            return Ok(());
        }
        if rows().all(|row| indexed(&row)) {
            let summary = Summary { held: false, ..Summary::clone(&block.summary) };
            let mut batch = super::rocks::Batch::default();
            batch.put(Family::Blocks, keys::block(block.id), summary.encode());
            let mut sealed = Sealed { summary: Arc::new(summary), ..Sealed::clone(block) };
            sealed.times = self.store().times(&sealed)?;
            self.write(&batch, true)?;
            let mut live = self.shared.live.write().unwrap_or_else(PoisonError::into_inner);
            live.change_blocks(vec![Arc::new(sealed)], &[]);
            return Ok(());
        }
        self.move_out(block, |row| verdicts[row] == TimeState::Indexed)
    }

    /// An indexed block: its times are worked out anew, and what must not be found by them leaves it.
    fn judge_indexed_block(&mut self, cause: Cause, block: &Arc<Sealed>) -> Result<(), StoreError> {
        let mut sealed = Sealed::clone(block);
        sealed.times = self.store().times(&sealed)?;
        let latest = sealed.times.map(|times| times.last_max);
        let now = self.shared.gate.now();
        let ahead =
            latest.is_none_or(|latest| latest > now.utc.saturating_add_ns(-(now.err_ns.cast_signed())));
        let moved = match (block.times, sealed.times) {
            (Some(old), Some(new)) => {
                let far = |a: gnomon_clock::UtcNs, b: gnomon_clock::UtcNs| {
                    a.minus(b).unsigned_abs() > self.shared.gate.rekey_ns()
                };
                far(old.first_min, new.first_min) || far(old.first_max, new.first_max)
            }
            (old, new) => old != new,
        };
        let unclear = sealed.times.is_none_or(|times| times.last_max == gnomon_clock::UtcNs::MAX);
        self.shared
            .live
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .change_blocks(vec![Arc::new(sealed)], &[]);
        let doubtful = match cause {
            Cause::Future => ahead,
            _ => moved || unclear || ahead,
        };
        if !doubtful {
            return Ok(());
        }
        let verdicts = self.verdicts(block)?;
        if verdicts.iter().all(|state| *state == TimeState::Indexed) {
            return Ok(());
        }
        self.move_out(block, |row| verdicts[row] != TimeState::Indexed)
    }

    /// What the gate makes of each row.
    fn verdicts(&self, block: &Arc<Sealed>) -> Result<Vec<TimeState>, StoreError> {
        let reader = self.store().read(block);
        let now = self.shared.gate.now();
        let mut verdicts = Vec::with_capacity(reader.rows());
        for row in 0..reader.rows() {
            let (first, last) = reader.estimates(row)?;
            verdicts.push(self.shared.gate.judge(first, last, &now).state);
        }
        Ok(verdicts)
    }

    /// Rows leave their block and are single records again, judged anew.
    fn move_out(&mut self, block: &Arc<Sealed>, which: impl Fn(usize) -> bool) -> Result<(), StoreError> {
        let mut stage = Stage::new(&self.shared);
        for (row, flow) in self.rows_of(block, which)? {
            let id = flow.id();
            let Some(epoch) = self.shared.epochs.get(&self.shared.rocks, id.epoch)? else { continue };
            let judged = self.shared.judge(&epoch, &flow.record, &stage.now)?;
            let flow =
                StoredFlow { time_state: judged.state, first: judged.first, last: judged.last, ..flow };
            stage.leave(id, block.id, row);
            stage.put_durably(id, flow);
        }
        self.publish(stage, true)
    }
}
