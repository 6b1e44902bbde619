//! Frames that come twice: a mirror port that copies a packet in and out, two taps on one path. They are no retransmissions.
//!
//! A frame repeats another when both are of one flow and direction, equal in what tells packets apart, and at most
//! [`WITHIN_NS`] lie between them. What tells packets apart is what IP says (identification, lengths, fragment; not TTL and
//! checksum, which routers change) and the first 32 bytes above it: ports, sequence and acknowledgement numbers, flags, window,
//! checksum, which covers the payload, and options or payload. A host that sends again takes a new identification, and waits
//! for a round trip at least.
//!
//! Bounded: the last frames are kept in 16 KiB, one for each place that a hash can be. One that is driven out within
//! that time is not known again.

use gnomon_capture::Frame;
use gnomon_clock::RawNs;

use crate::decode::Packet;

/// Copies come microseconds apart; the fastest retransmission over a real path is later.
pub(super) const WITHIN_NS: u64 = 1_000_000;
/// Looked at above the IP header.
const ABOVE_IP: usize = 32;
const PLACES: usize = 2048;

#[derive(Clone, Copy, Debug, Default)]
struct Place {
    /// Of the frame's hash, what its place does not say.
    tag: u32,
    /// Time in units of 1,024 ns.
    at: u32,
}

#[derive(Debug)]
pub(super) struct Repeats {
    places: Box<[Place; PLACES]>,
}

impl Default for Repeats {
    fn default() -> Repeats {
        Repeats { places: Box::new([Place::default(); PLACES]) }
    }
}

impl Repeats {
    /// Whether the frame repeats one before it. `flow` is the hash of its flow and direction.
    #[inline(always)]
    pub(super) fn is_repeat(&mut self, flow: u64, frame: &Frame<'_>, packet: &Packet<'_>) -> bool {
        let hash = mix(flow ^ fingerprint(frame.data, packet));
        let (tag, at) = ((hash >> 32) as u32 | 1, ticks(frame.stamp.raw));
        let place = &mut self.places[hash as usize % PLACES];
        let gap = at.wrapping_sub(place.at);
        // A copy may be stamped a little earlier.
        let is_near = gap <= ticks(RawNs(WITHIN_NS)) || gap.wrapping_neg() <= ticks(RawNs(WITHIN_NS));
        let is_repeat = place.tag == tag && is_near;
        *place = Place { tag, at };
        is_repeat
    }
}

#[inline(always)]
fn ticks(raw: RawNs) -> u32 {
    (raw.0 >> 10) as u32
}

#[inline(always)]
fn mix(word: u64) -> u64 {
    // The finalizer's constant of MurmurHash3 spreads every bit over the upper half.
    let word = word.wrapping_mul(0xff51_afd7_ed55_8ccd);
    word ^ word >> 32
}

#[inline(always)]
fn word(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_le_bytes)
}

/// What tells a packet from the others of its flow and direction.
#[inline(always)]
fn fingerprint(data: &[u8], packet: &Packet<'_>) -> u64 {
    let headers = packet.ip_len.wrapping_sub(packet.payload_len) as usize;
    let ip_at = (packet.header_len as usize).wrapping_sub(headers);
    let (ip, base) = match data.get(ip_at).map(|byte| byte >> 4) {
        // Total length, identification, flags and offset.
        Some(4) => (word(data, ip_at) >> 16, usize::from(data[ip_at] & 15) * 4),
        // Payload length; there is no identification.
        Some(6) => (word(data, ip_at) >> 32, 40),
        // Behind the addresses.
        _ => return other(data),
    };
    let above = ip_at + base;
    match data.get(above..).and_then(<[u8]>::first_chunk) {
        Some(above) => ip ^ folded(above),
        None => ip ^ tail(data, above),
    }
}

#[inline(always)]
fn folded(bytes: &[u8; ABOVE_IP]) -> u64 {
    let word = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
    // Ports and sequence number beside acknowledgement, flags and window; checksum and options beside what follows.
    (word(0) ^ word(8).rotate_left(29)).wrapping_mul(0x9e37_79b9_7f4a_7c15)
        ^ (word(16) ^ word(24).rotate_left(31)).wrapping_mul(0xc2b2_ae3d_27d4_eb4f)
}

#[cold]
#[inline(never)]
fn tail(data: &[u8], from: usize) -> u64 {
    let mut bytes = [0; ABOVE_IP];
    let there = data.get(from..).unwrap_or_default();
    let count = there.len().min(ABOVE_IP);
    bytes[..count].copy_from_slice(&there[..count]);
    folded(&bytes)
}

#[cold]
fn other(data: &[u8]) -> u64 {
    tail(data, 12)
}
