//! What a flow's packets are wrapped in, the flows that its ICMP errors are about, and what its ARP packets claim. Most
//! flows have none of these.

use gnomon_capture::Frame;
use gnomon_flow::community::community_id;
use gnomon_flow::{AttributeValue, Attributes, field};

use crate::decode::{ArpClaim, LayerKind, Outer, Packet, Quoted, arp_claim, each_outer, quoted};

/// Facts kept of one flow: the headers of both directions, or quotations. More are not kept.
const FACTS_MAX: usize = 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fact {
    Outer(Outer),
    Quoted(Quoted),
    Arp(ArpClaim),
}

/// One word in the flows that have none.
#[derive(Debug, Default)]
pub(super) struct Wrapping(Option<Box<Facts>>);

#[derive(Debug, Default)]
struct Facts {
    list: Vec<Fact>,
}

impl Wrapping {
    /// From the first packet of a direction; `from_responder` turns addresses, so that source is the originator's side.
    /// Whether it brought facts.
    #[cold]
    pub(super) fn add_outer(&mut self, frame: &Frame<'_>, from_responder: bool) -> bool {
        let before = self.count();
        each_outer(frame, |outer| {
            self.add(Fact::Outer(match outer {
                Outer::Mac { source, destination } if from_responder => {
                    Outer::Mac { source: destination, destination: source }
                }
                Outer::Ip { source, destination } if from_responder => {
                    Outer::Ip { source: destination, destination: source }
                }
                other => other,
            }));
        });
        self.count() != before
    }

    /// Whether it brought a fact.
    #[inline]
    pub(super) fn add_quoted(&mut self, packet: &Packet<'_>) -> bool {
        let before = self.count();
        if let Some(quoted) = quoted(packet) {
            self.add(Fact::Quoted(quoted));
        }
        self.count() != before
    }

    /// Whether it brought a fact.
    #[cold]
    pub(super) fn add_arp(&mut self, frame: &Frame<'_>) -> bool {
        let before = self.count();
        if let Some(claim) = arp_claim(frame) {
            self.add(Fact::Arp(claim));
        }
        self.count() != before
    }

    fn count(&self) -> usize {
        self.0.as_ref().map_or(0, |facts| facts.list.len())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    fn add(&mut self, fact: Fact) {
        let list = &mut self.0.get_or_insert_default().list;
        if list.len() < FACTS_MAX && !list.contains(&fact) {
            // Few flows have any, and those have few.
            list.reserve_exact(1);
            list.push(fact);
        }
    }

    /// Its attributes, then those that inspection found.
    pub(super) fn attributes_with(&self, inspected: Attributes) -> Attributes {
        let Some(facts) = &self.0 else { return inspected };
        let mut all = Attributes::default();
        for fact in &facts.list {
            match fact {
                Fact::Outer(outer) => add_outer_attributes(*outer, &mut all),
                Fact::Arp(claim) => add_arp_attributes(claim, &mut all),
                Fact::Quoted(Quoted { key, icmp }) => {
                    if let Some(id) = community_id(key, *icmp) {
                        all.text(field::ICMP_INNER, &id);
                    }
                }
            }
        }
        all.add_dropped(inspected.dropped());
        for attribute in inspected.iter() {
            all.push(attribute.field, attribute.value.clone());
        }
        all
    }
}

/// Several senders' addresses in one record: more than one host claims an IP address.
fn add_arp_attributes(claim: &ArpClaim, all: &mut Attributes) {
    all.text(field::ARP_OPERATION, &claim.operation.name());
    all.text(field::ARP_SENDER_MAC, &field::mac_text(claim.sender_mac));
    if claim.target_mac != [0; 6] {
        all.text(field::ARP_TARGET_MAC, &field::mac_text(claim.target_mac));
    }
}

fn add_outer_attributes(outer: Outer, all: &mut Attributes) {
    match outer {
        Outer::Mac { source, destination } => {
            all.text(field::OUTER_MAC_SRC, &field::mac_text(source));
            all.text(field::OUTER_MAC_DST, &field::mac_text(destination));
        }
        Outer::Vlan(id) => {
            all.push(field::OUTER_VLAN, AttributeValue::Integer(id.into()));
        }
        Outer::Ip { source, destination } => {
            all.push(field::OUTER_IP_SRC, AttributeValue::Ip(source));
            all.push(field::OUTER_IP_DST, AttributeValue::Ip(destination));
        }
        Outer::Header(kind, id) => {
            if let Some(name) = kind.name() {
                all.text(field::PROTOCOLS, name);
            }
            let Some(id) = id else { return };
            let mut push = |field, id: u32| all.push(field, AttributeValue::Integer(id.into()));
            match kind {
                LayerKind::Vxlan | LayerKind::VxlanGpe | LayerKind::Geneve => push(field::VNI, id),
                LayerKind::Gre => push(field::GRE_KEY, id),
                LayerKind::Pbb => push(field::PBB_SERVICE, id),
                LayerKind::Erspan => push(field::ERSPAN_ID, id),
                LayerKind::GtpU => push(field::GTP_TEID, id),
                LayerKind::Mpls => push(field::MPLS_LABEL, id),
                LayerKind::Nsh => push(field::NSH_PATH, id),
                LayerKind::Ah => push(field::AH_SPI, id),
                LayerKind::Pppoe => push(field::PPPOE_SESSION, id),
                LayerKind::L2tp => {
                    push(field::L2TP_TUNNEL, id >> 16);
                    push(field::L2TP_SESSION, id & 0xffff)
                }
                LayerKind::Ipv4
                | LayerKind::Ipv6
                | LayerKind::EtherIp
                | LayerKind::FabricPath
                | LayerKind::Ppp
                | LayerKind::Teredo
                | LayerKind::Tzsp => false,
            };
        }
    }
}
