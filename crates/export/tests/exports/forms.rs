//! What is said of each kind of record, and that nothing in a record can break out of a form.

use std::collections::BTreeMap;

use crate::flows::{all, arp, dns6, encode, https, interim, pending, ping, tcp, text, v4};
use gnomon_export::{Accept, Carrier, ECS_NAMES, Format, Left};
use gnomon_flow::{FIELDS, StoredFlow, TcpState};
use serde_json::{Value, json};

fn lines(format: Format, flows: &[StoredFlow]) -> Vec<Value> {
    text(format, flows).lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

fn one(format: Format, flow: StoredFlow) -> Value {
    lines(format, &[flow]).remove(0)
}

/// A strict reader of what docs.zeek.org says of the ASCII writer's files: rows by the names of `#fields`, escapes
/// undone, `None` for what is not set.
fn zeek_rows(text: &str) -> Vec<BTreeMap<String, Option<String>>> {
    let mut headers: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let mut rows = Vec::new();
    for line in text.lines() {
        match line.strip_prefix('#') {
            Some(header) => {
                let (name, rest) = header.split_once([' ', '\t']).expect("a header's name and value");
                headers.insert(name, rest.split('\t').collect());
            }
            None => {
                assert_eq!(headers["separator"], ["\\x09"]);
                let cells: Vec<&str> = line.split('\t').collect();
                assert_eq!(
                    (cells.len(), headers["types"].len()),
                    (headers["fields"].len(), headers["fields"].len())
                );
                let cell = |cell: &str| (cell != headers["unset_field"][0]).then(|| unescaped(cell));
                let names = headers["fields"].iter().map(|name| (*name).to_owned());
                rows.push(names.zip(cells.into_iter().map(cell)).collect());
            }
        }
    }
    rows
}

fn unescaped(cell: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = cell;
    while let Some((before, after)) = rest.split_once("\\x") {
        bytes.extend_from_slice(before.as_bytes());
        bytes.push(u8::from_str_radix(&after[..2], 16).expect("two hexadecimal digits"));
        rest = &after[2..];
    }
    bytes.extend_from_slice(rest.as_bytes());
    String::from_utf8(bytes).expect("UTF-8")
}

#[test]
fn a_conn_log_says_what_zeek_would() {
    let rows = zeek_rows(&text(Format::Zeek, &all()));
    assert_eq!(rows.len(), 3, "IP, finished, of known time");
    let get = |row: usize, name: &str| rows[row][name].as_deref();
    assert_eq!(get(0, "ts"), Some("1700000001.123456"));
    assert_eq!((get(0, "id.orig_h"), get(0, "id.orig_p")), (Some("192.0.2.1"), Some("40000")));
    assert_eq!((get(0, "duration"), get(0, "service")), (Some("2.500000"), Some("ssl,http")));
    assert_eq!((get(0, "conn_state"), get(0, "history")), (Some("SF"), None));
    assert_eq!((get(0, "vlan"), get(0, "inner_vlan")), (Some("100"), Some("7")));
    assert_eq!(get(0, "gnomon_node"), Some("sensor\t1"), "what separates columns is escaped");
    assert_eq!(get(0, "gnomon_time_error"), Some("0.000002000"));
    assert_eq!((get(1, "id.orig_h"), get(1, "history")), (Some("2001:db8::1"), Some("Dd")));
    // An echo's other end is the type of its answer, as with Zeek.
    assert_eq!(
        (get(2, "proto"), get(2, "id.orig_p"), get(2, "id.resp_p")),
        (Some("icmp"), Some("8"), Some("0"))
    );
    assert_eq!((get(2, "local_orig"), get(2, "missed_bytes")), (None, None));
}

#[test]
fn both_forms_of_a_conn_log_agree() {
    let rows = zeek_rows(&text(Format::Zeek, &all()));
    let objects = lines(Format::ZeekJson, &all());
    assert_eq!(rows.len(), objects.len());
    for (row, object) in rows.iter().zip(&objects) {
        for (name, cell) in row {
            let same = match (cell, &object[name]) {
                (None, Value::Null) => true,
                (Some(cell), Value::String(text)) => cell == text,
                (Some(cell), Value::Number(n)) => cell.parse::<f64>().ok() == n.as_f64(),
                _ => false,
            };
            assert!(same, "{name}: {cell:?} and {:?}", object[name]);
        }
    }
}

#[test]
fn conn_state_is_zeeks_where_a_record_can_tell() {
    use TcpState::{Closed, Closing, Established, Midstream, Reset, SynReceived, SynSent};
    // FIN, SYN, RST of both sides; SYN-ACKs; packets of each side; Zeek's state and history.
    let cases = [
        (SynSent, [0, 3, 0], 0, (3, 0), Some("S0"), Some("S")),
        (Reset, [0, 1, 1], 0, (1, 1), Some("REJ"), Some("Sr")),
        (Reset, [0, 1, 1], 1, (2, 1), Some("RSTO"), Some("ShR")),
        (Reset, [0, 1, 1], 0, (2, 0), Some("RSTOS0"), Some("SR")),
        (Reset, [0, 0, 1], 1, (0, 2), Some("RSTRH"), None),
        (Reset, [0, 1, 1], 1, (1, 2), Some("RSTR"), None),
        // Either may have sent it.
        (Reset, [0, 1, 1], 1, (5, 5), None, None),
        (SynReceived, [0, 1, 0], 1, (1, 1), Some("S1"), Some("Sh")),
        (SynReceived, [0, 0, 0], 1, (0, 1), Some("OTH"), None),
        (Established, [0, 1, 0], 1, (9, 9), Some("S1"), None),
        (Closing, [1, 1, 0], 0, (2, 0), Some("SH"), None),
        (Closing, [1, 1, 0], 1, (3, 1), Some("S2"), None),
        (Closing, [1, 1, 0], 1, (1, 3), Some("S3"), None),
        (Closing, [1, 0, 0], 1, (0, 2), Some("SHR"), None),
        (Closing, [2, 1, 0], 1, (9, 9), Some("SF"), None),
        (Closing, [1, 1, 0], 1, (9, 9), None, None),
        (Closed, [2, 1, 0], 1, (9, 9), Some("SF"), None),
        (Midstream, [0, 0, 0], 0, (9, 9), Some("OTH"), None),
    ];
    for (state, [fin, syn, rst], syn_ack, packets, conn_state, history) in cases {
        let mut flow = tcp(1, state, [fin, syn, rst, 0, 0, 0, 0, 0], syn_ack, packets);
        (flow.record.orig.data_bytes, flow.record.resp.data_bytes) = (0, 0);
        let said = one(Format::ZeekJson, flow);
        let case = format!("{state:?} {fin} {syn} {rst} {syn_ack} {packets:?}");
        assert_eq!(said["conn_state"].as_str(), conn_state, "{case}");
        assert_eq!(said["history"].as_str(), history, "{case}");
    }
    // A later segment counts anew: that no SYN is in it says nothing.
    let mut later = tcp(1, Reset, [0, 0, 1, 0, 0, 0, 0, 0], 0, (2, 0));
    later.record.segment = 1;
    assert_eq!(one(Format::ZeekJson, later)["conn_state"], Value::Null);
}

#[test]
fn conn_state_says_who_closed_where_the_agent_said_whose_flags_they_were() {
    use TcpState::{Closing, Reset};
    const FIN: u8 = 1;
    const SYN: u8 = 2;
    const RST: u8 = 4;
    let cases = [
        (Reset, [0, 1, 1], 1, [SYN | RST, SYN], Some("RSTO")),
        (Reset, [0, 1, 1], 1, [SYN, SYN | RST], Some("RSTR")),
        (Reset, [0, 1, 2], 1, [SYN | RST, SYN | RST], Some("RSTR")),
        // The SYN-ACK was missed, not what came behind it.
        (Reset, [0, 1, 1], 0, [SYN, RST], Some("RSTR")),
        (Reset, [0, 0, 1], 0, [0, RST], Some("RSTRH")),
        (Closing, [1, 1, 0], 1, [SYN | FIN, SYN], Some("S2")),
        (Closing, [1, 1, 0], 1, [SYN, SYN | FIN], Some("S3")),
        // A repeated FIN of one side is not the other's.
        (Closing, [2, 1, 0], 1, [SYN, SYN | FIN], Some("S3")),
        (Closing, [3, 1, 0], 1, [SYN | FIN, SYN | FIN], Some("SF")),
    ];
    for (state, [fin, syn, rst], syn_ack, of_side, conn_state) in cases {
        let mut flow = tcp(1, state, [fin, syn, rst, 0, 0, 0, 0, 0], syn_ack, (9, 9));
        flow.record.tcp.as_mut().expect("TCP").of_side = of_side;
        let said = one(Format::ZeekJson, flow);
        assert_eq!(said["conn_state"].as_str(), conn_state, "{state:?} {of_side:?}");
    }
    let mut refused = tcp(1, Reset, [0, 1, 1, 0, 0, 0, 0, 0], 0, (1, 1));
    refused.record.tcp.as_mut().expect("TCP").of_side = [SYN, RST];
    let event = one(Format::Eve, refused.clone());
    assert_eq!((&event["tcp"]["tcp_flags_ts"], &event["tcp"]["tcp_flags_tc"]), (&json!("02"), &json!("04")));
    assert_eq!(one(Format::ZeekJson, refused)["conn_state"], "REJ");
}

/// Names and types of Elastic Common Schema 8.17 (generated/ecs/ecs_flat.yml), as far as they are used. Facts of the
/// schema, written down here: `GNOMON_ECS_FIELDS` names the official file to compare with it.
const ECS: &[(&str, &str)] = &[
    ("@timestamp", "date"),
    ("agent.id", "keyword"),
    ("agent.name", "keyword"),
    ("agent.type", "keyword"),
    ("destination.bytes", "long"),
    ("destination.geo.country_iso_code", "keyword"),
    ("destination.ip", "ip"),
    ("destination.mac", "keyword"),
    ("destination.packets", "long"),
    ("destination.port", "long"),
    ("dns.op_code", "keyword"),
    ("dns.question.name", "keyword"),
    ("dns.question.type", "keyword"),
    ("dns.resolved_ip", "ip"),
    ("dns.response_code", "keyword"),
    ("ecs.version", "keyword"),
    ("email.from.address", "keyword"),
    ("email.message_id", "wildcard"),
    ("email.subject", "keyword"),
    ("email.to.address", "keyword"),
    ("email.x_mailer", "keyword"),
    ("event.category", "keyword"),
    ("event.dataset", "keyword"),
    ("event.duration", "long"),
    ("event.end", "date"),
    ("event.id", "keyword"),
    ("event.ingested", "date"),
    ("event.kind", "keyword"),
    ("event.module", "keyword"),
    ("event.start", "date"),
    ("event.type", "keyword"),
    ("http.request.method", "keyword"),
    ("http.request.referrer", "keyword"),
    ("http.response.status_code", "long"),
    ("network.bytes", "long"),
    ("network.community_id", "keyword"),
    ("network.direction", "keyword"),
    ("network.iana_number", "keyword"),
    ("network.inner.vlan.id", "keyword"),
    ("network.packets", "long"),
    ("network.protocol", "keyword"),
    ("network.transport", "keyword"),
    ("network.type", "keyword"),
    ("network.vlan.id", "keyword"),
    ("observer.ingress.interface.name", "keyword"),
    ("observer.name", "keyword"),
    ("observer.product", "keyword"),
    ("related.hosts", "keyword"),
    ("related.ip", "ip"),
    ("related.user", "keyword"),
    ("source.bytes", "long"),
    ("source.geo.country_iso_code", "keyword"),
    ("source.ip", "ip"),
    ("source.mac", "keyword"),
    ("source.packets", "long"),
    ("source.port", "long"),
    ("tags", "keyword"),
    ("tls.cipher", "keyword"),
    ("tls.client.ja3", "keyword"),
    ("tls.client.server_name", "keyword"),
    ("tls.server.ja3s", "keyword"),
    ("tls.version", "keyword"),
    ("tls.version_protocol", "keyword"),
    ("url.domain", "keyword"),
    ("url.original", "wildcard"),
    ("user.name", "keyword"),
    ("user_agent.original", "keyword"),
];

/// Each leaf's dotted name with its values.
fn leaves(object: &Value, prefix: &str, found: &mut BTreeMap<String, Vec<Value>>) {
    for (name, value) in object.as_object().expect("an object") {
        let name = format!("{prefix}{name}");
        match value {
            Value::Object(_) => leaves(value, &format!("{name}."), found),
            Value::Array(values) => drop(found.insert(name, values.clone())),
            value => drop(found.insert(name, vec![value.clone()])),
        }
    }
}

#[test]
fn what_ecs_has_a_name_for_is_there_with_its_type() {
    let mut seen = BTreeMap::new();
    for event in lines(Format::Ecs, &all()) {
        leaves(&event, "", &mut seen);
    }
    for (name, values) in seen.iter().filter(|(name, _)| !name.starts_with("gnomon.")) {
        let kind =
            ECS.iter().find(|(known, _)| known == name).unwrap_or_else(|| panic!("{name} is not in ECS")).1;
        for value in values {
            let fits = match kind {
                "long" => value.is_u64(),
                "ip" => value.as_str().is_some_and(|text| text.parse::<std::net::IpAddr>().is_ok()),
                "date" => value.as_str().is_some_and(|text| text.ends_with('Z')),
                _ => value.is_string(),
            };
            assert!(fits, "{name} is {kind}: {value}");
        }
    }
    // A field has one place, and nothing is both a value and an object.
    assert!(seen.keys().all(|name| !seen.keys().any(|other| other.starts_with(&format!("{name}.")))));
}

#[test]
fn every_mapped_name_is_a_field_of_ours_and_one_of_ecs() {
    for known in ECS_NAMES {
        assert!(FIELDS.iter().any(|field| field.name == known.field), "{}", known.field);
        assert!(ECS.iter().any(|(name, _)| *name == known.name), "{}", known.name);
    }
    let docs = include_str!("../../../../docs/exports.md");
    for known in ECS_NAMES {
        assert!(docs.contains(&format!("| `{}` | `{}` |", known.field, known.name)), "docs: {}", known.field);
    }
}

#[test]
fn the_schemas_own_list_has_these_names() {
    let Ok(path) = std::env::var("GNOMON_ECS_FIELDS") else {
        eprintln!("SKIPPED: GNOMON_ECS_FIELDS names no ecs_flat.yml of github.com/elastic/ecs");
        return;
    };
    let list = std::fs::read_to_string(path).expect("ecs_flat.yml");
    let mut kinds = BTreeMap::new();
    let mut field = String::new();
    for line in list.lines() {
        if let Some(name) = line.strip_suffix(':').filter(|name| !name.starts_with(' ')) {
            field = name.trim_matches('\'').to_owned();
        } else if let Some(kind) = line.strip_prefix("  type: ") {
            kinds.insert(field.clone(), kind.to_owned());
        }
    }
    for (name, kind) in ECS {
        assert_eq!(kinds.get(*name).map(String::as_str), Some(*kind), "{name}");
    }
}

#[test]
fn ecs_says_the_first_of_several_and_keeps_them_all() {
    let event = one(Format::Ecs, https());
    assert_eq!(event["http"]["request"]["method"], "GET");
    assert_eq!(event["gnomon"]["http_method"], json!(["GET", "POST"]));
    assert_eq!((&event["tls"]["version"], &event["tls"]["version_protocol"]), (&json!("1.3"), &json!("tls")));
    assert_eq!(event["url"]["domain"], "www.example.com");
    assert_eq!(event["source"]["mac"], "02-00-5E-00-53-06");
    assert_eq!(
        (&event["network"]["vlan"]["id"], &event["network"]["inner"]["vlan"]["id"]),
        (&json!("100"), &json!("7"))
    );
    assert_eq!(event["event"]["type"], json!(["connection", "start", "end"]));
    assert_eq!(event["@timestamp"], "2023-11-14T22:13:21.123456789Z");
    assert_eq!(event["user_agent"]["original"], "a\"b,c\td\ne\u{1b}[2J");
    let arp = one(Format::Ecs, arp());
    assert_eq!((&arp["network"]["type"], &arp["network"]["transport"]), (&json!("arp"), &Value::Null));
}

#[test]
fn an_eve_flow_has_suricatas_names() {
    let event = one(Format::Eve, https());
    assert_eq!(
        (&event["event_type"], &event["proto"], &event["app_proto"]),
        (&json!("flow"), &json!("TCP"), &json!("tls"))
    );
    assert_eq!(event["timestamp"], "2023-11-14T22:13:23.623456+0000");
    assert_eq!(event["flow"]["start"], "2023-11-14T22:13:21.123456+0000");
    assert_eq!((&event["flow"]["age"], &event["flow"]["state"]), (&json!(2), &json!("closed")));
    assert_eq!(
        (&event["flow"]["pkts_toserver"], &event["flow"]["bytes_toclient"]),
        (&json!(6), &json!(5_000))
    );
    assert_eq!((&event["tcp"]["tcp_flags"], &event["tcp"]["rst"]), (&json!("1b"), &Value::Null));
    assert_eq!(event["vlan"], json!([100, 7]));
    assert!(event["flow_id"].as_u64().is_some_and(|id| id > 0 && id < 1 << 51));
    let ping = one(Format::Eve, ping());
    assert_eq!(
        (&ping["icmp_type"], &ping["src_port"], &ping["proto"]),
        (&json!(8), &Value::Null, &json!("ICMP"))
    );
    assert_eq!(one(Format::Eve, dns6())["dest_ip"], "2001:0db8:0000:0000:0000:0000:0000:0053");
}

#[test]
fn a_spreadsheet_sees_no_formula() {
    let text = text(Format::Csv, &[https()]);
    assert!(text.contains(",'=cmd|' /C calc'!A0,") && text.contains(",'@SUM(1),"), "{text}");
}

#[test]
fn what_is_left_out_is_counted_and_asked_for() {
    for format in Format::ALL {
        let (_, encoder) = encode(format, Carrier::Stream, Accept::default(), &all());
        let tally = encoder.tally();
        assert_eq!(tally.written + tally.left_total(), 6, "{format:?}");
        assert_eq!((tally.left(Left::NotProven), tally.left(Left::Interim)), (1, 1), "{format:?}");
        let accept = Accept { pending: true, interim: true };
        let (_, encoder) = encode(format, Carrier::Stream, accept, &[pending(), interim()]);
        let tally = encoder.tally();
        // Without any time only the forms that can say so have it; a preview's counts are no deltas.
        let untimed = if format.takes_no_time() { 0 } else { 1 };
        let interim = u64::from(format == Format::Ipfix);
        assert_eq!((tally.left(Left::NoTime), tally.left(Left::Interim)), (untimed, interim), "{format:?}");
    }
    let (_, encoder) = encode(Format::Eve, Carrier::Stream, Accept::default(), &all());
    let words = "left out: 1 records have no proven time; 1 records are of flows that go on; 1 records are not IP, which this form is about";
    assert_eq!(encoder.tally().words().as_deref(), Some(words));
}

#[test]
fn a_datagram_of_ipfix_fits_ethernet_and_templates_come_again() {
    let mut long = https();
    long.origin.agent_name = "n".repeat(5_000).into();
    long.origin.interface = "i".repeat(5_000).into();
    let flows: Vec<StoredFlow> = (0..500).map(|_| long.clone()).collect();
    let (units, _) = encode(Format::Ipfix, Carrier::Datagrams, Accept::default(), &flows);
    let messages: Vec<&[u8]> = units.iter().collect();
    let word = |message: &[u8], at: usize| u16::from_be_bytes([message[at], message[at + 1]]);
    assert!(
        messages.iter().all(|message| message.len() <= 1_400 && word(message, 2) as usize == message.len())
    );
    let templates = messages.iter().filter(|message| word(message, 16) == 2).count();
    assert!(
        word(messages[0], 16) == 2 && templates >= messages.len() / 25,
        "{templates} of {}",
        messages.len()
    );
    let (units, _) = encode(Format::Ipfix, Carrier::Stream, Accept::default(), &flows);
    assert_eq!(units.iter().filter(|message| word(message, 16) == 2).count(), 1);
    assert!(units.iter().all(|message| message.len() <= 65_535));
}

#[test]
fn ports_mean_nothing_where_a_protocol_has_none() {
    let mut gre = ping();
    (gre.record.key, gre.record.icmp) = (v4(47, (0, 0)), None);
    let said = one(Format::ZeekJson, gre.clone());
    assert_eq!(
        (&said["proto"], &said["conn_state"], &said["ip_proto"]),
        (&json!("unknown_transport"), &json!("OTH"), &json!(47))
    );
    assert_eq!(one(Format::Eve, gre)["proto"], "GRE");
}
