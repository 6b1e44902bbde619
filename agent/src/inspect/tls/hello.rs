//! The fields of ClientHello and ServerHello (RFC 8446 §4.1.2 and §4.1.3), and the extensions looked into:
//! server_name (RFC 6066 §3), ALPN (RFC 7301 §3.1), supported_versions (RFC 8446 §4.2.1), and what fingerprints need.

use crate::inspect::reader::{Reader, words};

pub(super) const SERVER_NAME: u16 = 0;
pub(super) const SUPPORTED_GROUPS: u16 = 10;
pub(super) const EC_POINT_FORMATS: u16 = 11;
pub(super) const SIGNATURE_ALGORITHMS: u16 = 13;
pub(super) const ALPN: u16 = 16;
pub(super) const SUPPORTED_VERSIONS: u16 = 43;

const HOST_NAME: u8 = 0;
const RANDOM_BYTES: usize = 32;

pub(super) struct ClientHello<'a> {
    /// legacy_version.
    pub(super) version: u16,
    ciphers: &'a [u8],
    extensions: Extensions<'a>,
}

pub(super) struct ServerHello<'a> {
    /// legacy_version.
    pub(super) legacy_version: u16,
    pub(super) cipher: u16,
    extensions: Extensions<'a>,
}

#[derive(Clone, Copy, Default)]
pub(super) struct Extensions<'a> {
    bytes: &'a [u8],
    /// The hello was not captured whole: the last extension may be shorter than it says.
    cut: bool,
}

impl<'a> ClientHello<'a> {
    pub(super) fn read(body: &'a [u8]) -> Option<ClientHello<'a>> {
        let mut reader = Reader::new(body);
        let version = reader.u16()?;
        if version >> 8 != 3 {
            return None;
        }
        reader.take(RANDOM_BYTES)?;
        let session_id = reader.vector_u8()?;
        let ciphers = reader.vector_u16()?;
        let _compression = reader.vector_u8()?;
        if session_id.len() > 32 {
            return None;
        }
        Some(ClientHello { version, ciphers, extensions: Extensions::read(&mut reader)? })
    }

    /// As much as there is of a hello that was cut.
    pub(super) fn read_cut(body: &'a [u8]) -> Option<ClientHello<'a>> {
        let mut reader = Reader::new(body);
        let version = reader.u16().filter(|version| version >> 8 == 3)?;
        let nothing = ClientHello { version, ciphers: &[], extensions: Extensions::default() };
        let rest = || {
            reader.take(RANDOM_BYTES)?;
            reader.vector_u8()?;
            let ciphers = reader.vector_u16()?;
            reader.vector_u8()?;
            Some(ClientHello { version, ciphers, extensions: Extensions::read_cut(&mut reader) })
        };
        Some({ rest }().unwrap_or(nothing))
    }

    /// Offered suites without GREASE, as ordered.
    pub(super) fn ciphers(&self) -> impl Iterator<Item = u16> {
        words(self.ciphers).filter(|cipher| !is_grease(*cipher))
    }

    /// Extension types without GREASE, as ordered.
    pub(super) fn extension_types(&self) -> impl Iterator<Item = u16> {
        self.extensions.iter().map(|(kind, _)| kind).filter(|kind| !is_grease(*kind))
    }

    pub(super) fn has(&self, kind: u16) -> bool {
        self.extensions.of(kind).is_some()
    }

    pub(super) fn host(&self) -> Option<&'a [u8]> {
        let mut list = Reader::new(self.extensions.list(SERVER_NAME)?);
        while let Some(kind) = list.u8() {
            let name = self.extensions.vector(&mut list)?;
            if kind == HOST_NAME && !name.is_empty() {
                return Some(name);
            }
        }
        None
    }

    /// Application protocols, as ordered.
    pub(super) fn protocols(&self) -> impl Iterator<Item = &'a [u8]> {
        self.extensions.protocols()
    }

    /// A list of 16-bit values, its length in two bytes before it: groups, signature algorithms. Without GREASE.
    pub(super) fn list_u16(&self, kind: u16) -> impl Iterator<Item = u16> {
        let list =
            self.extensions.of(kind).and_then(|body| Reader::new(body).vector_u16()).unwrap_or_default();
        words(list).filter(|value| !is_grease(*value))
    }

    pub(super) fn point_formats(&self) -> &'a [u8] {
        self.extensions
            .of(EC_POINT_FORMATS)
            .and_then(|body| Reader::new(body).vector_u8())
            .unwrap_or_default()
    }

    /// The highest version offered.
    pub(super) fn version_max(&self) -> u16 {
        let offered = self.extensions.of(SUPPORTED_VERSIONS).and_then(|body| Reader::new(body).vector_u8());
        words(offered.unwrap_or_default())
            .filter(|version| !is_grease(*version))
            .max()
            .unwrap_or(self.version)
    }
}

impl<'a> ServerHello<'a> {
    pub(super) fn read(body: &'a [u8]) -> Option<ServerHello<'a>> {
        let mut reader = Reader::new(body);
        let legacy_version = reader.u16()?;
        if legacy_version >> 8 != 3 {
            return None;
        }
        reader.take(RANDOM_BYTES)?;
        let session_id = reader.vector_u8()?;
        let cipher = reader.u16()?;
        let _compression = reader.u8()?;
        if session_id.len() > 32 {
            return None;
        }
        Some(ServerHello { legacy_version, cipher, extensions: Extensions::read(&mut reader)? })
    }

    /// As much as there is of a hello that was cut, from its cipher on.
    pub(super) fn read_cut(body: &'a [u8]) -> Option<ServerHello<'a>> {
        let mut reader = Reader::new(body);
        let legacy_version = reader.u16().filter(|version| version >> 8 == 3)?;
        reader.take(RANDOM_BYTES)?;
        reader.vector_u8()?;
        let cipher = reader.u16()?;
        reader.u8();
        Some(ServerHello { legacy_version, cipher, extensions: Extensions::read_cut(&mut reader) })
    }

    /// None where the extension that names it may be among what was cut off.
    pub(super) fn version_if_known(&self) -> Option<u16> {
        let is_named = self.extensions.of(SUPPORTED_VERSIONS).is_some_and(|body| body.len() >= 2);
        (is_named || !self.extensions.cut).then(|| self.version())
    }

    pub(super) fn version(&self) -> u16 {
        self.extensions
            .of(SUPPORTED_VERSIONS)
            .and_then(|body| Reader::new(body).u16())
            .unwrap_or(self.legacy_version)
    }

    pub(super) fn extension_types(&self) -> impl Iterator<Item = u16> {
        self.extensions.iter().map(|(kind, _)| kind)
    }

    pub(super) fn protocols(&self) -> impl Iterator<Item = &'a [u8]> {
        self.extensions.protocols()
    }
}

impl<'a> Extensions<'a> {
    /// A hello may end before them (RFC 5246 §7.4.1.2); if they are there they are sound.
    fn read(reader: &mut Reader<'a>) -> Option<Extensions<'a>> {
        if reader.rest().is_empty() {
            return Some(Extensions::default());
        }
        let bytes = reader.vector_u16()?;
        let mut list = Reader::new(bytes);
        while !list.rest().is_empty() {
            list.u16()?;
            list.vector_u16()?;
        }
        Some(Extensions { bytes, cut: false })
    }

    fn read_cut(reader: &mut Reader<'a>) -> Extensions<'a> {
        let bytes = reader.u16().map_or(&[][..], |length| {
            let rest = reader.rest();
            &rest[..rest.len().min(usize::from(length))]
        });
        Extensions { bytes, cut: true }
    }

    /// A vector with its length in two bytes before it, or what was captured of it.
    fn vector(&self, reader: &mut Reader<'a>) -> Option<&'a [u8]> {
        let length = usize::from(reader.u16()?);
        let there = if self.cut { length.min(reader.rest().len()) } else { length };
        reader.take(there)
    }

    /// The list that is all of an extension.
    fn list(&self, kind: u16) -> Option<&'a [u8]> {
        self.vector(&mut Reader::new(self.of(kind)?))
    }

    fn iter(&self) -> impl Iterator<Item = (u16, &'a [u8])> {
        let (mut list, own) = (Reader::new(self.bytes), *self);
        std::iter::from_fn(move || Some((list.u16()?, own.vector(&mut list)?)))
    }

    fn of(&self, kind: u16) -> Option<&'a [u8]> {
        self.iter().find(|(other, _)| *other == kind).map(|(_, body)| body)
    }

    fn protocols(&self) -> impl Iterator<Item = &'a [u8]> {
        let mut list = Reader::new(self.list(ALPN).unwrap_or_default());
        // A name of which the end is missing is not told: it would be another one's.
        std::iter::from_fn(move || list.vector_u8())
    }
}

/// Values sent to keep servers tolerant, that mean nothing (RFC 8701 §2).
pub(super) fn is_grease(value: u16) -> bool {
    value & 0x0f0f == 0x0a0a && value >> 8 == value & 0xff
}
