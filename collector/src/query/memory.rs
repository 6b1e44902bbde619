//! What questions may take of memory: tables that grow while one is answered, and answers until they are sent.
//!
//! One budget, `query.memory_max`, for all: a question has a quarter of it at most, and a caller with many questions half, so
//! that there is always memory for another caller. A table asks before it grows by much. Where it is refused more, it counts
//! what it has room for and the answer says so, or the question is refused.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use super::caller::Caller;

/// Kept for the answer from the beginning: so much fits a message of gRPC.
pub(super) const ANSWER_BYTES: usize = 4 << 20;
/// A question has this part of all memory at most.
const OF_QUESTION: usize = 4;
/// And all questions of a caller this part.
const OF_CALLER: usize = 2;

/// The memory of all questions; clones share it.
#[derive(Clone, Debug)]
pub struct Memory {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    bytes_max: usize,
    state: Mutex<State>,
    /// Told when memory was given back.
    freed: Notify,
    waiting: AtomicUsize,
}

#[derive(Debug, Default)]
struct State {
    used: usize,
    by_caller: HashMap<Caller, usize>,
}

impl Memory {
    pub fn new(bytes_max: usize) -> Memory {
        let shared =
            Shared { bytes_max, state: Mutex::default(), freed: Notify::new(), waiting: AtomicUsize::new(0) };
        Memory { shared: Arc::new(shared) }
    }

    /// Bytes in use.
    pub fn used(&self) -> usize {
        self.shared.state().used
    }

    /// Whether a question waits for memory.
    pub fn is_wanted(&self) -> bool {
        self.shared.waiting.load(Ordering::Relaxed) > 0
    }

    /// The share of a question of `caller`, with room for its answer; `None` when there is none within `wait`.
    pub(super) async fn share(&self, caller: &Caller, wait: Duration) -> Option<Share> {
        if !self.shared.take(caller, ANSWER_BYTES) {
            let _wanted = Wanted::new(&self.shared);
            tokio::time::timeout(wait, self.shared.taken(caller)).await.ok()?;
        }
        let of_question = Question {
            shared: Arc::clone(&self.shared),
            caller: caller.clone(),
            bytes_max: self.shared.bytes_max / OF_QUESTION,
            used: AtomicUsize::new(ANSWER_BYTES),
            refused: AtomicBool::new(false),
        };
        let question = Arc::new(of_question);
        Some(Share {
            answer: Charge { question: Some(Arc::clone(&question)), bytes: ANSWER_BYTES },
            question,
        })
    }
}

/// Counted among those that wait while it is there.
struct Wanted<'a>(&'a Shared);

impl Wanted<'_> {
    fn new(shared: &Shared) -> Wanted<'_> {
        shared.waiting.fetch_add(1, Ordering::Relaxed);
        Wanted(shared)
    }
}

impl Drop for Wanted<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until there is room for an answer, and takes it.
    async fn taken(&self, caller: &Caller) {
        loop {
            let mut freed = pin!(self.freed.notified());
            // Before the look, so that nothing freed in between is missed.
            freed.as_mut().enable();
            if self.take(caller, ANSWER_BYTES) {
                return;
            }
            freed.await;
        }
    }

    fn take(&self, caller: &Caller, bytes: usize) -> bool {
        let mut state = self.state();
        let of_caller = state.by_caller.get(caller).copied().unwrap_or(0);
        if state.used + bytes > self.bytes_max || of_caller + bytes > self.bytes_max / OF_CALLER {
            return false;
        }
        state.used += bytes;
        *state.by_caller.entry(caller.clone()).or_default() += bytes;
        true
    }

    fn give_back(&self, caller: &Caller, bytes: usize) {
        if bytes == 0 {
            return;
        }
        let mut state = self.state();
        state.used = state.used.saturating_sub(bytes);
        if let Some(of_caller) = state.by_caller.get_mut(caller) {
            *of_caller = of_caller.saturating_sub(bytes);
            if *of_caller == 0 {
                state.by_caller.remove(caller);
            }
        }
        drop(state);
        self.freed.notify_waiters();
    }
}

/// What one question takes.
#[derive(Debug)]
pub(super) struct Question {
    shared: Arc<Shared>,
    caller: Caller,
    bytes_max: usize,
    used: AtomicUsize,
    /// It cannot be answered with the memory it may have.
    refused: AtomicBool,
}

impl Question {
    #[cfg(test)]
    pub(super) fn unbounded() -> Arc<Question> {
        let question = Question {
            shared: Memory::new(usize::MAX / 2).shared,
            caller: Caller::Unknown,
            bytes_max: usize::MAX / 4,
            used: AtomicUsize::new(0),
            refused: AtomicBool::new(false),
        };
        Arc::new(question)
    }

    pub(super) fn bytes_max(&self) -> usize {
        self.bytes_max
    }

    /// Ends the question: it needs more than it may have, and has nothing to leave out.
    pub(super) fn refuse(&self) {
        self.refused.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_refused(&self) -> bool {
        self.refused.load(Ordering::Relaxed)
    }

    fn grow(&self, bytes: usize) -> bool {
        let grown = |used: usize| used.checked_add(bytes).filter(|used| *used <= self.bytes_max);
        if self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, grown).is_err() {
            return false;
        }
        let granted = self.shared.take(&self.caller, bytes);
        if !granted {
            self.used.fetch_sub(bytes, Ordering::Relaxed);
        }
        granted
    }

    fn shrink(&self, bytes: usize) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
        self.shared.give_back(&self.caller, bytes);
    }
}

/// A question's share, and of it what is kept for its answer.
#[derive(Debug)]
pub(super) struct Share {
    pub(super) question: Arc<Question>,
    answer: Charge,
}

impl Share {
    /// What an answer of `bytes` holds until it is sent. It is there already: where there is no room for all of it, others
    /// wait until there is.
    pub(super) fn into_answer(mut self, bytes: usize) -> Charge {
        let bytes = bytes.max(ANSWER_BYTES_MIN);
        if !self.answer.resize(&self.question, bytes) {
            self.answer.force(bytes);
        }
        self.answer
    }
}

/// The least that an answer counts: its request, its task and its place in the connection.
const ANSWER_BYTES_MIN: usize = 8 << 10;

/// What one table, or an answer, was granted; given back when it is dropped.
#[derive(Debug, Default)]
pub struct Charge {
    question: Option<Arc<Question>>,
    bytes: usize,
}

impl Charge {
    /// Makes it `bytes`; false, and nothing changes, when there is no room for that.
    pub(super) fn resize(&mut self, question: &Arc<Question>, bytes: usize) -> bool {
        if bytes > self.bytes {
            if !question.grow(bytes - self.bytes) {
                return false;
            }
        } else {
            question.shrink(self.bytes - bytes);
        }
        self.question.get_or_insert_with(|| Arc::clone(question));
        self.bytes = bytes;
        true
    }

    fn force(&mut self, bytes: usize) {
        let Some(question) = self.question.as_ref().filter(|_| bytes > self.bytes) else { return };
        let more = bytes - self.bytes;
        question.used.fetch_add(more, Ordering::Relaxed);
        let mut state = question.shared.state();
        state.used += more;
        *state.by_caller.entry(question.caller.clone()).or_default() += more;
        self.bytes = bytes;
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        if let Some(question) = &self.question {
            question.shrink(self.bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;
    const SOON: Duration = Duration::from_millis(20);

    #[tokio::test]
    async fn a_question_and_a_caller_have_their_part_and_no_more() {
        let memory = Memory::new(64 * MIB);
        let (greedy, other) = (Caller::Named("greedy".into()), Caller::Named("other".into()));
        let mut held = Vec::new();
        let mut charges = Vec::new();
        while let Some(share) = memory.share(&greedy, SOON).await {
            let mut charge = Charge::default();
            assert!(!charge.resize(&share.question, 16 * MIB), "with its answer that is more than a quarter");
            let _ = charge.resize(&share.question, 12 * MIB);
            charges.push(charge);
            held.push(share);
        }
        assert!(memory.used() <= 32 * MIB && held.len() >= 2);
        let share = memory.share(&other, SOON).await.expect("the other half");
        let answer = share.into_answer(100 * MIB);
        assert!(memory.used() > 100 * MIB);
        assert!(memory.share(&other, SOON).await.is_none());
        let waiting = {
            let (memory, other) = (memory.clone(), other.clone());
            tokio::spawn(async move { memory.share(&other, Duration::from_secs(60)).await })
        };
        tokio::time::sleep(SOON).await;
        assert!(memory.is_wanted());
        drop(answer);
        assert!(waiting.await.expect("no panic").is_some(), "it is told of what became free");
        drop((held, charges));
        assert_eq!((memory.used(), memory.is_wanted()), (0, false));
        assert!(memory.shared.state().by_caller.is_empty());
    }
}
