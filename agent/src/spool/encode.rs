//! From what a worker hands over to the payload of an entry, as the wire carries it.

use std::io;

use gnomon_flow::FlowRecord;
use gnomon_proto::{Message, v1};

use super::segment::{Lane, PAYLOAD_BYTES_MAX};
use crate::export::{Exported, PacketBlock};

/// Uncompressed bytes of records in one entry; beyond it a batch is cut in two.
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

pub(super) struct Encoder {
    zstd: zstd::bulk::Compressor<'static>,
    hurried: zstd::bulk::Compressor<'static>,
    plain: Vec<u8>,
}

impl Encoder {
    /// `level` as zstd has it: negative ones are faster and compress less.
    pub(super) fn new(level: i32) -> io::Result<Encoder> {
        Ok(Encoder {
            zstd: zstd::bulk::Compressor::new(level)?,
            hurried: zstd::bulk::Compressor::new(level.min(HURRY_LEVEL))?,
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
            Exported::Flows(records) => {
                let batch = v1::FlowBatch {
                    interface: interface.to_owned(),
                    records: records.iter().map(v1::FlowRecord::from).collect(),
                };
                self.flows(batch, sink)
            }
            Exported::Packets(block) => {
                let payload = self.packets(interface, block)?;
                sink(payload);
                Ok(())
            }
        }
    }

    fn flows(&mut self, mut batch: v1::FlowBatch, sink: &mut impl FnMut(Payload)) -> io::Result<()> {
        if batch.encoded_len() > BATCH_BYTES_MAX && batch.records.len() > 1 {
            let rest = batch.records.split_off(batch.records.len() / 2);
            let second = v1::FlowBatch { interface: batch.interface.clone(), records: rest };
            self.flows(batch, sink)?;
            return self.flows(second, sink);
        }
        self.plain.clear();
        batch.encode(&mut self.plain).map_err(io::Error::other)?;
        let items = u32::try_from(batch.records.len()).unwrap_or(u32::MAX);
        let bytes = self.zstd.compress(&self.plain)?;
        sink(Payload { lane: Lane::Flows, items, bytes });
        Ok(())
    }

    fn packets(&mut self, interface: &str, block: &PacketBlock) -> io::Result<Payload> {
        let zstd = if block.hurry { &mut self.hurried } else { &mut self.zstd };
        let slices = v1::SliceBlock {
            interface: interface.to_owned(),
            packets: block.packets,
            first_raw_ns: block.first.0,
            last_raw_ns: block.last.0,
            block_bytes: u32::try_from(block.bytes.len()).map_err(io::Error::other)?,
            flows: block.flows.iter().map(|flow| flow.0).collect(),
            block: zstd.compress(&block.bytes)?.into(),
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
    let count = |records: &[FlowRecord]| u32::try_from(records.len()).unwrap_or(u32::MAX);
    match body {
        Exported::Flows(records) => (Lane::Flows, count(records)),
        Exported::Packets(block) => (Lane::Slices, block.packets),
    }
}
