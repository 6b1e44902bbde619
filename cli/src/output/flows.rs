//! Flows on stdout.

use std::io::{self, Write};

use gnomon_flow::escape::{terminal_safe, terminal_safe_json};
use gnomon_flow::field::{self, FieldId};
use gnomon_flow::json::AsJson;
use gnomon_flow::timestamp::rfc3339;
use gnomon_flow::{FIELDS, Field, StoredFlow, Value as FieldValue};
use serde_json::Value;

use super::{Cell, Sheet, human};
use crate::arguments::Format;

/// Flows as a sheet: chosen columns for a table, every field for everything else.
pub(crate) fn flow_sheet(flows: &[StoredFlow], format: Format) -> Sheet {
    if format == Format::Table {
        let mut sheet = Sheet::new(&TABLE_COLUMNS);
        sheet.rows = flows.iter().map(|flow| table_row(flow).into_iter().map(Cell::from).collect()).collect();
        return sheet;
    }
    let columns: Vec<&Field> = FIELDS.iter().filter(|f| !f.any_of).collect();
    let mut sheet = Sheet::new(&columns.iter().map(|f| f.name).collect::<Vec<_>>());
    for flow in flows {
        // The record's own JSON, so that there is one rule for what a field looks like.
        let mut object = serde_json::to_value(AsJson(flow)).unwrap_or_default();
        sheet.rows.push(
            columns.iter().map(|f| Cell(object.get_mut(f.name).map_or(Value::Null, Value::take))).collect(),
        );
    }
    sheet
}

const TABLE_COLUMNS: [&str; 9] =
    ["time", "node", "proto", "source", "destination", "packets", "bytes", "about", "id"];

fn table_row(flow: &StoredFlow) -> [String; 9] {
    let record = &flow.record;
    let mut time = match flow.first {
        Some(first) => rfc3339(first.utc)[..23].replace('T', " "),
        None => format!("({})", flow.time_state.name()),
    };
    if flow.first.is_some_and(|f| f.conflict) {
        time.push('?');
    }
    [
        time,
        flow.origin.agent_name.to_string(),
        field::protocol_name(&record.key).into_owned(),
        end(flow, "ip.src", "port.src", "mac.src"),
        end(flow, "ip.dst", "port.dst", "mac.dst"),
        record.packets().to_string(),
        human(record.bytes() as f64),
        about(flow),
        flow.id().to_string(),
    ]
}

fn shown(flow: &StoredFlow, name: &str) -> Option<String> {
    field::by_name(name)?.first(flow).map(|value| match value {
        FieldValue::Ip(ip) => ip.to_string(),
        FieldValue::Integer(n) => n.to_string(),
        FieldValue::Text(text) => text.into_owned(),
        FieldValue::Time(time) => rfc3339(time),
        FieldValue::Bool(b) => b.to_string(),
    })
}

fn end(flow: &StoredFlow, ip: &str, port: &str, mac: &str) -> String {
    match (shown(flow, ip), shown(flow, port)) {
        (Some(ip), Some(port)) if ip.contains(':') => format!("[{ip}]:{port}"),
        (Some(ip), Some(port)) => format!("{ip}:{port}"),
        (Some(ip), None) => ip,
        (None, _) => shown(flow, mac).unwrap_or_default(),
    }
}

/// The most telling thing known of a flow, in a few words.
fn about(flow: &StoredFlow) -> String {
    let first = |id: FieldId| field::by_id(id).and_then(|f| shown(flow, f.name));
    let told = [field::HTTP_HOST, field::TLS_HOST, field::DNS_HOST, field::SSH_VERSION];
    let what = told.into_iter().find_map(first);
    let protocol = first(field::PROTOCOLS);
    let state = shown(flow, "undecodable").or_else(|| shown(flow, "tcp.state"));
    let mut words: Vec<String> = [protocol, what].into_iter().flatten().collect();
    if words.is_empty() {
        words.extend(state);
    }
    let mut text = words.join(" ");
    if text.chars().count() > 48 {
        text = text.chars().take(47).chain(['…']).collect();
    }
    text
}

/// Writes flows one by one as they come.
#[derive(Debug)]
pub(crate) struct FlowWriter {
    format: Format,
    begun: bool,
}

impl FlowWriter {
    pub(crate) fn new(format: Format) -> FlowWriter {
        FlowWriter { format, begun: false }
    }

    pub(crate) fn write(&mut self, flow: &StoredFlow) -> io::Result<()> {
        let mut out = io::stdout().lock();
        let first = !std::mem::replace(&mut self.begun, true);
        match self.format {
            Format::Table => {
                let line = |cells: &[String]| {
                    let widths = [23, 12, 6, 24, 24, 8, 8];
                    let padded = cells.iter().zip(widths.into_iter().chain([0, 0]));
                    padded
                        .map(|(cell, width)| format!("{:<width$}", terminal_safe(cell)))
                        .collect::<Vec<_>>()
                        .join("  ")
                };
                if first {
                    writeln!(out, "{}", line(&TABLE_COLUMNS.map(str::to_uppercase)))?;
                }
                writeln!(out, "{}", line(&table_row(flow)))?;
            }
            Format::Csv => {
                let sheet = flow_sheet(std::slice::from_ref(flow), Format::Csv);
                let mut csv = csv::Writer::from_writer(&mut out);
                if first {
                    csv.write_record(&sheet.columns)?;
                }
                csv.write_record(sheet.rows[0].iter().map(Cell::in_csv))?;
                csv.flush()?;
            }
            Format::Json | Format::Jsonl => {
                writeln!(out, "{}", terminal_safe_json(&serde_json::to_string(&AsJson(flow))?))?;
            }
        }
        out.flush()
    }
}
