//! How a command ended, as scripts see it.

use std::io;
use std::process::ExitCode;

use tonic::Code;

use crate::arguments::Connection;

/// What a command that worked has to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Found,
    NothingFound,
    Partial,
}

impl Outcome {
    pub(crate) fn of(found: bool, partial: bool) -> Outcome {
        match (partial, found) {
            (true, _) => Outcome::Partial,
            (false, true) => Outcome::Found,
            (false, false) => Outcome::NothingFound,
        }
    }
}

impl From<Outcome> for ExitCode {
    fn from(outcome: Outcome) -> ExitCode {
        ExitCode::from(match outcome {
            Outcome::Found => 0,
            Outcome::NothingFound => 1,
            Outcome::Partial => 3,
        })
    }
}

/// A mistake in what was typed, found by `gnomon` itself.
#[derive(Debug)]
pub(crate) struct Usage(pub(crate) String);

impl std::fmt::Display for Usage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}

const USAGE: u8 = 2;
const FAILED: u8 = 4;

/// The expression with a mark under the column that a message of the parser names.
fn pointed_at(message: &str, expression: &str) -> Option<String> {
    let column: usize = message.strip_prefix("column ")?.split_once(':')?.0.parse().ok()?;
    let shown = gnomon_flow::escape::terminal_safe(expression).to_string();
    // Escaping may have made it longer: then the column is another one.
    let fits = shown == expression && (1..=expression.chars().count() + 1).contains(&column);
    fits.then(|| format!("  {shown}\n  {:>column$}", '^'))
}

/// What to look at when a connection broke without a word: with TLS 1.3 a client hears of its rejected certificate only
/// after it has asked.
fn hint(code: Code, connection: &Connection) -> Option<&'static str> {
    let broke = matches!(code, Code::Cancelled | Code::Unknown | Code::Unavailable);
    (broke && connection.url().starts_with("https://")).then_some(if connection.cert.is_some() {
        "is your certificate (--cert, --key) one of the collector's authority?"
    } else {
        "the collector may ask for a certificate of its authority: --cert and --key"
    })
}

/// Say what went wrong on stderr and choose the exit code.
pub(crate) fn report(error: &anyhow::Error, expression: &str, connection: &Connection) -> ExitCode {
    // The reader of our output went away (`gnomon tail | head`): nothing is wrong. A connection that broke is another
    // matter, and has the same error inside.
    let remote =
        |e: &(dyn std::error::Error + 'static)| e.is::<tonic::Status>() || e.is::<tonic::transport::Error>();
    let broken = |e: &(dyn std::error::Error + 'static)| {
        e.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
    };
    if !error.chain().any(remote) && error.chain().any(broken) {
        return ExitCode::SUCCESS;
    }
    if let Some(status) = error.chain().find_map(|e| e.downcast_ref::<tonic::Status>()) {
        let told = if status.message().is_empty() { status.code().description() } else { status.message() };
        let lines: Vec<_> = told.lines().map(gnomon_flow::escape::terminal_safe).collect();
        eprintln!("error: {}", lines.join("\n"));
        if let Some(pointed) = pointed_at(told, expression) {
            eprintln!("{pointed}");
        }
        if let Some(hint) = hint(status.code(), connection) {
            eprintln!("  hint: {hint}");
        }
        return match status.code() {
            Code::InvalidArgument => ExitCode::from(USAGE),
            Code::NotFound => Outcome::NothingFound.into(),
            _ => ExitCode::from(FAILED),
        };
    }
    let told = gnomon_flow::causes::in_one_line(error.as_ref());
    eprintln!("error: {}", gnomon_flow::escape::terminal_safe(&told));
    let usage = error.chain().any(|e| e.is::<Usage>());
    ExitCode::from(if usage { USAGE } else { FAILED })
}

#[cfg(test)]
mod tests {
    use super::pointed_at;

    #[test]
    fn a_message_with_a_column_points_at_it() {
        assert_eq!(pointed_at("column 3: what?", "a bb").as_deref(), Some("  a bb\n    ^"));
        assert_eq!(pointed_at("column 5: more?", "a bb").as_deref(), Some("  a bb\n      ^"));
        assert_eq!(pointed_at("column 9: where?", "a bb"), None);
        assert_eq!(pointed_at("no such agent", "a bb"), None);
    }
}
