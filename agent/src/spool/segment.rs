//! One file of the spool: `flows-NNNNNNNNNNNNNNNN.spool` or `slices-NNNNNNNNNNNNNNNN.spool`.
//!
//! Constraints: appended to only; one lane and one epoch a file; readable from any hostile bytes without a panic; every
//! byte that carries meaning is under a CRC-32C; damage costs the entries it hit and no others. Little endian.
//!
//! ```text
//! file header, 80 bytes          entry header, 40 bytes           seal, 56 bytes (only when closed in order)
//!  0  8 magic "GNSPOOL\x01"       0  4 magic "GNSE"                0  4 magic "GNSZ"
//!  8  4 version, 1                4  4 payload bytes               4  4 zero
//! 12  1 lane (1 flows, 2 slices)  8  8 seq                         8  8 entries
//! 13  3 zero                     16  8 RAW when it was written    16  8 items
//! 16  8 number, as in the name   24  4 items (records, packets)   24  8 first seq
//! 24 16 agent    \               28  1 lane, again                32  8 last seq
//! 40 16 boot id   > the epoch    29  3 zero                       40  8 RAW of the first entry
//! 56  8 opened   /               32  4 CRC-32C of the payload     48  4 zero
//! 64  8 time suspended, ns       36  4 CRC-32C, see below         52  4 CRC-32C of bytes 0..52
//! 72  4 zero                     40  … payload
//! 76  4 CRC-32C of bytes 0..76
//! ```
//!
//! The CRC of an entry header runs over the file header and bytes 0..36, so that an old block of a deleted file which a
//! power cut brings back, or a captured packet that looks like an entry, is never taken for one.
//!
//! Crash story. An entry is one write(2): after SIGKILL it is there, or is a torn tail; after a power cut, what was
//! written since the last fdatasync may be missing, zero or torn. A file without a valid seal is therefore read through
//! when the spool is opened: what follows its last whole entry is cut off and counted, and the seal is added. A damaged
//! header in the middle is passed by searching the next header whose CRC holds; a damaged payload by its length.

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

    fn from_byte(byte: u8) -> Option<Lane> {
        Lane::ALL.into_iter().find(|lane| *lane as u8 == byte)
    }
}

pub(super) const FILE_HEADER_BYTES: u64 = 80;
pub(super) const ENTRY_HEADER_BYTES: u64 = 40;
pub(super) const SEAL_BYTES: u64 = 56;

/// Largest payload of an entry: a gRPC message must hold it with its frame.
pub const PAYLOAD_BYTES_MAX: usize = gnomon_proto::MESSAGE_BYTES_MAX - 4096;

const FILE_MAGIC: [u8; 8] = *b"GNSPOOL\x01";
const FILE_VERSION: u32 = 1;
const ENTRY_MAGIC: [u8; 4] = *b"GNSE";
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
    pub(super) lane: Lane,
    pub(super) number: u64,
    pub(super) epoch: EpochId,
    /// CLOCK_BOOTTIME − CLOCK_MONOTONIC when the epoch was opened: while it stays the same within a boot, RAW ran on
    /// between two epochs, and evidence for one holds for the other.
    pub(super) suspended_ns: u64,
}

impl FileHeader {
    pub(super) fn encode(&self) -> [u8; FILE_HEADER_BYTES as usize] {
        let mut fields = Fields([0; FILE_HEADER_BYTES as usize]);
        fields.put(0, &FILE_MAGIC);
        fields.put(8, &FILE_VERSION.to_le_bytes());
        fields.put(12, &[self.lane as u8]);
        fields.put(16, &self.number.to_le_bytes());
        fields.put(24, &self.epoch.agent);
        fields.put(40, &self.epoch.boot_id);
        fields.put(56, &self.epoch.opened.0.to_le_bytes());
        fields.put(64, &self.suspended_ns.to_le_bytes());
        fields.close(0)
    }

    /// What the CRC of every entry header of this file begins with.
    pub(super) fn salt(&self) -> u32 {
        crc32c::crc32c(&self.encode())
    }

    /// `None` when the file is too short or its header is damaged or of another version.
    pub(super) fn read(file: &File) -> io::Result<Option<FileHeader>> {
        let Some(fields) = read_fields::<{ FILE_HEADER_BYTES as usize }>(file, 0)? else { return Ok(None) };
        if !fields.is_whole(0) || fields.array(0) != FILE_MAGIC || fields.u32(8) != FILE_VERSION {
            return Ok(None);
        }
        let epoch =
            EpochId { agent: fields.array(24), boot_id: fields.array(40), opened: RawNs(fields.u64(56)) };
        let suspended_ns = fields.u64(64);
        Ok(Lane::from_byte(fields.0[12]).map(|lane| FileHeader {
            lane,
            number: fields.u64(16),
            epoch,
            suspended_ns,
        }))
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
}

impl EntryHeader {
    pub(super) fn encode(&self, salt: u32) -> [u8; ENTRY_HEADER_BYTES as usize] {
        let mut fields = Fields([0; ENTRY_HEADER_BYTES as usize]);
        fields.put(0, &ENTRY_MAGIC);
        fields.put(4, &self.payload_bytes.to_le_bytes());
        fields.put(8, &self.seq.to_le_bytes());
        fields.put(16, &self.written.0.to_le_bytes());
        fields.put(24, &self.items.to_le_bytes());
        fields.put(28, &[self.lane as u8]);
        fields.put(32, &self.payload_crc.to_le_bytes());
        fields.close(salt)
    }

    fn decode(fields: &Fields<{ ENTRY_HEADER_BYTES as usize }>, salt: u32) -> Option<EntryHeader> {
        let payload_bytes = fields.u32(4);
        let good = fields.array(0) == ENTRY_MAGIC
            && fields.is_whole(salt)
            && payload_bytes as usize <= PAYLOAD_BYTES_MAX;
        let lane = Lane::from_byte(fields.0[28]).filter(|_| good)?;
        Some(EntryHeader {
            lane,
            seq: fields.u64(8),
            written: RawNs(fields.u64(16)),
            items: fields.u32(24),
            payload_bytes,
            payload_crc: fields.u32(32),
        })
    }

    /// Bytes of the whole entry in the file.
    pub(super) fn entry_bytes(&self) -> u64 {
        ENTRY_HEADER_BYTES + u64::from(self.payload_bytes)
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

/// A file whose header was good, for reading its entries.
#[derive(Debug)]
pub(super) struct SegmentFile {
    pub(super) file: File,
    pub(super) salt: u32,
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
        let fields = read_fields::<{ ENTRY_HEADER_BYTES as usize }>(&self.file, at)?;
        let header = fields.as_ref().and_then(|fields| EntryHeader::decode(fields, self.salt));
        Ok(header.filter(|header| at + header.entry_bytes() <= end))
    }

    /// The first whole entry at `from` or after it.
    fn next_entry(&self, from: u64, end: u64) -> io::Result<Option<u64>> {
        let mut chunk = vec![0u8; 64 * 1024];
        let mut at = from;
        while at + ENTRY_HEADER_BYTES <= end {
            let bytes = self.file.read_at(&mut chunk, at)?;
            let candidates = chunk[..bytes].windows(ENTRY_MAGIC.len()).enumerate();
            for (offset, _) in candidates.filter(|(_, window)| *window == ENTRY_MAGIC) {
                if self.entry_at(at + offset as u64, end)?.is_some() {
                    return Ok(Some(at + offset as u64));
                }
            }
            // A magic may lie across the border of two chunks.
            match bytes.checked_sub(ENTRY_MAGIC.len() - 1) {
                Some(done) if done > 0 => at += done as u64,
                _ => break,
            }
        }
        Ok(None)
    }

    /// The payload of the entry at `at`, or `None` when its checksum does not hold.
    pub(super) fn payload(&self, at: u64, header: &EntryHeader) -> io::Result<Option<Vec<u8>>> {
        let mut payload = vec![0u8; header.payload_bytes as usize];
        match self.file.read_exact_at(&mut payload, at + ENTRY_HEADER_BYTES) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(error) => return Err(error),
        }
        Ok((crc32c::crc32c(&payload) == header.payload_crc).then_some(payload))
    }

    /// Reads a file that was not sealed through. Damage in the middle is left where it is for the reader to pass.
    pub(super) fn scan(&self, file_bytes: u64) -> io::Result<Scan> {
        let mut scan = Scan { end: FILE_HEADER_BYTES, ..Scan::default() };
        let mut at = FILE_HEADER_BYTES;
        loop {
            match self.step(at, file_bytes)? {
                Step::Entry(header) => {
                    at += header.entry_bytes();
                    // The last entry counts only whole; one with others behind it was written whole and damaged later.
                    if at < file_bytes || self.payload(at - header.entry_bytes(), &header)?.is_some() {
                        scan.totals.add(&header);
                        scan.end = at;
                    }
                }
                Step::Damaged { resume } => at = resume,
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

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn header(seq: u64, payload: &[u8]) -> EntryHeader {
        EntryHeader {
            lane: Lane::Slices,
            seq,
            written: RawNs(77),
            items: 3,
            payload_bytes: payload.len() as u32,
            payload_crc: crc32c::crc32c(payload),
        }
    }

    fn file_of(payloads: &[&[u8]]) -> (SegmentFile, u64) {
        let mut file = tempfile::tempfile().unwrap();
        let epoch = EpochId { agent: [1; 16], boot_id: [2; 16], opened: RawNs(3) };
        let head = FileHeader { lane: Lane::Slices, number: 9, epoch, suspended_ns: 4 };
        file.write_all(&head.encode()).unwrap();
        for (i, payload) in payloads.iter().enumerate() {
            file.write_all(&header(i as u64 + 1, payload).encode(head.salt())).unwrap();
            file.write_all(payload).unwrap();
        }
        let bytes = file.metadata().unwrap().len();
        assert_eq!(FileHeader::read(&file).unwrap(), Some(head));
        (SegmentFile { file, salt: head.salt() }, bytes)
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
        segment.salt ^= 1;
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
