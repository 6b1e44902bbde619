//! Which store the acknowledgements in the ledger are from: the file `store` of the spool, 16 hexadecimal digits and a
//! newline. An agent that is moved to another collector says so, and what that one does not have was not lost there.
//!
//! Crash story: it is written after the ledger knows what this store has. A crash in between names the store before it,
//! of which nothing is claimed then.

use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::private;

const FILE: &str = "store";

/// 0 is that of a collector which does not say.
#[derive(Debug, Default)]
pub(super) struct StoreId(AtomicU64);

impl StoreId {
    /// A file that cannot be read names no store.
    pub(super) fn read(dir: &Path) -> StoreId {
        let text = fs::read_to_string(dir.join(FILE)).unwrap_or_default();
        StoreId(AtomicU64::new(u64::from_str_radix(text.trim(), 16).unwrap_or(0)))
    }

    pub(super) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// # Errors
    /// What the disk said; it holds until the process ends all the same.
    pub(super) fn set(&self, dir: &Path, id: u64) -> io::Result<()> {
        if self.0.swap(id, Ordering::Relaxed) == id {
            return Ok(());
        }
        let new = dir.join("store.new");
        private::create(&new)?.write_all(format!("{id:016x}\n").as_bytes())?;
        fs::rename(&new, dir.join(FILE))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_outlives_the_process_and_a_torn_file_names_none() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(StoreId::read(dir.path()).get(), 0);
        StoreId::read(dir.path()).set(dir.path(), u64::MAX - 7).unwrap();
        assert_eq!(StoreId::read(dir.path()).get(), u64::MAX - 7);
        fs::write(dir.path().join(FILE), "zz").unwrap();
        assert_eq!(StoreId::read(dir.path()).get(), 0);
    }
}
