//! `gnomon-agent flows`: the records of capture files, on standard output.

use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Args, ValueEnum};
use gnomon_capture::PcapFile;
use gnomon_flow::escape::terminal_safe;
use gnomon_flow::field::{FIELDS, by_name};
use gnomon_flow::json::AsJson;
use gnomon_flow::timestamp::rfc3339;
use gnomon_flow::{AgentId, Field, Origin, StoredFlow, Value};

use crate::config::Config;
use crate::offline::{file_epoch, flows};
use crate::worker::BATCH_FRAMES_MAX;

#[derive(Debug, Args)]
pub(super) struct Flows {
    /// Capture files: pcap or pcapng, plain, gzip or zstd; `-` is standard input
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// The form of the output
    #[arg(long, short, value_enum, default_value_t = Output::Jsonl)]
    output: Output,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
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

impl Flows {
    pub(super) fn run(&self, config: &Config) -> anyhow::Result<()> {
        let mut printer =
            Printer { out: BufWriter::new(io::stdout().lock()), output: self.output, printed: 0 };
        printer.begin()?;
        let mut failed = 0;
        for file in &self.files {
            // What was good in a file is printed; what was not is said, and the next file has its turn.
            if let Err(error) = one_file(file, config, &mut printer) {
                if is_closed_pipe(&error) {
                    return Ok(());
                }
                failed += 1;
                eprintln!("{error:#}");
            }
        }
        match printer.end() {
            Err(error) if is_closed_pipe(&error) => return Ok(()),
            other => other?,
        }
        anyhow::ensure!(failed == 0, "{failed} of {} files could not be read to the end", self.files.len());
        Ok(())
    }
}

/// `| head` has seen enough: that is no error.
fn is_closed_pipe(error: &anyhow::Error) -> bool {
    let kind =
        |cause: &(dyn std::error::Error + 'static)| cause.downcast_ref::<io::Error>().map(io::Error::kind);
    error.chain().any(|cause| kind(cause) == Some(io::ErrorKind::BrokenPipe))
}

fn one_file(path: &Path, config: &Config, printer: &mut Printer<impl Write>) -> anyhow::Result<()> {
    let mut file = PcapFile::open(path)?;
    let name = path.file_name().map_or_else(|| "-".to_owned(), |name| name.to_string_lossy().into_owned());
    // Ids have to be the same at each run, but nothing joins them with others here: the name will do.
    let mut digest = [0u8; 16];
    let checksum = crc32c::crc32c(name.as_bytes()).to_le_bytes();
    digest[..4].copy_from_slice(&checksum);
    let origin = Origin {
        agent: AgentId::default(),
        agent_name: config.name(),
        interface: name,
        epoch: file_epoch(digest),
    };
    let mut written: anyhow::Result<()> = Ok(());
    // The first failure to write stops the printing; the rest of the file is then read for nothing, but for once.
    let read = flows(
        config.table(),
        &origin,
        |sink| file.drain(BATCH_FRAMES_MAX, sink),
        |flow| {
            if written.is_ok() {
                written = printer.print(&flow);
            }
        },
    );
    written?;
    read?;
    let stats = file.stats();
    if let Some(tail) = &stats.truncated_tail {
        eprintln!("{}: {tail}", path.display());
    }
    if stats.oversize + stats.bad_blocks > 0 {
        let (oversize, bad) = (stats.oversize, stats.bad_blocks);
        eprintln!(
            "{}: passed over {oversize} frames above 256 KiB and {bad} unreadable blocks",
            path.display()
        );
    }
    Ok(())
}

struct Printer<W: Write> {
    out: W,
    output: Output,
    printed: u64,
}

impl<W: Write> Printer<W> {
    fn begin(&mut self) -> anyhow::Result<()> {
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

    fn print(&mut self, flow: &StoredFlow) -> anyhow::Result<()> {
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
                            |value| terminal_safe(&text(&value)).into_owned()
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

    fn end(&mut self) -> anyhow::Result<()> {
        if self.output == Output::Json {
            self.out.write_all(if self.printed == 0 { b"]\n" } else { b"\n]\n" })?;
        }
        self.out.flush().context("cannot write to standard output")
    }
}

fn columns() -> impl Iterator<Item = &'static Field> {
    FIELDS.iter().filter(|field| !field.any_of)
}

fn text(value: &Value<'_>) -> String {
    match value {
        Value::Ip(ip) => ip.to_string(),
        Value::Integer(n) => n.to_string(),
        Value::Text(text) => text.to_string(),
        Value::Time(time) => rfc3339(*time),
        Value::Bool(b) => b.to_string(),
    }
}

/// Several values are joined by `;`; quoted as RFC 4180 has it.
fn csv_cell(field: &Field, flow: &StoredFlow) -> String {
    let mut values = Vec::new();
    field.each(flow, &mut |value| values.push(text(&value)));
    let cell = values.join(";");
    if cell.contains([',', '"', '\n', '\r']) { format!("\"{}\"", cell.replace('"', "\"\"")) } else { cell }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A pcap file (nanosecond, little endian, Ethernet) of UDP datagrams between two ports, one second apart.
    pub(in crate::cli) fn udp_pcap(datagrams: u32) -> Vec<u8> {
        let mut file = Vec::new();
        let mut put =
            |words: &[u32]| words.iter().for_each(|word| file.extend_from_slice(&word.to_le_bytes()));
        put(&[0xa1b2_3c4d, 0x0004_0002, 0, 0, 65_535, 1]);
        let mut frame = vec![2; 12];
        frame.extend_from_slice(&[8, 0, 0x45, 0, 0, 32, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        frame.extend_from_slice(&[0x04, 0, 0x08, 0, 0, 12, 0, 0, b'p', b'i', b'n', b'g']);
        let length = frame.len() as u32;
        for second in 0..datagrams {
            [1_700_000_000 + second, 5, length, length]
                .iter()
                .for_each(|word| file.extend_from_slice(&word.to_le_bytes()));
            file.extend_from_slice(&frame);
        }
        file
    }

    fn output_of(output: Output, bytes: &[u8]) -> (String, anyhow::Result<()>) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("udp.pcap");
        std::fs::write(&path, bytes).unwrap();
        let mut printer = Printer { out: Vec::new(), output, printed: 0 };
        printer.begin().unwrap();
        let result = one_file(&path, &Config::default(), &mut printer);
        printer.end().unwrap();
        (String::from_utf8(printer.out).unwrap(), result)
    }

    #[test]
    fn every_form_says_the_same() {
        let file = udp_pcap(3);
        let (jsonl, result) = output_of(Output::Jsonl, &file);
        result.unwrap();
        let flow: serde_json::Value = serde_json::from_str(jsonl.trim_end()).unwrap();
        assert_eq!((&flow["packets"], &flow["ip.src"]), (&3.into(), &"10.0.0.1".into()));
        assert_eq!(flow["starttime"], "2023-11-14T22:13:20.000000005Z");
        let (json, _) = output_of(Output::Json, &file);
        let array: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(array[0], flow);
        let (csv, _) = output_of(Output::Csv, &file);
        let lines: Vec<&str> = csv.lines().collect();
        assert_eq!((lines.len(), lines[0].split(',').count()), (2, lines[1].split(',').count()));
        let (table, _) = output_of(Output::Table, &file);
        assert!(table.contains("10.0.0.1") && table.lines().count() == 2, "{table}");
        assert_eq!(output_of(Output::Json, &udp_pcap(0)).0, "[]\n");
    }

    #[test]
    fn a_cut_file_gives_what_it_has() {
        let mut file = udp_pcap(3);
        file.truncate(file.len() - 7);
        let (jsonl, result) = output_of(Output::Jsonl, &file);
        result.unwrap();
        let flow: serde_json::Value = serde_json::from_str(jsonl.trim_end()).unwrap();
        assert_eq!(flow["packets"], 2);
        assert!(output_of(Output::Jsonl, b"no capture at all, sorry").1.is_err());
    }
}
