//! What a hostile or broken peer says to a collector that has 1 GiB of memory, beside a real agent on live traffic: every
//! message of the stream with extremes, floods, lies and bombs. The collector lives, the agent loses nothing, and what was
//! refused is counted.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use gnomon_clock::{Clock, EpochId, KernelClock, RawNs};
use gnomon_integration_tests::fleet::{Agent, Collector, built_binaries, eventually};
use gnomon_integration_tests::forward::Forward;
use gnomon_integration_tests::memory_limit::{MemoryLimit, peak_bytes};
use gnomon_integration_tests::netns::{Netns, skip};
use gnomon_integration_tests::traffic;
use gnomon_proto::v1::agent_message::Body as Say;
use gnomon_proto::v1::attribute::Value;
use gnomon_proto::v1::collector_message::Body as Hear;
use gnomon_proto::v1::ingest_client::IngestClient;
use gnomon_proto::{Message, PROTOCOL_VERSION, v1};
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::codec::CompressionEncoding;
use tonic::transport::Endpoint;
use tonic::{Status, Streaming};

const MEMORY_BYTES: u64 = 1 << 30;
/// What 99 of 100 acknowledgements of an honest peer take at most. Unoptimised programs beside others take longer.
const ACK_MS_MAX: u64 = if cfg!(debug_assertions) { 5_000 } else { 1_000 };
const PACKETS_PER_FLOW: u64 = 20;
const LOAD: &str = "ip.dst == 10.9.0.2 && port.dst >= 1000";

/// A peer made by hand.
struct Peer {
    epoch: EpochId,
    say: mpsc::Sender<v1::AgentMessage>,
    hear: Streaming<v1::CollectorMessage>,
}

fn hello(epoch: &EpochId, name: &str) -> v1::Hello {
    v1::Hello {
        protocol_version: PROTOCOL_VERSION,
        agent_id: epoch.agent.to_vec(),
        name: name.to_owned(),
        version: "test".to_owned(),
        epoch: Some(epoch.into()),
        ..Default::default()
    }
}

impl Peer {
    async fn dial(collector: SocketAddr, hello: v1::Hello, compressed: bool) -> Result<Peer> {
        let channel =
            Endpoint::from_shared(format!("http://{collector}"))?.tcp_nodelay(true).connect().await?;
        let mut client = IngestClient::new(channel).max_encoding_message_size(usize::MAX);
        if compressed {
            client = client.send_compressed(CompressionEncoding::Zstd);
        }
        let epoch = hello.epoch.as_ref().and_then(|epoch| EpochId::try_from(epoch).ok()).unwrap_or_default();
        let (say, messages) = mpsc::channel(64);
        say.send(v1::AgentMessage { body: Some(Say::Hello(hello)) }).await?;
        let hear = client.stream(ReceiverStream::new(messages)).await?.into_inner();
        Ok(Peer { epoch, say, hear })
    }

    async fn join(collector: SocketAddr, n: u32) -> Result<Peer> {
        let mut agent = [0xee; 16];
        agent[..4].copy_from_slice(&n.to_be_bytes());
        let epoch =
            EpochId { agent, boot_id: [3; 16], opened: RawNs(KernelClock.raw().0 - 3_600_000_000_000) };
        Peer::dial(collector, hello(&epoch, &format!("peer-{n}")), false).await
    }

    async fn say(&self, body: Say) -> Result<()> {
        let sent = tokio::time::timeout(
            Duration::from_secs(20),
            self.say.send(v1::AgentMessage { body: Some(body) }),
        );
        sent.await.context("the collector does not read on")?.context("the stream ended")
    }

    fn entry(&self, seq: u64, kind: v1::EntryKind, payload: Vec<u8>) -> Say {
        let crc32c = crc32c::crc32c(&payload);
        let epoch = Some((&self.epoch).into());
        Say::Entry(v1::Entry { epoch, seq, kind: kind.into(), crc32c, payload: payload.into() })
    }

    fn batch(&self, seq: u64, batch: &v1::FlowBatch) -> Say {
        let payload = zstd::bulk::compress(&batch.encode_to_vec(), 1).unwrap_or_default();
        self.entry(seq, v1::EntryKind::Flows, payload)
    }

    fn fixes(&self, count: u64) -> Say {
        let bracket = KernelClock.bracket();
        let fix = |n: u64| v1::Fix {
            raw_ns: bracket.raw.0 - n * 1_000_003,
            tai_ns: bracket.realtime.tai_ns() - (n * 1_000_003).cast_signed(),
            err_ns: 1_000_000 + n,
            source: v1::FixSource::Collector.into(),
        };
        let fixes = (0..count).map(fix).collect();
        Say::Clock(v1::ClockReport { epoch: Some((&self.epoch).into()), fixes, ..Default::default() })
    }

    /// The next thing that is said, or why the stream ended.
    async fn hear(&mut self) -> Result<Hear, Status> {
        let heard = tokio::time::timeout(Duration::from_secs(60), self.hear.message()).await;
        let heard = heard.map_err(|_| Status::deadline_exceeded("nothing within 60 s"))??;
        heard.and_then(|message| message.body).ok_or_else(|| Status::cancelled("the stream ended"))
    }

    async fn acknowledged(&mut self, seq: u64) -> Result<()> {
        loop {
            if let Hear::Ack(ack) = self.hear().await?
                && ack.seq >= seq
            {
                return Ok(());
            }
        }
    }

    /// Reads on until the collector ends the stream; how.
    async fn ended(mut self) -> Status {
        loop {
            if let Err(status) = self.hear().await {
                return status;
            }
        }
    }
}

fn record(id: u64) -> v1::FlowRecord {
    let raw = KernelClock.raw().0;
    let way = || Some(v1::Direction { packets: 1, bytes: 80, ip_bytes: 66, ..Default::default() });
    v1::FlowRecord {
        id,
        key: Some(v1::FlowKey {
            ethertype: 0x800,
            protocol: 17,
            orig_address: vec![10, 7, (id >> 8) as u8, id as u8],
            resp_address: vec![10, 7, 0, 1],
            orig_port: 1_000,
            resp_port: 53,
            ..Default::default()
        }),
        first_raw_ns: raw - 1_000,
        last_raw_ns: raw,
        orig: way(),
        resp: way(),
        end: v1::EndReason::Idle.into(),
        ..Default::default()
    }
}

/// The shortest record there is.
fn shortest() -> v1::FlowRecord {
    v1::FlowRecord {
        key: Some(v1::FlowKey::default()),
        orig: Some(v1::Direction::default()),
        resp: Some(v1::Direction::default()),
        ..Default::default()
    }
}

fn with_value(id: u64, field: u32, value: Value) -> v1::FlowRecord {
    v1::FlowRecord { attributes: vec![v1::Attribute { field, value: Some(value) }], ..record(id) }
}

fn alert(n: u64) -> v1::Alert {
    v1::Alert {
        raw_ns: KernelClock.raw().0,
        said_unix_ns: n.cast_signed(),
        community_id: "1:x".to_owned(),
        protocol: 17,
        src_address: vec![10, 7, 0, 9],
        dst_address: vec![10, 7, 0, 1],
        src_port: 1_000,
        dst_port: 53,
        signature: format!("signature {n}"),
        signature_id: n,
        ..Default::default()
    }
}

fn batch_of(records: Vec<v1::FlowRecord>) -> v1::FlowBatch {
    v1::FlowBatch { interface: "eth0".to_owned(), records, alerts: Vec::new() }
}

/// Payloads that are no agent's.
fn payloads() -> Result<Vec<(v1::EntryKind, Vec<u8>)>> {
    let long = |bytes: usize| "n".repeat(bytes);
    let mut silent = Vec::new();
    zstd::stream::copy_encode(&vec![0u8; 300 << 20][..], &mut silent, 1)?;
    let block = |change: &dyn Fn(&mut v1::SliceBlock)| {
        let mut block = v1::SliceBlock {
            interface: "eth0".to_owned(),
            packets: 1,
            first_raw_ns: 1,
            last_raw_ns: 2,
            block_bytes: 64,
            flows: vec![1],
            block: zstd::bulk::compress(&[0; 64], 1).unwrap_or_default().into(),
        };
        change(&mut block);
        block.encode_to_vec()
    };
    let ids = [1, 4, 20, 50, 66, 999, 3_000, 65_535, u32::MAX];
    let way = v1::Direction { packets: u64::MAX, bytes: u64::MAX, ..Default::default() };
    let batches = [
        v1::FlowBatch { interface: long(30 << 20), records: vec![record(1)], alerts: Vec::new() },
        v1::FlowBatch { interface: long(256), records: vec![record(1)], alerts: Vec::new() },
        batch_of(vec![shortest(); 3_000_000]),
        batch_of(vec![shortest(); 900_000]),
        batch_of(vec![v1::FlowRecord::default(); 3_000_000]),
        v1::FlowBatch { alerts: vec![v1::Alert::default(); 1_000_000], ..Default::default() },
        batch_of(vec![v1::FlowRecord { attributes: vec![v1::Attribute::default(); 500_000], ..record(1) }]),
        batch_of(vec![with_value(1, 1_010, Value::Text(long(7 << 20)))]),
        batch_of(ids.map(|id| with_value(1, id, Value::Integer(1))).to_vec()),
        batch_of(vec![v1::FlowRecord { orig: Some(way), sliced_bytes: u64::MAX, ..record(1) }]),
        batch_of(vec![v1::FlowRecord { first_raw_ns: 0, last_raw_ns: u64::MAX, ..record(1) }]),
    ];
    let blocks = [
        block(&|block| block.interface = "n".repeat(1 << 20)),
        block(&|block| block.block_bytes = u32::MAX),
        block(&|block| block.packets = u32::MAX),
        block(&|block| block.flows = vec![7; 100_000]),
        block(&|block| block.last_raw_ns = 0),
    ];
    let mut payloads: Vec<_> = blocks.map(|block| (v1::EntryKind::Slices, block)).into();
    for batch in &batches {
        payloads.push((v1::EntryKind::Flows, zstd::bulk::compress(&batch.encode_to_vec(), 1)?));
    }
    payloads
        .extend([silent, b"no frame at all".to_vec(), Vec::new()].map(|bytes| (v1::EntryKind::Flows, bytes)));
    payloads.push((v1::EntryKind::Unspecified, Vec::new()));
    Ok(payloads)
}

/// How often each peer sends all of them.
const BOMB_ROUNDS: u64 = 3;

/// Each is put aside and acknowledged, and the session goes on.
async fn bombs(collector: SocketAddr, n: u32, payloads: &[(v1::EntryKind, Vec<u8>)]) -> Result<()> {
    let mut peer = Peer::join(collector, n).await?;
    peer.say(peer.fixes(1)).await?;
    let mut seq = 0;
    for _ in 0..BOMB_ROUNDS {
        for (kind, payload) in payloads {
            seq += 1;
            peer.say(peer.entry(seq, *kind, payload.clone())).await?;
        }
    }
    peer.acknowledged(seq).await.context("bombs are acknowledged")
}

/// As much as is allowed of what takes most memory and time for its bytes.
async fn floods(collector: SocketAddr, n: u32, stop: &AtomicBool) -> Result<()> {
    let mut peer = Peer::join(collector, n).await?;
    peer.say(peer.fixes(1)).await?;
    let mut seq = 0;
    while !stop.load(Ordering::Relaxed) {
        let ids = |count: u64| (seq + 1) * 1_000_000..(seq + 1) * 1_000_000 + count;
        let values = |id: u64| {
            let value = |field| v1::Attribute { field, value: Some(Value::Integer(id + u64::from(field))) };
            v1::FlowRecord { attributes: (1_000..1_250).map(value).collect(), ..record(id) }
        };
        let batch = match seq % 4 {
            0 => batch_of(ids(20_000).map(record).collect()),
            1 => batch_of(ids(2_000).map(values).collect()),
            2 => v1::FlowBatch { alerts: ids(16_000).map(alert).collect(), ..Default::default() },
            // Open ones, all of the pair that the alerts are about.
            _ => batch_of(
                ids(10_000)
                    .map(|id| {
                        let mut open = record(id);
                        open.end = 0;
                        if let Some(key) = &mut open.key {
                            key.orig_address = vec![10, 7, 0, 9];
                        }
                        open
                    })
                    .collect(),
            ),
        };
        seq += 1;
        peer.say(peer.batch(seq, &batch)).await?;
        if seq > 4 {
            peer.acknowledged(seq - 4).await?;
        }
    }
    Ok(())
}

/// Evidence without end, and epochs without end.
async fn evidence(collector: SocketAddr, n: u32, stop: &AtomicBool) -> Result<()> {
    let peer = Peer::join(collector, n).await?;
    let Peer { epoch, say, mut hear } = peer;
    tokio::spawn(async move { while let Ok(Some(_)) = hear.message().await {} });
    let mut round = 0;
    while !stop.load(Ordering::Relaxed) {
        round += 1;
        let of = EpochId { opened: RawNs(epoch.opened.0 + round), ..epoch };
        let fix = |n: u64| v1::Fix {
            raw_ns: of.opened.0 + n * (round + 7) * 1_000,
            tai_ns: KernelClock.bracket().realtime.tai_ns() + (n * 1_000_000_000 * (n % 3)).cast_signed(),
            err_ns: n,
            source: (1 + (n % 4) as i32),
        };
        let report = v1::ClockReport {
            epoch: Some((&of).into()),
            fixes: (0..1_000).map(fix).collect(),
            ..Default::default()
        };
        let empty = v1::Entry { epoch: Some((&of).into()), seq: 1, ..Default::default() };
        for body in [Say::Clock(report), Say::Entry(empty)] {
            say.send(v1::AgentMessage { body: Some(body) }).await.context("the stream ended")?;
        }
    }
    Ok(())
}

/// Many ids, each with the largest heartbeat that is taken.
async fn heartbeats(collector: SocketAddr, from: u32, ids: u32) -> Result<()> {
    for n in from..from + ids {
        let peer = Peer::join(collector, n).await?;
        let interface = |at: usize| v1::InterfaceStatus {
            name: format!("i{at}"),
            drops: (0..40u64).map(|n| (format!("{n}"), n)).collect(),
            ..Default::default()
        };
        let heartbeat = v1::Heartbeat {
            epoch: Some((&peer.epoch).into()),
            interfaces: (0..600).map(interface).collect(),
            ..Default::default()
        };
        peer.say(Say::Heartbeat(heartbeat)).await?;
        // Read before it goes.
        peer.say(Say::Exchange(v1::ExchangeRequest { id: 1, t1_raw_ns: 1 })).await?;
        let mut peer = peer;
        while !matches!(peer.hear().await?, Hear::Exchange(_)) {}
    }
    Ok(())
}

/// Messages that end the session, each with the reason.
async fn refused(collector: SocketAddr, from: u32) -> Result<u64> {
    let base = Peer::join(collector, from).await?.epoch;
    let epoch = Some((&base).into());
    let hellos = [
        v1::Hello {
            labels: (0..500_000u32).map(|n| (n.to_string(), String::new())).collect(),
            ..hello(&base, "x")
        },
        v1::Hello { name: "n".repeat(5 << 20), ..hello(&base, "x") },
        v1::Hello { acked: vec![v1::Ack::default(); 500_000], ..hello(&base, "x") },
        v1::Hello { agent_id: vec![1; 1 << 20], ..hello(&base, "x") },
    ];
    let fix = v1::Fix::default();
    let bodies = [
        Say::Clock(v1::ClockReport { epoch, fixes: vec![fix; 200_000], ..Default::default() }),
        Say::Heartbeat(v1::Heartbeat {
            interfaces: vec![v1::InterfaceStatus::default(); 2_000_000],
            ..Default::default()
        }),
        Say::Heartbeat(v1::Heartbeat {
            interfaces: vec![v1::InterfaceStatus { error: "e".repeat(1 << 20), ..Default::default() }],
            ..Default::default()
        }),
        Say::Hello(hello(&base, "again")),
    ];
    let mut count = 0;
    for compressed in [false, true] {
        for hello in &hellos {
            let peer = Peer::dial(collector, hello.clone(), compressed).await?;
            let status = peer.ended().await;
            ensure!(!status.message().contains("within 60 s"), "a Hello was taken: {status}");
            count += 1;
        }
        for body in &bodies {
            let peer = Peer::dial(collector, hello(&base, "peer"), compressed).await?;
            peer.say(body.clone()).await?;
            let status = peer.ended().await;
            ensure!(!status.message().contains("within 60 s"), "a message was taken: {status}");
            count += 1;
        }
        // Far over the limit once it is decompressed.
        let bomb = Say::Entry(v1::Entry { payload: vec![0; 100 << 20].into(), ..Default::default() });
        let peer = Peer::dial(collector, hello(&base, "peer"), compressed).await?;
        peer.say(bomb).await?;
        ensure!(!peer.ended().await.message().contains("within 60 s"), "a bomb was taken");
    }
    Ok(count)
}

/// The largest number in the epoch of somebody else, until the collector has read it: the agent itself comes back meanwhile.
async fn impostor(collector: SocketAddr, of: &v1::Agent) -> Result<()> {
    for _ in 0..50 {
        if jump(collector, of).await? {
            return Ok(());
        }
    }
    bail!("the agent was always faster")
}

async fn jump(collector: SocketAddr, of: &v1::Agent) -> Result<bool> {
    let wire = of.heartbeat.as_ref().and_then(|heartbeat| heartbeat.epoch.as_ref()).context("no epoch")?;
    let epoch = EpochId::try_from(wire)?;
    let mut peer =
        Peer::dial(collector, hello(&epoch, "impostor\u{202e}\x1b[2J\nERROR forged"), false).await?;
    for seq in [u64::MAX, u64::MAX - 1, 1 << 63, 1 << 41] {
        peer.say(peer.entry(seq, v1::EntryKind::Unspecified, Vec::new())).await?;
    }
    // The session goes on, and nothing of it is durable.
    peer.say(Say::Exchange(v1::ExchangeRequest { id: 5, t1_raw_ns: 1 })).await?;
    loop {
        match peer.hear().await {
            Ok(Hear::Ack(ack)) => ensure!(ack.seq < 1 << 41, "a jump was acknowledged: {ack:?}"),
            Ok(Hear::Exchange(_)) => return Ok(true),
            Ok(_) => {}
            // The agent itself came back meanwhile.
            Err(status) if status.code() == tonic::Code::Aborted => return Ok(false),
            Err(status) => return Err(status.into()),
        }
    }
}

/// Sends a record at a time; how long each took to be acknowledged, in ms.
async fn honest(collector: SocketAddr, stop: &AtomicBool) -> Result<Vec<u64>> {
    let mut peer = Peer::join(collector, 1).await?;
    peer.say(peer.fixes(1)).await?;
    let (clock, mut took) = (KernelClock, Vec::new());
    for seq in 1.. {
        let begun = clock.monotonic();
        let records = (0..10).map(|n| record((1 << 50) + seq * 10 + n)).collect();
        peer.say(peer.batch(seq, &batch_of(records))).await?;
        peer.acknowledged(seq).await.context("an honest entry is acknowledged")?;
        took.push(clock.monotonic().since(begun) / 1_000_000);
        if stop.load(Ordering::Relaxed) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    took.sort_unstable();
    Ok(took)
}

fn metric(collector: &Collector, name: &str) -> Result<u64> {
    let (status, text) = collector.http_get("/metrics")?;
    ensure!(status == 200, "/metrics answers {status}");
    let lines = text.lines().filter(|line| line.starts_with(name));
    lines.map(|line| Ok(line.rsplit(' ').next().context("no value")?.parse::<f64>()? as u64)).sum()
}

fn agents(collector: &Collector, runtime: &Runtime) -> Result<Vec<v1::Agent>> {
    let url = collector.url();
    runtime.block_on(async {
        let channel = Endpoint::from_shared(url)?.connect().await?;
        let mut client = v1::query_client::QueryClient::new(channel).max_decoding_message_size(64 << 20);
        Ok(client.agents(v1::AgentsRequest {}).await?.into_inner().agents)
    })
}

fn load(client: Netns, stop: &Arc<AtomicBool>) -> thread::JoinHandle<Result<(u64, Netns)>> {
    let stop = Arc::clone(stop);
    thread::spawn(move || {
        let (mut sent, mut port) = (0, 1_000u16);
        while !stop.load(Ordering::Relaxed) {
            port = if port < 60_000 { port + 1 } else { 1_000 };
            traffic::udp(&client, SocketAddr::from(([10, 9, 0, 2], port)), PACKETS_PER_FLOW, 300, 0)?;
            sent += PACKETS_PER_FLOW;
            thread::sleep(Duration::from_millis(20));
        }
        // The sender goes last: with its namespace goes the link, and what is on it.
        Ok((sent, client))
    })
}

#[test]
fn hostile_peers_take_neither_memory_nor_data_nor_time_of_others() -> Result<()> {
    if skip() {
        return Ok(());
    }
    let bin_dir = built_binaries()?;
    let dir = tempfile::tempdir()?;
    let (client, sensor) = traffic::host_and_tap(1_500)?;
    let mut collector = Collector::start(&bin_dir, &dir.path().join("collector"), &[])?;
    let pid = collector.process()?.pid();
    let limit = MemoryLimit::new(MEMORY_BYTES);
    match &limit {
        Some(limit) => limit.add(pid)?,
        None => eprintln!(
            "no memory cgroup can be made here: the peak is looked at afterwards, and nothing enforces it"
        ),
    }
    let link = Forward::open(&sensor, SocketAddr::from(([127, 0, 0, 1], 7440)), collector.grpc)?;
    let url = format!("http://{}", link.address());
    let interface = r#"name = "tap", stance = "host""#;
    let _agent = Agent::start(&bin_dir, &dir.path().join("agent"), Some(&sensor), interface, &url, &[])?;
    eventually(
        "the first packets are found",
        60,
        || {
            traffic::udp(&client, SocketAddr::from(([10, 9, 0, 2], 9)), 1, 60, 0)?;
            Ok(collector.count("port.dst == 9")?.1)
        },
        |packets| *packets > 0,
    )?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(8).enable_all().build()?;
    let real = eventually(
        "the agent's heartbeat is known",
        30,
        || agents(&collector, &runtime),
        |agents| agents.iter().any(|agent| agent.heartbeat.as_ref().is_some_and(|beat| beat.epoch.is_some())),
    )?
    .swap_remove(0);

    let payloads = Arc::new(payloads()?);
    let stop = Arc::new(AtomicBool::new(false));
    let sending = load(client, &stop);
    let grpc = collector.grpc;
    let flag = Arc::clone(&stop);
    let measured = runtime.spawn(async move { honest(grpc, &flag).await });
    let mut streams = Vec::new();
    for n in 0..2 {
        let flag = Arc::clone(&stop);
        streams.push(runtime.spawn(async move { floods(grpc, 1_000 + n, &flag).await.context("floods") }));
        let flag = Arc::clone(&stop);
        streams
            .push(runtime.spawn(async move { evidence(grpc, 1_100 + n, &flag).await.context("evidence") }));
    }
    let bomb = |n: u32| {
        let payloads = Arc::clone(&payloads);
        async move { bombs(grpc, n, &payloads).await }
    };
    let all = runtime.block_on(async {
        let parts = [
            tokio::spawn(bomb(2_000)),
            tokio::spawn(bomb(2_001)),
            tokio::spawn(heartbeats(grpc, 10_000, 200)),
            tokio::spawn(async move { impostor(grpc, &real).await }),
        ];
        let refusals = tokio::spawn(refused(grpc, 3_000)).await?.context("refused")?;
        for (part, name) in parts.into_iter().zip(["bombs", "bombs", "heartbeats", "impostor"]) {
            part.await?.context(name)?;
        }
        anyhow::Ok(refusals)
    });
    let refusals = match all {
        Ok(refusals) => refusals,
        Err(error) => {
            let ended = collector.process()?.has_ended()?;
            let peak = peak_bytes(pid).unwrap_or(0) >> 20;
            bail!(
                "{error:#}; the collector ended: {ended}, peak {peak} MiB; it said:\n{}",
                collector.process()?.said()
            );
        }
    };
    for _ in 0..20 {
        ensure!(collector.http_get("/api/v1/agents")?.0 == 200, "/agents answers");
        ensure!(!collector.process()?.has_ended()?, "the collector ended");
        thread::sleep(Duration::from_millis(250));
    }
    stop.store(true, Ordering::Relaxed);
    let took = runtime.block_on(measured)?.context("honest")?;
    for stream in streams {
        runtime.block_on(stream)??;
    }
    let (sent, _client) = sending.join().map_err(|_| anyhow::anyhow!("the load panicked"))??;

    let seen = eventually(
        "every packet of the load is in a record",
        180,
        || Ok(collector.count(LOAD)?.1),
        |packets| *packets == sent,
    )?;
    let peak = peak_bytes(pid)?;
    let p99 = took[took.len() * 99 / 100];
    println!(
        "{seen} packets, {} acks: p50 {} ms, p99 {p99} ms, max {:?} ms; peak {} MiB",
        took.len(),
        took[took.len() / 2],
        took.last(),
        peak >> 20
    );
    assert!(peak <= MEMORY_BYTES, "{peak} bytes");
    assert!(p99 <= ACK_MS_MAX, "p99 {p99} ms");
    let mut counts = HashMap::new();
    for reason in ["message", "ledger_jump"] {
        let name = format!("gnomon_collector_ingest_refused_total{{reason=\"{reason}\"");
        counts.insert(reason, metric(&collector, &name)?);
    }
    assert!(counts["message"] >= refusals, "{counts:?} of {refusals}");
    assert!(counts["ledger_jump"] >= 1, "{counts:?}");
    let bad = metric(&collector, "gnomon_collector_ingest_received_total{what=\"bad\"")?;
    assert!(bad >= 2 * BOMB_ROUNDS * payloads.len() as u64, "{bad} bad entries");
    let log = collector.process()?.said();
    assert!(!log.contains('\u{1b}') && !log.contains('\u{202e}'), "a name went into the log as it came");
    assert!(!log.lines().any(|line| line.starts_with("ERROR forged")), "a log line was forged");

    // As it is on the disk, and again.
    assert_eq!(collector.stop()?, Some(0));
    let (code, said) = collector.verify()?;
    assert_eq!(code, 0, "{said}");
    collector.restart()?;
    assert_eq!(collector.count(LOAD)?.1, sent);
    Ok(())
}
