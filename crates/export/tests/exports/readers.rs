//! What others read: each form by a program that is not ours. Where one is missing its test says so.

use std::net::UdpSocket;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::thread::sleep;
use std::time::Duration;

use crate::flows::{all, encode};
use gnomon_export::{Accept, Carrier, Format};

/// A file with all kinds of records in one form.
fn file(dir: &Path, format: Format) -> String {
    let (units, _) = encode(format, Carrier::Stream, Accept::default(), &all());
    let path = dir.join(format!("flows.{}", format.name()));
    std::fs::write(&path, units.bytes()).expect("write");
    path.display().to_string()
}

/// What a program says, or that it is not here.
fn run(program: &str, arguments: &[&str]) -> Option<String> {
    let output: Output = match Command::new(program).args(arguments).output() {
        Ok(output) => output,
        Err(error) => {
            eprintln!("SKIPPED: {program}: {error}");
            return None;
        }
    };
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {said}");
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn python() -> String {
    std::env::var("GNOMON_PYTHON").unwrap_or_else(|_| "python3".to_owned())
}

fn python_has(module: &str) -> bool {
    let found =
        Command::new(python()).args(["-c", &format!("import {module}")]).stderr(Stdio::null()).status();
    let has = found.is_ok_and(|status| status.success());
    if !has {
        eprintln!("SKIPPED: {} has no module {module} (GNOMON_PYTHON names another interpreter)", python());
    }
    has
}

#[test]
fn tshark_reads_an_ipfix_file() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = file(dir.path(), Format::Ipfix);
    let fields = [
        "cflow.srcaddr",
        "cflow.srcaddrv6",
        "cflow.dstport",
        "cflow.packets",
        "cflow.octets",
        "cflow.tcpflags",
        "cflow.flow_end_reason",
        "cflow.biflow_direction",
        "cflow.srcmac",
        "_ws.malformed",
        "_ws.expert.message",
    ];
    let mut arguments = vec!["-r", &path, "-T", "fields", "-E", "separator=|"];
    fields.iter().for_each(|field| arguments.extend(["-e", field]));
    let Some(said) = run("tshark", &arguments) else { return };
    let last = said.lines().last().unwrap_or_default();
    let cells: Vec<&str> = last.split('|').collect();
    assert_eq!((cells[0], cells[1]), ("192.0.2.1,192.0.2.1", "2001:db8::1"), "{said}");
    assert_eq!(cells[2], "443,53,0,0");
    // Packets and their reverse, record by record.
    assert_eq!(cells[3], "6,5,1,1,3,3,1,1");
    // The reverse is an element of its own: tshark shows both under the one name.
    assert!(cells[5].starts_with("0x"), "{said}");
    assert_eq!((cells[6], cells[7]), ("3,1,3,3", "1,1,1,1"));
    assert!(said.lines().all(|line| line.ends_with("||")), "malformed or suspicious: {said}");
}

/// nfcapd, ended when dropped.
struct Collector(Child);

impl Drop for Collector {
    fn drop(&mut self) {
        self.0.kill().unwrap_or_default();
        drop(self.0.wait());
    }
}

#[test]
fn nfcapd_takes_ipfix_datagrams_as_bidirectional_flows() {
    let dir = tempfile::tempdir().expect("a directory");
    let port =
        UdpSocket::bind("127.0.0.1:0").and_then(|s| s.local_addr()).expect("a port").port().to_string();
    let mut nfcapd = Command::new("nfcapd");
    nfcapd.arg("-w").arg(dir.path()).args(["-b", "127.0.0.1", "-p", &port, "-t", "60"]);
    let mut collector = match nfcapd.stdout(Stdio::null()).stderr(Stdio::null()).spawn() {
        Ok(child) => Collector(child),
        Err(error) => return eprintln!("SKIPPED: nfcapd: {error}"),
    };
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    socket.connect(format!("127.0.0.1:{port}")).expect("connect");
    let (units, _) = encode(Format::Ipfix, Carrier::Datagrams, Accept::default(), &all());
    // Until it listens, a datagram is refused.
    for _ in 0..100 {
        sleep(Duration::from_millis(50));
        let sent = units.iter().all(|datagram| socket.send(datagram).is_ok());
        sleep(Duration::from_millis(50));
        if sent && socket.send(&[]).is_ok() {
            break;
        }
    }
    sleep(Duration::from_millis(500));
    let pid = collector.0.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().is_ok_and(|status| status.success()));
    drop(collector.0.wait());
    let dir = dir.path().display().to_string();
    let format = "fmt:%sa|%da|%sp|%dp|%pr|%ipkt|%opkt|%ibyt|%obyt|%flg|%tsr";
    let Some(said) = run("nfdump", &["-R", &dir, "-q", "-6", "-N", "-o", format]) else { return };
    let rows: Vec<Vec<&str>> = said.lines().map(|line| line.split('|').map(str::trim).collect()).collect();
    let tls =
        rows.iter().find(|row| row[0] == "192.0.2.1" && row[3] == "443").unwrap_or_else(|| panic!("{said}"));
    assert_eq!(tls[5..9], ["6", "5", "516", "4930"], "packets and bytes each way");
    assert!(rows.iter().any(|row| row[0] == "2001:db8::1" && row[3] == "53"), "{said}");
}

#[test]
fn pythons_csv_reads_every_cell_back() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = file(dir.path(), Format::Csv);
    let script = "import csv,sys\nrows=list(csv.DictReader(open(sys.argv[1],newline='')))\n\
        print(len(rows), rows[0]['ip.src'], rows[0]['http.user-agent']=='a\"b,c\\td\\ne\\x1b[2J', None in rows[0])";
    let Some(said) = run(&python(), &["-c", script, &path]) else { return };
    assert_eq!(said.trim(), "4 192.0.2.1 True False");
}

#[test]
fn zat_reads_a_conn_log() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = file(dir.path(), Format::Zeek);
    if !python_has("zat.zeek_log_reader") {
        return;
    }
    let script = "import sys\nfrom zat.zeek_log_reader import ZeekLogReader\n\
        rows=list(ZeekLogReader(sys.argv[1]).readrows())\n\
        print(len(rows), rows[0]['id.resp_p'], rows[0]['conn_state'], rows[1]['id.orig_h'], rows[0]['ts'])";
    let Some(said) = run(&python(), &["-c", script, &path]) else { return };
    let last = said.lines().last().unwrap_or_default();
    assert!(last.starts_with("3 443 SF 2001:db8::1 2023-11-14 "), "{said}");
}

#[test]
fn suricatas_schema_takes_every_event() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = file(dir.path(), Format::Eve);
    let Ok(schema) = std::env::var("GNOMON_EVE_SCHEMA") else {
        return eprintln!("SKIPPED: GNOMON_EVE_SCHEMA names no etc/schema.json of github.com/OISF/suricata");
    };
    if !python_has("jsonschema") {
        return;
    }
    let script = "import json,sys,jsonschema\nschema=json.load(open(sys.argv[1]))\nn=0\n\
        for line in open(sys.argv[2]):\n  jsonschema.validate(json.loads(line), schema); n+=1\nprint(n)";
    let Some(said) = run(&python(), &["-c", script, &schema, &path]) else { return };
    assert_eq!(said.trim(), "3");
}

#[test]
fn python_reads_every_line_of_json() {
    let dir = tempfile::tempdir().expect("a directory");
    let script =
        "import json,sys\nprint(sum(isinstance(json.loads(line), dict) for line in open(sys.argv[1])))";
    for (format, lines) in
        [(Format::Jsonl, "4"), (Format::ZeekJson, "3"), (Format::Ecs, "4"), (Format::Eve, "3")]
    {
        let path = file(dir.path(), format);
        let Some(said) = run(&python(), &["-c", script, &path]) else { return };
        assert_eq!(said.trim(), lines, "{format:?}");
    }
}
