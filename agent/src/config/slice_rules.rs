//! The words of slice rules (`packet 128B`, `tcp`, `10.0.0.0/8`), read into what the slicer goes by.

use gnomon_daemon::config::{ByteSize, ConfigError};

use super::{RuleConfig, SlicesConfig};
use crate::rules::{Cidr, Keep, SlicePolicy, SliceRule};

impl SlicesConfig {
    /// The rules as the engine has them.
    ///
    /// # Errors
    /// With the key of what does not parse.
    pub fn policy(&self) -> Result<SlicePolicy, ConfigError> {
        let keep = |key: &str, text: &str| parse_keep(text).ok_or_else(|| bad_keep(key, text));
        let rule = |(at, rule): (usize, &RuleConfig)| {
            let key = format!("slices.rules[{at}]");
            let protocols = rule.protocols.iter().map(|text| {
                parse_protocol(text).ok_or_else(|| {
                    let message = format!(
                        "{text:?} is no IP protocol; write a name like \"tcp\" or a number up to 255"
                    );
                    ConfigError::invalid(&format!("{key}.protocols"), message)
                })
            });
            let networks = rule.networks.iter().map(|text| {
                parse_cidr(text).ok_or_else(|| {
                    let message =
                        format!("{text:?} is no network; write it like \"10.0.0.0/8\" or \"2001:db8::/32\"");
                    ConfigError::invalid(&format!("{key}.networks"), message)
                })
            });
            Ok(SliceRule {
                keep: keep(&format!("{key}.keep"), &rule.keep)?,
                protocols: protocols.collect::<Result<_, _>>()?,
                ports: rule.ports.clone(),
                networks: networks.collect::<Result<_, _>>()?,
            })
        };
        let rules: Result<Vec<SliceRule>, ConfigError> = self.rules.iter().enumerate().map(rule).collect();
        Ok(SlicePolicy { rules: rules?, otherwise: keep("slices.keep", &self.keep)? })
    }
}

fn bad_keep(key: &str, text: &str) -> ConfigError {
    let allowed = r#""all", "nothing", "headers", "packet 128B" or "flow 64KiB" (1B to 1GiB)"#;
    ConfigError::out_of_range(key, text, allowed)
}

fn parse_keep(text: &str) -> Option<Keep> {
    let bytes = |text: &str| {
        let size: ByteSize = text.trim().parse().ok()?;
        u32::try_from(size.bytes()).ok().filter(|bytes| (1..=1 << 30).contains(bytes))
    };
    match text.trim().split_once(' ') {
        None => match text.trim() {
            "all" => Some(Keep::All),
            "nothing" => Some(Keep::Nothing),
            "headers" => Some(Keep::Headers),
            _ => None,
        },
        Some(("packet", size)) => bytes(size).map(Keep::OfPacket),
        Some(("flow", size)) => bytes(size).map(Keep::OfFlow),
        Some(_) => None,
    }
}

fn parse_protocol(text: &str) -> Option<u8> {
    let by_name = gnomon_flow::field::PROTOCOL_NAMES.iter().find(|(_, name)| *name == text);
    by_name.map(|(number, _)| *number).or_else(|| text.parse().ok())
}

fn parse_cidr(text: &str) -> Option<Cidr> {
    let (address, prefix) = match text.split_once('/') {
        Some((address, prefix)) => {
            (address.parse::<std::net::IpAddr>().ok()?, Some(prefix.parse::<u8>().ok()?))
        }
        None => (text.parse().ok()?, None),
    };
    let bits = if address.is_ipv4() { 32 } else { 128 };
    Some(Cidr { address, prefix: prefix.unwrap_or(bits) }).filter(|cidr| cidr.prefix <= bits)
}
