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
use super::plain::{Integers, MARK_ROWS, Packed};
use crate::store::envelope::{DamagedValue, damaged};

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
    use crate::store::live::RowSet;
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
        fn integers_are_compared_and_counted_as_they_lie(
            values in prop::collection::vec(prop_oneof![5u64..8, 250u64..300, any::<u16>().prop_map(u64::from), 1u64 << 40..(1 << 40) + 300], 1..300),
            bounds in (0u64..400, 0u64..70_000), step in 1usize..4,
        ) {
            // Of the first kinds alone there are one or two planes.
            for values in [values.iter().map(|value| value % 256).collect(), values.iter().map(|value| 9 + value % 65_536).collect(), values] {
                let values: Vec<u64> = values;
                let Some((bytes, ..)) = integers(&values) else { continue };
                let read = read_integers(&bytes, values.len()).unwrap();
                let (from, to) = bounds;
                let inside = RowSet::of(values.len(), |row| (from..=to).contains(&values[row]));
                prop_assert_eq!(read.between(from, to), inside);
                prop_assert_eq!(read.between(from, u64::MAX), RowSet::of(values.len(), |row| values[row] >= from));
                let some = RowSet::of(values.len(), |row| row % step == 0);
                if let Some((min, counts)) = read.histogram(&some) {
                    let mut expected = vec![0u32; counts.len()];
                    some.iter().for_each(|row| expected[(values[row] - min) as usize] += 1);
                    prop_assert_eq!(counts, expected);
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
