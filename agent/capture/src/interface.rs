//! The interfaces of this network namespace, and which of them an agent without configuration should capture.

mod ethtool;
mod monitor;
mod netdev;
mod netlink;

use std::fmt;
use std::io;
use std::net::IpAddr;

pub use monitor::Monitor;

use crate::error::CaptureError;
use crate::frame::LinkType;
use crate::stats::NetdevStats;

const IFF_UP: u32 = 1;
const IFF_LOOPBACK: u32 = 8;
const ARPHRD_ETHER: u16 = 1;
const ARPHRD_LOOPBACK: u16 = 772;

/// What an interface is, as far as it matters for where to capture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A device on a bus (PCI, virtio, USB).
    Physical,
    Loopback,
    /// One end of a virtual pair: a container's or a test's.
    Veth,
    /// Its frames come through other interfaces too: bridge, bond, team, vlan, macvlan, …
    Stacked(String),
    /// Anything else without a bus device: tun, dummy, wireguard, …
    Virtual(String),
}

/// One interface as the kernel describes it now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    pub name: String,
    pub index: u32,
    pub kind: Kind,
    /// What its frames begin with.
    pub link: LinkType,
    pub mac: Option<[u8; 6]>,
    pub mtu: u32,
    /// Administratively up.
    pub up: bool,
    pub carrier: bool,
    pub addresses: Vec<IpAddr>,
    /// A default route leaves by it.
    pub default_route: bool,
    /// Index of the bridge or bond it is a port of.
    pub master: Option<u32>,
    /// Index of the device it stands on (vlan, macvlan), or of the other end of its pair, in this network namespace.
    pub lower: Option<u32>,
    /// Receive queues in use, and the most there can be.
    pub queues: u32,
    pub queues_max: u32,
    pub driver: Option<String>,
    pub speed_mbps: Option<u32>,
    /// Id of an attached XDP program.
    pub xdp_program: Option<u32>,
    /// The NIC takes VLAN tags out of frames.
    pub strips_vlan: bool,
}

impl Interface {
    /// The first address that makes it a NIC the host lives on. IPv6 link-local ones do not count: every interface
    /// that is up has one.
    pub fn host_address(&self) -> Option<IpAddr> {
        self.addresses.iter().copied().find(|address| match address {
            IpAddr::V4(_) => true,
            IpAddr::V6(v6) => !v6.is_unicast_link_local(),
        })
    }

    pub fn is_loopback(&self) -> bool {
        self.kind == Kind::Loopback
    }
}

impl fmt::Display for Interface {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (index {}", self.name, self.index)?;
        match &self.kind {
            Kind::Physical => {}
            Kind::Loopback => f.write_str(", loopback")?,
            Kind::Veth => f.write_str(", veth")?,
            Kind::Stacked(kind) | Kind::Virtual(kind) => write!(f, ", {kind}")?,
        }
        if let Some(driver) = &self.driver {
            write!(f, ", driver {driver}")?;
        }
        if let Some(mac) = self.mac {
            let [a, b, c, d, e, g] = mac;
            write!(f, ", {a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")?;
        }
        write!(f, ", mtu {}, {} queue(s)", self.mtu, self.queues)?;
        if let Some(speed) = self.speed_mbps {
            write!(f, ", {speed} Mbit/s")?;
        }
        f.write_str(if self.up { ", up" } else { ", down" })?;
        if !self.carrier {
            f.write_str(", no carrier")?;
        }
        for address in &self.addresses {
            write!(f, ", {address}")?;
        }
        f.write_str(")")
    }
}

/// Whether an agent without configuration captures an interface, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    pub interface: Interface,
    pub taken: bool,
    /// One sentence for people.
    pub reason: String,
}

fn kind_of(link: &netlink::Link) -> Kind {
    if link.flags & IFF_LOOPBACK != 0 {
        return Kind::Loopback;
    }
    match link.kind.as_str() {
        "" if link.parent.is_some() => Kind::Physical,
        "" => Kind::Virtual("virtual".into()),
        "veth" => Kind::Veth,
        "bridge" | "bond" | "team" | "vlan" | "macvlan" | "macvtap" | "ipvlan" | "ipvtap" | "macsec"
        | "vrf" | "hsr" | "openvswitch" | "vxlan" | "geneve" | "gre" | "gretap" | "ipip" | "sit" => {
            Kind::Stacked(link.kind.clone())
        }
        other => Kind::Virtual(other.into()),
    }
}

fn link_type(hardware: u16) -> LinkType {
    match hardware {
        ARPHRD_ETHER | ARPHRD_LOOPBACK => LinkType::Ethernet,
        // Everything else is opened "cooked", without its link header: tun, ppp, wireguard, tunnels.
        _ => LinkType::RawIp,
    }
}

/// Every interface of this network namespace, by index.
///
/// # Errors
/// When rtnetlink cannot be asked: a sandbox without AF_NETLINK.
pub fn list() -> Result<Vec<Interface>, CaptureError> {
    let failed = |error: io::Error| CaptureError::system("asking rtnetlink for the interfaces", error);
    let links = netlink::links().map_err(failed)?;
    let addresses = netlink::addresses().map_err(failed)?;
    // Only used for a sentence: a kernel that does not answer costs nothing else.
    let routed = netlink::default_route_interfaces().unwrap_or_default();
    let mut all: Vec<Interface> = links
        .into_iter()
        .map(|link| {
            let (queues, queues_max) =
                ethtool::channels(&link.name).unwrap_or((link.rx_queues.max(1), link.rx_queues.max(1)));
            Interface {
                kind: kind_of(&link),
                link: link_type(link.hardware),
                mac: link.mac,
                mtu: link.mtu,
                up: link.flags & IFF_UP != 0,
                carrier: link.carrier,
                addresses: addresses
                    .iter()
                    .filter(|(index, _)| *index == link.index)
                    .map(|(_, address)| *address)
                    .collect(),
                default_route: routed.contains(&link.index),
                master: link.master,
                lower: link.lower.filter(|_| !link.lower_elsewhere),
                queues,
                queues_max: queues_max.max(link.rx_queues),
                driver: ethtool::driver(&link.name),
                speed_mbps: ethtool::speed_mbps(&link.name),
                xdp_program: link.xdp_program,
                strips_vlan: ethtool::strips_vlan(&link.name),
                index: link.index,
                name: link.name,
            }
        })
        .collect();
    all.sort_by_key(|interface| interface.index);
    Ok(all)
}

/// One interface by name.
///
/// # Errors
/// `NoSuchInterface` names those that exist.
pub fn describe(name: &str) -> Result<Interface, CaptureError> {
    let all = list()?;
    let known = || all.iter().map(|interface| interface.name.as_str()).collect::<Vec<_>>().join(", ");
    all.iter()
        .find(|interface| interface.name == name)
        .cloned()
        .ok_or_else(|| CaptureError::NoSuchInterface { name: name.into(), known: known() })
}

/// The interface with an index, whatever it is called now.
///
/// # Errors
/// `InterfaceGone` when there is none; `name` is what to call it then.
pub fn describe_index(index: u32, name: &str) -> Result<Interface, CaptureError> {
    let found = list()?.into_iter().find(|interface| interface.index == index);
    found.ok_or_else(|| CaptureError::InterfaceGone { name: name.into() })
}

/// Decides for every interface: real NICs that are up; where there is none (a container, a test), its virtual pairs.
/// What is stacked on other interfaces is left out, or each frame would be seen twice.
///
/// # Errors
/// As [`list`].
pub fn pick() -> Result<Vec<Plan>, CaptureError> {
    Ok(pick_among(list()?))
}

/// As [`pick`], for interfaces that were listed.
pub fn pick_among(all: Vec<Interface>) -> Vec<Plan> {
    let has_nic = all.iter().any(|interface| interface.kind == Kind::Physical && interface.up);
    all.into_iter()
        .map(|interface| {
            let (taken, reason) = judge(&interface, has_nic);
            Plan { interface, taken, reason }
        })
        .collect()
}

fn judge(interface: &Interface, has_nic: bool) -> (bool, String) {
    let queues = interface.queues;
    match &interface.kind {
        _ if !interface.up => (false, "left out: it is down".into()),
        Kind::Loopback => (false, "left out: loopback traffic never reaches a wire".into()),
        Kind::Stacked(kind) => {
            (false, format!("left out: a {kind} repeats the frames of the interfaces under it"))
        }
        Kind::Physical => {
            let role = match (interface.host_address(), interface.default_route) {
                (Some(address), true) => format!("the default route leaves by it, address {address}"),
                (Some(address), false) => format!("the host has the address {address} on it"),
                (None, _) => "no address on it, perhaps a mirror port".into(),
            };
            (true, format!("taken: a network card that is up with {queues} queue(s); {role}"))
        }
        Kind::Veth if has_nic => {
            (false, "left out: a container's pair, its outside traffic passes the network cards".into())
        }
        Kind::Veth if interface.master.is_some() => {
            (false, "left out: a port of a bridge to a container of this host".into())
        }
        Kind::Veth => (true, "taken: a virtual pair, and there is no network card here".into()),
        Kind::Virtual(kind) if has_nic => (
            false,
            format!(
                "left out: {kind}; its traffic passes the network cards or no wire; name it to capture it"
            ),
        ),
        Kind::Virtual(kind) if interface.host_address().is_some() => {
            (true, format!("taken: {kind} with an address, and there is no network card here"))
        }
        Kind::Virtual(kind) => (false, format!("left out: {kind} without an address")),
    }
}

/// The driver's counters, and whether the interface is up.
///
/// # Errors
/// ENODEV when the interface is gone.
pub(crate) fn counters(index: u32) -> io::Result<(NetdevStats, bool)> {
    let link = netlink::link(index)?;
    Ok((link.stats.unwrap_or_default(), link.flags & IFF_UP != 0))
}

pub(crate) use ethtool::{Stamping, stamp_all, stamping};

/// Whether the driver hands the NIC's stamps to XDP programs, None when the kernel does not say (before 6.7).
pub(crate) fn stamps_for_programs(index: u32) -> Option<bool> {
    netdev::rx_metadata(index).ok().flatten().map(|features| features & netdev::RX_TIMESTAMP != 0)
}

/// Receive queues in use now, None when the driver does not say.
pub(crate) fn queues_now(name: &str) -> Option<u32> {
    ethtool::channels(name).map(|(now, _)| now)
}

/// Id of the XDP program attached now.
pub(crate) fn xdp_program(index: u32) -> Option<u32> {
    netlink::link(index).ok()?.xdp_program.filter(|id| *id != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interface(name: &str, kind: Kind) -> Interface {
        Interface {
            name: name.into(),
            index: 1,
            kind,
            link: LinkType::Ethernet,
            mac: None,
            mtu: 1500,
            up: true,
            carrier: true,
            addresses: Vec::new(),
            default_route: false,
            master: None,
            lower: None,
            queues: 1,
            queues_max: 1,
            driver: None,
            speed_mbps: None,
            xdp_program: None,
            strips_vlan: false,
        }
    }

    #[test]
    fn a_host_with_a_card_captures_the_card_once() {
        let mut down = interface("eth1", Kind::Physical);
        down.up = false;
        let plans = pick_among(vec![
            interface("lo", Kind::Loopback),
            interface("eth0", Kind::Physical),
            down,
            interface("br0", Kind::Stacked("bridge".into())),
            interface("veth1", Kind::Veth),
        ]);
        let taken: Vec<_> = plans.iter().filter(|p| p.taken).map(|p| p.interface.name.as_str()).collect();
        assert_eq!(taken, ["eth0"]);
        assert!(plans.iter().all(|plan| plan.reason.len() > 10));
    }

    #[test]
    fn a_container_captures_its_pair() {
        let plans = pick_among(vec![interface("lo", Kind::Loopback), interface("eth0", Kind::Veth)]);
        assert!(!plans[0].taken && plans[1].taken);
    }

    #[test]
    fn link_local_addresses_do_not_make_a_host_nic() {
        let mut tap = interface("tap", Kind::Physical);
        tap.addresses = vec!["fe80::1".parse().unwrap()];
        assert_eq!(tap.host_address(), None);
        tap.addresses.push("2001:db8::1".parse().unwrap());
        assert!(tap.host_address().is_some());
    }

    #[test]
    fn lo_is_described_and_a_wrong_name_lists_the_right_ones() {
        let lo = describe("lo").unwrap();
        assert!(lo.is_loopback() && lo.link == LinkType::Ethernet);
        let error = describe("no-such-nic").unwrap_err().to_string();
        assert!(error.contains("lo"), "{error}");
    }
}
