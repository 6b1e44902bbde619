//! Counts, tops and histograms: one pass over the matching records, memory bounded.

use std::collections::{BTreeMap, HashMap};

use gnomon_clock::UtcNs;
use gnomon_flow::{Field, StoredFlow, Value, field};

use super::execute::{Queries, QueryError, TimeRange, joined, limit_or};

/// Rows of a top unless the caller says otherwise.
const ROWS_DEFAULT: u32 = 10;
/// Rows of a top at most.
const ROWS_MAX: u32 = 10_000;
/// Fields of a top at most.
const FIELDS_MAX: usize = 8;
/// Different rows that are counted at once; beyond them new ones are not begun.
const KEYS_MAX: usize = 200_000;
/// Bytes of text that the keys may hold together.
const KEY_BYTES_MAX: usize = 64 << 20;
/// Combinations of values that one record counts for.
const COMBINATIONS_MAX: usize = 256;
/// Buckets of a histogram over all groups.
const BUCKETS_MAX: usize = 100_000;
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
    fn add(&mut self, flow: &StoredFlow) {
        self.flows += 1;
        self.packets = self.packets.saturating_add(flow.record.packets());
        self.bytes = self.bytes.saturating_add(flow.record.bytes());
    }

    fn by(&self, measure: Measure) -> u64 {
        match measure {
            Measure::Flows => self.flows,
            Measure::Packets => self.packets,
            Measure::Bytes => self.bytes,
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Measure {
    #[default]
    Flows,
    Packets,
    Bytes,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CountAnswer {
    pub sums: Sums,
    pub partial: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Top {
    pub expression: String,
    pub range: TimeRange,
    /// One or more; rows are their combinations.
    pub fields: Vec<String>,
    pub by: Measure,
    /// 0: 10; at most 10,000.
    pub limit: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopRow {
    /// One a field, as JSON and searches write them.
    pub values: Vec<String>,
    pub sums: Sums,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopAnswer {
    pub rows: Vec<TopRow>,
    /// Flows in rows beyond the limit.
    pub others_flows: u64,
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
    pub partial: Option<String>,
}

impl Queries {
    /// How many records match, with their packets and bytes.
    ///
    /// # Errors
    /// See [`QueryError`].
    pub async fn count(&self, expression: &str, range: TimeRange) -> Result<CountAnswer, QueryError> {
        let selection = self.selection(expression, range)?;
        self.run(move |control| {
            let mut matches = selection.matches(true, None, control);
            let mut sums = Sums::default();
            while let Some(flow) = matches.next()? {
                sums.add(&flow);
            }
            Ok(CountAnswer { sums, partial: joined(&matches.partial()) })
        })
        .await
    }

    /// The combinations of values with the largest sums. A record counts once for each combination of the values it has;
    /// one that lacks a value in any field counts for none.
    ///
    /// # Errors
    /// See [`QueryError`].
    pub async fn top(&self, top: Top) -> Result<TopAnswer, QueryError> {
        let limit = limit_or("limit", top.limit, ROWS_DEFAULT, ROWS_MAX)?;
        if top.fields.is_empty() || top.fields.len() > FIELDS_MAX {
            let problem = format!("name 1 to {FIELDS_MAX} fields, not {}", top.fields.len());
            return Err(QueryError::invalid("fields", problem));
        }
        let fields = top.fields.iter().map(|name| named("fields", name)).collect::<Result<Vec<_>, _>>()?;
        let selection = self.selection(&top.expression, top.range)?;
        self.run(move |control| {
            let mut matches = selection.matches(true, None, control);
            let mut groups = Groups::default();
            while let Some(flow) = matches.next()? {
                groups.add(&fields, &flow);
            }
            let mut partial = matches.partial();
            partial.extend(groups.partial());
            let mut rows: Vec<_> = groups.rows.into_iter().collect();
            rows.sort_unstable_by(|(a_key, a), (b_key, b)| {
                (b.by(top.by), b.flows).cmp(&(a.by(top.by), a.flows)).then_with(|| a_key.cmp(b_key))
            });
            let beyond = rows.iter().skip(limit).map(|(_, sums)| sums.flows).sum::<u64>();
            rows.truncate(limit);
            let row = |(key, sums): (Box<[Value<'static>]>, Sums)| TopRow {
                values: key.iter().map(Value::to_string).collect(),
                sums,
            };
            Ok(TopAnswer {
                rows: rows.into_iter().map(row).collect(),
                others_flows: beyond.saturating_add(groups.uncounted),
                partial: joined(&partial),
            })
        })
        .await
    }

    /// Sums along time, by each record's first packet (by its ingest, when the range is by ingest).
    ///
    /// # Errors
    /// See [`QueryError`].
    pub async fn histogram(&self, histogram: Histogram) -> Result<HistogramAnswer, QueryError> {
        let group = match histogram.group.as_str() {
            "" => None,
            name => Some(named("group", name)?),
        };
        let selection = self.selection(&histogram.expression, histogram.range)?;
        let wanted_ns = i64::try_from(histogram.interval_ns)
            .map_err(|_| QueryError::invalid("interval", "is longer than 292 years"))?;
        let now = self.store.now().utc;
        self.run(move |control| {
            let span = selection.span;
            let status = selection.store.status()?;
            // Open ends: to the oldest record and to now (or to the newest, should it be later).
            let newest = status.newest_flow.map_or(now, |newest| newest.max(now));
            let until = if span.until == UtcNs::MAX { newest } else { span.until };
            let since = if span.since == UtcNs::MIN { status.oldest_flow.unwrap_or(until) } else { span.since };
            let range_ns = until.minus(since).max(1);
            let interval_ns = interval_for(range_ns, wanted_ns)?;
            let mut matches = selection.matches(false, None, control);
            let mut buckets: BTreeMap<(i64, Vec<Value<'static>>), Sums> = BTreeMap::new();
            let (mut left_out, mut scratch) = (0u64, Vec::new());
            while let Some(flow) = matches.next()? {
                let at = if span.by_ingest { flow.ingested } else { flow.first.map(|first| first.utc) };
                // A record that began before the range counts where the range begins.
                let Some(at) = at.map(|at| at.max(span.since)) else { continue };
                let unix_ns = at.unix_ns();
                let start = unix_ns.saturating_sub(unix_ns.rem_euclid(interval_ns));
                let keys = match group {
                    None => vec![Vec::new()],
                    Some(group) => {
                        distinct(group, &flow, &mut scratch);
                        scratch.drain(..).take(COMBINATIONS_MAX).map(|value| vec![value]).collect()
                    }
                };
                for key in keys {
                    let full = buckets.len() >= BUCKETS_MAX;
                    match buckets.entry((start, key)) {
                        std::collections::btree_map::Entry::Occupied(mut sums) => sums.get_mut().add(&flow),
                        std::collections::btree_map::Entry::Vacant(_) if full => left_out += 1,
                        std::collections::btree_map::Entry::Vacant(place) => {
                            place.insert(Sums::default()).add(&flow);
                        }
                    }
                }
            }
            let mut partial = matches.partial();
            if left_out > 0 {
                partial.push(format!(
                    "more than {BUCKETS_MAX} buckets: {left_out} flows are left out; ask for a longer interval or a field with fewer values"
                ));
            }
            let bucket = |((start, key), sums): ((i64, Vec<Value<'static>>), Sums)| Bucket {
                start: UtcNs::from_unix_ns(start),
                group: key.first().map(Value::to_string).unwrap_or_default(),
                sums,
            };
            Ok(HistogramAnswer {
                interval_ns: interval_ns.unsigned_abs(),
                buckets: buckets.into_iter().map(bucket).collect(),
                partial: joined(&partial),
            })
        })
        .await
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

fn named(parameter: &'static str, name: &str) -> Result<&'static Field, QueryError> {
    field::by_name(name).ok_or_else(|| {
        let cut = &name[..name.floor_char_boundary(40)];
        QueryError::invalid(
            parameter,
            format!("unknown field `{cut}`; {}", super::expression::field_hint(name)),
        )
    })
}

/// The different values that `flow` has in `field`: both ends of a flow may have one address.
fn distinct(field: &Field, flow: &StoredFlow, values: &mut Vec<Value<'static>>) {
    field.each(flow, &mut |value| values.push(value.into_owned()));
    if values.len() > 1 {
        values.sort_unstable();
        values.dedup();
    }
}

/// Sums by combination of values.
#[derive(Default)]
struct Groups {
    rows: HashMap<Box<[Value<'static>]>, Sums>,
    key_bytes: usize,
    /// Times a row was not begun because there were too many.
    uncounted: u64,
    /// Records that had more combinations than are counted.
    cut: u64,
}

impl Groups {
    fn add(&mut self, fields: &[&'static Field], flow: &StoredFlow) {
        let mut values: Vec<Vec<Value<'static>>> = Vec::with_capacity(fields.len());
        for field in fields {
            let mut of_field = Vec::new();
            distinct(field, flow, &mut of_field);
            if of_field.is_empty() {
                return;
            }
            values.push(of_field);
        }
        // The combinations in the order of an odometer.
        let mut at = vec![0usize; fields.len()];
        for _ in 0..COMBINATIONS_MAX {
            let key: Vec<Value<'static>> =
                at.iter().zip(&values).map(|(i, of_field)| of_field[*i].clone()).collect();
            self.add_row(key, flow);
            let Some(turn) = (0..at.len()).rev().find(|i| at[*i] + 1 < values[*i].len()) else { return };
            at[turn] += 1;
            at[turn + 1..].fill(0);
        }
        self.cut += 1;
    }

    fn add_row(&mut self, key: Vec<Value<'static>>, flow: &StoredFlow) {
        if let Some(sums) = self.rows.get_mut(key.as_slice()) {
            return sums.add(flow);
        }
        let text = |value: &Value<'_>| if let Value::Text(text) = value { text.len() } else { 0 };
        let bytes: usize = key.iter().map(text).sum();
        if self.rows.len() >= KEYS_MAX || self.key_bytes + bytes > KEY_BYTES_MAX {
            self.uncounted += 1;
            return;
        }
        self.key_bytes += bytes;
        self.rows.entry(key.into_boxed_slice()).or_default().add(flow);
    }

    fn partial(&self) -> Vec<String> {
        let mut reasons = Vec::new();
        if self.uncounted > 0 {
            reasons.push(format!(
                "more than {} different rows: those first seen beyond are left out, the sums of the others are exact",
                self.rows.len()
            ));
        }
        if self.cut > 0 {
            reasons
                .push(format!("{} flows have more than {COMBINATIONS_MAX} combinations of values", self.cut));
        }
        reasons
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
