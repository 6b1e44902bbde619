//! SMB 1 ([MS-CIFS] §2.2, [MS-SMB] §2.2).

use gnomon_flow::{Attributes, field};

use super::token;
use crate::inspect::reader::{Reader, utf16_le};
use crate::inspect::stream::Memory;
use crate::inspect::{claim_user, claimed_text};

const HEADER_BYTES: usize = 32;
const COMMAND_AT: usize = 4;
const FLAGS_AT: usize = 9;
const FLAGS_2_AT: usize = 10;
const RESPONSE: u8 = 0x80;
const UNICODE: u16 = 0x8000;

const OPEN_ANDX: u8 = 0x2d;
const NEGOTIATE: u8 = 0x72;
const SESSION_SETUP_ANDX: u8 = 0x73;
const TREE_CONNECT_ANDX: u8 = 0x75;
const NT_CREATE_ANDX: u8 = 0xa2;
const NO_ANDX: u8 = 0xff;
/// Commands chained in one message.
const CHAIN_MAX: usize = 4;

/// Dialects by name ([MS-CIFS] §1.7), in the order of their numbers here, which begin with one.
const NAMES: [&str; 11] = [
    "PC NETWORK PROGRAM 1.0",
    "PCLAN1.0",
    "MICROSOFT NETWORKS 1.03",
    "MICROSOFT NETWORKS 3.0",
    "LANMAN1.0",
    "LM1.2X002",
    "LANMAN2.1",
    "Windows for Workgroups 3.1a",
    "NT LM 0.12",
    "SMB 2.002",
    "SMB 2.???",
];

/// The dialects that a client offered, of which the server's answer has only the position: 0 is one without a name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::inspect) struct Dialects([u8; 12]);

struct Message<'a> {
    bytes: &'a [u8],
    is_response: bool,
    unicode: bool,
}

/// One command's words and data, and where the data begin in the message.
struct Command<'a> {
    words: &'a [u8],
    data: &'a [u8],
    data_at: usize,
}

pub(super) fn message(bytes: &[u8], memory: &mut Memory, out: &mut Attributes) {
    let Some(header) = bytes.get(..HEADER_BYTES) else { return };
    let flags_2 = u16::from_le_bytes([header[FLAGS_2_AT], header[FLAGS_2_AT + 1]]);
    let message =
        Message { bytes, is_response: header[FLAGS_AT] & RESPONSE != 0, unicode: flags_2 & UNICODE != 0 };
    let (mut command, mut at) = (header[COMMAND_AT], HEADER_BYTES);
    for _ in 0..CHAIN_MAX {
        let Some(found) = message.command(at) else { return };
        if command == NEGOTIATE {
            negotiate(&message, &found, memory, out);
            return;
        }
        // None where the structure breaks; the next command may yet be sound.
        let _ = match command {
            SESSION_SETUP_ANDX => session_setup(&message, &found, out),
            TREE_CONNECT_ANDX => tree_connect(&message, &found, out),
            NT_CREATE_ANDX | OPEN_ANDX if !message.is_response => create(&message, command, &found, out),
            _ => return,
        };
        let [next, _, low, high, ..] = *found.words else { return };
        let next_at = usize::from(u16::from_le_bytes([low, high]));
        if next == NO_ANDX || next_at <= at {
            return;
        }
        (command, at) = (next, next_at);
    }
}

impl<'a> Message<'a> {
    fn command(&self, at: usize) -> Option<Command<'a>> {
        let mut reader = Reader::new(self.bytes.get(at..)?);
        let words = usize::from(reader.u8()?) * 2;
        let words = reader.take(words)?;
        let data_bytes = usize::from(reader.u16_le()?);
        let data = reader.rest();
        Some(Command {
            words,
            data: &data[..data.len().min(data_bytes)],
            data_at: self.bytes.len() - data.len(),
        })
    }

    /// Text at `at` of the data, which ends with a NUL or with the data; moves `at` behind it. In Unicode it is aligned.
    fn text(&self, command: &Command<'_>, at: &mut usize) -> Option<String> {
        if !self.unicode {
            let rest = command.data.get(*at..)?;
            let end = rest.iter().position(|byte| *byte == 0).unwrap_or(rest.len());
            *at += end + 1;
            return Some(claimed_text(&rest[..end]).into_owned());
        }
        *at += (command.data_at + *at) % 2;
        let rest = command.data.get(*at..)?;
        let end =
            rest.as_chunks::<2>().0.iter().position(|unit| *unit == [0, 0]).unwrap_or(rest.len() / 2) * 2;
        *at += end + 2;
        Some(utf16_le(&rest[..end]))
    }
}

fn word(words: &[u8], nth: usize) -> Option<usize> {
    Some(usize::from(u16::from_le_bytes(*words.as_chunks::<2>().0.get(nth)?)))
}

fn negotiate(message: &Message<'_>, command: &Command<'_>, memory: &mut Memory, out: &mut Attributes) {
    if !message.is_response {
        let mut offered = Dialects::default();
        let names = command.data.split(|byte| *byte == 0).filter_map(|name| name.strip_prefix(&[2]));
        for (slot, name) in offered.0.iter_mut().zip(names) {
            let known = NAMES.iter().position(|known| known.as_bytes() == name);
            *slot = known.map_or(0, |at| at as u8 + 1);
        }
        memory.set(Memory::Smb(offered));
    } else if let (Memory::Smb(offered), Some(chosen)) = (memory, word(command.words, 0))
        && let Some(number) = offered.0.get(chosen)
        && let Some(name) = usize::from(*number).checked_sub(1).and_then(|at| NAMES.get(at))
        && !name.starts_with("SMB 2")
    {
        out.text(field::SMB_DIALECT, name);
    }
}

fn session_setup(message: &Message<'_>, command: &Command<'_>, out: &mut Attributes) -> Option<()> {
    let words = command.words;
    let mut at = 0;
    let texts: &[_] = match (message.is_response, words.len() / 2) {
        (false, 12) => {
            at = word(words, 7)?;
            token(command.data.get(..at)?, out);
            &[field::SMB_OS, field::SMB_VERSION]
        }
        (false, 13) => {
            at = word(words, 7)? + word(words, 8)?;
            let user = message.text(command, &mut at)?;
            claim_user(out, Some(field::SMB_USER), user.as_bytes());
            &[field::SMB_DOMAIN, field::SMB_OS, field::SMB_VERSION]
        }
        (false, 10) => {
            at = word(words, 7)?;
            let user = message.text(command, &mut at)?;
            claim_user(out, Some(field::SMB_USER), user.as_bytes());
            &[field::SMB_DOMAIN, field::SMB_OS, field::SMB_VERSION]
        }
        (true, 4) => {
            at = word(words, 3)?;
            token(command.data.get(..at)?, out);
            &[field::SMB_OS, field::SMB_VERSION]
        }
        (true, 3) => &[field::SMB_OS, field::SMB_VERSION, field::SMB_DOMAIN],
        _ => return None,
    };
    for field in texts {
        let text = message.text(command, &mut at)?;
        if !text.is_empty() {
            out.text(*field, &text);
        }
    }
    Some(())
}

fn tree_connect(message: &Message<'_>, command: &Command<'_>, out: &mut Attributes) -> Option<()> {
    if message.is_response {
        return None;
    }
    let mut at = word(command.words, 3)?;
    out.text(field::SMB_SHARE, &message.text(command, &mut at)?);
    Some(())
}

fn create(message: &Message<'_>, kind: u8, command: &Command<'_>, out: &mut Attributes) -> Option<()> {
    // The name's length stands in an odd place, and the name is the first thing in the data.
    let mut at = 0;
    let mut name = message.text(command, &mut at)?;
    if kind == NT_CREATE_ANDX {
        let length = usize::from(*command.words.get(5)?) | usize::from(*command.words.get(6)?) << 8;
        let units = if message.unicode { length / 2 } else { length };
        name = name.chars().take(units).collect();
    }
    if !name.is_empty() {
        out.text(field::SMB_FILENAME, &name);
    }
    Some(())
}
