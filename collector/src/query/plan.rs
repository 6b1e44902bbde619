//! An expression made ready to be asked of a store: its predicate, and what it says about where to look.

use gnomon_clock::UtcNs;
use gnomon_expression::{Expression, Operand, Operator, Predicate, Term, TextTerm};
use gnomon_flow::{FlowRef, StoredFlow, TimeState};

/// A compiled expression.
pub struct Plan {
    pub(super) predicate: Predicate,
    hints: Hints,
}

/// What every match must have, read off the expression's top level.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hints {
    /// One of these records.
    pub ids: Option<Vec<FlowRef>>,
    /// Some part of it at or after this.
    pub since: Option<UtcNs>,
    /// Some part of it before this.
    pub until: Option<UtcNs>,
    /// Not indexed by time: to be found by its time of ingest.
    pub held: bool,
}

impl Plan {
    /// Relative times count from `now`.
    pub fn new(expression: &Expression, now: UtcNs) -> Plan {
        let mut hints = Hints::default();
        read_hints(expression, now, &mut hints);
        Plan { predicate: Predicate::of(expression, now), hints }
    }

    pub fn hints(&self) -> &Hints {
        &self.hints
    }

    pub fn matches(&self, flow: &StoredFlow) -> bool {
        self.predicate.matches(flow)
    }
}

/// Collect what every match must have. Only conjunctions are followed.
fn read_hints(expression: &Expression, now: UtcNs, hints: &mut Hints) {
    let comparison = match expression {
        Expression::And(list) => return list.iter().for_each(|e| read_hints(e, now, hints)),
        Expression::Compare(comparison) => comparison,
        _ => return,
    };
    let terms = match &comparison.operand {
        Operand::One(term) => std::slice::from_ref(term),
        Operand::AnyOf(terms) => terms,
        _ => return,
    };
    match (comparison.field.0.name, comparison.operator) {
        ("id", Operator::Equal) => {
            let ids: Option<Vec<FlowRef>> = terms
                .iter()
                .map(|term| match term {
                    Term::Text(TextTerm::Exact(id)) => id.to_ascii_lowercase().parse().ok(),
                    _ => None,
                })
                .collect();
            if hints.ids.is_none() {
                hints.ids = ids;
            }
        }
        ("time.state", Operator::Equal) => {
            let held = |term: &Term| {
                let Term::Text(TextTerm::Exact(state)) = term else { return false };
                [TimeState::Pending, TimeState::Quarantined].iter().any(|s| s.name() == state)
            };
            hints.held |= terms.iter().all(held);
        }
        // Both ends of a record lie inside it, so a bound on either bounds where it can be.
        ("starttime" | "stoptime", operator) => {
            let [Term::Time(time)] = terms else { return };
            let (from, to) = time.interval(now);
            let (since, until) = match operator {
                Operator::Equal => (Some(from), Some(to.saturating_add_ns(1))),
                Operator::NotEqual => (None, None),
                Operator::Less => (None, Some(from)),
                Operator::LessOrEqual => (None, Some(to.saturating_add_ns(1))),
                Operator::Greater => (Some(to), None),
                Operator::GreaterOrEqual => (Some(from), None),
            };
            hints.since = hints.since.max(since);
            hints.until = match (hints.until, until) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (a, b) => a.or(b),
            };
        }
        _ => {}
    }
}
