//! What the headers of a message say (RFC 5322 §3.6), and how mail protocols log in.

use gnomon_flow::{Attributes, field};

use super::{claim, claim_lower, claim_user, from_base64};

const ADDRESSES_MAX: usize = 32;
const ENCODED_WORDS_MAX: usize = 64;

/// One header field of a message or of one of its parts. Returns whether it says that the message has parts.
pub(super) fn header(name: &[u8], value: &[u8], out: &mut Attributes) -> bool {
    let is = |other: &str| name.eq_ignore_ascii_case(other.as_bytes());
    if is("from") {
        addresses(value, |address| claim_lower(out, field::EMAIL_SRC, address));
    } else if is("to") || is("cc") {
        addresses(value, |address| claim_lower(out, field::EMAIL_DST, address));
    } else if is("subject") {
        claim(out, field::EMAIL_SUBJECT, decoded(value).as_bytes());
    } else if is("message-id") {
        claim(out, field::EMAIL_ID, address(value));
    } else if is("x-mailer") || is("user-agent") {
        claim(out, field::EMAIL_MAILER, value);
    } else if is("content-type") {
        let kind = value.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
        claim_lower(out, field::EMAIL_CONTENT_TYPE, kind);
        filename(value, b"name", out);
        return kind.len() >= 10 && kind[..10].eq_ignore_ascii_case(b"multipart/");
    } else if is("content-disposition") {
        filename(value, b"filename", out);
    }
    false
}

/// The user of a SASL PLAIN response (RFC 4616 §2): authorization, NUL, name, NUL, password.
pub(super) fn plain_user(blob: &[u8], out: &mut Attributes) {
    if let Some(blob) = from_base64(blob) {
        let mut parts = blob.split(|byte| *byte == 0);
        let (authorization, name) = (parts.next().unwrap_or_default(), parts.next());
        claim_user(out, None, name.filter(|name| !name.is_empty()).unwrap_or(authorization));
    }
}

/// What stands between `<` and `>`, or all of it.
pub(super) fn address(text: &[u8]) -> &[u8] {
    let Some(open) = text.iter().position(|byte| *byte == b'<') else { return text.trim_ascii() };
    let inner = &text[open + 1..];
    let close = inner.iter().position(|byte| *byte == b'>').unwrap_or(inner.len());
    inner[..close].trim_ascii()
}

/// Addresses of a list; a comma inside quotes parts nothing.
fn addresses(list: &[u8], mut sink: impl FnMut(&[u8])) {
    let mut quoted = false;
    let parts = list.split(|byte| {
        quoted ^= *byte == b'"';
        *byte == b',' && !quoted
    });
    for part in parts.take(ADDRESSES_MAX) {
        let address = address(part);
        if address.contains(&b'@') {
            sink(address);
        }
    }
}

fn filename(value: &[u8], parameter: &[u8], out: &mut Attributes) {
    for part in value.split(|byte| *byte == b';').skip(1) {
        let part = part.trim_ascii();
        let Some(equals) = part.iter().position(|byte| *byte == b'=') else { continue };
        if part[..equals].trim_ascii().eq_ignore_ascii_case(parameter) {
            let text = part[equals + 1..].trim_ascii();
            let text = text.strip_prefix(b"\"").unwrap_or(text);
            let text = text.strip_suffix(b"\"").unwrap_or(text);
            claim(out, field::EMAIL_FILENAME, decoded(text).as_bytes());
        }
    }
}

/// Text with its encoded words (RFC 2047 §2) decoded, where they are in UTF-8, ASCII or Latin 1, and its folds taken
/// out. Blanks between two encoded words are none (§6.2).
pub(super) fn decoded(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text).replace(['\r', '\n'], "");
    let mut out = String::new();
    let mut rest = text.as_str();
    let mut behind_word = false;
    for _ in 0..ENCODED_WORDS_MAX {
        let Some(begin) = rest.find("=?") else { break };
        let Some((word, length)) = encoded_word(&rest[begin..]) else {
            out.push_str(&rest[..begin + 2]);
            rest = &rest[begin + 2..];
            behind_word = false;
            continue;
        };
        if !(behind_word && rest[..begin].trim().is_empty()) {
            out.push_str(&rest[..begin]);
        }
        out.push_str(&word);
        rest = &rest[begin + length..];
        behind_word = true;
    }
    out.push_str(rest);
    out
}

/// `=?charset?Q?text?=`, and how many bytes it takes.
fn encoded_word(text: &str) -> Option<(String, usize)> {
    let mut parts = text.strip_prefix("=?")?.splitn(3, '?');
    let (charset, encoding, tail) = (parts.next()?, parts.next()?, parts.next()?);
    let end = tail.find("?=")?;
    let encoded = &tail[..end];
    let bytes = match encoding {
        "B" | "b" => from_base64(encoded.as_bytes())?,
        "Q" | "q" => quoted(encoded.as_bytes()),
        _ => return None,
    };
    // A language may be named behind the charset (RFC 2231 §5).
    let charset = charset.split('*').next()?.to_ascii_lowercase();
    let decoded = match charset.as_str() {
        "utf-8" | "utf8" | "us-ascii" => String::from_utf8_lossy(&bytes).into_owned(),
        "iso-8859-1" | "latin1" | "windows-1252" => bytes.iter().map(|byte| char::from(*byte)).collect(),
        _ => return None,
    };
    Some((decoded, text.len() - tail.len() + end + 2))
}

fn quoted(text: &[u8]) -> Vec<u8> {
    let digit = |byte: Option<&u8>| char::from(*byte?).to_digit(16).map(|digit| digit as u8);
    let mut out = Vec::with_capacity(text.len());
    let mut at = 0;
    while let Some(byte) = text.get(at) {
        at += 1;
        if *byte == b'='
            && let (Some(high), Some(low)) = (digit(text.get(at)), digit(text.get(at + 1)))
        {
            out.push(high << 4 | low);
            at += 2;
        } else {
            out.push(if *byte == b'_' { b' ' } else { *byte });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encoded_words() {
        assert_eq!(decoded(b"plain"), "plain");
        assert_eq!(decoded(b"=?UTF-8?Q?caf=C3=A9_au_lait?= x"), "caf\u{e9} au lait x");
        assert_eq!(decoded(b"=?iso-8859-1?b?Y2Fm6Q==?=\r\n =?utf-8?Q?!?="), "caf\u{e9}!");
        assert_eq!(decoded(b"=?koi8-r?B?eA==?= =?broken"), "=?koi8-r?B?eA==?= =?broken");
        assert_eq!(decoded(b"a =?= b"), "a =?= b");
    }

    #[test]
    fn addresses_of_a_list() {
        let mut found = Vec::new();
        addresses(b"\"A, B\" <a@b.c>, d@e.f, nobody", |a| found.push(a.to_vec()));
        assert_eq!(found, [b"a@b.c".to_vec(), b"d@e.f".to_vec()]);
    }
}
