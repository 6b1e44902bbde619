//! Finding records: which blocks may have some, and which of their rows do. A walk (`walk.rs`) visits all that match, in no
//! order; a page (`page.rs`) has the first of them in order.

use std::num::NonZero;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use gnomon_clock::UtcNs;
use gnomon_flow::{FlowRef, StoredFlow, TimeState};

use super::block::{Summary, columns};
use super::hot::Run;
use super::keys;
use super::live::{RowSet, Sealed, View};
use super::outline::Outline;
use super::reader::Reader;
use super::{Store, StoreError};

/// Threads of one question at most: several are asked at once.
const THREADS_MAX: usize = 4;
/// [`Reader::firsts`] and the estimates themselves differ by less than this.
pub(super) const FIRSTS_NS: i64 = 1_000_000;

/// Which records: those any part of which lies in `since ≤ t < until`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    pub since: UtcNs,
    pub until: UtcNs,
    /// Compare the time of ingest instead, which finds pending and quarantined records too.
    pub by_ingest: bool,
}

impl Span {
    /// Everything there is, by the records' own time.
    pub const ALL: Span = Span { since: UtcNs::MIN, until: UtcNs::MAX, by_ingest: false };

    fn has(&self, first: UtcNs, last: UtcNs) -> bool {
        last.max(first) >= self.since && (first < self.until || self.until == UtcNs::MAX)
    }

    /// Whether the record lies in it, by the times it is shown with.
    pub(crate) fn has_flow(&self, flow: &StoredFlow) -> bool {
        if self.by_ingest {
            return flow.ingested.is_some_and(|at| self.has(at, at));
        }
        match (flow.time_state, flow.first) {
            (TimeState::Indexed, Some(first)) => {
                self.has(first.utc, flow.last.map_or(first.utc, |last| last.utc))
            }
            _ => false,
        }
    }
}

/// A place in a scan: opaque bytes, good for a cursor that outlives the process.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ScanKey(pub(super) Box<[u8]>);

impl ScanKey {
    pub(super) fn new(at: UtcNs, id: FlowRef) -> ScanKey {
        ScanKey(Box::new(keys::timed(at, id)))
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// From [`ScanKey::as_bytes`]; `None` when the bytes are no place in any scan.
    pub fn from_bytes(bytes: &[u8]) -> Option<ScanKey> {
        keys::timed_of(bytes).map(|_| ScanKey(bytes.into()))
    }
}

/// What is looked for, asked of summaries, of blocks and of records.
pub(crate) trait Filter: Sync {
    /// False only when no record of the block can match.
    fn may_match(&self, summary: &Summary) -> bool;

    /// The rows that may match, and whether they all do.
    ///
    /// # Errors
    /// When a column cannot be read.
    fn select(&self, block: &Reader) -> Result<(RowSet, bool), StoreError>;

    fn matches(&self, flow: &StoredFlow) -> bool;

    /// False only when the record cannot match.
    fn may_match_outline(&self, outline: &Outline) -> bool;

    /// Whether it depends on times, which may have been corrected since a record came in.
    fn reads_times(&self) -> bool;
}

/// Matches everything.
pub(crate) struct Everything;

impl Filter for Everything {
    fn may_match(&self, _: &Summary) -> bool {
        true
    }

    fn select(&self, block: &Reader) -> Result<(RowSet, bool), StoreError> {
        Ok((block.alive(), true))
    }

    fn matches(&self, _: &StoredFlow) -> bool {
        true
    }

    fn may_match_outline(&self, _: &Outline) -> bool {
        true
    }

    fn reads_times(&self) -> bool {
        false
    }
}

/// Told to a scan from time to time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    GoOn,
    /// Answer with what was found.
    Now,
}

/// Some of what a scan found: rows of a block, or whole records.
pub(crate) enum Part<'p> {
    Rows(&'p Reader, &'p RowSet),
    Flows(&'p [StoredFlow]),
}

/// What a scan of blocks and hot records goes by.
pub(super) struct Order<'o> {
    pub(super) span: Span,
    pub(super) newest_first: bool,
    pub(super) after: Option<(UtcNs, FlowRef)>,
    pub(super) filter: &'o dyn Filter,
    /// A block's times are worked out anew when they moved by about this much.
    pub(super) slack_ns: i64,
    /// Those that hot records were put away with are as near.
    pub(super) settled: bool,
}

impl Order<'_> {
    /// What the times of the block's records lie between, in this order; `None` when it has nothing to do with it.
    pub(super) fn bounds(&self, block: &Sealed) -> Option<(UtcNs, UtcNs, UtcNs)> {
        if self.span.by_ingest {
            let (min, max) = block.summary.ingested;
            return Some((min, max, max));
        }
        let times = block.times.filter(|_| !block.held())?;
        let wider = |at: UtcNs, by: i64| at.saturating_add_ns(by);
        Some((
            wider(times.first_min, -self.slack_ns),
            wider(times.first_max, self.slack_ns),
            wider(times.last_max, self.slack_ns),
        ))
    }

    /// Whether some record of the block may be on the page.
    pub(super) fn concerns(&self, block: &Sealed) -> bool {
        let Some((min, max, last)) = self.bounds(block) else { return false };
        let after = self.after.is_none_or(|(at, _)| if self.newest_first { min <= at } else { max >= at });
        after && self.span.has(min, last) && block.records() > 0 && self.filter.may_match(&block.summary)
    }

    pub(super) fn behind(&self, at: UtcNs, id: FlowRef) -> bool {
        match self.after {
            None => true,
            Some(after) if self.newest_first => (at, id) < after,
            Some(after) => (at, id) > after,
        }
    }

    /// The matching rows inside the span, and whether they were all tested whole.
    pub(super) fn rows(&self, reader: &Reader) -> Result<(RowSet, bool), StoreError> {
        let (mut rows, exact) = self.filter.select(reader)?;
        rows.remove(&reader.block().dead);
        if rows.is_empty() {
            return Ok((rows, exact));
        }
        if self.within(reader.block()) {
            return Ok((rows, exact));
        }
        if self.bounds(reader.block()).is_none() {
            return Ok((RowSet::default(), exact));
        }
        let mut inside = RowSet::none(reader.rows());
        if self.span.by_ingest {
            let ingested = reader.integers(columns::INGESTED)?;
            for row in rows.iter() {
                let at = UtcNs::from_tai_ns(ingested.get(row).copied().unwrap_or(0).cast_signed());
                if self.span.has(at, at) {
                    inside.insert(row);
                }
            }
            return Ok((inside, exact));
        }
        let (firsts, lengths) = (reader.firsts()?, reader.integers(columns::LENGTH)?);
        for row in rows.iter() {
            let first = firsts.get(row).copied().unwrap_or(UtcNs::MIN);
            let length = i64::try_from(lengths.get(row).copied().unwrap_or(0)).unwrap_or(i64::MAX);
            // RAW may run a tenth faster or slower than time while a clock is slewed.
            let last = first.saturating_add_ns(length);
            let doubt = FIRSTS_NS + length / 8;
            let close = |bound: UtcNs, at: UtcNs| bound.minus(at).unsigned_abs() <= doubt.unsigned_abs();
            let has = if close(self.span.since, last) || close(self.span.until, first) {
                let (first, last) = reader.estimates(row)?;
                first.is_some_and(|first| self.span.has(first.utc, last.map_or(first.utc, |last| last.utc)))
            } else {
                self.span.has(first, last)
            };
            if has {
                inside.insert(row);
            }
        }
        Ok((inside, exact))
    }

    /// Whether all records of the block lie in the span.
    pub(super) fn within(&self, block: &Sealed) -> bool {
        self.bounds(block).is_some_and(|(min, max, _)| {
            min >= self.span.since && (max < self.span.until || self.span.until == UtcNs::MAX)
        })
    }

    /// Where a row stands in the order.
    pub(super) fn time(&self, reader: &Reader, row: usize) -> Result<UtcNs, StoreError> {
        if self.span.by_ingest {
            let ingested = reader.integers(columns::INGESTED)?;
            return Ok(UtcNs::from_tai_ns(ingested.get(row).copied().unwrap_or(0).cast_signed()));
        }
        Ok(reader.first(row)?.map_or(UtcNs::MIN, |first| first.utc))
    }

    pub(super) fn time_of(&self, flow: &StoredFlow) -> UtcNs {
        let at = if self.span.by_ingest { flow.ingested } else { flow.first.map(|first| first.utc) };
        at.unwrap_or(UtcNs::MIN)
    }
}

impl Store {
    pub(crate) fn view(&self) -> View {
        let live = self.shared.live();
        let testimony = self.shared.epochs.now();
        live.view(testimony)
    }

    /// A hot record with its times by the evidence that this handle goes by.
    pub(super) fn fresh(&self, flow: &Arc<StoredFlow>) -> Result<StoredFlow, StoreError> {
        let mut flow = StoredFlow::clone(flow);
        let id = flow.id();
        let epoch = self.known(id.epoch)?.ok_or(StoreError::NoEpoch { id })?;
        let first = self.time_of(&epoch, flow.record.first)?;
        // In a listing it stands by the listing's evidence or not at all.
        flow.first = if self.then.is_some() { first } else { first.or(flow.first) };
        flow.last = self.time_of(&epoch, flow.record.last)?;
        flow.time_reason = self.time_reason(flow.time_state, flow.first, flow.last);
        flow.origin.agent_name = Arc::clone(&epoch.agent_name);
        Ok(flow)
    }

    /// The hot records of a run that match, each with its times by the evidence that this handle goes by. Those that are not
    /// `wanted` are passed by.
    pub(super) fn hot(
        &self,
        run: &Run,
        order: &Order<'_>,
        wanted: impl Fn(&Outline) -> bool,
        mut each: impl FnMut(StoredFlow, &Arc<StoredFlow>) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let slack = order.slack_ns;
        let reads_times = order.filter.reads_times();
        // Times that were right when it was taken in are near enough to pass most by.
        let near = |(first, last): (UtcNs, UtcNs)| {
            order.span.has(first.saturating_add_ns(-slack), last.saturating_add_ns(slack))
        };
        let by_time = !order.span.by_ingest && order.settled;
        for (outline, hot) in run.outlined() {
            if by_time && !outline.times.is_some_and(near)
                || !wanted(outline)
                || !order.filter.may_match_outline(outline)
                || !reads_times && !order.filter.matches(hot)
            {
                continue;
            }
            let flow = self.fresh(hot)?;
            if order.span.has_flow(&flow) && order.filter.matches(&flow) {
                each(flow, hot)?;
            }
        }
        Ok(())
    }

    /// What came of reading a block: false when it is damaged, which is said, counted and passed. One that was given up for
    /// space meanwhile had nothing to give.
    pub(super) fn served(&self, read: Result<(), StoreError>) -> Result<bool, StoreError> {
        match read {
            Err(error) if error.is_damage() => {
                tracing::error!(%error, "a block of records is damaged: the others are served");
                self.shared.damaged_blocks.fetch_add(1, Ordering::Relaxed);
                Ok(false)
            }
            Err(StoreError::BlockGone { .. }) => Ok(true),
            other => other.map(|()| true),
        }
    }

    /// One record by its id.
    ///
    /// # Errors
    /// When the database cannot be read or the record is damaged.
    pub fn get(&self, id: FlowRef) -> Result<Option<StoredFlow>, StoreError> {
        let (hot, blocks) = {
            let live = self.shared.live.read().unwrap_or_else(PoisonError::into_inner);
            (live.get(id).cloned(), Arc::clone(live.blocks()))
        };
        if let Some(hot) = hot {
            return self.fresh(&hot).map(Some);
        }
        // The newest first: that is what people look at.
        for block in blocks.iter().rev().filter(|block| block.summary.may_have(id)) {
            let reader = self.read(block);
            match reader.find(id).and_then(|row| row.map(|row| reader.flow(row)).transpose()) {
                Ok(None) | Err(StoreError::BlockGone { .. }) => {}
                found => return found,
            }
        }
        Ok(None)
    }

    /// The records of `span` in the order of their first time (of their ingest, with `by_ingest`), from behind `after`
    /// on, page by page. Blocking.
    pub fn scan(&self, span: Span, newest_first: bool, after: Option<&ScanKey>) -> Scan {
        Scan {
            store: self.begin_listing(),
            span,
            newest_first,
            after: after.cloned(),
            page: Vec::new().into_iter(),
            finished: false,
        }
    }
}

/// Does `work` for 0, 1, 2 … below `count`, on as many threads as it is worth; each is told its own number. Ends
/// early where `work` says false: everything behind is then not begun any more.
pub(super) fn parallel(
    count: usize,
    work: &(dyn Fn(usize, usize) -> Result<bool, StoreError> + Sync),
) -> Result<(), StoreError> {
    let next = AtomicUsize::new(0);
    let run = |thread: usize| -> Result<(), StoreError> {
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            if at >= count || !work(thread, at)? {
                // Nobody takes another one.
                next.fetch_max(count, Ordering::Relaxed);
                return Ok(());
            }
        }
    };
    let threads = threads().min(count);
    if threads <= 1 {
        return run(0);
    }
    let run = &run;
    std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|thread| scope.spawn(move || run(thread))).collect();
        let mut result = run(0);
        for other in others {
            let of_other = other.join().unwrap_or(Err(StoreError::Fault));
            result = result.and(of_other);
        }
        result
    })
}

pub(super) fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, NonZero::get).min(THREADS_MAX)
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A scan under way: see [`Store::scan`].
pub struct Scan {
    store: Store,
    span: Span,
    newest_first: bool,
    after: Option<ScanKey>,
    page: std::vec::IntoIter<(ScanKey, StoredFlow)>,
    finished: bool,
}

impl Iterator for Scan {
    type Item = Result<(ScanKey, StoredFlow), StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        const PAGE: usize = 1024;
        loop {
            if let Some(found) = self.page.next() {
                return Some(Ok(found));
            }
            if self.finished {
                return None;
            }
            let go_on = || Stop::GoOn;
            let after = self.after.as_ref();
            match self
                .store
                .page(self.span, self.newest_first, after, &Everything, PAGE, &go_on, &mut |_| true)
            {
                Ok(page) => {
                    self.finished = page.behind.is_none();
                    self.after = page.behind;
                    self.page = page.flows.into_iter();
                }
                Err(error) => {
                    self.finished = true;
                    return Some(Err(error));
                }
            }
        }
    }
}
