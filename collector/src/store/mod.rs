//! What the collector keeps: flow records and their indexes in a database, packets in segment files beside it.
//!
//! One [`Writer`] makes all changes, in batches that are durable before they are acknowledged; any number of [`Store`]
//! handles read. What is where is said in `keys.rs`.

mod age;
mod alerts;
mod batch;
pub(crate) mod block;
mod block_maker;
mod change;
mod checkpoint;
mod claims;
mod clock_reset;
mod column_cache;
mod copies;
pub(crate) mod directory;
mod entries;
mod envelope;
mod epoch_order;
mod epochs;
mod flusher;
mod held;
mod high_water;
mod hot;
mod intake;
mod join;
mod keys;
mod ledger;
mod listing;
pub(crate) mod live;
mod neighbours;
mod open;
mod outline;
mod owners;
mod page;
mod pairs;
mod progress;
mod quarantine;
pub(crate) mod reader;
mod regate;
mod replay;
mod retention;
mod retime;
mod rocks;
mod rocks_batch;
mod rocks_log;
mod rocks_manifest;
mod rocks_mend;
mod rocks_open;
mod rocks_readable;
mod rocks_survey;
mod rocks_wal;
pub(crate) mod rollup;
pub(crate) mod rollup_group;
mod salvage;
mod scan;
mod segments;
mod set_aside;
mod shares;
mod since;
mod snapshot;
mod stage;
mod status;
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
mod checkpoint_tests;
#[cfg(test)]
mod damage_tests;
#[cfg(test)]
mod retime_tests;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};

use gnomon_clock::{AgentVote, CollectorNow, EpochId, Estimate, RawNs};
use gnomon_flow::{AgentId, EpochHash, FlowId, FlowRef, StoredFlow};
use tokio::sync::{broadcast, watch};

pub(crate) use alerts::AlertCounts;
pub use batch::{BatchError, PlainBatch, RecordBatch, RecordError, declared_bytes};
pub use change::{Body, Change, Committed, Content, Evidence, Slices};
pub use claims::Claimed;
pub use clock_reset::{ClockReset, ask_clock_reset};
pub use envelope::DamagedValue;
pub use held::Held;
pub use intake::Rate;
pub use open::{open, open_enriched};
pub(crate) use outline::{Ends, Outline};
pub use owners::Owner;
pub(crate) use progress::Progress;
pub use quarantine::Quarantine;
pub(crate) use reader::Reader;
pub use retention::Limits;
pub use rocks::RocksError;
pub(crate) use scan::{Filter, Part, Stop};
pub use scan::{Scan, ScanKey, Span};
pub use segments::{BLOCK_BYTES_MAX, BlockReader, FlowSpan, SegmentError, SliceLocation};
pub use shares::WantedLimits;
pub(crate) use since::Since;
pub use snapshot::Snapshot;
pub use status::StoreStatus;
pub use trouble::ADVICE;
pub(crate) use verify::Hold;
pub use verify::{Damage, Report, size_of, verify};
pub(crate) use walk::FromRollups;
pub use writer::Writer;

use crate::clock_gate::ClockGate;
use crate::enrich::{CurrentEnrichment, Enrichment};
use crate::timekeeper::vote;
use claims::Claims;
use column_cache::ColumnCache;
use envelope::Totals;
use epochs::{Epochs, Listings, Testimony};
use flusher::Settled;
use intake::Intake;
use keys::Family;
use live::Live;
use open::Opened;
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
    #[error("{}: {problem}; nothing in it was changed", path.display())]
    NotWhole { path: PathBuf, problem: String, advice: String },
    #[error("cannot start a thread: {source}")]
    Thread { source: std::io::Error },
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
        ) || matches!(self, StoreError::Rocks(error) if error.failure.is_damage())
    }
}

impl StoreError {
    /// What can be done where a store cannot be opened for this.
    pub fn advice(&self) -> &str {
        match self {
            StoreError::NotWhole { advice, .. } => advice,
            StoreError::Rocks(RocksError { message, .. }) if message.contains("(is another") => {
                "stop the other collector, or choose another place with --data-dir"
            }
            error if error.is_damage() => ADVICE,
            StoreError::NoRoom { .. } | StoreError::Full { .. } => "make room on the file system of data_dir",
            StoreError::Older { .. } | StoreError::Newer { .. } | StoreError::NewerFamilies { .. } => {
                "choose another place with --data-dir, or the version that wrote this one"
            }
            StoreError::Segment(_) => ADVICE,
            _ => "choose another place with --data-dir, or see who owns that directory",
        }
    }
}

/// A reading handle; clones share everything.
#[derive(Clone)]
pub struct Store {
    shared: Arc<Shared>,
    /// What it goes by instead of the evidence of now.
    then: Option<Arc<Testimony>>,
}

/// What the writer and the readers share.
struct Shared {
    dir: PathBuf,
    /// See `claims.rs`.
    id: u64,
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
    listings: Mutex<Listings>,
    /// Held while it is settled whom an agent's id belongs to.
    owners: Mutex<()>,
    /// Blocks of records.
    damaged_blocks: AtomicU64,
    /// Records that no block can hold.
    records_set_aside: AtomicU64,
    alert_counts: Arc<AlertCounts>,
    torn_bytes: u64,
    lost_bytes: u64,
    settled: Settled,
    claims: Claims,
    /// Entries that were acknowledged: those that may come again, and those that will not.
    entries_missing: AtomicU64,
    entries_lost: AtomicU64,
    /// What was found when it was opened.
    opened: Opened,
    /// There was no room to open it for writing: nothing is changed, and others are kept from doing so.
    read_only: Option<(Hold, String)>,
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
    /// All blocks that hold packets of `flow`, in the order they were written. Those given up for space are left out.
    ///
    /// # Errors
    /// When an index cannot be read.
    pub fn slices_of(&self, epoch: EpochHash, flow: FlowId) -> Result<Vec<SliceLocation>, StoreError> {
        let mut found = Vec::new();
        self.shared.segments.find(&[FlowSpan::all(epoch, flow)], false, |_, at| found.push(at))?;
        Ok(found)
    }

    /// Whether packets were deleted, for room or age.
    pub fn has_deleted_packets(&self) -> bool {
        self.shared.segments.has_deleted()
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

    /// Of the entries of an epoch up to `durable`, which are durable, the last that is in table files too: damage of the log
    /// cannot take it any more.
    pub fn settled_seq(&self, epoch: EpochHash, durable: u64) -> u64 {
        self.shared.settled.of(epoch, durable)
    }

    /// Changes when more is settled.
    pub fn settling(&self) -> watch::Receiver<u64> {
        self.shared.settled.subscribe()
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

    /// Whether it was opened for reading only, as there was no room.
    pub fn is_read_only(&self) -> bool {
        self.shared.read_only.is_some()
    }

    /// Whether there is room to open it for writing.
    ///
    /// # Errors
    /// When the file system cannot be asked.
    pub fn has_room(&self) -> Result<bool, StoreError> {
        Ok(retention::free_bytes(&self.shared.dir)? >= open::ROOM_BYTES)
    }

    /// Where the store is.
    pub fn dir(&self) -> &Path {
        &self.shared.dir
    }
}
