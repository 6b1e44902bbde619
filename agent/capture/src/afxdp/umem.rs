//! The memory frames are received into: equal chunks, each either ours, in the fill ring, or in the kernel's hands.
#![allow(unsafe_code)]

use std::io;

use rustix::net::xdp::XdpDesc;

use crate::mapping::Mapping;

/// Bytes the kernel keeps free before the frame in each chunk (XDP_PACKET_HEADROOM).
const KERNEL_HEADROOM: u32 = 256;

/// Ethernet header, two VLAN tags; the FCS is not delivered.
const LINK_BYTES: u32 = 14 + 8;

/// `struct mark` of the XDP program, which ends where the frame begins: magic and the NIC's stamp.
const MARK_BYTES: u64 = 16;
const MARK_MAGIC: u64 = 0x706d_6174_7363_6e67;

/// The chunks of one socket.
pub(super) struct Umem {
    memory: Mapping,
    chunk_bytes: u32,
    chunks: u32,
}

/// A chunk that holds a frame of the MTU where one can: small chunks keep the footprint small, which decides the rate of
/// large frames.
pub(super) fn chunk_bytes_for(mtu: u32) -> u32 {
    if fits(mtu, 2048) { 2048 } else { 4096 }
}

/// Whether every frame of the MTU fits one chunk.
pub(super) fn fits(mtu: u32, chunk_bytes: u32) -> bool {
    mtu.saturating_add(LINK_BYTES) <= chunk_bytes - KERNEL_HEADROOM
}

impl Umem {
    pub(super) fn new(chunks: u32, chunk_bytes: u32) -> io::Result<Umem> {
        assert!(chunk_bytes.is_power_of_two() && chunk_bytes > KERNEL_HEADROOM);
        let memory = Mapping::anonymous(chunks as usize * chunk_bytes as usize)?;
        Ok(Umem { memory, chunk_bytes, chunks })
    }

    /// Address and length for XDP_UMEM_REG.
    pub(super) fn range(&self) -> (u64, u64) {
        (self.memory.start() as u64, self.memory.len() as u64)
    }

    /// The address of each chunk, for the fill ring.
    pub(super) fn addresses(&self) -> impl Iterator<Item = u64> {
        (0..u64::from(self.chunks)).map(|chunk| chunk * u64::from(self.chunk_bytes))
    }

    /// The start of the chunk a descriptor lies in, None when it lies in none.
    #[inline]
    pub(super) fn chunk_of(&self, desc: &XdpDesc) -> Option<u64> {
        let inside = desc.addr < self.memory.len() as u64;
        inside.then(|| desc.addr & !u64::from(self.chunk_bytes - 1))
    }

    /// The bytes of a descriptor, None when they are not all in one chunk. The caller must hold the chunk: taken from the
    /// RX ring and not yet given to the fill ring.
    #[inline]
    pub(super) fn bytes(&self, desc: &XdpDesc) -> Option<&[u8]> {
        let within = desc.addr & u64::from(self.chunk_bytes - 1);
        let inside = desc.addr < self.memory.len() as u64
            && within + u64::from(desc.len) <= u64::from(self.chunk_bytes);
        if !inside {
            return None;
        }
        // SAFETY: `addr` is below the length of the mapping.
        let first = unsafe { self.memory.start().add(desc.addr as usize) };
        // SAFETY: `addr + len` does not pass the end of its chunk, which is inside the mapping; the kernel does not write
        // to a chunk between handing it over in RX and getting it back through the fill ring.
        Some(unsafe { std::slice::from_raw_parts(first, desc.len as usize) })
    }

    /// What the XDP program that asks the NIC wrote before a frame's first byte: its stamp, 0 for none. The caller must hold the
    /// chunk.
    #[inline]
    pub(super) fn nic_stamp(&self, desc: &XdpDesc) -> i64 {
        let within = desc.addr & u64::from(self.chunk_bytes - 1);
        if desc.addr >= self.memory.len() as u64 || within < MARK_BYTES {
            return 0;
        }
        // SAFETY: the mark begins in the chunk of `addr`, which is inside the mapping.
        let mark = unsafe { self.memory.start().add((desc.addr - MARK_BYTES) as usize) };
        // SAFETY: it ends at `addr`, which is inside the mapping; bytes have no alignment, and the kernel does not write to
        // a chunk between handing it over in RX and getting it back through the fill ring.
        let [magic, ns] = unsafe { mark.cast::<[[u8; 8]; 2]>().read() };
        if u64::from_ne_bytes(magic) == MARK_MAGIC { i64::from_ne_bytes(ns) } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::xdp::XdpDescOptions;

    #[test]
    fn a_mark_is_what_stands_whole_before_the_frame_in_its_chunk() {
        let umem = Umem::new(2, 2048).unwrap();
        let write = |at: usize, words: [u64; 2]| {
            assert!(at + 16 <= umem.memory.len());
            // SAFETY: inside the mapping.
            let mark = unsafe { umem.memory.start().add(at) };
            // SAFETY: 16 bytes from there are inside too, nobody else has them, and bytes have no alignment.
            unsafe { mark.cast::<[[u8; 8]; 2]>().write(words.map(u64::to_ne_bytes)) };
        };
        write(2048 + 240, [MARK_MAGIC, 77]);
        assert_eq!(umem.nic_stamp(&desc(2048 + 256, 60)), 77);
        assert_eq!(umem.nic_stamp(&desc(256, 60)), 0, "nobody wrote there");
        assert_eq!(umem.nic_stamp(&desc(2048 + 257, 60)), 0, "not just before the frame");
        write(2048 + 240, [MARK_MAGIC + 1, 77]);
        assert_eq!(umem.nic_stamp(&desc(2048 + 256, 60)), 0, "something else");
        // The end of one chunk says nothing about the frame at the start of the next.
        write(2048 - 16, [MARK_MAGIC, 77]);
        for addr in [2048, 2048 + 15, 4096, u64::MAX, u64::MAX - 2047 + 256] {
            assert_eq!(umem.nic_stamp(&desc(addr, 60)), 0, "{addr}");
        }
        // At any address: a driver may shift frames.
        write(101, [MARK_MAGIC, u64::MAX]);
        assert_eq!(umem.nic_stamp(&desc(117, 60)), -1);
    }

    fn desc(addr: u64, len: u32) -> XdpDesc {
        XdpDesc { addr, len, options: XdpDescOptions::empty() }
    }

    #[test]
    fn only_descriptors_inside_one_chunk_have_bytes() {
        let umem = Umem::new(4, 2048).unwrap();
        assert_eq!(umem.bytes(&desc(256, 1792)).unwrap().len(), 1792);
        assert!(umem.bytes(&desc(256, 1793)).is_none(), "runs into the next chunk");
        assert!(umem.bytes(&desc(3 * 2048, 2048)).is_some());
        assert!(umem.bytes(&desc(4 * 2048, 0)).is_none(), "behind the end");
        assert!(umem.bytes(&desc(u64::MAX, u32::MAX)).is_none());
        assert_eq!(umem.chunk_of(&desc(2048 + 300, 1)), Some(2048));
        assert_eq!(umem.chunk_of(&desc(u64::MAX, 1)), None);
    }

    #[test]
    fn chunks_fit_the_mtu_where_they_can() {
        assert_eq!(chunk_bytes_for(1500), 2048);
        assert_eq!(chunk_bytes_for(3000), 4096);
        assert!(fits(3000, 4096) && !fits(9000, 4096));
    }
}
