//! One worker: one thread, one queue of one interface, from frames to hand-overs.
//!
//! Flows are handed over for certain: when the spool's queue is full the worker waits, and what the kernel then drops is
//! counted by the source. Packet blocks are never waited for: see [`crate::slicer`].

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError};
use std::time::Duration;

use gnomon_clock::{Clock, EpochId};
use gnomon_flow::DecodeProblem;

use crate::engine::{Engine, EngineStats};
use crate::export::{Export, Exported, PacketBlock};
use crate::fragments::FragmentStats;
use crate::rules::current::Follower;

/// Frames taken at once: between two batches timers run and records are handed over.
pub const BATCH_FRAMES_MAX: usize = 256;
/// How long a source may sleep when there is nothing: bounds how late a timer or a block is.
pub const IDLE_WAIT: Duration = Duration::from_millis(10);

/// Rounds of timers between two looks at a source that has nothing.
const TIMER_ROUNDS_WHEN_IDLE: usize = 8;
/// How long to sleep before a full queue is tried again.
const FULL_QUEUE_WAIT: Duration = Duration::from_millis(1);
/// How long frames that wait in the ring are taken after `stop`: under a flood there is no end to them.
const TAKEN_AT_STOP_NS: u64 = 300_000_000;
/// How often, once the agent stops: a spool that does not move for 5 s is not waited for any longer.
const FULL_QUEUE_TRIES_AT_STOP: u32 = 5000;

/// Whose frames these are.
#[derive(Clone, Debug)]
pub struct Identity {
    pub worker: u8,
    pub interface: Arc<str>,
    pub epoch: EpochId,
}

/// The worker's ends of the channels. The queue of exports holds at least one more than there are slice buffers.
#[derive(Debug)]
pub struct Channels {
    pub exports: SyncSender<Export>,
    /// Hand-overs of this worker that may wait to be written, and how many were: the queue is there for all workers.
    pub unwritten_max: u64,
    pub written: Arc<AtomicU64>,
    /// Blocks come back here once written, so that their buffers are used again.
    pub returned: Receiver<PacketBlock>,
    /// A new epoch: all flows end and what follows belongs to it.
    pub epochs: Receiver<EpochId>,
    /// The engine's rules, when they change.
    pub rules: Follower,
}

/// Live numbers for heartbeat and metrics, published once a batch. Cumulative, but for `flows_active`.
#[derive(Debug, Default)]
pub struct WorkerCounters {
    pub packets: AtomicU64,
    pub bytes: AtomicU64,
    /// Packets of flows that a rule ignores (`ignored_by_rule`).
    pub packets_ignored: AtomicU64,
    pub flows_active: AtomicU64,
    pub flows_made: AtomicU64,
    pub flows_evicted: AtomicU64,
    pub records_interim: AtomicU64,
    pub records_final: AtomicU64,
    pub interims_delayed: AtomicU64,
    /// Messages not inspected because too much was held.
    pub inspections_denied: AtomicU64,
    /// In the order of [`DecodeProblem::ALL`].
    pub problems: [AtomicU64; DecodeProblem::ALL.len()],
    /// In the order of [`FragmentStats::named`].
    pub fragments: [AtomicU64; FragmentStats::COUNT],
    pub packets_kept: AtomicU64,
    pub bytes_kept: AtomicU64,
    /// Packets that were not kept because the spool was behind (`slice_queue_full`).
    pub packets_queue_full: AtomicU64,
    pub exports: AtomicU64,
    /// Times the worker slept because the spool's queue was full.
    pub queue_waits: AtomicU64,
    /// Records and packets given up at stop because the spool did not move.
    pub records_lost: AtomicU64,
    pub packets_lost: AtomicU64,
}

impl WorkerCounters {
    fn publish(&self, stats: &EngineStats) {
        let EngineStats { packets, bytes, packets_ignored, problems, table, slicer, fragments, .. } = stats;
        for (counter, value) in [
            (&self.packets, packets),
            (&self.bytes, bytes),
            (&self.packets_ignored, packets_ignored),
            (&self.flows_active, &table.flows_active),
            (&self.flows_made, &table.flows_made),
            (&self.flows_evicted, &table.flows_evicted),
            (&self.records_interim, &table.records_interim),
            (&self.records_final, &table.records_final),
            (&self.interims_delayed, &table.interims_delayed),
            (&self.inspections_denied, &table.inspections_denied),
            (&self.packets_kept, &slicer.packets_kept),
            (&self.bytes_kept, &slicer.bytes_kept),
            (&self.packets_queue_full, &slicer.packets_queue_full),
        ] {
            counter.store(*value, Ordering::Relaxed);
        }
        for (counter, value) in self.problems.iter().zip(problems) {
            counter.store(*value, Ordering::Relaxed);
        }
        for (counter, (_, value)) in self.fragments.iter().zip(fragments.named()) {
            counter.store(value, Ordering::Relaxed);
        }
    }
}

/// Why a worker ended before it was told to.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError<E> {
    #[error("capture ended: {0}")]
    Source(E),
    #[error("the spool no longer takes exports; the worker has nobody to hand flows to")]
    SpoolGone,
}

/// The spool's end of the queue is gone.
#[derive(Debug)]
struct SpoolGone;

#[derive(Debug)]
pub struct Worker {
    engine: Engine,
    identity: Identity,
    channels: Channels,
    counters: Arc<WorkerCounters>,
}

impl Worker {
    pub fn new(
        engine: Engine,
        identity: Identity,
        channels: Channels,
        counters: Arc<WorkerCounters>,
    ) -> Worker {
        Worker { engine, identity, channels, counters }
    }

    /// Runs until `stop`, takes what had come before, then ends every flow and hands over what is left. `drain` feeds the engine at most
    /// [`BATCH_FRAMES_MAX`] frames and returns how many; with none it sleeps up to [`IDLE_WAIT`] first.
    ///
    /// # Errors
    /// When the source fails (what it gave before is handed over) or the spool is gone.
    pub fn run<E>(
        mut self,
        clock: &dyn Clock,
        stop: &AtomicBool,
        mut drain: impl FnMut(&mut Engine) -> Result<usize, E>,
    ) -> Result<(), WorkerError<E>> {
        let mut stopping = None;
        let ended = loop {
            if let Some(rules) = self.channels.rules.news() {
                self.engine.replace_rules(rules);
            }
            let drained = drain(&mut self.engine);
            let now = clock.raw();
            // After a burst of short flows many end together: a quiet moment is the time for it.
            for _ in 0..if matches!(drained, Ok(0)) { TIMER_ROUNDS_WHEN_IDLE } else { 1 } {
                let more = self.engine.end_batch(now);
                self.hand_over(stop).map_err(|SpoolGone| WorkerError::SpoolGone)?;
                if !more {
                    break;
                }
            }
            if let Ok(epoch) = self.channels.epochs.try_recv() {
                self.finish(clock, stop).map_err(|SpoolGone| WorkerError::SpoolGone)?;
                self.identity.epoch = epoch;
            }
            let nothing_came = matches!(drained, Ok(0));
            if let Err(error) = drained {
                break Err(WorkerError::Source(error));
            }
            if stop.load(Ordering::Relaxed) {
                let since = *stopping.get_or_insert(now);
                if nothing_came || now.since(since) >= TAKEN_AT_STOP_NS {
                    break Ok(());
                }
            }
        };
        self.finish(clock, stop).map_err(|SpoolGone| WorkerError::SpoolGone)?;
        ended
    }

    /// End all flows and leave nothing behind.
    fn finish(&mut self, clock: &dyn Clock, stop: &AtomicBool) -> Result<(), SpoolGone> {
        let now = clock.raw();
        while self.engine.finish_some(now) {
            self.hand_over(stop)?;
        }
        self.hand_over(stop)?;
        // Blocks are waited for only here: nothing else is left to do.
        while let Some(block) = self.engine.take_block() {
            self.send(Exported::Packets(block), stop)?;
        }
        Ok(())
    }

    fn hand_over(&mut self, stop: &AtomicBool) -> Result<(), SpoolGone> {
        self.take_back();
        if let Some(records) = self.engine.take_records() {
            self.send(Exported::Flows(records), stop)?;
        }
        while self.has_room()
            && let Some(block) = self.engine.take_block()
        {
            match self.channels.exports.try_send(self.export(Exported::Packets(block))) {
                Ok(()) => self.counters.exports.fetch_add(1, Ordering::Relaxed),
                Err(TrySendError::Full(Export { body: Exported::Packets(block), .. })) => {
                    self.engine.put_back(block);
                    break;
                }
                Err(_) => return Err(SpoolGone),
            };
        }
        self.counters.publish(&self.engine.stats());
        Ok(())
    }

    fn take_back(&mut self) {
        while let Ok(block) = self.channels.returned.try_recv() {
            self.engine.recycle(block);
        }
    }

    fn export(&self, body: Exported) -> Export {
        let Identity { worker, interface, epoch } = &self.identity;
        Export { worker: *worker, interface: Arc::clone(interface), epoch: *epoch, body }
    }

    /// Whether fewer hand-overs of this worker wait than may.
    fn has_room(&self) -> bool {
        let written = self.channels.written.load(Ordering::Relaxed);
        self.counters.exports.load(Ordering::Relaxed).saturating_sub(written) < self.channels.unwritten_max
    }

    /// Waits for room.
    fn send(&mut self, body: Exported, stop: &AtomicBool) -> Result<(), SpoolGone> {
        let mut export = self.export(body);
        let mut tries_at_stop = 0;
        loop {
            let sent = match self.has_room() {
                true => self.channels.exports.try_send(export),
                false => Err(TrySendError::Full(export)),
            };
            export = match sent {
                Ok(()) => {
                    self.counters.exports.fetch_add(1, Ordering::Relaxed);
                    return Ok(());
                }
                Err(TrySendError::Full(export)) => export,
                Err(TrySendError::Disconnected(_)) => return Err(SpoolGone),
            };
            if stop.load(Ordering::Relaxed) {
                tries_at_stop += 1;
                if tries_at_stop > FULL_QUEUE_TRIES_AT_STOP {
                    match export.body {
                        Exported::Flows(records) => {
                            self.counters.records_lost.fetch_add(records.len() as u64, Ordering::Relaxed)
                        }
                        Exported::Packets(block) => {
                            self.counters.packets_lost.fetch_add(u64::from(block.packets), Ordering::Relaxed)
                        }
                        // No worker makes any.
                        Exported::Alerts(_) => 0,
                    };
                    return Ok(());
                }
            }
            self.counters.queue_waits.fetch_add(1, Ordering::Relaxed);
            std::thread::sleep(FULL_QUEUE_WAIT);
            self.take_back();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::convert::Infallible;
    use std::sync::mpsc::{self, sync_channel};

    use gnomon_capture::{Frame, Stamp};
    use gnomon_clock::{KernelClock, RawNs};
    use gnomon_flow::FlowRecord;

    use super::*;
    use crate::decode::example;
    use crate::engine::EngineConfig;
    use crate::rules::current::CurrentRules;
    use crate::slicer::SlicerConfig;

    #[derive(Default)]
    struct Spool {
        finals: BTreeMap<(EpochId, u64), FlowRecord>,
        packets: u64,
        block_packets: u64,
        sliced_packets: u64,
    }

    impl Spool {
        fn take(&mut self, export: Export) -> Option<PacketBlock> {
            match export.body {
                Exported::Flows(records) => {
                    for record in records.into_iter().filter(|record| record.end.is_some()) {
                        self.packets += record.packets();
                        self.sliced_packets += record.sliced_packets;
                        assert!(self.finals.insert((export.epoch, record.id.0), record).is_none());
                    }
                    None
                }
                Exported::Packets(block) => {
                    self.block_packets += u64::from(block.packets);
                    Some(block)
                }
                Exported::Alerts(_) => None,
            }
        }
    }

    fn feed(engine: &mut Engine, clock: &KernelClock, ports: std::ops::Range<u16>) -> usize {
        for port in ports.clone() {
            let data = example::ipv4(17, [1; 4], [2; 4], &example::udp((port, 9), b"payload"));
            let stamp = Stamp { raw: clock.raw(), err_ns: 0 };
            engine.on_frame(&Frame { stamp, ..example::frame(&data) });
        }
        ports.len()
    }

    fn epoch(opened: u64) -> EpochId {
        EpochId { opened: RawNs(opened), ..EpochId::default() }
    }

    #[test]
    fn everything_is_handed_over_through_a_slow_spool_and_slices_never_wait() {
        let slicer = SlicerConfig { block_bytes_max: 2000, blocks_max: 2, ..SlicerConfig::default() };
        let engine = Engine::new(1, EngineConfig { slicer, ..EngineConfig::default() });
        let (exports, queue) = sync_channel(3);
        let (give_back, returned) = mpsc::channel();
        let (new_epoch, epochs) = mpsc::channel();
        let identity = Identity { worker: 1, interface: "eth0".into(), epoch: epoch(1) };
        let counters = Arc::new(WorkerCounters::default());
        let worker = Worker::new(
            engine,
            identity,
            Channels {
                exports,
                unwritten_max: u64::MAX,
                written: Arc::default(),
                returned,
                epochs,
                rules: CurrentRules::default().follow(),
            },
            Arc::clone(&counters),
        );
        let stop = AtomicBool::new(false);
        let clock = KernelClock;
        let spool = std::thread::scope(|scope| {
            let spool = scope.spawn(move || {
                let mut spool = Spool::default();
                for export in queue {
                    std::thread::sleep(Duration::from_micros(500));
                    if let Some(block) = spool.take(export) {
                        let _ = give_back.send(block);
                    }
                }
                spool
            });
            let mut batch = 0;
            let ended = worker.run(&clock, &stop, |engine| {
                batch += 1;
                if batch == 20 {
                    new_epoch.send(epoch(2)).unwrap();
                }
                // What waits in the ring by then is taken all the same.
                stop.store(batch >= 39, Ordering::Relaxed);
                Ok::<_, Infallible>(if batch <= 40 { feed(engine, &clock, 0..200) } else { 0 })
            });
            assert!(ended.is_ok());
            spool.join().unwrap()
        });
        let counted = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        assert_eq!((spool.packets, counted(&counters.packets)), (8000, 8000));
        // 200 flows in each of two epochs.
        assert_eq!(spool.finals.len(), 400);
        assert_eq!(spool.block_packets, counted(&counters.packets_kept));
        assert_eq!(spool.sliced_packets, spool.block_packets);
        assert_eq!(counted(&counters.packets_kept) + counted(&counters.packets_queue_full), 8000);
        assert!(counted(&counters.packets_queue_full) > 0, "two buffers cannot have sufficed");
        assert_eq!((counted(&counters.records_lost), counted(&counters.flows_active)), (0, 0));
    }

    #[test]
    fn a_source_that_fails_loses_nothing_it_gave() {
        let (exports, queue) = sync_channel(100);
        let (_give_back, returned) = mpsc::channel();
        let (_new_epoch, epochs) = mpsc::channel();
        let identity = Identity { worker: 0, interface: "eth0".into(), epoch: epoch(1) };
        let worker = Worker::new(
            Engine::new(0, EngineConfig::default()),
            identity,
            Channels {
                exports,
                unwritten_max: u64::MAX,
                written: Arc::default(),
                returned,
                epochs,
                rules: CurrentRules::default().follow(),
            },
            Arc::default(),
        );
        let clock = KernelClock;
        let ended = worker.run(&clock, &AtomicBool::new(false), |engine| {
            feed(engine, &clock, 0..5);
            Err("interface is gone")
        });
        assert!(matches!(ended, Err(WorkerError::Source("interface is gone"))));
        let mut spool = Spool::default();
        for export in queue {
            spool.take(export);
        }
        assert_eq!((spool.packets, spool.block_packets), (5, 5));
    }

    #[test]
    fn a_spool_that_is_gone_ends_the_worker() {
        let (exports, queue) = sync_channel(100);
        drop(queue);
        let (_give_back, returned) = mpsc::channel();
        let (_new_epoch, epochs) = mpsc::channel();
        let identity = Identity { worker: 0, interface: "eth0".into(), epoch: epoch(1) };
        let worker = Worker::new(
            Engine::new(0, EngineConfig::default()),
            identity,
            Channels {
                exports,
                unwritten_max: u64::MAX,
                written: Arc::default(),
                returned,
                epochs,
                rules: CurrentRules::default().follow(),
            },
            Arc::default(),
        );
        let clock = KernelClock;
        let ended =
            worker.run(&clock, &AtomicBool::new(true), |engine| Ok::<_, ()>(feed(engine, &clock, 0..5)));
        assert!(matches!(ended, Err(WorkerError::SpoolGone)));
    }
}
