//! The one writer: groups of changes become one atomic, durable batch.
//!
//! Order of a commit: make room → append slices to the segment file → sync it → one database batch, synced, with the
//! records as they came, the ledger and the totals → only then tell anybody. A crash before the batch leaves a tail in the
//! segment file that the next open cuts; a crash after it leaves everything. A group that failed left nothing and can be
//! committed again as it is; one whose batch failed is written until it is durable (`trouble.rs`).

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, PoisonError};

use gnomon_clock::{MonoNs, Timeline, UtcNs};
use gnomon_flow::alert::carry_over;
use gnomon_flow::{AgentId, EpochHash, FlowRecord, FlowRef, Origin, StoredFlow};

use super::alerts::AlertTable;
use super::batch::encode_recent;
use super::block_maker::BlockMaker;
use super::change::{Body, Change, Committed, Content, Slices};
use super::copies::Changed;
use super::envelope::{encode_epoch, numbers, numbers_of};
use super::epochs::Epoch;
use super::flusher::Flusher;
use super::join::BlockSearch;
use super::keys::{self, Family};
use super::ledger::Ledger;
use super::live::{RowSet, Sealed};
use super::regate::Job;
use super::retention::Limits;
use super::segments::{Frame, SegmentWriter};
use super::stage::Stage;
use super::{Shared, Store, StoreError};

/// Epochs whose drift is watched; a timeline is up to 20 KiB.
pub(super) const KEYED_BY_MAX: usize = 4096;

/// Makes all changes to a store; there is one at a time.
pub struct Writer {
    pub(super) shared: Arc<Shared>,
    pub(super) segments: SegmentWriter,
    /// Packets and bytes of each segment file, and when it was written last (TAI; 0 when the time was unproven).
    pub(super) table: BTreeMap<u32, [u64; 3]>,
    /// The id of the next block.
    pub(super) next_block: u64,
    /// The first and the next number of the batches in `recent`.
    pub(super) recent: (u64, u64),
    /// Records in no block that are written down by themselves, and in which revision.
    pub(super) waiting: HashMap<FlowRef, u32>,
    pub(super) alerts: AlertTable,
    /// Alerts whose records were not looked for yet.
    pub(super) arrived: BTreeSet<u64>,
    /// Records in no block that are to be joined with alerts.
    pub(super) join_rows: VecDeque<FlowRef>,
    /// Blocks to be looked through for records that alerts are about.
    pub(super) searches: BTreeMap<u64, BlockSearch>,
    /// Joining and judging anew take turns.
    pub(super) joins_turn: bool,
    /// The timeline that the records of an epoch are indexed by, where it has changed since the start.
    pub(super) keyed_by: HashMap<EpochHash, Timeline>,
    pub(super) jobs: VecDeque<Job>,
    pub(super) maker: BlockMaker,
    pub(super) limits: Limits,
    pub(super) pruned_at: Option<MonoNs>,
    pub(super) regated_at: (MonoNs, MonoNs),
    /// Epochs with exchanges relative to a collector without proof of its time.
    pub(super) relative: HashSet<EpochHash>,
    pub(super) expired_at: Option<MonoNs>,
    pub(super) age_held_up: bool,
    pub(super) time_saved_at: Option<MonoNs>,
    /// How many clock events there were when they were written down.
    pub(super) events_saved: u64,
    pub(super) closing: Arc<AtomicBool>,
    pub(super) flusher: Flusher,
    pub(super) changed: Changed,
    /// After damage: up to which entry of an epoch packets may be there already.
    pub(super) kept_up_to: HashMap<EpochHash, u64>,
    /// A batch failed, and whether it is in the database's log is not known: see `trouble.rs`.
    pub(super) unsettled: bool,
}

impl Writer {
    /// Make `changes` durable, all or none. The answers are in their order. Blocking.
    ///
    /// # Errors
    /// [`StoreError::Full`] when there is no room, or what the disk said. Nothing was changed: try again.
    pub fn commit(&mut self, changes: &[Change]) -> Result<Vec<Committed>, StoreError> {
        self.check_writable()?;
        self.make_room()?;
        self.settle_if_due()?;
        // Before anything that was said since: it stands on the timeline of now.
        self.keep_time()?;
        let result = self.try_commit(changes);
        if result.is_err() && !self.unsettled {
            self.segments.roll_back();
        }
        result
    }

    fn try_commit(&mut self, changes: &[Change]) -> Result<Vec<Committed>, StoreError> {
        self.segments.rotate_if_full()?;
        let mut stage = Stage::new(&self.shared);
        let mut answers = Vec::with_capacity(changes.len());
        for change in changes {
            answers.push(self.apply(change, &mut stage)?);
        }
        for (change, answer) in changes.iter().zip(&mut answers) {
            let ledger = stage.ledger.get(&EpochHash::of(&change.epoch));
            answer.durable_seq = ledger.and_then(|ledger| ledger.as_ref()).map(Ledger::durable);
        }
        if self.segments.is_dirty() {
            let position = self.segments.sync()?;
            let [packets, bytes, _] = self.table.get(&position.number).copied().unwrap_or_default();
            let row = [packets + stage.frames[0], bytes + stage.frames[1], stage.written()];
            stage.batch.put(Family::Segments, keys::segment(position.number), numbers(row));
            stage.batch.put(Family::Meta, keys::META_SEGMENT, position.encode());
        }
        let taken_in = (stage.frames[1], answers.iter().map(|answer| answer.records).sum());
        self.publish(stage, true)?;
        self.shared.take_in(taken_in);
        Ok(answers)
    }

    fn apply(&mut self, change: &Change, stage: &mut Stage) -> Result<Committed, StoreError> {
        let hash = EpochHash::of(&change.epoch);
        let Some(epoch) = self.epoch(hash, change, stage)? else {
            tracing::error!(epoch = %change.epoch, "the short form of this epoch belongs to another one: its data are refused");
            return Ok(Committed { refused: true, ..Committed::default() });
        };
        match &change.body {
            Body::Hello => self.trim_ledger(AgentId(change.epoch.agent), hash, stage)?,
            Body::Evidence(evidence) => self.add_evidence(hash, &epoch, evidence, stage)?,
            Body::Entry { seq, content } => {
                let agent = AgentId(change.epoch.agent);
                let again = match self.note_entry(agent, hash, *seq, stage)? {
                    Some(again) => again,
                    None => return Ok(Committed { duplicate: true, ..Committed::default() }),
                };
                let answer = match content {
                    Content::Flows { interface, records, alerts, payload } => {
                        alerts.iter().for_each(|alert| self.take_alert(hash, alert, stage));
                        self.place_all(hash, &epoch, interface, records, payload, again, stage)?
                    }
                    Content::Slices(slices) if again && self.has_slices(hash, slices)? => {
                        Committed::default()
                    }
                    Content::Slices(slices) => self.append(hash, slices, stage)?,
                    Content::Unreadable => Committed::default(),
                };
                return Ok(answer);
            }
        }
        // So that a Hello or a report is answered with what is durable too.
        self.ledger(AgentId(change.epoch.agent), hash, stage)?;
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
            Some(known) => Epoch { agent_name: Arc::clone(&change.agent_name), ..Epoch::clone(&known) },
            None => Epoch::new(change.epoch, &change.agent_name),
        };
        let epoch = Arc::new(epoch);
        stage.epochs.insert(hash, Arc::clone(&epoch));
        stage.epochs_changed.push(hash);
        Ok(Some(epoch))
    }

    fn place_all(
        &self,
        hash: EpochHash,
        epoch: &Epoch,
        interface: &Arc<str>,
        records: &[FlowRecord],
        payload: &[u8],
        again: bool,
        stage: &mut Stage,
    ) -> Result<Committed, StoreError> {
        let mut answer = Committed::default();
        stage.rows.reserve(records.len());
        stage.fresh.reserve(records.len());
        for record in records {
            let id = FlowRef { epoch: hash, flow: record.id, segment: record.segment };
            if again && self.is_known(id, record.revision)? {
                answer.stale += 1;
                continue;
            }
            if self.place(id, epoch, interface, record, stage.now.utc, stage)? {
                answer.records += 1;
            } else {
                answer.stale += 1;
            }
        }
        if answer.records > 0 {
            let seq = self.recent.1 + stage.recent;
            stage.batch.put(Family::Recent, keys::recent(seq), encode_recent(hash, stage.now.utc, payload));
            stage.recent += 1;
        }
        Ok(answer)
    }

    /// Puts one record where searches find it; false when what is there is no older.
    pub(super) fn place(
        &self,
        id: FlowRef,
        epoch: &Epoch,
        interface: &Arc<str>,
        record: &FlowRecord,
        now: UtcNs,
        stage: &mut Stage,
    ) -> Result<bool, StoreError> {
        let before = match stage.rows.get(&id) {
            Some(flow) => Some(Arc::clone(flow)),
            None => self.shared.live().get(id).cloned(),
        };
        let known = before.as_ref().map(|flow| (flow.record.revision, flow.ingested));
        let mut left = None;
        // Only a record that was open when it went into a block can have a later revision. That what is final does not
        // come twice is the ledger's business.
        let known = match known {
            None if record.revision > 0 || record.end.is_none() => {
                self.leave_block(id, record.revision, &mut left, stage)?
            }
            known => known,
        };
        if known.is_some_and(|(revision, _)| record.revision <= revision) {
            return Ok(false);
        }
        let mut record = record.clone();
        // What alerts said of an earlier revision holds for this one, which knows nothing of it.
        let mut alerted = match (&before, left) {
            (Some(before), _) => carry_over(&before.record.attributes, &mut record.attributes),
            (None, Some((block, row))) => self.said_of_row(block, row, &mut record)?,
            (None, None) => false,
        };
        alerted |= self.join_or_defer(id, epoch, &mut record, stage)?;
        let judged = self.shared.judge(epoch, &record, &stage.now)?;
        let flow = StoredFlow {
            origin: Origin {
                agent: epoch.agent(),
                agent_name: Arc::clone(&epoch.agent_name),
                interface: Arc::clone(interface),
                epoch: epoch.id,
            },
            first: judged.first,
            last: judged.last,
            ingested: Some(known.and_then(|(_, ingested)| ingested).unwrap_or(now)),
            time_state: judged.state,
            time_reason: Default::default(),
            record,
        };
        if alerted {
            stage.put_durably(id, flow);
        } else {
            stage.put(id, flow);
        }
        Ok(true)
    }

    /// Takes an open record out of its block, when `revision` is a later one; `left` is told where it was. Its revision there
    /// and when it came in.
    fn leave_block(
        &self,
        id: FlowRef,
        revision: u32,
        left: &mut Option<(u64, usize)>,
        stage: &mut Stage,
    ) -> Result<Option<(u32, Option<UtcNs>)>, StoreError> {
        let Some(value) = self.shared.rocks.get(Family::Loose, &keys::reference(id))? else {
            return Ok(None);
        };
        let [block, row, known, ingested] = numbers_of("a loose record", &value)?;
        let known = u32::try_from(known).unwrap_or(u32::MAX);
        let ingested = Some(UtcNs::from_tai_ns(ingested.cast_signed()));
        if revision > known {
            stage.leave(id, block, row as usize);
            *left = Some((block, row as usize));
        }
        Ok(Some((known, ingested)))
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
        let packets = u64::from(slices.packets);
        stage.frames[0] += packets;
        stage.frames[1] += u64::from(at.len);
        stage.totals.slice_packets += packets;
        stage.totals.slice_bytes += u64::from(at.len);
        Ok(Committed { packets, ..Committed::default() })
    }

    /// Write the stage and let everybody see it.
    pub(super) fn publish(&mut self, mut stage: Stage, durable: bool) -> Result<(), StoreError> {
        stage.put_orders();
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
            retimed.push((hash, keyed_by, moved));
        }
        let dead = self.bury(&mut stage);
        if stage.batch.is_empty() && stage.rows.is_empty() {
            self.keep_alerts(&mut stage);
            return Ok(());
        }
        if !stage.batch.is_empty() {
            stage.batch.put(Family::Meta, keys::META_TOTALS, stage.totals.encode());
            self.write(&stage.batch, durable)?;
        }
        self.recent.1 += stage.recent;
        self.keep_alerts(&mut stage);
        if stage.frames != [0; 2] {
            let row = self.table.entry(self.segments.position().number).or_default();
            row[0] += stage.frames[0];
            row[1] += stage.frames[1];
            row[2] = stage.written();
        }
        self.segments.commit();
        for hash in &stage.epochs_changed {
            self.remember_relative(*hash, &stage.epochs[hash]);
        }
        *self.shared.totals.lock().unwrap_or_else(PoisonError::into_inner) = stage.totals;
        self.note_durable(&stage);
        {
            let mut live = self.shared.live.write().unwrap_or_else(PoisonError::into_inner);
            for (id, flow) in &stage.rows {
                live.insert(*id, Arc::clone(flow));
            }
            live.change_blocks(dead, &[]);
            if !stage.epochs_changed.is_empty() {
                let changed =
                    stage.epochs_changed.iter().map(|hash| (*hash, Arc::clone(&stage.epochs[hash])));
                let moved = !stage.cut.is_empty() || retimed.iter().any(|(.., moved)| *moved);
                live.unsettled |= moved;
                self.shared.epochs.put(changed, moved);
            }
        }
        for (hash, keyed_by, moved) in retimed {
            self.keep_timeline(hash, keyed_by, &stage.epochs[&hash].timeline, moved);
            self.retimed(hash, moved);
        }
        self.recut(&stage.cut);
        self.look_whether_settled();
        if self.shared.changes.receiver_count() > 0 {
            for flow in stage.fresh.iter().filter_map(|id| stage.rows.get(id)) {
                // Nobody listening any more is no failure.
                let _ = self.shared.changes.send(Arc::clone(flow));
            }
        }
        Ok(())
    }

    /// Writes down which rows of blocks are dead now; the blocks as they are then.
    fn bury(&self, stage: &mut Stage) -> Vec<Arc<Sealed>> {
        let live = self.shared.live();
        let mut changed = Vec::new();
        for (id, rows) in std::mem::take(&mut stage.dead) {
            let Some(block) = live.block(id) else { continue };
            let mut dead = RowSet::clone(&block.dead);
            rows.into_iter().for_each(|row| dead.insert(row));
            stage.batch.put(Family::Dead, keys::block(id), dead.to_bytes());
            changed.push(Arc::new(Sealed { dead: Arc::new(dead), ..Sealed::clone(block) }));
        }
        changed
    }

    /// Remembers by which timeline the records of an epoch lie where they do, so that slow drifts add up.
    fn keep_timeline(&mut self, epoch: EpochHash, keyed_by: Timeline, new: &Timeline, moved: bool) {
        if moved {
            self.keyed_by.insert(epoch, new.clone());
        } else if !keyed_by.is_empty() {
            if self.keyed_by.len() >= KEYED_BY_MAX {
                // Slow drifts of these epochs are watched anew from here.
                self.keyed_by.clear();
            }
            self.keyed_by.insert(epoch, keyed_by);
        }
    }

    /// The reading side.
    pub fn store(&self) -> Store {
        Store { shared: Arc::clone(&self.shared), then: None }
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
        if self.unsettled {
            // Where the newest file ends is for the next open to say.
            return Err(StoreError::Stopping);
        }
        if self.shared.read_only.is_some() {
            return Ok(());
        }
        let mut writer = self;
        writer.copy_changed()?;
        let Writer { segments, shared, .. } = writer;
        segments.close();
        shared.rocks.flush()?;
        shared.rocks.note_files();
        Ok(())
    }
}
