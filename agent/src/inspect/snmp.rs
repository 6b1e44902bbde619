//! SNMP 1, 2c and 3: communities, users, what is asked (RFC 1157 §4, RFC 3416 §3, RFC 3412 §6, RFC 3414 §2.4).

use gnomon_flow::{Attributes, field};

use super::der::{Der, INTEGER, OBJECT_IDENTIFIER, OCTET_STRING, SEQUENCE, object_identifier, small};
use super::{claim, claim_user};

const VARIABLES_MAX: usize = 8;
const TYPES: [&str; 9] = [
    "GetRequest",
    "GetNextRequest",
    "GetResponse",
    "SetRequest",
    "Trap",
    "GetBulkRequest",
    "InformRequest",
    "SNMPv2-Trap",
    "Report",
];
const ERRORS: [&str; 19] = [
    "noError",
    "tooBig",
    "noSuchName",
    "badValue",
    "readOnly",
    "genErr",
    "noAccess",
    "wrongType",
    "wrongLength",
    "wrongEncoding",
    "wrongValue",
    "noCreation",
    "inconsistentValue",
    "resourceUnavailable",
    "commitFailed",
    "undoFailed",
    "authorizationError",
    "notWritable",
    "inconsistentName",
];
const FIRST_TYPE: u8 = 0xa0;
const TRAP_1: u8 = 0xa4;

/// A sequence that fills the datagram, a version, and then a community and a PDU, or what version 3 has there.
pub(super) fn datagram(bytes: &[u8], out: &mut Attributes) -> bool {
    let mut outer = Der::new(bytes);
    let Some(mut message) = outer.enter(SEQUENCE).filter(|_| outer.rest().is_empty()) else { return false };
    match message.integer() {
        Some(version @ (0 | 1)) => {
            let Some(community) = message.value(OCTET_STRING) else { return false };
            let Some((tag, unit)) = message.element().filter(|(tag, _)| is_unit(*tag)) else { return false };
            out.integer(field::SNMP_VERSION, version + 1);
            claim(out, field::SNMP_COMMUNITY, community);
            data_unit(tag, Der::new(unit), out);
            true
        }
        Some(3) => version_3(message, out).is_some(),
        _ => false,
    }
}

fn is_unit(tag: u8) -> bool {
    (FIRST_TYPE..FIRST_TYPE + TYPES.len() as u8).contains(&tag)
}

fn version_3(mut message: Der<'_>, out: &mut Attributes) -> Option<()> {
    let mut header = message.enter(SEQUENCE)?;
    let (_id, _size) = (header.value(INTEGER)?, header.value(INTEGER)?);
    let _flags = header.value(OCTET_STRING).filter(|flags| flags.len() == 1)?;
    let _model = header.integer()?;
    let security = message.value(OCTET_STRING)?;
    out.integer(field::SNMP_VERSION, 3u8);
    // The user-based model: engine, boots, time, user.
    if let Some(mut parameters) = Der::new(security).enter(SEQUENCE) {
        let _engine = parameters.value(OCTET_STRING);
        let _clock = (parameters.value(INTEGER), parameters.value(INTEGER));
        claim_user(out, None, parameters.value(OCTET_STRING).unwrap_or_default());
    }
    // In the clear a scoped PDU, else an octet string.
    if let Some(mut scoped) = message.enter(SEQUENCE) {
        let _context = (scoped.value(OCTET_STRING)?, scoped.value(OCTET_STRING)?);
        let (tag, unit) = scoped.element().filter(|(tag, _)| is_unit(*tag))?;
        data_unit(tag, Der::new(unit), out);
    }
    Some(())
}

fn data_unit(tag: u8, mut unit: Der<'_>, out: &mut Attributes) -> Option<()> {
    out.text(field::SNMP_TYPE, TYPES.get(usize::from(tag - FIRST_TYPE))?);
    if tag == TRAP_1 {
        claim_identifier(unit.value(OBJECT_IDENTIFIER)?, out);
        let _address = unit.element()?;
        let _numbers = (unit.element()?, unit.element()?, unit.element()?);
    } else {
        let (_id, error, _index) = (unit.value(INTEGER)?, unit.value(INTEGER)?, unit.value(INTEGER)?);
        // A bulk request has a count there.
        if let Some(error) = small(error).filter(|error| *error > 0 && tag != 0xa5) {
            let name = ERRORS.get(error as usize).copied().unwrap_or("unknown");
            out.text(field::SNMP_ERROR, name);
        }
    }
    for (_, binding) in unit.enter(SEQUENCE)?.take(VARIABLES_MAX) {
        claim_identifier(Der::new(binding).value(OBJECT_IDENTIFIER)?, out);
    }
    Some(())
}

fn claim_identifier(content: &[u8], out: &mut Attributes) {
    if let Some(text) = object_identifier(content) {
        out.text(field::SNMP_VARIABLE, &text);
    }
}
