//! Text → tokens with their places.

use super::ast::Operator;
use super::error::ParseError;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Operator(Operator),
    And,
    Or,
    Not,
    Open,
    Close,
    /// `[`
    ListOpen,
    /// `]`
    ListClose,
    Comma,
    Exists,
    Text(Text),
    /// What stands between the slashes, `\/` made `/`.
    Regex(String),
    End,
}

/// A word or a quoted text. `parts` are what stands between unescaped `*`: one part when there is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Text {
    pub(super) parts: Vec<String>,
    pub(super) quoted: bool,
}

impl Text {
    /// The text when it has no wildcard.
    pub(super) fn plain(&self) -> Option<&str> {
        match self.parts.as_slice() {
            [text] => Some(text),
            _ => None,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) kind: Kind,
    pub(super) start: usize,
    pub(super) end: usize,
}

/// Whether a word may contain `c`. Beyond Arkime's set, letters and digits of any script.
pub(super) fn is_word_char(c: char) -> bool {
    c.is_alphanumeric() || "-+_.@:*?/$%#~".contains(c)
}

/// The tokens of `source`, the last being [`Kind::End`].
pub(super) fn tokens(source: &str) -> Result<Vec<Token>, ParseError> {
    let mut lexer = Lexer { source, at: 0 };
    let mut tokens = Vec::new();
    loop {
        let token = lexer.next()?;
        let end = token.kind == Kind::End;
        tokens.push(token);
        if end {
            return Ok(tokens);
        }
    }
}

struct Lexer<'s> {
    source: &'s str,
    at: usize,
}

impl Lexer<'_> {
    fn rest(&self) -> &str {
        self.source.get(self.at..).unwrap_or_default()
    }

    fn error(&self, start: usize, end: usize, message: impl Into<String>) -> ParseError {
        ParseError::at(self.source, start, end, message)
    }

    fn next(&mut self) -> Result<Token, ParseError> {
        self.at += self.rest().len() - self.rest().trim_start().len();
        let start = self.at;
        let Some(first) = self.rest().chars().next() else {
            return Ok(Token { kind: Kind::End, start, end: start });
        };
        let kind = match first {
            '"' => self.quoted()?,
            '/' => self.regex()?,
            c if is_word_char(c) => self.word(),
            _ => self.symbol(first)?,
        };
        Ok(Token { kind, start, end: self.at })
    }

    fn symbol(&mut self, first: char) -> Result<Kind, ParseError> {
        static SYMBOLS: [(&str, Kind); 14] = [
            ("==", Kind::Operator(Operator::Equal)),
            ("!=", Kind::Operator(Operator::NotEqual)),
            ("<=", Kind::Operator(Operator::LessOrEqual)),
            (">=", Kind::Operator(Operator::GreaterOrEqual)),
            ("&&", Kind::And),
            ("||", Kind::Or),
            ("<", Kind::Operator(Operator::Less)),
            (">", Kind::Operator(Operator::Greater)),
            ("!", Kind::Not),
            ("(", Kind::Open),
            (")", Kind::Close),
            ("[", Kind::ListOpen),
            ("]", Kind::ListClose),
            (",", Kind::Comma),
        ];
        let found = SYMBOLS.iter().find(|(text, _)| self.rest().starts_with(text));
        if let Some((text, kind)) = found {
            self.at += text.len();
            return Ok(kind.clone());
        }
        let (start, end) = (self.at, self.at + first.len_utf8());
        let hint = match first {
            '=' => "write == to compare",
            '&' => "write && for and",
            '|' => "write || for or",
            '\'' => "quote text with \"…\"",
            '{' | '}' => "lists stand in brackets: [22,443]",
            _ => "quote text that has such characters: \"…\"",
        };
        Err(self.error(start, end, format!("{first:?} means nothing here")).hint(hint))
    }

    fn word(&mut self) -> Kind {
        let rest = self.rest();
        let length = rest.find(|c| !is_word_char(c)).unwrap_or(rest.len());
        let (word, after) = rest.split_at(length);
        if word.eq_ignore_ascii_case("EXISTS") && after.starts_with('!') && !after.starts_with("!=") {
            self.at += length + 1;
            return Kind::Exists;
        }
        let parts = word.split('*').map(str::to_owned).collect();
        self.at += length;
        Kind::Text(Text { parts, quoted: false })
    }

    fn quoted(&mut self) -> Result<Kind, ParseError> {
        let start = self.at;
        let mut parts = vec![String::new()];
        let mut chars = self.rest().char_indices().skip(1);
        while let Some((offset, c)) = chars.next() {
            let part = parts.len() - 1;
            match c {
                '"' => {
                    self.at = start + offset + 1;
                    return Ok(Kind::Text(Text { parts, quoted: true }));
                }
                '*' => parts.push(String::new()),
                '\\' => {
                    let escape = chars.next().map(|(_, escape)| escape);
                    let bad = |end: usize| {
                        ParseError::at(self.source, start + offset, end, "unknown escape in quoted text")
                            .hint(r#"write \" \\ \* \n \r \t or \u{…}; a backslash itself is \\"#)
                    };
                    parts[part].push(match escape {
                        Some(c @ ('"' | '\\' | '*' | '/')) => c,
                        Some('n') => '\n',
                        Some('r') => '\r',
                        Some('t') => '\t',
                        Some('u') => {
                            let mut code: u32 = 0;
                            let open = chars.next().is_some_and(|(_, c)| c == '{');
                            let closed = loop {
                                match chars.next() {
                                    Some((_, '}')) => break true,
                                    Some((_, c)) if c.is_ascii_hexdigit() && code < 0x0100_0000 => {
                                        code = code * 16 + c.to_digit(16).unwrap_or(0);
                                    }
                                    _ => break false,
                                }
                            };
                            match char::from_u32(code).filter(|_| open && closed) {
                                Some(c) => c,
                                None => return Err(bad(start + offset + 2)),
                            }
                        }
                        Some(c) => return Err(bad(start + offset + 1 + c.len_utf8())),
                        None => break,
                    });
                }
                c => parts[part].push(c),
            }
        }
        let end = self.source.len();
        Err(self.error(start, end, "quoted text has no end").hint("close it with \""))
    }

    fn regex(&mut self) -> Result<Kind, ParseError> {
        let start = self.at;
        let mut pattern = String::new();
        let mut chars = self.rest().char_indices().skip(1);
        let length = loop {
            match chars.next() {
                Some((offset, '/')) => break offset + 1,
                Some((_, '\\')) => match chars.next() {
                    Some((_, '/')) => pattern.push('/'),
                    Some((_, c)) => pattern.extend(['\\', c]),
                    None => {}
                },
                Some((_, c)) => pattern.push(c),
                None => {
                    let end = self.source.len();
                    return Err(self
                        .error(start, end, "regular expression has no end")
                        .hint("close it with /, or quote text that begins with a slash: \"/…\""));
                }
            }
        };
        self.at = start + length;
        if self.rest().starts_with(is_word_char) {
            return Err(self
                .error(start, self.at, "the regular expression ends here, but more follows")
                .hint(r#"write \/ for a slash inside it, or quote text that begins with a slash: "/…""#));
        }
        Ok(Kind::Regex(pattern))
    }
}
