//! The real programs as processes: a collector and its agents, started, asked, killed.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::netns::{Netns, within};

/// Where the programs under test were built. Test programs lie in `deps/` beside them.
pub fn built_binaries() -> Result<PathBuf> {
    let own = std::env::current_exe().context("where is this program?")?;
    let dir = own.ancestors().find(|dir| dir.join("gnomon-collector").is_file());
    dir.map(Path::to_path_buf)
        .context("gnomon-collector is not built beside this program: `make test` builds it first")
}

/// A port nobody listens on just now.
pub fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

const START_TRIES: u32 = 300;
const START_PAUSE: Duration = Duration::from_millis(50);

/// A running program that is killed when dropped, with what it said in a file.
#[derive(Debug)]
pub struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Start it; what it prints is appended to `log`.
    pub fn spawn(mut command: Command, log: PathBuf) -> Result<Process> {
        let file = fs::File::options().create(true).append(true).open(&log)?;
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        let child = command.spawn().with_context(|| format!("start {command:?}"))?;
        Ok(Process { child, log })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has printed so far.
    pub fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// SIGKILL, and wait until it is gone.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill().context("kill")?;
        self.child.wait().context("wait")?;
        Ok(())
    }

    /// SIGTERM, and its exit code.
    pub fn stop(mut self) -> Result<Option<i32>> {
        self.signal("TERM")?;
        for _ in 0..START_TRIES {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status.code());
            }
            thread::sleep(START_PAUSE);
        }
        bail!("did not stop on SIGTERM; it said:\n{}", self.said())
    }

    /// Send a signal by name (`STOP`, `CONT`, `TERM`).
    pub fn signal(&self, name: &str) -> Result<()> {
        let status = Command::new("kill").args([&format!("-{name}"), &self.pid().to_string()]).status()?;
        ensure!(status.success(), "kill -{name} {}: {status}", self.pid());
        Ok(())
    }

    pub fn has_ended(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_some())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A collector on loopback with a data directory that outlives its process.
#[derive(Debug)]
pub struct Collector {
    bin_dir: PathBuf,
    dir: PathBuf,
    pub grpc: SocketAddr,
    pub http: SocketAddr,
    settings: Vec<String>,
    /// Of the process, beside this one's.
    environment: Vec<(OsString, OsString)>,
    /// Where it lives, if not on this host.
    netns: Option<String>,
    /// Where `gnomon-collector certs` put its files, if it is reached by TLS.
    certificates: Option<PathBuf>,
    process: Option<Process>,
}

impl Collector {
    /// Start one on a host of its own, at this address of it and the usual ports. With `certificates` (a directory of
    /// [`authority`]) it is reached by TLS.
    pub fn start_on(
        netns: &Netns,
        bin_dir: &Path,
        dir: &Path,
        address: IpAddr,
        certificates: Option<&Path>,
        settings: &[&str],
    ) -> Result<Collector> {
        let (grpc, http) = (SocketAddr::new(address, 7440), SocketAddr::new(address, 7441));
        let mut collector = Collector::prepared(bin_dir, dir, grpc, http, settings)?;
        collector.netns = Some(netns.name().to_owned());
        if let Some(certificates) = certificates {
            collector.settings.extend(tls_settings(certificates, "collector"));
            collector.certificates = Some(certificates.to_owned());
        }
        collector.restart()?;
        Ok(collector)
    }

    fn command(&self, program: &str) -> Command {
        let program = self.bin_dir.join(program);
        match &self.netns {
            None => Command::new(program),
            Some(netns) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", netns]).arg(program);
                command
            }
        }
    }

    fn answers(&self) -> Result<bool> {
        let addresses = [self.grpc, self.http];
        let ask = move || addresses.iter().all(|address| TcpStream::connect(address).is_ok());
        match &self.netns {
            None => Ok(ask()),
            Some(netns) => within(netns, ask),
        }
    }

    /// Start one with its data under `dir`. `settings` are `--set` words.
    pub fn start(bin_dir: &Path, dir: &Path, settings: &[&str]) -> Result<Collector> {
        Collector::start_at(bin_dir, dir, free_address()?, free_address()?, settings)
    }

    /// As [`Collector::start`], with more in the environment of the process.
    pub fn start_with(
        bin_dir: &Path,
        dir: &Path,
        settings: &[&str],
        environment: Vec<(OsString, OsString)>,
    ) -> Result<Collector> {
        let mut collector = Collector::prepared(bin_dir, dir, free_address()?, free_address()?, settings)?;
        collector.environment = environment;
        collector.restart()?;
        Ok(collector)
    }

    pub fn start_at(
        bin_dir: &Path,
        dir: &Path,
        grpc: SocketAddr,
        http: SocketAddr,
        settings: &[&str],
    ) -> Result<Collector> {
        let mut collector = Collector::prepared(bin_dir, dir, grpc, http, settings)?;
        collector.restart()?;
        Ok(collector)
    }

    fn prepared(
        bin_dir: &Path,
        dir: &Path,
        grpc: SocketAddr,
        http: SocketAddr,
        settings: &[&str],
    ) -> Result<Collector> {
        // Its socket lies here: nobody else may put one in its place, whatever the umask of this process is just now.
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        let settings = settings.iter().map(|s| (*s).to_owned()).collect();
        Ok(Collector {
            bin_dir: bin_dir.to_owned(),
            dir: dir.to_owned(),
            grpc,
            http,
            settings,
            environment: Vec::new(),
            netns: None,
            certificates: None,
            process: None,
        })
    }

    /// Where its data are.
    pub fn data_dir(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// `gnomon-collector verify` on its data while it is stopped: the exit code and all that was said.
    pub fn verify(&self) -> Result<(i32, String)> {
        let output = Command::new(self.bin_dir.join("gnomon-collector"))
            .arg("verify")
            .arg(self.data_dir())
            .stdin(Stdio::null())
            .output()
            .context("run gnomon-collector verify")?;
        let said = [output.stdout, output.stderr].map(|said| String::from_utf8_lossy(&said).into_owned());
        Ok((output.status.code().context("gnomon-collector was killed")?, said.concat()))
    }

    /// One that runs elsewhere and is asked at this address.
    pub fn elsewhere(bin_dir: &Path, dir: &Path, grpc: SocketAddr) -> Collector {
        let (bin_dir, dir) = (bin_dir.to_owned(), dir.to_owned());
        Collector {
            bin_dir,
            dir,
            grpc,
            http: grpc,
            settings: Vec::new(),
            environment: Vec::new(),
            netns: None,
            certificates: None,
            process: None,
        }
    }

    /// Start the process (again) and wait until it answers.
    pub fn restart(&mut self) -> Result<()> {
        let mut command = self.command("gnomon-collector");
        command.arg("run").arg("--data-dir").arg(self.dir.join("data"));
        command.arg("--config").arg(config_file(&self.dir, "")?);
        command.arg("--set").arg(format!("listen.grpc={}", self.grpc));
        command.arg("--set").arg(format!("listen.http={}", self.http));
        command.arg("--set").arg(format!("listen.unix={}", self.socket().display()));
        for setting in &self.settings {
            command.arg("--set").arg(setting);
        }
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        let mut process = Process::spawn(command, self.dir.join("collector.log"))?;
        for _ in 0..START_TRIES {
            if self.answers()? {
                self.process = Some(process);
                return Ok(());
            }
            ensure!(!process.has_ended()?, "the collector ended at once; it said:\n{}", process.said());
            thread::sleep(START_PAUSE);
        }
        bail!("the collector does not answer at {}; it said:\n{}", self.grpc, process.said())
    }

    pub fn process(&mut self) -> Result<&mut Process> {
        self.process.as_mut().context("the collector is not running")
    }

    /// SIGKILL.
    pub fn kill(&mut self) -> Result<()> {
        self.process.take().context("the collector is not running")?.kill()
    }

    /// SIGTERM and the exit code.
    pub fn stop(&mut self) -> Result<Option<i32>> {
        self.process.take().context("the collector is not running")?.stop()
    }

    /// Its Unix socket.
    pub fn socket(&self) -> PathBuf {
        self.dir.join("collector.sock")
    }

    /// The URL of its Unix socket, for agents on this host.
    pub fn socket_url(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    /// The URL of its port, for agents elsewhere and `gnomon` on this host.
    pub fn url(&self) -> String {
        let scheme = if self.certificates.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.grpc)
    }

    /// What the agents counted as lost, by reason.
    ///
    /// # Errors
    /// When the collector does not answer, or answers otherwise than it should.
    pub fn drops(&self) -> Result<BTreeMap<String, u64>> {
        let (_, stdout, _) = self.gnomon(&["live", "--times", "1"])?;
        let text = String::from_utf8(stdout)?;
        let mut lines = text.lines();
        let column = lines.next().and_then(|head| head.find("DROPS")).context("no column of drops")?;
        let mut drops = BTreeMap::new();
        for words in lines.filter_map(|line| line.get(column..)) {
            for (reason, count) in words.split(", ").filter_map(|word| word.trim().rsplit_once(' ')) {
                *drops.entry(reason.to_owned()).or_default() +=
                    count.parse::<u64>().context(words.to_owned())?;
            }
        }
        Ok(drops)
    }

    /// `gnomon ARGUMENTS` against this collector: exit code, stdout, stderr.
    pub fn gnomon<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Result<(i32, Vec<u8>, String)> {
        let mut command = self.command("gnomon");
        command.args(arguments).env("GNOMON_SERVER", self.url()).stdin(Stdio::null());
        if let Some(dir) = &self.certificates {
            command.env("GNOMON_CA", dir.join("ca.crt"));
            command.env("GNOMON_CERT", dir.join("client-you.crt"));
            command.env("GNOMON_KEY", dir.join("client-you.key"));
        }
        let output = command.output().context("run gnomon")?;
        let code = output.status.code().context("gnomon was killed")?;
        Ok((code, output.stdout, String::from_utf8_lossy(&output.stderr).into_owned()))
    }

    /// `GET path` by HTTP: the status and the body.
    pub fn http_get(&self, path: &str) -> Result<(u16, String)> {
        let mut stream = TcpStream::connect(self.http)?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", self.http)?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (head, body) = answer.split_once("\r\n\r\n").context("no head")?;
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).context("no status")?;
        Ok((status, body.to_owned()))
    }

    /// Every flow that matches, as JSON objects. A partial or failed answer is an error.
    pub fn flows(&self, expression: &str) -> Result<Vec<serde_json::Value>> {
        let (code, stdout, stderr) = self.gnomon(&["search", expression, "-o", "jsonl", "-n", "10000000"])?;
        ensure!(code == 0 || code == 1, "gnomon search {expression:?} ended with {code}: {stderr}");
        let lines = std::str::from_utf8(&stdout)?.lines();
        lines.map(|line| serde_json::from_str(line).with_context(|| format!("{line:?}"))).collect()
    }

    /// Flows, packets and bytes that match.
    pub fn count(&self, expression: &str) -> Result<(u64, u64, u64)> {
        let (code, stdout, stderr) = self.gnomon(&["count", expression, "-o", "jsonl"])?;
        ensure!(code == 0 || code == 1, "gnomon count {expression:?} ended with {code}: {stderr}");
        let answer: serde_json::Value = serde_json::from_slice(&stdout)?;
        let number = |key: &str| answer[key].as_u64().unwrap_or(0);
        Ok((number("flows"), number("packets"), number("bytes")))
    }
}

/// An agent in a namespace (or on this host) with a state directory that outlives its process.
#[derive(Debug)]
pub struct Agent {
    bin_dir: PathBuf,
    dir: PathBuf,
    netns: Option<String>,
    /// How far its monotonic clocks are ahead of this host's, in a time namespace.
    time_ahead_s: Option<u64>,
    settings: Vec<String>,
    /// What its config file says.
    config: String,
    /// Of the process from the next start on, beside this one's.
    pub environment: Vec<(OsString, OsString)>,
    process: Option<Process>,
}

impl Agent {
    /// Start one that captures on one interface, with its state under `dir`. `interface` is a TOML table as in the config
    /// (`name = "tap", stance = "tap"`), `settings` are `--set` words.
    pub fn start(
        bin_dir: &Path,
        dir: &Path,
        netns: Option<&Netns>,
        interface: &str,
        collector_url: &str,
        settings: &[&str],
    ) -> Result<Agent> {
        Agent::start_in_time(bin_dir, dir, netns, interface, collector_url, settings, None)
    }

    /// As [`Agent::start`], in a time namespace whose monotonic clocks are ahead by `time_ahead_s`.
    pub fn start_in_time(
        bin_dir: &Path,
        dir: &Path,
        netns: Option<&Netns>,
        interface: &str,
        collector_url: &str,
        settings: &[&str],
        time_ahead_s: Option<u64>,
    ) -> Result<Agent> {
        fs::create_dir_all(dir)?;
        let mut all =
            vec![format!("collector.urls=[\"{collector_url}\"]"), format!("interfaces=[{{ {interface} }}]")];
        if collector_url.starts_with("http:") {
            all.push("tls.insecure=true".to_owned());
        }
        all.extend(settings.iter().map(|s| (*s).to_owned()));
        let mut agent = Agent {
            bin_dir: bin_dir.to_owned(),
            dir: dir.to_owned(),
            netns: netns.map(|n| n.name().to_owned()),
            time_ahead_s,
            settings: all,
            config: String::new(),
            environment: Vec::new(),
            process: None,
        };
        agent.restart()?;
        Ok(agent)
    }

    /// Start the process (again).
    pub fn restart(&mut self) -> Result<()> {
        let program = self.bin_dir.join("gnomon-agent");
        let mut words: Vec<OsString> = Vec::new();
        if let Some(netns) = &self.netns {
            words.extend(["ip", "netns", "exec", netns].map(Into::into));
        }
        if let Some(by_s) = &self.time_ahead_s {
            let by_s = by_s.to_string();
            words.extend(["unshare", "-T", "--monotonic", &by_s, "--boottime", &by_s].map(Into::into));
        }
        words.push(program.into());
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]);
        command.arg("run").arg("--config").arg(config_file(&self.dir, &self.config)?);
        command.arg("--set").arg(format!("state_dir={}", self.dir.join("state").display()));
        for setting in &self.settings {
            command.arg("--set").arg(setting);
        }
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        self.process = Some(Process::spawn(command, self.dir.join("agent.log"))?);
        Ok(())
    }

    /// Write this into its config file, and tell it by SIGHUP.
    pub fn reload(&mut self, config: &str) -> Result<()> {
        self.config = config.to_owned();
        config_file(&self.dir, config)?;
        self.process()?.signal("HUP")
    }

    pub fn process(&mut self) -> Result<&mut Process> {
        self.process.as_mut().context("the agent is not running")
    }

    /// SIGKILL.
    pub fn kill(&mut self) -> Result<()> {
        self.process.take().context("the agent is not running")?.kill()
    }

    /// SIGTERM and the exit code.
    pub fn stop(&mut self) -> Result<Option<i32>> {
        self.process.take().context("the agent is not running")?.stop()
    }
}

/// Makes an authority, and certificates for a collector of these names, for agents (`agent-NAME`) and for people (`client-you`).
pub fn authority(bin_dir: &Path, dir: &Path, collector_names: &str, agents: &[&str]) -> Result<()> {
    let mut command = Command::new(bin_dir.join("gnomon-collector"));
    command.arg("certs").arg("--out").arg(dir);
    command.args(["--collector-name", collector_names, "--client", "you"]);
    agents.iter().for_each(|agent| {
        command.args(["--agent", agent]);
    });
    let output = command.stdin(Stdio::null()).output().context("run gnomon-collector certs")?;
    ensure!(output.status.success(), "certs: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// The settings of a program that has the certificate `name` of [`authority`].
pub fn tls_settings(dir: &Path, name: &str) -> Vec<String> {
    let file = |name: &str| dir.join(name).display().to_string();
    vec![
        format!("tls.ca={}", file("ca.crt")),
        format!("tls.certificate={}", file(&format!("{name}.crt"))),
        format!("tls.key={}", file(&format!("{name}.key"))),
    ]
}

/// A config file of its own, so that none of this machine's is read.
fn config_file(dir: &Path, text: &str) -> Result<PathBuf> {
    let path = dir.join("config.toml");
    fs::write(&path, text)?;
    Ok(path)
}

/// Try until it is true; what was last seen is told when it never is.
pub fn eventually<T: std::fmt::Debug>(
    what: &str,
    seconds: u64,
    mut look: impl FnMut() -> Result<T>,
    good: impl Fn(&T) -> bool,
) -> Result<T> {
    let mut seen = look()?;
    for _ in 0..seconds * 10 {
        if good(&seen) {
            return Ok(seen);
        }
        thread::sleep(Duration::from_millis(100));
        seen = look()?;
    }
    ensure!(good(&seen), "{what} was not so after {seconds} s; last seen: {seen:?}");
    Ok(seen)
}
