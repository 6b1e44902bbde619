//! A collector whose disk fails: writes and syncs that return errors, for a while or for good. Nothing is acknowledged that
//! is not durable, searches go on, the collector says what is wrong, and goes on by itself when the disk does.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use gnomon_integration_tests::faults::{Control, Failure, Faults, kind};
use gnomon_integration_tests::feeder::{Feeder, Session};
use gnomon_integration_tests::fleet::{Collector, built_binaries, eventually};

/// A collector with some data on a disk that can fail, and the agent that feeds it.
struct Rig {
    control: Control,
    feeder: Feeder,
    collector: Collector,
    session: Option<Session>,
    _dir: tempfile::TempDir,
}

impl Rig {
    fn new(seed: u64) -> Result<Option<Rig>> {
        let bin_dir = built_binaries()?;
        let dir = tempfile::tempdir()?;
        let Some(control) = Control::new(dir.path(), seed)? else { return Ok(None) };
        let home = dir.path().join("collector");
        fs::create_dir_all(home.join("data"))?;
        let environment = control.environment(&home.join("data"), None);
        let settings = ["retention.packets_max=64MiB", "retention.free_min=0B"];
        let collector = Collector::start_with(&bin_dir, &home, &settings, environment)?;
        let feeder = Feeder::new(1)?;
        let mut rig = Rig { control, feeder, collector, session: None, _dir: dir };
        rig.goes_on("at the start", 30)?;
        Ok(Some(rig))
    }

    /// Waits until much more was acknowledged than now.
    fn goes_on(&mut self, when: &str, seconds: u64) -> Result<()> {
        let before = self.feeder.told().acknowledged;
        self.session = Some(self.feeder.feed(self.collector.grpc, None));
        eventually(
            &format!("it goes on {when}"),
            seconds,
            || Ok(self.feeder.told().acknowledged),
            |now| *now > before + 40,
        )
        .with_context(|| self.said())?;
        Ok(())
    }

    fn said(&mut self) -> String {
        let said = self.collector.process().map(|process| process.said()).unwrap_or_default();
        said.lines().rev().take(15).collect::<Vec<_>>().join("\n")
    }

    /// What it says of itself: whether it is ready, its status, a counter of its metrics.
    fn ready(&self) -> Result<(u16, String)> {
        self.collector.http_get("/readyz")
    }

    fn metric(&self, name: &str) -> Result<u64> {
        let (_, text) = self.collector.http_get("/metrics")?;
        let line = text
            .lines()
            .find(|line| line.starts_with(name))
            .with_context(|| format!("no {name} in {text}"))?;
        let value = line.rsplit(' ').next().and_then(|value| value.parse::<f64>().ok());
        Ok(value.with_context(|| format!("{line:?}"))? as u64)
    }

    fn still_runs(&mut self) -> Result<()> {
        let ended = self.collector.process()?.has_ended()?;
        ensure!(!ended, "the collector ended:\n{}", self.said());
        Ok(())
    }

    /// Nothing acknowledged is missing and nothing is there twice, now and behind a restart, on disk too.
    fn all_is_well(mut self) -> Result<()> {
        self.session = None;
        let acknowledged = self.feeder.told().acknowledged;
        self.feeder.check(&self.collector, acknowledged)?;
        ensure!(self.collector.stop()? == Some(0), "the collector stops cleanly");
        let (code, said) = self.collector.verify()?;
        ensure!(code == 0, "verify ended with {code}: {said}");
        self.collector.restart()?;
        self.feeder.check(&self.collector, acknowledged)
    }
}

/// Fails as said for a while. Ingest has to stop, to be said, and to go on.
fn outage(rig: &mut Rig, what: &str, faults: Faults) -> Result<()> {
    rig.control.set(faults)?;
    let (status, said) = eventually(
        &format!("{what}: it says that it takes nothing in"),
        20,
        || rig.ready(),
        |(status, _)| *status == 503,
    )
    .with_context(|| rig.said())?;
    println!("{what}: {status} {}", said.trim());
    // What was acknowledged before is still on its way.
    std::thread::sleep(Duration::from_millis(500));
    let stood = rig.feeder.told().acknowledged;
    std::thread::sleep(Duration::from_secs(2));
    rig.still_runs()?;
    let now = rig.feeder.told().acknowledged;
    ensure!(now == stood, "{what}: {} entries were acknowledged by a disk that keeps nothing", now - stood);
    rig.feeder.check(&rig.collector, stood).with_context(|| format!("{what}: searches go on"))?;
    let (_, body) = rig.collector.http_get("/api/v1/status")?;
    let status: serde_json::Value = serde_json::from_str(&body).with_context(|| body.clone())?;
    let stopped =
        status["stopped"].as_str().with_context(|| format!("the status says nothing of it: {body}"))?;
    ensure!(stopped.contains("error") || stopped.contains("space"), "{what}: {stopped}");
    rig.control.set(Faults::NONE)?;
    rig.goes_on(what, 60)?;
    eventually(
        &format!("{what}: it says that all is well"),
        10,
        || rig.ready(),
        |(status, _)| *status == 200,
    )?;
    Ok(())
}

const ALWAYS: (u64, u64) = (0, u64::MAX);

#[test]
fn a_disk_that_fails_stops_ingest_and_not_searches_until_it_is_mended() -> Result<()> {
    let Some(mut rig) = Rig::new(1)? else { return Ok(()) };
    for (what, kinds) in [("the log", kind::LOG), ("packets", kind::SEGMENT), ("everything", kind::ALL)] {
        outage(&mut rig, &format!("syncs of {what}"), Faults { kinds, syncs: ALWAYS, ..Faults::NONE })?;
        outage(&mut rig, &format!("writes of {what}"), Faults { kinds, writes: ALWAYS, ..Faults::NONE })?;
        let full = Faults { kinds, writes: ALWAYS, failure: Failure::Enospc, ..Faults::NONE };
        outage(&mut rig, &format!("no space for {what}"), full)?;
    }
    ensure!(rig.metric("gnomon_collector_store_reopened")? > 0, "the database was opened anew");
    ensure!(rig.metric("gnomon_collector_store_write_failures")? > 0, "failures are counted");
    ensure!(rig.metric("gnomon_collector_store_lost")? == 0, "nothing is lost");
    rig.all_is_well()
}

#[test]
fn short_writes_are_written_on() -> Result<()> {
    let Some(mut rig) = Rig::new(2)? else { return Ok(()) };
    rig.control.set(Faults { writes: ALWAYS, failure: Failure::Short, ..Faults::NONE })?;
    rig.goes_on("with short writes", 30)?;
    ensure!(rig.control.seen()?.writes_failed > 100, "{:?}", rig.control.seen()?);
    rig.control.set(Faults::NONE)?;
    rig.all_is_well()
}

/// What was being written is in the log or not, and its packets must not be cut off as if it were not.
#[test]
fn a_collector_that_is_stopped_while_its_log_cannot_be_synced_loses_nothing() -> Result<()> {
    let Some(mut rig) = Rig::new(3)? else { return Ok(()) };
    rig.control.set(Faults { kinds: kind::LOG, syncs: ALWAYS, ..Faults::NONE })?;
    eventually("it stops taking in", 20, || rig.ready(), |(status, _)| *status == 503)?;
    rig.session = None;
    rig.collector.stop()?;
    rig.control.set(Faults::NONE)?;
    let (code, said) = rig.collector.verify()?;
    ensure!(code == 0, "verify ended with {code}: {said}");
    rig.collector.restart()?;
    rig.goes_on("after the restart", 30)?;
    ensure!(rig.metric("gnomon_collector_store_lost")? == 0, "packets that were acknowledged are missing");
    rig.all_is_well()
}

/// A sync fails, and when the database is to be opened anew it turns out that it cannot be: for a while, then for good. The
/// one that is open is read meanwhile, and nobody has to restart anything once the file is there again.
#[test]
fn a_corrupt_database_is_left_alone_said_once_and_read_as_far_as_it_can_be() -> Result<()> {
    let Some(mut rig) = Rig::new(4)? else { return Ok(()) };
    let db = rig._dir.path().join("collector/data/db");
    let mut stood = 0;
    for what in ["CURRENT", "MANIFEST"] {
        // Each opening begins another one.
        let named = fs::read_to_string(db.join("CURRENT"))?;
        let path = db.join(if what == "CURRENT" { what } else { named.trim() });
        let before = fs::read(&path)?;
        // Its first record: what follows can be read by nobody.
        fs::write(&path, [b"nonsense".as_slice(), before.get(8..).unwrap_or_default()].concat())?;
        rig.control.set(Faults { kinds: kind::LOG, syncs: ALWAYS, ..Faults::NONE })?;
        eventually(
            &format!("{what}: it takes nothing in"),
            20,
            || rig.ready(),
            |(status, _)| *status == 503,
        )?;
        rig.control.set(Faults::NONE)?;
        let (_, said) = eventually(
            &format!("{what}: it says that the database is corrupt, and what can be done"),
            20,
            || rig.ready(),
            |(_, said)| said.contains("Corruption") && said.contains("gnomon-collector verify"),
        )
        .with_context(|| rig.said())?;
        println!("{what}: {}", said.trim());
        std::thread::sleep(Duration::from_millis(500));
        stood = rig.feeder.told().acknowledged;
        let reopened = rig.metric("gnomon_collector_store_reopened")?;
        std::thread::sleep(Duration::from_secs(4));
        rig.still_runs()?;
        ensure!(rig.feeder.told().acknowledged == stood, "{what}: entries were acknowledged");
        ensure!(rig.metric("gnomon_collector_store_reopened")? == reopened, "{what}: it was opened");
        rig.feeder.check(&rig.collector, stood).with_context(|| format!("{what}: searches go on"))?;
        let log = rig.collector.process()?.said();
        let times = log.matches("the database is corrupt").count();
        ensure!(times == if what == "CURRENT" { 1 } else { 2 }, "{what}: said {times} times:\n{log}");
        if what == "CURRENT" {
            fs::write(&path, &before)?;
            rig.goes_on("with its file", 60)?;
        }
    }
    // Behind a restart it is made good from a copy, and that is said; or it ends, and says what to do.
    rig.session = None;
    rig.collector.stop()?;
    // It listens before it opens anything, so whether this works is chance.
    let started = rig.collector.restart();
    let said = match started {
        Err(error) => format!("{error:#}"),
        Ok(()) => {
            let look = || Ok((rig.collector.process()?.has_ended()?, rig.ready()));
            let (ended, _) = eventually("it ends or goes on", 30, look, |(ended, ready)| {
                *ended || ready.as_ref().is_ok_and(|(status, _)| *status == 200)
            })?;
            if !ended {
                rig.feeder.check(&rig.collector, stood).context("what was acknowledged is there")?;
                let (_, status, _) = rig.collector.gnomon(&["status", "-o", "jsonl"])?;
                let status: serde_json::Value = serde_json::from_slice(&status)?;
                ensure!(!status["damage"].is_null(), "the damage is named: {status}");
                return Ok(());
            }
            rig.collector.process()?.said()
        }
    };
    let last = said.lines().rev().take(10).collect::<String>();
    ensure!(last.contains("gnomon-collector verify") && last.contains("restore"), "{said}");
    Ok(())
}
