//! The one writer: groups of changes become one atomic, durable batch.
//!
//! Order of a commit: make room → append slices to the segment file → sync it → one database batch, synced, with the
//! records, every index entry, the ledger and the totals → only then tell anybody. A crash before the batch leaves a tail
//! in the segment file that the next open cuts; a crash after it leaves everything. A group that failed left nothing and
//! can be committed again as it is.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use gnomon_clock::{CollectorNow, EpochId, Fix, MonoNs, RawNs, Timeline};
use gnomon_flow::{AgentId, EpochHash, FlowId, FlowRecord, FlowRef, StoredFlow, TimeState};
use tokio::sync::broadcast;

use super::envelope::{Envelope, IndexEntry, Totals, encode_epoch, numbers, numbers_of};
use super::epochs::{Epoch, Epochs};
use super::keys::{self, Family};
use super::regate::Job;
use super::retention::{Limits, free_bytes};
use super::rocks::{Batch, Rocks};
use super::segments::{Frame, Position, SegmentReader, SegmentWriter};
use super::{SUBSCRIBER_QUEUE, Shared, Store, StoreError};
use crate::clock_gate::ClockGate;

/// Opening writes before it reads: with less than this free the database could die half open.
const OPEN_BYTES_MIN: u64 = 32 << 20;

/// One thing to write down.
#[derive(Clone, Debug)]
pub struct Change {
    pub epoch: EpochId,
    pub agent_name: Arc<str>,
    pub body: Body,
}

#[derive(Clone, Debug)]
pub enum Body {
    /// The agent is here and captures in this epoch.
    Hello,
    /// Evidence of the epoch's time.
    Fixes(Vec<Fix>),
    /// An entry of the agent's spool.
    Entry { seq: u64, content: Content },
}

#[derive(Clone, Debug)]
pub enum Content {
    Flows {
        interface: String,
        records: Vec<FlowRecord>,
    },
    Slices(Slices),
    /// An entry that means nothing and was put aside: only the ledger moves.
    Unreadable,
}

/// A slice block on its way to a segment file.
#[derive(Clone, Debug)]
pub struct Slices {
    pub interface: String,
    pub packets: u32,
    pub first: RawNs,
    pub last: RawNs,
    /// Of `block` when decompressed.
    pub block_bytes: u32,
    /// Each flow in the block once.
    pub flows: Vec<FlowId>,
    /// One zstd frame.
    pub block: Bytes,
}

/// What became of one change, once it is durable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Committed {
    /// The highest durable sequence number of the change's epoch: what to acknowledge.
    pub durable_seq: Option<u64>,
    /// It was here already: nothing was written.
    pub duplicate: bool,
    /// Its epoch's short form belongs to another epoch: it was not stored.
    pub refused: bool,
    pub records: u64,
    /// Records older than what is stored of the same segment.
    pub stale: u64,
    pub packets: u64,
}

/// Makes all changes to a store; there is one at a time.
pub struct Writer {
    pub(super) shared: Arc<Shared>,
    pub(super) segments: SegmentWriter,
    /// Packets and bytes of each segment file.
    pub(super) table: BTreeMap<u32, [u64; 2]>,
    /// Records held, by epoch.
    pub(super) held: HashMap<EpochHash, u64>,
    /// The timeline that the records of an epoch are indexed by, where it has changed since the start.
    pub(super) keyed_by: HashMap<EpochHash, Timeline>,
    pub(super) jobs: VecDeque<Job>,
    pub(super) limits: Limits,
    pub(super) pruned_at: Option<MonoNs>,
    pub(super) regated_at: (MonoNs, MonoNs),
}

/// A group on its way to be durable.
pub(super) struct Stage {
    pub(super) batch: Batch,
    pub(super) now: CollectorNow,
    pub(super) totals: Totals,
    pub(super) longest_ns: u64,
    index: HashMap<FlowRef, Option<IndexEntry>>,
    epochs: HashMap<EpochHash, Arc<Epoch>>,
    epochs_changed: Vec<EpochHash>,
    retimed: Vec<EpochHash>,
    ledger: HashMap<EpochHash, Option<u64>>,
    held: HashMap<EpochHash, i64>,
    frames: [u64; 2],
    fresh: Vec<(EpochHash, Envelope)>,
}

/// Opens the store under `dir`, creating it if there is none.
///
/// # Errors
/// When another process has it, it was written by a newer version, or it cannot be read.
pub fn open(dir: &Path, gate: ClockGate, limits: Limits) -> Result<(Store, Writer), StoreError> {
    std::fs::create_dir_all(dir).map_err(|source| StoreError::Directory { path: dir.to_owned(), source })?;
    let free_bytes = free_bytes(dir)?;
    if free_bytes < OPEN_BYTES_MIN {
        return Err(StoreError::NoRoom { path: dir.to_owned(), free_bytes, wanted_bytes: OPEN_BYTES_MIN });
    }
    let rocks = Rocks::open(&dir.join("db"))?;
    check_format(dir, &rocks)?;
    let meta = |key| rocks.get(Family::Meta, key);
    let longest_ns = meta(keys::META_LONGEST)?.map(|v| numbers_of("the longest record", &v)).transpose()?;
    let totals = meta(keys::META_TOTALS)?.map(|v| Totals::decode(&v)).transpose()?;
    let durable = meta(keys::META_SEGMENT)?
        .map(|value| numbers_of("the segment's position", &value))
        .transpose()?
        .map(|[number, len]| Position { number: u32::try_from(number).unwrap_or(u32::MAX), len });
    let segments_dir = dir.join("segments");
    let (segments, recovered) = SegmentWriter::open(&segments_dir, durable, limits.segment_bytes())?;
    if recovered.cut_bytes > 0 {
        tracing::info!(bytes = recovered.cut_bytes, "cut packets that were never acknowledged");
    }
    if recovered.lost_bytes > 0 {
        tracing::error!(
            bytes = recovered.lost_bytes,
            "packets that were acknowledged are missing from the newest segment file: the disk lost them"
        );
    }
    let (changes, _) = broadcast::channel(SUBSCRIBER_QUEUE);
    let shared = Arc::new(Shared {
        dir: dir.to_owned(),
        rocks,
        segments: SegmentReader::new(&segments_dir),
        epochs: Epochs::default(),
        gate,
        longest_ns: AtomicU64::new(longest_ns.map_or(0, |[ns]| ns)),
        totals: Mutex::new(totals.unwrap_or_default()),
        changes,
        damaged_blocks: AtomicU64::new(0),
        torn_bytes: recovered.cut_bytes,
        lost_bytes: recovered.lost_bytes,
        stopped: Mutex::default(),
    });
    let mut writer = Writer {
        shared: Arc::clone(&shared),
        segments,
        table: BTreeMap::new(),
        held: HashMap::new(),
        keyed_by: HashMap::new(),
        jobs: VecDeque::new(),
        limits,
        pruned_at: None,
        regated_at: (MonoNs(0), MonoNs(0)),
    };
    writer.load_segments()?;
    writer.load_jobs()?;
    Ok((Store { shared }, writer))
}

fn check_format(dir: &Path, rocks: &Rocks) -> Result<(), StoreError> {
    let Some(value) = rocks.get(Family::Meta, keys::META_FORMAT)? else {
        let mut batch = Batch::default();
        batch.put(Family::Meta, keys::META_FORMAT, numbers([u64::from(keys::FORMAT)]));
        return Ok(rocks.write(&batch, true)?);
    };
    let [found] = numbers_of("the format's version", &value)?;
    if found > u64::from(keys::FORMAT) {
        return Err(StoreError::Newer { path: dir.to_owned(), found, known: keys::FORMAT });
    }
    Ok(())
}

impl Writer {
    /// Make `changes` durable, all or none. The answers are in their order. Blocking.
    ///
    /// # Errors
    /// [`StoreError::Full`] when there is no room, or what the disk said. Nothing was changed: try again.
    pub fn commit(&mut self, changes: &[Change]) -> Result<Vec<Committed>, StoreError> {
        self.make_room()?;
        let result = self.try_commit(changes);
        if result.is_err() {
            self.segments.roll_back();
        }
        result
    }

    fn try_commit(&mut self, changes: &[Change]) -> Result<Vec<Committed>, StoreError> {
        self.segments.rotate_if_full()?;
        let mut stage = self.stage();
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
            let [packets, bytes] = self.table.get(&position.number).copied().unwrap_or_default();
            let row = [packets + stage.frames[0], bytes + stage.frames[1]];
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

    pub(super) fn stage(&self) -> Stage {
        Stage {
            batch: Batch::default(),
            now: self.shared.gate.now(),
            totals: self.shared.totals(),
            longest_ns: self.shared.longest(),
            index: HashMap::new(),
            epochs: HashMap::new(),
            epochs_changed: Vec::new(),
            retimed: Vec::new(),
            ledger: HashMap::new(),
            held: HashMap::new(),
            frames: [0; 2],
            fresh: Vec::new(),
        }
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
            Body::Fixes(fixes) => Self::add_fixes(hash, &epoch, fixes, stage),
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
    fn epoch(
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
            None => Epoch {
                id: change.epoch,
                agent_name: change.agent_name.to_string(),
                timeline: Timeline::new(change.epoch),
            },
        };
        let epoch = Arc::new(epoch);
        stage.epochs.insert(hash, Arc::clone(&epoch));
        stage.epochs_changed.push(hash);
        Ok(Some(epoch))
    }

    fn add_fixes(hash: EpochHash, epoch: &Epoch, fixes: &[Fix], stage: &mut Stage) {
        let mut timeline = epoch.timeline.clone();
        let mut changed = timeline.set_authority(ClockGate::authority(&stage.now));
        for fix in fixes {
            changed |= timeline.add(*fix).changed;
        }
        if !changed {
            return;
        }
        stage.epochs.insert(hash, Arc::new(Epoch { timeline, ..epoch.clone() }));
        stage.epochs_changed.push(hash);
        stage.retimed.push(hash);
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
            let judged = self.shared.gate.judge(&epoch.timeline, record, &stage.now);
            let envelope = Envelope {
                state: judged.state,
                first: judged.first,
                last: judged.last.map(|e| e.utc),
                ingested: old.map_or(stage.now.utc, |old| old.ingested),
                interface: interface.to_owned(),
                record: record.clone(),
            };
            put(stage, id, old, envelope);
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
            let value = encode_epoch(&epoch.id, &epoch.agent_name, epoch.timeline.fixes());
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
        }
        self.segments.commit();
        for hash in &stage.epochs_changed {
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

/// Put a record where its state says, out of where it was.
pub(super) fn put(stage: &mut Stage, id: FlowRef, old: Option<IndexEntry>, envelope: Envelope) {
    let first = envelope.first.map_or(gnomon_clock::UtcNs::MIN, |e| e.utc);
    if let Some(old) = old {
        *stage.totals.of(old.state) = stage.totals.of(old.state).saturating_sub(1);
        match old.state {
            TimeState::Indexed if envelope.state != TimeState::Indexed || old.first != first => {
                stage.batch.delete(Family::Flows, keys::timed(old.first, id));
            }
            TimeState::Pending | TimeState::Quarantined if envelope.state == TimeState::Indexed => {
                stage.batch.delete(Family::Held, keys::reference(id));
            }
            _ => {}
        }
        if old.state != TimeState::Indexed {
            *stage.held.entry(id.epoch).or_default() -= 1;
        }
    } else {
        stage.batch.put(Family::ByIngest, keys::timed(envelope.ingested, id), Vec::new());
    }
    *stage.totals.of(envelope.state) += 1;
    let value = envelope.encode();
    if envelope.state == TimeState::Indexed {
        stage.batch.put(Family::Flows, keys::timed(first, id), value);
        let span = envelope.last.map_or(0, |last| last.minus(first)).max(0).unsigned_abs();
        stage.longest_ns = stage.longest_ns.max(span);
    } else {
        stage.batch.put(Family::Held, keys::reference(id), value);
        *stage.held.entry(id.epoch).or_default() += 1;
    }
    let entry = IndexEntry {
        state: envelope.state,
        revision: envelope.record.revision,
        first,
        ingested: envelope.ingested,
        first_raw_ns: envelope.record.first.0,
    };
    stage.batch.put(Family::FlowIndex, keys::reference(id), entry.encode());
    stage.index.insert(id, Some(entry));
    stage.fresh.push((id.epoch, envelope));
}

/// Take a record out of everything but `by_ingest`.
pub(super) fn forget(stage: &mut Stage, id: FlowRef, entry: &IndexEntry) {
    *stage.totals.of(entry.state) = stage.totals.of(entry.state).saturating_sub(1);
    if entry.state == TimeState::Indexed {
        stage.batch.delete(Family::Flows, keys::timed(entry.first, id));
    } else {
        stage.batch.delete(Family::Held, keys::reference(id));
        *stage.held.entry(id.epoch).or_default() -= 1;
    }
    stage.batch.delete(Family::FlowIndex, keys::reference(id));
}
