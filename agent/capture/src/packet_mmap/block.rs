//! A TPACKET_V3 block over plain bytes: its header, and one frame header after the other.
//!
//! Layouts: linux/if_packet.h. Every offset is checked against the block: the kernel is trusted with the network, not
//! with our memory.

use crate::frame::VlanTag;

/// Bytes before the first frame header: `struct tpacket_block_desc`.
pub(super) const BLOCK_HEADER: usize = 48;
/// Byte offset of `block_status` in the header.
pub(super) const STATUS_AT: usize = 8;
/// Byte offset of the number of frames. The kernel counts a frame when it reserves its place, before it writes it.
pub(super) const NUM_PKTS_AT: usize = 12;
const FIRST_AT: usize = 16;

/// `struct tpacket3_hdr`, then `struct sockaddr_ll`.
const FRAME_HEADER: usize = 48;
const LINK_ADDRESS: usize = 20;
const PKTTYPE_AT: usize = FRAME_HEADER + 10;

const VLAN_TPID_DEFAULT: u16 = 0x8100;

/// A frame of a block, its stamp still as the kernel wrote it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RawFrame<'a> {
    pub(super) data: &'a [u8],
    pub(super) original_len: u32,
    /// By the kernel, CLOCK_REALTIME in POSIX nanoseconds, or by the NIC in time of its own; 0: no stamp.
    pub(super) stamp_ns: i64,
    pub(super) stamped_by_nic: bool,
    pub(super) vlan: Option<VlanTag>,
    pub(super) outgoing: bool,
}

/// Where reading stands inside a block, kept across calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Cursor {
    offset: usize,
    /// Frames handed out.
    taken: u32,
    /// Frames that may be read from here on.
    left: u32,
}

/// The header or a frame points outside the block; the frames that were left cannot be found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Broken {
    pub(super) frames_lost: u32,
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

impl Cursor {
    /// Starts reading a block the kernel has released, or the first `frames` of one that it still fills.
    pub(super) fn open(block: &[u8], frames: Option<u32>) -> Result<Cursor, Broken> {
        let counted = frames.or_else(|| u32_at(block, NUM_PKTS_AT));
        let left = counted.ok_or(Broken { frames_lost: 0 })?;
        let offset = u32_at(block, FIRST_AT).ok_or(Broken { frames_lost: 0 })? as usize;
        if left > 0 && !(BLOCK_HEADER..block.len()).contains(&offset) {
            // A count that cannot be is not worth more than the frames that could be.
            let possible = u32::try_from(block.len() / FRAME_HEADER).unwrap_or(u32::MAX);
            return Err(Broken { frames_lost: left.min(possible) });
        }
        Ok(Cursor { offset, taken: 0, left })
    }

    /// Goes on in the same block, of which `frames` may be read by now: all, when it was released.
    pub(super) fn go_on(mut self, block: &[u8], frames: Option<u32>) -> Cursor {
        let counted = frames.or_else(|| u32_at(block, NUM_PKTS_AT)).unwrap_or(0);
        self.left = counted.saturating_sub(self.taken);
        self
    }

    /// Frames of this block that were handed out, or lost.
    pub(super) fn taken(&self) -> u32 {
        self.taken
    }

    /// What is left cannot be found, nor what will follow it.
    fn give_up(&mut self) -> Broken {
        let broken = Broken { frames_lost: self.left };
        self.taken = self.taken.saturating_add(self.left);
        self.left = 0;
        self.offset = usize::MAX;
        broken
    }

    /// The next frame, or None at the end of the block.
    #[inline]
    pub(super) fn next<'a>(&mut self, block: &'a [u8]) -> Result<Option<RawFrame<'a>>, Broken> {
        if self.left == 0 {
            return Ok(None);
        }
        let Some(rest) = block.get(self.offset..) else { return Err(self.give_up()) };
        let Some((header, _)) = rest.split_first_chunk::<{ FRAME_HEADER + LINK_ADDRESS }>() else {
            return Err(self.give_up());
        };
        let header: &[u8] = header;
        // Inside a fixed-size header every read succeeds; the fallback is never taken.
        let word = |at| u32_at(header, at).unwrap_or(0);
        let half = |at| u16_at(header, at).unwrap_or(0);
        let next = word(0) as usize;
        let (seconds, nanos) = (word(4), word(8));
        let (captured, original) = (word(12) as usize, word(16));
        let status = word(20);
        let mac = usize::from(half(24));
        let Some(data) = mac.checked_add(captured).and_then(|end| rest.get(mac..end)) else {
            return Err(self.give_up());
        };
        self.left -= 1;
        self.taken += 1;
        // The last frame of a released block points at nothing. Elsewhere that is an error: this frame is whole, and only those
        // after it are lost.
        self.offset = if next < FRAME_HEADER { usize::MAX } else { self.offset.saturating_add(next) };
        let vlan = (status & libc::TP_STATUS_VLAN_VALID != 0).then(|| VlanTag {
            tpid: if status & libc::TP_STATUS_VLAN_TPID_VALID != 0 { half(36) } else { VLAN_TPID_DEFAULT },
            // The kernel widened the 16-bit TCI to a u32.
            tci: (word(32) & 0xffff) as u16,
        });
        Ok(Some(RawFrame {
            data,
            original_len: original.max(u32::try_from(captured).unwrap_or(u32::MAX)),
            stamp_ns: i64::from(seconds) * 1_000_000_000 + i64::from(nanos),
            stamped_by_nic: status & libc::TP_STATUS_TS_RAW_HARDWARE != 0,
            vlan,
            outgoing: header[PKTTYPE_AT] == libc::PACKET_OUTGOING,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A block as the kernel lays it out, with frames of the given payloads.
    fn block(payloads: &[&[u8]]) -> Vec<u8> {
        let mut bytes = vec![0_u8; BLOCK_HEADER];
        bytes[NUM_PKTS_AT..NUM_PKTS_AT + 4].copy_from_slice(&(payloads.len() as u32).to_ne_bytes());
        bytes[FIRST_AT..FIRST_AT + 4].copy_from_slice(&(BLOCK_HEADER as u32).to_ne_bytes());
        for payload in payloads {
            let mac = 80_u16;
            let size = (usize::from(mac) + payload.len()).next_multiple_of(16);
            let mut frame = vec![0_u8; size];
            frame[0..4].copy_from_slice(&(size as u32).to_ne_bytes());
            frame[4..8].copy_from_slice(&7_u32.to_ne_bytes());
            frame[8..12].copy_from_slice(&9_u32.to_ne_bytes());
            frame[12..16].copy_from_slice(&(payload.len() as u32).to_ne_bytes());
            frame[16..20].copy_from_slice(&(payload.len() as u32 + 5).to_ne_bytes());
            frame[20..24].copy_from_slice(&(1_u32 | libc::TP_STATUS_VLAN_VALID).to_ne_bytes());
            frame[24..26].copy_from_slice(&mac.to_ne_bytes());
            frame[32..36].copy_from_slice(&100_u32.to_ne_bytes());
            frame[PKTTYPE_AT] = libc::PACKET_OUTGOING;
            frame[80..80 + payload.len()].copy_from_slice(payload);
            bytes.extend(frame);
        }
        bytes
    }

    #[test]
    fn frames_come_out_as_they_went_in() {
        let bytes = block(&[b"first", b"", b"third frame"]);
        let mut cursor = Cursor::open(&bytes, None).unwrap();
        for expected in [&b"first"[..], b"", b"third frame"] {
            let frame = cursor.next(&bytes).unwrap().unwrap();
            assert_eq!(frame.data, expected);
            assert_eq!(frame.original_len as usize, expected.len() + 5);
            assert_eq!(frame.stamp_ns, 7_000_000_009);
            assert_eq!(frame.vlan, Some(VlanTag { tpid: 0x8100, tci: 100 }));
            assert!(frame.outgoing);
        }
        assert_eq!(cursor.next(&bytes), Ok(None));
    }

    #[test]
    fn a_block_that_is_still_filled_is_read_on_where_reading_stopped() {
        let bytes = block(&[b"first", b"second", b"third frame"]);
        let mut cursor = Cursor::open(&bytes, Some(1)).unwrap();
        assert_eq!(cursor.next(&bytes).unwrap().unwrap().data, b"first");
        assert_eq!((cursor.next(&bytes), cursor.taken()), (Ok(None), 1));
        cursor = cursor.go_on(&bytes, Some(2));
        assert_eq!(cursor.next(&bytes).unwrap().unwrap().data, b"second");
        assert_eq!(cursor.next(&bytes), Ok(None));
        cursor = cursor.go_on(&bytes, None);
        assert_eq!(cursor.next(&bytes).unwrap().unwrap().data, b"third frame");
        assert_eq!((cursor.next(&bytes), cursor.taken()), (Ok(None), 3));
        // Frames that follow a broken one are lost once, and none is lost twice.
        let mut damaged = bytes;
        damaged[BLOCK_HEADER..BLOCK_HEADER + 4].copy_from_slice(&0_u32.to_ne_bytes());
        let mut cursor = Cursor::open(&damaged, Some(1)).unwrap();
        assert!(cursor.next(&damaged).unwrap().is_some());
        cursor = cursor.go_on(&damaged, None);
        assert_eq!(cursor.next(&damaged), Err(Broken { frames_lost: 2 }));
        cursor = cursor.go_on(&damaged, None);
        assert_eq!(cursor.next(&damaged), Ok(None));
    }

    #[test]
    fn a_frame_outside_its_block_is_counted_not_read() {
        let mut bytes = block(&[b"first", b"second"]);
        bytes[BLOCK_HEADER + 12..BLOCK_HEADER + 16].copy_from_slice(&u32::MAX.to_ne_bytes());
        let mut cursor = Cursor::open(&bytes, None).unwrap();
        assert_eq!(cursor.next(&bytes), Err(Broken { frames_lost: 2 }));

        let mut bytes = block(&[b"first", b"second"]);
        bytes[BLOCK_HEADER..BLOCK_HEADER + 4].copy_from_slice(&u32::MAX.to_ne_bytes());
        let mut cursor = Cursor::open(&bytes, None).unwrap();
        assert_eq!(cursor.next(&bytes).unwrap().unwrap().data, b"first");
        assert_eq!(cursor.next(&bytes), Err(Broken { frames_lost: 1 }));

        // A frame that points at itself must not be read for ever.
        let mut bytes = block(&[b"first", b"second"]);
        bytes[BLOCK_HEADER..BLOCK_HEADER + 4].copy_from_slice(&0_u32.to_ne_bytes());
        let mut cursor = Cursor::open(&bytes, None).unwrap();
        assert!(cursor.next(&bytes).unwrap().is_some());
        assert_eq!(cursor.next(&bytes), Err(Broken { frames_lost: 1 }));
    }

    #[test]
    fn no_cut_and_no_flipped_byte_panics() {
        let bytes = block(&[b"first", b"second"]);
        for cut in 0..bytes.len() {
            read_all(&bytes[..cut]);
        }
        for at in 0..bytes.len() {
            for value in [0, 1, 0x7f, 0xff] {
                let mut damaged = bytes.clone();
                damaged[at] = value;
                read_all(&damaged);
            }
        }
    }

    fn read_all(bytes: &[u8]) {
        if let Ok(mut cursor) = Cursor::open(bytes, None) {
            for _ in 0..1000 {
                match cursor.next(bytes) {
                    Ok(Some(_)) => {}
                    Ok(None) | Err(_) => return,
                }
            }
        }
    }
}
