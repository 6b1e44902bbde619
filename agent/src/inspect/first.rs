//! The first bytes of each direction's payload, for what has no name: kept as they are, told when a record is made.

use gnomon_flow::{Attributes, field};

use super::hex;

const BYTES: usize = 8;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FirstBytes {
    bytes: [[u8; BYTES]; 2],
    counts: [u8; 2],
    /// Of each direction: they are in the record of an earlier segment.
    told: [bool; 2],
}

impl FirstBytes {
    /// Whether more of this direction's payload is wanted: of datagrams only the first one counts.
    pub fn wants(&self, from_originator: bool, is_stream: bool) -> bool {
        let side = usize::from(!from_originator);
        let count = usize::from(self.counts[side]);
        !self.told[side] && (count == 0 || (is_stream && count < BYTES))
    }

    /// The next bytes of a TCP stream, or a datagram.
    pub fn add(&mut self, from_originator: bool, is_stream: bool, payload: &[u8]) {
        if !self.wants(from_originator, is_stream) {
            return;
        }
        let side = usize::from(!from_originator);
        let count = usize::from(self.counts[side]);
        for (slot, byte) in self.bytes[side][count..].iter_mut().zip(payload) {
            *slot = *byte;
            self.counts[side] += 1;
        }
    }

    /// What is there was told; what comes later is not what the flow began with.
    pub fn next_segment(&mut self) {
        for (told, count) in self.told.iter_mut().zip(self.counts) {
            *told |= count > 0;
        }
        self.counts = [0; 2];
    }

    pub fn tell(&self, out: &mut Attributes) {
        for (side, field) in [field::PAYLOAD8_SRC, field::PAYLOAD8_DST].into_iter().enumerate() {
            let bytes = &self.bytes[side][..usize::from(self.counts[side])];
            if !bytes.is_empty() {
                out.text(field, &hex(bytes));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_fills_up_and_a_datagram_does_not() {
        let mut first = FirstBytes::default();
        first.add(true, true, b"GE");
        first.add(true, true, b"T / HTTP");
        first.add(false, false, b"\x01\x02");
        first.add(false, false, b"\x03");
        assert!(!first.wants(true, true) && first.wants(false, true) && !first.wants(false, false));
        let mut out = Attributes::default();
        first.tell(&mut out);
        let texts: Vec<_> = out.iter().map(|attribute| format!("{:?}", attribute.value)).collect();
        assert_eq!(texts, ["Text(\"474554202f204854\")", "Text(\"0102\")"]);
    }
}
