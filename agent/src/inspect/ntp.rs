//! NTP: modes, versions, strata, and the requests that amplify (RFC 5905 §7.3; mode 6: RFC 9327; mode 7 as ntpd's
//! `ntp_request.h` has it).

use gnomon_flow::{Attributes, field};

use super::stream::Memory;

const PORT: u16 = 123;

const HEADER_BYTES: usize = 48;
/// Mode 6 (RFC 9327 §2): sequence, status, association, offset, count.
const CONTROL_HEADER_BYTES: usize = 12;
const PRIVATE_HEADER_BYTES: usize = 8;

const CONTROL: u8 = 6;
const PRIVATE: u8 = 7;

/// Set in the first byte of a mode 7 answer, and in the second of a mode 6 answer.
const RESPONSE: u8 = 0x80;
/// An answer so many times as long as its request serves who forges requests.
const AMPLIFIES: usize = 5;

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
pub(super) fn datagram(bytes: &[u8], ports: [u16; 2], memory: &mut Memory, out: &mut Attributes) -> bool {
    let [first, second, third, fourth, ..] = *bytes else { return false };
    if !ports.contains(&PORT) || bytes.len() < PRIVATE_HEADER_BYTES {
        return false;
    }
    let mode = first & 7;
    let version = first >> 3 & 7;
    let sound = match mode {
        0 => false,
        CONTROL => bytes.len() >= CONTROL_HEADER_BYTES && (1..=4).contains(&version),
        PRIVATE => third <= PRIVATE_IMPLEMENTATION_MAX,
        // Stratum 16 is "unsynchronised", above is reserved.
        _ => bytes.len() >= HEADER_BYTES && (1..=4).contains(&version) && second <= 16,
    };
    if !sound {
        return false;
    }
    out.text(field::NTP_MODE, MODES[usize::from(mode)]);
    out.integer(field::NTP_VERSION, version);
    match mode {
        CONTROL => amplification(second & RESPONSE != 0, bytes.len(), CONTROL_HEADER_BYTES, memory, out),
        PRIVATE => {
            if matches!(fourth, MON_GETLIST | MON_GETLIST_1) {
                out.integer(field::NTP_MONLIST, 1u8);
            }
            amplification(first & RESPONSE != 0, bytes.len(), PRIVATE_HEADER_BYTES, memory, out);
        }
        _ => {
            let stratum = match second {
                0 => "unspecified",
                1 => "primary",
                2..=15 => "secondary",
                _ => "unsynchronized",
            };
            out.text(field::NTP_STRATUM, stratum);
        }
    }
    true
}

/// An answer is compared with the last request; where none was seen, with the shortest one.
fn amplification(is_answer: bool, bytes: usize, bytes_min: usize, memory: &mut Memory, out: &mut Attributes) {
    if !is_answer {
        memory.set(Memory::Ntp(bytes as u32));
        return;
    }
    let asked = match memory {
        Memory::Ntp(bytes) => *bytes as usize,
        _ => bytes_min,
    };
    if bytes >= asked.saturating_mul(AMPLIFIES) {
        out.integer(field::NTP_AMPLIFICATION, 1u8);
    }
}
