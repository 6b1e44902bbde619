//! Searches and their pages.

use gnomon_flow::{AttributeValue, StoredFlow};

use super::control::Control;
use super::counters::Operation;
use super::execute::{Answer, Queries, QueryError, TimeRange, joined, limit_or};
use super::memory::Charge;
use super::waiting::Waiting;
use crate::store::ScanKey;
#[cfg(doc)]
use crate::store::Store;

/// Records of a page unless the caller says otherwise.
const LIMIT_DEFAULT: u32 = 100;
/// Records of a page at most.
pub const LIMIT_MAX: u32 = 10_000;
/// A page ends earlier when its records take about this much, so that it fits the 4 MiB that gRPC clients take.
const PAGE_BYTES_MAX: usize = 3 << 20;

/// Said of pages that go by other evidence than the times of now.
const MOVED: &str = "the times of records were corrected since the first page: the pages go on by the times of before, \
                     without records that lost their place in time; begin again for the times of now";
/// Said where nothing is left of the evidence that the first page went by.
const FORGOTTEN: &str = "the collector restarted since the first page, or has forgotten it for others: where times were \
                         corrected since, records may come twice (by their id) or be missing; begin again for the exact answer";
/// In a cursor: the evidence of its first page was forgotten.
const NOTHING: u64 = 0;

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
    /// Of the first page only.
    pub waiting: Waiting,
    pub partial: Option<String>,
}

impl Queries {
    /// A page of matching records. Pages follow the records' times by the evidence of the first page: neither flows that
    /// arrive meanwhile nor better evidence move anything, so each record comes once. Where that evidence is not remembered
    /// any more, some may come twice or be missing: the answer says so.
    ///
    /// # Errors
    /// See [`QueryError`].
    pub async fn search(&self, search: Search) -> Result<SearchPage, QueryError> {
        Ok(self.search_as(search, |page| (page, 0)).await?.value)
    }

    /// As [`Queries::search`]; `shape` makes of the page what is sent, beside its length, on the thread of the question.
    ///
    /// # Errors
    /// See [`QueryError`].
    pub async fn search_as<R: Send + 'static>(
        &self,
        search: Search,
        shape: impl FnOnce(SearchPage) -> (R, usize) + Send + 'static,
    ) -> Result<Answer<R>, QueryError> {
        let limit = limit_or("limit", search.limit, LIMIT_DEFAULT, LIMIT_MAX)?;
        let selection = self.selection(&search.expression, search.range)?;
        let newest_first = !search.oldest_first;
        let order = Order { newest_first, by_ingest: selection.span.by_ingest };
        let (after, begun_by) = match search.cursor.as_str() {
            "" => (None, None),
            cursor => order.place(cursor).map(|(key, number)| (Some(key), Some(number)))?,
        };
        let work = move |control: Control| {
            if after.is_none()
                && let Some(flows) = selection.by_id(newest_first).transpose()?
            {
                return Ok((
                    SearchPage {
                        flows,
                        next_cursor: String::new(),
                        waiting: Waiting::default(),
                        partial: None,
                    },
                    Charge::default(),
                ));
            }
            let stop = || control.stop();
            // Times of ingest move nowhere.
            let begun_by = begun_by.filter(|_| !order.by_ingest);
            let listing = match begun_by {
                Some(number) => selection.store.go_on_listing(number),
                None => Some(selection.store.begin_listing()),
            };
            let forgotten = listing.is_none();
            let store = listing.unwrap_or_else(|| selection.store.begin_listing());
            let (mut bytes, mut held, mut charge) = (0, 0, Charge::default());
            let mut more = |flow: &StoredFlow| {
                let of_flow = approximate_bytes(flow);
                bytes += of_flow;
                held += of_flow + size_of::<StoredFlow>();
                bytes < PAGE_BYTES_MAX && charge.resize(&control.memory, held)
            };
            let after = after.as_ref();
            let page =
                store.page(selection.span, newest_first, after, &selection.plan, limit, &stop, &mut more)?;
            control.check()?;
            let behind = page.behind;
            let flows = page.flows.into_iter().map(|(_, flow)| flow).collect();
            let number = || if forgotten || order.by_ingest { NOTHING } else { store.keep_listing() };
            let next_cursor = behind.map(|key| order.cursor(&key, number())).unwrap_or_default();
            let mut partial = control.partial(page.stopped, page.damaged);
            if forgotten {
                partial.push(FORGOTTEN.to_owned());
            } else if begun_by.is_some() && store.has_moved() {
                partial.push(MOVED.to_owned());
            }
            let partial = joined(&partial);
            let waiting = if after.is_none() { selection.waiting(&control)? } else { Waiting::default() };
            Ok((SearchPage { flows, next_cursor, waiting, partial }, charge))
        };
        // What the page is charged goes when it was made into what is sent.
        self.run_as(Operation::Search, work, |(page, _charge)| shape(page)).await
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
    /// Version 2 of the cursor: `2`, a letter for the order, in hexadecimal the number of [`Store::keep_listing`]
    /// and the key.
    fn cursor(self, key: &ScanKey, number: u64) -> String {
        let hex: String = key.as_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
        format!("2{}{number:016x}{hex}", self.letter())
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
        let (number, key) = bytes.split_first_chunk().ok_or_else(not_ours)?;
        Ok((ScanKey::from_bytes(key).ok_or_else(not_ours)?, u64::from_be_bytes(*number)))
    }
}
