//! What a message may hold: the one table of bounds on what comes over the network, and the looks that keep them.
//!
//! A few bytes of protobuf can stand for half a kilobyte of memory, so a message's size on the wire bounds nothing by itself.
//! Messages of an agent's stream are looked at as bytes before anything is decoded ([`check_agent_message`]); what is inside
//! an entry's payload is counted while it is read (`records.rs`). Every bound is some times what an agent of any version
//! writes.

use gnomon_flow::FieldId;

use crate::{WireError, v1};

/// Largest gRPC message either side takes, decompressed: an entry holds at most one slice block or one batch of records.
pub const MESSAGE_BYTES_MAX: usize = 8 << 20;
/// Bytes of a `FlowBatch` after decompression. Agents begin a new entry at 4 MiB.
pub const BATCH_BYTES_MAX: usize = 8 << 20;
/// Records in a batch: more than 4 MiB of the shortest ones.
pub const BATCH_RECORDS_MAX: usize = 65_536;
/// Alerts in a batch.
pub const BATCH_ALERTS_MAX: usize = 16_384;
/// Bytes of one encoded record. Its metadata is at most 255 values and 24 KiB of text.
pub const RECORD_BYTES_MAX: usize = 64 << 10;
/// Metadata values in one encoded record, of which 255 are kept.
pub const RECORD_ATTRIBUTES_MAX: usize = 1_024;
/// Ids of metadata values: those of the field table, with room for those of newer agents. A block has a column for each.
pub const ATTRIBUTE_IDS: std::ops::RangeInclusive<u16> = gnomon_flow::field::ATTRIBUTE_ID_FIRST..=2_999;
/// Packets, bytes and nanoseconds that a record counts: a day at 400 Gbit/s is a sixteenth of it.
pub const COUNTER_MAX: u64 = 1 << 56;
/// Bytes of an interface's name: a file that was imported is one, and file names have at most so many.
pub const INTERFACE_BYTES_MAX: usize = 255;
/// Bytes of an agent's name and version, of the names and values of its labels; longer ones are cut.
pub const TEXT_BYTES_MAX: usize = 256;
/// Bytes of a sentence in a heartbeat: a mode with its reasons, an error; longer ones are cut.
pub const SENTENCE_BYTES_MAX: usize = 1_024;
/// Labels of an agent.
pub const LABELS_MAX: usize = 64;
/// Epochs that a Hello says were acknowledged.
pub const HELLO_EPOCHS_MAX: usize = 4_096;
/// Bytes of an encoded Hello.
pub const HELLO_BYTES_MAX: usize = 512 << 10;
/// Fixes in one clock report. A timeline keeps 256.
pub const REPORT_FIXES_MAX: usize = 1_024;
/// Bytes of an encoded clock report.
pub const REPORT_BYTES_MAX: usize = 64 << 10;
/// Bytes of an encoded heartbeat.
pub const HEARTBEAT_BYTES_MAX: usize = 256 << 10;
/// Interfaces in a heartbeat.
pub const HEARTBEAT_INTERFACES_MAX: usize = 1_024;
/// Reasons of drops, and queues, of one interface in a heartbeat.
pub const INTERFACE_COUNTS_MAX: usize = 64;

/// A field of a message, as it stands in the bytes.
#[derive(Clone, Copy)]
pub(crate) enum Raw<'b> {
    Number,
    Bytes(&'b [u8]),
}

/// The fields of a message one after the other, whatever their numbers (protobuf.dev/programming-guides/encoding).
pub(crate) struct RawFields<'b> {
    bytes: &'b [u8],
}

impl<'b> RawFields<'b> {
    pub(crate) fn of(bytes: &'b [u8]) -> RawFields<'b> {
        RawFields { bytes }
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0u64;
        for at in 0..10 {
            let (byte, rest) = self.bytes.split_first()?;
            self.bytes = rest;
            value |= u64::from(byte & 0x7f).checked_shl(7 * at).unwrap_or(0);
            if *byte < 0x80 {
                return Some(value);
            }
        }
        None
    }

    fn skip(&mut self, len: usize) -> Option<&'b [u8]> {
        let (skipped, rest) = self.bytes.split_at_checked(len)?;
        self.bytes = rest;
        Some(skipped)
    }

    fn field(&mut self) -> Option<(u64, Raw<'b>)> {
        let tag = self.varint()?;
        let raw = match tag & 7 {
            0 => self.varint().map(|_| Raw::Number)?,
            1 => self.skip(8).map(|_| Raw::Number)?,
            2 => {
                let len = usize::try_from(self.varint()?).ok()?;
                Raw::Bytes(self.skip(len)?)
            }
            5 => self.skip(4).map(|_| Raw::Number)?,
            // Groups are of before proto3.
            _ => return None,
        };
        Some((tag >> 3, raw))
    }
}

impl<'b> Iterator for RawFields<'b> {
    /// The field's number; `None` where the bytes are no protobuf, after which nothing follows.
    type Item = Option<(u64, Raw<'b>)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.bytes.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_none() {
            self.bytes = &[];
        }
        Some(field)
    }
}

fn too_many(field: &'static str, found: usize, max: usize) -> WireError {
    WireError::new(field, format!("{found} are more than {max}"))
}

fn malformed(field: &'static str) -> WireError {
    WireError::new(field, "is no protobuf")
}

/// Counts fields of one number, over all occurrences of a message.
struct Count {
    name: &'static str,
    max: usize,
    found: usize,
}

impl Count {
    fn of(name: &'static str, max: usize) -> Count {
        Count { name, max, found: 0 }
    }

    fn one_more(&mut self) -> Result<(), WireError> {
        self.found += 1;
        if self.found > self.max { Err(too_many(self.name, self.found, self.max)) } else { Ok(()) }
    }
}

fn at_most(field: &'static str, bytes: &[u8], max: usize) -> Result<(), WireError> {
    if bytes.len() > max {
        return Err(WireError::new(field, format!("{} bytes are more than {max}", bytes.len())));
    }
    Ok(())
}

/// Whether the bytes of a [`v1::AgentMessage`] are within bounds; asked before they are decoded. What of them is no protobuf
/// is for the decoder to refuse.
///
/// # Errors
/// What there is too much of.
pub fn check_agent_message(bytes: &[u8]) -> Result<(), WireError> {
    let mut labels = Count::of("hello.labels", LABELS_MAX);
    let mut acked = Count::of("hello.acked", HELLO_EPOCHS_MAX);
    let mut interfaces = Count::of("heartbeat.interfaces", HEARTBEAT_INTERFACES_MAX);
    let mut fixes = Count::of("clock.fixes", REPORT_FIXES_MAX);
    // A message may say its body more than once, and all of it is decoded: it counts together.
    let mut body = 0;
    for field in RawFields::of(bytes) {
        let Some((number, Raw::Bytes(inside))) = field else { continue };
        body += inside.len();
        match number {
            1 => {
                at_most("hello", inside, HELLO_BYTES_MAX)?;
                each(inside, "hello", |number, _| match number {
                    6 => labels.one_more(),
                    8 => acked.one_more(),
                    _ => Ok(()),
                })?;
            }
            3 => {
                if body > HEARTBEAT_BYTES_MAX {
                    let problem = format!("{body} bytes are more than {HEARTBEAT_BYTES_MAX}");
                    return Err(WireError::new("heartbeat", problem));
                }
                each(inside, "heartbeat", |number, interface| {
                    if number != 3 {
                        return Ok(());
                    }
                    interfaces.one_more()?;
                    let mut drops = Count::of("heartbeat.interfaces.drops", INTERFACE_COUNTS_MAX);
                    let mut queues = Count::of("heartbeat.interfaces.queues", INTERFACE_COUNTS_MAX);
                    each(interface, "heartbeat.interfaces", |number, _| match number {
                        7 => drops.one_more(),
                        11 => queues.one_more(),
                        _ => Ok(()),
                    })
                })?;
            }
            4 => {
                at_most("clock", inside, REPORT_BYTES_MAX)?;
                each(inside, "clock", |number, _| if number == 2 { fixes.one_more() } else { Ok(()) })?;
            }
            _ => {}
        }
    }
    Ok(())
}

fn each(
    bytes: &[u8],
    name: &'static str,
    mut each: impl FnMut(u64, &[u8]) -> Result<(), WireError>,
) -> Result<(), WireError> {
    for field in RawFields::of(bytes) {
        match field {
            Some((number, Raw::Bytes(inside))) => each(number, inside)?,
            Some(_) => {}
            None => return Err(malformed(name)),
        }
    }
    Ok(())
}

/// Whether an id can be that of a metadata value: never that of a column that every record has.
pub fn is_attribute_id(id: u32) -> bool {
    u16::try_from(id).is_ok_and(|id| ATTRIBUTE_IDS.contains(&id))
}

pub(crate) fn is_attribute(field: FieldId) -> bool {
    ATTRIBUTE_IDS.contains(&field.0)
}

/// Whether a record says nothing impossible in number or size.
pub(crate) fn check_record(record: &v1::FlowRecord) -> Result<(), WireError> {
    let counter = |field: &'static str, n: u64| {
        if n > COUNTER_MAX {
            return Err(WireError::new(field, format!("{n} is more than {COUNTER_MAX}")));
        }
        Ok(())
    };
    for way in [&record.orig, &record.resp].into_iter().flatten() {
        counter("direction.packets", way.packets)?;
        counter("direction.bytes", way.bytes)?;
        counter("direction.ip_bytes", way.ip_bytes)?;
        counter("direction.data_bytes", way.data_bytes)?;
        counter("direction.fragments", way.fragments)?;
    }
    counter("record.sliced_packets", record.sliced_packets)?;
    counter("record.sliced_bytes", record.sliced_bytes)?;
    counter("tcp.rtt_ns", record.tcp.as_ref().and_then(|tcp| tcp.rtt_ns).unwrap_or(0))?;
    if record.attributes.len() > RECORD_ATTRIBUTES_MAX {
        return Err(too_many("record.attributes", record.attributes.len(), RECORD_ATTRIBUTES_MAX));
    }
    match record.attributes.iter().find(|attribute| !is_attribute_id(attribute.field)) {
        Some(wrong) => {
            Err(WireError::new("attribute.field", format!("{} is no metadata field", wrong.field)))
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::Message as _;

    use super::*;
    use v1::agent_message::Body;

    fn refused(body: Body) -> Option<&'static str> {
        let bytes = v1::AgentMessage { body: Some(body) }.encode_to_vec();
        check_agent_message(&bytes).err().map(|error| error.field)
    }

    fn heartbeat(interfaces: Vec<v1::InterfaceStatus>) -> Body {
        Body::Heartbeat(v1::Heartbeat { interfaces, ..Default::default() })
    }

    #[test]
    fn what_there_is_too_much_of_is_named() {
        let labels = |n: usize| (0..n).map(|n| (n.to_string(), String::new())).collect();
        let hello = |n| Body::Hello(v1::Hello { labels: labels(n), ..Default::default() });
        assert_eq!(
            (refused(hello(LABELS_MAX)), refused(hello(LABELS_MAX + 1))),
            (None, Some("hello.labels"))
        );
        let acked = vec![v1::Ack::default(); HELLO_EPOCHS_MAX + 1];
        assert_eq!(refused(Body::Hello(v1::Hello { acked, ..Default::default() })), Some("hello.acked"));
        let name = "x".repeat(HELLO_BYTES_MAX);
        assert_eq!(refused(Body::Hello(v1::Hello { name, ..Default::default() })), Some("hello"));
        let fixes =
            |n| Body::Clock(v1::ClockReport { fixes: vec![v1::Fix::default(); n], ..Default::default() });
        assert_eq!(refused(fixes(REPORT_FIXES_MAX)), None);
        assert_eq!(refused(fixes(REPORT_FIXES_MAX + 1)), Some("clock.fixes"));
        let of = v1::InterfaceStatus::default();
        assert_eq!(refused(heartbeat(vec![of.clone(); HEARTBEAT_INTERFACES_MAX])), None);
        let many = vec![of.clone(); HEARTBEAT_INTERFACES_MAX + 1];
        assert_eq!(refused(heartbeat(many)), Some("heartbeat.interfaces"));
        let drops = (0..65u64).map(|n| (n.to_string(), n)).collect();
        let of = v1::InterfaceStatus { drops, ..of };
        assert_eq!(refused(heartbeat(vec![of])), Some("heartbeat.interfaces.drops"));
        let long = v1::InterfaceStatus { error: "x".repeat(HEARTBEAT_BYTES_MAX), ..Default::default() };
        assert_eq!(refused(heartbeat(vec![long])), Some("heartbeat"));
    }

    #[test]
    fn a_body_said_in_pieces_counts_together() {
        let half = vec![v1::Fix::default(); REPORT_FIXES_MAX / 2 + 1];
        let clock = Body::Clock(v1::ClockReport { fixes: half, ..Default::default() });
        let bytes = v1::AgentMessage { body: Some(clock) }.encode_to_vec();
        assert!(check_agent_message(&bytes).is_ok());
        assert!(check_agent_message(&[bytes.clone(), bytes].concat()).is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes: Vec<u8>) {
            let _ = check_agent_message(&bytes);
        }
    }
}
