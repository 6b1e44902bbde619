//! Records as a hunt looks at them: some fields' values and a time, from columns where there are some.

use std::net::IpAddr;

use gnomon_clock::UtcNs;
use gnomon_flow::{Field, StoredFlow, Value};

use super::of_field;
use crate::query::coded::Coded;
use crate::query::group::distinct;
use crate::store::{Part, StoreError};

/// The fields that a hunt reads, by place.
pub(super) struct Columns(Vec<&'static Field>);

/// A record.
pub(super) struct Row<'r> {
    /// Of its first packet; of its ingest where that is not known.
    pub(super) at: Option<UtcNs>,
    values: &'r [Vec<&'r Value<'static>>],
}

impl Row<'_> {
    /// The values of a field.
    pub(super) fn all(&self, place: usize) -> impl Iterator<Item = &Value<'static>> {
        self.values.get(place).into_iter().flatten().copied()
    }

    pub(super) fn ip(&self, place: usize) -> Option<IpAddr> {
        self.all(place).find_map(|value| if let Value::Ip(ip) = value { Some(*ip) } else { None })
    }

    /// A number; 0 where there is none.
    pub(super) fn number(&self, place: usize) -> u64 {
        self.all(place)
            .find_map(|value| if let Value::Integer(n) = value { Some(*n) } else { None })
            .unwrap_or(0)
    }

    pub(super) fn text(&self, place: usize) -> &str {
        self.all(place)
            .find_map(|value| if let Value::Text(text) = value { Some(&**text) } else { None })
            .unwrap_or_default()
    }
}

impl Columns {
    pub(super) fn of(names: &[&str]) -> Columns {
        Columns(names.iter().filter_map(|name| of_field(name)).collect())
    }

    /// Calls `each` with every record of a part.
    pub(super) fn each(&self, part: &Part<'_>, each: &mut dyn FnMut(&Row<'_>)) -> Result<(), StoreError> {
        match part {
            Part::Flows(flows) => flows.iter().for_each(|flow| self.flow(flow, each)),
            Part::Rows(block, rows) => {
                let coded = self.0.iter().map(|field| Coded::of(field, block, rows));
                let Some(coded) = coded.collect::<Result<Option<Vec<Coded>>, _>>()? else {
                    for row in rows.iter() {
                        self.flow(&block.flow(row)?, each);
                    }
                    return Ok(());
                };
                let times = if block.block().held() { block.all_ingested()? } else { block.firsts()? };
                let mut values: Vec<Vec<&Value<'static>>> = vec![Vec::new(); coded.len()];
                let mut found = Vec::new();
                for row in rows.iter() {
                    for (of_field, values) in coded.iter().zip(&mut values) {
                        of_field.each(row, &mut found);
                        values.clear();
                        values
                            .extend(found.iter().filter_map(|number| of_field.values.get(*number as usize)));
                    }
                    each(&Row { at: times.get(row).copied(), values: &values });
                }
            }
        }
        Ok(())
    }

    fn flow(&self, flow: &StoredFlow, each: &mut dyn FnMut(&Row<'_>)) {
        let owned: Vec<Vec<Value<'static>>> = self
            .0
            .iter()
            .map(|field| {
                let mut values = Vec::new();
                distinct(field, flow, &mut values);
                values
            })
            .collect();
        let values: Vec<Vec<&Value<'static>>> = owned.iter().map(|values| values.iter().collect()).collect();
        each(&Row { at: flow.first.map(|first| first.utc).or(flow.ingested), values: &values });
    }
}
