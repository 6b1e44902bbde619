//! A collector's traces reach an OTLP receiver: the way of an entry, and of a question.

use anyhow::{Result, ensure};
use gnomon_integration_tests::fleet::{Collector, built_binaries, eventually};
use gnomon_integration_tests::flood::{Flood, Rate};
use gnomon_integration_tests::otlp_receiver::OtlpReceiver;

#[test]
fn the_ways_of_an_entry_and_of_a_question_are_traced() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let receiver = match OtlpReceiver::start(dir.path()) {
        Ok(receiver) => receiver,
        Err(reason) => {
            println!("SKIPPED: no OTLP receiver to test against: {reason:#}");
            return Ok(());
        }
    };
    let endpoint = format!("telemetry.otlp_endpoint={}", receiver.endpoint());
    let mut collector = Collector::start(&built_binaries()?, dir.path(), &[&endpoint])?;
    let flood = Flood::start(
        collector.grpc,
        1,
        Rate { records: 20, entries_a_second: 100, entries: 100, open_for: 0 },
    )?;
    eventually("entries are stored", 60, || Ok(flood.fate().entries_acked), |acked| *acked == 100)?;
    let (status, _) = collector.http_get("/api/v1/search?limit=10")?;
    let (code, ..) = collector.gnomon(&["search", "", "-n", "10"])?;
    ensure!(status == 200 && code == 0, "{status} {code}");
    ensure!(collector.stop()? == Some(0), "the collector does not end well");
    let names = ["entry", "check", "commit", "question", "parse", "plan", "wait", "execute", "shape", "send"];
    let missing = |received: &String| {
        names.iter().filter(|name| !received.lines().any(|line| is_name(line, name))).count()
    };
    let received = eventually("all spans came", 20, || Ok(receiver.received()), |text| missing(text) == 0)?;
    // Of 100 entries and what a session begins with two are traced.
    let entries = received.lines().filter(|line| is_name(line, "entry")).count();
    ensure!((1..=4).contains(&entries), "{entries} entries are traced");
    Ok(())
}

/// Whether a line gives the name of a span.
fn is_name(line: &str, name: &str) -> bool {
    line.split_once("Name").is_some_and(|(_, rest)| rest.trim_matches([':', ' ', '"', ',', '\t']) == name)
}
