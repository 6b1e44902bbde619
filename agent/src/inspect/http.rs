//! HTTP/1: the heads of requests and responses, one after another on a kept-alive connection.
//!
//! Sources: RFC 9112 §2 (messages), §6 (where a body ends), §7.1 (chunks); RFC 9110 §11 (authentication), RFC 7617
//! (Basic), RFC 7616 §3.4 (Digest), RFC 4559 (Negotiate); RFC 6455 §4 (WebSocket), RFC 7540 §3.2 (h2c).

mod asked;
mod host;

use std::net::IpAddr;

use gnomon_flow::{Attributes, FieldId, field};

use super::held::Need;
use super::protocol::Protocol;
use super::stream::{Begins, Memory, Stage, Step, Turn};
use super::{claim, claim_lower, claim_user, claimed_text, from_base64, http2, ntlm};
pub(super) use asked::Asked;
use asked::{Expected, is_final};
pub(super) use host::claim_shown;

/// Methods that a stream is taken for HTTP by, each with the space behind it (IANA "HTTP Method Registry").
const METHODS: [&[u8]; 33] = [
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
    b"NOTIFY ",
    b"SUBSCRIBE ",
    b"UNSUBSCRIBE ",
    b"M-SEARCH ",
    b"PURGE ",
    b"QUERY ",
    b"BPROPFIND ",
    b"BCOPY ",
    b"BMOVE ",
    b"BDELETE ",
    b"RPC_IN_DATA ",
    b"RPC_OUT_DATA ",
];

const RESPONSE: &[u8] = b"HTTP/1.";

/// A chunk's size and its extensions, or a trailer field.
const LINE_BYTES_MAX: usize = 4096;

/// Addresses of one X-Forwarded-For.
const FORWARDED_MAX: usize = 16;

/// What is to be read next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Head,
    ChunkSize,
    Trailer,
}

enum Outcome {
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
enum Next {
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
    Http2,
}

/// The headers that decide where the message ends.
#[derive(Default)]
struct Framing {
    content_length: Option<u64>,
    chunked: bool,
    websocket: bool,
    http2: bool,
    /// The lengths contradict each other or are none.
    unclear: bool,
}

enum FirstLine<'a> {
    Request { method: &'a [u8], target: &'a [u8], version: &'a [u8] },
    Response { status: u16, version: &'a [u8] },
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

pub(super) fn stream(turn: &mut Turn<'_>, part: Part, bytes: &[u8]) -> Step {
    let mut asked = match turn.memory {
        Memory::Http(asked) => *asked,
        _ => Asked::default(),
    };
    let read = match part {
        Part::Head => head(&mut asked, bytes, Whole::of(turn), turn.out),
        Part::ChunkSize | Part::Trailer => chunk_line(part, bytes),
    };
    let (taken, next) = match read {
        Outcome::Need => return Step::Need(Need::Line),
        Outcome::NotHttp => return Step::Mistaken,
        Outcome::Took { taken, next } => (taken, next),
    };
    turn.memory.set(Memory::Http(asked));
    if part == Part::Head {
        turn.recognise(Protocol::Http);
    }
    let (pass, part) = match next {
        Next::Message { pass } => (pass, Part::Head),
        Next::Chunk { pass } => (pass, Part::ChunkSize),
        Next::Trailer => (0, Part::Trailer),
        Next::Close => return Step::Finished,
        // Another protocol begins on both sides.
        Next::Tunnel => return Step::Anew(taken),
        Next::Websocket => {
            turn.recognise(Protocol::Websocket);
            *turn.other = Stage::Done;
            return Step::Finished;
        }
        Next::Http2 => {
            *turn.other = Stage::Http2(http2::Part::Preface);
            *turn.stage = Stage::Http2(http2::Part::Frame);
            return Step::Took(taken);
        }
    };
    // A body of 4 GiB: what follows it is not waited for.
    let Ok(pass) = u32::try_from(pass) else { return Step::Finished };
    *turn.pass = pass;
    *turn.stage = Stage::Http(part);
    Step::Took(taken)
}

/// The head of a request or response that is alone in its datagram.
pub(super) fn datagram(bytes: &[u8], out: &mut Attributes) -> bool {
    matches!(head(&mut Asked::default(), bytes, Whole::NeverMind, out), Outcome::Took { .. })
}

/// A chunk's size, or a field behind the last chunk.
fn chunk_line(part: Part, bytes: &[u8]) -> Outcome {
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

/// What to do with a head that is not whole.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Whole {
    Wait,
    /// It is longer than what can be held: its whole lines are read, and nothing after it.
    NeverMind,
    /// The rest was not captured: it is read as far as it goes, and the next message may follow.
    Cut,
}

impl Whole {
    fn of(turn: &Turn<'_>) -> Whole {
        match (turn.cut, turn.full) {
            (true, _) => Whole::Cut,
            (false, true) => Whole::NeverMind,
            (false, false) => Whole::Wait,
        }
    }
}

fn head(asked: &mut Asked, bytes: &[u8], when_not: Whole, out: &mut Attributes) -> Outcome {
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
        None => match when_not {
            Whole::Wait => return Outcome::Need,
            Whole::NeverMind => return Outcome::NotHttp,
            Whole::Cut => match cut_first_line(std::mem::take(&mut lines.rest)) {
                Some(first) => first,
                None => return Outcome::NotHttp,
            },
        },
    };
    let fields_at = lines.rest;
    let whole = lines.find(|line| line.is_empty()).is_some();
    if !whole && when_not == Whole::Wait {
        return Outcome::Need;
    }
    let taken = bytes.len() - lines.rest.len();
    let is_request = matches!(first, FirstLine::Request { .. });
    match first {
        FirstLine::Request { method, target, version } => {
            out.text(field::HTTP_METHOD, &claimed_text(method));
            out.text(field::HTTP_URI, &claimed_text(target));
            claim(out, field::HTTP_VERSION_SRC, version);
        }
        FirstLine::Response { status, version } => {
            out.integer(field::HTTP_STATUS, status);
            claim(out, field::HTTP_VERSION_DST, version);
        }
    }
    let mut framing = Framing::default();
    let mut fields = Lines { rest: fields_at };
    for line in fields.by_ref().take_while(|line| !line.is_empty()) {
        header(line, is_request, &mut framing, out);
    }
    if !whole {
        if when_not != Whole::Cut {
            return Outcome::Took { taken: bytes.len(), next: Next::Close };
        }
        header(fields.rest, is_request, &mut Framing::default(), out);
        // Its answer is its own, and it is the answer to its own request.
        match first {
            FirstLine::Request { method, .. } => asked.push(Expected::of(method)),
            FirstLine::Response { status, .. } if is_final(status) => asked.pop(),
            FirstLine::Response { .. } => {}
        }
        return Outcome::Took { taken: bytes.len(), next: Next::Message { pass: 0 } };
    }
    let next = match first {
        FirstLine::Request { method, .. } => {
            asked.push(Expected::of(method));
            framing.body().unwrap_or(Next::Message { pass: 0 })
        }
        FirstLine::Response { status, .. } => {
            let expected = asked.first();
            if is_final(status) {
                asked.pop();
            }
            match (status, expected) {
                (101, _) if framing.websocket => Next::Websocket,
                (101, _) if framing.http2 => Next::Http2,
                (101, _) | (200..=299, Expected::Tunnel) => Next::Tunnel,
                (100..=199 | 204 | 304, _) | (_, Expected::NoBody) => Next::Message { pass: 0 },
                _ => framing.body().unwrap_or(Next::Close),
            }
        }
    };
    Outcome::Took { taken, next }
}

/// As much as there is of a first line whose end was not captured.
fn cut_first_line(line: &[u8]) -> Option<FirstLine<'_>> {
    if line.starts_with(RESPONSE) {
        return first_line(line);
    }
    let blank = line.iter().position(|byte| *byte == b' ')?;
    let rest = &line[blank + 1..];
    let target = rest.split(|byte| *byte == b' ').next().filter(|target| !target.is_empty())?;
    let version = rest.get(target.len() + 1..).unwrap_or_default();
    // Half a version is none.
    let version = if version.len() >= b"HTTP/1.1".len() { self::version(version) } else { b"" };
    Some(FirstLine::Request { method: &line[..blank], target, version })
}

fn first_line(line: &[u8]) -> Option<FirstLine<'_>> {
    if line.starts_with(RESPONSE) {
        // HTTP/1.1 SP 3DIGIT
        let status = line.get(RESPONSE.len() + 2..RESPONSE.len() + 5)?;
        let status = std::str::from_utf8(status).ok()?.parse().ok()?;
        return Some(FirstLine::Response { status, version: version(line) });
    }
    let after_method = line.iter().position(|byte| *byte == b' ')?;
    let before_version = line.iter().rposition(|byte| *byte == b' ')?;
    if before_version <= after_method || !line[before_version + 1..].starts_with(RESPONSE) {
        return None;
    }
    Some(FirstLine::Request {
        method: &line[..after_method],
        target: &line[after_method + 1..before_version],
        version: version(&line[before_version + 1..]),
    })
}

/// `1.1` of `HTTP/1.1`.
fn version(text: &[u8]) -> &[u8] {
    let digits = text.get(b"HTTP/".len()..).unwrap_or_default();
    &digits[..digits.len().min(3)]
}

fn header(line: &[u8], is_request: bool, framing: &mut Framing, out: &mut Attributes) {
    let Some(colon) = line.iter().position(|byte| *byte == b':') else { return };
    let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
    let is = |other: &str| name.eq_ignore_ascii_case(other.as_bytes());
    if let Some(shown) = shown_as(name, is_request) {
        claim_shown(out, shown, value);
    } else if is("content-length") {
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
        framing.http2 = value.eq_ignore_ascii_case(b"h2c");
    } else if is("authorization") || is("proxy-authorization") {
        authorization(value, out);
    } else if is("www-authenticate") || is("proxy-authenticate") {
        // A challenge of NTLM names the server's domain.
        negotiate(value, out);
    } else if is("x-forwarded-for") {
        for address in value.split(|byte| *byte == b',').take(FORWARDED_MAX) {
            let address = std::str::from_utf8(address.trim_ascii()).ok();
            if let Some(address) = address.and_then(|text| text.parse::<IpAddr>().ok()) {
                out.ip(field::HTTP_XFF, address);
            }
        }
    }
}

/// The field that a header is shown as, if its value is all there is to it. Names are in lower case in HTTP/2.
pub(super) fn shown_as(name: &[u8], is_request: bool) -> Option<FieldId> {
    let is = |other: &str| name.eq_ignore_ascii_case(other.as_bytes());
    Some(match name.len() {
        4 if is("host") && is_request => field::HTTP_HOST,
        6 if is("server") && !is_request => field::HTTP_SERVER,
        7 if is("referer") && is_request => field::HTTP_REFERER,
        10 if is("user-agent") && is_request => field::HTTP_USER_AGENT,
        12 if is("content-type") => field::HTTP_CONTENT_TYPE,
        _ => return None,
    })
}

/// The scheme and the user that a request claims.
pub(super) fn authorization(value: &[u8], out: &mut Attributes) {
    let Some(blank) = value.iter().position(|byte| *byte == b' ') else { return };
    let (scheme, credentials) = (&value[..blank], value[blank + 1..].trim_ascii());
    claim_lower(out, field::HTTP_AUTH_TYPE, scheme);
    if scheme.eq_ignore_ascii_case(b"basic") {
        let Some(pair) = from_base64(credentials) else { return };
        let user = pair.split(|byte| *byte == b':').next().unwrap_or_default();
        claim_user(out, Some(field::HTTP_USER), user);
    } else if scheme.eq_ignore_ascii_case(b"digest") {
        if let Some(user) = parameter(credentials, b"username") {
            claim_user(out, Some(field::HTTP_USER), user);
        }
    } else {
        negotiate(value, out);
    }
}

/// NTLM's messages, alone or inside of Negotiate.
fn negotiate(value: &[u8], out: &mut Attributes) {
    let Some(blank) = value.iter().position(|byte| *byte == b' ') else { return };
    let (scheme, blob) = (&value[..blank], value[blank + 1..].trim_ascii());
    if (scheme.eq_ignore_ascii_case(b"ntlm") || scheme.eq_ignore_ascii_case(b"negotiate"))
        && let Some(blob) = from_base64(blob)
        && let Some(message) = ntlm::find(&blob, out)
        && let Some(user) = message.user
    {
        out.text(field::HTTP_USER, &user);
    }
}

/// The value of `name=value` or `name="value"` in a list (RFC 9110 §11.2). A comma inside quotes parts nothing.
pub(super) fn parameter<'a>(list: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let mut quoted = false;
    let mut parts = list.split(|byte| {
        quoted ^= *byte == b'"';
        *byte == b',' && !quoted
    });
    parts.find_map(|part| {
        let part = part.trim_ascii();
        let equals = part.iter().position(|byte| *byte == b'=')?;
        if !part[..equals].trim_ascii().eq_ignore_ascii_case(name) {
            return None;
        }
        let value = part[equals + 1..].trim_ascii();
        let value = value.strip_prefix(b"\"").unwrap_or(value);
        Some(value.strip_suffix(b"\"").unwrap_or(value))
    })
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
