//! Entries that mean nothing, kept as they came: they were acknowledged, so this is the only copy.
//!
//! One file an entry, `EPOCH-SEQ.entry`, holding the protobuf `Entry`; at most [`BYTES_MAX`] in all, after which they
//! are only counted.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use gnomon_flow::EpochHash;
use gnomon_proto::{Message, v1};

use crate::store::directory;

/// Bytes kept in all.
const BYTES_MAX: u64 = 64 << 20;

/// The directory of such entries; clones share it.
#[derive(Clone, Debug)]
pub struct Quarantine {
    dir: PathBuf,
    bytes: Arc<AtomicU64>,
}

impl Quarantine {
    /// # Errors
    /// When the directory cannot be made or listed.
    pub fn open(dir: &Path) -> std::io::Result<Quarantine> {
        directory::create(dir)?;
        let mut bytes = 0;
        for file in std::fs::read_dir(dir)? {
            bytes += file?.metadata()?.len();
        }
        Ok(Quarantine { dir: dir.to_owned(), bytes: Arc::new(AtomicU64::new(bytes)) })
    }

    /// Keep `entry`, durably, since it is acknowledged next; `None` when there is no room. Blocking.
    ///
    /// # Errors
    /// What the disk said.
    pub fn keep(&self, epoch: EpochHash, entry: &v1::Entry) -> std::io::Result<Option<PathBuf>> {
        let bytes = entry.encode_to_vec();
        let len = bytes.len() as u64;
        if self.bytes.fetch_add(len, Ordering::Relaxed) + len > BYTES_MAX {
            self.bytes.fetch_sub(len, Ordering::Relaxed);
            return Ok(None);
        }
        let path = self.dir.join(format!("{:016x}-{}.entry", epoch.0, entry.seq));
        match write(&path, &bytes).and_then(|()| directory::sync(&self.dir)) {
            Ok(()) => Ok(Some(path)),
            Err(error) => {
                self.bytes.fetch_sub(len, Ordering::Relaxed);
                // What there is of it is worth nothing, and its room may be wanted.
                let _ = std::fs::remove_file(&path);
                Err(error)
            }
        }
    }
}

fn write(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_kept_whole_until_there_is_no_room() {
        let dir = tempfile::tempdir().unwrap();
        let quarantine = Quarantine::open(dir.path()).unwrap();
        let entry = v1::Entry { seq: 7, payload: vec![1; 40 << 20].into(), ..Default::default() };
        let path = quarantine.keep(EpochHash(3), &entry).unwrap().unwrap();
        assert_eq!(v1::Entry::decode(&std::fs::read(path).unwrap()[..]).unwrap(), entry);
        assert_eq!(quarantine.keep(EpochHash(4), &entry).unwrap(), None);
        let again = Quarantine::open(dir.path()).unwrap();
        assert_eq!(again.keep(EpochHash(5), &entry).unwrap(), None);
    }
}
