//! Reading a block: the columns a question asks for, each once, and whole records for the few rows that are shown.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use gnomon_clock::{Estimate, RawNs, UtcNs};
use gnomon_flow::field::ATTRIBUTE_ID_FIRST;
use gnomon_flow::{EpochHash, FieldId, FlowId, FlowRecord, FlowRef, Origin, StoredFlow, TimeState};

use super::block::bloom::Mixing;
use super::block::columns::{self, Row};
use super::block::encoding;
use super::block::entries::Entries;
use super::block::plain::{Histogram, Plain};
use super::block::{Column, Dictionary, Summary};
use super::epochs::Epoch;
use super::keys::{self, Family};
use super::live::{RowSet, Sealed};
use super::{Shared, Store, StoreError};

/// A block being read by one thread.
pub(crate) struct Reader {
    store: Store,
    block: Arc<Sealed>,
    /// Columns that were read, and (`true`) those of which only the entries were.
    plain: RefCell<HashMap<(Column, bool), Arc<Plain>, Mixing>>,
    integers: RefCell<HashMap<Column, Rc<Vec<u64>>, Mixing>>,
    dictionaries: RefCell<HashMap<Column, Rc<Dictionary>, Mixing>>,
    epochs: RefCell<Option<Rc<Vec<Arc<Epoch>>>>>,
    firsts: RefCell<Option<Rc<Vec<UtcNs>>>>,
    whole: RefCell<Option<Rc<Whole>>>,
}

impl Store {
    pub(crate) fn read(&self, block: &Arc<Sealed>) -> Reader {
        Reader {
            store: self.clone(),
            block: Arc::clone(block),
            plain: RefCell::default(),
            integers: RefCell::default(),
            dictionaries: RefCell::default(),
            epochs: RefCell::default(),
            firsts: RefCell::default(),
            whole: RefCell::default(),
        }
    }
}

impl Reader {
    fn shared(&self) -> &Shared {
        &self.store.shared
    }

    pub(crate) fn store(&self) -> &Store {
        &self.store
    }

    pub(crate) fn block(&self) -> &Arc<Sealed> {
        &self.block
    }

    pub(crate) fn summary(&self) -> &Summary {
        &self.block.summary
    }

    pub(crate) fn rows(&self) -> usize {
        self.block.summary.rows
    }

    /// All that are alive.
    pub(crate) fn alive(&self) -> RowSet {
        let mut rows = RowSet::all(self.rows());
        rows.remove(&self.block.dead);
        rows
    }

    fn column(&self, column: Column) -> Result<Option<Vec<u8>>, StoreError> {
        if !self.summary().has(column) {
            return Ok(None);
        }
        let key = keys::column(self.block.id, column.0);
        let value = self.shared().rocks.get(Family::Columns, &key).map_err(|error| {
            if error.failure.is_damage() {
                return self.damaged(column, super::envelope::damaged("a column", error.to_string()));
            }
            error.into()
        })?;
        value.map(Some).ok_or(StoreError::BlockGone { id: self.block.id })
    }

    /// A column as it is kept in memory, all of it or its entries; `None` where it is not stored.
    fn plain(&self, column: Column, only_entries: bool) -> Result<Option<Arc<Plain>>, StoreError> {
        for known in [(column, false), (column, only_entries)] {
            if let Some(known) = self.plain.borrow().get(&known) {
                return Ok(Some(Arc::clone(known)));
            }
        }
        if !self.summary().has(column) {
            return Ok(None);
        }
        let cache = &self.shared().columns;
        let plain = match cache.get(self.block.id, column, only_entries) {
            Some(plain) => plain,
            None => {
                let Some(bytes) = self.column(column)? else { return Ok(None) };
                let dictionary = columns::BYTES.contains(&column) || column.0 >= ATTRIBUTE_ID_FIRST;
                let read = if dictionary {
                    encoding::read_dictionary(&bytes, self.rows(), !only_entries).map(Plain::Dictionary)
                } else {
                    encoding::read_integers(&bytes, self.rows()).map(Plain::Integers)
                };
                let plain = Arc::new(read.map_err(|e| self.damaged(column, e))?);
                cache.put(self.block.id, column, only_entries, &plain);
                plain
            }
        };
        self.plain.borrow_mut().insert((column, only_entries), Arc::clone(&plain));
        Ok(Some(plain))
    }

    /// A column of integers: 0 where it is not stored.
    pub(crate) fn integers(&self, column: Column) -> Result<Rc<Vec<u64>>, StoreError> {
        if let Some(known) = self.integers.borrow().get(&column) {
            return Ok(Rc::clone(known));
        }
        let values = Rc::new(match self.plain(column, false)?.as_deref() {
            Some(Plain::Integers(integers)) => integers.values(),
            _ => vec![0; self.rows()],
        });
        self.integers.borrow_mut().insert(column, Rc::clone(&values));
        Ok(values)
    }

    /// The rows that have `from ..= to` in a column of integers.
    pub(crate) fn rows_between(&self, column: Column, from: u64, to: u64) -> Result<RowSet, StoreError> {
        Ok(match self.plain(column, false)?.as_deref() {
            Some(Plain::Integers(integers)) => integers.between(from, to),
            // A column that is not stored has 0 everywhere.
            _ if from == 0 => RowSet::all(self.rows()),
            _ => RowSet::none(self.rows()),
        })
    }

    /// How many of `rows` have each integer of a column, from some smallest on; `None` where they lie too far apart for a
    /// table.
    pub(crate) fn integer_counts(
        &self,
        column: Column,
        rows: &RowSet,
    ) -> Result<Option<(u64, Vec<u32>)>, StoreError> {
        Ok(match self.plain(column, false)?.as_deref() {
            Some(Plain::Integers(integers)) => integers.histogram(rows),
            _ => Some((0, vec![rows.len() as u32])),
        })
    }

    /// The sums of two columns of integers.
    pub(crate) fn sums(&self, a: Column, b: Column) -> Result<Rc<Vec<u64>>, StoreError> {
        let largest = |column: Column| self.summary().range(column).1;
        let (one, other) = (self.plain(a, false)?, self.plain(b, false)?);
        if let (Some(Plain::Integers(a)), Some(Plain::Integers(b)), Some(_)) =
            (one.as_deref(), other.as_deref(), largest(a).checked_add(largest(b)))
        {
            let mut sums = a.values();
            b.add_to(&mut sums);
            return Ok(Rc::new(sums));
        }
        let (a, b) = (self.integers(a)?, self.integers(b)?);
        Ok(Rc::new(a.iter().zip(&*b).map(|(a, b)| a.saturating_add(*b)).collect()))
    }

    /// The integer of one row.
    fn integer(&self, column: Column, row: usize) -> Result<u64, StoreError> {
        Ok(match self.plain(column, false)?.as_deref() {
            Some(Plain::Integers(integers)) => integers.at(row),
            _ => 0,
        })
    }

    /// A column of texts, addresses or lists; `None` where every row has nothing.
    pub(crate) fn dictionary(&self, column: Column) -> Result<Option<Rc<Dictionary>>, StoreError> {
        if let Some(known) = self.dictionaries.borrow().get(&column) {
            return Ok(Some(Rc::clone(known)));
        }
        let plain = self.plain(column, false)?;
        let Some(Plain::Dictionary(packed)) = plain.as_deref() else { return Ok(None) };
        let read = Rc::new(packed.open());
        self.dictionaries.borrow_mut().insert(column, Rc::clone(&read));
        Ok(Some(read))
    }

    /// How many of `rows` have each entry of a column; `None` where every row has nothing.
    pub(crate) fn histogram(&self, column: Column, rows: &RowSet) -> Result<Option<Histogram>, StoreError> {
        Ok(match self.plain(column, false)?.as_deref() {
            Some(Plain::Dictionary(packed)) => Some(packed.histogram(rows, self.rows())),
            _ => None,
        })
    }

    /// Its different values alone, which often tell enough and cost a fraction.
    pub(crate) fn entries(&self, column: Column) -> Result<Option<Arc<Entries>>, StoreError> {
        Ok(match self.plain(column, true)?.as_deref() {
            Some(Plain::Dictionary(packed)) => Some(Arc::clone(&packed.entries)),
            _ => None,
        })
    }

    /// Whether a text in a column may have `needle`, in lower case, in it, as far as it is known without a look at the column.
    pub(crate) fn may_have_text(&self, column: Column, needle: &str) -> Option<bool> {
        self.shared().texts.may_have(self.block.id, column, needle)
    }

    /// Remembers the texts of a column for [`Reader::may_have_text`].
    pub(crate) fn learn_texts(&self, column: Column, entries: &Entries) {
        self.shared().texts.learn(self.block.id, column, entries);
    }

    fn damaged(&self, column: Column, error: super::envelope::DamagedValue) -> StoreError {
        StoreError::Block { id: self.block.id, column: column.0, error }
    }

    /// The epoch behind each source.
    pub(super) fn epochs(&self) -> Result<Rc<Vec<Arc<Epoch>>>, StoreError> {
        if let Some(known) = self.epochs.borrow().as_ref() {
            return Ok(Rc::clone(known));
        }
        let epoch = |source: &super::block::summary::Source| {
            let id = FlowRef { epoch: source.epoch, ..FlowRef::default() };
            self.store.known(source.epoch)?.ok_or(StoreError::NoEpoch { id })
        };
        let epochs = self.summary().sources.iter().map(epoch).collect::<Result<Vec<_>, _>>()?;
        let epochs = Rc::new(epochs);
        *self.epochs.borrow_mut() = Some(Rc::clone(&epochs));
        Ok(epochs)
    }

    /// The place of a row's source.
    fn source(&self, row: usize) -> Result<usize, StoreError> {
        self.known_source(self.integer(columns::SOURCE, row)?)
    }

    pub(super) fn known_source(&self, source: u64) -> Result<usize, StoreError> {
        let source = usize::try_from(source).unwrap_or(usize::MAX);
        if source >= self.summary().sources.len() {
            let error = super::envelope::damaged("a column", format!("source {source}"));
            return Err(self.damaged(columns::SOURCE, error));
        }
        Ok(source)
    }

    pub(crate) fn epoch_of(&self, row: usize) -> Result<EpochHash, StoreError> {
        Ok(self.summary().sources[self.source(row)?].epoch)
    }

    pub(crate) fn id(&self, row: usize) -> Result<FlowRef, StoreError> {
        Ok(FlowRef {
            epoch: self.epoch_of(row)?,
            flow: FlowId(self.integer(columns::FLOW, row)?),
            segment: self.integer(columns::SEGMENT, row)? as u32,
        })
    }

    /// The row of a record, if it is here and alive.
    pub(crate) fn find(&self, id: FlowRef) -> Result<Option<usize>, StoreError> {
        let flows = self.integers(columns::FLOW)?;
        for (row, _) in flows.iter().enumerate().filter(|(_, flow)| **flow == id.flow.0) {
            if !self.block.dead.has(row) && self.id(row)? == id {
                return Ok(Some(row));
            }
        }
        Ok(None)
    }

    /// When each row's first revision came in.
    pub(crate) fn all_ingested(&self) -> Result<Rc<Vec<UtcNs>>, StoreError> {
        let ingested = self.integers(columns::INGESTED)?;
        Ok(Rc::new(ingested.iter().map(|at| UtcNs::from_tai_ns(at.cast_signed())).collect()))
    }

    /// When a row's first packet was.
    pub(crate) fn first(&self, row: usize) -> Result<Option<Estimate>, StoreError> {
        let epochs = self.epochs()?;
        let first = self.integer(columns::FIRST, row)?;
        self.store.time_of(&epochs[self.source(row)?], RawNs(first))
    }

    /// When a row's first and last packets were.
    pub(crate) fn estimates(&self, row: usize) -> Result<(Option<Estimate>, Option<Estimate>), StoreError> {
        let epochs = self.epochs()?;
        let epoch = &epochs[self.source(row)?];
        let first = self.integer(columns::FIRST, row)?;
        let last = first.saturating_add(self.integer(columns::LENGTH, row)?);
        Ok((self.store.time_of(epoch, RawNs(first))?, self.store.time_of(epoch, RawNs(last))?))
    }

    /// The time of each row's first packet, within [`FIRSTS_NS`](super::scan::FIRSTS_NS): between two rows of a source that
    /// lie close to each other the line through their estimates is the map itself, nearly.
    pub(crate) fn firsts(&self) -> Result<Rc<Vec<UtcNs>>, StoreError> {
        if let Some(known) = self.firsts.borrow().as_ref() {
            return Ok(Rc::clone(known));
        }
        let raws = self.integers(columns::FIRST)?;
        let sources = self.integers(columns::SOURCE)?;
        let epochs = self.epochs()?;
        // A quarter of a second, in which the map's rate is within 10⁻¹ of 1 at worst (a slew); as long as the evidence
        // says that it is straight, where that is longer. Of each step that has rows the beginning and the end are asked
        // for.
        const STEP_MIN: u64 = 1 << 28;
        let straight = |epoch: &Arc<Epoch>| match epoch.ended {
            None => epoch.timeline.straight_ns(super::scan::FIRSTS_NS.unsigned_abs() / 2),
            Some(_) => 0,
        };
        let longest = epochs.iter().map(straight).min().unwrap_or(0).max(STEP_MIN);
        let step = 1u64 << longest.ilog2().min(40);
        // Where rows lie further apart than that, each is asked for itself.
        let (from, to) = self.summary().range(columns::FIRST);
        let sparse = (to - from) / step > raws.len() as u64;
        let mut known: HashMap<(u64, u64), (i64, i64), Mixing> = HashMap::default();
        let mut firsts = Vec::with_capacity(raws.len());
        let mut last: Option<((u64, u64), (i64, i64))> = None;
        for (row, raw) in raws.iter().enumerate() {
            let source = self.known_source(sources[row])?;
            if sparse {
                let estimate = self.store.time_of(&epochs[source], RawNs(*raw))?;
                firsts.push(estimate.map_or(UtcNs::MIN, |e| e.utc));
                continue;
            }
            let key = (source as u64, raw / step);
            let (from, to) = match last {
                Some((same, ends)) if same == key => ends,
                _ => match known.get(&key) {
                    Some(ends) => *ends,
                    None => {
                        let at = |raw: u64| -> Result<i64, StoreError> {
                            let estimate = self.store.time_of(&epochs[source], RawNs(raw))?;
                            Ok(estimate.map_or(i64::MIN, |e| e.utc.tai_ns()))
                        };
                        let ends = (at(key.1 * step)?, at((key.1 + 1).saturating_mul(step))?);
                        known.insert(key, ends);
                        ends
                    }
                },
            };
            last = Some((key, (from, to)));
            let utc = if from == i64::MIN || to == i64::MIN {
                let estimate = self.store.time_of(&epochs[source], RawNs(*raw))?;
                estimate.map_or(UtcNs::MIN, |e| e.utc)
            } else {
                let part = (i128::from(to - from) * i128::from(raw % step)) >> step.ilog2();
                UtcNs::from_tai_ns(from + part as i64)
            };
            firsts.push(utc);
        }
        let firsts = Rc::new(firsts);
        *self.firsts.borrow_mut() = Some(Rc::clone(&firsts));
        Ok(firsts)
    }

    /// A record of nothing but where the records of a source come from.
    pub(crate) fn flow_of_source(&self, place: usize) -> Result<StoredFlow, StoreError> {
        let epochs = self.epochs()?;
        Ok(StoredFlow { origin: self.origin(&epochs[place], place), ..StoredFlow::default() })
    }

    fn origin(&self, epoch: &Epoch, place: usize) -> Origin {
        Origin {
            agent: epoch.agent(),
            agent_name: Arc::clone(&epoch.agent_name),
            interface: Arc::clone(&self.summary().sources[place].interface),
            epoch: epoch.id,
        }
    }

    /// Every column, for whole records.
    fn whole(&self) -> Result<Rc<Whole>, StoreError> {
        if let Some(known) = self.whole.borrow().as_ref() {
            return Ok(Rc::clone(known));
        }
        let mut whole = Whole { columns: Vec::new(), lists: Vec::new() };
        for column in &self.summary().columns {
            let Some(plain) = self.plain(*column, false)? else { continue };
            if column.0 >= ATTRIBUTE_ID_FIRST {
                whole.lists.push((FieldId(column.0), plain));
                continue;
            }
            let place = usize::from(column.0);
            if whole.columns.len() <= place {
                whole.columns.resize(place + 1, None);
            }
            whole.columns[place] = Some(plain);
        }
        let whole = Rc::new(whole);
        *self.whole.borrow_mut() = Some(Rc::clone(&whole));
        Ok(whole)
    }

    /// Of the record of a row: whose it is, when it was, how many of its packets were kept, and nothing of what it says.
    pub(crate) fn outline(&self, row: usize) -> Result<StoredFlow, StoreError> {
        let id = self.id(row)?;
        let first = RawNs(self.integer(columns::FIRST, row)?);
        let source = self.source(row)?;
        let (first_at, last_at) = self.estimates(row)?;
        Ok(StoredFlow {
            origin: self.origin(&self.epochs()?[source], source),
            first: first_at,
            last: last_at,
            ingested: Some(UtcNs::from_tai_ns(self.integer(columns::INGESTED, row)?.cast_signed())),
            record: FlowRecord {
                id: id.flow,
                segment: id.segment,
                first,
                last: first.saturating_add(self.integer(columns::LENGTH, row)?),
                stamp_err_ns: self.integer(columns::STAMP_ERR, row)? as u32,
                sliced_packets: self.integer(columns::SLICED_PACKETS, row)?,
                ..FlowRecord::default()
            },
            ..StoredFlow::default()
        })
    }

    /// The record of a row as searches show it.
    pub(crate) fn flow(&self, row: usize) -> Result<StoredFlow, StoreError> {
        let whole = self.whole()?;
        let values = WholeRow { whole: &whole, row };
        let record = columns::record_of(&values);
        let source = self.source(row)?;
        let epochs = self.epochs()?;
        let epoch = &epochs[source];
        let (first, last) = self.estimates(row)?;
        let time_state = match (self.block.held(), columns::state_of(values.integer(columns::STATE))) {
            (false, _) => TimeState::Indexed,
            (true, TimeState::Indexed) => TimeState::Pending,
            (true, state) => state,
        };
        Ok(StoredFlow {
            time_reason: self.store.time_reason(time_state, first, last),
            first,
            last,
            origin: self.origin(epoch, source),
            ingested: Some(UtcNs::from_tai_ns(values.integer(columns::INGESTED).cast_signed())),
            time_state,
            record,
        })
    }
}

/// The columns of a block.
struct Whole {
    /// By number.
    columns: Vec<Option<Arc<Plain>>>,
    lists: Vec<(FieldId, Arc<Plain>)>,
}

struct WholeRow<'w> {
    whole: &'w Whole,
    row: usize,
}

impl WholeRow<'_> {
    fn plain(&self, column: Column) -> Option<&Plain> {
        self.whole.columns.get(usize::from(column.0))?.as_deref()
    }
}

impl Row for WholeRow<'_> {
    fn integer(&self, column: Column) -> u64 {
        match self.plain(column) {
            Some(Plain::Integers(integers)) => integers.at(self.row),
            _ => 0,
        }
    }

    fn bytes(&self, column: Column) -> &[u8] {
        match self.plain(column) {
            Some(Plain::Dictionary(packed)) => packed.of_row(self.row).next().unwrap_or(&[]),
            _ => &[],
        }
    }

    fn lists(&self, each: &mut dyn FnMut(FieldId, &[u8])) {
        for (field, plain) in &self.whole.lists {
            if let Plain::Dictionary(packed) = &**plain {
                packed.of_row(self.row).for_each(|entry| each(*field, entry));
            }
        }
    }
}
