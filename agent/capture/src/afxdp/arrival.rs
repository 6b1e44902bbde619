//! When the frames of a ring arrived: AF_XDP gives no stamp, but a frame that was not in the ring at one look and is at
//! the next came between the two.

use gnomon_clock::RawNs;

use crate::frame::Stamp;

/// The clock around one look at the producer indices of all rings.
#[derive(Clone, Copy, Debug)]
pub(super) struct Look {
    pub(super) before: RawNs,
    pub(super) after: RawNs,
}

/// What is known of one ring. A frame keeps the look at which it was first seen even when a slow reader takes it later.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arrivals {
    /// Frames below this index were seen at an earlier look …
    seen: u32,
    /// … and this is their stamp.
    seen_stamp: Stamp,
    /// Frames from `seen` on came after this.
    unseen_since: RawNs,
}

fn between(since: RawNs, until: RawNs) -> Stamp {
    // u32::MAX (4.29 s) means "that or more".
    Stamp { raw: until, err_ns: u32::try_from(until.since(since)).unwrap_or(u32::MAX) }
}

impl Arrivals {
    pub(super) fn new(consumed: u32, now: RawNs) -> Arrivals {
        Arrivals { seen: consumed, seen_stamp: Stamp::default(), unseen_since: now }
    }

    /// How many of the descriptors from `consumed` on were seen before, with their stamp, and the stamp of the others.
    #[inline]
    pub(super) fn stamps(&self, consumed: u32, look: Look) -> (u32, Stamp, Stamp) {
        (self.seen.wrapping_sub(consumed), self.seen_stamp, between(self.unseen_since, look.after))
    }

    /// After a drain: `consumed` is where reading stopped, `produced` what the look saw.
    #[inline]
    pub(super) fn advance(&mut self, consumed: u32, produced: u32, look: Look) {
        let left_of_seen = self.seen.wrapping_sub(consumed).cast_signed();
        if left_of_seen <= 0 {
            self.seen_stamp = between(self.unseen_since, look.after);
            self.seen = produced;
            self.unseen_since = look.before;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(at: u64) -> Look {
        Look { before: RawNs(at), after: RawNs(at + 10) }
    }

    #[test]
    fn an_emptied_ring_bounds_the_next_frames_by_the_last_look() {
        let mut arrivals = Arrivals::new(0, RawNs(100));
        let (seen, _, fresh) = arrivals.stamps(0, look(1000));
        assert_eq!((seen, fresh), (0, Stamp { raw: RawNs(1010), err_ns: 910 }));
        arrivals.advance(5, 5, look(1000));
        let (seen, _, fresh) = arrivals.stamps(5, look(2000));
        assert_eq!((seen, fresh), (0, Stamp { raw: RawNs(2010), err_ns: 1010 }));
    }

    #[test]
    fn frames_left_in_the_ring_keep_the_look_that_first_saw_them() {
        let mut arrivals = Arrivals::new(0, RawNs(100));
        // Ten were there, three were taken.
        arrivals.advance(3, 10, look(1000));
        let (seen, old, fresh) = arrivals.stamps(3, look(2000));
        assert_eq!(seen, 7);
        assert_eq!(old, Stamp { raw: RawNs(1010), err_ns: 910 });
        assert_eq!(fresh, Stamp { raw: RawNs(2010), err_ns: 1010 });
        // Twenty are there; reading stops inside the seven: nothing is forgotten.
        arrivals.advance(6, 20, look(2000));
        let (seen, old, fresh) = arrivals.stamps(6, look(3000));
        assert_eq!((seen, old.raw, old.err_ns), (4, RawNs(1010), 910));
        assert_eq!(fresh, Stamp { raw: RawNs(3010), err_ns: 2010 });
    }

    #[test]
    fn every_true_arrival_is_inside_its_stamp() {
        // Frames arrive at 100, 200, …; a reader looks every 250 and takes at most two.
        let (mut arrivals, mut consumed) = (Arrivals::new(0, RawNs(0)), 0_u32);
        let mut now = 0;
        while consumed < 40 {
            now += 250;
            let produced = u32::try_from(now / 100).unwrap();
            let (seen, old, fresh) = arrivals.stamps(consumed, look(now));
            let take = (produced - consumed).min(2);
            for n in 0..take {
                let stamp = if n < seen { old } else { fresh };
                let truth = u64::from(consumed + n + 1) * 100;
                let err = u64::from(stamp.err_ns);
                assert!(stamp.raw.0 - err <= truth && truth <= stamp.raw.0 + err, "{truth}: {stamp:?}");
            }
            consumed += take;
            arrivals.advance(consumed, produced, look(now));
        }
    }
}
