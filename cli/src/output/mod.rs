//! Answers on stdout: as a table for people, as JSON, JSON lines or CSV for programs.

mod flows;

use std::io::{self, Write};

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use gnomon_flow::escape::{terminal_safe, terminal_safe_json};
use serde_json::{Map, Value};

use crate::arguments::Format;

pub(crate) use flows::{FlowWriter, flow_sheet};

/// A whole answer as JSON, or the rows under `rows` a line each; where there are none, the answer on a line.
pub(crate) fn print_json(format: Format, answer: &Value, rows: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match (format, answer.get(rows).and_then(Value::as_array)) {
        (Format::Jsonl, Some(rows)) => {
            for row in rows {
                writeln!(out, "{}", terminal_safe_json(&row.to_string()))?;
            }
        }
        (Format::Jsonl, None) => writeln!(out, "{}", terminal_safe_json(&answer.to_string()))?,
        _ => writeln!(out, "{}", terminal_safe_json(&serde_json::to_string_pretty(answer)?))?,
    }
    out.flush()
}

/// An answer of rows and columns. Names of columns are the keys in JSON.
#[derive(Debug, Default)]
pub(crate) struct Sheet {
    pub(crate) columns: Vec<String>,
    pub(crate) rows: Vec<Vec<Cell>>,
}

/// What stands where a row and a column meet: a text, a number, yes or no, several texts, or nothing.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Cell(Value);

impl Cell {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_null()
    }

    /// As one text for a column of CSV: a spreadsheet takes no text for a formula.
    fn in_csv(&self) -> String {
        match &self.0 {
            Value::String(_) | Value::Array(_) => gnomon_export::disarmed(self.shown()),
            _ => self.shown(),
        }
    }

    /// As one text, as it can be shown: what stands in it may be what somebody wrote into a packet.
    fn shown(&self) -> String {
        terminal_safe(&plain(&self.0)).into_owned()
    }
}

macro_rules! cell_from {
    ($($from:ty),*) => {
        $(impl From<$from> for Cell {
            fn from(value: $from) -> Cell {
                Cell(value.into())
            }
        })*
    };
}

cell_from!(&str, String, bool, u64, i64, f64, Vec<String>, Option<String>, Option<i64>, Option<u64>);

impl Sheet {
    pub(crate) fn new(columns: &[&str]) -> Sheet {
        Sheet { columns: columns.iter().map(|c| (*c).to_owned()).collect(), rows: Vec::new() }
    }

    /// For programs as `answer`, whose rows stand under a name; else as the sheet.
    pub(crate) fn print_or(
        &self,
        format: Format,
        answer: impl FnOnce() -> Value,
        rows: &str,
    ) -> io::Result<()> {
        if format.is_json() { print_json(format, &answer(), rows) } else { self.print(format) }
    }

    /// Write the whole sheet.
    pub(crate) fn print(&self, format: Format) -> io::Result<()> {
        let mut out = io::stdout().lock();
        match format {
            Format::Table => writeln!(out, "{}", self.table())?,
            Format::Csv => {
                let mut csv = csv::Writer::from_writer(&mut out);
                csv.write_record(&self.columns)?;
                for row in &self.rows {
                    csv.write_record(row.iter().map(Cell::in_csv))?;
                }
                csv.flush()?;
            }
            Format::Json => {
                let objects: Vec<Value> = self.objects().collect();
                writeln!(out, "{}", terminal_safe_json(&serde_json::to_string_pretty(&objects)?))?;
            }
            Format::Jsonl => {
                for object in self.objects() {
                    writeln!(out, "{}", terminal_safe_json(&object.to_string()))?;
                }
            }
        }
        out.flush()
    }

    /// The table, line by line.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.table().lines().collect()
    }

    fn objects(&self) -> impl Iterator<Item = Value> {
        self.rows.iter().map(|row| {
            let pairs = self.columns.iter().cloned().zip(row.iter().map(|cell| cell.0.clone()));
            Value::Object(pairs.filter(|(_, value)| !value.is_null()).collect::<Map<_, _>>())
        })
    }

    fn table(&self) -> Table {
        let mut table = Table::new();
        table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
        table.set_header(self.columns.iter().map(|c| c.to_uppercase()));
        for row in &self.rows {
            table.add_row(row.iter().map(Cell::shown));
        }
        let numeric = |column: usize| self.rows.iter().any(|row| row[column].0.is_number());
        for column in 0..self.columns.len() {
            if let Some(settings) = table.column_mut(column) {
                settings.set_padding((0, 2));
                if numeric(column) {
                    settings.set_cell_alignment(CellAlignment::Right);
                }
            }
        }
        table
    }
}

fn plain(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Array(values) => values.iter().map(plain).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}

/// `1.2 k`, `34 M`: for people only.
pub(crate) fn human(n: f64) -> String {
    let units = ["", " k", " M", " G", " T", " P"];
    let mut scaled = n;
    let mut unit = 0;
    while scaled >= 1000.0 && unit + 1 < units.len() {
        scaled /= 1000.0;
        unit += 1;
    }
    if unit == 0 { format!("{scaled:.0}") } else { format!("{scaled:.1}{}", units[unit]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_is_a_formula_to_a_spreadsheet() {
        let texts = |values: &[&str]| values.iter().map(|value| (*value).to_owned()).collect::<Vec<_>>();
        assert_eq!(Cell::from("=cmd|' /C calc'!A0").in_csv(), "'=cmd|' /C calc'!A0");
        assert_eq!(Cell::from(texts(&["@a", "b"])).in_csv(), "'@a,b");
        assert_eq!((Cell::from(-5i64).in_csv(), Cell::from("a=b").in_csv()), ("-5".into(), "a=b".into()));
        assert!(!Cell::from("\x1b[2J").in_csv().contains('\x1b'));
    }

    #[test]
    fn numbers_for_people_are_short() {
        assert_eq!(human(0.0), "0");
        assert_eq!(human(999.0), "999");
        assert_eq!(human(1_500.0), "1.5 k");
        assert_eq!(human(2.5e13), "25.0 T");
    }
}
