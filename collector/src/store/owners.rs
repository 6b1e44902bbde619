//! Whom an agent's id belongs to: who used it first. Without this anybody who may send could say another's id, and have what
//! the other has not sent yet taken for acknowledged.

use gnomon_clock::UtcNs;
use gnomon_flow::AgentId;

use super::keys::Family;
use super::rocks::Batch;
use super::{Store, StoreError};

/// What anybody may take over: nobody was proven to have it.
const ANONYMOUS: &str = "anonymous";
/// A value is the time of the first use (TAI nanoseconds, big endian), then the principal.
const TIME_BYTES: usize = 8;

/// An id and its owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    pub agent: AgentId,
    /// As [`crate::listen::Identity::principal`] says it.
    pub principal: String,
    pub since: UtcNs,
}

impl Owner {
    fn decode(key: &[u8], value: &[u8]) -> Result<Owner, StoreError> {
        let damaged = || StoreError::Key { bytes: key.to_vec() };
        let agent = AgentId(key.try_into().map_err(|_| damaged())?);
        let (since, principal) = value.split_first_chunk::<TIME_BYTES>().ok_or_else(damaged)?;
        let principal = String::from_utf8(principal.to_vec()).map_err(|_| damaged())?;
        Ok(Owner { agent, principal, since: UtcNs::from_tai_ns(i64::from_be_bytes(*since)) })
    }
}

impl Store {
    /// Who `agent` belongs to from now on: `principal` if it is nobody's yet, or was only ever used without proof. Durable
    /// when it returns. Blocking.
    ///
    /// # Errors
    /// When the database cannot be read, or not be written to where it has to be.
    pub fn settle_owner(&self, agent: AgentId, principal: &str) -> Result<Owner, StoreError> {
        // One at a time: of two who come first together, one is the first.
        let _settling = self.shared.owners.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(value) = self.shared.rocks.get(Family::Owners, &agent.0)? {
            let owner = Owner::decode(&agent.0, &value)?;
            if owner.principal != ANONYMOUS || principal == ANONYMOUS {
                return Ok(owner);
            }
        }
        let since = self.now().utc;
        let mut batch = Batch::default();
        let value = [&since.tai_ns().to_be_bytes()[..], principal.as_bytes()].concat();
        batch.put(Family::Owners, agent.0, value);
        self.shared.rocks.write(&batch, true)?;
        Ok(Owner { agent, principal: principal.to_owned(), since })
    }

    /// All owners, by id. Blocking.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn owners(&self) -> Result<Vec<Owner>, StoreError> {
        let mut owners = Vec::new();
        self.shared.rocks.walk(Family::Owners, &[], |key, value| {
            owners.push(Owner::decode(key, value)?);
            Ok(())
        })?;
        Ok(owners)
    }

    /// Forget whom `agent` belongs to: the next who uses the id owns it. `None` if it was nobody's. Blocking.
    ///
    /// # Errors
    /// When the database cannot be read or written.
    pub fn release_owner(&self, agent: AgentId) -> Result<Option<Owner>, StoreError> {
        let _settling = self.shared.owners.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let Some(value) = self.shared.rocks.get(Family::Owners, &agent.0)? else { return Ok(None) };
        let mut batch = Batch::default();
        batch.delete(Family::Owners, agent.0);
        self.shared.rocks.write(&batch, true)?;
        Owner::decode(&agent.0, &value).map(Some)
    }
}

/// Whether an entry of the family can be read.
pub(super) fn check(key: &[u8], value: &[u8]) -> Result<(), StoreError> {
    Owner::decode(key, value).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::testing::{FakeClock, open};

    #[test]
    fn the_first_who_uses_an_id_owns_it_for_good_until_it_is_released() {
        let dir = tempfile::tempdir().unwrap();
        let clock = FakeClock::new();
        let (agent, other) = (AgentId([1; 16]), AgentId([2; 16]));
        {
            let (store, writer) = open(dir.path(), &clock);
            let owner = |agent, who| store.settle_owner(agent, who).unwrap().principal;
            assert_eq!(owner(agent, "anonymous"), "anonymous");
            assert_eq!(owner(agent, "certificate:a"), "certificate:a", "a proof beats none");
            assert_eq!(owner(agent, "certificate:b"), "certificate:a");
            assert_eq!(owner(agent, "anonymous"), "certificate:a");
            assert_eq!(owner(other, "certificate:a"), "certificate:a", "one may own several");
            drop((store, writer));
        }
        let (store, _writer) = open(dir.path(), &clock);
        assert_eq!(store.owners().unwrap().len(), 2);
        assert_eq!(store.release_owner(agent).unwrap().unwrap().principal, "certificate:a");
        assert_eq!(store.release_owner(agent).unwrap(), None);
        assert_eq!(store.settle_owner(agent, "uid:0").unwrap().principal, "uid:0");
    }
}
