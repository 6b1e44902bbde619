//! Every field in a column (RFC 4180), for spreadsheets too: a text that one would take for a formula is disarmed.

use gnomon_flow::escape::without_marks;
use gnomon_flow::{FIELDS, Field, StoredFlow, Value};

fn columns() -> impl Iterator<Item = &'static Field> {
    FIELDS.iter().filter(|field| !field.any_of)
}

pub(crate) fn header(out: &mut Vec<u8>) {
    write(columns().map(|field| field.name.to_owned()), out);
}

pub(crate) fn record(flow: &StoredFlow, out: &mut Vec<u8>) {
    write(columns().map(|field| cell(field, flow)), out);
}

/// Several values are joined by `;`.
fn cell(field: &Field, flow: &StoredFlow) -> String {
    let mut cell = String::new();
    let mut is_text = false;
    field.each(flow, &mut |value| {
        if !cell.is_empty() {
            cell.push(';');
        }
        is_text |= matches!(value, Value::Text(_));
        cell.push_str(&without_marks(&value.to_string()));
    });
    if is_text { disarmed(cell) } else { cell }
}

/// A text that a spreadsheet does not take for a formula: a quote in front says that it is text (OWASP, CSV injection).
#[must_use]
pub fn disarmed(mut text: String) -> String {
    if text.starts_with(['=', '+', '-', '@', '\t', '\r']) {
        text.insert(0, '\'');
    }
    text
}

fn write(cells: impl Iterator<Item = String>, out: &mut Vec<u8>) {
    let mut writer = csv::Writer::from_writer(out);
    // Memory takes everything.
    writer.write_record(cells).unwrap_or_default();
    writer.flush().unwrap_or_default();
}
