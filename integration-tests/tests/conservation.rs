//! Packets sent = packets in flow records + counted drops, exactly, through the real programs: for both live back-ends
//! and every frame size that has killed a capture before.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Result;
use gnomon_integration_tests::fleet::{Agent, Collector, built_binaries, eventually};
use gnomon_integration_tests::forward::Forward;
use gnomon_integration_tests::hub::Hub;
use gnomon_integration_tests::netns::{Netns, skip};
use gnomon_integration_tests::traffic;

struct Scene {
    collector: Collector,
    agent: Agent,
    _link: Forward,
    // Held for its lifetime.
    _dir: tempfile::TempDir,
}

/// By which way the agent reaches the collector.
enum Uplink<'n> {
    /// By one that is not captured.
    Apart,
    /// By the captured link, on whose other side this host has the address 10.9.0.1.
    Captured(&'n Netns),
}

fn scene(sensor: &Netns, uplink: &Uplink<'_>, interface: &str, stance: &str, backend: &str) -> Result<Scene> {
    let bin_dir: PathBuf = built_binaries()?;
    let dir = tempfile::tempdir()?;
    let collector = Collector::start(&bin_dir, &dir.path().join("collector"), &[])?;
    let (host, address) = match uplink {
        Uplink::Apart => (sensor, [127, 0, 0, 1]),
        Uplink::Captured(other_side) => (*other_side, [10, 9, 0, 1]),
    };
    let link = Forward::open(host, SocketAddr::from((address, 7440)), collector.grpc)?;
    let url = format!("http://{}", link.address());
    let table = format!("name = \"{interface}\", stance = \"{stance}\", backend = \"{backend}\"");
    // The link is nobody else's.
    let settings = ["tls.insecure=true"];
    let agent = Agent::start(&bin_dir, &dir.path().join("agent"), Some(sensor), &table, &url, &settings)?;
    let mut scene = Scene { collector, agent, _link: link, _dir: dir };
    scene.wait_until_capturing(interface)?;
    Ok(scene)
}

impl Scene {
    fn interface_status(&self) -> Result<serde_json::Value> {
        let (_, stdout, _) = self.collector.gnomon(&["agents", "-o", "json"])?;
        Ok(serde_json::from_slice(&stdout).unwrap_or_default())
    }

    fn wait_until_capturing(&mut self, interface: &str) -> Result<()> {
        let seen = eventually(
            "the agent captures",
            20,
            || self.interface_status(),
            |answer| {
                let seen = &answer["agents"][0]["heartbeat"]["interfaces"][0];
                seen["name"] == interface && seen["mode"] != ""
            },
        );
        if seen.is_err() {
            eprintln!("the agent said:\n{}", self.agent.process()?.said());
        }
        seen.map(drop)
    }

    /// That packets in records of flows that match, and counted drops, are `sent` packets, once as many are there (or no more
    /// come). Gives the drops: a machine that has other things to do for as long as the ring is deep loses some.
    fn all_accounted_for(&self, expression: &str, sent: u64) -> Result<u64> {
        // These are in records all the same: only their bytes are not kept.
        let lost = || -> Result<BTreeMap<String, u64>> {
            let mut drops = self.collector.drops()?;
            drops.remove("slice_queue_full");
            Ok(drops)
        };
        let look = || Ok((self.collector.count(expression)?.1, lost()?));
        let dropped = |drops: &BTreeMap<String, u64>| drops.values().sum::<u64>();
        let all = |(records, drops): &(u64, BTreeMap<String, u64>)| records + dropped(drops) >= sent;
        let _ = eventually("all packets are accounted for", 20, look, all);
        let (records, drops) = look()?;
        let told = format!("{records} packets in flow records, and dropped: {drops:?}");
        if expression.is_empty() || drops.is_empty() {
            assert_eq!(records + dropped(&drops), sent, "{told}");
        } else {
            // Some of those may have been others.
            assert!(records <= sent && records + dropped(&drops) >= sent, "{told}");
        }
        assert!(dropped(&drops) * 5 <= sent, "of {sent}: {drops:?}");
        if dropped(&drops) > 0 {
            eprintln!("this machine was too busy: of {sent} packets were dropped and counted {drops:?}");
        }
        Ok(dropped(&drops))
    }
}

/// `count` datagrams of each size, none answered.
fn counted_datagrams(stance: &str, backend: &str) -> Result<()> {
    let (client, sensor) = traffic::host_and_tap(9_000)?;
    let uplink = match stance {
        // A tap takes what comes: nothing can be reached through it.
        "tap" => Uplink::Apart,
        _ => {
            sensor.ip("addr add 10.9.0.3/24 dev tap")?;
            Uplink::Captured(&client)
        }
    };
    let sent_on_purpose = match uplink {
        Uplink::Apart => "",
        Uplink::Captured(_) => "ip.protocol == udp",
    };
    let scene = scene(&sensor, &uplink, "tap", stance, backend)?;
    let target = SocketAddr::from(([10, 9, 0, 2], 9));
    let (mut sent, mut bytes) = (0, 0);
    for frame_bytes in [60usize, 64, 1514, 9014] {
        traffic::udp(&client, target, 2_000, frame_bytes, 20_000)?;
        sent += 2_000;
        bytes += 2_000 * frame_bytes as u64;
    }
    if scene.all_accounted_for(sent_on_purpose, sent)? == 0 {
        assert_eq!(scene.collector.count(sent_on_purpose)?.2, bytes, "bytes in flow records");
    }
    if let Uplink::Captured(_) = uplink {
        let own = scene.collector.flows("own_uplink == true")?;
        assert!(!own.is_empty(), "the uplink is in records");
        assert!(own.iter().all(|flow| flow["stored.packets"].as_u64().unwrap_or(0) == 0), "{own:?}");
        let others = scene.collector.flows("ip.protocol == tcp && own_uplink == false")?;
        assert!(others.is_empty(), "{others:?}");
    }
    Ok(())
}

#[test]
fn af_xdp_accounts_for_every_datagram_of_every_size() -> Result<()> {
    if skip() {
        return Ok(());
    }
    counted_datagrams("tap", "af_xdp")
}

#[test]
fn af_packet_accounts_for_every_datagram_of_every_size() -> Result<()> {
    if skip() {
        return Ok(());
    }
    counted_datagrams("host", "af_packet")
}

/// At 1,000 packets a second the ring holds minutes: its blocks are released when they are full, not by a timer.
#[test]
fn af_packet_rides_out_a_pause_of_the_agent() -> Result<()> {
    if skip() {
        return Ok(());
    }
    let (client, sensor) = traffic::host_and_tap(1_500)?;
    let mut scene = scene(&sensor, &Uplink::Apart, "tap", "host", "af_packet")?;
    scene.agent.process()?.signal("STOP")?;
    let sent = traffic::udp(&client, SocketAddr::from(([10, 9, 0, 2], 9)), 6_000, 100, 1_000);
    scene.agent.process()?.signal("CONT")?;
    sent?;
    assert_eq!(scene.all_accounted_for("", 6_000)?, 0, "a pause of six seconds");
    Ok(())
}

/// A TCP transfer with segmentation offload: frames up to 64 KiB for AF_PACKET, jumbo segments for AF_XDP.
fn counted_transfer(stance: &str, backend: &str) -> Result<()> {
    let hub = Hub::build()?;
    // Every packet of the interface is counted here, which an uplink that goes on would never let end.
    let scene = scene(&hub.sensor, &Uplink::Apart, "tap1", stance, backend)?;
    let before = hub.sensor.counter("tap1", "rx_packets")?;
    let already = scene.collector.count("")?.1;
    traffic::tcp(&hub.client, &hub.server, SocketAddr::from(([10, 77, 0, 20], 5001)), 64 << 20)?;
    // The last ACKs are on their way.
    std::thread::sleep(std::time::Duration::from_millis(500));
    let on_the_wire = hub.sensor.counter("tap1", "rx_packets")? - before;
    let dropped = scene.all_accounted_for("", already + on_the_wire)?;
    let flow = scene.collector.flows("port.dst == 5001")?;
    assert_eq!(flow.len(), 1, "one connection is one flow: {flow:?}");
    assert!(dropped > 0 || flow[0]["databytes.src"].as_u64() >= Some(64 << 20), "{flow:?}");
    Ok(())
}

#[test]
fn af_xdp_accounts_for_a_transfer_with_offload() -> Result<()> {
    if skip() {
        return Ok(());
    }
    counted_transfer("tap", "af_xdp")
}

#[test]
fn af_packet_accounts_for_a_transfer_with_offload() -> Result<()> {
    if skip() {
        return Ok(());
    }
    counted_transfer("host", "af_packet")
}
