//! Rows of one length in pages that are checked one by one, so that a few rows can be read without the rest.
//!
//! ```text
//! page: CRC-32C of its rows (4 bytes), then its rows; all pages but the last are full
//! ```

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

const CHECKSUM_BYTES: usize = 4;

/// Where a table of rows lies in a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Pages<const ROW: usize> {
    pub(super) offset: u64,
    pub(super) rows: u32,
}

/// Why a part of an index cannot be had.
#[derive(Debug)]
pub(super) enum Unreadable {
    Io(io::Error),
    Damaged(String),
}

impl From<io::Error> for Unreadable {
    fn from(error: io::Error) -> Unreadable {
        if error.kind() == io::ErrorKind::UnexpectedEof {
            return Unreadable::Damaged("the file ends inside it".to_owned());
        }
        Unreadable::Io(error)
    }
}

/// `len` bytes at `offset` behind their checksum.
pub(super) fn read_checked(file: &File, offset: u64, len: usize) -> Result<Vec<u8>, Unreadable> {
    let mut bytes = vec![0; CHECKSUM_BYTES + len];
    file.read_exact_at(&mut bytes, offset)?;
    let rows = bytes.split_off(CHECKSUM_BYTES);
    if crc32c::crc32c(&rows).to_le_bytes() != *bytes {
        return Err(Unreadable::Damaged(format!("its {len} bytes at {offset} fail their checksum")));
    }
    Ok(rows)
}

pub(super) fn append_checked(bytes: &[u8], out: &mut Vec<u8>) {
    out.extend(crc32c::crc32c(bytes).to_le_bytes());
    out.extend_from_slice(bytes);
}

impl<const ROW: usize> Pages<ROW> {
    /// A page is 4 KiB at most.
    pub(super) const ROWS: u32 = ((4096 - CHECKSUM_BYTES) / ROW) as u32;

    pub(super) fn pages(&self) -> u32 {
        self.rows.div_ceil(Self::ROWS)
    }

    /// Bytes of all pages.
    pub(super) fn len(&self) -> u64 {
        u64::from(self.rows) * ROW as u64 + u64::from(self.pages()) * CHECKSUM_BYTES as u64
    }

    /// The rows of a page, checked.
    pub(super) fn read(&self, file: &File, page: u32) -> Result<Vec<u8>, Unreadable> {
        let before = u64::from(page) * u64::from(Self::ROWS);
        let rows = u64::from(self.rows).saturating_sub(before).min(u64::from(Self::ROWS)) as usize;
        let stride = (CHECKSUM_BYTES + Self::ROWS as usize * ROW) as u64;
        read_checked(file, self.offset.saturating_add(u64::from(page) * stride), rows * ROW)
    }

    /// Append the table that `rows` make.
    pub(super) fn append(rows: impl Iterator<Item = [u8; ROW]>, out: &mut Vec<u8>) {
        let mut page = Vec::with_capacity(Self::ROWS as usize * ROW);
        for row in rows {
            page.extend_from_slice(&row);
            if page.len() == Self::ROWS as usize * ROW {
                append_checked(&page, out);
                page.clear();
            }
        }
        if !page.is_empty() {
            append_checked(&page, out);
        }
    }
}
