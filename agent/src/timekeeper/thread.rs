//! The thread that watches this machine's clocks: each second, ten times a second until they are synchronised, and at once
//! when somebody sets them.

use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use gnomon_clock::{
    ChronyWord, Chronyd, Clock, ClockState, DisruptionWatch, EpochId, Markers, MonoNs, Sampled, Sampler,
    StepEvent, StepStop, StepWatch, timesyncd_runs,
};

use super::{ClockView, Timekeeper};

/// Between writings of the evidence file.
const SAVE_EVERY_NS: u64 = 60_000_000_000;
/// While nothing changes the thread wakes at least this often, and never sleeps shorter than that.
const WAIT_MIN: Duration = Duration::from_millis(1);
const WAIT_MAX: Duration = Duration::from_secs(1);

/// The running thread.
#[derive(Debug)]
pub struct ClockThread {
    thread: JoinHandle<()>,
    stop: StepStop,
}

impl ClockThread {
    /// Ends it; the evidence is saved.
    pub fn stop(self) {
        self.stop.stop();
        if self.thread.join().is_err() {
            tracing::error!("the clock thread panicked");
        }
    }
}

/// What the thread needs besides the clock.
pub struct Duties {
    /// Opens an epoch when RAW broke, and lets everybody know.
    pub open_epoch: Box<dyn Fn() -> EpochId + Send>,
    /// Told once, at each change of state.
    pub changed: Box<dyn Fn(&ClockView) + Send>,
    /// Where the evidence is kept.
    pub path: PathBuf,
}

/// Starts it.
///
/// # Errors
/// When the kernel gives no timer or no thread.
pub fn start(keeper: Timekeeper, clock: Arc<dyn Clock>, duties: Duties) -> std::io::Result<ClockThread> {
    let watch = StepWatch::new()?;
    let stop = watch.stopper();
    let mut work = Work {
        sampler: Sampler::new(timesyncd_runs()),
        disruptions: DisruptionWatch::new(clock.as_ref(), Markers::read()),
        chronyd: Chronyd::default(),
        said: None,
        saved: (MonoNs(0), ClockState::Cold),
        keeper,
        clock,
        duties,
    };
    let thread = std::thread::Builder::new().name("clock".to_owned()).spawn(move || work.run(&watch))?;
    Ok(ClockThread { thread, stop })
}

struct Work {
    keeper: Timekeeper,
    clock: Arc<dyn Clock>,
    duties: Duties,
    sampler: Sampler,
    disruptions: DisruptionWatch,
    chronyd: Chronyd,
    said: Option<ClockState>,
    saved: (MonoNs, ClockState),
}

impl Work {
    fn run(&mut self, watch: &StepWatch) {
        let mut due = self.look(false);
        loop {
            let wait = Duration::from_nanos(due.since(self.clock.monotonic())).clamp(WAIT_MIN, WAIT_MAX);
            match watch.wait(wait) {
                Ok(StepEvent::Stopped) => break,
                Ok(StepEvent::Stepped) => due = self.look(true),
                Ok(StepEvent::TimedOut) if self.clock.monotonic() >= due => due = self.look(false),
                Ok(StepEvent::TimedOut) => {}
                Err(error) => {
                    tracing::error!(%error, "steps of the clock are seen late from now on");
                    std::thread::sleep(WAIT_MAX);
                    due = self.look(false);
                }
            }
        }
        self.save(self.clock.monotonic());
    }

    /// One look at everything; when to look again.
    fn look(&mut self, stepped: bool) -> MonoNs {
        self.check_epoch();
        if stepped {
            self.sampler.stepped();
        }
        let daemon = self.chronyd.daemon(self.clock.monotonic());
        let sampled = self.sampler.sample(self.clock.as_ref(), daemon);
        if let ChronyWord::Failed(error) = &sampled.chrony {
            tracing::debug!(%error, "chronyd does not answer any more");
        }
        self.chronyd.heard(&sampled.chrony);
        let raw = sampled.bracket.raw;
        if stepped || sampled.stepped_by_ns.is_some() {
            self.step(&sampled);
        }
        for fix in sampled.fixes() {
            self.keeper.sampled(fix);
        }
        self.keeper.set_note(note(&sampled));
        let now = self.clock.monotonic();
        let due = self.keeper.next_sample(raw, now);
        let view = self.keeper.view(raw);
        self.say(&view);
        let changed = view.state != self.saved.1 && view.state == ClockState::Synced;
        if changed || now.since(self.saved.0) >= SAVE_EVERY_NS {
            self.saved.1 = view.state;
            self.save(now);
        }
        due
    }

    fn check_epoch(&mut self) {
        let Some(disruption) = self.disruptions.check(self.clock.as_ref(), &Markers::read()) else { return };
        let epoch = (self.duties.open_epoch)();
        tracing::warn!(
            kind = disruption.kind.name(), %epoch, last_good_raw_ns = disruption.last_good.0,
            "the clock was disrupted: a new epoch begins"
        );
        self.keeper.disrupted(&disruption, epoch);
        self.sampler = Sampler::new(timesyncd_runs());
        self.save(self.clock.monotonic());
    }

    fn step(&self, sampled: &Sampled) {
        if !self.keeper.stepped(sampled.bracket.raw, sampled.stepped_by_ns) {
            return;
        }
        match sampled.stepped_by_ns {
            Some(by_ns) => tracing::warn!(
                by_s = by_ns as f64 / 1e9,
                "this machine's clock was set; records keep their true time"
            ),
            None => tracing::info!("this machine's clock was set, by less than can be told from a slew"),
        }
    }

    /// Each state once.
    fn say(&mut self, view: &ClockView) {
        if self.said == Some(view.state) {
            return;
        }
        let was = self.said.map_or("none", ClockState::name);
        let err_ms = view.estimate.map(|estimate| estimate.err_ns as f64 / 1e6);
        let now = view.state.name();
        if view.state == ClockState::Conflict {
            tracing::warn!(was, now, err_ms, source = ?view.source, "the sources of this machine's time contradict each other");
        } else {
            tracing::info!(was, now, err_ms, source = ?view.source, note = %view.note, "the state of this machine's clock");
        }
        self.said = Some(view.state);
        (self.duties.changed)(view);
    }

    fn save(&mut self, now: MonoNs) {
        self.saved.0 = now;
        if let Err(error) = self.keeper.evidence(self.clock.as_ref()).save(&self.duties.path) {
            tracing::warn!(path = %self.duties.path.display(), %error, "cannot keep what is known of the time");
        }
    }
}

/// Why this machine itself has no better evidence.
fn note(sampled: &Sampled) -> String {
    let mut words = Vec::new();
    if let Err(rejected) = &sampled.kernel {
        words.push(rejected.to_string());
    }
    match &sampled.chrony {
        ChronyWord::Rejected(rejected) => words.push(format!("chronyd: {rejected}")),
        ChronyWord::Failed(error) => words.push(format!("chronyd: {error}")),
        ChronyWord::Absent | ChronyWord::Fix(_) => {}
    }
    words.join("; ")
}
