//! PostgreSQL: the startup message, which may wait for TLS ("Frontend/Backend Protocol", message formats).

use gnomon_flow::field;

use super::held::Need;
use super::protocol::Protocol;
use super::reader::Reader;
use super::stream::{Begins, Stage, Step, Turn};
use super::{claim, claim_user};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Startup,
    /// The server's one byte about encryption.
    Answer,
}

const PROTOCOL_3: u32 = 3 << 16;
const CANCEL_REQUEST: u32 = 80_877_102;
const SSL_REQUEST: u32 = 80_877_103;
const GSS_REQUEST: u32 = 80_877_104;
const STARTUP_BYTES_MAX: u32 = 10_000;
const PARAMETERS_MAX: usize = 32;

/// A length below 10,000 (the server's own limit), then version 3.x or one of three requests.
pub(super) fn begins(bytes: &[u8]) -> Begins {
    let mut reader = Reader::new(bytes);
    let (Some(length), Some(code)) = (reader.u32(), reader.u32()) else {
        let fits = match bytes.first_chunk::<4>() {
            Some(length) => (8..=STARTUP_BYTES_MAX).contains(&u32::from_be_bytes(*length)),
            None => bytes.iter().take(2).all(|byte| *byte == 0),
        };
        return if fits { Begins::Perhaps } else { Begins::No };
    };
    let fits = match code {
        CANCEL_REQUEST => length == 16,
        SSL_REQUEST | GSS_REQUEST => length == 8,
        _ => {
            code >> 16 == PROTOCOL_3 >> 16 && code & 0xffff <= 2 && (9..=STARTUP_BYTES_MAX).contains(&length)
        }
    };
    if fits { Begins::Yes } else { Begins::No }
}

pub(super) fn stream(turn: &mut Turn<'_>, part: Part, bytes: &[u8]) -> Step {
    if part == Part::Answer {
        return match bytes[0] {
            // TLS begins on both sides, or an encryption that tells nothing.
            b'S' => Step::Anew(1),
            b'N' => Step::Took(1),
            _ => Step::Finished,
        };
    }
    let mut reader = Reader::new(bytes);
    let (Some(length), Some(code)) = (reader.u32(), reader.u32()) else { return Step::Need(Need::Bytes(8)) };
    if begins(bytes) != Begins::Yes {
        return if *turn.protocol == Protocol::Postgresql { Step::Finished } else { Step::Mistaken };
    }
    match code {
        SSL_REQUEST | GSS_REQUEST => {
            turn.recognise(Protocol::Postgresql);
            turn.expect(Stage::Postgresql(Part::Answer));
            return Step::Took(8);
        }
        CANCEL_REQUEST => {
            turn.recognise(Protocol::Postgresql);
            return Step::Finished;
        }
        _ => {}
    }
    let Some(message) = bytes.get(8..length as usize) else {
        return Step::Need(Need::Bytes(length as usize));
    };
    // Names and values in turn, up to an empty name.
    let mut reader = Reader::new(message);
    let mut known = false;
    for _ in 0..PARAMETERS_MAX {
        let Some(name) = reader.until_nul().filter(|name| !name.is_empty()) else { break };
        let Some(value) = reader.until_nul() else { break };
        match name {
            b"user" => claim_user(turn.out, Some(field::POSTGRESQL_USER), value),
            b"database" => claim(turn.out, field::POSTGRESQL_DATABASE, value),
            b"application_name" => claim(turn.out, field::POSTGRESQL_APPLICATION, value),
            _ => continue,
        }
        known = true;
    }
    if !known {
        return Step::Mistaken;
    }
    turn.recognise(Protocol::Postgresql);
    *turn.other = Stage::Done;
    Step::Finished
}
