//! Reading a block: the columns a question asks for, each once, and whole records for the few rows that are shown.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use gnomon_clock::{Estimate, RawNs, UtcNs};
use gnomon_flow::field::ATTRIBUTE_ID_FIRST;
use gnomon_flow::{EpochHash, FieldId, FlowId, FlowRef, Origin, StoredFlow, TimeState};

use super::block::bloom::Mixing;
use super::block::columns::{self, Row};
use super::block::{Column, Dictionary, Summary, encoding};
use super::epochs::Epoch;
use super::keys::{self, Family};
use super::live::{RowSet, Sealed};
use super::{Shared, Store, StoreError};

/// A block being read by one thread.
pub(crate) struct Reader {
    store: Store,
    block: Arc<Sealed>,
    integers: RefCell<HashMap<Column, Rc<Vec<u64>>, Mixing>>,
    dictionaries: RefCell<HashMap<(Column, bool), Rc<Dictionary>, Mixing>>,
    epochs: RefCell<Option<Rc<Vec<Arc<Epoch>>>>>,
    firsts: RefCell<Option<Rc<Vec<UtcNs>>>>,
    whole: RefCell<Option<Rc<Whole>>>,
}

impl Store {
    pub(crate) fn read(&self, block: &Arc<Sealed>) -> Reader {
        Reader {
            store: self.clone(),
            block: Arc::clone(block),
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
        let value = self.shared().rocks.get(Family::Columns, &keys::column(self.block.id, column.0))?;
        value.map(Some).ok_or(StoreError::BlockGone { id: self.block.id })
    }

    pub(super) fn rollup_bytes(&self, id: u64) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.shared().rocks.get(Family::Rollups, &keys::block(id))?)
    }

    /// A column of integers: 0 where it is not stored.
    pub(crate) fn integers(&self, column: Column) -> Result<Rc<Vec<u64>>, StoreError> {
        if let Some(known) = self.integers.borrow().get(&column) {
            return Ok(Rc::clone(known));
        }
        let values = match self.column(column)? {
            Some(bytes) => {
                encoding::read_integers(&bytes, self.rows()).map_err(|e| self.damaged(column, e))?
            }
            None => vec![0; self.rows()],
        };
        let values = Rc::new(values);
        self.integers.borrow_mut().insert(column, Rc::clone(&values));
        Ok(values)
    }

    /// A column of texts, addresses or lists; `None` where every row has nothing. Without `codes` just its entries.
    pub(crate) fn dictionary(
        &self,
        column: Column,
        codes: bool,
    ) -> Result<Option<Rc<Dictionary>>, StoreError> {
        if let Some(known) = self.dictionaries.borrow().get(&(column, codes)) {
            return Ok(Some(Rc::clone(known)));
        }
        let Some(bytes) = self.column(column)? else { return Ok(None) };
        let read =
            encoding::read_dictionary(&bytes, self.rows(), codes).map_err(|e| self.damaged(column, e))?;
        let read = Rc::new(read);
        self.dictionaries.borrow_mut().insert((column, codes), Rc::clone(&read));
        Ok(Some(read))
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
            self.shared().epochs.get(&self.shared().rocks, source.epoch)?.ok_or(StoreError::NoEpoch { id })
        };
        let epochs = self.summary().sources.iter().map(epoch).collect::<Result<Vec<_>, _>>()?;
        let epochs = Rc::new(epochs);
        *self.epochs.borrow_mut() = Some(Rc::clone(&epochs));
        Ok(epochs)
    }

    /// The place of a row's source.
    fn source(&self, sources: &[u64], row: usize) -> Result<usize, StoreError> {
        let source = sources.get(row).copied().unwrap_or(0) as usize;
        if source >= self.summary().sources.len() {
            let error = super::envelope::damaged("a column", format!("source {source}"));
            return Err(self.damaged(columns::SOURCE, error));
        }
        Ok(source)
    }

    pub(crate) fn epoch_of(&self, row: usize) -> Result<EpochHash, StoreError> {
        let sources = self.integers(columns::SOURCE)?;
        Ok(self.summary().sources[self.source(&sources, row)?].epoch)
    }

    pub(crate) fn id(&self, row: usize) -> Result<FlowRef, StoreError> {
        let (flows, segments) = (self.integers(columns::FLOW)?, self.integers(columns::SEGMENT)?);
        Ok(FlowRef {
            epoch: self.epoch_of(row)?,
            flow: FlowId(flows.get(row).copied().unwrap_or(0)),
            segment: segments.get(row).copied().unwrap_or(0) as u32,
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

    /// When a row's first and last packets were.
    pub(crate) fn estimates(&self, row: usize) -> Result<(Option<Estimate>, Option<Estimate>), StoreError> {
        let (firsts, lengths) = (self.integers(columns::FIRST)?, self.integers(columns::LENGTH)?);
        let epochs = self.epochs()?;
        let epoch = &epochs[self.source(&self.integers(columns::SOURCE)?, row)?];
        let first = firsts.get(row).copied().unwrap_or(0);
        let last = first.saturating_add(lengths.get(row).copied().unwrap_or(0));
        let shared = self.shared();
        Ok((shared.estimate(epoch, RawNs(first))?, shared.estimate(epoch, RawNs(last))?))
    }

    /// The time of each row's first packet. Estimates are piecewise straight: between two rows of a source that lie close
    /// to each other the line through their estimates is the map itself.
    pub(crate) fn firsts(&self) -> Result<Rc<Vec<UtcNs>>, StoreError> {
        if let Some(known) = self.firsts.borrow().as_ref() {
            return Ok(Rc::clone(known));
        }
        let raws = self.integers(columns::FIRST)?;
        let sources = self.integers(columns::SOURCE)?;
        let epochs = self.epochs()?;
        // The estimate of each quarter of a second that has rows, by source; inside it the map's rate is within 10⁻¹ of 1
        // at worst (a slew), so the estimate of the quarter's own beginning and end is asked for.
        const STEP: u64 = 1 << 28;
        let mut known: HashMap<(u64, u64), (i64, i64), Mixing> = HashMap::default();
        let mut firsts = Vec::with_capacity(raws.len());
        let mut last: Option<((u64, u64), (i64, i64))> = None;
        for (row, raw) in raws.iter().enumerate() {
            let source = self.source(&sources, row)?;
            let key = (source as u64, raw / STEP);
            let (from, to) = match last {
                Some((same, ends)) if same == key => ends,
                _ => match known.get(&key) {
                    Some(ends) => *ends,
                    None => {
                        let at = |raw: u64| -> Result<i64, StoreError> {
                            let estimate = self.shared().estimate(&epochs[source], RawNs(raw))?;
                            Ok(estimate.map_or(i64::MIN, |e| e.utc.tai_ns()))
                        };
                        let ends = (at(key.1 * STEP)?, at((key.1 + 1).saturating_mul(STEP))?);
                        known.insert(key, ends);
                        ends
                    }
                },
            };
            last = Some((key, (from, to)));
            let utc = if from == i64::MIN || to == i64::MIN {
                let estimate = self.shared().estimate(&epochs[source], RawNs(*raw))?;
                estimate.map_or(UtcNs::MIN, |e| e.utc)
            } else {
                let part = i128::from(to - from) * i128::from(raw % STEP) / i128::from(STEP);
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
        let mut whole = Whole::default();
        for column in &self.summary().columns {
            if column.0 >= ATTRIBUTE_ID_FIRST {
                if let Some(lists) = self.dictionary(*column, true)? {
                    whole.lists.push((FieldId(column.0), lists));
                }
            } else if columns::BYTES.contains(column) {
                if let Some(bytes) = self.dictionary(*column, true)? {
                    whole.bytes.insert(*column, bytes);
                }
            } else {
                whole.integers.insert(*column, self.integers(*column)?);
            }
        }
        let whole = Rc::new(whole);
        *self.whole.borrow_mut() = Some(Rc::clone(&whole));
        Ok(whole)
    }

    /// The record of a row as searches show it.
    pub(crate) fn flow(&self, row: usize) -> Result<StoredFlow, StoreError> {
        let whole = self.whole()?;
        let values = WholeRow { whole: &whole, row };
        let record = columns::record_of(&values);
        let source = self.source(&self.integers(columns::SOURCE)?, row)?;
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
#[derive(Default)]
struct Whole {
    integers: HashMap<Column, Rc<Vec<u64>>, Mixing>,
    bytes: HashMap<Column, Rc<Dictionary>, Mixing>,
    lists: Vec<(FieldId, Rc<Dictionary>)>,
}

struct WholeRow<'w> {
    whole: &'w Whole,
    row: usize,
}

impl Row for WholeRow<'_> {
    fn integer(&self, column: Column) -> u64 {
        self.whole.integers.get(&column).and_then(|values| values.get(self.row)).copied().unwrap_or(0)
    }

    fn bytes(&self, column: Column) -> &[u8] {
        let Some(dictionary) = self.whole.bytes.get(&column) else { return &[] };
        dictionary.of_row(self.row).first().map_or(&[], |code| dictionary.entry(*code as usize))
    }

    fn lists(&self, each: &mut dyn FnMut(FieldId, &[u8])) {
        for (field, lists) in &self.whole.lists {
            lists.of_row(self.row).iter().for_each(|code| each(*field, lists.entry(*code as usize)));
        }
    }
}
