//! What a flow says about itself: names, versions and fingerprints read from the first bytes of its payload.
//!
//! Protocols are recognised by content; a port is at most a hint. Everything read is a claim by whoever sent it, and
//! every length in it is checked. Inspectors are pure: bytes in, attributes out.
//!
//! A message that is whole in one segment is read where it lies. One that is not is held, at most
//! [`HELD_BYTES_MAX`] a direction, out of a [`BufferBudget`] that all flows of a worker share.

mod dns;
mod held;
mod http;
mod ntp;
mod quic;
mod reader;
mod ssh;
mod tls;

#[cfg(test)]
mod tests;

use gnomon_flow::{Attributes, field};

use held::{Held, Need};

pub use held::{BufferBudget, HELD_BYTES_MAX};

/// Segments or datagrams of one direction that are looked at before its protocol counts as unknown. More than one,
/// because a capture may begin in the middle and because some protocols begin in the clear and then start TLS.
const TRIES_MAX: u8 = 8;

/// A flow's inspection: what is recognised so far and what is held. Give back what it holds with
/// [`Inspection::release`] when the flow ends.
#[derive(Debug, Default)]
pub struct Inspection {
    sides: [Side; 2],
    protocol: Protocol,
    /// What the last HTTP request's response will be like.
    asked: http::Asked,
}

const _: () = assert!(size_of::<Inspection>() <= 64);

#[derive(Debug, Default)]
struct Side {
    held: Option<Box<Held>>,
    /// Bytes that pass unread before the next message.
    pass: u64,
    stage: Stage,
    tries: u8,
}

/// What comes next in one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stage {
    #[default]
    Unknown,
    Http(http::Part),
    Tls,
    Ssh,
    Dns,
    /// Nothing more is read.
    Done,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Protocol {
    #[default]
    Unknown,
    Dns,
    Mdns,
    Llmnr,
    Http,
    Http2,
    Websocket,
    Tls,
    Ssh,
    Ntp,
    Quic,
}

/// What an inspector made of the bytes it was given.
enum Step {
    /// So many bytes are dealt with, at least one.
    Took(usize),
    /// The message is not whole.
    Need(Need),
    /// This direction has nothing more to tell.
    Finished,
}

impl Protocol {
    fn name(self) -> Option<&'static str> {
        Some(match self {
            Protocol::Unknown => return None,
            Protocol::Dns => "dns",
            Protocol::Mdns => "mdns",
            Protocol::Llmnr => "llmnr",
            Protocol::Http => "http",
            Protocol::Http2 => "http2",
            Protocol::Websocket => "websocket",
            Protocol::Tls => "tls",
            Protocol::Ssh => "ssh",
            Protocol::Ntp => "ntp",
            Protocol::Quic => "quic",
        })
    }
}

impl Inspection {
    /// The next bytes of one direction of a TCP stream, in order and without gap (see [`Inspection::tcp_gap`]).
    pub fn tcp_payload(
        &mut self,
        from_originator: bool,
        bytes: &[u8],
        out: &mut Attributes,
        budget: &mut BufferBudget,
    ) {
        let index = usize::from(!from_originator);
        if self.sides[index].stage == Stage::Done {
            return;
        }
        let mut rest = bytes;
        while !rest.is_empty() {
            if let Some(mut held) = self.sides[index].held.take() {
                let (now, later) = rest.split_at(rest.len().min(HELD_BYTES_MAX - held.bytes.len()));
                rest = later;
                if !held.append(now, budget) {
                    held.release(budget);
                    self.sides[index].stage = Stage::Done;
                    return;
                }
                let full = held.bytes.len() == HELD_BYTES_MAX;
                if !held.has_needed(now) {
                    self.sides[index].held = Some(held);
                    continue;
                }
                let (taken, need) = self.read(index, &held.bytes, full, out);
                held.bytes.drain(..taken);
                held.need = need;
                if held.bytes.is_empty() {
                    held.release(budget);
                } else {
                    self.sides[index].held = Some(held);
                }
            } else {
                let (taken, _) = self.read(index, rest, false, out);
                rest = &rest[taken..];
                if !rest.is_empty() {
                    self.sides[index].held = Some(Box::default());
                }
            }
        }
    }

    /// Bytes of a TCP stream that were not captured. What is half read is given up; the next segment may start anew.
    pub fn tcp_gap(&mut self, from_originator: bool, bytes: u64, budget: &mut BufferBudget) {
        let side = &mut self.sides[usize::from(!from_originator)];
        if side.held.is_none() && side.pass > bytes {
            side.pass -= bytes;
            return;
        }
        if let Some(mut held) = side.held.take() {
            held.release(budget);
        }
        side.pass = 0;
        if side.stage != Stage::Done {
            side.stage = Stage::Unknown;
        }
    }

    /// One UDP datagram.
    pub fn udp_payload(
        &mut self,
        from_originator: bool,
        source_port: u16,
        destination_port: u16,
        bytes: &[u8],
        out: &mut Attributes,
        budget: &mut BufferBudget,
    ) {
        let side = &mut self.sides[usize::from(!from_originator)];
        if side.stage == Stage::Done || bytes.is_empty() {
            return;
        }
        let ports = [source_port, destination_port];
        let protocol = if let Some(protocol) = dns::datagram(bytes, ports, out) {
            protocol
        } else if ntp::datagram(bytes, ports, out) {
            Protocol::Ntp
        } else {
            match quic::datagram(bytes, &mut side.held, out, budget) {
                quic::Outcome::NotQuic => {
                    side.tries += 1;
                    if side.tries >= TRIES_MAX {
                        side.finish(budget);
                    }
                    return;
                }
                quic::Outcome::Partial => {
                    side.tries += 1;
                    if side.tries >= TRIES_MAX {
                        side.finish(budget);
                    }
                }
                quic::Outcome::Finished => {
                    self.recognise(Protocol::Quic, out);
                    for side in &mut self.sides {
                        side.finish(budget);
                    }
                    return;
                }
            }
            Protocol::Quic
        };
        self.recognise(protocol, out);
    }

    /// Nothing more will be read: payload need not be offered.
    pub fn is_done(&self) -> bool {
        self.sides.iter().all(|side| side.stage == Stage::Done)
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
    }

    /// Reads what it can of `bytes`; returns how many are dealt with and what the rest waits for. `full` says that no
    /// more can be held.
    fn read(&mut self, index: usize, bytes: &[u8], full: bool, out: &mut Attributes) -> (usize, Need) {
        let mut rest = bytes;
        loop {
            let side = &mut self.sides[index];
            if side.pass > 0 {
                let passed = side.pass.min(rest.len() as u64);
                side.pass -= passed;
                rest = &rest[passed as usize..];
            }
            if rest.is_empty() || side.stage == Stage::Done {
                return (bytes.len(), Need::default());
            }
            match self.step(index, rest, full, out) {
                Step::Took(taken) => {
                    debug_assert!(taken > 0);
                    rest = &rest[taken.min(rest.len())..];
                }
                // What follows a message in the same bytes may yet be held.
                Step::Need(need) if !full || rest.len() < bytes.len() => {
                    return (bytes.len() - rest.len(), need);
                }
                Step::Need(_) | Step::Finished => self.sides[index].stage = Stage::Done,
            }
        }
    }

    fn step(&mut self, index: usize, bytes: &[u8], full: bool, out: &mut Attributes) -> Step {
        match self.sides[index].stage {
            Stage::Unknown => self.recognise_stream(index, bytes, out),
            Stage::Tls => match tls::stream(bytes, out) {
                tls::Outcome::Hello => {
                    self.recognise(Protocol::Tls, out);
                    Step::Finished
                }
                tls::Outcome::Need(bytes) => Step::Need(Need::Bytes(bytes)),
                tls::Outcome::NotTls => self.mistaken(index, bytes),
            },
            Stage::Ssh => {
                let step = ssh::stream(bytes, out);
                if matches!(step, Step::Finished) {
                    self.recognise(Protocol::Ssh, out);
                }
                step
            }
            Stage::Dns => self.dns_stream(index, bytes, full, out),
            Stage::Http(part) => self.http_stream(index, part, bytes, full, out),
            Stage::Done => Step::Finished,
        }
    }

    /// At the beginning of a segment of a direction that was not understood so far.
    fn recognise_stream(&mut self, index: usize, bytes: &[u8], out: &mut Attributes) -> Step {
        let mut unsure = false;
        let candidates = [
            (Stage::Tls, tls::begins(bytes)),
            (Stage::Ssh, ssh::begins(bytes)),
            (Stage::Http(http::Part::Head), http::begins(bytes)),
            (Stage::Dns, dns::begins_stream(bytes)),
        ];
        for (stage, begins) in candidates {
            match begins {
                Begins::Yes => {
                    self.sides[index].stage = stage;
                    return self.step(index, bytes, false, out);
                }
                Begins::Perhaps => unsure = true,
                Begins::No => {}
            }
        }
        match http::begins_http2(bytes) {
            Begins::Yes => {
                self.recognise(Protocol::Http2, out);
                self.sides[1 - index].stage = Stage::Done;
                return Step::Finished;
            }
            Begins::Perhaps => unsure = true,
            Begins::No => {}
        }
        if unsure { Step::Need(Need::Bytes(bytes.len() + 1)) } else { self.mistaken(index, bytes) }
    }

    /// These bytes are nothing that is known: the next segment is looked at afresh, unless there were too many.
    fn mistaken(&mut self, index: usize, bytes: &[u8]) -> Step {
        let side = &mut self.sides[index];
        side.stage = Stage::Unknown;
        side.tries += 1;
        if side.tries >= TRIES_MAX { Step::Finished } else { Step::Took(bytes.len()) }
    }

    fn dns_stream(&mut self, index: usize, bytes: &[u8], full: bool, out: &mut Attributes) -> Step {
        // RFC 1035 §4.2.2: each message has its length before it.
        let [high, low, message @ ..] = bytes else { return Step::Need(Need::Bytes(2)) };
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        let certain = self.protocol == Protocol::Dns;
        let message = match message.get(..length) {
            Some(message) => message,
            None if full && certain => {
                self.sides[index].pass = (length - message.len()) as u64;
                message
            }
            None => return Step::Need(Need::Bytes(2 + length)),
        };
        if !dns::message(message, !certain, out) {
            return self.mistaken(index, bytes);
        }
        self.recognise(Protocol::Dns, out);
        Step::Took(2 + message.len())
    }

    fn http_stream(
        &mut self,
        index: usize,
        part: http::Part,
        bytes: &[u8],
        full: bool,
        out: &mut Attributes,
    ) -> Step {
        let read = http::stream(part, &mut self.asked, bytes, full, out);
        let (taken, next) = match read {
            http::Outcome::Need => return Step::Need(Need::Line),
            http::Outcome::NotHttp => return self.mistaken(index, bytes),
            http::Outcome::Took { taken, next } => (taken, next),
        };
        if part == http::Part::Head {
            self.recognise(Protocol::Http, out);
        }
        match next {
            http::Next::Message { pass } => {
                self.sides[index].pass = pass;
                self.sides[index].stage = Stage::Http(http::Part::Head);
            }
            http::Next::Chunk { pass } => {
                self.sides[index].pass = pass;
                self.sides[index].stage = Stage::Http(http::Part::ChunkSize);
            }
            http::Next::Trailer => self.sides[index].stage = Stage::Http(http::Part::Trailer),
            http::Next::Close => return Step::Finished,
            http::Next::Tunnel => {
                // Another protocol begins on both sides.
                for side in &mut self.sides {
                    side.stage = Stage::Unknown;
                    side.tries = 0;
                    side.pass = 0;
                }
            }
            http::Next::Websocket => {
                self.recognise(Protocol::Websocket, out);
                self.sides[1 - index].stage = Stage::Done;
                return Step::Finished;
            }
        }
        Step::Took(taken)
    }

    fn recognise(&mut self, protocol: Protocol, out: &mut Attributes) {
        self.protocol = protocol;
        if let Some(name) = protocol.name() {
            out.text(field::PROTOCOLS, name);
        }
    }
}

/// Whether bytes are the beginning of a protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Begins {
    Yes,
    /// They are too few to tell.
    Perhaps,
    No,
}

impl Begins {
    fn with(bytes: &[u8], prefix: &[u8]) -> Begins {
        if bytes.starts_with(prefix) {
            Begins::Yes
        } else if prefix.starts_with(bytes) {
            Begins::Perhaps
        } else {
            Begins::No
        }
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

/// Text as a packet has it; what is no UTF-8 is replaced.
fn claimed_text(bytes: &[u8]) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(&bytes[..bytes.len().min(Attributes::TEXT_BYTES_MAX)])
}
