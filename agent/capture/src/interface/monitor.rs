//! Says when links or addresses of this network namespace change: rtnetlink's multicast groups (rtnetlink(7)).
//!
//! What changed is not read from the messages, of which some may be lost (ENOBUFS): whoever is told lists the interfaces anew.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, bind, recv, socket_with};

const RTMGRP_LINK: u32 = 1;
const RTMGRP_IPV4_IFADDR: u32 = 0x10;
const RTMGRP_IPV6_IFADDR: u32 = 0x100;
/// Messages thrown away in one call; those beyond are found by the next.
const MESSAGES_AT_ONCE_MAX: usize = 4096;

/// A subscription to changes of links and addresses, of the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct Monitor {
    socket: OwnedFd,
}

impl Monitor {
    /// # Errors
    /// A sandbox may forbid AF_NETLINK.
    pub fn open() -> io::Result<Monitor> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
        bind(&socket, &SocketAddrNetlink::new(0, RTMGRP_LINK | RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR))?;
        Ok(Monitor { socket })
    }

    /// Sleeps until something changed or the timeout passed; whether something did.
    ///
    /// # Errors
    /// Whatever the socket says that does not pass.
    pub fn changed(&self, timeout: Duration) -> io::Result<bool> {
        let timespec = Timespec::try_from(timeout).unwrap_or(Timespec { tv_sec: 1, tv_nsec: 0 });
        let mut fds = [PollFd::from_borrowed_fd(self.socket.as_fd(), PollFlags::IN)];
        match poll(&mut fds, Some(&timespec)) {
            Ok(0) | Err(Errno::INTR) => return Ok(false),
            Ok(_) => {}
            Err(error) => return Err(error.into()),
        }
        let mut changed = false;
        let mut message = [0_u8; 64];
        for _ in 0..MESSAGES_AT_ONCE_MAX {
            match recv(&self.socket, &mut message[..], RecvFlags::TRUNC) {
                Ok(_) | Err(Errno::NOBUFS) => changed = true,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(changed)
    }
}
