//! What people and networks get wrong: each is told what, where and what to do, and nothing that was there is lost.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, ensure};
use gnomon_integration_tests::capture_file::pcap_file;
use gnomon_integration_tests::fleet::{Agent, Collector, built_binaries, eventually, free_address};
use gnomon_integration_tests::forward::Forward;
use gnomon_integration_tests::netns::{Netns, skip};
use gnomon_integration_tests::traffic;

/// Runs a program that is expected to end by itself: within 20 s, by coreutils' timeout.
fn ended(program: &Path, arguments: &[&str]) -> Result<Output> {
    let mut command = Command::new("timeout");
    command.arg("20").arg(program).args(arguments).stdin(Stdio::null());
    command.output().with_context(|| format!("run {}", program.display()))
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn expect(output: &Output, code: i32, words: &[&str]) {
    let said = said(output);
    assert_eq!(output.status.code(), Some(code), "{said}");
    for word in words {
        assert!(said.contains(word), "{word:?} is not in: {said}");
    }
}

#[test]
fn an_unknown_key_or_a_wrong_value_in_a_config_file_refuses_to_start() -> Result<()> {
    let bin_dir = built_binaries()?;
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("config.toml");
    let config = path.to_str().context("a temporary path that is not UTF-8")?;
    for (program, text, words) in [
        ("gnomon-agent", "[spool]\nbytes_maximum = \"1GiB\"\n", ["bytes_maximum", config, "bytes_max"]),
        ("gnomon-agent", "[flows]\nflows_max = 0\n", ["flows.flows_max", config, "0"]),
        ("gnomon-collector", "[clock]\npolicy = \"guess\"\n", ["clock.policy", config, "correct"]),
    ] {
        fs::write(&path, text)?;
        // 78 is EX_CONFIG of sysexits.h: a service manager need not try again.
        expect(&ended(&bin_dir.join(program), &["run", "--config", config])?, 78, &words);
    }
    Ok(())
}

#[test]
fn a_port_in_use_is_named() -> Result<()> {
    let bin_dir = built_binaries()?;
    let dir = tempfile::tempdir()?;
    let taken = TcpListener::bind("127.0.0.1:0")?;
    let (taken, free) = (taken.local_addr().map(|address| (taken, address))?, free_address()?);
    let config = dir.path().join("empty.toml");
    fs::write(&config, "")?;
    for (grpc, http, key) in [(taken.1, free, "listen.grpc"), (free, taken.1, "listen.http")] {
        let (grpc, http) = (format!("listen.grpc={grpc}"), format!("listen.http={http}"));
        let (config, data) = (config.display().to_string(), dir.path().join("data").display().to_string());
        let output = ended(
            &bin_dir.join("gnomon-collector"),
            &["run", "--config", &config, "--data-dir", &data, "--set", &grpc, "--set", &http],
        )?;
        expect(&output, 1, &[&taken.1.to_string(), key, "in use"]);
    }
    Ok(())
}

#[test]
fn a_capability_that_is_missing_is_named() -> Result<()> {
    if skip() {
        return Ok(());
    }
    let bin_dir = built_binaries()?;
    let (_client, sensor) = traffic::host_and_tap(1_500)?;
    let state = tempfile::tempdir()?;
    for (stance, capability) in [("host", "CAP_NET_RAW"), ("tap", "CAP_BPF")] {
        let mut command = sensor.command("setpriv");
        command.args(["--inh-caps=-all", "--bounding-set=-all", "timeout", "20"]);
        command.arg(bin_dir.join("gnomon-agent")).arg("run").arg("--set");
        command.arg(format!("state_dir={}", state.path().join(stance).display()));
        command.args(["--set", &format!("interfaces=[{{ name = \"tap\", stance = \"{stance}\" }}]")]);
        expect(&command.stdin(Stdio::null()).output()?, 1, &[capability, "setcap"]);
    }
    Ok(())
}

#[test]
fn a_bad_expression_is_told_with_its_column_by_command_line_and_http() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let collector = Collector::start(&built_binaries()?, dir.path(), &[])?;
    let (code, _, said) = collector.gnomon(&["search", "ip.src == 10.0.0.1 && prot.dst == 80"])?;
    assert_eq!(code, 2, "{said}");
    for word in ["prot.dst", "port.dst", "^"] {
        assert!(said.contains(word), "{word:?} is not in: {said}");
    }
    let url = format!("http://{}/api/v1/search?expression=packets%20%3E%3D%20three", collector.http);
    let output = Command::new("curl").args(["-s", "-m", "20", "-w", "\n%{http_code}", &url]).output()?;
    let answer = said_by_curl(&output)?;
    assert!(answer.ends_with("\n400"), "{answer}");
    assert!(answer.contains("column") && answer.contains("three"), "{answer}");
    Ok(())
}

fn said_by_curl(output: &Output) -> Result<String> {
    ensure!(output.status.success(), "curl: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn a_corrupt_or_half_written_file_gives_what_is_whole_and_says_where_it_ends() -> Result<()> {
    let program = built_binaries()?.join("gnomon-agent");
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("capture.pcap");
    let name = path.to_str().context("a temporary path that is not UTF-8")?;
    let flows = |bytes: &[u8]| -> Result<Output> {
        fs::write(&path, bytes)?;
        ended(&program, &["flows", name, "--output", "jsonl"])
    };
    let packets = |output: &Output| -> Result<u64> {
        let lines = std::str::from_utf8(&output.stdout)?.lines();
        lines
            .map(|line| Ok(serde_json::from_str::<serde_json::Value>(line)?["packets"].as_u64().unwrap_or(0)))
            .sum()
    };
    let whole = pcap_file(5);

    let output = flows(b"this is no capture")?;
    expect(&output, 1, &[name, "not a capture file", "byte 0"]);

    // As a capture that was killed leaves it: the last packet is cut.
    let output = flows(&whole[..whole.len() - 7])?;
    expect(&output, 0, &[name, "ends inside the record at byte 256"]);
    assert_eq!(packets(&output)?, 4);

    // A length that cannot be, in the third packet.
    let mut damaged = whole;
    let third = 24 + 2 * (16 + 42);
    damaged[third + 8..third + 12].copy_from_slice(&0x7fff_ffffu32.to_le_bytes());
    let output = flows(&damaged)?;
    expect(&output, 1, &[name, &third.to_string()]);
    // What follows it is read.
    assert_eq!(packets(&output)?, 4);
    Ok(())
}

#[test]
fn a_flood_of_new_flows_evicts_and_loses_no_packet() -> Result<()> {
    if skip() {
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let (client, sensor) = traffic::host_and_tap(1_500)?;
    let bin_dir = built_binaries()?;
    let collector = Collector::start(&bin_dir, &dir.path().join("collector"), &[])?;
    let link = Forward::open(&sensor, SocketAddr::from(([127, 0, 0, 1], 7440)), collector.grpc)?;
    let interface = r#"name = "tap", stance = "host""#;
    let url = format!("http://{}", link.address());
    let agent_dir = dir.path().join("agent");
    let _agent =
        Agent::start(&bin_dir, &agent_dir, Some(&sensor), interface, &url, &["flows.flows_max=1024"])?;
    wait_until_captured(&client, &collector)?;
    let flows = 5_000u16;
    for port in 1_000..1_000 + flows {
        traffic::udp(&client, SocketAddr::from(([10, 9, 0, 2], port)), 2, 100, 0)?;
    }
    let seen = eventually(
        "every packet of the flood is in a record",
        20,
        || collector.count("ip.dst == 10.9.0.2 && port.dst >= 1000"),
        |(_, packets, _)| *packets == 2 * u64::from(flows),
    )?;
    assert!(seen.0 >= u64::from(flows), "{} flows", seen.0);
    let evicted = collector.count("end.reason == lack-of-resources")?.0;
    assert!(evicted > u64::from(flows) / 2, "a table of 1024 evicted {evicted}");
    Ok(())
}

/// Sends to port 9 until the collector has seen it.
fn wait_until_captured(client: &Netns, collector: &Collector) -> Result<()> {
    let look = || -> Result<u64> {
        traffic::udp(client, SocketAddr::from(([10, 9, 0, 2], 9)), 1, 60, 0)?;
        Ok(collector.count("port.dst == 9")?.1)
    };
    eventually("the first packets are found", 30, look, |n| *n > 0).map(drop)
}

/// A small disk, unmounted when dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(dir: &Path, mib: u32) -> Result<SmallDisk> {
        fs::create_dir_all(dir)?;
        let size = format!("size={mib}m");
        let status = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(dir).status()?;
        ensure!(status.success(), "mount a tmpfs at {}: {status}", dir.display());
        Ok(SmallDisk(dir.to_owned()))
    }

    /// Leaves `left` bytes free.
    fn fill(&self, left: u64) -> Result<()> {
        let free = rustix::fs::statvfs(&self.0)?;
        let bytes = (free.f_bavail * free.f_frsize).saturating_sub(left);
        let ballast = self.0.join("ballast");
        match fs::write(&ballast, vec![1u8; usize::try_from(bytes)?]) {
            // The program under test took room for itself meanwhile.
            Err(error) if error.kind() == std::io::ErrorKind::StorageFull => {
                let file = fs::OpenOptions::new().write(true).open(&ballast)?;
                Ok(file.set_len(file.metadata()?.len().saturating_sub(left))?)
            }
            written => Ok(written?),
        }
    }

    fn make_room(&self) -> Result<()> {
        Ok(fs::remove_file(self.0.join("ballast"))?)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a program that is still being killed may have files open.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_collector_with_a_full_disk_waits_and_then_has_everything() -> Result<()> {
    if skip() {
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let bin_dir = built_binaries()?;
    let disk = SmallDisk::mount(&dir.path().join("collector/data"), 160)?;
    let (client, sensor) = traffic::host_and_tap(1_500)?;
    let mut collector =
        Collector::start(&bin_dir, &dir.path().join("collector"), &["retention.free_min=8MiB"])?;
    let link = Forward::open(&sensor, SocketAddr::from(([127, 0, 0, 1], 7440)), collector.grpc)?;
    let interface = r#"name = "tap", stance = "host""#;
    let url = format!("http://{}", link.address());
    let mut agent = Agent::start(&bin_dir, &dir.path().join("agent"), Some(&sensor), interface, &url, &[])?;
    wait_until_captured(&client, &collector)?;
    disk.fill(64 << 10)?;
    let send = |ports: std::ops::Range<u16>| -> Result<()> {
        for port in ports {
            traffic::udp(&client, SocketAddr::from(([10, 9, 0, 2], port)), 5, 1_000, 0)?;
        }
        Ok(())
    };
    send(1_000..1_400)?;
    std::thread::sleep(std::time::Duration::from_secs(3));
    ensure!(!collector.process()?.has_ended()?, "the collector ended on a full disk");
    ensure!(!agent.process()?.has_ended()?, "the agent ended when the collector's disk was full");
    send(1_400..1_500)?;
    disk.make_room()?;
    eventually(
        "everything is there once there is room",
        60,
        || Ok(collector.count("ip.dst == 10.9.0.2 && port.dst >= 1000")?.1),
        |packets| *packets == 500 * 5,
    )?;
    Ok(())
}

#[test]
fn an_agent_with_a_full_disk_gives_up_packets_before_flows_and_says_so() -> Result<()> {
    if skip() {
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let bin_dir = built_binaries()?;
    let disk = SmallDisk::mount(&dir.path().join("agent/state"), 24)?;
    let (client, sensor) = traffic::host_and_tap(1_500)?;
    let collector = Collector::start(&bin_dir, &dir.path().join("collector"), &[])?;
    let link = Forward::open(&sensor, SocketAddr::from(([127, 0, 0, 1], 7440)), collector.grpc)?;
    let interface = r#"name = "tap", stance = "host""#;
    let url = format!("http://{}", link.address());
    let settings = [
        "spool.bytes_max=64MiB",
        "spool.segment_bytes=1MiB",
        "spool.free_bytes_min=0B",
        "spool.free_percent_min=0",
        // Every byte of the packets goes to the disk.
        "spool.zstd_level=-7",
    ];
    let mut agent =
        Agent::start(&bin_dir, &dir.path().join("agent"), Some(&sensor), interface, &url, &settings)?;
    wait_until_captured(&client, &collector)?;
    link.cut();
    disk.fill(256 << 10)?;
    // Until its preallocated files are full, too.
    let says_so =
        |log: &str| log.contains("gave up") || log.contains("no room") || log.contains("cannot write");
    let mut log = String::new();
    for _ in 0..20 {
        for port in 1_000..3_000 {
            traffic::udp(&client, SocketAddr::from(([10, 9, 0, 2], port)), 5, 1_400, 0)?;
        }
        std::thread::sleep(std::time::Duration::from_secs(2));
        ensure!(!agent.process()?.has_ended()?, "the agent ended on a full disk");
        log = agent.process()?.said();
        if says_so(&log) {
            break;
        }
    }
    assert!(says_so(&log), "{log}");
    disk.make_room()?;
    link.mend();
    // What came after there was room again is whole; what was given up is counted.
    for port in 10_000..10_100 {
        traffic::udp(&client, SocketAddr::from(([10, 9, 0, 2], port)), 5, 100, 0)?;
    }
    eventually(
        "what comes after the full disk is whole",
        60,
        || Ok(collector.count("ip.dst == 10.9.0.2 && port.dst >= 10000")?.1),
        |packets| *packets == 500,
    )?;
    let (_, stdout, _) = collector.gnomon(&["agents", "-o", "json"])?;
    let agents: serde_json::Value = serde_json::from_slice(&stdout)?;
    let spool = &agents["agents"][0]["heartbeat"]["spool"];
    let of = |what: &str| spool[what].as_u64().unwrap_or(0);
    assert!(of("sacrificed_slice_packets") + of("sacrificed_flow_records") > 0, "{agents}");
    Ok(())
}
