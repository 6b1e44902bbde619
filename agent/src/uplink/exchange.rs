//! When to ask the collector for the time, and how long to wait for its answer. What an answer proves, and when the next
//! is due, the [`Timekeeper`] says.

use gnomon_clock::{Clock, ExchangeSample, MonoNs, RawNs, UtcNs};
use gnomon_proto::v1;

use crate::timekeeper::Timekeeper;

/// Exchanges right after Welcome, before the first entry.
pub(super) const OPENING: u32 = 3;
/// A reply that took longer is not waited for.
const REPLY_NS_MAX: u64 = 2_000_000_000;

/// The exchanges under way. Lives as long as the agent; sessions come and go.
#[derive(Debug, Default)]
pub(super) struct Exchanges {
    opening_left: u32,
    last_id: u64,
    outstanding: Option<(u64, MonoNs)>,
    rejected: u64,
}

impl Exchanges {
    /// A session begins: ask at once, and know that what was asked before gets no answer.
    pub(super) fn begin_session(&mut self) {
        self.opening_left = OPENING;
        self.outstanding = None;
    }

    /// Whether entries should still wait for the first evidence.
    pub(super) fn is_opening(&self) -> bool {
        self.opening_left > 0
    }

    /// When to call [`Exchanges::request`] next.
    pub(super) fn due(&self, keeper: &Timekeeper, raw: RawNs) -> MonoNs {
        match self.outstanding {
            Some((_, asked)) => MonoNs(asked.0.saturating_add(REPLY_NS_MAX)),
            None if self.opening_left > 0 => MonoNs(0),
            None => keeper.exchange_due(raw),
        }
    }

    /// The request to send now, if one is due. Its t1 is set when it leaves, by [`stamp`].
    pub(super) fn request(&mut self, keeper: &Timekeeper, clock: &dyn Clock) -> Option<v1::ExchangeRequest> {
        let now = clock.monotonic();
        if now < self.due(keeper, clock.raw()) {
            return None;
        }
        if self.outstanding.take().is_some() {
            // No answer: entries have waited long enough.
            self.opening_left = 0;
            self.rejected += 1;
        }
        self.last_id += 1;
        self.outstanding = Some((self.last_id, now));
        keeper.exchange_begun(now);
        Some(v1::ExchangeRequest { id: self.last_id, t1_raw_ns: 0 })
    }

    /// Takes an answer in. Late and unasked ones are none.
    pub(super) fn reply(&mut self, reply: &v1::ExchangeReply, keeper: &Timekeeper, t4: RawNs) {
        if self.outstanding.is_none_or(|(id, _)| id != reply.id) {
            return;
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
        if let Err(error) = keeper.exchanged(&sample, reply.collector_timeline, reply.collector_proven) {
            self.rejected += 1;
            tracing::debug!(%error, "a clock exchange with the collector is no evidence");
        }
    }

    pub(super) fn rejected(&self) -> u64 {
        self.rejected
    }
}

/// Sets t1 of a request that leaves now.
pub(super) fn stamp(mut message: v1::AgentMessage, clock: &dyn Clock) -> v1::AgentMessage {
    if let Some(v1::agent_message::Body::Exchange(request)) = &mut message.body {
        request.t1_raw_ns = clock.raw().0;
    }
    message
}

#[cfg(test)]
mod tests {
    use gnomon_clock::EpochId;
    use gnomon_clock::sim::SimClock;

    use super::*;
    use crate::timekeeper::Evidence;

    fn answer(exchanges: &mut Exchanges, keeper: &Timekeeper, sim: &SimClock) -> bool {
        let Some(request) = exchanges.request(keeper, sim) else { return false };
        let t1 = sim.raw();
        sim.advance(100_000);
        let at = sim.truth().tai_ns();
        sim.advance(100_000);
        let reply = v1::ExchangeReply {
            id: request.id,
            t1_raw_ns: t1.0,
            t2_tai_ns: at,
            t3_tai_ns: at,
            collector_err_ns: 1_000,
            collector_proven: true,
            collector_timeline: 7,
        };
        exchanges.reply(&reply, keeper, sim.raw());
        true
    }

    #[test]
    fn three_at_once_then_slowly_once_the_time_is_known_and_at_once_after_a_step() {
        let sim = SimClock::new(0);
        sim.advance(5_000_000_000);
        let keeper = Timekeeper::new(EpochId::default(), Evidence::default());
        let mut exchanges = Exchanges::default();
        exchanges.begin_session();
        for _ in 0..OPENING {
            assert!(exchanges.is_opening());
            assert!(answer(&mut exchanges, &keeper, &sim));
        }
        assert!(!exchanges.is_opening());
        let wait_ns = exchanges.due(&keeper, sim.raw()).since(sim.monotonic());
        assert!(wait_ns >= 15_000_000_000, "synced after three good ones: {wait_ns}");
        assert_eq!(keeper.untold().len(), 3);
        assert!(!answer(&mut exchanges, &keeper, &sim));
        assert!(keeper.stepped(sim.raw(), Some(3_600_000_000_000)));
        assert!(answer(&mut exchanges, &keeper, &sim), "a step makes it due");
    }

    #[test]
    fn a_silent_collector_does_not_hold_entries_up_and_a_late_or_forged_reply_is_none() {
        let sim = SimClock::new(0);
        let keeper = Timekeeper::new(EpochId::default(), Evidence::default());
        let mut exchanges = Exchanges::default();
        exchanges.begin_session();
        let asked = exchanges.request(&keeper, &sim).unwrap();
        assert_eq!(exchanges.request(&keeper, &sim), None);
        sim.advance(REPLY_NS_MAX);
        assert!(exchanges.request(&keeper, &sim).is_some());
        assert!(!exchanges.is_opening());
        let late = v1::ExchangeReply { id: asked.id, ..v1::ExchangeReply::default() };
        exchanges.reply(&late, &keeper, sim.raw());
        assert!(keeper.untold().is_empty());
    }
}
