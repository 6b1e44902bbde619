//! A host of its own: a network namespace with links to others, gone when dropped.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, bail};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// A network namespace. Its loopback is up; IPv6 is off so that no packet is sent that nobody asked for.
#[derive(Debug)]
pub struct Netns {
    name: String,
}

static COUNT: AtomicU32 = AtomicU32::new(0);

/// Why namespaces cannot be used here, if they cannot: to be printed by the test that is skipped.
pub fn unavailable() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("network namespaces need root".to_owned());
    }
    match Netns::new("probe") {
        Ok(_) => None,
        Err(error) => Some(format!("{error:#}")),
    }
}

/// Says why this test is skipped, where namespaces cannot be used; the test script counts it.
pub fn skip() -> bool {
    let why = unavailable();
    if let Some(why) = &why {
        eprintln!("SKIPPED: {why}");
    }
    why.is_some()
}

impl Netns {
    /// Make a namespace. The name says which process made it, so that what a killed one left behind can be told.
    pub fn new(label: &str) -> Result<Netns> {
        let name = format!("gn{}-{}-{label}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        run("ip", &["netns", "add", &name])?;
        let netns = Netns { name };
        for key in ["all", "default"] {
            netns.run("sysctl", &["-qw", &format!("net.ipv6.conf.{key}.disable_ipv6=1")])?;
        }
        netns.run("ip", &["link", "set", "lo", "up"])?;
        Ok(netns)
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// A command that will run inside.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(program);
        command
    }

    /// Run to the end inside; an exit code other than 0 is an error with what was printed.
    pub fn run(&self, program: &str, args: &[&str]) -> Result<String> {
        finish(self.command(program).args(args), program, args)
    }

    /// `ip ARGS` inside, from one string.
    pub fn ip(&self, args: &str) -> Result<String> {
        self.run("ip", &args.split_whitespace().collect::<Vec<_>>())
    }

    /// A veth pair from `interface` here to `peer_interface` in `peer`, both up, with checksum offload off so that what
    /// is captured has whole checksums.
    pub fn veth(&self, interface: &str, peer: &Netns, peer_interface: &str, mtu: u32) -> Result<()> {
        let mtu = mtu.to_string();
        let args = format!(
            "link add {interface} mtu {mtu} type veth peer name {peer_interface} mtu {mtu} netns {}",
            peer.name
        );
        self.ip(&args)?;
        self.ip(&format!("link set {interface} up"))?;
        peer.ip(&format!("link set {peer_interface} up"))?;
        Ok(())
    }

    /// Run `f` on a thread of its own that lives in this namespace.
    pub fn within<T: Send + 'static>(&self, f: impl FnOnce() -> T + Send + 'static) -> Result<T> {
        within(&self.name, f)
    }

    /// A counter of an interface inside (`rx_packets`, `tx_bytes`, …).
    pub fn counter(&self, interface: &str, counter: &str) -> Result<u64> {
        let text = self.run("cat", &[&format!("/sys/class/net/{interface}/statistics/{counter}")])?;
        text.trim().parse().with_context(|| format!("{counter} of {interface} is {text:?}"))
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        // Whatever still runs inside would keep the namespace alive.
        if let Ok(pids) = run("ip", &["netns", "pids", &self.name]) {
            for pid in pids.split_whitespace() {
                // It may be gone already.
                let _ = Command::new("kill").args(["-9", pid]).stderr(Stdio::null()).status();
            }
        }
        if let Err(error) = run("ip", &["netns", "del", &self.name]) {
            eprintln!("cannot delete namespace {}: {error:#}", self.name);
        }
    }
}

/// Run `f` on a thread of its own that lives in the namespace of this name.
pub fn within<T: Send + 'static>(name: &str, f: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    let path = PathBuf::from("/run/netns").join(name);
    let file = File::open(&path).with_context(|| format!("open {}", path.display()))?;
    let thread = std::thread::spawn(move || -> Result<T> {
        move_into_link_name_space(std::os::fd::AsFd::as_fd(&file), Some(LinkNameSpaceType::Network))
            .context("enter the namespace")?;
        Ok(f())
    });
    match thread.join() {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// Run to the end on this host.
pub fn run(program: &str, args: &[&str]) -> Result<String> {
    finish(Command::new(program).args(args), program, args)
}

fn finish(command: &mut Command, program: &str, args: &[&str]) -> Result<String> {
    let shown = || format!("{program} {}", args.join(" "));
    let output: Output = command.stdin(Stdio::null()).output().with_context(shown)?;
    if !output.status.success() {
        bail!("{}: {}: {}", shown(), output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
