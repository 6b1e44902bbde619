//! What the collector keeps: flow records and their indexes in a database, packets in segment files beside it.
//!
//! One [`Writer`] makes all changes, in batches that are durable before they are acknowledged; any number of [`Store`]
//! handles read. What is where is said in `keys.rs`.

mod age;
mod alerts;
mod batch;
pub(crate) mod block;
mod change;
mod checkpoint;
mod column_cache;
pub(crate) mod directory;
mod envelope;
mod epochs;
mod held;
mod hot;
mod intake;
mod join;
mod keys;
pub(crate) mod live;
mod neighbours;
mod open;
mod page;
mod pairs;
mod progress;
pub(crate) mod reader;
mod regate;
mod replay;
mod retention;
mod retime;
mod rocks;
pub(crate) mod rollup;
pub(crate) mod rollup_group;
mod scan;
mod segments;
mod snapshot;
mod stage;
#[cfg(test)]
pub(crate) mod testing;
mod text_index;
mod trouble;
mod verify;
mod walk;
mod writer;

#[cfg(test)]
mod alert_tests;
#[cfg(test)]
mod block_tests;
#[cfg(test)]
mod retime_tests;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};

use gnomon_clock::{AgentVote, CollectorNow, EpochId, Estimate, RawNs, UtcNs};
use gnomon_flow::{AgentId, EpochHash, FlowId, FlowRef, StoredFlow, TimeState};
use tokio::sync::broadcast;

pub(crate) use alerts::AlertCounts;
pub use batch::{BatchError, RecordBatch, RecordError};
pub use change::{Body, Change, Committed, Content, Evidence, Slices};
pub use envelope::DamagedValue;
pub use held::Held;
pub use intake::Rate;
pub use open::{open, open_enriched};
pub(crate) use progress::Progress;
pub(crate) use reader::Reader;
pub use retention::Limits;
pub use rocks::RocksError;
pub(crate) use scan::{Filter, Part, Stop};
pub use scan::{Scan, ScanKey, Span};
pub use segments::{BLOCK_BYTES_MAX, BlockReader, FlowSpan, SegmentError, SliceLocation};
pub use snapshot::Snapshot;
pub(crate) use verify::Hold;
pub use verify::{Damage, Report, size_of, verify};
pub(crate) use walk::FromRollups;
pub use writer::Writer;

use crate::clock_gate::ClockGate;
use crate::enrich::{CurrentEnrichment, Enrichment};
use crate::timekeeper::vote;
use column_cache::ColumnCache;
use envelope::{Totals, numbers_of};
use epochs::Epochs;
use intake::{Intake, full_in_s};
use keys::Family;
use live::Live;
use rocks::Rocks;
use segments::Segments;
use text_index::TextIndex;

/// Records a slow subscriber may lag behind before it misses some.
const SUBSCRIBER_QUEUE: usize = 4096;
/// A record spans at most this; one that claims more is refused, because it would make every search look back as far.
pub const RECORD_NS_MAX: u64 = 24 * 3_600 * 1_000_000_000;

/// What can go wrong with the store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error(transparent)]
    Rocks(#[from] RocksError),
    #[error(transparent)]
    Segment(#[from] SegmentError),
    #[error("the database holds a damaged value: {0}")]
    Damaged(#[from] DamagedValue),
    #[error("the database holds a key that means nothing: {bytes:02x?}")]
    Key { bytes: Vec<u8> },
    #[error("record {id} belongs to an epoch the database does not know")]
    NoEpoch { id: FlowRef },
    #[error("block {id} of records is damaged in column {column}: {error}")]
    Block { id: u64, column: u16, error: DamagedValue },
    #[error("block {id} of records was given up for space")]
    BlockGone { id: u64 },
    #[error("{} is in use by a running gnomon-collector: stop it first", path.display())]
    InUse { path: PathBuf },
    #[error("{} holds no store of a gnomon-collector", path.display())]
    NoStore { path: PathBuf },
    #[error("the collector is stopping, and what it wrote last may be there or not: the next start will see")]
    Stopping,
    #[error("a thread of the query ended by a fault in the collector; its log says more")]
    Fault,
    #[error(
        "{} was written by a gnomon-collector from before the first release (format {found}, this one knows {known}), and cannot be converted; nothing in it was changed: give another data_dir, and to keep the old flows run that version on the old one and `gnomon export` them", path.display()
    )]
    Older { path: PathBuf, found: u64, known: u32 },
    #[error(
        "{} was written by a newer gnomon-collector (format {found}, this one knows {known}): use that version", path.display()
    )]
    Newer { path: PathBuf, found: u64, known: u32 },
    #[error(
        "{} was written by a newer gnomon-collector: its database has {families}, which this one does not know; nothing in it was changed: use that version or a newer one, or `gnomon-collector restore` a backup from before the upgrade to another data_dir", path.display()
    )]
    NewerFamilies { path: PathBuf, families: String },
    #[error("{}: {source}", path.display())]
    Directory { path: PathBuf, source: std::io::Error },
    #[error("{} has {free_bytes} bytes free, and opening a store takes {wanted_bytes}: make room", path.display())]
    NoRoom { path: PathBuf, free_bytes: u64, wanted_bytes: u64 },
    #[error(
        "{} has {free_bytes} bytes free, retention.free_min is {wanted_bytes}: nothing more is taken in until there is room", path.display()
    )]
    Full { path: PathBuf, free_bytes: u64, wanted_bytes: u64 },
}

impl StoreError {
    /// Whether it says that something stored cannot be read, which does not concern anything else.
    pub fn is_damage(&self) -> bool {
        matches!(
            self,
            StoreError::Damaged(_)
                | StoreError::Key { .. }
                | StoreError::NoEpoch { .. }
                | StoreError::Block { .. }
        )
    }
}

/// What the store holds and how it fares.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoreStatus {
    pub flows: u64,
    pub flows_pending: u64,
    pub flows_quarantined: u64,
    pub slice_packets: u64,
    pub slice_bytes: u64,
    pub disk_free_bytes: u64,
    /// Of the indexes of segment files, which count as packets.
    pub index_bytes: u64,
    /// The most that packets may take.
    pub packets_bytes_max: u64,
    /// What the database takes, and the most it may.
    pub flows_bytes: u64,
    pub flows_bytes_max: u64,
    /// What comes in; `None` in the first minute.
    pub rate: Option<Rate>,
    pub flow_bytes_a_day: Option<u64>,
    /// Until the oldest packets, and the oldest flows, are given up for new ones, at this rate; 0: they are.
    pub packets_full_in_s: Option<u64>,
    pub flows_full_in_s: Option<u64>,
    pub oldest_flow: Option<UtcNs>,
    pub newest_flow: Option<UtcNs>,
    pub oldest_packet: Option<UtcNs>,
    /// Bytes of never acknowledged writes that were cut at open.
    pub torn_bytes: u64,
    /// Bytes of packets that were acknowledged and are missing: the disk lost them.
    pub lost_bytes: u64,
    /// Blocks of packets or of records, and stretches of segment files, that were found damaged.
    pub damaged_blocks: u64,
    /// Indexes of segment files that were found damaged, and made anew.
    pub damaged_indexes: u64,
    /// Writes of the database that failed, and how often it was opened anew because of that.
    pub write_failures: u64,
    pub reopened: u64,
    /// Why nothing is taken in at the moment, in words.
    pub stopped: Option<String>,
}

/// A reading handle; clones share everything.
#[derive(Clone)]
pub struct Store {
    shared: Arc<Shared>,
}

/// What the writer and the readers share.
struct Shared {
    dir: PathBuf,
    rocks: Rocks,
    segments: Arc<Segments>,
    epochs: Epochs,
    gate: ClockGate,
    enrichment: CurrentEnrichment,
    live: RwLock<Live>,
    columns: ColumnCache,
    texts: TextIndex,
    totals: Mutex<Totals>,
    intake: Mutex<Intake>,
    limits: Limits,
    changes: broadcast::Sender<Arc<StoredFlow>>,
    /// Counts how often evidence moved records that had a place in time, from a number of this process's own.
    moves: AtomicU64,
    /// Blocks of records.
    damaged_blocks: AtomicU64,
    alert_counts: Arc<AlertCounts>,
    torn_bytes: u64,
    lost_bytes: u64,
    /// Writes of the database that failed, and how often it was opened anew for that.
    write_failures: AtomicU64,
    reopened: AtomicU64,
    stopped: Mutex<Option<String>>,
}

impl Shared {
    fn live(&self) -> RwLockReadGuard<'_, Live> {
        self.live.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes of packets and records that came in.
    fn take_in(&self, (packet_bytes, records): (u64, u64)) {
        let now = self.gate.monotonic();
        self.intake.lock().unwrap_or_else(PoisonError::into_inner).add(now, packet_bytes, records);
    }

    fn totals(&self) -> Totals {
        *self.totals.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store {
    /// Changes whenever evidence moves records that had a place in time, and with each start of the collector.
    pub(crate) fn moves(&self) -> u64 {
        self.shared.moves.load(Ordering::Relaxed)
    }

    /// All blocks that hold packets of `flow`, in the order they were written. Those given up for space are left out.
    ///
    /// # Errors
    /// When an index cannot be read.
    pub fn slices_of(&self, epoch: EpochHash, flow: FlowId) -> Result<Vec<SliceLocation>, StoreError> {
        let mut found = Vec::new();
        self.shared.segments.find(&[FlowSpan::all(epoch, flow)], false, |_, at| found.push(at))?;
        Ok(found)
    }

    /// Tells the blocks with packets of any of `wanted`, which rise by epoch and flow: each block once, with the place
    /// in `wanted` of one that has packets in it.
    ///
    /// # Errors
    /// When an index cannot be read.
    pub fn blocks_of(
        &self,
        wanted: &[FlowSpan],
        found: impl FnMut(usize, SliceLocation),
    ) -> Result<(), StoreError> {
        Ok(self.shared.segments.find(wanted, true, found)?)
    }

    /// Reads blocks; for many it is cheaper than [`Store::read_block`].
    ///
    /// # Errors
    /// When there is no memory for it.
    pub fn block_reader(&self) -> Result<BlockReader<'_>, StoreError> {
        Ok(self.shared.segments.block_reader()?)
    }

    /// The block at `at`, checked and decompressed: the layout of `gnomon_flow::slice`.
    ///
    /// # Errors
    /// [`SegmentError::Gone`] when it was given up for space meanwhile, [`SegmentError::Damaged`] when its bytes rotted.
    pub fn read_block(&self, at: &SliceLocation) -> Result<Vec<u8>, StoreError> {
        let mut block = Vec::new();
        self.block_reader()?.read(at, &mut block)?;
        Ok(block)
    }

    /// The interface the block at `at` was captured on.
    ///
    /// # Errors
    /// As [`Store::read_block`].
    pub fn interface_of(&self, at: &SliceLocation) -> Result<String, StoreError> {
        Ok(self.shared.segments.interface(at)?)
    }

    /// When `raw` was, by the evidence of now.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn estimate(&self, epoch: EpochHash, raw: RawNs) -> Result<Option<Estimate>, StoreError> {
        match self.shared.epochs.get(&self.shared.rocks, epoch)? {
            Some(epoch) => self.shared.estimate(&epoch, raw),
            None => Ok(None),
        }
    }

    /// The epoch behind its short form, and the name of its agent.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn epoch(&self, epoch: EpochHash) -> Result<Option<(EpochId, String)>, StoreError> {
        let epoch = self.shared.epochs.get(&self.shared.rocks, epoch)?;
        Ok(epoch.map(|epoch| (epoch.id, epoch.agent_name.to_string())))
    }

    /// New and changed records, once they are durable. A subscriber more than 4096 behind misses the oldest and is told
    /// how many.
    pub fn subscribe(&self) -> broadcast::Receiver<Arc<StoredFlow>> {
        self.shared.changes.subscribe()
    }

    /// What is durable of an agent: its epochs and the highest sequence number of each.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn durable(&self, agent: AgentId) -> Result<Vec<(EpochId, u64)>, StoreError> {
        let mut durable = Vec::new();
        self.shared.rocks.walk(Family::Ledger, &agent.0, |key, value| {
            let Some((_, hash)) = keys::ledger_of(key) else {
                return Err(StoreError::Key { bytes: key.to_vec() });
            };
            let [seq] = numbers_of("the ledger", value)?;
            if let Some(value) = self.shared.rocks.get(Family::Epochs, &keys::epoch(hash))? {
                durable.push((envelope::decode_epoch(&value)?.id, seq));
            }
            Ok(())
        })?;
        Ok(durable)
    }

    /// All agents anything is stored of, each once, with the name it had last.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn agents(&self) -> Result<Vec<(AgentId, String)>, StoreError> {
        let mut agents = std::collections::BTreeMap::new();
        self.shared.rocks.walk(Family::Epochs, &[], |_, value| {
            let epoch = envelope::decode_epoch(value)?;
            agents.insert(epoch.agent(), epoch.agent_name.to_string());
            Ok(())
        })?;
        Ok(agents.into_iter().collect())
    }

    /// The collector's own time and what it is worth.
    pub fn now(&self) -> CollectorNow {
        self.shared.gate.now()
    }

    /// What is known of the addresses of records that come in.
    pub fn enrichment(&self) -> Arc<Enrichment> {
        self.shared.enrichment.get()
    }

    /// The clock gate, with its policy and the collector's clock.
    pub fn gate(&self) -> &ClockGate {
        &self.shared.gate
    }

    /// How an agent's own sources see the collector's clock at `raw` of `epoch`.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn vote(&self, epoch: &EpochId, raw: RawNs) -> Result<Option<AgentVote>, StoreError> {
        let epoch = self.shared.epochs.get(&self.shared.rocks, EpochHash::of(epoch))?;
        Ok(epoch.and_then(|epoch| vote(&epoch.timeline, raw)))
    }

    /// How many fixes of an agent's own sources contradict whoever has authority over `epoch`.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn overruled(&self, epoch: &EpochId) -> Result<usize, StoreError> {
        let epoch = self.shared.epochs.get(&self.shared.rocks, EpochHash::of(epoch))?;
        Ok(epoch.map_or(0, |epoch| epoch.timeline.overruled()))
    }

    /// What became of alerts since the start.
    pub(crate) fn alert_counts(&self) -> &AlertCounts {
        &self.shared.alert_counts
    }

    /// Where the store is.
    pub fn dir(&self) -> &Path {
        &self.shared.dir
    }

    /// # Errors
    /// When the database cannot be read.
    pub fn status(&self) -> Result<StoreStatus, StoreError> {
        let shared = &self.shared;
        let totals = shared.totals();
        let view = self.view();
        let mut flows = [0u64; 3];
        let mut span: Option<(UtcNs, UtcNs)> = None;
        let mut seen = |first: UtcNs, last: UtcNs| {
            span = Some(span.map_or((first, last), |(a, b)| (a.min(first), b.max(last))));
        };
        for flow in view.hot() {
            let at = TimeState::ALL.iter().position(|state| *state == flow.time_state).unwrap_or(0);
            flows[at] += 1;
            if flow.time_state == TimeState::Indexed
                && let Some(first) = flow.first
            {
                seen(first.utc, first.utc);
            }
        }
        for block in view.blocks.iter() {
            flows[usize::from(block.held())] += block.records();
            if let Some(times) = block.times.filter(|times| !block.held() && times.last_max != UtcNs::MAX) {
                seen(times.first_min, times.first_max);
            }
        }
        let [indexed, pending, quarantined] = flows;
        let records = indexed + pending + quarantined;
        let disk_free_bytes = retention::free_bytes(&shared.dir)?;
        let index_bytes = shared.segments.index_bytes();
        let flows_bytes = shared.rocks.bytes();
        let rate = shared.intake.lock().unwrap_or_else(PoisonError::into_inner).rate(shared.gate.monotonic());
        let packet_bytes_a_day = rate.map(|rate| rate.packet_bytes_a_day);
        // Records take on disk what those there take.
        let file_bytes = shared.rocks.file_bytes();
        let flow_bytes_a_day = rate.filter(|_| file_bytes > 0).map(|rate| {
            let bytes = u128::from(rate.records_a_day) * u128::from(file_bytes) / u128::from(records.max(1));
            u64::try_from(bytes).unwrap_or(u64::MAX)
        });
        let Limits { packets_bytes_max, flows_bytes_max, free_bytes_min, .. } = shared.limits;
        let disk_left = disk_free_bytes.saturating_sub(free_bytes_min);
        // The disk fills with both.
        let disk_full_in_s = packet_bytes_a_day
            .zip(flow_bytes_a_day)
            .and_then(|(packets, flows)| full_in_s(disk_left, packets.saturating_add(flows)));
        let full = |max: u64, taken: u64, a_day: Option<u64>| {
            let own = full_in_s(max.saturating_sub(taken), a_day?)?;
            Some(disk_full_in_s.map_or(own, |disk| own.min(disk)))
        };
        Ok(StoreStatus {
            index_bytes,
            packets_bytes_max,
            flows_bytes,
            flows_bytes_max,
            rate,
            flow_bytes_a_day,
            packets_full_in_s: full(
                packets_bytes_max,
                totals.slice_bytes.saturating_add(index_bytes),
                packet_bytes_a_day,
            ),
            flows_full_in_s: full(flows_bytes_max, flows_bytes, flow_bytes_a_day),
            flows: indexed,
            flows_pending: pending,
            flows_quarantined: quarantined,
            slice_packets: totals.slice_packets,
            slice_bytes: totals.slice_bytes,
            disk_free_bytes,
            oldest_flow: span.map(|(oldest, _)| oldest),
            newest_flow: span.map(|(_, newest)| newest),
            oldest_packet: self.oldest_packet()?,
            torn_bytes: shared.torn_bytes,
            lost_bytes: shared.lost_bytes,
            damaged_blocks: shared.damaged_blocks.load(Ordering::Relaxed) + shared.segments.damaged_blocks(),
            damaged_indexes: shared.segments.damaged_indexes(),
            write_failures: shared.write_failures.load(Ordering::Relaxed),
            reopened: shared.reopened.load(Ordering::Relaxed),
            stopped: shared.stopped.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        })
    }

    /// When the first packet of the oldest segment file that has any was.
    fn oldest_packet(&self) -> Result<Option<UtcNs>, StoreError> {
        let mut oldest: Option<UtcNs> = None;
        for (epoch, first) in self.shared.segments.oldest() {
            let first = self.estimate(epoch, first)?.map(|estimate| estimate.utc);
            oldest = [oldest, first].into_iter().flatten().min();
        }
        Ok(oldest)
    }
}
