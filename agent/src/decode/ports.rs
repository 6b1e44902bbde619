//! The two ports every transport with ports begins with.

use gnomon_flow::DecodeProblem;

use super::Decoding;
use super::rest::{Rest, u16_at};

/// Whether the ports were there.
#[inline]
pub(super) fn read<'a>(packet: &mut Decoding<'a>, rest: Rest<'a>) -> bool {
    let Some(ports) = rest.peek::<4>() else {
        packet.stop(rest, DecodeProblem::TruncatedTransport);
        return false;
    };
    packet.key.orig_port = u16_at(ports, 0);
    packet.key.resp_port = u16_at(ports, 2);
    true
}

/// A transport of which only the ports and the length of its header matter.
pub(super) fn decode<'a>(packet: &mut Decoding<'a>, rest: Rest<'a>, header_bytes: u32) {
    if !read(packet, rest) {
        return;
    }
    if header_bytes > rest.wire() {
        packet.note(DecodeProblem::TruncatedTransport);
    }
    packet.end(rest.skip(header_bytes));
}
