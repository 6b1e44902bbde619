//! Whether a block that was made can be read: asked before the records that it was made of are let go, because a column that
//! cannot be read takes the records of all its agents along.

use super::{Built, Summary, columns, encoding};
use crate::store::envelope::{DamagedValue, damaged};
use gnomon_flow::field::ATTRIBUTE_ID_FIRST;

/// Reads the summary and every column as questions will.
///
/// # Errors
/// What cannot be read.
pub(in crate::store) fn read_back(built: &Built) -> Result<(), DamagedValue> {
    const WHAT: &str = "a new block";
    let summary = Summary::decode(&built.summary.encode())?;
    if summary != *built.summary {
        return Err(damaged(WHAT, "has a summary that reads otherwise than it was written"));
    }
    if built.columns.len() != summary.columns.len() {
        return Err(damaged(WHAT, "has other columns than its summary says"));
    }
    let mut before = None;
    for ((column, bytes), of_summary) in built.columns.iter().zip(&summary.columns) {
        if before >= Some(*column) || column != of_summary {
            return Err(damaged(WHAT, format!("has column {} twice", column.0)));
        }
        before = Some(*column);
        if column.0 >= ATTRIBUTE_ID_FIRST || columns::BYTES.contains(column) {
            encoding::read_dictionary(bytes, summary.rows, true)?;
        } else {
            encoding::read_integers(bytes, summary.rows)?;
        }
    }
    Ok(())
}
