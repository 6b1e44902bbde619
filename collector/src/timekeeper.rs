//! The collector's own time, and what follows from it: shared by the gate, the sessions, the writer and the API.
//!
//! A timeline of its own ([`CollectorClock`]) is carried on by RAW, so that a step or slew of this machine's clock moves
//! nothing. While nothing proves it, every exchange with an agent is *relative* to this collector; when proof comes, those
//! are moved by what the timeline turned out to be wrong by ([`Rebase`]), and the timeline gets another name, by which
//! agents know that what it said before is void.

mod electorate;
mod event;
mod votes;
mod watch;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use gnomon_clock::{
    AgeUnusable, Authority, Clock, CollectorClock, CollectorNow, CollectorState, EpochId, Fix, FixSource,
    FleetWord, MonoNs, NOTABLE_NS, NtpDaemon, RawNs, Refreshed, Standing, UnprovenReason, UtcNs,
    timesyncd_runs,
};

use gnomon_daemon::certificate_time::CertificateTime;
use gnomon_proto::v1;

use electorate::Electorate;
pub use electorate::Said;
pub use event::{Event, EventKind, Events, differences};
pub use votes::vote;
pub use watch::{AskFleet, Watch, start};

/// A timeline that moves by less keeps its name.
const SAME_TIMELINE_NS: u64 = 1_000_000;
/// Corrections remembered for reports that were under way.
const PAST_MAX: usize = 16;
/// Known for so long, a certificate's word about the time counts, unless the configuration says otherwise.
pub const VOTE_AFTER_NS: u64 = 86_400_000_000_000;
/// Between two events that newcomers contradict this collector.
const DISPUTE_SAID_NS: u64 = 600_000_000_000;
/// An exchange that says something later than now by more than this was made by another time.
const START_OVER_MARGIN_NS: i64 = 1_000_000_000;

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
    /// The time of before is void: exchanges that say something later than this were made by it, whatever proved it then.
    pub undone: Option<UtcNs>,
}

/// What a timeline rests on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Basis {
    /// This machine's own sources proved it.
    Own,
    /// This machine's clock, which nothing proves.
    Machine,
    /// What the fleet told, whether it still says so or not.
    Fleet,
}

/// The timeline as it is kept over a restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Saved {
    pub timeline: u64,
    pub basis: Basis,
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
    /// This machine's own sources prove it: what is told an agent now need never be moved.
    pub settled: bool,
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
    standing: Standing,
    electorate: Electorate,
    vote_after_ns: u64,
    disputed_said: Option<RawNs>,
    /// Corrections are on their way to the exchanges stored, on which the fleet's word rests.
    moving: bool,
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
            standing: Standing::Unproven,
            electorate: Electorate::default(),
            vote_after_ns: VOTE_AFTER_NS,
            disputed_said: None,
            moving: false,
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
            source: state.own.source(raw),
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
            state.own.resume(saved.raw, saved.utc, saved.basis == Basis::Fleet);
            if saved.basis == Basis::Own {
                // The proof holds as long as RAW runs on, and gets vaguer as ever.
                let Saved { raw, utc, err_ns, .. } = *saved;
                state.own.recall(Fix { raw, utc, err_ns, source: FixSource::Kernel });
            }
        } else if saved.basis == Basis::Own {
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
            basis: match state.standing {
                Standing::Own => Basis::Own,
                _ if state.own.is_told_by_fleet(raw) => Basis::Fleet,
                _ => Basis::Machine,
            },
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

    /// From when on a certificate's word about the time counts.
    pub fn set_vote_after(&self, ns: u64) {
        self.state().vote_after_ns = ns;
    }

    /// What the connected agents say of this clock.
    pub fn hear_fleet(&self, said: Vec<Said>) {
        let clock = self.0.clock.as_ref();
        let (raw, now) = (clock.raw(), clock.monotonic());
        let mut state = self.state();
        let vote_after_ns = state.vote_after_ns;
        let voters = state.electorate.hear(said, now, vote_after_ns);
        if state.own.is_proven_by_itself(raw) {
            self.heard(&mut state, raw, &FleetWord::Silent);
        } else if !state.moving {
            self.heard(&mut state, raw, &FleetWord::of(&voters));
        }
    }

    fn heard(&self, state: &mut State, raw: RawNs, word: &FleetWord) {
        let by_ns = state.own.hear_fleet(raw, word);
        if let FleetWord::Disputed { offset_ns, voters, .. } = *word
            && state.disputed_said.is_none_or(|at| raw.since(at) >= DISPUTE_SAID_NS)
        {
            state.disputed_said = Some(raw);
            let text = format!(
                "agents of {voters} identities say that this collector's clock is off by {:+.3} s, but most of them have \
                 no say: they are new or without a certificate",
                offset_ns as f64 / -1e9
            );
            self.note_at(state.own.at(raw).utc, EventKind::Conflict, text, None);
        }
        self.settle(state, raw, by_ns);
    }

    /// Forgets what the fleet, or an earlier process, said of the time and who has a say, and goes by this machine's clock:
    /// undoes a time that was wrong. Everything that rested on it moves back with the corrections to take.
    pub fn start_over(&self) {
        let clock = self.0.clock.as_ref();
        let mut state = self.state();
        state.own.start_over(clock, timesyncd_runs());
        state.electorate.forget();
        state.disputed_said = None;
        let refreshed = state.own.refresh(clock, None);
        let raw = refreshed.sampled.bracket.raw;
        let (by_ns, now) = (refreshed.rebased_by_ns.unwrap_or(0), state.own.at(raw));
        state.standing = state.own.standing(raw);
        let late = i64::try_from(now.err_ns).unwrap_or(i64::MAX).saturating_add(START_OVER_MARGIN_NS);
        let undone = Some(now.utc.saturating_add_ns(late));
        let settled = state.standing == Standing::Own;
        let from = state.timeline;
        state.move_timeline(Rebase { from, to: new_name(), by_ns, err_ns: now.err_ns, settled, undone });
        state.corrections += 1;
        state.last_correction = Some((now.utc, by_ns));
        let text = format!(
            "by command this collector's time was started over from its machine's clock, which moved it by {:+.3} s",
            by_ns as f64 / 1e9
        );
        self.note_at(now.utc, EventKind::Correction, text, Some(by_ns));
        self.settle(&mut state, raw, None);
    }

    /// Who has a say, as it is kept over a restart.
    pub fn voters(&self) -> v1::StoredVoters {
        self.state().electorate.stored()
    }

    pub fn restore_voters(&self, stored: v1::StoredVoters) {
        self.state().electorate.restore(stored);
    }

    /// The timeline moved by `by_ns`, or may have become proven.
    fn settle(&self, state: &mut State, raw: RawNs, by_ns: Option<i64>) {
        let now = state.own.at(raw);
        let is_standing = state.own.standing(raw);
        let was_standing = std::mem::replace(&mut state.standing, is_standing);
        let was_relative = was_standing == Standing::Unproven;
        let settled = is_standing == Standing::Own;
        let moves = match was_standing {
            Standing::Unproven => by_ns.is_some() || now.proven,
            // What was told meanwhile is right within its error.
            Standing::Fleet => settled || by_ns.is_some_and(|by| by.unsigned_abs() > NOTABLE_NS),
            Standing::Own => false,
        };
        if moves {
            let by_ns = by_ns.unwrap_or(0);
            let renamed = by_ns.unsigned_abs() > SAME_TIMELINE_NS;
            let from = state.timeline;
            let to = if renamed { new_name() } else { from };
            state.move_timeline(Rebase { from, to, by_ns, err_ns: now.err_ns, settled, undone: None });
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
        // That is an event of its own, and comes and goes with whoever contradicts.
        let disputed = is == CollectorState::Unproven(UnprovenReason::Disputed);
        let was_proven = matches!(state.said, Some(CollectorState::Proven(_)) | None);
        if state.said.as_ref().map(kind) != Some(kind(&is)) && (!disputed || was_proven) {
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

    /// Corrections that were not applied to the exchanges stored. They are gone then; call
    /// [`rebased`](Self::rebased) when they are.
    pub fn take_rebases(&self) -> Vec<Rebase> {
        std::mem::take(&mut self.state().rebases)
    }

    /// All that were taken are applied.
    pub fn rebased(&self) {
        let mut state = self.state();
        state.moving = !state.rebases.is_empty();
    }

    /// Corrections are not all applied yet.
    pub fn is_moving(&self) -> bool {
        self.state().moving
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
    /// The timeline moves and may get another name; exchanges that rest on it have to follow.
    fn move_timeline(&mut self, rebase: Rebase) {
        self.timeline = rebase.to;
        self.rebases.push(rebase);
        self.moving = true;
        if rebase.from != rebase.to {
            if self.past.len() >= PAST_MAX {
                self.past.remove(0);
            }
            self.past.push(rebase);
        }
    }

    fn moment(&self, raw: RawNs) -> Moment {
        let now = self.own.at(raw);
        let authority = match (now.proven, self.own.agents_rule()) {
            (true, _) => Authority::Collector,
            (false, true) => Authority::Agent,
            (false, false) => Authority::Nobody,
        };
        let settled = self.own.standing(raw) == Standing::Own;
        Moment { now, settled, authority, timeline: self.timeline }
    }
}

#[cfg(test)]
mod tests;
