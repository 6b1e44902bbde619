//! Capture files sent to a collector: the same records as printed without one, and once however often they are sent.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use gnomon_integration_tests::capture_file::pcap_file;
use gnomon_integration_tests::fleet::{Collector, Process, built_binaries, eventually, free_address};

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
        agent(&["import", "--config", &config, "--collector", &collector.socket_url()])?;
    }
    let found = || -> Result<Vec<String>> {
        let mut found: Vec<String> = collector.flows("")?.iter().map(words).collect();
        found.sort();
        Ok(found)
    };
    eventually("the records are those that were printed", 20, found, |found| *found == printed)?;
    Ok(())
}

fn files(dir: &Path) -> Result<Vec<PathBuf>> {
    Ok(std::fs::read_dir(dir)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<_>>()?)
}

/// Stopped by each signal, and out of patience, at several moments: an error that says what to do, no panic, nothing left.
/// Meanwhile its spool is where nobody else can look or lead it astray.
#[test]
fn an_import_that_ends_while_the_collector_is_away_ends_cleanly_and_was_private() -> Result<()> {
    let bin_dir = built_binaries()?;
    let dir = tempfile::tempdir()?;
    let (file, config) = (dir.path().join("old.pcap"), dir.path().join("empty.toml"));
    std::fs::write(&file, pcap_file(200))?;
    std::fs::write(&config, "")?;
    let away = format!("http://{}", free_address()?);
    let precious = dir.path().join("precious");
    std::fs::write(&precious, "precious")?;
    for (round, signal) in
        [Some("INT"), Some("TERM"), Some("INT"), Some("TERM"), None].into_iter().enumerate()
    {
        let tmp = dir.path().join(format!("tmp{round}"));
        std::fs::create_dir(&tmp)?;
        // The shell becomes the import, so that its process id is known before it begins.
        let mut command = Command::new("sh");
        let words = r#"umask 0; ln -s "$3" "$TMPDIR/gnomon-import-$$"; exec "$0" import --set tls.insecure=true --patience 3 --collector "$2" --config "$1" "$4""#;
        command.args(["-c", words]).arg(bin_dir.join("gnomon-agent")).args([
            &config,
            Path::new(&away),
            &dir.path().join("stolen"),
            &file,
        ]);
        command.env("TMPDIR", &tmp);
        std::fs::create_dir_all(dir.path().join("stolen"))?;
        let _ = symlink(&precious, dir.path().join("stolen/ledger.new"));
        let mut process = Process::spawn(command, dir.path().join(format!("log{round}")))?;
        let spools = || -> Result<Vec<PathBuf>> {
            Ok(files(&tmp)?.into_iter().filter(|path| !path.is_symlink()).collect())
        };
        let has_files = |spools: &Vec<PathBuf>| {
            spools.first().is_some_and(|spool| files(spool).is_ok_and(|f| f.len() > 1))
        };
        let spool = eventually("the spool is filled", 20, spools, has_files)?.remove(0);
        let mode =
            |path: &Path| Ok::<u32, std::io::Error>(std::fs::metadata(path)?.permissions().mode() & 0o7777);
        ensure!(mode(&spool)? == 0o700, "{:o}", mode(&spool)?);
        for file in files(&spool)? {
            ensure!(mode(&file)? == 0o600, "{}: {:o}", file.display(), mode(&file)?);
        }
        std::thread::sleep(Duration::from_millis(150 * round as u64));
        if let Some(signal) = signal {
            process.signal(signal)?;
        }
        eventually("it ends", 20, || process.has_ended(), |ended| *ended)?;
        let said = process.said();
        let expected = if signal.is_some() {
            "stopped before everything was durable"
        } else {
            "made nothing durable for 3 s"
        };
        ensure!(said.contains(expected) && said.contains("import again"), "{said}");
        ensure!(!said.contains("panicked") && !said.contains("RUST_BACKTRACE"), "{said}");
        ensure!(spools()?.is_empty(), "{:?} is left", spools()?);
        ensure!(std::fs::read_to_string(&precious)? == "precious", "a link was followed");
        ensure!(files(&dir.path().join("stolen"))?.len() == 1, "the spool was led astray");
    }
    Ok(())
}
