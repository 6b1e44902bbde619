//! The command line of `gnomon-agent`.

mod delivery;
mod eve;
mod file_clock;
mod flows;
mod import;
mod piped;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use clap::{Args, CommandFactory, Parser, Subcommand};
use gnomon_capture::interface::{self, Interface};
use gnomon_clock::{Clock, KernelClock};
use gnomon_daemon::config::{Loaded, Validate};
use gnomon_daemon::shutdown::Shutdown;
use gnomon_daemon::{build_info, exit, telemetry};

use crate::config::{self, Config, DEFAULT_FILE};
use crate::pipeline;
use crate::selection::{Decision, LeftOut};

const AFTER_HELP: &str = "\
Exit codes:
  0    done; for `import` and `eve`: everything is durable at the collector
  1    failed while running
  2    wrong command line
  78   the configuration was refused
  130  ended by a second Ctrl-C";

/// Captures packets, makes flow records of them, and sends both to the collector.
#[derive(Debug, Parser)]
#[command(name = "gnomon-agent", version, long_version = build_info::long_version(), after_help = AFTER_HELP)]
pub struct Cli {
    #[command(flatten)]
    options: Options,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Clone, Debug, Args)]
struct Options {
    /// The config file [default: /etc/gnomon/agent.toml, if it is there]
    #[arg(long, short, global = true, value_name = "FILE", env = "GNOMON_AGENT_CONFIG")]
    config: Option<PathBuf>,
    /// Set a key of the configuration, as in `--set spool.bytes_max=4GiB`; may stand several times
    #[arg(long, global = true, value_name = "KEY=VALUE", value_parser = key_value)]
    set: Vec<(String, String)>,
    /// Capture this interface instead of those configured or picked: a name, a pattern (`veth*`), a class (`nic`, `addressed`,
    /// `all`), or what to leave out (`!docker0`); may stand several times
    #[arg(long, short, global = true, value_name = "NAME")]
    interface: Vec<String>,
    /// Capture only what this lets pass, in the language of tcpdump (pcap-filter(7)); with `flows`, of the files
    #[arg(long, global = true, value_name = "EXPRESSION")]
    filter: Option<String>,
    /// The collector's address; may stand several times
    #[arg(long, global = true, value_name = "URL")]
    collector: Vec<String>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Capture until told to stop (what happens without a command)
    Run,
    /// Print the flow records of capture files; needs no collector
    Flows(flows::Flows),
    /// Send capture files to the collector; ends when everything is durable there
    Import(import::Import),
    /// Send alerts that Suricata wrote (EVE JSON lines) to the collector; ends when everything is durable there
    Eve(eve::Eve),
    /// List the interfaces: which are captured with this configuration, which are not, and why
    Interfaces,
    /// Show or check the configuration
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Print the version
    Version,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Print the configuration in force
    Show {
        /// Say where each value comes from
        #[arg(long)]
        origin: bool,
    },
    /// Check the configuration; say when each rule is decided, and how it was understood
    Check,
    /// Print an example file with every key, its meaning and its default
    Example,
}

fn key_value(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("write it as KEY=VALUE")?;
    Ok((key.trim().to_owned(), value.to_owned()))
}

/// The command, for completions and the man page.
#[must_use]
pub fn command() -> clap::Command {
    Cli::command()
}

/// What `main` does.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    exit::report(cli.run())
}

impl Options {
    fn load(&self) -> anyhow::Result<Loaded<Config>> {
        let mut overrides = self.set.clone();
        if !self.collector.is_empty() {
            overrides.push(("collector.urls".to_owned(), self.collector.join(",")));
        }
        if let Some(filter) = &self.filter {
            overrides.push(("capture.filter".to_owned(), filter.clone()));
        }
        let mut loaded = config::load(self.config.as_deref(), &overrides)?;
        if !self.interface.is_empty() {
            loaded.value.take_interfaces(&self.interface);
            loaded.value.validate()?;
        }
        Ok(loaded)
    }
}

impl Cli {
    fn run(self) -> anyhow::Result<()> {
        let clock: Arc<dyn Clock> = Arc::new(KernelClock);
        match self.command {
            None | Some(Command::Run) => {
                let loaded = self.options.load()?;
                loaded.value.check_start()?;
                let telemetry = telemetry::init(config::PROGRAM, &loaded.value.telemetry)?;
                let shutdown = Shutdown::install().context("cannot take signals")?;
                let options = self.options.clone();
                let load = Box::new(move || Ok(options.load()?.value));
                let ended = pipeline::run(&loaded.value, &clock, &shutdown, &telemetry, load);
                telemetry.shutdown();
                ended
            }
            Some(Command::Flows(flows)) => {
                flows.run(&self.options.load()?.value, self.options.filter.as_deref())
            }
            Some(Command::Import(import)) => {
                // Which packets were sent of a file must not depend on the day.
                anyhow::ensure!(
                    self.options.filter.is_none(),
                    "`import` sends whole files: leave --filter out"
                );
                let loaded = self.options.load()?;
                let telemetry = telemetry::init(config::PROGRAM, &loaded.value.telemetry)?;
                let ended = import.run(&loaded.value, &clock);
                telemetry.shutdown();
                ended
            }
            Some(Command::Eve(eve)) => {
                let loaded = self.options.load()?;
                let telemetry = telemetry::init(config::PROGRAM, &loaded.value.telemetry)?;
                let ended = eve.run(&loaded.value, &clock);
                telemetry.shutdown();
                ended
            }
            Some(Command::Interfaces) => interfaces(&self.options.load()?.value),
            Some(Command::Config(command)) => configuration(&self.options, &command),
            Some(Command::Version) => {
                println!("gnomon-agent {}", build_info::long_version());
                Ok(())
            }
        }
    }
}

/// What would be captured now with this configuration, and why the others not.
fn interfaces(config: &Config) -> anyhow::Result<()> {
    let listed = interface::list().context("cannot list the interfaces")?;
    let decision = config.selection()?.decide(listed.clone(), &BTreeSet::new());
    for interface in &listed {
        let chosen = decision.chosen.iter().find(|chosen| chosen.interface.index == interface.index);
        let left = decision.left_out.iter().find(|left| left.name == interface.name);
        let (mark, reason) = match (chosen, left) {
            (Some(chosen), _) => ("+", chosen.reason.as_str()),
            (None, Some(left)) => ("-", left.reason.as_str()),
            (None, None) => continue,
        };
        println!("{mark} {interface}\n    {reason}");
        if let Some(twice) = chosen.and_then(|chosen| chosen.seen_twice.as_ref()) {
            println!("    {twice}");
        }
    }
    for left in missing(&decision, &listed) {
        println!("? {}\n    {}", left.name, left.reason);
    }
    Ok(())
}

/// Entries that match nothing now.
fn missing<'a>(decision: &'a Decision, listed: &'a [Interface]) -> impl Iterator<Item = &'a LeftOut> {
    decision.left_out.iter().filter(|left| !listed.iter().any(|interface| interface.name == left.name))
}

fn configuration(options: &Options, command: &ConfigCommand) -> anyhow::Result<()> {
    match command {
        ConfigCommand::Show { origin } => {
            print!("{}", options.load()?.show(*origin));
            Ok(())
        }
        ConfigCommand::Check => {
            let config = options.load()?.value;
            config.check_start()?;
            let rules = config.rules()?;
            let file = options.config.clone().unwrap_or_else(|| DEFAULT_FILE.into());
            println!(
                "{}: good{}",
                file.display(),
                if file.exists() { "" } else { " (it is not there: defaults)" }
            );
            // Where the interfaces cannot be listed there is nothing to say of them.
            if let Ok(listed) = interface::list() {
                let decision = config.selection()?.decide(listed.clone(), &BTreeSet::new());
                for left in missing(&decision, &listed) {
                    println!("  interface {}: {}", left.name, left.reason);
                }
            }
            for rule in rules.list() {
                println!("  rule {}, decided {}: {}", rule.name, rule.decided.name(), rule.when);
            }
            Ok(())
        }
        ConfigCommand::Example => {
            print!("{}", config::example());
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        command().debug_assert();
        let cli = Cli::try_parse_from([
            "gnomon-agent",
            "run",
            "--set",
            "spool.zstd_level=3",
            "--collector",
            "http://[::1]:1",
        ]);
        let loaded = cli.unwrap().options.load().unwrap();
        assert_eq!(loaded.value.spool.zstd_level, 3);
        assert_eq!(loaded.value.collector.urls, ["http://[::1]:1"]);
        let cli = Cli::try_parse_from(["gnomon-agent", "--interface", "lo", "--interface", "eth7"]).unwrap();
        let names: Vec<_> =
            cli.options.load().unwrap().value.interfaces.into_iter().map(|i| i.name).collect();
        assert_eq!(names, ["lo", "eth7"]);
        assert!(Cli::try_parse_from(["gnomon-agent", "--set", "nonsense"]).is_err());
        let filter = "tcp port 80 or (vlan and ip[0] & 0xf != 5)";
        let cli = Cli::try_parse_from(["gnomon-agent", "run", "--filter", filter]).unwrap();
        assert_eq!(cli.options.load().unwrap().value.capture.filter.as_deref(), Some(filter));
    }
}
