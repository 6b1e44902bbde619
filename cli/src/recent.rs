//! What was seen lately: a record whose time is corrected, or that is told of again, is exported once.

use std::collections::{HashSet, VecDeque};
use std::hash::Hash;

/// Remembers this many. What comes again after as many others is taken for new.
pub(crate) const REMEMBERED_MAX: usize = 1 << 18;

#[derive(Debug)]
pub(crate) struct Recent<T> {
    order: VecDeque<T>,
    known: HashSet<T>,
    max: usize,
}

impl<T: Copy + Eq + Hash> Recent<T> {
    pub(crate) fn new(max: usize) -> Recent<T> {
        Recent { order: VecDeque::new(), known: HashSet::new(), max }
    }

    /// Whether it was not seen lately. It is now.
    pub(crate) fn is_new(&mut self, item: T) -> bool {
        if !self.known.insert(item) {
            return false;
        }
        self.order.push_back(item);
        if self.order.len() > self.max
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::Recent;

    #[test]
    fn memory_of_what_was_seen_is_bounded() {
        let mut recent = Recent::new(3);
        assert!((0..10).all(|n| recent.is_new(n)));
        assert_eq!((recent.order.len(), recent.known.len()), (3, 3));
        assert!(!recent.is_new(9) && !recent.is_new(7) && recent.is_new(6));
    }
}
