//! What a flow says about itself: names, versions and fingerprints read from the first bytes of its payload.
//!
//! Protocols are recognised by content; a port is at most a hint. Everything read is a claim by whoever sent it, and
//! every length in it is checked. Inspectors are pure: bytes in, attributes out.
//!
//! A message that is whole in one segment is read where it lies. One that is not is held, at most
//! [`HELD_BYTES_MAX`] a direction, out of a [`BufferBudget`] that all flows of a worker share.

mod datagram;
mod der;
mod dhcp;
mod dhcpv6;
mod dns;
mod first;
mod ftp;
mod greeting;
mod held;
mod http;
mod http2;
mod imap;
mod irc;
mod krb5;
mod ldap;
mod line;
mod mail;
mod mqtt;
mod mysql;
mod nbns;
mod ntlm;
mod ntp;
mod pop3;
mod postgresql;
mod preamble;
mod protocol;
mod quic;
mod radius;
mod rdp;
mod reader;
mod signature;
mod sip;
mod smb;
mod smtp;
mod snmp;
mod socks;
mod ssh;
mod stream;
mod stun;
mod syslog;
mod tftp;
mod tls;

#[cfg(test)]
mod tests;

use std::borrow::Cow;

use base64::Engine;
use gnomon_flow::{Attributes, FieldId, field};

use held::{Held, Need};
use protocol::Protocol;
use stream::{Memory, Rest, Stage, Step, Turn};

pub use first::FirstBytes;
pub use held::{BufferBudget, HELD_BYTES_MAX};

/// Segments or datagrams of one direction that are looked at before its protocol counts as unknown. More than one,
/// because a capture may begin in the middle and because some protocols begin in the clear and then start TLS.
const TRIES_MAX: u8 = 8;
/// Messages looked for in what is left of a stream that was cut.
const CUT_STEPS_MAX: usize = 8;

/// A flow's inspection: what is recognised so far and what is held. Give back what it holds with
/// [`Inspection::release`] when the flow ends.
#[derive(Debug, Default)]
pub struct Inspection {
    sides: [Side; 2],
    memory: Memory,
    protocol: Protocol,
}

const _: () = assert!(size_of::<Inspection>() <= 64);

#[derive(Debug, Default)]
struct Side {
    held: Option<Box<Held>>,
    /// Bytes that pass unread before the next message.
    pass: u32,
    stage: Stage,
    tries: u8,
}

impl Inspection {
    /// The next bytes of one direction of a TCP stream, in order and without gap (see [`Inspection::tcp_gap`]). Returns
    /// how many of them were looked at: a message's body passes unread.
    pub fn tcp_payload(
        &mut self,
        from_originator: bool,
        bytes: &[u8],
        out: &mut Attributes,
        budget: &mut BufferBudget,
    ) -> usize {
        let index = usize::from(!from_originator);
        let side = &self.sides[index];
        if side.stage == Stage::Done {
            return 0;
        }
        let looked_at =
            if side.held.is_none() { bytes.len().saturating_sub(side.pass as usize) } else { bytes.len() };
        let mut rest = bytes;
        while !rest.is_empty() {
            if let Some(mut held) = self.sides[index].held.take() {
                let (now, later) = rest.split_at(rest.len().min(HELD_BYTES_MAX - held.bytes.len()));
                rest = later;
                if !held.append(now, budget) {
                    held.release(budget);
                    self.sides[index].stage = Stage::Done;
                    break;
                }
                let full = held.bytes.len() == HELD_BYTES_MAX;
                if !held.has_needed(now) {
                    self.sides[index].held = Some(held);
                    continue;
                }
                let (taken, need) = self.read(index, &held.bytes, full, out, budget);
                held.bytes.drain(..taken);
                held.need = need;
                if held.bytes.is_empty() {
                    held.release(budget);
                } else {
                    self.sides[index].held = Some(held);
                }
            } else {
                let (taken, need) = self.read(index, rest, false, out, budget);
                rest = &rest[taken..];
                if !rest.is_empty() {
                    self.sides[index].held = Some(Box::new(Held::waiting(need)));
                }
            }
        }
        looked_at
    }

    /// Bytes of a TCP stream that were not captured. Of what is half read is said what there is; the next segment may start
    /// anew.
    pub fn tcp_gap(
        &mut self,
        from_originator: bool,
        bytes: u64,
        out: &mut Attributes,
        budget: &mut BufferBudget,
    ) {
        let index = usize::from(!from_originator);
        let side = &mut self.sides[index];
        if side.held.is_none()
            && let Ok(passed) = u32::try_from(bytes)
            && side.pass > passed
        {
            side.pass -= passed;
            return;
        }
        if side.held.is_some() {
            self.read_cut(index, out, budget);
        } else if side.pass == 0
            && let Memory::Http(_) = self.memory
        {
            // Nobody knows how many requests or responses were lost.
            self.memory.set(Memory::Nothing);
        }
        let side = &mut self.sides[index];
        side.pass = 0;
        if side.stage != Stage::Done {
            side.stage = Stage::Unknown;
        }
    }

    /// No more bytes will come: says what there is of messages that are not whole.
    pub fn conclude(&mut self, out: &mut Attributes, budget: &mut BufferBudget) {
        for index in 0..self.sides.len() {
            self.read_cut(index, out, budget);
        }
    }

    /// Reads what is held as far as it goes: the rest of the message was not captured. The record says that it was cut.
    fn read_cut(&mut self, index: usize, out: &mut Attributes, budget: &mut BufferBudget) {
        let Some(mut held) = self.sides[index].held.take() else { return };
        let before = (out.len(), self.protocol);
        let mut at = 0;
        for _ in 0..CUT_STEPS_MAX {
            if at >= held.bytes.len() || self.sides[index].stage == Stage::Done {
                break;
            }
            match self.step(index, &held.bytes[at..], Rest::Lost, out, budget) {
                Step::Took(taken) => at += taken,
                // A line that is not whole is read as far as it goes.
                Step::Need(Need::Line) if !held.bytes.ends_with(b"\n") => held.bytes.extend(b"\r\n"),
                Step::Need(_) | Step::Finished | Step::Anew(_) | Step::Mistaken => break,
            }
        }
        if (out.len(), self.protocol) != before
            && let Some(name) = self.protocol.name()
        {
            out.text(field::INSPECT_CUT, name);
        }
        held.release(budget);
    }

    /// One UDP datagram from the first of two ports to the second; `is_cut`: it was longer than `bytes`.
    pub fn udp_payload(
        &mut self,
        from_originator: bool,
        ports: [u16; 2],
        bytes: &[u8],
        is_cut: bool,
        out: &mut Attributes,
        budget: &mut BufferBudget,
    ) {
        let side = &mut self.sides[usize::from(!from_originator)];
        if side.stage == Stage::Done || is_keep_alive(bytes) {
            return;
        }
        let said = out.len();
        let outcome =
            datagram::read(bytes, from_originator, ports, &mut side.held, &mut self.memory, out, budget);
        if let Some(protocol) = outcome.protocol
            && self.protocol != protocol
        {
            self.protocol = protocol;
            if let Some(name) = protocol.name() {
                out.text(field::PROTOCOLS, name);
            }
        }
        if is_cut
            && out.len() != said
            && let Some(name) = outcome.protocol.and_then(Protocol::name)
        {
            out.text(field::INSPECT_CUT, name);
        }
        let side = &mut self.sides[usize::from(!from_originator)];
        match outcome.next {
            datagram::Next::More => {}
            datagram::Next::Try => {
                side.tries += 1;
                if side.tries >= TRIES_MAX {
                    side.finish(budget);
                }
            }
            datagram::Next::OverHere => side.finish(budget),
            datagram::Next::Over => {
                for side in &mut self.sides {
                    side.finish(budget);
                }
            }
        }
    }

    /// Nothing more will be read: payload need not be offered.
    pub fn is_done(&self) -> bool {
        self.sides.iter().all(|side| side.stage == Stage::Done)
    }

    /// Datagrams of this direction need not be offered. (Of a stream the other direction may begin another protocol.)
    pub fn is_done_with_datagrams(&self, from_originator: bool) -> bool {
        self.sides[usize::from(!from_originator)].stage == Stage::Done
    }

    /// The protocol recognised last (the inner one, in a tunnel), as in the field `protocols`.
    pub fn protocol(&self) -> Option<&'static str> {
        self.protocol.name()
    }

    /// Gives what is held back to the budget. To be called when the flow ends; the inspection reads nothing after it.
    pub fn release(&mut self, budget: &mut BufferBudget) {
        for side in &mut self.sides {
            side.finish(budget);
        }
        if let Memory::Http2(_) = std::mem::take(&mut self.memory) {
            budget.give_back(http2::STATE_BYTES);
        }
    }

    /// Reads what it can of `bytes`; returns how many are dealt with and what the rest waits for. `full` says that no
    /// more can be held.
    fn read(
        &mut self,
        index: usize,
        bytes: &[u8],
        full: bool,
        out: &mut Attributes,
        budget: &mut BufferBudget,
    ) -> (usize, Need) {
        let mut rest = bytes;
        loop {
            let side = &mut self.sides[index];
            if side.pass > 0 {
                let passed = rest.len().min(side.pass as usize);
                side.pass -= passed as u32;
                rest = &rest[passed..];
            }
            if rest.is_empty() || side.stage == Stage::Done {
                return (bytes.len(), Need::default());
            }
            // What follows a message in the same bytes may yet be held.
            let full = full && rest.len() == bytes.len();
            let more = if full { Rest::TooMuch } else { Rest::MayCome };
            match self.step(index, rest, more, out, budget) {
                Step::Took(taken) => {
                    debug_assert!(taken > 0);
                    rest = &rest[taken.min(rest.len())..];
                }
                Step::Need(need) if !full => return (bytes.len() - rest.len(), need),
                Step::Need(_) | Step::Finished => self.sides[index].stage = Stage::Done,
                Step::Anew(taken) => {
                    for side in &mut self.sides {
                        side.stage = Stage::Unknown;
                        side.tries = 0;
                        side.pass = 0;
                    }
                    rest = &rest[taken.min(rest.len())..];
                }
                Step::Mistaken => {
                    // The next segment is looked at afresh, unless there were too many.
                    let side = &mut self.sides[index];
                    side.stage = Stage::Unknown;
                    side.tries += 1;
                    if side.tries >= TRIES_MAX {
                        side.stage = Stage::Done;
                    }
                    rest = &[];
                }
            }
        }
    }

    fn step(
        &mut self,
        index: usize,
        bytes: &[u8],
        rest: Rest,
        out: &mut Attributes,
        budget: &mut BufferBudget,
    ) -> Step {
        let [originator, responder] = &mut self.sides;
        let (side, other) = if index == 0 { (originator, responder) } else { (responder, originator) };
        let expected = other.stage;
        let step = stream::step(
            &mut Turn {
                from_originator: index == 0,
                full: rest != Rest::MayCome,
                cut: rest == Rest::Lost,
                stage: &mut side.stage,
                other: &mut other.stage,
                pass: &mut side.pass,
                memory: &mut self.memory,
                protocol: &mut self.protocol,
                out,
                budget,
            },
            bytes,
        );
        if other.stage != expected
            && let Some(held) = &mut other.held
        {
            // What it waits for was another protocol's need.
            held.need = Need::default();
        }
        step
    }
}

impl Side {
    fn finish(&mut self, budget: &mut BufferBudget) {
        self.stage = Stage::Done;
        if let Some(mut held) = self.held.take() {
            held.release(budget);
        }
    }
}

/// A datagram that only keeps a path open: it tells nothing, and uses up no try.
fn is_keep_alive(bytes: &[u8]) -> bool {
    const BYTES_MAX: usize = 4;
    bytes.is_empty()
        || (bytes.len() <= BYTES_MAX && bytes.iter().all(|byte| matches!(byte, 0 | 0xff | b'\r' | b'\n')))
}

/// Text as a packet has it; what is no UTF-8 is replaced.
fn claimed_text(bytes: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(&bytes[..bytes.len().min(Attributes::TEXT_BYTES_MAX)])
}

/// A claimed text, unless it is empty.
fn claim(out: &mut Attributes, field: FieldId, bytes: &[u8]) {
    if !bytes.is_empty() {
        out.text(field, &claimed_text(bytes));
    }
}

/// The same in lower case, for what has no case.
fn claim_lower(out: &mut Attributes, field: FieldId, bytes: &[u8]) {
    if !bytes.is_empty() {
        out.text(field, &claimed_text(bytes).to_lowercase());
    }
}

/// A user's name, in a protocol's own field and in the field of all.
fn claim_user(out: &mut Attributes, own: Option<FieldId>, name: &[u8]) {
    if let Some(own) = own {
        claim(out, own, name);
    }
    claim(out, field::USER, name);
}

/// What base64 stands for (RFC 4648 §4), bounded; padding may lack.
fn from_base64(text: &[u8]) -> Option<Vec<u8>> {
    const BYTES_MAX: usize = 8192;
    let end = text.iter().rposition(|byte| *byte != b'=').map_or(0, |last| last + 1);
    let text = text.get(..end.min(BYTES_MAX))?;
    base64::engine::general_purpose::STANDARD_NO_PAD.decode(text).ok()
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    push_hex(&mut text, bytes);
    text
}

/// By hand: formatting took 2 % of an import's time.
fn push_hex(text: &mut String, bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for byte in bytes {
        text.push(char::from(DIGITS[usize::from(byte >> 4)]));
        text.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
}
