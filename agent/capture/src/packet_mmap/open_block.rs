//! Reads the block that the kernel still fills, frame by frame, without a race.
//!
//! The kernel counts a frame in the block's header when it reserves its place, and writes it afterwards, on any CPU; nothing in
//! the ring says when that is done. A *look* notes how many frames are counted and asks for a grace period
//! (`grace_period.rs`). When that is over, the frames counted at the look are complete.
//!
//! Frames therefore come out one look interval and one grace period late at the most. A block that fills up in the meantime is
//! released by the kernel as ever; under load no look is ever waited for.

use gnomon_clock::RawNs;

use crate::grace_period::{Asked, GracePeriods};

use super::ring::Ring;
use super::{LOOK_WAIT, LOOK_WAITS_MAX, PacketMmap};

/// What the current block held at one moment.
#[derive(Debug)]
struct Look {
    at: RawNs,
    /// Which block, by [`Ring::passed`].
    block: u64,
    frames: u32,
    asked: Asked,
}

#[derive(Debug)]
pub(super) struct OpenBlock {
    periods: &'static GracePeriods,
    look_every_ns: u64,
    looked_at: RawNs,
    pending: Option<Look>,
}

impl OpenBlock {
    /// None where the kernel offers no grace periods.
    pub(super) fn new(look_every_ns: u64) -> Option<OpenBlock> {
        let periods = GracePeriods::shared()?;
        Some(OpenBlock { periods, look_every_ns, looked_at: RawNs(0), pending: None })
    }

    /// How many frames of the current block, from its first, are complete by a look that is over.
    pub(super) fn finished(&self, ring: &Ring) -> Option<u32> {
        let look = self.pending.as_ref()?;
        (look.block == ring.passed && self.periods.are_over(look.asked)).then_some(look.frames)
    }

    /// Looks, if it is time and no look is pending. No block that was released is unread, and it is `now`. The moment before
    /// which every frame was handed over, if that is news.
    pub(super) fn look(&mut self, ring: &Ring, now: RawNs) -> Option<RawNs> {
        let (frames, taken) = (ring.frames(), ring.taken());
        let mut emptied_at = None;
        if let Some(look) = &self.pending
            && (look.block < ring.passed || look.frames <= taken)
        {
            emptied_at = Some(look.at);
            self.pending = None;
        }
        if frames <= taken {
            return Some(now);
        }
        if self.pending.is_none() && now.since(self.looked_at) >= self.look_every_ns {
            self.looked_at = now;
            self.pending = Some(Look { at: now, block: ring.passed, frames, asked: self.periods.ask() });
        }
        emptied_at
    }
}

impl PacketMmap {
    /// Frames of the open block that are complete.
    pub(super) fn finished(&self) -> Option<u32> {
        self.open_block.as_ref()?.finished(&self.ring)
    }

    /// The reader paused: what came meanwhile is handed over by its first drain, which may sleep for it a little.
    pub(super) fn wait_for_look(&self) {
        for _ in 0..LOOK_WAITS_MAX {
            if self.open_block.is_none()
                || self.ring.frames() <= self.ring.taken()
                || self.finished().is_some()
            {
                return;
            }
            std::thread::sleep(LOOK_WAIT);
        }
    }

    /// Every released block was read by `now`.
    pub(super) fn look(&mut self, now: RawNs) {
        match &mut self.open_block {
            None => self.emptied_at = now,
            Some(open) => {
                if let Some(emptied_at) = open.look(&self.ring, now) {
                    self.emptied_at = emptied_at;
                }
            }
        }
    }

    /// Every frame that had arrived by `at` was handed over.
    pub fn has_taken_all_before(&self, at: RawNs) -> bool {
        match self.open_block {
            Some(_) => self.emptied_at >= at,
            None => self.emptied_at.since(at) >= 2 * self.retire_ns,
        }
    }
}
