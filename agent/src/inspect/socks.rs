//! SOCKS 4, 4a and 5: where the client wants to go (the SOCKS 4 and 4A memos; RFC 1928 §3 to §6, RFC 1929 §2).
//!
//! The first bytes are few: it is SOCKS when client and server fit together. Behind it any protocol may follow.

use std::net::{Ipv4Addr, Ipv6Addr};

use gnomon_flow::field;

use super::held::Need;
use super::protocol::Protocol;
use super::reader::Reader;
use super::stream::{Begins, Stage, Step, Turn};
use super::{claim_lower, claim_user};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Request4,
    Reply4,
    /// The methods that the client offers, and the server's choice.
    Greeting,
    Choice,
    /// Name and password.
    User,
    UserReply,
    Request,
    Reply,
}

const TEXT_BYTES_MAX: usize = 255;
const METHODS_MAX: u8 = 8;
const USER_PASSWORD: u8 = 2;
const NONE_ACCEPTED: u8 = 0xff;
const GRANTED_4: u8 = 90;
const SUCCEEDED: u8 = 0;

const IPV4: u8 = 1;
const NAME: u8 = 3;
const IPV6: u8 = 4;

/// CONNECT or BIND, and nothing behind the user's (and the host's) NUL.
pub(super) fn begins4(bytes: &[u8]) -> Begins {
    let known = Begins::by_rules(bytes, &[|version| version == 4, |command| matches!(command, 1 | 2)]);
    if known != Begins::Yes {
        return known;
    }
    match request4(bytes) {
        Some(request) if request.taken == bytes.len() => Begins::Yes,
        Some(_) => Begins::No,
        None if bytes.len() < 9 + 2 * TEXT_BYTES_MAX
            && bytes.iter().skip(8).all(|byte| *byte == 0 || byte.is_ascii_graphic()) =>
        {
            Begins::Perhaps
        }
        None => Begins::No,
    }
}

/// Nothing but the methods.
pub(super) fn begins5(bytes: &[u8]) -> Begins {
    match bytes {
        [5] => Begins::Perhaps,
        [5, count, methods @ ..] if (1..=METHODS_MAX).contains(count) => {
            let known = |method: &u8| *method <= 9 || *method >= 0x80;
            match methods.len().cmp(&usize::from(*count)) {
                _ if !methods.iter().all(known) => Begins::No,
                std::cmp::Ordering::Less => Begins::Perhaps,
                std::cmp::Ordering::Equal => Begins::Yes,
                std::cmp::Ordering::Greater => Begins::No,
            }
        }
        _ => Begins::No,
    }
}

struct Request4<'a> {
    port: u16,
    address: [u8; 4],
    user: &'a [u8],
    host: Option<&'a [u8]>,
    taken: usize,
}

fn request4(bytes: &[u8]) -> Option<Request4<'_>> {
    let mut reader = Reader::new(bytes);
    reader.take(2)?;
    let port = reader.u16()?;
    let address: [u8; 4] = reader.take(4)?.try_into().ok()?;
    let user = reader.until_nul().filter(|user| user.len() <= TEXT_BYTES_MAX)?;
    // 4a: an address that cannot be says that a name follows.
    let host = match address {
        [0, 0, 0, last] if last != 0 => Some(reader.until_nul().filter(|host| host.len() <= TEXT_BYTES_MAX)?),
        _ => None,
    };
    Some(Request4 { port, address, user, host, taken: bytes.len() - reader.rest().len() })
}

pub(super) fn stream(turn: &mut Turn<'_>, part: Part, bytes: &[u8]) -> Step {
    let more = Step::Need(Need::Bytes(bytes.len() + 1));
    match part {
        Part::Request4 => {
            let Some(request) = request4(bytes) else { return more };
            turn.expect(Stage::Socks(Part::Reply4));
            turn.recognise(Protocol::Socks);
            claim_user(turn.out, Some(field::SOCKS_USER), request.user);
            match request.host {
                Some(host) => claim_lower(turn.out, field::SOCKS_HOST, host),
                None => {
                    turn.out.ip(field::SOCKS_IP, Ipv4Addr::from(request.address));
                }
            }
            turn.out.integer(field::SOCKS_PORT, request.port);
            *turn.stage = Stage::Unknown;
            Step::Took(request.taken)
        }
        Part::Reply4 => match bytes {
            [0, GRANTED_4, _, _, _, _, _, _, ..] => Step::Anew(8),
            [0, ..] if bytes.len() < 8 => more,
            _ => Step::Finished,
        },
        Part::Greeting => {
            let taken = 2 + usize::from(bytes.get(1).copied().unwrap_or_default());
            if bytes.len() < taken {
                return more;
            }
            turn.expect(Stage::Socks(Part::Choice));
            // What comes next depends on the server's choice: until it comes this is a guess.
            *turn.stage = Stage::Socks(Part::Request);
            Step::Took(taken)
        }
        Part::Choice => match bytes {
            [5] => more,
            [5, NONE_ACCEPTED, ..] => {
                turn.recognise(Protocol::Socks);
                *turn.other = Stage::Done;
                Step::Finished
            }
            [5, method @ (0..=9 | 0x80..), ..] => {
                turn.recognise(Protocol::Socks);
                let asks_user = *method == USER_PASSWORD;
                if matches!(turn.other, Stage::Socks(Part::Request)) {
                    *turn.other = Stage::Socks(if asks_user { Part::User } else { Part::Request });
                }
                *turn.stage = Stage::Socks(if asks_user { Part::UserReply } else { Part::Reply });
                Step::Took(2)
            }
            _ => Step::Mistaken,
        },
        Part::User => match user(bytes) {
            Ok(Some((name, taken))) => {
                claim_user(turn.out, Some(field::SOCKS_USER), name);
                *turn.stage = Stage::Socks(Part::Request);
                Step::Took(taken)
            }
            Ok(None) => more,
            Err(()) => Step::Finished,
        },
        Part::UserReply => match bytes {
            [_] => more,
            [_, SUCCEEDED, ..] => {
                *turn.stage = Stage::Socks(Part::Reply);
                Step::Took(2)
            }
            _ => Step::Finished,
        },
        Part::Request | Part::Reply => address(turn, part, bytes),
    }
}

/// The name and how many bytes the message takes; `Ok(None)` when it is not whole.
fn user(bytes: &[u8]) -> Result<Option<(&[u8], usize)>, ()> {
    if bytes.first() != Some(&1) {
        return Err(());
    }
    let mut reader = Reader::new(&bytes[1..]);
    let Some(name) = reader.vector_u8() else { return Ok(None) };
    let Some(_password) = reader.vector_u8() else { return Ok(None) };
    Ok(Some((name, bytes.len() - reader.rest().len())))
}

/// A request or a reply: both carry an address of one of three kinds.
fn address(turn: &mut Turn<'_>, part: Part, bytes: &[u8]) -> Step {
    let is_request = part == Part::Request;
    if is_request && *turn.protocol != Protocol::Socks {
        // No choice of the server was seen: these bytes may be anything.
        return Step::Mistaken;
    }
    let mut reader = Reader::new(bytes);
    let mut parts = || -> Option<(u8, u8, u8, &[u8], u16)> {
        let (version, command, _reserved, kind) = (reader.u8()?, reader.u8()?, reader.u8()?, reader.u8()?);
        let host = match kind {
            IPV4 => reader.take(4)?,
            IPV6 => reader.take(16)?,
            NAME => reader.vector_u8()?,
            _ => &[],
        };
        Some((version, command, kind, host, reader.u16()?))
    };
    if bytes[0] != 5 {
        return Step::Finished;
    }
    let Some((_, command, kind, host, port)) = parts() else {
        return Step::Need(Need::Bytes(bytes.len() + 1));
    };
    let taken = bytes.len() - reader.rest().len();
    if !is_request {
        // Data follow in both directions, or nothing.
        return if command == SUCCEEDED { Step::Anew(taken) } else { Step::Finished };
    }
    match (kind, host) {
        (IPV4, [a, b, c, d]) => {
            turn.out.ip(field::SOCKS_IP, Ipv4Addr::new(*a, *b, *c, *d));
        }
        (IPV6, _) => {
            if let Ok(octets) = <[u8; 16]>::try_from(host) {
                turn.out.ip(field::SOCKS_IP, Ipv6Addr::from(octets));
            }
        }
        (NAME, _) => claim_lower(turn.out, field::SOCKS_HOST, host),
        _ => return Step::Finished,
    }
    turn.out.integer(field::SOCKS_PORT, port);
    *turn.stage = Stage::Unknown;
    Step::Took(taken)
}
