//! What is known of a block's most frequent values without reading its columns. A rollup belongs to its block: it is right
//! as long as the block is whole, moves in time as the block does, and goes when the block goes.
//!
//! The value is a protobuf `StoredRollup`. It is made behind the writer's back, some time after its block; a block of an
//! older collector, or one that has just been sealed, has none yet, and is read itself.

use std::net::IpAddr;
use std::sync::Arc;

use gnomon_flow::{AttributeValue, FieldId, Value};
use gnomon_proto::{Message, v1};

use super::block::{ROWS_MAX, columns};
use super::envelope::{DamagedValue, damaged};
use super::keys::{self, Family};
use super::live::Sealed;
use super::rocks::Batch;
use super::{Reader, Store, StoreError};

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Rollup {
    pub(crate) rows: usize,
    /// Rising by field. A field that is not here was not counted.
    pub(crate) fields: Vec<Rolled>,
}

/// The values of one field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rolled {
    pub(crate) field: FieldId,
    /// Records that have any.
    pub(crate) flows: u64,
    /// A value that is not here has at most so many.
    pub(crate) missed: u64,
    pub(crate) values: Vec<(Value<'static>, u64)>,
}

/// Behind the kinds that columns have.
const VALUE_BOOL: u8 = 3;

fn bytes_of(value: &Value<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    let attribute = match value {
        Value::Ip(ip) => AttributeValue::Ip(IpAddr::clone(ip)),
        Value::Integer(n) => AttributeValue::Integer(*n),
        Value::Text(text) => AttributeValue::Text(text.clone().into_owned()),
        Value::Bool(b) => return vec![VALUE_BOOL, u8::from(*b)],
        // No field of times has a rollup.
        Value::Time(_) => return bytes,
    };
    columns::value_bytes(&attribute, &mut bytes);
    bytes
}

fn value_of(bytes: &[u8]) -> Option<Value<'static>> {
    match bytes {
        [VALUE_BOOL, b] => Some(Value::Bool(*b != 0)),
        other => columns::value_of(other).map(Value::into_owned),
    }
}

impl Rollup {
    pub(crate) fn of(&self, field: FieldId) -> Option<&Rolled> {
        self.fields.binary_search_by_key(&field, |rolled| rolled.field).ok().map(|at| &self.fields[at])
    }

    fn encode(&self) -> Vec<u8> {
        let field = |rolled: &Rolled| v1::StoredRolled {
            field: u32::from(rolled.field.0),
            flows: rolled.flows,
            missed: rolled.missed,
            values: rolled.values.iter().map(|(value, _)| bytes_of(value)).collect(),
            counts: rolled.values.iter().map(|(_, count)| *count).collect(),
        };
        v1::StoredRollup { rows: self.rows as u32, fields: self.fields.iter().map(field).collect() }
            .encode_to_vec()
    }

    pub(super) fn decode(value: &[u8]) -> Result<Rollup, DamagedValue> {
        const WHAT: &str = "a block's rollup";
        let stored = v1::StoredRollup::decode(value).map_err(|e| damaged(WHAT, e.to_string()))?;
        if stored.rows as usize > ROWS_MAX {
            return Err(damaged(WHAT, format!("claims {} rows", stored.rows)));
        }
        let field = |rolled: v1::StoredRolled| {
            let id =
                u16::try_from(rolled.field).map_err(|_| damaged(WHAT, "names a field that cannot be"))?;
            if rolled.values.len() != rolled.counts.len() {
                return Err(damaged(WHAT, "has values without counts"));
            }
            let values = rolled.values.iter().zip(rolled.counts).map(|(bytes, count)| {
                let value = value_of(bytes).ok_or_else(|| damaged(WHAT, "has a value of no kind"))?;
                Ok((value, count))
            });
            let values = values.collect::<Result<_, DamagedValue>>()?;
            Ok(Rolled { field: FieldId(id), flows: rolled.flows, missed: rolled.missed, values })
        };
        let mut fields = stored.fields.into_iter().map(field).collect::<Result<Vec<_>, _>>()?;
        fields.sort_by_key(|rolled| rolled.field);
        Ok(Rollup { rows: stored.rows as usize, fields })
    }
}

impl Store {
    /// The blocks there are, the newest last.
    pub(crate) fn blocks(&self) -> Arc<Vec<Arc<Sealed>>> {
        Arc::clone(self.shared.live().blocks())
    }

    pub(crate) fn has_rollup(&self, block: u64) -> Result<bool, StoreError> {
        Ok(self.shared.rocks.get(Family::Rollups, &keys::block(block))?.is_some())
    }

    /// Keeps a block's rollup, unless the block has gone meanwhile. Its bytes.
    pub(crate) fn put_rollup(&self, block: u64, rollup: &Rollup) -> Result<u64, StoreError> {
        let mut batch = Batch::default();
        let value = rollup.encode();
        let bytes = value.len() as u64;
        batch.put(Family::Rollups, keys::block(block), value);
        // Whoever takes a block out takes its rollup out behind that: see `Writer::drop_blocks`.
        let live = self.shared.live();
        if live.block(block).is_some() {
            self.shared.rocks.write(&batch, false)?;
        }
        Ok(bytes)
    }
}

impl Reader {
    /// The block's rollup, when there is one that can be read. It is right for the whole block only.
    pub(crate) fn rollup(&self) -> Result<Option<Rollup>, StoreError> {
        let id = self.block().id;
        let Some(value) = self.rollup_bytes(id)? else { return Ok(None) };
        match Rollup::decode(&value) {
            Ok(rollup) if rollup.rows == self.rows() => Ok(Some(rollup)),
            Ok(_) => Ok(None),
            Err(error) => {
                tracing::error!(block = id, %error, "a rollup is damaged: its block is read itself");
                Ok(None)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rollup_comes_back_as_it_went_in() {
        let values = vec![
            (Value::Ip([10, 0, 0, 1].into()), 5),
            (Value::Ip([7u16; 8].into()), 4),
            (Value::Integer(u64::MAX), 3),
            (Value::Text("Straße".into()), 2),
            (Value::Text("".into()), 2),
            (Value::Bool(true), 1),
        ];
        let of = |field| Rolled { field: FieldId(field), flows: 9, missed: 1, values: values.clone() };
        let rollup = Rollup { rows: 17, fields: vec![of(21), of(1010)] };
        let bytes = rollup.encode();
        assert_eq!(Rollup::decode(&bytes), Ok(rollup.clone()));
        assert_eq!((rollup.of(FieldId(1010)), rollup.of(FieldId(22))), (Some(&rollup.fields[1]), None));
        for cut in 0..bytes.len() {
            // Never a panic, and never more than there was.
            assert!(Rollup::decode(&bytes[..cut]).is_ok_and(|cut| cut != rollup) || cut < bytes.len());
        }
        assert!(Rollup::decode(b"\xff\xff").is_err());
    }
}
