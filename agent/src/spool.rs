//! The spool: everything an agent exports goes through these files before it goes to the collector.
//!
//! Constraints: what was written survives SIGKILL at once and a power cut after `sync_interval`; nothing the collector
//! acknowledged is kept, nothing else is forgotten; the files stay inside a budget and leave the disk a reserve; no
//! error of the disk ends the agent. What has to go is counted: slices before flows, the oldest first.
//!
//! ```text
//! workers ──Export──▶ Writer (encode, compress) ──▶ Appender ──▶ flows-….spool, slices-….spool
//!                                                                     │ (segment: layout, crash story)
//!            collector ◀── uplink ◀── Reader, by epoch and seq ◀──────┘
//!                └── Ack ──▶ Spool::ack ──▶ ledger, whole segments deleted
//! ```
//!
//! Entries are numbered from 1 within an epoch, over both lanes; a process opens an epoch of its own, so a number is
//! never given twice, whatever a crash took. Only the writer thread appends, only the uplink reads.

mod encode;
mod index;
mod ledger;
mod reader;
mod retention;
mod segment;
mod sync;
mod writer;

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use gnomon_clock::{Clock, EpochId, RawNs};

pub use index::Sacrificed;
pub use reader::{Reader, SpoolEntry};
pub use retention::{Limits, WhenFull};
pub use segment::{Lane, PAYLOAD_BYTES_MAX};
pub use writer::{Appended, Appender, Writer};

use index::{Acked, Index, Segment};
use ledger::Ledger;
use segment::{FileHeader, SEAL_BYTES, SegmentFile, Step, Totals};

/// The spool could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("spool {}: {what}: {source}", path.display())]
pub struct SpoolError {
    pub path: PathBuf,
    pub what: &'static str,
    #[source]
    pub source: io::Error,
}

/// What the spool holds and what it had to give up since it was opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SpoolStatus {
    /// Not acknowledged yet.
    pub entries: u64,
    /// Flow records and packets not acknowledged yet.
    pub items: u64,
    /// Of all files.
    pub bytes: u64,
    pub bytes_max: u64,
    /// When the oldest of them was written, or a little earlier.
    pub oldest: Option<RawNs>,
    pub sacrificed_slices: Sacrificed,
    pub sacrificed_flows: Sacrificed,
    /// Entries whose checksum did not hold.
    pub damaged: Sacrificed,
    /// Half-written tails cut off when the spool was opened.
    pub torn_bytes: u64,
    /// Why the disk takes nothing, while that is so.
    pub error: Option<String>,
}

/// The part of the spool that all its users share.
#[derive(Clone)]
pub struct Spool {
    shared: Arc<Shared>,
}

struct Shared {
    limits: Limits,
    clock: Arc<dyn Clock>,
    index: Mutex<Index>,
    ledger: Mutex<Ledger>,
    /// There is something to read.
    readable: tokio::sync::Notify,
    /// Something was deleted.
    room: Condvar,
    sync: sync::SyncQueue,
}

impl Shared {
    fn index(&self) -> MutexGuard<'_, Index> {
        // The index is never left half changed by anything that can panic.
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path(&self, lane: Lane, number: u64) -> PathBuf {
        self.limits.dir.join(segment::file_name(lane, number))
    }

    fn delete(&self, files: &[(Lane, u64)]) {
        for (lane, number) in files {
            let path = self.path(*lane, *number);
            if let Err(error) = fs::remove_file(&path) {
                tracing::warn!(path = %path.display(), %error, "cannot delete a finished spool segment");
            }
        }
        if !files.is_empty() {
            self.room.notify_all();
        }
    }
}

/// Makes the names in `dir` outlive a power cut.
pub(crate) fn sync_directory(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Opens or makes the spool in `limits.dir`, which nobody else may use.
///
/// # Errors
/// When the directory cannot be made or read. Damaged files are put aside and counted, not an error.
pub fn open(limits: Limits, clock: Arc<dyn Clock>) -> Result<(Spool, Appender, Reader), SpoolError> {
    let dir = limits.dir.clone();
    let error = |what| {
        let path = dir.clone();
        move |source| SpoolError { path, what, source }
    };
    fs::create_dir_all(&dir).map_err(error("cannot make the directory"))?;
    // Its own name has to outlive a power cut before anything in it can.
    if let Some(above) = dir.parent().filter(|above| !above.as_os_str().is_empty()) {
        sync_directory(above).map_err(error("cannot sync the directory above"))?;
    }
    let mut ledger = Ledger::new(&dir);
    let acked = ledger.read().map_err(error("cannot read the ledger"))?;
    let mut index = Index::new();
    let mut files: Vec<(u64, Lane)> = Vec::new();
    for entry in fs::read_dir(&dir).map_err(error("cannot read the directory"))? {
        let name = entry.map_err(error("cannot read the directory"))?.file_name();
        let Some(name) = name.to_str() else { continue };
        if let Some((lane, number)) = segment::parse_file_name(name) {
            files.push((number, lane));
        } else if name.ends_with(".damaged") {
            // Reported when it was put aside; kept for one run of the agent.
            let _ = fs::remove_file(dir.join(name));
        }
    }
    files.sort_unstable();
    for (number, lane) in files {
        let path = dir.join(segment::file_name(lane, number));
        match open_segment(&path, lane, number, &acked, &mut index) {
            Ok(true) => {}
            Ok(false) => {
                tracing::error!(path = %path.display(), "spool segment has no valid header, putting it aside");
                index.damaged.entries += 1;
                let _ = fs::rename(&path, path.with_extension("damaged"));
            }
            Err(problem) => {
                tracing::error!(path = %path.display(), error = %problem, "cannot read a spool segment, leaving it");
                index.damaged.entries += 1;
            }
        }
        index.next_number = index.next_number.max(number + 1);
    }
    if let Err(problem) = ledger.rewrite(&kept_acks(&index)) {
        tracing::warn!(error = %problem, "cannot write the spool's ledger: entries may be sent again");
    }
    let shared = Arc::new(Shared {
        limits,
        clock,
        index: Mutex::new(index),
        ledger: Mutex::new(ledger),
        readable: tokio::sync::Notify::new(),
        room: Condvar::new(),
        sync: sync::SyncQueue::default(),
    });
    let spool = Spool { shared: Arc::clone(&shared) };
    spool.skim();
    let finished = shared.index().take_finished();
    shared.delete(&finished);
    Ok((spool, Appender::new(Arc::clone(&shared)), Reader::new(shared)))
}

/// Takes a file of an earlier run into the index. False when its header is no good.
fn open_segment(
    path: &Path,
    lane: Lane,
    number: u64,
    acked: &[ledger::Acked],
    index: &mut Index,
) -> io::Result<bool> {
    let file = File::options().read(true).write(true).open(path)?;
    let file_bytes = file.metadata()?.len();
    if file_bytes < segment::FILE_HEADER_BYTES {
        // The process died while it made the file: nothing was in it.
        index.torn_bytes += file_bytes;
        fs::remove_file(path)?;
        return Ok(true);
    }
    let Some(header) = FileHeader::read(&file)?.filter(|h| h.lane == lane && h.number == number) else {
        return Ok(false);
    };
    let file = SegmentFile { file, salt: header.salt() };
    let (totals, end) = match Totals::read_seal(&file.file, file_bytes)? {
        Some(totals) => (totals, file_bytes - SEAL_BYTES),
        None => {
            let scan = file.scan(file_bytes)?;
            if scan.torn_bytes > 0 {
                tracing::warn!(path = %path.display(), bytes = scan.torn_bytes, "cut a half-written tail off a spool segment");
                index.torn_bytes += scan.torn_bytes;
            }
            file.file.set_len(scan.end)?;
            (scan.totals, scan.end)
        }
    };
    let epoch = index.epoch_index(&header.epoch).unwrap_or_else(|| {
        let acked = acked.iter().find(|(id, _)| *id == header.epoch).map_or(0, |(_, seq)| *seq);
        index.add_epoch(header.epoch, header.suspended_ns, acked)
    });
    index.insert(number, Segment::new(lane, epoch, header.salt(), totals, end));
    let sealed_bytes =
        if writer::write_seal(&file.file, &totals, end).is_ok() { end + SEAL_BYTES } else { end };
    index.sealed(number, sealed_bytes);
    Ok(true)
}

/// The acknowledgements worth keeping: of epochs that have files, and of the newest.
fn kept_acks(index: &Index) -> Vec<ledger::Acked> {
    let newest = index.epochs.len().saturating_sub(1);
    let has_files = |number: usize| index.segments.values().any(|segment| segment.epoch == number);
    let epochs = index.epochs.iter().enumerate();
    epochs
        .filter(|(number, epoch)| epoch.acked > 0 && (*number == newest || has_files(*number)))
        .map(|(_, epoch)| (epoch.id, epoch.acked))
        .collect()
}

impl Spool {
    /// Everything of `epoch` up to and including `seq` is durable at the collector: it is forgotten here.
    /// An epoch the spool does not know is no error. Reads and writes files.
    pub fn ack(&self, epoch: &EpochId, seq: u64) {
        let mut index = self.shared.index();
        let Some(number) = index.epoch_index(epoch) else { return };
        let news = index.ack(number, seq);
        if news == Acked::Known {
            return;
        }
        let acked = index.epochs[number].acked;
        drop(index);
        if news == Acked::BeyondReader {
            self.skim();
        }
        let finished = self.shared.index().take_finished();
        let mut ledger = self.shared.ledger.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = ledger.note((*epoch, acked), || kept_acks(&self.shared.index())) {
            tracing::warn!(%error, "cannot write the spool's ledger: entries may be sent again");
        }
        drop(ledger);
        self.shared.delete(&finished);
    }

    /// Passes the acknowledged entries at the beginning of segments that are acknowledged in part.
    fn skim(&self) {
        let half_acked = self.shared.index().half_acked();
        for mut at in half_acked {
            let acked = self.shared.index().epochs[at.epoch].acked;
            let Ok(file) = File::open(self.shared.path(at.lane, at.number)) else { continue };
            let file = SegmentFile { file, salt: at.salt };
            while let Ok(Step::Entry(header)) = file.step(at.at, at.end)
                && header.seq <= acked
            {
                self.shared.index().pass_acked(&at, &header);
                at.at += header.entry_bytes();
            }
        }
    }

    pub fn status(&self) -> SpoolStatus {
        let index = self.shared.index();
        let pending = index.pending();
        SpoolStatus {
            entries: pending.entries,
            items: pending.items,
            bytes: index.bytes,
            bytes_max: self.shared.limits.bytes_max,
            oldest: index.oldest_written(),
            sacrificed_flows: index.sacrificed[0],
            sacrificed_slices: index.sacrificed[1],
            damaged: index.damaged,
            torn_bytes: index.torn_bytes,
            error: index.error.clone(),
        }
    }

    /// The highest number given out in `epoch`; an honest acknowledgement is never above it.
    pub fn last_seq(&self, epoch: &EpochId) -> Option<u64> {
        let index = self.shared.index();
        index.epoch_index(epoch).map(|number| index.epochs[number].last_seq)
    }

    /// Epochs of this boot during which CLOCK_MONOTONIC_RAW ran on without a suspension until now, as far as the spool
    /// knows them: evidence for the time of one holds for all.
    pub fn comparable_epochs(&self, current: &EpochId) -> Vec<EpochId> {
        let now_ns = self.shared.clock.suspended_ns();
        let index = self.shared.index();
        let same = |suspended_ns: u64| suspended_ns.abs_diff(now_ns) <= SUSPENDED_NS_TOLERANCE;
        let epochs = index.epochs.iter().enumerate().filter(|(number, epoch)| {
            epoch.id.agent == current.agent
                && epoch.id.boot_id == current.boot_id
                && same(epoch.suspended_ns)
                && index.segments.values().any(|segment| segment.epoch == *number)
        });
        epochs.map(|(_, epoch)| epoch.id).collect()
    }

    /// Whether everything written was acknowledged.
    pub fn is_drained(&self) -> bool {
        let index = self.shared.index();
        index.in_flight() == 0 && index.pending().entries == 0
    }

    /// Comes back when there may be something new to read. One waiter only.
    pub async fn readable(&self) {
        self.shared.readable.notified().await;
    }
}

/// The two clocks behind [`Clock::suspended_ns`] are read one after the other.
const SUSPENDED_NS_TOLERANCE: u64 = 1_000_000;

/// How long an append waits before it looks again, under [`WhenFull::Wait`].
const ROOM_WAIT: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests;
