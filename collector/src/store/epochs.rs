//! What is known of each epoch: whose it is, and the evidence of its time. The database holds them all; memory, those
//! used lately.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use gnomon_clock::{EpochId, RawNs, Timeline};
use gnomon_flow::{AgentId, EpochHash};

use super::StoreError;
use super::envelope::decode_epoch;
use super::keys::{self, Family};
use super::rocks::Rocks;

/// Epochs kept in memory; a timeline is up to 20 KiB.
const CACHED_MAX: usize = 1024;

/// One epoch.
#[derive(Clone, Debug)]
pub(super) struct Epoch {
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
}

#[derive(Debug, Default)]
pub(super) struct Epochs {
    cached: RwLock<HashMap<EpochHash, Arc<Epoch>>>,
}

impl Epochs {
    /// The epoch, from memory or the database.
    pub(super) fn get(&self, rocks: &Rocks, hash: EpochHash) -> Result<Option<Arc<Epoch>>, StoreError> {
        let cached = self.cached.read().unwrap_or_else(PoisonError::into_inner).get(&hash).cloned();
        if cached.is_some() {
            return Ok(cached);
        }
        let Some(value) = rocks.get(Family::Epochs, &keys::epoch(hash))? else { return Ok(None) };
        let epoch = Arc::new(decode_epoch(&value)?);
        let mut cached = self.cached.write().unwrap_or_else(PoisonError::into_inner);
        // The writer may have been here meanwhile, with something newer.
        Ok(Some(Arc::clone(insert(&mut cached, hash, epoch, false))))
    }

    /// Take what was just made durable.
    pub(super) fn put(&self, hash: EpochHash, epoch: Arc<Epoch>) {
        let mut cached = self.cached.write().unwrap_or_else(PoisonError::into_inner);
        insert(&mut cached, hash, epoch, true);
    }
}

fn insert(
    cached: &mut HashMap<EpochHash, Arc<Epoch>>,
    hash: EpochHash,
    epoch: Arc<Epoch>,
    replace: bool,
) -> &Arc<Epoch> {
    if cached.len() >= CACHED_MAX
        && !cached.contains_key(&hash)
        && let Some(some) = cached.keys().next().copied()
    {
        // Any: a map's order is as good as random, and all are in the database.
        cached.remove(&some);
    }
    let slot = cached.entry(hash).or_insert_with(|| Arc::clone(&epoch));
    if replace {
        *slot = epoch;
    }
    slot
}
