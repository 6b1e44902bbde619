//! What means nothing, kept as it came: it was acknowledged, so this is the only copy.
//!
//! One file each: `EPOCH-SEQ.entry` holds an entry of an agent as the protobuf `Entry`; `EPOCH-FLOW-SEGMENT.record` a record
//! that no block can hold, as a batch of one (zstd of a protobuf `FlowBatch`). At most [`BYTES_MAX`] of disk and
//! [`FILES_MAX`] files in all, after which they are only counted. A file takes whole blocks of the disk, and counts so.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use gnomon_flow::{EpochHash, FlowRef};
use gnomon_proto::{Message, v1};

use super::directory;

/// Bytes of disk in all.
const BYTES_MAX: u64 = 64 << 20;
/// Files in all.
const FILES_MAX: u64 = 8_192;
/// What a file takes at least, and in steps of which.
const BLOCK_BYTES: u64 = 4_096;

#[derive(Clone, Copy, Debug, Default)]
struct Taken {
    bytes: u64,
    files: u64,
}

/// The directory; clones share it.
#[derive(Clone, Debug)]
pub struct Quarantine {
    dir: PathBuf,
    taken: Arc<Mutex<Taken>>,
}

fn of_disk(metadata: &std::fs::Metadata) -> u64 {
    // Some file systems keep the shortest files without a block of their own.
    (metadata.blocks() * 512).max(metadata.len().next_multiple_of(BLOCK_BYTES)).max(BLOCK_BYTES)
}

impl Quarantine {
    /// # Errors
    /// When the directory cannot be made or listed.
    pub fn open(dir: &Path) -> std::io::Result<Quarantine> {
        directory::create(dir)?;
        let mut taken = Taken::default();
        for file in std::fs::read_dir(dir)? {
            taken.bytes += of_disk(&file?.metadata()?);
            taken.files += 1;
        }
        Ok(Quarantine { dir: dir.to_owned(), taken: Arc::new(Mutex::new(taken)) })
    }

    /// Keep `entry`, durably, since it is acknowledged next; `None` when there is no room. Blocking.
    ///
    /// # Errors
    /// What the disk said.
    pub fn keep(&self, epoch: EpochHash, entry: &v1::Entry) -> std::io::Result<Option<PathBuf>> {
        self.put(&format!("{:016x}-{}.entry", epoch.0, entry.seq), &entry.encode_to_vec())
    }

    /// Keep a record that no block can hold, durably, since it leaves the store next. Blocking.
    ///
    /// # Errors
    /// What the disk said.
    pub(super) fn keep_record(&self, id: FlowRef, batch: &[u8]) -> std::io::Result<Option<PathBuf>> {
        self.put(&format!("{:016x}-{:016x}-{}.record", id.epoch.0, id.flow.0, id.segment), batch)
    }

    fn put(&self, name: &str, bytes: &[u8]) -> std::io::Result<Option<PathBuf>> {
        let path = self.dir.join(name);
        let wanted = (bytes.len() as u64).next_multiple_of(BLOCK_BYTES).max(BLOCK_BYTES);
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        // The same again, as after a session that was cut, takes the place of what is there.
        let before = std::fs::symlink_metadata(&path).ok().map(|metadata| of_disk(&metadata));
        let others = Taken {
            bytes: taken.bytes.saturating_sub(before.unwrap_or(0)),
            files: taken.files.saturating_sub(u64::from(before.is_some())),
        };
        if others.bytes + wanted > BYTES_MAX || others.files + 1 > FILES_MAX {
            return Ok(None);
        }
        match write(&path, bytes).and_then(|took| directory::sync(&self.dir).map(|()| took)) {
            Ok(took) => {
                *taken = Taken { bytes: others.bytes + took.max(wanted), files: others.files + 1 };
                Ok(Some(path))
            }
            Err(error) => {
                *taken = others;
                // What there is of it is worth nothing, and its room may be wanted.
                let _ = std::fs::remove_file(&path);
                Err(error)
            }
        }
    }
}

/// What is wrong with a file of the quarantine, if anything is.
pub(super) fn problem_of(path: &Path, bytes: &[u8]) -> Option<String> {
    let checked = match path.extension().and_then(std::ffi::OsStr::to_str) {
        Some("record") => zstd::bulk::decompress(bytes, gnomon_proto::limits::BATCH_BYTES_MAX)
            .map_err(|error| error.to_string())
            .and_then(|batch| v1::FlowBatch::decode(&batch[..]).map(drop).map_err(|error| error.to_string())),
        // A payload whose checksum is wrong may be here because of that.
        _ => v1::Entry::decode(bytes).map(drop).map_err(|error| error.to_string()),
    };
    checked.err()
}

/// What it takes of the disk.
fn write(path: &Path, bytes: &[u8]) -> std::io::Result<u64> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    Ok(of_disk(&file.metadata()?))
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

    #[test]
    fn small_files_count_as_what_they_take_of_the_disk_and_the_same_again_counts_once() {
        let dir = tempfile::tempdir().unwrap();
        let quarantine = Quarantine::open(dir.path()).unwrap();
        let entry = |seq| v1::Entry { seq, payload: vec![1].into(), ..Default::default() };
        for _ in 0..100 {
            quarantine.keep(EpochHash(1), &entry(1)).unwrap().unwrap();
        }
        let taken = |quarantine: &Quarantine| *quarantine.taken.lock().unwrap();
        let once = taken(&quarantine);
        assert!(once.files == 1 && once.bytes >= BLOCK_BYTES && once.bytes < 2 * BLOCK_BYTES, "{once:?}");
        for seq in 2..10 {
            quarantine.keep(EpochHash(1), &entry(seq)).unwrap().unwrap();
        }
        let all = taken(&quarantine);
        assert!(all.files == 9 && all.bytes >= 9 * BLOCK_BYTES, "{all:?}");
        let again = taken(&Quarantine::open(dir.path()).unwrap());
        assert_eq!((again.files, again.bytes), (all.files, all.bytes));
        quarantine.taken.lock().unwrap().files = FILES_MAX;
        assert_eq!(quarantine.keep(EpochHash(2), &entry(1)).unwrap(), None);
        assert!(quarantine.keep(EpochHash(1), &entry(1)).unwrap().is_some(), "it is there already");
    }
}
