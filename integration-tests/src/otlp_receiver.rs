//! A real OTLP receiver to send telemetry to: rotel, from the Python package index, which prints what it gets.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::fleet::{Process, eventually, free_address};

/// A running receiver.
#[derive(Debug)]
pub struct OtlpReceiver {
    process: Process,
    address: SocketAddr,
}

/// The receiver's binary; installed once, in a Python environment of its own in the user's cache.
fn rotel() -> Result<PathBuf> {
    let home = std::env::var_os("HOME").context("no HOME to cache rotel in")?;
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
    let run = |program: &Path, arguments: &[&str]| -> Result<()> {
        let output = Command::new(program).args(arguments).output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr).trim());
        Ok(())
    };
    run(Path::new("python3"), &["-m", "venv", &environment.to_string_lossy()])?;
    run(&environment.join("bin/pip"), &["install", "--quiet", "--timeout", "20", "rotel"])?;
    found().context("rotel was installed, but its binary is not where it used to be")
}

impl OtlpReceiver {
    /// # Errors
    /// When rotel cannot be had, or does not listen.
    pub fn start(dir: &Path) -> Result<OtlpReceiver> {
        let binary = rotel()?;
        let (address, http) = (free_address()?, free_address()?);
        let mut command = Command::new(binary);
        command
            .args(["start", "--exporter", "blackhole", "--debug-log-verbosity", "detailed"])
            .args(["--debug-log", "traces"])
            .args(["--otlp-grpc-endpoint", &address.to_string(), "--otlp-http-endpoint", &http.to_string()]);
        let process = Process::spawn(command, dir.join("otlp.log"))?;
        eventually("rotel listens", 10, || Ok(TcpStream::connect(address).is_ok()), |listens| *listens)?;
        Ok(OtlpReceiver { process, address })
    }

    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What it got so far, as text.
    pub fn received(&self) -> String {
        self.process.said()
    }
}
