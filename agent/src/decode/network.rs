//! Which network layer an EtherType leads to.

use gnomon_flow::DecodeProblem;

use super::rest::Rest;
use super::{Decoding, arp, ipv4, ipv6, llc, mpls, nsh, ppp};

pub(super) const ETHERTYPE_IPV4: u16 = 0x0800;
pub(super) const ETHERTYPE_IPV6: u16 = 0x86dd;
pub(super) const ETHERTYPE_MPLS: u16 = 0x8847;
pub(super) const ETHERTYPE_MPLS_UPSTREAM: u16 = 0x8848;
pub(super) const ETHERTYPE_NSH: u16 = 0x894f;
const ETHERTYPE_ARP: u16 = 0x0806;
const ETHERTYPE_RARP: u16 = 0x8035;
const ETHERTYPE_PPPOE_SESSION: u16 = 0x8864;
/// Below this the field is the length of an 802.3 frame (IEEE 802.3-2022 section 3.2.6).
const ETHERTYPE_MIN: u16 = 0x0600;

#[inline]
pub(super) fn decode<'a>(packet: &mut Decoding<'a>, rest: Rest<'a>, ethertype: u16) {
    packet.key.ethertype = ethertype;
    match ethertype {
        ETHERTYPE_IPV4 => ipv4::decode(packet, rest),
        ETHERTYPE_IPV6 => ipv6::decode(packet, rest),
        ETHERTYPE_ARP | ETHERTYPE_RARP => arp::decode(packet, rest),
        ETHERTYPE_MPLS | ETHERTYPE_MPLS_UPSTREAM => mpls::decode(packet, rest),
        ETHERTYPE_PPPOE_SESSION => ppp::decode_pppoe(packet, rest),
        ETHERTYPE_NSH => nsh::decode(packet, rest),
        length if length < ETHERTYPE_MIN => llc::decode(packet, rest.limit(u32::from(length))),
        _ => packet.end_undecoded(rest),
    }
}

/// An IP header without a link layer: its first four bits say which.
pub(super) fn decode_ip<'a>(packet: &mut Decoding<'a>, rest: Rest<'a>) {
    match rest.captured().first().map(|byte| byte >> 4) {
        Some(4) => ipv4::decode(packet, rest),
        Some(6) => ipv6::decode(packet, rest),
        Some(_) => packet.stop(rest, DecodeProblem::Malformed),
        None => packet.stop(rest, DecodeProblem::TruncatedNetwork),
    }
}
