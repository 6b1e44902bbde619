//! A page of records in order: the best that blocks and single records have to offer, on all cores, until no block left
//! can have anything that belongs on it. Whole records are only made of rows that are shown.

use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use gnomon_clock::UtcNs;
use gnomon_flow::{FlowRef, StoredFlow};

use super::live::{RowSet, Sealed};
use super::outline::Outline;
use super::reader::Reader;
use super::scan::{FIRSTS_NS, Filter, Order, ScanKey, Span, Stop, lock, parallel};
use super::{Store, StoreError, keys};

/// Where more rows than this match, the page's are chosen by [`Reader::firsts`] first.
const EXACT_ROWS: usize = if cfg!(test) { 64 } else { 2048 };

/// Records of a page that are made at once.
const LOT: usize = if cfg!(test) { 16 } else { 1024 };

/// A page of a scan.
#[derive(Clone, Debug, Default)]
pub(crate) struct Page {
    pub(crate) flows: Vec<(ScanKey, StoredFlow)>,
    /// Where the next page goes on; `None`: there is no more.
    pub(crate) behind: Option<ScanKey>,
    /// Blocks that could not be read.
    pub(crate) damaged: u64,
    /// It was told to stop before it was done.
    pub(crate) stopped: bool,
}

#[derive(Clone, Debug)]
enum Place {
    Hot(Arc<StoredFlow>),
    Row(Arc<Sealed>, usize),
}

/// The best candidates so far, by their place in the order.
struct Best {
    limit: usize,
    newest_first: bool,
    found: BTreeMap<(UtcNs, FlowRef), Place>,
}

impl Best {
    fn push(&mut self, at: UtcNs, id: FlowRef, place: Place) {
        self.found.insert((at, id), place);
        if self.found.len() > self.limit {
            if self.newest_first {
                self.found.pop_first()
            } else {
                self.found.pop_last()
            };
        }
    }

    /// The worst that is on a full page.
    fn worst(&self) -> Option<UtcNs> {
        if self.found.len() < self.limit {
            return None;
        }
        let worst =
            if self.newest_first { self.found.first_key_value() } else { self.found.last_key_value() };
        worst.map(|((at, _), _)| *at)
    }
}

impl Store {
    /// At most `limit` matches, in order, from behind `after` on. Each is shown to `more`, which ends the page behind it by
    /// saying false: records are made a few at a time, so that a page that ends early takes no more memory than it shows.
    ///
    /// # Errors
    /// When the database cannot be read. A damaged block is counted and passed.
    pub(crate) fn page(
        &self,
        span: Span,
        newest_first: bool,
        after: Option<&ScanKey>,
        filter: &dyn Filter,
        limit: usize,
        stop: &(dyn Fn() -> Stop + Sync),
        more: &mut dyn FnMut(&StoredFlow) -> bool,
    ) -> Result<Page, StoreError> {
        let mut page = Page::default();
        if limit == 0 || span.since >= span.until {
            return Ok(page);
        }
        if stop() == Stop::Now {
            let beginning = if newest_first {
                ScanKey::new(UtcNs::MAX, MAX_ID)
            } else {
                ScanKey::new(UtcNs::MIN, FlowRef::default())
            };
            return Ok(Page { behind: Some(after.cloned().unwrap_or(beginning)), stopped: true, ..page });
        }
        let after = after.and_then(|key| keys::timed_of(&key.0));
        let slack_ns = self.shared.gate.rekey_ns().cast_signed();
        let (store, view) = self.look()?;
        let order = Order { span, newest_first, after, filter, slack_ns, settled: view.settled };
        // One more than asked for tells whether there is another page.
        let best = Mutex::new(Best { limit: limit + 1, newest_first, found: BTreeMap::new() });
        // The newest came in last, mostly.
        let runs = || view.hot.iter();
        let runs: Vec<_> = if newest_first { runs().rev().collect() } else { runs().collect() };
        for run in runs {
            // By the times that were right when a record was taken in, most cannot be on the page any more.
            let worst = lock(&best).worst().filter(|_| !span.by_ingest && view.settled);
            let may_be = |outline: &Outline| {
                let Some((worst, (first, _))) = worst.zip(outline.times) else { return true };
                let by = first.minus(worst);
                if newest_first { by >= -slack_ns } else { by <= slack_ns }
            };
            store.hot(run, &order, may_be, |flow, hot| {
                let (at, id) = (order.time_of(&flow), flow.id());
                if order.behind(at, id) {
                    lock(&best).push(at, id, Place::Hot(Arc::clone(hot)));
                }
                Ok(())
            })?;
        }
        let mut blocks: Vec<(UtcNs, &Arc<Sealed>)> = view
            .blocks
            .iter()
            .filter(|block| order.concerns(block))
            .filter_map(|block| {
                order.bounds(block).map(|(min, max, _)| (if newest_first { max } else { min }, block))
            })
            .collect();
        blocks.sort_unstable_by_key(|(bound, block)| (*bound, block.id));
        if newest_first {
            blocks.reverse();
        }
        let damaged = AtomicU64::new(0);
        // The first block that was not looked at, because the scan was told to stop.
        let missed = AtomicUsize::new(usize::MAX);
        parallel(blocks.len(), &|_, at| {
            let (bound, block) = blocks[at];
            let full = lock(&best).worst();
            if full.is_some_and(|worst| if newest_first { bound < worst } else { bound > worst }) {
                return Ok(false);
            }
            if stop() == Stop::Now {
                missed.fetch_min(at, Ordering::Relaxed);
                return Ok(false);
            }
            if !self.served(store.candidates(block, &order, limit + 1, &best))? {
                damaged.fetch_add(1, Ordering::Relaxed);
            }
            Ok(true)
        })?;
        page.damaged = damaged.into_inner();
        let Best { mut found, .. } = best.into_inner().unwrap_or_else(PoisonError::into_inner);
        if let Some((bound, _)) = blocks.get(missed.into_inner()) {
            // What a block that was missed may have comes before what lies beyond its bound.
            page.stopped = true;
            let edge = if newest_first { (*bound, MAX_ID) } else { (*bound, FlowRef::default()) };
            let key = |at, id| ScanKey::new(at, id);
            if newest_first {
                found = found.split_off(&edge);
            } else {
                let _ = found.split_off(&edge);
            }
            page.behind = Some(key(edge.0, edge.1));
        }
        let mut chosen: Vec<((UtcNs, FlowRef), Place)> = found.into_iter().collect();
        if newest_first {
            chosen.reverse();
        }
        if chosen.len() > limit {
            chosen.truncate(limit);
            page.behind = chosen.last().map(|((at, id), _)| ScanKey::new(*at, *id));
        }
        let mut chosen = chosen.into_iter();
        // Blocks whose damage was counted with an earlier lot.
        let said = Mutex::new(HashSet::new());
        loop {
            let lot: Vec<_> = chosen.by_ref().take(LOT).collect();
            if lot.is_empty() {
                return Ok(page);
            }
            for (key, flow) in store.whole(lot, &said, &mut page.damaged)? {
                let go_on = more(&flow);
                if !go_on {
                    page.behind = Some(key.clone());
                }
                page.flows.push((key, flow));
                if !go_on {
                    return Ok(page);
                }
            }
        }
    }

    /// Puts what matches in one block among the best.
    fn candidates(
        &self,
        block: &Arc<Sealed>,
        order: &Order<'_>,
        limit: usize,
        best: &Mutex<Best>,
    ) -> Result<(), StoreError> {
        let reader = self.read(block);
        let (mut rows, exact) = order.rows(&reader)?;
        if rows.len() > EXACT_ROWS.max(2 * limit) && exact && !order.span.by_ingest {
            rows = nearest(&reader, &rows, order, limit)?;
        }
        let mut timed = Vec::with_capacity(rows.len());
        for row in rows.iter() {
            timed.push((order.time(&reader, row)?, row));
        }
        timed.sort_unstable();
        if order.newest_first {
            timed.reverse();
        }
        let mut taken = 0;
        for (at, row) in timed {
            let worst = lock(best).worst();
            if worst.is_some_and(|worst| if order.newest_first { at < worst } else { at > worst }) {
                break;
            }
            let id = reader.id(row)?;
            if !order.behind(at, id) || !exact && !order.filter.matches(&reader.flow(row)?) {
                continue;
            }
            lock(best).push(at, id, Place::Row(Arc::clone(block), row));
            taken += 1;
            // Rows of the same time may follow: their order is that of their ids.
            if taken >= limit && lock(best).worst().is_some_and(|worst| worst != at) {
                break;
            }
        }
        Ok(())
    }

    /// The records behind the places that were chosen.
    fn whole(
        &self,
        chosen: Vec<((UtcNs, FlowRef), Place)>,
        said: &Mutex<HashSet<u64>>,
        damaged: &mut u64,
    ) -> Result<Vec<(ScanKey, StoredFlow)>, StoreError> {
        let mut flows: Vec<(ScanKey, Option<StoredFlow>)> = Vec::with_capacity(chosen.len());
        // By block: its rows, each with its place on the page.
        type OfBlock = (Arc<Sealed>, Vec<(usize, usize)>);
        let mut rows: BTreeMap<u64, OfBlock> = BTreeMap::new();
        for ((at, id), place) in chosen {
            let key = ScanKey::new(at, id);
            match place {
                Place::Hot(hot) => flows.push((key, Some(self.fresh(&hot)?))),
                Place::Row(block, row) => {
                    let of_block = rows.entry(block.id).or_insert_with(|| (block, Vec::new()));
                    of_block.1.push((flows.len(), row));
                    flows.push((key, None));
                }
            }
        }
        let rows: Vec<_> = rows.into_values().collect();
        let made = Mutex::new(Vec::new());
        parallel(rows.len(), &|_, at| {
            let (block, places) = &rows[at];
            let reader = self.read(block);
            // What cannot be had is said once of each block, and counted where it is missed.
            for (place, row) in places {
                match reader.flow(*row) {
                    Ok(flow) => lock(&made).push((*place, flow)),
                    Err(error) if error.is_damage() && lock(said).contains(&block.id) => {}
                    Err(error) => {
                        if !self.served(Err(error))? {
                            lock(said).insert(block.id);
                        }
                    }
                }
            }
            Ok(true)
        })?;
        for (place, flow) in made.into_inner().unwrap_or_else(PoisonError::into_inner) {
            flows[place].1 = Some(flow);
        }
        *damaged += flows.iter().filter(|(_, flow)| flow.is_none()).count() as u64;
        Ok(flows.into_iter().filter_map(|(key, flow)| flow.map(|flow| (key, flow))).collect())
    }
}

const MAX_ID: FlowRef = FlowRef {
    epoch: gnomon_flow::EpochHash(u64::MAX),
    flow: gnomon_flow::FlowId(u64::MAX),
    segment: u32::MAX,
};

/// The rows of which the best `limit` certainly are among.
fn nearest(reader: &Reader, rows: &RowSet, order: &Order<'_>, limit: usize) -> Result<RowSet, StoreError> {
    let firsts = reader.firsts()?;
    let at = |row: usize| firsts.get(row).copied().unwrap_or(UtcNs::MIN);
    let beyond = |row: &usize| {
        order.after.is_none_or(|(after, _)| {
            let by = at(*row).minus(after);
            if order.newest_first { by <= FIRSTS_NS } else { by >= -FIRSTS_NS }
        })
    };
    let mut times: Vec<UtcNs> = rows.iter().filter(beyond).map(at).collect();
    // Those so near to where the page before ended may turn out to have been on it.
    let doubtful = order
        .after
        .map_or(0, |(after, _)| times.iter().filter(|at| at.minus(after).abs() <= FIRSTS_NS).count());
    let limit = limit + doubtful;
    if times.len() <= limit {
        return Ok(RowSet::of(reader.rows(), |row| rows.has(row) && beyond(&row)));
    }
    let place = if order.newest_first { times.len() - limit } else { limit - 1 };
    let (_, edge, _) = times.select_nth_unstable(place);
    let edge = *edge;
    Ok(RowSet::of(reader.rows(), |row| {
        let by = at(row).minus(edge);
        let near = if order.newest_first { by >= -FIRSTS_NS } else { by <= FIRSTS_NS };
        near && rows.has(row) && beyond(&row)
    }))
}
