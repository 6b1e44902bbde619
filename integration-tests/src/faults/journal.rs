//! What `interpose.c` wrote down: one record after the other, each
//!
//! ```text
//! offset size
//!      0    1  kind
//!      1    1  of a directory
//!      2    2  bytes of the path: p
//!      4    4  bytes of the second path: q
//!      8    8  inode
//!     16    8  offset, or length
//!     24    8  bytes that were written: n
//!     32    …  p, q and n bytes
//! ```
//! in the machine's own order of bytes. The last may be cut: its program was killed.

use std::ops::Range;
use std::path::Path;

use anyhow::{Context, Result, bail};

const HEADER_BYTES: usize = 32;

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// A file or a directory that was there was opened.
    Open {
        path: String,
        inode: u64,
    },
    /// A new file.
    Create {
        path: String,
        inode: u64,
    },
    /// The bytes' place in the journal.
    Write {
        inode: u64,
        offset: u64,
        data: Range<usize>,
    },
    Truncate {
        inode: u64,
        len: u64,
    },
    Sync {
        inode: u64,
        directory: bool,
    },
    SyncFailed {
        inode: u64,
    },
    Rename {
        from: String,
        to: String,
    },
    Link {
        from: String,
        to: String,
    },
    /// Of files and directories.
    Remove {
        path: String,
    },
    MakeDirectory {
        path: String,
    },
}

/// A journal, read.
#[derive(Debug)]
pub struct Journal {
    pub(super) bytes: Vec<u8>,
    /// Each with where its record ends.
    pub(super) events: Vec<(usize, Event)>,
}

impl Journal {
    /// # Errors
    /// When it cannot be read or is none.
    pub fn read(path: &Path) -> Result<Journal> {
        let bytes = std::fs::read(path).with_context(|| format!("read {}", path.display()))?;
        let mut events = Vec::new();
        let mut at = 0;
        while let Some((end, event)) = event(&bytes, at)? {
            events.push((end, event));
            at = end;
        }
        Ok(Journal { bytes, events })
    }

    /// How many records there are.
    pub fn len(&self) -> usize {
        self.events.len()
    }

    pub fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    /// How many records lie in the first `bytes` bytes.
    pub fn len_at(&self, bytes: u64) -> usize {
        self.events.partition_point(|(end, _)| *end as u64 <= bytes)
    }
}

/// The record at `at` and where it ends; none when it is cut.
fn event(bytes: &[u8], at: usize) -> Result<Option<(usize, Event)>> {
    let Some(head) = bytes.get(at..at + HEADER_BYTES) else { return Ok(None) };
    let number = |at: usize| u64::from_ne_bytes(std::array::from_fn(|i| head[at + i]));
    let path_len = usize::from(u16::from_ne_bytes([head[2], head[3]]));
    let path2_len = u32::from_ne_bytes([head[4], head[5], head[6], head[7]]) as usize;
    let (inode, offset, data_len) = (number(8), number(16), usize::try_from(number(24))?);
    let path_at = at + HEADER_BYTES;
    let (path2_at, data_at) = (path_at + path_len, path_at + path_len + path2_len);
    let end = data_at + data_len;
    if end > bytes.len() {
        return Ok(None);
    }
    let path = || Ok::<_, anyhow::Error>(String::from_utf8(bytes[path_at..path2_at].to_vec())?);
    let path2 = || Ok::<_, anyhow::Error>(String::from_utf8(bytes[path2_at..data_at].to_vec())?);
    let event = match head[0] {
        1 => Event::Open { path: path()?, inode },
        2 => Event::Create { path: path()?, inode },
        3 => Event::Write { inode, offset, data: data_at..end },
        4 => Event::Truncate { inode, len: offset },
        5 => Event::Sync { inode, directory: head[1] != 0 },
        6 => Event::SyncFailed { inode },
        7 => Event::Rename { from: path()?, to: path2()? },
        8 => Event::Link { from: path()?, to: path2()? },
        9 | 11 => Event::Remove { path: path()? },
        10 => Event::MakeDirectory { path: path()? },
        other => bail!("the journal has a record of kind {other} at byte {at}"),
    };
    Ok(Some((end, event)))
}
