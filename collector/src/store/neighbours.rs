//! When a reading was, where an epoch's own evidence does not reach: behind the point where it was cut off, and in an epoch
//! that never got any evidence. Then it lies between what is known of the agent's epochs before and after.

use std::sync::Arc;

use gnomon_clock::{CollectorNow, EpochId, Estimate, RawNs, UtcNs, between_epochs};
use gnomon_flow::{EpochHash, FlowRecord};

use super::epochs::Epoch;
use super::live::{Sealed, Times};
use super::{Shared, Store, StoreError};
use crate::clock_gate::Judgement;

/// Epochs without any evidence that are passed on the way to one that has some.
const EMPTY_MAX: usize = 8;

/// Who knows an epoch.
type Known<'k> = &'k dyn Fn(EpochHash) -> Result<Option<Arc<Epoch>>, StoreError>;

impl Store {
    /// The epoch as this handle knows it: by the evidence of now, or of a moment.
    pub(super) fn known(&self, hash: EpochHash) -> Result<Option<Arc<Epoch>>, StoreError> {
        let shared = &self.shared;
        match &self.then {
            Some(then) => then.get(&shared.rocks, hash),
            None => shared.epochs.get(&shared.rocks, hash),
        }
    }

    /// When `raw` of `epoch` was, by the evidence that this handle goes by.
    pub(super) fn time_of(&self, epoch: &Epoch, raw: RawNs) -> Result<Option<Estimate>, StoreError> {
        estimate(epoch, raw, &|hash| self.known(hash))
    }

    /// What the times of an indexed block lie between, by the evidence that this handle goes by.
    pub(super) fn times(&self, block: &Sealed) -> Result<Option<Times>, StoreError> {
        let mut times: Option<Times> = None;
        for source in &block.summary.sources {
            let Some(epoch) = self.known(source.epoch)? else { continue };
            for worker in &source.workers {
                let (from, to) = worker.first;
                let (Some(first_min), Some(first_max)) =
                    (self.time_of(&epoch, from)?, self.time_of(&epoch, to)?)
                else {
                    // Searched whenever it may concern, until it is clear where its records belong.
                    return Ok(Some(Times {
                        first_min: UtcNs::MIN,
                        first_max: UtcNs::MAX,
                        last_max: UtcNs::MAX,
                    }));
                };
                let last_max = self.time_of(&epoch, worker.last_max)?.unwrap_or(first_max);
                let of = Times {
                    first_min: first_min.utc,
                    first_max: first_max.utc,
                    last_max: last_max.utc.max(first_max.utc),
                };
                times = Some(match times {
                    None => of,
                    Some(all) => Times {
                        first_min: all.first_min.min(of.first_min),
                        first_max: all.first_max.max(of.first_max),
                        last_max: all.last_max.max(of.last_max),
                    },
                });
            }
        }
        Ok(times)
    }
}

fn estimate(epoch: &Epoch, raw: RawNs, known: Known<'_>) -> Result<Option<Estimate>, StoreError> {
    let end = epoch.ended.filter(|end| raw > *end);
    if end.is_none()
        && let Some(estimate) = epoch.timeline.estimate(raw)
    {
        return Ok(Some(estimate));
    }
    let before = match end.and_then(|end| epoch.timeline.estimate(end)) {
        Some(estimate) => Some(estimate),
        None => nearest(epoch.predecessor, |epoch| epoch.predecessor, last_of, known)?,
    };
    let after = nearest(epoch.successor, |epoch| epoch.successor, first_of, known)?;
    Ok(before.zip(after).and_then(|(before, after)| between_epochs(&before, &after)))
}

impl Shared {
    /// When `raw` of `epoch` was, by all the evidence of now.
    pub(super) fn estimate(&self, epoch: &Epoch, raw: RawNs) -> Result<Option<Estimate>, StoreError> {
        estimate(epoch, raw, &|hash| self.epochs.get(&self.rocks, hash))
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
}

/// The first epoch on the way that has evidence.
fn nearest(
    mut at: Option<EpochId>,
    next: fn(&Epoch) -> Option<EpochId>,
    of: fn(&Epoch) -> Option<Estimate>,
    known: Known<'_>,
) -> Result<Option<Estimate>, StoreError> {
    for _ in 0..EMPTY_MAX {
        let Some(id) = at else { return Ok(None) };
        let Some(epoch) = known(EpochHash::of(&id))? else { return Ok(None) };
        if let Some(estimate) = of(&epoch) {
            return Ok(Some(estimate));
        }
        at = next(&epoch);
    }
    Ok(None)
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
