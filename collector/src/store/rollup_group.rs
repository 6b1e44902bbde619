//! Rollups of rollups: the most frequent values of many blocks that follow each other, so that facets of everything read a
//! few values of the database and not one a block.
//!
//! Blocks belong together by their numbers: sixteen to a group of the first level, sixteen of these to one of the second. A
//! group's rollup names the blocks whose rollups were added up in it. It is used where all of them lie whole in what is
//! asked for and nothing has left them; else the next finer ones are, which are always there. So nothing that happens to a
//! block can make it wrong: when a block moves in time, its group is used where it still fits; when a record leaves a block or
//! retention takes it, the group is of no use until it is made anew (`query/rollup_groups.rs`) without that block.
//!
//! How much a count may be too low is known as for blocks: `missed` is the sum of what the parts may have missed and the
//! largest count that was left out here.

use gnomon_flow::FieldId;
use gnomon_proto::{Message, v1};

use super::envelope::{DamagedValue, damaged};
use super::keys::{self, Family};
use super::rocks::Batch;
use super::rollup::{Rolled, Rollup, read_sources, stored_sources};
use super::{Store, StoreError};

/// Sizes of groups.
pub(crate) const LEVELS: u8 = 2;
/// A group has two to the power of so many parts. **Frozen**, as are the groups that follow from it.
const PARTS_BITS: u32 = 4;

const WHAT: &str = "a rollup of several blocks";

/// Which group: the level, and the smallest number that a block in it can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct GroupId {
    pub(crate) level: u8,
    pub(crate) first: u64,
}

impl GroupId {
    /// The group of a block.
    pub(crate) fn of(level: u8, block: u64) -> GroupId {
        let bits = PARTS_BITS * u32::from(level);
        GroupId { level, first: block >> bits << bits }
    }

    /// The largest number that a block in it can have.
    pub(crate) fn last(self) -> u64 {
        self.first | ((1 << (PARTS_BITS * u32::from(self.level))) - 1)
    }
}

/// What was rolled up together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RollupGroup {
    /// Rising.
    pub(crate) blocks: Vec<u64>,
    pub(crate) rollup: Rollup,
}

impl RollupGroup {
    fn encode(&self) -> Vec<u8> {
        let rollup = &self.rollup;
        v1::StoredRollupGroup {
            blocks: self.blocks.clone(),
            rows: rollup.rows,
            sources: stored_sources(&rollup.sources),
            fields: rollup.fields.iter().map(|rolled| u32::from(rolled.field.0)).collect(),
            rolled: rollup.fields.iter().map(|rolled| rolled.stored().encode_to_vec()).collect(),
        }
        .encode_to_vec()
    }

    /// All of it, or (`wanted`) some fields.
    pub(super) fn decode(value: &[u8], wanted: Option<&[FieldId]>) -> Result<RollupGroup, DamagedValue> {
        let stored = v1::StoredRollupGroup::decode(value).map_err(|e| damaged(WHAT, e.to_string()))?;
        if stored.fields.len() != stored.rolled.len() {
            return Err(damaged(WHAT, "has fields without values"));
        }
        if !stored.blocks.is_sorted_by(|a, b| a < b) || stored.blocks.is_empty() {
            return Err(damaged(WHAT, "names its blocks in no order"));
        }
        let mut fields = Vec::new();
        for (id, rolled) in stored.fields.iter().zip(&stored.rolled) {
            if wanted.is_some_and(|wanted| !wanted.iter().any(|field| u32::from(field.0) == *id)) {
                continue;
            }
            let rolled = v1::StoredRolled::decode(&rolled[..]).map_err(|e| damaged(WHAT, e.to_string()))?;
            if rolled.field != *id {
                return Err(damaged(WHAT, format!("has field {} in the place of {id}", rolled.field)));
            }
            fields.push(Rolled::read(rolled)?);
        }
        fields.sort_by_key(|rolled| rolled.field);
        let sources = read_sources(stored.sources, stored.rows)?;
        if sources.is_empty() {
            return Err(damaged(WHAT, "does not say where its records come from"));
        }
        let rollup = Rollup { rows: stored.rows, sources, fields };
        Ok(RollupGroup { blocks: stored.blocks, rollup })
    }
}

impl Store {
    /// A group's rollup, all of it or some fields, when there is one that can be read and has these.
    pub(crate) fn group(
        &self,
        id: GroupId,
        wanted: Option<&[FieldId]>,
    ) -> Result<Option<RollupGroup>, StoreError> {
        let Some(value) = self.shared.rocks.get_spare(Family::Groups, &keys::group(id.level, id.first))?
        else {
            return Ok(None);
        };
        match RollupGroup::decode(&value, wanted) {
            Ok(group) => {
                let has = |field: &FieldId| group.rollup.of(*field).is_some();
                Ok(wanted.is_none_or(|wanted| wanted.iter().all(has)).then_some(group))
            }
            Err(error) => {
                let GroupId { level, first } = id;
                tracing::error!(level, first, %error, "a rollup of several blocks is damaged: theirs are read");
                Ok(None)
            }
        }
    }

    /// What a disk that rots leaves of a group.
    #[cfg(test)]
    pub(crate) fn rot_group(&self, id: GroupId) {
        let mut batch = Batch::default();
        batch.put(Family::Groups, keys::group(id.level, id.first), *b"nonsense");
        self.shared.rocks.write(&batch, false).unwrap();
    }

    /// Keeps a group's rollup, unless one of its blocks has gone meanwhile. Its bytes.
    pub(crate) fn put_group(&self, id: GroupId, group: &RollupGroup) -> Result<u64, StoreError> {
        let value = group.encode();
        let bytes = value.len() as u64;
        let mut batch = Batch::default();
        batch.put(Family::Groups, keys::group(id.level, id.first), value);
        // Whoever takes a block out takes its groups' rollups out behind that: see `Writer::drop_blocks`.
        let live = self.shared.live();
        if group.blocks.iter().all(|block| live.block(*block).is_some()) {
            self.shared.rocks.write(&batch, false)?;
        }
        Ok(bytes)
    }
}

/// Takes the rollups of all groups out that a block of `blocks` is in.
pub(super) fn delete_groups(blocks: &[u64], batch: &mut Batch) {
    for level in 1..=LEVELS {
        let mut groups: Vec<GroupId> = blocks.iter().map(|block| GroupId::of(level, *block)).collect();
        groups.sort_unstable();
        groups.dedup();
        groups.iter().for_each(|id| batch.delete(Family::Groups, keys::group(id.level, id.first)));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use gnomon_flow::{EpochHash, Value};

    use super::super::rollup::SourceRows;
    use super::*;

    #[test]
    fn groups_are_frozen() {
        let of = |level, block| (GroupId::of(level, block).first, GroupId::of(level, block).last());
        assert_eq!(
            (of(1, 15), of(1, 16), of(2, 255), of(2, 4711)),
            ((0, 15), (16, 31), (0, 255), (4608, 4863))
        );
        assert_eq!(GroupId::of(2, u64::MAX).last(), u64::MAX);
    }

    #[test]
    fn a_group_comes_back_as_it_went_in_and_damage_is_told() {
        let values = vec![(Value::Integer(443), 7_000_000_000), (Value::Text("a".into()), 2)];
        let of = |field| Rolled { field: FieldId(field), flows: 8, missed: 3, values: values.clone() };
        let source = SourceRows { epoch: EpochHash(9), interface: Arc::from("eth0"), rows: 1 << 40 };
        let rollup = Rollup { rows: 1 << 40, sources: vec![source], fields: vec![of(25), of(1010)] };
        let group = RollupGroup { blocks: vec![16, 17, 31], rollup };
        let bytes = group.encode();
        assert_eq!(RollupGroup::decode(&bytes, None), Ok(group.clone()));
        let some = RollupGroup::decode(&bytes, Some(&[FieldId(25)])).unwrap();
        assert_eq!((&some.blocks, &some.rollup.fields), (&group.blocks, &vec![of(25)]));
        for cut in 0..bytes.len() {
            // Never a panic, and never the same.
            assert_ne!(RollupGroup::decode(&bytes[..cut], None).as_ref(), Ok(&group), "cut at {cut}");
        }
        let broken = |change: fn(&mut RollupGroup)| {
            let mut broken = group.clone();
            change(&mut broken);
            RollupGroup::decode(&broken.encode(), None)
        };
        assert!(broken(|group| group.blocks.swap(0, 1)).is_err());
        assert!(broken(|group| group.blocks.clear()).is_err());
        assert!(broken(|group| group.rollup.rows += 1).is_err());
        assert!(broken(|group| group.rollup.sources.clear()).is_err());
    }
}
