//! Sums by combinations of values: rows of blocks are counted on the numbers that their values have here, whole records by
//! their values.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;

use gnomon_flow::{Field, StoredFlow, Value};
use hashbrown::HashTable;

use super::aggregate::{FIELDS_MAX, Sums};
use super::coded::{Coded, NONE};
use super::distinct::{Distinct, OF_ROW, hash_of};
use super::known::Known;
use super::measures::Measures;
use super::memory::{Charge, Question};
use crate::store::block::bloom::Mixing;
use crate::store::live::RowSet;
use crate::store::{Reader, StoreError};

/// Combinations of values that one record counts for.
pub(super) const COMBINATIONS_MAX: usize = 256;
/// Different values of one record, times the rows it counts for, that are counted.
const PAIRS_MAX: usize = 4096;
/// What the different values of all rows may take; beyond it new ones are not counted.
const DISTINCT_BYTES_MAX: usize = 64 << 20;
/// Records whose rows are looked up at once: with nothing between two looks the processor waits for many places of memory
/// at the same time.
const LOT: usize = 64;

/// What is grouped by, and whose different values are counted in each row.
pub(super) struct GroupBy {
    pub(super) fields: Vec<&'static Field>,
    pub(super) distinct: Vec<&'static Field>,
}

/// The rows of a group-by so far.
#[derive(Debug, Default)]
pub(super) struct Groups {
    /// One a field.
    known: Vec<Known>,
    /// The numbers of every row's values, all rows behind each other.
    keys: Vec<u32>,
    sums: Vec<Sums>,
    /// So many a row, all rows behind each other.
    distinct: Vec<Distinct>,
    distinct_fields: usize,
    /// By the word of their keys; a row of one field has its value's number.
    places: HashTable<(u64, u32)>,
    key_bytes: usize,
    distinct_bytes: usize,
    charge: Charge,
    /// There is no memory for more.
    full: bool,
    /// Values that were not counted because the different ones took too much.
    unseen: u64,
    /// Records in rows that were not begun because there were too many.
    pub(super) uncounted: u64,
    /// Records that had more combinations than are counted.
    pub(super) cut: u64,
}

/// What stands for a key in the table: the key itself when it fits.
fn word_of(key: &[u32]) -> u64 {
    match *key {
        [one] => u64::from(one),
        [one, two] => u64::from(one) << 32 | u64::from(two),
        _ => {
            let mut hash = Mixing::default().build_hasher();
            key.iter().for_each(|number| hash.write_u32(*number));
            hash.finish()
        }
    }
}

fn hash_of_word(word: u64) -> u64 {
    Mixing::default().hash_one(word)
}

/// Different rows that are counted at once; beyond them new ones are not begun.
pub(super) const KEYS_MAX: usize = 200_000;
/// Bytes of text that the keys may hold together.
const KEY_BYTES_MAX: usize = 64 << 20;

/// Sums by the values of one field; `None` in a key where there is none.
pub(super) type ByCode<K> = HashMap<(K, u32), Sums, Mixing>;

/// A field of a block whose different values are counted.
struct Counted {
    coded: Coded,
    /// Of each of its values.
    hashes: Vec<u64>,
}

impl Counted {
    fn of(coded: Coded) -> Counted {
        Counted { hashes: coded.values.iter().map(hash_of).collect(), coded }
    }
}

/// The numbers of a block's values here, as far as they were looked for.
struct Ours<'c> {
    coded: &'c [Coded],
    numbers: Vec<Vec<u32>>,
}

impl<'c> Ours<'c> {
    fn of(known: &[Known], coded: &'c [Coded], rows: usize) -> Ours<'c> {
        let numbers = known.iter().zip(coded).map(|(known, of_field)| match &of_field.values {
            values if values.len() <= rows => values.iter().map(|value| known.find(value)).collect(),
            // Where there are fewer rows than values, most values are in none.
            values => vec![NONE; values.len()],
        });
        Ours { numbers: numbers.collect(), coded }
    }
}

impl Groups {
    fn begin(&mut self, by: &GroupBy) {
        self.known.resize_with(by.fields.len(), Known::default);
        self.distinct_fields = by.distinct.len();
    }

    /// Counts rows of a block.
    pub(super) fn add_rows(&mut self, by: &GroupBy, block: &Reader, rows: &RowSet) -> Result<(), StoreError> {
        self.begin(by);
        let coded = |fields: &[&'static Field]| -> Result<Option<Vec<Coded>>, StoreError> {
            fields.iter().map(|field| Coded::of(field, block, rows)).collect()
        };
        let (Some(keys), Some(distinct)) = (coded(&by.fields)?, coded(&by.distinct)?) else {
            for row in rows.iter() {
                self.add(by, &block.flow(row)?);
            }
            return Ok(());
        };
        let measures = Measures::of(block)?;
        let mut ours = Ours::of(&self.known, &keys, rows.len());
        let singles = |coded: &'_ [Coded]| coded.iter().all(|of_field| of_field.single().is_some());
        if let [of_field] = &keys[..]
            && let Some(numbers) = of_field.single()
            && distinct.is_empty()
        {
            self.add_dense(&mut ours, numbers, rows, &measures);
            return Ok(());
        }
        let all_single = singles(&keys) && singles(&distinct);
        let counted: Vec<Counted> = distinct.into_iter().map(Counted::of).collect();
        if all_single {
            self.add_singles(&mut ours, &counted, rows, &measures);
        } else {
            self.add_combinations(&mut ours, &counted, rows, &measures);
        }
        Ok(())
    }

    /// Of one field: the number of a value in the block is its place there.
    fn add_dense(&mut self, ours: &mut Ours<'_>, numbers: &[u32], rows: &RowSet, measures: &Measures) {
        let mut dense = vec![Sums::default(); ours.coded[0].values.len()];
        for row in rows.iter() {
            if let Some(sums) = dense.get_mut(numbers[row] as usize) {
                measures.add(row, sums);
            }
        }
        for (number, sums) in (0u32..).zip(dense).filter(|(_, sums)| sums.flows > 0) {
            match self.place_of(ours, &[number]) {
                Some(place) => self.sums[place as usize].merge(&sums),
                None => self.uncounted += sums.flows,
            }
        }
    }

    /// Where no row has more than one value of any field.
    fn add_singles(&mut self, ours: &mut Ours<'_>, counted: &[Counted], rows: &RowSet, measures: &Measures) {
        let width = self.known.len();
        let coded = ours.coded;
        let numbers: Vec<&[u32]> = coded.iter().filter_map(Coded::single).collect();
        let others: Vec<(&[u32], &[u64])> =
            counted.iter().filter_map(|of| Some((of.coded.single()?, &of.hashes[..]))).collect();
        let whole = |row: &usize| numbers.iter().all(|of_field| of_field[*row] != NONE);
        let rows: Vec<usize> = rows.iter().filter(whole).collect();
        let (mut keys, mut theirs) = (vec![NONE; LOT * width], vec![NONE; width]);
        let mut places = [None; LOT];
        for lot in rows.chunks(LOT) {
            for (row, key) in lot.iter().zip(keys.chunks_exact_mut(width)) {
                for ((of_field, ours), key) in numbers.iter().zip(&ours.numbers).zip(key) {
                    *key = ours[of_field[*row] as usize];
                }
            }
            for (key, place) in keys.chunks_exact(width).zip(&mut places).take(lot.len()) {
                *place = if key.contains(&NONE) { None } else { self.find(key) };
            }
            for (row, place) in lot.iter().zip(&mut places).filter(|(_, place)| place.is_none()) {
                theirs.iter_mut().zip(&numbers).for_each(|(their, of_field)| *their = of_field[*row]);
                *place = self.place_of(ours, &theirs);
                self.uncounted += u64::from(place.is_none());
            }
            let placed = || lot.iter().zip(places).filter_map(|(row, place)| Some((*row, place?)));
            for (row, place) in placed() {
                measures.add(row, &mut self.sums[place as usize]);
            }
            for (at, (of_field, hashes)) in others.iter().enumerate() {
                for (row, place) in placed() {
                    if let Some(hash) = hashes.get(of_field[row] as usize) {
                        self.add_distinct(place, at, *hash);
                    }
                }
            }
        }
    }

    fn add_combinations(
        &mut self,
        ours: &mut Ours<'_>,
        counted: &[Counted],
        rows: &RowSet,
        measures: &Measures,
    ) {
        let coded = ours.coded;
        let (mut numbers, mut found, mut hit) = (vec![Vec::new(); coded.len()], Vec::new(), Vec::new());
        let mut key = vec![0; coded.len()];
        for row in rows.iter() {
            for (of_field, found) in coded.iter().zip(&mut numbers) {
                of_field.each(row, found);
            }
            if numbers.iter().any(Vec::is_empty) {
                continue;
            }
            hit.clear();
            let mut whole = combinations(&numbers, |at| {
                for ((key, i), of_field) in key.iter_mut().zip(at).zip(&numbers) {
                    *key = of_field[*i];
                }
                match self.place_of(ours, &key) {
                    Some(place) => {
                        measures.add(row, &mut self.sums[place as usize]);
                        hit.push(place);
                    }
                    None => self.uncounted += 1,
                }
            });
            for (at, Counted { coded, hashes }) in counted.iter().enumerate() {
                coded.each(row, &mut found);
                whole &= hit.len() * found.len() <= PAIRS_MAX;
                let all = hit.iter().flat_map(|place| found.iter().map(|number| (*place, *number)));
                for (place, number) in all.take(PAIRS_MAX) {
                    self.add_distinct(place, at, hashes[number as usize]);
                }
            }
            self.cut += u64::from(!whole);
        }
    }

    /// The place of a row by the numbers of its values in a block; `None` when it is not begun for want of room.
    fn place_of(&mut self, ours: &mut Ours<'_>, theirs: &[u32]) -> Option<u32> {
        let coded = ours.coded;
        let value = |at: usize| &coded[at].values[theirs[at] as usize];
        let known = |at: usize, their: u32| match ours.numbers[at][their as usize] {
            NONE => self.known[at].find(value(at)),
            number => number,
        };
        let mut key = [NONE; FIELDS_MAX];
        let key = &mut key[..theirs.len()];
        for (at, (key, their)) in key.iter_mut().zip(theirs).enumerate() {
            *key = known(at, *their);
        }
        let place = self.place(key, &value)?;
        for ((ours, their), key) in ours.numbers.iter_mut().zip(theirs).zip(key) {
            ours[*their as usize] = *key;
        }
        Some(place)
    }

    /// Counts one record.
    pub(super) fn add(&mut self, by: &GroupBy, flow: &StoredFlow) {
        self.begin(by);
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
        let mut hit = Vec::new();
        let mut key = vec![NONE; values.len()];
        let mut whole = combinations(&values, |at| {
            let value = |field: usize| &values[field][at[field]];
            for (field, key) in key.iter_mut().enumerate() {
                *key = self.known[field].find(value(field));
            }
            match self.place(&mut key, &value) {
                Some(place) => {
                    self.sums[place as usize].merge(&sums);
                    hit.push(place);
                }
                None => self.uncounted += 1,
            }
        });
        for (at, field) in by.distinct.iter().enumerate() {
            let mut of_field = Vec::new();
            distinct(field, flow, &mut of_field);
            whole &= hit.len() * of_field.len() <= PAIRS_MAX;
            let all = hit.iter().flat_map(|place| of_field.iter().map(|value| (*place, hash_of(value))));
            all.take(PAIRS_MAX).for_each(|(place, hash)| self.add_distinct(place, at, hash));
        }
        self.cut += u64::from(!whole);
    }

    /// The place of the row with this key of known values.
    fn find(&self, key: &[u32]) -> Option<u32> {
        if let [number] = key {
            // Values come with their rows.
            return Some(*number);
        }
        let (word, width) = (word_of(key), key.len());
        let same = |(known, place): &(u64, u32)| {
            *known == word && (width <= 2 || self.keys[*place as usize * width..][..width] == *key)
        };
        self.places.find(hash_of_word(word), same).map(|(_, place)| *place)
    }

    /// The place of the row with this key, begun if there is none; values that are not known are, then. `None` when there
    /// are too many rows.
    fn place<'v>(&mut self, key: &mut [u32], value: &dyn Fn(usize) -> &'v Value<'static>) -> Option<u32> {
        if !key.contains(&NONE)
            && let Some(place) = self.find(key)
        {
            return Some(place);
        }
        let text = |value: &Value<'_>| if let Value::Text(text) = value { text.len() } else { 0 };
        let bytes: usize = (0..key.len()).map(|at| text(value(at))).sum();
        if self.full || self.sums.len() >= KEYS_MAX || self.key_bytes + bytes > KEY_BYTES_MAX {
            return None;
        }
        self.key_bytes += bytes;
        for (at, number) in key.iter_mut().enumerate().filter(|(_, number)| **number == NONE) {
            *number = self.known[at].insert(value(at));
        }
        let place = self.sums.len() as u32;
        self.keys.extend_from_slice(key);
        self.sums.push(Sums::default());
        self.distinct.resize_with(self.distinct.len() + self.distinct_fields, Distinct::default);
        if key.len() > 1 {
            let word = word_of(key);
            self.places.insert_unique(hash_of_word(word), (word, place), |(word, _)| hash_of_word(*word));
        }
        Some(place)
    }

    fn add_distinct(&mut self, place: u32, at: usize, hash: u64) {
        self.grow_distinct(place, at, |known| known.add(OF_ROW, hash));
    }

    /// Lets `more` add to the different values of a row, unless all of them take too much; it says what it took.
    #[inline]
    fn grow_distinct(&mut self, place: u32, at: usize, more: impl FnOnce(&mut Distinct) -> usize) {
        let known = &mut self.distinct[place as usize * self.distinct_fields + at];
        if known.grows() && (self.full || self.distinct_bytes > DISTINCT_BYTES_MAX) {
            self.unseen += 1;
        } else {
            self.distinct_bytes += more(known);
        }
    }

    /// What it takes of memory.
    fn bytes(&self) -> usize {
        let known: usize = self.known.iter().map(Known::bytes).sum();
        let of_rows = self.sums.capacity() * size_of::<Sums>()
            + self.keys.capacity() * size_of::<u32>()
            + self.distinct.capacity() * size_of::<Distinct>()
            + self.places.capacity() * (size_of::<(u64, u32)>() + 1);
        known + of_rows + self.key_bytes + self.distinct_bytes
    }

    /// Asks for what it takes: where there is no room for it, no more rows are begun.
    pub(super) fn charge(&mut self, memory: &Arc<Question>) {
        self.full = !self.charge.resize(memory, self.bytes());
    }

    /// Takes in what another thread counted.
    pub(super) fn merge(&mut self, mut other: Groups) {
        if self.sums.is_empty() && self.uncounted == 0 {
            std::mem::swap(self, &mut other);
        }
        self.uncounted += other.uncounted;
        self.cut += other.cut;
        self.unseen += other.unseen;
        let width = other.known.len();
        let mut ours: Vec<Vec<u32>> = self
            .known
            .iter()
            .zip(&other.known)
            .map(|(known, others)| others.values.iter().map(|value| known.find(value)).collect())
            .collect();
        let mut key = vec![NONE; width];
        let mut theirs = std::mem::take(&mut other.distinct).into_iter();
        for (sums, numbers) in other.sums.iter().zip(other.keys.chunks_exact(width.max(1))) {
            for ((key, ours), number) in key.iter_mut().zip(&ours).zip(numbers) {
                *key = ours[*number as usize];
            }
            let distinct = theirs.by_ref().take(other.distinct_fields);
            let value = |at: usize| &other.known[at].values[numbers[at] as usize];
            let Some(place) = self.place(&mut key, &value) else {
                self.uncounted += sums.flows;
                distinct.for_each(drop);
                continue;
            };
            for ((ours, number), key) in ours.iter_mut().zip(numbers).zip(&key) {
                ours[*number as usize] = *key;
            }
            self.sums[place as usize].merge(sums);
            for (at, more) in distinct.enumerate() {
                self.grow_distinct(place, at, |known| known.merge(OF_ROW, more));
            }
        }
    }

    /// The sums of every row, by its place.
    pub(super) fn sums(&self) -> &[Sums] {
        &self.sums
    }

    /// One a field of [`GroupBy::distinct`].
    pub(super) fn distinct(&self, place: usize) -> &[Distinct] {
        &self.distinct[place * self.distinct_fields..][..self.distinct_fields]
    }

    /// The values of a row, by its place.
    pub(super) fn values(&self, place: usize) -> impl Iterator<Item = &Value<'static>> {
        let width = self.known.len();
        let numbers = self.keys[place * width..][..width].iter();
        self.known.iter().zip(numbers).map(|(known, number)| &known.values[*number as usize])
    }

    pub(super) fn partial(&self) -> Vec<String> {
        let mut reasons = Vec::new();
        if self.uncounted > 0 {
            reasons.push(format!(
                "more than {} different rows{}: those first seen beyond are left out, so that sums may be too low",
                self.sums.len(),
                if self.full { ", for which there is no memory" } else { "" },
            ));
        }
        if self.unseen > 0 {
            reasons.push(format!(
                "different values took more than {} MiB: distinct counts may be too low; group by fewer values, or narrow the question",
                self.distinct_bytes >> 20
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
