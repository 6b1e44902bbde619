//! Facets: the most frequent values of many fields at once, from one walk over what matches. An answer can be had while
//! the walk goes on: it says how much has been read, and the last one is exact.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};

use gnomon_clock::MonoNs;
use gnomon_expression::Predicate;
use gnomon_flow::{FIELDS, Field, FieldId, FieldKind};
use tokio::sync::mpsc;

use super::aggregate::named;
use super::counters::Operation;
use super::execute::{Answer, Queries, QueryError, TimeRange, joined, limit_or};
use super::facet_counts::{Counts, OfField};
use super::memory::Question;
use super::rollup::is_rolled_up;
use super::values::of_source;
use super::waiting::Waiting;
use crate::store::{FromRollups, Part};

/// Values of a field unless the caller says otherwise.
const VALUES_DEFAULT: u32 = 10;
/// Values of a field at most.
const VALUES_MAX: u32 = 1000;
/// Fields of one question at most.
const FIELDS_MAX: usize = 256;
/// An answer ends earlier when its values take so much: gRPC clients take 4 MiB.
const ANSWER_BYTES_MAX: usize = 3 << 20;
/// Threads that count: one more than a walk has, so that there is always a place that nobody uses.
const PLACES: usize = 5;
/// Between two answers that are not the last.
const REFINE_NS: u64 = 500_000_000;
/// And so many times as long as making one takes: answers do not hold the walk up.
const REFINE_SHARE: u64 = 4;

/// Fields that have a value of their own in nearly every record, or are counters: their most frequent values say
/// nothing. What stands for other fields (`ip`) is left out because those are there.
pub(super) const NOT_FACETED: &[&str] = &[
    "id",
    "epoch",
    "session.length",
    "time.error",
    "packets",
    "packets.src",
    "packets.dst",
    "bytes",
    "bytes.src",
    "bytes.dst",
    "ip.bytes",
    "ip.bytes.src",
    "ip.bytes.dst",
    "databytes",
    "databytes.src",
    "databytes.dst",
    "fragments",
    "tcpflags.fin",
    "tcpflags.syn",
    "tcpflags.rst",
    "tcpflags.psh",
    "tcpflags.ack",
    "tcpflags.urg",
    "tcpflags.ece",
    "tcpflags.cwr",
    "tcpflags.syn-ack",
    "tcp.rtt",
    "tcp.retransmissions",
    "communityId",
    "segment",
    "stored.packets",
    "stored.bytes",
    "dhcp.id",
    "email.message-id",
    "sip.callid",
    "icmp.inner.communityId",
    // Asked of evidence for each record, and the same for nearly all.
    "time.state",
    "time.reason",
    "time.conflict",
];

/// The fields whose most frequent values are told unless fields are named.
pub fn faceted() -> impl Iterator<Item = &'static Field> {
    FIELDS
        .iter()
        .filter(|field| field.kind != FieldKind::Time && !field.any_of && !NOT_FACETED.contains(&field.name))
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facets {
    pub expression: String,
    pub range: TimeRange,
    /// None: those of [`faceted`].
    pub fields: Vec<String>,
    /// Values of each field; 0: 10; at most 1000.
    pub limit: u32,
    /// Answer with what there is so far, too.
    pub refine: bool,
    /// Read every block of which the rollup does not have all values.
    pub exact: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FacetsAnswer {
    /// In the order of the question, or of the field table. Fields that were not named and have no value are left out.
    pub fields: Vec<FacetField>,
    /// Flows that match, of those read.
    pub flows: u64,
    /// Records read so far, of `records` to read. What summaries of blocks rule out is in neither.
    pub records_read: u64,
    pub records: u64,
    /// No other answer follows.
    pub last: bool,
    /// Of the last answer.
    pub waiting: Waiting,
    pub partial: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FacetField {
    pub name: &'static str,
    /// Flows that have any value.
    pub flows: u64,
    /// The most frequent first, then by value.
    pub values: Vec<FacetValue>,
    /// Different values; at least so many, where some were let go.
    pub different: u64,
    /// Counts may be too low by so much, by what rollups left out and where there are too many different values to count
    /// each; 0: they are exact.
    pub missed_max: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FacetValue {
    /// As JSON and searches write it.
    pub value: String,
    pub flows: u64,
}

impl Queries {
    /// The most frequent values of many fields; the last answer has [`FacetsAnswer::last`]. The walk ends early when the
    /// receiver is dropped.
    ///
    /// # Errors
    /// See [`QueryError`].
    pub async fn facets(
        &self,
        facets: Facets,
    ) -> Result<mpsc::Receiver<Result<FacetsAnswer, QueryError>>, QueryError> {
        Ok(self.facets_as(facets, |answer| answer).await?.value)
    }

    /// As [`Queries::facets`]; `shape` makes of each answer what is sent, on the thread of the question.
    ///
    /// # Errors
    /// See [`QueryError`].
    pub async fn facets_as<R: Send + 'static>(
        &self,
        facets: Facets,
        shape: impl Fn(FacetsAnswer) -> R + Send + Sync + 'static,
    ) -> Result<Answer<mpsc::Receiver<Result<R, QueryError>>>, QueryError> {
        let limit = limit_or("limit", facets.limit, VALUES_DEFAULT, VALUES_MAX)?;
        if facets.fields.len() > FIELDS_MAX {
            let problem = format!("{} fields are more than {FIELDS_MAX}", facets.fields.len());
            return Err(QueryError::invalid("fields", problem));
        }
        let mut fields = Vec::with_capacity(facets.fields.len());
        for name in &facets.fields {
            fields.push(named("fields", name)?);
        }
        let named = !fields.is_empty();
        if !named {
            fields.extend(faceted());
        }
        let asked = Asked { fields, named, limit };
        let selection = self.selection(&facets.expression, facets.range)?;
        // Rollups know of nothing but all records of a block.
        let rolled = matches!(selection.plan.predicate, Predicate::All);
        let exact = facets.exact;
        let rolled_fields: Vec<FieldId> =
            asked.fields.iter().filter(|field| is_rolled_up(field)).map(|field| field.id).collect();
        self.stream(Operation::Facets, move |control, so_far| {
            let memory = &control.memory;
            let places: Vec<Mutex<Counts>> =
                (0..PLACES).map(|_| Mutex::new(Counts::of(asked.fields.len()))).collect();
            let next = Mutex::new(control.now());
            let tell = || {
                // Who comes by when it is time makes the answer; the others go on reading.
                let Ok(mut next) = next.try_lock() else { return };
                if facets.refine && control.now() >= *next {
                    so_far.send(|| {
                        let mut all = Counts::of(asked.fields.len());
                        for place in &places {
                            all.merge(&place.lock().unwrap_or_else(PoisonError::into_inner));
                            all.bound(memory);
                        }
                        Ok(shape(asked.answer(&all, control.progress.now(), None)))
                    });
                    let took = control.now().since(*next).min(REFINE_NS);
                    *next = MonoNs(control.now().0.saturating_add(REFINE_NS.max(took * REFINE_SHARE)));
                }
            };
            let from_rollups = FromRollups {
                fields: &rolled_fields,
                each: &|rollup| {
                    let mut free = free(&places);
                    free.add_rollup(&asked.fields, &selection.store, rollup)?;
                    free.bound(memory);
                    drop(free);
                    tell();
                    Ok(())
                },
            };
            // A field that no rollup has is counted block by block, and then the others may be, too.
            let groups = (rolled
                && !exact
                && asked.fields.iter().all(|field| of_source(field) || is_rolled_up(field)))
            .then_some(&from_rollups);
            let (_, partial) = selection.walk_rolled(&control, groups, &|_: &mut (), part| {
                if matches!(part, Part::Flows([])) {
                    return Ok(());
                }
                let rolled = rolled.then_some(&rolled_fields[..]);
                count(&places, &asked.fields, &part, rolled, exact, memory)?;
                tell();
                Ok(())
            })?;
            // One after the other goes: all of them and their sum would take twice the memory.
            let mut places =
                places.into_iter().map(|place| place.into_inner().unwrap_or_else(PoisonError::into_inner));
            let mut all = places.next().unwrap_or_else(|| Counts::of(asked.fields.len()));
            for place in places {
                all.merge(&place);
                drop(place);
                all.bound(memory);
            }
            control.check()?;
            let mut answer = asked.answer(&all, control.progress.now(), joined(&partial));
            answer.last = true;
            answer.waiting = selection.waiting(&control)?;
            Ok(shape(answer))
        })
        .await
    }
}

/// The first place that nobody uses.
fn free(places: &[Mutex<Counts>]) -> MutexGuard<'_, Counts> {
    loop {
        let free = places.iter().find_map(|place| match place.try_lock() {
            Ok(free) => Some(free),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        });
        match free {
            Some(free) => return free,
            None => std::thread::yield_now(),
        }
    }
}

/// Counts a part, with `rolled` by rollups that have these fields, with `exact` by those of them that miss nothing.
fn count(
    places: &[Mutex<Counts>],
    fields: &[&'static Field],
    part: &Part<'_>,
    rolled: Option<&[FieldId]>,
    exact: bool,
    memory: &Arc<Question>,
) -> Result<(), crate::store::StoreError> {
    let mut free = free(places);
    let counted = match part {
        Part::Rows(block, rows) => {
            let rolled = rolled.filter(|_| rows.len() == block.rows());
            let rollup = rolled.map(|fields| block.rollup(fields)).transpose()?.flatten();
            free.add_rows(fields, block, rows, rollup.as_ref(), exact)
        }
        Part::Flows(flows) => {
            flows.iter().for_each(|flow| free.add(fields, flow));
            Ok(())
        }
    };
    free.bound(memory);
    counted
}

/// What was asked for.
struct Asked {
    fields: Vec<&'static Field>,
    named: bool,
    limit: usize,
}

impl Asked {
    fn answer(
        &self,
        all: &Counts,
        (records_read, records): (u64, u64),
        partial: Option<String>,
    ) -> FacetsAnswer {
        let mut room = ANSWER_BYTES_MAX;
        let mut reasons: Vec<String> = partial.into_iter().collect();
        let mut fields = Vec::new();
        for (field, of_field) in self.fields.iter().zip(&all.fields) {
            if of_field.flows > 0 || self.named {
                fields.push(self.field(field, of_field, &mut room));
            }
        }
        if room == 0 {
            let problem = "fields behind have fewer values than were asked for: ask for fewer";
            reasons
                .push(format!("the answer would be larger than {} MiB: {problem}", ANSWER_BYTES_MAX >> 20));
        }
        let partial = joined(&reasons);
        FacetsAnswer {
            fields,
            flows: all.flows,
            records_read,
            records,
            last: false,
            waiting: Waiting::default(),
            partial,
        }
    }

    fn field(&self, field: &'static Field, of_field: &OfField, room: &mut usize) -> FacetField {
        let (ranked, different) = of_field.values.most(self.limit);
        let mut values = Vec::with_capacity(ranked.len());
        for (value, flows) in ranked {
            let value = value.to_string();
            *room = room.saturating_sub(value.len() + 16);
            if *room == 0 {
                break;
            }
            values.push(FacetValue { value, flows });
        }
        FacetField { name: field.name, flows: of_field.flows, values, different, missed_max: of_field.missed }
    }
}
