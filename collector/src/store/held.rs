//! What waits outside the time index, and for what.

use std::borrow::Cow;
use std::collections::BTreeMap;

use gnomon_clock::{CollectorNow, Estimate};
use gnomon_flow::TimeState;

use super::block::columns;
use super::scan::Filter;
use super::{Store, StoreError};

/// The reason of what can be indexed and is not yet.
const ON_ITS_WAY: &str = "on-its-way";

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
        for flow in view.hot().filter(|flow| flow.time_state != TimeState::Indexed) {
            if seen >= records_max {
                held.left_out += 1;
                continue;
            }
            seen += 1;
            let id = flow.id();
            let Some(epoch) = shared.epochs.get(&shared.rocks, id.epoch)? else { continue };
            let record = &flow.record;
            let reason = self.reason(
                shared.estimate(&epoch, record.first)?,
                shared.estimate(&epoch, record.last)?,
                &now,
            );
            *held.counts.entry((flow.time_state.name(), reason)).or_default() += 1;
        }
        for block in view.blocks.iter().filter(|block| block.held()) {
            if seen >= records_max {
                held.left_out += block.records();
                continue;
            }
            let reader = self.read(block);
            let states = reader.integers(columns::STATE)?;
            for row in reader.alive().iter() {
                seen += 1;
                let (first, last) = reader.estimates(row)?;
                let state = columns::state_of(states[row]).name();
                *held.counts.entry((state, self.reason(first, last, &now))).or_default() += 1;
            }
        }
        Ok(held)
    }

    /// Of the held records those that `filter` matches, by what they wait for; at most about `records_max` are looked at.
    /// Blocking.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub(crate) fn held_matching(&self, records_max: u64, filter: &dyn Filter) -> Result<Held, StoreError> {
        let mut held = Held::default();
        let view = self.view();
        if view.hot().all(|flow| flow.time_state == TimeState::Indexed)
            && !view.blocks.iter().any(|block| block.held())
        {
            return Ok(held);
        }
        let (shared, now) = (&self.shared, self.shared.gate.now());
        let mut seen = 0;
        for flow in view.hot().filter(|flow| flow.time_state != TimeState::Indexed) {
            if seen >= records_max {
                held.left_out += 1;
                continue;
            }
            seen += 1;
            if !filter.matches(flow) {
                continue;
            }
            let Some(epoch) = shared.epochs.get(&shared.rocks, flow.id().epoch)? else { continue };
            let [first, last] = [flow.record.first, flow.record.last].map(|raw| shared.estimate(&epoch, raw));
            *held.counts.entry((flow.time_state.name(), self.reason(first?, last?, &now))).or_default() += 1;
        }
        for block in view.blocks.iter().filter(|block| block.held() && filter.may_match(&block.summary)) {
            if seen >= records_max {
                held.left_out += block.records();
                continue;
            }
            seen += block.records();
            let reader = self.read(block);
            let (rows, exact) = filter.select(&reader)?;
            let states = reader.integers(columns::STATE)?;
            for row in rows.iter() {
                if !exact && !filter.matches(&reader.flow(row)?) {
                    continue;
                }
                let (first, last) = reader.estimates(row)?;
                let state = columns::state_of(states[row]).name();
                *held.counts.entry((state, self.reason(first, last, &now))).or_default() += 1;
            }
        }
        Ok(held)
    }

    fn reason(&self, first: Option<Estimate>, last: Option<Estimate>, now: &CollectorNow) -> &'static str {
        // What can be indexed by now is on its way there.
        self.shared.gate.reason(first, last, now).unwrap_or(ON_ITS_WAY)
    }

    /// Why a record of this state and these times waits; empty when it is indexed.
    pub(super) fn time_reason(
        &self,
        state: TimeState,
        first: Option<Estimate>,
        last: Option<Estimate>,
    ) -> Cow<'static, str> {
        match state {
            TimeState::Indexed => Cow::Borrowed(""),
            _ => Cow::Borrowed(self.reason(first, last, &self.shared.gate.now())),
        }
    }
}
