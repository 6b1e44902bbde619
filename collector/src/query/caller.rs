//! Who asks. Places and memory for questions are shared fairly between callers.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

/// One caller, however many connections it has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum Caller {
    /// Nothing is known of it; all of these together are one caller.
    #[default]
    Unknown,
    /// An IPv4 address, or the /64 network of an IPv6 address: a host has as many addresses of it as it likes.
    Address(IpAddr),
    /// The name of a certificate or of a local user.
    Named(Arc<str>),
}

impl Caller {
    #[must_use]
    pub fn at(address: IpAddr) -> Caller {
        Caller::Address(match address.to_canonical() {
            IpAddr::V6(address) if !address.is_loopback() => {
                Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into()
            }
            other => other,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_one_caller() {
        let at = |text: &str| Caller::at(text.parse().unwrap());
        assert_eq!(at("2001:db8::1"), at("2001:db8::ffff:2"));
        assert_ne!(at("2001:db8::1"), at("2001:db8:0:1::1"));
        assert_eq!(at("::ffff:192.0.2.1"), at("192.0.2.1"));
        assert_ne!(at("192.0.2.1"), at("192.0.2.2"));
    }
}
