//! When the disk fails under the database.
//!
//! A write of the database that failed may be in its log all the same: a sync that failed says nothing of what is on the
//! disk. So it is neither taken for done nor given up: the same batch is written again, after the database was opened anew
//! where it takes nothing more, until it is durable. Batches say what is, not what changes, so that one written twice is as
//! one written once. Nothing is acknowledged meanwhile and nothing else is written; searches go on.
//!
//! What is corrupt is another matter: opening the database again changes nothing about it. Where it can be opened, one file of
//! it is damaged; then files are not merged any more, which would need that one, and it goes on. Where it cannot, it stands
//! still, looks again after pauses that grow to minutes, and serves what the database that is still open can read.
//!
//! A process that is stopped before that leaves the question to the next open, which goes by what the log has. Therefore
//! the packets that belong to the batch are not cut off then.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::StoreError;
use super::retention::free_bytes;
use super::rocks::{Batch, RocksError, RocksFailure};
use super::writer::Writer;

/// Before the second try; each pause is twice the one before, four times at most: opening a database writes files.
const RETRY: Duration = Duration::from_millis(250);
const PAUSES_DOUBLED: u32 = 4;
/// The same where the database is corrupt: five minutes.
const CORRUPT_PAUSES_DOUBLED: u32 = 10;
const PAUSE_MAX: Duration = Duration::from_secs(300);
/// What an operator can do about a corrupt database.
pub const ADVICE: &str = "with the collector stopped, `gnomon-collector verify` names what is damaged and \
                          `gnomon-collector restore` brings a backup to another data_dir; agents keep their data \
                          until then";
/// Tries until a database that met a full disk is opened anew, if it does not go on by itself.
const NO_SPACE_TRIES: u32 = 6;
/// Opening a database takes room: with less it could end half open.
const REOPEN_BYTES_MIN: u64 = 32 << 20;

impl Writer {
    /// Set it, and a write that fails is given up instead of tried for ever.
    pub fn closing(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.closing)
    }

    /// Writes a batch; with `durable` it is on the disk then. Takes as long as the disk needs to be mended.
    ///
    /// # Errors
    /// When nothing of it was written, or the process is stopping: then this writer writes nothing more.
    pub(super) fn write(&mut self, batch: &Batch, durable: bool) -> Result<(), StoreError> {
        if self.unsettled {
            return Err(StoreError::Stopping);
        }
        // What a start finds to be done is done in memory, and again by the one that can write.
        if self.shared.read_only.is_some() {
            return Ok(());
        }
        let mut tries = 0;
        let mut told: Option<RocksFailure> = None;
        loop {
            let error = match self.shared.rocks.write(batch, durable) {
                Ok(()) => break,
                Err(error) if error.failure == RocksFailure::Stalled => return Err(error.into()),
                Err(error) => error,
            };
            self.shared.write_failures.fetch_add(1, Ordering::Relaxed);
            let mut trouble = Some(error.clone());
            while let Some(now) = trouble {
                let corrupt = now.failure == RocksFailure::Corrupt;
                self.set_stopped(Some(if corrupt { format!("{now}; {ADVICE}") } else { now.to_string() }));
                // Each state once, however often it is looked at.
                if told != Some(now.failure) {
                    told = Some(now.failure);
                    say(&now);
                }
                if !self.pause(tries, corrupt) {
                    self.unsettled = true;
                    return Err(error.into());
                }
                tries += 1;
                trouble = self.mend(&error, tries).err();
            }
        }
        if tries > 0 {
            self.set_stopped(None);
            tracing::info!(tries, "the database takes in again: nothing was lost");
        }
        Ok(())
    }

    /// Waits before the next try; false when the process is to stop.
    fn pause(&self, tries: u32, corrupt: bool) -> bool {
        let doubled = tries.min(if corrupt { CORRUPT_PAUSES_DOUBLED } else { PAUSES_DOUBLED });
        let mut left = (RETRY * 2u32.pow(doubled)).min(PAUSE_MAX);
        loop {
            if self.closing.load(Ordering::Acquire) {
                return false;
            }
            if left.is_zero() {
                return true;
            }
            let nap = left.min(RETRY);
            std::thread::sleep(nap);
            left -= nap;
        }
    }

    /// What can be done until the next try.
    ///
    /// # Errors
    /// When nothing can be written yet.
    fn mend(&mut self, error: &RocksError, tries: u32) -> Result<(), RocksError> {
        let free = |writer: &Writer| free_bytes(&writer.shared.dir).unwrap_or(0);
        if error.failure == RocksFailure::NoSpace {
            while free(self) < self.limits.free_bytes_min && self.drop_oldest_segment().unwrap_or(false) {}
            if tries < NO_SPACE_TRIES || free(self) < REOPEN_BYTES_MIN {
                return Ok(());
            }
        }
        let rocks = &self.shared.rocks;
        // It can be opened, and does not go on: one of its files is damaged, and merging it ends all writing.
        let unmerged = error.failure == RocksFailure::Corrupt;
        let was = rocks.is_unmerged();
        rocks.reopen(!unmerged && !was)?;
        self.shared.reopened.fetch_add(1, Ordering::Relaxed);
        tracing::warn!("the database was opened again");
        if unmerged && !was {
            tracing::error!(
                %error,
                "a file of the database is damaged: what it has is missing from answers, the rest is served and new data \
                 are taken in; files are not merged any more, so that it takes more room: {ADVICE}"
            );
        }
        Ok(())
    }
}

fn say(error: &RocksError) {
    match error.failure {
        RocksFailure::Corrupt => {
            tracing::error!(%error, "the database is corrupt: nothing is taken in, searches get what can be read; {ADVICE}");
        }
        _ => {
            tracing::error!(%error, "the database cannot be written: agents keep their data, searches go on")
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use gnomon_flow::FlowRecord;

    use super::*;
    use crate::store::keys::Family;
    use crate::store::scan::Everything;
    use crate::store::testing::{FakeClock, S, epoch, fix, fixes, flows, open, record, seal};
    use crate::store::{Span, Stop, Store};

    const ROWS: u64 = 4000;

    /// Records of a block, whose columns take more than one piece of a file.
    fn rows(block: u64) -> Vec<FlowRecord> {
        let row = |n: u64| {
            let mut record = record(block * ROWS + n, 0, S + n * 1_000_003 % S, 2 * S);
            record.orig.bytes = n.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 24;
            record
        };
        (0..ROWS).map(row).collect()
    }

    /// Rots a piece in the first quarter of a file, as a disk does.
    fn damage(path: &std::path::Path) {
        let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
        let at = file.metadata().unwrap().len() / 4;
        file.write_all_at(&[0xA5; 64], at).unwrap();
    }

    /// Records found, and blocks that could not be read.
    fn count(store: &Store) -> (usize, u64) {
        let page =
            store.page(Span::ALL, true, None, &Everything, 100_000, &|| Stop::GoOn, &mut |_| true).unwrap();
        (page.flows.len(), page.damaged)
    }

    #[test]
    fn a_damaged_file_of_the_database_costs_what_is_in_it_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let clock = FakeClock::new();
        let (store, mut writer) = open(dir.path(), &clock);
        writer.commit(&[fixes(epoch(1), vec![fix(1, 100)])]).unwrap();
        for block in 0..6 {
            writer.commit(&[flows(epoch(1), block + 1, rows(block))]).unwrap();
            seal(&mut writer);
        }
        writer.close().unwrap();
        let files = store.shared.rocks.files_of(Family::Columns);
        assert!(!files.is_empty());
        let total = 6 * ROWS as usize;
        assert_eq!(count(&store), (total, 0));
        assert_eq!(store.status().unwrap().damage(), None);
        drop(store);
        damage(&files[0]);
        let (store, mut writer) = open(dir.path(), &clock);
        let (found, damaged) = count(&store);
        assert!(damaged > 0 && found > 0 && found < total, "{found} records, {damaged} damaged");
        let said = store.status().unwrap().damaged_blocks;
        assert!((1..=6).contains(&said), "{said}: each block once");

        // A merge meets it, which ends all writing; it goes on without merging, at once.
        store.shared.rocks.merge(Family::Columns);
        for block in 6..9 {
            writer.commit(&[flows(epoch(1), block + 1, rows(block))]).unwrap();
            seal(&mut writer);
        }
        let status = store.status().unwrap();
        assert!(status.reopened == 1 && status.stopped.is_none(), "{status:?}");
        let damage = status.damage().unwrap();
        assert!(
            damage.contains("cannot be read") && damage.contains("not merged") && damage.contains(ADVICE),
            "{damage}"
        );
        assert_eq!(count(&store), (found + 3 * ROWS as usize, damaged));
        writer.close().unwrap();
    }

    /// The database cannot be opened at all: it looks at it less and less often, and searches go on by the one that is open.
    #[test]
    fn a_database_that_cannot_be_opened_is_left_alone_and_still_read() {
        let dir = tempfile::tempdir().unwrap();
        let clock = FakeClock::new();
        let (store, mut writer) = open(dir.path(), &clock);
        writer.commit(&[fixes(epoch(1), vec![fix(1, 100)])]).unwrap();
        for block in 0..3 {
            writer.commit(&[flows(epoch(1), block + 1, rows(block))]).unwrap();
            seal(&mut writer);
        }
        store.shared.rocks.flush().unwrap();
        // Something that merges meet, to end writing, and something that no opening passes.
        store.shared.rocks.files_of(Family::Columns).iter().for_each(|file| damage(file));
        let current = dir.path().join("db/CURRENT");
        let good = std::fs::read(&current).unwrap();
        std::fs::write(&current, "nonsense").unwrap();
        store.shared.rocks.merge(Family::Columns);
        let before = count(&store);
        let said = std::thread::scope(|scope| {
            let writing =
                scope.spawn(|| writer.commit(&[flows(epoch(1), 4, rows(3))]).map(|done| done.len()));
            let mut said = None;
            for _ in 0..200 {
                std::thread::sleep(Duration::from_millis(25));
                let status = store.status().unwrap();
                assert_eq!(status.reopened, 0);
                said = status.stopped.or(said);
            }
            assert!(!writing.is_finished(), "nothing is acknowledged");
            assert_eq!(count(&store), before, "what could be read can be read");
            let failures = store.status().unwrap().write_failures;
            assert_eq!(failures, 1, "no write is tried on a database that is not open");
            std::fs::write(&current, &good).unwrap();
            assert_eq!(writing.join().unwrap().unwrap(), 1);
            said
        });
        let said = said.unwrap();
        assert!(said.contains("gnomon-collector verify") && said.contains("restore"), "{said}");
        assert_eq!(store.status().unwrap().stopped, None);
        assert_eq!(count(&store).0, before.0 + ROWS as usize);
    }

    #[test]
    fn a_database_without_its_first_file_is_not_taken_for_an_empty_one() {
        let dir = tempfile::tempdir().unwrap();
        let clock = FakeClock::new();
        let (store, mut writer) = open(dir.path(), &clock);
        writer.commit(&[fixes(epoch(1), vec![fix(1, 100)]), flows(epoch(1), 1, rows(0))]).unwrap();
        drop((store, writer));
        let current = dir.path().join("db/CURRENT");
        let good = std::fs::read(&current).unwrap();
        std::fs::remove_file(&current).unwrap();
        let gate = crate::store::testing::gate(&clock);
        let error = super::super::open(dir.path(), &gate, crate::store::testing::LIMITS).err();
        assert!(error.is_some_and(|error| error.to_string().contains("no file CURRENT")));
        std::fs::write(&current, good).unwrap();
        let (store, _writer) = open(dir.path(), &clock);
        assert_eq!(count(&store), (ROWS as usize, 0));
    }
}
