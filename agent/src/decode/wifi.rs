//! 802.11 (IEEE 802.11-2020 section 9.2), with a radiotap header before it or without.

use gnomon_flow::{Addresses, DecodeProblem};

use super::ethernet::mac_at;
use super::rest::Rest;
use super::{Decoding, llc};

const DATA: u8 = 2;
const TO_DS: u8 = 0x01;
const FROM_DS: u8 = 0x02;
const PROTECTED: u8 = 0x40;
const ORDER: u8 = 0x80;
const QOS: u8 = 0x8;
const NULL: u8 = 0x4;
const AGGREGATE: u8 = 0x80;

/// radiotap.org: version, padding, length in little-endian order, then which fields there are.
pub(super) fn decode_radiotap<'a>(packet: &mut Decoding<'a>, rest: Rest<'a>) {
    let Some(&[version, _, low, high, present @ ..]) = rest.peek::<8>() else {
        return packet.stop(rest, DecodeProblem::TruncatedLink);
    };
    let length = u32::from(u16::from_le_bytes([low, high]));
    if version != 0 || length < 8 {
        return packet.stop(rest, DecodeProblem::Malformed);
    }
    let padded =
        flags(rest.captured(), u32::from_le_bytes(present), length).is_some_and(|flags| flags & 0x20 != 0);
    frame(packet, rest.skip(length), padded);
}

/// The Flags field, after further words of presence and a time stamp aligned to 8 bytes.
fn flags(captured: &[u8], present: u32, length: u32) -> Option<u8> {
    if present & 2 == 0 {
        return None;
    }
    let mut at = 8;
    let mut word = present;
    while word & 1 << 31 != 0 {
        word = u32::from_le_bytes(*captured.get(at..)?.first_chunk::<4>()?);
        at += 4;
    }
    if present & 1 != 0 {
        at = at.next_multiple_of(8) + 8;
    }
    if at >= length as usize { None } else { captured.get(at).copied() }
}

pub(super) fn decode<'a>(packet: &mut Decoding<'a>, rest: Rest<'a>) {
    frame(packet, rest, false);
}

fn frame<'a>(packet: &mut Decoding<'a>, rest: Rest<'a>, padded: bool) {
    let Some(&[control, flags, ..]) = rest.peek::<10>() else {
        return packet.stop(rest, DecodeProblem::TruncatedLink);
    };
    let address = |at: usize| rest.captured().get(at..)?.first_chunk::<6>().map(|mac| mac_at(mac, 0));
    let (kind, subtype) = (control >> 2 & 3, control >> 4);
    let both = flags & (TO_DS | FROM_DS);
    let (source, destination) = match both {
        _ if kind != DATA => (address(10), address(4)),
        0 => (address(10), address(4)),
        TO_DS => (address(10), address(16)),
        FROM_DS => (address(16), address(4)),
        _ => (address(24), address(16)),
    };
    // An acknowledgement has no sender.
    let (orig, resp) = (source.unwrap_or_default(), destination.unwrap_or_default());
    packet.key.addresses = Addresses::Mac { orig, resp };
    packet.source_mac = source;
    let mut header: u32 = if both == TO_DS | FROM_DS { 30 } else { 24 };
    if kind != DATA || subtype & NULL != 0 || flags & PROTECTED != 0 {
        // A flow of its talkers.
        packet.header_len = rest.skip(header).at();
        return;
    }
    let mut aggregate = false;
    if subtype & QOS != 0 {
        aggregate = rest.captured().get(header as usize).is_some_and(|qos| qos & AGGREGATE != 0);
        header += if flags & ORDER != 0 { 6 } else { 2 };
    }
    if padded {
        header = header.next_multiple_of(4);
    }
    if aggregate {
        packet.header_len = rest.skip(header).at();
        return;
    }
    llc::decode(packet, rest.skip(header));
}

#[cfg(test)]
mod tests {
    use gnomon_capture::{Frame, LinkType};

    use super::super::{decode, example};
    use super::*;

    const AP: [u8; 6] = [2, 0, 0, 0, 0, 9];

    #[test]
    fn data_frames_of_every_direction_lead_to_ip_and_others_stay_with_their_talkers() {
        let plain = example::tcp_v4();
        let expected = decode(&example::frame(&plain)).key;
        let (orig, resp) = (example::ORIG_MAC, example::RESP_MAC);
        let body = [&[0xaa, 0xaa, 3, 0, 0, 0, 8, 0], &plain[14..]].concat();
        for (flags, addresses) in
            [(0, [resp, orig, AP]), (TO_DS, [AP, orig, resp]), (FROM_DS, [resp, AP, orig])]
        {
            for qos in [&[][..], &[0, 0]] {
                let control = if qos.is_empty() { 0x08 } else { 0x88 };
                let header = [&[control, flags, 0, 0][..], &addresses.concat(), &[0, 0], qos, &body].concat();
                let packet = decode(&Frame { link: LinkType::Wifi, ..example::frame(&header) });
                assert_eq!((packet.problem, packet.key, packet.source_mac), (None, expected, Some(orig)));
                // A time stamp, then flags that say the header is padded.
                let mut radiotap = vec![0, 0, 17, 0, 3, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 0x20];
                radiotap.extend_from_slice(&header[..24 + qos.len()]);
                radiotap.resize(17 + 24 + qos.len().next_multiple_of(4), 0);
                radiotap.extend_from_slice(&body);
                let packet = decode(&Frame { link: LinkType::WifiRadiotap, ..example::frame(&radiotap) });
                assert_eq!((packet.problem, packet.key), (None, expected));
            }
        }
        let beacon = [&[0x80, 0, 0, 0][..], &resp, &orig, &AP, &[0; 20]].concat();
        let protected = [&[0x08, PROTECTED, 0, 0][..], &resp, &orig, &AP, &[0, 0], &body].concat();
        for data in [beacon, protected] {
            let packet = decode(&Frame { link: LinkType::Wifi, ..example::frame(&data) });
            assert_eq!((packet.problem, packet.key.ethertype), (None, 0));
            assert_eq!(packet.key.addresses, Addresses::Mac { orig, resp });
        }
    }
}
