//! Alerts to and from the wire.

use std::net::IpAddr;

use gnomon_clock::RawNs;
use gnomon_flow::{Alert, Pair};

use crate::v1;
use crate::wire::{WireError, array, narrow};

impl From<&Alert> for v1::Alert {
    fn from(alert: &Alert) -> v1::Alert {
        let bytes = |ip: IpAddr| match ip {
            IpAddr::V4(ip) => ip.octets().to_vec(),
            IpAddr::V6(ip) => ip.octets().to_vec(),
        };
        let [(src, src_port), (dst, dst_port)] = alert.pair.ends;
        v1::Alert {
            raw_ns: alert.at.0,
            read_raw_ns: alert.read.0,
            said_unix_ns: alert.said_unix_ns,
            community_id: alert.community_id.clone(),
            protocol: u32::from(alert.pair.protocol),
            src_address: bytes(src),
            dst_address: bytes(dst),
            src_port: u32::from(src_port),
            dst_port: u32::from(dst_port),
            signature: alert.signature.clone(),
            signature_id: alert.signature_id,
            gid: alert.gid,
            revision: alert.revision,
            severity: alert.severity,
            category: alert.category.clone(),
            action: alert.action.clone(),
            flow: alert.flow,
        }
    }
}

fn ip(field: &'static str, bytes: &[u8]) -> Result<IpAddr, WireError> {
    if bytes.len() == 4 {
        return Ok(IpAddr::from(array::<4>(field, bytes)?));
    }
    Ok(IpAddr::from(array::<16>(field, bytes)?))
}

impl TryFrom<v1::Alert> for Alert {
    type Error = WireError;

    /// Texts that are longer than alerts have them are cut.
    fn try_from(wire: v1::Alert) -> Result<Alert, WireError> {
        if wire.community_id.len() > Alert::COMMUNITY_ID_BYTES_MAX {
            let problem = format!("{} bytes, at most 64", wire.community_id.len());
            return Err(WireError::new("alert.community_id", problem));
        }
        let src = ip("alert.src_address", &wire.src_address)?;
        let dst = ip("alert.dst_address", &wire.dst_address)?;
        let src_port = narrow("alert.src_port", wire.src_port)?;
        let dst_port = narrow("alert.dst_port", wire.dst_port)?;
        Ok(Alert {
            at: RawNs(wire.raw_ns),
            read: RawNs(wire.read_raw_ns),
            said_unix_ns: wire.said_unix_ns,
            community_id: wire.community_id,
            pair: Pair::new(narrow("alert.protocol", wire.protocol)?, (src, src_port), (dst, dst_port)),
            signature: Alert::clip(wire.signature),
            signature_id: wire.signature_id,
            gid: wire.gid,
            revision: wire.revision,
            severity: wire.severity,
            category: Alert::clip(wire.category),
            action: Alert::clip(wire.action),
            flow: wire.flow,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn an_alert_survives_the_wire(
            times: (u64, u64, i64), numbers: (u64, u64, u64, u64, u64), ends: ((IpAddr, u16), (IpAddr, u16)), protocol: u8,
            texts in prop::array::uniform3("[^ab]{0,40}"), community_id in "[0-9A-Za-z:+/=]{0,64}",
        ) {
            let [signature, category, action] = texts;
            let alert = Alert {
                at: RawNs(times.0), read: RawNs(times.1), said_unix_ns: times.2, community_id,
                pair: Pair::new(protocol, ends.0, ends.1), signature, signature_id: numbers.0, gid: numbers.1,
                revision: numbers.2, severity: numbers.3, category, action, flow: numbers.4,
            };
            prop_assert_eq!(Alert::try_from(v1::Alert::from(&alert)), Ok(alert));
        }
    }

    #[test]
    fn an_alert_that_means_nothing_is_refused_with_the_field() {
        let good = v1::Alert { src_address: vec![1; 4], dst_address: vec![2; 16], ..v1::Alert::default() };
        assert!(Alert::try_from(good.clone()).is_ok());
        let refused = |wire: v1::Alert| Alert::try_from(wire).map_err(|error| error.field).err();
        assert_eq!(refused(v1::Alert { src_address: vec![1; 6], ..good.clone() }), Some("alert.src_address"));
        assert_eq!(refused(v1::Alert { protocol: 256, ..good.clone() }), Some("alert.protocol"));
        let long = "x".repeat(65);
        assert_eq!(refused(v1::Alert { community_id: long, ..good }), Some("alert.community_id"));
    }
}
