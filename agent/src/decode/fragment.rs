//! Where a packet stands in a fragmented datagram (RFC 791 section 3.2, RFC 8200 section 4.5).

use gnomon_capture::Frame;

use super::Decoding;
use super::rest::Rest;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fragment {
    /// Not a fragment (an IPv6 "atomic fragment", RFC 6946, is none either).
    #[default]
    Whole,
    /// Has the transport header, and with it the ports.
    First,
    /// Has neither: its key is the address pair and the protocol, with ports 0.
    Later,
}

/// Which bytes of which datagram a fragment has. The outermost fragmented packet counts, where there are several.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Piece {
    /// Identification, unique for the address pair while the datagram is under way.
    pub(crate) id: u32,
    /// VLAN and overlay network where the fragmented packet was seen.
    pub(crate) scope: u32,
    /// Where its IP header begins in the frame.
    pub(crate) ip_at: u32,
    /// Where its data begin in the frame, and how many there were on the wire.
    pub(crate) data_at: u32,
    pub(crate) data_bytes: u32,
    /// Of the data in the datagram.
    pub(crate) offset: u16,
    /// It is not the last one.
    pub(crate) more: bool,
}

/// Where the fragment in a frame belongs.
pub(crate) fn piece(frame: &Frame<'_>) -> Option<Piece> {
    super::walk(frame).piece
}

impl Decoding<'_> {
    /// Notes a fragment with these `data`. Whether it is not the first, so that no header follows.
    pub(super) fn is_later_fragment(&mut self, piece: Piece, data: &Rest<'_>) -> bool {
        let is_later = piece.offset != 0;
        if self.fragment == Fragment::Whole {
            self.fragment = if is_later { Fragment::Later } else { Fragment::First };
            let [outer, inner] = self.key.vlan.map(u32::from);
            self.piece = Some(Piece {
                scope: self.network_id << 8 ^ outer << 12 ^ inner,
                ip_at: self.ip_at,
                data_at: data.at(),
                data_bytes: data.wire(),
                ..piece
            });
        }
        is_later
    }
}
