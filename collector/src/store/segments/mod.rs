//! Packets on disk: append-only segment files of frames, one frame a slice block, and behind them an index.
//!
//! Constraints: nothing is acknowledged before it is in a file that was synced; no byte of a file is written twice; every
//! frame can be checked, and its index rebuilt, from its own bytes; a packet is found the moment it is acknowledged.
//!
//! ```text
//! file:  0000000001.seg …
//! offset size
//!      0    8  "GNSLICES"
//!      8    4  version, 2
//!     12    4  number of the file
//!     16   32  end of the hash chain of the file before (zeros: there is none)
//!     48   12  zeros
//!     60    4  CRC-32C of the above
//!     64    …  frames, back to back
//!      …    …  once the file is full: the footer, see footer.rs
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
//! Integers are little endian. Files of version 1 have a header of 16 bytes, no chain and no footer; they are read, and
//! never written.
//!
//! **Index.** That of the file being written is in memory (`memory_index.rs`). When the file is full a thread of its own
//! writes it behind the frames as a footer, syncs it, and lets go of the memory. Looking for a flow asks each file's
//! directory, which is in memory, and reads three small places of those that may have it. A file that has no good footer
//! is rescanned and its index put into a file beside it (`0000000001.idx`, the bytes of a footer), so that what was found
//! damaged stays as it was found.
//!
//! **Chain.** The end of the chain is the BLAKE3 of the end before and the next frame's bytes; a file begins with the
//! BLAKE3 of its header, which holds the end of the file before. The database has the end at the durable position, a
//! footer that at its file's end.
//!
//! **Crash story.** The database says how far the newest file is durable ([`Position`]), in the same batch as everything
//! else of the group; only then are its frames put into the index. At open everything beyond that is cut off: nobody was
//! told it is safe, so the agent sends it again. The newest file is then rescanned, since its index was only in memory; so
//! is a file whose footer was not finished. A file that is *shorter* than the durable position lost data which was
//! acknowledged (a disk that lies about syncing): it is left as it is, said out loud, and a new file is begun. A frame
//! whose bytes rotted fails its checksum when it is read; a part of a footer that rotted fails its own: they are named and
//! counted, and their neighbours are not touched.

#[cfg(test)]
mod bench;
mod chain;
mod files;
mod find;
mod footer;
mod frame;
mod header;
mod memory_index;
mod pages;
mod recovery;
mod rescan;
mod sealer;
#[cfg(test)]
mod tests;
mod verify;
mod writer;

use std::io;
use std::path::{Path, PathBuf};

use gnomon_clock::RawNs;

use super::envelope::{DamagedValue, numbers, numbers_of};
use chain::Chain;

pub use files::BlockReader;
pub(super) use files::Segments;
pub use find::FlowSpan;
pub use frame::BLOCK_BYTES_MAX;
pub(super) use frame::Frame;
pub(super) use header::HEADER_BYTES;
pub(super) use recovery::Opening;
#[cfg(test)]
use recovery::Recovered;
pub(super) use verify::verify;
pub(super) use writer::SegmentWriter;

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
    #[error("segment file {}: its index is damaged: {problem}", path.display())]
    DamagedIndex { path: PathBuf, problem: String },
}

/// How far the newest file is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Position {
    pub(super) number: u32,
    pub(super) len: u64,
    /// The end of the hash chain there.
    pub(super) chain: Chain,
}

impl Position {
    /// As `META_SEGMENT` has it.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut value = numbers([u64::from(self.number), self.len]);
        value.extend_from_slice(&self.chain.0);
        value
    }

    pub(super) fn decode(value: &[u8]) -> Result<Position, DamagedValue> {
        let (place, chain) = value.split_at_checked(16).unwrap_or((value, &[]));
        let [number, len] = numbers_of("the segment's position", place)?;
        // Databases of before there was a chain have none.
        let chain = chain.first_chunk().map_or_else(Chain::default, |chain| Chain(*chain));
        Ok(Position { number: u32::try_from(number).unwrap_or(u32::MAX), len, chain })
    }
}

pub(super) fn path_of(dir: &Path, number: u32) -> PathBuf {
    dir.join(format!("{number:010}.seg"))
}

/// Of the index that lies beside a file.
fn index_path_of(dir: &Path, number: u32) -> PathBuf {
    dir.join(format!("{number:010}.idx"))
}

/// The numbers of the segment files in `dir`, rising. Other files are not ours to judge.
fn numbers_in(dir: &Path) -> io::Result<Vec<u32>> {
    let mut found = Vec::new();
    for file in std::fs::read_dir(dir)? {
        let name = file?.file_name();
        let number =
            name.to_str().and_then(|name| name.strip_suffix(".seg")).and_then(|n| n.parse::<u32>().ok());
        found.extend(number);
    }
    found.sort_unstable();
    Ok(found)
}
