//! Changes to good input, in an order that depends on the seed alone.

/// Numbers at which lengths, counts and flags change their meaning.
const EDGES: [u32; 14] =
    [0, 1, 2, 4, 7, 8, 0x7f, 0x80, 0xff, 0x100, 0x7fff, 0xffff, 0x7fff_ffff, 0xffff_ffff];
const INPUT_BYTES_MAX: usize = 1 << 16;

pub(crate) struct Mutator {
    state: u64,
}

impl Mutator {
    pub(crate) fn new(seed: u64) -> Mutator {
        Mutator { state: seed }
    }

    /// SplitMix64 (Steele, Lea and Flood 2014).
    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.state;
        word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ word >> 31
    }

    /// 0 for an empty range.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        if end == 0 { 0 } else { (self.next() % end as u64) as usize }
    }

    /// One of the inputs with one to eight changes.
    pub(crate) fn mutated(&mut self, inputs: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = inputs[self.below(inputs.len())].clone();
        for _ in 0..=self.below(8) {
            self.change(&mut bytes, inputs);
        }
        bytes.truncate(INPUT_BYTES_MAX);
        bytes
    }

    fn change(&mut self, bytes: &mut Vec<u8>, inputs: &[Vec<u8>]) {
        let at = self.below(bytes.len());
        let some = 1 + self.below(16);
        let end = (at + some).min(bytes.len());
        let value = EDGES[self.below(EDGES.len())].to_be_bytes();
        match self.below(10) {
            0 if !bytes.is_empty() => bytes[at] ^= 1 << self.below(8),
            1 if !bytes.is_empty() => bytes[at] = self.next() as u8,
            2 if end > at => put(bytes, at, &value[3..]),
            3 if end > at => put(bytes, at, &value[2..]),
            4 if end > at => put(bytes, at, &value),
            5 => drop(bytes.drain(at..end)),
            6 => {
                let copy = bytes[at..end].to_vec();
                let to = self.below(bytes.len());
                bytes.splice(to..to, copy);
            }
            7 => {
                let noise: Vec<u8> = (0..some).map(|_| self.next() as u8).collect();
                bytes.splice(at..at, noise);
            }
            8 => bytes.truncate(at),
            _ => {
                let other = &inputs[self.below(inputs.len())];
                let from = self.below(other.len());
                let to = from + self.below(other.len() - from + 1);
                bytes.splice(at..end, other[from..to].iter().copied());
            }
        }
    }
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    for (byte, value) in bytes[at..].iter_mut().zip(value) {
        *byte = *value;
    }
}
