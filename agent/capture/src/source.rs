//! The one type the worker reads frames from, and how a back-end is chosen.

use std::sync::Arc;
use std::time::Duration;

use gnomon_clock::{Clock, RawNs};

use crate::afxdp::AfXdp;
use crate::error::CaptureError;
use crate::filter::Shortened;
use crate::frame::{Frame, LinkType};
use crate::interface::{self, Interface};
use crate::mode::{CaptureMode, Refusal, Rung};
use crate::options::{Backend, Options, Stance};
use crate::packet_mmap::PacketMmap;
use crate::stats::SourceStats;

/// A back-end. An enum and not a trait object: the frame loop is compiled for each.
#[expect(
    clippy::large_enum_variant,
    reason = "a worker has one for its life; a box would cost each drain a pointer"
)]
pub enum Source {
    AfXdp(AfXdp),
    PacketMmap(PacketMmap),
}

impl Source {
    /// Hands over every frame that is ready, at most `max_frames`, up to [`crate::FRAMES_AT_ONCE`] in a call of `sink`,
    /// and returns how many. Does not wait for frames, but for up to 50 ms after a pause of its caller; one clock bracket at most. Frames are borrowed from the ring and handed back to the kernel when the call returns.
    ///
    /// # Errors
    /// `InterfaceGone` once the device was deleted and every frame that had arrived was handed over.
    #[inline]
    pub fn drain<F: FnMut(&[Frame<'_>])>(
        &mut self,
        max_frames: usize,
        sink: F,
    ) -> Result<usize, CaptureError> {
        match self {
            Source::AfXdp(source) => source.drain(max_frames, sink),
            Source::PacketMmap(source) => source.drain(max_frames, sink),
        }
    }

    /// Sleeps until frames may be there or the timeout passed: some naps of 50 to 200 µs, then poll(2).
    ///
    /// # Errors
    /// When the socket reports an error that does not pass.
    pub fn wait(&mut self, timeout: Duration) -> Result<(), CaptureError> {
        match self {
            Source::AfXdp(source) => source.wait(timeout),
            Source::PacketMmap(source) => source.wait(timeout),
        }
    }

    /// Of these streams only headers need to be handed over, from now on; their lengths on the wire stay what they are. With
    /// AF_PACKET the kernel then copies no more. AF_XDP, which copies nothing of its own, hands over whole frames all the same.
    ///
    /// # Errors
    /// When the kernel does not take the program: frames are handed over as before.
    pub fn shorten(&mut self, streams: &Shortened) -> Result<(), CaptureError> {
        match self {
            Source::AfXdp(_) => Ok(()),
            Source::PacketMmap(source) => source.shorten(streams),
        }
    }

    /// The interface has another name now. Capture goes by its index and went on.
    pub fn rename(&mut self, name: &str) {
        let mode = match self {
            Source::AfXdp(source) => source.mode_mut(),
            Source::PacketMmap(source) => source.mode_mut(),
        };
        mode.interface = name.to_owned();
    }

    /// Whether every frame that had arrived by `at` was handed over, as far as the last [`Source::drain`] saw.
    pub fn has_taken_all_before(&self, at: RawNs) -> bool {
        match self {
            // Each drain takes all that is in the rings.
            Source::AfXdp(_) => true,
            Source::PacketMmap(source) => source.has_taken_all_before(at),
        }
    }

    /// Cumulative counters. Does system calls: about once a second.
    pub fn stats(&mut self) -> SourceStats {
        match self {
            Source::AfXdp(source) => source.stats(),
            Source::PacketMmap(source) => source.stats(),
        }
    }

    /// The way in use, and why not a better one.
    pub fn mode(&self) -> &CaptureMode {
        match self {
            Source::AfXdp(source) => source.mode(),
            Source::PacketMmap(source) => source.mode(),
        }
    }
}

/// Opens the best way to capture on `name` that the options allow.
///
/// The interface is looked up in the network namespace of the calling thread; the source may then move to another.
///
/// # Errors
/// When the options contradict each other, frames would be taken from a host that needs them, or no rung holds.
pub fn open(name: &str, options: &Options, clock: Arc<dyn Clock>) -> Result<Source, CaptureError> {
    options.check()?;
    open_interface(&interface::describe(name)?, options, clock)
}

/// As [`open`], for the interface with an index, whatever it is called now.
///
/// # Errors
/// As [`open`]; `InterfaceGone` when there is no such interface any more.
pub fn open_index(
    index: u32,
    name: &str,
    options: &Options,
    clock: Arc<dyn Clock>,
) -> Result<Source, CaptureError> {
    options.check()?;
    open_interface(&interface::describe_index(index, name)?, options, clock)
}

fn open_interface(
    interface: &Interface,
    options: &Options,
    clock: Arc<dyn Clock>,
) -> Result<Source, CaptureError> {
    let name = &interface.name;
    let mut refused = Vec::new();
    if wants_af_xdp(interface, options, &mut refused)? {
        if let Some(source) = AfXdp::open(interface, options, clock.clone(), &mut refused)? {
            return Ok(Source::AfXdp(source));
        }
        if options.backend == Backend::AfXdp {
            let refusals: Vec<String> = refused
                .iter()
                .map(|refusal| format!("{}: {}", refusal.rung.name(), refusal.reason))
                .collect();
            return Err(CaptureError::NoRung { name: name.clone(), refusals: refusals.join("; ") });
        }
    }
    PacketMmap::open(interface, options, clock, refused).map(Source::PacketMmap)
}

/// AF_XDP takes frames from the host: only where somebody said that they are for nobody else.
fn wants_af_xdp(
    interface: &Interface,
    options: &Options,
    refused: &mut Vec<Refusal>,
) -> Result<bool, CaptureError> {
    let mut refuse = |reason: String| {
        refused.push(Refusal { rung: Rung::ZeroCopyMultiBuffer, reason });
        Ok(false)
    };
    match (options.backend, options.stance) {
        (Backend::AfPacket, _) => return refuse("AF_PACKET was asked for".into()),
        (_, Stance::Host) => return refuse("the host stance leaves the host its traffic".into()),
        (_, Stance::Auto) => {
            return refuse("AF_XDP takes frames from the host and needs the tap stance".into());
        }
        (_, Stance::Tap) => {}
    }
    if let Some(address) = interface.host_address()
        && !options.steal_addressed
    {
        return Err(CaptureError::Addressed { name: interface.name.clone(), address: address.to_string() });
    }
    if interface.link != LinkType::Ethernet || interface.is_loopback() {
        return refuse("not an Ethernet interface".into());
    }
    if options.fanout.is_some() {
        return refuse("a fanout group shares frames by flow, which only AF_PACKET does".into());
    }
    if !interface.up {
        return Err(CaptureError::InterfaceDown { name: interface.name.clone() });
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_may_move_to_its_workers_thread() {
        fn assert_send<T: Send>() {}
        assert_send::<Source>();
    }
}
