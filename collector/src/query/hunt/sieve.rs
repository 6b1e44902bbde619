//! Who has more than a few targets, told without a record of everybody: most pairs of hosts are seen with one or two, and there
//! are tens of millions of them.

use std::sync::atomic::{AtomicU32, Ordering};

/// Places at most: 64 MiB.
const CELLS_MAX: u64 = 1 << 24;
const CELLS_MIN: u64 = 1 << 10;

/// A place for each suspect, by its hash, that several may share, and in it a bit for each target, by its hash. So somebody may
/// be let through by others' targets; who has many of his own always is.
pub(super) struct Sieve {
    cells: Box<[AtomicU32]>,
    /// Bits that hold back.
    few: u32,
}

impl Sieve {
    /// For about as many suspects as there are `records`; lets through who has been seen with more than `few` targets, which
    /// can be told apart up to a dozen.
    pub(super) fn new(records: u64, few: u32) -> Sieve {
        let cells = records.clamp(CELLS_MIN, CELLS_MAX).next_power_of_two();
        Sieve { cells: (0..cells).map(|_| AtomicU32::new(0)).collect(), few }
    }

    pub(super) fn bytes(&self) -> usize {
        self.cells.len() * size_of::<AtomicU32>()
    }

    /// Both hashes, of all bits.
    pub(super) fn lets_through(&self, suspect: u64, target: u64) -> bool {
        let cell = &self.cells[(suspect >> 32) as usize & (self.cells.len() - 1)];
        let bit = 1 << (target >> 24 & 31);
        let seen = cell.load(Ordering::Relaxed);
        // Reading is cheap, and most have been seen before.
        if seen & bit == 0 {
            cell.fetch_or(bit, Ordering::Relaxed);
        }
        (seen | bit).count_ones() > self.few
    }
}

#[cfg(test)]
mod tests {
    use std::hash::BuildHasher;

    use super::*;
    use crate::store::block::bloom::Mixing;

    #[test]
    fn few_get_through_and_nobody_with_many_targets_is_held_back() {
        let hash = |of: (u64, u64)| Mixing::default().hash_one(of);
        let sieve = Sieve::new(1_000_000, 6);
        let mut through = 0u32;
        for suspect in 0..1_000_000 {
            for target in 0..1 + suspect % 3 {
                through += u32::from(sieve.lets_through(hash((1, suspect)), hash((2, suspect + target))));
            }
        }
        assert!(through < 100_000, "{through} of two million");
        for suspect in 0..1_000 {
            let times = |from: u64| {
                let targets = from..from + 60;
                targets.filter(|target| sieve.lets_through(hash((3, suspect)), hash((2, *target)))).count()
            };
            // 60 targets are more than six bits, but for a chance of one in 10²⁰ or so.
            assert!(times(0) > 30 && times(60) == 60, "{suspect}");
        }
    }
}
