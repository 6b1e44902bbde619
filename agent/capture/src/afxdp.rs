//! AF_XDP: frames of a tap, taken before the host sees them. One reader drains the sockets of all queues, so both
//! directions of a flow meet whatever the NIC's hash did with them.

mod arrival;
mod bound;
mod ladder;
mod nic_stamps;
#[cfg(test)]
mod nic_stamps_tests;
mod program;
mod queue;
mod ring;
mod socket;
mod umem;

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use gnomon_clock::{Clock, RawNs};
use rustix::event::PollFd;

use crate::error::CaptureError;
use crate::filter::Sieve;
use crate::frame::{FRAME_BYTES_MAX, Frame};
use crate::interface::{self, Interface};
use crate::mode::{CaptureMode, Refusal, Rung};
use crate::nic::NoStamps;
use crate::options::{Options, Queues};
use crate::packet_mmap::socket::PacketSocket;
use crate::stats::{DropReason, NetdevStats, QueueStats, SourceStats};
use crate::wait;

use arrival::Look;
use ladder::Sizes;
use nic_stamps::{NicStamps, Wanted};
use program::Program;
use queue::Queue;

/// The program lets frames pass to the host after a second of silence: the agent says it lives well before that.
const BEAT_NS: u64 = 100_000_000;
const BEAT: Duration = Duration::from_millis(100);

/// A capture through AF_XDP. Dropping it, or dying, detaches the program and the host has its traffic again.
pub struct AfXdp {
    mode: CaptureMode,
    clock: Arc<dyn Clock>,
    index: u32,
    snaplen: usize,
    // The program goes before the sockets: nothing is redirected into a socket that is being closed.
    program: Program,
    queues: Vec<Queue>,
    /// Which queue the next drain begins with, so that none starves.
    first: usize,
    rung: Rung,
    sizes: Sizes,
    follow_channels: bool,
    sieve: Option<Sieve>,
    /// Where frames bring the NIC's stamps.
    nic: Option<NicStamps>,
    _promiscuous: Option<PacketSocket>,
    beaten_at: RawNs,
    gone: bool,
    netdev_at_open: NetdevStats,
    stats: SourceStats,
}

impl AfXdp {
    /// Climbs down the AF_XDP rungs; `Ok(None)` when none held, with the reasons in `refused`.
    pub(crate) fn open(
        interface: &Interface,
        options: &Options,
        clock: Arc<dyn Clock>,
        refused: &mut Vec<Refusal>,
    ) -> Result<Option<AfXdp>, CaptureError> {
        let stamps = options.hardware_stamps.then(|| Wanted::of(interface, &*clock));
        AfXdp::open_with(interface, options, clock, stamps, refused)
    }

    fn open_with(
        interface: &Interface,
        options: &Options,
        clock: Arc<dyn Clock>,
        stamps: Option<Result<Wanted, NoStamps>>,
        refused: &mut Vec<Refusal>,
    ) -> Result<Option<AfXdp>, CaptureError> {
        let name = &interface.name;
        let sieve = options.filter.as_deref().map(Sieve::new).transpose()?;
        let promiscuous = options
            .promiscuous
            .then(|| {
                let socket = PacketSocket::open(false)?;
                socket.promiscuous(interface.index)?;
                Ok(socket)
            })
            .transpose()
            .map_err(|error: io::Error| {
                CaptureError::system(format!("asking `{name}` for promiscuous mode"), error)
            })?;
        let (netdev_at_open, _) = interface::counters(interface.index).unwrap_or_default();
        let mut no_stamps = None;
        let (asked, nic_clock) = match stamps {
            Some(Ok(Wanted { asked, clock, device })) => (Some(asked), Some((clock, device))),
            Some(Err(why)) => {
                no_stamps = Some(why.to_string());
                (None, None)
            }
            None => (None, None),
        };
        let Some(bound) = ladder::climb_down(interface, options, asked, refused)? else { return Ok(None) };
        let now = clock.raw();
        bound.program.beat();
        let ladder::Bound { program, rung, sockets, sizes } = bound;
        let memory_bytes = sockets.iter().map(|(_, socket)| socket.memory_bytes()).sum();
        let queues: Vec<Queue> = sockets
            .into_iter()
            .map(|(number, socket)| Queue::new(number, socket, rung.multi_buffer(), now))
            .collect();
        let mut notes = Vec::new();
        if sieve.is_some() {
            notes.push("the capture filter is run by the agent: a socket of AF_XDP has none".into());
        }
        no_stamps = no_stamps.or_else(|| program.no_stamps().map(NoStamps::to_string));
        if let Some(why) = no_stamps {
            notes.push(format!("no stamps by the NIC: {why}"));
        }
        let nic =
            nic_clock.filter(|_| program.bound()).map(|(clock, device)| NicStamps::new(clock, device, now));
        notes.extend(nic.iter().map(|nic| nic.note(0, 0)));
        if interface.strips_vlan {
            notes.push(format!(
                "the card may take VLAN tags out of frames, where AF_XDP cannot see them: `ethtool -K {name} rxvlan off`"
            ));
        }
        Ok(Some(AfXdp {
            mode: CaptureMode {
                interface: name.clone(),
                rung,
                refused: refused.clone(),
                takes_frames: true,
                promiscuous: options.promiscuous,
                queues: u32::try_from(queues.len()).unwrap_or(u32::MAX),
                ring_slots: sizes.frames,
                slot_bytes: sizes.chunk_bytes,
                memory_bytes,
                snaplen: options.snaplen,
                notes,
            },
            clock,
            index: interface.index,
            snaplen: if options.snaplen == 0 { FRAME_BYTES_MAX } else { options.snaplen as usize },
            program,
            queues,
            first: 0,
            rung,
            sizes,
            follow_channels: options.queues == Queues::All,
            sieve,
            nic,
            _promiscuous: promiscuous,
            beaten_at: now,
            gone: false,
            netdev_at_open,
            stats: SourceStats { interface_up: true, ..SourceStats::default() },
        }))
    }

    pub fn drain<F: FnMut(&[Frame<'_>])>(
        &mut self,
        max_frames: usize,
        mut sink: F,
    ) -> Result<usize, CaptureError> {
        // Before the look: a frame that comes after it comes after this. After the look: one it saw came before that.
        let before = self.clock.raw();
        for queue in &mut self.queues {
            queue.look();
        }
        let look = Look { before, after: self.clock.raw() };
        if look.after.since(self.beaten_at) >= BEAT_NS {
            self.program.beat();
            self.beaten_at = look.after;
        }
        let nic = match &mut self.nic {
            Some(nic) => nic.at(&*self.clock, look, self.queues.iter().any(Queue::found)),
            None => None,
        };
        let (count, mut delivered) = (self.queues.len(), 0);
        let sieve = &mut self.sieve;
        let mut sink = |frames: &[Frame<'_>]| match sieve {
            Some(sieve) => sieve.sift(frames, &mut sink),
            None => sink(frames),
        };
        for nth in 0..count {
            let queue = &mut self.queues[(self.first + nth) % count];
            delivered += queue.drain(max_frames - delivered, look, nic.as_ref(), self.snaplen, &mut sink);
        }
        self.first = (self.first + 1) % count.max(1);
        if delivered == 0 && self.gone {
            return Err(CaptureError::InterfaceGone { name: self.mode.interface.clone() });
        }
        Ok(delivered)
    }

    pub fn wait(&mut self, timeout: Duration) -> Result<(), CaptureError> {
        let (queues, program, gone) = (&self.queues, &self.program, &mut self.gone);
        let mut fds: Vec<PollFd<'_>> =
            queues.iter().map(|queue| wait::readable(queue.socket.as_fd())).collect();
        let ready = || queues.iter().any(Queue::ready);
        let mut ticks = 0_u32;
        let tick = || {
            program.beat();
            // Not at the first tick: a busy source naps often and need not ask each time.
            if ticks > 0 {
                *gone |= queues.iter().any(|queue| queue.socket.lost_its_device());
            }
            ticks += 1;
            !*gone
        };
        wait::sleep_until(timeout, BEAT, &mut fds, ready, tick)
            .map_err(|error| CaptureError::system(format!("polling `{}`", self.mode.interface), error))
    }

    pub fn stats(&mut self) -> SourceStats {
        self.follow_channels();
        self.gone |= self.queues.iter().any(|queue| queue.socket.lost_its_device());
        let mut stats = SourceStats { interface_up: self.stats.interface_up, ..SourceStats::default() };
        for queue in &self.queues {
            let counted = self.program.counters(queue.number);
            let (kernel, lost) = queue.kernel_stats(self.rung.multi_buffer());
            stats.received += queue.received;
            stats.received_bytes += queue.received_bytes;
            stats.truncated += queue.truncated;
            stats.drops[DropReason::RingFull as usize] += kernel.ring_full;
            stats.drops[DropReason::FillRingEmpty as usize] += lost.fill_ring_empty;
            stats.drops[DropReason::Oversize as usize] += lost.oversize + queue.oversize;
            stats.drops[DropReason::InvalidDescriptor as usize] += queue.invalid;
            stats.queues.push(QueueStats {
                redirected: counted.redirected,
                no_socket: counted.no_socket,
                passed: counted.passed,
                ..kernel
            });
        }
        // Queues that were never bound, and all beyond those the program has counters for.
        for number in 0..=self.program.queues() {
            let counted = self.program.counters(number);
            stats.drops[DropReason::NoSocket as usize] += counted.no_socket;
            stats.drops[DropReason::Passed as usize] += counted.passed;
            let bound = self.queues.iter().any(|queue| queue.number == number);
            if !bound && (counted.no_socket > 0 || counted.passed > 0) {
                stats.queues.push(QueueStats {
                    queue: number,
                    no_socket: counted.no_socket,
                    passed: counted.passed,
                    ..QueueStats::default()
                });
            }
        }
        self.say_who_stamps();
        if let Some(sieve) = &self.sieve {
            let (frames, bytes) = sieve.filtered();
            stats.received -= frames;
            stats.received_bytes -= bytes;
            stats.drops[DropReason::Filtered as usize] += frames;
        }
        match interface::counters(self.index) {
            Ok((now, up)) => {
                stats.netdev = Some(now.since(&self.netdev_at_open));
                stats.interface_up = up;
            }
            Err(error) => {
                stats.netdev = self.stats.netdev;
                stats.interface_up = false;
                self.gone |= error.raw_os_error() == Some(libc::ENODEV);
            }
        }
        self.stats = stats.clone();
        stats
    }

    /// A driver may offer stamps and then have none.
    fn say_who_stamps(&mut self) {
        let Some(nic) = &self.nic else { return };
        let sum = |of: fn(&Queue) -> u64| self.queues.iter().map(of).sum();
        let note = nic.note(sum(|queue| queue.stamped), sum(|queue| queue.bare));
        if let Some(said) = self.mode.notes.iter_mut().find(|said| said.starts_with(nic_stamps::BEGINS)) {
            *said = note;
        }
    }

    /// The kernel lets the number of channels grow while sockets are bound, and frames of the new ones would be lost.
    fn follow_channels(&mut self) {
        if !self.follow_channels {
            return;
        }
        let Some(now) = interface::queues_now(&self.mode.interface) else { return };
        for number in 0..now.min(self.program.queues()) {
            if self.queues.iter().any(|queue| queue.number == number) {
                continue;
            }
            let bound = ladder::bind(self.index, number, self.sizes, self.rung)
                .map_err(|error| error.to_string())
                .and_then(|socket| {
                    self.program.direct(number, &socket).map_err(|error| error.to_string())?;
                    Ok(socket)
                });
            match bound {
                Ok(socket) => {
                    self.mode.memory_bytes += socket.memory_bytes();
                    self.mode.queues += 1;
                    let now = self.clock.raw();
                    self.queues.push(Queue::new(number, socket, self.rung.multi_buffer(), now));
                }
                Err(error) => {
                    let note = format!("queue {number} was added and could not be bound: {error}");
                    if !self.mode.notes.contains(&note) {
                        self.mode.notes.push(note);
                    }
                    // Its frames are counted as no_socket; the next call tries again.
                    return;
                }
            }
        }
    }

    pub(crate) fn mode_mut(&mut self) -> &mut CaptureMode {
        &mut self.mode
    }

    pub fn mode(&self) -> &CaptureMode {
        &self.mode
    }
}
