//! Files on their way to the disk: a thread of its own calls fdatasync, so that no append waits for it.
//!
//! A sync that failed says nothing of what is on the disk, and a later one of the same file says nothing of what was
//! written before. So nothing more is written to that file; what it holds is sent as long as it can be read.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use super::Shared;
use super::ledger::Noted;
use super::segment::SegmentFile;

const SUSPECT_MAX: usize = 8;

#[derive(Debug, Default)]
struct Pending {
    files: BTreeMap<u64, Arc<SegmentFile>>,
    /// Files whose sync failed.
    suspect: BTreeSet<u64>,
    /// A file was made since the last time: the directory has to follow.
    directory: bool,
    closed: bool,
}

/// Segments written to since the last fdatasync.
#[derive(Debug, Default)]
pub(super) struct SyncQueue {
    pending: Mutex<Pending>,
    closed: Condvar,
}

impl SyncQueue {
    /// To be synced next. False when the file is not to be written to any more.
    pub(super) fn written(&self, number: u64, file: &Arc<SegmentFile>, made: bool) -> bool {
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        pending.directory |= made;
        pending.files.entry(number).or_insert_with(|| Arc::clone(file));
        !pending.suspect.remove(&number)
    }

    pub(super) fn close(&self) {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner).closed = true;
        self.closed.notify_all();
    }
}

/// Syncs what was written each `sync_interval`, and once more when the queue is closed.
pub(super) fn run(shared: &Shared) {
    let queue = &shared.sync;
    let mut failing = false;
    loop {
        let pending = queue.pending.lock().unwrap_or_else(PoisonError::into_inner);
        let waited =
            queue.closed.wait_timeout_while(pending, shared.limits.sync_interval, |pending| !pending.closed);
        let mut pending = waited.unwrap_or_else(PoisonError::into_inner).0;
        let (closed, files) = (pending.closed, std::mem::take(&mut pending.files));
        let directory = std::mem::take(&mut pending.directory);
        drop(pending);
        let mut failed = None;
        let mut suspect = Vec::new();
        let looked = !files.is_empty() || directory;
        if looked {
            // Before the entries, so that what is on the disk is known to have been given out.
            note_all(shared);
        }
        for (number, file) in &files {
            if let Err(error) = file.file.sync_data() {
                suspect.push(*number);
                failed = Some(error);
            }
        }
        let mut again = false;
        if directory && let Err(error) = super::sync_directory(&shared.limits.dir) {
            again = true;
            failed = Some(error);
        }
        if let Some(error) = failed {
            let mut pending = queue.pending.lock().unwrap_or_else(PoisonError::into_inner);
            pending.directory |= again;
            pending.suspect.extend(suspect);
            // Two are written to; of the others nobody asks.
            while pending.suspect.len() > SUSPECT_MAX {
                pending.suspect.pop_first();
            }
            drop(pending);
            shared.index().sync_error = Some(format!("fdatasync: {error}"));
            if !failing {
                tracing::error!(dir = %shared.limits.dir.display(), %error, "cannot sync the spool: a power cut may lose what was written");
            }
            failing = true;
        } else if failing && looked {
            failing = false;
            shared.index().sync_error = None;
            tracing::info!("the spool is synced again, in other files");
        }
        if closed {
            return;
        }
    }
}

/// Notes how far each epoch is. What cannot be noted is no failure of the entries.
fn note_all(shared: &Shared) {
    let mut index = shared.index();
    let grown: Vec<Noted> =
        index.epochs.iter_mut().filter_map(|epoch| epoch.has_grown().then(|| Noted::of(epoch))).collect();
    drop(index);
    for noted in &grown {
        shared.note(noted);
    }
    let to_sync = shared.ledger().take_unsynced();
    if let Some(file) = to_sync {
        let _ = file.sync_data();
    }
}
