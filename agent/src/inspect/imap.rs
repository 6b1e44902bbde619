//! IMAP: who logs in and which mailboxes are selected (RFC 9051 §6; RFC 3501).

use gnomon_flow::field;

use super::line::{after_word, line, number};
use super::protocol::Protocol;
use super::stream::{Begins, Stage, Step, Turn};
use super::{claim, claim_user, mail, ntlm};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Server,
    Client,
    /// The client's next line answers AUTHENTICATE PLAIN or NTLM.
    Plain,
    Ntlm,
}

const TAG_BYTES_MAX: usize = 32;

pub(super) fn begins(bytes: &[u8]) -> Begins {
    Begins::with_any(bytes, &[b"* OK ", b"* OK\r\n", b"* PREAUTH ", b"* BYE ", b"* CAPABILITY IMAP4"])
}

pub(super) fn stream(turn: &mut Turn<'_>, part: Part, bytes: &[u8]) -> Step {
    let line = match line(bytes) {
        Ok(line) => line,
        Err(step) => return step,
    };
    turn.recognise(Protocol::Imap);
    *turn.pass = literal(line.text).unwrap_or(0);
    match part {
        Part::Server => turn.expect(Stage::Imap(Part::Client)),
        Part::Client => *turn.stage = Stage::Imap(command(turn, line.text)),
        Part::Plain => {
            mail::plain_user(line.text, turn.out);
            *turn.stage = Stage::Imap(Part::Client);
        }
        Part::Ntlm => {
            if ntlm::base64(line.text, turn.out) != Some(ntlm::Kind::Negotiate) {
                *turn.stage = Stage::Imap(Part::Client);
            }
        }
    }
    Step::Took(line.taken)
}

fn command(turn: &mut Turn<'_>, text: &[u8]) -> Part {
    let Some(blank) = text.iter().take(TAG_BYTES_MAX).position(|byte| *byte == b' ') else {
        return Part::Client;
    };
    let command = &text[blank + 1..];
    if let Some(arguments) = after_word(command, "LOGIN") {
        if let Some((name, _)) = string(arguments) {
            claim_user(turn.out, None, &name);
        }
    } else if let Some(blob) = after_word(command, "AUTHENTICATE PLAIN") {
        if blob.is_empty() {
            return Part::Plain;
        }
        mail::plain_user(blob, turn.out);
    } else if after_word(command, "AUTHENTICATE NTLM").is_some() {
        return Part::Ntlm;
    } else if let Some(folder) = after_word(command, "SELECT").or_else(|| after_word(command, "EXAMINE"))
        && let Some((folder, _)) = string(folder)
    {
        claim(turn.out, field::EMAIL_FOLDER, &folder);
    }
    Part::Client
}

/// An atom or a quoted string (RFC 9051 §4), and what follows. A literal stands elsewhere.
fn string(text: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let Some(quoted) = text.strip_prefix(b"\"") else {
        let end = text.iter().position(|byte| *byte == b' ').unwrap_or(text.len());
        return (!text.starts_with(b"{")).then(|| (text[..end].to_vec(), &text[end..]));
    };
    let mut value = Vec::new();
    let mut bytes = quoted.iter().enumerate();
    while let Some((at, byte)) = bytes.next() {
        match byte {
            b'"' => return Some((value, &quoted[at + 1..])),
            b'\\' => value.extend(bytes.next().map(|(_, byte)| *byte)),
            other => value.push(*other),
        }
    }
    None
}

/// The length of the literal that follows a line which ends with `{42}` or `{42+}` (RFC 7888).
fn literal(text: &[u8]) -> Option<u32> {
    let text = text.strip_suffix(b"}")?;
    let text = text.strip_suffix(b"+").unwrap_or(text);
    let open = text.iter().rposition(|byte| *byte == b'{')?;
    number(&text[open + 1..])
}
