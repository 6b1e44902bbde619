//! How fast capture files become flow records, beside the programs of this kind that are installed.

pub(crate) mod capture;
pub(crate) mod run;

use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::path::Path;

use anyhow::{Context, Result};
use capture::{Mix, Written};
use run::Took;

use crate::report::{Report, Table};
use crate::sink::Sink;

/// Runs of each program; the one in the middle counts.
const RUNS: usize = 3;
const FLOWS: u32 = 164_000;
const MANY_FLOWS: u32 = 1_000_000;

/// A program that reads a capture file.
struct Candidate {
    name: &'static str,
    program: String,
    arguments: Vec<String>,
}

fn candidate(name: &'static str, program: &str, arguments: &[&str]) -> Candidate {
    let arguments = arguments.iter().map(|word| (*word).to_owned()).collect();
    Candidate { name, program: program.to_owned(), arguments }
}

/// Where everything is written, gone with it, and who takes what is sent.
struct Bench<'a> {
    agent: String,
    dir: &'a Path,
    /// Takes what softflowd sends, and reads none of it.
    netflow: UdpSocket,
    sink: Sink,
}

impl Bench<'_> {
    fn path(&self, name: &str) -> String {
        self.dir.join(name).display().to_string()
    }

    /// Not by what this machine's own configuration says.
    fn gnomon(&self, name: &'static str, words: &[&str]) -> Candidate {
        candidate(name, &self.agent, &[words, &["--config", "/dev/null"]].concat())
    }

    fn flows_only(&self, file: &str) -> Result<Vec<Candidate>> {
        let (nfdump, netflow) = (self.path("nfdump"), self.netflow.local_addr()?.to_string());
        std::fs::create_dir_all(&nfdump)?;
        let softflowd = ["-r", file, "-m", "2000000", "-v", "10", "-b", "-n", &netflow, "-c", "none", "-p"];
        Ok(vec![
            candidate(
                "tcpdump -w /dev/null (no flows: the limit)",
                "tcpdump",
                &["-r", file, "-w", "/dev/null"],
            ),
            self.gnomon(
                "gnomon-agent flows",
                &[
                    "flows",
                    file,
                    "-o",
                    "ipfix",
                    "--set",
                    "flows.inspect=false",
                    "--set",
                    "flows.flows_max=1100000",
                ],
            ),
            candidate("argus", "argus", &["-F", "/dev/null", "-r", file, "-w", "-"]),
            candidate("nfpcapd", "nfpcapd", &["-r", file, "-w", &nfdump]),
            candidate("softflowd", "softflowd", &[&softflowd[..], &[&self.path("softflowd.pid")]].concat()),
            self.suricata("suricata, flows only", "flow", file)?,
        ])
    }

    fn metadata(&self, file: &str) -> Result<Vec<Candidate>> {
        let state = format!("state_dir={}", self.path("state"));
        let import =
            ["import", file, "--collector", &self.sink.url(), "--set", &state, "--set", "tls.insecure=true"];
        Ok(vec![
            self.gnomon("gnomon-agent flows, metadata, as JSON", &["flows", file]),
            self.gnomon("gnomon-agent import, metadata, packets kept and sent", &import),
            self.suricata("suricata, HTTP, TLS and DNS, as JSON", "flow, http, tls, dns", file)?,
        ])
    }

    /// With a configuration that writes these types of events, and knows the protocols that they need.
    fn suricata(&self, name: &'static str, types: &str, file: &str) -> Result<Candidate> {
        let known = |protocol: &str| if types.contains(protocol) { "yes" } else { "no" };
        let (http, tls, dns) = (known("http"), known("tls"), known("dns"));
        let yaml = format!(
            "%YAML 1.1\n---\n\
             vars: {{address-groups: {{HOME_NET: any, EXTERNAL_NET: any}}}}\n\
             outputs: [{{eve-log: {{enabled: yes, filetype: regular, filename: eve.json, types: [{types}]}}}}]\n\
             flow: {{memcap: 2gb, hash-size: 1048576, prealloc: 10000}}\n\
             stream: {{memcap: 1gb, reassembly: {{memcap: 1gb}}}}\n\
             app-layer: {{protocols: {{http: {{enabled: {http}}}, tls: {{enabled: {tls}}}, \
             dns: {{udp: {{enabled: {dns}}}, tcp: {{enabled: {dns}}}}}}}}}\n"
        );
        let (config, logs) = (self.path(&format!("{name}.yaml")), self.path("suricata"));
        std::fs::create_dir_all(&logs)?;
        std::fs::write(&config, yaml)?;
        let words =
            ["-c", &config, "-r", file, "-l", &logs, "-k", "none", "--runmode", "single", "-S", "/dev/null"];
        Ok(candidate(name, "suricata", &words))
    }

    /// The run in the middle by CPU time.
    fn take(&self, candidate: &Candidate) -> Result<Took> {
        let said = self.dir.join("said");
        let words: Vec<&str> = candidate.arguments.iter().map(String::as_str).collect();
        let mut runs = Vec::new();
        for _ in 0..RUNS {
            // An import that was done is not done again: each begins with nothing.
            let state = self.dir.join("state");
            if state.exists() {
                std::fs::remove_dir_all(state)?;
            }
            runs.push(run::alone(&candidate.program, &words, &said)?);
        }
        runs.sort_by(|a, b| a.cpu_s.total_cmp(&b.cpu_s));
        Ok(runs[RUNS / 2])
    }

    fn compare(
        &self,
        title: &str,
        written: Written,
        candidates: &[Candidate],
        report: &mut Report,
    ) -> Result<()> {
        let head = ["program", "kpps a core", "× gnomon", "Gbit/s a core", "CPU s", "wall s", "RSS MiB"];
        let mut table = Table::new(title, &head);
        let mut ours = None;
        for candidate in candidates {
            eprintln!("==> {}", candidate.name);
            if !installed(&candidate.program) {
                let missing = format!("SKIPPED: {} is not installed", candidate.program);
                eprintln!("{missing}");
                table.row(vec![candidate.name.into(), missing]);
                continue;
            }
            let took = match self.take(candidate) {
                Ok(took) => took,
                Err(error) => {
                    eprintln!("FAILED: {error:#}");
                    table.row(vec![candidate.name.into(), "FAILED".into()]);
                    continue;
                }
            };
            let kpps = written.packets as f64 / took.cpu_s / 1e3;
            if candidate.program == self.agent {
                ours.get_or_insert(kpps);
            }
            table.row(vec![
                candidate.name.into(),
                format!("{kpps:.0}"),
                ours.map_or_else(|| "–".into(), |ours| format!("{:.2}", kpps / ours)),
                format!("{:.2}", written.bytes as f64 * 8.0 / took.cpu_s / 1e9),
                format!("{:.2}", took.cpu_s),
                format!("{:.2}", took.wall_s),
                format!("{:.0}", took.rss_max_kib as f64 / 1024.0),
            ]);
        }
        report.add(&table);
        Ok(())
    }

    /// Memory for each of many flows that are there at once.
    fn memory(&self, report: &mut Report) -> Result<()> {
        let mut table = Table::new(
            "Memory for flows that are there at once",
            &["program", "164 k: RSS MiB", "1 M: RSS MiB", "B a flow"],
        );
        let mut files = Vec::new();
        for flows in [FLOWS, MANY_FLOWS] {
            let path = self.path(&format!("{flows}.pcap"));
            capture::write(Path::new(&path), Mix { flows, at_once: flows as usize, talk: false })?;
            files.push(path);
        }
        let of = |file: &str| -> Result<Vec<Candidate>> {
            Ok(self.flows_only(file)?.into_iter().filter(|one| installed(&one.program)).skip(1).collect())
        };
        for (few, many) in of(&files[0])?.iter().zip(&of(&files[1])?) {
            eprintln!("==> memory, {}", few.name);
            let (few_took, many_took) = match (self.take(few), self.take(many)) {
                (Ok(few), Ok(many)) => (few.rss_max_kib, many.rss_max_kib),
                (Err(error), _) | (_, Err(error)) => {
                    eprintln!("FAILED: {error:#}");
                    continue;
                }
            };
            let each = many_took.saturating_sub(few_took) * 1024 / u64::from(MANY_FLOWS - FLOWS);
            let mib = |kib: u64| format!("{}", kib / 1024);
            table.row(vec![few.name.into(), mib(few_took), mib(many_took), each.to_string()]);
        }
        report.add(&table);
        Ok(())
    }
}

fn installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    program.contains('/') || std::env::split_paths(&path).any(|dir| dir.join(program).exists())
}

pub(crate) fn measure(bin_dir: &Path, report: &mut Report) -> Result<()> {
    let dir = tempfile::Builder::new().prefix("gnomon-bench-").tempdir()?;
    let netflow = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    let sink = Sink::open(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?, true)?;
    let agent = bin_dir.join("gnomon-agent").canonicalize().context("find gnomon-agent")?;
    let bench = Bench { agent: agent.display().to_string(), dir: dir.path(), netflow, sink };
    let file = bench.path("talk.pcap");
    eprintln!("==> writing {file}");
    let written = capture::write(Path::new(&file), Mix { flows: FLOWS, at_once: 20_000, talk: true })?;
    let what = format!(
        "{:.1} M packets of {} B on average, {FLOWS} flows: 35 % DNS, 30 % TLS, 25 % HTTP, 10 % streams of UDP",
        written.packets as f64 / 1e6,
        written.bytes / written.packets.max(1)
    );
    bench.compare(&format!("Flows alone ({what})"), written, &bench.flows_only(&file)?, report)?;
    bench.compare("With metadata (the same file)", written, &bench.metadata(&file)?, report)?;
    std::fs::remove_file(&file)?;
    bench.memory(report)
}
