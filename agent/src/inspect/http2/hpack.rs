//! HPACK: header blocks and the table that each direction builds (RFC 7541).

use std::borrow::Cow;
use std::collections::VecDeque;

use super::huffman;
use crate::inspect::reader::Reader;

/// What a table may hold. A peer may allow its encoder more (RFC 9113 §6.5.2); such blocks are given up.
pub(super) const TABLE_BYTES_MAX: usize = 8192;
/// SETTINGS_HEADER_TABLE_SIZE, as it is without a word of the peer.
const TABLE_BYTES: usize = 4096;
/// An entry counts so much more than its text (RFC 7541 §4.1).
const ENTRY_BYTES: usize = 32;
const TEXT_BYTES_MAX: usize = 4096;
const FIELDS_MAX: usize = 128;

type Field = (Vec<u8>, Vec<u8>);

#[derive(Debug)]
pub(super) struct Table {
    /// The newest first.
    entries: VecDeque<Field>,
    bytes: usize,
    bytes_max: usize,
}

impl Default for Table {
    fn default() -> Table {
        Table { entries: VecDeque::new(), bytes: 0, bytes_max: TABLE_BYTES }
    }
}

impl Table {
    /// The fields of a header block; None when it cannot be decoded, and then the table is of no use any more.
    pub(super) fn decode(&mut self, block: &[u8]) -> Option<Vec<Field>> {
        let mut reader = Reader::new(block);
        let mut fields = Vec::new();
        while let Some(first) = reader.u8() {
            if fields.len() >= FIELDS_MAX {
                return None;
            }
            match first {
                // An indexed field.
                0x80.. => fields.push(self.entry(integer(first, 7, &mut reader)?)?),
                // A literal field that is added to the table.
                0x40..=0x7f => {
                    let field = self.literal(first, 6, &mut reader)?;
                    self.add(field.clone());
                    fields.push(field);
                }
                0x20..=0x3f => {
                    self.bytes_max = integer(first, 5, &mut reader)?;
                    if self.bytes_max > TABLE_BYTES_MAX {
                        return None;
                    }
                    self.shrink(0);
                }
                // A literal field that is not added, or never.
                0x00..=0x1f => fields.push(self.literal(first, 4, &mut reader)?),
            }
        }
        Some(fields)
    }

    fn literal(&self, first: u8, prefix: u32, reader: &mut Reader<'_>) -> Option<Field> {
        let name = match integer(first, prefix, reader)? {
            0 => string(reader)?,
            index => self.entry(index)?.0,
        };
        Some((name, string(reader)?))
    }

    fn entry(&self, index: usize) -> Option<Field> {
        let at = index.checked_sub(1)?;
        match STATIC.get(at) {
            Some((name, value)) => Some((name.as_bytes().to_vec(), value.as_bytes().to_vec())),
            None => self.entries.get(at - STATIC.len()).cloned(),
        }
    }

    fn add(&mut self, field: Field) {
        let bytes = field.0.len() + field.1.len() + ENTRY_BYTES;
        self.shrink(bytes);
        // One that is larger than the table empties it, and is no error (RFC 7541 §4.4).
        if bytes <= self.bytes_max {
            self.bytes += bytes;
            self.entries.push_front(field);
        }
    }

    /// Makes room for so many bytes.
    fn shrink(&mut self, bytes: usize) {
        while self.bytes + bytes > self.bytes_max {
            let Some((name, value)) = self.entries.pop_back() else { return };
            self.bytes -= name.len() + value.len() + ENTRY_BYTES;
        }
    }
}

/// RFC 7541 §5.1: in the lower `prefix` bits of `first`, and in more bytes where they are all ones.
fn integer(first: u8, prefix: u32, reader: &mut Reader<'_>) -> Option<usize> {
    let mask = (1usize << prefix) - 1;
    let mut value = usize::from(first) & mask;
    if value < mask {
        return Some(value);
    }
    for shift in [0, 7, 14, 21] {
        let byte = reader.u8()?;
        value += usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn string(reader: &mut Reader<'_>) -> Option<Vec<u8>> {
    let first = reader.u8()?;
    let length = integer(first, 7, reader)?;
    let bytes = reader.take(length)?;
    let text: Cow<'_, [u8]> = if first & 0x80 == 0 {
        Cow::Borrowed(bytes)
    } else {
        Cow::Owned(huffman::decode(bytes, TEXT_BYTES_MAX)?)
    };
    (text.len() <= TEXT_BYTES_MAX).then(|| text.into_owned())
}

/// RFC 7541 Appendix A.
const STATIC: [(&str, &str); 61] = [
    (":authority", ""),
    (":method", "GET"),
    (":method", "POST"),
    (":path", "/"),
    (":path", "/index.html"),
    (":scheme", "http"),
    (":scheme", "https"),
    (":status", "200"),
    (":status", "204"),
    (":status", "206"),
    (":status", "304"),
    (":status", "400"),
    (":status", "404"),
    (":status", "500"),
    ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"),
    ("accept-language", ""),
    ("accept-ranges", ""),
    ("accept", ""),
    ("access-control-allow-origin", ""),
    ("age", ""),
    ("allow", ""),
    ("authorization", ""),
    ("cache-control", ""),
    ("content-disposition", ""),
    ("content-encoding", ""),
    ("content-language", ""),
    ("content-length", ""),
    ("content-location", ""),
    ("content-range", ""),
    ("content-type", ""),
    ("cookie", ""),
    ("date", ""),
    ("etag", ""),
    ("expect", ""),
    ("expires", ""),
    ("from", ""),
    ("host", ""),
    ("if-match", ""),
    ("if-modified-since", ""),
    ("if-none-match", ""),
    ("if-range", ""),
    ("if-unmodified-since", ""),
    ("last-modified", ""),
    ("link", ""),
    ("location", ""),
    ("max-forwards", ""),
    ("proxy-authenticate", ""),
    ("proxy-authorization", ""),
    ("range", ""),
    ("referer", ""),
    ("refresh", ""),
    ("retry-after", ""),
    ("server", ""),
    ("set-cookie", ""),
    ("strict-transport-security", ""),
    ("transfer-encoding", ""),
    ("user-agent", ""),
    ("vary", ""),
    ("via", ""),
    ("www-authenticate", ""),
];

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decoded(table: &mut Table, block: &[u8]) -> Vec<(String, String)> {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        table.decode(block).unwrap().into_iter().map(|(name, value)| (text(name), text(value))).collect()
    }

    /// RFC 7541 Appendix C.4: requests with Huffman coding, each of which needs the ones before it.
    #[test]
    fn the_requests_of_appendix_c_4() {
        let mut table = Table::default();
        let first = decoded(
            &mut table,
            &[
                0x82, 0x86, 0x84, 0x41, 0x8c, 0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90,
                0xf4, 0xff,
            ],
        );
        assert_eq!(first[3], (":authority".into(), "www.example.com".into()));
        let second =
            decoded(&mut table, &[0x82, 0x86, 0x84, 0xbe, 0x58, 0x86, 0xa8, 0xeb, 0x10, 0x64, 0x9c, 0xbf]);
        assert_eq!(second[3], (":authority".into(), "www.example.com".into()));
        assert_eq!(second[4], ("cache-control".into(), "no-cache".into()));
        assert_eq!(table.bytes, 110);
    }

    #[test]
    fn what_cannot_be_is_refused() {
        assert_eq!(Table::default().decode(&[0x80]), None);
        assert_eq!(Table::default().decode(&[0xbe]), None);
        assert_eq!(Table::default().decode(&[0x3f, 0xe1, 0xff, 0x7f]), None);
        assert_eq!(Table::default().decode(&[0x40, 0x05, b'a']), None);
    }

    proptest! {
        #[test]
        fn a_table_stays_within_its_bound(blocks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 1..8)) {
            let mut table = Table::default();
            for block in blocks {
                let _ = table.decode(&block);
                let bytes: usize = table.entries.iter().map(|(n, v)| n.len() + v.len() + ENTRY_BYTES).sum();
                prop_assert_eq!(bytes, table.bytes);
                prop_assert!(bytes <= TABLE_BYTES_MAX);
            }
        }
    }
}
