//! A reader of BER and DER (X.690): certificates, Kerberos, LDAP and SNMP are written in it.
//!
//! One small reader for the four of them: what is needed of a certificate alone would not pay for the build of a crate.
//! Lengths are definite, tags are of one byte (numbers to 30): the protocols read here use no others.

use super::reader::Reader;

pub(super) const INTEGER: u8 = 0x02;
pub(super) const OCTET_STRING: u8 = 0x04;
pub(super) const OBJECT_IDENTIFIER: u8 = 0x06;
pub(super) const SEQUENCE: u8 = 0x30;
pub(super) const SET: u8 = 0x31;

/// [n] EXPLICIT or a constructed [n].
pub(super) const fn context(n: u8) -> u8 {
    0xa0 | n
}

/// [APPLICATION n], constructed.
pub(super) const fn application(n: u8) -> u8 {
    0x60 | n
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) tag: u8,
    /// Bytes of tag and length.
    pub(super) header_bytes: usize,
    pub(super) content_bytes: usize,
}

impl Header {
    /// `Ok(None)` when `bytes` are too few to tell, `Err` when they are no such header.
    pub(super) fn read(bytes: &[u8]) -> Result<Option<Header>, ()> {
        let [tag, rest @ ..] = bytes else { return Ok(None) };
        if tag & 0x1f == 0x1f {
            return Err(());
        }
        let [first, rest @ ..] = rest else { return Ok(None) };
        let (length_bytes, content_bytes) = match first {
            0..=0x7f => (0, usize::from(*first)),
            0x81..=0x84 => {
                let length_bytes = usize::from(first & 0x7f);
                let Some(length) = rest.get(..length_bytes) else { return Ok(None) };
                (length_bytes, length.iter().fold(0, |n, byte| n << 8 | usize::from(*byte)))
            }
            _ => return Err(()),
        };
        Ok(Some(Header { tag: *tag, header_bytes: 2 + length_bytes, content_bytes }))
    }

    pub(super) fn total_bytes(&self) -> usize {
        self.header_bytes.saturating_add(self.content_bytes)
    }
}

/// A walk over the elements of one constructed value.
#[derive(Clone, Copy)]
pub(super) struct Der<'a> {
    rest: &'a [u8],
}

impl<'a> Der<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Der<'a> {
        Der { rest: bytes }
    }

    pub(super) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// The next element's tag and content. Content that was not captured whole is cut, if `self` is all there is.
    pub(super) fn next_cut(&mut self) -> Option<(u8, &'a [u8])> {
        let header = Header::read(self.rest).ok()??;
        let content = &self.rest[header.header_bytes..];
        let (content, rest) = content.split_at(content.len().min(header.content_bytes));
        self.rest = rest;
        Some((header.tag, content))
    }

    pub(super) fn element(&mut self) -> Option<(u8, &'a [u8])> {
        let header = Header::read(self.rest).ok()??;
        let mut reader = Reader::new(self.rest);
        reader.take(header.header_bytes)?;
        let content = reader.take(header.content_bytes)?;
        self.rest = reader.rest();
        Some((header.tag, content))
    }

    /// The next element, if it has this tag; if not, it stays the next one.
    pub(super) fn value(&mut self, tag: u8) -> Option<&'a [u8]> {
        let mut ahead = *self;
        let (found, content) = ahead.element()?;
        (found == tag).then(|| {
            self.rest = ahead.rest;
            content
        })
    }

    pub(super) fn enter(&mut self, tag: u8) -> Option<Der<'a>> {
        self.value(tag).map(Der::new)
    }

    /// The first element with this tag among those that are left.
    pub(super) fn inner(&self, tag: u8) -> Option<Der<'a>> {
        let mut ahead = *self;
        while let Some((found, content)) = ahead.next_cut() {
            if found == tag {
                return Some(Der::new(content));
            }
        }
        None
    }

    /// A small INTEGER or ENUMERATED that is not negative.
    pub(super) fn integer(&mut self) -> Option<u32> {
        let content = self.value(INTEGER)?;
        small(content)
    }
}

impl<'a> Iterator for Der<'a> {
    type Item = (u8, &'a [u8]);

    fn next(&mut self) -> Option<(u8, &'a [u8])> {
        self.element()
    }
}

/// The number that an INTEGER's content is, when it is not negative and fits.
pub(super) fn small(content: &[u8]) -> Option<u32> {
    if content.is_empty() || content.len() > 5 || content[0] & 0x80 != 0 {
        return None;
    }
    let value = content.iter().fold(0u64, |n, byte| n << 8 | u64::from(*byte));
    u32::try_from(value).ok()
}

/// An OBJECT IDENTIFIER's content as `1.3.6.1`; what is no such identifier is None.
pub(super) fn object_identifier(content: &[u8]) -> Option<String> {
    const BYTES_MAX: usize = 64;
    if content.is_empty() || content.len() > BYTES_MAX {
        return None;
    }
    let mut text = String::new();
    let mut arc = 0u64;
    let mut first = true;
    let mut open = false;
    for byte in content {
        arc = arc.checked_mul(128)? | u64::from(byte & 0x7f);
        open = byte & 0x80 != 0;
        if open {
            continue;
        }
        if first {
            let root = (arc / 40).min(2);
            text = format!("{root}.{}", arc - root * 40);
            first = false;
        } else {
            text.push('.');
            text.push_str(&arc.to_string());
        }
        arc = 0;
    }
    (!open).then_some(text)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn elements_are_walked_and_lengths_checked() {
        let mut der = Der::new(&[0x30, 6, 2, 1, 5, 0x81, 1, 9, 4, 0x81, 1, 7, 4, 5, 1]);
        let mut sequence = der.enter(SEQUENCE).unwrap();
        assert_eq!(sequence.integer(), Some(5));
        assert_eq!(sequence.value(INTEGER), None);
        assert_eq!(sequence.element(), Some((0x81, &[9][..])));
        assert_eq!(sequence.element(), None);
        assert_eq!(der.value(OCTET_STRING), Some(&[7][..]));
        assert_eq!(der.value(OCTET_STRING), None);
        assert_eq!(der.next_cut(), Some((4, &[1][..])));
        assert_eq!(Header::read(&[0x30, 0x82, 1]), Ok(None));
        assert_eq!(Header::read(&[0x30, 0x80]), Err(()));
    }

    #[test]
    fn numbers_and_identifiers() {
        assert_eq!(small(&[0, 0xff, 0xff, 0xff, 0xff]), Some(u32::MAX));
        assert_eq!(small(&[0x80]), None);
        assert_eq!(object_identifier(&[0x2a, 0x86, 0x48, 0xce, 0x3d]).unwrap(), "1.2.840.10045");
        assert_eq!(object_identifier(&[0x88, 0x37]).unwrap(), "2.999");
        assert_eq!(object_identifier(&[0x2a, 0x86]), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_walked_to_an_end(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut der = Der::new(&bytes);
            while let Some((_, content)) = der.next_cut() {
                object_identifier(content);
                small(content);
                Der::new(content).inner(0x30);
            }
        }
    }
}
