//! ARP (RFC 826): a flow of its talkers; the header is only checked.

use gnomon_flow::DecodeProblem;

use super::Decoding;
use super::rest::Rest;

/// Fixed fields, then twice a hardware and a protocol address.
const FIXED_BYTES: u32 = 8;

pub(super) fn decode<'a>(packet: &mut Decoding<'a>, rest: Rest<'a>) {
    let Some(fixed) = rest.peek::<{ FIXED_BYTES as usize }>() else {
        packet.note(DecodeProblem::TruncatedNetwork);
        packet.header_len = rest.at() + rest.captured().len() as u32;
        return;
    };
    let length = FIXED_BYTES + 2 * (u32::from(fixed[4]) + u32::from(fixed[5]));
    if length > rest.wire() {
        packet.note(DecodeProblem::Malformed);
    } else if length as usize > rest.captured().len() {
        packet.note(DecodeProblem::TruncatedNetwork);
    }
    packet.header_len = rest.skip(length).at();
}

#[cfg(test)]
mod tests {
    use gnomon_capture::Frame;
    use gnomon_flow::Addresses;

    use super::super::{decode, example};
    use super::*;

    #[test]
    fn a_request_is_a_flow_of_its_talkers_even_when_cut() {
        let data = example::arp();
        let packet = decode(&example::frame(&data));
        assert_eq!(packet.key.ethertype, 0x0806);
        assert_eq!(packet.key.addresses, Addresses::Mac { orig: example::ORIG_MAC, resp: example::RESP_MAC });
        assert_eq!((packet.problem, packet.header_len, packet.ip_len), (None, 42, 0));
        let cut = decode(&Frame { original_len: 60, ..example::frame(&data[..30]) });
        assert_eq!((cut.key, cut.problem), (packet.key, Some(DecodeProblem::TruncatedNetwork)));
        let mut long = data.clone();
        long[18] = 255;
        assert_eq!(decode(&example::frame(&long)).problem, Some(DecodeProblem::Malformed));
    }
}
