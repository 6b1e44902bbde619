//! Answers of the query API as JSON: one shape over HTTP and from the command line. Names are those of the wire; times are
//! RFC 3339 with nanoseconds, units stand in names, and what is not known is `null`.

use gnomon_clock::UtcNs;
use gnomon_flow::StoredFlow;
use gnomon_flow::json::AsJson;
use gnomon_flow::timestamp::rfc3339;
use gnomon_proto::v1;
use gnomon_proto::v1::hunt_evidence::Value as Evidence;
use serde_json::{Map, Value, json};

/// `object` with `partial` when the answer is not whole.
fn with_partial(mut object: Value, partial: Option<&v1::Partial>) -> Value {
    if let (Some(object), Some(partial)) = (object.as_object_mut(), partial) {
        object.insert("partial".to_owned(), json!({"reason": partial.reason}));
    }
    object
}

/// What matches and waits for evidence of its time.
pub fn waiting(waiting: &v1::Waiting) -> Value {
    json!({"held": held(&waiting.held), "flows_not_looked_at": waiting.flows_not_looked_at})
}

fn held(held: &[v1::HeldFlows]) -> Vec<Value> {
    let state = |state: v1::TimeState| match state {
        v1::TimeState::Quarantined => "quarantined",
        _ => "pending",
    };
    held.iter()
        .map(|held| json!({"state": state(held.state()), "reason": held.reason, "flows": held.flows}))
        .collect()
}

/// `object` with `waiting` where something waits.
fn with_waiting(mut object: Value, of: Option<&v1::Waiting>) -> Value {
    if let (Some(object), Some(of)) = (object.as_object_mut(), of) {
        object.insert("waiting".to_owned(), waiting(of));
    }
    object
}

/// `object` with the counts of different values, where any were asked for.
fn with_distinct(mut object: Value, of: &[v1::Distinct]) -> Value {
    if let (Some(object), false) = (object.as_object_mut(), of.is_empty()) {
        let list = of.iter().map(|different| json!({"count": different.count, "error": different.error}));
        object.insert("distinct".to_owned(), list.collect());
    }
    object
}

/// A record, by the field table.
pub fn flow(flow: &StoredFlow) -> Value {
    serde_json::to_value(AsJson(flow)).unwrap_or_default()
}

/// A page of records.
pub fn search(
    flows: &[StoredFlow],
    next_cursor: &str,
    waiting: Option<&v1::Waiting>,
    partial: Option<&v1::Partial>,
) -> Value {
    let flows: Vec<Value> = flows.iter().map(flow).collect();
    let object = json!({"flows": flows, "next_cursor": next_cursor});
    with_partial(with_waiting(object, waiting), partial)
}

/// Sums.
pub fn count(answer: &v1::CountResponse) -> Value {
    let sums = json!({"flows": answer.flows, "packets": answer.packets, "bytes": answer.bytes});
    let object = with_distinct(sums, &answer.distinct);
    with_partial(with_waiting(object, answer.waiting.as_ref()), answer.partial.as_ref())
}

/// The rows of a top.
pub fn top(answer: &v1::TopResponse) -> Value {
    let rows = answer.rows.iter().map(|row| {
        let sums =
            json!({"values": row.values, "flows": row.flows, "packets": row.packets, "bytes": row.bytes});
        with_distinct(sums, &row.distinct)
    });
    let object = json!({"others_flows": answer.others_flows, "rows": rows.collect::<Vec<_>>()});
    with_partial(with_waiting(object, answer.waiting.as_ref()), answer.partial.as_ref())
}

/// Buckets of time.
pub fn histogram(answer: &v1::HistogramResponse) -> Value {
    let buckets = answer.buckets.iter().map(|bucket| {
        json!({
            "start": time(bucket.start_unix_ns),
            "group": bucket.group,
            "flows": bucket.flows,
            "packets": bucket.packets,
            "bytes": bucket.bytes,
        })
    });
    let object = json!({"interval_ns": answer.interval_ns, "buckets": buckets.collect::<Vec<_>>()});
    with_partial(with_waiting(object, answer.waiting.as_ref()), answer.partial.as_ref())
}

/// Values of many fields.
pub fn facets(answer: &v1::FacetsResponse) -> Value {
    let fields = answer.fields.iter().map(|field| {
        let values = field.values.iter().map(|value| json!({"value": value.value, "flows": value.flows}));
        json!({
            "field": field.field,
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
    with_partial(with_waiting(object, answer.waiting.as_ref()), answer.partial.as_ref())
}

/// The hunts there are.
pub fn hunts(answer: &v1::HuntsResponse) -> Value {
    let hunts = answer.hunts.iter().map(|kind| {
        let parameters = kind.parameters.iter().map(|parameter| {
            json!({
                "name": parameter.name, "default": parameter.default, "min": parameter.min, "max": parameter.max,
                "doc": parameter.doc,
            })
        });
        json!({"name": kind.name, "doc": kind.doc, "parameters": parameters.collect::<Vec<_>>()})
    });
    json!({"hunts": hunts.collect::<Vec<_>>()})
}

/// What a hunt found.
pub fn findings(answer: &v1::HuntResponse) -> Value {
    let value = |evidence: &v1::HuntEvidence| match &evidence.value {
        Some(Evidence::Text(text)) => json!(text),
        Some(Evidence::Number(number)) => json!(number),
        Some(Evidence::Ratio(ratio)) => json!(ratio),
        Some(Evidence::UnixNs(at)) => json!(time(*at)),
        None => Value::Null,
    };
    let findings = answer.findings.iter().map(|finding| {
        let evidence: Map<String, Value> =
            finding.evidence.iter().map(|evidence| (evidence.name.clone(), value(evidence))).collect();
        json!({
            "score": finding.score, "what": finding.what, "evidence": evidence, "expression": finding.expression,
        })
    });
    let object = json!({"findings": findings.collect::<Vec<_>>(), "others": answer.others});
    with_partial(object, answer.partial.as_ref())
}

fn time(unix_ns: i64) -> String {
    rfc3339(UtcNs::from_unix_ns(unix_ns))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What the collector holds.
pub fn status(status: &v1::StatusResponse) -> Value {
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

/// The field table.
pub fn fields(answer: &v1::FieldsResponse) -> Value {
    let fields = answer.fields.iter().map(|field| {
        json!({
            "id": field.id, "name": field.name, "aliases": field.aliases, "kind": field.kind, "many": field.many,
            "any_of": field.any_of, "values": field.values, "doc": field.doc,
        })
    });
    json!({"fields": fields.collect::<Vec<_>>()})
}

/// The agents and their heartbeats.
pub fn agents(answer: &v1::AgentsResponse) -> Value {
    let agents = json!({"agents": answer.agents.iter().map(agent).collect::<Vec<_>>()});
    with_partial(agents, answer.partial.as_ref())
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
        "clock": heartbeat.clock.as_ref().map(clock_status),
        "left_out": left_out.collect::<Vec<_>>(),
        "left_out_more": heartbeat.left_out_more,
        "uptime_ms": heartbeat.uptime_ms,
        "resident_bytes": heartbeat.resident_bytes,
    })
}

/// The state of time.
pub fn clock(answer: &v1::ClockResponse) -> Value {
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
        "held": held(&answer.held),
        "events": events.collect::<Vec<_>>(),
    });
    with_partial(object, answer.partial.as_ref())
}

fn clock_status(clock: &v1::ClockStatus) -> Value {
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

/// What a clock was set by, in a word.
pub fn source_word(source: i32) -> String {
    match v1::FixSource::try_from(source) {
        Ok(v1::FixSource::Unspecified) | Err(_) => "none".to_owned(),
        Ok(source) => source.as_str_name().trim_start_matches("FIX_SOURCE_").to_ascii_lowercase(),
    }
}
