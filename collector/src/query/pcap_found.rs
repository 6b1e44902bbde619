//! The records whose packets an export sends: of those that were found the oldest, in few bytes each.

use std::collections::HashMap;
use std::sync::Arc;

use gnomon_clock::{RawNs, UtcNs};
use gnomon_flow::{EpochHash, FlowRef, Origin, StoredFlow};

use super::memory::{Charge, Question};
use super::pcap_export::FLOWS_MAX;

/// Those found are brought down to [`FLOWS_MAX`] when there are so many.
const FOUND_MAX: usize = FLOWS_MAX + FLOWS_MAX / 4;
/// Room to begin with.
const FOUND_MIN: usize = 1024;

/// What an export goes by.
#[derive(Clone, Copy, Debug)]
pub(super) struct FoundFlow {
    /// When it was, or when it came in.
    at: Option<UtcNs>,
    pub(super) id: FlowRef,
    pub(super) first: RawNs,
    pub(super) last: RawNs,
    pub(super) time_err_ns: u64,
    /// Packets that its agent kept.
    pub(super) kept: u64,
    /// A RAW reading and when it was, for want of evidence.
    pub(super) fallback: (RawNs, UtcNs),
    /// Place of its origin.
    origin: u32,
}

impl FoundFlow {
    pub(super) fn of(flow: &StoredFlow, now: UtcNs) -> FoundFlow {
        let record = &flow.record;
        FoundFlow {
            at: flow.first.map(|first| first.utc).or(flow.ingested),
            id: flow.id(),
            first: record.first,
            last: record.last,
            time_err_ns: flow.time_err_ns().unwrap_or(0),
            kept: record.sliced_packets,
            fallback: match (flow.first, flow.ingested) {
                (Some(first), _) => (record.first, first.utc),
                (None, Some(at)) => (record.last, at),
                (None, None) => (record.last, now),
            },
            origin: 0,
        }
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Oldest {
    flows: Vec<FoundFlow>,
    origins: Vec<Origin>,
    places: HashMap<(EpochHash, Arc<str>), u32>,
    /// So many are kept: less than [`FLOWS_MAX`] where there is no memory for them.
    flows_max: usize,
    more: bool,
    charge: Charge,
}

impl Default for Oldest {
    fn default() -> Oldest {
        Oldest {
            flows: Vec::new(),
            origins: Vec::new(),
            places: HashMap::new(),
            flows_max: FLOWS_MAX,
            more: false,
            charge: Charge::default(),
        }
    }
}

impl Oldest {
    pub(super) fn len(&self) -> usize {
        self.flows.len()
    }

    /// There were more than are here.
    pub(super) fn more(&self) -> bool {
        self.more
    }

    pub(super) fn flows(&self) -> impl Iterator<Item = (&FoundFlow, &Origin)> {
        self.flows.iter().filter_map(|flow| Some((flow, self.origins.get(flow.origin as usize)?)))
    }

    pub(super) fn extend(&mut self, flows: &[StoredFlow], now: UtcNs, memory: &Arc<Question>) {
        for flow in flows {
            if self.flows.len() == self.flows.capacity() && !self.make_room(memory) {
                return memory.refuse();
            }
            let origin = self.origin(flow);
            self.flows.push(FoundFlow { origin, ..FoundFlow::of(flow, now) });
        }
    }

    /// Makes room for one more at least, if need be by letting the newest go.
    fn make_room(&mut self, memory: &Arc<Question>) -> bool {
        let held = self.flows.len();
        let wanted = (2 * held).clamp(FOUND_MIN, FOUND_MAX);
        // The old and the new table are there together for a moment.
        let bytes = (wanted + held) * size_of::<FoundFlow>();
        if wanted > held && self.charge.resize(memory, bytes) {
            self.flows.reserve_exact(wanted - held);
            return true;
        }
        if held < FOUND_MIN {
            return false;
        }
        self.flows_max = self.flows_max.min(held - held / 4);
        self.cut();
        true
    }

    fn origin(&mut self, flow: &StoredFlow) -> u32 {
        let origin = &flow.origin;
        *self.places.entry((flow.id().epoch, Arc::clone(&origin.interface))).or_insert_with(|| {
            self.origins.push(origin.clone());
            self.origins.len() as u32 - 1
        })
    }

    /// Leaves the oldest that may be kept.
    pub(super) fn cut(&mut self) {
        if self.flows.len() > self.flows_max {
            self.more = true;
            self.flows.select_nth_unstable_by_key(self.flows_max, |flow| (flow.at, flow.id));
            self.flows.truncate(self.flows_max);
        }
    }
}
