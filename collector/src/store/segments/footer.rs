//! The index of a segment file on disk: behind the frames of a sealed file, or in a file of its own beside one that has
//! none or whose own is damaged.
//!
//! ```text
//! footer:  frames     pages of 32-byte rows, in the order of the file:
//!                     offset 8, first RAW 8, last RAW 8, bytes 4, epoch 4 (its place in the directory)
//!          entries    pages of 12-byte rows, rising by (epoch's place, flow, frame):
//!                     flow 8, frame 4 (its row)
//!          fences     CRC-32C 4, then for each page of entries the flow of its first one, 8
//!          directory  end of the chain before the file 32, at its end 32 (zeros: not known)
//!                     where the frames end 8, frames 4, entries 4, epochs 4, reserved 4
//!                     for each epoch, rising: epoch 8, first RAW 8, last RAW 8, first of its entries 4, entries 4,
//!                                             workers 4, then for each worker: lowest flow 8, highest flow 8
//!          trailer    where the footer begins 8, bytes of the directory 4, number of the file 4, version 4 (1),
//!                     CRC-32C of the directory and of the trailer up to here 4, "GNFOOTER"
//! ```
//! Integers are little endian.
//!
//! The directory is kept in memory: some hundred bytes for each agent with packets in the file. One flow costs a read of
//! the fences (a five-hundredth of the entries), one of a page of entries and one of a page of frames.

use std::fs::File;
use std::os::unix::fs::FileExt;

use gnomon_clock::RawNs;
use gnomon_flow::{EpochHash, FlowId};

use super::chain::Chain;
use super::find::{FlowSpan, Hits};
use super::memory_index::{FrameRow, MemoryIndex};
use super::pages::{Pages, Unreadable, append_checked, read_checked};

const MAGIC: &[u8; 8] = b"GNFOOTER";
const VERSION: u32 = 1;
const TRAILER_BYTES: usize = 32;
/// Of the trailer, what its checksum covers.
const CHECKED_BYTES: usize = 20;
const DIRECTORY_BYTES: usize = 88;
const EPOCH_BYTES: usize = 36;
/// More is damage: so much takes a file in which nearly every frame is of another agent.
const DIRECTORY_BYTES_MAX: usize = 128 << 20;
const FRAME_ROW: usize = 32;
const ENTRY_ROW: usize = 12;

type FramePages = Pages<FRAME_ROW>;
type EntryPages = Pages<ENTRY_ROW>;

/// What a file has of one epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
struct EpochPart {
    epoch: EpochHash,
    first: RawNs,
    last: RawNs,
    entries_first: u32,
    entries: u32,
    /// Lowest and highest flow of each worker.
    workers: Vec<(FlowId, FlowId)>,
}

impl EpochPart {
    /// Those of `wanted` that are of this epoch, and the place of their first.
    fn of_epoch<'w>(&self, wanted: &'w [FlowSpan]) -> (usize, &'w [FlowSpan]) {
        let from = wanted.partition_point(|span| span.epoch < self.epoch);
        let to = wanted.partition_point(|span| span.epoch <= self.epoch);
        (from, wanted.get(from..to).unwrap_or_default())
    }

    fn may_have(&self, span: &FlowSpan) -> bool {
        span.first <= self.last
            && span.last >= self.first
            && self.workers.iter().any(|(low, high)| (low..=high).contains(&&span.flow))
    }
}

/// A footer's directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Footer {
    pub(super) before: Chain,
    pub(super) chain: Chain,
    /// Where the frames end.
    pub(super) frames_end: u64,
    /// Bytes of the footer.
    pub(super) len: u64,
    frames: FramePages,
    entries: EntryPages,
    fences_at: u64,
    epochs: Vec<EpochPart>,
}

/// What a footer is made of.
pub(super) struct Sealing<'a> {
    pub(super) number: u32,
    pub(super) before: Chain,
    pub(super) chain: Chain,
    pub(super) frames_end: u64,
    pub(super) index: &'a MemoryIndex,
}

impl Sealing<'_> {
    /// The footer's bytes, to be written at `offset`.
    pub(super) fn encode(&self, offset: u64) -> Vec<u8> {
        let index = self.index;
        // Places of the epochs when they are in order.
        let mut order: Vec<u32> = (0..index.epochs().len() as u32).collect();
        order.sort_unstable_by_key(|number| index.epochs()[*number as usize]);
        let mut place_of = vec![0u32; order.len()];
        order.iter().zip(0..).for_each(|(number, place)| place_of[*number as usize] = place);

        let mut entries: Vec<(u32, FlowId, u32)> =
            index.entries().map(|(epoch, flow, frame)| (place_of[epoch as usize], flow, frame)).collect();
        entries.sort_unstable();
        let mut parts: Vec<EpochPart> = order
            .iter()
            .map(|number| EpochPart {
                epoch: index.epochs()[*number as usize],
                first: RawNs(u64::MAX),
                last: RawNs(0),
                entries_first: 0,
                entries: 0,
                workers: Vec::new(),
            })
            .collect();
        for frame in index.frames() {
            let part = &mut parts[place_of[frame.epoch as usize] as usize];
            part.first = part.first.min(frame.first);
            part.last = part.last.max(frame.last);
        }
        for (at, (place, flow, _)) in (0u32..).zip(&entries) {
            let part = &mut parts[*place as usize];
            if part.entries == 0 {
                part.entries_first = at;
            }
            part.entries += 1;
            // Rising flows come worker by worker.
            match part.workers.last_mut() {
                Some((low, high)) if low.worker() == flow.worker() => *high = *flow,
                _ => part.workers.push((*flow, *flow)),
            }
        }

        let mut out = Vec::new();
        FramePages::append(
            index.frames().iter().map(|frame| frame_row(frame, place_of[frame.epoch as usize])),
            &mut out,
        );
        EntryPages::append(entries.iter().map(|(_, flow, frame)| entry_row(*flow, *frame)), &mut out);
        let fences: Vec<u8> = entries
            .iter()
            .step_by(EntryPages::ROWS as usize)
            .flat_map(|(_, flow, _)| flow.0.to_le_bytes())
            .collect();
        append_checked(&fences, &mut out);

        let directory_at = out.len();
        out.extend_from_slice(&self.before.0);
        out.extend_from_slice(&self.chain.0);
        out.extend(self.frames_end.to_le_bytes());
        for count in [index.frames().len(), entries.len(), parts.len(), 0] {
            out.extend((count as u32).to_le_bytes());
        }
        for part in &parts {
            for field in [part.epoch.0, part.first.0, part.last.0] {
                out.extend(field.to_le_bytes());
            }
            for field in [part.entries_first, part.entries, part.workers.len() as u32] {
                out.extend(field.to_le_bytes());
            }
            for (low, high) in &part.workers {
                out.extend(low.0.to_le_bytes());
                out.extend(high.0.to_le_bytes());
            }
        }
        let directory_len = (out.len() - directory_at) as u32;
        out.extend(offset.to_le_bytes());
        for field in [directory_len, self.number, VERSION] {
            out.extend(field.to_le_bytes());
        }
        let checksum = crc32c::crc32c(&out[directory_at..]);
        out.extend(checksum.to_le_bytes());
        out.extend_from_slice(MAGIC);
        out
    }
}

fn frame_row(frame: &FrameRow, epoch: u32) -> [u8; FRAME_ROW] {
    let mut row = [0; FRAME_ROW];
    row[..8].copy_from_slice(&frame.offset.to_le_bytes());
    row[8..16].copy_from_slice(&frame.first.0.to_le_bytes());
    row[16..24].copy_from_slice(&frame.last.0.to_le_bytes());
    row[24..28].copy_from_slice(&frame.len.to_le_bytes());
    row[28..].copy_from_slice(&epoch.to_le_bytes());
    row
}

fn entry_row(flow: FlowId, frame: u32) -> [u8; ENTRY_ROW] {
    let mut row = [0; ENTRY_ROW];
    row[..8].copy_from_slice(&flow.0.to_le_bytes());
    row[8..].copy_from_slice(&frame.to_le_bytes());
    row
}

/// Fields one after another, from bytes that may be anything.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*taken)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }
}

impl Footer {
    /// The footer at the end of `file`; `None` where the file ends otherwise.
    pub(super) fn load(file: &File, number: u32) -> Result<Option<Footer>, Unreadable> {
        let len = file.metadata()?.len();
        let mut trailer = [0; TRAILER_BYTES];
        let Some(trailer_at) = len.checked_sub(TRAILER_BYTES as u64) else { return Ok(None) };
        file.read_exact_at(&mut trailer, trailer_at)?;
        if !trailer.ends_with(MAGIC) {
            return Ok(None);
        }
        let damaged = |problem: &str| Unreadable::Damaged(problem.to_owned());
        let mut fields = Fields(&trailer);
        let parsed = (|| Some((fields.u64()?, fields.u32()?, fields.u32()?, fields.u32()?, fields.u32()?)))();
        let (begin, directory_len, of, version, checksum) =
            parsed.ok_or_else(|| damaged("its end is cut"))?;
        let directory_len = directory_len as usize;
        let directory_at = trailer_at.checked_sub(directory_len as u64).filter(|at| *at >= begin);
        let Some(directory_at) = directory_at.filter(|_| directory_len <= DIRECTORY_BYTES_MAX) else {
            return Err(damaged("its end claims more bytes than there are"));
        };
        let mut directory = vec![0; directory_len];
        file.read_exact_at(&mut directory, directory_at)?;
        if crc32c::crc32c_append(crc32c::crc32c(&directory), &trailer[..CHECKED_BYTES]) != checksum {
            return Err(damaged("its directory fails its checksum"));
        }
        if version != VERSION || of != number {
            return Err(damaged("it is of another file or a newer version"));
        }
        let footer = parse(&directory, begin, len).ok_or_else(|| damaged("its directory is cut"))?;
        let fences_len = 4 + u64::from(footer.entries.pages()) * 8;
        if footer.fences_at.checked_add(fences_len) != Some(directory_at) {
            return Err(damaged("its parts do not fill it"));
        }
        Ok(Some(footer))
    }

    /// Every page of it against its checksum.
    pub(super) fn check(&self, file: &File) -> Result<(), Unreadable> {
        for page in 0..self.frames.pages() {
            self.frames.read(file, page)?;
        }
        for page in 0..self.entries.pages() {
            self.entries.read(file, page)?;
        }
        read_checked(file, self.fences_at, self.entries.pages() as usize * 8).map(drop)
    }

    /// The epochs with packets in the file, and the first RAW time of each.
    pub(super) fn epochs(&self) -> impl Iterator<Item = (EpochHash, RawNs)> {
        self.epochs.iter().map(|part| (part.epoch, part.first))
    }

    /// Whether any of `wanted`, which rise by epoch and flow, may have packets here: asks memory only.
    pub(super) fn may_have(&self, wanted: &[FlowSpan]) -> bool {
        self.epochs.iter().any(|part| part.of_epoch(wanted).1.iter().any(|span| part.may_have(span)))
    }

    /// Adds the frames of each of `wanted`, which rise by epoch and flow.
    pub(super) fn find(&self, file: &File, wanted: &[FlowSpan], hits: &mut Hits) -> Result<(), Unreadable> {
        let mut cursor =
            Cursor { footer: self, file, fences: None, entries: None, frames: None, of_flow: Vec::new() };
        for part in &self.epochs {
            let (from, of_epoch) = part.of_epoch(wanted);
            for (at, span) in (from..).zip(of_epoch) {
                if part.may_have(span) {
                    cursor.find(part, (at, span), hits)?;
                }
            }
        }
        Ok(())
    }
}

fn parse(directory: &[u8], begin: u64, end: u64) -> Option<Footer> {
    let mut fields = Fields(directory);
    let (before, chain) = (Chain(fields.take()?), Chain(fields.take()?));
    let frames_end = fields.u64()?;
    let (frames, entries, epochs, _) = (fields.u32()?, fields.u32()?, fields.u32()?, fields.u32()?);
    debug_assert_eq!(directory.len() - fields.0.len(), DIRECTORY_BYTES);
    if epochs as usize > fields.0.len() / EPOCH_BYTES {
        return None;
    }
    let frames = FramePages { offset: begin, rows: frames };
    let entries = EntryPages { offset: begin.checked_add(frames.len())?, rows: entries };
    let fences_at = entries.offset.checked_add(entries.len())?;
    let mut parts = Vec::with_capacity(epochs as usize);
    for _ in 0..epochs {
        let (epoch, first, last) = (EpochHash(fields.u64()?), RawNs(fields.u64()?), RawNs(fields.u64()?));
        let (entries_first, in_epoch, workers_len) = (fields.u32()?, fields.u32()?, fields.u32()?);
        if entries_first.checked_add(in_epoch)? > entries.rows || workers_len as usize > fields.0.len() / 16 {
            return None;
        }
        let mut workers = Vec::with_capacity(workers_len as usize);
        for _ in 0..workers_len {
            workers.push((FlowId(fields.u64()?), FlowId(fields.u64()?)));
        }
        parts.push(EpochPart { epoch, first, last, entries_first, entries: in_epoch, workers });
    }
    let len = end.checked_sub(begin)?;
    Some(Footer { before, chain, frames_end, len, frames, entries, fences_at, epochs: parts })
}

/// The pages read last: flows looked for in their order read each page once.
struct Cursor<'a> {
    footer: &'a Footer,
    file: &'a File,
    fences: Option<Vec<u8>>,
    entries: Option<(u32, Vec<u8>)>,
    frames: Option<(u32, Vec<u8>)>,
    /// Frames of the flow looked for, in one page.
    of_flow: Vec<u32>,
}

impl Cursor<'_> {
    fn find(
        &mut self,
        part: &EpochPart,
        (at, span): (usize, &FlowSpan),
        hits: &mut Hits,
    ) -> Result<(), Unreadable> {
        let (from, to) = (part.entries_first, part.entries_first + part.entries);
        let mut page = self.first_page(from / EntryPages::ROWS, to.div_ceil(EntryPages::ROWS), span.flow)?;
        while page < to.div_ceil(EntryPages::ROWS) {
            let before = page * EntryPages::ROWS;
            let mut frames = std::mem::take(&mut self.of_flow);
            frames.clear();
            let rows = self.entries(page)?;
            let row = |at: usize| rows.get(at * ENTRY_ROW..(at + 1) * ENTRY_ROW).and_then(entry_of);
            // Of this page, the rows of the epoch.
            let low = from.saturating_sub(before).min(EntryPages::ROWS) as usize;
            let high = (to - before).min(EntryPages::ROWS) as usize;
            let first = partition(low, high, |at| row(at).is_some_and(|(flow, _)| flow < span.flow));
            let of_flow = (first..high).map_while(|at| row(at).filter(|(flow, _)| *flow == span.flow));
            frames.extend(of_flow.map(|(_, frame)| frame));
            let goes_on = first + frames.len() == high;
            for frame in &frames {
                if !hits.has(*frame) {
                    hits.add(at, span, *frame, self.frame(*frame)?);
                }
            }
            self.of_flow = frames;
            if !goes_on {
                return Ok(());
            }
            page += 1;
        }
        Ok(())
    }

    /// The first page of `from..to` that may have `flow`.
    fn first_page(&mut self, from: u32, to: u32, flow: FlowId) -> Result<u32, Unreadable> {
        let footer = self.footer;
        if self.fences.is_none() {
            let len = footer.entries.pages() as usize * 8;
            self.fences = Some(read_checked(self.file, footer.fences_at, len)?);
        }
        let fences = self.fences.as_deref().unwrap_or_default();
        let fence = |page: usize| fences.get(page * 8..).and_then(|rest| rest.first_chunk());
        // The first page may begin with another epoch's flows, so its fence says nothing.
        let next = partition(from as usize + 1, to as usize, |page| {
            fence(page).is_some_and(|first| u64::from_le_bytes(*first) < flow.0)
        });
        Ok((next as u32).saturating_sub(1).max(from))
    }

    fn entries(&mut self, page: u32) -> Result<&[u8], Unreadable> {
        if self.entries.as_ref().is_none_or(|(held, _)| *held != page) {
            self.entries = Some((page, self.footer.entries.read(self.file, page)?));
        }
        Ok(self.entries.as_ref().map_or(&[], |(_, rows)| rows))
    }

    fn frame(&mut self, frame: u32) -> Result<FrameRow, Unreadable> {
        let page = frame / FramePages::ROWS;
        if self.frames.as_ref().is_none_or(|(held, _)| *held != page) {
            self.frames = Some((page, self.footer.frames.read(self.file, page)?));
        }
        let rows = self.frames.as_ref().map_or(&[][..], |(_, rows)| rows);
        let at = (frame % FramePages::ROWS) as usize * FRAME_ROW;
        let row = rows.get(at..).and_then(frame_of);
        row.ok_or_else(|| Unreadable::Damaged(format!("it names a frame {frame} that is not there")))
    }
}

fn entry_of(row: &[u8]) -> Option<(FlowId, u32)> {
    let mut fields = Fields(row);
    Some((FlowId(fields.u64()?), fields.u32()?))
}

fn frame_of(row: &[u8]) -> Option<FrameRow> {
    let mut fields = Fields(row);
    Some(FrameRow {
        offset: fields.u64()?,
        first: RawNs(fields.u64()?),
        last: RawNs(fields.u64()?),
        len: fields.u32()?,
        epoch: fields.u32()?,
    })
}

/// The first of `low..high` that is not `before` what is looked for.
fn partition(mut low: usize, mut high: usize, before: impl Fn(usize) -> bool) -> usize {
    while low < high {
        let middle = low + (high - low) / 2;
        if before(middle) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    low
}
