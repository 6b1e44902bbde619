//! SMB 1 ([MS-CIFS], [MS-SMB]) and SMB 2 and 3 ([MS-SMB2]) over TCP: dialects, users, shares and files.
//!
//! Each message has a NetBIOS session header (RFC 1002 §4.3.1). No more than a message's beginning is looked at: data
//! that is read or written stands behind it.

mod version1;
mod version2;

use gnomon_flow::{Attributes, field};

use super::held::Need;
use super::ntlm;
use super::protocol::Protocol;
use super::stream::{Begins, Stage, Step, Turn};

pub(super) use version1::Dialects;

const HEADER_BYTES: usize = 4;
const MESSAGE: u8 = 0;
const KEEP_ALIVE: u8 = 0x85;
const SESSION_REQUEST: u8 = 0x81;

/// What is looked at of one message.
const PREFIX_BYTES_MAX: usize = 4096;

const VERSION_1: &[u8] = b"\xffSMB";
const VERSION_2: &[u8] = b"\xfeSMB";
/// Encrypted, and compressed ([MS-SMB2] §2.2.41 and §2.2.42).
const ENCRYPTED: &[u8] = b"\xfdSMB";
const COMPRESSED: &[u8] = b"\xfcSMB";

/// A session request that names a called and a calling host, or a message.
pub(super) fn begins(bytes: &[u8]) -> Begins {
    if bytes.first() == Some(&SESSION_REQUEST) {
        return Begins::with(bytes, &[SESSION_REQUEST, 0, 0, 0x44, 0x20]);
    }
    let signature = bytes.get(HEADER_BYTES..).unwrap_or_default();
    if bytes.first().is_some_and(|kind| *kind != MESSAGE) {
        return Begins::No;
    }
    Begins::with_any(signature, &[VERSION_1, VERSION_2, ENCRYPTED])
}

pub(super) fn stream(turn: &mut Turn<'_>, bytes: &[u8]) -> Step {
    let [kind, length @ ..] = match bytes.first_chunk::<HEADER_BYTES>() {
        Some(header) => *header,
        None => return Step::Need(Need::Bytes(HEADER_BYTES)),
    };
    let [high, middle, low] = length;
    let total = HEADER_BYTES + u32::from_be_bytes([0, high, middle, low]) as usize;
    if kind != MESSAGE {
        // 0x82 to 0x84 answer a session request.
        turn.expect(Stage::Smb);
        return if (SESSION_REQUEST..=KEEP_ALIVE).contains(&kind) {
            turn.took(bytes, total)
        } else {
            Step::Finished
        };
    }
    let message = match turn.prefix(bytes, total, HEADER_BYTES + PREFIX_BYTES_MAX) {
        Ok(prefix) => &prefix[HEADER_BYTES..],
        Err(step) => return step,
    };
    let known = [VERSION_1, VERSION_2, ENCRYPTED, COMPRESSED].iter().any(|known| message.starts_with(known));
    if !known && !message.is_empty() {
        return Step::Finished;
    }
    turn.recognise(Protocol::Smb);
    turn.expect(Stage::Smb);
    if message.starts_with(VERSION_1) {
        version1::message(message, turn.memory, turn.out);
    } else if message.starts_with(VERSION_2) {
        version2::message(message, turn.out);
    }
    turn.took(bytes, total)
}

/// What the security token of a session setup claims.
fn token(blob: &[u8], out: &mut Attributes) {
    let Some(message) = ntlm::find(blob, out) else { return };
    for (field, value) in [
        (field::SMB_DOMAIN, message.domain),
        (field::SMB_USER, message.user),
        (field::SMB_HOST, message.host),
    ] {
        if let Some(value) = value {
            out.text(field, &value);
        }
    }
}
