//! Zeek's conn.log, as its ASCII and JSON writers make it (docs.zeek.org, "conn.log" and "Zeek log formats"): the columns
//! of the base script, those that Zeek's own scripts add for VLANs, MAC addresses and the Community ID, and three of
//! ours at the end.

mod columns;
mod state;

use gnomon_flow::StoredFlow;
use serde_json::Value;

use crate::object::Object;
use crate::time::{epoch_micros, interval_micros, interval_nanos};
use columns::{COLUMNS, Cell};

const UNSET: &str = "-";

/// The lines that stand first. `#open` and `#close` are left out: no reader needs them, and no clock is read here.
pub(crate) fn header(out: &mut Vec<u8>) {
    let names: Vec<&str> = COLUMNS.iter().map(|column| column.name).collect();
    let types: Vec<&str> = COLUMNS.iter().map(|column| column.kind).collect();
    let lines = [
        "#separator \\x09".to_owned(),
        "#set_separator\t,".to_owned(),
        "#empty_field\t(empty)".to_owned(),
        format!("#unset_field\t{UNSET}"),
        "#path\tconn".to_owned(),
        format!("#fields\t{}", names.join("\t")),
        format!("#types\t{}", types.join("\t")),
    ];
    for line in lines {
        out.extend_from_slice(line.as_bytes());
        out.push(b'\n');
    }
}

pub(crate) fn tsv(flow: &StoredFlow, out: &mut Vec<u8>) {
    for (index, column) in COLUMNS.iter().enumerate() {
        if index > 0 {
            out.push(b'\t');
        }
        let cell = (column.get)(flow).map_or_else(|| UNSET.to_owned(), |cell| cell.text());
        out.extend_from_slice(cell.as_bytes());
    }
    out.push(b'\n');
}

/// Without the fields that are not set, as Zeek's writer leaves them out.
pub(crate) fn object(flow: &StoredFlow) -> Object {
    COLUMNS.iter().filter_map(|column| Some((column.name.to_owned(), (column.get)(flow)?.json()))).collect()
}

impl Cell<'_> {
    fn text(&self) -> String {
        match self {
            Cell::Time(utc) => epoch_micros(*utc),
            Cell::Interval(ns) => interval_micros(*ns),
            Cell::Error(ns) => interval_nanos(*ns),
            Cell::Count(n) => n.to_string(),
            Cell::Addr(ip) => ip.to_string(),
            Cell::Text(text) => escaped(text),
        }
    }

    fn json(&self) -> Value {
        match self {
            // Six decimals of today's seconds are what a double can hold.
            Cell::Time(utc) => number(&epoch_micros(*utc)),
            Cell::Interval(ns) => number(&interval_micros(*ns)),
            Cell::Error(ns) => number(&interval_nanos(*ns)),
            Cell::Count(n) => (*n).into(),
            Cell::Addr(ip) => ip.to_string().into(),
            Cell::Text(text) => text.as_ref().into(),
        }
    }
}

fn number(text: &str) -> Value {
    text.parse::<f64>().map_or(Value::Null, Value::from)
}

/// Separators, what cannot be printed and the backslash as `\x09`; a text that would read as "unset" or "empty" too.
fn escaped(text: &str) -> String {
    if text.is_empty() {
        return "(empty)".to_owned();
    }
    let mut out = String::with_capacity(text.len());
    let whole = text == UNSET || text == "(empty)";
    for (index, c) in text.chars().enumerate() {
        if gnomon_flow::escape::is_unsafe(c) || c == '\\' || (whole && index == 0) {
            let mut bytes = [0; 4];
            for byte in c.encode_utf8(&mut bytes).bytes() {
                out.push_str(&format!("\\x{byte:02x}"));
            }
        } else {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::escaped;

    #[test]
    fn nothing_can_end_a_cell_or_a_line() {
        assert_eq!(escaped("a\tb\nc\\d\u{85}"), "a\\x09b\\x0ac\\x5cd\\xc2\\x85");
        assert_eq!((escaped("-").as_str(), escaped("").as_str()), ("\\x2d", "(empty)"));
        assert_eq!(escaped("(empty)"), "\\x28empty)");
        assert_eq!(escaped("eth0-bürо"), "eth0-bürо");
    }
}
