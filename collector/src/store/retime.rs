//! Evidence coming in, and evidence that moves: what agents tell of their clocks, and what the collector finds out about
//! its own.

use std::sync::Arc;

use gnomon_clock::{EpochId, Fix, FixSource, RawNs, UtcNs};
use gnomon_flow::EpochHash;
use gnomon_proto::{Message as _, v1};

use super::StoreError;
use super::change::{Body, Change, Evidence};
use super::envelope::{decode_epoch, numbers, numbers_of};
use super::epochs::Epoch;
use super::keys::{self, Family};
use super::rocks::Batch;
use super::stage::Stage;
use super::writer::Writer;
use crate::timekeeper::{Event, EventKind, Rebase, Saved};

/// Between writings of the collector's timeline.
const SAVE_EVERY_NS: u64 = 10_000_000_000;

impl Writer {
    /// Takes in what an agent tells of an epoch.
    pub(super) fn add_evidence(
        &self,
        hash: EpochHash,
        epoch: &Arc<Epoch>,
        evidence: &Evidence,
        stage: &mut Stage,
    ) -> Result<(), StoreError> {
        let mut new = Epoch::clone(epoch);
        let mut added = false;
        for fix in self.on_our_timeline(evidence, stage.moment.timeline) {
            if !new.timeline.add(fix).changed {
                continue;
            }
            added = true;
            if fix.source == FixSource::Collector && !stage.now.proven {
                let from = new.relative_from.map_or(fix.raw, |from| from.min(fix.raw));
                new.relative_from = Some(from);
            }
        }
        if evidence.disowned.is_some_and(|before| new.timeline.disown(before) > 0) {
            added = true;
        }
        // Whose word stands is settled as long as evidence comes; an epoch that is over keeps what was settled then.
        let mut retimed = added;
        if added {
            retimed |= new.timeline.set_authority(stage.moment.authority);
        }
        if let Some(end) = evidence.ended.filter(|end| new.ended.is_none_or(|known| *end < known)) {
            new.ended = Some(end);
            stage.cut.push(hash);
        }
        if let Some(successor) = evidence.successor.filter(|id| new.successor != Some(*id)) {
            new.successor = Some(successor);
            self.set_predecessor(&new, successor, stage)?;
        }
        let changed = added || (new.ended, new.successor) != (epoch.ended, epoch.successor);
        if changed {
            stage.epochs.insert(hash, Arc::new(new));
            stage.epochs_changed.push(hash);
        }
        if retimed {
            stage.retimed.push(hash);
        }
        Ok(())
    }

    fn set_predecessor(&self, of: &Epoch, id: EpochId, stage: &mut Stage) -> Result<(), StoreError> {
        let hash = EpochHash::of(&id);
        let hello = Change { epoch: id, agent_name: Arc::clone(&of.agent_name), body: Body::Hello };
        if let Some(epoch) = self.epoch(hash, &hello, stage)?
            && epoch.predecessor != Some(of.id)
        {
            let epoch = Epoch { predecessor: Some(of.id), ..Epoch::clone(&epoch) };
            stage.epochs.insert(hash, Arc::new(epoch));
            stage.epochs_changed.push(hash);
        }
        Ok(())
    }

    /// The fixes as they stand on the collector's timeline of now. An exchange that stands on another one, of another
    /// collector or of before a loss of memory, is no evidence here.
    fn on_our_timeline(&self, evidence: &Evidence, timeline: u64) -> impl Iterator<Item = Fix> {
        let known = match evidence.collector_timeline {
            0 => Some((0, 0)),
            same if same == timeline => Some((0, 0)),
            other => self.shared.gate.keeper().since_timeline(other),
        };
        evidence.fixes.iter().filter_map(move |fix| match (fix.source, known) {
            (FixSource::Collector, None) => None,
            (FixSource::Collector, Some((by_ns, err_ns))) => Some(Fix {
                utc: fix.utc.saturating_add_ns(by_ns),
                err_ns: fix.err_ns.saturating_add(err_ns),
                ..*fix
            }),
            _ => Some(*fix),
        })
    }

    /// Moves what was relative to the collector when its own time turned out to be another, and keeps its timeline over
    /// a restart. Durable before anything that stands on the new timeline.
    ///
    /// # Errors
    /// What the disk said; it is tried again by the next call.
    pub fn keep_time(&mut self) -> Result<(), StoreError> {
        let keeper = self.shared.gate.keeper().clone();
        let rebases = keeper.take_rebases();
        for (done, rebase) in rebases.iter().enumerate() {
            if let Err(error) = self.rebase(rebase) {
                keeper.put_back(rebases[done..].to_vec());
                return Err(error);
            }
        }
        let saved = keeper.saved();
        let now = keeper.monotonic();
        let due = self.time_saved_at.is_none_or(|at| now.since(at) >= SAVE_EVERY_NS);
        if due || !rebases.is_empty() {
            self.time_saved_at = Some(now);
            let mut batch = Batch::default();
            batch.put(Family::Meta, keys::META_TIMELINE, encode(&saved));
            self.write(&batch, false)?;
        }
        self.keep_events()
    }

    /// Writes down what happened to clocks of late, if anything was added.
    fn keep_events(&mut self) -> Result<(), StoreError> {
        let events = self.shared.gate.keeper().events();
        let added = events.added();
        if added != self.events_saved {
            let events = events.list().into_iter().map(v1::ClockEvent::from).collect();
            let mut batch = Batch::default();
            let value = v1::StoredClockEvents { events }.encode_to_vec();
            batch.put(Family::Meta, keys::META_CLOCK_EVENTS, value);
            self.write(&batch, false)?;
            self.events_saved = added;
        }
        Ok(())
    }

    /// What was written down before the start. A list that cannot be read costs nothing but itself.
    fn load_events(&self) -> Result<(), StoreError> {
        let Some(value) = self.shared.rocks.get(Family::Meta, keys::META_CLOCK_EVENTS)? else {
            return Ok(());
        };
        match v1::StoredClockEvents::decode(value.as_slice()) {
            Ok(stored) => {
                let events = stored.events.into_iter().filter_map(|event| Event::try_from(event).ok());
                self.shared.gate.keeper().events().restore(events.collect());
            }
            Err(error) => tracing::warn!(%error, "the list of clock events cannot be read: it begins anew"),
        }
        Ok(())
    }

    fn rebase(&mut self, rebase: &Rebase) -> Result<(), StoreError> {
        let mut stage = Stage::new(&self.shared);
        for hash in &self.relative {
            let Some(epoch) = self.shared.epochs.get(&self.shared.rocks, *hash)? else { continue };
            let Some(from) = epoch.relative_from else { continue };
            let mut epoch = Epoch::clone(&epoch);
            epoch.timeline.rebase(FixSource::Collector, from, rebase.by_ns, rebase.err_ns);
            if rebase.settled {
                epoch.relative_from = None;
            }
            if stage.now.proven {
                epoch.timeline.set_authority(stage.moment.authority);
            }
            stage.epochs.insert(*hash, Arc::new(epoch));
            stage.epochs_changed.push(*hash);
            stage.retimed.push(*hash);
        }
        let epochs = stage.epochs_changed.len();
        self.publish(stage, true)?;
        if rebase.settled {
            self.relative.clear();
        }
        if rebase.by_ns < 0 || rebase.settled {
            self.recall_future();
        }
        if rebase.from != rebase.to && epochs > 0 {
            let text = format!(
                "the times of {epochs} epochs were moved by {:+.3} s with the collector's timeline",
                rebase.by_ns as f64 / 1e9
            );
            self.shared.gate.keeper().note(EventKind::Correction, text, Some(rebase.by_ns));
        }
        Ok(())
    }

    /// Goes on with the timeline of the process before, and knows what is relative to it.
    pub(super) fn load_time(&mut self) -> Result<(), StoreError> {
        self.load_events()?;
        self.shared.rocks.walk(Family::Epochs, &[], |_, value| {
            let epoch = decode_epoch(value)?;
            if epoch.relative_from.is_some() {
                self.relative.insert(EpochHash::of(&epoch.id));
            }
            Ok(())
        })?;
        let saved = self.shared.rocks.get(Family::Meta, keys::META_TIMELINE)?;
        let runs_on = match saved.map(|value| decode(&value)).transpose()? {
            Some(saved) => self.shared.gate.keeper().resume(&saved),
            None => false,
        };
        if !runs_on && !self.relative.is_empty() {
            // The machine was started anew: by how much its clock was wrong then, nobody can tell now.
            tracing::info!(
                epochs = self.relative.len(),
                "times of before this machine's start stay relative to its clock of then"
            );
            // What turns out to lie in the future is taken out of the index once this machine's time is proven.
            self.rebase(&Rebase { from: 0, to: 0, by_ns: 0, err_ns: 0, settled: true })?;
        }
        self.shared.gate.keeper().refresh(None, false);
        Ok(())
    }

    /// After a batch: which epochs hold exchanges that may have to be moved.
    pub(super) fn remember_relative(&mut self, hash: EpochHash, epoch: &Epoch) {
        if epoch.relative_from.is_some() {
            self.relative.insert(hash);
        }
    }
}

fn encode(saved: &Saved) -> Vec<u8> {
    let (high, low) = saved.boot_id.split_at(8);
    let half = |bytes: &[u8]| u64::from_be_bytes(std::array::from_fn(|i| bytes[i]));
    numbers([
        saved.timeline,
        u64::from(saved.relative),
        half(high),
        half(low),
        saved.asleep_ns,
        saved.raw.0,
        saved.utc.tai_ns().cast_unsigned(),
        saved.err_ns,
    ])
}

fn decode(value: &[u8]) -> Result<Saved, StoreError> {
    let [timeline, relative, high, low, asleep_ns, raw, utc, err_ns] =
        numbers_of("the collector's timeline", value)?;
    let boot_id = (u128::from(high) << 64 | u128::from(low)).to_be_bytes();
    let utc = UtcNs::from_tai_ns(utc.cast_signed());
    Ok(Saved { timeline, relative: relative != 0, boot_id, asleep_ns, raw: RawNs(raw), utc, err_ns })
}
