//! One column of a block as bytes. **Frozen**: see `keys.rs`. Integers are little endian.
//!
//! ```text
//! integers      1, min u64, width u8, packed(width planes of one byte a row: value − min)
//! dictionary    2, entries u32, packed(varint lengths, then the entries, sorted and different), packed(codes)
//! lists         3, entries u32, packed(…as above), packed(one byte a row: how many values), packed(codes of all values)
//!
//! codes         planes of one byte a code, as many as the number of entries needs
//! packed        raw length u32, stored length u32, then the bytes: a zstd frame when that is shorter, else as they are
//! ```
//! Planes of bytes compress better than whole integers, and a column whose values are all 0 is not stored at all.

use std::cell::RefCell;
use std::sync::Arc;

use super::entries::Entries;
use crate::store::envelope::{DamagedValue, damaged};
use crate::store::live::RowSet;

const INTEGERS: u8 = 1;
const DICTIONARY: u8 = 2;
const LISTS: u8 = 3;
const WHAT: &str = "a column";
/// Nothing of a block is larger: more is damage.
const PACKED_BYTES_MAX: u32 = 256 << 20;
/// Fewer bytes are kept as they are.
const PACKED_BYTES_MIN: usize = 16;
/// Level 1: higher ones cost ingest more than they save of disk.
const ZSTD_LEVEL: i32 = 1;

thread_local! {
    static COMPRESSOR: RefCell<Option<zstd::bulk::Compressor<'static>>> = const { RefCell::new(None) };
    static DECOMPRESSOR: RefCell<Option<zstd::bulk::Decompressor<'static>>> = const { RefCell::new(None) };
}

/// A column of integers as it is kept in memory: a byte a row for each plane.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Integers {
    min: u64,
    rows: usize,
    planes: Vec<u8>,
}

impl Integers {
    pub(crate) fn values(&self) -> Vec<u64> {
        let mut planes = self.planes.chunks_exact(self.rows.max(1));
        // Most columns have one or two: those in one pass over the values.
        let mut values = match (planes.next(), planes.next()) {
            (None, _) => vec![self.min; self.rows],
            (Some(low), None) => low.iter().map(|low| self.min.wrapping_add(u64::from(*low))).collect(),
            (Some(low), Some(high)) => {
                let pairs = low.iter().zip(high);
                pairs
                    .map(|(low, high)| self.min.wrapping_add(u64::from(*low) | u64::from(*high) << 8))
                    .collect()
            }
        };
        for (plane, bytes) in (2..).zip(planes) {
            add_plane(&mut values, plane, bytes);
        }
        values
    }

    /// Adds each row's value to the one that is there. Whoever calls knows that no sum is too large.
    pub(crate) fn add_to(&self, sums: &mut [u64]) {
        if self.min > 0 {
            sums.iter_mut().for_each(|sum| *sum = sum.wrapping_add(self.min));
        }
        for (plane, bytes) in self.planes.chunks_exact(self.rows.max(1)).enumerate() {
            add_plane(sums, plane, bytes);
        }
    }

    /// The value of one row.
    pub(crate) fn at(&self, row: usize) -> u64 {
        let planes = self.planes.chunks_exact(self.rows.max(1)).enumerate();
        let add = |sum: u64, (plane, bytes): (usize, &[u8])| {
            sum.wrapping_add(u64::from(bytes.get(row).copied().unwrap_or(0)) << (8 * plane))
        };
        planes.fold(self.min, add)
    }
}

fn add_plane(values: &mut [u64], plane: usize, bytes: &[u8]) {
    for (value, byte) in values.iter_mut().zip(bytes) {
        *value = value.wrapping_add(u64::from(*byte) << (8 * plane));
    }
}

/// Rows between two that are known to begin at some value of a column of lists.
const MARK_ROWS: usize = 256;

/// A column of texts, addresses or lists of them as it is kept in memory: each row has some codes, each code stands for
/// an entry.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Packed {
    pub(crate) entries: Arc<Entries>,
    /// For lists: how many codes each row has, and of every 256th row where they begin.
    counts: Option<(Vec<u8>, Vec<u32>)>,
    values: usize,
    planes: Vec<u8>,
}

impl Packed {
    fn code(&self, at: usize) -> u32 {
        let planes = self.planes.chunks_exact(self.values.max(1)).enumerate();
        planes.fold(0, |code, (plane, bytes)| {
            code | u32::from(bytes.get(at).copied().unwrap_or(0)) << (8 * plane)
        })
    }

    fn codes(&self) -> Vec<u32> {
        let mut codes = vec![0u32; self.values];
        for (plane, bytes) in self.planes.chunks_exact(self.values.max(1)).enumerate() {
            for (code, byte) in codes.iter_mut().zip(bytes) {
                *code |= u32::from(*byte) << (8 * plane);
            }
        }
        codes
    }

    /// How many of `rows`, of `all`, have each code. A row has no code twice.
    pub(crate) fn histogram(&self, rows: &RowSet, all: usize) -> Histogram {
        let mut counts = vec![0u32; self.entries.len()];
        let mut having = 0;
        let mut count = |code: u32| {
            if let Some(count) = counts.get_mut(code as usize) {
                *count += 1;
            }
        };
        if rows.len() == all {
            let (low, high) = self.planes.split_at(self.values.min(self.planes.len()));
            match self.planes.len() / self.values.max(1) {
                // One entry: every value is it.
                0 => (0..self.values).for_each(|_| count(0)),
                1 => low.iter().for_each(|low| count(u32::from(*low))),
                2 => low.iter().zip(high).for_each(|(l, h)| count(u32::from(*l) | u32::from(*h) << 8)),
                _ => self.codes().into_iter().for_each(count),
            }
            if let Some((counts, _)) = &self.counts {
                having = counts.iter().filter(|count| **count > 0).count() as u64;
            }
        } else if self.counts.is_none() {
            rows.each(|row| count(self.code(row)));
        } else {
            let opened = self.open();
            rows.each(|row| {
                let of_row = opened.of_row(row);
                having += u64::from(!of_row.is_empty());
                of_row.iter().for_each(|code| count(*code));
            });
        }
        Histogram { entries: Arc::clone(&self.entries), counts, lists: self.counts.is_some(), having }
    }

    /// The entries of one row.
    pub(crate) fn of_row(&self, row: usize) -> impl Iterator<Item = &[u8]> {
        let range = match &self.counts {
            None => row..(row + 1).min(self.values),
            Some((counts, marks)) => {
                let mark = row / MARK_ROWS;
                let before = counts.get(mark * MARK_ROWS..row).unwrap_or(&[]);
                let start = marks.get(mark).copied().unwrap_or(0) as usize
                    + before.iter().map(|count| usize::from(*count)).sum::<usize>();
                start..start + counts.get(row).map_or(0, |count| usize::from(*count))
            }
        };
        range.map(|at| self.entries.get(self.code(at) as usize))
    }

    /// With a number for each code.
    pub(crate) fn open(&self) -> Dictionary {
        let starts = self.counts.as_ref().map(|(counts, _)| {
            let mut starts = Vec::with_capacity(counts.len() + 1);
            let mut start = 0u32;
            starts.push(0);
            for count in counts {
                start = start.saturating_add(u32::from(*count));
                starts.push(start);
            }
            starts
        });
        Dictionary { entries: Arc::clone(&self.entries), codes: self.codes(), starts }
    }
}

/// How many rows have each entry of a column.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Histogram {
    pub(crate) entries: Arc<Entries>,
    /// By code.
    pub(crate) counts: Vec<u32>,
    /// Rows have any number of entries, and `having` of them at least one; else each has one.
    pub(crate) lists: bool,
    pub(crate) having: u64,
}

/// A [`Packed`] column whose codes are numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Dictionary {
    pub(crate) entries: Arc<Entries>,
    pub(crate) codes: Vec<u32>,
    /// For lists: where the codes of each row begin, and where the last end.
    pub(crate) starts: Option<Vec<u32>>,
}

impl Dictionary {
    /// The codes of one row.
    pub(crate) fn of_row(&self, row: usize) -> &[u32] {
        let range = match &self.starts {
            None => row..row + 1,
            Some(starts) => match (starts.get(row), starts.get(row + 1)) {
                (Some(from), Some(to)) => *from as usize..*to as usize,
                _ => return &[],
            },
        };
        self.codes.get(range).unwrap_or(&[])
    }
}

/// A column as it is kept in memory.
#[derive(Debug)]
pub(crate) enum Plain {
    Integers(Integers),
    Dictionary(Packed),
}

impl Plain {
    /// Memory that it takes, about.
    pub(crate) fn bytes(&self) -> usize {
        64 + match self {
            Plain::Integers(Integers { planes, .. }) => planes.len(),
            Plain::Dictionary(Packed { entries, counts, planes, .. }) => {
                let counts = counts.as_ref().map_or(0, |(counts, marks)| counts.len() + 4 * marks.len());
                planes.len() + counts + entries.bytes.len() + 4 * entries.ends.len()
            }
        }
    }
}

/// With the smallest and the largest; `None` when all are 0.
pub(in crate::store) fn integers(values: &[u64]) -> Option<(Vec<u8>, u64, u64)> {
    let (min, max) =
        values.iter().fold((u64::MAX, 0), |(min, max), value| (min.min(*value), max.max(*value)));
    if max == 0 {
        return None;
    }
    let width = bytes_for(max - min);
    let mut planes = Vec::with_capacity(values.len() * width);
    for plane in 0..width {
        // No value is below the smallest.
        planes.extend(values.iter().map(|value| (value.wrapping_sub(min) >> (8 * plane)) as u8));
    }
    let mut out = vec![INTEGERS];
    out.extend(min.to_le_bytes());
    out.push(width as u8);
    pack(&planes, &mut out);
    Some((out, min, max))
}

/// A column of `rows` integers.
pub(in crate::store) fn read_integers(column: &[u8], rows: usize) -> Result<Integers, DamagedValue> {
    let mut reader = Reader { bytes: column };
    reader.tag(INTEGERS)?;
    let min = reader.u64()?;
    let width = usize::from(reader.u8()?);
    if width > 8 {
        return Err(damaged(WHAT, format!("has {width} planes")));
    }
    Ok(Integers { min, rows, planes: reader.packed(rows * width)? })
}

/// Values as a dictionary has them: the different ones, sorted, and the code of each.
pub(super) struct Coded<'v> {
    pub(super) entries: Vec<&'v [u8]>,
    pub(super) codes: Vec<u32>,
}

/// One value a row. `None` when all are empty.
pub(super) fn dictionary(values: &Coded<'_>) -> Option<Vec<u8>> {
    if values.entries.iter().all(|value| value.is_empty()) {
        return None;
    }
    let mut out = vec![DICTIONARY];
    put_entries(&values.entries, &mut out);
    put_codes(&values.codes, values.entries.len(), &mut out);
    Some(out)
}

/// Several values a row, `counts` of them, all rows' values behind each other. `None` when there are none at all.
pub(super) fn lists(counts: &[u8], values: &Coded<'_>) -> Option<Vec<u8>> {
    if values.codes.is_empty() {
        return None;
    }
    let mut out = vec![LISTS];
    put_entries(&values.entries, &mut out);
    pack(counts, &mut out);
    put_codes(&values.codes, values.entries.len(), &mut out);
    Some(out)
}

/// A dictionary or lists of `rows` rows. With `codes` false just the entries are read, which is what most looks need.
pub(in crate::store) fn read_dictionary(
    column: &[u8],
    rows: usize,
    codes: bool,
) -> Result<Packed, DamagedValue> {
    let mut reader = Reader { bytes: column };
    let tag = reader.u8()?;
    if tag != DICTIONARY && tag != LISTS {
        return Err(damaged(WHAT, format!("has the unknown layout {tag}")));
    }
    let entries = reader.u32()? as usize;
    let packed = reader.packed_any()?;
    let mut lengths = Reader { bytes: &packed };
    let mut ends = Vec::with_capacity(entries.min(packed.len()));
    let mut end = 0u32;
    for _ in 0..entries {
        end = end.checked_add(lengths.varint()?).ok_or_else(|| damaged(WHAT, "has entries too long"))?;
        ends.push(end);
    }
    if lengths.bytes.len() != end as usize {
        return Err(damaged(WHAT, "has entries of other lengths than it says"));
    }
    let entries = Arc::new(Entries { bytes: lengths.bytes.to_vec(), ends });
    let mut read = Packed { entries, counts: None, values: 0, planes: Vec::new() };
    if !codes {
        return Ok(read);
    }
    read.values = rows;
    if tag == LISTS {
        let counts = reader.packed(rows)?;
        let mut start = 0u32;
        let mut marks = Vec::with_capacity(rows / MARK_ROWS + 1);
        for run in counts.chunks(MARK_ROWS) {
            marks.push(start);
            start = run.iter().fold(start, |start, count| start.saturating_add(u32::from(*count)));
        }
        read.values = start as usize;
        read.counts = Some((counts, marks));
    }
    let width = bytes_for(read.entries.len().saturating_sub(1) as u64);
    read.planes = reader.packed(read.values * width)?;
    let fits_any = read.entries.len() as u64 == 1 << (8 * width);
    if !fits_any && read.codes().iter().any(|code| *code as usize >= read.entries.len()) {
        return Err(damaged(WHAT, "has a code without an entry"));
    }
    Ok(read)
}

fn put_entries(entries: &[&[u8]], out: &mut Vec<u8>) {
    out.extend((entries.len() as u32).to_le_bytes());
    let mut packed = Vec::with_capacity(entries.iter().map(|entry| entry.len() + 1).sum());
    for entry in entries {
        let mut len = entry.len() as u32;
        while len >= 0x80 {
            packed.push(len as u8 | 0x80);
            len >>= 7;
        }
        packed.push(len as u8);
    }
    entries.iter().for_each(|entry| packed.extend_from_slice(entry));
    pack(&packed, out);
}

fn put_codes(codes: &[u32], entries: usize, out: &mut Vec<u8>) {
    let width = bytes_for(entries.saturating_sub(1) as u64);
    let mut planes = Vec::with_capacity(codes.len() * width);
    for plane in 0..width {
        planes.extend(codes.iter().map(|code| (code >> (8 * plane)) as u8));
    }
    pack(&planes, out);
}

fn bytes_for(max: u64) -> usize {
    (64 - max.leading_zeros()).div_ceil(8) as usize
}

fn pack(raw: &[u8], out: &mut Vec<u8>) {
    // A frame of almost nothing is longer than it.
    if raw.len() < PACKED_BYTES_MIN {
        out.extend((raw.len() as u32).to_le_bytes());
        out.extend((raw.len() as u32).to_le_bytes());
        out.extend_from_slice(raw);
        return;
    }
    let frame = COMPRESSOR.with_borrow_mut(|compressor| {
        if compressor.is_none() {
            *compressor = zstd::bulk::Compressor::new(ZSTD_LEVEL).ok();
        }
        compressor.as_mut().and_then(|compressor| compressor.compress(raw).ok())
    });
    let stored = frame.as_deref().filter(|frame| frame.len() < raw.len()).unwrap_or(raw);
    out.extend((raw.len() as u32).to_le_bytes());
    out.extend((stored.len() as u32).to_le_bytes());
    out.extend_from_slice(stored);
}

struct Reader<'b> {
    bytes: &'b [u8],
}

impl<'b> Reader<'b> {
    fn take(&mut self, len: usize) -> Result<&'b [u8], DamagedValue> {
        let (taken, rest) = self.bytes.split_at_checked(len).ok_or_else(|| damaged(WHAT, "is cut"))?;
        self.bytes = rest;
        Ok(taken)
    }

    fn u8(&mut self) -> Result<u8, DamagedValue> {
        Ok(self.take(1)?[0])
    }

    fn u32(&mut self) -> Result<u32, DamagedValue> {
        let bytes = self.take(4)?;
        Ok(u32::from_le_bytes(std::array::from_fn(|i| bytes[i])))
    }

    fn u64(&mut self) -> Result<u64, DamagedValue> {
        let bytes = self.take(8)?;
        Ok(u64::from_le_bytes(std::array::from_fn(|i| bytes[i])))
    }

    fn tag(&mut self, wanted: u8) -> Result<(), DamagedValue> {
        match self.u8()? {
            tag if tag == wanted => Ok(()),
            tag => Err(damaged(WHAT, format!("has layout {tag}, not {wanted}"))),
        }
    }

    fn varint(&mut self) -> Result<u32, DamagedValue> {
        let mut value = 0u32;
        for shift in [0, 7, 14, 21, 28] {
            let byte = self.u8()?;
            value |= u32::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(damaged(WHAT, "has a length that does not end"))
    }

    fn packed(&mut self, wanted: usize) -> Result<Vec<u8>, DamagedValue> {
        let packed = self.packed_any()?;
        if packed.len() != wanted {
            return Err(damaged(WHAT, format!("has {} bytes where {wanted} belong", packed.len())));
        }
        Ok(packed)
    }

    fn packed_any(&mut self) -> Result<Vec<u8>, DamagedValue> {
        let raw_len = self.u32()?;
        let stored_len = self.u32()?;
        let stored = self.take(stored_len as usize)?;
        if raw_len == stored_len {
            return Ok(stored.to_vec());
        }
        if raw_len > PACKED_BYTES_MAX {
            return Err(damaged(WHAT, format!("claims {raw_len} bytes")));
        }
        let raw = DECOMPRESSOR.with_borrow_mut(|decompressor| {
            if decompressor.is_none() {
                *decompressor = Some(zstd::bulk::Decompressor::new()?);
            }
            match decompressor {
                Some(decompressor) => decompressor.decompress(stored, raw_len as usize),
                None => Ok(Vec::new()),
            }
        });
        let raw = raw.map_err(|e| damaged(WHAT, e.to_string()))?;
        if raw.len() != raw_len as usize {
            return Err(damaged(WHAT, format!("has {} bytes, not {raw_len}", raw.len())));
        }
        Ok(raw)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn coded<'v>(values: &[&'v [u8]]) -> Coded<'v> {
        let different: std::collections::BTreeSet<&[u8]> = values.iter().copied().collect();
        let entries: Vec<&[u8]> = different.into_iter().collect();
        let code = |value: &&[u8]| entries.binary_search(value).unwrap() as u32;
        Coded { codes: values.iter().map(code).collect(), entries }
    }

    proptest! {
        #[test]
        fn integers_come_back(values in prop::collection::vec(prop_oneof![0u64..4, any::<u64>(), 1u64 << 40..(1 << 40) + 300], 0..300)) {
            match integers(&values) {
                None => prop_assert!(values.iter().all(|v| *v == 0)),
                Some((bytes, ..)) => {
                    let read = read_integers(&bytes, values.len()).unwrap();
                    prop_assert!((0..values.len()).all(|row| read.at(row) == values[row]));
                    prop_assert_eq!(read.values(), values);
                }
            }
        }

        #[test]
        fn sums_are_sums(values in prop::collection::vec((0u64..1 << 50, 1u64 << 20..1 << 30), 1..300)) {
            let (a, b): (Vec<u64>, Vec<u64>) = values.iter().copied().unzip();
            let read = |values: &[u64]| integers(values).map(|(bytes, ..)| read_integers(&bytes, values.len()).unwrap());
            let mut sums = a;
            read(&b).unwrap().add_to(&mut sums);
            prop_assert!(sums.iter().zip(&values).all(|(sum, (a, b))| *sum == a + b));
        }

        #[test]
        fn lists_come_back(rows in prop::collection::vec(prop::collection::vec("[a-c]{0,3}", 0..4), 0..600)) {
            let counts: Vec<u8> = rows.iter().map(|row| row.len() as u8).collect();
            let values: Vec<&[u8]> = rows.iter().flatten().map(|text| text.as_bytes()).collect();
            let Some(bytes) = lists(&counts, &coded(&values)) else { return Ok(()) };
            let packed = read_dictionary(&bytes, rows.len(), true).unwrap();
            let read = packed.open();
            prop_assert!(read.entries.iter().is_sorted());
            for step in 1..3 {
                let some = RowSet::of(rows.len(), |row| row % step == 0);
                let histogram = packed.histogram(&some, rows.len());
                let of_code = |code: usize| some.iter().flat_map(|row| read.of_row(row)).filter(|of| **of as usize == code).count();
                prop_assert!((0..read.entries.len()).all(|code| histogram.counts[code] as usize == of_code(code)));
                prop_assert_eq!(histogram.having as usize, some.iter().filter(|row| !rows[*row].is_empty()).count());
            }
            for (at, row) in rows.iter().enumerate() {
                prop_assert!(packed.of_row(at).eq(row.iter().map(|text| text.as_bytes())));
                let back: Vec<&[u8]> = read.of_row(at).iter().map(|code| read.entries.get(*code as usize)).collect();
                prop_assert_eq!(back, row.iter().map(|text| text.as_bytes()).collect::<Vec<_>>());
            }
        }

        #[test]
        fn no_bytes_panic(bytes: Vec<u8>, tag in 0u8..5, rows in 0usize..300) {
            let bytes = [vec![tag], bytes].concat();
            let _ = read_integers(&bytes, rows);
            let _ = read_dictionary(&bytes, rows, true);
        }

        #[test]
        fn no_damage_panics(at in any::<prop::sample::Index>(), bit in 0u8..8) {
            let values: Vec<Vec<u8>> = (0..400u32).map(|n| (n * n).to_be_bytes().to_vec()).collect();
            let refs: Vec<&[u8]> = values.iter().map(Vec::as_slice).collect();
            let mut bytes = dictionary(&coded(&refs)).unwrap();
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            let _ = read_dictionary(&bytes, refs.len(), true);
        }
    }
}
