//! Servers that greet with 220: SMTP (RFC 5321 §4.2) and FTP (RFC 959 §4.2). Where the greeting does not say which,
//! the client's first command does.

use gnomon_flow::field;

use super::line::line;
use super::stream::{Begins, Memory, Stage, Step, Turn};
use super::{claim, claimed_text, ftp, smtp};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Server,
    Client,
}

pub(super) fn begins(bytes: &[u8]) -> Begins {
    Begins::with_any(bytes, &[b"220 ", b"220-"])
}

pub(super) fn stream(turn: &mut Turn<'_>, part: Part, bytes: &[u8]) -> Step {
    let line = match line(bytes) {
        Ok(line) => line,
        Err(step) => return step,
    };
    if part == Part::Client {
        let word = line.text.split(|byte| *byte == b' ').next().unwrap_or_default();
        let is = |words: &[&str]| words.iter().any(|other| word.eq_ignore_ascii_case(other.as_bytes()));
        if is(&["EHLO", "HELO", "LHLO", "MAIL", "STARTTLS", "XCLIENT", "NOOP", "RSET"]) {
            *turn.stage = Stage::Smtp(smtp::Part::Command);
            turn.expect(Stage::Smtp(smtp::Part::Server));
            return smtp::stream(turn, smtp::Part::Command, bytes);
        }
        if is(&["USER", "AUTH", "FEAT", "OPTS", "HOST", "CLNT", "SYST", "PBSZ", "PASS"]) {
            *turn.stage = Stage::Ftp(ftp::Part::Client);
            turn.expect(Stage::Ftp(ftp::Part::Server));
            if let Memory::Greeting(banner) = std::mem::take(turn.memory) {
                claim(turn.out, field::FTP_BANNER, banner.as_bytes());
            }
            return ftp::stream(turn, ftp::Part::Client, bytes);
        }
        return Step::Mistaken;
    }
    let says = |word: &[u8]| line.text.windows(word.len()).any(|part| part.eq_ignore_ascii_case(word));
    if says(b"SMTP") || says(b"LMTP") {
        *turn.stage = Stage::Smtp(smtp::Part::Server);
        turn.expect(Stage::Smtp(smtp::Part::Command));
        return smtp::stream(turn, smtp::Part::Server, bytes);
    }
    if says(b"FTP") {
        *turn.stage = Stage::Ftp(ftp::Part::Server);
        turn.expect(Stage::Ftp(ftp::Part::Client));
        return ftp::stream(turn, ftp::Part::Server, bytes);
    }
    // Other protocols answer so too; the client tells.
    if let Memory::Nothing = turn.memory {
        let banner = line.text.get(4..).unwrap_or_default().trim_ascii();
        turn.memory.set(Memory::Greeting(claimed_text(banner).into()));
    }
    if *turn.other == Stage::Unknown {
        *turn.other = Stage::Greeting(Part::Client);
    }
    Step::Took(line.taken)
}
