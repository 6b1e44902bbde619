//! Answers as both doors send them.

use gnomon_clock::UtcNs;
use gnomon_proto::v1;
use gnomon_proto::v1::hunt_evidence::Value as Wire;

use crate::fleet::Answer;
use crate::query::{
    CountAnswer, Different, Evidence, FacetField, FacetValue, FacetsAnswer, HuntAnswer, HuntFinding, Waiting,
};

pub(super) fn partial(reason: Option<String>) -> Option<v1::Partial> {
    reason.map(|reason| v1::Partial { reason })
}

pub(super) fn distinct(list: &[Different]) -> Vec<v1::Distinct> {
    list.iter().map(|different| v1::Distinct { count: different.count, error: different.error }).collect()
}

pub(super) fn waiting(waiting: Waiting) -> Option<v1::Waiting> {
    if waiting == Waiting::default() {
        return None;
    }
    let held = waiting.counts.into_iter().map(|(state, reason, flows)| {
        let state = if state == "quarantined" { v1::TimeState::Quarantined } else { v1::TimeState::Pending };
        v1::HeldFlows { state: state.into(), reason: reason.to_owned(), flows }
    });
    Some(v1::Waiting { held: held.collect(), flows_not_looked_at: waiting.not_looked_at })
}

pub(super) fn count(answer: CountAnswer) -> v1::CountResponse {
    v1::CountResponse {
        flows: answer.sums.flows,
        packets: answer.sums.packets,
        bytes: answer.sums.bytes,
        partial: partial(answer.partial),
        distinct: distinct(&answer.distinct),
        waiting: waiting(answer.waiting),
    }
}

pub(super) fn facets(answer: FacetsAnswer) -> v1::FacetsResponse {
    let value = |value: FacetValue| v1::FacetValue { value: value.value, flows: value.flows };
    let field = |field: FacetField| v1::Facet {
        field: field.name.to_owned(),
        flows: field.flows,
        values: field.values.into_iter().map(value).collect(),
        different: field.different,
        missed_max: field.missed_max,
    };
    v1::FacetsResponse {
        fields: answer.fields.into_iter().map(field).collect(),
        flows: answer.flows,
        records_read: answer.records_read,
        records: answer.records,
        last: answer.last,
        waiting: waiting(answer.waiting),
        partial: partial(answer.partial),
    }
}

fn finding(finding: HuntFinding) -> v1::HuntFinding {
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

pub(super) fn findings(answer: HuntAnswer) -> v1::HuntResponse {
    v1::HuntResponse {
        findings: answer.findings.into_iter().map(finding).collect(),
        others: answer.others,
        partial: partial(answer.partial),
    }
}

pub(super) fn agents(answer: Answer) -> v1::AgentsResponse {
    let partial = partial(answer.partial());
    v1::AgentsResponse { agents: answer.agents, partial }
}
