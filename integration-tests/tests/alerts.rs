//! Alerts become part of the flows they are about: with real Suricatas beside an agent, and with lines as it writes them
//! where kills and rotations have to fall between two of them.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use gnomon_clock::{Clock, KernelClock, RawNs};
use gnomon_integration_tests::capture_file::pcap_of_flows;
use gnomon_integration_tests::fleet::{Agent, Collector, built_binaries, eventually};
use gnomon_integration_tests::forward::Forward;
use gnomon_integration_tests::netns::{Netns, skip};
use gnomon_integration_tests::suricata::Suricata;
use gnomon_integration_tests::traffic;

const SERVER: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 2);
const RULES: &str = "\
alert http any any -> any any (msg:\"GNOMON needle in a URI\"; flow:established,to_server; http.uri; content:\"/needle\"; \
classtype:web-application-attack; sid:9000001; rev:3;)
alert icmp any any -> any any (msg:\"GNOMON ping\"; itype:8; sid:9000002; rev:1;)
alert udp any any -> any 5300 (msg:\"GNOMON datagram\"; content:\"haystack\"; sid:9000003; rev:1;)
";

/// Two hosts, an agent beside the server, and a collector.
struct Scene {
    client: Netns,
    server: Netns,
    collector: Collector,
    agent: Agent,
    _link: Forward,
    dir: tempfile::TempDir,
}

impl Scene {
    fn new() -> Result<Scene> {
        let (client, server) = traffic::two_hosts(1_500)?;
        let (bin_dir, dir) = (built_binaries()?, tempfile::tempdir()?);
        let collector = Collector::start(&bin_dir, &dir.path().join("collector"), &[])?;
        let link = Forward::open(&server, SocketAddr::from(([127, 0, 0, 1], 7440)), collector.grpc)?;
        let url = format!("http://{}", link.address());
        let eve = format!("alerts.eve=[\"{}\"]", dir.path().join("eve.json").display());
        let agent =
            Agent::start(&bin_dir, &dir.path().join("agent"), Some(&server), "name = \"s0\"", &url, &[&eve])?;
        let mut scene = Scene { client, server, collector, agent, _link: link, dir };
        let process = scene.agent.process()?;
        eventually("it captures", 20, || Ok(process.said()), |said| said.contains("capturing"))?;
        Ok(scene)
    }

    fn eve(&self) -> PathBuf {
        self.dir.path().join("eve.json")
    }

    fn flows(&self, expression: &str, wanted: usize) -> Result<Vec<serde_json::Value>> {
        eventually(expression, 20, || self.collector.flows(expression), |found| found.len() == wanted)
    }

    /// The packets of what matches, as a pcap file, once `text` is in them: records may come a moment before packets do.
    fn pcap(&self, expression: &str, text: &str) -> Result<Vec<u8>> {
        let packets = || -> Result<Vec<u8>> {
            let (code, stdout, stderr) = self.collector.gnomon(&["pcap", expression, "-w", "-"])?;
            // 1: none yet.
            ensure!(code <= 1, "gnomon pcap {expression:?} ended with {code}: {stderr}");
            Ok(stdout)
        };
        eventually(&format!("{text:?} is in the packets"), 10, packets, |packets| contains(packets, text))
    }

    /// Some datagrams from the client's `port`, as a flow of their own.
    fn datagrams(&self, port: u16, text: &'static str) -> Result<()> {
        self.client.within(move || -> Result<()> {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port))?;
            for _ in 0..3 {
                // What the server answers to one is told with the next.
                let _ = socket.send_to(text.as_bytes(), (SERVER, 5300));
            }
            Ok(())
        })?
    }

    /// A line as Suricata writes it, of the flow of [`Scene::datagrams`]. No Community ID is in it.
    fn line(port: u16, sid: u32) -> String {
        let time = eve_time();
        format!(
            "{{\"timestamp\":\"{time}\",\"flow_id\":{port},\"event_type\":\"alert\",\"src_ip\":\"10.9.0.1\",\"src_port\":{port},\
             \"dest_ip\":\"10.9.0.2\",\"dest_port\":5300,\"proto\":\"UDP\",\"alert\":{{\"action\":\"allowed\",\"gid\":1,\
             \"signature_id\":{sid},\"rev\":1,\"signature\":\"made {sid}\",\"category\":\"\",\"severity\":3}}}}\n"
        )
    }

    fn append(&self, text: &str) -> Result<()> {
        let mut file = File::options().create(true).append(true).open(self.eve())?;
        Ok(file.write_all(text.as_bytes())?)
    }
}

/// What the machine's clock says, as Suricata writes it: `2023-11-14T22:13:20.123456+0000`.
fn eve_time() -> String {
    let text = gnomon_flow::timestamp::rfc3339(KernelClock.bracket().realtime);
    format!("{}+0000", &text[..text.len() - 4])
}

fn ms_since(begun: RawNs) -> u64 {
    KernelClock.raw().since(begun) / 1_000_000
}

fn contains(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

fn get(client: &Netns, server: &Netns, path: &'static str) -> Result<()> {
    let listener = server.within(|| TcpListener::bind((SERVER, 80)))??;
    let answering = std::thread::spawn(move || -> std::io::Result<()> {
        let (mut stream, _) = listener.accept()?;
        let mut request = [0; 4096];
        let _ = stream.read(&mut request)?;
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
    });
    client.within(move || -> Result<()> {
        let mut stream = TcpStream::connect((SERVER, 80))?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: shop.example\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes())?;
        stream.read_to_end(&mut Vec::new())?;
        Ok(())
    })??;
    answering.join().map_err(|_| anyhow::anyhow!("the server panicked"))??;
    Ok(())
}

#[test]
fn an_alert_of_suricata_7_leads_to_its_packets() -> Result<()> {
    an_alert_leads_to_its_packets(7)
}

#[test]
fn an_alert_of_suricata_8_leads_to_its_packets() -> Result<()> {
    an_alert_leads_to_its_packets(8)
}

fn an_alert_leads_to_its_packets(major: u32) -> Result<()> {
    if skip() {
        return Ok(());
    }
    let Some(suricata) = Suricata::found(major) else { return Ok(()) };
    let scene = Scene::new()?;
    let _watching = suricata.watch(&scene.server, "s0", scene.dir.path(), RULES)?;
    get(&scene.client, &scene.server, "/index.html")?;
    get(&scene.client, &scene.server, "/needle?id=1")?;
    scene.client.run("ping", &["-c", "1", "-W", "5", "10.9.0.2"])?;
    scene.datagrams(41_000, "haystack")?;
    let written = || Ok(fs::read_to_string(scene.eve()).unwrap_or_default());
    let lines = eventually("Suricata wrote alerts", 30, written, |text| {
        (1..4).all(|n| text.contains(&format!("\"signature_id\":900000{n}")))
    })?;
    let version = suricata.version()?;
    ensure!(version.starts_with(&format!("{major}.")), "{version}");
    let begun = KernelClock.raw();
    let needle = scene.flows("alert.signature == \"*needle*\"", 1)?;
    println!(
        "Suricata {version}: the alert was on its flow {} ms after it was seen in the file",
        ms_since(begun)
    );
    let flow = &needle[0];
    assert_eq!(flow["alert.signature_id"], serde_json::json!([9_000_001]));
    assert_eq!(flow["alert.category"], serde_json::json!(["Web Application Attack"]));
    assert_eq!(flow["alert.severity"], serde_json::json!([1]));
    assert_eq!(flow["alert.action"], serde_json::json!(["allowed"]));
    assert_eq!(flow["http.uri"], serde_json::json!(["/needle?id=1"]));
    assert_eq!(flow["tags"], serde_json::json!(["suricata:9000001"]));
    // Suricata was told another seed: its ids are not ours.
    let id = flow["communityId"].as_str().context("no Community ID")?;
    assert!(!lines.contains(id), "{id}");
    let packets = scene.pcap("alert.signature_id == 9000001", "GET /needle?id=1")?;
    assert!(!contains(&packets, "GET /index.html"));
    // The names that Arkime has, and the other protocols.
    assert_eq!(scene.flows("suricata.signatureId == 9000002", 1)?[0]["ip.protocol"], "icmp");
    scene.pcap("tags == suricata:9000003", "haystack")?;
    assert_eq!(scene.collector.flows("alert.signature == EXISTS!")?.len(), 3);
    // Facets count them as any other field.
    let (code, stdout, stderr) = scene.collector.gnomon(&[
        "facets",
        "--fields",
        "alert.signature_id,alert.severity",
        "-o",
        "jsonl",
    ])?;
    let rows: Vec<serde_json::Value> =
        std::str::from_utf8(&stdout)?.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let of = |field: &str| {
        let row = rows.iter().find(|row| row["field"] == field);
        row.and_then(|row| row["values"].as_array()).map_or(0, Vec::len)
    };
    ensure!((code, of("alert.signature_id"), of("alert.severity")) == (0, 3, 2), "{rows:?} {stderr}");
    Ok(())
}

#[test]
fn what_suricata_7_says_of_a_file_meets_the_flows_of_the_same_file() -> Result<()> {
    what_is_said_of_a_file_meets_its_flows(7)
}

#[test]
fn what_suricata_8_says_of_a_file_meets_the_flows_of_the_same_file() -> Result<()> {
    what_is_said_of_a_file_meets_its_flows(8)
}

fn what_is_said_of_a_file_meets_its_flows(major: u32) -> Result<()> {
    let Some(suricata) = Suricata::found(major) else { return Ok(()) };
    let (bin_dir, dir) = (built_binaries()?, tempfile::tempdir()?);
    let collector = Collector::start(&bin_dir, &dir.path().join("collector"), &[])?;
    let (pcap, config) = (dir.path().join("old.pcap"), dir.path().join("empty.toml"));
    fs::write(&pcap, pcap_of_flows(0..3_000))?;
    fs::write(&config, "")?;
    let rule = "alert ip any any -> any any (msg:\"any\"; sid:9000004; rev:1;)";
    suricata.read(&pcap, dir.path(), rule)?;
    let alerts = fs::read_to_string(dir.path().join("eve.json"))?;
    let count = alerts.lines().filter(|line| line.contains("\"event_type\":\"alert\"")).count();
    ensure!(count >= 3_000, "{count} alerts");
    let send = |words: &[&str], input: Stdio| -> Result<String> {
        let mut command = Command::new("timeout");
        command.arg("60").arg(bin_dir.join("gnomon-agent")).args(words).arg("--config").arg(&config);
        command.args(["--collector", &collector.socket_url()]);
        let output = command.stdin(input).output().context("run gnomon-agent")?;
        ensure!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let (eve, old) = (dir.path().join("eve.json").display().to_string(), pcap.display().to_string());
    // Alerts first, then the flows, then the alerts again by the pipe.
    let said = send(&["eve", &eve], Stdio::null())?;
    assert_eq!(said, format!("{count} alerts: all durable at the collector\n"));
    send(&["import", &old], Stdio::null())?;
    let tagged = || Ok(collector.count("tags == suricata:9000004")?.0);
    let all = collector.count("")?.0;
    eventually("every flow has its alert", 30, tagged, |tagged| *tagged == all)?;
    let said = send(&["eve", "-"], Stdio::from(File::open(&eve)?))?;
    assert_eq!(said, format!("{count} alerts: all durable at the collector\n"));
    assert_eq!((collector.count("")?.0, tagged()?), (all, all));
    Ok(())
}

#[test]
fn kills_and_rotation_neither_lose_nor_double_an_alert() -> Result<()> {
    if skip() {
        return Ok(());
    }
    let mut scene = Scene::new()?;
    let mut starts = 1;
    let ports = 42_000..42_024;
    for (n, port) in ports.clone().enumerate() {
        scene.datagrams(port, "kills")?;
        let sid = 1_000 + u32::try_from(n)?;
        let line = Scene::line(port, sid);
        // Half now, half after what happens; the flow may have been killed with its agent, then this one has no alert.
        let (head, tail) = line.split_at(line.len() / 2);
        match n % 6 {
            1 => {
                scene.append(head)?;
                // Its records are on their way.
                scene.flows(&format!("port.src == {port}"), 1)?;
                scene.agent.kill()?;
                scene.append(tail)?;
                scene.agent.restart()?;
                starts += 1;
            }
            2 => {
                scene.append(&line)?;
                scene.collector.kill()?;
                scene.collector.restart()?;
            }
            3 => {
                scene.append(&line)?;
                fs::rename(scene.eve(), scene.dir.path().join(format!("eve.json.{n}")))?;
            }
            4 => {
                scene.append(&line)?;
                scene.flows(&format!("alert.signature_id == {sid}"), 1)?;
                scene.collector.kill()?;
                scene.collector.restart()?;
            }
            5 => {
                scene.append(&line)?;
                scene.flows(&format!("alert.signature_id == {sid}"), 1)?;
                scene.agent.kill()?;
                scene.agent.restart()?;
                starts += 1;
            }
            _ => scene.append(&line)?,
        }
        let process = scene.agent.process()?;
        // All of them wrote to the same log.
        let captures = |said: &String| said.matches("capturing interface=").count() >= starts;
        eventually("it captures", 20, || Ok(process.said()), captures)?;
        std::thread::sleep(Duration::from_millis(300));
    }
    for (n, port) in ports.enumerate() {
        let flow = scene.flows(&format!("port.src == {port} && alert.signature == EXISTS!"), 1)?;
        assert_eq!(flow[0]["alert.signature_id"], serde_json::json!([1_000 + n]), "{port}");
        assert_eq!(flow[0]["tags"], serde_json::json!([format!("suricata:{}", 1_000 + n)]));
    }
    Ok(())
}

#[test]
fn an_alert_is_on_its_flow_within_a_second() -> Result<()> {
    if skip() {
        return Ok(());
    }
    let scene = Scene::new()?;
    scene.append("")?;
    let mut took: Vec<u64> = Vec::new();
    for n in 0..20u16 {
        let (port, sid) = (43_000 + n, 2_000 + u32::from(n));
        scene.datagrams(port, "latency")?;
        scene.flows(&format!("port.src == {port}"), 1)?;
        // Not always at the same moment between two looks at the file.
        std::thread::sleep(Duration::from_millis(u64::from(n) * 13 % 100));
        let written = KernelClock.raw();
        scene.append(&Scene::line(port, sid))?;
        while scene.collector.count(&format!("alert.signature_id == {sid}"))?.0 == 0 {
            ensure!(ms_since(written) < 10_000, "alert {sid} is not there after 10 s");
        }
        took.push(ms_since(written));
    }
    took.sort_unstable();
    println!("from the line to the answer of a search: median {} ms, largest {} ms", took[10], took[19]);
    assert!(took[19] <= 1_000, "{took:?}");
    Ok(())
}
