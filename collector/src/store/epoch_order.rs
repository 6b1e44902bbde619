//! Which epochs each agent has a ledger of, and in which order they began.
//!
//! An agent begins a new epoch at each start, and one that is started over and over would fill its ledger without end. So
//! the order in which its epochs began is kept beside the ledger (`meta`, see `keys.rs`), and all but the newest
//! [`EPOCHS_MAX`] are forgotten: what an agent has in its spool is of the last few.

use std::collections::{HashMap, HashSet, VecDeque};

use gnomon_clock::EpochId;
use gnomon_flow::{AgentId, EpochHash};

use super::envelope;
use super::keys::{self, Family};
use super::ledger::Ledger;
use super::stage::Stage;
use super::writer::Writer;
use super::{Store, StoreError};

/// Epochs of one agent whose ledger is kept.
pub(super) const EPOCHS_MAX: usize = 1_024;

/// The epochs of an agent in the order in which they began here.
pub(super) type Order = VecDeque<EpochHash>;

fn encode(order: &Order) -> Vec<u8> {
    order.iter().flat_map(|hash| hash.0.to_be_bytes()).collect()
}

fn decode(value: &[u8]) -> Order {
    value
        .chunks_exact(8)
        .map(|hash| EpochHash(u64::from_be_bytes(std::array::from_fn(|i| hash[i]))))
        .collect()
}

impl Store {
    fn order(&self, agent: AgentId) -> Result<Order, StoreError> {
        let value = self.shared.rocks.get(Family::Meta, &keys::epoch_order(agent))?;
        Ok(value.map(|value| decode(&value)).unwrap_or_default())
    }

    fn ledgers(&self, agent: AgentId) -> Result<Vec<(EpochHash, u64)>, StoreError> {
        let mut all = Vec::new();
        self.shared.rocks.walk(Family::Ledger, &agent.0, |key, value| {
            let Some((_, hash)) = keys::ledger_of(key) else {
                return Err(StoreError::Key { bytes: key.to_vec() });
            };
            all.push((hash, Ledger::decode(value)?.durable()));
            Ok(())
        })?;
        Ok(all)
    }

    fn with_ids(&self, ledger: Vec<(EpochHash, u64)>) -> Result<Vec<(EpochId, u64)>, StoreError> {
        let mut durable = Vec::with_capacity(ledger.len());
        for (hash, seq) in ledger {
            if let Some(value) = self.shared.rocks.get(Family::Epochs, &keys::epoch(hash))? {
                durable.push((envelope::decode_epoch(&value)?.id, seq));
            }
        }
        Ok(durable)
    }

    /// What is durable of an agent: its epochs and the highest sequence number of each.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn durable(&self, agent: AgentId) -> Result<Vec<(EpochId, u64)>, StoreError> {
        self.with_ids(self.ledgers(agent)?)
    }

    /// The same of the epochs that an agent asks about, and of its newest ones: 1,024 in all.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn durable_of(
        &self,
        agent: AgentId,
        asked: &HashSet<EpochHash>,
    ) -> Result<Vec<(EpochId, u64)>, StoreError> {
        let mut ledger = self.ledgers(agent)?;
        if ledger.len() > EPOCHS_MAX {
            let places: HashMap<EpochHash, usize> =
                self.order(agent)?.into_iter().enumerate().map(|(place, hash)| (hash, place)).collect();
            // Those of before the order was kept are the oldest.
            ledger.sort_unstable_by_key(|(hash, _)| (asked.contains(hash), places.get(hash).copied()));
            ledger.drain(..ledger.len() - EPOCHS_MAX);
        }
        self.with_ids(ledger)
    }

    /// The highest durable sequence number of one epoch.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn durable_seq(&self, agent: AgentId, hash: EpochHash) -> Result<Option<u64>, StoreError> {
        let value = self.shared.rocks.get(Family::Ledger, &keys::ledger(agent, hash))?;
        Ok(value.map(|value| Ledger::decode(&value)).transpose()?.map(|ledger| ledger.durable()))
    }
}

impl Writer {
    /// An epoch has its first entry; the oldest of too many are forgotten.
    pub(super) fn begin_ledger(
        &self,
        agent: AgentId,
        hash: EpochHash,
        stage: &mut Stage,
    ) -> Result<(), StoreError> {
        let mut order = match stage.epoch_orders.remove(&agent) {
            Some(order) => order,
            None => self.store().order(agent)?,
        };
        order.retain(|known| *known != hash);
        order.push_back(hash);
        while order.len() > EPOCHS_MAX {
            let Some(oldest) = order.pop_front() else { break };
            stage.batch.delete(Family::Ledger, keys::ledger(agent, oldest));
            stage.ledger.insert(oldest, None);
            stage.ledgers_forgotten.push((agent, oldest));
        }
        stage.epoch_orders.insert(agent, order);
        Ok(())
    }

    /// Epochs of before their order was kept, where an agent has too many: `current` is the one it captures in now.
    pub(super) fn trim_ledger(
        &self,
        agent: AgentId,
        current: EpochHash,
        stage: &mut Stage,
    ) -> Result<(), StoreError> {
        let ledger = self.store().ledgers(agent)?;
        if ledger.len() <= EPOCHS_MAX {
            return Ok(());
        }
        let kept: HashSet<EpochHash> = self.store().order(agent)?.into_iter().chain([current]).collect();
        let mut over = ledger.len() - EPOCHS_MAX;
        for (hash, _) in ledger.into_iter().filter(|(hash, _)| !kept.contains(hash)) {
            if over == 0 {
                break;
            }
            // One that the same group writes stays.
            if stage.ledger.get(&hash).is_none_or(Option::is_none) {
                stage.batch.delete(Family::Ledger, keys::ledger(agent, hash));
                stage.ledger.insert(hash, None);
                stage.ledgers_forgotten.push((agent, hash));
                over -= 1;
            }
        }
        Ok(())
    }
}

impl Stage {
    /// Writes the orders that changed.
    pub(super) fn put_orders(&mut self) {
        for (agent, order) in std::mem::take(&mut self.epoch_orders) {
            self.batch.put(Family::Meta, keys::epoch_order(agent), encode(&order));
        }
    }
}

#[cfg(test)]
mod tests {
    use gnomon_clock::RawNs;

    use super::*;
    use crate::store::testing::{FakeClock, change, epoch, open};
    use crate::store::{Body, Content};

    fn of_start(n: u64) -> EpochId {
        EpochId { opened: RawNs(1_000 + n), ..epoch(1) }
    }

    #[test]
    fn an_agent_that_starts_over_and_over_has_a_bounded_ledger_and_the_newest_epochs_in_it() {
        let dir = tempfile::tempdir().unwrap();
        let clock = FakeClock::new();
        let (store, mut writer) = open(dir.path(), &clock);
        let entry = |n, seq| change(of_start(n), Body::Entry { seq, content: Content::Unreadable });
        let agent = AgentId(epoch(1).agent);
        for starts in (0..3 * EPOCHS_MAX as u64).collect::<Vec<_>>().chunks(500) {
            let changes: Vec<_> = starts.iter().map(|n| entry(*n, n + 1)).collect();
            writer.commit(&changes).unwrap();
        }
        let asked = HashSet::new();
        let told: HashMap<EpochId, u64> = store.durable_of(agent, &asked).unwrap().into_iter().collect();
        assert_eq!((told.len(), store.durable(agent).unwrap().len()), (EPOCHS_MAX, EPOCHS_MAX));
        for n in 2 * EPOCHS_MAX as u64..3 * EPOCHS_MAX as u64 {
            assert_eq!(told.get(&of_start(n)), Some(&(n + 1)));
        }
        drop((store, writer));
        let (store, mut writer) = open(dir.path(), &clock);
        // What is known goes on, and is not begun again.
        let last = 3 * EPOCHS_MAX as u64 - 1;
        assert!(writer.commit(&[entry(last, last + 1)]).unwrap()[0].duplicate);
        assert_eq!(writer.commit(&[entry(last, last + 2)]).unwrap()[0].durable_seq, Some(last + 2));
        assert_eq!(store.durable(agent).unwrap().len(), EPOCHS_MAX);
    }

    #[test]
    fn a_ledger_of_before_is_cut_when_its_agent_comes_and_what_it_asks_about_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let clock = FakeClock::new();
        let (store, mut writer) = open(dir.path(), &clock);
        let agent = AgentId(epoch(1).agent);
        let mut stage = Stage::new(&writer.shared);
        for n in 0..5_000u64 {
            let id = of_start(n);
            let made = crate::store::epochs::Epoch::new(id, "sensor");
            let hash = EpochHash::of(&id);
            stage.batch.put(Family::Epochs, keys::epoch(hash), envelope::encode_epoch(&made));
            stage.batch.put(Family::Ledger, keys::ledger(agent, hash), envelope::numbers([n + 1]));
        }
        writer.publish(stage, true).unwrap();
        let asked: HashSet<EpochHash> = (0..20).map(|n| EpochHash::of(&of_start(n))).collect();
        let told = store.durable_of(agent, &asked).unwrap();
        assert_eq!(told.len(), EPOCHS_MAX);
        assert!((0..20).all(|n| told.contains(&(of_start(n), n + 1))));
        writer.commit(&[change(of_start(3), Body::Hello)]).unwrap();
        let left = store.durable(agent).unwrap();
        assert!(left.len() <= EPOCHS_MAX + 1 && left.contains(&(of_start(3), 4)), "{}", left.len());
    }
}
