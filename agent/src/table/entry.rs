//! What the table keeps of a flow, and the record made of it.

use gnomon_capture::{Frame, Stamp};
use gnomon_clock::RawNs;
use gnomon_flow::{
    AttributeValue, Attributes, DecodeProblem, DirectionCounters, FlowEndReason, FlowId, FlowRecord, field,
};

use super::challenge::Challenge;
use super::direction::{self, Role};
use super::key::TableKey;
use super::layer7::{Budget, Inspected};
use super::sequence::InOrder;
use super::tcp::Tcp;
use super::wrapping::Wrapping;
use crate::decode::{Fragment, Packet, TCP, TcpHeader};
use crate::rules::Keep;
use crate::rules::judge::{Facts, Judge, Verdict};

/// What went one way in a segment, which has at most 65,535 packets; [`DirectionCounters`] with less air.
#[derive(Debug, Default)]
struct Direction {
    bytes: u64,
    ip_bytes: u64,
    data_bytes: u64,
    packets: u32,
    fragments: u16,
    ttl_min: u8,
    ttl_max: u8,
    has_ttl: bool,
    has_mac: bool,
    mac: [u8; 6],
}

impl Direction {
    #[inline]
    fn add(&mut self, packet: &Packet<'_>, data_bytes: u32) {
        self.packets += 1;
        self.bytes += u64::from(packet.wire_len);
        self.ip_bytes += u64::from(packet.ip_len);
        self.data_bytes += u64::from(data_bytes);
        self.fragments = self.fragments.saturating_add(u16::from(packet.fragment != Fragment::Whole));
        if let Some(ttl) = packet.ttl {
            self.ttl_min = if self.has_ttl { self.ttl_min.min(ttl) } else { ttl };
            self.ttl_max = self.ttl_max.max(ttl);
            self.has_ttl = true;
        }
        if let (false, Some(mac)) = (self.has_mac, packet.source_mac) {
            self.mac = mac;
            self.has_mac = true;
        }
    }

    fn counters(&self) -> DirectionCounters {
        DirectionCounters {
            packets: u64::from(self.packets),
            bytes: self.bytes,
            ip_bytes: self.ip_bytes,
            data_bytes: self.data_bytes,
            fragments: u64::from(self.fragments),
            ttl: self.has_ttl.then_some((self.ttl_min, self.ttl_max)),
            mac: self.has_mac.then_some(self.mac),
        }
    }
}

/// How often a flow that goes on is reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InterimPolicy {
    /// A change is reported after this, so that what follows at once is in the same record.
    pub delay_ns: u64,
    /// Distance of a flow's second record from its first; it doubles with each while the flow goes on.
    pub interval_min_ns: u64,
    pub interval_max_ns: u64,
    /// Distance of records of gnomon's own streams: each record is traffic of such a stream again.
    pub interval_own_ns: u64,
    /// Made in one tick of the timer wheel (16.8 ms); more are put off to the next ticks.
    pub per_tick_max: u32,
}

impl Default for InterimPolicy {
    fn default() -> InterimPolicy {
        InterimPolicy {
            delay_ns: 100_000_000,
            interval_min_ns: 1_000_000_000,
            interval_max_ns: 10_000_000_000,
            interval_own_ns: 60_000_000_000,
            per_tick_max: 2048,
        }
    }
}

/// A flow's share of the slices.
#[derive(Clone, Copy, Debug)]
pub struct FlowSlice {
    pub(crate) keep: Keep,
    /// Bytes kept of the flow, over all its segments, up to 4 GiB.
    pub(crate) kept_bytes: u32,
    /// Packets kept of it, likewise.
    pub(crate) kept_packets: u32,
    /// The number of the last block that has a packet of it.
    pub(crate) block: u32,
    /// Of the segment.
    pub(crate) segment_packets: u32,
    pub(crate) segment_bytes: u64,
}

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) key: TableKey,
    pub(super) id: FlowId,
    pub(super) first: RawNs,
    pub(super) last: RawNs,
    /// What the timer wheel has for it.
    pub(super) timer: RawNs,
    /// While `changed`: when the next interim record is due. Otherwise: before when none is made.
    interim_at: RawNs,
    pub(super) tcp: Tcp,
    pub(super) slice: FlowSlice,
    pub(super) inspected: Inspected,
    pub(super) verdict: Verdict,
    wrapping: Wrapping,
    directions: [Direction; 2],
    segment: u32,
    revision: u32,
    /// Of the segment's packets, those that repeat others.
    duplicates: u16,
    stamp_err_ns: u32,
    /// Interim records made while the flow went on without a pause.
    interim_run: u8,
    /// Since the last record.
    changed: bool,
    icmp: Option<(u8, u8)>,
    problem: Option<DecodeProblem>,
    /// Which end of the key the originator is.
    orig_is_high: bool,
    direction_guessed: bool,
    /// A second chance against eviction: set by every packet but the first.
    pub(super) used: bool,
    /// Whether a flow lives here.
    pub(super) live: bool,
}

impl Entry {
    /// A flow that begins with `packet`, which is not counted yet.
    pub(super) fn new(
        key: TableKey,
        from_high: bool,
        id: FlowId,
        packet: &Packet<'_>,
        stamp: Stamp,
    ) -> Entry {
        let role = direction::role(packet);
        Entry {
            key,
            id,
            first: stamp.raw,
            last: stamp.raw,
            timer: RawNs(u64::MAX),
            interim_at: RawNs(0),
            interim_run: 0,
            changed: false,
            tcp: Tcp::default(),
            slice: FlowSlice {
                keep: Keep::Nothing,
                kept_bytes: 0,
                kept_packets: 0,
                block: 0,
                segment_packets: 0,
                segment_bytes: 0,
            },
            inspected: Inspected::default(),
            verdict: Verdict::default(),
            wrapping: Wrapping::default(),
            directions: Default::default(),
            segment: 0,
            revision: 0,
            duplicates: 0,
            stamp_err_ns: 0,
            icmp: packet.icmp,
            problem: None,
            orig_is_high: from_high != (role == Role::Answer),
            direction_guessed: role == Role::Unknown,
            used: false,
            live: true,
        }
    }

    /// 0 when the sender is the originator, 1 when it is the responder.
    #[inline]
    pub(super) fn side(&self, from_high: bool) -> usize {
        usize::from(from_high != self.orig_is_high)
    }

    /// Count a packet. Returns which of its payload comes next in its TCP stream, and whether it told something new of what
    /// the flow is wrapped in.
    #[inline(always)]
    pub(super) fn add(
        &mut self,
        frame: &Frame<'_>,
        packet: &Packet<'_>,
        side: usize,
        policy: Option<&InterimPolicy>,
    ) -> (InOrder, bool) {
        let stamp = frame.stamp;
        let mut in_order = InOrder::Nothing;
        let data_bytes = match &packet.tcp {
            Some(header) => {
                let taken = self.tcp.observe(header, packet.payload_len, side, stamp.raw);
                in_order = taken.in_order;
                taken.new_bytes
            }
            // Sequence space that was not captured is unknown.
            None if packet.key.protocol == TCP && packet.fragment != Fragment::Later => 0,
            None => packet.payload_len,
        };
        let mut learned = false;
        if packet.is_wrapped && self.directions[side].packets == 0 {
            learned = self.wrapping.add_outer(frame, side == 1);
        }
        if packet.icmp.is_some() {
            learned |= self.wrapping.add_quoted(packet);
        } else if packet.arp.is_some() {
            learned |= self.wrapping.add_arp(frame);
        }
        self.directions[side].add(packet, data_bytes);
        self.problem = self.problem.or(packet.problem);
        self.note_time(stamp, policy);
        (in_order, learned)
    }

    /// Count a packet that repeats another: all that is counted on the wire, and that it was one.
    pub(super) fn add_again(
        &mut self,
        packet: &Packet<'_>,
        side: usize,
        stamp: Stamp,
        policy: Option<&InterimPolicy>,
    ) {
        let data_bytes = match &packet.tcp {
            Some(header) => {
                self.tcp.observe_again(header, side);
                0
            }
            None if packet.key.protocol == TCP && packet.fragment != Fragment::Later => 0,
            None => packet.payload_len,
        };
        self.directions[side].add(packet, data_bytes);
        self.duplicates = self.duplicates.saturating_add(1);
        self.note_time(stamp, policy);
    }

    #[inline(always)]
    fn note_time(&mut self, stamp: Stamp, policy: Option<&InterimPolicy>) {
        self.first = self.first.min(stamp.raw);
        self.last = self.last.max(stamp.raw);
        self.stamp_err_ns = self.stamp_err_ns.max(stamp.err_ns);
        if let Some(policy) = policy
            && !self.changed
        {
            let due = stamp.raw.saturating_add(policy.delay_ns);
            if due >= self.interim_at {
                // After a pause, as at the start.
                self.interim_run = 0;
            }
            self.interim_at = self.interim_at.max(due);
            self.changed = true;
        }
    }

    /// A packet of a flow that is ignored: only its connection is followed, so that its end is seen.
    #[inline(never)]
    pub(super) fn pass_over(&mut self, packet: &Packet<'_>, side: usize, stamp: Stamp) {
        if let Some(header) = &packet.tcp {
            self.tcp.observe(header, packet.payload_len, side, stamp.raw);
        }
        if self.packets() == 0 {
            self.first = self.first.min(stamp.raw);
        }
        self.last = self.last.max(stamp.raw);
    }

    /// Ask the rules: all of them when they were not asked about this flow yet, otherwise those that wait for metadata.
    #[cold]
    #[inline(never)]
    pub(super) fn ask(&mut self, judge: &mut Judge, stamp: Stamp) {
        let was_ignored = self.verdict.is_ignored();
        let facts = Facts {
            key: self.key.flow_key(self.orig_is_high),
            icmp: self.icmp,
            direction_guessed: self.direction_guessed,
        };
        let mut found = Attributes::default();
        self.inspected.swap_attributes(&mut found);
        if self.wrapping.is_empty() {
            judge.judge(facts, &mut found, &mut self.verdict, &mut self.slice.keep);
        } else {
            let mut all = self.wrapping.attributes_with(found.clone());
            judge.judge(facts, &mut all, &mut self.verdict, &mut self.slice.keep);
        }
        self.inspected.swap_attributes(&mut found);
        if was_ignored && self.packets() == 0 {
            // Recorded from here on.
            self.first = stamp.raw;
            self.last = stamp.raw;
        }
    }

    /// Ignored with nothing to tell: no record is made of it.
    #[inline]
    pub(super) fn is_silent(&self) -> bool {
        self.verdict.is_ignored() && self.packets() == 0
    }

    /// Of the segment.
    #[inline]
    pub(super) fn packets(&self) -> u64 {
        u64::from(self.directions[0].packets) + u64::from(self.directions[1].packets)
    }

    /// When its next interim record is due; `None` while there is nothing to report.
    #[inline]
    pub(super) fn interim_due(&self) -> Option<RawNs> {
        self.changed.then_some(self.interim_at)
    }

    pub(super) fn delay_interim(&mut self, until: RawNs) {
        self.interim_at = until;
    }

    /// Whether a TCP packet begins another connection.
    #[inline]
    pub(super) fn is_reopened_by(&self, header: Option<&TcpHeader>, side: usize) -> bool {
        header.is_some_and(|header| self.tcp.is_reopened_by(header, side))
    }

    pub(super) fn segment(&self) -> u32 {
        self.segment
    }

    /// Uncount a SYN that turned out to be another connection's. False where it is in another segment's record, or alone in
    /// this one's: then it stays.
    pub(super) fn give_up(&mut self, syn: &Challenge) -> bool {
        let side = self.side(syn.from_high);
        let direction = &mut self.directions[side];
        if self.segment != syn.segment || direction.packets < 2 {
            return false;
        }
        direction.packets -= 1;
        direction.bytes = direction.bytes.saturating_sub(u64::from(syn.packet.wire_len));
        direction.ip_bytes = direction.ip_bytes.saturating_sub(u64::from(syn.packet.ip_len));
        if let Some(header) = &syn.packet.tcp {
            self.tcp.uncount(header);
        }
        if self.last == syn.stamp.raw {
            self.last = syn.last;
        }
        true
    }

    /// The active timeout closed a segment; the next one begins at `first`.
    pub(super) fn next_segment(&mut self, first: RawNs, budget: &mut Budget) {
        self.inspected.next_segment(budget);
        self.segment = self.segment.saturating_add(1);
        self.revision = 0;
        self.first = first;
        self.last = first;
        self.stamp_err_ns = 0;
        self.duplicates = 0;
        self.directions = Default::default();
        self.tcp.next_segment();
        self.slice.segment_packets = 0;
        self.slice.segment_bytes = 0;
    }

    /// The record of a flow that is over: what its payload said goes with it.
    pub(super) fn last_record(&mut self, end: FlowEndReason, judge: &Judge) -> FlowRecord {
        let said = self.inspected.take_attributes();
        self.record_with(Some(end), said, judge)
    }

    /// What is known now, of a flow that goes on. `end` is `None` for an interim record.
    pub(super) fn record(
        &mut self,
        end: Option<FlowEndReason>,
        now: RawNs,
        policy: Option<&InterimPolicy>,
        judge: &Judge,
    ) -> FlowRecord {
        if let Some(policy) = policy {
            let interval = if self.verdict.is_own() {
                policy.interval_own_ns
            } else {
                policy
                    .interval_min_ns
                    .saturating_mul(1 << self.interim_run.min(20))
                    .min(policy.interval_max_ns)
            };
            self.interim_at = now.saturating_add(interval);
            self.interim_run = self.interim_run.saturating_add(1);
            self.changed = false;
        }
        self.record_with(end, self.inspected.attributes(), judge)
    }

    fn record_with(&mut self, end: Option<FlowEndReason>, said: Attributes, judge: &Judge) -> FlowRecord {
        let revision = self.revision;
        self.revision = revision.saturating_add(1);
        let [orig, resp] = &self.directions;
        let mut attributes = judge.tagged(&self.verdict, self.wrapping.attributes_with(said));
        if self.duplicates > 0 {
            let count = AttributeValue::Integer(u64::from(self.duplicates));
            attributes.push_over(field::DUPLICATES, &count, |_| true);
        }
        FlowRecord {
            id: self.id,
            segment: self.segment,
            revision,
            key: self.key.flow_key(self.orig_is_high),
            first: self.first,
            last: self.last,
            stamp_err_ns: self.stamp_err_ns,
            orig: orig.counters(),
            resp: resp.counters(),
            tcp: self.tcp.summary(),
            icmp: self.icmp,
            direction_guessed: self.direction_guessed,
            own_uplink: self.verdict.is_own(),
            problem: self.problem,
            sliced_packets: u64::from(self.slice.segment_packets),
            sliced_bytes: self.slice.segment_bytes,
            end,
            attributes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flow_takes_at_most_400_bytes() {
        // Beside the entry: two slots of the index, a link of the wheel, a place in the list of free entries.
        assert!(
            size_of::<Entry>() - size_of::<Inspected>() + 2 * 8 + 16 + 4 <= 400,
            "{} bytes",
            size_of::<Entry>()
        );
    }
}
