//! When a reading was, where an epoch's own evidence does not reach: behind the point where it was cut off, and in an epoch
//! that never got any evidence. Then it lies between what is known of the agent's epochs before and after.

use gnomon_clock::{CollectorNow, EpochId, Estimate, RawNs, between_epochs};
use gnomon_flow::{EpochHash, FlowRecord};

use super::epochs::Epoch;
use super::{Shared, StoreError};
use crate::clock_gate::Judgement;

/// Epochs without any evidence that are passed on the way to one that has some.
const EMPTY_MAX: usize = 8;

impl Shared {
    /// When `raw` of `epoch` was, by all the evidence of now.
    pub(super) fn estimate(&self, epoch: &Epoch, raw: RawNs) -> Result<Option<Estimate>, StoreError> {
        let end = epoch.ended.filter(|end| raw > *end);
        if end.is_none()
            && let Some(estimate) = epoch.timeline.estimate(raw)
        {
            return Ok(Some(estimate));
        }
        let before = match end.and_then(|end| epoch.timeline.estimate(end)) {
            Some(estimate) => Some(estimate),
            None => self.nearest(epoch.predecessor, |epoch| epoch.predecessor, last_of)?,
        };
        let after = self.nearest(epoch.successor, |epoch| epoch.successor, first_of)?;
        Ok(before.zip(after).and_then(|(before, after)| between_epochs(&before, &after)))
    }

    /// What the gate makes of a record by the evidence of now.
    pub(super) fn judge(
        &self,
        epoch: &Epoch,
        record: &FlowRecord,
        now: &CollectorNow,
    ) -> Result<Judgement, StoreError> {
        let (first, last) = (self.estimate(epoch, record.first)?, self.estimate(epoch, record.last)?);
        Ok(self.gate.judge(first, last, now))
    }

    /// The first epoch on the way that has evidence.
    fn nearest(
        &self,
        mut at: Option<EpochId>,
        next: fn(&Epoch) -> Option<EpochId>,
        of: fn(&Epoch) -> Option<Estimate>,
    ) -> Result<Option<Estimate>, StoreError> {
        for _ in 0..EMPTY_MAX {
            let Some(id) = at else { return Ok(None) };
            let Some(epoch) = self.epochs.get(&self.rocks, EpochHash::of(&id))? else { return Ok(None) };
            if let Some(estimate) = of(&epoch) {
                return Ok(Some(estimate));
            }
            at = next(&epoch);
        }
        Ok(None)
    }
}

/// The latest moment that is certainly of this epoch.
fn last_of(epoch: &Epoch) -> Option<Estimate> {
    let raw = epoch.timeline.fixes().last().map(|fix| fix.raw)?;
    epoch.timeline.estimate(epoch.ended.map_or(raw, |end| end.min(raw)))
}

/// Its beginning: everything of the epoch before was stamped by then.
fn first_of(epoch: &Epoch) -> Option<Estimate> {
    epoch.timeline.estimate(epoch.id.opened)
}
