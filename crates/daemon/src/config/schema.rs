//! The keys of a config struct: what its JSON Schema says, reduced to what a TOML file can hold.
//!
//! `schemars` turns types, doc comments and `range` attributes into JSON Schema; this file reads that back into a small
//! tree, which checks files, resolves variables and flags, and writes the example and the reference.

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde_json::Value as Json;
use toml::{Table, Value};

/// `format` of [`super::HumanDuration`] and [`super::ByteSize`] in the schema.
pub(super) const FORMAT_DURATION: &str = "gnomon-duration";
pub(super) const FORMAT_SIZE: &str = "gnomon-size";

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Node {
    Table(Vec<Field>),
    /// A table whose names the user chooses.
    Map(Box<Node>),
    Array(Box<Node>),
    Text,
    Choice(Vec<Choice>),
    Duration,
    Size,
    Integer {
        min: Option<i64>,
        max: Option<i64>,
    },
    Number {
        min: Option<f64>,
        max: Option<f64>,
    },
    Bool,
    /// A shape this tree has no word for (an enum with data): serde alone checks it.
    Any,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Field {
    pub(crate) name: String,
    /// The doc comment; may hold several lines.
    pub(crate) doc: String,
    pub(crate) node: Node,
    /// `Option<_>`: may be left out, and has no default then.
    pub(crate) optional: bool,
    pub(crate) secret: bool,
    /// The first `#[schemars(example = …)]`, as TOML.
    pub(crate) example: Option<Value>,
    /// `default` in the schema: only asked for inside arrays, where the root's `Default` has no element to look at.
    pub(crate) default: Option<Value>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Choice {
    pub(crate) value: String,
    pub(crate) doc: String,
}

/// A key that can be set: a field that is not itself a table.
#[derive(Clone, Debug)]
pub(crate) struct Key<'a> {
    pub(crate) path: String,
    pub(crate) field: &'a Field,
}

/// What is wrong with a value, before it is known where it came from. Keys are full dotted paths.
#[derive(Debug, PartialEq)]
pub(super) enum Problem {
    Unknown { key: String, section: String, valid: Vec<String> },
    Type { key: String, expected: String, found: String },
    Range { key: String, value: String, allowed: String },
}

/// The keys of `T`.
pub(crate) fn of<T: JsonSchema>() -> Node {
    let settings = SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
    let schema = settings.into_generator().into_root_schema_for::<T>();
    node(schema.as_value())
}

fn node(schema: &Json) -> Node {
    for word in ["anyOf", "oneOf"] {
        if let Some(options) = schema.get(word).and_then(Json::as_array) {
            let real: Vec<&Json> = options.iter().filter(|option| type_of(option) != Some("null")).collect();
            if let [only] = real[..] {
                return node(only);
            }
            let choices: Option<Vec<Vec<Choice>>> = real.iter().map(|option| choices(option)).collect();
            return choices.map_or(Node::Any, |choices| Node::Choice(choices.concat()));
        }
    }
    if let Some(choices) = choices(schema) {
        return Node::Choice(choices);
    }
    let format = schema.get("format").and_then(Json::as_str);
    match type_of(schema) {
        Some("object") => match (schema.get("properties"), schema.get("additionalProperties")) {
            (Some(Json::Object(properties)), _) => {
                let required = schema.get("required").and_then(Json::as_array);
                let required =
                    |name: &str| required.is_some_and(|names| names.iter().any(|known| known == name));
                Node::Table(
                    properties.iter().map(|(name, schema)| field(name, schema, required(name))).collect(),
                )
            }
            (_, Some(item @ Json::Object(_))) => Node::Map(Box::new(node(item))),
            (_, Some(Json::Bool(false))) => Node::Table(Vec::new()),
            _ => Node::Map(Box::new(Node::Any)),
        },
        Some("array") => schema.get("items").map_or(Node::Any, |item| Node::Array(Box::new(node(item)))),
        Some("string") if format == Some(FORMAT_DURATION) => Node::Duration,
        Some("string") if format == Some(FORMAT_SIZE) => Node::Size,
        Some("string") => Node::Text,
        Some("integer") => {
            let bound = |word: &str| schema.get(word).and_then(Json::as_i64);
            Node::Integer { min: bound("minimum"), max: bound("maximum") }
        }
        Some("number") => {
            let bound = |word: &str| schema.get(word).and_then(Json::as_f64);
            Node::Number { min: bound("minimum"), max: bound("maximum") }
        }
        Some("boolean") => Node::Bool,
        _ => Node::Any,
    }
}

fn field(name: &str, schema: &Json, required: bool) -> Field {
    let default = schema.get("default");
    let optional = !required && allows_null(schema);
    Field {
        name: name.to_owned(),
        doc: doc(schema),
        node: node(schema),
        optional,
        secret: schema.get("writeOnly").and_then(Json::as_bool).unwrap_or(false),
        example: schema.get("examples").and_then(|examples| examples.get(0)).and_then(to_toml),
        default: default.and_then(to_toml),
    }
}

fn doc(schema: &Json) -> String {
    schema.get("description").and_then(Json::as_str).unwrap_or_default().trim().to_owned()
}

/// The one type that is not null.
fn type_of(schema: &Json) -> Option<&str> {
    match schema.get("type")? {
        Json::String(name) => Some(name),
        Json::Array(names) => names.iter().filter_map(Json::as_str).find(|name| *name != "null"),
        _ => None,
    }
}

fn allows_null(schema: &Json) -> bool {
    let in_type = match schema.get("type") {
        Some(Json::String(name)) => name == "null",
        Some(Json::Array(names)) => names.iter().any(|name| name == "null"),
        _ => false,
    };
    let options = schema.get("anyOf").or_else(|| schema.get("oneOf")).and_then(Json::as_array);
    in_type || options.is_some_and(|options| options.iter().any(allows_null))
}

/// The words of an enum without data, or of one of its variants.
fn choices(schema: &Json) -> Option<Vec<Choice>> {
    if let Some(Json::Array(options)) = schema.get("oneOf") {
        let nested: Option<Vec<Vec<Choice>>> = options.iter().map(choices).collect();
        return nested.map(|nested| nested.concat());
    }
    if let Some(value) = schema.get("const") {
        return Some(vec![Choice { value: value.as_str()?.to_owned(), doc: doc(schema) }]);
    }
    let values = schema.get("enum")?.as_array()?;
    let named = values.iter().filter(|value| !value.is_null());
    named.map(|value| Some(Choice { value: value.as_str()?.to_owned(), doc: String::new() })).collect()
}

fn to_toml(json: &Json) -> Option<Value> {
    if json.is_null() { None } else { Value::try_from(json).ok() }
}

impl Node {
    /// Every key that can be set, in the order of the struct.
    pub(crate) fn keys(&self) -> Vec<Key<'_>> {
        let mut keys = Vec::new();
        self.collect_keys("", &mut keys);
        keys
    }

    fn collect_keys<'a>(&'a self, prefix: &str, keys: &mut Vec<Key<'a>>) {
        let Self::Table(fields) = self else { return };
        for field in fields {
            let path = join(prefix, &field.name);
            match &field.node {
                Self::Table(_) => field.node.collect_keys(&path, keys),
                _ => keys.push(Key { path, field }),
            }
        }
    }

    /// The node at a dotted path; the entries of a map have one each.
    pub(super) fn resolve(&self, path: &str) -> Option<&Self> {
        path.split('.').try_fold(self, |node, name| match node {
            Self::Table(fields) => fields.iter().find(|field| field.name == name).map(|field| &field.node),
            Self::Map(item) if !name.is_empty() => Some(&**item),
            _ => None,
        })
    }

    /// The problem with a path that does not [`Self::resolve`].
    pub(super) fn unknown(&self, path: &str) -> Problem {
        let mut node = self;
        let mut section = String::new();
        for name in path.split('.') {
            let inner = match node {
                Self::Table(fields) => fields.iter().find(|field| field.name == name),
                _ => None,
            };
            match inner {
                Some(field) if matches!(field.node, Self::Table(_)) => {
                    section = join(&section, name);
                    node = &field.node;
                }
                _ => break,
            }
        }
        let rest = path.strip_prefix(&section).unwrap_or(path).trim_start_matches('.');
        Problem::Unknown { key: join(&section, rest), section, valid: node.names() }
    }

    fn names(&self) -> Vec<String> {
        match self {
            Self::Table(fields) => fields.iter().map(|field| field.name.clone()).collect(),
            _ => Vec::new(),
        }
    }

    /// What a value must be, in words.
    pub(super) fn expected(&self) -> String {
        let bounded = |what: &str, bounds: Option<String>| match bounds {
            Some(bounds) => format!("{what}, {bounds}"),
            None => what.to_owned(),
        };
        match self {
            Self::Table(_) => "a table".to_owned(),
            Self::Map(item) => format!("a table of names, each with {}", item.expected()),
            Self::Array(item) => format!("a list, each element {}", item.expected()),
            Self::Text => "a string".to_owned(),
            Self::Choice(choices) => {
                let values: Vec<String> =
                    choices.iter().map(|choice| format!("\"{}\"", choice.value)).collect();
                format!("one of {}", values.join(", "))
            }
            Self::Duration => super::HumanDuration::EXPECTED.to_owned(),
            Self::Size => super::ByteSize::EXPECTED.to_owned(),
            Self::Integer { .. } => bounded("an integer", self.bounds()),
            Self::Number { .. } => bounded("a number", self.bounds()),
            Self::Bool => "true or false".to_owned(),
            Self::Any => "a value".to_owned(),
        }
    }

    /// `1 to 256`, `at least 1`; `None` where there is no bound, or only that of an unsigned integer.
    pub(crate) fn bounds(&self) -> Option<String> {
        let say = |min: Option<String>, max: Option<String>| match (min, max) {
            (Some(min), Some(max)) => Some(format!("{min} to {max}")),
            (Some(min), None) => Some(format!("at least {min}")),
            (None, Some(max)) => Some(format!("at most {max}")),
            (None, None) => None,
        };
        match self {
            Self::Integer { min, max } => say(min.map(|n| n.to_string()), max.map(|n| n.to_string())),
            Self::Number { min, max } => say(min.map(|n| n.to_string()), max.map(|n| n.to_string())),
            _ => None,
        }
    }

    /// Checks names, types and bounds of `value`, which stands at `key`. What a text means (is it a duration, an
    /// address) is serde's to say, later.
    pub(super) fn check(&self, value: &Value, key: &str) -> Result<(), Problem> {
        match (self, value) {
            (Self::Any, _) | (Self::Text, Value::String(_)) | (Self::Bool, Value::Boolean(_)) => Ok(()),
            (Self::Duration, Value::String(text)) if text.parse::<super::HumanDuration>().is_ok() => Ok(()),
            (Self::Size, Value::String(text)) if text.parse::<super::ByteSize>().is_ok() => Ok(()),
            (Self::Choice(choices), Value::String(text))
                if choices.iter().any(|choice| choice.value == *text) =>
            {
                Ok(())
            }
            (Self::Table(fields), Value::Table(table)) => {
                for (name, value) in table {
                    let key = join(key, name);
                    let Some(field) = fields.iter().find(|field| field.name == *name) else {
                        let section = key.rfind('.').map_or("", |end| &key[..end]).to_owned();
                        return Err(Problem::Unknown { key, section, valid: self.names() });
                    };
                    field.node.check(value, &key)?;
                }
                Ok(())
            }
            (Self::Map(item), Value::Table(table)) => {
                table.iter().try_for_each(|(name, value)| item.check(value, &join(key, name)))
            }
            (Self::Array(item), Value::Array(values)) => {
                let mut indexed = values.iter().enumerate();
                indexed.try_for_each(|(index, value)| item.check(value, &format!("{key}[{index}]")))
            }
            (Self::Integer { min, max }, Value::Integer(number)) => self.bound(
                key,
                number,
                min.is_some_and(|min| *number < min) || max.is_some_and(|max| *number > max),
            ),
            (Self::Number { min, max }, Value::Float(_) | Value::Integer(_)) => {
                // Integers beyond 2^53 lose digits here; no bound of a config lives there.
                let number =
                    value.as_float().or_else(|| value.as_integer().map(|n| n as f64)).unwrap_or(f64::NAN);
                let outside = min.is_some_and(|min| number < min) || max.is_some_and(|max| number > max);
                self.bound(key, &number, outside || !number.is_finite())
            }
            _ => {
                Err(Problem::Type { key: key.to_owned(), expected: self.expected(), found: describe(value) })
            }
        }
    }

    fn bound(&self, key: &str, number: &impl ToString, outside: bool) -> Result<(), Problem> {
        if !outside {
            return Ok(());
        }
        let allowed = self.bounds().unwrap_or_else(|| "a finite number".to_owned());
        Err(Problem::Range { key: key.to_owned(), value: number.to_string(), allowed })
    }
}

fn describe(value: &Value) -> String {
    match value {
        Value::String(text) => {
            let shown: String = text.chars().take(60).collect();
            format!("the string {shown:?}")
        }
        Value::Integer(number) => format!("the integer {number}"),
        Value::Float(number) => format!("the number {number}"),
        Value::Boolean(flag) => flag.to_string(),
        Value::Datetime(at) => format!("the date {at}"),
        Value::Array(_) => "a list".to_owned(),
        Value::Table(_) => "a table".to_owned(),
    }
}

pub(crate) fn join(prefix: &str, name: &str) -> String {
    if prefix.is_empty() { name.to_owned() } else { format!("{prefix}.{name}") }
}

/// The value at a dotted path.
pub(crate) fn find<'a>(table: &'a Table, path: &str) -> Option<&'a Value> {
    match path.split_once('.') {
        Some((name, rest)) => find(table.get(name)?.as_table()?, rest),
        None => table.get(path),
    }
}

/// Sets the value at a dotted path, making the tables on the way.
pub(super) fn insert(table: &mut Table, path: &str, value: Value) {
    let Some((name, rest)) = path.split_once('.') else {
        table.insert(path.to_owned(), value);
        return;
    };
    let inner = table.entry(name).or_insert_with(|| Value::Table(Table::new()));
    if let Value::Table(inner) = inner {
        insert(inner, rest, value);
    }
}

/// Lays a checked `upper` over `lower`: sections merge key by key, everything else (lists and maps too) is replaced,
/// so that a default entry can be got rid of. Adds the paths it set to `set`.
pub(super) fn merge(node: &Node, lower: &mut Table, upper: &Table, prefix: &str, set: &mut Vec<String>) {
    let Node::Table(fields) = node else { return };
    for field in fields {
        let Some(value) = upper.get(&field.name) else { continue };
        let key = join(prefix, &field.name);
        match (&field.node, value) {
            (Node::Table(_), Value::Table(upper)) => {
                let lower = lower.entry(&field.name).or_insert_with(|| Value::Table(Table::new()));
                if let Value::Table(lower) = lower {
                    merge(&field.node, lower, upper, &key, set);
                }
            }
            _ => {
                lower.insert(field.name.clone(), value.clone());
                set.push(key);
            }
        }
    }
}
