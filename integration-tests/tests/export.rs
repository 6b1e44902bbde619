//! `gnomon export` against a real collector: whole ranges in every form, new flows as they arrive, and what happens when
//! the other side is busy, away or gone.

use std::collections::{BTreeSet, HashSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use gnomon_integration_tests::capture_file::pcap_of_flows;
use gnomon_integration_tests::fleet::{Collector, built_binaries, eventually, free_address};

struct Scene {
    bin_dir: PathBuf,
    collector: Collector,
    dir: tempfile::TempDir,
}

impl Scene {
    fn new() -> Result<Scene> {
        let (bin_dir, dir) = (built_binaries()?, tempfile::tempdir()?);
        let collector = Collector::start(&bin_dir, &dir.path().join("collector"), &[])?;
        Ok(Scene { bin_dir, collector, dir })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn import(&self, flows: Range<u32>) -> Result<()> {
        let (file, config) = (self.path("old.pcap"), self.path("empty.toml"));
        std::fs::write(&file, pcap_of_flows(flows))?;
        std::fs::write(&config, "")?;
        let mut import = Command::new("timeout");
        import.arg("60").arg(self.bin_dir.join("gnomon-agent")).arg("import").arg("--config").arg(&config);
        import.args(["--collector", &self.collector.socket_url()]).arg(&file);
        let output = import.stdin(Stdio::null()).output().context("run gnomon-agent")?;
        ensure!(output.status.success(), "import: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }

    /// The ids of all records, once `count` are found.
    fn ids(&self, count: usize) -> Result<BTreeSet<String>> {
        let found = || {
            let ids =
                self.collector.flows("")?.iter().map(|flow| flow["id"].as_str().map(str::to_owned)).collect();
            let ids: Option<BTreeSet<String>> = ids;
            ids.context("a record without an id")
        };
        eventually("the records are there", 20, found, |ids| ids.len() >= count)
    }

    fn export(&self, arguments: &[&str]) -> Result<(i32, Vec<u8>, String)> {
        let words: Vec<&str> = ["export"].iter().chain(arguments).copied().collect();
        self.collector.gnomon(&words)
    }

    /// `gnomon export --follow`, running.
    fn follow(&self, arguments: &[&str], said: &Path) -> Result<Follower> {
        self.follow_to(Stdio::null(), arguments, said)
    }

    fn follow_to(&self, stdout: Stdio, arguments: &[&str], said: &Path) -> Result<Follower> {
        let mut command = Command::new(self.bin_dir.join("gnomon"));
        command.args(["export", "--follow"]).args(arguments).env("GNOMON_SERVER", self.collector.url());
        command.stdin(Stdio::null()).stdout(stdout).stderr(std::fs::File::create(said)?);
        command.spawn().context("run gnomon export --follow").map(Follower)
    }
}

/// Killed when dropped, so that a failed test leaves none behind.
struct Follower(Child);

impl Drop for Follower {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn terminate(mut follower: Follower) -> Result<Option<i32>> {
    let child = &mut follower.0;
    Command::new("kill").args(["-TERM", &child.id().to_string()]).status()?;
    eventually("gnomon ended", 10, || Ok(child.try_wait()?.map(|status| status.code())), Option::is_some)
        .map(Option::flatten)
}

#[test]
fn a_whole_range_is_exported_in_every_form() -> Result<()> {
    let scene = Scene::new()?;
    // More than one page.
    scene.import(0..4_500)?;
    let ids = scene.ids(4_500)?;
    for (format, headers) in [("jsonl", 0), ("csv", 1), ("zeek", 7), ("zeek-json", 0), ("ecs", 0), ("eve", 0)]
    {
        let (code, stdout, stderr) = scene.export(&["--format", format])?;
        assert_eq!(code, 0, "{format}: {stderr}");
        let text = String::from_utf8(stdout)?;
        assert_eq!(text.lines().count(), ids.len() + headers, "{format}: {stderr}");
        let words: HashSet<&str> = text.split(['"', '\t', ',', '\n']).collect();
        let missing = ids.iter().filter(|id| !words.contains(id.as_str())).count();
        assert_eq!(
            (missing, stderr.contains(&format!("{} flows", ids.len()))),
            (0, true),
            "{format}: {stderr}"
        );
    }
    let times = |line: &serde_json::Value| line["ts"].as_f64();
    let (_, stdout, _) = scene.export(&["--format", "zeek-json"])?;
    let lines: Vec<serde_json::Value> =
        stdout.split(|b| *b == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect();
    assert!(lines.is_sorted_by_key(times), "oldest first");
    // The messages of a file count its records.
    let path = scene.path("flows.ipfix").display().to_string();
    let (code, _, stderr) = scene.export(&["--format", "ipfix", "-w", &path])?;
    assert_eq!(code, 0, "{stderr}");
    let file = std::fs::read(&path)?;
    let (mut at, mut last) = (0, 0);
    while at < file.len() {
        last = at;
        at += usize::from(u16::from_be_bytes([file[at + 2], file[at + 3]]));
    }
    let sequence = u32::from_be_bytes([file[last + 8], file[last + 9], file[last + 10], file[last + 11]]);
    assert!(at == file.len() && sequence > 1_000 && (sequence as usize) < ids.len(), "{sequence}");
    Ok(())
}

#[test]
fn mistakes_and_nothing_found_are_told_by_the_exit_code() -> Result<()> {
    let scene = Scene::new()?;
    let file = scene.path("none.log").display().to_string();
    assert_eq!(scene.export(&["--format", "zeek", "-w", &file])?.0, 1);
    assert!(
        std::fs::read_to_string(&file)?.starts_with("#separator"),
        "a file without records has its header"
    );
    let unwritten = scene.path("unwritten.log").display().to_string();
    let (code, _, stderr) = scene.export(&["ip.src ==", "--format", "zeek", "-w", &unwritten])?;
    assert_eq!((code, Path::new(&unwritten).exists()), (2, false), "{stderr}");
    for wrong in [
        &["--format", "csv", "--to", "udp://127.0.0.1:1"][..],
        &["--format", "ipfix", "--to", "http://127.0.0.1:1/"],
        &["--format", "ecs", "--to", "https://127.0.0.1:1/"],
        &["--format", "ecs", "--pending"],
        &["--format", "ecs", "--follow", "--since", "-1h"],
        &["--format", "nonsense"],
    ] {
        let (code, _, stderr) = scene.export(wrong)?;
        assert_eq!(code, 2, "{wrong:?}: {stderr}");
    }
    Ok(())
}

/// A server of Elasticsearch's bulk interface: too busy at first, and it remembers.
struct Bulk {
    address: SocketAddr,
    created: Arc<Mutex<Vec<(String, serde_json::Value)>>>,
}

impl Bulk {
    fn start(busy: usize) -> Result<Bulk> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let (address, created) = (listener.local_addr()?, Arc::new(Mutex::new(Vec::new())));
        let ours = Arc::clone(&created);
        std::thread::spawn(move || {
            let mut requests = 0;
            for stream in listener.incoming().flatten() {
                while let Ok(Some(body)) = request(&stream) {
                    requests += 1;
                    if requests <= busy {
                        drop(answer(&stream, "429 Too Many Requests", "slow down"));
                        continue;
                    }
                    let lines: Vec<serde_json::Value> =
                        body.lines().map(|line| serde_json::from_str(line).unwrap_or_default()).collect();
                    let mut created = ours.lock().unwrap();
                    for pair in lines.chunks(2) {
                        let id = pair[0]["create"]["_id"].as_str().unwrap_or_default().to_owned();
                        created.push((id, pair[1].clone()));
                    }
                    drop(answer(&stream, "200 OK", r#"{"errors":false,"items":[]}"#));
                }
            }
        });
        Ok(Bulk { address, created })
    }

    fn ids(&self) -> Vec<String> {
        self.created.lock().unwrap().iter().map(|(id, _)| id.clone()).collect()
    }
}

/// The body of the next request, or `None` at the connection's end.
fn request(stream: &TcpStream) -> Result<Option<String>> {
    let mut reader = BufReader::new(stream);
    let mut length = 0;
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    while line.trim() != "" {
        if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse()?;
        }
        line.clear();
        reader.read_line(&mut line)?;
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    Ok(Some(String::from_utf8(body)?))
}

fn answer(mut stream: &TcpStream, status: &str, body: &str) -> Result<()> {
    write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len())?;
    Ok(())
}

#[test]
fn new_flows_go_to_a_bulk_interface_that_is_busy_at_first_each_once() -> Result<()> {
    let scene = Scene::new()?;
    let bulk = Bulk::start(2)?;
    let (said, url) = (scene.path("said"), format!("http://{}/flows/_bulk", bulk.address));
    let child = scene.follow(&["--format", "ecs", "--to", &url], &said)?;
    std::thread::sleep(Duration::from_secs(1));
    scene.import(0..1_200)?;
    let ids = scene.ids(1_200)?;
    let seen = || Ok(bulk.ids().len());
    eventually("all are there", 30, seen, |seen| *seen >= ids.len())
        .with_context(|| std::fs::read_to_string(&said).unwrap_or_default())?;
    let code = terminate(child)?;
    let said = std::fs::read_to_string(&said)?;
    let created = bulk.ids();
    assert_eq!((code, created.len()), (Some(0), ids.len()), "{said}");
    assert_eq!(created.into_iter().collect::<BTreeSet<_>>(), ids);
    assert!(said.contains("429") && said.contains("goes on"), "{said}");
    let first = bulk.created.lock().unwrap()[0].1.clone();
    assert_eq!((&first["ecs"]["version"], &first["event"]["kind"]), (&"8.17.0".into(), &"event".into()));
    Ok(())
}

#[test]
fn a_sink_that_is_away_during_a_bulk_import_gets_all_of_it_once_it_is_back() -> Result<()> {
    let scene = Scene::new()?;
    let (said, address) = (scene.path("said"), free_address()?);
    let to = format!("tcp://{address}");
    let child = scene.follow(&["--format", "jsonl", "--to", &to], &said)?;
    std::thread::sleep(Duration::from_secs(1));
    // More than the queues of both hold.
    scene.import(0..14_000)?;
    let text = || Ok(std::fs::read_to_string(&said)?);
    eventually("it is told", 30, text, |text| text.contains("Connection refused"))?;
    let listener = TcpListener::bind(address)?;
    let (mut got, mut lines) = (BTreeSet::new(), 0);
    let (stream, _) = listener.accept()?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    for line in BufReader::new(&stream).lines() {
        let flow: serde_json::Value = serde_json::from_str(&line?)?;
        got.insert(flow["id"].as_str().context("an id")?.to_owned());
        lines += 1;
        if got.len() >= 14_000 {
            break;
        }
    }
    assert_eq!((lines, got.len()), (14_000, 14_000), "each once");
    let code = terminate(child)?;
    let said = text()?;
    assert_eq!(code, Some(0), "{said}");
    assert!(!said.contains("missed") && !said.contains("dropped"), "{said}");
    Ok(())
}

#[test]
fn a_pipe_that_nobody_reads_holds_no_process() -> Result<()> {
    let scene = Scene::new()?;
    let said = scene.path("said");
    let mut child = scene.follow_to(Stdio::piped(), &["--format", "ecs"], &said)?;
    // Open, and never read.
    let _pipe = child.0.stdout.take();
    std::thread::sleep(Duration::from_secs(1));
    scene.import(0..1_000)?;
    scene.ids(1_000)?;
    let code = terminate(child)?;
    let said = std::fs::read_to_string(&said)?;
    assert_eq!(code, Some(3), "{said}");
    assert!(said.contains("flows waited and were not taken"), "{said}");
    Ok(())
}

#[test]
fn a_follower_misses_nothing_while_its_collector_restarts() -> Result<()> {
    let mut scene = Scene::new()?;
    let file = scene.path("flows.json");
    let (said, path) = (scene.path("said"), file.display().to_string());
    let child = scene.follow(&["--format", "zeek-json", "-w", &path], &said)?;
    std::thread::sleep(Duration::from_secs(1));
    scene.collector.kill()?;
    scene.collector.restart()?;
    let text = |path: &Path| std::fs::read_to_string(path).unwrap_or_default();
    // Before it is looked at again: pauses grow.
    scene.import(0..200)?;
    eventually("it is back", 20, || Ok(text(&said)), |said| said.contains("the collector is back"))?;
    let ids = scene.ids(200)?;
    eventually("all are there", 20, || Ok(text(&file).lines().count()), |lines| *lines >= ids.len())?;
    let code = terminate(child)?;
    assert_eq!(code, Some(0), "{}", text(&said));
    assert!(text(&said).contains("the collector is away"), "{}", text(&said));
    assert_eq!(text(&file).lines().count(), ids.len(), "each once");
    Ok(())
}
