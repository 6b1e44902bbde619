//! What has to outlive the process besides the entries, an epoch each: the file `ledger` of the spool.
//!
//! Appended to; records of 56 bytes, little endian, the highest value of an epoch and kind holds:
//!
//! ```text
//!  0 16 agent · 16 16 boot id · 32 8 opened · 40 8 value · 48 4 kind · 52 4 CRC-32C of bytes 0..52
//!
//! kind  value
//!    0  acknowledged up to this number
//!    1  settled up to this number; without it, all that is acknowledged is
//!    2  given out up to this number, as the last sync knew it
//!    3  entries given up after the last acknowledgement
//!    4  added to the numbers on the wire (docs/adr/0022)
//!    5  the epoch's `opened` on the wire
//! ```
//!
//! Crash story: a torn or lost record means that entries are sent again, and the collector knows them by their number, or
//! that fewer entries are missed than are missing. It is synced with the entries, and a full disk costs no more than that.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use gnomon_clock::{EpochId, RawNs};

use super::epoch::Epoch;
use crate::private;

const RECORD_BYTES: usize = 56;
/// Above this, or twice what it has to hold, the file is written anew with the records that are needed.
const FILE_BYTES_MAX: u64 = 64 * 1024;

/// What is noted of an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Noted {
    pub(super) epoch: EpochId,
    pub(super) acked: u64,
    pub(super) settled: Option<u64>,
    pub(super) given_out: u64,
    pub(super) given_up: u64,
    pub(super) shift: u64,
    pub(super) wire_opened: Option<RawNs>,
}

impl Noted {
    fn nothing(epoch: EpochId) -> Noted {
        Noted { epoch, acked: 0, settled: None, given_out: 0, given_up: 0, shift: 0, wire_opened: None }
    }

    /// All that is worth noting of an epoch.
    pub(super) fn of(epoch: &Epoch) -> Noted {
        Noted {
            epoch: epoch.id,
            acked: epoch.acked,
            settled: (epoch.settled < epoch.acked).then_some(epoch.settled),
            given_out: epoch.last_seq,
            given_up: epoch.given_up,
            shift: epoch.shift,
            wire_opened: (epoch.wire_id != epoch.id).then_some(epoch.wire_id.opened),
        }
    }

    /// Only what was acknowledged and settled.
    pub(super) fn acks(self) -> Noted {
        Noted { acked: self.acked, settled: self.settled, ..Noted::nothing(self.epoch) }
    }

    fn take(&mut self, kind: u32, value: u64) {
        match kind {
            0 => self.acked = self.acked.max(value),
            1 => self.settled = Some(self.settled.map_or(value, |known| known.max(value))),
            2 => self.given_out = self.given_out.max(value),
            3 => self.given_up = self.given_up.max(value),
            4 => self.shift = self.shift.max(value),
            5 => {
                self.wire_opened =
                    Some(self.wire_opened.map_or(RawNs(value), |known| known.max(RawNs(value))))
            }
            // Of a newer agent.
            _ => {}
        }
    }

    fn encode(&self, into: &mut Vec<u8>) {
        // What restrains an acknowledgement comes before it.
        let values = [
            (1, self.settled),
            (4, Some(self.shift).filter(|shift| *shift > 0)),
            (5, self.wire_opened.map(|raw| raw.0)),
            (3, Some(self.given_up).filter(|entries| *entries > 0)),
            (2, Some(self.given_out).filter(|seq| *seq > 0)),
            (0, Some(self.acked).filter(|seq| *seq > 0)),
        ];
        for (kind, value) in values {
            into.extend(value.map(|value| encode(&self.epoch, kind, value)).into_iter().flatten());
        }
    }
}

#[derive(Debug)]
pub(super) struct Ledger {
    path: PathBuf,
    file: Option<File>,
    bytes: u64,
    bytes_max: u64,
    unsynced: bool,
}

impl Ledger {
    pub(super) fn new(dir: &Path) -> Ledger {
        let path = dir.join("ledger");
        Ledger { path, file: None, bytes: FILE_BYTES_MAX, bytes_max: FILE_BYTES_MAX, unsynced: false }
    }

    /// What the file says; damaged records are passed over.
    pub(super) fn read(&self) -> io::Result<Vec<Noted>> {
        let bytes = match fs::read(&self.path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut noted: Vec<Noted> = Vec::new();
        for (epoch, kind, value) in bytes.chunks_exact(RECORD_BYTES).filter_map(decode) {
            let at = noted.iter().rposition(|known| known.epoch == epoch).unwrap_or_else(|| {
                noted.push(Noted::nothing(epoch));
                noted.len() - 1
            });
            noted[at].take(kind, value);
        }
        Ok(noted)
    }

    /// Notes what is new of one epoch; `all` is what to keep when the file is written anew.
    pub(super) fn note(&mut self, news: &Noted, all: impl FnOnce() -> Vec<Noted>) -> io::Result<()> {
        let mut bytes = Vec::with_capacity(6 * RECORD_BYTES);
        news.encode(&mut bytes);
        let written = match &mut self.file {
            Some(file) if self.bytes < self.bytes_max => file.write_all(&bytes),
            _ => return self.rewrite(&all()),
        };
        self.bytes += bytes.len() as u64;
        self.unsynced = true;
        if written.is_err() {
            // A record may be torn: what follows would not be aligned.
            self.file = None;
        }
        written
    }

    /// Replaces the file by one that holds `all`.
    pub(super) fn rewrite(&mut self, all: &[Noted]) -> io::Result<()> {
        self.file = None;
        let new = self.path.with_extension("new");
        let mut file = private::create(&new)?;
        let mut bytes = Vec::new();
        all.iter().for_each(|noted| noted.encode(&mut bytes));
        file.write_all(&bytes)?;
        fs::rename(&new, &self.path)?;
        self.bytes = bytes.len() as u64;
        self.bytes_max = FILE_BYTES_MAX.max(2 * self.bytes);
        self.file = Some(file);
        self.unsynced = true;
        Ok(())
    }

    /// A file to be synced, if it was written to.
    pub(super) fn take_unsynced(&mut self) -> Option<File> {
        let file = self.file.as_ref().filter(|_| self.unsynced)?;
        self.unsynced = false;
        file.try_clone().ok()
    }
}

fn encode(epoch: &EpochId, kind: u32, value: u64) -> [u8; RECORD_BYTES] {
    let mut record = [0; RECORD_BYTES];
    record[0..16].copy_from_slice(&epoch.agent);
    record[16..32].copy_from_slice(&epoch.boot_id);
    record[32..40].copy_from_slice(&epoch.opened.0.to_le_bytes());
    record[40..48].copy_from_slice(&value.to_le_bytes());
    record[48..52].copy_from_slice(&kind.to_le_bytes());
    let crc = crc32c::crc32c(&record[..52]);
    record[52..].copy_from_slice(&crc.to_le_bytes());
    record
}

fn decode(record: &[u8]) -> Option<(EpochId, u32, u64)> {
    let record: [u8; RECORD_BYTES] = record.try_into().ok()?;
    let u64_at = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| record[at + i]));
    let u32_at = |at: usize| u32::from_le_bytes(std::array::from_fn(|i| record[at + i]));
    let epoch = EpochId {
        agent: std::array::from_fn(|i| record[i]),
        boot_id: std::array::from_fn(|i| record[16 + i]),
        opened: RawNs(u64_at(32)),
    };
    (u32_at(52) == crc32c::crc32c(&record[..52])).then_some((epoch, u32_at(48), u64_at(40)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn epoch(n: u8) -> EpochId {
        EpochId { agent: [n; 16], boot_id: [0; 16], opened: RawNs(5) }
    }

    fn acked(n: u8, seq: u64) -> Noted {
        Noted { acked: seq, ..Noted::nothing(epoch(n)) }
    }

    #[test]
    fn the_highest_acknowledgement_of_an_epoch_survives_and_a_torn_record_is_passed() {
        let dir = tempfile::tempdir().unwrap();
        let mut ledger = Ledger::new(dir.path());
        for seq in [1, 7, 9] {
            ledger.note(&acked(1, seq), || vec![acked(1, seq)]).unwrap();
        }
        ledger.note(&acked(2, 4), Vec::new).unwrap();
        drop(ledger);
        let path = dir.path().join("ledger");
        let mut bytes = fs::read(&path).unwrap();
        bytes.extend_from_slice(&encode(&epoch(1), 0, 99)[..30]);
        fs::write(&path, bytes).unwrap();
        assert_eq!(Ledger::new(dir.path()).read().unwrap(), [acked(1, 9), acked(2, 4)]);
    }

    #[test]
    fn everything_noted_of_an_epoch_survives() {
        let dir = tempfile::tempdir().unwrap();
        let noted = Noted {
            epoch: epoch(3),
            acked: 10,
            settled: Some(4),
            given_out: 20,
            given_up: 2,
            shift: 7,
            wire_opened: Some(RawNs(6)),
        };
        Ledger::new(dir.path()).rewrite(&[noted]).unwrap();
        assert_eq!(Ledger::new(dir.path()).read().unwrap(), [noted]);
    }

    #[test]
    fn the_file_stays_small() {
        let dir = tempfile::tempdir().unwrap();
        let mut ledger = Ledger::new(dir.path());
        for seq in 1..5_000 {
            ledger.note(&acked(1, seq), || vec![acked(1, seq)]).unwrap();
        }
        assert!(fs::metadata(dir.path().join("ledger")).unwrap().len() <= FILE_BYTES_MAX);
        assert_eq!(ledger.read().unwrap(), [acked(1, 4_999)]);
    }
}
