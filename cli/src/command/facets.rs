//! `facets`: the most frequent values of many fields, better and better while the collector reads.

use std::io::{self, IsTerminal, Write};

use anyhow::{Result, anyhow};
use gnomon_proto::v1;

use super::{say_waiting, warn_partial};
use crate::arguments::{Format, Query};
use crate::client::{Client, time_range};
use crate::exit::Outcome;
use crate::output::{Cell, Sheet, human};

pub(crate) async fn show(
    client: &mut Client,
    query: Query,
    (fields, exact): (Vec<String>, bool),
    limit: u32,
    format: Format,
) -> Result<Outcome> {
    // What is not looked at by people has no use for answers that are not the last.
    let refine = format == Format::Table && io::stdout().is_terminal();
    let range = time_range(client, &query.range).await?;
    let (expression, range) = (query.expression, Some(range));
    let request = v1::FacetsRequest { expression, range, fields, limit, refine, exact };
    let mut answers = client.facets(request).await?.into_inner();
    let mut drawn = false;
    while let Some(answer) = answers.message().await? {
        if !answer.last {
            draw(&answer)?;
            drawn = true;
            continue;
        }
        if drawn {
            write!(io::stdout().lock(), "{CLEAR}")?;
        }
        sheet(&answer, format == Format::Table).print_or(
            format,
            || gnomon_answers::facets(&answer),
            "fields",
        )?;
        let missed = missed(&answer);
        // Programs have the column.
        if !missed.is_empty() && format == Format::Table {
            let hint = if exact { "" } else { " (--exact reads everything)" };
            eprintln!("counts may be too low, by at most: {missed}{hint}");
        }
        say_waiting(answer.waiting.as_ref());
        let found = answer.fields.iter().any(|field| !field.values.is_empty());
        return Ok(Outcome::of(found, warn_partial(answer.partial.as_ref())));
    }
    Err(anyhow!("the collector ended its answer before it was whole"))
}

/// By how much counts may be too low, field by field.
fn missed(answer: &v1::FacetsResponse) -> String {
    let fields = answer.fields.iter().filter(|field| field.missed_max > 0);
    fields.map(|field| format!("{} {}", field.field, field.missed_max)).collect::<Vec<_>>().join(", ")
}

/// Home and clear.
const CLEAR: &str = "\x1b[H\x1b[2J";

/// As much of an answer as fits the screen, in the place of the one before.
fn draw(answer: &v1::FacetsResponse) -> io::Result<()> {
    let size = rustix::termios::tcgetwinsize(io::stdout());
    let (rows, columns) = size.map_or((24, 80), |size| (usize::from(size.ws_row), usize::from(size.ws_col)));
    let mut out = io::stdout().lock();
    writeln!(out, "{CLEAR}{}", progress(answer))?;
    for line in sheet(answer, true).lines().into_iter().take(rows.saturating_sub(2)) {
        writeln!(out, "{}", line.chars().take(columns).collect::<String>())?;
    }
    out.flush()
}

fn progress(answer: &v1::FacetsResponse) -> String {
    let (read, all) = (answer.records_read, answer.records.max(1));
    let percent = u128::from(read) * 100 / u128::from(all);
    format!("{percent} % of {} records read, {} flows match", human(all as f64), human(answer.flows as f64))
}

fn sheet(answer: &v1::FacetsResponse, people: bool) -> Sheet {
    let mut sheet = Sheet::new(&["field", "value", "flows", "different"]);
    let missed = answer.fields.iter().any(|field| field.missed_max > 0);
    sheet.columns.extend(missed.then(|| "missed_max".to_owned()));
    for field in &answer.fields {
        for (at, value) in field.values.iter().enumerate() {
            // People read a field's name once.
            let shown = at == 0 || !people;
            let once = |cell: Cell| if shown { cell } else { Cell::from(None::<u64>) };
            let mut cells: Vec<Cell> = vec![
                once(field.field.as_str().into()),
                value.value.as_str().into(),
                value.flows.into(),
                once(field.different.into()),
            ];
            cells.extend(missed.then(|| once(field.missed_max.into())));
            sheet.rows.push(cells);
        }
    }
    sheet
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_named_once_for_people_and_always_for_programs() {
        let value = |value: &str, flows| v1::FacetValue { value: value.to_owned(), flows };
        let field = v1::Facet {
            field: "port.dst".to_owned(),
            flows: 9,
            values: vec![value("53", 6), value("\x1b[2J", 3)],
            different: 2,
            missed_max: 0,
        };
        let answer = v1::FacetsResponse {
            fields: vec![field],
            flows: 9,
            records_read: 1_000,
            records: 3_000,
            ..v1::FacetsResponse::default()
        };
        assert_eq!(progress(&answer), "33 % of 3.0 k records read, 9 flows match");
        let lines = sheet(&answer, true).lines();
        assert_eq!(lines.iter().filter(|line| line.contains("port.dst")).count(), 1);
        assert!(lines.iter().all(|line| !line.contains('\x1b')), "{lines:?}");
        let for_programs = sheet(&answer, false);
        assert!(for_programs.rows.iter().all(|row| row[0] == Cell::from("port.dst")));
    }
}
