//! The power goes while an agent keeps what it has captured for a collector that it cannot reach: what was in the spool for
//! longer than its sync interval is there, the agent is who it was, and nothing arrives twice.

use std::collections::HashMap;
use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use gnomon_clock::{Clock, KernelClock, MonoNs};
use gnomon_integration_tests::faults::{Control, Dice, Disk, Faults, Journal, Loss};
use gnomon_integration_tests::fleet::{Agent, Collector, built_binaries, eventually};
use gnomon_integration_tests::forward::Forward;
use gnomon_integration_tests::netns::skip;
use gnomon_integration_tests::traffic;

/// About ten seconds each; GNOMON_POWER_CUTS=100 for a long run.
const CUTS: u64 = 3;
/// From a packet to its interim record (a second), from there to the next sync (another), and what the machine needs.
const SAFE_NS: u64 = 4_000_000_000;
const LOAD_NS: u64 = 7_000_000_000;
const PACKETS_PER_FLOW: u64 = 5;
const FLOW_PAUSE: Duration = Duration::from_millis(10);

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().and_then(|n| n.parse().ok())
}

#[test]
fn what_the_spool_has_synced_outlives_power_cuts() -> Result<()> {
    if skip() {
        return Ok(());
    }
    let seed = number("GNOMON_SEED").unwrap_or_else(|| KernelClock.raw().0 % 1_000_000);
    let cuts = number("GNOMON_POWER_CUTS").unwrap_or(CUTS);
    cut_again_and_again(cuts, &mut Dice::new(seed)).with_context(|| format!("GNOMON_SEED={seed}"))
}

fn cut_again_and_again(cuts: u64, dice: &mut Dice) -> Result<()> {
    let bin_dir = built_binaries()?;
    let dir = tempfile::tempdir()?;
    let Some(control) = Control::new(dir.path(), dice.below(1 << 32))? else { return Ok(()) };
    let (home, journal_path) = (dir.path().join("agent"), dir.path().join("journal"));
    let state = home.join("state");
    let (client, sensor) = traffic::host_and_tap(1_500)?;
    let collector = Collector::start(&bin_dir, &dir.path().join("collector"), &[])?;
    let link = Forward::open(&sensor, SocketAddr::from(([127, 0, 0, 1], 7440)), collector.grpc)?;
    let url = format!("http://{}", link.address());
    let interface = r#"name = "tap", stance = "host""#;
    let mut agent = Agent::start(&bin_dir, &home, Some(&sensor), interface, &url, &[])?;
    let to = |port: u16| SocketAddr::from(([10, 9, 0, 2], port));
    let capturing = |port: u16| {
        let found = || {
            traffic::udp(&client, to(port), 1, 60, 0)?;
            Ok(collector.count(&format!("port.dst == {port}"))?.1)
        };
        eventually("the first packets are found", 30, found, |n| *n > 0)
    };
    capturing(9)?;
    agent.kill()?;
    agent.environment = control.environment(&state, Some(&journal_path));
    // What is lost when the power is cut shows in nobody's counters: expected, by port.
    let mut safe: Vec<u16> = Vec::new();
    let mut port = 1_000u16;
    for cut in 0..cuts {
        let before = Disk::of(&state)?;
        agent.restart()?;
        capturing(10 + u16::try_from(cut)?)?;
        link.cut();
        // Half of the cuts hit a disk some of whose syncs fail; then nothing is known to be safe.
        let failing = cut % 2 == 1;
        if failing {
            control.set(Faults { sync_permille: 300, ..Faults::NONE })?;
        }
        let mut sent: Vec<(u16, MonoNs)> = Vec::new();
        let mut lens: Vec<(MonoNs, u64)> = Vec::new();
        let begun = KernelClock.monotonic();
        while KernelClock.monotonic().since(begun) < LOAD_NS {
            traffic::udp(&client, to(port), PACKETS_PER_FLOW, 300, 0)?;
            sent.push((port, KernelClock.monotonic()));
            lens.push((KernelClock.monotonic(), journal_path.metadata()?.len()));
            port += 1;
            std::thread::sleep(FLOW_PAUSE);
        }
        ensure!(!agent.process()?.has_ended()?, "cut {cut}: the agent ended by itself");
        agent.kill()?;
        control.set(Faults::NONE)?;
        let journal = Journal::read(&journal_path)?;
        // At the last moment, or at any of the second half.
        let half = lens.len() / 2;
        let at = if dice.coin() { lens.len() - 1 } else { half + dice.below(half as u64) as usize };
        let (moment, len) = lens[at];
        let (bytes, names) = (Loss::by(dice), Loss::by(dice));
        let mut disk = before;
        disk.replay(&journal, journal.len_at(len), dice)?;
        fs::remove_dir_all(&state)?;
        fs::remove_file(&journal_path)?;
        disk.cut(&journal, bytes, names, dice, &state)?;
        let known =
            sent.iter().filter(|(_, at)| !failing && at.0 + SAFE_NS < moment.0).map(|(port, _)| *port);
        let known: Vec<u16> = known.collect();
        println!("cut {cut}: bytes {bytes:?}, names {names:?}, {} of {} flows safe", known.len(), sent.len());
        safe.extend(known);
        link.mend();
    }
    agent.restart()?;
    capturing(8)?;
    let look = || -> Result<Vec<u16>> {
        let mut packets: HashMap<u64, u64> = HashMap::new();
        for flow in collector.flows("ip.dst == 10.9.0.2 && port.dst >= 1000")? {
            let port = flow["port.dst"].as_u64().context("a flow without a port")?;
            *packets.entry(port).or_default() += flow["packets"].as_u64().unwrap_or(0);
        }
        let twice: Vec<_> = packets.iter().filter(|(_, n)| **n > PACKETS_PER_FLOW).collect();
        ensure!(twice.is_empty(), "ports with more packets than were sent: {twice:?}");
        Ok(safe
            .iter()
            .copied()
            .filter(|port| packets.get(&u64::from(*port)) != Some(&PACKETS_PER_FLOW))
            .collect())
    };
    eventually("all that was safe arrives", 60, look, Vec::is_empty)?;
    let (_, stdout, _) = collector.gnomon(&["agents", "-o", "json"])?;
    let agents: serde_json::Value = serde_json::from_slice(&stdout)?;
    ensure!(
        agents["agents"].as_array().is_some_and(|agents| agents.len() == 1),
        "one agent became several: {agents}"
    );
    println!("{cuts} power cuts of the agent: {} flows that were safe are there", safe.len());
    Ok(())
}
