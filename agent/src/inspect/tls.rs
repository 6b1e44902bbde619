//! TLS: both hellos and the certificates, which may be split over records and segments in any way.
//!
//! Sources: RFC 8446 §4.1 and §5.1, RFC 5246 §7.4.1 and §7.4.2. Certificates are in the clear up to TLS 1.2.

mod certificate;
mod cipher_suite;
mod fingerprint;
mod hello;

use std::borrow::Cow;

use gnomon_flow::{Attributes, field};

use super::claimed_text;
use super::held::Need;
use super::protocol::Protocol;
use super::reader::Reader;
use super::stream::{Begins, Stage, Step, Turn};
use fingerprint::{ja3, ja3s, ja4};
use hello::{ClientHello, ServerHello};

pub(super) use fingerprint::Transport;

/// The first byte of a record with a handshake message.
pub(super) const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const SERVER_HELLO: u8 = 2;
const CERTIFICATE: u8 = 11;
const CERTIFICATE_REQUEST: u8 = 13;
const CERTIFICATE_STATUS: u8 = 22;

const TLS_1_3: u16 = 0x0304;

const RECORD_HEADER_BYTES: usize = 5;
/// TLSPlaintext.length (RFC 8446 §5.1).
const RECORD_BYTES_MAX: usize = 1 << 14;
const HANDSHAKE_HEADER_BYTES: usize = 4;
/// Messages that are looked at before the certificates, in records that they share.
const MESSAGES_MAX: u8 = 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Hello,
    /// Messages up to the certificates. Of what is held, the first message may be the hello, and so many were read.
    Certificate {
        hello_held: bool,
        read: u8,
    },
}

/// Whether a stream begins with a record that begins with a hello.
pub(super) fn begins(bytes: &[u8]) -> Begins {
    Begins::by_rules(
        bytes,
        &[
            |kind| kind == HANDSHAKE,
            |major| major == 3,
            |minor| minor <= 4,
            |length_high| usize::from(length_high) <= RECORD_BYTES_MAX >> 8,
            |_| true,
            |message| matches!(message, CLIENT_HELLO | SERVER_HELLO),
        ],
    )
}

/// Reads a stream that [`begins`] as TLS: the hello, then what comes before the certificates, and those. Nothing is
/// taken before all of that is there: a message may begin anywhere in a record and end in another one.
pub(super) fn stream(turn: &mut Turn<'_>, part: Part, bytes: &[u8]) -> Step {
    let (first_is_hello, mut read) = match part {
        Part::Hello => (true, 0),
        Part::Certificate { hello_held, read } => (hello_held, read),
    };
    let mut nth = 0u8;
    let mut skip = 0;
    loop {
        let (message, ends_record_at) = match handshake_message(bytes, skip) {
            Ok(found) => found,
            Err(Missing::Bytes(_)) if turn.cut => {
                if let Some(message) = cut_message(bytes, skip).filter(|_| nth >= read) {
                    cut_message_in(turn, &message, first_is_hello && nth == 0);
                }
                return Step::Finished;
            }
            Err(Missing::Bytes(_)) if turn.full => return Step::Finished,
            Err(Missing::Bytes(wanted)) => return Step::Need(Need::Bytes(wanted)),
            Err(Missing::NotTls) => {
                return if first_is_hello && read == 0 { Step::Mistaken } else { Step::Finished };
            }
        };
        skip += message.len();
        nth = nth.saturating_add(1);
        if nth > read {
            read = nth;
            let is_hello = first_is_hello && nth == 1;
            if !message_in(turn, &message, is_hello) {
                return if is_hello { Step::Mistaken } else { Step::Finished };
            }
            if *turn.stage == Stage::Done || read > MESSAGES_MAX {
                return Step::Finished;
            }
            *turn.stage = Stage::Tls(Part::Certificate { hello_held: first_is_hello, read });
        }
        if let Some(end) = ends_record_at {
            *turn.stage = Stage::Tls(Part::Certificate { hello_held: false, read: 0 });
            return Step::Took(end);
        }
    }
}

/// Reads one message; sets the stage to done where nothing more is to be read, and returns false where it does not
/// belong here.
fn message_in(turn: &mut Turn<'_>, message: &[u8], is_first: bool) -> bool {
    if is_first {
        if !hello(message, Transport::Tcp, turn.out) {
            return false;
        }
        turn.recognise(Protocol::Tls);
        let version = ServerHello::read(message.get(HANDSHAKE_HEADER_BYTES..).unwrap_or_default())
            .map(|hello| hello.version());
        if message[0] == SERVER_HELLO && version.is_none_or(|version| version >= TLS_1_3) {
            *turn.stage = Stage::Done;
            // A client's certificate would be encrypted too.
            if matches!(turn.other, Stage::Tls(Part::Certificate { .. })) {
                *turn.other = Stage::Done;
            }
        }
        return true;
    }
    match message[0] {
        CERTIFICATE => {
            certificate::chain(&message[HANDSHAKE_HEADER_BYTES..], turn.out);
            *turn.stage = Stage::Done;
            true
        }
        CERTIFICATE_STATUS | CERTIFICATE_REQUEST => true,
        // Key exchange, the end of the flight, or a second hello: no certificate comes any more.
        _ => false,
    }
}

/// Reads as much of a message as was captured. Fingerprints are made of whole hellos alone.
fn cut_message_in(turn: &mut Turn<'_>, message: &[u8], is_first: bool) {
    let Some(body) = message.get(HANDSHAKE_HEADER_BYTES..) else { return };
    match message[0] {
        CLIENT_HELLO if is_first => {
            let Some(hello) = ClientHello::read_cut(body) else { return };
            turn.recognise(Protocol::Tls);
            names(&hello, turn.out);
        }
        SERVER_HELLO if is_first => {
            let Some(hello) = ServerHello::read_cut(body) else { return };
            turn.recognise(Protocol::Tls);
            turn.out.text(field::TLS_CIPHER, &cipher_suite::name(hello.cipher));
            // The version stands in an extension that may be among what is missing.
            if let Some(version) = hello.version_if_known() {
                turn.out.text(field::TLS_VERSION, &version_name(version));
            }
            for protocol in hello.protocols() {
                turn.out.text(field::TLS_ALPN, &claimed_text(protocol));
            }
        }
        CERTIFICATE if !is_first => certificate::chain(body, turn.out),
        _ => {}
    }
}

/// The host and the protocols that a client asks for.
fn names(hello: &ClientHello<'_>, out: &mut Attributes) {
    if let Some(host) = hello.host() {
        out.text(field::TLS_HOST, &claimed_text(host).to_ascii_lowercase());
    }
    for protocol in hello.protocols() {
        out.text(field::TLS_ALPN, &claimed_text(protocol));
    }
}

/// Reads a handshake message, header and all, if it is a hello.
pub(super) fn hello(message: &[u8], transport: Transport, out: &mut Attributes) -> bool {
    let mut reader = Reader::new(message);
    match (reader.u8(), reader.take(3)) {
        (Some(CLIENT_HELLO), Some(_)) => {
            let Some(hello) = ClientHello::read(reader.rest()) else { return false };
            names(&hello, out);
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

/// A handshake message of a stream of records, without the records' headers, behind so many bytes of other messages;
/// and where the record ends, if it ends with the message.
fn handshake_message(bytes: &[u8], mut skip: usize) -> Result<(Cow<'_, [u8]>, Option<usize>), Missing> {
    let mut message: Cow<'_, [u8]> = Cow::Borrowed(&[]);
    let mut at = 0;
    loop {
        let payload_at = at + RECORD_HEADER_BYTES;
        // The first byte tells alone that the handshake is over.
        if bytes.get(at).is_some_and(|kind| *kind != HANDSHAKE) {
            return Err(Missing::NotTls);
        }
        let Some(&[_, major, _, high, low]) = bytes.get(at..payload_at) else {
            return Err(Missing::Bytes(payload_at));
        };
        let length = usize::from(u16::from_be_bytes([high, low]));
        if major != 3 || length == 0 || length > RECORD_BYTES_MAX {
            return Err(Missing::NotTls);
        }
        let end = payload_at + length;
        let there = &bytes[payload_at..end.min(bytes.len())];
        let skipped = skip.min(there.len());
        skip -= skipped;
        let there = &there[skipped..];
        if message.is_empty() {
            message = Cow::Borrowed(there);
        } else {
            message.to_mut().extend_from_slice(there);
        }
        let whole = message_bytes(&message);
        match whole {
            Some(whole) if whole > RECORD_BYTES_MAX => return Err(Missing::NotTls),
            Some(whole) if message.len() >= whole => {
                let ends_record_at = (message.len() == whole && end <= bytes.len()).then_some(end);
                let message = match message {
                    Cow::Borrowed(slice) => Cow::Borrowed(&slice[..whole]),
                    Cow::Owned(mut owned) => {
                        owned.truncate(whole);
                        Cow::Owned(owned)
                    }
                };
                return Ok((message, ends_record_at));
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

/// What there is of the handshake message behind so many bytes of other messages, its header and more.
fn cut_message(bytes: &[u8], mut skip: usize) -> Option<Vec<u8>> {
    let mut message = Vec::new();
    let mut rest = bytes;
    while let [HANDSHAKE, 3, _, high, low, payload @ ..] = rest {
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        let there = &payload[..length.min(payload.len())];
        let skipped = skip.min(there.len());
        skip -= skipped;
        message.extend_from_slice(&there[skipped..]);
        rest = &payload[there.len()..];
    }
    (message.len() > HANDSHAKE_HEADER_BYTES).then_some(message)
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
