//! A group of changes between the first look and the one batch that makes it durable.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use gnomon_clock::CollectorNow;
use gnomon_flow::{AgentId, EpochHash, FlowRef, StoredFlow};

use super::Shared;
use super::alerts::Remembered;
use super::block::bloom::Mixing;
use super::envelope::{Envelope, Totals};
use super::epoch_order::Order;
use super::epochs::Epoch;
use super::keys::{self, Family};
use super::ledger::Ledger;
use super::rocks::Batch;
use crate::timekeeper::Moment;

/// A group on its way to be durable.
pub(super) struct Stage {
    pub(super) batch: Batch,
    pub(super) moment: Moment,
    pub(super) now: CollectorNow,
    pub(super) totals: Totals,
    /// Records that are in no block, as they will be.
    pub(super) rows: HashMap<FlowRef, Arc<StoredFlow>, Mixing>,
    /// The same in the order in which they came, for those who listen.
    pub(super) fresh: Vec<FlowRef>,
    /// Rows of blocks that are in `rows` now.
    pub(super) dead: HashMap<u64, Vec<usize>>,
    /// Batches of records written to `recent`.
    pub(super) recent: u64,
    pub(super) epochs: HashMap<EpochHash, Arc<Epoch>>,
    pub(super) epochs_changed: Vec<EpochHash>,
    pub(super) retimed: Vec<EpochHash>,
    /// Epochs that were cut off: what is indexed behind the cut has to go elsewhere.
    pub(super) cut: Vec<EpochHash>,
    pub(super) ledger: HashMap<EpochHash, Option<Ledger>>,
    /// Of agents with new epochs.
    pub(super) epoch_orders: HashMap<AgentId, Order>,
    /// Whose rows are deleted.
    pub(super) ledgers_forgotten: Vec<(AgentId, EpochHash)>,
    /// What was durable, and how many before others were missing, of epochs that have entries in this group.
    pub(super) durable_before: HashMap<EpochHash, (u64, u64)>,
    /// Entries that were acknowledged once and will not come again.
    pub(super) lost: u64,
    /// Packets and bytes appended to the segment file.
    pub(super) frames: [u64; 2],
    /// Alerts that came, by number.
    pub(super) alerts: Vec<(u64, Remembered)>,
    pub(super) alert_digests: HashSet<u64>,
    pub(super) alerts_repeated: u64,
    /// Alerts that met a record.
    pub(super) alerts_joined: Vec<u64>,
    /// Records that are written down by themselves, and in which revision.
    pub(super) waiting: Vec<(FlowRef, u32)>,
    /// Records of pairs with many alerts: joined between commits.
    pub(super) join_later: Vec<FlowRef>,
    /// Alerts that there was no room for.
    pub(super) alerts_crowded_out: u64,
}

impl Stage {
    /// An empty group, from what is durable now.
    pub(super) fn new(shared: &Shared) -> Stage {
        let moment = shared.gate.keeper().moment();
        Stage {
            batch: Batch::default(),
            moment,
            now: moment.now,
            totals: shared.totals(),
            rows: HashMap::default(),
            fresh: Vec::new(),
            dead: HashMap::new(),
            recent: 0,
            epochs: HashMap::new(),
            epochs_changed: Vec::new(),
            retimed: Vec::new(),
            cut: Vec::new(),
            ledger: HashMap::new(),
            epoch_orders: HashMap::new(),
            ledgers_forgotten: Vec::new(),
            durable_before: HashMap::new(),
            lost: 0,
            frames: [0; 2],
            alerts: Vec::new(),
            alert_digests: HashSet::new(),
            alerts_repeated: 0,
            alerts_joined: Vec::new(),
            waiting: Vec::new(),
            join_later: Vec::new(),
            alerts_crowded_out: 0,
        }
    }

    /// When packets of this group are written, as [`Writer::table`](super::Writer) has it.
    pub(super) fn written(&self) -> u64 {
        if self.now.proven { self.now.utc.tai_ns().cast_unsigned() } else { 0 }
    }

    /// Put a record where searches find it; that it is durable is the caller's business.
    pub(super) fn put(&mut self, id: FlowRef, flow: StoredFlow) {
        if self.rows.insert(id, Arc::new(flow)).is_none() {
            self.fresh.push(id);
        }
    }

    /// The same for a record that is not on the disk as it is now.
    pub(super) fn put_durably(&mut self, id: FlowRef, flow: StoredFlow) {
        self.batch.put(Family::Waiting, keys::reference(id), Envelope::of(&flow).encode());
        self.waiting.push((id, flow.record.revision));
        self.put(id, flow);
    }

    /// A record leaves its block.
    pub(super) fn leave(&mut self, id: FlowRef, block: u64, row: usize) {
        self.dead.entry(block).or_default().push(row);
        self.batch.delete(Family::Loose, keys::reference(id));
    }
}
