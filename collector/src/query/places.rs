//! Places: so many questions of a kind run at once, and no caller has more than half of them. Others wait in a queue of
//! their caller; a place that becomes free goes to the caller that has the fewest.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

use super::caller::Caller;

/// Questions of one caller that wait; more are refused at once.
pub(super) const WAITING_OF_CALLER_MAX: usize = 64;
/// Questions of all callers that wait.
pub(super) const WAITING_MAX: usize = 1024;

/// All places of a kind; clones share them.
#[derive(Clone, Debug)]
pub(super) struct Places {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    of_caller_max: usize,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    free: usize,
    taken: HashMap<Caller, usize>,
    /// Callers whose questions wait; the one served last stands at the end.
    queues: VecDeque<(Caller, VecDeque<Waiting>)>,
    waiting: usize,
    tickets: u64,
}

#[derive(Debug)]
struct Waiting {
    ticket: u64,
    grant: oneshot::Sender<Place>,
}

/// A place that was taken; it is free again when this is dropped.
#[derive(Debug)]
pub(super) struct Place {
    shared: Arc<Shared>,
    caller: Caller,
}

/// Leaves the queue when the question is given up.
struct Ticket<'a> {
    shared: &'a Shared,
    caller: &'a Caller,
    ticket: u64,
}

impl Places {
    pub(super) fn new(count: usize) -> Places {
        let state =
            State { free: count, taken: HashMap::new(), queues: VecDeque::new(), waiting: 0, tickets: 0 };
        Places { shared: Arc::new(Shared { of_caller_max: count.div_ceil(2), state: Mutex::new(state) }) }
    }

    /// A place for `caller`, waited for up to `wait`; `None` when there is none until then, or too many wait already.
    pub(super) async fn take(&self, caller: &Caller, wait: Duration) -> Option<Place> {
        let shared = &self.shared;
        let (receiver, _ticket) = {
            let mut state = shared.state();
            let queued = state.queues.iter().find(|(of, _)| of == caller).map_or(0, |(_, queue)| queue.len());
            if queued == 0 && state.free > 0 && state.taken_by(caller) < shared.of_caller_max {
                return Some(state.grant(shared, caller));
            }
            if wait.is_zero() || queued >= WAITING_OF_CALLER_MAX || state.waiting >= WAITING_MAX {
                return None;
            }
            let (grant, receiver) = oneshot::channel();
            state.tickets += 1;
            state.waiting += 1;
            let ticket = state.tickets;
            let waiting = Waiting { ticket, grant };
            match state.queues.iter_mut().find(|(of, _)| of == caller) {
                Some((_, queue)) => queue.push_back(waiting),
                None => state.queues.push_back((caller.clone(), VecDeque::from([waiting]))),
            }
            (receiver, Ticket { shared, caller, ticket })
        };
        tokio::time::timeout(wait, receiver).await.ok()?.ok()
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn taken_by(&self, caller: &Caller) -> usize {
        self.taken.get(caller).copied().unwrap_or(0)
    }

    fn grant(&mut self, shared: &Arc<Shared>, caller: &Caller) -> Place {
        self.free -= 1;
        *self.taken.entry(caller.clone()).or_default() += 1;
        Place { shared: Arc::clone(shared), caller: caller.clone() }
    }

    /// The next to be served, taken out of its queue.
    fn next(&mut self, of_caller_max: usize) -> Option<(Caller, Waiting)> {
        if self.free == 0 {
            return None;
        }
        let of_caller = |(at, (caller, _)): (usize, &(Caller, _))| (self.taken_by(caller), at);
        let (taken, at) = self.queues.iter().enumerate().map(of_caller).min()?;
        if taken >= of_caller_max {
            return None;
        }
        let (caller, mut queue) = self.queues.remove(at)?;
        let waiting = queue.pop_front()?;
        self.waiting -= 1;
        if !queue.is_empty() {
            self.queues.push_back((caller.clone(), queue));
        }
        Some((caller, waiting))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let granted = {
            let mut state = self.shared.state();
            state.free += 1;
            if let Some(taken) = state.taken.get_mut(&self.caller) {
                *taken -= 1;
                if *taken == 0 {
                    state.taken.remove(&self.caller);
                }
            }
            let next = state.next(self.shared.of_caller_max);
            next.map(|(caller, waiting)| (waiting.grant, state.grant(&self.shared, &caller)))
        };
        if let Some((grant, place)) = granted {
            // Whoever gave up in this moment gives the place back by dropping it.
            let _ = grant.send(place);
        }
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        let Some(at) = state.queues.iter().position(|(of, _)| of == self.caller) else { return };
        let Some((_, queue)) = state.queues.get_mut(at) else { return };
        let before = queue.len();
        queue.retain(|waiting| waiting.ticket != self.ticket);
        let (gone, empty) = (before - queue.len(), queue.is_empty());
        state.waiting -= gone;
        if empty {
            state.queues.remove(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    fn named(name: &str) -> Caller {
        Caller::Named(name.into())
    }

    #[tokio::test]
    async fn a_caller_with_many_questions_leaves_places_for_others() {
        let places = Places::new(4);
        let (greedy, honest) = (named("greedy"), named("honest"));
        let mut held = Vec::new();
        for _ in 0..2 {
            held.push(places.take(&greedy, Duration::ZERO).await.expect("half of them"));
        }
        assert!(places.take(&greedy, Duration::ZERO).await.is_none(), "the other half is for others");
        let waiting: Vec<_> = (0..WAITING_OF_CALLER_MAX)
            .map(|_| {
                let (places, greedy) = (places.clone(), greedy.clone());
                tokio::spawn(async move { places.take(&greedy, LONG).await })
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(places.take(&greedy, LONG).await.is_none(), "its surplus is refused at once");
        let first = places.take(&honest, Duration::ZERO).await.expect("a place at once");
        let _second = places.take(&honest, Duration::ZERO).await.expect("and another");
        // All are taken, and both wait: the one with fewer is served first.
        drop(first);
        let third = places.take(&honest, LONG).await.expect("a place");
        drop((third, held));
        for waiting in waiting {
            assert!(waiting.await.expect("no panic").is_some());
        }
        let state = places.shared.state();
        assert_eq!((state.waiting, state.queues.len(), state.free), (0, 0, 3));
    }

    #[tokio::test]
    async fn who_gives_up_leaves_the_queue_and_no_place_is_lost() {
        let places = Places::new(1);
        let held = places.take(&named("a"), LONG).await.expect("the only place");
        for name in ["a", "b"] {
            assert!(places.take(&named(name), Duration::from_millis(5)).await.is_none());
        }
        assert_eq!(places.shared.state().waiting, 0);
        drop(held);
        assert!(places.take(&named("b"), Duration::ZERO).await.is_some());
    }
}
