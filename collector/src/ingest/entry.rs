//! What an entry has to be before it is stored. Everything here came over the network.

use bytes::Bytes;
use gnomon_clock::RawNs;
use gnomon_flow::FlowId;
use gnomon_proto::{Message, v1};

use crate::enrich::Enrichment;
use crate::store::{BLOCK_BYTES_MAX, BatchError, Content, RecordBatch, RecordError, Slices};

/// What is wrong with an entry.
#[derive(Debug, thiserror::Error)]
pub enum BadEntry {
    #[error("its checksum is {found:08x}, it should be {wanted:08x}")]
    Checksum { found: u32, wanted: u32 },
    #[error("its kind {0} is unknown")]
    Kind(i32),
    #[error(transparent)]
    Batch(#[from] BatchError),
    #[error(transparent)]
    Record(RecordError),
    #[error("its block claims {0} bytes, the limit is {BLOCK_BYTES_MAX}")]
    BlockBytes(u32),
    #[error("its block is no zstd frame of the {0} bytes it claims")]
    BlockFrame(u32),
    #[error("its block claims {packets} packets of {flows} flows in {bytes} bytes")]
    BlockCounts { packets: u32, flows: usize, bytes: u32 },
    #[error("its block ends before it begins")]
    BlockTime,
}

/// An entry that was looked at: what can be stored of it, and what was wrong.
#[derive(Debug)]
pub struct Checked {
    pub content: Content,
    /// The first thing wrong; the entry is then kept aside as it came.
    pub bad: Option<BadEntry>,
    /// Records left out of `content`.
    pub records_bad: u64,
}

impl Checked {
    fn unreadable(bad: BadEntry) -> Checked {
        Checked { content: Content::Unreadable, bad: Some(bad), records_bad: 0 }
    }
}

/// Look at an entry. Never fails: one that means nothing still moves the ledger, or its agent would send it for ever.
pub(super) fn check(entry: &v1::Entry, enrichment: &Enrichment) -> Checked {
    let found = crc32c::crc32c(&entry.payload);
    if found != entry.crc32c {
        return Checked::unreadable(BadEntry::Checksum { found, wanted: entry.crc32c });
    }
    let checked = match entry.kind() {
        v1::EntryKind::Flows => check_flows(&entry.payload, enrichment),
        v1::EntryKind::Slices => check_slices(entry.payload.clone()),
        v1::EntryKind::Unspecified => Err(BadEntry::Kind(entry.kind)),
    };
    checked.unwrap_or_else(Checked::unreadable)
}

fn check_flows(payload: &Bytes, enrichment: &Enrichment) -> Result<Checked, BadEntry> {
    let RecordBatch { interface, records, alerts, bad, records_bad } =
        RecordBatch::read(payload, enrichment)?;
    let content = Content::Flows { interface: interface.into(), records, alerts, payload: payload.clone() };
    Ok(Checked { content, bad: bad.map(BadEntry::Record), records_bad })
}

fn check_slices(payload: Bytes) -> Result<Checked, BadEntry> {
    let block = v1::SliceBlock::decode(payload).map_err(|e| BatchError::Protobuf(e.to_string()))?;
    if block.block_bytes as usize > BLOCK_BYTES_MAX {
        return Err(BadEntry::BlockBytes(block.block_bytes));
    }
    // Only the frame's header is read: the bytes are checked by whoever decompresses them.
    match zstd::zstd_safe::get_frame_content_size(&block.block) {
        Ok(size) if size.is_none_or(|size| size == u64::from(block.block_bytes)) => {}
        _ => return Err(BadEntry::BlockFrame(block.block_bytes)),
    }
    let bytes_min = u64::from(block.packets) * gnomon_flow::slice::PACKET_HEADER_BYTES as u64;
    if block.flows.len() as u64 > u64::from(block.packets) || bytes_min > u64::from(block.block_bytes) {
        return Err(BadEntry::BlockCounts {
            packets: block.packets,
            flows: block.flows.len(),
            bytes: block.block_bytes,
        });
    }
    if block.last_raw_ns < block.first_raw_ns {
        return Err(BadEntry::BlockTime);
    }
    let mut flows: Vec<FlowId> = block.flows.into_iter().map(FlowId).collect();
    flows.sort_unstable();
    flows.dedup();
    let content = Content::Slices(Slices {
        interface: block.interface,
        packets: block.packets,
        first: RawNs(block.first_raw_ns),
        last: RawNs(block.last_raw_ns),
        block_bytes: block.block_bytes,
        flows,
        block: block.block,
    });
    Ok(Checked { content, bad: None, records_bad: 0 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{RECORD_NS_MAX, testing};
    use proptest::prelude::*;

    fn check(entry: &v1::Entry) -> Checked {
        super::check(entry, &Enrichment::default())
    }

    fn entry(kind: v1::EntryKind, payload: Vec<u8>) -> v1::Entry {
        let crc32c = crc32c::crc32c(&payload);
        v1::Entry { epoch: None, seq: 1, kind: kind.into(), crc32c, payload: payload.into() }
    }

    fn batch(records: Vec<v1::FlowRecord>) -> Vec<u8> {
        let batch = v1::FlowBatch { interface: "eth0".to_owned(), records, ..Default::default() };
        zstd::bulk::compress(&batch.encode_to_vec(), 1).unwrap()
    }

    #[test]
    fn one_bad_record_does_not_take_the_others_along() {
        let good = v1::FlowRecord::from(&testing::record(1, 1, 5, 9));
        let late = v1::FlowRecord::from(&testing::record(2, 1, 5, 4));
        let day = v1::FlowRecord::from(&testing::record(3, 1, 0, RECORD_NS_MAX + 1));
        let none = v1::FlowRecord::default();
        let checked = check(&entry(v1::EntryKind::Flows, batch(vec![late, good, day, none])));
        assert_eq!(checked.records_bad, 3);
        assert!(matches!(checked.bad, Some(BadEntry::Record(RecordError::Time { index: 0 }))));
        let Content::Flows { records, .. } = checked.content else { panic!("no flows") };
        assert_eq!(records, [testing::record(1, 1, 5, 9)]);
    }

    #[test]
    fn a_bomb_a_wrong_checksum_and_an_unknown_kind_are_named() {
        let bomb = zstd::bulk::compress(&vec![0; (32 << 20) + 1], 1).unwrap();
        let bad = |entry: &v1::Entry| check(entry).bad.map(|e| e.to_string()).unwrap_or_default();
        assert!(bad(&entry(v1::EntryKind::Flows, bomb)).contains("33554432"));
        assert!(bad(&entry(v1::EntryKind::Unspecified, vec![])).contains("kind 0"));
        let mut flipped = entry(v1::EntryKind::Flows, batch(vec![]));
        flipped.crc32c ^= 1;
        assert!(bad(&flipped).contains("checksum"));
    }

    #[test]
    fn a_block_must_be_what_it_claims() {
        let raw = [0u8; 64];
        let good = v1::SliceBlock {
            packets: 2,
            first_raw_ns: 1,
            last_raw_ns: 2,
            block_bytes: 64,
            flows: vec![9, 9, 3],
            block: zstd::bulk::compress(&raw, 1).unwrap().into(),
            ..Default::default()
        };
        let bad = |block: v1::SliceBlock| check(&entry(v1::EntryKind::Slices, block.encode_to_vec())).bad;
        assert!(matches!(bad(good.clone()), Some(BadEntry::BlockCounts { flows: 3, .. })));
        let good = v1::SliceBlock { flows: vec![9, 3], ..good };
        let checked = check(&entry(v1::EntryKind::Slices, good.encode_to_vec()));
        let Content::Slices(slices) = checked.content else { panic!("{:?}", checked.bad) };
        assert_eq!(slices.flows, [FlowId(3), FlowId(9)]);
        assert!(matches!(
            bad(v1::SliceBlock { block_bytes: 63, ..good.clone() }),
            Some(BadEntry::BlockFrame(63))
        ));
        assert!(matches!(
            bad(v1::SliceBlock { packets: 3, ..good.clone() }),
            Some(BadEntry::BlockCounts { .. })
        ));
        assert!(matches!(bad(v1::SliceBlock { first_raw_ns: 3, ..good.clone() }), Some(BadEntry::BlockTime)));
        assert!(matches!(
            bad(v1::SliceBlock { block_bytes: u32::MAX, ..good }),
            Some(BadEntry::BlockBytes(_))
        ));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(kind in 0i32..4, payload: Vec<u8>, compressed: bool) {
            let payload = if compressed { zstd::bulk::compress(&payload, 1).unwrap() } else { payload };
            let crc32c = crc32c::crc32c(&payload);
            let entry = v1::Entry { epoch: None, seq: 0, kind, crc32c, payload: payload.into() };
            let checked = check(&entry);
            prop_assert!(checked.bad.is_some() || !matches!(checked.content, Content::Unreadable));
        }
    }
}
