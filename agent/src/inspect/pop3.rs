//! POP3: who logs in (RFC 1939 §7, RFC 5034 for AUTH, RFC 2595 for STLS).

use super::line::{after_word, line};
use super::protocol::Protocol;
use super::stream::{Begins, Stage, Step, Turn};
use super::{claim_user, from_base64, mail, ntlm};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Server,
    Client,
    /// The client's next line answers AUTH PLAIN, AUTH LOGIN (the name), or AUTH NTLM.
    Plain,
    Login,
    Ntlm,
    /// A password comes, and is nobody's business.
    Password,
}

pub(super) fn begins_server(bytes: &[u8]) -> Begins {
    // A bare +OK is Redis' answer more often than a POP3 server's first word.
    Begins::with(bytes, b"+OK ")
}

/// Commands that no other protocol begins with; a USER command alone might be FTP's.
pub(super) fn begins_client(bytes: &[u8]) -> Begins {
    Begins::with_any(bytes, &[b"CAPA\r\n", b"STLS\r\n", b"APOP "])
}

pub(super) fn stream(turn: &mut Turn<'_>, part: Part, bytes: &[u8]) -> Step {
    let line = match line(bytes) {
        Ok(line) => line,
        Err(step) => return step,
    };
    turn.recognise(Protocol::Pop3);
    let mut next = Part::Client;
    match part {
        Part::Server => {
            turn.expect(Stage::Pop3(Part::Client));
            if line.text.starts_with(b"-ERR") && matches!(turn.other, Stage::Pop3(_)) {
                *turn.other = Stage::Pop3(Part::Client);
            }
            next = Part::Server;
        }
        Part::Client => {
            turn.expect(Stage::Pop3(Part::Server));
            if let Some(name) = after_word(line.text, "USER") {
                claim_user(turn.out, None, name);
            } else if let Some(name) = after_word(line.text, "APOP") {
                // The digest stands behind the name.
                let name = name.split(|byte| *byte == b' ').next().unwrap_or_default();
                claim_user(turn.out, None, name);
            } else if let Some(blob) = after_word(line.text, "AUTH PLAIN") {
                next = if blob.is_empty() { Part::Plain } else { Part::Client };
                mail::plain_user(blob, turn.out);
            } else if after_word(line.text, "AUTH LOGIN").is_some() {
                next = Part::Login;
            } else if after_word(line.text, "AUTH NTLM").is_some() {
                next = Part::Ntlm;
            }
        }
        Part::Plain => mail::plain_user(line.text, turn.out),
        Part::Login => {
            claim_user(turn.out, None, &from_base64(line.text).unwrap_or_default());
            next = Part::Password;
        }
        Part::Ntlm => {
            if ntlm::base64(line.text, turn.out) == Some(ntlm::Kind::Negotiate) {
                next = Part::Ntlm;
            }
        }
        Part::Password => {}
    }
    *turn.stage = Stage::Pop3(next);
    Step::Took(line.taken)
}
