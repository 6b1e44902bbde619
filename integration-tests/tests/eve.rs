//! What gnomon writes as EVE is what a real Suricata writes of the same packets: names, types, and the values that both
//! count.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use gnomon_integration_tests::fleet::{Process, built_binaries, eventually};
use gnomon_integration_tests::netns::{Netns, skip};
use gnomon_integration_tests::suricata::Suricata;
use gnomon_integration_tests::traffic;
use serde_json::Value;

const SERVER: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 2);
const SERVER6: Ipv6Addr = Ipv6Addr::new(0xfd00, 9, 0, 0, 0, 0, 0, 2);

/// A DNS query for `example.com` (RFC 1035, 4), and its answer: NXDOMAIN.
const QUERY: &[u8] =
    b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x07example\x03com\x00\x00\x01\x00\x01";
const ANSWER: &[u8] =
    b"\x12\x34\x81\x83\x00\x01\x00\x00\x00\x00\x00\x00\x07example\x03com\x00\x00\x01\x00\x01";

fn http(client: &Netns, server: &Netns) -> Result<()> {
    let listener = server.within(|| TcpListener::bind((SERVER, 80)))??;
    let answering = std::thread::spawn(move || -> std::io::Result<()> {
        let (mut stream, _) = listener.accept()?;
        let _ = stream.read(&mut [0; 4096])?;
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
    });
    client.within(|| -> Result<()> {
        let mut stream = TcpStream::connect((SERVER, 80))?;
        stream.write_all(b"GET / HTTP/1.1\r\nHost: shop.example\r\nConnection: close\r\n\r\n")?;
        stream.read_to_end(&mut Vec::new())?;
        Ok(())
    })??;
    answering.join().map_err(|_| anyhow::anyhow!("the server panicked"))??;
    Ok(())
}

fn dns(client: &Netns, server: &Netns, bind: SocketAddr, ask: SocketAddr) -> Result<()> {
    let socket = server.within(move || UdpSocket::bind(ask))??;
    let asking = client.within(move || -> std::io::Result<UdpSocket> {
        let asking = UdpSocket::bind(bind)?;
        asking.send_to(QUERY, ask)?;
        Ok(asking)
    })??;
    let (_, from) = socket.recv_from(&mut [0; 512])?;
    socket.send_to(ANSWER, from)?;
    asking.recv(&mut [0; 512])?;
    Ok(())
}

/// A capture of one flow of each kind: HTTP, a refused connection, DNS over both versions of IP, pings of both.
fn record(dir: &Path) -> Result<std::path::PathBuf> {
    let (client, server) = traffic::two_hosts(1_500)?;
    for (netns, interface, address) in [(&client, "c0", "fd00:9::1"), (&server, "s0", "fd00:9::2")] {
        let switch = format!("echo 0 > /proc/sys/net/ipv6/conf/{interface}/disable_ipv6");
        netns.run("sh", &["-c", &switch])?;
        netns.ip(&format!("addr add {address}/64 dev {interface} nodad"))?;
    }
    let file = dir.join("talk.pcap");
    let mut tcpdump = client.command("tcpdump");
    tcpdump
        .args(["-i", "c0", "--immediate-mode", "-U", "-Z", "root", "-w"])
        .arg(&file)
        .arg("not ip6 or udp or (icmp6[0] >= 128 and icmp6[0] <= 129)");
    let tcpdump = Process::spawn(tcpdump, dir.join("tcpdump"))?;
    eventually("tcpdump listens", 20, || Ok(tcpdump.said()), |said| said.contains("listening on"))?;
    http(&client, &server)?;
    let refused = client.within(|| TcpStream::connect((SERVER, 81)).map(|_| ()))?;
    ensure!(refused.is_err(), "port 81 answers");
    dns(&client, &server, (Ipv4Addr::UNSPECIFIED, 0).into(), (SERVER, 53).into())?;
    dns(&client, &server, (Ipv6Addr::UNSPECIFIED, 0).into(), (SERVER6, 53).into())?;
    client.run("ping", &["-c", "2", "-i", "0.2", "-W", "5", "10.9.0.2"])?;
    client.run("ping", &["-6", "-c", "2", "-i", "0.2", "-W", "5", "fd00:9::2"])?;
    let path = file.display().to_string();
    // tcpdump may be in the middle of a packet.
    let last = || Ok(client.run("tcpdump", &["-nr", &path, "icmp6[0] == 129"]).unwrap_or_default());
    eventually("the last answer is in the capture", 20, last, |said| said.lines().count() == 2)?;
    tcpdump.stop()?;
    Ok(file)
}

/// Every name in an event, with the JSON types that stood there.
fn shape(value: &Value, name: &str, into: &mut BTreeMap<String, BTreeSet<&'static str>>) {
    let kind = match value {
        Value::Object(object) => {
            for (inner, value) in object {
                let dot = if name.is_empty() { "" } else { "." };
                shape(value, &format!("{name}{dot}{inner}"), into);
            }
            return;
        }
        Value::Array(values) => {
            for value in values {
                shape(value, &format!("{name}[]"), into);
            }
            return;
        }
        Value::String(_) => "text",
        Value::Number(_) => "number",
        Value::Bool(_) => "bool",
        Value::Null => "null",
    };
    into.entry(name.to_owned()).or_default().insert(kind);
}

fn flow_events(text: &str) -> Result<Vec<Value>> {
    let events: Vec<Value> = text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    Ok(events.into_iter().filter(|event| event["event_type"] == "flow").collect())
}

fn compare(major: u32) -> Result<()> {
    // Where they are, and what both count of a flow.
    const SAME: [&str; 18] = [
        "/proto",
        "/icmp_type",
        "/icmp_code",
        "/community_id",
        "/app_proto",
        "/flow/pkts_toserver",
        "/flow/pkts_toclient",
        "/flow/bytes_toserver",
        "/flow/bytes_toclient",
        "/flow/start",
        "/flow/end",
        "/tcp/tcp_flags",
        "/tcp/tcp_flags_ts",
        "/tcp/tcp_flags_tc",
        "/tcp/state",
        "/tcp/syn",
        "/ether/src_macs",
        "/ether/dest_macs",
    ];
    // Of a file there is no interface; the one place where names of ours may stand; 7 has no `ip_v`.
    const OURS: [&str; 3] = ["in_iface", "metadata.flowvars", "ip_v"];
    if skip() {
        return Ok(());
    }
    let Some(suricata) = Suricata::found(major) else { return Ok(()) };
    let (bin_dir, dir) = (built_binaries()?, tempfile::tempdir()?);
    let file = record(dir.path())?;
    suricata.read(&file, dir.path(), "")?;
    let theirs = flow_events(&fs::read_to_string(dir.path().join("eve.json"))?)?;
    let config = dir.path().join("empty.toml");
    fs::write(&config, "")?;
    let mut agent = Command::new(bin_dir.join("gnomon-agent"));
    agent.arg("flows").arg(&file).args(["--output", "eve"]).arg("--config").arg(&config);
    let output = agent.stdin(Stdio::null()).output().context("run gnomon-agent")?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let ours = flow_events(std::str::from_utf8(&output.stdout)?)?;
    println!("Suricata {}: {} flows, gnomon: {}", suricata.version()?, theirs.len(), ours.len());
    let (mut our_names, mut their_names) = (BTreeMap::new(), BTreeMap::new());
    ours.iter().for_each(|event| shape(event, "", &mut our_names));
    theirs.iter().for_each(|event| shape(event, "", &mut their_names));
    for (name, kinds) in &our_names {
        if OURS.iter().any(|ours| name.starts_with(ours)) && !their_names.contains_key(name) {
            continue;
        }
        let known = their_names.get(name).with_context(|| format!("Suricata {major} writes no {name}"))?;
        ensure!(kinds.is_subset(known), "{name} is {kinds:?}, Suricata {major}'s is {known:?}");
    }
    ensure!((ours.len(), theirs.len()) == (6, 6), "{ours:?} and {theirs:?}");
    for our in &ours {
        let ends = ["proto", "src_ip", "src_port", "dest_ip", "dest_port"];
        let same = |their: &&Value| ends.iter().all(|name| our[*name] == their[*name]);
        let their = theirs.iter().find(same).with_context(|| format!("Suricata {major} has no {our}"))?;
        for pointer in SAME {
            let (our, their) = (our.pointer(pointer), their.pointer(pointer));
            ensure!(our == their, "{pointer}: {our:?}, Suricata {major}: {their:?}");
        }
    }
    Ok(())
}

#[test]
fn an_exported_flow_is_what_suricata_7_writes_of_it() -> Result<()> {
    compare(7)
}

#[test]
fn an_exported_flow_is_what_suricata_8_writes_of_it() -> Result<()> {
    compare(8)
}
