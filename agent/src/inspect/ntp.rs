//! NTP: modes, and the monlist request that amplifies (RFC 5905 §7.3; mode 7 as ntpd's `ntp_request.h` has it).

use gnomon_flow::{AttributeValue, Attributes, field};

const PORT: u16 = 123;

const HEADER_BYTES: usize = 48;
/// Mode 6 (RFC 9327 §2): sequence, status, association, offset, count.
const CONTROL_HEADER_BYTES: usize = 12;
const PRIVATE_HEADER_BYTES: usize = 8;

const CONTROL: u8 = 6;
const PRIVATE: u8 = 7;

/// Implementation numbers of ntpd's private mode: universal, old, current.
const PRIVATE_IMPLEMENTATION_MAX: u8 = 3;
const MON_GETLIST: u8 = 20;
const MON_GETLIST_1: u8 = 42;

const MODES: [&str; 8] = [
    "reserved",
    "symmetric-active",
    "symmetric-passive",
    "client",
    "server",
    "broadcast",
    "control",
    "private",
];

/// Reads a datagram on NTP's port; false when it is none of its messages. An NTP header is mostly numbers, too little
/// to know it by on other ports.
pub(super) fn datagram(bytes: &[u8], ports: [u16; 2], out: &mut Attributes) -> bool {
    if !ports.contains(&PORT) || bytes.len() < PRIVATE_HEADER_BYTES {
        return false;
    }
    let mode = bytes[0] & 7;
    let version = bytes[0] >> 3 & 7;
    let sound = match mode {
        0 => false,
        CONTROL => bytes.len() >= CONTROL_HEADER_BYTES && (1..=4).contains(&version),
        PRIVATE => bytes[2] <= PRIVATE_IMPLEMENTATION_MAX,
        // Stratum 16 is "unsynchronised", above is reserved.
        _ => bytes.len() >= HEADER_BYTES && (1..=4).contains(&version) && bytes[1] <= 16,
    };
    if !sound {
        return false;
    }
    out.text(field::NTP_MODE, MODES[usize::from(mode)]);
    if mode == PRIVATE && matches!(bytes[3], MON_GETLIST | MON_GETLIST_1) {
        out.push(field::NTP_MONLIST, AttributeValue::Integer(1));
    }
    true
}
