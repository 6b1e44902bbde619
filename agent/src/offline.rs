//! The flows of a capture file without a collector: the same engine as live, driven by the file's own time.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

use gnomon_capture::{FileInterface, Frame, INTERFACES_APART_MAX, Stamp};
use gnomon_clock::{EpochId, Estimate, RawNs, UtcNs};
use gnomon_flow::escape::name_of;
use gnomon_flow::{AttributeValue, FlowId, FlowRecord, Origin, StoredFlow, TimeState, field};

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

/// Bytes of an interface's name, as the collector takes it.
const NAME_BYTES_MAX: usize = 255;
/// Flows of an interface after the first: one in so many of those that the first may have.
const FLOWS_SHARE: u32 = 16;

/// What the records of one file say of where they are from.
#[derive(Clone, Debug)]
pub struct FileName {
    name: Arc<str>,
    value: AttributeValue,
}

impl FileName {
    /// `name` is without its directory.
    pub fn new(name: &str) -> FileName {
        let name: Arc<str> = name_of(name, NAME_BYTES_MAX).into();
        FileName { value: AttributeValue::Text(name.as_ref().into()), name }
    }

    /// That of one of its interfaces: its own, else the file's with its number behind it where it is not the only one.
    pub fn interface(&self, interface: &FileInterface) -> Arc<str> {
        match (&interface.name, interface.index) {
            _ if interface.others => "(others)".into(),
            (Some(name), _) => name_of(name, NAME_BYTES_MAX).into(),
            (None, 0) => Arc::clone(&self.name),
            (None, index) => name_of(&format!("{}#{index}", self.name), NAME_BYTES_MAX).into(),
        }
    }

    /// A record says which file it is from, whatever it has said already.
    pub fn put(&self, record: &mut FlowRecord) {
        record.attributes.push_over(field::FILE, &self.value, |_| true);
    }
}

/// The engines of a file, one for each of its interfaces: what is the same on two of them is two flows.
pub struct Engines<F> {
    make: F,
    engines: Vec<Option<Engine>>,
}

impl<F: FnMut(u8, &FileInterface) -> Engine> Engines<F> {
    /// `make` is given the number of the engine's worker and its interface.
    pub fn new(make: F) -> Engines<F> {
        Engines { make, engines: Vec::new() }
    }

    fn of(&mut self, number: usize, interface: &FileInterface) -> &mut Engine {
        let number = number.min(INTERFACES_APART_MAX - 1);
        if self.engines.len() <= number {
            self.engines.resize_with(number + 1, || None);
        }
        // Far below 256.
        self.engines[number].get_or_insert_with(|| (self.make)(number as u8, interface))
    }

    fn each(&mut self) -> impl Iterator<Item = (usize, &mut Engine)> {
        self.engines.iter_mut().enumerate().filter_map(|(number, engine)| Some((number, engine.as_mut()?)))
    }

    /// What all of them counted.
    pub fn stats(&mut self) -> Vec<EngineStats> {
        self.each().map(|(_, engine)| engine.stats()).collect()
    }
}

/// How large the table of one interface of a file is.
pub fn table_of(worker: u8, table: TableConfig) -> TableConfig {
    if worker == 0 {
        return table;
    }
    TableConfig { flows_max: (table.flows_max / FLOWS_SHARE).max(1), ..table }
}

/// What drains a file: gives frames of one interface at a time, with its number, to what it is handed.
pub type Sink<'a> = dyn FnMut(usize, &FileInterface, &[Frame<'_>]) + 'a;

/// How the flows of files are made: no interim records, nothing sliced.
pub fn engine_config(table: TableConfig) -> EngineConfig {
    EngineConfig {
        table: TableConfig { interim: None, ..table },
        slicer: SlicerConfig { block_bytes_max: 0, blocks_max: 1, ..SlicerConfig::default() },
        rules: Arc::new(Rules::keep(Keep::Nothing)),
        ..EngineConfig::default()
    }
}

/// Builds the flows of one file, each interface's apart, and gives them to `found` in order of their first packet, then of their id.
///
/// `drain` gives a batch of frames to the function it is handed and returns how many; 0 is the end. `origin` is that of all but
/// the interface. Memory is bounded:
/// a record waits only while an open flow might be earlier, and at most 131,072 wait.
///
/// # Errors
/// What `drain` says. The flows of all frames before the error are given out first.
pub fn flows<E>(
    table: TableConfig,
    rules: &Arc<Rules>,
    origin: &Origin,
    file: &FileName,
    drain: impl FnMut(&mut Sink<'_>) -> Result<usize, E>,
    mut found: impl FnMut(StoredFlow),
) -> Result<Vec<EngineStats>, E> {
    // An open segment has lasted for at most the active timeout and been silent for at most the longest idle one.
    let idle_max =
        [table.idle.tcp_ns, table.idle.udp_ns, table.idle.icmp_ns, table.idle.sctp_ns, table.idle.esp_ns]
            .into_iter()
            .fold(table.idle.other_ns.max(table.linger_ns), u64::max);
    let open_max = table.active_timeout_ns.saturating_add(idle_max).saturating_add(1 << 30);
    let origins = std::cell::RefCell::new(Vec::<Origin>::new());
    let mut engines = Engines::new(|worker, interface: &FileInterface| {
        let origin = Origin { interface: file.interface(interface), ..origin.clone() };
        let mut origins = origins.borrow_mut();
        let count = origins.len().max(usize::from(worker) + 1);
        origins.resize(count, Origin::default());
        origins[usize::from(worker)] = origin.clone();
        let config = engine_config(table_of(worker, table));
        Engine::new(worker, EngineConfig { rules: Arc::clone(rules), origin, ..config })
    });
    let mut waiting: BinaryHeap<Reverse<InOrder>> = BinaryHeap::new();
    let mut release = |until: RawNs, waiting_max: usize, made: Option<(usize, &mut Engine)>| {
        if let Some((number, engine)) = made {
            let records = engine.take_records().into_iter().flatten();
            waiting.extend(records.map(|record| Reverse(InOrder(record, number))));
        }
        while waiting.len() > waiting_max
            || waiting.peek().is_some_and(|Reverse(InOrder(record, _))| record.first < until)
        {
            let Some(Reverse(InOrder(mut record, number))) = waiting.pop() else { break };
            file.put(&mut record);
            found(stored(record, &origins.borrow()[number]));
        }
    };
    let ended = drive(&mut engines, drain, |engine, number, now| {
        // While all flows end nothing is certain to be the earliest.
        let until = now.map_or(RawNs(0), |now| now.saturating_sub(open_max));
        release(until, WAITING_MAX, Some((number, engine)));
        Ok(())
    });
    release(RawNs(0), 0, None);
    ended.map(|()| engines.stats())
}

/// Feeds engines all that `drain` gives, by the file's own time, then ends every flow. After each step `take` has an engine
/// with what it made, its number, and the time of the file while it is read.
///
/// # Errors
/// What `drain` says, behind all frames before it; what `take` says, at once.
pub fn drive<E, F: FnMut(u8, &FileInterface) -> Engine>(
    engines: &mut Engines<F>,
    mut drain: impl FnMut(&mut Sink<'_>) -> Result<usize, E>,
    mut take: impl FnMut(&mut Engine, usize, Option<RawNs>) -> Result<(), E>,
) -> Result<(), E> {
    let mut now = RawNs(0);
    let ended = loop {
        let mut time = BatchTime::default();
        let drained = drain(&mut |number, interface, frames| {
            frames.iter().for_each(|frame| time.add(frame.stamp));
            engines.of(number, interface).on_frames(frames);
        });
        now = time.earliest().unwrap_or(now);
        for (number, engine) in engines.each() {
            while engine.end_batch(now) {
                take(engine, number, Some(now))?;
            }
            take(engine, number, Some(now))?;
        }
        match drained {
            Ok(0) => break Ok(()),
            Ok(_) => {}
            Err(error) => break Err(error),
        }
    };
    for (number, engine) in engines.each() {
        while engine.finish_some(now) {
            take(engine, number, None)?;
        }
        take(engine, number, None)?;
    }
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

/// A record in the order of the output, and the number of its interface.
struct InOrder(FlowRecord, usize);

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

    fn run<E>(frames: &[(u64, Vec<u8>)], end: Result<usize, E>) -> (Vec<StoredFlow>, Result<u64, E>) {
        let origin = Origin { epoch: file_epoch([7; 16]), ..Origin::default() };
        let mut batches = frames.chunks(256);
        let mut end = Some(end);
        let mut flows_found = Vec::new();
        let ended = flows(
            TableConfig { flows_max: 4096, ..TableConfig::default() },
            &Arc::new(Rules::keep(Keep::Nothing)),
            &origin,
            &FileName::new("test.pcap"),
            |sink| match batches.next() {
                Some(batch) => {
                    for (at, data) in batch {
                        let stamp = Stamp { raw: RawNs(START + at), err_ns: 0 };
                        sink(0, &FileInterface::default(), &[Frame { stamp, ..example::frame(data) }]);
                    }
                    Ok(batch.len())
                }
                None => end.take().unwrap(),
            },
            |flow| flows_found.push(flow),
        );
        (flows_found, ended.map(|stats| stats.iter().map(|stats| stats.packets).sum()))
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
        assert_eq!(ended.unwrap(), 7200);
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
