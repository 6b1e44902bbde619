//! Giving up what is older than asked for. Unlike everything else that makes room this trusts the time, so it does nothing
//! while nothing proves the collector's time or that time jumped of late (I9), and keeps what has no certain age.

use gnomon_clock::UtcNs;
use gnomon_flow::{StoredFlow, TimeState};

use super::StoreError;
use super::writer::Writer;

/// Between looks.
const LOOK_NS: u64 = 10_000_000_000;

impl Writer {
    /// Gives up some of what is too old, if it is known to be.
    ///
    /// # Errors
    /// What the disk said; it is tried again.
    pub fn expire(&mut self) -> Result<(), StoreError> {
        if self.shared.read_only.is_some() {
            return Ok(());
        }
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
    /// this machine's clock was wrong. Blocks go whole, when all of their records are due.
    fn expire_flows(&mut self, before: UtcNs) -> Result<(), StoreError> {
        let due = |flow: &StoredFlow| {
            let came = flow.ingested.is_some_and(|at| at < before && at.is_plausible());
            came && match flow.time_state {
                TimeState::Indexed => flow.first.is_some_and(|first| first.utc < before),
                TimeState::Pending | TimeState::Quarantined => true,
            }
        };
        let (blocks, mut expired) = {
            let live = self.shared.live();
            let due: Vec<_> = live
                .blocks()
                .iter()
                .filter(|block| {
                    let (first, last) = block.summary.ingested;
                    let captured = block.times.is_some_and(|times| times.last_max < before);
                    first.is_plausible() && last < before && (block.held() || captured)
                })
                .map(|block| (block.id, block.records()))
                .collect();
            let records: u64 = due.iter().map(|(_, records)| records).sum();
            (due.into_iter().map(|(id, _)| id).collect::<Vec<_>>(), records)
        };
        self.drop_blocks(&blocks)?;
        let hot: Vec<_> = self.select(due).into_iter().map(|(id, _)| id).collect();
        if !hot.is_empty() {
            self.checkpoint(Vec::new(), &hot)?;
            expired += hot.len() as u64;
        }
        if expired > 0 {
            tracing::info!(records = expired, "gave up flow records for their age");
        }
        Ok(())
    }
}
