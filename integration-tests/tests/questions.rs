//! Many questions, and answers that nobody reads: ingest, other callers and the collector's memory go on.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use gnomon_clock::{Clock, KernelClock};
use gnomon_integration_tests::fleet::{Collector, built_binaries, eventually};
use gnomon_integration_tests::flood::{Flood, Rate, p99};
use rustix::net::{AddressFamily, SocketType, bind, connect, socket};

const NEVER_READING: usize = 500;
const FACETS: usize = 200;
const RECORDS: u64 = 40_000;
/// What the collector may take: `query.memory_max` is half of it.
const RESIDENT_MAX: u64 = 1 << 30;
/// The limits are those of an idle machine; a busy one is granted this much more, and the time that the collector
/// waited for the processor.
const PATIENCE: u32 = 3;
const ACK_MAX: Duration = Duration::from_secs(1);
const ANSWER_MAX: Duration = Duration::from_secs(2);
const HEALTH_MAX: Duration = Duration::from_millis(100);
const GREEDY: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 1);
const HONEST: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// A connection from this address of loopback.
fn connection(from: Ipv4Addr, to: SocketAddr) -> Result<TcpStream> {
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None)?;
    bind(&socket, &SocketAddrV4::new(from, 0))?;
    connect(&socket, &to)?;
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    Ok(stream)
}

/// The status and the body of one `GET`.
fn get(from: Ipv4Addr, to: SocketAddr, path: &str) -> Result<(u16, String)> {
    let mut stream = connection(from, to)?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {to}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no head")?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).context("no status")?;
    Ok((status, body.to_owned()))
}

/// Asks for 10,000 records by HTTP/1.1; the answer is not read.
fn ask_http(to: SocketAddr) -> Result<TcpStream> {
    let mut stream = connection(GREEDY, to)?;
    write!(stream, "GET /api/v1/search?limit=10000 HTTP/1.1\r\nHost: {to}\r\n\r\n")?;
    Ok(stream)
}

/// The same by gRPC, with a window of nothing: the collector may not send a byte of the answer.
fn ask_grpc(to: SocketAddr) -> Result<TcpStream> {
    let mut stream = connection(GREEDY, to)?;
    let mut wire = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    let frame = |kind: u8, flags: u8, id: u32, payload: &[u8]| {
        let len = (payload.len() as u32).to_be_bytes();
        [&len[1..], &[kind, flags], &id.to_be_bytes(), payload].concat()
    };
    // SETTINGS_INITIAL_WINDOW_SIZE is 4.
    wire.extend(frame(4, 0, 0, &[0, 4, 0, 0, 0, 0]));
    let authority = to.to_string();
    let fields = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", "/gnomon.v1.Query/Search"),
        (":authority", authority.as_str()),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ];
    let mut head = Vec::new();
    for (name, value) in fields {
        // A literal field without indexing, its name new (RFC 7541, section 6.2.2).
        head.extend(
            [&[0, name.len() as u8], name.as_bytes(), &[value.len() as u8], value.as_bytes()].concat(),
        );
    }
    wire.extend(frame(1, 4, 1, &head));
    // SearchRequest.limit, field 4.
    let message = [0x20, 0x90, 0x4e];
    let data = [&[0u8, 0, 0, 0, message.len() as u8][..], &message].concat();
    wire.extend(frame(0, 1, 1, &data));
    stream.write_all(&wire)?;
    Ok(stream)
}

/// Asks again and again until `stop`, and gives how long each took and how many were not answered.
fn asks(
    http: SocketAddr,
    path: &'static str,
    pause: Duration,
    stop: &Arc<AtomicBool>,
) -> thread::JoinHandle<(Vec<Duration>, Vec<String>)> {
    let stop = Arc::clone(stop);
    thread::spawn(move || {
        let (mut took, mut bad) = (Vec::new(), Vec::new());
        while !stop.load(Ordering::Relaxed) {
            let begun = KernelClock.monotonic();
            match get(HONEST, http, path) {
                Ok((200, _)) => {}
                other => bad.push(format!("{other:?}").chars().take(300).collect()),
            }
            took.push(Duration::from_nanos(KernelClock.monotonic().since(begun)));
            thread::sleep(pause);
        }
        (took, bad)
    })
}

/// How long the collector's server threads stood in the processor's queue so far, at most: other programs, and other tests,
/// want the processor too.
fn queued(pid: u32) -> Result<Duration> {
    let mut longest = 0;
    for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let task = task?.path();
        // A thread may end between two looks.
        let read = |file| std::fs::read_to_string(task.join(file)).unwrap_or_default();
        if read("comm").starts_with("tokio") {
            let waited = read("schedstat").split(' ').nth(1).and_then(|ns| ns.parse().ok());
            longest = longest.max(waited.unwrap_or(0));
        }
    }
    Ok(Duration::from_nanos(longest))
}

/// Kibibytes of a line of /proc/PID/status, in bytes.
fn resident(pid: u32, line: &str) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|l| l.strip_prefix(line)).context("no such line")?;
    let kib: u64 = line.trim_start_matches(':').trim().trim_end_matches(" kB").parse()?;
    Ok(kib << 10)
}

#[test]
fn questions_of_one_caller_starve_neither_ingest_nor_others_nor_memory() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let mut collector = Collector::start(&built_binaries()?, dir.path(), &[])?;
    let (grpc, http) = (collector.grpc, collector.http);
    let pid = collector.process()?.pid();
    let filling = Flood::start(
        grpc,
        1,
        Rate { records: 1000, entries_a_second: 1000, entries: RECORDS / 1000, open_for: 0 },
    )?;
    eventually("the store is full", 120, || Ok(filling.fate()), |fate| fate.entries_acked == RECORDS / 1000)?;
    let steady =
        Flood::start(grpc, 2, Rate { records: 50, entries_a_second: 10, entries: u64::MAX, open_for: 0 })?;
    eventually("entries are acknowledged", 20, || Ok(steady.fate().entries_acked), |acked| *acked > 5)?;
    let before = steady.fate().waits.len();

    let stop = Arc::new(AtomicBool::new(false));
    let pause = Duration::from_millis(200);
    let honest = asks(http, "/api/v1/search?limit=100", pause, &stop);
    let statuses = asks(http, "/api/v1/status", pause, &stop);
    let health = asks(http, "/healthz", Duration::from_millis(50), &stop);
    let queued_before = queued(pid)?;
    let refused = Arc::new(AtomicU64::new(0));

    // What is not let in is not held against the collector.
    let mut held = Vec::new();
    for n in 0..NEVER_READING {
        held.extend(if n % 2 == 0 { ask_http(http) } else { ask_grpc(grpc) }.ok());
    }
    thread::sleep(Duration::from_secs(5));
    drop(held);
    let facets: Vec<_> = (0..FACETS)
        .map(|_| {
            let refused = Arc::clone(&refused);
            thread::spawn(move || {
                match get(GREEDY, http, "/api/v1/facets?exact=true&expression=port.dst%3E%3D0") {
                    Ok((200, body)) => ensure_whole(&body),
                    _ => _ = refused.fetch_add(1, Ordering::Relaxed),
                }
            })
        })
        .collect();
    thread::sleep(Duration::from_secs(10));
    stop.store(true, Ordering::Relaxed);
    let mut facets_bad = 0;
    for facet in facets {
        facets_bad += usize::from(facet.join().is_err());
    }
    let (honest, honest_bad) = honest.join().map_err(|_| anyhow::anyhow!("a panic"))?;
    let (statuses, statuses_bad) = statuses.join().map_err(|_| anyhow::anyhow!("a panic"))?;
    let (health, health_bad) = health.join().map_err(|_| anyhow::anyhow!("a panic"))?;
    let granted = queued(pid)?.saturating_sub(queued_before);
    let fate = steady.fate();
    let waits = fate.waits.get(before..).unwrap_or_default();
    let peak = resident(pid, "VmHWM")?;
    println!(
        "peak {} MiB; p99: ack {:?} of {}, answer {:?} of {}, status {:?} of {}, health {:?} of {}; {} facets refused; {granted:?} without the processor",
        peak >> 20,
        p99(waits),
        waits.len(),
        p99(&honest),
        honest.len(),
        p99(&statuses),
        statuses.len(),
        p99(&health),
        health.len(),
        refused.load(Ordering::Relaxed),
    );
    ensure!(fate.error.is_none() && waits.len() > 50, "the agent was not served: {:?}", fate.error);
    ensure!(honest_bad.is_empty(), "another caller was not served: {honest_bad:?}");
    ensure!(statuses_bad.is_empty() && health_bad.is_empty(), "{statuses_bad:?} {health_bad:?}");
    ensure!(refused.load(Ordering::Relaxed) < FACETS as u64, "not one question was answered");
    ensure!(facets_bad == 0, "{facets_bad} facets were neither whole nor refused");
    ensure!(peak <= RESIDENT_MAX, "the collector took {} MiB", peak >> 20);
    ensure!(p99(waits) <= ACK_MAX * PATIENCE + granted, "an acknowledgement took {:?}", p99(waits));
    ensure!(p99(&honest) <= ANSWER_MAX * PATIENCE + granted, "an answer took {:?}", p99(&honest));
    ensure!(p99(&statuses) <= ANSWER_MAX * PATIENCE + granted, "the status took {:?}", p99(&statuses));
    ensure!(p99(&health) <= HEALTH_MAX * PATIENCE + granted, "/healthz took {:?}", p99(&health));

    // The collector is as before.
    let free = || get(GREEDY, http, "/api/v1/search?limit=10000").map(|(status, _)| status);
    eventually("the greedy caller is served again", 60, free, |status| *status == 200)?;
    ensure!(collector.stop()? == Some(0), "the collector does not end well");
    Ok(())
}

/// Says what is missing, or counts everything.
fn ensure_whole(body: &str) {
    let answer: serde_json::Value = serde_json::from_str(body).expect("JSON");
    let partial = answer["partial"].is_object();
    let missed = answer["fields"].as_array().expect("fields").iter().any(|field| field["missed_max"] != 0);
    assert!(partial || missed || answer["flows"].as_u64() >= Some(RECORDS), "{body}");
}
