//! What stands between the MAC addresses and the network layer: VLAN tags (IEEE 802.1Q-2022 section 9), in the frame or
//! taken out of it by the hardware, and the tags of switches, fabrics and ring protocols.
//!
//! | EtherType | tag | bytes with the next EtherType | source |
//! |---|---|---|---|
//! | 8100 88a8 9100 9200 9300 | VLAN | 4 | IEEE 802.1Q; QinQ before 802.1ad |
//! | 8926 | VN-Tag | 6 | Cisco, IEEE 802.1Qbh proposal |
//! | 893f | E-TAG | 8 | IEEE 802.1BR-2012 section 7 |
//! | 8909 | Cisco metadata (security group) | 8 | Cisco TrustSec |
//! | 8988 | Cisco time stamp | 8 | Nexus ttag |
//! | 892f | HSR | 6 | IEC 62439-3 section 5 |
//! | dada | EDSA: a Marvell switch's port and VLAN | 8 | Linux net/dsa/tag_dsa.c |
//! | d28b | Arista time stamp | 12 or 14 | Arista EOS, 48 or 64 bits |
//! | 88e5 | MACsec, where it is not encrypted | 8 or 16 | IEEE 802.1AE-2018 section 9 |
//! | 88e7 | PBB: another Ethernet header follows | 4, then the header | IEEE 802.1ah, 802.1Q section 9.7 |
//! | 8903 | FabricPath: likewise | 2, then the header | Cisco |
//!
//! PRP (IEC 62439-3 section 4) has a trailer, which is padding to the IP header's length.

use gnomon_capture::VlanTag;
use gnomon_flow::DecodeProblem;

use super::layers::LayerKind;
use super::rest::{Rest, u16_at, u32_at};
use super::{Decoding, ethernet, network};

/// Tags looked through, priority tags (id 0) among them. The key has room for two VLAN ids, those of the outermost tags.
const TAGS_MAX: usize = 8;

const VN_TAG: u16 = 0x8926;
const E_TAG: u16 = 0x893f;
const CISCO_METADATA: u16 = 0x8909;
const CISCO_TIME: u16 = 0x8988;
const HSR: u16 = 0x892f;
const EDSA: u16 = 0xdada;
const ARISTA_TIME: u16 = 0xd28b;
const MACSEC: u16 = 0x88e5;
const PBB: u16 = 0x88e7;
const FABRIC_PATH: u16 = 0x8903;

/// Whether a tag begins behind this EtherType.
pub(super) fn is_tag(ethertype: u16) -> bool {
    is_vlan(ethertype)
        || matches!(
            ethertype,
            VN_TAG
                | E_TAG
                | CISCO_METADATA
                | CISCO_TIME
                | HSR
                | EDSA
                | ARISTA_TIME
                | MACSEC
                | PBB
                | FABRIC_PATH
        )
}

fn is_vlan(ethertype: u16) -> bool {
    matches!(ethertype, 0x8100 | 0x88a8 | 0x9100 | 0x9200 | 0x9300)
}

/// What follows a tag.
enum Next {
    /// So many bytes on, the last two of which are the next EtherType; a VLAN's id is told.
    EtherType { bytes: u32, tci: Option<u16> },
    /// Another Ethernet header, so many bytes on, in the network with this id.
    Ethernet { kind: LayerKind, bytes: u32, network: u32 },
    /// Encrypted, or of a version that is not known.
    Unread,
    /// The tag was not captured whole.
    Truncated,
}

/// Most frames have no tag: they are told from others by two comparisons.
#[inline(always)]
pub(super) fn decode<'a>(
    packet: &mut Decoding<'a>,
    rest: Rest<'a>,
    stripped: Option<VlanTag>,
    ethertype: u16,
) {
    if stripped.is_none() && matches!(ethertype, network::ETHERTYPE_IPV4 | network::ETHERTYPE_IPV6) {
        network::decode(packet, rest, ethertype);
    } else {
        decode_tagged(packet, rest, stripped, ethertype);
    }
}

#[inline(never)]
fn decode_tagged<'a>(
    packet: &mut Decoding<'a>,
    mut rest: Rest<'a>,
    stripped: Option<VlanTag>,
    mut ethertype: u16,
) {
    let mut ids = 0;
    if let Some(tag) = stripped {
        push(packet, &mut ids, tag.tci);
    }
    for _ in 0..TAGS_MAX {
        if !is_tag(ethertype) {
            return network::decode(packet, rest, ethertype);
        }
        packet.key.ethertype = ethertype;
        match next(ethertype, &rest) {
            Next::EtherType { bytes, tci } => {
                if let Some(tci) = tci {
                    push(packet, &mut ids, tci);
                }
                let tag = rest.captured();
                let end = bytes as usize;
                if tag.len() < end {
                    return packet.stop(rest, DecodeProblem::TruncatedLink);
                }
                ethertype = u16_at(tag, end - 2);
                rest = rest.skip(bytes);
            }
            Next::Ethernet { kind, bytes, network } => {
                if !packet.wrap(kind, rest.at()) {
                    return packet.stop(rest, DecodeProblem::TooDeep);
                }
                packet.network_id = network;
                return ethernet::decode_inner(packet, rest.skip(bytes));
            }
            Next::Unread => return packet.end_undecoded(rest),
            Next::Truncated => return packet.stop(rest, DecodeProblem::TruncatedLink),
        }
    }
    if is_tag(ethertype) {
        return packet.stop(rest, DecodeProblem::TooDeep);
    }
    network::decode(packet, rest, ethertype);
}

fn next(ethertype: u16, rest: &Rest<'_>) -> Next {
    let tag = rest.captured();
    let fixed = |bytes| Next::EtherType { bytes, tci: None };
    match ethertype {
        VN_TAG | HSR => fixed(6),
        E_TAG | CISCO_METADATA | CISCO_TIME => fixed(8),
        // Two reserved bytes, then the switch's own tag: bit 5 of its first byte says that the frame had a VLAN tag.
        EDSA => match rest.peek::<6>() {
            Some(tag) => Next::EtherType { bytes: 8, tci: (tag[2] & 0x20 != 0).then(|| u16_at(tag, 4)) },
            None => Next::Truncated,
        },
        ARISTA_TIME => match rest.peek::<4>() {
            // The low byte of the version: 64 or 48 bits of time; the high byte is TAI or UTC.
            Some([0, 1, _, 0x10]) => fixed(14),
            Some([0, 1, _, 0x20]) => fixed(12),
            Some(_) => Next::Unread,
            None => Next::Truncated,
        },
        MACSEC => match tag.first() {
            // Version 0, neither encrypted nor changed; with a secure channel identifier or without.
            Some(control) if control & 0x8c == 0 => fixed(if control & 0x20 != 0 { 16 } else { 8 }),
            Some(_) => Next::Unread,
            None => Next::Truncated,
        },
        PBB => match rest.peek::<4>() {
            Some(tag) => {
                Next::Ethernet { kind: LayerKind::Pbb, bytes: 4, network: u32_at(tag, 0) & 0x00ff_ffff }
            }
            None => Next::Truncated,
        },
        FABRIC_PATH => match rest.peek::<2>() {
            Some(_) => Next::Ethernet { kind: LayerKind::FabricPath, bytes: 2, network: 0 },
            None => Next::Truncated,
        },
        _ => match rest.peek::<4>() {
            Some(tag) => Next::EtherType { bytes: 4, tci: Some(u16_at(tag, 0)) },
            None => Next::Truncated,
        },
    }
}

/// Id 0 is no VLAN but a priority (section 9.6): it takes no room in the key.
fn push(packet: &mut Decoding<'_>, ids: &mut usize, tci: u16) {
    let id = tci & 0x0fff;
    if id != 0
        && let Some(place) = packet.key.vlan.get_mut(*ids)
    {
        *place = id;
        *ids += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::super::{decode, example};
    use super::*;

    #[test]
    fn ids_come_outermost_first_and_a_priority_tag_is_no_vlan() {
        let inner = example::tcp_v4();
        let bare = decode(&example::frame(&inner)).key;
        for (tags, vlan) in [
            (&[(0x8100, 5)][..], [5, 0]),
            (&[(0x88a8, 5), (0x8100, 0xf007)], [5, 7]),
            (&[(0x8100, 0xe000)], [0, 0]),
            (&[(0x8100, 0), (0x8100, 9)], [9, 0]),
            (&[(0x88a8, 5), (0x9100, 0), (0x8100, 6), (0x8100, 7)], [5, 6]),
        ] {
            let data = example::tagged(tags, &inner);
            let packet = decode(&example::frame(&data));
            assert_eq!((packet.problem, packet.key.vlan), (None, vlan));
            assert_eq!(gnomon_flow::FlowKey { vlan: [0; 2], ..packet.key }, bare);
        }
    }

    /// A frame with what stands between its addresses and its IP header.
    fn with(tag: &[u8]) -> Vec<u8> {
        let inner = example::tcp_v4();
        [&inner[..12], tag, &inner[14..]].concat()
    }

    #[test]
    fn tags_of_switches_fabrics_and_rings_lead_to_the_inner_flow() {
        let bare = decode(&example::frame(&example::tcp_v4())).key;
        for (tag, vlan) in [
            (&[0x89, 0x26, 0, 1, 0, 2, 8, 0][..], 0),
            (&[0x89, 0x26, 0, 1, 0, 2, 0x81, 0, 0, 5, 8, 0], 5),
            (&[0x89, 0x3f, 0, 1, 0, 2, 0, 0, 8, 0], 0),
            (&[0x89, 0x09, 1, 1, 0, 1, 0, 100, 8, 0], 0),
            (&[0x89, 0x88, 1, 2, 3, 4, 5, 6, 8, 0], 0),
            (&[0x89, 0x2f, 0x10, 0x28, 0, 1, 8, 0], 0),
            (&[0x92, 0, 0, 5, 0x93, 0, 0, 0, 8, 0], 5),
            (&[0xda, 0xda, 0, 0, 0xc0, 0, 0, 9, 8, 0], 0),
            (&[0xda, 0xda, 0, 0, 0xe0, 0, 0, 9, 8, 0], 9),
            (&[0xd2, 0x8b, 0, 1, 0, 0x10, 1, 2, 3, 4, 5, 6, 7, 8, 8, 0], 0),
            (&[0xd2, 0x8b, 0, 1, 1, 0x20, 1, 2, 3, 4, 5, 6, 8, 0], 0),
            (&[0x88, 0xe5, 0, 0, 0, 0, 0, 1, 8, 0], 0),
            (&[0x88, 0xe5, 0x20, 0, 0, 0, 0, 1, 1, 2, 3, 4, 5, 6, 7, 8, 8, 0], 0),
        ] {
            let data = with(tag);
            let packet = decode(&example::frame(&data));
            assert_eq!((packet.problem, packet.key.vlan), (None, [vlan, 0]), "{tag:x?}");
            assert_eq!(gnomon_flow::FlowKey { vlan: [0; 2], ..packet.key }, bare, "{tag:x?}");
            for cut in 12..12 + tag.len() {
                let sliced =
                    gnomon_capture::Frame { original_len: data.len() as u32, ..example::frame(&data[..cut]) };
                let packet = decode(&sliced);
                assert!(!packet.key_complete && packet.problem.is_some(), "{tag:x?} cut at {cut}");
            }
        }
    }

    #[test]
    fn a_frame_in_a_frame_is_told_with_what_is_around_it() {
        let inner = example::tcp_v4();
        let bare = decode(&example::frame(&inner)).key;
        for (tag, kind, id, network) in [
            (&[0x88, 0xe7, 0x10, 1, 2, 3][..], LayerKind::Pbb, 0x01_0203, 0x01_0203),
            (&[0x89, 0x03, 0x04, 0x40], LayerKind::FabricPath, 17, 0),
        ] {
            let data = [&[9, 9, 9, 9, 9, 9, 8, 8, 8, 8, 8, 8][..], tag, &inner].concat();
            let packet = decode(&example::frame(&data));
            assert_eq!((packet.key, packet.problem, packet.network_id), (bare, None, network));
            let mut outer = Vec::new();
            super::super::each_outer(&example::frame(&data), |fact| outer.push(fact));
            assert!(outer.contains(&super::super::Outer::Header(kind, Some(id))), "{outer:?}");
            assert!(outer.contains(&super::super::Outer::Mac { source: [8; 6], destination: [9; 6] }));
        }
    }

    #[test]
    fn what_is_encrypted_or_of_an_unknown_version_says_that_it_was_not_read() {
        for tag in
            [&[0x88, 0xe5, 0x0c, 0, 0, 0, 0, 1][..], &[0xd2, 0x8b, 0, 9, 0, 0x10, 1, 2], &[0x88, 0xb5, 1, 2]]
        {
            let packet = decode(&example::frame(&with(tag))).problem;
            assert_eq!(packet, Some(DecodeProblem::Undecoded), "{tag:x?}");
        }
    }

    #[test]
    fn too_many_tags_are_a_flow_of_their_talkers() {
        for tags in [&[(0x8100, 5); 9][..], &[(0x8100, 0); 9]] {
            let data = example::tagged(tags, &example::tcp_v4());
            let packet = decode(&example::frame(&data));
            assert_eq!((packet.problem, packet.key.ethertype), (Some(DecodeProblem::TooDeep), 0x8100));
            assert_eq!(packet.wire_len as usize, data.len());
        }
    }

    #[test]
    fn a_frame_that_ends_in_a_tag_is_truncated() {
        let data = example::tagged(&[(0x8100, 5)], &example::tcp_v4());
        assert_eq!(decode(&example::frame(&data[..17])).problem, Some(DecodeProblem::TruncatedLink));
    }
}
