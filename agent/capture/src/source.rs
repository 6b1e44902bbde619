//! The one type the worker reads frames from, and how a back-end is chosen.

use std::sync::Arc;
use std::time::Duration;

use gnomon_clock::Clock;

use crate::error::CaptureError;
use crate::frame::Frame;
use crate::interface::{self, Interface};
use crate::mode::{CaptureMode, Refusal};
use crate::options::Options;
use crate::packet_mmap::PacketMmap;
use crate::stats::SourceStats;

/// A back-end. An enum and not a trait object: the frame loop is compiled for each.
pub enum Source {
    PacketMmap(PacketMmap),
}

impl Source {
    /// Hands over every frame that is ready, at most `max_frames`, and returns how many. Never blocks; one clock
    /// bracket at most. Frames are borrowed from the ring and handed back to the kernel when the call returns.
    ///
    /// # Errors
    /// `InterfaceGone` once the device was deleted and every frame that had arrived was handed over.
    #[inline]
    pub fn drain<F: FnMut(Frame<'_>)>(&mut self, max_frames: usize, sink: F) -> Result<usize, CaptureError> {
        match self {
            Source::PacketMmap(source) => source.drain(max_frames, sink),
        }
    }

    /// Sleeps until frames may be there or the timeout passed: some naps of 50 to 200 µs, then poll(2).
    ///
    /// # Errors
    /// When the socket reports an error that does not pass.
    pub fn wait(&mut self, timeout: Duration) -> Result<(), CaptureError> {
        match self {
            Source::PacketMmap(source) => source.wait(timeout),
        }
    }

    /// Cumulative counters. Does system calls: about once a second.
    pub fn stats(&mut self) -> SourceStats {
        match self {
            Source::PacketMmap(source) => source.stats(),
        }
    }

    /// The way in use, and why not a better one.
    pub fn mode(&self) -> &CaptureMode {
        match self {
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
    let interface = interface::describe(name)?;
    open_packet(&interface, options, clock, Vec::new())
}

fn open_packet(
    interface: &Interface,
    options: &Options,
    clock: Arc<dyn Clock>,
    refused: Vec<Refusal>,
) -> Result<Source, CaptureError> {
    PacketMmap::open(interface, options, clock, refused).map(Source::PacketMmap)
}
