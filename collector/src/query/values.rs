//! What a field's values are in a block: numbers by row, or codes of values.

use std::rc::Rc;

use gnomon_flow::field::{ATTRIBUTE_ID_FIRST, COUNTRY_SRC, protocol_name};
use gnomon_flow::{DecodeProblem, Field, FlowEndReason, FlowKey, TcpState, TimeState, Value};

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
        14 if !block.block().held() => {
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
        92..=94 => {
            let orig = COUNTRY_SRC.0 + 2 * (field.id.0 - 92);
            Ok(Some(vec![attribute(block, Column(orig))?, attribute(block, Column(orig + 1))?]))
        }
        _ => Ok(None),
    }
}

fn attribute(block: &Reader, column: Column) -> Result<Values, StoreError> {
    let Some(dictionary) = block.dictionary(column, true)? else {
        return Ok(Values::Coded { entries: Vec::new(), codes: Codes::None });
    };
    let entries = dictionary.entries().map(|entry| columns::value_of(entry).map(Value::into_owned)).collect();
    Ok(Values::Coded { entries, codes: Codes::Dictionary(dictionary) })
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
