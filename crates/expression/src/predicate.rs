//! An expression made ready to be asked of many records: sorted intervals, lowered text, compiled patterns.

use std::net::IpAddr;

use gnomon_clock::UtcNs;
use gnomon_flow::{Field, FlowKey, StoredFlow, Value};

use super::ast::{Comparison, Expression, Operand, Operator, Term};
use super::ip::Network;
use super::text_set::TextSet;

/// A compiled expression.
pub enum Predicate {
    All,
    Not(Box<Predicate>),
    And(Vec<Predicate>),
    Or(Vec<Predicate>),
    Test(Test),
}

pub struct Test {
    pub field: &'static Field,
    pub negate: bool,
    pub wanted: Wanted,
}

pub enum Wanted {
    Anything,
    OneOf(ValueSet),
    Each(Vec<ValueSet>),
}

/// Values of one kind.
pub enum ValueSet {
    Ip(IpSet),
    Integer(Intervals<u64>),
    Text(TextSet),
    Time(Intervals<UtcNs>),
    /// Whether false and true are in.
    Bool([bool; 2]),
}

#[derive(Default)]
pub struct IpSet {
    pub v4: Intervals<u32>,
    pub v6: Intervals<u128>,
    pub with_port: Vec<(Option<(IpAddr, IpAddr)>, u16)>,
}

/// Closed intervals, sorted and disjoint.
pub struct Intervals<T>(Vec<(T, T)>);

impl<T> Default for Intervals<T> {
    fn default() -> Intervals<T> {
        Intervals(Vec::new())
    }
}

impl<T: Copy + Ord> Intervals<T> {
    fn of(mut list: Vec<(T, T)>) -> Intervals<T> {
        list.sort_unstable();
        let mut merged: Vec<(T, T)> = Vec::with_capacity(list.len());
        for (from, to) in list {
            match merged.last_mut() {
                Some(last) if from <= last.1 => last.1 = last.1.max(to),
                _ => merged.push((from, to)),
            }
        }
        Intervals(merged)
    }

    pub fn list(&self) -> &[(T, T)] {
        &self.0
    }

    /// The interval, when there is just one.
    pub fn single(&self) -> Option<(T, T)> {
        if let [one] = self.0[..] { Some(one) } else { None }
    }

    /// Whether some value of `min ..= max` is in.
    pub fn meets(&self, min: T, max: T) -> bool {
        self.0.iter().any(|(from, to)| *from <= max && min <= *to)
    }

    pub fn contains(&self, value: T) -> bool {
        let behind = self.0.partition_point(|(from, _)| *from <= value);
        behind.checked_sub(1).and_then(|i| self.0.get(i)).is_some_and(|(_, to)| value <= *to)
    }
}

/// The part of `min ..= max` that stands in `operator`'s relation to `from ..= to`.
fn related<T: Copy>(
    operator: Operator,
    (from, to): (T, T),
    (min, max): (T, T),
    before: impl Fn(T) -> Option<T>,
    after: impl Fn(T) -> Option<T>,
) -> Option<(T, T)> {
    match operator {
        Operator::Equal | Operator::NotEqual => Some((from, to)),
        Operator::Less => before(from).map(|end| (min, end)),
        Operator::LessOrEqual => Some((min, to)),
        Operator::Greater => after(to).map(|start| (start, max)),
        Operator::GreaterOrEqual => Some((from, max)),
    }
}

impl Predicate {
    /// Relative times count from `now`.
    pub fn of(expression: &Expression, now: UtcNs) -> Predicate {
        let all = |list: &[Expression]| list.iter().map(|e| Predicate::of(e, now)).collect();
        match expression {
            Expression::All => Predicate::All,
            Expression::Not(inner) => Predicate::Not(Box::new(Predicate::of(inner, now))),
            Expression::And(list) => Predicate::And(all(list)),
            Expression::Or(list) => Predicate::Or(all(list)),
            Expression::Compare(comparison) => Predicate::Test(Test::of(comparison, now)),
        }
    }

    pub fn matches(&self, flow: &StoredFlow) -> bool {
        match self {
            Predicate::All => true,
            Predicate::Not(inner) => !inner.matches(flow),
            Predicate::And(list) => list.iter().all(|p| p.matches(flow)),
            Predicate::Or(list) => list.iter().any(|p| p.matches(flow)),
            Predicate::Test(test) => test.matches(flow),
        }
    }

    /// Whether a flow of which not everything is `known` yet matches; `None` while that depends on what is not.
    pub fn decide(&self, flow: &StoredFlow, known: &dyn Fn(&'static Field) -> bool) -> Option<bool> {
        match self {
            Predicate::All => Some(true),
            Predicate::Not(inner) => inner.decide(flow, known).map(|matches| !matches),
            Predicate::And(list) => decide_list(list, flow, known, false),
            Predicate::Or(list) => decide_list(list, flow, known, true),
            Predicate::Test(test) => known(test.field).then(|| test.matches(flow)),
        }
    }
}

/// One that is `decisive` decides; otherwise one that is unknown leaves it open.
fn decide_list(
    list: &[Predicate],
    flow: &StoredFlow,
    known: &dyn Fn(&'static Field) -> bool,
    decisive: bool,
) -> Option<bool> {
    let mut decided = Some(!decisive);
    for predicate in list {
        match predicate.decide(flow, known) {
            Some(matches) if matches == decisive => return Some(decisive),
            Some(_) => {}
            None => decided = None,
        }
    }
    decided
}

impl Test {
    fn of(comparison: &Comparison, now: UtcNs) -> Test {
        let operator = comparison.operator;
        let set = |terms: &[Term]| ValueSet::of(operator, terms, now);
        let wanted = match &comparison.operand {
            Operand::Exists => Wanted::Anything,
            Operand::One(term) => Wanted::OneOf(set(std::slice::from_ref(term))),
            Operand::AnyOf(terms) => Wanted::OneOf(set(terms)),
            Operand::AllOf(terms) => {
                Wanted::Each(terms.iter().map(|term| set(std::slice::from_ref(term))).collect())
            }
        };
        Test { field: comparison.field.0, negate: operator == Operator::NotEqual, wanted }
    }

    fn matches(&self, flow: &StoredFlow) -> bool {
        let found = match &self.wanted {
            Wanted::Anything => {
                let mut any = false;
                self.field.each(flow, &mut |_| any = true);
                any
            }
            Wanted::OneOf(set) => set.has_any(self.field, flow),
            Wanted::Each(sets) => sets.iter().all(|set| set.has_any(self.field, flow)),
        };
        found != self.negate
    }
}

impl ValueSet {
    /// The values that stand in `operator`'s relation to one of `terms`, which are of one kind.
    fn of(operator: Operator, terms: &[Term], now: UtcNs) -> ValueSet {
        match terms.first() {
            Some(Term::Ip(_)) | None => ValueSet::Ip(IpSet::of(operator, terms)),
            Some(Term::Integer(..)) => {
                let integers = terms.iter().filter_map(|term| match term {
                    Term::Integer(from, to) => related(
                        operator,
                        (*from, *to),
                        (0, u64::MAX),
                        |n| n.checked_sub(1),
                        |n| n.checked_add(1),
                    ),
                    _ => None,
                });
                ValueSet::Integer(Intervals::of(integers.collect()))
            }
            Some(Term::Text(_)) => ValueSet::Text(TextSet::of(terms.iter().filter_map(|term| match term {
                Term::Text(text) => Some(text),
                _ => None,
            }))),
            Some(Term::Time(_)) => {
                let times = terms.iter().filter_map(|term| match term {
                    Term::Time(time) => related(
                        operator,
                        time.interval(now),
                        (UtcNs::MIN, UtcNs::MAX),
                        |t| (t > UtcNs::MIN).then(|| t.saturating_add_ns(-1)),
                        |t| (t < UtcNs::MAX).then(|| t.saturating_add_ns(1)),
                    ),
                    _ => None,
                });
                ValueSet::Time(Intervals::of(times.collect()))
            }
            Some(Term::Bool(_)) => {
                ValueSet::Bool([false, true].map(|wanted| terms.contains(&Term::Bool(wanted))))
            }
        }
    }

    fn has_any(&self, field: &'static Field, flow: &StoredFlow) -> bool {
        let mut found = false;
        field.each(flow, &mut |value| found = found || self.has(&value));
        match self {
            ValueSet::Ip(set) if !found => set.has_end_of(field, &flow.record.key),
            _ => found,
        }
    }

    pub fn has(&self, value: &Value<'_>) -> bool {
        match (self, value) {
            (ValueSet::Ip(set), Value::Ip(ip)) => set.has(*ip),
            (ValueSet::Integer(set), Value::Integer(n)) => set.contains(*n),
            (ValueSet::Text(set), Value::Text(text)) => set.has(text),
            (ValueSet::Time(set), Value::Time(time)) => set.contains(*time),
            (ValueSet::Bool(set), Value::Bool(b)) => set[usize::from(*b)],
            // The field table says what kind a field is; a record that came with another has no such value.
            _ => false,
        }
    }
}

impl IpSet {
    fn of(operator: Operator, terms: &[Term]) -> IpSet {
        let mut set = IpSet::default();
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for term in terms {
            let Term::Ip(term) = term else { continue };
            let bounds = term.network.map(Network::bounds);
            match (term.port, bounds) {
                (Some(port), bounds) => set.with_port.push((bounds, port)),
                (None, Some((IpAddr::V4(from), IpAddr::V4(to)))) => v4.extend(related(
                    operator,
                    (from.to_bits(), to.to_bits()),
                    (0, u32::MAX),
                    |n| n.checked_sub(1),
                    |n| n.checked_add(1),
                )),
                (None, Some((IpAddr::V6(from), IpAddr::V6(to)))) => v6.extend(related(
                    operator,
                    (from.to_bits(), to.to_bits()),
                    (0, u128::MAX),
                    |n| n.checked_sub(1),
                    |n| n.checked_add(1),
                )),
                _ => {}
            }
        }
        IpSet { v4: Intervals::of(v4), v6: Intervals::of(v6), ..set }
    }

    fn has(&self, ip: IpAddr) -> bool {
        match ip {
            IpAddr::V4(v4) => self.v4.contains(v4.to_bits()),
            IpAddr::V6(v6) => self.v6.contains(v6.to_bits()),
        }
    }

    /// Whether an end of the flow that `field` speaks of is one of the `ip:port` wanted.
    fn has_end_of(&self, field: &Field, key: &FlowKey) -> bool {
        if self.with_port.is_empty() || !key.has_ports() {
            return false;
        }
        let src = (field.name != "ip.dst").then_some((key.orig_ip(), key.orig_port));
        let dst = (field.name != "ip.src").then_some((key.resp_ip(), key.resp_port));
        [src, dst].into_iter().flatten().any(|(ip, port)| {
            self.with_port.iter().any(|(bounds, wanted)| {
                *wanted == port
                    && bounds.is_none_or(|(from, to)| {
                        ip.is_some_and(|ip| same_family(ip, from) && (from..=to).contains(&ip))
                    })
            })
        })
    }
}

fn same_family(a: IpAddr, b: IpAddr) -> bool {
    a.is_ipv4() == b.is_ipv4()
}

#[cfg(test)]
mod tests {
    use gnomon_flow::FieldKind;

    use super::*;

    /// With every integer unknown.
    fn decided(text: &str) -> Option<bool> {
        let expression = crate::parse(text).unwrap_or_else(|error| panic!("{error}"));
        let known = |field: &Field| field.kind != FieldKind::Integer;
        Predicate::of(&expression, UtcNs::from_unix_ns(0)).decide(&flow(), &known)
    }

    fn flow() -> StoredFlow {
        use gnomon_flow::{Addresses, FlowRecord};
        let key = FlowKey {
            ethertype: 0x0800,
            protocol: 6,
            addresses: Addresses::V4 { orig: [10, 0, 0, 1], resp: [10, 0, 0, 2] },
            orig_port: 1,
            resp_port: 2,
            ..FlowKey::default()
        };
        StoredFlow { record: FlowRecord { key, ..FlowRecord::default() }, ..StoredFlow::default() }
    }

    #[test]
    fn what_is_unknown_decides_nothing_that_depends_on_it() {
        for (text, expected) in [
            ("port == 2", None),
            ("!(port == 2)", None),
            ("port != 2", None),
            ("ip == 10/8 && port == 2", None),
            ("ip == 11/8 && port == 2", Some(false)),
            ("ip == 10/8 || port == 2", Some(true)),
            ("ip == 11/8 || port == 2", None),
            ("!(ip == 11/8 && port == 2)", Some(true)),
            ("ip == 10/8 && protocol == tcp", Some(true)),
            ("", Some(true)),
        ] {
            assert_eq!(decided(text), expected, "{text}");
        }
    }
}
