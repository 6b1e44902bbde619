//! What a field's values are in a block: numbers by row, or codes of values.

use std::rc::Rc;

use gnomon_clock::UtcNs;
use gnomon_flow::field::{ATTRIBUTE_ID_FIRST, OUTER_IP_DST, OUTER_IP_SRC, OUTER_MAC_DST, OUTER_MAC_SRC};
use gnomon_flow::field::{TCP_FLAG_NAMES, mac_text, protocol_name};
use gnomon_flow::{
    DecodeProblem, Field, FieldId, FieldKind, FlowEndReason, FlowKey, TcpState, TimeState, Value, field,
};

use super::one_column::{one_column, with_ports};
use crate::store::block::columns::{self, Way};
use crate::store::block::{Column, Dictionary};
use crate::store::live::RowSet;
use crate::store::{Reader, StoreError};

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
    let both = |of: fn(Way) -> Column| -> Result<Rc<Vec<u64>>, StoreError> {
        block.sums(of(Way(columns::ORIG_WAY)), of(Way(columns::RESP_WAY)))
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
    if let Some((column, entries)) = names(field.id) {
        return one(Values::Coded { entries, codes: Codes::Plain(block.integers(column)?) });
    }
    if let Some(column) = one_column(field.id) {
        return one(column.values(block)?);
    }
    // The numbers of the field table.
    match field.id.0 {
        id if id >= ATTRIBUTE_ID_FIRST => one(attribute(block, field)?),
        _ if of_source(field) => one(by_source(block, field)?),
        14 if !block.block().held() => {
            let entries = vec![Some(Value::Text(TimeState::Indexed.name().into()))];
            one(Values::Coded { entries, codes: Codes::Plain(Rc::new(vec![0; block.rows()])) })
        }
        17 if !block.block().held() => one(Values::Coded { entries: Vec::new(), codes: Codes::None }),
        20 => Ok(Some(vec![ips(block, columns::ORIG)?, ips(block, columns::RESP)?])),
        21 => one(ips(block, columns::ORIG)?),
        22 => one(ips(block, columns::RESP)?),
        23 => Ok(Some(vec![ports(block, columns::ORIG_PORT)?, ports(block, columns::RESP_PORT)?])),
        26 => one(protocols(block)?),
        27 => one(protocol_numbers(block)?),
        29 => Ok(Some(vec![above(block, columns::VLAN_OUTER, 0)?, above(block, columns::VLAN_INNER, 0)?])),
        30 => {
            Ok(Some(vec![macs(block, columns::ORIG, orig.mac())?, macs(block, columns::RESP, resp.mac())?]))
        }
        31 => one(macs(block, columns::ORIG, orig.mac())?),
        32 => one(macs(block, columns::RESP, resp.mac())?),
        40 => whole(both(Way::packets)?),
        43 => whole(both(Way::bytes)?),
        46 => whole(sum(ip_bytes(orig)?, ip_bytes(resp)?)),
        47 => whole(Rc::new(ip_bytes(orig)?)),
        48 => whole(Rc::new(ip_bytes(resp)?)),
        49 => whole(sum(data_bytes(orig)?, data_bytes(resp)?)),
        50 => whole(Rc::new(data_bytes(orig)?)),
        51 => whole(Rc::new(data_bytes(resp)?)),
        52 => whole(both(Way::fragments)?),
        72 => one(mapped(above(block, columns::ICMP, 1)?, |icmp| icmp >> 8 & 0xff)),
        73 => one(mapped(above(block, columns::ICMP, 1)?, |icmp| icmp & 0xff)),
        74 => Ok(Some(side_flags(block, 0)?)),
        75 => Ok(Some(side_flags(block, 8)?)),
        90 => two(block, OUTER_IP_SRC, OUTER_IP_DST),
        91 => two(block, OUTER_MAC_SRC, OUTER_MAC_DST),
        92 => two(block, field::COUNTRY_SRC, field::COUNTRY_DST),
        93 => two(block, field::ASN_SRC, field::ASN_DST),
        94 => two(block, field::OUI_SRC, field::OUI_DST),
        _ => Ok(None),
    }
}

fn attribute(block: &Reader, field: &Field) -> Result<Values, StoreError> {
    let Some(dictionary) = block.dictionary(Column(field.id.0))? else {
        return Ok(Values::Coded { entries: Vec::new(), codes: Codes::None });
    };
    let entries =
        dictionary.entries.iter().map(|entry| attribute_value(field, entry).map(Value::into_owned)).collect();
    Ok(Values::Coded { entries, codes: Codes::Dictionary(dictionary) })
}

/// An entry of an attribute's dictionary as the field table shows it.
pub(super) fn attribute_value<'e>(field: &Field, entry: &'e [u8]) -> Option<Value<'e>> {
    match columns::value_of(entry)? {
        Value::Integer(seconds) if field.kind == FieldKind::Time => {
            let ns = i64::try_from(seconds).unwrap_or(i64::MAX).saturating_mul(1_000_000_000);
            Some(Value::Time(UtcNs::from_unix_ns(ns)))
        }
        value => Some(value),
    }
}

/// A field that stands for two attributes.
fn two(block: &Reader, a: FieldId, b: FieldId) -> Result<Option<Vec<Values>>, StoreError> {
    let fields = [a, b].into_iter().filter_map(field::by_id);
    fields.map(|field| attribute(block, field)).collect::<Result<_, _>>().map(Some)
}

/// A column of `by` + the value; what is less or 0 is none.
fn above(block: &Reader, column: Column, by: u64) -> Result<Values, StoreError> {
    let stored = block.integers(column)?;
    let present = Some(RowSet::of(block.rows(), |row| stored.get(row).copied().unwrap_or(0) > 0));
    let values =
        if by == 0 { stored } else { Rc::new(stored.iter().map(|n| n.saturating_sub(by)).collect()) };
    Ok(Values::Integers { values, present })
}

fn mapped(values: Values, to: fn(u64) -> u64) -> Values {
    match values {
        Values::Integers { values, present } => {
            Values::Integers { values: Rc::new(values.iter().map(|n| to(*n)).collect()), present }
        }
        coded @ Values::Coded { .. } => coded,
    }
}

/// Protocol numbers of what has addresses.
fn protocol_numbers(block: &Reader) -> Result<Values, StoreError> {
    let values = block.integers(columns::PROTOCOL)?;
    let present = match ips(block, columns::ORIG)? {
        Values::Coded { entries, codes } => RowSet::of(block.rows(), |row| {
            let mut has = false;
            codes.each(row, |code| has |= entries.get(code).is_some_and(Option::is_some));
            has
        }),
        Values::Integers { .. } => RowSet::none(block.rows()),
    };
    Ok(Values::Integers { values, present: Some(present) })
}

/// MAC addresses of a side: of the flow itself where it has no others, of its first packet elsewhere.
fn macs(block: &Reader, address: Column, seen: Column) -> Result<Values, StoreError> {
    let text = |entry: &[u8]| <[u8; 6]>::try_from(entry).ok().map(|mac| Value::Text(mac_text(mac).into()));
    let of_packet = block.dictionary(seen)?;
    let mut entries: Vec<_> = of_packet.iter().flat_map(|macs| macs.entries.iter().map(text)).collect();
    let addresses = block.entries(address)?;
    let own: Vec<_> = addresses.iter().flat_map(|addresses| addresses.iter().map(text)).collect();
    if own.iter().all(Option::is_none) {
        return Ok(match of_packet {
            Some(dictionary) => Values::Coded { entries, codes: Codes::Dictionary(dictionary) },
            None => Values::Coded { entries, codes: Codes::None },
        });
    }
    let of_flow = block.dictionary(address)?;
    let (first_own, none) = (entries.len(), entries.len() + own.len());
    entries.extend(own);
    entries.push(None);
    let code = |row: usize| {
        let of = |dictionary: &Option<Rc<Dictionary>>| {
            dictionary.as_ref().and_then(|macs| macs.of_row(row).first().map(|code| *code as usize))
        };
        let own = of(&of_flow).map(|code| first_own + code).filter(|code| entries[*code].is_some());
        own.or_else(|| of(&of_packet)).unwrap_or(none) as u64
    };
    let codes = (0..block.rows()).map(code).collect();
    Ok(Values::Coded { entries, codes: Codes::Plain(Rc::new(codes)) })
}

fn ips(block: &Reader, column: Column) -> Result<Values, StoreError> {
    let Some(dictionary) = block.dictionary(column)? else {
        return Ok(Values::Coded { entries: Vec::new(), codes: Codes::None });
    };
    let entries = dictionary.entries.iter().map(|entry| columns::ip_of(entry).map(Value::Ip)).collect();
    Ok(Values::Coded { entries, codes: Codes::Dictionary(dictionary) })
}

/// Whether all records of a source share the field: an agent's name may change, so that rollups have none of it.
pub(super) fn of_source(field: &Field) -> bool {
    (2..=5).contains(&field.id.0)
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
    Ok(Values::Integers { values: block.integers(column)?, present: with_ports(block)? })
}

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
        let key = FlowKey { ethertype: ethertype as u16, protocol: protocol as u8, ..FlowKey::default() };
        Some(Value::Text(protocol_name(&key)))
    };
    let entries = pairs.into_iter().map(name).collect();
    Ok(Values::Coded { entries, codes: Codes::Plain(Rc::new(codes)) })
}

/// A flag each, which a row has or has not.
fn side_flags(block: &Reader, shift: u32) -> Result<Vec<Values>, StoreError> {
    let flags = block.integers(columns::SIDE_FLAGS)?;
    let one = |(bit, name): (u32, &&'static str)| Values::Coded {
        entries: vec![None, Some(Value::Text((*name).into()))],
        codes: Codes::Plain(Rc::new(flags.iter().map(|flags| flags >> (shift + bit) & 1).collect())),
    };
    Ok((0..).zip(TCP_FLAG_NAMES).map(one).collect())
}

/// A field whose values are names of a closed table, and the column of their codes.
pub(super) fn names(field: FieldId) -> Option<(Column, Vec<Option<Value<'static>>>)> {
    fn of<T: Copy>(all: &[T], name: fn(T) -> &'static str) -> impl Iterator<Item = Option<Value<'static>>> {
        all.iter().map(move |one| Some(Value::Text(name(*one).into())))
    }
    // 1 + the place in the table.
    let none = std::iter::once(None);
    Some(match field.0 {
        69 => (columns::TCP_STATE, none.chain(of(&TcpState::ALL, TcpState::name)).collect()),
        82 => {
            let open = std::iter::once(Some(Value::Text("open".into())));
            (columns::END, open.chain(of(&FlowEndReason::ALL, FlowEndReason::name)).collect())
        }
        83 => (columns::GUESSED, vec![Some(Value::Bool(false)), Some(Value::Bool(true))]),
        84 => (columns::PROBLEM, none.chain(of(&DecodeProblem::ALL, DecodeProblem::name)).collect()),
        87 => (columns::OWN_UPLINK, vec![Some(Value::Bool(false)), Some(Value::Bool(true))]),
        _ => return None,
    })
}
