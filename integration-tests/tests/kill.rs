//! SIGKILL at random under load: what was acknowledged stays, and no answer has a record twice.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use gnomon_clock::{Clock, KernelClock};
use gnomon_integration_tests::fleet::{Agent, Collector, built_binaries, eventually};
use gnomon_integration_tests::forward::Forward;
use gnomon_integration_tests::netns::unavailable;
use gnomon_integration_tests::traffic;

const KILLS: usize = 50;

/// Packets by id; a record that comes twice is an error.
fn packets_by_id(collector: &Collector) -> Result<HashMap<String, u64>> {
    let mut seen = HashMap::new();
    for flow in collector.flows("")? {
        let id = flow["id"].as_str().context("a flow without id")?.to_owned();
        let packets = flow["packets"].as_u64().context("a flow without packets")?;
        assert!(seen.insert(id.clone(), packets).is_none(), "{id} is in the answer twice");
    }
    Ok(seen)
}

/// Milliseconds to wait before a kill: no two runs alike, none of them long.
fn some_ms(clock: &KernelClock) -> u64 {
    50 + clock.raw().0 / 1_000 % 400
}

fn under_load(what_to_kill: &str) -> Result<()> {
    if let Some(why) = unavailable() {
        eprintln!("SKIPPED: {why}");
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
        thread::spawn(move || -> Result<u64> {
            let (mut sent, mut port) = (0, 1_000u16);
            while !stop.load(Ordering::Relaxed) {
                port = if port < 60_000 { port + 1 } else { 1_000 };
                traffic::udp(&client, SocketAddr::from(([10, 9, 0, 2], port)), 20, 300, 0)?;
                sent += 20;
                thread::sleep(Duration::from_millis(2));
            }
            Ok(sent)
        })
    };
    let clock = KernelClock;
    let mut known: HashMap<String, u64> = HashMap::new();
    for round in 0..KILLS {
        thread::sleep(Duration::from_millis(some_ms(&clock)));
        if round % 10 == 9 {
            // What a search has shown was acknowledged: it may never be missing again.
            known = packets_by_id(&collector)?;
        }
        if what_to_kill == "collector" {
            collector.kill()?;
            collector.restart()?;
        } else {
            agent.kill()?;
            agent.restart()?;
        }
        let after = packets_by_id(&collector)?;
        for (id, packets) in &known {
            let now =
                after.get(id).with_context(|| format!("kill {round}: {id} was acknowledged and is gone"))?;
            assert!(now >= packets, "kill {round}: {id} had {packets} packets and now has {now}");
        }
        known.extend(after);
    }
    stop.store(true, Ordering::Relaxed);
    let sent = load.join().map_err(|_| anyhow::anyhow!("the load panicked"))??;
    thread::sleep(Duration::from_millis(500));
    assert_eq!(agent.stop()?, Some(0), "the agent stops cleanly");
    let on_the_wire = sensor.counter("tap", "rx_packets")?;
    assert!(on_the_wire >= sent, "{on_the_wire} on the wire, {sent} sent");
    if what_to_kill == "collector" {
        // The agent lived through all of it: nothing may be missing.
        let missing = |n: &u64| *n == on_the_wire;
        eventually("every packet on the wire is in a record", 30, || packets(&collector), missing)?;
    }
    let total: u64 = packets_by_id(&collector)?.values().sum();
    assert!(total <= on_the_wire, "{total} packets in records, {on_the_wire} on the wire: some count twice");
    let ids: HashSet<_> = known.keys().collect();
    println!(
        "{KILLS} kills of the {what_to_kill}: {total} of {on_the_wire} packets in {} records",
        ids.len()
    );
    Ok(())
}

#[test]
fn fifty_kills_of_the_collector_lose_nothing() -> Result<()> {
    under_load("collector")
}

#[test]
fn fifty_kills_of_the_agent_lose_nothing_acknowledged() -> Result<()> {
    under_load("agent")
}
