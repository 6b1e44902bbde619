//! The blocks of a TPACKET_V3 ring in memory that is shared with the kernel, and where reading stands in them.
#![allow(unsafe_code)]

use std::sync::atomic::{AtomicU32, Ordering, fence};

use crate::mapping::Mapping;

use super::block::{BLOCK_HEADER, Cursor, NUM_PKTS_AT, STATUS_AT};

/// The blocks and where reading stands in them.
pub(super) struct Ring {
    pub(super) memory: Mapping,
    pub(super) block_bytes: usize,
    pub(super) blocks: usize,
    pub(super) current: usize,
    /// Blocks handed back so far: names the current one.
    pub(super) passed: u64,
    /// Set while the current block is half read.
    pub(super) cursor: Option<Cursor>,
}

impl Ring {
    pub(super) fn word(&self, block: usize, at: usize) -> &AtomicU32 {
        let pointer = self.memory.at::<u32>(block * self.block_bytes + at);
        // SAFETY: `pointer` is aligned and inside the mapping, which lives as long as `self`; the kernel, like us,
        // accesses the words of a block's header only by whole-word loads and stores.
        unsafe { AtomicU32::from_ptr(pointer) }
    }

    pub(super) fn status(&self, block: usize) -> &AtomicU32 {
        self.word(block, STATUS_AT)
    }

    /// Frames of the current block whose places the kernel has reserved.
    pub(super) fn frames(&self) -> u32 {
        self.word(self.current, NUM_PKTS_AT).load(Ordering::Acquire)
    }

    /// Frames of the current block that were handed out.
    pub(super) fn taken(&self) -> u32 {
        self.cursor.map_or(0, |cursor| cursor.taken())
    }

    pub(super) fn released(&self, block: usize) -> bool {
        self.status(block).load(Ordering::Acquire) & libc::TP_STATUS_USER != 0
    }

    /// Blocks the kernel has released, counted from the current one.
    pub(super) fn released_blocks(&self) -> usize {
        (0..self.blocks).take_while(|ahead| self.released((self.current + ahead) % self.blocks)).count()
    }

    /// The current block. Only what [`Part`] says of it may be read.
    pub(super) fn bytes(&self) -> &[u8] {
        let start = self.current * self.block_bytes;
        debug_assert!(start + self.block_bytes <= self.memory.len() && self.block_bytes >= BLOCK_HEADER);
        // SAFETY: `current < blocks` and the mapping holds `blocks * block_bytes` bytes, so `start` is inside it.
        let first = unsafe { self.memory.start().add(start) };
        // SAFETY: the block is inside the mapping. The kernel does not write to a released block until we hand it back in
        // `release`, which takes `&mut self`; of one that it fills, `Cursor` reads only frames that a grace period found
        // complete, which the kernel does not change, but for the offset in the last one (0 or what it was).
        unsafe { std::slice::from_raw_parts(first, self.block_bytes) }
    }

    /// Hands the current block back to the kernel and goes to the next.
    pub(super) fn release(&mut self) {
        // Between releasing one block and opening the next the kernel may be interrupted: nobody must find the frames that this
        // one had a round ago.
        self.word(self.current, NUM_PKTS_AT).store(0, Ordering::Relaxed);
        // Our reads of the block come before the kernel's next writes to it.
        fence(Ordering::Release);
        self.status(self.current).store(libc::TP_STATUS_KERNEL, Ordering::Release);
        self.current = (self.current + 1) % self.blocks;
        self.passed += 1;
        self.cursor = None;
    }
}
