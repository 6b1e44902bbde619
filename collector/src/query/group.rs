//! Sums by combinations of values: counted on the codes of a block's dictionaries, put together by value afterwards.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher};
use std::net::IpAddr;
use std::rc::Rc;

use gnomon_flow::{Field, StoredFlow, Value, field};
use hashbrown::HashTable;

use super::aggregate::Sums;
use super::coded::{Coded, NONE};
use super::distinct::{Distinct, OF_ROW, hash_of};
use super::values::{Values, values};
use crate::store::block::bloom::Mixing;
use crate::store::live::RowSet;
use crate::store::{Reader, StoreError};

/// Combinations of values that one record counts for.
pub(super) const COMBINATIONS_MAX: usize = 256;
/// Fields whose codes fit one key.
const CODED_FIELDS_MAX: usize = 4;

/// Different values of one record, times the rows it counts for, that are counted.
const PAIRS_MAX: usize = 4096;
/// What the different values of all rows may take; beyond it new ones are not counted.
const DISTINCT_BYTES_MAX: usize = 64 << 20;

/// What is grouped by, and whose different values are counted in each row.
pub(super) struct GroupBy {
    pub(super) fields: Vec<&'static Field>,
    pub(super) distinct: Vec<&'static Field>,
}

/// A row of a group-by.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) sums: Sums,
    /// One a field of [`GroupBy::distinct`].
    pub(super) distinct: Vec<Distinct>,
}

/// The different values of a field so far, by numbers.
#[derive(Debug, Default)]
struct Known {
    values: Vec<Value<'static>>,
    places: HashTable<(Code, u32)>,
    /// The numbers of integers below [`SMALL_MAX`]: ports are most of what is looked up.
    small: Vec<u32>,
}

/// A quarter of a megabyte a field at most.
const SMALL_MAX: u64 = 65_536;

/// What stands for a value in a table: most need no other look then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Code {
    Address(u32),
    Integer(u64),
    /// Of what else there is, the hash.
    Like(u64),
}

impl Code {
    fn of(value: &Value<'static>) -> Code {
        match value {
            Value::Ip(IpAddr::V4(ip)) => Code::Address(ip.to_bits()),
            Value::Integer(n) => Code::Integer(*n),
            other => Code::Like(Mixing::default().hash_one(other)),
        }
    }

    fn hash(self) -> u64 {
        Mixing::default().hash_one(match self {
            Code::Address(ip) => u64::from(ip),
            Code::Integer(word) | Code::Like(word) => word,
        })
    }
}

impl Known {
    fn find(&self, value: &Value<'static>) -> u32 {
        if let Value::Integer(n @ 0..SMALL_MAX) = value {
            return self.small.get(*n as usize).copied().unwrap_or(NONE);
        }
        let code = Code::of(value);
        let same = |(known, at): &(Code, u32)| {
            *known == code && (!matches!(code, Code::Like(_)) || self.values[*at as usize] == *value)
        };
        self.places.find(code.hash(), same).map_or(NONE, |(_, number)| *number)
    }

    /// Of a value that is new.
    fn insert(&mut self, value: &Value<'static>) -> u32 {
        let number = self.values.len() as u32;
        self.values.push(value.clone());
        if let Value::Integer(n @ 0..SMALL_MAX) = value {
            let place = *n as usize;
            if self.small.len() <= place {
                self.small.resize((place + 1).next_power_of_two(), NONE);
            }
            self.small[place] = number;
            return number;
        }
        let code = Code::of(value);
        self.places.insert_unique(code.hash(), (code, number), |(code, _)| code.hash());
        number
    }
}

/// The rows of a group-by so far.
#[derive(Debug, Default)]
pub(super) struct Groups {
    /// One a field.
    known: Vec<Known>,
    /// The numbers of every row's values, all rows behind each other.
    keys: Vec<u32>,
    tallies: Vec<Tally>,
    places: HashTable<u32>,
    key_bytes: usize,
    distinct_bytes: usize,
    /// Values that were not counted because the different ones took too much.
    unseen: u64,
    /// Records in rows that were not begun because there were too many.
    pub(super) uncounted: u64,
    /// Records that had more combinations than are counted.
    pub(super) cut: u64,
}

fn hash_of_key(key: &[u32]) -> u64 {
    let mut hash = Mixing::default().build_hasher();
    key.iter().for_each(|number| hash.write_u32(*number));
    hash.finish()
}

/// Different rows that are counted at once; beyond them new ones are not begun.
pub(super) const KEYS_MAX: usize = 200_000;
/// Bytes of text that the keys may hold together.
const KEY_BYTES_MAX: usize = 64 << 20;

/// The packets and bytes of each row.
pub(super) struct Measures {
    packets: Rc<Vec<u64>>,
    bytes: Rc<Vec<u64>>,
}

impl Measures {
    pub(super) fn of(block: &Reader) -> Result<Measures, StoreError> {
        let column = |name: &'static str| -> Result<Rc<Vec<u64>>, StoreError> {
            let of_field = field::by_name(name).map(|field| values(field, block)).transpose()?.flatten();
            Ok(match of_field.and_then(|mut lists| lists.pop()) {
                Some(Values::Integers { values, .. }) => values,
                _ => Rc::new(vec![0; block.rows()]),
            })
        };
        Ok(Measures { packets: column("packets")?, bytes: column("bytes")? })
    }

    pub(super) fn add(&self, row: usize, sums: &mut Sums) {
        sums.flows += 1;
        sums.packets = sums.packets.saturating_add(self.packets.get(row).copied().unwrap_or(0));
        sums.bytes = sums.bytes.saturating_add(self.bytes.get(row).copied().unwrap_or(0));
    }
}

/// Sums by the values of one field; `None` in a key where there is none.
pub(super) type ByCode<K> = HashMap<(K, u32), Sums, Mixing>;

impl Groups {
    /// Counts rows of a block.
    pub(super) fn add_rows(&mut self, by: &GroupBy, block: &Reader, rows: &RowSet) -> Result<(), StoreError> {
        let coded = |fields: &[&'static Field]| -> Result<Option<Vec<Coded>>, StoreError> {
            fields.iter().map(|field| Coded::of(field, block, rows)).collect()
        };
        let keys = if by.fields.len() <= CODED_FIELDS_MAX { coded(&by.fields)? } else { None };
        let (Some(keys), Some(distinct)) = (keys, coded(&by.distinct)?) else {
            for row in rows.iter() {
                self.add(by, &block.flow(row)?);
            }
            return Ok(());
        };
        let measures = Measures::of(block)?;
        let mut places: HashMap<u128, u32, Mixing> = HashMap::default();
        let mut local = Vec::new();
        let mut sums: Vec<Sums> = Vec::new();
        let mut place_of = |key: u128, sums: &mut Vec<Sums>| {
            *places.entry(key).or_insert_with(|| {
                sums.push(Sums::default());
                local.push(key);
                sums.len() as u32 - 1
            })
        };
        // Of each field: the place of a row of the answer, then the number of a value in it.
        let mut pairs: Vec<Vec<u64>> = vec![Vec::new(); distinct.len()];
        let single = |coded: &Vec<Coded>| coded.iter().all(|of_field| of_field.single().is_some());
        if let [of_field] = &keys[..]
            && let Some(numbers) = of_field.single()
            && distinct.is_empty()
        {
            // The number itself is the place.
            let mut dense = vec![Sums::default(); of_field.values.len()];
            for row in rows.iter() {
                if let Some(sums) = dense.get_mut(numbers[row] as usize) {
                    measures.add(row, sums);
                }
            }
            for (number, of_number) in (0u128..).zip(dense).filter(|(_, sums)| sums.flows > 0) {
                local.push(number);
                sums.push(of_number);
            }
        } else if single(&keys) && single(&distinct) {
            let numbers: Vec<&[u32]> = keys.iter().filter_map(Coded::single).collect();
            let others: Vec<&[u32]> = distinct.iter().filter_map(Coded::single).collect();
            for row in rows.iter() {
                if numbers.iter().any(|of_field| of_field[row] == NONE) {
                    continue;
                }
                let key = numbers.iter().fold(0, |key, of_field| key << 32 | u128::from(of_field[row]));
                let place = place_of(key, &mut sums);
                measures.add(row, &mut sums[place as usize]);
                for (of_field, pairs) in others.iter().zip(&mut pairs).filter(|(other, _)| other[row] != NONE)
                {
                    pairs.push(u64::from(place) << 32 | u64::from(of_field[row]));
                }
            }
        } else {
            let (mut numbers, mut found, mut hit) =
                (vec![Vec::new(); by.fields.len()], Vec::new(), Vec::new());
            for row in rows.iter() {
                for (of_field, found) in keys.iter().zip(&mut numbers) {
                    of_field.each(row, found);
                }
                if numbers.iter().any(Vec::is_empty) {
                    continue;
                }
                hit.clear();
                let mut whole = combinations(&numbers, |at| {
                    let key = at
                        .iter()
                        .zip(&numbers)
                        .fold(0, |key, (i, of_field)| key << 32 | u128::from(of_field[*i]));
                    let place = place_of(key, &mut sums);
                    measures.add(row, &mut sums[place as usize]);
                    hit.push(place);
                });
                for (of_field, pairs) in distinct.iter().zip(&mut pairs) {
                    of_field.each(row, &mut found);
                    whole &= hit.len() * found.len() <= PAIRS_MAX;
                    let all = hit.iter().flat_map(|place| {
                        found.iter().map(|number| u64::from(*place) << 32 | u64::from(*number))
                    });
                    pairs.extend(all.take(PAIRS_MAX));
                }
                self.cut += u64::from(!whole);
            }
        }
        let mut tallies: Vec<Tally> =
            sums.into_iter().map(|sums| Tally { sums, distinct: Vec::new() }).collect();
        for (at, (of_field, mut pairs)) in distinct.iter().zip(pairs).enumerate() {
            tallies.iter_mut().for_each(|tally| tally.distinct.push(Distinct::default()));
            let hashes: Vec<u64> = of_field.values.iter().map(hash_of).collect();
            pairs.sort_unstable();
            pairs.dedup();
            for pair in pairs {
                tallies[(pair >> 32) as usize].distinct[at].add(OF_ROW, hashes[pair as u32 as usize]);
            }
        }
        // The numbers here are the block's: each value is looked up once.
        let mut ours: Vec<Vec<u32>> = keys.iter().map(|of_field| vec![NONE; of_field.values.len()]).collect();
        self.look_up(&mut ours, &keys, &local);
        let mut theirs = vec![0usize; by.fields.len()];
        for (mut key, tally) in local.into_iter().zip(tallies) {
            for number in theirs.iter_mut().rev() {
                *number = key as u32 as usize;
                key >>= 32;
            }
            self.add_numbered(&mut ours, &theirs, &|at, number| &keys[at].values[number], tally);
        }
        Ok(())
    }

    /// Finds the numbers of values before their rows are added up: with nothing between two looks the processor waits for
    /// many places of memory at once.
    fn look_up(&self, ours: &mut [Vec<u32>], theirs: &[Coded], rows: &[u128]) {
        if let ([known], [ours], [theirs]) = (&self.known[..], &mut *ours, theirs) {
            for number in rows {
                let number = *number as usize;
                ours[number] = known.find(&theirs.values[number]);
            }
            return;
        }
        for ((known, ours), theirs) in self.known.iter().zip(ours).zip(theirs) {
            // Where there are fewer rows than values, most values are in none.
            if rows.len() >= theirs.values.len() {
                ours.iter_mut().zip(&theirs.values).for_each(|(our, value)| *our = known.find(value));
            }
        }
    }

    /// Counts one record.
    pub(super) fn add(&mut self, by: &GroupBy, flow: &StoredFlow) {
        let mut values: Vec<Vec<Value<'static>>> = Vec::with_capacity(by.fields.len());
        for field in &by.fields {
            let mut of_field = Vec::new();
            distinct(field, flow, &mut of_field);
            if of_field.is_empty() {
                return;
            }
            values.push(of_field);
        }
        let sums = Sums::of(flow);
        let mut keys = Vec::new();
        let mut whole = combinations(&values, |at| {
            let key: Vec<_> = at.iter().zip(&values).map(|(i, of_field)| of_field[*i].clone()).collect();
            keys.push(key);
        });
        let mut hashes = Vec::with_capacity(by.distinct.len());
        for field in &by.distinct {
            let mut of_field = Vec::new();
            distinct(field, flow, &mut of_field);
            whole &= keys.len() * of_field.len() <= PAIRS_MAX;
            hashes.push(of_field.iter().map(hash_of).collect::<Vec<_>>());
        }
        for (at, key) in keys.into_iter().enumerate() {
            let of_field = |hashes: &Vec<u64>| {
                let left = PAIRS_MAX.saturating_sub(at * hashes.len());
                let mut of_field = Distinct::default();
                hashes.iter().take(left).for_each(|hash| {
                    of_field.add(OF_ROW, *hash);
                });
                of_field
            };
            self.add_tally(&key, Tally { sums, distinct: hashes.iter().map(of_field).collect() });
        }
        self.cut += u64::from(!whole);
    }

    fn add_tally(&mut self, key: &[Value<'static>], tally: Tally) {
        let mut ours = vec![vec![NONE]; key.len()];
        self.add_numbered(&mut ours, &vec![0; key.len()], &|at, _| &key[at], tally);
    }

    /// Adds to the row of the values that `value` gives for the `theirs` of each field. `ours` says what their numbers are
    /// here, as far as that was found out before.
    fn add_numbered<'v>(
        &mut self,
        ours: &mut [Vec<u32>],
        theirs: &[usize],
        value: &dyn Fn(usize, usize) -> &'v Value<'static>,
        mut tally: Tally,
    ) {
        let width = theirs.len();
        self.known.resize_with(width, Known::default);
        let mut new = false;
        for (at, number) in theirs.iter().enumerate() {
            let our = &mut ours[at][*number];
            if *our == NONE {
                *our = self.known[at].find(value(at, *number));
            }
            new |= *our == NONE;
        }
        let start = self.keys.len();
        if !new && width == 1 {
            // Values come with their rows: the number of the one is the place of the other.
            return self.merge_tally(ours[0][theirs[0]] as usize, &tally);
        }
        if !new {
            self.keys.extend(theirs.iter().zip(&*ours).map(|(number, ours)| ours[*number]));
            let key = &self.keys[start..];
            let same = |place: &u32| self.keys[*place as usize * width..][..width] == *key;
            let place = self.places.find(hash_of_key(key), same).copied();
            self.keys.truncate(start);
            if let Some(place) = place {
                return self.merge_tally(place as usize, &tally);
            }
        }
        let text = |value: &Value<'_>| if let Value::Text(text) = value { text.len() } else { 0 };
        let bytes: usize = theirs.iter().enumerate().map(|(at, number)| text(value(at, *number))).sum();
        if self.tallies.len() >= KEYS_MAX || self.key_bytes + bytes > KEY_BYTES_MAX {
            self.uncounted += tally.sums.flows;
            return;
        }
        self.key_bytes += bytes;
        for (at, number) in theirs.iter().enumerate() {
            let our = &mut ours[at][*number];
            if *our == NONE {
                *our = self.known[at].insert(value(at, *number));
            }
            self.keys.push(*our);
        }
        if self.distinct_bytes > DISTINCT_BYTES_MAX {
            self.unseen += tally.distinct.len() as u64;
            tally.distinct.fill_with(Distinct::default);
        }
        self.distinct_bytes += tally.distinct.iter().map(Distinct::bytes).sum::<usize>();
        let place = self.tallies.len() as u32;
        self.tallies.push(tally);
        let hash = |place: &u32| hash_of_key(&self.keys[*place as usize * width..][..width]);
        self.places.insert_unique(hash(&place), place, hash);
    }

    fn merge_tally(&mut self, place: usize, tally: &Tally) {
        let known = &mut self.tallies[place];
        known.sums.merge(&tally.sums);
        for (known, more) in known.distinct.iter_mut().zip(&tally.distinct) {
            if known.grows() && self.distinct_bytes > DISTINCT_BYTES_MAX {
                self.unseen += 1;
            } else {
                self.distinct_bytes += known.merge(OF_ROW, more);
            }
        }
    }

    /// Takes in what another thread counted.
    pub(super) fn merge(&mut self, mut other: Groups) {
        if self.tallies.is_empty() && self.uncounted == 0 {
            std::mem::swap(self, &mut other);
        }
        self.uncounted += other.uncounted;
        self.cut += other.cut;
        self.unseen += other.unseen;
        let width = other.known.len();
        let mut ours: Vec<Vec<u32>> =
            other.known.iter().map(|known| vec![NONE; known.values.len()]).collect();
        let mut theirs = vec![0usize; width];
        for (place, tally) in std::mem::take(&mut other.tallies).into_iter().enumerate() {
            for (number, theirs) in other.keys[place * width..].iter().zip(&mut theirs) {
                *theirs = *number as usize;
            }
            self.add_numbered(&mut ours, &theirs, &|at, number| &other.known[at].values[number], tally);
        }
    }

    pub(super) fn tallies(&self) -> &[Tally] {
        &self.tallies
    }

    /// The values of a row, by its place among [`Groups::tallies`].
    pub(super) fn values(&self, place: usize) -> impl Iterator<Item = &Value<'static>> {
        let width = self.known.len();
        let numbers = self.keys[place * width..][..width].iter();
        self.known.iter().zip(numbers).map(|(known, number)| &known.values[*number as usize])
    }

    pub(super) fn partial(&self) -> Vec<String> {
        let mut reasons = Vec::new();
        if self.uncounted > 0 {
            reasons.push(format!(
                "more than {} different rows: those first seen beyond are left out, so that sums may be too low",
                self.tallies.len()
            ));
        }
        if self.unseen > 0 {
            reasons.push(format!(
                "different values took more than {} MiB: distinct counts may be too low; group by fewer values, or narrow the question",
                DISTINCT_BYTES_MAX >> 20
            ));
        }
        if self.cut > 0 {
            reasons
                .push(format!("{} flows have more than {COMBINATIONS_MAX} combinations of values", self.cut));
        }
        reasons
    }
}

/// Calls `each` with the places of every combination, in the order of an odometer; false when there were more than are
/// counted.
fn combinations<T>(lists: &[Vec<T>], mut each: impl FnMut(&[usize])) -> bool {
    let mut at = vec![0usize; lists.len()];
    for _ in 0..COMBINATIONS_MAX {
        each(&at);
        let Some(turn) = (0..at.len()).rev().find(|i| at[*i] + 1 < lists[*i].len()) else { return true };
        at[turn] += 1;
        at[turn + 1..].fill(0);
    }
    false
}

/// The different values that `flow` has in `field`: both ends of a flow may have one address.
pub(super) fn distinct(field: &Field, flow: &StoredFlow, values: &mut Vec<Value<'static>>) {
    field.each(flow, &mut |value| values.push(value.into_owned()));
    if values.len() > 1 {
        values.sort_unstable();
        values.dedup();
    }
}
