//! How often each value of a field was counted.
//!
//! Values are kept as bytes behind each other and found by their hash. Those of a block's dictionary come many at once:
//! what has to be read from memory for each is asked for before any of it is used, so that the processor waits for
//! many places at a time and not for one after the other.

use std::hash::{BuildHasher, Hasher};
use std::net::IpAddr;

use gnomon_clock::UtcNs;
use gnomon_flow::Value;

use crate::store::block::bloom::Mixing;
use crate::store::block::columns::{self, VALUE_INTEGER, VALUE_IP, VALUE_TEXT};

/// Integers below it are counted in a table of their own, half a megabyte at most: ports are most of what is counted.
pub(super) const SMALL_MAX: u64 = 65_536;
/// What a value takes beside its bytes: its count and its two places in the table of hashes.
pub(super) const VALUE_BYTES: usize = size_of::<Counted>() + 2 * size_of::<u64>();
/// Values that are looked up at once.
const RUN: usize = 32;
/// Kinds of values behind those that columns have.
const KIND_BOOL: u8 = 3;
const KIND_TIME: u8 = 4;

/// A value as bytes: its kind, and the rest.
#[derive(Clone, Copy, Debug)]
pub(super) struct Key<'k> {
    kind: u8,
    bytes: &'k [u8],
}

/// As long as this a key's hash tells it from all others of its length.
const SHORT: usize = 6;

impl<'k> Key<'k> {
    /// An address as a block has it, of 4 or 16 bytes; `None` for anything else.
    pub(super) fn of_address(bytes: &'k [u8]) -> Option<Key<'k>> {
        matches!(bytes.len(), 4 | 16).then_some(Key { kind: VALUE_IP, bytes })
    }

    /// An entry of a metadata column. With `ascii` all entries are known to be text that can be shown.
    pub(super) fn of_entry(entry: &'k [u8], ascii: bool) -> Option<Key<'k>> {
        let (kind, bytes) = entry.split_first()?;
        let good = (*kind == VALUE_TEXT && ascii) || columns::value_of(entry).is_some();
        good.then_some(Key { kind: *kind, bytes })
    }

    fn hash(self) -> u64 {
        if self.bytes.len() > SHORT {
            let mut hash = Mixing::default().build_hasher();
            hash.write_u64(u64::from(self.kind));
            hash.write(self.bytes);
            return hash.finish();
        }
        let mut word = [0; 8];
        word[..self.bytes.len()].copy_from_slice(self.bytes);
        word[SHORT] = self.kind;
        word[SHORT + 1] = self.bytes.len() as u8;
        Mixing::default().hash_one(u64::from_le_bytes(word))
    }

    fn small(self) -> Option<u64> {
        if self.kind != VALUE_INTEGER {
            return None;
        }
        Some(u64::from_be_bytes(self.bytes.try_into().ok()?)).filter(|n| *n < SMALL_MAX)
    }
}

/// Calls `with` with the value's key.
fn with_key<T>(value: &Value<'_>, with: impl FnOnce(Key<'_>) -> T) -> T {
    match value {
        Value::Ip(IpAddr::V4(ip)) => with(Key { kind: VALUE_IP, bytes: &ip.octets() }),
        Value::Ip(IpAddr::V6(ip)) => with(Key { kind: VALUE_IP, bytes: &ip.octets() }),
        Value::Integer(n) => with(Key { kind: VALUE_INTEGER, bytes: &n.to_be_bytes() }),
        Value::Text(text) => with(Key { kind: VALUE_TEXT, bytes: text.as_bytes() }),
        Value::Bool(b) => with(Key { kind: KIND_BOOL, bytes: &[u8::from(*b)] }),
        Value::Time(at) => with(Key { kind: KIND_TIME, bytes: &at.tai_ns().to_be_bytes() }),
    }
}

fn value_of(key: &[u8]) -> Value<'_> {
    match key {
        [KIND_BOOL, b] => Some(Value::Bool(*b != 0)),
        [KIND_TIME, at @ ..] => {
            at.try_into().ok().map(|at| Value::Time(UtcNs::from_tai_ns(i64::from_be_bytes(at))))
        }
        _ => columns::value_of(key),
    }
    // Nothing else is ever put in.
    .unwrap_or(Value::Text("".into()))
}

#[derive(Debug)]
struct Counted {
    hash: u64,
    count: u64,
    start: usize,
    len: u32,
}

/// Values and their counts.
#[derive(Debug, Default)]
pub(super) struct ValueCounts {
    /// Counts of integers below [`SMALL_MAX`], by themselves.
    small: Vec<u64>,
    counted: Vec<Counted>,
    /// The keys of all of them.
    bytes: Vec<u8>,
    /// A power of two of places, at most half of them used: the upper half of a hash, then 1 + the place in `counted`; 0 is
    /// free.
    slots: Vec<u64>,
}

impl ValueCounts {
    /// Memory that they take, but for the table of small integers.
    pub(super) fn bytes(&self) -> usize {
        self.counted.len() * VALUE_BYTES + self.bytes.len()
    }

    /// All memory that they take, with what is kept free to grow into.
    pub(super) fn held_bytes(&self) -> usize {
        self.small.capacity() * size_of::<u64>()
            + self.counted.capacity() * size_of::<Counted>()
            + self.bytes.capacity()
            + self.slots.capacity() * size_of::<u64>()
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.counted.len() + self.small.iter().filter(|count| **count > 0).count()
    }

    pub(super) fn add(&mut self, value: &Value<'_>, count: u64) {
        if let Value::Integer(n @ 0..SMALL_MAX) = value {
            return self.add_small(*n, count);
        }
        with_key(value, |key| self.add_key(key, key.hash(), count));
    }

    pub(super) fn add_integer(&mut self, n: u64, count: u64) {
        self.add(&Value::Integer(n), count);
    }

    fn add_small(&mut self, n: u64, count: u64) {
        let place = n as usize;
        if self.small.len() <= place {
            self.small.resize((place + 1).next_power_of_two(), 0);
        }
        self.small[place] += count;
    }

    fn add_key(&mut self, key: Key<'_>, hash: u64, count: u64) {
        match self.find(key, hash) {
            Some(place) => self.counted[place].count += count,
            None => self.insert(key, hash, count),
        }
    }

    /// Adds many at once.
    pub(super) fn add_keys<'k>(&mut self, keys: impl Iterator<Item = (Key<'k>, u64)>) {
        let mut keys = keys.peekable();
        let none = (Key { kind: 0, bytes: &[] }, 0, 0);
        let mut run: [(Key<'k>, u64, u64); RUN] = [none; RUN];
        while keys.peek().is_some() {
            let mut len = 0;
            for (key, count) in keys.by_ref().take(RUN) {
                match key.small() {
                    Some(n) => self.add_small(n, count),
                    None => {
                        run[len] = (key, key.hash(), count);
                        len += 1;
                    }
                }
            }
            let run = &run[..len];
            // Nothing in these two loops waits for anything else in them.
            let mut slots = [0u64; RUN];
            for ((_, hash, _), slot) in run.iter().zip(&mut slots) {
                *slot = self.slots.get(self.place_of(*hash)).copied().unwrap_or(0);
            }
            let mut hashes = [0u64; RUN];
            for (slot, hash) in slots.iter().zip(&mut hashes).take(len) {
                let place = (*slot as u32 as usize).wrapping_sub(1);
                *hash = self.counted.get(place).map_or(0, |counted| counted.hash);
            }
            for (((key, hash, count), slot), known) in run.iter().zip(slots).zip(hashes) {
                let place = (slot as u32 as usize).wrapping_sub(1);
                if known == *hash && slot != 0 && self.is(place, *key) {
                    self.counted[place].count += count;
                } else {
                    self.add_key(*key, *hash, *count);
                }
            }
        }
    }

    /// Where to look first.
    fn place_of(&self, hash: u64) -> usize {
        hash as usize & self.slots.len().wrapping_sub(1)
    }

    fn key(&self, counted: &Counted) -> &[u8] {
        &self.bytes[counted.start..counted.start + counted.len as usize]
    }

    /// Whether the value of this place, whose hash is the key's, is it.
    fn is(&self, place: usize, key: Key<'_>) -> bool {
        let counted = &self.counted[place];
        if counted.len as usize != key.bytes.len() + 1 {
            return false;
        }
        key.bytes.len() <= SHORT
            || self.key(counted).split_first().is_some_and(|(kind, of)| *kind == key.kind && of == key.bytes)
    }

    fn find(&self, key: Key<'_>, hash: u64) -> Option<usize> {
        let mut at = self.place_of(hash);
        loop {
            let slot = *self.slots.get(at).filter(|slot| **slot != 0)?;
            let place = slot as u32 as usize - 1;
            if slot >> 32 == hash >> 32 && self.counted[place].hash == hash && self.is(place, key) {
                return Some(place);
            }
            at = (at + 1) & (self.slots.len() - 1);
        }
    }

    /// A key that is not there.
    fn insert(&mut self, key: Key<'_>, hash: u64, count: u64) {
        // Texts of packets are far shorter, and so many values are never kept.
        let (Ok(len), Ok(place)) =
            (u32::try_from(key.bytes.len() + 1), u32::try_from(self.counted.len() + 1))
        else {
            return;
        };
        if self.slots.len() < 2 * (self.counted.len() + 1) {
            self.grow();
        }
        let start = self.bytes.len();
        self.bytes.push(key.kind);
        self.bytes.extend_from_slice(key.bytes);
        self.counted.push(Counted { hash, count, start, len });
        self.put(hash, place);
    }

    fn put(&mut self, hash: u64, place: u32) {
        let mut at = self.place_of(hash);
        while self.slots[at] != 0 {
            at = (at + 1) & (self.slots.len() - 1);
        }
        self.slots[at] = hash >> 32 << 32 | u64::from(place);
    }

    fn grow(&mut self) {
        let slots = (4 * (self.counted.len() + 1)).next_power_of_two().max(64);
        self.slots.clear();
        self.slots.resize(slots, 0);
        for place in 0..self.counted.len() {
            self.put(self.counted[place].hash, place as u32 + 1);
        }
    }

    /// Adds all that another has.
    pub(super) fn merge(&mut self, other: &ValueCounts) {
        other.all_small().for_each(|(n, count)| self.add_small(n, count));
        self.add_keys(other.keys());
    }

    /// All but small integers.
    fn keys(&self) -> impl Iterator<Item = (Key<'_>, u64)> {
        self.counted.iter().filter_map(|counted| {
            let (kind, bytes) = self.key(counted).split_first()?;
            Some((Key { kind: *kind, bytes }, counted.count))
        })
    }

    fn all_small(&self) -> impl Iterator<Item = (u64, u64)> {
        (0..).zip(self.small.iter().copied()).filter(|(_, count)| *count > 0)
    }

    /// All of them, with their counts.
    pub(super) fn all(&self) -> Vec<(Value<'static>, u64)> {
        let other =
            self.counted.iter().map(|counted| (value_of(self.key(counted)).into_owned(), counted.count));
        self.all_small().map(|(n, count)| (Value::Integer(n), count)).chain(other).collect()
    }

    /// The most frequent of them, by `limit`, and how many there are.
    pub(super) fn most(&self, limit: usize) -> (Vec<(Value<'static>, u64)>, u64) {
        let mut ranked: Vec<(Value<'_>, u64)> =
            self.all_small().map(|(n, count)| (Value::Integer(n), count)).collect();
        let small = ranked.len();
        // Values are made of those alone that may be among the first.
        let mut counts: Vec<u64> = self.counted.iter().map(|counted| counted.count).collect();
        let least = match counts.len() > limit && limit > 0 {
            true => *counts.select_nth_unstable_by(limit - 1, |a, b| b.cmp(a)).1,
            false => 0,
        };
        let may_be = self.counted.iter().filter(|counted| counted.count >= least);
        ranked.extend(may_be.map(|counted| (value_of(self.key(counted)), counted.count)));
        let order = |a: &(Value<'_>, u64), b: &(Value<'_>, u64)| b.1.cmp(&a.1).then(a.0.cmp(&b.0));
        if ranked.len() > limit {
            ranked.select_nth_unstable_by(limit, order);
            ranked.truncate(limit);
        }
        ranked.sort_unstable_by(order);
        let most = ranked.into_iter().map(|(value, count)| (value.into_owned(), count)).collect();
        (most, (small + self.counted.len()) as u64)
    }

    /// Lets at least half of the values go, the rarest but small integers. Gives the largest count that went.
    pub(super) fn shrink(&mut self) -> u64 {
        let mut counts: Vec<u64> = self.counted.iter().map(|counted| counted.count).collect();
        let middle = counts.len() / 2;
        let Some((_, median, _)) = (!counts.is_empty()).then(|| counts.select_nth_unstable(middle)) else {
            return 0;
        };
        let median = *median;
        let mut kept = ValueCounts { small: std::mem::take(&mut self.small), ..ValueCounts::default() };
        kept.add_keys(self.keys().filter(|(_, count)| *count > median));
        *self = kept;
        median
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn value() -> impl Strategy<Value = Value<'static>> {
        prop_oneof![
            (0u64..5).prop_map(Value::Integer),
            (SMALL_MAX - 2..SMALL_MAX + 2).prop_map(Value::Integer),
            any::<u64>().prop_map(Value::Integer),
            any::<bool>().prop_map(Value::Bool),
            (0i64..3).prop_map(|at| Value::Time(UtcNs::from_tai_ns(at))),
            (0u32..4).prop_map(|ip| Value::Ip(IpAddr::V4(ip.into()))),
            (0u128..4).prop_map(|ip| Value::Ip(IpAddr::V6(ip.into()))),
            "[ab\\x00]{0,9}".prop_map(|text| Value::Text(text.into())),
        ]
    }

    proptest! {
        #[test]
        fn counts_are_those_of_a_map(values in prop::collection::vec((value(), 1u64..4), 0..400), limit in 1usize..8) {
            let mut map = BTreeMap::new();
            let (mut one_by_one, mut at_once, mut halves) = (ValueCounts::default(), ValueCounts::default(), ValueCounts::default());
            for (at, (value, count)) in values.iter().enumerate() {
                *map.entry(value.clone()).or_insert(0u64) += count;
                one_by_one.add(value, *count);
                if at % 2 == 0 {
                    at_once.add(value, *count);
                } else {
                    halves.add(value, *count);
                }
            }
            at_once.merge(&halves);
            let expected: Vec<_> = map.clone().into_iter().collect();
            for counts in [&one_by_one, &at_once] {
                let mut all = counts.all();
                all.sort();
                prop_assert_eq!(&all, &expected);
                prop_assert_eq!(counts.len(), expected.len());
                let mut ranked = expected.clone();
                ranked.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(&b.0)));
                ranked.truncate(limit);
                prop_assert_eq!(counts.most(limit), (ranked, expected.len() as u64));
            }
        }

        #[test]
        fn entries_are_the_values_they_stand_for(entries in prop::collection::vec(prop::collection::vec(0u8..4, 0..12), 0..50)) {
            let mut of_entries = ValueCounts::default();
            of_entries.add_keys(entries.iter().filter_map(|entry| Some((Key::of_entry(entry, entry.is_ascii())?, 1))));
            let mut of_values = ValueCounts::default();
            entries.iter().filter_map(|entry| columns::value_of(entry)).for_each(|value| of_values.add(&value, 1));
            let sorted = |counts: &ValueCounts| {
                let mut all = counts.all();
                all.sort();
                all
            };
            prop_assert_eq!(sorted(&of_entries), sorted(&of_values));
        }
    }

    #[test]
    fn what_goes_is_the_rarest() {
        let mut counts = ValueCounts::default();
        for n in 0..1_000 {
            counts.add(&Value::Integer(SMALL_MAX + n), n);
        }
        counts.add(&Value::Integer(7), 1);
        let gone = counts.shrink();
        assert_eq!((gone, counts.len()), (500, 500), "and the small one stays");
        assert!(counts.all().iter().all(|(value, count)| *count > gone || *value == Value::Integer(7)));
    }
}
