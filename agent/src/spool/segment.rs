//! One file of the spool: `flows-NNNNNNNNNNNNNNNN.spool` or `slices-NNNNNNNNNNNNNNNN.spool`.
//!
//! Constraints: appended to only; one lane and one epoch a file; readable from any hostile bytes without a panic; every
//! byte that carries meaning is under a CRC-32C; damage costs the entries it hit and no others, wherever it is. Little
//! endian.
//!
//! ```text
//! file header, 80 bytes          entry header, 96 bytes           seal, 56 bytes (only when closed in order)
//!  0  8 magic "GNSPOOL\x01"       0  4 magic "GNS2"                0  4 magic "GNSZ"
//!  8  4 version, 2                4  4 payload bytes               4  4 zero
//! 12  1 lane (1 flows, 2 slices)  8  8 seq                         8  8 entries
//! 13  3 zero                     16  8 RAW when it was written    16  8 items
//! 16  8 number, as in the name   24  4 items (records, packets)   24  8 first seq
//! 24 16 agent    \               28  1 lane, again                32  8 last seq
//! 40 16 boot id   > the epoch    29  3 zero                       40  8 RAW of the first entry
//! 56  8 opened   /               32 56 file header, 16..72        48  4 zero
//! 64  8 time suspended, ns       88  4 CRC-32C of the payload     52  4 CRC-32C of bytes 0..52
//! 72  4 zero                     92  4 CRC-32C of bytes 0..92
//! 76  4 CRC-32C of bytes 0..76   96  … payload
//! ```
//!
//! An entry repeats what the file header says, so that a file whose header is damaged is read all the same. The file's
//! number is part of it: an old block of a deleted file, which a power cut brings back, is never taken for one of this
//! file. Version 1, which is read and no longer written, has entry headers of 40 bytes (magic "GNSE"; bytes 0..32 as
//! above, then the CRC of the payload and one that runs over the file header and bytes 0..36): there the file header is
//! needed, and guessed from those of other files when it is damaged.
//!
//! Crash story. Entries are appended by write(2), several at a time: after SIGKILL they are there, or are a torn tail;
//! after a power cut, what was written since the last fdatasync may be missing, zero or torn. A file without a valid seal
//! is therefore read through when the spool is opened: what follows its last whole entry is cut off and counted, and the
//! seal is added. A damaged header in the middle is passed by searching the next header whose CRC holds; a damaged payload
//! by its length.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use gnomon_clock::{EpochId, RawNs};

/// What an entry holds. The lanes are separate files so that slices can be sacrificed without their flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lane {
    Flows = 1,
    Slices = 2,
}

impl Lane {
    pub const ALL: [Lane; 2] = [Lane::Flows, Lane::Slices];

    pub fn name(self) -> &'static str {
        match self {
            Lane::Flows => "flows",
            Lane::Slices => "slices",
        }
    }

    pub(super) fn index(self) -> usize {
        match self {
            Lane::Flows => 0,
            Lane::Slices => 1,
        }
    }

    fn from_byte(byte: u8) -> Option<Lane> {
        Lane::ALL.into_iter().find(|lane| *lane as u8 == byte)
    }
}

pub(super) const FILE_HEADER_BYTES: u64 = 80;
pub(super) const ENTRY_HEADER_BYTES: u64 = 96;
const ENTRY_HEADER_BYTES_V1: u64 = 40;
pub(super) const SEAL_BYTES: u64 = 56;

/// Largest payload of an entry: a gRPC message must hold it with its frame.
pub const PAYLOAD_BYTES_MAX: usize = gnomon_proto::MESSAGE_BYTES_MAX - 4096;

const FILE_MAGIC: [u8; 8] = *b"GNSPOOL\x01";
const FILE_VERSION: u32 = 2;
const ENTRY_MAGIC: [u8; 4] = *b"GNS2";
const ENTRY_MAGIC_V1: [u8; 4] = *b"GNSE";
/// Where an entry repeats the file header, and which part of it.
const REPEATED_AT: usize = 32;
const REPEATED: std::ops::Range<usize> = 16..72;
const SEAL_MAGIC: [u8; 4] = *b"GNSZ";

/// A fixed-size header under construction or under reading.
struct Fields<const N: usize>([u8; N]);

impl<const N: usize> Fields<N> {
    fn put(&mut self, at: usize, bytes: &[u8]) {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
    }

    /// The last four bytes are the checksum of `salt` and the others.
    fn close(mut self, salt: u32) -> [u8; N] {
        let crc = crc32c::crc32c_append(salt, &self.0[..N - 4]);
        self.put(N - 4, &crc.to_le_bytes());
        self.0
    }

    fn array<const M: usize>(&self, at: usize) -> [u8; M] {
        std::array::from_fn(|i| self.0[at + i])
    }

    fn u32(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.array(at))
    }

    fn u64(&self, at: usize) -> u64 {
        u64::from_le_bytes(self.array(at))
    }

    fn is_whole(&self, salt: u32) -> bool {
        self.u32(N - 4) == crc32c::crc32c_append(salt, &self.0[..N - 4])
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FileHeader {
    pub(super) version: u32,
    pub(super) lane: Lane,
    pub(super) number: u64,
    pub(super) epoch: EpochId,
    /// CLOCK_BOOTTIME − CLOCK_MONOTONIC when the epoch was opened: while it stays the same within a boot, RAW ran on
    /// between two epochs, and evidence for one holds for the other.
    pub(super) suspended_ns: u64,
}

/// How the entries of a file are recognised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// What the CRC of every entry header begins with.
    V1 { salt: u32 },
    /// What every entry header repeats of the file header.
    V2 { number: u64, epoch: EpochId },
}

impl FileHeader {
    pub(super) fn new(lane: Lane, number: u64, epoch: EpochId, suspended_ns: u64) -> FileHeader {
        FileHeader { version: FILE_VERSION, lane, number, epoch, suspended_ns }
    }

    /// The header an older agent would have given the file.
    pub(super) fn old(lane: Lane, number: u64, epoch: EpochId, suspended_ns: u64) -> FileHeader {
        FileHeader { version: 1, lane, number, epoch, suspended_ns }
    }

    pub(super) fn encode(&self) -> [u8; FILE_HEADER_BYTES as usize] {
        let mut fields = Fields([0; FILE_HEADER_BYTES as usize]);
        fields.put(0, &FILE_MAGIC);
        fields.put(8, &self.version.to_le_bytes());
        fields.put(12, &[self.lane as u8]);
        fields.put(16, &self.number.to_le_bytes());
        fields.put(24, &self.epoch.agent);
        fields.put(40, &self.epoch.boot_id);
        fields.put(56, &self.epoch.opened.0.to_le_bytes());
        fields.put(64, &self.suspended_ns.to_le_bytes());
        fields.close(0)
    }

    pub(super) fn format(&self) -> Format {
        if self.version == 1 {
            return Format::V1 { salt: crc32c::crc32c(&self.encode()) };
        }
        Format::V2 { number: self.number, epoch: self.epoch }
    }

    /// `None` when the file is too short or its header is damaged or of another version.
    pub(super) fn read(file: &File) -> io::Result<Option<FileHeader>> {
        let Some(fields) = read_fields::<{ FILE_HEADER_BYTES as usize }>(file, 0)? else { return Ok(None) };
        let version = fields.u32(8);
        if !fields.is_whole(0) || fields.array(0) != FILE_MAGIC || !(1..=FILE_VERSION).contains(&version) {
            return Ok(None);
        }
        Ok(Lane::from_byte(fields.0[12]).map(|lane| FileHeader::of(version, lane, &fields, REPEATED.start)))
    }

    /// From a file header or what an entry repeats of it, which begins at `at`.
    fn of<const N: usize>(version: u32, lane: Lane, fields: &Fields<N>, at: usize) -> FileHeader {
        let epoch = EpochId {
            agent: fields.array(at + 8),
            boot_id: fields.array(at + 24),
            opened: RawNs(fields.u64(at + 40)),
        };
        FileHeader { version, lane, number: fields.u64(at), epoch, suspended_ns: fields.u64(at + 48) }
    }

    /// What the first whole entry of a file repeats of the file's header, which is damaged.
    pub(super) fn salvage(file: &File, file_bytes: u64) -> io::Result<Option<FileHeader>> {
        find(file, 0, file_bytes, ENTRY_MAGIC, &mut |at| {
            let Some(fields) = read_fields::<{ ENTRY_HEADER_BYTES as usize }>(file, at)? else {
                return Ok(None);
            };
            let lane = Lane::from_byte(fields.0[28]).filter(|_| fields.is_whole(0));
            Ok(lane.map(|lane| FileHeader::of(FILE_VERSION, lane, &fields, REPEATED_AT)))
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct EntryHeader {
    pub(super) lane: Lane,
    pub(super) seq: u64,
    pub(super) written: RawNs,
    pub(super) items: u32,
    pub(super) payload_bytes: u32,
    pub(super) payload_crc: u32,
    header_bytes: u32,
}

impl EntryHeader {
    pub(super) fn new(lane: Lane, seq: u64, written: RawNs, items: u32, payload: &[u8]) -> EntryHeader {
        EntryHeader {
            lane,
            seq,
            written,
            items,
            payload_bytes: u32::try_from(payload.len()).unwrap_or(u32::MAX),
            payload_crc: crc32c::crc32c(payload),
            header_bytes: ENTRY_HEADER_BYTES as u32,
        }
    }

    /// As it stands in the file whose header is `file`, which is `encoded`.
    pub(super) fn encode(
        &self,
        file: &[u8; FILE_HEADER_BYTES as usize],
    ) -> [u8; ENTRY_HEADER_BYTES as usize] {
        let mut fields = Fields([0; ENTRY_HEADER_BYTES as usize]);
        fields.put(0, &ENTRY_MAGIC);
        self.put(&mut fields);
        fields.put(REPEATED_AT, &file[REPEATED]);
        fields.put(88, &self.payload_crc.to_le_bytes());
        fields.close(0)
    }

    fn put<const N: usize>(&self, fields: &mut Fields<N>) {
        fields.put(4, &self.payload_bytes.to_le_bytes());
        fields.put(8, &self.seq.to_le_bytes());
        fields.put(16, &self.written.0.to_le_bytes());
        fields.put(24, &self.items.to_le_bytes());
        fields.put(28, &[self.lane as u8]);
    }

    fn of<const N: usize>(fields: &Fields<N>) -> Option<EntryHeader> {
        let payload_bytes = fields.u32(4);
        let lane = Lane::from_byte(fields.0[28]).filter(|_| payload_bytes as usize <= PAYLOAD_BYTES_MAX)?;
        Some(EntryHeader {
            lane,
            seq: fields.u64(8),
            written: RawNs(fields.u64(16)),
            items: fields.u32(24),
            payload_bytes,
            payload_crc: fields.u32(N - 8),
            header_bytes: N as u32,
        })
    }

    /// The header at `at`, if it is one of this file's.
    fn read(file: &File, at: u64, format: &Format) -> io::Result<Option<EntryHeader>> {
        match format {
            Format::V1 { salt } => {
                let fields = read_fields::<{ ENTRY_HEADER_BYTES_V1 as usize }>(file, at)?;
                let fields = fields.filter(|f| f.array(0) == ENTRY_MAGIC_V1 && f.is_whole(*salt));
                Ok(fields.as_ref().and_then(EntryHeader::of))
            }
            Format::V2 { number, epoch } => {
                let fields = read_fields::<{ ENTRY_HEADER_BYTES as usize }>(file, at)?;
                let Some(fields) = fields.filter(|f| f.array(0) == ENTRY_MAGIC && f.is_whole(0)) else {
                    return Ok(None);
                };
                let header = EntryHeader::of(&fields);
                Ok(header.filter(|header| {
                    let file = FileHeader::of(FILE_VERSION, header.lane, &fields, REPEATED_AT);
                    file.number == *number && file.epoch == *epoch
                }))
            }
        }
    }

    /// Bytes of the whole entry in the file.
    pub(super) fn entry_bytes(&self) -> u64 {
        u64::from(self.header_bytes) + u64::from(self.payload_bytes)
    }
}

/// What a file holds, as its seal says it or as it was found by reading it through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Totals {
    pub(super) entries: u64,
    pub(super) items: u64,
    pub(super) first_seq: u64,
    pub(super) last_seq: u64,
    pub(super) first_written: RawNs,
}

impl Totals {
    pub(super) fn add(&mut self, header: &EntryHeader) {
        if self.entries == 0 {
            self.first_seq = header.seq;
            self.first_written = header.written;
        }
        self.entries += 1;
        self.items += u64::from(header.items);
        self.last_seq = self.last_seq.max(header.seq);
    }

    pub(super) fn seal(&self) -> [u8; SEAL_BYTES as usize] {
        let mut fields = Fields([0; SEAL_BYTES as usize]);
        fields.put(0, &SEAL_MAGIC);
        fields.put(8, &self.entries.to_le_bytes());
        fields.put(16, &self.items.to_le_bytes());
        fields.put(24, &self.first_seq.to_le_bytes());
        fields.put(32, &self.last_seq.to_le_bytes());
        fields.put(40, &self.first_written.0.to_le_bytes());
        fields.close(0)
    }

    /// The seal at the end of a file of `file_bytes`, if there is a good one.
    pub(super) fn read_seal(file: &File, file_bytes: u64) -> io::Result<Option<Totals>> {
        if file_bytes < FILE_HEADER_BYTES + SEAL_BYTES {
            return Ok(None);
        }
        let fields = read_fields::<{ SEAL_BYTES as usize }>(file, file_bytes - SEAL_BYTES)?;
        Ok(fields.filter(|f| f.is_whole(0) && f.array(0) == SEAL_MAGIC).map(|f| Totals {
            entries: f.u64(8),
            items: f.u64(16),
            first_seq: f.u64(24),
            last_seq: f.u64(32),
            first_written: RawNs(f.u64(40)),
        }))
    }
}

fn read_fields<const N: usize>(file: &File, at: u64) -> io::Result<Option<Fields<N>>> {
    let mut fields = Fields([0; N]);
    match file.read_exact_at(&mut fields.0, at) {
        Ok(()) => Ok(Some(fields)),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(error),
    }
}

/// What stands at an offset of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Entry(EntryHeader),
    /// No whole entry begins here; the next one begins at `resume` (the end, when there is none).
    Damaged {
        resume: u64,
    },
    End,
}

/// The first place from `from` on where `magic` stands and `look` finds something.
fn find<T>(
    file: &File,
    from: u64,
    end: u64,
    magic: [u8; 4],
    look: &mut dyn FnMut(u64) -> io::Result<Option<T>>,
) -> io::Result<Option<T>> {
    let mut chunk = vec![0u8; 64 * 1024];
    let mut at = from;
    while at < end {
        let bytes = file.read_at(&mut chunk, at)?;
        let candidates = chunk[..bytes].windows(magic.len()).enumerate();
        for (offset, _) in candidates.filter(|(_, window)| *window == magic) {
            if let Some(found) = look(at + offset as u64)? {
                return Ok(Some(found));
            }
        }
        // A magic may lie across the border of two chunks.
        match bytes.checked_sub(magic.len() - 1) {
            Some(done) if done > 0 => at += done as u64,
            _ => break,
        }
    }
    Ok(None)
}

/// A file whose header is known, for reading its entries.
#[derive(Debug)]
pub(super) struct SegmentFile {
    pub(super) file: File,
    pub(super) format: Format,
}

impl SegmentFile {
    /// Looks at `at`; entries lie before `end`.
    pub(super) fn step(&self, at: u64, end: u64) -> io::Result<Step> {
        if at >= end {
            return Ok(Step::End);
        }
        if let Some(header) = self.entry_at(at, end)? {
            return Ok(Step::Entry(header));
        }
        let resume = self.next_entry(at + 1, end)?.unwrap_or(end);
        Ok(Step::Damaged { resume })
    }

    fn entry_at(&self, at: u64, end: u64) -> io::Result<Option<EntryHeader>> {
        let header = EntryHeader::read(&self.file, at, &self.format)?;
        Ok(header.filter(|header| at + header.entry_bytes() <= end))
    }

    /// The first whole entry at `from` or after it.
    fn next_entry(&self, from: u64, end: u64) -> io::Result<Option<u64>> {
        let magic = match self.format {
            Format::V1 { .. } => ENTRY_MAGIC_V1,
            Format::V2 { .. } => ENTRY_MAGIC,
        };
        find(&self.file, from, end, magic, &mut |at| Ok(self.entry_at(at, end)?.map(|_| at)))
    }

    /// The payload of the entry at `at`, or `None` when its checksum does not hold.
    pub(super) fn payload(&self, at: u64, header: &EntryHeader) -> io::Result<Option<Vec<u8>>> {
        let mut payload = vec![0u8; header.payload_bytes as usize];
        match self.file.read_exact_at(&mut payload, at + u64::from(header.header_bytes)) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(error) => return Err(error),
        }
        Ok((crc32c::crc32c(&payload) == header.payload_crc).then_some(payload))
    }

    /// Reads a file that was not sealed through. Damage in the middle is left where it is for the reader to pass.
    pub(super) fn scan(&self, file_bytes: u64) -> io::Result<Scan> {
        let mut scan = Scan { end: FILE_HEADER_BYTES, ..Scan::default() };
        let (mut at, mut stretches) = (FILE_HEADER_BYTES, 0);
        loop {
            match self.step(at, file_bytes)? {
                Step::Entry(header) => {
                    at += header.entry_bytes();
                    // The last entry counts only whole; one with others behind it was written whole and damaged later.
                    if at < file_bytes || self.payload(at - header.entry_bytes(), &header)?.is_some() {
                        scan.totals.add(&header);
                        scan.end = at;
                        scan.damaged_stretches = stretches;
                    }
                }
                Step::Damaged { resume } => {
                    stretches += 1;
                    at = resume;
                }
                Step::End => break,
            }
        }
        scan.torn_bytes = file_bytes.saturating_sub(scan.end);
        Ok(scan)
    }
}

/// What reading a file through found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Scan {
    pub(super) totals: Totals,
    /// Where its entries end; what follows is a torn tail.
    pub(super) end: u64,
    pub(super) torn_bytes: u64,
    /// Before `end`: at least an entry each.
    pub(super) damaged_stretches: u64,
}

/// The file name of a segment.
pub(super) fn file_name(lane: Lane, number: u64) -> String {
    format!("{}-{number:016}.spool", lane.name())
}

/// The lane and number in a file name.
pub(super) fn parse_file_name(name: &str) -> Option<(Lane, u64)> {
    let (lane, number) = name.strip_suffix(".spool")?.split_once('-')?;
    let lane = Lane::ALL.into_iter().find(|l| l.name() == lane)?;
    let good = number.len() == 16 && number.bytes().all(|b| b.is_ascii_digit());
    Some((lane, number.parse().ok().filter(|_| good)?))
}

/// An entry of a file of version 1, which nobody writes any more.
#[cfg(test)]
pub(super) fn entry_v1(file: &FileHeader, seq: u64, payload: &[u8]) -> Vec<u8> {
    let Format::V1 { salt } = file.format() else { panic!("of version 1") };
    let mut fields = Fields([0; ENTRY_HEADER_BYTES_V1 as usize]);
    fields.put(0, &ENTRY_MAGIC_V1);
    EntryHeader::new(file.lane, seq, RawNs(77), 3, payload).put(&mut fields);
    fields.put(32, &crc32c::crc32c(payload).to_le_bytes());
    [&fields.close(salt)[..], payload].concat()
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn header(seq: u64, payload: &[u8]) -> EntryHeader {
        EntryHeader::new(Lane::Slices, seq, RawNs(77), 3, payload)
    }

    fn file_of(payloads: &[&[u8]]) -> (SegmentFile, u64) {
        let mut file = tempfile::tempfile().unwrap();
        let epoch = EpochId { agent: [1; 16], boot_id: [2; 16], opened: RawNs(3) };
        let head = FileHeader::new(Lane::Slices, 9, epoch, 4);
        file.write_all(&head.encode()).unwrap();
        for (i, payload) in payloads.iter().enumerate() {
            file.write_all(&header(i as u64 + 1, payload).encode(&head.encode())).unwrap();
            file.write_all(payload).unwrap();
        }
        let bytes = file.metadata().unwrap().len();
        assert_eq!(FileHeader::read(&file).unwrap(), Some(head));
        assert_eq!(FileHeader::salvage(&file, bytes).unwrap(), Some(head).filter(|_| !payloads.is_empty()));
        (SegmentFile { file, format: head.format() }, bytes)
    }

    #[test]
    fn a_file_of_version_1_is_read() {
        let mut file = tempfile::tempfile().unwrap();
        let head = FileHeader::old(Lane::Slices, 9, EpochId { opened: RawNs(3), ..EpochId::default() }, 4);
        file.write_all(&head.encode()).unwrap();
        for seq in 1..=3 {
            file.write_all(&entry_v1(&head, seq, b"payload")).unwrap();
        }
        let bytes = file.metadata().unwrap().len();
        assert_eq!(FileHeader::read(&file).unwrap(), Some(head));
        assert_eq!(seqs(&SegmentFile { file, format: head.format() }, bytes), [1, 2, 3]);
    }

    fn seqs(segment: &SegmentFile, end: u64) -> Vec<u64> {
        let (mut at, mut seqs) = (FILE_HEADER_BYTES, Vec::new());
        loop {
            match segment.step(at, end).unwrap() {
                Step::Entry(header) => {
                    if segment.payload(at, &header).unwrap().is_some() {
                        seqs.push(header.seq);
                    }
                    at += header.entry_bytes();
                }
                Step::Damaged { resume } => at = resume,
                Step::End => return seqs,
            }
        }
    }

    #[test]
    fn a_torn_tail_is_cut_at_any_byte() {
        let (segment, bytes) = file_of(&[b"first", b"", b"third"]);
        let last = bytes - ENTRY_HEADER_BYTES - 5;
        for cut in last..bytes {
            let scan = segment.scan(cut).unwrap();
            assert_eq!((scan.totals.entries, scan.end, scan.torn_bytes), (2, last, cut - last));
        }
        assert_eq!(segment.scan(bytes).unwrap().totals.last_seq, 3);
    }

    #[test]
    fn an_entry_of_another_file_is_none_of_this() {
        let (mut segment, bytes) = file_of(&[b"x"]);
        let Format::V2 { number, .. } = &mut segment.format else { panic!("of version 2") };
        *number += 1;
        assert_eq!(segment.scan(bytes).unwrap().totals.entries, 0);
    }

    #[test]
    fn zeroes_after_a_power_cut_are_a_torn_tail() {
        let (segment, bytes) = file_of(&[b"first", b"second"]);
        segment.file.write_all_at(&[0; 6], bytes - 6).unwrap();
        assert_eq!(segment.scan(bytes).unwrap().totals.entries, 1);
        segment.file.set_len(bytes + 4096).unwrap();
        assert_eq!(segment.scan(bytes + 4096).unwrap().torn_bytes, 4096);
    }

    #[test]
    fn any_flipped_byte_costs_no_more_than_its_entry() {
        let payload = vec![0xA5; 300];
        let (segment, bytes) = file_of(&[&payload, &payload, &payload]);
        let entry = ENTRY_HEADER_BYTES + 300;
        for at in FILE_HEADER_BYTES + entry..FILE_HEADER_BYTES + 2 * entry {
            let mut byte = [0];
            segment.file.read_exact_at(&mut byte, at).unwrap();
            segment.file.write_all_at(&[byte[0] ^ 0x40], at).unwrap();
            assert_eq!(seqs(&segment, bytes), [1, 3], "byte {at}");
            segment.file.write_all_at(&byte, at).unwrap();
        }
        assert_eq!(seqs(&segment, bytes), [1, 2, 3]);
    }

    #[test]
    fn a_damaged_file_header_or_seal_is_noticed() {
        let (segment, bytes) = file_of(&[b"x"]);
        let totals = segment.scan(bytes).unwrap().totals;
        segment.file.write_all_at(&totals.seal(), bytes).unwrap();
        assert_eq!(Totals::read_seal(&segment.file, bytes + SEAL_BYTES).unwrap(), Some(totals));
        for at in (bytes..bytes + SEAL_BYTES).chain(0..FILE_HEADER_BYTES) {
            let mut byte = [0];
            segment.file.read_exact_at(&mut byte, at).unwrap();
            segment.file.write_all_at(&[byte[0] ^ 1], at).unwrap();
            let whole = FileHeader::read(&segment.file).unwrap().is_some()
                && Totals::read_seal(&segment.file, bytes + SEAL_BYTES).unwrap().is_some();
            assert!(!whole, "byte {at}");
            segment.file.write_all_at(&byte, at).unwrap();
        }
    }

    #[test]
    fn file_names_survive_and_strangers_are_left_alone() {
        assert_eq!(parse_file_name(&file_name(Lane::Flows, 12)), Some((Lane::Flows, 12)));
        for name in
            ["flows-12.spool", "flows-+000000000000012.spool", "ledger", "notes-0000000000000012.spool"]
        {
            assert_eq!(parse_file_name(name), None, "{name}");
        }
    }
}
