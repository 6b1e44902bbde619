//! What the collector acknowledged, kept across restarts: the file `ledger` of the spool.
//!
//! Appended to; records of 56 bytes, little endian, the last good one of an epoch holds:
//!
//! ```text
//!  0 16 agent · 16 16 boot id · 32 8 opened · 40 8 seq · 48 4 zero · 52 4 CRC-32C of bytes 0..52
//! ```
//!
//! Crash story: a torn or lost record means that entries are sent again, and the collector knows them by their number.
//! The file is therefore never synced, and a full disk costs no more than such a repetition.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use gnomon_clock::{EpochId, RawNs};

const RECORD_BYTES: usize = 56;
/// Above this the file is written anew with one record an epoch.
const FILE_BYTES_MAX: u64 = 64 * 1024;

#[derive(Debug)]
pub(super) struct Ledger {
    path: PathBuf,
    file: Option<File>,
    bytes: u64,
}

pub(super) type Acked = (EpochId, u64);

impl Ledger {
    pub(super) fn new(dir: &Path) -> Ledger {
        Ledger { path: dir.join("ledger"), file: None, bytes: FILE_BYTES_MAX }
    }

    /// The acknowledgements of the file; damaged records are passed over.
    pub(super) fn read(&self) -> io::Result<Vec<Acked>> {
        let bytes = match fs::read(&self.path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut acked: Vec<Acked> = Vec::new();
        for (epoch, seq) in bytes.chunks_exact(RECORD_BYTES).filter_map(decode) {
            match acked.iter_mut().find(|(known, _)| *known == epoch) {
                Some((_, highest)) => *highest = seq.max(*highest),
                None => acked.push((epoch, seq)),
            }
        }
        Ok(acked)
    }

    /// Notes one acknowledgement; `all` are those to keep when the file is written anew.
    pub(super) fn note(&mut self, news: Acked, all: impl FnOnce() -> Vec<Acked>) -> io::Result<()> {
        let written = match &mut self.file {
            Some(file) if self.bytes < FILE_BYTES_MAX => file.write_all(&encode(news)),
            _ => return self.rewrite(&all()),
        };
        self.bytes += RECORD_BYTES as u64;
        if written.is_err() {
            // A record may be torn: what follows would not be aligned.
            self.file = None;
        }
        written
    }

    /// Replaces the file by one that holds `all`.
    pub(super) fn rewrite(&mut self, all: &[Acked]) -> io::Result<()> {
        self.file = None;
        let new = self.path.with_extension("new");
        let mut file = File::create(&new)?;
        let bytes: Vec<u8> = all.iter().flat_map(|acked| encode(*acked)).collect();
        file.write_all(&bytes)?;
        fs::rename(&new, &self.path)?;
        self.bytes = bytes.len() as u64;
        self.file = Some(file);
        Ok(())
    }
}

fn encode((epoch, seq): Acked) -> [u8; RECORD_BYTES] {
    let mut record = [0; RECORD_BYTES];
    record[0..16].copy_from_slice(&epoch.agent);
    record[16..32].copy_from_slice(&epoch.boot_id);
    record[32..40].copy_from_slice(&epoch.opened.0.to_le_bytes());
    record[40..48].copy_from_slice(&seq.to_le_bytes());
    let crc = crc32c::crc32c(&record[..52]);
    record[52..].copy_from_slice(&crc.to_le_bytes());
    record
}

fn decode(record: &[u8]) -> Option<Acked> {
    let record: [u8; RECORD_BYTES] = record.try_into().ok()?;
    let u64_at = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| record[at + i]));
    let crc = u32::from_le_bytes(std::array::from_fn(|i| record[52 + i]));
    let epoch = EpochId {
        agent: std::array::from_fn(|i| record[i]),
        boot_id: std::array::from_fn(|i| record[16 + i]),
        opened: RawNs(u64_at(32)),
    };
    (crc == crc32c::crc32c(&record[..52])).then_some((epoch, u64_at(40)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn epoch(n: u8) -> EpochId {
        EpochId { agent: [n; 16], boot_id: [0; 16], opened: RawNs(5) }
    }

    #[test]
    fn the_highest_acknowledgement_of_an_epoch_survives_and_a_torn_record_is_passed() {
        let dir = tempfile::tempdir().unwrap();
        let mut ledger = Ledger::new(dir.path());
        for seq in [1, 7, 9] {
            ledger.note((epoch(1), seq), || vec![(epoch(1), seq)]).unwrap();
        }
        ledger.note((epoch(2), 4), Vec::new).unwrap();
        drop(ledger);
        let path = dir.path().join("ledger");
        let mut bytes = fs::read(&path).unwrap();
        bytes.extend_from_slice(&encode((epoch(1), 99))[..30]);
        fs::write(&path, bytes).unwrap();
        assert_eq!(Ledger::new(dir.path()).read().unwrap(), [(epoch(1), 9), (epoch(2), 4)]);
    }

    #[test]
    fn the_file_stays_small() {
        let dir = tempfile::tempdir().unwrap();
        let mut ledger = Ledger::new(dir.path());
        for seq in 1..5_000 {
            ledger.note((epoch(1), seq), || vec![(epoch(1), seq)]).unwrap();
        }
        assert!(fs::metadata(dir.path().join("ledger")).unwrap().len() <= FILE_BYTES_MAX);
        assert_eq!(ledger.read().unwrap(), [(epoch(1), 4_999)]);
    }
}
