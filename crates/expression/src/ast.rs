//! The expression as a tree, and its canonical text: `parse(tree.to_string()) == tree`.

use std::fmt;

use gnomon_clock::UtcNs;
use gnomon_flow::timestamp::rfc3339;
use gnomon_flow::{Field, FieldId};

use super::ip::IpTerm;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expression {
    /// The empty expression: every flow.
    All,
    Not(Box<Expression>),
    /// Two or more.
    And(Vec<Expression>),
    /// Two or more.
    Or(Vec<Expression>),
    Compare(Comparison),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Comparison {
    pub field: FieldRef,
    pub operator: Operator,
    pub operand: Operand,
}

/// A field of the table; two are equal when their ids are.
#[derive(Clone, Copy)]
pub struct FieldRef(pub &'static Field);

impl FieldRef {
    pub fn id(self) -> FieldId {
        self.0.id
    }
}

impl PartialEq for FieldRef {
    fn eq(&self, other: &FieldRef) -> bool {
        self.0.id == other.0.id
    }
}

impl Eq for FieldRef {}

impl fmt::Debug for FieldRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.name)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    Equal,
    /// No element equals.
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl Operator {
    pub const ALL: [Operator; 6] = [
        Operator::Equal,
        Operator::NotEqual,
        Operator::Less,
        Operator::LessOrEqual,
        Operator::Greater,
        Operator::GreaterOrEqual,
    ];

    pub fn is_equality(self) -> bool {
        matches!(self, Operator::Equal | Operator::NotEqual)
    }
}

/// What a field is compared with. Only `One` has an order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operand {
    /// The field has any value at all.
    Exists,
    One(Term),
    /// `[a,b]`: an element equals one of them.
    AnyOf(Vec<Term>),
    /// `]a,b[`: for each of them an element equals.
    AllOf(Vec<Term>),
}

impl Operand {
    pub fn terms(&self) -> &[Term] {
        match self {
            Operand::Exists => &[],
            Operand::One(term) => std::slice::from_ref(term),
            Operand::AnyOf(terms) | Operand::AllOf(terms) => terms,
        }
    }
}

/// One value, of the kind its field has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Term {
    Ip(IpTerm),
    /// From and to, both included.
    Integer(u64, u64),
    Text(TextTerm),
    Time(TimeTerm),
    Bool(bool),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TextTerm {
    Exact(String),
    /// What stands between the wildcards: two parts or more, none empty but the first and the last.
    Wildcard(Vec<String>),
    /// Matches the whole value.
    Regex(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeTerm {
    /// A point, or the second or the day that begins there.
    At(UtcNs, Precision),
    /// So many nanoseconds from the moment of the query.
    Now(i64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    Nanosecond,
    Second,
    Day,
}

impl TimeTerm {
    /// The first and the last nanosecond that are meant, when it is `now`.
    pub fn interval(self, now: UtcNs) -> (UtcNs, UtcNs) {
        match self {
            TimeTerm::At(utc, precision) => {
                let unix_ns = match precision {
                    Precision::Nanosecond => return (utc, utc),
                    Precision::Second => 1_000_000_000,
                    Precision::Day => 86_400_000_000_000,
                };
                let end = UtcNs::from_unix_ns(utc.unix_ns().saturating_add(unix_ns));
                (utc, end.saturating_add_ns(-1))
            }
            TimeTerm::Now(offset_ns) => {
                let utc = now.saturating_add_ns(offset_ns);
                (utc, utc)
            }
        }
    }
}

impl Expression {
    /// Call `visit` with each comparison.
    pub fn each_comparison<'e>(&'e self, visit: &mut impl FnMut(&'e Comparison)) {
        match self {
            Expression::All => {}
            Expression::Not(inner) => inner.each_comparison(visit),
            Expression::And(list) | Expression::Or(list) => {
                list.iter().for_each(|e| e.each_comparison(visit));
            }
            Expression::Compare(comparison) => visit(comparison),
        }
    }
}

impl fmt::Display for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nested = |f: &mut fmt::Formatter<'_>, inner: &Expression, paren: bool| {
            if paren { write!(f, "({inner})") } else { write!(f, "{inner}") }
        };
        let list = |f: &mut fmt::Formatter<'_>, list: &[Expression], between: &str, tighter: bool| {
            list.iter().enumerate().try_for_each(|(i, inner)| {
                f.write_str(if i == 0 { "" } else { between })?;
                let paren = match inner {
                    Expression::And(_) => tighter,
                    Expression::Or(_) => true,
                    _ => false,
                };
                nested(f, inner, paren)
            })
        };
        match self {
            Expression::All => Ok(()),
            Expression::Not(inner) => {
                f.write_str("!")?;
                // `!field == x` means the same, but reads as if the field were negated.
                nested(f, inner, !matches!(**inner, Expression::Not(_)))
            }
            Expression::And(inner) => list(f, inner, " && ", true),
            Expression::Or(inner) => list(f, inner, " || ", false),
            Expression::Compare(comparison) => write!(f, "{comparison}"),
        }
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} ", self.field.0.name, self.operator)?;
        let list = |f: &mut fmt::Formatter<'_>, open: &str, terms: &[Term], close: &str| {
            f.write_str(open)?;
            for (i, term) in terms.iter().enumerate() {
                write!(f, "{}{term}", if i == 0 { "" } else { "," })?;
            }
            f.write_str(close)
        };
        match &self.operand {
            Operand::Exists => f.write_str("EXISTS!"),
            Operand::One(term) => write!(f, "{term}"),
            Operand::AnyOf(terms) => list(f, "[", terms, "]"),
            Operand::AllOf(terms) => list(f, "]", terms, "["),
        }
    }
}

impl fmt::Display for Operator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Operator::Equal => "==",
            Operator::NotEqual => "!=",
            Operator::Less => "<",
            Operator::LessOrEqual => "<=",
            Operator::Greater => ">",
            Operator::GreaterOrEqual => ">=",
        })
    }
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Term::Ip(ip) => write!(f, "{ip}"),
            Term::Integer(from, to) if from == to => write!(f, "{from}"),
            Term::Integer(from, to) => write!(f, "{from}-{to}"),
            Term::Text(text) => write!(f, "{text}"),
            Term::Time(time) => write!(f, "{time}"),
            Term::Bool(b) => write!(f, "{b}"),
        }
    }
}

impl fmt::Display for TextTerm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bare = |text: &str| {
            text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.:".contains(&b))
                && !text.eq_ignore_ascii_case("exists")
        };
        match self {
            TextTerm::Exact(text) if !text.is_empty() && bare(text) => f.write_str(text),
            TextTerm::Exact(text) => quoted(f, std::slice::from_ref(text)),
            TextTerm::Wildcard(parts) if parts.iter().all(|part| bare(part)) => f.write_str(&parts.join("*")),
            TextTerm::Wildcard(parts) => quoted(f, parts),
            TextTerm::Regex(pattern) => {
                f.write_str("/")?;
                let mut chars = pattern.chars();
                while let Some(c) = chars.next() {
                    match c {
                        '/' => f.write_str("\\/")?,
                        '\\' => {
                            f.write_str("\\")?;
                            chars.next().map_or(Ok(()), |escaped| write!(f, "{escaped}"))?;
                        }
                        c => write!(f, "{c}")?,
                    }
                }
                f.write_str("/")
            }
        }
    }
}

fn quoted(f: &mut fmt::Formatter<'_>, parts: &[String]) -> fmt::Result {
    f.write_str("\"")?;
    for (i, part) in parts.iter().enumerate() {
        f.write_str(if i == 0 { "" } else { "*" })?;
        for c in part.chars() {
            match c {
                '"' | '\\' | '*' => write!(f, "\\{c}")?,
                '\n' => f.write_str("\\n")?,
                '\r' => f.write_str("\\r")?,
                '\t' => f.write_str("\\t")?,
                c if c.is_control() => write!(f, "\\u{{{:x}}}", u32::from(c))?,
                c => write!(f, "{c}")?,
            }
        }
    }
    f.write_str("\"")
}

impl fmt::Display for TimeTerm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            TimeTerm::At(utc, precision) => {
                let text = rfc3339(utc);
                match precision {
                    Precision::Nanosecond => f.write_str(&text),
                    Precision::Second => write!(f, "{}Z", text.split('.').next().unwrap_or_default()),
                    Precision::Day => f.write_str(text.split('T').next().unwrap_or_default()),
                }
            }
            TimeTerm::Now(offset_ns) => {
                let sign = if offset_ns < 0 { "-" } else { "+" };
                let mut rest = offset_ns.unsigned_abs();
                f.write_str("now")?;
                if rest == 0 {
                    return Ok(());
                }
                f.write_str(sign)?;
                for (unit, name) in super::time::UNITS {
                    if rest >= unit {
                        write!(f, "{}{name}", rest / unit)?;
                        rest %= unit;
                    }
                }
                Ok(())
            }
        }
    }
}
