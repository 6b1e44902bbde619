//! AF_PACKET with a TPACKET_V3 ring: sees what comes and goes beside the host, which keeps its traffic.
//!
//! The ring is a circle of blocks. The kernel fills one, releases it when full or after the retire timeout, and drops
//! frames (tp_drops) when the next one is still ours.
#![allow(unsafe_code)]

mod block;
#[cfg(test)]
mod nic_stamps_tests;
pub(crate) mod socket;

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering, fence};
use std::time::Duration;

use arrayvec::ArrayVec;
use gnomon_clock::{Clock, RawNs};
use rustix::io::Errno;

use crate::error::CaptureError;
use crate::filter::{self, Frames};
use crate::frame::{FRAME_BYTES_MAX, FRAMES_AT_ONCE, Frame, LinkType};
use crate::interface::{self, Interface};
use crate::mapping::Mapping;
use crate::mode::{CaptureMode, Refusal, Rung};
use crate::nic::{NicClock, NoStamps};
use crate::options::Options;
use crate::stamp::StampMap;
use crate::stats::{DropReason, NetdevStats, SourceStats};
use crate::wait;

use block::{BLOCK_HEADER, Cursor, STATUS_AT};
use socket::{PacketSocket, RingShape};

/// A block holds the largest frame (BIG TCP, 256 KiB kept of it) and its headers, so that no frame is cut by the ring.
const BLOCK_BYTES: u32 = 512 << 10;
/// With little memory smaller blocks are better than fewer than four.
const BLOCK_BYTES_MIN: u32 = 64 << 10;
const BLOCKS_MIN: u64 = 4;
/// Periods of the kernel's timer after which it has released what a deleted interface left; it runs late on a loaded machine.
const GONE_PERIODS: u64 = 8;

/// A capture through AF_PACKET. One reader; the ring is unmapped and the promiscuous mode reverts on drop.
pub struct PacketMmap {
    mode: CaptureMode,
    clock: Arc<dyn Clock>,
    link: LinkType,
    index: u32,
    loopback: bool,
    snaplen: usize,
    // The mapping goes before the socket it is a mapping of.
    ring: Ring,
    socket: PacketSocket,
    retire_ns: u64,
    rho_ppb: i64,
    /// Of the NIC, where it stamps frames.
    nic: Option<NicClock>,
    /// The last time no released block was left: a frame drained later arrived at most a retire timeout before it.
    emptied_at: RawNs,
    /// Since when the interface is known to be gone.
    gone_at: Option<RawNs>,
    stats: SourceStats,
    netdev_at_open: NetdevStats,
}

/// What becomes of the stamps of a batch, by who made them.
struct Maps {
    kernel: StampMap,
    nic: StampMap,
}

/// The blocks and where reading stands in them.
struct Ring {
    memory: Mapping,
    block_bytes: usize,
    blocks: usize,
    current: usize,
    /// Set while the current block is half read.
    cursor: Option<Cursor>,
}

impl Ring {
    fn status(&self, block: usize) -> &AtomicU32 {
        let pointer = self.memory.at::<u32>(block * self.block_bytes + STATUS_AT);
        // SAFETY: `pointer` is aligned and inside the mapping, which lives as long as `self`; the kernel, like us,
        // accesses this word only by whole-word loads and stores.
        unsafe { AtomicU32::from_ptr(pointer) }
    }

    fn released(&self, block: usize) -> bool {
        self.status(block).load(Ordering::Acquire) & libc::TP_STATUS_USER != 0
    }

    /// Blocks the kernel has released, counted from the current one.
    fn released_blocks(&self) -> usize {
        (0..self.blocks).take_while(|ahead| self.released((self.current + ahead) % self.blocks)).count()
    }

    /// The current block, which must have been seen released.
    fn bytes(&self) -> &[u8] {
        let start = self.current * self.block_bytes;
        debug_assert!(start + self.block_bytes <= self.memory.len() && self.block_bytes >= BLOCK_HEADER);
        // SAFETY: `current < blocks` and the mapping holds `blocks * block_bytes` bytes, so `start` is inside it.
        let first = unsafe { self.memory.start().add(start) };
        // SAFETY: the block is inside the mapping, and the kernel does not write to a released block until we hand it
        // back in `release`, which takes `&mut self`.
        unsafe { std::slice::from_raw_parts(first, self.block_bytes) }
    }

    /// Hands the current block back to the kernel and goes to the next.
    fn release(&mut self) {
        // Our reads of the block come before the kernel's next writes to it.
        fence(Ordering::Release);
        self.status(self.current).store(libc::TP_STATUS_KERNEL, Ordering::Release);
        self.current = (self.current + 1) % self.blocks;
        self.cursor = None;
    }
}

impl PacketMmap {
    pub(crate) fn open(
        interface: &Interface,
        options: &Options,
        clock: Arc<dyn Clock>,
        refused: Vec<Refusal>,
    ) -> Result<PacketMmap, CaptureError> {
        let name = &interface.name;
        let failed = |step: &str| {
            let what = format!("{step} for `{name}`");
            move |error: std::io::Error| CaptureError::system(what, error)
        };
        let cooked = interface.link != LinkType::Ethernet;
        let socket = PacketSocket::open(cooked).map_err(failed("opening an AF_PACKET socket"))?;
        let shape = shape(options);
        socket.make_ring(shape).map_err(failed("making a TPACKET_V3 ring"))?;
        let bytes = shape.block_bytes as usize * shape.blocks as usize;
        let memory = Mapping::of_fd(&socket, bytes, 0).map_err(failed("mapping the TPACKET_V3 ring"))?;
        if options.promiscuous {
            socket.promiscuous(interface.index).map_err(failed("asking for promiscuous mode"))?;
        }
        let keep = if options.snaplen == 0 { u32::MAX } else { options.snaplen };
        let program = options.filter.as_deref().map(|filter| {
            let frames = if cooked { Frames::OfLink(LinkType::RawIp) } else { Frames::OfSocket(name) };
            filter::compile(filter, frames).map(|program| program.keeping(keep))
        });
        let program = program.transpose()?;
        let attach = || match &program {
            Some(program) => {
                socket.attach(program.instructions()).map_err(failed("setting the capture filter"))
            }
            None => socket.keep_bytes(keep).map_err(failed("setting the snaplen filter")),
        };
        match options.fanout {
            None => {
                attach()?;
                socket.bind(interface.index).map_err(failed("binding"))?;
            }
            // Between bind and join a member would see every frame and not its share: let nothing in until it joined.
            Some(fanout) => {
                socket.keep_bytes(0).map_err(failed("setting a closed filter"))?;
                socket.bind(interface.index).map_err(failed("binding"))?;
                socket.join(fanout).map_err(failed("joining the fanout group"))?;
                attach()?;
            }
        }
        let mut notes = Vec::new();
        if let Some(fanout) = options.fanout {
            notes
                .push(format!("one of {} sources sharing by flow in group {}", fanout.workers, fanout.group));
        }
        if program.is_some() {
            notes.push("the kernel filters, and does not count what it leaves out".into());
        }
        if cooked {
            notes.push("frames come without their link header".into());
        }
        let nic = if options.hardware_stamps {
            let opened = NicClock::open(name, &*clock).and_then(|opened| {
                socket.stamps_of_nic().map_err(NoStamps::Asking)?;
                Ok(opened)
            });
            match opened {
                Ok((nic, device)) => {
                    notes.push(format!("stamps by the NIC ({device})"));
                    Some(nic)
                }
                Err(why) => {
                    notes.push(format!("no stamps by the NIC: {why}"));
                    None
                }
            }
        } else {
            None
        };
        let (netdev_at_open, interface_up) = interface::counters(interface.index).unwrap_or_default();
        let emptied_at = clock.raw();
        let rho_ppb = clock.kernel_status().map_or(0, |status| status.rho_ppb);
        Ok(PacketMmap {
            mode: CaptureMode {
                interface: name.clone(),
                rung: Rung::PacketMmap,
                refused,
                takes_frames: false,
                promiscuous: options.promiscuous,
                queues: 1,
                ring_slots: shape.blocks,
                slot_bytes: shape.block_bytes,
                memory_bytes: bytes as u64,
                snaplen: options.snaplen,
                notes,
            },
            clock,
            link: interface.link,
            index: interface.index,
            loopback: interface.is_loopback(),
            snaplen: if options.snaplen == 0 { FRAME_BYTES_MAX } else { options.snaplen as usize },
            ring: Ring {
                memory,
                block_bytes: shape.block_bytes as usize,
                blocks: shape.blocks as usize,
                current: 0,
                cursor: None,
            },
            socket,
            retire_ns: u64::from(shape.retire_ms) * 1_000_000,
            rho_ppb,
            nic,
            emptied_at,
            gone_at: None,
            stats: SourceStats { interface_up, netdev: Some(netdev_at_open), ..SourceStats::default() },
            netdev_at_open,
        })
    }

    pub fn drain<F: FnMut(&[Frame<'_>])>(
        &mut self,
        max_frames: usize,
        mut sink: F,
    ) -> Result<usize, CaptureError> {
        let released = self.ring.released_blocks();
        if released == 0 {
            self.emptied_at = self.clock.raw();
            if let Some(nic) = &mut self.nic {
                nic.watch(&*self.clock, self.emptied_at);
            }
            return if self.is_over() { Err(self.gone_error()) } else { Ok(0) };
        }
        // Read after the blocks were seen released, so no stamp in them lies in its future.
        let bracket = self.clock.bracket();
        // The kernel's timer runs late on a loaded machine: twice its period.
        let unseen_ns = bracket.raw.since(self.emptied_at).saturating_add(2 * self.retire_ns);
        let maps = Maps {
            kernel: StampMap::of_kernel(&bracket, self.rho_ppb, unseen_ns),
            nic: match self.nic.as_mut().and_then(|nic| nic.steady(&*self.clock)) {
                Some(nic) => StampMap::of_nic(&nic, unseen_ns),
                None => StampMap::of_nothing(bracket.raw, unseen_ns),
            },
        };
        let mut delivered = 0;
        let mut done = 0;
        while done < released && delivered < max_frames {
            if self.drain_block(&maps, max_frames, &mut delivered, &mut sink) {
                self.ring.release();
                done += 1;
            }
        }
        if done == released && !self.ring.released(self.ring.current) {
            self.emptied_at = bracket.raw;
        }
        Ok(delivered)
    }

    /// Reads on in the current block; true when it is finished.
    fn drain_block<F: FnMut(&[Frame<'_>])>(
        &mut self,
        maps: &Maps,
        max_frames: usize,
        delivered: &mut usize,
        sink: &mut F,
    ) -> bool {
        let block = self.ring.bytes();
        let mut cursor = match self.ring.cursor.map_or_else(|| Cursor::open(block), Ok) {
            Ok(cursor) => cursor,
            Err(broken) => {
                self.stats.drops[DropReason::InvalidDescriptor as usize] += u64::from(broken.frames_lost);
                return true;
            }
        };
        let (mut frames, mut bytes, mut truncated, mut duplicates) = (0_u64, 0_u64, 0_u64, 0_u64);
        let mut lost = 0;
        let mut batch = ArrayVec::<Frame<'_>, FRAMES_AT_ONCE>::new();
        let finished = loop {
            if batch.is_full() {
                sink(&batch);
                batch.clear();
            }
            if *delivered >= max_frames {
                break false;
            }
            let raw = match cursor.next(block) {
                Ok(Some(raw)) => raw,
                Ok(None) => break true,
                Err(broken) => {
                    lost = u64::from(broken.frames_lost);
                    break true;
                }
            };
            // On lo each frame is seen going out and coming in again.
            if self.loopback && raw.outgoing {
                duplicates += 1;
                continue;
            }
            let data = &raw.data[..raw.data.len().min(self.snaplen)];
            frames += 1;
            bytes += u64::from(raw.original_len);
            truncated += u64::from(data.len() < raw.original_len as usize);
            *delivered += 1;
            batch.push(Frame {
                stamp: if raw.stamped_by_nic { &maps.nic } else { &maps.kernel }.stamp(raw.stamp_ns),
                link: self.link,
                original_len: raw.original_len,
                data,
                vlan: raw.vlan,
                outgoing: raw.outgoing,
            });
        };
        if !batch.is_empty() {
            sink(&batch);
        }
        drop(batch);
        self.ring.cursor = Some(cursor);
        self.stats.received += frames;
        self.stats.received_bytes += bytes;
        self.stats.truncated += truncated;
        self.stats.drops[DropReason::LoopbackDuplicate as usize] += duplicates;
        self.stats.drops[DropReason::InvalidDescriptor as usize] += lost;
        finished
    }

    pub fn wait(&mut self, timeout: Duration) -> Result<(), CaptureError> {
        let ring = &self.ring;
        let mut fds = [wait::readable(self.socket.as_fd())];
        wait::sleep_until(timeout, timeout, &mut fds, || ring.released(ring.current), || true)
            .map_err(|error| CaptureError::system(format!("polling `{}`", self.mode.interface), error))?;
        let failed = !fds[0].revents().is_empty() && !self.ring.released(self.ring.current);
        if failed {
            self.look_for_error()?;
        }
        Ok(())
    }

    /// ENETDOWN is raised both when the link goes down (it may come up again) and when the device is deleted.
    fn look_for_error(&mut self) -> Result<(), CaptureError> {
        match rustix::net::sockopt::socket_error(&self.socket) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(Errno::NETDOWN)) | Ok(Err(Errno::NODEV)) => {
                if interface::counters(self.index).is_err() {
                    self.gone_at.get_or_insert(self.clock.raw());
                }
                Ok(())
            }
            Ok(Err(error)) | Err(error) => {
                Err(CaptureError::system(format!("capturing on `{}`", self.mode.interface), error))
            }
        }
    }

    /// The interface is gone, and the kernel's timer has released the block that its last frames are in.
    fn is_over(&self) -> bool {
        let limit_ns = GONE_PERIODS * self.retire_ns;
        self.gone_at.is_some_and(|gone_at| self.emptied_at.since(gone_at) >= limit_ns)
    }

    fn gone_error(&self) -> CaptureError {
        CaptureError::InterfaceGone { name: self.mode.interface.clone() }
    }

    pub fn stats(&mut self) -> SourceStats {
        if let Ok((_, drops)) = self.socket.statistics() {
            self.stats.drops[DropReason::Kernel as usize] += u64::from(drops);
        }
        match interface::counters(self.index) {
            Ok((now, up)) => {
                self.stats.netdev = Some(now.since(&self.netdev_at_open));
                self.stats.interface_up = up;
            }
            Err(error) => {
                self.stats.interface_up = false;
                if error.raw_os_error() == Some(libc::ENODEV) {
                    self.gone_at.get_or_insert(self.clock.raw());
                }
            }
        }
        if let Ok(status) = self.clock.kernel_status() {
            self.rho_ppb = status.rho_ppb;
        }
        self.stats.clone()
    }

    pub fn mode(&self) -> &CaptureMode {
        &self.mode
    }
}

fn shape(options: &Options) -> RingShape {
    let mut block_bytes = BLOCK_BYTES;
    while block_bytes > BLOCK_BYTES_MIN && options.umem_bytes / u64::from(block_bytes) < BLOCKS_MIN {
        block_bytes /= 2;
    }
    let blocks = (options.umem_bytes / u64::from(block_bytes)).max(2);
    RingShape {
        block_bytes,
        blocks: u32::try_from(blocks).unwrap_or(u32::MAX),
        retire_ms: options.block_retire_ms,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_fit_the_memory_and_the_largest_frame() {
        let default = shape(&Options::default());
        assert_eq!((default.block_bytes, default.blocks), (512 << 10, 128));
        let tiny = shape(&Options { umem_bytes: 128 << 10, ..Options::default() });
        assert_eq!((tiny.block_bytes, tiny.blocks), (64 << 10, 2));
    }
}
