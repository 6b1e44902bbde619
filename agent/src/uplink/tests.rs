//! The uplink against a collector of the test's own that is late, cuts the stream, repeats itself or lies.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::AtomicU32;

use gnomon_clock::{KernelClock, RawNs};
use gnomon_proto::v1::agent_message::Body;
use gnomon_proto::v1::collector_message::Body as Said;
use gnomon_proto::v1::ingest_server::{Ingest, IngestServer};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Certificate, Identity as TlsIdentity, Server, ServerTlsConfig};
use tonic::{Request, Response, Status, Streaming};

use super::*;
use crate::heartbeat::Board;
use crate::spool::{self, Appender, Lane, Limits, WhenFull};
use crate::timekeeper::Evidence;

/// How the collector of the test behaves.
#[derive(Clone, Copy, Debug, Default)]
struct Manner {
    /// Ends each stream after so many entries; what was not acknowledged by then is forgotten.
    cut_after: Option<u32>,
    /// Acknowledges every so many entries only.
    ack_each: u32,
    ack_delay: Duration,
    ack_twice: bool,
    /// Acknowledges what was never sent.
    lie: bool,
    /// Settles up to here; else what it acknowledges, like a collector that knows nothing of settling.
    settles: Option<u64>,
    window_bytes: u64,
}

const STORE_ID: u64 = 0xfeed_f00d_0000_0007;

#[derive(Debug, Default)]
struct Kept {
    entries: BTreeMap<(u64, u64), Vec<u8>>,
    durable: HashMap<u64, v1::Ack>,
    repeated: u64,
    disordered: u64,
    entries_before_time: u64,
    sessions: u32,
    hellos: Vec<v1::Hello>,
    heartbeats: Vec<v1::Heartbeat>,
    reports: u64,
}

#[derive(Clone)]
struct TestCollector {
    manner: Manner,
    kept: Arc<Mutex<Kept>>,
    unacked_bytes_max: Arc<AtomicU64>,
    salt: Arc<AtomicU32>,
    /// Ends all streams.
    cut: Arc<tokio::sync::Notify>,
}

type Outbound = Pin<Box<dyn Stream<Item = Result<v1::CollectorMessage, Status>> + Send>>;

fn say(body: Said) -> Result<v1::CollectorMessage, Status> {
    Ok(v1::CollectorMessage { body: Some(body) })
}

#[tonic::async_trait]
impl Ingest for TestCollector {
    type StreamStream = Outbound;

    async fn stream(
        &self,
        request: Request<Streaming<v1::AgentMessage>>,
    ) -> Result<Response<Outbound>, Status> {
        let (outbound, receiver) = mpsc::channel(64);
        let collector = self.clone();
        tokio::spawn(async move {
            tokio::select! {
                _ = collector.serve(request.into_inner(), &outbound) => {}
                () = collector.cut.notified() => {}
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

impl TestCollector {
    fn new(manner: Manner) -> TestCollector {
        let manner = Manner { ack_each: manner.ack_each.max(1), ..manner };
        TestCollector {
            manner,
            kept: Arc::default(),
            unacked_bytes_max: Arc::default(),
            salt: Arc::default(),
            cut: Arc::default(),
        }
    }

    async fn serve(
        &self,
        mut inbound: Streaming<v1::AgentMessage>,
        outbound: &mpsc::Sender<Result<v1::CollectorMessage, Status>>,
    ) -> Option<()> {
        let Some(Body::Hello(hello)) = inbound.message().await.ok()??.body else { return None };
        assert_eq!(hello.protocol_version, 1);
        let welcome = {
            let mut kept = self.kept.lock().unwrap();
            kept.sessions += 1;
            kept.hellos.push(hello);
            v1::Welcome {
                store_id: STORE_ID,
                collector_version: "test".into(),
                durable: kept.durable.values().cloned().collect(),
                window_bytes: self.manner.window_bytes,
                own_streams: None,
            }
        };
        outbound.send(say(Said::Welcome(welcome))).await.ok()?;
        let cut_after = self.manner.cut_after.map(|n| n + self.salt.fetch_add(1, Ordering::Relaxed) * 7 % 11);
        let (mut received, mut exchanges, mut unacked_bytes) = (0, 0, 0u64);
        // Received, and not durable before the next acknowledgement.
        let mut pending: Vec<v1::Entry> = Vec::new();
        while let Ok(Some(message)) = inbound.message().await {
            match message.body? {
                Body::Exchange(request) => {
                    exchanges += 1;
                    assert_ne!(request.t1_raw_ns, 0, "t1 is set when the request leaves");
                    let tai_ns = 1_800_000_000_000_000_000 + request.t1_raw_ns.cast_signed();
                    let reply = v1::ExchangeReply {
                        id: request.id,
                        t1_raw_ns: request.t1_raw_ns,
                        t2_tai_ns: tai_ns,
                        t3_tai_ns: tai_ns,
                        collector_err_ns: 1000,
                        collector_proven: true,
                        collector_timeline: 1,
                    };
                    outbound.send(say(Said::Exchange(reply))).await.ok()?;
                }
                Body::Entry(entry) => {
                    if exchanges < 3 {
                        self.kept.lock().unwrap().entries_before_time += 1;
                    }
                    received += 1;
                    unacked_bytes += entry.payload.len() as u64;
                    self.unacked_bytes_max.fetch_max(unacked_bytes, Ordering::Relaxed);
                    pending.push(entry);
                    if cut_after == Some(received) {
                        return None;
                    }
                    if received % self.manner.ack_each == 0 {
                        tokio::time::sleep(self.manner.ack_delay).await;
                        let ack = self.keep(&mut pending);
                        unacked_bytes = 0;
                        outbound.send(say(Said::Ack(ack.clone()))).await.ok()?;
                        if self.manner.ack_twice {
                            outbound.send(say(Said::Ack(ack))).await.ok()?;
                        }
                    }
                }
                Body::Heartbeat(heartbeat) => self.kept.lock().unwrap().heartbeats.push(heartbeat),
                Body::Clock(report) => self.kept.lock().unwrap().reports += report.fixes.len() as u64,
                Body::Hello(_) => panic!("Hello twice"),
            }
        }
        Some(())
    }

    fn keep(&self, pending: &mut Vec<v1::Entry>) -> v1::Ack {
        let mut kept = self.kept.lock().unwrap();
        let mut ack = v1::Ack::default();
        for entry in pending.drain(..) {
            assert_eq!(entry.crc32c, crc32c::crc32c(&entry.payload));
            let epoch = entry.epoch.clone().unwrap();
            let known = kept.durable.get(&epoch.opened_raw_ns).map_or(0, |ack| ack.seq);
            if kept.entries.contains_key(&(epoch.opened_raw_ns, entry.seq)) {
                kept.repeated += 1;
            } else if entry.seq < known {
                kept.disordered += 1;
            }
            kept.entries.insert((epoch.opened_raw_ns, entry.seq), entry.payload.to_vec());
            let seq = if self.manner.lie { entry.seq + 1000 } else { entry.seq.max(known) };
            let settled_seq = self.manner.settles.map(|settled| settled.min(seq));
            ack = v1::Ack { epoch: Some(epoch.clone()), seq, settled_seq };
            kept.durable.insert(epoch.opened_raw_ns, ack.clone());
        }
        ack
    }

    async fn listen(self, tls: Option<ServerTlsConfig>) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut server = Server::builder();
        if let Some(tls) = tls {
            server = server.tls_config(tls).unwrap();
        }
        let serve =
            server.add_service(IngestServer::new(self)).serve_with_incoming(TcpIncoming::from(listener));
        tokio::spawn(serve);
        address
    }
}

fn epoch() -> EpochId {
    EpochId { agent: [1; 16], boot_id: [2; 16], opened: RawNs(77) }
}

struct Rig {
    _dir: tempfile::TempDir,
    spool: Spool,
    appender: Appender,
    uplink: Uplink,
}

fn rig(url: String, tls: Tls) -> Rig {
    let dir = tempfile::tempdir().unwrap();
    let clock: Arc<dyn Clock> = Arc::new(KernelClock);
    let limits = Limits {
        dir: dir.path().to_owned(),
        bytes_max: 1 << 30,
        segment_bytes: 16 << 10,
        free_bytes_min: 0,
        free_percent_min: 0,
        memory_bytes_max: 64 << 20,
        sync_interval: Duration::from_secs(1),
        when_full: WhenFull::Sacrifice,
    };
    let (spool, appender, reader) = spool::open(limits, clock.clone()).unwrap();
    let settings = Settings {
        urls: vec![url],
        tls,
        insecure: true,
        hello: v1::Hello { protocol_version: 1, ..v1::Hello::default() },
        time: TimeSource::Live(Timekeeper::new(epoch(), Evidence::default())),
        own_streams: CurrentOwnStreams::default(),
    };
    let heart = Heart::new(Board::default(), spool.clone(), clock.clone());
    let epoch = CurrentEpoch::new(epoch());
    let uplink = Uplink::new(settings, epoch, clock, spool.clone(), reader, Some(heart)).unwrap();
    Rig { _dir: dir, spool, appender, uplink }
}

fn payload(n: u64) -> Vec<u8> {
    vec![n as u8; 100 + (n as usize * 37) % 900]
}

/// Sends `count` entries by an uplink to `collector`; everything must have arrived once, in order, and be forgotten here.
async fn deliver(collector: TestCollector, count: u64) {
    let address = collector.clone().listen(None).await;
    let Rig { _dir, spool, mut appender, uplink } = rig(format!("http://{address}"), Tls::default());
    let stop = CancellationToken::new();
    let link = uplink.state();
    let running = uplink.spawn(&Handle::current(), stop.clone(), Duration::from_secs(60));
    for n in 1..=count {
        let lane = if n % 3 == 0 { Lane::Slices } else { Lane::Flows };
        appender.append(lane, &epoch(), 1, &payload(n));
        if n % 16 == 0 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
    stop.cancel();
    tokio::time::timeout(Duration::from_secs(90), running).await.expect("drained in time").unwrap();
    assert!(spool.is_drained(), "{:?}, {:?}", spool.status(), link.error());
    let kept = collector.kept.lock().unwrap();
    let expected: BTreeMap<(u64, u64), Vec<u8>> = (1..=count).map(|n| ((77, n), payload(n))).collect();
    assert_eq!(kept.entries.len(), expected.len());
    assert!(kept.entries == expected, "an entry came out other than it went in");
    assert_eq!((kept.disordered, kept.repeated, kept.entries_before_time), (0, 0, 0));
    assert!(kept.reports >= 1, "what the exchange proved was reported");
    println!("{} entries in {} sessions", kept.entries.len(), kept.sessions);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_or_repeated_when_every_stream_is_cut() {
    let manner = Manner { cut_after: Some(60), ack_each: 7, ..Manner::default() };
    let collector = TestCollector::new(manner);
    // The last stream must be allowed to end in an acknowledgement: 7 divides 700.
    deliver(collector.clone(), 700).await;
    assert!(collector.kept.lock().unwrap().sessions > 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn late_and_repeated_acknowledgements_fill_the_window_and_no_more() {
    let manner = Manner {
        ack_each: 20,
        ack_delay: Duration::from_millis(30),
        ack_twice: true,
        window_bytes: 64 << 10,
        ..Manner::default()
    };
    let collector = TestCollector::new(manner);
    deliver(collector.clone(), 400).await;
    let most = collector.unacked_bytes_max.load(Ordering::Relaxed);
    assert!(most <= 64 << 10, "{most}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_lies_about_acknowledgements_makes_nobody_forget() {
    let collector = TestCollector::new(Manner { lie: true, ..Manner::default() });
    let address = collector.clone().listen(None).await;
    let Rig { _dir, spool, mut appender, uplink } = rig(format!("http://{address}"), Tls::default());
    let link = uplink.state();
    for n in 1..=50 {
        appender.append(Lane::Flows, &epoch(), 1, &payload(n));
    }
    let stop = CancellationToken::new();
    let running = uplink.spawn(&Handle::current(), stop.clone(), Duration::from_millis(100));
    for _ in 0..200 {
        tokio::time::sleep(Duration::from_millis(10)).await;
        if link.error().is_some_and(|error| error.contains("acknowledged entry")) {
            break;
        }
    }
    assert!(link.error().unwrap().contains("acknowledged entry"), "{:?}", link.error());
    // Neither at once nor by its next Welcome.
    tokio::time::sleep(Duration::from_millis(500)).await;
    stop.cancel();
    running.await.unwrap();
    assert!(collector.kept.lock().unwrap().sessions >= 2);
    assert_eq!(spool.status().entries, 50);
}

/// A ledger that is ahead: another agent said it was this one, or the collector is not honest.
#[tokio::test(flavor = "multi_thread")]
async fn a_welcome_that_claims_what_was_never_sent_costs_nothing() {
    for claimed in [30, 1_000, u64::MAX] {
        let collector = TestCollector::new(Manner::default());
        let ack = v1::Ack { epoch: Some((&epoch()).into()), seq: claimed, settled_seq: Some(claimed) };
        collector.kept.lock().unwrap().durable.insert(77, ack);
        let address = collector.clone().listen(None).await;
        let Rig { _dir, spool, mut appender, uplink } = rig(format!("http://{address}"), Tls::default());
        for n in 1..=30 {
            appender.append(Lane::Flows, &epoch(), 1, &payload(n));
        }
        let stop = CancellationToken::new();
        stop.cancel();
        uplink.run(stop, Duration::from_secs(10)).await;
        assert!(spool.is_drained(), "{claimed}: {:?}", spool.status());
        assert_eq!((spool.status().ledger_conflicts, spool.status().sacrificed_flows.entries), (1, 0));
        let kept = collector.kept.lock().unwrap();
        let arrived: Vec<&Vec<u8>> = kept.entries.values().collect();
        assert_eq!(arrived.len(), 30, "{claimed}");
        assert!(arrived.iter().zip(1..).all(|(got, n)| **got == payload(n)));
        assert!(kept.heartbeats.iter().any(|beat| beat.spool.as_ref().unwrap().ledger_conflicts == 1));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_collector_lost_after_it_acknowledged_is_sent_again() {
    let collector = TestCollector::new(Manner { settles: Some(10), ..Manner::default() });
    let address = collector.clone().listen(None).await;
    let Rig { _dir, spool, mut appender, uplink } = rig(format!("http://{address}"), Tls::default());
    let stop = CancellationToken::new();
    let running = uplink.spawn(&Handle::current(), stop.clone(), Duration::from_secs(10));
    for n in 1..=40 {
        appender.append(Lane::Flows, &epoch(), 1, &payload(n));
    }
    for _ in 0..500 {
        tokio::time::sleep(Duration::from_millis(10)).await;
        if spool.is_drained() {
            break;
        }
    }
    assert!(spool.is_drained() && spool.status().unsettled_bytes + spool.status().bytes > 0);
    {
        // Its log was damaged, and it begins again.
        let mut kept = collector.kept.lock().unwrap();
        kept.entries.retain(|(_, seq), _| *seq <= 10);
        kept.durable.get_mut(&77).unwrap().seq = 10;
        kept.sessions = 0;
    }
    collector.cut.notify_waiters();
    for _ in 0..500 {
        tokio::time::sleep(Duration::from_millis(10)).await;
        if collector.kept.lock().unwrap().entries.len() == 40 {
            break;
        }
    }
    stop.cancel();
    running.await.unwrap();
    let kept = collector.kept.lock().unwrap();
    assert_eq!((kept.entries.len(), spool.status().asked_again), (40, 30));
    let asked = kept.hellos.last().unwrap();
    assert_eq!((asked.acked[0].seq, asked.acked[0].settled_seq), (40, Some(10)));
    let by: Vec<u64> = kept.hellos.iter().map(|hello| hello.acked_by).collect();
    assert_eq!(
        (by.first(), by.last()),
        (Some(&0), Some(&STORE_ID)),
        "it says whose acknowledgements these are"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_heartbeat_comes_each_second_and_says_what_is_spooled() {
    let collector = TestCollector::new(Manner { ack_each: 1000, ..Manner::default() });
    let address = collector.clone().listen(None).await;
    let Rig { _dir, spool: _spool, mut appender, uplink } = rig(format!("http://{address}"), Tls::default());
    appender.append(Lane::Flows, &epoch(), 3, &payload(1));
    let stop = CancellationToken::new();
    let running = uplink.spawn(&Handle::current(), stop.clone(), Duration::from_millis(10));
    tokio::time::sleep(Duration::from_millis(2500)).await;
    stop.cancel();
    running.await.unwrap();
    let kept = collector.kept.lock().unwrap();
    assert!((2..=4).contains(&kept.heartbeats.len()), "{}", kept.heartbeats.len());
    let last = kept.heartbeats.last().unwrap();
    assert_eq!(last.spool.as_ref().unwrap().entries, 1);
    // How far it is after 2.5 s is the machine's affair; that it began is not.
    assert_ne!(last.clock.as_ref().unwrap().state(), v1::ClockState::Unspecified);
    assert!(last.resident_bytes > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_collector_holds_nobody_up_at_the_end() {
    // Nothing listens on this port once it was closed.
    let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let Rig { _dir, spool, mut appender, uplink } = rig(format!("http://127.0.0.1:{port}"), Tls::default());
    appender.append(Lane::Flows, &epoch(), 1, &payload(1));
    let link = uplink.state();
    let stop = CancellationToken::new();
    let running = uplink.spawn(&Handle::current(), stop.clone(), Duration::from_millis(300));
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(link.error().unwrap().contains("cannot connect"), "{:?}", link.error());
    stop.cancel();
    tokio::time::timeout(Duration::from_secs(5), running).await.expect("the deadline holds").unwrap();
    assert_eq!(spool.status().entries, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn both_sides_prove_who_they_are_by_certificate() {
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
    let dir = tempfile::tempdir().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let pair = |name: &str| {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        (params.signed_by(&key, &ca).unwrap().pem(), key.serialize_pem())
    };
    let (server, server_key) = pair("collector.test");
    let (client, client_key) = pair("agent.test");
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let ca_file = file("ca.pem", &ca.pem());
    let identity = (file("agent.pem", &client), file("agent.key", &client_key));
    let config = ServerTlsConfig::new()
        .identity(TlsIdentity::from_pem(server, server_key))
        .client_ca_root(Certificate::from_pem(ca.pem()));
    let collector = TestCollector::new(Manner::default());
    let address = collector.clone().listen(Some(config)).await;
    for (identity, arrives) in [(None, false), (Some(identity), true)] {
        let tls = Tls { ca: Some(ca_file.clone()), identity, domain: Some("collector.test".into()) };
        let Rig { _dir, spool, mut appender, uplink } = rig(format!("https://{address}"), tls);
        let link = uplink.state();
        appender.append(Lane::Flows, &epoch(), 1, &payload(1));
        let stop = CancellationToken::new();
        stop.cancel();
        uplink.run(stop, Duration::from_secs(3)).await;
        assert_eq!(spool.is_drained(), arrives, "{:?}", link.error());
    }
}
