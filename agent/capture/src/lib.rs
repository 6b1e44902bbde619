//! Frames from AF_XDP, AF_PACKET and capture files behind one narrow source.

mod frame;

pub use frame::{Frame, LinkType, Stamp, VlanTag};
