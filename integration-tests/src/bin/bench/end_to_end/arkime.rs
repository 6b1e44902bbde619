//! Arkime's capture where it is found, and a database that keeps nothing: it answers what capture asks an Elasticsearch
//! when it starts, takes bulk requests and counts the sessions in them.
//!
//! A real database would take at least as long to answer: what is measured is the most that capture can do.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result, bail, ensure};

/// Longer than any request of capture's: its bulks end at 1 MB, or with the session that passes it.
const BODY_BYTES_MAX: usize = 64 << 20;
const LINE_BYTES_MAX: u64 = 64 << 10;
const HEADERS_MAX: usize = 100;
/// The version of the mappings of Arkime 6, which capture asks for and will not run without.
const MAPPINGS: u32 = 85;

/// `capture` by `GNOMON_ARKIME`, or where Arkime's packages put it.
pub(crate) fn find() -> Result<PathBuf, String> {
    const INSTALLED: &str = "/opt/arkime/bin/capture";
    let named = std::env::var_os("GNOMON_ARKIME").filter(|name| !name.is_empty());
    let path = PathBuf::from(named.unwrap_or_else(|| INSTALLED.into()));
    let missing = || format!("{} is not there (GNOMON_ARKIME names Arkime's capture)", path.display());
    path.canonicalize().map_err(|_| missing())
}

/// `Arkime 6.7.0`, as capture says.
pub(crate) fn version(capture: &Path) -> Result<String> {
    let output = std::process::Command::new(capture).arg("--version").output().context("run capture")?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    // "arkime-capture 6.7.0/v6.7.0 session size=…"
    let version = said.split_whitespace().nth(1).and_then(|word| word.split('/').next());
    Ok(format!("Arkime {}", version.unwrap_or("of unknown version")))
}

/// How much of its default work capture is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    AsItComes,
    /// No gzip on the way to the database, and no libmagic on the first bytes of bodies, which gnomon does not name
    /// either: the two take more than half of its time here.
    Spared,
}

/// Its configuration as its own example file has it, without geography, vendors of MACs, rules and custom headers, and with
/// no packet dropped as a duplicate of another.
pub(crate) fn configure(
    capture: &Path,
    work: Work,
    database: SocketAddr,
    threads: usize,
    dir: &Path,
) -> Result<PathBuf> {
    let spared = match work {
        Work::AsItComes => "",
        Work::Spared => "compressES=false\nmagicMode=none\n",
    };
    let folder = capture.parent().context("capture is in no folder")?;
    let parsers = [folder.join("parsers"), folder.join("../parsers")].into_iter().find(|dir| dir.is_dir());
    let parsers = parsers.with_context(|| format!("no parsers are beside {}", capture.display()))?;
    let (config, raw) = (dir.join("arkime.ini"), dir.join("arkime"));
    std::fs::create_dir_all(&raw)?;
    std::fs::write(
        &config,
        format!(
            "[default]\nelasticsearch=http://{database}\nrotateIndex=daily\nnodeClass=bench\npcapDir={}\nparsersDir={}\n\
             packetThreads={threads}\npcapWriteMethod=simple\npcapWriteSize=262144\npacketsPerPoll=50000\n\
             maxESConns=30\nmaxESRequests=500\nmaxStreams=1000000\nmaxPackets=10000\ntcpTimeout=600\n\
             tcpSaveTimeout=720\nudpTimeout=30\nicmpTimeout=10\nparseQSValue=false\nsupportSha256=false\n\
             maxReqBody=64\nreqBodyOnlyUtf8=true\nlogEveryXPackets=1000000\nlogESRequests=false\n\
             logFileCreation=false\nenablePacketDedup=false\nspiDataMaxIndices=4\n{spared}",
            raw.display(),
            parsers.display()
        ),
    )?;
    Ok(config)
}

/// Listens until the process ends.
#[derive(Debug)]
pub(crate) struct Database {
    pub(crate) address: SocketAddr,
    sessions: Arc<AtomicU64>,
}

impl Database {
    pub(crate) fn open() -> Result<Database> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let (address, sessions) = (listener.local_addr()?, Arc::new(AtomicU64::new(0)));
        let counted = Arc::clone(&sessions);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let counted = Arc::clone(&counted);
                std::thread::spawn(move || {
                    if let Err(error) = serve(&stream, &counted) {
                        eprintln!("a request of Arkime's: {error:#}");
                    }
                });
            }
        });
        Ok(Database { address, sessions })
    }

    /// Sessions taken since this was last asked.
    pub(crate) fn take_sessions(&self) -> u64 {
        self.sessions.swap(0, Ordering::Relaxed)
    }
}

fn line(reader: &mut impl BufRead) -> Result<String> {
    let mut line = String::new();
    reader.by_ref().take(LINE_BYTES_MAX).read_line(&mut line)?;
    Ok(line)
}

/// Requests of one connection, until it is closed (RFC 9112; capture sends bodies with their length).
fn serve(stream: &TcpStream, sessions: &AtomicU64) -> Result<()> {
    stream.set_nodelay(true)?;
    let (mut reader, mut writer) = (BufReader::with_capacity(1 << 16, stream), stream);
    let mut body = Vec::new();
    loop {
        let request = line(&mut reader)?;
        if request.is_empty() {
            return Ok(());
        }
        let mut length = 0;
        for headers in 0.. {
            ensure!(headers < HEADERS_MAX, "more than {HEADERS_MAX} headers");
            let header = line(&mut reader)?;
            if header.trim().is_empty() {
                break;
            }
            if let Some((name, value)) = header.split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                length = value.trim().parse().with_context(|| format!("read {header:?}"))?;
            }
        }
        ensure!(length <= BODY_BYTES_MAX, "a body of {length} bytes");
        body.resize(length, 0);
        reader.read_exact(&mut body)?;
        let mut words = request.split_whitespace();
        let (Some(method), Some(path)) = (words.next(), words.next()) else {
            bail!("{request:?} is no request");
        };
        let answer = answer(method, path, &body, sessions);
        writer.write_all(
            format!(
                "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{answer}",
                answer.len()
            )
            .as_bytes(),
        )?;
    }
}

fn answer(method: &str, path: &str, body: &[u8], sessions: &AtomicU64) -> String {
    if path == "/_bulk" {
        sessions.fetch_add(sessions_in(body), Ordering::Relaxed);
        return r#"{"took":0,"errors":false,"items":[]}"#.to_owned();
    }
    if let Some(template) = path.strip_prefix("/_template/") {
        let name = template.split('?').next().unwrap_or_default();
        return format!(r#"{{"{name}":{{"mappings":{{"_meta":{{"molochDbVersion":{MAPPINGS}}}}}}}}}"#);
    }
    if path.contains("/_search") {
        // Fields it knows, and files it has seen: none.
        return r#"{"hits":{"total":0,"hits":[]}}"#.to_owned();
    }
    if path.starts_with("/_cat/health") {
        return r#"[{"status":"green"}]"#.to_owned();
    }
    // A number for a file, statistics: written or read, there is version 1 of it.
    match method {
        "GET" => r#"{"_version":1,"found":true,"_source":{}}"#.to_owned(),
        _ => r#"{"_version":1,"result":"updated"}"#.to_owned(),
    }
}

/// A bulk's lines are an action and what it is done with, in turn.
fn sessions_in(body: &[u8]) -> u64 {
    const INDEX: &[u8] = b"sessions3-";
    let actions = body.split(|byte| *byte == b'\n').step_by(2);
    actions.filter(|action| action.windows(INDEX.len()).any(|window| window == INDEX)).count() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(stream: &mut TcpStream, request: &str) -> String {
        stream.write_all(request.as_bytes()).unwrap();
        let mut reader = BufReader::new(stream);
        let mut length = 0;
        loop {
            let header = line(&mut reader).unwrap();
            if header == "\r\n" {
                break;
            }
            if let Some(value) = header.strip_prefix("Content-Length: ") {
                length = value.trim().parse().unwrap();
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).unwrap();
        String::from_utf8(body).unwrap()
    }

    #[test]
    fn the_database_answers_what_capture_asks_and_counts_sessions() {
        let database = Database::open().unwrap();
        let mut stream = TcpStream::connect(database.address).unwrap();
        let said = ask(
            &mut stream,
            "GET /_template/x_sessions3_template?filter_path=**._meta HTTP/1.1\r\nHost: x\r\n\r\n",
        );
        let said: serde_json::Value = serde_json::from_str(&said).unwrap();
        assert_eq!(said["x_sessions3_template"]["mappings"]["_meta"]["molochDbVersion"], MAPPINGS);
        let bulk = "{\"index\":{\"_index\":\"arkime_sessions3-251009\"}}\n{\"a\":\"sessions3-\"}\n\
                    {\"index\":{\"_index\":\"arkime_fields\"}}\n{\"a\":1}\n";
        let request = format!("POST /_bulk HTTP/1.1\r\ncontent-length: {}\r\n\r\n{bulk}", bulk.len());
        assert!(ask(&mut stream, &request).contains("\"errors\":false"));
        assert_eq!((database.take_sessions(), database.take_sessions()), (1, 0));
    }
}
