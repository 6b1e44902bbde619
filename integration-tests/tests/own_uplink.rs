//! Agents whose uplinks are on the links that they capture: what gnomon sends is counted and not kept, so that an idle network
//! stays idle, and everything else is as complete as ever.
//!
//! How long each network is left idle: GNOMON_IDLE_SECONDS (default 20).

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use gnomon_integration_tests::fleet::{
    Agent, Collector, authority, built_binaries, eventually, tls_settings,
};
use gnomon_integration_tests::netns::{Netns, skip};
use gnomon_integration_tests::traffic;

/// Bytes that gnomon may put on a wire for each agent on it while nothing happens.
const IDLE_BYTES_PER_SECOND: u64 = 10_000;
/// After the first connection there is something to tell: interfaces, clocks, the first records.
const SETTLE: Duration = Duration::from_secs(3);
const COLLECTOR: [u8; 4] = [10, 88, 0, 1];
const DATAGRAMS: u64 = 3_000;

fn idle() -> Duration {
    let seconds = std::env::var("GNOMON_IDLE_SECONDS").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(seconds.unwrap_or(20))
}

/// Hosts on a hub: whatever one sends, all see.
struct Wire {
    hub: Netns,
    hosts: Vec<Netns>,
}

impl Wire {
    fn new() -> Result<Wire> {
        let hub = Netns::new("hub")?;
        hub.ip("link add br0 type bridge ageing_time 0 mcast_snooping 0")?;
        hub.ip("link set br0 up")?;
        Ok(Wire { hub, hosts: Vec::new() })
    }

    /// Another end of the wire in `netns`.
    fn plug(&self, netns: &Netns, interface: &str) -> Result<()> {
        let port = format!("p{}-{interface}", netns.name().rsplit('-').next().unwrap_or_default());
        netns.veth(interface, &self.hub, &port, 1500)?;
        self.hub.ip(&format!("link set {port} master br0"))?;
        self.hub.run("bridge", &["link", "set", "dev", &port, "learning", "off"])?;
        Ok(())
    }

    /// Hosts 10.88.0.1, 10.88.0.2, …
    fn with_hosts(labels: &[&str]) -> Result<Wire> {
        let mut wire = Wire::new()?;
        for (number, label) in (1..).zip(labels) {
            let host = Netns::new(label)?;
            wire.plug(&host, "eth0")?;
            host.ip(&format!("addr add 10.88.0.{number}/24 dev eth0"))?;
            wire.hosts.push(host);
        }
        Ok(wire)
    }
}

/// A collector, its certificates, and agents.
struct Scene {
    bin_dir: PathBuf,
    dir: tempfile::TempDir,
    collector: Collector,
    agents: Vec<(String, Agent)>,
}

impl Scene {
    fn new(host: &Netns, address: IpAddr, tls: bool) -> Result<Scene> {
        let bin_dir = built_binaries()?;
        let dir = tempfile::tempdir()?;
        let certificates = dir.path().join("tls");
        if tls {
            let names = format!("{address},10.88.0.5,10.88.0.6");
            authority(&bin_dir, &certificates, &names, &["a", "b", "c", "gateway"])?;
        }
        let certificates = tls.then_some(certificates.as_path());
        let home = dir.path().join("collector");
        let collector = Collector::start_on(host, &bin_dir, &home, address, certificates, &[])?;
        // The connections by which it was seen to answer are over before anybody captures.
        thread::sleep(Duration::from_secs(1));
        Ok(Scene { bin_dir, dir, collector, agents: Vec::new() })
    }

    fn agent(&mut self, name: &str, host: &Netns, interfaces: &str, url: &str) -> Result<()> {
        self.agent_with(name, host, interfaces, url, &[])
    }

    fn agent_with(
        &mut self,
        name: &str,
        host: &Netns,
        interfaces: &str,
        url: &str,
        more: &[&str],
    ) -> Result<()> {
        let mut settings = vec![format!("name={name}")];
        if url.starts_with("https") {
            settings.extend(tls_settings(&self.dir.path().join("tls"), &format!("agent-{name}")));
        }
        settings.extend(more.iter().map(|setting| (*setting).to_owned()));
        let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
        let home = self.dir.path().join(name);
        let agent = Agent::start(&self.bin_dir, &home, Some(host), interfaces, url, &settings)?;
        self.agents.push((name.to_owned(), agent));
        Ok(())
    }

    fn url(&self) -> String {
        self.collector.url()
    }

    fn wait_until_connected(&mut self) -> Result<()> {
        let connected = || -> Result<usize> {
            let (_, stdout, _) = self.collector.gnomon(&["agents", "-o", "json"])?;
            let agents: serde_json::Value = serde_json::from_slice(&stdout).unwrap_or_default();
            let capturing = |agent: &&serde_json::Value| {
                let mode = agent["heartbeat"]["interfaces"][0]["mode"].as_str().unwrap_or_default();
                agent["connected"] == true && mode.to_lowercase().contains("af_")
            };
            Ok(agents["agents"].as_array().map_or(0, |agents| agents.iter().filter(capturing).count()))
        };
        let wanted = self.agents.len();
        let seen = eventually("all agents are connected and capture", 30, connected, |seen| *seen == wanted);
        if seen.is_err() {
            for (name, agent) in &mut self.agents {
                eprintln!("{name} said:\n{}", agent.process()?.said());
            }
        }
        seen.map(drop)
    }

    /// Leaves everything alone and gives the bytes a second that were on `interface` of `host` meanwhile.
    fn idle_bytes_per_second(&self, host: &Netns, interface: &str) -> Result<u64> {
        thread::sleep(SETTLE);
        let bytes = || {
            Ok::<_, anyhow::Error>(
                host.counter(interface, "rx_bytes")? + host.counter(interface, "tx_bytes")?,
            )
        };
        let before = bytes()?;
        thread::sleep(idle());
        let per_second = (bytes()? - before) / idle().as_secs().max(1);
        eprintln!("{} of {}: {per_second} bytes a second while idle", interface, host.name());
        Ok(per_second)
    }

    /// `gnomon` on another host, over the network.
    fn gnomon_on(&self, host: &Netns, arguments: &[&str]) -> Command {
        let mut command = host.command(self.bin_dir.join("gnomon"));
        command.args(arguments).env("GNOMON_SERVER", self.url()).stdin(Stdio::null());
        for (name, file) in
            [("GNOMON_CA", "ca.crt"), ("GNOMON_CERT", "client-you.crt"), ("GNOMON_KEY", "client-you.key")]
        {
            command.env(name, self.dir.path().join("tls").join(file));
        }
        command
    }

    /// All agents stop: their last records are there.
    fn stop_agents(&mut self) -> Result<()> {
        for (name, agent) in &mut self.agents {
            let code = agent.stop()?;
            ensure!(code == Some(0), "{name} ended with {code:?}");
        }
        Ok(())
    }

    /// Own streams are in records, none of their packets were kept, and none of them is taken for somebody else's.
    fn nothing_own_is_kept(&self, ports: &str) -> Result<()> {
        let own = self.collector.flows("own_uplink == true")?;
        ensure!(!own.is_empty(), "own streams are counted in records");
        for flow in &own {
            ensure!(flow["own_uplink"] == true, "{flow}");
            ensure!(
                flow["stored.packets"].as_u64().unwrap_or(0) == 0,
                "packets of an own stream were kept: {flow}"
            );
        }
        let others = self
            .collector
            .flows(&format!("port == [{ports}] && ip.protocol == tcp && own_uplink == false"))?;
        ensure!(others.is_empty(), "taken for somebody else's: {others:?}");
        Ok(())
    }

    /// The known traffic of [`traffic_between`], as this agent's records have it: all of it, or as much less as drops are counted.
    fn is_complete(&self, name: &str) -> Result<()> {
        let datagrams = format!("node == {name} && port.dst == 9 && ip.protocol == udp");
        let transfer = format!("node == {name} && port.dst == 5001");
        let sum = |flows: &[serde_json::Value], field: &str| -> u64 {
            flows.iter().filter_map(|flow| flow[field].as_u64()).sum()
        };
        let look = || {
            let (_, packets, bytes) = self.collector.count(&datagrams)?;
            Ok((packets, bytes, self.collector.flows(&transfer)?))
        };
        let all = |(packets, _, flows): &(u64, u64, Vec<serde_json::Value>)| {
            *packets >= DATAGRAMS && sum(flows, "databytes.src") >= 3 << 20
        };
        // What is missing is said below.
        let _ = eventually("all of the traffic", 20, look, all);
        let (packets, bytes, flows) = look()?;
        let mut drops = self.collector.drops()?;
        drops.remove("loopback_duplicate");
        let unkept = drops.remove("slice_queue_full").unwrap_or(0);
        let dropped: u64 = drops.values().sum();
        let data = sum(&flows, "databytes.src");
        let told =
            format!("{name}: {packets} datagrams, {bytes} bytes, {data} of the transfer; dropped: {drops:?}");
        if dropped == 0 {
            ensure!((packets, bytes, data) == (DATAGRAMS, DATAGRAMS * 1000, 3 << 20), told);
        } else {
            eprintln!("this machine was too busy: {told}");
            ensure!(packets <= DATAGRAMS && packets + dropped >= DATAGRAMS && data <= 3 << 20, told);
        }
        let (counted, kept) = (sum(&flows, "packets"), sum(&flows, "stored.packets"));
        ensure!(
            kept <= counted && kept + unkept >= counted,
            "{name}: of {counted} packets of others {kept} were kept"
        );
        Ok(())
    }
}

/// 3 MB that are known to the byte.
fn traffic_between(from: &Netns, to: &Netns, address: [u8; 4]) -> Result<()> {
    traffic::udp(from, SocketAddr::from((address, 9)), DATAGRAMS, 1000, 5_000)?;
    traffic::tcp(from, to, SocketAddr::from((address, 5001)), 3 << 20)
}

/// Whether no packet of any agent was dropped.
fn is_lossless(scene: &Scene) -> Result<bool> {
    let drops = scene.collector.drops()?;
    Ok(drops.keys().all(|reason| ["loopback_duplicate", "slice_queue_full"].contains(&reason.as_str())))
}

/// What tcpdump saw on an interface, told when it is stopped.
struct Witness {
    tcpdump: Child,
    file: PathBuf,
}

impl Witness {
    fn start(host: &Netns, interface: &str, file: PathBuf) -> Result<Witness> {
        let mut command = host.command("tcpdump");
        command
            .args(["-Z", "root", "-U", "-B", "8192", "-s", "100", "-n", "-i", interface, "-w"])
            .arg(&file)
            .arg("tcp");
        let tcpdump = command.stdin(Stdio::null()).stderr(Stdio::null()).spawn().context("run tcpdump")?;
        for _ in 0..100 {
            if file.metadata().is_ok_and(|file| file.len() > 0) {
                break;
            }
            thread::sleep(Duration::from_millis(50));
        }
        Ok(Witness { tcpdump, file })
    }

    /// TCP packets between a host and a port.
    fn packets(&mut self, host: &str, port: u16) -> Result<u64> {
        thread::sleep(Duration::from_millis(500));
        Command::new("kill").args(["-INT", &self.tcpdump.id().to_string()]).status()?;
        self.tcpdump.wait()?;
        let mut command = Command::new("tcpdump");
        command.args(["-n", "-r"]).arg(&self.file).arg(format!("host {host} and tcp port {port}"));
        let output = command.stderr(Stdio::null()).output().context("read with tcpdump")?;
        Ok(String::from_utf8_lossy(&output.stdout).lines().count() as u64)
    }
}

#[test]
fn a_host_that_captures_the_link_of_its_uplink_stays_idle() -> Result<()> {
    if skip() {
        return Ok(());
    }
    let wire = Wire::with_hosts(&["collector", "a", "peer"])?;
    let [collector, a, peer] = &wire.hosts[..] else { unreachable!() };
    let mut scene = Scene::new(collector, COLLECTOR.into(), true)?;
    let url = scene.url();
    scene.agent("a", a, r#"name = "eth0""#, &url)?;
    scene.wait_until_connected()?;
    let per_second = scene.idle_bytes_per_second(a, "eth0")?;
    assert!(per_second < IDLE_BYTES_PER_SECOND, "{per_second} bytes a second");
    traffic_between(peer, a, [10, 88, 0, 2])?;
    scene.is_complete("a")?;
    scene.stop_agents()?;
    scene.nothing_own_is_kept("7440,7441")
}

#[test]
fn a_tap_on_the_wire_of_its_uplink_stays_idle() -> Result<()> {
    if skip() {
        return Ok(());
    }
    let wire = Wire::with_hosts(&["collector", "a", "peer"])?;
    let [collector, a, peer] = &wire.hosts[..] else { unreachable!() };
    wire.plug(a, "tap")?;
    let mut scene = Scene::new(collector, COLLECTOR.into(), true)?;
    let url = scene.url();
    scene.agent("a", a, r#"name = "tap", stance = "tap""#, &url)?;
    scene.wait_until_connected()?;
    let per_second = scene.idle_bytes_per_second(a, "tap")?;
    assert!(per_second < IDLE_BYTES_PER_SECOND, "{per_second} bytes a second");
    traffic_between(peer, collector, COLLECTOR)?;
    scene.is_complete("a")?;
    scene.stop_agents()?;
    scene.nothing_own_is_kept("7440,7441")
}

/// One of the agents is on the collector's host. What another one saw of an own stream is compared with tcpdump.
#[test]
fn three_agents_on_one_wire_do_not_keep_each_others_uplinks() -> Result<()> {
    if skip() {
        return Ok(());
    }
    let wire = Wire::with_hosts(&["collector", "a", "b", "peer"])?;
    let [collector, a, b, peer] = &wire.hosts[..] else { unreachable!() };
    let mut scene = Scene::new(collector, COLLECTOR.into(), true)?;
    let mut witness = Witness::start(b, "eth0", scene.dir.path().join("witness.pcap"))?;
    let url = scene.url();
    scene.agent("b", b, r#"name = "eth0""#, &url)?;
    scene.wait_until_connected()?;
    scene.agent("a", a, r#"name = "eth0""#, &url)?;
    scene.agent("c", collector, r#"name = "eth0" }, { name = "lo""#, &url)?;
    scene.wait_until_connected()?;
    let per_second = scene.idle_bytes_per_second(collector, "eth0")?;
    assert!(per_second < 3 * IDLE_BYTES_PER_SECOND, "{per_second} bytes a second of three agents");
    traffic_between(peer, a, [10, 88, 0, 2])?;
    for name in ["a", "b", "c"] {
        scene.is_complete(name)?;
    }
    // Packets come back over the wire that they were captured on.
    let file = scene.dir.path().join("download.pcapng");
    let words = ["pcap", "port.dst == 5001 && node == a", "-w", &file.to_string_lossy()];
    ensure!(scene.gnomon_on(peer, &words).status()?.success(), "gnomon pcap");
    ensure!(file.metadata()?.len() > 3 << 20, "the transfer was downloaded");
    // a's stream ends while b goes on capturing.
    let (_, mut first) = scene.agents.remove(1);
    ensure!(first.stop()? == Some(0), "a stops");
    thread::sleep(Duration::from_secs(1));
    scene.stop_agents()?;
    scene.nothing_own_is_kept("7440,7441")?;
    let seen = scene.collector.flows("node == b && ip == 10.88.0.2 && port.dst == 7440")?;
    let counted: u64 = seen.iter().filter_map(|flow| flow["packets"].as_u64()).sum();
    let sent = witness.packets("10.88.0.2", 7440)?;
    ensure!(sent > 20, "the witness saw {sent} packets");
    if is_lossless(&scene)? {
        assert_eq!(counted, sent, "packets of a's uplink in b's records, and as tcpdump saw them");
    }
    Ok(())
}

/// The agent is behind NAT, and another one on the gateway sees its stream on both sides.
#[test]
fn an_uplink_through_nat_is_known_on_both_sides_of_the_gateway() -> Result<()> {
    if skip() {
        return Ok(());
    }
    let wire = Wire::with_hosts(&["collector", "gateway", "peer"])?;
    let [collector, gateway, _] = &wire.hosts[..] else { unreachable!() };
    let a = Netns::new("a")?;
    a.veth("eth0", gateway, "inside", 1500)?;
    a.ip("addr add 192.168.7.2/24 dev eth0")?;
    gateway.ip("addr add 192.168.7.1/24 dev inside")?;
    a.ip("route add default via 192.168.7.1")?;
    gateway.run("sysctl", &["-qw", "net.ipv4.ip_forward=1"])?;
    let rules =
        "table ip nat { chain post { type nat hook postrouting priority 100; oifname eth0 masquerade; }; }";
    if let Err(error) = gateway.run("nft", &[rules]) {
        eprintln!("SKIPPED: {error:#}");
        return Ok(());
    }
    let mut scene = Scene::new(collector, COLLECTOR.into(), true)?;
    let url = scene.url();
    scene.agent("a", &a, r#"name = "eth0""#, &url)?;
    scene.agent("gateway", gateway, r#"name = "eth0" }, { name = "inside""#, &url)?;
    scene.wait_until_connected()?;
    let per_second = scene.idle_bytes_per_second(gateway, "eth0")?;
    assert!(per_second < 2 * IDLE_BYTES_PER_SECOND, "{per_second} bytes a second of two agents");
    traffic_between(&a, collector, COLLECTOR)?;
    scene.is_complete("a")?;
    scene.stop_agents()?;
    scene.nothing_own_is_kept("7440,7441")?;
    // Outside its own uplink has the same address.
    for (interface, address, at_least) in [("inside", "192.168.7.2", 1), ("eth0", "10.88.0.2", 2)] {
        let seen =
            format!("node == gateway && interface == {interface} && own_uplink == true && ip == {address}");
        ensure!(scene.collector.flows(&seen)?.len() >= at_least, "{seen}");
    }
    Ok(())
}

/// Each agent reaches the collector through a proxy of its own: the stream that one sees of the other leads to no address that
/// it knows.
#[test]
fn uplinks_through_proxies_are_known_to_all_agents() -> Result<()> {
    if skip() {
        return Ok(());
    }
    let wire = Wire::with_hosts(&["collector", "a", "b", "peer", "proxy5", "proxy6"])?;
    let [collector, a, b, peer, proxy5, proxy6] = &wire.hosts[..] else { unreachable!() };
    for (host, address) in [(proxy5, [10, 88, 0, 5]), (proxy6, [10, 88, 0, 6])] {
        proxy(host, SocketAddr::from((address, 3128)), SocketAddr::from((COLLECTOR, 7440)))?;
    }
    let mut scene = Scene::new(collector, COLLECTOR.into(), true)?;
    scene.agent("a", a, r#"name = "eth0""#, "https://10.88.0.5:3128")?;
    scene.agent("b", b, r#"name = "eth0""#, "https://10.88.0.6:3128")?;
    scene.wait_until_connected()?;
    let per_second = scene.idle_bytes_per_second(a, "eth0")?;
    // Each stream is on the wire twice.
    assert!(per_second < 4 * IDLE_BYTES_PER_SECOND, "{per_second} bytes a second of two agents");
    traffic_between(peer, a, [10, 88, 0, 2])?;
    for name in ["a", "b"] {
        scene.is_complete(name)?;
    }
    scene.stop_agents()?;
    let late = scene.collector.flows("port == 3128 && ip.protocol == tcp && own_uplink == false")?;
    ensure!(late.is_empty(), "taken for somebody else's: {late:?}");
    // Until b's stream was told to a, which takes two heartbeats, a kept some of its packets.
    let kept: u64 = scene
        .collector
        .flows("port == 3128 && stored.packets > 0")?
        .iter()
        .filter_map(|flow| flow["stored.packets"].as_u64())
        .sum();
    assert!(kept < 1000, "{kept} packets of own streams were kept");
    Ok(())
}

/// TCP connections to `listen` on `host` go on to `target`, from that host.
fn proxy(host: &Netns, listen: SocketAddr, target: SocketAddr) -> Result<()> {
    host.within(move || -> io::Result<()> {
        let listener = TcpListener::bind(listen)?;
        // A thread begins in the namespace of the one that starts it.
        thread::spawn(move || {
            for inside in listener.incoming().flatten() {
                let Ok(outside) = TcpStream::connect(target) else { continue };
                for (from, to) in [(&inside, &outside), (&outside, &inside)] {
                    let (Ok(mut from), Ok(mut to)) = (from.try_clone(), to.try_clone()) else { continue };
                    thread::spawn(move || {
                        // Either side going away ends both.
                        let _ = io::copy(&mut from, &mut to);
                        let _ = to.shutdown(std::net::Shutdown::Both);
                    });
                }
            }
        });
        Ok(())
    })??;
    Ok(())
}

#[test]
fn a_loopback_in_plain_text_stays_idle() -> Result<()> {
    if skip() {
        return Ok(());
    }
    let host = Netns::new("host")?;
    let mut scene = Scene::new(&host, IpAddr::from([127, 0, 0, 1]), false)?;
    let url = scene.url();
    scene.agent("a", &host, r#"name = "lo""#, &url)?;
    scene.wait_until_connected()?;
    // What is sent on lo is counted when sent and when it comes.
    let per_second = scene.idle_bytes_per_second(&host, "lo")? / 2;
    assert!(per_second < IDLE_BYTES_PER_SECOND, "{per_second} bytes a second");
    traffic_between(&host, &host, [127, 0, 0, 1])?;
    scene.is_complete("a")?;
    scene.stop_agents()?;
    scene.nothing_own_is_kept("7440,7441")
}

/// An export that passes an agent, and the agent's own telemetry.
#[test]
fn exports_and_telemetry_are_known_too() -> Result<()> {
    if skip() {
        return Ok(());
    }
    let wire = Wire::with_hosts(&["collector", "a", "peer", "receiver"])?;
    let [collector, a, peer, receiver] = &wire.hosts[..] else { unreachable!() };
    for port in [6000, 4317] {
        swallow(receiver, SocketAddr::from(([10, 88, 0, 4], port)))?;
    }
    let mut scene = Scene::new(collector, COLLECTOR.into(), true)?;
    let url = scene.url();
    let more = ["telemetry.otlp_endpoint=http://10.88.0.4:4317", "telemetry.otlp_interval=1s"];
    scene.agent_with("a", a, r#"name = "eth0""#, &url, &more)?;
    scene.wait_until_connected()?;
    let words = ["export", "port.dst == 9", "--follow", "--format", "jsonl", "--to", "tcp://10.88.0.4:6000"];
    let mut export = scene.gnomon_on(peer, &words).spawn()?;
    let looked = (|| -> Result<()> {
        for _ in 0..20 {
            traffic::udp(peer, SocketAddr::from(([10, 88, 0, 2], 9)), 5, 1000, 0)?;
            thread::sleep(Duration::from_millis(500));
        }
        for port in [6000, 4317] {
            let own =
                || Ok(scene.collector.flows(&format!("port.dst == {port} && own_uplink == true"))?.len());
            eventually(&format!("the stream to port {port} is known"), 90, own, |flows| *flows > 0)?;
        }
        Ok(())
    })();
    export.kill()?;
    export.wait()?;
    looked?;
    scene.stop_agents()?;
    let telemetry = scene.collector.flows("port.dst == 4317 && databytes > 0")?;
    ensure!(telemetry.iter().all(|flow| flow["own_uplink"] == true), "{telemetry:?}");
    Ok(())
}

/// Takes whatever comes over TCP and says nothing.
fn swallow(host: &Netns, listen: SocketAddr) -> Result<()> {
    host.within(move || -> io::Result<()> {
        let listener = TcpListener::bind(listen)?;
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                thread::spawn(move || {
                    let mut stream = stream;
                    io::copy(&mut stream, &mut io::sink())
                });
            }
        });
        Ok(())
    })??;
    Ok(())
}

/// Who wants to see gnomon itself may.
#[test]
fn own_streams_are_kept_where_that_is_asked_for() -> Result<()> {
    if skip() {
        return Ok(());
    }
    let wire = Wire::with_hosts(&["collector", "a"])?;
    let [collector, a] = &wire.hosts[..] else { unreachable!() };
    let mut scene = Scene::new(collector, COLLECTOR.into(), true)?;
    let url = scene.url();
    // Not what is kept of others, or it would never end.
    let more = ["capture.own_uplink=keep", "slices.keep=packets 20"];
    scene.agent_with("a", a, r#"name = "eth0""#, &url, &more)?;
    scene.wait_until_connected()?;
    let look = || Ok(scene.collector.flows("port.dst == 7440 && stored.packets > 0")?.len());
    eventually("packets of the uplink are kept", 20, look, |flows| *flows > 0)?;
    ensure!(scene.collector.flows("own_uplink == true")?.is_empty(), "none is marked");
    Ok(())
}
