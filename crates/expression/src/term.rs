//! Words and quoted texts → terms of the kind that their field has.

use gnomon_flow::field::PROTOCOL_NAMES;
use gnomon_flow::{Field, FieldKind};
use regex::{Regex, RegexBuilder};

use super::PATTERN_COMPILED_BYTES_MAX;
use super::ast::{Term, TextTerm};
use super::error::nearest;
use super::ip::IpTerm;
use super::lexer::Text;
use super::time;

/// What is wrong with a value, and what to write instead (or nothing).
pub(super) struct Problem {
    pub(super) message: String,
    pub(super) hint: String,
}

impl Problem {
    fn new(message: impl Into<String>, hint: impl Into<String>) -> Problem {
        Problem { message: message.into(), hint: hint.into() }
    }
}

pub(super) fn of_text(field: &Field, text: &Text) -> Result<Term, Problem> {
    if field.kind == FieldKind::Text {
        return text_term(field, text).map(Term::Text);
    }
    let Some(word) = text.plain() else {
        let kind = kind_name(field.kind);
        return Err(Problem::new(
            format!("{} is {kind}: it has no wildcards", field.name),
            example(field.kind),
        ));
    };
    let wrong = |what: &str| Problem::new(format!("{word:?} is not {what}"), example(field.kind));
    match field.kind {
        FieldKind::Ip => {
            let term = IpTerm::parse(word)
                .map_err(|problem| Problem::new(format!("{word:?} {problem}"), example(FieldKind::Ip)))?;
            if term.port.is_some() && !has_port(field) {
                let message = format!("{} has no port beside it", field.name);
                return Err(Problem::new(message, "compare the address here, and `port` apart"));
            }
            Ok(Term::Ip(term))
        }
        FieldKind::Integer => integer(word),
        FieldKind::Time => time::parse(word).map(Term::Time).ok_or_else(|| wrong("a time")),
        FieldKind::Bool => match word.to_ascii_lowercase().as_str() {
            "true" => Ok(Term::Bool(true)),
            "false" => Ok(Term::Bool(false)),
            _ => Err(wrong("true or false")),
        },
        FieldKind::Text => text_term(field, text).map(Term::Text),
    }
}

pub(super) fn of_regex(field: &Field, pattern: &str) -> Result<Term, Problem> {
    if field.kind != FieldKind::Text {
        let message = format!("{} is {}: it has no regular expressions", field.name, kind_name(field.kind));
        return Err(Problem::new(message, example(field.kind)));
    }
    if pattern.is_empty() {
        return Err(Problem::new("the regular expression is empty", "ask for any value by EXISTS!"));
    }
    match anchored_regex(pattern) {
        Ok(_) => Ok(Term::Text(TextTerm::Regex(pattern.to_owned()))),
        Err(problem) => Err(Problem::new(problem, "it matches the whole value, letter case ignored")),
    }
}

pub(super) fn kind_name(kind: FieldKind) -> &'static str {
    match kind {
        FieldKind::Ip => "an address",
        FieldKind::Integer => "an integer",
        FieldKind::Text => "text",
        FieldKind::Time => "a time",
        FieldKind::Bool => "true or false",
    }
}

fn example(kind: FieldKind) -> &'static str {
    match kind {
        FieldKind::Ip => {
            "write 10.1.2.3, 10.0.0.0/8, 10.1 (a /16), 10.1.2.3:443, 2001:db8::/32 or 2001:db8::1.443"
        }
        FieldKind::Integer => "write a whole number such as 443, or a range such as 3-7",
        FieldKind::Text => "write a word, or \"quoted text\"",
        FieldKind::Time => "write 2026-01-31T12:00:00Z, 2026-01-31, 1769860800, now-5m or -1h",
        FieldKind::Bool => "write true or false",
    }
}

/// `pattern` for the whole of a value, letter case ignored, `.` matching line breaks too; or what is wrong with it.
pub fn anchored_regex(pattern: &str) -> Result<Regex, String> {
    let build = |pattern: &str| {
        RegexBuilder::new(pattern)
            .case_insensitive(true)
            .dot_matches_new_line(true)
            .size_limit(PATTERN_COMPILED_BYTES_MAX)
            .dfa_size_limit(PATTERN_COMPILED_BYTES_MAX)
            .nest_limit(64)
            .build()
            .map_err(|error| match error {
                regex::Error::CompiledTooBig(limit) => {
                    format!("regular expression takes more than {limit} bytes when compiled")
                }
                error => {
                    let text = error.to_string();
                    let reason = text.lines().last().unwrap_or_default();
                    format!("regular expression is malformed: {}", reason.trim_start_matches("error: "))
                }
            })
    };
    // Alone first: `a)(b` would be well-formed between the parentheses.
    build(pattern)?;
    build(&format!("^(?:{pattern})$"))
}

/// Whether `ip:port` makes sense: the addresses of the flow's own ends.
fn has_port(field: &Field) -> bool {
    !field.is_attribute()
}

fn integer(word: &str) -> Result<Term, Problem> {
    let wrong = || Problem::new(format!("{word:?} is not an integer"), example(FieldKind::Integer));
    let number = |text: &str| {
        let (digits, radix) = match text.strip_prefix("0x") {
            Some(digits) => (digits, 16),
            None => (text, 10),
        };
        // from_str_radix would take a sign.
        if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(wrong());
        }
        u64::from_str_radix(digits, radix).map_err(|error| match error.kind() {
            std::num::IntErrorKind::PosOverflow => {
                Problem::new(format!("{word:?} is too large"), format!("the largest integer is {}", u64::MAX))
            }
            _ => wrong(),
        })
    };
    let (from, to) = match word.split_once('-') {
        Some((from, to)) if !from.is_empty() => (number(from)?, number(to)?),
        Some(_) => return Err(Problem::new(format!("{word:?} is negative"), "no field is")),
        None => (number(word)?, number(word)?),
    };
    if from > to {
        return Err(Problem::new(format!("the range {word:?} is empty"), format!("write {to}-{from}")));
    }
    Ok(Term::Integer(from, to))
}

fn text_term(field: &Field, text: &Text) -> Result<TextTerm, Problem> {
    let Some(plain) = text.plain() else {
        let (first, last) = (text.parts.first().cloned(), text.parts.last().cloned());
        let inner = text.parts.get(1..text.parts.len() - 1).unwrap_or_default();
        // Two wildcards side by side are one.
        let inner: Vec<String> = inner.iter().filter(|part| !part.is_empty()).cloned().collect();
        let parts: Vec<String> = first.into_iter().chain(inner).chain(last).collect();
        if parts.iter().all(String::is_empty) {
            return Err(Problem::new("a wildcard alone asks for nothing", "ask for any value by EXISTS!"));
        }
        return Ok(TextTerm::Wildcard(parts));
    };
    if !text.quoted && plain.starts_with('$') {
        let message = format!("{plain:?} would be a shortcut, and there are none here");
        return Err(Problem::new(message, "quote text that begins with $: \"$…\""));
    }
    match field.name {
        "ip.protocol" => return protocol(plain),
        "mac" | "mac.src" | "mac.dst" => return mac(plain),
        _ => {}
    }
    if field.values.is_empty() {
        return Ok(TextTerm::Exact(plain.to_owned()));
    }
    // A closed set: a typo would silently find nothing.
    let known = field.values.iter().find(|value| value.eq_ignore_ascii_case(plain));
    known.map(|value| TextTerm::Exact((*value).to_owned())).ok_or_else(|| {
        let message = format!("{plain:?} is no value of {}", field.name);
        Problem::new(message, format!("it is one of {}", field.values.join(", ")))
    })
}

/// Protocols by name or number; the field holds names.
fn protocol(word: &str) -> Result<TextTerm, Problem> {
    let lower = word.to_ascii_lowercase();
    let name = |number: u8| {
        let named = PROTOCOL_NAMES.iter().find(|(n, _)| *n == number);
        named.map_or_else(|| format!("ip-{number}"), |(_, name)| (*name).to_owned())
    };
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    if let Some(number) = lower.parse::<u8>().ok().filter(|_| digits(&lower)) {
        return Ok(TextTerm::Exact(name(number)));
    }
    if let Some(number) = lower.strip_prefix("ip-").filter(|n| digits(n)).and_then(|n| n.parse().ok()) {
        return Ok(TextTerm::Exact(name(number)));
    }
    let other = ["arp", "rarp", "lldp", "unknown"];
    let names = || PROTOCOL_NAMES.iter().map(|(_, name)| *name).chain(other);
    let ethertype = lower
        .strip_prefix("ethertype-")
        .is_some_and(|hex| hex.len() == 4 && hex.bytes().all(|b| b.is_ascii_hexdigit()));
    if lower == "icmp6" {
        return Ok(TextTerm::Exact("icmpv6".to_owned()));
    }
    if ethertype || names().any(|name| name == lower) {
        return Ok(TextTerm::Exact(lower));
    }
    let hint = match nearest(word, names()).as_slice() {
        [] => "write a name such as tcp or arp, a number such as 253, or ethertype-88cc; what runs above \
               (http, dns) is in `protocols`"
            .to_owned(),
        near => format!("did you mean {}? what runs above (http, dns) is in `protocols`", near.join(" or ")),
    };
    Err(Problem::new(format!("unknown protocol {word:?}"), hint))
}

fn mac(word: &str) -> Result<TextTerm, Problem> {
    let text = word.replace('-', ":").to_ascii_lowercase();
    let octets: Vec<&str> = text.split(':').collect();
    let octet = |o: &&str| o.len() == 2 && o.bytes().all(|b| b.is_ascii_hexdigit());
    if octets.len() != 6 || !octets.iter().all(octet) {
        let message = format!("{word:?} is not a MAC address");
        return Err(Problem::new(message, "write 02:00:5e:10:00:01, or a part with a wildcard: 02:00:5e:*"));
    }
    Ok(TextTerm::Exact(text))
}
