//! What is left of a frame while its headers are read one after the other.

/// The undecoded rest: the bytes that were captured, and how many there were on the wire. `captured.len() <= wire`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rest<'a> {
    captured: &'a [u8],
    wire: u32,
    /// Captured bytes before the rest.
    at: u32,
}

impl<'a> Rest<'a> {
    pub(super) fn new(captured: &'a [u8], wire: u32) -> Rest<'a> {
        Rest { captured, wire, at: 0 }
    }

    #[inline]
    pub(super) fn captured(&self) -> &'a [u8] {
        self.captured
    }

    #[inline]
    pub(super) fn wire(&self) -> u32 {
        self.wire
    }

    #[inline]
    pub(super) fn at(&self) -> u32 {
        self.at
    }

    /// The next `N` bytes, if they were captured.
    #[inline]
    pub(super) fn peek<const N: usize>(&self) -> Option<&'a [u8; N]> {
        self.captured.first_chunk()
    }

    /// Beyond `bytes` bytes, captured or not.
    #[inline]
    pub(super) fn skip(self, bytes: u32) -> Rest<'a> {
        let seen = (bytes as usize).min(self.captured.len());
        Rest {
            captured: &self.captured[seen..],
            wire: self.wire.saturating_sub(bytes),
            at: self.at + seen as u32,
        }
    }

    /// Without what lies beyond `wire` bytes: padding.
    #[inline]
    pub(super) fn limit(self, wire: u32) -> Rest<'a> {
        let wire = wire.min(self.wire);
        Rest { captured: &self.captured[..self.captured.len().min(wire as usize)], wire, at: self.at }
    }
}

#[inline]
pub(super) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

#[inline]
pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}
