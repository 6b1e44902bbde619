//! TFTP: which file is read or written (RFC 1350 §5). Its data go between other ports.

use gnomon_flow::{Attributes, field};

use super::claim;
use super::reader::Reader;

const READ: u16 = 1;
const WRITE: u16 = 2;
const FILENAME_BYTES_MAX: usize = 512;

/// A request: a file's name, and one of three modes.
pub(super) fn datagram(bytes: &[u8], out: &mut Attributes) -> bool {
    let mut reader = Reader::new(bytes);
    let Some(opcode @ (READ | WRITE)) = reader.u16() else { return false };
    let (Some(name), Some(mode)) = (reader.until_nul(), reader.until_nul()) else { return false };
    let known = ["netascii", "octet", "mail"].iter().any(|known| mode.eq_ignore_ascii_case(known.as_bytes()));
    if !known || name.is_empty() || name.len() > FILENAME_BYTES_MAX {
        return false;
    }
    out.text(field::TFTP_OPCODE, if opcode == READ { "read" } else { "write" });
    claim(out, field::TFTP_FILENAME, name);
    true
}
