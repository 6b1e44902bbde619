//! Kerberos 5: realms, clients, services, encryption types, errors (RFC 4120 §5).

use gnomon_flow::{Attributes, FieldId, field};

use super::der::{Der, Header, INTEGER, SEQUENCE, application, context, small};
use super::held::Need;
use super::protocol::Protocol;
use super::stream::{Begins, Stage, Step, Turn};
use super::{claim, claimed_text};

const AS_REQ: u8 = application(10);
const AS_REP: u8 = application(11);
const TGS_REQ: u8 = application(12);
const TGS_REP: u8 = application(13);
const AP_REQ: u8 = application(14);
const AP_REP: u8 = application(15);
const KRB_ERROR: u8 = application(30);
const TICKET: u8 = application(1);
const GENERAL_STRING: u8 = 0x1b;
const VERSION: u32 = 5;

const LENGTH_BYTES: usize = 4;
/// Larger messages carry tickets full of group memberships, whose end tells nothing more.
const PREFIX_BYTES_MAX: usize = 4096;
const MESSAGE_BYTES_MAX: usize = 1 << 20;
const NAME_PARTS_MAX: usize = 8;
const TYPES_MAX: usize = 16;

/// IANA "Kerberos Encryption Type Numbers".
const ENCRYPTION_TYPES: [(u32, &str); 12] = [
    (1, "des-cbc-crc"),
    (2, "des-cbc-md4"),
    (3, "des-cbc-md5"),
    (5, "des3-cbc-md5"),
    (16, "des3-cbc-sha1"),
    (17, "aes128-cts-hmac-sha1-96"),
    (18, "aes256-cts-hmac-sha1-96"),
    (19, "aes128-cts-hmac-sha256-128"),
    (20, "aes256-cts-hmac-sha384-192"),
    (23, "rc4-hmac"),
    (24, "rc4-hmac-exp"),
    (25, "camellia128-cts-cmac"),
];

/// RFC 4120 §7.5.9, those that tell something.
const ERRORS: [(u32, &str); 16] = [
    (0, "KDC_ERR_NONE"),
    (6, "KDC_ERR_C_PRINCIPAL_UNKNOWN"),
    (7, "KDC_ERR_S_PRINCIPAL_UNKNOWN"),
    (12, "KDC_ERR_POLICY"),
    (13, "KDC_ERR_BADOPTION"),
    (14, "KDC_ERR_ETYPE_NOSUPP"),
    (16, "KDC_ERR_PADATA_TYPE_NOSUPP"),
    (18, "KDC_ERR_CLIENT_REVOKED"),
    (23, "KDC_ERR_KEY_EXPIRED"),
    (24, "KDC_ERR_PREAUTH_FAILED"),
    (25, "KDC_ERR_PREAUTH_REQUIRED"),
    (31, "KRB_AP_ERR_BAD_INTEGRITY"),
    (32, "KRB_AP_ERR_TKT_EXPIRED"),
    (37, "KRB_AP_ERR_SKEW"),
    (52, "KRB_ERR_RESPONSE_TOO_BIG"),
    (60, "KRB_ERR_GENERIC"),
];

/// Over TCP each message has its length before it (RFC 4120 §7.2.2).
pub(super) fn begins_stream(bytes: &[u8]) -> Begins {
    Begins::by_rules(
        bytes,
        &[
            |byte| byte == 0,
            |high| high <= 0x10,
            |_| true,
            |_| true,
            |tag| is_message(tag),
            |length| length >= 16,
        ],
    )
}

pub(super) fn stream(turn: &mut Turn<'_>, bytes: &[u8]) -> Step {
    let Some(length) = bytes.first_chunk::<LENGTH_BYTES>() else {
        return Step::Need(Need::Bytes(LENGTH_BYTES));
    };
    let total = LENGTH_BYTES + u32::from_be_bytes(*length) as usize;
    if total > MESSAGE_BYTES_MAX {
        return Step::Mistaken;
    }
    let message = match turn.prefix(bytes, total, LENGTH_BYTES + PREFIX_BYTES_MAX) {
        Ok(prefix) => &prefix[LENGTH_BYTES..],
        Err(step) => return step,
    };
    let fits = Header::read(message)
        .is_ok_and(|header| header.is_some_and(|header| header.total_bytes() == total - LENGTH_BYTES));
    if !fits || !read(message, turn.out) {
        return Step::Mistaken;
    }
    turn.recognise(Protocol::Krb5);
    turn.expect(Stage::Krb5);
    turn.took(bytes, total)
}

pub(super) fn datagram(bytes: &[u8], out: &mut Attributes) -> bool {
    read(bytes, out)
}

fn is_message(tag: u8) -> bool {
    matches!(tag, AS_REQ | AS_REP | TGS_REQ | TGS_REP | AP_REQ | AP_REP | KRB_ERROR)
}

/// A message, which may be cut; false when it is none.
fn read(bytes: &[u8], out: &mut Attributes) -> bool {
    let Some((tag, body)) = Der::new(bytes).next_cut().filter(|(tag, _)| is_message(*tag)) else {
        return false;
    };
    let Some((SEQUENCE, body)) = Der::new(body).next_cut() else { return false };
    let body = Der::new(body);
    // A request has its version in [1], everything else in [0]; a message type must follow.
    let is_request = matches!(tag, AS_REQ | TGS_REQ);
    let version_tag = context(u8::from(is_request));
    let version = body.inner(version_tag).and_then(|mut version| version.integer());
    let message_type = body.inner(version_tag + 1).and_then(|mut kind| kind.integer());
    if version != Some(VERSION) || message_type != Some(u32::from(tag & 0x1f)) {
        return false;
    }
    match tag {
        AS_REQ | TGS_REQ => {
            if let Some((SEQUENCE, request)) = body.inner(context(4)).and_then(|mut body| body.next_cut()) {
                let request = Der::new(request);
                principal(request, 1, field::KRB5_CNAME, out);
                realm(request, 2, out);
                principal(request, 3, field::KRB5_SNAME, out);
                if let Some((SEQUENCE, types)) =
                    request.inner(context(8)).and_then(|mut types| types.next_cut())
                {
                    for (_, kind) in Der::new(types).filter(|(tag, _)| *tag == INTEGER).take(TYPES_MAX) {
                        encryption_type(small(kind), out);
                    }
                }
            }
        }
        AS_REP | TGS_REP => {
            realm(body, 3, out);
            principal(body, 4, field::KRB5_CNAME, out);
            ticket(body.inner(context(5)), out);
        }
        AP_REQ => ticket(body.inner(context(3)), out),
        KRB_ERROR => {
            let code = body.inner(context(6)).and_then(|mut code| code.integer());
            if let Some(code) = code {
                match ERRORS.iter().find(|(known, _)| *known == code) {
                    Some((_, name)) => out.text(field::KRB5_ERROR, name),
                    None => out.text(field::KRB5_ERROR, &code.to_string()),
                };
            }
            realm(body, 7, out);
            principal(body, 8, field::KRB5_CNAME, out);
            realm(body, 9, out);
            principal(body, 10, field::KRB5_SNAME, out);
        }
        _ => {}
    }
    true
}

fn ticket(explicit: Option<Der<'_>>, out: &mut Attributes) {
    let Some((TICKET, ticket)) = explicit.and_then(|mut ticket| ticket.next_cut()) else { return };
    let Some((SEQUENCE, ticket)) = Der::new(ticket).next_cut() else { return };
    let ticket = Der::new(ticket);
    realm(ticket, 1, out);
    principal(ticket, 2, field::KRB5_SNAME, out);
    if let Some((SEQUENCE, encrypted)) = ticket.inner(context(3)).and_then(|mut part| part.next_cut()) {
        encryption_type(Der::new(encrypted).inner(context(0)).and_then(|mut kind| kind.integer()), out);
    }
}

fn realm(body: Der<'_>, tag: u8, out: &mut Attributes) {
    if let Some((GENERAL_STRING, realm)) = body.inner(context(tag)).and_then(|mut realm| realm.element()) {
        claim(out, field::KRB5_REALM, realm);
    }
}

/// A name of several parts, joined by `/`.
fn principal(body: Der<'_>, tag: u8, field: FieldId, out: &mut Attributes) {
    let Some((SEQUENCE, name)) = body.inner(context(tag)).and_then(|mut name| name.element()) else { return };
    let Some((SEQUENCE, parts)) = Der::new(name).inner(context(1)).and_then(|mut parts| parts.element())
    else {
        return;
    };
    let parts: Vec<_> = Der::new(parts)
        .filter(|(tag, _)| *tag == GENERAL_STRING)
        .take(NAME_PARTS_MAX)
        .map(|(_, part)| claimed_text(part))
        .collect();
    if !parts.is_empty() {
        out.text(field, &parts.join("/"));
    }
}

fn encryption_type(number: Option<u32>, out: &mut Attributes) {
    if let Some(number) = number {
        match ENCRYPTION_TYPES.iter().find(|(known, _)| *known == number) {
            Some((_, name)) => out.text(field::KRB5_ETYPE, name),
            None => out.text(field::KRB5_ETYPE, &number.to_string()),
        };
    }
}
