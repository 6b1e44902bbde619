//! A hashed timing wheel (Varghese and Lauck 1987, scheme 6) over the packets' own time.
//!
//! Scheduling and cancelling are O(1). Deadlines beyond one turn share slots with nearer ones and are passed over. Time
//! may stand still, leap, and, in capture files, go back: a deadline never fires early and is never lost.

use gnomon_clock::RawNs;

/// 16.8 ms a slot, 69 s a turn.
const TICK_BITS: u32 = 24;
pub(super) const TICK_NS: u64 = 1 << TICK_BITS;
const SLOTS: usize = 4096;
const NIL: u32 = u32::MAX;

#[derive(Clone, Copy, Debug)]
struct Link {
    prev: u32,
    next: u32,
    /// The tick it is due at, 0 when not scheduled.
    tick: u64,
}

const UNLINKED: Link = Link { prev: NIL, next: NIL, tick: 0 };

#[derive(Debug)]
pub(super) struct Wheel {
    heads: Box<[u32]>,
    links: Vec<Link>,
    /// Every tick up to this one was walked.
    walked: u64,
    /// The tick that time has reached.
    target: u64,
    /// While the slot of tick `walked + 1` is being walked: what comes next in it, or `NIL`.
    walking: Option<u32>,
}

impl Wheel {
    pub(super) fn new(entries_max: u32) -> Wheel {
        let mut links = Vec::with_capacity(entries_max as usize);
        gnomon_capture::memory::use_huge_pages(links.spare_capacity_mut());
        Wheel { heads: vec![NIL; SLOTS].into_boxed_slice(), links, walked: 0, target: 0, walking: None }
    }

    /// Make `entry` due at `deadline`, in the place of any earlier appointment.
    pub(super) fn schedule(&mut self, entry: u32, deadline: RawNs) {
        if self.links.len() <= entry as usize {
            self.links.resize(entry as usize + 1, UNLINKED);
        }
        self.cancel(entry);
        let tick = deadline.0.saturating_add(TICK_NS - 1) >> TICK_BITS;
        let tick = tick.max(self.walked + 1 + u64::from(self.walking.is_some()));
        let head = &mut self.heads[slot_of(tick)];
        self.links[entry as usize] = Link { prev: NIL, next: *head, tick };
        if let Some(after) = self.links.get_mut(*head as usize) {
            after.prev = entry;
        }
        *head = entry;
    }

    /// Entries from this one on are gone; none of them is scheduled.
    pub(super) fn truncate(&mut self, entries: usize) {
        let len = self.links.len();
        if entries < len {
            self.links.truncate(entries);
            gnomon_capture::memory::give_back(&mut self.links.spare_capacity_mut()[..len - entries]);
        }
    }

    pub(super) fn cancel(&mut self, entry: u32) {
        let Some(link) = self.links.get_mut(entry as usize) else { return };
        let Link { prev, next, tick } = std::mem::replace(link, UNLINKED);
        if tick == 0 {
            return;
        }
        match self.links.get_mut(prev as usize) {
            Some(before) => before.next = next,
            None => self.heads[slot_of(tick)] = next,
        }
        if let Some(after) = self.links.get_mut(next as usize) {
            after.prev = prev;
        }
        if self.walking == Some(entry) {
            self.walking = Some(next);
        }
    }

    /// It is `now`. What became due comes out of [`Wheel::pop_due`].
    pub(super) fn advance(&mut self, now: RawNs) {
        let before = std::mem::replace(&mut self.target, now.0 >> TICK_BITS);
        if self.target < before && self.walked < self.target {
            // It went back in the middle of a walk, which may have been the turn that passes every slot.
            self.walked = self.walked.min(self.target.saturating_sub(SLOTS as u64));
            self.walking = None;
        } else if self.target < self.walked {
            self.walked = self.target;
            self.walking = None;
        } else if self.target - self.walked > SLOTS as u64 {
            // One turn passes every slot.
            self.walked = self.target - SLOTS as u64;
            self.walking = None;
        }
    }

    /// Something due, in order of its tick; it is no longer scheduled.
    pub(super) fn pop_due(&mut self) -> Option<u32> {
        while self.walked < self.target {
            let tick = self.walked + 1;
            let mut entry = self.walking.unwrap_or(self.heads[slot_of(tick)]);
            while entry != NIL {
                let Link { next, tick: due, .. } = self.links[entry as usize];
                if due <= tick {
                    self.walking = Some(next);
                    self.cancel(entry);
                    return Some(entry);
                }
                entry = next;
            }
            self.walking = None;
            self.walked = tick;
        }
        None
    }

    /// The tick that time has reached, for what is limited to so many a tick.
    pub(super) fn tick(&self) -> u64 {
        self.target
    }
}

fn slot_of(tick: u64) -> usize {
    tick as usize & (SLOTS - 1)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        Schedule(u32, u64),
        Cancel(u32),
        Advance(i64, usize),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let ahead = prop_oneof![0..200 * TICK_NS, 0..3 * SLOTS as u64 * TICK_NS];
        let step = prop_oneof![
            4 => (0u32..12, ahead).prop_map(|(entry, ahead)| Step::Schedule(entry, ahead)),
            1 => (0u32..12).prop_map(Step::Cancel),
            4 => (-(TICK_NS as i64) * 50..TICK_NS as i64 * 300, 0usize..20).prop_map(|(by, pops)| Step::Advance(by, pops)),
            1 => (0..TICK_NS as i64 * 20_000, 0usize..20).prop_map(|(by, pops)| Step::Advance(by, pops)),
        ];
        prop::collection::vec(step, 0..120)
    }

    proptest! {
        #[test]
        fn nothing_fires_early_or_is_lost(steps in steps(), start in 0..u64::MAX / 4) {
            let mut wheel = Wheel::new(12);
            let mut now = start;
            let mut model: BTreeMap<u32, u64> = BTreeMap::new();
            wheel.advance(RawNs(now));
            for step in steps {
                match step {
                    Step::Schedule(entry, ahead) => {
                        wheel.schedule(entry, RawNs(now + ahead));
                        model.insert(entry, now + ahead);
                    }
                    Step::Cancel(entry) => {
                        wheel.cancel(entry);
                        model.remove(&entry);
                    }
                    Step::Advance(by, pops) => {
                        now = now.saturating_add_signed(by);
                        wheel.advance(RawNs(now));
                        for _ in 0..pops {
                            let Some(entry) = wheel.pop_due() else { break };
                            let deadline = model.remove(&entry);
                            prop_assert!(deadline.is_some_and(|at| at <= now), "{:?} at {}", deadline, now);
                        }
                    }
                }
            }
            // A tick past the last deadline everything is out.
            now = now.max(model.values().max().copied().unwrap_or(0)) + 2 * TICK_NS;
            wheel.advance(RawNs(now));
            while let Some(entry) = wheel.pop_due() {
                prop_assert!(model.remove(&entry).is_some());
            }
            prop_assert!(model.is_empty(), "lost: {:?}", model);
        }
    }

    #[test]
    fn time_that_leaps_and_goes_back_before_anything_was_taken_loses_nothing() {
        for back in 0..5 {
            let mut wheel = Wheel::new(8);
            wheel.advance(RawNs(1_000 * TICK_NS));
            (0..8).for_each(|entry| wheel.schedule(entry, RawNs((1_000 + u64::from(entry)) * TICK_NS)));
            let leapt = 1_000 + SLOTS as u64 + 3;
            wheel.advance(RawNs(leapt * TICK_NS));
            wheel.advance(RawNs((leapt - back) * TICK_NS));
            assert_eq!(std::iter::from_fn(|| wheel.pop_due()).count(), 8, "{back} back");
        }
    }

    #[test]
    fn a_deadline_fires_within_a_tick() {
        let mut wheel = Wheel::new(4);
        wheel.advance(RawNs(0));
        let deadline = 5 * TICK_NS + 1;
        wheel.schedule(2, RawNs(deadline));
        wheel.advance(RawNs(deadline));
        assert_eq!(wheel.pop_due(), None);
        wheel.advance(RawNs(deadline + TICK_NS));
        assert_eq!(wheel.pop_due(), Some(2));
    }
}
