//! Layer-7 metadata: values of fields that only some flows have, bounded in number and size.

use std::net::IpAddr;
use std::sync::Arc;

use smol_str::SmolStr;

use crate::field::FieldId;

/// A value read from packets. Text is what a packet claimed: it is escaped wherever it is shown.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum AttributeValue {
    Integer(u64),
    /// Most are so short that they take no memory of their own.
    Text(SmolStr),
    Ip(IpAddr),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Attribute {
    pub field: FieldId,
    pub value: AttributeValue,
}

/// The metadata of one flow. Values of one field form a set; what does not fit is counted. A copy shares the values
/// until one of the two changes.
#[derive(Clone, Debug, Default)]
pub struct Attributes {
    /// An empty list takes no memory of its own.
    list: Option<Arc<Vec<Attribute>>>,
    dropped: u32,
    text_bytes: u16,
    /// Of the list, said here so that to know it takes no look elsewhere in memory.
    count: u16,
}

const _: () = assert!(Attributes::ALL_TEXT_BYTES_MAX <= u16::MAX as usize);
const _: () = assert!(Attributes::COUNT_MAX <= u16::MAX as usize);

impl PartialEq for Attributes {
    fn eq(&self, other: &Attributes) -> bool {
        self.list() == other.list() && self.dropped == other.dropped
    }
}

impl Eq for Attributes {}

impl Attributes {
    /// Values a flow may have, over all fields. A chain of certificates alone brings a few dozen.
    pub const COUNT_MAX: usize = 255;
    /// Values that the list has room for at first: most flows that say anything say this much.
    const AT_FIRST: usize = 8;
    /// Bytes of one text value; longer ones are cut at a character boundary.
    pub const TEXT_BYTES_MAX: usize = 1024;
    /// Bytes of all text values together: what one flow can make of the memory is bounded, whatever it sends.
    pub const ALL_TEXT_BYTES_MAX: usize = 24 << 10;

    /// Add a value unless the flow has it already. Returns whether it was added.
    pub fn push(&mut self, field: FieldId, value: AttributeValue) -> bool {
        match value {
            AttributeValue::Text(text) if text.len() > Self::TEXT_BYTES_MAX => self.text(field, &text),
            AttributeValue::Text(text) => {
                self.takes(field, &text) && {
                    self.add(Attribute { field, value: AttributeValue::Text(text) });
                    true
                }
            }
            other => {
                !self.iter().any(|a| a.field == field && a.value == other) && {
                    let fits = self.len() < Self::COUNT_MAX;
                    if fits {
                        self.add(Attribute { field, value: other });
                    } else {
                        self.dropped = self.dropped.saturating_add(1);
                    }
                    fits
                }
            }
        }
    }

    pub fn text(&mut self, field: FieldId, text: &str) -> bool {
        let text = &text[..text.floor_char_boundary(Self::TEXT_BYTES_MAX)];
        self.takes(field, text) && {
            self.add(Attribute { field, value: AttributeValue::Text(text.into()) });
            true
        }
    }

    fn list(&self) -> &[Attribute] {
        self.list.as_deref().map_or(&[], Vec::as_slice)
    }

    fn add(&mut self, attribute: Attribute) {
        self.count += 1;
        let begin = || Arc::new(Vec::with_capacity(Self::AT_FIRST));
        Arc::make_mut(self.list.get_or_insert_with(begin)).push(attribute);
    }

    /// Makes room for so many more values at once.
    pub fn reserve(&mut self, more: usize) {
        Arc::make_mut(self.list.get_or_insert_default()).reserve(more.min(Self::COUNT_MAX));
    }

    /// Whether a text is new and fits; counts it either way.
    fn takes(&mut self, field: FieldId, text: &str) -> bool {
        let known =
            |a: &Attribute| a.field == field && matches!(&a.value, AttributeValue::Text(t) if t == text);
        if self.iter().any(known) {
            return false;
        }
        let text_bytes = self.text_bytes as usize + text.len();
        if self.len() >= Self::COUNT_MAX || text_bytes > Self::ALL_TEXT_BYTES_MAX {
            self.dropped = self.dropped.saturating_add(1);
            return false;
        }
        self.text_bytes = text_bytes as u16;
        true
    }

    /// About what a full list takes of memory.
    pub const BYTES_MAX: usize = Self::ALL_TEXT_BYTES_MAX + Self::COUNT_MAX * size_of::<Attribute>();

    /// About what it takes of memory.
    pub fn bytes(&self) -> usize {
        self.text_bytes() + self.len() * size_of::<Attribute>()
    }

    /// Add a value even where nothing more fits: what came last of all for which `may_go` holds makes room, and is counted.
    /// Returns whether it was added; one that is there already, and one that nothing makes room for, is not.
    pub fn push_over(
        &mut self,
        field: FieldId,
        value: &AttributeValue,
        may_go: impl Fn(&Attribute) -> bool,
    ) -> bool {
        loop {
            let dropped = self.dropped;
            if self.push(field, value.clone()) {
                return true;
            }
            if self.dropped == dropped {
                return false;
            }
            let Some(at) = self.list().iter().rposition(&may_go) else { return false };
            // Dropped is what goes; the value that was counted comes.
            let list = Arc::make_mut(self.list.get_or_insert_default());
            self.count -= 1;
            if let AttributeValue::Text(text) = list.remove(at).value {
                self.text_bytes -= text.len() as u16;
            }
        }
    }

    /// Bytes of all text values together.
    pub fn text_bytes(&self) -> usize {
        self.text_bytes as usize
    }

    pub fn integer(&mut self, field: FieldId, value: impl Into<u64>) -> bool {
        self.push(field, AttributeValue::Integer(value.into()))
    }

    pub fn ip(&mut self, field: FieldId, address: impl Into<IpAddr>) -> bool {
        self.push(field, AttributeValue::Ip(address.into()))
    }

    /// Nothing more fits: reading on only to count is not worth it.
    pub fn is_full(&self) -> bool {
        self.len() >= Self::COUNT_MAX
    }

    pub fn iter(&self) -> impl Iterator<Item = &Attribute> {
        self.list().iter()
    }

    pub fn of(&self, field: FieldId) -> impl Iterator<Item = &AttributeValue> {
        self.list().iter().filter(move |a| a.field == field).map(|a| &a.value)
    }

    pub fn len(&self) -> usize {
        usize::from(self.count)
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
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
        for n in 0..300u32 {
            attributes.integer(field::PROTOCOLS, n);
        }
        assert_eq!(attributes.len(), Attributes::COUNT_MAX);
        assert!(attributes.is_full());
        assert_eq!(attributes.dropped(), 46);
    }

    #[test]
    fn a_copy_does_not_change_with_the_original() {
        let mut attributes = Attributes::default();
        attributes.text(field::TAGS, "both");
        let copy = attributes.clone();
        attributes.text(field::TAGS, "one");
        assert_eq!((copy.len(), attributes.len()), (1, 2));
        assert_ne!(copy, attributes);
    }

    #[test]
    fn all_text_together_is_bounded() {
        let mut attributes = Attributes::default();
        for n in 0..100 {
            attributes.text(field::TAGS, &format!("{n:0>1000}"));
        }
        assert_eq!((attributes.len(), attributes.dropped()), (24, 76));
        assert!(!attributes.is_full() && attributes.text(field::TAGS, "short"));
    }

    #[test]
    fn what_has_to_be_there_finds_room() {
        let mut attributes = Attributes::default();
        attributes.text(field::TAGS, "stays");
        for n in 0..100 {
            attributes.text(field::DNS_HOST, &format!("{n:0>1000}"));
        }
        let (len, dropped) = (attributes.len(), attributes.dropped());
        let goes = |attribute: &Attribute| attribute.field == field::DNS_HOST;
        let text = |text: &str| AttributeValue::Text(text.into());
        let long = text(&"x".repeat(1024));
        assert!(attributes.push_over(field::ALERT_SIGNATURE, &long, goes));
        assert!(!attributes.push_over(field::ALERT_SIGNATURE, &long, goes), "once");
        assert_eq!((attributes.len(), attributes.dropped()), (len, dropped + 1));
        assert_eq!(attributes.of(field::TAGS).count(), 1);
        let sum: usize = attributes
            .iter()
            .map(|a| if let AttributeValue::Text(text) = &a.value { text.len() } else { 0 })
            .sum();
        assert_eq!(attributes.text_bytes(), sum);
        for n in 0..300u32 {
            attributes.push_over(field::ALERT_SIGNATURE_ID, &AttributeValue::Integer(n.into()), goes);
        }
        assert_eq!((attributes.len(), attributes.of(field::DNS_HOST).count()), (Attributes::COUNT_MAX, 0));
        let dropped = attributes.dropped();
        assert!(!attributes.push_over(field::ALERT_GID, &AttributeValue::Integer(9), goes));
        assert_eq!(attributes.dropped(), dropped + 1);
    }

    #[test]
    fn long_text_is_cut_between_characters() {
        let mut attributes = Attributes::default();
        attributes.text(field::TAGS, &"é".repeat(1000));
        let Some(AttributeValue::Text(text)) = attributes.of(field::TAGS).next() else { panic!("no text") };
        assert_eq!(text.len(), Attributes::TEXT_BYTES_MAX);
    }
}
