//! What can be wrong with a capture file, said so that the reader knows where and what to do.

use std::fmt;
use std::io;

/// Why a file cannot be read, or not further.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    #[error("cannot open {name}: {source}")]
    Open { name: String, source: io::Error },
    #[error("cannot read {name} after byte {offset}: {source}")]
    Read { name: String, offset: u64, source: io::Error },
    #[error(
        "{name} is not a capture file: at byte 0 expected the magic number of pcap or pcapng, plain or packed with gzip, \
         zstd, xz or bzip2; {found}"
    )]
    NotACapture { name: String, found: String },
    #[error(
        "{name} is damaged at byte {offset}{}: {what}; the {frames} packets before it were read, to have the rest \
         take a fresh copy of the file",
        if *.unpacked { " of the unpacked data" } else { "" }
    )]
    Damaged { name: String, offset: u64, unpacked: bool, what: String, frames: u64 },
    #[error(
        "{name} is damaged before byte {bytes_read}: the {format} data cannot be unpacked beyond {unpacked} bytes \
         ({source}); the packets in these were read, to have the rest take a fresh copy of the file"
    )]
    Decompress { name: String, format: &'static str, bytes_read: u64, unpacked: u64, source: io::Error },
}

/// Where a file ends too early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TruncatedTail {
    /// Where the incomplete record begins, in the (unpacked) file.
    pub offset: u64,
    pub why: TailCause,
}

/// In the middle of what a file ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TailCause {
    /// The record needs `need` bytes or more, and the file has `have`.
    InsideRecord { have: u64, need: u64 },
    /// From here on there are only zeros: space that was reserved and never written.
    Zeros,
    /// The last packet is whole, but the compressed stream has no end.
    CompressedStream,
}

impl fmt::Display for TruncatedTail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let offset = self.offset;
        match self.why {
            TailCause::InsideRecord { have, need } => {
                write!(f, "the file ends inside the record at byte {offset}: it has {have} of {need} bytes")
            }
            TailCause::Zeros => write!(f, "the file has only zeros from byte {offset} on"),
            TailCause::CompressedStream => {
                write!(f, "the compressed data ends without its end mark after {offset} unpacked bytes")
            }
        }
    }
}

/// Why reading cannot begin.
pub(super) enum BeginError {
    Io(io::Error),
    /// What the file is instead.
    Not(String),
}

impl From<io::Error> for BeginError {
    fn from(error: io::Error) -> BeginError {
        BeginError::Io(error)
    }
}

/// As many bytes as the longest magic number below, and as a message shows.
pub(super) const LOOKALIKE_BYTES: usize = 8;

/// Files people take for captures, by their first bytes, and what to do with them.
const LOOKALIKES: [(&[u8], &str); 9] = [
    (
        b"\xfd7zXZ\0",
        "this file was packed with xz twice: unpack it once (xz -dc FILE) and give it on standard input",
    ),
    (
        b"BZh",
        "this file was packed with bzip2 twice: unpack it once (bzip2 -dc FILE) and give it on standard input",
    ),
    (
        b"\x04\x22\x4d\x18",
        "this is an lz4 file: unpack it first (lz4 -dc FILE) and give it on standard input",
    ),
    (b"PK\x03\x04", "this is a zip archive: unpack it first"),
    (b"snoop\0\0\0", "this is a snoop file: convert it first (editcap FILE OUT.pcapng)"),
    (b"GMBU", "this is a Network Monitor file: convert it first (editcap FILE OUT.pcapng)"),
    (b"RTSS", "this is a Network Monitor file: convert it first (editcap FILE OUT.pcapng)"),
    (
        b"\x1f\x8b",
        "this file was packed with gzip twice: unpack it once (zcat FILE) and give it on standard input",
    ),
    (
        b"\x28\xb5\x2f\xfd",
        "this file was packed with zstd twice: unpack it once (zstdcat FILE) and give it on standard input",
    ),
];

/// Describes bytes that are no capture's beginning.
pub(super) fn what_begins_with(bytes: &[u8]) -> String {
    if let Some((_, what)) = LOOKALIKES.iter().find(|(magic, _)| bytes.starts_with(magic)) {
        return (*what).to_owned();
    }
    let mut found = String::from("found");
    for byte in bytes.iter().take(LOOKALIKE_BYTES) {
        found.push_str(&format!(" {byte:02x}"));
    }
    found
}
