//! 802.2 LLC, and the SNAP header that carries an EtherType inside it (RFC 1042).

use gnomon_flow::DecodeProblem;

use super::rest::{Rest, u16_at};
use super::{Decoding, network};

/// What the key has in the place of an EtherType for LLC frames other than SNAP (Linux's ETH_P_802_2). The frame's
/// length would stand there by the letter, and split one conversation into a flow a length.
pub(super) const LLC_ETHERTYPE: u16 = 4;

const SNAP_BYTES: u32 = 8;

pub(super) fn decode<'a>(packet: &mut Decoding<'a>, rest: Rest<'a>) {
    packet.key.ethertype = LLC_ETHERTYPE;
    match rest.peek::<{ SNAP_BYTES as usize }>() {
        // Organisation code 0: an EtherType follows.
        Some([0xaa, 0xaa, 0x03, 0, 0, 0, ethertype @ ..]) if u16_at(ethertype, 0) >= 0x0600 => {
            network::decode(packet, rest.skip(SNAP_BYTES), u16_at(ethertype, 0));
        }
        None if rest.captured().len() < 3 && rest.wire() >= 3 => {
            packet.stop(rest, DecodeProblem::TruncatedLink);
        }
        _ => packet.header_len = rest.skip(3).at(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{decode, example};

    #[test]
    fn spanning_tree_frames_of_any_length_are_one_flow() {
        let mut short = vec![0x42, 0x42, 0x03];
        short.resize(38, 0);
        let mut long = short.clone();
        long.resize(102, 0);
        let keys = [short, long].map(|body| {
            let data = example::ethernet(body.len() as u16, &body);
            let packet = decode(&example::frame(&data));
            assert_eq!(packet.problem, None);
            packet.key
        });
        assert_eq!(keys[0], keys[1]);
    }

    #[test]
    fn ip_in_snap_is_ip() {
        let plain = example::tcp_v4();
        let mut body = vec![0xaa, 0xaa, 0x03, 0, 0, 0, 0x08, 0x00];
        body.extend_from_slice(&plain[14..]);
        let data = example::ethernet(body.len() as u16, &body);
        assert_eq!(decode(&example::frame(&data)).key, decode(&example::frame(&plain)).key);
    }
}
