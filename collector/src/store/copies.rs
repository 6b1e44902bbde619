//! Second copies of the little without which nothing else means anything: epochs, by which records have their time, and the
//! ledger. They lie in another family, and so in another file, and are brought up to date before memory is written to files.
//! A start that had to do without a table file takes from them what is missing.

use std::collections::{BTreeSet, HashMap};

use gnomon_flow::{AgentId, EpochHash};

use super::StoreError;
use super::envelope::decode_epoch;
use super::keys::{self, Family};
use super::ledger::Ledger;
use super::rocks::Batch;
use super::writer::Writer;

/// What is copied: a family, and what its keys have in front as keys of `meta`.
const COPIED: [(Family, &[u8]); 2] =
    [(Family::Epochs, keys::META_COPY_EPOCH), (Family::Ledger, keys::META_COPY_LEDGER)];
/// Copies written in one batch.
const AT_ONCE: usize = 1024;

/// What changed since it was copied, by its key.
#[derive(Debug, Default)]
pub(super) struct Changed {
    epochs: BTreeSet<EpochHash>,
    ledgers: BTreeSet<(AgentId, EpochHash)>,
}

impl Changed {
    pub(super) fn epoch(&mut self, epoch: EpochHash) {
        self.epochs.insert(epoch);
    }

    pub(super) fn ledger(&mut self, agent: AgentId, epoch: EpochHash) {
        self.ledgers.insert((agent, epoch));
    }

    fn take(&mut self) -> Vec<(Family, Vec<u8>)> {
        let epochs = std::mem::take(&mut self.epochs).into_iter();
        let epochs = epochs.map(|epoch| (Family::Epochs, keys::epoch(epoch).to_vec()));
        let ledgers = std::mem::take(&mut self.ledgers).into_iter();
        epochs
            .chain(ledgers.map(|(agent, epoch)| (Family::Ledger, keys::ledger(agent, epoch).to_vec())))
            .collect()
    }
}

fn copy_key(prefix: &[u8], key: &[u8]) -> Vec<u8> {
    [prefix, key].concat()
}

impl Writer {
    /// Brings the copies up to date.
    pub(super) fn copy_changed(&mut self) -> Result<(), StoreError> {
        let changed = self.changed.take();
        for some in changed.chunks(AT_ONCE) {
            let mut batch = Batch::default();
            for (family, key) in some {
                let Some((_, prefix)) = COPIED.iter().find(|(copied, _)| copied == family) else { continue };
                match self.shared.rocks.get(*family, key)? {
                    Some(value) => batch.put(Family::Meta, copy_key(prefix, key), value),
                    None => batch.delete(Family::Meta, copy_key(prefix, key)),
                }
            }
            self.write(&batch, false)?;
        }
        Ok(())
    }

    /// Compares the copies with what they are of. After damage (`restore`) what is missing is taken from them.
    pub(super) fn check_copies(&mut self, restore: bool) -> Result<(), StoreError> {
        let rocks = &self.shared.rocks;
        let mut batch = Batch::default();
        let mut restored = 0u64;
        for (family, prefix) in COPIED {
            let mut sums: HashMap<Vec<u8>, u32> = HashMap::new();
            rocks.walk(Family::Meta, prefix, |key, value| {
                sums.insert(key[prefix.len()..].to_vec(), crc32c::crc32c(value));
                Ok(())
            })?;
            rocks.walk(family, &[], |key, value| {
                if sums.remove(key) != Some(crc32c::crc32c(value)) {
                    match (family, keys::ledger_of(key)) {
                        (Family::Ledger, Some((agent, epoch))) => self.changed.ledger(agent, epoch),
                        _ => self.changed.epochs.extend(keys::epoch_of(key)),
                    }
                }
                Ok(())
            })?;
            // What is left has no original.
            for key in sums.into_keys() {
                let copy = copy_key(prefix, &key);
                let value = if restore { rocks.get(Family::Meta, &copy)? } else { None };
                let good = value.filter(|value| match family {
                    Family::Epochs => decode_epoch(value).is_ok(),
                    _ => Ledger::decode(value).is_ok(),
                });
                match good {
                    Some(value) => {
                        batch.put(family, key, value);
                        restored += 1;
                    }
                    None => batch.delete(Family::Meta, copy),
                }
            }
        }
        if restored > 0 {
            tracing::warn!(
                restored,
                "what a damaged table file held of epochs and the ledger was taken from its copy"
            );
        }
        if !batch.is_empty() {
            rocks.write(&batch, true)?;
        }
        self.copy_changed()
    }
}
