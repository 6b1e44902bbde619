//! Second thoughts about time: when the evidence of an epoch changes, its held records are judged again, and indexed
//! ones whose time moved too far get another key. Done in short runs between commits, so that ingest never waits long.
//!
//! Both are idempotent: a crash in the middle is taken up again at the next open.

use std::ops::Bound;

use gnomon_clock::{RawNs, Timeline};
use gnomon_flow::{EpochHash, FlowRef, TimeState};

use super::StoreError;
use super::envelope::{Envelope, IndexEntry};
use super::epochs::Epoch;
use super::keys::{self, Family};
use super::rocks::Pair;
use super::stage::Stage;
use super::writer::Writer;

/// Records looked at in one run.
const RUN: usize = 512;
/// Held records are judged again this often by time alone (one may have been ahead of the collector's clock)…
const REGATE_NS: u64 = 1_000_000_000;
/// …or this often, when an epoch has more than [`HELD_FEW`] of them.
const REGATE_MANY_NS: u64 = 30_000_000_000;
const HELD_FEW: u64 = 4096;
/// A record that began this long before now may still end ahead of it.
const FUTURE_BACK_NS: u64 = 600_000_000_000;
/// Epochs whose drift is watched; a timeline is up to 20 KiB.
const KEYED_BY_MAX: usize = 4096;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    Held,
    Indexed,
    /// Indexed records of all epochs that lie ahead of the collector's time, which has gone back.
    Future,
}

/// A walk over the records of an epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Job {
    epoch: EpochHash,
    kind: Kind,
    after: Option<Box<[u8]>>,
}

impl Writer {
    /// Take up what a crash or a stop interrupted.
    pub(super) fn load_jobs(&mut self) -> Result<(), StoreError> {
        self.shared.rocks.walk(Family::Held, &[], |key, _| {
            if let Some(epoch) = keys::epoch_of(key) {
                *self.held.entry(epoch).or_default() += 1;
            }
            Ok(())
        })?;
        for (key, _) in self.shared.rocks.prefix(Family::Meta, keys::META_REKEY, None, usize::MAX)? {
            if let Some(epoch) = keys::epoch_of(&key[keys::META_REKEY.len()..]) {
                self.queue(epoch, Kind::Indexed);
            }
        }
        let held: Vec<EpochHash> = self.held.keys().copied().collect();
        held.into_iter().for_each(|epoch| self.queue(epoch, Kind::Held));
        Ok(())
    }

    fn queue(&mut self, epoch: EpochHash, kind: Kind) {
        // One under way has to begin again: it used the evidence of before.
        self.jobs.retain(|job| job.epoch != epoch || job.kind != kind);
        self.jobs.push_back(Job { epoch, kind, after: None });
    }

    /// The evidence of `epoch` changed and is durable.
    pub(super) fn retimed(&mut self, epoch: EpochHash, keyed_by: Timeline, new: &Timeline, moved: bool) {
        if self.held.contains_key(&epoch) {
            self.queue(epoch, Kind::Held);
        }
        if moved {
            self.keyed_by.insert(epoch, new.clone());
            self.queue(epoch, Kind::Indexed);
        } else if !keyed_by.is_empty() {
            if self.keyed_by.len() >= KEYED_BY_MAX {
                // Slow drifts of these epochs are watched anew from here.
                self.keyed_by.clear();
            }
            self.keyed_by.insert(epoch, keyed_by);
        }
    }

    /// The collector's time went back, or is proven now: what is indexed ahead of it has to leave the index. At once from
    /// the next run on, and again after a crash, since every start is followed by a proof.
    pub(super) fn recall_future(&mut self) {
        self.queue(EpochHash::default(), Kind::Future);
    }

    /// Epochs were cut off: what lies behind the cut is looked at again.
    pub(super) fn recut(&mut self, epochs: &[EpochHash]) {
        for epoch in epochs {
            self.queue(*epoch, Kind::Indexed);
            self.queue(*epoch, Kind::Held);
        }
    }

    /// Call about once a second: judges held records again where time alone may have settled them.
    pub fn tick(&mut self) {
        let now = self.shared.gate.monotonic();
        let few = now.since(self.regated_at.0) >= REGATE_NS;
        let many = now.since(self.regated_at.1) >= REGATE_MANY_NS;
        if !few {
            return;
        }
        self.regated_at.0 = now;
        if many {
            self.regated_at.1 = now;
        }
        let due: Vec<EpochHash> = self
            .held
            .iter()
            .filter(|(_, held)| many || **held <= HELD_FEW)
            .map(|(epoch, _)| *epoch)
            .collect();
        for epoch in due {
            if !self.jobs.iter().any(|job| job.epoch == epoch && job.kind == Kind::Held) {
                self.queue(epoch, Kind::Held);
            }
        }
    }

    /// Do one short run of what is left to do; false when there is nothing.
    ///
    /// # Errors
    /// What the disk said; the run is tried again by the next call.
    pub fn settle(&mut self) -> Result<bool, StoreError> {
        let Some(job) = self.jobs.front().cloned() else { return Ok(false) };
        if job.kind == Kind::Future {
            return self.settle_future(&job);
        }
        let family = match job.kind {
            Kind::Held => Family::Held,
            Kind::Indexed | Kind::Future => Family::FlowIndex,
        };
        let prefix = keys::epoch(job.epoch);
        let run = self.shared.rocks.prefix(family, &prefix, job.after.as_deref(), RUN)?;
        let Some(epoch) = self.shared.epochs.get(&self.shared.rocks, job.epoch)? else {
            self.jobs.pop_front();
            return Ok(!self.jobs.is_empty());
        };
        let mut stage = Stage::new(&self.shared);
        for (key, value) in &run {
            let Some(id) = keys::reference_of(key) else { continue };
            let judged = match job.kind {
                Kind::Held => self.judge_held(id, value, &epoch, &mut stage),
                Kind::Indexed | Kind::Future => self.judge_indexed(id, value, &epoch, &mut stage),
            };
            match judged {
                Err(StoreError::Damaged(error)) => {
                    tracing::error!(%id, %error, "a record cannot be read: it stays where it is")
                }
                other => other?,
            }
        }
        if run.len() < RUN && job.kind == Kind::Indexed {
            stage.batch.delete(Family::Meta, keys::meta_rekey(job.epoch));
        }
        self.end_run(stage, run)
    }

    fn settle_future(&mut self, job: &Job) -> Result<bool, StoreError> {
        let mut stage = Stage::new(&self.shared);
        let back_ns = self.shared.longest().min(FUTURE_BACK_NS).saturating_sub(stage.now.err_ns);
        let from = keys::time(stage.now.utc.saturating_add_ns(-i64::try_from(back_ns).unwrap_or(i64::MAX)));
        let rocks = &self.shared.rocks;
        let run = rocks.run(Family::Flows, &from, Bound::Unbounded, job.after.as_deref(), false, RUN)?;
        for (key, value) in &run {
            let Some((_, id)) = keys::timed_of(key) else { continue };
            let Some(epoch) = self.shared.epochs.get(&self.shared.rocks, id.epoch)? else { continue };
            let Ok(envelope) = Envelope::decode(value) else { continue };
            let judged = self.shared.judge(&epoch, &envelope.record, &stage.now)?;
            if judged.state != TimeState::Indexed {
                let old = self.shared.index_entry(id)?;
                stage.put(id, old, envelope.judged(&judged));
            }
        }
        self.end_run(stage, run)
    }

    /// Makes what a run of the first job found durable; the job goes on behind the run, or ends with one that is not
    /// full. Whether there is more to do.
    fn end_run(&mut self, stage: Stage, run: Vec<Pair>) -> Result<bool, StoreError> {
        let finished = run.len() < RUN;
        // Not synced: what is lost is done again.
        self.publish(stage, false)?;
        if finished {
            self.jobs.pop_front();
        } else if let (Some(job), Some((key, _))) = (self.jobs.front_mut(), run.into_iter().last()) {
            job.after = Some(key);
        }
        Ok(!self.jobs.is_empty())
    }

    fn judge_held(
        &self,
        id: FlowRef,
        value: &[u8],
        epoch: &Epoch,
        stage: &mut Stage,
    ) -> Result<(), StoreError> {
        let envelope = Envelope::decode(value)?;
        let judged = self.shared.judge(epoch, &envelope.record, &stage.now)?;
        if judged.state == envelope.state {
            return Ok(());
        }
        let old = self.shared.index_entry(id)?;
        stage.put(id, old, envelope.judged(&judged));
        Ok(())
    }

    fn judge_indexed(
        &self,
        id: FlowRef,
        value: &[u8],
        epoch: &Epoch,
        stage: &mut Stage,
    ) -> Result<(), StoreError> {
        let entry = IndexEntry::decode(value)?;
        let first = self.shared.estimate(epoch, RawNs(entry.first_raw_ns))?;
        if entry.state != TimeState::Indexed || !self.shared.gate.must_rekey(entry.first, first.as_ref()) {
            return Ok(());
        }
        let Some(envelope) = self.shared.envelope(id, &entry)? else { return Ok(()) };
        let judged = self.shared.judge(epoch, &envelope.record, &stage.now)?;
        stage.put(id, Some(entry), envelope.judged(&judged));
        Ok(())
    }
}
