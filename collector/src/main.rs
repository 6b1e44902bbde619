//! `gnomon-collector`: see `cli.rs` for what it can be told, `pipeline.rs` for what runs.

use std::process::ExitCode;

use clap::Parser;
use gnomon_collector::cli::Cli;

/// Records are many small allocations, made on one thread and freed on another.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    Cli::parse().run().unwrap_or_else(|error| gnomon_daemon::exit::report(Err(error)))
}
