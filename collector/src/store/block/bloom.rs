//! A split-block Bloom filter (Putze, Sanders, Singler 2007) over what is in a block: one look at one 32-byte line tells
//! that a value is certainly absent.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::LazyLock;

use gnomon_flow::id::fnv1a;

const LINE_WORDS: usize = 8;
const LINE_BYTES: usize = 32;
/// Bits a value: one look in a hundred finds what is not there.
const BITS_EACH: usize = 10;
const SALTS: [u32; LINE_WORDS] =
    [0x47b6_137b, 0x4497_4d91, 0x8824_ad5b, 0xa2b7_289d, 0x7054_95c7, 0x2df1_424b, 0x9efc_4947, 0x5c6b_fb31];

/// A value as the filter knows it. **Frozen**: FNV-1a over the kind and the bytes, then a finaliser that mixes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Token(u64);

impl Token {
    /// `kind` keeps equal bytes of different fields apart.
    pub(crate) fn new(kind: u16, bytes: &[u8]) -> Token {
        let all = kind.to_le_bytes().into_iter().chain(bytes.iter().copied());
        Token(mix(fnv1a(all)))
    }
}

fn mix(mut hash: u64) -> u64 {
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Bloom {
    bytes: Vec<u8>,
}

impl Bloom {
    pub(crate) fn of(mut tokens: Vec<Token>) -> Bloom {
        tokens.sort_unstable();
        tokens.dedup();
        let lines = (tokens.len() * BITS_EACH).div_ceil(LINE_BYTES * 8).max(1);
        let mut bytes = vec![0; lines * LINE_BYTES];
        for token in tokens {
            let line = &mut bytes[line_of(token, lines) * LINE_BYTES..][..LINE_BYTES];
            for (word, salt) in line.chunks_exact_mut(4).zip(SALTS) {
                let bit = (token.0 as u32).wrapping_mul(salt) >> 27;
                word[bit as usize / 8] |= 1 << (bit % 8);
            }
        }
        Bloom { bytes }
    }

    /// From [`Bloom::as_bytes`]. A damaged one may only make searches look where nothing is, never miss: what is no
    /// whole number of lines says yes to everything.
    pub(crate) fn from_bytes(bytes: Vec<u8>) -> Bloom {
        if bytes.len().is_multiple_of(LINE_BYTES) { Bloom { bytes } } else { Bloom::default() }
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(crate) fn may_have(&self, token: Token) -> bool {
        let lines = self.bytes.len() / LINE_BYTES;
        if lines == 0 {
            return true;
        }
        let line = &self.bytes[line_of(token, lines) * LINE_BYTES..][..LINE_BYTES];
        line.chunks_exact(4).zip(SALTS).all(|(word, salt)| {
            let bit = (token.0 as u32).wrapping_mul(salt) >> 27;
            word[bit as usize / 8] & (1 << (bit % 8)) != 0
        })
    }
}

fn line_of(token: Token, lines: usize) -> usize {
    (((token.0 >> 32) * lines as u64) >> 32) as usize
}

/// A quick hash for tables that live as long as a block is built or a query runs. Seeded anew in each process, because
/// the keys come from packets.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mix(u64);

#[derive(Clone, Copy, Debug)]
pub(crate) struct Mixing(u64);

impl Default for Mixing {
    fn default() -> Mixing {
        static SEED: LazyLock<u64> = LazyLock::new(|| RandomState::new().hash_one(0u64));
        Mixing(*SEED)
    }
}

impl BuildHasher for Mixing {
    type Hasher = Mix;

    fn build_hasher(&self) -> Mix {
        Mix(self.0)
    }
}

impl Hasher for Mix {
    fn finish(&self) -> u64 {
        mix(self.0)
    }

    fn write(&mut self, bytes: &[u8]) {
        let mut words = bytes.chunks_exact(8);
        for word in &mut words {
            self.write_u64(u64::from_le_bytes(std::array::from_fn(|i| word[i])));
        }
        let rest = words.remainder();
        if !rest.is_empty() {
            let mut word = [0; 8];
            word[..rest.len()].copy_from_slice(rest);
            self.write_u64(u64::from_le_bytes(word) ^ (rest.len() as u64) << 56);
        }
    }

    fn write_u64(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(5) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn write_u128(&mut self, word: u128) {
        self.write_u64(word as u64);
        self.write_u64((word >> 64) as u64);
    }

    fn write_u32(&mut self, word: u32) {
        self.write_u64(u64::from(word));
    }

    fn write_usize(&mut self, word: usize) {
        self.write_u64(word as u64);
    }

    fn write_u8(&mut self, byte: u8) {
        self.write_u64(u64::from(byte));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_is_found_and_little_else() {
        let token = |n: u32| Token::new(20, &n.to_be_bytes());
        let bloom = Bloom::of((0..10_000).map(token).collect());
        assert!((0..10_000).all(|n| bloom.may_have(token(n))));
        let wrong = (10_000..110_000).filter(|n| bloom.may_have(token(*n))).count();
        assert!(wrong < 3_000, "{wrong} of 100000");
        assert_eq!(Bloom::from_bytes(bloom.as_bytes().to_vec()), bloom);
        assert!(Bloom::from_bytes(vec![0; 33]).may_have(token(1)));
    }

    #[test]
    fn tokens_are_frozen() {
        assert_eq!(Token::new(20, &[10, 0, 0, 1]), Token(81_812_126_547_819_634));
    }
}
