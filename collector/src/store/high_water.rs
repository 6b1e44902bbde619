//! What the database held at least, in a file of its own: how many writes were acknowledged, and how long its MANIFEST was.
//! With it an open can tell a database that is shorter than it was from one that is whole.
//!
//! Constraints: it is never ahead of what is durable, whatever is cut when; noting a batch costs one small write and no
//! sync. After SIGKILL it is exact; after a power cut it may be behind, and then finds less.
//!
//! ```text
//! high-water: two slots of 64 bytes, written in turn; the one with the higher turn holds
//! offset size
//!      0    8  "GNHIWATR"
//!      8    8  turn
//!     16    8  sequence number of the last write that is acknowledged
//!     24    8  number of the MANIFEST
//!     32    8  bytes of it that are durable
//!     40   20  zeros
//!     60    4  CRC-32C of the above
//! ```
//! Integers are little endian. `manifest.copy` beside it has those bytes of the MANIFEST.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::directory;
use super::rocks_manifest::{manifest_name, manifest_number};

pub(super) const HIGH_WATER: &str = "high-water";
pub(super) const MANIFEST_COPY: &str = "manifest.copy";
const MAGIC: &[u8; 8] = b"GNHIWATR";
const SLOT_BYTES: usize = 64;
/// A MANIFEST that is longer has no copy.
const COPY_BYTES_MAX: u64 = 256 << 20;

/// What a slot says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) sequence: u64,
    pub(super) manifest: u64,
    pub(super) manifest_bytes: u64,
    turn: u64,
}

impl Mark {
    fn encode(self) -> [u8; SLOT_BYTES] {
        let mut slot = [0; SLOT_BYTES];
        slot[..8].copy_from_slice(MAGIC);
        for (at, number) in
            [(8, self.turn), (16, self.sequence), (24, self.manifest), (32, self.manifest_bytes)]
        {
            slot[at..at + 8].copy_from_slice(&number.to_le_bytes());
        }
        let crc = crc32c::crc32c(&slot[..60]);
        slot[60..].copy_from_slice(&crc.to_le_bytes());
        slot
    }

    fn decode(slot: &[u8]) -> Option<Mark> {
        let slot: &[u8; SLOT_BYTES] = slot.first_chunk()?;
        let number = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| slot[at + i]));
        let crc = u32::from_le_bytes(std::array::from_fn(|i| slot[60 + i]));
        let good = slot[..8] == *MAGIC && crc == crc32c::crc32c(&slot[..60]);
        good.then(|| Mark {
            turn: number(8),
            sequence: number(16),
            manifest: number(24),
            manifest_bytes: number(32),
        })
    }
}

/// The file as it was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// A store of before there was one, or a copy of a store.
    Nothing,
    Mark(Mark),
    /// It is there, and no slot of it can be read.
    Damaged,
}

/// # Errors
/// What the disk said.
pub(super) fn find(data_dir: &Path) -> io::Result<Found> {
    let bytes = match std::fs::read(data_dir.join(HIGH_WATER)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Nothing),
        read => read?,
    };
    let marks = bytes.chunks(SLOT_BYTES).take(2).filter_map(Mark::decode);
    Ok(marks.max_by_key(|mark| mark.turn).map_or(Found::Damaged, Found::Mark))
}

/// The file of an open database.
#[derive(Debug)]
pub(super) struct HighWater {
    file: File,
    data_dir: PathBuf,
    mark: Mark,
}

impl HighWater {
    /// Takes it up for a database that was just opened, all of which up to `sequence` is durable.
    ///
    /// # Errors
    /// What the disk said.
    pub(super) fn open(data_dir: &Path, sequence: u64) -> io::Result<HighWater> {
        let path = data_dir.join(HIGH_WATER);
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path)?;
        let turn = match find(data_dir)? {
            Found::Mark(mark) => mark.turn,
            _ => 0,
        };
        let mut water = HighWater {
            file,
            data_dir: data_dir.to_owned(),
            mark: Mark { sequence, turn, ..Mark::default() },
        };
        water.keep_manifest()?;
        water.write()?;
        water.file.sync_data()?;
        directory::sync(data_dir)?;
        Ok(water)
    }

    /// Everything up to `sequence` is durable.
    pub(super) fn note(&mut self, sequence: u64) -> io::Result<()> {
        if sequence <= self.mark.sequence {
            return Ok(());
        }
        self.mark.sequence = sequence;
        self.write()
    }

    fn write(&mut self) -> io::Result<()> {
        self.mark.turn += 1;
        let at = (self.mark.turn % 2) * SLOT_BYTES as u64;
        self.file.write_all_at(&self.mark.encode(), at)
    }

    /// Brings the copy of the MANIFEST up to date, and notes how far it goes.
    ///
    /// # Errors
    /// What the disk said: the copy stays as it was, or is made anew the next time.
    pub(super) fn keep_manifest(&mut self) -> io::Result<()> {
        let db = self.data_dir.join("db");
        let current = std::fs::read_to_string(db.join("CURRENT"))?;
        let Some(number) = manifest_number(current.trim_end()) else { return Ok(()) };
        let manifest = File::open(db.join(manifest_name(number)))?;
        let len = manifest.metadata()?.len();
        let same = number == self.mark.manifest;
        if same && len == self.mark.manifest_bytes || len > COPY_BYTES_MAX {
            return Ok(());
        }
        // Nothing may be taken for durable that is not.
        manifest.sync_data()?;
        let mut from = if same { self.mark.manifest_bytes } else { 0 };
        let path = self.data_dir.join(MANIFEST_COPY);
        if same && !path.metadata().is_ok_and(|there| there.len() >= from) {
            from = 0;
        }
        let new = path.with_extension("copy.new");
        let target = if from == 0 { &new } else { &path };
        let mut options = OpenOptions::new();
        let copy = options.write(true).create(true).truncate(from == 0).mode(0o600).open(target)?;
        let mut piece = vec![0; 64 << 10];
        let mut at = from;
        while at < len {
            let want = usize::try_from(len - at).unwrap_or(usize::MAX).min(piece.len());
            manifest.read_exact_at(&mut piece[..want], at)?;
            copy.write_all_at(&piece[..want], at)?;
            at += want as u64;
        }
        copy.sync_data()?;
        if from == 0 {
            std::fs::rename(&new, &path)?;
            directory::sync(&self.data_dir)?;
        }
        (self.mark.manifest, self.mark.manifest_bytes) = (number, len);
        self.write()?;
        self.file.sync_data()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_slot_of_two_is_enough_and_none_is_said() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(find(dir.path()).unwrap(), Found::Nothing);
        std::fs::create_dir(dir.path().join("db")).unwrap();
        std::fs::write(dir.path().join("db/CURRENT"), "MANIFEST-000005\n").unwrap();
        std::fs::write(dir.path().join("db/MANIFEST-000005"), "some edits").unwrap();
        let mut water = HighWater::open(dir.path(), 7).unwrap();
        water.note(9).unwrap();
        water.note(8).unwrap();
        let whole = std::fs::read(dir.path().join(HIGH_WATER)).unwrap();
        let Found::Mark(mark) = find(dir.path()).unwrap() else { panic!("there is one") };
        assert_eq!((mark.sequence, mark.manifest, mark.manifest_bytes), (9, 5, 10));
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 1;
            std::fs::write(dir.path().join(HIGH_WATER), &damaged).unwrap();
            let found = find(dir.path()).unwrap();
            assert!(matches!(found, Found::Mark(Mark { sequence: 7 | 9, .. })), "byte {at}: {found:?}");
        }
        for cut in 1..SLOT_BYTES {
            std::fs::write(dir.path().join(HIGH_WATER), &whole[..cut]).unwrap();
            assert_eq!(find(dir.path()).unwrap(), Found::Damaged);
        }
        std::fs::write(dir.path().join("db/MANIFEST-000005"), "some edits more").unwrap();
        let mut again = HighWater::open(dir.path(), 9).unwrap();
        again.keep_manifest().unwrap();
        assert_eq!(std::fs::read(dir.path().join(MANIFEST_COPY)).unwrap(), b"some edits more");
    }
}
