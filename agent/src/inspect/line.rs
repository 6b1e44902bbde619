//! Lines of protocols that are text, and the header fields of messages (RFC 5322 §2.2): bounded, and the same wherever
//! the stream is cut.

use super::held::Need;
use super::stream::Step;

/// A line is looked at when it is no longer, whatever the protocol allows.
pub(super) const LINE_BYTES_MAX: usize = 2048;
/// A header field with all its continuation lines.
const FIELD_BYTES_MAX: usize = 8192;

pub(super) struct Line<'a> {
    /// Without its end, LF or CR LF.
    pub(super) text: &'a [u8],
    /// Bytes with the end.
    pub(super) taken: usize,
}

/// The line that `bytes` begin with; without its end there is none yet, or none at all.
pub(super) fn line(bytes: &[u8]) -> Result<Line<'_>, Step> {
    match bytes.iter().take(LINE_BYTES_MAX).position(|byte| *byte == b'\n') {
        Some(end) => Ok(Line { text: without_cr(&bytes[..end]), taken: end + 1 }),
        None if bytes.len() < LINE_BYTES_MAX => Err(Step::Need(Need::Line)),
        None => Err(Step::Finished),
    }
}

/// A header field, or the empty line behind the last one.
pub(super) enum HeaderField<'a> {
    /// Name and value; the value has its folds in it.
    Field {
        name: &'a [u8],
        value: &'a [u8],
    },
    /// A line that is none.
    Other,
    End,
}

/// The header field that `bytes` begin with, and how many bytes it takes. A field goes on in the next line where that
/// begins with a blank, so the byte behind it must be there too.
pub(super) fn header_field(bytes: &[u8]) -> Result<(HeaderField<'_>, usize), Step> {
    let mut at = 0;
    let end = loop {
        let Some(end) = bytes.iter().take(FIELD_BYTES_MAX).skip(at).position(|byte| *byte == b'\n') else {
            return Err(if bytes.len() < FIELD_BYTES_MAX { Step::Need(Need::Line) } else { Step::Finished });
        };
        let end = at + end;
        if at == 0 && without_cr(&bytes[..end]).is_empty() {
            return Ok((HeaderField::End, end + 1));
        }
        match bytes.get(end + 1) {
            Some(b' ' | b'\t') => at = end + 1,
            Some(_) => break end,
            None => return Err(Step::Need(Need::Bytes(end + 2))),
        }
    };
    let text = without_cr(&bytes[..end]);
    let field = match text.iter().position(|byte| *byte == b':') {
        Some(colon) => {
            HeaderField::Field { name: text[..colon].trim_ascii_end(), value: text[colon + 1..].trim_ascii() }
        }
        None => HeaderField::Other,
    };
    Ok((field, end + 1))
}

/// What follows `word` and a blank at the beginning, letter case aside.
pub(super) fn after_word<'a>(text: &'a [u8], word: &str) -> Option<&'a [u8]> {
    let (head, tail) = text.split_at_checked(word.len())?;
    if !head.eq_ignore_ascii_case(word.as_bytes()) {
        return None;
    }
    match tail {
        [] => Some(tail),
        [b' ' | b'\t', ..] => Some(tail.trim_ascii()),
        _ => None,
    }
}

/// Words between blanks.
pub(super) fn words(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|byte| byte.is_ascii_whitespace()).filter(|word| !word.is_empty())
}

/// A decimal number of up to nine digits, and nothing else.
pub(super) fn number(text: &[u8]) -> Option<u32> {
    if text.is_empty() || text.len() > 9 {
        return None;
    }
    text.iter().try_fold(0u32, |n, digit| digit.is_ascii_digit().then(|| n * 10 + u32::from(digit - b'0')))
}

fn without_cr(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\r").unwrap_or(line)
}
