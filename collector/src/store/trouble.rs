//! When the disk fails under the database.
//!
//! A write of the database that failed may be in its log all the same: a sync that failed says nothing of what is on the
//! disk. So it is neither taken for done nor given up: the same batch is written again, after the database was opened anew
//! where it takes nothing more, until it is durable. Batches say what is, not what changes, so that one written twice is as
//! one written once. Nothing is acknowledged meanwhile and nothing else is written; searches go on.
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
        let mut tries = 0;
        loop {
            let error = match self.shared.rocks.write(batch, durable) {
                Ok(()) => break,
                Err(error) if error.failure == RocksFailure::Stalled => return Err(error.into()),
                Err(error) => error,
            };
            if tries == 0 {
                tracing::error!(%error, "the database cannot be written: agents keep their data, searches go on");
            }
            self.shared.write_failures.fetch_add(1, Ordering::Relaxed);
            let mut trouble = Some(error.clone());
            while let Some(told) = trouble {
                self.set_stopped(Some(told.to_string()));
                if self.closing.load(Ordering::Acquire) {
                    self.unsettled = true;
                    return Err(error.into());
                }
                std::thread::sleep(RETRY * 2u32.pow(tries.min(PAUSES_DOUBLED)));
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
        self.shared.rocks.reopen()?;
        self.shared.reopened.fetch_add(1, Ordering::Relaxed);
        tracing::warn!("the database was opened again");
        Ok(())
    }
}
