//! Running questions: on threads of their own that give way to ingest, so many at once, each with a deadline and a share of
//! memory, each stopped when nobody waits for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use gnomon_clock::{Clock, UtcNs};
use gnomon_expression::ParseError;
use gnomon_flow::{FlowRef, StoredFlow};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::caller::Caller;
use super::control::Control;
use super::counters::{Operation, QueryCounters, Refusal};
use super::memory::{ANSWER_BYTES, Charge, Memory, Question, Share};
use super::places::{Place, Places};
use crate::store::{Progress, Store, StoreError};

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
    /// An answer, a capture file or a tail of which the caller takes nothing for so long is given up.
    pub stalled_ms: u64,
    /// What questions under way and answers that were not sent yet may take of memory.
    pub memory_bytes: usize,
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
            memory_bytes: 512 << 20,
        }
    }
}

/// Short looks that wait for no question (the state of the store) at once.
const LOOKS_MAX: usize = 4;
/// How far questions stand back behind ingest (nice(2)): a share of the processor of about 1 to 9 where both want it.
const NICE: i32 = 10;

/// Why a question has no answer.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    #[error("{0}")]
    Expression(#[from] ParseError),
    #[error("{field}: {problem}")]
    Invalid { field: &'static str, problem: String },
    #[error("there is no record {0}: it may have been deleted by retention")]
    NotFound(FlowRef),
    #[error("{limit} {what} are running, which is the limit, or half of it for one caller: try again")]
    Busy { what: &'static str, limit: usize },
    #[error(
        "questions under way and answers that were not read yet take the {} MiB of query.memory_max, or half of it for one \
         caller: try again",
        limit_bytes >> 20
    )]
    NoMemory { limit_bytes: usize },
    #[error(
        "the question takes more than its part of memory, {} MiB: ask for fewer fields or a shorter time range, or raise \
         query.memory_max",
        limit_bytes >> 20
    )]
    TooLarge { limit_bytes: usize },
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
    caller: Caller,
    /// Of the question that is asked by this.
    pub(super) span: tracing::Span,
    running: Places,
    downloads: Places,
    tails: Places,
    looks: Places,
    memory: Memory,
    counters: Arc<QueryCounters>,
}

/// What is counted against a limit of its own.
#[derive(Clone, Copy, Debug)]
pub(super) enum Work {
    Query,
    Download,
    Tail,
    Look,
}

/// An answer, and the memory that is kept for it until it was sent.
#[derive(Debug)]
pub struct Answer<T> {
    pub value: T,
    pub charge: Charge,
}

/// How a question is run.
#[derive(Clone, Copy, Debug)]
struct Run {
    operation: Operation,
    deadline_ms: u64,
    /// The deadline is put off while the work goes on.
    goes_on: bool,
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
            caller: Caller::Unknown,
            span: tracing::Span::none(),
            running: Places::new(limits.queries_max),
            downloads: Places::new(limits.downloads_max),
            tails: Places::new(limits.tails_max),
            looks: Places::new(LOOKS_MAX),
            memory: Memory::new(limits.memory_bytes),
            counters: Arc::default(),
        }
    }

    /// The same for a question of `caller`, with a span of its own: parse, plan, wait, execute, shape and send are parts of it.
    #[must_use]
    pub fn by(&self, caller: Caller) -> Queries {
        Queries { caller, span: tracing::info_span!("question"), ..self.clone() }
    }

    pub(crate) fn span(&self) -> &tracing::Span {
        &self.span
    }

    pub fn limits(&self) -> &QueryLimits {
        &self.limits
    }

    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    pub fn counters(&self) -> &Arc<QueryCounters> {
        &self.counters
    }

    /// One record.
    ///
    /// # Errors
    /// [`QueryError::NotFound`] when there is none of this id.
    pub async fn get(&self, id: FlowRef) -> Result<StoredFlow, QueryError> {
        let store = self.store.clone();
        self.run(Operation::Get, move |_| store.get(id)?.ok_or(QueryError::NotFound(id))).await
    }

    pub(super) async fn place(&self, work: Work) -> Result<Place, QueryError> {
        let (places, what, limit) = match work {
            Work::Query => (&self.running, "queries", self.limits.queries_max),
            Work::Download => (&self.downloads, "downloads", self.limits.downloads_max),
            Work::Tail => (&self.tails, "tails", self.limits.tails_max),
            Work::Look => (&self.looks, "looks at the state of the store", LOOKS_MAX),
        };
        let wait = match work {
            // One that follows goes on for hours: waiting for its end is no use.
            Work::Tail => Duration::ZERO,
            Work::Query | Work::Download | Work::Look => Duration::from_millis(self.limits.queue_ms),
        };
        let place = places.take(&self.caller, wait).await;
        place.ok_or_else(|| {
            self.counters.refused(Refusal::Busy);
            QueryError::Busy { what, limit }
        })
    }

    /// A place to run, and a share of memory.
    async fn admitted(&self) -> Result<(Place, Share), QueryError> {
        let _span = tracing::info_span!(parent: &self.span, "wait");
        let place = self.place(Work::Query).await?;
        let share = self.memory.share(&self.caller, Duration::from_millis(self.limits.queue_ms)).await;
        let share = share.ok_or_else(|| {
            self.counters.refused(Refusal::Memory);
            QueryError::NoMemory { limit_bytes: self.limits.memory_bytes }
        })?;
        Ok((place, share))
    }

    /// Run something short that reads the store and waits for no question.
    ///
    /// # Errors
    /// Those of `work`, and [`QueryError::Busy`].
    pub async fn look<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, QueryError> + Send + 'static,
    ) -> Result<T, QueryError> {
        let place = self.place(Work::Look).await?;
        let done = tokio::task::spawn_blocking(move || {
            let _place = place;
            work()
        });
        done.await.map_err(|_| QueryError::Fault)?
    }

    /// Run something that reads the store as a question among others.
    ///
    /// # Errors
    /// Those of `work`, and [`QueryError::Busy`].
    pub async fn question<T: Send + 'static>(
        &self,
        operation: Operation,
        work: impl FnOnce() -> Result<T, QueryError> + Send + 'static,
    ) -> Result<T, QueryError> {
        self.run(operation, move |_| work()).await
    }

    /// Run `work` on a thread of its own. When the caller goes away, [`Control`] tells the work.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        operation: Operation,
        work: impl FnOnce(Control) -> Result<T, QueryError> + Send + 'static,
    ) -> Result<T, QueryError> {
        Ok(self.run_as(operation, work, |value| (value, 0)).await?.value)
    }

    /// As [`Queries::run`]. `shape` makes of the result what is to be sent, on the same thread, and says how many bytes it has.
    pub(super) async fn run_as<T, R: Send + 'static>(
        &self,
        operation: Operation,
        work: impl FnOnce(Control) -> Result<T, QueryError> + Send + 'static,
        shape: impl FnOnce(T) -> (R, usize) + Send + 'static,
    ) -> Result<Answer<R>, QueryError> {
        let run = Run { operation, deadline_ms: self.limits.deadline_ms, goes_on: false };
        let work = move |control: Control| {
            let value = work(control)?;
            Ok(tracing::info_span!("shape").in_scope(|| shape(value)))
        };
        self.run_with(run, work).await
    }

    /// As [`Queries::run`], with a deadline of its own.
    pub(super) async fn run_for<T: Send + 'static>(
        &self,
        operation: Operation,
        deadline_ms: u64,
        work: impl FnOnce(Control) -> Result<T, QueryError> + Send + 'static,
    ) -> Result<T, QueryError> {
        let run = Run { operation, deadline_ms, goes_on: false };
        Ok(self.run_with(run, move |control| Ok((work(control)?, 0))).await?.value)
    }

    /// As [`Queries::run`], for work that takes as long as there is something to look at: only what stands still for the time
    /// of a question is stopped. What was charged goes on being charged until the answer is dropped.
    pub(super) async fn run_while_it_goes_on<T: Send + 'static>(
        &self,
        operation: Operation,
        work: impl FnOnce(Control) -> Result<T, QueryError> + Send + 'static,
    ) -> Result<T, QueryError> {
        let run = Run { operation, deadline_ms: self.limits.deadline_ms, goes_on: true };
        Ok(self.run_with(run, move |control| Ok((work(control)?, 0))).await?.value)
    }

    async fn run_with<T: Send + 'static>(
        &self,
        run: Run,
        work: impl FnOnce(Control) -> Result<(T, usize), QueryError> + Send + 'static,
    ) -> Result<Answer<T>, QueryError> {
        let begun = self.clock.monotonic();
        let (place, share) = self.admitted().await?;
        let span = tracing::info_span!(parent: &self.span, "execute", operation = run.operation.name());
        let cancel = CancelOnDrop(Arc::new(AtomicBool::new(false)));
        let cancelled = Arc::clone(&cancel.0);
        let shutdown = self.shutdown.clone();
        let gone = move || cancelled.load(Ordering::Relaxed) || run.goes_on && shutdown.is_cancelled();
        let control =
            Control { goes_on: run.goes_on, ..self.control(run.deadline_ms, &share.question, gone) };
        let (tell, told) = oneshot::channel();
        self.spawn(move || {
            let _place = place;
            let done = span.in_scope(|| work(control));
            let done = done.map(|(value, bytes)| Answer { value, charge: share.into_answer(bytes) });
            // Who went away does not want it.
            let _ = tell.send(done);
        })?;
        let done = told.await.map_err(|_| QueryError::Fault)?;
        self.counters.answered(run.operation, self.clock.monotonic().since(begun), done.is_ok());
        done
    }

    /// Run `work`, which may send what it has so far before it gives its last answer, on a thread of its own. When the
    /// receiver is dropped or the collector stops, [`Control`] tells the work. The charge is for all answers together.
    pub(super) async fn stream<T: Send + 'static>(
        &self,
        operation: Operation,
        work: impl FnOnce(Control, &SoFar<T>) -> Result<T, QueryError> + Send + 'static,
    ) -> Result<Answer<mpsc::Receiver<Result<T, QueryError>>>, QueryError> {
        let begun = self.clock.monotonic();
        let (place, share) = self.admitted().await?;
        let span = tracing::info_span!(parent: &self.span, "execute", operation = operation.name());
        let (sender, receiver) = mpsc::channel(SO_FAR_MAX + 1);
        let (gone, shutdown) = (sender.clone(), self.shutdown.clone());
        let gone = move || gone.is_closed() || shutdown.is_cancelled();
        let control = self.control(self.limits.deadline_ms, &share.question, gone);
        let (counters, clock) = (Arc::clone(&self.counters), Arc::clone(&self.clock));
        self.spawn(move || {
            let _place = place;
            let so_far = SoFar(sender);
            let last = span.in_scope(|| work(control, &so_far));
            counters.answered(operation, clock.monotonic().since(begun), last.is_ok());
            // There is always room for it: see `SoFar::send`. Who went away does not want it.
            let _ = so_far.0.try_send(last);
        })?;
        Ok(Answer { value: receiver, charge: share.into_answer(ANSWER_BYTES) })
    }

    /// A thread for a question: places bound how many there are.
    fn spawn(&self, work: impl FnOnce() + Send + 'static) -> Result<(), QueryError> {
        let niced = move || {
            // Of this thread, and of those that it starts. To be nicer is never refused.
            let _ = rustix::process::setpriority_process(Some(rustix::thread::gettid()), NICE);
            work();
        };
        let started = std::thread::Builder::new().name("query".to_owned()).spawn(niced);
        started.map(drop).map_err(|error| {
            tracing::warn!(%error, "no thread can be started for a question");
            self.counters.refused(Refusal::Busy);
            QueryError::Busy { what: "threads", limit: self.limits.queries_max }
        })
    }

    fn control(
        &self,
        deadline_ms: u64,
        memory: &Arc<Question>,
        cancelled: impl Fn() -> bool + Send + Sync + 'static,
    ) -> Control {
        let deadline_ns = deadline_ms.saturating_mul(1_000_000);
        Control {
            deadline: AtomicU64::new(self.clock.monotonic().0.saturating_add(deadline_ns)),
            deadline_ms,
            goes_on: false,
            clock: Arc::clone(&self.clock),
            cancelled: Box::new(cancelled),
            progress: Progress::default(),
            memory: Arc::clone(memory),
        }
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
