//! A record as a JSON object with one key a field, named as in searches. Fields without a value are left out; fields
//! that may have several values are arrays.

use serde::ser::{Serialize, SerializeMap, Serializer};

use crate::field::{FIELDS, Field, Value};
use crate::stored::StoredFlow;
use crate::timestamp::rfc3339;

/// Serializes a [`StoredFlow`] by the field table.
pub struct AsJson<'a>(pub &'a StoredFlow);

impl Serialize for AsJson<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for field in FIELDS.iter().filter(|f| !f.any_of) {
            let values = values(field, self.0);
            match (field.many, values.as_slice()) {
                (_, []) => {}
                (false, [value, ..]) => map.serialize_entry(field.name, value)?,
                (true, several) => map.serialize_entry(field.name, several)?,
            }
        }
        map.end()
    }
}

fn values(field: &Field, flow: &StoredFlow) -> Vec<Value<'static>> {
    let mut values = Vec::new();
    field.each(flow, &mut |value| values.push(value.into_owned()));
    values
}

impl Serialize for Value<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Value::Ip(ip) => serializer.collect_str(ip),
            Value::Integer(n) => serializer.serialize_u64(*n),
            Value::Text(text) => serializer.serialize_str(text),
            Value::Time(time) => serializer.serialize_str(&rfc3339(*time)),
            Value::Bool(b) => serializer.serialize_bool(*b),
        }
    }
}
