//! A program on a core of its own, or on both: what it took.

use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use gnomon_clock::{Clock, KernelClock};
use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};

/// How often memory is looked at.
const LOOK: Duration = Duration::from_millis(20);
/// The kernel's USER_HZ, in which proc(5) gives CPU time on every architecture Linux runs on here.
const TICKS_PER_SECOND: f64 = 100.0;

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Took {
    pub(crate) wall_s: f64,
    /// User and system, all threads.
    pub(crate) cpu_s: f64,
    pub(crate) rss_max_kib: u64,
}

/// Where a program may run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cores {
    /// The second.
    One,
    Both,
}

impl Cores {
    fn list(self) -> &'static str {
        match self {
            Cores::One => "1",
            Cores::Both => "0,1",
        }
    }
}

impl std::fmt::Display for Cores {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Cores::One => "one core",
            Cores::Both => "both cores, shared with what takes it",
        })
    }
}

/// A process that runs, its threads too: on the first core from now on, beside what is measured on the second.
pub(crate) fn keep_to_the_other_core(pid: u32) -> Result<()> {
    move_to("0", pid)
}

pub(crate) fn use_both_cores(pid: u32) -> Result<()> {
    move_to(Cores::Both.list(), pid)
}

fn move_to(list: &str, pid: u32) -> Result<()> {
    let mut taskset = Command::new("taskset");
    taskset.args(["-a", "-c", "-p", list, &pid.to_string()]).stdout(Stdio::null());
    let status = taskset.status().context("run taskset")?;
    ensure!(status.success(), "{taskset:?} failed");
    Ok(())
}

/// Runs it to its end on the second core, its output thrown away.
///
/// # Errors
/// When it cannot be started, or fails: with what it said.
pub(crate) fn alone(program: &str, arguments: &[&str], said: &Path) -> Result<Took> {
    on(Cores::One, program, arguments, said)
}

/// As [`alone`], where it is told.
pub(crate) fn on(cores: Cores, program: &str, arguments: &[&str], said: &Path) -> Result<Took> {
    let mut command = Command::new("taskset");
    command.args(["-c", cores.list(), program]).args(arguments);
    command.stdin(Stdio::null()).stdout(File::create("/dev/null")?).stderr(File::create(said)?);
    let begun = KernelClock.monotonic();
    let mut child = command.spawn().with_context(|| format!("start {command:?}"))?;
    let pid = Pid::from_child(&child);
    let proc = format!("/proc/{}", child.id());
    let mut took = Took::default();
    // It stays a zombie whose times can be read until it is waited for below.
    let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    while waitid(WaitId::Pid(pid), look)?.is_none() {
        if let Ok(status) = std::fs::read_to_string(format!("{proc}/status")) {
            let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
            let kib = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
            took.rss_max_kib = took.rss_max_kib.max(kib.unwrap_or(0));
        }
        sleep(LOOK);
    }
    took.wall_s = KernelClock.monotonic().since(begun) as f64 / 1e9;
    took.cpu_s = cpu_seconds_of(child.id())?;
    let status = child.wait()?;
    if !status.success() {
        let said = std::fs::read_to_string(said).unwrap_or_default();
        bail!("{program} ended with {status}: {}", said.trim().lines().last().unwrap_or(""));
    }
    Ok(took)
}

/// What a process has taken so far.
pub(crate) fn cpu_seconds_of(pid: u32) -> Result<f64> {
    let path = format!("/proc/{pid}/stat");
    let stat = std::fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    cpu_seconds(&stat).with_context(|| format!("{path} says {stat:?}"))
}

/// utime and stime, the 14th and 15th of proc_pid_stat(5), counted behind the name, which may hold spaces.
fn cpu_seconds(stat: &str) -> Option<f64> {
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut words = rest.split_whitespace().skip(11);
    let mut next = || words.next()?.parse::<f64>().ok();
    Some((next()? + next()?) / TICKS_PER_SECOND)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_program_took_is_read_when_it_has_ended() {
        let said = tempfile::NamedTempFile::new().unwrap();
        let busy = "import sys\nx = bytearray(80 << 20)\nfor n in range(3000000): pass";
        let Ok(took) = alone("python3", &["-c", busy], said.path()) else {
            return println!("SKIPPED: no python3, or one core only");
        };
        assert!(took.cpu_s > 0.02 && took.cpu_s <= took.wall_s + 0.05, "{took:?}");
        assert!(took.rss_max_kib > 80 << 10, "{took:?}");
        assert!(alone("python3", &["-c", "raise SystemExit(3)"], said.path()).is_err());
    }

    #[test]
    fn the_name_of_a_program_may_hold_anything() {
        let stat = "7 (a) b) R 1 1 1 0 -1 0 0 0 0 0 250 50 0 0 20 0 1 0 1 1 1";
        assert_eq!(cpu_seconds(stat), Some(3.0));
        assert_eq!(cpu_seconds("7"), None);
    }
}
