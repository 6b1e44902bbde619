//! `count`, `top`, `histogram`.

use anyhow::Result;
use gnomon_clock::UtcNs;
use gnomon_flow::field;
use gnomon_flow::timestamp::rfc3339;
use gnomon_proto::v1;

use super::{say_waiting, warn_partial};
use crate::arguments::{By, Format, Query, Range};
use crate::client::{Client, time_range};
use crate::exit::{Outcome, Usage};
use crate::output::{Cell, Sheet};
use crate::when;

pub(crate) async fn count(
    client: &mut Client,
    query: Query,
    distinct: Vec<String>,
    format: Format,
) -> Result<Outcome> {
    let range = time_range(client, &query.range).await?;
    let names = distinct_columns(&distinct);
    let request = v1::CountRequest { expression: query.expression, range: Some(range), distinct };
    let answer = client.count(request).await?.into_inner();
    let mut sheet = Sheet::new(&["flows", "packets", "bytes"]);
    sheet.columns.extend(names);
    let mut cells: Vec<Cell> = [answer.flows, answer.packets, answer.bytes].map(Cell::from).to_vec();
    cells.extend(answer.distinct.iter().map(|different| Cell::from(different.count)));
    sheet.rows.push(cells);
    sheet.print_or(format, || gnomon_answers::count(&answer), "")?;
    say_estimated(&answer.distinct);
    say_waiting(answer.waiting.as_ref());
    Ok(Outcome::of(answer.flows > 0, warn_partial(answer.partial.as_ref())))
}

/// How rows of a top are chosen and what is counted in them.
pub(crate) struct Ranked {
    pub(crate) by: By,
    pub(crate) distinct: Vec<String>,
    pub(crate) limit: u32,
}

pub(crate) async fn top(
    client: &mut Client,
    words: Vec<String>,
    range: &Range,
    ranked: Ranked,
    format: Format,
) -> Result<Outcome> {
    let (fields, expression) = fields_and_expression(words)?;
    let range = time_range(client, range).await?;
    let Ranked { by, distinct, limit } = ranked;
    let by = match by {
        By::Flows => v1::Measure::Flows,
        By::Packets => v1::Measure::Packets,
        By::Bytes => v1::Measure::Bytes,
        By::Distinct => v1::Measure::Distinct,
    };
    let names: Vec<&str> = fields.iter().map(String::as_str).chain(["flows", "packets", "bytes"]).collect();
    let mut sheet = Sheet::new(&names);
    sheet.columns.extend(distinct_columns(&distinct));
    let by = by.into();
    let request = v1::TopRequest { expression, range: Some(range), fields, by, limit, distinct };
    let answer = client.top(request).await?.into_inner();
    for row in &answer.rows {
        let mut cells: Vec<Cell> = row.values.iter().map(|v| v.as_str().into()).collect();
        cells.extend([row.flows, row.packets, row.bytes].map(Cell::from));
        cells.extend(row.distinct.iter().map(|different| Cell::from(different.count)));
        sheet.rows.push(cells);
    }
    sheet.print_or(format, || gnomon_answers::top(&answer), "rows")?;
    if answer.others_flows > 0 && format == Format::Table {
        eprintln!("{} flows have other values", answer.others_flows);
    }
    say_estimated(answer.rows.iter().flat_map(|row| &row.distinct));
    say_waiting(answer.waiting.as_ref());
    Ok(Outcome::of(!answer.rows.is_empty(), warn_partial(answer.partial.as_ref())))
}

fn distinct_columns(fields: &[String]) -> Vec<String> {
    fields.iter().map(|field| format!("distinct.{field}")).collect()
}

/// Say on stderr that counts are estimates, and how good.
fn say_estimated<'d>(counts: impl IntoIterator<Item = &'d v1::Distinct>) {
    let estimated: Vec<&v1::Distinct> =
        counts.into_iter().filter(|different| different.error > 0.0).collect();
    let least = estimated.iter().map(|different| different.count).min();
    let error = estimated.iter().map(|different| different.error).fold(0.0, f64::max);
    if let Some(least) = least {
        eprintln!(
            "distinct counts from {least} on are estimates, within {:.1} % in two of three",
            error * 100.0
        );
    }
}

/// A word that is the name of a field, or several with commas between, is fields; one other word may be the expression.
fn fields_and_expression(words: Vec<String>) -> Result<(Vec<String>, String), Usage> {
    let is_field = |name: &str| field::by_name(name.trim()).is_some();
    let (fields, mut others): (Vec<_>, Vec<_>) =
        words.into_iter().partition(|word| word.split(',').all(is_field));
    let fields: Vec<String> =
        fields.iter().flat_map(|word| word.split(',')).map(|name| name.trim().to_owned()).collect();
    let expression = others.pop().unwrap_or_default();
    if let Some(second) = others.pop() {
        return Err(Usage(format!(
            "neither {second:?} nor {expression:?} is a field; only one expression fits (gnomon fields lists the fields)"
        )));
    }
    if fields.is_empty() {
        return Err(Usage(format!(
            "{expression:?} is not a field: name at least one (gnomon fields lists them)"
        )));
    }
    Ok((fields, expression))
}

pub(crate) async fn histogram(
    client: &mut Client,
    query: Query,
    interval: Option<String>,
    group: Option<String>,
    format: Format,
) -> Result<Outcome> {
    let range = time_range(client, &query.range).await?;
    let interval_ns = interval.as_deref().map(when::duration_ns).transpose()?.unwrap_or(0);
    let request = v1::HistogramRequest {
        expression: query.expression,
        range: Some(range),
        interval_ns: u64::try_from(interval_ns).unwrap_or(0),
        group: group.clone().unwrap_or_default(),
    };
    let answer = client.histogram(request).await?.into_inner();
    let people = format == Format::Table;
    let mut names = vec!["time"];
    names.extend(group.as_deref());
    names.extend(["flows", "packets", "bytes"]);
    names.extend(people.then_some(""));
    let mut sheet = Sheet::new(&names);
    let most = answer.buckets.iter().map(|b| b.flows).max().unwrap_or(0).max(1);
    for bucket in &answer.buckets {
        let mut cells: Vec<Cell> = vec![rfc3339(UtcNs::from_unix_ns(bucket.start_unix_ns)).into()];
        cells.extend(group.as_ref().map(|_| bucket.group.as_str().into()));
        cells.extend([bucket.flows, bucket.packets, bucket.bytes].map(Cell::from));
        let bar = usize::try_from(bucket.flows.saturating_mul(40) / most).unwrap_or(0);
        cells.extend(people.then(|| "█".repeat(bar).into()));
        sheet.rows.push(cells);
    }
    sheet.print_or(format, || gnomon_answers::histogram(&answer), "buckets")?;
    say_waiting(answer.waiting.as_ref());
    Ok(Outcome::of(answer.buckets.iter().any(|b| b.flows > 0), warn_partial(answer.partial.as_ref())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_told_apart() {
        let words =
            |list: &[&str]| fields_and_expression(list.iter().map(|w| (*w).to_owned()).collect()).ok();
        let fields = vec!["ip.src".to_owned(), "port.dst".to_owned()];
        assert_eq!(words(&["ip.src", "port.dst", "packets >= 3"]), Some((fields, "packets >= 3".to_owned())));
        let fields = vec!["ip.src".to_owned(), "port.dst".to_owned()];
        assert_eq!(words(&["ip.src,port.dst", "packets >= 3"]), Some((fields, "packets >= 3".to_owned())));
        assert_eq!(words(&["packets >= 3"]), None);
        assert_eq!(words(&["ip.src", "a == b", "c == d"]), None);
    }
}
