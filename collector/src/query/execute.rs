//! Running questions: on blocking threads, so many at once, each with a deadline, each stopped when nobody waits for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use gnomon_clock::{Clock, MonoNs, UtcNs};
use gnomon_expression::{Expression, ParseError, parse};
use gnomon_flow::{FlowRef, StoredFlow};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use super::plan::Plan;
use crate::store::{FromRollups, Part, Progress, Span, Stop, Store, StoreError};

/// What bounds the answering of questions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueryLimits {
    /// Searches, counts, tops and histograms at once.
    pub queries_max: usize,
    /// Capture files being sent at once.
    pub downloads_max: usize,
    /// Callers that follow new flows at once.
    pub tails_max: usize,
    /// A question that takes longer is answered with what was found, and says so.
    pub deadline_ms: u64,
    /// The same for hunts.
    pub hunt_deadline_ms: u64,
    /// How long a question waits for its turn before it is refused.
    pub queue_ms: u64,
    /// A caller of a capture file who takes nothing for so long is given up.
    pub stalled_ms: u64,
}

impl Default for QueryLimits {
    fn default() -> QueryLimits {
        QueryLimits {
            queries_max: 8,
            downloads_max: 4,
            tails_max: 64,
            deadline_ms: 30_000,
            hunt_deadline_ms: 300_000,
            queue_ms: 5_000,
            stalled_ms: 60_000,
        }
    }
}

/// Why a question has no answer.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    #[error("{0}")]
    Expression(#[from] ParseError),
    #[error("{field}: {problem}")]
    Invalid { field: &'static str, problem: String },
    #[error("there is no record {0}: it may have been deleted by retention")]
    NotFound(FlowRef),
    #[error("{limit} {what} are running, which is the limit: try again")]
    Busy { what: &'static str, limit: usize },
    #[error("the store cannot be read: {0}")]
    Store(#[from] StoreError),
    #[error("the question was given up")]
    Cancelled,
    #[error("cut short: {0}")]
    Cut(&'static str),
    #[error("the answer was lost by a fault in the collector; its log says more")]
    Fault,
}

impl QueryError {
    pub(super) fn invalid(field: &'static str, problem: impl Into<String>) -> QueryError {
        QueryError::Invalid { field, problem: problem.into() }
    }
}

/// Which records are asked about: those any part of which lies in `since ≤ t < until`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TimeRange {
    pub since: Option<UtcNs>,
    pub until: Option<UtcNs>,
    /// Compare the time of ingest, which finds pending and quarantined records too.
    pub by_ingest: bool,
}

/// Answers questions about a store; clones share its limits.
#[derive(Clone)]
pub struct Queries {
    pub(super) store: Store,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) limits: QueryLimits,
    pub(super) shutdown: CancellationToken,
    running: Arc<Semaphore>,
    downloads: Arc<Semaphore>,
    tails: Arc<Semaphore>,
}

/// What is counted against a limit of its own.
#[derive(Clone, Copy, Debug)]
pub(super) enum Work {
    Query,
    Download,
    Tail,
}

impl Queries {
    /// Streams end when `shutdown` is cancelled, so that they do not hold up a graceful stop.
    pub fn new(
        store: Store,
        clock: Arc<dyn Clock>,
        limits: QueryLimits,
        shutdown: CancellationToken,
    ) -> Queries {
        Queries {
            store,
            clock,
            limits,
            shutdown,
            running: Arc::new(Semaphore::new(limits.queries_max)),
            downloads: Arc::new(Semaphore::new(limits.downloads_max)),
            tails: Arc::new(Semaphore::new(limits.tails_max)),
        }
    }

    /// One record.
    ///
    /// # Errors
    /// [`QueryError::NotFound`] when there is none of this id.
    pub async fn get(&self, id: FlowRef) -> Result<StoredFlow, QueryError> {
        let store = self.store.clone();
        self.run(move |_| store.get(id)?.ok_or(QueryError::NotFound(id))).await
    }

    pub(super) async fn permit(&self, work: Work) -> Result<OwnedSemaphorePermit, QueryError> {
        let (semaphore, what, limit) = match work {
            Work::Query => (&self.running, "queries", self.limits.queries_max),
            Work::Download => (&self.downloads, "downloads", self.limits.downloads_max),
            Work::Tail => (&self.tails, "tails", self.limits.tails_max),
        };
        let wait = match work {
            // One that follows goes on for hours: waiting for its end is no use.
            Work::Tail => Duration::ZERO,
            Work::Query | Work::Download => Duration::from_millis(self.limits.queue_ms),
        };
        let acquired = tokio::time::timeout(wait, Arc::clone(semaphore).acquire_owned()).await;
        acquired.ok().and_then(Result::ok).ok_or(QueryError::Busy { what, limit })
    }

    /// Run something short that reads the store, counted as a query.
    ///
    /// # Errors
    /// Those of `work`, and [`QueryError::Busy`].
    pub async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, QueryError> + Send + 'static,
    ) -> Result<T, QueryError> {
        self.run(move |_| work()).await
    }

    /// Run `work` on a blocking thread. When the caller goes away, [`Control`] tells the work.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(Control) -> Result<T, QueryError> + Send + 'static,
    ) -> Result<T, QueryError> {
        self.run_for(self.limits.deadline_ms, work).await
    }

    /// The same with a deadline of its own.
    pub(super) async fn run_for<T: Send + 'static>(
        &self,
        deadline_ms: u64,
        work: impl FnOnce(Control) -> Result<T, QueryError> + Send + 'static,
    ) -> Result<T, QueryError> {
        self.run_with(deadline_ms, false, work).await
    }

    /// As [`Queries::run`], for work that takes as long as there is something to look at: only what stands still for the time
    /// of a question is stopped.
    pub(super) async fn run_while_it_goes_on<T: Send + 'static>(
        &self,
        work: impl FnOnce(Control) -> Result<T, QueryError> + Send + 'static,
    ) -> Result<T, QueryError> {
        self.run_with(self.limits.deadline_ms, true, work).await
    }

    async fn run_with<T: Send + 'static>(
        &self,
        deadline_ms: u64,
        goes_on: bool,
        work: impl FnOnce(Control) -> Result<T, QueryError> + Send + 'static,
    ) -> Result<T, QueryError> {
        let permit = self.permit(Work::Query).await?;
        let cancel = CancelOnDrop(Arc::new(AtomicBool::new(false)));
        let cancelled = Arc::clone(&cancel.0);
        let shutdown = self.shutdown.clone();
        let gone = move || cancelled.load(Ordering::Relaxed) || goes_on && shutdown.is_cancelled();
        let control = Control { goes_on, ..self.control(deadline_ms, gone) };
        let done = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            work(control)
        });
        done.await.map_err(|_| QueryError::Fault)?
    }

    /// Run `work`, which may send what it has so far before it gives its last answer, on a blocking thread. When the
    /// receiver is dropped or the collector stops, [`Control`] tells the work.
    pub(super) async fn stream<T: Send + 'static>(
        &self,
        work: impl FnOnce(Control, &SoFar<T>) -> Result<T, QueryError> + Send + 'static,
    ) -> Result<mpsc::Receiver<Result<T, QueryError>>, QueryError> {
        let permit = self.permit(Work::Query).await?;
        let (sender, receiver) = mpsc::channel(SO_FAR_MAX + 1);
        let (gone, shutdown) = (sender.clone(), self.shutdown.clone());
        let control =
            self.control(self.limits.deadline_ms, move || gone.is_closed() || shutdown.is_cancelled());
        tokio::task::spawn_blocking(move || {
            let _permit = permit;
            let so_far = SoFar(sender);
            let last = work(control, &so_far);
            // There is always room for it: see `SoFar::send`. Who went away does not want it.
            let _ = so_far.0.try_send(last);
        });
        Ok(receiver)
    }

    fn control(&self, deadline_ms: u64, cancelled: impl Fn() -> bool + Send + Sync + 'static) -> Control {
        let deadline_ns = deadline_ms.saturating_mul(1_000_000);
        Control {
            deadline: AtomicU64::new(self.clock.monotonic().0.saturating_add(deadline_ns)),
            deadline_ms,
            goes_on: false,
            clock: Arc::clone(&self.clock),
            cancelled: Box::new(cancelled),
            progress: Progress::default(),
        }
    }

    /// The records that `expression` and `range` select, in order, from behind `after` on.
    pub(super) fn selection(&self, expression: &str, range: TimeRange) -> Result<Selection, QueryError> {
        self.selection_of(&parse(expression)?, range)
    }

    /// See [`Queries::selection`].
    pub(super) fn selection_of(
        &self,
        expression: &Expression,
        range: TimeRange,
    ) -> Result<Selection, QueryError> {
        let plan = Plan::new(expression, self.store.now().utc);
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

struct CancelOnDrop(Arc<AtomicBool>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Answers so far that wait for a caller who reads slowly; others are not sent.
const SO_FAR_MAX: usize = 2;

/// Where answers go that are not the last.
pub(super) struct SoFar<T>(mpsc::Sender<Result<T, QueryError>>);

impl<T> SoFar<T> {
    /// Sends what there is so far, unless the caller has not even read what was sent before.
    pub(super) fn send(&self, answer: impl FnOnce() -> Result<T, QueryError>) {
        // One place stays free for the last answer.
        if self.0.capacity() > 1 {
            let _ = self.0.try_send(answer());
        }
    }
}

/// Tells a scan when to stop.
pub(super) struct Control {
    clock: Arc<dyn Clock>,
    /// MONOTONIC.
    deadline: AtomicU64,
    deadline_ms: u64,
    /// The deadline is put off with every step.
    goes_on: bool,
    cancelled: Box<dyn Fn() -> bool + Send + Sync>,
    /// Of a walk.
    pub(super) progress: Progress,
}

impl Control {
    pub(super) fn now(&self) -> MonoNs {
        self.clock.monotonic()
    }

    /// Cheap enough to be asked for every block.
    pub(super) fn stop(&self) -> Stop {
        let now = self.clock.monotonic().0;
        if (self.cancelled)() || now >= self.deadline.load(Ordering::Relaxed) {
            return Stop::Now;
        }
        if self.goes_on {
            let deadline_ns = self.deadline_ms.saturating_mul(1_000_000);
            self.deadline.fetch_max(now.saturating_add(deadline_ns), Ordering::Relaxed);
        }
        Stop::GoOn
    }

    /// # Errors
    /// [`QueryError::Cancelled`] when nobody waits for the answer any more.
    pub(super) fn check(&self) -> Result<(), QueryError> {
        if (self.cancelled)() { Err(QueryError::Cancelled) } else { Ok(()) }
    }

    /// Why an answer is not whole, in words.
    pub(super) fn partial(&self, stopped: bool, damaged: u64) -> Vec<String> {
        let mut reasons = Vec::new();
        if stopped {
            let seconds = self.deadline_ms as f64 / 1000.0;
            reasons.push(match self.goes_on {
                false => {
                    format!("stopped after {seconds} s, the limit of a query: ask for a shorter time range")
                }
                true => format!("stopped after {seconds} s in which the disk gave nothing"),
            });
        }
        if damaged > 0 {
            reasons.push(format!("{damaged} damaged blocks or records could not be read"));
        }
        reasons
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

/// Reasons as one text; `None` when the answer is whole.
pub(super) fn joined(reasons: &[String]) -> Option<String> {
    (!reasons.is_empty()).then(|| reasons.join("; "))
}

/// A number the caller left at 0 for the default, checked against its bound.
pub(super) fn limit_or(field: &'static str, limit: u32, default: u32, max: u32) -> Result<usize, QueryError> {
    match limit {
        0 => Ok(default as usize),
        n if n <= max => Ok(n as usize),
        n => Err(QueryError::invalid(
            field,
            format!("{n} is more than {max}: take pages by the cursor, or narrow the question"),
        )),
    }
}
