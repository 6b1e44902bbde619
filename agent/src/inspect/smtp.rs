//! SMTP and LMTP: the envelope, the message's headers, who logs in (RFC 5321 §3 and §4, RFC 4954, RFC 3030, RFC 3207).

use gnomon_flow::field;

use super::line::{HeaderField, LINE_BYTES_MAX, after_word, header_field, line, number, words};
use super::protocol::Protocol;
use super::stream::{Begins, Stage, Step, Turn};
use super::{claim_lower, claim_user, from_base64, mail, ntlm};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Server,
    Command,
    /// The client's next line answers AUTH PLAIN, AUTH LOGIN (the name), or AUTH NTLM.
    Plain,
    Login,
    Ntlm,
    /// A password comes, and is nobody's business.
    Password,
    /// Header fields of the message, which may say that it has parts.
    Header {
        multipart: bool,
    },
    /// At the beginning of a line of the body.
    Body {
        multipart: bool,
    },
    /// Inside a line that is too long to be looked at.
    BodyLine {
        multipart: bool,
    },
}

pub(super) fn begins(bytes: &[u8]) -> Begins {
    let mut begins = Begins::No;
    for command in [&b"EHLO "[..], b"HELO ", b"LHLO ", b"MAIL FROM:", b"RCPT TO:"] {
        match Begins::with_letters(bytes, command) {
            Begins::Yes => return Begins::Yes,
            Begins::Perhaps => begins = Begins::Perhaps,
            Begins::No => {}
        }
    }
    begins
}

pub(super) fn stream(turn: &mut Turn<'_>, part: Part, bytes: &[u8]) -> Step {
    match part {
        Part::Header { multipart } => return header(turn, multipart, bytes),
        Part::Body { multipart } => return body(turn, multipart, bytes),
        Part::BodyLine { multipart } => {
            let Some(end) = bytes.iter().position(|byte| *byte == b'\n') else {
                return Step::Took(bytes.len());
            };
            *turn.stage = Stage::Smtp(Part::Body { multipart });
            return Step::Took(end + 1);
        }
        _ => {}
    }
    let line = match line(bytes) {
        Ok(line) => line,
        Err(step) => return step,
    };
    let next = match part {
        Part::Server => {
            reply(turn, line.text);
            Part::Server
        }
        Part::Plain => {
            mail::plain_user(line.text, turn.out);
            Part::Command
        }
        Part::Login => {
            claim_user(turn.out, None, &from_base64(line.text).unwrap_or_default());
            Part::Password
        }
        Part::Ntlm => match ntlm::base64(line.text, turn.out) {
            Some(ntlm::Kind::Negotiate) => Part::Ntlm,
            _ => Part::Command,
        },
        Part::Password => Part::Command,
        _ => command(turn, line.text),
    };
    *turn.stage = Stage::Smtp(next);
    Step::Took(line.taken)
}

fn reply(turn: &mut Turn<'_>, text: &[u8]) {
    turn.recognise(Protocol::Smtp);
    turn.expect(Stage::Smtp(Part::Command));
    // What was refused is not continued: neither a login nor a message that has not begun.
    if matches!(text.first(), Some(b'4' | b'5'))
        && let Stage::Smtp(part) = turn.other
        && !matches!(part, Part::Server | Part::Body { .. } | Part::BodyLine { .. })
    {
        *part = Part::Command;
    }
}

fn command(turn: &mut Turn<'_>, text: &[u8]) -> Part {
    turn.recognise(Protocol::Smtp);
    turn.expect(Stage::Smtp(Part::Server));
    let path = |command: &str| {
        let (head, path) = text.split_at_checked(command.len())?;
        head.eq_ignore_ascii_case(command.as_bytes()).then(|| path.trim_ascii())
    };
    if let Some(path) = path("MAIL FROM:") {
        claim_lower(turn.out, field::EMAIL_SRC, of_path(path));
    } else if let Some(path) = path("RCPT TO:") {
        claim_lower(turn.out, field::EMAIL_DST, of_path(path));
    } else if let Some(name) = ["EHLO", "HELO", "LHLO"].iter().find_map(|command| after_word(text, command)) {
        claim_lower(turn.out, field::EMAIL_HELLO, name);
    } else if text.eq_ignore_ascii_case(b"DATA") {
        return Part::Header { multipart: false };
    } else if let Some(arguments) = after_word(text, "BDAT") {
        *turn.pass = words(arguments).next().and_then(number).unwrap_or(0);
    } else if let Some(arguments) = after_word(text, "AUTH") {
        return authentication(turn, arguments);
    }
    Part::Command
}

fn authentication(turn: &mut Turn<'_>, arguments: &[u8]) -> Part {
    let mut words = words(arguments);
    let mechanism = words.next().unwrap_or_default();
    let initial = words.next();
    let is = |name: &str| mechanism.eq_ignore_ascii_case(name.as_bytes());
    match initial {
        None if is("PLAIN") => return Part::Plain,
        None if is("LOGIN") => return Part::Login,
        None if is("NTLM") => return Part::Ntlm,
        Some(blob) if is("PLAIN") => mail::plain_user(blob, turn.out),
        Some(blob) if is("LOGIN") => {
            claim_user(turn.out, None, &from_base64(blob).unwrap_or_default());
            return Part::Password;
        }
        Some(blob) if is("NTLM") => {
            ntlm::base64(blob, turn.out);
            return Part::Ntlm;
        }
        _ => {}
    }
    Part::Command
}

/// The mailbox of a path; without brackets, which many leave out, what stands before the parameters.
fn of_path(path: &[u8]) -> &[u8] {
    if path.contains(&b'<') { mail::address(path) } else { words(path).next().unwrap_or_default() }
}

fn header(turn: &mut Turn<'_>, mut multipart: bool, bytes: &[u8]) -> Step {
    // A message may be without a header, and without a body.
    if let Some(step) = end_of_message(turn, bytes) {
        return step;
    }
    let (field, taken) = match header_field(bytes) {
        Ok(found) => found,
        Err(step) => return step,
    };
    *turn.stage = Stage::Smtp(match field {
        HeaderField::Field { name, value } => {
            multipart |= mail::header(name, value, turn.out);
            Part::Header { multipart }
        }
        HeaderField::Other => Part::Header { multipart },
        HeaderField::End => Part::Body { multipart },
    });
    Step::Took(taken)
}

fn body(turn: &mut Turn<'_>, multipart: bool, bytes: &[u8]) -> Step {
    if let Some(step) = end_of_message(turn, bytes) {
        return step;
    }
    let Ok(found) = line(bytes) else {
        if bytes.len() < LINE_BYTES_MAX {
            return Step::Need(super::held::Need::Line);
        }
        *turn.stage = Stage::Smtp(Part::BodyLine { multipart });
        return Step::Took(LINE_BYTES_MAX);
    };
    // The headers of a message's parts, which name its files.
    if multipart && found.text.len() > 8 && found.text[..8].eq_ignore_ascii_case(b"content-") {
        let (field, taken) = match header_field(bytes) {
            Ok(found) => found,
            Err(step) => return step,
        };
        if let HeaderField::Field { name, value } = field {
            mail::header(name, value, turn.out);
        }
        return Step::Took(taken);
    }
    Step::Took(found.taken)
}

/// A line with a dot and nothing else ends a message (RFC 5321 §4.1.1.4).
fn end_of_message(turn: &mut Turn<'_>, bytes: &[u8]) -> Option<Step> {
    let taken = match bytes {
        [b'.', b'\r', b'\n', ..] => 3,
        [b'.', b'\n', ..] => 2,
        _ => return None,
    };
    *turn.stage = Stage::Smtp(Part::Command);
    Some(Step::Took(taken))
}
