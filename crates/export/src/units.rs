//! Encoded bytes, with marks where they may be cut: a line, or an IPFIX message, is one datagram.

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Units {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Units {
    /// All of it, for a file or a connection.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// One by one, for datagrams.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts.zip(&self.ends).map(|(start, end)| &self.bytes[start..*end])
    }

    pub fn len(&self) -> usize {
        self.ends.len()
    }

    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    pub fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
    }

    /// Add one unit, by writing it.
    pub(crate) fn add(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        write(&mut self.bytes);
        self.ends.push(self.bytes.len());
    }
}
