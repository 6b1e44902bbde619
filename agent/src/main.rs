//! `gnomon-agent`: see `gnomon-agent --help`.

use std::process::ExitCode;

fn main() -> ExitCode {
    gnomon_agent::cli::main()
}
