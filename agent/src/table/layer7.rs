//! Where the flow table meets the inspectors: the first bytes of each direction of a flow, in order.
//!
//! Nothing is reassembled. A TCP direction that loses a segment, or whose payload was not captured whole, is inspected
//! no further. Flows without payload carry none of this.

use gnomon_flow::Attributes;

use super::sequence::InOrder;
use crate::decode::{Fragment, Packet, UDP};
use crate::inspect::{BufferBudget, Inspection};

/// Payload of one direction that is looked at.
pub(super) const INSPECTED_BYTES_MAX: u32 = 16 << 10;

#[derive(Debug, Default)]
pub(super) struct Layer7 {
    inspection: Inspection,
    attributes: Attributes,
    /// Payload bytes seen of each direction, `INSPECTED_BYTES_MAX` when it is over.
    inspected: [u32; 2],
}

/// What a flow has of it.
#[derive(Debug, Default)]
pub(super) enum Inspected {
    /// No payload yet.
    #[default]
    NotBegun,
    Going(Box<Layer7>),
    /// Nothing was found, or what was found.
    Over(Option<Box<Attributes>>),
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
        if packet.payload.is_empty() || matches!(self, Inspected::Over(_)) {
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
        let inspected = &mut layer7.inspected[side];
        if *inspected >= INSPECTED_BYTES_MAX {
            return;
        }
        match in_order {
            InOrder::Nothing => return,
            InOrder::Gap => *inspected = INSPECTED_BYTES_MAX,
            InOrder::From(offset) => {
                let fresh = packet.payload.get(offset as usize..).unwrap_or_default();
                let left = (INSPECTED_BYTES_MAX - *inspected) as usize;
                let fresh = &fresh[..fresh.len().min(left)];
                *inspected += fresh.len() as u32;
                if packet.payload.len() < packet.payload_len as usize {
                    *inspected = INSPECTED_BYTES_MAX;
                }
                if !fresh.is_empty() {
                    layer7.inspection.tcp_payload(side == 0, fresh, &mut layer7.attributes, budget);
                }
            }
        }
        self.end_if_over(budget);
    }

    fn feed_udp(&mut self, packet: &Packet<'_>, side: usize, budget: &mut BufferBudget) {
        let Some(layer7) = self.begun() else { return };
        let inspected = &mut layer7.inspected[side];
        if packet.payload.is_empty() || *inspected >= INSPECTED_BYTES_MAX {
            return;
        }
        *inspected = inspected
            .saturating_add(u32::try_from(packet.payload.len()).unwrap_or(u32::MAX))
            .min(INSPECTED_BYTES_MAX);
        let ports = (packet.key.orig_port, packet.key.resp_port);
        let out = &mut layer7.attributes;
        layer7.inspection.udp_payload(side == 0, ports.0, ports.1, packet.payload, out, budget);
        self.end_if_over(budget);
    }

    fn end_if_over(&mut self, budget: &mut BufferBudget) {
        if let Inspected::Going(layer7) = self
            && (layer7.inspection.is_done() || layer7.inspected == [INSPECTED_BYTES_MAX; 2])
        {
            layer7.inspection.release(budget);
            let attributes = std::mem::take(&mut layer7.attributes);
            let has_any = !attributes.is_empty() || attributes.dropped() > 0;
            *self = Inspected::Over(has_any.then(|| Box::new(attributes)));
        }
    }

    /// What is known so far.
    pub(super) fn attributes(&self) -> Attributes {
        match self {
            Inspected::NotBegun | Inspected::Over(None) => Attributes::default(),
            Inspected::Going(layer7) => layer7.attributes.clone(),
            Inspected::Over(Some(attributes)) => (**attributes).clone(),
        }
    }

    /// The flow ends: what is held goes back to the budget.
    pub(super) fn end(&mut self, budget: &mut BufferBudget) {
        if let Inspected::Going(layer7) = self {
            layer7.inspection.release(budget);
        }
        *self = Inspected::NotBegun;
    }
}
