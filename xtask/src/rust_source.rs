//! Rust source with what is not code taken out, line by line, which is all that the rules need: no parser.

/// `text` with comments and the insides of strings blanked. Lines and columns (in characters) stay where they are.
pub(crate) fn code_only(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut code = String::with_capacity(text.len());
    let mut at = 0;
    while at < chars.len() {
        let end = match chars[at] {
            '/' if chars.get(at + 1) == Some(&'/') => line_end(&chars, at),
            '/' if chars.get(at + 1) == Some(&'*') => block_comment_end(&chars, at),
            '"' => string_end(&chars, at),
            'r' if !continues_word(&chars, at) => raw_string_end(&chars, at).unwrap_or(at),
            '\'' => char_end(&chars, at).unwrap_or(at),
            _ => at,
        };
        if end == at {
            code.push(chars[at]);
            at += 1;
        } else {
            code.extend(chars[at..end].iter().map(|c| if *c == '\n' { '\n' } else { ' ' }));
            at = end;
        }
    }
    code
}

/// The part of a file before its `#[cfg(test)] mod …`, which stands last by convention.
pub(crate) fn without_tests(text: &str) -> &str {
    let mut start = 0;
    let mut attribute = None;
    for line in text.split_inclusive('\n') {
        match (attribute, line.trim()) {
            (_, "#[cfg(test)]") => attribute = Some(start),
            (Some(_), inner) if inner.starts_with("#[") => {}
            (Some(attribute), inner) if begins_module(inner) => {
                return &text[..attribute];
            }
            _ => attribute = None,
        }
        start += line.len();
    }
    text
}

/// `mod tests {`, or `pub(super) mod tests {` where other tests use what is in it.
fn begins_module(line: &str) -> bool {
    let visible = line.strip_prefix("pub").map(|rest| rest.split_once(") ").map_or(rest, |(_, rest)| rest));
    visible.unwrap_or(line).trim_start().starts_with("mod ") && line.ends_with('{')
}

/// The identifiers of blanked code: (line from 1, word, what follows it on the line, the word before it).
pub(crate) fn words(code: &str) -> impl Iterator<Item = Word<'_>> {
    code.lines().enumerate().flat_map(|(index, line)| {
        let mut words = Vec::new();
        let mut before = "";
        let mut rest = line;
        while let Some(start) = rest.find(is_word_char) {
            let tail = &rest[start..];
            let end = tail.find(|c| !is_word_char(c)).unwrap_or(tail.len());
            let word = &tail[..end];
            rest = &tail[end..];
            words.push(Word { line: index + 1, word, before, after: rest.trim_start() });
            before = word;
        }
        words
    })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Word<'a> {
    pub(crate) line: usize,
    pub(crate) word: &'a str,
    pub(crate) before: &'a str,
    pub(crate) after: &'a str,
}

fn is_word_char(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn continues_word(chars: &[char], at: usize) -> bool {
    // `br"…"` is a raw string too, and no identifier ends in a quote.
    at > 0 && is_word_char(chars[at - 1]) && chars[at - 1] != 'b'
}

fn line_end(chars: &[char], at: usize) -> usize {
    chars[at..].iter().position(|c| *c == '\n').map_or(chars.len(), |length| at + length)
}

fn block_comment_end(chars: &[char], at: usize) -> usize {
    let mut depth = 0;
    let mut at = at;
    while at < chars.len() {
        match (chars[at], chars.get(at + 1)) {
            ('/', Some('*')) => {
                depth += 1;
                at += 2;
            }
            ('*', Some('/')) => {
                depth -= 1;
                at += 2;
                if depth == 0 {
                    return at;
                }
            }
            _ => at += 1,
        }
    }
    chars.len()
}

fn string_end(chars: &[char], at: usize) -> usize {
    let mut at = at + 1;
    while at < chars.len() {
        match chars[at] {
            '\\' => at += 2,
            '"' => return at + 1,
            _ => at += 1,
        }
    }
    chars.len()
}

fn raw_string_end(chars: &[char], at: usize) -> Option<usize> {
    let hashes = chars[at + 1..].iter().take_while(|c| **c == '#').count();
    let start = at + 1 + hashes;
    if chars.get(start) != Some(&'"') {
        return None;
    }
    let closes = |end: &usize| {
        chars[*end] == '"' && chars[end + 1..].iter().take(hashes).filter(|c| **c == '#').count() == hashes
    };
    Some((start + 1..chars.len()).find(closes).map_or(chars.len(), |end| end + 1 + hashes))
}

/// A character literal; a lifetime is none.
fn char_end(chars: &[char], at: usize) -> Option<usize> {
    match chars.get(at + 1)? {
        '\\' => chars[at + 3..].iter().take(10).position(|c| *c == '\'').map(|length| at + 4 + length),
        _ => (chars.get(at + 2) == Some(&'\'')).then_some(at + 3),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blanks_what_is_not_code() {
        let code = |text| code_only(text).split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(code("a // unsafe\nb"), "a b");
        assert_eq!(code("a /* unsafe /* x */ unsafe */ b"), "a b");
        assert_eq!(code(r#"f("unsafe \" unsafe") + g"#), "f( ) + g");
        assert_eq!(code("f(r#\"unsafe \" \"#) + g(br\"unsafe\")"), "f( ) + g(b )");
        assert_eq!(code("x = '\"'; unsafe"), "x = ; unsafe");
        assert_eq!(code("x = '\\''; y: &'static str = '\\u{1b}';"), "x = ; y: &'static str = ;");
        assert_eq!(code("error\"x\""), "error");
    }

    #[test]
    fn lines_stay_where_they_are() {
        let code = code_only("/* a\nb */ c \"d\ne\" f");
        assert_eq!(words(&code).map(|word| (word.line, word.word)).collect::<Vec<_>>(), [(2, "c"), (3, "f")]);
    }

    #[test]
    fn tests_at_the_end_are_cut() {
        assert_eq!(without_tests("a\n#[cfg(test)]\nmod tests {\n}\n"), "a\n");
        assert_eq!(without_tests("a\n#[cfg(test)]\n#[allow(x)]\nmod model {\n}\n"), "a\n");
        assert_eq!(without_tests("a\n#[cfg(test)]\npub(super) mod tests {\n}\n"), "a\n");
        let outside = "a\n#[cfg(test)]\nmod tests;\n#[cfg(test)]\nfn b() {}\n";
        assert_eq!(without_tests(outside), outside);
    }
}
