//! The commented example config and the reference table, from the struct itself: what the docs say the default is, is
//! the default, and no key can be without its line.

use schemars::JsonSchema;
use serde::Serialize;
use toml::{Table, Value};

use crate::config::schema::{self, Choice, Field, Node, join};
use crate::config::variable_name;

/// Columns of the comments in the example file.
const WIDTH: usize = 100;

/// An example config file of `program` (`"gnomon-agent"`): every key with its documentation, type and default. All
/// values are commented out, so that the file as it stands changes nothing and keeps up with new defaults.
#[must_use]
pub fn config_toml<T: Serialize + JsonSchema + Default>(program: &str) -> String {
    let intro = format!(
        "Configuration of {program}. Everything here is the default; remove a # to change it. \
         A variable (in brackets) overrides this file, and a flag overrides both."
    );
    let mut text = String::new();
    comment(&mut text, &intro);
    let defaults = defaults::<T>();
    write_section(&mut text, program, &schema::of::<T>(), &defaults, "");
    text
}

/// The reference of `program`'s keys as Markdown tables, one a section: key, type, default, variable, meaning.
#[must_use]
pub fn config_markdown<T: Serialize + JsonSchema + Default>(program: &str) -> String {
    let mut text = String::new();
    write_tables(&mut text, program, &schema::of::<T>(), &defaults::<T>(), "");
    text
}

fn defaults<T: Serialize + Default>() -> Table {
    // Same bound as in the loader: a config that TOML cannot hold is our bug.
    Table::try_from(T::default()).expect("a config struct must be expressible in TOML")
}

fn write_section(text: &mut String, program: &str, node: &Node, defaults: &Table, prefix: &str) {
    let Node::Table(fields) = node else { return };
    // TOML: a key after a section header belongs to that section, so a section's own keys come first.
    let (sections, keys): (Vec<&Field>, Vec<&Field>) = fields
        .iter()
        .partition(|field| matches!(field.node, Node::Table(_)) || is_list_of_tables(&field.node));
    for field in keys {
        let path = join(prefix, &field.name);
        text.push('\n');
        comment(text, &field.doc);
        comment_choices(text, &field.node);
        comment(text, &format!("{} [{}]", type_of(field), variable_name(program, &path)));
        let value = schema::find(defaults, &path);
        let shown =
            value.cloned().or_else(|| field.example.clone()).unwrap_or_else(|| placeholder(&field.node));
        let note = if value.is_none() { "  # not set by default" } else { "" };
        text.push_str(&format!("#{} = {shown}{note}\n", field.name));
    }
    for field in sections {
        let path = join(prefix, &field.name);
        text.push('\n');
        comment(text, &field.doc);
        match &field.node {
            Node::Array(item) => write_list(text, item, &path, schema::find(defaults, &path)),
            // Uncommented, the header of an optional section would create it, and ask for its required keys.
            _ if field.optional && schema::find(defaults, &path).is_none() => {
                comment(text, "Not set by default.");
                text.push_str(&format!("#[{path}]\n"));
                write_section(text, program, &field.node, defaults, &path);
            }
            _ => {
                text.push_str(&format!("[{path}]\n"));
                write_section(text, program, &field.node, defaults, &path);
            }
        }
    }
}

/// One element of a list of tables, with the documentation of its keys.
fn write_list(text: &mut String, item: &Node, path: &str, default: Option<&Value>) {
    let Node::Table(fields) = item else { return };
    let elements = default.and_then(Value::as_array).map_or(0, Vec::len);
    comment(text, &format!("A list of tables; {elements} by default. This section may stand several times."));
    text.push_str(&format!("#[[{path}]]\n"));
    for field in fields {
        text.push('\n');
        comment(text, &field.doc);
        comment_choices(text, &field.node);
        comment(text, &type_of(field));
        let first = default.and_then(|list| list.get(0)).and_then(|element| element.get(&field.name));
        let shown = first.or(field.default.as_ref()).or(field.example.as_ref()).cloned();
        text.push_str(&format!("#{} = {}\n", field.name, shown.unwrap_or_else(|| placeholder(&field.node))));
    }
}

fn is_list_of_tables(node: &Node) -> bool {
    matches!(node, Node::Array(item) if matches!(**item, Node::Table(_)))
}

/// Words wrapped at [`WIDTH`], each line behind `# `. A line that starts with a list mark stays a line of its own.
fn comment(text: &mut String, words: &str) {
    for paragraph in paragraphs(words) {
        let mut line = String::from("#");
        for word in paragraph.split_whitespace() {
            if line.chars().count() + 1 + word.chars().count() > WIDTH && line.len() > 1 {
                text.push_str(&line);
                text.push('\n');
                line = String::from("#");
            }
            line.push(' ');
            line.push_str(word);
        }
        text.push_str(&line);
        text.push('\n');
    }
}

fn comment_choices(text: &mut String, node: &Node) {
    let Node::Choice(choices) = node else { return };
    for Choice { value, doc } in choices.iter().filter(|choice| !choice.doc.is_empty()) {
        comment(text, &format!("- \"{value}\": {}", one_line(doc)));
    }
}

fn paragraphs(words: &str) -> Vec<String> {
    let mut paragraphs: Vec<String> = Vec::new();
    let mut open = false;
    for line in words.lines().map(str::trim) {
        let starts_item = line.starts_with("- ") || line.starts_with("* ");
        match paragraphs.last_mut() {
            Some(last) if open && !line.is_empty() && !starts_item => {
                last.push(' ');
                last.push_str(line);
            }
            _ if line.is_empty() => {}
            _ => paragraphs.push(line.to_owned()),
        }
        open = !line.is_empty();
    }
    paragraphs
}

fn one_line(words: &str) -> String {
    words.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn type_of(field: &Field) -> String {
    let name = type_name(&field.node);
    match field.node.bounds() {
        Some(bounds) => format!("{name}, {bounds}"),
        None => name,
    }
}

fn type_name(node: &Node) -> String {
    match node {
        Node::Table(_) | Node::Any => "table".to_owned(),
        Node::Map(item) => format!("table of {}s by name", type_name(item)),
        Node::Array(item) => format!("list of {}s", type_name(item)),
        Node::Text => "string".to_owned(),
        Node::Choice(choices) => {
            let values: Vec<String> = choices.iter().map(|choice| format!("\"{}\"", choice.value)).collect();
            values.join(" or ")
        }
        Node::Duration => "duration".to_owned(),
        Node::Size => "size".to_owned(),
        Node::Integer { .. } => "integer".to_owned(),
        Node::Number { .. } => "number".to_owned(),
        Node::Bool => "boolean".to_owned(),
    }
}

/// A value of the right type for a key that has neither default nor example.
fn placeholder(node: &Node) -> Value {
    match node {
        Node::Table(_) | Node::Map(_) | Node::Any => Value::Table(Table::new()),
        Node::Array(_) => Value::Array(Vec::new()),
        Node::Text => Value::String(String::new()),
        Node::Choice(choices) => {
            Value::String(choices.first().map(|choice| choice.value.clone()).unwrap_or_default())
        }
        Node::Duration => Value::String("1s".to_owned()),
        Node::Size => Value::String("1MiB".to_owned()),
        Node::Integer { min, .. } => Value::Integer(min.unwrap_or(0)),
        Node::Number { min, .. } => Value::Float(min.unwrap_or(0.0)),
        Node::Bool => Value::Boolean(false),
    }
}

fn write_tables(text: &mut String, program: &str, node: &Node, defaults: &Table, prefix: &str) {
    let Node::Table(fields) = node else { return };
    let is_section = |field: &&Field| matches!(field.node, Node::Table(_));
    let mut rows = String::new();
    for field in fields.iter().filter(|field| !is_section(field)) {
        let path = join(prefix, &field.name);
        let default = match schema::find(defaults, &path) {
            Some(_) if field.secret => "hidden".to_owned(),
            Some(value) => code(&value.to_string()),
            None => "not set".to_owned(),
        };
        rows.push_str(&row(field, &default, &code(&variable_name(program, &path))));
    }
    if !rows.is_empty() {
        if !prefix.is_empty() {
            text.push_str(&format!("\n### `[{prefix}]`\n"));
        }
        text.push_str("\n| Key | Type | Default | Variable | Meaning |\n|---|---|---|---|---|\n");
        text.push_str(&rows);
    }
    for field in fields {
        let path = join(prefix, &field.name);
        match &field.node {
            Node::Table(_) => write_tables(text, program, &field.node, defaults, &path),
            Node::Array(item) => write_element(text, item, &path),
            _ => {}
        }
    }
}

fn write_element(text: &mut String, item: &Node, path: &str) {
    let Node::Table(fields) = item else { return };
    text.push_str(&format!("\n### `[[{path}]]`, each element\n"));
    text.push_str("\n| Key | Type | Default | Variable | Meaning |\n|---|---|---|---|---|\n");
    for field in fields {
        let default = match &field.default {
            Some(value) => code(&value.to_string()),
            None if field.optional => "not set".to_owned(),
            None => "required".to_owned(),
        };
        text.push_str(&row(field, &default, ""));
    }
}

fn row(field: &Field, default: &str, variable: &str) -> String {
    let mut meaning = one_line(&field.doc);
    if let Node::Choice(choices) = &field.node {
        for Choice { value, doc } in choices.iter().filter(|choice| !choice.doc.is_empty()) {
            meaning.push_str(&format!("<br>`{value}`: {}", one_line(doc)));
        }
    }
    let cells = [&code(&field.name), &type_of(field), default, variable, meaning.trim_start_matches("<br>")];
    // A bar ends a cell in GitHub's tables even inside of code.
    let cells = cells.map(|cell| cell.replace('|', "\\|"));
    format!("| {} |\n", cells.join(" | "))
}

fn code(text: &str) -> String {
    format!("`{text}`")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::Path;

    use schemars::JsonSchema;
    use serde::Deserialize;

    use super::*;
    use crate::config::{ByteSize, ConfigError, HumanDuration, Validate, load_from};
    use crate::telemetry::TelemetryConfig;

    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
    #[serde(default, deny_unknown_fields)]
    struct Config {
        /// How many threads decode. One a queue
        /// is the most that helps.
        #[schemars(range(min = 1, max = 64))]
        workers: u16,
        /// Where the agent stands.
        mode: Mode,
        /// Names shown with every record.
        labels: BTreeMap<String, String>,
        /// The disk queue.
        spool: Spool,
        /// Certificates. Without this section the link is plain text.
        tls: Option<Tls>,
        /// Which packets keep how much.
        rules: Vec<Rule>,
        /// The daemon's own logs, metrics and traces.
        telemetry: TelemetryConfig,
    }

    #[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
    #[serde(rename_all = "snake_case")]
    enum Mode {
        /// A mirror port: frames are taken.
        Tap,
        /// A host's own port | frames are copied.
        Host,
    }

    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
    #[serde(default, deny_unknown_fields)]
    struct Spool {
        /// The most it may take.
        bytes_max: ByteSize,
        /// When to write at the latest.
        flush_interval: HumanDuration,
        /// Where it is.
        path: Option<String>,
    }

    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    struct Tls {
        /// The certificate (PEM).
        cert: String,
    }

    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    struct Rule {
        /// What it is called.
        name: String,
        /// The first bytes of each packet.
        #[serde(default)]
        first_bytes: Option<ByteSize>,
    }

    impl Default for Config {
        fn default() -> Self {
            Self {
                workers: 2,
                mode: Mode::Host,
                labels: BTreeMap::new(),
                spool: Spool::default(),
                tls: None,
                rules: Vec::new(),
                telemetry: TelemetryConfig::default(),
            }
        }
    }

    impl Default for Spool {
        fn default() -> Self {
            Self {
                bytes_max: ByteSize::from_gib(2),
                flush_interval: HumanDuration::from_millis(200),
                path: None,
            }
        }
    }

    impl Validate for Config {
        fn validate(&self) -> Result<(), ConfigError> {
            self.telemetry.validate("telemetry")
        }
    }

    fn load(text: &str) -> Config {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("example.toml");
        std::fs::write(&path, text).unwrap();
        load_from(Config::PROGRAM, Some(&path), Path::new("/none"), [], &[]).unwrap().value
    }

    impl Config {
        const PROGRAM: &'static str = "gnomon-agent";
    }

    #[test]
    fn the_example_as_it_stands_changes_nothing() {
        assert_eq!(load(&config_toml::<Config>(Config::PROGRAM)), Config::default());
    }

    #[test]
    fn the_example_uncommented_is_a_valid_file_with_the_defaults() {
        let example = config_toml::<Config>(Config::PROGRAM);
        let line = |line: &str| match line.strip_prefix('#') {
            Some(rest) if !rest.starts_with(' ') => format!("{rest}\n"),
            _ => format!("{line}\n"),
        };
        let loaded = load(&example.lines().map(line).collect::<String>());
        assert_eq!((loaded.workers, loaded.mode), (2, Mode::Host));
        assert_eq!(loaded.spool.bytes_max, ByteSize::from_gib(2));
        assert_eq!(loaded.rules.len(), 1);
        assert!(loaded.tls.is_some());
        assert_eq!(loaded.telemetry.otlp_endpoint.as_deref(), Some("http://127.0.0.1:4317"));
    }

    #[test]
    fn every_key_stands_in_both_with_doc_type_default_and_variable() {
        let example = config_toml::<Config>(Config::PROGRAM);
        let reference = config_markdown::<Config>(Config::PROGRAM);
        for key in schema::of::<Config>().keys() {
            let variable = variable_name(Config::PROGRAM, &key.path);
            assert!(reference.contains(&format!("`{variable}`")), "{variable}\n{reference}");
            assert!(!key.field.doc.is_empty(), "{}", key.path);
            assert!(
                example.contains(&format!("#{} = ", key.field.name)) || key.path == "rules",
                "{}",
                key.path
            );
        }
        let row =
            |key: &str| reference.lines().find(|line| line.starts_with(&format!("| `{key}` "))).unwrap();
        assert_eq!(
            row("workers"),
            "| `workers` | integer, 1 to 64 | `2` | `GNOMON_AGENT_WORKERS` \
             | How many threads decode. One a queue is the most that helps. |"
        );
        assert!(row("bytes_max").contains("| size | `\"2GiB\"` |"), "{reference}");
        assert!(row("path").contains("| not set |") && row("name").contains("| required |"));
        assert!(row("mode").contains("`host`: A host's own port \\| frames are copied."), "{}", row("mode"));
        assert!(example.contains("# - \"tap\": A mirror port: frames are taken.\n"));
        assert!(example.lines().all(|line| line.chars().count() <= WIDTH + 40), "{example}");
    }

    #[test]
    fn the_output_is_the_same_every_time() {
        assert_eq!(config_toml::<Config>("agent"), config_toml::<Config>("agent"));
        assert_eq!(config_markdown::<Config>("agent"), config_markdown::<Config>("agent"));
    }
}
