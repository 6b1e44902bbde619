//! Making room: limits in bytes and of free space, kept before anything is written.
//!
//! Packets go first, whole segment files at a time, the oldest first; then flow records, in the order they came in. None
//! of it asks what time it is. When nothing more may go, ingest stops ([`StoreError::Full`]) and the agents keep what they
//! have; it goes on by itself when there is room again.

use std::collections::BTreeMap;
use std::path::Path;

use gnomon_flow::TimeState;

use super::envelope::{numbers, numbers_of};
use super::keys::{self, Family};
use super::rocks::{Batch, Rocks};
use super::segments::{HEADER_BYTES, path_of};
use super::writer::Writer;
use super::{Shared, StoreError};

/// Between looks at the size of the database, and between prunings.
const LOOK_NS: u64 = 10_000_000_000;
/// The same while there is too little room: ingest stands until there is more.
const LOOK_SHORT_NS: u64 = 1_000_000_000;
/// Blocks of records given up in one pruning: one in so many, and at least one.
const PRUNE_ONE_IN: usize = 20;
/// Bytes of the write-ahead log after which memtables are flushed to let it go: an open after a crash reads it all.
pub(super) const LOG_BYTES_MAX: u64 = 96 << 20;
const LOG_BYTES_MIN: u64 = 8 << 20;
const SEGMENT_BYTES_MAX: u64 = 256 << 20;
const SEGMENT_BYTES_MIN: u64 = 1 << 20;

/// How much the store may take. Bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Of segment files.
    pub packets_bytes_max: u64,
    /// Of the database.
    pub flows_bytes_max: u64,
    /// Below this, want of free space alone gives up no flow records.
    pub flows_bytes_kept: u64,
    /// Left free on the file system.
    pub free_bytes_min: u64,
    /// Packets written longer ago are given up; `None`: only for space.
    pub packets_age_ns_max: Option<u64>,
    /// The same for flow records, by when they came in and were captured.
    pub flows_age_ns_max: Option<u64>,
}

impl Limits {
    /// Of the database's log, which comes on top of what it keeps.
    pub(super) fn log_bytes(&self) -> u64 {
        (self.flows_bytes_max / 8).clamp(LOG_BYTES_MIN, LOG_BYTES_MAX)
    }

    /// A file is an eighth of the limit at most, so that the oldest eighth goes at once at worst.
    pub(super) fn segment_bytes(&self) -> u64 {
        (self.packets_bytes_max / 8).clamp(SEGMENT_BYTES_MIN, SEGMENT_BYTES_MAX)
    }
}

/// Bytes the file system of `dir` has free for us.
pub(super) fn free_bytes(dir: &Path) -> Result<u64, StoreError> {
    let stat = rustix::fs::statvfs(dir)
        .map_err(|e| StoreError::Directory { path: dir.to_owned(), source: e.into() })?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Packets and bytes of each segment file, and when it was written last, as the database has it.
pub(super) fn segment_table(rocks: &Rocks) -> Result<BTreeMap<u32, [u64; 3]>, StoreError> {
    let mut table = BTreeMap::new();
    rocks.walk(Family::Segments, &[], |key, value| {
        let Some(number) = keys::segment_of(key) else { return Ok(()) };
        // Without when it was written, in stores of before that was kept.
        let row = match numbers_of::<2>("a segment", value) {
            Ok([packets, bytes]) => [packets, bytes, 0],
            Err(_) => numbers_of("a segment", value)?,
        };
        table.insert(number, row);
        Ok(())
    })?;
    Ok(table)
}

impl Writer {
    /// Takes up the files that are there and the database does not know of, and begins a new one behind them.
    pub(super) fn adopt_segments(&mut self) -> Result<(), StoreError> {
        let dir = self.shared.dir.join("segments");
        let mut batch = Batch::default();
        let position = self.segments.position();
        for number in self.shared.segments.numbers().into_iter().filter(|number| *number < position.number) {
            let bytes = path_of(&dir, number).metadata().map_or(0, |file| file.len());
            let row = self.table.entry(number).or_default();
            row[1] = row[1].max(bytes.saturating_sub(HEADER_BYTES as u64));
            batch.put(Family::Segments, keys::segment(number), numbers(*row));
        }
        batch.put(Family::Meta, keys::META_SEGMENT, position.encode());
        Ok(self.shared.rocks.write(&batch, true)?)
    }

    /// Forget segment files that are gone.
    pub(super) fn load_segments(&mut self) -> Result<(), StoreError> {
        let dir = self.shared.dir.join("segments");
        let mut batch = Batch::default();
        self.table.retain(|number, _| {
            let there = path_of(&dir, *number).exists();
            if !there {
                batch.delete(Family::Segments, keys::segment(*number));
            }
            there
        });
        if !batch.is_empty() {
            self.write(&batch, false)?;
        }
        self.count_packets();
        Ok(())
    }

    /// Bring the totals in line with the table of segment files.
    fn count_packets(&self) {
        let mut totals = self.shared.totals.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        [totals.slice_packets, totals.slice_bytes] =
            self.table.values().fold([0; 2], |sum, row| [sum[0] + row[0], sum[1] + row[1]]);
    }

    /// Keep the limits, so that what comes next can be written.
    pub(super) fn make_room(&mut self) -> Result<(), StoreError> {
        let packets = |shared: &Shared| shared.totals().slice_bytes + shared.segments.index_bytes();
        while packets(&self.shared) > self.limits.packets_bytes_max && self.drop_oldest_segment()? {}
        let mut free = free_bytes(&self.shared.dir)?;
        while free < self.limits.free_bytes_min && self.drop_oldest_segment()? {
            free = free_bytes(&self.shared.dir)?;
        }
        let now = self.shared.gate.monotonic();
        let short = free < self.limits.free_bytes_min;
        let every = if short { LOOK_SHORT_NS } else { LOOK_NS };
        let due = self.pruned_at.is_none_or(|at| now.since(at) >= every);
        if due {
            self.pruned_at = Some(now);
            let bytes = self.shared.rocks.bytes();
            if bytes > self.limits.flows_bytes_max || short && bytes > self.limits.flows_bytes_kept {
                self.prune()?;
            }
        }
        if short {
            return Err(StoreError::Full {
                path: self.shared.dir.clone(),
                free_bytes: free,
                wanted_bytes: self.limits.free_bytes_min,
            });
        }
        Ok(())
    }

    /// False when only the file being written is left.
    pub(super) fn drop_oldest_segment(&mut self) -> Result<bool, StoreError> {
        let current = self.segments.position().number;
        let Some((&number, &[packets, bytes, _])) = self.table.iter().next().filter(|(n, _)| **n != current)
        else {
            return Ok(false);
        };
        self.shared.segments.remove(number)?;
        self.table.remove(&number);
        self.count_packets();
        tracing::info!(segment = number, packets, bytes, "gave up the oldest packets for space");
        let mut batch = Batch::default();
        batch.delete(Family::Segments, keys::segment(number));
        if let Err(error) = self.shared.rocks.write(&batch, false) {
            // The file is gone, which the next open sees.
            tracing::debug!(%error, "cannot note that a segment is gone");
        }
        Ok(true)
    }

    /// Give up the blocks of flow records that were made first; where there is none, one is made.
    fn prune(&mut self) -> Result<(), StoreError> {
        if self.shared.live().blocks().is_empty() {
            let indexed = self.shared.live().counts.indexed > 0;
            let rows = self.select(|flow| (flow.time_state == TimeState::Indexed) == indexed);
            if rows.is_empty() {
                return Ok(());
            }
            self.checkpoint(rows, &[])?;
        }
        let oldest: Vec<_> = {
            let live = self.shared.live();
            let many = live.blocks().len().div_ceil(PRUNE_ONE_IN).max(1);
            live.blocks().iter().take(many).map(|block| (block.id, block.records())).collect()
        };
        let ids: Vec<u64> = oldest.iter().map(|(id, _)| *id).collect();
        self.drop_blocks(&ids)?;
        let records: u64 = oldest.iter().map(|(_, records)| records).sum();
        tracing::info!(records, "gave up the oldest flow records for space");
        Ok(())
    }
}
