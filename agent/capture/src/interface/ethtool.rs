//! What only the SIOCETHTOOL ioctl knows: driver, speed, queues in use, VLAN stripping (linux/ethtool.h).
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

const SIOCETHTOOL: libc::c_ulong = 0x8946;
const ETHTOOL_GSET: u32 = 0x01;
const ETHTOOL_GDRVINFO: u32 = 0x03;
const ETHTOOL_GFLAGS: u32 = 0x25;
const ETHTOOL_GCHANNELS: u32 = 0x3c;
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
    let mut request = IfReq { name: [0; libc::IFNAMSIZ], data: std::ptr::null_mut(), rest: [0; 16] };
    if name.len() >= libc::IFNAMSIZ {
        return Err(io::Error::from_raw_os_error(libc::ENODEV));
    }
    request.name[..name.len()].copy_from_slice(name.as_bytes());
    let socket: OwnedFd = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    let mut answer = [0_u32; ANSWER_WORDS];
    answer[0] = command;
    request.data = answer.as_mut_ptr();
    // SAFETY: `request` has the layout of struct ifreq and points at 256 writable bytes, more than any of the four
    // commands above writes; both outlive the call.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, &raw mut request) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(answer) }
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
