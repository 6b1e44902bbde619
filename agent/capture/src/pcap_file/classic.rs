//! The pcap format: a file header of 24 bytes, then records of a header and the captured bytes.
//!
//! Source: draft-ietf-opsawg-pcap; for the historical variants, the behaviour of libpcap's reader.
//!
//! ```text
//! file    magic u32 · major u16 · minor u16 · zone i32 · sigfigs u32 · snaplen u32 · fcs 4 bits, reserved 12, linktype 16
//! record  seconds u32 · fraction u32 · captured u32 · original u32 [· ifindex u32 · protocol u16 · type u8 · pad u8] · bytes
//! ```
//!
//! Records have no mark to find them by, so damage is known only from headers that make no sense: see [`Classic::damage`].

use gnomon_clock::RawNs;

use super::resync::Sense;
use super::{Damage, FileStats, RECORD_BYTES_MAX, Step};
use crate::frame::{FRAME_BYTES_MAX, Frame, LinkType, Stamp};

pub(super) const FILE_HEADER_BYTES: usize = 24;

const MICROSECONDS: u32 = 0xa1b2_c3d4;
const NANOSECONDS: u32 = 0xa1b2_3c4d;
/// Alexey Kuznetzov's patched libpcap: longer record headers, microseconds.
const MODIFIED: u32 = 0xa1b2_cd34;

const HEADER_BYTES: usize = 16;
const MODIFIED_HEADER_BYTES: usize = 24;
/// PACKET_OUTGOING of packet(7), in the type field of a modified header.
const OUTGOING: u8 = 4;

/// No link carries a longer packet (IPv6 jumbograms are unused); in a header that is odd otherwise it means damage.
const PLAUSIBLE_ORIGINAL_BYTES: u32 = RECORD_BYTES_MAX;

pub(super) struct Classic {
    big_endian: bool,
    ns_per_tick: u32,
    modified: bool,
    /// The order of the two lengths, which changed during the format's early years.
    lengths: Lengths,
    link: LinkType,
}

#[derive(PartialEq, Eq)]
enum Lengths {
    CapturedFirst,
    OriginalFirst,
    /// The smaller one is the captured length.
    Either,
}

pub(super) fn is_magic(bytes: [u8; 4]) -> bool {
    [MICROSECONDS, NANOSECONDS, MODIFIED]
        .iter()
        .any(|magic| *magic == u32::from_be_bytes(bytes) || *magic == u32::from_le_bytes(bytes))
}

impl Classic {
    /// From the file header, whose first bytes satisfy [`is_magic`]; or why the file cannot be read.
    pub(super) fn begin(head: &[u8]) -> Result<Classic, String> {
        let big_endian = head[0] == 0xa1;
        let u16_at = |at: usize| {
            let bytes = [head[at], head[at + 1]];
            if big_endian { u16::from_be_bytes(bytes) } else { u16::from_le_bytes(bytes) }
        };
        let (major, minor) = (u16_at(4), u16_at(6));
        let lengths = match (major, minor) {
            (2, 0..=2) => Lengths::OriginalFirst,
            (2, 3) => Lengths::Either,
            (2, _) => Lengths::CapturedFirst,
            _ => {
                return Err(format!(
                    "found a pcap file of version {major}.{minor}, and version 2 is understood"
                ));
            }
        };
        let magic = u32_at(head, 0, big_endian);
        Ok(Classic {
            big_endian,
            ns_per_tick: if magic == NANOSECONDS { 1 } else { 1000 },
            modified: magic == MODIFIED,
            lengths,
            // The upper half says whether frames end with a check sequence, which is left on them.
            link: LinkType::from_linktype((u32_at(head, 20, big_endian) & 0xffff) as u16),
        })
    }

    #[inline]
    pub(super) fn step<'a>(&self, window: &'a [u8], stats: &mut FileStats) -> Result<Step<'a>, Damage> {
        let header_bytes = if self.modified { MODIFIED_HEADER_BYTES } else { HEADER_BYTES };
        let Some(header) = window.get(..header_bytes) else {
            return Ok(Step::Need(header_bytes));
        };
        let seconds = u32_at(header, 0, self.big_endian);
        let fraction = u32_at(header, 4, self.big_endian);
        let mut captured = u32_at(header, 8, self.big_endian);
        let mut original = u32_at(header, 12, self.big_endian);
        if self.lengths != Lengths::CapturedFirst
            && (self.lengths == Lengths::OriginalFirst || captured > original)
        {
            std::mem::swap(&mut captured, &mut original);
        }
        let late = u64::from(fraction) * u64::from(self.ns_per_tick) >= NS_PER_S;
        if captured > original || captured as usize > FRAME_BYTES_MAX || late {
            self.damage(captured, original, late)?;
        }
        if captured == 0 && original == 0 && header.iter().all(|byte| *byte == 0) {
            return Ok(Step::Zeros);
        }
        let record_bytes = header_bytes as u64 + u64::from(captured);
        if captured as usize > FRAME_BYTES_MAX {
            stats.oversize += 1;
            stats.oversize_bytes += u64::from(original);
            return Ok(Step::Pass { record_bytes });
        }
        let Some(data) = window.get(header_bytes..header_bytes + captured as usize) else {
            return Ok(Step::Need(header_bytes + captured as usize));
        };
        if captured > original {
            stats.clamped_lengths += 1;
        }
        let stamp = if late {
            stats.clamped_stamps += 1;
            Stamp { raw: RawNs(u64::from(seconds) * NS_PER_S), err_ns: NS_PER_S as u32 }
        } else {
            let ns = u64::from(seconds) * NS_PER_S + u64::from(fraction) * u64::from(self.ns_per_tick);
            // Writers cut the stamp off, they do not round it.
            Stamp { raw: RawNs(ns), err_ns: self.ns_per_tick }
        };
        let frame = Frame {
            stamp,
            link: self.link,
            original_len: original.max(captured),
            data,
            vlan: None,
            outgoing: self.modified && header[22] == OUTGOING,
        };
        Ok(Step::Frame { frame, record_bytes, interface: 0 })
    }

    /// Whether a sound record stands at the start of `bytes`: stricter than reading, as most places are none.
    pub(super) fn sense(&self, bytes: &[u8]) -> Sense {
        let header_bytes = if self.modified { MODIFIED_HEADER_BYTES } else { HEADER_BYTES };
        let Some(header) = bytes.get(..header_bytes) else { return Sense::Need };
        let word = |at| u32_at(header, at, self.big_endian);
        let (mut captured, mut original) = (word(8), word(12));
        if self.lengths == Lengths::OriginalFirst || (self.lengths == Lengths::Either && captured > original)
        {
            std::mem::swap(&mut captured, &mut original);
        }
        let has_length = captured > 0 && captured <= original && original as usize <= FRAME_BYTES_MAX;
        let has_time = word(0) > 0 && u64::from(word(4)) * u64::from(self.ns_per_tick) < NS_PER_S;
        if !has_length || !has_time {
            return Sense::None;
        }
        Sense::Record(header_bytes + captured as usize)
    }

    /// Whether an odd header is damage. One oddity is some writer's habit; damage shows as an impossible length, as two
    /// oddities at once, or as a frame longer than any writer cuts to that pretends to be more than the wire had.
    #[cold]
    fn damage(&self, captured: u32, original: u32, late: bool) -> Result<(), Damage> {
        let longer = captured > original;
        let oversize = captured as usize > FRAME_BYTES_MAX;
        let what = if captured > RECORD_BYTES_MAX {
            format!(
                "a packet with {captured} captured bytes, and no link type has more than {RECORD_BYTES_MAX}"
            )
        } else if u32::from(longer) + u32::from(late) + u32::from(oversize) > 1
            || (late && original > PLAUSIBLE_ORIGINAL_BYTES)
        {
            format!(
                "no packet header: captured length {captured}, wire length {original}, fraction of a second {}",
                if late { "over 1" } else { "sound" }
            )
        } else {
            return Ok(());
        };
        Err(Damage::new(0, what))
    }
}

const NS_PER_S: u64 = 1_000_000_000;

#[inline]
fn u32_at(bytes: &[u8], at: usize, big_endian: bool) -> u32 {
    let bytes = [bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]];
    if big_endian { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) }
}
