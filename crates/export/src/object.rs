//! JSON objects that are filled by dotted names.

use gnomon_flow::Value as FieldValue;
use gnomon_flow::escape::make_terminal_safe_json;
use gnomon_flow::timestamp::rfc3339;
use serde::Serialize;
use serde_json::{Map, Value};

pub(crate) type Object = Map<String, Value>;

/// Put a value at `a.b.c`, an object in an object. What stands there already stays.
pub(crate) fn put(object: &mut Object, name: &str, value: impl Into<Value>) {
    match name.split_once('.') {
        None => {
            object.entry(name).or_insert_with(|| value.into());
        }
        Some((outer, inner)) => {
            let entry = object.entry(outer).or_insert_with(|| Value::Object(Map::new()));
            if let Value::Object(nested) = entry {
                put(nested, inner, value);
            }
        }
    }
}

/// As the record's own JSON has it.
pub(crate) fn json(value: &FieldValue<'_>) -> Value {
    match value {
        FieldValue::Ip(ip) => ip.to_string().into(),
        FieldValue::Integer(n) => (*n).into(),
        FieldValue::Text(text) => text.as_ref().into(),
        FieldValue::Time(time) => rfc3339(*time).into(),
        FieldValue::Bool(b) => (*b).into(),
    }
}

/// Appends the JSON of a record or an object, without the characters that could drive a terminal or show a text as another.
pub fn append(object: &impl Serialize, out: &mut Vec<u8>) {
    let start = out.len();
    // Texts and numbers always have a JSON form, and memory takes it.
    serde_json::to_writer(&mut *out, object).unwrap_or_default();
    make_terminal_safe_json(out, start);
}

/// On a line of its own.
pub(crate) fn line(object: &Object, out: &mut Vec<u8>) {
    append(object, out);
    out.push(b'\n');
}
