//! How a gnomon daemon ends: exit codes, and how an error is told to a person.

use std::error::Error;
use std::fmt;
use std::process::ExitCode;

use crate::config::ConfigError;
use gnomon_flow::escape::terminal_safe;

/// It did what it was asked.
pub const SUCCESS: u8 = 0;
/// It failed while running: a supervisor may start it again.
pub const FAILURE: u8 = 1;
/// The command line was wrong; clap's code.
pub const USAGE: u8 = 2;
/// The configuration was refused (`EX_CONFIG` of sysexits.h): starting again without a change is useless, and
/// systemd's `RestartPreventExitStatus=78` keeps from it.
pub const CONFIG: u8 = 78;
/// Ended at once by a second SIGINT, SIGTERM (128 + the signal's number, as a shell says it).
pub const INTERRUPTED: u8 = 130;
pub const TERMINATED: u8 = 143;

/// Prints the error, if there is one, to standard error and gives `main` its exit code.
pub fn report(result: anyhow::Result<()>) -> ExitCode {
    let Err(error) = result else { return ExitCode::from(SUCCESS) };
    eprint!("{}", explain(&error));
    ExitCode::from(code(&error))
}

/// The exit code that says what kind of error it is.
#[must_use]
pub fn code(error: &anyhow::Error) -> u8 {
    if error.chain().any(|link| link.is::<ConfigError>()) { CONFIG } else { FAILURE }
}

/// `error: …`, its causes one a line, and the hint if one was given with [`WithHint::hint`].
#[must_use]
pub fn explain(error: &anyhow::Error) -> String {
    let mut text = String::new();
    let mut said: Vec<String> = Vec::new();
    let mut hints = Vec::new();
    for (depth, link) in error.chain().enumerate() {
        if let Some(hinted) = link.downcast_ref::<Hinted>() {
            hints.push(hinted.hint.as_str());
        }
        let message = link.to_string();
        // Many libraries repeat their cause, or the cause of that, in their own message.
        if depth > 0 && said.iter().any(|said| said.contains(&message)) {
            continue;
        }
        let label = if depth == 0 { "error" } else { "  caused by" };
        text.push_str(&format!("{label}: {}\n", terminal_safe(&message)));
        said.push(message);
    }
    for hint in hints {
        text.push_str(&format!("  hint: {}\n", terminal_safe(hint)));
    }
    text
}

/// Adds what the reader can do about an error.
pub trait WithHint<T> {
    /// `hint` is one sentence: what to change or to type.
    ///
    /// # Errors
    /// The same error, with the hint attached.
    fn hint(self, hint: impl Into<String>) -> anyhow::Result<T>;
}

impl<T, E: Into<anyhow::Error>> WithHint<T> for Result<T, E> {
    fn hint(self, hint: impl Into<String>) -> anyhow::Result<T> {
        self.map_err(|error| anyhow::Error::new(Hinted { hint: hint.into(), error: error.into() }))
    }
}

/// Says what its error says; carries the hint along the chain.
#[derive(Debug)]
struct Hinted {
    hint: String,
    error: anyhow::Error,
}

impl fmt::Display for Hinted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl Error for Hinted {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        // The error itself, not its cause, so that its type can still be asked for; `explain` does not say it twice.
        Some(self.error.as_ref())
    }
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;

    fn config_error() -> ConfigError {
        ConfigError::out_of_range("workers", 0, "1 to 256")
    }

    #[test]
    fn tells_causes_and_hint() {
        let io = std::io::Error::other("no such device");
        let result: anyhow::Result<()> = Err(io).hint("list interfaces with `ip link`");
        let error = result.context("cannot open eth9").unwrap_err();
        assert_eq!(
            explain(&error),
            "error: cannot open eth9\n  caused by: no such device\n  hint: list interfaces with `ip link`\n"
        );
        assert_eq!(code(&error), FAILURE);
    }

    #[test]
    fn a_cause_is_told_once_wherever_it_was_told_before() {
        let io = || std::io::Error::other("no such device");
        let result: anyhow::Result<()> = Err(io()).context("the second try failed");
        let error = result.context(format!("cannot open eth9: {}", io())).unwrap_err();
        assert_eq!(
            explain(&error),
            "error: cannot open eth9: no such device\n  caused by: the second try failed\n"
        );
    }

    #[test]
    fn a_refused_config_has_its_own_code_however_it_is_wrapped() {
        let result: anyhow::Result<()> = Err(config_error()).hint("see `config show`");
        let error = result.context("cannot start").unwrap_err();
        assert_eq!(code(&error), CONFIG);
        assert_eq!(explain(&error).matches("workers").count(), 1);
        assert_eq!(code(&anyhow::Error::new(config_error())), CONFIG);
    }

    #[test]
    fn an_error_cannot_drive_the_terminal() {
        let error = anyhow::anyhow!("bad name a\x1b[2J\nerror: forged");
        assert_eq!(explain(&error), "error: bad name a\\u{1b}[2J\\nerror: forged\n");
    }
}
