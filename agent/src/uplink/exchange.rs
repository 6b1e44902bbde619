//! When to ask the collector for the time, and what its answers prove: the schedule around `gnomon_clock`'s arithmetic.

use gnomon_clock::{
    Clock, ClockState, EpochId, ExchangeFilter, ExchangeSample, Fix, MonoNs, RawNs, Timeline, UtcNs,
};
use gnomon_proto::v1;

/// Exchanges right after Welcome, before the first entry.
pub(super) const OPENING: u32 = 3;
const FAST_NS: u64 = 1_000_000_000;
const SLOW_NS: u64 = 16_000_000_000;
/// A reply that took longer is not waited for.
const REPLY_NS_MAX: u64 = 2_000_000_000;
/// Fixes repeated at the beginning of a session: the last report of the one before may have been lost.
const REPEATED: usize = 64;

/// Evidence about the current epoch's clock. Lives as long as the agent; sessions come and go.
pub(super) struct Exchanges {
    timeline: Timeline,
    filter: ExchangeFilter,
    opening_left: u32,
    next_id: u64,
    outstanding: Option<(u64, MonoNs)>,
    due: MonoNs,
    rejected: u64,
}

impl Exchanges {
    pub(super) fn new(epoch: EpochId) -> Exchanges {
        Exchanges {
            timeline: Timeline::new(epoch),
            filter: ExchangeFilter::new(),
            opening_left: OPENING,
            next_id: 1,
            outstanding: None,
            due: MonoNs(0),
            rejected: 0,
        }
    }

    /// A session begins: ask at once, and know that what was asked before gets no answer.
    pub(super) fn begin_session(&mut self, now: MonoNs) {
        self.opening_left = OPENING;
        self.outstanding = None;
        self.due = now;
    }

    /// RAW readings of another epoch are not comparable: begin anew.
    pub(super) fn set_epoch(&mut self, epoch: EpochId, now: MonoNs) {
        if self.timeline.epoch() != epoch {
            *self = Exchanges { next_id: self.next_id, ..Exchanges::new(epoch) };
            self.due = now;
        }
    }

    pub(super) fn epoch(&self) -> EpochId {
        self.timeline.epoch()
    }

    /// Whether entries should still wait for the first evidence.
    pub(super) fn is_opening(&self) -> bool {
        self.opening_left > 0
    }

    /// When to call [`Exchanges::request`] next.
    pub(super) fn due(&self) -> MonoNs {
        match self.outstanding {
            Some((_, asked)) => MonoNs(asked.0.saturating_add(REPLY_NS_MAX)),
            None => self.due,
        }
    }

    /// The request to send now, if one is due. Its t1 is set when it leaves, by [`stamp`].
    pub(super) fn request(&mut self, now: MonoNs) -> Option<v1::ExchangeRequest> {
        if now < self.due() {
            return None;
        }
        if self.outstanding.take().is_some() {
            // No answer: entries have waited long enough.
            self.opening_left = 0;
            self.rejected += 1;
        }
        let id = self.next_id;
        self.next_id += 1;
        self.outstanding = Some((id, now));
        Some(v1::ExchangeRequest { id, t1_raw_ns: 0 })
    }

    /// What a reply proves, if it does and is worth keeping.
    pub(super) fn reply(&mut self, reply: &v1::ExchangeReply, t4: RawNs, now: MonoNs) -> Option<Fix> {
        if self.outstanding.is_none_or(|(id, _)| id != reply.id) {
            return None;
        }
        self.outstanding = None;
        self.opening_left = self.opening_left.saturating_sub(1);
        let sample = ExchangeSample {
            t1: RawNs(reply.t1_raw_ns),
            t2: UtcNs::from_tai_ns(reply.t2_tai_ns),
            t3: UtcNs::from_tai_ns(reply.t3_tai_ns),
            t4,
            collector_err_ns: reply.collector_err_ns,
        };
        let fix = match self.filter.add(&sample) {
            Ok(fix) => fix,
            Err(error) => {
                self.rejected += 1;
                tracing::debug!(%error, "a clock exchange with the collector is no evidence");
                None
            }
        };
        if let Some(fix) = fix {
            self.timeline.add(fix);
        }
        let wait_ns = match (self.opening_left, self.timeline.state(t4)) {
            (1.., _) => 0,
            (_, ClockState::Synced) => SLOW_NS,
            _ => FAST_NS,
        };
        self.due = MonoNs(now.0.saturating_add(wait_ns));
        fix
    }

    /// The newest evidence there is, to repeat to a collector that may not have it.
    pub(super) fn known(&self) -> Vec<Fix> {
        let fixes: Vec<Fix> = self.timeline.fixes().copied().collect();
        fixes[fixes.len().saturating_sub(REPEATED)..].to_vec()
    }

    pub(super) fn rejected(&self) -> u64 {
        self.rejected
    }

    /// What the heartbeat says of the clock.
    pub(super) fn status(&self, clock: &dyn Clock) -> v1::ClockStatus {
        let bracket = clock.bracket();
        let kernel = clock.kernel_status().unwrap_or_default();
        let estimate = self.timeline.estimate(bracket.raw);
        let source = self.timeline.fixes().last().map(|fix| fix.source);
        v1::ClockStatus {
            state: state_to_wire(self.timeline.state(bracket.raw)).into(),
            raw_ns: bracket.raw.0,
            realtime_tai_ns: bracket.realtime.tai_ns(),
            half_width_ns: bracket.half_width_ns,
            kernel_max_error_ns: kernel.max_error_ns,
            kernel_unsync: kernel.unsync,
            err_ns: estimate.map_or(u64::MAX, |estimate| estimate.err_ns),
            source: source.map_or(0, |source| v1::FixSource::from(source).into()),
            ..v1::ClockStatus::default()
        }
    }
}

/// Sets t1 of a request that leaves now.
pub(super) fn stamp(mut message: v1::AgentMessage, clock: &dyn Clock) -> v1::AgentMessage {
    if let Some(v1::agent_message::Body::Exchange(request)) = &mut message.body {
        request.t1_raw_ns = clock.raw().0;
    }
    message
}

fn state_to_wire(state: ClockState) -> v1::ClockState {
    match state {
        ClockState::Cold => v1::ClockState::Cold,
        ClockState::Acquiring => v1::ClockState::Acquiring,
        ClockState::Synced => v1::ClockState::Synced,
        ClockState::Holdover => v1::ClockState::Holdover,
        ClockState::Unbounded => v1::ClockState::Unbounded,
        ClockState::Conflict => v1::ClockState::Conflict,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TAI: i64 = 1_800_000_000_000_000_000;

    fn answer(exchanges: &mut Exchanges, now: MonoNs) -> Option<Fix> {
        let request = exchanges.request(now)?;
        let reply = v1::ExchangeReply {
            id: request.id,
            t1_raw_ns: now.0,
            t2_tai_ns: TAI + now.0.cast_signed(),
            t3_tai_ns: TAI + now.0.cast_signed() + 1_000,
            collector_err_ns: 1_000,
            collector_proven: true,
        };
        exchanges.reply(&reply, RawNs(now.0 + 200_000), MonoNs(now.0 + 200_000))
    }

    #[test]
    fn three_at_once_then_slowly_once_the_time_is_known() {
        let mut exchanges = Exchanges::new(EpochId::default());
        let start = MonoNs(5_000_000_000);
        exchanges.begin_session(start);
        for n in 0..OPENING {
            assert!(exchanges.is_opening());
            assert!(answer(&mut exchanges, MonoNs(start.0 + u64::from(n) * 1_000_000)).is_some());
        }
        assert!(!exchanges.is_opening());
        assert!(exchanges.due().since(start) >= SLOW_NS, "synced after three good ones");
        assert_eq!(exchanges.known().len(), 3);
    }

    #[test]
    fn a_silent_collector_does_not_hold_entries_up_and_a_late_or_forged_reply_is_none() {
        let mut exchanges = Exchanges::new(EpochId::default());
        exchanges.begin_session(MonoNs(1));
        let asked = exchanges.request(MonoNs(1)).unwrap();
        assert_eq!(exchanges.request(MonoNs(2)), None);
        assert!(exchanges.request(MonoNs(1 + REPLY_NS_MAX)).is_some());
        assert!(!exchanges.is_opening());
        let late = v1::ExchangeReply { id: asked.id, ..v1::ExchangeReply::default() };
        assert_eq!(exchanges.reply(&late, RawNs(9), MonoNs(9)), None);
    }
}
