//! The one writer: groups of changes become one atomic, durable batch.
//!
//! Order of a commit: make room → append slices to the segment file → sync it → one database batch, synced, with the
//! records, every index entry, the ledger and the totals → only then tell anybody. A crash before the batch leaves a tail
//! in the segment file that the next open cuts; a crash after it leaves everything. A group that failed left nothing and
//! can be committed again as it is.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use gnomon_clock::{MonoNs, Timeline};
use gnomon_flow::{AgentId, EpochHash, FlowRecord, FlowRef, StoredFlow};

use super::change::{Body, Change, Committed, Content, Slices};
use super::envelope::{Envelope, IndexEntry, encode_epoch, numbers, numbers_of};
use super::epochs::Epoch;
use super::keys::{self, Family};
use super::regate::Job;
use super::retention::Limits;
use super::segments::{Frame, SegmentWriter};
use super::stage::Stage;
use super::{Shared, Store, StoreError};

/// Makes all changes to a store; there is one at a time.
pub struct Writer {
    pub(super) shared: Arc<Shared>,
    pub(super) segments: SegmentWriter,
    /// Packets and bytes of each segment file, and when it was written last (TAI; 0 when the time was unproven).
    pub(super) table: BTreeMap<u32, [u64; 3]>,
    /// Records held, by epoch.
    pub(super) held: HashMap<EpochHash, u64>,
    /// The timeline that the records of an epoch are indexed by, where it has changed since the start.
    pub(super) keyed_by: HashMap<EpochHash, Timeline>,
    pub(super) jobs: VecDeque<Job>,
    pub(super) limits: Limits,
    pub(super) pruned_at: Option<MonoNs>,
    pub(super) regated_at: (MonoNs, MonoNs),
    /// Epochs with exchanges relative to a collector without proof of its time.
    pub(super) relative: HashSet<EpochHash>,
    pub(super) expired_at: Option<MonoNs>,
    /// How far the look for old records has come.
    pub(super) expiring: Option<Box<[u8]>>,
    pub(super) age_held_up: bool,
    pub(super) time_saved_at: Option<MonoNs>,
}

impl Writer {
    /// Make `changes` durable, all or none. The answers are in their order. Blocking.
    ///
    /// # Errors
    /// [`StoreError::Full`] when there is no room, or what the disk said. Nothing was changed: try again.
    pub fn commit(&mut self, changes: &[Change]) -> Result<Vec<Committed>, StoreError> {
        self.make_room()?;
        // Before anything that was said since: it stands on the timeline of now.
        self.keep_time()?;
        let result = self.try_commit(changes);
        if result.is_err() {
            self.segments.roll_back();
        }
        result
    }

    fn try_commit(&mut self, changes: &[Change]) -> Result<Vec<Committed>, StoreError> {
        self.segments.rotate_if_full()?;
        let mut stage = Stage::new(&self.shared);
        self.prefetch(changes, &mut stage)?;
        let mut answers = Vec::with_capacity(changes.len());
        for change in changes {
            answers.push(self.apply(change, &mut stage)?);
        }
        for (change, answer) in changes.iter().zip(&mut answers) {
            answer.durable_seq = stage.ledger.get(&EpochHash::of(&change.epoch)).copied().flatten();
        }
        if self.segments.is_dirty() {
            let position = self.segments.sync()?;
            let [packets, bytes, _] = self.table.get(&position.number).copied().unwrap_or_default();
            let row = [packets + stage.frames[0], bytes + stage.frames[1], stage.written()];
            stage.batch.put(Family::Segments, keys::segment(position.number), numbers(row));
            stage.batch.put(
                Family::Meta,
                keys::META_SEGMENT,
                numbers([u64::from(position.number), position.len]),
            );
        }
        self.publish(stage, true)?;
        Ok(answers)
    }

    /// Look up all records of the group at once.
    fn prefetch(&self, changes: &[Change], stage: &mut Stage) -> Result<(), StoreError> {
        let mut ids = Vec::new();
        for change in changes {
            let Body::Entry { content: Content::Flows { records, .. }, .. } = &change.body else { continue };
            let epoch = EpochHash::of(&change.epoch);
            ids.extend(records.iter().map(|r| FlowRef { epoch, flow: r.id, segment: r.segment }));
        }
        let keys: Vec<_> = ids.iter().map(|id| keys::reference(*id)).collect();
        let values = self.shared.rocks.get_many(Family::FlowIndex, keys.iter().map(|key| &key[..]))?;
        for (id, value) in ids.into_iter().zip(values) {
            let entry = value.map(|value| IndexEntry::decode(&value)).transpose()?;
            stage.index.insert(id, entry);
        }
        Ok(())
    }

    fn apply(&mut self, change: &Change, stage: &mut Stage) -> Result<Committed, StoreError> {
        let hash = EpochHash::of(&change.epoch);
        let Some(epoch) = self.epoch(hash, change, stage)? else {
            tracing::error!(epoch = %change.epoch, "the short form of this epoch belongs to another one: its data are refused");
            return Ok(Committed { refused: true, ..Committed::default() });
        };
        match &change.body {
            Body::Hello => {}
            Body::Evidence(evidence) => self.add_evidence(hash, &epoch, evidence, stage)?,
            Body::Entry { seq, content } => {
                let agent = AgentId(change.epoch.agent);
                let durable = self.durable_seq(agent, hash, stage)?;
                if durable.is_some_and(|durable| *seq <= durable) {
                    return Ok(Committed { duplicate: true, ..Committed::default() });
                }
                let answer = match content {
                    Content::Flows { interface, records } => {
                        self.place_all(hash, &epoch, interface, records, stage)?
                    }
                    Content::Slices(slices) => self.append(hash, slices, stage)?,
                    Content::Unreadable => Committed::default(),
                };
                stage.ledger.insert(hash, Some(*seq));
                stage.batch.put(Family::Ledger, keys::ledger(agent, hash), numbers([*seq]));
                return Ok(answer);
            }
        }
        // So that a Hello or a report is answered with what is durable too.
        self.durable_seq(AgentId(change.epoch.agent), hash, stage)?;
        Ok(Committed::default())
    }

    /// The epoch as the stage has it, made or renamed if need be; `None` when its short form is another's.
    pub(super) fn epoch(
        &self,
        hash: EpochHash,
        change: &Change,
        stage: &mut Stage,
    ) -> Result<Option<Arc<Epoch>>, StoreError> {
        let known = match stage.epochs.get(&hash) {
            Some(epoch) => Some(Arc::clone(epoch)),
            None => self.shared.epochs.get(&self.shared.rocks, hash)?,
        };
        let epoch = match known {
            Some(known) if known.id != change.epoch => return Ok(None),
            Some(known) if *known.agent_name == *change.agent_name => {
                stage.epochs.insert(hash, Arc::clone(&known));
                return Ok(Some(known));
            }
            Some(known) => Epoch { agent_name: change.agent_name.to_string(), ..Epoch::clone(&known) },
            None => Epoch::new(change.epoch, &change.agent_name),
        };
        let epoch = Arc::new(epoch);
        stage.epochs.insert(hash, Arc::clone(&epoch));
        stage.epochs_changed.push(hash);
        Ok(Some(epoch))
    }

    fn durable_seq(
        &self,
        agent: AgentId,
        hash: EpochHash,
        stage: &mut Stage,
    ) -> Result<Option<u64>, StoreError> {
        if let Some(seq) = stage.ledger.get(&hash) {
            return Ok(*seq);
        }
        let value = self.shared.rocks.get(Family::Ledger, &keys::ledger(agent, hash))?;
        let seq = value.map(|v| numbers_of("the ledger", &v)).transpose()?.map(|[seq]| seq);
        stage.ledger.insert(hash, seq);
        Ok(seq)
    }

    fn place_all(
        &self,
        hash: EpochHash,
        epoch: &Epoch,
        interface: &str,
        records: &[FlowRecord],
        stage: &mut Stage,
    ) -> Result<Committed, StoreError> {
        let mut answer = Committed::default();
        for record in records {
            let id = FlowRef { epoch: hash, flow: record.id, segment: record.segment };
            let old = stage.index.get(&id).copied().flatten();
            if old.is_some_and(|old| record.revision <= old.revision) {
                answer.stale += 1;
                continue;
            }
            let judged = self.shared.judge(epoch, record, &stage.now)?;
            let envelope = Envelope {
                state: judged.state,
                first: judged.first,
                last: judged.last.map(|e| e.utc),
                ingested: old.map_or(stage.now.utc, |old| old.ingested),
                interface: interface.to_owned(),
                record: record.clone(),
            };
            stage.put(id, old, envelope);
            answer.records += 1;
        }
        Ok(answer)
    }

    fn append(
        &mut self,
        hash: EpochHash,
        slices: &Slices,
        stage: &mut Stage,
    ) -> Result<Committed, StoreError> {
        let at = self.segments.append(&Frame {
            epoch: hash,
            first: slices.first,
            last: slices.last,
            packets: slices.packets,
            block_bytes: slices.block_bytes,
            interface: &slices.interface,
            flows: &slices.flows,
            block: &slices.block,
        })?;
        let place = numbers([u64::from(at.len), at.first.0, at.last.0]);
        for flow in &slices.flows {
            stage.batch.put(Family::Slices, keys::slice(hash, *flow, at.segment, at.offset), place.clone());
        }
        let packets = u64::from(slices.packets);
        stage.frames[0] += packets;
        stage.frames[1] += u64::from(at.len);
        stage.totals.slice_packets += packets;
        stage.totals.slice_bytes += u64::from(at.len);
        Ok(Committed { packets, ..Committed::default() })
    }

    /// Write the stage and let everybody see it.
    pub(super) fn publish(&mut self, mut stage: Stage, durable: bool) -> Result<(), StoreError> {
        stage.epochs_changed.sort_unstable();
        stage.epochs_changed.dedup();
        for hash in &stage.epochs_changed {
            let epoch = &stage.epochs[hash];
            let value = encode_epoch(epoch);
            stage.batch.put(Family::Epochs, keys::epoch(*hash), value);
        }
        let mut retimed = Vec::new();
        for hash in std::mem::take(&mut stage.retimed) {
            let old = self.shared.epochs.get(&self.shared.rocks, hash)?;
            let keyed_by = match (self.keyed_by.get(&hash), old) {
                (Some(timeline), _) => timeline.clone(),
                (None, Some(old)) => old.timeline.clone(),
                (None, None) => Timeline::new(stage.epochs[&hash].id),
            };
            let moved = self.shared.gate.moved(&keyed_by, &stage.epochs[&hash].timeline);
            if moved {
                // Outlives a crash: `load_jobs` finds it.
                stage.batch.put(Family::Meta, keys::meta_rekey(hash), Vec::new());
            }
            retimed.push((hash, keyed_by, moved));
        }
        if stage.batch.is_empty() {
            return Ok(());
        }
        stage.batch.put(Family::Meta, keys::META_TOTALS, stage.totals.encode());
        if stage.longest_ns > self.shared.longest() {
            stage.batch.put(Family::Meta, keys::META_LONGEST, numbers([stage.longest_ns]));
            // Before the records are there: looking back too far is harmless.
            self.shared.longest_ns.store(stage.longest_ns, Ordering::Relaxed);
        }
        self.shared.rocks.write(&stage.batch, durable)?;

        if stage.frames != [0; 2] {
            let row = self.table.entry(self.segments.position().number).or_default();
            row[0] += stage.frames[0];
            row[1] += stage.frames[1];
            row[2] = stage.written();
        }
        self.segments.commit();
        for hash in &stage.epochs_changed {
            self.remember_relative(*hash, &stage.epochs[hash]);
            self.shared.epochs.put(*hash, Arc::clone(&stage.epochs[hash]));
        }
        for (hash, by) in stage.held {
            let held = self.held.entry(hash).or_default();
            *held = held.saturating_add_signed(by);
        }
        self.held.retain(|_, held| *held > 0);
        *self.shared.totals.lock().unwrap_or_else(PoisonError::into_inner) = stage.totals;
        for (hash, keyed_by, moved) in retimed {
            self.retimed(hash, keyed_by, &stage.epochs[&hash].timeline, moved);
        }
        self.recut(&stage.cut);
        if self.shared.changes.receiver_count() > 0 {
            for (hash, envelope) in stage.fresh {
                let flow: StoredFlow = self.shared.stored_flow(hash, envelope)?;
                // Nobody listening any more is no failure.
                let _ = self.shared.changes.send(Arc::new(flow));
            }
        }
        Ok(())
    }

    /// The reading side.
    pub fn store(&self) -> Store {
        Store { shared: Arc::clone(&self.shared) }
    }

    /// Say why nothing is taken in, or that all is well again.
    pub fn set_stopped(&self, why: Option<String>) {
        *self.shared.stopped.lock().unwrap_or_else(PoisonError::into_inner) = why;
    }

    /// Write what is in memory to files, so that the next open has nothing to replay.
    ///
    /// # Errors
    /// What the disk said; nothing is lost by it.
    pub fn close(self) -> Result<(), StoreError> {
        Ok(self.shared.rocks.flush()?)
    }
}
