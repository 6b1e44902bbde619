//! HTTP/1: the heads of requests and responses, one after another on a kept-alive connection.
//!
//! Sources: RFC 9112 §2 (messages), §6 (where a body ends), §7.1 (chunks); RFC 9113 §3.4 (HTTP/2's preface).

use gnomon_flow::{AttributeValue, Attributes, FieldId, field};

use super::{Begins, claimed_text};

/// Methods that a stream is taken for HTTP by, each with the space behind it (IANA "HTTP Method Registry").
const METHODS: [&[u8]; 23] = [
    b"GET ",
    b"POST ",
    b"HEAD ",
    b"PUT ",
    b"DELETE ",
    b"OPTIONS ",
    b"CONNECT ",
    b"PATCH ",
    b"TRACE ",
    b"PROPFIND ",
    b"PROPPATCH ",
    b"MKCOL ",
    b"COPY ",
    b"MOVE ",
    b"LOCK ",
    b"UNLOCK ",
    b"REPORT ",
    b"SEARCH ",
    b"MERGE ",
    b"CHECKOUT ",
    b"MKACTIVITY ",
    b"RPC_IN_DATA ",
    b"RPC_OUT_DATA ",
];

const RESPONSE: &[u8] = b"HTTP/1.";
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A chunk's size and its extensions, or a trailer field.
const LINE_BYTES_MAX: usize = 4096;

/// What is to be read next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Head,
    ChunkSize,
    Trailer,
}

/// What the last request decides about its response.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Asked {
    #[default]
    Other,
    /// The response has no body, whatever its head says.
    Head,
    /// A 2xx response begins a tunnel.
    Connect,
}

pub(super) enum Outcome {
    /// A line's end, at least.
    Need,
    NotHttp,
    Took {
        taken: usize,
        next: Next,
    },
}

/// What follows what was read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// A message, behind so many bytes of body.
    Message {
        pass: u64,
    },
    /// A chunk size, behind so many bytes of chunk.
    Chunk {
        pass: u64,
    },
    Trailer,
    /// A body up to the end of the connection.
    Close,
    /// Another protocol.
    Tunnel,
    Websocket,
}

/// The headers that decide where the message ends.
#[derive(Default)]
struct Framing {
    content_length: Option<u64>,
    chunked: bool,
    websocket: bool,
    /// The lengths contradict each other or are none.
    unclear: bool,
}

enum FirstLine<'a> {
    Request { method: &'a [u8], target: &'a [u8] },
    Response { status: u16 },
}

pub(super) fn begins(bytes: &[u8]) -> Begins {
    let mut begins = Begins::with(bytes, RESPONSE);
    for method in METHODS {
        match Begins::with(bytes, method) {
            Begins::Yes => return Begins::Yes,
            Begins::Perhaps => begins = Begins::Perhaps,
            Begins::No => {}
        }
    }
    begins
}

pub(super) fn begins_http2(bytes: &[u8]) -> Begins {
    Begins::with(bytes, HTTP2_PREFACE)
}

pub(super) fn stream(
    part: Part,
    asked: &mut Asked,
    bytes: &[u8],
    full: bool,
    out: &mut Attributes,
) -> Outcome {
    if part == Part::Head {
        return head(asked, bytes, full, out);
    }
    let Some(end) = bytes.iter().take(LINE_BYTES_MAX).position(|byte| *byte == b'\n') else {
        return if bytes.len() < LINE_BYTES_MAX { Outcome::Need } else { Outcome::NotHttp };
    };
    let line = bytes[..end].trim_ascii();
    let next = match (part, line) {
        (Part::Trailer, []) => Next::Message { pass: 0 },
        (Part::Trailer, _) => Next::Trailer,
        _ => match chunk_size(line) {
            Some(0) => Next::Trailer,
            // The chunk has a line end of its own.
            Some(size) => Next::Chunk { pass: size.saturating_add(2) },
            None => return Outcome::NotHttp,
        },
    };
    Outcome::Took { taken: end + 1, next }
}

fn head(asked: &mut Asked, bytes: &[u8], full: bool, out: &mut Attributes) -> Outcome {
    // A server may put an empty line before a message (RFC 9112 §2.2).
    let blank = bytes.iter().take(2).take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
    let text = &bytes[blank..];
    if begins(text) == Begins::No {
        return Outcome::NotHttp;
    }
    let mut lines = Lines { rest: text };
    let first = match lines.next() {
        Some(line) => match first_line(line) {
            Some(first) => first,
            None => return Outcome::NotHttp,
        },
        None if full => return Outcome::NotHttp,
        None => return Outcome::Need,
    };
    let fields_at = lines.rest;
    let whole = lines.find(|line| line.is_empty()).is_some();
    if !whole && !full {
        return Outcome::Need;
    }
    let taken = bytes.len() - lines.rest.len();
    let is_request = matches!(first, FirstLine::Request { .. });
    match first {
        FirstLine::Request { method, target } => {
            out.text(field::HTTP_METHOD, &claimed_text(method));
            out.text(field::HTTP_URI, &claimed_text(target));
        }
        FirstLine::Response { status } => {
            out.push(field::HTTP_STATUS, AttributeValue::Integer(u64::from(status)));
        }
    }
    let mut framing = Framing::default();
    for line in (Lines { rest: fields_at }).take_while(|line| !line.is_empty()) {
        header(line, is_request, &mut framing, out);
    }
    if !whole {
        return Outcome::Took { taken: bytes.len(), next: Next::Close };
    }
    let next = match first {
        FirstLine::Request { method, .. } => {
            *asked = match method {
                b"HEAD" => Asked::Head,
                b"CONNECT" => Asked::Connect,
                _ => Asked::Other,
            };
            framing.body().unwrap_or(Next::Message { pass: 0 })
        }
        FirstLine::Response { status } => match (status, *asked) {
            (101, _) if framing.websocket => Next::Websocket,
            (101, _) | (200..=299, Asked::Connect) => Next::Tunnel,
            (100..=199 | 204 | 304, _) | (_, Asked::Head) => Next::Message { pass: 0 },
            _ => framing.body().unwrap_or(Next::Close),
        },
    };
    Outcome::Took { taken, next }
}

fn first_line(line: &[u8]) -> Option<FirstLine<'_>> {
    if line.starts_with(RESPONSE) {
        // HTTP/1.1 SP 3DIGIT
        let status = line.get(RESPONSE.len() + 2..RESPONSE.len() + 5)?;
        let status = std::str::from_utf8(status).ok()?.parse().ok()?;
        return Some(FirstLine::Response { status });
    }
    let after_method = line.iter().position(|byte| *byte == b' ')?;
    let before_version = line.iter().rposition(|byte| *byte == b' ')?;
    if before_version <= after_method || !line[before_version + 1..].starts_with(RESPONSE) {
        return None;
    }
    Some(FirstLine::Request {
        method: &line[..after_method],
        target: &line[after_method + 1..before_version],
    })
}

fn header(line: &[u8], is_request: bool, framing: &mut Framing, out: &mut Attributes) {
    let Some(colon) = line.iter().position(|byte| *byte == b':') else { return };
    let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
    let is = |other: &str| name.eq_ignore_ascii_case(other.as_bytes());
    let shown: FieldId = if is("host") && is_request {
        field::HTTP_HOST
    } else if is("user-agent") && is_request {
        field::HTTP_USER_AGENT
    } else if is("referer") && is_request {
        field::HTTP_REFERER
    } else if is("server") && !is_request {
        field::HTTP_SERVER
    } else if is("content-type") {
        field::HTTP_CONTENT_TYPE
    } else {
        if is("content-length") {
            framing.content_length(value);
        } else if is("transfer-encoding") {
            // The last coding is chunked, or the body ends with the connection (RFC 9112 §6.3).
            framing.chunked = value
                .rsplit(|byte| *byte == b',')
                .next()
                .is_some_and(|last| last.trim_ascii().eq_ignore_ascii_case(b"chunked"));
            framing.unclear |= !framing.chunked;
        } else if is("upgrade") {
            framing.websocket = value.eq_ignore_ascii_case(b"websocket");
        }
        return;
    };
    if !value.is_empty() {
        out.text(shown, &claimed_text(value));
    }
}

impl Framing {
    fn content_length(&mut self, value: &[u8]) {
        let length = std::str::from_utf8(value)
            .ok()
            .filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))
            .and_then(|text| text.parse().ok());
        if length.is_none() || (self.content_length.is_some() && self.content_length != length) {
            self.unclear = true;
        }
        self.content_length = length;
    }

    /// None when the head says nothing about a body.
    fn body(&self) -> Option<Next> {
        if self.chunked {
            Some(Next::Chunk { pass: 0 })
        } else if self.unclear {
            Some(Next::Close)
        } else {
            self.content_length.map(|pass| Next::Message { pass })
        }
    }
}

fn chunk_size(line: &[u8]) -> Option<u64> {
    let digits = line.split(|byte| *byte == b';').next()?.trim_ascii();
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

/// Lines with their ends, LF or CR LF, taken off; what has no end is no line.
struct Lines<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Lines<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let end = self.rest.iter().position(|byte| *byte == b'\n')?;
        let line = &self.rest[..end];
        self.rest = &self.rest[end + 1..];
        Some(line.strip_suffix(b"\r").unwrap_or(line))
    }
}
