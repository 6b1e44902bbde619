//! The OpenAPI 3.1 document, made from the table of routes and the table of fields.

use gnomon_flow::{FIELDS, FieldKind};
use serde_json::{Map, Value, json};

use super::routes::{Answer, Kind, Parameter, ROUTES, Route};

/// The document for a collector of this version.
pub fn openapi(version: &str) -> Value {
    let paths: Map<String, Value> = ROUTES.iter().map(|route| (route.path.to_owned(), path(route))).collect();
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "gnomon collector",
            "version": version,
            "description": "Network flows and their packets. gRPC (gnomon.v1.Query) on the same port has the same meaning.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": {"schemas": schemas()},
    })
}

fn path(route: &Route) -> Value {
    let id = route.path.trim_matches('/').replace(['/', '.', '{', '}'], "_");
    let mut path = json!({"get": operation(route, &format!("get_{id}"), &parameters(route), None)});
    if route.post
        && let Some(path) = path.as_object_mut()
    {
        path.insert(
            "post".to_owned(),
            operation(route, &format!("post_{id}"), &json!([]), Some(body(route))),
        );
    }
    path
}

fn operation(route: &Route, id: &str, parameters: &Value, body: Option<Value>) -> Value {
    let reference = |name: &str| json!({"$ref": format!("#/components/schemas/{name}")});
    let content = match route.answer {
        Answer::Json(schema) => json!({"application/json": {"schema": reference(schema)}}),
        Answer::Lines(schema) => json!({
            "application/x-ndjson": {"schema": reference(schema)},
            "text/event-stream": {"schema": {"type": "string"}},
        }),
        Answer::JsonOrLines(schema) => json!({
            "application/json": {"schema": reference(schema)},
            "application/x-ndjson": {"schema": reference(schema)},
            "text/event-stream": {"schema": {"type": "string"}},
        }),
        Answer::Capture => json!({
            "application/x-pcapng": {"schema": {"type": "string", "format": "binary"}},
            "application/vnd.tcpdump.pcap": {"schema": {"type": "string", "format": "binary"}},
        }),
        Answer::Text => json!({"text/plain": {"schema": {"type": "string"}}}),
    };
    let mut operation = json!({
        "operationId": id,
        "summary": route.doc,
        "parameters": parameters,
        "responses": {
            "200": {"description": "the answer", "content": content},
            "default": {
                "description": "why there is none",
                "content": {"application/json": {"schema": reference("Error")}},
            },
        },
    });
    if let (Some(operation), Some(body)) = (operation.as_object_mut(), body) {
        operation.insert("requestBody".to_owned(), body);
    }
    operation
}

fn parameters(route: &Route) -> Value {
    let in_path = route
        .path
        .split('/')
        .filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
        .map(|name| json!({"name": name, "in": "path", "required": true, "schema": {"type": "string"}}));
    let in_query = route.parameters.iter().map(|parameter| {
        json!({
            "name": parameter.name, "in": "query", "description": parameter.doc, "schema": schema(parameter),
            // Values separated by commas.
            "explode": false,
        })
    });
    Value::Array(in_path.chain(in_query).collect())
}

fn body(route: &Route) -> Value {
    let properties: Map<String, Value> = route
        .parameters
        .iter()
        .map(|parameter| {
            let mut schema = schema(parameter);
            if let Some(schema) = schema.as_object_mut() {
                schema.insert("description".to_owned(), json!(parameter.doc));
            }
            (parameter.name.to_owned(), schema)
        })
        .collect();
    let schema = json!({"type": "object", "properties": properties, "additionalProperties": false});
    json!({"content": {"application/json": {"schema": schema}}})
}

fn schema(parameter: &Parameter) -> Value {
    match parameter.kind {
        Kind::Text | Kind::Duration => json!({"type": "string"}),
        Kind::Time => json!({"type": ["string", "number"]}),
        Kind::Flag => json!({"type": "boolean"}),
        Kind::Number => json!({"type": "integer", "minimum": 0}),
        Kind::List => json!({"type": "array", "items": {"type": "string"}}),
        Kind::OneOf(values) => json!({"type": "string", "enum": values}),
    }
}

fn flow() -> Value {
    let properties: Map<String, Value> = FIELDS
        .iter()
        .filter(|field| !field.any_of)
        .map(|field| {
            let one = match field.kind {
                FieldKind::Ip | FieldKind::Text if field.values.is_empty() => json!({"type": "string"}),
                FieldKind::Ip | FieldKind::Text => json!({"type": "string", "enum": field.values}),
                FieldKind::Integer => json!({"type": "integer", "minimum": 0}),
                FieldKind::Time => json!({"type": "string", "format": "date-time"}),
                FieldKind::Bool => json!({"type": "boolean"}),
            };
            let mut schema = if field.many { json!({"type": "array", "items": one}) } else { one };
            if let Some(schema) = schema.as_object_mut() {
                schema.insert("description".to_owned(), json!(field.doc));
            }
            (field.name.to_owned(), schema)
        })
        .collect();
    json!({
        "type": "object",
        "description": "One key a field, named as in searches; fields without a value are left out.",
        "properties": properties,
        "required": ["id"],
    })
}

fn schemas() -> Value {
    let integer = || json!({"type": "integer", "minimum": 0});
    let text = || json!({"type": "string"});
    let time = || json!({"type": ["string", "null"], "format": "date-time"});
    let array =
        |name: &str| json!({"type": "array", "items": {"$ref": format!("#/components/schemas/{name}")}});
    let object = |properties: Value| json!({"type": "object", "properties": properties});
    let partial = || json!({"$ref": "#/components/schemas/Partial"});
    let waiting = || json!({"$ref": "#/components/schemas/Waiting"});
    json!({
        "Object": {"type": "object"},
        "Error": object(json!({"error": {
            "type": "object",
            "required": ["code", "message"],
            "properties": {
                "code": text(),
                "message": text(),
                "hint": text(),
                "column": {"type": "integer", "minimum": 1, "description": "in the expression, in characters from 1"},
                "length": {"type": "integer", "minimum": 1},
            },
        }})),
        "Partial": {
            "type": "object",
            "description": "there when the answer is not whole",
            "properties": {"reason": text()},
        },
        "Flow": flow(),
        "SearchResponse": object(json!({
            "flows": array("Flow"),
            "next_cursor": {"type": "string", "description": "empty: there is no more"},
            "waiting": waiting(),
            "partial": partial(),
        })),
        "CountResponse": object(json!({
            "flows": integer(), "packets": integer(), "bytes": integer(), "distinct": array("Distinct"),
            "waiting": waiting(), "partial": partial(),
        })),
        "Waiting": json!({
            "type": "object",
            "description": "there when records match that are in no range of time, as they wait for evidence of it",
            "properties": {"held": array("HeldFlows"), "flows_not_looked_at": integer()},
        }),
        "Distinct": object(json!({
            "count": integer(),
            "error": {
                "type": "number", "minimum": 0,
                "description": "the standard error of an estimate as a part of it (0.016: 1.6 %); 0: the count is exact",
            },
        })),
        "TopRow": object(json!({
            "values": {"type": "array", "items": text()},
            "flows": integer(), "packets": integer(), "bytes": integer(), "distinct": array("Distinct"),
        })),
        "TopResponse": object(json!({
            "rows": array("TopRow"), "others_flows": integer(), "waiting": waiting(), "partial": partial(),
        })),
        "HistogramBucket": object(json!({
            "start": {"type": "string", "format": "date-time"}, "group": text(),
            "flows": integer(), "packets": integer(), "bytes": integer(),
        })),
        "HistogramResponse": object(json!({
            "interval_ns": integer(), "buckets": array("HistogramBucket"), "waiting": waiting(),
            "partial": partial(),
        })),
        "FacetsResponse": object(json!({
            "fields": array("Facet"),
            "flows": {"type": "integer", "minimum": 0, "description": "that match, of those read"},
            "records_read": {"type": "integer", "minimum": 0, "description": "so far, of records"},
            "records": integer(), "last": {"type": "boolean"}, "waiting": waiting(), "partial": partial(),
        })),
        "Facet": object(json!({
            "field": text(),
            "flows": {"type": "integer", "minimum": 0, "description": "that have any value"},
            "values": array("FacetValue"),
            "different": {"type": "integer", "minimum": 0, "description": "values; at least so many, where missed_max is not 0"},
            "missed_max": {"type": "integer", "minimum": 0, "description": "counts may be too low by so much; 0: they are exact"},
        })),
        "FacetValue": object(json!({"value": text(), "flows": integer()})),
        "HuntResponse": object(json!({
            "findings": array("HuntFinding"), "others": integer(), "partial": partial(),
        })),
        "HuntFinding": object(json!({
            "score": {"type": "number", "description": "compares findings of one answer, and means nothing else"},
            "what": text(),
            "evidence": {"type": "object", "description": "the same keys in all findings of a hunt"},
            "expression": {"type": "string", "description": "finds the flows behind it"},
        })),
        "HuntParameter": object(json!({
            "name": text(), "default": integer(), "min": integer(), "max": integer(), "doc": text(),
        })),
        "HuntKind": object(json!({"name": text(), "doc": text(), "parameters": array("HuntParameter")})),
        "HuntsResponse": object(json!({"hunts": array("HuntKind")})),
        "TailResponse": object(json!({
            "flow": {"$ref": "#/components/schemas/Flow"}, "missed": integer(),
        })),
        "Agent": object(json!({
            "id": text(), "name": text(), "version": text(), "connected": {"type": "boolean"}, "last_seen": time(),
            "peer": text(), "labels": {"type": "object"}, "heartbeat": {"type": ["object", "null"]},
            "entries_received": integer(), "entries_duplicate": integer(), "entries_bad": integer(),
            "flows_received": integer(), "packets_received": integer(),
            "clock_offset_ns": {"type": ["integer", "null"]}, "clock_err_ns": {"type": ["integer", "null"]},
        })),
        "AgentsResponse": object(json!({"agents": array("Agent")})),
        "FieldInfo": object(json!({
            "id": integer(), "name": text(), "aliases": {"type": "array", "items": text()}, "kind": text(),
            "many": {"type": "boolean"}, "any_of": {"type": "boolean"},
            "values": {"type": "array", "items": text()}, "doc": text(),
        })),
        "FieldsResponse": object(json!({"fields": array("FieldInfo")})),
        "StatusResponse": object(json!({
            "version": text(), "flows": integer(), "flows_pending": integer(), "flows_quarantined": integer(),
            "slice_packets": integer(), "slice_bytes": integer(), "disk_free_bytes": integer(),
            "oldest_flow": time(), "newest_flow": time(), "oldest_packet": time(),
            "now": {"type": "string", "format": "date-time"}, "now_err_ns": integer(), "clock_proven": {"type": "boolean"},
            "packets_bytes": integer(), "packets_bytes_max": integer(), "flows_bytes": integer(), "flows_bytes_max": integer(),
            "rate_over_s": {"type": ["integer", "null"], "description": "what the rates were measured over"},
            "packet_bytes_a_day": {"type": ["integer", "null"]}, "flow_bytes_a_day": {"type": ["integer", "null"]},
            "packets_full_in_s": {"type": ["integer", "null"], "description": "until the oldest packets are given up, at this rate"},
            "flows_full_in_s": {"type": ["integer", "null"], "description": "until the oldest flows are given up, at this rate"},
            "stopped": {"type": ["string", "null"], "description": "why nothing is taken in at the moment"},
            "damage": {"type": ["string", "null"], "description": "what is missing because the disk damaged or lost it, and what can be done"},
        })),
        "CollectorClock": object(json!({
            "state": {"type": "string", "enum": ["proven", "unproven"]}, "reason": text(), "source": text(),
            "now": {"type": "string", "format": "date-time"},
            "now_err_ns": {"type": "integer", "minimum": 0, "description": "against UTC when proven; else relative to this collector"},
            "authority": {"type": "string", "enum": ["collector", "agents", "nobody"]},
            "policy": {"type": "string", "enum": ["correct", "hold", "refuse"]},
            "tolerance_ns": integer(), "index_error_max_ns": integer(),
            "deletion_by_age": {"type": "string", "description": "why nothing is deleted for its age now; empty: it may be"},
            "corrections": integer(), "last_correction_ns": {"type": ["integer", "null"]}, "last_correction": time(),
            "timeline": text(),
        })),
        "AgentClock": object(json!({
            "id": text(), "name": text(), "connected": {"type": "boolean"},
            "state": {"type": "string", "enum": [
                "unknown", "unspecified", "cold", "acquiring", "synced", "holdover", "unbounded", "conflict",
            ]},
            "offset_ns": {"type": ["integer", "null"], "description": "what its clock shows minus what is true"},
            "err_ns": {"type": ["integer", "null"]}, "source": text(), "epoch": text(), "steps": integer(),
            "last_step_ns": {"type": ["integer", "null"]}, "last_step": time(), "disruptions": integer(),
            "last_disruption": text(), "note": text(),
            "overruled": {"type": "integer", "minimum": 0, "description": "fixes that contradict the authority"},
        })),
        "HeldFlows": object(json!({
            "state": {"type": "string", "enum": ["pending", "quarantined"]}, "reason": text(), "flows": integer(),
        })),
        "ClockEvent": object(json!({
            "time": {"type": "string", "format": "date-time"}, "who": text(),
            "kind": {"type": "string", "enum": ["step", "state", "disruption", "conflict", "correction"]},
            "text": text(), "by_ns": {"type": ["integer", "null"]},
        })),
        "ClockResponse": object(json!({
            "collector": {"$ref": "#/components/schemas/CollectorClock"}, "agents": array("AgentClock"),
            "held": array("HeldFlows"), "events": array("ClockEvent"), "partial": partial(),
        })),
    })
}
