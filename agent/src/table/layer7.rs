//! Where the flow table meets the inspectors: the first bytes of each direction of a flow's segment, in order.
//!
//! What was said in a segment is in that segment's record and in no other; only the names of protocols go on. Limits are
//! those of a segment: one that is hit is a field of the record ([`field::INSPECT_ENDED`]), and the next segment is read
//! again.
//!
//! TCP segments out of order wait for those before them, within bounds ([`super::reassembly`]); what was lost or not
//! captured is a gap, after which inspection begins anew. Flows without payload carry none of this.

use gnomon_clock::RawNs;
use gnomon_flow::{AttributeValue, Attributes, field};

use super::reassembly::{Next, Stream, WaitingBudget};
use super::sequence::InOrder;
use crate::decode::{Fragment, Packet, TcpHeader, UDP};
use crate::inspect::{BufferBudget, FirstBytes, Inspection};

/// Payload of one direction of a segment that is looked at; bodies that pass unread are not counted.
pub(super) const INSPECTED_BYTES_MAX: u32 = 16 << 10;

/// What all flows of a table may hold together.
#[derive(Debug)]
pub(super) struct Budget {
    /// Messages that are not whole.
    pub(super) inspect: BufferBudget,
    /// Segments that wait for earlier ones.
    pub(super) waiting: WaitingBudget,
    /// What payload said.
    told: BufferBudget,
}

impl Budget {
    pub(super) fn new(inspect_bytes: usize, metadata_bytes: usize) -> Budget {
        Budget {
            inspect: BufferBudget::new(inspect_bytes),
            waiting: WaitingBudget::new(inspect_bytes),
            told: BufferBudget::new(metadata_bytes),
        }
    }

    /// What was not inspected for want of memory.
    pub(super) fn denied(&self) -> u64 {
        self.inspect.denied() + self.told.denied()
    }

    /// Whether any one flow may still say all that it can.
    fn has_room(&self) -> bool {
        self.told.left() >= Attributes::BYTES_MAX
    }
}

#[derive(Debug, Default)]
pub(super) struct Layer7 {
    inspection: Inspection,
    told: Told,
    streams: [Stream; 2],
    /// Payload bytes looked at in each direction, `INSPECTED_BYTES_MAX` when it is over.
    inspected: [u32; 2],
}

/// What the payload of a flow's segment said.
#[derive(Debug, Default)]
pub(super) struct Told {
    attributes: Attributes,
    /// Of the flow: said in its first segment.
    first: FirstBytes,
    /// Inspection ended at a limit, and not because there was nothing more to read: the next segment is read again.
    at_limit: bool,
    /// What the budget was charged for the attributes.
    charged: u32,
}

/// What a flow has of it.
#[derive(Debug, Default)]
pub(super) enum Inspected {
    /// No payload yet.
    #[default]
    NotBegun,
    Going(Box<Layer7>, Deaf),
    Over(Box<Told>, Deaf),
}

/// Directions of which nothing more is wanted: said here so that their packets need not go and look.
type Deaf = [bool; 2];

const _: () = assert!(size_of::<Inspected>() <= 16);

impl Inspected {
    /// `in_order` says which of a TCP segment's bytes come next in its stream. Whether it brought attributes.
    #[inline]
    pub(super) fn feed(
        &mut self,
        packet: &Packet<'_>,
        side: usize,
        in_order: InOrder,
        now: RawNs,
        budget: &mut Budget,
    ) -> bool {
        if packet.payload.is_empty() {
            return false;
        }
        match self {
            Inspected::Going(_, deaf) | Inspected::Over(_, deaf) if deaf[side] => return false,
            // One side may have said all before the other one spoke.
            Inspected::Over(told, deaf) => {
                told.add_first(packet, side, in_order);
                deaf[side] = !told.first.wants(side == 0, packet.tcp.is_some());
                return false;
            }
            Inspected::NotBegun | Inspected::Going(..) => {}
        }
        if !budget.has_room() {
            self.give_up(budget);
            return false;
        }
        let before;
        if let Some(header) = packet.tcp {
            if in_order == InOrder::Nothing {
                return false;
            }
            before = self.told_count();
            self.feed_tcp(packet, &header, side, in_order, now, budget);
        } else if packet.key.protocol == UDP && packet.fragment == Fragment::Whole {
            before = self.told_count();
            self.feed_udp(packet, side, budget);
        } else {
            return false;
        }
        self.told_count() != before && {
            self.charge(budget);
            true
        }
    }

    /// What all flows said fills the memory that it may have: this one says no more.
    #[cold]
    fn give_up(&mut self, budget: &mut Budget) {
        budget.told.deny();
        self.stop(budget);
    }

    /// Nothing more of it is read; what it said so far stands.
    pub(super) fn stop(&mut self, budget: &mut Budget) {
        if let Inspected::Going(layer7, _) = self {
            layer7.release(budget);
            layer7.told.end_at(Limit::Memory);
            *self = Inspected::Over(Box::new(std::mem::take(&mut layer7.told)), [true; 2]);
        }
    }

    fn told(&self) -> Option<&Told> {
        match self {
            Inspected::NotBegun => None,
            Inspected::Going(layer7, _) => Some(&layer7.told),
            Inspected::Over(told, _) => Some(told),
        }
    }

    fn told_mut(&mut self) -> Option<&mut Told> {
        match self {
            Inspected::NotBegun => None,
            Inspected::Going(layer7, _) => Some(&mut layer7.told),
            Inspected::Over(told, _) => Some(told),
        }
    }

    /// There was room before: one flow cannot say more than [`Attributes::BYTES_MAX`].
    fn charge(&mut self, budget: &mut Budget) {
        let Some(told) = self.told_mut() else { return };
        let bytes = told.attributes.bytes();
        if budget.told.take(bytes.saturating_sub(told.charged as usize)) {
            told.charged = u32::try_from(bytes).unwrap_or(u32::MAX);
        }
    }

    fn told_count(&self) -> usize {
        self.told().map_or(0, |told| told.attributes.len())
    }

    /// Exchanges what inspection found for `other`; what is found later is added to that.
    pub(super) fn swap_attributes(&mut self, other: &mut Attributes) {
        // Without payload it has none, and the other one goes back the same way.
        if let Some(told) = self.told_mut() {
            std::mem::swap(&mut told.attributes, other);
        }
    }

    fn begun(&mut self) -> Option<&mut Layer7> {
        if matches!(self, Inspected::NotBegun) {
            *self = Inspected::Going(Box::default(), Deaf::default());
        }
        match self {
            Inspected::Going(layer7, _) => Some(layer7),
            _ => None,
        }
    }

    fn feed_tcp(
        &mut self,
        packet: &Packet<'_>,
        header: &TcpHeader,
        side: usize,
        in_order: InOrder,
        now: RawNs,
        budget: &mut Budget,
    ) {
        let Some(layer7) = self.begun() else { return };
        if layer7.inspected[side] >= INSPECTED_BYTES_MAX {
            return;
        }
        let start = header.seq.wrapping_add(u32::from(header.has(TcpHeader::SYN)));
        match in_order {
            InOrder::Nothing => return,
            InOrder::Leap => layer7.finish(side, budget),
            InOrder::From(offset) => layer7.streams[side].begin(start.wrapping_add(offset)),
            InOrder::Gap(missing) => layer7.streams[side].begin(start.wrapping_sub(missing)),
            // Before anything that was looked at.
            InOrder::Late if !layer7.streams[side].has_begun() => return,
            InOrder::Late => {}
        }
        layer7.take(side, start, packet.payload, packet.payload_len, now, budget);
        self.end_if_over(side, budget);
    }

    fn feed_udp(&mut self, packet: &Packet<'_>, side: usize, budget: &mut Budget) {
        let Some(layer7) = self.begun() else { return };
        layer7.told.first.add(side == 0, false, packet.payload);
        let inspected = &mut layer7.inspected[side];
        if *inspected >= INSPECTED_BYTES_MAX {
            return;
        }
        *inspected = inspected
            .saturating_add(u32::try_from(packet.payload.len()).unwrap_or(u32::MAX))
            .min(INSPECTED_BYTES_MAX);
        let is_at_limit = *inspected == INSPECTED_BYTES_MAX;
        let ports = [packet.key.orig_port, packet.key.resp_port];
        let out = &mut layer7.told.attributes;
        let is_cut = packet.payload_len as usize > packet.payload.len();
        layer7.inspection.udp_payload(side == 0, ports, packet.payload, is_cut, out, &mut budget.inspect);
        if layer7.inspection.is_done_with_datagrams(side == 0) {
            layer7.inspected[side] = INSPECTED_BYTES_MAX;
        } else if is_at_limit {
            layer7.told.end_at(Limit::Bytes);
        }
        self.end_if_over(side, budget);
    }

    /// What `side` just said may have been all that is wanted.
    fn end_if_over(&mut self, side: usize, budget: &mut Budget) {
        let Inspected::Going(layer7, deaf) = self else { return };
        deaf[side] = layer7.inspected[side] >= INSPECTED_BYTES_MAX;
        if layer7.inspection.is_done() || layer7.inspected == [INSPECTED_BYTES_MAX; 2] {
            layer7.release(budget);
            let told = std::mem::take(&mut layer7.told);
            *self = Inspected::Over(Box::new(told), Deaf::default());
        }
    }

    /// No more packets will come: what waits for segments that were lost is inspected without them. Whether that brought
    /// attributes.
    pub(super) fn conclude(&mut self, budget: &mut Budget) -> bool {
        let before = self.told_count();
        if let Inspected::Going(layer7, _) = self {
            for side in [0, 1] {
                while layer7.streams[side].is_waiting() {
                    layer7.streams[side].give_up();
                    layer7.drain(side, budget);
                }
            }
            layer7.inspection.conclude(&mut layer7.told.attributes, &mut budget.inspect);
        }
        self.told_count() != before
    }

    /// The next segment begins: what was said stays in the record of the one before, but for the names of protocols. Where
    /// a limit ended inspection, it begins anew.
    pub(super) fn next_segment(&mut self, budget: &mut Budget) {
        let Some(told) = self.told_mut() else { return };
        let mut kept = Attributes::default();
        for name in told.attributes.of(field::PROTOCOLS) {
            kept.push(field::PROTOCOLS, name.clone());
        }
        told.attributes = kept;
        told.first.next_segment();
        budget.told.give_back(std::mem::take(&mut told.charged) as usize);
        let is_at_limit = std::mem::take(&mut told.at_limit);
        match self {
            Inspected::NotBegun => {}
            Inspected::Going(layer7, deaf) => {
                for side in [0, 1] {
                    if layer7.inspected[side] < INSPECTED_BYTES_MAX {
                        layer7.inspected[side] = 0;
                    } else if is_at_limit {
                        layer7.read_again(side, budget);
                        deaf[side] = false;
                    }
                }
            }
            Inspected::Over(told, _) if is_at_limit => {
                let layer7 = Layer7 { told: std::mem::take(told), ..Layer7::default() };
                *self = Inspected::Going(Box::new(layer7), Deaf::default());
            }
            Inspected::Over(..) => {}
        }
        self.charge(budget);
    }

    /// What is known so far.
    pub(super) fn attributes(&self) -> Attributes {
        let Some(told) = self.told() else { return Attributes::default() };
        told.finish(told.attributes.clone())
    }

    /// What is known at the flow's end: nothing is left here, and nothing was copied.
    pub(super) fn take_attributes(&mut self) -> Attributes {
        let Some(told) = self.told_mut() else { return Attributes::default() };
        let attributes = std::mem::take(&mut told.attributes);
        told.finish(attributes)
    }

    /// The flow ends: what is held goes back to the budget.
    pub(super) fn end(&mut self, budget: &mut Budget) {
        if let Inspected::Going(layer7, _) = self {
            layer7.release(budget);
        }
        if let Some(told) = self.told_mut() {
            budget.told.give_back(told.charged as usize);
        }
        *self = Inspected::NotBegun;
    }
}

impl Layer7 {
    fn take(&mut self, side: usize, start: u32, payload: &[u8], wire: u32, now: RawNs, budget: &mut Budget) {
        match self.streams[side].take(start, payload, wire, now, &mut budget.waiting) {
            Next::Nothing => {}
            Next::Bytes { skipped, missing } => {
                self.inspect(side, payload.get(skipped as usize..).unwrap_or_default(), missing, budget);
            }
        }
        self.drain(side, budget);
    }

    /// What waited and now comes next.
    fn drain(&mut self, side: usize, budget: &mut Budget) {
        while let Some((gap, bytes)) = self.streams[side].pop(&mut budget.waiting) {
            if gap > 0 {
                let out = &mut self.told.attributes;
                self.inspection.tcp_gap(side == 0, u64::from(gap), out, &mut budget.inspect);
            }
            self.inspect(side, &bytes.captured, bytes.missing, budget);
        }
    }

    fn inspect(&mut self, side: usize, bytes: &[u8], missing: u32, budget: &mut Budget) {
        if self.inspected[side] >= INSPECTED_BYTES_MAX {
            return;
        }
        if !bytes.is_empty() {
            self.told.first.add(side == 0, true, bytes);
            let out = &mut self.told.attributes;
            let looked_at = self.inspection.tcp_payload(side == 0, bytes, out, &mut budget.inspect);
            let looked_at = u32::try_from(looked_at).unwrap_or(u32::MAX);
            self.inspected[side] = self.inspected[side].saturating_add(looked_at).min(INSPECTED_BYTES_MAX);
        }
        if missing > 0 {
            let out = &mut self.told.attributes;
            self.inspection.tcp_gap(side == 0, u64::from(missing), out, &mut budget.inspect);
        }
        if self.inspected[side] >= INSPECTED_BYTES_MAX {
            self.streams[side].release(&mut budget.waiting);
            if !self.inspection.is_done() {
                self.told.end_at(Limit::Bytes);
            }
        }
    }

    /// A direction that a limit ended, from its next segment on: what lies between was not read.
    fn read_again(&mut self, side: usize, budget: &mut Budget) {
        self.inspected[side] = 0;
        self.streams[side].release(&mut budget.waiting);
        self.streams[side] = Stream::default();
        // What is left of the last message was said in the segment before.
        let mut told_before = Attributes::default();
        self.inspection.tcp_gap(side == 0, u64::MAX, &mut told_before, &mut budget.inspect);
    }

    fn finish(&mut self, side: usize, budget: &mut Budget) {
        self.inspected[side] = INSPECTED_BYTES_MAX;
        self.streams[side].release(&mut budget.waiting);
    }

    fn release(&mut self, budget: &mut Budget) {
        self.inspection.release(&mut budget.inspect);
        self.streams.iter_mut().for_each(|stream| stream.release(&mut budget.waiting));
    }
}

/// A bound on what is read of a segment.
#[derive(Clone, Copy, Debug)]
enum Limit {
    Bytes,
    Values,
    Memory,
}

impl Limit {
    fn mark(self, attributes: &mut Attributes) {
        let name = match self {
            Limit::Bytes => "bytes",
            Limit::Values => "values",
            Limit::Memory => "memory",
        };
        // Where nothing more fits, the mark takes the place of the value that came last.
        attributes.push_over(field::INSPECT_ENDED, &AttributeValue::Text(name.into()), |other| {
            other.field != field::INSPECT_ENDED
        });
    }
}

impl Told {
    fn end_at(&mut self, limit: Limit) {
        self.at_limit = true;
        limit.mark(&mut self.attributes);
    }

    /// `attributes` with what is only known when a record is made.
    fn finish(&self, mut attributes: Attributes) -> Attributes {
        self.first.tell(&mut attributes);
        if attributes.dropped() > 0 {
            Limit::Values.mark(&mut attributes);
        }
        attributes
    }

    fn add_first(&mut self, packet: &Packet<'_>, side: usize, in_order: InOrder) {
        match in_order {
            InOrder::From(offset) if packet.tcp.is_some() => {
                let fresh = packet.payload.get(offset as usize..).unwrap_or_default();
                self.first.add(side == 0, true, fresh);
            }
            _ if packet.tcp.is_none() && packet.key.protocol == UDP && packet.fragment == Fragment::Whole => {
                self.first.add(side == 0, false, packet.payload);
            }
            _ => {}
        }
    }
}
