//! A metric, a span and a log line reach a real OTLP receiver: rotel, from the Python package index.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use gnomon_daemon::telemetry::{self, TelemetryConfig};

struct Receiver {
    process: Child,
    endpoint: String,
    output: PathBuf,
}

impl Drop for Receiver {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The receiver's binary; installed once, in a Python environment of its own in the user's cache.
fn rotel() -> Result<PathBuf, String> {
    let home = std::env::var_os("HOME").ok_or("no HOME to cache rotel in")?;
    let environment = Path::new(&home).join(".cache/gnomon-test/rotel");
    let found = || {
        let versions = fs::read_dir(environment.join("lib")).ok()?;
        let mut binaries =
            versions.flatten().map(|entry| entry.path().join("site-packages/rotel/rotel-agent"));
        binaries.find(|path| path.is_file())
    };
    if let Some(binary) = found() {
        return Ok(binary);
    }
    let run = |program: &Path, arguments: &[&str]| match Command::new(program).args(arguments).output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => {
            Err(format!("{}: {}", program.display(), String::from_utf8_lossy(&output.stderr).trim()))
        }
        Err(error) => Err(format!("{}: {error}", program.display())),
    };
    run(Path::new("python3"), &["-m", "venv", &environment.to_string_lossy()])?;
    run(&environment.join("bin/pip"), &["install", "--quiet", "--timeout", "20", "rotel"])?;
    found().ok_or_else(|| "rotel was installed, but its binary is not where it used to be".to_owned())
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn start(binary: &Path, directory: &Path) -> Receiver {
    let (grpc, http) = (free_port(), free_port());
    let output = directory.join("received");
    let process = Command::new(binary)
        .args(["start", "--exporter", "blackhole", "--debug-log-verbosity", "detailed"])
        .args(["--debug-log", "traces", "--debug-log", "metrics", "--debug-log", "logs"])
        .args(["--otlp-grpc-endpoint", &format!("127.0.0.1:{grpc}")])
        .args(["--otlp-http-endpoint", &format!("127.0.0.1:{http}")])
        .stdin(Stdio::null())
        .stdout(fs::File::create(&output).unwrap())
        .stderr(fs::File::create(directory.join("errors")).unwrap())
        .spawn()
        .unwrap();
    let receiver = Receiver { process, endpoint: format!("http://127.0.0.1:{grpc}"), output };
    let listens = || std::net::TcpStream::connect(("127.0.0.1", grpc)).is_ok();
    assert!(eventually(listens), "rotel does not listen: {}", fs::read_to_string(&receiver.output).unwrap());
    receiver
}

fn eventually(mut holds: impl FnMut() -> bool) -> bool {
    (0..100).any(|_| {
        let held = holds();
        if !held {
            std::thread::sleep(Duration::from_millis(100));
        }
        held
    })
}

#[test]
fn a_real_receiver_gets_all_three_signals() {
    let binary = match rotel() {
        Ok(binary) => binary,
        Err(reason) => {
            println!("SKIPPED: no OTLP receiver to test against: {reason}");
            return;
        }
    };
    let directory = tempfile::tempdir().unwrap();
    let receiver = start(&binary, directory.path());
    let config =
        TelemetryConfig { otlp_endpoint: Some(receiver.endpoint.clone()), ..TelemetryConfig::default() };
    let telemetry = telemetry::init("gnomon-otlp-test", &config).unwrap();
    assert!(telemetry::init("gnomon-otlp-test", &config).is_err(), "telemetry starts once in a process");

    opentelemetry::global::meter("test").u64_counter("gnomon.test.metric").build().add(42, &[]);
    tracing::info_span!("gnomon_test_span").in_scope(|| tracing::info!(answer = 42, "gnomon test log line"));
    // What the export path says of itself must not be exported, or it never ends.
    tracing::info!(target: "h2::client", "gnomon loop line");
    telemetry.shutdown();

    let received = || fs::read_to_string(&receiver.output).unwrap();
    for wanted in ["gnomon.test.metric", "gnomon_test_span", "gnomon test log line", "gnomon-otlp-test"] {
        assert!(eventually(|| received().contains(wanted)), "{wanted:?} did not arrive:\n{}", received());
    }
    assert!(!received().contains("gnomon loop line"), "{}", received());
}
