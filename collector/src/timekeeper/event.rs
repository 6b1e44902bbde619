//! What happened to clocks: in the log, counted, and the newest in a list that `gnomon clock --events` shows and that
//! outlives the process.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use gnomon_clock::UtcNs;
use gnomon_proto::v1;

/// Events that are remembered.
const EVENTS_MAX: usize = 256;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// A machine's clock was set.
    Step,
    /// A clock's state is another one.
    State,
    /// RAW broke: suspend, restore.
    Disruption,
    /// Sources contradict each other.
    Conflict,
    /// Times were moved.
    Correction,
}

impl EventKind {
    pub const ALL: [EventKind; 5] = [
        EventKind::Step,
        EventKind::State,
        EventKind::Disruption,
        EventKind::Conflict,
        EventKind::Correction,
    ];

    /// The kind that `name` is the word of.
    pub fn of(name: &str) -> Option<EventKind> {
        EventKind::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// A change of state is told as what it changed to.
    fn tells_state(self) -> bool {
        matches!(self, EventKind::State | EventKind::Conflict)
    }

    pub fn name(self) -> &'static str {
        match self {
            EventKind::Step => "step",
            EventKind::State => "state",
            EventKind::Disruption => "disruption",
            EventKind::Conflict => "conflict",
            EventKind::Correction => "correction",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    pub at: UtcNs,
    /// An agent's name; empty for the collector.
    pub who: String,
    pub kind: EventKind,
    pub text: String,
    pub by_ns: Option<i64>,
}

impl From<Event> for v1::ClockEvent {
    fn from(Event { at, who, kind, text, by_ns }: Event) -> v1::ClockEvent {
        v1::ClockEvent { unix_ns: at.unix_ns(), who, kind: kind.name().to_owned(), text, by_ns }
    }
}

impl TryFrom<v1::ClockEvent> for Event {
    /// The kind that is none.
    type Error = String;

    fn try_from(event: v1::ClockEvent) -> Result<Event, String> {
        let v1::ClockEvent { unix_ns, who, kind, text, by_ns } = event;
        let kind = EventKind::of(&kind).ok_or(kind)?;
        Ok(Event { at: UtcNs::from_unix_ns(unix_ns), who, kind, text, by_ns })
    }
}

/// All that happened since the start counted, and the newest in full, of before the start too.
#[derive(Debug, Default)]
pub struct Events {
    newest: Mutex<VecDeque<Event>>,
    counts: [AtomicU64; EventKind::ALL.len()],
}

impl Events {
    pub fn add(&self, event: Event) {
        let Event { who, kind, text, .. } = &event;
        match kind {
            EventKind::State => tracing::info!(who, kind = kind.name(), "{text}"),
            _ => tracing::warn!(who, kind = kind.name(), "{text}"),
        }
        self.counts[*kind as usize].fetch_add(1, Ordering::Relaxed);
        let mut newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        if newest.len() >= EVENTS_MAX {
            newest.pop_front();
        }
        newest.push_back(event);
    }

    /// What the process before left, its newest last.
    pub fn restore(&self, left: Vec<Event>) {
        let mut newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        let room = EVENTS_MAX.saturating_sub(newest.len());
        for event in left.into_iter().rev().take(room) {
            newest.push_front(event);
        }
    }

    /// How many were added since the start: a list that was kept at this number is not out of date.
    pub fn added(&self) -> u64 {
        self.counts.iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }

    /// Whether this is the last that was told of `who`'s steps, disruptions or state.
    pub fn was_last_told(&self, who: &str, kind: EventKind, text: &str) -> bool {
        let newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        let same_kind =
            |event: &Event| event.kind == kind || (event.kind.tells_state() && kind.tells_state());
        newest.iter().rev().find(|event| event.who == who && same_kind(event)).is_some_and(|e| e.text == text)
    }

    /// The newest last.
    pub fn list(&self) -> Vec<Event> {
        self.newest.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    /// How many there were of each kind.
    pub fn counts(&self) -> [(&'static str, u64); EventKind::ALL.len()] {
        EventKind::ALL.map(|kind| (kind.name(), self.counts[kind as usize].load(Ordering::Relaxed)))
    }
}

/// What two heartbeats in a row tell of an agent's clock.
pub fn differences(
    before: Option<&v1::ClockStatus>,
    now: &v1::ClockStatus,
) -> Vec<(EventKind, String, Option<i64>)> {
    let word = |status: &v1::ClockStatus| status.state().word();
    let mut found = Vec::new();
    let unknown = v1::ClockStatus::default();
    let was = before.unwrap_or(&unknown);
    if now.steps > was.steps {
        let by = (now.last_step_ns != 0).then_some(now.last_step_ns);
        let text = match by {
            Some(by_ns) => format!("its clock was set by {:+.3} s", by_ns as f64 / 1e9),
            None => "its clock was set, by less than can be told from a slew".to_owned(),
        };
        found.push((EventKind::Step, text, by));
    }
    if now.disruptions > was.disruptions {
        found.push((EventKind::Disruption, format!("its clock broke: {}", now.last_disruption), None));
    }
    if now.state != was.state {
        let conflict = now.state() == v1::ClockState::Conflict;
        let kind = if conflict { EventKind::Conflict } else { EventKind::State };
        let good = matches!(now.state(), v1::ClockState::Synced | v1::ClockState::Acquiring);
        let note = if good || now.note.is_empty() { String::new() } else { format!(" ({})", now.note) };
        found.push((kind, format!("its clock is {}{note}", word(now)), None));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_change_is_told_once() {
        let synced = v1::ClockStatus { state: v1::ClockState::Synced.into(), steps: 1, ..Default::default() };
        let kinds = |before: Option<&v1::ClockStatus>, now: &v1::ClockStatus| -> Vec<EventKind> {
            differences(before, now).into_iter().map(|(kind, ..)| kind).collect()
        };
        assert_eq!(kinds(None, &synced), [EventKind::Step, EventKind::State]);
        assert_eq!(kinds(Some(&synced), &synced), []);
        let lied = v1::ClockStatus {
            state: v1::ClockState::Conflict.into(),
            steps: 2,
            last_step_ns: -32_400_000_000_000,
            ..synced.clone()
        };
        let found = differences(Some(&synced), &lied);
        assert_eq!(found[0].1, "its clock was set by -32400.000 s");
        assert_eq!((found[0].2, found[1].0), (Some(-32_400_000_000_000), EventKind::Conflict));
        // An agent that was started again counts from 0.
        assert_eq!(kinds(Some(&lied), &v1::ClockStatus { steps: 0, ..lied.clone() }), []);
    }

    #[test]
    fn what_was_left_comes_first_and_is_not_told_again() {
        let event = |at: i64, kind, text: &str| Event {
            at: UtcNs::from_tai_ns(at),
            who: "probe".to_owned(),
            kind,
            text: text.to_owned(),
            by_ns: None,
        };
        let events = Events::default();
        events.add(event(EVENTS_MAX as i64, EventKind::State, "its clock is synced"));
        events.restore((0..EVENTS_MAX as i64).map(|n| event(n, EventKind::Step, "by 1 s")).collect());
        let list = events.list();
        assert_eq!((list.len(), list[0].at.tai_ns(), events.added()), (EVENTS_MAX, 1, 1));
        assert!(list.is_sorted_by_key(|event| event.at));
        assert!(events.was_last_told("probe", EventKind::Step, "by 1 s"));
        assert!(!events.was_last_told("another", EventKind::Step, "by 1 s"));
        events.add(event(900, EventKind::Conflict, "its clock is in conflict"));
        assert!(!events.was_last_told("probe", EventKind::State, "its clock is synced"));
    }

    #[test]
    fn the_list_is_bounded_and_the_counts_are_not() {
        let events = Events::default();
        for n in 0..EVENTS_MAX + 5 {
            let at = UtcNs::from_tai_ns(n as i64);
            events.add(Event {
                at,
                who: String::new(),
                kind: EventKind::State,
                text: String::new(),
                by_ns: None,
            });
        }
        assert_eq!((events.list().len(), events.list()[0].at.tai_ns()), (EVENTS_MAX, 5));
        assert_eq!(events.counts()[1], ("state", EVENTS_MAX as u64 + 5));
    }
}
