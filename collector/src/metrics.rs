//! What the collector measures of itself: the one table of names, units and meanings.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use opentelemetry::KeyValue;
use opentelemetry::metrics::Meter;
use prometheus::{Registry, TextEncoder};

use crate::fleet::Fleet;
use crate::ingest::CommitCounters;
use crate::store::{Store, StoreStatus};

/// Where the numbers come from.
#[derive(Clone)]
struct Sources {
    store: Store,
    fleet: Fleet,
    commits: Arc<CommitCounters>,
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
    sources.store.status().map(|status| one(read(&status))).unwrap_or_default()
}

static METRICS: [Metric; 22] = [
    Metric {
        name: "gnomon.collector.ingest.received",
        unit: "",
        help: "What came from agents: entries, those here already (duplicate), those that mean nothing (bad), sequence numbers agents never sent (missing), flow records, those older than what is stored (stale), sliced packets",
        label: "what",
        counter: true,
        read: |s| s.fleet.received().named().to_vec(),
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
        name: "gnomon.collector.commit.last",
        unit: "ns",
        help: "How long the last group took to be durable",
        label: "",
        counter: false,
        read: |s| one(s.commits.last_ns.load(Ordering::Relaxed)),
    },
    Metric {
        name: "gnomon.collector.store.records",
        unit: "",
        help: "Flow records kept, by what the clock gate made of their time",
        label: "state",
        counter: false,
        read: |s| {
            s.store.status().map_or_else(
                |_| Vec::new(),
                |status| {
                    vec![
                        ("indexed", status.flows),
                        ("pending", status.flows_pending),
                        ("quarantined", status.flows_quarantined),
                    ]
                },
            )
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
        name: "gnomon.collector.store.damaged_blocks",
        unit: "",
        help: "Slice blocks and stretches of segment files found damaged",
        label: "",
        counter: true,
        read: |s| of_store(s, |status| status.damaged_blocks),
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
        name: "gnomon.collector.clock.error",
        unit: "ns",
        help: "How wrong the collector's time may be, against UTC while it is proven",
        label: "",
        counter: false,
        read: |s| one(s.store.now().err_ns),
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
            "ns" => "_nanoseconds",
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
pub fn register(meter: &Meter, store: &Store, fleet: &Fleet, commits: &Arc<CommitCounters>) {
    let sources = Sources { store: store.clone(), fleet: fleet.clone(), commits: Arc::clone(commits) };
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

    use gnomon_daemon::telemetry::{self, TelemetryConfig};

    use super::*;
    use crate::store::testing::{FakeClock, open};

    #[test]
    fn metrics_are_served_under_the_names_the_docs_say() {
        let dir = tempfile::tempdir().unwrap();
        let (store, _writer) = open(dir.path(), &FakeClock::new());
        let config = TelemetryConfig { log: "off".to_owned(), ..TelemetryConfig::default() };
        let telemetry = telemetry::init("gnomon-collector", &config).unwrap();
        let commits = Arc::new(CommitCounters::default());
        register(&telemetry.meter("gnomon.collector"), &store, &Fleet::default(), &commits);
        let text = prometheus_text(telemetry.prometheus_registry())();
        let served: BTreeSet<&str> = text
            .lines()
            .filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next())
            .filter(|name| *name != "target_info")
            .collect();
        let written: Vec<String> = METRICS.iter().map(Metric::prometheus_name).collect();
        assert_eq!(served, written.iter().map(String::as_str).collect(), "{text}");
        assert!(written.iter().all(|name| reference().contains(&format!("| `{name}` |"))));
    }
}
