//! Sealing: a full file's index goes from memory behind its frames, on a thread of its own so that nothing waits for it.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, PoisonError};
use std::thread::JoinHandle;

use super::files::{Index, Segments};
use super::footer::{Footer, Sealing};
use super::header::{HEADER_BYTES, Header};
use super::pages::Unreadable;
use super::{Position, path_of};

/// Files whose index waits in memory for a disk that takes it, at most: more are left to the next start.
const WAITING_MAX: usize = 16;

#[derive(Debug)]
pub(super) struct Sealer {
    segments: Arc<Segments>,
    /// Where full files end.
    waiting: Vec<Position>,
    thread: Option<JoinHandle<Vec<Position>>>,
}

impl Sealer {
    pub(super) fn new(segments: &Arc<Segments>) -> Sealer {
        Sealer { segments: Arc::clone(segments), waiting: Vec::new(), thread: None }
    }

    /// Seal the file that ends at `full`, and those that could not be sealed before.
    pub(super) fn seal(&mut self, full: Position) {
        self.join();
        self.waiting.push(full);
        if self.waiting.len() > WAITING_MAX {
            self.waiting.remove(0);
        }
        let (segments, jobs) = (Arc::clone(&self.segments), self.waiting.clone());
        let work = move || jobs.into_iter().filter(|full| !seal_one(&segments, *full)).collect();
        match std::thread::Builder::new().name("sealer".to_owned()).spawn(work) {
            Ok(thread) => {
                self.waiting.clear();
                self.thread = Some(thread);
            }
            Err(error) => tracing::warn!(%error, "cannot start a thread; the file is sealed later"),
        }
    }

    /// Waits for what is under way.
    pub(super) fn join(&mut self) {
        if let Some(thread) = self.thread.take() {
            match thread.join() {
                Ok(failed) => self.waiting.extend(failed),
                Err(_) => {
                    tracing::error!("sealing a segment file panicked; it is indexed anew at the next start")
                }
            }
        }
    }
}

impl Drop for Sealer {
    fn drop(&mut self) {
        self.join();
    }
}

/// False when it has to be tried again.
fn seal_one(segments: &Segments, full: Position) -> bool {
    let path = path_of(segments.dir(), full.number);
    match write_footer(segments, full) {
        Ok(true) => {
            tracing::info!(segment = full.number, chain = %full.chain, "sealed a segment file");
            true
        }
        Ok(false) => true,
        // Given up for space meanwhile.
        Err(error) if error.kind() == io::ErrorKind::NotFound => true,
        Err(error) => {
            tracing::warn!(file = %path.display(), %error, "cannot seal a segment file; its index stays in memory");
            false
        }
    }
}

/// False when there is nothing to seal.
fn write_footer(segments: &Segments, full: Position) -> io::Result<bool> {
    let Some(index) = segments.index(full.number) else { return Ok(false) };
    let Index::Memory(memory) = &*index else { return Ok(false) };
    let file = OpenOptions::new().read(true).write(true).open(path_of(segments.dir(), full.number))?;
    let mut header = [0; HEADER_BYTES];
    file.read_exact_at(&mut header, 0)?;
    let before = Header::decode(&header).map_err(io::Error::other)?.before.unwrap_or_default();
    let bytes = {
        let index = memory.read().unwrap_or_else(PoisonError::into_inner);
        let (number, chain, frames_end) = (full.number, full.chain, full.len);
        Sealing { number, before, chain, frames_end, index: &index }.encode(full.len)
    };
    let footer = append(&file, full, &bytes).inspect_err(|_| {
        // What is there of it is cut off at the next try or start.
        let _ = file.set_len(full.len);
    })?;
    segments.replace(full.number, Index::Disk { footer, beside: false });
    Ok(true)
}

fn append(file: &File, full: Position, bytes: &[u8]) -> io::Result<Footer> {
    file.set_len(full.len)?;
    file.write_all_at(bytes, full.len)?;
    file.sync_data()?;
    match Footer::load(file, full.number) {
        Ok(Some(footer)) => Ok(footer),
        Ok(None) => Err(io::Error::other("the footer cannot be read back")),
        Err(Unreadable::Io(error)) => Err(error),
        Err(Unreadable::Damaged(problem)) => Err(io::Error::other(problem)),
    }
}
