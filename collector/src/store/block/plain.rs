//! Columns as they are kept in memory: still as planes of bytes, of which a look takes what it needs.

use std::sync::Arc;

use super::entries::Entries;
use crate::store::live::RowSet;

/// A column of integers as it is kept in memory: a byte a row for each plane.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Integers {
    pub(super) min: u64,
    pub(super) rows: usize,
    pub(super) planes: Vec<u8>,
}

impl Integers {
    /// The rows whose values lie in `from ..= to`.
    pub(crate) fn between(&self, from: u64, to: u64) -> RowSet {
        let Some(to) = to.checked_sub(self.min).filter(|_| from <= to) else {
            return RowSet::none(self.rows);
        };
        let from = from.saturating_sub(self.min);
        let span = to - from;
        // One comparison a row: what is below wraps around.
        match self.width() {
            0 if from == 0 => RowSet::all(self.rows),
            0 => RowSet::none(self.rows),
            1 => {
                let low = &self.planes[..self.rows];
                RowSet::of(self.rows, |row| u64::from(low[row]).wrapping_sub(from) <= span)
            }
            2 => {
                let (low, high) = self.planes.split_at(self.rows);
                let high = &high[..self.rows];
                let value = |row: usize| u64::from(low[row]) | u64::from(high[row]) << 8;
                RowSet::of(self.rows, |row| value(row).wrapping_sub(from) <= span)
            }
            _ => {
                let (from, values) = (from.wrapping_add(self.min), self.values());
                RowSet::of(self.rows, |row| values[row].wrapping_sub(from) <= span)
            }
        }
    }

    /// How many of `rows` have each value, from the smallest of all on; `None` where they lie too far apart for a table.
    pub(crate) fn histogram(&self, rows: &RowSet) -> Option<(u64, Vec<u32>)> {
        let counts = match self.width() {
            0 => vec![rows.len() as u32],
            1 => {
                let mut counts = vec![0u32; 1 << 8];
                rows.each_below(self.rows, |row| counts[usize::from(self.planes[row])] += 1);
                counts
            }
            2 => {
                let (low, high) = self.planes.split_at(self.rows);
                let high = &high[..self.rows];
                let largest = high.iter().copied().max().map_or(0, usize::from);
                let mut counts = vec![0u32; (largest + 1) << 8];
                rows.each_below(self.rows, |row| {
                    counts[usize::from(low[row]) | usize::from(high[row]) << 8] += 1;
                });
                counts
            }
            _ => return None,
        };
        Some((self.min, counts))
    }

    /// Planes.
    fn width(&self) -> usize {
        self.planes.len().checked_div(self.rows).unwrap_or(0)
    }

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
pub(super) const MARK_ROWS: usize = 256;

/// A column of texts, addresses or lists of them as it is kept in memory: each row has some codes, each code stands for
/// an entry.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Packed {
    pub(crate) entries: Arc<Entries>,
    /// For lists: how many codes each row has, and of every 256th row where they begin.
    pub(super) counts: Option<(Vec<u8>, Vec<u32>)>,
    pub(super) values: usize,
    pub(super) planes: Vec<u8>,
}

impl Packed {
    fn code(&self, at: usize) -> u32 {
        let planes = self.planes.chunks_exact(self.values.max(1)).enumerate();
        planes.fold(0, |code, (plane, bytes)| {
            code | u32::from(bytes.get(at).copied().unwrap_or(0)) << (8 * plane)
        })
    }

    pub(super) fn codes(&self) -> Vec<u32> {
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
        let (low, high) = self.planes.split_at(self.values.min(self.planes.len()));
        let mut counts = vec![0u32; self.entries.len()];
        let count = |code: u32| {
            if let Some(count) = counts.get_mut(code as usize) {
                *count += 1;
            }
        };
        let having = match self.planes.len() / self.values.max(1) {
            0 => self.count(rows, all, |_| 0, count),
            1 => self.count(rows, all, |at| u32::from(low[at]), count),
            2 => {
                let high = &high[..low.len()];
                self.count(rows, all, |at| u32::from(low[at]) | u32::from(high[at]) << 8, count)
            }
            _ => self.count(rows, all, |at| self.code(at), count),
        };
        Histogram { entries: Arc::clone(&self.entries), counts, lists: self.counts.is_some(), having }
    }

    /// Tells `count` every code of `rows`, of `all`. Gives how many of them have any.
    fn count(
        &self,
        rows: &RowSet,
        all: usize,
        code: impl Fn(usize) -> u32,
        mut count: impl FnMut(u32),
    ) -> u64 {
        let Some((of_rows, _)) = &self.counts else {
            rows.each_below(self.values, |row| count(code(row)));
            return rows.len() as u64;
        };
        if rows.len() == all {
            (0..self.values).for_each(|at| count(code(at)));
            return of_rows.iter().filter(|of_row| **of_row > 0).count() as u64;
        }
        let (mut having, mut before, mut start) = (0, 0, 0usize);
        rows.each_below(of_rows.len(), |row| {
            start += of_rows[before..row].iter().map(|of_row| usize::from(*of_row)).sum::<usize>();
            let end = start + usize::from(of_rows[row]);
            having += u64::from(end > start);
            (start..end.min(self.values)).for_each(|at| count(code(at)));
            (before, start) = (row + 1, end);
        });
        having
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
    /// Rows have any number of entries; else each has one.
    pub(crate) lists: bool,
    /// Rows that have any.
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
                planes.len() + counts + entries.memory()
            }
        }
    }
}
