//! Hunts at both doors.

use gnomon_clock::UtcNs;
use gnomon_flow::timestamp::rfc3339;
use gnomon_proto::v1;
use gnomon_proto::v1::hunt_evidence::Value as Wire;
use serde_json::{Map, Value, json};

use crate::query::{Evidence, HUNTS, HuntAnswer, HuntFinding, HuntKind, HuntParameter, QueryError};

pub(super) fn list() -> v1::HuntsResponse {
    let parameter = |parameter: &HuntParameter| v1::HuntParameter {
        name: parameter.name.to_owned(),
        default: parameter.default,
        min: parameter.min,
        max: parameter.max,
        doc: parameter.doc.to_owned(),
    };
    let kind = |kind: &HuntKind| v1::HuntKind {
        name: kind.name.to_owned(),
        doc: kind.doc.to_owned(),
        parameters: kind.parameters.iter().map(parameter).collect(),
    };
    v1::HuntsResponse { hunts: HUNTS.iter().map(kind).collect() }
}

pub(super) fn list_json() -> Value {
    let hunts = list().hunts.into_iter().map(|kind| {
        let parameters = kind.parameters.iter().map(|parameter| {
            json!({
                "name": parameter.name, "default": parameter.default, "min": parameter.min, "max": parameter.max,
                "doc": parameter.doc,
            })
        });
        json!({"name": kind.name, "doc": kind.doc, "parameters": parameters.collect::<Vec<_>>()})
    });
    json!({"hunts": hunts.collect::<Vec<_>>()})
}

/// `name=number`, as HTTP has parameters.
pub(super) fn parameters(list: &[String]) -> Result<Vec<(String, u64)>, QueryError> {
    let pair = |text: &String| {
        let (name, number) = text.split_once('=')?;
        Some((name.trim().to_owned(), number.trim().parse().ok()?))
    };
    list.iter()
        .map(|text| {
            pair(text).ok_or_else(|| {
                let cut = &text[..text.floor_char_boundary(60)];
                let problem = format!("{cut:?} is no name=number, as targets=50");
                QueryError::Invalid { field: "parameters", problem }
            })
        })
        .collect()
}

pub(super) fn finding(finding: HuntFinding) -> v1::HuntFinding {
    let value = |evidence: Evidence| match evidence {
        Evidence::Text(text) => Some(Wire::Text(text)),
        Evidence::Number(number) => Some(Wire::Number(number)),
        Evidence::Ratio(ratio) => Some(Wire::Ratio(ratio)),
        Evidence::Time(at) => Some(Wire::UnixNs(UtcNs::unix_ns(at))),
        Evidence::None => None,
    };
    let evidence = finding.evidence.into_iter();
    v1::HuntFinding {
        score: finding.score,
        what: finding.what.to_owned(),
        evidence: evidence
            .map(|(name, evidence)| v1::HuntEvidence { name: name.to_owned(), value: value(evidence) })
            .collect(),
        expression: finding.expression,
    }
}

pub(super) fn findings_json(answer: &HuntAnswer) -> Value {
    let value = |evidence: &Evidence| match evidence {
        Evidence::Text(text) => json!(text),
        Evidence::Number(number) => json!(number),
        Evidence::Ratio(ratio) => json!(ratio),
        Evidence::Time(at) => json!(rfc3339(*at)),
        Evidence::None => Value::Null,
    };
    let findings = answer.findings.iter().map(|finding| {
        let evidence: Map<String, Value> =
            finding.evidence.iter().map(|(name, evidence)| ((*name).to_owned(), value(evidence))).collect();
        json!({
            "score": finding.score, "what": finding.what, "evidence": evidence, "expression": finding.expression,
        })
    });
    let object = json!({"findings": findings.collect::<Vec<_>>(), "others": answer.others});
    super::json::with_partial(object, &answer.partial)
}
