//! Elastic Common Schema (www.elastic.co/guide/en/ecs, 8.17). Fields that the schema has a name for are there; all
//! others are under `gnomon.`, with `_` for `.` and `-`, so that no name is both a value and an object.

use gnomon_flow::field::{self, FieldId};
use gnomon_flow::{AttributeValue, FIELDS, FlowEndReason, StoredFlow, Value as FieldValue};
use serde_json::{Value, json};

use crate::object::{Object, json, put};

const VERSION: &str = "8.17.0";

/// How a field's value becomes the schema's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// As it is; of several the first, all of them under `gnomon.` then.
    One,
    /// An array.
    Many,
    /// A number that the schema has as a keyword.
    Keyword,
    /// `00-00-5E-00-53-23`.
    Mac,
    /// `TLSv1.2` is protocol `tls`, version `1.2`.
    TlsVersion,
    /// `example.com:8080` without its port.
    Host,
}

/// A field of ours and the schema's name for it.
#[derive(Clone, Copy, Debug)]
pub struct EcsName {
    pub field: &'static str,
    pub name: &'static str,
    pub form: Form,
}

const fn name(field: &'static str, name: &'static str, form: Form) -> EcsName {
    EcsName { field, name, form }
}

use Form::{Host, Keyword, Mac, Many, One, TlsVersion};

/// In the order of our fields.
pub const ECS_NAMES: &[EcsName] = &[
    name("id", "event.id", One),
    name("node", "agent.name", One),
    name("node.id", "agent.id", One),
    name("interface", "observer.ingress.interface.name", One),
    name("starttime", "event.start", One),
    name("stoptime", "event.end", One),
    name("ingesttime", "event.ingested", One),
    name("ip.src", "source.ip", One),
    name("ip.dst", "destination.ip", One),
    name("port.src", "source.port", One),
    name("port.dst", "destination.port", One),
    name("ip.protocol.number", "network.iana_number", Keyword),
    name("mac.src", "source.mac", Mac),
    name("mac.dst", "destination.mac", Mac),
    name("packets", "network.packets", One),
    name("packets.src", "source.packets", One),
    name("packets.dst", "destination.packets", One),
    name("bytes", "network.bytes", One),
    name("bytes.src", "source.bytes", One),
    name("bytes.dst", "destination.bytes", One),
    name("communityId", "network.community_id", One),
    name("tags", "tags", Many),
    name("dns.host", "dns.question.name", One),
    name("dns.query.type", "dns.question.type", One),
    name("dns.status", "dns.response_code", One),
    name("dns.ip", "dns.resolved_ip", Many),
    name("http.method", "http.request.method", One),
    name("http.host", "url.domain", Host),
    name("http.uri", "url.original", One),
    name("http.statuscode", "http.response.status_code", One),
    name("http.user-agent", "user_agent.original", One),
    name("http.referer", "http.request.referrer", One),
    name("tls.host", "tls.client.server_name", One),
    name("tls.version", "tls.version", TlsVersion),
    name("tls.cipher", "tls.cipher", One),
    name("tls.ja3", "tls.client.ja3", One),
    name("tls.ja3s", "tls.server.ja3s", One),
    name("user", "user.name", One),
    name("dns.opcode", "dns.op_code", One),
    name("email.src", "email.from.address", Many),
    name("email.dst", "email.to.address", Many),
    name("email.subject", "email.subject", One),
    name("email.message-id", "email.message_id", One),
    name("email.x-mailer", "email.x_mailer", One),
    name("vlan", "network.vlan.id", Keyword),
    name("country.src", "source.geo.country_iso_code", One),
    name("country.dst", "destination.geo.country_iso_code", One),
];

pub(crate) fn object(flow: &StoredFlow) -> Object {
    let mut event = Object::new();
    fixed(flow, &mut event);
    for field in FIELDS.iter().filter(|field| !field.any_of) {
        let mut values = Vec::new();
        field.each(flow, &mut |value| values.push(value.into_owned()));
        if values.is_empty() {
            continue;
        }
        let known = ECS_NAMES.iter().find(|known| known.field == field.name);
        let is_all_told = known.is_some_and(|known| fill(known, &values, &mut event));
        if !is_all_told {
            let own = format!("gnomon.{}", field.name.replace(['.', '-'], "_"));
            let mut values: Vec<Value> = values.iter().map(json).collect();
            put(&mut event, &own, if field.many { Value::Array(values) } else { values.swap_remove(0) });
        }
    }
    event
}

/// Puts a field where the schema has it. Returns whether that says all of it.
fn fill(known: &EcsName, values: &[FieldValue<'static>], event: &mut Object) -> bool {
    let first = &values[0];
    match known.form {
        One => put(event, known.name, json(first)),
        Many => put(event, known.name, values.iter().map(json).collect::<Vec<_>>()),
        Keyword => put(event, known.name, first.to_string()),
        Mac => put(event, known.name, first.to_string().to_uppercase().replace(':', "-")),
        Host => put(event, known.name, without_port(&first.to_string())),
        TlsVersion => {
            let text = first.to_string();
            let (protocol, version) = text.split_once('v').unwrap_or(("tls", &text));
            put(event, "tls.version_protocol", protocol.to_lowercase());
            put(event, known.name, version);
        }
    }
    values.len() == 1 || known.form == Many
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port))
            if !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()) && !name.ends_with(':') =>
        {
            name
        }
        _ => host,
    }
}

/// What the schema wants and no field of ours is alone.
fn fixed(flow: &StoredFlow, event: &mut Object) {
    let record = &flow.record;
    let mut set = |name: &str, value: Value| put(event, name, value);
    set("ecs.version", VERSION.into());
    set("event.kind", "event".into());
    set("event.category", json!(["network"]));
    set("event.module", "gnomon".into());
    set("event.dataset", "gnomon.flow".into());
    set("observer.product", "gnomon".into());
    set("observer.name", flow.origin.agent_name.as_ref().into());
    set("agent.type", "gnomon".into());
    // Where the perimeter is, is not known here.
    set("network.direction", "unknown".into());
    let mut kinds = vec!["connection"];
    if record.segment == 0 && !record.direction_guessed {
        kinds.push("start");
    }
    if !matches!(record.end, None | Some(FlowEndReason::Active)) {
        kinds.push("end");
    }
    set("event.type", kinds.into());
    if let Some(first) = flow.first {
        set("@timestamp", json(&FieldValue::Time(first.utc)));
    }
    set("event.duration", record.last.since(record.first).into());
    match record.key.orig_ip().filter(|_| record.key.is_ip()) {
        Some(ip) => {
            set("network.type", if ip.is_ipv4() { "ipv4" } else { "ipv6" }.into());
            let transport = field::protocol_name(&record.key);
            let transport = if transport == "icmpv6" { "ipv6-icmp" } else { &transport };
            set("network.transport", transport.into());
        }
        None => set("network.type", field::protocol_name(&record.key).into()),
    }
    let [_, inner] = record.key.vlan;
    if inner != 0 {
        set("network.inner.vlan.id", inner.to_string().into());
    }
    if let Some(name) = application(flow) {
        set("network.protocol", name.into());
    }
    let mut ips: Vec<String> =
        [record.key.orig_ip(), record.key.resp_ip()].into_iter().flatten().map(|ip| ip.to_string()).collect();
    ips.dedup();
    set_unless_empty(event, "related.ip", ips);
    set_unless_empty(
        event,
        "related.hosts",
        texts(flow, &[field::DNS_HOST, field::HTTP_HOST, field::TLS_HOST]),
    );
    set_unless_empty(event, "related.user", texts(flow, &[field::USER]));
}

fn set_unless_empty(event: &mut Object, name: &str, values: Vec<String>) {
    if !values.is_empty() {
        put(event, name, values);
    }
}

fn texts(flow: &StoredFlow, fields: &[FieldId]) -> Vec<String> {
    let mut texts: Vec<String> = Vec::new();
    for value in fields.iter().flat_map(|field| flow.record.attributes.of(*field)) {
        if let AttributeValue::Text(text) = value
            && !texts.iter().any(|known| known == text)
        {
            texts.push(text.to_string());
        }
    }
    texts
}

/// The first protocol that is not one of those around the flow.
fn application(flow: &StoredFlow) -> Option<&str> {
    flow.record.attributes.of(field::PROTOCOLS).find_map(|value| match value {
        AttributeValue::Text(name) if !is_tunnel(name) => Some(name.as_str()),
        _ => None,
    })
}

/// The names that `protocols` has for tunnels (docs/sessions.md).
pub(crate) fn is_tunnel(name: &str) -> bool {
    const TUNNELS: [&str; 15] = [
        "gre",
        "erspan",
        "vxlan",
        "vxlan-gpe",
        "geneve",
        "gtp",
        "mpls",
        "pppoe",
        "ppp",
        "l2tp",
        "teredo",
        "ah",
        "etherip",
        "nsh",
        "ipip",
    ];
    TUNNELS.contains(&name)
}
