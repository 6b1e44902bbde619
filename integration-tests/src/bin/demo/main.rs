//! `make demo`: the main job on live traffic, shown and (with `--once`) checked. It runs inside a PID and mount namespace
//! of its own (deploy/demo.sh makes them), so that nothing can outlive it, however it is killed.

mod checks;
mod players;
mod screen;
mod tour;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};

const USAGE: &str = "usage: gnomon-demo --bin-dir DIR [--interface NAME] [--once]";

#[derive(Debug, Default)]
struct Arguments {
    bin_dir: PathBuf,
    interface: Option<String>,
    once: bool,
}

fn arguments() -> Result<Arguments> {
    let mut found = Arguments::default();
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            "--bin-dir" => found.bin_dir = words.next().context(USAGE)?.into(),
            "--interface" => found.interface = Some(words.next().context(USAGE)?),
            "--once" => found.once = true,
            _ => bail!("{word:?} is unknown; {USAGE}"),
        }
    }
    if found.bin_dir.as_os_str().is_empty() {
        bail!(USAGE);
    }
    Ok(found)
}

fn main() -> ExitCode {
    let result = arguments().and_then(|arguments| match &arguments.interface {
        Some(interface) => tour::of_interface(&arguments.bin_dir, interface, arguments.once),
        None => tour::of_own_network(&arguments.bin_dir, arguments.once),
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
