//! How soon a packet can be found: from the moment it is sent until a search shows it, and until it is in a downloaded
//! pcap. Asked over gRPC connections that stay open; the time of the asking is in the figures.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use gnomon_clock::{Clock, KernelClock, MonoNs};
use gnomon_integration_tests::fleet::{Agent, Collector};
use gnomon_integration_tests::forward::Forward;
use gnomon_proto::v1;
use gnomon_proto::v1::query_client::QueryClient;
use tonic::transport::Channel;

use crate::report::{Report, Table};
use crate::wire::{Frames, IN, OUT, Wire};

const PROBES: u32 = 60;
const SPACING: Duration = Duration::from_millis(700);
const POLL_PAUSE: Duration = Duration::from_millis(2);
const GIVE_UP: Duration = Duration::from_secs(5);
/// No more probes of a condition after this: one that is never found takes long.
const CONDITION_MAX: Duration = Duration::from_secs(75);
/// Frames a second on the same interface while under load.
const LOADS: [u64; 2] = [10_000, 100_000];
const OLD_FLOW_PORT: u16 = 40_000;
const NEW_FLOW_PORTS: u16 = 41_000;
/// How far back is searched: a quiet flow's earlier packets are in it too.
const LOOK_BACK_NS: i64 = 120_000_000_000;
const BUCKETS_MS: [u64; 11] = [25, 50, 100, 150, 200, 250, 300, 400, 500, 1_000, 5_000];

/// One packet, and how to tell it when it is found.
#[derive(Clone, Debug)]
struct Probe {
    port: u16,
    /// Packets of its flow with this one.
    packets: u64,
    payload: Vec<u8>,
    sent: MonoNs,
    since_unix_ns: i64,
}

impl Probe {
    fn expression(&self) -> String {
        format!("port.src == {}", self.port)
    }

    fn range(&self) -> Option<v1::TimeRange> {
        Some(v1::TimeRange { since_unix_ns: Some(self.since_unix_ns), ..v1::TimeRange::default() })
    }
}

/// Nanoseconds from sending to finding, and of the one answer that showed it; none: not found in `GIVE_UP`.
type Seen = Option<(u64, u64)>;

async fn poll<F: Future<Output = Result<bool>>>(probe: &Probe, mut ask: impl FnMut() -> F) -> Result<Seen> {
    loop {
        let asked = KernelClock.monotonic();
        if ask().await? {
            let now = KernelClock.monotonic();
            return Ok(Some((now.since(probe.sent), now.since(asked))));
        }
        if KernelClock.monotonic().since(probe.sent) > GIVE_UP.as_nanos() as u64 {
            return Ok(None);
        }
        tokio::time::sleep(POLL_PAUSE).await;
    }
}

async fn until_searchable(client: QueryClient<Channel>, probe: &Probe) -> Result<Seen> {
    poll(probe, || {
        let mut client = client.clone();
        let request = v1::SearchRequest {
            expression: probe.expression(),
            range: probe.range(),
            limit: 100,
            ..v1::SearchRequest::default()
        };
        async move {
            let flows = client.search(request).await.context("search")?.into_inner().flows;
            let records = flows.into_iter().filter_map(|flow| flow.record);
            let packets = |side: Option<v1::Direction>| side.map_or(0, |side| side.packets);
            let found: u64 = records.map(|record| packets(record.orig) + packets(record.resp)).sum();
            Ok(found >= probe.packets)
        }
    })
    .await
}

async fn until_downloadable(client: QueryClient<Channel>, probe: &Probe) -> Result<Seen> {
    poll(probe, || {
        let mut client = client.clone();
        let request = v1::PcapRequest {
            expression: probe.expression(),
            range: probe.range(),
            ..v1::PcapRequest::default()
        };
        async move {
            let mut chunks = client.pcap(request).await.context("pcap")?.into_inner();
            let mut file = Vec::new();
            while let Some(chunk) = chunks.message().await.context("pcap")? {
                file.extend_from_slice(&chunk.data);
            }
            Ok(file.windows(probe.payload.len()).any(|bytes| bytes == probe.payload))
        }
    })
    .await
}

#[derive(Debug, Default)]
struct Series {
    name: String,
    found_ns: Vec<u64>,
    answer_ns: Vec<u64>,
    never: usize,
}

impl Series {
    fn new(name: String) -> Series {
        Series { name, ..Series::default() }
    }

    fn add(&mut self, seen: Seen) {
        match seen {
            Some((found, answer)) => {
                self.found_ns.push(found);
                self.answer_ns.push(answer);
            }
            None => self.never += 1,
        }
    }

    /// The smallest value that `share` of all are not above; what was never found is above all.
    fn quantile(&self, share: f64) -> String {
        let mut sorted = self.found_ns.clone();
        sorted.sort_unstable();
        let rank = (share * (sorted.len() + self.never) as f64).ceil() as usize;
        let value = sorted.get(rank.max(1) - 1);
        value.map_or_else(|| format!("> {}", GIVE_UP.as_millis()), |ns| format!("{:.0}", *ns as f64 / 1e6))
    }

    fn answer_median_ms(&self) -> String {
        let mut sorted = self.answer_ns.clone();
        sorted.sort_unstable();
        sorted.get(sorted.len() / 2).map_or("–".to_owned(), |ns| format!("{:.1}", *ns as f64 / 1e6))
    }
}

struct Scene {
    client: QueryClient<Channel>,
    runtime: tokio::runtime::Runtime,
    // Held for their lifetimes.
    _agent: Agent,
    _link: Forward,
    _collector: Collector,
    _dir: tempfile::TempDir,
    // Dropped last: its end kills what still runs inside.
    wire: Wire,
}

impl Scene {
    fn build(bin_dir: &Path) -> Result<Scene> {
        let wire = Wire::build(bin_dir)?;
        wire.generator.ip(&format!("addr add 10.9.0.1/24 dev {OUT}"))?;
        // A mirror port's packets are for others.
        wire.generator
            .ip(&format!("neigh replace 10.9.0.2 lladdr 02:00:00:00:00:02 dev {OUT} nud permanent"))?;
        let dir = tempfile::tempdir()?;
        let collector = Collector::start(bin_dir, &dir.path().join("collector"), &[])?;
        let link =
            Forward::open(&wire.receiver, SocketAddr::from((Ipv4Addr::LOCALHOST, 7440)), collector.grpc)?;
        let url = format!("http://{}", link.address());
        let interface = format!("name = {IN:?}, stance = \"tap\", backend = \"af_xdp\"");
        let state = dir.path().join("agent");
        let mut agent = Agent::start(bin_dir, &state, Some(&wire.receiver), &interface, &url, &[])?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let endpoint = Channel::from_shared(collector.url())?;
        let channel = runtime.block_on(endpoint.connect()).context("connect to the collector")?;
        let client = QueryClient::new(channel).max_decoding_message_size(gnomon_proto::MESSAGE_BYTES_MAX);
        let said = agent.process()?.said();
        let scene =
            Scene { client, runtime, _agent: agent, _link: link, _collector: collector, _dir: dir, wire };
        scene.wait_until_found().with_context(|| format!("the agent said:\n{said}"))?;
        Ok(scene)
    }

    fn socket(&self, port: u16) -> Result<UdpSocket> {
        let open = move || -> std::io::Result<UdpSocket> {
            let socket = UdpSocket::bind((Ipv4Addr::new(10, 9, 0, 1), port))?;
            socket.connect((Ipv4Addr::new(10, 9, 0, 2), 9))?;
            Ok(socket)
        };
        self.wire.generator.within(open)?.with_context(|| format!("bind UDP port {port}"))
    }

    fn send(&self, socket: &UdpSocket, port: u16, packets: u64, payload: String) -> Result<Probe> {
        let since_unix_ns = KernelClock.bracket().realtime.unix_ns() - LOOK_BACK_NS;
        let sent = KernelClock.monotonic();
        socket.send(payload.as_bytes())?;
        Ok(Probe { port, packets, payload: payload.into_bytes(), sent, since_unix_ns })
    }

    fn look(&self, probe: &Probe) -> Result<(Seen, Seen)> {
        let (searcher, downloader) = (self.client.clone(), self.client.clone());
        self.runtime.block_on(async {
            let searched = until_searchable(searcher, probe);
            let downloaded = until_downloadable(downloader, probe);
            let (searched, downloaded) = tokio::join!(searched, downloaded);
            Ok((searched?, downloaded?))
        })
    }

    /// The agent captures, the collector knows its clock well enough to index what it sends.
    fn wait_until_found(&self) -> Result<()> {
        let port = OLD_FLOW_PORT - 1;
        let socket = self.socket(port)?;
        for attempt in 0..10 {
            let probe = self.send(&socket, port, 1, format!("gnomon-warm-up-{attempt:06}"))?;
            if let (Some(_), Some(_)) = self.look(&probe)? {
                return Ok(());
            }
        }
        anyhow::bail!("no probe was found within a minute")
    }

    /// Alternately a packet of a flow that is there and one of a new flow.
    fn probe(&self, condition: &str, first_new_port: u16, old_packets: &mut u64) -> Result<Vec<Series>> {
        let mut series: Vec<Series> = ["packet of a known flow", "first packet of a flow"]
            .iter()
            .flat_map(|kind| {
                ["search", "pcap"].map(|question| Series::new(format!("{condition}, {kind}, {question}")))
            })
            .collect();
        let old = self.socket(OLD_FLOW_PORT)?;
        let began = KernelClock.monotonic();
        for n in 0..PROBES {
            let start = KernelClock.monotonic();
            if u128::from(start.since(began)) > CONDITION_MAX.as_nanos() {
                eprintln!(
                    "    given up after {n} of {PROBES} probes: they took {} s",
                    CONDITION_MAX.as_secs()
                );
                break;
            }
            let is_new = n % 2 == 1;
            let payload = format!("gnomon-probe-{condition}-{n:06}");
            let probe = if is_new {
                let port = first_new_port + u16::try_from(n)?;
                self.send(&self.socket(port)?, port, 1, payload)?
            } else {
                *old_packets += 1;
                self.send(&old, OLD_FLOW_PORT, *old_packets, payload)?
            };
            let (searched, downloaded) = self.look(&probe)?;
            let at = if is_new { 2 } else { 0 };
            series[at].add(searched);
            series[at + 1].add(downloaded);
            let spent = Duration::from_nanos(KernelClock.monotonic().since(start));
            std::thread::sleep(SPACING.saturating_sub(spent));
        }
        Ok(series)
    }
}

pub(crate) fn measure(bin_dir: &Path, report: &mut Report) -> Result<()> {
    eprintln!("==> visibility, idle link");
    let scene = Scene::build(bin_dir)?;
    let mut old_packets = 0;
    let mut series = scene.probe("idle", NEW_FLOW_PORTS, &mut old_packets)?;
    for (nth, load) in (1..).zip(LOADS) {
        eprintln!("==> visibility, {load} frames/s beside");
        // Killed when the probes are done.
        let seconds = (CONDITION_MAX + 4 * GIVE_UP).as_secs_f64();
        let mut flood =
            scene.wire.flood_command(Frames::Imix, load, seconds).spawn().context("start the generator")?;
        // Ten thousand new flows at once are another matter than the load.
        std::thread::sleep(Duration::from_secs(3));
        let condition = format!("{} k/s", load / 1_000);
        let loaded = scene.probe(&condition, NEW_FLOW_PORTS + nth * 1_000, &mut old_packets);
        ensure!(flood.try_wait()?.is_none(), "the generator ended before the probes");
        flood.kill()?;
        flood.wait()?;
        series.extend(loaded?);
    }

    let title = format!(
        "Visibility, ms from sending; up to {} probes a line, {} ms apart; beside so many frames/s of IMIX over 10,000 flows on the same interface",
        PROBES / 2,
        SPACING.as_millis()
    );
    let mut table = Table::new(
        &title,
        &["", "probes", "p50", "p90", "p99", "max", "never", "of it the last answer, p50"],
    );
    for one in &series {
        table.row(vec![
            one.name.clone(),
            (one.found_ns.len() + one.never).to_string(),
            one.quantile(0.5),
            one.quantile(0.9),
            one.quantile(0.99),
            one.quantile(1.0),
            one.never.to_string(),
            one.answer_median_ms(),
        ]);
    }
    report.add(&table);
    report.add(&histogram(&series));
    Ok(())
}

fn histogram(series: &[Series]) -> Table {
    let bounds: Vec<String> = BUCKETS_MS.iter().map(|ms| format!("≤ {ms}")).collect();
    let mut head = vec!["probes found within ms"];
    head.extend(bounds.iter().map(String::as_str));
    head.push("never");
    let mut table = Table::new("Histogram of the same", &head);
    for one in series {
        let mut row = vec![one.name.clone()];
        let mut low = 0;
        for high in BUCKETS_MS.map(|ms| ms * 1_000_000) {
            let count = one.found_ns.iter().filter(|ns| (low..high).contains(*ns)).count();
            row.push(if count == 0 { "·".to_owned() } else { count.to_string() });
            low = high;
        }
        row.push(one.never.to_string());
        table.row(row);
    }
    table
}
