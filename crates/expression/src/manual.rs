//! The manual of the language: what people read is what the tests parse.

use std::fmt::Write;

use gnomon_flow::{FIELDS, Field, FieldKind};

const TEXT: &str = include_str!("manual.md");
const FIELDS_HERE: &str = "<!-- fields -->";

/// The text of docs/search.md: the manual with the table of fields.
pub fn search_docs() -> String {
    TEXT.replace(FIELDS_HERE, fields().trim_end())
}

fn fields() -> String {
    let mut table = "| field | also | type | meaning |\n|---|---|---|---|\n".to_owned();
    for field in FIELDS {
        let also: Vec<String> = field.aliases.iter().map(|alias| format!("`{alias}`")).collect();
        // Writing to a String cannot fail.
        let _ = writeln!(
            table,
            "| `{}` | {} | {} | {} |",
            field.name,
            also.join(" "),
            kind(field),
            cell(&meaning(field))
        );
    }
    table
}

fn kind(field: &Field) -> String {
    let kind = match field.kind {
        FieldKind::Ip => "address",
        FieldKind::Integer => "integer",
        FieldKind::Text => "text",
        FieldKind::Time => "time",
        FieldKind::Bool => "bool",
    };
    match (field.any_of, field.many) {
        (true, _) => format!("{kind}, any side"),
        (false, true) => format!("{kind}, many"),
        (false, false) => kind.to_owned(),
    }
}

fn meaning(field: &Field) -> String {
    if field.values.is_empty() {
        return field.doc.to_owned();
    }
    let values: Vec<String> = field.values.iter().map(|value| format!("`{value}`")).collect();
    format!("{} One of {}.", field.doc, values.join(", "))
}

/// Text that does not end its cell.
fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse;

    fn blocks(kind: &str) -> Vec<&'static str> {
        let fence = format!("```{kind}\n");
        TEXT.split(fence.as_str())
            .skip(1)
            .filter_map(|rest| rest.split_once("\n```"))
            .map(|(block, _)| block)
            .collect()
    }

    #[test]
    fn every_example_is_understood() {
        let examples: Vec<&str> = blocks("expression").into_iter().flat_map(str::lines).collect();
        assert!(examples.len() > 40, "{}", examples.len());
        for example in examples {
            if let Err(error) = parse(example) {
                panic!("{error}\n{}", error.caret(example));
            }
        }
    }

    #[test]
    fn the_error_shown_is_the_error_given() {
        let shown = blocks("text")[0];
        let error = parse("prot == tcp").expect_err("unknown");
        assert_eq!(shown, format!("{error}\n{}", error.caret("prot == tcp")));
    }

    #[test]
    fn every_field_is_in_the_table() {
        let docs = search_docs();
        assert!(FIELDS.iter().all(|field| docs.contains(&format!("| `{}` |", field.name))));
        assert!(!docs.contains(FIELDS_HERE));
    }
}
