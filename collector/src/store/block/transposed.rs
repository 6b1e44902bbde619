//! Rows as columns: one pass over the records, which lie all over the memory, and every value is looked at once.

use std::hash::{BuildHasher, Hasher};

use gnomon_flow::{AttributeValue, StoredFlow};
use hashbrown::HashTable;

use super::bloom::Mixing;
use super::columns::{self, Column};
use super::encoding::Coded;

/// Rows that are turned at once: what they have in all integer columns stays in the processor's nearest cache.
const TILE: usize = 64;

/// The columns of some rows, not encoded yet.
#[derive(Default)]
pub(super) struct Transposed<'r> {
    pub(super) integers: Vec<(Column, Vec<u64>)>,
    /// As [`columns::BYTES`].
    pub(super) bytes: [Interned<&'r [u8]>; 4],
    /// By field.
    pub(super) lists: Vec<(u16, Lists<'r>)>,
}

/// The metadata of one field: how many values each row has, and all of them.
#[derive(Default)]
pub(super) struct Lists<'r> {
    pub(super) counts: Vec<u8>,
    pub(super) values: Interned<&'r AttributeValue>,
}

impl<'r> Transposed<'r> {
    pub(super) fn of(rows: &[&'r StoredFlow]) -> Transposed<'r> {
        let mut all = Transposed::default();
        // Of each field: 1 + its place in `lists`.
        let mut places: Vec<u16> = Vec::new();
        let mut tile: Vec<[u64; TILE]> = Vec::new();
        for (run, flows) in rows.chunks(TILE).enumerate() {
            for (at, flow) in flows.iter().enumerate() {
                let row = run * TILE + at;
                let mut column = 0;
                columns::integers_of(flow, |of, value| {
                    if row == 0 {
                        all.integers.push((of, Vec::with_capacity(rows.len())));
                        tile.push([0; TILE]);
                    }
                    tile[column][at] = value;
                    column += 1;
                });
                for (bytes, value) in all.bytes.iter_mut().zip(columns::bytes_of(flow)) {
                    bytes.push(value);
                }
                for attribute in flow.record.attributes.iter() {
                    let field = usize::from(attribute.field.0);
                    if places.len() <= field {
                        places.resize(field + 1, 0);
                    }
                    if places[field] == 0 {
                        all.lists.push((attribute.field.0, Lists::default()));
                        places[field] = all.lists.len() as u16;
                    }
                    let (_, lists) = &mut all.lists[usize::from(places[field]) - 1];
                    // A flow has at most `Attributes::COUNT_MAX` values, which fits.
                    match lists.counts.get_mut(row) {
                        Some(count) => *count += 1,
                        None => {
                            lists.counts.resize(row, 0);
                            lists.counts.push(1);
                        }
                    }
                    lists.values.push(&attribute.value);
                }
            }
            for ((_, values), tile) in all.integers.iter_mut().zip(&tile) {
                values.extend_from_slice(&tile[..flows.len()]);
            }
        }
        all.lists.iter_mut().for_each(|(_, lists)| lists.counts.resize(rows.len(), 0));
        all.lists.sort_unstable_by_key(|(field, _)| *field);
        all
    }
}

/// What can be in a dictionary.
pub(super) trait Entry: Copy + PartialEq {
    fn hash(self) -> u64;
    /// As it is in the block.
    fn put(self, out: &mut Vec<u8>);
}

fn hash_of(kind: u64, bytes: &[u8]) -> u64 {
    let mut hash = Mixing::default().build_hasher();
    hash.write_u64(kind);
    hash.write(bytes);
    hash.finish()
}

impl Entry for &[u8] {
    fn hash(self) -> u64 {
        hash_of(0, self)
    }

    fn put(self, out: &mut Vec<u8>) {
        out.extend_from_slice(self);
    }
}

impl Entry for &AttributeValue {
    fn hash(self) -> u64 {
        match self {
            AttributeValue::Integer(n) => hash_of(1, &n.to_le_bytes()),
            AttributeValue::Text(text) => hash_of(2, text.as_bytes()),
            AttributeValue::Ip(std::net::IpAddr::V4(ip)) => hash_of(3, &ip.octets()),
            AttributeValue::Ip(std::net::IpAddr::V6(ip)) => hash_of(4, &ip.octets()),
        }
    }

    fn put(self, out: &mut Vec<u8>) {
        columns::value_bytes(self, out);
    }
}

/// Values by numbers in the order of appearance.
pub(super) struct Interned<E> {
    known: HashTable<u32>,
    entries: Vec<E>,
    codes: Vec<u32>,
}

impl<E> Default for Interned<E> {
    fn default() -> Interned<E> {
        Interned { known: HashTable::new(), entries: Vec::new(), codes: Vec::new() }
    }
}

impl<E: Entry> Interned<E> {
    pub(super) fn push(&mut self, value: E) {
        // Rows are in an order in which values repeat.
        if let Some(last) = self.codes.last()
            && self.entries[*last as usize] == value
        {
            self.codes.push(*last);
            return;
        }
        let entries = &mut self.entries;
        let known = self.known.find(value.hash(), |at| entries[*at as usize] == value);
        let code = known.copied().unwrap_or_else(|| {
            let code = entries.len() as u32;
            entries.push(value);
            self.known.insert_unique(value.hash(), code, |at| entries[*at as usize].hash());
            code
        });
        self.codes.push(code);
    }

    /// The values as bytes, sorted. `arena` is where they are put.
    pub(super) fn coded(self, arena: &mut Vec<u8>) -> Coded<'_> {
        arena.clear();
        let mut ends = Vec::with_capacity(self.entries.len());
        for entry in &self.entries {
            entry.put(arena);
            ends.push(arena.len());
        }
        let arena = &*arena;
        let entry = |at: u32| {
            let start = (at as usize).checked_sub(1).map_or(0, |before| ends[before]);
            &arena[start..ends[at as usize]]
        };
        let mut order: Vec<(&[u8], u32)> = (0..ends.len() as u32).map(|at| (entry(at), at)).collect();
        order.sort_unstable();
        let mut place = vec![0u32; order.len()];
        for ((_, at), sorted) in order.iter().zip(0u32..) {
            place[*at as usize] = sorted;
        }
        let mut codes = self.codes;
        codes.iter_mut().for_each(|code| *code = place[*code as usize]);
        Coded { entries: order.into_iter().map(|(entry, _)| entry).collect(), codes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn codes_are_places_of_the_sorted_different_values(values in prop::collection::vec("[a-c]{0,2}", 0..300)) {
            let mut interned = Interned::default();
            values.iter().for_each(|value| interned.push(value.as_bytes()));
            let mut arena = Vec::new();
            let coded = interned.coded(&mut arena);
            let different: std::collections::BTreeSet<&[u8]> = values.iter().map(|value| value.as_bytes()).collect();
            prop_assert!(coded.entries.iter().copied().eq(different));
            let back: Vec<&[u8]> = coded.codes.iter().map(|code| coded.entries[*code as usize]).collect();
            prop_assert_eq!(back, values.iter().map(|value| value.as_bytes()).collect::<Vec<_>>());
        }
    }
}
