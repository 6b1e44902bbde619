//! The flows of a capture file without a collector: the same engine as live, driven by the file's own time.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

use gnomon_capture::{Frame, Stamp};
use gnomon_clock::{EpochId, Estimate, RawNs, UtcNs};
use gnomon_flow::{FlowId, FlowRecord, Origin, StoredFlow, TimeState};

use crate::engine::{Engine, EngineConfig, EngineStats};
use crate::rules::{Keep, Rules};
use crate::slicer::SlicerConfig;
use crate::table::TableConfig;

/// Records that wait for earlier ones. In a file with more of them at once the order is only nearly that of time.
const WAITING_MAX: usize = 1 << 17;

/// The epoch of a capture file: its stamps are POSIX time, comparable among themselves. `digest` is of its content, so
/// that the same file has the same flows with the same ids.
pub fn file_epoch(digest: [u8; 16]) -> EpochId {
    EpochId { agent: [0; 16], boot_id: digest, opened: RawNs(0) }
}

/// The time of a batch of a file: that of its earliest packet, so that one packet with a wrong stamp does not end
/// everybody's flows. `None` for an empty batch.
#[derive(Clone, Copy, Debug, Default)]
struct BatchTime(Option<RawNs>);

impl BatchTime {
    fn add(&mut self, stamp: Stamp) {
        self.0 = Some(self.0.map_or(stamp.raw, |earliest| earliest.min(stamp.raw)));
    }

    fn earliest(self) -> Option<RawNs> {
        self.0
    }
}

/// How the flows of files are made: no interim records, nothing sliced.
pub fn engine_config(table: TableConfig) -> EngineConfig {
    EngineConfig {
        table: TableConfig { interim: None, ..table },
        slicer: SlicerConfig { block_bytes_max: 0, blocks_max: 1, ..SlicerConfig::default() },
        rules: Arc::new(Rules::keep(Keep::Nothing)),
        ..EngineConfig::default()
    }
}

/// Builds the flows of one file and gives them to `found` in order of their first packet, then of their id.
///
/// `drain` gives a batch of frames to the function it is handed and returns how many; 0 is the end. Memory is bounded:
/// a record waits only while an open flow might be earlier, and at most 131,072 wait.
///
/// # Errors
/// What `drain` says. The flows of all frames before the error are given out first.
pub fn flows<E>(
    table: TableConfig,
    rules: Arc<Rules>,
    origin: &Origin,
    drain: impl FnMut(&mut dyn FnMut(&[Frame<'_>])) -> Result<usize, E>,
    mut found: impl FnMut(StoredFlow),
) -> Result<EngineStats, E> {
    // An open segment has lasted for at most the active timeout and been silent for at most the longest idle one.
    let idle_max =
        [table.idle.tcp_ns, table.idle.udp_ns, table.idle.icmp_ns, table.idle.sctp_ns, table.idle.esp_ns]
            .into_iter()
            .fold(table.idle.other_ns.max(table.linger_ns), u64::max);
    let open_max = table.active_timeout_ns.saturating_add(idle_max).saturating_add(1 << 30);
    let mut engine = Engine::new(0, EngineConfig { rules, origin: origin.clone(), ..engine_config(table) });
    let mut waiting: BinaryHeap<Reverse<InOrder>> = BinaryHeap::new();
    let mut release = |engine: &mut Engine, until: RawNs, waiting_max: usize| {
        waiting.extend(engine.take_records().into_iter().flatten().map(|record| Reverse(InOrder(record))));
        while waiting.len() > waiting_max
            || waiting.peek().is_some_and(|Reverse(InOrder(record))| record.first < until)
        {
            let Some(Reverse(InOrder(record))) = waiting.pop() else { break };
            found(stored(record, origin));
        }
    };
    let ended = drive(&mut engine, drain, |engine, now| {
        // While all flows end nothing is certain to be the earliest.
        release(engine, now.map_or(RawNs(0), |now| now.saturating_sub(open_max)), WAITING_MAX);
        Ok(())
    });
    release(&mut engine, RawNs(0), 0);
    ended.map(|()| engine.stats())
}

/// Feeds an engine all that `drain` gives, by the file's own time, then ends every flow. After each step `take` has what was
/// made, and the time of the file while it is read.
///
/// # Errors
/// What `drain` says, behind all frames before it; what `take` says, at once.
pub fn drive<E>(
    engine: &mut Engine,
    mut drain: impl FnMut(&mut dyn FnMut(&[Frame<'_>])) -> Result<usize, E>,
    mut take: impl FnMut(&mut Engine, Option<RawNs>) -> Result<(), E>,
) -> Result<(), E> {
    let mut now = RawNs(0);
    let ended = loop {
        let mut time = BatchTime::default();
        let drained = drain(&mut |frames| {
            frames.iter().for_each(|frame| time.add(frame.stamp));
            engine.on_frames(frames);
        });
        now = time.earliest().unwrap_or(now);
        while engine.end_batch(now) {
            take(engine, Some(now))?;
        }
        take(engine, Some(now))?;
        match drained {
            Ok(0) => break Ok(()),
            Ok(_) => {}
            Err(error) => break Err(error),
        }
    };
    while engine.finish_some(now) {
        take(engine, None)?;
    }
    take(engine, None)?;
    ended
}

/// A file's stamps are taken as they are: POSIX nanoseconds.
fn stored(record: FlowRecord, origin: &Origin) -> StoredFlow {
    let estimate = |raw: RawNs| {
        let unix_ns = i64::try_from(raw.0).unwrap_or(i64::MAX);
        Some(Estimate { utc: UtcNs::from_unix_ns(unix_ns), err_ns: 0, conflict: false })
    };
    StoredFlow {
        first: estimate(record.first),
        last: estimate(record.last),
        origin: origin.clone(),
        ingested: None,
        time_state: TimeState::Indexed,
        time_reason: Default::default(),
        record,
    }
}

/// A record in the order of the output.
struct InOrder(FlowRecord);

impl InOrder {
    fn key(&self) -> (RawNs, FlowId, u32) {
        (self.0.first, self.0.id, self.0.segment)
    }
}

impl Ord for InOrder {
    fn cmp(&self, other: &InOrder) -> std::cmp::Ordering {
        self.key().cmp(&other.key())
    }
}

impl PartialOrd for InOrder {
    fn partial_cmp(&self, other: &InOrder) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for InOrder {
    fn eq(&self, other: &InOrder) -> bool {
        self.key() == other.key()
    }
}

impl Eq for InOrder {}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use gnomon_flow::FlowEndReason;

    use super::*;
    use crate::decode::example;

    const S: u64 = 1_000_000_000;
    const START: u64 = 1_700_000_000 * S;

    fn udp(port: u16) -> Vec<u8> {
        example::ipv4(17, [1; 4], [2; 4], &example::udp((port, 9), b""))
    }

    fn run<E>(frames: &[(u64, Vec<u8>)], end: Result<usize, E>) -> (Vec<StoredFlow>, Result<EngineStats, E>) {
        let origin = Origin { epoch: file_epoch([7; 16]), ..Origin::default() };
        let mut batches = frames.chunks(256);
        let mut end = Some(end);
        let mut flows_found = Vec::new();
        let ended = flows(
            TableConfig { flows_max: 4096, ..TableConfig::default() },
            Arc::new(Rules::keep(Keep::Nothing)),
            &origin,
            |sink| match batches.next() {
                Some(batch) => {
                    for (at, data) in batch {
                        let stamp = Stamp { raw: RawNs(START + at), err_ns: 0 };
                        sink(&[Frame { stamp, ..example::frame(data) }]);
                    }
                    Ok(batch.len())
                }
                None => end.take().unwrap(),
            },
            |flow| flows_found.push(flow),
        );
        (flows_found, ended)
    }

    #[test]
    fn flows_come_in_order_of_time_with_the_files_own_times() {
        // A long flow and many short ones over an hour: those that end early must wait for the long one's segments.
        let mut frames = Vec::new();
        for second in 0..3600u64 {
            frames.push((second * S, udp(1)));
            frames.push((second * S + S / 2, udp(1000 + (second % 2000) as u16)));
        }
        let (flows, ended) = run::<Infallible>(&frames, Ok(0));
        assert_eq!(ended.unwrap().packets, 7200);
        assert_eq!(flows.iter().map(|flow| flow.record.packets()).sum::<u64>(), 7200);
        assert!(flows.is_sorted_by_key(|flow| (flow.record.first, flow.record.id)));
        assert!(flows.iter().all(|flow| flow.record.end.is_some()));
        // One segment every 480 s.
        let long: Vec<_> = flows.iter().filter(|flow| flow.record.key.orig_port == 1).collect();
        assert_eq!(long.len(), 8);
        assert_eq!(long[0].first.unwrap().utc.unix_ns(), START as i64);
        assert_eq!(long[0].record.end, Some(FlowEndReason::Active));
    }

    #[test]
    fn one_packet_hours_ahead_ends_nobody_elses_flow() {
        let mut frames: Vec<_> = (0..300).map(|n| (n * S / 10, udp(1))).collect();
        frames.insert(100, (9 * 3600 * S, udp(2)));
        let (flows, _) = run::<Infallible>(&frames, Ok(0));
        let shape: Vec<_> = flows.iter().map(|f| (f.record.key.orig_port, f.record.packets())).collect();
        assert_eq!(shape, [(1, 300), (2, 1)]);
    }

    #[test]
    fn what_was_read_before_damage_is_given_out() {
        let (flows, ended) = run(&[(0, udp(1)), (1, udp(2))], Err("damaged at byte 99"));
        assert_eq!((flows.len(), ended), (2, Err("damaged at byte 99")));
    }

    #[test]
    fn the_same_file_has_the_same_ids() {
        let frames: Vec<_> = (0..50).map(|n| (u64::from(n) * S, udp(n))).collect();
        let ids = |flows: Vec<StoredFlow>| flows.iter().map(StoredFlow::id).collect::<Vec<_>>();
        assert_eq!(ids(run::<Infallible>(&frames, Ok(0)).0), ids(run::<Infallible>(&frames, Ok(0)).0));
    }
}
