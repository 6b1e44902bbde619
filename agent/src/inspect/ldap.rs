//! LDAP over TCP and UDP: who binds, and how (RFC 4511 §4).

use gnomon_flow::{Attributes, field};

use super::der::{Der, Header, INTEGER, OCTET_STRING, SEQUENCE, application, small};
use super::held::Need;
use super::protocol::Protocol;
use super::stream::{Begins, Stage, Step, Turn};
use super::{claim, ntlm};

const BIND_REQUEST: u8 = application(0);
const BIND_RESPONSE: u8 = application(1);
const UNBIND_REQUEST: u8 = 0x42;
const SEARCH_REQUEST: u8 = application(3);
const SEARCH_ENTRY: u8 = application(4);
const SEARCH_DONE: u8 = application(5);
const EXTENDED_REQUEST: u8 = application(23);
const EXTENDED_RESPONSE: u8 = application(24);
const SIMPLE: u8 = 0x80;
const SASL: u8 = 0xa3;

const PREFIX_BYTES_MAX: usize = 4096;
const MESSAGE_BYTES_MAX: usize = 1 << 24;

/// A message with its id, and an operation that fills it, but for controls.
pub(super) fn begins(bytes: &[u8]) -> Begins {
    const HEAD_BYTES_MAX: usize = 32;
    if bytes.first().is_some_and(|tag| *tag != SEQUENCE) {
        return Begins::No;
    }
    match first_operation(bytes) {
        Ok(Some(true)) => Begins::Yes,
        Ok(None) if bytes.len() < HEAD_BYTES_MAX => Begins::Perhaps,
        Ok(Some(false) | None) | Err(()) => Begins::No,
    }
}

/// Whether the message's first bytes are those of an operation that comes first; `Ok(None)` when they are too few.
fn first_operation(bytes: &[u8]) -> Result<Option<bool>, ()> {
    let Some(message) = Header::read(bytes)? else { return Ok(None) };
    let body = &bytes[message.header_bytes..];
    let Some(id) = Header::read(body)? else { return Ok(None) };
    if id.tag != INTEGER || !(1..=4).contains(&id.content_bytes) {
        return Ok(Some(false));
    }
    let Some(operation) = body.get(id.total_bytes()..) else { return Ok(None) };
    let Some(operation) = Header::read(operation)? else { return Ok(None) };
    let known = matches!(
        operation.tag,
        BIND_REQUEST
            | BIND_RESPONSE
            | UNBIND_REQUEST
            | SEARCH_REQUEST
            | SEARCH_ENTRY
            | SEARCH_DONE
            | EXTENDED_REQUEST
            | EXTENDED_RESPONSE
    );
    let left = message.content_bytes.checked_sub(id.total_bytes() + operation.total_bytes());
    Ok(Some(known && left.is_some() && message.content_bytes < MESSAGE_BYTES_MAX))
}

pub(super) fn stream(turn: &mut Turn<'_>, bytes: &[u8]) -> Step {
    let header = match Header::read(bytes) {
        Ok(Some(header)) if header.tag == SEQUENCE => header,
        Ok(None) => return Step::Need(Need::Bytes(bytes.len() + 1)),
        // A bind may begin a layer that signs or encrypts.
        _ => return Step::Finished,
    };
    if header.content_bytes > MESSAGE_BYTES_MAX {
        return Step::Finished;
    }
    let total = header.total_bytes();
    let message = match turn.prefix(bytes, total, PREFIX_BYTES_MAX) {
        Ok(prefix) => prefix,
        Err(step) => return step,
    };
    if !matches!(first_operation(message), Ok(Some(_))) {
        return Step::Finished;
    }
    turn.recognise(Protocol::Ldap);
    turn.expect(Stage::Ldap);
    read(message, turn.out);
    turn.took(bytes, total)
}

pub(super) fn datagram(bytes: &[u8], out: &mut Attributes) -> bool {
    let whole = Header::read(bytes)
        .is_ok_and(|header| header.is_some_and(|header| header.total_bytes() == bytes.len()));
    let known = whole && matches!(first_operation(bytes), Ok(Some(true)));
    if known {
        read(bytes, out);
    }
    known
}

fn read(message: &[u8], out: &mut Attributes) -> Option<()> {
    let (_, body) = Der::new(message).next_cut()?;
    let mut body = Der::new(body);
    small(body.value(INTEGER)?)?;
    let (tag, operation) = body.next_cut()?;
    let mut operation = Der::new(operation);
    match tag {
        BIND_REQUEST => {
            let _version = operation.integer()?;
            let name = operation.value(OCTET_STRING)?;
            // Arkime's word for no name.
            claim(out, field::LDAP_BIND_NAME, if name.is_empty() { b"<ROOT>" } else { name });
            match operation.next_cut()? {
                (SIMPLE, []) => out.text(field::LDAP_AUTH_TYPE, "none"),
                (SIMPLE, _) => out.text(field::LDAP_AUTH_TYPE, "simple"),
                (SASL, credentials) => {
                    ntlm::find(credentials, out);
                    out.text(field::LDAP_AUTH_TYPE, "sasl")
                }
                _ => false,
            };
        }
        // A server's challenge is in its response.
        BIND_RESPONSE => {
            ntlm::find(operation.rest(), out);
        }
        _ => {}
    }
    Some(())
}
