//! How many different values there are: counted exactly while they are few, estimated with a known error beyond. What is
//! kept of a value is its hash.

use std::collections::HashSet;
use std::hash::BuildHasher;

use gnomon_flow::Value;

use crate::store::block::bloom::Mixing;

/// Up to where a count is exact, and how good it is beyond.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scale {
    /// So many different values are kept one by one.
    exact_max: usize,
    /// Bits of a hash that choose its register: 2^this bytes, an error of 1.04 / 2^(this / 2).
    precision: u32,
}

/// For each of many rows: 4 KiB at most.
pub(super) const OF_ROW: Scale = Scale { exact_max: 1024, precision: 12 };
/// For a whole selection: 16 KiB beyond 65,536 values.
pub(super) const OF_ALL: Scale = Scale { exact_max: 65_536, precision: 14 };

/// Values that are kept in place.
const FEW: usize = 3;
/// A place of a table that may be empty.
const BYTES_OF_ONE: usize = 2 * size_of::<u64>();

/// How many different values.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Different {
    pub count: u64,
    /// The standard error of an estimate as a part of it (0.016: 1.6 %); 0 when the count is exact.
    pub error: f64,
}

/// The different values so far.
#[derive(Debug)]
pub(super) enum Distinct {
    /// Most rows have few, which take no memory of their own.
    Few {
        len: u8,
        hashes: [u64; FEW],
    },
    Exact(HashSet<u64, Mixing>),
    /// The registers of a HyperLogLog (Flajolet et al. 2007): the longest run of zeros seen for each beginning of a hash.
    Sketch(Box<[u8]>),
}

impl Default for Distinct {
    fn default() -> Distinct {
        Distinct::Few { len: 0, hashes: [0; FEW] }
    }
}

/// What [`Distinct`] keeps of a value.
pub(super) fn hash_of(value: &Value<'_>) -> u64 {
    Mixing::default().hash_one(value)
}

impl Distinct {
    /// Adds the value of this hash. Bytes that it took.
    pub(super) fn add(&mut self, scale: Scale, hash: u64) -> usize {
        match self {
            Distinct::Few { len, hashes } => {
                let known = &hashes[..usize::from(*len)];
                if known.contains(&hash) {
                    return 0;
                }
                if known.len() < FEW {
                    hashes[usize::from(*len)] = hash;
                    *len += 1;
                    return 0;
                }
                *self = Distinct::Exact(hashes.iter().copied().chain([hash]).collect());
                self.bytes()
            }
            Distinct::Exact(set) => {
                let before = set.len();
                set.insert(hash);
                if set.len() <= scale.exact_max {
                    return (set.len() - before) * BYTES_OF_ONE;
                }
                let mut registers = vec![0u8; 1 << scale.precision].into_boxed_slice();
                set.iter().for_each(|hash| register(&mut registers, *hash));
                *self = Distinct::Sketch(registers);
                self.bytes().saturating_sub(before * BYTES_OF_ONE)
            }
            Distinct::Sketch(registers) => {
                register(registers, hash);
                0
            }
        }
    }

    /// About what it takes beside itself: a table leaves some of its places empty.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Distinct::Few { .. } => 0,
            Distinct::Exact(set) => set.len() * BYTES_OF_ONE,
            Distinct::Sketch(registers) => registers.len(),
        }
    }

    /// Whether adding to it may take memory.
    pub(super) fn grows(&self) -> bool {
        !matches!(self, Distinct::Sketch(_))
    }

    /// Takes in what another has seen. Bytes that it took.
    pub(super) fn merge(&mut self, scale: Scale, other: Distinct) -> usize {
        let before = self.bytes();
        match other {
            Distinct::Sketch(mut registers) => {
                match &*self {
                    Distinct::Sketch(ours) => {
                        registers.iter_mut().zip(ours).for_each(|(a, b)| *a = (*a).max(*b));
                    }
                    few => few.hashes(|hash| register(&mut registers, hash)),
                }
                *self = Distinct::Sketch(registers);
            }
            few => few.hashes(|hash| _ = self.add(scale, hash)),
        }
        self.bytes().saturating_sub(before)
    }

    /// All that are kept one by one.
    fn hashes(&self, mut each: impl FnMut(u64)) {
        match self {
            Distinct::Few { len, hashes } => hashes.iter().take((*len).into()).for_each(|hash| each(*hash)),
            Distinct::Exact(set) => set.iter().for_each(|hash| each(*hash)),
            Distinct::Sketch(_) => {}
        }
    }

    pub(super) fn count(&self) -> Different {
        match self {
            Distinct::Few { len, .. } => Different { count: u64::from(*len), error: 0.0 },
            Distinct::Exact(set) => Different { count: set.len() as u64, error: 0.0 },
            Distinct::Sketch(registers) => Different {
                count: estimate(registers).round() as u64,
                error: (1040.0 / (registers.len() as f64).sqrt()).round() / 1000.0,
            },
        }
    }
}

fn register(registers: &mut [u8], hash: u64) {
    let precision = registers.len().trailing_zeros();
    let rank = (hash << precision | 1 << (precision - 1)).leading_zeros() as u8 + 1;
    if let Some(register) = registers.get_mut((hash >> (64 - precision)) as usize) {
        *register = (*register).max(rank);
    }
}

/// Ertl 2017, "New cardinality estimation algorithms for HyperLogLog sketches", algorithm 6: without bias from few to
/// many, so that there is no seam where exact counting ends.
fn estimate(registers: &[u8]) -> f64 {
    let m = registers.len() as f64;
    let longest = 64 - registers.len().trailing_zeros() as usize;
    let mut counts = vec![0u32; longest + 2];
    for register in registers {
        counts[usize::from(*register).min(longest + 1)] += 1;
    }
    let mut z = m * tau(1.0 - f64::from(counts[longest + 1]) / m);
    for count in counts[1..=longest].iter().rev() {
        z = 0.5 * (z + f64::from(*count));
    }
    z += m * sigma(f64::from(counts[0]) / m);
    m * m / (2.0 * std::f64::consts::LN_2 * z)
}

fn sigma(mut x: f64) -> f64 {
    if x >= 1.0 {
        return f64::INFINITY;
    }
    let (mut y, mut z) = (1.0, x);
    loop {
        x *= x;
        let before = z;
        z += x * y;
        y += y;
        if z <= before {
            return z;
        }
    }
}

fn tau(mut x: f64) -> f64 {
    if x <= 0.0 || x >= 1.0 {
        return 0.0;
    }
    let (mut y, mut z) = (1.0, 1.0 - x);
    loop {
        x = x.sqrt();
        let before = z;
        y *= 0.5;
        z -= (1.0 - x).powi(2) * y;
        if z >= before {
            return z / 3.0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(range: std::ops::Range<u64>) -> Distinct {
        let mut distinct = Distinct::default();
        for n in range {
            distinct.add(OF_ROW, hash_of(&Value::Integer(n)));
            distinct.add(OF_ROW, hash_of(&Value::Integer(n)));
        }
        distinct
    }

    #[test]
    fn few_are_counted_and_many_estimated_within_the_error() {
        assert_eq!(of(0..1024).count(), Different { count: 1024, error: 0.0 });
        for many in [1025u64, 3_000, 10_240, 50_000, 400_000] {
            let found = of(0..many).count();
            let off = (found.count as f64 / many as f64 - 1.0).abs();
            assert!(off < 5.0 * found.error, "{many}: {found:?}");
            assert!((found.error - 0.016).abs() < 1e-9);
        }
    }

    #[test]
    fn the_order_and_the_parts_make_no_difference() {
        for (a, b) in
            [(0..5, 3..9), (0..700, 600..1400), (0..5000, 10..20), (10..20, 0..5000), (0..5000, 0..9000)]
        {
            let whole = of(a.start.min(b.start)..a.end.max(b.end)).count();
            let mut merged = of(a.clone());
            merged.merge(OF_ROW, of(b.clone()));
            assert_eq!(merged.count(), whole, "{a:?} {b:?}");
        }
    }
}
