//! The one that appends: numbers entries, keeps the budget, and outlives a full or failing disk.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::thread::JoinHandle;

use gnomon_clock::EpochId;

use super::encode::{self, Encoder};
use super::index::Segment;
use super::retention::{self, Space, WhenFull};
use super::segment::{
    ENTRY_HEADER_BYTES, EntryHeader, FILE_HEADER_BYTES, FileHeader, Lane, PAYLOAD_BYTES_MAX, SEAL_BYTES,
    SegmentFile, Totals,
};
use super::{ROOM_WAIT, Shared};
use crate::export::Export;

/// Tries for one entry, each after something was done about the last failure.
const WRITE_TRIES: usize = 4;

/// What became of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Appended {
    Stored(u64),
    /// It found no room, and was counted.
    Sacrificed(u64),
}

/// The segment a lane is being written to.
#[derive(Debug)]
struct Active {
    number: u64,
    epoch: usize,
    file: Arc<SegmentFile>,
    end: u64,
    totals: Totals,
}

/// Appends entries. There is one, owned by the writer thread.
pub struct Appender {
    shared: Arc<Shared>,
    active: [Option<Active>; 2],
    sync: Option<JoinHandle<()>>,
    buffer: Vec<u8>,
}

impl Appender {
    pub(super) fn new(shared: Arc<Shared>) -> Appender {
        let of_thread = Arc::clone(&shared);
        let sync =
            std::thread::Builder::new().name("spool-sync".into()).spawn(move || super::sync::run(&of_thread));
        let sync = sync.inspect_err(|error| {
            tracing::error!(%error, "cannot start the spool's sync thread: a power cut may lose what was written");
        });
        Appender { shared, active: [None, None], sync: sync.ok(), buffer: Vec::new() }
    }

    /// Appends one entry of `items` records or packets. Never fails: what finds no room is counted and reported.
    pub fn append(&mut self, lane: Lane, epoch: &EpochId, items: u32, payload: &[u8]) -> Appended {
        let (epoch, seq) = self.number(epoch);
        let header = EntryHeader {
            lane,
            seq,
            written: self.shared.clock.raw(),
            items,
            payload_bytes: u32::try_from(payload.len()).unwrap_or(u32::MAX),
            payload_crc: crc32c::crc32c(payload),
        };
        if payload.len() <= PAYLOAD_BYTES_MAX {
            let need = header.entry_bytes() + FILE_HEADER_BYTES + SEAL_BYTES;
            for _ in 0..WRITE_TRIES {
                if !self.make_room(lane, need) {
                    break;
                }
                match self.write(epoch, &header, payload) {
                    Ok(()) => {
                        self.recovered();
                        self.shared.readable.notify_one();
                        return Appended::Stored(seq);
                    }
                    Err(error) => self.failed(lane, need, &error),
                }
            }
        }
        let mut index = self.shared.index();
        index.sacrifice_entry(lane, items);
        if index.error.is_none() {
            let dir = self.shared.limits.dir.display();
            let message =
                format!("no room in {dir}: the disk or the budget is full, nothing is left to give up");
            tracing::error!("{message}; capture goes on, what finds no room is counted");
            index.error = Some(message);
        }
        drop(index);
        Appended::Sacrificed(seq)
    }

    /// What could not even be encoded still has a number: the collector sees the gap.
    fn refuse(&mut self, lane: Lane, epoch: &EpochId, items: u32) {
        self.number(epoch);
        self.shared.index().sacrifice_entry(lane, items);
    }

    fn number(&mut self, id: &EpochId) -> (usize, u64) {
        let mut index = self.shared.index();
        let epoch = index
            .epoch_index(id)
            .unwrap_or_else(|| index.add_epoch(*id, self.shared.clock.suspended_ns(), 0));
        index.epochs[epoch].last_seq += 1;
        (epoch, index.epochs[epoch].last_seq)
    }

    /// Makes `need` bytes fit the limits. False when they cannot, or nothing may go for this lane.
    fn make_room(&mut self, lane: Lane, need: u64) -> bool {
        loop {
            let shortage = self.shortage(need);
            if shortage == 0 {
                return true;
            }
            match self.shared.limits.when_full {
                WhenFull::Sacrifice => return self.sacrifice(lane, shortage),
                WhenFull::Wait => {
                    // What is sealed can be deleted when it is acknowledged.
                    self.seal_idle();
                    let index = self.shared.index();
                    drop(self.shared.room.wait_timeout(index, ROOM_WAIT));
                }
            }
        }
    }

    fn shortage(&self, need: u64) -> u64 {
        let limits = &self.shared.limits;
        // Without an answer the write itself will tell.
        let space = Space::of(&limits.dir).unwrap_or(Space { total: 0, free: u64::MAX });
        retention::shortage(limits, self.shared.index().bytes, space, need)
    }

    /// Gives up segments until `bytes` are free. False when there was not enough to give up.
    fn sacrifice(&mut self, lane: Lane, bytes: u64) -> bool {
        let mut freed = 0;
        while freed < bytes {
            let mut index = self.shared.index();
            let Some(number) = retention::victim(&index, lane) else { return false };
            let Some(segment) = index.sacrifice(number) else { return false };
            let sacrificed = index.sacrificed;
            drop(index);
            freed += segment.file_bytes;
            for active in &mut self.active {
                active.take_if(|active| active.number == number);
            }
            let path = self.shared.path(segment.lane, number);
            tracing::warn!(
                path = %path.display(), bytes = segment.file_bytes, slices = sacrificed[1].items, flows = sacrificed[0].items,
                "spool is full: gave up its oldest {}", segment.lane.name()
            );
            // The reader may hold the file open: its blocks must be free now.
            let emptied = File::options().write(true).open(&path).and_then(|file| file.set_len(0));
            if let Err(error) = emptied.and_then(|()| std::fs::remove_file(&path)) {
                tracing::error!(path = %path.display(), %error, "cannot delete a spool segment");
            }
        }
        true
    }

    /// Closes the active segments whose entries were all acknowledged.
    fn seal_idle(&mut self) {
        for lane in Lane::ALL {
            self.seal(lane);
        }
        let finished = self.shared.index().take_finished();
        self.shared.delete(&finished);
    }

    fn slot(&mut self, lane: Lane) -> &mut Option<Active> {
        match lane {
            Lane::Flows => &mut self.active[0],
            Lane::Slices => &mut self.active[1],
        }
    }

    fn write(&mut self, epoch: usize, header: &EntryHeader, payload: &[u8]) -> io::Result<()> {
        let segment_bytes = self.shared.limits.segment_bytes();
        let is_full = |active: &Active| {
            active.epoch != epoch
                || (active.totals.entries > 0 && active.end + header.entry_bytes() > segment_bytes)
        };
        if self.slot(header.lane).as_ref().is_some_and(is_full) {
            self.seal(header.lane);
        }
        let mut buffer = std::mem::take(&mut self.buffer);
        let shared = Arc::clone(&self.shared);
        let slot = self.slot(header.lane);
        let (made, active) = match slot {
            Some(active) => (false, active),
            None => (true, slot.insert(create(&shared, header.lane, epoch)?)),
        };
        buffer.clear();
        buffer.extend_from_slice(&header.encode(active.file.salt));
        buffer.extend_from_slice(payload);
        let written = active.file.file.write_all_at(&buffer, active.end);
        if written.is_ok() {
            active.end += header.entry_bytes();
            active.totals.add(header);
            let trusted = shared.sync.written(active.number, &active.file, made);
            shared.index().appended(active.number, header);
            if !trusted {
                self.seal(header.lane);
            }
        }
        self.buffer = buffer;
        written
    }

    /// Does something about a failed write, so that the next one may succeed.
    fn failed(&mut self, lane: Lane, need: u64, error: &io::Error) {
        let message = format!("cannot write to {}: {error}", self.shared.limits.dir.display());
        let known = self.shared.index().error.replace(message.clone());
        if known.is_none() {
            tracing::error!("{message}; capture goes on, what finds no room is counted");
        }
        let is_full = matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
        let slot = self.slot(lane);
        let cut = slot.as_ref().is_none_or(|active| active.file.file.set_len(active.end).is_ok());
        if !is_full || !cut {
            // This file is not to be trusted any more; what it holds stays readable.
            if let Some(active) = slot.take() {
                self.shared.index().sealed(active.number, active.end);
            }
        }
        if is_full && self.shared.limits.when_full == WhenFull::Sacrifice {
            self.sacrifice(lane, need);
        }
    }

    fn recovered(&self) {
        if let Some(error) = self.shared.index().error.take() {
            tracing::info!(last = %error, "the spool takes entries again");
        }
    }

    /// Closes the segment a lane is written to.
    fn seal(&mut self, lane: Lane) {
        let Some(active) = self.slot(lane).take() else { return };
        let sealed = write_seal(&active.file.file, &active.totals, active.end);
        let file_bytes = if sealed.is_ok() { active.end + SEAL_BYTES } else { active.end };
        self.shared.sync.written(active.number, &active.file, false);
        self.shared.index().sealed(active.number, file_bytes);
        let finished = self.shared.index().take_finished();
        self.shared.delete(&finished);
    }
}

impl Drop for Appender {
    /// Closes the files and waits until they are on the disk.
    fn drop(&mut self) {
        for lane in Lane::ALL {
            self.seal(lane);
        }
        self.shared.sync.close();
        if let Some(sync) = self.sync.take() {
            let _ = sync.join();
        }
    }
}

fn create(shared: &Shared, lane: Lane, epoch: usize) -> io::Result<Active> {
    let mut index = shared.index();
    let number = index.next_number;
    index.next_number += 1;
    let header = FileHeader {
        lane,
        number,
        epoch: index.epochs[epoch].id,
        suspended_ns: index.epochs[epoch].suspended_ns,
    };
    drop(index);
    let path = shared.path(lane, number);
    let file = File::options().read(true).write(true).create_new(true).open(&path)?;
    if let Err(error) = file.write_all_at(&header.encode(), 0) {
        let _ = std::fs::remove_file(&path);
        return Err(error);
    }
    let salt = header.salt();
    let totals = Totals::default();
    shared.index().insert(number, Segment::new(lane, epoch, salt, totals, FILE_HEADER_BYTES));
    Ok(Active { number, epoch, file: Arc::new(SegmentFile { file, salt }), end: FILE_HEADER_BYTES, totals })
}

/// Ends a file at `end` with its seal; without room for it, the file is read through when it is opened again.
pub(super) fn write_seal(file: &File, totals: &Totals, end: u64) -> io::Result<()> {
    let sealed = file.write_all_at(&totals.seal(), end);
    if sealed.is_err() {
        let _ = file.set_len(end);
    }
    sealed
}

/// The writer thread: takes what workers hand over, encodes it and appends it.
pub struct Writer {
    appender: Appender,
    encoder: Encoder,
}

impl Writer {
    /// # Errors
    /// When zstd refuses the level.
    pub fn new(appender: Appender, zstd_level: i32) -> io::Result<Writer> {
        Ok(Writer { appender, encoder: Encoder::new(zstd_level)? })
    }

    /// Runs until every worker is gone; `done` gets each hand-over back, for its buffers.
    pub fn run(mut self, exports: &Receiver<Export>, mut done: impl FnMut(Export)) {
        while let Ok(export) = exports.recv() {
            self.store(&export);
            done(export);
        }
    }

    /// Encodes and appends one hand-over.
    pub fn store(&mut self, export: &Export) {
        let Writer { appender, encoder } = self;
        let encoded = encoder.encode(&export.interface, &export.body, &mut |payload| {
            appender.append(payload.lane, &export.epoch, payload.items, payload.bytes);
        });
        if let Err(error) = encoded {
            let (lane, items) = encode::items(&export.body);
            tracing::error!(interface = %export.interface, %error, items, "cannot encode {} for the spool", lane.name());
            appender.refuse(lane, &export.epoch, items);
        }
    }
}

const _: () = assert!(ENTRY_HEADER_BYTES + (PAYLOAD_BYTES_MAX as u64) < u32::MAX as u64);
