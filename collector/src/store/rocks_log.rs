//! The framing that RocksDB's write-ahead log and its MANIFEST have in common, read and written without RocksDB.
//!
//! RocksDB stops at the first record it cannot read and says nothing of what is behind it. Here a file is read to its end,
//! so that damage in its middle can be told from a write that was cut short at its end.
//!
//! ```text
//! file:   blocks of 32 KiB, each of fragments; less than 7 bytes at the end of a block are padding
//! offset size
//!      0    4  masked CRC-32C of what follows the length
//!      4    2  length, little endian
//!      6    1  1 whole record, 2 first, 3 middle, 4 last fragment of one
//!      7    …  bytes
//! ```
//! The source of the format is RocksDB's `db/log_format.h`. Records of the recycled-log kinds are not made by gnomon's options.

use std::borrow::Cow;
use std::ops::Range;

const BLOCK_BYTES: usize = 32 << 10;
const HEADER_BYTES: usize = 7;
const WHOLE: u8 = 1;
const FIRST: u8 = 2;
const MIDDLE: u8 = 3;
const LAST: u8 = 4;

/// What is found in a file, in its order.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Piece<'a> {
    /// Ends at `end` in the file.
    Record { bytes: Cow<'a, [u8]>, end: usize },
    /// Bytes that are no good record.
    Bad(Range<usize>),
}

/// The fragment at `at`: its kind, its bytes and where it ends.
fn fragment(bytes: &[u8], at: usize) -> Option<(u8, &[u8], usize)> {
    let left = BLOCK_BYTES - at % BLOCK_BYTES;
    let header = bytes.get(at..at.checked_add(HEADER_BYTES)?)?;
    let len = usize::from(u16::from_le_bytes([header[4], header[5]]));
    let kind = header[6];
    if HEADER_BYTES + len > left || !(WHOLE..=LAST).contains(&kind) {
        return None;
    }
    let end = at + HEADER_BYTES + len;
    let checked = bytes.get(at + HEADER_BYTES - 1..end)?;
    let crc = u32::from_le_bytes([header[0], header[1], header[2], header[3]]);
    (masked(crc32c::crc32c(checked)) == crc).then(|| (kind, &checked[1..], end))
}

fn masked(crc: u32) -> u32 {
    crc.rotate_right(15).wrapping_add(0xa282_ead8)
}

/// Where the next fragment can begin behind a bad one at `at`. Its length is believed only where another good fragment or
/// the block's end is there: what an agent sent could look like a fragment.
fn behind_bad(bytes: &[u8], at: usize) -> usize {
    let block_end = (at / BLOCK_BYTES + 1) * BLOCK_BYTES;
    let told = bytes.get(at + 4..at + 6).map(|len| usize::from(u16::from_le_bytes([len[0], len[1]])));
    let next = told.map(|len| at + HEADER_BYTES + len).filter(|next| *next < block_end);
    match next {
        Some(next) if fragment(bytes, next).is_some() => next,
        _ => block_end,
    }
}

/// Reads a whole file. A stretch of zeros at its end is room that was set apart and is left out.
pub(super) fn read(bytes: &[u8]) -> Vec<Piece<'_>> {
    let written = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    let mut pieces = Vec::new();
    let mut at = 0;
    // Of the record that is being put together: where it begins, and its bytes.
    let mut open: Option<(usize, Vec<u8>)> = None;
    let bad = |pieces: &mut Vec<Piece<'_>>, range: Range<usize>| match pieces.last_mut() {
        Some(Piece::Bad(last)) if last.end == range.start => last.end = range.end,
        _ => pieces.push(Piece::Bad(range)),
    };
    while at < written {
        let left = BLOCK_BYTES - at % BLOCK_BYTES;
        if left < HEADER_BYTES {
            at += left;
            continue;
        }
        // The last fragment may end with zeros of its own.
        let Some((kind, content, end)) = fragment(bytes, at) else {
            let end = behind_bad(bytes, at).min(bytes.len());
            let from = open.take().map_or(at, |(from, _)| from);
            bad(&mut pieces, from..end);
            at = end;
            continue;
        };
        match kind {
            WHOLE | FIRST => {
                if let Some((from, _)) = open.take() {
                    bad(&mut pieces, from..at);
                }
                if kind == WHOLE {
                    pieces.push(Piece::Record { bytes: Cow::Borrowed(content), end });
                } else {
                    open = Some((at, content.to_vec()));
                }
            }
            _ => match &mut open {
                Some((_, whole)) => {
                    whole.extend_from_slice(content);
                    if kind == LAST {
                        let whole = open.take().map(|(_, whole)| whole).unwrap_or_default();
                        pieces.push(Piece::Record { bytes: Cow::Owned(whole), end });
                    }
                }
                // Its beginning was bad.
                None => bad(&mut pieces, at..end),
            },
        }
        at = end;
    }
    if let Some((from, _)) = open {
        bad(&mut pieces, from..at);
    }
    pieces
}

/// The bytes that add `record` to a file of `len` bytes.
pub(super) fn append(len: usize, record: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let (mut rest, mut first) = (record, true);
    loop {
        let left = BLOCK_BYTES - (len + out.len()) % BLOCK_BYTES;
        if left < HEADER_BYTES {
            out.resize(out.len() + left, 0);
            continue;
        }
        let (now, later) = rest.split_at(rest.len().min(left - HEADER_BYTES));
        let kind = match (first, later.is_empty()) {
            (true, true) => WHOLE,
            (true, false) => FIRST,
            (false, false) => MIDDLE,
            (false, true) => LAST,
        };
        let crc = masked(crc32c::crc32c_append(crc32c::crc32c(&[kind]), now));
        out.extend(crc.to_le_bytes());
        out.extend((now.len() as u16).to_le_bytes());
        out.push(kind);
        out.extend_from_slice(now);
        if later.is_empty() {
            return out;
        }
        (rest, first) = (later, false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records(bytes: &[u8]) -> (Vec<Vec<u8>>, usize) {
        let pieces = read(bytes);
        let bad = pieces.iter().filter(|piece| matches!(piece, Piece::Bad(_))).count();
        let good = pieces.into_iter().filter_map(|piece| match piece {
            Piece::Record { bytes, .. } => Some(bytes.into_owned()),
            Piece::Bad(_) => None,
        });
        (good.collect(), bad)
    }

    fn file() -> (Vec<u8>, Vec<Vec<u8>>) {
        // Short ones, one over several blocks, and some that meet the padding at a block's end.
        let lens = [5, 0, 100, 90_000, 7, 32_000, 40, 700, 31_000, 1];
        let written: Vec<Vec<u8>> = lens.iter().enumerate().map(|(n, len)| vec![n as u8 + 1; *len]).collect();
        let mut bytes = Vec::new();
        for record in &written {
            bytes.extend(append(bytes.len(), record));
        }
        (bytes, written)
    }

    #[test]
    fn what_was_written_is_read_and_zeros_behind_it_mean_nothing() {
        let (mut bytes, written) = file();
        assert_eq!(records(&bytes), (written.clone(), 0));
        bytes.resize(bytes.len() + 100_000, 0);
        assert_eq!(records(&bytes), (written, 0));
        assert_eq!(read(&[]), []);
    }

    #[test]
    fn a_flipped_bit_costs_what_lies_in_its_block_at_most_and_a_cut_what_is_behind() {
        let (bytes, written) = file();
        for at in (0..bytes.len()).step_by(53) {
            let mut damaged = bytes.clone();
            damaged[at] ^= 4;
            let (good, bad) = records(&damaged);
            assert!(good.len() < written.len() || bad == 0, "byte {at}");
            assert!(good.iter().all(|record| written.contains(record)), "byte {at}");
            // A flip in a block's padding is none.
            assert!(good.len() == written.len() || bad > 0, "byte {at}");
            assert!(good.len() + 6 > written.len(), "byte {at}: {} left", good.len());
            let (good, _) = records(&bytes[..at]);
            assert_eq!(good[..], written[..good.len()], "cut at {at}");
        }
    }

    #[test]
    fn a_record_inside_a_record_is_not_believed() {
        let inner = append(HEADER_BYTES, &[7; 50]);
        let mut bytes = append(0, &inner);
        bytes.extend(append(bytes.len(), &[8; 10]));
        bytes[0] ^= 1;
        assert_eq!(records(&bytes), (vec![vec![8; 10]], 1));
        // Its length leads nowhere.
        bytes[4] ^= 1;
        assert_eq!(records(&bytes).0, Vec::<Vec<u8>>::new());
    }
}
