//! Answers as JSON. Names are those of the wire; times are RFC 3339 with nanoseconds.

use gnomon_clock::UtcNs;
use gnomon_flow::json::AsJson;
use gnomon_flow::timestamp::rfc3339;
use gnomon_proto::v1;
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use serde_json::{Value, json};

use super::clock::source_word;
use crate::fleet::Answer;
use crate::query::{
    Bucket, CountAnswer, Different, FacetsAnswer, HistogramAnswer, SearchPage, Sums, TailItem, TopAnswer,
    TopRow,
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

#[derive(Serialize)]
pub(super) struct Page<'a> {
    flows: Vec<AsJson<'a>>,
    next_cursor: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    partial: Option<Partial<'a>>,
}

impl Page<'_> {
    pub(super) fn of(page: &SearchPage) -> Page<'_> {
        Page {
            flows: page.flows.iter().map(AsJson).collect(),
            next_cursor: &page.next_cursor,
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

/// `object` with `partial` when the answer is not whole.
pub(super) fn with_partial(mut object: Value, partial: &Option<String>) -> Value {
    if let (Some(object), Some(reason)) = (object.as_object_mut(), partial) {
        object.insert("partial".to_owned(), json!({"reason": reason}));
    }
    object
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

pub(super) fn count(answer: &CountAnswer) -> Value {
    with_partial(with_distinct(sums(&answer.sums), &answer.distinct), &answer.partial)
}

pub(super) fn top(answer: &TopAnswer) -> impl Serialize {
    let row =
        |row: &TopRow| with_distinct(with_sums(json!({"values": row.values}), &row.sums), &row.distinct);
    Rows {
        fixed: ("others_flows", answer.others_flows),
        rows: ("rows", &answer.rows, row),
        partial: Partial::of(&answer.partial),
    }
}

/// An answer of many rows, each of which is made into JSON when it is written.
struct Rows<'a, T, F> {
    fixed: (&'static str, u64),
    rows: (&'static str, &'a [T], F),
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
        partial: Partial::of(&answer.partial),
    }
}

pub(super) fn facets(answer: &FacetsAnswer) -> Value {
    let fields = answer.fields.iter().map(|field| {
        let values = field.values.iter().map(|value| json!({"value": value.value, "flows": value.flows}));
        json!({
            "field": field.name,
            "flows": field.flows,
            "values": values.collect::<Vec<_>>(),
            "different": field.different,
            "missed_max": field.missed_max,
        })
    });
    let object = json!({
        "fields": fields.collect::<Vec<_>>(),
        "flows": answer.flows,
        "records_read": answer.records_read,
        "records": answer.records,
        "last": answer.last,
    });
    with_partial(object, &answer.partial)
}

fn time(unix_ns: i64) -> String {
    rfc3339(UtcNs::from_unix_ns(unix_ns))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(super) fn status(status: &v1::StatusResponse) -> Value {
    json!({
        "version": status.version,
        "flows": status.flows,
        "flows_pending": status.flows_pending,
        "flows_quarantined": status.flows_quarantined,
        "slice_packets": status.slice_packets,
        "slice_bytes": status.slice_bytes,
        "disk_free_bytes": status.disk_free_bytes,
        "oldest_flow": status.oldest_flow_unix_ns.map(time),
        "newest_flow": status.newest_flow_unix_ns.map(time),
        "oldest_packet": status.oldest_packet_unix_ns.map(time),
        "now": time(status.now_unix_ns),
        "now_err_ns": status.now_err_ns,
        "clock_proven": status.clock_proven,
        "packets_bytes": status.packets_bytes,
        "packets_bytes_max": status.packets_bytes_max,
        "flows_bytes": status.flows_bytes,
        "flows_bytes_max": status.flows_bytes_max,
        "rate_over_s": status.rate_over_s,
        "packet_bytes_a_day": status.packet_bytes_a_day,
        "flow_bytes_a_day": status.flow_bytes_a_day,
        "packets_full_in_s": status.packets_full_in_s,
        "flows_full_in_s": status.flows_full_in_s,
        "stopped": status.stopped,
        "damage": status.damage,
    })
}

pub(super) fn fields() -> Value {
    let table = v1::FieldsResponse::of_table();
    let fields = table.fields.iter().map(|field| {
        json!({
            "id": field.id, "name": field.name, "aliases": field.aliases, "kind": field.kind, "many": field.many,
            "any_of": field.any_of, "values": field.values, "doc": field.doc,
        })
    });
    json!({"fields": fields.collect::<Vec<_>>()})
}

pub(super) fn agents(answer: &Answer) -> Value {
    let agents = json!({"agents": answer.agents.iter().map(agent).collect::<Vec<_>>()});
    with_partial(agents, &answer.partial())
}

fn agent(agent: &v1::Agent) -> Value {
    json!({
        "id": hex(&agent.id),
        "name": agent.name,
        "version": agent.version,
        "connected": agent.connected,
        "last_seen": agent.last_seen_unix_ns.map(time),
        "peer": agent.peer,
        "labels": agent.labels,
        "entries_received": agent.entries_received,
        "entries_duplicate": agent.entries_duplicate,
        "entries_bad": agent.entries_bad,
        "flows_received": agent.flows_received,
        "packets_received": agent.packets_received,
        "clock_offset_ns": agent.clock_offset_ns,
        "clock_err_ns": agent.clock_err_ns,
        "heartbeat": agent.heartbeat.as_ref().map(heartbeat),
    })
}

fn heartbeat(heartbeat: &v1::Heartbeat) -> Value {
    let interfaces = heartbeat.interfaces.iter().map(|interface| {
        json!({
            "name": interface.name,
            "mode": interface.mode,
            "packets": interface.packets,
            "bytes": interface.bytes,
            "packets_per_second": interface.packets_per_second,
            "bits_per_second": interface.bits_per_second,
            "drops": interface.drops,
            "flows_active": interface.flows_active,
            "flows_made": interface.flows_made,
            "flows_evicted": interface.flows_evicted,
            "queues": interface.queues,
            "error": interface.error,
            "seen_twice": interface.seen_twice,
        })
    });
    let left_out = heartbeat.left_out.iter().map(|left| json!({"name": left.name, "reason": left.reason}));
    json!({
        "interfaces": interfaces.collect::<Vec<_>>(),
        "spool": heartbeat.spool.as_ref().map(|spool| json!({
            "entries": spool.entries,
            "bytes": spool.bytes,
            "bytes_max": spool.bytes_max,
            "sacrificed_slice_entries": spool.sacrificed_slice_entries,
            "sacrificed_slice_packets": spool.sacrificed_slice_packets,
            "sacrificed_flow_entries": spool.sacrificed_flow_entries,
            "sacrificed_flow_records": spool.sacrificed_flow_records,
            "error": spool.error,
            "memory_bytes": spool.memory_bytes,
            "memory_bytes_max": spool.memory_bytes_max,
            "damaged_entries": spool.damaged_entries,
            "damaged_items": spool.damaged_items,
            "missing_entries": spool.missing_entries,
            "set_aside_files": spool.set_aside_files,
            "set_aside_bytes": spool.set_aside_bytes,
            "ledger_conflicts": spool.ledger_conflicts,
            "unsettled_bytes": spool.unsettled_bytes,
            "asked_again_entries": spool.asked_again_entries,
        })),
        "clock": heartbeat.clock.as_ref().map(clock),
        "left_out": left_out.collect::<Vec<_>>(),
        "left_out_more": heartbeat.left_out_more,
        "uptime_ms": heartbeat.uptime_ms,
        "resident_bytes": heartbeat.resident_bytes,
    })
}

/// The state of time.
pub(super) fn clock_answer(answer: &v1::ClockResponse) -> Value {
    let agents = answer.agents.iter().map(|agent| {
        json!({
            "id": hex(&agent.id),
            "name": agent.name,
            "connected": agent.connected,
            "state": agent.state,
            "offset_ns": agent.offset_ns,
            "err_ns": agent.err_ns,
            "source": agent.source,
            "epoch": agent.epoch,
            "steps": agent.steps,
            "last_step_ns": agent.last_step_ns,
            "last_step": agent.last_step_unix_ns.map(time),
            "disruptions": agent.disruptions,
            "last_disruption": agent.last_disruption,
            "note": agent.note,
            "overruled": agent.overruled,
        })
    });
    let state = |state: v1::TimeState| match state {
        v1::TimeState::Quarantined => "quarantined",
        _ => "pending",
    };
    let held = answer
        .held
        .iter()
        .map(|held| json!({"state": state(held.state()), "reason": held.reason, "flows": held.flows}));
    let events = answer.events.iter().map(|event| {
        json!({
            "time": time(event.unix_ns),
            "who": event.who,
            "kind": event.kind,
            "text": event.text,
            "by_ns": event.by_ns,
        })
    });
    let object = json!({
        "collector": answer.collector.as_ref().map(|clock| json!({
            "state": clock.state,
            "reason": clock.reason,
            "source": clock.source,
            "now": time(clock.now_unix_ns),
            "now_err_ns": clock.now_err_ns,
            "authority": clock.authority,
            "policy": clock.policy,
            "tolerance_ns": clock.tolerance_ns,
            "index_error_max_ns": clock.index_error_max_ns,
            "deletion_by_age": clock.deletion_by_age,
            "corrections": clock.corrections,
            "last_correction_ns": clock.last_correction_ns,
            "last_correction": clock.last_correction_unix_ns.map(time),
            "timeline": format!("{:016x}", clock.timeline),
        })),
        "agents": agents.collect::<Vec<_>>(),
        "held": held.collect::<Vec<_>>(),
        "events": events.collect::<Vec<_>>(),
    });
    with_partial(object, &answer.partial.as_ref().map(|partial| partial.reason.clone()))
}

fn clock(clock: &v1::ClockStatus) -> Value {
    json!({
        "state": clock.state().word(),
        "source": source_word(clock.source),
        "realtime": rfc3339(UtcNs::from_tai_ns(clock.realtime_tai_ns)),
        "err_ns": clock.err_ns,
        "kernel_max_error_ns": clock.kernel_max_error_ns,
        "kernel_unsync": clock.kernel_unsync,
        "steps": clock.steps,
        "last_step_ns": clock.last_step_ns,
        "note": clock.note,
        "disruptions": clock.disruptions,
        "last_disruption": clock.last_disruption,
    })
}
