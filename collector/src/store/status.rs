//! What there is and how full it is, in one look.

use std::path::PathBuf;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use gnomon_clock::UtcNs;
use gnomon_flow::TimeState;

use super::intake::full_in_s;
use super::trouble::ADVICE;
use super::{Limits, Rate, Store, StoreError, retention};

/// What the store holds and how it fares.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoreStatus {
    pub flows: u64,
    pub flows_pending: u64,
    pub flows_quarantined: u64,
    pub slice_packets: u64,
    pub slice_bytes: u64,
    pub disk_free_bytes: u64,
    /// Of the indexes of segment files, which count as packets.
    pub index_bytes: u64,
    /// The most that packets may take.
    pub packets_bytes_max: u64,
    /// What the database takes, and the most it may.
    pub flows_bytes: u64,
    pub flows_bytes_max: u64,
    /// What comes in; `None` in the first minute.
    pub rate: Option<Rate>,
    pub flow_bytes_a_day: Option<u64>,
    /// Until the oldest packets, and the oldest flows, are given up for new ones, at this rate; 0: they are.
    pub packets_full_in_s: Option<u64>,
    pub flows_full_in_s: Option<u64>,
    pub oldest_flow: Option<UtcNs>,
    pub newest_flow: Option<UtcNs>,
    pub oldest_packet: Option<UtcNs>,
    /// Bytes of never acknowledged writes that were cut at open.
    pub torn_bytes: u64,
    /// Bytes of packets that were acknowledged and are missing: the disk lost them.
    pub lost_bytes: u64,
    /// Blocks of packets or of records, and stretches of segment files, that were found damaged.
    pub damaged_blocks: u64,
    /// Records that no block can hold, since the start: they are in the quarantine.
    pub records_set_aside: u64,
    /// Indexes of segment files that were found damaged, and made anew.
    pub damaged_indexes: u64,
    /// Entries that were acknowledged and are missing: those that agents may send again, and those that they do not have.
    pub entries_missing: u64,
    pub entries_lost: u64,
    /// Writes of the database that were acknowledged and that its damaged log did not have at the start.
    pub lost_writes: u64,
    /// Table files of the database that could not be used at the start, and other files of it that were damaged.
    pub tables_out: u64,
    pub files_damaged: u64,
    /// Files that were found damaged and are kept beside the store.
    pub set_aside: u64,
    pub set_aside_dir: PathBuf,
    /// Writes of the database that failed, and how often it was opened anew because of that.
    pub write_failures: u64,
    pub reopened: u64,
    /// Files of the database are not merged any more, since one of them is damaged.
    pub unmerged: bool,
    /// Why nothing is taken in at the moment, in words.
    pub stopped: Option<String>,
}

impl StoreStatus {
    /// What is missing because the disk damaged or lost it, and what can be done; in words.
    pub fn damage(&self) -> Option<String> {
        let blocks = format!("{} blocks of records or packets cannot be read", self.damaged_blocks);
        let lost = format!("{} bytes of acknowledged packets are gone from the disk", self.lost_bytes);
        let unmerged = "a file of the database is damaged, so that files are not merged and take more room";
        let missing = format!(
            "{} entries that were acknowledged are missing, and agents are asked for them again",
            self.entries_missing
        );
        let entries_lost = format!(
            "{} entries that were acknowledged are lost: agents did not have them any more",
            self.entries_lost
        );
        let writes = format!(
            "{} acknowledged writes were missing from the database's log at the start",
            self.lost_writes
        );
        let tables =
            format!("{} table files of the database could not be used at the start", self.tables_out);
        let files = format!("{} files of the database were damaged at the start", self.files_damaged);
        let aside = format!(
            "{} damaged files are kept in {}: remove it once they are of no use",
            self.set_aside,
            self.set_aside_dir.display()
        );
        let found = [
            (self.entries_missing > 0, missing.as_str()),
            (self.entries_lost > 0, &entries_lost),
            (self.lost_writes > 0, &writes),
            (self.tables_out > 0, &tables),
            (self.files_damaged > 0, &files),
            (self.set_aside > 0, &aside),
            (self.damaged_blocks > 0, blocks.as_str()),
            (self.lost_bytes > 0, &lost),
            (self.unmerged, unmerged),
        ];
        let words: Vec<&str> = found.into_iter().filter(|(is, _)| *is).map(|(_, words)| words).collect();
        (!words.is_empty()).then(|| format!("{}; {ADVICE}", words.join("; ")))
    }
}

impl Store {
    /// # Errors
    /// When the database cannot be read.
    pub fn status(&self) -> Result<StoreStatus, StoreError> {
        let shared = &self.shared;
        let totals = shared.totals();
        let view = self.view();
        let mut flows = [0u64; 3];
        let mut span: Option<(UtcNs, UtcNs)> = None;
        let mut seen = |first: UtcNs, last: UtcNs| {
            span = Some(span.map_or((first, last), |(a, b)| (a.min(first), b.max(last))));
        };
        for flow in view.hot() {
            let at = TimeState::ALL.iter().position(|state| *state == flow.time_state).unwrap_or(0);
            flows[at] += 1;
            if flow.time_state == TimeState::Indexed
                && let Some(first) = flow.first
            {
                seen(first.utc, first.utc);
            }
        }
        for block in view.blocks.iter() {
            flows[usize::from(block.held())] += block.records();
            if let Some(times) = block.times.filter(|times| !block.held() && times.last_max != UtcNs::MAX) {
                seen(times.first_min, times.first_max);
            }
        }
        let [indexed, pending, quarantined] = flows;
        let records = indexed + pending + quarantined;
        let disk_free_bytes = retention::free_bytes(&shared.dir)?;
        let index_bytes = shared.segments.index_bytes();
        let flows_bytes = shared.rocks.bytes();
        let rate = shared.intake.lock().unwrap_or_else(PoisonError::into_inner).rate(shared.gate.monotonic());
        let packet_bytes_a_day = rate.map(|rate| rate.packet_bytes_a_day);
        // Records take on disk what those there take.
        let file_bytes = shared.rocks.file_bytes();
        let flow_bytes_a_day = rate.filter(|_| file_bytes > 0).map(|rate| {
            let bytes = u128::from(rate.records_a_day) * u128::from(file_bytes) / u128::from(records.max(1));
            u64::try_from(bytes).unwrap_or(u64::MAX)
        });
        let Limits { packets_bytes_max, flows_bytes_max, free_bytes_min, .. } = shared.limits;
        let disk_left = disk_free_bytes.saturating_sub(free_bytes_min);
        // The disk fills with both.
        let disk_full_in_s = packet_bytes_a_day
            .zip(flow_bytes_a_day)
            .and_then(|(packets, flows)| full_in_s(disk_left, packets.saturating_add(flows)));
        let full = |max: u64, taken: u64, a_day: Option<u64>| {
            let own = full_in_s(max.saturating_sub(taken), a_day?)?;
            Some(disk_full_in_s.map_or(own, |disk| own.min(disk)))
        };
        Ok(StoreStatus {
            index_bytes,
            packets_bytes_max,
            flows_bytes,
            flows_bytes_max,
            rate,
            flow_bytes_a_day,
            packets_full_in_s: full(
                packets_bytes_max,
                totals.slice_bytes.saturating_add(index_bytes),
                packet_bytes_a_day,
            ),
            flows_full_in_s: full(flows_bytes_max, flows_bytes, flow_bytes_a_day),
            flows: indexed,
            flows_pending: pending,
            flows_quarantined: quarantined,
            slice_packets: totals.slice_packets,
            slice_bytes: totals.slice_bytes,
            disk_free_bytes,
            oldest_flow: span.map(|(oldest, _)| oldest),
            newest_flow: span.map(|(_, newest)| newest),
            oldest_packet: self.oldest_packet()?,
            torn_bytes: shared.torn_bytes,
            lost_bytes: shared.lost_bytes,
            records_set_aside: shared.records_set_aside.load(Ordering::Relaxed),
            entries_missing: shared
                .entries_missing
                .load(Ordering::Relaxed)
                .saturating_add(shared.claims.missing()),
            entries_lost: shared.entries_lost.load(Ordering::Relaxed),
            lost_writes: shared.opened.lost_writes,
            tables_out: shared.opened.tables_out,
            files_damaged: shared.opened.files_damaged,
            set_aside: shared.opened.aside.files,
            set_aside_dir: shared.opened.aside.dir.clone(),
            damaged_blocks: shared.damaged_blocks.load(Ordering::Relaxed) + shared.segments.damaged_blocks(),
            damaged_indexes: shared.segments.damaged_indexes(),
            write_failures: shared.write_failures.load(Ordering::Relaxed),
            reopened: shared.reopened.load(Ordering::Relaxed),
            unmerged: shared.rocks.is_unmerged(),
            stopped: shared.stopped.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        })
    }

    /// When the first packet of the oldest segment file that has any was.
    fn oldest_packet(&self) -> Result<Option<UtcNs>, StoreError> {
        let mut oldest: Option<UtcNs> = None;
        for (epoch, first) in self.shared.segments.oldest() {
            let first = self.estimate(epoch, first)?.map(|estimate| estimate.utc);
            oldest = [oldest, first].into_iter().flatten().min();
        }
        Ok(oldest)
    }
}
