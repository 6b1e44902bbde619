//! An AF_PACKET socket and its options, as far as packet(7) and a TPACKET_V3 ring need them.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use crate::filter::Instruction;
use crate::options::Fanout;

const TPACKET_V3: libc::c_int = 2;
const ETH_P_ALL: u16 = 0x0003;

/// The shape of a ring, as the kernel was asked for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RingShape {
    pub(crate) block_bytes: u32,
    pub(crate) blocks: u32,
    pub(crate) retire_ms: u32,
}

/// A packet socket. It receives nothing before [`PacketSocket::bind`].
#[derive(Debug)]
pub(crate) struct PacketSocket {
    fd: OwnedFd,
}

impl AsFd for PacketSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn set<T: Copy>(fd: &OwnedFd, level: libc::c_int, name: libc::c_int, value: &T) -> io::Result<()> {
    let len = size_of::<T>() as libc::socklen_t;
    // SAFETY: the kernel reads `len` bytes from a live reference to plain data of that size.
    let result =
        unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, std::ptr::from_ref(value).cast(), len) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

impl PacketSocket {
    /// `cooked`: frames come without their link header.
    ///
    /// # Errors
    /// EPERM without CAP_NET_RAW.
    pub(crate) fn open(cooked: bool) -> io::Result<PacketSocket> {
        // Protocol 0: nothing arrives until the socket is bound with one, so no frame precedes ring and filter.
        let kind = if cooked { libc::SOCK_DGRAM } else { libc::SOCK_RAW } | libc::SOCK_CLOEXEC;
        // SAFETY: no pointers are passed.
        let fd = unsafe { libc::socket(libc::AF_PACKET, kind, 0) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: `fd` was just opened and belongs to nobody else.
        let fd = unsafe { std::os::fd::FromRawFd::from_raw_fd(fd) };
        Ok(PacketSocket { fd })
    }

    /// Makes the TPACKET_V3 ring; it is then mapped with `blocks * block_bytes` bytes at offset 0.
    pub(crate) fn make_ring(&self, shape: RingShape) -> io::Result<()> {
        const FRAME_BYTES: u32 = 2048;
        set(&self.fd, libc::SOL_PACKET, libc::PACKET_VERSION, &TPACKET_V3)?;
        let request = libc::tpacket_req3 {
            tp_block_size: shape.block_bytes,
            tp_block_nr: shape.blocks,
            // Only checked for consistency: V3 packs frames of any size into a block.
            tp_frame_size: FRAME_BYTES,
            tp_frame_nr: shape.blocks.saturating_mul(shape.block_bytes / FRAME_BYTES),
            tp_retire_blk_tov: shape.retire_ms,
            tp_sizeof_priv: 0,
            tp_feature_req_word: 0,
        };
        set(&self.fd, libc::SOL_PACKET, libc::PACKET_RX_RING, &request)
    }

    /// Keeps the first `bytes` of each frame; 0 keeps none and lets none arrive. A classic filter of one instruction,
    /// `ret #bytes`: the kernel then copies no more than that into the ring.
    pub(crate) fn keep_bytes(&self, bytes: u32) -> io::Result<()> {
        const BPF_RET_K: u16 = 0x06;
        self.attach(&[Instruction { code: BPF_RET_K, jump_true: 0, jump_false: 0, k: bytes }])
    }

    /// Lets the kernel run a filter over each frame; in place of one that was attached before, without a gap.
    pub(crate) fn attach(&self, instructions: &[Instruction]) -> io::Result<()> {
        let mut program: Vec<libc::sock_filter> = instructions
            .iter()
            .map(|i| libc::sock_filter { code: i.code, jt: i.jump_true, jf: i.jump_false, k: i.k })
            .collect();
        let len = libc::c_ushort::try_from(program.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        let filter = libc::sock_fprog { len, filter: program.as_mut_ptr() };
        set(&self.fd, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &filter)
    }

    /// Asks the NIC for frames addressed to others for as long as this socket lives (PACKET_MR_PROMISC).
    pub(crate) fn promiscuous(&self, index: u32) -> io::Result<()> {
        let request = libc::packet_mreq {
            mr_ifindex: index.cast_signed(),
            mr_type: libc::PACKET_MR_PROMISC as libc::c_ushort,
            mr_alen: 0,
            mr_address: [0; 8],
        };
        set(&self.fd, libc::SOL_PACKET, libc::PACKET_ADD_MEMBERSHIP, &request)
    }

    /// Frames come with the NIC's stamp where it made one, else with the kernel's; each says which.
    pub(crate) fn stamps_of_nic(&self) -> io::Result<()> {
        // if_packet.h; the libc crate has it for some architectures only.
        const PACKET_TIMESTAMP: libc::c_int = 17;
        set(&self.fd, libc::SOL_PACKET, PACKET_TIMESTAMP, &libc::SOF_TIMESTAMPING_RAW_HARDWARE)
    }

    /// Starts receiving every protocol from one interface.
    pub(crate) fn bind(&self, index: u32) -> io::Result<()> {
        let address = libc::sockaddr_ll {
            sll_family: libc::AF_PACKET as libc::c_ushort,
            sll_protocol: ETH_P_ALL.to_be(),
            sll_ifindex: index.cast_signed(),
            sll_hatype: 0,
            sll_pkttype: 0,
            sll_halen: 0,
            sll_addr: [0; 8],
        };
        let len = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
        // SAFETY: `address` is a live sockaddr_ll of the length given.
        let result = unsafe { libc::bind(self.fd.as_raw_fd(), (&raw const address).cast(), len) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Joins a set whose members share frames by the symmetric flow hash. Must follow [`PacketSocket::bind`].
    pub(crate) fn join(&self, fanout: Fanout) -> io::Result<()> {
        let request = u32::from(fanout.group) | libc::PACKET_FANOUT_HASH << 16;
        set(&self.fd, libc::SOL_PACKET, libc::PACKET_FANOUT, &request)
    }

    /// Frames seen (with those dropped) and frames dropped since the last call.
    pub(crate) fn statistics(&self) -> io::Result<(u32, u32)> {
        let mut stats = libc::tpacket_stats_v3 { tp_packets: 0, tp_drops: 0, tp_freeze_q_cnt: 0 };
        let mut len = size_of::<libc::tpacket_stats_v3>() as libc::socklen_t;
        // SAFETY: the kernel writes at most `len` bytes into `stats`, which is that large.
        let result = unsafe {
            libc::getsockopt(
                self.fd.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                (&raw mut stats).cast(),
                &raw mut len,
            )
        };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok((stats.tp_packets, stats.tp_drops)) }
    }
}
