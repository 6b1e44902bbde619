//! An agent made by hand, for tests of what a collector does with its disk: it sends records and packets as fast as they
//! are acknowledged, and remembers what it was told. What an entry holds follows from its number, so that everything can
//! be checked by numbers alone.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use gnomon_clock::{Clock, EpochId, Fix, FixSource, KernelClock, RawNs};
use gnomon_flow::slice::SlicedPacket;
use gnomon_flow::{Addresses, DirectionCounters, EpochHash, FlowEndReason, FlowId, FlowKey, FlowRecord};
use gnomon_proto::v1::agent_message::Body as Say;
use gnomon_proto::v1::collector_message::Body as Hear;
use gnomon_proto::v1::ingest_client::IngestClient;
use gnomon_proto::{Message, PROTOCOL_VERSION, v1};
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Endpoint;

use crate::faults::Dice;
use crate::fleet::Collector;

/// Records in an entry of records, which have odd numbers.
pub const RECORDS: u64 = 12;
/// Packets in an entry of packets: of the first flows of the entry before.
pub const PACKETS: u64 = 4;
/// Bytes of a packet, which do not compress.
const PACKET_BYTES: usize = 2_000;
/// Flows of two entries never have the same id.
const ENTRY_FLOWS: u64 = 1_000;
/// Entries under way at most.
const WINDOW: u64 = 16;

/// What the collector said.
#[derive(Clone, Debug, Default)]
pub struct Told {
    /// Everything up to this entry is durable.
    pub acknowledged: u64,
    /// What it had when the session began.
    pub welcome: Option<u64>,
    /// Acknowledged entries, each with how long the journal of faults was then.
    pub marks: Vec<(u64, u64)>,
    /// Entries that were sent, at least once.
    pub sent: u64,
}

/// The agent.
pub struct Feeder {
    runtime: Runtime,
    epoch: EpochId,
    begun: RawNs,
    told: Arc<Mutex<Told>>,
}

/// A session that goes on until it is dropped or the collector goes away.
pub struct Session {
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Feeder {
    pub fn new(agent: u8) -> Result<Feeder> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let begun = KernelClock.raw();
        let epoch = EpochId { agent: [agent; 16], boot_id: [agent; 16], opened: begun };
        Ok(Feeder { runtime, epoch, begun, told: Arc::default() })
    }

    pub fn told(&self) -> Told {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Time goes back: only this was ever acknowledged.
    pub fn forget_behind(&self, acknowledged: u64) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.acknowledged = acknowledged;
        told.marks.clear();
        told.welcome = None;
    }

    /// Begins to send what `collector` does not have. `journal` is what [`Told::marks`] measures.
    pub fn feed(&self, collector: SocketAddr, journal: Option<&Path>) -> Session {
        let (epoch, begun, told) = (self.epoch, self.begun, Arc::clone(&self.told));
        let journal = journal.map(Path::to_owned);
        let session = async move {
            // The collector is killed under it: that is no news.
            let _ = converse(collector, epoch, begun, &told, journal).await;
        };
        Session { task: self.runtime.spawn(session) }
    }

    /// Checks that `collector` has every record and packet of the entries up to `durable`, and nothing twice.
    pub fn check(&self, collector: &Collector, durable: u64) -> Result<()> {
        let Err(missed) = self.look(collector, durable) else { return Ok(()) };
        // What is lost stays lost: a search that passes something by is another fault.
        match self.look(collector, durable) {
            Ok(()) => Err(missed.context("found by a second search only")),
            Err(error) => Err(error),
        }
    }

    fn look(&self, collector: &Collector, durable: u64) -> Result<()> {
        let hash = EpochHash::of(&self.epoch);
        let prefix = format!("{:016x}-", hash.0);
        let mut records: BTreeMap<u64, u64> = BTreeMap::new();
        for flow in flows_as_they_came(collector)? {
            let id = flow["id"].as_str().context("a flow without id")?;
            let Some(rest) = id.strip_prefix(&prefix) else { continue };
            let flow = rest.split('-').next().context("an id without a flow")?;
            *records.entry(u64::from_str_radix(flow, 16)?).or_default() += 1;
        }
        let wanted = (1..=durable).filter(|seq| seq % 2 == 1).flat_map(flows_of);
        hold("record", &records, wanted)?;
        let (code, stdout, stderr) = collector.gnomon(&["pcap", "--write", "-"])?;
        ensure!(code == 0 || code == 1, "gnomon pcap ended with {code}: {stderr}");
        let mut packets: BTreeMap<u64, u64> = BTreeMap::new();
        for packet in packets_of(&stdout)? {
            let number = packet.first_chunk().context("a packet of a few bytes")?;
            ensure!(
                packet == payload(u64::from_le_bytes(*number)),
                "a packet has other bytes than were sent"
            );
            *packets.entry(u64::from_le_bytes(*number)).or_default() += 1;
        }
        let wanted = (2..=durable).filter(|seq| seq % 2 == 0).flat_map(sliced_by);
        hold("packet", &packets, wanted)
    }
}

/// All flows, also those that wait for evidence of a session that has just begun and are in no range of time.
fn flows_as_they_came(collector: &Collector) -> Result<Vec<serde_json::Value>> {
    let (code, stdout, stderr) =
        collector.gnomon(&["search", "", "--by-ingest-time", "-o", "jsonl", "-n", "10000000"])?;
    ensure!(code == 0 || code == 1, "gnomon search ended with {code}: {stderr}");
    let lines = std::str::from_utf8(&stdout)?.lines();
    lines.map(|line| serde_json::from_str(line).with_context(|| format!("{line:?}"))).collect()
}

/// Each of `wanted` is in `found`, and nothing is twice.
fn hold(what: &str, found: &BTreeMap<u64, u64>, wanted: impl Iterator<Item = u64>) -> Result<()> {
    let missing: Vec<u64> = wanted.filter(|n| !found.contains_key(n)).collect();
    let first: Vec<_> = missing.iter().take(10).collect();
    ensure!(missing.is_empty(), "{} of what was acknowledged is gone: {what}s {first:?}, …", missing.len());
    let twice: Vec<_> = found.iter().filter(|(_, times)| **times > 1).take(10).collect();
    ensure!(twice.is_empty(), "there twice: {what}s {twice:?}");
    Ok(())
}

/// The flows of the records in entry `seq`.
fn flows_of(seq: u64) -> impl Iterator<Item = u64> {
    (0..RECORDS).map(move |n| seq * ENTRY_FLOWS + n)
}

/// The flows of the packets in entry `seq`.
fn sliced_by(seq: u64) -> impl Iterator<Item = u64> {
    (0..PACKETS).map(move |n| (seq - 1) * ENTRY_FLOWS + n)
}

/// The bytes of the one packet of a flow: they name it.
fn payload(flow: u64) -> Vec<u8> {
    let mut dice = Dice::new(flow);
    let noise = std::iter::repeat_with(|| dice.below(256) as u8);
    flow.to_le_bytes().into_iter().chain(noise).take(PACKET_BYTES).collect()
}

async fn converse(
    collector: SocketAddr,
    epoch: EpochId,
    begun: RawNs,
    told: &Mutex<Told>,
    journal: Option<PathBuf>,
) -> Result<()> {
    let told = || told.lock().unwrap_or_else(PoisonError::into_inner);
    let channel = Endpoint::from_shared(format!("http://{collector}"))?.tcp_nodelay(true).connect().await?;
    let (say, messages) = mpsc::channel(64);
    let say = |body| {
        let say = say.clone();
        async move { say.send(v1::AgentMessage { body: Some(body) }).await.context("the stream ended") }
    };
    say(Say::Hello(v1::Hello {
        protocol_version: PROTOCOL_VERSION,
        agent_id: epoch.agent.to_vec(),
        name: "feeder".to_owned(),
        version: "test".to_owned(),
        epoch: Some((&epoch).into()),
        ..Default::default()
    }))
    .await?;
    let mut hear = IngestClient::new(channel).stream(ReceiverStream::new(messages)).await?.into_inner();
    let mut sent = None;
    loop {
        let acknowledged = told().acknowledged;
        while let Some(behind) = sent.filter(|sent| *sent < acknowledged + WINDOW) {
            let seq = behind + 1;
            say(Say::Entry(entry(epoch, begun, seq)?)).await?;
            sent = Some(seq);
            let mut told = told();
            told.sent = told.sent.max(seq);
        }
        match hear.message().await?.context("the stream ended")?.body {
            Some(Hear::Welcome(welcome)) => {
                let durable = welcome.durable.iter().map(|ack| ack.seq).max().unwrap_or(0);
                let bracket = KernelClock.bracket();
                let fix = Fix {
                    raw: bracket.raw,
                    utc: bracket.realtime,
                    err_ns: 1_000_000,
                    source: FixSource::Collector,
                };
                say(Say::Clock(v1::ClockReport {
                    epoch: Some((&epoch).into()),
                    fixes: vec![(&fix).into()],
                    ..Default::default()
                }))
                .await?;
                sent = Some(durable);
                let mut told = told();
                told.welcome = Some(durable);
                told.acknowledged = told.acknowledged.max(durable);
            }
            Some(Hear::Ack(ack)) => {
                let len = journal.as_ref().and_then(|path| path.metadata().ok()).map_or(0, |file| file.len());
                let mut told = told();
                told.acknowledged = told.acknowledged.max(ack.seq);
                told.marks.push((ack.seq, len));
            }
            Some(Hear::Exchange(_) | Hear::OwnStreams(_)) | None => {}
        }
        // Not faster than a test can check.
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

pub(crate) fn entry(epoch: EpochId, begun: RawNs, seq: u64) -> Result<v1::Entry> {
    let at = RawNs(begun.0 + seq * 10_000);
    let (kind, payload) = if seq % 2 == 1 {
        let records = flows_of(seq).map(|flow| v1::FlowRecord::from(&record(flow, at))).collect();
        let batch = v1::FlowBatch { interface: "eth0".to_owned(), records, ..Default::default() };
        (v1::EntryKind::Flows, zstd::bulk::compress(&batch.encode_to_vec(), 1)?)
    } else {
        let mut block = Vec::new();
        let flows: Vec<u64> = sliced_by(seq).collect();
        for flow in &flows {
            let data = payload(*flow);
            let packet = SlicedPacket {
                raw: at,
                err_ns: 100,
                flow: FlowId(*flow),
                original_len: data.len() as u32,
                linktype: 1,
                from_responder: false,
                outgoing: false,
                data: &data,
            };
            packet.append_to(&mut block);
        }
        let slices = v1::SliceBlock {
            interface: "eth0".to_owned(),
            packets: flows.len() as u32,
            first_raw_ns: at.0,
            last_raw_ns: at.0,
            block_bytes: block.len() as u32,
            flows,
            block: zstd::bulk::compress(&block, 1)?.into(),
        };
        (v1::EntryKind::Slices, slices.encode_to_vec())
    };
    let crc32c = crc32c::crc32c(&payload);
    Ok(v1::Entry { epoch: Some((&epoch).into()), seq, kind: kind.into(), crc32c, payload: payload.into() })
}

pub(crate) fn record(flow: u64, at: RawNs) -> FlowRecord {
    let [.., a, b, c] = flow.to_be_bytes();
    FlowRecord {
        id: FlowId(flow),
        key: FlowKey {
            ethertype: 0x0800,
            protocol: 17,
            addresses: Addresses::V4 { orig: [10, a, b, c], resp: [192, 0, 2, c] },
            orig_port: 40_000,
            resp_port: u16::from(b),
            ..FlowKey::default()
        },
        first: at,
        // Its packets come with the next entry.
        last: RawNs(at.0 + 15_000),
        stamp_err_ns: 50,
        orig: DirectionCounters { packets: 1, bytes: 2_000, ip_bytes: 1_986, ..DirectionCounters::default() },
        end: Some(FlowEndReason::Idle),
        ..FlowRecord::default()
    }
}

/// The packets of a pcapng file in this machine's order of bytes: what is in its enhanced packet blocks.
fn packets_of(file: &[u8]) -> Result<Vec<&[u8]>> {
    const ENHANCED_PACKET: u32 = 6;
    let number = |at: usize| -> Result<u32> {
        let bytes = file.get(at..at + 4).and_then(<[u8]>::first_chunk).context("a block that is cut")?;
        Ok(u32::from_ne_bytes(*bytes))
    };
    let (mut at, mut packets) = (0, Vec::new());
    while at < file.len() {
        let (kind, len) = (number(at)?, number(at + 4)? as usize);
        ensure!(len >= 12, "a block of {len} bytes");
        if kind == ENHANCED_PACKET {
            let captured = number(at + 20)? as usize;
            packets.push(file.get(at + 28..at + 28 + captured).context("a packet that is cut")?);
        }
        at += len;
    }
    Ok(packets)
}
