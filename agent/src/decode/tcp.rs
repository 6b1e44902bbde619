//! TCP (RFC 9293).

use gnomon_flow::DecodeProblem;

use super::Decoding;
use super::ports;
use super::rest::{Rest, u32_at};

const HEADER_BYTES_MIN: u32 = 20;

/// What the flow table needs of a TCP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpHeader {
    pub seq: u32,
    pub ack: u32,
    /// FIN is bit 0, CWR bit 7.
    pub flags: u8,
}

impl TcpHeader {
    pub const FIN: u8 = 0x01;
    pub const SYN: u8 = 0x02;
    pub const RST: u8 = 0x04;
    pub const ACK: u8 = 0x10;

    pub fn has(&self, flags: u8) -> bool {
        self.flags & flags == flags
    }

    /// The first packet of a connection.
    pub fn is_syn(&self) -> bool {
        self.flags & (TcpHeader::SYN | TcpHeader::ACK) == TcpHeader::SYN
    }

    pub fn is_syn_ack(&self) -> bool {
        self.has(TcpHeader::SYN | TcpHeader::ACK)
    }
}

#[inline]
pub(super) fn decode<'a>(packet: &mut Decoding<'a>, rest: Rest<'a>) {
    if !ports::read(packet, rest) {
        return;
    }
    let Some(header) = rest.peek::<{ HEADER_BYTES_MIN as usize }>() else {
        packet.note(DecodeProblem::TruncatedTransport);
        // How long the header was cannot be known; it was at least this.
        return packet.end(rest.skip(HEADER_BYTES_MIN));
    };
    packet.tcp = Some(TcpHeader { seq: u32_at(header, 4), ack: u32_at(header, 8), flags: header[13] });
    let header_bytes = u32::from(header[12] >> 4) * 4;
    if header_bytes < HEADER_BYTES_MIN || header_bytes > rest.wire() {
        packet.note(DecodeProblem::Malformed);
        packet.header_len = rest.skip(HEADER_BYTES_MIN).at();
        return;
    }
    packet.end(rest.skip(header_bytes));
}

#[cfg(test)]
mod tests {
    use gnomon_capture::Frame;

    use super::super::{decode, example};
    use super::*;

    #[test]
    fn the_header_is_read_and_options_are_no_payload() {
        let data = example::tcp_v4();
        let packet = decode(&example::frame(&data));
        assert_eq!(packet.tcp, Some(TcpHeader { seq: 1000, ack: 2000, flags: 0x18 }));
        assert_eq!((packet.payload, packet.payload_len), (&b"GET / "[..], 6));
        let mut options = data.clone();
        options[46] = 0x60;
        let packet = decode(&example::frame(&options));
        assert_eq!((packet.payload, packet.header_len), (&b"/ "[..], 58));
    }

    #[test]
    fn a_header_cut_after_the_ports_still_joins() {
        let data = example::tcp_v4();
        let packet =
            decode(&Frame { original_len: data.len() as u32, ..example::frame(&data[..14 + 20 + 8]) });
        assert_eq!(packet.problem, Some(DecodeProblem::TruncatedTransport));
        assert!(packet.key_complete && packet.tcp.is_none());
        assert_eq!((packet.key.orig_port, packet.key.resp_port), (40_000, 80));
    }

    #[test]
    fn a_data_offset_that_cannot_be_is_malformed_but_joins() {
        for offset in [0x40, 0xf0] {
            let mut data = example::tcp_v4();
            data[46] = offset;
            let packet = decode(&example::frame(&data));
            assert_eq!(packet.problem, Some(DecodeProblem::Malformed));
            assert!(packet.key_complete && packet.tcp.is_some());
            assert_eq!((packet.payload_len, packet.header_len), (0, 54));
        }
    }
}
