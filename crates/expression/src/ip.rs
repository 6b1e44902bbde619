//! Addresses as people write them: whole, with CIDR, in short forms, with a port.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A network, a port, or both. At least one is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IpTerm {
    pub network: Option<Network>,
    pub port: Option<u16>,
}

/// An address block; a whole address has the longest prefix. Bits beyond the prefix are 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    base: IpAddr,
    prefix_len: u8,
}

impl Network {
    /// The block of `prefix_len` bits that `address` is in; `None` when the prefix is longer than the address.
    pub fn new(address: IpAddr, prefix_len: u8) -> Option<Network> {
        let base = match address {
            IpAddr::V4(v4) => {
                let shift = 32u32.checked_sub(u32::from(prefix_len))?;
                IpAddr::from((v4.to_bits() & u32::MAX.checked_shl(shift).unwrap_or(0)).to_be_bytes())
            }
            IpAddr::V6(v6) => {
                let shift = 128u32.checked_sub(u32::from(prefix_len))?;
                IpAddr::from((v6.to_bits() & u128::MAX.checked_shl(shift).unwrap_or(0)).to_be_bytes())
            }
        };
        Some(Network { base, prefix_len })
    }

    /// The first and the last address.
    pub fn bounds(self) -> (IpAddr, IpAddr) {
        let last = match self.base {
            IpAddr::V4(v4) => {
                let host = u32::MAX.checked_shr(u32::from(self.prefix_len)).unwrap_or(0);
                IpAddr::from((v4.to_bits() | host).to_be_bytes())
            }
            IpAddr::V6(v6) => {
                let host = u128::MAX.checked_shr(u32::from(self.prefix_len)).unwrap_or(0);
                IpAddr::from((v6.to_bits() | host).to_be_bytes())
            }
        };
        (self.base, last)
    }
}

/// Why a word is no address, in words that follow it.
pub(super) type Problem = String;

impl IpTerm {
    /// `10.1.2.3`, `10.0.0.0/8`, `10.1` (10.1.0.0/16), `10.1:443`, `:443`, `2001:db8::/32`, `1::2.443`, `.443`, `ipv4`,
    /// `ipv6`. The short forms and the ports are Arkime's: an IPv6 address is followed by `.port`.
    pub(super) fn parse(word: &str) -> Result<IpTerm, Problem> {
        let network =
            |address: IpAddr, prefix_len| IpTerm { network: Network::new(address, prefix_len), port: None };
        match word.to_ascii_lowercase().as_str() {
            "ipv4" => return Ok(network(Ipv4Addr::UNSPECIFIED.into(), 0)),
            "ipv6" => return Ok(network(Ipv6Addr::UNSPECIFIED.into(), 0)),
            _ => {}
        }
        let port_alone = match word.strip_prefix(':') {
            Some(rest) if !rest.starts_with(':') => Some(rest),
            _ => word.strip_prefix('.'),
        };
        if let Some(port) = port_alone {
            return Ok(IpTerm { network: None, port: Some(parse_port(port)?) });
        }
        if word.matches(':').count() > 1 { parse_v6(word) } else { parse_v4(word) }
    }
}

fn parse_port(text: &str) -> Result<u16, Problem> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|_| digits).ok_or_else(|| format!("has no port from 0 to 65535 but {text:?}"))
}

fn parse_prefix(text: &str, bits: u8) -> Result<u8, Problem> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let prefix_len = text.parse().ok().filter(|prefix_len| digits && *prefix_len <= bits);
    prefix_len.ok_or_else(|| format!("has no prefix length from 0 to {bits} but {text:?}"))
}

fn parse_v4(word: &str) -> Result<IpTerm, Problem> {
    let (address, port) = match word.split_once(':') {
        Some((address, port)) => (address, Some(parse_port(port)?)),
        None => (word, None),
    };
    let (address, prefix) = match address.split_once('/') {
        Some((address, prefix)) => (address, Some(parse_prefix(prefix, 32)?)),
        None => (address, None),
    };
    let mut octets = [0u8; 4];
    let mut given = 0u8;
    for part in address.strip_suffix('.').unwrap_or(address).split('.') {
        let octet = part.parse().ok().filter(|_| part.bytes().all(|b| b.is_ascii_digit()) && part.len() <= 3);
        match (octets.get_mut(usize::from(given)), octet) {
            (Some(slot), Some(octet)) => *slot = octet,
            (None, _) => return Err("has more than four parts".to_owned()),
            (_, None) => return Err("is not an address".to_owned()),
        }
        given += 1;
    }
    let network = Network::new(IpAddr::from(octets), prefix.unwrap_or(given * 8));
    Ok(IpTerm { network, port })
}

fn parse_v6(word: &str) -> Result<IpTerm, Problem> {
    let (address, prefix, port) = match word.split_once('/') {
        Some((address, rest)) => {
            let (prefix, port) = rest.split_once('.').map_or((rest, None), |(p, port)| (p, Some(port)));
            (address, Some(parse_prefix(prefix, 128)?), port)
        }
        // 1::ffff:10.0.0.1 has dots of its own.
        None if word.parse::<Ipv6Addr>().is_ok() => (word, None, None),
        None => match word.rsplit_once('.') {
            Some((address, port)) => (address, None, Some(port)),
            None => (word, None, None),
        },
    };
    let port = port.map(parse_port).transpose()?;
    let (address, given) = match address.parse::<Ipv6Addr>() {
        Ok(address) => (address, 128),
        Err(_) => {
            // Fewer than eight groups and no `::` are the beginning of a network.
            let groups = address.strip_suffix(':').unwrap_or(address);
            let count = u8::try_from(groups.split(':').count()).unwrap_or(u8::MAX);
            let padded = (count < 8 && !groups.contains("::")).then(|| format!("{groups}::"));
            let parsed = padded.and_then(|text| text.parse::<Ipv6Addr>().ok());
            (parsed.ok_or("is not an address")?, count.saturating_mul(16))
        }
    };
    Ok(IpTerm { network: Network::new(address.into(), prefix.unwrap_or(given)), port })
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.base {
            IpAddr::V4(v4) if self.prefix_len == 32 => write!(f, "{v4}"),
            IpAddr::V4(v4) => write!(f, "{v4}/{}", self.prefix_len),
            IpAddr::V6(v6) => {
                let text = v6.to_string();
                if text.contains('.') {
                    // The dotted form of a mapped address would be taken for a port.
                    let groups = v6.segments().map(|group| format!("{group:x}"));
                    f.write_str(&groups.join(":"))?;
                } else {
                    f.write_str(&text)?;
                }
                if self.prefix_len == 128 { Ok(()) } else { write!(f, "/{}", self.prefix_len) }
            }
        }
    }
}

impl fmt::Display for IpTerm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let v6 = self.network.is_some_and(|network| network.base.is_ipv6());
        if let Some(network) = self.network {
            write!(f, "{network}")?;
        }
        match self.port {
            Some(port) if v6 => write!(f, ".{port}"),
            Some(port) => write!(f, ":{port}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_means_its_block() {
        for (word, canonical, first, last) in [
            ("10.1.2.3", "10.1.2.3", "10.1.2.3", "10.1.2.3"),
            ("10.1.2.3/8", "10.0.0.0/8", "10.0.0.0", "10.255.255.255"),
            ("10.1", "10.1.0.0/16", "10.1.0.0", "10.1.255.255"),
            ("10.", "10.0.0.0/8", "10.0.0.0", "10.255.255.255"),
            ("10", "10.0.0.0/8", "10.0.0.0", "10.255.255.255"),
            ("192.168.7", "192.168.7.0/24", "192.168.7.0", "192.168.7.255"),
            ("10.1/20", "10.1.0.0/20", "10.1.0.0", "10.1.15.255"),
            ("ipv4", "0.0.0.0/0", "0.0.0.0", "255.255.255.255"),
            ("::1", "::1", "::1", "::1"),
            ("2001:db8::/32", "2001:db8::/32", "2001:db8::", "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff"),
            ("2001:db8:", "2001:db8::/32", "2001:db8::", "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff"),
            ("1:2:3", "1:2:3::/48", "1:2:3::", "1:2:3:ffff:ffff:ffff:ffff:ffff"),
            ("::ffff:10.0.0.1", "0:0:0:0:0:ffff:a00:1", "::ffff:10.0.0.1", "::ffff:10.0.0.1"),
            ("::/0", "::/0", "::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
        ] {
            let term = IpTerm::parse(word).expect(word);
            assert_eq!(term.to_string(), canonical, "{word}");
            let bounds = term.network.map(Network::bounds);
            assert_eq!(bounds, Some((first.parse().expect(first), last.parse().expect(last))), "{word}");
            assert_eq!(IpTerm::parse(canonical), Ok(term));
        }
    }

    #[test]
    fn ports_follow_by_colon_or_dot() {
        for (word, canonical) in [
            ("10.1:443", "10.1.0.0/16:443"),
            ("10.0.0.0/8:80", "10.0.0.0/8:80"),
            (":80", ":80"),
            (".80", ":80"),
            ("1::2.80", "1::2.80"),
            ("1::2/16.80", "1::/16.80"),
            ("::1.0", "::1.0"),
        ] {
            let term = IpTerm::parse(word).expect(word);
            assert_eq!(term.to_string(), canonical, "{word}");
            assert_eq!(IpTerm::parse(canonical), Ok(term));
        }
    }

    #[test]
    fn what_is_no_address_says_why() {
        for (word, part) in [
            ("10.1.2.3.4", "four parts"),
            ("10.256", "not an address"),
            ("+1.2.3.4", "not an address"),
            ("", "not an address"),
            ("10..1", "not an address"),
            ("example.org", "not an address"),
            ("10.0.0.0/33", "0 to 32"),
            ("10.0.0.0/", "0 to 32"),
            ("10.0.0.1:70000", "65535"),
            ("10.0.0.1:+1", "65535"),
            ("1:2:3:4:5:6:7:8:9", "not an address"),
            ("::1/129", "0 to 128"),
            (":::", "not an address"),
        ] {
            let problem = IpTerm::parse(word).expect_err(word);
            assert!(problem.contains(part), "{word}: {problem}");
        }
    }
}
