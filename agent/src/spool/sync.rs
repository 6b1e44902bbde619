//! Files on their way to the disk: a thread of its own calls fdatasync, so that no append waits for it.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use super::Shared;
use super::segment::SegmentFile;

#[derive(Debug, Default)]
struct Pending {
    files: BTreeMap<u64, Arc<SegmentFile>>,
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
    pub(super) fn written(&self, number: u64, file: &Arc<SegmentFile>, made: bool) {
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        pending.directory |= made;
        pending.files.entry(number).or_insert_with(|| Arc::clone(file));
    }

    pub(super) fn close(&self) {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner).closed = true;
        self.closed.notify_all();
    }
}

/// Syncs what was written each `sync_interval`, and once more when the queue is closed.
pub(super) fn run(shared: &Shared) {
    let queue = &shared.sync;
    loop {
        let pending = queue.pending.lock().unwrap_or_else(PoisonError::into_inner);
        let waited =
            queue.closed.wait_timeout_while(pending, shared.limits.sync_interval, |pending| !pending.closed);
        let mut pending = waited.unwrap_or_else(PoisonError::into_inner).0;
        let (closed, files) = (pending.closed, std::mem::take(&mut pending.files));
        let directory = std::mem::take(&mut pending.directory);
        drop(pending);
        let mut failed = None;
        for file in files.values() {
            failed = file.file.sync_data().err().or(failed);
        }
        if directory {
            let synced = std::fs::File::open(&shared.limits.dir).and_then(|dir| dir.sync_all());
            failed = synced.err().or(failed);
        }
        if let Some(error) = failed {
            tracing::error!(dir = %shared.limits.dir.display(), %error, "cannot sync the spool: a power cut may lose what was written");
            shared.index().error = Some(format!("fdatasync: {error}"));
        }
        if closed {
            return;
        }
    }
}
