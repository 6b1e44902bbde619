//! ICMP (RFC 792) and ICMPv6 (RFC 4443): a flow of the address pair; type and code are kept beside the key.

use gnomon_flow::DecodeProblem;

use super::Packet;
use super::rest::Rest;

const HEADER_BYTES: u32 = 8;

#[inline]
pub(super) fn decode<'a>(packet: &mut Packet<'a>, rest: Rest<'a>) {
    match rest.peek::<2>() {
        Some(&[kind, code]) => packet.icmp = Some((kind, code)),
        None => packet.note(DecodeProblem::TruncatedTransport),
    }
    packet.end(rest.skip(HEADER_BYTES));
}

#[cfg(test)]
mod tests {
    use super::super::{decode, example};
    use super::*;

    #[test]
    fn the_key_has_no_ports_and_type_and_code_are_read() {
        let data = example::icmp_v4();
        let packet = decode(&example::frame(&data));
        assert_eq!(packet.icmp, Some((8, 0)));
        assert_eq!((packet.key.protocol, packet.key.orig_port, packet.key.resp_port), (1, 0, 0));
        assert_eq!(packet.payload, b"ping");
        let cut =
            decode(&gnomon_capture::Frame { original_len: data.len() as u32, ..example::frame(&data[..34]) });
        assert_eq!((cut.key, cut.problem), (packet.key, Some(DecodeProblem::TruncatedTransport)));
        assert!(cut.key_complete);
    }
}
