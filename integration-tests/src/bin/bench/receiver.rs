//! The programs that receive: started on the receiver's core, asked how many frames they had.

use std::fs::File;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::sink::Sink;
use crate::wire::{IN, RECEIVER_CORE, Wire};

/// Memory for frames of the kernel's rings, the agent's default: given to one of the tcpdumps too.
const RING_KIB: u32 = 64 << 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Program {
    /// `receive_and_drop`: AF_XDP frames, one byte of each read.
    Bare,
    Tcpdump {
        snaplen: Option<u32>,
        ring_kib: Option<u32>,
        /// To a file in the receiver's directory.
        to_disk: bool,
    },
    Agent {
        af_xdp: bool,
        /// `slices.keep`.
        keep: &'static str,
        /// Everything is sent on too and acknowledged at once; else the spool is the end.
        uplink: bool,
    },
}

impl Program {
    pub(crate) const TCPDUMP: Program = Program::Tcpdump { snaplen: None, ring_kib: None, to_disk: false };
    pub(crate) const TCPDUMP_64_MIB: Program =
        Program::Tcpdump { snaplen: None, ring_kib: Some(RING_KIB), to_disk: false };
    pub(crate) const TCPDUMP_128_B: Program =
        Program::Tcpdump { snaplen: Some(128), ring_kib: Some(RING_KIB), to_disk: false };

    pub(crate) fn name(self) -> String {
        match self {
            Program::Bare => "bare AF_XDP loop (the limit)".to_owned(),
            Program::Tcpdump { snaplen, ring_kib, to_disk } => {
                let file = if to_disk { "FILE" } else { "/dev/null" };
                let ring = ring_kib.map(|kib| format!(" -B {kib}")).unwrap_or_default();
                let snaplen = snaplen.map(|bytes| format!(" -s {bytes}")).unwrap_or_default();
                format!("tcpdump -w {file}{ring}{snaplen}")
            }
            Program::Agent { af_xdp, keep, uplink } => {
                let backend = if af_xdp { "AF_XDP" } else { "AF_PACKET" };
                let uplink = if uplink { ", and sent" } else { "" };
                format!("gnomon-agent {backend}, keep {keep}{uplink}")
            }
        }
    }
}

/// Cumulative since the program began.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counted {
    pub(crate) frames: u64,
    /// Frames in flow records whose packets are not in the spool.
    pub(crate) not_kept: u64,
}

#[derive(Debug)]
pub(crate) struct Receiver {
    child: Child,
    program: Program,
    log: PathBuf,
    sink: Option<Sink>,
    // Deleted last.
    _dirs: [ScratchDir; 2],
}

/// A directory that goes with its owner.
#[derive(Debug)]
struct ScratchDir(PathBuf);

impl Drop for ScratchDir {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            eprintln!("cannot remove {}: {error}", self.0.display());
        }
    }
}

impl Receiver {
    /// Start it and wait until it receives.
    pub(crate) fn start(bin_dir: &Path, wire: &Wire, program: Program) -> Result<Receiver> {
        Receiver::start_in(bin_dir, wire, program, &std::env::temp_dir())
    }

    /// As [`Receiver::start`], with its files below `above`; what it says is where a disk that stalls does not hold it up.
    pub(crate) fn start_in(bin_dir: &Path, wire: &Wire, program: Program, above: &Path) -> Result<Receiver> {
        let (dir, logs) = (scratch(above, "receiver")?, scratch(&std::env::temp_dir(), "log")?);
        let log = logs.0.join("log");
        let mut sink = None;
        let mut command = wire.receiver.command("taskset");
        command.args(["-c", &RECEIVER_CORE.to_string()]);
        match program {
            Program::Bare => {
                command.arg(bin_dir.join("examples/receive_and_drop")).args([IN, "3600"]);
            }
            Program::Tcpdump { snaplen, ring_kib, to_disk } => {
                command.args(["tcpdump", "-n", "-i", IN]);
                if to_disk {
                    // Else it becomes another user, who may not write there.
                    command.args(["-Z", "root", "-w"]).arg(dir.0.join("pcap"));
                } else {
                    command.args(["-w", "/dev/null"]);
                }
                if let Some(bytes) = snaplen {
                    command.args(["-s", &bytes.to_string()]);
                }
                if let Some(kib) = ring_kib {
                    command.args(["-B", &kib.to_string()]);
                }
            }
            Program::Agent { af_xdp, keep, uplink } => {
                let listener = wire
                    .receiver
                    .within(|| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))?
                    .context("listen for the agent in its namespace")?;
                let opened = Sink::open(listener, uplink)?;
                agent_arguments(&mut command, bin_dir, &dir.0, &opened.url(), af_xdp, keep)?;
                sink = Some(opened);
            }
        }
        let file = File::create(&log)?;
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        let child = command.spawn().with_context(|| format!("start {command:?}"))?;
        let mut receiver = Receiver { child, program, log, sink, _dirs: [dir, logs] };
        receiver.wait_until_ready()?;
        Ok(receiver)
    }

    fn wait_until_ready(&mut self) -> Result<()> {
        for _ in 0..200 {
            sleep(Duration::from_millis(50));
            if let Some(status) = self.child.try_wait()? {
                bail!("{} ended ({status}); it said:\n{}", self.program.name(), self.said());
            }
            let ready = match self.program {
                Program::Bare => self.said().contains("af_xdp"),
                Program::Tcpdump { .. } => self.said().contains("listening on"),
                Program::Agent { .. } => {
                    self.interface().is_some_and(|i| i.error.is_empty() && !i.mode.is_empty())
                }
            };
            if ready {
                return Ok(());
            }
        }
        bail!("{} does not receive after 10 s; it said:\n{}", self.program.name(), self.said())
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// What the agent says of the interface.
    pub(crate) fn interface(&self) -> Option<gnomon_proto::v1::InterfaceStatus> {
        self.sink.as_ref()?.heard().heartbeat?.interfaces.into_iter().find(|i| i.name == IN)
    }

    /// What it has counted so far, by its own word; none when it does not say.
    fn counted(&self) -> Result<Option<Counted>> {
        match self.program {
            Program::Bare => {
                let said = self.said();
                // `   1 s     196608 frames/s, 0 lost`
                let of_second = |line: &str| -> Option<u64> {
                    let mut words = line.split_whitespace().skip(1);
                    (words.next()? == "s").then(|| words.next()?.parse().ok())?
                };
                let frames = said.lines().filter_map(of_second).sum();
                Ok(Some(Counted { frames, not_kept: 0 }))
            }
            Program::Tcpdump { .. } => {
                let before = self.said().lines().count();
                let status = Command::new("kill").args(["-USR1", &self.pid().to_string()]).status()?;
                ensure!(status.success(), "tcpdump is gone; it said:\n{}", self.said());
                for _ in 0..40 {
                    sleep(Duration::from_millis(25));
                    let said = self.said();
                    // `tcpdump: N packets captured, N packets received by filter, N packets dropped by kernel`
                    let line = said.lines().skip(before).find(|line| line.contains("packets captured"));
                    let frames = line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok());
                    if let Some(frames) = frames {
                        return Ok(Some(Counted { frames, not_kept: 0 }));
                    }
                }
                // Too busy to answer the signal.
                Ok(None)
            }
            Program::Agent { .. } => {
                let Some(heartbeat) = self.sink.as_ref().and_then(|sink| sink.heard().heartbeat) else {
                    return Ok(None);
                };
                let interface = heartbeat.interfaces.iter().find(|i| i.name == IN);
                let frames = interface.map_or(0, |i| i.packets);
                let queue_full =
                    interface.and_then(|i| i.drops.get("slice_queue_full")).copied().unwrap_or(0);
                let sacrificed = heartbeat.spool.map_or(0, |spool| spool.sacrificed_slice_packets);
                Ok(Some(Counted { frames, not_kept: queue_full + sacrificed }))
            }
        }
    }

    /// What it has counted once it has `frames`, or once no more come.
    pub(crate) fn settle(&self, frames: u64) -> Result<Counted> {
        // How long it may take until counts move: a line a second, tcpdump's block timeout, a heartbeat a second of
        // counts that are written down each second.
        let patience = match self.program {
            Program::Bare | Program::Tcpdump { .. } => 13,
            Program::Agent { .. } => 25,
        };
        let mut last = self.counted()?.unwrap_or_default();
        let mut unchanged = 0;
        while last.frames < frames && unchanged < patience {
            sleep(Duration::from_millis(100));
            let now = self.counted()?.unwrap_or(last);
            unchanged = if now.frames == last.frames { unchanged + 1 } else { 0 };
            last = now;
        }
        Ok(last)
    }

    /// CPU time of all its threads so far.
    pub(crate) fn cpu_ns(&self) -> u64 {
        let Ok(threads) = std::fs::read_dir(format!("/proc/{}/task", self.pid())) else { return 0 };
        let of_thread = |entry: std::fs::DirEntry| -> Option<u64> {
            let text = std::fs::read_to_string(entry.path().join("schedstat")).ok()?;
            text.split_whitespace().next()?.parse().ok()
        };
        threads.flatten().filter_map(of_thread).sum()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn scratch(above: &Path, label: &str) -> Result<ScratchDir> {
    let path = above.join(format!("gnomon-bench-{label}-{}", std::process::id()));
    // What a killed run of the same process number left.
    let _ = std::fs::remove_dir_all(&path);
    std::fs::create_dir_all(&path).with_context(|| format!("make {}", path.display()))?;
    Ok(ScratchDir(path))
}

fn agent_arguments(
    command: &mut Command,
    bin_dir: &Path,
    dir: &Path,
    collector_url: &str,
    af_xdp: bool,
    keep: &str,
) -> Result<()> {
    let config = dir.join("empty.toml");
    std::fs::write(&config, "")?;
    let (stance, backend) = if af_xdp { ("tap", "af_xdp") } else { ("host", "af_packet") };
    command.arg(bin_dir.join("gnomon-agent")).arg("run").arg("--config").arg(config);
    for setting in [
        format!("state_dir={}", dir.join("state").display()),
        format!("collector.urls=[{collector_url:?}]"),
        format!("interfaces=[{{ name = {IN:?}, stance = {stance:?}, backend = {backend:?} }}]"),
        format!("slices.keep={keep}"),
        // Nothing is given up for want of room.
        "spool.bytes_max=16GiB".to_owned(),
        "tls.insecure=true".to_owned(),
    ] {
        command.arg("--set").arg(setting);
    }
    Ok(())
}
