//! Decode → table → slicer: everything that happens to a frame in the worker, without any I/O.

use std::sync::Arc;

use arrayvec::ArrayVec;
use gnomon_capture::{FRAMES_AT_ONCE, Frame, memory};
use gnomon_clock::RawNs;
use gnomon_flow::{DecodeProblem, FlowRecord, Origin, OwnStreams};

use crate::decode::{Fragment, Packet, decode};
use crate::export::PacketBlock;
use crate::fragments::{FragmentStats, Fragments, HeldFrame, Verdict};
use crate::rules::Rules;
use crate::rules::judge::Judge;
use crate::slicer::{Slicer, SlicerConfig, SlicerStats};
use crate::table::{Seen, Sought, Table, TableConfig, TableStats};

#[derive(Clone, Debug, Default)]
pub struct EngineConfig {
    pub table: TableConfig,
    pub slicer: SlicerConfig,
    pub rules: Arc<Rules>,
    /// Whose flows these are, where rules ask for it.
    pub origin: Origin,
    /// Flows that were numbered before by a worker of the same number.
    pub flows_before: u64,
}

/// Cumulative. `packets` is what the records will add up to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EngineStats {
    pub packets: u64,
    /// On the wire.
    pub bytes: u64,
    /// Packets of flows that a rule ignores, in no record, and their bytes.
    pub packets_ignored: u64,
    pub bytes_ignored: u64,
    /// Packets that were not decoded to the end, in the order of [`DecodeProblem::ALL`].
    pub problems: [u64; DecodeProblem::ALL.len()],
    pub table: TableStats,
    pub slicer: SlicerStats,
    pub fragments: FragmentStats,
}

/// How often it is looked at whether buffers are in use.
const LOOK_NS: u64 = 5_000_000_000;
/// A quiet worker closes a block each 150 ms at the most.
const BLOCKS_WHEN_QUIET_MAX: u64 = 40;

/// Where the headers of nearly all frames end; the shortest on Ethernet.
const HEADER_BYTES: usize = 60;

/// Frames in, records and blocks out. Whoever drives it takes both away after each batch.
#[derive(Debug)]
pub struct Engine {
    table: Table,
    fragments: Fragments,
    slicer: Slicer,
    records: Vec<FlowRecord>,
    packets: u64,
    bytes: u64,
    packets_ignored: u64,
    bytes_ignored: u64,
    problems: [u64; DecodeProblem::ALL.len()],
    looked_at: RawNs,
    blocks_at_look: u64,
    was_busy: bool,
}

impl Engine {
    pub fn new(worker: u8, config: EngineConfig) -> Engine {
        Engine {
            table: Table::new(worker, config.table, Judge::new(config.rules, config.origin))
                .numbering_after(config.flows_before),
            fragments: Fragments::default(),
            slicer: Slicer::new(config.slicer),
            records: Vec::new(),
            packets: 0,
            bytes: 0,
            packets_ignored: 0,
            bytes_ignored: 0,
            problems: [0; DecodeProblem::ALL.len()],
            looked_at: RawNs(0),
            blocks_at_look: 0,
            was_busy: false,
        }
    }

    /// From now on these rules hold, for the flows that there are too.
    pub fn replace_rules(&mut self, rules: Arc<Rules>) {
        self.table.replace_rules(rules);
    }

    /// From now on these streams are gnomon's own, of the flows that there are too.
    pub fn replace_own_streams(&mut self, own_streams: Arc<OwnStreams>) {
        self.table.replace_own_streams(own_streams);
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
                if packet.fragment == Fragment::Whole {
                    self.on_packet(frame, packet, sought);
                } else {
                    self.on_fragment(frame, *packet);
                }
            }
        }
    }

    #[inline]
    pub fn on_frame(&mut self, frame: &Frame<'_>) {
        self.on_frames(std::slice::from_ref(frame));
    }

    #[inline(always)]
    fn on_packet(&mut self, frame: &Frame<'_>, packet: &Packet<'_>, sought: &Sought) -> Seen {
        let seen = self.table.observe(packet, sought, frame, &mut self.records);
        if seen.is_ignored {
            self.packets_ignored += 1;
            self.bytes_ignored += u64::from(packet.wire_len);
            return seen;
        }
        self.slicer.append(frame, packet, seen, self.table.slice_mut(seen));
        self.packets += 1;
        self.bytes += u64::from(packet.wire_len);
        if let Some(problem) = packet.problem {
            self.problems[problem as usize] += 1;
        }
        seen
    }

    #[cold]
    #[inline(never)]
    fn on_fragment(&mut self, frame: &Frame<'_>, mut packet: Packet<'_>) {
        let mut released = Vec::new();
        if let Verdict::Count = self.fragments.take(frame, &mut packet, &mut released) {
            self.count_fragment(frame, &packet);
        }
        self.count_released(&released);
    }

    /// Fragments that waited, for their datagram or in vain.
    #[cold]
    #[inline(never)]
    fn count_released(&mut self, released: &[HeldFrame]) {
        for held in released {
            let frame = held.frame();
            let mut packet = decode(&frame);
            self.fragments.join(&frame, &mut packet);
            self.count_fragment(&frame, &packet);
        }
    }

    #[cold]
    #[inline(never)]
    fn count_fragment(&mut self, frame: &Frame<'_>, packet: &Packet<'_>) {
        let sought = self.table.seek(packet);
        let seen = self.on_packet(frame, packet, &sought);
        if let Some(whole) = self.fragments.whole(frame) {
            let datagram = Packet {
                payload: &whole,
                payload_len: u32::try_from(whole.len()).unwrap_or(u32::MAX),
                fragment: Fragment::Whole,
                ..*packet
            };
            self.table.inspect_datagram(&datagram, seen);
        }
    }

    /// A batch is over and it is `now`, by the clock of the stamps. Whether more timers are due than were dealt with.
    pub fn end_batch(&mut self, now: RawNs) -> bool {
        if !self.fragments.is_empty() {
            let mut released = Vec::new();
            self.fragments.expire(now, &mut released);
            self.count_released(&released);
        }
        self.slicer.close_due(now);
        if now.since(self.looked_at) >= LOOK_NS {
            self.look(now);
        }
        self.table.tick(now, &mut self.records)
    }

    /// After a time of much, a time of little: buffers are given back.
    #[cold]
    #[inline(never)]
    fn look(&mut self, now: RawNs) {
        let blocks = self.slicer.stats().blocks;
        let is_busy = blocks - self.blocks_at_look > BLOCKS_WHEN_QUIET_MAX;
        if self.was_busy && !is_busy {
            self.slicer.give_back();
        }
        (self.looked_at, self.blocks_at_look, self.was_busy) = (now, blocks, is_busy);
    }

    /// End everything, in steps between which records and blocks must be taken away. Whether there is more.
    pub fn finish_some(&mut self, now: RawNs) -> bool {
        let mut released = Vec::new();
        self.fragments.release_all(&mut released);
        self.count_released(&released);
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
            packets_ignored: self.packets_ignored,
            bytes_ignored: self.bytes_ignored,
            problems: self.problems,
            table: self.table.stats(),
            slicer: self.slicer.stats(),
            fragments: self.fragments.stats(),
        }
    }
}

#[cfg(test)]
mod tests {
    use gnomon_capture::Stamp;
    use gnomon_flow::field;

    use super::*;
    use crate::decode::example;
    use crate::rules::Keep;

    const MS: u64 = 1_000_000;

    fn engine() -> Engine {
        Engine::new(
            0,
            EngineConfig {
                table: TableConfig { interim: None, flows_max: 256, ..TableConfig::default() },
                rules: Arc::new(Rules::keep(Keep::Headers)),
                ..EngineConfig::default()
            },
        )
    }

    fn finish(mut engine: Engine) -> Vec<FlowRecord> {
        while engine.finish_some(RawNs(0)) {}
        let mut records = engine.take_records().unwrap_or_default();
        assert_eq!(records.iter().map(FlowRecord::packets).sum::<u64>(), engine.stats().packets);
        records.sort_by_key(|record| record.id);
        records
    }

    /// An IPv4 packet with its data in fragments of so many bytes.
    fn fragments_v4(packet: &[u8], id: u16, bytes: usize) -> Vec<Vec<u8>> {
        let (header, data) = (&packet[..34], &packet[34..]);
        let last = (data.len() - 1) / bytes;
        data.chunks(bytes)
            .enumerate()
            .map(|(n, chunk)| {
                let mut fragment = [header, chunk].concat();
                let offset = (n * bytes / 8) as u16 | if n < last { 0x2000 } else { 0 };
                fragment[16..18].copy_from_slice(&(20 + chunk.len() as u16).to_be_bytes());
                fragment[18..20].copy_from_slice(&id.to_be_bytes());
                fragment[20..22].copy_from_slice(&offset.to_be_bytes());
                fragment
            })
            .collect()
    }

    fn feed<'a>(engine: &mut Engine, frames: impl IntoIterator<Item = &'a Vec<u8>>) {
        for (n, data) in frames.into_iter().enumerate() {
            let stamp = Stamp { raw: RawNs((n as u64 + 1) * MS), err_ns: 0 };
            engine.on_frame(&Frame { stamp, ..example::frame(data) });
        }
    }

    fn question() -> Vec<u8> {
        let mut question = vec![0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        question.extend_from_slice(b"\x03www\x07example\0\0\x01\0\x01");
        question
    }

    #[test]
    fn fragments_in_any_order_are_one_flow_whose_datagram_is_inspected() {
        let whole = example::udp_v4(&question());
        for (order, held) in [([0, 1, 2], 0), ([2, 1, 0], 2), ([1, 0, 2], 1), ([2, 0, 1], 1)] {
            let fragments = fragments_v4(&whole, 9, 16);
            let mut engine = engine();
            feed(&mut engine, order.map(|n| &fragments[n]));
            assert_eq!(engine.stats().fragments, FragmentStats { held, assembled: 1, ..Default::default() });
            let records = finish(engine);
            let [record] = &records[..] else { panic!("{order:?}: {records:?}") };
            assert_eq!((record.key.orig_port, record.key.resp_port), (5353, 53));
            assert_eq!((record.orig.packets, record.orig.fragments), (3, 3));
            assert_eq!(record.orig.data_bytes, question().len() as u64);
            assert_eq!((record.first, record.last), (RawNs(MS), RawNs(3 * MS)));
            assert_eq!(record.attributes.of(field::DNS_HOST).count(), 1);
            assert_eq!(record.sliced_packets, 3);
        }
    }

    #[test]
    fn a_fragment_waits_for_the_first_one_for_a_second_and_is_visible_then() {
        let fragments = fragments_v4(&example::udp_v4(&question()), 9, 16);
        let mut engine = engine();
        feed(&mut engine, &fragments[1..]);
        assert!(!engine.end_batch(RawNs(500 * MS)));
        assert_eq!(engine.stats().packets, 0);
        assert!(!engine.end_batch(RawNs(1001 * MS)));
        assert_eq!((engine.stats().packets, engine.stats().fragments.orphaned), (2, 2));
        // Then it is too late to change their flow, and the first one has its own.
        engine.on_frame(&example::frame(&fragments[0]));
        let records = finish(engine);
        let shape: Vec<_> = records.iter().map(|r| (r.key.orig_port, r.orig.packets)).collect();
        assert_eq!(shape, [(0, 2), (5353, 1)]);
    }

    #[test]
    fn overlapping_fragments_are_counted_and_not_inspected() {
        let mut fragments = fragments_v4(&example::udp_v4(&question()), 9, 16);
        // The second one begins where the first one does.
        let mut again = fragments[1].clone();
        again[20..22].copy_from_slice(&[0x20, 1]);
        fragments.insert(1, again);
        let mut engine = engine();
        feed(&mut engine, &fragments);
        assert_eq!(engine.stats().fragments.overlapping, 1);
        let records = finish(engine);
        assert_eq!((records.len(), records[0].orig.packets), (1, 4));
        assert!(records[0].attributes.is_empty());
    }

    #[test]
    fn a_fragmented_segment_goes_into_its_stream_and_a_fragmented_tunnel_to_the_inner_flow() {
        let request = b"GET / HTTP/1.1\r\nHost: www.example\r\nAccept: everything there is\r\n\r\n";
        let (orig, resp) = (example::ORIG_V4, example::RESP_V4);
        let plain = example::ipv4(6, orig, resp, &example::tcp((40_000, 80), 100, 0, 0x18, request));
        let gre = example::ipv4(47, [7; 4], [8; 4], &[&[0, 0, 8, 0], &plain[14..]].concat());
        for (packet, bytes) in [(&plain, 32), (&gre, 56)] {
            let mut engine = engine();
            feed(&mut engine, &fragments_v4(packet, 3, bytes));
            let records = finish(engine);
            let [record] = &records[..] else { panic!("{records:?}") };
            assert_eq!((record.key.orig_port, record.key.protocol, record.problem), (40_000, 6, None));
            assert_eq!(record.orig.data_bytes, request.len() as u64);
            assert_eq!(record.attributes.of(field::HTTP_HOST).count(), 1);
            assert_eq!(record.tcp.map(|tcp| (tcp.flags[3], tcp.retransmissions)), Some((1, 0)));
        }
    }

    #[test]
    fn ipv6_fragments_join_and_those_of_other_datagrams_do_not() {
        let plain = example::udp_v6();
        let data = &plain[54..];
        let fragment = |id: u8, at: usize, end: usize| {
            let offset = (at as u16 | u16::from(end < data.len())).to_be_bytes();
            let mut packet =
                example::extended_v6(&plain, &[(44, &[0, 0, offset[0], offset[1], 0, 0, 0, id])]);
            packet.truncate(54 + 8);
            packet.extend_from_slice(&data[at..end]);
            let length = (8 + end - at) as u16;
            packet[18..20].copy_from_slice(&length.to_be_bytes());
            packet
        };
        let mut engine = engine();
        feed(&mut engine, &[fragment(1, 8, 11), fragment(1, 0, 8), fragment(2, 8, 11)]);
        let records = finish(engine);
        let shape: Vec<_> = records.iter().map(|r| (r.key.orig_port, r.orig.packets)).collect();
        assert_eq!(shape, [(5353, 2), (0, 1)]);
        assert_eq!(records[0].orig.data_bytes, 3);
    }

    #[test]
    fn a_flood_of_fragments_stays_in_bounds_and_loses_no_packet() {
        let whole = example::udp_v4(&[7; 1400]);
        let mut engine = engine();
        let mut sent = 0;
        for id in 0..20_000u16 {
            let fragments = fragments_v4(&whole, id, 1000);
            let which = usize::from(id % 3 != 0);
            let stamp = Stamp { raw: RawNs(u64::from(id) * 1000), err_ns: 0 };
            engine.on_frame(&Frame { stamp, ..example::frame(&fragments[which]) });
            sent += 1;
            assert!(engine.fragments.is_within_bounds());
        }
        while engine.finish_some(RawNs(0)) {}
        assert_eq!(engine.stats().packets, sent);
        assert!(engine.fragments.is_empty() && engine.fragments.is_within_bounds());
    }
}
