//! One change of the database as plain operations, so that a write that failed can be tried again.

use super::keys::Family;

/// One atomic change.
#[derive(Clone, Debug, Default)]
pub(super) struct Batch {
    pub(super) operations: Vec<(Family, Vec<u8>, Option<Vec<u8>>)>,
}

impl Batch {
    pub(super) fn put(&mut self, family: Family, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) {
        self.operations.push((family, key.into(), Some(value.into())));
    }

    pub(super) fn delete(&mut self, family: Family, key: impl Into<Vec<u8>>) {
        self.operations.push((family, key.into(), None));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.operations.is_empty()
    }

    /// Of all keys and values.
    pub(super) fn bytes(&self) -> u64 {
        let of =
            |(_, key, value): &(_, Vec<u8>, Option<Vec<u8>>)| key.len() + value.as_ref().map_or(0, Vec::len);
        self.operations.iter().map(of).sum::<usize>() as u64
    }
}
