//! An expression asked of a block: columns instead of records, entries of a dictionary instead of rows. What columns
//! cannot tell is left to be asked of whole records.

use std::net::IpAddr;

use gnomon_expression::{IpSet, Predicate, Test, TextSet, ValueSet, Wanted};
use gnomon_flow::field::{ATTRIBUTE_ID_FIRST, PROTOCOL_NAMES};
use gnomon_flow::{AttributeValue, Field, FieldId, FieldKind, Value};

use super::one_column::one_column;
use super::plan::Plan;
use super::values::{Codes, Values, attribute_value, values};
use crate::store::block::columns::{self, Way};
use crate::store::block::entries::Entries;
use crate::store::block::{Column, Dictionary, Summary, Token, address_token, network_token, text_token};
use crate::store::live::RowSet;
use crate::store::{Ends, Filter, Outline, Reader, StoreError};

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

    fn may_match_outline(&self, outline: &Outline) -> bool {
        may_match_outline(&self.predicate, outline)
    }

    fn reads_times(&self) -> bool {
        reads_times(&self.predicate)
    }
}

fn reads_times(predicate: &Predicate) -> bool {
    match predicate {
        Predicate::All => false,
        Predicate::Not(inner) => reads_times(inner),
        Predicate::And(list) | Predicate::Or(list) => list.iter().any(reads_times),
        Predicate::Test(test) => {
            test.field.kind == FieldKind::Time
                || test.field.name.starts_with("time.")
                || test.field.name == "node"
        }
    }
}

fn may_match_outline(predicate: &Predicate, outline: &Outline) -> bool {
    match predicate {
        Predicate::And(list) => list.iter().all(|p| may_match_outline(p, outline)),
        Predicate::Or(list) => list.iter().any(|p| may_match_outline(p, outline)),
        Predicate::All | Predicate::Not(_) => true,
        Predicate::Test(test) if test.negate => true,
        Predicate::Test(test) => match &test.wanted {
            Wanted::Anything => true,
            Wanted::OneOf(set) => may_have_outline(set, test.field.id, outline),
            Wanted::Each(sets) => sets.iter().all(|set| may_have_outline(set, test.field.id, outline)),
        },
    }
}

/// False only when no record with this outline has a value of the set.
fn may_have_outline(wanted: &ValueSet, field: FieldId, outline: &Outline) -> bool {
    match (wanted, field.0) {
        (ValueSet::Ip(set), 20..=22) if set.with_port.is_empty() => {
            let ends = match field.0 {
                20 => 0..2,
                21 => 0..1,
                _ => 1..2,
            };
            match outline.ends {
                Ends::V4(ips) => ips[ends].iter().any(|ip| set.v4.contains(*ip)),
                Ends::V6(halves) => halves[ends].iter().any(|half| {
                    let first = u128::from(*half) << 64;
                    set.v6.meets(first, first | u128::from(u64::MAX))
                }),
                Ends::Other => false,
            }
        }
        (ValueSet::Integer(set), 23) => outline.ports.iter().any(|port| set.contains((*port).into())),
        (ValueSet::Integer(set), 24) => set.contains(outline.ports[0].into()),
        (ValueSet::Integer(set), 25) => set.contains(outline.ports[1].into()),
        _ => true,
    }
}

/// What can be asked of a block.
trait OfBlock {
    /// False only when no record of the block can match.
    fn may_match(&self, summary: &Summary) -> bool;

    /// The rows of `among` that may match, and whether they all do.
    fn select(&self, block: &Reader, among: &RowSet) -> Result<(RowSet, bool), StoreError>;
}

impl OfBlock for Predicate {
    fn may_match(&self, summary: &Summary) -> bool {
        match self {
            Predicate::And(list) => list.iter().all(|p| p.may_match(summary)),
            Predicate::Or(list) => list.iter().any(|p| p.may_match(summary)),
            Predicate::Test(test) => test.may_match(summary),
            Predicate::All | Predicate::Not(_) => true,
        }
    }

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

impl OfBlock for Test {
    fn may_match(&self, summary: &Summary) -> bool {
        let id = self.field.id;
        if self.negate {
            return true;
        }
        match &self.wanted {
            Wanted::Anything => id.0 < ATTRIBUTE_ID_FIRST || summary.has(Column(id.0)),
            Wanted::OneOf(set) => may_be_in(set, id, summary),
            Wanted::Each(sets) => sets.iter().all(|set| may_be_in(set, id, summary)),
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
        // What has a dictionary is asked of its entries: they often tell that nothing here matches, and cost a fraction of
        // the codes.
        if !self.negate
            && let Some(columns) = dictionary_columns(self.field.id)
            && let [Some(set)] = sets[..]
        {
            let mut rows = RowSet::none(block.rows());
            let needle = if let ValueSet::Text(set) = set { set.needle() } else { None };
            for column in columns {
                if needle.and_then(|needle| block.may_have_text(column, needle)) == Some(false) {
                    continue;
                }
                let Some(entries) = block.entries(column)? else { continue };
                if needle.is_some() {
                    block.learn_texts(column, &entries);
                }
                let has = |entry: &[u8]| entry_value(self.field, entry).is_some_and(|value| set.has(&value));
                let few = match set {
                    ValueSet::Ip(ips) if self.field.id.0 < ATTRIBUTE_ID_FIRST => {
                        near_addresses(ips, &entries)
                    }
                    ValueSet::Text(set) => {
                        needle.or_else(|| only_text(set)).and_then(|text| entries.with_text(text))
                    }
                    _ => None,
                };
                let wanted: Vec<bool> = match few {
                    Some(few) if few.is_empty() => continue,
                    Some(few) => {
                        let mut wanted = vec![false; entries.len()];
                        few.into_iter().for_each(|code| wanted[code] = has(entries.get(code)));
                        wanted
                    }
                    None => entries.iter().map(has).collect(),
                };
                if wanted.contains(&true)
                    && let Some(dictionary) = block.dictionary(column)?
                {
                    rows.unite(&rows_of(&dictionary, &wanted, block.rows()));
                }
            }
            rows.intersect(among);
            return Ok((rows, true));
        }
        let mut rows = among.clone();
        let mut lists = None;
        for set in sets {
            if let Some(column) = one_column(self.field.id)
                && let Some(found) = column.rows(block, set)?
            {
                rows.intersect(&found);
                continue;
            }
            if lists.is_none() {
                lists = values(self.field, block)?;
            }
            let Some(lists) = &lists else { return unknown() };
            let mut found = RowSet::none(block.rows());
            for values in lists {
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

/// The columns whose entries are the field's values, where there are such.
fn dictionary_columns(field: FieldId) -> Option<Vec<Column>> {
    match field.0 {
        20 => Some(vec![columns::ORIG, columns::RESP]),
        21 => Some(vec![columns::ORIG]),
        22 => Some(vec![columns::RESP]),
        id if id >= ATTRIBUTE_ID_FIRST => Some(vec![Column(id)]),
        _ => None,
    }
}

/// The codes of all addresses that may be in a set, by the order of the entries; `None` where it has so many parts that a look at
/// each entry is no more work.
fn near_addresses(ips: &IpSet, entries: &Entries) -> Option<Vec<usize>> {
    const STEPS: usize = 32;
    let (v4, v6) = (ips.v4.list(), ips.v6.list());
    if (v4.len() + v6.len()) * STEPS > entries.len() {
        return None;
    }
    // Addresses of the other family may lie between two of one: they are `near`, too.
    let v4 = v4.iter().map(|(from, to)| entries.between(&from.to_be_bytes(), &to.to_be_bytes()));
    let v6 = v6.iter().map(|(from, to)| entries.between(&from.to_be_bytes(), &to.to_be_bytes()));
    Some(v4.chain(v6).flatten().collect())
}

/// The text, in lower case, that a set is, if it is one.
fn only_text(set: &TextSet) -> Option<&str> {
    let mut texts = set.exact_only()?;
    texts.next().filter(|_| texts.next().is_none())
}

/// The rows that have an entry that is wanted.
fn rows_of(dictionary: &Dictionary, wanted: &[bool], rows: usize) -> RowSet {
    let is = |code: &u32| wanted.get(*code as usize).copied().unwrap_or(false);
    match &dictionary.starts {
        None => RowSet::of(rows, |row| dictionary.codes.get(row).is_some_and(is)),
        Some(_) => RowSet::of(rows, |row| dictionary.of_row(row).iter().any(is)),
    }
}

fn entry_value<'e>(field: &Field, entry: &'e [u8]) -> Option<Value<'e>> {
    if field.id.0 < ATTRIBUTE_ID_FIRST {
        return columns::ip_of(entry).map(Value::Ip);
    }
    attribute_value(field, entry)
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
                    Codes::Dictionary(dictionary) => rows_of(dictionary, &wanted, rows),
                    Codes::Plain(codes) => RowSet::of(rows, |row| is(codes[row] as usize)),
                    Codes::None => RowSet::none(rows),
                }
            }
        }
    }
}

/// False only when no record of the block can have a value of the set.
fn may_be_in(wanted: &ValueSet, field: FieldId, summary: &Summary) -> bool {
    if field.0 >= ATTRIBUTE_ID_FIRST && !summary.has(Column(field.0)) {
        return false;
    }
    match wanted {
        ValueSet::Text(set) if field.0 >= ATTRIBUTE_ID_FIRST => set
            .exact_only()
            .is_none_or(|mut texts| texts.any(|text| summary.may_have_token(text_token(field.0, text)))),
        ValueSet::Ip(set) if (20..=22).contains(&field.0) => {
            may_have_tokens(set, &mut |token| summary.may_have_token(token))
        }
        ValueSet::Ip(set) if field.0 >= ATTRIBUTE_ID_FIRST => singles(set).is_none_or(|mut ips| {
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

/// Whether `has` says yes to a token that an address of the set would have.
fn may_have_tokens(set: &IpSet, has: &mut dyn FnMut(Token) -> bool) -> bool {
    if !set.with_port.is_empty() {
        return true;
    }
    let v4 = set.v4.list().iter().any(|(from, to)| {
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
    let v6 = set.v6.list().iter().any(|(from, to)| {
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
fn singles(set: &IpSet) -> Option<impl Iterator<Item = IpAddr>> {
    let few = set.v4.list().iter().all(|(a, b)| a == b) && set.v6.list().iter().all(|(a, b)| a == b);
    (few && set.with_port.is_empty()).then(|| {
        let v4 = set.v4.list().iter().map(|(ip, _)| IpAddr::V4((*ip).into()));
        v4.chain(set.v6.list().iter().map(|(ip, _)| IpAddr::V6((*ip).into())))
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use gnomon_clock::UtcNs;
    use proptest::prelude::*;

    use super::*;

    /// Of few different beginnings, so that addresses of both families lie between each other.
    fn address() -> impl Strategy<Value = IpAddr> {
        let byte = || 0..3u8;
        let v4 = (byte(), byte(), byte(), byte()).prop_map(|(a, b, c, d)| IpAddr::from([10 + a, b, c, d]));
        let v6 = (byte(), byte(), byte(), byte()).prop_map(|(a, b, c, d)| {
            let mut octets = [0; 16];
            (octets[0], octets[1], octets[2], octets[15]) = (10 + a, b, c, d);
            IpAddr::from(octets)
        });
        prop_oneof![v4, v6]
    }

    proptest! {
        #[test]
        fn every_address_of_a_set_is_near_it(
            all in prop::collection::btree_set(address(), 64..200), asked in address(), bits in 0..=32u8,
        ) {
            let bytes = |ip: &IpAddr| match ip {
                IpAddr::V4(v4) => v4.octets().to_vec(),
                IpAddr::V6(v6) => v6.octets().to_vec(),
            };
            let mut entries = Entries::default();
            all.iter().map(bytes).collect::<BTreeSet<_>>().iter().for_each(|entry| entries.push(entry));
            let expression = gnomon_expression::parse(&format!("ip.src == {asked}/{bits}")).unwrap();
            let Predicate::Test(Test { wanted: Wanted::OneOf(set), .. }) =
                Predicate::of(&expression, UtcNs::from_unix_ns(0))
            else {
                panic!("a test of one set")
            };
            let ValueSet::Ip(ips) = &set else { panic!("a set of addresses") };
            let near = near_addresses(ips, &entries).unwrap();
            for (code, entry) in entries.iter().enumerate() {
                let ip = columns::ip_of(entry).unwrap();
                prop_assert!(!set.has(&Value::Ip(ip)) || near.contains(&code), "{ip} of {asked}/{bits}");
            }
        }
    }
}
