//! `gnomon`: ask the collector. Data goes to stdout, everything else to stderr.

use std::process::ExitCode;

use clap::Parser;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let arguments = gnomon_cli::arguments::Arguments::parse();
    gnomon_cli::run(arguments).await
}
