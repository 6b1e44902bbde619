//! What the agent knows of the time, shared by the thread that watches its clocks and the uplink that asks the collector.
//!
//! ```text
//! clock thread (kernel, chronyd, steps, breaks) ─┐            ┌─▶ uplink: reports, heartbeat
//!                                                ├▶ Timekeeper┤
//! uplink (exchange with the collector) ──────────┘            └─▶ evidence file, log, metrics
//! ```
//! Nothing waits for the time: capture runs in every state.

mod evidence;
mod thread;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use gnomon_clock::{
    AgentClock, Bracket, Clock, ClockState, Disruption, EpochId, Estimate, ExchangeFilter, ExchangeRejected,
    ExchangeSample, Fix, FixSource, Markers, MonoNs, RawNs, UtcNs,
};
use gnomon_daemon::certificate_time::CertificateTime;
use gnomon_proto::v1;
use tokio::sync::Notify;

pub use evidence::{Ended, Evidence, KnownTime};
pub use thread::{ClockThread, Duties, start};

/// Fixes waiting to be told. More are not needed: a session begins with all that is known.
const UNTOLD_MAX: usize = 256;
/// Ended epochs that are remembered.
const ENDED_MAX: usize = 16;
/// A local source is passed on this often, and each second until the clock is synchronised.
const TELL_EVERY_NS: u64 = 16_000_000_000;
const TELL_EVERY_NS_UNSYNCED: u64 = 1_000_000_000;
/// Two notices of a step within this are about the same one.
const SAME_STEP_NS: u64 = 200_000_000;

/// What is known of an epoch, to be told to the collector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    pub epoch: EpochId,
    pub fixes: Vec<Fix>,
    /// Of the fixes that came from the collector.
    pub collector_timeline: u64,
    /// What the kernel and chronyd said before this is void.
    pub disowned: Option<RawNs>,
    pub ended: Option<Ended>,
}

/// A look at the clock for people: log, heartbeat, metrics.
#[derive(Clone, Debug, Default)]
pub struct ClockView {
    pub state: ClockState,
    pub estimate: Option<Estimate>,
    pub source: Option<FixSource>,
    pub steps: u64,
    pub last_step: Option<(RawNs, Option<i64>)>,
    pub disruptions: u64,
    pub last_disruption: &'static str,
    pub note: String,
}

/// Clones are the same one.
#[derive(Clone, Debug)]
pub struct Timekeeper(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    known: Mutex<Known>,
    /// The exchange may be due, or there is something to tell.
    news: Notify,
}

#[derive(Debug)]
struct Known {
    clock: AgentClock,
    filter: ExchangeFilter,
    collector_timeline: u64,
    untold: VecDeque<Report>,
    told: Vec<Fix>,
    ended: Vec<(Report, Ended)>,
    disruptions: u64,
    last_disruption: &'static str,
    note: String,
    /// The collector, which showed its certificate, has proof of its own time and told it in this epoch. NTP alone is
    /// anybody's word: one lie years ahead, and no certificate would ever be good again.
    vouched: bool,
    /// A time that was passed for certain, in this process or before.
    passed: Option<KnownTime>,
}

impl Timekeeper {
    /// `evidence`: of earlier processes of this agent, if there were any.
    pub fn new(epoch: EpochId, evidence: Evidence) -> Timekeeper {
        let machine = evidence::machine(&Markers::read());
        let mut ended = evidence.ended;
        let mut passed = evidence.time;
        if evidence.machine != machine {
            // The same boot may be another time namespace, or a machine that was restored: RAW is not the same.
            if let Some((_, last)) = ended.last_mut() {
                "other-machine".clone_into(&mut last.by);
            }
            passed = passed.map(|passed| KnownTime { boot_id: [0; 16], ..passed });
        }
        for (report, how) in &mut ended {
            // The newest of the earlier processes did not know who would follow.
            how.successor.get_or_insert(epoch);
            report.ended = Some(how.clone());
        }
        Timekeeper(Arc::new(Shared {
            known: Mutex::new(Known {
                clock: AgentClock::new(epoch),
                filter: ExchangeFilter::new(),
                collector_timeline: evidence.collector_timeline,
                untold: VecDeque::new(),
                told: Vec::new(),
                ended,
                disruptions: 0,
                last_disruption: "",
                note: String::new(),
                vouched: false,
                passed,
            }),
            news: Notify::new(),
        }))
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn epoch(&self) -> EpochId {
        self.known().clock.epoch()
    }

    /// Comes back when there may be something to tell or to ask. One waiter only.
    pub async fn news(&self) {
        self.0.news.notified().await;
    }

    /// When the next exchange is due.
    pub fn exchange_due(&self, raw: RawNs) -> MonoNs {
        self.known().clock.due(raw).exchange_at
    }

    /// An exchange was begun.
    pub fn exchange_begun(&self, now: MonoNs) {
        self.known().clock.exchanged(now);
    }

    /// What an exchange proves. With another collector, or one that found its clock to have been wrong, what earlier
    /// exchanges said is void.
    ///
    /// # Errors
    /// When it proves nothing.
    pub fn exchanged(
        &self,
        sample: &ExchangeSample,
        collector_timeline: u64,
        collector_proven: bool,
    ) -> Result<Option<Fix>, ExchangeRejected> {
        let mut known = self.known();
        if known.collector_timeline != collector_timeline {
            let void = known.clock.retract(FixSource::Collector);
            if void > 0 {
                tracing::info!(
                    fixes = void,
                    "the collector's timeline is another one: what it said before is void"
                );
            }
            known.collector_timeline = collector_timeline;
            known.filter.reset();
        }
        let fix = known.filter.add(sample)?;
        known.vouched = collector_proven;
        if let Some(fix) = fix {
            known.clock.add(fix);
            known.tell(fix);
        }
        drop(known);
        self.0.news.notify_one();
        Ok(fix)
    }

    /// A fix of a local source. Passed on when it adds something.
    pub fn sampled(&self, fix: Fix) {
        let mut known = self.known();
        // Of before, so that the fix that makes it so is told too.
        let synced = known.clock.state(fix.raw) == ClockState::Synced;
        let disowned = known.clock.disowned();
        let added = known.clock.add(fix);
        let took_back = known.clock.disowned() != disowned;
        if took_back {
            tracing::info!("the machine's clock contradicts what it said before it was set: that is void");
        }
        let every_ns = if synced { TELL_EVERY_NS } else { TELL_EVERY_NS_UNSYNCED };
        let last = known.told.iter().find(|told| told.source == fix.source).copied();
        let adds = took_back
            || last.is_none_or(|last| {
                fix.raw.since(last.raw) >= every_ns
                // A better word, or one that contradicts: at once.
                || fix.err_ns < last.err_ns / 2
                || added.conflict && fix.raw.since(last.raw) >= TELL_EVERY_NS_UNSYNCED / 10
            });
        if adds && added.changed {
            known.tell(fix);
            drop(known);
            self.0.news.notify_one();
        }
    }

    /// Samples were taken now; when to take the next.
    pub fn next_sample(&self, raw: RawNs, now: MonoNs) -> MonoNs {
        let mut known = self.known();
        known.clock.sampled(now);
        known.clock.due(raw).sample_at
    }

    /// The clock was set. True when that is news: a timer and a look at the clock may both notice.
    pub fn stepped(&self, raw: RawNs, by_ns: Option<i64>) -> bool {
        let mut known = self.known();
        if let Some((at, before)) = known.clock.last_step()
            && raw.0.abs_diff(at.0) < SAME_STEP_NS
            && (before.is_none() || by_ns.is_none())
        {
            if before.is_none() && by_ns.is_some() {
                known.clock.measured_step(by_ns);
            }
            return false;
        }
        known.clock.stepped(raw, by_ns);
        known.filter.reset();
        known.told.clear();
        drop(known);
        self.0.news.notify_one();
        true
    }

    /// RAW is not comparable any more: the old epoch is good up to `disruption.last_good`, and what comes is of `epoch`.
    pub fn disrupted(&self, disruption: &Disruption, epoch: EpochId) {
        let mut known = self.known();
        let how = Ended {
            last_good: Some(disruption.last_good),
            successor: Some(epoch),
            by: disruption.kind.name().to_owned(),
        };
        known.end(how);
        known.clock.open_epoch(epoch);
        known.vouched = false;
        known.filter.reset();
        known.told.clear();
        known.disruptions += 1;
        known.last_disruption = disruption.kind.name();
        drop(known);
        self.0.news.notify_one();
    }

    /// Whether evidence about the current epoch holds for `other`, an epoch of the same boot: no break lies between.
    pub fn is_comparable(&self, other: &EpochId) -> bool {
        let known = self.known();
        let at = known.ended.iter().position(|(report, _)| report.epoch == *other);
        let cut = known.ended.iter().rposition(|(_, ended)| !ended.by.is_empty());
        match (at, cut) {
            (Some(at), Some(cut)) => at > cut,
            // Not known here: before everything that is, if anything was cut.
            (None, Some(_)) => known.clock.epoch() == *other,
            (_, None) => true,
        }
    }

    /// Why there is no better evidence, in words.
    pub fn set_note(&self, note: String) {
        self.known().note = note;
    }

    /// Everything known, for a session that begins; nothing of it is waiting any more.
    pub fn all(&self) -> Vec<Report> {
        let mut known = self.known();
        known.untold.clear();
        let ended = known.ended.iter().map(|(report, _)| report.clone());
        ended.chain([known.report()]).collect()
    }

    /// What was learnt since it was last asked.
    pub fn untold(&self) -> Vec<Report> {
        self.known().untold.drain(..).collect()
    }

    /// What to keep for the next process of this agent.
    pub fn evidence(&self, clock: &dyn Clock) -> Evidence {
        let mut known = self.known();
        let mut ended = known.ended.clone();
        ended.push((known.report(), Ended::default()));
        let at = clock.raw();
        let estimate = known.clock.timeline().estimate(at).filter(|_| known.is_trusted(at));
        let time = estimate.map(|estimate| KnownTime {
            boot_id: known.clock.epoch().boot_id,
            raw: at,
            utc: estimate.utc.saturating_add_ns(-i64::try_from(estimate.err_ns).unwrap_or(i64::MAX)),
        });
        known.passed = time.or(known.passed);
        Evidence {
            collector_timeline: known.collector_timeline,
            machine: evidence::machine(&Markers::read()),
            ended,
            time: known.passed,
        }
    }

    /// What certificates are judged by: the time once it is known, else what was known of it last. The machine's own
    /// clock has no say.
    pub fn certificate_time(&self, clock: &dyn Clock) -> CertificateTime {
        let raw = clock.raw();
        let known = self.known();
        let unix_s = |utc: UtcNs| u64::try_from(utc.unix_ns() / 1_000_000_000).unwrap_or(0);
        let estimate = known.clock.timeline().estimate(raw);
        if let Some(estimate) = estimate.filter(|_| known.is_trusted(raw)) {
            return CertificateTime::Known(unix_s(estimate.utc));
        }
        CertificateTime::at_least(known.passed.map_or(0, |passed| {
            // RAW runs on for as long as the machine does.
            let same_boot = passed.boot_id == known.clock.epoch().boot_id && passed.raw <= raw;
            let since_ns = if same_boot { raw.since(passed.raw) } else { 0 };
            unix_s(passed.utc.saturating_add_ns(i64::try_from(since_ns).unwrap_or(i64::MAX)))
        }))
    }

    pub fn view(&self, raw: RawNs) -> ClockView {
        let known = self.known();
        ClockView {
            state: known.clock.state(raw),
            estimate: known.clock.timeline().estimate(raw),
            source: known.clock.timeline().fixes().last().map(|fix| fix.source),
            steps: known.clock.steps(),
            last_step: known.clock.last_step(),
            disruptions: known.disruptions,
            last_disruption: known.last_disruption,
            note: known.note.clone(),
        }
    }

    /// What the heartbeat says of the clock.
    pub fn status(&self, clock: &dyn Clock) -> v1::ClockStatus {
        let bracket: Bracket = clock.bracket();
        let kernel = clock.kernel_status().unwrap_or_default();
        let view = self.view(bracket.raw);
        v1::ClockStatus {
            state: v1::ClockState::from(view.state).into(),
            raw_ns: bracket.raw.0,
            realtime_tai_ns: bracket.civil(&kernel).tai_ns(),
            half_width_ns: bracket.half_width_ns,
            kernel_max_error_ns: kernel.max_error_ns,
            kernel_unsync: kernel.unsync,
            err_ns: view.estimate.map_or(u64::MAX, |estimate| estimate.err_ns),
            source: view.source.map_or(0, |source| v1::FixSource::from(source).into()),
            steps: view.steps,
            last_step_raw_ns: view.last_step.map_or(0, |(raw, _)| raw.0),
            last_step_ns: view.last_step.and_then(|(_, by)| by).unwrap_or(0),
            note: view.note,
            disruptions: view.disruptions,
            last_disruption: view.last_disruption.to_owned(),
        }
    }
}

impl Known {
    fn report(&self) -> Report {
        Report {
            epoch: self.clock.epoch(),
            fixes: self.clock.timeline().fixes().copied().collect(),
            collector_timeline: self.collector_timeline,
            disowned: self.clock.disowned(),
            ended: None,
        }
    }

    fn tell(&mut self, fix: Fix) {
        self.told.retain(|told| told.source != fix.source);
        self.told.push(fix);
        let report = Report { fixes: vec![fix], ..self.report() };
        self.queue(report);
    }

    fn queue(&mut self, report: Report) {
        if self.untold.len() >= UNTOLD_MAX {
            self.untold.pop_front();
        }
        self.untold.push_back(report);
    }

    fn end(&mut self, how: Ended) {
        let report = Report { ended: Some(how.clone()), ..self.report() };
        self.queue(report.clone());
        if self.ended.len() >= ENDED_MAX {
            self.ended.remove(0);
        }
        self.ended.push((report, how));
    }

    fn is_trusted(&self, raw: RawNs) -> bool {
        self.vouched && matches!(self.clock.state(raw), ClockState::Synced | ClockState::Holdover)
    }
}

#[cfg(test)]
mod tests;
