//! FTP's control connection: commands, users, files, reply codes (RFC 959 §4 and §5; RFC 4217 for TLS).

use gnomon_flow::field;

use super::line::{line, number};
use super::protocol::Protocol;
use super::stream::{Step, Turn};
use super::{claim, claim_user, claimed_text};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Client,
    Server,
}

/// Commands whose argument is a file.
const WITH_FILE: [&[u8]; 10] =
    [b"RETR", b"STOR", b"STOU", b"APPE", b"DELE", b"RNFR", b"RNTO", b"SIZE", b"MDTM", b"XCRC"];
const COMMAND_BYTES: std::ops::RangeInclusive<usize> = 3..=4;
const READY: u32 = 220;

pub(super) fn stream(turn: &mut Turn<'_>, part: Part, bytes: &[u8]) -> Step {
    let line = match line(bytes) {
        Ok(line) => line,
        Err(step) => return step,
    };
    turn.recognise(Protocol::Ftp);
    match part {
        Part::Client => command(turn, line.text),
        Part::Server => reply(turn, line.text),
    }
    Step::Took(line.taken)
}

fn command(turn: &mut Turn<'_>, text: &[u8]) {
    let (word, argument) = match text.iter().position(|byte| *byte == b' ') {
        Some(blank) => (&text[..blank], text[blank + 1..].trim_ascii()),
        None => (text, &[][..]),
    };
    if !COMMAND_BYTES.contains(&word.len()) || !word.iter().all(u8::is_ascii_alphabetic) {
        return;
    }
    let word = word.to_ascii_uppercase();
    turn.out.text(field::FTP_COMMAND, &claimed_text(&word));
    if word == b"USER" {
        claim_user(turn.out, None, argument);
    } else if WITH_FILE.contains(&word.as_slice()) {
        claim(turn.out, field::FTP_FILENAME, argument);
    }
}

/// Lines inside a reply of several lines need not have a code.
fn reply(turn: &mut Turn<'_>, text: &[u8]) {
    let Some((code, [b' ' | b'-', message @ ..])) = text.split_at_checked(3) else { return };
    let Some(code) = number(code).filter(|code| (100..660).contains(code)) else { return };
    turn.out.integer(field::FTP_CODE, code);
    if code == READY {
        claim(turn.out, field::FTP_BANNER, message.trim_ascii());
    }
}
