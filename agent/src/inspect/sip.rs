//! SIP over UDP and TCP: who calls whom, and what becomes of it (RFC 3261 §7, §19.1 and §20).

use gnomon_flow::{Attributes, field};

use super::held::Need;
use super::http::parameter;
use super::line::number;
use super::protocol::Protocol;
use super::stream::{Begins, Stage, Step, Turn};
use super::{claim, claim_user};

const VERSION: &[u8] = b"SIP/2.0";
/// RFC 3261 and its extensions (IANA "SIP Methods").
const METHODS: [&[u8]; 14] = [
    b"INVITE ",
    b"ACK ",
    b"BYE ",
    b"CANCEL ",
    b"REGISTER ",
    b"OPTIONS ",
    b"SUBSCRIBE ",
    b"NOTIFY ",
    b"MESSAGE ",
    b"INFO ",
    b"PRACK ",
    b"UPDATE ",
    b"PUBLISH ",
    b"REFER ",
];
const SCHEMES: [&[u8]; 3] = [b"sip:", b"sips:", b"tel:"];
const HEADERS_MAX: usize = 64;

/// A response, or a method and an address: HTTP and RTSP share some of the methods.
pub(super) fn begins(bytes: &[u8]) -> Begins {
    let mut begins = Begins::with(bytes, b"SIP/2.0 ");
    for method in METHODS {
        match Begins::with(bytes, method) {
            Begins::Yes => return Begins::with_any(&bytes[method.len()..], &SCHEMES),
            Begins::Perhaps => begins = Begins::Perhaps,
            Begins::No => {}
        }
    }
    begins
}

pub(super) fn datagram(bytes: &[u8], out: &mut Attributes) -> bool {
    begins(bytes) == Begins::Yes && head(bytes, true, out).is_some()
}

pub(super) fn stream(turn: &mut Turn<'_>, bytes: &[u8]) -> Step {
    // Clients keep connections alive with empty lines (RFC 5626 §3.5.1).
    let blank = bytes.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
    if blank > 0 {
        return Step::Took(blank);
    }
    if bytes.len() >= 16 && begins(bytes) != Begins::Yes {
        return if *turn.protocol == Protocol::Sip { Step::Finished } else { Step::Mistaken };
    }
    let whole = bytes.windows(4).any(|end| end == b"\r\n\r\n");
    if !whole && !turn.full {
        return Step::Need(Need::Line);
    }
    let Some((taken, body_bytes)) = head(bytes, turn.full, turn.out) else { return Step::Mistaken };
    turn.recognise(Protocol::Sip);
    turn.expect(Stage::Sip);
    *turn.pass = body_bytes;
    Step::Took(taken)
}

/// Reads a head: its bytes, and those of the body that it announces.
fn head(bytes: &[u8], may_be_cut: bool, out: &mut Attributes) -> Option<(usize, u32)> {
    let end = match bytes.windows(4).position(|end| end == b"\r\n\r\n") {
        Some(end) => end + 4,
        None if may_be_cut => bytes.len(),
        None => return None,
    };
    let mut lines =
        bytes[..end].split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    first_line(lines.next()?, out)?;
    let mut body_bytes = 0;
    for line in lines.take(HEADERS_MAX) {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
        let (name, value) = (line[..colon].trim_ascii(), line[colon + 1..].trim_ascii());
        let is = |names: [&str; 2]| names.iter().any(|other| name.eq_ignore_ascii_case(other.as_bytes()));
        if is(["from", "f"]) {
            claim(out, field::SIP_FROM, value);
        } else if is(["to", "t"]) {
            claim(out, field::SIP_TO, value);
        } else if is(["call-id", "i"]) {
            claim(out, field::SIP_CALL_ID, value);
        } else if is(["user-agent", "server"]) {
            claim(out, field::SIP_USER_AGENT, value);
        } else if is(["authorization", "proxy-authorization"]) {
            let parameters = value.iter().position(|byte| *byte == b' ').map_or(value, |at| &value[at..]);
            if let Some(user) = parameter(parameters, b"username") {
                claim_user(out, Some(field::SIP_USER), user);
            }
        } else if is(["content-length", "l"]) {
            body_bytes = number(value).unwrap_or(0);
        }
    }
    Some((end, body_bytes))
}

fn first_line(line: &[u8], out: &mut Attributes) -> Option<()> {
    if let Some(status) = line.strip_prefix(VERSION) {
        let status = number(status.get(1..4)?).filter(|status| (100..700).contains(status))?;
        out.integer(field::SIP_STATUS, status);
        return Some(());
    }
    let target = line.strip_suffix(VERSION)?.trim_ascii();
    let blank = target.iter().position(|byte| *byte == b' ')?;
    claim(out, field::SIP_METHOD, &target[..blank]);
    let target = target[blank + 1..].trim_ascii();
    let colon = target.iter().position(|byte| *byte == b':')?;
    if let Some(at) = target.iter().position(|byte| *byte == b'@') {
        // A password may stand behind the name.
        let user = target.get(colon + 1..at)?.split(|byte| *byte == b':').next()?;
        claim(out, field::SIP_USER, user);
    }
    Some(())
}
