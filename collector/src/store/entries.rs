//! Which entries of agents are there already: by the ledger and, for those that were acknowledged once and come again after
//! damage, by what is stored.

use std::sync::atomic::Ordering;

use gnomon_flow::{AgentId, EpochHash, FlowRef};

use super::StoreError;
use super::change::Slices;
use super::envelope::numbers;
use super::keys::{self, Family};
use super::ledger::Ledger;
use super::open::ROOM_BYTES;
use super::retention::free_bytes;
use super::segments::{FlowSpan, SegmentError};
use super::stage::Stage;
use super::writer::{KEYED_BY_MAX, Writer};

/// Entries of an epoch that are looked for after damage: more than an agent has under way at a time.
const UNDER_WAY_MAX: u64 = 4096;

impl Writer {
    pub(super) fn ledger(
        &self,
        agent: AgentId,
        hash: EpochHash,
        stage: &mut Stage,
    ) -> Result<Option<Ledger>, StoreError> {
        if let Some(ledger) = stage.ledger.get(&hash) {
            return Ok(ledger.clone());
        }
        let value = self.shared.rocks.get(Family::Ledger, &keys::ledger(agent, hash))?;
        let ledger = value.map(|value| Ledger::decode(&value)).transpose()?;
        stage.ledger.insert(hash, ledger.clone());
        Ok(ledger)
    }

    /// Notes that an entry came; `None` when it is there already, and otherwise whether parts of it may be, since it was
    /// acknowledged before.
    pub(super) fn note_entry(
        &mut self,
        agent: AgentId,
        hash: EpochHash,
        seq: u64,
        stage: &mut Stage,
    ) -> Result<Option<bool>, StoreError> {
        let before = self.ledger(agent, hash, stage)?;
        let is_first = before.is_none();
        let before = before.unwrap_or_default();
        let acknowledged = self.shared.claims.of(hash);
        let again = seq <= acknowledged.max(before.last()) || self.may_be_kept(hash, seq, before.last());
        let mut ledger = before.clone();
        let taken = ledger.take(seq, acknowledged);
        if taken.lost > 0 {
            tracing::error!(%agent, seq, lost = taken.lost, "entries that were acknowledged are lost: their agent does not have them any more");
            stage.lost += taken.lost;
            let lost = self.shared.entries_lost.load(Ordering::Relaxed) + stage.lost;
            stage.batch.put(Family::Meta, keys::META_LOST, numbers([lost]));
        }
        let is_new = taken.is_new || is_first;
        if is_first {
            self.begin_ledger(agent, hash, stage)?;
        }
        if is_new || ledger != before {
            stage.batch.put(Family::Ledger, keys::ledger(agent, hash), ledger.encode());
            stage.durable_before.entry(hash).or_insert((before.durable(), before.missing()));
            stage.ledger.insert(hash, Some(ledger));
        }
        Ok(is_new.then_some(again))
    }

    /// After damage packets were kept that may never have been acknowledged: those of entries that were under way.
    fn may_be_kept(&mut self, hash: EpochHash, seq: u64, last: u64) -> bool {
        if !self.shared.opened.is_damaged() {
            return false;
        }
        let is_known = self.kept_up_to.contains_key(&hash);
        if !is_known && self.kept_up_to.len() >= KEYED_BY_MAX {
            return false;
        }
        seq <= *self.kept_up_to.entry(hash).or_insert(last.saturating_add(UNDER_WAY_MAX))
    }

    /// Whether a block of packets is stored already.
    pub(super) fn has_slices(&self, hash: EpochHash, slices: &Slices) -> Result<bool, StoreError> {
        let Some(flow) = slices.flows.first() else { return Ok(false) };
        let mut places = Vec::new();
        self.shared.segments.find(&[FlowSpan::all(hash, *flow)], false, |_, at| places.push(at))?;
        let mut frame = Vec::new();
        for at in places.iter().filter(|at| (at.first, at.last) == (slices.first, slices.last)) {
            match self.shared.segments.compressed_block(at, &mut frame) {
                Ok(block) if block == slices.block => return Ok(true),
                Ok(_) | Err(SegmentError::Gone { .. } | SegmentError::Damaged { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(false)
    }

    /// Whether a record is there in this revision or a later one, in a block too.
    pub(super) fn is_known(&self, id: FlowRef, revision: u32) -> Result<bool, StoreError> {
        match self.store().get(id) {
            Ok(found) => Ok(found.is_some_and(|found| found.record.revision >= revision)),
            // What cannot be read is not there.
            Err(error) if error.is_damage() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// A store that is only read gives up packets for room, as one that takes in does, and takes nothing in.
    pub(super) fn check_writable(&mut self) -> Result<(), StoreError> {
        if self.shared.read_only.is_none() {
            return Ok(());
        }
        let free = |writer: &Writer| free_bytes(&writer.shared.dir);
        let wanted_bytes = self.limits.free_bytes_min.max(ROOM_BYTES);
        // Never the newest, behind which the one that takes in will go on.
        while self.table.len() > 1
            && free(self)? < self.limits.free_bytes_min
            && self.drop_oldest_segment()?
        {}
        Err(StoreError::Full { path: self.shared.dir.clone(), free_bytes: free(self)?, wanted_bytes })
    }

    /// Has what is in memory written to files if it is time.
    pub(super) fn settle_if_due(&mut self) -> Result<(), StoreError> {
        if self.flusher.is_due(&self.shared) {
            self.copy_changed()?;
            self.flusher.begin(&self.shared);
        }
        Ok(())
    }

    /// What became durable is not settled yet.
    pub(super) fn note_durable(&mut self, stage: &Stage) {
        stage.epochs_changed.iter().for_each(|epoch| self.changed.epoch(*epoch));
        stage.ledgers_forgotten.iter().for_each(|(agent, epoch)| self.changed.ledger(*agent, *epoch));
        for hash in stage.durable_before.keys() {
            if let Some(epoch) = stage.epochs.get(hash) {
                self.changed.ledger(epoch.agent(), *hash);
            }
        }
        if stage.durable_before.is_empty() {
            return;
        }
        self.shared.entries_lost.fetch_add(stage.lost, Ordering::Relaxed);
        let ledger = |hash: &EpochHash| stage.ledger.get(hash).and_then(|ledger| ledger.as_ref());
        let entries = stage.durable_before.iter().filter_map(|(hash, (before, missing))| {
            let ledger = ledger(hash)?;
            // What is missing only ever becomes less: it is there, or it is lost.
            self.shared
                .entries_missing
                .fetch_sub(missing.saturating_sub(ledger.missing()), Ordering::Relaxed);
            self.shared.claims.reached(*hash, ledger);
            Some((*hash, *before, ledger.durable()))
        });
        let bytes = stage.batch.bytes() + stage.frames[1];
        self.shared.settled.wrote(self.shared.gate.monotonic(), bytes, entries);
    }
}
