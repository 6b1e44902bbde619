//! RDP's first exchange: the user named in the cookie, and the security protocols ([MS-RDPBCGR] §2.2.1.1 and §2.2.1.2;
//! TPKT: RFC 1006 §6; X.224 §13.3 and §13.4). TLS follows in the same stream where it was chosen.

use gnomon_flow::{FieldId, field};

use super::claim_user;
use super::held::Need;
use super::protocol::Protocol;
use super::reader::Reader;
use super::stream::{Begins, Stage, Step, Turn};

const TPKT_BYTES: usize = 4;
const CONNECTION_REQUEST: u8 = 0xe0;
const CONNECTION_CONFIRM: u8 = 0xd0;
/// TPKT, length indicator, code, two references, class.
const HEADER_BYTES: usize = TPKT_BYTES + 7;
const MESSAGE_BYTES_MAX: usize = 512;

const COOKIE: &[u8] = b"Cookie: ";
const USER: &[u8] = b"Cookie: mstshash=";

const NEGOTIATION_REQUEST: u8 = 1;
const NEGOTIATION_RESPONSE: u8 = 2;
const NEGOTIATION_FAILURE: u8 = 3;

const PROTOCOLS: [(u32, &str); 4] = [(1, "ssl"), (2, "nla"), (4, "rdstls"), (8, "nla-ext")];

pub(super) fn begins(bytes: &[u8]) -> Begins {
    Begins::by_rules(
        bytes,
        &[
            |version| version == 3,
            |reserved| reserved == 0,
            |high| high <= 1,
            |_| true,
            |_| true,
            |code| matches!(code, CONNECTION_REQUEST | CONNECTION_CONFIRM),
        ],
    )
}

pub(super) fn stream(turn: &mut Turn<'_>, bytes: &[u8]) -> Step {
    let Some([3, _, high, low]) = bytes.first_chunk::<TPKT_BYTES>() else {
        return if bytes.len() < TPKT_BYTES { Step::Need(Need::Bytes(TPKT_BYTES)) } else { Step::Finished };
    };
    let total = usize::from(u16::from_be_bytes([*high, *low]));
    if !(HEADER_BYTES..=MESSAGE_BYTES_MAX).contains(&total) {
        return Step::Mistaken;
    }
    let Some(message) = bytes.get(..total) else { return Step::Need(Need::Bytes(total)) };
    let code = message[TPKT_BYTES + 1];
    if usize::from(message[TPKT_BYTES]) + TPKT_BYTES + 1 != total {
        return Step::Mistaken;
    }
    let mut rest = &message[HEADER_BYTES..];
    // Other protocols use the same transport: only what RDP alone has counts.
    let mut known = false;
    if code == CONNECTION_REQUEST && rest.starts_with(COOKIE) {
        let end = rest.iter().position(|byte| *byte == b'\r').unwrap_or(rest.len());
        if let Some(user) = rest[..end].strip_prefix(USER) {
            claim_user(turn.out, None, user);
        }
        known = true;
        rest = rest.get(end + 2..).unwrap_or_default();
    }
    let mut reader = Reader::new(rest);
    if let (Some(kind), Some(_flags), Some(8), Some(protocols)) =
        (reader.u8(), reader.u8(), reader.u16_le(), reader.u32_le())
    {
        known |= match (code, kind) {
            (CONNECTION_REQUEST, NEGOTIATION_REQUEST) => {
                named(turn, field::RDP_REQUESTED, protocols);
                true
            }
            (CONNECTION_CONFIRM, NEGOTIATION_RESPONSE) => {
                named(turn, field::RDP_SELECTED, protocols);
                true
            }
            (CONNECTION_CONFIRM, NEGOTIATION_FAILURE) => true,
            _ => false,
        };
    }
    if !known && *turn.protocol != Protocol::Rdp {
        return Step::Mistaken;
    }
    turn.recognise(Protocol::Rdp);
    turn.expect(Stage::Rdp);
    Step::Took(total)
}

fn named(turn: &mut Turn<'_>, field: FieldId, protocols: u32) {
    if protocols == 0 {
        turn.out.text(field, "rdp");
    }
    for (bit, name) in PROTOCOLS {
        if protocols & bit != 0 {
            turn.out.text(field, name);
        }
    }
}
