//! The memory that entries take when they are read, and the threads that read large ones.
//!
//! What is read of an entry may be many times what came. Room for the most that it can be is taken before it is read, and
//! what it did not need is given back at once. Whoever waits for room here holds none of it, and what holds it goes to the
//! committer: so everybody gets his turn.

use std::sync::Arc;

use gnomon_proto::v1;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::entry::{self, Checked, Opened};
use crate::enrich::Enrichment;

/// What one batch may take when it is read: see `FlowBatch::memory_bytes`.
pub(super) const ROOM_BYTES_MIN: usize = 128 << 20;
/// Entries that decompress to more are read on threads of their own, so many at a time.
const LARGE_BYTES: usize = 512 << 10;
const READERS: usize = 2;

/// Shared by all sessions.
#[derive(Debug)]
pub(super) struct Reading {
    room: Arc<Semaphore>,
    readers: Semaphore,
}

impl Reading {
    pub(super) fn new(room_bytes: usize) -> Reading {
        let room = room_bytes.max(ROOM_BYTES_MIN);
        Reading { room: Arc::new(Semaphore::new(room)), readers: Semaphore::new(READERS) }
    }

    /// What an entry means, and the room that it takes until it is durable.
    pub(super) async fn check(
        &self,
        entry: &Arc<v1::Entry>,
        enrichment: &Arc<Enrichment>,
    ) -> (Checked, Option<OwnedSemaphorePermit>) {
        let large = entry::expands_to(entry) > LARGE_BYTES;
        // It is never closed.
        let _reader = if large { self.readers.acquire().await.ok() } else { None };
        let to_open = Arc::clone(entry);
        let opened = apart(large, move || entry::open(&to_open)).await;
        let (plain, memory_max) = match opened {
            Some(Opened::Flows(plain, memory_max)) => (plain, memory_max),
            Some(Opened::Checked(checked)) => return (checked, None),
            None => return (Checked::fault(), None),
        };
        let wanted = u32::try_from(memory_max.min(ROOM_BYTES_MIN)).unwrap_or(u32::MAX);
        let mut room = Arc::clone(&self.room).acquire_many_owned(wanted).await.ok();
        let (to_read, enrichment) = (Arc::clone(entry), Arc::clone(enrichment));
        let read = apart(large, move || entry::read(&plain, &to_read.payload, &enrichment)).await;
        let (checked, memory) = read.unwrap_or_else(|| (Checked::fault(), 0));
        if let Some(room) = &mut room {
            let spare = room.num_permits().saturating_sub(memory);
            drop(room.split(spare));
        }
        (checked, room)
    }
}

/// Here, or on a thread where it holds up nobody; `None` when that panicked.
async fn apart<T: Send + 'static>(large: bool, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    if large { tokio::task::spawn_blocking(work).await.ok() } else { Some(work()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Content, RecordBatch, testing};

    #[tokio::test]
    async fn room_is_taken_as_it_is_needed_and_given_back() {
        let reading = Reading::new(0);
        let records: Vec<_> = (0..20_000).map(|id| testing::record(id, 1, 5, 9)).collect();
        let payload = RecordBatch::payload("eth0", &records);
        let crc32c = crc32c::crc32c(&payload);
        let kind = v1::EntryKind::Flows.into();
        let entry = Arc::new(v1::Entry { kind, crc32c, payload, ..Default::default() });
        let (checked, room) = reading.check(&entry, &Arc::default()).await;
        assert!(matches!(checked.content, Content::Flows { records, .. } if records.len() == 20_000));
        let room = room.unwrap();
        let taken = 20_000 * size_of::<gnomon_flow::FlowRecord>();
        assert_eq!((room.num_permits(), reading.room.available_permits()), (taken, ROOM_BYTES_MIN - taken));
        drop(room);
        assert_eq!(reading.room.available_permits(), ROOM_BYTES_MIN);
    }
}
