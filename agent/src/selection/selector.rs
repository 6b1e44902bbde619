//! One entry of `interfaces` as it is written: a name, a pattern, a class, or the exclusion of one.

use std::fmt;

use gnomon_capture::interface::{Interface, Kind};

/// The kernel's limit for an interface name (IFNAMSIZ less the NUL).
const NAME_BYTES_MAX: usize = 15;
const PATTERN_BYTES_MAX: usize = 64;

/// Characters that are in no pattern of ours and in no name that anybody gives, but in the patterns of other tools.
const FOREIGN: &[char] = &['{', '}', '(', ')', '|', '+', '^', '$', '%', ',', ';', '\\', '"', '\''];

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selector {
    pub excludes: bool,
    pub what: What,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    Name(String),
    Pattern(Pattern),
    Class(Class),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// On a bus: a network card.
    Nic,
    /// Has an address that is not link-local, and is not loopback.
    Addressed,
    /// Every interface, loopback too.
    All,
}

/// Why an entry cannot be meant so.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SelectorError {
    #[error(
        "is empty; write an interface's name, a pattern like `veth*`, or a class: `nic`, `addressed`, `all`"
    )]
    Empty,
    #[error(
        "`any` is no interface; write `all` for every interface, `nic` for network cards, `addressed` for those with \
         addresses, or a pattern like `veth*`"
    )]
    Any,
    #[error(
        "{0:?} is too long: an interface name has 1 to 15 bytes, a pattern at most 64 and matches names only"
    )]
    TooLong(String),
    #[error(
        "{name:?} has {found:?}, which no interface name has; patterns know `*`, `?` and `[a-z]`, and several interfaces are \
         several entries"
    )]
    Foreign { name: String, found: char },
    #[error("{0:?}: `ip link` shows `eth0@if5` for `eth0`; leave out the `@` and what follows it")]
    PeerShown(String),
    #[error("{0:?} has a `[` without the `]` that ends it, or nothing in between")]
    OpenBracket(String),
}

impl Selector {
    /// # Errors
    /// What is wrong, and what to write instead.
    pub fn parse(text: &str) -> Result<Selector, SelectorError> {
        let (excludes, text) = match text.strip_prefix('!') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        Ok(Selector { excludes, what: What::parse(text)? })
    }

    pub fn matches(&self, interface: &Interface) -> bool {
        self.what.matches(interface)
    }
}

impl What {
    fn parse(text: &str) -> Result<What, SelectorError> {
        match text {
            "" | "." | ".." => return Err(SelectorError::Empty),
            "any" => return Err(SelectorError::Any),
            "nic" => return Ok(What::Class(Class::Nic)),
            "addressed" => return Ok(What::Class(Class::Addressed)),
            "all" => return Ok(What::Class(Class::All)),
            _ => {}
        }
        let name = text.to_owned();
        if text.len() > PATTERN_BYTES_MAX {
            return Err(SelectorError::TooLong(name));
        }
        if text.contains('[') || text.contains(['*', '?']) {
            return Pattern::parse(text).map(What::Pattern);
        }
        if text.contains('@') {
            return Err(SelectorError::PeerShown(name));
        }
        if let Some(found) = foreign(text) {
            return Err(SelectorError::Foreign { name, found });
        }
        if text.len() > NAME_BYTES_MAX {
            return Err(SelectorError::TooLong(name));
        }
        Ok(What::Name(name))
    }

    fn matches(&self, interface: &Interface) -> bool {
        match self {
            What::Name(name) => *name == interface.name,
            What::Pattern(pattern) => pattern.matches(&interface.name),
            What::Class(Class::Nic) => interface.kind == Kind::Physical,
            What::Class(Class::Addressed) => !interface.is_loopback() && interface.host_address().is_some(),
            What::Class(Class::All) => true,
        }
    }
}

fn foreign(text: &str) -> Option<char> {
    text.chars()
        .find(|c| FOREIGN.contains(c) || c.is_whitespace() || c.is_control() || matches!(c, '/' | ':' | '!'))
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.excludes { "!" } else { "" })?;
        match &self.what {
            What::Name(name) => f.write_str(name),
            What::Pattern(pattern) => f.write_str(&pattern.text),
            What::Class(Class::Nic) => f.write_str("nic"),
            What::Class(Class::Addressed) => f.write_str("addressed"),
            What::Class(Class::All) => f.write_str("all"),
        }
    }
}

/// A glob: `*` any characters, `?` one, `[a-z0]` one of these, `[!a-z]` one but these.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    text: String,
    steps: Vec<Step>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    Many,
    One,
    Char(char),
    OneOf { ranges: Vec<(char, char)>, negated: bool },
}

impl Step {
    fn takes(&self, c: char) -> bool {
        match self {
            Step::Many | Step::One => true,
            Step::Char(own) => *own == c,
            Step::OneOf { ranges, negated } => {
                ranges.iter().any(|(first, last)| (*first..=*last).contains(&c)) != *negated
            }
        }
    }
}

impl Pattern {
    fn parse(text: &str) -> Result<Pattern, SelectorError> {
        let mut steps = Vec::new();
        let mut rest = text.chars();
        while let Some(c) = rest.next() {
            let step = match c {
                '*' if steps.last() == Some(&Step::Many) => continue,
                '*' => Step::Many,
                '?' => Step::One,
                '[' => {
                    let (inside, after) =
                        bracket(rest.as_str()).ok_or_else(|| SelectorError::OpenBracket(text.to_owned()))?;
                    rest = after.chars();
                    inside
                }
                '@' => return Err(SelectorError::PeerShown(text.to_owned())),
                _ if foreign(c.encode_utf8(&mut [0; 4])).is_some() => {
                    return Err(SelectorError::Foreign { name: text.to_owned(), found: c });
                }
                _ => Step::Char(c),
            };
            steps.push(step);
        }
        // Longer than any name: it would match nothing, for ever.
        if steps.iter().filter(|step| **step != Step::Many).count() > NAME_BYTES_MAX {
            return Err(SelectorError::TooLong(text.to_owned()));
        }
        Ok(Pattern { text: text.to_owned(), steps })
    }

    /// At most steps × characters comparisons: a `*` that matched too little is the last one only.
    fn matches(&self, name: &str) -> bool {
        let name: Vec<char> = name.chars().collect();
        let (mut step, mut at) = (0, 0);
        let mut star: Option<(usize, usize)> = None;
        while at < name.len() {
            match self.steps.get(step) {
                Some(Step::Many) => {
                    star = Some((step, at));
                    step += 1;
                }
                Some(one) if one.takes(name[at]) => {
                    step += 1;
                    at += 1;
                }
                _ => {
                    let Some((many, taken)) = star else { return false };
                    star = Some((many, taken + 1));
                    step = many + 1;
                    at = taken + 1;
                }
            }
        }
        self.steps[step..].iter().all(|step| *step == Step::Many)
    }
}

/// What stands between `[` and `]`, and what follows.
fn bracket(text: &str) -> Option<(Step, &str)> {
    let (negated, text) = match text.strip_prefix(['!', '^']) {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    // A `]` at the first place is one of the characters.
    let end = text.char_indices().skip(1).find(|(_, c)| *c == ']')?.0;
    let (inside, after) = (&text[..end], &text[end + 1..]);
    let chars: Vec<char> = inside.chars().collect();
    let (mut ranges, mut at) = (Vec::new(), 0);
    while at < chars.len() {
        let is_range = at + 2 < chars.len() && chars[at + 1] == '-';
        ranges.push((chars[at], chars[if is_range { at + 2 } else { at }]));
        at += if is_range { 3 } else { 1 };
    }
    if ranges.iter().any(|(first, last)| first > last) {
        return None;
    }
    Some((Step::OneOf { ranges, negated }, after))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pattern(text: &str) -> Pattern {
        match Selector::parse(text).unwrap().what {
            What::Pattern(pattern) => pattern,
            other => panic!("{text} is {other:?}"),
        }
    }

    #[test]
    fn patterns_match_as_in_a_shell() {
        for (text, matching, other) in [
            ("veth*", &["veth", "veth0", "veth1a2b3c4"][..], &["eth0", "xveth0"][..]),
            ("eth[0-9]", &["eth0", "eth9"], &["eth", "eth10", "ethx"]),
            ("en?s*", &["enps", "enos1"], &["ens1", "eth0"]),
            ("*", &["a", "lo"], &[]),
            ("*0*1", &["eth01", "a0b01", "0a1"], &["eth0", "1", "10"]),
            ("[!e]*", &["lo", "veth0"], &["eth0"]),
            ("e[t]h[]]", &["eth]"], &["eth"]),
            ("tun[-0]", &["tun-", "tun0"], &["tun1"]),
        ] {
            let pattern = pattern(text);
            assert!(matching.iter().all(|name| pattern.matches(name)), "{text}");
            assert!(!other.iter().any(|name| pattern.matches(name)), "{text}");
        }
    }

    #[test]
    fn what_would_capture_nothing_is_refused_and_says_what_to_write() {
        for (text, said) in [
            ("any", "`all` for every"),
            ("!any", "`all` for every"),
            ("", "pattern like"),
            ("!", "pattern like"),
            ("eth+", "patterns know"),
            ("eth{0,1}", "patterns know"),
            ("eth0,eth1", "several entries"),
            ("eth0 eth1", "several entries"),
            ("eth0:1", "no interface name has"),
            ("^eth.*$", "no interface name has"),
            ("!!eth0", "no interface name has"),
            ("veth0@if5", "leave out the `@`"),
            ("veth*@if5", "leave out the `@`"),
            ("eth[0", "without the `]`"),
            ("eth[]", "without the `]`"),
            ("eth[9-0]", "without the `]`"),
            ("averyveryverylongname", "1 to 15 bytes"),
            ("????????????????", "1 to 15 bytes"),
            ("/sys/class/net/*", "no interface name has"),
        ] {
            let error = Selector::parse(text).unwrap_err().to_string();
            assert!(error.contains(said), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn nothing_panics_and_a_selector_reads_as_it_is_written(text in "\\PC{0,20}", name in "\\PC{0,16}") {
            if let Ok(selector) = Selector::parse(&text) {
                if let What::Pattern(pattern) = &selector.what {
                    pattern.matches(&name);
                }
                prop_assert_eq!(Selector::parse(&selector.to_string()).unwrap(), selector);
            }
        }
    }
}
