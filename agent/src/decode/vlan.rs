//! 802.1Q and 802.1ad tags (IEEE 802.1Q-2022 section 9), in the frame or taken out of it by the hardware.

use gnomon_capture::VlanTag;
use gnomon_flow::DecodeProblem;

use super::rest::{Rest, u16_at};
use super::{Decoding, network};

/// Tags looked through, priority tags (id 0) among them. The key has room for two ids: of more, those inside are told by
/// nothing, and what they carry is told all the same.
const TAGS_MAX: usize = 8;

/// 0x9100 is what QinQ switches used before 802.1ad.
fn is_tag(ethertype: u16) -> bool {
    matches!(ethertype, 0x8100 | 0x88a8 | 0x9100)
}

#[inline]
pub(super) fn decode<'a>(
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
        let Some(tag) = rest.peek::<4>() else {
            return packet.stop(rest, DecodeProblem::TruncatedLink);
        };
        push(packet, &mut ids, u16_at(tag, 0));
        ethertype = u16_at(tag, 2);
        rest = rest.skip(4);
    }
    if is_tag(ethertype) {
        return packet.stop(rest, DecodeProblem::TooDeep);
    }
    network::decode(packet, rest, ethertype);
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
