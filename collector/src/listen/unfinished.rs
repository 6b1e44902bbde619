//! Memory of what has begun to come and is not whole: reserved before it is read, bounded over all peers.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use super::limits::{GIVE_WAY, UNFINISHED_BYTES_MAX, UNFINISHED_SHARE};
use super::places::Party;

#[derive(Debug, Default)]
struct State {
    next: u64,
    holders: BTreeMap<u64, (Party, CancellationToken)>,
    bytes: HashMap<Party, usize>,
}

#[derive(Debug)]
struct Inner {
    permits: Arc<Semaphore>,
    state: Mutex<State>,
}

/// Clones share the memory.
#[derive(Clone, Debug)]
pub(super) struct Unfinished(Arc<Inner>);

impl Default for Unfinished {
    fn default() -> Unfinished {
        let permits = Arc::new(Semaphore::new(UNFINISHED_BYTES_MAX));
        Unfinished(Arc::new(Inner { permits, state: Mutex::default() }))
    }
}

/// Bytes for one message, given back when dropped.
#[derive(Debug)]
pub(super) struct Reservation {
    unfinished: Unfinished,
    number: u64,
    party: Party,
    bytes: usize,
    evicted: CancellationToken,
    _permit: Option<OwnedSemaphorePermit>,
}

impl Unfinished {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until there is room; who holds far more than others gives way.
    pub(super) async fn reserve(self, party: Party, bytes: usize) -> Reservation {
        let bytes = bytes.min(UNFINISHED_SHARE);
        let many = u32::try_from(bytes).unwrap_or(u32::MAX);
        let mut acquired = std::pin::pin!(Arc::clone(&self.0.permits).acquire_many_owned(many));
        let permit = loop {
            match tokio::time::timeout(GIVE_WAY, acquired.as_mut()).await {
                // Never closed.
                Ok(permit) => break permit.ok(),
                Err(_) => self.give_way(),
            }
        };
        let evicted = CancellationToken::new();
        let mut state = self.state();
        state.next += 1;
        let number = state.next;
        state.holders.insert(number, (party, evicted.clone()));
        *state.bytes.entry(party).or_default() += bytes;
        drop(state);
        Reservation { unfinished: self, number, party, bytes, evicted, _permit: permit }
    }

    fn give_way(&self) {
        let state = self.state();
        let Some((most, bytes)) = state.bytes.iter().max_by_key(|(_, bytes)| **bytes) else { return };
        if *bytes > UNFINISHED_SHARE {
            let theirs = state.holders.values().find(|(party, token)| party == most && !token.is_cancelled());
            if let Some((_, evicted)) = theirs {
                evicted.cancel();
            }
        }
    }
}

impl Reservation {
    /// Cancelled when the message has to give way.
    pub(super) fn evicted(&self) -> &CancellationToken {
        &self.evicted
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut state = self.unfinished.state();
        state.holders.remove(&self.number);
        if let Some(bytes) = state.bytes.get_mut(&self.party) {
            *bytes -= self.bytes;
            if *bytes == 0 {
                state.bytes.remove(&self.party);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_holds_most_gives_way_and_nobody_goes_beyond_the_limit() {
        let unfinished = Unfinished::default();
        let hog = Party::User(1);
        let mut held = Vec::new();
        for _ in 0..8 {
            held.push(unfinished.clone().reserve(hog, UNFINISHED_SHARE).await);
        }
        assert_eq!(unfinished.0.permits.available_permits(), 0);
        let honest = tokio::spawn(unfinished.clone().reserve(Party::User(2), 1 << 20));
        held[0].evicted().cancelled().await;
        assert!(!held[1].evicted().is_cancelled());
        held.remove(0);
        let honest = honest.await.unwrap();
        assert!(!honest.evicted().is_cancelled());
        drop((held, honest));
        assert_eq!(unfinished.0.permits.available_permits(), UNFINISHED_BYTES_MAX);
        assert!(unfinished.state().bytes.is_empty() && unfinished.state().holders.is_empty());
    }
}
