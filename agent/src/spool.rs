//! The spool: everything an agent exports goes through it, numbered, before it goes to the collector.
//!
//! Constraints: what is on the disk survives SIGKILL at once and a power cut after `sync_interval`; nothing the collector
//! has safe is kept, nothing else is forgotten; the files stay inside a budget and leave the disk a reserve, what waits
//! for the disk stays inside another; no error of the disk ends the agent, and none keeps what is captured from a
//! collector that is there. What has to go is counted: slices before flows, the oldest first.
//!
//! ```text
//! workers ──Export──▶ Writer (encode, compress) ──▶ Appender ──▶ memory ──▶ disk thread ──▶ flows-….spool, slices-….spool
//!                                                                  ┊                              │ (segment: layout, crash story)
//!                                                    while the disk fails or stalls               │
//!                                                                  ┊                              │
//!            collector ◀── uplink ◀── Reader, by epoch and seq ◀───┴──────────────────────────────╯
//!                └── Ack ──▶ Spool::ack ──▶ ledger, whole segments deleted
//! ```
//!
//! Entries are numbered from 1 within an epoch, over both lanes; a process opens an epoch of its own, so a number is
//! never given twice, whatever a crash took. Only the disk thread writes segments, only the uplink reads.
//!
//! An acknowledged entry is kept until the collector says that it is settled there, i.e. survives damage of the
//! collector's log; such entries are no backlog and the first to go when room is needed.

mod encode;
mod writer;

mod appender;
mod disk;
mod memory;
mod retention;
mod segment;
mod sync;

mod epoch;
mod index;
mod ledger;
mod open;
mod reader;
mod store_id;

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use gnomon_clock::{Clock, EpochId, MonoNs, RawNs};

pub use appender::{Appended, Appender};
pub use index::Sacrificed;
pub use open::open;
pub use reader::{Reader, SpoolEntry};
pub use retention::{Limits, WhenFull};
pub use segment::{Lane, PAYLOAD_BYTES_MAX};
pub use writer::Writer;

use epoch::Epoch;
use index::{Acked, Finished, Index};
use ledger::{Ledger, Noted};
use segment::{SegmentFile, Step};

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
    /// Of entries that are not on the disk.
    pub memory_bytes: u64,
    pub memory_bytes_max: u64,
    /// Of files kept only until the collector has what they hold safe.
    pub unsettled_bytes: u64,
    /// When the oldest of them was written, or a little earlier.
    pub oldest: Option<RawNs>,
    pub sacrificed_slices: Sacrificed,
    pub sacrificed_flows: Sacrificed,
    /// Entries that are damaged.
    pub damaged: Sacrificed,
    /// Entries that were written by earlier processes and are in no file now.
    pub missing: u64,
    /// Half-written tails cut off when the spool was opened.
    pub torn_bytes: u64,
    /// Files with what cannot be read, kept until their room is needed.
    pub set_aside_files: u64,
    pub set_aside_bytes: u64,
    /// Files in the spool's directory that are none of the spool's.
    pub strangers: u64,
    /// Times a collector claimed to have what it was never sent.
    pub ledger_conflicts: u64,
    /// Entries that a collector acknowledged and asked for again.
    pub asked_again: u64,
    /// Why the disk takes nothing, while that is so.
    pub error: Option<String>,
}

/// What the collector says it has of an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Durable {
    pub epoch: EpochId,
    pub seq: u64,
    /// Absent where the collector does not know of settling: what it acknowledges can be forgotten.
    pub settled: Option<u64>,
}

/// The collector claims more of an epoch than it was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conflict {
    pub epoch: EpochId,
    pub claimed: u64,
    pub sent: u64,
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
    store_id: store_id::StoreId,
    /// There is something to read.
    readable: tokio::sync::Notify,
    /// Something was deleted, or left the memory.
    room: Condvar,
    /// There is something to write.
    work: Condvar,
    /// Something was written, or could not be.
    progress: Condvar,
    sync: sync::SyncQueue,
}

impl Shared {
    fn index(&self) -> MutexGuard<'_, Index> {
        // The index is never left half changed by anything that can panic.
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path(&self, lane: Lane, number: u64) -> PathBuf {
        self.limits.dir.join(segment::file_name(lane, number))
    }

    /// Deletes what nobody needs any more; what holds damage is set aside.
    fn dispose(&self) {
        let finished = self.index().take_finished();
        for file in &finished {
            let path = self.path(file.lane, file.number);
            let gone = if file.damaged { self.set_aside(&path, file) } else { fs::remove_file(&path) };
            if let Err(error) = gone
                && self.index().write_error.is_none()
            {
                tracing::warn!(path = %path.display(), %error, "cannot delete a finished spool segment");
            }
        }
        if !finished.is_empty() {
            self.room.notify_all();
        }
    }

    fn set_aside(&self, path: &Path, file: &Finished) -> io::Result<()> {
        let name = set_aside(path)?;
        self.index().set_aside(name, file.file_bytes);
        Ok(())
    }

    /// Writes down what is known of an epoch.
    fn note(&self, noted: &Noted) {
        let written = self.ledger().note(noted, || kept(&self.index()));
        self.complain(written);
    }

    fn rewrite_ledger(&self) {
        let kept = kept(&self.index());
        let written = self.ledger().rewrite(&kept);
        self.complain(written);
    }

    fn complain(&self, written: io::Result<()>) {
        // A disk that takes nothing is spoken of where entries are written.
        if let Err(error) = written
            && self.index().write_error.is_none()
        {
            tracing::warn!(%error, "cannot write the spool's ledger: entries may be sent again");
        }
    }
}

/// Renames a file that cannot be read, so that it is kept and not read again; its new name.
fn set_aside(path: &Path) -> io::Result<String> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut new = format!("{name}.damaged");
    for n in 1.. {
        if fs::symlink_metadata(path.with_file_name(&new)).is_err() {
            break;
        }
        new = format!("{name}.{n}.damaged");
    }
    fs::rename(path, path.with_file_name(&new))?;
    Ok(new)
}

/// Makes the names in `dir` outlive a power cut.
pub(crate) fn sync_directory(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// What is worth keeping in the ledger: of epochs that have files, and of the newest.
fn kept(index: &Index) -> Vec<Noted> {
    let newest = index.epochs.len().saturating_sub(1);
    let has_files = |number: usize| index.segments.values().any(|segment| segment.epoch == number);
    let epochs = index.epochs.iter().enumerate();
    epochs
        .filter(|(number, _)| *number == newest || has_files(*number))
        .map(|(_, epoch)| Noted::of(epoch))
        .collect()
}

impl Spool {
    /// Everything of `epoch`, as it is named on the wire, up to and including `seq` is durable at the collector, and up to
    /// `settled` it survives damage of the collector's log: that is forgotten here. An epoch the spool does not know is no
    /// error. Reads and writes files.
    pub fn ack(&self, epoch: &EpochId, seq: u64, settled: Option<u64>) {
        let mut index = self.shared.index();
        let Some(number) = index.epochs.iter().rposition(|known| known.wire_id == *epoch) else { return };
        let state = &index.epochs[number];
        let (seq, settled) = (state.seq_of(seq), state.seq_of(settled.unwrap_or(seq)));
        let news = index.ack(number, seq);
        let has_settled = index.settle(number, settled);
        if news == Acked::Known && !has_settled {
            return;
        }
        let noted = Noted::of(&index.epochs[number]).acks();
        let is_stalled = index.is_stalled(self.shared.clock.monotonic());
        drop(index);
        self.shared.room.notify_all();
        if is_stalled {
            // The disk thread does the rest once the disk moves: the uplink goes on.
            return;
        }
        if news == Acked::BeyondReader {
            self.shared.skim();
        }
        self.shared.note(&noted);
        self.shared.dispose();
    }

    /// Takes the collector's word for what it has of this agent, as a session begins: forgets what it has, reads again
    /// what it lost, and where it claims what it was never sent, keeps everything and sends it under other numbers.
    /// `asked`: the epochs it was asked about; of those it says nothing of, it has nothing. `current` is being captured in.
    pub fn durable(&self, durable: &[Durable], asked: &[EpochId], current: &EpochId) -> Vec<Conflict> {
        let mut index = self.shared.index();
        if index.epoch_index(current).is_none() && durable.iter().any(|said| said.epoch == *current) {
            let suspended_ns = self.shared.clock.suspended_ns();
            index.add_epoch(Epoch::new(*current, suspended_ns));
        }
        let pending = index.pending().entries;
        let mut conflicts = Vec::new();
        let mut changed = false;
        for number in 0..index.epochs.len() {
            let epoch = index.epochs[number];
            let said = durable.iter().find(|said| said.epoch == epoch.wire_id);
            let claimed = said.map_or(0, |said| said.seq);
            let seq = epoch.seq_of(claimed);
            if said.is_some() && seq > epoch.sent() {
                let sent = epoch.wire_seq(epoch.sent());
                index.epochs[number].renumber(claimed);
                index.ledger_conflicts += 1;
                changed = true;
                conflicts.push(Conflict { epoch: epoch.wire_id, claimed, sent });
            } else if seq < epoch.acked && (said.is_some() || asked.contains(&epoch.wire_id)) {
                index.unack(number, seq);
                changed = true;
            }
        }
        drop(index);
        if changed {
            self.shared.skim();
            let mut index = self.shared.index();
            index.asked_again += index.pending().entries.saturating_sub(pending);
            drop(index);
            self.shared.rewrite_ledger();
        }
        let is_conflict = |epoch: &EpochId| conflicts.iter().any(|conflict| conflict.epoch == *epoch);
        for said in durable.iter().filter(|said| !is_conflict(&said.epoch)) {
            self.ack(&said.epoch, said.seq, said.settled);
        }
        self.shared.index().rewind();
        self.shared.skim();
        conflicts
    }

    /// What was acknowledged of each epoch that the spool still has files of, the newest last.
    pub fn acked(&self) -> Vec<Durable> {
        let index = self.shared.index();
        let epochs = index.epochs.iter().enumerate().filter(|(number, epoch)| {
            epoch.acked > 0 && index.segments.values().any(|segment| segment.epoch == *number)
        });
        let all: Vec<Durable> = epochs
            .map(|(_, epoch)| Durable {
                epoch: epoch.wire_id,
                seq: epoch.wire_seq(epoch.acked),
                settled: Some(epoch.wire_seq(epoch.settled)),
            })
            .collect();
        all[all.len().saturating_sub(ACKED_MAX)..].to_vec()
    }

    /// The store that what is in [`Spool::acked`] is from; 0 when that is not known.
    pub fn acked_by(&self) -> u64 {
        self.shared.store_id.get()
    }

    /// From now on acknowledgements are those of this store: said after [`Spool::durable`].
    pub fn now_acked_by(&self, store_id: u64) {
        let dir = &self.shared.limits.dir;
        self.shared.complain(self.shared.store_id.set(dir, store_id));
    }

    /// The name that `epoch` has on the wire.
    pub fn wire_epoch(&self, epoch: &EpochId) -> EpochId {
        let index = self.shared.index();
        index.epoch_index(epoch).map_or(*epoch, |number| index.epochs[number].wire_id)
    }

    pub fn status(&self) -> SpoolStatus {
        let index = self.shared.index();
        let pending = index.pending();
        SpoolStatus {
            entries: pending.entries,
            items: pending.items,
            bytes: index.bytes,
            bytes_max: self.shared.limits.bytes_max,
            memory_bytes: index.memory.bytes(),
            memory_bytes_max: self.shared.limits.memory_bytes_max,
            unsettled_bytes: index.unsettled_bytes(),
            oldest: index.oldest_written(),
            sacrificed_flows: index.sacrificed[0],
            sacrificed_slices: index.sacrificed[1],
            damaged: index.damaged,
            missing: index.missing,
            torn_bytes: index.torn_bytes,
            set_aside_files: index.set_aside.len() as u64,
            set_aside_bytes: index.set_aside.iter().map(|file| file.bytes).sum(),
            strangers: index.strangers,
            ledger_conflicts: index.ledger_conflicts,
            asked_again: index.asked_again,
            error: self.trouble(&index),
        }
    }

    fn trouble(&self, index: &Index) -> Option<String> {
        let stalled = || {
            let now: MonoNs = self.shared.clock.monotonic();
            let since = index.writing_since.filter(|_| index.is_stalled(now))?;
            let seconds = now.since(since) as f64 / 1e9;
            Some(format!(
                "the disk stalls: a write to {} takes {seconds:.1} s",
                self.shared.limits.dir.display()
            ))
        };
        index.write_error.clone().or_else(|| index.sync_error.clone()).or_else(stalled)
    }

    /// Entries that are in memory alone: what ends with the process.
    pub fn entries_in_memory(&self) -> u64 {
        self.shared.index().memory.len() as u64
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

    /// Nothing in it is needed any more: it stops, wherever it is, and its directory can go.
    pub fn abandon(&self) {
        let mut index = self.shared.index();
        (index.abandoned, index.closed) = (true, true);
        drop(index);
        self.shared.work.notify_all();
        self.shared.room.notify_all();
    }

    /// Comes back when there may be something new to read. One waiter only.
    pub async fn readable(&self) {
        self.shared.readable.notified().await;
    }
}

impl Shared {
    /// Passes the acknowledged entries at the beginning of segments that are acknowledged in part.
    fn skim(&self) {
        let half_acked = self.index().half_acked();
        for mut at in half_acked {
            let acked = self.index().epochs[at.epoch].acked;
            let Ok(file) = File::open(self.path(at.lane, at.number)) else { continue };
            let file = SegmentFile { file, format: at.format };
            while let Ok(Step::Entry(header)) = file.step(at.at, at.end)
                && header.seq <= acked
            {
                self.index().pass_acked(&at, &header);
                at.at += header.entry_bytes();
            }
        }
    }
}

/// The two clocks behind [`Clock::suspended_ns`] are read one after the other.
const SUSPENDED_NS_TOLERANCE: u64 = 1_000_000;

/// How long somebody waits for room, or for an entry to be written, before it looks again.
const ROOM_WAIT: Duration = Duration::from_millis(100);

/// Epochs of which a Hello says what was acknowledged.
const ACKED_MAX: usize = 1024;

#[cfg(test)]
mod tests;
