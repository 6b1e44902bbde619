//! Everything that can be wrong with a config, said with its place, its key and what is allowed there.

use std::fmt::Display;
use std::io;
use std::ops::RangeInclusive;
use std::path::PathBuf;

use thiserror::Error;

use super::Origin;

/// Why a config was refused. A daemon that gets one must not start.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ConfigError {
    #[error("config file {path} does not exist", path = path.display())]
    Missing { path: PathBuf },
    #[error("cannot read config file {path}", path = path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("config file {path} is {bytes} bytes; the limit is {limit}", path = path.display())]
    TooLarge { path: PathBuf, bytes: u64, limit: u64 },
    #[error("{path}:{line}:{column}: not valid TOML: {message}", path = path.display())]
    Syntax { path: PathBuf, line: usize, column: usize, message: String },
    #[error("{}unknown key `{key}`{}", at(origin), hint(nearest.as_deref(), keys))]
    UnknownKey {
        origin: Origin,
        key: String,
        /// The dotted path that was probably meant.
        nearest: Option<String>,
        /// The keys there are in its place, in words.
        keys: String,
    },
    #[error("{}`{old}` was renamed: use `{new}`", at(origin))]
    Renamed { origin: Origin, old: String, new: String },
    #[error("{}`{key}`: expected {expected}, found {found}", at(origin))]
    Type { origin: Origin, key: String, expected: String, found: String },
    #[error("{}`{key}` is {value}; allowed: {allowed}", at(origin))]
    OutOfRange { origin: Origin, key: String, value: String, allowed: String },
    #[error("{}`{key}`: {message}", at(origin))]
    Invalid { origin: Origin, key: String, message: String },
    #[error("{variable} is not UTF-8; a config value must be")]
    NotUtf8 { variable: String },
}

impl ConfigError {
    /// For [`super::Validate`]: the value of `key` lies outside of `allowed`.
    #[must_use]
    pub fn out_of_range(key: &str, value: impl Display, allowed: impl Display) -> Self {
        Self::OutOfRange {
            origin: Origin::Default,
            key: key.to_owned(),
            value: value.to_string(),
            allowed: allowed.to_string(),
        }
    }

    /// For [`super::Validate`]: something else is wrong with `key`; `message` says what and what to do.
    #[must_use]
    pub fn invalid(key: &str, message: impl Display) -> Self {
        Self::Invalid { origin: Origin::Default, key: key.to_owned(), message: message.to_string() }
    }

    pub(super) fn at(mut self, place: impl Fn(&str) -> Origin) -> Self {
        match &mut self {
            Self::OutOfRange { origin, key, .. } | Self::Invalid { origin, key, .. } => *origin = place(key),
            _ => {}
        }
        self
    }
}

/// Checks that a value lies in a range, both ends included: `in_range("spool.bytes_max", size, MIN..=MAX)`.
///
/// # Errors
/// [`ConfigError::OutOfRange`].
pub fn in_range<V: PartialOrd + Display>(
    key: &str,
    value: &V,
    allowed: &RangeInclusive<V>,
) -> Result<(), ConfigError> {
    if allowed.contains(value) {
        return Ok(());
    }
    Err(ConfigError::out_of_range(key, value, format_args!("{} to {}", allowed.start(), allowed.end())))
}

fn hint(nearest: Option<&str>, keys: &str) -> String {
    match nearest {
        Some(nearest) => format!("; did you mean `{nearest}`?"),
        None => format!("; {keys}"),
    }
}

/// The place in front of a message. A default has none: the key is what there is to say.
fn at(origin: &Origin) -> String {
    match origin {
        Origin::Default => String::new(),
        origin => format!("{origin}: "),
    }
}
