//! `gnomon`: ask the collector. Data goes to stdout, everything else to stderr.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let arguments = gnomon_cli::arguments::Arguments::parse();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let code = runtime.block_on(gnomon_cli::run(arguments));
    // A write to a pipe that nobody reads would be waited for.
    runtime.shutdown_background();
    code
}
