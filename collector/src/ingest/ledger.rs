//! What numbers an agent's entries may have. An acknowledgement stands for every entry before it, so that a number far ahead
//! of what is durable would have the agent forget what was never sent.
//!
//! Numbers rise by one an entry, with gaps where the spool sacrificed some (docs/adr/0002). So a session may skip
//! [`GAP_MAX`] of them in all, and as many more as its heartbeats say were sacrificed. The first entry of an epoch begins
//! where the agent says that another store left off, or anywhere below [`FIRST_MAX`].

use std::collections::HashMap;

use gnomon_flow::EpochHash;

/// Numbers that the entries of a session may skip, besides those it says were sacrificed: days of the busiest link, which
/// versions that said nothing of sacrifices in time need.
pub(super) const GAP_MAX: u64 = 1 << 28;
/// Sacrificed entries that are believed.
pub(super) const SACRIFICED_MAX: u64 = 1 << 32;
/// The first number of an epoch that this store knows nothing of: a million entries a second for twelve days.
pub(super) const FIRST_MAX: u64 = 1 << 40;
/// Epochs of one session that are remembered; any is asked of the store again.
const EPOCHS_MAX: usize = 1024;

/// A number that is too far ahead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("its number {seq} does not follow {after}: at most {most} may be skipped")]
pub(super) struct Jump {
    seq: u64,
    after: u64,
    most: u64,
}

#[derive(Clone, Copy, Debug)]
struct Known {
    last: u64,
    /// By an entry of this session.
    here: bool,
}

/// What the entries of a session are held to.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    epochs: HashMap<EpochHash, Known>,
    /// What Hello said was acknowledged, by this store or the one before it.
    acked: HashMap<EpochHash, u64>,
    skipped: u64,
}

impl Ledger {
    pub(super) fn new(acked: HashMap<EpochHash, u64>) -> Ledger {
        Ledger { acked, ..Ledger::default() }
    }

    pub(super) fn knows(&self, epoch: EpochHash) -> bool {
        self.epochs.contains_key(&epoch)
    }

    /// What the store has of an epoch.
    pub(super) fn learn(&mut self, epoch: EpochHash, durable: Option<u64>) {
        if self.epochs.len() >= EPOCHS_MAX
            && let Some(any) = self.epochs.keys().next().copied()
        {
            self.epochs.remove(&any);
        }
        let acked = self.acked.get(&epoch).copied().filter(|seq| *seq <= FIRST_MAX);
        if let Some(last) = durable.max(acked) {
            self.epochs.insert(epoch, Known { last, here: false });
        }
    }

    /// Takes the next entry in; the numbers that this session left out before it. `sacrificed` is what the agent said.
    ///
    /// # Errors
    /// When it is too far ahead: nothing of it counts.
    pub(super) fn take(&mut self, epoch: EpochHash, seq: u64, sacrificed: u64) -> Result<u64, Jump> {
        let Some(known) = self.epochs.get_mut(&epoch) else {
            if seq > FIRST_MAX {
                return Err(Jump { seq, after: 0, most: FIRST_MAX });
            }
            self.epochs.insert(epoch, Known { last: seq, here: true });
            return Ok(0);
        };
        // What comes again is no gap.
        let gap = seq.saturating_sub(known.last).saturating_sub(1);
        let most = (GAP_MAX + sacrificed.min(SACRIFICED_MAX)).saturating_sub(self.skipped);
        if gap > most {
            return Err(Jump { seq, after: known.last, most });
        }
        self.skipped += gap;
        let missing = if known.here { gap } else { 0 };
        *known = Known { last: known.last.max(seq), here: true };
        Ok(missing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const E: EpochHash = EpochHash(1);

    #[test]
    fn an_entry_follows_the_last_durable_one_within_the_window() {
        let mut ledger = Ledger::default();
        ledger.learn(E, Some(10));
        for seq in [u64::MAX, u64::MAX - 1, 1 << 63, 1 << 40, 1 << 32, 10 + GAP_MAX + 2] {
            assert!(ledger.take(E, seq, 0).is_err(), "{seq}");
        }
        assert_eq!(ledger.take(E, 11, 0), Ok(0), "a refused one changes nothing");
        assert_eq!(ledger.take(E, 15, 0), Ok(3));
        assert_eq!(ledger.take(E, 12, 0), Ok(0), "again");
        assert_eq!(ledger.take(E, 16, 0), Ok(0));
        // Many steps are one jump.
        assert!(ledger.take(E, 16 + GAP_MAX - 3, 0).is_ok());
        assert!(ledger.take(E, 16 + GAP_MAX + 1, 0).is_err());
    }

    #[test]
    fn what_the_spool_sacrificed_may_be_missing() {
        let mut ledger = Ledger::default();
        ledger.learn(E, Some(10));
        assert!(ledger.take(E, 1_000_000_000, 0).is_err());
        assert_eq!(ledger.take(E, 1_000_000_000, 1_000_000_000), Ok(0));
        assert!(ledger.take(E, u64::MAX, u64::MAX).is_err(), "no word justifies everything");
    }

    #[test]
    fn an_epoch_that_is_new_here_goes_on_where_another_store_left_off() {
        let mut ledger = Ledger::new([(E, 900_000_000)].into());
        ledger.learn(E, Some(3));
        assert_eq!(ledger.take(E, 900_000_001, 0), Ok(0));
        let mut ledger = Ledger::new([(E, u64::MAX - 1)].into());
        ledger.learn(E, None);
        assert!(ledger.take(E, u64::MAX, 0).is_err());
        assert_eq!(ledger.take(EpochHash(2), 77_000_000_000, 0), Ok(0));
    }
}
