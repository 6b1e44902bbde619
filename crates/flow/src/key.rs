//! What makes two packets the same flow.

use std::net::IpAddr;

const ETHERTYPE_ARP: u16 = 0x0806;
const ETHERTYPE_RARP: u16 = 0x8035;

/// The two ends of a flow, originator first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Addresses {
    V4 {
        orig: [u8; 4],
        resp: [u8; 4],
    },
    V6 {
        orig: [u8; 16],
        resp: [u8; 16],
    },
    /// A flow of a protocol that is neither IP nor ARP for IPv4, or of frames that could not be decoded: the pair of talkers.
    Mac {
        orig: [u8; 6],
        resp: [u8; 6],
    },
    /// No address could be read at all.
    #[default]
    None,
}

/// The key of a flow, seen from its originator (the sender of its first packet, or the sender of the SYN). The default is
/// that of frames of which nothing could be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FlowKey {
    /// 802.1Q/802.1ad VLAN ids, outermost first; 0 where there is none.
    pub vlan: [u16; 2],
    /// The EtherType that follows the VLAN tags; 0x0800 and 0x86DD for raw IP links; 4 (Linux's ETH_P_802_2) for 802.3
    /// frames with LLC, whose length field is no part of the key.
    pub ethertype: u16,
    /// The IP protocol number (upper-layer protocol for IPv6); 0 for what is not IP.
    pub protocol: u8,
    pub addresses: Addresses,
    /// TCP, UDP, SCTP ports; 0 for everything else (ICMP type and code are no part of the key).
    pub orig_port: u16,
    pub resp_port: u16,
}

impl FlowKey {
    pub fn orig_ip(&self) -> Option<IpAddr> {
        self.ips().map(|(orig, _)| orig)
    }

    pub fn resp_ip(&self) -> Option<IpAddr> {
        self.ips().map(|(_, resp)| resp)
    }

    fn ips(&self) -> Option<(IpAddr, IpAddr)> {
        match self.addresses {
            Addresses::V4 { orig, resp } => Some((IpAddr::from(orig), IpAddr::from(resp))),
            Addresses::V6 { orig, resp } => Some((IpAddr::from(orig), IpAddr::from(resp))),
            Addresses::Mac { .. } | Addresses::None => None,
        }
    }

    /// Whether its packets are IP. ARP has IP addresses and is not.
    pub fn is_ip(&self) -> bool {
        self.orig_ip().is_some() && !matches!(self.ethertype, ETHERTYPE_ARP | ETHERTYPE_RARP)
    }

    /// Whether the protocol has ports (TCP, UDP, DCCP, SCTP, UDP-Lite).
    pub fn has_ports(&self) -> bool {
        matches!(self.protocol, 6 | 17 | 33 | 132 | 136)
    }
}
