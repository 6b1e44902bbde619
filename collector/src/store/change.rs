//! What the writer is asked to write down, and what it answers.

use std::sync::Arc;

use bytes::Bytes;
use gnomon_clock::{EpochId, Fix, RawNs};
use gnomon_flow::{Alert, FlowId, FlowRecord};

/// One thing to write down.
#[derive(Clone, Debug)]
pub struct Change {
    pub epoch: EpochId,
    pub agent_name: Arc<str>,
    pub body: Body,
}

#[derive(Clone, Debug)]
pub enum Body {
    /// The agent is here and captures in this epoch.
    Hello,
    /// Evidence of the epoch's time.
    Evidence(Evidence),
    /// An entry of the agent's spool.
    Entry { seq: u64, content: Content },
}

/// What an agent tells of an epoch's time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Evidence {
    pub fixes: Vec<Fix>,
    /// The collector's timeline that exchanges among them stand on; 0 when that was not told.
    pub collector_timeline: u64,
    /// What the agent's kernel and chronyd said before is void.
    pub disowned: Option<RawNs>,
    /// RAW broke: later readings may be of another stretch.
    pub ended: Option<RawNs>,
    pub successor: Option<EpochId>,
}

#[derive(Clone, Debug)]
pub enum Content {
    Flows {
        interface: Arc<str>,
        records: Vec<FlowRecord>,
        alerts: Vec<Alert>,
        /// The same as it came: a zstd frame of a `FlowBatch`, in which records that mean nothing may be too.
        payload: Bytes,
    },
    Slices(Slices),
    /// An entry that means nothing and was put aside: only the ledger moves.
    Unreadable,
}

/// A slice block on its way to a segment file.
#[derive(Clone, Debug)]
pub struct Slices {
    pub interface: String,
    pub packets: u32,
    pub first: RawNs,
    pub last: RawNs,
    /// Of `block` when decompressed.
    pub block_bytes: u32,
    /// Each flow in the block once.
    pub flows: Vec<FlowId>,
    /// One zstd frame.
    pub block: Bytes,
}

/// What became of one change, once it is durable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Committed {
    /// The highest durable sequence number of the change's epoch: what to acknowledge.
    pub durable_seq: Option<u64>,
    /// It was here already: nothing was written.
    pub duplicate: bool,
    /// Its epoch's short form belongs to another epoch: it was not stored.
    pub refused: bool,
    pub records: u64,
    /// Records older than what is stored of the same segment.
    pub stale: u64,
    pub packets: u64,
}
