//! What came since a block, for who follows: the records of blocks one by one, then those in none.

use std::sync::Arc;

use gnomon_flow::StoredFlow;

use super::live::Sealed;
use super::scan::Filter;
use super::{Store, StoreError};

impl Store {
    /// The number of the newest block; 0 without any.
    pub(crate) fn newest_block(&self) -> u64 {
        self.shared.live().blocks().last().map_or(0, |block| block.id)
    }

    /// The number of the first block behind one.
    pub(crate) fn next_block(&self, behind: u64) -> Option<u64> {
        let live = self.shared.live();
        let blocks = live.blocks();
        blocks.get(blocks.partition_point(|block| block.id <= behind)).map(|block| block.id)
    }
}

/// Gives records to somebody until he says that it is enough.
pub(crate) struct Since<'s> {
    store: &'s Store,
    filter: &'s dyn Filter,
    each: &'s mut dyn FnMut(StoredFlow) -> bool,
    /// Records that could not be read.
    pub(crate) missed: u64,
    /// It was enough.
    pub(crate) gone: bool,
}

impl<'s> Since<'s> {
    pub(crate) fn new(
        store: &'s Store,
        filter: &'s dyn Filter,
        each: &'s mut dyn FnMut(StoredFlow) -> bool,
    ) -> Since<'s> {
        Since { store, filter, each, missed: 0, gone: false }
    }

    /// Those of one block. One that was given up meanwhile has none.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub(crate) fn block(&mut self, id: u64) -> Result<(), StoreError> {
        let Some(block) = self.store.shared.live().block(id).cloned() else { return Ok(()) };
        if !self.filter.may_match(&block.summary) {
            return Ok(());
        }
        let read = self.rows(&block);
        if !self.store.served(read)? {
            self.missed += block.records();
        }
        Ok(())
    }

    fn rows(&mut self, block: &Arc<Sealed>) -> Result<(), StoreError> {
        let reader = self.store.read(block);
        let (mut rows, exact) = self.filter.select(&reader)?;
        rows.remove(&block.dead);
        for row in rows.iter() {
            let flow = reader.flow(row)?;
            if (exact || self.filter.matches(&flow)) && !(self.each)(flow) {
                self.gone = true;
                break;
            }
        }
        Ok(())
    }

    /// Those that are in no block now; which one may be by the time it is its turn.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub(crate) fn hot(&mut self) -> Result<(), StoreError> {
        // Nothing else is held: whoever listens may take his time.
        let may_match = |flow: &&Arc<StoredFlow>| self.filter.reads_times() || self.filter.matches(flow);
        let ids: Vec<_> = self.store.view().hot().filter(may_match).map(|flow| flow.id()).collect();
        for id in ids {
            match self.store.get(id) {
                Ok(Some(flow)) if self.filter.matches(&flow) => {
                    if !(self.each)(flow) {
                        self.gone = true;
                        break;
                    }
                }
                // Given up meanwhile.
                Ok(_) => {}
                Err(error) if error.is_damage() => self.missed += 1,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
