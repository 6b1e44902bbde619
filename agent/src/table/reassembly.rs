//! One direction of a TCP stream put in order for inspection.
//!
//! A segment that comes too early is copied and waits for those before it: at most [`SEGMENTS_MAX`] of them,
//! [`WAITING_BYTES_MAX`] bytes and [`WAIT_MAX_NS`] of the packets' own time, and all streams together at most what the
//! [`WaitingBudget`] has. Then what is missing counts as lost. **Of bytes that come twice, the first copy is taken**, like
//! most receivers do; a later one with other content changes nothing.

use gnomon_clock::RawNs;

pub(super) const SEGMENTS_MAX: usize = 16;
pub(super) const WAITING_BYTES_MAX: usize = 16 << 10;
pub(super) const WAIT_MAX_NS: u64 = 5_000_000_000;

/// Bytes that segments of all streams of a table may take while they wait.
#[derive(Debug)]
pub(super) struct WaitingBudget(usize);

impl WaitingBudget {
    pub(super) fn new(bytes: usize) -> WaitingBudget {
        WaitingBudget(bytes)
    }

    #[cfg(test)]
    pub(super) fn left(&self) -> usize {
        self.0
    }
}

/// What a waiting segment takes beside its bytes.
const SEGMENT_OVERHEAD: usize = 64;

#[derive(Debug, Default)]
pub(super) struct Stream {
    /// The sequence number of the next byte to be inspected; valid once begun.
    next: u32,
    begun: bool,
    waiting: Option<Box<Waiting>>,
}

#[derive(Debug)]
struct Waiting {
    /// In order of their start.
    segments: Vec<Segment>,
    bytes: usize,
    since: RawNs,
    /// What is missing is not waited for.
    given_up: bool,
}

#[derive(Debug)]
struct Segment {
    start: u32,
    bytes: Bytes,
}

/// Bytes of a segment, and how many follow that were not captured.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Bytes {
    pub(super) captured: Box<[u8]>,
    pub(super) missing: u32,
}

/// What of a segment that was taken is to be inspected at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// It is old, or it waits.
    Nothing,
    /// Its captured bytes but the first, and how many follow that were not captured.
    Bytes { skipped: u32, missing: u32 },
}

impl Stream {
    pub(super) fn has_begun(&self) -> bool {
        self.begun
    }

    /// The stream begins with the byte of this number, unless it has begun already.
    pub(super) fn begin(&mut self, next: u32) {
        if !self.begun {
            self.next = next;
            self.begun = true;
        }
    }

    pub(super) fn is_waiting(&self) -> bool {
        self.waiting.is_some()
    }

    /// A segment of `wire` bytes, of which `payload` was captured.
    pub(super) fn take(
        &mut self,
        start: u32,
        payload: &[u8],
        wire: u32,
        now: RawNs,
        budget: &mut WaitingBudget,
    ) -> Next {
        let ahead = start.wrapping_sub(self.next) as i32;
        if ahead > 0 {
            self.wait(start, payload, wire, now, budget);
            return Next::Nothing;
        }
        if let Some(waiting) = &mut self.waiting {
            waiting.given_up |= now.since(waiting.since) > WAIT_MAX_NS;
        }
        let skipped = ahead.unsigned_abs();
        let fresh = wire.saturating_sub(skipped);
        if fresh == 0 {
            return Next::Nothing;
        }
        self.next = self.next.wrapping_add(fresh);
        let captured = u32::try_from(payload.len()).unwrap_or(u32::MAX).saturating_sub(skipped).min(fresh);
        Next::Bytes { skipped, missing: fresh - captured }
    }

    #[cold]
    fn wait(&mut self, start: u32, payload: &[u8], wire: u32, now: RawNs, budget: &mut WaitingBudget) {
        let cost = payload.len() + SEGMENT_OVERHEAD;
        let waiting = self.waiting.get_or_insert_with(|| {
            Box::new(Waiting { segments: Vec::new(), bytes: 0, since: now, given_up: false })
        });
        let next = self.next;
        let at = waiting
            .segments
            .partition_point(|other| other.start.wrapping_sub(next) < start.wrapping_sub(next));
        let is_there =
            waiting.segments.get(at).is_some_and(|other| other.start == start && wire <= other.bytes.wire());
        let has_room = waiting.segments.len() < SEGMENTS_MAX
            && waiting.bytes + payload.len() <= WAITING_BYTES_MAX
            && budget.0 >= cost;
        if !is_there && has_room {
            budget.0 -= cost;
            waiting.bytes += payload.len();
            let missing = wire.saturating_sub(u32::try_from(payload.len()).unwrap_or(u32::MAX));
            // After a segment with the same start: that one came first.
            let at = at + usize::from(waiting.segments.get(at).is_some_and(|other| other.start == start));
            waiting
                .segments
                .insert(at, Segment { start, bytes: Bytes { captured: payload.into(), missing } });
        }
        waiting.given_up |= (!is_there && !has_room) || now.since(waiting.since) > WAIT_MAX_NS;
        if waiting.segments.is_empty() {
            // No room for a single one: it is lost itself.
            self.waiting = None;
        }
    }

    /// What is missing is not waited for any longer.
    pub(super) fn give_up(&mut self) {
        if let Some(waiting) = &mut self.waiting {
            waiting.given_up = true;
        }
    }

    /// A segment that waited and comes next, after a gap of so many bytes.
    pub(super) fn pop(&mut self, budget: &mut WaitingBudget) -> Option<(u32, Bytes)> {
        loop {
            let waiting = self.waiting.as_mut()?;
            let ahead = waiting.segments.first()?.start.wrapping_sub(self.next) as i32;
            if ahead > 0 && !waiting.given_up {
                return None;
            }
            let Segment { start, bytes } = waiting.segments.remove(0);
            waiting.bytes -= bytes.captured.len();
            budget.0 += bytes.captured.len() + SEGMENT_OVERHEAD;
            if waiting.segments.is_empty() {
                self.waiting = None;
            }
            let gap = ahead.max(0) as u32;
            let skipped = ahead.min(0).unsigned_abs();
            let wire = bytes.wire();
            if skipped >= wire {
                continue;
            }
            self.next = start.wrapping_add(wire);
            let Bytes { captured, missing } = bytes;
            let bytes = match captured.get(skipped as usize..) {
                Some(fresh) if skipped > 0 => Bytes { captured: fresh.into(), missing },
                Some(_) => Bytes { captured, missing },
                None => Bytes { captured: Box::default(), missing: wire - skipped },
            };
            return Some((gap, bytes));
        }
    }

    /// Nothing is waited for any more.
    pub(super) fn release(&mut self, budget: &mut WaitingBudget) {
        if let Some(waiting) = self.waiting.take() {
            budget.0 += waiting.bytes + waiting.segments.len() * SEGMENT_OVERHEAD;
        }
    }
}

impl Bytes {
    fn wire(&self) -> u32 {
        u32::try_from(self.captured.len()).unwrap_or(u32::MAX).saturating_add(self.missing)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Everything that comes out, with `?` for each byte that is missing.
    fn run(segments: &[(u32, &[u8])], base: u32, budget: &mut WaitingBudget) -> Vec<u8> {
        let mut stream = Stream::default();
        stream.begin(base);
        let mut out = Vec::new();
        let drain = |stream: &mut Stream, budget: &mut WaitingBudget, out: &mut Vec<u8>| {
            while let Some((gap, bytes)) = stream.pop(budget) {
                out.extend(std::iter::repeat_n(b'?', gap as usize));
                out.extend_from_slice(&bytes.captured);
            }
        };
        for (at, bytes) in segments {
            let taken = stream.take(base.wrapping_add(*at), bytes, bytes.len() as u32, RawNs(0), budget);
            if let Next::Bytes { skipped, .. } = taken {
                out.extend_from_slice(&bytes[skipped as usize..]);
            }
            drain(&mut stream, budget, &mut out);
        }
        stream.give_up();
        drain(&mut stream, budget, &mut out);
        stream.release(budget);
        out
    }

    #[test]
    fn late_segments_are_put_in_order_and_the_first_copy_wins() {
        let mut budget = WaitingBudget::new(1 << 20);
        let out =
            run(&[(3, b"def"), (6, b"ghi"), (0, b"abc"), (0, b"XXXX"), (9, b"j")], u32::MAX - 4, &mut budget);
        assert_eq!(out, b"abcdefghij");
        let out = run(&[(2, b"cd"), (1, b"BCDE"), (0, b"a")], 7, &mut budget);
        assert_eq!(out, b"aBCDE");
        assert_eq!(run(&[(0, b"ab"), (5, b"fg")], 0, &mut budget), b"ab???fg");
        assert_eq!(budget.left(), 1 << 20);
    }

    #[test]
    fn waiting_ends_by_number_bytes_time_and_budget() {
        let mut budget = WaitingBudget::new(1 << 20);
        let many: Vec<(u32, &[u8])> = (1..40).map(|n| (n * 2, &b"x"[..])).collect();
        let mut stream = Stream::default();
        stream.begin(0);
        for (at, bytes) in &many {
            stream.take(*at, bytes, 1, RawNs(0), &mut budget);
            let waiting = stream.waiting.as_ref().map_or(0, |waiting| waiting.segments.len());
            assert!(waiting <= SEGMENTS_MAX);
            while stream.pop(&mut budget).is_some() {}
        }
        stream.release(&mut budget);
        assert_eq!(budget.left(), 1 << 20);

        let mut stream = Stream::default();
        stream.begin(0);
        stream.take(5, b"x", 1, RawNs(0), &mut budget);
        assert_eq!(stream.pop(&mut budget), None);
        stream.take(7, b"y", 1, RawNs(WAIT_MAX_NS + 1), &mut budget);
        assert_eq!(stream.pop(&mut budget).map(|(gap, _)| gap), Some(5));
        stream.release(&mut budget);

        let mut none = WaitingBudget::new(10);
        assert_eq!(run(&[(3, b"def"), (0, b"abc")], 0, &mut none), b"abc");
        assert_eq!(none.left(), 10);
    }

    proptest! {
        #[test]
        fn any_order_of_a_whole_stream_gives_the_stream(
            base in any::<u32>(),
            mut cuts in prop::collection::vec(1usize..64, 0..8),
            order in any::<prop::sample::Index>(),
            repeats in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
        ) {
            let whole: Vec<u8> = (0..64).collect();
            cuts.extend([0, 64]);
            cuts.sort_unstable();
            cuts.dedup();
            let mut segments: Vec<(u32, &[u8])> =
                cuts.windows(2).map(|pair| (pair[0] as u32, &whole[pair[0]..pair[1]])).collect();
            let by = order.index(segments.len());
            segments.rotate_left(by);
            for repeat in repeats {
                let again = segments[repeat.index(segments.len())];
                segments.push(again);
            }
            segments.reverse();
            let mut budget = WaitingBudget::new(1 << 20);
            prop_assert_eq!(run(&segments, base, &mut budget), whole);
            prop_assert_eq!(budget.left(), 1 << 20);
        }

        #[test]
        fn any_segments_stay_in_bounds_and_give_everything_back(
            segments in prop::collection::vec((any::<u32>(), 0usize..3000, 0u32..5000, 0u64..1 << 33), 0..100),
        ) {
            let bytes = [7; 3000];
            let mut budget = WaitingBudget::new(20_000);
            let mut stream = Stream::default();
            stream.begin(0);
            for (start, captured, extra, now) in segments {
                let wire = captured as u32 + extra;
                stream.take(start % 70_000, &bytes[..captured], wire, RawNs(now), &mut budget);
                while stream.pop(&mut budget).is_some() {}
            }
            stream.release(&mut budget);
            prop_assert_eq!(budget.left(), 20_000);
        }
    }
}
