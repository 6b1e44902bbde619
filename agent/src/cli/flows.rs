//! `gnomon-agent flows`: the records of capture files, on standard output.

use std::io::{self, BufWriter, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use gnomon_capture::{FileStats, INTERFACES_APART_MAX, PcapFile, Sieve};
use gnomon_flow::{AgentId, Origin};

use crate::config::Config;
use crate::offline::{FileName, file_epoch, flows};
use crate::output::{Output, Printer};
use crate::rules::{Keep, Rules};
use crate::worker::BATCH_FRAMES_MAX;

#[derive(Debug, Args)]
pub(super) struct Flows {
    /// Capture files: pcap or pcapng, plain or packed with gzip, zstd, xz or bzip2; `-` is standard input
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// The form of the output
    #[arg(long, short, value_enum, default_value_t = Output::Jsonl)]
    output: Output,
    /// Apply the configuration's rules: their tags are in the output, and what they ignore is not
    #[arg(long)]
    rules: bool,
}

impl Flows {
    /// `filter` is of the command line: one in the configuration is for interfaces.
    pub(super) fn run(&self, config: &Config, filter: Option<&str>) -> anyhow::Result<()> {
        anyhow::ensure!(
            !self.output.is_binary() || !io::stdout().is_terminal(),
            "IPFIX is no text: send standard output to a file or a pipe"
        );
        let mut sieve = filter.map(Sieve::new).transpose()?;
        let rules =
            Arc::new(if self.rules { config.rules_of_records()? } else { Rules::keep(Keep::Nothing) });
        let mut printer = Printer::new(BufWriter::new(io::stdout().lock()), self.output);
        printer.begin()?;
        let mut failed = 0;
        for file in &self.files {
            // What was good in a file is printed; what was not is said, and the next file has its turn.
            if let Err(error) = one_file(file, config, &rules, sieve.as_mut(), &mut printer) {
                if is_closed_pipe(&error) {
                    return Ok(());
                }
                failed += 1;
                eprintln!("{}", gnomon_flow::causes::in_one_line(error.as_ref()));
            }
        }
        let left = printer.tally().words();
        match printer.end() {
            Err(error) if is_closed_pipe(&error) => return Ok(()),
            other => drop(other?),
        }
        if let Some(left) = left {
            eprintln!("{left}");
        }
        if let Some(sieve) = &sieve {
            if let Some(error) = sieve.failed() {
                eprintln!("frames of a link type without a filter were left out: {error}");
                failed += 1;
            }
            eprintln!("the filter left out {} frames", sieve.filtered().0);
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

fn one_file(
    path: &Path,
    config: &Config,
    rules: &Arc<Rules>,
    mut sieve: Option<&mut Sieve>,
    printer: &mut Printer<impl Write>,
) -> anyhow::Result<()> {
    let mut file = PcapFile::open(path)?;
    let name = path.file_name().map_or_else(|| "-".to_owned(), |name| name.to_string_lossy().into_owned());
    // Ids have to be the same at each run, but nothing joins them with others here: the name will do.
    let mut digest = [0u8; 16];
    let checksum = crc32c::crc32c(name.as_bytes()).to_le_bytes();
    digest[..4].copy_from_slice(&checksum);
    let origin = Origin {
        agent: AgentId::default(),
        agent_name: config.name().into(),
        interface: Default::default(),
        epoch: file_epoch(digest),
    };
    let name = FileName::new(&name);
    let mut written: io::Result<()> = Ok(());
    // The first failure to write stops the printing; the rest of the file is then read for nothing, but for once.
    let read = flows(
        config.table(),
        rules,
        &origin,
        &name,
        |sink| {
            file.drain_by_interface(BATCH_FRAMES_MAX, |number, interface, frames| match &mut sieve {
                Some(sieve) => sieve.sift(frames, |frames: &[_]| sink(number, interface, frames)),
                None => sink(number, interface, frames),
            })
        },
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
    if let Some(words) = torn(stats) {
        anyhow::bail!("{}: {words}", path.display());
    }
    if stats.interfaces_together > 0 {
        eprintln!("{}: {}", path.display(), together(stats.interfaces_together));
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

/// Of damage that was passed over.
pub(super) fn torn(stats: &FileStats) -> Option<String> {
    if stats.torn == 0 {
        return None;
    }
    let places: Vec<String> =
        stats.torn_places.iter().map(|torn| format!("{} bytes at {}", torn.bytes, torn.offset)).collect();
    let more = stats.torn.saturating_sub(places.len() as u64);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    Some(format!(
        "damaged in {} places, {} bytes were passed over up to the next packet: {}{more}",
        stats.torn,
        stats.torn_bytes,
        places.join(", ")
    ))
}

/// Of interfaces beyond those that are told apart.
pub(super) fn together(interfaces: u64) -> String {
    format!("{interfaces} interfaces beyond the first {INTERFACES_APART_MAX} are told as one, \"(others)\"")
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::config::RuleConfig;

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
        output_by(output, bytes, Rules::keep(Keep::Nothing), None)
    }

    fn output_by(
        output: Output,
        bytes: &[u8],
        rules: Rules,
        sieve: Option<&mut Sieve>,
    ) -> (String, anyhow::Result<()>) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("udp.pcap");
        std::fs::write(&path, bytes).unwrap();
        let mut printer = Printer::new(Vec::new(), output);
        printer.begin().unwrap();
        let result = one_file(&path, &Config::default(), &Arc::new(rules), sieve, &mut printer);
        (String::from_utf8(printer.end().unwrap()).unwrap(), result)
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
    fn rules_and_a_filter_are_tried_on_a_file() {
        let text = |when: &str, ignore| RuleConfig {
            name: "r".into(),
            when: when.into(),
            tag: if ignore { Vec::new() } else { vec!["seen".into()] },
            keep: None,
            ignore,
        };
        let of = |rule| Config { rules: vec![rule], ..Config::default() }.rules_of_records().unwrap();
        let file = udp_pcap(3);
        let (tagged, _) = output_by(Output::Jsonl, &file, of(text("interface == udp.pcap", false)), None);
        let flow: serde_json::Value = serde_json::from_str(tagged.trim_end()).unwrap();
        assert_eq!((&flow["tags"], &flow["stored.packets"]), (&serde_json::json!(["seen"]), &0.into()));
        let (ignored, result) = output_by(Output::Jsonl, &file, of(text("port == 2048", true)), None);
        result.unwrap();
        assert_eq!(ignored, "");
        for (filter, flows, left_out) in [("udp port 2048", 1, 0), ("tcp", 0, 3)] {
            let mut sieve = match Sieve::new(filter) {
                Ok(sieve) => sieve,
                Err(error) => return println!("SKIPPED: {error}"),
            };
            let rules = Rules::keep(Keep::Nothing);
            let (lines, result) = output_by(Output::Jsonl, &file, rules, Some(&mut sieve));
            result.unwrap();
            assert_eq!((lines.lines().count(), sieve.filtered().0), (flows, left_out), "{filter}");
        }
    }

    /// A pcapng file of two interfaces that see the same datagram in turn.
    pub(in crate::cli) fn two_interfaces(datagrams: u32) -> Vec<u8> {
        let block = |kind: u32, body: &[u8]| {
            let length = 12 + body.len() as u32;
            [&kind.to_le_bytes()[..], &length.to_le_bytes(), body, &length.to_le_bytes()].concat()
        };
        let words = |words: &[u32]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>();
        let mut file = block(0x0a0d_0d0a, &words(&[0x1a2b_3c4d, 1, u32::MAX, u32::MAX]));
        for name in [b"lan0", b"w\x1b]0"] {
            file.extend(block(1, &[&words(&[1, 0, 2 | 4 << 16])[..], name, &words(&[0])].concat()));
        }
        let frame = &udp_pcap(1)[40..];
        let padding = vec![0; frame.len().next_multiple_of(4) - frame.len()];
        for n in 0..datagrams {
            let length = frame.len() as u32;
            let head = words(&[n % 2, 380_000, n, length, length]);
            file.extend(block(6, &[&head[..], frame, &padding].concat()));
        }
        file
    }

    #[test]
    fn interfaces_of_a_file_have_flows_of_their_own() {
        let file = two_interfaces(4);
        let (lines, result) = output_of(Output::Jsonl, &file);
        result.unwrap();
        let flows: Vec<serde_json::Value> =
            lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let of: Vec<_> = flows.iter().map(|flow| (&flow["interface"], &flow["packets"])).collect();
        assert_eq!(of, [(&"lan0".into(), &2.into()), (&"w\\u{1b}]0".into(), &2.into())], "{lines}");
        assert!(flows.iter().all(|flow| flow["file"] == serde_json::json!(["udp.pcap"])), "{lines}");
    }

    #[test]
    fn the_forms_of_others_have_the_same_record() {
        let file = udp_pcap(3);
        for output in [Output::ZeekJson, Output::Ecs, Output::Eve] {
            let (lines, result) = output_of(output, &file);
            result.unwrap();
            assert_eq!(lines.lines().count(), 1, "{output:?}");
            assert!(lines.contains("\"10.0.0.1\""), "{output:?}: {lines}");
        }
        let (zeek, _) = output_of(Output::Zeek, &file);
        assert!(zeek.starts_with("#separator") && zeek.contains("\t10.0.0.1\t"), "{zeek}");
        assert_eq!(output_of(Output::Zeek, &udp_pcap(0)).0.lines().count(), 7);
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
