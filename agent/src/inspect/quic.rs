//! QUIC: the hellos out of both sides' Initial packets, whose keys follow from the connection id that the client's first one
//! carries in the clear.
//!
//! Sources: RFC 9000 §17.2 (long headers), §19.6 (CRYPTO frames); RFC 9001 §5 (packet protection); RFC 9369 (version 2).

use gnomon_flow::{Attributes, field};
use ring::aead::{AES_128_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey, quic};
use ring::hkdf::{HKDF_SHA256, KeyType, Prk, Salt};

use super::reader::Reader;
use super::stream::Memory;
use super::tls::{self, Transport};
use super::{BufferBudget, HELD_BYTES_MAX, Held};

const LONG_HEADER: u8 = 0x80;
const FIXED_BIT: u8 = 0x40;
/// RFC 9000 §17.2: longer ids are no QUIC of these versions.
const CONNECTION_ID_BYTES_MAX: usize = 20;
const SAMPLE_BYTES: usize = 16;
/// Packets in one datagram, and pieces of a hello, that are looked at.
const PACKETS_MAX: usize = 4;
const RANGES_MAX: usize = 64;

struct Version {
    number: u32,
    name: &'static str,
    /// Bits 4 and 5 of the first byte of an Initial packet.
    initial_type: u8,
    salt: [u8; 20],
    labels: Labels,
}

struct Labels {
    key: &'static str,
    iv: &'static str,
    header: &'static str,
}

const VERSION_1_LABELS: Labels = Labels { key: "quic key", iv: "quic iv", header: "quic hp" };

const VERSIONS: [Version; 3] = [
    Version {
        number: 1,
        name: "1",
        initial_type: 0,
        salt: [
            0x38, 0x76, 0x2c, 0xf7, 0xf5, 0x59, 0x34, 0xb3, 0x4d, 0x17, 0x9a, 0xe6, 0xa4, 0xc8, 0x0c, 0xad,
            0xcc, 0xbb, 0x7f, 0x0a,
        ],
        labels: VERSION_1_LABELS,
    },
    Version {
        number: 0x6b33_43cf,
        name: "2",
        initial_type: 1,
        salt: [
            0x0d, 0xed, 0xe3, 0xde, 0xf7, 0x00, 0xa6, 0xdb, 0x81, 0x93, 0x81, 0xbe, 0x6e, 0x26, 0x9d, 0xcb,
            0xf9, 0xbd, 0x2e, 0xd9,
        ],
        labels: Labels { key: "quicv2 key", iv: "quicv2 iv", header: "quicv2 hp" },
    },
    // draft-ietf-quic-tls-29, which was deployed widely.
    Version {
        number: 0xff00_001d,
        name: "draft-29",
        initial_type: 0,
        salt: [
            0xaf, 0xbf, 0xec, 0x28, 0x99, 0x93, 0xd2, 0x4c, 0x9e, 0x97, 0x86, 0xf1, 0x9c, 0x61, 0x11, 0xe0,
            0x43, 0x90, 0xa8, 0x99,
        ],
        labels: VERSION_1_LABELS,
    },
];

pub(super) enum Outcome {
    NotQuic,
    /// QUIC, and its hello is not whole yet.
    Partial,
    /// This side's hello was read.
    Finished,
}

/// What both sides' keys follow from.
#[derive(Debug)]
pub(super) struct Initial {
    /// Who sent the Initial packet that has the connection id.
    client_is_originator: bool,
    /// RFC 9001 §5.2: the id that the client made up, or the one that a Retry packet gave it.
    connection: [u8; CONNECTION_ID_BYTES_MAX],
    connection_bytes: u8,
}

impl Initial {
    fn new(client_is_originator: bool, connection: &[u8]) -> Initial {
        let mut initial =
            Initial { client_is_originator, connection: Default::default(), connection_bytes: 0 };
        for (slot, byte) in initial.connection.iter_mut().zip(connection) {
            *slot = *byte;
            initial.connection_bytes += 1;
        }
        initial
    }

    fn connection(&self) -> &[u8] {
        &self.connection[..usize::from(self.connection_bytes)]
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Client,
    Server,
}

/// Reads a datagram. Pieces of a hello are kept in `held` until it is whole.
pub(super) fn datagram(
    bytes: &[u8],
    from_originator: bool,
    held: &mut Option<Box<Held>>,
    memory: &mut Memory,
    out: &mut Attributes,
    budget: &mut BufferBudget,
) -> Outcome {
    let mut outcome = Outcome::NotQuic;
    let mut rest = bytes;
    for _ in 0..PACKETS_MAX {
        let Some(packet) = Packet::read(rest) else { break };
        outcome = Outcome::Partial;
        out.text(field::QUIC_VERSION, packet.version.name);
        if let Some(plain) = packet.open(from_originator, memory) {
            let held = held.get_or_insert_default();
            frames(&plain, held, budget);
            if held.hello().is_some_and(|hello| tls::hello(hello, Transport::Quic, out)) {
                return Outcome::Finished;
            }
        }
        rest = packet.behind;
    }
    outcome
}

/// A long-header packet of a known version.
struct Packet<'a> {
    version: &'static Version,
    destination: &'a [u8],
    source: &'a [u8],
    is_initial: bool,
    is_retry: bool,
    /// From the first byte to the last of the protected payload.
    bytes: &'a [u8],
    packet_number_at: usize,
    /// What follows in the datagram.
    behind: &'a [u8],
}

impl<'a> Packet<'a> {
    fn read(bytes: &'a [u8]) -> Option<Packet<'a>> {
        let mut reader = Reader::new(bytes);
        let first = reader.u8()?;
        if first & (LONG_HEADER | FIXED_BIT) != LONG_HEADER | FIXED_BIT {
            return None;
        }
        let number = reader.u32()?;
        let version = VERSIONS.iter().find(|version| version.number == number)?;
        let destination = reader.vector_u8()?;
        let source = reader.vector_u8()?;
        if destination.len().max(source.len()) > CONNECTION_ID_BYTES_MAX {
            return None;
        }
        let is_initial = first >> 4 & 3 == version.initial_type;
        if is_initial {
            let token_bytes = reader.varint()?;
            reader.take(usize::try_from(token_bytes).ok()?)?;
        } else if first >> 4 & 3 == (version.initial_type + 3) % 4 {
            // A Retry packet has no length: it fills the datagram.
            return Some(Packet {
                version,
                destination,
                source,
                is_initial,
                is_retry: true,
                bytes,
                packet_number_at: 0,
                behind: &[],
            });
        }
        let length = usize::try_from(reader.varint()?).ok()?;
        let packet_number_at = bytes.len() - reader.rest().len();
        reader.take(length)?;
        let (bytes, behind) = bytes.split_at_checked(packet_number_at + length)?;
        let is_retry = false;
        Some(Packet { version, destination, source, is_initial, is_retry, bytes, packet_number_at, behind })
    }

    /// The frames of an Initial packet, when its keys are known; None for any other packet.
    fn open(&self, from_originator: bool, memory: &mut Memory) -> Option<Vec<u8>> {
        if let Memory::Quic(initial) = memory
            && initial.client_is_originator != from_originator
        {
            if self.is_retry {
                **initial = Initial::new(initial.client_is_originator, self.source);
            }
            return self.unprotect(Role::Server, initial.connection());
        }
        if let Some(plain) = self.unprotect(Role::Client, self.destination) {
            memory.set(Memory::Quic(Box::new(Initial::new(from_originator, self.destination))));
            return Some(plain);
        }
        // A client that heard from the server names it as that one wants, and keeps the keys.
        let Memory::Quic(initial) = memory else { return None };
        self.unprotect(Role::Client, initial.connection())
    }

    fn unprotect(&self, role: Role, connection: &[u8]) -> Option<Vec<u8>> {
        if !self.is_initial {
            return None;
        }
        let sample_at = self.packet_number_at + 4;
        let sample = self.bytes.get(sample_at..sample_at + SAMPLE_BYTES)?;
        let labels = &self.version.labels;
        let secret = secret(&self.version.salt, role, connection)?;
        let header_key =
            quic::HeaderProtectionKey::new(&quic::AES_128, &expand::<16>(&secret, labels.header)?).ok()?;
        let mask = header_key.new_mask(sample).ok()?;

        let mut bytes = self.bytes.to_vec();
        bytes[0] ^= mask[0] & 0x0f;
        let packet_number_bytes = usize::from(bytes[0] & 3) + 1;
        let payload_at = self.packet_number_at + packet_number_bytes;
        let mut nonce = expand::<NONCE_LEN>(&secret, labels.iv)?;
        for (nth, byte) in bytes[self.packet_number_at..payload_at].iter_mut().enumerate() {
            *byte ^= mask[1 + nth];
            nonce[NONCE_LEN - packet_number_bytes + nth] ^= *byte;
        }
        let key = LessSafeKey::new(UnboundKey::new(&AES_128_GCM, &expand::<16>(&secret, labels.key)?).ok()?);
        let (header, payload) = bytes.split_at_mut(payload_at);
        let plain =
            key.open_in_place(Nonce::assume_unique_for_key(nonce), Aad::from(header), payload).ok()?;
        Some(plain.to_vec())
    }
}

/// client_initial_secret and server_initial_secret (RFC 9001 §5.2).
fn secret(salt: &[u8], role: Role, connection: &[u8]) -> Option<Prk> {
    let initial = Salt::new(HKDF_SHA256, salt).extract(connection);
    let label = match role {
        Role::Client => "client in",
        Role::Server => "server in",
    };
    Some(Prk::new_less_safe(HKDF_SHA256, &expand::<32>(&initial, label)?))
}

/// HKDF-Expand-Label with an empty context (RFC 8446 §7.1).
fn expand<const BYTES: usize>(secret: &Prk, label: &str) -> Option<[u8; BYTES]> {
    struct Length(usize);
    impl KeyType for Length {
        fn len(&self) -> usize {
            self.0
        }
    }
    let length = (BYTES as u16).to_be_bytes();
    let label_bytes = [b"tls13 ".len() as u8 + label.len() as u8];
    let info = [&length[..], &label_bytes, b"tls13 ", label.as_bytes(), &[0]];
    let mut out = [0; BYTES];
    secret.expand(&info, Length(BYTES)).ok()?.fill(&mut out).ok()?;
    Some(out)
}

/// Keeps what the CRYPTO frames carry.
fn frames(plain: &[u8], held: &mut Held, budget: &mut BufferBudget) {
    const PADDING: u64 = 0;
    const PING: u64 = 1;
    const ACK: u64 = 2;
    const ACK_ECN: u64 = 3;
    const CRYPTO: u64 = 6;
    let mut reader = Reader::new(plain);
    let mut next = || -> Option<()> {
        match reader.varint()? {
            PADDING | PING => {}
            kind @ (ACK | ACK_ECN) => {
                let (_largest, _delay) = (reader.varint()?, reader.varint()?);
                let ranges = reader.varint()?;
                let _first = reader.varint()?;
                // Each range is at least two bytes, so this ends with the packet.
                for _ in 0..ranges {
                    let (_gap, _length) = (reader.varint()?, reader.varint()?);
                }
                if kind == ACK_ECN {
                    let _counts = (reader.varint()?, reader.varint()?, reader.varint()?);
                }
            }
            CRYPTO => {
                let offset = usize::try_from(reader.varint()?).ok()?;
                let length = usize::try_from(reader.varint()?).ok()?;
                held.put(offset, reader.take(length)?, budget);
            }
            // Nothing else belongs into an Initial packet that matters here.
            _ => return None,
        }
        Some(())
    };
    while next().is_some() {}
}

impl Held {
    /// Puts bytes where they belong; those beyond the limits are left out, and then the hello never gets whole.
    fn put(&mut self, offset: usize, bytes: &[u8], budget: &mut BufferBudget) {
        let Some(end) = offset.checked_add(bytes.len()).filter(|end| *end <= HELD_BYTES_MAX) else { return };
        if bytes.is_empty() || self.ranges.len() >= RANGES_MAX || !self.reserve(end, budget) {
            return;
        }
        if self.bytes.len() < end {
            self.bytes.resize(end, 0);
        }
        self.bytes[offset..end].copy_from_slice(bytes);
        self.ranges.push((offset as u16, end as u16));
        self.ranges.sort_unstable();
        self.ranges.dedup_by(|later, earlier| {
            let meets = later.0 <= earlier.1;
            if meets {
                earlier.1 = earlier.1.max(later.1);
            }
            meets
        });
    }

    /// The first handshake message, when all of it is there.
    fn hello(&self) -> Option<&[u8]> {
        let (0, end) = *self.ranges.first()? else { return None };
        let there = &self.bytes[..usize::from(end)];
        there.get(..tls::message_bytes(there)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_keys_of_rfc_9001_appendix_a_1() {
        let destination = [0x83, 0x94, 0xc8, 0xf0, 0x3e, 0x51, 0x57, 0x08];
        let secret = secret(&VERSIONS[0].salt, Role::Client, &destination).unwrap();
        let labels = &VERSIONS[0].labels;
        assert_eq!(
            expand::<16>(&secret, labels.key).unwrap(),
            0x1f36_9613_dd76_d546_7730_efcb_e3b1_a22d_u128.to_be_bytes()
        );
        assert_eq!(expand::<12>(&secret, labels.iv).unwrap()[..4], [0xfa, 0x04, 0x4b, 0x2f]);
        assert_eq!(
            expand::<16>(&secret, labels.header).unwrap(),
            0x9f50_449e_04a0_e810_283a_1e99_33ad_edd2_u128.to_be_bytes()
        );
    }

    #[test]
    fn pieces_join_in_any_order() {
        let mut budget = BufferBudget::new(1 << 20);
        let mut held = Held::default();
        for (offset, text) in [(6, &b"fg"[..]), (0, &[1, 0, 0]), (4, b"def"), (3, &[4])] {
            assert_eq!(held.hello(), None);
            held.put(offset, text, &mut budget);
        }
        assert_eq!(held.ranges, [(0, 8)]);
        assert_eq!(held.hello().unwrap(), b"\x01\0\0\x04defg");
        held.put(usize::MAX, b"x", &mut budget);
        held.put(HELD_BYTES_MAX, b"x", &mut budget);
        assert_eq!(held.ranges, [(0, 8)]);
    }
}
