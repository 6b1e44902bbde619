//! What a source counted: every frame it was owed is in `received` or in one of `drops`.

/// Declares the reasons once: the enum, their order, their names and their help.
macro_rules! drop_reasons {
    ($($(#[$meta:meta])* $variant:ident = $name:literal, $doc:literal;)*) => {
        /// Why a frame that reached the interface did not reach the sink.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum DropReason { $(#[doc = $doc] $variant,)* }

        impl DropReason {
            pub const ALL: [DropReason; [$($name),*].len()] = [$(DropReason::$variant),*];
            pub const COUNT: usize = DropReason::ALL.len();

            /// The label of a metric: snake case, stable.
            pub fn name(self) -> &'static str {
                match self { $(DropReason::$variant => $name,)* }
            }

            /// One line for people.
            pub fn doc(self) -> &'static str {
                match self { $(DropReason::$variant => $doc,)* }
            }
        }
    };
}

drop_reasons! {
    RingFull = "ring_full", "AF_XDP: the receive ring was full, the agent reads too slowly for its depth.";
    FillRingEmpty = "fill_ring_empty", "AF_XDP: no free buffer in the fill ring, the agent returns them too slowly.";
    NoSocket = "no_socket", "AF_XDP: the frame came on a queue no socket is bound to.";
    Oversize = "oversize", "AF_XDP: the frame is larger than a buffer without multi-buffer, or than 256 KiB.";
    InvalidDescriptor = "invalid_descriptor", "The kernel handed over a descriptor or header outside its ring.";
    Passed = "passed", "AF_XDP: the agent stalled for over a second, so the host got the frame instead.";
    Kernel = "kernel", "AF_PACKET: the ring was full (tp_drops), the agent reads too slowly for its size.";
    Filtered = "filtered", "The capture filter left the frame out (AF_XDP; with AF_PACKET the kernel does so and does not count).";
    LoopbackDuplicate = "loopback_duplicate", "AF_PACKET on lo: the outgoing copy of a frame that also comes in.";
}

/// The counters of one AF_XDP queue, cumulative since it was bound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueStats {
    pub queue: u32,
    /// Frames handed to the sink.
    pub received: u64,
    /// Frames the XDP program sent to the socket.
    pub redirected: u64,
    /// XDP_STATISTICS rx_ring_full.
    pub ring_full: u64,
    /// XDP_STATISTICS rx_dropped.
    pub rx_dropped: u64,
    /// XDP_STATISTICS rx_fill_ring_empty_descs: failed attempts, not frames.
    pub fill_ring_empty: u64,
    /// Frames the program found no socket for.
    pub no_socket: u64,
    /// Frames the program left to the host because the agent stalled.
    pub passed: u64,
    /// Descriptors waiting in the receive ring now.
    pub waiting: u32,
}

/// What the driver counts, since the source was opened. Not to be added to the drops: a full AF_XDP ring shows in
/// `rx_dropped` too on some drivers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NetdevStats {
    pub rx_packets: u64,
    pub rx_bytes: u64,
    pub rx_errors: u64,
    pub rx_dropped: u64,
    pub rx_over_errors: u64,
    pub rx_fifo_errors: u64,
    pub rx_missed_errors: u64,
}

impl NetdevStats {
    pub(crate) fn since(&self, earlier: &NetdevStats) -> NetdevStats {
        // A driver may reset its counters when it is reconfigured.
        NetdevStats {
            rx_packets: self.rx_packets.saturating_sub(earlier.rx_packets),
            rx_bytes: self.rx_bytes.saturating_sub(earlier.rx_bytes),
            rx_errors: self.rx_errors.saturating_sub(earlier.rx_errors),
            rx_dropped: self.rx_dropped.saturating_sub(earlier.rx_dropped),
            rx_over_errors: self.rx_over_errors.saturating_sub(earlier.rx_over_errors),
            rx_fifo_errors: self.rx_fifo_errors.saturating_sub(earlier.rx_fifo_errors),
            rx_missed_errors: self.rx_missed_errors.saturating_sub(earlier.rx_missed_errors),
        }
    }
}

/// Cumulative since the source was opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SourceStats {
    /// Frames handed to the sink.
    pub received: u64,
    /// Their lengths on the wire.
    pub received_bytes: u64,
    /// Frames handed over with fewer bytes than they had on the wire (snaplen, 256 KiB).
    pub truncated: u64,
    /// Indexed by `DropReason as usize`.
    pub drops: [u64; DropReason::COUNT],
    /// AF_XDP only; the last entry holds queues beyond those that existed at open, when any were seen.
    pub queues: Vec<QueueStats>,
    /// None when the kernel did not answer.
    pub netdev: Option<NetdevStats>,
    /// False while the link is administratively down: nothing arrives, nothing is lost.
    pub interface_up: bool,
}

impl SourceStats {
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.drops[reason as usize]
    }

    /// All drops but those on purpose and the loopback copies, which were no frames of their own.
    pub fn lost(&self) -> u64 {
        DropReason::ALL
            .iter()
            .filter(|reason| !matches!(reason, DropReason::LoopbackDuplicate | DropReason::Filtered))
            .map(|reason| self.dropped(*reason))
            .sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_dense_and_their_names_unique() {
        for (index, reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, index);
            assert!(DropReason::ALL.iter().filter(|other| other.name() == reason.name()).count() == 1);
            assert!(!reason.doc().is_empty());
        }
    }
}
