//! A group of changes between the first look and the one batch that makes it durable: every index entry a record has, and
//! every total it counts in, is written or taken back here.

use std::collections::HashMap;
use std::sync::Arc;

use gnomon_clock::CollectorNow;
use gnomon_flow::{EpochHash, FlowRef, TimeState};

use super::Shared;
use super::envelope::{Envelope, IndexEntry, Totals};
use super::epochs::Epoch;
use super::keys::{self, Family};
use super::rocks::Batch;
use crate::timekeeper::Moment;

/// A group on its way to be durable.
pub(super) struct Stage {
    pub(super) batch: Batch,
    pub(super) moment: Moment,
    pub(super) now: CollectorNow,
    pub(super) totals: Totals,
    pub(super) longest_ns: u64,
    pub(super) index: HashMap<FlowRef, Option<IndexEntry>>,
    pub(super) epochs: HashMap<EpochHash, Arc<Epoch>>,
    pub(super) epochs_changed: Vec<EpochHash>,
    pub(super) retimed: Vec<EpochHash>,
    /// Epochs that were cut off: what is indexed behind the cut has to go elsewhere.
    pub(super) cut: Vec<EpochHash>,
    pub(super) ledger: HashMap<EpochHash, Option<u64>>,
    pub(super) held: HashMap<EpochHash, i64>,
    /// Packets and bytes appended to the segment file.
    pub(super) frames: [u64; 2],
    /// For those who listen.
    pub(super) fresh: Vec<(EpochHash, Envelope)>,
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
            longest_ns: shared.longest(),
            index: HashMap::new(),
            epochs: HashMap::new(),
            epochs_changed: Vec::new(),
            retimed: Vec::new(),
            cut: Vec::new(),
            ledger: HashMap::new(),
            held: HashMap::new(),
            frames: [0; 2],
            fresh: Vec::new(),
        }
    }

    /// When packets of this group are written, as [`Writer::table`](super::Writer) has it.
    pub(super) fn written(&self) -> u64 {
        if self.now.proven { self.now.utc.tai_ns().cast_unsigned() } else { 0 }
    }

    /// Put a record where its state says, out of where it was.
    pub(super) fn put(&mut self, id: FlowRef, old: Option<IndexEntry>, envelope: Envelope) {
        let first = envelope.first.map_or(gnomon_clock::UtcNs::MIN, |e| e.utc);
        if let Some(old) = old {
            *self.totals.of(old.state) = self.totals.of(old.state).saturating_sub(1);
            match old.state {
                TimeState::Indexed if envelope.state != TimeState::Indexed || old.first != first => {
                    self.batch.delete(Family::Flows, keys::timed(old.first, id));
                }
                TimeState::Pending | TimeState::Quarantined if envelope.state == TimeState::Indexed => {
                    self.batch.delete(Family::Held, keys::reference(id));
                }
                _ => {}
            }
            if old.state != TimeState::Indexed {
                *self.held.entry(id.epoch).or_default() -= 1;
            }
        } else {
            self.batch.put(Family::ByIngest, keys::timed(envelope.ingested, id), Vec::new());
        }
        *self.totals.of(envelope.state) += 1;
        let value = envelope.encode();
        if envelope.state == TimeState::Indexed {
            self.batch.put(Family::Flows, keys::timed(first, id), value);
            let span = envelope.last.map_or(0, |last| last.minus(first)).max(0).unsigned_abs();
            self.longest_ns = self.longest_ns.max(span);
        } else {
            self.batch.put(Family::Held, keys::reference(id), value);
            *self.held.entry(id.epoch).or_default() += 1;
        }
        let entry = IndexEntry {
            state: envelope.state,
            revision: envelope.record.revision,
            first,
            ingested: envelope.ingested,
            first_raw_ns: envelope.record.first.0,
        };
        self.batch.put(Family::FlowIndex, keys::reference(id), entry.encode());
        self.index.insert(id, Some(entry));
        self.fresh.push((id.epoch, envelope));
    }

    /// Take a record out of everything but `by_ingest`.
    pub(super) fn forget(&mut self, id: FlowRef, entry: &IndexEntry) {
        *self.totals.of(entry.state) = self.totals.of(entry.state).saturating_sub(1);
        if entry.state == TimeState::Indexed {
            self.batch.delete(Family::Flows, keys::timed(entry.first, id));
        } else {
            self.batch.delete(Family::Held, keys::reference(id));
            *self.held.entry(id.epoch).or_default() -= 1;
        }
        self.batch.delete(Family::FlowIndex, keys::reference(id));
    }
}
