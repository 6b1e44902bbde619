//! What is near a reading: whose evidence is heard there, and how far around it the map is a straight line.

use super::{Map, NEAR_FIXES, NEAR_NS};
use crate::time::{FixSource, RawNs};

impl Map {
    /// The groups that the evidence around `raw` speaks for: each source's nearest fix on each side.
    pub(super) fn near(&self, raw: RawNs) -> Vec<usize> {
        let split = self.witnesses.partition_point(|w| w.0 <= raw);
        let mut groups: Vec<usize> = Vec::new();
        let mut seen = 0_u32;
        let mut take = |seen: &mut u32, steps: usize, w: &(RawNs, FixSource, usize)| {
            let distance = raw.0.abs_diff(w.0.0);
            if steps >= NEAR_FIXES && distance > NEAR_NS {
                return false;
            }
            if *seen & (1 << w.1 as u32) == 0 {
                *seen |= 1 << w.1 as u32;
                if !groups.contains(&w.2) {
                    groups.push(w.2);
                }
            }
            // Stop when every source has spoken.
            *seen != self.sources
        };
        for (steps, w) in self.witnesses[..split].iter().rev().enumerate() {
            if !take(&mut seen, steps, w) {
                break;
            }
        }
        seen = 0;
        for (steps, w) in self.witnesses[split..].iter().enumerate() {
            if !take(&mut seen, steps, w) {
                break;
            }
        }
        groups
    }

    /// Between two readings that lie at most this far apart the line through their estimates is nowhere further from the
    /// estimates than `within_ns`. 0 where evidence disagrees: there UTC may jump.
    pub(crate) fn straight_ns(&self, within_ns: u64) -> u64 {
        let ([group], [_], true) = (&self.groups[..], &self.chain[..], self.stray.is_empty()) else {
            return 0;
        };
        // Everywhere the estimate rises between slow and fast: in the middle of the way, where it can be furthest from the
        // line, by a quarter of the difference for each nanosecond of it.
        let difference = (group.rate.fast() - group.rate.slow()).max(1);
        u64::try_from((i128::from(within_ns) << 34) / difference).unwrap_or(u64::MAX)
    }
}
