//! TLS: both hellos, which may be split over records and segments in any way.
//!
//! Sources: RFC 8446 §4.1 and §5.1, RFC 5246 §7.4.1.

mod cipher_suite;
mod fingerprint;
mod hello;

use std::borrow::Cow;

use gnomon_flow::{Attributes, field};

use super::reader::Reader;
use super::{Begins, claimed_text};
use fingerprint::{ja3, ja3s, ja4};
use hello::{ClientHello, ServerHello};

pub(super) use fingerprint::Transport;

const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const SERVER_HELLO: u8 = 2;

const RECORD_HEADER_BYTES: usize = 5;
/// TLSPlaintext.length (RFC 8446 §5.1).
const RECORD_BYTES_MAX: usize = 1 << 14;
const HANDSHAKE_HEADER_BYTES: usize = 4;

pub(super) enum Outcome {
    /// A hello was read; what follows tells nothing more.
    Hello,
    /// At least so many bytes.
    Need(usize),
    NotTls,
}

/// Whether a stream begins with a record that begins with a hello.
pub(super) fn begins(bytes: &[u8]) -> Begins {
    let expected: [fn(u8) -> bool; 6] = [
        |kind| kind == HANDSHAKE,
        |major| major == 3,
        |minor| minor <= 4,
        |length_high| usize::from(length_high) <= RECORD_BYTES_MAX >> 8,
        |_| true,
        |message| matches!(message, CLIENT_HELLO | SERVER_HELLO),
    ];
    if bytes.iter().zip(expected).any(|(byte, is_expected)| !is_expected(*byte)) {
        Begins::No
    } else if bytes.len() < expected.len() {
        Begins::Perhaps
    } else {
        Begins::Yes
    }
}

/// Reads a stream that [`begins`] as TLS.
pub(super) fn stream(bytes: &[u8], out: &mut Attributes) -> Outcome {
    match handshake_message(bytes) {
        Ok(message) if hello(&message, Transport::Tcp, out) => Outcome::Hello,
        Err(Missing::Bytes(bytes)) => Outcome::Need(bytes),
        Ok(_) | Err(Missing::NotTls) => Outcome::NotTls,
    }
}

/// Reads a handshake message, header and all, if it is a hello.
pub(super) fn hello(message: &[u8], transport: Transport, out: &mut Attributes) -> bool {
    let mut reader = Reader::new(message);
    match (reader.u8(), reader.take(3)) {
        (Some(CLIENT_HELLO), Some(_)) => {
            let Some(hello) = ClientHello::read(reader.rest()) else { return false };
            if let Some(host) = hello.host() {
                out.text(field::TLS_HOST, &claimed_text(host).to_ascii_lowercase());
            }
            for protocol in hello.protocols() {
                out.text(field::TLS_ALPN, &claimed_text(protocol));
            }
            out.text(field::TLS_JA3, &ja3(&hello));
            out.text(field::TLS_JA4, &ja4(&hello, transport));
        }
        (Some(SERVER_HELLO), Some(_)) => {
            let Some(hello) = ServerHello::read(reader.rest()) else { return false };
            out.text(field::TLS_VERSION, &version_name(hello.version()));
            out.text(field::TLS_CIPHER, &cipher_suite::name(hello.cipher));
            for protocol in hello.protocols() {
                out.text(field::TLS_ALPN, &claimed_text(protocol));
            }
            out.text(field::TLS_JA3S, &ja3s(&hello));
        }
        _ => return false,
    }
    true
}

/// How long the handshake message is that begins with `head`, with its header; None when `head` is too short.
pub(super) fn message_bytes(head: &[u8]) -> Option<usize> {
    match head {
        [_, high, middle, low, ..] => {
            let body = u32::from_be_bytes([0, *high, *middle, *low]) as usize;
            Some(HANDSHAKE_HEADER_BYTES + body)
        }
        _ => None,
    }
}

/// Why there is no handshake message.
enum Missing {
    /// It takes at least so many bytes of the stream.
    Bytes(usize),
    NotTls,
}

/// The first handshake message of a stream of records, without the records' headers.
fn handshake_message(bytes: &[u8]) -> Result<Cow<'_, [u8]>, Missing> {
    let mut message: Cow<'_, [u8]> = Cow::Borrowed(&[]);
    let mut at = 0;
    loop {
        let payload_at = at + RECORD_HEADER_BYTES;
        let Some(&[kind, major, _, high, low]) = bytes.get(at..payload_at) else {
            return Err(Missing::Bytes(payload_at));
        };
        let length = usize::from(u16::from_be_bytes([high, low]));
        if kind != HANDSHAKE || major != 3 || length == 0 || length > RECORD_BYTES_MAX {
            return Err(Missing::NotTls);
        }
        let end = payload_at + length;
        let there = &bytes[payload_at..end.min(bytes.len())];
        if message.is_empty() {
            message = Cow::Borrowed(there);
        } else {
            message.to_mut().extend_from_slice(there);
        }
        let whole = message_bytes(&message);
        match whole {
            Some(whole) if whole > RECORD_BYTES_MAX => return Err(Missing::NotTls),
            Some(whole) if message.len() >= whole => {
                return Ok(match message {
                    Cow::Borrowed(slice) => Cow::Borrowed(&slice[..whole]),
                    Cow::Owned(mut owned) => {
                        owned.truncate(whole);
                        Cow::Owned(owned)
                    }
                });
            }
            _ if end > bytes.len() => {
                // Not to the record's end: the message may end before it.
                let lacking = whole.unwrap_or(HANDSHAKE_HEADER_BYTES) - message.len();
                return Err(Missing::Bytes(end.min(bytes.len() + lacking)));
            }
            _ => at = end,
        }
    }
}

/// `TLSv1.3`; a version without a name is shown by its number.
fn version_name(version: u16) -> Cow<'static, str> {
    Cow::Borrowed(match version {
        0x0300 => "SSLv3",
        0x0301 => "TLSv1",
        0x0302 => "TLSv1.1",
        0x0303 => "TLSv1.2",
        0x0304 => "TLSv1.3",
        other => return Cow::Owned(format!("{other:#06x}")),
    })
}
