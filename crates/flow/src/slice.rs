//! A slice block: packets of one worker in order of time, as the agent spools them, the wire carries them and the
//! collector keeps them.
//!
//! Constraints: fixed layout, little endian, no allocation to append, readable from any hostile bytes without a panic.
//! Before compression a block is a run of packets, each
//!
//! ```text
//! offset size
//!      0    8  raw            RawNs of the packet
//!      8    8  flow           FlowId
//!     16    4  original_len   bytes on the wire
//!     20    4  captured_len   bytes that follow this header
//!     24    4  err_ns         the stamp is within ± this
//!     28    2  linktype       tcpdump LINKTYPE of the bytes
//!     30    2  flags          bit 0: sent by the responder; bit 1: sent by the capturing host
//!     32    …  bytes
//! ```
//!
//! The block as a whole is one zstd frame; checksums belong to whoever stores or sends it. A reader stops at the first
//! packet that does not fit and says so; everything before it is good.

use gnomon_clock::RawNs;

use crate::id::FlowId;

/// Bytes of a packet's header inside a block.
pub const PACKET_HEADER_BYTES: usize = 32;

const FLAG_FROM_RESPONDER: u16 = 1;
const FLAG_OUTGOING: u16 = 2;

/// One packet of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlicedPacket<'a> {
    pub raw: RawNs,
    pub err_ns: u32,
    pub flow: FlowId,
    pub original_len: u32,
    pub linktype: u16,
    pub from_responder: bool,
    pub outgoing: bool,
    pub data: &'a [u8],
}

impl SlicedPacket<'_> {
    /// Append the packet to `block`. Does not allocate when the capacity suffices: see [`PACKET_HEADER_BYTES`].
    pub fn append_to(&self, block: &mut Vec<u8>) {
        self.append_spliced_to(self.data.len(), &[], block);
    }

    /// Append the packet with `inserted` put before byte `at` of its data (a VLAN tag that the hardware took out).
    pub fn append_spliced_to(&self, at: usize, inserted: &[u8], block: &mut Vec<u8>) {
        let mut header = [0u8; PACKET_HEADER_BYTES];
        header[0..8].copy_from_slice(&self.raw.0.to_le_bytes());
        header[8..16].copy_from_slice(&self.flow.0.to_le_bytes());
        header[16..20].copy_from_slice(&self.original_len.to_le_bytes());
        // No frame comes near 4 GiB: sources hand over 256 KiB at most.
        let captured_len = u32::try_from(self.data.len() + inserted.len()).unwrap_or(u32::MAX);
        header[20..24].copy_from_slice(&captured_len.to_le_bytes());
        header[24..28].copy_from_slice(&self.err_ns.to_le_bytes());
        header[28..30].copy_from_slice(&self.linktype.to_le_bytes());
        let flags =
            u16::from(self.from_responder) * FLAG_FROM_RESPONDER + u16::from(self.outgoing) * FLAG_OUTGOING;
        header[30..32].copy_from_slice(&flags.to_le_bytes());
        block.reserve(PACKET_HEADER_BYTES + self.data.len() + inserted.len());
        block.extend_from_slice(&header);
        if inserted.is_empty() {
            block.extend_from_slice(self.data);
            return;
        }
        let (before, after) = self.data.split_at(at.min(self.data.len()));
        block.extend_from_slice(before);
        block.extend_from_slice(inserted);
        block.extend_from_slice(after);
    }
}

/// The block ends inside a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "slice block is damaged at byte {offset}: a packet of {wanted} bytes does not fit in the {left} left"
)]
pub struct DamagedBlock {
    pub offset: usize,
    pub wanted: usize,
    pub left: usize,
}

/// The packets of an uncompressed block. After an error the iterator ends.
pub fn packets(block: &[u8]) -> impl Iterator<Item = Result<SlicedPacket<'_>, DamagedBlock>> {
    let mut offset = 0;
    std::iter::from_fn(move || {
        let rest = block.get(offset..).filter(|rest| !rest.is_empty())?;
        match read_packet(rest) {
            Ok(packet) => {
                offset += PACKET_HEADER_BYTES + packet.data.len();
                Some(Ok(packet))
            }
            Err(wanted) => {
                let damage = DamagedBlock { offset, wanted, left: rest.len() };
                offset = block.len();
                Some(Err(damage))
            }
        }
    })
}

fn read_packet(rest: &[u8]) -> Result<SlicedPacket<'_>, usize> {
    let (header, body) = rest.split_first_chunk::<PACKET_HEADER_BYTES>().ok_or(PACKET_HEADER_BYTES)?;
    let u64_at = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| header[at + i]));
    let u32_at = |at: usize| u32::from_le_bytes(std::array::from_fn(|i| header[at + i]));
    let u16_at = |at: usize| u16::from_le_bytes(std::array::from_fn(|i| header[at + i]));
    let captured_len = u32_at(20) as usize;
    let data = body.get(..captured_len).ok_or(PACKET_HEADER_BYTES.saturating_add(captured_len))?;
    let flags = u16_at(30);
    Ok(SlicedPacket {
        raw: RawNs(u64_at(0)),
        err_ns: u32_at(24),
        flow: FlowId(u64_at(8)),
        original_len: u32_at(16),
        linktype: u16_at(28),
        from_responder: flags & FLAG_FROM_RESPONDER != 0,
        outgoing: flags & FLAG_OUTGOING != 0,
        data,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(data: &[u8]) -> SlicedPacket<'_> {
        SlicedPacket {
            raw: RawNs(7),
            err_ns: 50_000,
            flow: FlowId::new(1, 2),
            original_len: 1514,
            linktype: 1,
            from_responder: true,
            outgoing: false,
            data,
        }
    }

    #[test]
    fn packets_come_out_as_they_went_in() {
        let mut block = Vec::new();
        sample(b"abc").append_to(&mut block);
        sample(b"").append_to(&mut block);
        let read: Result<Vec<_>, _> = packets(&block).collect();
        assert_eq!(read, Ok(vec![sample(b"abc"), sample(b"")]));
    }

    #[test]
    fn what_was_taken_out_is_put_back_in_its_place() {
        let mut block = Vec::new();
        sample(b"abef").append_spliced_to(2, b"cd", &mut block);
        let read: Result<Vec<_>, _> = packets(&block).collect();
        assert_eq!(read, Ok(vec![sample(b"abcdef")]));
    }

    #[test]
    fn a_cut_block_gives_its_whole_packets_and_then_says_where_it_was_cut() {
        let mut block = Vec::new();
        sample(b"abc").append_to(&mut block);
        let whole = block.len();
        sample(b"defg").append_to(&mut block);
        for end in whole + 1..block.len() {
            let read: Vec<_> = packets(&block[..end]).collect();
            assert_eq!(read.len(), 2);
            assert_eq!(read[0], Ok(sample(b"abc")));
            assert_eq!(read[1].map_err(|e| e.offset), Err(whole));
        }
    }
}
