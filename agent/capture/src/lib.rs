//! Frames from AF_XDP, AF_PACKET and capture files behind one narrow source.
//!
//! Two ways to stand on an interface: on a *tap* the frames are for nobody else and AF_XDP takes them from the host;
//! on a *host* NIC AF_PACKET watches beside it. Nothing is taken unless it was asked for.

pub mod afxdp;
pub mod filter;
pub mod interface;

mod error;
mod frame;
mod grace_period;
mod mapping;
pub mod memory;
mod mode;
mod nic;
mod options;
pub mod packet_mmap;
mod pcap_file;
#[cfg(test)]
mod played_nic;
mod source;
mod stamp;
mod stats;
mod wait;

// The network of the tests in tests/ serves those in here too.
#[cfg(test)]
extern crate self as gnomon_capture;
#[cfg(test)]
#[path = "../tests/network/mod.rs"]
mod network;

pub use error::CaptureError;
pub use filter::{FilterError, Shortened, Sieve};
pub use frame::{FRAME_BYTES_MAX, FRAMES_AT_ONCE, Frame, LinkType, Stamp, VlanTag, each};
pub use interface::Plan;
pub use mode::{CaptureMode, Refusal, Rung};
pub use options::{Backend, Fanout, Options, Queues, Stance};
pub use pcap_file::{
    FileError, FileInterface, FileProgress, FileStats, INTERFACES_APART_MAX, PcapFile, TailCause, Torn,
    TruncatedTail,
};
pub use source::{Source, open, open_index};
pub use stats::{DropReason, NetdevStats, QueueStats, SourceStats};
