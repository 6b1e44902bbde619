//! Flow records on an output, as JSON, as columns for people, as CSV, or in the forms of others.

use std::io::{self, Write};

use anyhow::Context;
use clap::ValueEnum;
use gnomon_export::{Accept, Carrier, Encoder, Format, Tally, Units};
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
    /// Zeek's conn.log, tab-separated
    Zeek,
    /// Zeek's conn.log, a JSON object a line
    ZeekJson,
    /// Elastic Common Schema, a JSON object a line
    Ecs,
    /// Suricata's EVE events of type flow
    Eve,
    /// IPFIX messages of bidirectional flows; no text: to a file or a pipe
    Ipfix,
}

impl Output {
    /// What the encoder of exports writes.
    fn exported(self) -> Option<Format> {
        match self {
            Output::Jsonl | Output::Json | Output::Table | Output::Csv => None,
            Output::Zeek => Some(Format::Zeek),
            Output::ZeekJson => Some(Format::ZeekJson),
            Output::Ecs => Some(Format::Ecs),
            Output::Eve => Some(Format::Eve),
            Output::Ipfix => Some(Format::Ipfix),
        }
    }

    pub(crate) fn is_binary(self) -> bool {
        self == Output::Ipfix
    }
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
    /// Where a record's JSON is made, again and again.
    line: Vec<u8>,
    output: Output,
    printed: u64,
    exported: Option<Exported>,
}

/// The forms of others, and where they are put together.
struct Exported {
    encoder: Encoder,
    units: Units,
}

impl Exported {
    fn new(format: Format) -> Exported {
        Exported {
            encoder: Encoder::new(format, Carrier::Stream, Accept::default()),
            units: Units::default(),
        }
    }

    fn write(
        &mut self,
        out: &mut impl Write,
        encode: impl FnOnce(&mut Encoder, &mut Units),
    ) -> io::Result<()> {
        self.units.clear();
        encode(&mut self.encoder, &mut self.units);
        out.write_all(self.units.bytes())
    }
}

impl<W: Write> Printer<W> {
    pub(crate) fn new(out: W, output: Output) -> Printer<W> {
        Printer { out, output, line: Vec::new(), printed: 0, exported: output.exported().map(Exported::new) }
    }

    /// What was left out so far, where the form cannot say everything.
    pub(crate) fn tally(&self) -> Tally {
        self.exported.as_ref().map_or_else(Tally::default, |exported| exported.encoder.tally())
    }

    /// What stands before the first flow.
    pub(crate) fn begin(&mut self) -> io::Result<()> {
        if let Some(exported) = &mut self.exported {
            return exported.write(&mut self.out, Encoder::begin);
        }
        match self.output {
            Output::Json => self.out.write_all(b"[")?,
            Output::Table => {
                let header = COLUMNS.map(|(name, width)| format!("{name:<width$}"));
                writeln!(self.out, "{}", header.join(" ").trim_end())?;
            }
            Output::Csv => {
                let names: Vec<&str> = columns().map(|field| field.name).collect();
                writeln!(self.out, "{}", names.join(","))?;
            }
            _ => {}
        }
        Ok(())
    }

    pub(crate) fn print(&mut self, flow: &StoredFlow) -> io::Result<()> {
        if let Some(exported) = &mut self.exported {
            // What is left out is counted.
            return exported.write(&mut self.out, |encoder, units| {
                encoder.record(flow, units).unwrap_or_default();
            });
        }
        match self.output {
            Output::Jsonl => {
                self.line.clear();
                gnomon_export::append_json(&AsJson(flow), &mut self.line);
                self.line.push(b'\n');
                self.out.write_all(&self.line)?;
            }
            Output::Json => {
                self.line.clear();
                self.line.extend_from_slice(if self.printed == 0 { b"\n" } else { b",\n" });
                gnomon_export::append_json(&AsJson(flow), &mut self.line);
                self.out.write_all(&self.line)?;
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
            _ => {}
        }
        self.printed += 1;
        Ok(())
    }

    /// What stands after the last flow; all is written then.
    pub(crate) fn end(mut self) -> anyhow::Result<W> {
        if self.output == Output::Json {
            self.out.write_all(if self.printed == 0 { b"]\n" } else { b"\n]\n" })?;
        }
        if let Some(exported) = &mut self.exported {
            exported.write(&mut self.out, Encoder::flush).context("cannot write to standard output")?;
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
    field.each(flow, &mut |value| values.push(terminal_safe(&value.to_string()).into_owned()));
    let cell = values.join(";");
    if cell.contains([',', '"', '\n', '\r']) { format!("\"{}\"", cell.replace('"', "\"\"")) } else { cell }
}
