//! A record with what only the collector knows: whose it is, and when it was.

use std::borrow::Cow;
use std::sync::Arc;

use gnomon_clock::{EpochId, Estimate, UtcNs};

use crate::id::{AgentId, EpochHash, FlowRef};
use crate::record::FlowRecord;

/// Where a record comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Origin {
    pub agent: AgentId,
    /// The agent's name: its host's, unless configured.
    pub agent_name: Arc<str>,
    pub interface: Arc<str>,
    pub epoch: EpochId,
}

/// What the clock gate made of a record's time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum TimeState {
    /// Its time is proven well enough to be searched by.
    #[default]
    Indexed,
    /// Waiting for evidence: found by ingest time.
    Pending,
    /// Malformed or provably in the future.
    Quarantined,
}

impl TimeState {
    pub const ALL: [TimeState; 3] = [TimeState::Indexed, TimeState::Pending, TimeState::Quarantined];

    pub fn name(self) -> &'static str {
        match self {
            TimeState::Indexed => "indexed",
            TimeState::Pending => "pending",
            TimeState::Quarantined => "quarantined",
        }
    }
}

/// A record as searches see it. `first` and `last` are derived from the record's RAW times by the evidence there is now.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StoredFlow {
    pub record: FlowRecord,
    pub origin: Origin,
    pub first: Option<Estimate>,
    pub last: Option<Estimate>,
    /// When the collector took it in, by the collector's clock; `None` when no collector was involved.
    pub ingested: Option<UtcNs>,
    pub time_state: TimeState,
    /// Why it is not in the time index, in a word; empty when it is, or where that is not known.
    pub time_reason: Cow<'static, str>,
}

impl StoredFlow {
    pub fn id(&self) -> FlowRef {
        FlowRef {
            epoch: EpochHash::of(&self.origin.epoch),
            flow: self.record.id,
            segment: self.record.segment,
        }
    }

    /// How wrong the record's times may be, in nanoseconds: the map's error and the stamps'.
    pub fn time_err_ns(&self) -> Option<u64> {
        let (first, last) = (self.first?, self.last?);
        Some(first.err_ns.max(last.err_ns).saturating_add(u64::from(self.record.stamp_err_ns)))
    }
}
