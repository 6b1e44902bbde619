//! Ethernet II and 802.3 (IEEE 802.3-2022 section 3.2).

use gnomon_capture::VlanTag;
use gnomon_flow::{Addresses, DecodeProblem};

use super::rest::{Rest, u16_at};
use super::{Decoding, tags};

const HEADER_BYTES: u32 = 14;

#[inline]
pub(super) fn decode<'a>(packet: &mut Decoding<'a>, rest: Rest<'a>, stripped: Option<VlanTag>) {
    let Some(header) = rest.peek::<{ HEADER_BYTES as usize }>() else {
        return truncated(packet, rest);
    };
    let (resp, orig) = (mac_at(header, 0), mac_at(header, 6));
    packet.key.addresses = Addresses::Mac { orig, resp };
    packet.source_mac = Some(orig);
    tags::decode(packet, rest.skip(HEADER_BYTES), stripped, u16_at(header, 12));
}

/// A frame inside another packet: its addresses and tags take the place of those around it.
pub(super) fn decode_inner<'a>(packet: &mut Decoding<'a>, rest: Rest<'a>) {
    packet.enter_ethernet();
    decode(packet, rest, None);
}

/// Whether an Ethernet frame of a usual kind begins here.
pub(super) fn is_likely(rest: &Rest<'_>) -> bool {
    rest.peek::<{ HEADER_BYTES as usize }>().is_some_and(|header| match u16_at(header, 12) {
        0x0800 | 0x0806 | 0x86dd | 0x8808..=0x8902 => true,
        tag if tags::is_tag(tag) => true,
        length => u32::from(length) <= rest.wire() - HEADER_BYTES && (3..0x0600).contains(&length),
    })
}

fn truncated<'a>(packet: &mut Decoding<'a>, rest: Rest<'a>) {
    if let Some(addresses) = rest.peek::<12>() {
        let (resp, orig) = (mac_at(addresses, 0), mac_at(addresses, 6));
        packet.key.addresses = Addresses::Mac { orig, resp };
        packet.source_mac = Some(orig);
    }
    packet.stop(rest, DecodeProblem::TruncatedLink);
}

#[inline]
pub(super) fn mac_at(bytes: &[u8], at: usize) -> [u8; 6] {
    std::array::from_fn(|i| bytes[at + i])
}

#[cfg(test)]
mod tests {
    use super::super::{decode, example};
    use super::*;

    #[test]
    fn another_layer_2_protocol_is_a_flow_of_its_talkers() {
        let data = example::ethernet(0x88cc, &[2, 7, 4, 0, 1]);
        let packet = decode(&example::frame(&data));
        assert_eq!(packet.key.addresses, Addresses::Mac { orig: example::ORIG_MAC, resp: example::RESP_MAC });
        assert_eq!(packet.key.ethertype, 0x88cc);
        // Its EtherType is a field, and it says that it was not read.
        assert_eq!(packet.problem, Some(DecodeProblem::Undecoded));
        assert_eq!((packet.key_complete, packet.ip_len, packet.payload_len), (true, 0, 0));
    }

    #[test]
    fn a_frame_that_ends_in_its_link_header_keeps_the_macs_it_has() {
        let data = example::tcp_v4();
        let packet = decode(&example::frame(&data[..13]));
        assert_eq!(packet.problem, Some(DecodeProblem::TruncatedLink));
        assert_eq!(packet.key.addresses, Addresses::Mac { orig: example::ORIG_MAC, resp: example::RESP_MAC });
        assert_eq!(decode(&example::frame(&data[..11])).key.addresses, Addresses::None);
    }
}
