//! Values given as plain text, by a variable or a flag, read as what the schema says they are.

use toml::{Table, Value};

use super::schema::Node;

/// Text to value. Lists and maps may be short (`eth0,eth1`, `site=ams,rack=4`) or TOML (`["eth0"]`, `{ site = "ams" }`).
///
/// # Errors
/// What was expected.
pub(super) fn parse(node: &Node, text: &str) -> Result<Value, String> {
    let expected = || node.expected();
    match node {
        // Quoted as in a file, or bare.
        Node::Text | Node::Choice(_) | Node::Duration | Node::Size => {
            let quoted = text.starts_with('"').then(|| toml_value(text)).flatten();
            Ok(quoted.unwrap_or_else(|| Value::String(text.to_owned())))
        }
        Node::Bool => text.trim().parse().map(Value::Boolean).map_err(|_| expected()),
        Node::Integer { .. } => {
            let digits = text.trim().replace('_', "");
            digits.parse().map(Value::Integer).map_err(|_| expected())
        }
        Node::Number { .. } => {
            let number: f64 = text.trim().parse().map_err(|_| expected())?;
            Ok(Value::Float(number))
        }
        Node::Array(_) if text.trim_start().starts_with('[') => toml_value(text).ok_or_else(expected),
        Node::Array(item) => {
            let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
            parts.map(|part| parse(item, part)).collect::<Result<_, _>>().map(Value::Array)
        }
        Node::Table(_) | Node::Map(_) if text.trim_start().starts_with('{') => {
            toml_value(text).ok_or_else(expected)
        }
        Node::Map(item) => {
            let mut table = Table::new();
            for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
                let (name, value) = part.split_once('=').ok_or_else(expected)?;
                table.insert(name.trim().to_owned(), parse(item, value.trim())?);
            }
            Ok(Value::Table(table))
        }
        Node::Table(_) => Err(expected()),
        Node::Any => Ok(toml_value(text).unwrap_or_else(|| Value::String(text.to_owned()))),
    }
}

fn toml_value(text: &str) -> Option<Value> {
    let table: Table = toml::from_str(&format!("value = {text}")).ok()?;
    // A text with a newline could smuggle in further keys.
    (table.len() == 1).then(|| table.get("value").cloned())?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text_list() -> Node {
        Node::Array(Box::new(Node::Text))
    }

    #[test]
    fn reads_by_the_schema() {
        let integer = Node::Integer { min: None, max: None };
        assert_eq!(parse(&integer, "4_096"), Ok(Value::Integer(4096)));
        assert_eq!(parse(&Node::Text, "4096"), Ok(Value::String("4096".into())));
        assert_eq!(parse(&Node::Text, r#""a \"b\"""#), Ok(Value::String(r#"a "b""#.into())));
        assert_eq!(parse(&Node::Text, r#""half"#), Ok(Value::String(r#""half"#.into())));
        assert_eq!(parse(&Node::Bool, "true"), Ok(Value::Boolean(true)));
        assert!(parse(&Node::Bool, "yes").is_err());
        let both = Value::Array(vec!["eth0".into(), "eth1".into()]);
        assert_eq!(parse(&text_list(), "eth0, eth1"), Ok(both.clone()));
        assert_eq!(parse(&text_list(), r#"["eth0", "eth1"]"#), Ok(both));
        assert_eq!(parse(&text_list(), ""), Ok(Value::Array(Vec::new())));
    }

    #[test]
    fn a_map_may_be_short() {
        let map = Node::Map(Box::new(Node::Text));
        let value = parse(&map, "site=ams,rack=4").unwrap();
        assert_eq!(value["rack"], Value::String("4".into()));
        assert_eq!(parse(&map, r#"{ site = "ams", rack = "4" }"#), Ok(value));
        assert!(parse(&map, "site").is_err());
    }

    #[test]
    fn a_newline_adds_no_key() {
        assert!(parse(&text_list(), "[]\nother = 1").is_err());
    }
}
