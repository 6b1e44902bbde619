//! One AF_XDP socket: bound to a queue of an interface, with its own memory and rings.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use rustix::io::Errno;
use rustix::net::sockopt::{
    set_xdp_rx_ring_size, set_xdp_umem_completion_ring_size, set_xdp_umem_fill_ring_size, set_xdp_umem_reg,
    socket_error, xdp_mmap_offsets, xdp_options, xdp_statistics,
};
use rustix::net::xdp::{
    SocketAddrXdp, SocketAddrXdpFlags, XDP_PGOFF_RX_RING, XDP_UMEM_PGOFF_FILL_RING, XdpDesc, XdpOptionsFlags,
    XdpStatistics, XdpUmemReg, XdpUmemRegFlags,
};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, bind, recv, socket_with};

use super::ring::{FillRing, RxRing};
use super::umem::Umem;
use crate::mapping::Mapping;

/// The kernel insists on a completion ring, which a receiver never uses.
const COMPLETION_SLOTS: u32 = 2;

/// How the kernel is asked to bind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BindMode {
    pub(super) zero_copy: bool,
    pub(super) multi_buffer: bool,
}

/// A bound socket. `rx`, `fill` and `umem` are used by the drain loop side by side, hence fields.
pub(super) struct XdpSocket {
    pub(super) rx: RxRing,
    pub(super) fill: FillRing,
    pub(super) umem: Umem,
    // Closed last: the rings are mappings of it.
    fd: OwnedFd,
}

impl AsFd for XdpSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for XdpSocket {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

/// A step that failed, so that the ladder can say which.
pub(super) fn step<T>(what: &str, result: Result<T, impl Into<io::Error>>) -> io::Result<T> {
    result.map_err(|error| {
        let error: io::Error = error.into();
        io::Error::new(
            error.kind(),
            Step { what: what.to_owned(), errno: error.raw_os_error(), source: error },
        )
    })
}

#[derive(Debug)]
struct Step {
    what: String,
    errno: Option<i32>,
    source: io::Error,
}

impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.what, self.source)
    }
}

impl std::error::Error for Step {}

/// The errno of an error made by [`step`].
pub(super) fn errno_of(error: &io::Error) -> Option<i32> {
    error.raw_os_error().or_else(|| error.get_ref()?.downcast_ref::<Step>()?.errno)
}

impl XdpSocket {
    /// `frames` buffers and descriptors (a power of two) on `queue`.
    ///
    /// # Errors
    /// EOPNOTSUPP or EINVAL when the driver cannot do what was asked, EBUSY while a former socket is being torn down,
    /// ENETDOWN when the interface is down, ENOBUFS when the memory may not be locked.
    pub(super) fn bind(
        index: u32,
        queue: u32,
        frames: u32,
        chunk_bytes: u32,
        mode: BindMode,
    ) -> io::Result<XdpSocket> {
        let fd = step(
            "opening an AF_XDP socket",
            socket_with(AddressFamily::XDP, SocketType::RAW, SocketFlags::CLOEXEC, None),
        )?;
        let umem = step("allocating buffers", Umem::new(frames, chunk_bytes))?;
        let (addr, len) = umem.range();
        let registration = XdpUmemReg {
            addr,
            len,
            chunk_size: chunk_bytes,
            headroom: 0,
            flags: XdpUmemRegFlags::empty(),
            tx_metadata_len: 0,
        };
        step("registering buffers (CAP_IPC_LOCK or a memlock limit?)", set_xdp_umem_reg(&fd, registration))?;
        step("sizing the fill ring", set_xdp_umem_fill_ring_size(&fd, frames))?;
        step("sizing the completion ring", set_xdp_umem_completion_ring_size(&fd, COMPLETION_SLOTS))?;
        step("sizing the receive ring", set_xdp_rx_ring_size(&fd, frames))?;
        let offsets = step("asking for the ring offsets", xdp_mmap_offsets(&fd))?;
        let rx_bytes = offsets.rx.desc as usize + frames as usize * size_of::<XdpDesc>();
        let rx = step("mapping the receive ring", Mapping::of_fd(&fd, rx_bytes, XDP_PGOFF_RX_RING))?;
        let fill_bytes = offsets.fr.desc as usize + frames as usize * size_of::<u64>();
        let fill = step("mapping the fill ring", Mapping::of_fd(&fd, fill_bytes, XDP_UMEM_PGOFF_FILL_RING))?;
        let rx = RxRing::new(rx, &offsets.rx, frames);
        let mut fill = FillRing::new(fill, &offsets.fr, frames);
        // Filled before the bind: a zero-copy driver takes its first buffers there.
        umem.addresses().for_each(|address| fill.stage(address));
        fill.submit();
        let mut flags = SocketAddrXdpFlags::XDP_USE_NEED_WAKEUP;
        flags |= if mode.zero_copy { SocketAddrXdpFlags::XDP_ZEROCOPY } else { SocketAddrXdpFlags::XDP_COPY };
        if mode.multi_buffer {
            flags |= SocketAddrXdpFlags::XDP_USE_SG;
        }
        step(&format!("binding queue {queue}"), bind(&fd, &SocketAddrXdp::new(flags, index, queue)))?;
        // Both modes are asked for by name, so the kernel should refuse rather than choose another: look all the same.
        let options = step("reading XDP_OPTIONS", xdp_options(&fd))?;
        if options.contains(XdpOptionsFlags::XDP_OPTIONS_ZEROCOPY) != mode.zero_copy {
            return Err(io::Error::other(format!(
                "XDP_OPTIONS says {options:?} after binding with {flags:?}"
            )));
        }
        Ok(XdpSocket { rx, fill, umem, fd })
    }

    /// Makes a driver that sleeps for want of buffers go on (zero copy only).
    pub(super) fn wake(&self) {
        // An empty receive is the documented wake-up; it says EAGAIN or ENOTSUP and means nothing by it.
        let mut nothing = [0_u8; 1];
        let _ = recv(&self.fd, &mut nothing[..0], RecvFlags::DONTWAIT);
    }

    pub(super) fn statistics(&self) -> io::Result<XdpStatistics> {
        Ok(xdp_statistics(&self.fd)?)
    }

    /// True once the device was deleted: the kernel says so only here, as ENETDOWN, and once.
    pub(super) fn lost_its_device(&self) -> bool {
        matches!(socket_error(&self.fd), Ok(Err(Errno::NETDOWN | Errno::NODEV)))
    }

    pub(super) fn memory_bytes(&self) -> u64 {
        self.umem.range().1 + self.rx.memory_bytes() as u64 + self.fill.memory_bytes() as u64
    }
}
