//! RADIUS: who logs in, from where, and what is assigned (RFC 2865 §3 and §5, RFC 2866, RFC 5176).

use std::net::{IpAddr, Ipv4Addr};

use gnomon_flow::{Attributes, field};

use super::claim_user;
use super::reader::Reader;

const HEADER_BYTES: usize = 20;
const MESSAGE_BYTES_MAX: usize = 4096;

const USER_NAME: u8 = 1;
const FRAMED_ADDRESS: u8 = 8;
const CALLING_STATION: u8 = 31;
const TUNNEL_CLIENT_ENDPOINT: u8 = 66;

const TYPES: [(u8, &str); 14] = [
    (1, "access-request"),
    (2, "access-accept"),
    (3, "access-reject"),
    (4, "accounting-request"),
    (5, "accounting-response"),
    (11, "access-challenge"),
    (12, "status-server"),
    (13, "status-client"),
    (40, "disconnect-request"),
    (41, "disconnect-ack"),
    (42, "disconnect-nak"),
    (43, "coa-request"),
    (44, "coa-ack"),
    (45, "coa-nak"),
];

/// A known code, and a length that is the datagram's and that attributes fill. One attribute at least where the code
/// asks for one.
pub(super) fn datagram(bytes: &[u8], out: &mut Attributes) -> bool {
    let Some((header, attributes)) = bytes.split_at_checked(HEADER_BYTES) else { return false };
    let Some((code, name)) = TYPES.iter().find(|(code, _)| *code == header[0]) else { return false };
    let length = usize::from(u16::from_be_bytes([header[2], header[3]]));
    if length != bytes.len() || length > MESSAGE_BYTES_MAX {
        return false;
    }
    let asks = matches!(code, 1 | 4 | 11 | 12 | 40 | 43);
    if (asks && attributes.is_empty()) || attributes_of(attributes, |_, _| {}).is_none() {
        return false;
    }
    out.text(field::RADIUS_TYPE, name);
    attributes_of(attributes, |kind, value| attribute(kind, value, out));
    true
}

fn attributes_of(attributes: &[u8], mut sink: impl FnMut(u8, &[u8])) -> Option<()> {
    let mut reader = Reader::new(attributes);
    while !reader.rest().is_empty() {
        let kind = reader.u8().filter(|kind| *kind != 0)?;
        let length = usize::from(reader.u8()?);
        sink(kind, reader.take(length.checked_sub(2)?)?);
    }
    Some(())
}

fn attribute(kind: u8, value: &[u8], out: &mut Attributes) {
    match kind {
        USER_NAME => claim_user(out, Some(field::RADIUS_USER), value),
        FRAMED_ADDRESS => {
            if let Ok(octets) = <[u8; 4]>::try_from(value) {
                out.ip(field::RADIUS_FRAMED_IP, Ipv4Addr::from(octets));
            }
        }
        CALLING_STATION => {
            if let Some(mac) = mac(value) {
                out.text(field::RADIUS_MAC, &field::mac_text(mac));
            }
        }
        TUNNEL_CLIENT_ENDPOINT => {
            // A tag may stand before the text.
            let text = value.strip_prefix(&[0]).unwrap_or(value);
            if let Some(address) = std::str::from_utf8(text).ok().and_then(|text| text.parse::<IpAddr>().ok())
            {
                out.ip(field::RADIUS_ENDPOINT_IP, address);
            }
        }
        _ => {}
    }
}

/// Twelve hexadecimal digits, however they are parted.
fn mac(text: &[u8]) -> Option<[u8; 6]> {
    let mut digits = [0u8; 12];
    let mut count = 0;
    for byte in text {
        if let Some(digit) = char::from(*byte).to_digit(16) {
            *digits.get_mut(count)? = digit as u8;
            count += 1;
        } else if !matches!(byte, b'-' | b':' | b'.') {
            // A network's name may follow (RFC 3580 §3.20).
            break;
        }
    }
    let mut mac = [0; 6];
    for (byte, [high, low]) in mac.iter_mut().zip(digits.as_chunks::<2>().0) {
        *byte = high << 4 | low;
    }
    (count == 12).then_some(mac)
}
