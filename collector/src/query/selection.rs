//! What a question is about: the records that an expression and a range of time select.

use gnomon_expression::{Expression, parse};
use gnomon_flow::{FlowRef, StoredFlow};

use super::control::Control;
use super::execute::{Queries, QueryError, TimeRange};
use super::plan::Plan;
use crate::store::{FromRollups, Part, Span, Store, StoreError};

impl Queries {
    /// The records that `expression` and `range` select, in order, from behind `after` on.
    pub(super) fn selection(&self, expression: &str, range: TimeRange) -> Result<Selection, QueryError> {
        let parsed = tracing::info_span!(parent: &self.span, "parse").in_scope(|| parse(expression))?;
        self.selection_of(&parsed, range)
    }

    /// See [`Queries::selection`].
    pub(super) fn selection_of(
        &self,
        expression: &Expression,
        range: TimeRange,
    ) -> Result<Selection, QueryError> {
        let plan = tracing::info_span!(parent: &self.span, "plan")
            .in_scope(|| Plan::new(expression, self.store.now().utc));
        if let (Some(since), Some(until)) = (range.since, range.until)
            && since >= until
        {
            return Err(QueryError::invalid("until", "is not after since: the range is empty"));
        }
        let hints = plan.hints();
        let by_ingest = range.by_ingest || hints.held;
        let (mut since, mut until) = (range.since, range.until);
        if !by_ingest {
            since = since.max(hints.since);
            until = match (until, hints.until) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (a, b) => a.or(b),
            };
        }
        let span = Span {
            since: since.unwrap_or(Span::ALL.since),
            until: until.unwrap_or(Span::ALL.until),
            by_ingest,
        };
        Ok(Selection { store: self.store.clone(), plan, span, open: range == TimeRange::default() })
    }
}

/// What is asked about.
pub(super) struct Selection {
    pub(super) store: Store,
    pub(super) plan: Plan,
    pub(super) span: Span,
    /// No range was given at all.
    open: bool,
}

impl Selection {
    /// At most this many ids are fetched one by one instead of scanning.
    const IDS_MAX: usize = 1024;

    /// The records that are asked for by their ids; `None` when the question is another.
    pub(super) fn by_id(&self, newest_first: bool) -> Option<Result<Vec<StoredFlow>, QueryError>> {
        let ids = self.plan.hints().ids.as_ref().filter(|ids| ids.len() <= Self::IDS_MAX)?;
        let mut ids = ids.clone();
        ids.sort_unstable();
        ids.dedup();
        Some(self.fetch(&ids, newest_first))
    }

    fn fetch(&self, ids: &[FlowRef], newest_first: bool) -> Result<Vec<StoredFlow>, QueryError> {
        let mut found = Vec::new();
        for id in ids {
            let Some(flow) = self.store.get(*id)? else { continue };
            if (self.open || self.span.has_flow(&flow)) && self.plan.matches(&flow) {
                found.push(flow);
            }
        }
        let order = |flow: &StoredFlow| flow.first.map(|first| first.utc).or(flow.ingested);
        found.sort_by(|a, b| if newest_first { order(b).cmp(&order(a)) } else { order(a).cmp(&order(b)) });
        Ok(found)
    }

    /// Gives all that match to `each`: see [`Store::walk`].
    pub(super) fn walk<T: Default + Send>(
        &self,
        control: &Control,
        each: &(dyn Fn(&mut T, Part<'_>) -> Result<(), StoreError> + Sync),
    ) -> Result<(Vec<T>, Vec<String>), QueryError> {
        self.walk_rolled(control, None, each)
    }

    /// The same; what is rolled up may be told to `rollups` instead, where everything is asked for.
    pub(super) fn walk_rolled<T: Default + Send>(
        &self,
        control: &Control,
        rollups: Option<&FromRollups<'_>>,
        each: &(dyn Fn(&mut T, Part<'_>) -> Result<(), StoreError> + Sync),
    ) -> Result<(Vec<T>, Vec<String>), QueryError> {
        if let Some(flows) = self.by_id(true).transpose()? {
            let mut part = T::default();
            each(&mut part, Part::Flows(&flows))?;
            return Ok((vec![part], Vec::new()));
        }
        let stop = || control.stop();
        let walked = self.store.walk(self.span, &self.plan, &stop, &control.progress, rollups, each)?;
        control.check()?;
        Ok((walked.parts, control.partial(walked.stopped, walked.damaged)))
    }
}
