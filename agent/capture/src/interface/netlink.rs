//! The few rtnetlink questions capture asks: links, addresses and default routes of this network namespace.
//!
//! /sys/class/net would be simpler but shows the namespace that mounted it, which need not be ours.
//! Layouts: rtnetlink(7), linux/if_link.h.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::OwnedFd;

use rustix::net::{
    AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with,
};

use crate::stats::NetdevStats;

const NLMSG_HEADER: usize = 16;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_DUMP: u16 = 0x300;
const RTM_GETLINK: u16 = 18;
const RTM_GETADDR: u16 = 22;
const RTM_GETROUTE: u16 = 26;

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINK: u16 = 5;
const IFLA_MASTER: u16 = 10;
const IFLA_OPERSTATE: u16 = 16;
const IFLA_LINKINFO: u16 = 18;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_STATS64: u16 = 23;
const IFLA_NUM_RX_QUEUES: u16 = 32;
const IFLA_LINK_NETNSID: u16 = 37;
const IFLA_XDP: u16 = 43;
const IFLA_XDP_PROG_ID: u16 = 4;
const IFLA_PARENT_DEV_NAME: u16 = 56;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const RTA_OIF: u16 = 4;
const RT_TABLE_MAIN: u8 = 254;
const RTN_UNICAST: u8 = 1;
/// IF_OPER_DOWN and IF_OPER_LOWERLAYERDOWN of linux/if.h: the link has no carrier.
const OPER_DOWN: [u8; 2] = [2, 3];

/// Replies of a dump that never ends are cut here.
const REPLIES_MAX: usize = 100_000;

/// One RTM_NEWLINK message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) index: u32,
    /// ARPHRD_*: what the first byte of a frame is.
    pub(super) hardware: u16,
    /// IFF_*.
    pub(super) flags: u32,
    pub(super) name: String,
    pub(super) mac: Option<[u8; 6]>,
    pub(super) mtu: u32,
    pub(super) master: Option<u32>,
    /// The device it stands on, or the other end of a pair, and whether that is in another network namespace.
    pub(super) lower: Option<u32>,
    pub(super) lower_elsewhere: bool,
    pub(super) carrier: bool,
    /// "veth", "bridge", …; empty for a real device.
    pub(super) kind: String,
    pub(super) rx_queues: u32,
    pub(super) xdp_program: Option<u32>,
    /// The bus device behind it, such as a PCI address.
    pub(super) parent: Option<String>,
    pub(super) stats: Option<NetdevStats>,
}

pub(super) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at.checked_add(2)?)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_ne_bytes(bytes.get(at..at.checked_add(8)?)?.try_into().ok()?))
}

fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

/// Walks `struct rtattr`s: length (with its 4-byte header), type, value, padding to 4.
pub(super) fn attributes(mut rest: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let len = usize::from(u16_at(rest, 0)?);
        // The top bits say "nested" and "network order".
        let kind = u16_at(rest, 2)? & 0x3fff;
        let value = rest.get(4..len)?;
        rest = rest.get(len.next_multiple_of(4)..).unwrap_or(&[]);
        Some((kind, value))
    })
}

fn parse_stats(value: &[u8]) -> Option<NetdevStats> {
    // struct rtnl_link_stats64: one u64 after the other.
    let nth = |n: usize| u64_at(value, n * 8);
    Some(NetdevStats {
        rx_packets: nth(0)?,
        rx_bytes: nth(2)?,
        rx_errors: nth(4)?,
        rx_dropped: nth(6)?,
        rx_over_errors: nth(11)?,
        rx_fifo_errors: nth(14)?,
        rx_missed_errors: nth(15)?,
    })
}

fn parse_link(payload: &[u8]) -> Option<Link> {
    let mut link = Link {
        hardware: u16_at(payload, 2)?,
        index: u32_at(payload, 4)?,
        flags: u32_at(payload, 8)?,
        carrier: true,
        ..Link::default()
    };
    for (kind, value) in attributes(payload.get(16..)?) {
        match kind {
            IFLA_ADDRESS => link.mac = value.try_into().ok(),
            IFLA_IFNAME => link.name = text(value),
            IFLA_MTU => link.mtu = u32_at(value, 0).unwrap_or(0),
            IFLA_LINK => link.lower = u32_at(value, 0).filter(|lower| *lower != 0 && *lower != link.index),
            IFLA_LINK_NETNSID => link.lower_elsewhere = true,
            IFLA_MASTER => link.master = u32_at(value, 0),
            IFLA_OPERSTATE => link.carrier = value.first().is_none_or(|state| !OPER_DOWN.contains(state)),
            IFLA_NUM_RX_QUEUES => link.rx_queues = u32_at(value, 0).unwrap_or(1),
            IFLA_STATS64 => link.stats = parse_stats(value),
            IFLA_PARENT_DEV_NAME => link.parent = Some(text(value)),
            IFLA_LINKINFO => {
                link.kind = attributes(value)
                    .find(|(kind, _)| *kind == IFLA_INFO_KIND)
                    .map(|(_, value)| text(value))
                    .unwrap_or_default();
            }
            IFLA_XDP => {
                link.xdp_program = attributes(value)
                    .find(|(kind, _)| *kind == IFLA_XDP_PROG_ID)
                    .and_then(|(_, value)| u32_at(value, 0));
            }
            _ => {}
        }
    }
    Some(link)
}

fn parse_address(payload: &[u8]) -> Option<(u32, IpAddr)> {
    let index = u32_at(payload, 4)?;
    let ip = |value: &[u8]| -> Option<IpAddr> {
        if let Ok(four) = <[u8; 4]>::try_from(value) {
            return Some(IpAddr::V4(Ipv4Addr::from(four)));
        }
        <[u8; 16]>::try_from(value).ok().map(|sixteen| IpAddr::V6(Ipv6Addr::from(sixteen)))
    };
    let attributes: Vec<_> = attributes(payload.get(8..)?).collect();
    // On a point-to-point link IFA_ADDRESS is the peer's and IFA_LOCAL ours.
    let find = |wanted| attributes.iter().find(|(kind, _)| *kind == wanted).and_then(|(_, value)| ip(value));
    Some((index, find(IFA_LOCAL).or_else(|| find(IFA_ADDRESS))?))
}

/// The output interface of a default route in the main table.
fn parse_default_route(payload: &[u8]) -> Option<u32> {
    let is_default = *payload.get(1)? == 0;
    if !is_default || *payload.get(4)? != RT_TABLE_MAIN || *payload.get(7)? != RTN_UNICAST {
        return None;
    }
    attributes(payload.get(12..)?).find(|(kind, _)| *kind == RTA_OIF).and_then(|(_, value)| u32_at(value, 0))
}

/// Hands each message of one datagram to `visit`; true when more datagrams follow.
fn walk(mut datagram: &[u8], many: bool, visit: &mut impl FnMut(&[u8])) -> io::Result<bool> {
    while datagram.len() >= NLMSG_HEADER {
        let (Some(len), Some(kind)) = (u32_at(datagram, 0), u16_at(datagram, 4)) else { break };
        let len = len as usize;
        let Some(payload) = datagram.get(NLMSG_HEADER..len) else {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "netlink message longer than its datagram",
            ));
        };
        match kind {
            NLMSG_DONE => return Ok(false),
            NLMSG_ERROR => {
                let errno = u32_at(payload, 0).unwrap_or(0).cast_signed();
                return if errno == 0 { Ok(false) } else { Err(io::Error::from_raw_os_error(-errno)) };
            }
            _ => visit(payload),
        }
        datagram = datagram.get(len.next_multiple_of(4)..).unwrap_or(&[]);
    }
    Ok(many)
}

fn request(kind: u16, flags: u16, body: &[u8]) -> Vec<u8> {
    let mut message = Vec::with_capacity(NLMSG_HEADER + body.len());
    let len = u32::try_from(NLMSG_HEADER + body.len()).unwrap_or(u32::MAX);
    message.extend_from_slice(&len.to_ne_bytes());
    message.extend_from_slice(&kind.to_ne_bytes());
    message.extend_from_slice(&(NLM_F_REQUEST | flags).to_ne_bytes());
    message.extend_from_slice(&[0; 8]);
    message.extend_from_slice(body);
    message
}

fn ask(kind: u16, flags: u16, body: &[u8], visit: impl FnMut(&[u8])) -> io::Result<()> {
    // Protocol 0 of AF_NETLINK is NETLINK_ROUTE.
    ask_of(None, kind, flags, body, visit)
}

/// Sends one request to a netlink protocol and hands each reply, without its header, to `visit`.
pub(super) fn ask_of(
    protocol: Option<Protocol>,
    kind: u16,
    flags: u16,
    body: &[u8],
    mut visit: impl FnMut(&[u8]),
) -> io::Result<()> {
    let socket: OwnedFd =
        socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol)?;
    send(&socket, &request(kind, flags, body), SendFlags::empty())?;
    // The kernel never sends a larger datagram than 32 KiB for a dump; a single link may carry long attributes.
    let mut buffer = vec![0_u8; 64 << 10];
    for _ in 0..REPLIES_MAX {
        let (len, _) = recv(&socket, &mut buffer[..], RecvFlags::empty())?;
        if !walk(&buffer[..len.min(64 << 10)], flags & NLM_F_DUMP != 0, &mut visit)? {
            return Ok(());
        }
    }
    Err(io::Error::other("netlink dump does not end"))
}

/// # Errors
/// Whatever the socket says; a sandbox may forbid AF_NETLINK.
pub(super) fn links() -> io::Result<Vec<Link>> {
    let mut all = Vec::new();
    ask(RTM_GETLINK, NLM_F_DUMP, &[0; 16], |payload| all.extend(parse_link(payload)))?;
    Ok(all)
}

/// One link, ENODEV when there is none with this index.
pub(super) fn link(index: u32) -> io::Result<Link> {
    let mut body = [0_u8; 16];
    body[4..8].copy_from_slice(&index.to_ne_bytes());
    let mut found = None;
    ask(RTM_GETLINK, 0, &body, |payload| found = parse_link(payload))?;
    found.ok_or_else(|| io::Error::from_raw_os_error(libc::ENODEV))
}

/// Interface index and address of every address.
pub(super) fn addresses() -> io::Result<Vec<(u32, IpAddr)>> {
    let mut all = Vec::new();
    ask(RTM_GETADDR, NLM_F_DUMP, &[0; 8], |payload| all.extend(parse_address(payload)))?;
    Ok(all)
}

/// Indices of the interfaces default routes leave by.
pub(super) fn default_route_interfaces() -> io::Result<Vec<u32>> {
    let mut all = Vec::new();
    ask(RTM_GETROUTE, NLM_F_DUMP, &[0; 12], |payload| all.extend(parse_default_route(payload)))?;
    all.sort_unstable();
    all.dedup();
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_found_by_dump_and_by_index() {
        let all = links().unwrap();
        let lo = all.iter().find(|link| link.name == "lo").expect("every namespace has lo");
        assert_eq!(lo.hardware, 772);
        let same = link(lo.index).unwrap();
        assert_eq!((same.name.as_str(), same.index), ("lo", lo.index));
        assert!(same.stats.is_some());
        assert_eq!(link(0x7fff_fff0).unwrap_err().raw_os_error(), Some(libc::ENODEV));
    }

    #[test]
    fn damaged_messages_are_refused_not_followed() {
        let mut datagram = request(RTM_GETLINK, 0, &[0; 16]);
        datagram[0] = 200;
        assert!(walk(&datagram, true, &mut |_| ()).is_err());
        // An attribute shorter than its own header, and one longer than what is left.
        assert_eq!(attributes(&[2, 0, 1, 0, 9, 9]).count(), 0);
        assert_eq!(attributes(&[255, 0, 1, 0, 9, 9]).count(), 0);
        for cut in 0..16 {
            assert!(parse_link(&[0; 16][..cut]).is_none());
        }
    }
}
