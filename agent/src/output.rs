//! Flow records on an output, as JSON, as columns for people, or as CSV.

use std::io::{self, Write};

use anyhow::Context;
use clap::ValueEnum;
use gnomon_flow::escape::terminal_safe;
use gnomon_flow::field::{FIELDS, by_name};
use gnomon_flow::json::AsJson;
use gnomon_flow::{Field, StoredFlow};

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// One JSON object a line; the keys are the names of the search language
    Jsonl,
    /// One JSON array
    Json,
    /// Columns for people
    Table,
    /// Every field, with a line of names first
    Csv,
}

const COLUMNS: [(&str, usize); 9] = [
    ("starttime", 30),
    ("ip.protocol", 6),
    ("ip.src", 15),
    ("port.src", 5),
    ("ip.dst", 15),
    ("port.dst", 5),
    ("packets", 8),
    ("bytes", 10),
    ("end.reason", 12),
];

/// Writes flows one by one as they come.
pub(crate) struct Printer<W: Write> {
    out: W,
    output: Output,
    printed: u64,
}

impl<W: Write> Printer<W> {
    pub(crate) fn new(out: W, output: Output) -> Printer<W> {
        Printer { out, output, printed: 0 }
    }

    /// What stands before the first flow.
    pub(crate) fn begin(&mut self) -> io::Result<()> {
        match self.output {
            Output::Jsonl => {}
            Output::Json => self.out.write_all(b"[")?,
            Output::Table => {
                let header = COLUMNS.map(|(name, width)| format!("{name:<width$}"));
                writeln!(self.out, "{}", header.join(" ").trim_end())?;
            }
            Output::Csv => {
                let names: Vec<&str> = columns().map(|field| field.name).collect();
                writeln!(self.out, "{}", names.join(","))?;
            }
        }
        Ok(())
    }

    pub(crate) fn print(&mut self, flow: &StoredFlow) -> io::Result<()> {
        match self.output {
            Output::Jsonl => {
                serde_json::to_writer(&mut self.out, &AsJson(flow)).map_err(io::Error::from)?;
                self.out.write_all(b"\n")?;
            }
            Output::Json => {
                self.out.write_all(if self.printed == 0 { b"\n" } else { b",\n" })?;
                serde_json::to_writer(&mut self.out, &AsJson(flow)).map_err(io::Error::from)?;
            }
            Output::Table => {
                let cells = COLUMNS.map(|(name, width)| {
                    let value = by_name(name).and_then(|field| field.first(flow));
                    format!(
                        "{:<width$}",
                        value.map_or_else(
                            || "-".to_owned(),
                            |value| terminal_safe(&value.to_string()).into_owned()
                        )
                    )
                });
                writeln!(self.out, "{}", cells.join(" ").trim_end())?;
            }
            Output::Csv => {
                let cells: Vec<String> = columns().map(|field| csv_cell(field, flow)).collect();
                writeln!(self.out, "{}", cells.join(","))?;
            }
        }
        self.printed += 1;
        Ok(())
    }

    /// What stands after the last flow; all is written then.
    pub(crate) fn end(mut self) -> anyhow::Result<W> {
        if self.output == Output::Json {
            self.out.write_all(if self.printed == 0 { b"]\n" } else { b"\n]\n" })?;
        }
        self.out.flush().context("cannot write to standard output")?;
        Ok(self.out)
    }
}

fn columns() -> impl Iterator<Item = &'static Field> {
    FIELDS.iter().filter(|field| !field.any_of)
}

/// Several values are joined by `;`; quoted as RFC 4180 has it.
fn csv_cell(field: &Field, flow: &StoredFlow) -> String {
    let mut values = Vec::new();
    field.each(flow, &mut |value| values.push(value.to_string()));
    let cell = values.join(";");
    if cell.contains([',', '"', '\n', '\r']) { format!("\"{}\"", cell.replace('"', "\"\"")) } else { cell }
}
