//! From a frame to a [`Packet`]: whose it is, how long it was on the wire, and what its headers say.
//!
//! Constraints: one pass, no allocation, no panic on any bytes. Nothing is lost: what cannot be decoded to the end
//! comes out with the best key there is and the [`DecodeProblem`]. Lengths come from the headers and the wire, never
//! from how much was captured, so a sliced capture tells the same story as a whole one. Checksums are not verified:
//! they are wrong in every frame captured before the NIC filled them in.

mod arp;
mod ethernet;
mod fragment;
mod gre;
mod gtp;
mod icmp;
mod inside_ip;
mod ipv4;
mod ipv6;
mod l2tp;
mod layers;
mod llc;
mod loopback;
mod mpls;
mod network;
mod nflog;
mod nsh;
mod ports;
mod ppp;
mod rest;
mod sll;
mod tags;
mod tcp;
mod transport;
mod udp;
mod udp_tunnel;
mod wifi;

#[cfg(test)]
pub(crate) mod example;

use std::ops::{Deref, DerefMut};

use gnomon_capture::{Frame, LinkType, VlanTag};
use gnomon_flow::{DecodeProblem, FlowKey};

pub(crate) use arp::{ArpClaim, ArpOperation, arp_claim};
pub use fragment::Fragment;
pub(crate) use fragment::{Piece, piece};
pub(crate) use icmp::{Quoted, quoted};
use layers::Layers;
pub(crate) use layers::{LayerKind, Outer, each_outer};
use rest::Rest;
pub use tcp::TcpHeader;
pub(crate) use transport::{ESP, ICMP, ICMPV6, SCTP, TCP, UDP, may_hide_its_flow};

/// A decoded frame. Small and `Copy`; the payload is borrowed from the source's ring.
#[derive(Clone, Copy, Debug)]
pub struct Packet<'a> {
    /// Seen from the sender of this packet.
    pub key: FlowKey,
    /// Length on the wire, with the tag that the hardware took out.
    pub wire_len: u32,
    /// Length by the IP header, 0 for what is not IP. Never more than was on the wire.
    pub ip_len: u32,
    /// Bytes above the transport header on the wire. Ethernet padding is none of them.
    pub payload_len: u32,
    /// As much of them as was captured.
    pub payload: &'a [u8],
    /// The captured bytes of the frame that are headers of layers 2 to 4.
    pub header_len: u32,
    pub tcp: Option<TcpHeader>,
    /// ICMP or ICMPv6 type and code.
    pub icmp: Option<(u8, u8)>,
    /// Of ARP for IPv4 on Ethernet, whose key is the asking and the asked IP address.
    pub(crate) arp: Option<ArpOperation>,
    pub fragment: Fragment,
    /// TTL or hop limit.
    pub ttl: Option<u8>,
    pub source_mac: Option<[u8; 6]>,
    pub problem: Option<DecodeProblem>,
    /// The key is all it can be, so the packet belongs to its flow in spite of a `problem`. Otherwise it belongs to a
    /// flow of the packets that have the same problem.
    pub key_complete: bool,
    /// The network that an overlay's header names (VXLAN, GENEVE): the same addresses in another are another flow.
    pub network_id: u32,
    /// It came inside of another packet: [`each_outer`] says of which.
    pub is_wrapped: bool,
}

/// A packet while its headers are read one after the other, and what is known of the way. The way is needed of few
/// packets: those decode again what they need of it.
#[derive(Clone, Copy, Debug)]
struct Decoding<'a> {
    packet: Packet<'a>,
    /// All that was captured.
    frame: &'a [u8],
    /// Where the last IP header begins in it.
    ip_at: u32,
    /// Where the ARP header does; valid with `packet.arp`.
    arp_at: u32,
    on_ethernet: bool,
    /// What the packet is wrapped in, if it is.
    layers: Option<Layers>,
    /// Of a fragment.
    piece: Option<Piece>,
}

impl<'a> Deref for Decoding<'a> {
    type Target = Packet<'a>;

    #[inline]
    fn deref(&self) -> &Packet<'a> {
        &self.packet
    }
}

impl<'a> DerefMut for Decoding<'a> {
    #[inline]
    fn deref_mut(&mut self) -> &mut Packet<'a> {
        &mut self.packet
    }
}

/// Decode a frame of any link type and any length.
#[inline(always)]
pub fn decode<'a>(frame: &Frame<'a>) -> Packet<'a> {
    walk(frame).packet
}

#[inline(always)]
fn walk<'a>(frame: &Frame<'a>) -> Decoding<'a> {
    let tag_len = if frame.vlan.is_some() { VlanTag::BYTES } else { 0 };
    let wire_len = frame.original_len.max(u32::try_from(frame.data.len()).unwrap_or(u32::MAX));
    let packet = Packet {
        key: FlowKey::default(),
        wire_len: wire_len.saturating_add(tag_len),
        ip_len: 0,
        payload_len: 0,
        payload: &[],
        header_len: 0,
        tcp: None,
        icmp: None,
        arp: None,
        fragment: Fragment::Whole,
        ttl: None,
        source_mac: None,
        problem: None,
        key_complete: true,
        network_id: 0,
        is_wrapped: false,
    };
    let mut packet = Decoding {
        packet,
        frame: frame.data,
        ip_at: 0,
        arp_at: 0,
        on_ethernet: frame.link == LinkType::Ethernet,
        layers: None,
        piece: None,
    };
    let rest = Rest::new(frame.data, wire_len);
    match frame.link {
        LinkType::Ethernet => ethernet::decode(&mut packet, rest, frame.vlan),
        LinkType::RawIp => network::decode_ip(&mut packet, rest),
        LinkType::Null | LinkType::Loop => loopback::decode(&mut packet, rest, frame.link),
        LinkType::LinuxSll => sll::decode_v1(&mut packet, rest, frame.vlan),
        LinkType::LinuxSll2 => sll::decode_v2(&mut packet, rest, frame.vlan),
        LinkType::Ppp => ppp::decode(&mut packet, rest),
        LinkType::PppHdlc => ppp::decode_hdlc(&mut packet, rest),
        LinkType::PppEther => ppp::decode_pppoe(&mut packet, rest),
        LinkType::CiscoHdlc => ppp::decode_cisco(&mut packet, rest),
        LinkType::FrameRelay => ppp::decode_frame_relay(&mut packet, rest),
        LinkType::Wifi => wifi::decode(&mut packet, rest),
        LinkType::WifiRadiotap => wifi::decode_radiotap(&mut packet, rest),
        LinkType::Nflog => nflog::decode(&mut packet, rest),
        LinkType::Other(_) => packet.stop(rest, DecodeProblem::UnknownLink),
    }
    packet
}

/// What is kept as "headers" where they could not be told from the rest.
const UNDECODED_HEADER_BYTES: usize = 64;

impl<'a> Decoding<'a> {
    /// Decoding went as far as it should: `rest` is the payload.
    fn end(&mut self, rest: Rest<'a>) {
        self.payload = rest.captured();
        self.payload_len = rest.wire();
        self.header_len = rest.at();
    }

    /// Decoding ends before the key is whole.
    fn stop(&mut self, rest: Rest<'a>, problem: DecodeProblem) {
        self.problem = Some(problem);
        self.key_complete = false;
        self.header_len = rest.at() + rest.captured().len().min(UNDECODED_HEADER_BYTES) as u32;
    }

    /// A flow of its talkers: what follows layer 2 is not read, and no payload of a transport.
    fn end_undecoded(&mut self, rest: Rest<'a>) {
        self.note(DecodeProblem::Undecoded);
        self.header_len = rest.at();
    }

    /// Something is wrong with the packet, but whose it is is known.
    fn note(&mut self, problem: DecodeProblem) {
        self.problem = self.problem.or(Some(problem));
    }
}

#[cfg(test)]
mod tests {
    use super::example::{self, frame};
    use super::*;
    use gnomon_capture::Stamp;
    use gnomon_flow::Addresses;
    use proptest::prelude::*;

    const LINKS: [LinkType; 15] = [
        LinkType::Ppp,
        LinkType::PppHdlc,
        LinkType::PppEther,
        LinkType::CiscoHdlc,
        LinkType::FrameRelay,
        LinkType::Wifi,
        LinkType::WifiRadiotap,
        LinkType::Nflog,
        LinkType::Ethernet,
        LinkType::RawIp,
        LinkType::Null,
        LinkType::Loop,
        LinkType::LinuxSll,
        LinkType::LinuxSll2,
        LinkType::Other(147),
    ];

    fn check_bounds(frame: &Frame<'_>) {
        let packet = decode(frame);
        assert!(packet.ip_len <= packet.wire_len);
        assert!(packet.payload_len <= packet.wire_len);
        assert!(packet.payload.len() <= packet.payload_len as usize);
        assert!(packet.header_len as usize + packet.payload.len() <= frame.data.len());
        assert!(packet.key_complete || packet.problem.is_some());
        let has_talkers = matches!(
            frame.link,
            LinkType::Ethernet
                | LinkType::LinuxSll
                | LinkType::LinuxSll2
                | LinkType::Wifi
                | LinkType::WifiRadiotap
        );
        if packet.key.addresses == Addresses::None && has_talkers {
            assert!(packet.problem.is_some(), "a frame without a talker must say why");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn any_bytes_give_a_packet_within_bounds(
            data in prop::collection::vec(any::<u8>(), 0..200),
            extra in prop_oneof![Just(0u32), 0u32..3000, Just(u32::MAX / 2)],
            link in prop::sample::select(&LINKS[..]),
            vlan in prop::option::of((any::<u16>(), any::<u16>())),
        ) {
            check_bounds(&Frame {
                stamp: Stamp::default(),
                link,
                original_len: (data.len() as u32).saturating_add(extra),
                data: &data,
                vlan: vlan.map(|(tpid, tci)| VlanTag { tpid, tci }),
                outgoing: false,
            });
        }

        #[test]
        fn damaged_packets_give_a_packet_within_bounds(
            which in 0..example::ALL.len() + example::WRAPPED.len(),
            damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
            cut in any::<prop::sample::Index>(),
        ) {
            let make = example::ALL.iter().chain(&example::WRAPPED).nth(which);
            let mut data = make.map(|make| make()).unwrap_or_default();
            let wire = data.len() as u32;
            for (at, byte) in damage {
                let at = at.index(data.len());
                data[at] = byte;
            }
            data.truncate(cut.index(data.len() + 1));
            check_bounds(&Frame { original_len: wire, ..frame(&data) });
        }
    }

    #[test]
    fn a_packet_cut_anywhere_keeps_its_lengths_and_joins_its_flow_once_the_ports_are_there() {
        for make in example::ALL {
            let data = make();
            let whole = decode(&frame(&data));
            assert_eq!(whole.problem, None);
            let mut joined_from = None;
            for cut in (0..data.len()).rev() {
                let sliced = Frame { original_len: data.len() as u32, ..frame(&data[..cut]) };
                check_bounds(&sliced);
                let packet = decode(&sliced);
                assert_eq!(packet.wire_len, whole.wire_len);
                if packet.key_complete {
                    assert_eq!(packet.key, whole.key);
                    assert_eq!(packet.ip_len, whole.ip_len);
                    joined_from = Some(cut);
                } else {
                    assert!(packet.problem.is_some());
                }
                if packet.problem.is_none() {
                    assert_eq!(packet.payload_len, whole.payload_len, "cut at {cut}");
                    assert_eq!(packet.tcp, whole.tcp);
                }
            }
            assert!(joined_from.is_some_and(|cut| cut <= whole.header_len as usize));
        }
    }

    #[test]
    fn a_packet_in_a_packet_cut_anywhere_belongs_to_the_inner_flow_or_to_one_around_it() {
        for make in example::WRAPPED {
            let data = make();
            let whole = decode(&frame(&data));
            assert!(whole.problem.is_none() && whole.is_wrapped);
            let mut joined = 0;
            for cut in 0..data.len() {
                let sliced = Frame { original_len: data.len() as u32, ..frame(&data[..cut]) };
                check_bounds(&sliced);
                let packet = decode(&sliced);
                assert_eq!(packet.wire_len, whole.wire_len);
                if packet.key == whole.key && packet.key_complete {
                    assert_eq!((packet.ip_len, packet.network_id), (whole.ip_len, whole.network_id));
                    joined += 1;
                }
            }
            assert!(joined >= 6, "{joined} cuts of the payload alone");
        }
    }

    #[test]
    fn the_tag_the_hardware_took_out_counts_as_wire_bytes_and_stands_outermost() {
        let data = example::tagged(&[(0x8100, 7)], &example::tcp_v4());
        let tag = VlanTag { tpid: 0x88a8, tci: 0xe005 };
        let packet = decode(&Frame { vlan: Some(tag), ..frame(&data) });
        assert_eq!(packet.key.vlan, [5, 7]);
        assert_eq!(packet.wire_len as usize, data.len() + 4);
    }

    #[test]
    fn an_unknown_link_type_is_a_packet_with_a_problem() {
        let packet = decode(&Frame { link: LinkType::Other(147), ..frame(b"abc") });
        assert_eq!((packet.problem, packet.wire_len), (Some(DecodeProblem::UnknownLink), 3));
    }
}
