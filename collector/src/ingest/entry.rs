//! What an entry has to be before it is stored. Everything here came over the network.

use bytes::Bytes;
use gnomon_clock::RawNs;
use gnomon_flow::FlowId;
use gnomon_flow::escape::name_of;
use gnomon_proto::limits::INTERFACE_BYTES_MAX;
use gnomon_proto::{Message, v1};

use crate::enrich::Enrichment;
use crate::store::{
    BLOCK_BYTES_MAX, BatchError, Content, PlainBatch, RecordBatch, RecordError, Slices, declared_bytes,
};

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
    #[error("reading it ended by a fault in the collector; its log says more")]
    Fault,
    #[error("its block ends before it begins")]
    BlockTime,
    #[error("its interface's name has {0} bytes, the limit is {INTERFACE_BYTES_MAX}")]
    Interface(usize),
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
    /// Reading it is our fault, not the agent's: it is kept, and nothing of it stored.
    pub(super) fn fault() -> Checked {
        Checked::unreadable(BadEntry::Fault)
    }

    fn unreadable(bad: BadEntry) -> Checked {
        Checked { content: Content::Unreadable, bad: Some(bad), records_bad: 0 }
    }
}

/// What an entry decompresses to, at most: asked before anything of it is looked at. Packets stay compressed.
pub(super) fn expands_to(entry: &v1::Entry) -> usize {
    match entry.kind() {
        v1::EntryKind::Flows => declared_bytes(&entry.payload),
        _ => 0,
    }
}

/// An entry that was looked at from outside.
pub(super) enum Opened {
    Checked(Checked),
    /// Records, and what reading them takes of memory at most.
    Flows(PlainBatch, usize),
}

/// Look at an entry; its records are left to [`read`]. Never fails: one that means nothing still moves the ledger, or its
/// agent would send it for ever.
pub(super) fn open(entry: &v1::Entry) -> Opened {
    let found = crc32c::crc32c(&entry.payload);
    if found != entry.crc32c {
        let bad = BadEntry::Checksum { found, wanted: entry.crc32c };
        return Opened::Checked(Checked::unreadable(bad));
    }
    let opened = match entry.kind() {
        v1::EntryKind::Flows => open_flows(&entry.payload),
        v1::EntryKind::Slices => check_slices(entry.payload.clone()).map(Opened::Checked),
        v1::EntryKind::Unspecified => Err(BadEntry::Kind(entry.kind)),
    };
    opened.unwrap_or_else(|bad| Opened::Checked(Checked::unreadable(bad)))
}

fn open_flows(payload: &Bytes) -> Result<Opened, BadEntry> {
    let plain = PlainBatch::of(payload)?;
    let memory_bytes = plain.memory_bytes()?;
    Ok(Opened::Flows(plain, memory_bytes))
}

/// Read the records of an entry, and what they take of memory.
pub(super) fn read(plain: &PlainBatch, payload: &Bytes, enrichment: &Enrichment) -> (Checked, usize) {
    let batch = match plain.read(enrichment) {
        Ok(batch) => batch,
        Err(error) => return (Checked::unreadable(error.into()), 0),
    };
    let memory_bytes = batch.memory_bytes();
    let RecordBatch { interface, records, alerts, bad, records_bad } = batch;
    let content = Content::Flows { interface: interface.into(), records, alerts, payload: payload.clone() };
    (Checked { content, bad: bad.map(BadEntry::Record), records_bad }, memory_bytes)
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
    if block.interface.len() > INTERFACE_BYTES_MAX {
        return Err(BadEntry::Interface(block.interface.len()));
    }
    if block.last_raw_ns < block.first_raw_ns {
        return Err(BadEntry::BlockTime);
    }
    let mut flows: Vec<FlowId> = block.flows.into_iter().map(FlowId).collect();
    flows.sort_unstable();
    flows.dedup();
    let content = Content::Slices(Slices {
        interface: name_of(&block.interface, INTERFACE_BYTES_MAX).into_owned(),
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
        match open(entry) {
            Opened::Checked(checked) => checked,
            Opened::Flows(plain, memory_max) => {
                let (checked, memory) = read(&plain, &entry.payload, &Enrichment::default());
                assert!(memory <= memory_max, "{memory} of {memory_max}");
                checked
            }
        }
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
        let bomb = zstd::bulk::compress(&vec![0; (8 << 20) + 1], 1).unwrap();
        let bad = |entry: &v1::Entry| check(entry).bad.map(|e| e.to_string()).unwrap_or_default();
        assert!(bad(&entry(v1::EntryKind::Flows, bomb)).contains("8388608"));
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
        let interface = "x".repeat(INTERFACE_BYTES_MAX + 1);
        assert!(matches!(bad(v1::SliceBlock { interface, ..good.clone() }), Some(BadEntry::Interface(256))));
        assert!(matches!(bad(v1::SliceBlock { first_raw_ns: 3, ..good.clone() }), Some(BadEntry::BlockTime)));
        assert!(matches!(
            bad(v1::SliceBlock { block_bytes: u32::MAX, ..good }),
            Some(BadEntry::BlockBytes(_))
        ));
    }

    #[test]
    fn what_expands_beyond_what_agents_write_is_put_aside_unread() {
        let record = v1::FlowRecord::from(&testing::record(1, 1, 5, 9));
        let small = v1::FlowRecord {
            key: Some(v1::FlowKey::default()),
            orig: Some(v1::Direction::default()),
            resp: Some(v1::Direction::default()),
            ..Default::default()
        };
        let payload = |batch: v1::FlowBatch| zstd::bulk::compress(&batch.encode_to_vec(), 1).unwrap();
        for (batch, word) in [
            (
                v1::FlowBatch { interface: "x".repeat(7 << 20), records: vec![record], ..Default::default() },
                "interface",
            ),
            (v1::FlowBatch { records: vec![small; 1_000_000], ..Default::default() }, "records"),
            (v1::FlowBatch { records: vec![Default::default(); 1_000_000], ..Default::default() }, "records"),
            (v1::FlowBatch { alerts: vec![Default::default(); 1_000_000], ..Default::default() }, "alerts"),
        ] {
            let entry = entry(v1::EntryKind::Flows, payload(batch));
            let checked = check(&entry);
            let bad = checked.bad.map(|bad| bad.to_string()).unwrap_or_default();
            assert!(matches!(checked.content, Content::Unreadable) && bad.contains(word), "{bad}");
        }
        // One that does not say what it decompresses to, and one that says less.
        let mut silent = Vec::new();
        zstd::stream::copy_encode(&vec![0u8; 100 << 20][..], &mut silent, 1).unwrap();
        let lies = [zstd::bulk::compress(&[0; 10], 1).unwrap(), silent.clone()].concat();
        for payload in [silent, lies] {
            let checked = check(&entry(v1::EntryKind::Flows, payload));
            assert!(
                matches!(checked.bad, Some(BadEntry::Batch(BatchError::Decompress(_)))),
                "{:?}",
                checked.bad
            );
        }
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
