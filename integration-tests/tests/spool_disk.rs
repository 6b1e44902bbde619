//! An agent whose disk stalls, fails or turns read-only while its collector is there or away: what was captured arrives, or
//! is counted.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use gnomon_integration_tests::faults::{Control, Failure, Faults};
use gnomon_integration_tests::fleet::{Agent, Collector, built_binaries, eventually};
use gnomon_integration_tests::forward::Forward;
use gnomon_integration_tests::netns::{Netns, skip};
use gnomon_integration_tests::traffic;

const FRAME_BYTES: usize = 1_000;
const PER_SECOND: u64 = 4_000;
const ALWAYS: (u64, u64) = (0, u64::MAX);

struct Rig {
    control: Control,
    client: Netns,
    /// Lives as long as its interface is needed.
    _sensor: Netns,
    collector: Collector,
    link: Forward,
    agent: Agent,
    _dir: tempfile::TempDir,
}

impl Rig {
    fn new(seed: u64, settings: &[&str]) -> Result<Option<Rig>> {
        if skip() {
            return Ok(None);
        }
        let bin_dir = built_binaries()?;
        let dir = tempfile::tempdir()?;
        let Some(control) = Control::new(dir.path(), seed)? else { return Ok(None) };
        let (client, sensor) = traffic::host_and_tap(1_500)?;
        let collector = Collector::start(&bin_dir, &dir.path().join("collector"), &[])?;
        let link = Forward::open(&sensor, SocketAddr::from(([127, 0, 0, 1], 7440)), collector.grpc)?;
        let home = dir.path().join("agent");
        let url = format!("http://{}", link.address());
        let mut all = vec!["slices.keep=all", "slices.block_bytes=16KiB"];
        all.extend(settings);
        let interface = r#"name = "tap", stance = "host""#;
        let mut agent = Agent::start(&bin_dir, &home, Some(&sensor), interface, &url, &all)?;
        agent.kill()?;
        agent.environment = control.environment(&home.join("state"), None);
        agent.restart()?;
        let mut rig = Rig { control, client, _sensor: sensor, collector, link, agent, _dir: dir };
        rig.arrives(9)?;
        Ok(Some(rig))
    }

    fn send(&self, port: u16, packets: u64) -> Result<()> {
        traffic::udp(&self.client, SocketAddr::from(([10, 9, 0, 2], port)), packets, FRAME_BYTES, PER_SECOND)
    }

    /// Packets to a port that are in records.
    fn found(&self, port: u16) -> Result<u64> {
        Ok(self.collector.count(&format!("port.dst == {port}"))?.1)
    }

    /// Waits until a packet to a port was found.
    fn arrives(&mut self, port: u16) -> Result<()> {
        let found = || {
            self.send(port, 1)?;
            self.found(port)
        };
        eventually(&format!("a packet to port {port} is found"), 30, found, |n| *n > 0)?;
        Ok(())
    }

    /// Waits until so many packets to a port are in records, and can be downloaded.
    fn has_all(&self, port: u16, packets: u64) -> Result<()> {
        let found = || self.found(port);
        let said = || std::fs::read_to_string(self._dir.path().join("agent/agent.log")).unwrap_or_default();
        eventually(&format!("{packets} packets to port {port}"), 60, found, |n| *n == packets)
            .with_context(|| format!("{:?}, {}", self.spool(), said()))?;
        let downloaded = || {
            let filter = format!("port.dst == {port}");
            let out = self._dir.path().join(format!("{port}.pcap"));
            let (code, _, said) =
                self.collector.gnomon(&["pcap", &filter, "-w", &out.display().to_string()])?;
            ensure!(code == 0, "pcap: {said}");
            let bytes = std::fs::metadata(&out)?.len();
            Ok(bytes / FRAME_BYTES as u64)
        };
        eventually(&format!("{packets} packets to port {port} in a file"), 60, downloaded, |n| {
            *n >= packets
        })?;
        Ok(())
    }

    fn spool(&self) -> Result<serde_json::Value> {
        let (_, body) = self.collector.http_get("/api/v1/agents")?;
        let agents: serde_json::Value = serde_json::from_str(&body).with_context(|| body.clone())?;
        let list = agents.get("agents").unwrap_or(&agents);
        Ok(list[0]["heartbeat"]["spool"].clone())
    }

    fn lost(&self) -> Result<()> {
        let drops = self.collector.drops()?;
        let lost: Vec<_> = drops.iter().filter(|(_, count)| **count > 0).collect();
        ensure!(lost.is_empty(), "{lost:?}");
        let spool = self.spool()?;
        for name in ["sacrificed_slice_packets", "sacrificed_flow_records", "damaged_entries"] {
            ensure!(spool[name] == 0, "{name}: {spool}");
        }
        Ok(())
    }
}

#[test]
fn a_write_that_stalls_for_two_seconds_loses_nothing() -> Result<()> {
    let Some(rig) = Rig::new(1, &[])? else { return Ok(()) };
    let packets = 6 * PER_SECOND;
    for (port, away) in [(1_000, false), (1_001, true)] {
        if away {
            rig.link.cut();
        }
        rig.control.set(Faults { write_us: 2_000_000, sync_us: 2_000_000, ..Faults::NONE })?;
        rig.send(port, packets)?;
        rig.control.set(Faults::NONE)?;
        if away {
            rig.link.mend();
        }
        rig.has_all(port, packets)?;
    }
    rig.lost()?;
    let spool = rig.spool()?;
    ensure!(spool["memory_bytes_max"].as_u64() >= Some(256 << 20), "{spool}");
    Ok(())
}

#[test]
fn a_disk_that_takes_nothing_is_gone_around_and_gone_back_to() -> Result<()> {
    let Some(mut rig) = Rig::new(2, &[])? else { return Ok(()) };
    let packets = 2 * PER_SECOND;
    let failures = [Failure::Erofs, Failure::Eio, Failure::Enospc];
    for (port, failure) in (2_000u16..).zip(failures) {
        rig.control.set(Faults { writes: ALWAYS, syncs: ALWAYS, failure, ..Faults::NONE })?;
        rig.send(port, packets)?;
        rig.has_all(port, packets).with_context(|| format!("{failure:?}"))?;
        let says = || Ok(rig.spool()?["error"].as_str().unwrap_or("").to_owned());
        let said = eventually("it says so", 10, says, |error| error.contains("cannot write"))?;
        println!("{failure:?}: {said}");
        let (_, listed, _) = rig.collector.gnomon(&["agents"])?;
        ensure!(String::from_utf8_lossy(&listed).contains("cannot write"), "agents says so");
        rig.control.set(Faults::NONE)?;
        // Capturing is going on, so that there is something to be written.
        let says = || {
            rig.send(9, 1)?;
            Ok(rig.spool()?["error"].as_str().unwrap_or("").to_owned())
        };
        eventually("it is all right again", 20, says, String::is_empty)?;
    }
    rig.lost()?;
    // The disk is in use again: what the collector does not get now outlives the agent.
    rig.link.cut();
    rig.send(2_900, packets)?;
    std::thread::sleep(Duration::from_secs(2));
    rig.agent.kill()?;
    rig.link.mend();
    rig.agent.restart()?;
    let found = || rig.found(2_900);
    eventually("what was spooled arrives", 60, found, |n| *n == packets)?;
    Ok(())
}

#[test]
fn a_full_memory_before_a_disk_that_stands_still_is_counted() -> Result<()> {
    let Some(rig) = Rig::new(3, &["spool.memory_max=16MiB"])? else { return Ok(()) };
    rig.link.cut();
    rig.control.set(Faults { write_us: 20_000_000, ..Faults::NONE })?;
    // Noise, else it compresses to nothing: 40 MB of it.
    let packets = 40_000;
    rig.client.within(move || -> Result<()> {
        let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
        socket.connect(SocketAddr::from(([10, 9, 0, 2], 3_000)))?;
        let mut word = 1u64;
        for n in 0..packets {
            let payload: Vec<u8> = std::iter::repeat_with(|| {
                word = word.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (word >> 56) as u8
            })
            .take(1_000)
            .collect();
            while socket.send(&payload).is_err() {
                std::thread::sleep(Duration::from_micros(50));
            }
            if n % 40 == 39 {
                std::thread::sleep(Duration::from_millis(8));
            }
        }
        Ok(())
    })??;
    rig.control.set(Faults::NONE)?;
    rig.link.mend();
    let found = || rig.found(3_000);
    eventually("every packet is in a record", 60, found, |n| *n == packets)?;
    let given_up = || Ok(rig.spool()?["sacrificed_slice_packets"].as_u64().unwrap_or(0));
    let given_up = eventually("packets were given up and counted", 30, given_up, |n| *n > 5_000)?;
    let spool = rig.spool()?;
    ensure!(spool["sacrificed_flow_records"] == 0, "flows go last: {spool}");
    ensure!(given_up < packets, "{given_up}");
    Ok(())
}
