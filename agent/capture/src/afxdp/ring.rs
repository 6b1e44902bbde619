//! The two AF_XDP rings a receiver uses, over memory shared with the kernel: RX (it fills, we empty) and fill (we give
//! free buffers, it takes them). Single producer, single consumer; indices run free and wrap at 2³².
//!
//! Source: Documentation/networking/af_xdp.rst, linux/if_xdp.h.
#![allow(unsafe_code)]

use std::sync::atomic::{AtomicU32, Ordering};

use rustix::net::xdp::{XdpDesc, XdpRingFlags, XdpRingOffset};

use crate::mapping::Mapping;

/// The words of a ring in its mapping.
struct Shared<T> {
    memory: Mapping,
    producer: *const AtomicU32,
    consumer: *const AtomicU32,
    flags: Option<*const AtomicU32>,
    entries: *mut T,
    size: u32,
}

// SAFETY: the pointers lead into the mapping this value owns; nothing is tied to a thread.
unsafe impl<T> Send for Shared<T> {}

impl<T: Copy> Shared<T> {
    /// # Panics
    /// When the kernel's offsets lie outside the mapping, or `size` is no power of two.
    fn new(memory: Mapping, offsets: &XdpRingOffset, size: u32) -> Shared<T> {
        assert!(size.is_power_of_two(), "ring of {size}");
        let word = |at: u64| memory.at::<AtomicU32>(at as usize).cast_const();
        let producer = word(offsets.producer);
        let consumer = word(offsets.consumer);
        let flags = offsets.flags.map(word);
        let first = offsets.desc as usize;
        let entries = memory.at::<T>(first);
        // The last entry must be inside too.
        let _ = memory.at::<T>(first + (size as usize - 1) * size_of::<T>());
        Shared { memory, producer, consumer, flags, entries, size }
    }

    fn producer(&self) -> &AtomicU32 {
        // SAFETY: aligned and inside the mapping (checked in `new`), which lives as long as `self`.
        unsafe { &*self.producer }
    }

    fn consumer(&self) -> &AtomicU32 {
        // SAFETY: as above.
        unsafe { &*self.consumer }
    }

    #[inline]
    fn entry(&self, index: u32) -> *mut T {
        // SAFETY: the masked index is below `size`, and `new` checked that `size` entries are inside the mapping.
        unsafe { self.entries.add((index & (self.size - 1)) as usize) }
    }

    fn needs_wakeup(&self) -> bool {
        self.flags.is_some_and(|flags| {
            // SAFETY: aligned and inside the mapping, as the others.
            let flags = unsafe { &*flags };
            flags.load(Ordering::Relaxed) & XdpRingFlags::XDP_RING_NEED_WAKEUP.bits() != 0
        })
    }
}

/// RX: descriptors of frames the kernel has written.
pub(super) struct RxRing {
    shared: Shared<XdpDesc>,
    /// Ours alone; the kernel sees it on `release`.
    consumed: u32,
}

impl RxRing {
    pub(super) fn new(memory: Mapping, offsets: &XdpRingOffset, size: u32) -> RxRing {
        let shared = Shared::new(memory, offsets, size);
        let consumed = shared.consumer().load(Ordering::Relaxed);
        RxRing { shared, consumed }
    }

    /// The kernel's producer index: what was written before it may now be read.
    #[inline]
    pub(super) fn produced(&self) -> u32 {
        self.shared.producer().load(Ordering::Acquire)
    }

    /// The index of the next descriptor to read.
    #[inline]
    pub(super) fn consumed(&self) -> u32 {
        self.consumed
    }

    /// Descriptors up to `produced`; never more than the ring has, whatever the index says.
    #[inline]
    pub(super) fn waiting(&self, produced: u32) -> u32 {
        produced.wrapping_sub(self.consumed).min(self.shared.size)
    }

    /// The descriptor `ahead` of the next one. Only those counted by [`RxRing::waiting`] mean anything.
    #[inline]
    pub(super) fn peek(&self, ahead: u32) -> XdpDesc {
        let entry = self.shared.entry(self.consumed.wrapping_add(ahead));
        // SAFETY: `entry` is inside the mapping and aligned; any bits are a valid XdpDesc (integers and a transparent
        // flag set). Volatile, because the kernel writes the memory behind the compiler's back.
        unsafe { entry.read_volatile() }
    }

    /// Hands `count` entries back to the kernel.
    #[inline]
    pub(super) fn release(&mut self, count: u32) {
        self.consumed = self.consumed.wrapping_add(count);
        self.shared.consumer().store(self.consumed, Ordering::Release);
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.shared.memory.len()
    }
}

/// Fill: addresses of buffers the kernel may write frames to.
pub(super) struct FillRing {
    shared: Shared<u64>,
    /// Staged, not yet seen by the kernel.
    staged: u32,
}

impl FillRing {
    pub(super) fn new(memory: Mapping, offsets: &XdpRingOffset, size: u32) -> FillRing {
        let shared = Shared::new(memory, offsets, size);
        let staged = shared.producer().load(Ordering::Relaxed);
        FillRing { shared, staged }
    }

    /// Writes an address; the kernel sees it after [`FillRing::submit`]. The ring is as large as there are buffers, so
    /// there is always room for one that came back.
    #[inline]
    pub(super) fn stage(&mut self, address: u64) {
        let entry = self.shared.entry(self.staged);
        // SAFETY: inside the mapping and aligned; the kernel does not read entries beyond the submitted index.
        unsafe { entry.write_volatile(address) };
        self.staged = self.staged.wrapping_add(1);
    }

    #[inline]
    pub(super) fn submit(&mut self) {
        self.shared.producer().store(self.staged, Ordering::Release);
    }

    /// The driver sleeps until it is woken by a system call (zero copy only).
    #[inline]
    pub(super) fn needs_wakeup(&self) -> bool {
        self.shared.needs_wakeup()
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.shared.memory.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::xdp::XdpDescOptions;

    const OFFSETS: XdpRingOffset = XdpRingOffset { producer: 0, consumer: 64, desc: 128, flags: Some(96) };

    /// A ring over plain memory, and the pointers the kernel's side would use.
    fn rx(start: u32) -> (RxRing, *mut u32, *mut XdpDesc) {
        let memory = Mapping::anonymous(4096).unwrap();
        let (producer, entries) = (memory.at::<u32>(0), memory.at::<XdpDesc>(128));
        let consumer = memory.at::<u32>(64);
        // SAFETY: inside the mapping just made.
        unsafe { producer.write(start) };
        // SAFETY: inside the mapping just made.
        unsafe { consumer.write(start) };
        (RxRing::new(memory, &OFFSETS, 8), producer, entries)
    }

    #[test]
    fn what_is_produced_is_read_in_order_across_the_wrap_of_the_index() {
        let start = u32::MAX - 3;
        let (mut ring, producer, entries) = rx(start);
        assert_eq!(ring.waiting(ring.produced()), 0);
        for n in 0..8_u32 {
            let at = (start.wrapping_add(n) & 7) as usize;
            // SAFETY: `at` is below the ring's 8 entries.
            let entry = unsafe { entries.add(at) };
            // SAFETY: inside the mapping.
            unsafe { entry.write(XdpDesc { addr: u64::from(n), len: n, options: XdpDescOptions::empty() }) };
        }
        // SAFETY: inside the mapping.
        unsafe { producer.write(start.wrapping_add(8)) };
        assert_eq!(ring.waiting(ring.produced()), 8);
        for n in 0..8 {
            assert_eq!(ring.peek(n).addr, u64::from(n));
        }
        ring.release(5);
        assert_eq!(ring.waiting(ring.produced()), 3);
        assert_eq!(ring.peek(0).addr, 5);
    }

    #[test]
    fn a_mad_producer_index_never_makes_more_than_the_ring() {
        let (ring, producer, _) = rx(0);
        // SAFETY: inside the mapping.
        unsafe { producer.write(0x8000_0000) };
        assert_eq!(ring.waiting(ring.produced()), 8);
    }

    #[test]
    fn fill_shows_nothing_before_it_is_submitted() {
        let memory = Mapping::anonymous(4096).unwrap();
        let (producer, flags) = (memory.at::<u32>(0), memory.at::<u32>(96));
        let mut ring = FillRing::new(memory, &OFFSETS, 8);
        ring.stage(2048);
        // SAFETY: inside the mapping.
        assert_eq!(unsafe { producer.read() }, 0);
        ring.submit();
        // SAFETY: inside the mapping.
        assert_eq!(unsafe { producer.read() }, 1);
        assert!(!ring.needs_wakeup());
        // SAFETY: inside the mapping.
        unsafe { flags.write(1) };
        assert!(ring.needs_wakeup());
    }

    #[test]
    #[should_panic(expected = "outside a mapping")]
    fn offsets_outside_the_mapping_are_refused() {
        let _ = RxRing::new(Mapping::anonymous(4096).unwrap(), &OFFSETS, 1024);
    }
}
