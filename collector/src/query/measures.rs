//! What is summed up of the rows of a block: their packets and bytes.

use std::rc::Rc;

use gnomon_flow::field;

use super::aggregate::Sums;
use super::values::{Values, values};
use crate::store::{Reader, StoreError};

/// The packets and bytes of each row.
pub(super) struct Measures {
    packets: Rc<Vec<u64>>,
    bytes: Rc<Vec<u64>>,
}

impl Measures {
    pub(super) fn of(block: &Reader) -> Result<Measures, StoreError> {
        let column = |name: &'static str| -> Result<Rc<Vec<u64>>, StoreError> {
            let of_field = field::by_name(name).map(|field| values(field, block)).transpose()?.flatten();
            Ok(match of_field.and_then(|mut lists| lists.pop()) {
                Some(Values::Integers { values, .. }) => values,
                _ => Rc::new(vec![0; block.rows()]),
            })
        };
        Ok(Measures { packets: column("packets")?, bytes: column("bytes")? })
    }

    pub(super) fn add(&self, row: usize, sums: &mut Sums) {
        sums.flows += 1;
        sums.packets = sums.packets.saturating_add(self.packets.get(row).copied().unwrap_or(0));
        sums.bytes = sums.bytes.saturating_add(self.bytes.get(row).copied().unwrap_or(0));
    }
}
