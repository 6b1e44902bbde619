//! From what a worker hands over to the payload of an entry, as the wire carries it.

use std::io;

use gnomon_flow::FlowRecord;
use gnomon_proto::{Message, SliceBlockParts, append_interface, append_record, append_slice_block, v1};
use zstd::zstd_safe::CParameter;

use super::segment::{Lane, PAYLOAD_BYTES_MAX};
use crate::export::{AlertBatch, Exported, PacketBlock};

/// Uncompressed bytes of records in one entry, but for one that is longer by itself: what does not fit begins the next.
const BATCH_BYTES_MAX: usize = 4 * 1024 * 1024;

/// The payload of one entry.
#[derive(Debug)]
pub(super) struct Payload<'a> {
    pub(super) lane: Lane,
    pub(super) items: u32,
    pub(super) bytes: &'a [u8],
}

/// zstd's level for blocks in a hurry: it finds little, and what it finds not costs next to nothing.
const HURRY_LEVEL: i32 = -50;
/// Twice as fast as level 1: it passes by what is not found soon, and lets single bytes be as they are.
const QUICK_LEVEL: i32 = -3;
/// Entries of its hash table: more than the level has by itself, as many as level 1. It takes no longer for it.
const QUICK_HASH_LOG: u32 = 14;

/// A block is dull when zstd's own level leaves more than 7/8 of what the hurried one does: ciphers and what is compressed
/// already, where some headers are all there is to find. There the level costs six times the time for a tenth of the bytes.
const DULL_SHARE: (usize, usize) = (7, 8);
/// A block is plain when the level leaves more than 9/10 of what the quick one does: long repetitions that both find.
/// There the level costs twice the time for less than a tenth of the bytes. Text is not like that: a sixth of it.
const PLAIN_SHARE: (usize, usize) = (9, 10);
/// After a block was tried in all ways so many are taken to be like it.
const TRIED_EVERY: u8 = 31;

/// What is spent on a block of packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Effort {
    #[default]
    Level,
    Quick,
    Hurried,
}

/// Compresses into a buffer of its own.
struct Packer {
    zstd: zstd::bulk::Compressor<'static>,
    packed: Vec<u8>,
}

impl Packer {
    fn new(level: i32) -> io::Result<Packer> {
        Ok(Packer { zstd: zstd::bulk::Compressor::new(level)?, packed: Vec::new() })
    }

    fn pack(&mut self, bytes: &[u8]) -> io::Result<&[u8]> {
        self.packed.clear();
        self.packed.reserve(zstd::zstd_safe::compress_bound(bytes.len()));
        self.zstd.compress_to_buffer(bytes, &mut self.packed)?;
        Ok(&self.packed)
    }
}

pub(super) struct Encoder {
    level: Packer,
    quick: Packer,
    hurried: Packer,
    /// What the last block that was tried was worth, and the blocks of packets still to be taken for like it.
    effort: Effort,
    untried: u8,
    plain: Vec<u8>,
    message: Vec<u8>,
}

impl Encoder {
    /// `level` as zstd has it: negative ones are faster and compress less.
    pub(super) fn new(level: i32) -> io::Result<Encoder> {
        let mut quick = Packer::new(level.min(QUICK_LEVEL))?;
        quick.zstd.set_parameter(CParameter::HashLog(QUICK_HASH_LOG))?;
        Ok(Encoder {
            level: Packer::new(level)?,
            quick,
            hurried: Packer::new(level.min(HURRY_LEVEL))?,
            effort: Effort::Level,
            untried: 0,
            plain: Vec::new(),
            message: Vec::new(),
        })
    }

    /// The payloads of one hand-over, given to `sink` in order.
    pub(super) fn encode(
        &mut self,
        interface: &str,
        body: &Exported,
        sink: &mut impl FnMut(Payload<'_>),
    ) -> io::Result<()> {
        match body {
            Exported::Flows(records) => self.flows(interface, records, sink),
            Exported::Alerts(AlertBatch { alerts, .. }) => {
                let batch = v1::FlowBatch {
                    alerts: alerts.iter().map(v1::Alert::from).collect(),
                    ..v1::FlowBatch::default()
                };
                self.plain.clear();
                batch.encode(&mut self.plain).map_err(io::Error::other)?;
                self.hand_over(self.plain.len(), batch.alerts.len(), sink)
            }
            Exported::Packets(block) => {
                let payload = self.packets(interface, block)?;
                sink(payload);
                Ok(())
            }
        }
    }

    fn flows(
        &mut self,
        interface: &str,
        records: &[FlowRecord],
        sink: &mut impl FnMut(Payload<'_>),
    ) -> io::Result<()> {
        self.plain.clear();
        append_interface(&mut self.plain, interface);
        let begins = self.plain.len();
        let mut items = 0;
        for record in records {
            let ends = self.plain.len();
            append_record(&mut self.plain, record);
            if self.plain.len() > BATCH_BYTES_MAX && items > 0 {
                self.hand_over(ends, items, sink)?;
                self.plain.drain(begins..ends);
                items = 0;
            }
            items += 1;
        }
        if items == 0 {
            return Ok(());
        }
        self.hand_over(self.plain.len(), items, sink)
    }

    /// The first `bytes` of what was encoded.
    fn hand_over(
        &mut self,
        bytes: usize,
        items: usize,
        sink: &mut impl FnMut(Payload<'_>),
    ) -> io::Result<()> {
        let items = u32::try_from(items).unwrap_or(u32::MAX);
        let bytes = self.level.pack(&self.plain[..bytes])?;
        sink(Payload { lane: Lane::Flows, items, bytes });
        Ok(())
    }

    /// zstd's own level is spent where it finds something and where there is time.
    fn compress(&mut self, block: &PacketBlock) -> io::Result<&[u8]> {
        let bytes = &block.bytes;
        let effort = if block.hurry {
            Effort::Hurried
        } else if self.untried > 0 {
            self.untried -= 1;
            self.effort
        } else {
            self.effort = self.try_all(bytes)?;
            self.untried = TRIED_EVERY;
            return Ok(&self.packer(self.effort).packed);
        };
        self.packer(effort).pack(bytes)
    }

    fn try_all(&mut self, bytes: &[u8]) -> io::Result<Effort> {
        let level = self.level.pack(bytes)?.len();
        if level * DULL_SHARE.1 > self.hurried.pack(bytes)?.len() * DULL_SHARE.0 {
            return Ok(Effort::Hurried);
        }
        if level * PLAIN_SHARE.1 > self.quick.pack(bytes)?.len() * PLAIN_SHARE.0 {
            return Ok(Effort::Quick);
        }
        Ok(Effort::Level)
    }

    fn packer(&mut self, effort: Effort) -> &mut Packer {
        match effort {
            Effort::Level => &mut self.level,
            Effort::Quick => &mut self.quick,
            Effort::Hurried => &mut self.hurried,
        }
    }

    fn packets(&mut self, interface: &str, block: &PacketBlock) -> io::Result<Payload<'_>> {
        let mut message = std::mem::take(&mut self.message);
        message.clear();
        let block_bytes = u32::try_from(block.bytes.len()).map_err(io::Error::other)?;
        let compressed = self.compress(block)?;
        let parts = SliceBlockParts {
            interface,
            packets: block.packets,
            first: block.first,
            last: block.last,
            block_bytes,
            flows: &block.flows,
            block: compressed,
        };
        append_slice_block(&mut message, &parts);
        self.message = message;
        let bytes = &self.message;
        if bytes.len() > PAYLOAD_BYTES_MAX {
            let (bytes, packets) = (bytes.len(), block.packets);
            let message = format!(
                "a block of {packets} packets has {bytes} bytes after compression, the limit is {PAYLOAD_BYTES_MAX}"
            );
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
        }
        Ok(Payload { lane: Lane::Slices, items: block.packets, bytes })
    }
}

/// How many records or packets a hand-over holds: what is lost when it cannot be encoded.
pub(super) fn items(body: &Exported) -> (Lane, u32) {
    let count = |items: usize| u32::try_from(items).unwrap_or(u32::MAX);
    match body {
        Exported::Flows(records) => (Lane::Flows, count(records.len())),
        // As little and as much worth as records.
        Exported::Alerts(batch) => (Lane::Flows, count(batch.alerts.len())),
        Exported::Packets(block) => (Lane::Slices, block.packets),
    }
}

#[cfg(test)]
mod tests {
    use gnomon_clock::RawNs;
    use gnomon_flow::FlowId;

    use super::*;

    #[test]
    fn records_that_do_not_fit_begin_the_next_entry() {
        let mut encoder = Encoder::new(1).unwrap();
        let records: Vec<FlowRecord> = (0..60_000u64)
            .map(|n| {
                let mut record = FlowRecord { id: FlowId(n), ..FlowRecord::default() };
                record.attributes.text(gnomon_flow::field::DNS_HOST, &format!("{n:0>200}.example"));
                record
            })
            .collect();
        let mut read = Vec::new();
        let mut entries = 0;
        let mut sink = |payload: Payload<'_>| {
            let plain = zstd::bulk::decompress(payload.bytes, BATCH_BYTES_MAX).unwrap();
            let batch = v1::FlowBatch::decode(&plain[..]).unwrap();
            assert_eq!((batch.interface.as_str(), batch.records.len()), ("eth0", payload.items as usize));
            read.extend(batch.records.iter().map(|record| FlowRecord::try_from(record).unwrap()));
            entries += 1;
        };
        encoder.encode("eth0", &Exported::Flows(records.clone()), &mut sink).unwrap();
        assert_eq!(entries, 4);
        assert!(read == records);
        encoder.encode("eth0", &Exported::Flows(Vec::new()), &mut |_| panic!("of nothing")).unwrap();
    }

    fn block(bytes: Vec<u8>) -> PacketBlock {
        PacketBlock { bytes, ..PacketBlock::default() }
    }

    /// Bytes in which zstd finds nothing.
    fn noise() -> Vec<u8> {
        let mut word = 1u64;
        std::iter::repeat_with(|| {
            word = word.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (word >> 56) as u8
        })
        .take(100_000)
        .collect()
    }

    /// Noise of which parts come again and again: whoever looks for long repetitions finds all there is.
    fn repeated_noise() -> Vec<u8> {
        let noise = noise();
        (0..60).flat_map(|n: usize| noise[n * 7919 % 30_000..][..1400].to_vec()).collect()
    }

    fn text() -> Vec<u8> {
        (0..5000u32)
            .flat_map(|n| format!("GET /{} HTTP/1.1 {} ", n * 7919 % 997, n * 31 % 89).into_bytes())
            .collect()
    }

    #[test]
    fn level_is_spent_where_it_finds_something_and_where_there_is_time() {
        let mut encoder = Encoder::new(3).unwrap();
        let well = encoder.compress(&block(text())).unwrap().to_vec();
        assert_eq!((encoder.effort, encoder.untried), (Effort::Level, TRIED_EVERY));
        let hurried = encoder.compress(&PacketBlock { hurry: true, ..block(text()) }).unwrap().len();
        assert!(well.len() < hurried, "{} and {hurried} bytes", well.len());
        assert_eq!(encoder.untried, TRIED_EVERY, "a hurried block says nothing of others");
        // Noise is noticed, between headers too, and what compresses is again once one was tried.
        let headers = b"the same headers in front of each packet".iter().copied();
        let encrypted: Vec<u8> =
            noise().chunks(400).flat_map(|noise| headers.clone().chain(noise.iter().copied())).collect();
        for (bytes, effort) in
            [(noise(), Effort::Hurried), (encrypted, Effort::Hurried), (repeated_noise(), Effort::Quick)]
        {
            encoder.untried = 0;
            let packed = encoder.compress(&block(bytes.clone())).unwrap();
            assert_eq!(zstd::bulk::decompress(packed, bytes.len()).unwrap(), bytes);
            assert_eq!(encoder.effort, effort);
            for _ in 0..TRIED_EVERY {
                let packed = encoder.compress(&block(text())).unwrap();
                assert_eq!(zstd::bulk::decompress(packed, text().len()).unwrap(), text());
            }
            assert_eq!(encoder.compress(&block(text())).unwrap(), well);
            assert_eq!((encoder.effort, encoder.untried), (Effort::Level, TRIED_EVERY));
        }
    }

    #[test]
    fn packets_are_the_message_that_their_parts_say() {
        let mut encoder = Encoder::new(1).unwrap();
        let block = PacketBlock {
            packets: 3,
            first: RawNs(5),
            last: RawNs(900),
            flows: vec![FlowId(7), FlowId(1 << 60)],
            ..block(text())
        };
        let payload = encoder.packets("eth0", &block).unwrap();
        let message = v1::SliceBlock::decode(payload.bytes).unwrap();
        assert_eq!(
            (payload.lane, payload.items, &message.encode_to_vec()[..]),
            (Lane::Slices, 3, payload.bytes)
        );
        assert_eq!(zstd::bulk::decompress(&message.block, 1 << 20).unwrap(), block.bytes);
        let expected = v1::SliceBlock {
            interface: "eth0".into(),
            packets: 3,
            first_raw_ns: 5,
            last_raw_ns: 900,
            block_bytes: block.bytes.len() as u32,
            flows: vec![7, 1 << 60],
            block: message.block.clone(),
        };
        assert_eq!(message, expected);
    }
}
