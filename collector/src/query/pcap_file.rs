//! Capture files as bytes: pcapng (IETF draft-ietf-opsawg-pcapng) and pcap with nanoseconds (draft-ietf-opsawg-pcap).
//!
//! Constraints: written front to back without a look behind, little endian; every interface has one snaplen and
//! nanosecond stamps, because tcpdump gives up on a file whose interfaces differ in snaplen or link type.

use std::collections::HashMap;

/// Bytes of a packet that readers take (tcpdump's MAXIMUM_SNAPLEN).
pub(super) const SNAPLEN: u32 = 262_144;

const SECTION_HEADER: u32 = 0x0A0D_0D0A;
const INTERFACE_DESCRIPTION: u32 = 1;
const INTERFACE_STATISTICS: u32 = 5;
const ENHANCED_PACKET: u32 = 6;
const OPT_END: u16 = 0;
const OPT_COMMENT: u16 = 1;
const IF_NAME: u16 = 2;
const SHB_USERAPPL: u16 = 4;
const IF_TSRESOL: u16 = 9;
const EPB_FLAGS: u16 = 2;
/// Bits 0 and 1 of epb_flags: 2 is outbound.
const EPB_OUTBOUND: u32 = 2;
const ETHERNET: u16 = 1;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PcapFormat {
    #[default]
    Pcapng,
    /// pcap with nanosecond stamps: one link type, no names of interfaces.
    Pcap,
}

impl PcapFormat {
    pub fn media_type(self) -> &'static str {
        match self {
            PcapFormat::Pcapng => "application/x-pcapng",
            PcapFormat::Pcap => "application/vnd.tcpdump.pcap",
        }
    }

    pub fn extension(self) -> &'static str {
        match self {
            PcapFormat::Pcapng => "pcapng",
            PcapFormat::Pcap => "pcap",
        }
    }
}

/// A packet to be written.
#[derive(Clone, Copy, Debug)]
pub(super) struct PcapPacket<'a> {
    /// POSIX nanoseconds.
    pub(super) unix_ns: u64,
    /// Of [`PcapFile::write`]'s caller: packets of one number come from one interface.
    pub(super) interface: u32,
    pub(super) interface_name: &'a str,
    pub(super) linktype: u16,
    pub(super) original_len: u32,
    pub(super) outgoing: bool,
    pub(super) data: &'a [u8],
}

/// A file being written. The caller takes the bytes from `out` as it likes.
pub(super) struct PcapFile {
    format: PcapFormat,
    comment: String,
    begun: bool,
    /// Of the first packet; a pcap file has no other.
    linktype: u16,
    ids: HashMap<(u32, u16), u32>,
    last_unix_ns: u64,
    pub(super) out: Vec<u8>,
}

impl PcapFile {
    /// `comment` says in the section's header what the times are worth; pcap has no place for it.
    pub(super) fn new(format: PcapFormat, comment: String) -> PcapFile {
        PcapFile {
            format,
            comment,
            begun: false,
            linktype: ETHERNET,
            ids: HashMap::new(),
            last_unix_ns: 0,
            out: Vec::new(),
        }
    }

    /// Append a packet. False when the format cannot hold it: another link type in a pcap file.
    pub(super) fn write(&mut self, packet: &PcapPacket<'_>) -> bool {
        if !self.begun {
            self.begin(packet.linktype);
        }
        self.last_unix_ns = packet.unix_ns;
        let data = &packet.data[..packet.data.len().min(SNAPLEN as usize)];
        // No reader likes a packet that was longer in the file than on the wire.
        let (captured_len, original_len) = (data.len() as u32, packet.original_len.max(data.len() as u32));
        match self.format {
            PcapFormat::Pcap => {
                if packet.linktype != self.linktype {
                    return false;
                }
                let seconds = u32::try_from(packet.unix_ns / 1_000_000_000).unwrap_or(u32::MAX);
                let nanoseconds = (packet.unix_ns % 1_000_000_000) as u32;
                for field in [seconds, nanoseconds, captured_len, original_len] {
                    self.out.extend(field.to_le_bytes());
                }
                self.out.extend_from_slice(data);
            }
            PcapFormat::Pcapng => {
                let id = self.interface(packet);
                let mut body = Block::begin(&mut self.out, ENHANCED_PACKET);
                let (high, low) = halves(packet.unix_ns);
                for field in [id, high, low, captured_len, original_len] {
                    body.u32(field);
                }
                body.padded(data);
                if packet.outgoing {
                    body.option(EPB_FLAGS, &EPB_OUTBOUND.to_le_bytes());
                    body.option(OPT_END, &[]);
                }
                body.end();
            }
        }
        true
    }

    /// Close the file, with a last word in pcapng that tells how the export went.
    pub(super) fn finish(&mut self, comment: &str) {
        if !self.begun {
            self.begin(ETHERNET);
        }
        if self.format == PcapFormat::Pcapng && !self.ids.is_empty() {
            let mut body = Block::begin(&mut self.out, INTERFACE_STATISTICS);
            let (high, low) = halves(self.last_unix_ns);
            for field in [0, high, low] {
                body.u32(field);
            }
            body.text_option(OPT_COMMENT, comment);
            body.option(OPT_END, &[]);
            body.end();
        }
    }

    fn begin(&mut self, linktype: u16) {
        self.begun = true;
        self.linktype = linktype;
        match self.format {
            PcapFormat::Pcap => {
                self.out.extend(0xA1B2_3C4Du32.to_le_bytes());
                self.out.extend([2u16, 4].map(u16::to_le_bytes).concat());
                for field in [0, 0, SNAPLEN, u32::from(linktype)] {
                    self.out.extend(field.to_le_bytes());
                }
            }
            PcapFormat::Pcapng => {
                let mut body = Block::begin(&mut self.out, SECTION_HEADER);
                body.u32(0x1A2B_3C4D);
                body.u16(1);
                body.u16(0);
                // The section's length is not known in advance.
                body.out.extend(u64::MAX.to_le_bytes());
                body.text_option(OPT_COMMENT, &self.comment);
                body.text_option(SHB_USERAPPL, concat!("gnomon-collector ", env!("CARGO_PKG_VERSION")));
                body.option(OPT_END, &[]);
                body.end();
            }
        }
    }

    /// The number of the packet's interface in the file, described before its first packet.
    fn interface(&mut self, packet: &PcapPacket<'_>) -> u32 {
        let next = u32::try_from(self.ids.len()).unwrap_or(u32::MAX);
        let id = *self.ids.entry((packet.interface, packet.linktype)).or_insert(next);
        if id == next {
            let mut body = Block::begin(&mut self.out, INTERFACE_DESCRIPTION);
            body.u16(packet.linktype);
            body.u16(0);
            body.u32(SNAPLEN);
            body.text_option(IF_NAME, packet.interface_name);
            body.option(IF_TSRESOL, &[9]);
            body.option(OPT_END, &[]);
            body.end();
        }
        id
    }
}

fn halves(unix_ns: u64) -> (u32, u32) {
    ((unix_ns >> 32) as u32, unix_ns as u32)
}

/// A pcapng block being written: its length stands before and behind the body.
struct Block<'o> {
    out: &'o mut Vec<u8>,
    start: usize,
}

impl Block<'_> {
    fn begin(out: &mut Vec<u8>, kind: u32) -> Block<'_> {
        let start = out.len();
        out.extend(kind.to_le_bytes());
        out.extend([0; 4]);
        Block { out, start }
    }

    fn u16(&mut self, field: u16) {
        self.out.extend(field.to_le_bytes());
    }

    fn u32(&mut self, field: u32) {
        self.out.extend(field.to_le_bytes());
    }

    fn padded(&mut self, data: &[u8]) {
        self.out.extend_from_slice(data);
        self.out.extend(std::iter::repeat_n(0, data.len().next_multiple_of(4) - data.len()));
    }

    fn option(&mut self, code: u16, value: &[u8]) {
        self.u16(code);
        self.u16(value.len() as u16);
        self.padded(value);
    }

    /// Text that others chose is cut to a length an option can hold, and cannot move a terminal's cursor.
    fn text_option(&mut self, code: u16, text: &str) {
        let clean: String = text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
        let cut = &clean[..clean.floor_char_boundary(4096)];
        if !cut.is_empty() {
            self.option(code, cut.as_bytes());
        }
    }

    fn end(self) {
        let len = (self.out.len() - self.start + 4) as u32;
        self.out.extend(len.to_le_bytes());
        self.out[self.start + 4..self.start + 8].copy_from_slice(&len.to_le_bytes());
    }
}
