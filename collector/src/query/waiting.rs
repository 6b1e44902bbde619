//! What would match and is in no answer: records that wait for evidence of their time, or were refused for want of it. Who asks
//! and finds nothing has to know of them.

use super::control::Control;
use super::execute::QueryError;
use super::selection::Selection;

/// Held records that one question looks at.
const LOOKED_AT_MAX: u64 = 500_000;

/// Records that match the expression, whatever the range, and are in no range of time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Waiting {
    /// State (`pending` or `quarantined`), why, and how many.
    pub counts: Vec<(&'static str, &'static str, u64)>,
    /// Further ones were not looked at.
    pub not_looked_at: u64,
}

impl Selection {
    /// Nothing where the question is by time of ingest, or for ids: such a question finds them.
    pub(super) fn waiting(&self, control: &Control) -> Result<Waiting, QueryError> {
        if self.span.by_ingest || self.plan.hints().ids.is_some() {
            return Ok(Waiting::default());
        }
        let held = self.store.held_matching(LOOKED_AT_MAX, &self.plan)?;
        control.check()?;
        let counts = held.counts.into_iter().map(|((state, reason), flows)| (state, reason, flows));
        Ok(Waiting { counts: counts.collect(), not_looked_at: held.left_out })
    }
}
