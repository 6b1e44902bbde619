//! Hunts: questions whose answer is a ranking of suspects, each with what speaks against it. `docs/hunts.md` says how each
//! decides; a test holds the parameters there to those here.

mod http_flood;
mod ntp_monlist;
mod rows;
mod scan;
mod sieve;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::Arc;

use gnomon_clock::UtcNs;
use gnomon_expression::{
    Comparison, Expression, FieldRef, IpTerm, Network, Operand, Operator, Term, TextTerm, field_hint, parse,
};
use gnomon_flow::{Field, field};

use super::control::Control;
use super::counters::Operation;
use super::execute::{Queries, QueryError, TimeRange, joined, limit_or};
use super::memory::{Charge, Question};
use super::selection::Selection;
use crate::store::block::bloom::Mixing;

/// Findings unless the caller says otherwise.
const FINDINGS_DEFAULT: u32 = 20;
/// Findings at most.
const FINDINGS_MAX: u32 = 1000;

/// A hunt as callers see it.
#[derive(Debug)]
pub struct HuntKind {
    pub name: &'static str,
    pub doc: &'static str,
    pub parameters: &'static [HuntParameter],
    run: fn(&Ask, &Control) -> Result<Found, QueryError>,
}

/// A number that a hunt goes by.
#[derive(Debug)]
pub struct HuntParameter {
    pub name: &'static str,
    pub default: u64,
    pub min: u64,
    pub max: u64,
    pub doc: &'static str,
}

const fn parameter(
    name: &'static str,
    default: u64,
    (min, max): (u64, u64),
    doc: &'static str,
) -> HuntParameter {
    HuntParameter { name, default, min, max, doc }
}

/// Every hunt.
pub static HUNTS: &[HuntKind] = &[scan::KIND, ntp_monlist::KIND, http_flood::KIND];

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hunt {
    pub name: String,
    /// Only flows that match are looked at.
    pub expression: String,
    pub range: TimeRange,
    /// By name; those not named have their defaults.
    pub parameters: Vec<(String, u64)>,
    /// 0: 20; at most 1000.
    pub limit: u32,
}

#[derive(Clone, Debug, PartialEq)]
pub struct HuntAnswer {
    /// The worst first. Those of one hunt have the same evidence by name.
    pub findings: Vec<HuntFinding>,
    /// Findings beyond the limit.
    pub others: u64,
    pub partial: Option<String>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct HuntFinding {
    /// Compares findings of one answer, and means nothing else.
    pub score: f64,
    /// Which of the things the hunt looks for.
    pub what: &'static str,
    pub evidence: Vec<(&'static str, Evidence)>,
    /// Finds the flows behind it.
    pub expression: String,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Evidence {
    Text(String),
    Number(u64),
    Ratio(f64),
    Time(UtcNs),
    /// Says nothing here.
    None,
}

impl From<Option<UtcNs>> for Evidence {
    fn from(at: Option<UtcNs>) -> Evidence {
        at.map_or(Evidence::None, Evidence::Time)
    }
}

/// What a hunt found, in no order.
#[derive(Debug, Default)]
struct Found {
    findings: Vec<HuntFinding>,
    partial: Vec<String>,
}

impl Queries {
    /// Go hunting.
    ///
    /// # Errors
    /// See [`QueryError`].
    pub async fn hunt(&self, hunt: Hunt) -> Result<HuntAnswer, QueryError> {
        let limit = limit_or("limit", hunt.limit, FINDINGS_DEFAULT, FINDINGS_MAX)?;
        let kind = HUNTS.iter().find(|kind| kind.name == hunt.name).ok_or_else(|| {
            let names: Vec<&str> = HUNTS.iter().map(|kind| kind.name).collect();
            QueryError::invalid("name", format!("there is no such hunt; there are {}", names.join(", ")))
        })?;
        let ask = Ask {
            queries: self.clone(),
            expression: parse(&hunt.expression)?,
            range: hunt.range,
            parameters: kind.read(&hunt.parameters)?,
        };
        // What can be refused is refused before a thread is taken.
        ask.selection("")?;
        self.run_for(Operation::Hunt, self.limits.hunt_deadline_ms, move |control| {
            let Found { mut findings, partial } = (kind.run)(&ask, &control)?;
            findings
                .sort_by(|a, b| b.score.total_cmp(&a.score).then_with(|| a.expression.cmp(&b.expression)));
            let others = findings.len().saturating_sub(limit) as u64;
            findings.truncate(limit);
            Ok(HuntAnswer { findings, others, partial: joined(&partial) })
        })
        .await
    }
}

impl HuntKind {
    fn read(&self, given: &[(String, u64)]) -> Result<HashMap<&'static str, u64>, QueryError> {
        let mut values: HashMap<&'static str, u64> =
            self.parameters.iter().map(|parameter| (parameter.name, parameter.default)).collect();
        for (name, value) in given {
            let parameter = self.parameters.iter().find(|parameter| parameter.name == name);
            let parameter = parameter.ok_or_else(|| {
                let known: Vec<&str> = self.parameters.iter().map(|parameter| parameter.name).collect();
                let problem = format!("{} has no {name:?}; it has {}", self.name, known.join(", "));
                QueryError::invalid("parameters", problem)
            })?;
            if !(parameter.min..=parameter.max).contains(value) {
                let problem =
                    format!("{name} is {value}, not between {} and {}", parameter.min, parameter.max);
                return Err(QueryError::invalid("parameters", problem));
            }
            values.insert(parameter.name, *value);
        }
        Ok(values)
    }
}

/// What a hunt is asked.
struct Ask {
    queries: Queries,
    expression: Expression,
    range: TimeRange,
    parameters: HashMap<&'static str, u64>,
}

impl Ask {
    fn number(&self, name: &str) -> u64 {
        self.parameters.get(name).copied().unwrap_or(0)
    }

    /// The flows that match what the caller and `hunt` want.
    fn selection(&self, hunt: &str) -> Result<Selection, QueryError> {
        self.selection_of(parse(hunt)?)
    }

    fn selection_of(&self, hunt: Expression) -> Result<Selection, QueryError> {
        let both = match (self.expression.clone(), hunt) {
            (Expression::All, one) | (one, Expression::All) => one,
            (caller, hunt) => Expression::And(vec![caller, hunt]),
        };
        self.queries.selection_of(&both, self.range)
    }
}

fn of_field(name: &str) -> Option<&'static Field> {
    let found = field::by_name(name);
    debug_assert!(found.is_some(), "{name} {}", field_hint(name));
    found
}

/// `name == [terms]`.
fn is_one_of(name: &str, terms: Vec<Term>) -> Expression {
    let Some(field) = of_field(name) else { return Expression::All };
    let operand = match <[Term; 1]>::try_from(terms) {
        Ok([one]) => Operand::One(one),
        Err(terms) => Operand::AnyOf(terms),
    };
    Expression::Compare(Comparison { field: FieldRef(field), operator: Operator::Equal, operand })
}

fn ip_term(ip: IpAddr) -> Term {
    let bits = if ip.is_ipv4() { 32 } else { 128 };
    Term::Ip(IpTerm { network: Network::new(ip, bits), port: None })
}

fn text_term(text: &str) -> Term {
    Term::Text(TextTerm::Exact(text.to_owned()))
}

/// So that a score is as long as it is good.
fn rounded(score: f64) -> f64 {
    (score * 100.0).round() / 100.0
}

/// Counts by key, in bounded memory: when there are too many keys, those with the smallest counts go. What goes had at
/// most `missed` (Manku and Motwani 2002 call it lossy counting).
#[derive(Debug)]
struct Suspects<K, V> {
    by_key: HashMap<K, V, Mixing>,
    missed: u64,
    text_bytes: usize,
    charge: Charge,
}

/// What a suspect is known by.
trait Key: Hash + Eq {
    /// What it takes beside itself.
    fn text_bytes(&self) -> usize {
        0
    }
}

/// With room for fewer, a hunt makes no sense.
const SUSPECTS_MIN: usize = 1_000;
/// Keys that one thread keeps.
const SUSPECTS_MAX: usize = 300_000;

/// What is known of a suspect.
trait Record: Default {
    /// How often it was seen.
    fn seen(&self) -> u64;
    fn merge(&mut self, other: Self);
}

impl<K, V> Default for Suspects<K, V> {
    fn default() -> Suspects<K, V> {
        Suspects { by_key: HashMap::default(), missed: 0, text_bytes: 0, charge: Charge::default() }
    }
}

impl<K: Key, V: Record> Suspects<K, V> {
    fn of(&mut self, key: K) -> &mut V {
        if self.by_key.len() >= SUSPECTS_MAX && !self.by_key.contains_key(&key) {
            self.shrink();
        }
        self.by_key.entry(key).or_insert_with_key(|key| {
            self.text_bytes += key.text_bytes();
            V::default()
        })
    }

    fn shrink(&mut self) {
        let mut all: Vec<u64> = self.by_key.values().map(V::seen).collect();
        let middle = all.len() / 2;
        let median = *all.select_nth_unstable(middle).1;
        self.by_key.retain(|_, record| record.seen() > median);
        self.text_bytes = self.by_key.keys().map(Key::text_bytes).sum();
        self.missed += median;
    }

    /// Asks for the memory that they take; where there is no room for it, half of them go.
    fn bound(&mut self, memory: &Arc<Question>) {
        let bytes = |capacity: usize| capacity * (size_of::<(K, V)>() + 1);
        while !self.charge.resize(memory, bytes(self.by_key.capacity()) + self.text_bytes) {
            if self.by_key.len() < SUSPECTS_MIN {
                return memory.refuse();
            }
            self.shrink();
            self.by_key.shrink_to_fit();
        }
    }

    fn all(parts: Vec<Suspects<K, V>>, memory: &Arc<Question>) -> Suspects<K, V> {
        let mut parts = parts.into_iter();
        let mut all = parts.next().unwrap_or_default();
        for part in parts {
            all.missed += part.missed;
            for (key, record) in part.by_key {
                all.of(key).merge(record);
            }
            all.bound(memory);
        }
        all
    }

    /// Says so where a suspect that counts may have gone.
    fn partial(&self, what: &str, least: u64) -> Option<String> {
        (self.missed >= least).then(|| {
            format!(
                "there are too many {what} to keep all: one seen {} times or less may be missing; ask for a shorter time range",
                self.missed
            )
        })
    }
}
