//! NetBIOS name service (RFC 1002 §4.2; the names' encoding: RFC 1001 §14.1), on its port.

use std::net::Ipv4Addr;

use gnomon_flow::{Attributes, field};

use super::claim;
use super::reader::Reader;

const PORT: u16 = 137;
const NAME_BYTES: usize = 32;
const TYPE_NB: u16 = 0x20;
const TYPE_NBSTAT: u16 = 0x21;
const POINTER: u8 = 0xc0;

pub(super) fn datagram(bytes: &[u8], ports: [u16; 2], out: &mut Attributes) -> bool {
    if !ports.contains(&PORT) {
        return false;
    }
    read(bytes, out).is_some()
}

fn read(bytes: &[u8], out: &mut Attributes) -> Option<()> {
    let mut reader = Reader::new(bytes);
    let (_id, _flags) = (reader.u16()?, reader.u16()?);
    let (questions, answers) = (reader.u16()?, reader.u16()?);
    let (_authorities, additionals) = (reader.u16()?, reader.u16()?);
    if questions > 1 || answers > 1 || questions + answers == 0 {
        return None;
    }
    let name = name(&mut reader)?;
    let kind = reader.u16()?;
    let _class = reader.u16()?;
    if !matches!(kind, TYPE_NB | TYPE_NBSTAT) {
        return None;
    }
    claim(out, field::NBNS_NAME, name.trim_ascii());
    // A registration has its address in an additional record, which points to the question's name.
    if questions == 1 && additionals > 0 && reader.rest().first().is_some_and(|byte| *byte >= POINTER) {
        reader.take(2 + 4)?;
    }
    if kind == TYPE_NB && (answers == 1 || additionals > 0) {
        let _time_to_live = reader.u32()?;
        let addresses = reader.vector_u16()?;
        for [_, _, a, b, c, d] in addresses.as_chunks::<6>().0.iter().take(16) {
            out.ip(field::NBNS_IP, Ipv4Addr::new(*a, *b, *c, *d));
        }
    }
    Some(())
}

/// 32 letters stand for 16 bytes, of which the last one is the name's kind.
fn name(reader: &mut Reader<'_>) -> Option<Vec<u8>> {
    let text = reader.vector_u8().filter(|text| text.len() == NAME_BYTES)?;
    let mut name = Vec::with_capacity(NAME_BYTES / 2);
    for [high, low] in text.as_chunks::<2>().0 {
        let half = |letter: u8| (b'A'..=b'P').contains(&letter).then(|| letter - b'A');
        name.push(half(*high)? << 4 | half(*low)?);
    }
    // The scope, of labels.
    while !reader.vector_u8()?.is_empty() {}
    name.truncate(15);
    let end = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
    name.truncate(end);
    Some(name)
}
