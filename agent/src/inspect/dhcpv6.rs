//! DHCPv6: who asks, and what is assigned (RFC 8415 §8, §9, §11 and §21; RFC 4704 for names).

use std::net::Ipv6Addr;

use gnomon_flow::{Attributes, field};

use super::reader::Reader;
use super::{claim_lower, dhcp, hex};

const CLIENT_PORT: u16 = 546;
const SERVER_PORT: u16 = 547;
const OPTIONS_MAX: usize = 64;
const RELAYS_MAX: usize = 4;

const CLIENT_ID: u16 = 1;
const IA_NA: u16 = 3;
const IA_TA: u16 = 4;
const IA_ADDRESS: u16 = 5;
const RELAY_MESSAGE: u16 = 9;
const CLIENT_FQDN: u16 = 39;

const REPLY: u8 = 7;
const ADVERTISE: u8 = 2;
const RELAY_FORWARD: u8 = 12;
const RELAY_REPLY: u8 = 13;

const TYPES: [&str; 14] = [
    "",
    "SOLICIT",
    "ADVERTISE",
    "REQUEST",
    "CONFIRM",
    "RENEW",
    "REBIND",
    "REPLY",
    "RELEASE",
    "DECLINE",
    "RECONFIGURE",
    "INFORMATION-REQUEST",
    "RELAY-FORW",
    "RELAY-REPL",
];

/// Reads a datagram on DHCPv6's ports whose options fill it. It has nothing else to know it by.
pub(super) fn datagram(bytes: &[u8], ports: [u16; 2], out: &mut Attributes) -> bool {
    if !ports.iter().any(|port| matches!(*port, CLIENT_PORT | SERVER_PORT)) {
        return false;
    }
    let mut bytes = bytes;
    for _ in 0..=RELAYS_MAX {
        let Some(kind) = bytes.first().copied() else { return false };
        let Some(name) = TYPES.get(usize::from(kind)).filter(|name| !name.is_empty()) else { return false };
        let is_relay = matches!(kind, RELAY_FORWARD | RELAY_REPLY);
        // Hop count and two addresses, or a transaction id.
        let Some(options) = bytes.get(if is_relay { 34 } else { 4 }..) else { return false };
        if !fill(options) {
            return false;
        }
        out.text(field::DHCP_TYPE, name);
        if !is_relay {
            out.text(field::DHCP_ID, &hex(&bytes[1..4]));
        }
        let mut inner = None;
        each(options, |option, value| match option {
            RELAY_MESSAGE if is_relay => inner = Some(value),
            CLIENT_ID => client_id(value, out),
            CLIENT_FQDN => {
                claim_lower(out, field::DHCP_HOST, &dhcp::labels(value.get(1..).unwrap_or_default()))
            }
            IA_NA | IA_TA => {
                let assigns = matches!(kind, REPLY | ADVERTISE);
                let addresses = value.get(if option == IA_NA { 12 } else { 4 }..).unwrap_or_default();
                each(addresses, |option, value| {
                    if let (IA_ADDRESS, Some(octets)) = (option, value.first_chunk::<16>()) {
                        let field = if assigns { field::DHCP_ASSIGNED_IP } else { field::DHCP_REQUEST_IP };
                        out.ip(field, Ipv6Addr::from(*octets));
                    }
                });
            }
            _ => {}
        });
        match inner {
            Some(message) => bytes = message,
            None => break,
        }
    }
    true
}

/// The hardware address in a DUID (RFC 8415 §11.2 and §11.4): with a time, or alone.
fn client_id(duid: &[u8], out: &mut Attributes) {
    match duid {
        [0, 1, 0, 1, _, _, _, _, address @ ..] | [0, 3, 0, 1, address @ ..] => dhcp::mac(address, out),
        _ => {}
    }
}

fn fill(options: &[u8]) -> bool {
    let mut reader = Reader::new(options);
    while !reader.rest().is_empty() {
        if reader.u16().is_none() || reader.vector_u16().is_none() {
            return false;
        }
    }
    true
}

fn each<'a>(options: &'a [u8], mut sink: impl FnMut(u16, &'a [u8])) {
    let mut reader = Reader::new(options);
    for _ in 0..OPTIONS_MAX {
        let (Some(kind), Some(value)) = (reader.u16(), reader.vector_u16()) else { return };
        sink(kind, value);
    }
}
