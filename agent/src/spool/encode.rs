//! From what a worker hands over to the payload of an entry, as the wire carries it.

use std::io;

use gnomon_flow::FlowRecord;
use gnomon_proto::{Message, append_interface, append_record, v1};

use super::segment::{Lane, PAYLOAD_BYTES_MAX};
use crate::export::{AlertBatch, Exported, PacketBlock};

/// Uncompressed bytes of records in one entry, but for one that is longer by itself: what does not fit begins the next.
const BATCH_BYTES_MAX: usize = 4 * 1024 * 1024;

/// The payload of one entry.
#[derive(Debug)]
pub(super) struct Payload {
    pub(super) lane: Lane,
    pub(super) items: u32,
    pub(super) bytes: Vec<u8>,
}

/// zstd's level for blocks in a hurry: it finds little, and what it finds not costs next to nothing.
const HURRY_LEVEL: i32 = -50;

/// A block is dull when zstd's own level leaves more than 7/8 of what the hurried one does: ciphers and what is compressed
/// already, where some headers are all there is to find. There the level costs six times the time for a tenth of the bytes.
const DULL_SHARE: (usize, usize) = (7, 8);
/// After a block was tried both ways so many are taken to be like it.
const TRIED_EVERY: u8 = 15;

pub(super) struct Encoder {
    zstd: zstd::bulk::Compressor<'static>,
    hurried: zstd::bulk::Compressor<'static>,
    /// Blocks of packets still to be taken for dull.
    dull: u8,
    /// Blocks of packets still to be taken for worth the level.
    untried: u8,
    plain: Vec<u8>,
}

impl Encoder {
    /// `level` as zstd has it: negative ones are faster and compress less.
    pub(super) fn new(level: i32) -> io::Result<Encoder> {
        Ok(Encoder {
            zstd: zstd::bulk::Compressor::new(level)?,
            hurried: zstd::bulk::Compressor::new(level.min(HURRY_LEVEL))?,
            dull: 0,
            untried: 0,
            plain: Vec::new(),
        })
    }

    /// The payloads of one hand-over, given to `sink` in order.
    pub(super) fn encode(
        &mut self,
        interface: &str,
        body: &Exported,
        sink: &mut impl FnMut(Payload),
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
        sink: &mut impl FnMut(Payload),
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
    fn hand_over(&mut self, bytes: usize, items: usize, sink: &mut impl FnMut(Payload)) -> io::Result<()> {
        let items = u32::try_from(items).unwrap_or(u32::MAX);
        let bytes = self.zstd.compress(&self.plain[..bytes])?;
        sink(Payload { lane: Lane::Flows, items, bytes });
        Ok(())
    }

    /// zstd's own level is spent where it finds something and where there is time.
    fn compress(&mut self, block: &PacketBlock) -> io::Result<Vec<u8>> {
        if block.hurry || self.dull > 0 {
            self.dull = self.dull.saturating_sub(1);
            return self.hurried.compress(&block.bytes);
        }
        let compressed = self.zstd.compress(&block.bytes)?;
        if self.untried > 0 {
            self.untried -= 1;
            return Ok(compressed);
        }
        let hurried = self.hurried.compress(&block.bytes)?;
        if compressed.len() * DULL_SHARE.1 > hurried.len() * DULL_SHARE.0 {
            self.dull = TRIED_EVERY;
            return Ok(hurried);
        }
        self.untried = TRIED_EVERY;
        Ok(compressed)
    }

    fn packets(&mut self, interface: &str, block: &PacketBlock) -> io::Result<Payload> {
        let compressed = self.compress(block)?;
        let slices = v1::SliceBlock {
            interface: interface.to_owned(),
            packets: block.packets,
            first_raw_ns: block.first.0,
            last_raw_ns: block.last.0,
            block_bytes: u32::try_from(block.bytes.len()).map_err(io::Error::other)?,
            flows: block.flows.iter().map(|flow| flow.0).collect(),
            block: compressed.into(),
        };
        let bytes = slices.encode_to_vec();
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
        let mut sink = |payload: Payload| {
            let plain = zstd::bulk::decompress(&payload.bytes, BATCH_BYTES_MAX).unwrap();
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

    #[test]
    fn level_is_spent_where_it_finds_something_and_where_there_is_time() {
        let mut encoder = Encoder::new(3).unwrap();
        let text = block(b"GET / HTTP/1.1\r\nHost: shop.example\r\n\r\n 0123456789".repeat(1000));
        let well = encoder.compress(&text).unwrap();
        let hurried = encoder.compress(&PacketBlock { hurry: true, ..block(text.bytes.clone()) }).unwrap();
        assert!(well.len() <= hurried.len(), "{} and {} bytes", well.len(), hurried.len());
        // Noise is noticed, between headers too, and what compresses is again once one was tried.
        let headers = b"the same headers in front of each packet".iter().copied();
        let encrypted: Vec<u8> =
            noise().chunks(400).flat_map(|noise| headers.clone().chain(noise.iter().copied())).collect();
        for dull in [noise(), encrypted] {
            encoder.untried = 0;
            encoder.compress(&block(dull)).unwrap();
            assert_eq!(encoder.dull, TRIED_EVERY);
            for _ in 0..TRIED_EVERY {
                let packed = encoder.compress(&text).unwrap();
                assert_eq!(zstd::bulk::decompress(&packed, text.bytes.len()).unwrap(), text.bytes);
            }
            assert_eq!(encoder.compress(&text).unwrap(), well);
            assert_eq!((encoder.dull, encoder.untried), (0, TRIED_EVERY));
        }
    }
}
