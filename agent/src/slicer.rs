//! Packets into blocks: as much of each as its flow's rule keeps.
//!
//! Constraints: no allocation for a packet; a fixed number of buffers; never waits. Buffers travel to the spool and come
//! back by [`Slicer::recycle`]. When none is left, the spool is behind: packets are not kept and counted. What was once
//! put into a block is handed over for certain, so what a record says about its slices holds.

use std::collections::VecDeque;

use gnomon_capture::{Frame, LinkType, VlanTag, memory};
use gnomon_clock::RawNs;
use gnomon_flow::slice::{PACKET_HEADER_BYTES, SlicedPacket};

use crate::decode::Packet;
use crate::export::PacketBlock;
use crate::rules::Keep;
use crate::table::{FlowSlice, Seen};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlicerConfig {
    /// A block is closed before it grows beyond this (a larger packet is a block by itself).
    pub block_bytes_max: usize,
    /// A block is closed this long after its first packet. With compression, spool and wire to come, 200 ms would be
    /// too long for a packet to be found within half a second.
    pub block_age_max_ns: u64,
    /// Buffers, being filled or on their way: what is kept while the spool's thread does not run. Only those in use take
    /// memory. Fewer than the hand-over queue is long, so that blocks leave room for flows.
    pub blocks_max: usize,
}

impl Default for SlicerConfig {
    fn default() -> SlicerConfig {
        SlicerConfig { block_bytes_max: 256 << 10, block_age_max_ns: 150_000_000, blocks_max: 64 }
    }
}

/// Cumulative.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SlicerStats {
    pub packets_kept: u64,
    pub bytes_kept: u64,
    /// Packets not kept because every buffer was waiting for the spool (`slice_queue_full`).
    pub packets_queue_full: u64,
    pub blocks: u64,
}

#[derive(Debug)]
pub struct Slicer {
    config: SlicerConfig,
    open: Option<PacketBlock>,
    /// Of the open block, from 1.
    number: u32,
    ready: VecDeque<PacketBlock>,
    free: Vec<PacketBlock>,
    stats: SlicerStats,
}

/// Buffers that keep their memory when few are used.
const BLOCKS_KEPT_WARM: usize = 4;

/// The two addresses before a tag.
const TAG_AT: usize = 12;
const TAG_BYTES: usize = VlanTag::BYTES as usize;

impl Slicer {
    pub fn new(config: SlicerConfig) -> Slicer {
        let blocks_max = config.blocks_max.max(1);
        // The smallest frame on Ethernet, sliced to its headers, is larger than its block header.
        let flows_max = config.block_bytes_max / PACKET_HEADER_BYTES;
        let block = || PacketBlock {
            bytes: Vec::with_capacity(config.block_bytes_max),
            flows: Vec::with_capacity(flows_max),
            ..PacketBlock::default()
        };
        Slicer {
            config: SlicerConfig { blocks_max, ..config },
            open: None,
            number: 0,
            ready: VecDeque::with_capacity(blocks_max),
            free: std::iter::repeat_with(block).take(blocks_max).collect(),
            stats: SlicerStats::default(),
        }
    }

    /// Keep what the rule says of a packet that was just counted in its flow.
    #[inline(always)]
    pub fn append(&mut self, frame: &Frame<'_>, packet: &Packet<'_>, seen: Seen, slice: &mut FlowSlice) {
        let tag = frame.vlan.filter(|_| frame.link == LinkType::Ethernet && frame.data.len() >= TAG_AT);
        let tag_len = if tag.is_some() { TAG_BYTES } else { 0 };
        let whole = frame.data.len() + tag_len;
        let kept = match slice.keep {
            Keep::Nothing => return,
            Keep::All => whole,
            Keep::Headers => (packet.header_len as usize + tag_len).min(whole),
            Keep::OfPacket(bytes) => whole.min(bytes as usize),
            Keep::OfFlow(bytes) => {
                let left = bytes.saturating_sub(slice.kept_bytes);
                if left == 0 {
                    return;
                }
                whole.min(left as usize)
            }
            Keep::Packets(packets) if slice.kept_packets >= packets => return,
            Keep::Packets(_) => whole,
        };
        // A tag of which a part only is kept is not put back.
        let tag = tag.filter(|_| kept >= TAG_AT + TAG_BYTES);
        let kept = if tag_len > 0 && tag.is_none() { kept.min(TAG_AT) } else { kept };
        let Some(block) = self.block_for(kept) else {
            self.stats.packets_queue_full += 1;
            return;
        };
        let inserted = tag.map(|tag| (u32::from(tag.tpid) << 16 | u32::from(tag.tci)).to_be_bytes());
        let inserted = inserted.as_ref().map_or(&[][..], |bytes| &bytes[..]);
        let sliced = SlicedPacket {
            raw: frame.stamp.raw,
            err_ns: frame.stamp.err_ns,
            flow: seen.flow,
            original_len: packet.wire_len,
            linktype: frame.link.linktype(),
            from_responder: seen.from_responder,
            outgoing: frame.outgoing,
            data: &frame.data[..kept - inserted.len()],
        };
        sliced.append_spliced_to(TAG_AT, inserted, &mut block.bytes);
        if block.packets == 0 {
            block.first = frame.stamp.raw;
            block.last = frame.stamp.raw;
        }
        block.packets += 1;
        block.first = block.first.min(frame.stamp.raw);
        block.last = block.last.max(frame.stamp.raw);
        if slice.block != self.number
            && let Some(block) = &mut self.open
        {
            slice.block = self.number;
            block.flows.push(seen.flow);
        }
        slice.kept_bytes = slice.kept_bytes.saturating_add(u32::try_from(kept).unwrap_or(u32::MAX));
        slice.kept_packets = slice.kept_packets.saturating_add(1);
        slice.segment_packets += 1;
        slice.segment_bytes += kept as u64;
        self.stats.packets_kept += 1;
        self.stats.bytes_kept += kept as u64;
    }

    /// The open block with room for a packet, if a buffer is left.
    #[inline]
    fn block_for(&mut self, kept: usize) -> Option<&mut PacketBlock> {
        let wanted = PACKET_HEADER_BYTES + kept;
        if self
            .open
            .as_ref()
            .is_some_and(|open| open.packets > 0 && open.bytes.len() + wanted > self.config.block_bytes_max)
        {
            self.close();
        }
        if self.open.is_none() {
            self.open = Some(self.free.pop()?);
            self.number = self.number.checked_add(1).unwrap_or(1);
        }
        self.open.as_mut()
    }

    /// It is `now`: close the open block if its first packet has waited long enough.
    pub fn close_due(&mut self, now: RawNs) {
        let age_max = self.config.block_age_max_ns;
        if self.open.as_ref().is_some_and(|open| open.packets > 0 && now.since(open.first) >= age_max) {
            self.close();
        }
    }

    /// Close the open block if there is anything in it.
    pub fn close(&mut self) {
        if let Some(mut block) = self.open.take_if(|open| open.packets > 0) {
            block.flows.sort_unstable();
            block.hurry = self.free.len() < self.config.blocks_max / 2;
            self.stats.blocks += 1;
            self.ready.push_back(block);
        }
    }

    /// The oldest closed block.
    pub fn take(&mut self) -> Option<PacketBlock> {
        self.ready.pop_front()
    }

    /// A block that could not be handed over: it comes first again.
    pub fn put_back(&mut self, block: PacketBlock) {
        self.ready.push_front(block);
    }

    /// A buffer whose packets are written.
    pub fn recycle(&mut self, mut block: PacketBlock) {
        block.bytes.clear();
        block.flows.clear();
        block.packets = 0;
        if self.free.len() < self.config.blocks_max {
            self.free.push(block);
        }
    }

    /// Few packets are kept now: the pages of buffers that wait go back to the kernel, but for some.
    pub fn give_back(&mut self) {
        let waiting = self.free.len().saturating_sub(BLOCKS_KEPT_WARM);
        // The last ones are used first.
        for block in &mut self.free[..waiting] {
            memory::give_back(block.bytes.spare_capacity_mut());
            memory::give_back(block.flows.spare_capacity_mut());
        }
    }

    pub fn stats(&self) -> SlicerStats {
        self.stats
    }
}

#[cfg(test)]
mod tests {
    use gnomon_capture::Stamp;
    use gnomon_flow::FlowId;
    use gnomon_flow::slice::packets;

    use super::*;
    use crate::decode::{decode, example};
    use crate::rules::judge::Judge;
    use crate::table::{Table, TableConfig};

    struct Bench {
        table: Table,
        slicer: Slicer,
        keep: Keep,
    }

    fn bench(keep: Keep, config: SlicerConfig) -> Bench {
        let table = Table::new(1, TableConfig { flows_max: 16, ..TableConfig::default() }, Judge::default());
        Bench { table, slicer: Slicer::new(config), keep }
    }

    impl Bench {
        fn feed(&mut self, frame: &Frame<'_>) {
            let packet = decode(frame);
            let sought = self.table.seek(&packet);
            let seen = self.table.observe(&packet, &sought, frame, &mut Vec::new());
            let slice = self.table.slice_mut(seen);
            slice.keep = self.keep;
            self.slicer.append(frame, &packet, seen, slice);
        }

        fn kept(&mut self) -> Vec<(usize, u32)> {
            self.slicer.close();
            let mut kept = Vec::new();
            while let Some(block) = self.slicer.take() {
                kept.extend(
                    packets(&block.bytes).map(|p| p.map(|p| (p.data.len(), p.original_len)).unwrap()),
                );
                self.slicer.recycle(block);
            }
            kept
        }
    }

    #[test]
    fn each_rule_keeps_its_share_and_the_wire_length() {
        let data = example::udp_v4(&[9; 500]);
        let wire = data.len() as u32;
        for (keep, expected) in [
            (Keep::Nothing, vec![]),
            (Keep::Headers, vec![(42, wire); 3]),
            (Keep::OfPacket(100), vec![(100, wire); 3]),
            (Keep::OfPacket(10_000), vec![(542, wire); 3]),
            (Keep::OfFlow(1000), vec![(542, wire), (458, wire)]),
            (Keep::All, vec![(542, wire); 3]),
        ] {
            let mut bench = bench(keep, SlicerConfig::default());
            for _ in 0..3 {
                bench.feed(&example::frame(&data));
            }
            assert_eq!(bench.kept(), expected, "{keep:?}");
        }
    }

    #[test]
    fn the_tag_is_put_back_into_the_bytes() {
        let inner = example::tcp_v4();
        let tag = VlanTag { tpid: 0x8100, tci: 0x6005 };
        let whole = example::tagged(&[(0x8100, 0x6005)], &inner);
        for (keep, len) in [
            (Keep::All, whole.len()),
            (Keep::Headers, 58),
            (Keep::OfPacket(20), 20),
            (Keep::OfPacket(15), 12),
            (Keep::OfPacket(12), 12),
            (Keep::OfPacket(5), 5),
        ] {
            let mut bench = bench(keep, SlicerConfig::default());
            bench.feed(&Frame { vlan: Some(tag), ..example::frame(&inner) });
            bench.slicer.close();
            let block = bench.slicer.take().unwrap();
            let packet = packets(&block.bytes).next().unwrap().unwrap();
            assert_eq!(packet.data, &whole[..len], "{keep:?}");
            assert_eq!(packet.original_len as usize, whole.len());
        }
    }

    #[test]
    fn a_block_is_closed_by_size_and_by_age_and_names_its_flows_once() {
        let config = SlicerConfig { block_bytes_max: 1000, block_age_max_ns: 150, ..SlicerConfig::default() };
        let mut bench = bench(Keep::All, config);
        let (a, b) = (example::tcp_v4(), example::udp_v6());
        let at = |raw| Stamp { raw: RawNs(raw), err_ns: 3 };
        for (raw, data) in [(10, &b), (5, &a), (20, &b)] {
            bench.feed(&Frame { stamp: at(raw), ..example::frame(data) });
        }
        bench.slicer.close_due(RawNs(154));
        assert!(bench.slicer.take().is_none());
        bench.slicer.close_due(RawNs(155));
        let block = bench.slicer.take().unwrap();
        assert_eq!((block.packets, block.first, block.last), (3, RawNs(5), RawNs(20)));
        assert_eq!(block.flows, [FlowId::new(1, 1), FlowId::new(1, 2)]);
        for _ in 0..20 {
            bench.feed(&example::frame(&a));
        }
        let block = bench.slicer.take().unwrap();
        assert!(block.bytes.len() <= 1000 && block.bytes.len() + 32 + a.len() > 1000);
        assert_eq!(block.flows, [FlowId::new(1, 2)]);
        // Larger than a block.
        bench.feed(&example::frame(&example::udp_v4(&[0; 3000])));
        assert_eq!(bench.kept().last(), Some(&(3042, 3042)));
    }

    #[test]
    fn blocks_hurry_once_half_of_the_buffers_are_gone() {
        let data = example::udp_v4(&[0; 500]);
        let config = SlicerConfig { block_bytes_max: 600, blocks_max: 4, ..SlicerConfig::default() };
        let mut bench = bench(Keep::All, config);
        let hurries = |bench: &mut Bench| {
            bench.feed(&example::frame(&data));
            bench.slicer.close();
            let block = bench.slicer.take().unwrap();
            (block.hurry, block)
        };
        let (taken, blocks): (Vec<bool>, Vec<_>) = (0..4).map(|_| hurries(&mut bench)).unzip();
        assert_eq!(taken, [false, false, true, true]);
        blocks.into_iter().for_each(|block| bench.slicer.recycle(block));
        assert!(!hurries(&mut bench).0, "the spool has caught up");
    }

    #[test]
    fn without_a_buffer_packets_are_counted_and_not_kept() {
        let data = example::udp_v4(&[0; 500]);
        let config = SlicerConfig { block_bytes_max: 600, blocks_max: 2, ..SlicerConfig::default() };
        let mut bench = bench(Keep::All, config);
        for _ in 0..5 {
            bench.feed(&example::frame(&data));
        }
        let stats = bench.slicer.stats();
        assert_eq!((stats.packets_kept, stats.packets_queue_full), (2, 3));
        let mut records = Vec::new();
        bench.table.close_some(RawNs(0), &mut records);
        assert_eq!((records[0].sliced_packets, records[0].packets()), (2, 5));
        // Nothing that was kept is lost, and a buffer that comes back is used again.
        assert_eq!(bench.kept().len(), 2);
        bench.feed(&example::frame(&data));
        assert_eq!(bench.kept().len(), 1);
    }
}
