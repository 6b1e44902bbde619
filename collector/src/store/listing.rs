//! Going by the evidence of one moment: within a question, so that a record has one place in it, and from the first page of a
//! listing to the last, so that a page begins where the one before ended, whatever evidence came between the two.

use std::sync::{Arc, PoisonError};

use super::epochs::Testimony;
use super::live::{Sealed, View};
use super::{Store, StoreError};

impl Store {
    /// This store by the evidence that `testimony` is.
    fn by(&self, testimony: Arc<Testimony>) -> Store {
        Store { shared: Arc::clone(&self.shared), then: Some(testimony) }
    }

    /// This store by the evidence of now, whatever comes from now on: for a listing that begins.
    pub(crate) fn begin_listing(&self) -> Store {
        self.by(self.shared.epochs.now())
    }

    /// This store by the evidence that a listing began with; `None` when that is not remembered any more.
    pub(crate) fn go_on_listing(&self, number: u64) -> Option<Store> {
        let now = self.shared.epochs.now();
        if now.number == number {
            return Some(self.by(now));
        }
        let mut listings = self.shared.listings.lock().unwrap_or_else(PoisonError::into_inner);
        listings.find(number).map(|then| self.by(then))
    }

    /// Remembers the evidence that this listing goes by; the number that finds it again.
    pub(crate) fn keep_listing(&self) -> u64 {
        let then = self.then.clone().unwrap_or_else(|| self.shared.epochs.now());
        self.shared.listings.lock().unwrap_or_else(PoisonError::into_inner).keep(&then);
        then.number
    }

    /// Whether records had another place in time when the listing began.
    pub(crate) fn has_moved(&self) -> bool {
        self.then.as_ref().is_some_and(|then| then.moves != self.shared.epochs.now().moves)
    }

    /// Everything there is, and a store by the evidence that the question goes by: that of this moment, unless the question
    /// is part of a listing.
    pub(super) fn look(&self) -> Result<(Store, View), StoreError> {
        let mut view = self.view();
        let then = self.then.clone().unwrap_or_else(|| Arc::clone(&view.testimony));
        view.settled &= then.moves == view.testimony.moves;
        let store = self.by(then);
        if !view.settled {
            // When blocks are is remembered by other evidence than this.
            let timed = |block: &Arc<Sealed>| -> Result<Arc<Sealed>, StoreError> {
                if block.held() {
                    return Ok(Arc::clone(block));
                }
                Ok(Arc::new(Sealed { times: store.times(block)?, ..Sealed::clone(block) }))
            };
            view.blocks = Arc::new(view.blocks.iter().map(timed).collect::<Result<_, _>>()?);
        }
        Ok((store, view))
    }
}
