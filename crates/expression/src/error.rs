//! What is wrong with an expression, and where.

use std::fmt;

use gnomon_flow::FIELDS;
use gnomon_flow::spelling::distance;

/// An expression that cannot be understood: the place, what is wrong there, and what to write instead.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct ParseError {
    /// Where it begins, in characters from 1 over the whole expression.
    pub column: usize,
    /// How many characters are meant; at least 1.
    pub length: usize,
    pub message: String,
    /// What to write instead, or empty.
    pub hint: String,
}

/// Characters of the expression shown on each side of the place.
const CONTEXT_CHARS: usize = 60;

impl ParseError {
    /// An error at bytes `start..end` of `source`.
    pub(super) fn at(source: &str, start: usize, end: usize, message: impl Into<String>) -> ParseError {
        let chars_in =
            |from: usize, to: usize| source.char_indices().filter(|(at, _)| (from..to).contains(at)).count();
        ParseError {
            column: chars_in(0, start) + 1,
            length: chars_in(start, end).max(1),
            message: message.into(),
            hint: String::new(),
        }
    }

    pub(super) fn hint(mut self, hint: impl Into<String>) -> ParseError {
        self.hint = hint.into();
        self
    }

    /// The part of `expression` around the place, with carets under it: two lines without a final line break.
    pub fn caret(&self, expression: &str) -> String {
        // What moves the cursor would put the carets under the wrong text.
        let shown = |c: char| if c.is_control() { ' ' } else { c };
        let start = self.column.saturating_sub(1);
        let from = start.saturating_sub(CONTEXT_CHARS);
        let length = self.length.min(CONTEXT_CHARS);
        let to = start + length + CONTEXT_CHARS;
        let chars = expression.chars().count();
        let text: String = expression.chars().skip(from).take(to - from).map(shown).collect();
        let (before, after) = (if from > 0 { "… " } else { "" }, if to < chars { " …" } else { "" });
        let indent = before.chars().count() + start - from;
        format!("{before}{text}{after}\n{:indent$}{}", "", "^".repeat(length))
    }
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "column {}: {}", self.column, self.message)?;
        if !self.hint.is_empty() {
            write!(f, "; {}", self.hint)?;
        }
        Ok(())
    }
}

/// «did you mean …» for a field name nobody has.
pub fn field_hint(name: &str) -> String {
    let names = FIELDS.iter().flat_map(|f| f.aliases.iter().chain([&f.name]));
    match nearest(name, names.copied()).as_slice() {
        [] => "`gnomon fields` and docs/search.md list all fields".to_owned(),
        near => format!("did you mean {}?", near.join(" or ")),
    }
}

/// At most three of `names` that `name` may have been meant for, the likeliest first.
pub(super) fn nearest<'n>(name: &str, names: impl Iterator<Item = &'n str>) -> Vec<&'n str> {
    // A long name is nobody's typo, and the distance costs the product of the lengths.
    if name.is_empty() || name.len() > 40 {
        return Vec::new();
    }
    let name = name.to_lowercase();
    let mut scored: Vec<(usize, &str)> = names
        .filter_map(|candidate| {
            let lower = candidate.to_lowercase();
            let away = distance(&name, &lower);
            let part = name.len() >= 3
                && lower
                    .split('.')
                    .any(|part| part == name || distance(part, &name) <= usize::from(name.len() > 4));
            let near = away <= 1 + name.len() / 4;
            (near || part || (name.len() >= 3 && lower.starts_with(&name))).then_some((away, candidate))
        })
        .collect();
    scored.sort();
    scored.into_iter().take(3).map(|(_, candidate)| candidate).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_names_are_found() {
        assert_eq!(field_hint("prot"), "did you mean port or protocol or protocols?");
        assert!(field_hint("ip.scr").contains("ip.src"));
        assert!(field_hint("host").contains("dns.host"), "{}", field_hint("host"));
        assert!(field_hint("zzzzzzzz").contains("docs/search.md"));
        assert!(field_hint(&"x".repeat(10_000)).contains("docs/search.md"));
    }

    #[test]
    fn carets_stand_under_the_place() {
        let text = "é == 1 && prot == tcp";
        let at = text.find("prot").unwrap_or(0);
        let error = ParseError::at(text, at, at + 4, "unknown field");
        assert_eq!(error.column, 11);
        assert_eq!(error.caret(text), format!("{text}\n          ^^^^"));
        let long = format!("{}prot{}", "a ".repeat(500), " b".repeat(500));
        let error = ParseError::at(&long, 1000, 1004, "unknown field");
        let caret = error.caret(&long);
        let (line, carets) = caret.split_once('\n').unwrap_or_default();
        let under: String =
            line.chars().zip(carets.chars()).filter(|(_, c)| *c == '^').map(|(t, _)| t).collect();
        assert_eq!(under, "prot");
        assert!(line.chars().count() < 140);
    }
}
