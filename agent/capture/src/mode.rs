//! How a source captures, and why not in a better way: what the operator sees in the agent's heartbeat.

use std::fmt;

/// The rungs of the ladder, from the cheapest way to capture to the one that always works.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rung {
    /// AF_XDP, the NIC writes into our memory, frames may span buffers.
    ZeroCopyMultiBuffer,
    /// AF_XDP, the NIC writes into our memory, a frame must fit one buffer.
    ZeroCopy,
    /// AF_XDP in the driver with one copy, frames may span buffers.
    CopyMultiBuffer,
    /// AF_XDP in the driver with one copy, a frame must fit one buffer.
    Copy,
    /// AF_XDP in the kernel's generic hook, after an skb was built; frames may span buffers.
    GenericMultiBuffer,
    /// AF_XDP in the kernel's generic hook; a frame must fit one buffer.
    Generic,
    /// AF_PACKET with a TPACKET_V3 ring: the host keeps its traffic.
    PacketMmap,
    /// A capture file.
    File,
}

impl Rung {
    pub fn name(self) -> &'static str {
        match self {
            Rung::ZeroCopyMultiBuffer => "af_xdp zero-copy multi-buffer",
            Rung::ZeroCopy => "af_xdp zero-copy",
            Rung::CopyMultiBuffer => "af_xdp copy multi-buffer",
            Rung::Copy => "af_xdp copy",
            Rung::GenericMultiBuffer => "af_xdp generic multi-buffer",
            Rung::Generic => "af_xdp generic",
            Rung::PacketMmap => "af_packet tpacket_v3",
            Rung::File => "file",
        }
    }

    pub fn zero_copy(self) -> bool {
        matches!(self, Rung::ZeroCopyMultiBuffer | Rung::ZeroCopy)
    }

    pub fn multi_buffer(self) -> bool {
        matches!(self, Rung::ZeroCopyMultiBuffer | Rung::CopyMultiBuffer | Rung::GenericMultiBuffer)
    }

    /// The generic (skb) hook instead of the driver's own.
    pub fn generic(self) -> bool {
        matches!(self, Rung::GenericMultiBuffer | Rung::Generic)
    }
}

/// A rung that was tried or ruled out, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub rung: Rung,
    pub reason: String,
}

/// The way in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaptureMode {
    pub interface: String,
    /// The rung as read back from the kernel (XDP_OPTIONS), not as asked for.
    pub rung: Rung,
    /// Rungs above it, in the order they were tried.
    pub refused: Vec<Refusal>,
    /// True when the host no longer sees what is captured.
    pub takes_frames: bool,
    pub promiscuous: bool,
    /// Hardware queues bound (AF_XDP), or one.
    pub queues: u32,
    /// Descriptors of one receive ring (AF_XDP), or blocks of the ring (AF_PACKET).
    pub ring_slots: u32,
    /// Bytes of one buffer (AF_XDP) or block (AF_PACKET).
    pub slot_bytes: u32,
    /// Memory of all rings and buffers.
    pub memory_bytes: u64,
    /// 0: everything up to 256 KiB.
    pub snaplen: u32,
    /// What else an operator should know.
    pub notes: Vec<String>,
}

impl fmt::Display for CaptureMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.interface, self.rung.name())?;
        match self.rung {
            Rung::File => return Ok(()),
            Rung::PacketMmap => {
                write!(f, ", {} blocks of {} KiB", self.ring_slots, self.slot_bytes / 1024)?;
            }
            _ => write!(
                f,
                ", {} queue(s), rings of {} with buffers of {} B, {} MiB",
                self.queues,
                self.ring_slots,
                self.slot_bytes,
                self.memory_bytes >> 20
            )?,
        }
        f.write_str(if self.takes_frames {
            ", frames are taken from the host"
        } else {
            ", the host keeps its traffic"
        })?;
        if self.promiscuous {
            f.write_str(", promiscuous")?;
        }
        if self.snaplen != 0 {
            write!(f, ", first {} B of a frame", self.snaplen)?;
        }
        for refusal in &self.refused {
            write!(f, "; not {}: {}", refusal.rung.name(), refusal.reason)?;
        }
        for note in &self.notes {
            write!(f, "; note: {note}")?;
        }
        Ok(())
    }
}
