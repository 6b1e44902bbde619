//! STUN and TURN: kinds of messages, mapped addresses, users (RFC 8489 §5 and §14, RFC 8656 §18).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use gnomon_flow::{Attributes, field};

use super::reader::Reader;
use super::{claim, claim_user};

const MAGIC_COOKIE: u32 = 0x2112_a442;
const HEADER_BYTES: usize = 20;
const ATTRIBUTES_MAX: usize = 32;

const MAPPED_ADDRESS: u16 = 1;
const USERNAME: u16 = 6;
const XOR_MAPPED_ADDRESS: u16 = 0x20;
const SOFTWARE: u16 = 0x8022;

/// The magic cookie, and a length that is the datagram's.
pub(super) fn datagram(bytes: &[u8], out: &mut Attributes) -> bool {
    read(bytes, out).is_some()
}

fn read(bytes: &[u8], out: &mut Attributes) -> Option<()> {
    let mut reader = Reader::new(bytes);
    let (kind, length) = (reader.u16()?, reader.u16()?);
    if reader.u32()? != MAGIC_COOKIE
        || kind >> 14 != 0
        || length % 4 != 0
        || usize::from(length) + HEADER_BYTES != bytes.len()
    {
        return None;
    }
    let transaction = reader.take(12)?;
    out.text(field::STUN_TYPE, &name(kind));
    for _ in 0..ATTRIBUTES_MAX {
        let (Some(attribute), Some(value)) = (reader.u16(), reader.vector_u16()) else { break };
        let _padding = reader.take((4 - value.len() % 4) % 4);
        match attribute {
            USERNAME => claim_user(out, None, value),
            SOFTWARE => claim(out, field::STUN_SOFTWARE, value),
            MAPPED_ADDRESS | XOR_MAPPED_ADDRESS => {
                if let Some(address) = address(value, attribute == XOR_MAPPED_ADDRESS, transaction) {
                    out.ip(field::STUN_MAPPED_IP, address);
                }
            }
            _ => {}
        }
    }
    Some(())
}

/// Method and class, whose bits are mixed (RFC 8489 §5).
fn name(kind: u16) -> String {
    let class = match kind & 0x0110 {
        0x0000 => "request",
        0x0010 => "indication",
        0x0100 => "success",
        _ => "error",
    };
    let method = kind & 0xf | kind >> 1 & 0x70 | kind >> 2 & 0xf80;
    let method = match method {
        1 => "binding",
        3 => "allocate",
        4 => "refresh",
        6 => "send",
        7 => "data",
        8 => "create-permission",
        9 => "channel-bind",
        other => return format!("{other:#x} {class}"),
    };
    format!("{method} {class}")
}

fn address(value: &[u8], is_masked: bool, transaction: &[u8]) -> Option<IpAddr> {
    let mut mask = MAGIC_COOKIE.to_be_bytes().into_iter().chain(transaction.iter().copied());
    let mut octet = |octet: u8| if is_masked { octet ^ mask.next().unwrap_or(0) } else { octet };
    match value {
        [_, 1, _, _, octets @ ..] => {
            Some(IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(octets).ok()?.map(&mut octet))))
        }
        [_, 2, _, _, octets @ ..] => {
            Some(IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(octets).ok()?.map(&mut octet))))
        }
        _ => None,
    }
}
