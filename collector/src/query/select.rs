//! An expression asked of a block: columns instead of records, entries of a dictionary instead of rows. What columns
//! cannot tell is left to be asked of whole records.

use std::net::IpAddr;
use std::rc::Rc;

use gnomon_flow::field::{ATTRIBUTE_ID_FIRST, PROTOCOL_NAMES, protocol_name};
use gnomon_flow::{
    AttributeValue, DecodeProblem, Field, FieldId, FieldKind, FlowEndReason, FlowKey, TcpState, TimeState,
    Value,
};

use super::plan::{IpSet, Plan, Predicate, Test, ValueSet, Wanted};
use crate::store::block::columns::{self, Way};
use crate::store::block::{Column, Dictionary, Summary, Token, address_token, network_token, text_token};
use crate::store::live::RowSet;
use crate::store::{Filter, Reader, StoreError};

/// The values of a field in a block.
pub(super) enum Values {
    /// A number a row; rows outside `present` have none.
    Integers { values: Rc<Vec<u64>>, present: Option<RowSet> },
    /// Codes of values, by row.
    Coded { entries: Vec<Option<Value<'static>>>, codes: Codes },
}

pub(super) enum Codes {
    Dictionary(Rc<Dictionary>),
    /// A code a row, as many different ones as there are entries.
    Plain(Rc<Vec<u64>>),
    /// No row has any.
    None,
}

impl Codes {
    pub(super) fn each(&self, row: usize, mut each: impl FnMut(usize)) {
        match self {
            Codes::Dictionary(dictionary) => {
                dictionary.of_row(row).iter().for_each(|code| each(*code as usize));
            }
            Codes::Plain(codes) => each(codes.get(row).copied().unwrap_or(0) as usize),
            Codes::None => {}
        }
    }
}

/// The values of `field`, one list for each field it stands for; `None` when columns do not tell.
pub(super) fn values(field: &Field, block: &Reader) -> Result<Option<Vec<Values>>, StoreError> {
    let one = |values: Values| Ok(Some(vec![values]));
    let plain = |column: Column| -> Result<Values, StoreError> {
        Ok(Values::Integers { values: block.integers(column)?, present: None })
    };
    let both = |of: fn(Way) -> Column| -> Result<Rc<Vec<u64>>, StoreError> {
        let orig = block.integers(of(Way(columns::ORIG_WAY)))?;
        let resp = block.integers(of(Way(columns::RESP_WAY)))?;
        Ok(Rc::new(orig.iter().zip(&*resp).map(|(a, b)| a.saturating_add(*b)).collect()))
    };
    let ip_bytes = |way: Way| -> Result<Vec<u64>, StoreError> {
        let (bytes, link) = (block.integers(way.bytes())?, block.integers(way.link_bytes())?);
        Ok(bytes.iter().zip(&*link).map(|(a, b)| a.wrapping_sub(*b)).collect())
    };
    let data_bytes = |way: Way| -> Result<Vec<u64>, StoreError> {
        let (ip, header) = (ip_bytes(way)?, block.integers(way.header_bytes())?);
        Ok(ip.iter().zip(&*header).map(|(a, b)| a.wrapping_sub(*b)).collect())
    };
    let sum =
        |a: Vec<u64>, b: Vec<u64>| Rc::new(a.iter().zip(&b).map(|(a, b)| a.saturating_add(*b)).collect());
    let whole = |values: Rc<Vec<u64>>| one(Values::Integers { values, present: None });
    let (orig, resp) = (Way(columns::ORIG_WAY), Way(columns::RESP_WAY));
    // The numbers of the field table.
    match field.id.0 {
        id if id >= ATTRIBUTE_ID_FIRST => one(attribute(block, Column(id))?),
        2..=5 => one(by_source(block, field)?),
        14 if !block.block().held => {
            let entries = vec![Some(Value::Text(TimeState::Indexed.name().into()))];
            one(Values::Coded { entries, codes: Codes::Plain(Rc::new(vec![0; block.rows()])) })
        }
        20 => Ok(Some(vec![ips(block, columns::ORIG)?, ips(block, columns::RESP)?])),
        21 => one(ips(block, columns::ORIG)?),
        22 => one(ips(block, columns::RESP)?),
        23 => Ok(Some(vec![ports(block, columns::ORIG_PORT)?, ports(block, columns::RESP_PORT)?])),
        24 => one(ports(block, columns::ORIG_PORT)?),
        25 => one(ports(block, columns::RESP_PORT)?),
        26 => one(protocols(block)?),
        28 => one(plain(columns::ETHERTYPE)?),
        40 => whole(both(Way::packets)?),
        41 => one(plain(orig.packets())?),
        42 => one(plain(resp.packets())?),
        43 => whole(both(Way::bytes)?),
        44 => one(plain(orig.bytes())?),
        45 => one(plain(resp.bytes())?),
        46 => whole(sum(ip_bytes(orig)?, ip_bytes(resp)?)),
        47 => whole(Rc::new(ip_bytes(orig)?)),
        48 => whole(Rc::new(ip_bytes(resp)?)),
        49 => whole(sum(data_bytes(orig)?, data_bytes(resp)?)),
        50 => whole(Rc::new(data_bytes(orig)?)),
        51 => whole(Rc::new(data_bytes(resp)?)),
        52 => whole(both(Way::fragments)?),
        60..=67 => {
            let values = block.integers(Column(columns::TCP_FLAGS + field.id.0 - 60))?;
            one(Values::Integers { values, present: Some(tcp(block)?) })
        }
        68 => {
            let values = block.integers(columns::SYN_ACK)?;
            one(Values::Integers { values, present: Some(tcp(block)?) })
        }
        69 => one(named(block, columns::TCP_STATE, None, &TcpState::ALL, TcpState::name)?),
        81 => one(plain(columns::SEGMENT)?),
        82 => one(named(block, columns::END, Some("open"), &FlowEndReason::ALL, FlowEndReason::name)?),
        84 => one(named(block, columns::PROBLEM, None, &DecodeProblem::ALL, DecodeProblem::name)?),
        85 => one(plain(columns::SLICED_PACKETS)?),
        86 => one(plain(columns::SLICED_BYTES)?),
        _ => Ok(None),
    }
}

fn attribute(block: &Reader, column: Column) -> Result<Values, StoreError> {
    let Some(dictionary) = block.dictionary(column, true)? else {
        return Ok(Values::Coded { entries: Vec::new(), codes: Codes::None });
    };
    let entries = dictionary.entries().map(|entry| columns::value_of(entry).map(value_of)).collect();
    Ok(Values::Coded { entries, codes: Codes::Dictionary(dictionary) })
}

fn value_of(value: AttributeValue) -> Value<'static> {
    match value {
        AttributeValue::Integer(n) => Value::Integer(n),
        AttributeValue::Text(text) => Value::Text(text.into()),
        AttributeValue::Ip(ip) => Value::Ip(ip),
    }
}

fn ips(block: &Reader, column: Column) -> Result<Values, StoreError> {
    let Some(dictionary) = block.dictionary(column, true)? else {
        return Ok(Values::Coded { entries: Vec::new(), codes: Codes::None });
    };
    let entries = dictionary.entries().map(|entry| columns::ip_of(entry).map(Value::Ip)).collect();
    Ok(Values::Coded { entries, codes: Codes::Dictionary(dictionary) })
}

/// Node, interface, epoch: what all records of a source share.
fn by_source(block: &Reader, field: &Field) -> Result<Values, StoreError> {
    let mut entries = Vec::new();
    for place in 0..block.summary().sources.len() {
        let flow = block.flow_of_source(place)?;
        entries.push(field.first(&flow));
    }
    Ok(Values::Coded { entries, codes: Codes::Plain(block.integers(columns::SOURCE)?) })
}

fn ports(block: &Reader, column: Column) -> Result<Values, StoreError> {
    let values = block.integers(column)?;
    let protocols = block.integers(columns::PROTOCOL)?;
    let has = |protocol: u64| FlowKey { protocol: protocol as u8, ..NO_KEY }.has_ports();
    let (min, max) = block.summary().range(columns::PROTOCOL);
    let present = (!(min == max && has(min)))
        .then(|| RowSet::of(block.rows(), |row| has(protocols.get(row).copied().unwrap_or(0))));
    Ok(Values::Integers { values, present })
}

const NO_KEY: FlowKey = FlowKey {
    vlan: [0; 2],
    ethertype: 0,
    protocol: 0,
    addresses: gnomon_flow::Addresses::None,
    orig_port: 0,
    resp_port: 0,
};

fn protocols(block: &Reader) -> Result<Values, StoreError> {
    let (ethertypes, protocols) = (block.integers(columns::ETHERTYPE)?, block.integers(columns::PROTOCOL)?);
    let mut pairs: Vec<(u64, u64)> = Vec::new();
    let mut codes = Vec::with_capacity(block.rows());
    let mut last = ((u64::MAX, 0), 0u64);
    for pair in ethertypes.iter().copied().zip(protocols.iter().copied()) {
        if pair != last.0 {
            let at = pairs.iter().position(|known| *known == pair).unwrap_or_else(|| {
                pairs.push(pair);
                pairs.len() - 1
            });
            last = (pair, at as u64);
        }
        codes.push(last.1);
    }
    let name = |(ethertype, protocol): (u64, u64)| {
        let key = FlowKey { ethertype: ethertype as u16, protocol: protocol as u8, ..NO_KEY };
        Some(Value::Text(protocol_name(&key)))
    };
    let entries = pairs.into_iter().map(name).collect();
    Ok(Values::Coded { entries, codes: Codes::Plain(Rc::new(codes)) })
}

fn tcp(block: &Reader) -> Result<RowSet, StoreError> {
    let states = block.integers(columns::TCP_STATE)?;
    Ok(RowSet::of(block.rows(), |row| states.get(row).copied().unwrap_or(0) != 0))
}

/// A column of 1 + the place in `all`; 0 is `zero`.
fn named<T: Copy>(
    block: &Reader,
    column: Column,
    zero: Option<&'static str>,
    all: &[T],
    name: fn(T) -> &'static str,
) -> Result<Values, StoreError> {
    let text = |name: &'static str| Value::Text(name.into());
    let entries =
        std::iter::once(zero.map(text)).chain(all.iter().map(|one| Some(text(name(*one))))).collect();
    Ok(Values::Coded { entries, codes: Codes::Plain(block.integers(column)?) })
}

impl Filter for Plan {
    fn may_match(&self, summary: &Summary) -> bool {
        self.predicate.may_match(summary)
    }

    fn select(&self, block: &Reader) -> Result<(RowSet, bool), StoreError> {
        self.predicate.select(block, &block.alive())
    }

    fn matches(&self, flow: &gnomon_flow::StoredFlow) -> bool {
        Plan::matches(self, flow)
    }

    fn reads_times(&self) -> bool {
        self.predicate.reads_times()
    }
}

impl Predicate {
    fn reads_times(&self) -> bool {
        match self {
            Predicate::All => false,
            Predicate::Not(inner) => inner.reads_times(),
            Predicate::And(list) | Predicate::Or(list) => list.iter().any(Predicate::reads_times),
            Predicate::Test(test) => {
                test.field.kind == FieldKind::Time
                    || test.field.name.starts_with("time.")
                    || test.field.name == "node"
            }
        }
    }

    fn may_match(&self, summary: &Summary) -> bool {
        match self {
            Predicate::And(list) => list.iter().all(|p| p.may_match(summary)),
            Predicate::Or(list) => list.iter().any(|p| p.may_match(summary)),
            Predicate::Test(test) => test.may_match(summary),
            Predicate::All | Predicate::Not(_) => true,
        }
    }

    /// The rows of `among` that may match, and whether they all do.
    fn select(&self, block: &Reader, among: &RowSet) -> Result<(RowSet, bool), StoreError> {
        match self {
            Predicate::All => Ok((among.clone(), true)),
            Predicate::Not(inner) => {
                let (rows, exact) = inner.select(block, among)?;
                let mut rest = among.clone();
                if exact {
                    rest.remove(&rows);
                }
                Ok((rest, exact))
            }
            Predicate::And(list) => {
                let (mut rows, mut all_exact) = (among.clone(), true);
                for predicate in list {
                    if rows.is_empty() {
                        return Ok((rows, true));
                    }
                    let (of_one, exact) = predicate.select(block, &rows)?;
                    rows = of_one;
                    all_exact &= exact;
                }
                Ok((rows, all_exact))
            }
            Predicate::Or(list) => {
                let (mut rows, mut all_exact) = (RowSet::none(block.rows()), true);
                for predicate in list {
                    let (of_one, exact) = predicate.select(block, among)?;
                    rows.unite(&of_one);
                    all_exact &= exact;
                }
                Ok((rows, all_exact))
            }
            Predicate::Test(test) => test.select(block, among),
        }
    }
}

impl Test {
    /// False only when no record of the block can match.
    fn may_match(&self, summary: &Summary) -> bool {
        let id = self.field.id;
        if self.negate {
            return true;
        }
        match &self.wanted {
            Wanted::Anything => id.0 < ATTRIBUTE_ID_FIRST || summary.has(Column(id.0)),
            Wanted::OneOf(set) => set.may_be_in(id, summary),
            Wanted::Each(sets) => sets.iter().all(|set| set.may_be_in(id, summary)),
        }
    }

    fn select(&self, block: &Reader, among: &RowSet) -> Result<(RowSet, bool), StoreError> {
        let unknown = || Ok((among.clone(), false));
        let sets: Vec<Option<&ValueSet>> = match &self.wanted {
            Wanted::Anything => vec![None],
            Wanted::OneOf(set) => vec![Some(set)],
            Wanted::Each(sets) => sets.iter().map(Some).collect(),
        };
        if sets.iter().flatten().any(|set| matches!(set, ValueSet::Ip(ips) if !ips.with_port.is_empty())) {
            return unknown();
        }
        // The entries alone often tell that nothing here matches, and cost a fraction of the codes.
        if !self.negate
            && let Some(column) = dictionary_column(self.field.id)
            && let [Some(set)] = sets[..]
        {
            let Some(entries) = block.dictionary(column, false)? else {
                return Ok((RowSet::none(block.rows()), true));
            };
            let has = |entry: &[u8]| entry_value(column, entry).is_some_and(|value| set.has(&value));
            if !entries.entries().any(has) {
                return Ok((RowSet::none(block.rows()), true));
            }
        }
        let Some(lists) = values(self.field, block)? else { return unknown() };
        let mut rows = among.clone();
        for set in sets {
            let mut found = RowSet::none(block.rows());
            for values in &lists {
                found.unite(&values.rows(set, among, block.rows()));
            }
            rows.intersect(&found);
        }
        if self.negate {
            let mut rest = among.clone();
            rest.remove(&rows);
            rows = rest;
        }
        Ok((rows, true))
    }
}

/// The column whose entries are the field's values, where there is one.
fn dictionary_column(field: FieldId) -> Option<Column> {
    match field.0 {
        21 => Some(columns::ORIG),
        22 => Some(columns::RESP),
        id if id >= ATTRIBUTE_ID_FIRST => Some(Column(id)),
        _ => None,
    }
}

fn entry_value(column: Column, entry: &[u8]) -> Option<Value<'_>> {
    if column.0 < ATTRIBUTE_ID_FIRST {
        return columns::ip_of(entry).map(Value::Ip);
    }
    columns::borrowed_value(entry)
}

impl Values {
    /// The rows that have a value in `set`, or any at all.
    fn rows(&self, set: Option<&ValueSet>, among: &RowSet, rows: usize) -> RowSet {
        match self {
            Values::Integers { values, present } => {
                let mut found = match set {
                    None => among.clone(),
                    Some(ValueSet::Integer(set)) => {
                        // Most questions have one interval: then it is two comparisons a row.
                        match set.single() {
                            Some((from, to)) => RowSet::of(rows, |row| (from..=to).contains(&values[row])),
                            None => RowSet::of(rows, |row| set.contains(values[row])),
                        }
                    }
                    Some(_) => RowSet::none(rows),
                };
                if let Some(present) = present {
                    found.intersect(present);
                }
                found
            }
            Values::Coded { entries, codes } => {
                let wanted: Vec<bool> = entries
                    .iter()
                    .map(|entry| entry.as_ref().is_some_and(|value| set.is_none_or(|set| set.has(value))))
                    .collect();
                if !wanted.contains(&true) {
                    return RowSet::none(rows);
                }
                let is = |code: usize| wanted.get(code).copied().unwrap_or(false);
                match codes {
                    Codes::Dictionary(dictionary) if dictionary.starts.is_none() => {
                        RowSet::of(rows, |row| is(dictionary.codes[row] as usize))
                    }
                    Codes::Dictionary(dictionary) => {
                        RowSet::of(rows, |row| dictionary.of_row(row).iter().any(|code| is(*code as usize)))
                    }
                    Codes::Plain(codes) => RowSet::of(rows, |row| is(codes[row] as usize)),
                    Codes::None => RowSet::none(rows),
                }
            }
        }
    }
}

impl ValueSet {
    fn may_be_in(&self, field: FieldId, summary: &Summary) -> bool {
        if field.0 >= ATTRIBUTE_ID_FIRST && !summary.has(Column(field.0)) {
            return false;
        }
        match self {
            ValueSet::Text(set) if field.0 >= ATTRIBUTE_ID_FIRST => set
                .exact_only()
                .is_none_or(|mut texts| texts.any(|text| summary.may_have_token(text_token(field.0, text)))),
            ValueSet::Ip(set) if (20..=22).contains(&field.0) => {
                set.tokens(&mut |token| summary.may_have_token(token))
            }
            ValueSet::Ip(set) if field.0 >= ATTRIBUTE_ID_FIRST => set.singles().is_none_or(|mut ips| {
                ips.any(|ip| {
                    let mut bytes = Vec::new();
                    columns::value_bytes(&AttributeValue::Ip(ip), &mut bytes);
                    summary.may_have_token(Token::new(field.0, &bytes))
                })
            }),
            ValueSet::Integer(set) => {
                let range = |column: Column| summary.range(column);
                let meets = |(min, max): (u64, u64)| set.meets(min, max);
                let (orig, resp) = (Way(columns::ORIG_WAY), Way(columns::RESP_WAY));
                let sum = |a: (u64, u64), b: (u64, u64)| (a.0.saturating_add(b.0), a.1.saturating_add(b.1));
                match field.0 {
                    23 => meets(range(columns::ORIG_PORT)) || meets(range(columns::RESP_PORT)),
                    24 => meets(range(columns::ORIG_PORT)),
                    25 => meets(range(columns::RESP_PORT)),
                    28 => meets(range(columns::ETHERTYPE)),
                    40 => meets(sum(range(orig.packets()), range(resp.packets()))),
                    41 => meets(range(orig.packets())),
                    42 => meets(range(resp.packets())),
                    43 => meets(sum(range(orig.bytes()), range(resp.bytes()))),
                    44 => meets(range(orig.bytes())),
                    45 => meets(range(resp.bytes())),
                    _ => true,
                }
            }
            // By name, where the names are a closed table.
            ValueSet::Text(set) if field.0 == 26 => {
                let (min, max) = summary.range(columns::PROTOCOL);
                set.exact_only().is_none_or(|mut names| {
                    names.any(|name| {
                        PROTOCOL_NAMES
                            .iter()
                            .find(|(_, known)| *known == name)
                            .is_none_or(|(number, _)| (min..=max).contains(&u64::from(*number)))
                    })
                })
            }
            _ => true,
        }
    }
}

impl IpSet {
    /// Whether `has` says yes to a token that an address of the set would have.
    fn tokens(&self, has: &mut dyn FnMut(Token) -> bool) -> bool {
        if !self.with_port.is_empty() {
            return true;
        }
        let v4 = self.v4.list().iter().any(|(from, to)| {
            if from == to {
                has(address_token(&from.to_be_bytes()))
            } else if from >> 8 == to >> 8 {
                has(network_token(&from.to_be_bytes()[..3]))
            } else if from >> 16 == to >> 16 {
                has(network_token(&from.to_be_bytes()[..2]))
            } else {
                true
            }
        });
        let v6 = self.v6.list().iter().any(|(from, to)| {
            if from == to {
                return has(address_token(&from.to_be_bytes()));
            }
            let same = |bits: u32| from >> (128 - bits) == to >> (128 - bits);
            match [64u32, 48, 32].into_iter().find(|bits| same(*bits)) {
                Some(bits) => has(network_token(&from.to_be_bytes()[..bits as usize / 8])),
                None => true,
            }
        });
        v4 || v6
    }

    /// The addresses, when the set is just those.
    fn singles(&self) -> Option<impl Iterator<Item = IpAddr>> {
        let few = self.v4.list().iter().all(|(a, b)| a == b) && self.v6.list().iter().all(|(a, b)| a == b);
        (few && self.with_port.is_empty()).then(|| {
            let v4 = self.v4.list().iter().map(|(ip, _)| IpAddr::V4((*ip).into()));
            v4.chain(self.v6.list().iter().map(|(ip, _)| IpAddr::V6((*ip).into())))
        })
    }
}
