//! Evidence coming in, and evidence that moves: what agents tell of their clocks, and what the collector finds out about
//! its own.

use std::sync::Arc;

use gnomon_clock::{EpochId, Fix, FixSource, RawNs, Timeline, UtcNs};
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
use crate::timekeeper::{Basis, Event, EventKind, Rebase, Saved};

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
        let fixes = new.timeline.add_all(self.on_our_timeline(evidence, stage.moment.timeline));
        let mut added = !fixes.is_empty();
        for fix in fixes {
            if fix.source == FixSource::Collector && !stage.moment.settled {
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
        if self.shared.read_only.is_some() {
            return Ok(());
        }
        let keeper = self.shared.gate.keeper().clone();
        let rebases = keeper.take_rebases();
        for (done, rebase) in rebases.iter().enumerate() {
            if let Err(error) = self.rebase(rebase) {
                keeper.put_back(rebases[done..].to_vec());
                return Err(error);
            }
        }
        keeper.rebased();
        let saved = keeper.saved();
        let now = keeper.monotonic();
        let due = self.time_saved_at.is_none_or(|at| now.since(at) >= SAVE_EVERY_NS);
        if due || !rebases.is_empty() {
            self.time_saved_at = Some(now);
            let mut batch = Batch::default();
            batch.put(Family::Meta, keys::META_TIMELINE, encode(&saved));
            batch.put(Family::Meta, keys::META_VOTERS, keeper.voters().encode_to_vec());
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

    /// Who had a say. A list that cannot be read makes everybody a newcomer.
    fn load_voters(&self) -> Result<(), StoreError> {
        let Some(value) = self.shared.rocks.get(Family::Meta, keys::META_VOTERS)? else { return Ok(()) };
        match v1::StoredVoters::decode(value.as_slice()) {
            Ok(stored) => self.shared.gate.keeper().restore_voters(stored),
            Err(error) => {
                tracing::warn!(%error, "who has a say in the collector's time is forgotten: it cannot be read")
            }
        }
        Ok(())
    }

    fn rebase(&mut self, rebase: &Rebase) -> Result<(), StoreError> {
        let mut stage = Stage::new(&self.shared);
        let mut to_move: Vec<EpochHash> = self.relative.iter().copied().collect();
        if let Some(limit) = rebase.undone {
            to_move.extend(
                self.told_later_than(limit)?.into_iter().filter(|hash| !self.relative.contains(hash)),
            );
        }
        for hash in &to_move {
            let Some(epoch) = self.shared.epochs.get(&self.shared.rocks, *hash)? else { continue };
            let void = rebase.undone.and_then(|limit| line_beyond(&epoch.timeline, limit));
            let Some(from) = epoch.relative_from.into_iter().chain(void).min() else { continue };
            let mut epoch = Epoch::clone(&epoch);
            epoch.timeline.rebase(FixSource::Collector, from, rebase.by_ns, rebase.err_ns);
            epoch.relative_from = (!rebase.settled).then_some(from);
            if stage.now.proven || rebase.undone.is_some() {
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

    /// Epochs with an exchange that says something later than `limit`, which was made by a time that is void now. Looks at
    /// all epochs: only for a command.
    fn told_later_than(&self, limit: UtcNs) -> Result<Vec<EpochHash>, StoreError> {
        let mut found = Vec::new();
        self.shared.rocks.walk(Family::Epochs, &[], |_, value| {
            let epoch = decode_epoch(value)?;
            if line_beyond(&epoch.timeline, limit).is_some() {
                found.push(EpochHash::of(&epoch.id));
            }
            Ok(())
        })?;
        Ok(found)
    }

    /// Starts the collector's time over if somebody asked for it (see [`clock_reset`](super::clock_reset)).
    pub fn answer_clock_reset(&mut self) -> Result<(), StoreError> {
        let asked = super::clock_reset::request_in(&self.shared.dir);
        if !asked.exists() {
            return Ok(());
        }
        // Once: what it moves may have to be written in several attempts.
        if !self.shared.gate.keeper().is_moving() {
            self.shared.gate.keeper().start_over();
        }
        self.keep_time()?;
        // Last: a process that is killed before it does it again.
        std::fs::remove_file(&asked).map_err(|source| StoreError::Directory { path: asked, source })
    }

    /// As a store is whose exchanges were taken for settled.
    #[cfg(test)]
    pub(super) fn forget_what_is_relative(&mut self) {
        let mut stage = Stage::new(&self.shared);
        for hash in self.relative.drain() {
            let epoch = self.shared.epochs.get(&self.shared.rocks, hash).unwrap().unwrap();
            stage.epochs.insert(hash, Arc::new(Epoch { relative_from: None, ..Epoch::clone(&epoch) }));
            stage.epochs_changed.push(hash);
            stage.retimed.push(hash);
        }
        self.publish(stage, true).unwrap();
    }

    /// Goes on with the timeline of the process before, and knows what is relative to it.
    pub(super) fn load_time(&mut self) -> Result<(), StoreError> {
        self.load_events()?;
        self.load_voters()?;
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
            let nothing = Rebase { from: 0, to: 0, by_ns: 0, err_ns: 0, settled: true, undone: None };
            self.rebase(&nothing)?;
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

/// From where on the exchanges are in line with the newest, if that says something later than `limit`.
fn line_beyond(timeline: &Timeline, limit: UtcNs) -> Option<RawNs> {
    let exchanges: Vec<&Fix> = timeline.fixes().filter(|fix| fix.source == FixSource::Collector).collect();
    let newest = exchanges.last().filter(|fix| fix.utc > limit)?;
    let in_line = |fix: &&&Fix| {
        let passed = newest.raw.since(fix.raw);
        let expected = newest.utc.saturating_add_ns(-i64::try_from(passed).unwrap_or(i64::MAX));
        let granted = (passed / 2_000).saturating_add(fix.err_ns).saturating_add(newest.err_ns);
        expected.minus(fix.utc).unsigned_abs() <= granted
    };
    exchanges.iter().rev().take_while(in_line).last().map(|fix| fix.raw)
}

fn encode(saved: &Saved) -> Vec<u8> {
    let (high, low) = saved.boot_id.split_at(8);
    let half = |bytes: &[u8]| u64::from_be_bytes(std::array::from_fn(|i| bytes[i]));
    numbers([
        saved.timeline,
        match saved.basis {
            Basis::Own => 0,
            Basis::Machine => 1,
            Basis::Fleet => 2,
        },
        half(high),
        half(low),
        saved.asleep_ns,
        saved.raw.0,
        saved.utc.tai_ns().cast_unsigned(),
        saved.err_ns,
    ])
}

fn decode(value: &[u8]) -> Result<Saved, StoreError> {
    let [timeline, basis, high, low, asleep_ns, raw, utc, err_ns] =
        numbers_of("the collector's timeline", value)?;
    let boot_id = (u128::from(high) << 64 | u128::from(low)).to_be_bytes();
    let utc = UtcNs::from_tai_ns(utc.cast_signed());
    let basis = match basis {
        0 => Basis::Own,
        2 => Basis::Fleet,
        _ => Basis::Machine,
    };
    Ok(Saved { timeline, basis, boot_id, asleep_ns, raw: RawNs(raw), utc, err_ns })
}
