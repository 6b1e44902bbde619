//! An agent made by hand that sends many records at a rate, and measures how long each entry waits for its acknowledgement.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use gnomon_clock::{Clock, EpochId, Fix, FixSource, KernelClock, MonoNs, RawNs};
use gnomon_flow::FlowRecord;
use gnomon_proto::v1::agent_message::Body as Say;
use gnomon_proto::v1::collector_message::Body as Hear;
use gnomon_proto::v1::ingest_client::IngestClient;
use gnomon_proto::{Message, PROTOCOL_VERSION, v1};
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Endpoint;

use crate::feeder::record;

/// What is sent.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    /// In each entry.
    pub records: u64,
    pub entries_a_second: u64,
    /// So many, then no more.
    pub entries: u64,
    /// Each flow is told of as it begins, and again as it ends so many entries later; 0: once, as it ends.
    pub open_for: u64,
}

/// What became of it.
#[derive(Clone, Debug, Default)]
pub struct Fate {
    pub entries_sent: u64,
    pub entries_acked: u64,
    /// How long each acknowledged entry waited, from when it was due.
    pub waits: Vec<Duration>,
    pub error: Option<String>,
}

/// A session that sends until its end or until it is dropped.
pub struct Flood {
    _runtime: Runtime,
    fate: Arc<Mutex<Fate>>,
}

impl Flood {
    pub fn start(collector: SocketAddr, agent: u8, rate: Rate) -> Result<Flood> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let fate = Arc::new(Mutex::new(Fate::default()));
        let told = Arc::clone(&fate);
        runtime.spawn(async move {
            if let Err(error) = send(collector, agent, rate, &told).await {
                told.lock().unwrap_or_else(PoisonError::into_inner).error = Some(format!("{error:#}"));
            }
        });
        Ok(Flood { _runtime: runtime, fate })
    }

    pub fn fate(&self) -> Fate {
        self.fate.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The wait that all but one in a hundred stay below.
pub fn p99(waits: &[Duration]) -> Duration {
    let mut waits = waits.to_vec();
    waits.sort_unstable();
    let at = (waits.len() * 99 / 100).min(waits.len().saturating_sub(1));
    waits.get(at).copied().unwrap_or_default()
}

async fn send(collector: SocketAddr, agent: u8, rate: Rate, fate: &Mutex<Fate>) -> Result<()> {
    let fate = || fate.lock().unwrap_or_else(PoisonError::into_inner);
    let begun = KernelClock.raw();
    let epoch = EpochId { agent: [agent; 16], boot_id: [agent; 16], opened: begun };
    let channel = Endpoint::from_shared(format!("http://{collector}"))?.tcp_nodelay(true).connect().await?;
    let (say, messages) = mpsc::channel(4);
    let say = |body| {
        let say = say.clone();
        async move { say.send(v1::AgentMessage { body: Some(body) }).await.context("the stream ended") }
    };
    say(Say::Hello(v1::Hello {
        protocol_version: PROTOCOL_VERSION,
        agent_id: epoch.agent.to_vec(),
        name: format!("flood-{agent}"),
        version: "test".to_owned(),
        epoch: Some((&epoch).into()),
        ..Default::default()
    }))
    .await?;
    let mut hear = IngestClient::new(channel).stream(ReceiverStream::new(messages)).await?.into_inner();
    let bracket = KernelClock.bracket();
    let fix =
        Fix { raw: bracket.raw, utc: bracket.realtime, err_ns: 1_000_000, source: FixSource::Collector };
    say(Say::Clock(v1::ClockReport {
        epoch: Some((&epoch).into()),
        fixes: vec![(&fix).into()],
        ..Default::default()
    }))
    .await?;
    let due: Mutex<VecDeque<(u64, MonoNs)>> = Mutex::default();
    let due = || due.lock().unwrap_or_else(PoisonError::into_inner);
    let sending = async {
        let pause = Duration::from_nanos(1_000_000_000 / rate.entries_a_second.max(1));
        let mut ticks = tokio::time::interval(pause);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        for seq in 1..=rate.entries {
            ticks.tick().await;
            let entry = entry(epoch, begun, seq, rate)?;
            due().push_back((seq, KernelClock.monotonic()));
            say(Say::Entry(entry)).await?;
            fate().entries_sent = seq;
        }
        // The session stays open: what is under way is still to be acknowledged.
        std::future::pending::<Result<()>>().await
    };
    let hearing = async {
        loop {
            let Some(Hear::Ack(ack)) = hear.message().await?.context("the stream ended")?.body else {
                continue;
            };
            let now = KernelClock.monotonic();
            let mut due = due();
            let mut fate = fate();
            while let Some((seq, at)) = due.front().copied().filter(|(seq, _)| *seq <= ack.seq) {
                due.pop_front();
                fate.entries_acked = seq;
                fate.waits.push(Duration::from_nanos(now.since(at)));
            }
        }
    };
    tokio::select! {
        ended = sending => ended,
        ended = hearing => ended,
    }
}

fn entry(epoch: EpochId, begun: RawNs, seq: u64, rate: Rate) -> Result<v1::Entry> {
    let flows = |seq: u64| {
        let at = RawNs(begun.0.saturating_add(seq * 1_000));
        (0..rate.records).map(move |n| record(seq * rate.records + n, at))
    };
    let records: Vec<v1::FlowRecord> = match rate.open_for {
        0 => flows(seq).map(|record| (&record).into()).collect(),
        open_for => {
            let begin = flows(seq).map(|record| FlowRecord { end: None, ..record });
            let ended = seq.checked_sub(open_for).filter(|seq| *seq > 0);
            let end = ended.into_iter().flat_map(flows).map(|record| FlowRecord { revision: 1, ..record });
            begin.chain(end).map(|record| (&record).into()).collect()
        }
    };
    let batch = v1::FlowBatch { interface: "eth0".to_owned(), records, ..Default::default() };
    let payload = zstd::bulk::compress(&batch.encode_to_vec(), 1)?;
    let crc32c = crc32c::crc32c(&payload);
    let kind = v1::EntryKind::Flows.into();
    Ok(v1::Entry { epoch: Some((&epoch).into()), seq, kind, crc32c, payload: payload.into() })
}
