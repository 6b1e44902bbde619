//! What acknowledgements do to the index: what is durable at the collector, what of it is settled, and what it lost again.

use super::super::memory::Key;
use super::{Acked, Candidate, InFlight, Index};

impl Index {
    /// Everything of the epoch up to `seq` is durable elsewhere.
    pub(in super::super) fn ack(&mut self, epoch: usize, seq: u64) -> Acked {
        let state = &mut self.epochs[epoch];
        let seq = seq.min(state.last_seq);
        if seq <= state.acked {
            return Acked::Known;
        }
        state.acked = seq;
        let beyond = self.in_flight.range((epoch, seq)..=(epoch, u64::MAX)).next().is_none();
        let flying: Vec<Key> = self.in_flight.range((epoch, 0)..=(epoch, seq)).map(|(key, _)| *key).collect();
        for key in flying {
            if let Some(InFlight { on_disk: Some((number, end)), items, written, .. }) =
                self.in_flight.remove(&key)
                && let Some(segment) = self.segments.get_mut(&number)
            {
                segment.acknowledge(end, items, written);
            }
        }
        self.close_acked(epoch);
        if beyond { Acked::BeyondReader } else { Acked::InFlight }
    }

    /// Of segments that are acknowledged to their end nothing is pending, whether the reader was there or not.
    pub(in super::super) fn close_acked(&mut self, epoch: usize) {
        let acked = self.epochs[epoch].acked;
        let mut closed = Vec::new();
        for (number, segment) in &mut self.segments {
            let pending = segment.pending();
            if segment.epoch != epoch || segment.totals.last_seq > acked || pending.entries == 0 {
                continue;
            }
            if segment.read_offset >= segment.end {
                // What a damaged stretch held beyond the one entry it was counted as.
                segment.lost.add(pending.entries, pending.items);
                self.damaged.add(pending.entries, pending.items);
            } else {
                segment.acked.add(pending.entries, pending.items);
            }
            (segment.read_offset, segment.acked_offset) = (segment.end, segment.end);
            segment.last_read = segment.totals.last_seq;
            closed.push(*number);
        }
        closed.into_iter().for_each(|number| self.mark(number));
    }

    /// What is acknowledged up to `seq` is safe there, whatever happens to the collector's log: it can be forgotten here.
    /// True when that is news.
    pub(in super::super) fn settle(&mut self, epoch: usize, seq: u64) -> bool {
        let state = &mut self.epochs[epoch];
        let seq = seq.min(state.acked);
        if seq <= state.settled {
            return false;
        }
        state.settled = seq;
        for (lane, key) in self.memory.idle_upto(epoch, seq) {
            self.memory.remove(lane, key);
        }
        true
    }

    /// The collector has less than it acknowledged: what is still here is read again from there on.
    pub(in super::super) fn unack(&mut self, epoch: usize, seq: u64) {
        let state = &mut self.epochs[epoch];
        state.acked = seq;
        state.settled = state.settled.min(seq);
        state.cursor = seq;
        let mut reset = Vec::new();
        for (number, segment) in &mut self.segments {
            if segment.epoch == epoch && segment.totals.last_seq > seq {
                segment.forget_acks();
                reset.push(*number);
            }
        }
        reset.into_iter().for_each(|number| self.mark(number));
    }

    /// Segments that an acknowledgement covers in part beyond what the reader handed out: their headers have to be read
    /// to know what is left in them.
    pub(in super::super) fn half_acked(&self) -> Vec<Candidate> {
        let half = self.segments.iter().filter(|(_, segment)| {
            let acked = self.epochs[segment.epoch].acked;
            segment.totals.entries > 0
                && segment.totals.first_seq <= acked
                && acked < segment.totals.last_seq
                && segment.read_offset == segment.acked_offset
        });
        half.map(|(number, segment)| Candidate {
            number: *number,
            lane: segment.lane,
            epoch: segment.epoch,
            format: segment.format,
            at: segment.read_offset,
            end: segment.end,
        })
        .collect()
    }

    /// A segment of an earlier process that was acknowledged as a whole.
    pub(in super::super) fn opened(&mut self, epoch: usize) {
        self.close_acked(epoch);
    }
}
