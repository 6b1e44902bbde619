//! What a connection is doing: how many requests are under way, how long there was none, and whether its answers are taken.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::limits::{FIRST_REQUEST_TICKS, IDLE_TICKS};
use super::places::Place;
use super::refusal::Reason;

#[derive(Debug, Default)]
struct State {
    requests: usize,
    any: bool,
    quiet_ticks: u32,
    /// Of each answer under way: ticks left for the part that was handed out, 0 while none is.
    answers: Vec<Weak<AtomicU32>>,
}

#[derive(Debug)]
pub(super) struct Activity {
    place: Place,
    state: Mutex<State>,
}

/// A request that is under way, until dropped.
#[derive(Debug)]
pub(super) struct UnderWay {
    activity: Arc<Activity>,
    /// Counted down by [`Activity::tick`].
    pub(super) ticks_left: Arc<AtomicU32>,
}

impl Activity {
    pub(super) fn new(place: Place) -> Arc<Activity> {
        Arc::new(Activity { place, state: Mutex::default() })
    }

    pub(super) fn place(&self) -> &Place {
        &self.place
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request has come. `None` when the connection is being closed for others.
    pub(super) fn begin(self: &Arc<Activity>) -> Option<UnderWay> {
        let mut state = self.state();
        if !self.place.busy() {
            return None;
        }
        state.requests += 1;
        state.any = true;
        let ticks_left = Arc::new(AtomicU32::new(0));
        state.answers.push(Arc::downgrade(&ticks_left));
        Some(UnderWay { activity: Arc::clone(self), ticks_left })
    }

    /// A tick has passed: why the connection has to be closed, if it has to.
    pub(super) fn tick(&self) -> Option<Reason> {
        let mut state = self.state();
        if state.requests == 0 {
            state.quiet_ticks += 1;
            return match (state.any, state.quiet_ticks) {
                (false, ticks) if ticks > FIRST_REQUEST_TICKS => Some(Reason::Silent),
                (true, ticks) if ticks > IDLE_TICKS => Some(Reason::Idle),
                _ => None,
            };
        }
        let mut late = false;
        state.answers.retain(|answer| {
            let Some(ticks) = answer.upgrade() else { return false };
            // Whoever takes the part sets 0 meanwhile: then it is not late.
            if let Ok(1) =
                ticks.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1))
            {
                late = true;
            }
            true
        });
        late.then_some(Reason::NotReading)
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let mut state = self.activity.state();
        state.requests -= 1;
        if state.requests == 0 {
            state.quiet_ticks = 0;
            state.answers.clear();
            self.activity.place.waiting();
        }
    }
}
