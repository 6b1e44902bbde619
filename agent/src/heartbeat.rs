//! What the agent says of itself once a second, and the board on which its threads write what they count.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use gnomon_clock::{Clock, EpochId, MonoNs};
use gnomon_proto::v1;

use crate::capture_set::LEFT_OUT_SHOWN_MAX;
use crate::spool::{Spool, SpoolStatus};

/// What one capture thread counted since it began, written about once a second.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct WorkerCounts {
    pub packets: u64,
    /// On the wire.
    pub bytes: u64,
    /// By reason.
    pub drops: BTreeMap<&'static str, u64>,
    pub flows_active: u64,
    pub flows_made: u64,
    pub flows_evicted: u64,
    /// Packets that could not be decoded to their end, by what was wrong.
    pub undecodable: BTreeMap<&'static str, u64>,
    /// What became of fragments and their datagrams.
    pub fragments: BTreeMap<&'static str, u64>,
    pub inspections_denied: u64,
    pub interims_delayed: u64,
    /// Depths by name.
    pub queues: BTreeMap<String, u64>,
}

impl WorkerCounts {
    /// Adds what is a sum; depths of one name add up as well.
    fn add(&mut self, other: &WorkerCounts) {
        self.packets += other.packets;
        self.bytes += other.bytes;
        self.flows_active += other.flows_active;
        self.flows_made += other.flows_made;
        self.flows_evicted += other.flows_evicted;
        self.inspections_denied += other.inspections_denied;
        self.interims_delayed += other.interims_delayed;
        for (sums, others) in [
            (&mut self.drops, &other.drops),
            (&mut self.undecodable, &other.undecodable),
            (&mut self.fragments, &other.fragments),
        ] {
            for (name, count) in others {
                *sums.entry(name).or_default() += count;
            }
        }
        for (name, depth) in &other.queues {
            *self.queues.entry(name.clone()).or_default() += depth;
        }
    }
}

#[derive(Clone, Debug, Default)]
struct InterfaceState {
    mode: String,
    error: Option<String>,
    seen_twice: Option<String>,
    /// Of workers that ended.
    past: WorkerCounts,
    workers: BTreeMap<u8, WorkerCounts>,
}

impl InterfaceState {
    fn total(&self) -> WorkerCounts {
        let mut total = self.past.clone();
        self.workers.values().for_each(|counts| total.add(counts));
        total
    }
}

/// What an interface shows.
#[derive(Clone, Debug, Default)]
pub struct InterfaceReport {
    pub name: String,
    pub mode: String,
    pub error: Option<String>,
    /// That its packets are seen on another captured interface as well.
    pub seen_twice: Option<String>,
    pub counts: WorkerCounts,
}

/// Where capture threads write and heartbeat and metrics read. Clones are the same board.
#[derive(Clone, Debug, Default)]
pub struct Board(Arc<Mutex<Posted>>);

#[derive(Debug, Default)]
struct Posted {
    interfaces: BTreeMap<String, InterfaceState>,
    /// Interfaces that are not captured, and why.
    left_out: Vec<(String, String)>,
}

/// Where the counts of interfaces that are long gone stand: no interface has this name.
pub const GONE: &str = "(gone)";

impl Board {
    fn lock(&self) -> MutexGuard<'_, Posted> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Capture runs in this mode.
    pub fn running(&self, interface: &str, mode: String) {
        let mut board = self.lock();
        let state = board.interfaces.entry(interface.to_owned()).or_default();
        state.mode = mode;
        state.error = None;
    }

    /// Capture does not run, and why; `None` when it was stopped on purpose. True when that is news.
    pub fn failed(&self, interface: &str, error: Option<String>) -> bool {
        let mut board = self.lock();
        let state = board.interfaces.entry(interface.to_owned()).or_default();
        let news = state.error != error;
        state.error = error;
        news
    }

    pub fn publish(&self, interface: &str, worker: u8, counts: WorkerCounts) {
        let mut board = self.lock();
        board.interfaces.entry(interface.to_owned()).or_default().workers.insert(worker, counts);
    }

    /// A worker of the interface ended: what it counted stays, what it held is gone.
    pub fn left(&self, interface: &str, worker: u8) {
        let mut board = self.lock();
        let Some(state) = board.interfaces.get_mut(interface) else { return };
        let Some(counts) = state.workers.remove(&worker) else { return };
        state.past.add(&WorkerCounts { flows_active: 0, queues: BTreeMap::new(), ..counts });
    }

    /// An interface that is gone: what it counted goes to [`GONE`].
    pub fn forget(&self, interface: &str) {
        let mut board = self.lock();
        let Some(state) = board.interfaces.remove(interface) else { return };
        let gone = board.interfaces.entry(GONE.to_owned()).or_default();
        gone.past.add(&WorkerCounts { flows_active: 0, queues: BTreeMap::new(), ..state.total() });
        gone.error = Some("interfaces that were captured and are gone".into());
    }

    pub fn seen_twice(&self, interface: &str, words: Option<String>) {
        if let Some(state) = self.lock().interfaces.get_mut(interface) {
            state.seen_twice = words;
        }
    }

    /// These are not captured, and why.
    pub fn left_out(&self, left_out: Vec<(String, String)>) {
        self.lock().left_out = left_out;
    }

    /// Names of the interfaces that are captured now.
    pub fn captured(&self) -> Vec<String> {
        let is_captured = |state: &InterfaceState| !state.mode.is_empty() && state.error.is_none();
        let board = self.lock();
        board
            .interfaces
            .iter()
            .filter(|(_, state)| is_captured(state))
            .map(|(name, _)| name.clone())
            .collect()
    }

    /// The first of those that are left out, and how many more there are.
    fn left_out_shown(&self) -> (Vec<v1::InterfaceLeftOut>, u32) {
        let board = self.lock();
        let shown = board.left_out.iter().take(LEFT_OUT_SHOWN_MAX);
        let shown =
            shown.map(|(name, reason)| v1::InterfaceLeftOut { name: name.clone(), reason: reason.clone() });
        let more = board.left_out.len().saturating_sub(LEFT_OUT_SHOWN_MAX);
        (shown.collect(), u32::try_from(more).unwrap_or(u32::MAX))
    }

    pub fn report(&self) -> Vec<InterfaceReport> {
        let board = self.lock();
        let reports = board.interfaces.iter().map(|(name, state)| InterfaceReport {
            name: name.clone(),
            mode: state.mode.clone(),
            error: state.error.clone(),
            seen_twice: state.seen_twice.clone(),
            counts: state.total(),
        });
        reports.collect()
    }
}

/// Makes heartbeats; keeps the last counts for the rates.
pub struct Heart {
    board: Board,
    spool: Spool,
    clock: Arc<dyn Clock>,
    started: MonoNs,
    last: BTreeMap<String, (MonoNs, u64, u64)>,
}

impl Heart {
    pub fn new(board: Board, spool: Spool, clock: Arc<dyn Clock>) -> Heart {
        let started = clock.monotonic();
        Heart { board, spool, clock, started, last: BTreeMap::new() }
    }

    /// The heartbeat of now.
    pub fn beat(&mut self, epoch: &EpochId, clock: Option<v1::ClockStatus>) -> v1::Heartbeat {
        let now = self.clock.monotonic();
        let reports = self.board.report();
        self.last.retain(|name, _| reports.iter().any(|report| report.name == *name));
        let (left_out, left_out_more) = self.board.left_out_shown();
        let interfaces = reports.into_iter().map(|report| self.interface(report, now)).collect();
        v1::Heartbeat {
            epoch: Some(epoch.into()),
            raw_ns: self.clock.raw().0,
            interfaces,
            spool: Some(spool_to_wire(self.spool.status())),
            clock,
            uptime_ms: now.since(self.started) / 1_000_000,
            resident_bytes: resident_bytes(),
            left_out,
            left_out_more,
            ..v1::Heartbeat::default()
        }
    }

    fn interface(&mut self, report: InterfaceReport, now: MonoNs) -> v1::InterfaceStatus {
        let counts = report.counts;
        let before = self.last.insert(report.name.clone(), (now, counts.packets, counts.bytes));
        let rate = |value: u64, last: u64, since: MonoNs| {
            let seconds = now.since(since) as f64 / 1e9;
            if seconds > 0.0 { value.saturating_sub(last) as f64 / seconds } else { 0.0 }
        };
        let (packets_per_second, bits_per_second) = match before {
            Some((since, packets, bytes)) => {
                (rate(counts.packets, packets, since), rate(counts.bytes, bytes, since) * 8.0)
            }
            None => (0.0, 0.0),
        };
        v1::InterfaceStatus {
            name: report.name,
            mode: report.mode,
            packets: counts.packets,
            bytes: counts.bytes,
            packets_per_second,
            bits_per_second,
            drops: counts.drops.iter().map(|(reason, count)| ((*reason).to_owned(), *count)).collect(),
            flows_active: counts.flows_active,
            flows_made: counts.flows_made,
            flows_evicted: counts.flows_evicted,
            queues: counts.queues.into_iter().collect(),
            error: report.error.unwrap_or_default(),
            seen_twice: report.seen_twice.unwrap_or_default(),
        }
    }
}

fn spool_to_wire(status: SpoolStatus) -> v1::SpoolStatus {
    v1::SpoolStatus {
        entries: status.entries,
        bytes: status.bytes,
        bytes_max: status.bytes_max,
        oldest_raw_ns: status.oldest.map_or(0, |raw| raw.0),
        sacrificed_slice_entries: status.sacrificed_slices.entries,
        sacrificed_slice_packets: status.sacrificed_slices.items,
        sacrificed_flow_entries: status.sacrificed_flows.entries,
        sacrificed_flow_records: status.sacrificed_flows.items,
        error: status.error.unwrap_or_default(),
        memory_bytes: status.memory_bytes,
        memory_bytes_max: status.memory_bytes_max,
        damaged_entries: status.damaged.entries,
        damaged_items: status.damaged.items,
        missing_entries: status.missing,
        set_aside_files: status.set_aside_files + status.strangers,
        set_aside_bytes: status.set_aside_bytes,
        ledger_conflicts: status.ledger_conflicts,
        unsettled_bytes: status.unsettled_bytes,
        asked_again_entries: status.asked_again,
    }
}

/// Resident memory by /proc/self/statm; 0 where that cannot be read.
pub fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0);
    pages.saturating_mul(rustix::param::page_size() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(packets: u64, lost: u64) -> WorkerCounts {
        WorkerCounts {
            packets,
            bytes: packets * 100,
            drops: BTreeMap::from([("kernel", lost)]),
            flows_active: 5,
            ..WorkerCounts::default()
        }
    }

    #[test]
    fn counters_add_up_over_workers_and_outlive_a_failure() {
        let board = Board::default();
        board.running("eth0", "af_packet".into());
        board.publish("eth0", 0, counts(10, 1));
        board.publish("eth0", 1, counts(20, 2));
        board.failed("eth0", Some("gone".into()));
        let report = &board.report()[0];
        assert_eq!((report.counts.packets, report.counts.drops["kernel"]), (30, 3));
        assert_eq!((report.counts.flows_active, report.error.as_deref()), (10, Some("gone")));
        board.running("eth0", "af_packet".into());
        board.publish("eth0", 0, counts(11, 1));
        assert_eq!((board.report()[0].counts.packets, &board.report()[0].error), (31, &None));
        // What a worker counted that ended stays, also when another one has its number; what it held does not.
        board.left("eth0", 0);
        board.publish("eth0", 0, counts(1, 0));
        board.left("eth0", 1);
        let report = &board.report()[0];
        assert_eq!((report.counts.packets, report.counts.flows_active), (32, 5));
        board.forget("eth0");
        let report = &board.report()[0];
        assert_eq!((report.name.as_str(), report.counts.packets, report.counts.flows_active), (GONE, 32, 0));
        assert!(board.captured().is_empty());
    }

    #[test]
    fn the_process_has_memory() {
        assert!(resident_bytes() > 100_000);
    }
}
