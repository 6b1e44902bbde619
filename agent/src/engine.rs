//! Decode → table → slicer: everything that happens to a frame in the worker, without any I/O.

use arrayvec::ArrayVec;
use gnomon_capture::{FRAMES_AT_ONCE, Frame, memory};
use gnomon_clock::RawNs;
use gnomon_flow::{DecodeProblem, FlowRecord};

use crate::decode::{Packet, decode};
use crate::export::PacketBlock;
use crate::rules::SlicePolicy;
use crate::slicer::{Slicer, SlicerConfig, SlicerStats};
use crate::table::{Sought, Table, TableConfig, TableStats};

#[derive(Clone, Debug, Default)]
pub struct EngineConfig {
    pub table: TableConfig,
    pub slicer: SlicerConfig,
    pub policy: SlicePolicy,
}

/// Cumulative. `packets` is what the records will add up to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EngineStats {
    pub packets: u64,
    /// On the wire.
    pub bytes: u64,
    /// Packets that were not decoded to the end, in the order of [`DecodeProblem::ALL`].
    pub problems: [u64; DecodeProblem::ALL.len()],
    pub table: TableStats,
    pub slicer: SlicerStats,
}

/// Where the headers of nearly all frames end; the shortest on Ethernet.
const HEADER_BYTES: usize = 60;

/// Frames in, records and blocks out. Whoever drives it takes both away after each batch.
#[derive(Debug)]
pub struct Engine {
    table: Table,
    slicer: Slicer,
    policy: SlicePolicy,
    records: Vec<FlowRecord>,
    packets: u64,
    bytes: u64,
    problems: [u64; DecodeProblem::ALL.len()],
}

impl Engine {
    pub fn new(worker: u8, config: EngineConfig) -> Engine {
        Engine {
            table: Table::new(worker, config.table),
            slicer: Slicer::new(config.slicer),
            policy: config.policy,
            records: Vec::new(),
            packets: 0,
            bytes: 0,
            problems: [0; DecodeProblem::ALL.len()],
        }
    }

    /// The per-packet path, for at most [`FRAMES_AT_ONCE`] frames. With more flows than the caches hold, most of a packet's
    /// cost is waiting for its flow's memory: three passes, so that the frames wait together and not one after the other.
    #[inline]
    pub fn on_frames(&mut self, frames: &[Frame<'_>]) {
        for frames in frames.chunks(FRAMES_AT_ONCE) {
            for frame in frames {
                if let Some(headers) = frame.data.first_chunk::<HEADER_BYTES>() {
                    memory::prefetch(headers);
                }
            }
            let mut packets = ArrayVec::<(Packet<'_>, Sought), FRAMES_AT_ONCE>::new();
            for frame in frames {
                let packet = decode(frame);
                let sought = self.table.seek(&packet);
                packets.push((packet, sought));
            }
            for (_, sought) in &packets {
                self.table.approach(sought);
            }
            for (frame, (packet, sought)) in frames.iter().zip(&packets) {
                self.on_packet(frame, packet, sought);
            }
        }
    }

    #[inline]
    pub fn on_frame(&mut self, frame: &Frame<'_>) {
        self.on_frames(std::slice::from_ref(frame));
    }

    #[inline]
    fn on_packet(&mut self, frame: &Frame<'_>, packet: &Packet<'_>, sought: &Sought) {
        let seen = self.table.observe(packet, sought, frame.stamp, &mut self.records);
        if seen.is_new {
            self.table.slice_mut(seen).keep = self.policy.decide(&self.table.key(seen));
        }
        self.slicer.append(frame, packet, seen, self.table.slice_mut(seen));
        self.packets += 1;
        self.bytes += u64::from(packet.wire_len);
        if let Some(problem) = packet.problem {
            self.problems[problem as usize] += 1;
        }
    }

    /// A batch is over and it is `now`, by the clock of the stamps. Whether more timers are due than were dealt with.
    pub fn end_batch(&mut self, now: RawNs) -> bool {
        self.slicer.close_due(now);
        self.table.tick(now, &mut self.records)
    }

    /// End everything, in steps between which records and blocks must be taken away. Whether there is more.
    pub fn finish_some(&mut self, now: RawNs) -> bool {
        self.slicer.close();
        self.table.close_some(now, &mut self.records)
    }

    /// Records made since the last call; never an empty list.
    pub fn take_records(&mut self) -> Option<Vec<FlowRecord>> {
        (!self.records.is_empty()).then(|| std::mem::take(&mut self.records))
    }

    /// The oldest block that is closed.
    pub fn take_block(&mut self) -> Option<PacketBlock> {
        self.slicer.take()
    }

    /// A block that nobody could take now.
    pub fn put_back(&mut self, block: PacketBlock) {
        self.slicer.put_back(block);
    }

    /// A block whose buffer can be used again.
    pub fn recycle(&mut self, block: PacketBlock) {
        self.slicer.recycle(block);
    }

    pub fn stats(&self) -> EngineStats {
        EngineStats {
            packets: self.packets,
            bytes: self.bytes,
            problems: self.problems,
            table: self.table.stats(),
            slicer: self.slicer.stats(),
        }
    }
}
