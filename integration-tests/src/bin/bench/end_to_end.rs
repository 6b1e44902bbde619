//! A capture file to its end: every flow's metadata at the database, every packet compressed on disk, beside Arkime.

mod arkime;

use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use arkime::{Database, Work};
use gnomon_integration_tests::fleet::Collector;

use crate::flows::capture::{self, Mix, Written};
use crate::flows::run::{self, Cores, Took};
use crate::report::{Report, Table};
use crate::sink::Sink;

/// Rounds in which each program runs once (the slowest in the first only); the one in the middle by the clock counts.
const ROUNDS: usize = 3;
const FLOWS: u32 = 80_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Program {
    /// Into a collector that keeps nothing: as Arkime's database.
    ToSink,
    /// Into a collector that stores everything.
    ToCollector,
    Arkime(Work),
}

struct Bench {
    bin_dir: PathBuf,
    dir: PathBuf,
    file: String,
    written: Written,
    sink: Sink,
    database: Database,
    arkime: Result<PathBuf, String>,
}

/// One run: what it took, what the collector took beside it, and how many flows there were at the end.
#[derive(Clone, Copy, Debug, Default)]
struct Run {
    took: Took,
    collector_cpu_s: Option<f64>,
    flows: Option<u64>,
}

impl Bench {
    fn run(&self, program: Program, cores: Cores) -> Result<Run> {
        let (said, state) = (self.dir.join("said"), self.dir.join("state"));
        // An import that was done is not done again: each begins with nothing.
        for folder in [&state, &self.dir.join("arkime"), &self.dir.join("collector")] {
            if folder.exists() {
                std::fs::remove_dir_all(folder)?;
            }
        }
        let agent = self.bin_dir.join("gnomon-agent").display().to_string();
        let state = format!("state_dir={}", state.display());
        let import = |url: &str| {
            let plain = "tls.insecure=true";
            let words = ["import", &self.file, "--collector", url, "--set", &state, "--set", plain];
            run::on(cores, &agent, &[&words[..], &["--config", "/dev/null"]].concat(), &said)
        };
        match program {
            Program::ToSink => Ok(Run { took: import(&self.sink.url())?, ..Run::default() }),
            Program::ToCollector => {
                let mut collector = Collector::start(&self.bin_dir, &self.dir.join("collector"), &[])?;
                let pid = collector.process()?.pid();
                if cores == Cores::One {
                    run::keep_to_the_other_core(pid)?;
                }
                let took = import(&collector.url())?;
                let collector_cpu_s = Some(run::cpu_seconds_of(pid)?);
                let flows = Some(collector.count("")?.0);
                Ok(Run { took, collector_cpu_s, flows })
            }
            Program::Arkime(work) => {
                let capture = self.arkime.as_ref().map_err(|why| anyhow::anyhow!("{why}"))?;
                let threads = if cores == Cores::One { 1 } else { 2 };
                let config = arkime::configure(capture, work, self.database.address, threads, &self.dir)?;
                self.database.take_sessions();
                let (capture, config) = (capture.display().to_string(), config.display().to_string());
                let words = ["-c", &config, "--copy", "-n", "bench", "-q", "-r", &self.file];
                let took = run::on(cores, &capture, &words, &said)?;
                // They cannot be counted in what is compressed.
                let sessions = (work == Work::Spared).then(|| self.database.take_sessions());
                // A program that gave up early would look fast.
                let told = sessions.is_none_or(|sessions| sessions >= u64::from(FLOWS) * 9 / 10);
                ensure!(told, "Arkime told of {sessions:?} sessions of {FLOWS}");
                Ok(Run { took, collector_cpu_s: None, flows: sessions })
            }
        }
    }

    fn compare(&self, cores: Cores, arkime: &str, report: &mut Report) -> Result<()> {
        let programs = [
            (
                Program::Arkime(Work::Spared),
                format!("{arkime}, no gzip, no libmagic; to a database that keeps nothing"),
            ),
            (Program::Arkime(Work::AsItComes), format!("{arkime}, as it comes; one run")),
            (Program::ToSink, "gnomon-agent import, to a collector that keeps nothing".to_owned()),
            (Program::ToCollector, "gnomon-agent import, to a collector that stores it".to_owned()),
        ];
        let mut runs = vec![Vec::new(); programs.len()];
        for round in 0..ROUNDS {
            for (at, (program, name)) in programs.iter().enumerate() {
                let once = *program == Program::Arkime(Work::AsItComes);
                if once && round > 0 || matches!(program, Program::Arkime(_)) && self.arkime.is_err() {
                    continue;
                }
                let run = self.run(*program, cores).with_context(|| name.clone())?;
                eprintln!("==> {cores}, round {}: {name}: {run:?}", round + 1);
                runs[at].push(run);
            }
        }
        let head = [
            "program",
            "kpps",
            "× Arkime",
            "wall s",
            "CPU s",
            "kpps a core",
            "× Arkime",
            "RSS MiB",
            "collector's CPU s",
            "flows",
        ];
        let mut table = Table::new(&format!("On {cores}"), &head);
        let rates = |run: &Run| {
            let packets = self.written.packets as f64 / 1e3;
            (packets / run.took.wall_s, packets / run.took.cpu_s)
        };
        let middle = |runs: &mut Vec<Run>| {
            runs.sort_by(|a, b| a.took.wall_s.total_cmp(&b.took.wall_s));
            runs.get(runs.len() / 2).copied()
        };
        let mut theirs = None;
        for ((program, name), mut runs) in programs.into_iter().zip(runs) {
            let Some(run) = middle(&mut runs) else {
                let why = self.arkime.as_ref().err().map_or("", |why| why);
                table.row(vec![name, format!("SKIPPED: {why}")]);
                continue;
            };
            let (kpps, kpps_a_core) = rates(&run);
            if program == Program::Arkime(Work::Spared) {
                theirs = Some((kpps, kpps_a_core));
            }
            let times = |ours: f64, theirs: Option<f64>| {
                theirs.map_or_else(|| "–".into(), |theirs| format!("{:.2}", ours / theirs))
            };
            table.row(vec![
                name,
                format!("{kpps:.0}"),
                times(kpps, theirs.map(|(wall, _)| wall)),
                format!("{:.1}", run.took.wall_s),
                format!("{:.1}", run.took.cpu_s),
                format!("{kpps_a_core:.0}"),
                times(kpps_a_core, theirs.map(|(_, core)| core)),
                format!("{:.0}", run.took.rss_max_kib as f64 / 1024.0),
                run.collector_cpu_s.map_or_else(|| "–".into(), |cpu_s| format!("{cpu_s:.1}")),
                run.flows.map_or_else(|| "–".into(), |flows| flows.to_string()),
            ]);
        }
        report.add(&table);
        Ok(())
    }
}

/// `only`: parts of the names of the cores that are measured; empty: all.
pub(crate) fn measure(bin_dir: &Path, only: &[String], report: &mut Report) -> Result<()> {
    let dir = tempfile::Builder::new().prefix("gnomon-bench-").tempdir()?;
    let sink = Sink::open(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?, true)?;
    let arkime = arkime::find();
    let name = match &arkime {
        Ok(capture) => arkime::version(capture)?,
        Err(why) => {
            eprintln!("SKIPPED: {why}");
            "Arkime".to_owned()
        }
    };
    let file = dir.path().join("talk.pcap").display().to_string();
    eprintln!("==> writing {file}");
    let written = capture::write(Path::new(&file), Mix { flows: FLOWS, at_once: 20_000, talk: true })?;
    report.say(&format!(
        "{:.1} M packets of {} B on average, {FLOWS} flows.\n",
        written.packets as f64 / 1e6,
        written.bytes / written.packets.max(1)
    ));
    let (bin_dir, dir_path) = (bin_dir.canonicalize().context("find the programs")?, dir.path().to_owned());
    let bench = Bench { bin_dir, dir: dir_path, file, written, sink, database: Database::open()?, arkime };
    for cores in [Cores::One, Cores::Both] {
        let title = cores.to_string();
        if !only.is_empty() && !only.iter().any(|only| title.contains(only.as_str())) {
            continue;
        }
        // What takes what is sent is on the other core, so that the program has its own to itself.
        match cores {
            Cores::One => run::keep_to_the_other_core(std::process::id())?,
            Cores::Both => run::use_both_cores(std::process::id())?,
        }
        bench.compare(cores, &name, report)?;
    }
    Ok(())
}
