//! Counts, tops and histograms: one pass over the matching records, memory bounded.

use std::sync::Arc;

use gnomon_clock::UtcNs;
use gnomon_flow::{Field, StoredFlow, Value, field};

use super::buckets::{BucketKey, Buckets};
use super::coded::each_value;
use super::control::Control;
use super::counters::Operation;
use super::distinct::{Different, Distinct, OF_ALL, hash_of};
use super::execute::{Answer, Queries, QueryError, TimeRange, joined, limit_or};
use super::group::{GroupBy, Groups};
use super::measures::Measures;
use super::memory::{Charge, Question};
use super::waiting::Waiting;
use crate::store::live::RowSet;
use crate::store::{Part, Reader, StoreError};

/// Rows of a top unless the caller says otherwise.
const ROWS_DEFAULT: u32 = 10;
/// Rows of a top at most.
const ROWS_MAX: u32 = 10_000;
/// Fields of a top at most.
pub(super) const FIELDS_MAX: usize = 8;
/// Fields whose different values are counted, at most.
const DISTINCT_MAX: usize = 4;
/// Buckets along time.
const INTERVALS_MAX: i64 = 10_000;
/// Buckets to aim for when the caller leaves the interval open.
const INTERVALS_WANTED: i64 = 60;
const S: i64 = 1_000_000_000;
/// Lengths of buckets that people read well, in nanoseconds.
const NICE: [i64; 25] = [
    1_000_000,
    10_000_000,
    100_000_000,
    S,
    2 * S,
    5 * S,
    10 * S,
    15 * S,
    30 * S,
    60 * S,
    120 * S,
    300 * S,
    600 * S,
    900 * S,
    1800 * S,
    3600 * S,
    2 * 3600 * S,
    3 * 3600 * S,
    6 * 3600 * S,
    12 * 3600 * S,
    86_400 * S,
    2 * 86_400 * S,
    7 * 86_400 * S,
    30 * 86_400 * S,
    365 * 86_400 * S,
];

/// Sums over records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sums {
    pub flows: u64,
    pub packets: u64,
    pub bytes: u64,
}

impl Sums {
    pub(super) fn of(flow: &StoredFlow) -> Sums {
        Sums { flows: 1, packets: flow.record.packets(), bytes: flow.record.bytes() }
    }

    pub(super) fn merge(&mut self, other: &Sums) {
        self.flows += other.flows;
        self.packets = self.packets.saturating_add(other.packets);
        self.bytes = self.bytes.saturating_add(other.bytes);
    }

    fn by(&self, measure: Measure) -> u64 {
        match measure {
            Measure::Flows => self.flows,
            Measure::Packets => self.packets,
            Measure::Bytes => self.bytes,
            Measure::Distinct => 0,
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Measure {
    #[default]
    Flows,
    Packets,
    Bytes,
    /// Different values of the first field of [`Top::distinct`].
    Distinct,
}

#[derive(Clone, Debug, PartialEq)]
pub struct CountAnswer {
    pub sums: Sums,
    /// One a field that was asked for.
    pub distinct: Vec<Different>,
    pub waiting: Waiting,
    pub partial: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Top {
    pub expression: String,
    pub range: TimeRange,
    /// One or more; rows are their combinations.
    pub fields: Vec<String>,
    /// Fields whose different values are counted in each row: none to 4.
    pub distinct: Vec<String>,
    pub by: Measure,
    /// 0: 10; at most 10,000.
    pub limit: u32,
}

#[derive(Clone, Debug, PartialEq)]
pub struct TopRow {
    /// One a field, as JSON and searches write them.
    pub values: Vec<String>,
    pub sums: Sums,
    /// One a field of [`Top::distinct`]: exact up to 1024.
    pub distinct: Vec<Different>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct TopAnswer {
    pub rows: Vec<TopRow>,
    /// Flows in rows beyond the limit.
    pub others_flows: u64,
    pub waiting: Waiting,
    pub partial: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Histogram {
    pub expression: String,
    pub range: TimeRange,
    /// 0: chosen for about 60 buckets.
    pub interval_ns: u64,
    /// A field to split by, or empty.
    pub group: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bucket {
    pub start: UtcNs,
    pub group: String,
    pub sums: Sums,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistogramAnswer {
    pub interval_ns: u64,
    /// By start, then by group. Buckets without flows are left out.
    pub buckets: Vec<Bucket>,
    pub waiting: Waiting,
    pub partial: Option<String>,
}

impl Queries {
    /// How many records match, with their packets and bytes, and how many different values they have in the fields of
    /// `distinct` (exact up to 65,536).
    ///
    /// # Errors
    /// See [`QueryError`].
    pub async fn count(
        &self,
        expression: &str,
        range: TimeRange,
        distinct: &[String],
    ) -> Result<CountAnswer, QueryError> {
        let fields = all_named("distinct", distinct, DISTINCT_MAX)?;
        let selection = self.selection(expression, range)?;
        self.run(Operation::Count, move |control| {
            let (parts, partial) = selection.walk(&control, &|counts: &mut Counts, part| {
                match part {
                    Part::Rows(block, rows) => counts.add_rows(&fields, block, rows)?,
                    Part::Flows(flows) => flows.iter().for_each(|flow| counts.add(&fields, flow)),
                }
                counts.charge(&control.memory);
                Ok(())
            })?;
            let mut all = Counts::default();
            all.distinct.resize_with(fields.len(), Distinct::default);
            for part in parts {
                all.sums.merge(&part.sums);
                for (all, part) in all.distinct.iter_mut().zip(part.distinct) {
                    all.merge(OF_ALL, part);
                }
            }
            let distinct = all.distinct.iter().map(Distinct::count).collect();
            let waiting = selection.waiting(&control)?;
            Ok(CountAnswer { sums: all.sums, distinct, waiting, partial: joined(&partial) })
        })
        .await
    }

    /// The combinations of values with the largest sums. A record counts once for each combination of the values it has;
    /// one that lacks a value in any field counts for none.
    ///
    /// # Errors
    /// See [`QueryError`].
    pub async fn top(&self, top: Top) -> Result<TopAnswer, QueryError> {
        Ok(self.top_as(top, |answer| (answer, 0)).await?.value)
    }

    /// As [`Queries::top`]; `shape` makes of the answer what is sent, beside its length, on the thread of the question.
    ///
    /// # Errors
    /// See [`QueryError`].
    pub async fn top_as<R: Send + 'static>(
        &self,
        top: Top,
        shape: impl FnOnce(TopAnswer) -> (R, usize) + Send + 'static,
    ) -> Result<Answer<R>, QueryError> {
        let limit = limit_or("limit", top.limit, ROWS_DEFAULT, ROWS_MAX)?;
        if top.fields.is_empty() || top.fields.len() > FIELDS_MAX {
            let problem = format!("name 1 to {FIELDS_MAX} fields, not {}", top.fields.len());
            return Err(QueryError::invalid("fields", problem));
        }
        if top.by == Measure::Distinct && top.distinct.is_empty() {
            return Err(QueryError::invalid("by", "distinct needs a field to count: name it in `distinct`"));
        }
        let by = GroupBy {
            fields: all_named("fields", &top.fields, FIELDS_MAX)?,
            distinct: all_named("distinct", &top.distinct, DISTINCT_MAX)?,
        };
        let selection = self.selection(&top.expression, top.range)?;
        let work = move |control: Control| {
            let (parts, mut partial) = selection.walk(&control, &|groups: &mut Groups, part| {
                match part {
                    Part::Rows(block, rows) => groups.add_rows(&by, block, rows)?,
                    Part::Flows(flows) => flows.iter().for_each(|flow| groups.add(&by, flow)),
                }
                groups.charge(&control.memory);
                Ok(())
            })?;
            let mut groups = Groups::default();
            for part in parts {
                groups.merge(part);
                groups.charge(&control.memory);
            }
            partial.extend(groups.partial());
            let mut rows: Vec<(u64, usize)> = groups
                .sums()
                .iter()
                .enumerate()
                .map(|(place, sums)| {
                    let rank = match top.by {
                        Measure::Distinct => {
                            groups.distinct(place).first().map_or(0, |first| first.count().count)
                        }
                        measure => sums.by(measure),
                    };
                    (rank, place)
                })
                .collect();
            let flows = |place: usize| groups.sums()[place].flows;
            let order = |(a_rank, a): &(u64, usize), (b_rank, b): &(u64, usize)| {
                (b_rank, flows(*b))
                    .cmp(&(a_rank, flows(*a)))
                    .then_with(|| groups.values(*a).cmp(groups.values(*b)))
            };
            if rows.len() > limit {
                rows.select_nth_unstable_by(limit, order);
            }
            let beyond = rows.iter().skip(limit).map(|(_, place)| flows(*place)).sum::<u64>();
            rows.truncate(limit);
            rows.sort_unstable_by(order);
            let row = |(_, place): (u64, usize)| TopRow {
                values: groups.values(place).map(Value::to_string).collect(),
                sums: groups.sums()[place],
                distinct: groups.distinct(place).iter().map(Distinct::count).collect(),
            };
            Ok(TopAnswer {
                rows: rows.into_iter().map(row).collect(),
                others_flows: beyond.saturating_add(groups.uncounted),
                waiting: selection.waiting(&control)?,
                partial: joined(&partial),
            })
        };
        self.run_as(Operation::Top, work, shape).await
    }

    /// Sums along time, by each record's first packet (by its ingest, when the range is by ingest).
    ///
    /// # Errors
    /// See [`QueryError`].
    pub async fn histogram(&self, histogram: Histogram) -> Result<HistogramAnswer, QueryError> {
        Ok(self.histogram_as(histogram, |answer| (answer, 0)).await?.value)
    }

    /// As [`Queries::histogram`]; `shape` makes of the answer what is sent, beside its length, on the thread of the question.
    ///
    /// # Errors
    /// See [`QueryError`].
    pub async fn histogram_as<R: Send + 'static>(
        &self,
        histogram: Histogram,
        shape: impl FnOnce(HistogramAnswer) -> (R, usize) + Send + 'static,
    ) -> Result<Answer<R>, QueryError> {
        let group = match histogram.group.as_str() {
            "" => None,
            name => Some(named("group", name)?),
        };
        let selection = self.selection(&histogram.expression, histogram.range)?;
        let wanted_ns = i64::try_from(histogram.interval_ns)
            .map_err(|_| QueryError::invalid("interval", "is longer than 292 years"))?;
        let now = self.store.now().utc;
        let work = move |control: Control| {
            let span = selection.span;
            let status = selection.store.status()?;
            // Open ends: to the oldest record and to now (or to the newest, should it be later).
            let newest = status.newest_flow.map_or(now, |newest| newest.max(now));
            let until = if span.until == UtcNs::MAX { newest } else { span.until };
            let since =
                if span.since == UtcNs::MIN { status.oldest_flow.unwrap_or(until) } else { span.since };
            let range_ns = until.minus(since).max(1);
            let interval_ns = interval_for(range_ns, wanted_ns)?;
            let start_of = |at: UtcNs| {
                // A record that began before the range counts where the range begins.
                let unix_ns = at.max(span.since).unix_ns();
                unix_ns.saturating_sub(unix_ns.rem_euclid(interval_ns))
            };
            let (parts, mut partial) = selection.walk(&control, &|buckets: &mut Buckets, part| {
                match part {
                    Part::Rows(block, rows) => {
                        buckets.add_rows(group, block, rows, span.by_ingest, &start_of)?;
                    }
                    Part::Flows(flows) => {
                        flows.iter().for_each(|flow| buckets.add(group, flow, span.by_ingest, &start_of));
                    }
                }
                buckets.charge(&control.memory);
                Ok(())
            })?;
            let mut all = Buckets::default();
            for part in parts {
                all.left_out += part.left_out;
                part.sums.into_iter().for_each(|(key, sums)| all.add_sums(key, &sums));
                all.charge(&control.memory);
            }
            let Buckets { sums: buckets, left_out, charge: _charge, .. } = all;
            if left_out > 0 {
                partial.push(format!(
                    "more than {} buckets: {left_out} flows are left out; ask for a longer interval or a field with fewer values",
                    buckets.len()
                ));
            }
            let bucket = |((start, key), sums): (BucketKey, Sums)| Bucket {
                start: UtcNs::from_unix_ns(start),
                group: key.as_ref().map(Value::to_string).unwrap_or_default(),
                sums,
            };
            Ok(HistogramAnswer {
                interval_ns: interval_ns.unsigned_abs(),
                buckets: buckets.into_iter().map(bucket).collect(),
                waiting: selection.waiting(&control)?,
                partial: joined(&partial),
            })
        };
        self.run_as(Operation::Histogram, work, shape).await
    }
}

fn interval_for(range_ns: i64, wanted_ns: i64) -> Result<i64, QueryError> {
    if wanted_ns == 0 {
        let least = range_ns / INTERVALS_WANTED;
        return Ok(NICE.into_iter().find(|nice| *nice >= least).unwrap_or(365 * 86_400 * S));
    }
    if range_ns / wanted_ns > INTERVALS_MAX {
        let least = range_ns / INTERVALS_MAX + 1;
        let problem =
            format!("gives more than {INTERVALS_MAX} buckets: at least {least} ns, or a shorter range");
        return Err(QueryError::invalid("interval", problem));
    }
    Ok(wanted_ns)
}

/// The fields of these names.
fn all_named(
    parameter: &'static str,
    names: &[String],
    max: usize,
) -> Result<Vec<&'static Field>, QueryError> {
    if names.len() > max {
        return Err(QueryError::invalid(parameter, format!("{} fields are more than {max}", names.len())));
    }
    names.iter().map(|name| named(parameter, name)).collect()
}

pub(super) fn named(parameter: &'static str, name: &str) -> Result<&'static Field, QueryError> {
    field::by_name(name).ok_or_else(|| {
        let cut = &name[..name.floor_char_boundary(40)];
        QueryError::invalid(
            parameter,
            format!("unknown field `{cut}`; {}", gnomon_expression::field_hint(name)),
        )
    })
}

/// A count so far.
#[derive(Debug, Default)]
struct Counts {
    sums: Sums,
    distinct: Vec<Distinct>,
    charge: Charge,
}

impl Counts {
    /// There is nothing to leave out: where there is no room for it, the question is refused.
    fn charge(&mut self, memory: &Arc<Question>) {
        let bytes = self.distinct.iter().map(|distinct| size_of::<Distinct>() + distinct.bytes()).sum();
        if !self.charge.resize(memory, bytes) {
            memory.refuse();
        }
    }

    fn add_rows(
        &mut self,
        fields: &[&'static Field],
        block: &Reader,
        rows: &RowSet,
    ) -> Result<(), StoreError> {
        self.distinct.resize_with(fields.len(), Distinct::default);
        let measures = Measures::of(block)?;
        rows.iter().for_each(|row| measures.add(row, &mut self.sums));
        for (field, distinct) in fields.iter().zip(&mut self.distinct) {
            let mut seen = Vec::new();
            let mut see = |_: usize, number: u32| {
                let number = number as usize;
                if seen.len() <= number {
                    seen.resize(number + 1, false);
                }
                seen[number] = true;
            };
            match each_value(field, block, rows, &mut see)? {
                Some(values) => {
                    let seen = values.iter().zip(&seen).filter(|(_, seen)| **seen);
                    seen.for_each(|(value, _)| _ = distinct.add(OF_ALL, hash_of(value)));
                }
                None => {
                    for row in rows.iter() {
                        let flow = block.flow(row)?;
                        field.each(&flow, &mut |value| _ = distinct.add(OF_ALL, hash_of(&value)));
                    }
                }
            }
        }
        Ok(())
    }

    fn add(&mut self, fields: &[&'static Field], flow: &StoredFlow) {
        self.distinct.resize_with(fields.len(), Distinct::default);
        self.sums.merge(&Sums::of(flow));
        for (field, distinct) in fields.iter().zip(&mut self.distinct) {
            field.each(flow, &mut |value| _ = distinct.add(OF_ALL, hash_of(&value)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_readable_and_bounded() {
        assert_eq!(interval_for(3600 * S, 0).ok(), Some(60 * S));
        assert_eq!(interval_for(86_400 * S, 0).ok(), Some(1800 * S));
        assert_eq!(interval_for(1, 0).ok(), Some(1_000_000));
        assert_eq!(interval_for(i64::MAX, 0).ok(), Some(365 * 86_400 * S));
        assert_eq!(interval_for(3600 * S, 7 * S).ok(), Some(7 * S));
        assert!(interval_for(86_400 * S, S).is_err());
    }
}
