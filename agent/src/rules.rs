//! How much of which packets is kept: a short list of rules, the first that matches decides, once a flow.

use std::net::IpAddr;

use gnomon_flow::FlowKey;

/// What is kept of a flow's packets. The length on the wire is kept with every packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Keep {
    Nothing,
    /// Layers 2 to 4, no payload.
    Headers,
    /// The first so many bytes of each packet.
    OfPacket(u32),
    /// Packets until so many bytes of the flow are kept, the last one cut.
    OfFlow(u32),
    #[default]
    All,
}

/// An address range, as 10.0.0.0/8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    pub address: IpAddr,
    /// Bits from the left that count; more than the address has count as all.
    pub prefix: u8,
}

impl Cidr {
    pub fn contains(&self, ip: IpAddr) -> bool {
        match (self.address, ip) {
            (IpAddr::V4(range), IpAddr::V4(ip)) => {
                let differs = u32::from(range) ^ u32::from(ip);
                differs.leading_zeros() >= u32::from(self.prefix).min(32)
            }
            (IpAddr::V6(range), IpAddr::V6(ip)) => {
                let differs = u128::from(range) ^ u128::from(ip);
                differs.leading_zeros() >= u32::from(self.prefix).min(128)
            }
            _ => false,
        }
    }
}

/// Every condition that is given must hold; one without conditions matches every flow.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SliceRule {
    /// IP protocol numbers; empty: any.
    pub protocols: Vec<u8>,
    /// Ports of either end; empty: any.
    pub ports: Vec<u16>,
    /// Ranges that either end is in; empty: any.
    pub networks: Vec<Cidr>,
    pub keep: Keep,
}

impl SliceRule {
    fn matches(&self, key: &FlowKey) -> bool {
        let ips = || [key.orig_ip(), key.resp_ip()].into_iter().flatten();
        let is_ip = key.orig_ip().is_some();
        (self.protocols.is_empty() || (is_ip && self.protocols.contains(&key.protocol)))
            && (self.ports.is_empty()
                || (key.has_ports()
                    && (self.ports.contains(&key.orig_port) || self.ports.contains(&key.resp_port))))
            && (self.networks.is_empty()
                || ips().any(|ip| self.networks.iter().any(|range| range.contains(ip))))
    }
}

/// The rules in order, and what holds for flows that none matches.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SlicePolicy {
    pub rules: Vec<SliceRule>,
    pub otherwise: Keep,
}

impl SlicePolicy {
    pub fn decide(&self, key: &FlowKey) -> Keep {
        self.rules.iter().find(|rule| rule.matches(key)).map_or(self.otherwise, |rule| rule.keep)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::{decode, example};

    fn key(data: &[u8]) -> FlowKey {
        decode(&example::frame(data)).key
    }

    #[test]
    fn the_first_rule_of_which_everything_holds_decides() {
        let policy = SlicePolicy {
            rules: vec![
                SliceRule {
                    protocols: vec![6],
                    ports: vec![443],
                    keep: Keep::Headers,
                    ..SliceRule::default()
                },
                SliceRule { ports: vec![53], keep: Keep::OfPacket(128), ..SliceRule::default() },
                SliceRule {
                    networks: vec![Cidr { address: IpAddr::from([192, 0, 2, 0]), prefix: 24 }],
                    keep: Keep::OfFlow(1000),
                    ..SliceRule::default()
                },
                SliceRule { protocols: vec![6], keep: Keep::Nothing, ..SliceRule::default() },
            ],
            otherwise: Keep::All,
        };
        // To 192.0.2.7 port 80, over IPv4 and IPv6.
        assert_eq!(policy.decide(&key(&example::tcp_v4())), Keep::OfFlow(1000));
        assert_eq!(policy.decide(&key(&example::tcp_v6())), Keep::Nothing);
        assert_eq!(policy.decide(&key(&example::udp_v6())), Keep::OfPacket(128));
        assert_eq!(policy.decide(&key(&example::arp())), Keep::All);
        assert_eq!(SlicePolicy::default().decide(&key(&example::tcp_v4())), Keep::All);
    }

    #[test]
    fn ranges_hold_their_addresses_only() {
        let range = |address: &str, prefix| Cidr { address: address.parse().unwrap(), prefix };
        for (range, ip, inside) in [
            (range("10.0.0.0", 8), "10.255.0.1", true),
            (range("10.0.0.0", 8), "11.0.0.1", false),
            (range("0.0.0.0", 0), "203.0.113.9", true),
            (range("0.0.0.0", 0), "::1", false),
            (range("10.0.0.1", 200), "10.0.0.1", true),
            (range("2001:db8::", 32), "2001:db8:1::1", true),
            (range("2001:db8::", 32), "2001:db9::", false),
            (range("::", 0), "ff02::1", true),
        ] {
            assert_eq!(range.contains(ip.parse().unwrap()), inside, "{ip} in {range:?}");
        }
    }
}
