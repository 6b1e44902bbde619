//! The command that starts the collector's time over from its machine's clock.
//!
//! It is asked for through a file in the data directory, so that who may write there may ask, and nobody else, whether the
//! collector runs or not.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Hold, StoreError};

/// Between two looks at whether it was done.
const LOOK: Duration = Duration::from_millis(100);

pub(super) fn request_in(dir: &Path) -> PathBuf {
    dir.join("clock-reset.request")
}

/// What became of the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClockReset {
    Done,
    /// No collector runs: the next one begins with it.
    AtNextStart,
}

/// Asks the collector of `dir` to start its time over, and waits up to `patience` until it did. Blocking.
///
/// # Errors
/// When the directory cannot be written to, or the collector does nothing.
pub fn ask_clock_reset(dir: &Path, patience: Duration) -> Result<ClockReset, StoreError> {
    let request = request_in(dir);
    let at = |path: &Path, source| StoreError::Directory { path: path.to_owned(), source };
    // A directory without a store is another one than was meant.
    let runs = match Hold::take(dir) {
        Ok(_held) => false,
        Err(StoreError::InUse { .. }) => true,
        Err(error) => return Err(error),
    };
    std::fs::write(&request, []).map_err(|source| at(&request, source))?;
    if !runs {
        return Ok(ClockReset::AtNextStart);
    }
    let mut waited = Duration::ZERO;
    while waited < patience {
        if !request.exists() {
            return Ok(ClockReset::Done);
        }
        std::thread::sleep(LOOK);
        waited += LOOK;
    }
    let slow = std::io::Error::other("the collector has not done it yet: see its log; it stays asked for");
    Err(at(dir, slow))
}
