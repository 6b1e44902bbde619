//! One hardware queue: its socket, and the loop that takes frames out of it.

use arrayvec::ArrayVec;
use gnomon_clock::RawNs;
use rustix::net::xdp::XdpDescOptions;

use super::arrival::{Arrivals, Look};
use super::socket::XdpSocket;
use crate::frame::{FRAME_BYTES_MAX, FRAMES_AT_ONCE, Frame, LinkType, Stamp};
use crate::stamp::StampMap;
use crate::stats::QueueStats;

/// Buffers go back to the kernel in batches of this many, so that a slow sink does not hold them all.
const RETURN_BATCH: u32 = RETURN_BATCH_LEN as u32;
const RETURN_BATCH_LEN: usize = 2 * FRAMES_AT_ONCE;

/// Where a frame of several buffers stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Assembly {
    /// The next descriptor begins a frame.
    Idle,
    /// The scratch buffer holds its beginning.
    Collecting,
    /// Its beginning was unusable: the rest is thrown away.
    Skipping,
}

/// A bound queue and what it counted.
pub(super) struct Queue {
    pub(super) number: u32,
    pub(super) socket: XdpSocket,
    produced: u32,
    arrivals: Arrivals,
    assembly: Assembly,
    scratch: Vec<u8>,
    /// By the NIC's clock, of the frame that is being gathered; 0 for none.
    nic_ns: i64,
    pub(super) received: u64,
    pub(super) received_bytes: u64,
    pub(super) truncated: u64,
    pub(super) oversize: u64,
    pub(super) invalid: u64,
    /// Frames that came with a stamp of the NIC, and without one though it was asked for.
    pub(super) stamped: u64,
    pub(super) bare: u64,
}

/// Frames the kernel dropped, by reason.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Lost {
    pub(super) fill_ring_empty: u64,
    pub(super) oversize: u64,
}

impl Queue {
    pub(super) fn new(number: u32, socket: XdpSocket, multi_buffer: bool, now: RawNs) -> Queue {
        let consumed = socket.rx.consumed();
        Queue {
            number,
            socket,
            produced: consumed,
            arrivals: Arrivals::new(consumed, now),
            assembly: Assembly::Idle,
            // Never grows: what would not fit is counted instead.
            scratch: Vec::with_capacity(if multi_buffer { FRAME_BYTES_MAX } else { 0 }),
            nic_ns: 0,
            received: 0,
            received_bytes: 0,
            truncated: 0,
            oversize: 0,
            invalid: 0,
            stamped: 0,
            bare: 0,
        }
    }

    pub(super) fn ready(&self) -> bool {
        self.socket.rx.produced() != self.socket.rx.consumed()
    }

    /// Remembers how far the kernel has written: what the next [`Queue::drain`] may take.
    #[inline]
    pub(super) fn look(&mut self) {
        self.produced = self.socket.rx.produced();
    }

    /// Whether the last [`Queue::look`] saw frames.
    #[inline]
    pub(super) fn found(&self) -> bool {
        self.socket.rx.waiting(self.produced) > 0
    }

    /// Hands over at most `max_frames` of the frames seen by the last [`Queue::look`]. `nic`: what their stamps by the NIC
    /// mean, where the XDP program wrote them.
    #[inline]
    pub(super) fn drain<F: FnMut(&[Frame<'_>])>(
        &mut self,
        max_frames: usize,
        look: Look,
        nic: Option<&StampMap>,
        snaplen: usize,
        sink: &mut F,
    ) -> usize {
        let mut left = self.socket.rx.waiting(self.produced);
        let (mut seen, seen_stamp, fresh_stamp) = self.arrivals.stamps(self.socket.rx.consumed(), look);
        let mut delivered = 0;
        while left > 0 && delivered < max_frames {
            // A frame has at least one descriptor, so no more of them can end than were asked for.
            let taken = left.min(u32::try_from(max_frames - delivered).unwrap_or(u32::MAX)).min(RETURN_BATCH);
            let stamp = |ahead| if ahead < seen { seen_stamp } else { fresh_stamp };
            delivered += self.take(taken, stamp, nic, snaplen, sink);
            self.socket.rx.release(taken);
            self.socket.fill.submit();
            left -= taken;
            seen = seen.saturating_sub(taken);
        }
        self.arrivals.advance(self.socket.rx.consumed(), self.produced, look);
        if self.socket.fill.needs_wakeup() {
            self.socket.wake();
        }
        delivered
    }

    /// Takes the next `descriptors`, at most [`RETURN_BATCH`], and returns how many frames they completed. Their buffers
    /// are staged only: the kernel sees them when the batch ends, after the bytes were read.
    #[inline]
    fn take<F: FnMut(&[Frame<'_>])>(
        &mut self,
        descriptors: u32,
        stamp: impl Fn(u32) -> Stamp,
        nic: Option<&StampMap>,
        snaplen: usize,
        sink: &mut F,
    ) -> usize {
        let Queue { socket, assembly, scratch, nic_ns, received, received_bytes, truncated, .. } = self;
        let XdpSocket { rx, fill, umem, .. } = socket;
        let mut batch = ArrayVec::<Frame<'_>, FRAMES_AT_ONCE>::new();
        // All at once: each is a miss of the cache of its own, and the processor waits for them together.
        let mut marks = ArrayVec::<i64, RETURN_BATCH_LEN>::new();
        if nic.is_some() {
            marks.extend((0..descriptors).map(|ahead| umem.nic_stamp(&rx.peek(ahead))));
        }
        let mut delivered = 0;
        let mut count = |data: &[u8]| {
            *received += 1;
            *received_bytes += data.len() as u64;
            *truncated += u64::from(data.len() > snaplen);
            delivered += 1;
        };
        for ahead in 0..descriptors {
            let desc = rx.peek(ahead);
            let more = desc.options.contains(XdpDescOptions::XDP_PKT_CONTD);
            // A descriptor outside the memory has no buffer to give back.
            if let Some(chunk) = umem.chunk_of(&desc) {
                fill.stage(chunk);
            }
            let piece = umem.bytes(&desc);
            // The program writes before the first byte of a frame only.
            if let (Some(ns), Assembly::Idle) = (marks.get(ahead as usize), *assembly) {
                *nic_ns = *ns;
                *(if *nic_ns == 0 { &mut self.bare } else { &mut self.stamped }) += 1;
            }
            let stamp = |ahead| nic.and_then(|map| map.known(*nic_ns)).unwrap_or_else(|| stamp(ahead));
            if let (Assembly::Idle, false, Some(data)) = (*assembly, more, piece) {
                count(data);
                batch.push(frame(data, stamp(ahead), snaplen));
                if batch.is_full() {
                    sink(&batch);
                    batch.clear();
                }
                continue;
            }
            *assembly = match (*assembly, piece) {
                (Assembly::Skipping, _) => Assembly::Skipping,
                (_, None) => {
                    self.invalid += 1;
                    Assembly::Skipping
                }
                (state, Some(piece)) => {
                    if state == Assembly::Idle {
                        scratch.clear();
                    }
                    if scratch.len() + piece.len() > scratch.capacity() {
                        self.oversize += 1;
                        Assembly::Skipping
                    } else {
                        scratch.extend_from_slice(piece);
                        Assembly::Collecting
                    }
                }
            };
            if more {
                continue;
            }
            let whole = *assembly == Assembly::Collecting;
            *assembly = Assembly::Idle;
            if whole {
                count(scratch);
                // In their order: what was gathered came first.
                sink(&batch);
                batch.clear();
                sink(&[frame(scratch, stamp(ahead), snaplen)]);
            }
        }
        if !batch.is_empty() {
            sink(&batch);
        }
        delivered
    }

    /// XDP_STATISTICS, and what its rx_dropped means: in copy mode, a frame for which no buffer was free or, without
    /// multi-buffer, one that fits none. Zero copy loses frames in the NIC, before it: see the driver's counters.
    pub(super) fn kernel_stats(&self, multi_buffer: bool) -> (QueueStats, Lost) {
        let mut stats = QueueStats {
            queue: self.number,
            received: self.received,
            waiting: self.socket.rx.waiting(self.socket.rx.produced()),
            ..QueueStats::default()
        };
        let Ok(kernel) = self.socket.statistics() else { return (stats, Lost::default()) };
        stats.ring_full = kernel.rx_ring_full.unwrap_or(0);
        stats.rx_dropped = kernel.rx_dropped;
        stats.fill_ring_empty = kernel.rx_fill_ring_empty_descs.unwrap_or(0);
        let fill_ring_empty =
            if multi_buffer { kernel.rx_dropped } else { kernel.rx_dropped.min(stats.fill_ring_empty) };
        (stats, Lost { fill_ring_empty, oversize: kernel.rx_dropped - fill_ring_empty })
    }
}

#[inline]
fn frame(data: &[u8], stamp: Stamp, snaplen: usize) -> Frame<'_> {
    Frame {
        stamp,
        link: LinkType::Ethernet,
        // At most 256 KiB of scratch or a chunk.
        original_len: data.len() as u32,
        data: &data[..data.len().min(snaplen)],
        vlan: None,
        outgoing: false,
    }
}
