//! One config struct a program: the doc comment is the manual, and the struct's schema is the only list of keys.
//!
//! Layers, later wins: `Default::default()` < TOML file < environment < flags. An unknown key, a wrong type or a value
//! out of range refuses to start and says where it stands; nothing is reset or ignored silently.
//!
//! What the struct must do:
//! * derive `Serialize, Deserialize, JsonSchema` and implement `Default`, with `#[serde(default, deny_unknown_fields)]`
//!   on every struct, so that defaults exist once, in `Default`;
//! * state bounds of numbers with `#[schemars(range(min = 1, max = 256))]`: checked here and printed in the docs;
//! * state what a schema cannot say (durations, sizes, two keys together) in [`Validate`];
//! * mark a secret `#[schemars(extend("writeOnly" = true))]`: [`Loaded::show`] hides it.

mod duration;
mod environment;
mod error;
mod file;
pub(crate) mod schema;
mod size;
mod suggest;
mod text;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;
use toml::{Table, Value};

pub use duration::HumanDuration;
pub use error::{ConfigError, in_range};
use schema::{Node, Problem};
pub use size::ByteSize;

/// What a config struct knows beyond its schema.
pub trait Validate {
    /// Retired keys and their successors, as (old, new) dotted paths. An old key is an error that names the new one.
    const RENAMED: &'static [(&'static str, &'static str)] = &[];

    /// Checks what the schema cannot state. Called once, on the merged value; [`load`] adds where the value came from.
    ///
    /// # Errors
    /// [`ConfigError::out_of_range`] or [`ConfigError::invalid`], with the dotted path of the key.
    fn validate(&self) -> Result<(), ConfigError>;
}

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    Default,
    /// The file and the line, counted from 1.
    File(PathBuf, usize),
    /// The variable's name.
    Env(String),
    Flag,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path, line) => write!(f, "{}:{line}", path.display()),
            Self::Env(variable) => f.write_str(variable),
            Self::Flag => f.write_str("command line"),
        }
    }
}

/// A config that passed every check, and where each of its keys came from.
#[derive(Clone, Debug)]
pub struct Loaded<T> {
    pub value: T,
    /// Every key of the struct by dotted path (`spool.bytes_max`); an array, a map or a tagged enum is one key.
    pub origins: BTreeMap<String, Origin>,
}

impl<T: Serialize + JsonSchema> Loaded<T> {
    /// The config as it is in force, one `key = value` a line in the order of the struct: the body of `config show`.
    /// Keys that are unset stand as comments; secrets are hidden.
    #[must_use]
    pub fn show(&self, with_origin: bool) -> String {
        let values = as_table(&self.value);
        let mut lines = Vec::new();
        for key in schema::of::<T>().keys() {
            let line = match schema::find(&values, &key.path) {
                Some(_) if key.field.secret => format!("{} = \"<hidden>\"", key.path),
                Some(value) => format!("{} = {value}", key.path),
                None => format!("# {} is not set", key.path),
            };
            lines.push((line, self.origins.get(&key.path)));
        }
        let width = lines.iter().map(|(line, _)| line.chars().count()).max().unwrap_or(0).min(60);
        let mut shown = String::new();
        for (line, origin) in lines {
            match origin {
                Some(origin) if with_origin => shown.push_str(&format!("{line:<width$}  # {origin}\n")),
                _ => shown.push_str(&format!("{line}\n")),
            }
        }
        shown
    }
}

/// Loads the config of `program` (`"gnomon-agent"` or `"agent"`) in the layers stated at the top of this module.
///
/// `file` is the one that was asked for and must exist; without it `default_file` is read if it is there.
/// `overrides` are (dotted path, text) pairs from flags, later ones win.
///
/// # Errors
/// The first thing wrong, with its place and what is allowed there.
pub fn load<T>(
    program: &'static str,
    file: Option<&Path>,
    default_file: &Path,
    overrides: &[(String, String)],
) -> Result<Loaded<T>, ConfigError>
where
    T: DeserializeOwned + Serialize + JsonSchema + Default + Validate,
{
    load_from(program, file, default_file, std::env::vars_os(), overrides)
}

/// [`load`] with the environment given, which is what tests need.
///
/// # Errors
/// As [`load`].
pub fn load_from<T>(
    program: &str,
    file: Option<&Path>,
    default_file: &Path,
    environment: impl IntoIterator<Item = (OsString, OsString)>,
    overrides: &[(String, String)],
) -> Result<Loaded<T>, ConfigError>
where
    T: DeserializeOwned + Serialize + JsonSchema + Default + Validate,
{
    let schema = schema::of::<T>();
    let mut layers = Layers::new(&schema, T::RENAMED, as_table(&T::default()));
    if let Some(file) = file::read(file, default_file)? {
        layers.add_file(&file)?;
    }
    for setting in environment::settings(program, &schema, T::RENAMED, environment)? {
        layers.set(&setting.key, &setting.text, &Origin::Env(setting.variable))?;
    }
    for (key, text) in overrides {
        layers.set(key, text, &Origin::Flag)?;
    }
    layers.finish()
}

/// The name of the variable that sets `key` of `program`: `GNOMON_AGENT_SPOOL_BYTES_MAX`.
#[must_use]
pub fn variable_name(program: &str, key: &str) -> String {
    environment::variable_name(program, key)
}

/// The keys whose values differ between two configs, by dotted path, in the order of the struct.
#[must_use]
pub fn changed<T: Serialize + JsonSchema>(before: &T, after: &T) -> Vec<String> {
    let (before, after) = (as_table(before), as_table(after));
    let differs = |key: &str| schema::find(&before, key) != schema::find(&after, key);
    schema::of::<T>().keys().into_iter().map(|key| key.path).filter(|key| differs(key)).collect()
}

fn as_table<T: Serialize>(value: &T) -> Table {
    // A config struct that TOML cannot hold (a map without string keys, an integer above i64) is our bug, and the
    // first test or start of the program shows it.
    Table::try_from(value).expect("a config struct must be expressible in TOML")
}

/// The merged tree and the origin of everything that is not a default.
struct Layers<'a> {
    schema: &'a Node,
    renamed: &'a [(&'a str, &'a str)],
    values: Table,
    /// By dotted path, with `[index]` inside arrays: as fine as the source allows.
    origins: BTreeMap<String, Origin>,
}

impl<'a> Layers<'a> {
    fn new(schema: &'a Node, renamed: &'a [(&'a str, &'a str)], defaults: Table) -> Self {
        Self { schema, renamed, values: defaults, origins: BTreeMap::new() }
    }

    fn add_file(&mut self, file: &file::ConfigFile) -> Result<(), ConfigError> {
        let place = |key: &str| Origin::File(file.path.clone(), file.line_of(key));
        let value = Value::Table(file.values.clone());
        self.schema.check(&value, "").map_err(|problem| self.explain(problem, &value, &place))?;
        let mut set = Vec::new();
        schema::merge(self.schema, &mut self.values, &file.values, "", &mut set);
        // The insides of a list or a map have lines of their own, for the errors that serde finds there.
        let inside = |key: &str| set.iter().any(|set| is_within(key, set));
        for (key, line) in file.lines.iter().filter(|(key, _)| inside(key)) {
            self.origins.insert(key.clone(), Origin::File(file.path.clone(), *line));
        }
        Ok(())
    }

    fn set(&mut self, key: &str, text: &str, origin: &Origin) -> Result<(), ConfigError> {
        let place = |_: &str| origin.clone();
        if let Some((old, new)) = self.renamed.iter().find(|(old, _)| *old == key) {
            let (old, new) = ((*old).to_owned(), (*new).to_owned());
            return Err(ConfigError::Renamed { origin: origin.clone(), old, new });
        }
        let Some(node) = self.schema.resolve(key) else {
            let problem = self.schema.unknown(key);
            return Err(self.explain(problem, &Value::Boolean(true), &place));
        };
        let value = text::parse(node, text).map_err(|expected| ConfigError::Type {
            origin: origin.clone(),
            key: key.to_owned(),
            expected,
            found: format!("{text:?}"),
        })?;
        node.check(&value, key).map_err(|problem| self.explain(problem, &value, &place))?;
        schema::insert(&mut self.values, key, value);
        // What an earlier layer said of the inside of this key is history.
        self.origins.retain(|known, _| !is_within(known, key));
        self.origins.insert(key.to_owned(), origin.clone());
        Ok(())
    }

    fn explain(&self, problem: Problem, root: &Value, place: &dyn Fn(&str) -> Origin) -> ConfigError {
        match problem {
            Problem::Unknown { key, section, valid } => {
                let old_inside = |old: &str| {
                    old.strip_prefix(&key).and_then(|rest| rest.strip_prefix('.')).is_some_and(|_| {
                        root.as_table().is_some_and(|table| schema::find(table, old).is_some())
                    })
                };
                if let Some((old, new)) = self.renamed.iter().find(|(old, _)| *old == key || old_inside(old))
                {
                    return ConfigError::Renamed {
                        origin: place(old),
                        old: (*old).to_owned(),
                        new: (*new).to_owned(),
                    };
                }
                let nearest = suggest::nearest(&key, &valid, &self.schema.keys());
                let keys = match section.as_str() {
                    "" => format!("the keys at the top are: {}", valid.join(", ")),
                    section => format!("the keys of `{section}` are: {}", valid.join(", ")),
                };
                ConfigError::UnknownKey { origin: place(&key), key, nearest, keys }
            }
            Problem::Type { key, expected, found } => {
                ConfigError::Type { origin: place(&key), key, expected, found }
            }
            Problem::Range { key, value, allowed } => {
                ConfigError::OutOfRange { origin: place(&key), key, value, allowed }
            }
        }
    }

    fn finish<T>(self) -> Result<Loaded<T>, ConfigError>
    where
        T: DeserializeOwned + Validate,
    {
        let value: T =
            serde_path_to_error::deserialize(Value::Table(self.values.clone())).map_err(|error| {
                let key = error.path().to_string();
                let message = error.into_inner().message().to_owned();
                ConfigError::Invalid { origin: self.blame(&key), key, message }
            })?;
        value.validate().map_err(|error| error.at(|key| self.blame(key)))?;
        let origins = self.schema.keys().into_iter().map(|key| {
            let origin = self.origin_of(&key.path);
            (key.path, origin)
        });
        let mut origins: BTreeMap<String, Origin> = origins.collect();
        // An entry of a map that a later layer added stands beside the map itself.
        for (key, origin) in self.origins {
            if matches!(origin, Origin::Env(_) | Origin::Flag) {
                origins.insert(key, origin);
            }
        }
        Ok(Loaded { value, origins })
    }

    /// Where to look when `key` is wrong: its origin, or for a section the first thing that was set in it.
    fn blame(&self, key: &str) -> Origin {
        match self.origin_of(key) {
            Origin::Default => {
                let inside = self.origins.iter().find(|(known, _)| is_within(known, key));
                inside.map_or(Origin::Default, |(_, origin)| origin.clone())
            }
            origin => origin,
        }
    }

    /// The origin of a key, or of the nearest thing around it that somebody set.
    fn origin_of(&self, key: &str) -> Origin {
        let mut key = key;
        loop {
            if let Some(origin) = self.origins.get(key) {
                return origin.clone();
            }
            match key.rfind(['.', '[']) {
                Some(end) => key = &key[..end],
                None => return Origin::Default,
            }
        }
    }
}

fn is_within(known: &str, key: &str) -> bool {
    known.strip_prefix(key).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
}

#[cfg(test)]
mod tests;
