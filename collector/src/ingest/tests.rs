//! The service over a real socket on loopback, with agents made by hand.

use std::sync::Arc;
use std::time::Duration;

use gnomon_clock::{Clock, EpochId, KernelClock, Policy, RawNs};
use gnomon_daemon::certificate_time::{self, CertificateTime};
use gnomon_flow::{Addresses, AgentId, EpochHash, FlowId, Value, field};
use gnomon_proto::v1::agent_message::Body as Say;
use gnomon_proto::v1::collector_message::Body as Hear;
use gnomon_proto::v1::ingest_client::IngestClient;
use gnomon_proto::{Message, PROTOCOL_VERSION, v1};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, Status, Streaming};

use super::{Committer, CommitterHandle, IngestService, Quarantine, Settings};
use crate::clock_gate::ClockGate;
use crate::config::TlsConfig;
use crate::enrich::{self, Enrichment};
use crate::fleet::Fleet;
use crate::listen::Refusals;
use crate::store::{self, Limits, Span, Store, testing};
use crate::timekeeper::Timekeeper;
use crate::tls::Tls;
use crate::{certs, listen};

struct Collector {
    _dir: tempfile::TempDir,
    port: u16,
    store: Store,
    fleet: Fleet,
    stop: CancellationToken,
    handle: Option<CommitterHandle>,
}

async fn collector(limits: Limits, tls: Option<Tls>) -> Collector {
    collector_that_knows(limits, tls, Enrichment::default()).await
}

async fn collector_that_knows(limits: Limits, tls: Option<Tls>, enrichment: Enrichment) -> Collector {
    let dir = tempfile::tempdir().unwrap();
    let clock: Arc<dyn Clock> = Arc::new(KernelClock);
    let gate = ClockGate::new(Timekeeper::new(Arc::clone(&clock)), Policy::default());
    let (store, writer) = store::open_enriched(dir.path(), &gate, limits, enrichment).unwrap();
    let (committer, handle) = Committer::start(writer, Arc::clone(&clock)).unwrap();
    let fleet = Fleet::default();
    let stop = CancellationToken::new();
    let settings = Settings { window_bytes: 16 << 20, memory_bytes: 64 << 20 };
    let quarantine = Quarantine::open(&dir.path().join("quarantine")).unwrap();
    let ingest = IngestService::new(
        store.clone(),
        fleet.clone(),
        committer,
        quarantine,
        clock,
        settings,
        Refusals::new(Arc::new(KernelClock)),
        stop.clone(),
    );
    let router = Routes::new(ingest.into_server()).into_axum_router();
    let (port, _) = listen::testing::serve(router, tls, listen::testing::settings(), stop.clone()).await;
    Collector { _dir: dir, port, store, fleet, stop, handle: Some(handle) }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(handle) = self.handle.take() {
            handle.stop();
        }
    }
}

struct Agent {
    id: [u8; 16],
    epoch: EpochId,
    say: mpsc::Sender<v1::AgentMessage>,
    hear: Streaming<v1::CollectorMessage>,
}

async fn connect(port: u16) -> IngestClient<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://127.0.0.1:{port}")).unwrap().tcp_nodelay(true);
    IngestClient::new(endpoint.connect().await.unwrap())
}

impl Agent {
    async fn join(client: &mut IngestClient<Channel>, n: u8) -> Result<(Agent, v1::Welcome), Status> {
        let epoch = EpochId { agent: [n; 16], boot_id: [3; 16], opened: RawNs(5) };
        let (say, messages) = mpsc::channel(1024);
        let hello = v1::Hello {
            protocol_version: PROTOCOL_VERSION,
            agent_id: vec![n; 16],
            name: format!("agent-{n}"),
            version: "test".to_owned(),
            epoch: Some((&epoch).into()),
            ..Default::default()
        };
        say.send(v1::AgentMessage { body: Some(Say::Hello(hello)) }).await.unwrap();
        let hear = client.stream(ReceiverStream::new(messages)).await?.into_inner();
        let mut agent = Agent { id: [n; 16], epoch, say, hear };
        match agent.hear().await? {
            Hear::Welcome(welcome) => Ok((agent, welcome)),
            other => panic!("no welcome: {other:?}"),
        }
    }

    async fn hear(&mut self) -> Result<Hear, Status> {
        let message = tokio::time::timeout(Duration::from_secs(10), self.hear.message()).await;
        let message = message.expect("an answer within 10 s")?;
        Ok(message.and_then(|m| m.body).unwrap_or_else(|| panic!("the stream ended")))
    }

    async fn ack(&mut self) -> u64 {
        match self.hear().await.unwrap() {
            Hear::Ack(ack) => ack.seq,
            other => panic!("no ack: {other:?}"),
        }
    }

    async fn say(&self, body: Say) {
        self.say.send(v1::AgentMessage { body: Some(body) }).await.unwrap();
    }

    fn entry(&self, seq: u64, kind: v1::EntryKind, payload: Vec<u8>) -> Say {
        let crc32c = crc32c::crc32c(&payload);
        let epoch = Some((&self.epoch).into());
        Say::Entry(v1::Entry { epoch, seq, kind: kind.into(), crc32c, payload: payload.into() })
    }

    fn flows(&self, seq: u64, ids: std::ops::Range<u64>) -> Say {
        let raw = KernelClock.raw().0;
        let records = ids.map(|id| (&testing::record(id, 1, raw - 1000, raw)).into()).collect();
        let batch = v1::FlowBatch { interface: "eth0".to_owned(), records, ..Default::default() };
        self.entry(seq, v1::EntryKind::Flows, zstd::bulk::compress(&batch.encode_to_vec(), 1).unwrap())
    }

    fn slices(&self, seq: u64, id: u64) -> Say {
        let raw = KernelClock.raw();
        let mut block = Vec::new();
        let packet = gnomon_flow::slice::SlicedPacket {
            raw,
            err_ns: 1,
            flow: FlowId(id),
            original_len: 60,
            linktype: 1,
            from_responder: false,
            outgoing: false,
            data: b"sixty bytes of packet",
        };
        packet.append_to(&mut block);
        let slices = v1::SliceBlock {
            interface: "eth0".to_owned(),
            packets: 1,
            first_raw_ns: raw.0,
            last_raw_ns: raw.0,
            block_bytes: block.len() as u32,
            flows: vec![id],
            block: zstd::bulk::compress(&block, 1).unwrap().into(),
        };
        self.entry(seq, v1::EntryKind::Slices, slices.encode_to_vec())
    }

    /// The collector's own clock, which here is the agent's too.
    fn fix(&self) -> Say {
        let bracket = KernelClock.bracket();
        let fix = v1::Fix {
            raw_ns: bracket.raw.0,
            tai_ns: bracket.realtime.tai_ns(),
            err_ns: 1_000_000,
            source: v1::FixSource::Collector.into(),
        };
        Say::Clock(v1::ClockReport {
            epoch: Some((&self.epoch).into()),
            fixes: vec![fix],
            ..Default::default()
        })
    }
}

fn found(store: &Store) -> usize {
    store.scan(Span::ALL, true, None).filter(Result::is_ok).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_collector_knows_of_addresses_is_told_as_records_come_in() {
    let collector = collector_that_knows(testing::LIMITS, None, enrich::testing::enrichment()).await;
    let mut client = connect(collector.port).await;
    let (mut agent, _) = Agent::join(&mut client, 1).await.unwrap();
    agent.say(agent.fix()).await;
    let raw = KernelClock.raw().0;
    let mut record = testing::record(1, 1, raw - 1000, raw);
    record.key.addresses = Addresses::V4 { orig: [10, 0, 0, 1], resp: [198, 51, 100, 7] };
    let payload = store::RecordBatch::payload("eth0", &[record]).to_vec();
    agent.say(agent.entry(1, v1::EntryKind::Flows, payload)).await;
    while agent.ack().await < 1 {}
    let (_, flow) = collector.store.scan(Span::ALL, true, None).next().unwrap().unwrap();
    let country = field::by_name("country.dst").and_then(|field| field.first(&flow));
    assert_eq!(country, Some(Value::Text("DE".into())));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_acknowledged_is_found_at_once() {
    let collector = collector(testing::LIMITS, None).await;
    let mut client = connect(collector.port).await;
    let (mut agent, welcome) = Agent::join(&mut client, 1).await.unwrap();
    assert!(welcome.durable.is_empty() && welcome.window_bytes == 16 << 20);
    agent.say(agent.fix()).await;
    agent.say(agent.flows(1, 0..50)).await;
    agent.say(agent.slices(2, 7)).await;
    while agent.ack().await < 2 {}
    assert_eq!(found(&collector.store), 50);
    let at = collector.store.slices_of(EpochHash::of(&agent.epoch), FlowId(7)).unwrap();
    let block = collector.store.read_block(&at[0]).unwrap();
    assert_eq!(gnomon_flow::slice::packets(&block).count(), 1);

    let before = collector.store.now();
    agent.say(Say::Exchange(v1::ExchangeRequest { id: 9, t1_raw_ns: 44 })).await;
    let reply = loop {
        match agent.hear().await.unwrap() {
            Hear::Exchange(reply) => break reply,
            // The ack of what was sent before may be on its way still.
            Hear::Ack(_) => {}
            other => panic!("no exchange: {other:?}"),
        }
    };
    let after = collector.store.now();
    assert_eq!((reply.id, reply.t1_raw_ns), (9, 44));
    assert!(before.utc.tai_ns() <= reply.t2_tai_ns && reply.t2_tai_ns <= reply.t3_tai_ns);
    assert!(reply.t3_tai_ns <= after.utc.tai_ns());

    // The same again after a reconnect: welcomed with what is durable, and told so again.
    drop(agent);
    let (mut agent, welcome) = Agent::join(&mut client, 1).await.unwrap();
    assert_eq!(welcome.durable.iter().map(|ack| ack.seq).collect::<Vec<_>>(), [2]);
    agent.say(agent.flows(1, 0..50)).await;
    assert_eq!(agent.ack().await, 2);
    assert_eq!(found(&collector.store), 50);
    let known = collector.fleet.agents();
    assert_eq!(known.len(), 1);
    assert!(known[0].connected && known[0].name == "agent-1");
    assert_eq!((known[0].entries_received, known[0].entries_duplicate), (3, 1));
    assert_eq!((known[0].flows_received, known[0].packets_received), (50, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_entry_is_kept_aside_and_acknowledged_and_the_next_is_stored() {
    let collector = collector(testing::LIMITS, None).await;
    let mut client = connect(collector.port).await;
    let (mut agent, _) = Agent::join(&mut client, 1).await.unwrap();
    agent.say(agent.fix()).await;
    agent.say(agent.entry(1, v1::EntryKind::Flows, b"no zstd".to_vec())).await;
    agent.say(agent.entry(2, v1::EntryKind::Unspecified, vec![])).await;
    agent.say(agent.flows(3, 0..2)).await;
    while agent.ack().await < 3 {}
    assert_eq!(found(&collector.store), 2);
    assert_eq!(collector.fleet.agents()[0].entries_bad, 2);
    let kept = std::fs::read_dir(collector.store.dir().join("quarantine")).unwrap().count();
    assert_eq!(kept, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ledger_does_not_jump_and_the_session_stays_usable() {
    let collector = collector(testing::LIMITS, None).await;
    let mut client = connect(collector.port).await;
    let (mut agent, _) = Agent::join(&mut client, 1).await.unwrap();
    agent.say(agent.fix()).await;
    agent.say(agent.flows(1, 0..3)).await;
    assert_eq!(agent.ack().await, 1);
    for seq in [u64::MAX, 1 << 63, 1 << 40, 1 << 32] {
        agent.say(agent.flows(seq, 100..101)).await;
    }
    agent.say(agent.flows(2, 10..12)).await;
    assert_eq!(agent.ack().await, 2, "what follows is taken in");
    let jumps = collector.fleet.refusals().named().into_iter().find(|(name, _)| *name == "ledger_jump");
    assert_eq!(jumps, Some(("ledger_jump", 4)));
    assert_eq!(found(&collector.store), 5);
    // As after a restart of either: what is durable is where it goes on.
    drop(agent);
    let (mut agent, welcome) = Agent::join(&mut client, 1).await.unwrap();
    assert_eq!(welcome.durable.iter().map(|ack| ack.seq).collect::<Vec<_>>(), [2]);
    agent.say(agent.flows(1 << 60, 100..101)).await;
    // Unless the agent says that its spool gave up as many.
    let spool = v1::SpoolStatus { sacrificed_slice_entries: 1 << 30, ..Default::default() };
    let epoch = Some((&agent.epoch).into());
    agent.say(Say::Heartbeat(v1::Heartbeat { epoch, spool: Some(spool), ..Default::default() })).await;
    agent.say(agent.flows(1 << 30, 20..21)).await;
    assert_eq!(agent.ack().await, 1 << 30);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_agent_calls_itself_is_kept_on_one_line_without_marks() {
    let collector = collector(testing::LIMITS, None).await;
    let mut client = connect(collector.port).await;
    let epoch = EpochId { agent: [4; 16], boot_id: [3; 16], opened: RawNs(5) };
    let hello = v1::Hello {
        protocol_version: PROTOCOL_VERSION,
        agent_id: vec![4; 16],
        name: "a\nERROR forged\u{1b}[2J\u{202e}".to_owned(),
        version: "1\u{200b}".to_owned(),
        labels: [("k\u{feff}".to_owned(), "v\u{7f}".to_owned())].into(),
        epoch: Some((&epoch).into()),
        ..Default::default()
    };
    let (say, messages) = mpsc::channel(4);
    say.send(v1::AgentMessage { body: Some(Say::Hello(hello)) }).await.unwrap();
    let mut hear = client.stream(ReceiverStream::new(messages)).await.unwrap().into_inner();
    hear.message().await.unwrap().unwrap();
    let interface = v1::InterfaceStatus {
        name: "eth\r0".to_owned(),
        drops: [("x\u{1b}".to_owned(), 3)].into(),
        ..Default::default()
    };
    let heartbeat =
        v1::Heartbeat { epoch: Some((&epoch).into()), interfaces: vec![interface], ..Default::default() };
    say.send(v1::AgentMessage { body: Some(Say::Heartbeat(heartbeat)) }).await.unwrap();
    let known = loop {
        let known = collector.fleet.agents().swap_remove(0);
        if known.heartbeat.is_some() {
            break known;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert_eq!(known.name, "a\\nERROR forged\\u{1b}[2J\\u{202e}");
    assert_eq!(known.version, "1\\u{200b}");
    assert_eq!(known.labels, [("k\\u{feff}".to_owned(), "v\\u{7f}".to_owned())].into());
    let interface = &known.heartbeat.unwrap().interfaces[0];
    assert_eq!(interface.name, "eth\\r0");
    assert_eq!(interface.drops, [("x\\u{1b}".to_owned(), 3)].into());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newer_session_of_the_same_agent_ends_the_older() {
    let collector = collector(testing::LIMITS, None).await;
    let mut client = connect(collector.port).await;
    let (mut older, _) = Agent::join(&mut client, 1).await.unwrap();
    let (mut newer, _) = Agent::join(&mut client, 1).await.unwrap();
    assert_eq!(older.hear().await.err().map(|s| s.code()), Some(Code::Aborted));
    newer.say(newer.fix()).await;
    newer.say(newer.flows(1, 0..1)).await;
    assert_eq!(newer.ack().await, 1);
    assert_eq!(collector.fleet.connected(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_does_not_keep_to_the_protocol_is_told_what_is_wrong() {
    let collector = collector(testing::LIMITS, None).await;
    let mut client = connect(collector.port).await;
    let refused = |hello: v1::Hello| {
        let mut client = client.clone();
        async move {
            let messages = tokio_stream::iter([v1::AgentMessage { body: Some(Say::Hello(hello)) }]);
            let mut hear = client.stream(messages).await.unwrap().into_inner();
            hear.message().await.err().map(|s| s.message().to_owned()).unwrap_or_default()
        }
    };
    let text = refused(v1::Hello { protocol_version: 99, ..Default::default() }).await;
    assert!(text.contains("protocol 99"), "{text}");
    let text = refused(v1::Hello { protocol_version: 1, agent_id: vec![1; 3], ..Default::default() }).await;
    assert!(text.contains("16 bytes"), "{text}");
    let (mut agent, _) = Agent::join(&mut client, 1).await.unwrap();
    let stranger = EpochId { agent: [9; 16], ..agent.epoch };
    let epoch = Some((&stranger).into());
    agent.say(Say::Entry(v1::Entry { epoch, seq: 1, ..Default::default() })).await;
    let status = agent.hear().await.unwrap_err();
    assert!(status.message().contains("another agent"), "{status}");
    assert_eq!(agent.id, AgentId(agent.id).0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_cannot_take_more_keeps_the_session_alive_and_acknowledges_nothing() {
    // No disk has that much: full from the start.
    let limits = Limits { free_bytes_min: u64::MAX, ..testing::LIMITS };
    let collector = collector(limits, None).await;
    let mut client = connect(collector.port).await;
    let (mut agent, _) = Agent::join(&mut client, 1).await.unwrap();
    agent.say(agent.flows(1, 0..1)).await;
    for id in 0..5 {
        agent.say(Say::Exchange(v1::ExchangeRequest { id, t1_raw_ns: 1 })).await;
        assert!(matches!(agent.hear().await.unwrap(), Hear::Exchange(reply) if reply.id == id));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let status = collector.store.status().unwrap();
    assert!(status.stopped.is_some_and(|why| why.contains("retention.free_min")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agents_need_a_certificate_of_the_authority() {
    let dir = tempfile::tempdir().unwrap();
    let order = certs::Order {
        out: dir.path().to_owned(),
        collector_names: vec!["localhost".to_owned()],
        agents: vec!["a".to_owned()],
        ..certs::Order::default()
    };
    certs::make(&order, KernelClock.bracket().realtime).unwrap();
    let path = |file: &str| Some(dir.path().join(file));
    let pem = |file: &str| std::fs::read(dir.path().join(file)).unwrap();
    // People may come without one: agents still may not.
    for people_need_certificate in [false, true] {
        let config = TlsConfig {
            ca: path("ca.crt"),
            certificate: path("collector.crt"),
            key: path("collector.key"),
            people_need_certificate,
            ..TlsConfig::default()
        };
        let time = Arc::new(|| CertificateTime::at_least(0));
        let tls = Tls::load(&config, time).unwrap().unwrap();
        let collector = collector(testing::LIMITS, Some(tls)).await;
        let dial = |with: ClientTlsConfig| {
            let url = format!("https://localhost:{}", collector.port);
            async move {
                let with = with.ca_certificate(Certificate::from_pem(pem("ca.crt")));
                let channel = Endpoint::from_shared(url).unwrap().tls_config(with).unwrap().connect().await;
                let mut client = IngestClient::new(channel.map_err(|e| Status::unavailable(e.to_string()))?);
                Agent::join(&mut client, 1).await.map(|_| ())
            }
        };
        let identity = Identity::from_pem(pem("agent-a.crt"), pem("agent-a.key"));
        dial(ClientTlsConfig::new().identity(identity)).await.unwrap();
        let refused = dial(ClientTlsConfig::new()).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unauthenticated, "{refused}");
        let mut plain = IngestClient::new(
            Endpoint::from_shared(format!("http://127.0.0.1:{}", collector.port)).unwrap().connect_lazy(),
        );
        assert!(Agent::join(&mut plain, 1).await.is_err());
    }
}

/// This machine's clock is the wrong one: the truth is nine hours, ten years or fifty-six years (1970!) after it, or a
/// year before it. The collector knows the truth, its certificates are of then, and the agent knows only that it is not
/// before its own build.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_whose_clock_is_wrong_gets_in_and_one_whose_certificate_has_expired_does_not() {
    const HOUR: i64 = 3_600;
    const YEAR: i64 = 8_766 * HOUR;
    let machine = KernelClock.bracket().realtime;
    for wrong_s in [9 * HOUR, 10 * YEAR, 56 * YEAR, -YEAR] {
        let truth = machine.saturating_add_ns(wrong_s * 1_000_000_000);
        let truth_s = u64::try_from(truth.unix_ns() / 1_000_000_000).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let order = certs::Order {
            out: dir.path().to_owned(),
            collector_names: vec!["localhost".to_owned()],
            agents: vec!["a".to_owned()],
            ..certs::Order::default()
        };
        // Back-dated by a day, which is what lets a clock some hours behind get in without any of this.
        certs::make(&order, truth.saturating_add_ns(48 * HOUR * 1_000_000_000)).unwrap();
        let path = |file: &str| Some(dir.path().join(file));
        let pem = |file: &str| std::fs::read(dir.path().join(file)).unwrap();
        let config = TlsConfig {
            ca: path("ca.crt"),
            certificate: path("collector.crt"),
            key: path("collector.key"),
            ..TlsConfig::default()
        };
        let dial = |collector_s: u64, agent: CertificateTime| {
            let time = Arc::new(move || CertificateTime::Known(collector_s));
            let tls = Tls::load(&config, time).unwrap().unwrap();
            let identity = Identity::from_pem(pem("agent-a.crt"), pem("agent-a.key"));
            let roots = certificate_time::roots(&pem("ca.crt")).unwrap();
            let verifier = certificate_time::server_verifier(roots, Arc::new(move || agent)).unwrap();
            async move {
                let collector = collector(testing::LIMITS, Some(tls)).await;
                let endpoint =
                    Endpoint::from_shared(format!("https://localhost:{}", collector.port)).unwrap();
                let config = ClientTlsConfig::new().identity(identity);
                let endpoint = endpoint.tls_config_with_verifier(config, verifier).unwrap();
                let channel = endpoint.connect().await.map_err(|e| Status::unavailable(e.to_string()))?;
                Agent::join(&mut IngestClient::new(channel), 1).await.map(|_| ())
            }
        };
        let (day, years) = (86_400, 900 * 86_400);
        let now = truth_s + 2 * day;
        let unknown = CertificateTime::at_least(0);
        dial(now, unknown).await.unwrap();
        let machine_s = u64::try_from(machine.unix_ns() / 1_000_000_000).unwrap();
        if wrong_s > 0 {
            assert!(dial(now, CertificateTime::Known(machine_s)).await.is_err(), "{wrong_s}: too young");
        }
        assert!(dial(now, CertificateTime::at_least(truth_s + years)).await.is_err(), "it has expired");
        assert!(dial(now + years, unknown).await.is_err(), "the agent's has expired");
    }
}

/// Prints the time from sending an entry to its acknowledgement, one at a time and with others under load.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledgements_come_soon() {
    let collector = collector(testing::LIMITS, None).await;
    let mut client = connect(collector.port).await;
    let (mut agent, _) = Agent::join(&mut client, 1).await.unwrap();
    agent.say(agent.fix()).await;
    let clock = KernelClock;
    let mut seq = 0;
    for (name, rounds, load) in [("alone", 150u64, false), ("under load", 150, true)] {
        let busy = load.then(|| {
            let port = collector.port;
            tokio::spawn(async move {
                let mut client = connect(port).await;
                let (mut other, _) = Agent::join(&mut client, 2).await.unwrap();
                other.say(other.fix()).await;
                for seq in 1..=u64::MAX {
                    other.say(other.flows(seq, seq * 1000..seq * 1000 + 500)).await;
                    // At most 32 ahead.
                    while seq > 32 && other.ack().await < seq - 32 {}
                }
            })
        });
        let mut took = Vec::new();
        for _ in 0..rounds {
            seq += 1;
            let entry = agent.flows(seq, seq * 10..seq * 10 + 10);
            let begun = clock.monotonic();
            agent.say(entry).await;
            while agent.ack().await < seq {}
            took.push(clock.monotonic().since(begun));
        }
        if let Some(busy) = busy {
            busy.abort();
        }
        took.sort_unstable();
        let at = |p: usize| took[took.len() * p / 100] as f64 / 1e6;
        println!("acknowledged {name}: p50 {:.2} ms, p99 {:.2} ms", at(50), at(99));
        // A generous bound: the machine may be busy with other things.
        assert!(at(50) < 500.0);
    }
    println!("{} records in all", collector.store.status().unwrap().flows);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agents_learn_what_is_settled_and_are_asked_for_what_the_store_lacks() {
    let collector = collector(testing::LIMITS, None).await;
    let mut client = connect(collector.port).await;
    let (mut agent, _) = Agent::join(&mut client, 1).await.unwrap();
    agent.say(agent.flows(1, 0..1)).await;
    let Hear::Ack(ack) = agent.hear().await.unwrap() else { panic!("no ack") };
    assert_eq!((ack.seq, ack.settled_seq), (1, Some(0)), "it is in the log");
    for seq in 2..200 {
        agent.say(agent.flows(seq, seq * 1000..seq * 1000 + 4)).await;
    }
    while agent.ack().await < 199 {}
    // A Hello that knows of more is told what there is.
    let hello = v1::Hello {
        protocol_version: PROTOCOL_VERSION,
        agent_id: vec![1; 16],
        epoch: Some((&agent.epoch).into()),
        acked: vec![
            v1::Ack { epoch: Some((&agent.epoch).into()), seq: 250, settled_seq: None },
            v1::Ack {
                epoch: Some((&EpochId { opened: RawNs(77), ..agent.epoch }).into()),
                seq: 9,
                settled_seq: None,
            },
        ],
        ..Default::default()
    };
    let (say, messages) = mpsc::channel(16);
    say.send(v1::AgentMessage { body: Some(Say::Hello(hello)) }).await.unwrap();
    let mut hear = client.stream(ReceiverStream::new(messages)).await.unwrap().into_inner();
    let welcome = hear.message().await.unwrap().and_then(|message| message.body);
    let Some(Hear::Welcome(welcome)) = welcome else { panic!("no welcome: {welcome:?}") };
    let durable: Vec<u64> = welcome.durable.iter().map(|ack| ack.seq).collect();
    assert_eq!(durable, [199, 0], "an epoch that it has nothing of is told too");
    let status = collector.store.status().unwrap();
    assert_eq!(status.entries_missing, 51 + 9);
    assert!(status.damage().is_some_and(|damage| damage.contains("60 entries")), "{:?}", status.damage());
    // 200 to 210 are gone for good, the others come.
    let epoch = Some((&agent.epoch).into());
    for seq in 211..=251u64 {
        let Say::Entry(entry) = agent.flows(seq, seq * 1000..seq * 1000 + 1) else { continue };
        let entry = v1::Entry { epoch: epoch.clone(), ..entry };
        say.send(v1::AgentMessage { body: Some(Say::Entry(entry)) }).await.unwrap();
    }
    loop {
        let message = tokio::time::timeout(Duration::from_secs(10), hear.message()).await.unwrap().unwrap();
        if matches!(message.and_then(|m| m.body), Some(Hear::Ack(ack)) if ack.seq == 251) {
            break;
        }
    }
    let status = collector.store.status().unwrap();
    assert_eq!((status.entries_missing, status.entries_lost), (9, 11));
}

#[tokio::test]
async fn what_another_store_acknowledged_is_not_missing_here() {
    let collector = collector(testing::LIMITS, None).await;
    let mut client = connect(collector.port).await;
    let (agent, welcome) = Agent::join(&mut client, 1).await.unwrap();
    assert_eq!((welcome.store_id, welcome.store_id != 0), (collector.store.id(), true));
    for (acked_by, missing) in [(welcome.store_id ^ 1, 0), (welcome.store_id, 77), (0, 77)] {
        let hello = v1::Hello {
            protocol_version: PROTOCOL_VERSION,
            agent_id: agent.id.to_vec(),
            epoch: Some((&agent.epoch).into()),
            acked: vec![v1::Ack { epoch: Some((&agent.epoch).into()), seq: 77, settled_seq: None }],
            acked_by,
            ..Default::default()
        };
        let (say, messages) = mpsc::channel(16);
        say.send(v1::AgentMessage { body: Some(Say::Hello(hello)) }).await.unwrap();
        let mut hear = client.stream(ReceiverStream::new(messages)).await.unwrap().into_inner();
        let welcome = hear.message().await.unwrap().and_then(|message| message.body);
        assert!(matches!(welcome, Some(Hear::Welcome(_))), "{welcome:?}");
        assert_eq!(collector.store.status().unwrap().entries_missing, missing, "by {acked_by:x}");
    }
}
