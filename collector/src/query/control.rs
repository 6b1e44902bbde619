//! When a question under way has to stop, and why its answer is not whole.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use gnomon_clock::{Clock, MonoNs};

use super::execute::QueryError;
use super::memory::Question;
use crate::store::{Progress, Stop};

/// Tells a scan when to stop.
pub(super) struct Control {
    pub(super) clock: Arc<dyn Clock>,
    /// MONOTONIC.
    pub(super) deadline: AtomicU64,
    pub(super) deadline_ms: u64,
    /// The deadline is put off with every step.
    pub(super) goes_on: bool,
    pub(super) cancelled: Box<dyn Fn() -> bool + Send + Sync>,
    /// Of a walk.
    pub(super) progress: Progress,
    /// What tables of the question are charged to.
    pub(super) memory: Arc<Question>,
}

impl Control {
    pub(super) fn now(&self) -> MonoNs {
        self.clock.monotonic()
    }

    /// Cheap enough to be asked for every block.
    pub(super) fn stop(&self) -> Stop {
        let now = self.clock.monotonic().0;
        if (self.cancelled)() || self.memory.is_refused() || now >= self.deadline.load(Ordering::Relaxed) {
            return Stop::Now;
        }
        if self.goes_on {
            let deadline_ns = self.deadline_ms.saturating_mul(1_000_000);
            self.deadline.fetch_max(now.saturating_add(deadline_ns), Ordering::Relaxed);
        }
        Stop::GoOn
    }

    /// # Errors
    /// [`QueryError::Cancelled`] when nobody waits for the answer any more, [`QueryError::TooLarge`] when there is none in
    /// the memory that the question may have.
    pub(super) fn check(&self) -> Result<(), QueryError> {
        if (self.cancelled)() {
            return Err(QueryError::Cancelled);
        }
        match self.memory.is_refused() {
            true => Err(QueryError::TooLarge { limit_bytes: self.memory.bytes_max() }),
            false => Ok(()),
        }
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
