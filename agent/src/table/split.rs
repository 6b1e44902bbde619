//! Whether a packet goes on with the flow of its key or begins the next one.

use gnomon_capture::Stamp;
use gnomon_clock::RawNs;
use gnomon_flow::{FlowEndReason, FlowRecord};

use super::Table;
use super::challenge::Challenge;
use super::entry::Entry;
use super::key::TableKey;
use super::timeouts::{ended_by_silence, idle_ns};
use crate::decode::{Packet, TcpHeader};

impl Table {
    /// End the flow or its segment if `packet` belongs to the next one. Whether a new flow begins.
    #[inline(always)]
    pub(super) fn split(
        &mut self,
        at: u32,
        key: TableKey,
        from_high: bool,
        packet: &Packet<'_>,
        stamp: Stamp,
        out: &mut Vec<FlowRecord>,
    ) -> bool {
        let entry = &self.entries[at as usize];
        let side = entry.side(from_high);
        // Stamps of a capture file may go back: too early is as far from the flow as too late.
        let distance = stamp.raw.since(entry.last).max(entry.first.since(stamp.raw));
        let reason = if distance > idle_ns(&self.config, entry) {
            ended_by_silence(entry)
        } else if entry.is_reopened_by(packet.tcp.as_ref(), side) {
            FlowEndReason::EndOfFlow
        } else {
            if let Some(header) = &packet.tcp
                && entry.tcp.may_be_superseded(header, side)
                && self.supersede(at, key, from_high, packet, header, stamp, out)
            {
                return true;
            }
            let entry = &self.entries[at as usize];
            let is_long = stamp.raw.since(entry.first) >= self.config.active_timeout_ns
                || entry.packets() >= u64::from(self.config.active_packets_max);
            if is_long && !entry.is_silent() {
                self.close_segment(at, stamp.raw, out);
            }
            return false;
        };
        self.begin_anew(at, key, from_high, packet, stamp, reason, out);
        true
    }

    /// Begin another flow if `packet` shows that a connection with other numbers took the place of this one, which was not
    /// closed. Its SYN, if it was seen, moves to the new flow.
    #[cold]
    #[inline(never)]
    fn supersede(
        &mut self,
        at: u32,
        key: TableKey,
        from_high: bool,
        packet: &Packet<'_>,
        header: &TcpHeader,
        stamp: Stamp,
        out: &mut Vec<FlowRecord>,
    ) -> bool {
        let entry = &mut self.entries[at as usize];
        let syn = self.challenges.take(entry.id, header, from_high);
        if syn.is_none() && !entry.tcp.is_new_handshake(header, entry.side(from_high)) {
            return false;
        }
        let moved = syn.filter(|syn| entry.give_up(syn));
        let (first, first_from_high, first_stamp) = match &moved {
            Some(syn) => (&syn.packet, syn.from_high, syn.stamp),
            None => (packet, from_high, stamp),
        };
        self.begin_anew(at, key, first_from_high, first, first_stamp, FlowEndReason::EndOfFlow, out);
        if let Some(syn) = &moved {
            let entry = &mut self.entries[at as usize];
            let side = entry.side(syn.from_high);
            entry.add(&syn.frame(), &syn.packet, side, self.config.interim.as_ref());
        }
        true
    }

    /// Remember a SYN that was just counted and may turn out to be another connection's.
    #[cold]
    #[inline(never)]
    pub(super) fn challenge(
        &mut self,
        at: u32,
        from_high: bool,
        packet: &Packet<'_>,
        stamp: Stamp,
        last: RawNs,
    ) {
        let entry = &self.entries[at as usize];
        // What a packet in a tunnel is wrapped in stands in its frame, which is gone by then.
        if !packet.is_wrapped {
            let challenge = Challenge::new(entry.id, entry.segment(), from_high, stamp, last, packet);
            self.challenges.add(challenge);
        }
    }

    /// End the flow for `reason`; another one with its key begins with `packet`.
    #[cold]
    #[inline(never)]
    fn begin_anew(
        &mut self,
        at: u32,
        key: TableKey,
        from_high: bool,
        packet: &Packet<'_>,
        stamp: Stamp,
        reason: FlowEndReason,
        out: &mut Vec<FlowRecord>,
    ) {
        self.conclude(at, reason, stamp.raw, out);
        let timer = self.entries[at as usize].timer;
        let id = self.number();
        let entry = &mut self.entries[at as usize];
        *entry = Entry::new(key, from_high, id, packet, stamp);
        // Still on the wheel.
        entry.timer = timer;
        self.stats.flows_made += 1;
    }
}
