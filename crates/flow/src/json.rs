//! A record as a JSON object with one key a field, named as in searches. Fields without a value are left out; fields
//! that may have several values are arrays.

use serde::ser::{Serialize, SerializeMap, Serializer};

use crate::field::{ATTRIBUTE_ID_FIRST, FIELDS, Field, FieldId, Value};
use crate::stored::StoredFlow;
use crate::timestamp::rfc3339;

/// Serializes a [`StoredFlow`] by the field table.
pub struct AsJson<'a>(pub &'a StoredFlow);

impl Serialize for AsJson<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        let present = Present::of(self.0);
        for field in FIELDS.iter().filter(|f| !f.any_of && present.may_have(f)) {
            if field.many {
                let values = values(field, self.0);
                if !values.is_empty() {
                    map.serialize_entry(field.name, &values)?;
                }
            } else {
                let mut done = None;
                field.each(self.0, &mut |value| {
                    if done.is_none() {
                        done = Some(map.serialize_entry(field.name, &value));
                    }
                });
                done.transpose()?;
            }
        }
        map.end()
    }
}

/// Which attributes a record has. Most of the table's fields are in no given record, and each that is asked for its values
/// goes through all attributes.
struct Present([u64; Present::WORDS]);

impl Present {
    const WORDS: usize = 16;

    fn of(flow: &StoredFlow) -> Present {
        let mut words = [0; Present::WORDS];
        for attribute in flow.record.attributes.iter() {
            if let Some((word, bit)) = Present::place(attribute.field) {
                words[word] |= bit;
            }
        }
        Present(words)
    }

    /// True for what is no attribute, and for ids beyond the words here.
    fn may_have(&self, field: &Field) -> bool {
        Present::place(field.id).is_none_or(|(word, bit)| self.0[word] & bit != 0)
    }

    fn place(id: FieldId) -> Option<(usize, u64)> {
        let at = usize::from(id.0.checked_sub(ATTRIBUTE_ID_FIRST)?);
        (at < Present::WORDS * 64).then_some((at / 64, 1 << (at % 64)))
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
