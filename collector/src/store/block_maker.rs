//! Blocks are made beside the writer: sorting and compressing the records of one takes a hundred milliseconds, and whoever
//! waits for an acknowledgement would wait for them too.
//!
//! The records stay where searches find them until their block is in the database. What became of them meanwhile is for
//! [`Writer::install`](super::Writer) to see.

use std::ops::Range;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SendError, Sender, TryRecvError, channel};

use gnomon_flow::{FlowRef, StoredFlow};

use super::block::{self, Built, ROWS};
use super::envelope::DamagedValue;

/// What the metadata of a block's records takes about, at most: a question reads whole columns into memory.
const BLOCK_METADATA_BYTES: usize = 64 << 20;

/// A record to be put into a block, by its id.
pub(super) type Hot = (FlowRef, Arc<StoredFlow>);

/// What is to be made.
#[derive(Debug)]
pub(super) struct Plan {
    /// All indexed or all held.
    pub(super) rows: Vec<Hot>,
    /// Records in no block that are not among them, and not written down by themselves as they are.
    pub(super) staying: Vec<FlowRef>,
    /// Batches of records before this number are not needed any more when all that is done.
    pub(super) recent: u64,
}

/// What was made of a plan.
pub(super) struct Made {
    pub(super) plan: Plan,
    pub(super) blocks: Vec<MadeBlock>,
    /// Places in the plan of records that no block can hold, each with why.
    pub(super) unfit: Vec<(usize, DamagedValue)>,
}

/// One block.
pub(super) struct MadeBlock {
    /// Its records' places in the plan.
    pub(super) rows: Range<usize>,
    pub(super) built: Built,
    /// Of each row of the block: which of its records that is.
    pub(super) order: Vec<u32>,
}

impl Plan {
    pub(super) fn make(mut self) -> Made {
        // Near in time, near in place: that is what lets a search pass blocks by.
        self.rows
            .sort_by_cached_key(|(id, flow)| (flow.first.map(|first| first.utc), flow.record.first, *id));
        let mut made = Made { plan: self, blocks: Vec::new(), unfit: Vec::new() };
        for rows in made.plan.parts() {
            made.build(rows);
        }
        made
    }

    /// The rows of each block.
    fn parts(&self) -> Vec<Range<usize>> {
        // The batch that filled a block goes over its edge: that makes no two of them.
        let blocks = ((self.rows.len() + ROWS / 2) / ROWS).max(1);
        let each = self.rows.len().div_ceil(blocks).max(1);
        let mut parts = Vec::with_capacity(blocks);
        let (mut start, mut bytes) = (0, 0);
        for (at, (_, flow)) in self.rows.iter().enumerate() {
            let more = flow.record.attributes.bytes();
            if at > start && (at - start >= each || bytes + more > BLOCK_METADATA_BYTES) {
                parts.push(start..at);
                (start, bytes) = (at, 0);
            }
            bytes += more;
        }
        if start < self.rows.len() {
            parts.push(start..self.rows.len());
        }
        parts
    }
}

impl Made {
    /// A block of these rows; without those that keep it from being read, should there be any.
    fn build(&mut self, rows: Range<usize>) {
        let (built, order) = block::build(&self.plan.rows[rows.clone()]);
        match block::read_back(&built) {
            Ok(()) => self.blocks.push(MadeBlock { rows, built, order }),
            Err(error) if rows.len() == 1 => self.unfit.push((rows.start, error)),
            Err(_) => {
                let middle = rows.start + rows.len() / 2;
                self.build(rows.start..middle);
                self.build(middle..rows.end);
            }
        }
    }
}

enum Work {
    Make(Plan),
    /// Thousands of records go, each in many pieces: that takes its time too.
    Forget(Made),
}

/// The thread that makes blocks, one plan at a time.
pub(super) struct BlockMaker {
    work: Sender<Work>,
    made: Receiver<Made>,
    busy: bool,
    /// Made here, for want of the thread.
    ready: Option<Made>,
}

impl BlockMaker {
    /// # Errors
    /// When the thread cannot be started.
    pub(super) fn start() -> std::io::Result<BlockMaker> {
        let (work, orders) = channel();
        let (finished, made) = channel();
        // It ends when the writer is gone.
        std::thread::Builder::new().name("block-maker".to_owned()).spawn(move || {
            while let Ok(work) = orders.recv() {
                match work {
                    Work::Forget(made) => drop(made),
                    Work::Make(plan) => {
                        if finished.send(plan.make()).is_err() {
                            break;
                        }
                    }
                }
            }
        })?;
        Ok(BlockMaker { work, made, busy: false, ready: None })
    }

    /// A plan is being made, or was and nobody took it.
    pub(super) fn is_busy(&self) -> bool {
        self.busy
    }

    /// Only when it is not busy.
    pub(super) fn make(&mut self, plan: Plan) {
        self.busy = true;
        if let Err(SendError(Work::Make(plan))) = self.work.send(Work::Make(plan)) {
            // The thread has panicked: so will this one, if it was for the records.
            self.ready = Some(plan.make());
        }
    }

    /// What was made; with `wait` it is waited for. `None` when it is not ready, or nothing will come of it.
    pub(super) fn take(&mut self, wait: bool) -> Option<Made> {
        let made = match self.ready.take() {
            Some(made) => Ok(made),
            None if !self.busy => return None,
            None if wait => self.made.recv().map_err(|_| TryRecvError::Disconnected),
            None => self.made.try_recv(),
        };
        self.busy = matches!(made, Err(TryRecvError::Empty));
        made.ok()
    }

    pub(super) fn forget(&self, made: Made) {
        let _ = self.work.send(Work::Forget(made));
    }
}
