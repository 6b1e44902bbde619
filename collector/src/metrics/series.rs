//! Metrics of several labels, in seconds, or spread over buckets: a table of its own beside the one of plain numbers.

use gnomon_clock::UtcNs;
use opentelemetry::KeyValue;
use opentelemetry::metrics::Meter;

use super::Sources;
use crate::listen::Identity;

/// Agents that metrics tell of: those seen last. A series for each reason of each of 10,000 agents would be too many for the
/// SDK, which keeps 2,000 of an instrument, and for whoever scrapes them.
const AGENTS_MAX: usize = 200;
/// Reasons of one agent; there are about twenty.
const REASONS_MAX: usize = 32;
/// All series of one metric.
const SERIES_MAX: usize = 1_900;

/// Upper bounds of the buckets of [`DURATION`], in seconds.
const DURATION_BOUNDS_S: [f64; 12] = [0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0];

/// A value with those of its labels, in their order.
struct Sample {
    labels: Vec<String>,
    value: f64,
}

type Read = fn(&Sources) -> Vec<Sample>;

#[derive(Clone, Copy)]
enum Kind {
    Counter(Read),
    Gauge(Read),
    Histogram,
}

struct Series {
    name: &'static str,
    unit: &'static str,
    help: &'static str,
    labels: &'static [&'static str],
    kind: Kind,
}

const AGENT: &[&str] = &["agent", "id"];

static SERIES: [Series; 13] = [
    Series {
        name: "gnomon.collector.agent.connected",
        unit: "",
        help: "1 while the agent has an open session; of the 200 agents seen last, as all that is told of each agent",
        labels: AGENT,
        kind: Kind::Gauge(|s| of_agents(s, |agent| Some(f64::from(u8::from(agent.connected))))),
    },
    Series {
        name: "gnomon.collector.agent.last_seen.timestamp",
        unit: "s",
        help: "When the agent was heard of last, since 1970",
        labels: AGENT,
        kind: Kind::Gauge(|s| of_agents(s, |agent| agent.last_seen_s)),
    },
    Series {
        name: "gnomon.collector.agent.drops",
        unit: "",
        help: "What did not go all the way on the agent, by its own count and reason (`gnomon.agent.drops`), since it started",
        labels: &["agent", "id", "reason"],
        kind: Kind::Counter(drops),
    },
    Series {
        name: "gnomon.collector.agent.spool.entries",
        unit: "",
        help: "Entries in the agent's spool that were not acknowledged",
        labels: AGENT,
        kind: Kind::Gauge(|s| of_agents(s, |agent| agent.spool.map(|[entries, ..]| entries as f64))),
    },
    Series {
        name: "gnomon.collector.agent.spool.size",
        unit: "By",
        help: "Bytes of the agent's spool",
        labels: AGENT,
        kind: Kind::Gauge(|s| of_agents(s, |agent| agent.spool.map(|[_, bytes, _]| bytes as f64))),
    },
    Series {
        name: "gnomon.collector.agent.spool.limit",
        unit: "By",
        help: "Bytes that the agent's spool may have",
        labels: AGENT,
        kind: Kind::Gauge(|s| of_agents(s, |agent| agent.spool.map(|[.., max]| max as f64))),
    },
    Series {
        name: "gnomon.collector.agent.certificate.end.timestamp",
        unit: "s",
        help: "When the certificate that the agent connected with ends, since 1970",
        labels: AGENT,
        kind: Kind::Gauge(|s| of_agents(s, |agent| agent.certificate_end_s)),
    },
    Series {
        name: "gnomon.collector.retention.horizon",
        unit: "s",
        help: "How far back the oldest `flows` and `packets` reach",
        labels: &["what"],
        kind: Kind::Gauge(horizon),
    },
    Series {
        name: "gnomon.collector.query.duration",
        unit: "s",
        help: "How long questions took, their wait for a place included, by operation (`search`, `get`, `count`, `top`, `histogram`, `facets`, `hunt`, `pcap`, `clock`) and outcome (`answered`, `failed`); sending the answer is not in it",
        labels: &["operation", "outcome"],
        kind: Kind::Histogram,
    },
    Series {
        name: "gnomon.collector.query.refused",
        unit: "",
        help: "Questions that found no place in time (`busy`) or no memory (`memory`), and answers given up because nobody read them (`stalled`)",
        labels: &["reason"],
        kind: Kind::Counter(|s| {
            let sample = |(reason, count): (&str, u64)| Sample {
                labels: vec![reason.to_owned()],
                value: count as f64,
            };
            s.queries.counters().named().into_iter().map(sample).collect()
        }),
    },
    Series {
        name: "gnomon.collector.query.memory",
        unit: "By",
        help: "Bytes that questions under way and answers not read yet are charged of `query.memory_max`",
        labels: &[],
        kind: Kind::Gauge(|s| one(s.queries.memory().used() as f64)),
    },
    Series {
        name: "gnomon.collector.commit.last",
        unit: "s",
        help: "How long the last group took to be durable",
        labels: &[],
        kind: Kind::Gauge(|s| one(s.commits.last_ns.load(std::sync::atomic::Ordering::Relaxed) as f64 / 1e9)),
    },
    Series {
        name: "gnomon.collector.clock.error",
        unit: "s",
        help: "How wrong the collector's time may be, against UTC while it is proven",
        labels: &[],
        kind: Kind::Gauge(|s| one(s.store.now().err_ns as f64 / 1e9)),
    },
];

fn one(value: f64) -> Vec<Sample> {
    vec![Sample { labels: Vec::new(), value }]
}

/// What metrics tell of an agent.
struct Agent {
    name: String,
    id: String,
    connected: bool,
    last_seen_s: Option<f64>,
    /// Entries, bytes, and bytes at most.
    spool: Option<[u64; 3]>,
    drops: Vec<(String, u64)>,
    certificate_end_s: Option<f64>,
}

/// The agents seen last.
fn agents(sources: &Sources) -> Vec<Agent> {
    let mut seen: Vec<(Option<UtcNs>, Agent)> = Vec::new();
    sources.fleet.each(|member| {
        let heartbeat = member.heartbeat;
        let mut drops = std::collections::BTreeMap::new();
        for interface in heartbeat.iter().flat_map(|heartbeat| &heartbeat.interfaces) {
            for (reason, count) in &interface.drops {
                if drops.len() < REASONS_MAX || drops.contains_key(reason) {
                    let sum: &mut u64 = drops.entry(reason.clone()).or_default();
                    *sum = sum.saturating_add(*count);
                }
            }
        }
        let spool = heartbeat.and_then(|heartbeat| heartbeat.spool.as_ref());
        let introduction = member.introduction;
        let agent = Agent {
            name: introduction.name.clone(),
            id: introduction.id.to_string(),
            connected: member.connected,
            last_seen_s: member.last_seen.map(|at| at.unix_ns() as f64 / 1e9),
            spool: spool.map(|spool| [spool.entries, spool.bytes, spool.bytes_max]),
            drops: drops.into_iter().collect(),
            certificate_end_s: match &introduction.identity {
                Identity::Certificate(certificate) => Some(certificate.not_after_unix_s as f64),
                Identity::Anonymous | Identity::Local { .. } => None,
            },
        };
        seen.push((member.last_seen, agent));
        if seen.len() >= 2 * AGENTS_MAX {
            newest(&mut seen);
        }
    });
    newest(&mut seen);
    seen.into_iter().map(|(_, agent)| agent).collect()
}

fn newest(seen: &mut Vec<(Option<UtcNs>, Agent)>) {
    seen.sort_by(|(a, one), (b, other)| b.cmp(a).then_with(|| one.id.cmp(&other.id)));
    seen.truncate(AGENTS_MAX);
}

fn of_agents(sources: &Sources, read: fn(&Agent) -> Option<f64>) -> Vec<Sample> {
    let sample = |agent: Agent| {
        let value = read(&agent)?;
        Some(Sample { labels: vec![agent.name, agent.id], value })
    };
    agents(sources).into_iter().filter_map(sample).collect()
}

fn drops(sources: &Sources) -> Vec<Sample> {
    let of_agent = |agent: Agent| {
        let Agent { name, id, drops, .. } = agent;
        drops.into_iter().map(move |(reason, count)| Sample {
            labels: vec![name.clone(), id.clone(), reason],
            value: count as f64,
        })
    };
    agents(sources).into_iter().flat_map(of_agent).take(SERIES_MAX).collect()
}

fn horizon(sources: &Sources) -> Vec<Sample> {
    let Some(status) = sources.status() else { return Vec::new() };
    let now = sources.store.now().utc;
    let reach = |what: &str, oldest: Option<UtcNs>| {
        let value = now.minus(oldest?).max(0) as f64 / 1e9;
        Some(Sample { labels: vec![what.to_owned()], value })
    };
    let both = [reach("flows", status.oldest_flow), reach("packets", status.oldest_packet)];
    both.into_iter().flatten().collect()
}

impl Series {
    fn prometheus_name(&self) -> String {
        let unit = match self.unit {
            "By" => "_bytes",
            "s" => "_seconds",
            _ => "",
        };
        let total = if matches!(self.kind, Kind::Counter(_)) { "_total" } else { "" };
        format!("{}{unit}{total}", self.name.replace('.', "_"))
    }
}

/// Rows of the table in the docs.
pub(super) fn reference(text: &mut String) {
    for series in &SERIES {
        let Series { name, unit, help, labels, kind } = series;
        let kind = match kind {
            Kind::Counter(_) => "counter",
            Kind::Gauge(_) => "gauge",
            Kind::Histogram => "histogram",
        };
        let (shown, labels) = (series.prometheus_name(), labels.join(", "));
        text.push_str(&format!("| `{name}` | `{shown}` | {kind} | {unit} | {labels} | {help}. |\n"));
    }
}

#[cfg(test)]
pub(super) fn names() -> impl Iterator<Item = String> {
    SERIES.iter().map(Series::prometheus_name)
}

pub(super) fn register(meter: &Meter, sources: &Sources) {
    for series in &SERIES {
        let (name, unit, help) = (series.name, series.unit, series.help);
        let observe = |read: Read| {
            let sources = sources.clone();
            move |observer: &dyn opentelemetry::metrics::AsyncInstrument<f64>| {
                for Sample { labels, value } in read(&sources) {
                    let labels: Vec<KeyValue> = series
                        .labels
                        .iter()
                        .zip(labels)
                        .map(|(name, value)| KeyValue::new(*name, value))
                        .collect();
                    observer.observe(value, &labels);
                }
            }
        };
        match series.kind {
            Kind::Counter(read) => {
                let counter = meter.f64_observable_counter(name).with_unit(unit).with_description(help);
                counter.with_callback(observe(read)).build();
            }
            Kind::Gauge(read) => {
                let gauge = meter.f64_observable_gauge(name).with_unit(unit).with_description(help);
                gauge.with_callback(observe(read)).build();
            }
            Kind::Histogram => {
                let histogram = meter.f64_histogram(name).with_unit(unit).with_description(help);
                let histogram = histogram.with_boundaries(DURATION_BOUNDS_S.to_vec()).build();
                sources.queries.counters().measure_by(histogram);
            }
        }
    }
}
