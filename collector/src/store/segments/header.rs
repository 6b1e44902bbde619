//! The first bytes of a segment file.

use super::chain::Chain;

const MAGIC: &[u8; 8] = b"GNSLICES";
const VERSION: u32 = 2;
/// Bytes of the header of version 1, which had no chain.
const BYTES_V1: usize = 16;
/// Bytes of the header of this version.
pub(in crate::store) const HEADER_BYTES: usize = 64;
const CHECKED_BYTES: usize = HEADER_BYTES - 4;

/// What a file says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) number: u32,
    /// The end of the chain of the file before; `None` in version 1.
    pub(super) before: Option<Chain>,
}

impl Header {
    pub(super) fn encode(number: u32, before: Chain) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        bytes[12..16].copy_from_slice(&number.to_le_bytes());
        bytes[16..48].copy_from_slice(&before.0);
        let checksum = crc32c::crc32c(&bytes[..CHECKED_BYTES]);
        bytes[CHECKED_BYTES..].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// `bytes` are the file's first, as many as it has up to [`HEADER_BYTES`].
    pub(super) fn decode(bytes: &[u8]) -> Result<Header, String> {
        let (short, _) = bytes.split_first_chunk::<BYTES_V1>().ok_or("it is cut inside its header")?;
        if short[..8] != *MAGIC {
            return Err("it does not begin as a segment file".to_owned());
        }
        let u32_at = |at: usize| u32::from_le_bytes(std::array::from_fn(|i| short[at + i]));
        let number = u32_at(12);
        match u32_at(8) {
            1 => Ok(Header { number, before: None }),
            VERSION => {
                let whole = bytes.first_chunk::<HEADER_BYTES>().ok_or("it is cut inside its header")?;
                let (checked, checksum) = whole.split_at(CHECKED_BYTES);
                if crc32c::crc32c(checked).to_le_bytes() != *checksum {
                    return Err("its header fails its checksum".to_owned());
                }
                let before = Chain(std::array::from_fn(|i| whole[16 + i]));
                Ok(Header { number, before: Some(before) })
            }
            newer => Err(format!("it is of version {newer}, this gnomon-collector knows {VERSION}")),
        }
    }

    /// Where the first frame begins.
    pub(super) fn len(self) -> u64 {
        if self.before.is_some() { HEADER_BYTES as u64 } else { BYTES_V1 as u64 }
    }
}
