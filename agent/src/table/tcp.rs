//! Where a TCP connection stands (RFC 9293 section 3.3.2), as far as one can see from the side.

use gnomon_clock::RawNs;
use gnomon_flow::{TcpState, TcpSummary};

use super::sequence::{Sequence, Taken};
use crate::decode::TcpHeader;

#[derive(Debug, Default)]
pub(super) struct Tcp {
    state: TcpState,
    /// Packets: a segment of a flow has no more than 65,535.
    flags: [u16; 8],
    syn_ack: u16,
    retransmissions: u16,
    of_side: [u8; 2],
    handshake: Handshake,
    /// Of the originator and the responder.
    sides: [Sequence; 2],
    seen: bool,
    /// A SYN with another number came while the connection was open: see [`super::challenge`].
    challenged: bool,
}

/// The handshake's clock, in one word.
#[derive(Clone, Copy, Debug, Default)]
struct Handshake(u64);

impl Handshake {
    /// Above this the word is a round trip, below it the time of the SYN. RAW and POSIX nanoseconds reach it in 2262.
    const MEASURED: u64 = 1 << 63;

    /// The originator's SYN, or its repetition, passed.
    fn syn(at: RawNs) -> Handshake {
        Handshake(at.0.clamp(1, Self::MEASURED - 1))
    }

    /// The originator acknowledged the SYN-ACK.
    fn acknowledged(self, at: RawNs) -> Handshake {
        if self.0 == 0 || self.0 >= Self::MEASURED {
            return self;
        }
        Handshake(Self::MEASURED | at.since(RawNs(self.0)).min(Self::MEASURED - 1))
    }

    fn rtt_ns(self) -> Option<u64> {
        self.0.checked_sub(Self::MEASURED)
    }
}

impl Tcp {
    /// Account for a segment from side 0 (originator) or 1 (responder).
    #[inline]
    pub(super) fn observe(&mut self, header: &TcpHeader, payload_len: u32, side: usize, at: RawNs) -> Taken {
        self.seen = true;
        self.count(header, side);
        let fresh = !self.sides[0].is_started() && !self.sides[1].is_started();
        if header.has(TcpHeader::RST) {
            self.reset(header, side);
            // What a reset carries is a diagnostic, no data (RFC 9293 section 3.5.3).
            return Taken::default();
        }
        if self.is_challenge(header, side) {
            self.challenged = true;
            return Taken::default();
        }
        if header.is_syn_ack() {
            self.sides[1 - side].learn_initial(header.ack);
        }
        let taken = self.sides[side].take(header, payload_len);
        self.retransmissions = self.retransmissions.saturating_add(u16::from(taken.repeated));
        if header.has(TcpHeader::ACK) {
            self.sides[side].acknowledge(header.ack);
        }
        self.open(header, side, at, fresh);
        self.close(header, side);
        taken
    }

    /// A segment that was captured twice: its flags are counted.
    pub(super) fn observe_again(&mut self, header: &TcpHeader, side: usize) {
        self.seen = true;
        self.count(header, side);
    }

    fn count(&mut self, header: &TcpHeader, side: usize) {
        self.of_side[side] |= header.flags;
        for (bit, count) in self.flags.iter_mut().enumerate() {
            *count = count.saturating_add(u16::from(header.flags >> bit & 1));
        }
        if header.is_syn_ack() {
            // Counted apart.
            self.flags[1] -= u16::from(self.flags[1] > 0);
            self.syn_ack = self.syn_ack.saturating_add(1);
        }
    }

    fn open(&mut self, header: &TcpHeader, side: usize, at: RawNs, fresh: bool) {
        if header.is_syn() {
            if fresh {
                self.state = TcpState::SynSent;
            }
            if side == 0 && self.state == TcpState::SynSent {
                self.handshake = Handshake::syn(at);
            }
        } else if header.is_syn_ack() {
            if side == 1 && (fresh || self.state == TcpState::SynSent) {
                self.state = TcpState::SynReceived;
            }
        } else if header.has(TcpHeader::ACK) {
            match self.state {
                TcpState::SynReceived if side == 0 && self.sides[1].syn_is_covered_by(header.ack) => {
                    self.state = TcpState::Established;
                    self.handshake = self.handshake.acknowledged(at);
                }
                // The SYN-ACK was not captured.
                TcpState::SynSent => self.state = TcpState::Established,
                _ => {}
            }
        }
    }

    fn close(&mut self, header: &TcpHeader, side: usize) {
        if header.has(TcpHeader::ACK) && self.sides[1 - side].fin_is_covered_by(header.ack) {
            self.sides[1 - side].fin_acked = true;
        }
        if matches!(self.state, TcpState::Closed | TcpState::Reset) {
            return;
        }
        if self.sides[0].fin_acked && self.sides[1].fin_acked {
            self.state = TcpState::Closed;
        } else if self.sides[0].has_fin() || self.sides[1].has_fin() {
            self.state = TcpState::Closing;
        }
    }

    fn reset(&mut self, header: &TcpHeader, side: usize) {
        let [orig, resp] = &self.sides;
        let (own, other) = if side == 0 { (orig, resp) } else { (resp, orig) };
        if self.state != TcpState::Closed && own.would_accept_reset(header.seq, other) {
            self.state = TcpState::Reset;
        }
    }

    /// The connection is over but for stragglers.
    #[inline]
    pub(super) fn is_closed(&self) -> bool {
        matches!(self.state, TcpState::Closed | TcpState::Reset)
    }

    /// Whether the packet begins another connection on the ports of this one, which has begun to close.
    #[inline]
    pub(super) fn is_reopened_by(&self, header: &TcpHeader, side: usize) -> bool {
        header.is_syn()
            && matches!(self.state, TcpState::Closing | TcpState::Closed | TcpState::Reset)
            && self.sides[side].is_new_connection(header.seq)
    }

    /// A SYN with another number while both sides of the connection are known: a new connection on the same ports, or one
    /// that the receiver refuses (a challenge acknowledgement, RFC 5961 section 4). What follows tells.
    #[inline]
    pub(super) fn is_challenge(&self, header: &TcpHeader, side: usize) -> bool {
        header.is_syn() && self.knows_both_sides() && self.sides[side].is_new_connection(header.seq)
    }

    /// Whether a packet may be the one that tells.
    #[inline]
    pub(super) fn may_be_superseded(&self, header: &TcpHeader, side: usize) -> bool {
        self.challenged || (header.is_syn_ack() && self.is_new_handshake(header, side))
    }

    /// A SYN-ACK whose numbers are those of another connection, both of them.
    pub(super) fn is_new_handshake(&self, header: &TcpHeader, side: usize) -> bool {
        header.is_syn_ack()
            && self.knows_both_sides()
            && self.sides[side].is_new_connection(header.seq)
            && self.sides[1 - side].is_new_connection(header.ack.wrapping_sub(1))
    }

    fn knows_both_sides(&self) -> bool {
        self.sides[0].is_started() && self.sides[1].is_started()
    }

    /// A packet that was counted here belongs to another connection.
    pub(super) fn uncount(&mut self, header: &TcpHeader) {
        for (bit, count) in self.flags.iter_mut().enumerate() {
            *count = count.saturating_sub(u16::from(header.flags >> bit & 1));
        }
    }

    /// Begin counting anew; what was learnt of the connection stays.
    pub(super) fn next_segment(&mut self) {
        self.flags = [0; 8];
        self.syn_ack = 0;
        self.of_side = [0; 2];
        self.retransmissions = 0;
    }

    /// `None` when no TCP header was ever seen.
    pub(super) fn summary(&self) -> Option<TcpSummary> {
        self.seen.then_some(TcpSummary {
            state: self.state,
            flags: self.flags.map(u32::from),
            syn_ack: self.syn_ack.into(),
            of_side: self.of_side,
            rtt_ns: self.handshake.rtt_ns(),
            retransmissions: self.retransmissions.into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SYN: u8 = TcpHeader::SYN;
    const ACK: u8 = TcpHeader::ACK;
    const FIN: u8 = TcpHeader::FIN;
    const RST: u8 = TcpHeader::RST;

    fn play(tcp: &mut Tcp, segments: &[(usize, u32, u32, u8, u32)]) -> u32 {
        segments
            .iter()
            .enumerate()
            .map(|(i, (side, seq, ack, flags, len))| {
                let header = TcpHeader { seq: *seq, ack: *ack, flags: *flags };
                tcp.observe(&header, *len, *side, RawNs(i as u64 * 10 + 1)).new_bytes
            })
            .sum()
    }

    const HANDSHAKE: [(usize, u32, u32, u8, u32); 3] =
        [(0, 100, 0, SYN, 0), (1, 500, 101, SYN | ACK, 0), (0, 101, 501, ACK, 0)];

    #[test]
    fn a_whole_connection_opens_carries_data_and_closes() {
        let mut tcp = Tcp::default();
        play(&mut tcp, &HANDSHAKE[..1]);
        assert_eq!(tcp.state, TcpState::SynSent);
        let mut tcp = Tcp::default();
        play(&mut tcp, &HANDSHAKE[..2]);
        assert_eq!(tcp.state, TcpState::SynReceived);
        let mut tcp = Tcp::default();
        play(&mut tcp, &HANDSHAKE);
        assert_eq!((tcp.state, tcp.handshake.rtt_ns()), (TcpState::Established, Some(20)));
        let new =
            play(&mut tcp, &[(0, 101, 501, ACK, 7), (1, 501, 108, ACK, 20), (0, 108, 521, FIN | ACK, 0)]);
        assert_eq!((new, tcp.state), (27, TcpState::Closing));
        play(&mut tcp, &[(1, 521, 109, FIN | ACK, 0)]);
        assert_eq!(tcp.state, TcpState::Closing);
        play(&mut tcp, &[(0, 109, 522, ACK, 0)]);
        assert_eq!(tcp.state, TcpState::Closed);
        let summary = tcp.summary().unwrap();
        assert_eq!((summary.flags[1], summary.syn_ack, summary.flags[0], summary.flags[4]), (1, 1, 2, 7));
        assert_eq!(summary.retransmissions, 0);
        assert_eq!(summary.of_side, [SYN | ACK | FIN; 2]);
        tcp.next_segment();
        assert_eq!(tcp.summary().unwrap().of_side, [0; 2]);
    }

    #[test]
    fn a_refused_connection_is_reset() {
        let mut tcp = Tcp::default();
        play(&mut tcp, &[(0, 100, 0, SYN, 0), (1, 0, 101, RST | ACK, 0)]);
        assert_eq!(tcp.state, TcpState::Reset);
        assert_eq!(tcp.summary().unwrap().of_side, [SYN, RST | ACK]);
    }

    #[test]
    fn a_reset_out_of_sequence_closes_nothing() {
        let mut tcp = Tcp::default();
        play(&mut tcp, &HANDSHAKE);
        play(&mut tcp, &[(1, 0x4000_0000, 0, RST, 0)]);
        assert_eq!(tcp.state, TcpState::Established);
        assert_eq!(tcp.summary().unwrap().flags[2], 1);
        play(&mut tcp, &[(1, 501, 0, RST, 0)]);
        assert_eq!(tcp.state, TcpState::Reset);
    }

    #[test]
    fn a_connection_joined_in_the_middle_says_so_until_it_ends() {
        let mut tcp = Tcp::default();
        play(&mut tcp, &[(0, 5000, 9000, ACK, 10), (1, 9000, 5010, ACK, 10)]);
        assert_eq!(tcp.state, TcpState::Midstream);
        play(&mut tcp, &[(0, 5010, 9010, FIN | ACK, 0)]);
        assert_eq!(tcp.state, TcpState::Closing);
    }

    #[test]
    fn only_a_syn_with_another_number_after_a_close_is_another_connection() {
        let syn = |seq| TcpHeader { seq, ack: 0, flags: SYN };
        let mut tcp = Tcp::default();
        play(&mut tcp, &HANDSHAKE);
        assert!(!tcp.is_reopened_by(&syn(7), 0));
        play(&mut tcp, &[(1, 501, 0, RST, 0)]);
        assert!(tcp.is_reopened_by(&syn(7), 0));
        assert!(!tcp.is_reopened_by(&syn(100), 0));
        assert!(!tcp.is_reopened_by(&TcpHeader { flags: ACK, ..syn(7) }, 0));
    }
}
