//! What an operator may choose about a source. The defaults never take a frame from the host.

use crate::error::CaptureError;

/// How the agent stands on the interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Stance {
    /// Watch beside the host: never takes a frame from it.
    #[default]
    Auto,
    /// A mirror or TAP port: its frames are for nobody else and are taken from the host (AF_XDP). Attaching the program
    /// resets some cards: their link is down for 1 to 10 seconds. Say so before opening.
    Tap,
    /// A NIC the host lives on: it keeps its traffic (AF_PACKET).
    Host,
}

/// Which back-end to use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Backend {
    /// AF_XDP for taps, AF_PACKET for everything else.
    #[default]
    Auto,
    /// AF_XDP or an error; asks for `Stance::Tap`.
    AfXdp,
    AfPacket,
}

/// Which hardware queues AF_XDP binds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Queues {
    /// All there are after the program was attached, and those that are added later.
    #[default]
    All,
    /// Only these; frames of others stay with the host and are counted as `no_socket`.
    Only(Vec<u32>),
}

/// A set of sources that share an interface's frames by flow, both directions together (PACKET_FANOUT_HASH).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fanout {
    /// Any number not used by another set of this network namespace.
    pub group: u16,
    /// How many sources will join. All must be opened for every frame to be seen.
    pub workers: u16,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    pub stance: Stance,
    pub backend: Backend,
    /// AF_XDP: receive descriptors over all queues. Depth, not speed, decides the loss-free rate.
    pub ring_frames: u32,
    /// Memory for frames over all queues (the UMEM, or the blocks of AF_PACKET).
    pub umem_bytes: u64,
    /// Bytes kept of a frame, 0 for all. AF_XDP hands over whole frames whatever this says: the copy is already made.
    pub snaplen: u32,
    /// Ask the NIC for frames addressed to others. Reverts by itself when the source is closed or killed.
    pub promiscuous: bool,
    pub fanout: Option<Fanout>,
    /// Allow AF_XDP to take frames from an interface that has addresses.
    pub steal_addressed: bool,
    pub queues: Queues,
    /// Only frames that this lets pass, in the language of pcap-filter(7).
    pub filter: Option<String>,
    /// Have the NIC stamp frames, if it can stamp all and, with AF_XDP, its driver tells XDP programs. It goes on doing so when
    /// the capture ends.
    pub hardware_stamps: bool,
    /// AF_PACKET: how long the kernel may hold back a block that is not full.
    pub block_retire_ms: u32,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            stance: Stance::Auto,
            backend: Backend::Auto,
            ring_frames: 32_768,
            umem_bytes: 64 << 20,
            snaplen: 0,
            promiscuous: true,
            fanout: None,
            steal_addressed: false,
            queues: Queues::All,
            filter: None,
            hardware_stamps: false,
            block_retire_ms: 25,
        }
    }
}

impl Options {
    /// # Errors
    /// `InvalidOption` with the rule that was broken.
    pub fn check(&self) -> Result<(), CaptureError> {
        let invalid = |option, value: String, rule| Err(CaptureError::InvalidOption { option, value, rule });
        if !(64..=1 << 20).contains(&self.ring_frames) {
            return invalid("ring_frames", self.ring_frames.to_string(), "must be 64 to 1048576");
        }
        if !(128 << 10..=4 << 30).contains(&self.umem_bytes) {
            return invalid("umem_bytes", self.umem_bytes.to_string(), "must be 128 KiB to 4 GiB");
        }
        if self.snaplen > 256 << 10 {
            return invalid("snaplen", self.snaplen.to_string(), "must be at most 262144, or 0 for all");
        }
        if !(1..=1000).contains(&self.block_retire_ms) {
            return invalid("block_retire_ms", self.block_retire_ms.to_string(), "must be 1 to 1000");
        }
        if self.backend == Backend::AfXdp && self.stance != Stance::Tap {
            return invalid(
                "backend",
                "af_xdp".into(),
                "takes frames from the host, so it needs the tap stance to be said",
            );
        }
        if let Some(fanout) = self.fanout
            && !(1..=256).contains(&fanout.workers)
        {
            return invalid("fanout.workers", fanout.workers.to_string(), "must be 1 to 256");
        }
        if let Queues::Only(queues) = &self.queues
            && queues.is_empty()
        {
            return invalid("queues", "[]".into(), "must name at least one queue");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_valid_and_takes_nothing() {
        let options = Options::default();
        options.check().unwrap();
        assert!(options.stance == Stance::Auto && !options.steal_addressed);
    }

    #[test]
    fn af_xdp_must_be_asked_for_as_a_tap() {
        let options = Options { backend: Backend::AfXdp, ..Options::default() };
        assert!(options.check().unwrap_err().to_string().contains("tap stance"));
    }
}
