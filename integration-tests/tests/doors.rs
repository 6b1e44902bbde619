//! Who comes to the collector's doors: silent crowds, slow and half messages, strangers, pages of others, those who take a
//! port. Beside them somebody honest, who gets in.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use gnomon_clock::{Clock, EpochId, KernelClock, RawNs};
use gnomon_collector::certs;
use gnomon_integration_tests::feeder::Feeder;
use gnomon_integration_tests::fleet::{Agent, Collector, Process, built_binaries, eventually, free_address};
use gnomon_integration_tests::netns::skip;
use gnomon_proto::v1::agent_message::Body as Say;
use gnomon_proto::v1::ingest_client::IngestClient;
use gnomon_proto::{PROTOCOL_VERSION, v1};
use rustix::net::{AddressFamily, SocketType};
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};

/// Connections that say nothing, from `source`.
fn silent(source: [u8; 4], to: SocketAddr, count: usize) -> Result<Vec<TcpStream>> {
    let from = SocketAddr::from((Ipv4Addr::from(source), 0));
    let connect = |_| {
        let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None)?;
        rustix::net::bind(&socket, &from)?;
        rustix::net::connect(&socket, &to)?;
        Ok(TcpStream::from(socket))
    };
    (0..count).map(connect).collect()
}

fn refused(collector: &Collector, reason: &str) -> Result<u64> {
    let (_, text) = collector.http_get("/metrics")?;
    let name = "gnomon_collector_refused_total{";
    let mut lines = text.lines().filter(|line| line.starts_with(name));
    let line = lines.find(|line| line.contains(&format!("reason=\"{reason}\""))).context("no such reason")?;
    Ok(line.rsplit(' ').next().context("no value")?.parse::<f64>()? as u64)
}

#[test]
fn an_honest_agent_gets_in_beside_thousands_who_say_nothing() -> Result<()> {
    gnomon_daemon::process::raise_open_files();
    let bin_dir = built_binaries()?;
    let dir = tempfile::tempdir()?;
    let mut collector = Collector::start(&bin_dir, &dir.path().join("collector"), &[])?;
    for source in [[127, 0, 0, 2], [127, 0, 0, 1]] {
        let held = [silent(source, collector.grpc, 2_000)?, silent(source, collector.http, 2_000)?];
        let feeder = Feeder::new(source[3])?;
        let clock = KernelClock;
        let begun = clock.monotonic();
        let session = feeder.feed(collector.grpc, None);
        eventually("an entry is acknowledged", 8, || Ok(feeder.told().acknowledged), |acked| *acked > 0)?;
        let (status, _) = collector.http_get("/healthz")?;
        assert_eq!(status, 200);
        println!("in after {} ms beside {source:?}", clock.monotonic().since(begun) / 1_000_000);
        drop((session, held));
    }
    assert!(refused(&collector, "crowded")? > 1_000);
    let said = collector.process()?.said();
    let lines = said.lines().filter(|line| line.contains("refused")).count();
    assert!(lines <= 6, "{lines} lines:\n{said}");
    Ok(())
}

#[test]
fn who_says_nothing_is_let_go_and_who_only_looks_is_no_line() -> Result<()> {
    let bin_dir = built_binaries()?;
    let dir = tempfile::tempdir()?;
    let mut collector = Collector::start(&bin_dir, &dir.path().join("collector"), &[])?;
    let process = collector.process()?;
    let said = eventually("it is ready", 10, || Ok(process.said()), |said| said.contains("ready"))?;
    let before = said.lines().count();
    for _ in 0..50 {
        drop((TcpStream::connect(collector.grpc)?, TcpStream::connect(collector.http)?));
    }
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(collector.process()?.said().lines().count(), before, "{}", collector.process()?.said());
    // Nothing, half a head, HTTP/2 without a request, a body that never ends.
    let begins: [&[u8]; 4] = [
        b"",
        b"GET /healthz HTTP/1.1\r\nHost: loc",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
        b"POST /api/v1/count HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 50\r\n\r\n{",
    ];
    let mut streams = Vec::new();
    for begin in begins {
        let mut stream = TcpStream::connect(collector.http)?;
        stream.write_all(begin)?;
        stream.set_read_timeout(Some(Duration::from_secs(45)))?;
        streams.push(stream);
    }
    for (stream, begin) in streams.iter_mut().zip(begins) {
        let mut rest = Vec::new();
        // Closed in time, with an answer or without.
        let ended = stream.read_to_end(&mut rest);
        let timed_out = matches!(&ended, Err(e) if matches!(e.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut));
        let answered = rest.starts_with(b"HTTP/1.1 4");
        assert!(!timed_out || answered, "{:?} is still open: {rest:?}", String::from_utf8_lossy(begin));
    }
    assert!(refused(&collector, "silent")? >= 3 && refused(&collector, "slow_body")? >= 1);
    Ok(())
}

/// One HTTP/2 connection with `streams` calls of Ingest, each with a message of 8 MiB of which only `bytes` come.
fn half_messages(to: SocketAddr, streams: u32, bytes: usize) -> Result<TcpStream> {
    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_be_bytes();
        [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
    }
    // RFC 7541, section 6.2.2: fields without indexing.
    let field = |name: &str, value: &str| {
        [&[0, name.len() as u8], name.as_bytes(), &[value.len() as u8], value.as_bytes()].concat()
    };
    let head = [
        field(":method", "POST"),
        field(":scheme", "http"),
        field(":path", "/gnomon.v1.Ingest/Stream"),
        field(":authority", "localhost"),
        field("content-type", "application/grpc"),
        field("te", "trailers"),
    ]
    .concat();
    let mut connection = TcpStream::connect(to)?;
    connection.set_read_timeout(Some(Duration::from_secs(10)))?;
    connection.set_write_timeout(Some(Duration::from_secs(2)))?;
    connection.write_all(&[&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &frame(4, 0, 0, &[])].concat())?;
    // Its windows hold once its settings were acknowledged.
    let mut settings = [0; 9];
    connection.read_exact(&mut settings)?;
    let mut all = frame(4, 1, 0, &[]);
    for stream in (0..streams).map(|n| 2 * n + 1) {
        all.extend(frame(1, 4, stream, &head));
        let message = [&[0, 0, 0x80, 0, 0][..], &vec![7; bytes]].concat();
        message.chunks(16_384).for_each(|chunk| all.extend(frame(0, 0, stream, chunk)));
    }
    // The collector may have had enough of it.
    let _ = connection.write_all(&all);
    Ok(connection)
}

fn resident_bytes(pid: u32) -> Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
}

#[test]
fn messages_that_never_end_take_no_memory_to_speak_of_and_nobodys_place() -> Result<()> {
    let bin_dir = built_binaries()?;
    let dir = tempfile::tempdir()?;
    let mut collector = Collector::start(&bin_dir, &dir.path().join("collector"), &[])?;
    let pid = collector.process()?.pid();
    let before = resident_bytes(pid)?;
    // 760 MB if all of it were kept.
    let held: Vec<_> = (0..200).map(|_| half_messages(collector.grpc, 30, 127_000)).collect::<Result<_>>()?;
    let feeder = Feeder::new(1)?;
    let session = feeder.feed(collector.grpc, None);
    let mut most = 0;
    let told = || {
        most = most.max(resident_bytes(pid)?);
        Ok(feeder.told().acknowledged)
    };
    eventually("an entry is acknowledged", 15, told, |acked| *acked > 0)?;
    println!("{} MB more, at most, beside {} connections", (most - before) >> 20, held.len());
    assert!(most < before + (400 << 20), "{before} then {most}");
    drop((held, session));
    Ok(())
}

/// Sends it as it is, and gives the status of the answer.
fn status(to: SocketAddr, request: &str) -> Result<u16> {
    let mut stream = TcpStream::connect(to)?;
    stream.write_all(request.as_bytes())?;
    let mut answer = [0; 12];
    stream.read_exact(&mut answer)?;
    Ok(std::str::from_utf8(&answer)?.rsplit(' ').next().context("no status")?.parse()?)
}

#[test]
fn pages_of_other_sites_learn_nothing() -> Result<()> {
    let bin_dir = built_binaries()?;
    let dir = tempfile::tempdir()?;
    let collector =
        Collector::start(&bin_dir, &dir.path().join("collector"), &[r#"listen.names=["gnomon.test"]"#])?;
    for door in [collector.http, collector.grpc] {
        let get = |fields: &str| status(door, &format!("GET /api/v1/status HTTP/1.1\r\n{fields}\r\n"));
        let port = door.port();
        for host in ["localhost", "127.0.0.1", "[::1]", "gnomon.test"] {
            assert_eq!(get(&format!("Host: {host}:{port}\r\n"))?, 200, "{host}");
        }
        for host in ["rebound.example", "127.0.0.1.rebound.example", "192.0.2.1"] {
            assert_eq!(get(&format!("Host: {host}:{port}\r\n"))?, 421, "{host}");
        }
        assert_eq!(get("")?, 400);
        assert_eq!(get("Host: localhost\r\nHost: rebound.example\r\n")?, 400);
        assert_eq!(get("Host: localhost\r\nOrigin: http://rebound.example\r\n")?, 403);
        assert_eq!(get("Host: localhost\r\nOrigin: null\r\n")?, 403);
        assert_eq!(get("Host: localhost\r\nSec-Fetch-Site: cross-site\r\n")?, 403);
        assert_eq!(
            status(
                door,
                "GET http://rebound.example/api/v1/status HTTP/1.1\r\nHost: rebound.example\r\n\r\n"
            )?,
            421
        );
        assert_eq!(
            status(door, "GET http://rebound.example/api/v1/status HTTP/1.1\r\nHost: localhost\r\n\r\n")?,
            400
        );
        let post = |kind: &str| {
            let head = "POST /api/v1/count HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n";
            status(door, &format!("{head}{kind}\r\n{{}}"))
        };
        assert_eq!(post("Content-Type: application/json\r\n")?, 200);
        for kind in
            ["", "Content-Type: text/plain\r\n", "Content-Type: application/x-www-form-urlencoded\r\n"]
        {
            assert_eq!(post(kind)?, 415, "{kind:?}");
        }
    }
    assert!(refused(&collector, "host")? >= 8 && refused(&collector, "origin")? >= 6);
    for path in [collector.data_dir(), collector.data_dir().join("quarantine")] {
        assert_eq!(std::fs::metadata(&path)?.mode() & 0o077, 0, "{}", path.display());
    }
    Ok(())
}

/// An authority with pairs for the collector, agents and a client, made `days` ago.
fn authority(dir: &Path, days: i64) -> Result<()> {
    let order = certs::Order {
        out: dir.to_owned(),
        collector_names: vec!["localhost".to_owned()],
        agents: vec!["one".to_owned(), "two".to_owned()],
        clients: vec!["ann".to_owned()],
        force: true,
        group: None,
    };
    let now = KernelClock.bracket().realtime;
    certs::make(&order, now.saturating_add_ns(-days * 86_400_000_000_000))?;
    Ok(())
}

fn tls_settings(dir: &Path, pair: &str) -> Vec<String> {
    let file = |name: String| dir.join(name).display().to_string();
    vec![
        format!("tls.ca={}", file("ca.crt".to_owned())),
        format!("tls.certificate={}", file(format!("{pair}.crt"))),
        format!("tls.key={}", file(format!("{pair}.key"))),
    ]
}

fn secured(bin_dir: &Path, dir: &Path, certificates: &Path) -> Result<Collector> {
    let settings = tls_settings(certificates, "collector");
    Collector::start(bin_dir, dir, &settings.iter().map(String::as_str).collect::<Vec<_>>())
}

/// Says Hello as `id`, with a certificate: what was answered.
fn hello(
    collector: &Collector,
    certificates: &Path,
    pair: &str,
    id: u8,
) -> Result<Result<(), tonic::Status>> {
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(async {
        let pem = |name: String| std::fs::read(certificates.join(name));
        let tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(pem("ca.crt".to_owned())?))
            .identity(Identity::from_pem(pem(format!("{pair}.crt"))?, pem(format!("{pair}.key"))?));
        let url = format!("https://localhost:{}", collector.grpc.port());
        let channel = Endpoint::from_shared(url)?.tls_config(tls)?.connect().await?;
        let epoch = EpochId { agent: [id; 16], boot_id: [1; 16], opened: RawNs(1) };
        let hello = v1::Hello {
            protocol_version: PROTOCOL_VERSION,
            agent_id: vec![id; 16],
            name: "by hand".to_owned(),
            epoch: Some((&epoch).into()),
            ..Default::default()
        };
        let said = tokio_stream::iter([v1::AgentMessage { body: Some(Say::Hello(hello)) }]);
        let mut answers = match IngestClient::new(channel).stream(said).await {
            Ok(answers) => answers.into_inner(),
            Err(status) => return Ok(Err(status)),
        };
        Ok(answers.message().await.map(|_| ()))
    })
}

#[test]
fn a_certificate_decides_what_one_may_do_and_whose_an_id_is() -> Result<()> {
    let bin_dir = built_binaries()?;
    let dir = tempfile::tempdir()?;
    let certificates = dir.path().join("certs");
    authority(&certificates, 0)?;
    let mut collector = secured(&bin_dir, &dir.path().join("collector"), &certificates)?;
    let gnomon = |pair: &str| -> Result<(Option<i32>, String)> {
        let mut command = Command::new(bin_dir.join("gnomon"));
        command.arg("--server").arg(format!("https://localhost:{}", collector.grpc.port()));
        command.arg("--ca").arg(certificates.join("ca.crt")).args(["count", "-o", "jsonl"]);
        command.arg("--cert").arg(certificates.join(format!("{pair}.crt")));
        command.arg("--key").arg(certificates.join(format!("{pair}.key")));
        let output = command.stdin(Stdio::null()).output()?;
        Ok((output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned()))
    };
    let (code, said) = gnomon("agent-one")?;
    assert!(code == Some(4) && said.contains("may not ask"), "{code:?} {said}");
    let (code, said) = gnomon("client-ann")?;
    assert_eq!(code, Some(1), "nothing was found: {said}");
    let told = hello(&collector, &certificates, "client-ann", 1)?.unwrap_err();
    assert!(told.message().contains("may not send"), "{told}");

    hello(&collector, &certificates, "agent-one", 1)??;
    hello(&collector, &certificates, "agent-one", 2)??;
    let told = hello(&collector, &certificates, "agent-two", 1)?.unwrap_err();
    assert_eq!(told.code(), tonic::Code::PermissionDenied);
    assert!(told.message().contains("belongs to certificate:one"), "{told}");
    // It stays so over a kill.
    collector.kill()?;
    collector.restart()?;
    assert!(hello(&collector, &certificates, "agent-two", 1)?.is_err());
    let config = dir.path().join("collector/config.toml");
    let administer = |words: &[&str]| -> Result<String> {
        let mut command = Command::new(bin_dir.join("gnomon-collector"));
        command.args(words).arg("--config").arg(&config);
        command.arg("--set").arg(format!("listen.unix={}", collector.socket().display()));
        let output = command.stdin(Stdio::null()).output()?;
        ensure!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let id = "01".repeat(16);
    assert!(administer(&["owners"])?.contains(&format!("{id}  certificate:one")));
    assert!(administer(&["release", &id])?.starts_with("released"));
    hello(&collector, &certificates, "agent-two", 1)??;
    assert!(hello(&collector, &certificates, "agent-one", 1)?.is_err());
    Ok(())
}

#[test]
fn health_and_metrics_need_no_certificate_and_nothing_else_is_open() -> Result<()> {
    let bin_dir = built_binaries()?;
    let dir = tempfile::tempdir()?;
    let certificates = dir.path().join("certs");
    authority(&certificates, 0)?;
    let collector = secured(&bin_dir, &dir.path().join("collector"), &certificates)?;
    let curl = |path: &str| -> Result<String> {
        let mut command = Command::new("curl");
        command
            .args(["-s", "-o", "/dev/null", "-w", "%{http_code}", "--cacert"])
            .arg(certificates.join("ca.crt"));
        command.arg(format!("https://localhost:{}{path}", collector.http.port()));
        Ok(String::from_utf8(command.output().context("curl")?.stdout)?)
    };
    for (path, code) in [
        ("/healthz", "200"),
        ("/readyz", "200"),
        ("/metrics", "200"),
        ("/api/v1/status", "401"),
        ("/openapi.json", "401"),
    ] {
        assert_eq!(curl(path)?, code, "{path}");
    }
    Ok(())
}

#[test]
fn a_certificate_that_has_expired_is_named_on_both_sides_and_a_new_one_is_taken_without_a_restart()
-> Result<()> {
    if skip() {
        return Ok(());
    }
    let bin_dir = built_binaries()?;
    let dir = tempfile::tempdir()?;
    let certificates = dir.path().join("certs");
    // Longer ago than any build of this: expired whatever the clock. The authority is as old, and good for ten years.
    authority(&certificates, 2_900)?;
    let mut collector = secured(&bin_dir, &dir.path().join("collector"), &certificates)?;
    let url = format!("https://localhost:{}", collector.grpc.port());
    let settings = tls_settings(&certificates, "agent-one");
    let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
    let lo = r#"name = "lo""#;
    let mut agent = Agent::start(&bin_dir, &dir.path().join("agent"), None, lo, &url, &settings)?;
    let mut said = |what: &str| {
        let agent = agent.process()?;
        eventually(what, 15, || Ok(agent.said()), |said| said.contains(what))
    };
    said("the collector's certificate is refused: it has expired: it was good until 20")?;
    // A good one for the collector; the agent's has expired still.
    let keep = |name: &str| -> Result<(PathBuf, Vec<u8>)> {
        let path = certificates.join(name);
        let bytes = std::fs::read(&path)?;
        Ok((path, bytes))
    };
    let expired = [keep("agent-one.crt")?, keep("agent-one.key")?];
    authority(&certificates, 0)?;
    let renewed = [keep("agent-one.crt")?, keep("agent-one.key")?];
    for (path, bytes) in &expired {
        std::fs::write(path, bytes)?;
    }
    collector.process()?.signal("HUP")?;
    said("your certificate \"one\"")?;
    said("has expired: it was good until 20")?;
    let by_collector = collector.process()?.said();
    assert!(
        by_collector.contains("your certificate") && by_collector.contains("certificates read again"),
        "{by_collector}"
    );
    for (path, bytes) in &renewed {
        std::fs::write(path, bytes)?;
    }
    said("session with the collector url")?;
    Ok(())
}

#[test]
fn who_takes_the_port_of_a_collector_that_is_away_gets_nothing() -> Result<()> {
    if skip() {
        return Ok(());
    }
    let bin_dir = built_binaries()?;
    let dir = tempfile::tempdir()?;
    let thief = TcpListener::bind(free_address()?)?;
    let url = format!("http://{}", thief.local_addr()?);
    // Without the word the agent does not even start.
    let mut command = Command::new(bin_dir.join("gnomon-agent"));
    command.args(["run", "--config", "/dev/null", "--set", "interfaces=[{ name = \"lo\" }]"]);
    command.arg("--set").arg(format!("state_dir={}", dir.path().join("refused").display()));
    command.arg("--set").arg(format!("collector.urls=[{url:?}]"));
    let mut process = Process::spawn(command, dir.path().join("refused.log"))?;
    let ended = eventually("it refuses to start", 10, || process.has_ended(), |ended| *ended)?;
    assert!(ended && process.said().contains("tls.insecure"), "{}", process.said());

    let mut collector = Collector::start(&bin_dir, &dir.path().join("collector"), &[])?;
    let at = collector.socket_url();
    let mut agent = Agent::start(&bin_dir, &dir.path().join("agent"), None, r#"name = "lo""#, &at, &[])?;
    let flows = || Ok(collector.count("")?.0);
    eventually("flows come by the socket", 20, flows, |flows| *flows > 0)?;
    let socket = collector.socket();
    assert_eq!(std::fs::metadata(&socket)?.mode() & 0o777, 0o660);
    // Another user's process in its place is not believed.
    collector.kill()?;
    std::fs::remove_file(&socket)?;
    let directory = socket.parent().context("a directory")?;
    std::os::unix::fs::chown(directory, Some(4711), None)?;
    let _false = std::os::unix::net::UnixListener::bind(&socket)?;
    let process = agent.process()?;
    eventually("it is said", 20, || Ok(process.said()), |said| said.contains("where anybody can"))?;
    Ok(())
}

/// Expired by the machine's clock, but not before this was built: while nothing vouches for the clock it may be the clock
/// that is wrong.
#[test]
fn an_expired_certificate_that_passes_while_the_clock_is_unproven_is_counted_and_said() -> Result<()> {
    const PAIR_DAYS: i64 = 825;
    let now_s = KernelClock.bracket().realtime.unix_ns() / 1_000_000_000;
    let built_s = i64::try_from(gnomon_daemon::build_info::BUILT_AT_UNIX_S)?;
    let days = PAIR_DAYS + (now_s - built_s) / 86_400 / 2;
    if now_s - built_s < 4 * 86_400 {
        eprintln!("SKIPPED: this was built in the last days, so that nothing can have expired since");
        return Ok(());
    }
    let bin_dir = built_binaries()?;
    let dir = tempfile::tempdir()?;
    let certificates = dir.path().join("certs");
    authority(&certificates, days)?;
    let mut collector = secured(&bin_dir, &dir.path().join("collector"), &certificates)?;
    let agent = std::fs::read(certificates.join("agent-one.crt"))?;
    let key = std::fs::read(certificates.join("agent-one.key"))?;
    // The test's own client knows the time: the collector's pair is a new one.
    authority(&certificates, 0)?;
    std::fs::write(certificates.join("agent-one.crt"), agent)?;
    std::fs::write(certificates.join("agent-one.key"), key)?;
    collector.process()?.signal("HUP")?;
    let process = collector.process()?;
    eventually("read again", 10, || Ok(process.said()), |said| said.contains("certificates read again"))?;
    hello(&collector, &certificates, "agent-one", 1)??;
    let said = collector.process()?.said();
    assert!(said.contains("let in while this collector's time is unproven: certificate \"one\""), "{said}");
    Ok(())
}
