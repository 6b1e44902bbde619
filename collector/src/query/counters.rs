//! How long questions took, by operation, and how many were refused, by reason: for metrics.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use opentelemetry::KeyValue;
use opentelemetry::metrics::Histogram;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    Search,
    Get,
    Count,
    Top,
    Histogram,
    Facets,
    Hunt,
    /// Finding the flows of a capture file; sending it is not counted.
    Pcap,
    Clock,
}

impl Operation {
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Operation::Search => "search",
            Operation::Get => "get",
            Operation::Count => "count",
            Operation::Top => "top",
            Operation::Histogram => "histogram",
            Operation::Facets => "facets",
            Operation::Hunt => "hunt",
            Operation::Pcap => "pcap",
            Operation::Clock => "clock",
        }
    }
}

/// Why a question was refused, or its answer given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// No place became free in time, or too many of the caller's questions waited.
    Busy,
    /// No memory became free in time.
    Memory,
    /// The caller did not read its answer.
    Stalled,
}

impl Refusal {
    const ALL: [Refusal; 3] = [Refusal::Busy, Refusal::Memory, Refusal::Stalled];

    fn name(self) -> &'static str {
        match self {
            Refusal::Busy => "busy",
            Refusal::Memory => "memory",
            Refusal::Stalled => "stalled",
        }
    }
}

/// See the module.
#[derive(Debug, Default)]
pub struct QueryCounters {
    duration_s: OnceLock<Histogram<f64>>,
    refused: [AtomicU64; Refusal::ALL.len()],
}

impl QueryCounters {
    /// Where to put how long questions took, in seconds.
    pub fn measure_by(&self, duration_s: Histogram<f64>) {
        // A second one would be of the same meter.
        let _ = self.duration_s.set(duration_s);
    }

    pub(crate) fn answered(&self, operation: Operation, took_ns: u64, whole: bool) {
        if let Some(duration_s) = self.duration_s.get() {
            let outcome = if whole { "answered" } else { "failed" };
            let labels = [KeyValue::new("operation", operation.name()), KeyValue::new("outcome", outcome)];
            duration_s.record(took_ns as f64 / 1e9, &labels);
        }
    }

    pub fn refused(&self, why: Refusal) {
        self.refused[why as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Each count with its name, for metrics.
    pub fn named(&self) -> [(&'static str, u64); Refusal::ALL.len()] {
        Refusal::ALL.map(|why| (why.name(), self.refused[why as usize].load(Ordering::Relaxed)))
    }
}
