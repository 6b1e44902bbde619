//! AF_PACKET with a TPACKET_V3 ring: sees what comes and goes beside the host, which keeps its traffic.
//!
//! The ring is a circle of blocks. The kernel fills one, releases it when full or after the retire timeout, and drops
//! frames (tp_drops) when the next one is still ours.
//!
//! A short timeout shows a quiet link's frames soon and wastes the ring: every block it releases is nearly empty, and a pause
//! of so many timeouts as there are blocks loses frames. So the timeout is long, and the block that the kernel still fills is
//! read as well (`open_block.rs`): the ring then holds what its bytes allow, whatever the rate.

mod block;
#[cfg(test)]
mod nic_stamps_tests;
mod open_block;
mod ring;
pub(crate) mod socket;

use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use arrayvec::ArrayVec;
use gnomon_clock::{Clock, RawNs};
use rustix::io::Errno;

use crate::error::CaptureError;
use crate::filter::shortened::{Frame as Shape, instructions};
use crate::filter::{self, Frames, Instruction, Shortened};
use crate::frame::{FRAME_BYTES_MAX, FRAMES_AT_ONCE, Frame, LinkType};
use crate::interface::{self, Interface};
use crate::mapping::Mapping;
use crate::mode::{CaptureMode, Refusal, Rung};
use crate::nic::{NicClock, NoStamps};
use crate::options::Options;
use crate::stamp::StampMap;
use crate::stats::{DropReason, NetdevStats, SourceStats};
use crate::wait;

use block::Cursor;
use open_block::OpenBlock;
use ring::Ring;
use socket::{PacketSocket, RingShape};

/// A block holds the largest frame (BIG TCP, 256 KiB kept of it) and its headers, so that no frame is cut by the ring.
const BLOCK_BYTES: u32 = 512 << 10;
/// With little memory smaller blocks are better than fewer than four.
const BLOCK_BYTES_MIN: u32 = 64 << 10;
const BLOCKS_MIN: u64 = 4;
/// Periods of `block_retire_ms` without a drain that are a pause of the reader.
const PAUSE_PERIODS: u64 = 3;
/// After a pause, how long a drain sleeps for the frames of the open block at the most: 50 times 1 ms.
const LOOK_WAIT: Duration = Duration::from_millis(1);
const LOOK_WAITS_MAX: u32 = 50;
/// How often a sleeping reader looks whether frames of the open block are finished.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// When the kernel releases a block that is not full, where the open block is read too: only should that ever fail.
const RETIRE_MS_WHEN_READ_OPEN: u32 = 60_000;
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
    /// Which frames are wanted, and how much of them; without instructions: all frames.
    wanted: Vec<Instruction>,
    keep: u32,
    /// How long a frame may wait in a block that is not full.
    retire_ns: u64,
    /// None where the kernel offers no grace periods: then its timer releases blocks after `retire_ns`.
    open_block: Option<OpenBlock>,
    rho_ppb: i64,
    /// Of the NIC, where it stamps frames.
    nic: Option<NicClock>,
    /// A frame drained later arrived at most `retire_ns` before it.
    emptied_at: RawNs,
    /// The last time somebody drained.
    drained_at: RawNs,
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

/// As much of the current block as may be read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    /// The kernel released it.
    Whole,
    /// So many frames, which the kernel has finished.
    First(u32),
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
        let open_block = OpenBlock::new(u64::from(options.block_retire_ms) * 1_000_000);
        let mut shape = shape(options);
        if open_block.is_some() {
            shape.retire_ms = RETIRE_MS_WHEN_READ_OPEN;
        }
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
        if open_block.is_none() {
            notes.push(format!(
                "no grace periods by membarrier(2): the ring holds {} ms of a quiet link",
                shape.blocks * shape.retire_ms
            ));
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
                passed: 0,
                cursor: None,
            },
            socket,
            wanted: program.map(|program| program.instructions().to_vec()).unwrap_or_default(),
            keep,
            retire_ns: u64::from(options.block_retire_ms) * 1_000_000,
            open_block,
            rho_ppb,
            nic,
            emptied_at,
            drained_at: emptied_at,
            gone_at: None,
            stats: SourceStats { interface_up, netdev: Some(netdev_at_open), ..SourceStats::default() },
            netdev_at_open,
        })
    }

    /// See [`crate::Source::shorten`]. The program takes the place of the one before it, without a gap.
    pub fn shorten(&mut self, streams: &Shortened) -> Result<(), CaptureError> {
        let shape = if self.link == LinkType::Ethernet { Shape::Ethernet } else { Shape::Cooked };
        let program = instructions(&self.wanted, self.keep, shape, streams);
        self.socket.attach(&program).map_err(|error| {
            CaptureError::system(
                format!("setting the filter of own streams for `{}`", self.mode.interface),
                error,
            )
        })
    }

    pub fn drain<F: FnMut(&[Frame<'_>])>(
        &mut self,
        max_frames: usize,
        mut sink: F,
    ) -> Result<usize, CaptureError> {
        let released = self.ring.released_blocks();
        if released == 0 {
            return self.drain_open(max_frames, &mut sink);
        }
        // Read after the blocks were seen released, so no stamp in them lies in its future.
        let (raw, maps) = self.maps();
        let mut delivered = 0;
        let mut done = 0;
        while done < released && delivered < max_frames {
            if self.drain_block(Part::Whole, &maps, max_frames, &mut delivered, &mut sink) {
                self.ring.release();
                done += 1;
            }
        }
        if done == released && !self.ring.released(self.ring.current) {
            self.look(raw);
        }
        Ok(delivered)
    }

    /// What becomes of the stamps of frames that are there now, and the time.
    fn maps(&mut self) -> (RawNs, Maps) {
        let bracket = self.clock.bracket();
        self.drained_at = bracket.raw;
        // The kernel's timer runs late on a loaded machine: twice its period.
        let unseen_ns = bracket.raw.since(self.emptied_at).saturating_add(2 * self.retire_ns);
        let maps = Maps {
            kernel: StampMap::of_kernel(&bracket, self.rho_ppb, unseen_ns),
            nic: match self.nic.as_mut().and_then(|nic| nic.steady(&*self.clock)) {
                Some(nic) => StampMap::of_nic(&nic, unseen_ns),
                None => StampMap::of_nothing(bracket.raw, unseen_ns),
            },
        };
        (bracket.raw, maps)
    }

    /// No block is released: frames of the open one that the kernel has finished.
    fn drain_open<F: FnMut(&[Frame<'_>])>(
        &mut self,
        max_frames: usize,
        sink: &mut F,
    ) -> Result<usize, CaptureError> {
        let mut delivered = 0;
        if self.finished().is_none() {
            let now = self.clock.raw();
            let paused = now.since(self.drained_at) >= PAUSE_PERIODS * self.retire_ns;
            self.drained_at = now;
            self.look(now);
            if paused {
                self.wait_for_look();
            }
        }
        if let Some(frames) = self.finished() {
            let (raw, maps) = self.maps();
            self.drain_block(Part::First(frames), &maps, max_frames, &mut delivered, sink);
            self.look(raw);
        } else if let Some(nic) = &mut self.nic {
            nic.watch(&*self.clock, self.drained_at);
        }
        if delivered == 0 && self.is_over() { Err(self.gone_error()) } else { Ok(delivered) }
    }

    /// Reads on in the current block; true when it is finished.
    fn drain_block<F: FnMut(&[Frame<'_>])>(
        &mut self,
        part: Part,
        maps: &Maps,
        max_frames: usize,
        delivered: &mut usize,
        sink: &mut F,
    ) -> bool {
        let block = self.ring.bytes();
        let frames = match part {
            Part::Whole => None,
            Part::First(frames) => Some(frames),
        };
        let opened = match self.ring.cursor {
            Some(cursor) => Ok(cursor.go_on(block, frames)),
            None => Cursor::open(block, frames),
        };
        let mut cursor = match opened {
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
        let (ring, open) = (&self.ring, &self.open_block);
        let ready =
            || ring.released(ring.current) || open.as_ref().is_some_and(|open| open.finished(ring).is_some());
        let mut fds = [wait::readable(self.socket.as_fd())];
        // Nothing wakes for a frame in an open block.
        let tick_every = if open.is_some() { timeout.min(LOOK_EVERY) } else { timeout };
        wait::sleep_until(timeout, tick_every, &mut fds, ready, || true)
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
        self.gone_at.is_some_and(|gone_at| match self.open_block {
            // An interface is gone only after the kernel has finished its last frame.
            Some(_) => self.emptied_at > gone_at,
            None => self.emptied_at.since(gone_at) >= GONE_PERIODS * self.retire_ns,
        })
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

    pub(crate) fn mode_mut(&mut self) -> &mut CaptureMode {
        &mut self.mode
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
