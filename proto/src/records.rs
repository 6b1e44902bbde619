//! A batch of records straight from its bytes. Nearly all that a collector does with a batch is reading it, and the
//! generated messages cost a dozen allocations a record that live for a microsecond.
//!
//! Only batches in the plain form that every agent writes are read here: fields that are known, once each, in range. For
//! anything else ([`None`]) the generated messages are asked, and what they say holds: so there is one definition of what a
//! batch means, and a test holds the two against each other.

use std::net::IpAddr;

use gnomon_clock::RawNs;
use gnomon_flow::{
    Addresses, Alert, Attribute, AttributeValue, Attributes, DecodeProblem, DirectionCounters, FieldId,
    FlowEndReason, FlowId, FlowKey, FlowRecord, TcpState, TcpSummary,
};
use prost::Message as _;

use crate::flow::{end_to_wire, from_wire, problem_to_wire, tcp_state_to_wire};
use crate::limits::{
    BATCH_ALERTS_MAX, BATCH_RECORDS_MAX, COUNTER_MAX, INTERFACE_BYTES_MAX, RECORD_ATTRIBUTES_MAX,
    RECORD_BYTES_MAX, Raw, RawFields, check_record, is_attribute,
};
use crate::{WireError, v1};

/// The records of a `FlowBatch`, and the interface they were captured on.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FlowBatch {
    pub interface: String,
    /// Those that mean something.
    pub records: Vec<FlowRecord>,
    /// The others, by their place in the batch.
    pub bad: Vec<(usize, WireError)>,
    pub alerts: Vec<Alert>,
    /// Alerts that mean nothing, by their place.
    pub bad_alerts: Vec<(usize, WireError)>,
    /// Records and alerts of a stored batch that were not read, since it has more than a batch may have.
    pub left_out: u64,
}

/// Why nothing of a batch is read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FlowBatchError {
    #[error("it is no protobuf: {0}")]
    Malformed(String),
    #[error(transparent)]
    TooMuch(WireError),
}

/// What is done with a batch that is over a bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Excess {
    Refused,
    LeftOut,
}

impl FlowBatch {
    /// A batch as it comes from an agent.
    ///
    /// # Errors
    /// When the bytes are no protobuf of this shape, or hold more than a batch may.
    pub fn read(bytes: &[u8]) -> Result<FlowBatch, FlowBatchError> {
        plain(bytes).map_or_else(|| generated(bytes, Excess::Refused), Ok)
    }

    /// A batch that was taken in once, by a version that had other bounds maybe: what is over them is left out.
    ///
    /// # Errors
    /// When the bytes are no protobuf of this shape.
    pub fn read_stored(bytes: &[u8]) -> Result<FlowBatch, FlowBatchError> {
        plain(bytes).map_or_else(|| generated(bytes, Excess::LeftOut), Ok)
    }

    /// What reading these bytes takes of memory, at most: asked before they are read.
    ///
    /// # Errors
    /// When they hold more than a batch may.
    pub fn memory_bytes(bytes: &[u8]) -> Result<usize, FlowBatchError> {
        let (mut records, mut alerts) = (0usize, 0usize);
        for field in RawFields::of(bytes) {
            match field {
                Some((2, _)) => records += 1,
                Some((3, _)) => alerts += 1,
                Some(_) => {}
                None => break,
            }
        }
        let count = |field, found: usize, max: usize| {
            let problem = || WireError::new(field, format!("{found} are more than {max}"));
            if found > max { Err(FlowBatchError::TooMuch(problem())) } else { Ok(()) }
        };
        count("batch.records", records, BATCH_RECORDS_MAX)?;
        count("batch.alerts", alerts, BATCH_ALERTS_MAX)?;
        // The shortest metadata value takes eight bytes here, and a list has room for some at once.
        let of_values = bytes.len() / 8 * size_of::<Attribute>();
        let of_records = records * (size_of::<FlowRecord>() + ATTRIBUTES_USUAL * size_of::<Attribute>());
        Ok(of_values + of_records + alerts * size_of::<Alert>() + bytes.len())
    }
}

/// By the generated messages, one record after the other: all of them at once take many times the batch's bytes.
fn generated(bytes: &[u8], excess: Excess) -> Result<FlowBatch, FlowBatchError> {
    let malformed = |error: &dyn std::fmt::Display| FlowBatchError::Malformed(error.to_string());
    let refused = |field, problem: String| match excess {
        Excess::Refused => Err(FlowBatchError::TooMuch(WireError::new(field, problem))),
        Excess::LeftOut => Ok(()),
    };
    let mut batch = FlowBatch::default();
    let (mut records, mut alerts) = (0, 0);
    for field in RawFields::of(bytes) {
        match field.ok_or_else(|| malformed(&"its fields do not end where they should"))? {
            (0, _) => return Err(malformed(&"it has a field of number 0")),
            (1..=3, Raw::Number) => {
                return Err(malformed(&"it has a number where a text or a message belongs"));
            }
            (1, Raw::Bytes(name)) => {
                let name = std::str::from_utf8(name).map_err(|error| malformed(&error))?;
                if name.len() > INTERFACE_BYTES_MAX {
                    let problem = format!("a name of {} bytes, at most {INTERFACE_BYTES_MAX}", name.len());
                    refused("batch.interface", problem)?;
                }
                name[..name.floor_char_boundary(INTERFACE_BYTES_MAX)].clone_into(&mut batch.interface);
            }
            (2, Raw::Bytes(_)) if records >= BATCH_RECORDS_MAX => {
                refused("batch.records", format!("they are more than {BATCH_RECORDS_MAX}"))?;
                batch.left_out += 1;
            }
            (2, Raw::Bytes(bytes)) => {
                match generated_record(bytes)? {
                    Ok(record) => batch.records.push(record),
                    Err(error) => batch.bad.push((records, error)),
                }
                records += 1;
            }
            (3, Raw::Bytes(_)) if alerts >= BATCH_ALERTS_MAX => {
                refused("batch.alerts", format!("they are more than {BATCH_ALERTS_MAX}"))?;
                batch.left_out += 1;
            }
            (3, Raw::Bytes(bytes)) => {
                match Alert::try_from(v1::Alert::decode(bytes).map_err(|error| malformed(&error))?) {
                    Ok(alert) => batch.alerts.push(alert),
                    Err(error) => batch.bad_alerts.push((alerts, error)),
                }
                alerts += 1;
            }
            _ => {}
        }
    }
    Ok(batch)
}

fn generated_record(bytes: &[u8]) -> Result<Result<FlowRecord, WireError>, FlowBatchError> {
    if bytes.len() > RECORD_BYTES_MAX {
        let problem = format!("{} bytes are more than {RECORD_BYTES_MAX}", bytes.len());
        return Ok(Err(WireError::new("record", problem)));
    }
    let wire = v1::FlowRecord::decode(bytes).map_err(|error| FlowBatchError::Malformed(error.to_string()))?;
    Ok(check_record(&wire).and_then(|()| FlowRecord::try_from(wire)))
}

fn plain(bytes: &[u8]) -> Option<FlowBatch> {
    let mut batch = FlowBatch::default();
    let mut fields = Fields::of(bytes);
    let mut records = 0;
    while let Some((number, _)) = fields.next()? {
        records += usize::from(number == 2);
    }
    if records > BATCH_RECORDS_MAX {
        return None;
    }
    batch.records.reserve_exact(records);
    let mut fields = Fields::of(bytes);
    while let Some(field) = fields.next()? {
        match field {
            (1, Wire::Bytes(interface)) if interface.len() <= INTERFACE_BYTES_MAX => {
                fields.once(1)?;
                text(interface)?.clone_into(&mut batch.interface);
            }
            (2, Wire::Bytes(bytes)) if bytes.len() <= RECORD_BYTES_MAX => {
                // Filled where it stays: it is half a kilobyte.
                batch.records.push(FlowRecord::default());
                record(bytes, batch.records.last_mut()?)?;
            }
            _ => return None,
        }
    }
    Some(batch)
}

/// A number that a record counts, as far as it can be.
fn counter(n: u64) -> Option<u64> {
    (n <= COUNTER_MAX).then_some(n)
}

fn record(bytes: &[u8], record: &mut FlowRecord) -> Option<()> {
    let mut fields = Fields::of(bytes);
    let mut values = 0;
    while let Some((number, wire)) = fields.next()? {
        if number == 17 {
            let Wire::Bytes(bytes) = wire else { return None };
            values += 1;
            if values > RECORD_ATTRIBUTES_MAX {
                return None;
            }
            if record.attributes.is_empty() {
                record.attributes.reserve(ATTRIBUTES_USUAL);
            }
            attribute(bytes, &mut record.attributes)?;
            continue;
        }
        fields.once(number)?;
        match (number, wire) {
            (1, Wire::Fixed(id)) => record.id = FlowId(id),
            (2, Wire::Varint(n)) => record.segment = n.try_into().ok()?,
            (3, Wire::Varint(n)) => record.revision = n.try_into().ok()?,
            (4, Wire::Bytes(bytes)) => record.key = key(bytes)?,
            (5, Wire::Fixed(raw)) => record.first = RawNs(raw),
            (6, Wire::Fixed(raw)) => record.last = RawNs(raw),
            (7, Wire::Varint(n)) => record.stamp_err_ns = n.try_into().ok()?,
            (8, Wire::Bytes(bytes)) => record.orig = direction(bytes)?,
            (9, Wire::Bytes(bytes)) => record.resp = direction(bytes)?,
            (10, Wire::Bytes(bytes)) => record.tcp = Some(tcp(bytes)?),
            (11, Wire::Bytes(bytes)) => record.icmp = Some(icmp(bytes)?),
            (12, Wire::Varint(n @ 0..=1)) => record.direction_guessed = n == 1,
            (13, Wire::Varint(n)) => record.problem = named(n, &DecodeProblem::ALL, problem_to_wire)?,
            (14, Wire::Varint(n)) => record.sliced_packets = counter(n)?,
            (15, Wire::Varint(n)) => record.sliced_bytes = counter(n)?,
            (16, Wire::Varint(n)) => record.end = named(n, &FlowEndReason::ALL, end_to_wire)?,
            (19, Wire::Varint(n @ 0..=1)) => record.own_uplink = n == 1,
            (18, Wire::Varint(n)) => record.attributes.add_dropped(n.try_into().ok()?),
            _ => return None,
        }
    }
    (fields.has(4) && fields.has(8) && fields.has(9)).then_some(())
}

fn key(bytes: &[u8]) -> Option<FlowKey> {
    let mut key = FlowKey::default();
    let (mut orig, mut resp): (&[u8], &[u8]) = (&[], &[]);
    let mut fields = Fields::of(bytes);
    while let Some((number, wire)) = fields.next()? {
        fields.once(number)?;
        match (number, wire) {
            (1, Wire::Bytes(packed)) => {
                let mut tags = Fields::of(packed);
                let mut slots = key.vlan.iter_mut();
                while !tags.bytes.is_empty() {
                    let tag = u16::try_from(tags.varint()?).ok().filter(|tag| *tag != 0)?;
                    *slots.next()? = tag;
                }
            }
            (2, Wire::Varint(n)) => key.ethertype = n.try_into().ok()?,
            (3, Wire::Varint(n)) => key.protocol = n.try_into().ok()?,
            (4, Wire::Bytes(address)) => orig = address,
            (5, Wire::Bytes(address)) => resp = address,
            (6, Wire::Varint(n)) => key.orig_port = n.try_into().ok()?,
            (7, Wire::Varint(n)) => key.resp_port = n.try_into().ok()?,
            _ => return None,
        }
    }
    key.addresses = match orig.len() {
        4 => Addresses::V4 { orig: orig.try_into().ok()?, resp: resp.try_into().ok()? },
        16 => Addresses::V6 { orig: orig.try_into().ok()?, resp: resp.try_into().ok()? },
        6 => Addresses::Mac { orig: orig.try_into().ok()?, resp: resp.try_into().ok()? },
        0 if resp.is_empty() => Addresses::None,
        _ => return None,
    };
    Some(key)
}

fn direction(bytes: &[u8]) -> Option<DirectionCounters> {
    let mut way = DirectionCounters::default();
    let (mut ttl_min, mut ttl_max) = (None, None);
    let mut fields = Fields::of(bytes);
    while let Some((number, wire)) = fields.next()? {
        fields.once(number)?;
        match (number, wire) {
            (1, Wire::Varint(n)) => way.packets = counter(n)?,
            (2, Wire::Varint(n)) => way.bytes = counter(n)?,
            (3, Wire::Varint(n)) => way.ip_bytes = counter(n)?,
            (4, Wire::Varint(n)) => way.data_bytes = counter(n)?,
            (5, Wire::Varint(n)) => way.fragments = counter(n)?,
            (6, Wire::Varint(n)) => ttl_min = Some(n.try_into().ok()?),
            (7, Wire::Varint(n)) => ttl_max = Some(n.try_into().ok()?),
            (8, Wire::Bytes(mac)) => way.mac = Some(mac.try_into().ok()?),
            _ => return None,
        }
    }
    way.ttl = ttl_min.zip(ttl_max);
    Some(way)
}

fn tcp(bytes: &[u8]) -> Option<TcpSummary> {
    let mut tcp = TcpSummary::default();
    let mut fields = Fields::of(bytes);
    while let Some((number, wire)) = fields.next()? {
        fields.once(number)?;
        match (number, wire) {
            (1, Wire::Varint(n)) => {
                tcp.state = named(n, &TcpState::ALL, tcp_state_to_wire)?.unwrap_or_default();
            }
            (2, Wire::Bytes(packed)) => {
                let mut counts = Fields::of(packed);
                for flag in &mut tcp.flags {
                    *flag = counts.varint()?.try_into().ok()?;
                }
                if !counts.bytes.is_empty() {
                    return None;
                }
            }
            (3, Wire::Varint(n)) => tcp.syn_ack = n.try_into().ok()?,
            (4, Wire::Varint(n)) => tcp.rtt_ns = Some(counter(n)?),
            (5, Wire::Varint(n)) => tcp.retransmissions = n.try_into().ok()?,
            (6, Wire::Varint(n)) => tcp.of_side[0] = n.try_into().ok()?,
            (7, Wire::Varint(n)) => tcp.of_side[1] = n.try_into().ok()?,
            _ => return None,
        }
    }
    fields.has(2).then_some(tcp)
}

fn icmp(bytes: &[u8]) -> Option<(u8, u8)> {
    let mut icmp = (0, 0);
    let mut fields = Fields::of(bytes);
    while let Some((number, wire)) = fields.next()? {
        fields.once(number)?;
        match (number, wire) {
            (1, Wire::Varint(n)) => icmp.0 = n.try_into().ok()?,
            (2, Wire::Varint(n)) => icmp.1 = n.try_into().ok()?,
            _ => return None,
        }
    }
    Some(icmp)
}

/// Values that a record has room for at once.
const ATTRIBUTES_USUAL: usize = 8;

fn attribute(bytes: &[u8], attributes: &mut Attributes) -> Option<()> {
    let mut fields = Fields::of(bytes);
    // A number that is 0 is not written.
    let (field, value) = match fields.next()?? {
        (1, Wire::Varint(field)) => (field, fields.next()??),
        value => (0, value),
    };
    let field = FieldId(field.try_into().ok()?);
    if !is_attribute(field) {
        return None;
    }
    if !fields.bytes.is_empty() {
        return None;
    }
    match value {
        (2, Wire::Varint(n)) => attributes.push(field, AttributeValue::Integer(n)),
        (3, Wire::Bytes(bytes)) => attributes.text(field, text(bytes)?),
        (4, Wire::Bytes(bytes)) => {
            let ip = match bytes.len() {
                4 => IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?),
                _ => IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?),
            };
            attributes.push(field, AttributeValue::Ip(ip))
        }
        _ => return None,
    };
    Some(())
}

fn text(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok()
}

fn named<D: Copy, W: Into<i32>>(n: u64, all: &[D], to_wire: impl Fn(D) -> W) -> Option<Option<D>> {
    from_wire("", i32::try_from(n).ok()?, all, to_wire).ok()
}

/// The value of a field, as far as the bytes tell.
enum Wire<'b> {
    Varint(u64),
    Fixed(u64),
    Bytes(&'b [u8]),
}

/// The fields of a message, one after the other (protobuf.dev/programming-guides/encoding).
struct Fields<'b> {
    bytes: &'b [u8],
    seen: u32,
}

impl<'b> Fields<'b> {
    fn of(bytes: &'b [u8]) -> Fields<'b> {
        Fields { bytes, seen: 0 }
    }

    /// `Some(None)` at the end; `None` where the bytes make no field of those used here.
    #[allow(clippy::option_option)]
    #[inline]
    fn next(&mut self) -> Option<Option<(u32, Wire<'b>)>> {
        if self.bytes.is_empty() {
            return Some(None);
        }
        let tag = self.varint()?;
        let number = u32::try_from(tag >> 3).ok().filter(|number| (1..32).contains(number))?;
        let wire = match tag & 7 {
            0 => Wire::Varint(self.varint()?),
            1 => {
                let (fixed, rest) = self.bytes.split_first_chunk::<8>()?;
                self.bytes = rest;
                Wire::Fixed(u64::from_le_bytes(*fixed))
            }
            2 => {
                let len = usize::try_from(self.varint()?).ok()?;
                let (bytes, rest) = self.bytes.split_at_checked(len)?;
                self.bytes = rest;
                Wire::Bytes(bytes)
            }
            _ => return None,
        };
        Some(Some((number, wire)))
    }

    #[inline]
    fn varint(&mut self) -> Option<u64> {
        // Most are of one byte.
        match self.bytes.split_first() {
            Some((byte, rest)) if *byte < 0x80 => {
                self.bytes = rest;
                Some(u64::from(*byte))
            }
            _ => self.long_varint(),
        }
    }

    fn long_varint(&mut self) -> Option<u64> {
        let mut value = 0u64;
        for (at, byte) in self.bytes.iter().take(10).enumerate() {
            if at == 9 && *byte > 1 {
                return None;
            }
            value |= u64::from(byte & 0x7f) << (7 * at);
            if *byte < 0x80 {
                self.bytes = &self.bytes[at + 1..];
                return Some(value);
            }
        }
        None
    }

    /// `None` when the field was there before: what holds then is protobuf's business.
    fn once(&mut self, number: u32) -> Option<()> {
        let bit = 1 << number;
        let new = self.seen & bit == 0;
        self.seen |= bit;
        new.then_some(())
    }

    fn has(&self, number: u32) -> bool {
        self.seen & 1 << number != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::tests::record;
    use proptest::prelude::*;

    fn encoded(records: &[FlowRecord]) -> Vec<u8> {
        let records = records.iter().map(v1::FlowRecord::from).collect();
        v1::FlowBatch { interface: "eth0".to_owned(), records, alerts: Vec::new() }.encode_to_vec()
    }

    proptest! {
        #[test]
        fn what_agents_write_is_read_as_it_was(records in prop::collection::vec(record(), 0..4)) {
            let batch = plain(&encoded(&records)).expect("a batch in its plain form");
            prop_assert_eq!(batch.interface, "eth0");
            prop_assert_eq!((batch.records, batch.bad), (records, Vec::new()));
        }

        #[test]
        fn it_never_says_other_than_the_generated_messages(
            records in prop::collection::vec(record(), 1..3),
            damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
            cut: prop::sample::Index,
            whole: bool,
        ) {
            let mut bytes = encoded(&records);
            for (at, byte) in damage {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            if !whole {
                bytes.truncate(cut.index(bytes.len() + 1));
            }
            if let Some(read) = plain(&bytes) {
                prop_assert_eq!(Ok(read), generated(&bytes, Excess::Refused));
            }
            prop_assert_eq!(FlowBatch::read(&bytes), generated(&bytes, Excess::Refused));
        }

        #[test]
        fn no_bytes_panic(bytes: Vec<u8>) {
            prop_assert_eq!(FlowBatch::read(&bytes), generated(&bytes, Excess::Refused));
        }
    }

    #[test]
    fn a_record_that_comes_twice_or_means_nothing_is_left_to_the_generated_messages() {
        let whole = v1::FlowRecord::from(&FlowRecord::default());
        let batch = |record: v1::FlowRecord| v1::FlowBatch { records: vec![record], ..Default::default() };
        for bad in [
            v1::FlowRecord { end: 77, ..whole.clone() },
            v1::FlowRecord { orig: None, ..whole.clone() },
            v1::FlowRecord {
                tcp: Some(v1::Tcp { flags: vec![1; 7], ..Default::default() }),
                ..whole.clone()
            },
        ] {
            let bytes = batch(bad).encode_to_vec();
            assert_eq!(plain(&bytes), None);
            assert_eq!(FlowBatch::read(&bytes).unwrap().bad.len(), 1);
        }
        // Of two keys the fields of the later hold (protobuf merges them).
        let mut twice = whole.encode_to_vec();
        let key = v1::FlowRecord {
            key: Some(v1::FlowKey { orig_port: 9, ..Default::default() }),
            ..Default::default()
        };
        twice.extend(key.encode_to_vec());
        assert_eq!(super::record(&twice, &mut FlowRecord::default()), None);
        let merged = FlowRecord::try_from(v1::FlowRecord::decode(&twice[..]).unwrap()).unwrap();
        assert_eq!(merged.key.orig_port, 9);
    }

    fn batch_of(records: Vec<v1::FlowRecord>) -> Vec<u8> {
        v1::FlowBatch { interface: "eth0".to_owned(), records, alerts: Vec::new() }.encode_to_vec()
    }

    #[test]
    fn a_record_that_says_the_impossible_is_left_out_and_named() {
        let good = v1::FlowRecord::from(&FlowRecord::default());
        let with = |change: &dyn Fn(&mut v1::FlowRecord)| {
            let mut record = good.clone();
            change(&mut record);
            record
        };
        let value = |field: u32| v1::Attribute { field, value: Some(v1::attribute::Value::Integer(1)) };
        let way = |bytes: u64| Some(v1::Direction { bytes, ..Default::default() });
        let impossible = [
            // The number of a column that every record has, and one that no table will have.
            with(&|record| record.attributes = vec![value(20)]),
            with(&|record| record.attributes = vec![value(999)]),
            with(&|record| record.attributes = vec![value(3_000)]),
            with(&|record| record.attributes = vec![value(u32::MAX)]),
            with(&|record| record.attributes = vec![value(1_010); RECORD_ATTRIBUTES_MAX + 1]),
            with(&|record| record.orig = way(u64::MAX)),
            with(&|record| record.resp = way(COUNTER_MAX + 1)),
            with(&|record| record.sliced_packets = u64::MAX),
            with(&|record| {
                record.tcp = Some(v1::Tcp { rtt_ns: Some(u64::MAX), flags: vec![0; 8], ..Default::default() })
            }),
            with(&|record| {
                record.key = Some(v1::FlowKey { vlan: vec![1; RECORD_BYTES_MAX], ..Default::default() })
            }),
        ];
        let count = impossible.len();
        let bytes = batch_of(impossible.into_iter().chain([good.clone()]).collect());
        for read in [FlowBatch::read(&bytes).unwrap(), FlowBatch::read_stored(&bytes).unwrap()] {
            assert_eq!((read.records.len(), read.bad.len()), (1, count), "{:?}", read.bad);
        }
        let most = with(&|record| record.orig = way(COUNTER_MAX));
        assert_eq!(FlowBatch::read(&batch_of(vec![most])).unwrap().records.len(), 1);
    }

    #[test]
    fn a_batch_of_too_much_is_refused_and_one_that_is_stored_is_read_as_far_as_it_may() {
        let record = v1::FlowRecord::from(&FlowRecord::default());
        let bytes = batch_of(vec![record.clone(); BATCH_RECORDS_MAX + 1]);
        assert!(matches!(FlowBatch::read(&bytes), Err(FlowBatchError::TooMuch(_))));
        assert!(matches!(FlowBatch::memory_bytes(&bytes), Err(FlowBatchError::TooMuch(_))));
        let stored = FlowBatch::read_stored(&bytes).unwrap();
        assert_eq!((stored.records.len(), stored.left_out), (BATCH_RECORDS_MAX, 1));
        let interface = "ü".repeat(1 << 20);
        let bytes = v1::FlowBatch { interface, records: vec![record], alerts: Vec::new() }.encode_to_vec();
        assert!(matches!(FlowBatch::read(&bytes), Err(FlowBatchError::TooMuch(_))));
        let stored = FlowBatch::read_stored(&bytes).unwrap();
        assert_eq!((stored.records.len(), stored.interface.len()), (1, INTERFACE_BYTES_MAX - 1));
        let alerts = vec![v1::Alert::default(); BATCH_ALERTS_MAX + 1];
        let bytes = v1::FlowBatch { alerts, ..Default::default() }.encode_to_vec();
        assert!(matches!(FlowBatch::read(&bytes), Err(FlowBatchError::TooMuch(_))));
    }
}
