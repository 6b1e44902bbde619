//! IRC: nicknames and channels (RFC 2812 §2.3 and §3).

use gnomon_flow::field;

use super::claim;
use super::line::{line, words};
use super::protocol::Protocol;
use super::stream::{Begins, Stage, Step, Turn};

const CHANNELS_MAX: usize = 16;

/// A client begins with its capabilities, or with NICK and a name of one word; a server with a notice.
pub(super) fn begins(bytes: &[u8]) -> Begins {
    let known = Begins::with_any(bytes, &[b"CAP LS", b"NOTICE AUTH ", b"NOTICE * :"]);
    if known != Begins::No {
        return known;
    }
    let is_from_server = bytes.starts_with(b":");
    let nick = Begins::with(bytes, b"NICK ");
    if !is_from_server && nick != Begins::Yes {
        return nick;
    }
    let Some(end) = bytes.iter().take(512).position(|byte| *byte == b'\n') else {
        // Lines are text.
        let is_text = bytes.iter().all(|byte| *byte >= b' ' || matches!(byte, b'\r' | b'\t'));
        return if bytes.len() < 512 && is_text { Begins::Perhaps } else { Begins::No };
    };
    let mut words = words(&bytes[..end]).skip(1);
    let (second, third) = (words.next(), words.next());
    let fits = if is_from_server {
        matches!(second, Some(b"NOTICE" | b"NICK" | b"001" | b"020" | b"451")) && third.is_some()
    } else {
        second.is_some() && third.is_none()
    };
    if fits { Begins::Yes } else { Begins::No }
}

pub(super) fn stream(turn: &mut Turn<'_>, bytes: &[u8]) -> Step {
    let line = match line(bytes) {
        Ok(line) => line,
        Err(step) => return step,
    };
    turn.recognise(Protocol::Irc);
    turn.expect(Stage::Irc);
    let mut words = words(line.text);
    let mut command = words.next().unwrap_or_default();
    if command.starts_with(b":") {
        command = words.next().unwrap_or_default();
    }
    let argument = words.next().unwrap_or_default();
    let argument = argument.strip_prefix(b":").unwrap_or(argument);
    if command.eq_ignore_ascii_case(b"NICK") {
        claim(turn.out, field::IRC_NICK, argument);
    } else if command.eq_ignore_ascii_case(b"JOIN") {
        for channel in argument.split(|byte| *byte == b',').take(CHANNELS_MAX) {
            claim(turn.out, field::IRC_CHANNEL, channel);
        }
    }
    Step::Took(line.taken)
}
