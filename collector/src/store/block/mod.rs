//! Records as a block of columns: one value of the database a column, and a summary that is kept in memory too.
//!
//! A block is never changed. Records that leave it (because a later revision came, or their time turned out to be
//! another) are marked dead beside it.

pub(crate) mod bloom;
pub(crate) mod columns;
pub(crate) mod encoding;
pub(crate) mod entries;
pub(crate) mod plain;
mod read_back;
pub(super) mod summary;
mod transposed;

use std::sync::Arc;

use gnomon_flow::{EpochHash, FlowRef, StoredFlow, TimeState, Value};

pub(crate) use bloom::Token;
pub(crate) use columns::Column;
pub(crate) use plain::Dictionary;
pub(super) use read_back::read_back;
pub(crate) use summary::Summary;

use bloom::Bloom;
use summary::{Source, Worker};
use transposed::Transposed;

/// Records a block aims for: searches for few records read less with small blocks, everything else is cheaper with large
/// ones.
pub(crate) const ROWS: usize = 16_384;
/// More is damage.
pub(crate) const ROWS_MAX: usize = 4 * ROWS;

/// The kind of an address's token.
const TOKEN_IP: u16 = 1;
/// The kinds of the tokens of its networks: /16 and /24, /32, /48 and /64.
const TOKEN_NET: u16 = 2;

/// A block on its way to the database.
pub(super) struct Built {
    pub(super) summary: Arc<Summary>,
    pub(super) columns: Vec<(Column, Vec<u8>)>,
}

/// A block of `rows`, at least one and at most [`ROWS_MAX`]. Also gives the order in which they are in it.
pub(super) fn build(rows: &[(FlowRef, Arc<StoredFlow>)]) -> (Built, Vec<u32>) {
    let order = order(rows);
    let sorted: Vec<&StoredFlow> = order.iter().map(|at| &*rows[*at as usize].1).collect();
    let mut columns = Vec::new();
    let mut ranges = Vec::new();
    let (sources, of_rows) = sources(&sorted);
    let mut integer_column = |column: Column, values: &[u64]| {
        if let Some((bytes, min, max)) = encoding::integers(values) {
            ranges.push((column, min, max));
            columns.push((column, bytes));
        }
    };
    let Transposed { mut integers, bytes, lists } = Transposed::of(&sorted);
    integers.push((columns::SOURCE, of_rows));
    integers.iter().for_each(|(column, values)| integer_column(*column, values));

    let mut tokens = Vec::new();
    let mut arena = Vec::new();
    for (column, values) in columns::BYTES.into_iter().zip(bytes) {
        let coded = values.coded(&mut arena);
        if column == columns::ORIG || column == columns::RESP {
            coded.entries.iter().for_each(|address| address_tokens(address, &mut tokens));
        }
        if let Some(bytes) = encoding::dictionary(&coded) {
            columns.push((column, bytes));
        }
    }
    for (field, lists) in lists {
        let coded = lists.values.coded(&mut arena);
        for value in &coded.entries {
            tokens.push(match columns::value_of(value) {
                Some(Value::Text(text)) => text_token(field, &text),
                _ => Token::new(field, value),
            });
        }
        if let Some(bytes) = encoding::lists(&lists.counts, &coded) {
            columns.push((Column(field), bytes));
        }
    }
    ranges.sort_unstable();
    columns.sort_unstable_by_key(|(column, _)| *column);
    let ingested = || sorted.iter().filter_map(|flow| flow.ingested);
    let summary = Summary {
        rows: sorted.len(),
        held: sorted.first().is_some_and(|flow| flow.time_state != TimeState::Indexed),
        ingested: (ingested().min().unwrap_or_default(), ingested().max().unwrap_or_default()),
        sources,
        ranges,
        columns: columns.iter().map(|(column, _)| *column).collect(),
        bloom: Bloom::of(tokens),
    };
    (Built { summary: Arc::new(summary), columns }, order)
}

/// Equal values beside each other compress best: by protocol, ports, addresses, then time.
fn order(rows: &[(FlowRef, Arc<StoredFlow>)]) -> Vec<u32> {
    let fold = |bytes: &[u8]| match <[u8; 4]>::try_from(bytes) {
        Ok(v4) => u64::from(u32::from_be_bytes(v4)),
        // Of longer ones the end of the network, and the end.
        Err(_) => bytes
            .iter()
            .take(8)
            .chain(bytes.iter().rev().take(4))
            .fold(0u64, |sum, byte| sum << 8 | u64::from(*byte)),
    };
    let mut keyed: Vec<([u64; 4], u32)> = rows
        .iter()
        .zip(0u32..)
        .map(|((_, flow), at)| {
            let key = &flow.record.key;
            let [orig, resp, ..] = columns::bytes_of(flow);
            let head =
                u64::from(key.ethertype) << 32 | u64::from(key.protocol) << 16 | u64::from(key.resp_port);
            ([head, fold(resp), fold(orig), flow.record.first.0], at)
        })
        .collect();
    keyed.sort_unstable();
    keyed.into_iter().map(|(_, at)| at).collect()
}

/// The sources of the rows, and the place of each row's.
fn sources(rows: &[&StoredFlow]) -> (Vec<Source>, Vec<u64>) {
    let mut sources: Vec<Source> = Vec::new();
    let mut known: std::collections::HashMap<(EpochHash, &str), usize> = std::collections::HashMap::new();
    let mut places = Vec::with_capacity(rows.len());
    let mut last: Option<(&StoredFlow, usize)> = None;
    for flow in rows {
        let record = &flow.record;
        let place = match last {
            Some((before, place))
                if before.origin.epoch == flow.origin.epoch
                    && before.origin.interface == flow.origin.interface =>
            {
                place
            }
            _ => {
                let epoch = EpochHash::of(&flow.origin.epoch);
                *known.entry((epoch, &flow.origin.interface)).or_insert_with(|| {
                    let interface = Arc::clone(&flow.origin.interface);
                    sources.push(Source { epoch, interface, workers: Vec::new() });
                    sources.len() - 1
                })
            }
        };
        last = Some((flow, place));
        let workers = &mut sources[place].workers;
        let worker = record.id.worker();
        match workers.iter_mut().find(|known| known.worker == worker) {
            Some(known) => known.take_in(record.id.0, record.first, record.last),
            None => workers.push(Worker {
                worker,
                flows: (record.id.0, record.id.0),
                first: (record.first, record.first),
                last_max: record.last,
            }),
        }
        places.push(place as u64);
    }
    (sources, places)
}

fn address_tokens(address: &[u8], tokens: &mut Vec<Token>) {
    let nets: &[usize] = match address.len() {
        4 => &[2, 3],
        16 => &[4, 6, 8],
        _ => &[],
    };
    tokens.push(address_token(address));
    tokens.extend(nets.iter().map(|len| network_token(&address[..*len])));
}

pub(crate) fn address_token(address: &[u8]) -> Token {
    Token::new(TOKEN_IP, address)
}

/// The token that every address inside a network has, by as many whole bytes of its prefix as tokens are made of.
pub(crate) fn network_token(prefix: &[u8]) -> Token {
    Token::new(TOKEN_NET, prefix)
}

/// Letter case is ignored in searches.
pub(crate) fn text_token(field: u16, text: &str) -> Token {
    if text.bytes().all(|byte| byte.is_ascii() && !byte.is_ascii_uppercase()) {
        return Token::new(field, text.as_bytes());
    }
    Token::new(field, text.to_lowercase().as_bytes())
}
