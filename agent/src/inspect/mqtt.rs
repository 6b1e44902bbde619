//! MQTT 3.1, 3.1.1 and 5: clients, users, topics (OASIS "MQTT Version 3.1.1" §2 and §3; "MQTT Version 5.0").

use gnomon_flow::field;

use super::held::Need;
use super::protocol::Protocol;
use super::reader::Reader;
use super::stream::{Begins, Stage, Step, Turn};
use super::{claim, claim_user};

const CONNECT: u8 = 1;
const PUBLISH: u8 = 3;
const SUBSCRIBE: u8 = 8;
const TYPES: [&str; 16] = [
    "reserved",
    "connect",
    "connack",
    "publish",
    "puback",
    "pubrec",
    "pubrel",
    "pubcomp",
    "subscribe",
    "suback",
    "unsubscribe",
    "unsuback",
    "pingreq",
    "pingresp",
    "disconnect",
    "auth",
];

const WILL: u8 = 1 << 2;
const USER: u8 = 1 << 7;
const VERSION_5: u8 = 5;

/// A packet's head with the topic; what is published is not looked at.
const PREFIX_BYTES_MAX: usize = 2048;
const TOPICS_MAX: usize = 16;

/// CONNECT, with the protocol's name in it.
pub(super) fn begins(bytes: &[u8]) -> Begins {
    match length(bytes) {
        Ok(Some((header_bytes, _))) => {
            Begins::with_any(&bytes[header_bytes..], &[b"\0\x04MQTT", b"\0\x06MQIsdp"])
        }
        Ok(None) => Begins::Perhaps,
        Err(()) => Begins::No,
    }
}

/// Bytes of the fixed header, and of what follows it; `Ok(None)` when `bytes` are too few.
fn length(bytes: &[u8]) -> Result<Option<(usize, usize)>, ()> {
    let mut value = 0;
    for (nth, byte) in bytes.iter().skip(1).take(4).enumerate() {
        value |= usize::from(byte & 0x7f) << (7 * nth);
        if byte & 0x80 == 0 {
            return Ok(Some((nth + 2, value)));
        }
    }
    if bytes.len() > 4 { Err(()) } else { Ok(None) }
}

pub(super) fn stream(turn: &mut Turn<'_>, bytes: &[u8]) -> Step {
    let (header_bytes, body_bytes) = match length(bytes) {
        Ok(Some(found)) => found,
        Ok(None) => return Step::Need(Need::Bytes(bytes.len() + 1)),
        Err(()) => return Step::Finished,
    };
    let kind = bytes[0] >> 4;
    if kind == 0 {
        return Step::Finished;
    }
    let total = header_bytes + body_bytes;
    let packet = match turn.prefix(bytes, total, header_bytes + PREFIX_BYTES_MAX) {
        Ok(prefix) => prefix,
        Err(step) => return step,
    };
    turn.recognise(Protocol::Mqtt);
    turn.expect(Stage::Mqtt);
    turn.out.text(field::MQTT_TYPE, TYPES[usize::from(kind)]);
    let mut reader = Reader::new(&packet[header_bytes..]);
    // None where the packet breaks; the next one may yet be sound.
    let _ = match kind {
        CONNECT => connect(turn, &mut reader),
        PUBLISH => topic(turn, &mut reader),
        SUBSCRIBE => subscribe(turn, &mut reader),
        _ => None,
    };
    turn.took(bytes, total)
}

fn connect(turn: &mut Turn<'_>, reader: &mut Reader<'_>) -> Option<()> {
    let _name = reader.vector_u16()?;
    let level = reader.u8()?;
    let flags = reader.u8()?;
    let _keep_alive = reader.u16()?;
    turn.out.text(
        field::MQTT_VERSION,
        match level {
            3 => "3.1",
            4 => "3.1.1",
            5 => "5.0",
            _ => "unknown",
        },
    );
    properties(level, reader)?;
    claim(turn.out, field::MQTT_CLIENT_ID, reader.vector_u16()?);
    if flags & WILL != 0 {
        properties(level, reader)?;
        claim(turn.out, field::MQTT_TOPIC, reader.vector_u16()?);
        let _message = reader.vector_u16()?;
    }
    if flags & USER != 0 {
        claim_user(turn.out, None, reader.vector_u16()?);
    }
    Some(())
}

/// Version 5 has properties before the rest; they are passed.
fn properties(level: u8, reader: &mut Reader<'_>) -> Option<()> {
    if level >= VERSION_5 {
        let mut length = 0;
        for shift in [0, 7, 14, 21] {
            let byte = reader.u8()?;
            length |= usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                break;
            }
        }
        reader.take(length)?;
    }
    Some(())
}

fn topic(turn: &mut Turn<'_>, reader: &mut Reader<'_>) -> Option<()> {
    claim(turn.out, field::MQTT_TOPIC, reader.vector_u16()?);
    Some(())
}

/// The version is not remembered: properties look like a topic of no or little length, and are tried first.
fn subscribe(turn: &mut Turn<'_>, reader: &mut Reader<'_>) -> Option<()> {
    let _id = reader.u16()?;
    let body = reader.rest();
    for level in [VERSION_5 - 1, VERSION_5] {
        let mut attempt = Reader::new(body);
        properties(level, &mut attempt)?;
        if let Some(topics) = topics(attempt) {
            for topic in topics {
                claim(turn.out, field::MQTT_TOPIC, topic);
            }
            break;
        }
    }
    Some(())
}

/// Topics with their options, if they fill the packet.
fn topics(mut reader: Reader<'_>) -> Option<Vec<&[u8]>> {
    let mut topics = Vec::new();
    while !reader.rest().is_empty() && topics.len() < TOPICS_MAX {
        let topic = reader.vector_u16().filter(|topic| !topic.is_empty())?;
        let options = reader.u8()?;
        if options & 3 == 3 || options >> 6 != 0 {
            return None;
        }
        topics.push(topic);
    }
    (!topics.is_empty()).then_some(topics)
}
