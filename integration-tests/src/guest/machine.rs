//! The emulated machine: booted, told what to do line by line, paused, powered off when dropped.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::initramfs::Image;
use super::parts::Parts;
use super::wire::Wire;

/// 6 s on an idle machine, and it shares two cores with everything else.
const BOOT_TIMEOUT: Duration = Duration::from_secs(150);
const COMMAND_TIMEOUT: Duration = Duration::from_secs(60);
const QMP_TIMEOUT: Duration = Duration::from_secs(20);

/// Where the guest finds this host's loopback.
pub const HOST: &str = "10.0.2.2";

/// What the guest's battery clock says; its kernel takes that for UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rtc {
    Utc,
    /// The local time of Tokyo: nine hours ahead.
    Tokyo,
    /// POSIX seconds.
    At(i64),
}

/// A network card beside the one that leads to this host (`eth0`): `eth1`, `eth2`, … in order.
#[derive(Debug)]
pub struct Card {
    pub wire: Wire,
    /// The device sits behind the platform's DMA rules, which the driver wants for zero copy.
    pub iommu_platform: bool,
}

/// What a machine is like.
#[derive(Debug)]
pub struct Build {
    pub rtc: Rtc,
    pub memory_mib: u32,
    pub cards: Vec<Card>,
    /// Ports of this host's loopback that lead to ports of the guest.
    pub forwards: Vec<(u16, u16)>,
}

/// A running guest.
#[derive(Debug)]
pub struct Machine {
    process: Child,
    keyboard: ChildStdin,
    lines: Receiver<String>,
    console: PathBuf,
    qmp: UnixStream,
    pub cards: Vec<Card>,
}

impl Machine {
    /// Boot `image`. The files of the machine lie under `dir`, whose path must be short (sockets).
    pub fn boot(parts: &Parts, dir: &Path, image: &Image, build: Build) -> Result<Machine> {
        let Build { rtc, memory_mib, cards, forwards } = build;
        fs::create_dir_all(dir)?;
        let (initrd, console, qmp) = (dir.join("initrd"), dir.join("console.log"), dir.join("qmp"));
        fs::write(&initrd, image.archive())?;
        let mut qemu = parts.qemu();
        qemu.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]);
        // Kernels from 6.12 on double-fault at random with cmpxchg16b under this emulation.
        qemu.args(["-accel", "tcg,thread=multi", "-cpu", "max,cx16=off", "-smp", "2"]);
        qemu.arg("-m").arg(memory_mib.to_string());
        qemu.arg("-kernel").arg(parts.vmlinux()).arg("-initrd").arg(&initrd);
        qemu.args(["-append", "console=ttyS0 panic=-1 loglevel=4"]);
        qemu.arg("-serial").arg(format!("file:{}", console.display()));
        qemu.args(["-chardev", "stdio,id=words,signal=off", "-serial", "chardev:words"]);
        qemu.arg("-qmp").arg(format!("unix:{},server=on,wait=off", qmp.display()));
        match rtc {
            Rtc::Utc => qemu.args(["-rtc", "base=utc"]),
            Rtc::Tokyo => qemu.args(["-rtc", "base=localtime"]).env("TZ", "Asia/Tokyo"),
            Rtc::At(unix_s) => qemu.args(["-rtc", &format!("base={}", iso(unix_s))]),
        };
        let mut host = "user,id=host".to_owned();
        for (outside, inside) in forwards {
            host.push_str(&format!(",hostfwd=tcp:127.0.0.1:{outside}-:{inside}"));
        }
        qemu.args(["-netdev", &host, "-device", "virtio-net-pci,netdev=host,romfile="]);
        for (number, card) in cards.iter().enumerate() {
            let id = format!("card{number}");
            qemu.arg("-netdev").arg(card.wire.netdev(&id));
            let platform = if card.iommu_platform { "on" } else { "off" };
            qemu.arg("-device").arg(format!(
                "virtio-net-pci,netdev={id},disable-legacy=on,iommu_platform={platform},romfile="
            ));
        }
        let said = fs::File::create(dir.join("qemu.log"))?;
        let mut process =
            qemu.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(said).spawn().context("start QEMU")?;
        let keyboard = process.stdin.take().context("QEMU's input")?;
        let output = process.stdout.take().context("QEMU's output")?;
        let (sender, lines) = channel();
        // Ends with QEMU.
        std::thread::spawn(move || {
            let mut reader = BufReader::new(output);
            let mut line = Vec::new();
            while reader.read_until(b'\n', &mut line).is_ok_and(|bytes| bytes > 0) {
                let text = String::from_utf8_lossy(&line).trim_end_matches(['\r', '\n']).to_owned();
                line.clear();
                if sender.send(text).is_err() {
                    return;
                }
            }
        });
        let qmp =
            connect(&qmp).with_context(|| fs::read_to_string(dir.join("qemu.log")).unwrap_or_default())?;
        let mut machine = Machine { process, keyboard, lines, console, qmp, cards };
        machine.qmp_greet()?;
        let (code, said) = machine.answer(BOOT_TIMEOUT).context("the guest does not boot")?;
        ensure!(code == 0 && said.is_empty(), "the guest's init said: {said}");
        let address = "ip addr add 10.0.2.15/24 dev eth0 && ip link set eth0 up";
        machine.run(address)?;
        for number in 1..=machine.cards.len() {
            // Nothing is said on a tap's wire.
            machine.run(&format!("ip link set eth{number} arp off up"))?;
        }
        Ok(machine)
    }

    /// Run a line of shell and return what it printed; an exit code other than 0 is an error with that.
    pub fn run(&mut self, line: &str) -> Result<String> {
        let (code, said) = self.try_run(line)?;
        ensure!(code == 0, "in the guest, {line:?} ended with {code}: {said}");
        Ok(said)
    }

    /// Exit code and output of a line of shell.
    pub fn try_run(&mut self, line: &str) -> Result<(i32, String)> {
        ensure!(!line.contains('\n'), "a command is one line: {line:?}");
        writeln!(self.keyboard, "{line}").context("the guest is gone")?;
        self.keyboard.flush()?;
        self.answer(COMMAND_TIMEOUT).with_context(|| format!("in the guest: {line}"))
    }

    /// Start a program in the background; what it prints goes to `/run/NAME.log`.
    pub fn start(&mut self, name: &str, line: &str) -> Result<()> {
        self.run(&format!("{line} > /run/{name}.log 2>&1 < /dev/null &")).map(drop)
    }

    /// The end of what a program started so has printed.
    pub fn log(&mut self, name: &str) -> String {
        self.run(&format!("tail -n 60 /run/{name}.log")).unwrap_or_else(|error| format!("{error:#}"))
    }

    fn answer(&mut self, timeout: Duration) -> Result<(i32, String)> {
        let mut said = Vec::new();
        loop {
            match self.lines.recv_timeout(timeout) {
                Ok(line) => match line.strip_prefix("@@") {
                    Some(code) => return Ok((code.parse().context("an exit code")?, said.join("\n"))),
                    None => said.push(line),
                },
                Err(RecvTimeoutError::Timeout) => {
                    bail!("no answer in {} s; console:\n{}", timeout.as_secs(), self.console_end())
                }
                Err(RecvTimeoutError::Disconnected) => {
                    bail!("the guest ended; console:\n{}", self.console_end())
                }
            }
        }
    }

    /// The last of what the kernel said.
    pub fn console_end(&self) -> String {
        let text = fs::read(&self.console).unwrap_or_default();
        let text = String::from_utf8_lossy(&text).into_owned();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }

    /// What there is to say when something that the guest should take part in went wrong.
    pub fn last_words(&mut self) -> String {
        let qemu = match self.process.try_wait() {
            Ok(Some(status)) => format!("QEMU ended: {status}"),
            Ok(None) => "QEMU runs".to_owned(),
            Err(error) => format!("QEMU: {error}"),
        };
        let said = self.console.with_file_name("qemu.log");
        let said = fs::read_to_string(said).unwrap_or_default();
        format!("{qemu}\n{said}\nconsole:\n{}", self.console_end())
    }

    /// All its processors stand still; its clocks do not see the time that passes.
    pub fn pause(&mut self) -> Result<()> {
        self.qmp("stop")
    }

    pub fn resume(&mut self) -> Result<()> {
        self.qmp("cont")
    }

    /// The emulator itself gets no time, as on a host that is overloaded: the guest's clocks jump over what it missed.
    pub fn stall(&mut self, how_long: Duration) -> Result<()> {
        self.signal("STOP")?;
        std::thread::sleep(how_long);
        self.signal("CONT")
    }

    fn signal(&self, name: &str) -> Result<()> {
        let status =
            Command::new("kill").args([&format!("-{name}"), &self.process.id().to_string()]).status()?;
        ensure!(status.success(), "kill -{name}: {status}");
        Ok(())
    }

    fn qmp_greet(&mut self) -> Result<()> {
        self.qmp_line("\"QMP\"")?;
        self.qmp("qmp_capabilities")
    }

    fn qmp(&mut self, command: &str) -> Result<()> {
        writeln!(self.qmp, "{{\"execute\": \"{command}\"}}")?;
        self.qmp_line("\"return\"").with_context(|| format!("QMP {command}"))
    }

    /// Read until a line holds `word`; events come between.
    fn qmp_line(&mut self, word: &str) -> Result<()> {
        let mut reader = BufReader::new(self.qmp.try_clone()?);
        let mut line = String::new();
        loop {
            line.clear();
            ensure!(reader.read_line(&mut line)? > 0, "QEMU closed its monitor");
            ensure!(!line.contains("\"error\""), "{line}");
            if line.contains(word) {
                return Ok(());
            }
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn connect(path: &Path) -> Result<UnixStream> {
    for _ in 0..200 {
        if let Ok(stream) = UnixStream::connect(path) {
            stream.set_read_timeout(Some(QMP_TIMEOUT))?;
            return Ok(stream);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    bail!("QEMU does not start")
}

/// POSIX seconds as QEMU reads them: `2026-11-22T01:20:03`.
fn iso(unix_s: i64) -> String {
    let text = gnomon_flow::timestamp::rfc3339(gnomon_clock::UtcNs::from_unix_ns(unix_s * 1_000_000_000));
    text.get(..19).unwrap_or(&text).to_owned()
}
