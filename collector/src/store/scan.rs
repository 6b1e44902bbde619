//! Reading records in order.

use std::collections::VecDeque;
use std::ops::Bound;

use gnomon_clock::UtcNs;
use gnomon_flow::{FlowRef, StoredFlow};

use super::envelope::Envelope;
use super::keys::{self, Family};
use super::rocks::Pair;
use super::{Store, StoreError};

/// Records read at once: an early stop wastes at most this many, and a long scan seeks once per so many.
const RUN_FIRST: usize = 64;
const RUN_MAX: usize = 2048;

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
}

/// A place in a scan: opaque bytes, good for a cursor that outlives the process.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ScanKey(Box<[u8]>);

impl ScanKey {
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// From [`ScanKey::as_bytes`]; `None` when the bytes are no place in any scan.
    pub fn from_bytes(bytes: &[u8]) -> Option<ScanKey> {
        keys::timed_of(bytes).map(|_| ScanKey(bytes.into()))
    }
}

/// A scan under way: see [`Store::scan`].
pub struct Scan {
    store: Store,
    span: Span,
    newest_first: bool,
    from: Vec<u8>,
    to: Vec<u8>,
    after: Option<Box<[u8]>>,
    run: VecDeque<Pair>,
    run_len: usize,
    finished: bool,
}

impl Store {
    /// The records of `span` in the order of their first time (of their ingest, with `by_ingest`), from behind `after`
    /// on. Not a snapshot: records that arrive while it runs may or may not be seen, none is seen twice unless its time
    /// was corrected by more than a second meanwhile. Blocking; reads ahead by a few records.
    pub fn scan(&self, span: Span, newest_first: bool, after: Option<&ScanKey>) -> Scan {
        let (since, until) = if span.by_ingest {
            (span.since, span.until)
        } else {
            // A record may begin before the span, and its estimate may have moved since it was indexed.
            let allowed = self.shared.gate.rekey_ns().cast_signed();
            let longest = i64::try_from(self.shared.longest()).unwrap_or(i64::MAX);
            let back = longest.saturating_add(allowed);
            (span.since.saturating_add_ns(-back), span.until.saturating_add_ns(allowed))
        };
        Scan {
            store: self.clone(),
            span,
            newest_first,
            from: keys::time(since).to_vec(),
            to: keys::time(until).to_vec(),
            after: after.map(|key| key.0.clone()),
            run: VecDeque::new(),
            run_len: RUN_FIRST,
            finished: span.since >= span.until,
        }
    }
}

impl Scan {
    fn refill(&mut self) -> Result<(), StoreError> {
        let family = if self.span.by_ingest { Family::ByIngest } else { Family::Flows };
        let to = if self.span.until == UtcNs::MAX { Bound::Unbounded } else { Bound::Excluded(&self.to[..]) };
        let after = self.after.as_deref();
        let rocks = &self.store.shared.rocks;
        let run = rocks.run(family, &self.from, to, after, self.newest_first, self.run_len)?;
        self.finished = run.len() < self.run_len;
        self.run_len = (self.run_len * 2).min(RUN_MAX);
        self.run = run.into();
        Ok(())
    }

    fn flow_at(&self, key: &[u8], value: &[u8]) -> Result<Option<StoredFlow>, StoreError> {
        let store = &self.store;
        let Some((at, id)) = keys::timed_of(key) else {
            return Err(StoreError::Key { bytes: key.to_vec() });
        };
        if self.span.by_ingest {
            // `None`: given up for space since, with its entry here to follow.
            return store.get(id);
        }
        if let Some((_, last)) = Envelope::peek_times(value) {
            let allowed = store.shared.gate.rekey_ns().cast_signed();
            if last.saturating_add_ns(allowed) < self.span.since {
                return Ok(None);
            }
        }
        let flow = store.shared.stored_flow(id.epoch, Envelope::decode(value)?)?;
        let first = flow.first.map_or(at, |e| e.utc);
        let last = flow.last.map_or(first, |e| e.utc).max(first);
        let inside = (first < self.span.until || self.span.until == UtcNs::MAX) && last >= self.span.since;
        Ok(inside.then_some(flow))
    }
}

impl Iterator for Scan {
    type Item = Result<(ScanKey, StoredFlow), StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let Some((key, value)) = self.run.pop_front() else {
                if self.finished {
                    return None;
                }
                if let Err(error) = self.refill() {
                    self.finished = true;
                    return Some(Err(error));
                }
                continue;
            };
            let taken = self.flow_at(&key, &value);
            self.after = Some(key.clone());
            match taken {
                Ok(Some(flow)) => return Some(Ok((ScanKey(key), flow))),
                Ok(None) => {}
                // Damage is told and passed: the next call goes on behind it.
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

/// The record's key in `flows` or `held` decides where it is read from.
impl Store {
    /// One record by its id.
    ///
    /// # Errors
    /// When the database cannot be read or the record is damaged.
    pub fn get(&self, id: FlowRef) -> Result<Option<StoredFlow>, StoreError> {
        // Twice, because a record may move between families while we look.
        for _ in 0..2 {
            let Some(entry) = self.shared.index_entry(id)? else { return Ok(None) };
            if let Some(envelope) = self.shared.envelope(id, &entry)? {
                return self.shared.stored_flow(id.epoch, envelope).map(Some);
            }
        }
        Ok(None)
    }
}
