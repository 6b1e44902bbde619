//! Every value of the store. **Frozen** like the keys; see `keys.rs` for which family holds which.
//!
//! Integers are little endian. A record is
//!
//! ```text
//! offset size
//!      0    1  1, the version of this layout
//!      1    1  state: 0 indexed, 1 pending, 2 quarantined
//!      2    1  flags: bit 0: an estimate was there; bit 1: it was in conflict
//!      3    1  length of the interface's name
//!      4    8  first time, TAI ns
//!     12    8  its error, ns
//!     20    8  last time, TAI ns
//!     28    8  ingest time, TAI ns
//!     36    …  the interface's name, then a protobuf `FlowRecord`
//! ```
//!
//! The times are those the record was indexed by. What a search shows is derived anew from the record's RAW times.

use gnomon_clock::{Authority, EpochId, Estimate, Fix, RawNs, Timeline, UtcNs};
use gnomon_flow::{FlowRecord, StoredFlow, TimeState};
use gnomon_proto::{Message, v1};

use super::epochs::Epoch;

const RECORD_VERSION: u8 = 1;
const RECORD_HEADER_BYTES: usize = 36;

/// A value that cannot be what was written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}: {problem}")]
pub struct DamagedValue {
    pub what: &'static str,
    pub problem: String,
}

pub(super) fn damaged(what: &'static str, problem: impl Into<String>) -> DamagedValue {
    DamagedValue { what, problem: problem.into() }
}

/// A record as it stands in `flows` or `held`.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Envelope {
    pub(super) state: TimeState,
    /// The estimates the record was indexed by.
    pub(super) first: Option<Estimate>,
    pub(super) last: Option<UtcNs>,
    pub(super) ingested: UtcNs,
    pub(super) interface: String,
    pub(super) record: FlowRecord,
}

pub(super) fn state_byte(state: TimeState) -> u8 {
    match state {
        TimeState::Indexed => 0,
        TimeState::Pending => 1,
        TimeState::Quarantined => 2,
    }
}

pub(super) fn state_of(byte: u8) -> Option<TimeState> {
    TimeState::ALL.into_iter().find(|state| state_byte(*state) == byte)
}

impl Envelope {
    pub(super) fn of(flow: &StoredFlow) -> Envelope {
        Envelope {
            state: flow.time_state,
            first: flow.first,
            last: flow.last.map(|last| last.utc),
            ingested: flow.ingested.unwrap_or(UtcNs::MIN),
            interface: flow.origin.interface.to_string(),
            record: flow.record.clone(),
        }
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let record = v1::FlowRecord::from(&self.record);
        let name_len = self.interface.floor_char_boundary(self.interface.len().min(255));
        let mut value = Vec::with_capacity(RECORD_HEADER_BYTES + name_len + record.encoded_len());
        let flags = u8::from(self.first.is_some()) | u8::from(self.first.is_some_and(|e| e.conflict)) << 1;
        value.extend([RECORD_VERSION, state_byte(self.state), flags, name_len as u8]);
        value.extend(self.first.map_or(0, |e| e.utc.tai_ns()).to_le_bytes());
        value.extend(self.first.map_or(0, |e| e.err_ns).to_le_bytes());
        value.extend(self.last.map_or(0, UtcNs::tai_ns).to_le_bytes());
        value.extend(self.ingested.tai_ns().to_le_bytes());
        value.extend_from_slice(&self.interface.as_bytes()[..name_len]);
        // A Vec grows as needed: encoding into it cannot fail.
        value.extend_from_slice(&record.encode_to_vec());
        value
    }

    pub(super) fn decode(value: &[u8]) -> Result<Envelope, DamagedValue> {
        const WHAT: &str = "a flow record";
        let Some((header, rest)) = value.split_first_chunk::<RECORD_HEADER_BYTES>() else {
            return Err(damaged(WHAT, format!("has {} bytes", value.len())));
        };
        if header[0] != RECORD_VERSION {
            return Err(damaged(WHAT, format!("has the unknown layout {}", header[0])));
        }
        let state = state_of(header[1]).ok_or_else(|| damaged(WHAT, format!("state {}", header[1])))?;
        let name_len = usize::from(header[3]);
        let (name, record) = rest.split_at_checked(name_len).ok_or_else(|| damaged(WHAT, "is cut"))?;
        let interface = std::str::from_utf8(name).map_err(|_| damaged(WHAT, "its interface is no text"))?;
        let record = v1::FlowRecord::decode(record).map_err(|e| damaged(WHAT, e.to_string()))?;
        let utc_at = |at| UtcNs::from_tai_ns(i64_at(header, at).cast_signed());
        let known = header[2] & 1 != 0;
        Ok(Envelope {
            state,
            first: known.then(|| Estimate {
                utc: utc_at(4),
                err_ns: i64_at(header, 12),
                conflict: header[2] & 2 != 0,
            }),
            last: known.then(|| utc_at(20)),
            ingested: utc_at(28),
            interface: interface.to_owned(),
            record: FlowRecord::try_from(&record).map_err(|e| damaged(WHAT, e.to_string()))?,
        })
    }
}

fn i64_at(header: &[u8; RECORD_HEADER_BYTES], at: usize) -> u64 {
    u64::from_le_bytes(std::array::from_fn(|i| header[at + i]))
}

/// Fixed runs of u64, little endian: values of `slices`, `segments`, `ledger` and `meta`.
pub(super) fn numbers<const N: usize>(values: [u64; N]) -> Vec<u8> {
    values.iter().flat_map(|n| n.to_le_bytes()).collect()
}

pub(super) fn numbers_of<const N: usize>(what: &'static str, value: &[u8]) -> Result<[u64; N], DamagedValue> {
    if value.len() != N * 8 {
        return Err(damaged(what, format!("has {} bytes, not {}", value.len(), N * 8)));
    }
    Ok(std::array::from_fn(|n| u64::from_le_bytes(std::array::from_fn(|i| value[n * 8 + i]))))
}

/// What the segment files hold, kept exact by every batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Totals {
    pub(super) slice_packets: u64,
    pub(super) slice_bytes: u64,
}

impl Totals {
    pub(super) fn encode(&self) -> Vec<u8> {
        // The first three were counts of records, which are counted at open now.
        numbers([0, 0, 0, self.slice_packets, self.slice_bytes])
    }

    pub(super) fn decode(value: &[u8]) -> Result<Totals, DamagedValue> {
        let [_, _, _, slice_packets, slice_bytes] = numbers_of("the totals", value)?;
        Ok(Totals { slice_packets, slice_bytes })
    }
}

/// A value of `epochs`: `[version 1][name length 2][agent's name]` and a protobuf `StoredEpoch`.
pub(super) fn encode_epoch(epoch: &Epoch) -> Vec<u8> {
    let name = &epoch.agent_name;
    let name_len = name.floor_char_boundary(name.len().min(usize::from(u16::MAX)));
    let mut value = vec![1];
    value.extend((name_len as u16).to_le_bytes());
    value.extend_from_slice(&name.as_bytes()[..name_len]);
    let stored = v1::StoredEpoch {
        epoch: Some((&epoch.id).into()),
        fixes: epoch.timeline.fixes().map(Into::into).collect(),
        ended_raw_ns: epoch.ended.map(|raw| raw.0),
        successor: epoch.successor.as_ref().map(Into::into),
        ended_by: String::new(),
        predecessor: epoch.predecessor.as_ref().map(Into::into),
        relative_from_raw_ns: epoch.relative_from.map(|raw| raw.0),
        authority: match epoch.timeline.authority() {
            Authority::Nobody => 0,
            Authority::Collector => 1,
            Authority::Agent => 2,
        },
    };
    value.extend_from_slice(&stored.encode_to_vec());
    value
}

pub(super) fn decode_epoch(value: &[u8]) -> Result<Epoch, DamagedValue> {
    const WHAT: &str = "an epoch";
    let cut = || damaged(WHAT, "is cut");
    let (header, rest) = value.split_first_chunk::<3>().ok_or_else(cut)?;
    if header[0] != 1 {
        return Err(damaged(WHAT, format!("has the unknown layout {}", header[0])));
    }
    let name_len = usize::from(u16::from_le_bytes([header[1], header[2]]));
    let (name, stored) = rest.split_at_checked(name_len).ok_or_else(cut)?;
    let name = std::str::from_utf8(name).map_err(|_| damaged(WHAT, "its agent's name is no text"))?;
    let stored = v1::StoredEpoch::decode(stored).map_err(|e| damaged(WHAT, e.to_string()))?;
    let id_of = |wire: &Option<v1::Epoch>| {
        let id = wire.as_ref().map(EpochId::try_from).transpose();
        id.map_err(|e| damaged(WHAT, e.to_string()))
    };
    let id = id_of(&stored.epoch)?.ok_or_else(|| damaged(WHAT, "has no id"))?;
    let fixes = stored.fixes.iter().map(Fix::try_from).collect::<Result<Vec<_>, _>>();
    let mut timeline = Timeline::from_fixes(id, fixes.map_err(|e| damaged(WHAT, e.to_string()))?);
    timeline.set_authority(match stored.authority {
        1 => Authority::Collector,
        2 => Authority::Agent,
        _ => Authority::Nobody,
    });
    Ok(Epoch {
        id,
        agent_name: name.into(),
        timeline,
        ended: stored.ended_raw_ns.map(RawNs),
        successor: id_of(&stored.successor)?,
        predecessor: id_of(&stored.predecessor)?,
        relative_from: stored.relative_from_raw_ns.map(RawNs),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::testing;
    use gnomon_clock::FixSource;

    #[test]
    fn a_record_survives_and_a_cut_one_is_named() {
        let envelope = Envelope {
            state: TimeState::Pending,
            first: Some(Estimate { utc: UtcNs::from_tai_ns(-5), err_ns: 7, conflict: true }),
            last: Some(UtcNs::from_tai_ns(9)),
            ingested: UtcNs::from_tai_ns(11),
            interface: "eth0".to_owned(),
            record: testing::record(3, 4, 100, 200),
        };
        let value = envelope.encode();
        assert_eq!(Envelope::decode(&value), Ok(envelope));
        for end in 0..RECORD_HEADER_BYTES + 4 {
            assert!(Envelope::decode(&value[..end]).is_err(), "cut at {end}");
        }
    }

    #[test]
    fn an_epoch_survives() {
        let epoch = EpochId { agent: [1; 16], boot_id: [2; 16], opened: RawNs(3) };
        let fix = Fix { raw: RawNs(1), utc: UtcNs::from_tai_ns(2), err_ns: 3, source: FixSource::Chrony };
        let mut stored = Epoch::new(epoch, "sensor");
        stored.timeline.add(fix);
        stored.timeline.set_authority(Authority::Agent);
        stored.ended = Some(RawNs(7));
        stored.successor = Some(EpochId { opened: RawNs(8), ..epoch });
        stored.relative_from = Some(RawNs(1));
        let read = decode_epoch(&encode_epoch(&stored)).unwrap();
        assert_eq!((read.id, &*read.agent_name), (epoch, "sensor"));
        assert_eq!((read.ended, read.successor, read.predecessor), (stored.ended, stored.successor, None));
        assert_eq!((read.relative_from, read.timeline.authority()), (Some(RawNs(1)), Authority::Agent));
        assert!(read.timeline.fixes().eq(stored.timeline.fixes()));
    }
}
