//! What waits outside the time index, and for what.

use std::collections::BTreeMap;

use gnomon_clock::{CollectorNow, RawNs};
use gnomon_flow::TimeState;

use super::block::columns;
use super::epochs::Epoch;
use super::{Store, StoreError};

/// Held records by state and reason.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Held {
    pub counts: BTreeMap<(&'static str, &'static str), u64>,
    /// Not counted: there are more than the limit.
    pub left_out: u64,
}

impl Store {
    /// Held records by what they wait for, judged as of now; at most about `records_max` are looked at. Blocking.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn held(&self, records_max: u64) -> Result<Held, StoreError> {
        let (shared, now) = (&self.shared, self.shared.gate.now());
        let view = self.view();
        let mut held = Held::default();
        let mut seen = 0;
        for flow in view.hot.iter().filter(|flow| flow.time_state != TimeState::Indexed) {
            if seen >= records_max {
                held.left_out += 1;
                continue;
            }
            seen += 1;
            let id = flow.id();
            let Some(epoch) = shared.epochs.get(&shared.rocks, id.epoch)? else { continue };
            let reason = self.reason(&epoch, flow.record.first, flow.record.last, &now)?;
            *held.counts.entry((flow.time_state.name(), reason)).or_default() += 1;
        }
        for block in view.blocks.iter().filter(|block| block.held) {
            if seen >= records_max {
                held.left_out += block.records();
                continue;
            }
            let reader = self.read(block);
            let (firsts, lengths) = (reader.integers(columns::FIRST)?, reader.integers(columns::LENGTH)?);
            let states = reader.integers(columns::STATE)?;
            for row in reader.alive().iter() {
                seen += 1;
                let Some(epoch) = shared.epochs.get(&shared.rocks, reader.epoch_of(row)?)? else { continue };
                let (first, length) = (firsts[row], lengths[row]);
                let reason = self.reason(&epoch, RawNs(first), RawNs(first.saturating_add(length)), &now)?;
                *held.counts.entry((columns::state_of(states[row]).name(), reason)).or_default() += 1;
            }
        }
        Ok(held)
    }

    fn reason(
        &self,
        epoch: &Epoch,
        first: RawNs,
        last: RawNs,
        now: &CollectorNow,
    ) -> Result<&'static str, StoreError> {
        let (first, last) = (self.shared.estimate(epoch, first)?, self.shared.estimate(epoch, last)?);
        // What can be indexed by now is on its way there.
        Ok(self.shared.gate.reason(first, last, now).unwrap_or("on-its-way"))
    }
}
