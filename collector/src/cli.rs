//! The command line of `gnomon-collector`.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::{Parser, Subcommand};
use gnomon_clock::{Clock, KernelClock};
use gnomon_daemon::config::{self, Loaded};
use gnomon_daemon::exit::{self, WithHint};
use gnomon_daemon::shutdown::Shutdown;
use gnomon_daemon::{build_info, process, telemetry};
use gnomon_flow::AgentId;

use crate::config::{Config, DEFAULT_FILE, PROGRAM, example};
use crate::output::{self, Output};
use crate::owners;
use crate::pipeline::{self, Ended};
use crate::store::{self, ClockReset, Report};
use crate::verify;
use crate::{backup, certs};

/// The collector answers between two groups of entries.
const CLOCK_RESET_PATIENCE: Duration = Duration::from_secs(30);

/// Stores what agents send, and answers searches.
#[derive(Debug, Parser)]
#[command(name = PROGRAM, version = build_info::VERSION, long_version = build_info::long_version())]
pub struct Cli {
    /// The config file [default: /etc/gnomon/collector.toml, if it is there].
    #[arg(long, short, global = true, value_name = "FILE", env = "GNOMON_COLLECTOR_CONFIG")]
    config: Option<PathBuf>,
    /// Set a key of the config, as in `--set listen.grpc=127.0.0.1:7440`. May be given more than once.
    #[arg(long, short, global = true, value_name = "KEY=VALUE", value_parser = setting)]
    set: Vec<(String, String)>,
    /// Where to keep the data; the same as `--set data_dir=DIR`.
    #[arg(long, global = true, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the collector (what happens without a command).
    Run,
    /// Make a certificate authority and pairs for the collector, agents and people.
    Certs(Certs),
    /// Check every byte of the data of a collector that does not run. Exit code 0: all is good, 1: something is damaged,
    /// 2: it could not be checked.
    Verify(Verify),
    /// Copy the data to an empty directory and check the copy, while the collector runs or not.
    Backup {
        #[arg(value_name = "DIR")]
        to: PathBuf,
    },
    /// Copy a backup to an empty directory and check the copy, to be the data directory of a collector.
    Restore {
        #[arg(value_name = "FROM")]
        from: PathBuf,
        #[arg(value_name = "TO")]
        to: PathBuf,
    },
    /// List whom the agents' ids belong to: the certificate or user that used each first. Asks the collector that runs.
    Owners,
    /// Forget whom an agent's id belongs to: the next who uses it owns it. Asks the collector that runs.
    Release {
        /// The id, as `owners` and `gnomon agents` show it.
        #[arg(value_name = "ID")]
        agent: AgentId,
    },
    /// See to the collector's clock; `gnomon clock` shows it.
    #[command(subcommand)]
    Clock(ClockCommand),
    /// Look at the configuration.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Say which version this is.
    Version,
}

#[derive(Debug, clap::Args)]
struct Certs {
    /// Where the files go. An authority that is there already is used again.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Host names and addresses that agents and people call the collector by.
    #[arg(long, value_name = "HOST[,IP…]", value_delimiter = ',')]
    collector_name: Vec<String>,
    /// Make a pair for an agent; may be given more than once.
    #[arg(long, value_name = "NAME")]
    agent: Vec<String>,
    /// Make a pair for a person or a program that searches; may be given more than once.
    #[arg(long, value_name = "NAME")]
    client: Vec<String>,
    /// Replace pairs that are there (never the authority).
    #[arg(long)]
    force: bool,
}

#[derive(Debug, clap::Args)]
struct Verify {
    /// The data directory [default: `data_dir` of the configuration].
    #[arg(value_name = "DIR")]
    dir: Option<PathBuf>,
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

#[derive(Debug, Subcommand)]
enum ClockCommand {
    /// Forget what agents said of the time, and go by this machine's clock again: undoes a time that turned out to be wrong,
    /// and moves back what was stored by it. Works while the collector runs; else the next start does it. The
    /// certificates that had a say are newcomers again.
    Reset,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Print the configuration in force, and where each value comes from.
    Show,
    /// Say whether the configuration is good.
    Check,
    /// Print an example file with every key, its meaning and its default.
    Example,
}

fn setting(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("it has to be KEY=VALUE")?;
    Ok((key.trim().to_owned(), value.trim().to_owned()))
}

impl Cli {
    /// Do what the command line says.
    ///
    /// # Errors
    /// Whatever went wrong, to be told by `gnomon_daemon::exit::report`.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        if !matches!(self.command, Some(Command::Certs(_) | Command::Config(_) | Command::Version)) {
            // RocksDB makes its files by the umask, and what is in them is nobody else's business.
            rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
        }
        let done = match &self.command {
            Some(Command::Verify(order)) => return Ok(self.verify(order)),
            Some(Command::Backup { to }) => {
                return copied(&backup::backup(&self.load()?.value.data_dir, to)?);
            }
            Some(Command::Restore { from, to }) => return copied(&backup::restore(from, to)?),
            None | Some(Command::Run) => self.serve(),
            Some(Command::Certs(order)) => make_certs(order),
            Some(Command::Owners) => owners::run(&self.load()?.value, &owners::Order::List),
            Some(Command::Release { agent }) => {
                owners::run(&self.load()?.value, &owners::Order::Release(*agent))
            }
            Some(Command::Clock(ClockCommand::Reset)) => self.reset_clock(),
            Some(Command::Config(ConfigCommand::Show)) => print(&self.load()?.show(true)),
            Some(Command::Config(ConfigCommand::Check)) => {
                self.load()?.value.check_files()?;
                print("the configuration is good\n")
            }
            Some(Command::Config(ConfigCommand::Example)) => print(&example()),
            Some(Command::Version) => print(&format!("{PROGRAM} {}\n", build_info::long_version())),
        };
        done.map(|()| ExitCode::SUCCESS)
    }

    fn verify(&self, order: &Verify) -> ExitCode {
        let checked = || {
            let dir = match &order.dir {
                Some(dir) => dir.clone(),
                None => self.load()?.value.data_dir,
            };
            let report = verify::check(&dir)?;
            output::show(&report, order.output)?;
            Ok::<_, anyhow::Error>(report.damaged == 0)
        };
        match checked() {
            Ok(true) => ExitCode::SUCCESS,
            Ok(false) => ExitCode::FAILURE,
            Err(error) => {
                eprint!("{}", exit::explain(&error));
                ExitCode::from(exit::USAGE)
            }
        }
    }

    fn reset_clock(&self) -> anyhow::Result<()> {
        let dir = self.load()?.value.data_dir;
        let done = store::ask_clock_reset(&dir, CLOCK_RESET_PATIENCE)
            .with_context(|| format!("cannot reset the clock of the collector in {}", dir.display()))
            .hint("name its data directory with --data-dir, and run this as root or as its user")?;
        print(match done {
            ClockReset::Done => {
                "the collector goes by its machine's clock; `gnomon clock --events` says how far that moved it\n"
            }
            ClockReset::AtNextStart => "no collector runs there; its next start begins with it\n",
        })
    }

    fn load(&self) -> anyhow::Result<Loaded<Config>> {
        let mut overrides = self.set.clone();
        if let Some(dir) = &self.data_dir {
            let dir = dir.to_str().context("--data-dir is not UTF-8")?;
            overrides.push(("data_dir".to_owned(), dir.to_owned()));
        }
        Ok(config::load(PROGRAM, self.config.as_deref(), Path::new(DEFAULT_FILE), &overrides)?)
    }

    fn serve(&self) -> anyhow::Result<()> {
        let config = self.load()?.value;
        process::keep_files_private();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .context("cannot start the async runtime")?;
        let telemetry = {
            let _runtime = runtime.enter();
            telemetry::init(PROGRAM, &config.telemetry)?
        };
        let shutdown = Shutdown::install().context("cannot take over the signals")?;
        let done =
            runtime.block_on(pipeline::run(&config, Arc::new(KernelClock), &telemetry, &shutdown.token()));
        runtime.shutdown_timeout(pipeline::STOP_MAX);
        telemetry.shutdown();
        match done? {
            Ended::Stopped => Ok(()),
            Ended::HasRoom => {
                // The same process with the same words, so that whoever supervises it sees no end.
                let program =
                    std::env::current_exe().context("cannot find this program to start it again")?;
                let failed = std::process::Command::new(program).args(std::env::args_os().skip(1)).exec();
                Err(failed).context("cannot start again, now that there is room")
            }
        }
    }
}

fn copied(report: &Report) -> anyhow::Result<ExitCode> {
    output::show(report, Output::Text)?;
    Ok(if report.damaged == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn make_certs(order: &Certs) -> anyhow::Result<()> {
    let order = certs::Order {
        out: order.out.clone(),
        collector_names: order.collector_name.clone(),
        agents: order.agent.clone(),
        clients: order.client.clone(),
        force: order.force,
        // Who is not root, nor in it, keeps the keys to themselves.
        group: certs::service_group().filter(|_| rustix::process::geteuid().is_root()),
    };
    let now = KernelClock.bracket().realtime;
    if !now.is_plausible() {
        return Err(anyhow::anyhow!(
            "this machine's clock was never set: certificates made now would be void"
        ))
        .hint("set the clock (NTP, or `date -s`) and try again");
    }
    let made = certs::make(&order, now)?;
    let lines: String = made.iter().map(|path| format!("{}\n", path.display())).collect();
    print(&lines)
}

/// A closed pipe is not our failure.
fn print(text: &str) -> anyhow::Result<()> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
        let cli = Cli::parse_from([PROGRAM, "config", "show", "--set", "listen.grpc=127.0.0.1:0"]);
        assert_eq!(cli.set, [("listen.grpc".to_owned(), "127.0.0.1:0".to_owned())]);
        assert!(Cli::try_parse_from([PROGRAM, "--set", "nonsense"]).is_err());
    }
}
