//! All of a running store as it is between two groups: links to what is never changed again, and copies of the rest.
//!
//! It is asked for through a file in the data directory, so that who may write there may ask, and nobody else. The writer
//! makes `snapshot/`; whoever asked copies it and takes it away. What is left over goes at the next open.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::StoreError;
use super::writer::Writer;

const REQUEST: &str = "snapshot.request";
const FAILED: &str = "snapshot.failed";
const GROWING: &str = "snapshot.new";
const READY: &str = "snapshot";
/// Between two looks at whether it is there.
const LOOK: Duration = Duration::from_millis(100);

fn at<'p>(path: &'p Path) -> impl Fn(io::Error) -> StoreError + use<'p> {
    move |source| StoreError::Directory { path: path.to_owned(), source }
}

/// Takes away what is there, of whatever kind; that there is nothing is fine.
fn clear(path: &Path) -> io::Result<()> {
    let removed = if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Takes away what an earlier process left.
pub(super) fn clear_leftovers(dir: &Path) {
    for name in [REQUEST, FAILED, GROWING, READY] {
        let path = dir.join(name);
        if let Err(error) = clear(&path) {
            tracing::warn!(path = %path.display(), %error, "cannot take away what a backup left; it takes up space");
        }
    }
}

/// A snapshot that was made for us; taken away when it is dropped.
#[derive(Debug)]
pub struct Snapshot {
    path: PathBuf,
}

impl Snapshot {
    /// Asks the collector that runs on `dir` for one, and waits for it up to `patience`. Blocking.
    ///
    /// # Errors
    /// When somebody else asked already, the collector says why not, or nothing.
    pub fn ask(dir: &Path, patience: Duration) -> Result<Snapshot, StoreError> {
        let (request, failed) = (dir.join(REQUEST), dir.join(FAILED));
        let path = dir.join(READY);
        if path.exists() {
            let busy = "a backup is under way, or one was broken off: then remove it";
            return Err(at(&path)(io::Error::other(busy)));
        }
        clear(&failed).map_err(at(&failed))?;
        OpenOptions::new().write(true).create_new(true).open(&request).map_err(at(&request))?;
        let mut waited = Duration::ZERO;
        while waited < patience {
            if path.is_dir() {
                return Ok(Snapshot { path });
            }
            if let Ok(problem) = std::fs::read_to_string(&failed) {
                // The next one begins by taking it away.
                let _ = clear(&failed);
                return Err(at(dir)(io::Error::other(format!(
                    "the collector could not make a snapshot: {problem}"
                ))));
            }
            std::thread::sleep(LOOK);
            waited += LOOK;
        }
        // It may still be made: then the next start takes it away.
        let _ = clear(&request);
        Err(at(dir)(io::Error::other("the collector made no snapshot in time: see its log")))
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Snapshot {
    fn drop(&mut self) {
        // Leftovers go at the next open.
        let _ = clear(&self.path);
    }
}

impl Writer {
    /// Makes a snapshot if somebody asked for one; whether there is one now.
    pub fn answer_snapshot(&mut self) -> bool {
        if self.shared.read_only.is_some() {
            return false;
        }
        let dir = self.shared.dir.clone();
        let request = dir.join(REQUEST);
        if !request.exists() {
            return false;
        }
        let made = self.snapshot(&dir.join(GROWING)).and_then(|()| {
            // First, or it would be answered again.
            clear(&request).map_err(at(&request))?;
            std::fs::rename(dir.join(GROWING), dir.join(READY)).map_err(at(&dir))
        });
        match made {
            Ok(()) => {
                tracing::info!("made a snapshot for a backup");
                true
            }
            Err(error) => {
                tracing::error!(%error, "cannot make a snapshot for a backup");
                for path in [&request, &dir.join(GROWING)] {
                    if let Err(error) = clear(path) {
                        tracing::warn!(path = %path.display(), %error, "cannot take it away");
                    }
                }
                // Nobody reads it: they learn by waiting.
                let _ = std::fs::write(dir.join(FAILED), error.to_string());
                false
            }
        }
    }

    /// Everything that is acknowledged, under `to`. Only between groups.
    pub(super) fn snapshot(&mut self, to: &Path) -> Result<(), StoreError> {
        clear(to).map_err(at(to))?;
        let packets = to.join("segments");
        std::fs::create_dir_all(&packets).map_err(at(&packets))?;
        let newest = self.segments.finish_large()?;
        self.shared.segments.link(newest.number, &packets)?;
        let name = format!("{:010}.seg", newest.number);
        let from = self.shared.dir.join("segments").join(&name);
        let copy = || -> io::Result<()> {
            let mut written = File::open(&from)?.take(newest.len);
            io::copy(&mut written, &mut File::create_new(packets.join(&name))?).map(drop)
        };
        copy().map_err(at(&from))?;
        Ok(self.shared.rocks.checkpoint(&to.join("db"))?)
    }
}
