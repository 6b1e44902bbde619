//! Hunts at both doors.

use gnomon_proto::v1;

use crate::query::{HUNTS, HuntKind, HuntParameter, QueryError};

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
