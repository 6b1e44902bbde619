//! What a packet is wrapped in: where each header that carries another packet begins in the frame.
//!
//! The decoder only notes places; addresses and ids are read from the frame when a flow begins. Packets without a tunnel
//! carry none of this.

use std::net::IpAddr;

use gnomon_capture::Frame;
use gnomon_flow::{Addresses, DecodeProblem};

use super::Decoding;
use super::network::ETHERTYPE_IPV4;
use super::rest::Rest;

/// Headers looked through. More is an attack or a loop.
pub(crate) const LAYERS_MAX: usize = 8;

/// A header that carries another packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum LayerKind {
    Ipv4,
    Ipv6,
    Ah,
    Erspan,
    EtherIp,
    FabricPath,
    Geneve,
    Gre,
    GtpU,
    L2tp,
    Mpls,
    Nsh,
    Pbb,
    Ppp,
    Pppoe,
    Teredo,
    Tzsp,
    Vxlan,
    VxlanGpe,
}

impl LayerKind {
    /// As the field `protocols` has it; `None` for IP, which says nothing by itself.
    pub(crate) fn name(self) -> Option<&'static str> {
        Some(match self {
            LayerKind::Ipv4 | LayerKind::Ipv6 => return None,
            LayerKind::Ah => "ah",
            LayerKind::Erspan => "erspan",
            LayerKind::EtherIp => "etherip",
            LayerKind::FabricPath => "fabricpath",
            LayerKind::Geneve => "geneve",
            LayerKind::Gre => "gre",
            LayerKind::GtpU => "gtp",
            LayerKind::L2tp => "l2tp",
            LayerKind::Mpls => "mpls",
            LayerKind::Nsh => "nsh",
            LayerKind::Pbb => "pbb",
            LayerKind::Ppp => "ppp",
            LayerKind::Pppoe => "pppoe",
            LayerKind::Teredo => "teredo",
            LayerKind::Tzsp => "tzsp",
            LayerKind::Vxlan => "vxlan",
            LayerKind::VxlanGpe => "vxlan-gpe",
        })
    }
}

/// The headers noted so far, outermost first.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layers {
    /// Kind, and offset in the frame.
    list: [(LayerKind, u16); LAYERS_MAX],
    len: u8,
    /// Another Ethernet header replaced the frame's own.
    inner_ethernet: bool,
    /// The frame's own VLAN tags, where an inner Ethernet header began anew.
    outer_vlan: [u16; 2],
}

const NO_LAYERS: Layers =
    Layers { list: [(LayerKind::Ipv4, 0); LAYERS_MAX], len: 0, inner_ethernet: false, outer_vlan: [0; 2] };

/// A fact about what a packet is wrapped in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outer {
    Mac {
        source: [u8; 6],
        destination: [u8; 6],
    },
    Vlan(u16),
    Ip {
        source: IpAddr,
        destination: IpAddr,
    },
    /// With the id that stands in the header, if it has one.
    Header(LayerKind, Option<u32>),
}

impl<'a> Decoding<'a> {
    /// The header at this offset carries another packet. False when there are too many.
    pub(super) fn wrap(&mut self, kind: LayerKind, at: u32) -> bool {
        let layers = self.layers.get_or_insert(NO_LAYERS);
        let (Some(place), Ok(at)) = (layers.list.get_mut(usize::from(layers.len)), u16::try_from(at)) else {
            return false;
        };
        *place = (kind, at);
        layers.len += 1;
        self.is_wrapped = true;
        true
    }

    /// The IP header decoded last carries another packet.
    pub(super) fn wrap_ip(&mut self) -> bool {
        let kind = if self.key.ethertype == ETHERTYPE_IPV4 { LayerKind::Ipv4 } else { LayerKind::Ipv6 };
        self.wrap(kind, self.ip_at)
    }

    /// Decode a packet in a tunnel by `inside`. Where that gives no whole key of another packet, this one is the tunnel's
    /// own, with `payload`.
    pub(super) fn try_inside(&mut self, payload: Rest<'a>, inside: impl FnOnce(&mut Decoding<'a>)) {
        let before = *self;
        // Ports of the datagram around it are none of a packet that has none itself.
        (self.key.orig_port, self.key.resp_port) = (0, 0);
        inside(self);
        let is_another = self.ip_at != before.ip_at
            || self.arp.is_some()
            || matches!(self.key.addresses, Addresses::Mac { .. });
        if !self.key_complete || !is_another {
            let problem = self.problem;
            *self = before;
            if problem == Some(DecodeProblem::TooDeep) {
                self.note(DecodeProblem::TooDeep);
            }
            self.end(payload);
        }
    }

    /// An Ethernet header follows: addresses and tags are the inner frame's from here on.
    pub(super) fn enter_ethernet(&mut self) {
        let outer_vlan = self.key.vlan;
        let layers = self.layers.get_or_insert(NO_LAYERS);
        if !layers.inner_ethernet {
            layers.inner_ethernet = true;
            layers.outer_vlan = outer_vlan;
        }
        self.key.vlan = [0; 2];
    }

    fn each_outer(&self, mut found: impl FnMut(Outer)) {
        let Some(layers) = &self.layers else { return };
        if layers.inner_ethernet {
            if self.on_ethernet
                && let Some(macs) = self.frame.first_chunk::<12>()
            {
                let (destination, source) = macs.split_at(6);
                found(Outer::Mac {
                    source: std::array::from_fn(|i| source[i]),
                    destination: std::array::from_fn(|i| destination[i]),
                });
            }
            layers.outer_vlan.into_iter().filter(|id| *id != 0).for_each(|id| found(Outer::Vlan(id)));
        }
        for (kind, at) in &layers.list[..usize::from(layers.len).min(LAYERS_MAX)] {
            let header = self.frame.get(usize::from(*at)..).unwrap_or_default();
            match kind {
                LayerKind::Ipv4 => {
                    if let Some((source, destination)) = addresses::<4>(header, 12) {
                        found(Outer::Ip { source: source.into(), destination: destination.into() });
                    }
                }
                LayerKind::Ipv6 => {
                    if let Some((source, destination)) = addresses::<16>(header, 8) {
                        found(Outer::Ip { source: source.into(), destination: destination.into() });
                    }
                }
                kind => found(Outer::Header(*kind, id(*kind, header))),
            }
        }
    }
}

/// Calls `found` with what the packet in a frame is wrapped in, outermost first.
pub(crate) fn each_outer(frame: &Frame<'_>, found: impl FnMut(Outer)) {
    super::walk(frame).each_outer(found);
}

fn addresses<const N: usize>(header: &[u8], at: usize) -> Option<([u8; N], [u8; N])> {
    let (source, rest) = header.get(at..)?.split_first_chunk::<N>()?;
    Some((*source, *rest.first_chunk::<N>()?))
}

/// The id that stands in a header: a VXLAN network, a GRE key, a tunnel endpoint, a label …
fn id(kind: LayerKind, header: &[u8]) -> Option<u32> {
    let word = |at: usize| {
        let bytes = header.get(at..)?.first_chunk::<4>()?;
        Some(u32::from_be_bytes(*bytes))
    };
    match kind {
        LayerKind::Vxlan | LayerKind::VxlanGpe | LayerKind::Geneve => word(4).map(|vni| vni >> 8),
        LayerKind::Gre => {
            let flags = word(0)?;
            // The key follows the checksum, if there is one (RFC 2890 section 2).
            let at = if flags & 0x8000_0000 != 0 { 8 } else { 4 };
            (flags & 0x2000_0000 != 0).then(|| word(at)).flatten()
        }
        LayerKind::Erspan => word(0).map(|word| word & 0x3ff),
        LayerKind::GtpU | LayerKind::Ah | LayerKind::Nsh => word(4).map(|word| match kind {
            // The service path; the lowest byte is the place on it (RFC 8300 section 2.3).
            LayerKind::Nsh => word >> 8,
            _ => word,
        }),
        // The bottom of the stack names the service.
        LayerKind::Mpls => (0..LAYERS_MAX * 4)
            .step_by(4)
            .map_while(word)
            .find(|label| label & 0x100 != 0)
            .map(|label| label >> 12),
        // The service instance (IEEE 802.1Q section 9.7).
        LayerKind::Pbb => word(0).map(|tag| tag & 0x00ff_ffff),
        // The forwarding tag above the time to live.
        LayerKind::FabricPath => word(0).map(|word| word >> 22),
        LayerKind::Pppoe => word(0).map(|word| word & 0xffff),
        LayerKind::L2tp => {
            let flags = word(0)?;
            // The ids follow the length, if there is one (RFC 2661 section 3.1).
            word(if flags & 0x4000_0000 != 0 { 4 } else { 2 })
        }
        LayerKind::Ipv4
        | LayerKind::Ipv6
        | LayerKind::EtherIp
        | LayerKind::Ppp
        | LayerKind::Teredo
        | LayerKind::Tzsp => None,
    }
}
