//! `search`, `show`, `tail`.

use std::collections::HashSet;

use anyhow::Result;
use gnomon_flow::StoredFlow;
use gnomon_proto::v1;

use super::{say_waiting, warn_partial};
use crate::arguments::{Format, Query};
use crate::client::{Client, time_range};
use crate::exit::Outcome;
use crate::output::{FlowWriter, Sheet, flow_sheet, print_json};

/// Flows asked for at a time.
const PAGE: u64 = 1_000;

pub(crate) async fn search(
    client: &mut Client,
    query: Query,
    limit: u64,
    oldest_first: bool,
    format: Format,
) -> Result<Outcome> {
    let range = time_range(client, &query.range).await?;
    let mut request = v1::SearchRequest {
        expression: query.expression,
        range: Some(range),
        oldest_first,
        limit: 0,
        cursor: String::new(),
    };
    let (mut found, mut partial, mut partial_answer) = (0u64, false, None);
    let mut waiting = None;
    let mut table = Vec::new();
    // A record may move between two pages, when its time becomes better known: it is shown once.
    let mut shown = HashSet::new();
    let mut writer = FlowWriter::new(format);
    while found < limit {
        request.limit = u32::try_from((limit - found).min(PAGE)).unwrap_or(u32::MAX);
        let answer = client.search(request.clone()).await?.into_inner();
        partial |= warn_partial(answer.partial.as_ref());
        let mut flows = answer.flows.iter().map(StoredFlow::try_from).collect::<Result<Vec<_>, _>>()?;
        flows.retain(|flow| shown.insert(flow.id()));
        found += flows.len() as u64;
        match format {
            // JSON lines and CSV stream; a table and a JSON array want the whole.
            Format::Jsonl | Format::Csv => flows.iter().try_for_each(|flow| writer.write(flow))?,
            Format::Table | Format::Json => table.extend(flows),
        }
        waiting = waiting.or(answer.waiting);
        request.cursor = answer.next_cursor;
        partial_answer = answer.partial.or(partial_answer);
        if request.cursor.is_empty() || partial {
            break;
        }
    }
    let more = !request.cursor.is_empty() && !partial;
    match format {
        Format::Json => {
            let answer =
                gnomon_answers::search(&table, &request.cursor, waiting.as_ref(), partial_answer.as_ref());
            print_json(format, &answer, "flows")?;
        }
        Format::Table if !table.is_empty() => flow_sheet(&table, format).print(format)?,
        Format::Table => eprintln!("nothing found"),
        Format::Jsonl | Format::Csv => {}
    }
    say_waiting(waiting.as_ref());
    if more {
        let which = if request.oldest_first { "oldest" } else { "newest" };
        eprintln!(
            "these are the {which} {found} flows, and there are more: --all shows all, --limit more of them"
        );
    }
    Ok(Outcome::of(found > 0, partial))
}

pub(crate) async fn show(client: &mut Client, id: String, format: Format) -> Result<Outcome> {
    let flow = StoredFlow::try_from(&client.get(v1::GetRequest { id }).await?.into_inner())?;
    if format.is_json() {
        print_json(format, &gnomon_answers::flow(&flow), "")?;
        return Ok(Outcome::Found);
    }
    if format == Format::Csv {
        flow_sheet(&[flow], format).print(format)?;
        return Ok(Outcome::Found);
    }
    let all = flow_sheet(&[flow], Format::Json);
    let mut sheet = Sheet::new(&["field", "value"]);
    for (name, cell) in all.columns.into_iter().zip(all.rows.into_iter().flatten()) {
        if !cell.is_empty() {
            sheet.rows.push(vec![name.into(), cell]);
        }
    }
    sheet.print(format)?;
    Ok(Outcome::Found)
}

pub(crate) async fn tail(
    client: &mut Client,
    expression: String,
    format: Format,
    limit: Option<u64>,
) -> Result<Outcome> {
    let mut stream = client.tail(v1::TailRequest { expression, ..Default::default() }).await?.into_inner();
    let mut writer = FlowWriter::new(format);
    let (mut shown, mut missed) = (0u64, 0u64);
    while limit.is_none_or(|limit| shown < limit) {
        let Some(message) = stream.message().await? else { break };
        if message.missed > missed {
            eprintln!(
                "partial: {} flows were missed because they came faster than they were read",
                message.missed - missed
            );
            missed = message.missed;
        }
        if let Some(flow) = &message.flow {
            writer.write(&StoredFlow::try_from(flow)?)?;
            shown += 1;
        }
    }
    Ok(Outcome::of(shown > 0, missed > 0))
}
