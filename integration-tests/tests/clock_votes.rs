//! Who may tell a collector the time that no NTP proves: not whoever reaches its port, nor whoever has just come.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use gnomon_clock::{Clock, KernelClock};
use gnomon_integration_tests::clock_voice::{Pair, Voice};
use gnomon_integration_tests::feeder::RECORDS;
use gnomon_integration_tests::fleet::{Collector, built_binaries, eventually};
use serde_json::Value;

const S: i64 = 1_000_000_000;
const TEN_YEARS: i64 = 315_360_000 * S;

fn now_unix_ns() -> i64 {
    KernelClock.bracket().realtime.unix_ns()
}

/// Where the kernel vouches for its clock, nobody is asked.
fn kernel_vouches() -> bool {
    let vouches = KernelClock.kernel_status().is_ok_and(|status| status.max_error_ns < 1_000_000_000);
    if vouches {
        eprintln!("SKIPPED: this machine's clock is proven by NTP, so a collector asks no fleet");
    }
    vouches
}

/// `gnomon` and what it says, by certificate if there is one.
struct Asks<'a> {
    bin_dir: &'a Path,
    collector: &'a Collector,
    certificates: Option<&'a Path>,
}

impl Asks<'_> {
    fn rows(&self, words: &[&str]) -> Result<Vec<Value>> {
        let mut command = Command::new(self.bin_dir.join("gnomon"));
        let scheme = if self.certificates.is_some() { "https" } else { "http" };
        command.arg("--server").arg(format!("{scheme}://{}", self.collector.grpc));
        if let Some(dir) = self.certificates {
            command.arg("--ca").arg(dir.join("ca.crt"));
        }
        let output = command.args(words).args(["-o", "jsonl"]).stdin(Stdio::null()).output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.code().is_some_and(|code| code < 2), "gnomon {words:?}: {said}");
        std::str::from_utf8(&output.stdout)?
            .lines()
            .map(|line| serde_json::from_str(line).with_context(|| line.to_owned()))
            .collect()
    }

    /// The collector's row, and how far its time is from this machine's clock.
    fn clock(&self) -> Result<Value> {
        let rows = self.rows(&["clock"])?;
        rows.into_iter().find(|row| row["what"] == "collector").context("no collector")
    }

    /// The records of the honest agent lie where they were sent, give or take.
    fn records_are_true(&self) -> Result<()> {
        let flows = self.rows(&["search", "", "-n", "1000"])?;
        ensure!(flows.len() as u64 == RECORDS, "{} records", flows.len());
        for flow in flows {
            let text = flow["starttime"].as_str().context("starttime")?;
            let at = gnomon_flow::timestamp::parse_rfc3339(text).context("a time")?.unix_ns();
            ensure!((at - now_unix_ns()).abs() < 600 * S, "{flow}");
        }
        Ok(())
    }
}

/// How far the collector's time is from this machine's clock, by HTTP.
fn off_by(collector: &Collector) -> Result<i64> {
    let (status, body) = collector.http_get("/api/v1/clock")?;
    ensure!(status == 200, "{status}: {body}");
    let answer: Value = serde_json::from_str(&body)?;
    let now = answer["collector"]["now"].as_str().context("now")?;
    Ok(gnomon_flow::timestamp::parse_rfc3339(now).context("a time")?.unix_ns() - now_unix_ns())
}

#[test]
fn made_up_agents_neither_move_an_unproven_clock_nor_prove_it() -> Result<()> {
    if kernel_vouches() {
        return Ok(());
    }
    let (bin_dir, dir) = (built_binaries()?, tempfile::tempdir()?);
    let settings = ["clock.vote_after=0s"];
    let collector = Collector::start(&bin_dir, &dir.path().join("collector"), &settings)?;
    let asks = Asks { bin_dir: &bin_dir, collector: &collector, certificates: None };
    let _honest = Voice::raise(1, collector.grpc, None, None, true)?;
    eventually("its records are there", 20, || Ok(asks.records_are_true().is_ok()), |there| *there)?;
    let liars: Vec<Voice> = (2..5)
        .map(|agent| Voice::raise(agent, collector.grpc, None, Some(TEN_YEARS), false))
        .collect::<Result<_>>()?;
    let disputed = |row: &Value| row["reason"].as_str().is_some_and(|reason| reason.contains("contradict"));
    let row = eventually("the contradiction is said", 30, || asks.clock(), disputed)?;
    ensure!(row["state"] == "unproven", "{row}");
    // They repeat it.
    for _ in 0..6 {
        std::thread::sleep(std::time::Duration::from_secs(2));
        ensure!(off_by(&collector)?.abs() < S, "{}", off_by(&collector)?);
        let row = asks.clock()?;
        ensure!(row["state"] == "unproven" && row["authority"] == "nobody", "{row}");
        asks.records_are_true()?;
    }
    let events = asks.rows(&["clock", "--events"])?;
    let conflicts = events.iter().filter(|event| event["kind"] == "conflict").count();
    ensure!(conflicts == 1, "said once: {events:?}");
    drop(liars);
    let row = eventually("they are gone", 30, || asks.clock(), |row| !disputed(row))?;
    ensure!(row["state"] == "unproven" && off_by(&collector)?.abs() < S, "{row}");
    asks.records_are_true()
}

#[test]
fn a_time_that_every_certificate_lied_about_is_undone_by_one_command() -> Result<()> {
    if kernel_vouches() {
        return Ok(());
    }
    let (bin_dir, dir) = (built_binaries()?, tempfile::tempdir()?);
    let certificates = dir.path().join("certs");
    let mut certs = Command::new(bin_dir.join("gnomon-collector"));
    certs.arg("certs").arg("--out").arg(&certificates);
    certs.args(["--collector-name", "localhost,127.0.0.1", "--client", "you"]);
    certs.args(["--agent", "a", "--agent", "b", "--agent", "c"]);
    ensure!(certs.output()?.status.success(), "certs");
    let file = |name: &str| certificates.join(name).display().to_string();
    let settings = [
        format!("tls.ca={}", file("ca.crt")),
        format!("tls.certificate={}", file("collector.crt")),
        format!("tls.key={}", file("collector.key")),
        "clock.vote_after=0s".to_owned(),
        // By the time that is a lie, certificates of people are expired.
        "tls.people_need_certificate=false".to_owned(),
    ];
    let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
    let mut collector = Collector::start(&bin_dir, &dir.path().join("collector"), &settings)?;
    let pair = |name: &str| Pair::read(&certificates, &format!("agent-{name}"));
    let off = |collector: &Collector| -> Result<i64> {
        // It is in no row for programs: the text for people has it.
        let mut command = Command::new(bin_dir.join("gnomon"));
        command.arg("--server").arg(format!("https://{}", collector.grpc));
        let output = command.arg("--ca").arg(file("ca.crt")).arg("clock").output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.code().is_some_and(|code| code < 2), "gnomon clock: {said}");
        let text = String::from_utf8(output.stdout)?;
        let now = text.lines().find_map(|line| line.strip_prefix("now: ")?.split(';').next());
        let now = gnomon_flow::timestamp::parse_rfc3339(now.with_context(|| text.clone())?);
        Ok(now.context("a time")?.unix_ns() - now_unix_ns())
    };
    let _records = Voice::raise(1, collector.grpc, Some(pair("c")?), None, true)?;
    {
        let asks = Asks { bin_dir: &bin_dir, collector: &collector, certificates: Some(&certificates) };
        eventually("its records are there", 20, || Ok(asks.records_are_true().is_ok()), |there| *there)?;
    }
    let liars = [
        Voice::raise(2, collector.grpc, Some(pair("a")?), Some(TEN_YEARS), false)?,
        Voice::raise(3, collector.grpc, Some(pair("b")?), Some(TEN_YEARS), false)?,
    ];
    eventually("two of three certificates have it", 40, || off(&collector), |off| *off > TEN_YEARS / 2)?;
    drop(liars);
    let reset = || -> Result<String> {
        let mut command = Command::new(bin_dir.join("gnomon-collector"));
        command.args(["clock", "reset", "--data-dir"]).arg(collector.data_dir());
        let output = command.arg("--config").arg("/dev/null").output()?;
        let said = [output.stdout, output.stderr].map(|said| String::from_utf8_lossy(&said).into_owned());
        ensure!(output.status.success(), "{said:?}");
        Ok(said.concat())
    };
    ensure!(reset()?.contains("goes by its machine's clock"), "it runs");
    ensure!(off(&collector)?.abs() < S, "{}", off(&collector)?);
    collector.kill()?;
    collector.restart()?;
    ensure!(off(&collector)?.abs() < S, "after a kill: {}", off(&collector)?);
    let asks = Asks { bin_dir: &bin_dir, collector: &collector, certificates: Some(&certificates) };
    eventually(
        "the records are back",
        20,
        || Ok(asks.records_are_true().err().map(|e| e.to_string())),
        Option::is_none,
    )?;
    let events = asks.rows(&["clock", "--events"])?;
    let undone =
        events.iter().any(|event| event["text"].as_str().is_some_and(|t| t.starts_with("by command")));
    ensure!(undone, "on record: {events:?}");
    Ok(())
}
