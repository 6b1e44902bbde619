//! The pcapng format: blocks, each framed by its length at both ends.
//!
//! Source: draft-ietf-opsawg-pcapng. Read are the section header (§4.1), the interface description (§4.2), the enhanced
//! (§4.3), the simple (§4.4) and the obsolete packet block (appendix A); every other block is passed over.
//!
//! ```text
//! block   type u32 · length u32 · body, padded to 4 · length u32
//! SHB     0x0a0d0d0a · length · byte-order magic u32 · major u16 · minor u16 · section length i64 · options · length
//! IDB     1 · length · linktype u16 · reserved u16 · snaplen u32 · options · length
//! EPB     6 · length · interface u32 · ticks high u32 · low u32 · captured u32 · original u32 · bytes · options · length
//! SPB     3 · length · original u32 · bytes · length
//! PB      2 · length · interface u16 · drops u16 · ticks high u32 · low u32 · captured u32 · original u32 · bytes · options · length
//! ```
//!
//! A section header begins anew: byte order and interfaces of what came before are forgotten. An interface of the same name
//! is the same one in every section; those without a name are told apart by their number in the section.

mod interface;

use super::resync::Sense;
use super::{Damage, FileInterface, FileStats, INTERFACES_APART_MAX, RECORD_BYTES_MAX, Step};
use crate::frame::{FRAME_BYTES_MAX, Frame, Stamp};
use interface::{Interface, options};

pub(super) const SECTION_HEADER: u32 = 0x0a0d_0d0a;
/// Up to and including the version.
pub(super) const SECTION_HEAD_BYTES: usize = 16;

const INTERFACE_DESCRIPTION: u32 = 1;
const OBSOLETE_PACKET: u32 = 2;
const SIMPLE_PACKET: u32 = 3;
const ENHANCED_PACKET: u32 = 6;

const LITTLE_ENDIAN_MAGIC: [u8; 4] = [0x4d, 0x3c, 0x2b, 0x1a];
const BIG_ENDIAN_MAGIC: [u8; 4] = [0x1a, 0x2b, 0x3c, 0x4d];

/// Type and length.
const BLOCK_HEAD_BYTES: usize = 8;
const BLOCK_BYTES_MIN: u32 = 12;
const SECTION_BLOCK_BYTES_MIN: u32 = 28;
/// Of a longer block only the beginning is looked at: options behind that are not read.
const BLOCK_BYTES_HELD: usize = FRAME_BYTES_MAX + 64 * 1024;
const BLOCK_BYTES_MAX: u32 = RECORD_BYTES_MAX + 1024 * 1024;
const INTERFACES_MAX: usize = 65_536;

/// epb_flags and pack_flags; the two lowest bits are the direction.
const OPTION_FLAGS: u16 = 2;
const DIRECTION_OUTBOUND: u32 = 2;

pub(super) struct Pcapng {
    big_endian: bool,
    interfaces: Vec<Interface>,
    /// All interfaces that sections described so far, told apart; further ones share the last.
    apart: Vec<FileInterface>,
    /// The length that the block just passed over must end with.
    closing_length: Option<u32>,
}

/// The fields of a packet block, wherever its kind has them.
struct Packet<'a> {
    stamp: Stamp,
    interface: &'a Interface,
    captured: u32,
    original: u32,
    data_at: usize,
}

impl Pcapng {
    /// From the first [`SECTION_HEAD_BYTES`] of the first section; or why the file cannot be read.
    pub(super) fn begin(head: &[u8]) -> Result<Pcapng, String> {
        let pcapng = Pcapng {
            big_endian: section_is_big_endian(head).map_err(|damage| damage.what)?,
            interfaces: Vec::new(),
            apart: Vec::new(),
            closing_length: None,
        };
        pcapng.check_version(head).map_err(|damage| damage.what)?;
        Ok(pcapng)
    }

    #[inline]
    pub(super) fn step<'a>(&mut self, window: &'a [u8], stats: &mut FileStats) -> Result<Step<'a>, Damage> {
        if let Some(length) = self.closing_length {
            return self.close(length, window);
        }
        if window.len() < BLOCK_HEAD_BYTES {
            return Ok(Step::Need(BLOCK_HEAD_BYTES));
        }
        let kind = self.u32_at(window, 0);
        if kind == SECTION_HEADER {
            // Its byte order comes before its length can be understood.
            if window.len() < SECTION_HEAD_BYTES {
                return Ok(Step::Need(SECTION_HEAD_BYTES));
            }
            self.big_endian = section_is_big_endian(window)?;
            self.check_version(window)?;
        }
        let length = self.u32_at(window, 4);
        if kind == 0 && length == 0 {
            return Ok(Step::Zeros);
        }
        let least = if kind == SECTION_HEADER { SECTION_BLOCK_BYTES_MIN } else { BLOCK_BYTES_MIN };
        if length < least || !length.is_multiple_of(4) || length > BLOCK_BYTES_MAX {
            return Err(Damage::new(
                4,
                format!(
                    "a block of type {kind:#x} and length {length}, expected a multiple of 4 from {least} to \
                     {BLOCK_BYTES_MAX}"
                ),
            ));
        }
        let held = (length as usize).min(BLOCK_BYTES_HELD);
        let wanted = matches!(
            kind,
            SECTION_HEADER | INTERFACE_DESCRIPTION | ENHANCED_PACKET | SIMPLE_PACKET | OBSOLETE_PACKET
        );
        let Some(block) = window.get(..held) else {
            if wanted || length as usize <= BLOCK_BYTES_HELD {
                return Ok(Step::Need(held));
            }
            stats.skipped_blocks += 1;
            return Ok(self.leave(length));
        };
        let whole = held == length as usize;
        if whole && self.u32_at(block, held - 4) != length {
            return Err(Damage::new(
                (held - 4) as u64,
                format!("a block of length {length} that ends with length {}", self.u32_at(block, held - 4)),
            ));
        }
        let body_end = if whole { held - 4 } else { held };
        match kind {
            ENHANCED_PACKET | OBSOLETE_PACKET | SIMPLE_PACKET => {
                return Ok(self.packet(kind, length, &block[..body_end], stats));
            }
            SECTION_HEADER => self.interfaces.clear(),
            INTERFACE_DESCRIPTION => self.describe(&block[..body_end], stats)?,
            _ => stats.skipped_blocks += 1,
        }
        Ok(self.leave(length))
    }

    /// Whether a whole block stands at the start of `bytes`.
    pub(super) fn sense(&self, bytes: &[u8]) -> Sense {
        if bytes.len() < BLOCK_HEAD_BYTES {
            return Sense::Need;
        }
        let (kind, length) = (self.u32_at(bytes, 0), self.u32_at(bytes, 4));
        // The high bit is for blocks of local use.
        let is_known = kind == SECTION_HEADER || (1..0x1_0000).contains(&(kind & 0x7fff_ffff));
        let fits =
            length >= BLOCK_BYTES_MIN && length.is_multiple_of(4) && length as usize <= BLOCK_BYTES_HELD;
        if !is_known || !fits {
            return Sense::None;
        }
        let length = length as usize;
        match bytes.get(length - 4..length) {
            None => Sense::Need,
            Some(closing) if self.u32_at(closing, 0) as usize == length => Sense::Record(length),
            Some(_) => Sense::None,
        }
    }

    pub(super) fn forget_record(&mut self) {
        self.closing_length = None;
    }

    #[inline]
    fn packet<'a>(&mut self, kind: u32, length: u32, block: &'a [u8], stats: &mut FileStats) -> Step<'a> {
        let Some(packet) = self.packet_fields(kind, length, block, stats) else {
            stats.bad_blocks += 1;
            return self.leave(length);
        };
        let Packet { stamp, interface, captured, original, data_at } = packet;
        if captured as usize > FRAME_BYTES_MAX {
            stats.oversize += 1;
            stats.oversize_bytes += u64::from(original.max(captured));
            return self.leave(length);
        }
        let data_end = data_at + captured as usize;
        let Some(data) = block.get(data_at..data_end) else {
            stats.bad_blocks += 1;
            return self.leave(length);
        };
        if captured > original {
            stats.clamped_lengths += 1;
        }
        let outgoing = kind != SIMPLE_PACKET
            && options(&block[data_end.next_multiple_of(4).min(block.len())..], self.big_endian)
                .find(|(code, value)| *code == OPTION_FLAGS && value.len() == 4)
                .is_some_and(|(_, value)| self.u32_at(value, 0) & 3 == DIRECTION_OUTBOUND);
        let number = interface.number;
        let frame = Frame {
            stamp,
            link: interface.link,
            original_len: original.max(captured),
            data,
            vlan: None,
            outgoing,
        };
        let record_bytes = match self.leave(length) {
            Step::Pass { record_bytes } => record_bytes,
            _ => u64::from(length),
        };
        Step::Frame { frame, record_bytes, interface: number }
    }

    /// None when the block is too short or its interface was never described.
    #[inline]
    fn packet_fields(
        &self,
        kind: u32,
        length: u32,
        block: &[u8],
        stats: &mut FileStats,
    ) -> Option<Packet<'_>> {
        if kind == SIMPLE_PACKET {
            if block.len() < 12 || length < 16 {
                return None;
            }
            let interface = self.interfaces.first()?;
            let original = self.u32_at(block, 8);
            let limit = if interface.snaplen == 0 { u32::MAX } else { interface.snaplen };
            stats.unstamped += 1;
            return Some(Packet {
                stamp: Stamp { raw: gnomon_clock::RawNs(0), err_ns: u32::MAX },
                interface,
                // What the block has room for, whatever the snapshot length promises.
                captured: original.min(limit).min(length - 16),
                original,
                data_at: 12,
            });
        }
        if block.len() < 28 || length < 32 {
            return None;
        }
        let interface_id = if kind == ENHANCED_PACKET {
            self.u32_at(block, 8)
        } else {
            u32::from(u16_at(block, 8, self.big_endian))
        };
        let interface = self.interfaces.get(interface_id as usize)?;
        let captured = self.u32_at(block, 20);
        // Head, five words and the closing length stand around the bytes.
        if captured > length - 32 {
            return None;
        }
        let ticks = u64::from(self.u32_at(block, 12)) << 32 | u64::from(self.u32_at(block, 16));
        let stamp = interface.stamp(ticks).unwrap_or_else(|| {
            stats.clamped_stamps += 1;
            Stamp { raw: gnomon_clock::RawNs(0), err_ns: u32::MAX }
        });
        Some(Packet { stamp, interface, captured, original: self.u32_at(block, 24), data_at: 28 })
    }

    fn describe(&mut self, block: &[u8], stats: &mut FileStats) -> Result<(), Damage> {
        if block.len() < 16 {
            return Err(Damage::new(4, "an interface description without room for its link type"));
        }
        if self.interfaces.len() == INTERFACES_MAX {
            return Err(Damage::new(0, format!("more than {INTERFACES_MAX} interfaces in one section")));
        }
        let mut interface = Interface::from_block(block, self.big_endian);
        interface.number = self.number(interface.name.as_deref(), stats);
        self.interfaces.push(interface);
        Ok(())
    }

    /// Where among all interfaces of the file the next one of the section is.
    fn number(&mut self, name: Option<&str>, stats: &mut FileStats) -> u8 {
        let index = self.interfaces.len() as u32;
        let is_it = |known: &FileInterface| match name {
            Some(name) => known.name.as_deref() == Some(name),
            None => known.name.is_none() && known.index == index,
        };
        let at = self.apart.iter().position(is_it).unwrap_or_else(|| {
            if self.apart.len() == INTERFACES_APART_MAX {
                self.apart[INTERFACES_APART_MAX - 1].others = true;
                stats.interfaces_together += 1;
                return INTERFACES_APART_MAX - 1;
            }
            self.apart.push(FileInterface { name: name.map(Into::into), index, others: false });
            self.apart.len() - 1
        });
        // INTERFACES_APART_MAX is far below 256.
        at as u8
    }

    pub(super) fn interface(&self, number: u8) -> Option<&FileInterface> {
        self.apart.get(usize::from(number))
    }

    /// The step over a block: one whose end was not seen yet is passed over up to its closing length.
    #[inline]
    fn leave(&mut self, length: u32) -> Step<'static> {
        if length as usize <= BLOCK_BYTES_HELD {
            return Step::Pass { record_bytes: u64::from(length) };
        }
        self.closing_length = Some(length);
        Step::Pass { record_bytes: u64::from(length) - 4 }
    }

    fn close(&mut self, length: u32, window: &[u8]) -> Result<Step<'static>, Damage> {
        if window.len() < 4 {
            return Ok(Step::Need(4));
        }
        let closing = self.u32_at(window, 0);
        if closing != length {
            return Err(Damage::new(
                0,
                format!("a block of length {length} that ends with length {closing}"),
            ));
        }
        self.closing_length = None;
        Ok(Step::Pass { record_bytes: 4 })
    }

    fn check_version(&self, head: &[u8]) -> Result<(), Damage> {
        let major = u16_at(head, 12, self.big_endian);
        let minor = u16_at(head, 14, self.big_endian);
        if major == 1 {
            return Ok(());
        }
        Err(Damage::new(
            12,
            format!("found a pcapng section of version {major}.{minor}, and version 1 is understood"),
        ))
    }

    #[inline]
    fn u32_at(&self, bytes: &[u8], at: usize) -> u32 {
        let bytes = [bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]];
        if self.big_endian { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) }
    }
}

fn section_is_big_endian(head: &[u8]) -> Result<bool, Damage> {
    match [head[8], head[9], head[10], head[11]] {
        LITTLE_ENDIAN_MAGIC => Ok(false),
        BIG_ENDIAN_MAGIC => Ok(true),
        other => {
            Err(Damage::new(8, format!("found a pcapng section with the byte-order magic {other:02x?}")))
        }
    }
}

fn u16_at(bytes: &[u8], at: usize, big_endian: bool) -> u16 {
    let bytes = [bytes[at], bytes[at + 1]];
    if big_endian { u16::from_be_bytes(bytes) } else { u16::from_le_bytes(bytes) }
}
