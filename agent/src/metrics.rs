//! The agent's metrics: one table of names, and the callbacks that read them from the board, the spool and the link.
//!
//! The agent never listens: they are pushed by OTLP where `telemetry.otlp_endpoint` is set. Read when they are
//! collected, so that nothing on the packet path touches them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use gnomon_clock::Clock;
use opentelemetry::KeyValue;
use opentelemetry::metrics::Meter;

use crate::alerts::AlertCounters;
use crate::heartbeat::{Board, InterfaceReport, WorkerCounts, resident_bytes};
use crate::rules::current::CurrentRules;
use crate::spool::{Spool, SpoolStatus};
use crate::timekeeper::{ClockView, Timekeeper};
use crate::uplink::LinkState;

/// How a value behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only rises while the agent runs.
    Counter,
    Gauge,
}

/// One metric as the docs show it.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    pub name: &'static str,
    pub kind: Kind,
    pub unit: &'static str,
    pub help: &'static str,
    /// Names of the labels.
    pub labels: &'static [&'static str],
    read: Read,
}

#[derive(Clone, Copy, Debug)]
enum Read {
    /// One value an interface.
    Interface(fn(&InterfaceReport) -> u64),
    /// One value an interface and name.
    Named(fn(&WorkerCounts) -> &BTreeMap<&'static str, u64>),
    /// One value an interface and queue.
    Queues,
    Spool(fn(&SpoolStatus) -> u64),
    Link(fn(&LinkState) -> u64),
    Clock(fn(&ClockView) -> u64),
    Process(fn() -> u64),
    Rules(fn(&CurrentRules) -> u64),
    /// One value a rule.
    Matches,
    /// One value an outcome.
    Reloads,
    /// One value for what became of lines.
    AlertLines,
    Alerts(fn(&AlertCounters) -> u64),
}

macro_rules! metrics {
    ($($name:literal, $kind:ident, $unit:literal, $labels:expr, $read:expr, $help:literal;)*) => {
        /// Every metric of the agent.
        pub const METRICS: &[Metric] =
            &[$(Metric { name: $name, kind: Kind::$kind, unit: $unit, help: $help, labels: &$labels, read: $read }),*];
    };
}

fn load(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

metrics! {
    "gnomon.agent.packets", Counter, "{packet}", ["interface"], Read::Interface(|i| i.counts.packets),
        "Packets that went into flow records.";
    "gnomon.agent.bytes", Counter, "By", ["interface"], Read::Interface(|i| i.counts.bytes),
        "Their bytes on the wire.";
    "gnomon.agent.drops", Counter, "{packet}", ["interface", "reason"], Read::Named(|c| &c.drops),
        "What did not go all the way, by reason. `slice_queue_full` counts packets that are in their records but were not kept; `ignored_by_rule` (flows that a rule ignores) and `filtered` (what the capture filter left out; not with AF_PACKET) are left out on purpose; `records_lost_at_stop` counts flow records; `loopback_duplicate` counts second copies; all else are packets lost.";
    "gnomon.agent.capturing", Gauge, "1", ["interface"], Read::Interface(|i| u64::from(i.error.is_none())),
        "1 while the interface is captured, 0 while it is waited for.";
    "gnomon.agent.flows.active", Gauge, "{flow}", ["interface"], Read::Interface(|i| i.counts.flows_active),
        "Flows in the table now.";
    "gnomon.agent.flows.made", Counter, "{flow}", ["interface"], Read::Interface(|i| i.counts.flows_made),
        "Flows that began.";
    "gnomon.agent.flows.evicted", Counter, "{flow}", ["interface"], Read::Interface(|i| i.counts.flows_evicted),
        "Flows ended early because the table was full.";
    "gnomon.agent.undecodable", Counter, "{packet}", ["interface", "problem"], Read::Named(|c| &c.undecodable),
        "Packets that could not be decoded to their end; each is in a record that says so.";
    "gnomon.agent.fragments", Counter, "1", ["interface", "outcome"], Read::Named(|c| &c.fragments),
        "Fragments that waited for the first of their datagram (`held`) and did so in vain (`orphaned`: in a record without ports); datagrams that were put together and inspected (`assembled`), and whose fragments overlap (`overlapping`).";
    "gnomon.agent.inspections.denied", Counter, "{message}", ["interface"], Read::Interface(|i| i.counts.inspections_denied),
        "Messages that were not inspected because `flows.inspect_bytes_max` or `flows.metadata_bytes_max` was reached.";
    "gnomon.agent.interims.delayed", Counter, "{record}", ["interface"], Read::Interface(|i| i.counts.interims_delayed),
        "Records of flows that go on which came later than they should, because too many were due at once.";
    "gnomon.agent.queue.depth", Gauge, "1", ["interface", "queue"], Read::Queues,
        "What waits: `exports` for the spool, `ring` for the worker.";
    "gnomon.agent.rules.loaded", Gauge, "{rule}", [], Read::Rules(|r| r.get().list().len() as u64),
        "Rules in force.";
    "gnomon.agent.rules.matches", Counter, "{flow}", ["rule"], Read::Matches,
        "Flows that a rule matched; a flow that goes on when rules are read again counts again. At most 256 rules.";
    "gnomon.agent.rules.reloads", Counter, "{reload}", ["outcome"], Read::Reloads,
        "Times rules were read again: `taken`, or `refused` because of an error.";
    "gnomon.agent.rules.stale", Gauge, "1", [], Read::Rules(|r| u64::from(r.is_stale())),
        "1 while the rules last read were refused and those of before hold.";
    "gnomon.agent.alerts.lines", Counter, "{line}", ["outcome"], Read::AlertLines,
        "Lines of `alerts.eve`: alerts that were `taken`, or why a line was not: `other_event`, `bad_json`, `bad_time`, `no_flow` (without two IP addresses and protocol), `before_boot` (older than the machine's start), `too_long` (more than 1 MiB), `half` (cut by a rotation).";
    "gnomon.agent.alerts.truncated", Counter, "{file}", [], Read::Alerts(|a| load(&a.truncated)),
        "Times a file of alerts was cut, begun anew in place, or gone before it was read to its end.";
    "gnomon.agent.alerts.unreadable", Gauge, "{file}", [], Read::Alerts(|a| load(&a.unreadable)),
        "Files of alerts that cannot be read now.";
    "gnomon.agent.spool.entries", Gauge, "{entry}", [], Read::Spool(|s| s.entries),
        "Entries not acknowledged by the collector.";
    "gnomon.agent.spool.bytes", Gauge, "By", [], Read::Spool(|s| s.bytes),
        "Size of the spool's files.";
    "gnomon.agent.spool.bytes_max", Gauge, "By", [], Read::Spool(|s| s.bytes_max),
        "The most they may have.";
    "gnomon.agent.spool.memory", Gauge, "By", [], Read::Spool(|s| s.memory_bytes),
        "Entries that wait for the disk.";
    "gnomon.agent.spool.memory_max", Gauge, "By", [], Read::Spool(|s| s.memory_bytes_max),
        "The most they may take (`spool.memory_max`).";
    "gnomon.agent.spool.missing.entries", Gauge, "{entry}", [], Read::Spool(|s| s.missing),
        "Entries written before the agent started, and neither acknowledged nor in any file then.";
    "gnomon.agent.spool.set_aside", Gauge, "By", [], Read::Spool(|s| s.set_aside_bytes),
        "Files that cannot be read, kept until their room is needed.";
    "gnomon.agent.spool.unsettled", Gauge, "By", [], Read::Spool(|s| s.unsettled_bytes),
        "Files kept only until the collector has what they hold safe in its tables.";
    "gnomon.agent.spool.ledger_conflicts", Counter, "1", [], Read::Spool(|s| s.ledger_conflicts),
        "Times a collector claimed to have entries that it was never sent; they are kept and sent under other numbers.";
    "gnomon.agent.spool.asked_again.entries", Counter, "{entry}", [], Read::Spool(|s| s.asked_again),
        "Entries acknowledged once that a collector asked for again, because its store lost them.";
    "gnomon.agent.spool.sacrificed.records", Counter, "{record}", [], Read::Spool(|s| s.sacrificed_flows.items),
        "Flow records given up because the disk was full.";
    "gnomon.agent.spool.sacrificed.packets", Counter, "{packet}", [], Read::Spool(|s| s.sacrificed_slices.items),
        "Kept packets given up because the disk was full.";
    "gnomon.agent.spool.damaged", Counter, "{entry}", [], Read::Spool(|s| s.damaged.entries),
        "Entries whose checksum did not hold.";
    "gnomon.agent.spool.failing", Gauge, "1", [], Read::Spool(|s| u64::from(s.error.is_some())),
        "1 while the disk fails or stalls: what is captured is sent from memory.";
    "gnomon.agent.uplink.connected", Gauge, "1", [], Read::Link(|l| u64::from(l.connected.load(Ordering::Relaxed))),
        "1 while there is a session with the collector.";
    "gnomon.agent.uplink.sessions", Counter, "{session}", [], Read::Link(|l| load(&l.sessions)),
        "Sessions begun.";
    "gnomon.agent.uplink.failures", Counter, "{failure}", [], Read::Link(|l| load(&l.failures)),
        "Connections that failed and sessions that broke.";
    "gnomon.agent.uplink.entries.sent", Counter, "{entry}", [], Read::Link(|l| load(&l.entries_sent)),
        "Entries sent, repetitions included.";
    "gnomon.agent.uplink.entries.acked", Counter, "{entry}", [], Read::Link(|l| load(&l.entries_acked)),
        "Entries the collector made durable.";
    "gnomon.agent.uplink.sent", Counter, "By", [], Read::Link(|l| load(&l.bytes_sent)),
        "Bytes of entries sent.";
    "gnomon.agent.uplink.unacked", Gauge, "By", [], Read::Link(|l| load(&l.unacked_bytes)),
        "Bytes of entries sent and not acknowledged.";
    "gnomon.agent.certificate.end", Gauge, "s", [], Read::Link(|l| load(&l.certificate_end_unix_s)),
        "When the agent's own certificate ends, in seconds since 1970; 0 without one.";
    "gnomon.agent.clock.exchanges.rejected", Counter, "{exchange}", [], Read::Link(|l| load(&l.exchanges_rejected)),
        "Clock exchanges that got no answer or proved nothing.";
    "gnomon.agent.clock.state", Gauge, "1", [], Read::Clock(|c| c.state as u64),
        "State of the clock: 0 cold, 1 acquiring, 2 synced, 3 holdover, 4 unbounded, 5 conflict.";
    "gnomon.agent.clock.error", Gauge, "ns", [], Read::Clock(|c| c.estimate.map_or(u64::MAX, |e| e.err_ns)),
        "How wrong the time may be; the largest number while nothing is known.";
    "gnomon.agent.clock.steps", Counter, "{step}", [], Read::Clock(|c| c.steps),
        "Times this machine's clock was set.";
    "gnomon.agent.clock.disruptions", Counter, "{epoch}", [], Read::Clock(|c| c.disruptions),
        "Breaks of the clock that packets are stamped by: a suspend, a restored machine.";
    "gnomon.agent.resident", Gauge, "By", [], Read::Process(resident_bytes),
        "Memory the process has.";
}

/// Registers all of [`METRICS`].
pub fn register(
    meter: &Meter,
    board: &Board,
    spool: &Spool,
    link: &Arc<LinkState>,
    (keeper, clock): (&Timekeeper, &Arc<dyn Clock>),
    rules: &CurrentRules,
    alerts: &Arc<AlertCounters>,
) {
    for metric in METRICS {
        let (board, spool, link) = (board.clone(), spool.clone(), Arc::clone(link));
        let (keeper, clock, rules) = (keeper.clone(), Arc::clone(clock), rules.clone());
        let alerts = Arc::clone(alerts);
        let observe = move |give: &mut dyn FnMut(u64, &[KeyValue])| match metric.read {
            Read::Clock(value) => give(value(&keeper.view(clock.raw())), &[]),
            Read::Rules(value) => give(value(&rules), &[]),
            Read::Matches => {
                for rule in rules.get().list() {
                    give(rule.matches(), &[KeyValue::new("rule", rule.name.to_string())]);
                }
            }
            Read::Reloads => {
                let (taken, refused) = rules.reloads();
                give(taken, &[KeyValue::new("outcome", "taken")]);
                give(refused, &[KeyValue::new("outcome", "refused")]);
            }
            Read::AlertLines => {
                for (outcome, lines) in alerts.lines() {
                    give(lines, &[KeyValue::new("outcome", outcome)]);
                }
            }
            Read::Alerts(value) => give(value(&alerts), &[]),
            _ => read(metric, &board, &spool, &link, give),
        };
        match metric.kind {
            Kind::Counter => {
                let counter = meter.u64_observable_counter(metric.name);
                let callback = move |observer: &dyn opentelemetry::metrics::AsyncInstrument<u64>| {
                    observe(&mut |value, labels| observer.observe(value, labels));
                };
                counter.with_unit(metric.unit).with_description(metric.help).with_callback(callback).build();
            }
            Kind::Gauge => {
                let gauge = meter.u64_observable_gauge(metric.name);
                let callback = move |observer: &dyn opentelemetry::metrics::AsyncInstrument<u64>| {
                    observe(&mut |value, labels| observer.observe(value, labels));
                };
                gauge.with_unit(metric.unit).with_description(metric.help).with_callback(callback).build();
            }
        }
    }
}

fn read(
    metric: &Metric,
    board: &Board,
    spool: &Spool,
    link: &LinkState,
    give: &mut dyn FnMut(u64, &[KeyValue]),
) {
    match metric.read {
        Read::Interface(value) => {
            for report in board.report() {
                give(value(&report), &[KeyValue::new("interface", report.name.clone())]);
            }
        }
        Read::Named(values) => {
            for report in board.report() {
                for (name, count) in values(&report.counts) {
                    let interface = KeyValue::new("interface", report.name.clone());
                    give(*count, &[interface, KeyValue::new(metric.labels[1], *name)]);
                }
            }
        }
        Read::Queues => {
            for report in board.report() {
                for (queue, depth) in &report.counts.queues {
                    let interface = KeyValue::new("interface", report.name.clone());
                    give(*depth, &[interface, KeyValue::new("queue", queue.clone())]);
                }
            }
        }
        Read::Spool(value) => give(value(&spool.status()), &[]),
        Read::Link(value) => give(value(link), &[]),
        Read::Process(value) => give(value(), &[]),
        // Need the clock, the rules or the alerts: see `register`.
        Read::Clock(_)
        | Read::Rules(_)
        | Read::Matches
        | Read::Reloads
        | Read::AlertLines
        | Read::Alerts(_) => {}
    }
}

/// The table as Markdown, for the docs.
#[must_use]
pub fn reference() -> String {
    let mut text = String::from("| name | kind | unit | labels | meaning |\n|---|---|---|---|---|\n");
    for Metric { name, kind, unit, help, labels, .. } in METRICS {
        let kind = if *kind == Kind::Counter { "counter" } else { "gauge" };
        text.push_str(&format!("| `{name}` | {kind} | {unit} | {} | {help} |\n", labels.join(", ")));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_everything_is_explained() {
        for (at, metric) in METRICS.iter().enumerate() {
            assert!(METRICS[..at].iter().all(|other| other.name != metric.name), "{}", metric.name);
            assert!(metric.name.starts_with("gnomon.agent.") && metric.help.ends_with('.'));
        }
        assert_eq!(reference().lines().count(), METRICS.len() + 2);
    }
}
