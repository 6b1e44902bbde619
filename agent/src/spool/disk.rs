//! The disk thread: writes what is in memory to segments, many entries at a time, keeps the budget, and outlives a disk
//! that is full, fails, stalls or turns read-only. What it cannot write stays in memory, and it tries again.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::index::Segment;
use super::memory::ToWrite;
use super::retention::{self, Shortage, Space, Victim, WhenFull};
use super::segment::{
    ENTRY_HEADER_BYTES, FILE_HEADER_BYTES, FileHeader, Lane, PAYLOAD_BYTES_MAX, SEAL_BYTES, SegmentFile,
    Totals,
};
use super::{ROOM_WAIT, Shared, epoch, sync};
use crate::private;

/// Tries for one write, each after something was done about the last failure.
const WRITE_TRIES: usize = 4;
/// Bytes written at once: large enough for any disk, small enough that what waits behind is not late.
const WRITE_BYTES_MAX: u64 = 4 << 20;
/// How long a disk that said no is left alone: at first, and at most.
const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(2);
/// Room is set aside for a segment where the disk has so many times as much free beyond its reserve.
const PREALLOCATE_SHARE: u64 = 16;
/// How long the end of the process waits for a disk that stalls.
const FINISH_WAIT: Duration = Duration::from_secs(10);

/// The segment a lane is being written to.
#[derive(Debug)]
struct Active {
    number: u64,
    epoch: usize,
    header: [u8; FILE_HEADER_BYTES as usize],
    file: Arc<SegmentFile>,
    end: u64,
    totals: Totals,
    preallocated: bool,
}

/// What a thread of the spool does.
type Work = fn(&Arc<Shared>);

/// The disk thread and the one that syncs behind it.
pub(super) struct Threads {
    running: Vec<(JoinHandle<()>, Receiver<()>)>,
}

impl Threads {
    pub(super) fn start(shared: &Arc<Shared>) -> Threads {
        let mut running = Vec::new();
        let threads: [(&str, Work); 2] = [("spool-disk", run), ("spool-sync", |shared| sync::run(shared))];
        for (name, run) in threads {
            let shared = Arc::clone(shared);
            let (ended, ends) = mpsc::channel();
            let work = move || {
                run(&shared);
                drop(ended);
            };
            match std::thread::Builder::new().name(name.into()).spawn(work) {
                Ok(thread) => running.push((thread, ends)),
                Err(error) => {
                    tracing::error!(%error, "cannot start the thread {name}: what is captured is not on the disk");
                }
            }
        }
        Threads { running }
    }

    pub(super) fn finish(&mut self, shared: &Shared) {
        let waits = shared.limits.when_full == WhenFull::Wait;
        for (thread, ends) in self.running.drain(..) {
            if !waits && ends.recv_timeout(FINISH_WAIT) == Err(mpsc::RecvTimeoutError::Timeout) {
                let dir = shared.limits.dir.display();
                tracing::error!("the disk of {dir} does not move: what is in memory is not written");
                shared.sync.close();
                return;
            }
            let _ = thread.join();
            shared.sync.close();
        }
    }
}

fn run(shared: &Arc<Shared>) {
    let mut disk = Disk {
        shared: Arc::clone(shared),
        active: [None, None],
        buffer: Vec::new(),
        retry: RETRY_MIN,
        no_room: false,
    };
    loop {
        let closed = disk.wait();
        if disk.shared.index().abandoned {
            return;
        }
        let went = disk.write_all();
        if closed {
            break;
        }
        if !went {
            disk.pause();
        }
    }
    if disk.shared.index().abandoned {
        return;
    }
    for lane in Lane::ALL {
        disk.seal(lane);
    }
    disk.shared.dispose();
    disk.shared.rewrite_ledger();
}

struct Disk {
    shared: Arc<Shared>,
    active: [Option<Active>; 2],
    buffer: Vec<u8>,
    retry: Duration,
    /// Something was given up in this round, because there was no room for it.
    no_room: bool,
}

/// Why a batch is not on the disk.
enum Refused {
    /// The room is full of what is worth more.
    NoRoom,
    Disk(io::Error),
}

impl Disk {
    /// Waits until there is something to write. True when nothing more comes.
    fn wait(&self) -> bool {
        let index = self.shared.index();
        let waited = self.shared.work.wait_while(index, |index| index.memory.is_empty() && !index.closed);
        waited.unwrap_or_else(PoisonError::into_inner).closed
    }

    /// Leaves a disk alone that said no.
    fn pause(&mut self) {
        let index = self.shared.index();
        let waited =
            self.shared.work.wait_timeout_while(index, self.retry, |index| !index.hurry && !index.closed);
        waited.unwrap_or_else(PoisonError::into_inner).0.hurry = false;
        self.retry = (self.retry * 2).min(RETRY_MAX);
    }

    /// Writes until nothing is left in memory. False when the disk said no.
    fn write_all(&mut self) -> bool {
        self.shared.index().in_round = true;
        let went = self.write_round();
        self.shared.index().in_round = false;
        self.shared.progress.notify_all();
        went
    }

    fn write_round(&mut self) -> bool {
        let mut refused = None;
        self.no_room = false;
        loop {
            let mut wrote = false;
            // A lane that is refused does not hold up the other.
            for lane in Lane::ALL {
                match self.write_some(lane) {
                    Ok(some) => wrote |= some,
                    Err(error) => refused = Some(error),
                }
            }
            if refused.is_some() || !wrote {
                break;
            }
        }
        let dir = self.shared.limits.dir.display();
        let mut index = self.shared.index();
        let Some(error) = refused else {
            self.retry = RETRY_MIN;
            if self.no_room {
                let message =
                    format!("no room in {dir}: the disk or the budget is full, nothing is left to give up");
                if index.write_error.replace(message.clone()).is_none() {
                    tracing::error!("{message}; capture goes on, what finds no room is counted");
                }
                return true;
            }
            if let Some(last) = index.write_error.take() {
                tracing::info!(%last, "the spool's disk takes entries again");
            }
            return true;
        };
        let message = format!("cannot write to {dir}: {error}");
        if index.abandoned {
            return false;
        }
        let known = index.write_error.replace(message.clone());
        index.refusals += 1;
        // Whoever waits for an entry to be on the disk is told: it is in memory, and may be for long.
        index.memory.tell_all();
        drop(index);
        if known.is_none() {
            tracing::error!(
                "{message}; capture goes on, what is captured is sent from memory, and counted where it finds no room there"
            );
        }
        self.shared.readable.notify_one();
        false
    }

    /// Writes the first entries of a lane. False when there are none.
    fn write_some(&mut self, lane: Lane) -> io::Result<bool> {
        let Some((epoch, first_bytes)) =
            self.shared.index().memory.first(lane).map(|((epoch, _), header)| (epoch, header.entry_bytes()))
        else {
            return Ok(false);
        };
        let segment_bytes = self.shared.limits.segment_bytes();
        let is_full = |active: &Active| {
            active.epoch != epoch || (active.totals.entries > 0 && active.end + first_bytes > segment_bytes)
        };
        if self.slot(lane).as_ref().is_some_and(is_full) {
            self.seal(lane);
        }
        let end = self.slot(lane).as_ref().map_or(FILE_HEADER_BYTES, |active| active.end);
        let mut bytes_max = segment_bytes.saturating_sub(end).min(WRITE_BYTES_MAX);
        loop {
            let batch = self.shared.index().memory.begin_write(lane, bytes_max);
            let Some(first) = batch.first() else { return Ok(false) };
            let written = self.write_batch(lane, epoch, &batch);
            let mut index = self.shared.index();
            index.memory.written(lane);
            match written {
                Ok(()) => {}
                Err(Refused::NoRoom) if batch.len() > 1 => {
                    // The first by itself may fit.
                    bytes_max = 0;
                    continue;
                }
                Err(Refused::NoRoom) => {
                    self.no_room = true;
                    index.last_refused = Some(first.key);
                    index.sacrifice_held(lane, first.key);
                }
                Err(Refused::Disk(error)) => return Err(error),
            }
            drop(index);
            self.shared.room.notify_all();
            self.shared.readable.notify_one();
            return Ok(true);
        }
    }

    fn write_batch(&mut self, lane: Lane, epoch: usize, batch: &[ToWrite]) -> Result<(), Refused> {
        let bytes: u64 = batch.iter().map(|entry| entry.header.entry_bytes()).sum();
        let need = bytes + FILE_HEADER_BYTES + SEAL_BYTES;
        let mut last = None;
        for _ in 0..WRITE_TRIES {
            self.make_room(lane, need)?;
            match self.write(lane, epoch, batch) {
                Ok(()) => return Ok(()),
                Err(error) => {
                    self.failed(lane, need, &error);
                    last = Some(error);
                }
            }
        }
        Err(Refused::Disk(last.unwrap_or_else(|| io::ErrorKind::Other.into())))
    }

    /// Makes `need` bytes fit the limits.
    fn make_room(&mut self, lane: Lane, need: u64) -> Result<(), Refused> {
        loop {
            let shortage = self.shortage(need);
            if shortage.bytes() == 0 {
                return Ok(());
            }
            if self.shared.limits.when_full == WhenFull::Sacrifice {
                if self.sacrifice(lane, shortage.bytes()) {
                    return Ok(());
                }
                // What others filled may be free again soon; what the spool itself did, only once the collector is there.
                let own = self.shared.index().pending_bytes(Lane::Flows);
                if self.shortage(need).budget > 0 || (lane == Lane::Slices && own >= need) {
                    return Err(Refused::NoRoom);
                }
                return Err(Refused::Disk(io::Error::new(
                    io::ErrorKind::StorageFull,
                    "the disk is full, and nothing of the spool is left to give up",
                )));
            }
            // What is sealed can be deleted when it is acknowledged.
            Lane::ALL.into_iter().for_each(|lane| self.seal(lane));
            self.shared.dispose();
            let index = self.shared.index();
            if index.abandoned {
                return Err(Refused::Disk(io::ErrorKind::Interrupted.into()));
            }
            drop(self.shared.room.wait_timeout(index, ROOM_WAIT));
        }
    }

    fn shortage(&self, need: u64) -> Shortage {
        let limits = &self.shared.limits;
        // Without an answer the write itself will tell.
        let space = Space::of(&limits.dir).unwrap_or(Space { total: 0, free: u64::MAX });
        retention::shortage(limits, self.shared.index().bytes, space, need)
    }

    /// Gives up files until `bytes` are free. False when there was not enough to give up.
    fn sacrifice(&mut self, lane: Lane, bytes: u64) -> bool {
        let shared = Arc::clone(&self.shared);
        let _stall = Stall::begin(&shared);
        let mut freed = 0;
        while freed < bytes {
            let mut index = self.shared.index();
            let (path, file_bytes) = match retention::victim(&index, lane) {
                None => return false,
                Some(Victim::SetAside) => {
                    let Some(file) = index.take_set_aside() else { return false };
                    drop(index);
                    let path = self.shared.limits.dir.join(file.name);
                    tracing::warn!(path = %path.display(), bytes = file.bytes, "spool is full: deleting a file that cannot be read");
                    (path, file.bytes)
                }
                Some(Victim::Segment(number)) => {
                    let Some(segment) = index.sacrifice(number) else { return false };
                    let sacrificed = index.sacrificed;
                    drop(index);
                    for active in &mut self.active {
                        active.take_if(|active| active.number == number);
                    }
                    let path = self.shared.path(segment.lane, number);
                    if segment.pending().entries > 0 {
                        tracing::warn!(
                            path = %path.display(), bytes = segment.file_bytes, slices = sacrificed[1].items, flows = sacrificed[0].items,
                            "spool is full: gave up its oldest {}", segment.lane.name()
                        );
                    }
                    (path, segment.file_bytes)
                }
            };
            freed += file_bytes;
            // The reader may hold the file open: its blocks must be free now.
            let emptied = File::options().write(true).open(&path).and_then(|file| file.set_len(0));
            if let Err(error) = emptied.and_then(|()| std::fs::remove_file(&path)) {
                tracing::error!(path = %path.display(), %error, "cannot delete a spool segment");
            }
        }
        true
    }

    fn slot(&mut self, lane: Lane) -> &mut Option<Active> {
        &mut self.active[lane.index()]
    }

    fn write(&mut self, lane: Lane, epoch: usize, batch: &[ToWrite]) -> io::Result<()> {
        let shared = Arc::clone(&self.shared);
        let mut buffer = std::mem::take(&mut self.buffer);
        let slot = self.slot(lane);
        let _stall = Stall::begin(&shared);
        let (made, active) = match slot {
            Some(active) => (false, active),
            None => (true, slot.insert(create(&shared, lane, epoch)?)),
        };
        buffer.clear();
        for entry in batch {
            buffer.extend_from_slice(&entry.header.encode(&active.header));
            buffer.extend_from_slice(&entry.payload);
        }
        let written = active.file.file.write_all_at(&buffer, active.end);
        if written.is_ok() {
            active.end += buffer.len() as u64;
            let trusted = shared.sync.written(active.number, &active.file, made);
            let mut index = shared.index();
            for entry in batch {
                active.totals.add(&entry.header);
                index.stored(active.number, entry.key, &entry.header);
            }
            drop(index);
            if !trusted {
                self.seal(lane);
            }
        }
        self.buffer = buffer;
        written
    }

    /// Does something about a failed write, so that the next one may succeed.
    fn failed(&mut self, lane: Lane, need: u64, error: &io::Error) {
        let is_full = matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
        let slot = self.slot(lane);
        let cut = slot.as_ref().is_none_or(|active| active.file.file.set_len(active.end).is_ok());
        if !is_full || !cut {
            // This file is not to be trusted any more; what it holds stays readable, and one that holds nothing goes.
            if let Some(active) = slot.take() {
                self.shared.index().sealed(active.number, active.end);
                self.shared.dispose();
            }
        }
        if is_full && self.shared.limits.when_full == WhenFull::Sacrifice {
            self.sacrifice(lane, need);
        }
    }

    /// Closes the segment a lane is written to.
    fn seal(&mut self, lane: Lane) {
        let Some(active) = self.slot(lane).take() else { return };
        let _stall = Stall::begin(&self.shared);
        let sealed = write_seal(&active.file.file, &active.totals, active.end);
        let file_bytes = if sealed.is_ok() { active.end + SEAL_BYTES } else { active.end };
        if active.preallocated {
            // What was set aside and not used is free again.
            let _ = active.file.file.set_len(file_bytes);
        }
        self.shared.sync.written(active.number, &active.file, false);
        self.shared.index().sealed(active.number, file_bytes);
        self.shared.dispose();
    }
}

/// While it lives the disk thread is in calls that may take long.
struct Stall<'a>(&'a Shared);

impl Stall<'_> {
    fn begin(shared: &Shared) -> Stall<'_> {
        let now = shared.clock.monotonic();
        shared.index().writing_since.get_or_insert(now);
        Stall(shared)
    }
}

impl Drop for Stall<'_> {
    fn drop(&mut self) {
        let now = self.0.clock.monotonic();
        let mut index = self.0.index();
        let stalled = index.is_stalled(now);
        index.writing_since = None;
        drop(index);
        if stalled {
            // What the uplink left undone meanwhile.
            self.0.skim();
            self.0.dispose();
            self.0.rewrite_ledger();
        }
    }
}

fn create(shared: &Shared, lane: Lane, epoch: usize) -> io::Result<Active> {
    let mut index = shared.index();
    let number = index.next_number;
    index.next_number += 1;
    let epoch::Epoch { id, suspended_ns, .. } = index.epochs[epoch];
    drop(index);
    let header = FileHeader::new(lane, number, id, suspended_ns);
    let path = shared.path(lane, number);
    let file = private::create_new(&path)?;
    let encoded = header.encode();
    if let Err(error) = file.write_all_at(&encoded, 0) {
        let _ = std::fs::remove_file(&path);
        return Err(error);
    }
    let preallocated = preallocate(shared, &file);
    let totals = Totals::default();
    let end = FILE_HEADER_BYTES;
    shared.index().insert(number, Segment::new(lane, epoch, header.format(), totals, end));
    let file = Arc::new(SegmentFile { file, format: header.format() });
    Ok(Active { number, epoch, header: encoded, file, end, totals, preallocated })
}

/// Sets the room of a whole segment aside in one piece, where the disk has plenty. What cannot do that does without.
fn preallocate(shared: &Shared, file: &File) -> bool {
    let limits = &shared.limits;
    let bytes = limits.segment_bytes() + SEAL_BYTES;
    let plenty = Space::of(&limits.dir).is_ok_and(|space| {
        let used = shared.index().bytes;
        retention::shortage(limits, used, space, bytes.saturating_mul(PREALLOCATE_SHARE)).bytes() == 0
    });
    plenty && rustix::fs::fallocate(file, rustix::fs::FallocateFlags::KEEP_SIZE, 0, bytes).is_ok()
}

/// Ends a file at `end` with its seal; without room for it, the file is read through when it is opened again.
pub(super) fn write_seal(file: &File, totals: &Totals, end: u64) -> io::Result<()> {
    let sealed = file.write_all_at(&totals.seal(), end);
    if sealed.is_err() {
        let _ = file.set_len(end);
    }
    sealed
}

const _: () = assert!(ENTRY_HEADER_BYTES + (PAYLOAD_BYTES_MAX as u64) < u32::MAX as u64);
