//! Alerts that records are joined with: remembered for a while, because their flow may come later than they, end later, or
//! be seen by another agent too. What was joined is in the records and needs no alert any more.
//!
//! Constraints: an alert is durable before it is acknowledged; a crash joins again what was not joined durably, which
//! changes nothing where it was; memory is bounded by [`ALERTS_MAX`] and [`ALERT_BYTES_MAX`], and what is given up without
//! ever having met a record is counted. The family `alerts` has each one as a protobuf `StoredAlert` under a rising number;
//! a number may come again once everything of before is forgotten, which nobody can tell.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ops::Bound;
use std::sync::atomic::{AtomicU64, Ordering};

use gnomon_clock::{Estimate, MonoNs, RawNs};
use gnomon_flow::{Alert, EpochHash, FlowEndReason, FlowRecord, Pair};
use gnomon_proto::{Message, v1};

use super::block::bloom::Mixing;
use super::envelope::{DamagedValue, damaged};

/// How long a record is waited for, and records of the same flow are joined too. From when the alert came, or from the
/// start of the collector.
pub(super) const REMEMBER_NS: u64 = 15 * 60 * 1_000_000_000;
/// Alerts remembered; beyond it the one that came first is forgotten.
pub(super) const ALERTS_MAX: usize = 65_536;
/// Memory for them; the same beyond it.
pub(super) const ALERT_BYTES_MAX: usize = 64 << 20;
/// None is forgotten before its records were looked for, which takes a while when many come at once: so many more are
/// remembered meanwhile, and what comes beyond them is crowded out.
const ALERTS_OVER_MAX: usize = 16_384;
/// Alerts that one record is compared with, of its own epoch and of others each: those near in time where that can be told
/// beforehand. What is beyond them meets the record never, and is given up in the end.
const COMPARED_MAX: usize = 256;

/// A record has an alert that is at most this much earlier than its first packet: the two clocks' readings differ a little.
const BEFORE_NS: u64 = 1_000_000_000;
/// Or this much later than its last: Suricata looks at what was not acknowledged when it gives the flow up, and the last
/// packet of an open record was not the last.
const AFTER_NS: u64 = 60_000_000_000;
/// The error of times that is allowed for beyond that, when alert and record are of different epochs.
const ERROR_NS_MAX: u64 = 5_000_000_000;

/// What became of alerts since the start.
#[derive(Debug, Default)]
pub(crate) struct AlertCounts {
    /// That came for the first time.
    pub(super) taken: AtomicU64,
    /// That are remembered already.
    pub(super) repeated: AtomicU64,
    /// That met at least one record.
    pub(super) joined: AtomicU64,
    /// That met none in time.
    pub(super) given_up: AtomicU64,
    /// That met none before too many others came.
    pub(super) crowded_out: AtomicU64,
    /// Remembered now that have met none.
    pub(super) waiting: AtomicU64,
}

impl AlertCounts {
    /// What happened, by name.
    pub(crate) fn named(&self) -> [(&'static str, u64); 5] {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        [
            ("taken", load(&self.taken)),
            ("repeated", load(&self.repeated)),
            ("joined", load(&self.joined)),
            ("given_up", load(&self.given_up)),
            ("crowded_out", load(&self.crowded_out)),
        ]
    }

    pub(crate) fn waiting(&self) -> u64 {
        self.waiting.load(Ordering::Relaxed)
    }
}

/// An alert and whose it is.
#[derive(Clone, Debug)]
pub(super) struct Remembered {
    pub(super) epoch: EpochHash,
    pub(super) alert: Alert,
    pub(super) since: MonoNs,
    pub(super) joined: bool,
    /// When it was, could be told when its records were looked for.
    pub(super) timed: bool,
}

impl Remembered {
    pub(super) fn new(epoch: EpochHash, alert: Alert, since: MonoNs) -> Remembered {
        Remembered { epoch, alert, since, joined: false, timed: false }
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        v1::StoredAlert { epoch: self.epoch.0, alert: Some((&self.alert).into()) }.encode_to_vec()
    }

    pub(super) fn decode(value: &[u8], since: MonoNs) -> Result<Remembered, DamagedValue> {
        const WHAT: &str = "an alert";
        let stored = v1::StoredAlert::decode(value).map_err(|e| damaged(WHAT, e.to_string()))?;
        let alert = stored.alert.ok_or_else(|| damaged(WHAT, "is empty"))?;
        let alert = Alert::try_from(alert).map_err(|e| damaged(WHAT, e.to_string()))?;
        Ok(Remembered::new(EpochHash(stored.epoch), alert, since))
    }
}

/// The alerts that are remembered, by number, which is the order in which they came.
#[derive(Debug, Default)]
pub(super) struct AlertTable {
    all: BTreeMap<u64, Remembered>,
    /// By epoch, then by time: a pair may have as many as there are.
    by_pair: HashMap<Pair, BTreeSet<(EpochHash, RawNs, u64)>, Mixing>,
    digests: HashSet<u64, Mixing>,
    bytes: usize,
    waiting: usize,
}

impl AlertTable {
    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// There are too many, still when so many of so many bytes are forgotten.
    pub(super) fn is_over(&self, (alerts, bytes): (usize, usize)) -> bool {
        self.all.len().saturating_sub(alerts) > ALERTS_MAX
            || self.bytes.saturating_sub(bytes) > ALERT_BYTES_MAX
    }

    /// No more are remembered until some are forgotten.
    pub(super) fn is_full(&self, coming: usize) -> bool {
        self.all.len() + coming >= ALERTS_MAX + ALERTS_OVER_MAX
            || self.bytes > ALERT_BYTES_MAX + ALERT_BYTES_MAX / 4
    }

    /// The number after the last.
    pub(super) fn next(&self) -> u64 {
        self.all.last_key_value().map_or(0, |(number, _)| number + 1)
    }

    pub(super) fn get(&self, number: u64) -> Option<&Remembered> {
        self.all.get(&number)
    }

    pub(super) fn has_digest(&self, digest: u64) -> bool {
        self.digests.contains(&digest)
    }

    pub(super) fn insert(&mut self, number: u64, remembered: Remembered) {
        self.remove(number);
        self.bytes += remembered.alert.bytes();
        self.waiting += usize::from(!remembered.joined);
        self.digests.insert(remembered.alert.digest());
        let place = (remembered.epoch, remembered.alert.at, number);
        self.by_pair.entry(remembered.alert.pair).or_default().insert(place);
        self.all.insert(number, remembered);
    }

    pub(super) fn remove(&mut self, number: u64) -> Option<Remembered> {
        let removed = self.all.remove(&number)?;
        self.bytes -= removed.alert.bytes();
        self.waiting -= usize::from(!removed.joined);
        self.digests.remove(&removed.alert.digest());
        if let Some(numbers) = self.by_pair.get_mut(&removed.alert.pair) {
            numbers.remove(&(removed.epoch, removed.alert.at, number));
            if numbers.is_empty() {
                self.by_pair.remove(&removed.alert.pair);
            }
        }
        Some(removed)
    }

    /// Whether it had met no record before.
    pub(super) fn set_joined(&mut self, number: u64) -> bool {
        let Some(remembered) = self.all.get_mut(&number) else { return false };
        let first = !std::mem::replace(&mut remembered.joined, true);
        self.waiting -= usize::from(first);
        first
    }

    /// How many alerts a pair has.
    pub(super) fn count_of(&self, pair: &Pair) -> usize {
        self.by_pair.get(pair).map_or(0, BTreeSet::len)
    }

    #[cfg(test)]
    fn of(&self, pair: &Pair) -> Vec<u64> {
        self.by_pair.get(pair).into_iter().flatten().map(|(.., number)| *number).collect()
    }

    /// The alerts that a record of this pair and epoch is compared with: of its own epoch those in [`near_span`], of others
    /// any.
    pub(super) fn comparable<'t>(
        &'t self,
        pair: &Pair,
        epoch: EpochHash,
        (from, to): (RawNs, RawNs),
    ) -> impl Iterator<Item = (u64, &'t Remembered)> {
        let of_pair = self.by_pair.get(pair).into_iter();
        let numbers = of_pair.flat_map(move |all| {
            let own = all.range((epoch, from, 0)..=(epoch, to, u64::MAX));
            let before = all.range(..(epoch, RawNs(0), 0)).rev();
            let behind = all.range((Bound::Excluded((epoch, RawNs(u64::MAX), u64::MAX)), Bound::Unbounded));
            own.take(COMPARED_MAX).chain(before.take(COMPARED_MAX / 2)).chain(behind.take(COMPARED_MAX / 2))
        });
        numbers.filter_map(|(.., number)| Some((*number, self.all.get(number)?)))
    }

    /// The oldest first.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, &Remembered)> {
        self.all.iter().map(|(number, remembered)| (*number, remembered))
    }

    pub(super) fn set_timed(&mut self, number: u64) {
        if let Some(remembered) = self.all.get_mut(&number) {
            remembered.timed = true;
        }
    }

    pub(super) fn waiting_len(&self) -> usize {
        self.waiting
    }
}

/// How much later than its last packet a record may have an alert: one that was closed because it was long goes on in the
/// next segment, and what comes later belongs there.
fn after_ns(end: Option<FlowEndReason>) -> u64 {
    if end == Some(FlowEndReason::Active) { BEFORE_NS } else { AFTER_NS }
}

/// What is near a record on its own epoch's clock.
pub(super) fn near_span(record: &FlowRecord) -> (RawNs, RawNs) {
    let (first, last) =
        (record.first.saturating_sub(BEFORE_NS), record.last.saturating_add(after_ns(record.end)));
    // A record that ends before it begins is near nothing else.
    (first, last.max(first))
}

/// Whether an alert of the record's own epoch is near enough: readings of one clock compare without any evidence.
#[cfg(test)]
pub(super) fn is_near(record: &FlowRecord, at: RawNs) -> bool {
    let (first, last) = near_span(record);
    first <= at && at <= last
}

/// The same by what is known of the times of both.
pub(super) fn is_near_by(
    end: Option<FlowEndReason>,
    (first, last): (Estimate, Estimate),
    at: Estimate,
) -> bool {
    let error = |a: u64, b: u64| a.saturating_add(b).min(ERROR_NS_MAX);
    let before = (BEFORE_NS + error(first.err_ns, at.err_ns)).cast_signed();
    let after = (after_ns(end) + error(last.err_ns, at.err_ns)).cast_signed();
    first.utc.minus(at.utc) <= before && at.utc.minus(last.utc) <= after
}

/// The widest that [`near_span`] and [`is_near_by`] reach before and after a record.
pub(super) const REACH_NS: (u64, u64) = (BEFORE_NS + ERROR_NS_MAX, AFTER_NS + ERROR_NS_MAX);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::testing::{S, alert, record};
    use gnomon_clock::UtcNs;

    #[test]
    fn an_alert_survives_and_a_cut_one_is_named() {
        let remembered = Remembered::new(EpochHash(7), alert(1, 5), MonoNs(3));
        let read = Remembered::decode(&remembered.encode(), MonoNs(4)).unwrap();
        assert_eq!((read.epoch, read.alert, read.since), (EpochHash(7), alert(1, 5), MonoNs(4)));
        assert!(
            Remembered::decode(b"", MonoNs(0)).is_err() && Remembered::decode(b"\xff", MonoNs(0)).is_err()
        );
    }

    #[test]
    fn the_table_finds_by_pair_and_forgets_without_rest() {
        let mut table = AlertTable::default();
        for n in 0..10 {
            table.insert(n, Remembered::new(EpochHash(7), alert(n, 5), MonoNs(n)));
        }
        let pair = alert(0, 5).pair;
        assert_eq!((table.of(&pair).len(), table.waiting_len(), table.next()), (10, 10, 10));
        assert!(table.set_joined(3) && !table.set_joined(3) && !table.set_joined(99));
        assert_eq!(table.waiting_len(), 9);
        assert!(table.has_digest(alert(4, 5).digest()));
        for n in 0..10 {
            assert_eq!(table.iter().next().map(|(number, _)| number), Some(n));
            table.remove(n);
        }
        assert!(table.is_empty() && table.of(&pair).is_empty() && !table.has_digest(alert(4, 5).digest()));
        assert_eq!((table.bytes, table.waiting_len(), table.next()), (0, 0, 0));
    }

    #[test]
    fn near_is_a_second_before_and_a_minute_after() {
        let mut of = record(1, 0, 100 * S, 110 * S);
        let near = |of: &FlowRecord| -> Vec<u64> {
            [98, 99, 105, 111, 112, 170, 171].into_iter().filter(|at| is_near(of, RawNs(at * S))).collect()
        };
        assert_eq!(near(&of), [99, 105, 111, 112, 170]);
        of.end = Some(FlowEndReason::Active);
        assert_eq!(near(&of), [99, 105, 111]);
        let at = |s: i64, err_ns| Estimate {
            utc: UtcNs::from_tai_ns(s * S.cast_signed()),
            err_ns,
            conflict: false,
        };
        let by = |s, err_ns| is_near_by(None, (at(100, 0), at(110, 0)), at(s, err_ns));
        assert!(by(99, 0) && !by(98, 0) && by(98, S) && by(170, 0) && !by(171, 0));
        assert!(!by(90, u64::MAX) && !by(180, u64::MAX));
    }
}
