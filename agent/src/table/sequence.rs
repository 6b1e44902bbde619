//! TCP sequence space of one direction: which bytes are new (RFC 9293 section 3.4).
//!
//! A high-water mark and a short list of holes below it. A byte that fills a hole is new, one below the mark outside
//! every hole is repeated. Loss beyond [`HOLES_MAX`] gaps forgets the oldest one; what fills it later counts as repeated.

use crate::decode::TcpHeader;

const HOLES_MAX: usize = 8;
/// The largest window there is (RFC 7323 section 2.3): a segment farther off belongs to another connection.
const WINDOW_MAX: i32 = 1 << 30;

#[derive(Debug, Default)]
pub(super) struct Sequence {
    /// The sequence number after the highest seen; valid once `started`.
    next: u32,
    /// Of the SYN, with `syn`; until then the one that the lowest number seen follows from. Valid once `started`.
    isn: u32,
    /// Of the FIN; valid with `fin`.
    fin_at: u32,
    /// The highest acknowledgement this side sent; valid with `has_acked`.
    acked: u32,
    started: bool,
    syn: bool,
    fin: bool,
    has_acked: bool,
    /// The other side acknowledged the FIN.
    pub(super) fin_acked: bool,
    /// Few connections ever lose a segment.
    holes: Option<Box<Holes>>,
}

/// What a segment brought.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Taken {
    pub(super) new_bytes: u32,
    /// Part of its sequence space was seen before.
    pub(super) repeated: bool,
    pub(super) in_order: InOrder,
}

/// Which of a segment's payload comes next in its stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum InOrder {
    #[default]
    Nothing,
    /// From this byte of the payload on.
    From(u32),
    /// So many bytes are missing before it.
    Gap(u32),
    /// It is out of every window: what it belongs to is not known.
    Leap,
    /// It fills a hole: others came before it that belong after it.
    Late,
}

impl Sequence {
    pub(super) fn is_started(&self) -> bool {
        self.started
    }

    pub(super) fn has_fin(&self) -> bool {
        self.fin
    }

    /// A SYN with another number than the one this connection began with. A SYN that comes late, behind what it announced,
    /// is the connection's own.
    pub(super) fn is_new_connection(&self, seq: u32) -> bool {
        !(self.started && self.isn == seq)
    }

    /// The other side acknowledged this side's SYN, which itself was not seen.
    pub(super) fn learn_initial(&mut self, ack: u32) {
        if !self.started {
            *self = Sequence { next: ack, isn: ack.wrapping_sub(1), started: true, ..Sequence::default() };
        }
    }

    pub(super) fn acknowledge(&mut self, ack: u32) {
        if !self.has_acked || ack.wrapping_sub(self.acked) as i32 > 0 {
            self.acked = ack;
            self.has_acked = true;
        }
    }

    /// Whether `ack`, sent by the other side, covers this side's SYN.
    pub(super) fn syn_is_covered_by(&self, ack: u32) -> bool {
        self.syn && ack.wrapping_sub(self.isn.wrapping_add(1)) as i32 >= 0
    }

    /// Whether `ack`, sent by the other side, covers this side's FIN.
    pub(super) fn fin_is_covered_by(&self, ack: u32) -> bool {
        self.fin && ack.wrapping_sub(self.fin_at.wrapping_add(1)) as i32 >= 0
    }

    /// Whether the receiver would believe a reset with `seq` from this side: it is where the next segment belongs, as far
    /// as was seen here or as the other side acknowledged, or within the smallest usual window after it.
    pub(super) fn would_accept_reset(&self, seq: u32, other: &Sequence) -> bool {
        if !self.started {
            return true;
        }
        let ahead = seq.wrapping_sub(self.next);
        ahead <= 0xffff || (other.has_acked && other.acked == seq)
    }

    /// Account for a segment of `len` payload bytes.
    #[inline]
    pub(super) fn take(&mut self, header: &TcpHeader, len: u32) -> Taken {
        let mut taken = Taken::default();
        let mut start = header.seq;
        if header.has(TcpHeader::SYN) {
            start = start.wrapping_add(1);
            if !self.is_new_connection(header.seq) {
                taken.repeated = self.syn;
                self.syn = true;
            } else {
                *self = Sequence {
                    next: start,
                    isn: header.seq,
                    started: true,
                    syn: true,
                    ..Sequence::default()
                };
            }
        }
        let fin = header.has(TcpHeader::FIN);
        if len == 0 && !fin {
            if !self.started {
                self.next = start;
                self.isn = start.wrapping_sub(1);
                self.started = true;
            }
            return taken;
        }
        let ahead = start.wrapping_sub(self.next) as i32;
        let leaps = self.started && !(-WINDOW_MAX..WINDOW_MAX).contains(&ahead);
        if !self.started || leaps {
            if !self.started {
                self.isn = start.wrapping_sub(1);
            }
            self.next = start;
            self.started = true;
            self.holes = None;
        }
        let end = start.wrapping_add(len);
        let ahead = start.wrapping_sub(self.next) as i32;
        if ahead > 0 {
            self.holes.get_or_insert_default().push(self.next, start);
        }
        if ahead >= 0 {
            taken.new_bytes = len;
            taken.in_order = match len {
                0 => InOrder::Nothing,
                _ if leaps => InOrder::Leap,
                _ if ahead > 0 => InOrder::Gap(ahead as u32),
                _ => InOrder::From(0),
            };
            self.next = end;
        } else {
            if !self.syn && start.wrapping_sub(1).wrapping_sub(self.isn) as i32 <= 0 {
                self.isn = start.wrapping_sub(1);
            }
            let beyond = end.wrapping_sub(self.next) as i32;
            let old_end = if beyond > 0 { self.next } else { end };
            let filled = self.holes.as_mut().map_or(0, |holes| holes.fill(start, old_end));
            let beyond = beyond.max(0) as u32;
            taken.in_order = match beyond {
                0 if filled > 0 => InOrder::Late,
                0 => InOrder::Nothing,
                _ => InOrder::From(len - beyond),
            };
            taken.new_bytes = filled + beyond;
            self.next = self.next.wrapping_add(beyond);
            // One byte below the mark asks whether the peer is alive (RFC 9293 section 3.8.4).
            let keep_alive = len == 1 && ahead == -1 && !fin;
            taken.repeated |= taken.new_bytes < len && !keep_alive;
        }
        if let Some(holes) = &mut self.holes {
            holes.forget_old(self.next);
        }
        if fin {
            if self.fin && self.fin_at == end {
                taken.repeated = true;
            } else {
                self.fin = true;
                self.fin_at = end;
            }
            if end == self.next {
                self.next = end.wrapping_add(1);
            }
        }
        taken
    }
}

#[derive(Debug, Default)]
struct Holes {
    ranges: [(u32, u32); HOLES_MAX],
    len: usize,
}

impl Holes {
    fn push(&mut self, start: u32, end: u32) {
        if self.len == HOLES_MAX {
            self.ranges.rotate_left(1);
            self.len -= 1;
        }
        self.ranges[self.len] = (start, end);
        self.len += 1;
    }

    /// Forget what begins more than a window below `next`: nobody fills it, and beyond 2 GiB numbers do not compare.
    fn forget_old(&mut self, next: u32) {
        let mut kept = 0;
        for at in 0..self.len {
            if next.wrapping_sub(self.ranges[at].0) <= WINDOW_MAX as u32 {
                self.ranges[kept] = self.ranges[at];
                kept += 1;
            }
        }
        self.len = kept;
    }

    /// How many bytes of `start..end` were in holes; they no longer are.
    fn fill(&mut self, start: u32, end: u32) -> u32 {
        let mut filled = 0;
        let mut at = 0;
        while at < self.len {
            let (hole_start, hole_end) = self.ranges[at];
            // Both lie within a window below the high-water mark, so differences compare.
            let from = later(start, hole_start);
            let to = earlier(end, hole_end);
            let overlap = to.wrapping_sub(from) as i32;
            if overlap <= 0 {
                at += 1;
                continue;
            }
            filled += overlap as u32;
            let before = (hole_start, from);
            let after = (to, hole_end);
            self.ranges.copy_within(at + 1..self.len, at);
            self.len -= 1;
            for (start, end) in [before, after] {
                if start != end && self.len < HOLES_MAX {
                    self.ranges[self.len] = (start, end);
                    self.len += 1;
                }
            }
        }
        filled
    }
}

fn later(a: u32, b: u32) -> u32 {
    if (a.wrapping_sub(b) as i32) > 0 { a } else { b }
}

fn earlier(a: u32, b: u32) -> u32 {
    if (a.wrapping_sub(b) as i32) < 0 { a } else { b }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn segment(seq: u32, flags: u8) -> TcpHeader {
        TcpHeader { seq, ack: 0, flags }
    }

    fn took(new_bytes: u32, repeated: bool) -> (u32, bool) {
        (new_bytes, repeated)
    }

    impl Sequence {
        fn took(&mut self, header: &TcpHeader, len: u32) -> (u32, bool) {
            let Taken { new_bytes, repeated, .. } = self.take(header, len);
            (new_bytes, repeated)
        }
    }

    #[test]
    fn a_retransmission_brings_nothing_and_a_late_segment_is_counted_once() {
        let mut side = Sequence::default();
        side.take(&segment(99, TcpHeader::SYN), 0);
        assert_eq!(side.took(&segment(100, 0), 100), took(100, false));
        assert_eq!(side.took(&segment(100, 0), 100), took(0, true));
        assert_eq!(side.took(&segment(300, 0), 100), took(100, false));
        assert_eq!(side.took(&segment(200, 0), 100), took(100, false));
        assert_eq!(side.took(&segment(200, 0), 100), took(0, true));
        assert_eq!(side.took(&segment(350, 0), 100), took(50, true));
    }

    #[test]
    fn what_comes_next_in_the_stream_is_told_from_what_does_not() {
        let mut side = Sequence::default();
        let mut next = |seq, len| side.take(&segment(seq, 0), len).in_order;
        assert_eq!(next(100, 10), InOrder::From(0));
        assert_eq!(next(110, 0), InOrder::Nothing);
        assert_eq!(next(100, 10), InOrder::Nothing);
        assert_eq!(next(105, 10), InOrder::From(5));
        assert_eq!(next(116, 10), InOrder::Gap(1));
        assert_eq!(next(114, 2), InOrder::Late);
        assert_eq!(next(114, 2), InOrder::Nothing);
        assert_eq!(next(0x9000_0000, 10), InOrder::Leap);
    }

    #[test]
    fn keep_alives_are_neither_data_nor_retransmissions() {
        let mut side = Sequence::default();
        side.take(&segment(100, 0), 10);
        assert_eq!(side.took(&segment(109, TcpHeader::ACK), 0), took(0, false));
        assert_eq!(side.took(&segment(109, TcpHeader::ACK), 1), took(0, false));
        assert_eq!(side.took(&segment(110, TcpHeader::ACK), 1), took(1, false));
    }

    #[test]
    fn syn_and_fin_take_a_number_but_are_no_data() {
        let mut side = Sequence::default();
        assert_eq!(side.took(&segment(u32::MAX, TcpHeader::SYN), 5), took(5, false));
        assert_eq!(side.took(&segment(u32::MAX, TcpHeader::SYN), 0), took(0, true));
        assert_eq!(side.took(&segment(5, TcpHeader::FIN), 3), took(3, false));
        assert_eq!(side.took(&segment(5, TcpHeader::FIN), 3), took(0, true));
        assert_eq!(side.took(&segment(8, TcpHeader::FIN), 0), took(0, true));
        assert!(side.fin_is_covered_by(9) && !side.fin_is_covered_by(8));
    }

    #[test]
    fn holes_too_old_to_compare_are_forgotten() {
        // Holes reaching over more than half of the sequence space, then one byte between them.
        let mut side = Sequence::default();
        for (seq, flags, len) in [
            (1_260_809_244, 1, 120_604),
            (2_268_298_866, 32, 172_847),
            (2_739_405_679, 104, 259_139),
            (3_726_565_970, 8, 118_567),
            (3_408_413_497, 4, 1),
        ] {
            assert!(side.take(&segment(seq, flags), len).new_bytes <= len);
        }
        // A hole that is not filled while 4 GiB pass does not come back when the numbers do.
        let mut side = Sequence::default();
        side.take(&segment(0, 0), 10);
        side.take(&segment(20, 0), 10);
        for n in 0..1 << 14 {
            side.take(&segment(30 + (n << 18), 0), 1 << 18);
        }
        assert_eq!(side.took(&segment(10, 0), 10), took(0, true));
    }

    #[test]
    fn a_leap_beyond_every_window_starts_over() {
        let mut side = Sequence::default();
        side.take(&segment(100, 0), 10);
        assert_eq!(side.took(&segment(0x8000_0000, 0), 10), took(10, false));
        assert_eq!(side.took(&segment(0x8000_000a, 0), 10), took(10, false));
    }

    proptest! {
        #[test]
        fn new_bytes_are_the_distinct_bytes_when_few_holes_are_open(
            base in any::<u32>(),
            order in prop::collection::vec((0u32..12, 1u32..5), 1..60),
        ) {
            // Segments of whole units inside a small space: at most six holes can be open at once.
            let mut side = Sequence::default();
            side.take(&segment(base.wrapping_sub(1), TcpHeader::SYN), 0);
            let mut seen = BTreeSet::new();
            for (unit, units) in order {
                let bytes: BTreeSet<u32> = (unit * 10..(unit + units) * 10).collect();
                let fresh = bytes.difference(&seen).count() as u32;
                let taken = side.took(&segment(base.wrapping_add(unit * 10), 0), units * 10);
                prop_assert_eq!(taken, took(fresh, fresh < units * 10));
                seen.extend(bytes);
            }
        }

        #[test]
        fn no_sequence_of_segments_brings_more_than_it_carries(
            segments in prop::collection::vec((any::<u32>(), any::<u8>(), 0u32..300_000), 0..100),
        ) {
            let mut side = Sequence::default();
            for (seq, flags, len) in segments {
                prop_assert!(side.take(&segment(seq, flags), len).new_bytes <= len);
            }
        }
    }
}
