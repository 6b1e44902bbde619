//! Capture files sent to a collector: the same records as printed without one, and once however often they are sent.

use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, ensure};
use gnomon_integration_tests::capture_file::pcap_file;
use gnomon_integration_tests::fleet::{Collector, built_binaries, eventually};

/// What a record says of its packets, without where it came from.
fn words(record: &serde_json::Value) -> String {
    let keys = [
        "starttime",
        "stoptime",
        "ip.src",
        "port.src",
        "ip.dst",
        "port.dst",
        "packets",
        "bytes",
        "databytes",
        "communityId",
    ];
    keys.map(|key| format!("{key} {}", record[key])).join(", ")
}

#[test]
fn an_imported_file_has_the_records_that_are_printed_without_a_collector_and_has_them_once() -> Result<()> {
    let bin_dir = built_binaries()?;
    let dir = tempfile::tempdir()?;
    let collector = Collector::start(&bin_dir, &dir.path().join("collector"), &[])?;
    let (file, config) = (dir.path().join("old.pcap"), dir.path().join("empty.toml"));
    std::fs::write(&file, pcap_file(200))?;
    std::fs::write(&config, "")?;
    let agent = |arguments: &[&str]| -> Result<Output> {
        let mut command = Command::new("timeout");
        command.arg("60").arg(bin_dir.join("gnomon-agent")).args(arguments).arg(&file);
        let output = command.stdin(Stdio::null()).output().context("run gnomon-agent")?;
        ensure!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(output)
    };
    let printed = agent(&["flows", "--output", "jsonl"])?.stdout;
    let mut printed: Vec<String> = std::str::from_utf8(&printed)?
        .lines()
        .map(|line| Ok(words(&serde_json::from_str(line)?)))
        .collect::<Result<_>>()?;
    printed.sort();
    ensure!(!printed.is_empty(), "no records were printed");
    let config = config.display().to_string();
    for _ in 0..3 {
        agent(&["import", "--config", &config, "--collector", &collector.url()])?;
    }
    let found = || -> Result<Vec<String>> {
        let mut found: Vec<String> = collector.flows("")?.iter().map(words).collect();
        found.sort();
        Ok(found)
    };
    eventually("the records are those that were printed", 20, found, |found| *found == printed)?;
    Ok(())
}
