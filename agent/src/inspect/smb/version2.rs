//! SMB 2 and 3 ([MS-SMB2] §2.2).

use gnomon_flow::{Attributes, field};

use super::token;
use crate::inspect::reader::{Reader, utf16_le};

const HEADER_BYTES: usize = 64;
const RESPONSE: u32 = 1;
/// Requests in one message.
const COMPOUND_MAX: usize = 8;

const NEGOTIATE: u16 = 0;
const SESSION_SETUP: u16 = 1;
const TREE_CONNECT: u16 = 3;
const CREATE: u16 = 5;

pub(super) fn message(message: &[u8], out: &mut Attributes) {
    let mut rest = message;
    for _ in 0..COMPOUND_MAX {
        let Some(next) = one(rest, out) else { return };
        rest = next;
    }
}

/// One command; returns what follows it in the same message.
fn one<'a>(message: &'a [u8], out: &mut Attributes) -> Option<&'a [u8]> {
    let mut header = Reader::new(message.get(..HEADER_BYTES)?);
    header.take(12)?;
    let command = header.u16_le()?;
    header.take(2)?;
    let is_response = header.u32_le()? & RESPONSE != 0;
    let next = header.u32_le()? as usize;
    let body = &message[HEADER_BYTES..];
    let word = |at: usize| -> Option<usize> {
        Some(usize::from(u16::from_le_bytes(*body.get(at..)?.first_chunk::<2>()?)))
    };
    // Offsets count from the header's first byte.
    let buffer = |offset_at: usize, length_at: usize| -> Option<&[u8]> {
        let (offset, length) = (word(offset_at)?, word(length_at)?);
        message.get(offset..offset + length)
    };
    match (command, is_response) {
        (NEGOTIATE, true) => {
            let dialect = word(4)?;
            // 0x02ff asks to negotiate once more.
            if dialect != 0x02ff {
                let text = format!("SMB {}.{}.{}", dialect >> 8 & 0xf, dialect >> 4 & 0xf, dialect & 0xf);
                out.text(field::SMB_DIALECT, &text);
            }
        }
        (SESSION_SETUP, false) => token(buffer(12, 14)?, out),
        (SESSION_SETUP, true) => token(buffer(4, 6)?, out),
        (TREE_CONNECT, false) => {
            out.text(field::SMB_SHARE, &utf16_le(buffer(4, 6)?));
        }
        (CREATE, false) => {
            let name = utf16_le(buffer(44, 46)?);
            if !name.is_empty() {
                out.text(field::SMB_FILENAME, &name);
            }
        }
        _ => {}
    }
    if next < HEADER_BYTES { None } else { message.get(next..) }
}
