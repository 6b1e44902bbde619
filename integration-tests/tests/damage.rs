//! A collector whose disk returned other bytes than were written, lost files, or is full or small: what was acknowledged is
//! there or sent again, what is missing is said, and the rest is served.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use gnomon_integration_tests::feeder::{Feeder, RECORDS, Session};
use gnomon_integration_tests::fleet::{Collector, built_binaries, eventually};
use gnomon_integration_tests::netns::skip;

/// A collector that is fed by an agent made by hand, which has everything it ever sent and sends again what is asked for.
struct Rig {
    feeder: Feeder,
    collector: Collector,
    session: Option<Session>,
    dir: tempfile::TempDir,
}

impl Rig {
    fn new(settings: &[&str]) -> Result<Rig> {
        let dir = tempfile::tempdir()?;
        let collector = Collector::start(&built_binaries()?, &dir.path().join("collector"), settings)?;
        Ok(Rig { feeder: Feeder::new(1)?, collector, session: None, dir })
    }

    fn feed_until(&mut self, acknowledged: u64) -> Result<()> {
        self.session = Some(self.feeder.feed(self.collector.grpc, None));
        let what = format!("{acknowledged} entries are acknowledged");
        let done = eventually(&what, 60, || Ok(self.feeder.told().acknowledged), |now| *now >= acknowledged);
        done.map(drop).with_context(|| self.said())
    }

    fn said(&mut self) -> String {
        let said = self.collector.process().map(|process| process.said()).unwrap_or_default();
        said.lines().rev().take(20).collect::<Vec<_>>().join("\n")
    }

    /// SIGKILL while it is fed. How many entries were acknowledged.
    fn kill(&mut self) -> Result<u64> {
        self.collector.kill()?;
        self.session = None;
        Ok(self.feeder.told().acknowledged)
    }

    fn status(&self) -> Result<serde_json::Value> {
        let (_, body) = self.collector.http_get("/api/v1/status")?;
        serde_json::from_str(&body).with_context(|| body.clone())
    }

    fn flows(&self) -> Result<u64> {
        let status = self.status()?;
        let number =
            |key: &str| status[key].as_u64().or_else(|| status[key].as_str()?.parse().ok()).unwrap_or(0);
        Ok(number("flows") + number("flows_pending"))
    }
}

/// The file with this ending that has the most bytes.
fn largest(dir: &Path, ending: &str) -> Result<PathBuf> {
    let files = fs::read_dir(dir)?.filter_map(|file| Some(file.ok()?.path()));
    let files = files.filter(|path| path.extension().is_some_and(|kind| kind == ending));
    files
        .max_by_key(|path| path.metadata().map_or(0, |file| file.len()))
        .with_context(|| format!("no .{ending}"))
}

fn flip(path: &Path, at: usize) -> Result<()> {
    let mut bytes = fs::read(path)?;
    *bytes.get_mut(at).context("beyond the end")? ^= 0x08;
    Ok(fs::write(path, bytes)?)
}

#[test]
fn a_flipped_bit_in_the_log_is_named_the_rest_is_served_and_agents_send_the_missing_again() -> Result<()> {
    let mut rig = Rig::new(&["retention.free_min=0B"])?;
    let mut goal = 0;
    for place in 0..4 {
        goal += 120;
        rig.feed_until(goal)?;
        let acknowledged = rig.kill()?;
        let log = largest(&rig.collector.data_dir().join("db"), "log")?;
        let len = fs::metadata(&log)?.len();
        flip(&log, usize::try_from(len / 5 * (place + 1))?)?;
        let (code, said) = rig.collector.verify()?;
        ensure!(code == 1 && said.contains(".log"), "verify ended with {code}: {said}");
        rig.collector.restart()?;
        let damage =
            rig.status()?["damage"].as_str().map(str::to_owned).context("the status names no damage")?;
        ensure!(damage.contains("acknowledged writes were missing"), "{damage}");
        // One batch is gone, which is no more than what was under way at a time.
        let flows = rig.flows()?;
        let wanted = acknowledged.div_ceil(2) * RECORDS;
        ensure!(flows + 17 * RECORDS >= wanted && flows > 0, "{flows} of {wanted} flows are served");
        rig.feed_until(acknowledged + 20)?;
        rig.session = None;
        std::thread::sleep(Duration::from_millis(300));
        goal = rig.feeder.told().acknowledged;
        rig.feeder.check(&rig.collector, goal).with_context(|| format!("flipped at {}/5", place + 1))?;
        let damage = rig.status()?["damage"].as_str().unwrap_or_default().to_owned();
        ensure!(!damage.contains("are lost"), "{damage}");
    }
    Ok(())
}

/// Every kind of file of a killed collector: a start serves what it can and says what is missing, or says what to do. The check
/// never ends by a fault of its own.
#[test]
fn whatever_file_is_damaged_the_start_serves_the_rest_or_says_what_to_do() -> Result<()> {
    let mut rig = Rig::new(&["retention.free_min=0B"])?;
    rig.feed_until(150)?;
    ensure!(rig.collector.stop()? == Some(0));
    rig.collector.restart()?;
    rig.feed_until(300)?;
    let acknowledged = rig.kill()?;
    let good = rig.collector.data_dir();
    let wanted = acknowledged.div_ceil(2) * RECORDS;
    let mut files = Vec::new();
    for part in ["", "db", "segments"] {
        for file in fs::read_dir(good.join(part))? {
            let path = file?.path();
            if path.is_file() {
                files.push(path.strip_prefix(&good)?.to_owned());
            }
        }
    }
    files.sort();
    let mut refused = 0;
    for (n, file) in files.iter().enumerate() {
        let home = rig.dir.path().join(format!("copy-{n}"));
        let data = home.join("data");
        fs::create_dir_all(&home)?;
        ensure!(Command::new("cp").arg("-r").arg(&good).arg(&data).status()?.success());
        let damaged = data.join(file);
        let len = fs::metadata(&damaged)?.len();
        let what = if n % 2 == 0 { "cut" } else { "flipped" };
        if len > 0 && n % 2 == 0 {
            fs::OpenOptions::new().write(true).open(&damaged)?.set_len(len * 2 / 3)?;
        } else if len > 0 {
            flip(&damaged, usize::try_from(len / 3)?)?;
        }
        let what = format!("{} {what}", file.display());
        let collector = Collector::start(&built_binaries()?, &home, &["retention.free_min=0B"]);
        let collector = match collector {
            Ok(collector) => collector,
            Err(error) => {
                let said = format!("{error:#}");
                ensure!(said.contains("hint: ") && !said.contains("panicked"), "{what}: {said}");
                refused += 1;
                continue;
            }
        };
        let (_, body) = collector.http_get("/api/v1/status")?;
        let status: serde_json::Value = serde_json::from_str(&body)?;
        let number =
            |key: &str| status[key].as_u64().or_else(|| status[key].as_str()?.parse().ok()).unwrap_or(0);
        let flows = number("flows") + number("flows_pending");
        if flows < wanted {
            ensure!(
                status["damage"].is_string(),
                "{what}: {flows} of {wanted} flows, and nothing is said: {body}"
            );
        }
        drop(collector);
        let output =
            Command::new(built_binaries()?.join("gnomon-collector")).arg("verify").arg(&data).output()?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(
            output.status.code().is_some_and(|code| code < 3) && !said.contains("panicked"),
            "{what}: {said}"
        );
        fs::remove_dir_all(&home)?;
    }
    println!("{} files, {refused} refused", files.len());
    ensure!(refused <= 3, "{refused} of {} starts were refused", files.len());
    Ok(())
}

/// Under an umask that closes nothing.
#[test]
fn nobody_else_reads_the_store_whatever_the_umask() -> Result<()> {
    let old = rustix::process::umask(rustix::fs::Mode::empty());
    let started = Rig::new(&["retention.free_min=0B"]);
    let mut rig = started?;
    rig.feed_until(40)?;
    rig.kill()?;
    let data = rig.collector.data_dir();
    // As an older version left it.
    for path in [&data, &data.join("db"), &data.join("segments")] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
        for file in fs::read_dir(path)? {
            let path = file?.path();
            if path.is_file() {
                fs::set_permissions(path, fs::Permissions::from_mode(0o644))?;
            }
        }
    }
    rig.collector.restart()?;
    rig.feed_until(rig.feeder.told().acknowledged + 40)?;
    let backup = rig.dir.path().join("backup");
    let made = Command::new(built_binaries()?.join("gnomon-collector"))
        .arg("--data-dir")
        .arg(&data)
        .arg("backup")
        .arg(&backup)
        .output()?;
    rustix::process::umask(old);
    ensure!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let mut open = Vec::new();
    let mut to_see = vec![data, backup];
    while let Some(path) = to_see.pop() {
        let there = fs::symlink_metadata(&path)?;
        let mode = there.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            open.push(format!("{} {mode:o}", path.display()));
        }
        if there.is_dir() {
            to_see.extend(fs::read_dir(&path)?.filter_map(|file| Some(file.ok()?.path())));
        }
    }
    ensure!(open.is_empty(), "{open:?}");
    Ok(())
}

/// A small disk, unmounted when dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(dir: &Path, mib: u32) -> Result<SmallDisk> {
        fs::create_dir_all(dir)?;
        let size = format!("size={mib}m");
        let status = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(dir).status()?;
        ensure!(status.success(), "mount a tmpfs at {}: {status}", dir.display());
        Ok(SmallDisk(dir.to_owned()))
    }

    fn free(&self) -> Result<u64> {
        let free = rustix::fs::statvfs(&self.0)?;
        Ok(free.f_bavail * free.f_frsize)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn without_room_a_collector_answers_and_takes_in_again_when_there_is_room() -> Result<()> {
    if skip() {
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let home = dir.path().join("collector");
    let disk = SmallDisk::mount(&home.join("data"), 160)?;
    let collector = Collector::start(&built_binaries()?, &home, &["retention.free_min=0B"])?;
    let mut rig = Rig { feeder: Feeder::new(1)?, collector, session: None, dir };
    rig.feed_until(100)?;
    let acknowledged = rig.kill()?;
    let ballast = disk.0.join("ballast");
    fs::write(&ballast, vec![1u8; usize::try_from(disk.free()?)?])?;
    ensure!(disk.free()? == 0);
    rig.collector.restart()?;
    rig.feeder.check(&rig.collector, acknowledged).context("searches are answered")?;
    let status = rig.status()?;
    ensure!(status["stopped"].as_str().is_some_and(|why| why.contains("make room")), "{status}");
    ensure!(rig.collector.http_get("/readyz")?.0 == 503);
    rig.session = Some(rig.feeder.feed(rig.collector.grpc, None));
    std::thread::sleep(Duration::from_secs(3));
    // It may have more than it had time to acknowledge.
    let told = rig.feeder.told();
    ensure!(
        told.acknowledged == told.welcome.context("it was welcomed")?,
        "nothing is taken in: {}",
        told.acknowledged
    );
    rig.session = None;
    fs::remove_file(&ballast)?;
    let ready = || Ok(rig.collector.http_get("/readyz").map_or(0, |(status, _)| status));
    eventually("it is ready again", 30, ready, |status| *status == 200)
        .with_context(|| rig.collector.url())?;
    rig.feed_until(acknowledged + 50)?;
    rig.session = None;
    std::thread::sleep(Duration::from_millis(300));
    let all = rig.feeder.told().acknowledged;
    rig.feeder.check(&rig.collector, all)
}

#[test]
fn a_small_disk_is_never_filled_by_a_collector_without_limits() -> Result<()> {
    if skip() {
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let home = dir.path().join("collector");
    let disk = SmallDisk::mount(&home.join("data"), 200)?;
    let collector = Collector::start(&built_binaries()?, &home, &[])?;
    let mut rig = Rig { feeder: Feeder::new(1)?, collector, session: None, dir };
    rig.session = Some(rig.feeder.feed(rig.collector.grpc, None));
    let mut least = u64::MAX;
    // Entries of packets have 8 kB each: more than the disk has.
    let goal = 2 * 240_000_000 / 8_000;
    let look = || {
        least = least.min(disk.free()?);
        Ok(rig.feeder.told().acknowledged)
    };
    eventually("more is taken in than the disk has room for", 400, look, |now| *now >= goal)
        .with_context(|| format!("{:?}", disk.free()))?;
    println!("at least {least} bytes were free");
    ensure!(least > 8 << 20, "{least} bytes were free");
    let (_, metrics) = rig.collector.http_get("/metrics")?;
    let failures = metrics.lines().find(|line| line.starts_with("gnomon_collector_store_write_failures"));
    ensure!(failures.is_some_and(|line| line.ends_with(" 0")), "{failures:?}");
    Ok(())
}
