//! The demo from beginning to end.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use gnomon_clock::{Clock, KernelClock};
use gnomon_integration_tests::fleet::{Agent, Collector, free_address};
use gnomon_integration_tests::forward::Forward;
use gnomon_integration_tests::hub::Hub;

use crate::checks::Checks;
use crate::players;
use crate::screen::{Gnomon, heading, say};

/// Where everything of the demo lies; removed at its start and at its end.
fn scratch() -> Result<PathBuf> {
    let dir = std::env::temp_dir().join("gnomon-demo");
    if dir.exists() {
        fs::remove_dir_all(&dir).with_context(|| format!("remove {}", dir.display()))?;
    }
    fs::create_dir_all(&dir)?;
    Ok(dir)
}

/// The usual port where it is free, so that what is shown can be typed.
fn address(usual: u16) -> Result<SocketAddr> {
    let usual = SocketAddr::from((Ipv4Addr::LOCALHOST, usual));
    if TcpListener::bind(usual).is_ok() { Ok(usual) } else { free_address() }
}

fn collector(bin_dir: &Path, dir: &Path) -> Result<(Collector, Gnomon)> {
    heading("a collector: one program, its database inside");
    let collector =
        Collector::start_at(bin_dir, &dir.join("collector"), address(7440)?, address(7441)?, &[])?;
    say(&format!(
        "gRPC at {}, HTTP at http://{}/api/v1/, data under {}",
        collector.grpc,
        collector.http,
        dir.display()
    ));
    let gnomon = Gnomon::new(bin_dir, collector.url());
    Ok((collector, gnomon))
}

/// Traffic of a small network of the demo's own, captured with AF_XDP on a tap.
pub(crate) fn of_own_network(bin_dir: &Path, once: bool) -> Result<()> {
    let dir = scratch()?;
    let (collector, gnomon) = collector(bin_dir, &dir)?;

    heading("a network: three hosts on a hub, a tap for the sensor, 9000-byte MTU");
    let network = Arc::new(Hub::build()?);
    let servers = players::serve(&network, &dir)?;
    say("client 10.77.0.10, servers 10.77.0.20 (HTTP, DNS, TLS, SSH, iperf3), lonely host 10.77.0.30");

    heading("an agent: AF_XDP on the tap; it dials out and never listens");
    let inside = SocketAddr::from(([10, 77, 0, 40], collector.grpc.port()));
    let link = Forward::open(&network.collector, inside, collector.grpc)?;
    let url = format!("http://{}", link.address());
    let agent = Agent::start(
        bin_dir,
        &dir.join("agent"),
        Some(&network.sensor),
        r#"name = "tap1", stance = "tap""#,
        &url,
        // The hub is nobody else's.
        &["name=sensor", "tls.insecure=true"],
    )?;

    let mut checks = Checks::default();
    let mut mode = String::new();
    for _ in 0..100 {
        let agents: serde_json::Value =
            serde_json::from_slice(&gnomon.answer(&["agents", "-o", "json"])?).unwrap_or_default();
        let interface = &agents["agents"][0]["heartbeat"]["interfaces"][0];
        let of = |key: &str| interface[key].as_str().unwrap_or_default();
        mode = format!("{} ({})", of("name"), of("mode"));
        if mode.contains("tap1") {
            break;
        }
        thread::sleep(Duration::from_millis(100));
    }
    say(&format!("capturing: {mode}"));
    checks.note(
        "the agent is connected and captures with AF_XDP",
        mode.to_uppercase().replace('-', "_").contains("AF_XDP"),
    );

    heading("a link with one packet a minute: from the wire to a search");
    let ms = wait_for_lonely(&network, &gnomon)?;
    checks.note(
        &format!("a single packet was found {ms} ms after it was sent (a search of its own included)"),
        ms < 1_000,
    );

    heading(
        "everyday traffic by real programs: DNS, HTTP, TLS, SSH, ping, a port scan, a bulk transfer with GSO on",
    );
    players::everyday(&network.client);
    players::scan(&network.client);
    players::bulk(&network.client, 200);
    let stop = Arc::new(AtomicBool::new(false));
    let background = traffic_until(&network, &stop);

    checks.finds(&gnomon, "DNS", "dns.host == shop.example && port.dst == 53", 1)?;
    checks.finds(&gnomon, "HTTP", "http.host == shop.example && http.uri == \"/prices.csv\"", 1)?;
    checks.finds(&gnomon, "TLS by its server name", "tls.host == secure.example", 1)?;
    checks.finds(&gnomon, "SSH by its banner", "ssh.version == *OpenSSH_9.9*", 1)?;
    checks.finds(
        &gnomon,
        "the port scan",
        "ip.dst == 10.77.0.21 && tcpflags.syn >= 1 && port.dst == 1000-1199",
        200,
    )?;
    checks.finds(&gnomon, "ping", "ip.protocol == icmp", 1)?;
    checks.finds(&gnomon, "the bulk transfer in jumbo frames", "port.dst == 5201 && bytes > 50000000", 1)?;

    heading("what the agent sends passes its own tap: it is counted, and not kept and sent again");
    checks.finds(&gnomon, "the agent's own uplink", "own_uplink == true && port.dst == 7440-65535", 1)?;
    let kept = gnomon.flows("own_uplink == true && stored.packets > 0")?;
    checks.note("no packet of it was kept", kept.is_empty());

    heading("live rates");
    gnomon.show(&["live", "--times", "1"])?;
    heading("the newest flows");
    gnomon.show(&["search", "", "--limit", "12"])?;
    heading("a question: who knocked on many ports?");
    gnomon.show(&["top", "ip.src", "ip.dst", "packets <= 4 && ip.protocol == tcp", "-n", "5"])?;

    heading("packets: a capture file of one question, read back with tcpdump");
    let file = dir.join("shop.pcapng");
    let name = file.to_string_lossy();
    gnomon.show(&["pcap", "http.host == shop.example", "-w", &name])?;
    let packets = read_back(&file)?;
    checks.note(&format!("tcpdump read {packets} packets back"), packets > 10);
    let jumbo = dir.join("jumbo.pcapng");
    gnomon.answer(&[
        "pcap",
        "port.dst == 5201 && bytes > 50000000",
        "-w",
        &jumbo.to_string_lossy(),
        "--packets",
        "2000",
    ])?;
    let longest = longest_packet(&jumbo)?;
    checks.note(
        &format!("the longest frame of the bulk transfer is {longest} bytes on the wire"),
        longest > 8_900,
    );

    heading("what to type next, in another terminal");
    let gnomon_path = bin_dir.join("gnomon");
    let server =
        if collector.grpc.port() == 7440 { String::new() } else { format!(" --server {}", collector.url()) };
    for words in [
        "search 'ip.src == 10.77.0.10 && packets >= 3' --since -5m",
        "tail 'port.dst == [53,80,443]'",
        "histogram --interval 10s",
        "top dns.host",
        "pcap 'port.dst == 80' -w - | tcpdump -n -r -",
        "agents",
    ] {
        say(&format!("{}{server} {words}", gnomon_path.display()));
    }
    say(&format!("curl 'http://{}/api/v1/search?expression=tcpflags.rst>=1&limit=2'", collector.http));

    if !once {
        watch(&gnomon)?;
    }
    stop.store(true, Ordering::Relaxed);
    // The thread ends within its pause.
    let _ = background.join();
    drop((agent, servers, collector));
    if once {
        checks.verdict()?;
    }
    fs::remove_dir_all(&dir).ok();
    Ok(())
}

/// A real interface of this machine, its traffic left alone.
pub(crate) fn of_interface(bin_dir: &Path, interface: &str, once: bool) -> Result<()> {
    let dir = scratch()?;
    let (collector, gnomon) = collector(bin_dir, &dir)?;
    heading(&format!("an agent on {interface}: it copies frames and leaves the host its traffic"));
    let table = format!("name = \"{interface}\", stance = \"host\"");
    let mut agent = Agent::start(bin_dir, &dir.join("agent"), None, &table, &collector.socket_url(), &[])?;
    thread::sleep(Duration::from_secs(3));
    if agent.process()?.has_ended()? {
        anyhow::bail!("the agent ended; it said:\n{}", agent.process()?.said());
    }
    heading("live rates");
    gnomon.show(&["live", "--times", "1"])?;
    heading("the newest flows");
    gnomon.show(&["search", "", "--limit", "12"])?;
    if once {
        let mut checks = Checks::default();
        checks.finds(&gnomon, &format!("traffic on {interface}"), &format!("interface == {interface}"), 1)?;
        checks.verdict()?;
    } else {
        watch(&gnomon)?;
    }
    fs::remove_dir_all(&dir).ok();
    Ok(())
}

/// Live rates until Ctrl-C, which ends the demo's PID namespace and all that is in it.
fn watch(gnomon: &Gnomon) -> Result<()> {
    heading("running until Ctrl-C");
    loop {
        thread::sleep(Duration::from_secs(10));
        gnomon.show(&["live", "--times", "1"])?;
    }
}

/// Milliseconds from sending one datagram over the quiet link to its flow in an answer.
fn wait_for_lonely(network: &Hub, gnomon: &Gnomon) -> Result<u64> {
    // The first ARP exchange is not the packet in question.
    players::lonely(network, "hello");
    thread::sleep(Duration::from_millis(1_500));
    let before = packets_of_lonely(gnomon)?;
    let clock = KernelClock;
    let sent = clock.monotonic();
    players::lonely(network, "again");
    for _ in 0..500 {
        if packets_of_lonely(gnomon)? > before {
            break;
        }
        thread::sleep(Duration::from_millis(10));
    }
    Ok(clock.monotonic().since(sent) / 1_000_000)
}

fn packets_of_lonely(gnomon: &Gnomon) -> Result<u64> {
    let flows = gnomon.flows("ip.src == 10.77.0.30 && port.dst == 7007")?;
    Ok(flows.iter().filter_map(|flow| flow["packets.src"].as_u64()).sum())
}

fn traffic_until(network: &Arc<Hub>, stop: &Arc<AtomicBool>) -> thread::JoinHandle<()> {
    let (network, stop) = (Arc::clone(network), Arc::clone(stop));
    thread::spawn(move || {
        let mut round = 0u32;
        while !stop.load(Ordering::Relaxed) {
            players::everyday(&network.client);
            if round.is_multiple_of(60) {
                players::lonely(&network, "tick");
            }
            round += 1;
            thread::sleep(Duration::from_secs(1));
        }
    })
}

fn tcpdump(file: &Path, arguments: &[&str]) -> Result<String> {
    let output = Command::new("tcpdump")
        .arg("-n")
        .args(arguments)
        .arg("-r")
        .arg(file)
        .output()
        .context("run tcpdump")?;
    anyhow::ensure!(
        output.status.success(),
        "tcpdump -r {}: {}",
        file.display(),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn read_back(file: &Path) -> Result<usize> {
    let text = tcpdump(file, &[])?;
    for line in text.lines().take(4) {
        say(line);
    }
    Ok(text.lines().count())
}

fn longest_packet(file: &Path) -> Result<u64> {
    let text = tcpdump(file, &["-e"])?;
    let length = |line: &str| line.split(", length ").nth(1)?.split(':').next()?.trim().parse::<u64>().ok();
    Ok(text.lines().filter_map(length).max().unwrap_or(0))
}
