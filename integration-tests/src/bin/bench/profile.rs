//! Where the receiver's core spends its time while the agent has more frames than it can take.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use crate::receiver::{Program, Receiver};
use crate::report::{Report, Table};
use crate::speed::stay_on;
use crate::wire::{Frames, GENERATOR_CORE, RECEIVER_CORE, Wire};

const SECONDS: f64 = 3.0;
/// Functions below this share are summed up.
const SHARE_MIN: f64 = 1.0;
const ROWS_MAX: usize = 24;

pub(crate) fn measure(bin_dir: &Path, report: &mut Report) -> Result<()> {
    if !Command::new("perf").arg("--version").stdout(Stdio::null()).status().is_ok_and(|s| s.success()) {
        report.say("SKIPPED: profile: no perf(1) here (Debian: linux-perf)\n");
        return Ok(());
    }
    stay_on(&[GENERATOR_CORE])?;
    let wire = Wire::build(bin_dir)?;
    let program = Program::Agent { af_xdp: true, keep: "all", uplink: false };
    for frames in [Frames::Minimal, Frames::Imix] {
        eprintln!("==> profile, {}, {}", frames.name(), program.name());
        let receiver = Receiver::start(bin_dir, &wire, program)?;
        let samples = sample(&wire, &receiver, frames)?;
        let time = cost_of_time(&samples);
        let title = format!("Core {RECEIVER_CORE} at overload, {} frames, {}", frames.name(), program.name());
        report.add(&table(&title, samples));
        report.say(&time);
    }
    stay_on(&[0, 1])
}

/// (share in percent, thread, function), greatest share first. Time-based: there are no hardware counters in most
/// virtual machines.
fn sample(wire: &Wire, receiver: &Receiver, frames: Frames) -> Result<Vec<(f64, String, String)>> {
    let data = std::env::temp_dir().join(format!("gnomon-bench-{}.perf", std::process::id()));
    let mut flood = wire.flood_command(frames, 0, SECONDS + 1.0).stdout(Stdio::null()).spawn()?;
    std::thread::sleep(std::time::Duration::from_millis(500));
    let recorded = Command::new("perf")
        .args(["record", "-q", "-e", "cpu-clock", "-F", "1999", "-p", &receiver.pid().to_string(), "-o"])
        .arg(&data)
        .args(["--", "sleep", &SECONDS.to_string()])
        .output()
        .context("run perf record")?;
    flood.wait()?;
    anyhow::ensure!(recorded.status.success(), "perf record: {}", String::from_utf8_lossy(&recorded.stderr));
    let reported = Command::new("perf")
        .args([
            "report",
            "--stdio",
            "-q",
            "--no-children",
            "-g",
            "none",
            "-F",
            "overhead,comm,sym",
            "-t",
            ";",
            "-i",
        ])
        .arg(&data)
        .output()
        .context("run perf report")?;
    std::fs::remove_file(&data)?;
    let text = String::from_utf8_lossy(&reported.stdout).into_owned();
    Ok(text.lines().filter_map(line).collect())
}

/// `  12.34%;comm;[.] function`
fn line(line: &str) -> Option<(f64, String, String)> {
    let mut cells = line.trim().splitn(3, ';');
    let share = cells.next()?.trim().trim_end_matches('%').parse().ok()?;
    let (thread, symbol) = (cells.next()?.trim(), cells.next()?.trim());
    let name = symbol.trim_start_matches("[.] ").trim_start_matches("[k] ");
    let name = if symbol.starts_with("[k]") { format!("{name} (kernel)") } else { name.to_owned() };
    Some((share, thread.to_owned(), name.chars().take(90).collect()))
}

/// What stamping frames and knowing the time cost: readings of clocks by the capture thread, the arithmetic around them,
/// and the thread that watches the machine's clocks.
fn cost_of_time(samples: &[(f64, String, String)]) -> String {
    let sum = |is: &dyn Fn(&str, &str) -> bool| -> f64 {
        let shares = samples.iter().filter(|(_, thread, function)| is(thread, function));
        shares.map(|(share, ..)| share).sum()
    };
    let reads = |function: &str| {
        let function = function.to_ascii_lowercase();
        ["clock", "vdso", "arrival", "stamp"].iter().any(|part| function.contains(part))
    };
    let stamping = sum(&|thread, function| thread.starts_with("cap-") && reads(function));
    let watching = sum(&|thread, _| thread == "clock");
    format!(
        "Of the core, readings of clocks for stamps took {stamping:.2} %, the thread that watches the clocks {watching:.2} %.\n"
    )
}

fn table(title: &str, samples: Vec<(f64, String, String)>) -> Table {
    let mut table = Table::new(title, &["function", "thread", "share"]);
    let mut threads: Vec<(String, f64)> = Vec::new();
    let mut rest = 0.0;
    for (index, (share, thread, function)) in samples.into_iter().enumerate() {
        match threads.iter_mut().find(|(name, _)| *name == thread) {
            Some((_, sum)) => *sum += share,
            None => threads.push((thread.clone(), share)),
        }
        if share >= SHARE_MIN && index < ROWS_MAX {
            table.row(vec![format!("`{function}`"), thread, format!("{share:.1} %")]);
        } else {
            rest += share;
        }
    }
    table.row(vec!["all others".into(), String::new(), format!("{rest:.1} %")]);
    for (thread, share) in threads.into_iter().filter(|(_, share)| *share >= SHARE_MIN) {
        table.row(vec!["**sum of a thread**".into(), thread, format!("{share:.1} %")]);
    }
    table
}
