//! What agents say they saw acknowledged and the store does not have: told in their Hello, until they have sent it again or
//! gone on without it.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use gnomon_clock::EpochId;
use gnomon_flow::{AgentId, EpochHash};

use super::envelope::{numbers, numbers_of};
use super::keys::{self, Family};
use super::ledger::Ledger;
use super::rocks::{Batch, Rocks};
use super::{Store, StoreError};

/// Epochs of all agents for which this is known; of more, what does not come again is not counted.
const EPOCHS_MAX: usize = 4096;

/// The last acknowledged entry of an epoch, and how many are missing up to it.
#[derive(Clone, Copy, Debug)]
struct Claim {
    acknowledged: u64,
    missing: u64,
}

/// What an agent says it saw acknowledged: the last entry of each epoch, and the id of the store that did, 0 when it does
/// not know.
#[derive(Clone, Debug, Default)]
pub struct Claimed {
    pub epochs: Vec<(EpochId, u64)>,
    pub acked_by: u64,
}

#[derive(Debug, Default)]
pub(super) struct Claims {
    /// Read for each entry, and almost always false.
    any: AtomicBool,
    epochs: Mutex<HashMap<EpochHash, Claim>>,
}

impl Claims {
    fn epochs(&self) -> MutexGuard<'_, HashMap<EpochHash, Claim>> {
        self.epochs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The last entry of an epoch that its agent saw acknowledged, where the store lacks some; else 0.
    pub(super) fn of(&self, epoch: EpochHash) -> u64 {
        if !self.any.load(Ordering::Acquire) {
            return 0;
        }
        self.epochs().get(&epoch).map_or(0, |claim| claim.acknowledged)
    }

    /// Entries came.
    pub(super) fn reached(&self, epoch: EpochHash, ledger: &Ledger) {
        if !self.any.load(Ordering::Acquire) {
            return;
        }
        let mut epochs = self.epochs();
        if let Some(claim) = epochs.get_mut(&epoch) {
            claim.missing = missing(ledger, claim.acknowledged);
            if claim.missing == 0 {
                epochs.remove(&epoch);
            }
        }
        self.any.store(!epochs.is_empty(), Ordering::Release);
    }

    fn add(&self, epoch: EpochHash, acknowledged: u64, missing: u64) -> bool {
        let mut epochs = self.epochs();
        let is_known = epochs.contains_key(&epoch);
        if !is_known && epochs.len() >= EPOCHS_MAX {
            return false;
        }
        epochs.insert(epoch, Claim { acknowledged, missing });
        self.any.store(true, Ordering::Release);
        !is_known
    }

    /// Entries that are missing and may come again.
    pub(super) fn missing(&self) -> u64 {
        self.epochs().values().fold(0, |sum: u64, claim| sum.saturating_add(claim.missing))
    }
}

/// Those behind the last that is there; what is missing before it, the ledger knows.
fn missing(ledger: &Ledger, acknowledged: u64) -> u64 {
    acknowledged.saturating_sub(ledger.last())
}

/// The id of the store in `rocks`; made when it has none and can be written to. 0 when it cannot.
///
/// # Errors
/// When the database cannot be read or written.
pub(super) fn store_id(rocks: &Rocks, is_read_only: bool) -> Result<u64, StoreError> {
    if let Some(value) = rocks.get(Family::Meta, keys::META_ID)? {
        let [id] = numbers_of("the store's id", &value)?;
        return Ok(id);
    }
    if is_read_only {
        return Ok(0);
    }
    // Random by the standard library's own seed.
    let id = std::hash::RandomState::new().hash_one(2u8).max(1);
    let mut batch = Batch::default();
    batch.put(Family::Meta, keys::META_ID, numbers([id]));
    rocks.write(&batch, true)?;
    Ok(id)
}

impl Store {
    /// Tells this store from every other. 0: it has none yet, and can only be read.
    pub fn id(&self) -> u64 {
        self.shared.id
    }

    /// An agent says what it saw acknowledged. What the store lacks of that is awaited from it; those epochs that nothing is
    /// known of are given back.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn claim(&self, agent: AgentId, claimed: &Claimed) -> Result<Vec<EpochId>, StoreError> {
        // One from before stores had an id may be any.
        let elsewhere = claimed.acked_by != 0 && claimed.acked_by != self.id();
        let (mut unknown, mut entries_elsewhere) = (Vec::new(), 0u64);
        for (epoch, seq) in &claimed.epochs {
            let hash = EpochHash::of(epoch);
            let value = self.shared.rocks.get(Family::Ledger, &keys::ledger(agent, hash))?;
            let ledger = value.map(|value| Ledger::decode(&value)).transpose()?;
            if ledger.is_none() {
                unknown.push(*epoch);
            }
            let missing = missing(&ledger.unwrap_or_default(), *seq);
            if elsewhere {
                entries_elsewhere = entries_elsewhere.saturating_add(missing);
                continue;
            }
            if missing > 0 && self.shared.claims.add(hash, *seq, missing) {
                tracing::error!(%agent, %epoch, missing, "entries that this agent saw acknowledged are missing: it is asked for them again");
            }
        }
        if entries_elsewhere > 0 {
            tracing::warn!(%agent, entries = entries_elsewhere, store = %format_args!("{:016x}", claimed.acked_by), "this agent sent to another store before: what that one acknowledged is not here, but for what the agent still keeps");
        }
        Ok(unknown)
    }
}
