//! DNS over UDP and TCP, multicast DNS and LLMNR: names, types, response codes and answers.
//!
//! Sources: RFC 1035 §4 (messages), RFC 6891 §6.1.3 (extended response codes), RFC 6762 (mDNS), RFC 4795 (LLMNR).

mod name;
mod table;

use std::net::{Ipv4Addr, Ipv6Addr};

use gnomon_flow::{Attributes, field};

use super::claim;
use super::held::Need;
use super::protocol::Protocol;
use super::reader::Reader;
use super::stream::{Begins, Step, Turn};
use name::{name, skip_name};
use table::{record_type, response_code};

const HEADER_BYTES: usize = 12;
const PORT: u16 = 53;
const MDNS_PORT: u16 = 5353;
const LLMNR_PORT: u16 = 5355;
/// NetBIOS names look like DNS and are none.
const NETBIOS_PORT: u16 = 137;

/// The shortest message: a header and the question for the root.
const QUERY_BYTES_MIN: usize = HEADER_BYTES + 5;
/// A stream is taken for DNS only when its first message is no longer; later ones may be of any length.
const FIRST_MESSAGE_BYTES_MAX: usize = 4096;
/// Answers read of one message.
const ANSWERS_MAX: u16 = 64;

const TYPE_A: u16 = 1;
const TYPE_NS: u16 = 2;
const TYPE_CNAME: u16 = 5;
const TYPE_PTR: u16 = 12;
const TYPE_MX: u16 = 15;
const TYPE_TXT: u16 = 16;
const TYPE_AAAA: u16 = 28;
const TYPE_SRV: u16 = 33;
const TYPE_DNAME: u16 = 39;
const TYPE_OPT: u16 = 41;

struct Header {
    response: bool,
    opcode: u8,
    truncated: bool,
    reserved: bool,
    response_code: u8,
    questions: u16,
    answers: u16,
    authorities: u16,
    additionals: u16,
}

impl Header {
    fn read(message: &[u8]) -> Option<Header> {
        let mut reader = Reader::new(message);
        let _id = reader.u16()?;
        let flags = reader.u16()?;
        Some(Header {
            response: flags & 0x8000 != 0,
            opcode: (flags >> 11 & 0xf) as u8,
            truncated: flags & 0x0200 != 0,
            reserved: flags & 0x0040 != 0,
            response_code: (flags & 0xf) as u8,
            questions: reader.u16()?,
            answers: reader.u16()?,
            authorities: reader.u16()?,
            additionals: reader.u16()?,
        })
    }

    /// Such as real messages have, which few other bytes do.
    fn is_plausible(&self) -> bool {
        // QUERY, STATUS, NOTIFY, UPDATE.
        let opcode = matches!(self.opcode, 0 | 2 | 4 | 5);
        let counts = self.questions == 1
            && (self.response || self.opcode != 0 || (self.answers == 0 && self.authorities <= 1))
            && self.additionals <= if self.response { 256 } else { 3 };
        opcode && counts && !self.reserved && (self.response || self.response_code == 0)
    }
}

/// How much of a message could be followed.
#[derive(PartialEq, Eq)]
enum Extent {
    Nothing,
    Questions,
    Whole,
}

/// Reads a datagram; None when it is no DNS message. On the protocol's own ports a sound question is enough, elsewhere
/// the message must be sound to its last byte.
pub(super) fn datagram(bytes: &[u8], ports: [u16; 2], out: &mut Attributes) -> Option<Protocol> {
    if ports.contains(&NETBIOS_PORT) {
        return None;
    }
    // A resolver may ask from any port, 5353 too.
    let protocol = if ports.contains(&PORT) {
        Protocol::Dns
    } else if ports.contains(&MDNS_PORT) {
        Protocol::Mdns
    } else if ports.contains(&LLMNR_PORT) {
        Protocol::Llmnr
    } else {
        Protocol::Dns
    };
    let strict = protocol == Protocol::Dns && !ports.contains(&PORT);
    message(bytes, strict, out).then_some(protocol)
}

/// Whether a TCP stream begins with a DNS message (RFC 1035 §4.2.2).
pub(super) fn begins_stream(bytes: &[u8]) -> Begins {
    let [high, low, message @ ..] = bytes else {
        return if bytes.is_empty() || usize::from(bytes[0]) <= FIRST_MESSAGE_BYTES_MAX >> 8 {
            Begins::Perhaps
        } else {
            Begins::No
        };
    };
    let length = usize::from(u16::from_be_bytes([*high, *low]));
    if !(QUERY_BYTES_MIN..=FIRST_MESSAGE_BYTES_MAX).contains(&length) {
        return Begins::No;
    }
    match Header::read(message) {
        Some(header) if header.is_plausible() => Begins::Yes,
        Some(_) => Begins::No,
        None => Begins::Perhaps,
    }
}

/// RFC 1035 §4.2.2: each message has its length before it.
pub(super) fn stream(turn: &mut Turn<'_>, bytes: &[u8]) -> Step {
    let [high, low, rest @ ..] = bytes else { return Step::Need(Need::Bytes(2)) };
    let total = 2 + usize::from(u16::from_be_bytes([*high, *low]));
    let certain = *turn.protocol == Protocol::Dns;
    let there = match rest.get(..total - 2) {
        Some(there) => there,
        // The beginning of a message that is longer than what is held.
        None if turn.cut || (turn.full && certain) => rest,
        None => return Step::Need(Need::Bytes(total)),
    };
    if !message(there, !certain, turn.out) {
        return Step::Mistaken;
    }
    turn.recognise(Protocol::Dns);
    turn.took(bytes, total)
}

/// Reads one message into `out`; false when it is none. With `strict` it must be plausible and sound to the end.
pub(super) fn message(message: &[u8], strict: bool, out: &mut Attributes) -> bool {
    let Some(header) = Header::read(message) else { return false };
    // One question is the rule; of more (mDNS) the message must have room for them.
    if usize::from(header.questions) > (message.len() - HEADER_BYTES) / 5
        || (strict && !header.is_plausible())
        || (header.questions == 0 && header.answers == 0)
    {
        return false;
    }
    match walk(message, &header, None) {
        Extent::Nothing => return false,
        Extent::Questions if strict && !header.truncated => return false,
        Extent::Questions | Extent::Whole => {}
    }
    if out.is_full() {
        out.add_dropped(1);
        return true;
    }
    out.text(field::DNS_OPCODE, opcode(header.opcode));
    walk(message, &header, Some(out));
    true
}

/// Follows a message, into `out` if there is one.
fn walk(message: &[u8], header: &Header, mut out: Option<&mut Attributes>) -> Extent {
    let mut at = HEADER_BYTES;
    for _ in 0..header.questions {
        let Some((next, kind, class)) = question(message, at) else { return Extent::Nothing };
        // IN, CH, HS, NONE, ANY; mDNS has a flag in the highest bit.
        if !matches!(class & 0x7fff, 1 | 3 | 4 | 254 | 255) {
            return Extent::Nothing;
        }
        if let Some(out) = out.as_deref_mut() {
            if let Some(host) = name(message, at) {
                out.text(field::DNS_HOST, &host);
            }
            out.text(field::DNS_QUERY_TYPE, &record_type(kind));
        }
        at = next;
    }
    let mut code = u16::from(header.response_code);
    let sections = [header.answers, header.authorities, header.additionals];
    let extent = records(message, &mut at, sections, &mut code, out.as_deref_mut());
    if let Some(out) = out
        && header.response
    {
        out.text(field::DNS_STATUS, &response_code(code));
    }
    if extent.is_some() && at == message.len() { Extent::Whole } else { Extent::Questions }
}

/// A pointer to what follows the header (RFC 1035 section 4.1.4).
const FIRST_NAME: [u8; 2] = [0xc0, HEADER_BYTES as u8];

/// Follows the three sections of records; None when one does not fit.
fn records(
    message: &[u8],
    at: &mut usize,
    sections: [u16; 3],
    code: &mut u16,
    mut out: Option<&mut Attributes>,
) -> Option<()> {
    for (section, count) in sections.into_iter().enumerate() {
        for nth in 0..count {
            let mut reader = Reader::new(message.get(skip_name(message, *at)?..)?);
            let kind = reader.u16()?;
            let _class = reader.u16()?;
            let time_to_live = reader.u32()?;
            let data = reader.vector_u16()?;
            let end = message.len() - reader.rest().len();
            if kind == TYPE_OPT && section == 2 {
                *code |= (time_to_live >> 24 << 4) as u16;
            }
            if nth < ANSWERS_MAX
                && kind != TYPE_OPT
                && let Some(out) = out.as_deref_mut()
            {
                // Whom the record is about: announcements (mDNS) ask nothing. The first name of the message, to which most
                // owners point, was read before.
                if !message[*at..].starts_with(&FIRST_NAME)
                    && let Some(owner) = name(message, *at).filter(|owner| !owner.is_empty())
                {
                    out.text(field::DNS_HOST, &owner);
                }
                if section == 0 {
                    answer(message, kind, data, end - data.len(), out);
                }
            }
            *at = end;
        }
    }
    Some(())
}

fn answer(message: &[u8], kind: u16, data: &[u8], data_at: usize, out: &mut Attributes) {
    let (target_at, own_field) = match kind {
        TYPE_A => {
            if let Ok(octets) = <[u8; 4]>::try_from(data) {
                out.ip(field::DNS_IP, Ipv4Addr::from(octets));
            }
            return;
        }
        TYPE_AAAA => {
            if let Ok(octets) = <[u8; 16]>::try_from(data) {
                out.ip(field::DNS_IP, Ipv6Addr::from(octets));
            }
            return;
        }
        TYPE_TXT => {
            // Strings, each with its length before it; together they are one text (RFC 7208 §3.3).
            let mut reader = Reader::new(data);
            let mut text = Vec::new();
            while let Some(part) = reader.vector_u8() {
                text.extend(part);
            }
            claim(out, field::DNS_TXT, &text);
            return;
        }
        TYPE_CNAME | TYPE_DNAME => (0, Some(field::DNS_CNAME)),
        TYPE_NS => (0, Some(field::DNS_NAMESERVER)),
        TYPE_PTR => (0, None),
        // Behind the preference; behind priority, weight and port.
        TYPE_MX => (2, Some(field::DNS_MAILSERVER)),
        TYPE_SRV => (6, None),
        _ => return,
    };
    if data.len() > target_at
        && let Some(target) = name(message, data_at + target_at)
    {
        if let Some(own_field) = own_field {
            out.text(own_field, &target);
        }
        out.text(field::DNS_HOST, &target);
    }
}

/// IANA "DNS OpCodes".
fn opcode(number: u8) -> &'static str {
    match number {
        0 => "QUERY",
        1 => "IQUERY",
        2 => "STATUS",
        4 => "NOTIFY",
        5 => "UPDATE",
        6 => "DSO",
        _ => "unassigned",
    }
}

/// The question at `at`: where it ends, type, class.
fn question(message: &[u8], at: usize) -> Option<(usize, u16, u16)> {
    let end = skip_name(message, at)?;
    let mut reader = Reader::new(message.get(end..)?);
    Some((end + 4, reader.u16()?, reader.u16()?))
}
