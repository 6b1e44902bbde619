//! MySQL and MariaDB: the server's greeting, the client's login ("Connection Phase Packets" of the protocol's
//! documentation: HandshakeV10, HandshakeResponse41 and 320, SSLRequest).

use gnomon_flow::field;

use super::held::Need;
use super::protocol::Protocol;
use super::reader::Reader;
use super::stream::{Begins, Stage, Step, Turn};
use super::{claim, claim_user};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Greeting,
    Login,
}

const HEADER_BYTES: usize = 4;
const GREETING_BYTES: std::ops::RangeInclusive<usize> = 24..=1024;
const LOGIN_BYTES_MAX: usize = 8192;
const PROTOCOL_10: u8 = 10;

const CONNECT_WITH_DB: u32 = 1 << 3;
const PROTOCOL_41: u32 = 1 << 9;
const SSL: u32 = 1 << 11;
const SECURE_CONNECTION: u32 = 1 << 15;
const PLUGIN_AUTH_LENENC: u32 = 1 << 21;
const SSL_REQUEST_BYTES: usize = 32;

/// A packet of a greeting's length with number 0, protocol 10 and a version that begins with a digit.
pub(super) fn begins(bytes: &[u8]) -> Begins {
    let known = Begins::by_rules(
        bytes,
        &[
            |_| true,
            |length| length <= 4,
            |length| length == 0,
            |number| number == 0,
            |protocol| protocol == PROTOCOL_10,
            |version| version.is_ascii_digit(),
        ],
    );
    match bytes.first_chunk::<3>() {
        Some([low, middle, high]) => {
            let length = u32::from_le_bytes([*low, *middle, *high, 0]) as usize;
            if GREETING_BYTES.contains(&length) { known } else { Begins::No }
        }
        None => known,
    }
}

pub(super) fn stream(turn: &mut Turn<'_>, part: Part, bytes: &[u8]) -> Step {
    let Some([low, middle, high, _number]) = bytes.first_chunk::<HEADER_BYTES>() else {
        return Step::Need(Need::Bytes(HEADER_BYTES));
    };
    let length = u32::from_le_bytes([*low, *middle, *high, 0]) as usize;
    if length > LOGIN_BYTES_MAX {
        return Step::Finished;
    }
    let Some(payload) = bytes.get(HEADER_BYTES..HEADER_BYTES + length) else {
        return Step::Need(Need::Bytes(HEADER_BYTES + length));
    };
    match part {
        Part::Greeting => match greeting(turn, payload) {
            Some(()) => {
                turn.recognise(Protocol::Mysql);
                turn.expect(Stage::Mysql(Part::Login));
                Step::Finished
            }
            None => Step::Mistaken,
        },
        Part::Login => login(turn, payload, HEADER_BYTES + length).unwrap_or(Step::Finished),
    }
}

fn greeting(turn: &mut Turn<'_>, payload: &[u8]) -> Option<()> {
    let mut reader = Reader::new(payload);
    let _protocol = reader.u8()?;
    let version = reader.until_nul()?;
    let _thread = reader.u32()?;
    let _salt = reader.take(8)?;
    if reader.u8()? != 0 || !version.iter().all(u8::is_ascii_graphic) || version.is_empty() {
        return None;
    }
    claim(turn.out, field::MYSQL_VERSION, version);
    Some(())
}

fn login(turn: &mut Turn<'_>, payload: &[u8], taken: usize) -> Option<Step> {
    let mut reader = Reader::new(payload);
    let low = u32::from(reader.u16_le()?);
    if low & PROTOCOL_41 == 0 {
        reader.take(3)?;
        let user = reader.until_nul().unwrap_or(reader.rest());
        claim_user(turn.out, Some(field::MYSQL_USER), user);
        return Some(Step::Finished);
    }
    let flags = low | u32::from(reader.u16_le()?) << 16;
    if flags & SSL != 0 && payload.len() == SSL_REQUEST_BYTES {
        return Some(Step::Anew(taken));
    }
    // Packet size, charset, filler.
    reader.take(4 + 1 + 23)?;
    let user = reader.until_nul()?;
    claim_user(turn.out, Some(field::MYSQL_USER), user);
    if flags & (SECURE_CONNECTION | PLUGIN_AUTH_LENENC) != 0 {
        // Longer answers than 250 bytes would have another form of length; nobody sends them here.
        reader.vector_u8()?;
    } else {
        reader.until_nul()?;
    }
    if flags & CONNECT_WITH_DB != 0 {
        claim(turn.out, field::MYSQL_DATABASE, reader.until_nul()?);
    }
    Some(Step::Finished)
}
