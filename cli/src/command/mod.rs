//! The commands, one question to the API each.

mod agents;
mod aggregate;
mod clock;
mod export;
mod facets;
mod flows;
mod follow;
mod hunt;
mod pcap;

use std::io;

use anyhow::Result;
use clap::CommandFactory;
use gnomon_proto::v1;

use crate::arguments::{Arguments, Command};
use crate::client;
use crate::exit::Outcome;

/// Run what was asked for.
pub(crate) async fn run(arguments: Arguments) -> Result<Outcome> {
    // These ask no collector.
    match arguments.command {
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Arguments::command(), "gnomon", &mut io::stdout());
            return Ok(Outcome::Found);
        }
        Command::Man => {
            clap_mangen::Man::new(Arguments::command()).render(&mut io::stdout())?;
            return Ok(Outcome::Found);
        }
        _ => {}
    }
    let mut client = client::connect(&arguments.connection).await?;
    match arguments.command {
        Command::Search { query, limit, all, oldest_first, output } => {
            let limit = if all { u64::MAX } else { limit };
            flows::search(&mut client, query, limit, oldest_first, output.output).await
        }
        Command::Show { id, output } => flows::show(&mut client, id, output).await,
        Command::Tail { expression, output, limit } => {
            flows::tail(&mut client, expression, output, limit).await
        }
        Command::Count { query, distinct, output } => {
            aggregate::count(&mut client, query, distinct, output.output).await
        }
        Command::Top { words, range, by, distinct, limit, output } => {
            let ranked = aggregate::Ranked { by, distinct, limit };
            aggregate::top(&mut client, words, &range, ranked, output.output).await
        }
        Command::Histogram { query, interval, group, output } => {
            aggregate::histogram(&mut client, query, interval, group, output.output).await
        }
        Command::Facets { query, fields, exact, limit, output } => {
            facets::show(&mut client, query, (fields, exact), limit, output.output).await
        }
        Command::Hunt { name: None, output, .. } => hunt::list(&mut client, output.output).await,
        Command::Hunt { name: Some(name), expression, range, set, limit, output } => {
            hunt::go(&mut client, (name, expression), &range, set, limit, output.output).await
        }
        Command::Pcap { query, write, id, format, packets } => {
            pcap::write(&mut client, query, &write, id, format, packets).await
        }
        Command::Export(export) => export::run(&mut client, export).await,
        Command::Live { times } => agents::live(&mut client, times).await,
        Command::Agents { output } => agents::list(&mut client, output.output).await,
        Command::Clock { events, output } => clock::show(&mut client, events, output.output).await,
        Command::Status { output } => agents::status(&mut client, output.output).await,
        Command::Fields { output } => agents::fields(&mut client, output.output).await,
        Command::Completions { .. } | Command::Man => Ok(Outcome::Found),
    }
}

/// Say on stderr what matches and waits for evidence of its time: who finds nothing has to know of it.
fn say_waiting(waiting: Option<&v1::Waiting>) {
    let Some(waiting) = waiting else { return };
    for held in &waiting.held {
        let state = match held.state() {
            v1::TimeState::Quarantined => "were refused",
            _ => "wait",
        };
        eprintln!(
            "{} matching flows {state} for evidence of their time ({}), and are in no range of time: --by-ingest-time finds them, `gnomon clock` says why",
            held.flows,
            gnomon_flow::escape::terminal_safe(&held.reason)
        );
    }
    if waiting.flows_not_looked_at > 0 {
        eprintln!("{} more flows that wait were not looked at", waiting.flows_not_looked_at);
    }
}

/// Say on stderr that an answer is not whole.
fn warn_partial(partial: Option<&v1::Partial>) -> bool {
    if let Some(partial) = partial {
        eprintln!("partial: {}", gnomon_flow::escape::terminal_safe(&partial.reason));
    }
    partial.is_some()
}
