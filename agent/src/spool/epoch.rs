//! What the spool knows of an epoch: how far it was written, handed out, acknowledged, settled, and its name on the wire.
//!
//! On the wire an epoch has its own name and numbers, unless a collector claimed to have more of it than it was ever sent.
//! Then what is not acknowledged is sent under numbers beyond those claimed, in the same epoch, so that records keep their
//! ids and their clock; where no numbers are left beyond them, under the name of another epoch of the same boot
//! (docs/adr/0022).

use gnomon_clock::{EpochId, RawNs};

/// Numbers that a collector may claim too much and the epoch keeps its name. Beyond, the numbers could run out.
const SHIFT_MAX: u64 = 1 << 48;

#[derive(Clone, Copy, Debug)]
pub(super) struct Epoch {
    pub(super) id: EpochId,
    pub(super) suspended_ns: u64,
    /// The highest sequence number given out.
    pub(super) last_seq: u64,
    pub(super) acked: u64,
    /// Of what is acknowledged, what the collector has safe in its tables.
    pub(super) settled: u64,
    /// The reader handed out everything up to here.
    pub(super) cursor: u64,
    /// The highest number ever handed out by this process.
    handed_max: u64,
    /// It was opened by this process, which therefore knows all that was sent of it.
    own: bool,
    /// Its name on the wire, and what is added to its numbers there.
    pub(super) wire_id: EpochId,
    pub(super) shift: u64,
    /// Entries given up that come after the last acknowledgement, and the highest number among them.
    pub(super) given_up: u64,
    given_up_last: u64,
    /// As it was when the ledger last heard of it.
    noted_seq: u64,
}

impl Epoch {
    pub(super) fn new(id: EpochId, suspended_ns: u64) -> Epoch {
        Epoch {
            id,
            suspended_ns,
            last_seq: 0,
            acked: 0,
            settled: 0,
            cursor: 0,
            handed_max: 0,
            own: true,
            wire_id: id,
            shift: 0,
            given_up: 0,
            given_up_last: 0,
            noted_seq: 0,
        }
    }

    /// Of an earlier process.
    pub(super) fn known(id: EpochId, suspended_ns: u64) -> Epoch {
        Epoch { own: false, ..Epoch::new(id, suspended_ns) }
    }

    pub(super) fn handed_out(&mut self, seq: u64) {
        self.cursor = self.cursor.max(seq);
        self.handed_max = self.handed_max.max(seq);
    }

    pub(super) fn gave_up(&mut self, entries: u64, last_seq: u64) {
        if self.acked >= self.given_up_last {
            self.given_up = 0;
        }
        self.given_up += entries;
        self.given_up_last = self.given_up_last.max(last_seq);
    }

    /// Whether numbers were given out since this was last asked.
    pub(super) fn has_grown(&mut self) -> bool {
        self.last_seq > std::mem::replace(&mut self.noted_seq, self.last_seq)
    }

    pub(super) fn wire_seq(&self, seq: u64) -> u64 {
        seq.saturating_add(self.shift)
    }

    /// The number here of what has `wire_seq` on the wire.
    pub(super) fn seq_of(&self, wire_seq: u64) -> u64 {
        wire_seq.saturating_sub(self.shift)
    }

    /// The highest number that an honest collector can have. Of an earlier process, all it wrote.
    pub(super) fn sent(&self) -> u64 {
        if self.own { self.handed_max } else { self.last_seq.max(self.acked) }
    }

    /// The collector claims `wire_seq` and was never sent it: from now on what is not acknowledged has other numbers.
    pub(super) fn renumber(&mut self, wire_seq: u64) {
        let shift = wire_seq.saturating_sub(self.acked);
        if shift <= SHIFT_MAX {
            self.shift = shift;
        } else {
            // RAW within a boot: what is evidence for the one name is for the other.
            self.wire_id.opened = RawNs(self.wire_id.opened.0.saturating_add(1));
            self.shift = 0;
        }
        self.handed_max = self.acked;
        self.cursor = self.acked;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renumbered_entries_come_after_what_was_claimed_and_map_back() {
        let mut epoch = Epoch::new(EpochId { opened: RawNs(7), ..EpochId::default() }, 0);
        (epoch.last_seq, epoch.acked) = (500, 100);
        epoch.renumber(90_000);
        assert_eq!((epoch.wire_id, epoch.wire_seq(101)), (epoch.id, 90_001));
        assert_eq!((epoch.seq_of(90_001), epoch.seq_of(90_000), epoch.seq_of(3)), (101, 100, 0));
        epoch.renumber(u64::MAX);
        assert_eq!((epoch.wire_id.opened, epoch.wire_seq(101)), (RawNs(8), 101));
    }
}
