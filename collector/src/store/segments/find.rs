//! What is looked for in the indexes.

use gnomon_clock::RawNs;
use gnomon_flow::{EpochHash, FlowId};

/// A flow, and when its packets that are wanted were.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FlowSpan {
    pub epoch: EpochHash,
    pub flow: FlowId,
    /// Both included.
    pub first: RawNs,
    pub last: RawNs,
}

impl FlowSpan {
    /// All packets of a flow.
    pub fn all(epoch: EpochHash, flow: FlowId) -> FlowSpan {
        FlowSpan { epoch, flow, first: RawNs(0), last: RawNs(u64::MAX) }
    }
}
