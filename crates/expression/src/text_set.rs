//! Sets of text: exact values, wildcards and regular expressions, letter case ignored.

use std::collections::HashSet;

use regex::Regex;

use super::ast::TextTerm;
use super::term::anchored_regex;

/// Beyond so many exact values a hash beats comparing one by one.
const HASH_FROM: usize = 8;

#[derive(Default)]
pub struct TextSet {
    /// In lower case.
    few: Vec<String>,
    many: HashSet<String>,
    wildcards: Vec<Wildcard>,
    patterns: Vec<Regex>,
}

/// What stands between the `*`, in lower case.
struct Wildcard {
    prefix: String,
    inner: Vec<String>,
    suffix: String,
}

impl TextSet {
    pub(super) fn of<'t>(terms: impl Iterator<Item = &'t TextTerm>) -> TextSet {
        let mut set = TextSet::default();
        for term in terms {
            match term {
                TextTerm::Exact(text) => set.few.push(text.to_lowercase()),
                TextTerm::Wildcard(parts) => set.wildcards.extend(Wildcard::of(parts)),
                // The parser has compiled it before; what did not compile is no pattern and matches nothing.
                TextTerm::Regex(pattern) => set.patterns.extend(anchored_regex(pattern)),
            }
        }
        if set.few.len() > HASH_FROM {
            set.many = set.few.drain(..).collect();
        }
        set
    }

    /// The values in lower case, when the set is just those.
    pub fn exact_only(&self) -> Option<impl Iterator<Item = &str>> {
        (self.wildcards.is_empty() && self.patterns.is_empty())
            .then(|| self.few.iter().chain(&self.many).map(String::as_str))
    }

    /// What every value of the set has in it, in lower case, when the set is one wildcard with some text.
    pub fn needle(&self) -> Option<&str> {
        let [wildcard] = &self.wildcards[..] else { return None };
        if !(self.few.is_empty() && self.many.is_empty() && self.patterns.is_empty()) {
            return None;
        }
        let parts = [&wildcard.prefix, &wildcard.suffix].into_iter().chain(&wildcard.inner);
        parts.map(String::as_str).max_by_key(|part| part.len()).filter(|part| !part.is_empty())
    }

    pub fn has(&self, value: &str) -> bool {
        self.few.iter().any(|text| same(value, text))
            || (!self.many.is_empty() && self.many.contains(&value.to_lowercase()))
            || self.wildcards.iter().any(|wildcard| wildcard.matches(value))
            || self.patterns.iter().any(|pattern| pattern.is_match(value))
    }
}

/// Whether `value` in lower case is `lower`.
fn same(value: &str, lower: &str) -> bool {
    if value.is_ascii() {
        return value.eq_ignore_ascii_case(lower);
    }
    value.chars().flat_map(char::to_lowercase).eq(lower.chars())
}

impl Wildcard {
    fn of(parts: &[String]) -> Option<Wildcard> {
        let (first, rest) = parts.split_first()?;
        let (last, inner) = rest.split_last()?;
        let lower = |text: &String| text.to_lowercase();
        Some(Wildcard { prefix: lower(first), inner: inner.iter().map(lower).collect(), suffix: lower(last) })
    }

    fn matches(&self, value: &str) -> bool {
        if value.is_ascii() {
            self.matches_bytes(value.as_bytes())
        } else {
            self.matches_bytes(value.to_lowercase().as_bytes())
        }
    }

    fn matches_bytes(&self, value: &[u8]) -> bool {
        let (prefix, suffix) = (self.prefix.as_bytes(), self.suffix.as_bytes());
        let Some((start, rest)) = value.split_at_checked(prefix.len()) else { return false };
        let Some(middle_len) = rest.len().checked_sub(suffix.len()) else { return false };
        let (mut middle, end) = rest.split_at(middle_len);
        if !start.eq_ignore_ascii_case(prefix) || !end.eq_ignore_ascii_case(suffix) {
            return false;
        }
        // The leftmost place for each part leaves the most room for the next.
        for part in self.inner.iter().map(String::as_bytes) {
            let Some(at) = find(middle, part) else { return false };
            middle = &middle[at + part.len()..];
        }
        true
    }
}

/// Where `part`, which is in lower case, is in `text` first.
fn find(text: &[u8], part: &[u8]) -> Option<usize> {
    let Some((first, rest)) = part.split_first() else { return Some(0) };
    let last = text.len().checked_sub(part.len())?;
    (0..=last).find(|at| {
        // Most places end with the first look.
        text[*at].to_ascii_lowercase() == *first && text[at + 1..at + part.len()].eq_ignore_ascii_case(rest)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_every_value_has() {
        let wildcard = |parts: &[&str]| TextTerm::Wildcard(parts.iter().map(|p| (*p).to_owned()).collect());
        let needle = |terms: &[TextTerm]| TextSet::of(terms.iter()).needle().map(str::to_owned);
        assert_eq!(needle(&[wildcard(&["", "Video", ""])]), Some("video".to_owned()));
        assert_eq!(needle(&[wildcard(&["a", "bc", "d", "efg"])]), Some("efg".to_owned()));
        assert_eq!(needle(&[wildcard(&["", ""])]), None);
        assert_eq!(needle(&[wildcard(&["a", ""]), wildcard(&["b", ""])]), None);
        assert_eq!(needle(&[wildcard(&["a", ""]), TextTerm::Exact("b".to_owned())]), None);
        assert_eq!(needle(&[TextTerm::Exact("b".to_owned())]), None);
    }

    fn has(parts: &[&str], value: &str) -> bool {
        let term = TextTerm::Wildcard(parts.iter().map(|p| (*p).to_owned()).collect());
        TextSet::of([&term].into_iter()).has(value)
    }

    #[test]
    fn wildcards_match_anything_between() {
        assert!(has(&["", ".example.org"], "www.Example.ORG"));
        assert!(!has(&["", ".example.org"], "example.org"));
        assert!(has(&["a", "a"], "aa") && !has(&["a", "a"], "a"));
        assert!(has(&["a", "b", "c"], "a__b__c") && !has(&["a", "b", "c"], "a_c_b"));
        assert!(has(&["", "ab", "ab", ""], "abab") && !has(&["", "ab", "ab", ""], "aba"));
        assert!(has(&["", "ÄÖ", ""], "xäöx") && !has(&["", "äö", ""], "xäx"));
        assert!(has(&["GET /", ""], "get /"));
    }

    #[test]
    fn exact_values_ignore_case_few_and_many() {
        let few =
            TextSet::of([&TextTerm::Exact("Straße".into()), &TextTerm::Exact("tcp".into())].into_iter());
        assert!(few.has("STRAßE") && few.has("TCP") && !few.has("tcpx") && !few.has(""));
        let terms: Vec<TextTerm> = (0..100).map(|n| TextTerm::Exact(format!("Host{n}"))).collect();
        let many = TextSet::of(terms.iter());
        assert!(many.has("hOST99") && !many.has("host100"));
    }

    #[test]
    fn a_pattern_matches_the_whole_value() {
        let set = TextSet::of([&TextTerm::Regex("a|bc?".into())].into_iter());
        assert!(set.has("A") && set.has("bc") && !set.has("abc") && !set.has("xa"));
    }
}
