//! What waits outside the time index, and for what.

use std::collections::BTreeMap;

use super::envelope::Envelope;
use super::keys::{self, Family};
use super::{Store, StoreError};

/// Held records by state and reason.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Held {
    pub counts: BTreeMap<(&'static str, &'static str), u64>,
    /// Not counted: there are more than the limit.
    pub left_out: u64,
}

impl Store {
    /// Held records by what they wait for, judged as of now; at most `records_max` are looked at. Blocking.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn held(&self, records_max: u64) -> Result<Held, StoreError> {
        const RUN: usize = 1024;
        let (shared, now) = (&self.shared, self.shared.gate.now());
        let mut held = Held::default();
        let mut seen = 0;
        let mut after: Option<Box<[u8]>> = None;
        while seen < records_max {
            let run = shared.rocks.prefix(Family::Held, &[], after.as_deref(), RUN)?;
            for (key, value) in &run {
                let Some(epoch) = keys::epoch_of(key) else { continue };
                let Some(epoch) = shared.epochs.get(&shared.rocks, epoch)? else { continue };
                // A damaged one is counted where it is read.
                let Ok(envelope) = Envelope::decode(value) else { continue };
                let record = &envelope.record;
                let first = shared.estimate(&epoch, record.first)?;
                let last = shared.estimate(&epoch, record.last)?;
                // What can be indexed by now is on its way there.
                let reason = shared.gate.reason(first, last, &now).unwrap_or("on-its-way");
                *held.counts.entry((envelope.state.name(), reason)).or_default() += 1;
            }
            seen += run.len() as u64;
            match run.into_iter().last() {
                Some((key, _)) => after = Some(key),
                None => return Ok(held),
            }
        }
        let totals = shared.totals();
        held.left_out = (totals.pending + totals.quarantined).saturating_sub(seen);
        Ok(held)
    }
}
