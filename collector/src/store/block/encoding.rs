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

use crate::store::envelope::{DamagedValue, damaged};

const INTEGERS: u8 = 1;
const DICTIONARY: u8 = 2;
const LISTS: u8 = 3;
const WHAT: &str = "a column";
/// Nothing of a block is larger: more is damage.
const PACKED_BYTES_MAX: u32 = 256 << 20;
/// Level 1: higher ones cost ingest more than they save of disk.
const ZSTD_LEVEL: i32 = 1;

thread_local! {
    static COMPRESSOR: RefCell<Option<zstd::bulk::Compressor<'static>>> = const { RefCell::new(None) };
    static DECOMPRESSOR: RefCell<Option<zstd::bulk::Decompressor<'static>>> = const { RefCell::new(None) };
}

/// The values of a column of texts, addresses or lists of them: each row has some codes, each code stands for an entry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Dictionary {
    bytes: Vec<u8>,
    /// Where each entry ends in `bytes`.
    ends: Vec<u32>,
    pub(crate) codes: Vec<u32>,
    /// For lists: where the codes of each row begin, and where the last end.
    pub(crate) starts: Option<Vec<u32>>,
}

impl Dictionary {
    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    pub(crate) fn entry(&self, code: usize) -> &[u8] {
        let Some(&end) = self.ends.get(code) else { return &[] };
        let start = code.checked_sub(1).and_then(|before| self.ends.get(before)).copied().unwrap_or(0);
        self.bytes.get(start as usize..end as usize).unwrap_or(&[])
    }

    pub(crate) fn entries(&self) -> impl Iterator<Item = &[u8]> {
        (0..self.len()).map(|code| self.entry(code))
    }

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

/// With the smallest and the largest; `None` when all are 0.
pub(super) fn integers(values: &[u64]) -> Option<(Vec<u8>, u64, u64)> {
    let min = values.iter().copied().min().unwrap_or(0);
    let max = values.iter().copied().max().unwrap_or(0);
    if max == 0 {
        return None;
    }
    let width = bytes_for(max - min);
    let mut planes = Vec::with_capacity(values.len() * width);
    for plane in 0..width {
        planes.extend(values.iter().map(|value| ((value - min) >> (8 * plane)) as u8));
    }
    let mut out = vec![INTEGERS];
    out.extend(min.to_le_bytes());
    out.push(width as u8);
    pack(&planes, &mut out);
    Some((out, min, max))
}

/// The values of `rows` rows.
pub(in crate::store) fn read_integers(column: &[u8], rows: usize) -> Result<Vec<u64>, DamagedValue> {
    let mut reader = Reader { bytes: column };
    reader.tag(INTEGERS)?;
    let min = reader.u64()?;
    let width = usize::from(reader.u8()?);
    if width > 8 {
        return Err(damaged(WHAT, format!("has {width} planes")));
    }
    let planes = reader.packed(rows * width)?;
    let mut values = vec![min; rows];
    for (plane, bytes) in planes.chunks_exact(rows.max(1)).enumerate() {
        let shift = 8 * plane;
        for (value, byte) in values.iter_mut().zip(bytes) {
            *value = value.wrapping_add(u64::from(*byte) << shift);
        }
    }
    Ok(values)
}

/// Values as a dictionary has them: the different ones, sorted, and the code of each.
pub(super) struct Coded<'v> {
    pub(super) entries: Vec<&'v [u8]>,
    codes: Vec<u32>,
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
) -> Result<Dictionary, DamagedValue> {
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
    let mut dictionary = Dictionary { bytes: lengths.bytes.to_vec(), ends, ..Dictionary::default() };
    if !codes {
        return Ok(dictionary);
    }
    let mut values = rows;
    if tag == LISTS {
        let mut starts = Vec::with_capacity(rows + 1);
        let mut start = 0u32;
        starts.push(0);
        for count in reader.packed(rows)? {
            start = start.saturating_add(u32::from(count));
            starts.push(start);
        }
        values = start as usize;
        dictionary.starts = Some(starts);
    }
    let width = bytes_for(entries.saturating_sub(1) as u64);
    let planes = reader.packed(values * width)?;
    let mut codes = vec![0u32; values];
    for (plane, bytes) in planes.chunks_exact(values.max(1)).enumerate() {
        for (code, byte) in codes.iter_mut().zip(bytes) {
            *code |= u32::from(*byte) << (8 * plane);
        }
    }
    if codes.iter().any(|code| *code as usize >= entries) {
        return Err(damaged(WHAT, "has a code without an entry"));
    }
    dictionary.codes = codes;
    Ok(dictionary)
}

pub(super) fn code<'v>(values: &[&'v [u8]]) -> Coded<'v> {
    // First by a hash in the order of appearance: most values repeat, and only the different ones need sorting.
    let mut seen: std::collections::HashMap<&[u8], u32, super::bloom::Mixing> =
        std::collections::HashMap::default();
    let mut entries: Vec<&[u8]> = Vec::new();
    let mut codes: Vec<u32> = Vec::with_capacity(values.len());
    for value in values {
        let next = entries.len() as u32;
        let code = *seen.entry(value).or_insert(next);
        if code == next {
            entries.push(value);
        }
        codes.push(code);
    }
    let mut order: Vec<u32> = (0..entries.len() as u32).collect();
    order.sort_unstable_by_key(|at| entries[*at as usize]);
    let mut place = vec![0u32; entries.len()];
    for (sorted, at) in order.iter().enumerate() {
        place[*at as usize] = sorted as u32;
    }
    codes.iter_mut().for_each(|code| *code = place[*code as usize]);
    Coded { entries: order.into_iter().map(|at| entries[at as usize]).collect(), codes }
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

    proptest! {
        #[test]
        fn integers_come_back(values in prop::collection::vec(prop_oneof![0u64..4, any::<u64>(), 1u64 << 40..(1 << 40) + 300], 0..300)) {
            match integers(&values) {
                None => prop_assert!(values.iter().all(|v| *v == 0)),
                Some((bytes, ..)) => prop_assert_eq!(read_integers(&bytes, values.len()).unwrap(), values),
            }
        }

        #[test]
        fn lists_come_back(rows in prop::collection::vec(prop::collection::vec("[a-c]{0,3}", 0..4), 0..600)) {
            let counts: Vec<u8> = rows.iter().map(|row| row.len() as u8).collect();
            let values: Vec<&[u8]> = rows.iter().flatten().map(|text| text.as_bytes()).collect();
            let Some(bytes) = lists(&counts, &code(&values)) else { return Ok(()) };
            let read = read_dictionary(&bytes, rows.len(), true).unwrap();
            prop_assert!(read.entries().is_sorted());
            for (at, row) in rows.iter().enumerate() {
                let back: Vec<&[u8]> = read.of_row(at).iter().map(|code| read.entry(*code as usize)).collect();
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
            let mut bytes = dictionary(&code(&refs)).unwrap();
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            let _ = read_dictionary(&bytes, refs.len(), true);
        }
    }
}
