//! The `gnomon` command: a client of the collector's query API.

pub mod arguments;
mod client;
mod command;
mod exit;
mod output;
mod recent;
mod sink;
mod when;

use std::process::ExitCode;

use arguments::Arguments;

/// Run one command and say how it ended: see `gnomon --help`, "Exit codes".
pub async fn run(arguments: Arguments) -> ExitCode {
    let expression = arguments.command.expression().unwrap_or_default().to_owned();
    let connection = arguments.connection.clone();
    match command::run(arguments).await {
        Ok(outcome) => outcome.into(),
        Err(error) => exit::report(&error, &expression, &connection),
    }
}
