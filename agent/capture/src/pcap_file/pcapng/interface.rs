//! What an interface description block says about the packets that name it: link type, snapshot length, unit of time.

use gnomon_clock::RawNs;

use super::u16_at;
use crate::frame::{LinkType, Stamp};

const OPTION_END: u16 = 0;
const OPTION_NAME: u16 = 2;
const OPTION_TSRESOL: u16 = 9;
const OPTION_TSOFFSET: u16 = 14;

/// Of a longer name the beginning is told. Windows' names of devices have 50.
const NAME_CHARS_MAX: usize = 80;

const NS_PER_S: i128 = 1_000_000_000;

pub(super) struct Interface {
    /// if_name, as far as it is told.
    pub(super) name: Option<String>,
    /// Which of the file's interfaces it is, see [`super::Pcapng::interfaces`].
    pub(super) number: u8,
    pub(super) link: LinkType,
    /// 0 is no limit.
    pub(super) snaplen: u32,
    tick: Tick,
    offset_ns: i128,
    err_ns: u32,
}

/// How ticks become nanoseconds.
#[derive(Clone, Copy)]
enum Tick {
    /// This many nanoseconds.
    Times(u64),
    /// This many ticks are one nanosecond.
    Per(u64),
    /// 2 to this many ticks are one second.
    BinaryFraction(u8),
    /// Finer than 2^64 ticks a nanosecond: every stamp is within the first.
    Nothing,
}

impl Tick {
    /// if_tsresol (draft-ietf-opsawg-pcapng §4.2): a negative power of 10, or of 2 when the highest bit is set.
    fn from_tsresol(tsresol: u8) -> Tick {
        let exponent = u32::from(tsresol & 0x7f);
        if tsresol & 0x80 != 0 {
            Tick::BinaryFraction(exponent as u8)
        } else if exponent <= 9 {
            Tick::Times(10u64.pow(9 - exponent))
        } else {
            10u64.checked_pow(exponent - 9).map_or(Tick::Nothing, Tick::Per)
        }
    }

    #[inline]
    fn ns(self, ticks: u64) -> u128 {
        match self {
            Tick::Times(ns) => u128::from(ticks) * u128::from(ns),
            Tick::Per(per_ns) => u128::from(ticks / per_ns),
            // ticks < 2^64 and 10^9 < 2^30.
            Tick::BinaryFraction(exponent) => (u128::from(ticks) * NS_PER_S as u128) >> exponent,
            Tick::Nothing => 0,
        }
    }
}

impl Interface {
    /// From a block of at least 16 bytes, without its closing length.
    pub(super) fn from_block(block: &[u8], big_endian: bool) -> Interface {
        let snaplen = [block[12], block[13], block[14], block[15]];
        let mut tsresol = 6;
        let mut offset_s = 0i64;
        let mut name = None;
        for (code, value) in options(&block[16..], big_endian) {
            match (code, value) {
                (OPTION_TSRESOL, [resolution, ..]) => tsresol = *resolution,
                (OPTION_NAME, value) => name = name_of(value),
                (OPTION_TSOFFSET, value) => {
                    if let Ok(seconds) = <[u8; 8]>::try_from(value) {
                        offset_s = if big_endian {
                            i64::from_be_bytes(seconds)
                        } else {
                            i64::from_le_bytes(seconds)
                        };
                    }
                }
                _ => {}
            }
        }
        let tick = Tick::from_tsresol(tsresol);
        Interface {
            name,
            number: 0,
            link: LinkType::from_linktype(u16_at(block, 8, big_endian)),
            snaplen: if big_endian { u32::from_be_bytes(snaplen) } else { u32::from_le_bytes(snaplen) },
            tick,
            offset_ns: i128::from(offset_s) * NS_PER_S,
            // Writers cut the stamp off, they do not round it: one tick, and a nanosecond for the conversion.
            err_ns: u32::try_from(tick.ns(1).max(1)).unwrap_or(u32::MAX),
        }
    }

    /// None when the time is before 1970 or does not fit 63 bits of nanoseconds (2262).
    #[inline]
    pub(super) fn stamp(&self, ticks: u64) -> Option<Stamp> {
        let raw = match self.tick {
            Tick::Times(ns) if self.offset_ns == 0 => {
                ticks.checked_mul(ns).filter(|ns| *ns <= i64::MAX as u64)?
            }
            tick => {
                let ns = i128::try_from(tick.ns(ticks)).ok()?.checked_add(self.offset_ns)?;
                u64::try_from(i64::try_from(ns).ok()?).ok()?
            }
        };
        Some(Stamp { raw: RawNs(raw), err_ns: self.err_ns })
    }
}

/// Texts of a file may be anything: what is no name is none.
fn name_of(value: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(value);
    let text: String = text.trim_end_matches('\0').chars().take(NAME_CHARS_MAX).collect();
    (!text.trim().is_empty()).then_some(text)
}

/// The options in `bytes`, up to the end mark or to the first that does not fit.
pub(super) fn options(mut bytes: &[u8], big_endian: bool) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        if bytes.len() < 4 {
            return None;
        }
        let code = u16_at(bytes, 0, big_endian);
        let length = usize::from(u16_at(bytes, 2, big_endian));
        let value = bytes.get(4..4 + length)?;
        bytes = bytes.get((4 + length).next_multiple_of(4)..).unwrap_or_default();
        (code != OPTION_END).then_some((code, value))
    })
}
