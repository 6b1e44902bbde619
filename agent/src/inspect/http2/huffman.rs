//! HPACK's Huffman code (RFC 7541 Appendix B). It is canonical: the lengths of the codes say all.

const SYMBOLS: usize = 257;
/// The end-of-string symbol, of which padding is the beginning; it never comes whole.
const END: u16 = 256;
const BITS_MAX: usize = 30;

/// Bits of the code of each byte, and of the end.
const LENGTHS: [u8; SYMBOLS] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28, 28, 28,
    28, 28, 28, 28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5, 5, 6, 6, 6, 6, 6,
    6, 6, 7, 8, 15, 6, 12, 10, 13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7,
    8, 13, 19, 13, 14, 6, 15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7,
    15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24,
    23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, 22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23,
    23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23, 26, 26, 20, 19, 22, 23, 22, 25, 26,
    26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27, 20, 24, 20,
    21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27,
    27, 27, 26, 30,
];

struct Code {
    /// Symbols in the order of their codes.
    symbols: [u16; SYMBOLS],
    /// For each length the first code, and where its symbol stands.
    first: [(u32, u16); BITS_MAX + 1],
    counts: [u16; BITS_MAX + 1],
}

static CODE: Code = code();

const fn code() -> Code {
    let mut code = Code { symbols: [0; SYMBOLS], first: [(0, 0); BITS_MAX + 1], counts: [0; BITS_MAX + 1] };
    let mut next_code = 0u32;
    let mut next_symbol = 0;
    let mut bits = 1;
    while bits <= BITS_MAX {
        next_code <<= 1;
        code.first[bits] = (next_code, next_symbol as u16);
        let mut symbol = 0;
        while symbol < SYMBOLS {
            if LENGTHS[symbol] as usize == bits {
                code.symbols[next_symbol] = symbol as u16;
                code.counts[bits] += 1;
                next_symbol += 1;
                next_code += 1;
            }
            symbol += 1;
        }
        bits += 1;
    }
    code
}

/// The text that `bytes` stand for; None when they are no such code or the text is longer than `bytes_max`.
pub(super) fn decode(bytes: &[u8], bytes_max: usize) -> Option<Vec<u8>> {
    let mut text = Vec::with_capacity(bytes.len().saturating_mul(2).min(bytes_max));
    let (mut code, mut bits) = (0u32, 0usize);
    for byte in bytes {
        for shift in (0..8).rev() {
            code = code << 1 | u32::from(byte >> shift & 1);
            bits += 1;
            let (first, at) = *CODE.first.get(bits)?;
            let nth = code.wrapping_sub(first);
            if nth < u32::from(*CODE.counts.get(bits)?) {
                let symbol = *CODE.symbols.get(usize::from(at) + nth as usize)?;
                if symbol == END || text.len() == bytes_max {
                    return None;
                }
                text.push(symbol as u8);
                (code, bits) = (0, 0);
            }
        }
    }
    // Padding is less than a byte, of ones.
    (bits < 8 && code == (1 << bits) - 1).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_examples_of_rfc_7541_appendix_c() {
        let www = [0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff];
        assert_eq!(decode(&www, 100).unwrap(), b"www.example.com");
        assert_eq!(decode(&www, 14), None);
        assert_eq!(decode(&[0xa8, 0xeb, 0x10, 0x64, 0x9c, 0xbf], 100).unwrap(), b"no-cache");
        assert_eq!(decode(&[0x64, 0x02], 100).unwrap(), b"302");
        assert_eq!(decode(&[0xff, 0xff, 0xff, 0xff], 100), None);
        assert_eq!(decode(&[0x64, 0x02, 0x00], 100), None);
    }
}
