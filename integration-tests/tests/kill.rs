//! SIGKILL at random under load: what was acknowledged stays, and no answer has a record twice.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use gnomon_clock::{Clock, KernelClock};
use gnomon_integration_tests::fleet::{Agent, Collector, built_binaries, eventually};
use gnomon_integration_tests::forward::Forward;
use gnomon_integration_tests::netns::skip;
use gnomon_integration_tests::traffic;

/// About half a second each; GNOMON_KILLS=500 for a long run.
const KILLS: usize = 50;

const KILLS_PER_CHECK: usize = 5;

/// Between two flows of the load.
const FLOW_PAUSE: Duration = Duration::from_millis(10);

fn kills() -> usize {
    std::env::var("GNOMON_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(KILLS)
}

/// The load alone: nothing else is counted, not the packets that looked for the start of the capture, nor what an IPv6 host
/// says by itself.
const LOAD: &str = "ip.dst == 10.9.0.2 && port.dst >= 1000";

const PACKETS_PER_FLOW: u64 = 20;

/// Packets by id; a record that comes twice is an error.
fn packets_by_id(collector: &Collector, expression: &str) -> Result<HashMap<String, u64>> {
    let mut seen = HashMap::new();
    for flow in collector.flows(expression)? {
        let id = flow["id"].as_str().context("a flow without id")?.to_owned();
        let packets = flow["packets"].as_u64().context("a flow without packets")?;
        assert!(seen.insert(id.clone(), packets).is_none(), "{id} is in the answer twice");
    }
    Ok(seen)
}

/// The ports whose records do not add up, for the message of a failure.
fn uneven_ports(collector: &Collector) -> Result<String> {
    let mut by_port: BTreeMap<u64, Vec<String>> = BTreeMap::new();
    let mut packets: BTreeMap<u64, u64> = BTreeMap::new();
    for flow in collector.flows(LOAD)? {
        let port = flow["port.dst"].as_u64().context("a flow without a port")?;
        *packets.entry(port).or_default() += flow["packets"].as_u64().unwrap_or(0);
        by_port.entry(port).or_default().push(flow.to_string());
    }
    let (first, last) = (packets.keys().next().copied(), packets.keys().last().copied());
    let absent = (first.unwrap_or(0)..last.unwrap_or(0)).filter(|port| !packets.contains_key(port));
    let uneven = packets.iter().filter(|(_, n)| **n % PACKETS_PER_FLOW != 0);
    let lines =
        uneven.take(10).map(|(port, n)| format!("{port}: {n} packets\n  {}", by_port[port].join("\n  ")));
    Ok(format!(
        "ports {first:?} to {last:?}; absent: {:?}; uneven:\n{}",
        absent.collect::<Vec<_>>(),
        lines.collect::<Vec<_>>().join("\n")
    ))
}

/// Milliseconds to wait before a kill: no two runs alike, none of them long.
fn some_ms(clock: &KernelClock) -> u64 {
    50 + clock.raw().0 / 1_000 % 400
}

fn under_load(what_to_kill: &str) -> Result<()> {
    if skip() {
        return Ok(());
    }
    let bin_dir = built_binaries()?;
    let dir = tempfile::tempdir()?;
    let (client, sensor) = traffic::host_and_tap(1_500)?;
    let mut collector = Collector::start(&bin_dir, &dir.path().join("collector"), &[])?;
    let link = Forward::open(&sensor, SocketAddr::from(([127, 0, 0, 1], 7440)), collector.grpc)?;
    let url = format!("http://{}", link.address());
    let mut agent = Agent::start(
        &bin_dir,
        &dir.path().join("agent"),
        Some(&sensor),
        r#"name = "tap", stance = "host""#,
        &url,
        &[],
    )?;
    let packets = |collector: &Collector| -> Result<u64> { Ok(collector.count("")?.1) };
    let first = SocketAddr::from(([10, 9, 0, 2], 9));
    eventually(
        "the first packets are found",
        30,
        || {
            traffic::udp(&client, first, 1, 60, 0)?;
            packets(&collector)
        },
        |n| *n > 0,
    )?;

    let stop = Arc::new(AtomicBool::new(false));
    let load = {
        let stop = Arc::clone(&stop);
        thread::spawn(move || -> Result<_> {
            let (mut sent, mut port) = (0, 1_000u16);
            while !stop.load(Ordering::Relaxed) {
                port = if port < 60_000 { port + 1 } else { 1_000 };
                traffic::udp(&client, SocketAddr::from(([10, 9, 0, 2], port)), PACKETS_PER_FLOW, 300, 0)?;
                sent += PACKETS_PER_FLOW;
                thread::sleep(FLOW_PAUSE);
            }
            // The sender goes last: with its namespace goes the link, and what is on it.
            Ok((sent, client))
        })
    };
    let clock = KernelClock;
    let mut known: HashMap<String, u64> = HashMap::new();
    let kills = kills();
    for round in 0..kills {
        thread::sleep(Duration::from_millis(some_ms(&clock)));
        // What a search has shown was acknowledged: it may never be missing again. Every answer is read whole, so not
        // every time.
        let checked = round % KILLS_PER_CHECK == KILLS_PER_CHECK - 1;
        if checked {
            known.extend(packets_by_id(&collector, LOAD)?);
        }
        if what_to_kill == "collector" {
            collector.kill()?;
            collector.restart()?;
        } else {
            agent.kill()?;
            agent.restart()?;
        }
        if checked {
            let after = packets_by_id(&collector, LOAD)?;
            for (id, packets) in &known {
                let now = after.get(id);
                let now = now.with_context(|| format!("kill {round}: {id} was acknowledged and is gone"))?;
                assert!(now >= packets, "kill {round}: {id} had {packets} packets and now has {now}");
            }
        }
    }
    stop.store(true, Ordering::Relaxed);
    let (sent, _client) = load.join().map_err(|_| anyhow::anyhow!("the load panicked"))??;
    thread::sleep(Duration::from_millis(500));
    assert_eq!(agent.stop()?, Some(0), "the agent stops cleanly");
    // What it could not send within its time, because the collector had only just come up again, it sends now.
    agent.restart()?;
    let all = eventually("every packet is in a record", 15, || Ok(collector.count(LOAD)?.1), |n| *n == sent);
    let by_id = packets_by_id(&collector, LOAD)?;
    if let (Err(gap), "collector") = (all, what_to_kill) {
        // The agent lived through all of it: nothing may be missing and nothing may count twice.
        let said = std::fs::read_to_string(dir.path().join("agent/agent.log"))?;
        let said: Vec<&str> = said.lines().rev().take(15).collect();
        let (_, by_ingest, _) = collector.gnomon(&["count", LOAD, "--by-ingest-time", "-o", "jsonl"])?;
        bail!(
            "{sent} packets sent; {gap:#}\n{}\nby time of ingest: {}\nthe agent said at last:\n{}",
            uneven_ports(&collector)?,
            String::from_utf8_lossy(&by_ingest),
            said.into_iter().rev().collect::<Vec<_>>().join("\n"),
        );
    }
    let total: u64 = by_id.values().sum();
    assert!(total <= sent, "{total} packets in records, {sent} sent: some count twice");
    println!("{kills} kills of the {what_to_kill}: {total} of {sent} packets in {} records", by_id.len());
    Ok(())
}

#[test]
fn kills_of_the_collector_lose_nothing() -> Result<()> {
    under_load("collector")
}

#[test]
fn kills_of_the_agent_lose_nothing_acknowledged() -> Result<()> {
    under_load("agent")
}
