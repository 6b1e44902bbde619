//! What the collector measures of itself: the one table of names, units and meanings.

mod series;

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use gnomon_clock::MonoNs;
use opentelemetry::KeyValue;
use opentelemetry::metrics::Meter;
use prometheus::{Registry, TextEncoder};

use crate::fleet::Fleet;
use crate::ingest::CommitCounters;
use crate::listen::Refusals;
use crate::own_streams::StreamRegistry;
use crate::query::Queries;
use crate::store::{Store, StoreStatus};
use crate::tls::Tls;

/// Where the numbers come from.
#[derive(Clone)]
struct Sources {
    store: Store,
    fleet: Fleet,
    commits: Arc<CommitCounters>,
    refusals: Refusals,
    tls: Option<Tls>,
    queries: Queries,
    own_streams: StreamRegistry,
    /// What was read of the store last, and when: one scrape asks for it many times.
    status: Arc<Mutex<Option<(MonoNs, StoreStatus)>>>,
}

/// A status is as good as new for so long.
const STATUS_NS: u64 = 200_000_000;

impl Sources {
    fn status(&self) -> Option<StoreStatus> {
        let mut known = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.store.gate().monotonic();
        if let Some((at, status)) = &*known
            && now.since(*at) < STATUS_NS
        {
            return Some(status.clone());
        }
        let status = self.store.status().ok()?;
        *known = Some((now, status.clone()));
        Some(status)
    }
}

/// A number read when somebody looks, with the value of its one label if it has one.
type Read = fn(&Sources) -> Vec<(&'static str, u64)>;

struct Metric {
    name: &'static str,
    unit: &'static str,
    help: &'static str,
    /// Name of the label, or empty.
    label: &'static str,
    /// Only ever grows.
    counter: bool,
    read: Read,
}

fn one(value: u64) -> Vec<(&'static str, u64)> {
    vec![("", value)]
}

fn of_store(sources: &Sources, read: fn(&StoreStatus) -> u64) -> Vec<(&'static str, u64)> {
    sources.status().map(|status| one(read(&status))).unwrap_or_default()
}

static METRICS: [Metric; 30] = [
    Metric {
        name: "gnomon.collector.own_streams.refused",
        unit: "",
        help: "Streams that agents or programs said are their own and that other agents are not told of, because there were too many",
        label: "",
        counter: true,
        read: |s| one(s.own_streams.refused()),
    },
    Metric {
        name: "gnomon.collector.ingest.received",
        unit: "",
        help: "What came from agents: entries, those here already (duplicate), those that mean nothing (bad), sequence numbers agents never sent (missing), flow records, those older than what is stored (stale), sliced packets",
        label: "what",
        counter: true,
        read: |s| s.fleet.received().named().to_vec(),
    },
    Metric {
        name: "gnomon.collector.ingest.refused",
        unit: "",
        help: "What was not taken from agents: messages over a bound or out of place, which end a session (message), entries numbered too far ahead of what is durable (ledger_jump), heartbeats that there is no room to remember (heartbeat), agents beyond 10,000 (agent)",
        label: "reason",
        counter: true,
        read: |s| s.fleet.refusals().named(),
    },
    Metric {
        name: "gnomon.collector.agents.connected",
        unit: "",
        help: "Agents with an open session",
        label: "",
        counter: false,
        read: |s| one(s.fleet.connected() as u64),
    },
    Metric {
        name: "gnomon.collector.refused",
        unit: "",
        help: "Connections and requests refused or cut off: no place (full, peer_full, busy), no request in time (crowded, silent), a TLS handshake that failed (handshake), a body that did not come whole (slow_body, unfinished), an answer not taken (not_reading), another's name or page (host, origin, content_type), nobody who may (no_certificate, certificate, role, user, agent_id)",
        label: "reason",
        counter: true,
        read: |s| s.refusals.named(),
    },
    Metric {
        name: "gnomon.collector.certificates.expired_passed",
        unit: "",
        help: "Connections let in with a certificate that has ended by the machine's clock, which nothing vouches for",
        label: "",
        counter: true,
        read: |s| one(s.refusals.expired_passed()),
    },
    Metric {
        name: "gnomon.collector.certificate.end",
        unit: "s",
        help: "When the collector's own certificate ends, in seconds since 1970; 0 without TLS",
        label: "",
        counter: false,
        read: |s| {
            let end = s.tls.as_ref().map_or(0, |tls| tls.current().own.not_after_unix_s);
            one(u64::try_from(end).unwrap_or(0))
        },
    },
    Metric {
        name: "gnomon.collector.commit.groups",
        unit: "",
        help: "Groups of changes made durable",
        label: "",
        counter: true,
        read: |s| one(s.commits.groups.load(Ordering::Relaxed)),
    },
    Metric {
        name: "gnomon.collector.commit.changes",
        unit: "",
        help: "Changes made durable: entries, clock reports, hellos",
        label: "",
        counter: true,
        read: |s| one(s.commits.changes.load(Ordering::Relaxed)),
    },
    Metric {
        name: "gnomon.collector.commit.failures",
        unit: "",
        help: "Tries to write a group that failed",
        label: "",
        counter: true,
        read: |s| one(s.commits.failures.load(Ordering::Relaxed)),
    },
    Metric {
        name: "gnomon.collector.store.records",
        unit: "",
        help: "Flow records kept, by what the clock gate made of their time",
        label: "state",
        counter: false,
        read: |s| {
            s.status().map_or_else(Vec::new, |status| {
                vec![
                    ("indexed", status.flows),
                    ("pending", status.flows_pending),
                    ("quarantined", status.flows_quarantined),
                ]
            })
        },
    },
    Metric {
        name: "gnomon.collector.store.packets",
        unit: "",
        help: "Sliced packets kept",
        label: "",
        counter: false,
        read: |s| of_store(s, |status| status.slice_packets),
    },
    Metric {
        name: "gnomon.collector.store.packet_bytes",
        unit: "By",
        help: "Bytes of segment files",
        label: "",
        counter: false,
        read: |s| of_store(s, |status| status.slice_bytes),
    },
    Metric {
        name: "gnomon.collector.store.torn",
        unit: "By",
        help: "Bytes of packets cut at the start because they were never acknowledged",
        label: "",
        counter: true,
        read: |s| of_store(s, |status| status.torn_bytes),
    },
    Metric {
        name: "gnomon.collector.store.write_failures",
        unit: "",
        help: "Writes of the database that failed; each is tried again until it is durable",
        label: "",
        counter: true,
        read: |s| of_store(s, |status| status.write_failures),
    },
    Metric {
        name: "gnomon.collector.store.reopened",
        unit: "",
        help: "How often the database was opened anew because the disk had failed under it",
        label: "",
        counter: true,
        read: |s| of_store(s, |status| status.reopened),
    },
    Metric {
        name: "gnomon.collector.store.lost",
        unit: "By",
        help: "Bytes of packets that were acknowledged and are missing: the disk lost them",
        label: "",
        counter: true,
        read: |s| of_store(s, |status| status.lost_bytes),
    },
    Metric {
        name: "gnomon.collector.store.entries_missing",
        unit: "",
        help: "Entries that were acknowledged and that damage took: agents are asked for them again",
        label: "",
        counter: false,
        read: |s| of_store(s, |status| status.entries_missing),
    },
    Metric {
        name: "gnomon.collector.store.entries_lost",
        unit: "",
        help: "Entries that were acknowledged, that damage took and that their agents did not have any more; kept over restarts",
        label: "",
        counter: true,
        read: |s| of_store(s, |status| status.entries_lost),
    },
    Metric {
        name: "gnomon.collector.store.lost_writes",
        unit: "",
        help: "Writes of the database that were acknowledged and that its damaged log did not have at the start",
        label: "",
        counter: true,
        read: |s| of_store(s, |status| status.lost_writes),
    },
    Metric {
        name: "gnomon.collector.store.set_aside",
        unit: "",
        help: "Damaged files that are kept in `damaged` under the data directory, at the start",
        label: "",
        counter: false,
        read: |s| of_store(s, |status| status.set_aside),
    },
    Metric {
        name: "gnomon.collector.store.damaged_blocks",
        unit: "",
        help: "Slice blocks and stretches of segment files found damaged",
        label: "",
        counter: true,
        read: |s| of_store(s, |status| status.damaged_blocks),
    },
    Metric {
        name: "gnomon.collector.store.records_set_aside",
        unit: "",
        help: "Records that no block can hold: they are kept in the quarantine instead",
        label: "",
        counter: true,
        read: |s| of_store(s, |status| status.records_set_aside),
    },
    Metric {
        name: "gnomon.collector.store.damaged_indexes",
        unit: "",
        help: "Indexes of segment files found damaged, and made anew from the frames",
        label: "",
        counter: true,
        read: |s| of_store(s, |status| status.damaged_indexes),
    },
    Metric {
        name: "gnomon.collector.store.stopped",
        unit: "",
        help: "1 while nothing can be stored",
        label: "",
        counter: false,
        read: |s| of_store(s, |status| u64::from(status.stopped.is_some())),
    },
    Metric {
        name: "gnomon.collector.alerts",
        unit: "",
        help: "Alerts that came from agents: taken, already known (repeated), that met a record (joined), that met none in 15 minutes (given_up) or before too many others came (crowded_out)",
        label: "what",
        counter: true,
        read: |s| s.store.alert_counts().named().to_vec(),
    },
    Metric {
        name: "gnomon.collector.alerts.waiting",
        unit: "",
        help: "Alerts that have met no record yet",
        label: "",
        counter: false,
        read: |s| one(s.store.alert_counts().waiting()),
    },
    Metric {
        name: "gnomon.collector.clock.events",
        unit: "",
        help: "What happened to clocks, the collector's and the agents': set (step), another state, broken (disruption), sources that contradict each other (conflict), times moved (correction)",
        label: "kind",
        counter: true,
        read: |s| s.store.gate().keeper().events().counts().to_vec(),
    },
    Metric {
        name: "gnomon.collector.clock.proven",
        unit: "",
        help: "1 while something stands for the collector's own time",
        label: "",
        counter: false,
        read: |s| one(u64::from(s.store.now().proven)),
    },
    Metric {
        name: "gnomon.collector.disk.free",
        unit: "By",
        help: "Bytes free on the file system of data_dir",
        label: "",
        counter: false,
        read: |s| of_store(s, |status| status.disk_free_bytes),
    },
];

impl Metric {
    /// Its name on `/metrics`, where the unit and the kind are part of it.
    fn prometheus_name(&self) -> String {
        let unit = match self.unit {
            "By" => "_bytes",
            "s" => "_seconds",
            _ => "",
        };
        format!("{}{unit}{}", self.name.replace('.', "_"), if self.counter { "_total" } else { "" })
    }
}

/// The table as Markdown, for the docs.
#[must_use]
pub fn reference() -> String {
    let mut text = String::from(
        "| name | on `/metrics` | kind | unit | labels | meaning |\n|---|---|---|---|---|---|\n",
    );
    for metric in &METRICS {
        let Metric { name, unit, help, label, counter, .. } = metric;
        let kind = if *counter { "counter" } else { "gauge" };
        let shown = metric.prometheus_name();
        text.push_str(&format!("| `{name}` | `{shown}` | {kind} | {unit} | {label} | {help}. |\n"));
    }
    series::reference(&mut text);
    text
}

/// What `/metrics` says: everything in `registry` in Prometheus' text format 0.0.4.
pub fn prometheus_text(registry: Registry) -> Arc<dyn Fn() -> String + Send + Sync> {
    Arc::new(move || {
        TextEncoder::new().encode_to_string(&registry.gather()).unwrap_or_else(|error| {
            tracing::error!(%error, "the metrics contradict each other");
            String::new()
        })
    })
}

/// Let `meter` read all of it.
pub fn register(
    meter: &Meter,
    store: &Store,
    fleet: &Fleet,
    commits: &Arc<CommitCounters>,
    refusals: &Refusals,
    tls: Option<&Tls>,
    queries: &Queries,
    own_streams: &StreamRegistry,
) {
    let sources = Sources {
        store: store.clone(),
        fleet: fleet.clone(),
        commits: Arc::clone(commits),
        refusals: refusals.clone(),
        tls: tls.cloned(),
        queries: queries.clone(),
        own_streams: own_streams.clone(),
        status: Arc::default(),
    };
    series::register(meter, &sources);
    for metric in &METRICS {
        let sources = sources.clone();
        let observe = move |observer: &dyn opentelemetry::metrics::AsyncInstrument<u64>| {
            for (value, number) in (metric.read)(&sources) {
                if metric.label.is_empty() {
                    observer.observe(number, &[]);
                } else {
                    observer.observe(number, &[KeyValue::new(metric.label, value)]);
                }
            }
        };
        if metric.counter {
            meter
                .u64_observable_counter(metric.name)
                .with_unit(metric.unit)
                .with_description(metric.help)
                .with_callback(observe)
                .build();
        } else {
            meter
                .u64_observable_gauge(metric.name)
                .with_unit(metric.unit)
                .with_description(metric.help)
                .with_callback(observe)
                .build();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use std::io::Write;
    use std::process::{Command, Stdio};
    use std::sync::OnceLock;

    use gnomon_daemon::certificate::Certificate;
    use gnomon_daemon::telemetry::{self, TelemetryConfig};
    use gnomon_proto::v1;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::fleet::Introduction;
    use crate::listen::Identity;
    use crate::query::{Operation, QueryLimits};
    use crate::store::testing::{FakeClock, S, epoch, fix, fixes, flows, open, record};

    /// What `/metrics` says of a collector that knows an agent and has answered a question.
    fn scraped() -> &'static str {
        static TEXT: OnceLock<String> = OnceLock::new();
        // Telemetry begins once in a process.
        TEXT.get_or_init(scrape)
    }

    fn scrape() -> String {
        let dir = tempfile::tempdir().unwrap();
        let clock = FakeClock::new();
        let (store, mut writer) = open(dir.path(), &clock);
        let flows = flows(epoch(1), 1, vec![record(1, 0, 50 * S, 50 * S)]);
        writer.commit(&[fixes(epoch(1), vec![fix(50, 100)]), flows]).unwrap();
        let config = TelemetryConfig { log: "off".to_owned(), ..TelemetryConfig::default() };
        let telemetry = telemetry::init("gnomon-collector", &config).unwrap();
        let commits = Arc::new(CommitCounters::default());
        let fleet = Fleet::default();
        let certificate = Certificate {
            name: "a".to_owned(),
            role: None,
            fingerprint: [0; 32],
            not_before_unix_s: 0,
            not_after_unix_s: 1_798_761_600,
        };
        let seat = fleet
            .join(
                Introduction {
                    name: "a\"b\n\\".to_owned(),
                    identity: Identity::Certificate(Arc::new(certificate)),
                    ..Introduction::default()
                },
                store.now().utc,
            )
            .unwrap();
        let interface = |count| v1::InterfaceStatus {
            drops: [("ring_full".to_owned(), count)].into(),
            ..Default::default()
        };
        let heartbeat = v1::Heartbeat {
            interfaces: vec![interface(3), interface(4)],
            spool: Some(v1::SpoolStatus { entries: 5, bytes: 6, bytes_max: 7, ..Default::default() }),
            ..Default::default()
        };
        seat.heartbeat(heartbeat, store.now().utc, None);
        let queries =
            Queries::new(store.clone(), clock.clone(), QueryLimits::default(), CancellationToken::new());
        let own_streams = StreamRegistry::new([], clock);
        let refusals = Refusals::new(FakeClock::new());
        let meter = telemetry.meter("gnomon.collector");
        register(&meter, &store, &fleet, &commits, &refusals, None, &queries, &own_streams);
        queries.counters().answered(Operation::Search, 2_000_000, true);
        prometheus_text(telemetry.prometheus_registry())()
    }

    #[test]
    fn metrics_are_served_under_the_names_the_docs_say() {
        let text = scraped();
        let served: BTreeSet<&str> = text
            .lines()
            .filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next())
            .filter(|name| *name != "target_info")
            .collect();
        let written: Vec<String> =
            METRICS.iter().map(Metric::prometheus_name).chain(series::names()).collect();
        // There are no packets, and their oldest is not known.
        assert_eq!(served, written.iter().map(String::as_str).collect(), "{text}");
        assert!(written.iter().all(|name| reference().contains(&format!("| `{name}` |"))));
        let id = "00".repeat(16);
        let labels = format!("agent=\"a\\\"b\\n\\\\\",id=\"{id}\"");
        for line in [
            format!("gnomon_collector_agent_drops_total{{{labels},reason=\"ring_full\"}} 7"),
            format!("gnomon_collector_agent_spool_entries{{{labels}}} 5"),
            format!("gnomon_collector_agent_spool_size_bytes{{{labels}}} 6"),
            format!("gnomon_collector_agent_connected{{{labels}}} 1"),
            format!("gnomon_collector_agent_certificate_end_timestamp_seconds{{{labels}}} 1798761600"),
            "gnomon_collector_query_duration_seconds_bucket{operation=\"search\",outcome=\"answered\",le=\"0.003\"} 1".to_owned(),
            "gnomon_collector_query_refused_total{reason=\"busy\"} 0".to_owned(),
        ] {
            assert!(text.lines().any(|served| served == line), "{line} is not in\n{text}");
        }
        assert!(text.contains("gnomon_collector_retention_horizon_seconds{what=\"flows\"} "), "{text}");
    }

    #[test]
    fn promtool_finds_nothing_wrong() {
        let promtool = Command::new("promtool")
            .args(["check", "metrics"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let mut promtool = match promtool {
            Ok(promtool) => promtool,
            Err(error) => return println!("SKIPPED: no promtool (Debian has it in `prometheus`): {error}"),
        };
        promtool.stdin.take().unwrap().write_all(scraped().as_bytes()).unwrap();
        let said = promtool.wait_with_output().unwrap();
        let text = [&said.stdout[..], &said.stderr].concat();
        assert!(said.status.success() && text.is_empty(), "{}", String::from_utf8_lossy(&text));
    }
}
