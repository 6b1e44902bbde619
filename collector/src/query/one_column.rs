//! Fields that are one column of integers: asked of its bytes as they lie in memory, without making a number of each.

use std::rc::Rc;

use gnomon_expression::ValueSet;
use gnomon_flow::{FieldId, FlowKey};

use super::values::Values;
use crate::store::block::Column;
use crate::store::block::columns::{self, Way};
use crate::store::live::RowSet;
use crate::store::{Reader, StoreError};

/// A field that is one column.
pub(super) struct OneColumn {
    column: Column,
    /// What is stored is the value + this.
    by: u64,
    has: Has,
}

/// Which rows have a value.
enum Has {
    All,
    /// Those that have anything but 0 stored.
    Stored,
    /// Those of a protocol with ports.
    Ports,
    Tcp,
}

/// Intervals that are asked of a column one by one.
const INTERVALS_MAX: usize = 4;

/// The field by its number in the field table.
pub(super) fn one_column(field: FieldId) -> Option<OneColumn> {
    let (orig, resp) = (Way(columns::ORIG_WAY), Way(columns::RESP_WAY));
    let (column, by, has) = match field.0 {
        24 => (columns::ORIG_PORT, 0, Has::Ports),
        25 => (columns::RESP_PORT, 0, Has::Ports),
        28 => (columns::ETHERTYPE, 0, Has::All),
        41 => (orig.packets(), 0, Has::All),
        42 => (resp.packets(), 0, Has::All),
        44 => (orig.bytes(), 0, Has::All),
        45 => (resp.bytes(), 0, Has::All),
        53 => (orig.ttl_min(), 1, Has::Stored),
        54 => (resp.ttl_min(), 1, Has::Stored),
        flag @ 60..=67 => (Column(columns::TCP_FLAGS + flag - 60), 0, Has::Tcp),
        68 => (columns::SYN_ACK, 0, Has::Tcp),
        70 => (columns::RTT, 1, Has::Stored),
        71 => (columns::RETRANSMISSIONS, 0, Has::Tcp),
        81 => (columns::SEGMENT, 0, Has::All),
        85 => (columns::SLICED_PACKETS, 0, Has::All),
        86 => (columns::SLICED_BYTES, 0, Has::All),
        _ => return None,
    };
    Some(OneColumn { column, by, has })
}

impl OneColumn {
    /// The rows that have a value; `None`: all.
    fn present(&self, block: &Reader) -> Result<Option<RowSet>, StoreError> {
        match self.has {
            Has::All => Ok(None),
            Has::Stored => block.rows_between(self.column, 1, u64::MAX).map(Some),
            Has::Ports => with_ports(block),
            Has::Tcp => tcp(block).map(Some),
        }
    }

    /// A number a row.
    pub(super) fn values(&self, block: &Reader) -> Result<Values, StoreError> {
        let stored = block.integers(self.column)?;
        let values = match self.by {
            0 => stored,
            by => Rc::new(stored.iter().map(|n| n.saturating_sub(by)).collect()),
        };
        Ok(Values::Integers { values, present: self.present(block)? })
    }

    /// The rows that have a value in `set`, or any at all. `None` for a set that has to be asked of every value.
    pub(super) fn rows(&self, block: &Reader, set: Option<&ValueSet>) -> Result<Option<RowSet>, StoreError> {
        let mut found = match set {
            None => RowSet::all(block.rows()),
            Some(ValueSet::Integer(set)) if set.list().len() <= INTERVALS_MAX => {
                let mut found = RowSet::none(block.rows());
                for (from, to) in set.list() {
                    // The largest values cannot be stored where something is added, and nothing has them.
                    let Some(from) = from.checked_add(self.by) else { continue };
                    found.unite(&block.rows_between(self.column, from, to.saturating_add(self.by))?);
                }
                found
            }
            Some(ValueSet::Integer(_)) => return Ok(None),
            Some(_) => return Ok(Some(RowSet::none(block.rows()))),
        };
        if let Some(present) = self.present(block)? {
            found.intersect(&present);
        }
        Ok(Some(found))
    }

    /// Tells `each` the values that `rows` have, and how many of them; gives how many have any. `None` where they lie too
    /// far apart to be counted in a table.
    pub(super) fn totals(
        &self,
        block: &Reader,
        rows: &RowSet,
        mut each: impl FnMut(u64, u64),
    ) -> Result<Option<u64>, StoreError> {
        let mut among = rows.clone();
        if let Some(present) = self.present(block)? {
            among.intersect(&present);
        }
        let Some((min, counts)) = block.integer_counts(self.column, &among)? else { return Ok(None) };
        for (stored, count) in (min..).zip(counts).filter(|(_, count)| *count > 0) {
            each(stored.saturating_sub(self.by), u64::from(count));
        }
        Ok(Some(among.len() as u64))
    }
}

/// The rows of protocols that have ports; `None`: all.
pub(super) fn with_ports(block: &Reader) -> Result<Option<RowSet>, StoreError> {
    let has = |protocol: u64| FlowKey { protocol: protocol as u8, ..FlowKey::default() }.has_ports();
    let all = RowSet::all(block.rows());
    let Some((min, counts)) = block.integer_counts(columns::PROTOCOL, &all)? else { return Ok(None) };
    let (with, without): (Vec<u64>, Vec<u64>) = (min..)
        .zip(counts)
        .filter(|(_, count)| *count > 0)
        .map(|(protocol, _)| protocol)
        .partition(|protocol| has(*protocol));
    if without.is_empty() {
        return Ok(None);
    }
    let mut rows = RowSet::none(block.rows());
    for protocol in with {
        rows.unite(&block.rows_between(columns::PROTOCOL, protocol, protocol)?);
    }
    Ok(Some(rows))
}

fn tcp(block: &Reader) -> Result<RowSet, StoreError> {
    block.rows_between(columns::TCP_STATE, 1, u64::MAX)
}
