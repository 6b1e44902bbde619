//! Packets on disk: append-only segment files of frames, one frame a slice block.
//!
//! Constraints: nothing is acknowledged before it is in a file that was synced; a file is never written to again once
//! the next one is begun; every frame can be checked, and its index rebuilt, from its own bytes.
//!
//! ```text
//! file:  0000000001.seg …
//! offset size
//!      0    8  "GNSLICES"
//!      8    4  version, 1
//!     12    4  number of the file
//!     16    …  frames, back to back
//!
//! frame: offset size
//!      0    4  bytes that follow the checksum
//!      4    4  CRC-32C of them
//!      8    8  epoch (EpochHash)
//!     16    8  first RAW        24    8  last RAW
//!     32    4  packets          36    4  bytes of the block when decompressed
//!     40    4  flows: n         44    1  length of the interface's name: m
//!     45   8n  ids of the flows, then m bytes of the name, then the block (one zstd frame)
//! ```
//! Integers are little endian.
//!
//! Crash story. The database says how far the newest file is durable ([`Position`]), in the same batch that makes the
//! frames findable. At open everything beyond that is cut off: nobody was told it is safe, so the agent sends it again.
//! A file that is *shorter* than that lost data which was acknowledged (a disk that lies about syncing): it is left as it
//! is, said out loud, and a new file is begun. A frame whose bytes rotted fails its checksum when it is read; it is
//! named and counted, and its neighbours are not touched.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use gnomon_clock::RawNs;
use gnomon_flow::{EpochHash, FlowId};

const MAGIC: &[u8; 8] = b"GNSLICES";
const VERSION: u32 = 1;
/// Bytes of a file's header.
pub(super) const HEADER_BYTES: u64 = 16;
const PREFIX_BYTES: usize = 8;
const FRAME_HEADER_BYTES: usize = 45;
/// A frame holds at most one gRPC message; more is damage.
const FRAME_BYTES_MAX: u32 = 16 << 20;
/// A block decompresses to at most this.
pub const BLOCK_BYTES_MAX: usize = 32 << 20;
/// Files kept open for reading.
const OPEN_FILES_MAX: usize = 32;

/// Where a slice block lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SliceLocation {
    pub segment: u32,
    pub offset: u64,
    /// Bytes of the frame.
    pub len: u32,
    /// RAW times of the block's first and last packet, whichever flows they are of.
    pub first: RawNs,
    pub last: RawNs,
}

/// What can be wrong with a segment file.
#[derive(Debug, thiserror::Error)]
pub enum SegmentError {
    #[error("segment file {}: cannot {doing}: {source}", path.display())]
    Io { path: PathBuf, doing: &'static str, source: io::Error },
    #[error("segment file {} is gone: its packets were given up for space", path.display())]
    Gone { path: PathBuf },
    #[error("segment file {}: the frame at byte {offset} is damaged: {problem}", path.display())]
    Damaged { path: PathBuf, offset: u64, problem: String },
}

/// A frame to be written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frame<'a> {
    pub(super) epoch: EpochHash,
    pub(super) first: RawNs,
    pub(super) last: RawNs,
    pub(super) packets: u32,
    pub(super) block_bytes: u32,
    pub(super) interface: &'a str,
    pub(super) flows: &'a [FlowId],
    pub(super) block: &'a [u8],
}

/// A frame as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct StoredFrame {
    pub(super) epoch: EpochHash,
    pub(super) first: RawNs,
    pub(super) packets: u32,
    pub(super) interface: String,
    pub(super) flows: Vec<FlowId>,
    /// Decompressed.
    pub(super) block: Vec<u8>,
}

/// How far the newest file is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Position {
    pub(super) number: u32,
    pub(super) len: u64,
}

/// What [`SegmentWriter::open`] found at the end of the newest file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Recovered {
    /// Bytes that were written but never acknowledged, and are gone now.
    pub(super) cut_bytes: u64,
    /// Bytes that were acknowledged and are missing.
    pub(super) lost_bytes: u64,
}

pub(super) fn path_of(dir: &Path, number: u32) -> PathBuf {
    dir.join(format!("{number:010}.seg"))
}

/// The one writer of segment files.
#[derive(Debug)]
pub(super) struct SegmentWriter {
    dir: PathBuf,
    file: File,
    position: Position,
    /// Bytes in the file beyond the durable ones.
    pending_len: u64,
    bytes_max: u64,
    buffer: Vec<u8>,
}

impl SegmentWriter {
    /// `durable` is what the database says; `None` for a new store.
    pub(super) fn open(
        dir: &Path,
        durable: Option<Position>,
        bytes_max: u64,
    ) -> Result<(SegmentWriter, Recovered), SegmentError> {
        let io = |doing| move |source| SegmentError::Io { path: dir.to_owned(), doing, source };
        std::fs::create_dir_all(dir).map_err(io("create the directory"))?;
        let mut recovered = Recovered::default();
        let mut newest = durable.map_or(0, |p| p.number);
        for file in numbers(dir).map_err(io("list the directory"))? {
            if file > durable.map_or(0, |p| p.number) {
                // Begun, but nothing in it was ever acknowledged.
                let path = path_of(dir, file);
                recovered.cut_bytes += path.metadata().map_or(0, |m| m.len().saturating_sub(HEADER_BYTES));
                std::fs::remove_file(path).map_err(io("remove an unacknowledged file"))?;
            }
        }
        if let Some(position) = durable {
            let path = path_of(dir, position.number);
            let io = |doing| move |source| SegmentError::Io { path: path.clone(), doing, source };
            match OpenOptions::new().write(true).open(path_of(dir, position.number)) {
                Ok(file) => {
                    let len = file.metadata().map_err(io("read the length"))?.len();
                    if len >= position.len {
                        if len > position.len {
                            let path = path_of(dir, position.number);
                            file.set_len(position.len).map_err(|source| SegmentError::Io {
                                path,
                                doing: "cut the torn tail",
                                source,
                            })?;
                        }
                        recovered.cut_bytes += len - position.len;
                        let writer = SegmentWriter {
                            dir: dir.to_owned(),
                            file,
                            position,
                            pending_len: 0,
                            bytes_max,
                            buffer: Vec::new(),
                        };
                        return Ok((writer, recovered));
                    }
                    recovered.lost_bytes = position.len - len;
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    recovered.lost_bytes = position.len.saturating_sub(HEADER_BYTES);
                }
                Err(error) => return Err(io("open it")(error)),
            }
            newest = position.number;
        }
        let number = newest + 1;
        let file = create(dir, number)?;
        let position = Position { number, len: HEADER_BYTES };
        let writer = SegmentWriter {
            dir: dir.to_owned(),
            file,
            position,
            pending_len: 0,
            bytes_max,
            buffer: Vec::new(),
        };
        Ok((writer, recovered))
    }

    /// Begin the next file if this one is full. Only between groups: the position is durable.
    pub(super) fn rotate_if_full(&mut self) -> Result<bool, SegmentError> {
        if self.position.len < self.bytes_max {
            return Ok(false);
        }
        self.rotate()?;
        Ok(true)
    }

    fn rotate(&mut self) -> Result<(), SegmentError> {
        let number = self.position.number.saturating_add(1);
        self.file = create(&self.dir, number)?;
        self.position = Position { number, len: HEADER_BYTES };
        self.pending_len = 0;
        Ok(())
    }

    /// Append a frame. It is not durable before [`SegmentWriter::sync`], and is undone by
    /// [`SegmentWriter::roll_back`].
    pub(super) fn append(&mut self, frame: &Frame<'_>) -> Result<SliceLocation, SegmentError> {
        let interface = &frame.interface[..frame.interface.floor_char_boundary(255)];
        let buffer = &mut self.buffer;
        buffer.clear();
        buffer.extend_from_slice(&[0; PREFIX_BYTES]);
        buffer.extend(frame.epoch.0.to_le_bytes());
        buffer.extend(frame.first.0.to_le_bytes());
        buffer.extend(frame.last.0.to_le_bytes());
        buffer.extend(frame.packets.to_le_bytes());
        buffer.extend(frame.block_bytes.to_le_bytes());
        buffer.extend((frame.flows.len() as u32).to_le_bytes());
        buffer.push(interface.len() as u8);
        frame.flows.iter().for_each(|flow| buffer.extend(flow.0.to_le_bytes()));
        buffer.extend_from_slice(interface.as_bytes());
        buffer.extend_from_slice(frame.block);
        let body_len = (buffer.len() - PREFIX_BYTES) as u32;
        let checksum = crc32c::crc32c(&buffer[PREFIX_BYTES..]);
        buffer[..4].copy_from_slice(&body_len.to_le_bytes());
        buffer[4..8].copy_from_slice(&checksum.to_le_bytes());

        let offset = self.position.len + self.pending_len;
        self.file.write_all_at(&self.buffer, offset).map_err(|source| self.io("write", source))?;
        self.pending_len += self.buffer.len() as u64;
        Ok(SliceLocation {
            segment: self.position.number,
            offset,
            len: self.buffer.len() as u32,
            first: frame.first,
            last: frame.last,
        })
    }

    /// Make what was appended durable, and say how far the file goes then. [`SegmentWriter::commit`] takes it for
    /// granted; until then it can be rolled back.
    pub(super) fn sync(&mut self) -> Result<Position, SegmentError> {
        if self.pending_len > 0 {
            self.file.sync_data().map_err(|source| self.io("sync", source))?;
        }
        Ok(Position { len: self.position.len + self.pending_len, ..self.position })
    }

    pub(super) fn commit(&mut self) {
        self.position.len += self.pending_len;
        self.pending_len = 0;
    }

    /// Forget what was appended since the last commit.
    pub(super) fn roll_back(&mut self) {
        if std::mem::take(&mut self.pending_len) > 0
            && let Err(error) = self.file.set_len(self.position.len)
        {
            // The next append overwrites it, and opening cuts it.
            tracing::warn!(segment = self.position.number, %error, "cannot cut an unfinished write");
        }
    }

    pub(super) fn position(&self) -> Position {
        self.position
    }

    /// Whether there is anything to sync.
    pub(super) fn is_dirty(&self) -> bool {
        self.pending_len > 0
    }

    fn io(&self, doing: &'static str, source: io::Error) -> SegmentError {
        SegmentError::Io { path: path_of(&self.dir, self.position.number), doing, source }
    }
}

fn create(dir: &Path, number: u32) -> Result<File, SegmentError> {
    let path = path_of(dir, number);
    let build = || {
        let file = OpenOptions::new().write(true).create(true).truncate(true).open(&path)?;
        let mut header = [0; HEADER_BYTES as usize];
        header[..8].copy_from_slice(MAGIC);
        header[8..12].copy_from_slice(&VERSION.to_le_bytes());
        header[12..].copy_from_slice(&number.to_le_bytes());
        file.write_all_at(&header, 0)?;
        file.sync_all()?;
        // The name has to survive too.
        File::open(dir)?.sync_all()?;
        Ok(file)
    };
    build().map_err(|source| SegmentError::Io { path: path.clone(), doing: "create it", source })
}

/// The numbers of the segment files in `dir`, rising. Other files are not ours to judge.
pub(super) fn numbers(dir: &Path) -> io::Result<Vec<u32>> {
    let mut found = Vec::new();
    for file in std::fs::read_dir(dir)? {
        let name = file?.file_name();
        let number = name.to_str().and_then(|name| name.strip_suffix(".seg")).and_then(|n| n.parse::<u32>().ok());
        found.extend(number);
    }
    found.sort_unstable();
    Ok(found)
}

/// Reads frames; shared by all queries.
#[derive(Debug)]
pub(super) struct SegmentReader {
    dir: PathBuf,
    open: Mutex<VecDeque<(u32, Arc<File>)>>,
}

impl SegmentReader {
    pub(super) fn new(dir: &Path) -> SegmentReader {
        SegmentReader { dir: dir.to_owned(), open: Mutex::default() }
    }

    /// Forget a file that was removed.
    pub(super) fn close(&self, number: u32) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|(n, _)| *n != number);
    }

    fn file(&self, number: u32) -> Result<Arc<File>, SegmentError> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, file)) = open.iter().find(|(n, _)| *n == number) {
            return Ok(Arc::clone(file));
        }
        let path = path_of(&self.dir, number);
        let mut header = [0; HEADER_BYTES as usize];
        let file = match File::open(&path).and_then(|f| f.read_exact_at(&mut header, 0).map(|()| f)) {
            Ok(file) => Arc::new(file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(SegmentError::Gone { path }),
            Err(source) => return Err(SegmentError::Io { path, doing: "open it", source }),
        };
        let version = u32::from_le_bytes(std::array::from_fn(|i| header[8 + i]));
        if header[..8] != *MAGIC || version != VERSION {
            let problem = format!("it does not begin as a segment file of version {VERSION}");
            return Err(SegmentError::Damaged { path, offset: 0, problem });
        }
        open.push_back((number, Arc::clone(&file)));
        if open.len() > OPEN_FILES_MAX {
            open.pop_front();
        }
        Ok(file)
    }

    /// The frame at `offset`, checked and decompressed.
    pub(super) fn read(&self, number: u32, offset: u64) -> Result<StoredFrame, SegmentError> {
        let file = self.file(number)?;
        let path = path_of(&self.dir, number);
        let damaged = |problem: String| SegmentError::Damaged { path: path.clone(), offset, problem };
        let read = |bytes: &mut [u8], at| match file.read_exact_at(bytes, at) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                Err(damaged("the file ends inside it".to_owned()))
            }
            Err(source) => Err(SegmentError::Io { path: path.clone(), doing: "read", source }),
        };
        let mut prefix = [0; PREFIX_BYTES];
        read(&mut prefix, offset)?;
        let body_len = u32::from_le_bytes([prefix[0], prefix[1], prefix[2], prefix[3]]);
        let checksum = u32::from_le_bytes([prefix[4], prefix[5], prefix[6], prefix[7]]);
        if body_len > FRAME_BYTES_MAX {
            return Err(damaged(format!("it claims {body_len} bytes, the limit is {FRAME_BYTES_MAX}")));
        }
        let mut body = vec![0; body_len as usize];
        read(&mut body, offset + PREFIX_BYTES as u64)?;
        let found = crc32c::crc32c(&body);
        if found != checksum {
            return Err(damaged(format!("its checksum is {found:08x}, it should be {checksum:08x}")));
        }
        parse(&body).map_err(damaged)
    }
}

fn parse(body: &[u8]) -> Result<StoredFrame, String> {
    const HEADER: usize = FRAME_HEADER_BYTES - PREFIX_BYTES;
    let (header, rest) = body.split_first_chunk::<HEADER>().ok_or("its header is cut")?;
    let u64_at = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| header[at + i]));
    let u32_at = |at: usize| u32::from_le_bytes(std::array::from_fn(|i| header[at + i]));
    let flows_len = u32_at(32) as usize;
    let ids = rest.get(..flows_len.saturating_mul(8)).ok_or("its list of flows is cut")?;
    let rest = &rest[ids.len()..];
    let (name, block) = rest.split_at_checked(usize::from(header[36])).ok_or("its name is cut")?;
    let block_bytes = u32_at(28) as usize;
    if block_bytes > BLOCK_BYTES_MAX {
        return Err(format!("its block claims {block_bytes} bytes, the limit is {BLOCK_BYTES_MAX}"));
    }
    let block = zstd::bulk::decompress(block, block_bytes).map_err(|e| format!("its block: {e}"))?;
    if block.len() != block_bytes {
        return Err(format!("its block has {} bytes, not {block_bytes}", block.len()));
    }
    Ok(StoredFrame {
        epoch: EpochHash(u64_at(0)),
        first: RawNs(u64_at(8)),
        packets: u32_at(24),
        interface: String::from_utf8_lossy(name).into_owned(),
        flows: ids
            .chunks_exact(8)
            .map(|id| FlowId(u64::from_le_bytes(std::array::from_fn(|i| id[i]))))
            .collect(),
        block,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn append(writer: &mut SegmentWriter, text: &str) -> SliceLocation {
        let block = zstd::bulk::compress(text.as_bytes(), 1).unwrap();
        let frame = Frame {
            epoch: EpochHash(1),
            first: RawNs(10),
            last: RawNs(20),
            packets: 2,
            block_bytes: text.len() as u32,
            interface: "eth0",
            flows: &[FlowId(5), FlowId(6)],
            block: &block,
        };
        writer.append(&frame).unwrap()
    }

    fn committed(writer: &mut SegmentWriter, text: &str) -> (SliceLocation, Position) {
        let at = append(writer, text);
        let position = writer.sync().unwrap();
        writer.commit();
        (at, position)
    }

    fn block(reader: &SegmentReader, at: SliceLocation) -> Result<Vec<u8>, SegmentError> {
        reader.read(at.segment, at.offset).map(|frame| frame.block)
    }

    #[test]
    fn frames_come_back_and_an_unacknowledged_tail_is_cut() {
        let dir = tempfile::tempdir().unwrap();
        let (mut writer, recovered) = SegmentWriter::open(dir.path(), None, 1 << 20).unwrap();
        assert_eq!(recovered, Recovered::default());
        let (first, durable) = committed(&mut writer, "first");
        let torn = append(&mut writer, "never acknowledged");
        drop(writer);
        let (mut writer, recovered) = SegmentWriter::open(dir.path(), Some(durable), 1 << 20).unwrap();
        assert_eq!(recovered, Recovered { cut_bytes: u64::from(torn.len), lost_bytes: 0 });
        let (third, _) = committed(&mut writer, "third");
        assert_eq!(third.offset, torn.offset);
        let reader = SegmentReader::new(dir.path());
        assert_eq!(block(&reader, first).unwrap(), b"first");
        assert_eq!(block(&reader, third).unwrap(), b"third");
        let frame = reader.read(1, third.offset).unwrap();
        assert_eq!((frame.packets, frame.interface.as_str()), (2, "eth0"));
        assert_eq!(frame.flows, [FlowId(5), FlowId(6)]);
    }

    #[test]
    fn a_roll_back_leaves_no_trace() {
        let dir = tempfile::tempdir().unwrap();
        let (mut writer, _) = SegmentWriter::open(dir.path(), None, 1 << 20).unwrap();
        let gone = append(&mut writer, "gone");
        writer.roll_back();
        let (at, durable) = committed(&mut writer, "kept");
        assert_eq!(at.offset, gone.offset);
        assert_eq!(path_of(dir.path(), 1).metadata().unwrap().len(), durable.len);
    }

    #[test]
    fn files_rotate_and_one_nobody_was_told_of_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let (mut writer, _) = SegmentWriter::open(dir.path(), None, 32).unwrap();
        let (_, durable) = committed(&mut writer, "fills it");
        assert!(writer.rotate_if_full().unwrap());
        append(&mut writer, "in the second");
        drop(writer);
        assert_eq!(numbers(dir.path()).unwrap(), [1, 2]);
        let (writer, recovered) = SegmentWriter::open(dir.path(), Some(durable), 32).unwrap();
        assert!(recovered.cut_bytes > 0 && recovered.lost_bytes == 0);
        assert_eq!(numbers(dir.path()).unwrap(), [1]);
        assert_eq!(writer.position(), durable);
    }

    #[test]
    fn a_file_that_lost_acknowledged_bytes_is_left_alone_and_said() {
        let dir = tempfile::tempdir().unwrap();
        let (mut writer, _) = SegmentWriter::open(dir.path(), None, 1 << 20).unwrap();
        let (kept, _) = committed(&mut writer, "kept");
        let (lost, durable) = committed(&mut writer, "lost");
        drop(writer);
        let file = OpenOptions::new().write(true).open(path_of(dir.path(), 1)).unwrap();
        file.set_len(lost.offset + 3).unwrap();
        let (mut writer, recovered) = SegmentWriter::open(dir.path(), Some(durable), 1 << 20).unwrap();
        assert_eq!(recovered.lost_bytes, u64::from(lost.len) - 3);
        let (next, _) = committed(&mut writer, "next");
        assert_eq!(next.segment, 2);
        let reader = SegmentReader::new(dir.path());
        assert_eq!(block(&reader, kept).unwrap(), b"kept");
        assert_eq!(block(&reader, next).unwrap(), b"next");
        assert!(matches!(block(&reader, lost), Err(SegmentError::Damaged { .. })));
    }

    #[test]
    fn every_flipped_byte_of_a_frame_is_found_and_its_neighbours_live() {
        let dir = tempfile::tempdir().unwrap();
        let (mut writer, _) = SegmentWriter::open(dir.path(), None, 1 << 20).unwrap();
        let (before, _) = committed(&mut writer, "before");
        let (hit, _) = committed(&mut writer, "hit");
        let (after, _) = committed(&mut writer, "after");
        let reader = SegmentReader::new(dir.path());
        let file = OpenOptions::new().read(true).write(true).open(path_of(dir.path(), 1)).unwrap();
        for at in hit.offset..hit.offset + u64::from(hit.len) {
            let mut byte = [0];
            file.read_exact_at(&mut byte, at).unwrap();
            file.write_all_at(&[byte[0] ^ 0x40], at).unwrap();
            let error = block(&reader, hit).unwrap_err().to_string();
            assert!(error.contains(&format!("byte {}", hit.offset)), "{error}");
            assert!(block(&reader, before).is_ok() && block(&reader, after).is_ok());
            file.write_all_at(&byte, at).unwrap();
        }
        assert!(block(&reader, hit).is_ok());
        assert!(matches!(reader.read(9, 16), Err(SegmentError::Gone { .. })));
    }
}
