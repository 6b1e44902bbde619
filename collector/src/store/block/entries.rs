//! The entries of a dictionary, behind each other in memory: found by code, by their order, or all at once by a text in them.

use std::ops::Range;

/// The different values of a column of texts or addresses, sorted.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Entries {
    pub(super) bytes: Vec<u8>,
    /// Where each ends in `bytes`.
    pub(super) ends: Vec<u32>,
}

impl Entries {
    /// Adds one behind all others.
    pub(crate) fn push(&mut self, entry: &[u8]) {
        self.bytes.extend_from_slice(entry);
        self.ends.push(self.bytes.len() as u32);
    }

    /// Bytes that they take.
    pub(crate) fn memory(&self) -> usize {
        self.bytes.len() + self.ends.len() * size_of::<u32>()
    }

    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    pub(crate) fn get(&self, code: usize) -> &[u8] {
        let Some(&end) = self.ends.get(code) else { return &[] };
        let start = code.checked_sub(1).and_then(|before| self.ends.get(before)).copied().unwrap_or(0);
        self.bytes.get(start as usize..end as usize).unwrap_or(&[])
    }

    /// The codes of all entries from `from` to `to`, both included.
    pub(crate) fn between(&self, from: &[u8], to: &[u8]) -> Range<usize> {
        let first = self.first(|entry| entry >= from);
        first..self.first(|entry| entry > to).max(first)
    }

    /// The first code whose entry `is`, where all behind one that is are, too.
    fn first(&self, is: impl Fn(&[u8]) -> bool) -> usize {
        let (mut from, mut to) = (0, self.len());
        while from < to {
            let middle = from.midpoint(to);
            if is(self.get(middle)) { to = middle } else { from = middle + 1 }
        }
        from
    }

    pub(crate) fn is_ascii(&self) -> bool {
        self.bytes.is_ascii()
    }

    /// The codes of all entries that may have the text in them, which is in lower case; letter case is ignored. Searched for
    /// in all of them at once. `None` where they are not all ASCII: then lower case is not a matter of single bytes.
    pub(crate) fn with_text(&self, text: &str) -> Option<Vec<usize>> {
        if !self.bytes.is_ascii() {
            return None;
        }
        let lower;
        let bytes = if self.bytes.iter().any(u8::is_ascii_uppercase) {
            lower = self.bytes.to_ascii_lowercase();
            &lower
        } else {
            &self.bytes
        };
        let finder = memchr::memmem::Finder::new(text);
        let (mut codes, mut from) = (Vec::new(), 0);
        while let Some(at) = bytes.get(from..).and_then(|rest| finder.find(rest)) {
            // It may reach over the end of its entry; then there is none in this one, since none of this length is behind it.
            let code = self.ends.partition_point(|end| *end as usize <= from + at);
            let Some(end) = self.ends.get(code) else { break };
            codes.push(code);
            from = *end as usize;
        }
        Some(codes)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &[u8]> {
        (0..self.len()).map(|code| self.get(code))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_lies_between_two_entries_is_found_by_their_order(
            all in prop::collection::btree_set(prop::collection::vec(0..4u8, 0..4), 0..40),
            from in prop::collection::vec(0..4u8, 0..4), to in prop::collection::vec(0..4u8, 0..4),
        ) {
            let mut entries = Entries::default();
            all.iter().for_each(|entry| entries.push(entry));
            let found = entries.between(&from, &to);
            for (code, entry) in all.iter().enumerate() {
                prop_assert_eq!(found.contains(&code), from <= *entry && *entry <= to, "{} of {:?}", code, all);
            }
        }

        #[test]
        fn a_text_is_found_in_every_entry_that_has_it(
            texts in prop::collection::btree_set("[abAB]{0,5}|[aé]{0,2}", 1..40), text in "[ab]{1,3}",
        ) {
            let mut entries = Entries::default();
            for text in &texts {
                entries.push(text.as_bytes());
            }
            let has = |entry: &[u8]| str::from_utf8(entry).unwrap().to_lowercase().contains(&text);
            match entries.with_text(&text) {
                None => prop_assert!(texts.iter().any(|text| !text.is_ascii())),
                Some(found) => {
                    prop_assert!(found.is_sorted_by(|a, b| a < b));
                    for (code, entry) in entries.iter().enumerate() {
                        prop_assert!(!has(entry) || found.contains(&code), "{code} of {texts:?}");
                    }
                }
            }
        }
    }
}
