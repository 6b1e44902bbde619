//! One frame as bytes: see the layout in `segments/mod.rs`.

use gnomon_clock::RawNs;
use gnomon_flow::{EpochHash, FlowId};

/// Length and checksum.
pub(super) const PREFIX_BYTES: usize = 8;
/// The prefix and all fields of fixed length.
pub(super) const FRAME_HEADER_BYTES: usize = 45;
/// A frame holds at most one gRPC message; more is damage.
pub(super) const FRAME_BYTES_MAX: usize = 16 << 20;
/// A block decompresses to at most this.
pub const BLOCK_BYTES_MAX: usize = 32 << 20;

/// A frame to be written.
#[derive(Clone, Copy, Debug)]
pub(in crate::store) struct Frame<'a> {
    pub(in crate::store) epoch: EpochHash,
    pub(in crate::store) first: RawNs,
    pub(in crate::store) last: RawNs,
    pub(in crate::store) packets: u32,
    pub(in crate::store) block_bytes: u32,
    pub(in crate::store) interface: &'a str,
    pub(in crate::store) flows: &'a [FlowId],
    pub(in crate::store) block: &'a [u8],
}

impl Frame<'_> {
    /// The frame's bytes, in place of what `buffer` holds.
    pub(super) fn encode(&self, buffer: &mut Vec<u8>) {
        let interface = &self.interface[..self.interface.floor_char_boundary(255)];
        buffer.clear();
        buffer.extend_from_slice(&[0; PREFIX_BYTES]);
        buffer.extend(self.epoch.0.to_le_bytes());
        buffer.extend(self.first.0.to_le_bytes());
        buffer.extend(self.last.0.to_le_bytes());
        buffer.extend(self.packets.to_le_bytes());
        buffer.extend(self.block_bytes.to_le_bytes());
        buffer.extend((self.flows.len() as u32).to_le_bytes());
        buffer.push(interface.len() as u8);
        self.flows.iter().for_each(|flow| buffer.extend(flow.0.to_le_bytes()));
        buffer.extend_from_slice(interface.as_bytes());
        buffer.extend_from_slice(self.block);
        let body_len = (buffer.len() - PREFIX_BYTES) as u32;
        let checksum = crc32c::crc32c(&buffer[PREFIX_BYTES..]);
        buffer[..4].copy_from_slice(&body_len.to_le_bytes());
        buffer[4..8].copy_from_slice(&checksum.to_le_bytes());
    }
}

/// The fields of fixed length, as they stand there: nothing is checked yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    /// Bytes of the whole frame.
    pub(super) len: usize,
    checksum: u32,
    pub(super) epoch: EpochHash,
    pub(super) first: RawNs,
    pub(super) last: RawNs,
    pub(super) packets: u32,
    block_bytes: u32,
    flows: u32,
    name_len: u8,
}

impl Head {
    pub(super) fn decode(bytes: &[u8; FRAME_HEADER_BYTES]) -> Head {
        let u64_at = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
        let u32_at = |at: usize| u32::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
        Head {
            len: (u32_at(0) as usize).saturating_add(PREFIX_BYTES),
            checksum: u32_at(4),
            epoch: EpochHash(u64_at(8)),
            first: RawNs(u64_at(16)),
            last: RawNs(u64_at(24)),
            packets: u32_at(32),
            block_bytes: u32_at(36),
            flows: u32_at(40),
            name_len: bytes[44],
        }
    }

    /// Whether a frame can look like this: cheap, for when the place of the next one has to be guessed.
    pub(super) fn is_plausible(&self) -> bool {
        let lists = (self.flows as usize).saturating_mul(8).saturating_add(usize::from(self.name_len));
        self.len <= FRAME_BYTES_MAX
            && lists.saturating_add(FRAME_HEADER_BYTES) <= self.len
            && self.block_bytes as usize <= BLOCK_BYTES_MAX
            && self.first <= self.last
    }
}

/// A frame whose checksum is right, in the bytes it was read into.
#[derive(Clone, Copy, Debug)]
pub(super) struct CheckedFrame<'a> {
    pub(super) head: Head,
    flows: &'a [u8],
    pub(super) interface: &'a [u8],
    pub(super) block: &'a [u8],
}

impl<'a> CheckedFrame<'a> {
    /// `bytes` are the frame and nothing else.
    pub(super) fn check(bytes: &'a [u8]) -> Result<CheckedFrame<'a>, String> {
        let (header, rest) = bytes.split_first_chunk().ok_or("its header is cut")?;
        let head = Head::decode(header);
        if head.len != bytes.len() {
            return Err(format!("it claims {} bytes, its index says {}", head.len, bytes.len()));
        }
        let found = crc32c::crc32c(&bytes[PREFIX_BYTES..]);
        if found != head.checksum {
            return Err(format!("its checksum is {found:08x}, it should be {:08x}", head.checksum));
        }
        let flows_len = (head.flows as usize).saturating_mul(8);
        let (flows, rest) = rest.split_at_checked(flows_len).ok_or("its list of flows is cut")?;
        let (interface, block) =
            rest.split_at_checked(usize::from(head.name_len)).ok_or("its name is cut")?;
        Ok(CheckedFrame { head, flows, interface, block })
    }

    pub(super) fn flows(&self) -> impl Iterator<Item = FlowId> + use<'a> {
        self.flows.chunks_exact(8).map(|id| FlowId(u64::from_le_bytes(std::array::from_fn(|i| id[i]))))
    }

    /// The block decompressed into `block`, in place of what it holds.
    pub(super) fn decompress(
        &self,
        decompressor: &mut zstd::bulk::Decompressor<'_>,
        block: &mut Vec<u8>,
    ) -> Result<(), String> {
        let block_bytes = self.head.block_bytes as usize;
        if block_bytes > BLOCK_BYTES_MAX {
            return Err(format!("its block claims {block_bytes} bytes, the limit is {BLOCK_BYTES_MAX}"));
        }
        block.clear();
        block.reserve(block_bytes);
        let found =
            decompressor.decompress_to_buffer(self.block, block).map_err(|e| format!("its block: {e}"))?;
        if found != block_bytes {
            return Err(format!("its block has {found} bytes, not {block_bytes}"));
        }
        Ok(())
    }
}
