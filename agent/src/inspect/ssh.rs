//! SSH: the identification string each side begins with, the key exchange it offers as HASSH, and the host key.
//!
//! Sources: RFC 4253 §4.2 (identification), §6 (binary packets), §7.1 (SSH_MSG_KEXINIT), §8 (the reply with the host
//! key); RFC 4419 §3, RFC 5656 §4. HASSH (Salesforce, BSD-3): MD5 of the algorithms for key exchange, encryption, MAC
//! and compression, joined by `;`.

use base64::Engine;
use gnomon_flow::{FieldId, field};
use md5::{Digest, Md5};

use super::held::Need;
use super::protocol::Protocol;
use super::reader::Reader;
use super::stream::{Begins, Stage, Step, Turn};
use super::{claimed_text, hex};

/// RFC 4253 §4.2: 255 bytes with the line end.
const LINE_BYTES_MAX: usize = 255;
/// RFC 4253 §6.1: what every implementation must be able to take.
const PACKET_BYTES_MAX: usize = 35_000;

const DISCONNECT_TO_SERVICE: std::ops::RangeInclusive<u8> = 1..=8;
const KEXINIT: u8 = 20;
const NEWKEYS: u8 = 21;
const KEX_REPLY: u8 = 31;
const KEX_GEX_REPLY: u8 = 33;
const KEX_MESSAGES: std::ops::RangeInclusive<u8> = 30..=49;

const COOKIE_BYTES: usize = 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Version,
    /// Binary packets in the clear, up to SSH_MSG_NEWKEYS.
    Packet,
}

pub(super) fn begins(bytes: &[u8]) -> Begins {
    Begins::with(bytes, b"SSH-")
}

pub(super) fn stream(turn: &mut Turn<'_>, part: Part, bytes: &[u8]) -> Step {
    match part {
        Part::Version => version(turn, bytes),
        Part::Packet => packet(turn, bytes),
    }
}

fn version(turn: &mut Turn<'_>, bytes: &[u8]) -> Step {
    let (line, taken) = match bytes.iter().take(LINE_BYTES_MAX).position(|byte| *byte == b'\n') {
        Some(end) => (&bytes[..end], end + 1),
        None if bytes.len() < LINE_BYTES_MAX => return Step::Need(Need::Line),
        None => (&bytes[..LINE_BYTES_MAX], 0),
    };
    turn.out.text(field::SSH_VERSION, &claimed_text(line.trim_ascii_end()));
    turn.recognise(Protocol::Ssh);
    // Version 1 has other packets.
    if taken == 0 || !(line.starts_with(b"SSH-2.") || line.starts_with(b"SSH-1.99")) {
        return Step::Finished;
    }
    *turn.stage = Stage::Ssh(Part::Packet);
    Step::Took(taken)
}

fn packet(turn: &mut Turn<'_>, bytes: &[u8]) -> Step {
    let mut reader = Reader::new(bytes);
    let (Some(length), Some(padding), Some(message)) = (reader.u32(), reader.u8(), reader.u8()) else {
        return Step::Need(Need::Bytes(6));
    };
    let length = length as usize;
    let expected =
        DISCONNECT_TO_SERVICE.contains(&message) || message == KEXINIT || KEX_MESSAGES.contains(&message);
    if !expected || message == NEWKEYS || length > PACKET_BYTES_MAX || length < usize::from(padding) + 2 {
        return Step::Finished;
    }
    let Some(packet) = bytes.get(..4 + length) else {
        return if turn.full { Step::Finished } else { Step::Need(Need::Bytes(4 + length)) };
    };
    let payload = &packet[6..packet.len() - usize::from(padding)];
    match message {
        KEXINIT => {
            if let Some((client, server)) = hassh(payload) {
                let (field, hash) = if is_server(turn) {
                    (field::SSH_HASSH_SERVER, server)
                } else {
                    (field::SSH_HASSH, client)
                };
                turn.out.text(field, &hash);
            }
        }
        KEX_REPLY | KEX_GEX_REPLY => {
            // In a group exchange message 31 is the group, whose numbers are no key: a key begins with its type.
            if let Some(key) = Reader::new(payload).vector_u32().filter(|key| is_key(key)) {
                let text = base64::engine::general_purpose::STANDARD.encode(key);
                host_key(turn, field::SSH_KEY, &text);
                return Step::Finished;
            }
        }
        _ => {}
    }
    Step::Took(packet.len())
}

/// A key that would be cut says nothing.
fn host_key(turn: &mut Turn<'_>, field: FieldId, text: &str) {
    if text.len() <= gnomon_flow::Attributes::TEXT_BYTES_MAX {
        turn.out.text(field, text);
    }
}

fn is_server(turn: &Turn<'_>) -> bool {
    !turn.from_originator
}

fn is_key(blob: &[u8]) -> bool {
    Reader::new(blob).vector_u32().is_some_and(|kind| {
        (3..=64).contains(&kind.len())
            && kind.iter().all(|byte| byte.is_ascii_graphic())
            && kind.len() + 4 < blob.len()
    })
}

/// HASSH for the client and for the server, of SSH_MSG_KEXINIT's payload behind the message number.
fn hassh(payload: &[u8]) -> Option<(String, String)> {
    let mut reader = Reader::new(payload);
    reader.take(COOKIE_BYTES)?;
    let mut list = || reader.vector_u32();
    let (exchange, _host_key) = (list()?, list()?);
    let (cipher_client, cipher_server) = (list()?, list()?);
    let (mac_client, mac_server) = (list()?, list()?);
    let (compression_client, compression_server) = (list()?, list()?);
    let hash = |lists: [&[u8]; 4]| hex(&Md5::digest(lists.join(&b';')));
    Some((
        hash([exchange, cipher_client, mac_client, compression_client]),
        hash([exchange, cipher_server, mac_server, compression_server]),
    ))
}
