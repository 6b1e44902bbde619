//! Layer-7 metadata: values of fields that only some flows have, bounded in number and size.

use std::net::IpAddr;

use crate::field::FieldId;

/// A value read from packets. Text is what a packet claimed: it is escaped wherever it is shown.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum AttributeValue {
    Integer(u64),
    Text(String),
    Ip(IpAddr),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Attribute {
    pub field: FieldId,
    pub value: AttributeValue,
}

/// The metadata of one flow. Values of one field form a set; what does not fit is counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    list: Vec<Attribute>,
    dropped: u32,
}

impl Attributes {
    /// Values a flow may have, over all fields.
    pub const COUNT_MAX: usize = 64;
    /// Bytes of one text value; longer ones are cut at a character boundary.
    pub const TEXT_BYTES_MAX: usize = 1024;

    /// Add a value unless the flow has it already. Returns whether it was added.
    pub fn push(&mut self, field: FieldId, value: AttributeValue) -> bool {
        let value = match value {
            AttributeValue::Text(mut text) => {
                if text.len() > Self::TEXT_BYTES_MAX {
                    text.truncate(text.floor_char_boundary(Self::TEXT_BYTES_MAX));
                }
                AttributeValue::Text(text)
            }
            other => other,
        };
        if self.list.iter().any(|a| a.field == field && a.value == value) {
            return false;
        }
        if self.list.len() >= Self::COUNT_MAX {
            self.dropped = self.dropped.saturating_add(1);
            return false;
        }
        self.list.push(Attribute { field, value });
        true
    }

    pub fn text(&mut self, field: FieldId, text: &str) -> bool {
        self.push(field, AttributeValue::Text(text.to_owned()))
    }

    pub fn iter(&self) -> impl Iterator<Item = &Attribute> {
        self.list.iter()
    }

    pub fn of(&self, field: FieldId) -> impl Iterator<Item = &AttributeValue> {
        self.list.iter().filter(move |a| a.field == field).map(|a| &a.value)
    }

    pub fn len(&self) -> usize {
        self.list.len()
    }

    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Values that did not fit.
    pub fn dropped(&self) -> u32 {
        self.dropped
    }

    /// As many as were lost before this list was made (when it comes off the wire).
    pub fn add_dropped(&mut self, count: u32) {
        self.dropped = self.dropped.saturating_add(count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::field;

    #[test]
    fn values_are_a_bounded_set() {
        let mut attributes = Attributes::default();
        assert!(attributes.text(field::PROTOCOLS, "dns"));
        assert!(!attributes.text(field::PROTOCOLS, "dns"));
        for n in 0..100 {
            attributes.push(field::PROTOCOLS, AttributeValue::Integer(n));
        }
        assert_eq!(attributes.len(), Attributes::COUNT_MAX);
        assert_eq!(attributes.dropped(), 37);
    }

    #[test]
    fn long_text_is_cut_between_characters() {
        let mut attributes = Attributes::default();
        attributes.text(field::TAGS, &"é".repeat(1000));
        let Some(AttributeValue::Text(text)) = attributes.of(field::TAGS).next() else { panic!("no text") };
        assert_eq!(text.len(), Attributes::TEXT_BYTES_MAX);
    }
}
