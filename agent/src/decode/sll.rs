//! Linux "cooked" captures (tcpdump's LINKTYPE_LINUX_SLL and LINKTYPE_LINUX_SLL2): the sender's address only.

use gnomon_capture::VlanTag;
use gnomon_flow::{Addresses, DecodeProblem};

use super::ethernet::mac_at;
use super::rest::{Rest, u16_at};
use super::{Decoding, llc, tags};

const V1_BYTES: u32 = 16;
const V2_BYTES: u32 = 20;

/// The protocol field of 802.3 frames (ETH_P_802_3 and ETH_P_802_2): LLC follows.
const PROTOCOL_802_3: u16 = 1;
const PROTOCOL_802_2: u16 = 4;

pub(super) fn decode_v1<'a>(packet: &mut Decoding<'a>, rest: Rest<'a>, stripped: Option<VlanTag>) {
    match rest.peek::<{ V1_BYTES as usize }>() {
        Some(header) => {
            talker(packet, u16_at(header, 4), mac_at(header, 6));
            decode_rest(packet, rest.skip(V1_BYTES), stripped, u16_at(header, 14));
        }
        None => packet.stop(rest, DecodeProblem::TruncatedLink),
    }
}

pub(super) fn decode_v2<'a>(packet: &mut Decoding<'a>, rest: Rest<'a>, stripped: Option<VlanTag>) {
    match rest.peek::<{ V2_BYTES as usize }>() {
        Some(header) => {
            talker(packet, u16::from(header[11]), mac_at(header, 12));
            decode_rest(packet, rest.skip(V2_BYTES), stripped, u16_at(header, 0));
        }
        None => packet.stop(rest, DecodeProblem::TruncatedLink),
    }
}

/// The receiver's address is not in the header; zero stands for it.
fn talker(packet: &mut Decoding<'_>, address_len: u16, address: [u8; 6]) {
    let orig = if address_len == 6 { address } else { [0; 6] };
    packet.key.addresses = Addresses::Mac { orig, resp: [0; 6] };
    packet.source_mac = (address_len == 6).then_some(address);
}

fn decode_rest<'a>(packet: &mut Decoding<'a>, rest: Rest<'a>, stripped: Option<VlanTag>, protocol: u16) {
    match protocol {
        PROTOCOL_802_3 | PROTOCOL_802_2 => llc::decode(packet, rest),
        _ => tags::decode(packet, rest, stripped, protocol),
    }
}

#[cfg(test)]
mod tests {
    use gnomon_capture::{Frame, LinkType};

    use super::super::{decode, example};
    use super::*;

    #[test]
    fn both_versions_lead_to_the_same_flow_as_ethernet() {
        let ethernet = example::udp_v6();
        let expected = decode(&example::frame(&ethernet));
        let mac = example::ORIG_MAC;
        let mut v1 = vec![0, 0, 0, 1, 0, 6];
        v1.extend_from_slice(&mac);
        v1.extend_from_slice(&[0, 0, 0x86, 0xdd]);
        let mut v2 = vec![0x86, 0xdd, 0, 0, 0, 0, 0, 2, 0, 1, 0, 6];
        v2.extend_from_slice(&mac);
        v2.extend_from_slice(&[0, 0]);
        for (link, mut data) in [(LinkType::LinuxSll, v1), (LinkType::LinuxSll2, v2)] {
            let header = data.len();
            data.extend_from_slice(&ethernet[14..]);
            let packet = decode(&Frame { link, ..example::frame(&data) });
            assert_eq!((packet.key, packet.source_mac), (expected.key, Some(mac)));
            assert_eq!((packet.problem, packet.payload), (None, expected.payload));
            let cut = decode(&Frame { link, ..example::frame(&data[..header - 1]) });
            assert_eq!(cut.problem, Some(DecodeProblem::TruncatedLink));
        }
    }
}
