//! Text that came from packets, made safe to show.

use std::borrow::Cow;
use std::fmt::Write;

/// `text` with control characters, line separators and the characters that turn text around written as `\u{…}`, so that
/// a name in a packet can neither drive a terminal nor forge a log line.
pub fn terminal_safe(text: &str) -> Cow<'_, str> {
    if !text.chars().any(is_unsafe) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_unsafe(c) {
            // Writing to a String cannot fail.
            let _ = write!(safe, "\\u{{{:x}}}", u32::from(c));
        } else {
            safe.push(c);
        }
    }
    Cow::Owned(safe)
}

/// Control characters (C0, DEL, C1), line and paragraph separators, and what has no width or turns the direction of
/// writing (Unicode TR 36, section 2.10).
fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{061c}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_cannot_be_driven() {
        assert_eq!(terminal_safe("\x1b[2Jgone\r\n"), "\\u{1b}[2Jgone\\u{d}\\u{a}");
        assert_eq!(terminal_safe("abc\u{202e}cba"), "abc\\u{202e}cba");
        assert!(matches!(terminal_safe("plain ünïcode"), Cow::Borrowed(_)));
    }
}
