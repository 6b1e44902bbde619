//! The search language: text → typed expression, checked against the field table → predicate, asked of records. Pure:
//! reads no clock and no store.
//!
//! The grammar and the names are Arkime's (docs/search.md has the language with examples, each parsed by a test):
//!
//! ```text
//! expression = or ;  or = and { "||" and } ;  and = unary { "&&" unary } ;
//! unary      = "!" unary | "(" or ")" | field operator value ;
//! operator   = "==" | "!=" | "<" | "<=" | ">" | ">=" ;
//! value      = "EXISTS!" | term | "[" term { "," term } "]" | "]" term { "," term } "[" ;
//! term       = word | "quoted text" | /regular expression/ ;
//! ```
//!
//! Whoever types an expression is not trusted: length, depth and patterns are bounded, and parsing never panics.

mod ast;
mod error;
mod ip;
mod lexer;
mod manual;
mod parser;
mod predicate;
mod term;
#[cfg(test)]
mod tests;
mod text_set;
mod time;

pub use ast::{Comparison, Expression, FieldRef, Operand, Operator, Precision, Term, TextTerm, TimeTerm};
pub use error::{ParseError, field_hint};
pub use ip::{IpTerm, Network};
pub use manual::search_docs;
pub use parser::{Scope, parse, parse_in};
pub use predicate::{Intervals, IpSet, Predicate, Test, ValueSet, Wanted};
pub use term::anchored_regex;
pub use text_set::TextSet;
pub use time::{moment, relative_ns};

/// Bytes of an expression.
pub const EXPRESSION_BYTES_MAX: usize = 16 * 1024;
/// Parentheses and `!` inside each other.
pub const DEPTH_MAX: usize = 64;
/// Regular expressions and wildcards in one expression, which are what costs memory.
pub const PATTERNS_MAX: usize = 64;
/// Bytes a compiled pattern may take.
pub const PATTERN_COMPILED_BYTES_MAX: usize = 256 * 1024;
