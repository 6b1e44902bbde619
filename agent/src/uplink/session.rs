//! One stream, from Hello to its end.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use gnomon_clock::EpochId;
use gnomon_daemon::certificate_time;
use gnomon_flow::causes::in_one_line;
use gnomon_proto::v1::agent_message::Body;
use gnomon_proto::v1::collector_message::Body as Said;
use gnomon_proto::v1::ingest_client::IngestClient;
use gnomon_proto::{WireError, v1};
use tokio::sync::mpsc;
use tokio::task::block_in_place;
use tokio::time::MissedTickBehavior;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

use super::ack::{AckBeyondSent, Window};
use super::exchange::stamp;
use super::{TimeSource, Uplink};
use crate::spool::{Conflict, Durable, Lane, SpoolEntry};
use crate::timekeeper::{Report, Timekeeper};

/// Messages between this loop and HTTP/2: few, so that a heartbeat does not stand behind megabytes.
const OUTBOUND_MAX: usize = 2;
/// Control messages waiting for a place there.
const CONTROL_MAX: usize = 256;
/// For the collector to answer the call, and to say Welcome.
const WELCOME_TIMEOUT: Duration = Duration::from_secs(10);
const HEARTBEAT: Duration = Duration::from_secs(1);

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum SessionError {
    #[error("cannot connect: {0}")]
    Connect(String),
    #[error("{}", said(.0))]
    Status(Box<tonic::Status>),
    #[error("the collector did not say Welcome within {} s", WELCOME_TIMEOUT.as_secs())]
    NoWelcome,
    #[error("the collector closed the stream")]
    Closed,
    #[error(transparent)]
    Ack(#[from] AckBeyondSent),
    #[error("the collector said something that means nothing: {0}")]
    Wire(#[from] WireError),
    #[error("the collector said {0} where that has no place")]
    OutOfPlace(&'static str),
}

impl From<tonic::Status> for SessionError {
    fn from(status: tonic::Status) -> SessionError {
        SessionError::Status(Box::new(status))
    }
}

/// What the collector said, or why it could not: tonic says only "transport error" of what has a cause.
fn said(status: &tonic::Status) -> String {
    let Some(source) = std::error::Error::source(status) else {
        return format!("{}: {}", status.code(), status.message());
    };
    certificate_time::refused_server(source).unwrap_or_else(|| in_one_line(source))
}

fn message(body: Body) -> v1::AgentMessage {
    v1::AgentMessage { body: Some(body) }
}

fn epoch_of(ack: &v1::Ack) -> Result<EpochId, WireError> {
    let epoch = ack.epoch.as_ref().ok_or_else(|| WireError::new("ack.epoch", "is missing"))?;
    EpochId::try_from(epoch)
}

fn durable_of(ack: &v1::Ack) -> Result<Durable, WireError> {
    Ok(Durable { epoch: epoch_of(ack)?, seq: ack.seq, settled: ack.settled_seq })
}

fn ack_message(acked: &Durable) -> v1::Ack {
    v1::Ack { epoch: Some((&acked.epoch).into()), seq: acked.seq, settled_seq: acked.settled }
}

fn entry_message(entry: SpoolEntry) -> v1::AgentMessage {
    let kind = match entry.lane {
        Lane::Flows => v1::EntryKind::Flows,
        Lane::Slices => v1::EntryKind::Slices,
    };
    message(Body::Entry(v1::Entry {
        epoch: Some((&entry.epoch).into()),
        seq: entry.seq,
        kind: kind.into(),
        crc32c: entry.crc,
        payload: entry.payload.into(),
    }))
}

impl Uplink {
    /// One session. `Ok` only when it was told to stop and nothing is left to send.
    pub(super) async fn session(&mut self, stop: CancellationToken) -> Result<(), SessionError> {
        self.looked_at_certificate = None;
        self.look_at_certificate();
        let channel = self.endpoints.connect(Arc::new(self.own_streams.clone())).await;
        let channel = channel.map_err(|error| SessionError::Connect(error.to_string()))?;
        let mut client = IngestClient::new(channel);
        let (outbound, receiver) = mpsc::channel(OUTBOUND_MAX);
        let acked = self.spool.acked();
        let asked: Vec<EpochId> = acked.iter().map(|acked| acked.epoch).collect();
        let hello = v1::Hello {
            epoch: Some((&self.epoch.get()).into()),
            acked: acked.iter().map(ack_message).collect(),
            acked_by: self.spool.acked_by(),
            ..self.hello.clone()
        };
        outbound.send(message(Body::Hello(hello))).await.map_err(|_| SessionError::Closed)?;
        let clock = self.clock.clone();
        let stream = ReceiverStream::new(receiver).map(move |message| stamp(message, clock.as_ref()));
        let timeout = |_| SessionError::NoWelcome;
        let response =
            tokio::time::timeout(WELCOME_TIMEOUT, client.stream(stream)).await.map_err(timeout)??;
        let mut inbound = response.into_inner();
        let first = tokio::time::timeout(WELCOME_TIMEOUT, inbound.message()).await.map_err(timeout)??;
        let welcome = match first.and_then(|message| message.body) {
            Some(Said::Welcome(welcome)) => welcome,
            Some(_) => return Err(SessionError::OutOfPlace("something else than Welcome first")),
            None => return Err(SessionError::Closed),
        };
        if let Some(own) = &welcome.own_streams {
            self.own_streams.told(own.into());
        }
        let mut state = self.begin(&welcome, &asked)?;
        tracing::info!(url = self.endpoints.url(), version = %welcome.collector_version, "session with the collector");
        self.state.set_error(None);
        self.state.connected.store(true, Ordering::Relaxed);
        self.state.sessions.fetch_add(1, Ordering::Relaxed);

        let mut heartbeats = tokio::time::interval(HEARTBEAT);
        heartbeats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            self.prefetch(&mut state);
            self.ask_time(&mut state);
            self.report_untold(&mut state);
            if stop.is_cancelled()
                && state.entry.is_none()
                && state.control.is_empty()
                && self.spool.is_drained()
            {
                return Ok(());
            }
            let waits_for_time = self.waits_for_time();
            let may_send =
                state.entry.as_ref().is_some_and(|e| !waits_for_time && state.window.fits(e.payload.len()));
            let exchange_wait = self.exchange_wait();
            tokio::select! {
                said = inbound.message() => match said? {
                    Some(v1::CollectorMessage { body: Some(said) }) => self.hear(said, &mut state)?,
                    // Something that a newer collector says.
                    Some(v1::CollectorMessage { body: None }) => {}
                    None => return Err(SessionError::Closed),
                },
                permit = outbound.reserve(), if !state.control.is_empty() || may_send => {
                    let permit = permit.map_err(|_| SessionError::Closed)?;
                    if let Some(control) = state.control.pop_front() {
                        permit.send(message(control));
                    } else if let Some(entry) = state.entry.take() {
                        let bytes = entry.payload.len();
                        state.window.sent(entry.epoch, entry.seq, bytes);
                        self.state.entries_sent.fetch_add(1, Ordering::Relaxed);
                        self.state.bytes_sent.fetch_add(bytes as u64, Ordering::Relaxed);
                        self.state.unacked_bytes.store(state.window.bytes(), Ordering::Relaxed);
                        permit.send(entry_message(entry));
                    }
                }
                () = self.spool.readable(), if state.entry.is_none() => {}
                _ = heartbeats.tick(), if self.heart.is_some() => self.beat(&mut state),
                () = tokio::time::sleep(exchange_wait) => {}
                () = news(self.time.keeper()) => {}
                () = stop.clone().cancelled_owned(), if !state.stopping => state.stopping = true,
            }
        }
    }

    /// Takes the collector's word for what it has, and goes on after it. `asked`: the epochs that Hello named.
    fn begin(&mut self, welcome: &v1::Welcome, asked: &[EpochId]) -> Result<SessionState, SessionError> {
        let said: Vec<Durable> = welcome.durable.iter().map(durable_of).collect::<Result<_, _>>()?;
        let mut durable: HashMap<EpochId, u64> = said.iter().map(|said| (said.epoch, said.seq)).collect();
        block_in_place(|| {
            if self.time.keeper().is_none() {
                // The content of a file is its epoch: the collector may have it from an earlier import.
                said.iter().for_each(|said| self.spool.ack(&said.epoch, said.seq, None));
                self.reader.rewind();
                return;
            }
            for conflict in self.spool.durable(&said, asked, &self.epoch.get()) {
                let Conflict { epoch, claimed, sent } = conflict;
                tracing::error!(
                    %epoch, claimed, sent,
                    "the collector claims entries that this agent never sent: everything not acknowledged is kept and sent under other numbers"
                );
                durable.remove(&epoch);
            }
            self.spool.now_acked_by(welcome.store_id);
            self.reader.reopen();
        });
        self.exchanges.begin_session();
        let mut state = SessionState {
            window: Window::new(welcome.window_bytes, &durable),
            durable,
            entry: None,
            control: std::collections::VecDeque::new(),
            stopping: false,
        };
        match &self.time {
            TimeSource::Live(keeper) => {
                for known in keeper.all() {
                    self.report(&mut state, &known);
                }
            }
            TimeSource::Files(fixes) => {
                for (epoch, fix) in fixes {
                    let fixes = vec![*fix];
                    let known =
                        Report { epoch: *epoch, fixes, collector_timeline: 0, disowned: None, ended: None };
                    state.push(report(epoch, &known));
                }
            }
        }
        Ok(state)
    }

    /// Has the next entry at hand. What the collector has already is passed by.
    fn prefetch(&mut self, state: &mut SessionState) {
        while state.entry.is_none() {
            let Some(entry) = block_in_place(|| self.reader.next_entry()) else { return };
            if state.durable.get(&entry.epoch).is_some_and(|durable| entry.seq <= *durable) {
                self.state.entries_acked.fetch_add(1, Ordering::Relaxed);
                block_in_place(|| self.spool.ack(&entry.epoch, entry.seq, None));
            } else {
                state.entry = Some(entry);
            }
        }
    }

    /// The first exchanges go before the first entry, so that the collector can place it in time at once.
    fn waits_for_time(&self) -> bool {
        self.time.keeper().is_some() && self.exchanges.is_opening()
    }

    fn exchange_wait(&self) -> Duration {
        match &self.time {
            TimeSource::Live(keeper) => {
                let due = self.exchanges.due(keeper, self.clock.raw());
                Duration::from_nanos(due.since(self.clock.monotonic()))
            }
            TimeSource::Files(_) => Duration::from_secs(3600),
        }
    }

    fn ask_time(&mut self, state: &mut SessionState) {
        let TimeSource::Live(keeper) = &self.time else { return };
        if let Some(request) = self.exchanges.request(keeper, self.clock.as_ref()) {
            state.push(Body::Exchange(request));
        }
    }

    fn report_untold(&self, state: &mut SessionState) {
        let Some(keeper) = self.time.keeper() else { return };
        for untold in keeper.untold() {
            self.report(state, &untold);
        }
    }

    fn hear(&mut self, said: Said, state: &mut SessionState) -> Result<(), SessionError> {
        match said {
            Said::Ack(ack) => {
                let epoch = epoch_of(&ack)?;
                let settled = state.window.ack(epoch, ack.seq)?;
                self.state.entries_acked.fetch_add(settled, Ordering::Relaxed);
                self.state.unacked_bytes.store(state.window.bytes(), Ordering::Relaxed);
                // A file can be imported again: what is acknowledged of it is not kept.
                let settled_seq = self.time.keeper().and(ack.settled_seq);
                block_in_place(|| self.spool.ack(&epoch, ack.seq, settled_seq));
                Ok(())
            }
            Said::Exchange(reply) => {
                if let TimeSource::Live(keeper) = &self.time {
                    self.exchanges.reply(&reply, keeper, self.clock.raw());
                }
                self.state.exchanges_rejected.store(self.exchanges.rejected(), Ordering::Relaxed);
                Ok(())
            }
            Said::OwnStreams(own) => {
                self.own_streams.told((&own).into());
                Ok(())
            }
            Said::Welcome(_) => Err(SessionError::OutOfPlace("Welcome twice")),
        }
    }

    /// Tells the collector what is known of the time. What holds for the current epoch holds for every epoch that RAW ran
    /// through without a break, as far as the spool still has records of it.
    fn report(&self, state: &mut SessionState, known: &Report) {
        if !known.fixes.is_empty() || known.ended.is_some() {
            state.push(report(&known.epoch, known));
            let wire = self.spool.wire_epoch(&known.epoch);
            if wire != known.epoch {
                state.push(report(&wire, known));
            }
        }
        let Some(keeper) = self.time.keeper().filter(|keeper| keeper.epoch() == known.epoch) else { return };
        if known.fixes.is_empty() {
            return;
        }
        for epoch in self.spool.comparable_epochs(&known.epoch) {
            if epoch != known.epoch && keeper.is_comparable(&epoch) {
                state.push(report(&self.spool.wire_epoch(&epoch), known));
            }
        }
    }

    fn beat(&mut self, state: &mut SessionState) {
        self.look_at_certificate();
        let clock = self.time.keeper().map(|keeper| keeper.status(self.clock.as_ref()));
        let epoch = self.epoch.get();
        if let Some(heart) = &mut self.heart {
            let mut heartbeat = heart.beat(&epoch, clock);
            heartbeat.own_streams = self.own_streams.sockets().iter().map(Into::into).collect();
            heartbeat.takes_own_streams = true;
            // Of two that wait, the newer one says all.
            state.control.retain(|body| !matches!(body, Body::Heartbeat(_)));
            state.push(Body::Heartbeat(heartbeat));
        }
    }
}

/// Never, where time comes from files.
async fn news(keeper: Option<&Timekeeper>) {
    match keeper {
        Some(keeper) => keeper.news().await,
        None => std::future::pending().await,
    }
}

fn report(epoch: &EpochId, known: &Report) -> Body {
    let ended = known.ended.as_ref().filter(|_| *epoch == known.epoch);
    Body::Clock(v1::ClockReport {
        epoch: Some(epoch.into()),
        fixes: known.fixes.iter().map(v1::Fix::from).collect(),
        collector_timeline: known.collector_timeline,
        ended_raw_ns: ended.and_then(|ended| ended.last_good).map(|raw| raw.0),
        successor: ended.and_then(|ended| ended.successor.as_ref()).map(Into::into),
        ended_by: ended.map(|ended| ended.by.clone()).unwrap_or_default(),
        disowned_before_raw_ns: known.disowned.map(|raw| raw.0),
    })
}

/// What lives as long as the stream.
pub(super) struct SessionState {
    window: Window,
    durable: HashMap<EpochId, u64>,
    /// The next to be sent.
    entry: Option<SpoolEntry>,
    control: std::collections::VecDeque<Body>,
    stopping: bool,
}

impl SessionState {
    fn push(&mut self, body: Body) {
        // A collector that takes nothing for minutes gets the newest evidence, not all of it.
        if self.control.len() >= CONTROL_MAX {
            self.control.pop_front();
        }
        self.control.push_back(body);
    }
}
