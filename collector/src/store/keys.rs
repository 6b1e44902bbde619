//! Every byte of every key of the store, in one place. **Frozen**: a store on somebody's disk has these bytes. A change
//! of meaning takes a new family or a new [`FORMAT`]; what is retired stays reserved here. A family is new where an older
//! version would answer right without it, were it not that it refuses what it does not know (`open.rs`): its name says so,
//! and no number has to. [`FORMAT`] rises where what is there has another meaning, and whoever raises it brings what
//! converts the format before.
//!
//! All integers are big endian, so that the order of bytes is the order of numbers; times are TAI nanoseconds with the
//! sign bit flipped for the same reason.
//!
//! ```text
//! family       key                                                       value
//! columns      [block 8][column 2]                                       a column of a block (block/encoding.rs)
//! blocks       [block 8]                                                 a protobuf `StoredBlock`
//! dead         [block 8]                                                 one bit a row that is in the block no more
//! rollups      [block 8]                                                 a protobuf `StoredRollup`, made after its block
//! groups       [level 1][first block 8]                                   a protobuf `StoredRollupGroup`: see `rollup_group.rs`
//! recent       [number 8]                                                a batch of records that are in no block yet
//! waiting      [epoch 8][flow 8][segment 4]                              a record in no block whose batch is gone
//! loose        [epoch 8][flow 8][segment 4]                              block, row, revision, ingest time of an open record
//! slices       [epoch 8][flow 8][segment file 4][offset 8]               retired: segment files have their own index
//! segments     [segment file 4]                                          packets and bytes in it, and when it was written
//! alerts       [number 8]                                                a protobuf `StoredAlert` (alerts.rs)
//! epochs       [epoch 8]                                                 the epoch, the agent's name, the fixes
//! ledger       [agent 16][epoch 8]                                       highest durable seq, ranges beyond it (ledger.rs)
//! owners       [agent 16]                                                who used the id first (owners.rs)
//! meta         see the constants below
//! ```
//! `epoch` is an [`EpochHash`]. Numbers of blocks and of batches rise and are never used again. Reserved: the families
//! `flows`, `held`, `flow_index` and `by_ingest` of format 1, in which a record was a row of its own.

use gnomon_clock::UtcNs;
use gnomon_flow::{AgentId, EpochHash, FlowId, FlowRef};

/// The version of everything below and of the envelopes.
pub(super) const FORMAT: u32 = 2;

/// Names of families that are no more, `slices` of this format's first days, the others of format 1: not used again.
pub(super) const RETIRED: [&str; 5] = ["slices", "flows", "held", "flow_index", "by_ingest"];

/// u32: [`FORMAT`].
pub(super) const META_FORMAT: &[u8] = b"format";
/// u64: the number of the next block.
pub(super) const META_NEXT_BLOCK: &[u8] = b"next-block";
/// u64: the number of the next batch of `recent`.
pub(super) const META_NEXT_RECENT: &[u8] = b"next-recent";
/// u64: what tells this store from every other, see `claims.rs`.
pub(super) const META_ID: &[u8] = b"store-id";
/// Five u64: see `envelope::Totals`.
pub(super) const META_TOTALS: &[u8] = b"totals";
/// Two u64: number of the segment file being written and its durable length; 32 bytes: the end of the hash chain there.
pub(super) const META_SEGMENT: &[u8] = b"segment";

/// Eight u64: the collector's own timeline, see `retime.rs`.
pub(super) const META_TIMELINE: &[u8] = b"timeline";

/// A protobuf `StoredVoters`: whose word about the collector's time counts, see `retime.rs`.
pub(super) const META_VOTERS: &[u8] = b"voters";

/// A protobuf `StoredClockEvents`: what happened to clocks of late, see `retime.rs`.
pub(super) const META_CLOCK_EVENTS: &[u8] = b"clock-events";

/// The epochs of an agent in the order in which they began here, eight bytes each: see `epoch_order.rs`.
const META_EPOCH_ORDER: &[u8] = b"epochs-of-";

/// Key of the order of an agent's epochs, in `meta`.
pub(super) fn epoch_order(agent: AgentId) -> Vec<u8> {
    [META_EPOCH_ORDER, &agent.0].concat()
}
/// u64: entries that were acknowledged and are lost: damage took them, and their agents do not have them any more.
pub(super) const META_LOST: &[u8] = b"lost-entries";

/// In front of a key of `epochs` and of `ledger`: a copy of its value (copies.rs).
pub(super) const META_COPY_EPOCH: &[u8] = b"copy-epoch-";
pub(super) const META_COPY_LEDGER: &[u8] = b"copy-ledger-";
/// u64: batches of `recent` before this one are in blocks.
pub(super) const META_FIRST_RECENT: &[u8] = b"first-recent";

/// A column family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Family {
    Columns,
    Blocks,
    Dead,
    Rollups,
    Groups,
    Recent,
    Waiting,
    Loose,
    Segments,
    Alerts,
    Epochs,
    Ledger,
    Owners,
    Meta,
}

impl Family {
    pub(super) const ALL: [Family; 14] = [
        Family::Columns,
        Family::Blocks,
        Family::Dead,
        Family::Rollups,
        Family::Groups,
        Family::Recent,
        Family::Waiting,
        Family::Loose,
        Family::Segments,
        Family::Alerts,
        Family::Epochs,
        Family::Ledger,
        Family::Owners,
        Family::Meta,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Family::Columns => "columns",
            Family::Blocks => "blocks",
            Family::Dead => "dead",
            Family::Rollups => "rollups",
            Family::Groups => "groups",
            Family::Recent => "recent",
            Family::Waiting => "waiting",
            Family::Loose => "loose",
            Family::Segments => "segments",
            Family::Alerts => "alerts",
            Family::Epochs => "epochs",
            Family::Ledger => "ledger",
            Family::Owners => "owners",
            Family::Meta => "meta",
        }
    }
}

/// Bytes of a [`FlowRef`] in a key.
pub(super) const REF_BYTES: usize = 20;
/// Bytes of a place in a scan.
pub(super) const TIMED_BYTES: usize = 28;

/// A time as bytes that sort like it.
pub(super) fn time(utc: UtcNs) -> [u8; 8] {
    (utc.tai_ns().cast_unsigned() ^ (1 << 63)).to_be_bytes()
}

fn time_of(bytes: [u8; 8]) -> UtcNs {
    UtcNs::from_tai_ns((u64::from_be_bytes(bytes) ^ (1 << 63)).cast_signed())
}

/// Key of `waiting` and `loose`.
pub(super) fn reference(id: FlowRef) -> [u8; REF_BYTES] {
    let mut key = [0; REF_BYTES];
    key[..8].copy_from_slice(&id.epoch.0.to_be_bytes());
    key[8..16].copy_from_slice(&id.flow.0.to_be_bytes());
    key[16..].copy_from_slice(&id.segment.to_be_bytes());
    key
}

pub(super) fn reference_of(key: &[u8]) -> Option<FlowRef> {
    if key.len() != REF_BYTES {
        return None;
    }
    Some(FlowRef {
        epoch: EpochHash(u64_at(key, 0)?),
        flow: FlowId(u64_at(key, 8)?),
        segment: u32_at(key, 16)?,
    })
}

/// A place in a scan, which is what cursors are made of.
pub(super) fn timed(utc: UtcNs, id: FlowRef) -> [u8; TIMED_BYTES] {
    let mut key = [0; TIMED_BYTES];
    key[..8].copy_from_slice(&time(utc));
    key[8..].copy_from_slice(&reference(id));
    key
}

pub(super) fn timed_of(key: &[u8]) -> Option<(UtcNs, FlowRef)> {
    let (utc, id) = key.split_first_chunk::<8>()?;
    Some((time_of(*utc), reference_of(id)?))
}

/// Key of `epochs`.
pub(super) fn epoch(epoch: EpochHash) -> [u8; 8] {
    epoch.0.to_be_bytes()
}

pub(super) fn epoch_of(key: &[u8]) -> Option<EpochHash> {
    u64_at(key, 0).filter(|_| key.len() == 8).map(EpochHash)
}

/// Key of `segments`.
pub(super) fn segment(number: u32) -> [u8; 4] {
    number.to_be_bytes()
}

pub(super) fn segment_of(key: &[u8]) -> Option<u32> {
    u32_at(key, 0)
}

/// Key of `blocks`, `dead` and `rollups`, and prefix of a block's keys of `columns`.
pub(super) fn block(id: u64) -> [u8; 8] {
    id.to_be_bytes()
}

pub(super) fn block_of(key: &[u8]) -> Option<u64> {
    u64_at(key, 0)
}

/// Key of `groups`.
pub(super) fn group(level: u8, first: u64) -> [u8; 9] {
    let mut key = [0; 9];
    key[0] = level;
    key[1..].copy_from_slice(&first.to_be_bytes());
    key
}

pub(super) fn group_of(key: &[u8]) -> Option<(u8, u64)> {
    let (level, first) = key.split_first()?;
    Some((*level, u64::from_be_bytes(first.try_into().ok()?)))
}

/// Key of `columns`.
pub(super) fn column(block: u64, column: u16) -> [u8; 10] {
    let mut key = [0; 10];
    key[..8].copy_from_slice(&block.to_be_bytes());
    key[8..].copy_from_slice(&column.to_be_bytes());
    key
}

/// Key of `recent`.
pub(super) fn recent(number: u64) -> [u8; 8] {
    number.to_be_bytes()
}

pub(super) fn recent_of(key: &[u8]) -> Option<u64> {
    u64_at(key, 0)
}

/// Key of `alerts`.
pub(super) fn alert(number: u64) -> [u8; 8] {
    number.to_be_bytes()
}

pub(super) fn alert_of(key: &[u8]) -> Option<u64> {
    u64_at(key, 0)
}

/// Key of `ledger`.
pub(super) fn ledger(agent: AgentId, epoch: EpochHash) -> [u8; 24] {
    let mut key = [0; 24];
    key[..16].copy_from_slice(&agent.0);
    key[16..].copy_from_slice(&epoch.0.to_be_bytes());
    key
}

pub(super) fn ledger_of(key: &[u8]) -> Option<(AgentId, EpochHash)> {
    let (agent, rest) = key.split_first_chunk::<16>()?;
    Some((AgentId(*agent), EpochHash(u64_at(rest, 0)?)))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().map(|b| u64::from_be_bytes(*b))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|b| u32::from_be_bytes(*b))
}

/// Pairs of a family that are read at a time: a batch of records may be megabytes, everything else is small.
pub(super) fn run_len(family: Family) -> usize {
    if family == Family::Recent { 8 } else { 1024 }
}

/// The lowest key above `key`.
pub(super) fn successor(key: &[u8]) -> Vec<u8> {
    let mut next = key.to_vec();
    next.push(0);
    next
}

/// The lowest key above all that begin with `prefix`; none when `prefix` is all ones.
pub(super) fn prefix_end(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|byte| *byte != 0xff)?;
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    Some(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(epoch: u64, flow: u64, segment: u32) -> FlowRef {
        FlowRef { epoch: EpochHash(epoch), flow: FlowId(flow), segment }
    }

    #[test]
    fn keys_come_back_as_they_went_in() {
        let r = id(0xfeed_0000_0000_0001, 7 << 56 | 9, 3);
        assert_eq!(reference_of(&reference(r)), Some(r));
        for tai in [i64::MIN, -1, 0, 1, i64::MAX] {
            let utc = UtcNs::from_tai_ns(tai);
            assert_eq!(timed_of(&timed(utc, r)), Some((utc, r)));
        }
        assert_eq!(ledger_of(&ledger(AgentId([4; 16]), r.epoch)), Some((AgentId([4; 16]), r.epoch)));
        assert_eq!(group_of(&group(2, 256)), Some((2, 256)));
        assert_eq!((group_of(b"short"), group_of(&[0; 10])), (None, None));
        assert_eq!(timed_of(b"short"), None);
        assert_eq!(reference_of(&[0; 21]), None);
    }

    #[test]
    fn the_order_of_bytes_is_the_order_of_time() {
        let times = [i64::MIN, -5, -1, 0, 1, 255, 256, 1_800_000_000_000_000_000, i64::MAX];
        let keys: Vec<_> = times.iter().map(|t| timed(UtcNs::from_tai_ns(*t), id(u64::MAX, 0, 0))).collect();
        assert!(keys.is_sorted());
    }

    #[test]
    fn the_bytes_are_frozen() {
        let key = timed(UtcNs::from_tai_ns(1), id(2, 3, 4));
        let expected =
            [0x80, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 4];
        assert_eq!(key, expected);
        assert_eq!(group(1, 0x0102), [1, 0, 0, 0, 0, 0, 0, 1, 2]);
    }
}
