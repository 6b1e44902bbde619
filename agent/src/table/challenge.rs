//! SYNs with new numbers on connections that are open: they wait for what tells whether another connection began.
//!
//! It did when a SYN-ACK with new numbers answers, or when the SYN's own side goes on from its number. Until then the SYN
//! is counted in the flow that is there; then it is moved to the new one. Bounded: a flood of such SYNs forgets the
//! oldest, and a forgotten SYN stays where it was counted.

use gnomon_capture::{Frame, LinkType, Stamp};
use gnomon_clock::RawNs;
use gnomon_flow::FlowId;

use crate::decode::{Fragment, Packet, TcpHeader};

const WAITING_MAX: usize = 64;

/// A SYN that was counted, with what is needed to count it once more elsewhere.
#[derive(Clone, Copy, Debug)]
pub(super) struct Challenge {
    pub(super) flow: FlowId,
    pub(super) segment: u32,
    pub(super) from_high: bool,
    pub(super) stamp: Stamp,
    /// When the flow's last packet before it was.
    pub(super) last: RawNs,
    pub(super) packet: Packet<'static>,
}

impl Challenge {
    pub(super) fn new(
        flow: FlowId,
        segment: u32,
        from_high: bool,
        stamp: Stamp,
        last: RawNs,
        packet: &Packet<'_>,
    ) -> Challenge {
        Challenge { flow, segment, from_high, stamp, last, packet: without_payload(packet) }
    }

    /// Its frame, without bytes: those of a tunnel around it are not kept.
    pub(super) fn frame(&self) -> Frame<'static> {
        Frame {
            stamp: self.stamp,
            link: LinkType::RawIp,
            original_len: self.packet.wire_len,
            data: &[],
            vlan: None,
            outgoing: false,
        }
    }

    fn is_confirmed_by(&self, header: &TcpHeader, from_high: bool) -> bool {
        let Some(syn) = self.packet.tcp else { return false };
        let next = syn.seq.wrapping_add(1);
        if from_high == self.from_high {
            header.has(TcpHeader::ACK) && !header.has(TcpHeader::RST) && header.seq == next
        } else {
            header.is_syn_ack() && header.ack == next
        }
    }
}

fn without_payload(packet: &Packet<'_>) -> Packet<'static> {
    Packet {
        key: packet.key,
        wire_len: packet.wire_len,
        ip_len: packet.ip_len,
        payload_len: packet.payload_len,
        payload: &[],
        header_len: 0,
        tcp: packet.tcp,
        icmp: None,
        arp: None,
        fragment: Fragment::Whole,
        ttl: packet.ttl,
        source_mac: packet.source_mac,
        problem: packet.problem,
        key_complete: packet.key_complete,
        network_id: packet.network_id,
        is_wrapped: packet.is_wrapped,
    }
}

#[derive(Debug, Default)]
pub(super) struct Challenges {
    waiting: Vec<Challenge>,
    /// Which one the next replaces, once there are enough.
    next: usize,
}

impl Challenges {
    pub(super) fn add(&mut self, challenge: Challenge) {
        self.waiting.retain(|other| other.flow != challenge.flow);
        if self.waiting.len() < WAITING_MAX {
            self.waiting.push(challenge);
        } else {
            self.waiting[self.next % WAITING_MAX] = challenge;
            self.next = (self.next + 1) % WAITING_MAX;
        }
    }

    /// The SYN on `flow` that this packet shows to have begun another connection.
    pub(super) fn take(&mut self, flow: FlowId, header: &TcpHeader, from_high: bool) -> Option<Challenge> {
        let at = self
            .waiting
            .iter()
            .position(|waiting| waiting.flow == flow && waiting.is_confirmed_by(header, from_high))?;
        Some(self.waiting.swap_remove(at))
    }
}
