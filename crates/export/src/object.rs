//! JSON objects that are filled by dotted names.

use gnomon_flow::Value as FieldValue;
use gnomon_flow::timestamp::rfc3339;
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

/// On a line of its own.
pub(crate) fn line(object: Object, out: &mut Vec<u8>) {
    // An object of texts and numbers always has a JSON form, and memory takes it.
    let text = Value::Object(object).to_string();
    out.extend_from_slice(text.as_bytes());
    out.push(b'\n');
}
