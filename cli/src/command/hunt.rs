//! `hunt`: suspects, the worst first.

use anyhow::Result;
use gnomon_clock::UtcNs;
use gnomon_flow::timestamp::rfc3339;
use gnomon_proto::v1;
use gnomon_proto::v1::hunt_evidence::Value;

use super::warn_partial;
use crate::arguments::{Format, Range};
use crate::client::{Client, time_range};
use crate::exit::{Outcome, Usage};
use crate::output::{Cell, Sheet};

/// What there is to hunt, and by which numbers.
pub(crate) async fn list(client: &mut Client, format: Format) -> Result<Outcome> {
    let answer = client.hunts(v1::HuntsRequest {}).await?.into_inner();
    let hunts = answer.hunts.clone();
    let mut sheet = Sheet::new(&["hunt", "parameter", "default", "doc"]);
    for hunt in hunts {
        let nothing = || Cell::from(None::<u64>);
        sheet.rows.push(vec![hunt.name.as_str().into(), nothing(), nothing(), hunt.doc.into()]);
        for parameter in hunt.parameters {
            sheet.rows.push(vec![
                hunt.name.as_str().into(),
                parameter.name.into(),
                parameter.default.into(),
                parameter.doc.into(),
            ]);
        }
    }
    sheet.print_or(format, || gnomon_answers::hunts(&answer), "hunts")?;
    Ok(Outcome::Found)
}

pub(crate) async fn go(
    client: &mut Client,
    (name, expression): (String, String),
    range: &Range,
    set: Vec<String>,
    limit: u32,
    format: Format,
) -> Result<Outcome> {
    let parameters = set.iter().map(|text| parameter(text)).collect::<Result<_, _>>()?;
    let range = Some(time_range(client, range).await?);
    let request = v1::HuntRequest { name, expression, range, parameters, limit };
    let answer = client.hunt(request).await?.into_inner();
    if answer.findings.is_empty() && format == Format::Table {
        eprintln!("nothing found");
    } else {
        sheet(&answer.findings).print_or(format, || gnomon_answers::findings(&answer), "findings")?;
    }
    if answer.others > 0 && format == Format::Table {
        eprintln!("{} more findings of a lower score (--limit)", answer.others);
    }
    Ok(Outcome::of(!answer.findings.is_empty(), warn_partial(answer.partial.as_ref())))
}

fn parameter(text: &str) -> Result<(String, u64), Usage> {
    let wrong = || Usage(format!("--set {text:?} is no NAME=NUMBER: gnomon hunt lists the names"));
    let (name, number) = text.split_once('=').ok_or_else(wrong)?;
    Ok((name.trim().to_owned(), number.trim().parse().map_err(|_| wrong())?))
}

fn sheet(findings: &[v1::HuntFinding]) -> Sheet {
    let mut sheet = Sheet::new(&["score", "what"]);
    // Those of one hunt have the same evidence.
    let names = findings.first().map(|first| &first.evidence).into_iter().flatten();
    sheet.columns.extend(names.map(|evidence| evidence.name.clone()));
    sheet.columns.push("expression".to_owned());
    for finding in findings {
        let mut cells: Vec<Cell> = vec![finding.score.into(), finding.what.as_str().into()];
        cells.extend(finding.evidence.iter().map(|evidence| match &evidence.value {
            Some(Value::Text(text)) => text.as_str().into(),
            Some(Value::Number(number)) => (*number).into(),
            Some(Value::Ratio(ratio)) => (*ratio).into(),
            Some(Value::UnixNs(at)) => rfc3339(UtcNs::from_unix_ns(*at)).into(),
            None => None::<u64>.into(),
        }));
        cells.push(finding.expression.as_str().into());
        sheet.rows.push(cells);
    }
    sheet
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_names_and_numbers() {
        assert_eq!(parameter("targets = 50").ok(), Some(("targets".to_owned(), 50)));
        for wrong in ["targets", "targets=", "targets=many", "targets=-1"] {
            assert!(parameter(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn evidence_becomes_columns() {
        let evidence = |name: &str, value| v1::HuntEvidence { name: name.to_owned(), value };
        let finding = v1::HuntFinding {
            score: 21.5,
            what: "ports".to_owned(),
            evidence: vec![
                evidence("ip.src", Some(Value::Text("10.0.0.1".to_owned()))),
                evidence("hosts", None),
                evidence("ports", Some(Value::Number(720))),
            ],
            expression: "ip.src == 10.0.0.1".to_owned(),
        };
        let sheet = sheet(&[finding]);
        assert_eq!(sheet.columns, ["score", "what", "ip.src", "hosts", "ports", "expression"]);
        assert_eq!(sheet.rows[0][4], Cell::from(720u64));
        assert!(sheet.rows[0][3].is_empty());
    }
}
