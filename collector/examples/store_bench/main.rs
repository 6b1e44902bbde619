//! `make bench-store`: how fast records go in, what they take, and how soon questions are answered. The records are made
//! up: five days of eight sensors, addresses and names as skewed as real ones, about forty values each.
//!
//! ```text
//! store_bench DIR ROWS [--only TEXT] [--figures FILE]
//!     makes a store of ROWS records under DIR, or opens the one that is there, and asks it the questions whose names have
//!     TEXT in them; FILE gets the figures, a name and a number in each line
//! store_bench DIR ROWS --csv FILE     writes the same records for other stores
//! ```

mod traffic;

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use gnomon_clock::{Clock, Fix, FixSource, KernelClock, MonoNs, Policy, RawNs, UtcNs};
use gnomon_collector::clock_gate::ClockGate;
use gnomon_collector::enrich::Enrichment;
use gnomon_collector::query::{
    Facets, Histogram, Hunt, Measure, Queries, QueryError, QueryLimits, Roller, Search, TimeRange, Top,
};
use gnomon_collector::store::{Body, Change, Content, Evidence, Limits, RecordBatch, Store, Writer, open};
use gnomon_collector::timekeeper::Timekeeper;
use traffic::{DAY_NS, Dice, SENSORS, SPAN_NS, epoch, name, record};

/// As in the collector.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const BATCH: u64 = 1000;

/// How long something took.
struct Watch(MonoNs);

impl Watch {
    fn start() -> Watch {
        Watch(KernelClock.monotonic())
    }

    fn elapsed(&self) -> Duration {
        Duration::from_nanos(KernelClock.monotonic().since(self.0))
    }
}

/// Seconds of processor that this process took, all threads.
fn cpu() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after = stat.rsplit(')').next().unwrap_or_default();
    let ticks: u64 = after.split_whitespace().skip(11).take(2).filter_map(|t| t.parse::<u64>().ok()).sum();
    ticks as f64 / 100.0
}

fn resident_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let of = |key: &str| {
        let line = status.lines().find(|line| line.starts_with(key))?;
        line.split_whitespace().nth(1)?.parse::<u64>().ok()
    };
    of("VmRSS:").unwrap_or(0) / 1024
}

fn bytes_under(dir: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(dir) else { return 0 };
    let size = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => bytes_under(&entry.path()),
        Ok(meta) => meta.len(),
        Err(_) => 0,
    };
    entries.flatten().map(size).sum()
}

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let (Some(dir), Some(rows)) = (arguments.next(), arguments.next()) else {
        anyhow::bail!("usage: store_bench DIR ROWS [--only TEXT] [--figures FILE] [--csv FILE]");
    };
    let rows: u64 = rows.parse()?;
    let mut report = Report::default();
    while let (Some(flag), Some(value)) = (arguments.next(), arguments.next()) {
        match flag.as_str() {
            "--csv" => return write_csv(Path::new(&value), rows),
            "--only" => report.only = value,
            "--figures" => report.figures = Some(std::fs::File::create(value)?),
            other => anyhow::bail!("what is {other}?"),
        }
    }
    let clock: Arc<dyn Clock> = Arc::new(KernelClock);
    let gate = ClockGate::new(Timekeeper::new(Arc::clone(&clock)), Policy::default());
    let limits = Limits {
        packets_bytes_max: 1 << 30,
        flows_bytes_max: 1 << 40,
        flows_bytes_kept: 1 << 20,
        free_bytes_min: 1 << 20,
        packets_age_ns_max: None,
        flows_age_ns_max: None,
    };
    let begun = Watch::start();
    let (store, writer) = open(Path::new(&dir), gate, limits)?;
    let opened = begun.elapsed();
    println!("open: {opened:?}, {} MiB resident", resident_mib());
    let held = store.status()?.flows;
    if held > 0 {
        report.figure("open", "ms", opened.as_secs_f64() * 1e3)?;
    }
    let writer = if held == 0 { ingest(writer, &store, rows, Path::new(&dir), &mut report)? } else { writer };
    ask(&store, &clock, rows, &mut report)?;
    drop(writer);
    Ok(())
}

/// What is asked, and where the figures go.
#[derive(Default)]
struct Report {
    only: String,
    figures: Option<std::fs::File>,
}

impl Report {
    fn figure(&mut self, what: &str, unit: &str, value: f64) -> anyhow::Result<()> {
        if let Some(figures) = &mut self.figures {
            writeln!(figures, "{what}\t{unit}\t{value}")?;
        }
        Ok(())
    }

    /// The first run, then the median of five and the best of them.
    fn timed(&mut self, what: &str, run: &mut dyn FnMut() -> anyhow::Result<u64>) -> anyhow::Result<()> {
        if !what.contains(&self.only) {
            return Ok(());
        }
        let mut once = || -> anyhow::Result<(f64, u64)> {
            let begun = Watch::start();
            let answer = run()?;
            Ok((begun.elapsed().as_secs_f64() * 1e3, answer))
        };
        let (first, answer) = once()?;
        let mut times = (0..5).map(|_| once().map(|(ms, _)| ms)).collect::<anyhow::Result<Vec<_>>>()?;
        times.sort_by(f64::total_cmp);
        let (best, median) = (times[0], times[2]);
        println!("{what:40} first {first:8.1} ms, then {median:8.1} ms, best {best:8.1} ms   ({answer})");
        self.figure(what, "ms", median)
    }
}

fn ingest(
    mut writer: Writer,
    store: &Store,
    rows: u64,
    dir: &Path,
    report: &mut Report,
) -> anyhow::Result<Writer> {
    let begin = store.now().utc.saturating_add_ns(-(SPAN_NS.cast_signed()));
    let fixes = |_| {
        (0..=SPAN_NS / 1_800_000_000_000)
            .map(|n| n * 1_800_000_000_000)
            .map(|raw| Fix {
                raw: RawNs(raw),
                utc: begin.saturating_add_ns(raw.cast_signed()),
                err_ns: 500_000,
                source: FixSource::Chrony,
            })
            .collect()
    };
    for sensor in 0..SENSORS {
        let body = Body::Evidence(Evidence { fixes: fixes(sensor), ..Evidence::default() });
        writer.commit(&[Change {
            epoch: epoch(sensor),
            agent_name: format!("sensor-{sensor}").into(),
            body,
        }])?;
    }
    let mut dice = Dice(1);
    let (mut cpu_s, mut wall, mut decode_s) = (0.0, Duration::ZERO, 0.0);
    let (mut commit_s, mut settle_s) = (0.0, 0.0);
    let mut slowest = Duration::ZERO;
    let mut seqs = [0u64; SENSORS as usize];
    let mut n = 0;
    while n < rows {
        let mut payloads = Vec::new();
        for _ in 0..16 {
            let records: Vec<_> = (n..(n + BATCH).min(rows)).map(|n| record(n, rows, &mut dice)).collect();
            n += records.len() as u64;
            payloads.push(RecordBatch::payload("eth0", &records));
        }
        for payload in payloads {
            let sensor = (dice.below(u64::from(SENSORS))) as u8;
            seqs[usize::from(sensor)] += 1;
            let before = cpu();
            let begun = Watch::start();
            let batch = RecordBatch::read(&payload, &Enrichment::default())?;
            decode_s += begun.elapsed().as_secs_f64();
            let committing = Watch::start();
            let content = Content::Flows {
                interface: batch.interface.into(),
                records: batch.records,
                alerts: Vec::new(),
                payload,
            };
            let body = Body::Entry { seq: seqs[usize::from(sensor)], content };
            let name = format!("sensor-{sensor}").into();
            writer.commit(&[Change { epoch: epoch(sensor), agent_name: name, body }])?;
            slowest = slowest.max(committing.elapsed());
            commit_s += committing.elapsed().as_secs_f64();
            let settling = Watch::start();
            while writer.settle()? {}
            settle_s += settling.elapsed().as_secs_f64();
            wall += begun.elapsed();
            cpu_s += cpu() - before;
        }
        if n % 1_000_000 < 16 * BATCH {
            eprintln!(
                "{n} records, {:.0} k/s, {} MiB resident",
                n as f64 / wall.as_secs_f64() / 1e3,
                resident_mib()
            );
        }
    }
    println!(
        "ingest: {:.0} k records per CPU-second ({:.0} k without decoding), {:.0} k/s, slowest commit {:?}, {} MiB resident",
        rows as f64 / cpu_s / 1e3,
        rows as f64 / (cpu_s - decode_s) / 1e3,
        rows as f64 / wall.as_secs_f64() / 1e3,
        slowest,
        resident_mib()
    );
    let each_us = |seconds: f64| seconds / rows as f64 * 1e6;
    println!(
        "a record: {:.2} us to decode, {:.2} to commit, {:.2} into its block",
        each_us(decode_s),
        each_us(commit_s),
        each_us(settle_s)
    );
    let bytes_each = bytes_under(&dir.join("db")) as f64 / rows as f64;
    println!("size: {bytes_each:.1} bytes a record");
    report.figure("ingest", "records a CPU-second", rows as f64 / cpu_s)?;
    report.figure("ingest without decoding", "records a CPU-second", rows as f64 / (cpu_s - decode_s))?;
    report.figure("size", "bytes a record", bytes_each)?;
    report.figure("memory while taking in", "MiB", resident_mib() as f64)?;
    Ok(writer)
}

/// What facets are asked of.
const FACETS: [&str; 20] = [
    "node",
    "ip.src",
    "ip.dst",
    "port.src",
    "port.dst",
    "ip.protocol",
    "vlan",
    "mac.src",
    "ttl.src",
    "tcp.state",
    "end.reason",
    "protocols",
    "tags",
    "dns.host",
    "dns.status",
    "tls.host",
    "tls.ja3",
    "http.host",
    "http.uri",
    "http.user-agent",
];

fn ask(store: &Store, clock: &Arc<dyn Clock>, rows: u64, report: &mut Report) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let limits = QueryLimits { deadline_ms: 600_000, ..QueryLimits::default() };
    let shutdown = gnomon_daemon::shutdown::CancellationToken::new();
    let queries = Queries::new(store.clone(), Arc::clone(clock), limits, shutdown);
    let status = store.status()?;
    println!("{} records, asked of {rows}", status.flows);
    let now = store.now().utc;
    let last = |ns: u64| TimeRange { since: Some(back(now, ns)), ..TimeRange::default() };
    let searches = [
        ("newest 50", "", TimeRange::default()),
        ("one address, 5 days, newest 50", "ip == 10.0.10.40", last(SPAN_NS)),
        ("ssh, packets >= 3, last day", "port.dst == 22 && packets >= 3", last(DAY_NS)),
        ("CIDR /24 and bytes > 1 M, 5 days", "ip.src == 10.0.30.0/24 && bytes > 1000000", last(SPAN_NS)),
        ("host equality", &format!("tls.host == {}", name(4242)), TimeRange::default()),
        ("absent address", "ip == 203.0.113.9", TimeRange::default()),
        ("host contains", "tls.host == *video96.video*", TimeRange::default()),
        ("tag equality", "tags == tor", TimeRange::default()),
    ];
    for (what, expression, range) in searches {
        let search = Search { expression: expression.to_owned(), range, limit: 50, ..Search::default() };
        report
            .timed(what, &mut || Ok(runtime.block_on(queries.search(search.clone()))?.flows.len() as u64))?;
    }
    let top = |fields: &[&str], range: TimeRange| Top {
        fields: fields.iter().map(|name| (*name).to_owned()).collect(),
        range,
        by: Measure::Flows,
        limit: 10,
        ..Top::default()
    };
    for (what, fields, range) in [
        ("count by port, 5 days", &["port.dst"][..], TimeRange::default()),
        ("top sources, 5 days", &["ip.src"], TimeRange::default()),
        ("top hosts, last hour", &["tls.host"], last(3_600_000_000_000)),
        ("source and port, last day", &["ip.src", "port.dst"], last(DAY_NS)),
    ] {
        report
            .timed(what, &mut || Ok(runtime.block_on(queries.top(top(fields, range)))?.rows.len() as u64))?;
    }
    let distinct = Top {
        distinct: vec!["port.dst".to_owned()],
        by: Measure::Distinct,
        ..top(&["ip.src", "ip.dst"], last(DAY_NS))
    };
    report.timed("pairs by distinct ports, last day", &mut || {
        Ok(runtime.block_on(queries.top(distinct.clone()))?.rows.len() as u64)
    })?;
    let hunt = Hunt { name: "scan".to_owned(), ..Hunt::default() };
    report.timed("hunt for scanners, 5 days", &mut || {
        let answer = runtime.block_on(queries.hunt(hunt.clone()))?;
        Ok(answer.findings.len() as u64)
    })?;
    if report.only == "nothing" {
        return Ok(());
    }
    let rolling = Watch::start();
    let before = cpu();
    let mut roller = Roller::new(store.clone());
    let mut rollups = 0;
    loop {
        match roller.round()? {
            0 => break,
            made => rollups += made,
        }
    }
    if rollups > 0 {
        println!(
            "{rollups} rollups: {:?}, {:.2} us of CPU and {:.1} bytes a record, not yet compressed",
            rolling.elapsed(),
            (cpu() - before) / rows as f64 * 1e6,
            roller.bytes() as f64 / rows as f64,
        );
    }
    for (what, expression, range, exact) in [
        ("facets, 20 fields, 1 hour", "", last(3_600_000_000_000), true),
        ("facets, 20 fields, 5 days, port filter", "port.dst == 443", TimeRange::default(), true),
        ("facets, 20 fields, 5 days, exact", "", TimeRange::default(), true),
        ("facets, 20 fields, 5 days, from rollups", "", TimeRange::default(), false),
    ] {
        let facets = Facets {
            expression: expression.to_owned(),
            range,
            fields: FACETS.iter().map(|name| (*name).to_owned()).collect(),
            exact,
            ..Facets::default()
        };
        report.timed(what, &mut || {
            let answer = runtime.block_on(async {
                let mut answers = queries.facets(facets.clone()).await?;
                answers.recv().await.unwrap_or(Err(QueryError::Cancelled))
            })?;
            Ok(answer.fields.iter().map(|field| field.values.len() as u64).sum())
        })?;
    }
    let histogram =
        Histogram { interval_ns: 300_000_000_000, group: "node".to_owned(), ..Histogram::default() };
    report.timed("histogram 5 min x sensor", &mut || {
        Ok(runtime.block_on(queries.histogram(histogram.clone()))?.buckets.len() as u64)
    })?;
    let one =
        runtime.block_on(queries.search(Search { limit: 1, oldest_first: true, ..Search::default() }))?;
    let id = one.flows[0].id();
    report.timed("one record by id", &mut || Ok(u64::from(runtime.block_on(queries.get(id))?.id() == id)))?;
    println!("{} MiB resident", resident_mib());
    Ok(())
}

fn back(now: UtcNs, ns: u64) -> UtcNs {
    now.saturating_add_ns(-(ns.cast_signed()))
}

/// A record of the bench as other stores get it.
fn exported(record: gnomon_flow::FlowRecord, sensor: u8) -> gnomon_flow::StoredFlow {
    let begin = UtcNs::from_unix_ns(1_700_000_000_000_000_000);
    let at = |raw: RawNs| {
        let utc = begin.saturating_add_ns(raw.0.cast_signed());
        Some(gnomon_clock::Estimate { utc, err_ns: 500_000, conflict: false })
    };
    let last = at(record.last);
    gnomon_flow::StoredFlow {
        origin: gnomon_flow::Origin {
            agent_name: format!("sensor-{sensor}").into(),
            interface: "eth0".into(),
            ..Default::default()
        },
        first: at(record.first),
        last,
        ingested: last.map(|last| last.utc),
        record,
        ..Default::default()
    }
}

/// The same records for other stores to load, one a line: the fields that any of the first records has.
fn write_csv(path: &Path, rows: u64) -> anyhow::Result<()> {
    let mut out = std::io::BufWriter::with_capacity(1 << 20, std::fs::File::create(path)?);
    let mut dice = Dice(1);
    let some: Vec<_> = (0..rows.min(20_000)).map(|n| exported(record(n, rows, &mut dice), 0)).collect();
    let has = |field: &gnomon_flow::Field| {
        some.iter().any(|flow| {
            let mut has = false;
            field.each(flow, &mut |_| has = true);
            has
        })
    };
    let fields: Vec<_> = gnomon_flow::FIELDS
        .iter()
        .filter(|field| !field.any_of && !matches!(field.name, "communityId" | "epoch" | "node.id" | "id"))
        .filter(|field| has(field))
        .collect();
    let names: Vec<_> = fields.iter().map(|field| field.name.replace(['.', '-'], "_")).collect();
    writeln!(out, "{}", names.join(","))?;
    let mut dice = Dice(1);
    let mut line = String::new();
    for n in 0..rows {
        let flow = exported(record(n, rows, &mut dice), (n / BATCH % u64::from(SENSORS)) as u8);
        line.clear();
        for (at, field) in fields.iter().enumerate() {
            line.push_str(if at > 0 { "," } else { "" });
            let mut more = false;
            field.each(&flow, &mut |value| {
                line.push_str(if std::mem::replace(&mut more, true) { "|" } else { "" });
                // Writing to a string cannot fail.
                let _ = write!(line, "{value}");
            });
        }
        writeln!(out, "{line}")?;
    }
    Ok(out.flush()?)
}
