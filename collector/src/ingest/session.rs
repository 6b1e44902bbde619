//! One agent's stream, from its Hello to its end.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use gnomon_clock::{EpochId, Fix, RawNs};
use gnomon_daemon::certificate::Expiry;
use gnomon_flow::escape::{name_of, terminal_safe};
use gnomon_flow::{AgentId, EpochHash};
use gnomon_proto::limits::{BATCH_BYTES_MAX, LABELS_MAX, SENTENCE_BYTES_MAX, TEXT_BYTES_MAX};
use gnomon_proto::v1::agent_message::Body as Said;
use gnomon_proto::{MESSAGE_BYTES_MAX, PROTOCOL_VERSION, v1};
use tokio::sync::{Semaphore, mpsc};
use tonic::{Code, Status, Streaming};

use super::acks::{Outbound, ack, acknowledge, reply};
use super::checker::{Checker, Unchecked, What};
use super::entry;
use super::ledger::Ledger;
use super::refusal::Refusal;
use super::service::Shared;
use crate::fleet::{Introduction, Seat};
use crate::listen::{Connection, Identity, Reason};
use crate::own_streams::SessionStreams;
use crate::store::{Claimed, Evidence, StoreError};
use crate::timekeeper::{Event, differences};

/// An agent that says nothing at first is not waited for longer.
const HELLO_WAIT: Duration = Duration::from_secs(10);
/// A change costs at least this of the window, so that many small ones are bounded too.
const CHANGE_BYTES_MIN: usize = 1024;
/// Changes read but not checked yet.
const UNCHECKED: usize = 64;
/// Epochs of which an agent may say what it saw acknowledged.
const CLAIMS_MAX: usize = 1024;
pub(super) struct Session {
    shared: Arc<Shared>,
    connection: Connection,
    own_streams: SessionStreams,
    outbound: Outbound,
}

/// A text of an agent as it is kept, logged and shown from here on: not too long, on one line, and nothing that could drive a
/// terminal or show a name as another.
fn clean(text: String) -> String {
    clean_to(text, TEXT_BYTES_MAX)
}

fn clean_to(text: String, bytes_max: usize) -> String {
    match name_of(&text, bytes_max) {
        Cow::Borrowed(safe) if safe.len() == text.len() => text,
        safe => safe.into_owned(),
    }
}

/// The same for every text in a heartbeat.
fn clean_all(heartbeat: &mut v1::Heartbeat) {
    let name = |text: &mut String| *text = clean(std::mem::take(text));
    let sentence = |text: &mut String| *text = clean_to(std::mem::take(text), SENTENCE_BYTES_MAX);
    let counts = |of: &mut HashMap<String, u64>| {
        if of.keys().any(|name| name.len() > TEXT_BYTES_MAX || terminal_safe(name) != *name) {
            *of = of.drain().map(|(name, count)| (clean(name), count)).collect();
        }
    };
    for interface in &mut heartbeat.interfaces {
        name(&mut interface.name);
        [&mut interface.mode, &mut interface.error, &mut interface.seen_twice].into_iter().for_each(sentence);
        counts(&mut interface.drops);
        counts(&mut interface.queues);
    }
    for left_out in &mut heartbeat.left_out {
        name(&mut left_out.name);
        sentence(&mut left_out.reason);
    }
    if let Some(spool) = &mut heartbeat.spool {
        sentence(&mut spool.error);
    }
    if let Some(clock) = &mut heartbeat.clock {
        sentence(&mut clock.note);
        name(&mut clock.last_disruption);
    }
}

impl Session {
    pub(super) fn new(
        shared: Arc<Shared>,
        connection: Connection,
        own_streams: SessionStreams,
        outbound: Outbound,
    ) -> Session {
        Session { shared, connection, own_streams, outbound }
    }

    pub(super) async fn run(self, mut inbound: Streaming<v1::AgentMessage>) {
        if let Err(status) = self.converse(&mut inbound).await {
            if matches!(status.code(), Code::InvalidArgument | Code::OutOfRange) {
                self.shared.fleet.refusals().count(Refusal::Message);
            }
            tracing::info!(peer = %self.connection.peer, status = status.message(), "an agent's session ended");
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
        self.belongs(id).await?;
        let name: Arc<str> = clean(hello.name).into();
        let acked = hello.acked.iter().filter_map(|ack| {
            let epoch = EpochId::try_from(ack.epoch.as_ref()?).ok().filter(|epoch| epoch.agent == id.0)?;
            Some((EpochHash::of(&epoch), ack.seq))
        });
        let acked: HashMap<EpochHash, u64> = acked.collect();
        let introduction = Introduction {
            id,
            name: name.to_string(),
            version: clean(hello.version),
            labels: hello.labels.into_iter().take(LABELS_MAX).map(|(k, v)| (clean(k), clean(v))).collect(),
            peer: self.connection.peer.to_string(),
            identity: self.connection.identity.clone(),
        };
        self.shared.fleet.forget_absent(self.shared.clock.monotonic());
        let seat = self.shared.fleet.join(introduction, self.shared.store.now().utc).map_err(|e| {
            self.shared.fleet.refusals().count(Refusal::Agent);
            Status::resource_exhausted(e.to_string())
        })?;
        tracing::info!(agent = %id, %name, peer = %self.connection.peer, "an agent joined");
        if let Identity::Certificate(certificate) = &self.connection.identity {
            let now = self.shared.store.now().utc.unix_ns() / 1_000_000_000;
            if let Some(text) = Expiry::default().look(certificate, now) {
                tracing::warn!(agent = %id, "{text}");
            }
        }

        // Twice what the agent is told: an agent that keeps to it is never waited on, and its heartbeats come through
        // while its entries are stuck.
        let window = Arc::new(Semaphore::new(2 * self.shared.settings.window_bytes));
        let (unchecked, to_check) = mpsc::channel(UNCHECKED);
        // Bounded by the window: every change under way holds some of it.
        let (answers, answered) = mpsc::unbounded_channel();
        let sacrificed = Arc::new(AtomicU64::new(0));
        let asked = acked.keys().copied().chain([EpochHash::of(&epoch)]).collect();
        let checker = Checker {
            shared: Arc::clone(&self.shared),
            agent: id,
            session: seat.number(),
            ledger: Ledger::new(acked),
            sacrificed: Arc::clone(&sacrificed),
            tally: seat.tally(),
            agent_name: name,
            answers,
            complained: None,
            suppressed: 0,
        };
        let claimed = hello.acked.iter().take(CLAIMS_MAX);
        let claimed = claimed.map(|ack| Ok((epoch_of(ack.epoch.as_ref(), id, "hello.acked")?, ack.seq)));
        let claimed = Claimed { epochs: claimed.collect::<Result<_, Status>>()?, acked_by: hello.acked_by };
        self.welcome(id, asked, claimed).await?;
        tokio::spawn(checker.run(to_check));
        tokio::spawn(acknowledge(answered, self.outbound.clone(), seat.tally(), self.shared.store.clone()));
        let talk = Talk { session: self, id, seat: &seat, window, unchecked, sacrificed };
        talk.submit(What::Hello, epoch, CHANGE_BYTES_MIN, 0).await?;
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

    /// An id is its owner's alone: whoever else says it could have the owner's data taken for delivered.
    async fn belongs(&self, id: AgentId) -> Result<(), Status> {
        let (store, identity) = (self.shared.store.clone(), &self.connection.identity);
        let principal = identity.principal();
        let settle = {
            let principal = principal.clone();
            move || store.settle_owner(id, &principal)
        };
        let owner = tokio::task::spawn_blocking(settle)
            .await
            .map_err(|e| Status::internal(e.to_string()))?
            .map_err(|e| Status::unavailable(e.to_string()))?;
        if owner.principal == principal {
            return Ok(());
        }
        let text = format!(
            "agent id {id} belongs to {}, and this is {identity}: if it should be, say \
             `gnomon-collector release {id}` on the collector's host",
            owner.principal
        );
        self.shared.refusals.refused(Reason::AgentId, self.connection.peer, &text);
        Err(Status::permission_denied(text))
    }

    /// What is durable of the epochs that the agent names, and of its newest others.
    async fn welcome(&self, id: AgentId, asked: HashSet<EpochHash>, claimed: Claimed) -> Result<(), Status> {
        let store = self.shared.store.clone();
        let durable = move || {
            let mut durable = store.durable_of(id, &asked)?;
            // Of epochs that the store lost altogether it has nothing, and says so.
            durable.extend(store.claim(id, &claimed)?.into_iter().map(|epoch| (epoch, 0)));
            let acks = durable.iter().map(|(epoch, seq)| ack(&store, epoch, *seq));
            Ok::<Vec<v1::Ack>, StoreError>(acks.collect())
        };
        let durable = tokio::task::spawn_blocking(durable)
            .await
            .map_err(|e| Status::internal(e.to_string()))?
            .map_err(|e| Status::unavailable(e.to_string()))?;
        let welcome = v1::Welcome {
            collector_version: env!("CARGO_PKG_VERSION").to_owned(),
            durable,
            window_bytes: self.shared.settings.window_bytes as u64,
            own_streams: Some(self.own_streams.welcome()),
            store_id: self.shared.store.id(),
        };
        self.say(reply(v1::collector_message::Body::Welcome(welcome))).await
    }

    async fn say(&self, message: v1::CollectorMessage) -> Result<(), Status> {
        self.outbound.send(Ok(message)).await.map_err(|_| Status::cancelled("the agent is gone"))
    }
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
    /// Entries that the agent's spool sacrificed, as it says.
    sacrificed: Arc<AtomicU64>,
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
            Said::Heartbeat(mut heartbeat) => {
                clean_all(&mut heartbeat);
                shared.fleet.forget_absent(shared.clock.monotonic());
                let epoch = epoch_of(heartbeat.epoch.as_ref(), self.id, "heartbeat.epoch")?;
                if let Some(spool) = &heartbeat.spool {
                    let lost = spool.sacrificed_slice_entries.saturating_add(spool.sacrificed_flow_entries);
                    self.sacrificed.store(lost, Ordering::Relaxed);
                }
                let sampled = heartbeat.clock.as_ref().map(|clock| RawNs(clock.raw_ns));
                let raw_is =
                    sampled.and_then(|raw| shared.store.estimate(EpochHash::of(&epoch), raw).ok().flatten());
                self.note_clock(heartbeat.clock.as_ref());
                let news = self.session.own_streams.heard(&heartbeat);
                if !self.seat.heartbeat(heartbeat, shared.store.now().utc, raw_is) {
                    shared.fleet.refusals().count(Refusal::Heartbeat);
                }
                match news {
                    Some(own) => self.session.say(reply(v1::collector_message::Body::OwnStreams(own))).await,
                    None => Ok(()),
                }
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
                self.submit(What::Evidence(evidence), epoch, bytes, 0).await
            }
            Said::Entry(entry) => {
                let epoch = epoch_of(entry.epoch.as_ref(), self.id, "entry.epoch")?;
                let (bytes, expands_to) = (entry.payload.len(), entry::expands_to(&entry));
                self.submit(What::Entry(entry), epoch, bytes, expands_to).await
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

    /// Take the bytes out of the window and the budget, waiting for them if need be, and pass it on. What it decompresses to
    /// is the collector's memory too, and none of the agent's window.
    async fn submit(
        &self,
        what: What,
        epoch: EpochId,
        bytes: usize,
        expands_to: usize,
    ) -> Result<(), Status> {
        let bytes = bytes.clamp(CHANGE_BYTES_MIN, MESSAGE_BYTES_MAX);
        let gone = || Status::unavailable("the collector is stopping");
        let take = |semaphore: &Arc<Semaphore>, bytes: usize| {
            Arc::clone(semaphore).acquire_many_owned(u32::try_from(bytes).unwrap_or(u32::MAX))
        };
        let taken = async {
            let mine = take(&self.window, bytes).await.map_err(|_| gone())?;
            let all = bytes + expands_to.min(BATCH_BYTES_MAX);
            let ours = take(&self.session.shared.budget, all).await.map_err(|_| gone())?;
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
