//! Giving up what is older than asked for. Unlike everything else that makes room this trusts the time, so it does nothing
//! while nothing proves the collector's time or that time jumped of late (I9), and keeps what has no certain age.

use gnomon_clock::UtcNs;
use gnomon_flow::TimeState;

use super::StoreError;
use super::envelope::IndexEntry;
use super::keys::{self, Family};
use super::stage::Stage;
use super::writer::Writer;

/// Between looks.
const LOOK_NS: u64 = 10_000_000_000;
/// Records looked at in one look: ingest must not wait long.
const RUN: usize = 4096;

impl Writer {
    /// Gives up some of what is too old, if it is known to be.
    ///
    /// # Errors
    /// What the disk said; it is tried again.
    pub fn expire(&mut self) -> Result<(), StoreError> {
        let now = self.shared.gate.monotonic();
        if self.expired_at.is_some_and(|at| now.since(at) < LOOK_NS) {
            return Ok(());
        }
        self.expired_at = Some(now);
        let (flows, packets) = (self.limits.flows_age_ns_max, self.limits.packets_age_ns_max);
        if flows.is_none() && packets.is_none() {
            return Ok(());
        }
        let held_up = self.shared.gate.keeper().age_usable().err();
        if held_up.is_some() != self.age_held_up {
            self.age_held_up = held_up.is_some();
            match &held_up {
                Some(why) => tracing::warn!("{why}"),
                None => tracing::info!("deletion by age goes on"),
            }
        }
        if held_up.is_some() {
            return Ok(());
        }
        let time = self.shared.gate.now();
        let before = |age_ns: u64| {
            let back = age_ns.saturating_add(time.err_ns);
            time.utc.saturating_add_ns(-i64::try_from(back).unwrap_or(i64::MAX))
        };
        if let Some(age_ns) = packets {
            self.expire_packets(before(age_ns))?;
        }
        if let Some(age_ns) = flows {
            self.expire_flows(before(age_ns))?;
        }
        Ok(())
    }

    /// Whole segment files, by when they were written last.
    fn expire_packets(&mut self, before: UtcNs) -> Result<(), StoreError> {
        loop {
            let current = self.segments.position().number;
            let oldest = self.table.iter().next().filter(|(number, _)| **number != current);
            // 0: written while nothing proved the time, so it goes only when space is needed.
            let Some((_, &[.., written])) = oldest else { return Ok(()) };
            let too_old = written != 0 && UtcNs::from_tai_ns(written.cast_signed()) < before;
            if !too_old || !self.drop_oldest_segment()? {
                return Ok(());
            }
        }
    }

    /// Records that came in before `before`, and were captured before it too: the time of ingest may be of a day on which
    /// this machine's clock was wrong.
    fn expire_flows(&mut self, before: UtcNs) -> Result<(), StoreError> {
        let to = keys::time(before);
        let from = keys::time(UtcNs::MIN);
        let end = std::ops::Bound::Excluded(&to[..]);
        let run =
            self.shared.rocks.run(Family::ByIngest, &from, end, self.expiring.as_deref(), false, RUN)?;
        let whole = run.len() < RUN;
        let ids: Vec<_> = run.iter().filter_map(|(key, _)| keys::timed_of(key)).collect();
        let references: Vec<_> = ids.iter().map(|(_, id)| keys::reference(*id)).collect();
        let entries = self.shared.rocks.get_many(Family::FlowIndex, references.iter().map(|key| &key[..]))?;
        let mut stage = Stage::new(&self.shared);
        let mut expired = 0u64;
        for (((ingested, id), value), (key, _)) in ids.iter().zip(entries).zip(&run) {
            let Some(entry) = value.map(|value| IndexEntry::decode(&value)).transpose()? else {
                stage.batch.delete(Family::ByIngest, key.to_vec());
                continue;
            };
            let certain = match entry.state {
                TimeState::Indexed => entry.first < before,
                TimeState::Pending | TimeState::Quarantined => ingested.is_plausible(),
            };
            if certain {
                stage.forget(*id, &entry);
                stage.batch.delete(Family::ByIngest, key.to_vec());
                expired += 1;
            }
        }
        // Not synced: what is lost is done again.
        self.publish(stage, false)?;
        // The next look goes on behind what was kept, and begins anew at the end.
        self.expiring = if whole { None } else { run.into_iter().last().map(|(key, _)| key) };
        if !whole {
            self.expired_at = None;
        }
        if expired > 0 {
            tracing::info!(records = expired, "gave up flow records for their age");
        }
        Ok(())
    }
}
