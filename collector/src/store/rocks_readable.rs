//! Reading around what cannot be read: the pairs of a family before and behind the damaged parts of its files.

use std::ops::Bound;

use super::StoreError;
use super::keys::{Family, run_len, successor};
use super::rocks::{Rocks, RocksError};

/// Stretches of a family that cannot be read and are gone around.
const STRETCHES_MAX: usize = 10_000;

impl Rocks {
    /// Visits every pair of a family that can be read, in rising order, and says where some cannot: it goes on behind them.
    pub(super) fn walk_readable(
        &self,
        family: Family,
        mut visit: impl FnMut(&[u8], &[u8]) -> Result<(), StoreError>,
        mut unreadable: impl FnMut(RocksError),
    ) -> Result<(), StoreError> {
        let mut from = Vec::new();
        for _ in 0..STRETCHES_MAX {
            let mut last = None;
            let walked = self.walk_from(family, &from, |key, value| {
                last = Some(key.to_vec());
                visit(key, value)
            });
            match walked {
                Err(StoreError::Rocks(error)) if error.failure.is_damage() => {
                    let read = last.map_or(from, |last| successor(&last));
                    let behind = self.behind_unreadable(family, &read);
                    unreadable(error);
                    match behind? {
                        Some(behind) => from = behind,
                        None => return Ok(()),
                    }
                }
                walked => return walked,
            }
        }
        Ok(())
    }

    /// The lowest key above `from` from which on pairs can be read, as exactly as the first 16 bytes tell it.
    fn behind_unreadable(&self, family: Family, from: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let ends = {
            let db = self.db()?;
            let files = db.live_files().map_err(|e| self.error(e))?.into_iter();
            let mut ends: Vec<Vec<u8>> = files
                .filter(|file| file.column_family_name == family.name())
                .filter_map(|file| Some(successor(&file.end_key?)))
                .filter(|end| end.as_slice() > from)
                .collect();
            ends.sort_unstable();
            ends
        };
        let reads = |key: &[u8]| self.run(family, key, Bound::Unbounded, None, false, 1).is_ok();
        let Some(end) = ends.into_iter().find(|end| reads(end)) else { return Ok(None) };
        let (mut low, mut high) = (leading(from), leading(&end));
        while low + 1 < high {
            let middle = low + (high - low) / 2;
            if reads(&middle.to_be_bytes()) {
                high = middle;
            } else {
                low = middle;
            }
        }
        let found = high.to_be_bytes().to_vec();
        Ok(Some(if found.as_slice() > from && reads(&found) { found } else { end }))
    }

    fn walk_from(
        &self,
        family: Family,
        from: &[u8],
        mut visit: impl FnMut(&[u8], &[u8]) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let mut after: Option<Box<[u8]>> = None;
        loop {
            // One by one where something cannot be read, so that what is before it is seen.
            let run = match self.run(family, from, Bound::Unbounded, after.as_deref(), false, run_len(family))
            {
                Err(error) if error.failure.is_damage() => {
                    self.run(family, from, Bound::Unbounded, after.as_deref(), false, 1)?
                }
                run => run?,
            };
            for (key, value) in &run {
                visit(key, value)?;
            }
            match run.into_iter().last() {
                Some((key, _)) => after = Some(key),
                None => return Ok(()),
            }
        }
    }
}

/// The first 16 bytes of a key as a number.
fn leading(key: &[u8]) -> u128 {
    u128::from_be_bytes(std::array::from_fn(|at| key.get(at).copied().unwrap_or(0)))
}
