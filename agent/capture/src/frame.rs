//! A frame as a source hands it to the worker: borrowed bytes, and what only the source knows about them.

use gnomon_clock::RawNs;

/// No source hands over more bytes of one frame (BIG TCP on veth gives 195,546).
pub const FRAME_BYTES_MAX: usize = 256 << 10;

/// No source hands over more frames in one call of the sink. Together, so that the sink can ask memory for what all of
/// them need before it waits for the first; few, so that what it notes about them stays in the nearest cache.
pub const FRAMES_AT_ONCE: usize = 32;

/// When a frame was seen, and how wrong that may be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stamp {
    pub raw: RawNs,
    /// The frame arrived within `raw ± err_ns`.
    pub err_ns: u32,
}

/// What the first byte of a frame is (the values of the tcpdump LINKTYPE registry).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum LinkType {
    /// LINKTYPE_NULL (0): 4-byte address family in either byte order.
    Null,
    /// LINKTYPE_ETHERNET (1).
    #[default]
    Ethernet,
    /// LINKTYPE_PPP (9): PPP, with or without HDLC-like framing.
    Ppp,
    /// LINKTYPE_PPP_HDLC (50): PPP in HDLC-like framing, or Cisco's HDLC.
    PppHdlc,
    /// LINKTYPE_PPP_ETHER (51): a PPPoE session header.
    PppEther,
    /// LINKTYPE_C_HDLC (104): Cisco's HDLC.
    CiscoHdlc,
    /// LINKTYPE_IEEE802_11 (105).
    Wifi,
    /// LINKTYPE_FRELAY (107).
    FrameRelay,
    /// LINKTYPE_IEEE802_11_RADIOTAP (127).
    WifiRadiotap,
    /// LINKTYPE_NFLOG (239).
    Nflog,
    /// LINKTYPE_RAW (101, also 12 and 14), LINKTYPE_IPV4 (228), LINKTYPE_IPV6 (229): an IP header.
    RawIp,
    /// LINKTYPE_LOOP (108): 4-byte address family in network order.
    Loop,
    /// LINKTYPE_LINUX_SLL (113): the 16-byte "cooked" header.
    LinuxSll,
    /// LINKTYPE_LINUX_SLL2 (276): the 20-byte "cooked" header.
    LinuxSll2,
    /// Any other value: counted and stored, not decoded.
    Other(u16),
}

impl LinkType {
    pub fn from_linktype(value: u16) -> LinkType {
        match value {
            0 => LinkType::Null,
            1 => LinkType::Ethernet,
            9 => LinkType::Ppp,
            50 => LinkType::PppHdlc,
            51 => LinkType::PppEther,
            104 => LinkType::CiscoHdlc,
            105 => LinkType::Wifi,
            107 => LinkType::FrameRelay,
            127 => LinkType::WifiRadiotap,
            239 => LinkType::Nflog,
            12 | 14 | 101 | 228 | 229 => LinkType::RawIp,
            108 => LinkType::Loop,
            113 => LinkType::LinuxSll,
            276 => LinkType::LinuxSll2,
            other => LinkType::Other(other),
        }
    }

    pub fn linktype(self) -> u16 {
        match self {
            LinkType::Null => 0,
            LinkType::Ethernet => 1,
            LinkType::Ppp => 9,
            LinkType::PppHdlc => 50,
            LinkType::PppEther => 51,
            LinkType::CiscoHdlc => 104,
            LinkType::Wifi => 105,
            LinkType::FrameRelay => 107,
            LinkType::WifiRadiotap => 127,
            LinkType::Nflog => 239,
            LinkType::RawIp => 101,
            LinkType::Loop => 108,
            LinkType::LinuxSll => 113,
            LinkType::LinuxSll2 => 276,
            LinkType::Other(value) => value,
        }
    }
}

/// An 802.1Q or 802.1ad tag that the NIC took out of the frame (the kernel hands it over beside the bytes).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VlanTag {
    /// The tag protocol id, 0x8100 or 0x88A8.
    pub tpid: u16,
    /// Priority, DEI and the 12-bit VLAN id.
    pub tci: u16,
}

impl VlanTag {
    /// Bytes the tag took on the wire.
    pub const BYTES: u32 = 4;
}

/// Bytes seen on the wire. Borrowed from the source's ring: whoever wants to keep them copies them.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    pub stamp: Stamp,
    pub link: LinkType,
    /// Length on the wire without a tag that stands in `vlan`; never less than `data.len()`.
    pub original_len: u32,
    /// The captured bytes, of any length up to 256 KiB, including none.
    pub data: &'a [u8],
    /// A tag stripped by the hardware: it stands outermost.
    pub vlan: Option<VlanTag>,
    /// Sent by this host (AF_PACKET knows; AF_XDP sees only what arrives).
    pub outgoing: bool,
}

/// A sink of one frame at a time.
pub fn each(mut sink: impl FnMut(Frame<'_>)) -> impl FnMut(&[Frame<'_>]) {
    move |frames| frames.iter().for_each(|frame| sink(*frame))
}
