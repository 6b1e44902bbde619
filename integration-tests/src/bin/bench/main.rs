//! `make bench-flows`: how fast capture files become flow records, beside the peers that are installed, and how fast they
//! are stored with every packet, beside Arkime. Needs no namespace.
//!
//! `make bench`: how fast frames can arrive without loss, where the time goes, and how soon a packet can be found. All of
//! it side by side on this machine, in namespaces of its own. Runs inside a PID and mount namespace (deploy/bench.sh).

mod end_to_end;
mod flows;
mod profile;
mod receiver;
mod report;
mod sink;
mod speed;
mod stall;
mod visibility;
mod wire;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use report::Report;

const USAGE: &str = "usage: gnomon-bench --bin-dir DIR [--only speed|stall|profile|visibility|flows|end-to-end]... [--receiver NAME]... [--write FILE]";

#[derive(Debug, Default)]
struct Arguments {
    bin_dir: PathBuf,
    only: Vec<String>,
    /// Parts of the names of the receivers whose speed is measured (end to end: of the cores); empty: all.
    receivers: Vec<String>,
    /// Put the results between the markers of this file too.
    write: Option<PathBuf>,
}

fn arguments() -> Result<Arguments> {
    let mut found = Arguments::default();
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            "--bin-dir" => found.bin_dir = words.next().context(USAGE)?.into(),
            "--only" => found.only.push(words.next().context(USAGE)?),
            "--receiver" => found.receivers.push(words.next().context(USAGE)?),
            "--write" => found.write = Some(words.next().context(USAGE)?.into()),
            _ => bail!("{word:?} is unknown; {USAGE}"),
        }
    }
    if found.bin_dir.as_os_str().is_empty() {
        bail!(USAGE);
    }
    Ok(found)
}

fn run() -> Result<()> {
    let arguments = arguments()?;
    let named = |part: &str| arguments.only.iter().any(|only| only == part);
    let wanted = |part: &str| arguments.only.is_empty() || named(part);
    // These two have a report of their own each.
    let (flows, end_to_end) = (named("flows"), named("end-to-end"));
    let name = if flows {
        "bench-flows"
    } else if end_to_end {
        "bench-end-to-end"
    } else {
        "bench"
    };
    let mut report = Report::new(name)?;
    if flows {
        flows::measure(&arguments.bin_dir, &mut report)?;
    }
    if end_to_end {
        end_to_end::measure(&arguments.bin_dir, &arguments.receivers, &mut report)?;
    }
    if wanted("speed") {
        speed::measure(&arguments.bin_dir, &arguments.receivers, &mut report)?;
    }
    if wanted("stall") {
        stall::measure(&arguments.bin_dir, &mut report)?;
    }
    if wanted("profile") {
        profile::measure(&arguments.bin_dir, &mut report)?;
    }
    if wanted("visibility") {
        visibility::measure(&arguments.bin_dir, &mut report)?;
    }
    report.say_what_was_stolen()?;
    if let Some(path) = &arguments.write {
        report.write_between_markers(path)?;
    }
    Ok(())
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
