//! `make bench-store`: how fast records go in, what they take, and how soon questions are answered. The records are made
//! up: five days of eight sensors, addresses and names as skewed as real ones, about forty values each.
//!
//! ```text
//! store_bench DIR ROWS [--csv FILE]     makes a store of ROWS records under DIR, or opens the one that is there
//! ```

mod traffic;

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
        anyhow::bail!("usage: store_bench DIR ROWS [--csv FILE]");
    };
    let rows: u64 = rows.parse()?;
    let csv = arguments.next().filter(|flag| flag == "--csv").and_then(|_| arguments.next());
    if let Some(csv) = csv {
        return write_csv(Path::new(&csv), rows);
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
    println!("open: {:?}, {} MiB resident", begun.elapsed(), resident_mib());
    let held = store.status()?.flows;
    let writer = if held == 0 { ingest(writer, &store, rows, Path::new(&dir))? } else { writer };
    ask(&store, &clock, rows)?;
    drop(writer);
    Ok(())
}

fn ingest(mut writer: Writer, store: &Store, rows: u64, dir: &Path) -> anyhow::Result<Writer> {
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
    println!("size: {:.1} bytes a record", bytes_under(&dir.join("db")) as f64 / rows as f64);
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

fn ask(store: &Store, clock: &Arc<dyn Clock>, rows: u64) -> anyhow::Result<()> {
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
        timed(what, &mut || Ok(runtime.block_on(queries.search(search.clone()))?.flows.len() as u64))?;
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
        timed(what, &mut || Ok(runtime.block_on(queries.top(top(fields, range)))?.rows.len() as u64))?;
    }
    let distinct = Top {
        distinct: vec!["port.dst".to_owned()],
        by: Measure::Distinct,
        ..top(&["ip.src", "ip.dst"], last(DAY_NS))
    };
    timed("pairs by distinct ports, last day", &mut || {
        Ok(runtime.block_on(queries.top(distinct.clone()))?.rows.len() as u64)
    })?;
    let hunt = Hunt { name: "scan".to_owned(), ..Hunt::default() };
    timed("hunt for scanners, 5 days", &mut || {
        let answer = runtime.block_on(queries.hunt(hunt.clone()))?;
        if let Some(first) = answer.findings.first() {
            eprintln!("first of the hunt: {} {}", first.score, first.expression);
        }
        Ok(answer.findings.len() as u64)
    })?;
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
        timed(what, &mut || {
            let answer = runtime.block_on(async {
                let mut answers = queries.facets(facets.clone()).await?;
                answers.recv().await.unwrap_or(Err(QueryError::Cancelled))
            })?;
            Ok(answer.fields.iter().map(|field| field.values.len() as u64).sum())
        })?;
    }
    let histogram =
        Histogram { interval_ns: 300_000_000_000, group: "node".to_owned(), ..Histogram::default() };
    timed("histogram 5 min x sensor", &mut || {
        Ok(runtime.block_on(queries.histogram(histogram.clone()))?.buckets.len() as u64)
    })?;
    let one =
        runtime.block_on(queries.search(Search { limit: 1, oldest_first: true, ..Search::default() }))?;
    let id = one.flows[0].id();
    timed("one record by id", &mut || Ok(u64::from(runtime.block_on(queries.get(id))?.id() == id)))?;
    println!("{} MiB resident", resident_mib());
    Ok(())
}

fn back(now: UtcNs, ns: u64) -> UtcNs {
    now.saturating_add_ns(-(ns.cast_signed()))
}

/// The first run and the best of three.
fn timed(what: &str, run: &mut dyn FnMut() -> anyhow::Result<u64>) -> anyhow::Result<()> {
    let mut times = Vec::new();
    let mut answer = 0;
    for _ in 0..4 {
        let begun = Watch::start();
        answer = run()?;
        times.push(begun.elapsed().as_secs_f64() * 1e3);
    }
    let best = times.iter().copied().fold(f64::MAX, f64::min);
    println!("{what:36} first {:9.1} ms, then {best:9.1} ms   ({answer})", times[0]);
    Ok(())
}

/// The same records for other stores to load, one a line.
fn write_csv(path: &Path, rows: u64) -> anyhow::Result<()> {
    let mut out = std::io::BufWriter::new(std::fs::File::create(path)?);
    let fields: Vec<_> = gnomon_flow::FIELDS
        .iter()
        .filter(|field| !field.any_of && !matches!(field.name, "communityId" | "epoch" | "node.id" | "id"))
        .collect();
    writeln!(
        out,
        "{}",
        fields.iter().map(|f| f.name.replace(['.', '-'], "_")).collect::<Vec<_>>().join(",")
    )?;
    let mut dice = Dice(1);
    let begin = UtcNs::from_unix_ns(1_700_000_000_000_000_000);
    let mut flow = gnomon_flow::StoredFlow {
        record: record(0, rows, &mut Dice(0)),
        origin: gnomon_flow::Origin::default(),
        first: None,
        last: None,
        ingested: None,
        time_state: gnomon_flow::TimeState::Indexed,
        time_reason: Default::default(),
    };
    for n in 0..rows {
        flow.record = record(n, rows, &mut dice);
        let sensor = dice.below(u64::from(SENSORS)) as u8;
        flow.origin.agent_name = format!("sensor-{sensor}").into();
        flow.origin.interface = "eth0".into();
        let at = |raw: RawNs| {
            Some(gnomon_clock::Estimate {
                utc: begin.saturating_add_ns(raw.0.cast_signed()),
                err_ns: 500_000,
                conflict: false,
            })
        };
        (flow.first, flow.last) = (at(flow.record.first), at(flow.record.last));
        flow.ingested = flow.last.map(|last| last.utc);
        let mut line = String::new();
        for field in &fields {
            let mut values = Vec::new();
            field.each(&flow, &mut |value| values.push(value.to_string()));
            if !line.is_empty() || field.id != fields[0].id {
                line.push(',');
            }
            line.push_str(&values.join("|"));
        }
        writeln!(out, "{line}")?;
    }
    Ok(out.flush()?)
}
