//! Where the flow table meets the inspectors: the first bytes of each direction of a flow, in order.
//!
//! Nothing is reassembled. A TCP direction that loses a segment, or whose payload was not captured whole, is inspected
//! no further. Flows without payload carry none of this.

use gnomon_flow::Attributes;

use super::sequence::InOrder;
use crate::decode::{Fragment, Packet, UDP};
use crate::inspect::{BufferBudget, FirstBytes, Inspection};

/// Payload of one direction that is looked at; bodies that pass unread are not counted.
pub(super) const INSPECTED_BYTES_MAX: u32 = 16 << 10;

#[derive(Debug, Default)]
pub(super) struct Layer7 {
    inspection: Inspection,
    told: Told,
    /// Payload bytes looked at in each direction, `INSPECTED_BYTES_MAX` when it is over.
    inspected: [u32; 2],
}

/// What a flow's payload said.
#[derive(Debug, Default)]
pub(super) struct Told {
    attributes: Attributes,
    first: FirstBytes,
}

/// What a flow has of it.
#[derive(Debug, Default)]
pub(super) enum Inspected {
    /// No payload yet.
    #[default]
    NotBegun,
    Going(Box<Layer7>),
    Over(Box<Told>),
}

impl Inspected {
    /// `in_order` says which of a TCP segment's bytes come next in its stream.
    #[inline]
    pub(super) fn feed(
        &mut self,
        packet: &Packet<'_>,
        side: usize,
        in_order: InOrder,
        budget: &mut BufferBudget,
    ) {
        if packet.payload.is_empty() {
            return;
        }
        if let Inspected::Over(told) = self {
            // One side may have said all before the other one spoke.
            if told.first.wants(side == 0) {
                told.add_first(packet, side, in_order);
            }
            return;
        }
        if packet.tcp.is_some() {
            if in_order == InOrder::Nothing {
                return;
            }
            self.feed_tcp(packet, side, in_order, budget);
        } else if packet.key.protocol == UDP && packet.fragment == Fragment::Whole {
            self.feed_udp(packet, side, budget);
        }
    }

    fn begun(&mut self) -> Option<&mut Layer7> {
        if matches!(self, Inspected::NotBegun) {
            *self = Inspected::Going(Box::default());
        }
        match self {
            Inspected::Going(layer7) => Some(layer7),
            _ => None,
        }
    }

    fn feed_tcp(&mut self, packet: &Packet<'_>, side: usize, in_order: InOrder, budget: &mut BufferBudget) {
        let Some(layer7) = self.begun() else { return };
        if layer7.told.first.wants(side == 0) {
            layer7.told.add_first(packet, side, in_order);
        }
        let inspected = &mut layer7.inspected[side];
        if *inspected >= INSPECTED_BYTES_MAX {
            return;
        }
        match in_order {
            InOrder::Nothing => return,
            InOrder::Gap => *inspected = INSPECTED_BYTES_MAX,
            InOrder::From(offset) => {
                let fresh = packet.payload.get(offset as usize..).unwrap_or_default();
                let looked_at = if fresh.is_empty() {
                    0
                } else {
                    layer7.inspection.tcp_payload(side == 0, fresh, &mut layer7.told.attributes, budget)
                };
                let looked_at = u32::try_from(looked_at).unwrap_or(u32::MAX);
                *inspected = inspected.saturating_add(looked_at).min(INSPECTED_BYTES_MAX);
                if packet.payload.len() < packet.payload_len as usize {
                    *inspected = INSPECTED_BYTES_MAX;
                }
            }
        }
        self.end_if_over(budget);
    }

    fn feed_udp(&mut self, packet: &Packet<'_>, side: usize, budget: &mut BufferBudget) {
        let Some(layer7) = self.begun() else { return };
        layer7.told.first.add(side == 0, false, packet.payload);
        let inspected = &mut layer7.inspected[side];
        if packet.payload.is_empty() || *inspected >= INSPECTED_BYTES_MAX {
            return;
        }
        *inspected = inspected
            .saturating_add(u32::try_from(packet.payload.len()).unwrap_or(u32::MAX))
            .min(INSPECTED_BYTES_MAX);
        let ports = (packet.key.orig_port, packet.key.resp_port);
        let out = &mut layer7.told.attributes;
        layer7.inspection.udp_payload(side == 0, ports.0, ports.1, packet.payload, out, budget);
        self.end_if_over(budget);
    }

    fn end_if_over(&mut self, budget: &mut BufferBudget) {
        if let Inspected::Going(layer7) = self
            && (layer7.inspection.is_done() || layer7.inspected == [INSPECTED_BYTES_MAX; 2])
        {
            layer7.inspection.release(budget);
            let told = std::mem::take(&mut layer7.told);
            *self = Inspected::Over(Box::new(told));
        }
    }

    /// What is known so far.
    pub(super) fn attributes(&self) -> Attributes {
        let told = match self {
            Inspected::NotBegun => return Attributes::default(),
            Inspected::Going(layer7) => &layer7.told,
            Inspected::Over(told) => told,
        };
        let mut attributes = told.attributes.clone();
        told.first.tell(&mut attributes);
        attributes
    }

    /// The flow ends: what is held goes back to the budget.
    pub(super) fn end(&mut self, budget: &mut BufferBudget) {
        if let Inspected::Going(layer7) = self {
            layer7.inspection.release(budget);
        }
        *self = Inspected::NotBegun;
    }
}

impl Told {
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
