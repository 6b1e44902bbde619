//! Frames from AF_XDP, AF_PACKET and capture files behind one narrow source.

mod frame;
mod pcap_file;

pub use frame::{Frame, LinkType, Stamp, VlanTag};
pub use pcap_file::{FileError, FileProgress, FileStats, PcapFile, TailCause, TruncatedTail};
