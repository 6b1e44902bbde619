//! `make bench-store`: how fast records go in, what they take, and how soon questions are answered. The records are made
//! up: five days of eight sensors, addresses and names as skewed as real ones, about forty values each.
//!
//! ```text
//! store_bench DIR ROWS [--only TEXT] [--figures FILE] [--paced SECONDS]
//!     makes a store of ROWS records under DIR, or opens the one that is there, and asks it the questions whose names have
//!     TEXT in them; FILE gets the figures, a name and a number in each line. With --paced the last records of a new store
//!     come in for so many seconds at 100,000 a second, while searches are asked
//! store_bench DIR ROWS --csv FILE     writes the same records for other stores
//! ```

mod load;
mod traffic;

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use gnomon_clock::{Clock, KernelClock, MonoNs, Policy, RawNs, UtcNs};
use gnomon_collector::clock_gate::ClockGate;
use gnomon_collector::query::{
    Facets, Histogram, Hunt, Measure, Queries, QueryError, QueryLimits, Search, TimeRange, Top,
};
use gnomon_collector::store::{Limits, Store, open};
use gnomon_collector::timekeeper::Timekeeper;
use traffic::{DAY_NS, Dice, SENSORS, SPAN_NS, name, record};

/// As in the collector.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const BATCH: u64 = 1000;
/// A question that takes longer is not asked six times.
const LONG_MS: f64 = 5000.0;

/// How long something took.
#[derive(Clone, Copy)]
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

/// Those of this thread.
fn cpu_of_thread() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
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
        anyhow::bail!(
            "usage: store_bench DIR ROWS [--only TEXT] [--figures FILE] [--paced SECONDS] [--csv FILE]"
        );
    };
    let rows: u64 = rows.parse()?;
    let mut report = Report::default();
    let mut paced_s = 0;
    while let (Some(flag), Some(value)) = (arguments.next(), arguments.next()) {
        match flag.as_str() {
            "--csv" => return write_csv(Path::new(&value), rows),
            "--only" => report.only = value,
            "--paced" => paced_s = value.parse()?,
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
    load::room_for(Path::new(&dir), rows)?;
    let begun = Watch::start();
    let (store, writer) = open(Path::new(&dir), &gate, limits)?;
    let opened = begun.elapsed();
    println!("open: {opened:?}, {} MiB resident", resident_mib());
    let held = store.status()?.flows;
    if held > 0 {
        report.figure("open", "ms", opened.as_secs_f64() * 1e3)?;
    }
    let queries = queries(&store, &clock);
    let writer = if held < rows {
        load::Load { from: held, rows, paced_s, dir: Path::new(&dir) }.run(
            writer,
            &store,
            &queries,
            &mut report,
        )?
    } else {
        // The open emptied the log of the database, which has up to 96 MiB however many records there are.
        let bytes_each = bytes_under(&Path::new(&dir).join("db")) as f64 / held as f64;
        println!("size: {bytes_each:.1} bytes a record");
        report.figure("size", "bytes a record", bytes_each)?;
        writer
    };
    ask(&store, &queries, rows, &mut report)?;
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

    /// The first run, then the median of five and the best of them; of one where the first took very long.
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
        let runs = if first > LONG_MS { 1 } else { 5 };
        let mut times = (0..runs).map(|_| once().map(|(ms, _)| ms)).collect::<anyhow::Result<Vec<_>>>()?;
        times.sort_by(f64::total_cmp);
        let (best, median) = (times[0], times[runs / 2]);
        println!("{what:40} first {first:8.1} ms, then {median:8.1} ms, best {best:8.1} ms   ({answer})");
        self.figure(what, "ms", median)
    }
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

fn queries(store: &Store, clock: &Arc<dyn Clock>) -> Queries {
    let limits = QueryLimits { deadline_ms: 600_000, ..QueryLimits::default() };
    let shutdown = gnomon_daemon::shutdown::CancellationToken::new();
    Queries::new(store.clone(), Arc::clone(clock), limits, shutdown)
}

/// The searches, each with its name.
fn searches(store: &Store) -> Vec<(&'static str, Search)> {
    let now = store.now().utc;
    let last = |ns: u64| TimeRange { since: Some(back(now, ns)), ..TimeRange::default() };
    let searches = [
        ("newest 50", String::new(), TimeRange::default()),
        ("one address, 5 days, newest 50", "ip == 10.0.10.40".to_owned(), last(SPAN_NS)),
        ("ssh, packets >= 3, last day", "port.dst == 22 && packets >= 3".to_owned(), last(DAY_NS)),
        (
            "CIDR /24 and bytes > 1 M, 5 days",
            "ip.src == 10.0.30.0/24 && bytes > 1000000".to_owned(),
            last(SPAN_NS),
        ),
        ("host equality", format!("tls.host == {}", name(4242)), TimeRange::default()),
        ("absent address", "ip == 203.0.113.9".to_owned(), TimeRange::default()),
        ("host contains", "tls.host == *video96.video*".to_owned(), TimeRange::default()),
        ("tag equality", "tags == tor".to_owned(), TimeRange::default()),
    ];
    let search =
        |(what, expression, range)| (what, Search { expression, range, limit: 50, ..Search::default() });
    searches.into_iter().map(search).collect()
}

fn ask(store: &Store, queries: &Queries, rows: u64, report: &mut Report) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let status = store.status()?;
    println!("{} records, asked of {rows}", status.flows);
    let now = store.now().utc;
    let last = |ns: u64| TimeRange { since: Some(back(now, ns)), ..TimeRange::default() };
    for (what, search) in searches(store) {
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
    load::roll_up(store, rows, report)?;
    for (what, expression, range, exact) in [
        ("facets, 20 fields, 1 hour", "", last(3_600_000_000_000), true),
        ("facets, 20 fields, 5 days, port filter", "port.dst == 443", TimeRange::default(), true),
        ("facets, 20 fields, 5 days, exact", "", TimeRange::default(), true),
        ("facets, 20 fields, 5 days, from rollups", "", TimeRange::default(), false),
        ("facets, 20 fields, 3 days of 5, from rollups", "", last(3 * DAY_NS), false),
    ] {
        let facets = Facets {
            expression: expression.to_owned(),
            range,
            fields: FACETS.iter().map(|name| (*name).to_owned()).collect(),
            exact,
            ..Facets::default()
        };
        let first = |facets: Facets| {
            let answer = runtime.block_on(async {
                let mut answers = queries.facets(facets).await?;
                answers.recv().await.unwrap_or(Err(QueryError::Cancelled))
            })?;
            anyhow::Ok(answer.fields.iter().map(|field| field.values.len() as u64).sum())
        };
        if !expression.is_empty() {
            // What is shown at once, before the answer that is exact.
            let refined = Facets { refine: true, ..facets.clone() };
            report.timed(&format!("{what}, first answer"), &mut || first(refined.clone()))?;
        }
        report.timed(what, &mut || first(facets.clone()))?;
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
