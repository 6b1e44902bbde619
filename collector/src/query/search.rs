//! Searches and their pages.

use gnomon_flow::{AttributeValue, StoredFlow};

use super::execute::{Queries, QueryError, TimeRange, joined, limit_or};
use crate::store::ScanKey;
#[cfg(doc)]
use crate::store::Store;

/// Records of a page unless the caller says otherwise.
const LIMIT_DEFAULT: u32 = 100;
/// Records of a page at most.
pub const LIMIT_MAX: u32 = 10_000;
/// A page ends earlier when its records take about this much, so that it fits the 4 MiB that gRPC clients take.
const PAGE_BYTES_MAX: usize = 3 << 20;

/// Said of the pages after better evidence came, or after the collector was started anew.
const MOVED: &str = "the times of records were corrected, or the collector restarted, since the first page: some may come \
                     twice (by their id) or be missing; begin again for the exact answer";

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Search {
    pub expression: String,
    pub range: TimeRange,
    pub oldest_first: bool,
    /// 0: 100; at most [`LIMIT_MAX`].
    pub limit: u32,
    /// `next_cursor` of the page before, or empty.
    pub cursor: String,
}

#[derive(Clone, Debug, PartialEq)]
pub struct SearchPage {
    pub flows: Vec<StoredFlow>,
    /// Empty: there is no more.
    pub next_cursor: String,
    pub partial: Option<String>,
}

impl Queries {
    /// A page of matching records. Pages follow the records' times: flows that arrive meanwhile move nothing. When better
    /// evidence moved records since the first page, some may come twice or be missing: the answer says so.
    ///
    /// # Errors
    /// See [`QueryError`].
    pub async fn search(&self, search: Search) -> Result<SearchPage, QueryError> {
        let limit = limit_or("limit", search.limit, LIMIT_DEFAULT, LIMIT_MAX)?;
        let selection = self.selection(&search.expression, search.range)?;
        let newest_first = !search.oldest_first;
        let order = Order { newest_first, by_ingest: selection.span.by_ingest };
        let (after, begun_at) = match search.cursor.as_str() {
            "" => (None, None),
            cursor => order.place(cursor).map(|(key, moves)| (Some(key), Some(moves)))?,
        };
        self.run(move |control| {
            let moves = selection.store.moves();
            if after.is_none()
                && let Some(flows) = selection.by_id(newest_first).transpose()?
            {
                return Ok(SearchPage { flows, next_cursor: String::new(), partial: None });
            }
            let stop = || control.stop();
            let page = selection.store.page(
                selection.span,
                newest_first,
                after.as_ref(),
                &selection.plan,
                limit,
                &stop,
            )?;
            control.check()?;
            let mut behind = page.behind;
            let (mut flows, mut bytes) = (Vec::with_capacity(page.flows.len()), 0);
            for (key, flow) in page.flows {
                if bytes >= PAGE_BYTES_MAX {
                    break;
                }
                bytes += approximate_bytes(&flow);
                if bytes >= PAGE_BYTES_MAX {
                    behind = Some(key);
                }
                flows.push(flow);
            }
            let begun_at = begun_at.unwrap_or(moves);
            let next_cursor = behind.map(|key| order.cursor(&key, begun_at)).unwrap_or_default();
            let mut partial = control.partial(page.stopped, page.damaged);
            if begun_at != moves && !order.by_ingest {
                partial.push(MOVED.to_owned());
            }
            let partial = joined(&partial);
            Ok(SearchPage { flows, next_cursor, partial })
        })
        .await
    }
}

/// Bytes of a record on the wire, near enough to bound a page.
fn approximate_bytes(flow: &StoredFlow) -> usize {
    let attributes = flow.record.attributes.iter().map(|a| match &a.value {
        AttributeValue::Text(text) => text.len() + 8,
        AttributeValue::Integer(_) | AttributeValue::Ip(_) => 24,
    });
    320 + flow.origin.agent_name.len() + flow.origin.interface.len() + attributes.sum::<usize>()
}

/// The order a cursor belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Order {
    newest_first: bool,
    by_ingest: bool,
}

impl Order {
    /// Version 2 of the cursor: `2`, a letter for the order, in hexadecimal [`Store::moves`] at the first page and the key.
    fn cursor(self, key: &ScanKey, moves: u64) -> String {
        let hex: String = key.as_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
        format!("2{}{moves:016x}{hex}", self.letter())
    }

    fn letter(self) -> char {
        match (self.newest_first, self.by_ingest) {
            (true, false) => 'n',
            (false, false) => 'o',
            (true, true) => 'N',
            (false, true) => 'O',
        }
    }

    fn place(self, cursor: &str) -> Result<(ScanKey, u64), QueryError> {
        let not_ours = || QueryError::invalid("cursor", "is no cursor: take next_cursor of the page before");
        let rest = cursor.strip_prefix('2').ok_or_else(not_ours)?;
        let hex =
            rest.strip_prefix(['n', 'o', 'N', 'O']).filter(|hex| hex.len() <= 256).ok_or_else(not_ours)?;
        if !rest.starts_with(self.letter()) {
            return Err(QueryError::invalid("cursor", "belongs to a search in another order"));
        }
        let digits: Option<Vec<u8>> =
            hex.chars().map(|c| c.to_digit(16).and_then(|d| u8::try_from(d).ok())).collect();
        let digits = digits.filter(|d| d.len() % 2 == 0).ok_or_else(not_ours)?;
        let bytes: Vec<u8> = digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect();
        let (moves, key) = bytes.split_first_chunk().ok_or_else(not_ours)?;
        Ok((ScanKey::from_bytes(key).ok_or_else(not_ours)?, u64::from_be_bytes(*moves)))
    }
}
