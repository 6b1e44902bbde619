//! What only the SIOCETHTOOL ioctl knows: driver, speed, queues in use, VLAN stripping, stamps (linux/ethtool.h), and how
//! to have a NIC stamp frames (linux/net_tstamp.h).
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

const SIOCETHTOOL: libc::c_ulong = 0x8946;
const SIOCSHWTSTAMP: libc::c_ulong = 0x89b0;
const SIOCGHWTSTAMP: libc::c_ulong = 0x89b1;
const HWTSTAMP_FILTER_ALL: u32 = 1;
const ETHTOOL_GSET: u32 = 0x01;
const ETHTOOL_GDRVINFO: u32 = 0x03;
const ETHTOOL_GFLAGS: u32 = 0x25;
const ETHTOOL_GCHANNELS: u32 = 0x3c;
const ETHTOOL_GET_TS_INFO: u32 = 0x41;
const ETH_FLAG_RXVLAN: u32 = 1 << 8;

/// `struct ifreq` of netdevice(7), as far as SIOCETHTOOL uses it: 40 bytes on 64-bit kernels.
#[repr(C)]
struct IfReq {
    name: [u8; libc::IFNAMSIZ],
    data: *mut u32,
    rest: [u8; 16],
}

/// The largest answer asked for here is `struct ethtool_drvinfo`, 196 bytes.
const ANSWER_WORDS: usize = 64;

fn ask(name: &str, command: u32) -> io::Result<[u32; ANSWER_WORDS]> {
    let mut answer = [0_u32; ANSWER_WORDS];
    answer[0] = command;
    control(name, SIOCETHTOOL, &mut answer)?;
    Ok(answer)
}

/// An ioctl about an interface that reads and writes `data`.
fn control(name: &str, request: libc::c_ulong, data: &mut [u32; ANSWER_WORDS]) -> io::Result<()> {
    let mut about = IfReq { name: [0; libc::IFNAMSIZ], data: data.as_mut_ptr(), rest: [0; 16] };
    if name.len() >= libc::IFNAMSIZ {
        return Err(io::Error::from_raw_os_error(libc::ENODEV));
    }
    about.name[..name.len()].copy_from_slice(name.as_bytes());
    let socket: OwnedFd = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    // SAFETY: `about` has the layout of struct ifreq and points at 256 writable bytes, more than any of the requests
    // and commands above reads or writes; both outlive the call.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), request, &raw mut about) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The driver's name, such as `virtio_net` or `veth`.
pub(super) fn driver(name: &str) -> Option<String> {
    let answer = ask(name, ETHTOOL_GDRVINFO).ok()?;
    // struct ethtool_drvinfo: cmd, then char driver[32].
    let bytes: Vec<u8> = answer[1..9].iter().flat_map(|word| word.to_ne_bytes()).collect();
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    let driver = String::from_utf8_lossy(&bytes[..end]).into_owned();
    (!driver.is_empty()).then_some(driver)
}

/// Mbit/s, None when unknown or the link is down.
pub(super) fn speed_mbps(name: &str) -> Option<u32> {
    let answer = ask(name, ETHTOOL_GSET).ok()?;
    // struct ethtool_cmd: speed at byte 12 (low half), speed_hi at byte 28.
    let low = answer[3] & 0xffff;
    let high = answer[7] & 0xffff;
    let speed = high << 16 | low;
    (speed != 0 && speed != u32::MAX && speed != 0xffff).then_some(speed)
}

/// Receive queues in use and the most there can be, as (now, max).
pub(super) fn channels(name: &str) -> Option<(u32, u32)> {
    let answer = ask(name, ETHTOOL_GCHANNELS).ok()?;
    // struct ethtool_channels: cmd, max_{rx,tx,other,combined}, {rx,tx,other,combined}_count.
    let max = answer[1].saturating_add(answer[4]);
    let now = answer[5].saturating_add(answer[8]);
    (now > 0).then_some((now, max.max(now)))
}

/// True when the NIC takes VLAN tags out of frames, where AF_XDP cannot see them.
pub(super) fn strips_vlan(name: &str) -> bool {
    ask(name, ETHTOOL_GFLAGS).is_ok_and(|answer| answer[1] & ETH_FLAG_RXVLAN != 0)
}

/// What a NIC can do about stamps of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamping {
    /// N of its clock's `/dev/ptpN`.
    pub(crate) clock: Option<u32>,
    /// It can stamp every frame that comes in, not only those of PTP.
    pub(crate) all: bool,
}

pub(crate) fn stamping(name: &str) -> Stamping {
    let Ok(answer) = ask(name, ETHTOOL_GET_TS_INFO) else { return Stamping { clock: None, all: false } };
    // struct ethtool_ts_info: cmd, so_timestamping, phc_index, tx_types, tx_reserved[3], rx_filters.
    let stamps = answer[1] & libc::SOF_TIMESTAMPING_RAW_HARDWARE != 0;
    let clock = u32::try_from(answer[2].cast_signed()).ok().filter(|_| stamps);
    Stamping { clock, all: answer[7] & 1 << HWTSTAMP_FILTER_ALL != 0 }
}

/// Has the NIC stamp every frame that comes in, if it does not yet.
pub(crate) fn stamp_all(name: &str) -> io::Result<()> {
    // struct hwtstamp_config: flags, tx_type, rx_filter. What is sent stays as it is.
    let mut config = [0_u32; ANSWER_WORDS];
    let known = control(name, SIOCGHWTSTAMP, &mut config).is_ok();
    if known && config[2] == HWTSTAMP_FILTER_ALL {
        return Ok(());
    }
    config[2] = HWTSTAMP_FILTER_ALL;
    control(name, SIOCSHWTSTAMP, &mut config)?;
    // A driver may give more or less than it was asked for, and says so.
    if config[2] == HWTSTAMP_FILTER_ALL { Ok(()) } else { Err(io::ErrorKind::Unsupported.into()) }
}
