//! What is handed to the spool: the only thing that crosses from the per-packet threads to the rest of the agent.

use std::sync::Arc;
use std::sync::mpsc::Sender;

use gnomon_clock::{EpochId, RawNs};
use gnomon_flow::{Alert, FlowId, FlowRecord};

/// Packets of one worker in order of time, closed by size or by age. Not compressed yet.
#[derive(Debug, Default)]
pub struct PacketBlock {
    /// The layout of `gnomon_flow::slice`. The buffer goes back to the worker when it was written.
    pub bytes: Vec<u8>,
    pub packets: u32,
    pub first: RawNs,
    pub last: RawNs,
    /// The flows that have packets here, rising, each once.
    pub flows: Vec<FlowId>,
    /// More than half of the worker's buffers were on their way to the spool when it was closed: a block that is written
    /// soon is worth more than a small one.
    pub hurry: bool,
}

#[derive(Debug)]
pub enum Exported {
    /// Never empty.
    Flows(Vec<FlowRecord>),
    /// Never empty.
    Packets(PacketBlock),
    /// Of no worker and no interface.
    Alerts(AlertBatch),
}

/// What another program said of flows.
#[derive(Debug)]
pub struct AlertBatch {
    /// Never empty.
    pub alerts: Vec<Alert>,
    /// Told once they are in the spool, or counted as what it has no room for.
    pub stored: Sender<()>,
}

/// One hand-over. All of it belongs to one epoch, and what a worker made to one worker and one interface.
#[derive(Debug)]
pub struct Export {
    pub worker: u8,
    pub interface: Arc<str>,
    pub epoch: EpochId,
    pub body: Exported,
}
