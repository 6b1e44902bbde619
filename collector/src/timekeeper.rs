//! The collector's own time, and what follows from it: shared by the gate, the sessions, the writer and the API.
//!
//! A timeline of its own ([`CollectorClock`]) is carried on by RAW, so that a step or slew of this machine's clock moves
//! nothing. While nothing proves it, every exchange with an agent is *relative* to this collector; when proof comes, those
//! are moved by what the timeline turned out to be wrong by ([`Rebase`]), and the timeline gets another name, by which
//! agents know that what it said before is void.

mod event;
mod votes;
mod watch;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use gnomon_clock::{
    AgeUnusable, Authority, Clock, CollectorClock, CollectorNow, CollectorState, EpochId, Fix, FixSource,
    MonoNs, NtpDaemon, RawNs, Refreshed, UtcNs, timesyncd_runs,
};

use gnomon_daemon::certificate_time::CertificateTime;

pub use event::{Event, EventKind, Events, differences};
pub use votes::vote;
pub use watch::{AskFleet, Watch, start};

/// Corrections of a proven timeline below this are the ordinary course of things.
const NOTABLE_NS: u64 = 50_000_000;
/// A timeline that moves by less keeps its name.
const SAME_TIMELINE_NS: u64 = 1_000_000;
/// Corrections remembered for reports that were under way.
const PAST_MAX: usize = 16;

/// What to do to the exchanges that were relative to the collector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rebase {
    pub from: u64,
    pub to: u64,
    /// Add this…
    pub by_ns: i64,
    /// …and grant so much more error.
    pub err_ns: u64,
    /// They need not be moved again.
    pub settled: bool,
}

/// The timeline as it is kept over a restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Saved {
    pub timeline: u64,
    pub relative: bool,
    pub boot_id: [u8; 16],
    /// BOOTTIME − MONOTONIC: RAW stands still in a suspend.
    pub asleep_ns: u64,
    pub raw: RawNs,
    pub utc: UtcNs,
    pub err_ns: u64,
}

/// How the time stands, all of one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    pub now: CollectorNow,
    pub authority: Authority,
    pub timeline: u64,
}

/// For people.
#[derive(Clone, Debug)]
pub struct View {
    pub moment: Moment,
    pub state: CollectorState,
    pub source: Option<FixSource>,
    pub age: Result<(), AgeUnusable>,
    pub corrections: u64,
    pub last_correction: Option<(UtcNs, i64)>,
}

/// Clones are the same one.
#[derive(Clone)]
pub struct Timekeeper(Arc<Shared>);

struct Shared {
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
    events: Events,
}

struct State {
    own: CollectorClock,
    boot_id: [u8; 16],
    timeline: u64,
    relative: bool,
    /// The fleet's word while nothing proves this clock.
    agents_rule: bool,
    /// Not taken by the writer yet.
    rebases: Vec<Rebase>,
    past: Vec<Rebase>,
    corrections: u64,
    last_correction: Option<(UtcNs, i64)>,
    said: Option<CollectorState>,
}

fn own_epoch(clock: &dyn Clock) -> EpochId {
    // Without a boot id (no /proc) nothing of an earlier process is taken for this boot's.
    gnomon_clock::open_epoch([0; 16], clock).unwrap_or(EpochId { opened: clock.raw(), ..EpochId::default() })
}

fn new_name() -> u64 {
    use std::hash::BuildHasher;
    // Random by the standard library's own seed; 0 is the name of none.
    std::hash::RandomState::new().hash_one(1u8).max(1)
}

impl Timekeeper {
    pub fn new(clock: Arc<dyn Clock>) -> Timekeeper {
        let epoch = own_epoch(clock.as_ref());
        let own = CollectorClock::new(epoch, clock.as_ref(), timesyncd_runs());
        let state = State {
            own,
            boot_id: epoch.boot_id,
            timeline: new_name(),
            relative: true,
            agents_rule: false,
            rebases: Vec::new(),
            past: Vec::new(),
            corrections: 0,
            last_correction: None,
            said: None,
        };
        Timekeeper(Arc::new(Shared { clock, state: Mutex::new(state), events: Events::default() }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.0.clock
    }

    pub fn monotonic(&self) -> MonoNs {
        self.0.clock.monotonic()
    }

    pub fn events(&self) -> &Events {
        &self.0.events
    }

    /// The collector's time and what it is worth.
    pub fn now(&self) -> CollectorNow {
        self.moment().now
    }

    pub fn moment(&self) -> Moment {
        let raw = self.0.clock.raw();
        self.state().moment(raw)
    }

    /// May records be deleted for their age?
    ///
    /// # Errors
    /// While the time is unproven, or jumped of late (I9).
    pub fn age_usable(&self) -> Result<(), AgeUnusable> {
        let raw = self.0.clock.raw();
        self.state().own.age_usable(raw)
    }

    /// What certificates are judged by: the time while it is proven. A clock that nobody vouches for may be ten years
    /// ahead, and then nobody could come and tell.
    pub fn certificate_time(&self) -> CertificateTime {
        let now = self.now();
        let unix_s = u64::try_from(now.utc.unix_ns() / 1_000_000_000).unwrap_or(0);
        if now.proven { CertificateTime::Known(unix_s) } else { CertificateTime::at_least(0) }
    }

    pub fn view(&self) -> View {
        let raw = self.0.clock.raw();
        let state = self.state();
        View {
            moment: state.moment(raw),
            state: state.own.state(raw),
            source: state.own.source(),
            age: state.own.age_usable(raw),
            corrections: state.corrections,
            last_correction: state.last_correction,
        }
    }

    /// A timeline of an earlier process, if it can be gone on with. Before the first [`Timekeeper::refresh`]. False when
    /// nothing ties it to this one: what was relative to it cannot be moved.
    pub fn resume(&self, saved: &Saved) -> bool {
        let clock = self.0.clock.as_ref();
        let raw = clock.raw();
        let mut state = self.state();
        let runs_on = saved.boot_id == state.boot_id
            && saved.boot_id != [0; 16]
            && saved.raw <= raw
            && clock.suspended_ns().abs_diff(saved.asleep_ns) < 1_000_000;
        if runs_on {
            state.timeline = saved.timeline;
            state.own.resume(saved.raw, saved.utc);
            if !saved.relative {
                // The proof holds as long as RAW runs on, and gets vaguer as ever.
                let Saved { raw, utc, err_ns, .. } = *saved;
                state.own.adopt(Fix { raw, utc, err_ns, source: FixSource::Kernel });
            }
        } else if !saved.relative {
            // What was proven holds whatever became of the machine, and it cannot be earlier than then.
            state.timeline = saved.timeline;
            let err_ns = i64::try_from(saved.err_ns).unwrap_or(i64::MAX);
            state.own.set_floor(raw, saved.utc.saturating_add_ns(-err_ns));
        }
        runs_on
    }

    /// What to keep for the next process.
    pub fn saved(&self) -> Saved {
        let clock = self.0.clock.as_ref();
        let raw = clock.raw();
        let state = self.state();
        Saved {
            timeline: state.timeline,
            relative: state.relative,
            boot_id: state.boot_id,
            asleep_ns: clock.suspended_ns(),
            raw,
            utc: state.own.at(raw).utc,
            err_ns: state.own.at(raw).err_ns,
        }
    }

    /// Looks at this machine's clock. `stepped`: somebody has just set it.
    pub fn refresh(&self, daemon: Option<&mut dyn NtpDaemon>, stepped: bool) -> Refreshed {
        let mut state = self.state();
        if stepped {
            state.own.stepped();
        }
        let refreshed = state.own.refresh(self.0.clock.as_ref(), daemon);
        let raw = refreshed.sampled.bracket.raw;
        if let Some(by_ns) = refreshed.sampled.stepped_by_ns {
            let text = format!("this collector's clock was set by {:+.3} s", by_ns as f64 / 1e9);
            self.note_at(state.own.at(raw).utc, EventKind::Step, text, Some(by_ns));
        }
        self.settle(&mut state, raw, refreshed.rebased_by_ns);
        refreshed
    }

    /// RAW broke (suspend, restore): the collector's timeline begins anew by this machine's clock.
    pub fn disrupted(&self, kind: &'static str) {
        let clock = self.0.clock.as_ref();
        let mut state = self.state();
        state.own.open_epoch(own_epoch(clock), clock, timesyncd_runs());
        drop(state);
        self.note(EventKind::Disruption, format!("this collector's clock broke: {kind}"), None);
    }

    /// What most agents say while this machine's own sources prove nothing: the collector is off by so much, or (`None`)
    /// there is no majority.
    fn settled_by_fleet(&self, word: Option<(i64, u64)>) {
        let raw = self.0.clock.raw();
        let mut state = self.state();
        let Some((off_ns, err_ns)) = word else {
            state.agents_rule = false;
            state.own.set_outvoted(false);
            return;
        };
        // With sources of its own that contradict each other, one more does not make it right.
        let conflict = matches!(
            state.own.state(raw),
            CollectorState::Unproven(
                gnomon_clock::UnprovenReason::Conflict | gnomon_clock::UnprovenReason::Outvoted
            )
        );
        if conflict {
            state.agents_rule = true;
            state.own.set_outvoted(off_ns.unsigned_abs() > err_ns);
            return;
        }
        let now = state.own.at(raw);
        let fix = Fix { raw, utc: now.utc.saturating_add_ns(off_ns), err_ns, source: FixSource::Collector };
        let by_ns = state.own.adopt(fix);
        self.settle(&mut state, raw, by_ns);
    }

    fn proven_by_itself(&self) -> bool {
        let raw = self.0.clock.raw();
        self.state().own.is_proven_by_itself(raw)
    }

    /// The timeline moved by `by_ns`, or may have become proven.
    fn settle(&self, state: &mut State, raw: RawNs, by_ns: Option<i64>) {
        let now = state.own.at(raw);
        let was_relative = std::mem::replace(&mut state.relative, !now.proven);
        if was_relative && (by_ns.is_some() || now.proven) {
            let by_ns = by_ns.unwrap_or(0);
            let from = state.timeline;
            if by_ns.unsigned_abs() > SAME_TIMELINE_NS {
                state.timeline = new_name();
            }
            let rebase = Rebase { from, to: state.timeline, by_ns, err_ns: now.err_ns, settled: now.proven };
            state.rebases.push(rebase);
            if rebase.from != rebase.to {
                if state.past.len() >= PAST_MAX {
                    state.past.remove(0);
                }
                state.past.push(rebase);
            }
        }
        if let Some(by_ns) = by_ns.filter(|by| was_relative || by.unsigned_abs() > NOTABLE_NS) {
            state.corrections += 1;
            state.last_correction = Some((now.utc, by_ns));
            let text = format!("this collector's timeline was corrected by {:+.3} s", by_ns as f64 / 1e9);
            self.note_at(now.utc, EventKind::Correction, text, Some(by_ns));
        }
        let is = state.own.state(raw);
        let kind = |state: &CollectorState| match state {
            // Which of the good states it is matters to nobody.
            CollectorState::Proven(_) => None,
            CollectorState::Unproven(reason) => Some(*reason),
        };
        if state.said.as_ref().map(kind) != Some(kind(&is)) {
            state.said = Some(is);
            let text = match is {
                CollectorState::Proven(_) => {
                    format!("this collector's time is proven within {:.3} ms", now.err_ns as f64 / 1e6)
                }
                CollectorState::Unproven(reason) => format!("this collector's time is unproven: {reason}"),
            };
            self.note_at(now.utc, EventKind::State, text, None);
        }
    }

    /// Corrections that were not applied to the exchanges stored. They are gone then.
    pub fn take_rebases(&self) -> Vec<Rebase> {
        std::mem::take(&mut self.state().rebases)
    }

    /// Puts back what could not be applied.
    pub fn put_back(&self, mut rebases: Vec<Rebase>) {
        let mut state = self.state();
        rebases.append(&mut state.rebases);
        state.rebases = rebases;
    }

    /// How exchanges that stand on `timeline` are brought to the current one: `None` when nobody knows.
    pub fn since_timeline(&self, timeline: u64) -> Option<(i64, u64)> {
        let state = self.state();
        let (mut at, mut by_ns, mut err_ns) = (timeline, 0i64, 0u64);
        for past in &state.past {
            if past.from == at {
                (at, by_ns, err_ns) = (past.to, by_ns.saturating_add(past.by_ns), past.err_ns);
            }
        }
        (at == state.timeline).then_some((by_ns, err_ns))
    }

    /// Something happened to the collector's own time.
    pub fn note(&self, kind: EventKind, text: String, by_ns: Option<i64>) {
        let at = self.now().utc;
        self.note_at(at, kind, text, by_ns);
    }

    fn note_at(&self, at: UtcNs, kind: EventKind, text: String, by_ns: Option<i64>) {
        self.0.events.add(Event { at, who: String::new(), kind, text, by_ns });
    }
}

impl State {
    fn moment(&self, raw: RawNs) -> Moment {
        let now = self.own.at(raw);
        let authority = match (now.proven, self.agents_rule) {
            (true, _) => Authority::Collector,
            (false, true) => Authority::Agent,
            (false, false) => Authority::Nobody,
        };
        Moment { now, authority, timeline: self.timeline }
    }
}

#[cfg(test)]
mod tests;
