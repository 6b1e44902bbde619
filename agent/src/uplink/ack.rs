//! What was sent and not acknowledged: the window of a session, and what an honest acknowledgement can say.

use std::collections::{HashMap, VecDeque};

use gnomon_clock::EpochId;

/// A window below this would stall on one entry after the other.
const WINDOW_BYTES_MIN: u64 = 64 * 1024;
/// More than this is of no use: it is 100 ms of 5 Gbit/s.
const WINDOW_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// The collector acknowledged what it was never sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the collector acknowledged entry {seq} of epoch {epoch}, of which {sent} was the last one sent")]
pub(super) struct AckBeyondSent {
    pub(super) epoch: EpochId,
    pub(super) seq: u64,
    pub(super) sent: u64,
}

#[derive(Debug)]
struct Sent {
    epoch: EpochId,
    seq: u64,
    bytes: u64,
}

#[derive(Debug)]
pub(super) struct Window {
    bytes_max: u64,
    bytes: u64,
    sent: VecDeque<Sent>,
    /// The last number sent, or known to be durable, of each epoch of this session.
    last: HashMap<EpochId, u64>,
}

impl Window {
    /// `durable`: what the collector had before this session.
    pub(super) fn new(window_bytes: u64, durable: &HashMap<EpochId, u64>) -> Window {
        Window {
            bytes_max: window_bytes.clamp(WINDOW_BYTES_MIN, WINDOW_BYTES_MAX),
            bytes: 0,
            sent: VecDeque::new(),
            last: durable.clone(),
        }
    }

    /// Whether an entry may be sent now. One always may, however large.
    pub(super) fn fits(&self, payload_bytes: usize) -> bool {
        self.sent.is_empty() || self.bytes.saturating_add(payload_bytes as u64) <= self.bytes_max
    }

    pub(super) fn sent(&mut self, epoch: EpochId, seq: u64, payload_bytes: usize) {
        self.bytes += payload_bytes as u64;
        self.sent.push_back(Sent { epoch, seq, bytes: payload_bytes as u64 });
        self.last.insert(epoch, seq);
    }

    /// How many entries an acknowledgement settles.
    ///
    /// # Errors
    /// When it names what was not sent.
    pub(super) fn ack(&mut self, epoch: EpochId, seq: u64) -> Result<u64, AckBeyondSent> {
        let sent = self.last.get(&epoch).copied().unwrap_or(0);
        if seq > sent {
            return Err(AckBeyondSent { epoch, seq, sent });
        }
        let before = self.sent.len();
        let bytes = &mut self.bytes;
        self.sent.retain(|entry| {
            let settled = entry.epoch == epoch && entry.seq <= seq;
            if settled {
                *bytes -= entry.bytes;
            }
            !settled
        });
        Ok((before - self.sent.len()) as u64)
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use gnomon_clock::RawNs;

    use super::*;

    fn epoch(n: u64) -> EpochId {
        EpochId { opened: RawNs(n), ..EpochId::default() }
    }

    #[test]
    fn the_window_fills_and_opens_and_one_large_entry_passes() {
        let mut window = Window::new(0, &HashMap::new());
        assert!(window.fits(8 << 20));
        window.sent(epoch(1), 1, 60_000);
        assert!(window.fits(5_000) && !window.fits(6_000));
        window.sent(epoch(1), 2, 5_000);
        assert_eq!(window.ack(epoch(1), 1), Ok(1));
        assert_eq!(window.ack(epoch(1), 1), Ok(0), "twice is once");
        assert_eq!((window.bytes(), window.fits(6_000)), (5_000, true));
    }

    #[test]
    fn an_acknowledgement_of_what_was_not_sent_is_an_error() {
        let mut window = Window::new(1 << 20, &HashMap::from([(epoch(1), 5)]));
        assert_eq!(window.ack(epoch(1), 5), Ok(0));
        assert!(window.ack(epoch(1), 6).is_err());
        assert!(window.ack(epoch(2), 1).is_err());
    }
}
