//! DHCP: who asks, for what, and what is assigned (RFC 2131 §2, options of RFC 2132, RFC 4702 for names).

use std::net::Ipv4Addr;

use gnomon_flow::{Attributes, field};

use super::reader::Reader;
use super::{claim, claim_lower, hex};

const HEADER_BYTES: usize = 236;
const MAGIC_COOKIE: u32 = 0x6382_5363;
const ETHERNET: u8 = 1;
const MAC_BYTES: u8 = 6;
const OPTIONS_MAX: usize = 64;

const PAD: u8 = 0;
const HOST_NAME: u8 = 12;
const REQUESTED_ADDRESS: u8 = 50;
const MESSAGE_TYPE: u8 = 53;
const VENDOR_CLASS: u8 = 60;
const CLIENT_ID: u8 = 61;
const CLIENT_FQDN: u8 = 81;
const END: u8 = 255;

const TYPES: [&str; 19] = [
    "",
    "DISCOVER",
    "OFFER",
    "REQUEST",
    "DECLINE",
    "ACK",
    "NAK",
    "RELEASE",
    "INFORM",
    "FORCERENEW",
    "LEASEQUERY",
    "LEASEUNASSIGNED",
    "LEASEUNKNOWN",
    "LEASEACTIVE",
    "BULKLEASEQUERY",
    "LEASEQUERYDONE",
    "ACTIVELEASEQUERY",
    "LEASEQUERYSTATUS",
    "TLS",
];

/// A BOOTP header with DHCP's magic cookie behind it.
pub(super) fn datagram(bytes: &[u8], out: &mut Attributes) -> bool {
    let Some((header, options)) = bytes.split_at_checked(HEADER_BYTES) else { return false };
    let mut options = Reader::new(options);
    if options.u32() != Some(MAGIC_COOKIE) || !matches!(header[0], 1 | 2) {
        return false;
    }
    out.text(field::DHCP_ID, &hex(&header[4..8]));
    let assigned = Ipv4Addr::new(header[16], header[17], header[18], header[19]);
    if !assigned.is_unspecified() {
        out.ip(field::DHCP_ASSIGNED_IP, assigned);
    }
    if header[1] == ETHERNET && header[2] == MAC_BYTES {
        mac(&header[28..34], out);
    }
    for _ in 0..OPTIONS_MAX {
        let Some(kind) = options.u8().filter(|kind| *kind != END) else { break };
        if kind == PAD {
            continue;
        }
        let Some(value) = options.vector_u8() else { break };
        option(kind, value, out);
    }
    true
}

fn option(kind: u8, value: &[u8], out: &mut Attributes) {
    match (kind, value) {
        (MESSAGE_TYPE, [number]) => {
            if let Some(name) = TYPES.get(usize::from(*number)).filter(|name| !name.is_empty()) {
                out.text(field::DHCP_TYPE, name);
            }
        }
        (HOST_NAME, name) => claim_lower(out, field::DHCP_HOST, name.strip_suffix(&[0]).unwrap_or(name)),
        (VENDOR_CLASS, class) => claim(out, field::DHCP_CLASS_ID, class),
        (REQUESTED_ADDRESS, [a, b, c, d]) => {
            out.ip(field::DHCP_REQUEST_IP, Ipv4Addr::new(*a, *b, *c, *d));
        }
        (CLIENT_ID, [ETHERNET, address @ ..]) => mac(address, out),
        // Flags and two result codes; a name in DNS's form where flag E (4) is set, else in ASCII.
        (CLIENT_FQDN, [flags, _, _, name @ ..]) => {
            if flags & 4 == 0 {
                claim_lower(out, field::DHCP_HOST, name);
            } else {
                claim_lower(out, field::DHCP_HOST, &labels(name));
            }
        }
        _ => {}
    }
}

pub(super) fn mac(address: &[u8], out: &mut Attributes) {
    if let Ok(mac) = <[u8; 6]>::try_from(address)
        && mac != [0; 6]
    {
        out.text(field::DHCP_MAC, &field::mac_text(mac));
    }
}

/// A name of labels without pointers (RFC 1035 §3.1), joined by dots.
pub(super) fn labels(name: &[u8]) -> Vec<u8> {
    let mut reader = Reader::new(name);
    let mut text = Vec::new();
    while let Some(label) = reader.vector_u8().filter(|label| !label.is_empty()) {
        if !text.is_empty() {
            text.push(b'.');
        }
        text.extend(label);
    }
    text
}
