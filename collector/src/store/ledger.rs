//! Which entries of an epoch are durable. Mostly that is one number: all up to it. After damage of the database's log there
//! can be entries behind ones that are missing; they stay, and the missing ones are asked of the agent again.
//!
//! ```text
//! value: [all up to 8], then up to 64 ranges that are there beyond it: [first 8][last 8]; little endian
//! ```

use super::envelope::{DamagedValue, damaged};

/// Ranges beyond the first gap; when there are more, what is missing between the last two is given up for lost.
const RANGES_MAX: usize = 64;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ledger {
    /// All entries up to this one are durable.
    durable: u64,
    /// Ranges that are durable beyond missing ones, rising.
    beyond: Vec<(u64, u64)>,
}

/// What an entry is to a ledger.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Taken {
    /// It is not there yet.
    pub(super) is_new: bool,
    /// Entries before it that are missing and will not come any more, since agents send in order.
    pub(super) lost: u64,
}

impl Ledger {
    #[cfg(test)]
    pub(super) fn up_to(seq: u64) -> Ledger {
        Ledger { durable: seq, beyond: Vec::new() }
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let ranges = self.beyond.iter().flat_map(|(first, last)| [*first, *last]);
        [self.durable].into_iter().chain(ranges).flat_map(u64::to_le_bytes).collect()
    }

    pub(super) fn decode(value: &[u8]) -> Result<Ledger, DamagedValue> {
        let broken = |problem: String| damaged("the ledger", problem);
        let (numbers, rest) = value.as_chunks::<8>();
        let numbers: Vec<u64> = numbers.iter().map(|bytes| u64::from_le_bytes(*bytes)).collect();
        let Some((durable, ranges)) = numbers.split_first().filter(|_| rest.is_empty()) else {
            return Err(broken(format!("has {} bytes", value.len())));
        };
        let (ranges, odd) = ranges.as_chunks::<2>();
        let beyond: Vec<(u64, u64)> = ranges.iter().map(|[first, last]| (*first, *last)).collect();
        let mut before = *durable;
        for (first, last) in &beyond {
            if *first <= before || last < first {
                return Err(broken("has ranges that do not rise".to_owned()));
            }
            before = *last;
        }
        if !odd.is_empty() || beyond.len() > RANGES_MAX {
            return Err(broken(format!("has {} bytes", value.len())));
        }
        Ok(Ledger { durable: *durable, beyond })
    }

    pub(super) fn durable(&self) -> u64 {
        self.durable
    }

    /// The last entry that is there.
    pub(super) fn last(&self) -> u64 {
        self.beyond.last().map_or(self.durable, |(_, last)| *last)
    }

    /// Entries between those that are there.
    pub(super) fn missing(&self) -> u64 {
        let mut before = self.durable;
        let gap = |(first, last): &(u64, u64)| {
            let gap = first.saturating_sub(before).saturating_sub(1);
            before = *last;
            gap
        };
        self.beyond.iter().map(gap).sum()
    }

    #[cfg(test)]
    fn is_whole(&self) -> bool {
        self.beyond.is_empty()
    }

    /// An entry that came from its agent. `acknowledged` is the last that the agent saw acknowledged, where it said so:
    /// of those that are not there, what it does not send is lost.
    pub(super) fn take(&mut self, seq: u64, acknowledged: u64) -> Taken {
        let mut lost = 0;
        while let Some((first, last)) = self.beyond.first().copied().filter(|(first, _)| *first <= seq) {
            lost += first - self.durable - 1;
            self.durable = last;
            self.beyond.remove(0);
        }
        if seq <= self.durable {
            return Taken { is_new: false, lost };
        }
        let expected = if self.beyond.is_empty() { acknowledged } else { u64::MAX };
        lost += (seq - 1).min(expected).saturating_sub(self.durable);
        self.durable = seq;
        if let Some((first, last)) = self.beyond.first().copied()
            && first == seq + 1
        {
            self.durable = last;
            self.beyond.remove(0);
        }
        Taken { is_new: true, lost }
    }

    /// A value that the log has. `after_gap`: writes before it are missing, so that what lies between is not known to be
    /// there.
    pub(super) fn replay(&mut self, logged: &Ledger, after_gap: bool) {
        if !after_gap {
            if logged.beyond.is_empty() && logged.durable > self.last() {
                match self.beyond.last_mut() {
                    Some((_, last)) => *last = logged.durable,
                    None => self.durable = logged.durable,
                }
            } else if !logged.beyond.is_empty() && self.beyond.is_empty() {
                *self = logged.clone();
            }
            return;
        }
        let from = logged.beyond.last().map_or(logged.durable, |(first, _)| *first);
        let (last, top) = (self.last(), logged.last());
        if top <= last {
            return;
        }
        if from <= last.saturating_add(1) {
            match self.beyond.last_mut() {
                Some((_, last)) => *last = top,
                None => self.durable = top,
            }
        } else if self.beyond.len() < RANGES_MAX {
            self.beyond.push((from, top));
        } else if let Some((_, last)) = self.beyond.last_mut() {
            *last = top;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holed() -> Ledger {
        let mut ledger = Ledger::up_to(5);
        ledger.replay(&Ledger::up_to(9), true);
        (10..=20).for_each(|seq| ledger.replay(&Ledger::up_to(seq), false));
        ledger
    }

    fn new(lost: u64) -> Taken {
        Taken { is_new: true, lost }
    }

    const OLD: Taken = Taken { is_new: false, lost: 0 };

    #[test]
    fn what_is_missing_is_taken_and_what_is_there_is_not() {
        let mut ledger = holed();
        assert_eq!((ledger.durable(), ledger.last(), ledger.missing()), (5, 20, 3));
        assert_eq!(Ledger::decode(&ledger.encode()), Ok(ledger.clone()));
        let taken: Vec<Taken> = (4..=22).map(|seq| ledger.take(seq, 20)).collect();
        let expected: Vec<Taken> =
            (4..=22).map(|seq| if matches!(seq, 6..=8 | 21..) { new(0) } else { OLD }).collect();
        assert_eq!(taken, expected);
        assert_eq!((ledger.clone(), ledger.is_whole()), (Ledger::up_to(22), true));
    }

    #[test]
    fn what_does_not_come_again_is_counted_once() {
        for (sent, lost) in
            [(&[7u64, 8, 9, 21][..], 1), (&[9, 21], 3), (&[21], 3), (&[15, 16], 3), (&[6, 8, 30], 1)]
        {
            let mut ledger = holed();
            let counted: u64 = sent.iter().map(|seq| ledger.take(*seq, 20).lost).sum();
            assert_eq!(counted, lost, "{sent:?}");
            assert!(ledger.is_whole());
        }
        // Of the end of the log nothing but the agent knows.
        let mut ledger = Ledger::up_to(5);
        assert_eq!(ledger.take(9, 7), new(2));
        assert_eq!(ledger.take(30, 7), new(0), "what was never acknowledged is the agent's to count");
    }

    #[test]
    fn ranges_are_bounded_and_a_value_that_cannot_be_is_refused() {
        let mut ledger = Ledger::default();
        (1..1_000u64).for_each(|n| ledger.replay(&Ledger::up_to(n * 10), true));
        assert_eq!((ledger.beyond.len(), ledger.last()), (RANGES_MAX, 9_990));
        assert_eq!(Ledger::decode(&ledger.encode()), Ok(ledger));
        let value = |numbers: &[u64]| numbers.iter().flat_map(|n| n.to_le_bytes()).collect::<Vec<u8>>();
        for bad in [
            vec![],
            vec![1; 7],
            value(&[5, 9]),
            value(&[5, 5, 6]),
            value(&[5, 9, 8]),
            value(&[5, 9, 9, 7, 8]),
        ] {
            assert!(Ledger::decode(&bad).is_err(), "{bad:?}");
        }
    }
}
