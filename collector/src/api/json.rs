//! Answers of many rows as JSON, written row by row; the shapes are those of `gnomon_answers`, which makes all others.

use gnomon_flow::json::AsJson;
use gnomon_flow::timestamp::rfc3339;
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use serde_json::{Value, json};

use super::wire;
use crate::query::{
    Bucket, Different, HistogramAnswer, SearchPage, Sums, TailItem, TopAnswer, TopRow, Waiting,
};

#[derive(Serialize)]
pub(super) struct Partial<'a> {
    reason: &'a str,
}

impl<'a> Partial<'a> {
    fn of(reason: &'a Option<String>) -> Option<Partial<'a>> {
        reason.as_deref().map(|reason| Partial { reason })
    }
}

fn waiting(of: &Waiting) -> Option<Value> {
    wire::waiting(of.clone()).map(|waiting| gnomon_answers::waiting(&waiting))
}

#[derive(Serialize)]
pub(super) struct Page<'a> {
    flows: Vec<AsJson<'a>>,
    next_cursor: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    waiting: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    partial: Option<Partial<'a>>,
}

impl Page<'_> {
    pub(super) fn of(page: &SearchPage) -> Page<'_> {
        Page {
            flows: page.flows.iter().map(AsJson).collect(),
            next_cursor: &page.next_cursor,
            waiting: waiting(&page.waiting),
            partial: Partial::of(&page.partial),
        }
    }
}

#[derive(Serialize)]
pub(super) struct Tail<'a> {
    flow: AsJson<'a>,
    missed: u64,
}

impl Tail<'_> {
    pub(super) fn of(item: &TailItem) -> Tail<'_> {
        Tail { flow: AsJson(&item.flow), missed: item.missed }
    }
}

fn sums(sums: &Sums) -> Value {
    json!({"flows": sums.flows, "packets": sums.packets, "bytes": sums.bytes})
}

/// `object` with the three sums.
fn with_sums(mut object: Value, of: &Sums) -> Value {
    if let (Some(object), Value::Object(sums)) = (object.as_object_mut(), sums(of)) {
        object.extend(sums);
    }
    object
}

/// `object` with the counts of different values, where any were asked for.
fn with_distinct(mut object: Value, of: &[Different]) -> Value {
    if let (Some(object), false) = (object.as_object_mut(), of.is_empty()) {
        let list = of.iter().map(|different| json!({"count": different.count, "error": different.error}));
        object.insert("distinct".to_owned(), list.collect());
    }
    object
}

pub(super) fn top(answer: &TopAnswer) -> impl Serialize {
    let row =
        |row: &TopRow| with_distinct(with_sums(json!({"values": row.values}), &row.sums), &row.distinct);
    Rows {
        fixed: ("others_flows", answer.others_flows),
        rows: ("rows", &answer.rows, row),
        waiting: waiting(&answer.waiting),
        partial: Partial::of(&answer.partial),
    }
}

/// An answer of many rows, each of which is made into JSON when it is written.
struct Rows<'a, T, F> {
    fixed: (&'static str, u64),
    rows: (&'static str, &'a [T], F),
    waiting: Option<Value>,
    partial: Option<Partial<'a>>,
}

impl<T, F: Fn(&T) -> Value> Serialize for Rows<'_, T, F> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        struct Each<'a, T, F>(&'a [T], &'a F);
        impl<T, F: Fn(&T) -> Value> Serialize for Each<'_, T, F> {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_seq(self.0.iter().map(self.1))
            }
        }
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry(self.fixed.0, &self.fixed.1)?;
        let (name, rows, row) = &self.rows;
        map.serialize_entry(name, &Each(rows, row))?;
        if let Some(waiting) = &self.waiting {
            map.serialize_entry("waiting", waiting)?;
        }
        if let Some(partial) = &self.partial {
            map.serialize_entry("partial", partial)?;
        }
        map.end()
    }
}

pub(super) fn histogram(answer: &HistogramAnswer) -> impl Serialize {
    let bucket = |bucket: &Bucket| {
        with_sums(json!({"start": rfc3339(bucket.start), "group": bucket.group}), &bucket.sums)
    };
    Rows {
        fixed: ("interval_ns", answer.interval_ns),
        rows: ("buckets", &answer.buckets, bucket),
        waiting: waiting(&answer.waiting),
        partial: Partial::of(&answer.partial),
    }
}
