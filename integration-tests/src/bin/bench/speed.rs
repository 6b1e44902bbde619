//! The highest rate each receiver takes without loss, and what it gets of more than it can take.

use std::path::Path;

use anyhow::{Context, Result};

use crate::receiver::{Program, Receiver};
use crate::report::{Report, Table};
use crate::wire::{Frames, GENERATOR_CORE, Wire};

/// Of this share or less is said that nothing was lost.
const LOSS_MAX: f64 = 1e-5;
const TRIAL_SECONDS: f64 = 2.0;
/// Rates that are this near are not told apart.
const RESOLUTION: f64 = 1.08;
const TRIALS_MAX: usize = 5;

const AF_XDP_ALL: Program = Program::Agent { af_xdp: true, keep: "all", uplink: false };
const PLAN: [(Frames, &[Program]); 2] = [
    (
        Frames::Minimal,
        &[
            Program::Bare,
            Program::TCPDUMP,
            Program::TCPDUMP_64_MIB,
            Program::TCPDUMP_128_B,
            AF_XDP_ALL,
            Program::Agent { af_xdp: true, keep: "headers", uplink: false },
            Program::Agent { af_xdp: false, keep: "all", uplink: false },
            Program::Agent { af_xdp: true, keep: "all", uplink: true },
        ],
    ),
    (
        Frames::Imix,
        &[
            Program::Bare,
            Program::TCPDUMP,
            Program::TCPDUMP_128_B,
            AF_XDP_ALL,
            Program::Agent { af_xdp: true, keep: "headers", uplink: false },
            Program::Agent { af_xdp: false, keep: "all", uplink: false },
        ],
    ),
];

#[derive(Clone, Copy, Debug)]
struct Trial {
    offered: u64,
    /// Frames a second.
    offered_rate: f64,
    received: u64,
    not_kept: u64,
    cpu_ns: u64,
    seconds: f64,
}

impl Trial {
    fn run(wire: &Wire, receiver: &Receiver, frames: Frames, rate: u64) -> Result<Trial> {
        let before = receiver.settle(0)?;
        let cpu_before = receiver.cpu_ns();
        let sent = wire.flood(frames, rate, TRIAL_SECONDS)?;
        let after = receiver.settle(before.frames + sent.frames)?;
        if sent.refused > 0 {
            eprintln!("    {} frames were refused by the veth itself and count as lost", sent.refused);
        }
        Ok(Trial {
            offered: sent.frames,
            offered_rate: sent.per_second(),
            received: after.frames.saturating_sub(before.frames).min(sent.frames),
            not_kept: after.not_kept.saturating_sub(before.not_kept),
            cpu_ns: receiver.cpu_ns().saturating_sub(cpu_before),
            seconds: sent.seconds,
        })
    }

    /// Share of the frames that were not received, or not kept where they should be.
    fn loss(&self) -> f64 {
        (self.offered - self.received + self.not_kept.min(self.received)) as f64 / self.offered.max(1) as f64
    }

    fn is_whole(&self) -> bool {
        self.loss() <= LOSS_MAX
    }

    fn received_rate(&self) -> f64 {
        self.received as f64 / self.seconds
    }
}

#[derive(Clone, Copy, Debug)]
struct Outcome {
    /// Frames a second, and CPU nanoseconds a frame at that rate.
    whole: Option<(f64, f64)>,
    /// The generator could not send faster: the true figure is this or more.
    whole_at_limit: bool,
    overload: Trial,
}

/// The overload says where to look; a bisection finds the rate. A rate at which less than 1 % was lost is tried twice:
/// the machine is shared, and the neighbour's turn is not the receiver's loss.
fn search(wire: &Wire, receiver: &Receiver, frames: Frames) -> Result<Outcome> {
    let overload = Trial::run(wire, receiver, frames, 0)?;
    let note = |trial: &Trial| {
        eprintln!("    {:>9.0} frames/s: lost {:.5} %", trial.offered_rate, trial.loss() * 100.0);
    };
    note(&overload);
    let cost = |trial: &Trial| (trial.offered_rate, trial.cpu_ns as f64 / trial.received.max(1) as f64);
    if overload.is_whole() {
        return Ok(Outcome { whole: Some(cost(&overload)), whole_at_limit: true, overload });
    }
    let (mut whole, mut low, mut high) = (None, 0.0, overload.offered_rate);
    let mut rate = (overload.received_rate() * 0.85).min(high / RESOLUTION);
    for _ in 0..TRIALS_MAX {
        let mut trial = Trial::run(wire, receiver, frames, rate as u64)?;
        note(&trial);
        if !trial.is_whole() && trial.loss() < 0.01 {
            trial = Trial::run(wire, receiver, frames, rate as u64)?;
            note(&trial);
        }
        if trial.is_whole() {
            // What was sent in truth: a generator that was held up sends less than it was told.
            low = trial.offered_rate;
            whole = Some(cost(&trial));
        } else {
            high = rate.min(trial.offered_rate);
        }
        if low > 0.0 && high / low < RESOLUTION {
            break;
        }
        rate = if low == 0.0 { high * 0.6 } else { (low * high).sqrt().min(low * 1.3) };
    }
    Ok(Outcome { whole, whole_at_limit: false, overload })
}

fn kilo(rate: f64) -> String {
    format!("{:.0}", rate / 1e3)
}

fn ratio(value: Option<f64>, to: Option<f64>) -> String {
    match (value, to) {
        (Some(value), Some(to)) if to > 0.0 => format!("{:.2}", value / to),
        _ => "–".to_owned(),
    }
}

/// `receivers`: parts of the names of those to measure; empty: all.
pub(crate) fn measure(bin_dir: &Path, receivers: &[String], report: &mut Report) -> Result<()> {
    // This program, its threads and what it starts stay out of the receiver's way.
    stay_on(&[GENERATOR_CORE])?;
    let wire = Wire::build(bin_dir)?;
    for (frames, programs) in PLAN {
        let mut rows = Vec::new();
        let wanted =
            |name: &str| receivers.is_empty() || receivers.iter().any(|part| name.contains(part.as_str()));
        for program in programs.iter().filter(|program| wanted(&program.name())) {
            eprintln!("==> {}, {}", frames.name(), program.name());
            let receiver = Receiver::start(bin_dir, &wire, *program)?;
            let outcome = search(&wire, &receiver, frames)?;
            if let Some(interface) = receiver.interface() {
                eprintln!("    {}; drops {:?}", interface.mode, interface.drops);
            }
            rows.push((*program, outcome));
        }
        report.add(&table(frames, &rows));
    }
    stay_on(&[0, 1])
}

fn table(frames: Frames, rows: &[(Program, Outcome)]) -> Table {
    let of =
        |wanted: Program| rows.iter().find(|(program, _)| *program == wanted).map(|(_, outcome)| outcome);
    let whole = |outcome: Option<&Outcome>| outcome.and_then(|o| o.whole).map(|(rate, _)| rate);
    let overload = |outcome: Option<&Outcome>| outcome.map(|o| o.overload.received_rate());
    let (bare, tcpdump) = (of(Program::Bare), of(Program::TCPDUMP));
    let mut table = Table::new(
        &format!("Speed, {} frames, 10,000 flows both ways, payload of noise", frames.name()),
        &[
            "receiver",
            "loss-free kpps",
            "× tcpdump",
            "× bare",
            "ns CPU/frame",
            "at overload kpps",
            "× tcpdump",
            "× bare",
            "packets kept",
        ],
    );
    for (program, outcome) in rows {
        let own = Some(outcome);
        let limit = if outcome.whole_at_limit { "≥ " } else { "" };
        let Outcome { overload: trial, .. } = outcome;
        let kept = match program {
            Program::Agent { .. } => {
                let share = trial.not_kept.min(trial.received) as f64 / trial.received.max(1) as f64;
                format!("{:.0} %", 100.0 * (1.0 - share))
            }
            _ => "–".to_owned(),
        };
        table.row(vec![
            program.name(),
            whole(own).map_or("none found".to_owned(), |rate| format!("{limit}{}", kilo(rate))),
            ratio(whole(own), whole(tcpdump)),
            ratio(whole(own), whole(bare)),
            outcome.whole.map_or("–".to_owned(), |(_, cost)| format!("{cost:.0}")),
            kilo(trial.received_rate()),
            ratio(overload(own), overload(tcpdump)),
            ratio(overload(own), overload(bare)),
            kept,
        ]);
    }
    table
}

pub(crate) fn stay_on(cores: &[usize]) -> Result<()> {
    let mut set = rustix::thread::CpuSet::new();
    cores.iter().for_each(|core| set.set(*core));
    rustix::thread::sched_setaffinity(None, &set)
        .with_context(|| format!("stay on cores {cores:?}: two are needed"))
}
