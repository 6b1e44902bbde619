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

/// For files that programs read back as they were written: what shows a text as another is escaped, and what other programs
/// expect to find (tabs, line ends, ASCII's own controls) stays.
#[must_use]
pub fn without_marks(text: &str) -> Cow<'_, str> {
    if !text.contains(|c| c >= '\u{7f}' && is_unsafe(c)) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if c >= '\u{7f}' && is_unsafe(c) {
            write!(safe, "\\u{{{:x}}}", u32::from(c)).unwrap_or_default();
        } else {
            safe.push(c);
        }
    }
    Cow::Owned(safe)
}

/// JSON that says the same, with every character of [`terminal_safe`] that JSON writes as it is as an escape: only texts have
/// them.
#[must_use]
pub fn terminal_safe_json(json: &str) -> Cow<'_, str> {
    // What JSON itself escapes, and the line ends and tabs between its parts, are below these.
    let must = |c: char| c >= '\u{7f}' && is_unsafe(c);
    if is_plain(json.as_bytes()) {
        return Cow::Borrowed(json);
    }
    let Some(first) = json.find(must) else { return Cow::Borrowed(json) };
    let mut safe = String::with_capacity(json.len() + 16);
    safe.push_str(&json[..first]);
    for c in json[first..].chars() {
        if must(c) {
            for unit in c.encode_utf16(&mut [0; 2]) {
                write!(safe, "\\u{unit:04x}").unwrap_or_default();
            }
        } else {
            safe.push(c);
        }
    }
    Cow::Owned(safe)
}

/// [`terminal_safe_json`] of what stands in `out` from `start` on: nothing is copied where nothing is escaped.
pub fn make_terminal_safe_json(out: &mut Vec<u8>, start: usize) {
    if is_plain(&out[start..]) {
        return;
    }
    // Writers of JSON write UTF-8.
    if let Ok(json) = std::str::from_utf8(&out[start..])
        && let Cow::Owned(safe) = terminal_safe_json(json)
    {
        out.truncate(start);
        out.extend_from_slice(safe.as_bytes());
    }
}

/// ASCII without DEL. By runs without a branch in them, which compilers turn into wide instructions.
fn is_plain(bytes: &[u8]) -> bool {
    bytes.chunks(64).all(|run| run.iter().fold(0, |highest, byte| highest.max(*byte)) < 0x7f)
}

/// A name that came over the network: [`terminal_safe`], and at most so many bytes of it.
#[must_use]
pub fn name_of(text: &str, bytes_max: usize) -> Cow<'_, str> {
    let text = &text[..text.floor_char_boundary(bytes_max)];
    match terminal_safe(text) {
        Cow::Owned(mut safe) => {
            safe.truncate(safe.floor_char_boundary(bytes_max));
            Cow::Owned(safe)
        }
        safe => safe,
    }
}

/// Whether a character could drive a terminal, begin a line, or show a text as another.
#[must_use]
pub fn is_unsafe(c: char) -> bool {
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

    #[test]
    fn marks_are_shown_and_what_programs_read_back_stays() {
        assert_eq!(without_marks("a\tb\n\u{1b}[2J\u{202e}\u{feff}ü"), "a\tb\n\u{1b}[2J\\u{202e}\\u{feff}ü");
        assert!(matches!(without_marks("a\n"), Cow::Borrowed("a\n")));
    }

    #[test]
    fn json_says_the_same_and_shows_no_mark() {
        let text = "a\u{202e}b\u{200b}\u{9b}\u{7f}\u{e0041}ü\n";
        let json = format!("{{\n \"text\": \"{}\"}}", text.replace('\n', "\\n"));
        let safe = terminal_safe_json(&json);
        assert_eq!(safe, "{\n \"text\": \"a\\u202eb\\u200b\\u009b\\u007f\\udb40\\udc41ü\\n\"}");
        assert!(matches!(terminal_safe_json("{\"ü\": 1}\n"), Cow::Borrowed(_)));
        for (before, text) in
            [("", ""), ("", "plain"), ("\u{202e}", "a\u{202e}b"), ("x", "\u{7f}"), ("", "ü")]
        {
            let mut out = format!("{before}{text}").into_bytes();
            make_terminal_safe_json(&mut out, before.len());
            assert_eq!(out, format!("{before}{}", terminal_safe_json(text)).into_bytes());
        }
    }

    #[test]
    fn a_name_is_cut_after_it_is_escaped() {
        assert_eq!(name_of("eth0", 255), "eth0");
        assert_eq!(name_of("a\nb", 3), "a\\n");
        assert!(name_of(&"\u{202e}".repeat(100), 50).len() <= 50);
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
