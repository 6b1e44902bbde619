//! One agent's stream, from its Hello to its end.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use gnomon_clock::{EpochId, Fix, MonoNs, RawNs};
use gnomon_flow::{AgentId, EpochHash};
use gnomon_proto::v1::agent_message::Body as Said;
use gnomon_proto::{MESSAGE_BYTES_MAX, Message, PROTOCOL_VERSION, v1};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tonic::{Status, Streaming};

use super::committer::{Answer, Submission};
use super::entry;
use super::service::Shared;
use crate::fleet::{Introduction, Received, Seat, Tally};
use crate::store::{Body, Change, Content, Evidence};
use crate::timekeeper::{Event, differences};

/// An agent that says nothing at first is not waited for longer.
const HELLO_WAIT: Duration = Duration::from_secs(10);
/// A change costs at least this of the window, so that many small ones are bounded too.
const CHANGE_BYTES_MIN: usize = 1024;
/// Changes read but not checked yet.
const UNCHECKED: usize = 64;
/// Bad entries are logged this often at most.
const COMPLAIN_NS: u64 = 60_000_000_000;
/// Length of names and labels that are kept.
const TEXT_BYTES_MAX: usize = 256;
const LABELS_MAX: usize = 64;
/// A heartbeat is kept in memory until the next.
const HEARTBEAT_BYTES_MAX: usize = 256 << 10;
/// Epochs of one session whose gaps are watched.
const EPOCHS_MAX: usize = 1024;

type Outbound = mpsc::Sender<Result<v1::CollectorMessage, Status>>;

pub(super) struct Session {
    shared: Arc<Shared>,
    peer: String,
    outbound: Outbound,
}

/// An entry or a clock report that holds its bytes of the window and the budget.
struct Unchecked {
    what: What,
    epoch: EpochId,
    window: OwnedSemaphorePermit,
    budget: OwnedSemaphorePermit,
    bytes: usize,
}

enum What {
    Hello,
    Evidence(Evidence),
    Entry(v1::Entry),
}

fn reply(body: v1::collector_message::Body) -> v1::CollectorMessage {
    v1::CollectorMessage { body: Some(body) }
}

fn clip(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(TEXT_BYTES_MAX));
    text
}

impl Session {
    pub(super) fn new(shared: Arc<Shared>, peer: String, outbound: Outbound) -> Session {
        Session { shared, peer, outbound }
    }

    pub(super) async fn run(self, mut inbound: Streaming<v1::AgentMessage>) {
        if let Err(status) = self.converse(&mut inbound).await {
            tracing::info!(peer = %self.peer, status = status.message(), "an agent's session ended");
            // Gone is gone.
            let _ = self.outbound.send(Err(status)).await;
        }
    }

    async fn converse(&self, inbound: &mut Streaming<v1::AgentMessage>) -> Result<(), Status> {
        let hello = tokio::time::timeout(HELLO_WAIT, inbound.message())
            .await
            .map_err(|_| Status::deadline_exceeded("no Hello within 10 s"))??;
        let Some(v1::AgentMessage { body: Some(Said::Hello(hello)) }) = hello else {
            return Err(Status::invalid_argument("the first message has to be Hello"));
        };
        if hello.protocol_version != PROTOCOL_VERSION {
            return Err(Status::failed_precondition(format!(
                "the agent speaks protocol {}, this collector {PROTOCOL_VERSION}: use matching versions",
                hello.protocol_version
            )));
        }
        let id = <[u8; 16]>::try_from(&hello.agent_id[..])
            .map(AgentId)
            .map_err(|_| Status::invalid_argument("hello.agent_id has to be 16 bytes"))?;
        let epoch = epoch_of(hello.epoch.as_ref(), id, "hello.epoch")?;
        let name: Arc<str> = clip(hello.name).into();
        let introduction = Introduction {
            id,
            name: name.to_string(),
            version: clip(hello.version),
            labels: hello.labels.into_iter().take(LABELS_MAX).map(|(k, v)| (clip(k), clip(v))).collect(),
            peer: self.peer.clone(),
        };
        let seat = self
            .shared
            .fleet
            .join(introduction, self.shared.store.now().utc)
            .map_err(|e| Status::resource_exhausted(e.to_string()))?;
        tracing::info!(agent = %id, %name, peer = %self.peer, "an agent joined");

        // Twice what the agent is told: an agent that keeps to it is never waited on, and its heartbeats come through
        // while its entries are stuck.
        let window = Arc::new(Semaphore::new(2 * self.shared.settings.window_bytes));
        let (unchecked, to_check) = mpsc::channel(UNCHECKED);
        // Bounded by the window: every change under way holds some of it.
        let (answers, answered) = mpsc::unbounded_channel();
        let checker = Checker {
            shared: Arc::clone(&self.shared),
            tally: seat.tally(),
            agent_name: name,
            answers,
            complained: None,
            suppressed: 0,
        };
        self.welcome(id).await?;
        tokio::spawn(checker.run(to_check));
        tokio::spawn(acknowledge(answered, self.outbound.clone(), seat.tally()));
        let talk = Talk { session: self, id, seat: &seat, window, unchecked };
        talk.submit(What::Hello, epoch, CHANGE_BYTES_MIN).await?;
        loop {
            tokio::select! {
                () = seat.replaced().cancelled() => {
                    return Err(Status::aborted("this agent opened a newer session"));
                }
                () = self.shared.stop.cancelled() => {
                    return Err(Status::unavailable("the collector is stopping"));
                }
                message = inbound.message() => match message? {
                    Some(v1::AgentMessage { body: Some(said) }) => talk.hear(said).await?,
                    Some(v1::AgentMessage { body: None }) => {}
                    None => return Ok(()),
                },
            }
        }
    }

    async fn welcome(&self, id: AgentId) -> Result<(), Status> {
        let store = self.shared.store.clone();
        let durable = tokio::task::spawn_blocking(move || store.durable(id))
            .await
            .map_err(|e| Status::internal(e.to_string()))?
            .map_err(|e| Status::unavailable(e.to_string()))?;
        let welcome = v1::Welcome {
            collector_version: env!("CARGO_PKG_VERSION").to_owned(),
            durable: durable.iter().map(|(epoch, seq)| ack(epoch, *seq)).collect(),
            window_bytes: self.shared.settings.window_bytes as u64,
        };
        self.say(reply(v1::collector_message::Body::Welcome(welcome))).await
    }

    async fn say(&self, message: v1::CollectorMessage) -> Result<(), Status> {
        self.outbound.send(Ok(message)).await.map_err(|_| Status::cancelled("the agent is gone"))
    }
}

fn ack(epoch: &EpochId, seq: u64) -> v1::Ack {
    v1::Ack { epoch: Some(epoch.into()), seq }
}

fn epoch_of(wire: Option<&v1::Epoch>, agent: AgentId, field: &'static str) -> Result<EpochId, Status> {
    let wire = wire.ok_or_else(|| Status::invalid_argument(format!("{field} is missing")))?;
    let epoch = EpochId::try_from(wire).map_err(|e| Status::invalid_argument(e.to_string()))?;
    if epoch.agent != agent.0 {
        return Err(Status::invalid_argument(format!("{field} belongs to another agent than Hello")));
    }
    Ok(epoch)
}

/// The session once the agent was let in.
struct Talk<'a> {
    session: &'a Session,
    id: AgentId,
    seat: &'a Seat,
    window: Arc<Semaphore>,
    unchecked: mpsc::Sender<Unchecked>,
}

impl Talk<'_> {
    async fn hear(&self, said: Said) -> Result<(), Status> {
        let shared = &self.session.shared;
        match said {
            Said::Exchange(request) => {
                // One reading for both: what lies between them is less than what its error grants.
                let moment = shared.store.gate().keeper().moment();
                let exchange = v1::ExchangeReply {
                    id: request.id,
                    t1_raw_ns: request.t1_raw_ns,
                    t2_tai_ns: moment.now.utc.tai_ns(),
                    t3_tai_ns: moment.now.utc.tai_ns(),
                    collector_err_ns: moment.now.err_ns,
                    collector_proven: moment.now.proven,
                    collector_timeline: moment.timeline,
                };
                self.session.say(reply(v1::collector_message::Body::Exchange(exchange))).await
            }
            Said::Heartbeat(heartbeat) => {
                let epoch = epoch_of(heartbeat.epoch.as_ref(), self.id, "heartbeat.epoch")?;
                if heartbeat.encoded_len() > HEARTBEAT_BYTES_MAX {
                    return Err(Status::invalid_argument(format!(
                        "a heartbeat of {} bytes, the limit is {HEARTBEAT_BYTES_MAX}",
                        heartbeat.encoded_len()
                    )));
                }
                let sampled = heartbeat.clock.as_ref().map(|clock| RawNs(clock.raw_ns));
                let raw_is =
                    sampled.and_then(|raw| shared.store.estimate(EpochHash::of(&epoch), raw).ok().flatten());
                self.note_clock(heartbeat.clock.as_ref());
                self.seat.heartbeat(heartbeat, shared.store.now().utc, raw_is);
                Ok(())
            }
            Said::Clock(report) => {
                let epoch = epoch_of(report.epoch.as_ref(), self.id, "clock.epoch")?;
                let fixes: Result<Vec<Fix>, _> = report.fixes.iter().map(Fix::try_from).collect();
                let fixes = fixes.map_err(|e| Status::invalid_argument(e.to_string()))?;
                let bytes = fixes.len() * size_of::<Fix>();
                let successor = report.successor.as_ref();
                let evidence = Evidence {
                    fixes,
                    collector_timeline: report.collector_timeline,
                    disowned: report.disowned_before_raw_ns.map(RawNs),
                    ended: report.ended_raw_ns.map(RawNs),
                    successor: successor
                        .map(|id| epoch_of(Some(id), self.id, "clock.successor"))
                        .transpose()?
                        .filter(|id| *id != epoch),
                };
                self.submit(What::Evidence(evidence), epoch, bytes).await
            }
            Said::Entry(entry) => {
                let epoch = epoch_of(entry.epoch.as_ref(), self.id, "entry.epoch")?;
                let bytes = entry.payload.len();
                self.submit(What::Entry(entry), epoch, bytes).await
            }
            Said::Hello(_) => Err(Status::invalid_argument("Hello was said already")),
        }
    }

    /// What the agent's clock went through since its last heartbeat.
    fn note_clock(&self, clock: Option<&v1::ClockStatus>) {
        let Some(clock) = clock else { return };
        let keeper = self.session.shared.store.gate().keeper();
        let before = self.seat.clock();
        for (kind, text, by_ns) in differences(before.as_ref(), clock) {
            let who = self.seat.name();
            // The first heartbeat after this collector's start says again what the process before may have written down.
            if before.is_none() && keeper.events().was_last_told(&who, kind, &text) {
                continue;
            }
            keeper.events().add(Event { at: keeper.now().utc, who, kind, text, by_ns });
        }
    }

    /// Take the bytes out of the window and the budget, waiting for them if need be, and pass it on.
    async fn submit(&self, what: What, epoch: EpochId, bytes: usize) -> Result<(), Status> {
        let bytes = bytes.clamp(CHANGE_BYTES_MIN, MESSAGE_BYTES_MAX);
        let gone = || Status::unavailable("the collector is stopping");
        let take = |semaphore: &Arc<Semaphore>| {
            Arc::clone(semaphore).acquire_many_owned(u32::try_from(bytes).unwrap_or(u32::MAX))
        };
        let taken = async {
            let mine = take(&self.window).await.map_err(|_| gone())?;
            let ours = take(&self.session.shared.budget).await.map_err(|_| gone())?;
            let unchecked = Unchecked { what, epoch, window: mine, budget: ours, bytes };
            self.unchecked.send(unchecked).await.map_err(|_| gone())
        };
        tokio::select! {
            done = taken => done,
            () = self.seat.replaced().cancelled() => {
                Err(Status::aborted("this agent opened a newer session"))
            }
            () = self.session.shared.stop.cancelled() => Err(gone()),
        }
    }
}

/// Turns entries into changes, in their order, beside the task that reads: an exchange must not wait for it.
struct Checker {
    shared: Arc<Shared>,
    tally: Tally,
    agent_name: Arc<str>,
    answers: mpsc::UnboundedSender<Answer>,
    complained: Option<MonoNs>,
    suppressed: u64,
}

impl Checker {
    async fn run(mut self, mut unchecked: mpsc::Receiver<Unchecked>) {
        let mut last_seq: HashMap<EpochHash, u64> = HashMap::new();
        while let Some(Unchecked { what, epoch, window, budget, bytes }) = unchecked.recv().await {
            let body = match what {
                What::Hello => Body::Hello,
                What::Evidence(evidence) => Body::Evidence(evidence),
                What::Entry(entry) => {
                    let hash = EpochHash::of(&epoch);
                    let seq = entry.seq;
                    if last_seq.len() >= EPOCHS_MAX {
                        last_seq.clear();
                    }
                    let before = last_seq.insert(hash, seq);
                    let missing = before.map_or(0, |b| seq.saturating_sub(b.saturating_add(1)));
                    Body::Entry { seq, content: self.check(hash, entry, missing).await }
                }
            };
            let change = Change { epoch, agent_name: Arc::clone(&self.agent_name), body };
            let answer = self.answers.clone();
            if !self.shared.committer.submit(Submission { change, bytes, answer, window, budget }) {
                return;
            }
        }
    }

    async fn check(&mut self, hash: EpochHash, entry: v1::Entry, missing: u64) -> Content {
        let checked = entry::check(&entry, &self.shared.store.enrichment());
        let bad = u64::from(checked.bad.is_some());
        self.tally.received(&Received { entries: 1, bad, missing, ..Received::default() });
        if let Some(bad) = checked.bad {
            let seq = entry.seq;
            let quarantine = self.shared.quarantine.clone();
            let kept = tokio::task::spawn_blocking(move || quarantine.keep(hash, &entry)).await;
            let kept = match kept {
                Ok(Ok(Some(path))) => path.display().to_string(),
                Ok(Ok(None)) => "nowhere: the quarantine is full".to_owned(),
                Ok(Err(error)) => format!("nowhere: {error}"),
                Err(error) => format!("nowhere: {error}"),
            };
            self.complain(seq, &bad, checked.records_bad, &kept);
        }
        checked.content
    }

    fn complain(&mut self, seq: u64, bad: &entry::BadEntry, records: u64, kept: &str) {
        let now = self.shared.clock.monotonic();
        if self.complained.is_some_and(|at| now.since(at) < COMPLAIN_NS) {
            self.suppressed += 1;
            return;
        }
        let more = std::mem::take(&mut self.suppressed);
        tracing::error!(
            agent = %self.agent_name, seq, %bad, records, kept, more,
            "an entry cannot be understood: it is kept aside and acknowledged"
        );
        self.complained = Some(now);
    }
}

/// Say what is durable: one acknowledgement an epoch for all that became so together.
async fn acknowledge(mut answered: mpsc::UnboundedReceiver<Answer>, outbound: Outbound, tally: Tally) {
    while let Some(first) = answered.recv().await {
        let mut acks: HashMap<EpochId, u64> = HashMap::new();
        let mut received = Received::default();
        let mut windows = Vec::new();
        let mut next = Some(first);
        while let Some(Answer { epoch, entry, committed, window }) = next {
            received.flows += committed.records;
            received.packets += committed.packets;
            received.stale += committed.stale;
            received.duplicate += u64::from(committed.duplicate);
            received.bad += u64::from(committed.refused);
            if let Some(seq) = committed.durable_seq.filter(|_| entry) {
                let acked = acks.entry(epoch).or_default();
                *acked = seq.max(*acked);
            }
            windows.push(window);
            next = answered.try_recv().ok();
        }
        tally.received(&received);
        for (epoch, seq) in acks {
            let message = reply(v1::collector_message::Body::Ack(ack(&epoch, seq)));
            // Once the agent is gone, what was under way still counts.
            let _ = outbound.send(Ok(message)).await;
        }
    }
}
