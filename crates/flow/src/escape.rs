//! Text that came from a packet, made safe to show.
//!
//! A DNS name, an HTTP header or a banner is whatever the other side chose to send: an escape sequence that rewrites
//! the operator's screen, a newline that forges a log line, a direction mark that shows `exe.fdp` as `pdf.exe`.

use std::borrow::Cow;
use std::fmt::Write;

/// `text` on one line: control, line-separating, direction-changing and invisible characters as `\u{1b}`.
///
/// For showing, not for reading back: a backslash of the text itself stays single.
#[must_use]
pub fn terminal_safe(text: &str) -> Cow<'_, str> {
    let Some(first) = text.find(is_unsafe) else { return Cow::Borrowed(text) };
    let mut safe = String::with_capacity(text.len() + 16);
    safe.push_str(&text[..first]);
    for c in text[first..].chars() {
        match c {
            '\n' => safe.push_str("\\n"),
            '\r' => safe.push_str("\\r"),
            '\t' => safe.push_str("\\t"),
            c if is_unsafe(c) => write!(safe, "\\u{{{:x}}}", u32::from(c)).unwrap_or_default(),
            c => safe.push(c),
        }
    }
    Cow::Owned(safe)
}

fn is_unsafe(c: char) -> bool {
    // C0, DEL and C1 (a C1 byte can start an escape sequence on its own), then what Unicode calls format characters:
    // marks that change direction (UAX #9, section 2), joiners and spaces without width, line and paragraph
    // separators, and the tag block, in which whole sentences can hide.
    c.is_control()
        || matches!(c,
            '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e01ef}'
            | '\u{ad}')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn plain_text_is_untouched() {
        for text in ["", "example.com", "münchen.de", "日本語", "C:\\x", "👍"] {
            assert!(matches!(terminal_safe(text), Cow::Borrowed(same) if same == text));
        }
    }

    #[test]
    fn nothing_can_drive_a_terminal() {
        assert_eq!(terminal_safe("a\x1b[2Jb"), "a\\u{1b}[2Jb");
        assert_eq!(terminal_safe("a\u{9b}2J"), "a\\u{9b}2J");
        assert_eq!(terminal_safe("x\r\n\tERROR"), "x\\r\\n\\tERROR");
        assert_eq!(terminal_safe("\u{202e}fdp.exe"), "\\u{202e}fdp.exe");
        assert_eq!(terminal_safe("\u{2066}\u{2069}\u{200f}\u{feff}"), "\\u{2066}\\u{2069}\\u{200f}\\u{feff}");
        assert_eq!(terminal_safe("a\u{e0041}\u{7f}\0"), "a\\u{e0041}\\u{7f}\\u{0}");
    }

    proptest! {
        #[test]
        fn what_comes_out_is_safe_and_stays_so(text: String) {
            let safe = terminal_safe(&text);
            prop_assert!(!safe.contains(is_unsafe));
            prop_assert_eq!(terminal_safe(&safe), safe.as_ref());
        }
    }
}
