//! What is known of a block's most frequent values without reading its columns. A rollup belongs to its block: it is right
//! as long as the block is whole, moves in time as the block does, and goes when the block goes.
//!
//! The value is a protobuf `StoredRollup`. It is made behind the writer's back, some time after its block; a block of an
//! older collector, or one that has just been sealed, has none yet, and is read itself.

use std::net::IpAddr;
use std::sync::Arc;

use gnomon_flow::{AttributeValue, EpochHash, FieldId, Origin, StoredFlow, Value};
use gnomon_proto::limits::INTERFACE_BYTES_MAX;
use gnomon_proto::{Message, v1};

use super::block::{ROWS_MAX, columns};
use super::envelope::{DamagedValue, damaged};
use super::keys::{self, Family};
use super::live::Sealed;
use super::rocks::Batch;
use super::{Reader, Store, StoreError};

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Rollup {
    pub(crate) rows: u64,
    /// How many of the records come from where: of all of them, or it is empty.
    pub(crate) sources: Vec<SourceRows>,
    /// Rising by field. A field that is not here was not counted.
    pub(crate) fields: Vec<Rolled>,
}

/// The records of an interface in an epoch.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SourceRows {
    pub(crate) epoch: EpochHash,
    pub(crate) interface: Arc<str>,
    pub(crate) rows: u64,
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
        Value::Text(text) => AttributeValue::Text((&**text).into()),
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
        v1::StoredRollup {
            rows: self.rows as u32,
            fields: self.fields.iter().map(Rolled::stored).collect(),
            sources: stored_sources(&self.sources),
        }
        .encode_to_vec()
    }

    /// All of it, or (`wanted`) some fields.
    pub(super) fn decode(value: &[u8], wanted: Option<&[FieldId]>) -> Result<Rollup, DamagedValue> {
        let stored = v1::StoredRollup::decode(value).map_err(|e| damaged(WHAT, e.to_string()))?;
        if stored.rows as usize > ROWS_MAX {
            return Err(damaged(WHAT, format!("claims {} rows", stored.rows)));
        }
        let is_wanted = |rolled: &v1::StoredRolled| {
            wanted.is_none_or(|wanted| wanted.iter().any(|id| u32::from(id.0) == rolled.field))
        };
        let fields = stored.fields.into_iter().filter(is_wanted).map(Rolled::read);
        let mut fields = fields.collect::<Result<Vec<_>, _>>()?;
        fields.sort_by_key(|rolled| rolled.field);
        let rows = u64::from(stored.rows);
        Ok(Rollup { rows, sources: read_sources(stored.sources, rows)?, fields })
    }
}

const WHAT: &str = "a rollup";

impl Rolled {
    pub(super) fn stored(&self) -> v1::StoredRolled {
        v1::StoredRolled {
            field: u32::from(self.field.0),
            flows: self.flows,
            missed: self.missed,
            values: self.values.iter().map(|(value, _)| bytes_of(value)).collect(),
            counts: self.values.iter().map(|(_, count)| *count).collect(),
        }
    }

    pub(super) fn read(stored: v1::StoredRolled) -> Result<Rolled, DamagedValue> {
        let id = u16::try_from(stored.field).map_err(|_| damaged(WHAT, "names a field that cannot be"))?;
        if stored.values.len() != stored.counts.len() {
            return Err(damaged(WHAT, "has values without counts"));
        }
        let values = stored.values.iter().zip(stored.counts).map(|(bytes, count)| {
            let value = value_of(bytes).ok_or_else(|| damaged(WHAT, "has a value of no kind"))?;
            Ok((value, count))
        });
        let values = values.collect::<Result<_, DamagedValue>>()?;
        Ok(Rolled { field: FieldId(id), flows: stored.flows, missed: stored.missed, values })
    }
}

pub(super) fn stored_sources(sources: &[SourceRows]) -> Vec<v1::StoredSourceRows> {
    let stored = |source: &SourceRows| v1::StoredSourceRows {
        epoch: source.epoch.0,
        interface: source.interface.to_string(),
        rows: source.rows,
    };
    sources.iter().map(stored).collect()
}

/// None, or those of all `rows`.
pub(super) fn read_sources(
    stored: Vec<v1::StoredSourceRows>,
    rows: u64,
) -> Result<Vec<SourceRows>, DamagedValue> {
    let all = stored.iter().fold(0u64, |sum, source| sum.saturating_add(source.rows));
    if !stored.is_empty() && all != rows {
        return Err(damaged(WHAT, format!("has {all} of {rows} rows by source")));
    }
    let read = |source: v1::StoredSourceRows| SourceRows {
        epoch: EpochHash(source.epoch),
        // As a block's summary has it.
        interface: source.interface[..source.interface.floor_char_boundary(INTERFACE_BYTES_MAX)].into(),
        rows: source.rows,
    };
    Ok(stored.into_iter().map(read).collect())
}

impl Store {
    /// The blocks there are, the newest last.
    pub(crate) fn blocks(&self) -> Arc<Vec<Arc<Sealed>>> {
        Arc::clone(self.shared.live().blocks())
    }

    pub(crate) fn has_rollup(&self, block: u64) -> Result<bool, StoreError> {
        Ok(self.shared.rocks.has_key(Family::Rollups, &keys::block(block))?)
    }

    /// The rollup of a block with `rows` rows, all of it or some fields, when there is one that can be read.
    pub(crate) fn rollup(
        &self,
        block: u64,
        rows: usize,
        wanted: Option<&[FieldId]>,
    ) -> Result<Option<Rollup>, StoreError> {
        let Some(value) = self.shared.rocks.get_spare(Family::Rollups, &keys::block(block))? else {
            return Ok(None);
        };
        match Rollup::decode(&value, wanted) {
            Ok(rollup) if rollup.rows == rows as u64 => Ok(Some(rollup)),
            Ok(_) => Ok(None),
            Err(error) => {
                tracing::error!(block, %error, "a rollup is damaged: its block is read itself");
                Ok(None)
            }
        }
    }

    /// A record of nothing but where it comes from.
    ///
    /// # Errors
    /// When the database cannot be read or does not know the epoch.
    pub(crate) fn flow_from(&self, source: &SourceRows) -> Result<StoredFlow, StoreError> {
        let id = gnomon_flow::FlowRef { epoch: source.epoch, ..Default::default() };
        let epoch =
            self.shared.epochs.get(&self.shared.rocks, source.epoch)?.ok_or(StoreError::NoEpoch { id })?;
        let origin = Origin {
            agent: epoch.agent(),
            agent_name: Arc::clone(&epoch.agent_name),
            interface: Arc::clone(&source.interface),
            epoch: epoch.id,
        };
        Ok(StoredFlow { origin, ..StoredFlow::default() })
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
    pub(crate) fn rollup(&self, wanted: &[FieldId]) -> Result<Option<Rollup>, StoreError> {
        self.store().rollup(self.block().id, self.rows(), Some(wanted))
    }

    /// How many of all its records come from where.
    pub(crate) fn sources(&self) -> Result<Vec<SourceRows>, StoreError> {
        let of = |source: &super::block::summary::Source| SourceRows {
            epoch: source.epoch,
            interface: Arc::clone(&source.interface),
            rows: 0,
        };
        let mut sources: Vec<SourceRows> = self.summary().sources.iter().map(of).collect();
        for place in self.integers(columns::SOURCE)?.iter() {
            sources[self.known_source(*place)?].rows += 1;
        }
        Ok(sources)
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
        let source = |epoch, rows| SourceRows { epoch: EpochHash(epoch), interface: "eth0".into(), rows };
        let sources = vec![source(1, 7), source(u64::MAX, 10)];
        let rollup = Rollup { rows: 17, sources, fields: vec![of(21), of(1010)] };
        let bytes = rollup.encode();
        assert_eq!(Rollup::decode(&bytes, None), Ok(rollup.clone()));
        let some = Rollup::decode(&bytes, Some(&[FieldId(1010), FieldId(5)])).unwrap();
        assert_eq!(some, Rollup { fields: vec![of(1010)], ..rollup.clone() });
        assert!(Rollup::decode(&Rollup { rows: 16, ..rollup.clone() }.encode(), None).is_err());
        assert_eq!((rollup.of(FieldId(1010)), rollup.of(FieldId(22))), (Some(&rollup.fields[1]), None));
        for cut in 0..bytes.len() {
            // Never a panic, and never more than there was.
            assert_ne!(Rollup::decode(&bytes[..cut], None).as_ref(), Ok(&rollup), "cut at {cut}");
        }
        assert!(Rollup::decode(b"\xff\xff", None).is_err());
    }
}
