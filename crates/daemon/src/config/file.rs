//! The TOML file: its values, and on which line each of them stands.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use toml::Table;
use toml::de::{DeTable, DeValue};

use super::ConfigError;

/// Far above any config a person writes; a device node or a core file given by mistake is not read into memory.
const FILE_BYTES_MAX: u64 = 1 << 20;

pub(super) struct ConfigFile {
    pub(super) path: PathBuf,
    pub(super) values: Table,
    /// The line (from 1) of each key by dotted path, elements of arrays as `rules[0].name`.
    pub(super) lines: BTreeMap<String, usize>,
}

impl ConfigFile {
    /// The line of a key, or of the nearest key around it.
    pub(super) fn line_of(&self, key: &str) -> usize {
        let mut key = key;
        loop {
            if let Some(line) = self.lines.get(key) {
                return *line;
            }
            match key.rfind(['.', '[']) {
                Some(end) => key = &key[..end],
                None => return 1,
            }
        }
    }
}

/// Reads the file asked for, which must exist, or the default one, which need not.
pub(super) fn read(asked: Option<&Path>, default: &Path) -> Result<Option<ConfigFile>, ConfigError> {
    let path = asked.unwrap_or(default);
    match contents(path) {
        Err(ConfigError::Missing { .. }) if asked.is_none() => Ok(None),
        Err(error) => Err(error),
        Ok(text) => parse(path, &text).map(Some),
    }
}

fn contents(path: &Path) -> Result<String, ConfigError> {
    let unreadable = |source| ConfigError::Unreadable { path: path.to_owned(), source };
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Err(ConfigError::Missing { path: path.to_owned() });
        }
        Err(error) => return Err(unreadable(error)),
    };
    let mut text = String::new();
    file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text).map_err(unreadable)?;
    let bytes = text.len() as u64;
    if bytes > FILE_BYTES_MAX {
        return Err(ConfigError::TooLarge { path: path.to_owned(), bytes, limit: FILE_BYTES_MAX });
    }
    Ok(text)
}

pub(super) fn parse(path: &Path, text: &str) -> Result<ConfigFile, ConfigError> {
    let syntax = |error: toml::de::Error| {
        let at = error.span().map_or(0, |span| span.start);
        let line = line_at(text, at);
        let start = text.get(..at).and_then(|before| before.rfind('\n')).map_or(0, |newline| newline + 1);
        let column = text.get(start..at).map_or(1, |before| before.chars().count() + 1);
        let message = error.message().replace('\n', ": ");
        ConfigError::Syntax { path: path.to_owned(), line, column, message }
    };
    let spanned = DeTable::parse(text).map_err(syntax)?;
    let values: Table = toml::from_str(text).map_err(syntax)?;
    let mut lines = BTreeMap::new();
    record_table(text, spanned.get_ref(), "", &mut lines);
    Ok(ConfigFile { path: path.to_owned(), values, lines })
}

fn record_table(text: &str, table: &DeTable<'_>, prefix: &str, lines: &mut BTreeMap<String, usize>) {
    for (name, value) in table {
        let key = if prefix.is_empty() {
            name.get_ref().to_string()
        } else {
            format!("{prefix}.{}", name.get_ref())
        };
        lines.insert(key.clone(), line_at(text, name.span().start));
        record_value(text, value.get_ref(), &key, lines);
    }
}

fn record_value(text: &str, value: &DeValue<'_>, key: &str, lines: &mut BTreeMap<String, usize>) {
    match value {
        DeValue::Table(table) => record_table(text, table, key, lines),
        DeValue::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                let key = format!("{key}[{index}]");
                lines.insert(key.clone(), line_at(text, item.span().start));
                record_value(text, item.get_ref(), &key, lines);
            }
        }
        _ => {}
    }
}

fn line_at(text: &str, offset: usize) -> usize {
    text.as_bytes().iter().take(offset).filter(|byte| **byte == b'\n').count() + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_the_line_of_every_key() {
        let text = "top = 1\n\n[spool]\npath = \"/x\"\nlist = [\n  1,\n  2,\n]\n[[rules]]\nname = \"a\"\n[[rules]]\nname = \"b\"\n";
        let file = parse(Path::new("f.toml"), text).unwrap();
        let lines =
            ["top", "spool.path", "spool.list[1]", "rules[0].name", "rules[1].name", "spool.list[9]", "none"];
        assert_eq!(lines.map(|key| file.line_of(key)), [1, 4, 7, 10, 12, 5, 1]);
    }

    #[test]
    fn a_syntax_error_says_line_and_column() {
        let error = parse(Path::new("/etc/f.toml"), "a = 1\nbé = = 2\n").err().unwrap().to_string();
        assert!(error.starts_with("/etc/f.toml:2:"), "{error}");
    }

    #[test]
    fn an_oversized_file_is_refused_unread() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("big.toml");
        std::fs::write(&path, "#".repeat(usize::try_from(FILE_BYTES_MAX).unwrap() + 5)).unwrap();
        assert!(matches!(read(Some(&path), Path::new("/none")), Err(ConfigError::TooLarge { .. })));
    }
}
