//! What is known of each epoch: whose it is, and the evidence of its time. The database holds them all; memory, those
//! used lately.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use gnomon_clock::{EpochId, Fix, RawNs, Timeline};
use gnomon_flow::{AgentId, EpochHash};

use super::StoreError;
use super::block::bloom::Mixing;
use super::envelope::decode_epoch;
use super::keys::{self, Family};
use super::rocks::Rocks;

/// Epochs kept in memory; a timeline is up to 20 KiB.
const CACHED_MAX: usize = 1024;

/// One epoch.
#[derive(Clone, Debug)]
pub(crate) struct Epoch {
    pub(super) id: EpochId,
    pub(super) agent_name: Arc<str>,
    pub(super) timeline: Timeline,
    /// RAW broke: later readings may be of another stretch.
    pub(super) ended: Option<RawNs>,
    /// The agent's epochs before and after this one, as far as it told.
    pub(super) predecessor: Option<EpochId>,
    pub(super) successor: Option<EpochId>,
    /// Exchanges from here on are relative to a collector without proof of its time.
    pub(super) relative_from: Option<RawNs>,
}

impl Epoch {
    pub(super) fn new(id: EpochId, agent_name: &str) -> Epoch {
        Epoch {
            id,
            agent_name: agent_name.into(),
            timeline: Timeline::new(id),
            ended: None,
            predecessor: None,
            successor: None,
            relative_from: None,
        }
    }

    pub(super) fn agent(&self) -> AgentId {
        AgentId(self.id.agent)
    }

    /// What it takes in memory, about.
    fn bytes(&self) -> usize {
        size_of::<Epoch>() + self.agent_name.len() + self.timeline.fixes().count() * size_of::<Fix>()
    }
}

/// The evidence of all epochs as it stood at a moment. It does not change, so a listing that goes by one from its first page
/// to its last has every record in one place, whatever evidence comes meanwhile.
#[derive(Debug, Default)]
pub(crate) struct Testimony {
    /// Rises with each change of evidence; the first is of this process's own.
    pub(crate) number: u64,
    /// Rises with each that moved records which had a place in time.
    pub(crate) moves: u64,
    epochs: HashMap<EpochHash, Arc<Epoch>, Mixing>,
    /// Read from the database since.
    read: Mutex<HashMap<EpochHash, Arc<Epoch>, Mixing>>,
}

impl Testimony {
    /// The epoch, from memory or the database.
    pub(super) fn get(&self, rocks: &Rocks, hash: EpochHash) -> Result<Option<Arc<Epoch>>, StoreError> {
        if let Some(epoch) = self.epochs.get(&hash) {
            return Ok(Some(Arc::clone(epoch)));
        }
        let read = || self.read.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(epoch) = read().get(&hash) {
            return Ok(Some(Arc::clone(epoch)));
        }
        let Some(value) = rocks.get(Family::Epochs, &keys::epoch(hash))? else { return Ok(None) };
        let epoch = Arc::new(decode_epoch(&value)?);
        let mut read = read();
        make_room(&mut read, hash);
        Ok(Some(Arc::clone(read.entry(hash).or_insert(epoch))))
    }

    fn all(&self) -> impl Iterator<Item = &Arc<Epoch>> {
        self.epochs.values()
    }
}

/// Any may go: a map's order is as good as random, and all are in the database.
fn make_room(map: &mut HashMap<EpochHash, Arc<Epoch>, Mixing>, hash: EpochHash) {
    if map.len() >= CACHED_MAX
        && !map.contains_key(&hash)
        && let Some(some) = map.keys().next().copied()
    {
        map.remove(&some);
    }
}

/// What is known now.
#[derive(Debug)]
pub(super) struct Epochs {
    now: RwLock<Arc<Testimony>>,
}

impl Epochs {
    /// Numbers begin with `number`.
    pub(super) fn new(number: u64) -> Epochs {
        Epochs { now: RwLock::new(Arc::new(Testimony { number, moves: number, ..Testimony::default() })) }
    }

    pub(super) fn now(&self) -> Arc<Testimony> {
        Arc::clone(&self.now.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The epoch, from memory or the database.
    pub(super) fn get(&self, rocks: &Rocks, hash: EpochHash) -> Result<Option<Arc<Epoch>>, StoreError> {
        self.now().get(rocks, hash)
    }

    /// Takes what was just made durable; `moved` where it moves records that have a place in time.
    pub(super) fn put(&self, changed: impl Iterator<Item = (EpochHash, Arc<Epoch>)>, moved: bool) {
        let before = self.now();
        let mut epochs = before.epochs.clone();
        let read = before.read.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for (hash, epoch) in read.into_iter().chain(changed) {
            make_room(&mut epochs, hash);
            epochs.insert(hash, epoch);
        }
        let after = Testimony {
            number: before.number + 1,
            moves: before.moves + u64::from(moved),
            epochs,
            read: Mutex::default(),
        };
        *self.now.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(after);
    }
}

/// Listings that are remembered at most, and the bytes of evidence kept for them alone.
const LISTINGS_MAX: usize = 256;
const LISTINGS_BYTES_MAX: usize = 64 << 20;

/// The evidence that listings under way go by, the one used last behind the others.
#[derive(Debug, Default)]
pub(super) struct Listings {
    kept: VecDeque<Arc<Testimony>>,
    /// How many of them have an epoch as it was then, by where it lies, and what these take.
    uses: HashMap<usize, usize>,
    bytes: usize,
}

impl Listings {
    /// Keeps it for the next page.
    pub(super) fn keep(&mut self, testimony: &Arc<Testimony>) {
        if self.find(testimony.number).is_some() {
            return;
        }
        for epoch in testimony.all() {
            let uses = self.uses.entry(Arc::as_ptr(epoch).addr()).or_default();
            self.bytes += if *uses == 0 { epoch.bytes() } else { 0 };
            *uses += 1;
        }
        self.kept.push_back(Arc::clone(testimony));
        while self.kept.len() > LISTINGS_MAX || self.kept.len() > 1 && self.bytes > LISTINGS_BYTES_MAX {
            let Some(gone) = self.kept.pop_front() else { return };
            for epoch in gone.all() {
                let at = Arc::as_ptr(epoch).addr();
                let Some(uses) = self.uses.get_mut(&at) else { continue };
                *uses -= 1;
                if *uses == 0 {
                    self.uses.remove(&at);
                    self.bytes = self.bytes.saturating_sub(epoch.bytes());
                }
            }
        }
    }

    /// The evidence of this number, if it is still there.
    pub(super) fn find(&mut self, number: u64) -> Option<Arc<Testimony>> {
        let at = self.kept.iter().position(|kept| kept.number == number)?;
        let found = self.kept.remove(at)?;
        self.kept.push_back(Arc::clone(&found));
        Some(found)
    }
}

#[cfg(test)]
mod tests {
    use gnomon_clock::{FixSource, UtcNs};

    use super::*;
    use crate::store::testing::epoch;

    fn with_fixes(agent: u8, count: u64) -> (EpochHash, Arc<Epoch>) {
        let mut made = Epoch::new(epoch(agent), "agent");
        for n in 0..count {
            let (raw, utc) = (RawNs(n << 40), UtcNs::from_tai_ns((n << 40).cast_signed()));
            made.timeline.add(Fix { raw, utc, err_ns: 1_000_000, source: FixSource::Kernel });
        }
        (EpochHash::of(&made.id), Arc::new(made))
    }

    #[test]
    fn listings_are_kept_up_to_a_number_and_to_the_bytes_that_they_alone_take() {
        let epochs = Epochs::new(7);
        let mut listings = Listings::default();
        listings.keep(&epochs.now());
        let mut bytes_max = 0;
        for n in 0..2 * LISTINGS_MAX as u64 {
            // One epoch that each listing shares, and one that is another each time.
            let shared = (n == 0).then(|| with_fixes(1, 40));
            epochs.put(shared.into_iter().chain([with_fixes(2, 1)]), false);
            listings.keep(&epochs.now());
            listings.keep(&epochs.now());
            bytes_max = bytes_max.max(listings.bytes);
        }
        assert_eq!(listings.kept.len(), LISTINGS_MAX);
        let one = with_fixes(2, 1).1.bytes();
        assert_eq!(listings.bytes, with_fixes(1, 40).1.bytes() + LISTINGS_MAX * one);
        assert_eq!(listings.uses.len(), 1 + LISTINGS_MAX);
        assert!(listings.find(7).is_none(), "the oldest is forgotten");
        assert_eq!(listings.find(epochs.now().number).map(|kept| kept.number), Some(epochs.now().number));
        // Large ones are fewer, and there is always one.
        listings.bytes = LISTINGS_BYTES_MAX * 2;
        epochs.put([with_fixes(2, 1)].into_iter(), true);
        listings.keep(&epochs.now());
        assert_eq!(listings.kept.len(), 1);
    }
}
