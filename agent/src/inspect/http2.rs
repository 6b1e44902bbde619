//! HTTP/2 in the clear: by prior knowledge or by upgrade. What its headers say is told as of HTTP/1.
//!
//! Sources: RFC 9113 §3.3 and §3.4 (how it begins), §4.1 (frames), §6.2, §6.6 and §6.10 (header blocks), §8.3
//! (pseudo-headers).

mod hpack;
mod huffman;

use gnomon_flow::field;

use super::claim;
use super::held::Need;
use super::http;
use super::line::number;
use super::protocol::Protocol;
use super::stream::{Begins, Memory, Stage, Step, Turn};
use hpack::Table;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const HEADER_BYTES: usize = 9;
/// Frames of one header block.
const FRAMES_MAX: usize = 16;

const HEADERS: u8 = 1;
const PUSH_PROMISE: u8 = 5;
const CONTINUATION: u8 = 9;
/// The highest type that there is, with extensions (IANA "HTTP/2 Frame Type").
const TYPE_MAX: u8 = 0x20;

const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;
const PRIORITY: u8 = 0x20;

/// What the tables of both directions may take, charged to the budget at once.
pub(super) const STATE_BYTES: usize = 2 * hpack::TABLE_BYTES_MAX;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Preface,
    Frame,
}

/// The compression of both directions.
#[derive(Debug, Default)]
pub(super) struct State {
    tables: [Table; 2],
}

pub(super) fn begins(bytes: &[u8]) -> Begins {
    Begins::with(bytes, PREFACE)
}

pub(super) fn stream(turn: &mut Turn<'_>, part: Part, bytes: &[u8]) -> Step {
    match part {
        Part::Preface => match begins(bytes) {
            Begins::Yes => {
                turn.recognise(Protocol::Http2);
                turn.expect(Stage::Http2(Part::Frame));
                *turn.stage = Stage::Http2(Part::Frame);
                Step::Took(PREFACE.len())
            }
            Begins::Perhaps => Step::Need(Need::Bytes(PREFACE.len())),
            Begins::No => Step::Mistaken,
        },
        Part::Frame => frame(turn, bytes),
    }
}

struct Frame<'a> {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: &'a [u8],
    total: usize,
}

/// The frame that `bytes` begin with; how many bytes it takes, where not all of them are there.
fn read(bytes: &[u8]) -> Result<Frame<'_>, usize> {
    let Some(&[high, middle, low, kind, flags, a, b, c, d]) = bytes.first_chunk::<HEADER_BYTES>() else {
        return Err(HEADER_BYTES);
    };
    let total = HEADER_BYTES + u32::from_be_bytes([0, high, middle, low]) as usize;
    let payload = bytes.get(HEADER_BYTES..total);
    Ok(Frame {
        kind,
        flags,
        stream: u32::from_be_bytes([a & 0x7f, b, c, d]),
        // Only those that carry headers are needed whole.
        payload: match payload {
            None if matches!(kind, HEADERS | PUSH_PROMISE | CONTINUATION) => return Err(total),
            other => other.unwrap_or_default(),
        },
        total,
    })
}

fn frame(turn: &mut Turn<'_>, bytes: &[u8]) -> Step {
    let first = match read(bytes) {
        Ok(frame) => frame,
        Err(_) if turn.full => return Step::Finished,
        Err(wanted) => return Step::Need(Need::Bytes(wanted)),
    };
    if first.kind > TYPE_MAX {
        return Step::Finished;
    }
    if !matches!(first.kind, HEADERS | PUSH_PROMISE) {
        return turn.took(bytes, first.total);
    }
    let Some(fragment) = fragment(&first) else { return Step::Finished };
    let mut block = fragment.to_vec();
    let mut taken = first.total;
    let mut ended = first.flags & END_HEADERS != 0;
    for _ in 0..FRAMES_MAX {
        if ended {
            break;
        }
        let next = match read(&bytes[taken..]) {
            Ok(frame) => frame,
            Err(_) if turn.full => return Step::Finished,
            Err(wanted) => return Step::Need(Need::Bytes(taken + wanted)),
        };
        if next.kind != CONTINUATION || next.stream != first.stream {
            return Step::Finished;
        }
        block.extend(next.payload);
        taken += next.total;
        ended = next.flags & END_HEADERS != 0;
    }
    // Without one block the next ones cannot be understood.
    if !ended || headers(turn, &block).is_none() {
        return Step::Finished;
    }
    Step::Took(taken)
}

/// The header block of a frame, without padding and priority.
fn fragment<'a>(frame: &Frame<'a>) -> Option<&'a [u8]> {
    let mut payload = frame.payload;
    if frame.flags & PADDED != 0 {
        let (padding, rest) = payload.split_first()?;
        payload = rest.get(..rest.len().checked_sub(usize::from(*padding))?)?;
    }
    match frame.kind {
        HEADERS if frame.flags & PRIORITY != 0 => payload.get(5..),
        // The promised stream.
        PUSH_PROMISE => payload.get(4..),
        _ => Some(payload),
    }
}

fn headers(turn: &mut Turn<'_>, block: &[u8]) -> Option<()> {
    if !matches!(turn.memory, Memory::Http2(_)) {
        if !turn.budget.take(STATE_BYTES) {
            return None;
        }
        *turn.memory = Memory::Http2(Box::default());
    }
    let Memory::Http2(state) = &mut *turn.memory else { return None };
    let fields = state.tables[usize::from(!turn.from_originator)].decode(block)?;
    let is_request = fields.iter().any(|(name, _)| name.as_slice() == b":method");
    for (name, value) in &fields {
        match name.as_slice() {
            b":method" => claim(turn.out, field::HTTP_METHOD, value),
            b":path" => claim(turn.out, field::HTTP_URI, value),
            b":authority" => http::claim_shown(turn.out, field::HTTP_HOST, value),
            b":status" => {
                if let Some(status) = number(value) {
                    turn.out.integer(field::HTTP_STATUS, status);
                }
            }
            b"authorization" => http::authorization(value, turn.out),
            name => {
                if let Some(shown) = http::shown_as(name, is_request) {
                    http::claim_shown(turn.out, shown, value);
                }
            }
        }
    }
    Some(())
}
