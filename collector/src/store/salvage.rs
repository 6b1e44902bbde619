//! What can be read of damaged files of the database goes into good ones.

use std::collections::HashMap;
use std::path::Path;

use super::StoreError;
use super::keys::Family;
use super::ledger::Ledger;
use super::rocks::{Batch, Rocks, RocksError, RocksFailure};
use super::rocks_mend::{replay, replayed, table_named, take_out};

/// Pairs are written anew in batches of about so many bytes.
const BATCH_BYTES: usize = 1 << 20;
/// Table files that one start takes out at most.
pub(super) const TABLES_MAX: usize = 256;
/// Flushes of what is written anew are waited for.
const STALLS_MAX: u32 = 120;

/// Writes the readable pairs of the families that a damaged table file belongs to anew, and takes the file out. Only while the
/// database is closed.
///
/// # Errors
/// What the disk said: the next start does it again.
pub(super) fn without_table(dir: &Path, number: u64) -> Result<(), StoreError> {
    let db = dir.join("db");
    match Rocks::open(&db) {
        Ok(rocks) => {
            let family = rocks.family_of_table(number);
            // Columns are found damaged one by one, and need not be read to start.
            if let Some(family) = family.filter(|family| *family != Family::Columns) {
                write_anew(&rocks, family)?;
            }
        }
        Err(error) if table_named(&error.message).is_some() => {}
        Err(error) => return Err(error.into()),
    }
    take_out(dir, number)
}

fn write_anew(rocks: &Rocks, family: Family) -> Result<(), StoreError> {
    let (mut batch, mut bytes) = (Batch::default(), 0);
    let mut stretches = 0u64;
    rocks.walk_readable(
        family,
        |key, value| {
            batch.put(family, key, value);
            bytes += key.len() + value.len();
            if bytes >= BATCH_BYTES {
                write(rocks, &std::mem::take(&mut batch))?;
                bytes = 0;
            }
            Ok(())
        },
        |error| {
            stretches += 1;
            tracing::error!(family = family.name(), %error, "a part of the database cannot be read: the rest is kept");
        },
    )?;
    write(rocks, &batch)?;
    rocks.flush()?;
    tracing::warn!(family = family.name(), stretches, "what can be read was written anew");
    Ok(())
}

fn write(rocks: &Rocks, batch: &Batch) -> Result<(), RocksError> {
    let mut tries = 0;
    loop {
        match rocks.write(batch, false) {
            Err(error) if error.failure == RocksFailure::Stalled && tries < STALLS_MAX => tries += 1,
            written => return written,
        }
    }
}

/// Brings in what logs with unreadable stretches hold. Whether there were any.
///
/// # Errors
/// What the disk said: the next start does it again.
pub(super) fn replay_logs(dir: &Path, rocks: &Rocks) -> Result<bool, StoreError> {
    let mut ledgers: HashMap<Vec<u8>, (Ledger, u64)> = HashMap::new();
    let (mut gaps, mut batches) = (0u64, 0u64);
    let there = replay(dir, |writes, after_gap| {
        gaps += u64::from(after_gap);
        batches += 1;
        let mut batch = Batch::default();
        for (family, key, value) in writes {
            let value = match (family, value) {
                (_, None) => {
                    batch.delete(family, key);
                    continue;
                }
                (Family::Ledger, Some(value)) => {
                    let (ledger, seen) = match ledgers.get_mut(key) {
                        Some(known) => known,
                        None => {
                            let before = rocks.get(Family::Ledger, key)?;
                            let before = before.map(|value| Ledger::decode(&value)).transpose()?;
                            ledgers.entry(key.to_vec()).or_insert((before.unwrap_or_default(), 0))
                        }
                    };
                    ledger.replay(&Ledger::decode(value)?, *seen < gaps);
                    *seen = gaps;
                    ledger.encode()
                }
                (_, Some(value)) => value.to_vec(),
            };
            batch.put(family, key, value);
        }
        Ok(write(rocks, &batch)?)
    })?;
    if there {
        rocks.flush()?;
        replayed(dir)?;
        let missing: u64 = ledgers.values().map(|(ledger, _)| ledger.missing()).sum();
        tracing::warn!(
            gaps,
            batches,
            missing,
            "the readable part of the database's log was replayed; agents are asked for the entries that are missing"
        );
    }
    Ok(there)
}
